//! A router's own clock, which neither starts nor runs with the others'.

use crate::time::Timestamp;

/// Parts in a million.
const MILLION: i128 = 1_000_000;

/// A clock that was at `offset` when the simulation began and gains `drift_ppm` microseconds a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// What it showed at the beginning, in microseconds.
    pub offset: u64,
    /// By how much it runs fast, in parts in a million; negative if it is slow. More than −1 000 000.
    pub drift_ppm: i32,
}

impl Clock {
    /// What this clock shows at `true_time`.
    #[must_use]
    pub fn local(&self, true_time: Timestamp) -> Timestamp {
        let elapsed = i128::from(true_time.as_micros()) * (MILLION + i128::from(self.drift_ppm)) / MILLION;
        Timestamp::from_micros(self.offset + u64::try_from(elapsed).unwrap_or(0))
    }

    /// When this clock first shows `local` or more.
    #[must_use]
    pub fn true_time(&self, local: Timestamp) -> Timestamp {
        let elapsed = i128::from(local.as_micros().saturating_sub(self.offset));
        let rate = MILLION + i128::from(self.drift_ppm);
        let true_time = (elapsed * MILLION + rate - 1) / rate;
        Timestamp::from_micros(u64::try_from(true_time).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_shows_it_and_not_before() {
        for drift_ppm in [-10_000, -1, 0, 3, 10_000] {
            let clock = Clock { offset: 12_345, drift_ppm };
            for micros in [12_345, 12_346, 1_012_345, 987_654_321] {
                let local = Timestamp::from_micros(micros);
                let when = clock.true_time(local);
                assert!(clock.local(when) >= local);
                if when > Timestamp::ZERO {
                    let before = Timestamp::from_micros(when.as_micros() - 1);
                    assert!(clock.local(before) < local, "{drift_ppm} ppm, {local}");
                }
            }
        }
    }
}
