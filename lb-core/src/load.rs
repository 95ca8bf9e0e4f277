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
///
/// Every request is counted when it starts, in one of two words, and when it ends, in one of three others; those that have
/// started and not ended are active. The thread where it starts may be [alone](crate::lane#alone-on-a-lane), and the one
/// where it ends too.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counters {
    /// Started by who was alone on the lane.
    alone: AtomicU64,
    /// Ended in success, by who was alone on the lane.
    done: AtomicU64,
    /// Started by others.
    added: AtomicU64,
    /// Ended in success, by others.
    succeeded: AtomicU64,
    /// Ended otherwise: failed, cancelled, or nobody said.
    otherwise: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    inactive: AtomicU32,
    /// Nanoseconds, the bits of an `f32`: seven digits are more than an average means.
    latency: AtomicU32,
}

/// How often starts and ends are read for one moment's number of them. A model checker needs to see one.
const TRIES: u32 = if cfg!(loom) { 1 } else { 3 };

impl Counters {
    /// Counts one more active request, for a thread that is alone on this lane.
    #[inline]
    pub(crate) fn start_alone(&self) {
        // Relaxed: nobody decides by it, and the lane's lock hands it to the next who is alone.
        self.alone.store(self.alone.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts one more active request, for anybody. Says how many were counted so before.
    #[inline]
    pub(crate) fn start(&self) -> u64 {
        // SeqCst: a scheduler that keeps an order by load reads it after publishing that order.
        self.added.fetch_add(1, Ordering::SeqCst)
    }

    /// Takes back what [`start`](Self::start) counted.
    fn take_back(&self) {
        self.added.fetch_sub(1, Ordering::SeqCst);
    }

    /// Ends an active request that was counted here; `None` when nobody said how it went.
    #[inline]
    pub(crate) fn end(&self, outcome: Option<Outcome>) {
        if let Some(Outcome::Success { latency }) = outcome {
            self.sample(latency);
            self.succeeded.fetch_add(1, Ordering::SeqCst);
        } else {
            self.end_otherwise(outcome);
        }
    }

    /// The same for a thread that is alone on this lane.
    #[inline]
    pub(crate) fn end_alone(&self, outcome: Option<Outcome>) {
        if let Some(Outcome::Success { latency }) = outcome {
            self.sample(latency);
            // Release: who sees this end sees its start.
            self.done.store(self.done.load(Ordering::Relaxed) + 1, Ordering::Release);
        } else {
            self.end_otherwise(outcome);
        }
    }

    #[cold]
    fn end_otherwise(&self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Failure) => self.failed.fetch_add(1, Ordering::Relaxed),
            Some(Outcome::Cancelled) => self.cancelled.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        self.otherwise.fetch_add(1, Ordering::SeqCst);
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

    /// Requests that have started on this lane and ended.
    #[inline]
    fn ended(&self) -> u64 {
        let by_others = self.succeeded.load(Ordering::SeqCst) + self.otherwise.load(Ordering::SeqCst);
        by_others + self.done.load(Ordering::Acquire)
    }

    /// Requests in flight that began on this lane: as many as there were at one moment, if one of a few tries falls between two
    /// ends; else as many as have started meanwhile too.
    #[inline]
    pub fn active(&self) -> u32 {
        let (mut ended, mut active) = (self.ended(), 0);
        for _ in 0..TRIES {
            active = self.started() - ended;
            let now = self.ended();
            if now == ended {
                break;
            }
            ended = now;
        }
        // More than 2³² requests at once are not to be had.
        active as u32
    }

    /// The same, read once: those that have started and ended meanwhile may count as well. Enough to compare by.
    #[inline]
    pub fn about_active(&self) -> u32 {
        let ended = self.ended();
        (self.started() - ended) as u32
    }

    /// Requests that have started on this lane; to be read after those that have [`ended`](Self::ended): who sees an end sees its
    /// start too, so there are never more of them.
    #[inline]
    fn started(&self) -> u64 {
        // Acquire: what is read later is.
        self.added.load(Ordering::SeqCst) + self.alone.load(Ordering::Acquire)
    }

    /// Closed connections of this lane that are still remembered.
    #[inline]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::SeqCst)
    }

    /// Moves the average an eighth of the way to the sample, the gain of RFC 6298's smoothed round-trip time. Of two
    /// samples at the same instant one may be left out; counts never are.
    #[inline]
    fn sample(&self, latency: Duration) {
        let sample = latency.as_secs() as f32 * 1e9 + latency.subsec_nanos() as f32;
        let old = f32::from_bits(self.latency.load(Ordering::Relaxed));
        let new = if old == 0.0 { sample } else { old + (sample - old) / 8.0 };
        self.latency.store(new.to_bits(), Ordering::Relaxed);
    }

    /// The average in nanoseconds; 0 before the first sample.
    fn latency(&self) -> f32 {
        f32::from_bits(self.latency.load(Ordering::Relaxed))
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
    ///
    /// Two threads at the last place may both be refused for a moment, but never both be let in. For of all that are
    /// active, look at the one that started last, by the order of the counter: all the others had started before it, so it
    /// was refused, unless it saw the end of a request that started after it. That one had seen itself and all of them, or
    /// again an end of a still later one, and so on: the last of these was not let in, and so never ended.
    #[inline]
    pub(crate) fn start_within(&self, limit: u32) -> bool {
        let before = self.shared.start();
        let ended = self.shared.ended();
        // Other lanes, and who is alone on this one, start nothing while limits are in use: they only drain.
        let started = before + self.shared.alone.load(Ordering::Relaxed) + self.beside_shared();
        // Requests that started since may have ended already.
        if limit == u32::MAX || started.saturating_sub(ended) < u64::from(limit) {
            return true;
        }
        self.shared.take_back();
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
        self.sum(|lane| lane.succeeded.load(Ordering::Relaxed) + lane.done.load(Ordering::Relaxed))
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
        self.sum(Counters::ended)
    }

    /// The smoothed latency of successes (the mean of the lanes'); zero before the first.
    pub fn latency(&self) -> Duration {
        let lanes = || self.lanes().map(|lane| f64::from(lane.latency())).filter(|ns| *ns > 0.0);
        // `as` takes what is no number (no lane) for 0, and saturates.
        Duration::from_nanos((lanes().sum::<f64>() / lanes().count() as f64) as u64)
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
        for (sample, expected) in [(800, 800), (1600, 900), (900, 900), (0, 787)] {
            load.shared.start();
            load.shared.end(Some(Outcome::Success { latency: Duration::from_nanos(sample) }));
            let got = u64::try_from(load.latency().as_nanos()).unwrap();
            assert!(got.abs_diff(expected) <= 1, "after {sample}: {got}, not {expected}");
        }
        assert_eq!((load.succeeded(), load.active()), (4, 0));
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

    /// Every way to count, by threads that are alone on a lane where its lock says so.
    #[test]
    fn threads_lose_nothing_on_whatever_lane() {
        let load = Load::new();
        let locks: Vec<_> = (0..lane::count()).map(|_| std::sync::Mutex::new(())).collect();
        let started: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let (load, locks) = (&load, &locks);
                    scope.spawn(move || {
                        let mut started = 0;
                        for turn in 0..10_000u64 {
                            let within = turn % 3 == 0;
                            let lane =
                                if within || turn % 2 == 0 { lane::SHARED } else { thread % locks.len() };
                            let counters = load.lane(lane);
                            if within {
                                if !load.start_within(6) {
                                    continue;
                                }
                            } else if let Ok(_alone) = locks[lane].try_lock() {
                                counters.start_alone();
                            } else {
                                counters.start();
                            }
                            // The lanes are read one after the other: who moves meanwhile may be seen on each.
                            assert!(
                                load.active() as usize <= 4 * lane::count(),
                                "each thread has one at most"
                            );
                            counters.end(match turn % 7 {
                                0 => Some(Outcome::Failure),
                                1 => None,
                                _ => Some(Outcome::Success { latency: Duration::from_nanos(turn) }),
                            });
                            started += 1;
                        }
                        started
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(load.lanes().map(Counters::active).sum::<u32>(), 0);
        assert_eq!(load.finished(), started);
        let counters =
            |word: fn(&Counters) -> &AtomicU64| load.sum(|lane| word(lane).load(Ordering::Relaxed));
        assert_eq!(counters(|lane| &lane.alone) + counters(|lane| &lane.added), started);
    }
}
