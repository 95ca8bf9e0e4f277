//! A set of backends that changes while it is used.
//!
//! Readers see one immutable [`Snapshot`] at a time and wait for nobody. A change copies the list of members, changes
//! the copy, and publishes it whole; if it fails, nothing has changed. Counters belong to a backend, not to a
//! snapshot, so they go on through every change, and a request that began under an old snapshot ends on the counters
//! that it began on.

mod edit;
mod list;
mod view;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::backend::{Backend, Spec};
use crate::lane;
use crate::lease::{Held, Lease, Place, Reports, Watch, Watcher};
use crate::load::Outcome;
use crate::set::Set;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, Published};

pub use edit::{Edit, Entry};
use list::{List, Seat, Seats, seats};
pub(crate) use view::Spares;
pub use view::View;

/// Why a pool was not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Two backends of one update have the same name.
    #[error("backend {name:?} is named twice; give each backend of a pool a name of its own")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// No backend of the pool has this name.
    #[error("no backend is called {name:?}; the pool has {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Some that it has.
        known: String,
    },
    /// More members than a snapshot can number.
    #[error("{count} backends are more than a pool holds; split them over pools of at most {max}")]
    TooMany {
        /// As many as were given.
        count: usize,
        /// As many as may be.
        max: usize,
    },
}

/// One published state of a [`Pool`]: never changes.
#[derive(Debug)]
pub struct Snapshot<T, D = ()> {
    derived: D,
    set: Set,
    list: List<T>,
}

impl<T, D> Snapshot<T, D> {
    /// The backends, in the order of [`set`](Self::set).
    #[inline]
    pub fn backends(&self) -> &[Arc<Backend<T>>] {
        &self.list.backends
    }

    /// Counts a request on the backend at `position`, whatever its limit; `None` when there is no such position.
    ///
    /// Threads that meet count on [lanes](crate::lane) of their own.
    #[inline]
    pub fn start(&self, position: usize) -> Option<Lease<T>> {
        let Seat { reference, counters } = self.list.seat(lane::mine(), position)?;
        counters.start();
        Some(Lease::new(Held::of(reference, position), Place::Active))
    }

    /// Counts a request on the backend at `position` where all threads count; `None` when it has as many as its limit
    /// allows, or there is no such position.
    #[inline]
    pub fn start_shared(&self, position: usize) -> Option<Lease<T>> {
        let seat = self.list.seat(lane::mine(), position)?;
        self.start_shared_on(seat, position, |seat| Held::of(&seat.reference, position))
    }

    #[inline]
    fn start_shared_on(
        &self,
        seat: &Seat<T>,
        position: usize,
        hold: impl FnOnce(&Seat<T>) -> Held<T>,
    ) -> Option<Lease<T>> {
        if self.set.limited() {
            let member = self.set.get(position)?;
            if !member.load.start_within(member.limit) {
                return None;
            }
        } else {
            self.list.first.get(position)?.counters.start();
        }
        Some(Lease::new(hold(seat), Place::ActiveShared))
    }

    /// The position of a backend in this state.
    #[inline]
    fn position(&self, backend: &Arc<Backend<T>>) -> Option<usize> {
        let place = backend.place.load(Ordering::Relaxed) as usize;
        match self.list.backends.get(place) {
            Some(there) if Arc::ptr_eq(there, backend) => Some(place),
            _ => self.set.position(backend.id),
        }
    }

    /// The same backends as schedulers see them.
    #[inline]
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// What was built from the set when this state was made.
    #[inline]
    pub fn derived(&self) -> &D {
        &self.derived
    }

    /// The backend of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Backend<T>>> {
        self.backends().iter().find(|backend| backend.name() == name)
    }
}

/// Backends, published as immutable snapshots, each with a `D` built from it (a scheduler's tables).
pub struct Pool<T, D = ()> {
    live: Arc<Live<T, D>>,
    /// The version of the set that is published, or is about to be.
    version: AtomicU64,
    writer: Mutex<()>,
    derive: fn(&D, &Set) -> D,
    reports: Reports<T>,
}

impl<T: fmt::Debug, D: fmt::Debug> fmt::Debug for Pool<T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.live.published).finish()
    }
}

/// What leases reach of a pool that wants to hear of them.
#[derive(Debug)]
struct Live<T, D> {
    published: Published<Snapshot<T, D>, Spares<T>>,
    ended: Ended<D>,
}

/// Hears that the member of the set at a position has one request less on a lane.
type Ended<D> = fn(&D, &Set, usize, usize, Option<Outcome>);

impl<T: 'static, D: 'static> Watch<T> for Live<T, D> {
    fn ended(&self, backend: &Arc<Backend<T>>, lane: usize, outcome: Option<Outcome>) {
        let snapshot = self.published.read();
        if let Some(position) = snapshot.position(backend) {
            (self.ended)(&snapshot.derived, &snapshot.set, position, lane, outcome);
        }
    }
}

impl<T: 'static> Pool<T> {
    /// An empty pool from which nothing is derived.
    pub fn new() -> Self {
        Self::deriving((), |(), _| ())
    }
}

impl<T: 'static> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static, D: Send + Sync + 'static> Pool<T, D> {
    /// The same as [`deriving`](Self::deriving), where `ended` hears of every end of a request: with what is derived
    /// and the set as they are then, the backend's position in that, if it is still there, and the [lane]
    /// on which it counted. (It hears of no start: whoever starts a request knows.)
    pub fn watching(
        first: D,
        derive: fn(&D, &Set) -> D,
        ended: fn(&D, &Set, usize, usize, Option<Outcome>),
    ) -> Self {
        let mut pool = Self::unwatched(first, derive, ended);
        pool.reports.watcher = Some(Arc::clone(&pool.live) as Arc<Watcher<T>>);
        pool
    }
}

impl<T: 'static, D: 'static> Pool<T, D> {
    /// As many members as a pool can have.
    pub const MAX: usize = 1 << 24;

    /// An empty pool; each new snapshot carries what `derive` builds from the last one's and the new set.
    pub fn deriving(first: D, derive: fn(&D, &Set) -> D) -> Self {
        Self::unwatched(first, derive, |_, _, _, _, _| ())
    }

    fn unwatched(first: D, derive: fn(&D, &Set) -> D, ended: Ended<D>) -> Self {
        let set = Set::default();
        let derived = derive(&first, &set);
        let list = List::new(Vec::new(), Vec::new());
        let published = Published::new(Snapshot { list, set, derived });
        Self {
            version: AtomicU64::new(0),
            writer: Mutex::default(),
            derive,
            reports: Reports { number: published.number(), watcher: None },
            live: Arc::new(Live { published, ended }),
        }
    }

    /// Whether this is the newest snapshot: cheaper than to look at that.
    #[inline]
    pub fn is_current(&self, snapshot: &Snapshot<T, D>) -> bool {
        self.version.load(Ordering::SeqCst) == snapshot.set.version()
    }

    /// The current snapshot, to read now: without waiting, and without an atomic operation where the thread has read it before.
    /// (The first time after a change it allocates.)
    ///
    /// A thread keeps what it has read, until it next reads something that has changed, [leaves](lane::leave) or ends: so a
    /// backend that is taken out goes when the last thread that has seen it has read again.
    #[inline(always)]
    pub fn read(&self) -> View<'_, T, D> {
        View { reading: self.live.published.read(), heard: self.reports.watcher.is_some() }
    }

    /// The current snapshot, to keep.
    pub fn snapshot(&self) -> Arc<Snapshot<T, D>> {
        self.live.published.get()
    }

    /// Makes the pool hold exactly these backends, in this order. A backend whose name is there already stays the
    /// same node: it keeps its id and its counters, and every setting that its spec leaves out.
    ///
    /// # Errors
    /// [`UpdateError::Duplicate`], [`UpdateError::TooMany`]: the pool is as it was.
    pub fn update<I>(&self, backends: I) -> Result<(), UpdateError>
    where
        I: IntoIterator,
        I::Item: Into<Spec<T>>,
    {
        self.edit(|edit| edit.replace(backends.into_iter().map(Into::into).collect()))
    }

    /// Changes several things at once: readers see all of them or none. If `change` fails, nothing has changed.
    ///
    /// A change that leaves everything as it was is not published, and disturbs no rotation; but see
    /// [`Edit::announce`].
    ///
    /// `change` runs under the lock of all writers: it must not change this pool through another handle.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn edit<R, E>(&self, change: impl FnOnce(&mut Edit<T>) -> Result<R, E>) -> Result<R, E> {
        let alone = self.writer.lock();
        let old = self.snapshot();
        let mut edit = Edit::of(&old, self.reports.clone());
        // Payloads that are gone are dropped with the old state, or with the edit if it fails, and their destructors may
        // change this very pool: so after the lock.
        let result = match change(&mut edit) {
            Ok(result) => result,
            Err(error) => {
                drop(alone);
                return Err(error);
            }
        };
        let changed = edit.announced || !edit.is_as(&old);
        let replaced = changed.then(|| {
            let next = edit.publishable(&old, self.derive);
            // First: who still sees the old number is seen by whoever reads the loads after publishing.
            self.version.store(next.set.version(), Ordering::SeqCst);
            self.live.published.replace(next)
        });
        drop(alone);
        if replaced.is_some() {
            self.live.published.forget();
        }
        drop((replaced, old));
        Ok(result)
    }
}

/// A watched pool and its snapshot hold each other, by way of the references: this ends it. Leases that are left find
/// an empty set.
impl<T, D> Drop for Pool<T, D> {
    fn drop(&mut self) {
        if self.reports.watcher.take().is_some() {
            let (set, list) = (Set::default(), List::new(Vec::new(), Vec::new()));
            let derived = (self.derive)(&self.live.published.get().derived, &set);
            drop(self.live.published.replace(Snapshot { list, set, derived }));
            self.live.published.forget();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::backend::{Admin, Health, Weight};
    use crate::load::Load;

    fn names<D: 'static>(pool: &Pool<&'static str, D>) -> Vec<String> {
        pool.snapshot().set().iter().map(|m| m.name.as_ref().into()).collect()
    }

    #[test]
    fn a_name_that_stays_keeps_its_node_and_its_settings() {
        let pool = Pool::new();
        pool.update([Spec::new("a", 1), Spec::new("b", 2).weight(5)]).unwrap();
        let before = pool.snapshot();
        let lease = before.start(1).unwrap();
        pool.edit(|edit| edit.entry("b").map(|entry| entry.health = Health::Down)).unwrap();

        pool.update([Spec::new("c", 3), Spec::new("b", 22)]).unwrap();
        let after = pool.snapshot();
        let b = after.find("b").unwrap();
        assert_eq!((b.id(), ***b, b.load().active()), (before.backends()[1].id(), 22, 1));
        let member = &after.set()[1];
        assert_eq!((member.settings.weight, member.health), (Weight::new(5), Health::Down));
        drop(lease);
        assert_eq!(b.load().active(), 0, "an end under the old snapshot is seen in the new one");
        assert!(after.set().version() > before.set().version());
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let pool = Pool::new();
        pool.update([("a", Weight::ONE), ("b", Weight::ONE)]).unwrap();
        let version = pool.snapshot().set().version();
        let twice = pool.update([("x", Weight::ONE), ("x", Weight::ONE)]);
        assert_eq!(twice, Err(UpdateError::Duplicate { name: "x".into() }));
        let half = pool.edit(|edit| {
            edit.entry("a")?.admin = Admin::Drain;
            edit.remove("z")
        });
        let message = half.unwrap_err().to_string();
        assert_eq!(message, "no backend is called \"z\"; the pool has a, b");
        assert_eq!(pool.edit(|edit| edit.insert(("a", Weight::ONE))).unwrap_err(), duplicate("a"));
        assert_eq!(names(&pool), ["a", "b"]);
        assert_eq!(pool.snapshot().set()[0].admin, Admin::Ready);
        assert_eq!(pool.snapshot().set().version(), version);
    }

    fn duplicate(name: &str) -> UpdateError {
        UpdateError::Duplicate { name: name.into() }
    }

    #[test]
    fn the_last_weight_that_counted_is_remembered() {
        let pool = Pool::new();
        pool.update([("a", Weight::new(7))]).unwrap();
        pool.edit(|edit| edit.entry("a").map(|entry| entry.weight = Weight::ZERO)).unwrap();
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.set()[0].weight, snapshot.set()[0].last_weight), (0, Weight::new(7)));
    }

    #[test]
    fn a_payload_that_goes_may_change_its_pool() {
        struct Remover(Arc<Pool<Option<Remover>>>);
        impl Drop for Remover {
            fn drop(&mut self) {
                let removed = self.0.edit(|edit| edit.remove("other"));
                assert!(removed.is_ok_and(|other| other.payload().is_none()));
            }
        }
        let pool = Arc::new(Pool::new());
        let remover = || Some(Remover(Arc::clone(&pool)));
        for fails in [false, true] {
            pool.update([Spec::new("other", None)]).unwrap();
            let result = pool.edit(|edit| {
                edit.insert(Spec::new("new", remover()))?;
                if fails { edit.entry("nobody").map(|_| ()) } else { Ok(()) }
            });
            assert_eq!(result.is_err(), fails);
            if !fails {
                pool.edit(|edit| edit.remove("new").map(drop)).unwrap();
            }
            assert!(pool.snapshot().set().is_empty());
        }
    }

    #[test]
    fn a_payload_goes_with_the_last_lease_on_it() {
        let payload = Arc::new(());
        let pool = Pool::new();
        pool.update([Spec::new("a", Arc::clone(&payload))]).unwrap();
        let lease = pool.read().start(0).unwrap();
        pool.edit(|edit| edit.remove("a").map(drop)).unwrap();
        assert_eq!(Arc::strong_count(&payload), 2, "in use");
        drop(lease);
        assert_eq!(Arc::strong_count(&payload), 1);
    }

    #[test]
    fn a_watching_pool_hears_of_ends_until_it_is_gone() {
        static HEARD: AtomicU64 = AtomicU64::new(0);
        let payload = Arc::new(());
        let pool = Pool::watching(
            (),
            |(), _| (),
            |(), set, position, lane, outcome| {
                assert_eq!((&*set[position].name, lane), ("b", lane::SHARED));
                assert_eq!(outcome.is_some(), HEARD.fetch_add(1, Ordering::Relaxed) == 0);
            },
        );
        pool.update(["a", "b"].map(|name| Spec::new(name, Arc::clone(&payload)))).unwrap();
        let [first, second, third] =
            [1, 1, 1].map(|position| pool.snapshot().start_shared(position).unwrap());
        pool.edit(|edit| edit.remove("a").map(drop)).unwrap();
        first.finish(Outcome::Failure);
        drop(second);
        assert_eq!(HEARD.load(Ordering::Relaxed), 2, "at its new position");
        drop(pool);
        assert_eq!(Arc::strong_count(&payload), 2, "only the lease holds on to it");
        drop(third);
        assert_eq!((HEARD.load(Ordering::Relaxed), Arc::strong_count(&payload)), (2, 1));
    }

    #[test]
    fn a_lease_lingers_after_its_close() {
        let pool = Pool::new();
        pool.update([Spec::new("a", 7)]).unwrap();
        let load = Arc::clone(pool.snapshot().backends()[0].load());
        for shared in [false, true] {
            let snapshot = pool.snapshot();
            let lease = if shared { snapshot.start_shared(0) } else { snapshot.start(0) }.unwrap();
            assert_eq!((*lease, load.active(), load.inactive()), (7, 1, 0));
            let lingering = lease.close(Some(Outcome::Cancelled));
            assert_eq!((load.active(), load.inactive()), (0, 1));
            drop(lingering);
            assert_eq!((load.active(), load.inactive()), (0, 0));
        }
        assert_eq!((load.cancelled(), load.finished()), (2, 2));
        assert!(pool.snapshot().start(1).is_none() && pool.snapshot().start_shared(1).is_none());
    }

    #[test]
    fn a_reader_within_a_reader_counts_too() {
        let pool = Pool::new();
        pool.update([Spec::new("a", 7)]).unwrap();
        let outer = pool.read();
        assert!(outer.alone().is_some());
        let inner = pool.read();
        let leases = [outer.start(0), inner.start(0), outer.start_shared(0), inner.start_shared(0)];
        let load = Arc::clone(pool.snapshot().backends()[0].load());
        assert_eq!(load.active(), 4);
        drop(leases);
        assert_eq!((load.active(), load.finished()), (0, 4));
    }

    #[test]
    fn what_a_thread_keeps_of_leases_goes_with_the_backend() {
        let payload = Arc::new(());
        let pool = Pool::new();
        let named = |name: &str| Spec::new(name, Arc::clone(&payload));
        pool.update(["a", "b"].map(named)).unwrap();
        for position in [0, 1, 1, 0] {
            pool.read().start(position).unwrap().finish(Outcome::Failure);
        }
        let kept = pool.read().start(0).unwrap();
        pool.edit(|edit| edit.remove("a").map(drop)).unwrap();
        kept.finish(Outcome::Cancelled);
        assert_eq!(Arc::strong_count(&payload), 2, "b's and this");
        pool.read().start(0).unwrap().finish(Outcome::Failure);
        drop(pool);
        assert_eq!(Arc::strong_count(&payload), 1);
    }

    /// Leases that begin and end on any thread, while backends come, go and change places.
    #[test]
    fn no_request_is_lost_wherever_it_ends() {
        const THREADS: usize = 6;
        let pool = Pool::new();
        let all: Vec<Spec<()>> = (0..5).map(|i| Spec::new(format!("{i}"), ())).collect();
        pool.update(all.clone()).unwrap();
        let loads: Vec<_> = pool.snapshot().backends().iter().map(|one| Arc::clone(one.load())).collect();
        let last = all.len() - 1;
        let success = Outcome::Success { latency: core::time::Duration::from_millis(1) };
        let (sender, receiver) = std::sync::mpsc::channel::<Lease<()>>();
        let receiver = std::sync::Mutex::new(receiver);
        let started: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (pool, receiver, sender) = (&pool, &receiver, sender.clone());
                    scope.spawn(move || {
                        let mut started = 0;
                        for turn in 0..4_000 {
                            let position = (turn * 7 + thread) % 5;
                            let shared = turn % 11 == 0;
                            let start = |view: &View<'_, ()>| {
                                if shared { view.start_shared(position) } else { view.start(position) }
                            };
                            // The last of the list comes and goes, and is another one then: not counted here.
                            let Some(lease) =
                                start(&pool.read()).filter(|lease| lease.backend().name() != "4")
                            else {
                                continue;
                            };
                            started += 1;
                            match turn % 5 {
                                0 => drop(sender.send(lease)),
                                1 => drop(lease),
                                2 => drop(lease.close(Some(success))),
                                _ => lease.finish(success),
                            }
                            if turn % 3 == 0 {
                                let sent = receiver.lock().unwrap().try_recv();
                                sent.into_iter().for_each(|lease| lease.finish(Outcome::Failure));
                            }
                        }
                        started
                    })
                })
                .collect();
            for turn in 0..300 {
                let mut list = all.clone();
                list.truncate(last + usize::from(turn % 2 == 0));
                list.rotate_left(turn % 4);
                pool.update(list).unwrap();
            }
            let started = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            receiver.lock().unwrap().try_iter().for_each(|lease| lease.finish(success));
            started
        });
        let sum = |count: fn(&Load) -> u64| loads[..last].iter().map(|load| count(load)).sum::<u64>();
        assert_eq!(sum(|load| u64::from(load.active()) + u64::from(load.inactive())), 0);
        assert_eq!(sum(Load::finished), started);
    }

    #[test]
    fn nobody_is_alone_where_ends_are_heard_of() {
        let pool = Pool::<u8>::watching((), |(), _| (), |(), _, _, _, _| ());
        assert!(pool.read().alone().is_none());
    }

    #[test]
    fn what_is_derived_is_built_from_the_last_one() {
        let pool: Pool<&str, usize> = Pool::deriving(0, |before, set| before + set.len());
        pool.update([("a", Weight::ONE), ("b", Weight::ONE)]).unwrap();
        pool.edit(|edit| edit.insert(("c", Weight::ONE))).unwrap();
        assert_eq!(*pool.snapshot().derived(), 2 + 3);
        pool.edit(|edit| edit.remove("a")).unwrap();
        assert_eq!(names(&pool), ["b", "c"]);
    }
}
