//! Every interleaving of a pool's readers and writers that loom finds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb-core --test loom`
#![cfg(loom)]

use lb_core::{Pool, Spec};
use loom::sync::Arc;
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
