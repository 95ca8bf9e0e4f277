//! The promises of [`Hypervisor`], for any backend.

use std::any::Any;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lb_affinity::CpuSet;
use lb_virt::domain::{Bus, Console, Disk, Mac, Nic, NicModel, Pins};
use lb_virt::hypervisor::{Capabilities, CloneRequest, Effect, EventKind, Statistics};
use lb_virt::{DomainSpec, Hypervisor, Memory, Operation, State, VirtError};

/// A backend, and what to try it with.
pub struct Fixture {
    pub host: Box<dyn Hypervisor>,
    /// A machine that the backend can run: 2 virtual CPUs, 256 MiB, a serial console.
    pub spec: Box<dyn Fn(&str) -> DomainSpec>,
    /// An image that is not in use.
    pub disk: PathBuf,
    /// Where clones' images may go.
    pub directory: PathBuf,
    /// What has to live as long, and ends what it has started when it is dropped.
    #[allow(dead_code, reason = "it is kept")]
    pub keeper: Box<dyn Any>,
}

/// How long a guest may take to do what it is asked.
const PATIENCE: Duration = Duration::from_secs(30);

impl Fixture {
    fn define(&mut self, name: &str) {
        self.host.define(&(self.spec)(name)).unwrap();
    }

    fn can(&self, capability: Capabilities) -> bool {
        self.host.capabilities().contains(capability)
    }

    /// Waits for a state; events turn a simulated clock.
    fn becomes(&mut self, name: &str, state: State) {
        let end = Instant::now() + PATIENCE;
        while self.host.state(name).unwrap() != state {
            assert!(Instant::now() < end, "{name} is not {state} within {PATIENCE:?}");
            if self.can(Capabilities::EVENTS) {
                self.host.next_event(Duration::from_millis(100)).unwrap();
            } else {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// The kinds of disk and of network interface that the backend's machines have; virtio, if its machine has none.
    fn devices(&self) -> (Bus, NicModel) {
        let spec = (self.spec)("any");
        let bus = spec.disks.first().map_or(Bus::Virtio, |disk| disk.bus);
        (bus, spec.nics.first().map_or(NicModel::Virtio, |nic| nic.model))
    }

    fn operate(&mut self, name: &str, operation: Operation) -> Option<Result<(), VirtError>> {
        Some(match operation {
            Operation::Start => self.host.start(name),
            Operation::ShutDown => self.host.shut_down(name),
            Operation::PowerOff => self.host.power_off(name),
            Operation::Pause => self.host.pause(name),
            Operation::Resume => self.host.resume(name),
            Operation::Delete => self.host.delete(name),
            Operation::Reboot if self.can(Capabilities::REBOOT) => self.host.reboot(name),
            Operation::Wake if self.can(Capabilities::WAKE) => self.host.wake(name),
            Operation::Clone if self.can(Capabilities::CLONE) => {
                let directory = self.directory.clone();
                let request = CloneRequest { name: format!("{name}-twin"), directory, linked: false };
                self.host.clone_machine(name, &request)
            }
            _ => return None,
        })
    }
}

pub fn a_machine_lives(fixture: &mut Fixture) {
    fixture.define("web1");
    let host = &mut fixture.host;
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    host.start("web1").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Running);
    let listed = host.list().unwrap();
    let [one] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(
        (one.name.as_str(), one.state, one.vcpus, one.memory),
        ("web1", State::Running, 2, Memory::from_mib(256))
    );
    host.pause("web1").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Paused);
    host.resume("web1").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Running);
    host.power_off("web1").unwrap();
    fixture.becomes("web1", State::ShutOff);
    fixture.host.delete("web1").unwrap();
    assert!(fixture.host.list().unwrap().is_empty());
}

/// In each state that can be had by asking, what the table does not have is refused, naming both states, and changes nothing.
pub fn states_and_operations_follow_the_table(fixture: &mut Fixture) {
    for (number, state) in [State::ShutOff, State::Running, State::Paused].into_iter().enumerate() {
        let name = format!("m{number}");
        fixture.define(&name);
        if state != State::ShutOff {
            fixture.host.start(&name).unwrap();
        }
        if state == State::Paused {
            fixture.host.pause(&name).unwrap();
        }
        for operation in Operation::ALL {
            let Err(wrong) = state.after(operation) else { continue };
            let Some(result) = fixture.operate(&name, operation) else { continue };
            match result {
                Err(VirtError::State { name: named, source }) => {
                    assert_eq!((named, source), (name.clone(), wrong))
                }
                other => panic!("{operation} of what is {state}: {other:?}"),
            }
            assert_eq!(fixture.host.state(&name).unwrap(), state, "{operation}");
        }
        for operation in Operation::ALL {
            // The ones that end it are tried elsewhere.
            let ends = matches!(operation, Operation::Delete | Operation::ShutDown | Operation::PowerOff);
            let Ok(after) = state.after(operation) else { continue };
            if ends {
                continue;
            }
            let other = format!("{name}-{operation}").replace(' ', "-");
            fixture.define(&other);
            if state != State::ShutOff {
                fixture.host.start(&other).unwrap();
            }
            if state == State::Paused {
                fixture.host.pause(&other).unwrap();
            }
            let Some(result) = fixture.operate(&other, operation) else { continue };
            result.unwrap_or_else(|error| panic!("{operation} of what is {state}: {error}"));
            fixture.becomes(&other, after);
            if after.is_active() {
                fixture.host.power_off(&other).unwrap();
                fixture.becomes(&other, State::ShutOff);
            }
            fixture.host.delete(&other).unwrap();
        }
    }
}

pub fn what_is_not_there_is_named(fixture: &mut Fixture) {
    let host = &mut fixture.host;
    let missing = |result: Result<(), VirtError>| match result {
        Err(VirtError::NoMachine { name, .. }) => assert_eq!(name, "ghost"),
        other => panic!("{other:?}"),
    };
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    missing(host.state("ghost").map(drop));
    missing(host.spec("ghost").map(drop));
    missing(host.delete("ghost"));
    missing(host.start("ghost"));
    missing(host.shut_down("ghost"));
    missing(host.power_off("ghost"));
    missing(host.pause("ghost"));
    missing(host.resume("ghost"));
    missing(host.set_vcpus("ghost", 1).map(drop));
    missing(host.set_memory("ghost", Memory::from_mib(64)).map(drop));
    missing(host.attach_disk("ghost", &Disk::file("/a.qcow2").named("vdb")).map(drop));
    missing(host.detach_disk("ghost", "vda").map(drop));
    missing(host.attach_nic("ghost", &Nic::nat().mac(mac)).map(drop));
    missing(host.detach_nic("ghost", mac).map(drop));
    missing(host.statistics("ghost").map(drop));
    assert!(host.list().unwrap().is_empty());
}

pub fn names_are_unique(fixture: &mut Fixture) {
    fixture.define("web1");
    let again = fixture.host.define(&(fixture.spec)("web1"));
    assert!(matches!(again, Err(VirtError::MachineExists { ref name, .. }) if name == "web1"), "{again:?}");
    for name in ["web3", "web2", "a"] {
        fixture.define(name);
    }
    let listed = fixture.host.list().unwrap();
    let names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a", "web1", "web2", "web3"], "by name");
    assert!(listed.iter().all(|one| one.state == State::ShutOff));
    // One and the same identity is one machine.
    let twin = DomainSpec { uuid: listed[0].uuid, ..(fixture.spec)("twin") };
    if twin.uuid.is_some() {
        assert!(fixture.host.define(&twin).is_err());
        assert_eq!(fixture.host.list().unwrap().len(), 4);
    }
}

pub fn wrong_definitions_leave_nothing(fixture: &mut Fixture) {
    let wrong: [fn(&mut DomainSpec); 4] = [
        |spec| spec.name = "; reboot".into(),
        |spec| spec.vcpus = 0,
        |spec| spec.memory = Memory::from_kib(1),
        |spec| spec.disks.push(Disk::file("relative.img").named("vdz")),
    ];
    for change in wrong {
        let mut spec = (fixture.spec)("wrong");
        change(&mut spec);
        let refused = fixture.host.define(&spec);
        assert!(matches!(refused, Err(VirtError::Spec { .. })), "{refused:?}");
        assert!(fixture.host.list().unwrap().is_empty());
    }
}

/// What a backend does not claim it refuses as such, before it looks at anything else; what it claims it does not refuse so.
pub fn capabilities_are_kept(fixture: &mut Fixture) {
    fixture.define("web1");
    let host = &mut fixture.host;
    let request = CloneRequest { name: "web2".into(), directory: fixture.directory.clone(), linked: false };
    let tries: [(Capabilities, Result<(), VirtError>); 7] = [
        (Capabilities::REBOOT, host.reboot("web1")),
        (Capabilities::WAKE, host.wake("web1")),
        (Capabilities::PINNING, host.pin("web1", &Pins::default()).map(drop)),
        (Capabilities::SNAPSHOTS, host.snapshots("web1").map(drop)),
        (Capabilities::CLONE, host.clone_machine("web1", &request)),
        (Capabilities::CONSOLE, host.console("web1").map(drop)),
        (Capabilities::EVENTS, host.next_event(Duration::ZERO).map(drop)),
    ];
    for (capability, result) in tries {
        let refused = matches!(result, Err(VirtError::Unsupported { .. }));
        assert_eq!(refused, !host.capabilities().contains(capability), "{capability:?}: {result:?}");
    }
}

pub fn machines_are_resized(fixture: &mut Fixture) {
    let roomy = |name: &str, fixture: &Fixture| DomainSpec {
        max_vcpus: Some(4),
        max_memory: Some(Memory::from_mib(512)),
        ..(fixture.spec)(name)
    };
    let spec = roomy("web1", fixture);
    fixture.host.define(&spec).unwrap();
    let host = &mut fixture.host;
    assert_eq!(host.set_vcpus("web1", 3).unwrap(), Effect::Now);
    assert_eq!(host.set_memory("web1", Memory::from_mib(384)).unwrap(), Effect::Now);
    let spec = host.spec("web1").unwrap();
    assert_eq!((spec.vcpus, spec.memory), (3, Memory::from_mib(384)));
    host.start("web1").unwrap();
    let (hot_vcpus, hot_memory) =
        (fixture.can(Capabilities::HOT_VCPUS), fixture.can(Capabilities::HOT_MEMORY));
    let host = &mut fixture.host;
    let effect = |hot| if hot { Effect::Now } else { Effect::NextBoot };
    if !hot_vcpus && let Err(VirtError::NotAtRest { .. }) = host.set_vcpus("web1", 4) {
        // Some hypervisors let nobody change what runs, not even for later.
        assert!(matches!(host.set_memory("web1", Memory::from_mib(320)), Err(VirtError::NotAtRest { .. })));
        assert_eq!(host.spec("web1").unwrap(), spec);
        host.power_off("web1").unwrap();
        fixture.becomes("web1", State::ShutOff);
        fixture.host.set_vcpus("web1", 6).unwrap();
        assert_eq!(fixture.host.spec("web1").unwrap().vcpus, 6);
        return;
    }
    assert_eq!(host.set_vcpus("web1", 4).unwrap(), effect(hot_vcpus));
    assert_eq!(host.set_memory("web1", Memory::from_mib(320)).unwrap(), effect(hot_memory));
    assert_eq!(host.spec("web1").unwrap().vcpus, 4);
    for refused in [host.set_vcpus("web1", 5), host.set_memory("web1", Memory::from_mib(513))] {
        let error = refused.unwrap_err();
        assert!(matches!(error, VirtError::Resize { .. }), "{error:?}");
        assert!(error.to_string().contains("raise max-"), "{error}");
    }
    assert!(matches!(host.set_vcpus("web1", 0), Err(VirtError::Spec { .. })));
    assert_eq!(host.spec("web1").unwrap().vcpus, 4);
    host.power_off("web1").unwrap();
    fixture.becomes("web1", State::ShutOff);
    // At rest there is no bound but the hypervisor's.
    fixture.host.set_vcpus("web1", 6).unwrap();
    fixture.host.start("web1").unwrap();
    assert_eq!(fixture.host.list().unwrap()[0].vcpus, 6);
}

pub fn pins_are_kept(fixture: &mut Fixture) {
    if !fixture.can(Capabilities::PINNING) {
        return; // `capabilities_are_kept` shows that it says so
    }
    fixture.define("web1");
    let host = &mut fixture.host;
    let pins = |vcpus: &[(u32, &str)]| Pins {
        vcpus: vcpus.iter().map(|(vcpu, cpus)| (*vcpu, cpus.parse().unwrap())).collect(),
        emulator: "0".parse().unwrap(),
    };
    let mut wanted = pins(&[(0, "0"), (1, "0-1")]);
    if let Err(VirtError::Inexpressible { .. }) = host.pin("web1", &wanted) {
        // Not every hypervisor has threads of its own for each machine.
        wanted.emulator = CpuSet::new();
    }
    host.pin("web1", &wanted).unwrap();
    assert_eq!(host.spec("web1").unwrap().pins, wanted);
    assert!(matches!(host.pin("web1", &pins(&[(2, "0")])), Err(VirtError::Spec { .. })), "there is no third");
    host.start("web1").unwrap();
    assert_eq!(host.spec("web1").unwrap().pins, wanted);
    host.pin("web1", &Pins::default()).unwrap();
    assert!(host.spec("web1").unwrap().pins.is_empty());
}

pub fn devices_come_and_go(fixture: &mut Fixture) {
    fixture.define("web1");
    let (bus, model) = fixture.devices();
    // The last that all have.
    let target = bus.target(15);
    let (hot_disks, hot_nics) = (fixture.can(Capabilities::HOT_DISKS), fixture.can(Capabilities::HOT_NICS));
    for runs in [false, true] {
        let host = &mut fixture.host;
        if runs {
            host.start("web1").unwrap();
        }
        let effect = |hot| if !runs || hot { Effect::Now } else { Effect::NextBoot };
        let disks = host.spec("web1").unwrap().disks;
        let disk = Disk::file(&fixture.disk).on(bus).named(&target);
        let attached = host.attach_disk("web1", &disk);
        if runs && !hot_disks && matches!(attached, Err(VirtError::NotAtRest { .. })) {
            // Some hypervisors let nobody change what runs, not even for later.
            assert!(matches!(host.detach_disk("web1", &target), Err(VirtError::NotAtRest { .. })));
            assert_eq!(host.spec("web1").unwrap().disks, disks);
            continue;
        }
        assert_eq!(attached.unwrap(), effect(hot_disks), "runs: {runs}");
        assert!(
            host.spec("web1")
                .unwrap()
                .disks
                .iter()
                .any(|one| one.target == target && one.source == disk.source)
        );
        let again = host.attach_disk("web1", &disk);
        assert!(matches!(again, Err(VirtError::PartExists { ref part, .. }) if *part == target), "{again:?}");
        // A guest that runs lets it go when it likes; one without a driver for it never does.
        let let_go = |is: Effect, hot| is == effect(hot) || runs && is == Effect::NextBoot;
        assert!(let_go(host.detach_disk("web1", &target).unwrap(), hot_disks), "runs: {runs}");
        let gone = host.detach_disk("web1", &target);
        assert!(matches!(gone, Err(VirtError::NoPart { ref part, .. }) if *part == target), "{gone:?}");
        assert_eq!(host.spec("web1").unwrap().disks, disks);

        let mac = Mac([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
        let nic = Nic::nat().mac(mac).model(model);
        assert_eq!(host.attach_nic("web1", &nic).unwrap(), effect(hot_nics), "runs: {runs}");
        assert!(host.spec("web1").unwrap().nics.contains(&nic));
        assert!(matches!(host.attach_nic("web1", &nic), Err(VirtError::PartExists { .. })));
        assert!(let_go(host.detach_nic("web1", mac).unwrap(), hot_nics), "runs: {runs}");
        assert!(matches!(host.detach_nic("web1", mac), Err(VirtError::NoPart { .. })));
    }
}

pub fn snapshots_bring_back_what_was(fixture: &mut Fixture) {
    if !fixture.can(Capabilities::SNAPSHOTS) {
        return; // `capabilities_are_kept` shows that it says so
    }
    fixture.define("web1");
    let host = &mut fixture.host;
    host.take_snapshot("web1", "fresh").unwrap();
    host.start("web1").unwrap();
    host.take_snapshot("web1", "at-work").unwrap();
    let again = host.take_snapshot("web1", "fresh");
    assert!(matches!(again, Err(VirtError::PartExists { ref part, .. }) if part == "fresh"), "{again:?}");
    assert!(matches!(host.take_snapshot("web1", "a/b"), Err(VirtError::Spec { .. })));
    let kept = host.snapshots("web1").unwrap();
    let kept: Vec<(&str, State)> = kept.iter().map(|one| (one.name.as_str(), one.state)).collect();
    assert_eq!(kept, [("fresh", State::ShutOff), ("at-work", State::Running)]);
    host.power_off("web1").unwrap();
    fixture.becomes("web1", State::ShutOff);
    fixture.host.restore_snapshot("web1", "at-work").unwrap();
    fixture.becomes("web1", State::Running);
    fixture.host.restore_snapshot("web1", "fresh").unwrap();
    fixture.becomes("web1", State::ShutOff);
    let host = &mut fixture.host;
    let missing = host.restore_snapshot("web1", "never");
    assert!(matches!(missing, Err(VirtError::NoPart { what: "snapshot", .. })), "{missing:?}");
    host.delete_snapshot("web1", "fresh").unwrap();
    assert!(host.delete_snapshot("web1", "fresh").is_err());
    assert_eq!(host.snapshots("web1").unwrap().len(), 1);
    host.delete("web1").unwrap();
}

pub fn clones_are_machines_of_their_own(fixture: &mut Fixture) {
    if !fixture.can(Capabilities::CLONE) {
        return; // `capabilities_are_kept` shows that it says so
    }
    let spec = (fixture.spec)("template").nic(Nic::nat().mac(Mac([0x52, 0x54, 0, 1, 1, 1])));
    fixture.host.define(&spec).unwrap();
    let request =
        |name: &str, linked| CloneRequest { name: name.into(), directory: fixture.directory.clone(), linked };
    let (first, again, linked) = (request("web1", false), request("web1", true), request("web2", true));
    let host = &mut fixture.host;
    host.clone_machine("template", &first).unwrap();
    let (template, clone) = (host.spec("template").unwrap(), host.spec("web1").unwrap());
    assert_eq!(
        (clone.vcpus, clone.memory, clone.nics.len()),
        (template.vcpus, template.memory, template.nics.len())
    );
    assert!(clone.uuid.is_none() || clone.uuid != template.uuid);
    assert_ne!(clone.nics[0].mac, template.nics[0].mac);
    for (own, theirs) in clone.disks.iter().zip(&template.disks).filter(|(own, _)| !own.read_only) {
        assert_ne!(own.source, theirs.source);
    }
    let twice = host.clone_machine("template", &again);
    assert!(matches!(twice, Err(VirtError::MachineExists { .. })), "{twice:?}");
    // A template's images stay as they are while others hold what differs from them.
    match host.clone_machine("template", &linked) {
        Err(VirtError::Inexpressible { .. }) => {
            host.clone_machine("template", &CloneRequest { linked: false, ..linked }).unwrap();
        }
        cloned => cloned.unwrap(),
    }
    host.start("web1").unwrap();
    host.start("web2").unwrap();
    host.power_off("web2").unwrap();
    fixture.becomes("web2", State::ShutOff);
    let host = &mut fixture.host;
    host.start("template").unwrap();
    let while_it_runs = host.clone_machine("template", &CloneRequest { name: "web3".into(), ..again });
    assert!(matches!(while_it_runs, Err(VirtError::State { .. })), "{while_it_runs:?}");
    assert_eq!(host.list().unwrap().len(), 3);
}

pub fn statistics_are_of_what_runs(fixture: &mut Fixture) {
    fixture.define("web1");
    assert_eq!(fixture.host.statistics("web1").unwrap(), Statistics::default());
    fixture.host.start("web1").unwrap();
    let first = fixture.host.statistics("web1").unwrap();
    assert_eq!((first.vcpus, first.memory), (2, Memory::from_mib(256)));
    let second = fixture.host.statistics("web1").unwrap();
    assert!(second.cpu_time >= first.cpu_time, "totals only grow");
    let host = fixture.host.host().unwrap();
    assert!(host.cpus > 0 && host.memory > Memory::from_mib(1), "{host:?}");
    fixture.host.power_off("web1").unwrap();
    fixture.becomes("web1", State::ShutOff);
    assert_eq!(fixture.host.statistics("web1").unwrap(), Statistics::default());
}

pub fn events_come_in_order(fixture: &mut Fixture) {
    if !fixture.can(Capabilities::EVENTS) {
        return; // `capabilities_are_kept` shows that it says so
    }
    fixture.define("web1");
    let host = &mut fixture.host;
    host.start("web1").unwrap();
    host.pause("web1").unwrap();
    host.resume("web1").unwrap();
    host.power_off("web1").unwrap();
    host.delete("web1").unwrap();
    let state = |state| EventKind::State { state };
    let expected = [
        EventKind::Defined,
        state(State::Running),
        state(State::Paused),
        state(State::Running),
        state(State::ShutOff),
        EventKind::Deleted,
    ];
    let mut seen = Vec::new();
    let end = Instant::now() + PATIENCE;
    while seen.last() != Some(&EventKind::Deleted) {
        assert!(Instant::now() < end, "{seen:?}");
        let Some(event) = host.next_event(Duration::from_millis(100)).unwrap() else { continue };
        assert_eq!(event.machine, "web1");
        // Hypervisors tell more than is asked for here.
        if expected.contains(&event.kind) {
            seen.push(event.kind);
        }
    }
    assert_eq!(seen, expected);
    assert!(matches!((fixture.spec)("x").console, Console::Pty | Console::Socket(_) | Console::File(_)));
}
