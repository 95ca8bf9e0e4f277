//! What is counted: each worker writes cells of its own, readers add them up.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::histogram::Histogram;

/// A number that only goes up, or a gauge that goes both ways.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Counts several.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes one back: for gauges.
    pub(crate) fn less_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number now.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One cell a worker, each on cache lines of its own, so that workers do not wait for each other.
#[derive(Debug)]
pub(crate) struct PerWorker<T>(Box<[CachePadded<T>]>);

impl<T: Default> PerWorker<T> {
    /// Cells for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| CachePadded::new(T::default())).collect())
    }

    /// The cell of one worker.
    pub(crate) fn of(&self, worker: usize) -> &T {
        &self.0[worker % self.0.len()]
    }

    /// Every worker's part, added up.
    pub(crate) fn sum(&self, part: impl Fn(&T) -> u64) -> u64 {
        // A gauge that went up on one worker and down on another wraps around in both and is right in the sum.
        self.0.iter().fold(0, |sum, cell| sum.wrapping_add(part(cell)))
    }

    /// Every worker's cell.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|cell| &**cell)
    }
}

/// Responses by the hundreds of their status, 1xx to 5xx; anything else at 0.
#[derive(Debug, Default)]
pub(crate) struct Responses([Counter; 6]);

impl Responses {
    /// Counts one response.
    pub(crate) fn count(&self, status: u16) {
        let class = usize::from(status / 100);
        self.0[if class > 5 { 0 } else { class }].one();
    }

    /// The count of one class.
    pub(crate) fn class(&self, class: usize) -> u64 {
        self.0[class].get()
    }
}

/// A kind of timeout, each with a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// A server did not accept the connection.
    Connect,
    /// A client stopped sending or reading.
    Client,
    /// A server stopped answering.
    Server,
    /// No server became free.
    Queue,
    /// A client did not finish its header.
    RequestHeader,
}

/// What a frontend counts.
#[derive(Debug, Default)]
pub(crate) struct FrontendCounters {
    /// Connections accepted.
    pub(crate) connections: Counter,
    /// Connections open.
    pub(crate) open: Counter,
    /// Requests.
    pub(crate) requests: Counter,
    /// Requests that wait for a server.
    pub(crate) queued: Counter,
    /// Refused as malformed or over a limit.
    pub(crate) denied: Counter,
    /// By [`Timeout`].
    timeouts: [Counter; 5],
    /// Sent to clients.
    pub(crate) responses: Responses,
    /// Bytes from clients.
    pub(crate) bytes_in: Counter,
    /// Bytes to clients.
    pub(crate) bytes_out: Counter,
}

impl FrontendCounters {
    /// The counter of one kind of timeout.
    pub(crate) fn timeout(&self, kind: Timeout) -> &Counter {
        &self.timeouts[kind as usize]
    }
}

/// What a server counts beside its load.
#[derive(Debug, Default)]
pub(crate) struct ServerCounters {
    /// Attempts sent to it.
    pub(crate) requests: Counter,
    /// Attempts repeated on it.
    pub(crate) retries: Counter,
    /// Attempts that left it for another server.
    pub(crate) redispatches: Counter,
    /// Connections that could not be made.
    pub(crate) connect_errors: Counter,
    /// Requests that ended well, failed, or were given up by the client.
    pub(crate) successes: Counter,
    /// Requests that failed.
    pub(crate) failures: Counter,
    /// Requests that the client gave up.
    pub(crate) cancelled: Counter,
    /// Its responses.
    pub(crate) responses: Responses,
    /// Bytes sent to it.
    pub(crate) bytes_in: Counter,
    /// Bytes received from it.
    pub(crate) bytes_out: Counter,
    /// How long its answers took.
    pub(crate) latency: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_may_fall_on_another_worker_than_it_rose_on() {
        let gauge: PerWorker<Counter> = PerWorker::new(2);
        gauge.of(0).add(3);
        gauge.of(1).less_one();
        gauge.of(1).less_one();
        assert_eq!(gauge.sum(Counter::get), 1);
    }
}
