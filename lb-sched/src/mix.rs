//! A mixer of 64 bits, and random numbers made with it.

use alloc::boxed::Box;

use crossbeam_utils::CachePadded;
use lb_core::lane::{self, Alone};
use lb_core::sync::atomic::{AtomicU64, Ordering};

/// Spreads 64 bits so that each input bit moves every output bit: the finaliser of SplitMix64 (Steele, Lea, Flood:
/// Fast splittable pseudorandom number generators, 2014; constants by Stafford, variant 13).
#[inline]
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The odd step of SplitMix64: 2⁶⁴ / φ.
pub(crate) const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64, shared by threads: a thread alone gets the seed's own sequence; threads that meet move to streams of
/// their own.
#[derive(Debug)]
pub(crate) struct Random {
    streams: Box<[CachePadded<Stream>]>,
}

/// Those of one [lane](lane#alone-on-a-lane).
#[derive(Debug)]
struct Stream {
    alone: AtomicU64,
    /// The next number of `alone`, mixed beforehand: who needs it now need not wait for two multiplications.
    ready: AtomicU64,
    added: AtomicU64,
}

impl Stream {
    /// Goes on from these states.
    fn new(alone: u64, added: u64) -> Self {
        let alone = alone.wrapping_add(STEP);
        Self { alone: AtomicU64::new(alone), ready: AtomicU64::new(mix(alone)), added: AtomicU64::new(added) }
    }
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let state = |i| mix(seed ^ mix(i));
        let stream = |lane| Stream::new(state(lane), state(!lane));
        Self { streams: (0..lane::count() as u64).map(|lane| CachePadded::new(stream(lane))).collect() }
    }

    /// A generator that goes on where this one is.
    pub(crate) fn handed_on(&self) -> Self {
        let stream = |stream: &Stream| {
            let alone = stream.alone.load(Ordering::Relaxed).wrapping_sub(STEP);
            Stream::new(alone, stream.added.load(Ordering::Relaxed))
        };
        Self { streams: self.streams.iter().map(|of_lane| CachePadded::new(stream(of_lane))).collect() }
    }

    /// Evenly spread over all 64 bits.
    #[inline]
    pub(crate) fn next(&self, alone: Option<Alone<'_>>) -> u64 {
        self.next_here(alone).unwrap_or_else(|| self.next_elsewhere())
    }

    /// The same if no other thread is there at this moment; else there is [another way](Self::next_elsewhere). With the
    /// two apart, a caller can leave the second to a function of its own, and needs no registers for it.
    #[inline]
    pub(crate) fn next_here(&self, alone: Option<Alone<'_>>) -> Option<u64> {
        let Some(alone) = alone else {
            let state = &self.streams.get(lane::mine())?.added;
            let old = state.load(Ordering::Relaxed);
            let new = old.wrapping_add(STEP);
            let next = state.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
            return next.is_ok().then(|| mix(new));
        };
        let stream = self.streams.get(alone.lane())?;
        let random = stream.ready.load(Ordering::Relaxed);
        let next = stream.alone.load(Ordering::Relaxed).wrapping_add(STEP);
        stream.alone.store(next, Ordering::Relaxed);
        stream.ready.store(mix(next), Ordering::Relaxed);
        Some(random)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn next_elsewhere(&self) -> u64 {
        let state = &self.streams[lane::move_on()].added;
        mix(state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }
}

/// A number below `bound` from 32 random bits, by multiplication instead of division (Lemire: Fast random integer
/// generation in an interval, 2019). The bias is at most `bound / 2³²`.
#[inline]
pub(crate) const fn below(random: u32, bound: u32) -> u32 {
    ((random as u64 * bound as u64) >> 32) as u32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_to_a_thread_alone() {
        let [a, b, c] = [Random::new(7), Random::new(7), Random::new(8)];
        let first: Vec<_> = (0..100).map(|_| a.next(None)).collect();
        assert_eq!(first, (0..100).map(|_| b.next(None)).collect::<Vec<_>>());
        assert_ne!(first, (0..100).map(|_| c.next(None)).collect::<Vec<_>>());
        assert_eq!(a.handed_on().next(None), b.next(None));
    }

    #[test]
    fn numbers_below_a_bound_are_even() {
        let random = Random::new(1);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[below(random.next(None) as u32, 10) as usize] += 1;
        }
        // Standard deviation of each count is 95.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 500), "{counts:?}");
    }
}
