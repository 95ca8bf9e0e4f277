//! Flapping: a server that falls again and again is held down for a while, each time longer.
//!
//! Every fall costs its users the requests in flight and the fleet a change of the set, so a server that comes back
//! only to fall is worse than one that stays away. The rule, in the spirit of route flap damping (RFC 2439) with
//! counters instead of a decaying figure of merit, so that an operator can follow it by hand:
//!
//! * A fall (UP→DOWN) that is the [`falls`](Flapping::falls)-th within [`window`](Flapping::window) is *held*: for
//!   [`hold`](Flapping::hold), passing checks count, but do not bring the server up.
//! * From then on it is on probation: every further fall is held at once, each time twice as long, up to
//!   [`max_hold`](Flapping::max_hold).
//! * Staying up for a whole `window` ends the probation and forgets all falls.

use alloc::collections::VecDeque;
use core::time::Duration;

use super::ConfigError;
use crate::clock::Timestamp;

/// When falls are too many, and how long the server then stays down. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Flapping {
    /// Falls within the window that are one too many, from 1 to 64. Default 3.
    pub falls: u32,
    /// The window, and how long a server has to stay up to be trusted again. Default 1 min.
    #[cfg_attr(feature = "serde", serde(with = "super::duration"))]
    pub window: Duration,
    /// The first hold. Default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "super::duration"))]
    pub hold: Duration,
    /// The longest hold. Default 10 min.
    #[cfg_attr(feature = "serde", serde(with = "super::duration"))]
    pub max_hold: Duration,
}

impl Default for Flapping {
    fn default() -> Self {
        Self {
            falls: 3,
            window: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            max_hold: Duration::from_secs(600),
        }
    }
}

impl Flapping {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=64).contains(&self.falls) {
            return Err(ConfigError::out_of_range("flapping.falls", self.falls, "from 1 to 64"));
        }
        for (name, span) in [("flapping.window", self.window), ("flapping.hold", self.hold)] {
            if span.is_zero() {
                return Err(ConfigError::out_of_range(name, "0s", "longer than 0"));
            }
        }
        if self.max_hold < self.hold {
            let value = alloc::format!("{:?}", self.max_hold);
            return Err(ConfigError::out_of_range("flapping.max_hold", value, "at least as long as `hold`"));
        }
        Ok(())
    }
}

/// The falls of one server.
#[derive(Clone, Debug)]
pub(crate) struct Damper {
    rule: Flapping,
    /// Falls within the window, the oldest first; never more than `rule.falls`.
    falls: VecDeque<Timestamp>,
    /// Holds since the server was last trusted.
    holds: u32,
}

impl Damper {
    pub(crate) fn new(rule: Flapping) -> Self {
        Self { rule, falls: VecDeque::new(), holds: 0 }
    }

    /// The same falls under another rule.
    pub(crate) fn under(self, rule: Flapping) -> Self {
        Self { rule, ..self }
    }

    /// The server fell at `now` after it was up for `up_for`. Gives the end of the hold, if it is to be held.
    pub(crate) fn fell(&mut self, now: Timestamp, up_for: Duration) -> Option<Timestamp> {
        if up_for >= self.rule.window {
            self.falls.clear();
            self.holds = 0;
        }
        self.falls.push_back(now);
        while self.falls.front().is_some_and(|&fall| now.saturating_since(fall) > self.rule.window) {
            self.falls.pop_front();
        }
        if self.holds == 0 && self.falls.len() < self.rule.falls as usize {
            return None;
        }
        self.falls.clear();
        // 2^31 times the shortest hold is longer than any that makes sense; more doublings change nothing.
        let hold = self.rule.hold.saturating_mul(1 << self.holds.min(31)).min(self.rule.max_hold);
        self.holds = self.holds.saturating_add(1);
        Some(now + hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments (s) of falls and how long the server was up before, beside the length (s) of the hold, 0 for none.
    #[test]
    fn holds_double_until_the_server_stays_up() {
        let rule = Flapping {
            falls: 3,
            window: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            max_hold: Duration::from_secs(100),
        };
        let mut damper = Damper::new(rule);
        for (at, up_for, hold) in [
            (0, 1000, 0),
            (20, 10, 0),
            (81, 59, 0), // the two before are older than the window
            (100, 10, 0),
            (110, 5, 30),   // the third within 60 s
            (400, 59, 60),  // on probation: held at once
            (500, 10, 100), // 120, cut to the longest
            (700, 10, 100),
            (900, 60, 0), // stayed up for a window: trusted again
            (910, 5, 0),
            (920, 5, 30),
        ] {
            let now = Timestamp::from_secs(at);
            let held = damper.fell(now, Duration::from_secs(up_for));
            let expected = (hold > 0).then(|| now + Duration::from_secs(hold));
            assert_eq!(held, expected, "fall at {at} s");
        }
    }

    #[test]
    fn a_thousand_holds_do_not_overflow() {
        let mut damper = Damper::new(Flapping { falls: 1, max_hold: Duration::MAX, ..Flapping::default() });
        let mut now = Timestamp::ZERO;
        for _ in 0..1000 {
            now = damper.fell(now, Duration::ZERO).unwrap();
        }
        assert_eq!(now, Timestamp::MAX);
    }
}
