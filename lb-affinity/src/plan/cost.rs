//! What a layout is worth: a model of where the CPU time of a request goes.
//!
//! A request costs its worker some time, the interrupt's CPU some, and the CPU that does the protocol work some; more where they
//! are far apart or in each other's way. Each CPU gets its share of the requests, and the busiest one bounds them all:
//! the throughput is one divided by its time for a request.
//!
//! ```
//! use lb_affinity::Topology;
//! use lb_affinity::plan::cost::{Costs, Layout, rank};
//!
//! let topology = Topology::from_lscpu(include_str!("../../tests/fixtures/opteron-16.lscpu"))?;
//! let mine = Layout::pinned([4, 5, 7]).interrupt_on(6);
//! let other = Layout::pinned([0, 1, 4, 5]).interrupt_on(6).network("2-3,7".parse()?);
//! let ranked = rank(&topology, &Costs::default(), [mine, other.clone()])?;
//! assert_eq!(ranked[0].0, other);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where the constants come from
//! Requests per second that an HTTP load balancer reached on 16 cores in 4 NUMA nodes, with one NIC queue whose interrupt was on
//! CPU 6, in node 1. The unit is a worker's own time for a request, a ten-thousandth of a second there.
//!
//! | layout | measured | model |
//! |---|---|---|
//! | network on 2, 3, 7; workers on 0, 1, 4, 5 | 23 093 | 23 077 |
//! | network on 4, 5, 7; workers on 8–11 | 18 446 | 18 750 |
//! | workers on 4, 5, 7 | 13 467 | 13 333 |
//! | workers on 8–11, RFS | 12 480 | 12 500 |
//! | a worker on 5 | 10 056 | 10 000 |
//! | workers on 4, 5, 7, and one on another node | ≈ 10 000 | 10 000 |
//! | a worker that the system places | 8 659 | 8 621 |
//!
//! Six constants meet seven figures of one machine and one application: expect the order on another machine, not the numbers.
//! [`Costs`] are public so that they can be fitted to a measurement of one's own. Two more constants, marked there, are not in
//! that table at all.

use std::collections::HashMap;

use super::sites::{FULL_CAPACITY, Site, Sites};
use super::{Plan, PlanError, Planner, Strategy};
use crate::{CpuSet, Topology};

/// What parts of a request cost, in units of a worker's own time for it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields, default)
)]
pub struct Costs {
    /// A worker's own time: 1. A worker pinned beside the interrupt reaches this and no more (10 056 requests/s).
    pub worker: f64,
    /// The interrupt, the driver, and handing the packets on. With [`stack`](Self::stack) it is what saturates a CPU that does
    /// all network work (13 467/s with workers enough).
    pub interrupt: f64,
    /// Protocol work: IP, TCP, and waking the worker.
    pub stack: f64,
    /// More protocol work, if the worker is one node away: its socket is there (18 446/s, and ≈ 10 000/s with one of four workers
    /// away). A node at twice the local distance (20) counts once, one at 30 twice.
    pub remote_socket: f64,
    /// More protocol work, if the interrupt is one node away: the packet is there (23 093/s).
    pub remote_packet: f64,
    /// Protocol work on a worker's own core: they evict each other's caches and wait for each other (RFS, 12 480/s).
    pub shared_core: f64,
    /// A worker that is not pinned: what it loses when the system moves it (8 659/s). Within a last-level cache it is
    /// [`near`](Self::near) of that, within a core nothing.
    pub migration: f64,
    /// What a transfer between two last-level caches of a node costs, of that between nodes. Not in the table, which has one cache
    /// a node: an assumption.
    pub near: f64,
    /// What all CPUs of a core do together, of what one does alone. Not in the table, whose cores have one: an assumption.
    pub siblings: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            worker: 1.0,
            interrupt: 0.15,
            stack: 0.6,
            remote_socket: 1.0,
            remote_packet: 0.2,
            shared_core: 1.4,
            migration: 0.16,
            near: 0.25,
            siblings: 1.25,
        }
    }
}

/// Where workers and network work are, as the model sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Layout {
    /// The CPUs of each worker: one if it is pinned, else those that the system chooses from.
    pub workers: Vec<CpuSet>,
    /// The receive queues; each has as many packets as any other.
    pub queues: Vec<QueueLayout>,
    /// RFS: protocol work is done on the worker's CPU.
    pub flow_steering: bool,
}

/// A receive queue of a [`Layout`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct QueueLayout {
    /// The interrupt's CPU.
    pub cpu: u32,
    /// The CPUs that do protocol work (RPS); none: the interrupt's own does.
    pub rps: CpuSet,
}

impl Layout {
    /// Workers with a CPU each, and no network side yet.
    #[must_use]
    pub fn pinned(cpus: impl IntoIterator<Item = u32>) -> Self {
        Self { workers: cpus.into_iter().map(CpuSet::from).collect(), ..Self::default() }
    }

    /// Workers that the system places, and no network side yet.
    #[must_use]
    pub fn unpinned(count: usize, cpus: &CpuSet) -> Self {
        Self { workers: vec![cpus.clone(); count], ..Self::default() }
    }

    /// Adds a queue whose interrupt is on a CPU.
    #[must_use]
    pub fn interrupt_on(mut self, cpu: u32) -> Self {
        self.queues.push(QueueLayout { cpu, rps: CpuSet::new() });
        self
    }

    /// Hands the packets of all queues so far to these CPUs (RPS).
    #[must_use]
    pub fn network(mut self, cpus: CpuSet) -> Self {
        self.queues.iter_mut().for_each(|queue| queue.rps.clone_from(&cpus));
        self
    }

    /// Hands packets to the workers' own CPUs (RFS).
    #[must_use]
    pub const fn flow_steering(mut self) -> Self {
        self.flow_steering = true;
        self
    }
}

/// What the model says of a layout.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Prediction {
    /// Requests, relative to one worker that nothing holds up: 1 is its rate.
    pub throughput: f64,
    /// The CPU that is busy all the time, and bounds the throughput.
    pub bottleneck: u32,
    /// CPU time of all CPUs for a request, in units of a worker's own. Of two layouts with the same throughput the one with less is
    /// better.
    pub work: f64,
}

/// A layout that the machine cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is nobody to do the work.
    #[error("the layout has no worker; give it at least one")]
    NoWorkers,
    /// No CPU of a worker is online.
    #[error("worker {worker} is on CPUs {cpus:?}, none of which is online; name some of the CPUs {online}")]
    WorkerOffline {
        /// Its number, from 0.
        worker: usize,
        /// Its CPUs.
        cpus: Box<CpuSet>,
        /// Those that are online.
        online: Box<CpuSet>,
    },
    /// The interrupt's CPU is not online.
    #[error(
        "the interrupt of queue {queue} is on CPU {cpu}, which is not online; name one of the CPUs {online}"
    )]
    InterruptOffline {
        /// Its number, from 0.
        queue: usize,
        /// The CPU.
        cpu: u32,
        /// Those that are online.
        online: Box<CpuSet>,
    },
}

/// Predicts what a layout is worth. RPS CPUs that are not online do not count: the kernel drops them.
///
/// # Errors
/// If it has no worker, or a worker or an interrupt is on no CPU that is online.
pub fn predict(topology: &Topology, costs: &Costs, layout: &Layout) -> Result<Prediction, LayoutError> {
    Model::new(&Sites::new(topology), costs).predict(layout)
}

/// Layouts from the best to the worst: by throughput, then by the CPU time that they take.
///
/// # Errors
/// As [`predict`], for the first that is wrong.
pub fn rank(
    topology: &Topology,
    costs: &Costs,
    layouts: impl IntoIterator<Item = Layout>,
) -> Result<Vec<(Layout, Prediction)>, LayoutError> {
    let sites = Sites::new(topology);
    let model = Model::new(&sites, costs);
    let ranked =
        layouts.into_iter().map(|layout| model.predict(&layout).map(|prediction| (layout, prediction)));
    let mut ranked: Vec<(Layout, Prediction)> = ranked.collect::<Result<_, _>>()?;
    ranked.sort_by(|(_, one), (_, other)| one.best_first(other));
    Ok(ranked)
}

impl Prediction {
    /// The better one first: by throughput, then by the CPU time that it takes. What differs by rounding alone is equal.
    #[must_use]
    pub fn best_first(&self, other: &Self) -> std::cmp::Ordering {
        // To steps, and not by distance: an order in which neighbours are equal but their neighbours are not is none.
        let steps = |throughput: f64| (throughput * 1e9).round();
        let throughput = steps(other.throughput).total_cmp(&steps(self.throughput));
        throughput.then(self.work.total_cmp(&other.work))
    }
}

impl Planner<'_> {
    /// The plans of all strategies, from the best to the worst by the model.
    ///
    /// # Errors
    /// As [`Planner::plan`].
    pub fn ranked(&self, costs: &Costs) -> Result<Vec<(Plan, Prediction)>, PlanError> {
        let sites = Sites::new(self.topology);
        let model = Model::new(&sites, costs);
        let mut ranked = Vec::with_capacity(Strategy::ALL.len());
        for strategy in Strategy::ALL {
            let plan = self.clone().strategy(strategy).plan()?;
            // A plan is on CPUs that are online, and so has a prediction.
            if let Ok(prediction) = model.predict(&plan.layout()) {
                ranked.push((plan, prediction));
            }
        }
        ranked.sort_by(|(_, one), (_, other)| one.best_first(other));
        Ok(ranked)
    }
}

/// The machine and its costs.
struct Model<'a> {
    sites: &'a Sites<'a>,
    costs: &'a Costs,
}

/// What a request costs one CPU, on average.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Time, but for what workers and network work do to each other.
    time: f64,
    /// The share of requests whose worker is here.
    workers: f64,
    /// The share of requests whose protocol work is here; an interrupt counts as its part of that.
    network: f64,
}

impl<'a> Model<'a> {
    const fn new(sites: &'a Sites<'a>, costs: &'a Costs) -> Self {
        Self { sites, costs }
    }

    fn predict(&self, layout: &Layout) -> Result<Prediction, LayoutError> {
        let online = || Box::new(self.sites.topology.online().clone());
        let mut interrupts = Vec::with_capacity(layout.queues.len());
        for (number, queue) in layout.queues.iter().enumerate() {
            let site = self.sites.get(queue.cpu);
            let error = || LayoutError::InterruptOffline { queue: number, cpu: queue.cpu, online: online() };
            interrupts.push(*site.ok_or_else(error)?);
        }
        let mut loads: HashMap<u32, (Site, Load)> = HashMap::new();
        let workers = self.settle(layout, &interrupts)?;

        // Workers take requests from one queue, so that a CPU gets them in proportion to its speed.
        let speed = |site: &Site| f64::from(site.capacity);
        let mut seats: Vec<(Site, f64)> = workers;
        seats.sort_by_key(|(site, _)| site.cpu);
        seats.dedup_by(|other, first| {
            let same = other.0.cpu == first.0.cpu;
            if same {
                first.1 = first.1.max(other.1);
            }
            same
        });
        let total: f64 = seats.iter().map(|(site, _)| speed(site)).sum();
        let mut shares = Vec::with_capacity(seats.len());
        for (site, migration) in seats {
            let share = speed(&site) / total;
            let load = &mut loads.entry(site.cpu).or_insert((site, Load::default())).1;
            load.time += share * (self.costs.worker + migration);
            load.workers += share;
            shares.push((site, share));
        }

        let sockets = Sockets::new(self.sites, &shares);
        let of_queue = 1.0 / interrupts.len().max(1) as f64;
        for (queue, interrupt) in layout.queues.iter().zip(&interrupts) {
            let load = &mut loads.entry(interrupt.cpu).or_insert((*interrupt, Load::default())).1;
            load.time += of_queue * self.costs.interrupt;
            let all = self.costs.interrupt + self.costs.stack;
            load.network += if all > 0.0 { of_queue * self.costs.interrupt / all } else { 0.0 };
            let mut protocol = |site: &Site, share: f64, socket: f64| {
                let load = &mut loads.entry(site.cpu).or_insert((*site, Load::default())).1;
                let packet = self.costs.remote_packet * self.far(interrupt, site);
                load.time += share * (self.costs.stack + packet + self.costs.remote_socket * socket);
                load.network += share;
            };
            if layout.flow_steering {
                for (site, share) in &shares {
                    protocol(site, of_queue * share, 0.0);
                }
                continue;
            }
            let targets = &queue.rps & self.sites.topology.online();
            if targets.is_empty() {
                protocol(interrupt, of_queue, sockets.far(self, interrupt));
            }
            let share = of_queue / targets.len().max(1) as f64;
            for site in self.sites.of(&targets) {
                protocol(site, share, sockets.far(self, site));
            }
        }
        Ok(self.busiest(&loads))
    }

    /// How far apart two CPUs are: 0 within a last-level cache, [`Costs::near`] within a node, 1 at a distance of 20.
    fn far(&self, one: &Site, other: &Site) -> f64 {
        if one.cache == other.cache {
            0.0
        } else if one.node == other.node {
            self.costs.near
        } else {
            self.nodes_apart(one.node, other.node)
        }
    }

    fn nodes_apart(&self, one: usize, other: usize) -> f64 {
        f64::from(self.sites.distance(one, other).saturating_sub(10)) / 10.0
    }

    /// Where each worker is most of the time, and what moving costs it for a request. The system keeps a worker near the interrupt
    /// that wakes it, on a CPU without other work, as long as there is one.
    fn settle(&self, layout: &Layout, interrupts: &[Site]) -> Result<Vec<(Site, f64)>, LayoutError> {
        let mut busy: CpuSet = layout.queues.iter().map(|queue| queue.cpu).collect();
        for queue in &layout.queues {
            busy |= &queue.rps;
        }
        let mut settled = Vec::with_capacity(layout.workers.len());
        let mut free = Vec::new();
        for (worker, cpus) in layout.workers.iter().enumerate() {
            let mut sites = self.sites.of(cpus);
            match (sites.next(), sites.next()) {
                (None, _) => {
                    let online = Box::new(self.sites.topology.online().clone());
                    return Err(LayoutError::WorkerOffline { worker, cpus: Box::new(cpus.clone()), online });
                }
                (Some(site), None) => {
                    busy.insert(site.cpu);
                    settled.push((*site, 0.0));
                }
                _ => free.push(cpus),
            }
        }
        if layout.workers.is_empty() {
            return Err(LayoutError::NoWorkers);
        }
        let mut queues: HashMap<&CpuSet, (Vec<Site>, f64, usize)> = HashMap::new();
        for cpus in free {
            let (seats, migration, next) = queues.entry(cpus).or_insert_with(|| {
                let mut seats: Vec<Site> = self.sites.of(cpus).copied().collect();
                let migration = self.migration(&seats);
                let interrupt = interrupts.first();
                seats.sort_by_cached_key(|site| {
                    let distance = interrupt.map_or(0, |one| self.sites.distance(one.node, site.node));
                    let cache = interrupt.is_some_and(|one| one.cache != site.cache);
                    (busy.contains(site.cpu), distance, cache, site.cpu)
                });
                (seats, migration, 0)
            });
            settled.push((seats[*next % seats.len()], *migration));
            *next += 1;
        }
        Ok(settled)
    }

    fn migration(&self, seats: &[Site]) -> f64 {
        let Some(first) = seats.first() else { return 0.0 };
        if seats.iter().all(|site| site.core == first.core) {
            0.0
        } else if seats.iter().all(|site| site.cache == first.cache) {
            self.costs.near * self.costs.migration
        } else {
            self.costs.migration
        }
    }

    fn busiest(&self, loads: &HashMap<u32, (Site, Load)>) -> Prediction {
        let mut order: Vec<&(Site, Load)> = loads.values().collect();
        order.sort_by_key(|(site, _)| (site.core, site.cpu));
        let (mut work, mut longest, mut bottleneck) =
            (0.0, 0.0, order.first().map_or(0, |(site, _)| site.cpu));
        for core in order.chunk_by(|(one, _), (other, _)| one.core == other.core) {
            let mut together = 0.0;
            for (site, load) in core {
                let clash = self.costs.shared_core * load.workers.min(load.network);
                let time = (load.time + clash) * f64::from(FULL_CAPACITY) / f64::from(site.capacity);
                work += load.time + clash;
                together += time;
                if time > longest {
                    (longest, bottleneck) = (time, site.cpu);
                }
            }
            if core.len() > 1 && together / self.costs.siblings > longest {
                (longest, bottleneck) = (together / self.costs.siblings, core[0].0.cpu);
            }
        }
        Prediction { throughput: 1.0 / longest, bottleneck, work }
    }
}

/// How the workers, and so the sockets, are spread over the machine.
struct Sockets {
    by_cache: HashMap<usize, f64>,
    by_node: HashMap<usize, f64>,
}

impl Sockets {
    fn new(sites: &Sites<'_>, shares: &[(Site, f64)]) -> Self {
        let (mut by_cache, mut by_node) = (HashMap::new(), HashMap::with_capacity(sites.nodes.len()));
        for (site, share) in shares {
            *by_cache.entry(site.cache).or_insert(0.0) += share;
            *by_node.entry(site.node).or_insert(0.0) += share;
        }
        Self { by_cache, by_node }
    }

    /// How far a request's socket is from a CPU, on average.
    fn far(&self, model: &Model<'_>, from: &Site) -> f64 {
        let here = self.by_cache.get(&from.cache).copied().unwrap_or(0.0);
        let nodes = self.by_node.iter().map(|(&node, share)| {
            if node == from.node {
                model.costs.near * (share - here).max(0.0)
            } else {
                share * model.nodes_apart(from.node, node)
            }
        });
        nodes.sum()
    }
}

#[cfg(test)]
mod tests;
