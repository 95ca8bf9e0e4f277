//! The health of one server as active checks see it: rise, fall, and when to look again.
//!
//! [`Checker`] is a state machine without I/O. Verdicts of probes go in, each with its moment; out come the moment of
//! the next probe and, at a change, a [`Transition`] with its cause. The words and the defaults are HAProxy's
//! (`rise 2 fall 3 inter 2s fastinter downinter`, `spread-checks`, `observe`, `error-limit`, `on-error`,
//! `init-state`).
//!
//! ```text
//!          fall failures in a row, or errors of traffic
//!        ┌──────────────────────────────────────────────┐
//!      ┌─┴┐  Falling: fast_interval                    ┌▼───┐
//!      │Up│                                            │Down│ held, if it flaps
//!      └▲─┘                    Rising: fast_interval   └─┬──┘
//!        └──────────────────────────────────────────────┘
//!          rise passes in a row, and the hold is over
//! ```

use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use super::flapping::{Damper, Flapping};
use super::spread::Spread;
use super::{ConfigError, Observe, OnError};
use crate::clock::Timestamp;

/// How often to look at a server, and how many verdicts in a row change its state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Config {
    /// Passes in a row that bring a server up. At least 1, default 2.
    pub rise: u32,
    /// Failures in a row that take a server down. At least 1, default 3.
    pub fall: u32,
    /// The pause from the end of a probe to the next, while nothing changes. Above 0, default 2 s. Counted from
    /// the end, so that probes of one server never overlap however long they take.
    #[cfg_attr(feature = "serde", serde(with = "super::duration"))]
    pub interval: Duration,
    /// The pause while the state is in question: after the first contrary verdict, and before the first verdict of all.
    /// Default: `interval`.
    #[cfg_attr(
        feature = "serde",
        serde(with = "super::duration::option", skip_serializing_if = "Option::is_none")
    )]
    pub fast_interval: Option<Duration>,
    /// The pause while the server is down. Default: `interval`.
    #[cfg_attr(
        feature = "serde",
        serde(with = "super::duration::option", skip_serializing_if = "Option::is_none")
    )]
    pub down_interval: Option<Duration>,
    /// By how much a pause may differ from the one configured, in percent of it, from 0 to 50. Default 0.
    pub spread: u8,
    /// What to believe before the first verdict.
    pub initial: Initial,
    /// Whether the outcome of ordinary requests counts. Default: no.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub observe: Option<Observe>,
    /// Whether a server that falls again and again is held down. Default: no.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub flapping: Option<Flapping>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rise: 2,
            fall: 3,
            interval: Duration::from_secs(2),
            fast_interval: None,
            down_interval: None,
            spread: 0,
            initial: Initial::Up,
            observe: None,
            flapping: None,
        }
    }
}

impl Config {
    fn validate(&self) -> Result<(), ConfigError> {
        for (name, count) in [("rise", self.rise), ("fall", self.fall)] {
            if count == 0 {
                return Err(ConfigError::out_of_range(name, count, "at least 1"));
            }
        }
        let intervals = [
            ("interval", Some(self.interval)),
            ("fast_interval", self.fast_interval),
            ("down_interval", self.down_interval),
        ];
        for (name, interval) in intervals {
            if interval.is_some_and(|interval| interval.is_zero()) {
                return Err(ConfigError::out_of_range(name, "0s", "longer than 0"));
            }
        }
        if self.spread > 50 {
            return Err(ConfigError::out_of_range("spread", self.spread, "from 0 to 50 percent"));
        }
        if let Some(observe) = &self.observe {
            observe.validate()?;
        }
        self.flapping.as_ref().map_or(Ok(()), Flapping::validate)
    }
}

/// What to believe of a server before its first verdict; HAProxy's `init-state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Initial {
    /// Up; goes down after `fall` failures.
    FullyUp,
    /// Up until proven otherwise: the first verdict, if it is a failure, takes it down. HAProxy's default.
    #[default]
    Up,
    /// Down until the first pass.
    Down,
    /// Down until `rise` passes.
    FullyDown,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server answered as it should.
    Pass,
    /// It did not, for this reason.
    Fail(String),
}

impl<T, E: fmt::Display> From<Result<T, E>> for Verdict {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Pass,
            Err(error) => Self::Fail(error.to_string()),
        }
    }
}

/// Why a server went down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Checks failed.
    Checks {
        /// How many in a row.
        failures: u32,
        /// What the last one found.
        last: String,
    },
    /// Ordinary requests failed, and [`OnError`] let that be enough.
    Traffic {
        /// How many in a row.
        errors: u32,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checks { failures: 1, last } => write!(f, "a check failed: {last}"),
            Self::Checks { failures, last } => {
                write!(f, "{failures} checks in a row failed, the last: {last}")
            }
            Self::Traffic { errors } => write!(f, "{errors} requests in a row failed"),
        }
    }
}

/// A server came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transition {
    /// It takes work again.
    Up {
        /// When.
        at: Timestamp,
    },
    /// It takes no more work.
    Down {
        /// When.
        at: Timestamp,
        /// Why.
        cause: Cause,
        /// It flaps, and does not come up before this moment.
        held_until: Option<Timestamp>,
    },
}

impl Transition {
    /// Whether the server is up after it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Up { at } | Self::Down { at, .. } => *at,
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { .. } => f.write_str("up"),
            Self::Down { cause, held_until: None, .. } => write!(f, "down: {cause}"),
            Self::Down { at, cause, held_until: Some(end) } => {
                write!(f, "down: {cause}; it flaps, so it is held down for {:?}", end.saturating_since(*at))
            }
        }
    }
}

/// Where a server stands between up and down, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Up, and the last verdict was a pass.
    Up,
    /// Up, with failures in a row.
    Falling {
        /// How many so far.
        failures: u32,
        /// How many take it down.
        of: u32,
    },
    /// Down, and the last verdict was a failure.
    Down,
    /// Down, with passes in a row.
    Rising {
        /// How many so far.
        passes: u32,
        /// How many bring it up.
        of: u32,
    },
    /// Down, and held there because it flaps.
    Held {
        /// The end of the hold.
        until: Timestamp,
    },
}

/// `UP`, `UP 1/3`, `DOWN`, `DOWN 1/2`, `HELD`: HAProxy's way, where the fraction counts contrary verdicts.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("UP"),
            Self::Falling { failures, of } => write!(f, "UP {failures}/{of}"),
            Self::Down => f.write_str("DOWN"),
            Self::Rising { passes, of } => write!(f, "DOWN {passes}/{of}"),
            Self::Held { .. } => f.write_str("HELD"),
        }
    }
}

/// The state machine of one server's checks. See the [module](self).
///
/// ```
/// use lb_core::clock::Timestamp;
/// use lb_core::health::{Checker, Config, Verdict};
///
/// let mut now = Timestamp::ZERO;
/// let mut checker = Checker::new(Config { rise: 2, fall: 2, ..Config::default() }, now, 1)?;
/// assert!(checker.is_up());
/// for verdict in [Verdict::Pass, Verdict::Fail("refused".into()), Verdict::Fail("refused".into())] {
///     now = checker.next_probe();
///     if let Some(transition) = checker.record(now, verdict) {
///         assert_eq!(transition.to_string(), "down: 2 checks in a row failed, the last: refused");
///     }
/// }
/// assert!(!checker.is_up());
/// # Ok::<(), lb_core::health::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checker {
    config: Config,
    up: bool,
    /// Verdicts in a row that contradict `up`, never more than it takes to change it.
    contrary: u32,
    /// How many of them were seen, and not merely assumed at the beginning or after errors of traffic.
    seen: u32,
    /// Whether a probe has given a verdict yet.
    proven: bool,
    /// Failed requests in a row, while up.
    errors: u32,
    /// When `up` last changed.
    since: Timestamp,
    held_until: Option<Timestamp>,
    last_failure: Option<String>,
    damper: Option<Damper>,
    spread: Spread,
    next_probe: Timestamp,
}

impl Checker {
    /// A checker that begins at `now`. Its first probe is due within one fast interval, at a moment that `seed`
    /// chooses; so with another seed for each server (its number will do) a thousand of them spread.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] when a number lies outside the range that [`Config`] gives for it.
    pub fn new(config: Config, now: Timestamp, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let (up, contrary) = match config.initial {
            Initial::FullyUp => (true, 0),
            Initial::Up => (true, config.fall - 1),
            Initial::Down => (false, config.rise - 1),
            Initial::FullyDown => (false, 0),
        };
        let mut spread = Spread::new(seed);
        let next_probe = now + spread.up_to(config.fast_interval.unwrap_or(config.interval));
        let damper = config.flapping.map(Damper::new);
        Ok(Self {
            config,
            up,
            contrary,
            seen: 0,
            proven: false,
            errors: 0,
            since: now,
            held_until: None,
            last_failure: None,
            damper,
            spread,
            next_probe,
        })
    }

    /// Whether the server is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// When the server last came up or went down; the beginning, if it never did.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// When the next probe is due.
    #[must_use]
    pub fn next_probe(&self) -> Timestamp {
        self.next_probe
    }

    /// What the last failed probe found.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// The settings it runs with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the server stands at `now`.
    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        match (self.up, self.contrary) {
            (true, failures) if failures > 0 && self.proven => {
                Phase::Falling { failures, of: self.config.fall }
            }
            (true, _) => Phase::Up,
            (false, _) if self.is_held(now) => Phase::Held { until: self.held_until.unwrap_or(now) },
            (false, passes) if passes > 0 && self.proven => Phase::Rising { passes, of: self.config.rise },
            (false, _) => Phase::Down,
        }
    }

    /// Takes the verdict of a probe that ended at `now`, and says when that changes the server's state. The next
    /// probe is due a pause after `now`.
    pub fn record(&mut self, now: Timestamp, verdict: impl Into<Verdict>) -> Option<Transition> {
        let transition = self.judge(now, verdict.into());
        self.proven = true;
        self.next_probe = now + self.pause(now);
        if let Some(end) = self.held_until.filter(|&end| now < end && self.contrary >= self.config.rise) {
            // It waits for nothing else, so look at the very end of the hold.
            self.next_probe = self.next_probe.min(end);
        }
        transition
    }

    /// Takes the outcome of one ordinary request that ended at `now`; nothing happens without
    /// [`Config::observe`], nor while the server is down. Errors count in a row: one success forgets them.
    pub fn observe(&mut self, now: Timestamp, success: bool) -> Option<Transition> {
        let observe = self.config.observe.filter(|_| self.up)?;
        self.errors = if success { 0 } else { self.errors + 1 };
        if self.errors < observe.error_limit {
            return None;
        }
        let errors = core::mem::take(&mut self.errors);
        self.next_probe = self.next_probe.min(now + self.fast_interval());
        match observe.on_error {
            OnError::FastInterval => None,
            OnError::FailCheck => {
                let transition = self.judge(now, Verdict::Fail(Cause::Traffic { errors }.to_string()));
                self.proven = true;
                transition
            }
            OnError::SuddenDeath => {
                self.proven = true;
                self.contrary = self.config.fall - 1;
                None
            }
            OnError::MarkDown => Some(self.go_down(now, Cause::Traffic { errors })),
        }
    }

    fn judge(&mut self, now: Timestamp, verdict: Verdict) -> Option<Transition> {
        match (self.up, verdict) {
            (true, Verdict::Pass) => (self.contrary, self.seen) = (0, 0),
            (true, Verdict::Fail(reason)) => {
                self.contrary += 1;
                self.seen += 1;
                self.last_failure = Some(reason.clone());
                if self.contrary >= self.config.fall {
                    let cause = Cause::Checks { failures: self.seen, last: reason };
                    return Some(self.go_down(now, cause));
                }
            }
            (false, Verdict::Pass) => {
                self.contrary = (self.contrary + 1).min(self.config.rise);
                if self.contrary >= self.config.rise && !self.is_held(now) {
                    (self.up, self.contrary, self.since, self.held_until) = (true, 0, now, None);
                    return Some(Transition::Up { at: now });
                }
            }
            (false, Verdict::Fail(reason)) => {
                self.contrary = 0;
                self.last_failure = Some(reason);
            }
        }
        None
    }

    fn go_down(&mut self, now: Timestamp, cause: Cause) -> Transition {
        let up_for = now.saturating_since(self.since);
        self.held_until = self.damper.as_mut().and_then(|damper| damper.fell(now, up_for));
        (self.up, self.contrary, self.seen, self.errors, self.since) = (false, 0, 0, 0, now);
        Transition::Down { at: now, cause, held_until: self.held_until }
    }

    fn is_held(&self, now: Timestamp) -> bool {
        self.held_until.is_some_and(|end| now < end)
    }

    fn fast_interval(&self) -> Duration {
        self.config.fast_interval.unwrap_or(self.config.interval)
    }

    /// From the end of a probe at `now` to the next.
    fn pause(&mut self, now: Timestamp) -> Duration {
        let pause = if !self.up && (self.contrary == 0 || self.is_held(now)) {
            self.config.down_interval.unwrap_or(self.config.interval)
        } else if self.contrary > 0 {
            self.fast_interval()
        } else {
            self.config.interval
        };
        self.spread.around(pause, self.config.spread)
    }
}

#[cfg(test)]
mod tests;
