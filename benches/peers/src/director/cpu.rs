//! Who runs on which processor.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::process::Command;

/// Processors for the proxies and for everybody else; none set apart where there are too few.
#[derive(Clone)]
pub(super) struct Places {
    workers: usize,
    proxies: Vec<usize>,
    others: Vec<usize>,
}

impl Places {
    /// The first `workers` processors for the proxies' workers, the rest for the client and the servers, where
    /// that leaves at least one.
    pub(super) fn of_this_machine(workers: usize) -> Self {
        let mut all = allowed();
        if all.len() > workers {
            let others = all.split_off(workers);
            Self { workers, proxies: all, others }
        } else {
            Self { workers, proxies: Vec::new(), others: Vec::new() }
        }
    }

    /// Workers of each proxy.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// A command that runs `program` where proxies run.
    pub(super) fn proxy(&self, program: impl AsRef<OsStr>) -> Command {
        bound(&self.proxies, program.as_ref())
    }

    /// A command that runs `program` where the rest runs.
    pub(super) fn other(&self, program: impl AsRef<OsStr>) -> Command {
        bound(&self.others, program.as_ref())
    }

    /// Puts the calling thread where the rest runs.
    pub(super) fn enter_other(&self) {
        let mut set = CpuSet::new();
        for &processor in &self.others {
            // A number that does not fit came from the same kernel's list.
            let _ = set.set(processor);
        }
        if !self.others.is_empty() {
            // Only the comparison's fairness is at stake, and the row of the servers alone shows it.
            let _ = sched_setaffinity(Pid::from_raw(0), &set);
        }
    }
}

fn allowed() -> Vec<usize> {
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count()).filter(|&processor| set.is_set(processor).unwrap_or(false)).collect(),
        Err(_) => Vec::new(),
    }
}

/// `setpriv` has the kernel kill the program with this one; `taskset` chooses its processors. Both are of
/// util-linux, which every Debian has.
fn bound(processors: &[usize], program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if !processors.is_empty() {
        let list: Vec<String> = processors.iter().map(usize::to_string).collect();
        command.args(["taskset", "--cpu-list", &list.join(",")]);
    }
    command.arg(program);
    command
}
