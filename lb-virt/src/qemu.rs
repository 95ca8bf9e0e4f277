//! Machines that QEMU runs on this host, without a daemon in between.
//!
//! ```no_run
//! use lb_virt::domain::Disk;
//! use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu};
//!
//! let mut host = Qemu::open("/var/lib/machines")?;
//! host.define(&DomainSpec::new("web1", 2, Memory::from_mib(2048)).disk(Disk::file("/srv/web1.qcow2")))?;
//! host.start("web1")?; // and runs on when this program ends
//! # Ok::<(), lb_virt::VirtError>(())
//! ```
//!
//! All that is known of the machines is in one directory; each has one of its own in it, with its definition, its process and QEMU's
//! sockets. Who opens the directory has the machines, and several programs may at once: each holds a machine only for as long as it
//! does something to it.
//!
//! | what | how it is here |
//! |---|---|
//! | accelerator | KVM, if a guest of five instructions shows that it runs one; else translation (TCG) |
//! | shut down | the power button (ACPI): the machine is running until its guest has obeyed; QEMU does not say whether it will |
//! | reboot | the reset button: QEMU has no way to ask a guest |
//! | end | QEMU that ended by itself leaves a machine shut off; one that was killed, or died, a crashed one |
//! | on power-off or crash: restart | done when the machine is looked at next: [`next_event`](Hypervisor::next_event) and [`state`](Hypervisor::state) do |
//! | on power-off: preserve | it is paused, with all of its memory, and can only be powered off |
//! | virtual CPUs | come while the guest runs; go if they came so, and the guest lets them |
//! | memory | by the balloon: the guest gives it back if it has a driver for that; without a balloon at the next boot |
//! | disks, network interfaces | virtio's and SCSI's come and go; one that the guest does not let go within 5 s goes at the next boot |
//! | snapshots | in the images, all of which must be qcow2 |
//! | network by name, VLAN | can't be expressed: name a bridge |
//! | statistics of networks | of bridges; `nat` is not counted |
//!
//! Sources: qemu(1), QEMU's QMP reference, proc(5).

pub mod arguments;
mod attach;
mod events;
mod launch;
mod machine;
mod probe;
mod process;
pub mod qmp;
mod resize;
mod snapshot;
mod statistics;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;
use uuid::Uuid;

use crate::command::Program;
use crate::domain::{Arch, Console, Disk, DomainSpec, Mac, Memory, Nic, Pins, Source};
use crate::error::VirtError;
use crate::hypervisor::{
    Capabilities, CloneRequest, ConsoleAddress, Effect, Event, EventKind, Host, Hypervisor, Snapshot,
    Statistics, Summary,
};
use crate::state::{Operation, State, WrongState};
use arguments::{Board, QEMU, hot_pluggable, program};
use events::Events;
use launch::Start;
use machine::Machine;
use store::Store;

/// How often machines are looked at that another program listens to.
const LOOK: Duration = Duration::from_millis(250);
/// How QEMU's own Ethernet addresses begin.
const VENDOR: [u8; 3] = [0x52, 0x54, 0];

/// The machines of a directory. See the [module](self).
#[derive(Debug)]
pub struct Qemu {
    store: Store,
    events: Events,
    /// Another QEMU than that of `PATH`.
    program: Option<PathBuf>,
    /// What the probe has said.
    accelerated: Option<bool>,
    version: Option<String>,
}

impl Qemu {
    /// The machines of a directory, which is made if it is not there. Machines that were started before, by whatever program, are
    /// there as they are by now.
    ///
    /// # Errors
    /// [`VirtError::File`] if the directory can't be made or read.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, VirtError> {
        let store = Store::open(directory.as_ref())?;
        let mut host =
            Self { store, events: Events::default(), program: None, accelerated: None, version: None };
        for name in host.store.names()? {
            // What happens from now on is told. One that another program removes just now is none.
            if let Ok(mut machine) = host.hold(&name, "look at") {
                let state = machine.observe()?;
                host.events.is(&name, state, true);
            }
        }
        Ok(host)
    }

    /// Runs machines with this program, whatever their instruction set. Default: `qemu-system-x86_64` and its like in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        (self.program, self.accelerated, self.version) = (Some(path.into()), None, None);
        self
    }

    /// Whether guests run on the hardware: what is not said is found out. Machines that move between hosts need it to be alike.
    #[must_use]
    pub const fn accelerated(mut self, accelerated: bool) -> Self {
        self.accelerated = Some(accelerated);
        self
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.store.root
    }

    fn program_of(&self, arch: Arch) -> PathBuf {
        self.program.clone().unwrap_or_else(|| program(arch).into())
    }

    fn has_kvm(&mut self, arch: Arch) -> bool {
        let program = self.program_of(arch);
        let native = matches!(arch, Arch::X86_64 | Arch::I686);
        native && *self.accelerated.get_or_insert_with(|| probe::accelerated(&self.store, &program, arch))
    }

    fn missing(&self, name: &str) -> VirtError {
        VirtError::NoMachine { name: name.into(), host: self.store.root.display().to_string() }
    }

    /// Holds a machine: nobody else does anything to it meanwhile.
    fn hold(&self, name: &str, operation: &str) -> Result<Machine, VirtError> {
        let place = self.store.find(name).ok_or_else(|| self.missing(name))?;
        let lock = place.lock(operation)?.ok_or_else(|| self.missing(name))?;
        Machine::open(place, lock)?.ok_or_else(|| self.missing(name))
    }

    /// What a machine that is held is doing; changes are told.
    fn look(&mut self, machine: &mut Machine) -> Result<State, VirtError> {
        let state = machine.observe()?;
        self.note(machine, state);
        Ok(state)
    }

    /// Tells what a machine is doing.
    fn note(&mut self, machine: &mut Machine, state: State) {
        if std::mem::take(&mut machine.rebooted) {
            self.events.tell(machine.name(), EventKind::Rebooted);
        }
        // One that another program made was never heard of.
        let quietly = !self.events.knows(machine.name());
        self.events.is(machine.name(), state, quietly);
    }

    /// Holds a machine for an operation that its state lets be done.
    fn hold_for(&mut self, name: &str, operation: Operation) -> Result<(Machine, State), VirtError> {
        let mut machine = self.hold(name, &operation.to_string())?;
        let state = self.look(&mut machine)?;
        let after =
            state.after(operation).map_err(|source| VirtError::State { name: name.into(), source })?;
        Ok((machine, after))
    }

    /// Launches a machine that is held, with its virtual CPUs standing still.
    fn launch(&mut self, machine: &mut Machine, spec: DomainSpec, incoming: bool) -> Result<(), VirtError> {
        let program = self.program_of(spec.arch);
        let accelerated = self.has_kvm(spec.arch);
        machine.launch(spec, &Start { program: &program, accelerated, incoming })?;
        if let Some(process) = machine.process().cloned() {
            self.events.listen(&machine.place.clone(), &process);
        }
        Ok(())
    }

    /// Changes a machine's definition, and, if it runs and the change took effect, how it runs.
    fn change(
        &mut self,
        machine: &mut Machine,
        effect: Effect,
        change: impl Fn(&mut DomainSpec),
    ) -> Result<Effect, VirtError> {
        change(&mut machine.spec);
        if let (Some(run), Effect::Now) = (&mut machine.run, effect) {
            change(&mut run.spec);
        }
        machine.save()?;
        self.events.tell(machine.name(), EventKind::Changed);
        Ok(effect)
    }

    /// Whether a machine's definition would be a good one after a change, and QEMU could run it.
    fn check(machine: &Machine, change: impl Fn(&mut DomainSpec)) -> Result<(), VirtError> {
        for spec in [Some(&machine.spec), machine.run.as_ref().map(|run| &run.spec)].into_iter().flatten() {
            let mut spec = spec.clone();
            change(&mut spec);
            launch::check(&spec)?;
        }
        Ok(())
    }

    /// With what is chosen here.
    fn complete(spec: &DomainSpec) -> DomainSpec {
        spec.completed(VENDOR, &mut Rng::new())
    }

    /// Whether a machine of another name has this identity.
    fn uuid_taken(&self, uuid: Option<Uuid>) -> Result<bool, VirtError> {
        for name in self.store.names()? {
            let Some(place) = self.store.find(&name) else { continue };
            if place.read::<DomainSpec>("definition.json")?.is_some_and(|spec| spec.uuid == uuid) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a definition down that is complete, and holds the machine.
    fn make(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        launch::check(spec)?;
        let _lock = self.store.lock()?;
        if self.store.find(&spec.name).is_some() || self.uuid_taken(spec.uuid)? {
            let host = self.store.root.display().to_string();
            return Err(VirtError::MachineExists { name: spec.name.clone(), host });
        }
        self.store.make(spec)
    }

    /// Removes a machine that does not run.
    fn remove(&mut self, machine: Machine) -> Result<(), VirtError> {
        let _lock = self.store.lock()?;
        self.store.remove(&machine.place)?;
        self.events.forget(machine.name());
        Ok(())
    }
}

impl Hypervisor for Qemu {
    fn name(&self) -> &'static str {
        QEMU
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::REBOOT
            | Capabilities::WAKE
            | Capabilities::HOT_VCPUS
            | Capabilities::HOT_MEMORY
            | Capabilities::PINNING
            | Capabilities::HOT_DISKS
            | Capabilities::HOT_NICS
            | Capabilities::SNAPSHOTS
            | Capabilities::CLONE
            | Capabilities::CONSOLE
            | Capabilities::EVENTS
    }

    fn host(&mut self) -> Result<Host, VirtError> {
        let accelerated = self.has_kvm(Arch::X86_64);
        let version = match &self.version {
            Some(version) => version.clone(),
            None => {
                let qemu = Program::new(QEMU, self.program_of(Arch::X86_64), "qemu-system-x86");
                let said = qemu.call("say its version").arg("--version").run()?;
                let version = said.text().lines().next().unwrap_or_default().to_owned();
                self.version.insert(version).clone()
            }
        };
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let amount = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok().map(Memory::from_kib)
        };
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        Ok(Host {
            name: name.trim().into(),
            version,
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: amount("MemTotal:").unwrap_or_default(),
            free_memory: amount("MemAvailable:"),
            accelerated,
        })
    }

    fn list(&mut self) -> Result<Vec<Summary>, VirtError> {
        let mut all = Vec::new();
        for name in self.store.names()? {
            let mut machine = match self.hold(&name, "list") {
                // Another program has removed it just now.
                Err(VirtError::NoMachine { .. }) => continue,
                other => other?,
            };
            let state = self.look(&mut machine)?;
            let live = machine.live();
            all.push(Summary { name, uuid: live.uuid, state, vcpus: live.vcpus, memory: live.memory });
        }
        Ok(all)
    }

    fn state(&mut self, name: &str) -> Result<State, VirtError> {
        let mut machine = self.hold(name, "look at")?;
        self.look(&mut machine)
    }

    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        Ok(self.hold(name, "look at")?.spec)
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let spec = Self::complete(spec);
        self.make(&spec)?;
        self.events.is(&spec.name, State::ShutOff, true);
        self.events.tell(&spec.name, EventKind::Defined);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, _) = self.hold_for(name, Operation::Delete)?;
        machine.end()?;
        for kept in machine.kept()? {
            // An image that is gone has no snapshots.
            let _ = machine.forget(&kept.snapshot.name);
        }
        self.remove(machine)?;
        self.events.tell(name, EventKind::Deleted);
        Ok(())
    }

    /// Boots a machine. It returns when its first virtual CPU runs.
    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, after) = self.hold_for(name, Operation::Start)?;
        // One that crashed and was kept to be looked at.
        machine.end()?;
        let spec = machine.spec.clone();
        self.launch(&mut machine, spec, false)?;
        machine.set_going()?;
        self.note(&mut machine, after);
        Ok(())
    }

    fn shut_down(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, _) = self.hold_for(name, Operation::ShutDown)?;
        machine.tell("shut down", "system_powerdown", json!({}))?;
        Ok(())
    }

    fn power_off(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, after) = self.hold_for(name, Operation::PowerOff)?;
        machine.end()?;
        machine.forget_crash()?;
        self.note(&mut machine, after);
        Ok(())
    }

    fn pause(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, after) = self.hold_for(name, Operation::Pause)?;
        machine.tell("pause", "stop", json!({}))?;
        self.note(&mut machine, after);
        Ok(())
    }

    fn resume(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, after) = self.hold_for(name, Operation::Resume)?;
        machine.tell("resume", "cont", json!({}))?;
        self.note(&mut machine, after);
        Ok(())
    }

    /// Presses the reset button.
    fn reboot(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, _) = self.hold_for(name, Operation::Reboot)?;
        machine.tell("reboot", "system_reset", json!({}))?;
        self.events.tell(name, EventKind::Rebooted);
        Ok(())
    }

    fn wake(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, after) = self.hold_for(name, Operation::Wake)?;
        machine.tell("wake", "system_wakeup", json!({}))?;
        self.note(&mut machine, after);
        Ok(())
    }

    fn set_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError> {
        let mut machine = self.hold(name, "resize")?;
        self.look(&mut machine)?;
        if let Some(run) = &machine.run
            && vcpus > run.spec.most_vcpus()
        {
            let most = run.spec.most_vcpus();
            let limit = format!("it runs with at most {most}: shut it off, and raise max-vcpus");
            let wanted = format!("{vcpus} virtual CPUs");
            return Err(VirtError::Resize { name: name.into(), wanted, limit });
        }
        let resize = |spec: &mut DomainSpec| spec.resize(Some(vcpus), None);
        Self::check(&machine, resize)?;
        let effect = if machine.run.is_some() { machine.plug_vcpus(vcpus)? } else { Effect::Now };
        self.change(&mut machine, effect, resize)
    }

    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        let mut machine = self.hold(name, "resize")?;
        self.look(&mut machine)?;
        if let Some(run) = &machine.run
            && memory > run.spec.most_memory()
        {
            let most = run.spec.most_memory();
            let limit = format!("it runs with at most {most}: shut it off, and raise max-memory");
            return Err(VirtError::Resize { name: name.into(), wanted: memory.to_string(), limit });
        }
        let resize = |spec: &mut DomainSpec| spec.resize(None, Some(memory));
        Self::check(&machine, resize)?;
        let effect = if machine.run.is_some() { machine.inflate(memory)? } else { Effect::Now };
        self.change(&mut machine, effect, resize)
    }

    fn pin(&mut self, name: &str, pins: &Pins) -> Result<Effect, VirtError> {
        let mut machine = self.hold(name, "pin")?;
        self.look(&mut machine)?;
        let change = |spec: &mut DomainSpec| spec.pins.clone_from(pins);
        Self::check(&machine, change)?;
        if machine.run.is_some() {
            machine.pin_threads(pins, true)?;
        }
        self.change(&mut machine, Effect::Now, change)
    }

    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        let mut machine = self.hold(name, "attach a disk to")?;
        self.look(&mut machine)?;
        let exists =
            |target: &str| VirtError::PartExists { name: name.into(), what: "disk", part: target.into() };
        let named = |spec: &DomainSpec, target: &str| spec.disks.iter().any(|disk| disk.target == target);
        // One without a name gets one that is free in both definitions.
        let mut both = machine.spec.clone();
        both.disks
            .extend(machine.live().disks.iter().filter(|disk| !named(&machine.spec, &disk.target)).cloned());
        let mut disk = disk.clone();
        if disk.target.is_empty() {
            disk = both.disk(disk).disks.pop().unwrap_or_else(|| unreachable!("it was just put there"));
        }
        if named(&machine.spec, &disk.target) {
            return Err(exists(&disk.target));
        }
        if let Some(run) = &machine.run
            && named(&run.spec, &disk.target)
        {
            // The guest was asked to let it go, and may have by now.
            if machine.still_has(&disk.target) {
                return Err(exists(&disk.target));
            }
            if let Some(run) = &mut machine.run {
                run.spec.disks.retain(|other| other.target != disk.target);
            }
        }
        let change = |spec: &mut DomainSpec| spec.disks.push(disk.clone());
        Self::check(&machine, change)?;
        let mut effect = Effect::Now;
        if machine.run.is_some() {
            if hot_pluggable(&disk, Board::of(machine.live())?) {
                machine.plug_disk(&disk)?;
            } else {
                effect = Effect::NextBoot;
            }
        }
        self.change(&mut machine, effect, change)
    }

    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        let mut machine = self.hold(name, "detach a disk from")?;
        self.look(&mut machine)?;
        let is_it = |disk: &&Disk| disk.target == target;
        if !machine.spec.disks.iter().any(|disk| is_it(&disk)) {
            return Err(VirtError::NoPart { name: name.into(), what: "disk", part: target.into() });
        }
        let mut effect = Effect::Now;
        let running = machine.run.as_ref().and_then(|run| run.spec.disks.iter().find(is_it)).cloned();
        if let Some(disk) = running {
            let goes = hot_pluggable(&disk, Board::of(machine.live())?) && machine.unplug_disk(target)?;
            effect = if goes { Effect::Now } else { Effect::NextBoot };
        }
        self.change(&mut machine, effect, |spec| spec.disks.retain(|disk| disk.target != target))
    }

    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        const WHAT: &str = "network interface";
        let mut machine = self.hold(name, "attach a network interface to")?;
        self.look(&mut machine)?;
        let nic =
            Nic { mac: Some(nic.mac.unwrap_or_else(|| Mac::random(VENDOR, &mut Rng::new()))), ..nic.clone() };
        let part = || nic.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let has = |spec: &DomainSpec| spec.nics.iter().any(|other| other.mac == nic.mac);
        if has(&machine.spec) {
            return Err(VirtError::PartExists { name: name.into(), what: WHAT, part: part() });
        }
        if machine.run.as_ref().is_some_and(|run| has(&run.spec)) {
            // The guest was asked to let it go, and may have by now.
            if machine.still_has(&arguments::nic_id(&nic, 0)) {
                return Err(VirtError::PartExists { name: name.into(), what: WHAT, part: part() });
            }
            if let Some(run) = &mut machine.run {
                run.spec.nics.retain(|other| other.mac != nic.mac);
            }
        }
        let change = |spec: &mut DomainSpec| spec.nics.push(nic.clone());
        Self::check(&machine, change)?;
        if machine.run.is_some() {
            machine.plug_nic(&nic)?;
        }
        self.change(&mut machine, Effect::Now, change)
    }

    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        let mut machine = self.hold(name, "detach a network interface from")?;
        self.look(&mut machine)?;
        let is_it = |nic: &Nic| nic.mac == Some(mac);
        if !machine.spec.nics.iter().any(is_it) {
            let part = mac.to_string();
            return Err(VirtError::NoPart { name: name.into(), what: "network interface", part });
        }
        let mut effect = Effect::Now;
        let running = machine.run.as_ref().and_then(|run| run.spec.nics.iter().find(|nic| is_it(nic)));
        if let Some(nic) = running.cloned()
            && !machine.unplug_nic(&nic)?
        {
            effect = Effect::NextBoot;
        }
        self.change(&mut machine, effect, |spec| spec.nics.retain(|nic| !is_it(nic)))
    }

    fn take_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        crate::domain::check_name(snapshot)
            .map_err(|source| VirtError::Spec { name: name.into(), source })?;
        let mut machine = self.hold(name, "take a snapshot of")?;
        let state = self.look(&mut machine)?;
        if machine.find_kept(snapshot).is_ok() {
            return Err(VirtError::PartExists { name: name.into(), what: "snapshot", part: snapshot.into() });
        }
        machine.keep(Snapshot { name: snapshot.into(), state, taken: snapshot::now() })
    }

    fn snapshots(&mut self, name: &str) -> Result<Vec<Snapshot>, VirtError> {
        let kept = self.hold(name, "look at")?.kept()?;
        Ok(kept.into_iter().map(|kept| kept.snapshot).collect())
    }

    /// Makes a machine what it was. If its memory can't be read back it is shut off, and its disks are what they are in the snapshot
    /// or before.
    fn restore_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let mut machine = self.hold(name, "restore a snapshot of")?;
        self.look(&mut machine)?;
        let kept = machine.find_kept(snapshot)?;
        machine.end()?;
        machine.forget_crash()?;
        machine.spec = kept.spec;
        machine.save()?;
        let Some(running) = kept.running else {
            self.note(&mut machine, State::ShutOff);
            return machine.restore_images(snapshot);
        };
        self.launch(&mut machine, running, false)?;
        let loaded = machine.load(snapshot);
        if let Err(error) = loaded {
            machine.clear_away(false)?;
            self.note(&mut machine, State::ShutOff);
            return Err(error);
        }
        if kept.snapshot.state == State::Running {
            machine.set_going()?;
        } else {
            machine.settle()?;
            if let Some(run) = &mut machine.run {
                run.started = true;
            }
            machine.save_run()?;
        }
        self.look(&mut machine)?;
        Ok(())
    }

    fn delete_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let mut machine = self.hold(name, "delete a snapshot of")?;
        self.look(&mut machine)?;
        machine.find_kept(snapshot)?;
        machine.forget(snapshot)
    }

    fn clone_machine(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        let mut machine = self.hold(template, "clone")?;
        let state = self.look(&mut machine)?;
        if machine.run.is_some() {
            // As with a cold migration: its disks must stand still.
            let source = WrongState { operation: Operation::MigrateCold, state };
            return Err(VirtError::State { name: template.into(), source });
        }
        let spec = Self::complete(&machine.spec.for_clone(request));
        launch::check(&spec)?;
        if self.store.find(&spec.name).is_some() {
            let host = self.store.root.display().to_string();
            return Err(VirtError::MachineExists { name: spec.name, host });
        }
        let mut made = Vec::new();
        let copied = copy_disks(&machine.spec, &spec, request.linked, &mut made);
        let defined = copied.and_then(|()| self.make(&spec));
        if defined.is_err() {
            made.iter().for_each(|path| drop(fs::remove_file(path)));
            return defined;
        }
        self.events.is(&spec.name, State::ShutOff, true);
        self.events.tell(&spec.name, EventKind::Defined);
        Ok(())
    }

    fn console(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        let mut machine = self.hold(name, "look at")?;
        self.look(&mut machine)?;
        let none = || VirtError::NoPart { name: name.into(), what: "console", part: "serial".into() };
        match machine.live().console.clone() {
            Console::File(path) => Ok(ConsoleAddress::File(path)),
            Console::Socket(path) => Ok(ConsoleAddress::Socket(path)),
            Console::None => Err(none()),
            // It has one while it runs.
            Console::Pty if machine.run.is_none() => Err(none()),
            Console::Pty => {
                let all = machine.tell("find its console", "query-chardev", json!({}))?;
                let mut all = all.as_array().into_iter().flatten();
                let console = all.find(|chardev| chardev["label"] == "console0");
                let path = console.and_then(|chardev| chardev["filename"].as_str()?.strip_prefix("pty:"));
                path.map(|path| ConsoleAddress::Pty(path.into())).ok_or_else(none)
            }
        }
    }

    fn statistics(&mut self, name: &str) -> Result<Statistics, VirtError> {
        let mut machine = self.hold(name, "ask")?;
        match self.look(&mut machine)? {
            State::ShutOff => Ok(Statistics::default()),
            _ if machine.run.is_none() => Ok(Statistics::default()),
            _ => machine.used(),
        }
    }

    fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, VirtError> {
        let end = Instant::now() + timeout;
        loop {
            self.events.take();
            let mut all_heard = true;
            for name in self.events.known() {
                if let Some(event) = self.events.pop() {
                    return Ok(Some(event));
                }
                if !self.events.should_look(&name) {
                    continue;
                }
                let mut machine = match self.hold(&name, "look at") {
                    Err(VirtError::NoMachine { .. }) => {
                        self.events.forget(&name);
                        self.events.tell(&name, EventKind::Deleted);
                        continue;
                    }
                    other => other?,
                };
                let state = self.look(&mut machine)?;
                if let (Some(process), true) = (machine.process().cloned(), state.is_active()) {
                    all_heard &= self.events.listen(&machine.place.clone(), &process);
                }
            }
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Machines that do not run may be started by another program, of which nobody says anything.
            let some_rest = self.events.known().iter().any(|name| !self.events.hears(name));
            self.events.wait(if all_heard && !some_rest { left } else { left.min(LOOK) });
        }
    }
}

/// Copies the images that a clone has for itself. `made` are those that are there when it fails.
fn copy_disks(
    template: &DomainSpec,
    clone: &DomainSpec,
    linked: bool,
    made: &mut Vec<PathBuf>,
) -> Result<(), VirtError> {
    for (theirs, own) in template.disks.iter().zip(&clone.disks) {
        let (Some(from), Some(Source::File(to))) = (&theirs.source, &own.source) else { continue };
        if theirs.source == own.source {
            continue;
        }
        if to.exists() {
            let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it is there already");
            return Err(VirtError::File { name: clone.name.clone(), path: to.clone(), source });
        }
        fs::metadata(from.path()).map_err(store::failed(&template.name, from.path()))?;
        let call = snapshot::qemu_img();
        let call = call.call(format!("clone {}", template.name));
        let call = if linked {
            let call = call.args(["create", "-q", "-f", own.format.name(), "-F", theirs.format.name(), "-b"]);
            call.arg(from.path()).arg(to)
        } else {
            let call = call.args(["convert", "-q", "-f", theirs.format.name(), "-O", own.format.name()]);
            call.arg(from.path()).arg(to)
        };
        made.push(to.clone());
        call.run().map_err(|error| match error {
            VirtError::Said { words, operation, .. } => launch::complaint(clone, words, &operation),
            other => other,
        })?;
    }
    Ok(())
}
