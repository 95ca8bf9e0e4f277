//! A backend in use.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use lb_core::pool::Handle;
use lb_core::{Backend, BackendId, Outcome};

/// Where a lease reports to when its scheduler follows the load.
pub(crate) trait Feedback: Send + Sync {
    fn load_changed(&self, backend: BackendId, outcome: Option<Outcome>);
}

/// A backend that was chosen for a request, and is counted as busy with it while this lives. It derefs to the
/// payload.
///
/// It can be sent to another thread, live across an `.await`, and outlive any change of the pool and the balancer
/// itself: it ends on the very counters that it began on. Dropped, it ends without an outcome.
#[must_use = "a lease that is dropped ends the request"]
pub struct Lease<T> {
    held: Held<T>,
}

impl<T> Lease<T> {
    #[inline]
    pub(crate) fn new(handle: Handle<T>, lane: usize, feedback: Option<Arc<dyn Feedback>>) -> Self {
        Self { held: Held { handle, feedback, lane: lane as u32, stage: Stage::Active } }
    }

    /// The backend.
    #[inline]
    pub fn backend(&self) -> &Arc<Backend<T>> {
        self.held.backend()
    }

    /// Ends the request and says how it went.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        self.held.end(Some(outcome));
    }

    /// Ends the request but goes on counting the connection as inactive, until what is returned is dropped. For
    /// directors that, like IPVS, remember closed connections for a while.
    #[inline]
    pub fn close(mut self, outcome: Option<Outcome>) -> Lingering<T> {
        let held = &mut self.held;
        held.handle.load().close(held.lane as usize, outcome);
        held.stage = Stage::Inactive;
        held.report(outcome);
        Lingering { _held: self.held }
    }
}

impl<T> Deref for Lease<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.held.backend().payload()
    }
}

impl<T: fmt::Debug> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(self.held.backend()).finish()
    }
}

/// A closed connection that still counts as inactive on its backend while this lives.
#[must_use = "a lingering connection that is dropped is forgotten"]
pub struct Lingering<T> {
    _held: Held<T>,
}

impl<T: fmt::Debug> fmt::Debug for Lingering<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lingering").field(self._held.backend()).finish()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Active,
    Inactive,
    Ended,
}

/// One place in a backend's counters, given back exactly once.
struct Held<T> {
    handle: Handle<T>,
    feedback: Option<Arc<dyn Feedback>>,
    /// On which the request began.
    lane: u32,
    stage: Stage,
}

impl<T> Held<T> {
    #[inline]
    fn backend(&self) -> &Arc<Backend<T>> {
        self.handle.backend()
    }

    #[inline]
    fn end(&mut self, outcome: Option<Outcome>) {
        match self.stage {
            Stage::Active => self.handle.load().end(self.lane as usize, outcome),
            Stage::Inactive => self.handle.load().expire(self.lane as usize),
            Stage::Ended => return,
        }
        self.stage = Stage::Ended;
        self.report(outcome);
    }

    #[inline]
    fn report(&self, outcome: Option<Outcome>) {
        if let Some(feedback) = &self.feedback {
            feedback.load_changed(self.backend().id(), outcome);
        }
    }
}

impl<T> Drop for Held<T> {
    #[inline]
    fn drop(&mut self) {
        self.end(None);
    }
}
