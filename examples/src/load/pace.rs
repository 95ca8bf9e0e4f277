//! Which request comes next, and when: a number of requests, a rate, or neither.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a turn is due that no clock can tell: in a thousand years.
const NEVER: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// Hands out the turns of one run to all its connections, on all threads.
#[derive(Debug)]
pub(crate) struct Pace {
    start: Instant,
    taken: AtomicU64,
    total: u64,
    rate: Option<f64>,
}

/// The turn to send one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    /// When a steady client would send it; `None` when there is no rate to keep.
    pub(crate) due: Option<Instant>,
}

impl Pace {
    /// `total` requests from `start`, at `rate` requests a second or as fast as they are answered.
    pub(crate) fn new(start: Instant, total: Option<u64>, rate: Option<f64>) -> Self {
        Self { start, taken: AtomicU64::new(0), total: total.unwrap_or(u64::MAX), rate }
    }

    /// The next turn, or `None` when all have been taken.
    pub(crate) fn next(&self) -> Option<Turn> {
        // Past the total each connection takes one turn more and stops: no overflow.
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = |rate| {
            let after = Duration::try_from_secs_f64(turn as f64 / rate).ok();
            after.and_then(|after| self.start.checked_add(after)).unwrap_or(self.start + NEVER)
        };
        (turn < self.total).then(|| Turn { due: self.rate.map(due) })
    }
}

impl Turn {
    /// How long to wait at `now`.
    ///
    /// The runtime's timers tick each millisecond. So a request leaves within the millisecond before it is due:
    /// early by less than a tick rather than late by one, for lateness is what the server is measured by.
    pub(crate) fn wait(self, now: Instant) -> Duration {
        const TICK: Duration = Duration::from_millis(1);
        self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now + TICK))
    }

    /// From when the latency of a request that leaves at `now` counts.
    ///
    /// From when it was due, when it is late: with all connections busy, the requests that could not even be sent
    /// waited too, and leaving them out would hide a server's stalls (coordinated omission).
    pub(crate) fn counts_from(self, now: Instant) -> Instant {
        self.due.map_or(now, |due| due.min(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_counted_and_spaced() {
        let start = Instant::now();
        let pace = Pace::new(start, Some(3), Some(100.0));
        let due: Vec<_> =
            std::iter::from_fn(|| pace.next()).map(|turn| turn.due.map(|due| due - start)).collect();
        assert_eq!(due, [0, 10, 20].map(|millis| Some(Duration::from_millis(millis))));
        let pace = Pace::new(start, Some(2), Some(1e-300));
        assert_eq!(pace.next().and_then(|turn| turn.due), Some(start));
        assert_eq!(pace.next().and_then(|turn| turn.due), Some(start + NEVER));
        let pace = Pace::new(start, None, None);
        assert_eq!([pace.next(), pace.next()], [Some(Turn { due: None }); 2]);
    }

    #[test]
    fn late_requests_count_from_when_they_were_due() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let turn = Turn { due: Some(at(20)) };
        for (now, wait, counts_from) in [(5, 14, 5), (19, 0, 19), (20, 0, 20), (70, 0, 20)] {
            assert_eq!(turn.wait(at(now)), Duration::from_millis(wait), "at {now} ms");
            assert_eq!(turn.counts_from(at(now)), at(counts_from), "at {now} ms");
        }
        let turn = Turn { due: None };
        assert_eq!((turn.wait(at(5)), turn.counts_from(at(5))), (Duration::ZERO, at(5)));
    }
}
