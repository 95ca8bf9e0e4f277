//! Which of several copies of a shared thing a thread uses.
//!
//! All threads begin on the first copy, so that a thread alone sees one sequence, whichever thread it is. A thread
//! that finds itself in another's way moves on to the next copy and stays there: the idea of Java's `Striped64`
//! (Doug Lea), with moving only on contention.

/// Copies of a striped thing. More threads than this share again.
pub(crate) const STRIPES: usize = if cfg!(all(feature = "std", not(loom))) { 16 } else { 1 };

#[cfg(all(feature = "std", not(loom)))]
mod hint {
    use core::cell::Cell;
    use core::sync::atomic::{AtomicUsize, Ordering};

    std::thread_local! {
        static MINE: Cell<usize> = const { Cell::new(0) };
    }

    /// The thread's stripe.
    #[inline]
    pub(crate) fn mine() -> usize {
        MINE.with(Cell::get)
    }

    /// Moves the thread to a stripe of its own, as far as there are any, and says which.
    pub(crate) fn move_on() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % super::STRIPES;
        MINE.with(|mine| mine.set(next));
        next
    }
}

#[cfg(not(all(feature = "std", not(loom))))]
mod hint {
    pub(crate) fn mine() -> usize {
        0
    }

    pub(crate) fn move_on() -> usize {
        0
    }
}

pub(crate) use hint::{mine, move_on};
