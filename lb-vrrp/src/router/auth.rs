//! Signing adverts, and judging the signatures of others'.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use super::VirtualRouter;
use crate::config::Config;
use crate::event::{Conflict, Faults, Transmit};
use crate::hmac::{AntiReplay, Hmac, Mode};
use crate::time::Timestamp;
use crate::wire::advert::SIGNATURE;
use crate::wire::auth::{Sequence, Signature, SigningKey};
use crate::wire::checksum::{Coverage, checksum};
use crate::wire::{Advert, BufferTooShort, Discard, Family, Meta};

/// Senders whose sequences are remembered. Only holders of a key get in, and a virtual router has a handful.
const SENDERS: usize = 32;

/// What signing and judging need beside the configuration.
#[derive(Clone, Default)]
pub(super) struct Guard {
    keys: Vec<(u8, SigningKey)>,
    /// A moment, and what the wall clock said then.
    wall_clock: Option<(Timestamp, Duration)>,
    /// The last sequence that was sent.
    sent: Sequence,
    /// The last sequence of each sender.
    heard: Vec<(IpAddr, Sequence)>,
}

impl Guard {
    /// One for `config`; nothing is kept for a router that has no keys.
    pub(super) fn new(config: &Config) -> Box<Self> {
        let mut guard = Box::<Self>::default();
        guard.set_keys(config.hmac.as_ref());
        guard
    }

    pub(super) fn set_keys(&mut self, hmac: Option<&Hmac>) {
        let keys = hmac.map_or(&[][..], |hmac| &hmac.keys);
        self.keys = keys.iter().map(|key| (key.id(), SigningKey::new(key.secret()))).collect();
        if !keys.is_empty() {
            self.heard.reserve(SENDERS.saturating_sub(self.heard.len()));
        }
    }

    fn key(&self, id: u8) -> Option<&SigningKey> {
        self.keys.iter().find(|&&(key_id, _)| key_id == id).map(|(_, key)| key)
    }

    /// What the wall clock says at `moment`.
    fn wall_clock_at(&self, moment: Timestamp) -> Option<Duration> {
        let (then, said) = self.wall_clock?;
        Some(said.saturating_add(moment.since(then)).saturating_sub(then.since(moment)))
    }

    /// Notes an advert of `sender`, unless it is not newer than the last one. `is_old` says which sequences can't come
    /// again, so that their place is free for another sender.
    fn note(
        &mut self,
        sender: IpAddr,
        sequence: Sequence,
        is_old: impl Fn(Sequence) -> bool,
    ) -> Result<(), Discard> {
        if let Some((_, last)) = self.heard.iter_mut().find(|(address, _)| *address == sender) {
            if sequence <= *last {
                return Err(Discard::Replay);
            }
            *last = sequence;
        } else if self.heard.len() < SENDERS {
            self.heard.push((sender, sequence));
        } else if let Some(place) = self.heard.iter_mut().find(|&&mut (_, last)| is_old(last)) {
            *place = (sender, sequence);
        } else {
            return Err(Discard::Replay);
        }
        Ok(())
    }
}

impl fmt::Debug for Guard {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("wall_clock", &self.wall_clock)
            .field("sent", &self.sent)
            .field("heard", &self.heard)
            .finish_non_exhaustive()
    }
}

impl VirtualRouter {
    /// The fault of a router that has keys and has not been told the wall clock.
    pub(super) fn lacks_clock(&self) -> bool {
        self.config.hmac.is_some() && self.guard.wall_clock.is_none()
    }

    pub(super) fn set_wall_clock(&mut self, now: Timestamp, since_1970: Duration) {
        self.guard.wall_clock = Some((now, since_1970));
        self.clear(now, Faults::CLOCK);
    }

    /// The sequence of an advert that was decided then: by the wall clock, and after all others even if that was set back.
    pub(super) fn next_sequence(&mut self, decided: Timestamp) -> Sequence {
        if let (Some(_), Some(time)) = (&self.config.hmac, self.guard.wall_clock_at(decided)) {
            self.guard.sent = Sequence::at(time).max(self.guard.sent.next());
        }
        self.guard.sent
    }

    /// Room for a signature behind each message that is sent.
    pub(super) fn signature_len(&self) -> usize {
        match &self.config.hmac {
            Some(hmac) if hmac.mode != Mode::ReceiveOnly => SIGNATURE,
            _ => 0,
        }
    }

    /// Signs the message at the front of `buffer`.
    pub(super) fn sign<'b>(
        &self,
        transmit: &Transmit,
        message_len: usize,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], BufferTooShort> {
        let (needed, available) = (message_len + self.signature_len(), buffer.len());
        let signed = buffer.get_mut(..needed).ok_or(BufferTooShort { needed, available })?;
        let key_id = self.config.hmac.as_ref().map_or(0, |hmac| hmac.active_key);
        if let (true, Some(key)) = (needed > message_len, self.guard.key(key_id)) {
            key.sign(self.config.version, transmit.source, key_id, transmit.sequence, signed);
            if self.config.family() == Family::Ipv6 {
                let sum = checksum(signed, transmit.source, transmit.destination, Coverage::PseudoHeader);
                signed[6..8].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Ok(signed)
    }

    /// Whether an advert is signed as it must be, and is new.
    pub(super) fn check_signature(
        &mut self,
        now: Timestamp,
        meta: &Meta,
        payload: &[u8],
        advert: &Advert<'_>,
    ) -> Result<(), Discard> {
        let Some(hmac) = &self.config.hmac else { return Ok(()) };
        let Some(signature) = Signature::of(advert.trailer) else {
            if hmac.mode == Mode::Enforce {
                self.report(now, Conflict::Authentication, meta.source);
                return Err(Discard::Unsigned);
            }
            self.counters.unsigned_received = self.counters.unsigned_received.wrapping_add(1);
            return Ok(());
        };
        let key = self.guard.key(signature.key_id);
        if !key.is_some_and(|key| key.verify(advert.version, meta.source, payload)) {
            self.report(now, Conflict::Authentication, meta.source);
            return Err(Discard::AuthFailure);
        }
        let Some(wall_clock) = self.guard.wall_clock_at(now) else { return Err(Discard::Replay) };
        let (by_time, window) = (hmac.anti_replay == AntiReplay::Time, hmac.window(self.config.interval));
        let skew = signature.sequence.time().abs_diff(wall_clock);
        if by_time && skew > window / 2 {
            self.report(now, Conflict::ClockSkew, meta.source);
        }
        if by_time && skew > window {
            return Err(Discard::Replay);
        }
        let is_old = |sequence: Sequence| by_time && sequence.time() + window < wall_clock;
        self.guard.note(meta.source, signature.sequence, is_old)
    }
}
