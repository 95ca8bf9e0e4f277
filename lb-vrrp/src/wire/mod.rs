//! Advertisements as they are on the wire: checked views over bytes, and back.
//!
//! | bytes | version 2 (RFC 3768 §5.1) | version 3 (RFC 9568 §5.1) |
//! |---|---|---|
//! | 0 | `0x21` | `0x31` |
//! | 1–3 | VRID, priority, address count | the same |
//! | 4–5 | authentication type, interval in seconds | 4 reserved bits, interval in centiseconds |
//! | 6–7 | checksum | checksum |
//! | 8– | addresses of 4 bytes, then 8 bytes of authentication data | addresses of 4 or 16 bytes |
//!
//! [`Advert::decode`] checks everything that needs no configuration, in the RFCs' order, and names what it refuses by a
//! [`Discard`]. What follows the message (Ethernet's padding, or a signature) is kept apart as [`Advert::trailer`].

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

pub(crate) mod advert;
#[cfg(feature = "auth-hmac")]
pub mod auth;
pub mod checksum;
mod discard;
mod interval;

pub use advert::{Addresses, Advert, AuthField, BufferTooShort};
pub use checksum::{ChecksumMode, Coverage};
pub use discard::{Discard, Discards};
pub use interval::{Interval, IntervalError};

/// The IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// Where IPv4 adverts go (RFC 9568 §5.1.1.2).
pub const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where IPv6 adverts go (RFC 9568 §5.1.2.2).
pub const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The TTL or hop limit of every advert that is not routed.
pub const TTL: u8 = 255;
/// The longest message: version 3 with 255 IPv6 addresses, and a signature behind it.
pub const MAX_MESSAGE: usize = advert::HEADER + 255 * 16 + advert::SIGNATURE;

/// The protocol's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u8", into = "u8")
)]
pub enum Version {
    /// RFC 3768: IPv4, intervals in seconds.
    V2,
    /// RFC 9568: IPv4 and IPv6, intervals in centiseconds, learned from the active router.
    V3,
}

impl Version {
    /// 2 or 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

impl From<Version> for u8 {
    fn from(version: Version) -> Self {
        version.number()
    }
}

impl TryFrom<u8> for Version {
    type Error = UnknownVersion;

    fn try_from(number: u8) -> Result<Self, UnknownVersion> {
        match number {
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            _ => Err(UnknownVersion(number)),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// A protocol version that is neither 2 nor 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VRRP version {0} is not known: write 2 or 3")]
pub struct UnknownVersion(pub u8);

/// IPv4 or IPv6. The virtual routers of the two are independent, even with equal VRIDs (RFC 9568 §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of `address`.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Bytes of an address: 4 or 16.
    #[must_use]
    pub const fn octets(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }

    /// The group that adverts go to.
    #[must_use]
    pub const fn multicast(self) -> IpAddr {
        match self {
            Self::Ipv4 => IpAddr::V4(MULTICAST_V4),
            Self::Ipv6 => IpAddr::V6(MULTICAST_V6),
        }
    }

    /// The virtual router's MAC address: `00:00:5e:00:01:VRID` or `00:00:5e:00:02:VRID` (RFC 9568 §7.3).
    #[must_use]
    pub const fn virtual_mac(self, vrid: u8) -> [u8; 6] {
        match self {
            Self::Ipv4 => [0, 0, 0x5e, 0, 1, vrid],
            Self::Ipv6 => [0, 0, 0x5e, 0, 2, vrid],
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// What the IP header says of an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Meta {
    /// Who sent it.
    pub source: IpAddr,
    /// Where it was sent: a group or, for unicast, an own address.
    pub destination: IpAddr,
    /// Its time to live or hop limit as it came.
    pub ttl: u8,
}

impl Meta {
    /// An advert from `source` to `destination` that came with `ttl`.
    #[must_use]
    pub const fn new(source: IpAddr, destination: IpAddr, ttl: u8) -> Self {
        Self { source, destination, ttl }
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        match text {
            "2" | "v2" => Ok(Self::V2),
            "3" | "v3" => Ok(Self::V3),
            _ => Err(ParseVersionError),
        }
    }
}

/// A text that names no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a VRRP version: write 2 or 3")]
pub struct ParseVersionError;

#[cfg(test)]
mod tests;
