//! Which of several copies of a shared thing a thread uses, so that threads do not pass cache lines to and fro.
//!
//! All threads begin on the first lane; one that finds itself in another's way moves to a lane of its own and stays there:
//! the idea of Java's `Striped64` (Doug Lea), with moving only on contention.
//!
//! # Alone on a lane
//! An atomic addition takes 2 to 9 ns, even where nobody else comes by; a load and a store take none of that. So the first
//! thread that reads a pool takes that pool's first lane for its own, the second the second one, and so on as far as there
//! are any, and each gives it back when it ends. Who reads on a lane of its own is [`Alone`] there. What belongs to one lane
//! of a pool is there twice (two counts that add up, two places in a rotation, two streams of random numbers):
//!
//! * one is written by who is alone, with a load and a store. Nobody else writes it, and taking the lane shows each what the
//!   one before wrote, so nothing is lost;
//! * the other is for those who are not alone: more threads than there are lanes. They change it by atomic additions.
//!
//! Everyone may read both at any time.

#[cfg(any(all(feature = "std", not(loom)), all(test, loom)))]
mod own;

use alloc::vec::Vec;
use core::marker::PhantomData;

#[cfg(all(feature = "std", not(loom)))]
pub(crate) use own::{Lanes, Own};

/// The lane on which all threads begin, and which they share where one counter must be exact.
pub const SHARED: usize = 0;

/// The calling thread is alone on a lane of one pool, as long as it reads that: nobody else writes what the lane's are
/// there. (Kept for another pool it would let two threads have one turn or one random number; counts take only their own.)
#[derive(Debug, Clone, Copy)]
pub struct Alone<'a> {
    lane: usize,
    /// Neither outlives the reading nor goes to another thread.
    here: PhantomData<&'a *const ()>,
}

impl Alone<'_> {
    /// For who has `lane` for its own, or holds its lock.
    #[inline]
    pub(crate) fn on(lane: usize) -> Self {
        Self { lane, here: PhantomData }
    }

    /// The lane.
    #[inline]
    pub fn lane(self) -> usize {
        self.lane
    }
}

/// More lanes than this are never used, so that reading all of them stays cheap.
pub const MOST: usize = 16;

/// Lets go of all that the thread keeps of pools: their newest snapshots that it has read, and its lanes. It gets them
/// again when it reads again. For a thread that is going to be idle for long, so that what is taken out of a pool
/// meanwhile goes.
pub fn leave() {
    crate::kept::leave();
}

#[cfg(all(feature = "std", not(loom)))]
mod imp {
    use core::cell::Cell;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::OnceLock;

    std::thread_local! {
        static MINE: Cell<usize> = const { Cell::new(super::SHARED) };
    }

    /// How many lanes have been handed out so far.
    static USED: AtomicUsize = AtomicUsize::new(1);

    /// How many lanes there are: two for each processor that the program may use, as some threads that have one may be idle,
    /// up to [`MOST`](super::MOST).
    pub fn count() -> usize {
        static COUNT: OnceLock<usize> = OnceLock::new();
        *COUNT.get_or_init(|| {
            std::thread::available_parallelism().map_or(1, |cpus| (2 * cpus.get()).min(super::MOST))
        })
    }

    /// How many lanes any thread may have used so far.
    #[inline]
    pub fn used() -> usize {
        USED.load(Ordering::Relaxed)
    }

    /// The thread's lane, below [`count`].
    #[inline]
    pub fn mine() -> usize {
        MINE.with(Cell::get)
    }

    /// Moves the thread to another lane, as far as there are any, and says which.
    #[cold]
    pub fn move_on() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let lane = NEXT.fetch_add(1, Ordering::Relaxed) % count();
        USED.fetch_max(lane + 1, Ordering::SeqCst);
        MINE.with(|mine| mine.set(lane));
        lane
    }

    /// The thread is alone on `lane` of a pool. If that is not the first, it has met another thread there, and moves too.
    pub(super) fn settle(lane: usize) {
        USED.fetch_max(lane + 1, Ordering::SeqCst);
        if lane != super::SHARED && mine() == super::SHARED {
            MINE.with(|mine| mine.set(lane));
        }
    }
}

#[cfg(not(all(feature = "std", not(loom))))]
mod imp {
    /// Without threads' own storage all share one lane.
    pub fn count() -> usize {
        1
    }

    /// One lane is in use.
    pub fn used() -> usize {
        1
    }

    /// The only lane.
    pub fn mine() -> usize {
        super::SHARED
    }

    /// There is no other.
    pub fn move_on() -> usize {
        super::SHARED
    }

    /// There is nothing to remember.
    #[cfg(all(test, loom))]
    pub(super) fn settle(_lane: usize) {}
}

pub use imp::{count, mine, move_on, used};

/// Makes a thing for each of `items` and each lane; `make` gets the item's number and the lane's. They are made lane by
/// lane, so that those of one lane are neighbours in memory, and given out item by item.
pub(crate) fn by_lane<T>(items: usize, make: impl Fn(usize, usize) -> T) -> impl Iterator<Item = Vec<T>> {
    let lanes: Vec<Vec<T>> =
        (0..count()).map(|lane| (0..items).map(|item| make(item, lane)).collect()).collect();
    let mut lanes: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
    (0..items).map(move |_| lanes.iter_mut().filter_map(Iterator::next).collect())
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn things_are_made_lane_by_lane() {
        let made = core::cell::Cell::new(0);
        let make = |item, lane| (item, lane, made.replace(made.get() + 1));
        for (item, things) in by_lane(3, make).enumerate() {
            assert_eq!(things.len(), count());
            for (lane, &thing) in things.iter().enumerate() {
                assert_eq!(thing, (item, lane, 3 * lane + item));
            }
        }
        assert_eq!(made.get(), 3 * count());
    }

    #[test]
    fn a_thread_stays_on_the_first_lane_until_it_moves() {
        std::thread::spawn(|| {
            assert_eq!(mine(), SHARED);
            let lane = move_on();
            assert_eq!(mine(), lane);
            assert!(lane < count() && lane < used() && used() <= count().max(1));
        })
        .join()
        .unwrap();
        assert_eq!(std::thread::spawn(mine).join().unwrap(), SHARED);
    }
}
