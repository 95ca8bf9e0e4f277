//! A backend in use.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use crate::backend::Backend;
use crate::lane;
use crate::load::{Counters, Outcome};

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
struct Held<T> {
    reference: Arc<Reference<T>>,
    place: Place,
}

/// As what the request counts, and where: with its lane, or on the shared one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Active,
    ActiveShared,
    Inactive,
    InactiveShared,
    Nowhere,
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
    /// Keeps the next one's count off this one's cache line, wherever the allocator puts it: both counts of an `Arc`
    /// and these fields are 128 bytes.
    _apart: [u64; 8],
}

/// Whom a pool tells of each end on one of its backends.
pub(crate) type Watcher<T> = dyn Watch<T> + Send + Sync;

/// Hears of each end.
pub(crate) trait Watch<T> {
    /// The backend has one active or inactive request less; its counters of that lane say so already.
    fn ended(&self, backend: &Arc<Backend<T>>, lane: usize, outcome: Option<Outcome>);
}

impl<T> Reference<T> {
    /// How threads of `lane` hold on to `backend`.
    pub(crate) fn new(backend: &Arc<Backend<T>>, lane: usize, watcher: Option<&Arc<Watcher<T>>>) -> Self {
        let counters = |lane| Arc::clone(backend.load().lane(lane));
        Self {
            counters: counters(lane),
            shared: counters(lane::SHARED),
            backend: Arc::clone(backend),
            watcher: watcher.cloned(),
            lane,
            _apart: [0; 8],
        }
    }
}

impl<T> Lease<T> {
    /// For a request that has just been counted.
    #[inline]
    pub(crate) fn new(reference: &Arc<Reference<T>>, place: Place) -> Self {
        Self { held: Held { reference: Arc::clone(reference), place } }
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

    /// Ends the request and says how it went.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        self.held.end(Some(outcome));
    }

    /// Ends the request but goes on counting the connection as inactive, until what is returned is dropped. For
    /// directors that, like IPVS, remember closed connections for a while.
    pub fn close(mut self, outcome: Option<Outcome>) -> Lingering<T> {
        let held = &mut self.held;
        let (lane, counters) = held.counted();
        counters.close(outcome);
        held.place = if held.place == Place::ActiveShared { Place::InactiveShared } else { Place::Inactive };
        held.report(lane, outcome);
        Lingering { _held: self.held }
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
    /// On which lane it counts, and where.
    #[inline]
    fn counted(&self) -> (usize, &Counters) {
        let Reference { counters, shared, lane, .. } = &*self.reference;
        match self.place {
            Place::ActiveShared | Place::InactiveShared => (lane::SHARED, shared),
            Place::Active | Place::Inactive | Place::Nowhere => (*lane, counters),
        }
    }

    #[inline]
    fn end(&mut self, outcome: Option<Outcome>) {
        let (lane, counters) = self.counted();
        match self.place {
            Place::Active | Place::ActiveShared => counters.end(outcome),
            Place::Inactive | Place::InactiveShared => counters.expire(),
            Place::Nowhere => return,
        }
        self.place = Place::Nowhere;
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
