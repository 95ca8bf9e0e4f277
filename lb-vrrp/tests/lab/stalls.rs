//! When the machine itself stood still: what happens then says nothing about the programs on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::now;

/// How often each processor is looked at.
const PERIOD: Duration = Duration::from_millis(1);

/// A thread on each processor that sleeps for a millisecond at a time, and notes when it wakes late: on a virtual machine whose
/// processor the host has given to another, or on a busy one.
#[derive(Debug)]
pub(crate) struct Stalls {
    /// When one ended, and how long it was.
    seen: Arc<Mutex<Vec<(Duration, Duration)>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stalls {
    /// Begins.
    pub(crate) fn watch() -> Self {
        let (seen, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a thread has processors");
        let processors = (0..CpuSet::count()).filter(|&processor| allowed.is_set(processor).unwrap_or(false));
        let threads = processors.map(|processor| {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            thread::spawn(move || watch(processor, &seen, &stop))
        });
        let threads = threads.collect();
        Self { seen, stop, threads }
    }

    /// All that ended from `since` on, added up over the processors: each may have held up another program.
    pub(crate) fn total(&self, since: Duration) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(end, _)| *end >= since).map(|&(_, length)| length).sum()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // its panic was printed
        }
    }
}

fn watch(processor: usize, seen: &Mutex<Vec<(Duration, Duration)>>, stop: &AtomicBool) {
    let mut here = CpuSet::new();
    here.set(processor).expect("it is one of the set's");
    sched_setaffinity(Pid::from_raw(0), &here).expect("it is one of the thread's");
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        thread::sleep(PERIOD);
        let late = begin.elapsed().saturating_sub(PERIOD);
        if late >= PERIOD {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push((now(), late));
        }
    }
}
