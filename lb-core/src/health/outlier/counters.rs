//! What one server's requests came to, counted by the threads that serve them.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// How a request ended, as outlier detection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Response {
    /// A good answer. One that blames the client (4xx) is good, too.
    Success,
    /// The server's own failure: a 5xx status other than those of a gateway.
    ServerError,
    /// A 502, 503 or 504; or no answer at all: refused, reset, timed out. Counts as a server's failure, too.
    GatewayError,
}

/// Counts for a [`Detector`](super::Detector): any thread records, one place sweeps. Without locks; a success in a row
/// of successes costs one atomic addition.
///
/// Each counter is exact. With several threads, which of two outcomes came first is as they raced, so a run may be
/// off by the requests that ended at the same moment.
#[derive(Debug, Default)]
pub struct Counters {
    succeeded: AtomicU64,
    failed: AtomicU64,
    failures: Run,
    gateway: Run,
}

/// Failures in a row: those of now, and the longest row since the last look.
#[derive(Debug, Default)]
struct Run {
    now: AtomicU32,
    longest: AtomicU32,
}

impl Run {
    fn grow(&self) -> u32 {
        // Wraps after 2^32 failures in a row without a sweep; any threshold was met long before.
        let length = self.now.fetch_add(1, Relaxed).wrapping_add(1);
        self.longest.fetch_max(length, Relaxed);
        length
    }

    fn end(&self) {
        // The look before the write keeps the cache line shared while all goes well.
        if self.now.load(Relaxed) != 0 {
            self.now.store(0, Relaxed);
        }
    }

    fn take(&self) -> u32 {
        if self.longest.load(Relaxed) == 0 { 0 } else { self.longest.swap(0, Relaxed) }
    }
}

/// What was counted between two sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    /// The longest run that grew since the last sweep.
    pub(super) failures: u32,
    pub(super) gateway: u32,
}

impl Counters {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one request. Gives the length of the run of failures that it extends, 0 for a success: a caller that
    /// sees its threshold there may sweep at once instead of at the next interval.
    pub fn record(&self, response: Response) -> u32 {
        match response {
            Response::Success => {
                self.succeeded.fetch_add(1, Relaxed);
                self.failures.end();
                self.gateway.end();
                0
            }
            Response::ServerError => {
                self.failed.fetch_add(1, Relaxed);
                self.gateway.end();
                self.failures.grow()
            }
            Response::GatewayError => {
                self.failed.fetch_add(1, Relaxed);
                self.gateway.grow();
                self.failures.grow()
            }
        }
    }

    /// What was counted since the last call. Runs that go on go on.
    pub(super) fn take(&self) -> Sample {
        Sample {
            succeeded: self.succeeded.swap(0, Relaxed),
            failed: self.failed.swap(0, Relaxed),
            failures: self.failures.take(),
            gateway: self.gateway.take(),
        }
    }

    /// Ends the runs, as a success would: they were judged.
    pub(super) fn end_runs(&self) {
        self.failures.end();
        self.gateway.end();
    }
}

#[cfg(test)]
mod tests {
    use super::Response::{GatewayError, ServerError, Success};
    use super::*;

    #[test]
    fn runs_and_counts() {
        let counters = Counters::new();
        let runs = [ServerError, GatewayError, GatewayError, ServerError, Success, GatewayError]
            .map(|response| counters.record(response));
        assert_eq!(runs, [1, 2, 3, 4, 0, 1]);
        assert_eq!(counters.take(), Sample { succeeded: 1, failed: 5, failures: 4, gateway: 2 });
        assert_eq!(counters.take(), Sample::default());
        assert_eq!(counters.record(GatewayError), 2, "a run goes on over a sweep");
        counters.end_runs();
        assert_eq!(counters.record(ServerError), 1);
        assert_eq!(counters.take(), Sample { succeeded: 0, failed: 2, failures: 2, gateway: 2 });
    }

    #[cfg(feature = "std")]
    #[test]
    fn threads_lose_no_count() {
        let counters = Counters::new();
        let (mut succeeded, mut failed) = (0, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..10_000 {
                        counters.record(if i % 4 == 0 { ServerError } else { Success });
                    }
                });
            }
            for _ in 0..100 {
                let sample = counters.take();
                (succeeded, failed) = (succeeded + sample.succeeded, failed + sample.failed);
            }
        });
        let rest = counters.take();
        assert_eq!((succeeded + rest.succeeded, failed + rest.failed), (30_000, 10_000));
    }
}
