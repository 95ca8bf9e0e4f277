//! What a backend carries: requests in flight, what became of the finished ones, and how long they took.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

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
/// There are [`Counters`] for each [lane], so that threads can count without getting in each other's way; what is read
/// here is the sum. Where a limit holds or the number is read at every pick, all count on the
/// [shared](crate::lane::SHARED) lane.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Counters>,
    /// The lanes behind it.
    others: Box<[Arc<Counters>]>,
}

/// What is counted of one backend on one lane: on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counters {
    /// Low half: active requests. High half: successes modulo 2³², so that a success is counted and its request ended
    /// by one addition.
    active: AtomicU64,
    latency_ns: AtomicU64,
    /// Successes in units of 2³².
    succeeded: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    unreported: AtomicU64,
    inactive: AtomicU32,
}

const ACTIVE: u64 = u32::MAX as u64;
const SUCCESS: u64 = 1 << 32;

impl Counters {
    /// Counts one more active request, where no other thread counts at this moment; else `false`, and nothing is
    /// counted.
    #[inline]
    pub(crate) fn start_alone(&self) -> bool {
        // Relaxed: nobody decides by it.
        let now = self.active.load(Ordering::Relaxed);
        self.active.compare_exchange(now, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Counts one more active request.
    #[inline]
    pub(crate) fn start(&self) {
        // SeqCst: a scheduler that keeps an order by load reads it after publishing that order.
        self.active.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends an active request that was counted here; `None` when nobody said how it went.
    #[inline]
    pub(crate) fn end(&self, outcome: Option<Outcome>) {
        if let Some(Outcome::Success { latency }) = outcome {
            self.sample(latency);
            let before = self.active.fetch_add(SUCCESS - 1, Ordering::SeqCst);
            if before >> 32 == ACTIVE {
                self.succeeded.fetch_add(1, Ordering::Release);
            }
        } else {
            self.end_otherwise(outcome);
        }
    }

    #[cold]
    fn end_otherwise(&self, outcome: Option<Outcome>) {
        let counter = match outcome {
            Some(Outcome::Failure) => &self.failed,
            Some(Outcome::Cancelled) => &self.cancelled,
            _ => &self.unreported,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// Turns an active connection that was counted here into an inactive one.
    pub(crate) fn close(&self, outcome: Option<Outcome>) {
        self.inactive.fetch_add(1, Ordering::SeqCst);
        self.end(outcome);
    }

    /// Forgets an inactive connection that was closed here.
    pub(crate) fn expire(&self) {
        self.inactive.fetch_sub(1, Ordering::SeqCst);
    }

    /// Requests in flight that began on this lane.
    #[inline]
    pub fn active(&self) -> u32 {
        (self.active.load(Ordering::SeqCst) & ACTIVE) as u32
    }

    /// Closed connections of this lane that are still remembered.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::SeqCst)
    }

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
        Self { shared: Arc::default(), others: (1..lane::count()).map(|_| Arc::default()).collect() }
    }

    /// Counters for `count` backends, with those of one lane side by side in memory: a processor reads ahead when a
    /// rotation goes through them in order, and must not read into those that another one is writing.
    pub(crate) fn several(count: usize) -> impl Iterator<Item = Arc<Self>> {
        lane::by_lane(count, |_, _| Arc::default()).map(|lanes: Vec<Arc<Counters>>| {
            let mut lanes = lanes.into_iter();
            Arc::new(Self { shared: lanes.next().unwrap_or_default(), others: lanes.collect() })
        })
    }

    /// The counters of one lane. Lanes come from this program's own count; a stranger is taken for the shared one.
    #[inline]
    pub fn lane(&self, lane: usize) -> &Arc<Counters> {
        lane.checked_sub(1).and_then(|other| self.others.get(other)).unwrap_or(&self.shared)
    }

    /// All lanes.
    fn lanes(&self) -> impl Iterator<Item = &Counters> {
        core::iter::once(&self.shared).chain(&self.others).map(|lane| &**lane)
    }

    /// Counts one more active request on the shared lane, unless `limit` are active already; it ends there too.
    #[inline]
    pub(crate) fn start_within(&self, limit: u32) -> bool {
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
        self.others.iter().take(lane::used() - 1).map(|lane| u64::from(lane.active())).sum()
    }

    /// Requests in flight.
    #[inline]
    pub fn active(&self) -> u32 {
        // More than 2³² requests at once are not to be had.
        (u64::from(self.shared.active()) + self.beside_shared()) as u32
    }

    /// Closed connections still remembered.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.lanes().map(Counters::inactive).sum()
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
        assert!(load.start_within(2) && load.start_within(2));
        assert!(!load.start_within(2), "the limit is reached");
        assert_eq!(load.active(), 2);
        load.shared.end(Some(Outcome::Failure));
        load.shared.close(None);
        assert_eq!((load.active(), load.inactive(), load.failed(), load.finished()), (0, 1, 1, 2));
        load.shared.expire();
        assert_eq!(load.inactive(), 0);
    }

    #[test]
    fn the_average_moves_an_eighth_of_the_way() {
        let load = Load::new();
        for (sample, expected) in [(800, 800), (1600, 900), (900, 901), (0, 789)] {
            load.shared.start();
            load.shared.end(Some(Outcome::Success { latency: Duration::from_nanos(sample) }));
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
            load.shared.end(Some(Outcome::Success { latency: Duration::ZERO }));
            assert_eq!(load.succeeded(), expected);
        }
        assert_eq!(load.active(), 0);
    }

    #[test]
    fn every_lane_has_counters_and_a_stranger_the_shared_ones() {
        let load = Load::new();
        for lane in 0..lane::count() {
            load.lane(lane).start();
        }
        lane::move_on();
        assert!(Arc::ptr_eq(load.lane(lane::SHARED), load.lane(usize::MAX)));
        assert_eq!(load.lanes().map(Counters::active).sum::<u32>() as usize, lane::count());
    }

    #[test]
    fn threads_lose_nothing_on_whatever_lane() {
        let load = Load::new();
        let started: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let load = &load;
                    scope.spawn(move || {
                        let mut started = 0;
                        for turn in 0..10_000u64 {
                            let lane = if turn % 2 == 0 { &load.shared } else { load.lane(thread) };
                            let counted = match turn % 3 {
                                0 => load.start_within(6),
                                1 => lane.start_alone(),
                                _ => {
                                    lane.start();
                                    true
                                }
                            };
                            let lane = if turn % 3 == 0 { &load.shared } else { lane };
                            if counted {
                                lane.end(Some(Outcome::Success { latency: Duration::from_nanos(turn) }));
                                started += 1;
                            }
                        }
                        started
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(load.lanes().map(Counters::active).sum::<u32>(), 0);
        assert_eq!((load.finished(), load.succeeded()), (started, started));
    }
}
