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
mod hypervisor;
mod machine;
mod moving;
mod network;
#[cfg(feature = "serde")]
mod stored;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use uuid::Uuid;

use crate::domain::{Action, DomainSpec, Memory};
use crate::error::VirtError;
use crate::hypervisor::{Effect, Event, EventKind, Host};
use crate::state::{Operation, State};
use machine::Machine;

use fault::Fate;
pub use fault::Fault;
pub use network::Network;
#[cfg(feature = "serde")]
pub use stored::Stored;

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

fn random(name: &str, seed: u64) -> Rng {
    name.bytes()
        .fold(Rng::with_seed(seed), |mut random, byte| Rng::with_seed(random.u64(..) ^ u64::from(byte)))
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
            random: random(name, 0),
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

    /// Chooses identities and faults by another seed; hosts of different names choose different ones by the same.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.random = random(&self.host.name, seed);
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
        state.after(Operation::PowerOff).map_err(VirtError::state(name))?;
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

    /// Lets a machine's guest suspend it to memory; [`wake`](crate::Hypervisor::wake) ends that.
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
        machine.state.after(Operation::Pause).map_err(VirtError::state(name))?;
        Ok(machine)
    }

    /// What follows when a guest ends.
    fn follow(&mut self, name: &str, action: Action, ended: State) {
        match action {
            Action::Restart => {
                self.enter(name, State::Running);
                self.tell(name, EventKind::Rebooted);
            }
            Action::Preserve => {
                self.leave(name);
                self.enter(name, ended);
            }
            _ => {
                self.leave(name);
                self.enter(name, State::ShutOff);
            }
        }
    }

    /// A guest begins to shut down, and will have some time later.
    fn shut_down_soon(&mut self, name: &str) {
        self.enter(name, State::ShuttingDown);
        let end = self.now.saturating_add(self.shutdown);
        if let Some(machine) = self.machines.get_mut(name) {
            machine.ends = Some(end);
            self.ending.insert((end, name.into()));
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
        let host = || self.host.name.clone();
        if self.machines.contains_key(name) {
            return Err(VirtError::MachineExists { name: name.into(), host: host() });
        }
        let Some(uuid) = uuid else { return Ok(()) };
        match self.machines.iter().find(|(_, machine)| machine.spec.uuid == Some(uuid)) {
            Some((holder, _)) => {
                Err(VirtError::UuidTaken { name: name.into(), uuid, holder: holder.clone(), host: host() })
            }
            None => Ok(()),
        }
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
        let (after, fate) = self.may_be_lost(name, operation)?;
        fate.answer(after)
    }

    /// The same; and what becomes of the answer, once it is done.
    fn may_be_lost(&mut self, name: &str, operation: Operation) -> Result<(State, Fate), VirtError> {
        let before = self.machine(name)?.state;
        let after = before.after(operation).map_err(VirtError::state(name))?;
        if self.moving > 0 && operation == Operation::PowerOff && self.is_half(name) {
            return Err(VirtError::Half { name: name.into() });
        }
        if self.moving > 0
            && !self.machines.get(name).is_none_or(|machine| self.may_while_moving(machine, operation))
        {
            return Err(VirtError::Moving { name: name.into(), operation: operation.to_string() });
        }
        // Only what is not so usual is said in words.
        if self.faults > 0 || !self.planned.is_empty() {
            return Ok((after, self.fate(&operation.to_string(), name)?));
        }
        Ok((after, Fate::Answered))
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
            changed.validate().map_err(VirtError::spec(name))?;
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
}
