//! A machine of the simulation: a router, its clock, its interface, and the program that drives them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::trace::What;
use super::{Clock, Log, RouterId, Rule};
use crate::config::{Config, LateWake};
use crate::event::{Action, Event, Faults, Notification, State, Transmit};
use crate::router::VirtualRouter;
use crate::time::Timestamp;
use crate::wire::{MAX_MESSAGE, Meta};

/// As many packets wait in the socket of a program that is stopped.
const SOCKET: usize = 256;

/// What comes to the program.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Packet(Meta, Arc<[u8]>),
    Event(Event),
    Timer,
}

/// An advert on its way out.
pub(super) type Outgoing = (Transmit, Arc<[u8]>);

/// What a kernel refuses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refused {
    pub(super) sends: bool,
    pub(super) addresses: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    id: RouterId,
    pub(super) config: Config,
    pub(super) source: IpAddr,
    pub(super) clock: Clock,
    pub(super) router: Option<VirtualRouter>,
    /// When its program was stopped, if it is, and whether packets wait.
    pub(super) paused: Option<(Timestamp, bool)>,
    /// After how many more actions the program is stopped in the midst of its work, and whether packets wait then.
    pub(super) interrupt: Option<(u32, bool)>,
    /// What the program was about to do when it was stopped.
    held: Option<Action>,
    inbox: VecDeque<Input>,
    /// The virtual addresses on the interface.
    pub(super) interface: Vec<IpAddr>,
    /// What its kernel refuses to do.
    pub(super) refused: Refused,
    /// The router's next deadline, by its clock, and when the program will wake for it.
    pub(super) wake: Option<(Timestamp, Timestamp)>,
    /// The lowest effective priority since it was last told one.
    pub(super) lowest_priority: u8,
    /// When it last sent an advert as the active router that it is.
    last_sent: Option<Timestamp>,
    /// How often it had left the active state at its last farewell, and to how many it said it.
    farewell: (u32, usize),
    said: State,
    /// It may not take over at this moment, because it has just slept too long to know of others.
    drowsy: Option<Timestamp>,
}

impl Host {
    pub(super) fn new(id: RouterId, config: Config, source: IpAddr, clock: Clock) -> Self {
        Self {
            id,
            lowest_priority: config.priority,
            config,
            source,
            clock,
            router: None,
            paused: None,
            interrupt: None,
            held: None,
            inbox: VecDeque::new(),
            interface: Vec::new(),
            refused: Refused::default(),
            wake: None,
            last_sent: None,
            farewell: (0, 0),
            said: State::Initialize,
            drowsy: None,
        }
    }

    /// The machine starts, or its router does.
    pub(super) fn start(&mut self, log: &mut Log, out: &mut Vec<Outgoing>) {
        if self.router.is_none() {
            // The configuration was checked when the host was made.
            self.router = VirtualRouter::new(self.config.clone(), Some(self.source)).ok();
            self.lowest_priority = self.config.priority;
            self.farewell = (0, 0);
            self.said = State::Initialize;
        }
        log.note(Some(self.id), || What::Started);
        self.take(Input::Event(Event::Startup), log, out);
    }

    /// The machine dies.
    pub(super) fn crash(&mut self, log: &mut Log) {
        log.note(Some(self.id), || What::Crashed);
        self.router = None;
        self.paused = None;
        self.interrupt = None;
        self.held = None;
        self.inbox.clear();
        self.interface.clear();
        self.wake = None;
        self.last_sent = None;
        self.drowsy = None;
    }

    /// Whether it runs: started, not dead, not stopped.
    pub(super) fn is_alive(&self) -> bool {
        self.paused.is_none() && self.router.as_ref().is_some_and(VirtualRouter::is_started)
    }

    /// In how long, by its own clock, it tries again what failed.
    pub(super) fn retry(&self, now: Timestamp) -> Option<Duration> {
        let at = self.router.as_ref().and_then(VirtualRouter::retries_at)?;
        Some(at.since(self.clock.local(now)))
    }

    pub(super) fn pause(&mut self, queues: bool, log: &mut Log) {
        if self.router.is_some() && self.paused.is_none() {
            log.note(Some(self.id), || What::Paused { queues });
            self.paused = Some((log.now, queues));
            self.interrupt = None;
        }
    }

    /// The program goes on: with what it was about to do, then with what has come since, or first with its timer.
    pub(super) fn resume(&mut self, timer_first: bool, log: &mut Log, out: &mut Vec<Outgoing>) {
        self.interrupt = None;
        let Some((since, _)) = self.paused.take() else { return };
        log.note(Some(self.id), || What::Resumed);
        let now = self.clock.local(log.now);
        if let Some(router) = &self.router {
            let slept = now.since(self.clock.local(since));
            let listens = self.config.late_wake == LateWake::Listen;
            // Whatever its timer was, it ran out more than three intervals ago.
            let too_long = router.master_down_interval() + 3 * router.interval().duration();
            self.drowsy = (listens && slept > too_long).then_some(now);
        }
        if let Some(action) = self.held.take() {
            self.carry_out(action, log, out);
        }
        self.drain(log, out);
        if timer_first
            && self.router.as_ref().and_then(VirtualRouter::poll_timeout).is_some_and(|at| at <= now)
        {
            self.take(Input::Timer, log, out);
        }
        // A program that looks at its sockets first also knows how late it does.
        if !timer_first
            && let Some(at) = self.router.as_ref().and_then(VirtualRouter::poll_timeout)
            && at < now
        {
            self.take(Input::Event(Event::HeldUp(now.since(at))), log, out);
        }
        while self.paused.is_none()
            && let Some(input) = self.inbox.pop_front()
        {
            self.take(input, log, out);
        }
    }

    /// The program is given something.
    pub(super) fn take(&mut self, input: Input, log: &mut Log, out: &mut Vec<Outgoing>) {
        if let Some((_, queues)) = self.paused {
            let waits = match input {
                Input::Packet(..) => queues && self.inbox.len() < SOCKET,
                Input::Event(_) => true,
                Input::Timer => false,
            };
            if waits {
                self.inbox.push_back(input);
            }
            return;
        }
        let Some(router) = &mut self.router else { return };
        let now = self.clock.local(log.now);
        match input {
            Input::Packet(meta, bytes) => {
                let outcome = router.handle_packet(now, &meta, &bytes);
                log.note(Some(self.id), || What::Heard {
                    source: meta.source,
                    priority: bytes.get(2).copied(),
                    outcome,
                });
            }
            Input::Event(event) => {
                log.note(Some(self.id), || What::Told(event));
                if let Event::AddressLost(address) = event {
                    self.interface.retain(|&other| other != address);
                }
                router.handle_event(now, event);
                self.lowest_priority = self.lowest_priority.min(router.priority());
            }
            Input::Timer => {
                let before = router.state();
                router.handle_timeout(now);
                if (before, router.state()) == (State::Backup, State::Active) && self.drowsy == Some(now) {
                    log.broken(self.id, Rule::TookOverAsleep);
                }
                if router.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    log.broken(self.id, Rule::BusyLoop);
                }
            }
        }
        self.drain(log, out);
    }

    /// Carries out all actions, unless it is stopped amid them.
    fn drain(&mut self, log: &mut Log, out: &mut Vec<Outgoing>) {
        while self.paused.is_none()
            && let Some(action) = self.router.as_mut().and_then(VirtualRouter::poll_action)
        {
            if let Some((left, queues)) = &mut self.interrupt {
                if *left == 0 {
                    let queues = *queues;
                    self.held = Some(action);
                    self.pause(queues, log);
                    return;
                }
                *left -= 1;
            }
            self.carry_out(action, log, out);
        }
        if self.paused.is_none() {
            self.check(log);
        }
    }

    fn carry_out(&mut self, action: Action, log: &mut Log, out: &mut Vec<Outgoing>) {
        let now = self.clock.local(log.now);
        let Some(router) = &mut self.router else { return };
        match action {
            // A driver may have been stopped since it polled, and must ask.
            Action::Transmit(transmit) if router.withdraw_if_stale(now, transmit.decided) => {
                log.note(Some(self.id), || What::Stale(transmit));
            }
            Action::Transmit(_) if self.refused.sends => {
                log.note(Some(self.id), || What::Refused(action));
                router.handle_failure(now, &action);
            }
            Action::AddAddress(_) | Action::RemoveAddress(_) if self.refused.addresses => {
                log.note(Some(self.id), || What::Refused(action));
                router.handle_failure(now, &action);
            }
            Action::Transmit(transmit) => {
                log.note(Some(self.id), || What::Sent(transmit));
                let mut buffer = [0; MAX_MESSAGE];
                match router.encode(&transmit, &mut buffer) {
                    Ok(message) => out.push((transmit, message.into())),
                    Err(_) => log.broken(self.id, Rule::Encode),
                }
                self.judge_advert(&transmit, log);
            }
            Action::AddAddress(address) => {
                log.note(Some(self.id), || What::Added(address.address));
                if router.state() != State::Active {
                    log.broken(self.id, Rule::AddressWithoutActive);
                }
                self.interface.push(address.address);
            }
            Action::RemoveAddress(address) => {
                log.note(Some(self.id), || What::Removed(address.address));
                self.interface.retain(|&other| other != address.address);
            }
            Action::GratuitousArp(address) => self.judge_announcement(address.into(), log),
            Action::UnsolicitedNeighborAdvertisement(address) => {
                self.judge_announcement(address.into(), log);
            }
            Action::Notify(notification) => {
                log.note(Some(self.id), || What::Said(notification));
                self.judge_notification(&notification, log);
            }
        }
    }

    fn judge_advert(&mut self, transmit: &Transmit, log: &mut Log) {
        let Some(router) = &self.router else { return };
        let now = self.clock.local(log.now);
        let patience = 3 * self.config.interval.duration();
        let gap = self.last_sent.map_or(Duration::ZERO, |last| now.since(last));
        if self.config.late_wake == LateWake::Listen && gap > patience {
            log.broken(self.id, Rule::StaleAdvert { gap });
        }
        if transmit.priority == 0 {
            let left = router.counters().left_active;
            let (last, count) = self.farewell;
            let count = if left == last { count + 1 } else { 1 };
            self.farewell = (left, count);
            self.last_sent = None;
            if left == 0 || count > self.config.unicast_peers.len().max(1) {
                log.broken(self.id, Rule::Farewell);
            }
            return;
        }
        if router.state() != State::Active {
            log.broken(self.id, Rule::AdvertWithoutActive);
        }
        self.last_sent = Some(now);
    }

    fn judge_announcement(&mut self, address: IpAddr, log: &mut Log) {
        log.note(Some(self.id), || What::Announced(address));
        if !self.interface.contains(&address) {
            log.broken(self.id, Rule::AnnouncedAbsent);
        }
    }

    fn judge_notification(&mut self, notification: &Notification, log: &mut Log) {
        if let Notification::State { from, to, .. } = *notification {
            if from != self.said || from == to {
                log.broken(self.id, Rule::StateUnsaid);
            }
            self.said = to;
            if to != State::Active {
                self.last_sent = None;
            }
        }
    }

    /// What must hold whenever the program has nothing left to do.
    fn check(&self, log: &mut Log) {
        let Some(router) = &self.router else { return };
        let active = router.state() == State::Active;
        let all = self.config.addresses.iter().all(|address| self.interface.contains(&address.address));
        if active && !all {
            log.broken(self.id, Rule::ActiveWithoutAddress);
        }
        // What can't be removed yet is known to be there, and why.
        let stuck = router.faults().contains(Faults::ADDRESS);
        let known = self
            .interface
            .iter()
            .all(|&address| router.present_addresses().any(|present| present.address == address));
        if !(active || self.interface.is_empty() || stuck && known) {
            log.broken(self.id, Rule::AddressWithoutActive);
        }
        if router.state() != self.said {
            log.broken(self.id, Rule::StateUnsaid);
        }
        if router.state() != State::Initialize && router.poll_timeout().is_none() {
            log.broken(self.id, Rule::NoTimer);
        }
    }
}
