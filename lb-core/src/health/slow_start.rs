//! Slow start: how the share of its weight grows that a server takes after it comes back.
//!
//! A server that returns has cold caches and empty connection pools; its full share at once can bring it down
//! again. During the [`duration`](SlowStart::duration) of its slow start it takes a growing share of its weight, along
//! one of two curves that users know:
//!
//! | curve | share of the weight, *t* after the return, of *T* | source |
//! |---|---|---|
//! | [`Curve::Sixteenths`] | (⌊16·t/T⌋ + 1) / 16 | HAProxy's `slowstart` |
//! | [`Curve::Aggression`] | max(minimum, (t/T)^(1/aggression)) | Envoy's `slow_start_config` |
//!
//! Both are pure functions of the moment of the return and of now. A caller applies [`share`](SlowStart::share) to
//! the configured weight and asks again at [`next_change`](SlowStart::next_change).
//!
//! ```
//! use core::time::Duration;
//! use lb_core::clock::Timestamp;
//! use lb_core::health::{Curve, SlowStart};
//!
//! let slow_start = SlowStart::new(Duration::from_secs(16), Curve::Sixteenths)?;
//! let back = Timestamp::from_secs(100);
//! assert_eq!(slow_start.share(back, back), 1.0 / 16.0);
//! assert_eq!(slow_start.share(back, Timestamp::from_secs(107)), 0.5);
//! assert_eq!(slow_start.share(back, Timestamp::from_secs(116)), 1.0);
//! assert_eq!(slow_start.next_change(back, back), Some(Timestamp::from_secs(101)));
//! # Ok::<(), lb_core::health::ConfigError>(())
//! ```

use core::time::Duration;

use super::ConfigError;
use crate::clock::Timestamp;

/// In how many steps a caller follows a continuous curve: a weight seldom has a finer grain, and 64 updates of a
/// pool over a slow start cost nothing.
const STEPS: u32 = 64;

/// How the share grows over a slow start.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Curve {
    /// Linear, in sixteenths of the weight, as HAProxy's `slowstart`: the first sixteenth at once, another after each
    /// sixteenth of the duration, so all of it after fifteen.
    Sixteenths,
    /// Continuous, as Envoy's `slow_start_config`: max(`minimum`, (t/T)^(1/`aggression`)).
    Aggression {
        /// 1 grows linearly; more gives a larger share early, less a smaller one. Envoy's default is 1. Must be
        /// finite and above 0.
        aggression: f64,
        /// The share at the beginning, from 0 (excluded) to 1. Envoy's default is 0.1.
        minimum: f64,
    },
}

impl Curve {
    /// Envoy's defaults: linear, from a tenth of the weight.
    pub const ENVOY: Self = Self::Aggression { aggression: 1.0, minimum: 0.1 };
}

/// A slow start: a duration and a curve. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "Raw", into = "Raw")
)]
pub struct SlowStart {
    duration: Duration,
    curve: Curve,
}

impl SlowStart {
    /// A slow start over `duration` along `curve`. A duration of zero is no slow start: the share is 1 at once.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] when a number of the curve lies outside its range.
    pub fn new(duration: Duration, curve: Curve) -> Result<Self, ConfigError> {
        if let Curve::Aggression { aggression, minimum } = curve {
            if !(aggression.is_finite() && aggression > 0.0) {
                return Err(ConfigError::out_of_range("aggression", aggression, "a finite number above 0"));
            }
            if !(minimum > 0.0 && minimum <= 1.0) {
                return Err(ConfigError::out_of_range("minimum", minimum, "a share above 0 and up to 1"));
            }
        }
        Ok(Self { duration, curve })
    }

    /// From the return of the server to its full weight.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How the share grows.
    #[must_use]
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// The share of its weight, above 0 and up to 1, that a server takes at `now` which came back at `since`. Never
    /// falls while `now` grows; 1 from `since` + duration on.
    #[must_use]
    pub fn share(&self, since: Timestamp, now: Timestamp) -> f64 {
        let elapsed = now.saturating_since(since);
        if elapsed >= self.duration {
            return 1.0;
        }
        match self.curve {
            Curve::Sixteenths => (self.sixteenths(elapsed) as f64 / 16.0).min(1.0),
            Curve::Aggression { aggression, minimum } => {
                let progress = elapsed.as_nanos() as f64 / self.duration.as_nanos() as f64;
                libm::pow(progress, 1.0 / aggression).clamp(minimum, 1.0)
            }
        }
    }

    /// The next moment at which [`share`](Self::share) has grown enough to be worth an update of the weight: the next
    /// sixteenth, or on a continuous curve the next 64th of the weight. `None` when the share is 1 already.
    #[must_use]
    pub fn next_change(&self, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let share = self.share(since, now);
        if share >= 1.0 {
            return None;
        }
        let total = self.duration.as_nanos();
        let elapsed = now.saturating_since(since);
        let after = match self.curve {
            Curve::Sixteenths => (self.sixteenths(elapsed) * total).div_ceil(16),
            Curve::Aggression { aggression, .. } => {
                // The inverse of the curve at each level above the present one; the first whose moment, after
                // rounding, really has a larger share. Level 64 is the end, which always has.
                let present = (share * f64::from(STEPS)) as u32;
                (present + 1..STEPS)
                    .map(|level| {
                        let progress = libm::pow(f64::from(level) / f64::from(STEPS), aggression);
                        libm::ceil(progress * total as f64) as u128
                    })
                    .find(|&after| self.share(since, since + nanos(after)) > share)
                    .unwrap_or(total)
            }
        };
        Some(since + nanos(after.min(total)))
    }

    /// Sixteenths of the weight after `elapsed`.
    fn sixteenths(&self, elapsed: Duration) -> u128 {
        elapsed.as_nanos() * 16 / self.duration.as_nanos().max(1) + 1
    }
}

fn nanos(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

/// What a configuration file holds, before it is checked.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(with = "super::duration")]
    duration: Duration,
    #[serde(default = "sixteenths")]
    curve: Curve,
}

#[cfg(feature = "serde")]
fn sixteenths() -> Curve {
    Curve::Sixteenths
}

#[cfg(feature = "serde")]
impl TryFrom<Raw> for SlowStart {
    type Error = ConfigError;

    fn try_from(raw: Raw) -> Result<Self, ConfigError> {
        Self::new(raw.duration, raw.curve)
    }
}

#[cfg(feature = "serde")]
impl From<SlowStart> for Raw {
    fn from(slow_start: SlowStart) -> Self {
        Self { duration: slow_start.duration, curve: slow_start.curve }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curves() -> impl Strategy<Value = Curve> {
        prop_oneof![
            Just(Curve::Sixteenths),
            Just(Curve::ENVOY),
            (0.01f64..100.0, 0.001f64..=1.0)
                .prop_map(|(aggression, minimum)| Curve::Aggression { aggression, minimum }),
        ]
    }

    proptest! {
        #[test]
        fn never_falls_and_ends_full(curve in curves(), total in 0u64..u64::MAX / 8, mut at in proptest::collection::vec(0.0f64..1.5, 2..20)) {
            let slow_start = SlowStart::new(Duration::from_nanos(total), curve).unwrap();
            let since = Timestamp::from_nanos(12_345);
            at.sort_by(f64::total_cmp);
            let mut last = 0.0;
            for part in at {
                let share = slow_start.share(since, since + Duration::from_nanos((part * total as f64) as u64));
                prop_assert!(share >= last && share > 0.0 && share <= 1.0, "{share} after {last}");
                last = share;
            }
            prop_assert_eq!(slow_start.share(since, since + Duration::from_nanos(total)), 1.0);
        }

        /// Whoever follows `next_change` sees the share grow at each step, and comes to the end within 65 of them.
        #[test]
        fn each_change_is_a_change(curve in curves(), total in 1u64..u64::MAX / 8) {
            let slow_start = SlowStart::new(Duration::from_nanos(total), curve).unwrap();
            let since = Timestamp::from_nanos(99);
            let (mut now, mut steps) = (since, 0);
            while let Some(next) = slow_start.next_change(since, now) {
                prop_assert!(next > now, "{next:?} after {now:?}");
                prop_assert!(slow_start.share(since, next) > slow_start.share(since, now));
                now = next;
                steps += 1;
                prop_assert!(steps <= 65);
            }
            prop_assert_eq!(slow_start.share(since, now), 1.0);
        }
    }

    #[test]
    fn haproxy_sixteenths() {
        let slow_start = SlowStart::new(Duration::from_secs(160), Curve::Sixteenths).unwrap();
        let since = Timestamp::from_secs(7);
        for (after, sixteenths) in
            [(0, 1), (9, 1), (10, 2), (79, 8), (80, 9), (149, 15), (150, 16), (160, 16), (9999, 16)]
        {
            let share = slow_start.share(since, since + Duration::from_secs(after));
            assert_eq!(share, f64::from(sixteenths) / 16.0, "after {after} s");
        }
        // Before it began (clocks of two threads that cross) counts as its beginning.
        assert_eq!(slow_start.share(since, Timestamp::ZERO), 1.0 / 16.0);
    }

    #[test]
    fn envoy_curve() {
        let curve = Curve::Aggression { aggression: 2.0, minimum: 0.1 };
        let slow_start = SlowStart::new(Duration::from_secs(100), curve).unwrap();
        for (after, share) in [(0, 0.1), (1, 0.1), (4, 0.2), (25, 0.5), (81, 0.9), (100, 1.0)] {
            let got = slow_start.share(Timestamp::ZERO, Timestamp::from_secs(after));
            assert!((got - share).abs() < 1e-12, "after {after} s: {got}, not {share}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (aggression, minimum) in [
            (0.0, 0.1),
            (-1.0, 0.1),
            (f64::NAN, 0.1),
            (f64::INFINITY, 0.1),
            (1.0, 0.0),
            (1.0, 1.1),
            (1.0, f64::NAN),
        ] {
            let curve = Curve::Aggression { aggression, minimum };
            assert!(SlowStart::new(Duration::from_secs(1), curve).is_err(), "{curve:?}");
        }
    }

    #[test]
    fn no_duration_is_no_slow_start() {
        let slow_start = SlowStart::new(Duration::ZERO, Curve::ENVOY).unwrap();
        assert_eq!(slow_start.share(Timestamp::ZERO, Timestamp::ZERO), 1.0);
        assert_eq!(slow_start.next_change(Timestamp::ZERO, Timestamp::ZERO), None);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn settings_read_as_people_write_them() {
        let envoy = Curve::Aggression { aggression: 2.0, minimum: 0.1 };
        for (text, curve) in [
            (r#"{"duration":"30s"}"#, Curve::Sixteenths),
            (r#"{"duration":"30s","curve":"sixteenths"}"#, Curve::Sixteenths),
            (r#"{"duration":"30s","curve":{"aggression":{"aggression":2.0,"minimum":0.1}}}"#, envoy),
        ] {
            let slow_start: SlowStart = serde_json::from_str(text).unwrap();
            assert_eq!((slow_start.duration(), slow_start.curve()), (Duration::from_secs(30), curve));
            let written = serde_json::to_string(&slow_start).unwrap();
            assert_eq!(serde_json::from_str::<SlowStart>(&written).unwrap(), slow_start);
        }
        let text = r#"{"duration":"30s","curve":{"aggression":{"aggression":0.0,"minimum":0.1}}}"#;
        let error = serde_json::from_str::<SlowStart>(text).unwrap_err().to_string();
        assert!(error.starts_with("`aggression` is 0: it has to be"), "{error}");
    }
}
