//! A network namespace of a test's own, with two connected interfaces of four queues each; and the real files, with something done around
//! each write.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_affinity::CpuSet;
use lb_affinity::apply::{Applier, ApplyError, Report};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::nic::ethtool::EthtoolError;
use lb_affinity::nic::{ChannelCounts, Channels};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub(crate) mod wire;

/// Runs a test in a thread with namespaces of its own, in which `a0` and `a1` are connected and `/sys` shows them. All of it goes
/// with the thread; so does the directory that the test is given, which it may make.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce(&Path) + Send + 'static) {
    let directory = std::env::temp_dir().join(format!("lb-affinity-kernel-{name}-{}", std::process::id()));
    let place = directory.clone();
    let result = alone(move || {
        ip("link add a0 numrxqueues 4 numtxqueues 4 type veth peer name a1 numrxqueues 4 numtxqueues 4");
        test(&place);
    });
    let _ = std::fs::remove_dir_all(directory);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test in a thread of a namespace that is empty, and says how it ended.
pub(crate) fn alone(test: impl FnOnce() + Send + 'static) -> std::thread::Result<()> {
    let inside = || {
        enter();
        test();
    };
    std::thread::spawn(inside).join()
}

/// Gives the calling thread, and what it starts, a network namespace that is empty, and a `/sys` that shows it.
pub(crate) fn enter() {
    // The thread has its own root and working directory then, as a mount namespace of its own requires.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing).unwrap();
}

/// Runs `ip` with these arguments.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip of iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The machine's count of CPU numbers.
pub(crate) fn nr_cpu_ids() -> u32 {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    possible.parse::<CpuSet>().unwrap().last().unwrap() + 1
}

pub(crate) fn online() -> CpuSet {
    std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap().parse().unwrap()
}

pub(crate) fn open(directory: &Path) -> Applier<Real> {
    Applier::open(Real, directory, nr_cpu_ids()).unwrap()
}

pub(crate) fn rolled_back(result: Result<Report, ApplyError>) -> Report {
    match result {
        Err(ApplyError::RolledBack(report)) => *report,
        other => panic!("{other:?}"),
    }
}

/// The real files, with something done before and after each write.
pub(crate) struct Around<B, A> {
    pub(crate) before: B,
    pub(crate) after: A,
}

impl<B: Fn(), A: Fn()> FileSystem for Around<B, A> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Real.read(path)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        (self.before)();
        let result = Real.write(path, content);
        (self.after)();
        result
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        Real.list(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Real.canonicalize(path)
    }

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        Real.channels(interface)
    }

    fn set_channels(&self, interface: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        (self.before)();
        let result = Real.set_channels(interface, counts);
        (self.after)();
        result
    }
}

/// Does `work` when it is called for the time after `left` others.
pub(crate) fn after(left: u32, work: impl Fn()) -> impl Fn() {
    let left = Cell::new(left);
    move || {
        if left.replace(left.get().wrapping_sub(1)) == 0 {
            work();
        }
    }
}
