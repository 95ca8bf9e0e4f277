//! Real writes: a pair of virtual interfaces with four queues each, in a network namespace of its own, and the kernel's own answers.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod namespace;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use lb_affinity::apply::{
    Applier, ApplyError, Denial, Distrust, IfChanged, OnFailure, Outcome, Return, Value, Warning, dry_run,
};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::{CpuSet, Setting};
use namespace::{Around, after, in_namespace, ip, nr_cpu_ids, online, open, rolled_back};
use nix::mount::{MsFlags, mount};

const NOBODY: u32 = 65_534;

/// Interrupts belong to the whole machine: one test at a time.
static INTERRUPTS: Mutex<()> = Mutex::new(());

fn rps(interface: &str, queue: u32, cpus: CpuSet) -> Setting {
    Setting::Rps { interface: interface.into(), queue, cpus }
}

fn every_setting() -> Vec<Setting> {
    let all = online();
    (0..4)
        .flat_map(|queue| {
            let cpu = all.iter().cycle().nth(queue as usize).unwrap();
            [
                rps("a0", queue, all.clone()),
                Setting::RpsFlowCount { interface: "a0".into(), queue, count: 1000 },
                Setting::Xps { interface: "a0".into(), queue, cpus: cpu.into() },
            ]
        })
        .collect()
}

/// What all files of the settings hold.
fn state(settings: &[Setting]) -> Vec<String> {
    let read = |setting: &Setting| std::fs::read_to_string(setting.target().path().unwrap()).unwrap();
    settings.iter().map(read).collect()
}

#[test]
#[ignore = "needs root"]
fn queues_are_set_read_back_and_restored() {
    in_namespace("set", |directory| {
        let settings = every_setting();
        let before = state(&settings);
        let dry = dry_run(&Real, &settings, nr_cpu_ids()).unwrap();
        assert_eq!(dry.changes.len(), 12, "{dry}");
        assert_eq!(state(&settings), before);
        let report = open(directory).apply(&settings).unwrap();
        assert!(report.lines.iter().all(|line| line.outcome == Outcome::Applied), "{report}");
        let now = state(&settings);
        assert_eq!(now[0].trim(), online().mask(nr_cpu_ids()).to_string());
        // Rounded up to a power of two.
        assert_eq!(now[1].trim(), "1024");
        assert_eq!(dry_run(&Real, &settings, nr_cpu_ids()).unwrap().to_string(), "nothing to change");
        // By another applier, as after a crash.
        let restored = open(directory).restore(IfChanged::Leave).unwrap();
        assert_eq!(restored.lines.len(), 12);
        assert!(restored.lines.iter().all(|line| line.outcome == Return::PutBack), "{restored}");
        assert_eq!(state(&settings), before);
    });
}

#[test]
#[ignore = "needs root"]
fn a_plan_whose_last_write_the_kernel_refuses_leaves_nothing_behind() {
    in_namespace("refused", |directory| {
        let mut settings = every_setting();
        let before = state(&settings);
        // EOVERFLOW: a mask with a CPU above the highest, and one with more groups than the machine's.
        for cpu in [nr_cpu_ids(), 4000] {
            settings.push(rps("a1", 0, cpu.into()));
            let report = rolled_back(open(directory).apply(&settings));
            let last = &report.lines[12].outcome;
            assert!(
                matches!(last, Outcome::Failed { errno: Some(nix::libc::EOVERFLOW), meaning } if meaning.contains("above the machine's highest")),
                "{last}"
            );
            assert!(report.lines[..12].iter().all(|line| line.outcome == Outcome::RolledBack), "{report}");
            settings.pop();
            assert_eq!(state(&settings), before);
            assert!(!directory.join("journal").exists());
        }
        // ENOMEM: more flows than there is memory.
        settings.push(Setting::RpsFlowCount { interface: "a1".into(), queue: 0, count: u32::MAX });
        let report = rolled_back(open(directory).apply(&settings));
        let last = &report.lines[12].outcome;
        assert!(matches!(last, Outcome::Failed { errno: Some(nix::libc::ENOMEM), .. }), "{last}");
        settings.pop();
        assert_eq!(state(&settings), before);
    });
}

#[test]
#[ignore = "needs root"]
fn interrupts_refuse_cpus_that_are_not_there() {
    let _alone = INTERRUPTS.lock().unwrap_or_else(PoisonError::into_inner);
    // None of these writes changes anything: the kernel refuses each.
    let directory = std::env::temp_dir().join(format!("lb-affinity-kernel-irq-{}", std::process::id()));
    let irqs = Real.list(Path::new("/proc/irq")).unwrap();
    let irqs = irqs.iter().filter_map(|name| name.to_str()?.parse::<u32>().ok());
    let settable = |irq: &u32| {
        let path = format!("/proc/irq/{irq}/smp_affinity_list");
        // What is there already can be written, unless the driver manages the interrupt.
        Real.read(Path::new(&path)).is_ok_and(|now| Real.write(Path::new(&path), &now).is_ok())
    };
    let irq = irqs.into_iter().find(settable).expect("an interrupt that can be moved");
    let path = format!("/proc/irq/{irq}/smp_affinity_list");
    let before = std::fs::read_to_string(&path).unwrap();
    let errno = |cpus: CpuSet| {
        let report = rolled_back(open(&directory).apply(&[Setting::IrqAffinity { irq, cpus }]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        match &report.lines[0].outcome {
            Outcome::Failed { errno, meaning } => (*errno, meaning.clone()),
            other => panic!("{other}"),
        }
    };
    // Beyond what the kernel is built for, in the list's format.
    let (number, meaning) = errno(9000.into());
    assert_eq!(number, Some(nix::libc::ERANGE), "{meaning}");
    assert!(meaning.contains("of the CPUs 9000 one is above"), "{meaning}");
    let (number, meaning) = errno(CpuSet::new());
    assert_eq!(number, Some(nix::libc::EINVAL), "{meaning}");
    assert!(meaning.contains("no CPU is named"), "{meaning}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_interrupt_is_moved_and_moved_back() {
    let _alone = INTERRUPTS.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = std::env::temp_dir().join(format!("lb-affinity-kernel-moved-{}", std::process::id()));
    let irqs = Real.list(Path::new("/proc/irq")).unwrap();
    let read = |irq: u32| std::fs::read_to_string(format!("/proc/irq/{irq}/smp_affinity_list")).unwrap();
    let mut moved = 0;
    for irq in irqs.iter().filter_map(|name| name.to_str()?.parse::<u32>().ok()) {
        let before = read(irq);
        for cpu in &online() {
            let setting = [Setting::IrqAffinity { irq, cpus: cpu.into() }];
            let report = match open(&directory).apply(&setting) {
                Ok(report) => report,
                Err(error) => rolled_back(Err(error)),
            };
            let outcome = &report.lines[0].outcome;
            match outcome {
                Outcome::Applied | Outcome::Pending { .. } => {
                    moved += 1;
                    assert_eq!(read(irq).parse::<CpuSet>().unwrap(), cpu.into());
                }
                Outcome::Unchanged | Outcome::ManagedByDriver | Outcome::NoVector => {}
                other => panic!("interrupt {irq}: {other}"),
            }
            let restored = open(&directory).restore(IfChanged::Leave).unwrap();
            assert!(restored.is_complete(), "{restored}");
            assert_eq!(read(irq), before);
        }
    }
    assert!(moved > 0, "no interrupt could be moved");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn the_table_of_flows_is_set_and_restored() {
    let directory = std::env::temp_dir().join(format!("lb-affinity-kernel-table-{}", std::process::id()));
    let setting = |count| [Setting::RpsSockFlowEntries { count }];
    let before = state(&setting(0));
    let report = rolled_back(open(&directory).apply(&setting(u32::MAX)));
    let outcome = &report.lines[0].outcome;
    assert!(matches!(outcome, Outcome::Failed { errno: Some(nix::libc::EINVAL), .. }), "{outcome}");
    assert!(outcome.to_string().contains("4294967295 is above what this file takes"), "{outcome}");
    let report = open(&directory).apply(&setting(2000)).unwrap();
    assert_eq!(report.lines[0].outcome, Outcome::Applied);
    assert_eq!(state(&setting(0)), ["2048\n"]);
    assert!(open(&directory).restore(IfChanged::Leave).unwrap().is_complete());
    assert_eq!(state(&setting(0)), before);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_vanishes_is_reported_and_dropped() {
    in_namespace("vanishes", |directory| {
        ip("link add b0 numrxqueues 4 numtxqueues 4 type veth peer name b1");
        let stays = [rps("b0", 0, online()), rps("b0", 1, online())];
        let settings: Vec<Setting> = stays.iter().cloned().chain(every_setting()).collect();
        let before = state(&stays);
        let unplugged = after(4, || {
            ip("link delete a0");
        });
        let files = Around { before: unplugged, after: || () };
        let mut applier = Applier::open(files, directory, nr_cpu_ids()).unwrap();
        let report = rolled_back(applier.apply(&settings));
        assert_eq!(report.lines[4].outcome, Outcome::Vanished, "{report}");
        assert_eq!(report.lines[0].outcome, Outcome::RolledBack);
        assert_eq!(report.lines[5].outcome, Outcome::NotTried);
        assert_eq!(state(&stays), before);
        drop(applier);

        // Gone before the first write: nothing is written.
        let report = rolled_back(open(directory).apply(&settings));
        assert_eq!(report.lines[2].outcome, Outcome::Vanished);
        assert_eq!(report.lines[0].outcome, Outcome::NotTried);
        let report = open(directory).on_failure(OnFailure::Continue).apply(&settings).unwrap();
        assert_eq!(report.lines[1].outcome, Outcome::Applied);
        assert_eq!(report.lines[2].outcome, Outcome::Vanished);
        // And gone before the restore.
        ip("link delete b0");
        let restored = open(directory).restore(IfChanged::Leave).unwrap();
        assert!(restored.lines.iter().all(|line| line.outcome == Return::Vanished), "{restored}");
        assert_eq!(restored.lines.len(), 2);
        assert!(!directory.join("journal").exists());
    });
}

#[test]
#[ignore = "needs root"]
fn a_strangers_change_is_left_alone() {
    in_namespace("stranger", |directory| {
        let setting = [rps("a0", 0, online())];
        open(directory).apply(&setting).unwrap();
        let target = setting[0].target();
        let path = target.path().unwrap();
        let other = online().first().unwrap();
        std::fs::write(path, CpuSet::from(other).mask(nr_cpu_ids()).to_string()).unwrap();
        let restored = open(directory).restore(IfChanged::Leave).unwrap();
        let is = Value::Cpus(other.into());
        assert_eq!(restored.lines[0].outcome, Return::Changed { is });
        let restored = open(directory).restore(IfChanged::Overwrite).unwrap();
        assert_eq!(restored.lines[0].outcome, Return::PutBack);
        assert_eq!(std::fs::read_to_string(path).unwrap().trim().trim_start_matches(['0', ',']), "");
    });
}

#[test]
#[ignore = "needs root"]
fn what_is_set_in_a_namespace_is_not_forgotten_in_another() {
    in_namespace("namespaces", |directory| {
        let settings = every_setting();
        let before = state(&settings);
        open(directory).apply(&settings).unwrap();
        let applied = state(&settings);
        // There, interfaces of these names are others, or, as here, not to be found.
        let elsewhere = directory.to_owned();
        let restored = std::thread::spawn(move || {
            namespace::enter();
            let refused = open(&elsewhere).apply(&[rps("lo", 0, online())]).unwrap_err();
            assert!(matches!(refused, ApplyError::Namespace { .. }), "{refused}");
            open(&elsewhere).restore(IfChanged::Overwrite).unwrap()
        });
        let restored = restored.join().unwrap();
        assert_eq!(restored.lines.len(), 12);
        assert!(
            restored.lines.iter().all(|line| matches!(line.outcome, Return::Elsewhere { .. })),
            "{restored}"
        );
        assert_eq!(state(&settings), applied);
        assert!(open(directory).restore(IfChanged::Leave).unwrap().is_complete());
        assert_eq!(state(&settings), before);
    });
}

#[test]
#[ignore = "needs root"]
fn a_journal_of_someone_elses_is_not_restored() {
    in_namespace("foreign", |directory| {
        let settings = every_setting();
        open(directory).apply(&settings).unwrap();
        let applied = state(&settings);
        let refused = || match Applier::open(Real, directory, nr_cpu_ids()) {
            Err(ApplyError::Untrusted { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        std::os::unix::fs::chown(directory, Some(NOBODY), None).unwrap();
        assert_eq!(refused(), Distrust::Owner { user: NOBODY });
        std::os::unix::fs::chown(directory, Some(0), None).unwrap();
        std::fs::set_permissions(directory, Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(refused(), Distrust::Writable { mode: 0o1777 });
        assert_eq!(state(&settings), applied);
        std::fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        assert!(open(directory).restore(IfChanged::Leave).unwrap().is_complete());
    });
}

#[test]
#[ignore = "needs root"]
fn irqbalance_is_found_among_the_processes() {
    in_namespace("irqbalance", |directory| {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
        // It is known by its name alone, and would move this machine's interrupts.
        let program = directory.join("irqbalance");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut irqbalance = Command::new(program).arg("60").spawn().unwrap();
        // It runs already before it has its name.
        let name = format!("/proc/{}/comm", irqbalance.id());
        while std::fs::read(&name).is_ok_and(|name| name.trim_ascii() != b"irqbalance") {
            std::thread::yield_now();
        }
        let report = open(directory).apply(&[rps("a0", 0, online())]);
        irqbalance.kill().unwrap();
        irqbalance.wait().unwrap();
        let warning = Warning::Irqbalance { pid: irqbalance.id() };
        assert!(report.unwrap().warnings.contains(&warning));
        let again = open(directory).apply(&[rps("a0", 0, online())]).unwrap();
        assert!(!again.warnings.contains(&warning), "{again}");
    });
}

#[test]
#[ignore = "needs root"]
fn without_a_capability_the_denial_names_it() {
    in_namespace("denied", |directory| {
        let settings = every_setting();
        let before = state(&settings);
        let mut applier = open(directory);
        // Of this thread alone.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let report = rolled_back(applier.apply(&settings));
        assert_eq!(report.lines[0].outcome, Outcome::Denied(Denial::Capability("CAP_NET_ADMIN")));
        assert_eq!(state(&settings), before);
    });
}

#[test]
#[ignore = "needs root"]
fn another_user_is_told_whose_the_files_are() {
    in_namespace("user", |directory| {
        let settings = every_setting();
        let before = state(&settings);
        let mut applier = open(directory);
        std::os::unix::fs::chown(directory, Some(NOBODY), None).unwrap();
        // Of this thread alone; it loses CAP_DAC_OVERRIDE by that (capabilities(7)).
        nix::unistd::setfsuid(NOBODY.into());
        assert_eq!(dry_run(&Real, &settings, nr_cpu_ids()).unwrap().changes.len(), 12);
        let report = rolled_back(applier.apply(&settings));
        assert_eq!(report.lines[0].outcome, Outcome::Denied(Denial::Owner));
        assert!(report.to_string().contains("run as root, or with CAP_DAC_OVERRIDE"), "{report}");
        assert_eq!(state(&settings), before);
    });
}

#[test]
#[ignore = "needs root"]
fn a_read_only_mount_is_named() {
    in_namespace("read-only", |directory| {
        let settings = every_setting();
        let mut applier = open(directory);
        let nothing = None::<&str>;
        mount(nothing, "/sys", nothing, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, nothing)
            .unwrap();
        let report = rolled_back(applier.apply(&settings));
        let denial = Denial::ReadOnlyMount { mount: Some("/sys".into()) };
        assert_eq!(report.lines[0].outcome, Outcome::Denied(denial));
        assert!(report.to_string().contains("/sys is mounted read-only"), "{report}");
    });
}

#[test]
#[ignore = "needs root"]
fn queues_come_back_after_a_kill_at_every_write() {
    if let Ok(crash) = std::env::var("CRASH") {
        // In the namespaces of the process that started this one.
        let (step, directory) = crash.split_once(' ').unwrap();
        let step = after(step.parse().unwrap(), || {
            nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL).unwrap();
        });
        let files = Around { before: &step, after: &step };
        let mut applier = Applier::open(files, directory, nr_cpu_ids()).unwrap();
        applier.apply(&every_setting()).unwrap();
        return;
    }
    in_namespace("killed", |directory| {
        let settings = every_setting();
        let before = state(&settings);
        for step in 0..=24 {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "queues_come_back_after_a_kill_at_every_write", "--include-ignored"])
                .env("CRASH", format!("{step} {}", directory.display()))
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            // 12 writes have 24 steps; the last run is left alive.
            assert_eq!(status.success(), step == 24, "step {step}");
            let changed = state(&settings).iter().zip(&before).filter(|(now, before)| now != before).count();
            assert_eq!(changed, (step as usize).div_ceil(2), "step {step}");
            let restored = open(directory).restore(IfChanged::Leave).unwrap();
            assert!(restored.is_complete(), "step {step}: {restored}");
            assert_eq!(state(&settings), before, "step {step}");
        }
    });
}
