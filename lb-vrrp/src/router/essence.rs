//! What decides a router's future, without the time and without its past.

use super::{RETRY_MIN, VirtualRouter};
use crate::event::State;
use crate::time::Timestamp;
use crate::wire::Interval;

/// All that decides what a router will do, with times counted from now: of two routers of one configuration with the same
/// essence, each does what the other does. What they have counted and said may differ.
///
/// It makes a finite graph of what routers can do, for a model checker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Essence {
    state: State,
    started: bool,
    faults: u16,
    priority: u8,
    interval: Interval,
    /// Deadlines in microseconds from now: main, announcements, refresh, retry, preempt, calm.
    deadlines: [Option<i64>; 6],
    /// The rounds of the next announcements.
    rounds: u8,
    /// When the last advert was decided, while active.
    advertised: Option<i64>,
    /// An advert that was not polled yet: priority, next peer, when it was decided, and the one before it.
    pending: Option<(u8, usize, i64, i64)>,
    /// The pause after the next failure, and when the last was, unless that is forgotten.
    failed: Option<(core::time::Duration, i64)>,
    addresses: crate::addresses::Addresses,
}

impl VirtualRouter {
    /// When it tries again what failed.
    pub(crate) const fn retries_at(&self) -> Option<Timestamp> {
        self.timers.retry
    }

    /// What decides what it will do from `now` on.
    #[must_use]
    pub fn essence(&self, now: Timestamp) -> Essence {
        let from_now = |at: Timestamp| at.as_micros() as i64 - now.as_micros() as i64;
        let timers = &self.timers;
        let announce = timers.announce.map(|(at, _)| at);
        // What is over is over, whenever it was; but a late wake is told from a later one up to three intervals.
        let ahead = |at: Option<Timestamp>| at.map(|at| from_now(at).max(0));
        let long = 1 + 3 * self.interval.duration().max(self.config.interval.duration()).as_micros() as i64;
        let lately = |at: Timestamp| from_now(at).max(-long);
        Essence {
            state: self.state,
            started: self.started,
            faults: self.faults.bits(),
            priority: self.priority,
            interval: self.interval,
            deadlines: [
                timers.main.map(lately),
                ahead(announce),
                ahead(timers.refresh),
                ahead(timers.retry),
                ahead(timers.preempt),
                ahead(timers.calm).filter(|&calm| calm > 0),
            ],
            rounds: timers.announce.map_or(0, |(_, rounds)| rounds),
            advertised: (self.state == State::Active).then(|| lately(self.advertised)),
            pending: self.pending.map(|(priority, decided, peer)| {
                (priority, peer, from_now(decided), from_now(self.advertised_before))
            }),
            failed: (self.retry != RETRY_MIN).then(|| (self.retry, from_now(self.failed))),
            addresses: self.addresses.clone(),
        }
    }
}
