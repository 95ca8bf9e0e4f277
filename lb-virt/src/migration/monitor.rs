//! Watches a migration and steers it: a state machine over samples, without a clock and without a hypervisor.
//!
//! Rounds that no longer shrink are answered in this order, each as far as the [`Policy`] allows it: the machine may stand still for
//! longer (the *downtime ramp*); the hypervisor throttles the guest by itself (*auto-converge*, set before the start); post-copy. A
//! deadline, and a time without coming nearer (a *stall*), end it one way or another.

use std::fmt;
use std::time::Duration;

use super::{Control, Phase, Sample, Settings};

/// What is done with a migration that would not end, or not in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Resort {
    /// The machine stays where it is.
    #[default]
    Cancel,
    /// It runs on the target at once, and fetches what it needs: if the network fails then, it is lost.
    PostCopy,
    /// It stands still until it is over there.
    Stop,
}

impl Resort {
    const fn control(self) -> Control {
        match self {
            Self::Cancel => Control::Cancel,
            Self::PostCopy => Control::PostCopy,
            Self::Stop => Control::Stop,
        }
    }
}

/// How a migration is steered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Policy {
    /// What is set before the start; its `downtime` is where the ramp begins.
    pub settings: Settings,
    /// The longest that the machine may stand still in the end. Default: as at the start, so that there is no ramp.
    pub most_downtime: Option<Duration>,
    /// When it must be over. Default: never.
    pub deadline: Option<Duration>,
    /// What is done then. Default: cancel.
    pub at_deadline: Resort,
    /// How long it may come no nearer. Default: 2 min, within which a ramp and a throttle have done what they can.
    pub stall: Duration,
    /// What is done then. Default: cancel.
    pub at_stall: Resort,
    /// Whether post-copy begins as soon as rounds no longer shrink and the ramp is at its end, instead of at a stall. Default: no.
    pub post_copy_soon: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            most_downtime: None,
            deadline: None,
            at_deadline: Resort::Cancel,
            stall: Duration::from_secs(120),
            at_stall: Resort::Cancel,
            post_copy_soon: false,
        }
    }
}

/// Why a policy can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Post-copy is to be used and was not made ready for.
    #[error("the policy ends in post-copy, and post-copy is not set: set it in settings")]
    PostCopyNotSet,
    /// The ramp would go down.
    #[error(
        "the longest downtime {most:?} is below the one at the start, {start:?}: raise it, or leave it out"
    )]
    Ramp {
        /// The longest.
        most: Duration,
        /// The first.
        start: Duration,
    },
    /// Nothing can be done in no time.
    #[error("the {what} is zero: leave it out, or give it a time")]
    Zero {
        /// What is zero: `downtime`, `deadline`, `stall`.
        what: &'static str,
    },
}

impl Policy {
    /// Whether it can be followed.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let start = self.settings.downtime;
        for (what, time) in
            [("downtime", Some(start)), ("deadline", self.deadline), ("stall", Some(self.stall))]
        {
            if time == Some(Duration::ZERO) {
                return Err(PolicyError::Zero { what });
            }
        }
        if let Some(most) = self.most_downtime.filter(|most| *most < start) {
            return Err(PolicyError::Ramp { most, start });
        }
        let post_copy = self.post_copy_soon || [self.at_deadline, self.at_stall].contains(&Resort::PostCopy);
        if post_copy && !self.settings.post_copy {
            return Err(PolicyError::PostCopyNotSet);
        }
        Ok(())
    }
}

/// Why a migration was steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Reason {
    /// A round was not smaller than the one before.
    NoNearer,
    /// It has come no nearer for the time of a stall.
    Stall,
    /// Its time is over.
    Deadline,
    /// The caller wanted it.
    Asked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNearer => "its rounds no longer shrink",
            Self::Stall => "it came no nearer for too long",
            Self::Deadline => "its time is over",
            Self::Asked => "it was asked for",
        })
    }
}

/// How far a migration is, for whoever looks at it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
pub struct Progress {
    /// What the hypervisor says.
    pub sample: Sample,
    /// How much of all that has to go over has: 0 to 1. It never goes back.
    pub done: f64,
    /// When it will be over, if it goes on so; `None` if that is not to be seen.
    pub left: Option<Duration>,
    /// Whether the last round was smaller than the one before, or there was none yet.
    pub nearer: bool,
}

/// A state machine that watches one migration.
///
/// ```
/// use std::time::Duration;
/// use lb_virt::migration::{Control, Monitor, Phase, Policy, Reason, Sample};
///
/// let policy = Policy { deadline: Some(Duration::from_secs(60)), ..Policy::default() };
/// let mut monitor = Monitor::new(policy)?;
/// let sample = |seconds| Sample {
///     elapsed: Duration::from_secs(seconds),
///     total: 1 << 30,
///     remaining: 1 << 29,
///     ..Sample::new(Phase::PreCopy)
/// };
/// assert_eq!(monitor.observe(&sample(59)), None);
/// assert_eq!(monitor.observe(&sample(60)), Some((Control::Cancel, Reason::Deadline)));
/// # Ok::<(), lb_virt::migration::PolicyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Monitor {
    policy: Policy,
    downtime: Duration,
    /// The least that was ever left, and when.
    low: Option<(u64, Duration)>,
    /// What was left at the beginning of this round and of the one before.
    rounds: u64,
    volume: Option<u64>,
    nearer: bool,
    /// This round has been answered.
    answered: bool,
    done: f64,
    /// A control that ends it was given; nothing follows.
    ending: bool,
}

/// A round that is not at least so much smaller than the one before is no nearer.
const SHRINK: f64 = 0.9;

/// How much longer the machine may stand still, each time.
const RAMP: f64 = 1.5;

impl Monitor {
    /// Follows a policy.
    ///
    /// # Errors
    /// [`Policy::validate`].
    pub fn new(policy: Policy) -> Result<Self, PolicyError> {
        policy.validate()?;
        Ok(Self {
            downtime: policy.settings.downtime,
            policy,
            low: None,
            rounds: 0,
            volume: None,
            nearer: true,
            answered: false,
            done: 0.0,
            ending: false,
        })
    }

    /// Takes a sample, and says what is to be done, and why. Samples may come at any time; more than one a round are needed to see
    /// rounds.
    pub fn observe(&mut self, sample: &Sample) -> Option<(Control, Reason)> {
        self.advance(sample);
        if self.ending || !sample.phase.can_go_back() {
            return None;
        }
        let steered = self.steer(sample)?;
        self.ending |= matches!(steered.0, Control::Cancel | Control::PostCopy | Control::Stop);
        Some(steered)
    }

    /// Notes what was done without the monitor's saying so.
    pub fn was_asked(&mut self, control: Control) {
        match control {
            Control::Downtime(time) => self.downtime = time,
            Control::Bandwidth(_) => self.low = None,
            Control::Cancel | Control::PostCopy | Control::Stop => self.ending = true,
        }
    }

    /// How far it is, by the last sample.
    #[must_use]
    pub fn progress(&self, sample: &Sample) -> Progress {
        let left = match sample.phase {
            Phase::PreCopy if self.nearer && sample.bandwidth > sample.dirty_rate => {
                // What is written while the rest goes over goes over too.
                let net = (sample.bandwidth - sample.dirty_rate) as f64;
                Duration::try_from_secs_f64(sample.remaining as f64 / net).ok()
            }
            Phase::Handover | Phase::PostCopy if sample.bandwidth > 0 => {
                Duration::try_from_secs_f64(sample.remaining as f64 / sample.bandwidth as f64).ok()
            }
            Phase::Completed => Some(Duration::ZERO),
            _ => None,
        };
        Progress { sample: sample.clone(), done: self.done, left, nearer: self.nearer }
    }

    fn advance(&mut self, sample: &Sample) {
        if sample.phase == Phase::Completed {
            self.done = 1.0;
            return;
        }
        if sample.total > 0 {
            let done = 1.0 - sample.remaining as f64 / sample.total as f64;
            self.done = self.done.max(done.clamp(0.0, 0.999));
        }
        if !sample.phase.can_go_back() {
            return;
        }
        let known = sample.total > 0;
        if self.low.is_none_or(|(low, _)| known && sample.remaining < low) {
            let left = if known { sample.remaining } else { u64::MAX };
            self.low = Some((left, sample.elapsed));
        }
        if sample.rounds > self.rounds {
            // What is left at the beginning of a round is all that was written in the one before.
            self.nearer = self.volume.is_none_or(|before| (sample.remaining as f64) < SHRINK * before as f64);
            self.answered = false;
            self.volume = Some(sample.remaining);
            self.rounds = sample.rounds;
            if !self.nearer {
                return;
            }
            // A smaller round is nearer, though its first sample may be above the last one's lowest.
            self.low = Some((sample.remaining, sample.elapsed));
        }
    }

    fn steer(&mut self, sample: &Sample) -> Option<(Control, Reason)> {
        let stalls = sample.elapsed.saturating_sub(self.low.map_or(Duration::ZERO, |(_, since)| since))
            >= self.policy.stall;
        if sample.phase == Phase::Handover {
            // It stands still already, and will be over in a moment, unless the target does not answer.
            return stalls.then_some((Control::Cancel, Reason::Stall));
        }
        if self.policy.deadline.is_some_and(|deadline| sample.elapsed >= deadline) {
            return Some((self.policy.at_deadline.control(), Reason::Deadline));
        }
        if stalls {
            return Some((self.policy.at_stall.control(), Reason::Stall));
        }
        if self.nearer || std::mem::replace(&mut self.answered, true) {
            return None;
        }
        let most = self.policy.most_downtime.unwrap_or(self.downtime);
        if self.downtime < most {
            self.downtime = self.downtime.mul_f64(RAMP).min(most);
            return Some((Control::Downtime(self.downtime), Reason::NoNearer));
        }
        self.policy.post_copy_soon.then_some((Control::PostCopy, Reason::NoNearer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TOTAL: u64 = 1024 * MIB;

    fn sample(seconds: u64, rounds: u64, remaining: u64) -> Sample {
        Sample {
            elapsed: Duration::from_secs(seconds),
            total: TOTAL,
            remaining,
            rounds,
            bandwidth: 100 * MIB,
            ..Sample::new(Phase::PreCopy)
        }
    }

    /// What a policy does with these samples, with the second of each.
    fn follow(policy: Policy, samples: impl IntoIterator<Item = Sample>) -> Vec<(u64, Control, Reason)> {
        let mut monitor = Monitor::new(policy).unwrap();
        samples
            .into_iter()
            .filter_map(|sample| {
                let (control, reason) = monitor.observe(&sample)?;
                Some((sample.elapsed.as_secs(), control, reason))
            })
            .collect()
    }

    /// Rounds of ten seconds whose volumes are a constant part of the one before.
    fn rounds(shrink: f64) -> impl Iterator<Item = Sample> {
        (0..200).map(move |second| {
            let round = second / 10;
            let volume = TOTAL as f64 * shrink.powi(round as i32);
            let left = volume * (1.0 - (second % 10) as f64 / 10.0);
            sample(second, round, left as u64)
        })
    }

    #[test]
    fn what_shrinks_is_left_alone() {
        let policy = Policy { most_downtime: Some(Duration::from_secs(2)), ..Policy::default() };
        assert_eq!(follow(policy, rounds(0.5)), []);
    }

    #[test]
    fn what_does_not_shrink_may_stand_still_longer_and_longer_and_then_it_stalls() {
        let policy = Policy {
            most_downtime: Some(Duration::from_secs(1)),
            stall: Duration::from_secs(60),
            ..Policy::default()
        };
        let ms = |ms| Control::Downtime(Duration::from_millis(ms));
        let steered = follow(policy, rounds(1.0));
        assert_eq!(
            steered,
            [
                (20, ms(450), Reason::NoNearer),
                (30, ms(675), Reason::NoNearer),
                (
                    40,
                    Control::Downtime(Duration::from_micros(1_012_500).min(Duration::from_secs(1))),
                    Reason::NoNearer
                ),
                (79, Control::Cancel, Reason::Stall),
            ]
        );
    }

    #[test]
    fn post_copy_begins_when_the_ramp_is_at_its_end() {
        let settings = Settings { post_copy: true, ..Settings::default() };
        let policy = Policy { settings, post_copy_soon: true, ..Policy::default() };
        assert_eq!(follow(policy, rounds(1.0)), [(20, Control::PostCopy, Reason::NoNearer)]);
    }

    #[test]
    fn a_silent_network_is_a_stall_and_a_deadline_comes_first() {
        let silent = |samples: u64| (0..samples).map(|second| sample(second, 0, TOTAL / 2));
        let policy = Policy { stall: Duration::from_secs(30), at_stall: Resort::Stop, ..Policy::default() };
        assert_eq!(follow(policy.clone(), silent(100)), [(30, Control::Stop, Reason::Stall)]);
        let policy = Policy { deadline: Some(Duration::from_secs(10)), ..policy };
        assert_eq!(follow(policy, silent(100)), [(10, Control::Cancel, Reason::Deadline)]);
        // Setup that never ends is a stall too, though nothing is known of it.
        let setup = (0..200)
            .map(|second| Sample { elapsed: Duration::from_secs(second), ..Sample::new(Phase::Setup) });
        assert_eq!(follow(Policy::default(), setup), [(120, Control::Cancel, Reason::Stall)]);
    }

    #[test]
    fn a_target_that_does_not_answer_at_the_end_is_a_stall() {
        let policy = Policy { stall: Duration::from_secs(3), at_stall: Resort::Stop, ..Policy::default() };
        let handover = |second| Sample { phase: Phase::Handover, ..sample(second, 3, 4096) };
        let steered = follow(policy, (0..9).map(handover));
        assert_eq!(steered, [(3, Control::Cancel, Reason::Stall)], "it stands still already");
    }

    #[test]
    fn what_has_ended_is_not_steered() {
        let policy = Policy { deadline: Some(Duration::from_secs(1)), ..Policy::default() };
        for phase in [Phase::Handover, Phase::PostCopy, Phase::Completed, Phase::Cancelled] {
            let late = Sample { elapsed: Duration::from_secs(9), ..Sample::new(phase) };
            assert_eq!(follow(policy.clone(), [late]), []);
        }
        let mut monitor = Monitor::new(policy).unwrap();
        monitor.was_asked(Control::Cancel);
        assert_eq!(monitor.observe(&sample(9, 0, 1)), None);
    }

    #[test]
    fn progress_never_goes_back() {
        let mut monitor = Monitor::new(Policy::default()).unwrap();
        let mut done = 0.0;
        for sample in rounds(0.6) {
            monitor.observe(&sample);
            let progress = monitor.progress(&sample);
            assert!(progress.done >= done && progress.done < 1.0);
            done = progress.done;
        }
        assert!(done > 0.9);
        let end = Sample::new(Phase::Completed);
        monitor.observe(&end);
        assert_eq!((monitor.progress(&end).done, monitor.progress(&end).left), (1.0, Some(Duration::ZERO)));
    }

    #[test]
    fn policies_that_contradict_themselves_are_refused() {
        let zero = Duration::ZERO;
        let post_copy = Policy { at_stall: Resort::PostCopy, ..Policy::default() };
        let ramp = Policy { most_downtime: Some(Duration::from_millis(1)), ..Policy::default() };
        for (policy, words) in [
            (post_copy, "post-copy is not set: set it in settings"),
            (ramp, "below the one at the start, 300ms"),
            (Policy { stall: zero, ..Policy::default() }, "the stall is zero"),
            (Policy { deadline: Some(zero), ..Policy::default() }, "the deadline is zero"),
        ] {
            let error = Monitor::new(policy).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
