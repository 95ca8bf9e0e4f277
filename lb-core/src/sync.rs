//! The few primitives that differ between std, `no_std` and loom's model checker, behind one name each.

#[cfg(loom)]
pub use loom::sync::atomic;

#[cfg(not(loom))]
pub use core::sync::atomic;

use alloc::sync::Arc;

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

    /// Runs `read` on the value that is current when the call begins.
    #[inline]
    pub fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        self.0.with(read)
    }

    /// The current value, to keep.
    pub fn get(&self) -> Arc<T> {
        self.0.get()
    }

    /// Replaces the value; readers that began earlier finish on the old one.
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

    use crate::lane;

    /// Beside the value, each lane keeps a reference of its own, in a slot that is tried and never waited for: a thread
    /// that finds it in use goes to the value itself. So a read on a lane alone costs one exchange, not two.
    #[derive(Debug)]
    pub(super) struct Cell<T> {
        value: arc_swap::ArcSwap<T>,
        /// How often it was replaced.
        version: AtomicU64,
        slots: Box<[CachePadded<SpinMutex<Slot<T>>>]>,
    }

    #[derive(Debug)]
    struct Slot<T> {
        version: u64,
        value: Option<Arc<T>>,
    }

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            let slot = |_| CachePadded::new(SpinMutex::new(Slot { version: 0, value: None }));
            Self {
                value: arc_swap::ArcSwap::new(value),
                version: AtomicU64::new(0),
                slots: (0..lane::count()).map(slot).collect(),
            }
        }

        #[inline]
        pub(super) fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
            let Some(mut slot) = self.slots.get(lane::mine()).and_then(|slot| slot.try_lock()) else {
                return read(&self.value.load());
            };
            // SeqCst: who knows of a change finds it.
            if self.version.load(Ordering::SeqCst) != slot.version || slot.value.is_none() {
                self.fill(&mut slot);
            }
            match &slot.value {
                Some(value) => read(value),
                None => read(&self.value.load()),
            }
        }

        #[cold]
        #[inline(never)]
        fn fill(&self, slot: &mut Slot<T>) {
            // In this order: a value that is newer than its version is taken again.
            slot.version = self.version.load(Ordering::SeqCst);
            slot.value = Some(self.value.load_full());
        }

        pub(super) fn get(&self) -> Arc<T> {
            self.value.load_full()
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            let old = self.value.swap(value);
            self.version.fetch_add(1, Ordering::SeqCst);
            old
        }

        pub(super) fn forget(&self) {
            for slot in &self.slots {
                // One in use is that of a busy lane, which takes the new value next time.
                let old = slot.try_lock().and_then(|mut slot| slot.value.take());
                drop(old);
            }
        }
    }
}

#[cfg(all(not(feature = "std"), not(loom)))]
mod imp {
    use alloc::sync::Arc;

    #[derive(Debug)]
    pub(super) struct Cell<T>(spin::RwLock<Arc<T>>);

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self(spin::RwLock::new(value))
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
            read(&self.get())
        }

        pub(super) fn get(&self) -> Arc<T> {
            Arc::clone(&self.0.read())
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            core::mem::replace(&mut *self.0.write(), value)
        }

        pub(super) fn forget(&self) {}
    }
}

#[cfg(loom)]
mod imp {
    use alloc::sync::Arc;

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
    pub(super) struct Cell<T>(loom::sync::RwLock<Arc<T>>);

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self(loom::sync::RwLock::new(value))
        }

        pub(super) fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
            read(&self.get())
        }

        pub(super) fn get(&self) -> Arc<T> {
            Arc::clone(&self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            let mut guard = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            core::mem::replace(&mut *guard, value)
        }

        pub(super) fn forget(&self) {}
    }
}
