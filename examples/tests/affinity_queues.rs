//! `affinity apply --queues` on an interface with more queues than the machine has cores, and what the director makes of it.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;
#[path = "../../lb-affinity/tests/namespace/mod.rs"]
mod namespace;

use std::process::Command;

use director::{Director, Origin, client, simple};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::{Interrupts, Nic, Topology};
use namespace::ip;
use nix::mount::{MsFlags, mount};
use serde_json::Value;

/// Runs a test in a thread with a network, a `/sys` and a `/run` of its own, and `a0` with two more receive queues than there are cores.
/// All of it goes with the thread and the programs that it started.
fn on_many_queues(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        namespace::enter();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        ip("link set lo up");
        let queues = cores() + 2;
        ip(&format!("link add a0 numrxqueues {queues} numtxqueues 4 type veth peer name a1"));
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The cores that a plan may use.
fn cores() -> u32 {
    let topology = Topology::live().unwrap();
    let network = topology.allowed() - &(topology.isolated() | topology.nohz_full());
    let cores = network.iter().filter_map(|cpu| Some(topology.cpu(cpu)?.core));
    cores.collect::<std::collections::HashSet<_>>().len() as u32
}

/// What it printed, and whether it succeeded.
fn affinity(arguments: &str) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_affinity")).args(arguments.split(' ')).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (said, output.status.success())
}

fn well(arguments: &str) -> String {
    let (said, success) = affinity(arguments);
    assert!(success, "{arguments}: {said}");
    said
}

/// The number of channels, and what the queues hold.
fn state() -> (String, Nic) {
    let counts = Real.channels("a0").unwrap().counts();
    (counts.to_string(), Nic::read(&Real, "a0", &Interrupts::read(&Real).unwrap()).unwrap())
}

#[test]
#[ignore = "needs root"]
fn queues_are_set_only_when_that_is_asked_for() {
    on_many_queues(|| {
        // What is to come back, on a queue that goes.
        std::fs::write(format!("/sys/class/net/a0/queues/rx-{}/rps_cpus", cores() + 1), "1").unwrap();
        let before = state();
        let (cores, all) = (cores(), cores() + 2);
        assert_eq!((before.0.as_str(), before.1.rx.len() as u32), (&*format!("rx {all} tx 4"), all));

        let planned = well("plan --nic a0 --workers 1");
        assert!(planned.contains("First, with `affinity apply --queues`"), "{planned}");
        assert!(planned.contains(&format!("  a0 channels ← rx {cores}\n")), "{planned}");
        let planned: Value = serde_json::from_str(&well("plan --nic a0 --workers 1 --json")).unwrap();
        assert_eq!(planned["queues"]["value"], format!("rx {cores}"));
        let dry = well("apply --nic a0 --workers 1 --queues --dry-run");
        assert_eq!(
            dry,
            format!(
                "a0 channels: rx {all} tx 4 → rx {cores}\n\
             The rest is planned for the queues and interrupts that there are then.\n"
            )
        );
        well("apply --nic a0 --workers 1");
        assert_eq!(state().0, before.0, "not asked for");
        well("restore");
        assert_eq!(state(), before);

        let report = well("apply --nic a0 --workers 1 --queues");
        assert!(
            report.contains(&format!("a0 channels = rx {cores}: applied (was rx {all} tx 4)")),
            "{report}"
        );
        assert!(!report.contains("--queues"), "that is done: {report}");
        assert_eq!((state().0, state().1.rx.len() as u32), (format!("rx {cores} tx 4"), cores));
        let again = well("apply --nic a0 --workers 1 --queues");
        assert!(!again.contains("channels ="), "{again}");
        let restored = well("restore");
        assert!(restored.contains(&format!("a0 channels = rx {all} tx 4: put back")), "{restored}");
        assert_eq!(state(), before);
        assert_eq!(well("restore"), "nothing to restore\n");

        let (said, success) = affinity("apply --workers 1 --queues");
        assert!(!success && said.contains("--nic"), "{said}");
    });
}

#[test]
#[ignore = "needs root"]
fn the_director_changes_no_queues() {
    on_many_queues(|| {
        let before = state();
        let origin = Origin::start("a");
        let config =
            format!("[affinity]\nstrategy = \"balanced\"\ninterface = \"a0\"\n{}", simple(&[&origin], ""));
        // By itself.
        let mut director = Director::start(&config);
        assert_eq!(state().0, before.0);
        assert!(!director.stderr().contains("left undone"), "{}", director.stderr());
        director.signal("TERM");
        director.wait();
        assert_eq!(state(), before);

        // Nor does it take back what somebody has asked for.
        well("apply --nic a0 --workers 1 --queues");
        let set = state();
        assert_ne!(set.0, before.0);
        let mut director = Director::start(&config);
        let said = director.stderr();
        assert!(
            said.contains("left undone: `affinity apply --queues` has changed the number of queues of a0"),
            "{said}"
        );
        assert_eq!(client::get(director.http, "/").status, 200);
        director.signal("TERM");
        director.wait();
        assert_eq!(state(), set);
        well("restore");
        assert_eq!(state(), before);
    });
}
