//! Pseudo-random spread, so that checks of many servers do not fall on one moment.

use core::time::Duration;

/// SplitMix64 (Steele, Lea, Flood: *Fast splittable pseudorandom number generators*, OOPSLA 2014): one word of
/// state, any seed is good, and neighbouring seeds give unrelated sequences.
#[derive(Clone, Debug)]
pub(crate) struct Spread(u64);

impl Spread {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Anything from nothing to `span`, evenly.
    pub(crate) fn up_to(&mut self, span: Duration) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        // The high half of a 64×64-bit product scales the draw without the bias and the cost of a remainder.
        Duration::from_nanos(((u128::from(self.next()) * (u128::from(nanos) + 1)) >> 64) as u64)
    }

    /// `span` plus or minus up to `percent` of it, evenly.
    pub(crate) fn around(&mut self, span: Duration, percent: u8) -> Duration {
        let reach = span / 100 * u32::from(percent.min(100));
        span.saturating_sub(reach).saturating_add(self.up_to(reach.saturating_mul(2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(seed: u64, nanos in 0..u64::MAX / 4, percent in 0u8..=100) {
            let span = Duration::from_nanos(nanos);
            let mut spread = Spread::new(seed);
            prop_assert!(spread.up_to(span) <= span);
            let drawn = spread.around(span, percent);
            prop_assert!(drawn >= span / 100 * u32::from(100 - percent));
            prop_assert!(drawn <= span + span / 100 * u32::from(percent));
        }
    }

    #[test]
    fn covers_the_span_evenly() {
        let span = Duration::from_secs(1);
        let mut quarters = [0u32; 4];
        for seed in 0..4000 {
            let drawn = Spread::new(seed).up_to(span);
            quarters[(drawn.as_millis() / 250).min(3) as usize] += 1;
        }
        assert!(quarters.iter().all(|&n| (850..1150).contains(&n)), "{quarters:?}");
    }

    #[test]
    fn without_spread_nothing_moves() {
        let span = Duration::from_millis(1234);
        assert_eq!(Spread::new(7).around(span, 0), span);
    }
}
