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
use core::time::Duration;

use super::flapping::Damper;
use super::spread::Spread;
use super::{Cause, Config, ConfigError, Initial, OnError, Phase, Transition, Verdict};
use crate::clock::Timestamp;

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

    /// Takes other settings, and keeps the server's state: up or down, with its count of contrary verdicts as far as
    /// the new limits leave it below them, and its hold if it still may flap. The next probe is due when it was.
    ///
    /// # Errors
    /// As for [`new`](Self::new); then the old settings stay.
    pub fn reconfigure(&mut self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        let limit = if self.up { config.fall } else { config.rise };
        self.contrary = self.contrary.min(limit - 1);
        self.damper = config.flapping.map(|rule| match self.damper.take() {
            Some(damper) => damper.under(rule),
            None => Damper::new(rule),
        });
        self.held_until = self.held_until.filter(|_| self.damper.is_some());
        self.config = config;
        Ok(())
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
