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
//! | accelerator | KVM, if a guest of a hundred bytes shows that it runs one; else translation (TCG) |
//! | shut down | the power button (ACPI): the machine is running until its guest has obeyed; QEMU does not say whether it will |
//! | reboot | the reset button: QEMU has no way to ask a guest |
//! | end | QEMU that ended by itself leaves a machine shut off; one that was killed, or died, a crashed one |
//! | on power-off or crash: restart | done when the machine is looked at next: [`next_event`](crate::Hypervisor::next_event) and [`state`](crate::Hypervisor::state) do |
//! | on power-off: preserve | it is paused, with all of its memory, and can only be powered off |
//! | virtual CPUs | come while the guest runs; go if they came so, and the guest lets them |
//! | memory | by the balloon: the guest gives it back if it has a driver for that; without a balloon at the next boot |
//! | disks, network interfaces | virtio's and SCSI's come and go; one that the guest does not let go within 5 s goes at the next boot |
//! | live migration of a translated guest | QEMU before 9.0 can lose what the guest writes meanwhile: its own fault, which Debian 12's has; with KVM it has none |
//! | a post-copy that has lost its connection | both copies stay: [recover](crate::migration::Migration::recover) it; the source's, powered off, is gone for good |
//! | snapshots | in the images, all of which must be qcow2 |
//! | a definition that can't be read | [`discard`](crate::Hypervisor::discard) removes it, if nothing of it runs |
//! | what can't be read, or another program holds for more than 10 s | is listed as unknown, and keeps nobody from the others |
//! | network by name, VLAN | can't be expressed: name a bridge |
//! | statistics of networks | of bridges; `nat` is not counted |
//!
//! Sources: qemu(1), QEMU's QMP reference, proc(5).

pub mod arguments;
mod attach;
mod clone;
mod events;
mod hypervisor;
mod launch;
mod machine;
mod moving;
mod probe;
mod process;
pub mod qmp;
mod recovery;
mod resize;
mod snapshot;
mod statistics;
mod store;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use uuid::Uuid;

use crate::domain::{Arch, DomainSpec};
use crate::error::VirtError;
use crate::hypervisor::{Effect, EventKind};
use crate::state::{Operation, State};
use arguments::program;
use events::Events;
use launch::Start;
use machine::{Machine, Run};
use store::{Lock, Place, Store};

/// How often machines are looked at that another program listens to.
const LOOK: Duration = Duration::from_millis(250);
/// How long it holds that the hardware runs no guests, where it may be another answer later.
const DOUBT: Duration = Duration::from_secs(60);
/// How QEMU's own Ethernet addresses begin.
const VENDOR: [u8; 3] = [0x52, 0x54, 0];

/// The machines of a directory. See the [module](self).
#[derive(Debug)]
pub struct Qemu {
    store: Store,
    events: Events,
    /// Another QEMU than that of `PATH`.
    program: Option<PathBuf>,
    /// Whether guests run on the hardware, where that was chosen.
    chosen: Option<bool>,
    /// What the probe has said, and until when that holds.
    accelerated: Option<(bool, Option<Instant>)>,
    version: Option<String>,
    /// How long a machine's QEMU may take to answer.
    answer: Duration,
}

impl Qemu {
    /// The machines of a directory, which is made if it is not there. Machines that were started before, by whatever program, are
    /// there as they are by now.
    ///
    /// # Errors
    /// [`VirtError::File`] if the directory can't be made or read.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, VirtError> {
        let store = Store::open(directory.as_ref())?;
        let mut host = Self {
            store,
            events: Events::default(),
            program: None,
            chosen: None,
            accelerated: None,
            version: None,
            answer: machine::ANSWER,
        };
        for name in host.store.names()? {
            // What happens from now on is told. One that another program removes just now is none, and one that can't be looked at
            // keeps nobody from the others.
            let held = host.hold_within(&name, "look at", machine::GLANCE);
            match held.and_then(|mut machine| host.look(&mut machine)) {
                Ok(_) | Err(VirtError::NoMachine { .. }) => {}
                Err(_) => host.events.is(&name, State::Unknown, true),
            }
        }
        host.events.hush();
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
        self.chosen = Some(accelerated);
        self
    }

    /// How long a machine's QEMU may take to answer before it is taken for one that can't be asked. Default: 30 s.
    #[must_use]
    pub const fn answer_within(mut self, time: Duration) -> Self {
        self.answer = time;
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
        if !native {
            return false;
        }
        if let Some(chosen) = self.chosen {
            return chosen;
        }
        let kept = self.accelerated.filter(|(_, until)| until.is_none_or(|until| Instant::now() < until));
        let answer = kept.unwrap_or_else(|| match probe::accelerated(&self.store, &program, arch) {
            Some(runs) => (runs, None),
            // It may be another answer soon.
            None => (false, Some(Instant::now() + DOUBT)),
        });
        self.accelerated.insert(answer).0
    }

    fn missing(&self, name: &str) -> VirtError {
        VirtError::NoMachine { name: name.into(), host: self.store.root.display().to_string() }
    }

    /// Holds a machine: nobody else does anything to it meanwhile.
    fn hold(&self, name: &str, operation: &str) -> Result<Machine, VirtError> {
        self.store.sweep();
        self.hold_within(name, operation, store::PATIENCE)
    }

    /// The same; another program may hold it for so long.
    fn hold_within(&self, name: &str, operation: &str, patience: Duration) -> Result<Machine, VirtError> {
        let place = self.store.find(name).ok_or_else(|| self.missing(name))?;
        let lock = place.lock(operation, patience)?.ok_or_else(|| self.missing(name))?;
        let mut machine = Machine::open(place, lock, self.answer)?.ok_or_else(|| self.missing(name))?;
        let line = machine.process().and_then(|process| self.events.line(name, process));
        machine.talk_over(line);
        Ok(machine)
    }

    /// Listens to a machine's QEMU, unless somebody does, and talks to it over that connection. Whether it is listened to here.
    fn listen_to(&mut self, machine: &mut Machine) -> bool {
        let Some(process) = machine.process().cloned() else { return false };
        let heard = self.events.listen(&machine.place, &process, machine.patience);
        machine.talk_over(self.events.line(machine.name(), &process));
        heard
    }

    /// What a machine that is held is doing; changes are told. A copy that waits for what is sent goes with its process.
    fn look(&mut self, machine: &mut Machine) -> Result<State, VirtError> {
        let state = self.observe(machine)?;
        self.note(machine, state);
        Ok(state)
    }

    /// The same, without telling it.
    fn observe(&mut self, machine: &mut Machine) -> Result<State, VirtError> {
        let waits = machine.waits();
        let state = machine.observe()?;
        if waits && machine.run.is_none() {
            self.set_aside(machine)?;
            self.store.sweep();
            self.events.tell(machine.name(), EventKind::Deleted);
            return Err(self.missing(machine.name()));
        }
        Ok(state)
    }

    /// Holds a machine to change it.
    fn hold_to(&mut self, name: &str, operation: &str) -> Result<Machine, VirtError> {
        let mut machine = self.hold(name, operation)?;
        self.look(&mut machine)?;
        machine.must_stay(operation)?;
        Ok(machine)
    }

    /// Tells what a machine is doing.
    fn note(&mut self, machine: &mut Machine, state: State) {
        if std::mem::take(&mut machine.rebooted) {
            self.events.tell(machine.name(), EventKind::Rebooted);
        }
        if !self.events.knows(machine.name()) {
            // Another program has made it.
            self.events.tell(machine.name(), EventKind::Defined);
            self.events.is(machine.name(), State::ShutOff, true);
        }
        self.events.is(machine.name(), state, false);
    }

    /// Holds a machine for an operation that its state lets be done.
    fn hold_for(&mut self, name: &str, operation: Operation) -> Result<(Machine, State), VirtError> {
        let mut machine = self.hold(name, &operation.to_string())?;
        let state = self.look(&mut machine)?;
        let after = state.after(operation).map_err(VirtError::state(name))?;
        machine.must_be_free_for(operation)?;
        Ok((machine, after))
    }

    /// Launches a machine that is held, with its virtual CPUs standing still.
    fn launch(&mut self, machine: &mut Machine, spec: DomainSpec, incoming: bool) -> Result<(), VirtError> {
        let program = self.program_of(spec.arch);
        let accelerated = self.has_kvm(spec.arch);
        machine.launch(spec, &Start { program: &program, accelerated, incoming })?;
        self.listen_to(machine);
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

    /// The machine that has this identity. One whose definition can't be read has none that could be asked for.
    fn holder_of(&self, uuid: Uuid) -> Result<Option<String>, VirtError> {
        let has = |name: &String| {
            let spec = self.store.find(name)?.read::<DomainSpec>("definition.json").ok()??;
            (spec.uuid == Some(uuid)).then_some(())
        };
        Ok(self.store.names()?.into_iter().find(|name| has(name).is_some()))
    }

    /// Writes a definition down that is complete. Nobody else does anything to the machine for as long as the lock is held.
    fn make(&mut self, spec: &DomainSpec, copy: Option<&Run>) -> Result<(Place, Lock), VirtError> {
        launch::check(spec)?;
        let _lock = self.store.lock()?;
        let (name, host) = (spec.name.clone(), self.store.root.display().to_string());
        if self.store.find(&name).is_some() {
            return Err(VirtError::MachineExists { name, host });
        }
        if let Some(uuid) = spec.uuid
            && let Some(holder) = self.holder_of(uuid)?
        {
            return Err(VirtError::UuidTaken { name, uuid, holder, host });
        }
        self.store.make(spec, copy)
    }

    /// Removes a machine that does not run.
    fn remove(&mut self, machine: Machine) -> Result<(), VirtError> {
        self.set_aside(&machine)?;
        drop(machine);
        self.store.sweep();
        Ok(())
    }

    /// Removes a machine whose definition can't be read, or is not there, and of which nothing runs.
    fn discard_broken(&mut self, name: &str) -> Result<(), VirtError> {
        const OPERATION: &str = "discard";
        let place = self.store.find(name).ok_or_else(|| self.missing(name))?;
        let lock = place.lock_broken(OPERATION, store::PATIENCE)?.ok_or_else(|| self.missing(name))?;
        let refuse = |words: String| {
            Err(VirtError::Said {
                hypervisor: arguments::QEMU,
                operation: format!("{OPERATION} {name}"),
                words,
            })
        };
        // By its command line: what is noted of it may be as broken. A note that can be read says so too.
        let argument = place.file("pid");
        let found = process::with_argument(argument.as_os_str()).map_err(store::failed(name, "/proc"))?;
        let noted = place.read::<Run>("run.json").ok().flatten().and_then(|run| run.process);
        for process in found.into_iter().chain(noted) {
            let lives = process.lives().map_err(store::failed(name, format!("/proc/{}", process.pid)))?;
            if lives {
                return refuse(format!("its process {} runs: end that first", process.pid));
            }
        }
        if let Ok(Some(_)) = place.read::<DomainSpec>("definition.json") {
            return refuse("its definition can be read: delete it".into());
        }
        self.store.remove(&place)?;
        self.events.forget(name);
        self.events.tell(name, EventKind::Deleted);
        drop(lock);
        self.store.sweep();
        Ok(())
    }

    /// The same, but for its files and its process, if it has one: they are removed when there is time.
    fn set_aside(&mut self, machine: &Machine) -> Result<(), VirtError> {
        self.store.remove(&machine.place)?;
        self.events.forget(machine.name());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_stays_whatever_the_program() {
        let directory = tempfile::tempdir().unwrap();
        for chosen in [true, false] {
            let host = Qemu::open(directory.path()).unwrap();
            let mut host = host.accelerated(chosen).program("/no/such/qemu");
            assert_eq!(host.has_kvm(Arch::X86_64), chosen);
            assert!(!host.has_kvm(Arch::Aarch64), "another instruction set is translated");
        }
    }
}
