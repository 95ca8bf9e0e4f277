//! Set-ups and faults drawn from a seed, and what must hold after them.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

use super::host::Refused;
use super::{Clock, Link, RouterId, Simulation, Trace, Violation, What};
use crate::config::{Auth, Config, LateWake, LosingAdvert, OWNER};
use crate::event::{Event, Faults};
use crate::time::Timestamp;
use crate::wire::{ChecksumMode, Family, Interval, Version};

/// Something that goes wrong, or back in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The link loses and repeats packets, and takes its time, from now on.
    Link {
        /// Lost packets, 0 to 1.
        loss: f64,
        /// Repeated packets, 0 to 1.
        duplicates: f64,
        /// The longest delay; the shortest is nothing, so that packets overtake.
        delay: Duration,
    },
    /// Nothing passes from the first to the second.
    Cut(RouterId, RouterId),
    /// It does again.
    Mend(RouterId, RouterId),
    /// A program is stopped, at once or amid its actions; packets wait for it or not.
    Pause {
        /// Which.
        router: RouterId,
        /// Whether packets wait.
        queues: bool,
        /// After how many actions.
        after_actions: Option<u32>,
    },
    /// It goes on.
    Resume(RouterId),
    /// A machine dies.
    Crash(RouterId),
    /// A machine, or the router on it, starts.
    Start(RouterId),
    /// A router's kernel refuses to send, or no longer does.
    RefuseSends(RouterId, bool),
    /// A router's kernel refuses to add and remove addresses, or no longer does.
    RefuseAddresses(RouterId, bool),
    /// A router is told something.
    Tell(RouterId, Event),
}

impl Simulation {
    /// Lets a fault happen now.
    pub fn apply(&mut self, fault: &Fault) {
        match *fault {
            Fault::Link { loss, duplicates, delay } => {
                let link = self.link_mut();
                link.loss = loss;
                link.duplicates = duplicates;
                link.delay = Duration::ZERO..=delay;
                self.log.note(None, || What::Link { loss_percent: (loss * 100.0) as u32, delay });
            }
            Fault::Cut(from, to) => {
                self.link.cut(from, to);
                self.log.note(Some(from), || What::Cut(to));
            }
            Fault::Mend(from, to) => self.link.mend(from, to),
            Fault::Pause { router, queues, after_actions } => self.pause(router, queues, after_actions),
            Fault::Resume(router) => self.resume(router),
            Fault::Crash(router) => self.crash(router),
            Fault::Start(router) => self.start(router),
            Fault::RefuseSends(router, refuses) => self.hosts[router.0].refused.sends = refuses,
            Fault::RefuseAddresses(router, refuses) => self.hosts[router.0].refused.addresses = refuses,
            Fault::Tell(router, event) => self.tell(router, event),
        }
    }

    /// Ends the faults: the link loses nothing and takes `delay`, kernels refuse nothing, programs that were stopped go
    /// on, faults that routers were told of are over, their priorities are the configured ones. Who is dead or shut down stays so, unless all
    /// are: then the first starts.
    pub fn heal(&mut self, delay: RangeInclusive<Duration>) {
        self.link = Link::default();
        self.link.delay = delay;
        self.log.note(None, || What::Healed);
        for id in self.routers() {
            let host = &mut self.hosts[id.0];
            (host.interrupt, host.refused) = (None, Refused::default());
            self.resume(id);
            // What failed is tried again by itself.
            self.tell(id, Event::Cleared(Faults::all() - Faults::TRANSMIT - Faults::ADDRESS));
            let priority = self.hosts[id.0].config.priority;
            self.tell(id, Event::Priority(priority));
        }
        if !self.routers().any(|id| self.is_alive(id)) && !self.hosts.is_empty() {
            self.start(RouterId(0));
        }
    }
}

/// A set-up, faults with their times, and the calm after them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What all that happens by chance is drawn from.
    pub seed: u64,
    /// Configuration, own address and clock of each router.
    pub routers: Vec<(Config, IpAddr, Clock)>,
    /// What happens when, in order.
    pub faults: Vec<(Timestamp, Fault)>,
    /// How late timers' wakes are.
    pub lateness: Duration,
    /// When the faults are over.
    pub healed: Timestamp,
    /// How long a packet takes after that.
    pub delay: RangeInclusive<Duration>,
}

/// What a scenario that went well was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Packets and timers.
    pub steps: u64,
    /// In how long after the faults there was one active router, for good.
    pub settled: Duration,
    /// In how long there had to be.
    pub bound: Duration,
}

/// What a scenario that went wrong did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// Rules did not hold.
    Broken(Vec<Violation>),
    /// At this time, after the bound, not exactly one router was active.
    NotOne {
        /// When.
        at: Timestamp,
        /// Which were.
        active: Vec<RouterId>,
    },
    /// After the bound the active router changed.
    Changed {
        /// When.
        at: Timestamp,
        /// Who was.
        from: RouterId,
        /// Who is.
        to: RouterId,
    },
    /// A router of higher priority preempts, but another is active.
    NotBest {
        /// The active one.
        active: RouterId,
        /// The better.
        best: RouterId,
    },
    /// The active router was shut down, and not exactly one other was active in time.
    NoHandover {
        /// When it should have been.
        at: Timestamp,
        /// Which were.
        active: Vec<RouterId>,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(violations) => {
                for violation in violations {
                    writeln!(f, "{violation}")?;
                }
                Ok(())
            }
            Self::NotOne { at, active } => write!(f, "at {at}, after the bound, active: {active:?}"),
            Self::Changed { at, from, to } => write!(f, "at {at}, after the bound, {from} gave way to {to}"),
            Self::NotBest { active, best } => {
                write!(f, "{active} is active though {best} is better and preempts")
            }
            Self::NoHandover { at, active } => write!(f, "handover not done by {at}, active: {active:?}"),
        }
    }
}

impl Scenario {
    /// A scenario with one to five routers, drawn from `seed`.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        Draw(Rng::with_seed(seed)).scenario(seed)
    }

    /// Lets it happen and checks what must hold: every [`Rule`](super::Rule) at every step; one active router within
    /// [`settle_bound`](super::settle_bound), the best if it preempts, and no other for a long time after; then the same
    /// after the active one is shut down, within [`handover_bound`](super::handover_bound).
    ///
    /// # Errors
    /// What did not hold.
    pub fn run(&self) -> Result<Summary, Failure> {
        self.run_in(&mut Simulation::new(self.seed))
    }

    /// As [`Self::run`], but keeps a record of what happened.
    pub fn run_recorded(&self) -> (Result<Summary, Failure>, Trace) {
        let mut sim = Simulation::new(self.seed);
        sim.record();
        let result = self.run_in(&mut sim);
        (result, sim.log.trace)
    }

    fn run_in(&self, sim: &mut Simulation) -> Result<Summary, Failure> {
        sim.set_lateness(self.lateness);
        for (config, source, clock) in &self.routers {
            // Scenarios are made of good configurations; one that is not takes no part.
            let _ = sim.add(config.clone(), *source, *clock);
        }
        for (at, fault) in &self.faults {
            sim.run_until(*at);
            sim.apply(fault);
        }
        sim.run_until(self.healed);
        sim.heal(self.delay.clone());
        let bound = sim.settle_bound();
        let settled = settle(sim, bound)?;
        let Some(active) = sim.sole_active() else { return Err(not_one(sim)) };
        best(sim, active)?;
        stay(sim, active, 2 * bound)?;
        if sim.routers().any(|id| id != active && sim.is_alive(id)) {
            sim.run_until_quiet();
            let handover = sim.handover_bound(active);
            sim.tell(active, Event::Shutdown);
            sim.run_for(handover);
            if sim.sole_active().is_none() {
                return Err(Failure::NoHandover { at: sim.now(), active: sim.active() });
            }
        }
        if !sim.violations().is_empty() {
            return Err(Failure::Broken(sim.violations().to_vec()));
        }
        Ok(Summary { steps: sim.steps(), settled, bound })
    }
}

fn not_one(sim: &Simulation) -> Failure {
    Failure::NotOne { at: sim.now(), active: sim.active() }
}

/// Runs for `bound` and says after how long the active router was the one at its end.
fn settle(sim: &mut Simulation, bound: Duration) -> Result<Duration, Failure> {
    let (start, end) = (sim.now(), sim.now() + bound);
    let (mut sole, mut since) = (sim.sole_active(), start);
    while sim.step(end) {
        let now = sim.sole_active();
        if now != sole {
            (sole, since) = (now, sim.now());
        }
    }
    sim.run_until(end);
    if !sim.violations().is_empty() {
        return Err(Failure::Broken(sim.violations().to_vec()));
    }
    if sole.is_none() { Err(not_one(sim)) } else { Ok(since.since(start)) }
}

/// Nobody better preempts.
fn best(sim: &Simulation, active: RouterId) -> Result<(), Failure> {
    let priority = |id: RouterId| sim.router(id).map_or(0, |router| router.priority());
    let better = |id: RouterId| {
        let preempts = sim.router(id).is_some_and(|router| router.config().preempt);
        sim.is_alive(id) && preempts && priority(id) > priority(active)
    };
    match sim.routers().find(|&id| better(id)) {
        Some(best) => Err(Failure::NotBest { active, best }),
        None => Ok(()),
    }
}

/// It stays the only one for `duration`, at every step.
fn stay(sim: &mut Simulation, active: RouterId, duration: Duration) -> Result<(), Failure> {
    let end = sim.now() + duration;
    while sim.step(end) {
        match sim.sole_active() {
            Some(now) if now == active => {}
            Some(now) => return Err(Failure::Changed { at: sim.now(), from: active, to: now }),
            None => return Err(not_one(sim)),
        }
    }
    sim.run_until(end);
    Ok(())
}

/// Draws.
struct Draw(Rng);

impl Draw {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.u32(0..100) < percent
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.0.u64(0..=longest.as_micros() as u64))
    }

    fn scenario(&mut self, seed: u64) -> Scenario {
        let count = if self.chance(4) { 1 } else { self.0.usize(2..=5) };
        let routers = self.routers(count);
        let intervals = || routers.iter().map(|(config, ..)| config.interval.duration());
        let shortest = intervals().min().unwrap_or_default();
        let longest = intervals().max().unwrap_or_default();
        let healed = Timestamp::ZERO + 12 * longest;
        let faults = self.faults(&routers, shortest, 12 * longest);
        let delay = if self.chance(50) { shortest / 100 } else { shortest / 4 };
        Scenario {
            seed,
            lateness: shortest / 50,
            delay: if shortest == longest { Duration::ZERO..=delay } else { delay..=delay },
            routers,
            faults,
            healed,
        }
    }

    fn routers(&mut self, count: usize) -> Vec<(Config, IpAddr, Clock)> {
        let (version, family) = *self
            .0
            .choice(&[(Version::V2, Family::Ipv4), (Version::V3, Family::Ipv4), (Version::V3, Family::Ipv6)])
            .unwrap_or(&(Version::V3, Family::Ipv4));
        let base = match version {
            Version::V2 => 100 * self.0.u16(1..=3),
            Version::V3 => *self.0.choice(&[1, 2, 10, 33, 100, 400]).unwrap_or(&100),
        };
        let mixed = version == Version::V3 && self.chance(30);
        let checksum = *self
            .0
            .choice(&[ChecksumMode::Either, ChecksumMode::PseudoHeader, ChecksumMode::MessageOnly])
            .unwrap_or(&ChecksumMode::Either);
        let auth =
            if version == Version::V2 && self.chance(30) { Auth::simple_text("sim") } else { Auth::None };
        let addresses: &[&str] = match family {
            Family::Ipv4 => &["10.9.1.1/24", "10.9.1.2/24", "10.9.1.3/24"],
            Family::Ipv6 => &["fe80::1:1/64", "2001:db8::1/64", "2001:db8::2/64"],
        };
        let addresses = &addresses[..self.0.usize(1..=3)];
        let unicast = self.chance(20);
        let equal = self.chance(20);
        let owner = self.chance(15);
        let preempt = self.0.u32(0..3);
        let sources: Vec<IpAddr> = (0..count as u16)
            .map(|host| match family {
                Family::Ipv4 => IpAddr::from([10, 9, 0, 10 + host as u8]),
                Family::Ipv6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 10 + host]),
            })
            .collect();
        let mut routers = Vec::new();
        for (index, &source) in sources.iter().enumerate() {
            // Fixed texts, all of which parse.
            let mut config = Config::new(51, addresses.iter().filter_map(|text| text.parse().ok()));
            config.version = version;
            config.checksum = checksum;
            config.auth = auth;
            let factor = if mixed { *self.0.choice(&[1, 1, 2, 4]).unwrap_or(&1) } else { 1 };
            config.interval = Interval::from_centiseconds(base * factor).unwrap_or_default();
            config.priority = if equal { 100 } else { self.0.u8(1..OWNER) };
            if owner && (index == 0 || self.chance(10)) {
                config.priority = OWNER;
            }
            config.preempt = match preempt {
                0 => true,
                1 => false,
                _ => self.0.bool(),
            };
            let interval = config.interval.duration();
            if self.chance(15) {
                config.preempt_delay = self.up_to(8 * interval);
            }
            if self.chance(15) {
                config.startup_delay = self.up_to(4 * interval);
            }
            if self.chance(10) {
                config.late_wake = LateWake::Advertise;
            }
            if self.chance(20) && !mixed {
                config.losing_advert =
                    if self.0.bool() { LosingAdvert::Answer } else { LosingAdvert::Discard };
            }
            if unicast {
                config.unicast_peers = sources.iter().copied().filter(|&peer| peer != source).collect();
            }
            let clock =
                Clock { offset: self.0.u64(0..1_000_000_000), drift_ppm: self.0.i32(-10_000..=10_000) };
            routers.push((config, source, clock));
        }
        routers
    }

    /// From the start, in which the routers come up one after the other, to `end`.
    fn faults(
        &mut self,
        routers: &[(Config, IpAddr, Clock)],
        interval: Duration,
        end: Duration,
    ) -> Vec<(Timestamp, Fault)> {
        let mut faults = Vec::new();
        for router in 0..routers.len() {
            let at = if self.chance(50) { Duration::ZERO } else { self.up_to(end / 2) };
            faults.push((at, Fault::Start(RouterId(router))));
        }
        for _ in 0..self.0.u32(0..12) {
            let at = self.up_to(end);
            let until = at + self.up_to(end / 2);
            self.fault(routers, interval, at, until, &mut faults);
        }
        faults.retain(|&(at, _)| at <= end);
        faults.sort_by_key(|&(at, _)| at);
        faults.into_iter().map(|(at, fault)| (Timestamp::ZERO + at, fault)).collect()
    }

    /// One fault at `at`, and what follows it at `until`.
    fn fault(
        &mut self,
        routers: &[(Config, IpAddr, Clock)],
        interval: Duration,
        at: Duration,
        until: Duration,
        faults: &mut Vec<(Duration, Fault)>,
    ) {
        let router = RouterId(self.0.usize(0..routers.len()));
        let other = RouterId(self.0.usize(0..routers.len()));
        let mut push = |at, fault| faults.push((at, fault));
        match self.0.u32(0..11) {
            0 | 1 => {
                let loss = self.0.f64() / 2.0;
                let duplicates = self.0.f64() / 4.0;
                let delay = self.up_to(2 * interval);
                push(at, Fault::Link { loss, duplicates, delay });
            }
            2 | 3 => {
                push(at, Fault::Cut(router, other));
                push(until, Fault::Mend(router, other));
            }
            4 | 5 => {
                let queues = self.chance(70);
                let after_actions = self.chance(50).then(|| self.0.u32(0..6));
                push(at, Fault::Pause { router, queues, after_actions });
                push(until, Fault::Resume(router));
            }
            6 => {
                push(at, Fault::Crash(router));
                if self.chance(70) {
                    push(until, Fault::Start(router));
                }
            }
            7 => {
                push(at, Fault::Tell(router, Event::Shutdown));
                if self.chance(70) {
                    push(until, Fault::Start(router));
                }
            }
            8 => {
                let faults = if self.0.bool() { Faults::LINK } else { Faults::TRACK };
                push(at, Fault::Tell(router, Event::Fault(faults)));
                push(until, Fault::Tell(router, Event::Cleared(faults)));
            }
            9 => {
                if self.0.bool() {
                    push(at, Fault::RefuseSends(router, true));
                    push(until, Fault::RefuseSends(router, false));
                } else {
                    push(at, Fault::RefuseAddresses(router, true));
                    push(until, Fault::RefuseAddresses(router, false));
                }
            }
            _ => {
                if self.0.bool() {
                    push(at, Fault::Tell(router, Event::Priority(self.0.u8(..))));
                } else if let Some(address) = routers[router.0].0.addresses.first() {
                    push(at, Fault::Tell(router, Event::AddressLost(address.address)));
                }
            }
        }
    }
}
