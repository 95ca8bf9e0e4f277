//! Gratuitous ARP: tells every host on the link which MAC an IPv4 address has now (RFC 5227 §3, RFC 9568 §8.1.2).

use std::net::Ipv4Addr;

/// Bytes of a frame; drivers pad it to Ethernet's minimum.
pub(super) const LENGTH: usize = 42;

/// A broadcast ARP request in which `address` asks for itself: source, sender and target are `mac` (RFC 9568 §6.4.2 with
/// erratum 7949 names the target; hosts do not look at it in a request).
pub(super) fn gratuitous(mac: [u8; 6], address: Ipv4Addr) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[32..38].copy_from_slice(&mac);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gratuitous_request_is_this_byte_for_byte() {
        let frame = gratuitous([0, 0, 0x5e, 0, 1, 51], Ipv4Addr::new(192, 168, 250, 250));
        let expected: [u8; LENGTH] = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x5e, 0, 1, 51, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // request
            0, 0, 0x5e, 0, 1, 51, 192, 168, 250, 250, // sender
            0, 0, 0x5e, 0, 1, 51, 192, 168, 250, 250, // target
        ];
        assert_eq!(frame, expected);
    }
}
