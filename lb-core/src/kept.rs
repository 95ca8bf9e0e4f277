//! What a thread keeps of what is [published](crate::sync::Published), so that reading it again takes no atomic
//! operation: a reference to the newest value that it has seen, a [lane](crate::lane) that is its own there, and things of
//! its own beside them.
//!
//! An atomic addition takes 2 to 9 ns, even where nobody else comes by; a reader that locks, or counts a reference, makes
//! two. Here it compares a version, which is one load of a line that changes only when something is published.
//!
//! The price is that nobody can take from a thread what it keeps: it lets go of an old value when it next reads anything
//! that has changed, when it [leaves](crate::lane::leave), or when it ends.

use core::any::Any;

/// Things that a thread keeps beside a value.
pub trait Local<T>: Any + Default {
    /// The thread has a new value, and reads it on this lane, if there was one for it.
    fn renew(&mut self, value: &T, lane: Option<usize>);
}

impl<T> Local<T> for () {
    fn renew(&mut self, _value: &T, _lane: Option<usize>) {}
}

#[cfg(all(feature = "std", not(loom)))]
pub(crate) use imp::{Kept, Pair};
pub(crate) use imp::{Number, leave, with_local};

#[cfg(all(feature = "std", not(loom)))]
mod imp {
    use alloc::boxed::Box;
    use alloc::rc::Rc;
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use core::any::Any;
    use core::cell::RefCell;
    use core::sync::atomic::{AtomicU64, Ordering};

    use parking_lot::Mutex;

    use super::Local;
    use crate::lane::{Alone, Lanes, Own};

    /// Which of the things that a thread keeps. Given to another when it is free again, so that numbers stay small.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Number(usize);

    impl Number {
        fn all() -> &'static Mutex<(Vec<usize>, usize)> {
            static FREE_AND_NEXT: Mutex<(Vec<usize>, usize)> = Mutex::new((Vec::new(), 0));
            &FREE_AND_NEXT
        }

        fn new() -> Self {
            let (free, next) = &mut *Self::all().lock();
            Self(free.pop().unwrap_or_else(|| {
                *next += 1;
                *next - 1
            }))
        }

        fn free(self) {
            Self::all().lock().0.push(self.0);
        }
    }

    /// By number.
    type Mine = RefCell<Vec<Option<Entry>>>;

    std::thread_local! {
        static MINE: Mine = const { RefCell::new(Vec::new()) };
    }

    /// What this thread keeps of one value.
    struct Entry {
        /// Of the value: no other that was ever published has the same.
        version: u64,
        /// A reference to a [`Pair`]; counted, so that who reads it may do anything. (Boxed, as an `Rc<dyn Any>` tells its type by a
        /// conditional move, which all that is read of it then waits for.)
        pair: Box<dyn Any>,
        /// Of that, a reference to what is beside the value.
        local: Box<dyn Any>,
        publisher: Arc<Publisher>,
    }

    /// A value, the lane on which it is read, and what is beside it.
    #[derive(Debug)]
    pub(crate) struct Pair<T, L> {
        value: Arc<T>,
        own: Option<Own>,
        local: Rc<L>,
    }

    impl<T, L> Pair<T, L> {
        #[inline]
        pub(crate) fn value(&self) -> &T {
            &self.value
        }

        /// The lane that the thread has for its own.
        #[inline]
        pub(crate) fn alone(&self) -> Option<Alone<'_>> {
            self.own.as_ref().map(Own::alone)
        }

        /// What it keeps beside the value.
        #[inline]
        pub(crate) fn local(&self) -> &L {
            &self.local
        }
    }

    impl Entry {
        fn is_stale(&self) -> bool {
            self.version != self.publisher.version.load(Ordering::Relaxed)
        }

        /// What it has, if nobody else has it.
        fn last<T: Any, L: Any>(self) -> Option<Pair<T, L>> {
            let Self { pair, local, .. } = self;
            drop(local);
            Rc::try_unwrap(*pair.downcast::<Rc<Pair<T, L>>>().ok()?).ok()
        }
    }

    /// What threads know of whoever publishes, even when that is gone.
    #[derive(Debug)]
    struct Publisher {
        version: AtomicU64,
        lanes: Arc<Lanes>,
    }

    /// Where threads that read a value find what they keep of it.
    #[derive(Debug)]
    pub(crate) struct Kept {
        number: Number,
        publisher: Arc<Publisher>,
    }

    /// While the value is being replaced it has no version, and is read where it is: then nobody who has seen the new one
    /// sees the old one again.
    const NONE: u64 = 0;

    impl Kept {
        pub(crate) fn new() -> Self {
            let publisher = Publisher { version: AtomicU64::new(NONE), lanes: Arc::default() };
            let kept = Self { number: Number::new(), publisher: Arc::new(publisher) };
            kept.published();
            kept
        }

        #[inline]
        pub(crate) fn number(&self) -> Number {
            self.number
        }

        /// The value is about to be replaced.
        pub(crate) fn replacing(&self) {
            self.publisher.version.store(NONE, Ordering::SeqCst);
        }

        /// The value has been replaced.
        pub(crate) fn published(&self) {
            static NEXT: AtomicU64 = AtomicU64::new(NONE + 1);
            let version = NEXT.fetch_add(1, Ordering::Relaxed);
            self.publisher.version.store(version, Ordering::SeqCst);
        }

        /// The newest value, which `load` gives if the thread does not have it yet. While the value is being replaced, or the
        /// thread ends, it keeps nothing of it.
        #[inline(always)]
        pub(crate) fn read<T: Any, L: Local<T>>(&self, load: impl Fn() -> Arc<T>) -> Rc<Pair<T, L>> {
            // SeqCst: who knows of a change finds it.
            let version = self.publisher.version.load(Ordering::SeqCst);
            let found = MINE.try_with(|mine| {
                let mine = mine.try_borrow().ok()?;
                let entry = mine.get(self.number.0)?.as_ref().filter(|entry| entry.version == version)?;
                entry.pair.downcast_ref().map(Rc::clone)
            });
            found.ok().flatten().unwrap_or_else(|| self.fill(&load))
        }

        /// Takes the newest, unless it is being replaced at this moment, or the thread ends.
        #[cold]
        #[inline(never)]
        fn fill<T: Any, L: Local<T>>(&self, load: &dyn Fn() -> Arc<T>) -> Rc<Pair<T, L>> {
            // In this order: a value that is newer than its version is taken again.
            let version = self.publisher.version.load(Ordering::SeqCst);
            let value = load();
            if version == NONE {
                return Rc::new(Pair { value, own: None, local: Rc::default() });
            }
            forget_where(|number, entry| number != self.number && entry.is_stale());
            let old = take(self.number).filter(|old| Arc::ptr_eq(&old.publisher, &self.publisher));
            let (own, local) = match old.and_then(|old| old.last::<T, L>()) {
                Some(Pair { own, local, .. }) => (own, local),
                // The first time; or the old one is being read, further up the stack.
                None => (Own::of(&self.publisher.lanes), Rc::default()),
            };
            let mut local = Rc::try_unwrap(local).unwrap_or_default();
            local.renew(&value, own.as_ref().map(|own| own.alone().lane()));
            let pair = Rc::new(Pair { value, own, local: Rc::new(local) });
            let entry = Entry {
                version,
                pair: Box::new(Rc::clone(&pair)),
                local: Box::new(Rc::clone(&pair.local)),
                publisher: Arc::clone(&self.publisher),
            };
            drop(put(self.number, entry));
            pair
        }

        /// Lets go of what this thread keeps, if it is old.
        pub(crate) fn forget(&self) {
            forget_where(|number, entry| number == self.number && entry.is_stale());
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.replacing();
            self.forget();
            self.number.free();
        }
    }

    /// Drops what this thread keeps and is so, one at a time, as that may run anybody's code.
    fn forget_where(is_so: impl Fn(Number, &Entry) -> bool) {
        let next = |mine: &Mine| {
            let mut mine = mine.try_borrow_mut().ok()?;
            let mut all = mine.iter_mut().enumerate();
            all.find_map(|(number, entry)| entry.take_if(|entry| is_so(Number(number), entry)))
        };
        // A thread that is ending keeps nothing.
        while let Some(entry) = MINE.try_with(next).ok().flatten() {
            drop(entry);
        }
    }

    fn take(number: Number) -> Option<Entry> {
        MINE.try_with(|mine| mine.try_borrow_mut().ok()?.get_mut(number.0)?.take()).ok().flatten()
    }

    /// Gives back what was there.
    fn put(number: Number, entry: Entry) -> Option<Entry> {
        let put = |mine: &Mine| {
            let mut mine = mine.try_borrow_mut().ok()?;
            if mine.len() <= number.0 {
                mine.resize_with(number.0 + 1, || None);
            }
            mine.get_mut(number.0)?.replace(entry)
        };
        MINE.try_with(put).ok().flatten()
    }

    /// Lets go of all that this thread keeps.
    pub(crate) fn leave() {
        forget_where(|_, _| true);
    }

    /// Runs `act` on what this thread keeps under this number beside the value, if it is an `L`.
    #[inline(always)]
    pub(crate) fn with_local<L: Any, R>(number: Number, act: impl FnOnce(&L) -> R) -> Option<R> {
        let act = |mine: &Mine| {
            let mine = mine.try_borrow().ok()?;
            let entry = mine.get(number.0)?.as_ref()?;
            Some(act(entry.local.downcast_ref::<Rc<L>>()?))
        };
        MINE.try_with(act).ok().flatten()
    }
}

#[cfg(not(all(feature = "std", not(loom))))]
mod imp {
    use core::any::Any;

    /// Without threads' own storage nobody keeps anything.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Number;

    pub(crate) fn leave() {}

    pub(crate) fn with_local<L: Any, R>(_number: Number, _act: impl FnOnce(&L) -> R) -> Option<R> {
        None
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use alloc::sync::Arc;
    use alloc::vec::Vec;
    use std::sync::Barrier;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use crate::lane;
    use crate::sync::Published;

    /// Says when it goes.
    struct Noted(Sender<u32>, u32);

    impl Drop for Noted {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }

    fn read(published: &Published<Noted>) -> u32 {
        published.read().1
    }

    #[test]
    fn a_thread_lets_go_of_what_is_old_when_it_reads_leaves_or_ends() {
        type Act = fn(&Published<Noted>, &Published<u32>);
        let acts: [(&str, Act); 4] = [
            ("it reads", |published, _| assert_eq!(read(published), 2)),
            ("it reads something else that it has not seen yet", |_, other| drop(other.read())),
            ("it leaves", |_, _| lane::leave()),
            ("it ends", |_, _| ()),
        ];
        for (when, act) in acts {
            let (gone, heard) = channel();
            let published = Published::<_>::new(Noted(gone.clone(), 1));
            let other = Published::new(0);
            let (go, wait) = channel();
            let (ready, is_ready) = channel();
            thread::scope(|scope| {
                let (published, other) = (&published, &other);
                scope.spawn(move || {
                    assert_eq!(read(published), 1);
                    ready.send(()).unwrap();
                    wait.recv().unwrap();
                    act(published, other);
                });
                is_ready.recv().unwrap();
                drop(published.replace(Noted(gone.clone(), 2)));
                published.forget();
                assert!(heard.try_recv().is_err(), "the other thread keeps it, before {when}");
                go.send(()).unwrap();
                assert_eq!(heard.recv(), Ok(1), "when {when}");
            });
        }
    }

    #[test]
    fn the_replacing_thread_keeps_nothing_old() {
        let (gone, heard) = channel();
        let published = Published::<_>::new(Noted(gone.clone(), 1));
        assert_eq!(read(&published), 1);
        drop(published.replace(Noted(gone.clone(), 2)));
        published.forget();
        assert_eq!(heard.try_recv(), Ok(1));
        assert_eq!(read(&published), 2);
        drop(published);
        assert_eq!(heard.try_recv(), Ok(2));
    }

    #[test]
    fn threads_have_lanes_of_their_own_as_far_as_there_are_any() {
        let published = Published::<_>::new(());
        let mine = |published: &Published<()>| published.read().alone().map(|alone| alone.lane());
        assert_eq!((mine(&published), mine(&published)), (Some(0), Some(0)));
        let all_read = Barrier::new(lane::count());
        let read = || {
            let lane = mine(&published);
            all_read.wait();
            lane
        };
        let mut lanes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..lane::count()).map(|_| scope.spawn(read)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        lanes.sort();
        assert!(
            lanes.into_iter().eq([None].into_iter().chain((1..lane::count()).map(Some))),
            "one is too late"
        );
        let again = || thread::scope(|scope| scope.spawn(|| mine(&published)).join().unwrap());
        assert_eq!((again(), again()), (Some(1), Some(1)), "who ends gives its lane back");
    }

    #[test]
    fn a_number_that_is_used_again_shows_nothing_old() {
        // Every pass frees the number that it took, and most take the one that is free; other tests take some too.
        for turn in 0..1000u64 {
            let number = Published::<_>::new(turn);
            assert_eq!(*number.read(), turn);
            drop(number);
            let text = Published::<_>::new(turn.to_string());
            assert_eq!(*text.read(), turn.to_string());
        }
    }

    #[test]
    fn what_goes_may_read_and_replace() {
        struct Reader(Arc<Published<u32>>);
        impl Drop for Reader {
            fn drop(&mut self) {
                let read = *self.0.read();
                drop(self.0.replace(read + 1));
                assert_eq!(*self.0.read(), read + 1);
                self.0.forget();
            }
        }
        let counted = Arc::new(Published::<_>::new(0));
        let published = Published::<_>::new(Reader(Arc::clone(&counted)));
        let reading = published.read();
        drop(published.replace(Reader(Arc::clone(&counted))));
        drop(published.read());
        published.forget();
        assert_eq!(*counted.read(), 0, "it is being read");
        drop(reading);
        assert_eq!(*counted.read(), 1);
        lane::leave();
        // While a thread ends, its storage is no more.
        thread::scope(|scope| {
            let ends = scope.spawn(|| {
                drop(published.read());
                drop(published.replace(Reader(Arc::clone(&counted))));
                *counted.get()
            });
            assert_eq!(ends.join().unwrap(), 1, "the thread keeps it");
        });
        assert_eq!(*counted.get(), 2);
    }
}
