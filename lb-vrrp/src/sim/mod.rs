//! Routers on a link that loses, delays, reorders, repeats and cuts, on machines that stall and die: a simulation that a seed
//! repeats to the bit.
//!
//! Time is simulated, so hours take milliseconds. Use it to see what a set-up does before it is built:
//!
//! ```
//! use std::time::Duration;
//! use lb_vrrp::sim::{Clock, Simulation};
//! use lb_vrrp::Config;
//!
//! let mut sim = Simulation::new(7);
//! sim.record();
//! let mut config = Config::new(51, ["192.168.250.250/24".parse()?]);
//! config.priority = 150;
//! let main = sim.add(config.clone(), "192.168.250.111".parse()?, Clock::default())?;
//! config.priority = 100;
//! let spare = sim.add(config, "192.168.250.121".parse()?, Clock::default())?;
//! sim.start(main);
//! sim.start(spare);
//! sim.run_for(Duration::from_secs(10));
//! assert_eq!(sim.active(), [main]);
//!
//! sim.link_mut().cut(main, spare); // the spare no longer hears it: split brain
//! sim.run_for(Duration::from_secs(10));
//! assert_eq!(sim.active(), [main, spare]);
//!
//! sim.link_mut().mend_all();
//! sim.run_for(sim.settle_bound());
//! assert_eq!(sim.active(), [main]);
//! assert!(sim.violations().is_empty());
//! println!("{}", sim.trace());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! At every step it checks the [`Rule`]s that hold whatever happens; [`settle_bound`] says how soon after the faults there is
//! one active router. [`Scenario`] draws a whole set-up and its faults from a seed and demands both.

mod bound;
mod clock;
mod host;
mod link;
mod scenario;
mod trace;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

pub use bound::{Conditions, Member, handover_bound, settle_bound};
pub use clock::Clock;
use host::{Host, Input, Outgoing};
pub use link::Link;
pub use scenario::{Failure, Fault, Scenario, Summary};
pub use trace::{Entry, Trace, What};

use crate::config::{Config, ConfigError};
use crate::event::{Event, State};
pub use crate::router::Essence;
use crate::router::VirtualRouter;
use crate::time::Timestamp;
use crate::wire::{Family, Interval, Meta, TTL};

/// One of the simulated routers, by the order in which they were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub usize);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// What holds at every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// An active router has all its addresses once its actions are done.
    #[error("active without all its addresses")]
    ActiveWithoutAddress,
    /// Another has none of them, unless removing one failed and is to be tried again, and adds none.
    #[error("an address is on a router that is not active")]
    AddressWithoutActive,
    /// Only an active router advertises.
    #[error("an advert from a router that is not active")]
    AdvertWithoutActive,
    /// Priority 0 is sent by a router that was active, and once.
    #[error("priority 0 more than once, or from a router that was not active")]
    Farewell,
    /// A router that could not advertise for three intervals does not go on as if nothing had been.
    #[error("an advert {gap:?} after the one before: others have taken over since")]
    StaleAdvert {
        /// How long after its last advert, by its own clock.
        gap: Duration,
    },
    /// A router that slept so long that it can't know of others listens first.
    #[error("took over at the moment in which it woke, after a sleep too long to know of others")]
    TookOverAsleep,
    /// Only addresses that are there are announced.
    #[error("announced an address that is not there")]
    AnnouncedAbsent,
    /// Every change of state is said, and none that is not.
    #[error("a change of state was not said, or said wrongly")]
    StateUnsaid,
    /// A deadline that is handled is over.
    #[error("a deadline that was handled is still due")]
    BusyLoop,
    /// Backup and Active always have a deadline.
    #[error("no deadline in Backup or Active")]
    NoTimer,
    /// An advert fits into the longest message.
    #[error("an advert could not be written")]
    Encode,
}

/// A rule that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, in true time.
    pub at: Timestamp,
    /// At which router.
    pub router: RouterId,
    /// Which.
    pub rule: Rule,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.router, self.at, self.rule)
    }
}

/// Time, and what is written down.
#[derive(Debug, Default)]
struct Log {
    now: Timestamp,
    recording: bool,
    trace: Trace,
    violations: Vec<Violation>,
}

impl Log {
    fn note(&mut self, router: Option<RouterId>, what: impl FnOnce() -> What) {
        if self.recording {
            self.trace.push(self.now, router, what());
        }
    }

    fn broken(&mut self, router: RouterId, rule: Rule) {
        self.violations.push(Violation { at: self.now, router, rule });
    }
}

/// A packet on its way.
#[derive(Debug)]
struct Delivery {
    at: Timestamp,
    /// Packets that arrive at the same time keep their order.
    serial: u64,
    to: RouterId,
    meta: Meta,
    bytes: Arc<[u8]>,
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Delivery {}

impl PartialOrd for Delivery {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delivery {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// Routers on one link.
#[derive(Debug)]
pub struct Simulation {
    rng: Rng,
    log: Log,
    link: Link,
    hosts: Vec<Host>,
    packets: BinaryHeap<Reverse<Delivery>>,
    serial: u64,
    lateness: Duration,
    steps: u64,
}

impl Simulation {
    /// An empty link at time zero. All that is random comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            log: Log::default(),
            link: Link::default(),
            hosts: Vec::new(),
            packets: BinaryHeap::new(),
            serial: 0,
            lateness: Duration::ZERO,
            steps: 0,
        }
    }

    /// Another router, not started yet, that sends from `source`.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn add(&mut self, config: Config, source: IpAddr, clock: Clock) -> Result<RouterId, ConfigError> {
        config.validate()?;
        let id = RouterId(self.hosts.len());
        self.hosts.push(Host::new(id, config, source, clock));
        Ok(id)
    }

    /// Writes down from now on what happens, for [`Self::trace`].
    pub fn record(&mut self) {
        self.log.recording = true;
    }

    /// What happened since [`Self::record`].
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.log.trace
    }

    /// The rules that were broken: none, or there is a mistake in this crate.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.log.violations
    }

    /// The true time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.log.now
    }

    /// How many packets and timers were handled.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The link.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The link, to make it better or worse.
    pub fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }

    /// How late the machines wake for a timer at most, from now on.
    pub fn set_lateness(&mut self, lateness: Duration) {
        self.lateness = lateness;
    }

    /// All routers, dead or alive.
    pub fn routers(&self) -> impl Iterator<Item = RouterId> + use<> {
        (0..self.hosts.len()).map(RouterId)
    }

    /// A router's state machine, if its machine is not dead.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    #[must_use]
    pub fn router(&self, id: RouterId) -> Option<&VirtualRouter> {
        self.hosts[id.0].router.as_ref()
    }

    /// The virtual addresses that are on a router's interface.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    #[must_use]
    pub fn addresses(&self, id: RouterId) -> &[IpAddr] {
        &self.hosts[id.0].interface
    }

    /// Whether a router is started, and its machine neither dead nor stopped.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    #[must_use]
    pub fn is_alive(&self, id: RouterId) -> bool {
        self.hosts[id.0].is_alive()
    }

    /// The routers that are active and alive.
    #[must_use]
    pub fn active(&self) -> Vec<RouterId> {
        let active = |host: &Host| {
            host.is_alive() && host.router.as_ref().is_some_and(|router| router.state() == State::Active)
        };
        self.routers().filter(|id| active(&self.hosts[id.0])).collect()
    }

    /// The active router, if there is exactly one.
    #[must_use]
    pub fn sole_active(&self) -> Option<RouterId> {
        match self.active()[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// [`settle_bound`] for the routers that are alive, from now on.
    #[must_use]
    pub fn settle_bound(&self) -> Duration {
        settle_bound(&self.members(), &self.conditions())
    }

    /// [`handover_bound`] for the routers that are alive beside `leaving`.
    #[must_use]
    pub fn handover_bound(&self, leaving: RouterId) -> Duration {
        let mut members = self.members();
        let config = &self.hosts[leaving.0].config;
        members.retain(|member| !core::ptr::eq(member.config, config));
        handover_bound(&members, &self.conditions())
    }

    fn members(&self) -> Vec<Member<'_>> {
        let alive = self.hosts.iter().filter(|host| host.is_alive());
        alive.map(|host| Member { config: &host.config, lowest_priority: host.lowest_priority }).collect()
    }

    /// What holds if nothing changes any more.
    fn conditions(&self) -> Conditions {
        let last = self.packets.iter().map(|Reverse(delivery)| delivery.at).max();
        Conditions {
            delay: *self.link.delay.end(),
            in_flight: last.map_or(Duration::ZERO, |last| last.since(self.log.now)),
            lateness: self.lateness,
            drift_ppm: self.hosts.iter().map(|host| host.clock.drift_ppm.unsigned_abs()).max().unwrap_or(0),
            retry: self.hosts.iter().filter_map(|host| host.retry(self.log.now)).max().unwrap_or_default(),
            longest_interval: self.longest_interval(),
        }
    }

    fn longest_interval(&self) -> Option<Interval> {
        self.hosts.iter().map(|host| host.config.interval).max()
    }

    /// Starts a router, and its machine if that is dead.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    pub fn start(&mut self, id: RouterId) {
        self.at_host(id, |host, log, out| host.start(log, out));
    }

    /// Tells a router something: [`Event::Shutdown`], a fault, another priority.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    pub fn tell(&mut self, id: RouterId, event: Event) {
        self.at_host(id, |host, log, out| host.take(Input::Event(event), log, out));
    }

    /// A router's machine dies.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    pub fn crash(&mut self, id: RouterId) {
        self.at_host(id, |host, log, _| host.crash(log));
    }

    /// Stops a router's program, as `SIGSTOP` does: it handles nothing, but packets wait for it if `queues`. With
    /// `after_actions` it goes on until it has carried out so many actions, and stops in the midst of the next.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    pub fn pause(&mut self, id: RouterId, queues: bool, after_actions: Option<u32>) {
        self.at_host(id, |host, log, _| match after_actions {
            None => host.pause(queues, log),
            Some(actions) => host.interrupt = Some((actions, queues)),
        });
    }

    /// Lets a stopped program go on, or not stop after all.
    ///
    /// # Panics
    /// If `id` is another simulation's.
    pub fn resume(&mut self, id: RouterId) {
        let timer_first = self.rng.bool();
        self.at_host(id, |host, log, out| host.resume(timer_first, log, out));
    }

    fn at_host(&mut self, id: RouterId, act: impl FnOnce(&mut Host, &mut Log, &mut Vec<Outgoing>)) {
        let mut out = Vec::new();
        act(&mut self.hosts[id.0], &mut self.log, &mut out);
        for (transmit, bytes) in out {
            let meta = Meta::new(transmit.source, transmit.destination, TTL);
            self.carry(id, meta, &bytes);
        }
        self.schedule(id);
    }

    /// Puts a packet on the link at `from`, as if that router had sent it.
    ///
    /// # Panics
    /// If `from` is another simulation's.
    pub fn carry(&mut self, from: RouterId, meta: Meta, bytes: &[u8]) {
        let bytes: Arc<[u8]> = bytes.into();
        let group = meta.destination == Family::of(meta.destination).multicast();
        for to in self.routers() {
            if to == from || !group && self.hosts[to.0].source != meta.destination {
                continue;
            }
            let fate = self.link.fate(&mut self.rng, from, to);
            if fate[0].is_none() {
                self.log.note(Some(from), || What::Lost(to));
            }
            for delay in fate.into_iter().flatten() {
                self.serial += 1;
                let (at, serial) = (self.log.now + delay, self.serial);
                let bytes = Arc::clone(&bytes);
                self.packets.push(Reverse(Delivery { at, serial, to, meta, bytes }));
            }
        }
    }

    /// Sets a host's alarm to its router's next deadline, a little late as machines are.
    fn schedule(&mut self, id: RouterId) {
        let host = &mut self.hosts[id.0];
        let deadline = host.router.as_ref().and_then(VirtualRouter::poll_timeout);
        let Some(deadline) = deadline.filter(|_| host.paused.is_none()) else {
            host.wake = None;
            return;
        };
        if host.wake.is_some_and(|(known, _)| known == deadline) {
            return;
        }
        let lateness = u64::try_from(self.lateness.as_micros()).unwrap_or(u64::MAX);
        let late = if lateness == 0 { 0 } else { self.rng.u64(0..=lateness) };
        let at = host.clock.true_time(deadline).max(self.log.now) + Duration::from_micros(late);
        host.wake = Some((deadline, at));
    }

    /// Handles the next packet or timer that is due until `end`. Whether there was one.
    pub fn step(&mut self, end: Timestamp) -> bool {
        let timer = self.routers().filter_map(|id| self.hosts[id.0].wake.map(|(_, at)| (at, id))).min();
        let packet = self.packets.peek().map(|Reverse(delivery)| delivery.at);
        let timer_first = match (timer, packet) {
            (None, None) => return false,
            (Some((timer, _)), Some(packet)) => timer < packet || timer == packet && self.rng.bool(),
            (timer, _) => timer.is_some(),
        };
        match (timer, packet) {
            (Some((at, id)), _) if timer_first => {
                if at > end {
                    return false;
                }
                self.log.now = self.log.now.max(at);
                self.hosts[id.0].wake = None;
                self.at_host(id, |host, log, out| host.take(Input::Timer, log, out));
            }
            (_, at) => {
                if at.is_some_and(|at| at > end) {
                    return false;
                }
                let Some(Reverse(Delivery { at, to, meta, bytes, .. })) = self.packets.pop() else {
                    return false;
                };
                self.log.now = self.log.now.max(at);
                self.at_host(to, |host, log, out| host.take(Input::Packet(meta, bytes), log, out));
            }
        }
        self.steps += 1;
        true
    }

    /// Lets time go on until `end`.
    pub fn run_until(&mut self, end: Timestamp) {
        while self.step(end) {}
        self.log.now = self.log.now.max(end);
    }

    /// Lets time go on until no packet is on the link, which takes delays shorter than the intervals.
    fn run_until_quiet(&mut self) {
        while let Some(last) = self.packets.iter().map(|Reverse(delivery)| delivery.at).max() {
            self.run_until(last);
        }
    }

    /// Lets `duration` pass.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.log.now + duration);
    }
}
