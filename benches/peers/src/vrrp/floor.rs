//! The machine's own part in what is measured: how late it wakes a thread that does nothing but wait for a
//! timer, and what the host of a virtual machine takes of its processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

/// From wake to wake.
const PERIOD: Duration = Duration::from_millis(10);

/// Such a thread, beside the routers while they are watched.
pub(super) struct Floor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Floor {
    /// Begins.
    pub(super) fn watch() -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("a timer");
            let mut late = Vec::new();
            let mut due = now() + PERIOD;
            while !stopped.load(Ordering::Relaxed) {
                let at = Expiration::OneShot(TimeSpec::from_duration(due));
                timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).expect("a time");
                if timer.wait().is_ok() {
                    late.push(now().saturating_sub(due));
                    due += PERIOD;
                }
            }
            late
        });
        Self { stop, thread }
    }

    /// Ends. How late each wake was.
    pub(super) fn end(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread does not panic")
    }
}

/// Seconds of processor time that the host of this virtual machine has given to others, over all processors (the eighth figure
/// of `cpu` in proc(5)'s `stat`); a machine of its own has none.
pub(super) fn stolen() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text.split_whitespace().nth(8).and_then(|ticks| ticks.parse::<f64>().ok());
    ticks.unwrap_or(0.0) * TICK
}

/// Seconds; 10 ms on every Linux of today. Less than that is nothing, and no ratio comes of nothing.
pub(super) const TICK: f64 = 0.01;

fn now() -> Duration {
    clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock").into()
}
