//! The state machine of one virtual router (RFC 3768 §6.4, RFC 9568 §6.4).
//!
//! | state | what comes | what follows |
//! |---|---|---|
//! | Initialize | startup of the owner | advertise, add, announce, Active |
//! | Initialize | startup | wait for the master-down interval, Backup |
//! | Backup | shutdown, fault | Initialize |
//! | Backup | the wait is over | advertise, add, announce, Active |
//! | Backup | advert of priority 0 | wait for the skew time |
//! | Backup | advert of the same or higher priority, or any without preemption | learn its interval, wait anew |
//! | Backup | advert of lower priority | none: the wait goes on |
//! | Active | the interval is over | advertise |
//! | Active | advert of priority 0 | advertise at once |
//! | Active | advert of higher priority, or the same and a greater address | learn its interval, remove, Backup |
//! | Active | another advert | advertise at once (version 3), or nothing (version 2) |
//! | Active | shutdown, fault | advertise priority 0, remove, Initialize |

#[cfg(feature = "auth-hmac")]
mod auth;
#[cfg(feature = "sim")]
mod essence;
mod packet;
#[cfg(test)]
mod tests;
mod transition;

#[cfg(feature = "auth-hmac")]
use alloc::boxed::Box;
#[cfg(feature = "sim")]
pub use essence::Essence;

use alloc::collections::VecDeque;
use core::net::IpAddr;
use core::time::Duration;

use crate::addresses::Addresses;
use crate::config::{Auth, Config, ConfigError, LateWake, OWNER, VirtualAddress};
use crate::counters::Counters;
use crate::event::{Action, Conflict, Event, Faults, Notification, Reason, State, Transmit};
use crate::time::Timestamp;
use crate::timer::{master_down_interval, skew_time};
use crate::wire::{
    self, Advert, AuthField, BufferTooShort, ChecksumMode, Coverage, Family, Interval, Version,
};

/// Notifications that wait to be polled. Who never polls loses the newest beyond these.
const NOTIFICATIONS: usize = 64;
/// The first pause before a router tries again what failed (a send, an address); it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(32);

/// One virtual router: VRID, family, and link.
///
/// It does nothing by itself. Whoever drives it hands it packets ([`Self::handle_packet`]), the time
/// ([`Self::handle_timeout`], at [`Self::poll_timeout`]) and what happens around it ([`Self::handle_event`]), and carries
/// out every [`Self::poll_action`] after each, in order. What can't be carried out is told by [`Self::handle_failure`].
///
/// See the [crate's front page](crate) for an example.
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    config: Config,
    /// The effective priority.
    priority: u8,
    source: Option<IpAddr>,
    started: bool,
    state: State,
    faults: Faults,
    /// The active router's interval; one's own while active.
    interval: Interval,
    /// Who was heard last as the active router, and its priority.
    active: Option<(IpAddr, u8)>,
    /// Why the state will be Active when the wait is over.
    waiting: Reason,
    timers: Timers,
    /// When it last woke too late. What came before is no news of who is active now.
    woken: Timestamp,
    /// When the last advert was decided.
    advertised: Timestamp,
    /// When the one before it was decided that was polled: the others' patience runs since then.
    advertised_before: Timestamp,
    /// An advert that waits to be polled: its priority, when it was decided, and the next unicast peer.
    pending: Option<(u8, Timestamp, usize)>,
    addresses: Addresses,
    notifications: VecDeque<Notification>,
    /// When each kind of conflict was last seen.
    conflicts: [Option<Timestamp>; Conflict::COUNT],
    /// When something last failed, and how long to wait after the next failure.
    failed: Timestamp,
    retry: Duration,
    counters: Counters,
    #[cfg(feature = "auth-hmac")]
    guard: Box<auth::Guard>,
}

/// Deadlines.
#[derive(Clone, Debug, Default)]
struct Timers {
    /// Initialize: the startup delay. Backup: master-down. Active: the next advert.
    main: Option<Timestamp>,
    /// Active: the next announcements, and how many rounds.
    announce: Option<(Timestamp, u8)>,
    /// Active: the next refresh.
    refresh: Option<Timestamp>,
    /// When to try again what failed.
    retry: Option<Timestamp>,
    /// Backup: from when on to preempt.
    preempt: Option<Timestamp>,
    /// Active: until when a losing advert makes no new announcements.
    calm: Option<Timestamp>,
}

impl VirtualRouter {
    /// A router that is not started. `source` is the interface's own address, the one that adverts come from; without one the
    /// router waits for [`Event::Source`]. Adverts to the group of IPv6 come from a link-local address alone (RFC 9568
    /// §5.1.2.1): another is none.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn new(config: Config, source: Option<IpAddr>) -> Result<Self, ConfigError> {
        config.validate()?;
        let source = source.filter(|&source| config.sends_from(source));
        let mut router = Self {
            priority: config.priority,
            source,
            started: false,
            state: State::Initialize,
            faults: Faults::empty(),
            interval: config.interval,
            active: None,
            waiting: Reason::MasterDown,
            timers: Timers::default(),
            woken: Timestamp::ZERO,
            advertised: Timestamp::ZERO,
            advertised_before: Timestamp::ZERO,
            pending: None,
            addresses: Addresses::new(&config.addresses),
            notifications: VecDeque::new(),
            conflicts: [None; Conflict::COUNT],
            failed: Timestamp::ZERO,
            retry: RETRY_MIN,
            counters: Counters::default(),
            #[cfg(feature = "auth-hmac")]
            guard: auth::Guard::new(&config),
            config,
        };
        router.faults = router.lacking();
        Ok(router)
    }

    /// The faults that end when the router is told what it lacks.
    fn lacking(&self) -> Faults {
        let mut faults = Faults::empty();
        faults.set(Faults::SOURCE, self.source.is_none());
        #[cfg(feature = "auth-hmac")]
        faults.set(Faults::CLOCK, self.lacks_clock());
        faults
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it was started, though faults may hold it in Initialize.
    #[must_use]
    pub const fn is_started(&self) -> bool {
        self.started
    }

    /// What keeps it from taking part.
    #[must_use]
    pub const fn faults(&self) -> Faults {
        self.faults
    }

    /// Its configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The effective priority.
    #[must_use]
    pub const fn priority(&self) -> u8 {
        self.priority
    }

    /// The address that adverts come from.
    #[must_use]
    pub const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The interval of the active router, as learned (version 3); one's own while active.
    #[must_use]
    pub const fn interval(&self) -> Interval {
        self.interval
    }

    /// In Backup: who was last heard as the active router, and its priority.
    #[must_use]
    pub const fn active_router(&self) -> Option<(IpAddr, u8)> {
        self.active
    }

    /// How long it waits in silence before it takes over.
    #[must_use]
    pub const fn master_down_interval(&self) -> Duration {
        master_down_interval(self.config.version, self.priority, self.interval)
    }

    /// What it has counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The virtual addresses that are on the interface, as far as is known: those that must go if the program ends in haste.
    pub fn present_addresses(&self) -> impl Iterator<Item = VirtualAddress> + '_ {
        self.addresses.present()
    }

    /// When to call [`Self::handle_timeout`] next, `None` for never. It changes with every call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let Timers { main, announce, refresh, retry, preempt: _, calm: _ } = &self.timers;
        [*main, announce.map(|(at, _)| at), *refresh, *retry].into_iter().flatten().min()
    }

    /// What to do next, `None` when all is done. An advert comes before addresses, a first announcement soon after.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(transmit) = self.poll_transmit() {
            return Some(Action::Transmit(transmit));
        }
        if let Some(notification) = self.notifications.pop_front() {
            return Some(Action::Notify(notification));
        }
        self.addresses.poll()
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        let (priority, decided, peer) = self.pending?;
        let source = self.source?;
        let destination = match self.config.unicast_peers.get(peer) {
            Some(&peer) => peer,
            None => self.config.family().multicast(),
        };
        let last = peer + 1 >= self.config.unicast_peers.len();
        self.pending = (!last).then_some((priority, decided, peer + 1));
        self.counters.adverts_sent += 1;
        if priority == 0 {
            self.counters.priority_zero_sent = self.counters.priority_zero_sent.wrapping_add(1);
        }
        Some(Transmit {
            source,
            destination,
            priority,
            decided,
            #[cfg(feature = "auth-hmac")]
            sequence: self.next_sequence(decided),
        })
    }

    /// Writes the advert that `transmit` stands for, signed if the router signs, to the front of `buffer` and returns it.
    /// [`MAX_MESSAGE`](wire::MAX_MESSAGE) bytes are always enough.
    ///
    /// # Errors
    /// If the buffer is too short.
    pub fn encode<'b>(&self, transmit: &Transmit, buffer: &'b mut [u8]) -> Result<&'b [u8], BufferTooShort> {
        let family = self.config.family();
        let coverage = match (self.config.version, family, self.config.checksum) {
            (Version::V2, ..) | (_, Family::Ipv4, ChecksumMode::MessageOnly) => Coverage::Message,
            _ => Coverage::PseudoHeader,
        };
        let advert = Advert {
            version: self.config.version,
            vrid: self.config.vrid,
            priority: transmit.priority,
            interval: self.config.interval,
            addresses: wire::Addresses::new(family, self.addresses.octets()),
            auth: match self.config.auth {
                Auth::None => AuthField::None,
                Auth::SimpleText(text) => AuthField::SimpleText(text),
            },
            coverage,
            trailer: &[],
        };
        let length = advert.encode(transmit.source, transmit.destination, buffer)?.len();
        #[cfg(feature = "auth-hmac")]
        return self.sign(transmit, length, buffer);
        #[cfg(not(feature = "auth-hmac"))]
        Ok(&buffer[..length])
    }

    /// Whether what was decided at `decided` (an advert to send: [`Transmit::decided`]; the first announcement of an address)
    /// comes so late that others must have taken over since, so that it must not be sent: that moment is more than three
    /// intervals ago, or the advert before it is. An active router steps down then without a word. For drivers, whose thread can
    /// be stopped between a decision and the send.
    #[must_use]
    pub fn withdraw_if_stale(&mut self, now: Timestamp, decided: Timestamp) -> bool {
        let since = if decided == self.advertised { self.advertised_before } else { decided };
        let stale = self.config.late_wake == LateWake::Listen && now.since(since) > self.patience();
        if stale {
            self.pending = None;
            if self.state == State::Active {
                self.step_down_late(now);
            }
        }
        stale
    }

    /// How long the other routers wait at least: three of this router's intervals.
    fn patience(&self) -> Duration {
        3 * self.config.interval.duration()
    }

    /// Does what is due at `now`. Too early a call does nothing.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.step_down_if_late(now) {
            return;
        }
        let due = |deadline: Option<Timestamp>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.timers.retry) {
            self.timers.retry = None;
            self.addresses.unblock();
            self.clear(now, Faults::TRANSMIT | Faults::ADDRESS);
        }
        if let (true, Some(deadline)) = (due(self.timers.main), self.timers.main) {
            match self.state {
                State::Initialize => {
                    self.timers.main = None;
                    self.begin(now, Reason::Operator);
                }
                State::Backup if self.slept_through(now, deadline) => self.listen_anew(now),
                State::Backup => self.become_active(now, self.waiting),
                State::Active => {
                    let interval = self.config.interval.duration();
                    self.advertise(now, self.priority);
                    // Late by less than an interval: back to the grid, so that lateness does not add up.
                    let next = deadline + interval;
                    self.timers.main = Some(if next > now { next } else { now + interval });
                }
            }
        }
        if let Some((_, rounds)) = self.timers.announce.filter(|&(at, _)| at <= now) {
            self.timers.announce = None;
            self.addresses.announce(rounds);
        }
        if due(self.timers.refresh) {
            self.timers.refresh = Some(now + self.config.garp.refresh);
            self.addresses.announce(self.config.garp.refresh_repeat);
        }
    }

    /// Takes note of what happened around the router.
    pub fn handle_event(&mut self, now: Timestamp, event: Event) {
        let stepped_down = self.step_down_if_late(now);
        match event {
            Event::Startup => {
                if self.started {
                    return;
                }
                self.started = true;
                if self.config.startup_delay.is_zero() {
                    self.begin(now, Reason::Operator);
                } else {
                    self.timers.main = Some(now + self.config.startup_delay);
                }
            }
            Event::Shutdown => {
                self.started = false;
                self.leave(now, State::Initialize, Reason::Operator);
            }
            Event::Fault(faults) => self.raise(now, faults),
            Event::Cleared(faults) => self.clear(now, faults),
            Event::Priority(priority) => self.set_priority(priority),
            Event::Source(source) => {
                self.source = source.filter(|&source| self.config.sends_from(source));
                if self.source.is_none() {
                    self.raise(now, Faults::SOURCE);
                } else {
                    self.clear(now, Faults::SOURCE);
                }
            }
            #[cfg(feature = "auth-hmac")]
            Event::WallClock(since_1970) => self.set_wall_clock(now, since_1970),
            Event::HeldUp(_) if stepped_down => {}
            Event::HeldUp(late) => self.wake_late(now, late),
            Event::AddressLost(address) => {
                if self.addresses.lost(address) {
                    self.counters.addresses_restored = self.counters.addresses_restored.wrapping_add(1);
                    self.notify(Notification::AddressRestored(address));
                }
            }
            Event::TakeOver => {
                if self.state == State::Backup {
                    self.become_active(now, Reason::Group);
                }
            }
            Event::StandDown => {
                if self.state == State::Active {
                    self.leave(now, State::Backup, Reason::Group);
                }
            }
        }
    }

    /// Takes note that `action` could not be carried out.
    ///
    /// An advert or an address that fails is a fault: the router steps down, so that it is never active in name only, and
    /// tries again after a pause that grows from 1 s to 32 s. What a driver can cure at once (a full queue) it should
    /// retry before it says so. An announcement that fails is counted.
    pub fn handle_failure(&mut self, now: Timestamp, action: &Action) {
        let fault = match *action {
            Action::Transmit(_) => {
                self.counters.transmit_failures = self.counters.transmit_failures.wrapping_add(1);
                Faults::TRANSMIT
            }
            Action::AddAddress(address) | Action::RemoveAddress(address) => {
                self.counters.address_failures = self.counters.address_failures.wrapping_add(1);
                self.addresses.failed(address, matches!(action, Action::AddAddress(_)));
                Faults::ADDRESS
            }
            Action::GratuitousArp(_) | Action::UnsolicitedNeighborAdvertisement(_) => {
                self.counters.announcement_failures = self.counters.announcement_failures.wrapping_add(1);
                return;
            }
            Action::Notify(_) => return,
        };
        if now.since(self.failed) > 2 * RETRY_MAX {
            self.retry = RETRY_MIN;
        }
        self.failed = now;
        if self.timers.retry.is_none() {
            self.timers.retry = Some(now + self.retry);
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
        self.raise(now, fault);
    }

    /// Takes another configuration over without leaving the state: addresses come and go, priority and timing hold from the
    /// next advert on.
    ///
    /// # Errors
    /// If the new configuration is wrong, or is another router's (version, VRID, or family). Nothing changes then.
    pub fn reconfigure(&mut self, now: Timestamp, config: Config) -> Result<(), ReconfigureError> {
        config.validate()?;
        if (config.version, config.vrid, config.family())
            != (self.config.version, self.config.vrid, self.config.family())
        {
            return Err(ReconfigureError::OtherRouter);
        }
        self.addresses.replace(&config.addresses, config.garp.repeat);
        let old = core::mem::replace(&mut self.config, config);
        #[cfg(feature = "auth-hmac")]
        {
            self.guard.set_keys(self.config.hmac.as_ref());
            self.raise(now, self.lacking() & Faults::CLOCK);
            self.clear(now, Faults::CLOCK);
        }
        if old.priority != self.config.priority {
            self.change_priority(self.config.priority);
        }
        if let Some((.., peer)) = &mut self.pending {
            *peer = 0;
        }
        if self.source.is_some_and(|source| !self.config.sends_from(source)) {
            self.handle_event(now, Event::Source(None));
        }
        if old.interval != self.config.interval {
            let interval = self.config.interval.duration();
            if self.state == State::Active {
                self.interval = self.config.interval;
                self.timers.main = self.timers.main.map(|at| at.min(now + interval));
            } else if self.active.is_none() || self.config.version == Version::V2 {
                self.interval = self.config.interval;
            }
        }
        if self.state == State::Active {
            let refresh = self.config.garp.refresh;
            if old.garp.refresh != refresh {
                self.timers.refresh = (!refresh.is_zero()).then(|| now + refresh);
            }
        }
        Ok(())
    }

    fn set_priority(&mut self, priority: u8) {
        if self.config.priority != OWNER {
            self.change_priority(priority.clamp(1, OWNER - 1));
        }
    }

    fn change_priority(&mut self, priority: u8) {
        if self.priority != priority {
            self.priority = priority;
            self.notify(Notification::Priority(priority));
        }
    }

    fn notify(&mut self, notification: Notification) {
        if self.notifications.len() < NOTIFICATIONS {
            self.notifications.push_back(notification);
        }
    }

    /// Says a conflict, unless it has been said and was seen since within ten master-down intervals.
    fn report(&mut self, now: Timestamp, kind: Conflict, address: IpAddr) {
        let calm = 10 * self.master_down_interval();
        let last = self.conflicts[kind as usize].replace(now);
        if last.is_none_or(|last| now.since(last) >= calm) {
            self.notify(Notification::Conflict { kind, address });
        }
    }

    fn skew_time(&self) -> Duration {
        skew_time(self.config.version, self.priority, self.interval)
    }
}

/// A configuration that a running router can't take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It is another router's.
    #[error(
        "version, VRID or address family differ: that is another virtual router; stop this one and start that"
    )]
    OtherRouter,
}
