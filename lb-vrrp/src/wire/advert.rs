//! One advertisement: read from a packet's payload, or written into a buffer.

use core::fmt;
use core::net::IpAddr;

use super::checksum::{self, Accepted, ChecksumMode, Coverage, Mismatch};
use super::{Discard, Family, Interval, Meta, Version};

pub(super) const HEADER: usize = 8;
const AUTH_DATA: usize = 8;
const TYPE_ADVERTISEMENT: u8 = 1;
/// A signature's length, and its first byte (draft-cassen-vrrp-auth-hmac).
pub(crate) const SIGNATURE: usize = 28;
pub(super) const SIGNATURE_TYPE: u8 = 1;

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
    /// What came after the message: zeros of Ethernet's padding, or a signature. Never sent by [`Advert::encode`].
    pub trailer: &'a [u8],
}

impl<'a> Advert<'a> {
    /// Reads an advert out of `payload`, the IP packet's payload, and checks all that needs no configuration but the
    /// checksum's mode: version, type, length, checksum, what follows the message, count, interval. Allocates nothing.
    ///
    /// After the message there may be zeros (Ethernet pads short packets) or a signature of the HMAC extension, and nothing
    /// else: no checksum sees that a message ends too early (one bit of its address count, or of its version, is wrong) when
    /// what it cuts off makes up for it, but what is cut off is then not zero.
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
        // A signature is summed too over IPv6, where the system's sockets sum all that is sent, and not over IPv4.
        let signed = is_signature(trailer);
        let summed = if signed && family == Family::Ipv6 { payload } else { message };
        let coverage =
            checksum::verify(summed, meta.source, meta.destination, accepted).map_err(|mismatch| {
                match mismatch {
                    // Only version 3 over IPv4 has a mode that could be set otherwise.
                    Mismatch::OtherCoverage if version == Version::V3 && family == Family::Ipv4 => {
                        Discard::ChecksumMode
                    }
                    _ => Discard::Checksum,
                }
            })?;
        if !signed && trailer.iter().any(|&byte| byte != 0) {
            return Err(Discard::Trailer);
        }
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
    /// returns it. [`MAX_MESSAGE`](super::MAX_MESSAGE) bytes are always enough. An interval that the version can't say is cut to what it can.
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
            Version::V2 => [kind, (self.interval.centiseconds() / 100) as u8],
            Version::V3 => self.interval.min(Interval::MAX_V3).centiseconds().to_be_bytes(),
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

/// Whether what follows a message has a signature's length and first bytes.
pub(super) fn is_signature(trailer: &[u8]) -> bool {
    trailer.len() == SIGNATURE && matches!(trailer, [SIGNATURE_TYPE, _, 0, 0, ..])
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
