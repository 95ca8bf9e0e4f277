//! A backend in use.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use crate::backend::Backend;
use crate::kept::{self, Number};
use crate::lane;
use crate::load::{Counters, Outcome};
use crate::pool::Spares;

/// A backend that serves a request, and is counted as busy with it while this lives. It derefs to the payload.
///
/// It can be sent to another thread, live across an `.await`, and outlive any change of the pool and the pool itself:
/// it ends on the very counters that it began on. Dropped, it ends without an outcome.
#[must_use = "a lease that is dropped ends the request"]
pub struct Lease<T> {
    held: Held<T>,
}

/// A closed connection that still counts as inactive on its backend while this lives.
#[must_use = "a lingering connection that is dropped is forgotten"]
pub struct Lingering<T> {
    _held: Held<T>,
}

/// One place in a backend's counters, given back exactly once. A pointer and a number, so that a lease travels in
/// registers.
pub(crate) struct Held<T> {
    reference: Arc<Reference<T>>,
    /// The [`Place`], above [`POSITION_BITS`] bits of the backend's position in the list that it was taken from, which is a hint.
    at: u32,
}

/// As many as number all members of a [pool](crate::Pool::MAX).
const POSITION_BITS: u32 = 24;

/// As what the request counts, and where: with its lane, or on the shared one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Nowhere = 0,
    Active = 1,
    ActiveShared = 2,
    Inactive = 3,
    InactiveShared = 4,
}

impl Place {
    #[inline]
    fn above(self, position: u32) -> u32 {
        (self as u32) << POSITION_BITS | position
    }
}

/// A backend and what counts its requests, as threads of one lane hold on to it: there is one for each [lane], so that
/// threads on different lanes do not meet at its reference count, and none of them is near what is read of the backend.
pub(crate) struct Reference<T> {
    /// Of its own lane.
    counters: Arc<Counters>,
    shared: Arc<Counters>,
    backend: Arc<Backend<T>>,
    watcher: Option<Arc<Watcher<T>>>,
    lane: usize,
    /// What a thread keeps of the pool.
    number: Number,
    /// Keeps the next one's count off this one's cache line, wherever the allocator puts it: both counts of an `Arc`
    /// and these fields are 128 bytes.
    _apart: [u64; 7],
}

/// Whom a pool tells of each end on one of its backends.
pub(crate) type Watcher<T> = dyn Watch<T> + Send + Sync;

/// Hears of each end.
pub(crate) trait Watch<T> {
    /// The backend has one active or inactive request less; its counters of that lane say so already.
    fn ended(&self, backend: &Arc<Backend<T>>, lane: usize, outcome: Option<Outcome>);
}

/// Where the ends of a pool's requests are reported.
pub(crate) struct Reports<T> {
    pub(crate) number: Number,
    pub(crate) watcher: Option<Arc<Watcher<T>>>,
}

impl<T> Clone for Reports<T> {
    fn clone(&self) -> Self {
        Self { number: self.number, watcher: self.watcher.clone() }
    }
}

impl<T> Reference<T> {
    /// How threads of `lane` hold on to `backend`.
    pub(crate) fn new(backend: &Arc<Backend<T>>, lane: usize, to: &Reports<T>) -> Self {
        let counters = |lane| Arc::clone(backend.load().lane(lane));
        Self {
            counters: counters(lane),
            shared: counters(lane::SHARED),
            backend: Arc::clone(backend),
            watcher: to.watcher.clone(),
            lane,
            number: to.number,
            _apart: [0; 7],
        }
    }
}

impl<T> Lease<T> {
    /// For a request that has just been counted there.
    #[inline]
    pub(crate) fn new(mut held: Held<T>, place: Place) -> Self {
        held.count(place);
        Self { held }
    }

    /// The backend.
    #[inline]
    pub fn backend(&self) -> &Arc<Backend<T>> {
        &self.held.reference.backend
    }

    /// The [lane] on which it counts.
    #[inline]
    pub fn lane(&self) -> usize {
        self.held.counted().0
    }

    /// Ends the request but goes on counting the connection as inactive, until what is returned is dropped. For
    /// directors that, like IPVS, remember closed connections for a while.
    pub fn close(mut self, outcome: Option<Outcome>) -> Lingering<T> {
        let held = &mut self.held;
        let (lane, counters) = held.counted();
        counters.close(outcome);
        let shared = held.place() == Place::ActiveShared;
        held.count(if shared { Place::InactiveShared } else { Place::Inactive });
        held.report(lane, outcome);
        Lingering { _held: self.held }
    }
}

impl<T: 'static> Lease<T> {
    /// Ends the request and says how it went. (It costs less than to drop the lease, on the thread that picked.)
    #[inline]
    pub fn finish(self, outcome: Outcome) {
        let number = self.held.reference.number;
        let mut held = Some(self.held);
        kept::with_local(number, |spares: &Spares<T>| {
            held = held.take().and_then(|held| spares.finish(held, outcome));
        });
        if let Some(mut held) = held {
            held.end(Some(outcome));
        }
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.backend().payload()
    }
}

impl<T: fmt::Debug> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.backend()).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Lingering<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lingering").field(&self._held.reference.backend).finish()
    }
}

impl<T> Held<T> {
    /// One more holder, who counts nowhere yet.
    #[inline]
    pub(crate) fn of(reference: &Arc<Reference<T>>, position: usize) -> Self {
        Self { reference: Arc::clone(reference), at: Place::Nowhere.above(position as u32) }
    }

    #[inline]
    pub(crate) fn position(&self) -> usize {
        (self.at & ((1 << POSITION_BITS) - 1)) as usize
    }

    #[inline]
    fn place(&self) -> Place {
        match self.at >> POSITION_BITS {
            1 => Place::Active,
            2 => Place::ActiveShared,
            3 => Place::Inactive,
            4 => Place::InactiveShared,
            _ => Place::Nowhere,
        }
    }

    /// From now on.
    #[inline]
    fn count(&mut self, place: Place) {
        self.at = place.above(self.position() as u32);
    }

    #[inline]
    pub(crate) fn holds(&self, reference: &Arc<Reference<T>>) -> bool {
        Arc::ptr_eq(&self.reference, reference)
    }

    /// The same as [`end`](Self::end), on a thread that has the lane for its own.
    #[inline]
    pub(crate) fn end_alone(&mut self, outcome: Outcome) {
        if self.place() == Place::Active && self.reference.watcher.is_none() {
            self.reference.counters.end_alone(Some(outcome));
            self.count(Place::Nowhere);
        } else {
            self.end(Some(outcome));
        }
    }

    /// On which lane it counts, and where.
    #[inline]
    fn counted(&self) -> (usize, &Counters) {
        let Reference { counters, shared, lane, .. } = &*self.reference;
        match self.place() {
            Place::ActiveShared | Place::InactiveShared => (lane::SHARED, shared),
            Place::Active | Place::Inactive | Place::Nowhere => (*lane, counters),
        }
    }

    #[inline]
    pub(crate) fn end(&mut self, outcome: Option<Outcome>) {
        let (lane, counters) = self.counted();
        match self.place() {
            Place::Active | Place::ActiveShared => counters.end(outcome),
            Place::Inactive | Place::InactiveShared => counters.expire(),
            Place::Nowhere => return,
        }
        self.count(Place::Nowhere);
        self.report(lane, outcome);
    }

    #[inline]
    fn report(&self, lane: usize, outcome: Option<Outcome>) {
        if let Some(watcher) = &self.reference.watcher {
            watcher.ended(&self.reference.backend, lane, outcome);
        }
    }
}

impl<T> Drop for Held<T> {
    #[inline]
    fn drop(&mut self) {
        self.end(None);
    }
}
