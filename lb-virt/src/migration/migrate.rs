//! Moves one machine, from the first look to the one copy that runs in the end.

use std::fmt;
use std::time::{Duration, Instant};

use super::course::{Course, is_same};
use super::estimate::{Estimate, Link};
use super::monitor::{Monitor, Policy, PolicyError, Progress, Reason, Resort};
use super::{Conclusion, Control, Sample, Via};
use crate::checks::{self, Concern};
use crate::error::VirtError;
use crate::hypervisor::{Capabilities, Hypervisor};
use crate::state::{Operation, State};

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Side {
    /// Where the machine comes from.
    Source,
    /// Where it goes to.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Where the machine is after a migration that did not go as it was meant to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Whereabouts {
    /// There, and only there, doing what it did before.
    On(Side),
    /// There, booted anew: the copy that ran was lost.
    RestartedOn(Side),
    /// It runs nowhere, as far as both hosts say: there is none, it was shut off meanwhile, or was lost and not to be restarted.
    Nowhere,
    /// Not known: a host does not answer. At most one copy runs; [`Migration::resume`] finds out and ends it, as soon as both answer.
    Unknown,
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On(side) => write!(f, "it is on the {side}"),
            Self::RestartedOn(side) => write!(f, "it was lost, and booted anew on the {side}"),
            Self::Nowhere => f.write_str("it runs nowhere"),
            Self::Unknown => {
                f.write_str("where it runs is not known: resume the migration when both hosts answer")
            }
        }
    }
}

/// What is done with a machine whose only copy was lost: the source died while its memory was going over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum IfLost {
    /// It is booted where it was.
    #[default]
    RestartOnSource,
    /// It is booted where it was to go.
    RestartOnTarget,
    /// Nothing.
    LeaveOff,
}

/// Why a machine was not moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// It must not be.
    #[error("{}", listed(.0))]
    Concerns(Vec<Concern>),
    /// The policy can't be followed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It would never end by itself, by what was measured before the start, and the policy has no answer to that.
    #[error(
        "it would not converge: it writes {dirty_rate} MB/s and {bandwidth} MB/s go over, so that {needed:.1?} of standing still would be \
         needed; allow auto-converge, post-copy or a longer downtime, or stop it at a stall"
    )]
    WillNotConverge {
        /// What its guest writes, in MB/s.
        dirty_rate: u64,
        /// What goes over, in MB/s.
        bandwidth: u64,
        /// How long it would stand still, were it stopped.
        needed: Duration,
    },
    /// A hypervisor did not do what it had to.
    #[error("the {side}: {source}")]
    Hypervisor {
        /// Which one's.
        side: Side,
        /// What it said.
        source: VirtError,
    },
    /// The hypervisor gave up, in its own words.
    #[error("{0}")]
    Failed(String),
    /// It was cancelled.
    #[error("it was cancelled: {0}")]
    Cancelled(Reason),
    /// The machine itself ended on its way.
    #[error("the machine is {0} on the source")]
    Ended(State),
    /// Its post-copy has lost the connection. The machine is the copy on the target, which stands still as soon as it needs what is
    /// still on the source; neither was touched. [`Migration::recover`] goes on.
    #[error(
        "the connection is lost, and part of its memory is still on the source: keep both copies, and recover the migration when the \
         hosts reach each other"
    )]
    Stalled,
    /// The source has ended in post-copy, and part of the memory with it. The copy on the target is all that is left, and was not
    /// touched: it goes on until it needs what it lacks.
    #[error(
        "the source has ended, and part of its memory with it: the copy on the target stands still when it needs that; power it off, and \
         start it anew"
    )]
    SourceLost,
    /// The target's copy has ended in post-copy. The source's is old, and can't go on; it was not touched.
    #[error(
        "its copy on the target, which had begun to run, is {0}: what it did last is lost, and the copy on the source is too old to go on; \
         give that up (`Conclusion::GiveUp`, `machines power-off --half`), and start the machine on the target"
    )]
    TargetLost(State),
    /// All that the source had to send has been sent, not all of it has arrived, and nobody can send it again: breaking the connection
    /// off would lose it, so it was not. Neither copy was touched.
    #[error(
        "all of its memory has been sent, not all has arrived, and what is on its way can't be sent again: keep both copies, and resume the \
         migration when the network goes on; if the connection is gone for good, give the source's up (`Conclusion::GiveUp`, \
         `machines power-off --half`), and start the machine anew on the target"
    )]
    AllSent,
    /// No migration of it is under way.
    #[error("it is not being moved")]
    NotMoving,
}

fn listed(concerns: &[Concern]) -> String {
    concerns.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A machine was not moved, or not in one piece.
#[derive(Debug, thiserror::Error)]
#[error("machine {name} was not moved: {why} ({whereabouts})")]
pub struct MigrationError {
    /// The machine.
    pub name: String,
    /// Where it is now.
    pub whereabouts: Whereabouts,
    /// Why.
    #[source]
    pub why: Box<Why>,
}

/// A machine was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub struct Report {
    /// What the hypervisor said at its end; of a machine at rest, nothing.
    pub sample: Option<Sample>,
    /// What was estimated before, if a [`link`](Migration::link) was given and the hypervisor can measure.
    pub estimate: Option<Estimate>,
    /// How long it took in all: from the first look to the copy that runs.
    pub took: Duration,
    /// How it was steered: when, with what, and why.
    pub steered: Vec<(Duration, Control, Reason)>,
}

/// Moves a machine to another host.
///
/// One that runs is moved while it runs; one that is shut off is defined there and deleted here. Its disks must be reached from both.
///
/// ```
/// use lb_virt::domain::Disk;
/// use lb_virt::migration::Migration;
/// use lb_virt::sim::Network;
/// use lb_virt::{DomainSpec, Hypervisor, Memory, Sim, State};
///
/// let network = Network::new();
/// let mut here = Sim::new("node1", 8, Memory::from_mib(16_384)).on(&network);
/// let mut there = Sim::new("node2", 8, Memory::from_mib(16_384)).on(&network);
/// here.define(&DomainSpec::new("web1", 2, Memory::from_mib(2048)).disk(Disk::file("/srv/web1.qcow2").shared()))?;
/// here.start("web1")?;
///
/// let report = Migration::of("web1").run(&mut here, &mut there, |progress| {
///     println!("{:3.0} %", 100.0 * progress.done);
///     None // or a control: cancel, …
/// })?;
/// assert_eq!(there.state("web1")?, State::Running);
/// assert!(here.list()?.is_empty());
/// assert!(report.sample.is_some_and(|sample| sample.downtime.is_some()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Migration {
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) via: Via,
    pub(super) if_lost: IfLost,
    pub(super) every: Duration,
    pub(super) patience: Duration,
    link: Option<Link>,
    despite: bool,
}

impl Migration {
    /// Of this machine, with every default.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self {
            name: name.into(),
            policy: Policy::default(),
            via: Via::Own,
            if_lost: IfLost::default(),
            every: Duration::from_millis(100),
            patience: Duration::from_secs(10),
            link: None,
            despite: false,
        }
    }

    /// Steered so.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Over this. Default: as the hypervisor does by itself.
    #[must_use]
    pub fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }

    /// What is done if its only copy is lost. Default: it is booted where it was.
    #[must_use]
    pub const fn if_lost(mut self, if_lost: IfLost) -> Self {
        self.if_lost = if_lost;
        self
    }

    /// How often it is looked at, at most once a millisecond. Default: 100 ms; a change of its phase is seen at once.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval.max(Duration::from_millis(1));
        self
    }

    /// How long a host is waited for that has still to say how it ended; it is asked twice at least. Default: 10 s.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What the machine is sent over: what that will take is then measured and estimated before it begins, which takes a second, and one
    /// that would never end is not begun ([`Why::WillNotConverge`]). Where the hypervisor can't measure that is left out.
    #[must_use]
    pub const fn link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// What it will take, by what the guest does now; `None` if the hypervisor can't measure it, or there is no [`link`](Self::link).
    ///
    /// # Errors
    /// Those of [`Hypervisor::demand`].
    pub fn estimate(&self, source: &mut dyn Hypervisor) -> Result<Option<Estimate>, VirtError> {
        let Some(link) = self.link.filter(|_| source.capabilities().contains(Capabilities::DIRTY_RATE))
        else {
            return Ok(None);
        };
        let demand = source.demand(&self.name, Duration::from_secs(1))?;
        Ok(Some(Estimate::new(&demand, &self.limited(link), self.policy.settings.downtime)))
    }

    /// A link no faster than the settings allow.
    fn limited(&self, link: Link) -> Link {
        match self.policy.settings.bandwidth {
            // Nothing waits in sockets then.
            Some(limit) if limit < link.bandwidth => Link { bandwidth: limit, buffered: 0, ..link },
            _ => link,
        }
    }

    /// Refuses what would never end.
    fn must_converge(&self, estimate: &Estimate) -> Result<(), Why> {
        let policy = &self.policy;
        let answers = policy.settings.auto_converge
            || policy.post_copy_soon
            || policy.at_stall != Resort::Cancel
            || policy.most_downtime.is_some_and(|most| most >= estimate.downtime);
        if estimate.converges || answers || self.despite {
            return Ok(());
        }
        Err(Why::WillNotConverge {
            dirty_rate: estimate.dirty_rate / 1_000_000,
            bandwidth: estimate.bandwidth / 1_000_000,
            needed: estimate.downtime,
        })
    }

    /// Whatever [`checks::before_live_migration`] has against it, its snapshots, and the estimate.
    #[must_use]
    pub const fn despite_concerns(mut self) -> Self {
        self.despite = true;
        self
    }

    /// Moves it. `watch` sees every sample, and may steer.
    ///
    /// # Errors
    /// If it was not moved; the error says where it is.
    pub fn run(
        &self,
        source: &mut dyn Hypervisor,
        target: &mut dyn Hypervisor,
        watch: impl FnMut(&Progress) -> Option<Control>,
    ) -> Result<Report, MigrationError> {
        let begun = Instant::now();
        let source_said = |error| self.stays(refused(Side::Source, error));
        let monitor = Monitor::new(self.policy.clone()).map_err(|error| self.stays(error.into()))?;
        let state = match source.state(&self.name) {
            Ok(state) => state,
            Err(error @ VirtError::NoMachine { .. }) => {
                return Err(self.fails(refused(Side::Source, error), Whereabouts::Nowhere));
            }
            Err(error) => return Err(source_said(error)),
        };
        if state == State::ShutOff {
            return self.run_cold(source, target, begun);
        }
        state.after(Operation::MigrateLive).map_err(VirtError::state(&self.name)).map_err(source_said)?;
        for (side, host) in [(Side::Source, &*source), (Side::Target, &*target)] {
            if !host.capabilities().contains(Capabilities::LIVE_MIGRATION) {
                let error = host.unsupported("move machines while they run");
                return Err(self.stays(refused(side, error)));
            }
        }
        let running = source.running_spec(&self.name).map_err(source_said)?;
        let defined = source.spec(&self.name).map_err(source_said)?;
        let mut concerns = checks::before_live_migration(&running);
        concerns.extend(self.snapshots(source).map_err(source_said)?);
        if !self.despite && !concerns.is_empty() {
            return Err(self.stays(Why::Concerns(concerns)));
        }

        let estimate = match state {
            State::Running => self.estimate(source).map_err(source_said)?,
            _ => None,
        };
        if let Some(estimate) = &estimate {
            self.must_converge(estimate).map_err(|why| self.stays(why))?;
        }
        let conclusion = if state == State::Paused { Conclusion::Pause } else { Conclusion::Run };
        let course = Course::new(self, source, target, monitor, defined);
        let mut course = Course { begun, conclusion, estimate, ..course };
        course.begin(&running)?;
        course.follow(watch)
    }

    /// Goes on with a migration whose monitor was lost: finds out how far it is, and ends it. A machine that was paused before runs
    /// afterwards.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Why::NotMoving`] if there is none, with the machine where it is.
    pub fn resume(
        &self,
        source: &mut dyn Hypervisor,
        target: &mut dyn Hypervisor,
        watch: impl FnMut(&Progress) -> Option<Control>,
    ) -> Result<Report, MigrationError> {
        self.go_on(source, target, watch, false)
    }

    /// Goes on with a post-copy that has lost its connection, over a new one, and ends it; one whose connection has brought nothing for the
    /// [`patience`](Self::patience), without anybody's having said that it is dead, is broken off first. Over the same [`via`](Self::via)
    /// as before, as far as encryption goes; a migration at any other phase is [resumed](Self::resume).
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Why::AllSent`]. While it can't be recovered, both copies are left as they are: it can be tried again.
    pub fn recover(
        &self,
        source: &mut dyn Hypervisor,
        target: &mut dyn Hypervisor,
        watch: impl FnMut(&Progress) -> Option<Control>,
    ) -> Result<Report, MigrationError> {
        self.go_on(source, target, watch, true)
    }

    fn go_on(
        &self,
        source: &mut dyn Hypervisor,
        target: &mut dyn Hypervisor,
        watch: impl FnMut(&Progress) -> Option<Control>,
        connects_anew: bool,
    ) -> Result<Report, MigrationError> {
        let monitor = Monitor::new(self.policy.clone())
            .map_err(|error| self.fails(error.into(), Whereabouts::Unknown))?;
        let (side, spec) = match source.spec(&self.name) {
            Err(VirtError::NoMachine { .. }) => (Side::Target, target.spec(&self.name)),
            other => (Side::Source, other),
        };
        let spec = spec.map_err(|error| {
            let neither = matches!(error, VirtError::NoMachine { .. });
            let whereabouts = if neither { Whereabouts::Nowhere } else { Whereabouts::Unknown };
            self.fails(refused(side, error), whereabouts)
        })?;
        // One at rest whose definition was on its way.
        let at_rest = |host: &mut dyn Hypervisor| {
            is_same(host, &spec).unwrap_or(false)
                && host.state(&self.name).is_ok_and(|state| state == State::ShutOff)
        };
        if at_rest(source) && at_rest(target) {
            return self.leave_source(source, target, Instant::now());
        }
        let mut course = Course::new(self, source, target, monitor, spec);
        if connects_anew {
            course.reconnect()?;
        }
        course.follow(watch)
    }

    /// What would stay behind.
    fn snapshots(&self, source: &mut dyn Hypervisor) -> Result<Option<Concern>, VirtError> {
        if !source.capabilities().contains(Capabilities::SNAPSHOTS) {
            return Ok(None);
        }
        let names: Vec<String> = source.snapshots(&self.name)?.into_iter().map(|kept| kept.name).collect();
        Ok(if names.is_empty() { None } else { Some(Concern::Snapshots { names }) })
    }

    /// Moves a machine that is shut off: its definition.
    fn run_cold(
        &self,
        source: &mut dyn Hypervisor,
        target: &mut dyn Hypervisor,
        begun: Instant,
    ) -> Result<Report, MigrationError> {
        let source_said = |error| self.stays(refused(Side::Source, error));
        let spec = source.spec(&self.name).map_err(source_said)?;
        let mut own: Vec<Concern> = checks::before_live_migration(&spec)
            .into_iter()
            .filter(|concern| matches!(concern, Concern::NotShared { .. }))
            .collect();
        own.extend(self.snapshots(source).map_err(source_said)?);
        if !self.despite && !own.is_empty() {
            return Err(self.stays(Why::Concerns(own)));
        }
        if let Err(error) = target.define(&spec) {
            // It may have done so, and its answer was lost: there must not be two.
            let taken = matches!(error, VirtError::MachineExists { .. } | VirtError::UuidTaken { .. });
            let here_alone = taken
                || match is_same(target, &spec) {
                    Ok(true) => target.delete(&self.name).is_ok(),
                    Ok(false) | Err(VirtError::NoMachine { .. }) => true,
                    Err(_) => false,
                };
            let whereabouts = if here_alone { Whereabouts::On(Side::Source) } else { Whereabouts::Unknown };
            return Err(self.fails(refused(Side::Target, error), whereabouts));
        }
        self.leave_source(source, target, begun)
    }

    /// The second half of it: the target has the definition, and the source's goes.
    fn leave_source(
        &self,
        source: &mut dyn Hypervisor,
        target: &mut dyn Hypervisor,
        begun: Instant,
    ) -> Result<Report, MigrationError> {
        let done = |begun: Instant| Report {
            sample: None,
            estimate: None,
            took: begun.elapsed(),
            steered: Vec::new(),
        };
        let Err(error) = source.delete(&self.name) else { return Ok(done(begun)) };
        // It must not be defined twice. Whether it still is here decides where.
        match source.state(&self.name) {
            Err(VirtError::NoMachine { .. }) => Ok(done(begun)),
            Ok(_) if target.delete(&self.name).is_ok() => Err(self.stays(refused(Side::Source, error))),
            _ => Err(self.fails(refused(Side::Source, error), Whereabouts::Unknown)),
        }
    }

    pub(super) fn stays(&self, why: Why) -> MigrationError {
        self.fails(why, Whereabouts::On(Side::Source))
    }

    /// For how many looks a host is waited for.
    pub(super) fn looks(&self) -> u32 {
        let every = self.every.as_micros().max(1);
        u32::try_from(self.patience.as_micros() / every).unwrap_or(u32::MAX)
    }

    pub(super) fn fails(&self, why: Why, whereabouts: Whereabouts) -> MigrationError {
        MigrationError { name: self.name.clone(), whereabouts, why: Box::new(why) }
    }
}

pub(super) fn refused(side: Side, source: VirtError) -> Why {
    Why::Hypervisor { side, source }
}
