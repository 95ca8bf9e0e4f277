//! What is done to machines, operation by operation.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;

use super::arguments::{self, QEMU, hot_pluggable};
use super::machine::GLANCE;
use super::{LOOK, Qemu, VENDOR, clone, launch, snapshot};
use crate::command::Program;
use crate::domain::{Arch, Console, Disk, DomainSpec, Mac, Memory, Nic, Pins};
use crate::error::VirtError;
use crate::hypervisor::{
    Capabilities, CloneRequest, ConsoleAddress, Effect, Event, EventKind, Host, Hypervisor, Snapshot,
    Statistics, Summary,
};
use crate::migration::{Conclusion, Control, Demand, Destination, Sample, Settings, Via};
use crate::state::{Operation, State};
use crate::wait::until;

/// What a QEMU may take to answer who has no time.
const MOMENT: Duration = Duration::from_millis(20);

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
            | Capabilities::LIVE_MIGRATION
            | Capabilities::AUTO_CONVERGE
            | Capabilities::POST_COPY
            | Capabilities::DIRTY_RATE
            | Capabilities::POST_COPY_RECOVERY
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
        self.store.sweep();
        for name in self.store.names()? {
            let mut look = || {
                let mut machine = self.hold_within(&name, "list", GLANCE)?;
                let state = self.look(&mut machine)?;
                Ok((machine.live().clone(), state))
            };
            let (live, state) = match look() {
                // It has been removed just now.
                Err(VirtError::NoMachine { .. }) => continue,
                Ok(seen) => seen,
                // Of one that can't be read, or that another program holds, it is told what is known, and of the others all.
                Err(_) => (self.defined(&name), State::Unknown),
            };
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
        self.make(&spec, None)?;
        self.events.is(&spec.name, State::ShutOff, true);
        self.events.tell(&spec.name, EventKind::Defined);
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, _) = self.hold_for(name, Operation::Delete)?;
        machine.end()?;
        for kept in machine.kept()? {
            // An image that is gone has no snapshots.
            let _ = machine.forget(&kept);
        }
        self.remove(machine)?;
        self.events.tell(name, EventKind::Deleted);
        Ok(())
    }

    fn discard(&mut self, name: &str) -> Result<(), VirtError> {
        self.discard_broken(name)
    }

    /// Boots a machine. It returns when its first virtual CPU runs.
    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let (mut machine, after) = self.hold_for(name, Operation::Start)?;
        let spec = machine.spec.clone();
        launch::check_files(&spec)?;
        // One that crashed and was kept to be looked at.
        machine.end()?;
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
        // Neither is the machine: that has another definition, where it runs.
        if machine.waits() || machine.is_old() {
            return self.give_up(machine);
        }
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
        let mut machine = self.hold_to(name, "resize")?;
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
        let effect = if machine.run.is_some() { machine.have_vcpus(vcpus)? } else { Effect::Now };
        self.change(&mut machine, effect, resize)
    }

    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        let mut machine = self.hold_to(name, "resize")?;
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
        let mut machine = self.hold_to(name, "pin")?;
        let change = |spec: &mut DomainSpec| spec.pins.clone_from(pins);
        Self::check(&machine, change)?;
        if machine.run.is_some()
            && let Err(error) = machine.pin_threads(pins, true)
        {
            // Those that were pinned before one could not be go back.
            let before = machine.live().pins.clone();
            let _ = machine.pin_threads(&before, true);
            return Err(error);
        }
        self.change(&mut machine, Effect::Now, change)
    }

    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        let mut machine = self.hold_to(name, "attach a disk to")?;
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
            if hot_pluggable(&disk) {
                machine.plug_disk(&disk)?;
            } else {
                effect = Effect::NextBoot;
            }
        }
        self.change(&mut machine, effect, change)
    }

    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        let mut machine = self.hold_to(name, "detach a disk from")?;
        let is_it = |disk: &&Disk| disk.target == target;
        if !machine.spec.disks.iter().any(|disk| is_it(&disk)) {
            return Err(VirtError::NoPart { name: name.into(), what: "disk", part: target.into() });
        }
        let mut effect = Effect::Now;
        let running = machine.run.as_ref().and_then(|run| run.spec.disks.iter().find(is_it)).cloned();
        if let Some(disk) = running {
            let goes = hot_pluggable(&disk) && machine.unplug_disk(target)?;
            effect = if goes { Effect::Now } else { Effect::NextBoot };
        }
        self.change(&mut machine, effect, |spec| spec.disks.retain(|disk| disk.target != target))
    }

    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        const WHAT: &str = "network interface";
        let mut machine = self.hold_to(name, "attach a network interface to")?;
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
        machine.write_places_down();
        let change = |spec: &mut DomainSpec| spec.push_nic(nic.clone());
        Self::check(&machine, change)?;
        if machine.run.is_some() {
            machine.plug_nic(&nic)?;
        }
        // As it runs it has it already, at its place.
        self.change(&mut machine, Effect::Now, |spec| {
            if !has(spec) {
                change(spec);
            }
        })
    }

    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        let mut machine = self.hold_to(name, "detach a network interface from")?;
        let is_it = |nic: &Nic| nic.mac == Some(mac);
        if !machine.spec.nics.iter().any(is_it) {
            let part = mac.to_string();
            return Err(VirtError::NoPart { name: name.into(), what: "network interface", part });
        }
        machine.write_places_down();
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
        crate::domain::check_name(snapshot).map_err(VirtError::spec(name))?;
        let mut machine = self.hold(name, "take a snapshot of")?;
        let state = self.look(&mut machine)?;
        machine.must_stay("take a snapshot")?;
        machine.forget_what_went()?;
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
        let mut machine = self.hold_to(name, "restore a snapshot of")?;
        let kept = machine.find_kept(snapshot)?;
        machine.has_images_of(&kept)?;
        machine.end()?;
        machine.forget_crash()?;
        let Some(running) = kept.running else {
            self.note(&mut machine, State::ShutOff);
            machine.restore_images(&kept.spec, snapshot)?;
            machine.spec = kept.spec;
            return machine.save();
        };
        self.launch(&mut machine, running, false)?;
        let loaded = machine.load(snapshot);
        if let Err(error) = loaded {
            machine.clear_away(false)?;
            self.note(&mut machine, State::ShutOff);
            return Err(error);
        }
        machine.spec = kept.spec;
        machine.save()?;
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
        let mut machine = self.hold_to(name, "delete a snapshot of")?;
        let kept = machine.find_kept(snapshot)?;
        machine.forget(&kept)
    }

    fn clone_machine(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        let (machine, _) = self.hold_for(template, Operation::Clone)?;
        let spec = Self::complete(&machine.spec.for_clone(request));
        launch::check(&spec)?;
        if self.store.find(&spec.name).is_some() {
            let host = self.store.root.display().to_string();
            return Err(VirtError::MachineExists { name: spec.name, host });
        }
        let mut made = Vec::new();
        let copied = clone::copy_disks(&machine.spec, &spec, request.linked, &mut made);
        let defined = copied.and_then(|()| self.make(&spec, None));
        if let Err(error) = defined {
            made.iter().for_each(|path| drop(fs::remove_file(path)));
            return Err(error);
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

    fn demand(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        self.measure(name, over)
    }

    fn running_spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        let mut machine = self.hold(name, "look at")?;
        self.look(&mut machine)?;
        machine.forget_what_went()?;
        Ok(machine.live().clone())
    }

    fn receive(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
        via: &Via,
    ) -> Result<Destination, VirtError> {
        self.receive_machine(running, defined, via)
    }

    fn send(&mut self, name: &str, to: &Destination, settings: &Settings) -> Result<(), VirtError> {
        self.send_machine(name, to, settings)
    }

    fn receive_rest(&mut self, name: &str, via: &Via) -> Result<Destination, VirtError> {
        self.receive_rest_of(name, via)
    }

    fn send_rest(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        self.send_rest_of(name, to)
    }

    fn migration(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        self.migration_of(name, wait)
    }

    fn control_migration(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        self.control(name, control)
    }

    fn conclude(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        self.conclude_migration(name, conclusion)
    }

    fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, VirtError> {
        let end = until(timeout);
        loop {
            self.events.take();
            self.store.sweep();
            // Those that another program has made are among the first, those that it has removed among the second.
            let names: BTreeSet<String> =
                self.store.names()?.into_iter().chain(self.events.known()).collect();
            for name in names {
                if let Some(event) = self.events.pop() {
                    return Ok(Some(event));
                }
                self.look_for_events(&name, end);
            }
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            // Other programs make machines, and start those that rest, of which nobody says anything.
            self.events.wait(left.min(LOOK));
        }
    }
}

impl Qemu {
    /// Tells what has become of a machine, if that can be seen until then; else it is looked at again the next time.
    fn look_for_events(&mut self, name: &str, end: Instant) {
        if !self.events.should_look(name) {
            return;
        }
        let mut machine = match self.hold_within(name, "look at", Duration::ZERO) {
            Ok(machine) => machine,
            Err(VirtError::NoMachine { .. }) => {
                if self.events.knows(name) {
                    self.events.forget(name);
                    self.events.tell(name, EventKind::Deleted);
                }
                return;
            }
            // Another program is doing something to it, or it can't be read.
            Err(_) => return self.events.stir(name),
        };
        let left = end.saturating_duration_since(Instant::now());
        machine.patience = machine.patience.min(left).max(MOMENT);
        match self.observe(&mut machine) {
            Ok(state) => {
                let silence = self.events.is_silent(name, machine.silent);
                // Who asks for events often has not waited long for any one answer.
                if machine.silent && silence < GLANCE.min(self.answer) {
                    return;
                }
                self.note(&mut machine, state);
                if machine.process().is_some() && state.is_active() && !machine.silent {
                    self.listen_to(&mut machine);
                }
            }
            // A copy whose sender has gone.
            Err(VirtError::NoMachine { .. }) => {}
            Err(_) => self.events.stir(name),
        }
    }

    /// A machine's definition, of one that can't be held; what can't be read is left out.
    fn defined(&self, name: &str) -> DomainSpec {
        let read = self.store.find(name).and_then(|place| place.read("definition.json").ok().flatten());
        read.unwrap_or_else(|| DomainSpec::new(name, 0, Memory::default()))
    }
}
