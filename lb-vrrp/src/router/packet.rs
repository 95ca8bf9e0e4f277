//! What a virtual router makes of an advert.

use core::net::IpAddr;
use core::time::Duration;

use super::VirtualRouter;
use crate::config::{AddressCheck, Auth, LosingAdvert, OWNER, Owners};
use crate::event::{Conflict, Notification, Reason, State};
use crate::time::Timestamp;
use crate::wire::{Advert, AuthField, Discard, Meta, Version};

/// Losing adverts make announcements at most so often.
const CALM: Duration = Duration::from_secs(1);

impl VirtualRouter {
    /// Takes an advert: the payload of an IP packet of protocol 112, and what its header says. Allocates nothing.
    ///
    /// # Errors
    /// Why it was dropped. It is counted too.
    pub fn handle_packet(&mut self, now: Timestamp, meta: &Meta, payload: &[u8]) -> Result<(), Discard> {
        self.step_down_if_late(now);
        let advert = match self.check(now, meta, payload) {
            Ok(advert) => advert,
            Err(discard) => {
                self.counters.discards.count(discard);
                return Err(discard);
            }
        };
        self.counters.adverts_received += 1;
        if advert.priority == 0 {
            self.counters.priority_zero_received = self.counters.priority_zero_received.wrapping_add(1);
        }
        if self.config.version == Version::V3
            && self.follows(now, meta.source, advert.priority)
            && self.interval != advert.interval
        {
            self.interval = advert.interval;
            self.notify(Notification::IntervalLearned(advert.interval));
        }
        match self.state {
            State::Initialize => {}
            State::Backup => self.hear_in_backup(now, meta.source, advert.priority),
            State::Active => self.hear_while_active(now, meta.source, advert.priority),
        }
        Ok(())
    }

    /// The checks of RFC 9568 §7.1 and RFC 3768 §7.1, in their order.
    fn check<'a>(&mut self, now: Timestamp, meta: &Meta, payload: &'a [u8]) -> Result<Advert<'a>, Discard> {
        if self.state == State::Initialize {
            return Err(Discard::Initialize);
        }
        if Some(meta.source) == self.source {
            self.report(now, Conflict::SameAddress, meta.source);
            return Err(Discard::OwnPacket);
        }
        if !self.config.unicast_peers.is_empty() && !self.config.unicast_peers.contains(&meta.source) {
            return Err(Discard::UnknownPeer);
        }
        if !self.config.accepted_ttl.contains(&meta.ttl) {
            return Err(Discard::Ttl);
        }
        if payload.first().is_some_and(|first| first >> 4 != self.config.version.number()) {
            return Err(Discard::Version);
        }
        let advert = Advert::decode(meta, payload, self.config.checksum).inspect_err(|&discard| {
            if discard == Discard::ChecksumMode {
                self.report(now, Conflict::ChecksumMode, meta.source);
            }
        })?;
        // Of one VRID, the virtual routers of the two families are independent (RFC 9568 §1).
        if (advert.vrid, advert.addresses.family()) != (self.config.vrid, self.config.family()) {
            return Err(Discard::Vrid);
        }
        if self.config.priority == OWNER && self.config.owners == Owners::Ignore {
            return Err(Discard::Owner);
        }
        #[cfg(feature = "auth-hmac")]
        self.check_signature(now, meta, payload, &advert)?;
        if self.config.version == Version::V2 {
            self.check_auth(advert.auth).inspect_err(|_| {
                self.report(now, Conflict::Authentication, meta.source);
            })?;
            if advert.interval != self.config.interval {
                self.report(now, Conflict::Interval, meta.source);
                return Err(Discard::Interval);
            }
        }
        if let (true, Some(IpAddr::V6(first))) =
            (self.config.require_link_local, advert.addresses.iter().next())
            && !first.is_unicast_link_local()
        {
            return Err(Discard::LinkLocal);
        }
        if self.config.address_check != AddressCheck::Ignore
            && !self.lists_own_addresses(advert.addresses.octets())
        {
            self.report(now, Conflict::AddressList, meta.source);
            // RFC 3768 §7.1: the owner knows better.
            if self.config.address_check == AddressCheck::Drop && advert.priority != OWNER {
                return Err(Discard::AddressList);
            }
        }
        Ok(advert)
    }

    fn check_auth(&self, auth: AuthField) -> Result<(), Discard> {
        match (self.config.auth, auth) {
            (Auth::None, AuthField::None) => Ok(()),
            (Auth::SimpleText(own), AuthField::SimpleText(text)) if own == text => Ok(()),
            (Auth::SimpleText(_), AuthField::SimpleText(_)) => Err(Discard::AuthFailure),
            (_, AuthField::Other(kind, _)) if kind > 2 => Err(Discard::AuthType),
            _ => Err(Discard::AuthMismatch),
        }
    }

    /// Whether an advert's addresses are this router's, in whatever order.
    fn lists_own_addresses(&self, octets: &[u8]) -> bool {
        let own = self.addresses.octets();
        if octets == own {
            return true;
        }
        let size = self.config.family().octets();
        octets.len() == own.len()
            && octets.chunks_exact(size).all(|address| own.chunks_exact(size).any(|other| other == address))
    }

    /// Whether the sender of an advert is, or is about to be, the active router that this one follows.
    fn follows(&self, now: Timestamp, source: IpAddr, priority: u8) -> bool {
        priority != 0
            && match self.state {
                State::Initialize => false,
                State::Backup => !self.config.preempt || priority >= self.priority || self.holds_back(now),
                State::Active => self.yields_to(source, priority),
            }
    }

    /// In Backup: whether the preempt delay lets a router of lower priority be active for now.
    fn holds_back(&self, now: Timestamp) -> bool {
        !self.config.preempt_delay.is_zero() && self.timers.preempt.is_none_or(|from| from > now)
    }

    /// Whether an active router of `priority` at `source` is the better one.
    fn yields_to(&self, source: IpAddr, priority: u8) -> bool {
        priority > self.priority
            || priority == self.priority && self.source.is_some_and(|own| is_greater(source, own))
    }

    fn hear_in_backup(&mut self, now: Timestamp, source: IpAddr, priority: u8) {
        if priority == 0 {
            // Who left before a late wake may have been followed by another, whom this router has not heard.
            if now >= self.woken {
                self.wait(now, self.skew_time(), Reason::MasterLeft);
            }
            return;
        }
        if self.active != Some((source, priority)) {
            self.active = Some((source, priority));
            self.notify(Notification::NewActive { address: source, priority });
        }
        if self.config.preempt && priority < self.priority {
            if !self.holds_back(now) {
                // The wait goes on: when it is over, this router takes over.
                self.waiting = Reason::Preempted;
                return;
            }
            self.timers.preempt.get_or_insert(now + self.config.preempt_delay);
        } else {
            self.timers.preempt = None;
        }
        self.wait(now.max(self.woken), self.master_down_interval(), Reason::MasterDown);
    }

    fn hear_while_active(&mut self, now: Timestamp, source: IpAddr, priority: u8) {
        // Two that each believe to be the better (behind address translation, say) must not answer each other at the
        // network's speed, nor a storm be answered with a storm.
        let pause = (self.config.interval.duration() / 2).min(Duration::from_millis(10));
        let paused = now.since(self.advertised) >= pause;
        if priority == 0 {
            if paused {
                self.advertise(now, self.priority);
                self.timers.main = Some(now + self.config.interval.duration());
            } else {
                // The answer comes when the pause is over.
                let at = self.advertised + pause;
                self.timers.main = Some(self.timers.main.map_or(at, |main| main.min(at)));
            }
            return;
        }
        if priority == OWNER && self.priority == OWNER {
            self.report(now, Conflict::TwoOwners, source);
        } else if priority == self.priority {
            self.report(now, Conflict::EqualPriority, source);
        }
        if self.yields_to(source, priority) {
            let reason = if priority > self.priority {
                Reason::HigherPriority(source)
            } else {
                Reason::GreaterAddress(source)
            };
            self.active = Some((source, priority));
            self.become_backup(now, reason);
            return;
        }
        self.counters.split_brain = self.counters.split_brain.wrapping_add(1);
        if priority != self.priority {
            self.report(now, Conflict::SplitBrain, source);
        }
        let answers = match self.config.losing_advert {
            LosingAdvert::ByVersion => self.config.version == Version::V3,
            LosingAdvert::Answer => true,
            LosingAdvert::Discard => false,
        };
        if answers && paused {
            self.advertise(now, self.priority);
        }
        self.announce_again(now);
    }

    /// The sender of a losing advert may have told the neighbours that the addresses are with it.
    fn announce_again(&mut self, now: Timestamp) {
        let garp = &self.config.garp;
        let calm = self.timers.calm.is_some_and(|until| until > now);
        if garp.lower_priority_repeat == 0 || calm || self.addresses.is_announcing() {
            return;
        }
        self.timers.calm = Some(now + CALM);
        self.addresses.announce(garp.lower_priority_repeat);
        if !garp.lower_priority_delay.is_zero() {
            self.timers.announce = Some((now + garp.lower_priority_delay, garp.lower_priority_repeat));
        }
    }
}

/// Addresses compare as unsigned numbers in network order (RFC 9568 §6.4.3).
fn is_greater(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.octets() > other.octets(),
        (IpAddr::V6(one), IpAddr::V6(other)) => one.octets() > other.octets(),
        _ => false,
    }
}
