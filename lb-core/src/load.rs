//! What a backend carries: requests in flight, what became of the finished ones, and how long they took.

use core::time::Duration;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The backend answered; `latency` is the time from the pick to the answer, as the caller defines it.
    Success {
        /// Feeds the average of [`Load::latency`].
        latency: Duration,
    },
    /// The backend failed: it refused, reset, timed out, or answered with an error of its own.
    Failure,
    /// The caller gave up; the backend is not to blame.
    Cancelled,
}

/// The counters of one backend, shared by every snapshot that it is a member of.
///
/// A request counts as *active* from its pick to its end. A closed connection that the system still remembers (TCP's
/// TIME_WAIT, as IPVS counts it) counts as *inactive*; proxies leave that at 0.
///
/// All counters of a backend share one pair of cache lines, apart from any other backend's: a start and an end touch
/// several of them, and then one transfer between processors serves all.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    active: AtomicU32,
    inactive: AtomicU32,
    succeeded: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    unreported: AtomicU64,
    latency_ns: AtomicU64,
}

impl Load {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more active request, unless `limit` are active already.
    #[inline]
    pub fn start(&self, limit: u32) -> bool {
        // Adding first and taking back keeps the common case at one instruction; two threads at the last place may
        // both be refused for a moment, but never both be let in.
        // SeqCst on `active`: a scheduler that keeps an order by load reads it after publishing that order.
        if self.active.fetch_add(1, Ordering::SeqCst) < limit {
            return true;
        }
        self.active.fetch_sub(1, Ordering::SeqCst);
        false
    }

    /// Ends one active request that [`start`](Self::start) counted; `None` when nobody said how it went.
    #[inline]
    pub fn end(&self, outcome: Option<Outcome>) {
        self.active.fetch_sub(1, Ordering::SeqCst);
        self.record(outcome);
    }

    /// Turns one active connection into an inactive one.
    #[inline]
    pub fn close(&self, outcome: Option<Outcome>) {
        self.inactive.fetch_add(1, Ordering::SeqCst);
        self.end(outcome);
    }

    /// Forgets one inactive connection that [`close`](Self::close) counted.
    #[inline]
    pub fn expire(&self) {
        self.inactive.fetch_sub(1, Ordering::SeqCst);
    }

    #[inline]
    fn record(&self, outcome: Option<Outcome>) {
        let counter = match outcome {
            Some(Outcome::Success { latency }) => {
                self.sample(latency);
                &self.succeeded
            }
            Some(Outcome::Failure) => &self.failed,
            Some(Outcome::Cancelled) => &self.cancelled,
            None => &self.unreported,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Moves the average an eighth of the way to the sample, the gain of RFC 6298's smoothed round-trip time.
    /// Of two samples at the same instant one may be left out; counts never are.
    #[inline]
    fn sample(&self, latency: Duration) {
        let sample = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let old = self.latency_ns.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        let _ = self.latency_ns.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Requests in flight.
    #[inline]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Closed connections still remembered.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::SeqCst)
    }

    /// Requests that ended in [`Outcome::Success`].
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Requests that ended in [`Outcome::Failure`].
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Requests that ended in [`Outcome::Cancelled`].
    pub fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// All requests that ended, in whatever way.
    pub fn finished(&self) -> u64 {
        self.succeeded() + self.failed() + self.cancelled() + self.unreported.load(Ordering::Relaxed)
    }

    /// The smoothed latency of successes; zero before the first.
    pub fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_ns.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_at_each_stage() {
        let load = Load::new();
        assert!(load.start(2) && load.start(2));
        assert!(!load.start(2), "the limit is reached");
        assert_eq!(load.active(), 2);
        load.end(Some(Outcome::Failure));
        load.close(None);
        assert_eq!((load.active(), load.inactive(), load.failed(), load.finished()), (0, 1, 1, 2));
        load.expire();
        assert_eq!(load.inactive(), 0);
    }

    #[test]
    fn the_average_moves_an_eighth_of_the_way() {
        let load = Load::new();
        for (sample, expected) in [(800, 800), (1600, 900), (900, 901), (0, 789)] {
            assert!(load.start(u32::MAX));
            load.end(Some(Outcome::Success { latency: Duration::from_nanos(sample) }));
            let got = u64::try_from(load.latency().as_nanos()).unwrap();
            assert!(got.abs_diff(expected) <= 1, "after {sample}: {got}, not {expected}");
        }
        assert_eq!(load.succeeded(), 4);
    }

    #[test]
    fn threads_lose_nothing() {
        let load = Load::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if load.start(3) {
                            assert!(load.active() <= 3 + 4, "those refused are taken back at once");
                            load.end(Some(Outcome::Cancelled));
                        }
                    }
                });
            }
        });
        assert_eq!(load.active(), 0);
        assert_eq!(load.finished(), load.cancelled());
    }
}
