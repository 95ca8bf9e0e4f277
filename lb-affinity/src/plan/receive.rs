//! The network side: what a plan has to know of an interface, and how its queues are served.

use std::collections::HashMap;

use super::sites::Sites;
use crate::nic::Channels;
use crate::{CpuSet, Nic};

/// What a plan has to know of a network interface.
///
/// ```
/// use lb_affinity::plan::{Queue, Receive};
///
/// // All that is known is the CPU of the only interrupt.
/// let known = Receive::interrupt_on(6);
/// // Four queues with interrupts that may be moved, on a NIC at node 1.
/// let queues = (40..44).map(|irq| Queue { irq: Some(irq), ..Queue::default() }).collect();
/// let nic = Receive { interface: Some("eth0".into()), queues, node: Some(1), ..Receive::default() };
/// # assert_eq!((known.queues.len(), nic.queues.len()), (1, 4));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields, default)
)]
pub struct Receive {
    /// The interface's name; without it a plan has no settings for its queues.
    pub interface: Option<String>,
    /// The receive queues, by number. None: there is no network side.
    pub queues: Vec<Queue>,
    /// How many transmit queues there are.
    pub transmit_queues: u32,
    /// The NUMA node that the NIC hangs at; `None` if the kernel does not know (−1).
    pub node: Option<u32>,
    /// How many channels the NIC has and can have; `None` if it is not known.
    pub channels: Option<Channels>,
}

/// A receive queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields, default)
)]
pub struct Queue {
    /// Its interrupt, if that may be moved.
    pub irq: Option<u32>,
    /// The CPU that the interrupt goes to now.
    pub cpu: Option<u32>,
    /// `rps_cpus` as it is now: what a plan finds that leaves it so. None of them: RPS is off, or it is not known.
    pub rps: CpuSet,
}

impl Receive {
    /// One queue whose interrupt is on a CPU and stays there.
    #[must_use]
    pub fn interrupt_on(cpu: u32) -> Self {
        Self { queues: vec![Queue { cpu: Some(cpu), ..Queue::default() }], ..Self::default() }
    }
}

impl From<&Nic> for Receive {
    /// What the interface's files tell. How many queues it can have, [`channels`](Self::channels), only its driver knows
    /// ([`FileSystem::channels`](crate::fs::FileSystem::channels)).
    fn from(nic: &Nic) -> Self {
        let queue = |rx: &crate::nic::RxQueue| {
            let interrupt = nic.serving(crate::nic::Queue::Rx(rx.index)).next();
            let cpu = interrupt.and_then(|interrupt| interrupt.affinity.as_ref()?.cpu());
            let rps = rx.rps_cpus.clone().unwrap_or_default();
            Queue { irq: interrupt.map(|interrupt| interrupt.irq), cpu, rps }
        };
        Self {
            interface: Some(nic.name.clone()),
            queues: nic.rx.iter().map(queue).collect(),
            transmit_queues: u32::try_from(nic.tx.len()).unwrap_or(u32::MAX),
            node: nic.node,
            channels: None,
        }
    }
}

/// What a flow table's entries are divided by to give each queue its count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum FlowShare {
    /// By the receive queues (Documentation/networking/scaling.rst, "RFS: Suggested Configuration").
    #[default]
    Queues,
    /// By the workers: 32768 ÷ 4 = 8192 on the machine that the cost model is fitted to.
    Workers,
}

impl FlowShare {
    /// A queue's `rps_flow_cnt`.
    pub(super) fn count(self, entries: u32, queues: usize, workers: usize) -> u32 {
        let parts = match self {
            Self::Queues => queues,
            Self::Workers => workers,
        };
        (entries / u32::try_from(parts.max(1)).unwrap_or(u32::MAX)).max(1)
    }
}

/// Where the interrupts of the queues go: those that are fixed stay, the others take the network CPUs in turn, first those
/// without an interrupt.
pub(super) fn place_interrupts(queues: &[Queue], fixed: &[Option<u32>], network: &[u32]) -> Vec<Option<u32>> {
    let taken: CpuSet = fixed.iter().flatten().copied().collect();
    let mut free: Vec<u32> = network.iter().copied().filter(|&cpu| !taken.contains(cpu)).collect();
    if free.is_empty() {
        free = network.to_vec();
    }
    let mut turn = free.iter().copied().cycle();
    let place = |(queue, fixed): (&Queue, &Option<u32>)| match (fixed, queue.irq) {
        (Some(cpu), _) => Some(*cpu),
        (None, Some(_)) => turn.next(),
        (None, None) => None,
    };
    queues.iter().zip(fixed).map(place).collect()
}

/// The CPUs that do the protocol work of a queue's packets.
pub(super) fn receivers(rps: &CpuSet, interrupt: Option<u32>) -> CpuSet {
    if rps.is_empty() { interrupt.into_iter().collect() } else { rps.clone() }
}

/// The CPUs that each queue's packets are handed to; none where its interrupt's CPU does the work itself.
///
/// scaling.rst, "RPS: Suggested Configuration": as many queues as CPUs make it superfluous; at a high rate the interrupt's CPU is
/// left out. Here it is, as long as at least half of the network CPUs remain. A queue serves its own node, and the nodes that
/// have no queue.
pub(super) fn receive_packet_steering(
    sites: &Sites<'_>,
    interrupts: &[Option<u32>],
    network: &CpuSet,
) -> Vec<CpuSet> {
    let irq_cpus: CpuSet = interrupts.iter().flatten().copied().collect();
    let others = network - &irq_cpus;
    if others.is_empty() {
        return vec![CpuSet::new(); interrupts.len()];
    }
    let targets = if 2 * others.len() >= network.len() { others } else { network.clone() };

    // The targets of each node, and of the nodes without a queue.
    let mut of_node = vec![CpuSet::new(); sites.nodes.len()];
    for site in sites.of(&targets) {
        of_node[site.node].insert(site.cpu);
    }
    let mut has_queue = vec![false; sites.nodes.len()];
    for site in sites.of(&irq_cpus) {
        has_queue[site.node] = true;
    }
    let mut orphans = CpuSet::new();
    for (cpus, has_queue) in of_node.iter().zip(&has_queue) {
        if !has_queue {
            orphans |= cpus;
        }
    }
    let mask = |cpu: &Option<u32>| {
        let Some(site) = cpu.and_then(|cpu| sites.get(cpu)) else { return targets.clone() };
        let mask = &of_node[site.node] | &orphans;
        if mask.is_empty() { targets.clone() } else { mask }
    };
    interrupts.iter().map(mask).collect()
}

/// The CPUs of each transmit queue: one CPU a queue where there are enough, else CPUs go to a queue whose interrupt is on their
/// core, in their cache, or in their node (scaling.rst, "XPS: Suggested Configuration"). Empty with fewer than two queues, where
/// it has no effect.
pub(super) fn transmit_packet_steering(
    sites: &Sites<'_>,
    queues: u32,
    interrupts: &[Option<u32>],
    cpus: &CpuSet,
) -> Vec<CpuSet> {
    if queues < 2 || cpus.is_empty() {
        return Vec::new();
    }
    // More queues than CPUs stay without.
    let count = (queues as usize).min(cpus.len());
    let mut steering = vec![CpuSet::new(); queues as usize];

    let mut by_core: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut by_cache: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut by_node: HashMap<usize, Vec<usize>> = HashMap::new();
    for (queue, cpu) in interrupts.iter().enumerate().take(queues as usize) {
        if let Some(site) = cpu.and_then(|cpu| sites.get(cpu)) {
            by_core.entry(site.core).or_default().push(queue);
            by_cache.entry(site.cache).or_default().push(queue);
            by_node.entry(site.node).or_default().push(queue);
        }
    }
    if queues as usize >= cpus.len() {
        // One each: the queue of the CPU's own interrupt if there is one, else the next that is free.
        let mut own: HashMap<u32, usize> = HashMap::new();
        for (queue, cpu) in interrupts.iter().enumerate().take(queues as usize) {
            if let Some(cpu) = cpu.filter(|&cpu| cpus.contains(cpu)) {
                own.entry(cpu).or_insert(queue);
            }
        }
        let taken: std::collections::HashSet<usize> = own.values().copied().collect();
        let mut free = (0..queues as usize).filter(|queue| !taken.contains(queue));
        for cpu in cpus {
            if let Some(queue) = own.get(&cpu).copied().or_else(|| free.next()) {
                steering[queue].insert(cpu);
            }
        }
        return steering;
    }
    let all: Vec<usize> = (0..count).collect();
    let mut turns: HashMap<(u8, usize), usize> = HashMap::new();
    for site in sites.of(cpus) {
        let near = [(0, site.core, &by_core), (1, site.cache, &by_cache), (2, site.node, &by_node)];
        let found = near.into_iter().find_map(|(kind, key, map)| Some(((kind, key), map.get(&key)?)));
        let (key, candidates) = found.unwrap_or(((3, 0), &all));
        let turn = turns.entry(key).or_default();
        steering[candidates[*turn % candidates.len()]].insert(site.cpu);
        *turn += 1;
    }
    steering
}

/// Combined channels alone.
#[cfg(test)]
pub(super) fn combined(count: u32, max: u32) -> Option<Channels> {
    Some(Channels { combined: crate::nic::Count { count, max }, ..Channels::default() })
}

#[cfg(test)]
mod tests {
    use super::super::{Planner, Strategy};
    use super::*;
    use crate::{Setting, Topology};

    fn opteron() -> Topology {
        Topology::from_lscpu(include_str!("../../tests/fixtures/opteron-16.lscpu")).unwrap()
    }

    fn shown(sets: &[CpuSet]) -> Vec<String> {
        sets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn packets_go_to_network_cpus_without_the_interrupts() {
        let topology = opteron();
        let sites = Sites::new(&topology);
        for (interrupts, network, masks) in [
            (vec![Some(6)], vec![6, 7, 2, 3], vec!["2-3,7"]),
            (vec![Some(6)], vec![6], vec![""]),
            (vec![Some(6)], vec![6, 7], vec!["7"]),
            (vec![None], vec![6, 7], vec!["6-7"]),
            // As many queues as network CPUs.
            (vec![Some(6), Some(7)], vec![6, 7], vec!["", ""]),
            // Each node has a queue: none crosses over.
            (vec![Some(6), Some(2)], vec![6, 7, 2, 3], vec!["7", "3"]),
            // Node 0 has none: both serve it.
            (vec![Some(6), Some(7)], vec![6, 7, 2, 3], vec!["2-3", "2-3"]),
            // One CPU would be left for the work of three interrupts: they take part.
            (vec![Some(4), Some(5), Some(6)], vec![4, 5, 6, 7], vec!["4-7", "4-7", "4-7"]),
        ] {
            let steering = receive_packet_steering(&sites, &interrupts, &network.iter().copied().collect());
            assert_eq!(shown(&steering), masks, "{interrupts:?} {network:?}");
        }
    }

    #[test]
    fn the_number_of_queues_is_a_step_of_its_own() {
        let topology = opteron();
        for (channels, rss_queues, setting, reason) in [
            (
                combined(2, 64),
                Some(16),
                Some("eth0 channels = combined 16"),
                Some("16 receive queues of 64 on the NIC, which has 2: one a core is best"),
            ),
            (combined(4, 4), Some(4), None, None),
            (combined(0, 0), None, None, None),
            (None, None, None, None),
        ] {
            for strategy in [Strategy::Balanced, Strategy::FirstUsableNode] {
                let queues = vec![Queue { irq: Some(40), cpu: Some(6), rps: CpuSet::new() }];
                let receive =
                    Receive { interface: Some("eth0".into()), queues, channels, ..Receive::default() };
                let planner = Planner::new(&topology).strategy(strategy);
                let plan = planner.clone().receive(receive.clone()).plan().unwrap();
                assert_eq!(plan.rss_queues, rss_queues);
                assert_eq!(plan.queue_setting().map(|setting| setting.to_string()).as_deref(), setting);
                assert!(!plan.settings().iter().any(|one| matches!(one, Setting::Channels { .. })));
                let reasons: Vec<String> = plan.reasons.iter().map(ToString::to_string).collect();
                let told = reasons.iter().find(|one| one.contains("on the NIC"));
                match reason {
                    Some(reason) => assert!(told.is_some_and(|told| told.starts_with(reason)), "{reasons:?}"),
                    None => assert_eq!(told, None),
                }
                // Without its name, nothing can be said to the interface.
                let unnamed = planner.receive(Receive { interface: None, ..receive }).plan().unwrap();
                assert_eq!(unnamed.queue_setting(), None);
            }
        }
    }

    #[test]
    fn senders_use_a_queue_near_them() {
        let topology = opteron();
        let sites = Sites::new(&topology);
        let all = topology.online();
        for (queues, interrupts, cpus) in [
            (1, vec![Some(0)], vec![]),
            (2, vec![Some(0), Some(4)], vec!["0-3,8,10,12,14", "4-7,9,11,13,15"]),
            (4, vec![Some(12), Some(8), Some(4), Some(0)], vec!["12-15", "8-11", "4-7", "0-3"]),
            (2, vec![None, None], vec!["0,2,4,6,8,10,12,14", "1,3,5,7,9,11,13,15"]),
        ] {
            let steering = transmit_packet_steering(&sites, queues, &interrupts, all);
            assert_eq!(shown(&steering), cpus, "{queues} {interrupts:?}");
        }
        let each = transmit_packet_steering(&sites, 18, &[Some(15), Some(15)], all);
        assert_eq!(each.iter().map(CpuSet::len).max(), Some(1));
        assert_eq!(each[0].to_string(), "15");
        assert_eq!(each.iter().flatten().collect::<CpuSet>(), *all);
    }

    #[test]
    fn a_flow_table_is_divided() {
        for (share, queues, workers, count) in [
            (FlowShare::Queues, 1, 4, 32768),
            (FlowShare::Workers, 1, 4, 8192),
            (FlowShare::Queues, 16, 4, 2048),
            (FlowShare::Queues, 0, 0, 32768),
            (FlowShare::Queues, 65536, 1, 1),
        ] {
            assert_eq!(share.count(32768, queues, workers), count);
        }
    }
}
