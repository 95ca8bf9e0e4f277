//! Several threads that do the same thing at the same time.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `work(thread, count)` in `threads` threads, and gives the wall time from the first one's start to the last
/// one's end. They wait for one another spinning, as one that sleeps wakes late: `threads` should not be more than
/// there are processors.
pub fn together(threads: u32, count: u64, work: impl Fn(usize, u64) + Sync) -> Duration {
    let waiting = AtomicU32::new(threads);
    let (waiting, work) = (&waiting, &work);
    let spans: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads as usize)
            .map(|thread| {
                scope.spawn(move || {
                    waiting.fetch_sub(1, Ordering::AcqRel);
                    while waiting.load(Ordering::Acquire) > 0 {
                        spin_loop();
                    }
                    let start = Instant::now();
                    work(thread, count);
                    (start, Instant::now())
                })
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let first = spans.iter().map(|span| span.0).min();
    let last = spans.iter().map(|span| span.1).max();
    last.zip(first).map_or(Duration::ZERO, |(last, first)| last - first)
}
