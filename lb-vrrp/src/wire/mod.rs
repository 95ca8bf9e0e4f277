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
//! [`Discard`]. What follows the message (Ethernet's padding, an authentication trailer) is kept apart as
//! [`Advert::trailer`].

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;
use core::time::Duration;

pub mod checksum;
mod discard;

use checksum::{Accepted, Mismatch};
pub use checksum::{ChecksumMode, Coverage};
pub use discard::{Discard, Discards};

/// The IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// Where IPv4 adverts go (RFC 9568 §5.1.1.2).
pub const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where IPv6 adverts go (RFC 9568 §5.1.2.2).
pub const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The TTL or hop limit of every advert that is not routed.
pub const TTL: u8 = 255;
/// The longest message: version 3 with 255 IPv6 addresses.
pub const MAX_MESSAGE: usize = HEADER + 255 * 16;

const HEADER: usize = 8;
const AUTH_DATA: usize = 8;
const TYPE_ADVERTISEMENT: u8 = 1;

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

/// The advertisement interval, in whole centiseconds: 1 to 25500 (version 2 has 1 to 255 whole seconds, version 3
/// 1 to 4095 centiseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u16", into = "u16")
)]
pub struct Interval(u16);

impl Interval {
    /// One second, the default of both RFCs.
    pub const DEFAULT: Self = Self(100);
    /// The longest that version 3 can say: 40.95 s.
    pub const MAX_V3: Self = Self(4095);
    /// The longest that version 2 can say: 255 s.
    pub const MAX_V2: Self = Self(25_500);

    /// `centiseconds` hundredths of a second.
    ///
    /// # Errors
    /// If it is 0 or above 25500.
    pub const fn from_centiseconds(centiseconds: u16) -> Result<Self, IntervalError> {
        if centiseconds == 0 || centiseconds > Self::MAX_V2.0 {
            return Err(IntervalError { centiseconds: centiseconds as u64 });
        }
        Ok(Self(centiseconds))
    }

    /// `seconds` whole seconds.
    ///
    /// # Errors
    /// If it is 0.
    pub const fn from_seconds(seconds: u8) -> Result<Self, IntervalError> {
        Self::from_centiseconds(seconds as u16 * 100)
    }

    /// In hundredths of a second.
    #[must_use]
    pub const fn centiseconds(self) -> u16 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }

    /// Whether `version` can say it: 1 to 255 whole seconds, or 1 to 4095 centiseconds.
    #[must_use]
    pub const fn fits(self, version: Version) -> bool {
        match version {
            Version::V2 => self.0.is_multiple_of(100),
            Version::V3 => self.0 <= Self::MAX_V3.0,
        }
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u16> for Interval {
    type Error = IntervalError;

    fn try_from(centiseconds: u16) -> Result<Self, IntervalError> {
        Self::from_centiseconds(centiseconds)
    }
}

impl From<Interval> for u16 {
    fn from(interval: Interval) -> Self {
        interval.0
    }
}

impl TryFrom<Duration> for Interval {
    type Error = IntervalError;

    /// Takes whole centiseconds only: nothing is rounded.
    fn try_from(duration: Duration) -> Result<Self, IntervalError> {
        let centiseconds = u64::try_from(duration.as_millis() / 10).unwrap_or(u64::MAX);
        match u16::try_from(centiseconds).map(Self::from_centiseconds) {
            Ok(Ok(interval)) if interval.duration() == duration => Ok(interval),
            _ => Err(IntervalError { centiseconds }),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(100) { write!(f, "{} s", self.0 / 100) } else { write!(f, "{} cs", self.0) }
    }
}

/// An advertisement interval that neither version can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an advertisement interval of {centiseconds} cs can't be sent: choose whole centiseconds from 0.01 s to 40.95 s \
     (version 3), or whole seconds from 1 to 255 (version 2)"
)]
pub struct IntervalError {
    /// What was asked for, in whole centiseconds.
    pub centiseconds: u64,
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

/// The authentication type and data of version 2 (RFC 2338 §5.3.6; RFC 3768 keeps the fields). It protects nothing: who
/// can send an advert can read one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuthField {
    /// Type 0.
    #[default]
    None,
    /// Type 1: up to eight bytes in the clear, the rest zero.
    SimpleText([u8; AUTH_DATA]),
    /// Any other type, for instance 2, the IP authentication header of RFC 2338.
    Other(u8, [u8; AUTH_DATA]),
}

impl AuthField {
    const fn parts(self) -> (u8, [u8; AUTH_DATA]) {
        match self {
            Self::None => (0, [0; AUTH_DATA]),
            Self::SimpleText(text) => (1, text),
            Self::Other(kind, data) => (kind, data),
        }
    }
}

/// The addresses of an advert: a view over their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addresses<'a> {
    family: Family,
    octets: &'a [u8],
}

impl<'a> Addresses<'a> {
    /// The addresses whose `octets` stand one after the other, 4 or 16 bytes each.
    ///
    /// Bytes that make no whole address, and what comes after 255 addresses, are left out.
    #[must_use]
    pub fn new(family: Family, octets: &'a [u8]) -> Self {
        let count = (octets.len() / family.octets()).min(255);
        Self { family, octets: &octets[..count * family.octets()] }
    }

    /// How many they are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.octets.len() / self.family.octets()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Their family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Their bytes in network order.
    #[must_use]
    pub const fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// Each address, in the advert's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IpAddr> + 'a {
        self.octets.chunks_exact(self.family.octets()).map(read_address)
    }
}

fn read_address(octets: &[u8]) -> IpAddr {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        IpAddr::from(octets)
    } else {
        let mut address = [0; 16];
        address.copy_from_slice(&octets[..16]);
        IpAddr::from(address)
    }
}

impl fmt::Debug for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// An advertisement, borrowed from the bytes that it was read from or whose addresses it will send.
///
/// ```
/// use lb_vrrp::wire::{Advert, ChecksumMode, Meta};
///
/// let meta = Meta::new("10.9.0.2".parse()?, "224.0.0.18".parse()?, 255);
/// let bytes = [0x31, 51, 100, 1, 0, 100, 0x75, 0x60, 10, 9, 0, 100];
/// let advert = Advert::decode(&meta, &bytes, ChecksumMode::default())?;
/// assert_eq!((advert.vrid, advert.priority, advert.interval.centiseconds()), (51, 100, 100));
/// assert_eq!(advert.addresses.iter().next(), Some("10.9.0.100".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert<'a> {
    /// 2 or 3.
    pub version: Version,
    /// The virtual router, 1 to 255; 0 is decoded, and no router has it.
    pub vrid: u8,
    /// 1 to 254, 255 of the addresses' owner, 0 of an active router that leaves.
    pub priority: u8,
    /// How often the active router advertises.
    pub interval: Interval,
    /// The virtual addresses.
    pub addresses: Addresses<'a>,
    /// Version 2's authentication; [`AuthField::None`] in version 3.
    pub auth: AuthField,
    /// What the checksum covers.
    pub coverage: Coverage,
    /// What came after the message: Ethernet's padding, or an authentication trailer. Never sent by [`Advert::encode`].
    pub trailer: &'a [u8],
}

impl<'a> Advert<'a> {
    /// Reads an advert out of `payload`, the IP packet's payload, and checks all that needs no configuration but the
    /// checksum's mode: version, type, length, checksum, count, interval. Allocates nothing.
    ///
    /// The TTL is not looked at: unicast peers may be hops away.
    ///
    /// # Errors
    /// The first check that fails, in the order of RFC 9568 §7.1.
    pub fn decode(meta: &Meta, payload: &'a [u8], mode: ChecksumMode) -> Result<Self, Discard> {
        let &[first, vrid, priority, count, fourth, fifth, _, _, ..] = payload else {
            return match payload.first() {
                Some(first) if first >> 4 != 2 && first >> 4 != 3 => Err(Discard::Version),
                _ => Err(Discard::Length),
            };
        };
        let family = Family::of(meta.source);
        let version = match (first >> 4, family) {
            (2, Family::Ipv4) => Version::V2,
            (3, _) => Version::V3,
            _ => return Err(Discard::Version),
        };
        if first & 0x0f != TYPE_ADVERTISEMENT {
            return Err(Discard::Type);
        }
        let addresses_end = HEADER + usize::from(count) * family.octets();
        let end = match version {
            Version::V2 => addresses_end + AUTH_DATA,
            Version::V3 => addresses_end,
        };
        let Some((message, trailer)) = payload.split_at_checked(end) else {
            return Err(Discard::Length);
        };
        let accepted = match (version, family, mode) {
            (Version::V2, ..) => Accepted::Only(Coverage::Message),
            (Version::V3, Family::Ipv6, _) => Accepted::Only(Coverage::PseudoHeader),
            (Version::V3, Family::Ipv4, ChecksumMode::Either) => Accepted::Either,
            (Version::V3, Family::Ipv4, ChecksumMode::PseudoHeader) => Accepted::Only(Coverage::PseudoHeader),
            (Version::V3, Family::Ipv4, ChecksumMode::MessageOnly) => Accepted::Only(Coverage::Message),
        };
        let coverage =
            checksum::verify(message, meta.source, meta.destination, accepted).map_err(|mismatch| {
                match mismatch {
                    // Only version 3 over IPv4 has a mode that could be set otherwise.
                    Mismatch::OtherCoverage if version == Version::V3 && family == Family::Ipv4 => {
                        Discard::ChecksumMode
                    }
                    _ => Discard::Checksum,
                }
            })?;
        if count == 0 {
            return Err(Discard::NoAddresses);
        }
        let interval = match version {
            Version::V2 => Interval::from_seconds(fifth),
            // The four reserved bits are ignored on receipt (RFC 9568 §5.2.6).
            Version::V3 => Interval::from_centiseconds(u16::from_be_bytes([fourth & 0x0f, fifth])),
        }
        .map_err(|_| Discard::Interval)?;
        let auth = match version {
            Version::V3 => AuthField::None,
            Version::V2 => {
                let mut data = [0; AUTH_DATA];
                data.copy_from_slice(&message[addresses_end..]);
                match fourth {
                    // RFC 3768 §5.3.10: the data is ignored with type 0.
                    0 => AuthField::None,
                    1 => AuthField::SimpleText(data),
                    kind => AuthField::Other(kind, data),
                }
            }
        };
        let addresses = Addresses { family, octets: &message[HEADER..addresses_end] };
        Ok(Self { version, vrid, priority, interval, addresses, auth, coverage, trailer })
    }

    /// The length of the message in bytes.
    #[must_use]
    pub const fn message_len(&self) -> usize {
        HEADER
            + self.addresses.octets.len()
            + match self.version {
                Version::V2 => AUTH_DATA,
                Version::V3 => 0,
            }
    }

    /// Writes the message, with its checksum for a packet from `source` to `destination`, to the front of `buffer` and
    /// returns it. [`MAX_MESSAGE`] bytes are always enough. An interval that the version can't say is cut to what it can.
    ///
    /// # Errors
    /// If the buffer is too short; it says how much it takes.
    pub fn encode<'b>(
        &self,
        source: IpAddr,
        destination: IpAddr,
        buffer: &'b mut [u8],
    ) -> Result<&'b mut [u8], BufferTooShort> {
        let (needed, available) = (self.message_len(), buffer.len());
        let message = buffer.get_mut(..needed).ok_or(BufferTooShort { needed, available })?;
        let (kind, data) = self.auth.parts();
        let interval = match self.version {
            Version::V2 => [kind, (self.interval.0 / 100) as u8],
            Version::V3 => self.interval.min(Interval::MAX_V3).0.to_be_bytes(),
        };
        let first = self.version.number() << 4 | TYPE_ADVERTISEMENT;
        let count = self.addresses.len() as u8;
        message[..HEADER].copy_from_slice(&[
            first,
            self.vrid,
            self.priority,
            count,
            interval[0],
            interval[1],
            0,
            0,
        ]);
        let addresses_end = HEADER + self.addresses.octets.len();
        message[HEADER..addresses_end].copy_from_slice(self.addresses.octets);
        if self.version == Version::V2 {
            message[addresses_end..].copy_from_slice(&data);
        }
        let sum = checksum::checksum(message, source, destination, self.coverage);
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        Ok(message)
    }
}

/// A buffer that an advert does not fit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an advert of {needed} bytes does not fit in a buffer of {available}: give it MAX_MESSAGE bytes")]
pub struct BufferTooShort {
    /// Bytes that the advert takes.
    pub needed: usize,
    /// Bytes that there were.
    pub available: usize,
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
