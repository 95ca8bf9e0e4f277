//! Weighted round robin, interleaved.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lb_core::Set;
use lb_core::lane::Alone;
use lb_core::sync::atomic::{AtomicU64, Ordering};

use super::{Cursor, LONGEST, Sequence, divisor};
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `wrr`: rounds in which the threshold falls from the greatest weight to the least, by the weights' common divisor;
/// each round takes, in list order, every backend whose weight reaches the threshold. Weights 4, 3, 2 give
/// `AABABCABC`.
///
/// A change of the set begins a round anew at the threshold that was reached.
///
/// *Cost*: constant while the sequence (the sum of the weights over their divisor) fits 65 536 entries, which a
/// rebuild lays out; for longer ones a search through the list, 64 backends at a step. One cursor for all threads, as
/// with [`RoundRobin`](crate::RoundRobin); [`striped`](Self::striped) where the sequence is laid out.
/// *When*: IPVS's order is wanted. [`SmoothWeightedRoundRobin`](crate::SmoothWeightedRoundRobin) spreads the heavy
/// ones better. *Source*: IPVS `wrr`.
#[derive(Debug)]
pub struct WeightedRoundRobin {
    rounds: Rounds,
    turns: Turns,
    striped: bool,
}

/// The thresholds of a round, counted in divisors: from `top` down to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rounds {
    divisor: u32,
    top: u32,
    /// The threshold at which this generation began.
    first: u32,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and there is one a generation"
)]
enum Turns {
    LaidOut { sequence: Sequence, starts: Box<[u32]> },
    Searched(Search),
}

impl WeightedRoundRobin {
    /// One cursor for all threads: the order is exact.
    pub fn new() -> Self {
        Self::with(false)
    }

    /// Cursors that threads need not share.
    pub fn striped() -> Self {
        Self::with(true)
    }

    fn with(striped: bool) -> Self {
        let turns = Turns::LaidOut { sequence: Sequence::default(), starts: Box::default() };
        Self { rounds: Rounds { divisor: 1, top: 0, first: 0 }, turns, striped }
    }

    /// The threshold of the last choice, as a weight.
    fn threshold(&self) -> u32 {
        let Rounds { divisor, top, first } = self.rounds;
        let level = match &self.turns {
            Turns::LaidOut { sequence, starts } => match sequence.cursor().last(sequence.len()) {
                // Round 0 is the one at the top.
                Some(turn) => top + 1 - starts.partition_point(|&start| start as usize <= turn) as u32,
                None => first,
            },
            Turns::Searched(search) => search.level(),
        };
        level.saturating_sub(1) * divisor + u32::from(level > 0)
    }
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler for WeightedRoundRobin {
    fn rebuild(&self, set: &Set) -> Self {
        let divisor = divisor(set.weights().iter().copied());
        let levels: Box<[u32]> = set.weights().iter().map(|weight| weight / divisor).collect();
        let top = levels.iter().copied().max().unwrap_or(0);
        let threshold = self.threshold();
        let first =
            if threshold == 0 { top } else { (threshold / divisor + u32::from(divisor > 1)).min(top) };
        let rounds = Rounds { divisor, top, first };
        let total: u64 = levels.iter().map(|&level| u64::from(level)).sum();
        let turns = if total <= LONGEST as u64 {
            let mut positions = Vec::with_capacity(total as usize);
            let mut starts = Vec::new();
            // Who reaches the threshold changes only at the members' own levels: at most 361, as they add up to 65 536.
            let mut joins = levels.to_vec();
            joins.sort_unstable();
            joins.dedup();
            let mut reaching: Vec<u32> = Vec::new();
            for level in (1..=top).rev() {
                if joins.pop_if(|join| *join == level).is_some() {
                    reaching = (0..).zip(&levels).filter(|&(_, l)| *l >= level).map(|(i, _)| i).collect();
                }
                starts.push(positions.len() as u32);
                positions.extend_from_slice(&reaching);
            }
            let start = starts.get((top - first) as usize).map_or(0, |&start| start as usize);
            let cursor = Cursor::starting_at(start, positions.len(), self.striped);
            Turns::LaidOut { sequence: Sequence::new(positions, cursor), starts: starts.into_boxed_slice() }
        } else {
            Turns::Searched(Search::new(levels, top, first))
        };
        Self { rounds, turns, striped: self.striped }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        self.pick_on(set, request, None)
    }

    #[inline]
    fn pick_on(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        match &self.turns {
            Turns::LaidOut { sequence, .. } => sequence.pick(set, request, alone),
            Turns::Searched(search) => search.pick(set, request),
        }
    }
}

/// Backends skipped at one step of a search.
const BLOCK: usize = 64;

/// The same order where it is too long to lay out: cursor and threshold in one word, moved by compare-and-swap.
#[derive(Debug)]
struct Search {
    levels: Box<[u32]>,
    /// The greatest level of each block.
    peaks: Box<[u32]>,
    top: u32,
    /// High half: the threshold. Low half: where in the list to look next.
    state: AtomicU64,
}

impl Search {
    fn new(levels: Box<[u32]>, top: u32, first: u32) -> Self {
        let peaks = levels.chunks(BLOCK).map(|block| block.iter().copied().max().unwrap_or(0)).collect();
        Self { levels, peaks, top, state: AtomicU64::new(u64::from(first) << 32) }
    }

    fn level(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) >> 32) as u32
    }

    #[inline(never)]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let mut state = self.state.load(Ordering::Relaxed);
        // Twice round the list finds everyone that the thresholds in between let in; then list order decides.
        let mut tries = 2 * self.levels.len();
        while tries > 0 {
            let (position, next) = self.step(state)?;
            match self.state.compare_exchange_weak(state, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) if request.admits(set, position) => return Some(position),
                Ok(_) => {
                    tries -= 1;
                    state = next;
                }
                Err(now) => state = now,
            }
        }
        (0..self.levels.len()).find(|&i| self.levels[i] > 0 && request.admits(set, i))
    }

    /// The choice from a state, and the state behind it.
    fn step(&self, state: u64) -> Option<(usize, u64)> {
        let (mut level, mut from) = ((state >> 32) as u32, state as u32 as usize);
        // A threshold of 1 lets everyone in, so the second round at the latest finds one.
        for _ in 0..3 {
            if level > 0
                && let Some(position) = self.reaching(level, from)
            {
                return Some((position, u64::from(level) << 32 | (position as u64 + 1)));
            }
            level = if level > 1 { level - 1 } else { self.top };
            from = 0;
        }
        None
    }

    /// The first position not before `from` whose level reaches `level`.
    fn reaching(&self, level: u32, from: usize) -> Option<usize> {
        let mut position = from;
        while position < self.levels.len() {
            if self.peaks[position / BLOCK] < level {
                position = (position / BLOCK + 1) * BLOCK;
            } else if self.levels[position] < level {
                position += 1;
            } else {
                return Some(position);
            }
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::tests::{balancer, picks, update};
    use super::*;
    use crate::{Spec, Weight};

    #[test]
    fn the_order_is_that_of_ipvs() {
        for (weights, expected) in [
            (&[4, 3, 2][..], "aababcabc"),
            (&[1, 1], "abab"),
            (&[4, 2], "aabaab"),
            (&[0, 3, 0], "bbb"),
            (&[0], "-"),
        ] {
            assert_eq!(picks(&balancer(WeightedRoundRobin::new(), weights), expected.len()), expected);
        }
    }

    #[test]
    fn a_change_begins_the_round_that_was_reached_anew() {
        let balancer = balancer(WeightedRoundRobin::new(), &[4, 3, 2]);
        assert_eq!(picks(&balancer, 4), "aaba");
        update(&balancer, &[4, 3, 2]);
        assert_eq!(picks(&balancer, 6), "abcabc");
    }

    #[test]
    fn a_sequence_too_long_to_lay_out_is_searched_in_the_same_order() {
        // 70 backends: more than one block. The sum is too large for the table, or just fits it.
        let weights = |last: u16| (0..70).map(move |i| if i == 69 { last } else { i % 7 * 100 });
        let [long, short] = [60_000, 5_000].map(|last| {
            let scheduler = WeightedRoundRobin::new();
            let balancer = crate::Balancer::with_scheduler(scheduler);
            balancer
                .update(
                    (0..)
                        .zip(weights(last + 1))
                        .map(|(i, w)| Spec::new(format!("{i}"), i).weight(Weight::new(w))),
                )
                .unwrap();
            balancer
        });
        assert!(matches!(long.snapshot().derived().turns, Turns::Searched(_)));
        assert!(matches!(short.snapshot().derived().turns, Turns::LaidOut { .. }));
        let all = |balancer: &crate::Balancer<i32, WeightedRoundRobin>, count: usize| {
            (0..count).map(|_| *balancer.pick(&Request::new()).unwrap()).collect::<Vec<i32>>()
        };
        // The heaviest alone, until the threshold falls to the second weight; from there on both do the same.
        assert!(all(&long, 60_001 - 600).iter().all(|&i| i == 69));
        assert!(all(&short, 5_001 - 600).iter().all(|&i| i == 69));
        assert_eq!(all(&long, 20_000), all(&short, 20_000));
    }
}
