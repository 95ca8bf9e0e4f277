//! Ethernet frames and IP headers, for what must leave with another MAC than the interface's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{PROTOCOL, TTL};

pub(super) const ETHERNET: usize = 14;
pub(super) const IPV4: usize = 20;
pub(super) const IPV6: usize = 40;
pub(super) const TYPE_IPV4: u16 = 0x0800;
pub(super) const TYPE_IPV6: u16 = 0x86dd;
/// Class selector 6, internetwork control, as routing protocols have it (RFC 4594 §3.2).
pub(super) const TRAFFIC_CLASS: u8 = 0xc0;

/// An advert in a frame from `mac` to its multicast group; empties `out` first. Whether both addresses are of one family.
pub(super) fn advert(
    mac: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    message: &[u8],
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    let length = message.len() as u16;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            out.extend(ethernet(multicast_mac(destination), mac, TYPE_IPV4));
            out.extend(ipv4(source, to, length));
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            out.extend(ethernet(multicast_mac(destination), mac, TYPE_IPV6));
            out.extend(ipv6(source, to, PROTOCOL, length));
        }
        _ => return false,
    }
    out.extend(message);
    true
}

/// The MAC of a multicast group (RFC 1112 §6.4, RFC 2464 §7).
pub(super) const fn multicast_mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

pub(super) fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16) -> [u8; ETHERNET] {
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&kind.to_be_bytes());
    header
}

/// An IPv4 header for a VRRP message of `length` bytes.
fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> [u8; IPV4] {
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[1] = TRAFFIC_CLASS;
    header[2..4].copy_from_slice(&(IPV4 as u16 + length).to_be_bytes());
    // Don't fragment: then the identification has no meaning and may be zero (RFC 6864 §4.1).
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = PROTOCOL;
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// An IPv6 header with hop limit 255.
pub(super) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, length: u16) -> [u8; IPV6] {
    let mut header = [0; IPV6];
    header[0] = 0x60 | TRAFFIC_CLASS >> 4;
    header[1] = TRAFFIC_CLASS << 4;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = next;
    header[7] = TTL;
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&destination.octets());
    header
}

/// The Internet checksum (RFC 1071) of parts of even length, one after the other.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 =
        words.map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_are_framed_for_both_families() {
        let mac = [0, 0, 0x5e, 0, 1, 51];
        let mut out = Vec::new();
        let message = [0x31, 51, 100, 1, 0, 100, 0x75, 0x60, 10, 9, 0, 100];
        let (source, group) = (Ipv4Addr::new(10, 9, 0, 2).into(), Ipv4Addr::new(224, 0, 0, 18).into());
        assert!(advert(mac, source, group, &message, &mut out));
        assert_eq!(out[..14], [1, 0, 0x5e, 0, 0, 18, 0, 0, 0x5e, 0, 1, 51, 8, 0]);
        assert_eq!(out[14..24], [0x45, 0xc0, 0, 32, 0, 0, 0x40, 0, 255, 112]);
        assert_eq!(checksum(&[&out[14..34]]), 0, "a header with its checksum in place sums to zero");
        assert_eq!(out[34..], message);

        let (source, group6) = ("fe80::1".parse().unwrap(), "ff02::12".parse().unwrap());
        assert!(advert(mac, source, group6, &message, &mut out));
        assert_eq!(out[..6], [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(out[14..22], [0x6c, 0, 0, 0, 0, 12, 112, 255]);
        assert_eq!(out.len(), ETHERNET + IPV6 + message.len());

        assert!(!advert(mac, source, group, &message, &mut out), "no header has two families");
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 1071 §3: 0001 f203 f4f5 f6f7 sums to ddf2 before the complement.
        assert_eq!(checksum(&[&[0, 1, 0xf2, 3], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }
}
