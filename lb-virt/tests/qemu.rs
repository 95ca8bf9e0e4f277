//! Machines that real QEMUs run: what the contract does not ask of every hypervisor.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside
#![cfg(feature = "qemu")]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/lab.rs"]
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_affinity::CpuSet;
use lb_virt::domain::{Action, Bus, Console, Disk, Mac, Nic, Source};
use lb_virt::hypervisor::{CloneRequest, ConsoleAddress, Effect, Event, EventKind};
use lb_virt::qemu::arguments::{Launch, arguments};
use lb_virt::qemu::qmp::Qmp;
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, State, VirtError};

use lab::{Lab, becomes};

/// The kernel is asked to end a process.
fn kill_9(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

fn wait_for_event(host: &mut Qemu, wanted: &EventKind) {
    let end = Instant::now() + Duration::from_secs(60);
    let mut seen = Vec::new();
    while Instant::now() < end {
        match host.next_event(Duration::from_millis(500)).unwrap() {
            Some(Event { kind, .. }) if kind == *wanted => return,
            other => seen.extend(other),
        }
    }
    panic!("no {wanted:?} among {seen:?}");
}

/// The names of a process's threads, by their ids.
fn threads(pid: u32) -> BTreeMap<u32, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            Some((task.file_name().to_str()?.parse().ok()?, name.trim().into()))
        })
        .collect()
}

fn allowed(pid: u32, thread: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().into()
}

#[test]
#[ignore = "needs QEMU"]
fn machines_outlive_the_program_and_are_found_again() {
    let lab = Lab::new();
    let mut first = lab.host("node1");
    first.define(&lab.spec("web1")).unwrap();
    first.start("web1").unwrap();
    let before = lab.counts_beyond("web1", 10);
    let uuid = first.spec("web1").unwrap().uuid;
    drop(first);
    lab.counts_beyond("web1", before + 10);
    let mut second = lab.host("node1");
    assert_eq!(second.state("web1").unwrap(), State::Running);
    assert_eq!(second.list().unwrap()[0].uuid, uuid);
    second.pause("web1").unwrap();
    sleep(Duration::from_millis(200));
    let stands = lab.console("web1");
    // Two programs at once: each sees what the other does.
    let mut third = lab.host("node1");
    assert_eq!(third.state("web1").unwrap(), State::Paused);
    assert_eq!(lab.console("web1"), stands, "it stands still");
    third.resume("web1").unwrap();
    wait_for_event(&mut second, &EventKind::State { state: State::Running });
    second.pause("web1").unwrap();
    wait_for_event(&mut third, &EventKind::State { state: State::Paused });
    second.power_off("web1").unwrap();
    wait_for_event(&mut third, &EventKind::State { state: State::ShutOff });
    assert_eq!(lab.all_processes(), [0; 0]);
    third.delete("web1").unwrap();
    assert!(matches!(second.state("web1"), Err(VirtError::NoMachine { .. })));
}

#[test]
#[ignore = "needs QEMU"]
fn two_programs_start_a_machine_once() {
    let lab = Lab::new();
    lab.host("node1").define(&lab.spec("web1")).unwrap();
    let results: Vec<Result<(), VirtError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| lab.host("node1").start("web1"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let refused = results.iter().filter(|result| matches!(result, Err(VirtError::State { .. })));
    assert_eq!(refused.count(), 3, "{results:?}");
    assert_eq!(lab.all_processes().len(), 1);
}

#[test]
#[ignore = "needs QEMU"]
fn a_qemu_that_dies_is_a_crash_and_a_guest_that_powers_off_is_none() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("web1")).unwrap();
    host.start("web1").unwrap();
    kill_9(lab.processes("node1")[0]);
    wait_for_event(&mut host, &EventKind::State { state: State::Crashed });
    assert_eq!(lab.host("node1").state("web1").unwrap(), State::Crashed, "others see it too");
    assert!(host.pause("web1").unwrap_err().to_string().contains("crashed"));
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 10);
    // Nobody looks when this one dies.
    kill_9(lab.processes("node1")[0]);
    drop(host);
    let mut host = lab.host("node1");
    assert_eq!(host.state("web1").unwrap(), State::Crashed);
    host.power_off("web1").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    fs::remove_file(lab.images().join("web1.console")).unwrap();
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 5);
    wait_for_event(&mut host, &EventKind::State { state: State::Running });
    host.shut_down("web1").unwrap();
    wait_for_event(&mut host, &EventKind::State { state: State::ShutOff });
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    assert_eq!(lab.all_processes(), [0; 0]);
}

#[test]
#[ignore = "needs QEMU"]
fn what_follows_a_guests_end_is_as_defined() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let restarts = DomainSpec { on_poweroff: Action::Restart, ..lab.spec("restarts") };
    let preserved = DomainSpec { on_poweroff: Action::Preserve, ..lab.spec("preserved") };
    for spec in [&restarts, &preserved] {
        host.define(spec).unwrap();
        host.start(&spec.name).unwrap();
        lab.counts_beyond(&spec.name, 20);
        host.shut_down(&spec.name).unwrap();
    }
    wait_for_event(&mut host, &EventKind::Rebooted);
    assert_eq!(host.state("restarts").unwrap(), State::Running);
    becomes(&mut host, "preserved", State::Paused);
    assert!(host.resume("preserved").is_err(), "it has ended, and is only there to be looked at");
    host.power_off("preserved").unwrap();
    host.reboot("restarts").unwrap();
    wait_for_event(&mut host, &EventKind::Rebooted);
    assert_eq!(host.state("restarts").unwrap(), State::Running);
}

#[test]
#[ignore = "needs QEMU"]
fn images_that_are_missing_or_in_use_are_named_and_nothing_is_left() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let spec = lab.spec("web1");
    let twin = DomainSpec { name: "twin".into(), console: Console::None, ..spec.clone() };
    let missing = lab.images().join("no, such.qcow2");
    let lost = DomainSpec::new("lost", 1, Memory::from_mib(64)).disk(Disk::file(&missing));
    let nonsense = lab.images().join("nonsense.qcow2");
    fs::write(&nonsense, "this is no image of that kind").unwrap();
    let spoilt = DomainSpec::new("spoilt", 1, Memory::from_mib(64)).disk(Disk::file(&nonsense));
    for spec in [&spec, &twin, &lost, &spoilt] {
        host.define(spec).unwrap();
    }
    host.start("web1").unwrap();
    let image = spec.disks[0].source.as_ref().unwrap().path().clone();
    for (name, expected, kind) in [
        ("twin", Some(image), ErrorKind::ResourceBusy),
        ("lost", Some(missing), ErrorKind::NotFound),
        ("spoilt", None, ErrorKind::Other),
    ] {
        let error = host.start(name).unwrap_err();
        match (&error, expected) {
            (VirtError::File { name: named, path, source }, Some(expected)) => {
                assert_eq!((named.as_str(), path, source.kind()), (name, &expected, kind), "{error}");
            }
            (VirtError::Said { words, .. }, None) => assert!(words.contains("nonsense.qcow2"), "{error}"),
            _ => panic!("{error:?}"),
        }
        assert_eq!(host.state(name).unwrap(), State::ShutOff);
    }
    // While a machine runs, too.
    let busy = Disk::file(twin.disks[0].source.as_ref().unwrap().path()).named("vdb");
    host.define(&DomainSpec { console: Console::None, ..lab.spec("other") }).unwrap();
    host.start("other").unwrap();
    let error = host.attach_disk("other", &busy).unwrap_err();
    let in_use = |source: &std::io::Error| source.kind() == ErrorKind::ResourceBusy;
    assert!(matches!(&error, VirtError::File { source, .. } if in_use(source)), "{error:?}");
    assert_eq!(host.spec("other").unwrap().disks.len(), 1);
    assert_eq!(lab.all_processes().len(), 2);
}

#[test]
#[ignore = "needs QEMU"]
fn a_start_that_fails_or_was_broken_off_leaves_no_process() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let mut spec = lab.spec("web1");
    // QEMU runs by then, and is to be pinned to what is not there.
    spec.pins.vcpus = [(0, CpuSet::from(4000))].into();
    host.define(&spec).unwrap();
    let error = host.start("web1").unwrap_err();
    assert!(error.to_string().contains("CPU 4000"), "{error}");
    assert_eq!((host.state("web1").unwrap(), lab.all_processes()), (State::ShutOff, vec![]));
    host.pin("web1", &Default::default()).unwrap();
    let mut broken = lab.host("node1").program("/bin/false");
    let error = broken.start("web1").unwrap_err();
    assert!(error.to_string().contains("without a word"), "{error}");
    let mut nowhere = lab.host("node1").program("/no/such/qemu");
    assert!(matches!(nowhere.start("web1"), Err(VirtError::NoProgram { .. })));
    // A program that starts machines is killed in the middle: before QEMU is written down, and after.
    let note = lab.path.join("node1/machines/web1/run.json");
    for process in [false, true] {
        host.start("web1").unwrap();
        assert_eq!(lab.all_processes().len(), 1);
        let mut run: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
        run["started"] = false.into();
        if !process {
            run["process"] = serde_json::Value::Null;
        }
        fs::write(&note, run.to_string()).unwrap();
        assert_eq!(lab.host("node1").state("web1").unwrap(), State::ShutOff);
        assert_eq!(lab.all_processes(), [0; 0]);
    }
    // A process that has the number of one that is gone is not the machine, and is let be.
    host.start("web1").unwrap();
    let mut run: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    kill_9(lab.processes("node1")[0]);
    run["process"]["pid"] = std::process::id().into();
    fs::write(&note, run.to_string()).unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Crashed);
    host.delete("web1").unwrap();
}

#[test]
#[ignore = "needs QEMU"]
fn hostile_names_and_long_paths_are_only_names() {
    let lab = Lab::new();
    let hostile = "a, b;touch oops'\"$(touch oops)`touch oops`\\%s&|é,,=on";
    let images = lab.images().join(hostile);
    fs::create_dir(&images).unwrap();
    let directory = lab.path.join(hostile).join("x".repeat(150));
    let mut host = Qemu::open(&directory).unwrap().accelerated(false);
    let name = "web+1@a:b.c_é";
    let mut spec = lab::spec(&images, name);
    spec.disks.push(Disk::file(images.join(format!("{hostile}.img"))).on(Bus::Scsi).named("sda"));
    fs::write(spec.disks[1].source.as_ref().unwrap().path(), [0; 4096]).unwrap();
    host.define(&spec).unwrap();
    host.start(name).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while guest::numbers(&fs::read_to_string(images.join(format!("{name}.console"))).unwrap_or_default())
        .is_empty()
    {
        assert!(Instant::now() < end, "it does not count");
        sleep(Duration::from_millis(20));
    }
    host.take_snapshot(name, "a").unwrap_err();
    host.detach_disk(name, "sda").unwrap();
    host.power_off(name).unwrap();
    host.detach_disk(name, "sda").unwrap_err();
    host.take_snapshot(name, "7").unwrap();
    let request = CloneRequest { name: "clone".into(), directory: images.clone(), linked: true };
    host.clone_machine(name, &request).unwrap();
    for (refused, why) in [("../web1", "no name"), ("a b", "no name"), ("-c", "no name"), ("a\nb", "no name")]
    {
        let error = host.define(&DomainSpec { name: refused.into(), ..spec.clone() }).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(matches!(host.state(refused), Err(VirtError::NoMachine { .. })));
    }
    let found = Command::new("find").arg(&lab.path).args(["-name", "oops*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "a shell has run");
    assert!(!Path::new("oops").exists());
    let long = DomainSpec { console: Console::Socket(images.join("x".repeat(100))), ..lab.spec("long") };
    assert!(host.define(&long).unwrap_err().to_string().contains("107 bytes"));
}

#[test]
#[ignore = "needs QEMU"]
fn what_is_resized_and_pinned_is_so_in_the_kernel() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let most = Some(Memory::from_mib(384));
    let mut spec = DomainSpec { max_vcpus: Some(4), max_memory: most, ..lab.spec("web1") };
    spec.pins.vcpus = [(1, CpuSet::from(0)), (2, CpuSet::from(0))].into();
    host.define(&spec).unwrap();
    host.start("web1").unwrap();
    let pid = lab.processes("node1")[0];
    let vcpus = || threads(pid).into_iter().filter(|(_, name)| name.starts_with("CPU ")).collect::<Vec<_>>();
    assert_eq!(vcpus().len(), 2);
    let by_name = |name: &str| vcpus().into_iter().find(|(_, one)| one.starts_with(name)).unwrap().0;
    assert_eq!(allowed(pid, by_name("CPU 1/")), "0");
    assert_eq!(host.set_vcpus("web1", 4).unwrap(), Effect::Now);
    assert_eq!(vcpus().len(), 4);
    assert_eq!(allowed(pid, by_name("CPU 2/")), "0", "the new one has its pin");
    assert_eq!(host.statistics("web1").unwrap().vcpus, 4);
    let pins = lb_virt::domain::Pins { emulator: CpuSet::from(0), ..Default::default() };
    assert_eq!(host.pin("web1", &pins).unwrap(), Effect::Now);
    assert_eq!(allowed(pid, pid), "0");
    assert_ne!(allowed(pid, by_name("CPU 1/")), "0");
    // This guest knows nothing of processors that go, nor of balloons: it is asked, and the answer is honest.
    assert_eq!(host.set_vcpus("web1", 3).unwrap(), Effect::NextBoot);
    assert_eq!((host.spec("web1").unwrap().vcpus, host.list().unwrap()[0].vcpus), (3, 4));
    assert_eq!(host.set_vcpus("web1", 1).unwrap(), Effect::NextBoot);
    assert_eq!(host.set_memory("web1", Memory::from_mib(300)).unwrap(), Effect::Now);
    assert_eq!(host.statistics("web1").unwrap().memory, Memory::from_mib(384));
    host.power_off("web1").unwrap();
    host.start("web1").unwrap();
    assert_eq!(host.list().unwrap()[0].vcpus, 1);
}

#[test]
#[ignore = "needs QEMU"]
fn what_a_guest_does_not_let_go_goes_at_the_next_boot() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    host.define(&lab.spec("web1").nic(Nic::nat().mac(mac))).unwrap();
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 5);
    let more = lab.images().join("more.qcow2");
    guest::image(&more);
    let disk = Disk::file(&more);
    assert_eq!(host.attach_disk("web1", &disk).unwrap(), Effect::Now);
    assert_eq!(host.spec("web1").unwrap().disks[1].target, "vdb");
    assert_eq!(host.statistics("web1").unwrap().disks.len(), 2);
    host.pause("web1").unwrap();
    assert_eq!(host.detach_disk("web1", "vdb").unwrap(), Effect::NextBoot, "it stands still");
    assert_eq!(host.spec("web1").unwrap().disks.len(), 1);
    assert!(matches!(
        host.attach_disk("web1", &disk.clone().named("vdb")),
        Err(VirtError::PartExists { .. })
    ));
    host.resume("web1").unwrap();
    // It lets it go after all, and there is room for it again.
    let end = Instant::now() + Duration::from_secs(30);
    while let Err(error) = host.attach_disk("web1", &disk.clone().named("vdb")) {
        assert!(Instant::now() < end, "{error}");
        sleep(Duration::from_millis(50));
    }
    // So does a network interface, and one that goes late is seen to have gone.
    let late = Mac([0x52, 0x54, 0, 1, 2, 4]);
    host.attach_nic("web1", &Nic::nat().mac(late)).unwrap();
    host.pause("web1").unwrap();
    assert_eq!(host.detach_nic("web1", late).unwrap(), Effect::NextBoot, "it stands still");
    assert_eq!(host.running_spec("web1").unwrap().nics.len(), 2);
    host.resume("web1").unwrap();
    while host.running_spec("web1").unwrap().nics.len() == 2 {
        assert!(Instant::now() < end, "it is still there");
        sleep(Duration::from_millis(50));
    }
    assert_eq!(host.detach_nic("web1", mac).unwrap(), Effect::Now);
    assert_eq!(host.running_spec("web1").unwrap().nics, []);
    let ide = Disk::file(lab.images().join("ide.img")).on(Bus::Ide);
    fs::write(ide.source.as_ref().unwrap().path(), [0; 4096]).unwrap();
    assert_eq!(host.attach_disk("web1", &ide).unwrap(), Effect::NextBoot, "IDE is soldered");
    host.power_off("web1").unwrap();
    host.start("web1").unwrap();
    assert_eq!(host.statistics("web1").unwrap().disks.len(), 3);
}

#[test]
#[ignore = "needs QEMU"]
fn snapshots_keep_memory_and_disks() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("web1")).unwrap();
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 50);
    host.pause("web1").unwrap();
    sleep(Duration::from_millis(200));
    let kept = *guest::numbers(&lab.console("web1")).last().unwrap();
    host.take_snapshot("web1", "7").unwrap();
    host.resume("web1").unwrap();
    lab.counts_beyond("web1", kept + 50);
    // Another machine by now: more memory, other devices.
    host.power_off("web1").unwrap();
    host.set_memory("web1", Memory::from_mib(300)).unwrap();
    fs::write(lab.images().join("web1.console"), "").unwrap();
    host.restore_snapshot("web1", "7").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Paused, "as it was");
    assert_eq!(host.spec("web1").unwrap().memory, Memory::from_mib(256));
    host.resume("web1").unwrap();
    lab.counts_beyond("web1", kept);
    let numbers = guest::numbers(&lab.console("web1"));
    assert!(numbers[0] == kept + 1, "{kept} and then {numbers:?}");
    // An image that has lost it: said before anything is lost but the run.
    host.power_off("web1").unwrap();
    let image = lab.images().join("web1.qcow2");
    guest::image(&image);
    let error = host.restore_snapshot("web1", "7").unwrap_err();
    assert!(error.to_string().contains("snapshot"), "{error}");
    assert_eq!((host.state("web1").unwrap(), lab.all_processes()), (State::ShutOff, vec![]));
}

#[test]
#[ignore = "needs QEMU"]
fn clones_share_what_they_do_not_change() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("template")).unwrap();
    let request = |name: &str, linked| CloneRequest { name: name.into(), directory: lab.images(), linked };
    for (name, linked) in [("linked", true), ("full", false)] {
        host.clone_machine("template", &request(name, linked)).unwrap();
        let spec = host.spec(name).unwrap();
        let Some(Source::File(image)) = &spec.disks[0].source else { panic!("{spec:?}") };
        let told = Command::new("qemu-img").args(["info", "--output=json"]).arg(image).output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        assert_eq!(told["backing-filename"].is_string(), linked, "{told}");
    }
    // Both at once read one template.
    host.clone_machine("template", &request("other", true)).unwrap();
    for name in ["linked", "full", "other"] {
        host.start(name).unwrap();
    }
    // Its template's image is in use; a clone of it is told so, and leaves nothing.
    let image = lab.images().join("again-vda.qcow2");
    fs::write(&image, "somebody's").unwrap();
    let error = host.clone_machine("template", &request("again", true)).unwrap_err();
    assert!(matches!(&error, VirtError::File { path, .. } if *path == image), "{error:?}");
    assert_eq!(fs::read(&image).unwrap(), b"somebody's");
    assert!(matches!(host.state("again"), Err(VirtError::NoMachine { .. })));
}

#[test]
#[ignore = "needs QEMU"]
fn consoles_and_counts_are_there() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&DomainSpec { console: Console::Pty, ..lab.spec("web1") }).unwrap();
    assert!(matches!(host.console("web1"), Err(VirtError::NoPart { .. })), "it has one while it runs");
    host.start("web1").unwrap();
    let ConsoleAddress::Pty(path) = host.console("web1").unwrap() else { panic!("no pty") };
    assert!(path.exists(), "{}", path.display());
    let end = Instant::now() + Duration::from_secs(60);
    let statistics = loop {
        let statistics = host.statistics("web1").unwrap();
        if statistics.disks["vda"].read_bytes >= 512 {
            break statistics;
        }
        assert!(Instant::now() < end, "it reads nothing: {statistics:?}");
        sleep(Duration::from_millis(20));
    };
    assert!(statistics.cpu_time > Duration::ZERO);
    assert!(statistics.resident.unwrap() > Memory::from_mib(10));
    assert!(host.statistics("web1").unwrap().cpu_time > statistics.cpu_time, "in nanoseconds");
}

#[test]
#[ignore = "needs QEMU"]
fn a_qemu_that_does_not_answer_is_unknown_and_can_be_powered_off() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("web1")).unwrap();
    host.start("web1").unwrap();
    let stopped = Command::new("kill").args(["-STOP", &lab.processes("node1")[0].to_string()]).status();
    assert!(stopped.unwrap().success());
    assert_eq!(host.state("web1").unwrap(), State::Unknown);
    assert!(matches!(host.pause("web1"), Err(VirtError::State { .. })));
    host.power_off("web1").unwrap();
    assert_eq!((host.state("web1").unwrap(), lab.all_processes()), (State::ShutOff, vec![]));
}

/// Here, by a QEMU that translates what it is told to run on the hardware.
#[test]
#[ignore = "needs QEMU"]
fn the_hardware_is_believed_when_it_has_run_a_guest() {
    if !Path::new("/dev/kvm").exists() {
        // Nothing is tried then, and the answer is known.
        assert!(!Qemu::open(Lab::new().path.join("node1")).unwrap().host().unwrap().accelerated);
        return;
    }
    let lab = Lab::new();
    let program = lab.path.join("qemu");
    for (script, believed) in [
        (
            "for word; do shift; [ \"$word\" = kvm ] && word=tcg; set -- \"$@\" \"$word\"; done\nexec qemu-system-x86_64 \"$@\"",
            true,
        ),
        ("exit 0", false),
        ("echo no such accelerator >&2; exit 1", false),
    ] {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        assert!(Command::new("chmod").arg("755").arg(&program).status().unwrap().success());
        let open = || Qemu::open(lab.path.join("node1")).unwrap().program(&program);
        if believed {
            assert!(open().host().unwrap().accelerated);
        }
        // What was found out of this file is found in the directory: by now it says something else, and is another.
        assert_eq!(open().host().map(|host| host.accelerated).unwrap_or_default(), believed);
        let kept = fs::read_to_string(lab.path.join("node1/kvm.json")).unwrap();
        assert!(kept.contains(&format!("\"runs\":{believed}")), "{kept}");
    }
}

/// Printed, for whoever wants to know: a test asserts no time.
#[test]
#[ignore = "needs QEMU"]
fn a_start_takes_little_longer_than_qemu() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let spec = DomainSpec { console: Console::None, ..lab.spec("web1") };
    host.define(&spec).unwrap();
    let spec = host.spec("web1").unwrap();
    let mut times = Vec::new();
    for _ in 0..10 {
        let socket = lab.path.join("bare.sock");
        let launch = Launch::default();
        let mut words = arguments(&spec, &launch).unwrap();
        words.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display()).into()]);
        let begun = Instant::now();
        let mut child = Command::new("qemu-system-x86_64").args(&words).spawn().unwrap();
        while Qmp::connect(&socket, Duration::from_secs(30)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_micros(200));
        }
        let bare = begun.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        let begun = Instant::now();
        host.start("web1").unwrap();
        let whole = begun.elapsed();
        host.power_off("web1").unwrap();
        times.push((bare, whole));
    }
    let mean = |pick: fn(&(Duration, Duration)) -> Duration| {
        times.iter().map(pick).sum::<Duration>() / u32::try_from(times.len()).unwrap()
    };
    println!("QEMU until it greets: {:?}; start until it returns: {:?}", mean(|t| t.0), mean(|t| t.1));
}

/// A directory that is too full for a definition, an image or a snapshot.
#[test]
#[ignore = "needs root and QEMU"]
fn no_space_is_said_with_the_path_and_nothing_is_half_there() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let lab = Lab::new();
    let full = Mounted(lab.path.join("full"));
    fs::create_dir(&full.0).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&full.0).status();
    assert!(mounted.unwrap().success(), "mounting needs root");
    let mut host = Qemu::open(full.0.join("node2")).unwrap().accelerated(false);
    host.define(&DomainSpec::new("early", 1, Memory::from_mib(64))).unwrap();
    let mut other = lab.host("node1");
    let raw = lab.images().join("big.img");
    fs::write(&raw, vec![1; 1 << 20]).unwrap();
    other.define(&DomainSpec::new("big", 1, Memory::from_mib(64)).disk(Disk::file(&raw))).unwrap();
    let request = CloneRequest { name: "clone".into(), directory: full.0.clone(), linked: false };
    let error = other.clone_machine("big", &request).unwrap_err();
    let image = full.0.join("clone-vda.raw");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(!image.exists(), "half an image is left");
    assert_eq!(other.list().unwrap().len(), 1);
    // Fills what is left.
    let _ = fs::write(full.0.join("ballast"), vec![0; 1 << 20]);
    let error = host.define(&DomainSpec::new("late", 1, Memory::from_mib(64))).unwrap_err();
    assert!(
        matches!(&error, VirtError::File { source, .. } if source.kind() == ErrorKind::StorageFull),
        "{error:?}"
    );
    let listed = host.list().unwrap();
    assert_eq!(listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["early"]);
    let error = host.start("early").unwrap_err();
    assert!(matches!(&error, VirtError::File { .. }), "{error:?}");
    assert_eq!(lab.all_processes(), [0; 0]);
}
