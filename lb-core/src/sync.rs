//! The few primitives that differ between std, `no_std` and loom's model checker, behind one name each.

#[cfg(loom)]
pub use loom::sync::atomic;

#[cfg(not(loom))]
pub use core::sync::atomic;

use alloc::sync::Arc;

/// A value that one place replaces whole and many read.
///
/// With `std` a reader takes no lock (`arc-swap`). Without it there are no thread-locals to build that on, so a
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

    /// Replaces the value and gives the old one; readers that began earlier finish on that.
    pub fn replace(&self, value: T) -> Arc<T> {
        self.0.replace(Arc::new(value))
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
    use alloc::sync::Arc;

    #[derive(Debug)]
    pub(super) struct Cell<T>(arc_swap::ArcSwap<T>);

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self(arc_swap::ArcSwap::new(value))
        }

        #[inline]
        pub(super) fn with<R>(&self, read: impl FnOnce(&T) -> R) -> R {
            read(&self.0.load())
        }

        pub(super) fn get(&self) -> Arc<T> {
            self.0.load_full()
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            self.0.swap(value)
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
    }
}
