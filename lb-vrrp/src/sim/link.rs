//! The link between the routers, and all that it can do to a packet.

use core::ops::RangeInclusive;
use core::time::Duration;

use fastrand::Rng;

use super::RouterId;

/// What the link does to packets. Each copy, to each receiver, has its own fate.
///
/// Packets overtake one another when `delay` is a wide range.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// How many of them are lost, 0 to 1.
    pub loss: f64,
    /// How many of them come twice, 0 to 1.
    pub duplicates: f64,
    /// How long they take.
    pub delay: RangeInclusive<Duration>,
    /// From whom to whom nothing passes.
    cuts: Vec<(RouterId, RouterId)>,
}

impl Default for Link {
    /// A perfect link: nothing is lost, and a packet takes 50 µs.
    fn default() -> Self {
        let delay = Duration::from_micros(50);
        Self { loss: 0.0, duplicates: 0.0, delay: delay..=delay, cuts: Vec::new() }
    }
}

impl Link {
    /// From now on nothing passes from `from` to `to`. The other way is another cut.
    pub fn cut(&mut self, from: RouterId, to: RouterId) {
        if !self.is_cut(from, to) {
            self.cuts.push((from, to));
        }
    }

    /// Packets pass from `from` to `to` again.
    pub fn mend(&mut self, from: RouterId, to: RouterId) {
        self.cuts.retain(|&cut| cut != (from, to));
    }

    /// Packets pass between all again.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
    }

    /// Whether nothing passes from `from` to `to`.
    #[must_use]
    pub fn is_cut(&self, from: RouterId, to: RouterId) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// After how long each copy of a packet arrives: none, one, or two.
    pub(super) fn fate(&self, rng: &mut Rng, from: RouterId, to: RouterId) -> [Option<Duration>; 2] {
        if self.is_cut(from, to) || self.loss > 0.0 && rng.f64() < self.loss {
            return [None; 2];
        }
        let again = self.duplicates > 0.0 && rng.f64() < self.duplicates;
        [Some(self.time(rng)), again.then(|| self.time(rng))]
    }

    fn time(&self, rng: &mut Rng) -> Duration {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.u64(micros(*self.delay.start())..=micros(*self.delay.end())))
    }
}
