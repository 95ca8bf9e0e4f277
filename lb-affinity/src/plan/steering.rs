//! Which worker gets the connections of which CPU.
//!
//! Without a word about it the kernel spreads connections by a hash, and most of them reach a worker that is far from the CPU that
//! received them. Here each worker gets as many as any other, but from the CPUs that are near it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Plan;
use super::sites::{Site, Sites};
use crate::socket::Steering;
use crate::{CpuSet, Topology};

/// Units of a queue's packets, at most: where the masks of RPS have no such common multiple, shares are rounded to it.
const UNITS: u64 = 1 << 24;

impl Plan {
    /// The listener of which worker gets the connections that a CPU receives. A socket's index is its worker's number: workers
    /// [listen](Steering) in the order of their numbers.
    ///
    /// Queues have as many packets as each other, and so have the CPUs of an RPS mask. Each worker gets the same number of
    /// connections, from CPUs of its core, its last-level cache, its node, the nearest nodes, as far as these go.
    ///
    /// ```
    /// use lb_affinity::Topology;
    /// use lb_affinity::plan::{Planner, Receive};
    ///
    /// // Workers on 0, 1, 4 and 5; CPUs 2, 3 and 7 receive a third each.
    /// let topology = Topology::from_lscpu(include_str!("../../tests/fixtures/opteron-16.lscpu"))?;
    /// let plan = Planner::new(&topology).receive(Receive::interrupt_on(6)).workers(4).plan()?;
    /// let steering = plan.steering(&topology).expect("there is more than one worker and one CPU");
    /// assert_eq!(steering.sockets(2), [(0, 3), (1, 1)]);
    /// assert_eq!(steering.sockets(7), [(2, 3), (3, 1)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// `None` where the kernel's hash does the same (one worker, or each CPU spreads evenly over all), where RFS takes the packets
    /// to the workers, and where it is not known of a queue which CPUs receive its packets
    /// ([`receivers`](super::QueuePlan::receivers)).
    #[must_use]
    pub fn steering(&self, topology: &Topology) -> Option<Steering> {
        if self.queues.iter().any(|queue| queue.flow_count.is_some_and(|count| count > 0)) {
            return None;
        }
        let sites = Sites::new(topology);
        let packets = self.packets(&sites)?;
        let workers = self.workers.len() as u64;
        // In units of which there are as many as packets times workers, so that each worker can have a whole number of them.
        let of_worker: u64 = packets.values().sum();
        let mut market = Market {
            cpus: packets
                .iter()
                .map(|(&cpu, packets)| Party {
                    place: Place::of(sites.get(cpu).copied()),
                    left: packets * workers,
                })
                .collect(),
            workers: self
                .workers
                .iter()
                .map(|worker| Party { place: Place::common(sites.of(&worker.cpus)), left: of_worker })
                .collect(),
            deals: Vec::new(),
        };
        for level in 0..LEVELS {
            market.meet_within(level);
        }
        market.meet_across(&sites);

        let numbers: Vec<u32> = packets.keys().copied().collect();
        let deal = |&(cpu, worker, units): &(usize, usize, u64)| {
            Some((numbers[cpu], u32::try_from(worker).ok()?, units))
        };
        let steering = Steering::with_shares(market.deals.iter().filter_map(deal));
        let is_even = |cpu: &u32| {
            let sockets = steering.sockets(*cpu);
            sockets.len() == self.workers.len() && sockets.iter().all(|(_, share)| *share == 1)
        };
        (!numbers.iter().all(is_even)).then_some(steering)
    }

    /// How many packets each CPU gets, in units of which each queue has as many; `None` if that is not known.
    fn packets(&self, sites: &Sites<'_>) -> Option<BTreeMap<u32, u64>> {
        let online = sites.topology.online();
        // Most queues of a card have the same CPUs, and these may be all.
        let mut receivers: HashMap<CpuSet, u64> = HashMap::new();
        for queue in &self.queues {
            *receivers.entry(&queue.receivers & online).or_default() += 1;
        }
        if receivers.is_empty() || receivers.keys().any(CpuSet::is_empty) {
            return None;
        }
        // The largest first, which most others divide.
        let sizes: BTreeSet<u64> = receivers.keys().map(|cpus| cpus.len() as u64).collect();
        let units = sizes
            .iter()
            .rev()
            .fold(1, |all, cpus| if all % cpus == 0 { all } else { all.saturating_mul(*cpus).min(UNITS) });
        let mut packets = BTreeMap::new();
        for (cpus, queues) in &receivers {
            let each = units / cpus.len() as u64 * queues;
            for cpu in cpus {
                *packets.entry(cpu).or_insert(0) += each;
            }
        }
        Some(packets)
    }
}

/// The CPU, its core, its last-level cache, its node.
const LEVELS: usize = 4;
const NODE: usize = 3;

/// Where a party is, from near to far; nothing from which level on it is in no one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place([Option<usize>; LEVELS]);

impl Place {
    fn of(site: Option<Site>) -> Self {
        let place = |site: Site| [site.cpu as usize, site.core, site.cache, site.node].map(Some);
        Self(site.map_or([None; LEVELS], place))
    }

    /// What all sites have in common.
    fn common<'a>(mut sites: impl Iterator<Item = &'a Site>) -> Self {
        let first = Self::of(sites.next().copied());
        sites.fold(first, |Self(common), site| {
            let Self(other) = Self::of(Some(*site));
            Self(std::array::from_fn(|level| common[level].filter(|_| common[level] == other[level])))
        })
    }
}

/// A CPU with connections, or a worker that wants some.
#[derive(Debug)]
struct Party {
    place: Place,
    /// Connections without a worker, or wanted still.
    left: u64,
}

#[derive(Debug)]
struct Market {
    cpus: Vec<Party>,
    workers: Vec<Party>,
    /// CPU, worker, connections.
    deals: Vec<(usize, usize, u64)>,
}

impl Market {
    /// Those of the same core, or cache, or node. Within one nobody is nearer than others, so any order serves as many.
    fn meet_within(&mut self, level: usize) {
        let mut groups: HashMap<usize, (Vec<usize>, Vec<usize>)> = HashMap::new();
        for (cpu, party) in waiting(&self.cpus) {
            if let Some(place) = party.place.0[level] {
                groups.entry(place).or_default().0.push(cpu);
            }
        }
        for (worker, party) in waiting(&self.workers) {
            if let Some(group) = party.place.0[level].and_then(|place| groups.get_mut(&place)) {
                group.1.push(worker);
            }
        }
        for (cpus, workers) in groups.values() {
            self.meet(cpus, workers);
        }
    }

    /// Those that are left, the nearest nodes first, and then those that are in no one node.
    fn meet_across(&mut self, sites: &Sites<'_>) {
        let by_node = |parties: &[Party]| {
            let mut nodes: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
            for (number, party) in waiting(parties) {
                nodes.entry(party.place.0[NODE]).or_default().push(number);
            }
            nodes
        };
        let (cpus, workers) = (by_node(&self.cpus), by_node(&self.workers));
        let mut pairs: Vec<(u32, Option<usize>, Option<usize>)> = Vec::new();
        for &from in cpus.keys() {
            for &to in workers.keys() {
                let distance = from.zip(to).map_or(u32::MAX, |(from, to)| sites.distance(from, to));
                pairs.push((distance, from, to));
            }
        }
        pairs.sort_unstable();
        for (_, from, to) in pairs {
            self.meet(&cpus[&from], &workers[&to]);
        }
    }

    /// Gives the connections of these CPUs to these workers, as far as both go.
    fn meet(&mut self, cpus: &[usize], workers: &[usize]) {
        let mut workers = workers.iter().copied().peekable();
        for &cpu in cpus {
            while let Some(&worker) = workers.peek().filter(|_| self.cpus[cpu].left > 0) {
                let units = self.cpus[cpu].left.min(self.workers[worker].left);
                self.cpus[cpu].left -= units;
                self.workers[worker].left -= units;
                self.deals.push((cpu, worker, units));
                if self.workers[worker].left == 0 {
                    workers.next();
                }
            }
        }
    }
}

fn waiting(parties: &[Party]) -> impl Iterator<Item = (usize, &Party)> {
    parties.iter().enumerate().filter(|(_, party)| party.left > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::random::case;
    use super::super::tests::{one_queue, opteron};
    use super::super::{Planner, Queue, Receive, Strategy};
    use super::*;

    /// Each CPU's sockets and shares, and how many of all connections cross to another node.
    fn shown(topology: &Topology, plan: &Plan) -> Option<(String, f64)> {
        let steering = plan.steering(topology)?;
        let packets = plan.packets(&Sites::new(topology)).unwrap();
        let all: u64 = packets.values().sum();
        let (mut text, mut crossing) = (Vec::new(), 0.0);
        for cpu in steering.cpus() {
            let sockets = steering.sockets(cpu);
            let total: u64 = sockets.iter().map(|(_, share)| share).sum();
            let each = sockets.iter().map(|(index, share)| format!("{index}×{share}"));
            text.push(format!("{cpu}: {}", each.collect::<Vec<_>>().join(" ")));
            for (index, share) in sockets {
                let node = plan.workers[index as usize].node;
                if node.is_none() || node != topology.node_of(cpu) {
                    crossing += packets[&cpu] as f64 / all as f64 * share as f64 / total as f64;
                }
            }
        }
        Some((text.join(", "), crossing))
    }

    #[test]
    fn workers_are_served_from_near() {
        let topology = opteron();
        for (strategy, workers, steering) in [
            // CPUs 2, 3 and 7 have a third each, two of them in the node of two workers: a sixth has to cross.
            (Strategy::Balanced, 4, Some(("2: 0×3 1×1, 3: 1×1 3×1, 7: 2×3 3×1", 1.0 / 6.0))),
            (Strategy::Balanced, 3, Some(("1: 0×2 2×1, 7: 1×2 2×1", 1.0 / 6.0))),
            // 8 network CPUs without the interrupt's: 7 for 8 workers.
            (
                Strategy::Balanced,
                8,
                Some((
                    "2: 0×7 1×1, 3: 1×3 3×1, 7: 2×7 3×1, 10: 4×7 5×1, 11: 3×1 5×3, 14: 6×7 7×1, 15: 3×1 7×3",
                    3.0 / 28.0,
                )),
            ),
            // The network's node is not the workers'.
            (Strategy::NetworkOnOneNode, 4, Some(("4: 0×3 1×1, 5: 1×1 2×1, 7: 2×1 3×3", 1.0))),
            // One CPU, or RFS: nothing to choose.
            (Strategy::Balanced, 1, None),
            (Strategy::SameNode, 4, None),
            (Strategy::OneCpu, 4, None),
            (Strategy::Rfs, 4, None),
        ] {
            let plan = one_queue(&topology, 6, workers, strategy);
            let found = shown(&topology, &plan);
            let wanted = steering.map(|(text, _)| text);
            assert_eq!(found.as_ref().map(|(text, _)| &**text), wanted, "{strategy} {workers}");
            if let (Some((_, found)), Some((_, wanted))) = (found, steering) {
                assert!((found - wanted).abs() < 1e-9, "{strategy} {workers}: {found} crosses");
            }
        }
    }

    #[test]
    fn it_takes_the_network_side_as_the_plan_leaves_it() {
        let topology = opteron();
        let queue = |cpu, rps: &str| Queue { irq: None, cpu, rps: rps.parse().unwrap() };
        for (queues, steering) in [
            (vec![queue(Some(4), ""), queue(Some(5), "")], Some("4: 0×1, 5: 1×1")),
            // RPS that is in force already.
            (vec![queue(None, "8,12")], Some("8: 0×1, 12: 1×1")),
            (
                vec![queue(Some(4), "0"), queue(Some(4), "1,9"), queue(Some(9), "")],
                Some("0: 0×1, 1: 0×1, 9: 1×1"),
            ),
            // Those that are not online do not receive.
            (vec![queue(Some(0), "40"), queue(Some(1), "1,40")], Some("0: 0×1, 1: 1×1")),
            // Not known of one queue.
            (vec![queue(Some(4), ""), queue(None, "")], None),
            (vec![queue(Some(4), "")], None),
            (vec![], None),
        ] {
            let planner = Planner::new(&topology).workers(2).strategy(Strategy::None);
            let plan =
                planner.receive(Receive { queues: queues.clone(), ..Receive::default() }).plan().unwrap();
            let found = shown(&topology, &plan);
            assert_eq!(found.as_ref().map(|(text, _)| &**text), steering, "{queues:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_worker_has_the_same_share_and_as_much_of_its_node_as_there_is(case in case()) {
            let (topology, Some(plan)) = case.plan() else { return Ok(()) };
            let Some(steering) = plan.steering(&topology) else { return Ok(()) };
            // What each CPU receives, anew: a mask of RPS, or the interrupt's CPU.
            let mut received: BTreeMap<u32, f64> = BTreeMap::new();
            for (queue, known) in plan.queues.iter().zip(&case.receive.queues) {
                let rps = queue.rps.as_ref().unwrap_or(&known.rps);
                let cpus = if rps.is_empty() { CpuSet::from(queue.cpu.unwrap()) } else { rps.clone() };
                for cpu in &cpus {
                    *received.entry(cpu).or_default() += 1.0 / cpus.len() as f64 / plan.queues.len() as f64;
                }
            }
            prop_assert_eq!(steering.cpus().collect::<Vec<_>>(), received.keys().copied().collect::<Vec<_>>());

            let fair = 1.0 / plan.workers.len() as f64;
            let mut given = vec![0.0; plan.workers.len()];
            let (mut near, mut supply, mut demand) = (0.0, HashMap::new(), HashMap::new());
            for (&cpu, packets) in &received {
                let sockets = steering.sockets(cpu);
                let total: u64 = sockets.iter().map(|(_, share)| share).sum();
                *supply.entry(topology.node_of(cpu)).or_insert(0.0) += packets;
                for (index, share) in sockets {
                    let part = packets * share as f64 / total as f64;
                    given[index as usize] += part;
                    if plan.workers[index as usize].node == topology.node_of(cpu) {
                        near += part;
                    }
                }
            }
            for given in given {
                prop_assert!((given - fair).abs() < 1e-6, "{} instead of {} in {:?}", given, fair, steering);
            }
            for worker in plan.workers.iter().filter(|worker| worker.node.is_some()) {
                *demand.entry(worker.node).or_insert(0.0) += fair;
            }
            let most: f64 = demand.iter().map(|(node, demand)| supply.get(node).copied().unwrap_or(0.0_f64).min(*demand)).sum();
            prop_assert!((near - most).abs() < 1e-6, "{} of {} stays in its node in {:?}", near, most, steering);
        }
    }
}
