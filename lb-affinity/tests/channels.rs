//! Real numbers of channels: a pair of virtual interfaces with four receive and four transmit queues each.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod namespace;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use lb_affinity::apply::{
    Applier, ApplyError, Denial, IfChanged, OnFailure, Outcome, Report, Return, dry_run,
};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::nic::{ChannelCounts, Nic};
use lb_affinity::{CpuSet, Interrupts, Setting};
use namespace::{Around, after, in_namespace, ip, nr_cpu_ids, online, open, rolled_back};

fn channels(counts: &str) -> Setting {
    Setting::Channels { interface: "a0".into(), counts: counts.parse().unwrap() }
}

fn counts() -> String {
    Real.channels("a0").unwrap().counts().to_string()
}

fn nic() -> Nic {
    Nic::read(&Real, "a0", &Interrupts::read(&Real).unwrap()).unwrap()
}

/// Of each queue that there is now, other values than those of the test's begin.
fn planned() -> Vec<Setting> {
    let nic = nic();
    let last = CpuSet::from(online().last().unwrap());
    let receive = nic.rx.iter().flat_map(|rx| {
        [
            Setting::Rps { interface: "a0".into(), queue: rx.index, cpus: online() },
            Setting::RpsFlowCount { interface: "a0".into(), queue: rx.index, count: 512 },
        ]
    });
    let send = nic.tx.iter().filter(|tx| tx.xps_cpus.is_some());
    let send = send.map(|tx| Setting::Xps { interface: "a0".into(), queue: tx.index, cpus: last.clone() });
    receive.chain(send).collect()
}

/// What somebody has set of each queue before.
fn customize() {
    let first = CpuSet::from(0).mask(nr_cpu_ids()).to_string();
    for queue in 0..4 {
        let queues = "/sys/class/net/a0/queues";
        std::fs::write(format!("{queues}/rx-{queue}/rps_cpus"), &first).unwrap();
        std::fs::write(format!("{queues}/rx-{queue}/rps_flow_cnt"), (64 << queue).to_string()).unwrap();
        std::fs::write(format!("{queues}/tx-{queue}/xps_cpus"), &first).unwrap();
    }
}

/// The interface's channels, and what every file of its queues holds.
fn state() -> (String, BTreeMap<String, String>) {
    let shown = |setting: Setting| {
        let content = std::fs::read_to_string(setting.target().path().unwrap()).unwrap();
        (setting.target().to_string(), content)
    };
    (counts(), nic().settings().into_iter().map(shown).collect())
}

/// A number of channels, and what is planned when it is there.
fn apply<F: FileSystem>(applier: &mut Applier<F>, counts: &str) -> Result<Report, ApplyError> {
    applier.apply_then(&[channels(counts)], |_| Ok(planned()))
}

#[test]
#[ignore = "needs root"]
fn channels_are_set_read_back_and_restored() {
    in_namespace("channels", |directory| {
        customize();
        let before = state();
        assert_eq!((before.0.as_str(), before.1.len()), ("rx 4 tx 4", 12));
        let dry = dry_run(&Real, &[channels("rx 2 tx 3")], nr_cpu_ids()).unwrap();
        assert_eq!(dry.to_string(), "a0 channels: rx 4 tx 4 → rx 2 tx 3");
        let report = apply(&mut open(directory), "rx 2 tx 3").unwrap();
        assert_eq!(report.lines.len(), 1 + 2 * 2 + 3, "{report}");
        assert!(report.lines.iter().all(|line| !line.outcome.is_failure()), "{report}");
        assert_eq!(report.lines[0].outcome, Outcome::Applied);
        assert_eq!((counts().as_str(), nic().rx.len(), nic().tx.len()), ("rx 2 tx 3", 2, 3));
        assert_eq!(nic().rx[1].rps_cpus, Some(online()));
        // By another applier, as after a crash.
        let restored = open(directory).restore(IfChanged::Leave).unwrap();
        assert!(restored.is_complete(), "{restored}");
        assert_eq!(state(), before, "{restored}");

        // And the other way round: from fewer to more.
        Real.set_channels("a0", ChannelCounts { rx: Some(1), ..ChannelCounts::default() }).unwrap();
        let before = state();
        apply(&mut open(directory), "rx 4").unwrap();
        assert_eq!((counts().as_str(), nic().rx.len()), ("rx 4 tx 4", 4));
        assert!(open(directory).restore(IfChanged::Leave).unwrap().is_complete());
        assert_eq!(state(), before);
        assert!(!directory.join("journal").exists());
    });
}

#[test]
#[ignore = "needs root"]
fn what_the_kernel_refuses_is_said_in_its_words_and_leaves_nothing_behind() {
    in_namespace("channels-refused", |directory| {
        customize();
        let before = state();
        let report = rolled_back(apply(&mut open(directory), "rx 5"));
        let outcome = &report.lines[0].outcome;
        assert!(matches!(outcome, Outcome::Failed { errno: Some(nix::libc::EINVAL), .. }), "{outcome}");
        assert!(outcome.to_string().contains("exceeds maximum"), "{outcome}");
        assert_eq!((report.lines.len(), state()), (1, before.clone()));

        // The second step fails: the first is taken back.
        let too_many = Setting::RpsFlowCount { interface: "a0".into(), queue: 0, count: u32::MAX };
        let result = open(directory).apply_then(&[channels("rx 2")], |_| Ok(vec![too_many]));
        let report = rolled_back(result);
        assert_eq!(report.lines[0].outcome, Outcome::RolledBack, "{report}");
        assert_eq!(state(), before);
        assert!(!directory.join("journal").exists());

        // `lo` has no channels.
        let counts = "rx 1".parse().unwrap();
        let lo = [Setting::Channels { interface: "lo".into(), counts }];
        let dry = dry_run(&Real, &lo, nr_cpu_ids()).unwrap().to_string();
        assert!(dry.contains("does not support reading channels"), "{dry}");
        let report = open(directory).on_failure(OnFailure::Continue).apply(&lo).unwrap();
        assert!(report.lines[0].outcome.is_failure(), "{report}");
    });
}

#[test]
#[ignore = "needs root"]
fn without_a_capability_channels_stay() {
    in_namespace("channels-denied", |directory| {
        let before = state();
        let mut applier = open(directory);
        // Of this thread alone.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let report = rolled_back(apply(&mut applier, "rx 2"));
        assert_eq!(report.lines[0].outcome, Outcome::Denied(Denial::Capability("CAP_NET_ADMIN")));
        assert_eq!(state(), before);
        assert!(!directory.join("journal").exists());
    });
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_vanishes_takes_its_channels_with_it() {
    in_namespace("channels-vanish", |directory| {
        let unplugged = after(0, || ip("link delete a0"));
        let files = Around { before: unplugged, after: || () };
        let mut applier = Applier::open(files, directory, nr_cpu_ids()).unwrap();
        let report = rolled_back(applier.apply(&[channels("rx 2")]));
        assert_eq!(report.lines[0].outcome, Outcome::Vanished, "{report}");
        drop(applier);
        assert!(!directory.join("journal").exists());
        // Gone before the first write, and gone before the restore.
        let report = rolled_back(open(directory).apply(&[channels("rx 2")]));
        assert_eq!(report.lines[0].outcome, Outcome::Vanished);
        ip("link add a0 numrxqueues 4 numtxqueues 4 type veth peer name a1");
        apply(&mut open(directory), "rx 2").unwrap();
        ip("link delete a0");
        let restored = open(directory).restore(IfChanged::Leave).unwrap();
        assert!(restored.lines.iter().all(|line| line.outcome == Return::Vanished), "{restored}");
        assert!(!directory.join("journal").exists());
    });
}

/// Runs `test` of this program, which does not come back from the step.
fn killed(test: &str, step: u32, directory: &Path) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored"])
        .env("CRASH", format!("{step} {}", directory.display()))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    !status.success()
}

#[test]
#[ignore = "needs root"]
fn channels_come_back_after_a_kill_at_every_write() {
    let name = "channels_come_back_after_a_kill_at_every_write";
    if let Ok(crash) = std::env::var("CRASH") {
        // In the namespaces of the process that started this one.
        let (step, directory) = crash.split_once(' ').unwrap();
        let step = after(step.parse().unwrap(), || {
            nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL).unwrap();
        });
        let files = Around { before: &step, after: &step };
        let mut applier = Applier::open(files, directory, nr_cpu_ids()).unwrap();
        // What was applied is taken back, and that can be killed too.
        apply(&mut applier, "rx 2 tx 3").unwrap();
        assert!(applier.restore(IfChanged::Leave).unwrap().is_complete());
        return;
    }
    in_namespace("channels-killed", move |directory| {
        customize();
        let before = state();
        for step in 0.. {
            let killed = killed(name, step, directory);
            assert!(killed || step > 40, "only {step} steps: it did not do its work");
            // The first is killed before it changes anything, the others on the way.
            assert!(step != 1 || counts() == "rx 2 tx 3", "{}", counts());
            let restored = open(directory).restore(IfChanged::Leave).unwrap();
            assert!(restored.is_complete(), "step {step}: {restored}");
            assert_eq!(state(), before, "step {step}: {restored}");
            assert!(!directory.join("journal").exists());
            if !killed {
                break;
            }
        }
    });
}
