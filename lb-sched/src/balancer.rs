//! A pool and a scheduler, put together.

use alloc::boxed::Box;
use alloc::sync::Arc;

use lb_core::pool::{Edit, View};
use lb_core::set::{FULL_SHARE, Settings};
use lb_core::{Admin, Backend, BackendId, Health, Lease, Pool, Set, Snapshot, Spec, UpdateError, Weight};
use thiserror::Error;

use crate::algorithm::Algorithm;
use crate::request::Request;
use crate::scheduler::{Answer, Scheduler};

/// Why there is no backend for a request. All are ordinary: a caller answers 503, waits, or tries without
/// conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PickError {
    /// The pool is empty.
    #[error("the pool has no backends; add some with update()")]
    Empty,
    /// All that the algorithm would take, or the one asked for by its id, have weight 0, are drained, in maintenance
    /// or down.
    #[error("no backend that may be chosen takes work: weight 0, drained, in maintenance or down")]
    Unavailable,
    /// Some that the request admits would take work, but have as many requests as their limits allow: wait.
    #[error("all usable backends are full; wait until a request ends, or raise their limits")]
    Full,
    /// Some would take work, but the request refuses all of them.
    #[error("the request avoids or refuses every usable backend")]
    Refused,
    /// The backend asked for by name or id is not in the pool.
    #[error("the backend asked for is not in the pool; pick another")]
    Gone,
}

/// Chooses backends for requests, from many threads at once. A clone is the same balancer.
///
/// ```
/// use lb_sched::{Algorithm, Balancer, Outcome, Request, Weight};
/// use std::time::Duration;
///
/// let balancer = Balancer::new(Algorithm::LeastConnections);
/// balancer.update([("10.0.0.1:80", Weight::new(3)), ("10.0.0.2:80", Weight::new(1))])?;
///
/// let client = "192.0.2.7:40000".parse()?;
/// let lease = balancer.pick(&Request::from_source(client))?;
/// assert_eq!(*lease, "10.0.0.1:80"); // forward the request there
/// lease.finish(Outcome::Success { latency: Duration::from_millis(3) });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Balancer<T, S = Box<dyn Scheduler>> {
    inner: Arc<Inner<T, S>>,
}

#[derive(Debug)]
struct Inner<T, S> {
    pool: Pool<T, S>,
    /// What the scheduler says of itself, asked once: it holds for all generations.
    reads_load: bool,
    wants_feedback: bool,
}

impl<T, S> Clone for Balancer<T, S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T: Send + Sync + 'static> Balancer<T> {
    /// An empty balancer with an algorithm chosen at run time. Its random choices, if it makes any, follow a fixed
    /// seed; see [`seeded`](Self::seeded).
    pub fn new(algorithm: Algorithm) -> Self {
        Self::seeded(algorithm, 0)
    }

    /// The same with a seed of the caller's. Give each of several directors its own, so that they do not choose
    /// alike.
    pub fn seeded(algorithm: Algorithm, seed: u64) -> Self {
        Self::with_scheduler(algorithm.scheduler(seed))
    }
}

impl<T: Send + Sync + 'static, S: Scheduler> Balancer<T, S> {
    /// An empty balancer with this scheduler.
    pub fn with_scheduler(scheduler: S) -> Self {
        let (reads_load, wants_feedback) = (scheduler.reads_load(), scheduler.wants_feedback());
        let pool = match wants_feedback {
            true => Pool::watching(scheduler, S::rebuild, S::finished),
            false => Pool::deriving(scheduler, S::rebuild),
        };
        Self { inner: Arc::new(Inner { pool, reads_load, wants_feedback }) }
    }

    /// Chooses a backend and counts the request on it.
    ///
    /// A retry avoids what was tried:
    ///
    /// ```
    /// # use lb_sched::{Algorithm, Balancer, Outcome, Request, Weight};
    /// # use std::time::Duration;
    /// # let balancer = Balancer::new(Algorithm::RoundRobin);
    /// # balancer.update([("dead", Weight::ONE), ("alive", Weight::ONE)])?;
    /// # let send = |to: &str| (to == "alive").then_some(Duration::from_millis(1));
    /// let mut tried = Vec::new();
    /// let latency = loop {
    ///     let lease = balancer.pick(&Request::new().avoid(&tried))?;
    ///     match send(*lease) {
    ///         Some(latency) => {
    ///             lease.finish(Outcome::Success { latency });
    ///             break latency;
    ///         }
    ///         None => {
    ///             tried.push(lease.backend().id());
    ///             lease.finish(Outcome::Failure);
    ///         }
    ///     }
    /// };
    /// # assert_eq!(tried.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PickError`], at once: this never waits.
    #[inline]
    pub fn pick(&self, request: &Request<'_>) -> Result<Lease<T>, PickError> {
        let mut error = PickError::Empty;
        self.pick_or(request, &mut error).ok_or(error)
    }

    /// Says why, if nobody is chosen. (Not a `Result`: a lease alone comes back in registers.)
    #[inline]
    fn pick_or(&self, request: &Request<'_>, error: &mut PickError) -> Option<Lease<T>> {
        let snapshot = self.inner.pool.read();
        let set = snapshot.set();
        let position = snapshot.derived().pick_on(set, request, snapshot.alone());
        if let (false, Some(position)) = (set.limited(), position) {
            let lease = match self.inner.reads_load {
                false => snapshot.start(position),
                true => snapshot.start_shared(position),
            }?;
            self.counted(&snapshot, position, &lease);
            return Some(lease);
        }
        self.pick_limited(&snapshot, position, request, error)
    }

    /// Counts where all threads count. Another one may take the last place between choice and count. Says why, if
    /// nobody is chosen.
    #[inline(never)]
    fn pick_limited(
        &self,
        snapshot: &View<'_, T, S>,
        first: Option<usize>,
        request: &Request<'_>,
        error: &mut PickError,
    ) -> Option<Lease<T>> {
        let set = snapshot.set();
        let mut choice = first;
        // Each turn that fails, another request took the place, so somebody gets on; but not for ever.
        for _ in 0..=set.len() {
            let Some(position) = choice.filter(|&position| position < set.len()) else {
                *error = why_none(set, request);
                return None;
            };
            if let Some(lease) = snapshot.start_shared(position) {
                self.counted(snapshot, position, &lease);
                return Some(lease);
            }
            choice = snapshot.derived().pick_on(set, request, snapshot.alone());
        }
        *error = PickError::Full;
        None
    }

    /// Tells the scheduler of a request that has just been counted.
    #[inline]
    fn counted(&self, snapshot: &View<'_, T, S>, position: usize, lease: &Lease<T>) {
        if self.inner.wants_feedback {
            snapshot.derived().started(snapshot.set(), position, lease.lane());
            if !self.inner.pool.is_current(snapshot) {
                self.tell_the_newest(lease.backend().id(), lease.lane());
            }
        }
    }

    /// A generation published since the pick began may have read the load before the start was counted.
    #[cold]
    fn tell_the_newest(&self, backend: BackendId, lane: usize) {
        let snapshot = self.inner.pool.read();
        if let Some(position) = snapshot.set().position(backend) {
            snapshot.derived().started(snapshot.set(), position, lane);
        }
    }

    /// A lease on one backend, for a session that belongs there. It is given while the backend drains or has
    /// weight 0 too, but not when it is down, in maintenance, or full.
    ///
    /// Sticky sessions are a table and this; on any error the client gets another backend, and the table hears of it:
    ///
    /// ```
    /// use lb_core::clock::{Clock, MonotonicClock};
    /// use lb_core::session::{Key, StickConfig, StickTable};
    /// use lb_sched::{Algorithm, Balancer, BackendId, Request, Weight};
    /// use std::time::Duration;
    ///
    /// let balancer = Balancer::new(Algorithm::RoundRobin);
    /// balancer.update([("a", Weight::ONE), ("b", Weight::ONE)])?;
    /// let table = StickTable::<BackendId>::new(StickConfig::new(10_000, Duration::from_secs(1800)));
    /// let clock = MonotonicClock::new();
    ///
    /// let serve = |client: std::net::SocketAddr| -> Result<&str, Box<dyn std::error::Error>> {
    ///     let (key, now) = (Key::source(client.ip()), clock.now());
    ///     let known = table.lookup(key, now).and_then(|id| balancer.lease(id).ok());
    ///     let lease = match known {
    ///         Some(lease) => lease,
    ///         None => {
    ///             let lease = balancer.pick(&Request::from_source(client))?;
    ///             table.insert(key, lease.backend().id(), now)?;
    ///             lease
    ///         }
    ///     };
    ///     Ok(*lease)
    /// };
    /// let client = "192.0.2.7:4000".parse()?;
    /// assert_eq!(serve(client)?, serve(client)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PickError::Gone`], [`PickError::Unavailable`], [`PickError::Full`]: then [`pick`](Self::pick) another.
    pub fn lease(&self, backend: BackendId) -> Result<Lease<T>, PickError> {
        let snapshot = self.inner.pool.read();
        let position = snapshot.set().position(backend).ok_or(PickError::Gone)?;
        let member = &snapshot.set()[position];
        if !member.keeps_sessions() {
            return Err(PickError::Unavailable);
        }
        let lease = snapshot.start_shared(position).ok_or(PickError::Full)?;
        self.counted(&snapshot, position, &lease);
        Ok(lease)
    }

    /// Makes the balancer choose among exactly these backends; see [`Pool::update`].
    ///
    /// # Errors
    /// [`UpdateError`]: then nothing has changed.
    pub fn update<I>(&self, backends: I) -> Result<(), UpdateError>
    where
        I: IntoIterator,
        I::Item: Into<Spec<T>>,
    {
        self.edit(|edit| edit.replace(backends.into_iter().map(Into::into).collect()))
    }

    /// Changes several things at once; see [`Pool::edit`].
    ///
    /// ```
    /// use lb_sched::{Algorithm, Balancer, UpdateError, Weight};
    ///
    /// let balancer = Balancer::new(Algorithm::PowerOfTwo);
    /// balancer.update([("a", Weight::ONE), ("b", Weight::ONE)])?;
    /// balancer.edit(|edit| {
    ///     edit.entry("a")?.limit = 100;
    ///     edit.entry("b")?.weight = Weight::new(2);
    ///     Ok::<(), UpdateError>(())
    /// })?;
    /// # Ok::<(), UpdateError>(())
    /// ```
    ///
    /// # Errors
    /// Those of `change`: then nothing has changed.
    pub fn edit<R, E>(&self, change: impl FnOnce(&mut Edit<T>) -> Result<R, E>) -> Result<R, E> {
        let result = self.inner.pool.edit(change)?;
        let snapshot = self.snapshot();
        snapshot.derived().published(snapshot.set());
        Ok(result)
    }

    /// Gives a backend another weight.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`].
    pub fn set_weight(&self, name: &str, weight: Weight) -> Result<(), UpdateError> {
        self.edit(|edit| {
            edit.announce();
            edit.entry(name).map(|entry| entry.weight = weight)
        })
    }

    /// Drains a backend, takes it out of service, or back in. Where a health loop sets what
    /// [`Standing`](lb_core::health::Standing) says, tell its
    /// [`Condition`](lb_core::health::Condition::set_admin) instead, or the loop takes this back.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`].
    pub fn set_admin(&self, name: &str, admin: Admin) -> Result<(), UpdateError> {
        self.set(name, |settings| settings.admin = admin)
    }

    /// Says whether a backend answers.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`].
    pub fn set_health(&self, name: &str, health: Health) -> Result<(), UpdateError> {
        self.set(name, |settings| settings.health = health)
    }

    /// Says how much of a backend's weight counts, from 0 to 1: slow start.
    ///
    /// # Errors
    /// [`UpdateError::Unknown`].
    pub fn set_share(&self, name: &str, share: f64) -> Result<(), UpdateError> {
        // `as` saturates, and takes what is no number for 0; a member that counts at all counts a little.
        let share = (share.clamp(0.0, 1.0) * f64::from(FULL_SHARE)) as u16;
        self.set(name, |settings| settings.share = share)
    }

    fn set(&self, name: &str, change: impl FnOnce(&mut Settings)) -> Result<(), UpdateError> {
        self.edit(|edit| edit.entry(name).map(|entry| change(entry)))
    }

    /// The backends and settings as they are now, to keep.
    pub fn snapshot(&self) -> Arc<Snapshot<T, S>> {
        self.inner.pool.snapshot()
    }

    /// A backend that the algorithm wants probed now, if any. Send the probe, then [`answer`](Self::answer).
    pub fn ask(&self, request: &Request<'_>) -> Option<Arc<Backend<T>>> {
        let snapshot = self.inner.pool.read();
        let position = snapshot.derived().ask(snapshot.set(), request)?;
        snapshot.backends().get(position).cloned()
    }

    /// What a backend answered to a probe.
    pub fn answer(&self, backend: BackendId, answer: Answer) {
        let snapshot = self.inner.pool.read();
        if let Some(position) = snapshot.set().position(backend) {
            snapshot.derived().answer(snapshot.set(), position, answer);
        }
    }
}

/// Looks for the reason once there is nobody to choose.
#[cold]
fn why_none(set: &Set, request: &Request<'_>) -> PickError {
    if set.is_empty() {
        return PickError::Empty;
    }
    let mut open = set.iter().filter(|member| member.weight > 0).peekable();
    if open.peek().is_none() {
        return PickError::Unavailable;
    }
    let mut wanted = open.filter(|member| request.wants(member)).peekable();
    if wanted.peek().is_none() {
        return PickError::Refused;
    }
    // Whether it is full is not asked again: a request may have ended since.
    if wanted.any(|member| member.limit != u32::MAX) { PickError::Full } else { PickError::Unavailable }
}
