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
    turns: Box<[CachePadded<AtomicU64>]>,
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
        let turns = (0..stripes).map(|stripe| {
            let start = (turn + stripe * len / stripes).checked_rem(len).unwrap_or(0);
            CachePadded::new(AtomicU64::new((start + 2 * len) as u64))
        });
        Self { turns: turns.collect() }
    }

    pub(crate) fn striped(&self) -> bool {
        self.turns.len() > 1
    }

    /// The next turn in a circle of `len`, which is always the same for one cursor. `None` when it is 0.
    #[inline]
    pub(crate) fn next(&self, len: usize) -> Option<usize> {
        let turn = if self.turns.len() == 1 {
            self.turns[0].fetch_add(1, Ordering::Relaxed)
        } else {
            self.next_striped()
        };
        if turn < len as u64 { Some(turn as usize) } else { self.wrap(turn, len) }
    }

    #[inline]
    fn next_striped(&self) -> u64 {
        let mine = &self.turns[lane::mine() % self.turns.len()];
        let turn = mine.load(Ordering::Relaxed);
        match mine.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(turn) => turn,
            Err(_) => self.turns[lane::move_on() % self.turns.len()].fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Takes a turn past the end round to the beginning. Only one turn in `len` divides; the counter is set back
    /// where nobody has moved it meanwhile, and else by a later turn: modulo `len` it is right all the time.
    #[cold]
    #[inline(never)]
    fn wrap(&self, turn: u64, len: usize) -> Option<usize> {
        let wrapped = turn.checked_rem(len as u64)?;
        let mine = &self.turns[lane::mine() % self.turns.len()];
        let _ = mine.compare_exchange(turn + 1, wrapped + 1, Ordering::Relaxed, Ordering::Relaxed);
        Some(wrapped as usize)
    }

    /// Leaves out so many turns.
    pub(crate) fn skip(&self, turns: usize) {
        self.turns[lane::mine() % self.turns.len()].fetch_add(turns as u64, Ordering::Relaxed);
    }

    /// The next turn in a circle of `len`, without taking it.
    pub(crate) fn position(&self, len: usize) -> usize {
        (self.turns[lane::mine() % self.turns.len()].load(Ordering::Relaxed).checked_rem(len as u64))
            .unwrap_or(0) as usize
    }

    /// The turn taken last, if any was.
    pub(crate) fn last(&self, len: usize) -> Option<usize> {
        let next = self.turns[0].load(Ordering::Relaxed);
        if next >= 2 * len as u64 { None } else { (next + len as u64 - 1).checked_rem(len as u64) }
            .map(|turn| turn as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn turns_go_round_and_none_is_skipped() {
        for len in [1, 2, 7] {
            for striped in [false, true] {
                let cursor = Cursor::starting_at(0, len, striped);
                assert_eq!(cursor.last(len), None);
                let turns: Vec<_> = (0..3 * len).map(|_| cursor.next(len).unwrap()).collect();
                assert_eq!(turns, (0..3 * len).map(|t| t % len).collect::<Vec<_>>());
                assert_eq!((cursor.position(len), cursor.last(len)), (0, Some(len - 1)));
            }
        }
        assert_eq!(Cursor::default().next(0), None);
    }

    #[test]
    fn threads_share_every_turn_of_a_shared_cursor() {
        let cursor = Cursor::starting_at(0, 10, false);
        let mut counts = [0; 10];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..2500).map(|_| cursor.next(10).unwrap()).collect::<Vec<_>>()))
                .collect();
            for turn in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
                counts[turn] += 1;
            }
        });
        assert_eq!(counts, [1000; 10]);
    }
}
