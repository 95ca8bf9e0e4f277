//! What a backend carries: requests in flight, what became of the finished ones, and how long they took.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crossbeam_utils::CachePadded;

use crate::lane;
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
/// There is a set of counters for each [lane], on cache lines of its own, so that threads can count
/// without getting in each other's way; what is read is the sum. A request must end on the lane that it began on.
/// Where a limit holds or the number is read at every pick, all count on the [shared](crate::lane::SHARED) lane.
#[derive(Debug)]
pub struct Load {
    /// The shared lane, where it is reached without another step.
    shared: CachePadded<Counters>,
    /// The lanes behind it.
    others: Box<[Box<CachePadded<Counters>>]>,
}

/// One lane's counters: together on one cache line.
#[derive(Debug, Default)]
struct Counters {
    /// Low half: active requests. High half: successes modulo 2³², so that a success is counted and its request ended
    /// by one addition.
    active: AtomicU64,
    /// Successes in units of 2³².
    succeeded: AtomicU64,
    inactive: AtomicU32,
    failed: AtomicU64,
    cancelled: AtomicU64,
    unreported: AtomicU64,
    latency_ns: AtomicU64,
}

const ACTIVE: u64 = u32::MAX as u64;
const SUCCESS: u64 = 1 << 32;

impl Counters {
    /// Just when the low half turns over, a reader may see it before the carry: for some nanoseconds, once in 2³².
    fn succeeded(&self) -> u64 {
        loop {
            let high = self.succeeded.load(Ordering::Acquire);
            let low = self.active.load(Ordering::Acquire) >> 32;
            if self.succeeded.load(Ordering::Acquire) == high {
                return (high << 32) + low;
            }
        }
    }

    /// Moves the average an eighth of the way to the sample, the gain of RFC 6298's smoothed round-trip time. Of two
    /// samples at the same instant one may be left out; counts never are.
    #[inline]
    fn sample(&self, latency: Duration) {
        let sample = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let old = self.latency_ns.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        self.latency_ns.store(new, Ordering::Relaxed);
    }
}

impl Load {
    /// Counters at zero.
    pub fn new() -> Self {
        let others = (1..lane::count()).map(|_| Box::default()).collect();
        Self { shared: CachePadded::default(), others }
    }

    /// Counters for `count` backends, with those of one lane side by side in memory: a processor reads ahead when a
    /// rotation goes through them in order, and must not read into those that another one is writing.
    pub(crate) fn several(count: usize) -> impl Iterator<Item = Arc<Self>> {
        let mut lanes = lane::by_lane(count, 1, |_| Box::default());
        let loads: Vec<Arc<Self>> = (0..count)
            .map(|_| {
                Arc::new(Self { shared: CachePadded::default(), others: lanes.next().unwrap_or_default() })
            })
            .collect();
        loads.into_iter()
    }

    #[inline]
    fn counters(&self, lane: usize) -> &Counters {
        // Lanes come from this program's own count; a stranger is taken for the shared one.
        lane.checked_sub(1).and_then(|other| self.others.get(other)).map_or(&self.shared, |lane| lane)
    }

    /// All lanes.
    fn lanes(&self) -> impl Iterator<Item = &Counters> {
        core::iter::once(&*self.shared).chain(self.others.iter().map(|lane| &***lane))
    }

    /// Counts one more active request on the thread's own lane, and says on which lane it must [end](Self::end).
    #[inline]
    pub fn start(&self) -> usize {
        let lane = lane::mine();
        let active = &self.counters(lane).active;
        // Relaxed: nobody decides by it. A failure means that another thread is on this lane.
        let now = active.load(Ordering::Relaxed);
        match active.compare_exchange(now, now + 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => lane,
            Err(_) => {
                let lane = lane::move_on();
                self.counters(lane).active.fetch_add(1, Ordering::Relaxed);
                lane
            }
        }
    }

    /// Counts one more active request on the shared lane, unless `limit` are active already; it ends there too.
    #[inline]
    pub fn start_shared(&self, limit: u32) -> bool {
        // Adding first and taking back keeps the common case at one instruction; two threads at the last place may
        // both be refused for a moment, but never both be let in. Other lanes only drain while this one is used.
        // SeqCst: a scheduler that keeps an order by load reads it after publishing that order.
        let active = &self.shared.active;
        let before = active.fetch_add(1, Ordering::SeqCst) & ACTIVE;
        if limit == u32::MAX || before + self.beside_shared() < u64::from(limit) {
            return true;
        }
        active.fetch_sub(1, Ordering::SeqCst);
        false
    }

    /// Active requests of the other lanes, as far as any thread uses them.
    #[inline]
    fn beside_shared(&self) -> u64 {
        if lane::used() == 1 { 0 } else { self.others_active() }
    }

    fn others_active(&self) -> u64 {
        let used = self.others.iter().take(lane::used() - 1);
        used.map(|lane| lane.active.load(Ordering::SeqCst) & ACTIVE).sum()
    }

    /// Ends an active request of `lane`; `None` when nobody said how it went.
    #[inline]
    pub fn end(&self, lane: usize, outcome: Option<Outcome>) {
        let counters = self.counters(lane);
        if let Some(Outcome::Success { latency }) = outcome {
            counters.sample(latency);
            let before = counters.active.fetch_add(SUCCESS - 1, Ordering::SeqCst);
            if before >> 32 == ACTIVE {
                counters.succeeded.fetch_add(1, Ordering::Release);
            }
            return;
        }
        let counter = match outcome {
            Some(Outcome::Failure) => &counters.failed,
            Some(Outcome::Cancelled) => &counters.cancelled,
            _ => &counters.unreported,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        counters.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// Turns an active connection of `lane` into an inactive one.
    #[inline]
    pub fn close(&self, lane: usize, outcome: Option<Outcome>) {
        self.counters(lane).inactive.fetch_add(1, Ordering::SeqCst);
        self.end(lane, outcome);
    }

    /// Forgets an inactive connection that was [closed](Self::close) on `lane`.
    #[inline]
    pub fn expire(&self, lane: usize) {
        self.counters(lane).inactive.fetch_sub(1, Ordering::SeqCst);
    }

    /// Requests in flight.
    #[inline]
    pub fn active(&self) -> u32 {
        let shared = self.shared.active.load(Ordering::SeqCst) & ACTIVE;
        // More than 2³² requests at once are not to be had.
        (shared + self.beside_shared()) as u32
    }

    /// Requests in flight that began on the thread's own lane: what it knows by itself.
    #[inline]
    pub fn active_here(&self) -> u32 {
        (self.counters(lane::mine()).active.load(Ordering::Relaxed) & ACTIVE) as u32
    }

    /// Closed connections still remembered.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.lanes().map(|lane| lane.inactive.load(Ordering::SeqCst)).sum()
    }

    fn sum(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.lanes().map(counter).sum()
    }

    /// Requests that ended in [`Outcome::Success`].
    pub fn succeeded(&self) -> u64 {
        self.sum(Counters::succeeded)
    }

    /// Requests that ended in [`Outcome::Failure`].
    pub fn failed(&self) -> u64 {
        self.sum(|lane| lane.failed.load(Ordering::Relaxed))
    }

    /// Requests that ended in [`Outcome::Cancelled`].
    pub fn cancelled(&self) -> u64 {
        self.sum(|lane| lane.cancelled.load(Ordering::Relaxed))
    }

    /// All requests that ended, in whatever way.
    pub fn finished(&self) -> u64 {
        let unreported = self.sum(|lane| lane.unreported.load(Ordering::Relaxed));
        self.succeeded() + self.failed() + self.cancelled() + unreported
    }

    /// The smoothed latency of successes (the mean of the lanes'); zero before the first.
    pub fn latency(&self) -> Duration {
        let lanes = || self.lanes().map(|lane| lane.latency_ns.load(Ordering::Relaxed)).filter(|ns| *ns > 0);
        let sum: u128 = lanes().map(u128::from).sum();
        let mean = sum.checked_div(lanes().count() as u128).unwrap_or(0);
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_at_each_stage() {
        let load = Load::new();
        assert!(load.start_shared(2) && load.start_shared(2));
        assert!(!load.start_shared(2), "the limit is reached");
        assert_eq!(load.active(), 2);
        load.end(lane::SHARED, Some(Outcome::Failure));
        load.close(lane::SHARED, None);
        assert_eq!((load.active(), load.inactive(), load.failed(), load.finished()), (0, 1, 1, 2));
        load.expire(lane::SHARED);
        assert_eq!(load.inactive(), 0);
    }

    #[test]
    fn the_average_moves_an_eighth_of_the_way() {
        let load = Load::new();
        for (sample, expected) in [(800, 800), (1600, 900), (900, 901), (0, 789)] {
            let lane = load.start();
            load.end(lane, Some(Outcome::Success { latency: Duration::from_nanos(sample) }));
            let got = u64::try_from(load.latency().as_nanos()).unwrap();
            assert!(got.abs_diff(expected) <= 1, "after {sample}: {got}, not {expected}");
        }
        assert_eq!((load.succeeded(), load.active()), (4, 0));
    }

    #[test]
    fn successes_go_on_past_their_half_word() {
        let load = Load::new();
        load.shared.active.store((u64::from(u32::MAX) - 1) << 32 | 3, Ordering::Relaxed);
        for expected in u64::from(u32::MAX)..u64::from(u32::MAX) + 3 {
            load.end(lane::SHARED, Some(Outcome::Success { latency: Duration::ZERO }));
            assert_eq!(load.succeeded(), expected);
        }
        assert_eq!(load.active(), 0);
    }

    #[test]
    fn threads_lose_nothing_on_whatever_lane() {
        let load = Load::new();
        let started: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..10_000u64)
                            .filter(|turn| {
                                let lane = if turn % 2 == 0 { load.start() } else { lane::SHARED };
                                let started = turn % 2 == 0 || load.start_shared(6);
                                if started {
                                    load.end(
                                        lane,
                                        Some(Outcome::Success { latency: Duration::from_nanos(*turn) }),
                                    );
                                }
                                started
                            })
                            .count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((load.active(), load.finished(), load.succeeded()), (0, started, started));
    }
}
