//! The Internet checksum (RFC 1071) of an advertisement, with or without a pseudo-header.
//!
//! Version 2 sums the message alone (RFC 3768 §5.3.8), version 3 over IPv6 always the pseudo-header too (RFC 8200 §8.1).
//! For version 3 over IPv4, RFC 5798 §5.2.8 was read as asking for a pseudo-header, RFC 9568 §5.2.8 says that there is
//! none. keepalived 2.2 and FRR 8.4 send it and refuse adverts without it, hence [`ChecksumMode`].

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::PROTOCOL;

/// How version 3 over IPv4 is summed, and what is accepted.
///
/// With [`ChecksumMode::Either`] one of 65 535 garbled messages in the one form passes as a good one in the other, beside
/// the one that any such checksum lets pass. When all routers are known to agree, name the form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum ChecksumMode {
    /// Send with the pseudo-header, as keepalived and FRR do; accept both forms.
    #[default]
    Either,
    /// Send and accept with the pseudo-header only (RFC 5798 as most have read it).
    PseudoHeader,
    /// Send and accept over the message only (RFC 9568).
    MessageOnly,
}

/// What a checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Pseudo-header and message.
    PseudoHeader,
    /// The message alone.
    Message,
}

/// The one's complement sum of `bytes`, padded with zeros to a multiple of four, in this machine's byte order and not yet
/// folded.
///
/// One's complement sums care neither for the width of the pieces (RFC 1071 §2(C)) nor, until the end, for the order of
/// their bytes (§2(B)): pieces of 32 bits in 64-bit sums need no carry, and as they are in memory they fill whole vectors.
fn add(bytes: &[u8]) -> u64 {
    const LANES: usize = 8;
    let piece = |bytes: [u8; 4]| u64::from(u32::from_ne_bytes(bytes));
    let (pieces, rest) = bytes.as_chunks::<4>();
    let (blocks, pieces) = pieces.as_chunks::<LANES>();
    let mut sums = [0; LANES];
    for block in blocks {
        for (sum, &bytes) in sums.iter_mut().zip(block) {
            *sum += piece(bytes);
        }
    }
    let mut last = [0; 4];
    for (last, &byte) in last.iter_mut().zip(rest) {
        *last = byte;
    }
    sums.iter().sum::<u64>() + pieces.iter().copied().map(piece).sum::<u64>() + piece(last)
}

/// The sum in 16 bits, in network byte order.
fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    (sum as u16).to_be()
}

/// The sum of the pseudo-header: source, destination, upper-layer length, protocol 112.
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u64 {
    let address = |address| match address {
        IpAddr::V4(address) => add(&Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => add(&Ipv6Addr::octets(&address)),
    };
    // Both are below 2³² and stand in its low half in network byte order.
    let rest = length as u32 + u32::from(PROTOCOL);
    address(source) + address(destination) + u64::from(rest.to_be())
}

/// The checksum that belongs into `message`, whose checksum field counts as zero whatever it holds.
///
/// `message` is at least eight bytes long; shorter ones give the sum of what is there.
#[must_use]
pub fn checksum(message: &[u8], source: IpAddr, destination: IpAddr, coverage: Coverage) -> u16 {
    let mut sum = add(message);
    if let [_, _, _, _, _, _, high, low, ..] = *message {
        sum -= u64::from(u32::from_ne_bytes([0, 0, high, low]));
    }
    if coverage == Coverage::PseudoHeader {
        sum += pseudo_header(source, destination, message.len());
    }
    !fold(sum)
}

/// What the checksum in `message` covers, if it is right in a way that `accepted` allows; whether it would have been right
/// in the other way, if not.
pub(super) fn verify(
    message: &[u8],
    source: IpAddr,
    destination: IpAddr,
    accepted: Accepted,
) -> Result<Coverage, Mismatch> {
    let message_sum = add(message);
    // A right checksum brings the sum to minus zero; plus zero would need a message of zeros, which has no version.
    let right = |coverage| match coverage {
        Coverage::Message => fold(message_sum) == 0xffff,
        Coverage::PseudoHeader => {
            fold(message_sum + pseudo_header(source, destination, message.len())) == 0xffff
        }
    };
    let (first, second) = match accepted {
        Accepted::Only(Coverage::Message) => (Coverage::Message, Coverage::PseudoHeader),
        Accepted::Only(Coverage::PseudoHeader) | Accepted::Either => {
            (Coverage::PseudoHeader, Coverage::Message)
        }
    };
    if right(first) {
        Ok(first)
    } else if right(second) {
        if accepted == Accepted::Either { Ok(second) } else { Err(Mismatch::OtherCoverage) }
    } else {
        Err(Mismatch::Wrong)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Only(Coverage),
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    OtherCoverage,
    Wrong,
}
