use std::net::{Ipv4Addr, Ipv6Addr};

use lb_vrrp::wire::checksum;
use proptest::prelude::*;

use super::*;

/// 10.9.0.2, VRID 51, priority 100, every second, 10.9.0.100: with the pseudo-header and without.
const WITH: [u8; 12] = [0x31, 51, 100, 1, 0, 100, 0x75, 0x60, 10, 9, 0, 100];
const WITHOUT: [u8; 12] = [0x31, 51, 100, 1, 0, 100, 0x5f, 0xfa, 10, 9, 0, 100];
/// Version 2, VRID 1, priority 30, every second, 10.0.1.5.
const V2: [u8; 20] = [0x21, 1, 30, 1, 0, 1, 0xb5, 0xf7, 10, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0];

fn ipv4(ttl: u8, payload: &[u8]) -> Vec<u8> {
    let header = etherparse::Ipv4Header::new(
        payload.len() as u16,
        ttl,
        etherparse::IpNumber(112),
        [10, 9, 0, 2],
        Ipv4Addr::new(224, 0, 0, 18).octets(),
    )
    .unwrap();
    let mut packet = header.to_bytes().to_vec();
    packet.extend(payload);
    packet
}

fn ipv6(addresses: &[&str]) -> Vec<u8> {
    let (source, destination) =
        ("fe80::2".parse::<Ipv6Addr>().unwrap(), "ff02::12".parse::<Ipv6Addr>().unwrap());
    let mut message = vec![0x31, 9, 200, addresses.len() as u8, 0, 10, 0, 0];
    message.extend(addresses.iter().flat_map(|address| address.parse::<Ipv6Addr>().unwrap().octets()));
    let sum = checksum::checksum(&message, source.into(), destination.into(), Coverage::PseudoHeader);
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    let header = etherparse::Ipv6Header {
        payload_length: message.len() as u16,
        next_header: etherparse::IpNumber(112),
        hop_limit: 255,
        source: source.octets(),
        destination: destination.octets(),
        ..etherparse::Ipv6Header::default()
    };
    [header.to_bytes().to_vec(), message].concat()
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 0, 0, 18, 0, 0, 0x5e, 0, 1, 51];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    // Frames have at least 60 bytes: the rest is padding.
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A pcap file of the older kind, little-endian, of packets with as many bytes as were sent.
fn pcap(link: u32, packets: &[(&[u8], usize)]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    for word in [0, 0, 65_535, link] {
        file.extend(word.to_le_bytes());
    }
    for (packet, sent) in packets {
        for word in [1_700_000_000, 250_000, packet.len() as u32, *sent as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*packet);
    }
    file
}

/// A pcapng file with an interface for each link type; every packet names its interface.
fn pcapng(links: &[u16], packets: &[(u32, &[u8])]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let length = (12 + body.len().next_multiple_of(4)) as u32;
        let mut block = [kind.to_be_bytes(), length.to_be_bytes()].concat();
        block.extend(body);
        block.resize(length as usize - 4, 0);
        block.extend(length.to_be_bytes());
        block
    };
    let mut section = 0x1a2b_3c4d_u32.to_be_bytes().to_vec();
    section.extend([0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut file = block(0x0a0d_0d0a, &section);
    for link in links {
        let mut interface = link.to_be_bytes().to_vec();
        interface.extend([0, 0, 0, 0, 0, 0]);
        // if_tsresol: nanoseconds.
        interface.extend([0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(block(1, &interface));
    }
    for (interface, packet) in packets {
        let ticks = 1_700_000_000_250_000_000_u64;
        let length = packet.len() as u32;
        let words = [*interface, (ticks >> 32) as u32, ticks as u32, length, length];
        let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        body.extend(*packet);
        file.extend(block(6, &body));
    }
    file
}

fn packets(file: &[u8]) -> (Vec<Packet>, Summary) {
    let mut packets = Vec::new();
    let summary = read(file, |packet| packets.push(packet)).unwrap();
    (packets, summary)
}

/// The names of all verdicts, `valid` for a good one.
fn verdicts(file: &[u8]) -> Vec<&'static str> {
    packets(file).0.iter().map(|packet| packet.verdict().map_or_else(Reason::name, |_| "valid")).collect()
}

#[test]
fn every_link_type_is_understood() {
    let ip = ipv4(255, &WITH);
    let cooked = |header: usize, at: usize| {
        let mut packet = vec![0; header];
        packet[at..at + 2].copy_from_slice(&[8, 0]);
        [packet, ip.clone()].concat()
    };
    let vlan = ethernet(0x8100, &[&[0, 129, 8, 0][..], &ip].concat());
    let double = ethernet(0x88a8, &[&[0, 5, 0x81, 0, 0, 129, 8, 0][..], &ip].concat());
    let loopback = [vec![2, 0, 0, 0], ip.clone()].concat();
    for (link, packet) in [
        (1, ethernet(0x0800, &ip)),
        (1, vlan),
        (1, double),
        (101, ip.clone()),
        (228, ip.clone()),
        (0, loopback),
        (113, cooked(16, 14)),
        (276, cooked(20, 0)),
    ] {
        for file in [pcap(link, &[(&packet, packet.len())]), pcapng(&[link as u16], &[(0, &packet)])] {
            assert_eq!(verdicts(&file), ["valid"], "link type {link}");
            let (packets, summary) = packets(&file);
            assert_eq!(summary, Summary { adverts: 1, ..Summary::default() });
            let shown = Shown(&packets[0]).json();
            assert_eq!(shown["time"], "2023-11-14T22:13:20.250000Z");
        }
    }
    let unknown = pcap(147, &[(&ip, ip.len())]);
    assert_eq!(packets(&unknown), (Vec::new(), Summary { unknown: Some((1, 147)), ..Summary::default() }));
}

#[test]
fn each_packet_has_its_verdict() {
    let mut flipped = WITH;
    flipped[2] ^= 1;
    let mut four = WITH;
    four[0] = 0x41;
    let mut carp = [0_u8; 36];
    carp[..8].copy_from_slice(&[0x21, 1, 0, 7, 0, 1, 0xab, 0xcd]);
    let padded = [&WITH[..], &[0; 26]].concat();
    let mut fragment = ipv4(255, &WITH);
    fragment[6] = 0x20;
    let frames: Vec<Vec<u8>> = [
        ipv4(255, &WITH),
        ipv4(255, &WITHOUT),
        ipv4(255, &V2),
        ipv4(255, &padded),
        ipv4(254, &WITH),
        ipv4(255, &flipped),
        ipv4(255, &four),
        ipv4(255, &carp),
        ipv4(255, &WITH[..7]),
        fragment,
    ]
    .iter()
    .map(|ip| ethernet(0x0800, ip))
    .chain([ethernet(0x86dd, &ipv6(&["fe80::9", "2001:db8::9"])), ethernet(0x86dd, &ipv6(&["2001:db8::9"]))])
    .collect();
    let sent: Vec<(&[u8], usize)> = frames.iter().map(|frame| (frame.as_slice(), frame.len())).collect();
    let file = pcap(1, &sent);
    assert_eq!(
        verdicts(&file),
        [
            "valid",
            "valid",
            "valid",
            "valid",
            "ttl",
            "checksum",
            "version",
            "length",
            "length",
            "fragment",
            "valid",
            "link-local",
        ]
    );
    let (all, _) = packets(&file);
    assert_eq!(all[7].verdict(), Err(Reason::Carp));
    let first = Shown(&all[0]).json();
    assert_eq!(
        first,
        serde_json::json!({
            "packet": 1, "time": "2023-11-14T22:13:20.250000Z", "source": "10.9.0.2", "destination": "224.0.0.18",
            "ttl": 255, "version": 3, "vrid": 51, "priority": 100, "interval": 1.0, "addresses": ["10.9.0.100"],
            "auth": null, "checksum": "pseudo-header", "trailer": 0, "valid": true, "reason": null, "detail": null,
        })
    );
    let names = |key: &str| all.iter().map(|packet| Shown(packet).json()[key].clone()).collect::<Vec<_>>();
    assert_eq!(names("checksum")[1..4], ["message", "message", "pseudo-header"]);
    assert_eq!(
        (&names("auth")[2], &names("version")[6], &names("vrid")[8]),
        (&"none".into(), &4.into(), &51.into())
    );
    assert_eq!(names("reason")[4], "ttl");
    assert_eq!(names("interval")[10], 0.1);
    assert_eq!(
        Shown(&all[0]).to_string(),
        "2023-11-14T22:13:20.250000Z 10.9.0.2 > 224.0.0.18 ttl 255 v3 vrid 51 priority 100 every 1 s of 10.9.0.100 \
         checksum over pseudo-header: valid"
    );
    assert!(Shown(&all[4]).to_string().ends_with(": invalid, ttl: TTL or hop limit is not 255"));
}

#[test]
fn a_later_fragment_claims_nothing() {
    let parts = |offset: u16| {
        let mut four = ipv4(255, &WITH);
        // More fragments follow; offsets count in eight bytes.
        four[6..8].copy_from_slice(&(0x2000 | offset).to_be_bytes());
        let mut six = ipv6(&["fe80::9"]);
        let next = std::mem::replace(&mut six[6], 44);
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        six.splice(40..40, [next, 0, high, low, 0, 0, 0, 7]);
        let length = (six.len() - 40) as u16;
        six[4..6].copy_from_slice(&length.to_be_bytes());
        [ethernet(0x0800, &four), ethernet(0x86dd, &six)]
    };
    for (offset, version) in [(0, Some(3)), (1, None), (0x1fff, None)] {
        let parts = parts(offset);
        let sent: Vec<(&[u8], usize)> = parts.iter().map(|frame| (frame.as_slice(), frame.len())).collect();
        let (all, _) = packets(&pcap(1, &sent));
        for packet in &all {
            assert_eq!((packet.verdict(), packet.version()), (Err(Reason::Fragment), version), "{packet:?}");
        }
        assert_eq!(all.len(), 2);
    }
}

#[test]
fn what_is_cut_off_is_not_called_wrong() {
    let frame = ethernet(0x0800, &ipv4(255, &V2));
    for kept in 0..=frame.len() {
        let file = pcap(1, &[(&frame[..kept], frame.len())]);
        let (packets, summary) = packets(&file);
        assert_eq!(summary.adverts + summary.others, 1, "{kept}");
        let verdict = packets.first().map(Packet::verdict);
        match kept {
            ..34 => assert_eq!(verdict, None, "{kept}: no whole IP header"),
            34..54 => assert_eq!(verdict, Some(Err(Reason::Truncated)), "{kept}"),
            _ => assert!(matches!(verdict, Some(Ok(_))), "{kept}"),
        }
    }
}

#[test]
fn files_end_too_early_or_are_none() {
    let frame = ethernet(0x0800, &ipv4(255, &WITH));
    let whole = pcap(1, &[(&frame, frame.len()), (&frame, frame.len())]);
    let (found, summary) = packets(&whole[..whole.len() - 1]);
    assert_eq!((found.len(), summary.cut), (1, true));
    for no_capture in [&b""[..], b"GIF89a", &[0; 100]] {
        assert!(matches!(read(no_capture, drop), Err(CaptureError::Form)));
    }
}

#[test]
fn other_packets_are_passed_over() {
    let mut tcp = ipv4(255, &WITH);
    tcp[9] = 6;
    let arp = ethernet(0x0806, &[0; 28]);
    let frames = [ethernet(0x0800, &tcp), arp, vec![1, 2, 3]];
    let sent: Vec<(&[u8], usize)> = frames.iter().map(|frame| (frame.as_slice(), frame.len())).collect();
    assert_eq!(packets(&pcap(1, &sent)), (Vec::new(), Summary { others: 3, ..Summary::default() }));
}

proptest! {
    /// Bytes of a capture are changed, cut off, or were none: every packet that is found has one verdict.
    #[test]
    fn damaged_captures_are_read_without_panic(
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 0..8),
        keep in 0_usize..500,
        form in 0..3,
    ) {
        let frames = [ethernet(0x0800, &ipv4(255, &V2)), ethernet(0x86dd, &ipv6(&["fe80::9", "2001:db8::9"]))];
        let mut file = match form {
            0 => pcap(1, &[(&frames[0], frames[0].len()), (&frames[1], frames[1].len())]),
            1 => pcapng(&[1, 101], &[(0, &frames[0]), (1, &ipv4(255, &WITH)), (0, &frames[1])]),
            _ => Vec::new(),
        };
        for (at, byte) in changes {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        file.truncate(keep);
        let mut count = 0;
        let read = read(file.as_slice(), |packet| {
            count += 1;
            let (json, line) = (Shown(&packet).json(), Shown(&packet).to_string());
            assert_eq!(json["valid"].as_bool(), Some(packet.verdict().is_ok()));
            assert_eq!(json["reason"].is_null(), packet.verdict().is_ok());
            assert!(!line.contains(char::is_control), "{line:?}");
        });
        if let Ok(summary) = read {
            prop_assert_eq!(summary.adverts, count);
        }
    }
}
