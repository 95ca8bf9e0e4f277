//! A simulated host that is put away, and taken up again by another program.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Sim;
use super::machine::{Kept, Machine};
use crate::domain::DomainSpec;
use crate::error::VirtError;
use crate::hypervisor::Snapshot;
use crate::state::State;

/// The machines of a simulated host, as they were when it was [stored](Sim::store).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Stored {
    machines: Vec<StoredMachine>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct StoredMachine {
    definition: DomainSpec,
    running: Option<DomainSpec>,
    state: State,
    /// Until its guest has shut down.
    ends_in: Option<Duration>,
    cpu_time: Duration,
    snapshots: Vec<StoredSnapshot>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct StoredSnapshot {
    snapshot: Snapshot,
    definition: DomainSpec,
    running: Option<DomainSpec>,
}

impl Sim {
    /// Its machines, to be [taken up](Self::with_stored) later. Loads, faults and events are not kept; a machine that is on its way to
    /// another host is still here, and one that comes is not here yet.
    #[must_use]
    pub fn store(&mut self) -> Stored {
        let now = self.now;
        let copy = |spec: &Arc<DomainSpec>| DomainSpec::clone(spec);
        let here = self
            .machines
            .values_mut()
            .filter(|machine| machine.moving.as_ref().is_none_or(|moving| moving.outgoing));
        let machines = here.map(|machine| StoredMachine {
            definition: copy(&machine.spec),
            running: machine.running.as_ref().map(copy),
            state: machine.state,
            ends_in: machine.ends.map(|end| end.saturating_sub(now)),
            cpu_time: machine.statistics(now).cpu_time,
            snapshots: machine
                .snapshots
                .iter()
                .map(|kept| StoredSnapshot {
                    snapshot: kept.snapshot.clone(),
                    definition: copy(&kept.spec),
                    running: kept.running.as_ref().map(copy),
                })
                .collect(),
        });
        Stored { machines: machines.collect() }
    }

    /// With machines that were stored.
    ///
    /// # Errors
    /// [`VirtError::Spec`] if a definition is wrong, [`VirtError::MachineExists`] if there are two of a name, [`VirtError::Said`] if a
    /// machine's state does not fit to whether it runs, or all of them to the host's memory.
    pub fn with_stored(mut self, stored: Stored) -> Result<Self, VirtError> {
        for one in stored.machines {
            let name = one.definition.name.clone();
            let snapshots = one.snapshots.iter();
            let kept = snapshots.flat_map(|kept| [Some(&kept.definition), kept.running.as_ref()]);
            for spec in [Some(&one.definition), one.running.as_ref()].into_iter().chain(kept).flatten() {
                spec.validate().map_err(VirtError::spec(&name))?;
            }
            let strange = |words: &str| VirtError::Said {
                hypervisor: "sim",
                operation: format!("take up {name}"),
                words: words.into(),
            };
            if one.state.is_active() != one.running.is_some() {
                return Err(strange("it runs and does not"));
            }
            let needed = one.running.as_ref().map_or(0, |running| running.memory.kib());
            let free = self.host.free_memory.unwrap_or_default().kib();
            let free = free.checked_sub(needed).ok_or_else(|| strange("there is no memory left for it"))?;
            let snapshots = one.snapshots.into_iter().map(|kept| Kept {
                snapshot: kept.snapshot,
                spec: Arc::new(kept.definition),
                running: kept.running.map(Arc::new),
            });
            let mut machine = Machine::new(one.definition);
            machine.running = one.running.map(Arc::new);
            machine.state = one.state;
            machine.ends = one.ends_in.map(|left| self.now.saturating_add(left));
            machine.snapshots = snapshots.collect();
            machine.begin_at(self.now, one.cpu_time);
            if self.machines.contains_key(&name) {
                return Err(VirtError::MachineExists { name, host: self.host.name });
            }
            self.ending.extend(machine.ends.map(|end| (end, name.clone())));
            self.host.free_memory = Some(crate::domain::Memory::from_kib(free));
            self.machines.insert(name, machine);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hypervisor, Memory};

    fn host() -> Sim {
        Sim::new("node1", 8, Memory::from_mib(1024))
    }

    #[test]
    fn what_is_stored_is_taken_up() {
        let mut before = host();
        for name in ["off", "running", "paused", "ending"] {
            before.define(&DomainSpec::new(name, 1, Memory::from_mib(128))).unwrap();
            before.take_snapshot(name, "fresh").unwrap();
            if name != "off" {
                before.start(name).unwrap();
            }
        }
        before.set_load("running", 1.0).unwrap();
        before.advance(Duration::from_secs(10));
        before.pause("paused").unwrap();
        before.shut_down("ending").unwrap();
        before.advance(Duration::from_secs(1));
        let stored = before.store();
        let text = serde_json::to_string(&stored).unwrap();
        let read: Stored = serde_json::from_str(&text).unwrap();
        assert_eq!(read, stored);
        let mut after = host().with_stored(read).unwrap();
        assert_eq!(after.list().unwrap(), before.list().unwrap());
        assert_eq!(after.host().unwrap(), before.host().unwrap(), "its free memory too");
        assert_eq!(after.store(), stored);
        for name in ["off", "running", "paused", "ending"] {
            assert_eq!(after.spec(name).unwrap(), before.spec(name).unwrap());
            assert_eq!(after.snapshots(name).unwrap(), before.snapshots(name).unwrap());
        }
        assert_eq!(after.statistics("running").unwrap().cpu_time, Duration::from_secs(11));
        after.advance(Duration::from_secs(2));
        assert_eq!(after.state("ending").unwrap(), State::ShutOff, "it had two seconds left");
    }

    #[test]
    fn what_was_tampered_with_is_refused() {
        let mut before = host();
        before.define(&DomainSpec::new("web1", 1, Memory::from_mib(512))).unwrap();
        before.start("web1").unwrap();
        let stored = before.store();
        let refused = |change: fn(&mut Stored)| {
            let mut stored = stored.clone();
            change(&mut stored);
            host().with_stored(stored).unwrap_err().to_string()
        };
        assert!(refused(|stored| stored.machines[0].state = State::ShutOff).contains("it runs and does not"));
        assert!(refused(|stored| stored.machines[0].definition.name = "a/b".into()).contains("is no name"));
        assert!(refused(|stored| stored.machines.push(stored.machines[0].clone())).contains("already"));
        assert!(
            refused(|stored| stored.machines[0].running.as_mut().unwrap().memory = Memory::from_mib(2048))
                .contains("no memory left")
        );
    }
}
