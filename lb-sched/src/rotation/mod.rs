//! Algorithms that go round: a sequence of positions, built with the set, and a cursor in it.

mod cursor;
mod rr;
mod swrr;
mod wrr;

use alloc::boxed::Box;
use alloc::vec::Vec;

use lb_core::lane::Alone;
use lb_core::{BackendId, Set};

use crate::request::Request;
pub(crate) use cursor::{Cursor, Untaken};
pub use rr::RoundRobin;
pub use swrr::SmoothWeightedRoundRobin;
pub use wrr::WeightedRoundRobin;

/// The longest sequence that is laid out; it bounds memory (4 bytes an entry) and the time of a rebuild.
pub(crate) const LONGEST: usize = 1 << 16;

/// A laid-out sequence and where it stands.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    positions: Box<[u32]>,
    cursor: Cursor,
}

impl Sequence {
    pub(crate) fn new(positions: Vec<u32>, cursor: Cursor) -> Self {
        Self { positions: positions.into_boxed_slice(), cursor }
    }

    /// The next in the sequence that the request admits.
    #[inline]
    pub(crate) fn pick(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        match self.cursor.next(self.positions.len(), alone) {
            Ok(turn) if request.admits_all(set) => {
                self.positions.get(turn).map(|&position| position as usize)
            }
            turn => self.pick_with_care(set, request, alone, turn),
        }
    }

    /// Out of line, so that the usual turn needs no registers of its own.
    #[inline(never)]
    fn pick_with_care(
        &self,
        set: &Set,
        request: &Request<'_>,
        alone: Option<Alone<'_>>,
        turn: Result<usize, Untaken>,
    ) -> Option<usize> {
        let take = |untaken| self.cursor.take(untaken, self.positions.len(), alone).ok_or(());
        let first = *self.positions.get(turn.or_else(take).ok()?)? as usize;
        if request.admits(set, first) { Some(first) } else { self.pick_behind(set, request, alone, first) }
    }

    /// Goes on behind the turn of `refused` until one is admitted. Runs of a backend that was just refused are passed
    /// without asking again; after as many questions as two rounds of the set, list order decides.
    #[cold]
    #[inline(never)]
    fn pick_behind(
        &self,
        set: &Set,
        request: &Request<'_>,
        alone: Option<Alone<'_>>,
        refused: usize,
    ) -> Option<usize> {
        let (before, after) = self.positions.split_at(self.cursor.position(self.positions.len(), alone));
        let (mut refused, mut questions) = (refused as u32, 2 * set.len());
        for (passed, &position) in after.iter().chain(before).enumerate() {
            if position == refused {
                continue;
            }
            if request.admits(set, position as usize) {
                self.cursor.skip(passed + 1, alone);
                return Some(position as usize);
            }
            refused = position;
            questions -= 1;
            if questions == 0 {
                break;
            }
        }
        (0..set.len()).find(|&i| set.weights().get(i).is_some_and(|w| *w > 0) && request.admits(set, i))
    }

    /// How far round it is, from 0 to 1 in 2³²ths, for a successor that goes on at the same phase.
    pub(crate) fn phase(&self) -> u64 {
        match self.positions.len() {
            0 => 0,
            len => ((self.cursor.reached(len) as u64) << 32) / len as u64,
        }
    }

    /// The turn at which a sequence of `len` is at this phase.
    pub(crate) fn turn_at(phase: u64, len: usize) -> usize {
        // Rounded up: a turn that has been taken is not taken again.
        ((phase * len as u64).div_ceil(1 << 32) as usize) % len.max(1)
    }

    /// The position chosen last, if any was chosen yet.
    pub(crate) fn last(&self) -> Option<usize> {
        let turn = self.cursor.last(self.positions.len())?;
        self.positions.get(turn).map(|&position| position as usize)
    }

    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }
}

/// The ids of a set, kept by a generation so that the next one finds its place again.
pub(crate) fn ids(set: &Set) -> Box<[BackendId]> {
    set.iter().map(|member| member.id).collect()
}

/// The greatest common divisor of the weights that are not 0; 1 when there is none.
pub(crate) fn divisor(weights: impl Iterator<Item = u32>) -> u32 {
    let gcd = weights.filter(|&w| w > 0).fold(0, |mut a, mut b| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    gcd.max(1)
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use super::*;
    use crate::scheduler::Scheduler;
    use crate::{Balancer, Weight};

    /// A balancer over `a`, `b`, `c`, … with these weights.
    pub(crate) fn balancer<S: Scheduler>(scheduler: S, weights: &[u16]) -> Balancer<char, S> {
        let balancer = Balancer::with_scheduler(scheduler);
        update(&balancer, weights);
        balancer
    }

    pub(crate) fn update<S: Scheduler>(balancer: &Balancer<char, S>, weights: &[u16]) {
        balancer.update(('a'..).zip(weights).map(|(name, &w)| (name, Weight::new(w)))).expect("names differ");
    }

    /// The names of the next `count` choices.
    pub(crate) fn picks<S: Scheduler>(balancer: &Balancer<char, S>, count: usize) -> String {
        (0..count).map(|_| balancer.pick(&Request::new()).map_or('-', |lease| *lease)).collect()
    }

    #[test]
    fn the_divisor_skips_zero() {
        for (weights, expected) in [(&[][..], 1), (&[0, 0], 1), (&[4, 0, 6], 2), (&[7], 7), (&[5, 3], 1)] {
            assert_eq!(divisor(weights.iter().copied()), expected, "{weights:?}");
        }
    }
}
