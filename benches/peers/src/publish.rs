//! `publish`: what a reader pays to see the current snapshot, by the ways there are to publish one. `n` is the
//! number of threads that read at the same time; nobody writes, as nearly always.

use crate::measure::{Plan, Subject, interleaved, two_threads};
use crate::row::Row;
use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use crossbeam_epoch::{Atomic, pin};
use lb_core::{Pool, Spec};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What a pool's readers do.
const OURS: &str = "Pool::with";

/// The ways that were open to us, and the one that everybody begins with. The last is a yardstick: nearly all of
/// what a pick costs is atomic read-modify-writes, whose price differs fourfold between machines.
const PEERS: [&str; 6] = [
    "arc-swap load",
    "arc-swap load_full",
    "arc-swap cache",
    "crossbeam-epoch pin and load",
    "RwLock read",
    "one fetch_add (a yardstick)",
];

/// The published thing; the reader looks at one number in it.
struct Snapshot {
    version: u64,
}

/// Measures all of them.
pub(crate) fn run(plan: Plan) -> Vec<Row> {
    let mut subjects = subjects();
    let figures = interleaved(&mut subjects, plan);
    let figures: HashMap<&str, f64> = subjects.iter().map(|subject| subject.name()).zip(figures).collect();
    let mut rows = Vec::new();
    for (threads, name) in [(1, str::to_owned as fn(&str) -> String), (2, two_threads)] {
        for peer in PEERS {
            let (ours, theirs) = (figures[&*name(OURS)], figures[&*name(peer)]);
            rows.push(Row::new("read the snapshot", threads, "ns", ours, theirs, peer));
        }
    }
    rows
}

fn subjects() -> Vec<Subject<'static>> {
    let mut subjects = Vec::new();

    let pool = Pool::<u64>::new();
    pool.update([Spec::new("only", 7)]).expect("a pool of one");
    Subject::both(&mut subjects, OURS, move |_, count| {
        repeat(count, || pool.read().set().version());
    });

    let shared = Arc::new(ArcSwap::from_pointee(Snapshot { version: 7 }));
    let [load, load_full, cache] = [(); 3].map(|()| Arc::clone(&shared));
    Subject::both(&mut subjects, "arc-swap load", move |_, count| repeat(count, || load.load().version));
    Subject::both(&mut subjects, "arc-swap load_full", move |_, count| {
        repeat(count, || load_full.load_full().version);
    });
    Subject::both(&mut subjects, "arc-swap cache", move |_, count| {
        // A cache belongs to one thread; a program would keep it beside the connection or in a thread-local.
        let mut cache = Cache::new(&*cache);
        repeat(count, || cache.load().version);
    });

    let atomic = Atomic::new(Snapshot { version: 7 });
    Subject::both(&mut subjects, "crossbeam-epoch pin and load", move |_, count| {
        repeat(count, || {
            let guard = pin();
            let snapshot = atomic.load(Ordering::Acquire, &guard);
            // The pointer itself stands for the snapshot: to follow it takes `unsafe`, at no further cost.
            snapshot.as_raw() as u64
        });
    });

    let lock = RwLock::new(Arc::new(Snapshot { version: 7 }));
    Subject::both(&mut subjects, "RwLock read", move |_, count| {
        repeat(count, || lock.read().unwrap_or_else(PoisonError::into_inner).version);
    });

    let counter = AtomicU64::new(0);
    Subject::both(&mut subjects, "one fetch_add (a yardstick)", move |_, count| {
        repeat(count, || counter.fetch_add(1, Ordering::Relaxed));
    });
    subjects
}

#[inline(always)]
fn repeat(count: u64, mut read: impl FnMut() -> u64) {
    for _ in 0..count {
        black_box(read());
    }
}
