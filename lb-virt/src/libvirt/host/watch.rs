//! What happens to machines, found by looking at them.
//!
//! libvirt calls back at every event. The safe bindings (crate `virt`) have no such call, and this crate has no unsafe code. So
//! whoever waits for events looks at all machines five times a second, and what differs from the look before is told. What is done
//! over this connection is looked at when it is done, so none of that is missed. What others do and undo between two looks is, and
//! that a guest has started anew can't be seen.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

use crate::hypervisor::{Event, EventKind};
use crate::state::State;

/// Events that are kept for who asks later; the oldest go first.
const EVENTS: usize = 65_536;

/// A machine as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) state: State,
    /// libvirt's number for one run of it; `None` if it does not run.
    pub(super) run: Option<u32>,
}

/// What was seen, and what is to be told.
#[derive(Debug, Default)]
pub(super) struct Watch {
    known: BTreeMap<Uuid, Seen>,
    events: VecDeque<Event>,
}

impl Watch {
    /// What is there from the start, of which there is nothing to tell.
    pub(super) fn of(machines: BTreeMap<Uuid, Seen>) -> Self {
        Self { known: machines, events: VecDeque::new() }
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn tell(&mut self, machine: &str, kind: EventKind) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event { machine: machine.into(), kind });
    }

    /// One machine was looked at.
    pub(super) fn see(&mut self, uuid: Uuid, now: Seen) {
        let before = self.known.insert(uuid, now.clone());
        let before = match before {
            Some(before) if before.name == now.name => Some(before),
            Some(renamed) => {
                self.tell(&renamed.name, EventKind::Deleted);
                None
            }
            None => None,
        };
        let Some(before) = before else {
            self.tell(&now.name, EventKind::Defined);
            if now.state != State::ShutOff {
                self.tell(&now.name, EventKind::State { state: now.state });
            }
            return;
        };
        if before.run.is_some() && now.run.is_some() && before.run != now.run {
            self.tell(&now.name, EventKind::State { state: State::ShutOff });
            self.tell(&now.name, EventKind::State { state: now.state });
        } else if before.state != now.state {
            self.tell(&now.name, EventKind::State { state: now.state });
        }
    }

    /// One machine is no longer there.
    pub(super) fn miss(&mut self, uuid: Uuid) {
        let Some(gone) = self.known.remove(&uuid) else { return };
        if gone.state.is_active() {
            self.tell(&gone.name, EventKind::State { state: State::ShutOff });
        }
        self.tell(&gone.name, EventKind::Deleted);
    }

    /// All machines were looked at.
    pub(super) fn see_all(&mut self, machines: BTreeMap<Uuid, Seen>) {
        let gone: Vec<Uuid> =
            self.known.keys().filter(|uuid| !machines.contains_key(uuid)).copied().collect();
        gone.into_iter().for_each(|uuid| self.miss(uuid));
        machines.into_iter().for_each(|(uuid, seen)| self.see(uuid, seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look after another, and what is told between: `name:state:run`, separated by blanks.
    #[test]
    fn what_differs_is_told() {
        let look = |text: &str| -> BTreeMap<Uuid, Seen> {
            let machines = text.split_whitespace().map(|machine| {
                let parts: Vec<&str> = machine.split(':').collect();
                let [uuid, name, state, run] = parts[..] else { panic!("{machine}") };
                let state = match state {
                    "run" => State::Running,
                    "pause" => State::Paused,
                    _ => State::ShutOff,
                };
                (
                    Uuid::from_u128(uuid.parse().unwrap()),
                    Seen { name: name.into(), state, run: run.parse().ok() },
                )
            });
            machines.collect()
        };
        for (before, now, told) in [
            ("", "", ""),
            ("1:a:off:-", "1:a:off:-", ""),
            ("", "1:a:off:-", "a defined"),
            ("", "1:a:run:1", "a defined, a running"),
            ("1:a:off:-", "1:a:run:1", "a running"),
            ("1:a:run:1", "1:a:pause:1", "a paused"),
            ("1:a:run:1", "1:a:run:2", "a shut off, a running"),
            ("1:a:run:1", "1:a:off:-", "a shut off"),
            ("1:a:run:1", "", "a shut off, a deleted"),
            ("1:a:off:-", "2:a:off:-", "a deleted, a defined"),
            ("1:a:off:-", "1:b:off:-", "a deleted, b defined"),
            ("1:a:run:1 2:b:off:-", "1:a:run:1 2:b:run:2", "b running"),
        ] {
            let mut watch = Watch::of(look(before));
            watch.see_all(look(now));
            let mut events = Vec::new();
            while let Some(Event { machine, kind }) = watch.next() {
                events.push(match kind {
                    EventKind::State { state } => format!("{machine} {state}"),
                    kind => format!("{machine} {kind:?}").to_lowercase(),
                });
            }
            assert_eq!(events.join(", "), told, "{before} -> {now}");
        }
    }
}
