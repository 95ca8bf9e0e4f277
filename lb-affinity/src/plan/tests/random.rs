//! What holds for the plans of any machine.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::{Strategy, *};

/// A machine, and what is asked of it.
#[derive(Clone, Debug)]
pub(in crate::plan) struct Case {
    shape: Shape,
    allowed: CpuSet,
    isolated: CpuSet,
    pub(in crate::plan) receive: Receive,
    workers: Option<u32>,
    strategy: Strategy,
    use_isolated: bool,
}

impl Case {
    fn topology(&self) -> Topology {
        let (allowed, isolated) = (Some(self.allowed.clone()), self.isolated.clone());
        Topology::assemble(Parts { allowed, isolated, ..self.shape.parts() })
    }

    fn planner<'t>(&self, topology: &'t Topology) -> Planner<'t> {
        let planner = Planner::new(topology)
            .receive(self.receive.clone())
            .strategy(self.strategy)
            .use_isolated(self.use_isolated);
        match self.workers {
            Some(workers) => planner.workers(workers),
            None => planner,
        }
    }

    /// The machine, and its plan if there is one.
    pub(in crate::plan) fn plan(&self) -> (Topology, Option<Plan>) {
        let topology = self.topology();
        let plan = self.planner(&topology).plan().ok();
        (topology, plan)
    }
}

pub(in crate::plan) fn case() -> impl proptest::strategy::Strategy<Value = Case> {
    let shape = (1..5_u32, 1..4_u32, 1..5_u32, 1..3_u32);
    shape.prop_flat_map(|(nodes, caches, cores, threads)| {
        let total = nodes * caches * cores * threads;
        let rps = proptest::collection::btree_set(0..total, 0..3);
        let queue = (proptest::option::of(0..total), any::<bool>(), rps);
        (
            proptest::collection::btree_set(0..total, 0..=total as usize),
            proptest::collection::btree_set(0..total, 0..3),
            proptest::collection::vec(queue, 0..6),
            proptest::option::of(0..nodes),
            proptest::option::of(1..2 * total),
            proptest::sample::select(Strategy::ALL.to_vec()),
            any::<(bool, bool)>(),
        )
            .prop_map(
                move |(forbidden, isolated, queues, node, workers, strategy, (use_isolated, all))| {
                    let everything = CpuSet::first_n(total);
                    let forbidden: CpuSet = forbidden.into_iter().collect();
                    let irq = |(index, (cpu, movable, rps)): (u32, (_, bool, BTreeSet<u32>))| Queue {
                        irq: movable.then_some(100 + index),
                        cpu,
                        rps: rps.into_iter().collect(),
                    };
                    Case {
                        shape: Shape { nodes, caches, cores, threads },
                        allowed: if all { everything } else { &everything - &forbidden },
                        isolated: isolated.into_iter().collect(),
                        receive: Receive {
                            interface: Some("eth0".into()),
                            queues: (0..).zip(queues).map(irq).collect(),
                            transmit_queues: 3,
                            node,
                            channels: combined(3, 8),
                        },
                        workers,
                        strategy,
                        use_isolated,
                    }
                },
            )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_plan_keeps_the_rules(case in case()) {
        let topology = case.topology();
        let planner = case.planner(&topology);
        let for_network = &case.allowed - &case.isolated;
        let for_workers = if case.use_isolated { &case.allowed } else { &for_network };
        let plan = match planner.plan() {
            Ok(plan) => plan,
            Err(error) => {
                let no_cpu = matches!(error, PlanError::NoCpu { .. });
                prop_assert!(no_cpu && for_workers.is_empty(), "{}", error);
                return Ok(());
            }
        };
        let workers = workers_of(&plan);
        prop_assert!(!plan.workers.is_empty() && plan.workers.iter().all(|worker| !worker.cpus.is_empty()));
        prop_assert!(case.workers.is_none_or(|count| plan.workers.len() == count as usize));
        let given: CpuSet = case.receive.queues.iter().filter_map(|queue| queue.cpu).collect();
        let irqs: CpuSet = plan.queues.iter().filter_map(|queue| queue.cpu).collect();

        // Nothing is used that is not allowed; what was said of the interrupts is a fact.
        let allowed_workers = for_workers | &given;
        prop_assert!(workers.is_subset(&allowed_workers), "{:?}", plan);
        prop_assert!(!(&workers & for_workers).is_empty() || (for_workers - &given).is_empty());
        let allowed_network = &(&for_network | &given) | &workers;
        prop_assert!(plan.network.is_subset(&allowed_network), "{:?}", plan);
        for queue in &plan.queues {
            prop_assert!(queue.rps.iter().all(|rps| rps.is_subset(&for_network)), "{:?}", plan);
        }
        prop_assert!(plan.xps.iter().all(|cpus| cpus.is_subset(&case.allowed)));
        prop_assert!(!plan.reasons.is_empty());
        prop_assert!(plan.queue_setting().is_none_or(|queues| !plan.settings().contains(&queues)));
        prop_assert!(Planner::ranked(&planner, &Costs::default()).is_ok());
        if case.strategy.is_cpu_policy() {
            return Ok(());
        }

        // No worker is on an interrupt's CPU if there is another, and the network side is not too small to be apart.
        prop_assert!(irqs.is_subset(&plan.network));
        let free = for_workers - &irqs;
        let in_pairs = matches!(case.strategy, Strategy::Balanced | Strategy::NetworkOnOneNode | Strategy::Rss);
        let everywhere = in_pairs && 4 * plan.workers.len() > 3 * for_workers.len();
        if !free.is_empty() && !everywhere {
            prop_assert!(workers.is_disjoint(&irqs), "{:?}", plan);
        }
        // Each worker has a CPU while there are enough beside the network's.
        if plan.workers.len() < workers.len() || workers.len() < plan.workers.len() && !free.is_empty() {
            let spare = &(for_workers - &workers) - &irqs;
            prop_assert!(spare.is_subset(&plan.network), "{:?}", plan);
            // The network keeps one CPU for itself, or those that interrupts are on.
            let least = if case.strategy == Strategy::OneCpu { 2 } else { 1 };
            prop_assert!(spare.len() <= least, "{} are idle in {:?}", spare, plan);
        }
        if case.strategy != Strategy::Balanced || case.receive.queues.is_empty() {
            return Ok(());
        }
        // One thread a core, and interrupts that do not crowd a node: then all that fits is balanced.
        let moves = case.receive.queues.iter().all(|queue| queue.irq.is_some() || queue.cpu.is_none());
        let movable_alone = case.receive.queues.len() == 1 || moves;
        let per_node = |node: &Node| (&node.cpus & &for_network).len();
        let whole = topology.nodes().iter().map(|node| per_node(node) / 2).sum::<usize>();
        let usable_fixed = given.is_subset(&for_network);
        if movable_alone && usable_fixed && !case.use_isolated && plan.workers.len() <= whole {
            for (node, (workers, network)) in by_node(&topology, &plan) {
                // A node of one CPU that an interrupt is fixed on has no room for a worker beside it, and must do without.
                let lone = topology.nodes().iter().find(|one| Some(one.id) == node && per_node(one) == 1);
                let fixed = lone.map_or(0, |one| (&one.cpus & &given).len());
                prop_assert_eq!(workers + fixed, network, "node {:?} of {:?}", node, plan);
            }
        }
    }
}
