//! Who runs on which processor.

use lb_affinity::{CpuSet, Topology, thread};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::Command;

/// Processors for the proxies, the client and the servers. Sets without a member bind nobody: there are too few to set any apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    proxies: CpuSet,
    client: CpuSet,
    servers: CpuSet,
}

/// Processors from which on [`Places::divided`] sets some apart: half of them are two workers and as many for the network.
const ENOUGH: usize = 8;

impl Places {
    /// The first `workers` processors for the proxies' workers, the rest for the client and the servers together, where
    /// that leaves at least one.
    pub(crate) fn for_workers(workers: usize) -> Self {
        // Only the comparison's fairness is at stake, and the row of the servers alone shows it.
        let all = thread::affinity().unwrap_or_default();
        if all.len() <= workers {
            return Self::default();
        }
        let proxies: CpuSet = all.iter().take(workers).collect();
        let others = &all - &proxies;
        Self { proxies, client: others.clone(), servers: others }
    }

    /// Half of a machine for one proxy, a quarter each for its client and its servers, in whole cores: every other
    /// half of a node, or half of the nodes where there are at least four, so that a layout has nodes to fill.
    pub(crate) fn divided(topology: &Topology) -> Self {
        let usable = &(topology.allowed() - topology.isolated()) - topology.nohz_full();
        if usable.len() < ENOUGH {
            return Self::default();
        }
        let mut nodes: BTreeMap<_, BTreeMap<usize, CpuSet>> = BTreeMap::new();
        for cpu in topology.cpus().iter().filter(|cpu| usable.contains(cpu.id)) {
            nodes.entry(cpu.node).or_default().entry(cpu.core).or_default().insert(cpu.id);
        }
        let whole = nodes.len() >= 4;
        let half = nodes.len() / 2;
        let mut places = Self::default();
        for (index, cores) in nodes.into_values().enumerate() {
            let others = places.client.len() + places.servers.len();
            // An odd core goes to whoever has less.
            let share = match whole {
                true if index < half => cores.len(),
                true => 0,
                false => (cores.len() + usize::from(places.proxies.len() < others)) / 2,
            };
            for (place, core) in cores.into_values().enumerate() {
                if place < share {
                    places.proxies |= &core;
                } else if places.client.len() <= places.servers.len() {
                    places.client |= &core;
                } else {
                    places.servers |= &core;
                }
            }
        }
        places
    }

    /// Whether anybody has processors of his own.
    pub(crate) fn are_apart(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// The proxies' processors.
    pub(crate) fn proxies(&self) -> &CpuSet {
        &self.proxies
    }

    /// The client's processors.
    pub(crate) fn client(&self) -> &CpuSet {
        &self.client
    }

    /// The servers' processors.
    pub(crate) fn servers(&self) -> &CpuSet {
        &self.servers
    }

    /// A command that runs `program` where proxies run.
    pub(crate) fn proxy_command(&self, program: impl AsRef<OsStr>) -> Command {
        bound(&self.proxies, program.as_ref())
    }

    /// A command that runs `program` where the client runs.
    pub(super) fn client_command(&self, program: impl AsRef<OsStr>) -> Command {
        bound(&self.client, program.as_ref())
    }

    /// Puts the calling thread where servers run.
    pub(super) fn enter_servers(&self) {
        if !self.servers.is_empty() {
            // As above.
            let _ = thread::pin(&self.servers);
        }
    }
}

/// `setpriv` has the kernel kill the program with this one; `taskset` chooses its processors. Both are of
/// util-linux, which every Debian has.
fn bound(processors: &CpuSet, program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if !processors.is_empty() {
        command.args(["taskset", "--cpu-list", &processors.to_string()]);
    }
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_divided_in_whole_cores() {
        // How many CPUs, cores and nodes hold a CPU each; whose CPUs are which.
        for (cpus, of_core, of_node, proxies, client, servers) in [
            (2, 1, 2, "", "", ""),
            (7, 1, 7, "", "", ""),
            (8, 1, 8, "0-3", "4,6", "5,7"),
            (8, 2, 8, "0-3", "4-5", "6-7"),
            (16, 1, 16, "0-7", "8,10,12,14", "9,11,13,15"),
            // Two nodes: half of each.
            (16, 1, 8, "0-3,8-11", "4,6,12,14", "5,7,13,15"),
            // Four: the first two.
            (16, 1, 4, "0-7", "8,10,12,14", "9,11,13,15"),
            // Nodes of an odd number of cores: one has more in the one, the other in the other.
            (10, 1, 5, "0-1,5-7", "2,4,9", "3,8"),
        ] {
            let lines: String =
                (0..cpus).map(|cpu| format!("{cpu},{},0,{}\n", cpu / of_core, cpu / of_node)).collect();
            let topology = Topology::from_lscpu(&format!("# CPU,Core,Socket,Node\n{lines}")).unwrap();
            let places = Places::divided(&topology);
            let all = [&places.proxies, &places.client, &places.servers].map(CpuSet::to_string);
            assert_eq!(all, [proxies, client, servers], "{cpus} {of_core} {of_node}");
        }
    }

    #[test]
    fn programs_are_bound_and_die_with_this_one() {
        let words = |places: &Places| {
            let command = places.proxy_command("nginx");
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(&Places::default()), "setpriv --pdeathsig KILL -- nginx");
        let places = Places { proxies: "1-2,5".parse().unwrap(), ..Places::default() };
        assert_eq!(words(&places), "setpriv --pdeathsig KILL -- taskset --cpu-list 1-2,5 nginx");
    }
}
