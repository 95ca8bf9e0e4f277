//! How much fits into the time that an advert may have to wait.

use std::time::Duration;

/// How long a request for addresses, or a lot of frames, may take at a time: what an advert that falls due meanwhile has to
/// wait.
pub(super) const LOT: Duration = Duration::from_micros(200);

/// How long a thing takes, learned from the last times.
#[derive(Debug)]
pub(super) struct Pace(Duration);

impl Pace {
    pub(super) const fn new(guess: Duration) -> Self {
        Self(guess)
    }

    /// How long `count` of them will take.
    pub(super) fn estimate(&self, count: usize) -> Duration {
        self.0 * u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many of them fit into `duration`; at least one.
    pub(super) fn fit(&self, duration: Duration) -> usize {
        usize::try_from(duration.as_nanos() / self.0.as_nanos().max(1)).unwrap_or(usize::MAX).max(1)
    }

    pub(super) fn learn(&mut self, count: usize, took: Duration) {
        let each = took / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        self.0 = (self.0 * 3 + each) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_what_things_take() {
        let mut pace = Pace::new(Duration::from_micros(20));
        assert_eq!((pace.fit(LOT), pace.estimate(8)), (10, Duration::from_micros(160)));
        for _ in 0..32 {
            pace.learn(8, Duration::from_micros(8 * 100));
        }
        assert_eq!(pace.fit(LOT), 2);
        for _ in 0..32 {
            pace.learn(1, Duration::from_millis(5));
        }
        assert_eq!(pace.fit(LOT), 1, "one at least, however dear");
        for _ in 0..64 {
            pace.learn(64, Duration::ZERO);
        }
        assert_eq!(pace.fit(Duration::ZERO), 1);
    }
}
