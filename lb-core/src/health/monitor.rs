//! A driver for those without a runtime: a few threads that probe many servers.
//!
//! It adds nothing to what [`Checker`] and [`Probe`] give; an asynchronous program writes the same loop in its own
//! way, one task a server: sleep until [`next_probe`](Checker::next_probe), run the probe where blocking work goes,
//! [`record`](Checker::record) its verdict.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::probe::Probe;
use super::{Checker, Config, ConfigError, Transition};
use crate::clock::{Clock, MonotonicClock, Timestamp};

/// Why a [`Monitor`] did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// It was to have no threads.
    #[error("a monitor with 0 threads never probes: give it at least 1")]
    NoThreads,
    /// The system refused a thread.
    #[error(
        "cannot start a thread that probes: {0}; raise the limit on threads (ulimit -u), or ask for fewer"
    )]
    Spawn(#[source] io::Error),
}

/// Probes servers named by `K` from a few threads, and reports each verdict to a function.
///
/// A probe blocks its thread for up to its timeout, so with n threads, n servers that hang at a time delay the
/// checks of nobody else. Dropped, the monitor ends once the probes that run have ended.
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use core::time::Duration;
/// use lb_core::clock::MonotonicClock;
/// use lb_core::health::probe::TcpProbe;
/// use lb_core::health::{Config, Monitor};
/// use lb_core::{Health, Pool};
///
/// let web1 = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let addresses = [("web1", web1.local_addr()?), ("web2", "127.0.0.1:1".parse()?)];
/// let pool: Arc<Pool<&str>> = Arc::new(Pool::new());
/// pool.update(addresses.map(|(name, _)| (name, Default::default())))?;
///
/// let (sender, changes) = mpsc::channel();
/// let set = pool.clone();
/// let monitor = Monitor::start(2, MonotonicClock::new(), move |name: &&str, checker, transition| {
///     if let Some(transition) = transition {
///         let health = if checker.is_up() { Health::Up } else { Health::Down };
///         let _ = set.edit(|edit| edit.entry(name).map(|entry| entry.health = health));
///         let _ = sender.send(format!("{name} is {transition}"));
///     }
/// })?;
/// let config = Config { interval: Duration::from_millis(50), ..Config::default() };
/// for (name, address) in addresses {
///     monitor.watch(name, address, TcpProbe::default(), config.clone())?;
/// }
/// assert!(changes.recv()?.starts_with("web2 is down: a check failed: cannot connect to 127.0.0.1:1: "));
/// assert_eq!(pool.snapshot().set().iter().filter(|member| member.weight > 0).count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Monitor<K: Ord> {
    shared: Arc<Shared<K>>,
    threads: Vec<JoinHandle<()>>,
}

type Report<K> = dyn Fn(&K, &Checker, Option<&Transition>) + Send + Sync;

struct Shared<K: Ord> {
    clock: MonotonicClock,
    report: Box<Report<K>>,
    agenda: Mutex<Agenda<K>>,
    /// The agenda's first entry is another one, or all is over.
    changed: Condvar,
}

struct Agenda<K: Ord> {
    /// What waits for its moment; what is being probed is not in here.
    due: BTreeMap<(Timestamp, Ticket), Watched<K>>,
    /// Who is watched, under which ticket. A server whose ticket is another, or none, is no longer wanted.
    tickets: BTreeMap<K, Ticket>,
    issued: Ticket,
    over: bool,
}

/// One for each call of [`Monitor::watch`].
type Ticket = u64;

struct Watched<K> {
    key: K,
    address: SocketAddr,
    probe: Probe,
    checker: Checker,
}

impl<K: Ord + Clone + Send + 'static> Monitor<K> {
    /// A monitor with so many threads, whose timestamps come from `clock`. After each probe, one of the threads
    /// calls `report` with the server's key, its checker as it now is, and the transition, if it is one. A monitor
    /// that is being dropped, or a server that is being forgotten, may be reported once more.
    ///
    /// # Errors
    /// [`MonitorError`], when there are no threads to run on.
    pub fn start<F>(threads: usize, clock: MonotonicClock, report: F) -> Result<Self, MonitorError>
    where
        F: Fn(&K, &Checker, Option<&Transition>) + Send + Sync + 'static,
    {
        if threads == 0 {
            return Err(MonitorError::NoThreads);
        }
        let agenda = Agenda { due: BTreeMap::new(), tickets: BTreeMap::new(), issued: 0, over: false };
        let shared = Arc::new(Shared {
            clock,
            report: Box::new(report),
            agenda: Mutex::new(agenda),
            changed: Condvar::new(),
        });
        // Dropped on an early return, it ends the threads that did start.
        let mut monitor = Self { shared, threads: Vec::with_capacity(threads) };
        for _ in 0..threads {
            let shared = Arc::clone(&monitor.shared);
            let thread = thread::Builder::new().name("health".into()).spawn(move || shared.work());
            monitor.threads.push(thread.map_err(MonitorError::Spawn)?);
        }
        Ok(monitor)
    }

    /// Begins to watch a server; one of the same key is replaced, with its history.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting can never work; then nothing changes.
    pub fn watch(
        &self,
        key: K,
        address: SocketAddr,
        probe: impl Into<Probe>,
        config: Config,
    ) -> Result<(), ConfigError> {
        let probe = probe.into();
        probe.validate()?;
        let mut agenda = self.shared.lock();
        let ticket = agenda.issued + 1;
        let checker = Checker::new(config, self.shared.clock.now(), ticket)?;
        agenda.issued = ticket;
        agenda.forget(&key);
        agenda.tickets.insert(key.clone(), ticket);
        agenda.due.insert((checker.next_probe(), ticket), Watched { key, address, probe, checker });
        drop(agenda);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Watches this server no more; says whether it did.
    pub fn forget(&self, key: &K) -> bool {
        self.shared.lock().forget(key)
    }
}

impl<K: Ord> Agenda<K> {
    fn forget(&mut self, key: &K) -> bool {
        let Some(ticket) = self.tickets.remove(key) else { return false };
        self.due.retain(|(_, waiting), _| *waiting != ticket);
        true
    }
}

impl<K: Ord> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Agenda<K>> {
        // Nothing panics while it is locked.
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each thread does until all is over.
    fn work(&self) {
        while let Some((ticket, mut watched)) = self.next() {
            let verdict = watched.probe.run(watched.address);
            let transition = watched.checker.record(self.clock.now(), verdict);
            if self.lock().tickets.get(&watched.key) == Some(&ticket) {
                (self.report)(&watched.key, &watched.checker, transition.as_ref());
            }
            let mut agenda = self.lock();
            if agenda.tickets.get(&watched.key) == Some(&ticket) {
                agenda.due.insert((watched.checker.next_probe(), ticket), watched);
                drop(agenda);
                self.changed.notify_one();
            }
        }
    }

    /// Waits for the next server that is due; `None` when all is over.
    fn next(&self) -> Option<(Ticket, Watched<K>)> {
        let mut agenda = self.lock();
        while !agenda.over {
            let now = self.clock.now();
            let first = agenda.due.first_key_value().map(|((due, _), _)| *due);
            agenda = match first {
                Some(due) if due <= now => {
                    return agenda.due.pop_first().map(|((_, ticket), watched)| (ticket, watched));
                }
                Some(due) => {
                    let waited = self.changed.wait_timeout(agenda, due.saturating_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(agenda).unwrap_or_else(PoisonError::into_inner),
            };
        }
        None
    }
}

impl<K: Ord> Drop for Monitor<K> {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        let own = thread::current().id();
        // A report may own the last handle of the monitor; a thread cannot wait for itself.
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            let _ = thread.join();
        }
    }
}

impl<K: Ord> fmt::Debug for Monitor<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}
