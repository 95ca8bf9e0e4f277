//! The machine's own part in what is measured: how unsteadily it wakes a thread that does nothing but wait for a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// From wake to wake.
const PERIOD: Duration = Duration::from_millis(10);

/// Such a thread, beside the routers while they are watched.
pub(super) struct Floor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Floor {
    /// Begins.
    pub(super) fn watch() -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("a timer");
            let period = Expiration::Interval(TimeSpec::from_duration(PERIOD));
            timer.set(period, TimerSetTimeFlags::empty()).expect("a period");
            let mut wakes = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if timer.wait().is_ok() {
                    wakes.push(Instant::now());
                }
            }
            let distances = wakes.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3);
            distances.map(|distance| (distance - PERIOD.as_secs_f64() * 1e3).abs()).collect()
        });
        Self { stop, thread }
    }

    /// Ends. Milliseconds by which the time between two wakes was not the period.
    pub(super) fn end(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread does not panic")
    }
}
