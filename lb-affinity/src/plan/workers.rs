//! Which CPUs run workers, and which do network work.

use std::cmp::Reverse;

use super::sites::{Site, Sites};
use crate::CpuSet;

/// The most workers that one network CPU serves.
const MOST_WORKERS: usize = 3;

/// A CPU that may be given work. Those that hold a fixed interrupt are none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) site: Site,
    /// How many CPUs of its core come before it: work on a core that is busy is worth less.
    rank: usize,
    /// Its core holds a fixed interrupt: the last of its rank.
    beside_interrupt: bool,
    /// Isolated: the kernel would not let it do network work.
    worker_only: bool,
}

/// What the placement of workers starts from.
pub(super) struct Pool<'a> {
    pub(super) sites: &'a Sites<'a>,
    pub(super) candidates: Vec<Candidate>,
    /// The CPUs that may do network work.
    usable: CpuSet,
    /// The CPUs of interrupts that stay where they are, each once.
    pub(super) fixed: Vec<u32>,
    /// Those of them that workers may be on.
    shared: Vec<u32>,
    /// How many interrupts can be moved.
    pub(super) movable: usize,
    /// Whether there is a network side at all.
    pub(super) network: bool,
    /// The node of the interrupt, or of the NIC.
    pub(super) anchor: usize,
}

/// Where the work goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// One CPU for each worker, as far as they reach; by number.
    pub(super) workers: Vec<u32>,
    /// The CPUs with network work: those of fixed interrupts first, then the nearest to them.
    pub(super) network: Vec<u32>,
    /// The network side would be too small by itself: all CPUs do its work, those of workers too.
    pub(super) everywhere: bool,
}

impl<'a> Pool<'a> {
    pub(super) fn new(sites: &'a Sites<'a>, workers: &CpuSet, network: &CpuSet, fixed: Vec<u32>) -> Self {
        let mut busy = vec![0; sites.topology.cores().len()];
        for site in fixed.iter().filter_map(|&cpu| sites.get(cpu)) {
            busy[site.core] += 1;
        }
        let interrupted = busy.clone();
        let taken: CpuSet = fixed.iter().copied().collect();
        let (free, shared) = (workers - &taken, fixed.iter().copied().filter(|&cpu| workers.contains(cpu)));
        let shared = shared.collect();
        let candidates = sites.of(&free).map(|&site| {
            let rank = busy[site.core];
            busy[site.core] += 1;
            let beside_interrupt = interrupted[site.core] > 0;
            Candidate { site, rank, beside_interrupt, worker_only: !network.contains(site.cpu) }
        });
        let candidates = candidates.collect();
        Self {
            sites,
            candidates,
            usable: network.clone(),
            fixed,
            shared,
            movable: 0,
            network: true,
            anchor: 0,
        }
    }

    /// As [`Strategy::Balanced`](super::Strategy::Balanced). Without a number of workers, as many as cores allow.
    pub(super) fn balanced(&self, workers: Option<usize>) -> Placement {
        if !self.network {
            return self.compact(workers);
        }
        let deepest = self.candidates.iter().map(|candidate| candidate.rank).max().unwrap_or(0);
        for rank in 0..=deepest {
            let (nodes, pairs) = self.by_node(rank);
            let total = pairs.iter().sum::<usize>();
            let wanted = workers.unwrap_or(total);
            if total >= wanted && wanted > 0 {
                return self.in_pairs(nodes, &pairs, wanted);
            }
            if workers.is_none() && total > 0 {
                break;
            }
        }
        self.crowded(workers.unwrap_or(1))
    }

    /// How many workers have a core each beside as many network CPUs.
    pub(super) fn most_balanced(&self) -> usize {
        let (mut all, mut usable) = (vec![0; self.sites.nodes.len()], vec![0; self.sites.nodes.len()]);
        for one in self.candidates.iter().filter(|one| one.rank == 0) {
            all[one.site.node] += 1;
            usable[one.site.node] += usize::from(!one.worker_only);
        }
        let fixed = self.fixed_by(|site| site.node, all.len());
        let nodes = all.into_iter().zip(usable).zip(fixed);
        nodes.map(|((all, usable), fixed)| pairs_of(all, usable, fixed)).sum()
    }

    /// Without a network side: as few nodes as possible, from the anchor on.
    fn compact(&self, workers: Option<usize>) -> Placement {
        let order = self.nearest_first();
        let wanted = workers.unwrap_or_else(|| order.iter().filter(|one| one.rank == 0).count());
        finish(order.iter().take(wanted.max(1)).map(|one| one.site.cpu).collect(), Vec::new())
    }

    /// The candidates of each node up to a rank, and how many pairs of a worker and a network CPU it holds.
    fn by_node(&self, rank: usize) -> (Vec<Vec<Candidate>>, Vec<usize>) {
        let mut nodes = vec![Vec::new(); self.sites.nodes.len()];
        for candidate in self.candidates.iter().filter(|candidate| candidate.rank <= rank) {
            nodes[candidate.site.node].push(*candidate);
        }
        let fixed = self.fixed_by(|site| site.node, nodes.len());
        let pairs = nodes.iter().zip(fixed).map(|(candidates, fixed)| pairs(candidates, fixed)).collect();
        (nodes, pairs)
    }

    fn fixed_by(&self, key: impl Fn(&Site) -> usize, count: usize) -> Vec<usize> {
        let mut fixed = vec![0; count];
        for site in self.fixed.iter().filter_map(|&cpu| self.sites.get(cpu)) {
            fixed[key(site)] += 1;
        }
        fixed
    }

    fn in_pairs(&self, mut nodes: Vec<Vec<Candidate>>, pairs: &[usize], wanted: usize) -> Placement {
        let fixed = self.fixed_by(|site| site.node, nodes.len());
        let caches = self.sites.topology.caches().len() + nodes.len();
        let fixed_caches = self.fixed_by(|site| site.cache, caches);
        let mut placement = Placement { network: self.fixed.clone(), ..Placement::default() };
        let mut left = wanted;
        for node in self.fewest_nodes(pairs, &fixed, wanted) {
            let count = pairs[node].min(left);
            left -= count;
            let candidates = std::mem::take(&mut nodes[node]);
            fill_node(candidates, count, fixed[node], &fixed_caches, &mut placement);
        }
        finish(placement.workers, placement.network)
    }

    /// The nodes to use: those of the interrupts, then the nearest of those sets that are as small as can be.
    fn fewest_nodes(&self, pairs: &[usize], fixed: &[usize], wanted: usize) -> Vec<usize> {
        let mut nearest = self.sites.nearest(self.anchor);
        nearest.retain(|&node| pairs[node] > 0);
        let (mut chosen, mut left) = (Vec::new(), wanted);
        let first = |node: &usize| fixed[*node] > 0 || *node == self.anchor;
        for node in nearest.extract_if(.., |node| first(node)) {
            if left > 0 {
                chosen.push(node);
                left = left.saturating_sub(pairs[node]);
            }
        }
        let mut sizes: Vec<usize> = nearest.iter().map(|&node| pairs[node]).collect();
        sizes.sort_unstable_by_key(|&size| Reverse(size));
        while left > 0 && !nearest.is_empty() {
            let (mut count, mut largest) = (0, 0);
            while largest < left && count < sizes.len() {
                largest += sizes[count];
                count += 1;
            }
            // A node is good if the largest others of the smallest set hold what it does not.
            let good = |size: usize| {
                let spared = if count > 1 && size < sizes[count - 2] { sizes[count - 1] } else { size };
                largest - spared + size >= left
            };
            let at = nearest.iter().position(|&node| good(pairs[node])).unwrap_or(0);
            let node = nearest.remove(at);
            sizes.remove(sizes.partition_point(|&size| size > pairs[node]));
            chosen.push(node);
            left = left.saturating_sub(pairs[node]);
        }
        chosen
    }

    /// Fewer CPUs than two for each worker: workers first, and each node keeps its share of what is left for the network; if that is
    /// too little, it has all.
    fn crowded(&self, wanted: usize) -> Placement {
        let total = self.candidates.len();
        // Three workers for a network CPU were measured to do well. With two workers on two CPUs, to keep one for the network took
        // a fifth of the requests.
        let seats = wanted.min(total);
        let beside = self.fixed.len() + total - seats;
        let all = total + self.shared.len();
        if all > 1 && (wanted >= all || MOST_WORKERS * beside < seats) {
            return self.everywhere(wanted);
        }
        let usable = self.candidates.iter().filter(|one| !one.worker_only).count();
        // Some CPU has to do network work; workers keep the last one.
        let least = usize::from(self.fixed.is_empty()).min(usable).min(total.saturating_sub(1));
        let spare = total.saturating_sub(wanted).clamp(least, usable.max(least));
        let fixed = self.fixed_by(|site| site.node, self.sites.nodes.len());
        let (mut workers, mut network) = (Vec::new(), self.fixed.clone());
        let (mut network_left, mut weight_left) = (spare + self.fixed.len(), usable + self.fixed.len());
        let mut nodes = vec![Vec::new(); self.sites.nodes.len()];
        for candidate in &self.candidates {
            nodes[candidate.site.node].push(*candidate);
        }
        for node in self.sites.nearest(self.anchor) {
            let mut here = std::mem::take(&mut nodes[node]);
            let weight = here.iter().filter(|one| !one.worker_only).count() + fixed[node];
            if weight > 0 {
                // Rounded up, so that the nearest nodes take what does not divide.
                let share = (network_left * weight).div_ceil(weight_left).saturating_sub(fixed[node]);
                let most = self.fixed.len() + spare - network.len();
                let share = share.min(most);
                weight_left -= weight;
                here.sort_by_key(Candidate::order);
                let before = network.len();
                while network.len() < before + share {
                    let Some(last) = here.iter().rposition(|one| !one.worker_only) else { break };
                    network.push(here.remove(last).site.cpu);
                }
                network_left = network_left.saturating_sub(network.len() - before + fixed[node]);
            }
            workers.extend(here.iter().map(|one| one.site.cpu));
        }
        self.or_shared(workers, network)
    }

    /// So many workers that the network side would be too small: all CPUs do its work, those of the workers too.
    fn everywhere(&self, wanted: usize) -> Placement {
        let order = self.nearest_first();
        let workers = order.iter().map(|one| one.site.cpu).chain(self.shared.iter().copied());
        let usable = self.candidates.iter().filter(|one| !one.worker_only).map(|one| one.site.cpu);
        let network = self.fixed.iter().copied().chain(usable).collect();
        Placement { everywhere: true, ..finish(workers.take(wanted).collect(), network) }
    }

    /// As [`Strategy::SameNode`](super::Strategy::SameNode), with `beside` CPUs for protocol work beside the interrupt's.
    pub(super) fn same_node(&self, workers: Option<usize>, beside: usize) -> Placement {
        let mut order = self.nearest_first();
        let beside = if self.network { beside } else { 0 };
        let here = order.iter().filter(|one| one.site.node == self.anchor && !one.worker_only).count();
        let interrupts = if !self.network || self.movable == 0 {
            0
        } else {
            here.saturating_sub(workers.unwrap_or(here)).saturating_sub(beside).clamp(1, self.movable)
        };
        let mut network = self.fixed.clone();
        for _ in 0..(interrupts + beside).min(order.len().saturating_sub(1)) {
            // The last core of the nearest node that has one to give.
            let usable = |one: &Candidate| !one.worker_only;
            let Some(node) = order.iter().find(|one| usable(one)).map(|one| one.site.node) else { break };
            let from = |one: &Candidate| usable(one) && one.site.node == node;
            let core = order.iter().rposition(|one| from(one) && one.rank == 0);
            if let Some(at) = core.or_else(|| order.iter().rposition(from)) {
                network.push(order.remove(at).site.cpu);
            }
        }
        let wanted = workers.unwrap_or_else(|| {
            order.iter().filter(|one| one.site.node == self.anchor && one.rank == 0).count().max(1)
        });
        self.or_shared(order.iter().take(wanted).map(|one| one.site.cpu).collect(), network)
    }

    /// As [`Strategy::NetworkOnOneNode`](super::Strategy::NetworkOnOneNode); `None` on a machine with one node.
    pub(super) fn network_on_one_node(&self, workers: Option<usize>) -> Option<Placement> {
        let order = self.nearest_first();
        let (mut here, others): (Vec<Candidate>, Vec<Candidate>) =
            order.into_iter().partition(|one| one.site.node == self.anchor);
        let next = others.first()?.site.node;
        let wanted = workers
            .unwrap_or_else(|| others.iter().filter(|one| one.site.node == next && one.rank == 0).count());
        let mut workers: Vec<u32> = others.iter().take(wanted.max(1)).map(|one| one.site.cpu).collect();
        // What the other nodes have no CPU for, this one has, but for its first network CPU: isolated ones, then the last.
        let keep = usize::from(self.fixed.is_empty());
        while workers.len() < wanted {
            let isolated = here.iter().position(|one| one.worker_only);
            let last = here.len().checked_sub(1).filter(|_| here.len() > keep);
            let Some(at) = isolated.or(last) else { break };
            workers.push(here.remove(at).site.cpu);
        }
        let mut network = self.fixed.clone();
        network.extend(here.iter().filter(|one| !one.worker_only && one.rank == 0).map(|one| one.site.cpu));
        if network.is_empty() {
            network.extend(here.iter().filter(|one| !one.worker_only).map(|one| one.site.cpu));
        }
        Some(self.or_shared(workers, network))
    }

    /// All candidates: node by node from the anchor on, the interrupt's cache first, whole cores before siblings, fast before
    /// slow.
    pub(super) fn nearest_first(&self) -> Vec<Candidate> {
        let mut place = vec![0; self.sites.nodes.len()];
        for (index, node) in self.sites.nearest(self.anchor).into_iter().enumerate() {
            place[node] = index;
        }
        let cache = self.fixed.first().and_then(|&cpu| self.sites.get(cpu)).map(|site| site.cache);
        let mut order = self.candidates.clone();
        order.sort_by_cached_key(|one| {
            let far = cache.is_some_and(|cache| cache != one.site.cache);
            (place[one.site.node], !one.worker_only, one.rank, far, one.order())
        });
        order
    }

    /// Where there is no CPU for workers alone, they share the interrupts'; where there is none for the network, it shares the
    /// workers'.
    fn or_shared(&self, mut workers: Vec<u32>, mut network: Vec<u32>) -> Placement {
        if workers.is_empty() {
            workers.clone_from(&self.fixed);
        }
        if network.is_empty() && self.network {
            network.extend(workers.iter().rev().find(|&&cpu| self.usable.contains(cpu)));
        }
        finish(workers, network)
    }
}

impl Candidate {
    /// The order in which workers take CPUs: their own ones, whole cores, fast ones.
    fn order(&self) -> (bool, usize, bool, Reverse<u32>, u32) {
        let capacity = Reverse(self.site.capacity);
        (!self.worker_only, self.rank, self.beside_interrupt, capacity, self.site.cpu)
    }
}

fn finish(mut workers: Vec<u32>, network: Vec<u32>) -> Placement {
    workers.sort_unstable();
    Placement { workers, network, everywhere: false }
}

/// Puts `count` workers and as many network CPUs into a node, each worker in the cache of its network CPU where that goes.
/// `fixed` interrupts are in the node already, `fixed_caches` in each cache of the machine.
fn fill_node(
    mut candidates: Vec<Candidate>,
    count: usize,
    fixed: usize,
    fixed_caches: &[usize],
    placement: &mut Placement,
) {
    let Placement { workers, network, .. } = placement;
    let (mut workers_left, mut network_left) = (count, count.saturating_sub(fixed));
    candidates.sort_by_key(|one| (one.site.cache, one.site.cpu));
    let mut caches: Vec<Vec<Candidate>> = candidates
        .chunk_by(|one, other| one.site.cache == other.site.cache)
        .map(<[Candidate]>::to_vec)
        .collect();
    caches.sort_by_cached_key(|cache| {
        let fastest = cache.iter().map(|one| one.site.capacity).max();
        let interrupt = cache.first().is_some_and(|one| fixed_caches[one.site.cache] > 0);
        (!interrupt, Reverse(fastest), cache.first().map(|one| one.site.cpu))
    });
    let mut rest = Vec::new();
    for mut cache in caches {
        let fixed = fixed_caches[cache[0].site.cache];
        let here = pairs(&cache, fixed).min(workers_left);
        let beside = here.saturating_sub(fixed).min(network_left);
        take_workers(&mut cache, here, workers);
        take_network(&mut cache, beside, network);
        workers_left -= here;
        network_left -= beside;
        rest.append(&mut cache);
    }
    take_workers(&mut rest, workers_left, workers);
    take_network(&mut rest, network_left, network);
}

/// How many workers these CPUs hold beside as many network CPUs, `fixed` of which are there already. Where there are more of
/// those than CPUs, each CPU holds a worker.
fn pairs(candidates: &[Candidate], fixed: usize) -> usize {
    let all = candidates.len();
    let usable = candidates.iter().filter(|one| !one.worker_only).count();
    pairs_of(all, usable, fixed)
}

fn pairs_of(all: usize, usable: usize, fixed: usize) -> usize {
    if all <= fixed { all } else { usize::midpoint(all, fixed).min(fixed + usable) }
}

fn take_workers(from: &mut Vec<Candidate>, count: usize, workers: &mut Vec<u32>) {
    from.sort_by_key(Candidate::order);
    workers.extend(from.drain(..count.min(from.len())).map(|one| one.site.cpu));
}

fn take_network(from: &mut Vec<Candidate>, count: usize, network: &mut Vec<u32>) {
    from.sort_by_key(Candidate::order);
    let usable = from.extract_if(.., |one| !one.worker_only);
    network.extend(usable.take(count).map(|one| one.site.cpu));
}
