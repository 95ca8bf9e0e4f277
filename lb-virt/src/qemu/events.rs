//! Tells what happens to machines: what is done to them here at once, what they do by themselves when QEMU says so.
//!
//! QEMU's events say when to look; what a machine is doing is then asked. A monitor serves one client, so of several programs on one
//! directory one hears QEMU, and the others look four times a second. Who hears it talks to it over the same connection: there is
//! none to be made for each command.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::machine::{self, EVENTS, Line, on};
use super::process::Process;
use super::qmp::QmpError;
use super::store::Place;
use crate::hypervisor::{Event, EventKind};
use crate::migration::Phase;
use crate::state::State;
use crate::wait::until;

/// Events that are kept for who asks later; the oldest go first.
const MOST: usize = 65_536;
/// How long a QEMU may take to greet who listens.
const GREETING: Duration = Duration::from_secs(2);
/// A machine that stands still for its migration is over in a moment, as a rule: for so long it is not asked how far it is.
const HANDOVER: Duration = Duration::from_millis(20);

/// What is to be told, and what has been.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Event>,
    /// What was last told of each machine.
    told: BTreeMap<String, State>,
    heard: BTreeMap<String, Heard>,
    /// Those of which QEMU has said something since they were looked at.
    stirred: BTreeSet<String>,
    /// Those of whose migration it has, and whether that was a new phase of it, or only that something has changed.
    moved: BTreeMap<String, bool>,
    /// How far its migration was when that was last told, of a machine that is listened to.
    phases: BTreeMap<String, Phase>,
    /// Those that have not answered, and since when.
    silent: BTreeMap<String, Instant>,
}

/// A machine that is listened to.
#[derive(Debug)]
struct Heard {
    process: Process,
    line: Line,
    /// Other programs see that somebody listens.
    _lock: File,
}

impl Events {
    pub(super) fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    pub(super) fn tell(&mut self, machine: &str, kind: EventKind) {
        if self.queue.len() == MOST {
            self.queue.pop_front();
        }
        self.queue.push_back(Event { machine: machine.into(), kind });
    }

    /// Nothing of what has happened so far is told.
    pub(super) fn hush(&mut self) {
        self.queue.clear();
    }

    /// What a machine is doing: told if it was doing something else. `quietly`: it is only remembered.
    pub(super) fn is(&mut self, machine: &str, state: State, quietly: bool) {
        let before = self.told.insert(machine.into(), state);
        if before != Some(state) && !quietly {
            self.tell(machine, EventKind::State { state });
        }
    }

    /// Whether it was told what a machine is doing.
    pub(super) fn knows(&self, machine: &str) -> bool {
        self.told.contains_key(machine)
    }

    /// A machine is gone.
    pub(super) fn forget(&mut self, machine: &str) {
        self.told.remove(machine);
        self.heard.remove(machine);
        self.moved.remove(machine);
        self.phases.remove(machine);
        self.silent.remove(machine);
    }

    /// A machine has answered, or has not; for how long it has not.
    pub(super) fn is_silent(&mut self, machine: &str, silent: bool) -> Duration {
        if !silent {
            self.silent.remove(machine);
            return Duration::ZERO;
        }
        self.stirred.insert(machine.into());
        self.silent.entry(machine.into()).or_insert_with(Instant::now).elapsed()
    }

    /// How far a machine's migration was when that was last told, if all that has happened since is known or will be heard.
    pub(super) fn phase(&self, machine: &str) -> Option<&Phase> {
        self.phases.get(machine).filter(|_| self.hears(machine))
    }

    /// Notes how far a machine's migration is.
    pub(super) fn is_at(&mut self, machine: &str, phase: Option<&Phase>) {
        match phase {
            Some(phase) => drop(self.phases.insert(machine.into(), phase.clone())),
            None => drop(self.phases.remove(machine)),
        }
    }

    /// The machines of which something was told.
    pub(super) fn known(&self) -> Vec<String> {
        self.told.keys().cloned().collect()
    }

    /// Listens to a machine's QEMU, unless somebody does; it may take so long to answer. Whether it is listened to here.
    pub(super) fn listen(&mut self, place: &Place, process: &Process, patience: Duration) -> bool {
        if let Some(heard) = self.heard.get(&place.name) {
            if heard.process == *process {
                return true;
            }
            self.heard.remove(&place.name);
        }
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(place.file("events.lock"));
        let Ok(lock) = lock else { return false };
        if lock.try_lock().is_err() {
            return false;
        }
        let Ok(qmp) = machine::connect(place, EVENTS, GREETING.min(patience)) else { return false };
        let line = Arc::new(Mutex::new(qmp));
        self.heard.insert(place.name.clone(), Heard { process: process.clone(), line, _lock: lock });
        // What has happened before was not heard.
        self.moved.insert(place.name.clone(), true);
        true
    }

    /// The connection to a machine's QEMU, if it is listened to here.
    pub(super) fn line(&self, machine: &str, process: &Process) -> Option<Line> {
        self.heard.get(machine).filter(|heard| heard.process == *process).map(|heard| heard.line.clone())
    }

    /// Waits until a QEMU says something, at most `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let lines: Vec<_> = self.heard.values().map(|heard| on(&heard.line)).collect();
        // What came with an answer is no longer in the socket.
        if lines.iter().any(|qmp| qmp.has_event()) {
            return;
        }
        let mut sockets: Vec<PollFd<'_>> =
            lines.iter().map(|qmp| PollFd::new(qmp.as_fd(), PollFlags::POLLIN)).collect();
        // Rounded up: who waits for less than a millisecond would else wait with the processor.
        let timeout = PollTimeout::try_from(timeout.saturating_add(Duration::from_micros(999)))
            .unwrap_or(PollTimeout::MAX);
        // An interrupted wait is a short one.
        let _ = poll(&mut sockets, timeout);
    }

    /// Takes what QEMUs have said, and tells of guests that have started anew.
    pub(super) fn take(&mut self) {
        let (mut gone, mut rebooted, mut stalled) = (Vec::new(), Vec::new(), Vec::new());
        for (name, heard) in &mut self.heard {
            loop {
                match on(&heard.line).next_event(Duration::ZERO) {
                    Ok(Some(event)) => {
                        match &*event.name {
                            "MIGRATION" => {
                                *self.moved.entry(name.clone()).or_default() = true;
                                if event.text("status") == "postcopy-paused" {
                                    stalled.push(name.clone());
                                }
                            }
                            // A round more is seen at the next look.
                            "MIGRATION_PASS" => {}
                            _ => drop(self.moved.entry(name.clone()).or_default()),
                        }
                        // A reset that the guest asked for; the host's are told by who asks for them.
                        if event.name == "RESET" && event.data.get("guest").is_some_and(|guest| guest == true)
                        {
                            rebooted.push(name.clone());
                        }
                        self.stirred.insert(name.clone());
                    }
                    Ok(None) => break,
                    // What is no event is none.
                    Err(QmpError::Garbage { .. }) => {}
                    Err(_) => {
                        self.stirred.insert(name.clone());
                        self.moved.insert(name.clone(), true);
                        gone.push(name.clone());
                        break;
                    }
                }
            }
        }
        for name in rebooted {
            self.tell(&name, EventKind::Rebooted);
        }
        for name in stalled {
            self.tell(&name, EventKind::MigrationStalled);
        }
        for name in gone {
            self.heard.remove(&name);
        }
    }

    /// Waits until something may have become of a machine's migration since this was asked last, at most `timeout`. The machine is
    /// listened to.
    pub(super) fn wait_for_move(&mut self, machine: &str, timeout: Duration) {
        let mut end = until(timeout);
        let mut stands = false;
        loop {
            self.take();
            match self.moved.remove(machine) {
                Some(true) => return,
                // It stands still, as a rule, because the last of it goes over.
                Some(false) if !stands => (stands, end) = (true, end.min(Instant::now() + HANDOVER)),
                _ => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.hears(machine) {
                return;
            }
            self.wait(left);
        }
    }

    /// Whether a machine should be looked at: something was said of it, or nobody says anything here.
    pub(super) fn should_look(&mut self, name: &str) -> bool {
        self.stirred.remove(name) || !self.hears(name)
    }

    /// A machine is to be looked at.
    pub(super) fn stir(&mut self, name: &str) {
        self.stirred.insert(name.into());
    }

    /// Whether a machine's QEMU is listened to here.
    pub(super) fn hears(&self, name: &str) -> bool {
        self.heard.contains_key(name)
    }
}
