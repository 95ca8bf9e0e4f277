//! The layouts that are measured: the workers placed by the system, the same ones pinned, and what the network side can be given
//! beside that.

use super::lab::FRONT;
use crate::serving::Affinity;
use lb_affinity::plan::cost::Costs;
use lb_affinity::plan::{Plan, PlanError, Planner, Receive, SOCK_FLOW_ENTRIES, Strategy};
use lb_affinity::{CpuSet, Setting, Topology};
use std::collections::HashSet;

/// One layout of one director.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Its name, without the number of workers.
    pub(super) what: String,
    /// The director's workers.
    pub(super) workers: usize,
    /// What the director is told of it.
    pub(super) affinity: Option<Affinity>,
    /// What the director sets by that.
    pub(super) plan: Vec<Setting>,
    /// What is set beside that, before it starts.
    pub(super) beside: Vec<Setting>,
    /// The flows of RFS's table.
    pub(super) table: Option<u32>,
}

/// The name of the measure of all others.
pub(super) const BY_SYSTEM: &str = "placed by the OS";
/// The same once more: how far equals are apart.
pub(super) const AGAIN: &str = "placed by the OS again";

impl Layout {
    fn new(what: impl Into<String>, workers: usize, affinity: Option<Affinity>) -> Self {
        let what = what.into();
        Self { what, workers, affinity, plan: Vec::new(), beside: Vec::new(), table: None }
    }

    fn pinned(what: impl Into<String>, workers: usize) -> Self {
        let affinity = Affinity { strategy: Strategy::Balanced, interface: None, steering: false };
        Self::new(what, workers, Some(affinity))
    }

    /// A plan that the director makes and applies.
    fn planned(plan: &Plan) -> Self {
        let workers: CpuSet = plan.workers.iter().flat_map(|worker| worker.cpus.iter()).collect();
        let network = match &plan.network {
            none if none.is_empty() => String::new(),
            cpus => format!(", network on {cpus}"),
        };
        let affinity = Affinity { strategy: plan.strategy, interface: Some(FRONT), steering: false };
        let what = format!("plan {} (workers on {workers}{network})", plan.strategy);
        let mut layout = Self::new(what, plan.workers.len(), Some(affinity));
        layout.table = plan.sock_flow_entries;
        layout.plan = plan.settings();
        // A network namespace has no such table; it is set for it.
        layout.plan.retain(|setting| !matches!(setting, Setting::RpsSockFlowEntries { .. }));
        layout
    }

    /// Whether the director is told to steer connections.
    pub(super) fn steers(&self) -> bool {
        self.affinity.as_ref().is_some_and(|affinity| affinity.steering)
    }

    /// What is compared with each other.
    pub(super) fn is_measure_of(&self, other: &Self) -> bool {
        self.workers == other.workers && self.what == BY_SYSTEM
    }
}

/// The layouts for a director on the CPUs that `topology` allows, with an interface. `apart`: nobody else is on them.
pub(super) fn layouts(topology: &Topology, receive: &Receive, apart: bool) -> Result<Vec<Layout>, PlanError> {
    let planner = Planner::new(topology).receive(receive.clone());
    let most = if apart { planner.plan()?.workers.len() } else { topology.allowed().len().min(2) };
    let mut layouts = Vec::new();
    for workers in if most > 1 { vec![1, most] } else { vec![1] } {
        let planner = planner.clone().workers(u32::try_from(workers).unwrap_or(u32::MAX));
        layouts.push(Layout::new(BY_SYSTEM, workers, None));
        layouts.push(Layout::new(AGAIN, workers, None));
        layouts.push(Layout::pinned("pinned", workers));
        if !apart {
            layouts.push(Layout::planned(&planner.plan()?));
            layouts.extend(on_the_workers(&planner, receive)?);
        } else if workers > 1 {
            layouts.extend(ranked(&planner, topology)?);
        }
        layouts.extend(steered(&planner, topology, receive)?);
    }
    Ok(layouts)
}

/// The plans of all strategies, the best first. Those that come to the same are one, and what comes to nothing is none.
fn ranked(planner: &Planner<'_>, topology: &Topology) -> Result<Vec<Layout>, PlanError> {
    let mut seen = HashSet::new();
    let mut layouts = Vec::new();
    for (plan, _) in planner.ranked(&Costs::default())? {
        let cpus: Vec<String> = plan.workers.iter().map(|worker| worker.cpus.to_string()).collect();
        let settings: Vec<String> = plan.settings().iter().map(Setting::to_string).collect();
        let anywhere = plan.workers.iter().all(|worker| worker.cpus == *topology.allowed());
        if !(anywhere && settings.is_empty()) && seen.insert((cpus, settings)) {
            layouts.push(Layout::planned(&plan));
        }
    }
    Ok(layouts)
}

/// The network side on the workers' own CPUs, where there are no others: by RPS, and by RFS.
fn on_the_workers(planner: &Planner<'_>, receive: &Receive) -> Result<[Layout; 2], PlanError> {
    let plan = planner.clone().receive(Receive::default()).plan()?;
    let workers = plan.workers.len();
    let cpus: CpuSet = plan.workers.iter().flat_map(|worker| worker.cpus.iter()).collect();
    let mut by_packet = Layout::pinned(format!("pinned, RPS to the workers' CPUs {cpus}"), workers);
    by_packet.beside = rps(receive, &cpus);
    let mut by_flow = Layout::pinned("pinned, RFS", workers);
    let queues = queues(receive);
    let count = SOCK_FLOW_ENTRIES / queues.len().max(1) as u32;
    let flows = queues.map(|queue| Setting::RpsFlowCount { interface: FRONT.into(), queue, count });
    by_flow.beside = by_packet.beside.iter().cloned().chain(flows).collect();
    by_flow.table = Some(SOCK_FLOW_ENTRIES);
    Ok([by_packet, by_flow])
}

/// Connections that go to the worker near the CPU that received them, by the plan; or, where that has one CPU receive all, by RPS
/// to all CPUs, with workers that the system places. None where there is one worker.
fn steered(
    planner: &Planner<'_>,
    topology: &Topology,
    receive: &Receive,
) -> Result<Option<Layout>, PlanError> {
    let steering = |strategy| Affinity { strategy, interface: Some(FRONT), steering: true };
    let plan = planner.plan()?;
    if plan.steering(topology).is_some() {
        let mut layout = Layout::planned(&plan);
        layout.affinity = Some(steering(plan.strategy));
        layout.what.push_str(", connections steered");
        return Ok(Some(layout));
    }
    let cpus = topology.allowed();
    let mut receive = receive.clone();
    receive.queues.iter_mut().for_each(|queue| queue.rps.clone_from(cpus));
    let beside = rps(&receive, cpus);
    let plan = planner.clone().receive(receive).strategy(Strategy::None).plan()?;
    Ok(plan.steering(topology).map(|_| {
        let what = format!("{BY_SYSTEM}, RPS to {cpus}, connections steered");
        let affinity = Some(steering(Strategy::None));
        Layout { beside, ..Layout::new(what, plan.workers.len(), affinity) }
    }))
}

fn queues(receive: &Receive) -> std::ops::Range<u32> {
    0..u32::try_from(receive.queues.len()).unwrap_or(u32::MAX)
}

fn rps(receive: &Receive, cpus: &CpuSet) -> Vec<Setting> {
    let rps = |queue| Setting::Rps { interface: FRONT.into(), queue, cpus: cpus.clone() };
    queues(receive).map(rps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_affinity::plan::Queue;

    /// A machine of one node, and two queues whose interrupts are not known.
    fn of(cpus: u32, apart: bool) -> Vec<Layout> {
        let lines: String = (0..cpus).map(|cpu| format!("{cpu},{cpu},0,0,0\n")).collect();
        let topology = Topology::from_lscpu(&format!("# CPU,Core,Socket,Node,L3\n{lines}")).unwrap();
        let queues = vec![Queue::default(); 2];
        let receive = Receive { interface: Some(FRONT.into()), queues, ..Receive::default() };
        layouts(&topology, &receive, apart).unwrap()
    }

    #[test]
    fn few_cpus_are_shared() {
        let names = |layouts: &[Layout]| -> Vec<String> {
            layouts.iter().map(|layout| format!("{} {}", layout.workers, layout.what)).collect()
        };
        let two = of(2, false);
        let expected = [
            "1 placed by the OS",
            "1 placed by the OS again",
            "1 pinned",
            "1 plan balanced (workers on 0, network on 1)",
            "1 pinned, RPS to the workers' CPUs 0",
            "1 pinned, RFS",
            "2 placed by the OS",
        ];
        assert_eq!(names(&two)[..expected.len()], expected);
        for name in
            ["2 pinned, RPS to the workers' CPUs 0-1", "2 placed by the OS, RPS to 0-1, connections steered"]
        {
            assert!(names(&two).iter().any(|other| other == name), "{:?}", names(&two));
        }
        let rfs = two.iter().find(|layout| layout.what == "pinned, RFS").unwrap();
        assert_eq!((rfs.table, rfs.beside.len(), rfs.plan.len()), (Some(32_768), 4, 0));
        assert!(names(&of(1, false)).iter().all(|name| name.starts_with('1')));
    }

    #[test]
    fn where_there_is_room_all_plans_that_differ_are_measured() {
        let layouts = of(8, true);
        let named = |what: &str| layouts.iter().filter(|layout| layout.what.starts_with(what)).count();
        // One and four workers.
        assert_eq!((named(BY_SYSTEM), named(AGAIN), named("pinned")), (4, 2, 2));
        for strategy in ["balanced", "same-node", "rfs"] {
            let steered = usize::from(strategy == "balanced");
            assert_eq!(named(&format!("plan {strategy} ")), 1 + steered, "{strategy}");
        }
        // All CPUs, and nothing set: that is what the system does.
        assert_eq!(named("plan none"), 0);
        let mut all: Vec<(usize, &str)> =
            layouts.iter().map(|one| (one.workers, one.what.as_str())).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), layouts.len());
        let steered: Vec<&Layout> = layouts.iter().filter(|layout| layout.steers()).collect();
        assert_eq!(steered.len(), 1);
        assert!(
            steered[0].what.starts_with("plan balanced (workers on 0-3, network on 4-7)"),
            "{}",
            steered[0].what
        );
        // The director has no table to set.
        let rfs = layouts.iter().find(|layout| layout.what.starts_with("plan rfs")).unwrap();
        assert_eq!(rfs.table, Some(32_768));
        assert!(rfs.plan.iter().all(|setting| !matches!(setting, Setting::RpsSockFlowEntries { .. })));
    }
}
