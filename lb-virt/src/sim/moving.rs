//! How a simulated host moves machines.

use std::time::Duration;

use super::Sim;
use super::machine::{Machine, Moving};
use super::network::Transfer;
use crate::domain::{DomainSpec, Memory};
use crate::error::VirtError;
use crate::hypervisor::EventKind;
use crate::migration::{Conclusion, Control, Demand, Destination, Phase, Sample, Settings};
use crate::state::{Operation, State};

/// Time between looks at whether a phase has changed.
const LOOK: Duration = Duration::from_millis(5);

impl Sim {
    pub(super) fn receive_machine(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
    ) -> Result<Destination, VirtError> {
        let name = &running.name;
        for spec in [running, defined] {
            spec.validate().map_err(VirtError::spec(name))?;
        }
        self.must_be_free(name, running.uuid)?;
        self.must_fit(name, running.memory)?;
        let fate = self.fate("receive", name)?;
        let uri = self.network.listen(&self.host.name, running);
        self.machines.insert(name.clone(), Machine::new(defined.clone()));
        self.tell(name, EventKind::Defined);
        self.enter(name, State::Paused);
        let machine = self.machine(name)?;
        machine.running = Some(running.clone().into());
        machine.moving = Some(Moving { uri: uri.clone(), outgoing: false, ran: false });
        self.moving += 1;
        fate.answer(Destination { uri, tls: None })
    }

    pub(super) fn send_machine(
        &mut self,
        name: &str,
        to: &Destination,
        settings: &Settings,
    ) -> Result<(), VirtError> {
        let state = self.may(name, Operation::MigrateLive)?;
        let fate = self.fate("send", name)?;
        let (network, machine) = (self.network.clone(), self.machine(name)?);
        let (total, runs) = (machine.memory().bytes(), state != State::Paused);
        let (rate, set) = (machine.dirty_rate, machine.working_set.unwrap_or(u64::MAX));
        let live = machine.live().clone();
        let begun = network.with(&to.uri, |transfer| {
            let begun = transfer.begin(settings, total, rate, set, runs);
            let differs = (transfer.expected.memory, transfer.expected.vcpus) != (live.memory, live.vcpus);
            if begun && differs {
                let (sent, expected) = (live.memory, transfer.expected.memory);
                transfer.fail(&format!("a machine of {sent} is sent and one of {expected} is expected"));
            }
            begun
        });
        if begun != Some(true) {
            return Err(self.says("send", name, format!("{}: connection refused", to.uri)));
        }
        machine.moving = Some(Moving { uri: to.uri.clone(), outgoing: true, ran: runs });
        self.moving += 1;
        fate.answer(())
    }

    pub(super) fn receive_rest_of(&mut self, name: &str) -> Result<Destination, VirtError> {
        let uri = match &self.machine(name)?.moving {
            Some(moving) if !moving.outgoing => moving.uri.clone(),
            _ => return Err(VirtError::NotMoving { name: name.into() }),
        };
        let fate = self.fate("receive the rest of", name)?;
        if self.network.with(&uri, Transfer::await_rest) != Some(true) {
            return Err(self.says("recover", name, "its migration is not at post-copy".into()));
        }
        fate.answer(Destination { uri, tls: None })
    }

    pub(super) fn send_rest_of(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        match &self.machine(name)?.moving {
            Some(moving) if moving.outgoing && moving.uri == to.uri => {}
            _ => return Err(VirtError::NotMoving { name: name.into() }),
        }
        let fate = self.fate("send the rest of", name)?;
        if self.network.with(&to.uri, Transfer::go_on) != Some(true) {
            return Err(self.says("recover", name, format!("{}: connection refused", to.uri)));
        }
        fate.answer(())
    }

    /// Lets time pass until its phase changes, and at most so long.
    pub(super) fn migration_of(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        self.machine(name)?;
        let fate = self.fate("ask for the migration of", name)?;
        let Some(before) = self.sample(name)? else { return fate.answer(None) };
        let mut left = wait;
        while !left.is_zero() && !before.phase.has_ended() {
            let look = left.min(LOOK);
            left -= look;
            self.advance(look);
            match self.sample(name)? {
                Some(now) if now.phase == before.phase => {}
                changed => return fate.answer(changed),
            }
        }
        fate.answer(self.sample(name)?)
    }

    fn sample(&mut self, name: &str) -> Result<Option<Sample>, VirtError> {
        let Some(moving) = &self.machine(name)?.moving else { return Ok(None) };
        let uri = moving.uri.clone();
        Ok(self.network.with(&uri, |transfer| transfer.sample()))
    }

    pub(super) fn control(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        let uri = match &self.machine(name)?.moving {
            Some(moving) if moving.outgoing => moving.uri.clone(),
            _ => return Err(VirtError::NotMoving { name: name.into() }),
        };
        let fate = self.fate(&control.to_string(), name)?;
        if let Some(Err(words)) = self.network.with(&uri, |transfer| transfer.control(control)) {
            return Err(self.says("control the migration of", name, words.into()));
        }
        self.settle();
        fate.answer(())
    }

    pub(super) fn conclude_migration(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        let Some(moving) = self.machine(name)?.moving.clone() else {
            return Err(VirtError::NotMoving { name: name.into() });
        };
        let fate = self.fate("conclude the migration of", name)?;
        let transfer =
            self.network.with(&moving.uri, |transfer| (transfer.phase.clone(), transfer.post_copied));
        let (phase, old) =
            transfer.map_or((None, false), |(phase, old)| (Some(phase), old && moving.outgoing));
        let whole = match &phase {
            _ if old => false,
            Some(Phase::Failed(_) | Phase::Cancelled) | None => moving.outgoing,
            Some(phase) => *phase == Phase::Completed,
        };
        if conclusion != Conclusion::GiveUp && !whole {
            let words = format!("its migration is at {}", phase.unwrap_or(Phase::Setup));
            return Err(self.says("run", name, words));
        }
        self.leave(name);
        match conclusion {
            Conclusion::Run => self.enter(name, State::Running),
            Conclusion::Pause => self.enter(name, State::Paused),
            Conclusion::GiveUp => self.remove(name),
        }
        fate.answer(())
    }

    pub(super) fn measure(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        self.may(name, Operation::Pause)?;
        self.advance(over);
        let machine = self.machine(name)?;
        Ok(Demand {
            memory: machine.memory(),
            used: machine.memory(),
            dirty_rate: machine.dirty_rate,
            working_set: machine.working_set.map(Memory::from_bytes),
        })
    }

    /// Brings machines in line with what became of them on the network.
    pub(super) fn settle(&mut self) {
        if self.moving == 0 {
            return;
        }
        let moved: Vec<_> = self
            .machines
            .iter()
            .filter_map(|(name, machine)| Some((name.clone(), machine.state, machine.moving.clone()?)))
            .collect();
        for (name, state, moving) in moved {
            let seen =
                |transfer: &mut Transfer| (transfer.phase.clone(), transfer.runs, transfer.post_copied);
            let Some((phase, runs, post_copied)) = self.network.with(&moving.uri, seen) else { continue };
            match phase {
                // It is stopped and let go on from the other side too. A guest that does something else goes on with that.
                Phase::Setup | Phase::PreCopy if moving.outgoing && runs && state == State::Paused => {
                    self.enter(&name, State::Running);
                }
                Phase::Setup | Phase::PreCopy if moving.outgoing && !runs && state == State::Running => {
                    self.enter(&name, State::Paused);
                }
                Phase::Handover | Phase::PostCopy | Phase::Stalled | Phase::Completed if moving.outgoing => {
                    self.enter(&name, State::Paused);
                }
                Phase::Failed(_) | Phase::Cancelled
                    if moving.outgoing && moving.ran && state == State::Paused =>
                {
                    self.enter(&name, State::Running);
                }
                Phase::PostCopy | Phase::Stalled | Phase::Completed if !moving.outgoing && post_copied => {
                    self.enter(&name, State::Running);
                }
                // A copy that can't become whole goes by itself.
                Phase::Failed(_) | Phase::Cancelled if !moving.outgoing => {
                    self.leave(&name);
                    self.remove(&name);
                }
                _ => {}
            }
        }
    }

    /// Tells the network whether its guest runs.
    pub(super) fn runs_while_moving(&mut self, name: &str, runs: bool) {
        let Some(moving) = self.machines.get_mut(name).and_then(|machine| machine.moving.as_mut()) else {
            return;
        };
        moving.ran = runs;
        self.network.with(&moving.uri, |transfer| transfer.runs = runs);
    }

    /// Lets go of the network.
    pub(super) fn leave(&mut self, name: &str) {
        let Some(machine) = self.machines.get_mut(name) else { return };
        if let Some(moving) = machine.moving.take() {
            self.moving -= 1;
            self.network.leave(&moving.uri, moving.outgoing);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.enter(name, State::ShutOff);
        self.machines.remove(name);
        self.tell(name, EventKind::Deleted);
    }

    /// Whether a machine has begun to run elsewhere, and part of its memory is here alone.
    pub(super) fn is_half(&self, name: &str) -> bool {
        let moving = self.machines.get(name).and_then(|machine| machine.moving.as_ref());
        let phase = moving
            .filter(|moving| moving.outgoing)
            .and_then(|moving| self.network.with(&moving.uri, |transfer| transfer.phase.clone()));
        matches!(phase, Some(Phase::PostCopy | Phase::Stalled))
    }

    /// What can be done to a machine that is being moved.
    pub(super) fn may_while_moving(&self, machine: &Machine, operation: Operation) -> bool {
        use Operation as O;
        match &machine.moving {
            None => true,
            Some(moving) if !moving.outgoing => operation == O::PowerOff,
            Some(moving) => {
                let phase = self.network.with(&moving.uri, |transfer| transfer.phase.clone());
                let over_there = !phase.is_none_or(|phase| matches!(phase, Phase::Setup | Phase::PreCopy));
                match operation {
                    O::PowerOff => true,
                    O::Pause | O::Resume | O::ShutDown | O::Reboot | O::Wake => !over_there,
                    _ => false,
                }
            }
        }
    }

    fn says(&self, operation: &str, name: &str, words: String) -> VirtError {
        VirtError::Said { hypervisor: "sim", operation: format!("{operation} {name}"), words }
    }
}
