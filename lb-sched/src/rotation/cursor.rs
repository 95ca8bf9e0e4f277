//! Whose turn it is.

use alloc::boxed::Box;

use crossbeam_utils::CachePadded;
use lb_core::lane;
use lb_core::sync::atomic::{AtomicU64, Ordering};

/// A counter that goes round. Shared, it gives every turn to exactly one of all threads; striped, threads that meet
/// go round on counters of their own, spread over the circle.
///
/// A counter begins two rounds ahead and falls back to the first with its first turn, so that one nobody has used yet
/// is told from one that stands at the same turn again.
#[derive(Debug)]
pub(crate) struct Cursor {
    turns: CachePadded<AtomicU64>,
    /// Those of the lanes behind the first, if it is striped.
    others: Box<[CachePadded<AtomicU64>]>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self::starting_at(0, 0, false)
    }
}

impl Cursor {
    /// A cursor whose next turn is `turn`, in a circle of `len`.
    pub(crate) fn starting_at(turn: usize, len: usize, striped: bool) -> Self {
        let stripes = if striped { lane::count().max(2) } else { 1 };
        let starting = |stripe: usize| {
            let start = (turn + stripe * len / stripes).checked_rem(len).unwrap_or(0);
            CachePadded::new(AtomicU64::new((start + 2 * len) as u64))
        };
        Self { turns: starting(0), others: (1..stripes).map(starting).collect() }
    }

    pub(crate) fn striped(&self) -> bool {
        !self.others.is_empty()
    }

    /// The counter of a lane.
    #[inline]
    fn of(&self, lane: usize) -> &AtomicU64 {
        lane.checked_sub(1).and_then(|other| self.others.get(other)).unwrap_or(&self.turns)
    }

    /// The next turn in a circle of `len` if it needs no second thought; else it is still to be [taken](Self::take).
    #[inline]
    pub(crate) fn next(&self, len: usize) -> Result<usize, Untaken> {
        let turn = if self.others.is_empty() {
            self.turns.fetch_add(1, Ordering::Relaxed)
        } else {
            let mine = self.of(lane::mine());
            let turn = mine.load(Ordering::Relaxed);
            let next = mine.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
            next.map_err(|_| Untaken(None))?
        };
        if turn < len as u64 { Ok(turn as usize) } else { Err(Untaken(Some(turn))) }
    }

    /// Takes a turn that did not come at once: on another stripe, where threads have met; or past the end, round to the
    /// beginning. Only one turn in `len` divides; the counter is set back where nobody has moved it meanwhile, and else
    /// by a later turn: modulo `len` it is right all the time. `None` when `len` is 0.
    pub(crate) fn take(&self, untaken: Untaken, len: usize) -> Option<usize> {
        let turn = match untaken.0 {
            Some(turn) => turn,
            None => self.of(lane::move_on()).fetch_add(1, Ordering::Relaxed),
        };
        let wrapped = turn.checked_rem(len as u64)?;
        if wrapped != turn {
            let mine = self.of(lane::mine());
            let _ = mine.compare_exchange(turn + 1, wrapped + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        Some(wrapped as usize)
    }

    /// Leaves out so many turns.
    pub(crate) fn skip(&self, turns: usize) {
        self.of(lane::mine()).fetch_add(turns as u64, Ordering::Relaxed);
    }

    /// The next turn in a circle of `len`, without taking it.
    pub(crate) fn position(&self, len: usize) -> usize {
        let next = self.of(lane::mine()).load(Ordering::Relaxed);
        next.checked_rem(len as u64).unwrap_or(0) as usize
    }

    /// The turn taken last, if any was.
    pub(crate) fn last(&self, len: usize) -> Option<usize> {
        let next = self.turns.load(Ordering::Relaxed);
        if next >= 2 * len as u64 { None } else { (next + len as u64 - 1).checked_rem(len as u64) }
            .map(|turn| turn as usize)
    }
}

/// A turn that takes a second thought: past the end, or not taken at all, as another thread was there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untaken(Option<u64>);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn next(cursor: &Cursor, len: usize) -> Option<usize> {
        cursor.next(len).or_else(|untaken| cursor.take(untaken, len).ok_or(())).ok()
    }

    #[test]
    fn turns_go_round_and_none_is_skipped() {
        for len in [1, 2, 7] {
            for striped in [false, true] {
                let cursor = Cursor::starting_at(0, len, striped);
                assert_eq!(cursor.last(len), None);
                let turns: Vec<_> = (0..3 * len).map(|_| next(&cursor, len).unwrap()).collect();
                assert_eq!(turns, (0..3 * len).map(|t| t % len).collect::<Vec<_>>());
                assert_eq!((cursor.position(len), cursor.last(len)), (0, Some(len - 1)));
            }
        }
        assert_eq!(next(&Cursor::default(), 0), None);
    }

    #[test]
    fn threads_share_every_turn_of_a_shared_cursor() {
        let cursor = Cursor::starting_at(0, 10, false);
        let mut counts = [0; 10];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..2500).map(|_| next(&cursor, 10).unwrap()).collect::<Vec<_>>()))
                .collect();
            for turn in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
                counts[turn] += 1;
            }
        });
        assert_eq!(counts, [1000; 10]);
    }
}
