//! Adverts in a capture: each with its verdict and the reason.
//!
//! A verdict is what a router would say that has no configuration: TTL, version, type, length, checksum, addresses,
//! interval, the RFCs' checks in their order. What needs a configuration (whose VRID, whose password) is left open.

mod capture;
mod show;

use std::net::IpAddr;
use std::time::SystemTime;

use lb_vrrp::wire::{self, Advert, AuthField, ChecksumMode, Coverage, Discard, Interval, Meta};

pub use capture::{CaptureError, Summary, read};
pub use show::Shown;

/// A packet of protocol 112.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its number in the capture, from 1.
    pub number: u64,
    /// When it was captured, if the capture says.
    pub time: Option<SystemTime>,
    /// Who sent it.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// With which time to live or hop limit.
    pub ttl: u8,
    /// Whether the capture holds less of it than was sent.
    pub cut: bool,
    /// Whether it is a part of a larger one.
    pub fragment: bool,
    /// The message as it is there; nothing of a fragment that has not its beginning.
    pub payload: Vec<u8>,
}

/// Why a packet is no good advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A router would drop it.
    #[error(transparent)]
    Discard(#[from] Discard),
    /// A router would drop it, as another protocol has the same number and group.
    #[error("a CARP packet, not VRRP: its lengths do not fit")]
    Carp,
    /// The capture holds too little of it for a verdict.
    #[error("the capture holds only a part of it: capture with a greater snapshot length")]
    Truncated,
    /// It is a fragment: adverts are never fragmented.
    #[error("a fragment: adverts come whole")]
    Fragment,
}

impl Reason {
    /// Its name in machine-readable output: a discard's own, which the daemon counts it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discard(discard) => discard.name(),
            Self::Carp => Discard::Length.name(),
            Self::Truncated => "truncated",
            Self::Fragment => "fragment",
        }
    }
}

impl Packet {
    /// The advert, or why it is none.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verdict(&self) -> Result<Advert<'_>, Reason> {
        if self.fragment {
            return Err(Reason::Fragment);
        }
        if self.ttl != wire::TTL {
            return Err(Discard::Ttl.into());
        }
        let meta = Meta::new(self.source, self.destination, self.ttl);
        let advert =
            Advert::decode(&meta, &self.payload, ChecksumMode::Either).map_err(|discard| match discard {
                Discard::Length | Discard::Version if self.is_carp() => Reason::Carp,
                Discard::Length | Discard::Checksum if self.cut => Reason::Truncated,
                other => other.into(),
            })?;
        if advert.vrid == 0 {
            return Err(Discard::Vrid.into());
        }
        if let Some(IpAddr::V6(first)) = advert.addresses.iter().next()
            && !first.is_unicast_link_local()
        {
            return Err(Discard::LinkLocal.into());
        }
        match advert.auth {
            // RFC 2338 §5.3.6 has 0, 1 and 2.
            AuthField::Other(kind, _) if kind > 2 => Err(Discard::AuthType.into()),
            _ => Ok(advert),
        }
    }

    /// The version that the first byte claims.
    #[must_use]
    pub fn version(&self) -> Option<u8> {
        self.payload.first().map(|first| first >> 4)
    }

    /// The VRID that it claims.
    #[must_use]
    pub fn vrid(&self) -> Option<u8> {
        self.payload.get(1).copied()
    }

    /// The priority that it claims.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.payload.get(2).copied()
    }

    /// CARP's packets have 36 bytes, and in the fourth the length of what is signed in words: 7.
    fn is_carp(&self) -> bool {
        self.payload.len() == 36 && self.payload[0] == 0x21 && self.payload[3] == 7
    }
}

/// What an advert's checksum covers, by name.
#[must_use]
pub const fn coverage_name(coverage: Coverage) -> &'static str {
    match coverage {
        Coverage::PseudoHeader => "pseudo-header",
        Coverage::Message => "message",
    }
}

fn seconds(interval: Interval) -> f64 {
    f64::from(interval.centiseconds()) / 100.0
}

#[cfg(test)]
mod tests;
