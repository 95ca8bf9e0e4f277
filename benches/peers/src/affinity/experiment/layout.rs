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
        let affinity = Affinity { strategy: Strategy::Balanced, interface: None };
        Self::new(what, workers, Some(affinity))
    }

    /// A plan that the director makes and applies.
    fn planned(plan: &Plan) -> Self {
        let workers: CpuSet = plan.workers.iter().flat_map(|worker| worker.cpus.iter()).collect();
        let network = match &plan.network {
            none if none.is_empty() => String::new(),
            cpus => format!(", network on {cpus}"),
        };
        let affinity = Affinity { strategy: plan.strategy, interface: Some(FRONT) };
        let what = format!("plan {} (workers on {workers}{network})", plan.strategy);
        let mut layout = Self::new(what, plan.workers.len(), Some(affinity));
        layout.table = plan.sock_flow_entries;
        layout.plan = plan.settings();
        // A network namespace has no such table; it is set for it.
        layout.plan.retain(|setting| !matches!(setting, Setting::RpsSockFlowEntries { .. }));
        layout
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
    let queues = u32::try_from(receive.queues.len()).unwrap_or(u32::MAX);
    let interface = || FRONT.to_owned();
    let rps = (0..queues).map(|queue| Setting::Rps { interface: interface(), queue, cpus: cpus.clone() });
    let count = SOCK_FLOW_ENTRIES / queues.max(1);
    let flows = (0..queues).map(|queue| Setting::RpsFlowCount { interface: interface(), queue, count });
    let mut steered = Layout::pinned(format!("pinned, RPS to the workers' CPUs {cpus}"), workers);
    steered.beside = rps.collect();
    let mut by_flow = Layout::pinned("pinned, RFS", workers);
    by_flow.beside = steered.beside.iter().cloned().chain(flows).collect();
    by_flow.table = Some(SOCK_FLOW_ENTRIES);
    Ok([steered, by_flow])
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
        assert!(names(&two).contains(&"2 pinned, RPS to the workers' CPUs 0-1".to_owned()));
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
            assert_eq!(named(&format!("plan {strategy} ")), 1, "{strategy}");
        }
        // All CPUs, and nothing set: that is what the system does.
        assert_eq!(named("plan none"), 0);
        let mut all: Vec<(usize, &str)> =
            layouts.iter().map(|one| (one.workers, one.what.as_str())).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), layouts.len());
        // The director has no table to set.
        let rfs = layouts.iter().find(|layout| layout.what.starts_with("plan rfs")).unwrap();
        assert_eq!(rfs.table, Some(32_768));
        assert!(rfs.plan.iter().all(|setting| !matches!(setting, Setting::RpsSockFlowEntries { .. })));
    }
}
