//! Whose turn it is.

use alloc::boxed::Box;

use crossbeam_utils::CachePadded;
use lb_core::lane::{self, Alone};
use lb_core::sync::atomic::{AtomicU64, Ordering};

/// A counter that goes round. Shared, it gives every turn to exactly one of all threads; striped, threads that meet
/// go round on counters of their own, spread over the circle.
///
/// A counter begins two rounds ahead and falls back to the first with its first turn, so that one nobody has used yet
/// is told from one that stands at the same turn again.
#[derive(Debug)]
pub(crate) struct Cursor {
    turns: CachePadded<Stripe>,
    /// Those of the lanes behind the first, if it is striped.
    others: Box<[CachePadded<Stripe>]>,
    striped: bool,
}

/// The next turns of one [lane](lane#alone-on-a-lane).
#[derive(Debug)]
struct Stripe {
    alone: AtomicU64,
    /// The one that a shared cursor goes by.
    added: AtomicU64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self::starting_at(0, 0, false)
    }
}

impl Cursor {
    /// A cursor whose next turn is `turn`, in a circle of `len`.
    pub(crate) fn starting_at(turn: usize, len: usize, striped: bool) -> Self {
        let stripes = if striped { lane::count() } else { 1 };
        let starting = |part: usize| {
            let start = (turn + part * len / (2 * stripes)).checked_rem(len).unwrap_or(0);
            AtomicU64::new((start + 2 * len) as u64)
        };
        let stripe = |stripe: usize| {
            let part = 2 * stripe;
            let added = if striped { part + 1 } else { part };
            CachePadded::new(Stripe { alone: starting(part), added: starting(added) })
        };
        Self { turns: stripe(0), others: (1..stripes).map(stripe).collect(), striped }
    }

    pub(crate) fn striped(&self) -> bool {
        self.striped
    }

    /// That of a lane.
    #[inline]
    fn of(&self, lane: usize) -> &Stripe {
        lane.checked_sub(1).and_then(|other| self.others.get(other)).unwrap_or(&self.turns)
    }

    /// Where the thread goes round.
    fn counter(&self, alone: Option<Alone<'_>>) -> &AtomicU64 {
        match alone {
            Some(alone) if self.striped => &self.of(alone.lane()).alone,
            _ => &self.of(lane::mine()).added,
        }
    }

    /// The next turn in a circle of `len` if it needs no second thought; else it is still to be [taken](Self::take).
    #[inline]
    pub(crate) fn next(&self, len: usize, alone: Option<Alone<'_>>) -> Result<usize, Untaken> {
        let turn = if !self.striped {
            self.turns.added.fetch_add(1, Ordering::Relaxed)
        } else if let Some(alone) = alone {
            let mine = &self.of(alone.lane()).alone;
            let turn = mine.load(Ordering::Relaxed);
            mine.store(turn + 1, Ordering::Relaxed);
            turn
        } else {
            let mine = &self.of(lane::mine()).added;
            let turn = mine.load(Ordering::Relaxed);
            let next = mine.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
            next.map_err(|_| Untaken(None))?
        };
        if turn < len as u64 { Ok(turn as usize) } else { Err(Untaken(Some(turn))) }
    }

    /// Takes a turn that did not come at once: on another stripe, where threads have met; or past the end, round to the
    /// beginning. Only one turn in `len` divides; the counter is set back where nobody has moved it meanwhile, and else
    /// by a later turn: modulo `len` it is right all the time. `None` when `len` is 0.
    pub(crate) fn take(&self, untaken: Untaken, len: usize, alone: Option<Alone<'_>>) -> Option<usize> {
        let turn = match untaken.0 {
            Some(turn) => turn,
            None => self.of(lane::move_on()).added.fetch_add(1, Ordering::Relaxed),
        };
        let wrapped = turn.checked_rem(len as u64)?;
        if wrapped != turn {
            let counter = self.counter(alone);
            let _ = counter.compare_exchange(turn + 1, wrapped + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        Some(wrapped as usize)
    }

    /// Leaves out so many turns.
    pub(crate) fn skip(&self, turns: usize, alone: Option<Alone<'_>>) {
        self.counter(alone).fetch_add(turns as u64, Ordering::Relaxed);
    }

    /// The next turn in a circle of `len`, without taking it.
    pub(crate) fn position(&self, len: usize, alone: Option<Alone<'_>>) -> usize {
        let next = self.counter(alone).load(Ordering::Relaxed);
        next.checked_rem(len as u64).unwrap_or(0) as usize
    }

    /// The turn taken last, if any was: on the first lane, if it is striped.
    pub(crate) fn last(&self, len: usize) -> Option<usize> {
        let next = if self.striped { &self.turns.alone } else { &self.turns.added }.load(Ordering::Relaxed);
        if next >= 2 * len as u64 { None } else { (next + len as u64 - 1).checked_rem(len as u64) }
            .map(|turn| turn as usize)
    }

    /// The next turn of a successor, which goes on where the thread that makes it would.
    pub(crate) fn reached(&self, len: usize) -> usize {
        let mine = self.of(lane::mine());
        let next = if self.striped { &mine.alone } else { &mine.added }.load(Ordering::Relaxed);
        next.checked_rem(len as u64).unwrap_or(0) as usize
    }
}

/// A turn that takes a second thought: past the end, or not taken at all, as another thread was there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Untaken(Option<u64>);

#[cfg(all(test, not(loom)))]
mod tests {
    use lb_core::sync::Published;

    use super::*;

    fn next(cursor: &Cursor, len: usize, alone: Option<Alone<'_>>) -> Option<usize> {
        cursor.next(len, alone).or_else(|untaken| cursor.take(untaken, len, alone).ok_or(())).ok()
    }

    #[test]
    fn turns_go_round_and_none_is_skipped() {
        let published = Published::<()>::new(());
        let reading = published.read();
        let alone = reading.alone();
        assert!(alone.is_some());
        for len in [1, 2, 7] {
            for (striped, alone) in [(false, None), (false, alone), (true, alone)] {
                let cursor = Cursor::starting_at(0, len, striped);
                assert_eq!(cursor.last(len), None);
                let turns: Vec<_> = (0..3 * len).map(|_| next(&cursor, len, alone).unwrap()).collect();
                assert_eq!(turns, (0..3 * len).map(|t| t % len).collect::<Vec<_>>());
                let stands = (cursor.position(len, alone), cursor.reached(len), cursor.last(len));
                assert_eq!(stands, (0, 0, Some(len - 1)));
            }
        }
        assert_eq!(next(&Cursor::default(), 0, alone), None);
    }

    #[test]
    fn who_is_not_alone_takes_no_turn_of_who_is() {
        let published = Published::<()>::new(());
        let reading = published.read();
        let alone = reading.alone();
        let cursor = Cursor::starting_at(0, 100, true);
        let own = next(&cursor, 100, alone);
        assert_ne!(next(&cursor, 100, None), own);
        cursor.skip(3, None);
        assert_eq!((own, next(&cursor, 100, alone)), (Some(0), Some(1)));
    }

    #[test]
    fn threads_share_every_turn_of_a_shared_cursor() {
        let cursor = Cursor::starting_at(0, 10, false);
        let mut counts = [0; 10];
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..2500).map(|_| next(&cursor, 10, None).unwrap()).collect::<Vec<_>>())
                })
                .collect();
            for turn in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
                counts[turn] += 1;
            }
        });
        assert_eq!(counts, [1000; 10]);
    }
}
