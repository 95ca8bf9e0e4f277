//! The course of one migration: what is done next, whatever happened, so that one copy runs in the end and only one.
//!
//! The rules that make it so:
//!
//! 1. A target's copy runs only when it is told to, and is told only after the source's was given up for good.
//! 2. A source's copy goes on only after the target's was given up, or can't be whole, or was never told to run.
//! 3. Who does not answer is not dead. Nothing is decided then, and both copies stand still or go on as before.
//! 4. A copy that has begun to run before it was whole (post-copy) is the machine, and what it lacks is the source's: neither is
//!    touched until all has gone over.
//! 5. Another machine of the same name is not this one: what is deleted, given up or booted has its identity.

use std::time::{Duration, Instant};

use super::estimate::Estimate;
use super::migrate::{IfLost, Migration, MigrationError, Report, Side, Whereabouts, Why, refused};
use super::monitor::{Monitor, Progress, Reason};
use super::{Conclusion, Control, Phase, Sample};
use crate::domain::DomainSpec;
use crate::error::VirtError;
use crate::hypervisor::Hypervisor;
use crate::state::State;

/// A migration on its way.
pub(super) struct Course<'a> {
    pub(super) migration: &'a Migration,
    pub(super) source: &'a mut dyn Hypervisor,
    pub(super) target: &'a mut dyn Hypervisor,
    pub(super) monitor: Monitor,
    pub(super) estimate: Option<Estimate>,
    /// The machine, should it have to be defined anew.
    pub(super) spec: DomainSpec,
    /// What the copy that is kept does then.
    pub(super) conclusion: Conclusion,
    pub(super) steered: Vec<(Duration, Control, Reason)>,
    /// Whether the target's copy has begun to run, or was asked to: the source's is old then.
    pub(super) post_copied: bool,
    pub(super) begun: Instant,
}

/// What the target has.
enum Copy {
    /// All of it; it stands still.
    Whole,
    /// All of it, and it was told to run before.
    Runs,
    /// Less than all of it, or nothing: it was never told to run.
    Broken(String),
    /// It has begun to run with less than all of it: no other can go on.
    Torn,
    /// It does not answer.
    Silent(VirtError),
}

/// What the source has.
enum Origin {
    /// A machine that is active.
    Active,
    /// One that has ended, or none.
    Ended(State),
    /// It does not answer.
    Silent,
}

/// For how long something is waited for: so much time, and so many looks, for a simulated host's clock is another.
struct Patience {
    /// `None`: for ever.
    end: Option<Instant>,
    looks: u32,
    looked: bool,
}

impl Patience {
    fn of(migration: &Migration) -> Self {
        Self { end: Instant::now().checked_add(migration.patience), looks: migration.looks(), looked: false }
    }

    /// One look more; whether it was the last. The first never is.
    fn is_over(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.looked, true);
        let over = self.looks == 0 || self.end.is_some_and(|end| Instant::now() >= end);
        self.looks = self.looks.saturating_sub(1);
        over && !first
    }
}

const fn is_gone(error: &VirtError) -> bool {
    matches!(error, VirtError::NoMachine { .. })
}

/// Whether a host's machine of this name is this one.
pub(super) fn is_same(host: &mut dyn Hypervisor, spec: &DomainSpec) -> Result<bool, VirtError> {
    Ok(host.spec(&spec.name)?.uuid == spec.uuid)
}

impl<'a> Course<'a> {
    /// Of a machine that runs, now.
    pub(super) fn new(
        migration: &'a Migration,
        source: &'a mut dyn Hypervisor,
        target: &'a mut dyn Hypervisor,
        monitor: Monitor,
        spec: DomainSpec,
    ) -> Self {
        Self {
            migration,
            source,
            target,
            monitor,
            estimate: None,
            spec,
            conclusion: Conclusion::Run,
            steered: Vec::new(),
            post_copied: false,
            begun: Instant::now(),
        }
    }

    /// Lets the target wait, and the source send.
    pub(super) fn begin(&mut self, running: &DomainSpec) -> Result<(), MigrationError> {
        let (name, via) = (&self.migration.name, &self.migration.via);
        let to = match self.target.receive(running, &self.spec, via) {
            Ok(to) => to,
            // That one is not of this migration.
            Err(error @ (VirtError::MachineExists { .. } | VirtError::UuidTaken { .. })) => {
                return Err(self.migration.stays(refused(Side::Target, error)));
            }
            Err(error) => return Err(self.back(refused(Side::Target, error))),
        };
        let settings = &self.migration.policy.settings;
        self.source.send(name, &to, settings).map_err(|error| self.back(refused(Side::Source, error)))
    }

    /// Watches and steers to the end.
    pub(super) fn follow(
        mut self,
        mut watch: impl FnMut(&Progress) -> Option<Control>,
    ) -> Result<Report, MigrationError> {
        // What should have changed by now and has not.
        let (mut silent, mut cancelling, mut stalled) = (None, None, None);
        let migration = self.migration;
        let patience = || Patience::of(migration);
        // Of a post-copy: what had gone over, and when that was more than before.
        let mut reached: Option<(u64, Duration)> = None;
        loop {
            let sample = match self.source.migration(&self.migration.name, self.migration.every) {
                Ok(Some(sample)) => sample,
                Ok(None) => return self.without_source(Why::NotMoving),
                Err(error) if is_gone(&error) || silent.get_or_insert_with(patience).is_over() => {
                    return self.without_source(refused(Side::Source, error));
                }
                Err(_) => {
                    std::thread::sleep(self.migration.every);
                    continue;
                }
            };
            silent = None;
            self.post_copied |= sample.post_copied;
            let steered = self.monitor.observe(&sample);
            let asked = watch(&self.monitor.progress(&sample)).map(|control| (control, Reason::Asked));
            if asked.is_some_and(|(control, _)| control == Control::Cancel) {
                cancelling.get_or_insert_with(|| (patience(), Reason::Asked));
            }
            if let Some((control, reason)) = asked.or(steered) {
                let done = self.steer(sample.elapsed, control, reason);
                if control == Control::Cancel || !done {
                    cancelling.get_or_insert_with(|| (patience(), reason));
                }
            }
            match sample.phase {
                Phase::Completed => return self.complete(sample),
                Phase::Failed(words) => return Err(self.back(Why::Failed(words))),
                Phase::Cancelled => {
                    let reason = cancelling.map_or(Reason::Asked, |(_, reason)| reason);
                    return Err(self.back(Why::Cancelled(reason)));
                }
                Phase::PostCopy => {
                    // The copy that is to run has a host of its own, which looks now.
                    let there = self.target.migration(&self.migration.name, Duration::ZERO);
                    let broken = matches!(there, Ok(Some(Sample { phase: Phase::Stalled, .. })));
                    let (_, since) = *reached.insert(
                        reached
                            .filter(|(most, _)| *most >= sample.transferred)
                            .unwrap_or((sample.transferred, sample.elapsed)),
                    );
                    // One side is told sooner than the other, and of a network that says nothing neither is.
                    if !broken {
                        stalled = None;
                    }
                    if sample.elapsed.saturating_sub(since) >= self.migration.policy.stall
                        || broken && stalled.get_or_insert_with(patience).is_over()
                    {
                        return Err(self.stalls());
                    }
                }
                Phase::Stalled if stalled.get_or_insert_with(patience).is_over() => return Err(self.stalls()),
                _ => {}
            }
            if let Some((patience, reason)) = &mut cancelling
                && patience.is_over()
            {
                let why = Why::Cancelled(*reason);
                return Err(self.back(why));
            }
        }
    }

    /// Whether the connection of a post-copy is broken: one side says so, or nothing goes over it for a while.
    fn is_broken(&mut self) -> Result<bool, MigrationError> {
        let name = &self.migration.name;
        let mut patience = Patience::of(self.migration);
        let mut before = None;
        loop {
            let sample = match self.source.migration(name, self.migration.every) {
                Ok(Some(sample)) if sample.phase == Phase::Stalled => return Ok(true),
                Ok(Some(sample)) if sample.phase == Phase::PostCopy => sample,
                // It has gone on, or is no more, which is told while it is followed.
                Err(error) if !is_gone(&error) => {
                    if patience.is_over() {
                        let why = refused(Side::Source, error);
                        return Err(self.migration.fails(why, Whereabouts::On(Side::Target)));
                    }
                    std::thread::sleep(self.migration.every);
                    continue;
                }
                _ => return Ok(false),
            };
            if sample.transferred > *before.get_or_insert(sample.transferred) {
                return Ok(false);
            }
            let sent_all = sample.total > 0 && sample.remaining == 0;
            let there = self.target.migration(name, Duration::ZERO);
            if !sent_all && matches!(there, Ok(Some(Sample { phase: Phase::Stalled, .. }))) {
                return Ok(true);
            }
            if patience.is_over() {
                if !sent_all {
                    return Ok(true);
                }
                let mut error = self.stalls();
                if matches!(*error.why, Why::Stalled) {
                    *error.why = Why::AllSent;
                }
                return Err(error);
            }
        }
    }

    /// Connects both sides of a post-copy anew, if its connection is broken.
    pub(super) fn reconnect(&mut self) -> Result<(), MigrationError> {
        let name = self.migration.name.clone();
        let broken = match self.source.migration(&name, Duration::ZERO) {
            Ok(Some(Sample { phase: Phase::Stalled, .. })) => true,
            Ok(Some(Sample { phase: Phase::PostCopy, .. })) => self.is_broken()?,
            _ => false,
        };
        if !broken {
            return Ok(());
        }
        if is_same(self.target, &self.spec).is_ok_and(|same| !same) {
            return Err(self.stalls());
        }
        let to = match self.target.receive_rest(&name, &self.migration.via) {
            Ok(to) => to,
            Err(VirtError::NoMachine { .. } | VirtError::NotMoving { .. }) => return Err(self.stalls()),
            Err(error) => {
                return Err(self
                    .migration
                    .fails(refused(Side::Target, error), Whereabouts::On(Side::Target)));
            }
        };
        let sent = self.source.send_rest(&name, &to);
        sent.map_err(|error| {
            self.migration.fails(refused(Side::Source, error), Whereabouts::On(Side::Target))
        })
    }

    /// Each side has what the other lacks, and they do not reach each other: neither is touched.
    fn stalls(&mut self) -> MigrationError {
        let (state, same) = (self.target.state(&self.migration.name), is_same(self.target, &self.spec));
        let (why, whereabouts) = match (state, same) {
            (Ok(_), Ok(false)) => (Why::TargetLost(State::NoState), Whereabouts::Nowhere),
            (Ok(state), _) if state.is_active() => (Why::Stalled, Whereabouts::On(Side::Target)),
            (Ok(state), _) => (Why::TargetLost(state), Whereabouts::Nowhere),
            (Err(error), _) if is_gone(&error) => (Why::TargetLost(State::NoState), Whereabouts::Nowhere),
            (Err(_), _) => (Why::Stalled, Whereabouts::Unknown),
        };
        self.migration.fails(why, whereabouts)
    }

    /// Steers, and notes it; whether that was done. What must end the migration and can't be done is made good by cancelling it.
    fn steer(&mut self, when: Duration, control: Control, reason: Reason) -> bool {
        self.monitor.was_asked(control);
        self.post_copied |= control == Control::PostCopy;
        match self.source.control_migration(&self.migration.name, control) {
            Ok(()) => self.steered.push((when, control, reason)),
            // It has ended meanwhile: the next sample shows it.
            Err(VirtError::NotMoving { .. }) => {}
            // The machine may stand still no longer than before: that is as good as it gets.
            Err(_) if matches!(control, Control::Downtime(_) | Control::Bandwidth(_)) => {}
            Err(_) => {
                let _ = self.source.control_migration(&self.migration.name, Control::Cancel);
                return false;
            }
        }
        true
    }

    /// The source has sent all: it is given up, and the target runs.
    fn complete(mut self, sample: Sample) -> Result<Report, MigrationError> {
        let name = &self.migration.name;
        let why = match self.copy() {
            Copy::Runs => return self.already_runs(Some(sample)),
            Copy::Whole => match self.source.conclude(name, Conclusion::GiveUp) {
                Ok(()) => return self.run_target(Some(sample)),
                Err(error) if is_gone(&error) => return self.run_target(Some(sample)),
                // It may be given up, or not: ask, and decide nothing if there is no answer.
                Err(error) => match self.origin() {
                    Origin::Ended(_) => return self.run_target(Some(sample)),
                    Origin::Active => refused(Side::Source, error),
                    Origin::Silent => {
                        let why = refused(Side::Source, error);
                        return Err(self.migration.fails(why, Whereabouts::Unknown));
                    }
                },
            },
            Copy::Broken(words) => Why::Failed(words),
            Copy::Torn => return Err(self.stalls()),
            Copy::Silent(error) => refused(Side::Target, error),
        };
        Err(self.back(why))
    }

    /// The source's copy is given up, or gone, and the target's is whole.
    fn run_target(mut self, sample: Option<Sample>) -> Result<Report, MigrationError> {
        let name = self.migration.name.clone();
        let mut patience = Patience::of(self.migration);
        while !patience.is_over() {
            let error = match self.target.conclude(&name, self.conclusion) {
                Ok(()) => return Ok(self.report(sample)),
                Err(error) => error,
            };
            match self.target.migration(&name, Duration::ZERO) {
                // Told before, or told now and the answer was lost.
                Ok(None) => match self.target.state(&name) {
                    Ok(state) if state.is_active() => return Ok(self.report(sample)),
                    Ok(_) => return Err(self.lost(refused(Side::Target, error))),
                    Err(error) if is_gone(&error) => return Err(self.lost(refused(Side::Target, error))),
                    Err(_) => {}
                },
                Err(error) if is_gone(&error) => return Err(self.lost(refused(Side::Target, error))),
                _ => {}
            }
            std::thread::sleep(self.migration.every);
        }
        let why =
            Why::Failed("the target's copy is whole, the source's is given up, and it was not run".into());
        Err(self.migration.fails(why, Whereabouts::Unknown))
    }

    /// The source does not know of a migration: the machine goes on there, or has ended there.
    fn without_source(mut self, why: Why) -> Result<Report, MigrationError> {
        let ended = match self.origin() {
            Origin::Active => return Err(self.back(why)),
            Origin::Silent => return Err(self.migration.fails(why, Whereabouts::Unknown)),
            Origin::Ended(state) => state,
        };
        match self.copy() {
            Copy::Runs => self.already_runs(None),
            Copy::Whole => {
                self.forget_source();
                self.run_target(None)
            }
            Copy::Torn => {
                // What is left there is no machine, and must not be started beside this one.
                self.forget_source();
                Err(self.migration.fails(Why::SourceLost, Whereabouts::On(Side::Target)))
            }
            // It may have been told to run before.
            Copy::Silent(error) => {
                Err(self.migration.fails(refused(Side::Target, error), Whereabouts::Unknown))
            }
            Copy::Broken(_) => {
                // Its copy is not whole, and was never told to run.
                self.forget_target();
                let why = Why::Ended(ended);
                // A guest that has shut down meanwhile is not lost.
                if ended == State::ShutOff {
                    return Err(self.migration.fails(why, Whereabouts::Nowhere));
                }
                Err(self.lost(why))
            }
        }
    }

    /// The target's copy was told to run before.
    fn already_runs(mut self, sample: Option<Sample>) -> Result<Report, MigrationError> {
        self.forget_source();
        Ok(self.report(sample))
    }

    /// What is left on the source must not start again there.
    fn forget_source(&mut self) {
        let name = &self.migration.name;
        if let Err(VirtError::NotMoving { .. }) = self.source.conclude(name, Conclusion::GiveUp) {
            let _ = self.source.delete(name);
        }
    }

    /// A copy that waits there is not needed.
    fn forget_target(&mut self) {
        if !matches!(is_same(self.target, &self.spec), Ok(false)) {
            let _ = self.target.conclude(&self.spec.name, Conclusion::GiveUp);
        }
    }

    /// The machine stays where it was: the target's copy is given up, and the source's goes on.
    fn back(&mut self, why: Why) -> MigrationError {
        let name = &self.migration.name;
        if let Err(whereabouts) = self.cancel() {
            return self.migration.fails(why, whereabouts);
        }
        // A copy that waits where nobody answers was never told to run.
        self.forget_target();
        match self.source.conclude(name, self.conclusion) {
            Ok(()) | Err(VirtError::NotMoving { .. }) => {}
            Err(error) if is_gone(&error) => return self.lost(why),
            Err(_) => {}
        }
        match self.origin() {
            Origin::Active if self.stands() => self.migration.fails(why, Whereabouts::Unknown),
            Origin::Active => self.migration.stays(why),
            Origin::Ended(State::ShutOff) => self.migration.fails(why, Whereabouts::Nowhere),
            Origin::Ended(_) => self.lost(why),
            Origin::Silent => self.migration.fails(why, Whereabouts::Unknown),
        }
    }

    /// Ends the transfer if it is under way; if there is no way back, says where the machine is.
    fn cancel(&mut self) -> Result<(), Whereabouts> {
        let name = &self.migration.name;
        let (mut asked, mut known) = (false, false);
        let mut patience = Patience::of(self.migration);
        let mut wait = Duration::ZERO;
        while !patience.is_over() {
            let wait = std::mem::replace(&mut wait, self.migration.every);
            let sample = match self.source.migration(name, wait) {
                Ok(Some(sample)) => sample,
                Ok(None) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(_) => continue,
            };
            known = true;
            match sample.phase {
                _ if sample.post_copied => return Err(Whereabouts::On(Side::Target)),
                phase if phase.has_ended() => return Ok(()),
                _ if asked => {}
                _ => asked = self.source.control_migration(name, Control::Cancel).is_ok(),
            }
        }
        // Without its target it will fail, unless it has begun to run there.
        if asked || known && !self.post_copied { Ok(()) } else { Err(Whereabouts::Unknown) }
    }

    /// Whether a copy that should go on stands still.
    fn stands(&mut self) -> bool {
        self.conclusion == Conclusion::Run
            && self.source.state(&self.migration.name).is_ok_and(|state| state == State::Paused)
    }

    /// The copy that ran is no more.
    fn lost(&mut self, why: Why) -> MigrationError {
        let whereabouts = match self.migration.if_lost {
            IfLost::LeaveOff => Whereabouts::Nowhere,
            IfLost::RestartOnSource => restart(self.source, Side::Source, &self.spec),
            IfLost::RestartOnTarget => self.restart_on_target(),
        };
        self.migration.fails(why, whereabouts)
    }

    /// Defined there before it is gone here, and gone here before it is booted there.
    fn restart_on_target(&mut self) -> Whereabouts {
        let name = &self.spec.name;
        let defined = define(self.target, &self.spec);
        if defined.is_ok() {
            match self.source.delete(name) {
                Ok(()) => return restart(self.target, Side::Target, &self.spec),
                Err(error) if is_gone(&error) => return restart(self.target, Side::Target, &self.spec),
                Err(_) => {
                    let _ = self.target.delete(name);
                }
            }
        }
        match self.source.state(name) {
            // Its own crash action has booted it.
            Ok(state) if state.is_active() => Whereabouts::RestartedOn(Side::Source),
            Ok(_) => Whereabouts::Nowhere,
            Err(error) if is_gone(&error) => Whereabouts::Nowhere,
            Err(_) => Whereabouts::Unknown,
        }
    }

    /// What the target has; waits for it to say so.
    fn copy(&mut self) -> Copy {
        let name = &self.migration.name;
        let mut patience = Patience::of(self.migration);
        let mut torn = false;
        loop {
            let error = match self.target.migration(name, self.migration.every) {
                Ok(Some(Sample { phase: Phase::Completed, .. })) => return Copy::Whole,
                Ok(Some(Sample { phase: Phase::Failed(words), .. })) => return Copy::Broken(words),
                Ok(Some(Sample { phase: Phase::Cancelled, .. })) => return Copy::Broken("cancelled".into()),
                Ok(Some(Sample { phase: Phase::PostCopy | Phase::Stalled, .. })) => {
                    torn = true;
                    None
                }
                Ok(Some(_)) => None,
                Ok(None) => match (self.target.state(name), is_same(self.target, &self.spec)) {
                    (Ok(_), Ok(false)) => {
                        return Copy::Broken("the target has another machine of this name".into());
                    }
                    (Ok(state), Ok(true)) if state.is_active() => return Copy::Runs,
                    (Ok(state), Ok(true)) => {
                        return Copy::Broken(format!("the copy on the target is {state}"));
                    }
                    (Err(error), _) | (_, Err(error)) if is_gone(&error) => {
                        return Copy::Broken(error.to_string());
                    }
                    (Err(error), _) | (_, Err(error)) => Some(error),
                },
                Err(error) if is_gone(&error) => return Copy::Broken(error.to_string()),
                Err(error) => Some(error),
            };
            if patience.is_over() {
                if torn {
                    return Copy::Torn;
                }
                let incomplete = || Copy::Broken("the target's copy is not whole".into());
                return error.map_or_else(incomplete, Copy::Silent);
            }
            if error.is_some() {
                std::thread::sleep(self.migration.every);
            }
        }
    }

    /// What the source has.
    fn origin(&mut self) -> Origin {
        match self.source.state(&self.migration.name) {
            Ok(state) if state.is_active() => Origin::Active,
            Ok(state) => Origin::Ended(state),
            Err(error) if is_gone(&error) => Origin::Ended(State::NoState),
            Err(_) => Origin::Silent,
        }
    }

    fn report(&mut self, sample: Option<Sample>) -> Report {
        Report {
            sample,
            estimate: self.estimate,
            took: self.begun.elapsed(),
            steered: std::mem::take(&mut self.steered),
        }
    }
}

/// Defines a machine where it may be defined already.
fn define(host: &mut dyn Hypervisor, spec: &DomainSpec) -> Result<(), VirtError> {
    match host.define(spec) {
        Err(error @ VirtError::MachineExists { .. }) => match is_same(host, spec) {
            Ok(true) => Ok(()),
            Err(silent) if !is_gone(&silent) => Err(silent),
            _ => Err(error),
        },
        other => other,
    }
}

/// Boots a machine anew.
fn restart(host: &mut dyn Hypervisor, side: Side, spec: &DomainSpec) -> Whereabouts {
    let started = define(host, spec).and_then(|()| host.start(&spec.name));
    match (started, host.state(&spec.name)) {
        (Ok(()), _) => Whereabouts::RestartedOn(side),
        // Another machine has its name, or its identity.
        (Err(VirtError::MachineExists { .. } | VirtError::UuidTaken { .. }), _) => Whereabouts::Nowhere,
        // Its own crash action has done so.
        (Err(VirtError::State { .. }), Ok(state)) if state.is_active() => Whereabouts::RestartedOn(side),
        (Err(_), Ok(state)) if !state.is_active() => Whereabouts::Nowhere,
        (Err(_), Err(error)) if is_gone(&error) => Whereabouts::Nowhere,
        _ => Whereabouts::Unknown,
    }
}
