//! The few primitives that differ between std, `no_std` and loom's model checker, behind one name each.

#[cfg(loom)]
pub use loom::sync::atomic;

#[cfg(not(loom))]
pub use core::sync::atomic;

use alloc::sync::Arc;
use core::any::Any;
use core::marker::PhantomData;

pub use crate::kept::Local;
use crate::kept::Number;

/// A value that one place replaces whole and many read, each thread with an `L` of its own beside it.
///
/// With `std` a reader waits for nobody, and changes nothing that others read: it keeps what it has read. Without
/// it there are no thread-locals to build that on, so a reader holds a spin lock for the length of one reference-count
/// increment; loom's own lock stands in under its model checker.
#[derive(Debug)]
pub struct Published<T, L = ()> {
    cell: imp::Cell<T>,
    local: PhantomData<fn() -> L>,
}

impl<T: Any, L: Local<T>> Published<T, L> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self { cell: imp::Cell::new(Arc::new(value)), local: PhantomData }
    }

    /// The value that is current now, without waiting and without an atomic operation, once the thread has read it.
    #[inline(always)]
    pub fn read(&self) -> Reading<'_, T, L> {
        self.cell.read()
    }
}

impl<T, L> Published<T, L> {
    /// The current value, to keep.
    pub fn get(&self) -> Arc<T> {
        self.cell.get()
    }

    /// Replaces the value; readers that began earlier finish on the old one. For one writer at a time.
    ///
    /// Nothing is dropped here: the old value is returned, and what is kept of it for readers goes with
    /// [`forget`](Self::forget).
    #[must_use = "then call forget()"]
    pub fn replace(&self, value: T) -> Arc<T> {
        self.cell.replace(Arc::new(value))
    }

    /// Lets go of what this thread keeps of what was replaced. Other threads do when they next read.
    pub fn forget(&self) {
        self.cell.forget();
    }

    /// Under which number threads find what they keep beside the value.
    pub(crate) fn number(&self) -> Number {
        self.cell.number()
    }
}

pub use imp::Reading;

impl<T, L> core::ops::Deref for Reading<'_, T, L> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value()
    }
}

/// A lock for what is held shortly: threads sleep on it with `std`, and spin without.
#[cfg(all(feature = "std", not(loom)))]
pub use parking_lot::{Mutex, MutexGuard};

#[cfg(all(not(feature = "std"), not(loom)))]
pub use spin::{Mutex, MutexGuard};

#[cfg(loom)]
pub use modelled::{Mutex, MutexGuard};

#[cfg(all(feature = "std", not(loom)))]
mod imp {
    use alloc::rc::Rc;
    use alloc::sync::Arc;
    use core::any::Any;
    use core::marker::PhantomData;

    use crate::kept::{Kept, Local, Number, Pair};
    use crate::lane::Alone;

    #[derive(Debug)]
    pub(super) struct Cell<T> {
        value: arc_swap::ArcSwap<T>,
        kept: Kept,
    }

    /// A value that this thread is reading: as long as it does, it stays as it was.
    #[derive(Debug)]
    pub struct Reading<'a, T, L> {
        pair: Rc<Pair<T, L>>,
        of: PhantomData<&'a T>,
    }

    impl<T, L> Reading<'_, T, L> {
        #[inline]
        pub(super) fn value(&self) -> &T {
            self.pair.value()
        }

        /// The lane that the thread has for its own here, if there was one left.
        #[inline]
        pub fn alone(&self) -> Option<Alone<'_>> {
            self.pair.alone()
        }

        /// What the thread keeps beside the value.
        #[inline]
        pub fn local(&self) -> Option<&L> {
            Some(self.pair.local())
        }
    }

    impl<T: Any> Cell<T> {
        #[inline(always)]
        pub(super) fn read<L: Local<T>>(&self) -> Reading<'_, T, L> {
            Reading { pair: self.kept.read(|| self.value.load_full()), of: PhantomData }
        }
    }

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self { value: arc_swap::ArcSwap::new(value), kept: Kept::new() }
        }

        pub(super) fn get(&self) -> Arc<T> {
            self.value.load_full()
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            self.kept.replacing();
            let old = self.value.swap(value);
            self.kept.published();
            old
        }

        pub(super) fn forget(&self) {
            self.kept.forget();
        }

        pub(super) fn number(&self) -> Number {
            self.kept.number()
        }
    }
}

/// Without threads' own storage, and under loom.
#[cfg(any(not(feature = "std"), loom))]
mod imp {
    use alloc::sync::Arc;
    use core::marker::PhantomData;

    use super::{Mutex, MutexGuard};
    use crate::kept::Number;
    use crate::lane::{self, Alone};

    #[derive(Debug)]
    pub(super) struct Cell<T> {
        value: Mutex<Arc<T>>,
        /// Of the only lane.
        lane: Mutex<()>,
    }

    /// A value that this thread is reading: as long as it does, it stays as it was.
    #[derive(Debug)]
    pub struct Reading<'a, T, L> {
        value: Arc<T>,
        held: Option<MutexGuard<'a, ()>>,
        local: PhantomData<L>,
    }

    impl<T, L> Reading<'_, T, L> {
        pub(super) fn value(&self) -> &T {
            &self.value
        }

        /// The lane, if nobody else is there.
        pub fn alone(&self) -> Option<Alone<'_>> {
            self.held.as_ref().map(|_| Alone::on(lane::SHARED))
        }

        /// Nothing.
        pub fn local(&self) -> Option<&L> {
            None
        }
    }

    impl<T> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Self { value: Mutex::new(value), lane: Mutex::default() }
        }

        pub(super) fn read<L>(&self) -> Reading<'_, T, L> {
            let held = self.lane.try_lock();
            Reading { value: self.get(), held, local: PhantomData }
        }

        pub(super) fn get(&self) -> Arc<T> {
            Arc::clone(&self.value.lock())
        }

        pub(super) fn replace(&self, value: Arc<T>) -> Arc<T> {
            core::mem::replace(&mut *self.value.lock(), value)
        }

        pub(super) fn forget(&self) {}

        pub(super) fn number(&self) -> Number {
            Number
        }
    }
}

#[cfg(loom)]
mod modelled {
    pub use loom::sync::MutexGuard;

    /// Loom's lock with the interface of the others, which know no poisoning.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// An open lock around `value`.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }

        /// Takes the lock if it is open.
        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn read(published: &Published<u32>) -> u32 {
        *published.read()
    }

    #[test]
    fn a_reader_within_a_reader_sees_changes() {
        let published = Published::<_>::new(1);
        let outer = published.read();
        let before = read(&published);
        drop(published.replace(2));
        published.forget();
        assert_eq!((*outer, before, read(&published)), (1, 1, 2));
        drop(outer);
        assert_eq!(read(&published), 2);
    }

    #[test]
    fn no_reader_goes_back_and_who_knows_of_a_change_sees_it() {
        let published = Published::<_>::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let now = read(&published);
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                    }
                    assert_eq!(read(&published), 20_000);
                });
            }
            for value in 1..=20_000 {
                drop(published.replace(value));
                assert_eq!(read(&published), value);
                published.forget();
            }
            done.store(true, Ordering::Release);
        });
    }
}
