//! The simulated host: what holds after any history, with faults too, and that histories repeat.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use lb_virt::domain::{Action, Disk, Nic};
use lb_virt::hypervisor::{CloneRequest, EventKind};
use lb_virt::{DomainSpec, Hypervisor, Memory, Sim, State, VirtError};
use proptest::prelude::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug)]
enum Step {
    Define(u32, u64),
    Delete,
    Start,
    ShutDown,
    PowerOff,
    Reboot,
    Pause,
    Resume,
    Crash,
    Vcpus(u32),
    Memory(u64),
    Attach,
    Detach,
    Nic,
    Snapshot,
    Restore,
    Clone,
    Advance(u64),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        3 => (1..5_u32, 16..900_u64).prop_map(|(vcpus, memory)| Step::Define(vcpus, memory)),
        6 => Just(Step::Start),
        8 => prop::sample::select(vec![
            Step::Delete, Step::ShutDown, Step::PowerOff, Step::Reboot, Step::Pause, Step::Resume, Step::Crash,
            Step::Attach, Step::Detach, Step::Nic, Step::Snapshot, Step::Restore, Step::Clone,
        ]),
        2 => (0..6_u32).prop_map(Step::Vcpus),
        2 => (16..900_u64).prop_map(Step::Memory),
        2 => (0..5000_u64).prop_map(Step::Advance),
    ];
    (0..NAMES.len(), step)
}

fn take(host: &mut Sim, name: &str, step: Step) -> Result<(), VirtError> {
    match step {
        Step::Define(vcpus, memory) => {
            let mut spec = DomainSpec::new(name, vcpus, Memory::from_mib(memory)).nic(Nic::nat());
            (spec.max_vcpus, spec.on_crash) = (Some(4), Action::Preserve);
            host.define(&spec)
        }
        Step::Delete => host.delete(name),
        Step::Start => host.start(name),
        Step::ShutDown => host.shut_down(name),
        Step::PowerOff => host.power_off(name),
        Step::Reboot => host.reboot(name),
        Step::Pause => host.pause(name),
        Step::Resume => host.resume(name),
        Step::Crash => host.crash(name),
        Step::Vcpus(vcpus) => host.set_vcpus(name, vcpus).map(drop),
        Step::Memory(memory) => host.set_memory(name, Memory::from_mib(memory)).map(drop),
        Step::Attach => host.attach_disk(name, &Disk::file("/a.qcow2").named("vdb")).map(drop),
        Step::Detach => host.detach_disk(name, "vdb").map(drop),
        Step::Nic => host.attach_nic(name, &Nic::bridge("br0")).map(drop),
        Step::Snapshot => host.take_snapshot(name, "s"),
        Step::Restore => host.restore_snapshot(name, "s"),
        Step::Clone => host
            .clone_machine(name, &CloneRequest { name: "c".into(), directory: "/srv".into(), linked: true }),
        Step::Advance(milliseconds) => {
            host.advance(Duration::from_millis(milliseconds));
            Ok(())
        }
    }
}

/// Everything that can be asked of a host.
fn whole(host: &mut Sim) -> String {
    let mut all = format!("{:?}", host.host().unwrap());
    for machine in host.list().unwrap() {
        let name = &machine.name;
        let (spec, snapshots) = (host.spec(name).unwrap(), host.snapshots(name).unwrap());
        all += &format!("{machine:?} {spec:?} {snapshots:?} {:?}", host.statistics(name).unwrap());
    }
    all
}

proptest! {
    #[test]
    fn whatever_happens_it_stays_in_order(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
        faulty in any::<bool>(),
    ) {
        let new = || {
            let host = Sim::new("node1", 8, Memory::from_mib(1024)).seed(seed);
            if faulty { host.faults(0.2) } else { host }
        };
        let (mut host, mut twin) = (new(), new());
        for (at, step) in steps {
            let before = whole(&mut host);
            let result = take(&mut host, NAMES[at], step);
            if let Err(error) = &result {
                prop_assert_eq!(before, whole(&mut host), "an error changes nothing: {}", error);
                let unsupported = matches!(error, VirtError::Unsupported { .. });
                prop_assert!(!unsupported, "it can do everything");
            }
            let used: u64 = host.list().unwrap().iter().filter(|one| one.state.is_active()).map(|one| one.memory.kib()).sum();
            let machine = host.host().unwrap();
            prop_assert_eq!(machine.free_memory.unwrap().kib() + used, machine.memory.kib(), "{:?}", step);
            for one in host.list().unwrap() {
                prop_assert_eq!(host.spec(&one.name).unwrap().validate(), Ok(()));
            }
            let same = take(&mut twin, NAMES[at], step);
            prop_assert_eq!(format!("{result:?}"), format!("{same:?}"));
        }
        prop_assert_eq!(whole(&mut host), whole(&mut twin), "a history repeats itself");
    }
}

#[test]
fn time_is_turned_by_hand() {
    let mut host = Sim::new("node1", 8, Memory::from_mib(1024)).shutdown_time(Duration::from_secs(20));
    for name in NAMES {
        host.define(&DomainSpec::new(name, 2, Memory::from_mib(64))).unwrap();
        host.start(name).unwrap();
    }
    host.set_load("a", 0.25).unwrap();
    host.advance(Duration::from_secs(8));
    host.pause("a").unwrap();
    host.advance(Duration::from_secs(8));
    assert_eq!(
        host.statistics("a").unwrap().cpu_time,
        Duration::from_secs(4),
        "a paused machine does nothing"
    );

    host.resume("a").unwrap();
    host.suspend("a").unwrap();
    assert!(matches!(host.resume("a"), Err(VirtError::State { .. })), "its guest sleeps");
    host.advance(Duration::from_secs(8));
    host.wake("a").unwrap();
    assert_eq!(host.statistics("a").unwrap().cpu_time, Duration::from_secs(4), "nor does one that sleeps");
    host.set_load("a", 0.0).unwrap();

    host.set_obedient("b", false).unwrap();
    host.shut_down("b").unwrap();
    assert_eq!(host.state("b").unwrap(), State::Running, "it does not listen");
    host.shut_down("c").unwrap();
    while host.next_event(Duration::ZERO).unwrap().is_some() {}
    let event = host.next_event(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((event.machine.as_str(), event.kind), ("c", EventKind::State { state: State::ShutOff }));
    assert_eq!(host.now(), Duration::from_secs(44), "waiting turns the clock as far as it must");
    assert_eq!(host.next_event(Duration::from_secs(4)).unwrap(), None);
    assert_eq!(host.now(), Duration::from_secs(48));
}

#[test]
fn guests_end_as_they_are_told() {
    let mut host = Sim::new("node1", 8, Memory::from_mib(1024));
    let mut spec = DomainSpec::new("a", 1, Memory::from_mib(64));
    for (action, ended, crashed) in [
        (Action::Destroy, State::ShutOff, State::ShutOff),
        (Action::Restart, State::Running, State::Running),
        (Action::Preserve, State::ShutOff, State::Crashed),
    ] {
        (spec.on_poweroff, spec.on_crash) = (action, action);
        host.define(&spec).unwrap();
        host.start("a").unwrap();
        host.shut_down("a").unwrap();
        host.advance(Duration::from_secs(10));
        assert_eq!(host.state("a").unwrap(), ended, "{action}");
        if ended == State::ShutOff {
            host.start("a").unwrap();
        }
        host.crash("a").unwrap();
        assert_eq!(host.state("a").unwrap(), crashed, "{action}");
        if crashed == State::Running {
            host.power_off("a").unwrap();
        }
        host.delete("a").unwrap();
    }
    spec.on_reboot = Action::RenameRestart;
    assert!(matches!(host.define(&spec), Err(VirtError::Inexpressible { .. })));
    host.fail_next("the disk is full");
    spec.on_reboot = Action::Restart;
    let error = host.define(&spec).unwrap_err().to_string();
    assert_eq!(error, "sim could not define a: the disk is full");
    host.define(&spec).unwrap();
}
