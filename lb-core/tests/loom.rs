//! Every interleaving of a pool's readers and writers that loom finds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb-core --test loom`
#![cfg(loom)]

use lb_core::{Outcome, Pool, Spec};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

#[test]
fn a_reader_sees_all_of_a_change_or_nothing_of_it() {
    loom::model(|| {
        let pool = Arc::new(Pool::deriving(0, |_: &usize, set| set.len()));
        pool.update([Spec::new("a", 1), Spec::new("b", 1)]).unwrap();
        let writer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.update(["a", "b", "c"].map(|name| Spec::new(name, 2))).unwrap())
        };
        let snapshot = pool.snapshot();
        let generation = *snapshot.backends()[0].payload();
        assert!(snapshot.backends().iter().all(|backend| *backend.payload() == generation));
        assert_eq!(snapshot.backends().len(), generation + 1);
        assert_eq!(*snapshot.derived(), snapshot.set().len());
        writer.join().unwrap();
        assert_eq!(pool.snapshot().backends().len(), 3);
    });
}

#[test]
fn no_change_of_two_writers_is_lost() {
    loom::model(|| {
        let pool = Arc::new(Pool::<u32>::new());
        let writers: Vec<_> = ["a", "b"]
            .map(|name| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.edit(|edit| edit.insert(Spec::new(name, 0))).unwrap())
            })
            .into();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let snapshot = pool.snapshot();
        assert_eq!((snapshot.backends().len(), snapshot.set().version()), (2, 2));
    });
}

#[test]
fn a_request_ends_on_the_counters_it_began_on() {
    loom::model(|| {
        let pool = Arc::new(Pool::<u32>::new());
        pool.update([Spec::new("a", 1).limit(1)]).unwrap();
        let request = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let snapshot = pool.snapshot();
                snapshot.start_shared(0).is_some()
            })
        };
        pool.update([Spec::new("a", 2).limit(1)]).unwrap();
        let snapshot = pool.snapshot();
        let started = snapshot.start_shared(0).is_some();
        let others = request.join().unwrap();
        assert!(started || others, "the limit of one lets one of them in");
        let finished = u64::from(started) + u64::from(others);
        let load = snapshot.backends()[0].load();
        assert_eq!((load.active(), load.finished()), (0, finished));
    });
}

#[test]
fn who_is_alone_and_who_is_not_lose_no_count() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let pool = Arc::new(Pool::<u32>::new());
        pool.update([Spec::new("a", 1)]).unwrap();
        let load = Arc::new(std::sync::Arc::clone(pool.snapshot().backends()[0].load()));
        let start = |pool: &Pool<u32>| pool.read().start(0).unwrap();
        let threads = [false, true].map(|kept| {
            let (pool, load) = (Arc::clone(&pool), Arc::clone(&load));
            thread::spawn(move || {
                let lease = start(&pool);
                assert!((1..=2).contains(&load.active()), "each has started one at most");
                if kept {
                    return Some(lease);
                }
                lease.finish(Outcome::Failure);
                None
            })
        });
        assert!(load.active() <= 2, "no end is seen without its start");
        let [ended, kept] = threads.map(|thread| thread.join().unwrap());
        assert!(ended.is_none());
        assert_eq!((load.active(), load.failed(), load.finished()), (1, 1, 1));
        drop(kept);
        drop(start(&pool));
        assert_eq!((load.active(), load.finished()), (0, 3));
    });
}

#[test]
fn a_limit_lets_in_no_more_while_requests_end() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let pool = Arc::new(Pool::<u32>::new());
        pool.update([Spec::new("a", 1).limit(1)]).unwrap();
        let inside = Arc::new(AtomicU32::new(0));
        let try_in = |pool: &Pool<u32>, inside: &AtomicU32| {
            if let Some(lease) = pool.read().start_shared(0) {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone inside");
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(lease);
            }
        };
        let threads = [1, 2].map(|times| {
            let (pool, inside) = (Arc::clone(&pool), Arc::clone(&inside));
            thread::spawn(move || (0..times).for_each(|_| try_in(&pool, &inside)))
        });
        try_in(&pool, &inside);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(pool.read().start_shared(0).is_some(), "a place is free again");
    });
}
