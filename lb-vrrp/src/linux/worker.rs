//! A second thread that carries big lots of addresses to the kernel.
//!
//! The kernel looks through all addresses of an interface to add one, so that with thousands of them a single one takes
//! milliseconds, and no advert could be sent meanwhile. So what would take long goes to this thread, which does nothing else
//! and starts when it is first needed. Few addresses never need it.
//!
//! A kernel without preemption (most servers') does not interrupt what it does for one thread for the sake of another on the
//! same processor. So this thread keeps off the processor that the driver is on, and asks for no more at a time than has to
//! be.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use super::driver::InstanceId;
use super::netlink::{Change, Netlink};
use super::pace::{LOT, Pace};
use super::sys;

/// A request that finds no room in the kernel is tried so often at once.
const TRIES: usize = 3;
/// It may run for so long where others want its processor, but each that wakes comes first. The longest that the kernel gives.
const SLICE: Duration = Duration::from_millis(100);
/// The thread needs little stack; all of it is locked where memory is.
const STACK: usize = 256 * 1024;

/// Changes for an instance.
#[derive(Debug)]
struct Job {
    id: InstanceId,
    changes: Vec<Change>,
    /// The processor that the driver is on.
    processor: Option<usize>,
}

/// What came of a job: one result for each change.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: InstanceId,
    pub(super) results: Vec<Result<bool, Errno>>,
    pub(super) took: Duration,
}

/// The thread, from the driver's side. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    /// Readable when something is done.
    ready: Arc<EventFd>,
    /// Jobs that are not done.
    pub(super) pending: usize,
}

impl Worker {
    /// Starts the thread. It has the caller's network namespace, and no realtime priority.
    pub(super) fn start() -> io::Result<Self> {
        let mut netlink = Netlink::new()?;
        let ready = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (jobs, queue) = mpsc::channel::<Job>();
        let (results, done) = mpsc::channel();
        let signal = ready.clone();
        thread::Builder::new().name("vrrp-addresses".into()).stack_size(STACK).spawn(move || {
            // Refused only where no realtime priority could have been inherited.
            let _ = sys::set_normal();
            // Without it, the driver may wait for some milliseconds where both are on one processor.
            let _ = sys::set_slice(SLICE);
            let mut place = Place::default();
            let mut pace = Pace::new(LOT);
            for Job { id, changes, processor } in queue {
                place.keep_off(processor);
                let begin = Instant::now();
                let (mut outcome, mut part) = (Vec::new(), Vec::new());
                let mut rest = &changes[..];
                while !rest.is_empty() {
                    let (lot, others) = rest.split_at(pace.fit(LOT).min(rest.len()));
                    let begin = Instant::now();
                    apply(&mut netlink, lot, &mut part);
                    pace.learn(lot.len(), begin.elapsed());
                    outcome.append(&mut part);
                    rest = others;
                }
                if results.send(Done { id, results: outcome, took: begin.elapsed() }).is_err() {
                    return;
                }
                // Full only if it is readable for a long time.
                let _ = signal.write(1);
            }
        })?;
        Ok(Self { jobs, done, ready, pending: 0 })
    }

    /// Hands changes over. They come back if the thread is gone.
    pub(super) fn hand_over(&mut self, id: InstanceId, changes: Vec<Change>) -> Result<(), Vec<Change>> {
        let processor = sched_getcpu().ok();
        self.jobs.send(Job { id, changes, processor }).map_err(|unsent| unsent.0.changes)?;
        self.pending += 1;
        Ok(())
    }

    /// The next that is done.
    pub(super) fn poll(&mut self) -> Option<Done> {
        // What is written while this reads makes it readable again.
        let _ = self.ready.read();
        let done = self.done.try_recv().ok()?;
        self.pending -= 1;
        Some(done)
    }

    /// The next that is done, waited for; `None` if nothing is to come.
    pub(super) fn wait(&mut self) -> Option<Done> {
        if self.pending == 0 {
            return None;
        }
        let done = self.done.recv().ok();
        self.pending = if done.is_some() { self.pending - 1 } else { 0 };
        done
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

/// Where the thread runs: on any processor that it may, but for one.
#[derive(Debug, Default)]
struct Place {
    /// What it may run on, as it was found at first.
    allowed: Option<CpuSet>,
    avoided: Option<usize>,
}

impl Place {
    /// Keeps off `processor`, if there is another. What fails leaves things as they are: slower, not wrong.
    fn keep_off(&mut self, processor: Option<usize>) {
        let this = Pid::from_raw(0);
        let (Some(processor), true) = (processor, processor != self.avoided) else { return };
        if self.allowed.is_none() {
            self.allowed = sched_getaffinity(this).ok();
        }
        let Some(mut others) = self.allowed else { return };
        let left = others.unset(processor).is_ok()
            && (0..CpuSet::count()).any(|processor| others.is_set(processor).unwrap_or(false));
        if left && sched_setaffinity(this, &others).is_ok() {
            self.avoided = Some(processor);
        }
    }
}

/// Makes changes by one request; what only found no room is tried again at once.
pub(super) fn apply(netlink: &mut Netlink, changes: &[Change], results: &mut Vec<Result<bool, Errno>>) {
    netlink.apply(changes, results);
    let mut again = Vec::new();
    for (change, result) in changes.iter().zip(results) {
        for _ in 0..TRIES {
            if !matches!(result, Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)) {
                break;
            }
            netlink.apply(std::slice::from_ref(change), &mut again);
            *result = again[0];
        }
    }
}
