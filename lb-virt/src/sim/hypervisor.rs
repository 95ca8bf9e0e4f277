//! What a simulated host does, as all hypervisors do it.

use std::time::Duration;

use super::machine::Machine;
use super::{Sim, VENDOR};
use crate::domain::{Action, Bus, Console, Disk, DomainSpec, Mac, Memory, Nic, Pins};
use crate::error::VirtError;
use crate::hypervisor::{
    Capabilities, CloneRequest, ConsoleAddress, Effect, Event, EventKind, Host, Hypervisor, Snapshot,
    Statistics, Summary,
};
use crate::migration::{Conclusion, Control, Demand, Destination, Sample, Settings, Via};
use crate::state::{Operation, State};

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
        spec.validate().map_err(VirtError::spec(&name))?;
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
        let fate = self.fate("define", &name)?;
        self.machines.insert(name.clone(), Machine::new(spec));
        self.tell(&name, EventKind::Defined);
        fate.answer(())
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        let (_, fate) = self.may_be_lost(name, Operation::Delete)?;
        self.machines.remove(name);
        self.tell(name, EventKind::Deleted);
        fate.answer(())
    }

    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::Start)?;
        let needed = self.machine(name)?.spec.memory;
        self.must_fit(name, needed)?;
        self.enter(name, state);
        Ok(())
    }

    fn shut_down(&mut self, name: &str) -> Result<(), VirtError> {
        self.may(name, Operation::ShutDown)?;
        // A guest without ACPI hears nothing.
        let machine = self.machine(name)?;
        if machine.obedient && machine.live().features.acpi {
            self.shut_down_soon(name);
        }
        Ok(())
    }

    fn power_off(&mut self, name: &str) -> Result<(), VirtError> {
        let state = self.may(name, Operation::PowerOff)?;
        let moving = self.machine(name)?.moving.clone();
        // Neither a copy that came, nor the rest of one that runs elsewhere, is the machine.
        let is_none = moving.is_some_and(|moving| {
            !moving.outgoing || self.network.with(&moving.uri, |transfer| transfer.post_copied) == Some(true)
        });
        self.leave(name);
        if is_none {
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
        crate::domain::check_name(snapshot).map_err(VirtError::spec(name))?;
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
        match kept.snapshot.state {
            State::ShuttingDown => self.shut_down_soon(name),
            state if state != self.machine(name)?.state => self.enter(name, state),
            _ => {}
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
        self.may(template, Operation::Clone)?;
        let spec = self.machine(template)?.spec.for_clone(request);
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

    /// Whatever `via` says: machines go over the [`Network`](super::Network) that both hosts are on.
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

    fn receive_rest(&mut self, name: &str, _via: &Via) -> Result<Destination, VirtError> {
        self.receive_rest_of(name)
    }

    fn send_rest(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        self.send_rest_of(name, to)
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
