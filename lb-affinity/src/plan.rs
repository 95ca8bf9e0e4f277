//! Where workers, interrupts and network work should go, and why. Pure: a plan is made from values, and is a value.
//!
//! ```
//! use lb_affinity::Topology;
//! use lb_affinity::plan::{Planner, Receive};
//!
//! // 16 cores in 4 NUMA nodes; the only interrupt is on CPU 6.
//! let topology = Topology::from_lscpu(include_str!("../tests/fixtures/opteron-16.lscpu"))?;
//! let plan = Planner::new(&topology).receive(Receive::interrupt_on(6)).workers(4).plan()?;
//!
//! let workers: Vec<String> = plan.workers.iter().map(|worker| worker.cpus.to_string()).collect();
//! assert_eq!(workers, ["0", "1", "4", "5"]);
//! assert_eq!(plan.rps_mask(0).as_deref(), Some("008c"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Strategy`] names the ways to divide a machine; [`cost`] predicts what each is worth; [`vcpu`] places virtual machines.

use std::fmt;

use crate::cpu_set::MAX_ID;
use crate::nic::ChannelCounts;
use crate::{CpuSet, Setting, Topology};

pub mod cost;
mod policies;
mod reasons;
mod receive;
mod sites;
mod steering;
mod strategy;
#[cfg(test)]
mod tests;
pub mod vcpu;
mod workers;

pub use receive::{FlowShare, Queue, Receive};
pub use strategy::{ParseStrategyError, Strategy};

use cost::{Layout, QueueLayout};
use sites::Sites;
use workers::{Placement, Pool};

/// The kernel document's proposal for `rps_sock_flow_entries` on a server of moderate load (scaling.rst, RFS).
pub const SOCK_FLOW_ENTRIES: u32 = 32_768;

/// A layout of a machine, and the reasons for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Plan {
    /// How it was made.
    pub strategy: Strategy,
    /// The workers, in the order of their numbers.
    pub workers: Vec<Worker>,
    /// The CPUs that do network work, those of interrupts included.
    pub network: CpuSet,
    /// The interface; `None` if its name was not given.
    pub interface: Option<String>,
    /// Its receive queues, by number.
    pub queues: Vec<QueuePlan>,
    /// `net.core.rps_sock_flow_entries`; `None` leaves it as it is.
    pub sock_flow_entries: Option<u32>,
    /// The CPUs that send by each transmit queue (XPS). Empty leaves them as they are.
    pub xps: Vec<CpuSet>,
    /// How many receive queues the NIC should have: one a core (scaling.rst, RSS). `None` if its limit is not known.
    pub rss_queues: Option<u32>,
    /// The channels that give it so many; `None` if it has them, or they are not known. Queues that this adds are in no plan yet: see
    /// [`queue_setting`](Self::queue_setting).
    pub channels: Option<ChannelCounts>,
    /// The machine's number of CPU ids: the width of its masks.
    pub nr_cpu_ids: u32,
    /// Each choice, and why it was made.
    pub reasons: Vec<Reason>,
}

/// Where a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Worker {
    /// The CPUs that it may run on: one, or those of its group.
    pub cpus: CpuSet,
    /// Its NUMA node, if its CPUs are in one.
    pub node: Option<u32>,
    /// The node that its memory should come from, its own or the nearest that has any; `None` for the kernel's default policy.
    pub memory: Option<u32>,
}

/// How a receive queue is served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct QueuePlan {
    /// The interrupt to move; `None` if it stays where it is.
    pub irq: Option<u32>,
    /// The interrupt's CPU, if it is known.
    pub cpu: Option<u32>,
    /// `rps_cpus`: none of them switches RPS off, `None` leaves it as it is.
    pub rps: Option<CpuSet>,
    /// `rps_flow_cnt`: 0 switches RFS off, `None` leaves it as it is.
    pub flow_count: Option<u32>,
    /// The CPUs that do the protocol work of its packets when the plan is in force: those of RPS, or else the interrupt's. None if
    /// neither is known.
    pub receivers: CpuSet,
}

/// Why a choice was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Reason {
    /// What was chosen.
    pub choice: String,
    /// One sentence.
    pub why: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.choice, self.why)
    }
}

impl Plan {
    /// A queue's `rps_cpus` as the kernel prints it; `None` if there is no such queue, or it stays as it is.
    #[must_use]
    pub fn rps_mask(&self, queue: usize) -> Option<String> {
        Some(self.queues.get(queue)?.rps.as_ref()?.mask(self.nr_cpu_ids).to_string())
    }

    /// What gives the NIC its [`rss_queues`](Self::rss_queues); `None` if it has them, or nothing is known of that.
    ///
    /// It is never among the [`settings`](Self::settings): the link may restart for it, and its queues and interrupts are others
    /// afterwards, so that this plan is not for them. Apply it where that was asked for, and then what is planned anew:
    /// [`Applier::apply_then`](crate::apply::Applier::apply_then).
    #[must_use]
    pub fn queue_setting(&self) -> Option<Setting> {
        Some(Setting::Channels { interface: self.interface.clone()?, counts: self.channels? })
    }

    /// What to write to the kernel's files, from the wire inwards: interrupts, RPS, the flow tables, XPS. Workers pin themselves.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for queue in &self.queues {
            if let (Some(irq), Some(cpu)) = (queue.irq, queue.cpu) {
                settings.push(Setting::IrqAffinity { irq, cpus: CpuSet::from(cpu) });
            }
        }
        let Some(interface) = &self.interface else { return settings };
        for (queue, plan) in (0..).zip(&self.queues) {
            if let Some(cpus) = &plan.rps {
                settings.push(Setting::Rps { interface: interface.clone(), queue, cpus: cpus.clone() });
            }
        }
        if let Some(count) = self.sock_flow_entries {
            settings.push(Setting::RpsSockFlowEntries { count });
        }
        for (queue, plan) in (0..).zip(&self.queues) {
            if let Some(count) = plan.flow_count {
                settings.push(Setting::RpsFlowCount { interface: interface.clone(), queue, count });
            }
        }
        for (queue, cpus) in (0..).zip(&self.xps) {
            settings.push(Setting::Xps { interface: interface.clone(), queue, cpus: cpus.clone() });
        }
        settings
    }

    /// The plan as the cost model sees it.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let queue = |queue: &QueuePlan| Some(QueueLayout { cpu: queue.cpu?, rps: queue.receivers.clone() });
        Layout {
            workers: self.workers.iter().map(|worker| worker.cpus.clone()).collect(),
            queues: self.queues.iter().filter_map(queue).collect(),
            flow_steering: self.queues.iter().any(|queue| queue.flow_count.is_some_and(|count| count > 0)),
        }
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Nothing is to be placed.
    #[error("0 workers cannot be placed; ask for at least 1, or give no number to have as many as fit")]
    NoWorkers,
    /// More than there can be CPUs.
    #[error("{0} workers are more than {MAX_ID}, which is more than any machine has CPUs; ask for fewer")]
    TooManyWorkers(u32),
    /// This process may use no CPU, or only isolated ones.
    #[error(
        "no CPU is left for workers: allowed are {allowed:?}, isolated or without a tick are {isolated:?}; \
         widen the cpuset or the affinity of this process, or let workers use isolated CPUs"
    )]
    NoCpu {
        /// [`Topology::allowed`].
        allowed: Box<CpuSet>,
        /// [`Topology::isolated`] and [`Topology::nohz_full`].
        isolated: Box<CpuSet>,
    },
    /// An interrupt is said to be on a CPU that is not online.
    #[error(
        "the interrupt of queue {queue} is on CPU {cpu}, which is not online; name one of the CPUs {online}"
    )]
    InterruptOffline {
        /// The receive queue.
        queue: usize,
        /// The CPU.
        cpu: u32,
        /// Those that are.
        online: Box<CpuSet>,
    },
    /// A NIC is said to be at a node that the machine does not have.
    #[error(
        "the NIC is at NUMA node {node}, which this machine does not have; name one of its nodes, or none if it is not known"
    )]
    UnknownNode {
        /// The node.
        node: u32,
    },
}

/// Makes a [`Plan`].
#[derive(Clone, Debug)]
pub struct Planner<'a> {
    topology: &'a Topology,
    receive: Receive,
    workers: Option<u32>,
    strategy: Strategy,
    isolated: bool,
    flow_entries: u32,
    flow_share: FlowShare,
}

impl<'a> Planner<'a> {
    /// For a machine: [`Strategy::Balanced`], as many workers as fit, and no network side yet.
    #[must_use]
    pub fn new(topology: &'a Topology) -> Self {
        Self {
            topology,
            receive: Receive::default(),
            workers: None,
            strategy: Strategy::Balanced,
            isolated: false,
            flow_entries: SOCK_FLOW_ENTRIES,
            flow_share: FlowShare::Queues,
        }
    }

    /// The network side.
    #[must_use]
    pub fn receive(mut self, receive: Receive) -> Self {
        self.receive = receive;
        self
    }

    /// How many workers there are.
    #[must_use]
    pub const fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How the machine is divided.
    #[must_use]
    pub const fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Lets workers, and nothing else, use CPUs that are isolated (`isolcpus=`) or have no tick (`nohz_full=`). They come first.
    #[must_use]
    pub const fn use_isolated(mut self, isolated: bool) -> Self {
        self.isolated = isolated;
        self
    }

    /// For [`Strategy::Rfs`]: the size of the table of flows ([`SOCK_FLOW_ENTRIES`] if it is not given), and by what it is divided.
    #[must_use]
    pub const fn flows(mut self, entries: u32, share: FlowShare) -> Self {
        self.flow_entries = entries;
        self.flow_share = share;
        self
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// If there is no worker or no CPU to place, or the network side names a CPU or a node that the machine does not have.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let topology = self.topology;
        let wanted = match self.workers {
            Some(0) => return Err(PlanError::NoWorkers),
            Some(workers) if workers > MAX_ID => return Err(PlanError::TooManyWorkers(workers)),
            workers => workers.map(|workers| workers as usize),
        };
        for (queue, cpu) in
            self.receive.queues.iter().enumerate().filter_map(|(i, queue)| Some((i, queue.cpu?)))
        {
            if !topology.online().contains(cpu) {
                return Err(PlanError::InterruptOffline {
                    queue,
                    cpu,
                    online: Box::new(topology.online().clone()),
                });
            }
        }
        if let Some(node) = self.receive.node.filter(|&node| topology.node(node).is_none()) {
            return Err(PlanError::UnknownNode { node });
        }
        let set_apart = topology.isolated() | topology.nohz_full();
        let network = topology.allowed() - &set_apart;
        let workers = if self.isolated { topology.allowed() } else { &network };
        if workers.is_empty() {
            return Err(PlanError::NoCpu {
                allowed: Box::new(topology.allowed().clone()),
                isolated: Box::new(set_apart),
            });
        }

        let sites = Sites::new(topology);
        let mut plan = if self.strategy.is_cpu_policy() {
            self.by_policy(&sites, workers, wanted)
        } else {
            self.by_placement(&sites, workers, &network, wanted)
        };
        plan.rss_queues = self.rss_queues(&network);
        plan.channels = self
            .receive
            .channels
            .zip(plan.rss_queues)
            .and_then(|(now, queues)| now.with_receive_queues(queues));
        reasons::add_common(&mut plan, &self.receive, sites.nodes.len());
        Ok(plan)
    }

    fn empty(&self, workers: Vec<Worker>) -> Plan {
        Plan {
            strategy: self.strategy,
            workers,
            network: CpuSet::new(),
            interface: self.receive.interface.clone(),
            queues: Vec::new(),
            sock_flow_entries: None,
            xps: Vec::new(),
            rss_queues: None,
            channels: None,
            nr_cpu_ids: self.topology.nr_cpu_ids(),
            reasons: Vec::new(),
        }
    }

    fn by_policy(&self, sites: &Sites<'_>, usable: &CpuSet, wanted: Option<usize>) -> Plan {
        // As `cpu-set drop-cpu` would: the interrupts keep their CPUs, unless that were most of the machine.
        let interrupts: CpuSet = self.receive.queues.iter().filter_map(|queue| queue.cpu).collect();
        let free = usable - &interrupts;
        let enabled = if 2 * free.len() >= usable.len() && !free.is_empty() { &free } else { usable };
        let groups = policies::groups(sites, self.strategy, enabled);
        let count = wanted.unwrap_or_else(|| policies::default_workers(self.strategy, &groups));
        let of_group: Vec<Worker> = groups.iter().map(|group| worker_in(sites, group.clone())).collect();
        let seats = of_group.iter().flat_map(|worker| std::iter::repeat_n(worker, worker.cpus.len()));
        let workers = seats.cycle().take(count).cloned().collect();

        let mut plan = self.empty(workers);
        let queue = |queue: &Queue| QueuePlan {
            irq: None,
            cpu: queue.cpu,
            rps: None,
            flow_count: None,
            receivers: receive::receivers(&(&queue.rps & self.topology.online()), queue.cpu),
        };
        plan.queues = self.receive.queues.iter().map(queue).collect();
        reasons::explain_policy(&mut plan, &groups, usable.len() > enabled.len());
        plan.network = interrupts;
        plan
    }

    fn by_placement(
        &self,
        sites: &Sites<'_>,
        usable: &CpuSet,
        network: &CpuSet,
        wanted: Option<usize>,
    ) -> Plan {
        let queues = &self.receive.queues;
        let nic = self.receive.node.map(|node| self.node_with_cpus(sites, node, network));
        let fixed: Vec<Option<u32>> =
            queues.iter().map(|queue| self.fixed(sites, queue, nic, network)).collect();
        let mut distinct = Vec::new();
        let mut seen = CpuSet::new();
        distinct.extend(fixed.iter().flatten().filter(|&&cpu| seen.insert(cpu)));
        let node_of = |cpu: Option<u32>| cpu.and_then(|cpu| sites.get(cpu)).map(|site| site.node);
        let mut pool = Pool::new(sites, usable, network, distinct);
        pool.network = !queues.is_empty();
        pool.movable = queues.iter().zip(&fixed).filter(|(_, fixed)| fixed.is_none()).count();
        pool.anchor = node_of(fixed.iter().flatten().next().copied())
            .or(nic)
            .or_else(|| {
                node_of(queues.iter().find_map(|queue| queue.cpu.filter(|&cpu| network.contains(cpu))))
            })
            .or_else(|| node_of(network.first().or_else(|| usable.first())))
            .unwrap_or(0);

        let mut placed = self.place(&pool, wanted);
        if self.strategy == Strategy::Rss {
            placed.network.truncate(queues.len().max(pool.fixed.len()));
        }
        let count = wanted.unwrap_or(placed.workers.len());
        let seats = placed.workers.iter().copied().cycle().take(count);
        let mut plan = self.empty(seats.map(|cpu| worker_in(sites, CpuSet::from(cpu))).collect());
        // Workers that share CPUs are numbered in their order too.
        plan.workers.sort_by_key(|worker| worker.cpus.first());
        plan.network = placed.network.iter().copied().collect();

        let interrupts = receive::place_interrupts(queues, &fixed, &placed.network);
        let mut rps = match self.strategy {
            Strategy::Balanced | Strategy::NetworkOnOneNode => {
                receive::receive_packet_steering(sites, &interrupts, &(&plan.network & network))
            }
            Strategy::OneCpu => {
                let irq_cpus: CpuSet = interrupts.iter().flatten().copied().collect();
                vec![&(&plan.network & network) - &irq_cpus; queues.len()]
            }
            // Flows that are not known yet go where the workers are.
            Strategy::Rfs => {
                let workers: CpuSet = placed.workers.iter().copied().collect();
                vec![&workers & network; queues.len()]
            }
            _ => vec![CpuSet::new(); queues.len()],
        };
        if placed.everywhere {
            // Where no interrupt is known (veth), packets come by the CPU of who sends them: to hand them on took a tenth of the
            // requests.
            let unknown = rps.iter_mut().zip(&interrupts).filter(|(_, interrupt)| interrupt.is_none());
            unknown.for_each(|(rps, _)| *rps = CpuSet::new());
        }
        let flows = if self.strategy == Strategy::Rfs {
            plan.sock_flow_entries = Some(self.flow_entries).filter(|_| !queues.is_empty());
            self.flow_share.count(self.flow_entries, queues.len(), plan.workers.len())
        } else {
            0
        };
        let queue = |((queue, cpu), rps): ((&Queue, Option<u32>), CpuSet)| QueuePlan {
            irq: queue.irq.filter(|_| cpu.is_some()),
            cpu,
            receivers: receive::receivers(&rps, cpu),
            rps: Some(rps),
            flow_count: Some(flows),
        };
        plan.queues = queues.iter().zip(interrupts.iter().copied()).zip(rps).map(queue).collect();
        plan.xps = receive::transmit_packet_steering(
            sites,
            self.receive.transmit_queues,
            &interrupts,
            self.topology.allowed(),
        );
        reasons::explain(&mut plan, &pool, wanted, placed.everywhere);
        plan
    }

    fn place(&self, pool: &Pool<'_>, wanted: Option<usize>) -> Placement {
        match self.strategy {
            Strategy::SameNode | Strategy::Rfs => pool.same_node(wanted, 0),
            Strategy::OneCpu => pool.same_node(wanted, 1),
            Strategy::NetworkOnOneNode if pool.network => {
                pool.network_on_one_node(wanted).unwrap_or_else(|| pool.balanced(wanted))
            }
            _ => pool.balanced(wanted),
        }
    }

    /// The CPU of an interrupt that stays: it cannot be moved, or it is the only one and well placed.
    fn fixed(&self, sites: &Sites<'_>, queue: &Queue, nic: Option<usize>, network: &CpuSet) -> Option<u32> {
        let cpu = queue.cpu?;
        let site = sites.get(cpu)?;
        let well_placed = network.contains(cpu) && nic.is_none_or(|node| node == site.node);
        (queue.irq.is_none() || self.receive.queues.len() == 1 && well_placed).then_some(cpu)
    }

    /// The node itself, or the nearest with CPUs for network work.
    fn node_with_cpus(&self, sites: &Sites<'_>, node: u32, network: &CpuSet) -> usize {
        let mut has = vec![false; sites.nodes.len()];
        sites.of(network).for_each(|site| has[site.node] = true);
        let distance = |&index: &usize| {
            let id = sites.nodes[index].unwrap_or(u32::MAX);
            (!has[index], id != node, self.topology.distance(node, id), id)
        };
        (0..sites.nodes.len()).min_by_key(distance).unwrap_or(0)
    }

    /// One queue a core, as far as the NIC goes (scaling.rst, "RSS: Suggested Configuration").
    fn rss_queues(&self, network: &CpuSet) -> Option<u32> {
        let cores: std::collections::HashSet<usize> =
            network.iter().filter_map(|cpu| self.topology.cpu(cpu)).map(|cpu| cpu.core).collect();
        let cores = u32::try_from(cores.len()).unwrap_or(u32::MAX);
        let most = self.receive.channels.map(|channels| channels.most_receive_queues());
        most.filter(|&most| most > 0).map(|most| most.min(cores).max(1))
    }
}

fn worker_in(sites: &Sites<'_>, cpus: CpuSet) -> Worker {
    let first = sites.of(&cpus).next().map(|site| site.node);
    let node = first.filter(|&first| sites.of(&cpus).all(|site| site.node == first));
    Worker {
        node: node.and_then(|node| sites.nodes[node]),
        memory: node.and_then(|node| sites.memory(node)),
        cpus,
    }
}
