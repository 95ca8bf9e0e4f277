//! The one trait of all algorithms.
//!
//! A [`Scheduler`] is one *generation*: it belongs to one published [`Set`], is built from it by the generation
//! before, and is replaced with it. That one decision carries all of the algorithms:
//!
//! * **A table** (Maglev, the rotations) is built in [`rebuild`](Scheduler::rebuild), where nobody waits, and can
//!   never be out of step with the set that it indexes: both are published by one store.
//! * **A rotation's cursor** is carried from generation to generation, so that a change of the set does not send
//!   everybody to the first backend again. The old generation stays whole for the threads that still read it.
//! * **A tree that follows the load** hears of each start and end through [`started`](Scheduler::started) and
//!   [`finished`](Scheduler::finished). They carry a position in the *current* set: an end that comes two rebuilds
//!   later reaches the leaf that its backend has now, or nobody if the backend is gone. As counts live in
//!   [`Load`](lb_core::Load), a leaf can always be read anew, so nothing is lost between two generations
//!   ([`published`](Scheduler::published) reads all anew once the new one is visible).
//! * **What is learned** (a locality map, latencies that are not in `Load`) is handed on by reference counting in
//!   `rebuild`.
//! * **Probes** that only the caller can send (Prequal): [`ask`](Scheduler::ask) says whom to probe,
//!   [`answer`](Scheduler::answer) takes what came back.
//! * **The next best** choice: every algorithm asks [`Request::admits`] before it settles on a backend, and goes on
//!   in its own order when that says no. One question answers for a full backend, for a retry that avoids what was
//!   tried, and for a predicate of the caller's.
//! * **What goes around an algorithm** (tiers, zones, bounded load) is a scheduler itself, that holds others and
//!   shows them sets of their own.
//! * **A queue when all are full** is the caller's: `pick` says [`Full`](crate::PickError::Full), and the end of any
//!   lease is the moment to try again.
//! * **Known at compile time, or by name at run time**: `Balancer<T, RoundRobin>` calls directly;
//!   `Box<dyn Scheduler>` is a scheduler too, and what [`Algorithm`](crate::Algorithm) makes.
//!
//! Alternatives that were weighed: a long-lived scheduler with a separate table type needs a downcast, or an enum
//! over all tables, as soon as it is chosen by name; one that locks and updates itself in place is what the hot path
//! must not have.

use alloc::boxed::Box;
use core::fmt::Debug;
use core::time::Duration;

use lb_core::lane::Alone;
use lb_core::{Outcome, Set};

use crate::request::Request;

/// One algorithm, in the generation that belongs to one set. See the [module](self) for why it is shaped so.
///
/// ```
/// use lb_sched::{Balancer, Request, Scheduler, Set, Weight};
///
/// /// Always the last backend that will do.
/// #[derive(Debug)]
/// struct Last;
///
/// impl Scheduler for Last {
///     fn rebuild(&self, _set: &Set) -> Self {
///         Last
///     }
///
///     fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
///         (0..set.len()).rev().find(|&i| set.weights()[i] > 0 && request.admits(set, i))
///     }
/// }
///
/// let balancer = Balancer::with_scheduler(Last);
/// balancer.update([("a", Weight::ONE), ("b", Weight::ONE), ("c", Weight::ZERO)])?;
/// assert_eq!(*balancer.pick(&Request::new())?, "b");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Scheduler: Boxed + Debug + Send + Sync + 'static {
    /// The next generation, for `set`. Called where time does not press, by one thread at a time; picks on `self`
    /// go on meanwhile.
    fn rebuild(&self, set: &Set) -> Self
    where
        Self: Sized;

    /// The position in `set` of the backend for `request`; `None` when none of those that the algorithm would take
    /// is admitted. `set` is the one that this generation was built for.
    ///
    /// Takes no lock, allocates nothing, does not panic.
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize>;

    /// The same as [`pick`](Self::pick), with the [lane](lb_core::lane#alone-on-a-lane) on which the thread is alone, if it
    /// is: what an algorithm keeps by lane (stripes, random numbers) is then its own for the time. A balancer calls this.
    #[inline]
    fn pick_on(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        let _ = alone;
        self.pick(set, request)
    }

    /// Whether picks read how many requests the backends have. Then all threads count on the
    /// [shared](lb_core::lane::SHARED) counters of a backend, so that one cache line has them all; else each thread counts
    /// where no other does, which is cheaper. The same for all generations: it is asked once.
    #[inline]
    fn reads_load(&self) -> bool {
        false
    }

    /// Whether [`started`](Self::started) and [`finished`](Self::finished) are wanted: without them a lease is
    /// cheaper. The same for all generations: it is asked once.
    #[inline]
    fn wants_feedback(&self) -> bool {
        false
    }

    /// The backend at `position` has one more active request, counted on `lane`; its [`Load`](lb_core::Load) says so
    /// already.
    #[inline]
    fn started(&self, set: &Set, position: usize, lane: usize) {
        let _ = (set, position, lane);
    }

    /// The backend at `position` has one request less on `lane`, an active or an inactive one; its
    /// [`Load`](lb_core::Load) says so already. What outcome a request had is told once, when it stops being active.
    #[inline]
    fn finished(&self, set: &Set, position: usize, lane: usize, outcome: Option<Outcome>) {
        let _ = (set, position, lane, outcome);
    }

    /// This generation has just become the visible one. What it read of the loads while it was built may be stale:
    /// starts and ends in between went to the generation before.
    fn published(&self, set: &Set) {
        let _ = set;
    }

    /// The position of a backend that the algorithm wants probed now, if any.
    fn ask(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let _ = (set, request);
        None
    }

    /// What the backend at `position` answered to a probe.
    fn answer(&self, set: &Set, position: usize, answer: Answer) {
        let _ = (set, position, answer);
    }
}

/// What a backend says of itself when probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Requests that it is working on.
    pub in_flight: u32,
    /// How long it expects the next one to take.
    pub latency: Duration,
}

/// Lets `Box<dyn Scheduler>` rebuild itself. Every scheduler has it by itself.
pub trait Boxed {
    /// [`Scheduler::rebuild`], in a box.
    fn rebuild_boxed(&self, set: &Set) -> Box<dyn Scheduler>;
}

impl<S: Scheduler> Boxed for S {
    fn rebuild_boxed(&self, set: &Set) -> Box<dyn Scheduler> {
        Box::new(self.rebuild(set))
    }
}

impl Scheduler for Box<dyn Scheduler> {
    fn rebuild(&self, set: &Set) -> Self {
        (**self).rebuild_boxed(set)
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        (**self).pick(set, request)
    }

    #[inline]
    fn pick_on(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        (**self).pick_on(set, request, alone)
    }

    #[inline]
    fn reads_load(&self) -> bool {
        (**self).reads_load()
    }

    #[inline]
    fn wants_feedback(&self) -> bool {
        (**self).wants_feedback()
    }

    #[inline]
    fn started(&self, set: &Set, position: usize, lane: usize) {
        (**self).started(set, position, lane);
    }

    #[inline]
    fn finished(&self, set: &Set, position: usize, lane: usize, outcome: Option<Outcome>) {
        (**self).finished(set, position, lane, outcome);
    }

    fn published(&self, set: &Set) {
        (**self).published(set);
    }

    fn ask(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        (**self).ask(set, request)
    }

    fn answer(&self, set: &Set, position: usize, answer: Answer) {
        (**self).answer(set, position, answer);
    }
}
