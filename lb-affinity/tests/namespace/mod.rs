//! A network namespace of a test's own, with two connected interfaces of four queues each.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a thread with namespaces of its own, in which `a0` and `a1` are connected and `/sys` shows them. All of it goes
/// with the thread; so does the directory that the test is given, which it may make.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce(&Path) + Send + 'static) {
    let directory = std::env::temp_dir().join(format!("lb-affinity-kernel-{name}-{}", std::process::id()));
    let place = directory.clone();
    let thread = std::thread::spawn(move || {
        enter();
        ip("link add a0 numrxqueues 4 numtxqueues 4 type veth peer name a1 numrxqueues 4 numtxqueues 4");
        test(&place);
    });
    let result = thread.join();
    let _ = std::fs::remove_dir_all(directory);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
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
