//! Why a plan is as it is, in sentences.

use std::collections::{BTreeMap, HashMap};

use super::workers::Pool;
use super::{Plan, Reason, Receive, Strategy, Worker};
use crate::CpuSet;

impl Plan {
    fn because(&mut self, choice: impl Into<String>, why: impl Into<String>) {
        self.reasons.push(Reason { choice: choice.into(), why: why.into() });
    }
}

/// `1 worker`, `2 workers`.
fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

fn cpus_of(workers: &[Worker]) -> CpuSet {
    let mut all = CpuSet::new();
    for worker in workers {
        all |= &worker.cpus;
    }
    all
}

/// Workers and network CPUs, queues, flow tables and transmit queues. `everywhere`: all CPUs do network work.
pub(super) fn explain(plan: &mut Plan, pool: &Pool<'_>, wanted: Option<usize>, everywhere: bool) {
    let sites = pool.sites;
    let interrupts: CpuSet = plan.queues.iter().filter_map(|queue| queue.cpu).collect();
    let workers = cpus_of(&plan.workers);

    let mut nodes: BTreeMap<usize, (CpuSet, CpuSet)> = BTreeMap::new();
    for site in sites.of(&workers) {
        nodes.entry(site.node).or_default().0.insert(site.cpu);
    }
    for site in sites.of(&plan.network) {
        nodes.entry(site.node).or_default().1.insert(site.cpu);
    }
    for (node, (workers, network)) in nodes {
        let name = match sites.nodes[node] {
            Some(id) => format!("node {id}"),
            None => "the machine".to_owned(),
        };
        let choice = match (workers.is_empty(), network.is_empty()) {
            (false, false) => format!("{name}: workers on {workers}, network on {network}"),
            (false, true) => format!("{name}: workers on {workers}"),
            _ => format!("{name}: network on {network}"),
        };
        let why = if everywhere {
            "so many workers would leave too few CPUs for the network alone, so all do its work.".to_owned()
        } else {
            why_here(plan.strategy, &workers, &network, &interrupts)
        };
        plan.because(choice, why);
    }
    if plan.workers.len() > workers.len() {
        let choice = format!("{} on {}", count(plan.workers.len(), "worker"), count(workers.len(), "CPU"));
        plan.because(
            choice,
            "there is no CPU of its own for each of them, so they share; fewer workers would do as much.",
        );
    }
    if plan.strategy == Strategy::Balanced && pool.network && plan.network.len() < workers.len() {
        let balanced = count(pool.most_balanced(), "worker");
        plan.because(
            format!("{} for the network", count(plan.network.len(), "CPU")),
            format!("so many are left beside the workers; up to {balanced} would have as many network CPUs."),
        );
    }
    if wanted.is_none() {
        let choice = count(plan.workers.len(), "worker");
        plan.because(choice, "no number was given; so many fit without a sibling of a busy core.");
    }
    if !everywhere && !(&workers & &interrupts).is_empty() {
        plan.because(
            format!("workers share CPU {} with the interrupt", &workers & &interrupts),
            "there is no other CPU for them.",
        );
    }
    explain_queues(plan, &interrupts, everywhere);
}

fn why_here(strategy: Strategy, workers: &CpuSet, network: &CpuSet, interrupts: &CpuSet) -> String {
    if network.is_empty() {
        return match strategy {
            Strategy::SameNode | Strategy::OneCpu | Strategy::Rfs => {
                "the interrupt's node is full, so these workers are on the nearest node.".to_owned()
            }
            Strategy::NetworkOnOneNode => {
                "the network has a node of its own, and this is the nearest.".to_owned()
            }
            _ => "no network work comes here.".to_owned(),
        };
    }
    if workers.is_empty() {
        return if strategy == Strategy::NetworkOnOneNode {
            "one node does all network work, and keeps its memory to it.".to_owned()
        } else {
            "interrupts are here, and no worker is needed beside them.".to_owned()
        };
    }
    let apart = if (interrupts & network).is_empty() || !(interrupts & workers).is_empty() {
        String::new()
    } else {
        format!(", and none is on the interrupt's CPU {}", interrupts & network)
    };
    match strategy {
        Strategy::SameNode => format!("workers are in the node where their packets arrive{apart}."),
        Strategy::Rfs => format!("workers are near the interrupt, which only hands packets on{apart}."),
        Strategy::OneCpu => format!("one CPU does the protocol work for all workers{apart}."),
        _ if workers.len() == network.len() => {
            format!("a node does best with as many network CPUs as workers{apart}.")
        }
        _ => format!(
            "the CPUs do not reach for as many network CPUs as workers ({} and {}){apart}.",
            network.len(),
            workers.len()
        ),
    }
}

fn explain_queues(plan: &mut Plan, interrupts: &CpuSet, everywhere: bool) {
    // Queues that are served alike share a sentence.
    let moved = plan.queues.iter().filter(|queue| queue.irq.is_some()).count();
    if moved > 0 {
        let cpus: CpuSet =
            plan.queues.iter().filter(|queue| queue.irq.is_some()).filter_map(|q| q.cpu).collect();
        plan.because(
            format!("{} on {cpus}", count(moved, "interrupt")),
            if everywhere {
                "they take the network CPUs in turn."
            } else {
                "they take the network CPUs in turn, so that no worker is interrupted."
            },
        );
    }
    let mut masks: HashMap<CpuSet, usize> = HashMap::new();
    for rps in plan.queues.iter().filter_map(|queue| queue.rps.as_ref()) {
        match masks.get_mut(rps) {
            Some(queues) => *queues += 1,
            None => drop(masks.insert(rps.clone(), 1)),
        }
    }
    let mut masks: Vec<(CpuSet, usize)> = masks.into_iter().collect();
    masks.sort_by(|(one, _), (other, _)| one.iter().cmp(other));
    for (cpus, queues) in masks {
        let queues = count(queues, "queue");
        if cpus.is_empty() {
            let why = match plan.strategy {
                Strategy::SameNode => "the interrupt's CPU does the protocol work itself.",
                _ if everywhere && interrupts.is_empty() => {
                    "no interrupt is known, so packets come by the CPU of who sends them, and stay there."
                }
                _ => {
                    "each network CPU has an interrupt of its own, so handing packets on would only add work."
                }
            };
            plan.because(format!("no RPS for {queues}"), why);
        } else if plan.strategy == Strategy::Rfs {
            plan.because(
                format!("RPS to {cpus} for {queues}"),
                "packets of flows that are not known yet should come to a worker's CPU too.",
            );
        } else {
            let why = if interrupts.is_empty() {
                "the network CPUs share the protocol work."
            } else if (&cpus & interrupts).is_empty() {
                "the network CPUs share the protocol work, and the interrupt's CPU has enough to do."
            } else {
                "most network CPUs have an interrupt, so they take part in the protocol work."
            };
            plan.because(format!("RPS to {cpus} for {queues}"), why);
        }
    }
    if let (Some(entries), Some(flows)) =
        (plan.sock_flow_entries, plan.queues.first().and_then(|q| q.flow_count))
    {
        plan.because(
            format!("a table of {entries} flows, {flows} for each queue"),
            "the kernel then sends each flow's packets to the CPU of the worker that reads it.",
        );
    }
    if !plan.xps.is_empty() {
        plan.because(
            format!("XPS over {}", count(plan.xps.len(), "transmit queue")),
            "CPUs that share a queue share a cache where there are queues enough, and no lock goes round the machine.",
        );
    }
}

/// What a policy of HAProxy's made of the machine.
pub(super) fn explain_policy(plan: &mut Plan, groups: &[CpuSet], dropped: bool) {
    let shown = groups.iter().take(8).map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    let more = if groups.len() > 8 { " | …" } else { "" };
    let why = match plan.strategy {
        Strategy::None => "every CPU may be used, and the scheduler places the workers.",
        Strategy::FirstUsableNode => "one NUMA node keeps all memory near, and this is the first with CPUs.",
        Strategy::Performance => {
            "the fast cores do the work, and workers of a group share a last-level cache."
        }
        Strategy::Efficiency => {
            "the efficient cores do the work, and workers of a group share a last-level cache."
        }
        Strategy::Resource => "the smallest and slowest cluster leaves the rest of the machine alone.",
        _ => "workers of a group share a last-level cache, or those of few neighbours.",
    };
    let choice = format!(
        "{} in {} ({shown}{more})",
        count(plan.workers.len(), "worker"),
        count(groups.len(), "group")
    );
    plan.because(choice, why);
    if dropped {
        plan.because("the interrupt's CPU is left out", "network work there would hold up a worker.");
    }
    plan.because("the network side stays as it is", "the policy says only where workers run.");
}

/// Memory, where there is more than one node to have it from, and RSS, if it is not yet as it should be.
pub(super) fn add_common(plan: &mut Plan, receive: &Receive, nodes: usize) {
    let own =
        plan.workers.iter().filter(|worker| worker.memory.is_some() && worker.memory == worker.node).count();
    let near =
        plan.workers.iter().filter(|worker| worker.memory.is_some() && worker.memory != worker.node).count();
    if own > 0 && nodes > 1 {
        let each = if own == 1 { "its" } else { "each one's" };
        plan.because(
            format!("memory of {} from {each} own node", count(own, "worker")),
            "memory of another node answers later.",
        );
    }
    if near > 0 {
        let workers = count(near, "worker");
        plan.because(
            format!("memory of {workers} from the nearest node"),
            "their own has none, or none for this process.",
        );
    }
    if let (Some(queues), Some(channels), Some(_)) = (plan.rss_queues, receive.channels, plan.channels) {
        let (most, has) = (channels.most_receive_queues(), channels.receive_queues());
        plan.because(
            format!("{} of {most} on the NIC, which has {has}", count(queues as usize, "receive queue")),
            "one a core is best, and more only add interrupts.",
        );
    }
}
