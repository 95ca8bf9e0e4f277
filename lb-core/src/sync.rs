//! The few primitives that differ between std, `no_std` and loom's model checker, behind one name each.

#[cfg(loom)]
pub use loom::sync::atomic;

#[cfg(not(loom))]
pub use core::sync::atomic;

use alloc::sync::Arc;

use crate::lane::Alone;

/// A value that one place replaces whole and many read.
///
/// With `std` a reader waits for nobody (`arc-swap`). Without it there are no thread-locals to build that on, so a
/// reader holds a spin lock for the length of one reference-count increment; loom's own lock stands in under its
/// model checker.
#[derive(Debug)]
pub struct Published<T>(imp::Cell<T>);

impl<T> Published<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(imp::Cell::new(Arc::new(value)))
    }

    /// Runs `read` on the value that is current when the call begins, and says whether the thread is [`Alone`] on its
    /// lane with it.
    // Always inline, down to the lock: what a call saves must have reached the cache before the next atomic operation goes
    // on, which is 2 ns of a pick.
    #[inline(always)]
    pub fn with<R>(&self, read: impl FnOnce(&T, Option<Alone<'_>>) -> R) -> R {
        self.0.with(read)
    }

    /// The current value, to keep.
    pub fn get(&self) -> Arc<T> {
        self.0.get()
    }

    /// Replaces the value; readers that began earlier finish on the old one. For one writer at a time.
    ///
    /// Nothing is dropped here: the old value is returned, and what is kept of it for readers goes with
    /// [`forget`](Self::forget).
    #[must_use = "then call forget()"]
    pub fn replace(&self, value: T) -> Arc<T> {
        self.0.replace(Arc::new(value))
    }

    /// Lets go of what was replaced, so that it is dropped as soon as nobody reads it.
    pub fn forget(&self) {
        self.0.forget();
    }
}

/// A lock for what is held shortly: threads sleep on it with `std`, and spin without.
#[cfg(all(feature = "std", not(loom)))]
pub use parking_lot::{Mutex, MutexGuard};

#[cfg(all(not(feature = "std"), not(loom)))]
pub use spin::{Mutex, MutexGuard};

#[cfg(loom)]
pub use imp::Mutex;
#[cfg(loom)]
pub use loom::sync::MutexGuard;

#[cfg(all(feature = "std", not(loom)))]
mod imp {
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicU64, Ordering};

    use crossbeam_utils::CachePadded;
    use spin::mutex::SpinMutex;

    use crate::lane::{self, Alone};

    /// Beside the value, each lane keeps a reference of its own, in a slot that is tried and never waited for: a thread
    /// that finds it in use goes to the value itself. So a read on a lane alone costs one exchange, not two.
    #[derive(Debug)]
    pub(super) struct Cell<T> {
        value: arc_swap::ArcSwap<T>,
        /// Twice how often it was replaced, and odd while it is being replaced: then it is read itself, so that nobody
        /// who has seen the new value sees the old one again.
        version: AtomicU64,
        /// Of the first lane, where it is reached without another step, and of those behind it.
        slot: Padded<T>,
        others: Box<[Padded<T>]>,
    }

    type Padded<T> = CachePadded<SpinMutex<Slot<T>>>;

    #[derive(Debug)]
    struct Slot<T> {
        version: u64,
        value: Option<Arc<T>>,
    }

    /// Another thread is at this lane's slot, and this one moves to another lane; or it is this one itself, further up
    /// its stack, and stays. The other one would be gone soon.
    #[cold]
    #[inline(never)]
    fn part<T>(slot: &Padded<T>) {
        for _ in 0..16 {
            core::hint::spin_loop();
            if !slot.is_locked() {
                lane::move_on();
                return;
            }
        }
    }

    impl<T> Cell<T> {
        /// No version: odd, so nothing is kept of it.
        const NONE: u64 = u64::MAX;

        pub(super) fn new(value: Arc<T>) -> Self {
            let slot = || CachePadded::new(SpinMutex::new(Slot { version: Self::NONE, value: None }));
            Self {
                value: arc_swap::ArcSwap::new(value),
                version: AtomicU64::new(0),
                slot: slot(),
                others: (1..lane::count()).map(|_| slot()).collect(),
            }
        }

        #[inline(always)]
        pub(super) fn with<R>(&self, read: impl FnOnce(&T, Option<Alone<'_>>) -> R) -> R {
            let lane = lane::mine();
            let other = lane.checked_sub(1).and_then(|other| self.others.get(other));
            let (mine, lane) = other.map_or((&self.slot, lane::SHARED), |slot| (slot, lane));
            let Some(mut slot) = mine.try_lock() else {
                part(mine);
                return read(&self.value.load(), None);
            };
            let alone = Some(Alone::on(lane));
            // SeqCst: who knows of a change finds it.
            if self.version.load(Ordering::SeqCst) != slot.version {
                self.fill(&mut slot);
            }
            match &slot.value {
                Some(value) => read(value, alone),
                None => read(&self.value.load(), alone),
            }
        }

        #[cold]
        #[inline(never)]
        fn fill(&self, slot: &mut Slot<T>) {
            // In this order: a value that is newer than its version is taken again.
            let version = self.version.load(Ordering::SeqCst);
            slot.value = version.is_multiple_of(2).then(|| self.value.load_full());
            slot.version = if slot.value.is_some() { version } else { Self::NONE };
        }

        pub(super) fn get(&self) -> Arc<T> {
            self.value.load_full()
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            self.version.fetch_add(1, Ordering::SeqCst);
            let old = self.value.swap(value);
            self.version.fetch_add(1, Ordering::SeqCst);
            old
        }

        pub(super) fn forget(&self) {
            for slot in core::iter::once(&self.slot).chain(&self.others) {
                // One in use is that of a busy lane, which takes the new value next time.
                let old = slot.try_lock().and_then(|mut slot| {
                    slot.version = Self::NONE;
                    slot.value.take()
                });
                drop(old);
            }
        }
    }
}

#[cfg(all(not(feature = "std"), not(loom)))]
mod imp {
    use alloc::sync::Arc;

    use crate::lane::{self, Alone};

    #[derive(Debug)]
    pub(super) struct Cell<T> {
        value: spin::RwLock<Arc<T>>,
        /// Of the only lane.
        lane: spin::Mutex<()>,
    }

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self { value: spin::RwLock::new(value), lane: spin::Mutex::default() }
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(&T, Option<Alone<'_>>) -> R) -> R {
            let held = self.lane.try_lock();
            read(&self.get(), held.as_ref().map(|_| Alone::on(lane::SHARED)))
        }

        pub(super) fn get(&self) -> Arc<T> {
            Arc::clone(&self.value.read())
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            core::mem::replace(&mut *self.value.write(), value)
        }

        pub(super) fn forget(&self) {}
    }
}

#[cfg(loom)]
mod imp {
    use alloc::sync::Arc;

    use crate::lane::{self, Alone};

    /// Loom's lock with the interface of the others, which know no poisoning.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// An open lock around `value`.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> super::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }

    #[derive(Debug)]
    pub(super) struct Cell<T> {
        value: loom::sync::RwLock<Arc<T>>,
        /// Of the only lane.
        lane: loom::sync::Mutex<()>,
    }

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self { value: loom::sync::RwLock::new(value), lane: loom::sync::Mutex::new(()) }
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(&T, Option<Alone<'_>>) -> R) -> R {
            let held = self.lane.try_lock().ok();
            read(&self.get(), held.as_ref().map(|_| Alone::on(lane::SHARED)))
        }

        pub(super) fn get(&self) -> Arc<T> {
            Arc::clone(&self.value.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            let mut guard = self.value.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            core::mem::replace(&mut *guard, value)
        }

        pub(super) fn forget(&self) {}
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn what_is_replaced_goes_though_threads_have_read_it() {
        let published = Published::new(1);
        let read = Barrier::new(2);
        let idle = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                crate::lane::move_on();
                assert_eq!(published.with(|value, _| *value), 1);
                read.wait();
                idle.wait();
                assert_eq!(published.with(|value, _| *value), 2);
            });
            read.wait();
            let kept = Arc::downgrade(&published.get());
            assert_eq!(published.with(|value, _| *value), 1);
            drop(published.replace(2));
            published.forget();
            assert!(kept.upgrade().is_none(), "nobody reads it, but an idle thread's lane has kept it");
            idle.wait();
        });
    }

    #[test]
    fn a_reader_within_a_reader_sees_changes() {
        let published = Published::new(1);
        let seen = published.with(|outer, _| {
            let before = published.with(|inner, _| *inner);
            drop(published.replace(2));
            published.forget();
            (*outer, before, published.with(|inner, _| *inner))
        });
        assert_eq!(seen, (1, 1, 2));
        assert_eq!(published.with(|value, _| *value), 2);
    }

    #[test]
    fn no_reader_goes_back_and_who_knows_of_a_change_sees_it() {
        let published = Published::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for thread in 0..4 {
                let (published, done) = (&published, &done);
                scope.spawn(move || {
                    if thread > 1 {
                        crate::lane::move_on();
                    }
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let now = published.with(|value, _| *value);
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                    }
                    assert_eq!(published.with(|value, _| *value), 20_000);
                });
            }
            for value in 1..=20_000 {
                drop(published.replace(value));
                assert_eq!(published.with(|now, _| *now), value);
                published.forget();
            }
            done.store(true, Ordering::Release);
        });
    }
}
