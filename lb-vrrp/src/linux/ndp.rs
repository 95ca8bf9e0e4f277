//! Unsolicited neighbour advertisements: tell every node on the link which MAC an IPv6 address has now (RFC 4861 §4.4,
//! RFC 9568 §8.2.2).

use std::net::Ipv6Addr;

use super::frame;

/// Bytes of a frame.
pub(super) const LENGTH: usize = frame::ETHERNET + frame::IPV6 + MESSAGE;

const MESSAGE: usize = 32;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Router and override are set, solicited is not (RFC 9568 §6.4.2).
const FLAGS: u8 = 0b1010_0000;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// A neighbour advertisement from `address` for itself to all nodes: source and target are `mac`.
pub(super) fn unsolicited(mac: [u8; 6], address: Ipv6Addr) -> [u8; LENGTH] {
    let mut message = [0; MESSAGE];
    message[0] = NEIGHBOR_ADVERTISEMENT;
    message[4] = FLAGS;
    message[8..24].copy_from_slice(&address.octets());
    // The option's length is in units of eight bytes.
    message[24..26].copy_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message[26..32].copy_from_slice(&mac);
    let sum = frame::checksum(&[
        &address.octets(),
        &ALL_NODES.octets(),
        &(MESSAGE as u32).to_be_bytes(),
        &u32::from(ICMPV6).to_be_bytes(),
        &message,
    ]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut out = [0; LENGTH];
    let (header, rest) = out.split_at_mut(frame::ETHERNET);
    header.copy_from_slice(&frame::ethernet(frame::multicast_mac(ALL_NODES.into()), mac, frame::TYPE_IPV6));
    let (header, payload) = rest.split_at_mut(frame::IPV6);
    header.copy_from_slice(&frame::ipv6(address, ALL_NODES, ICMPV6, MESSAGE as u16));
    payload.copy_from_slice(&message);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_is_this_byte_for_byte() {
        let mac = [0, 0, 0x5e, 0, 2, 7];
        let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let out = unsolicited(mac, address);
        assert_eq!(out[..14], [0x33, 0x33, 0, 0, 0, 1, 0, 0, 0x5e, 0, 2, 7, 0x86, 0xdd]);
        assert_eq!((&out[18..22], out[14] >> 4), (&[0, 32, 58, 255][..], 6));
        assert_eq!(out[22..38], address.octets());
        assert_eq!(out[38..54], ALL_NODES.octets());
        assert_eq!((out[54], out[55], out[58]), (136, 0, 0xa0));
        assert_eq!(out[62..78], address.octets());
        assert_eq!(out[78..], [2, 1, 0, 0, 0x5e, 0, 2, 7]);
        // A message with its checksum in place sums to zero.
        let sum = frame::checksum(&[&out[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &out[54..]]);
        assert_eq!(sum, 0);
    }
}
