//! A machine of the simulated host.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{DomainSpec, Memory};
use crate::hypervisor::{Snapshot, Statistics, Summary};
use crate::state::State;

#[derive(Debug)]
pub(super) struct Machine {
    /// As it is defined, and will be when it starts next.
    pub(super) spec: Arc<DomainSpec>,
    /// As it runs; `None` if it does not.
    pub(super) running: Option<Arc<DomainSpec>>,
    pub(super) state: State,
    /// When its guest has shut down.
    pub(super) ends: Option<Duration>,
    pub(super) obedient: bool,
    pub(super) snapshots: Vec<Kept>,
    pub(super) moving: Option<Moving>,
    /// How fast its guest writes while it runs, in bytes a second.
    pub(super) dirty_rate: u64,
    /// What it writes to again and again, in bytes; `None`: all.
    pub(super) working_set: Option<u64>,
    /// The share of its virtual CPUs that it uses while it runs.
    load: f64,
    cpu_time: Duration,
    /// Until when `cpu_time` counts.
    accounted: Duration,
}

/// Where a machine goes to, or comes from.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub(super) uri: String,
    /// Whether it goes.
    pub(super) outgoing: bool,
    /// Whether it ran when it was sent.
    pub(super) ran: bool,
}

/// A snapshot and what was kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    pub(super) spec: Arc<DomainSpec>,
    pub(super) running: Option<Arc<DomainSpec>>,
}

impl Machine {
    pub(super) fn new(spec: DomainSpec) -> Self {
        Self {
            spec: Arc::new(spec),
            running: None,
            state: State::ShutOff,
            ends: None,
            obedient: true,
            snapshots: Vec::new(),
            moving: None,
            dirty_rate: 0,
            working_set: None,
            load: 0.0,
            cpu_time: Duration::ZERO,
            accounted: Duration::ZERO,
        }
    }

    /// With so much time on CPUs, which counts on from now.
    #[cfg(feature = "serde")]
    pub(super) const fn begin_at(&mut self, now: Duration, cpu_time: Duration) {
        (self.cpu_time, self.accounted) = (cpu_time, now);
    }

    /// The definition that holds now.
    pub(super) fn live(&self) -> &DomainSpec {
        self.running.as_ref().unwrap_or(&self.spec)
    }

    /// The host's memory that it takes.
    pub(super) fn memory(&self) -> Memory {
        self.running.as_ref().map_or(Memory::default(), |running| running.memory)
    }

    pub(super) fn enter(&mut self, now: Duration, state: State) {
        self.account(now);
        match (self.state.is_active(), state.is_active()) {
            (false, true) => {
                self.running = Some(Arc::clone(&self.spec));
                self.cpu_time = Duration::ZERO;
            }
            (true, false) => {
                self.running = None;
                self.cpu_time = Duration::ZERO;
            }
            _ => {}
        }
        self.state = state;
    }

    /// Counts the time on CPUs until `now`.
    pub(super) fn account(&mut self, now: Duration) {
        let works = matches!(self.state, State::Running | State::ShuttingDown);
        let passed = now.saturating_sub(self.accounted);
        if works && self.load > 0.0 {
            self.cpu_time += passed.mul_f64(self.load * f64::from(self.live().vcpus));
        }
        self.accounted = now;
    }

    pub(super) fn set_load(&mut self, now: Duration, share: f64) {
        self.account(now);
        self.load = share.clamp(0.0, 1.0);
    }

    pub(super) fn summary(&self) -> Summary {
        let live = self.live();
        Summary {
            name: self.spec.name.clone(),
            uuid: self.spec.uuid,
            state: self.state,
            vcpus: live.vcpus,
            memory: live.memory,
        }
    }

    pub(super) fn statistics(&mut self, now: Duration) -> Statistics {
        self.account(now);
        let Some(running) = &self.running else { return Statistics::default() };
        Statistics {
            cpu_time: self.cpu_time,
            vcpus: running.vcpus,
            memory: running.memory,
            resident: Some(running.memory),
            disks: running.disks.iter().map(|disk| (disk.target.clone(), Default::default())).collect(),
            ..Statistics::default()
        }
    }

    pub(super) fn find_snapshot(&self, name: &str) -> Option<&Kept> {
        self.snapshots.iter().find(|kept| kept.snapshot.name == name)
    }

    pub(super) fn take_snapshot(&mut self, name: &str, now: Duration) {
        let snapshot = Snapshot { name: name.into(), state: self.state, taken: now };
        self.snapshots.push(Kept { snapshot, spec: self.spec.clone(), running: self.running.clone() });
    }
}
