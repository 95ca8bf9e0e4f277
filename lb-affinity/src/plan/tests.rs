//! Plans for machines of many shapes.

use std::collections::BTreeMap;

use super::cost::Costs;
use super::receive::combined;
use super::{Strategy, *};
use crate::topology::{Cache, CacheKind, CpuPlace, Node, Parts};

pub(super) mod random;

pub(super) fn opteron() -> Topology {
    Topology::from_lscpu(include_str!("../../tests/fixtures/opteron-16.lscpu")).unwrap()
}

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn cpu_place(id: u32, core: u32, capacity: Option<u32>) -> CpuPlace {
    CpuPlace { id, core: core.into(), capacity, ..CpuPlace::default() }
}

/// A regular machine. Siblings are numbered after all cores, as they mostly are.
#[derive(Clone, Copy, Debug)]
struct Shape {
    nodes: u32,
    caches: u32,
    cores: u32,
    threads: u32,
}

const fn shape(nodes: u32, caches: u32, cores: u32, threads: u32) -> Shape {
    Shape { nodes, caches, cores, threads }
}

impl Shape {
    fn parts(self) -> Parts {
        let cores = self.nodes * self.caches * self.cores;
        let of = |first: u32, count: u32| -> CpuSet {
            (0..self.threads)
                .flat_map(|thread| (first..first + count).map(move |core| thread * cores + core))
                .collect()
        };
        let cache = |cache| Cache {
            level: 3,
            kind: CacheKind::Unified,
            size: None,
            cpus: of(cache * self.cores, self.cores),
        };
        let in_node = self.caches * self.cores;
        let node =
            |id| Node { id, cpus: of(id * in_node, in_node), memory: Some(1 << 30), distances: Vec::new() };
        Parts {
            cpus: (0..cores * self.threads).map(|cpu| cpu_place(cpu, cpu % cores, None)).collect(),
            caches: (0..self.nodes * self.caches).map(cache).collect(),
            nodes: (0..self.nodes).map(node).collect(),
            ..Parts::default()
        }
    }

    fn build(self) -> Topology {
        Topology::assemble(self.parts())
    }
}

fn workers_of(plan: &Plan) -> CpuSet {
    plan.workers.iter().flat_map(|worker| &worker.cpus).collect()
}

pub(super) fn one_queue(topology: &Topology, irq: u32, workers: u32, strategy: Strategy) -> Plan {
    let planner = Planner::new(topology).receive(Receive::interrupt_on(irq)).workers(workers);
    planner.strategy(strategy).plan().unwrap()
}

fn movable(count: u32, node: Option<u32>) -> Receive {
    let queues = (0..count).map(|queue| Queue { irq: Some(100 + queue), ..Queue::default() }).collect();
    Receive { interface: Some("eth0".into()), queues, node, ..Receive::default() }
}

/// Workers and network CPUs of each node that has any.
fn by_node(topology: &Topology, plan: &Plan) -> BTreeMap<Option<u32>, (usize, usize)> {
    let mut nodes: BTreeMap<Option<u32>, (usize, usize)> = BTreeMap::new();
    for cpu in &workers_of(plan) {
        nodes.entry(topology.node_of(cpu)).or_default().0 += 1;
    }
    for cpu in &plan.network {
        nodes.entry(topology.node_of(cpu)).or_default().1 += 1;
    }
    nodes
}

#[test]
fn the_winner_of_the_measurements() {
    let plan = one_queue(&opteron(), 6, 4, Strategy::Balanced);
    assert_eq!(workers_of(&plan), cpus("0-1,4-5"));
    let each: Vec<String> = plan.workers.iter().map(|worker| worker.cpus.to_string()).collect();
    assert_eq!(each, ["0", "1", "4", "5"]);
    let memory: Vec<_> = plan.workers.iter().map(|worker| (worker.node, worker.memory)).collect();
    assert_eq!(memory, [(Some(0), Some(0)), (Some(0), Some(0)), (Some(1), Some(1)), (Some(1), Some(1))]);
    assert_eq!(plan.rps_mask(0).as_deref(), Some("008c"));
    assert_eq!(plan.rps_mask(1), None);
    assert_eq!(plan.network, cpus("2-3,6-7"));
    let reasons: Vec<String> = plan.reasons.iter().map(ToString::to_string).collect();
    assert_eq!(
        reasons,
        [
            "node 0: workers on 0-1, network on 2-3: a node does best with as many network CPUs as workers.",
            "node 1: workers on 4-5, network on 6-7: a node does best with as many network CPUs as workers, \
             and none is on the interrupt's CPU 6.",
            "RPS to 2-3,7 for 1 queue: the network CPUs share the protocol work, and the interrupt's CPU has enough to do.",
            "memory of 4 workers from each one's own node: memory of another node answers later.",
        ]
    );
}

#[test]
fn the_rule_holds_for_other_numbers_and_interrupts() {
    let topology = opteron();
    for (irq, workers, at, mask) in [
        (6, 1, "4", "0000"),
        (6, 2, "4-5", "0080"),
        (6, 3, "0,4-5", "0082"),
        (6, 4, "0-1,4-5", "008c"),
        (6, 5, "0-1,4-5,8", "028c"),
        (6, 8, "0-1,4-5,8-9,12-13", "cc8c"),
        (0, 4, "1-2,4-5", "00c8"),
        (15, 4, "0-1,12-13", "400c"),
        (5, 2, "4,6", "0080"),
        // Not CPUs enough for as many on both sides.
        (6, 12, "0-2,4-5,7-10,12-14", "8808"),
        // One network CPU serves three workers; with fewer, all CPUs do both.
        (6, 13, "0-5,7-13", "ffbf"),
        (6, 15, "0-5,7-15", "ffbf"),
        (6, 16, "0-15", "ffbf"),
        (6, 40, "0-15", "ffbf"),
    ] {
        let plan = one_queue(&topology, irq, workers, Strategy::Balanced);
        let found = (workers_of(&plan).to_string(), plan.rps_mask(0).unwrap());
        assert_eq!(found, (at.to_owned(), mask.to_owned()), "{workers} workers, interrupt on {irq}");
        assert_eq!(plan.workers.len(), workers as usize);
    }
    let default = Planner::new(&topology).receive(Receive::interrupt_on(6)).plan().unwrap();
    assert_eq!(workers_of(&default), cpus("0-1,4-5,8-9,12-13"), "half of the cores");
}

#[test]
fn every_strategy_has_its_layout() {
    let topology = opteron();
    for (strategy, workers, at, mask) in [
        (Strategy::SameNode, 3, "4-5,7", Some("0000")),
        (Strategy::SameNode, 4, "0,4-5,7", Some("0000")),
        (Strategy::NetworkOnOneNode, 4, "0-3", Some("00b0")),
        (Strategy::NetworkOnOneNode, 13, "0-3,7-15", Some("0030")),
        (Strategy::OneCpu, 4, "0-1,4-5", Some("0080")),
        (Strategy::Rss, 4, "0-1,4-5", Some("0000")),
        (Strategy::Rfs, 4, "0,4-5,7", Some("00b1")),
        (Strategy::FirstUsableNode, 4, "0-3", None),
        (Strategy::None, 4, "0-5,7-15", None),
        (Strategy::GroupByCcx, 5, "0-5,7", None),
        (Strategy::GroupBy2Ccx, 5, "0-5,7", None),
    ] {
        let plan = one_queue(&topology, 6, workers, strategy);
        let found = (workers_of(&plan).to_string(), plan.rps_mask(0));
        assert_eq!(found, (at.to_owned(), mask.map(str::to_owned)), "{strategy}");
        assert_eq!((plan.workers.len(), plan.strategy), (workers as usize, strategy));
    }
}

#[test]
fn other_machines_are_balanced_too() {
    for (name, shape, irq, workers, at, network) in [
        ("one node of 8", shape(1, 1, 8, 1), 0, 4, "1-4", "0,5-7"),
        ("2 × 32 with siblings", shape(2, 1, 32, 2), 3, 32, "0-2,4-16,32-47", "3,17-31,48-63"),
        ("fits one node", shape(2, 1, 32, 2), 3, 16, "0-2,4-16", "3,17-31"),
        ("64 nodes", shape(64, 1, 4, 1), 100, 5, "0-1,4,101-102", "2-3,5,100,103"),
        ("caches in a node", shape(1, 4, 8, 1), 9, 6, "0-1,8,10-12", "2-3,9,13-15"),
        // Only with siblings: 7 cores beside the interrupt's are too few for 8 and 7.
        ("siblings", shape(1, 1, 8, 2), 0, 8, "1-7,9", "0,8,10-15"),
    ] {
        let topology = shape.build();
        let plan = one_queue(&topology, irq, workers, Strategy::Balanced);
        assert_eq!(
            (workers_of(&plan).to_string(), plan.network.to_string()),
            (at.into(), network.into()),
            "{name}"
        );
    }
}

#[test]
fn a_machine_without_nodes_or_with_one_cpu_has_a_plan() {
    let bare = |count: u32| {
        let cpus = (0..count).map(|cpu| cpu_place(cpu, cpu, None)).collect();
        Topology::assemble(Parts { cpus, ..Parts::default() })
    };
    for (count, irq, workers, at, network) in [
        (1, 0, 1, "0", "0"),
        (1, 0, 3, "0", "0"),
        (2, 0, 1, "1", "0"),
        (2, 1, 4, "0-1", "0-1"),
        (2, 0, 2, "0-1", "0-1"),
        (4, 0, 3, "1-3", "0"),
        (8, 2, 7, "0-1,3-7", "0-7"),
        (8, 2, 3, "0-1,3", "2,4-5"),
    ] {
        for strategy in [Strategy::Balanced, Strategy::NetworkOnOneNode] {
            let plan = one_queue(&bare(count), irq, workers, strategy);
            assert_eq!((workers_of(&plan), &plan.network), (cpus(at), &cpus(network)), "{count} {workers}");
            assert_eq!(plan.workers.len(), workers as usize);
            assert!(plan.workers.iter().all(|worker| worker.memory.is_none()));
        }
    }
    let everywhere = one_queue(&bare(2), 0, 2, Strategy::Balanced);
    assert_eq!(
        everywhere.reasons[0].to_string(),
        "the machine: workers on 0-1, network on 0-1: so many workers would leave too few CPUs for the network alone, so all do \
         its work."
    );
    // Without an interrupt nobody knows where packets come in: each CPU keeps its own.
    let veth = Receive { queues: vec![Queue::default(); 2], transmit_queues: 2, ..Receive::default() };
    let plan = Planner::new(&bare(2)).receive(veth).workers(2).plan().unwrap();
    assert!(plan.queues.iter().all(|queue| queue.rps == Some(CpuSet::new())));
    assert!(
        plan.reasons.iter().any(|reason| reason.why.starts_with("no interrupt is known")),
        "{:?}",
        plan.reasons
    );
    let shared = one_queue(&bare(1), 0, 1, Strategy::Balanced);
    let reasons: Vec<String> = shared.reasons.iter().map(ToString::to_string).collect();
    assert!(reasons.iter().any(|reason| reason.contains("share CPU 0 with the interrupt")), "{reasons:?}");
    assert!(!reasons.iter().any(|reason| reason.contains("none is on the interrupt's")), "{reasons:?}");
    // The last CPU without an interrupt is the workers', wherever the interrupts are.
    let receive = Receive {
        queues: [0, 3].map(|cpu| Queue { cpu: Some(cpu), ..Queue::default() }).into(),
        ..Receive::default()
    };
    let parts = Parts { allowed: Some(cpus("0-1,3")), ..shape(2, 1, 2, 1).parts() };
    let topology = Topology::assemble(parts);
    let plan = Planner::new(&topology).receive(receive).workers(2).plan().unwrap();
    assert_eq!((workers_of(&plan), &plan.network), (cpus("1"), &cpus("0,3")));
    let crowded = one_queue(&opteron(), 6, 12, Strategy::Balanced);
    let reasons: Vec<String> = crowded.reasons.iter().map(ToString::to_string).collect();
    let advice = "4 CPUs for the network: so many are left beside the workers; up to 8 workers would have as many network CPUs.";
    assert!(reasons.iter().any(|reason| reason == advice), "{reasons:?}");
    // Nothing is known of a network: workers alone, side by side.
    let alone = Planner::new(&opteron()).workers(6).plan().unwrap();
    assert_eq!((workers_of(&alone), alone.network.len(), alone.settings()), (cpus("0-5"), 0, vec![]));
}

#[test]
fn interrupts_that_can_be_moved_take_the_network_cpus() {
    let topology = opteron();
    let queue = |irq, cpu| Queue { irq, cpu, rps: CpuSet::new() };
    for (name, receive, workers, at, irqs, masks) in [
        // One for each network CPU, at the NIC's node first.
        ("four", movable(4, Some(1)), 4, "0-1,4-5", vec![6, 7, 2, 3], vec!["", "", "", ""]),
        ("two", movable(2, Some(1)), 4, "0-1,4-5", vec![6, 7], vec!["2-3", "2-3"]),
        ("eight", movable(8, Some(1)), 2, "4-5", vec![6, 7, 6, 7, 6, 7, 6, 7], vec![""; 8]),
        ("one", movable(1, Some(3)), 1, "12", vec![13], vec![""]),
        (
            "in the wrong node",
            Receive { queues: vec![queue(Some(9), Some(0))], node: Some(1), ..Receive::default() },
            2,
            "4-5",
            vec![6],
            vec!["7"],
        ),
        (
            "well placed",
            Receive { queues: vec![queue(Some(9), Some(4))], node: Some(1), ..Receive::default() },
            2,
            "5-6",
            vec![4],
            vec!["7"],
        ),
    ] {
        let plan = Planner::new(&topology).receive(receive).workers(workers).plan().unwrap();
        assert_eq!(workers_of(&plan), cpus(at), "{name}");
        let found: Vec<u32> = plan.queues.iter().map(|queue| queue.cpu.unwrap()).collect();
        assert_eq!(found, irqs, "{name}");
        let found: Vec<String> =
            plan.queues.iter().map(|queue| queue.rps.clone().unwrap().to_string()).collect();
        assert_eq!(found, masks, "{name}");
    }
    // A plan that is in force is the plan.
    let first = Planner::new(&topology).receive(movable(2, Some(1))).workers(4).plan().unwrap();
    let mut again = movable(2, Some(1));
    again.queues.iter_mut().zip(&first.queues).for_each(|(queue, plan)| queue.cpu = plan.cpu);
    assert_eq!(Planner::new(&topology).receive(again).workers(4).plan(), Ok(first));
}

#[test]
fn settings_come_from_the_wire_inwards() {
    let topology = opteron();
    let nic = Receive { transmit_queues: 2, channels: combined(2, 64), ..movable(2, Some(1)) };
    let plan = Planner::new(&topology).receive(nic.clone()).workers(4).plan().unwrap();
    let shown = |plan: &Plan| plan.settings().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        shown(&plan),
        [
            "interrupt 100 smp_affinity = 6",
            "interrupt 101 smp_affinity = 7",
            "eth0 rx-0 rps_cpus = 2-3",
            "eth0 rx-1 rps_cpus = 2-3",
            "eth0 rx-0 rps_flow_cnt = 0",
            "eth0 rx-1 rps_flow_cnt = 0",
            "eth0 tx-0 xps_cpus = 0,2,4,6,8,10,12,14",
            "eth0 tx-1 xps_cpus = 1,3,5,7,9,11,13,15",
        ]
    );
    assert_eq!(plan.rss_queues, Some(16), "one a core");

    let rfs = Planner::new(&topology).receive(movable(1, Some(1))).workers(4).strategy(Strategy::Rfs);
    let lines = shown(&rfs.plan().unwrap());
    assert_eq!(
        lines[1..],
        [
            "eth0 rx-0 rps_cpus = 0,4-6",
            "net.core.rps_sock_flow_entries = 32768",
            "eth0 rx-0 rps_flow_cnt = 32768"
        ]
    );
    let lines = shown(&rfs.flows(SOCK_FLOW_ENTRIES, FlowShare::Workers).plan().unwrap());
    assert_eq!(lines[3], "eth0 rx-0 rps_flow_cnt = 8192");

    let policy = Planner::new(&topology).receive(nic).strategy(Strategy::GroupByCcx).plan().unwrap();
    assert_eq!(policy.settings(), [], "a policy for CPUs leaves the network alone");
}

#[test]
fn cpus_that_are_set_apart_stay_so() {
    let topology = |isolated: &str, allowed: &str| {
        let parts = shape(2, 1, 4, 1).parts();
        Topology::assemble(Parts { isolated: cpus(isolated), allowed: Some(cpus(allowed)), ..parts })
    };
    for (isolated, allowed, asked, at, network) in [
        ("2-3", "0-7", false, "1,4", "0,5"),
        ("2-3", "0-7", true, "2-3", "0-1"),
        ("", "4-7", false, "4-5", "0,6-7"),
        ("1-3", "0-3", true, "1-2", "0"),
        ("0-7", "0-7", true, "1-2", "0"),
    ] {
        let topology = topology(isolated, allowed);
        let planner = Planner::new(&topology).receive(Receive::interrupt_on(0)).workers(2);
        let plan = planner.use_isolated(asked).plan().unwrap();
        assert_eq!((workers_of(&plan), &plan.network), (cpus(at), &cpus(network)), "{isolated} of {allowed}");
    }
    let error = Planner::new(&topology("0-7", "0-7")).workers(1).plan().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no CPU is left for workers: allowed are {0-7}, isolated or without a tick are {0-7}; \
         widen the cpuset or the affinity of this process, or let workers use isolated CPUs"
    );
}

#[test]
fn what_cannot_be_planned_is_named() {
    let topology = opteron();
    let planner = || Planner::new(&topology).receive(Receive::interrupt_on(6));
    for (planner, message) in [
        (
            planner().workers(0),
            "0 workers cannot be placed; ask for at least 1, or give no number to have as many as fit",
        ),
        (
            planner().workers(70_000),
            "70000 workers are more than 65535, which is more than any machine has CPUs; ask for fewer",
        ),
        (
            planner().receive(Receive::interrupt_on(16)),
            "the interrupt of queue 0 is on CPU 16, which is not online; name one of the CPUs 0-15",
        ),
        (
            planner().receive(movable(1, Some(7))),
            "the NIC is at NUMA node 7, which this machine does not have; name one of its nodes, or none if it is not known",
        ),
    ] {
        assert_eq!(planner.plan().unwrap_err().to_string(), message);
    }
}

#[test]
fn memory_comes_from_a_node_that_has_some() {
    let mut parts = shape(2, 1, 2, 1).parts();
    parts.nodes[0].memory = Some(0);
    parts.nodes.push(Node { id: 2, cpus: CpuSet::new(), memory: Some(1), distances: Vec::new() });
    for (one, distances) in parts.nodes.iter_mut().zip([[10, 30, 20], [30, 10, 30], [20, 30, 10]]) {
        one.distances = distances.into();
    }
    let memory = |parts: &Parts| {
        let topology = Topology::assemble(parts.clone());
        let plan = Planner::new(&topology).workers(4).plan().unwrap();
        plan.workers.iter().map(|worker| worker.memory).collect::<Vec<_>>()
    };
    assert_eq!(memory(&parts), [Some(2), Some(2), Some(1), Some(1)]);
    parts.allowed_nodes = Some("1".parse().unwrap());
    assert_eq!(memory(&parts), [Some(1); 4]);
}

/// 2 fast cores of two threads, 4 slow ones: a laptop. One cache for all.
fn hybrid() -> Topology {
    let cores = [0, 0, 1, 1, 2, 3, 4, 5];
    let place = |(cpu, core)| cpu_place(cpu, core, Some(if core < 2 { 1024 } else { 600 }));
    let cache = Cache { level: 3, kind: CacheKind::Unified, size: None, cpus: cpus("0-7") };
    Topology::assemble(Parts {
        cpus: (0..).zip(cores).map(place).collect(),
        caches: vec![cache],
        ..Parts::default()
    })
}

#[test]
fn workers_get_the_fast_cores() {
    let topology = hybrid();
    for (irq, workers, at, network) in
        [(7, 2, "0,2", "4,7"), (7, 3, "0,2,4", "5-7"), (0, 2, "2,4", "0,5"), (4, 4, "0,2,5-6", "1,3-4,7")]
    {
        let plan = one_queue(&topology, irq, workers, Strategy::Balanced);
        assert_eq!((workers_of(&plan), &plan.network), (cpus(at), &cpus(network)), "{irq} {workers}");
    }
}

#[test]
fn policies_are_those_of_the_manual() {
    use Strategy as S;
    let groups = |topology: &Topology, strategy| {
        let plan = Planner::new(topology).strategy(strategy).plan().unwrap();
        let mut groups: Vec<(String, usize)> = Vec::new();
        for worker in &plan.workers {
            match groups.iter_mut().find(|(cpus, _)| *cpus == worker.cpus.to_string()) {
                Some((_, count)) => *count += 1,
                None => groups.push((worker.cpus.to_string(), 1)),
            }
        }
        groups.iter().map(|(cpus, count)| format!("{cpus} × {count}")).collect::<Vec<_>>().join(" ")
    };
    let epyc = shape(2, 2, 4, 1).build();
    let wide = shape(1, 1, 96, 1).build();
    let hybrid = hybrid();
    for (topology, strategy, expected) in [
        (&epyc, S::None, "0-15 × 16"),
        (&epyc, S::FirstUsableNode, "0-7 × 8"),
        (&epyc, S::GroupByCcx, "0-3 × 4 4-7 × 4 8-11 × 4 12-15 × 4"),
        (&epyc, S::GroupBy2Ccx, "0-7 × 8 8-15 × 8"),
        (&epyc, S::GroupBy3Ccx, "0-11 × 12 12-15 × 4"),
        (&epyc, S::GroupBy4Ccx, "0-15 × 16"),
        (&epyc, S::GroupBy2Clusters, "0-7 × 8 8-15 × 8"),
        (&epyc, S::GroupBy3Clusters, "0-11 × 12 12-15 × 4"),
        (&epyc, S::GroupBy4Clusters, "0-15 × 16"),
        (&epyc, S::Performance, "0-3 × 4 4-7 × 4 8-11 × 4 12-15 × 4"),
        (&epyc, S::Efficiency, "0-3 × 4 4-7 × 4 8-11 × 4 12-15 × 4"),
        (&epyc, S::Resource, "0-3 × 4"),
        (&wide, S::None, "0-95 × 64"),
        (&wide, S::FirstUsableNode, "0-95 × 64"),
        (&wide, S::GroupByCcx, "0-47 × 48 48-95 × 48"),
        (&hybrid, S::GroupByCcx, "0-7 × 8"),
        (&hybrid, S::GroupByCluster, "0-3 × 4 4-7 × 4"),
        (&hybrid, S::Performance, "0-3 × 4"),
        (&hybrid, S::Efficiency, "4-7 × 4"),
        (&hybrid, S::Resource, "4-7 × 4"),
    ] {
        assert_eq!(groups(topology, strategy), expected, "{strategy}");
    }
}

#[test]
fn the_model_prefers_what_was_measured_to_be_best() {
    let topology = opteron();
    let planner = Planner::new(&topology).receive(Receive::interrupt_on(6)).workers(4);
    let ranked = planner.ranked(&Costs::default()).unwrap();
    assert_eq!(ranked.len(), Strategy::ALL.len());
    assert_eq!(ranked[0].0.strategy, Strategy::Balanced);
    assert!(ranked.is_sorted_by(|one, other| one.1.throughput >= other.1.throughput * (1.0 - 1e-6)));
}

#[cfg(feature = "serde")]
#[test]
fn plans_are_stored_and_come_back() {
    for strategy in Strategy::ALL {
        let plan = one_queue(&opteron(), 6, 4, strategy);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
    }
}
