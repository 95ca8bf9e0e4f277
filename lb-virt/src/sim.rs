//! A host that is only thought of: machines in memory, a clock that is turned by hand, faults from a seed.
//!
//! Policies are tried on it, by the thousand hosts and without a wait; the same seed and the same calls give the same answers.
//!
//! ```
//! use std::time::Duration;
//! use lb_virt::{DomainSpec, Hypervisor, Memory, Sim, State};
//!
//! let mut host = Sim::new("node1", 8, Memory::from_mib(32_768));
//! host.define(&DomainSpec::new("web1", 2, Memory::from_mib(2048)))?;
//! host.start("web1")?;
//! host.set_load("web1", 0.5)?;
//! host.advance(Duration::from_secs(10));
//! assert_eq!(host.statistics("web1")?.cpu_time, Duration::from_secs(10)); // half of two for ten seconds
//!
//! host.shut_down("web1")?;
//! assert_eq!(host.state("web1")?, State::ShuttingDown);
//! host.advance(Duration::from_secs(5));
//! assert_eq!(host.state("web1")?, State::ShutOff);
//! # Ok::<(), lb_virt::VirtError>(())
//! ```

mod fault;
mod machine;
mod moving;
mod network;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use uuid::Uuid;

use crate::domain::{Action, Bus, Console, Disk, DomainSpec, Mac, Memory, Nic, Pins};
use crate::error::VirtError;
use crate::hypervisor::{
    Capabilities, CloneRequest, ConsoleAddress, Effect, Event, EventKind, Host, Hypervisor, Snapshot,
    Statistics, Summary,
};
use crate::migration::{Conclusion, Control, Demand, Destination, Sample, Settings, Via};
use crate::state::{Operation, State};
use machine::Machine;

pub use fault::Fault;
pub use network::Network;

/// Events that are kept for who asks later; the oldest go first.
const EVENTS: usize = 65_536;

/// QEMU's own block of addresses.
const VENDOR: [u8; 3] = [0x52, 0x54, 0];

/// A host that is only thought of. See the [module](self).
#[derive(Debug)]
pub struct Sim {
    host: Host,
    now: Duration,
    /// How long a guest takes to shut down.
    shutdown: Duration,
    machines: BTreeMap<String, Machine>,
    /// When shutdowns end, so that time need not ask every machine.
    ending: BTreeSet<(Duration, String)>,
    events: VecDeque<Event>,
    random: Rng,
    /// How many of a million operations fail.
    faults: u32,
    /// Faults that are to come, each after so many operations more.
    planned: VecDeque<(u32, Fault)>,
    /// Whether it answers.
    reachable: bool,
    network: Network,
    /// How many machines come or go.
    moving: usize,
}

impl Sim {
    /// A host with so many CPUs and so much memory; nothing fails.
    #[must_use]
    pub fn new(name: &str, cpus: u32, memory: Memory) -> Self {
        let version = concat!("sim ", env!("CARGO_PKG_VERSION")).into();
        let host =
            Host { name: name.into(), version, cpus, memory, free_memory: Some(memory), accelerated: true };
        Self {
            host,
            now: Duration::ZERO,
            shutdown: Duration::from_secs(3),
            machines: BTreeMap::new(),
            ending: BTreeSet::new(),
            events: VecDeque::new(),
            random: Rng::with_seed(0),
            faults: 0,
            planned: VecDeque::new(),
            reachable: true,
            network: Network::new(),
            moving: 0,
        }
    }

    /// On a network: its machines can be moved to the other hosts of it.
    #[must_use]
    pub fn on(mut self, network: &Network) -> Self {
        self.network = network.clone();
        self
    }

    /// Chooses identities and faults by another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.random = Rng::with_seed(seed);
        self
    }

    /// How long a guest takes to shut down. Default: 3 s.
    #[must_use]
    pub const fn shutdown_time(mut self, time: Duration) -> Self {
        self.shutdown = time;
        self
    }

    /// The time since the host was made.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Lets time pass: machines work, and guests that were asked to shut down do.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now.saturating_add(time);
        while self.ending.first().is_some_and(|(at, _)| *at <= end)
            && let Some((at, name)) = self.ending.pop_first()
        {
            self.now = at;
            let action = self.machines.get(&name).map(|machine| machine.live().on_poweroff);
            if let Some(action) = action {
                self.follow(&name, action, State::ShutOff);
            }
        }
        self.now = end;
        if self.moving > 0 {
            for moving in self.machines.values().filter_map(|machine| machine.moving.as_ref()) {
                if moving.outgoing {
                    self.network.advance(&moving.uri, time);
                }
            }
            self.settle();
        }
    }

    /// Sets how fast a machine's guest writes to memory while it runs, in bytes a second, and to how much of it; `None`: to all.
    ///
    /// # Errors
    /// [`VirtError::NoMachine`].
    pub fn set_dirty_rate(
        &mut self,
        name: &str,
        rate: u64,
        working_set: Option<Memory>,
    ) -> Result<(), VirtError> {
        let machine = self.machine(name)?;
        (machine.dirty_rate, machine.working_set) = (rate, working_set.map(Memory::bytes));
        Ok(())
    }

    /// Ends a machine as the host would that kills its process; [`DomainSpec::on_crash`] has no say.
    ///
    /// # Errors
    /// [`VirtError::State`] if it is shut off.
    pub fn kill(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.machine(name)?.state;
        state.after(Operation::PowerOff).map_err(|source| VirtError::State { name: name.into(), source })?;
        let received = self.machine(name)?.moving.as_ref().is_some_and(|moving| !moving.outgoing);
        self.leave(name);
        if received {
            self.remove(name)
        } else {
            self.enter(name, State::Crashed)
        }
        Ok(())
    }

    /// Sets what share of its virtual CPUs a machine uses while it runs, 0 to 1.
    ///
    /// # Errors
    /// [`VirtError::NoMachine`].
    pub fn set_load(&mut self, name: &str, share: f64) -> Result<(), VirtError> {
        let now = self.now;
        self.machine(name)?.set_load(now, share);
        Ok(())
    }

    /// Whether a machine's guest does what it is asked (shut down). Default: yes.
    ///
    /// # Errors
    /// [`VirtError::NoMachine`].
    pub fn set_obedient(&mut self, name: &str, obedient: bool) -> Result<(), VirtError> {
        self.machine(name)?.obedient = obedient;
        Ok(())
    }

    /// Lets a machine's guest crash.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run.
    pub fn crash(&mut self, name: &str) -> Result<(), VirtError> {
        let action = self.must_run(name)?.live().on_crash;
        self.follow(name, action, State::Crashed);
        Ok(())
    }

    /// Lets a machine's guest suspend it to memory; [`wake`](Hypervisor::wake) ends that.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run.
    pub fn suspend(&mut self, name: &str) -> Result<(), VirtError> {
        self.must_run(name)?;
        self.enter(name, State::Suspended);
        Ok(())
    }

    /// What a guest does by itself it can do where it could be paused.
    fn must_run(&mut self, name: &str) -> Result<&mut Machine, VirtError> {
        let machine = self.machine(name)?;
        machine
            .state
            .after(Operation::Pause)
            .map_err(|source| VirtError::State { name: name.into(), source })?;
        Ok(machine)
    }

    /// What follows when a guest ends.
    fn follow(&mut self, name: &str, action: Action, ended: State) {
        match action {
            Action::Restart => {
                self.enter(name, State::Running);
                self.tell(name, EventKind::Rebooted);
            }
            Action::Preserve => self.enter(name, ended),
            _ => self.enter(name, State::ShutOff),
        }
    }

    fn machine(&mut self, name: &str) -> Result<&mut Machine, VirtError> {
        self.answers(name)?;
        self.settle();
        let host = &self.host.name;
        let missing = || VirtError::NoMachine { name: name.into(), host: host.clone() };
        self.machines.get_mut(name).ok_or_else(missing)
    }

    /// Puts a machine into a state, and tells of it.
    fn enter(&mut self, name: &str, state: State) {
        let Some(machine) = self.machines.get_mut(name) else { return };
        let (now, before, held) = (self.now, machine.state, machine.memory());
        machine.enter(now, state);
        let holds = machine.memory();
        let free = self.host.free_memory.unwrap_or_default().kib();
        self.host.free_memory = Some(Memory::from_kib((free + held.kib()).saturating_sub(holds.kib())));
        if let Some(at) = machine.ends.take() {
            self.ending.remove(&(at, name.to_owned()));
        }
        if before != state {
            self.tell(name, EventKind::State { state });
        }
    }

    fn tell(&mut self, machine: &str, kind: EventKind) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event { machine: machine.into(), kind });
    }

    /// Refuses a name or an identity that is taken.
    fn must_be_free(&self, name: &str, uuid: Option<Uuid>) -> Result<(), VirtError> {
        self.answers(name)?;
        if self.machines.contains_key(name) || self.uuid_taken(uuid) {
            return Err(VirtError::MachineExists { name: name.into(), host: self.host.name.clone() });
        }
        Ok(())
    }

    /// Refuses what there is no memory for.
    fn must_fit(&self, name: &str, needed: Memory) -> Result<(), VirtError> {
        let free = self.host.free_memory.unwrap_or_default();
        if free >= needed {
            return Ok(());
        }
        let words = format!("cannot allocate {needed}: {free} are free");
        Err(VirtError::Said { hypervisor: "sim", operation: format!("start {name}"), words })
    }

    /// Refuses to change what is being moved.
    fn must_stay(&mut self, name: &str, operation: &str) -> Result<(), VirtError> {
        if self.machine(name)?.moving.is_some() {
            return Err(VirtError::Moving { name: name.into(), operation: operation.into() });
        }
        Ok(())
    }

    /// Whether a machine's state lets an operation be done, and then whether it fails.
    fn may(&mut self, name: &str, operation: Operation) -> Result<State, VirtError> {
        let before = self.machine(name)?.state;
        let after =
            before.after(operation).map_err(|source| VirtError::State { name: name.into(), source })?;
        if self.moving > 0
            && !self.machines.get(name).is_none_or(|machine| self.may_while_moving(machine, operation))
        {
            return Err(VirtError::Moving { name: name.into(), operation: operation.to_string() });
        }
        // Only what is not so usual is said in words.
        if self.faults > 0 || !self.planned.is_empty() {
            self.luck(&operation.to_string(), name)?;
        }
        Ok(after)
    }

    /// Changes a machine's definition, if it is a good one then. What holds for a running machine at once is changed in both
    /// of its definitions.
    fn change(
        &mut self,
        name: &str,
        what: &str,
        at_once: bool,
        change: impl Fn(&mut DomainSpec),
    ) -> Result<Effect, VirtError> {
        self.must_stay(name, what)?;
        let machine = self.machine(name)?;
        let (mut spec, mut running) = (machine.spec.clone(), machine.running.clone());
        change(Arc::make_mut(&mut spec));
        if let (Some(running), true) = (&mut running, at_once) {
            change(Arc::make_mut(running));
        }
        for changed in [Some(&spec), running.as_ref()].into_iter().flatten() {
            changed.validate().map_err(|source| VirtError::Spec { name: name.into(), source })?;
        }
        self.luck(what, name)?;
        let now = self.now;
        let machine = self.machine(name)?;
        machine.account(now);
        let effect = if at_once || running.is_none() { Effect::Now } else { Effect::NextBoot };
        (machine.spec, machine.running) = (spec, running);
        self.tell(name, EventKind::Changed);
        Ok(effect)
    }

    fn uuid_taken(&self, uuid: Option<Uuid>) -> bool {
        uuid.is_some() && self.machines.values().any(|machine| machine.spec.uuid == uuid)
    }
}

impl Hypervisor for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    fn host(&mut self) -> Result<Host, VirtError> {
        self.answers("itself")?;
        Ok(self.host.clone())
    }

    fn list(&mut self) -> Result<Vec<Summary>, VirtError> {
        self.answers("its machines")?;
        self.settle();
        Ok(self.machines.values().map(Machine::summary).collect())
    }

    fn state(&mut self, name: &str) -> Result<State, VirtError> {
        Ok(self.machine(name)?.state)
    }

    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        Ok(DomainSpec::clone(&self.machine(name)?.spec))
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let spec = spec.completed(VENDOR, &mut self.random);
        let name = spec.name.clone();
        spec.validate().map_err(|source| VirtError::Spec { name: name.clone(), source })?;
        self.must_be_free(&name, spec.uuid)?;
        for action in [spec.on_poweroff, spec.on_reboot, spec.on_crash] {
            if action == Action::RenameRestart {
                let cure = "use restart or preserve";
                return Err(VirtError::Inexpressible {
                    name,
                    hypervisor: "sim",
                    what: action.to_string(),
                    cure,
                });
            }
        }
        self.luck("define", &name)?;
        self.machines.insert(name.clone(), Machine::new(spec));
        self.tell(&name, EventKind::Defined);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        self.may(name, Operation::Delete)?;
        self.machines.remove(name);
        self.tell(name, EventKind::Deleted);
        Ok(())
    }

    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::Start)?;
        let needed = self.machine(name)?.spec.memory;
        self.must_fit(name, needed)?;
        self.enter(name, state);
        Ok(())
    }

    fn shut_down(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::ShutDown)?;
        // A guest without ACPI hears nothing.
        let machine = self.machine(name)?;
        if machine.obedient && machine.live().features.acpi {
            self.enter(name, state);
            let end = self.now.saturating_add(self.shutdown);
            self.machine(name)?.ends = Some(end);
            self.ending.insert((end, name.into()));
        }
        Ok(())
    }

    fn power_off(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::PowerOff)?;
        let received = self.machine(name)?.moving.as_ref().is_some_and(|moving| !moving.outgoing);
        self.leave(name);
        if received {
            self.remove(name)
        } else {
            self.enter(name, state)
        }
        Ok(())
    }

    fn pause(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::Pause)?;
        self.enter(name, state);
        self.runs_while_moving(name, false);
        Ok(())
    }

    fn resume(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::Resume)?;
        self.enter(name, state);
        self.runs_while_moving(name, true);
        Ok(())
    }

    fn reboot(&mut self, name: &str) -> Result<(), VirtError> {
        self.may(name, Operation::Reboot)?;
        let action = self.machine(name)?.live().on_reboot;
        self.follow(name, action, State::ShutOff);
        Ok(())
    }

    fn wake(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::Wake)?;
        self.enter(name, state);
        Ok(())
    }

    fn set_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError> {
        let machine = self.machine(name)?;
        if let Some(running) = &machine.running
            && vcpus > running.most_vcpus()
        {
            let limit =
                format!("it runs with at most {}: shut it off, and raise max-vcpus", running.most_vcpus());
            let wanted = format!("{vcpus} virtual CPUs");
            return Err(VirtError::Resize { name: name.into(), wanted, limit });
        }
        self.change(name, "resize", true, |spec| spec.resize(Some(vcpus), None))
    }

    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        let free = self.host.free_memory.unwrap_or_default();
        let machine = self.machine(name)?;
        let held = machine.memory();
        if let Some(running) = &machine.running {
            let limit = if memory > running.most_memory() {
                Some(format!(
                    "it runs with at most {}: shut it off, and raise max-memory",
                    running.most_memory()
                ))
            } else {
                let free = free.saturating_add(held);
                (memory > free).then(|| format!("{free} are free on the host, its own among them"))
            };
            if let Some(limit) = limit {
                return Err(VirtError::Resize { name: name.into(), wanted: memory.to_string(), limit });
            }
        }
        let effect = self.change(name, "resize", true, |spec| spec.resize(None, Some(memory)))?;
        let holds = self.machine(name)?.memory();
        self.host.free_memory = Some(Memory::from_kib((free.kib() + held.kib()).saturating_sub(holds.kib())));
        Ok(effect)
    }

    fn pin(&mut self, name: &str, pins: &Pins) -> Result<Effect, VirtError> {
        self.change(name, "pin", true, |spec| spec.pins.clone_from(pins))
    }

    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        let spec = &self.machine(name)?.spec;
        if spec.disks.iter().any(|other| other.target == disk.target) {
            return Err(VirtError::PartExists { name: name.into(), what: "disk", part: disk.target.clone() });
        }
        let at_once = matches!(disk.bus, Bus::Virtio | Bus::Scsi | Bus::Usb | Bus::Xen);
        self.change(name, "attach a disk to", at_once, |spec| *spec = spec.clone().disk(disk.clone()))
    }

    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        let spec = &self.machine(name)?.spec;
        let Some(disk) = spec.disks.iter().find(|disk| disk.target == target) else {
            return Err(VirtError::NoPart { name: name.into(), what: "disk", part: target.into() });
        };
        let at_once = matches!(disk.bus, Bus::Virtio | Bus::Scsi | Bus::Usb | Bus::Xen);
        self.change(name, "detach a disk from", at_once, |spec| {
            spec.disks.retain(|disk| disk.target != target)
        })
    }

    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        let spec = &self.machine(name)?.spec;
        if let Some(mac) = nic.mac
            && spec.nics.iter().any(|other| other.mac == nic.mac)
        {
            return Err(VirtError::PartExists {
                name: name.into(),
                what: "network interface",
                part: mac.to_string(),
            });
        }
        let nic = Nic {
            mac: Some(nic.mac.unwrap_or_else(|| Mac::random(VENDOR, &mut self.random))),
            ..nic.clone()
        };
        self.change(name, "attach a network interface to", true, |spec| spec.nics.push(nic.clone()))
    }

    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        let spec = &self.machine(name)?.spec;
        if !spec.nics.iter().any(|nic| nic.mac == Some(mac)) {
            let part = mac.to_string();
            return Err(VirtError::NoPart { name: name.into(), what: "network interface", part });
        }
        let other = |nic: &Nic| nic.mac != Some(mac);
        self.change(name, "detach a network interface from", true, |spec| spec.nics.retain(other))
    }

    fn take_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        crate::domain::check_name(snapshot)
            .map_err(|source| VirtError::Spec { name: name.into(), source })?;
        if self.machine(name)?.find_snapshot(snapshot).is_some() {
            return Err(VirtError::PartExists { name: name.into(), what: "snapshot", part: snapshot.into() });
        }
        self.must_stay(name, "take a snapshot")?;
        self.luck("take a snapshot of", name)?;
        let now = self.now;
        self.machine(name)?.take_snapshot(snapshot, now);
        Ok(())
    }

    fn snapshots(&mut self, name: &str) -> Result<Vec<Snapshot>, VirtError> {
        Ok(self.machine(name)?.snapshots.iter().map(|kept| kept.snapshot.clone()).collect())
    }

    fn restore_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let free = self.host.free_memory.unwrap_or_default();
        let machine = self.machine(name)?;
        let missing = || VirtError::NoPart { name: name.into(), what: "snapshot", part: snapshot.into() };
        let kept = machine.find_snapshot(snapshot).ok_or_else(missing)?.clone();
        let needed = kept.running.as_ref().map_or(Memory::default(), |spec| spec.memory);
        let has = machine.memory();
        if needed > free.saturating_add(has) {
            return Err(VirtError::Said {
                hypervisor: "sim",
                operation: format!("restore {snapshot} of {name}"),
                words: format!("cannot allocate {needed}: {free} are free"),
            });
        }
        self.must_stay(name, "restore a snapshot")?;
        self.luck("restore a snapshot of", name)?;
        self.enter(name, State::ShutOff);
        self.machine(name)?.spec = kept.spec;
        if kept.running.is_some() {
            self.enter(name, State::Running);
            self.machine(name)?.running = kept.running;
        }
        if kept.snapshot.state != self.machine(name)?.state {
            self.enter(name, kept.snapshot.state);
        }
        Ok(())
    }

    fn delete_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let missing = || VirtError::NoPart { name: name.into(), what: "snapshot", part: snapshot.into() };
        self.machine(name)?.find_snapshot(snapshot).ok_or_else(missing)?;
        self.luck("delete a snapshot of", name)?;
        self.machine(name)?.snapshots.retain(|kept| kept.snapshot.name != snapshot);
        Ok(())
    }

    fn clone_machine(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        let machine = self.machine(template)?;
        if machine.state.is_active() {
            // As with a cold migration: its disks must stand still.
            let operation = Operation::MigrateCold;
            let source = crate::state::WrongState { operation, state: machine.state };
            return Err(VirtError::State { name: template.into(), source });
        }
        let spec = machine.spec.for_clone(request);
        self.define(&spec)
    }

    fn console(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        let none = || VirtError::NoPart { name: name.into(), what: "console", part: "serial".into() };
        match &self.machine(name)?.live().console {
            Console::Pty => Ok(ConsoleAddress::Pty(format!("/dev/pts/{name}").into())),
            Console::File(path) => Ok(ConsoleAddress::File(path.clone())),
            Console::Socket(path) => Ok(ConsoleAddress::Socket(path.clone())),
            Console::None => Err(none()),
        }
    }

    fn statistics(&mut self, name: &str) -> Result<Statistics, VirtError> {
        let now = self.now;
        Ok(self.machine(name)?.statistics(now))
    }

    /// The next event; waiting turns the clock.
    fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, VirtError> {
        let end = self.now.saturating_add(timeout);
        while self.events.is_empty() && self.now < end {
            let next = self.ending.first().map_or(end, |(at, _)| *at);
            self.advance(next.min(end) - self.now);
        }
        Ok(self.events.pop_front())
    }

    fn running_spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        Ok(self.machine(name)?.live().clone())
    }

    fn demand(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        self.measure(name, over)
    }

    /// Whatever `via` says: machines go over the [`Network`] that both hosts are on.
    fn receive(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
        _via: &Via,
    ) -> Result<Destination, VirtError> {
        self.receive_machine(running, defined)
    }

    fn send(&mut self, name: &str, to: &Destination, settings: &Settings) -> Result<(), VirtError> {
        self.send_machine(name, to, settings)
    }

    /// Waiting turns the clock.
    fn migration(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        self.migration_of(name, wait)
    }

    fn control_migration(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        self.control(name, control)
    }

    fn conclude(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        self.conclude_migration(name, conclusion)
    }
}
