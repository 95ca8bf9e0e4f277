use core::time::Duration;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(addresses: &[&str]) -> Vec<u8> {
    addresses
        .iter()
        .flat_map(|address| match ip(address) {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        })
        .collect()
}

/// Source, version, VRID, priority, centiseconds, addresses, and the checksums with and without the pseudo-header.
type Golden = (&'static str, u8, u8, u8, u16, &'static [&'static str], Option<u16>, Option<u16>);

/// Checked values, some from other implementations' captures.
const GOLDEN: &[Golden] = &[
    ("20.0.0.3", 3, 2, 254, 1, &["20.0.1.2", "20.0.1.3"], Some(0xb25e), Some(0xa6f4)),
    ("2001:db8::1", 3, 2, 254, 1, &["2001:db8::2", "2001:db8::3"], Some(0x481b), None),
    ("10.9.0.2", 3, 51, 100, 100, &["10.9.0.100"], Some(0x7560), Some(0x5ffa)),
    ("10.9.0.2", 3, 51, 0, 100, &["10.9.0.100"], Some(0xd960), Some(0xc3fa)),
    ("10.9.0.2", 2, 1, 30, 100, &["10.0.1.5"], None, Some(0xb5f7)),
];

#[test]
fn golden_adverts_are_written_and_read_to_the_bit() {
    for &(source, version, vrid, priority, centiseconds, addresses, with, without) in GOLDEN {
        let source = ip(source);
        let destination = Family::of(source).multicast();
        let octets = octets(addresses);
        for (coverage, sum) in [(Coverage::PseudoHeader, with), (Coverage::Message, without)] {
            let Some(sum) = sum else { continue };
            let advert = Advert {
                version: Version::try_from(version).unwrap(),
                vrid,
                priority,
                interval: Interval::from_centiseconds(centiseconds).unwrap(),
                addresses: Addresses::new(Family::of(source), &octets),
                auth: AuthField::None,
                coverage,
                trailer: &[],
            };
            let mut buffer = [0; MAX_MESSAGE];
            let message = advert.encode(source, destination, &mut buffer).unwrap();
            assert_eq!(u16::from_be_bytes([message[6], message[7]]), sum, "{advert:?}");
            let meta = Meta::new(source, destination, TTL);
            assert_eq!(Advert::decode(&meta, message, ChecksumMode::Either), Ok(advert));
        }
    }
}

/// CARP (OpenBSD's, FreeBSD's) has the same protocol, group and MAC addresses, and begins with 0x21: version 2, type 1; its
/// fourth byte, the length of its authentication in words, is 7. 36 bytes.
#[test]
fn carp_is_refused_by_its_length() {
    let mut carp = [0; 36];
    carp[..6].copy_from_slice(&[0x21, 1, 0, 7, 0, 1]);
    let sum = checksum::checksum(&carp, ip("10.0.0.1"), MULTICAST_V4.into(), Coverage::Message);
    carp[6..8].copy_from_slice(&sum.to_be_bytes());
    let meta = Meta::new(ip("10.0.0.1"), MULTICAST_V4.into(), TTL);
    assert_eq!(Advert::decode(&meta, &carp, ChecksumMode::Either), Err(Discard::Length));
}

fn any_address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::Ipv4 => any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed(),
        Family::Ipv6 => any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed(),
    }
}

/// Version, family, source, destination, and what an advert carries.
fn any_sent() -> impl Strategy<Value = (Meta, Vec<u8>, Advert<'static>)> {
    prop_oneof![
        Just((Version::V2, Family::Ipv4)),
        Just((Version::V3, Family::Ipv4)),
        Just((Version::V3, Family::Ipv6))
    ]
    .prop_flat_map(|(version, family)| {
        let interval = match version {
            Version::V2 => (1..=255_u16).prop_map(|seconds| seconds * 100).boxed(),
            Version::V3 => (1..=4095_u16).boxed(),
        };
        let auth = match version {
            Version::V3 => Just(AuthField::None).boxed(),
            Version::V2 => prop_oneof![
                Just(AuthField::None),
                any::<[u8; 8]>().prop_map(AuthField::SimpleText),
                (2..=255_u8, any::<[u8; 8]>()).prop_map(|(kind, data)| AuthField::Other(kind, data)),
            ]
            .boxed(),
        };
        let coverage = match (version, family) {
            (Version::V2, _) => Just(Coverage::Message).boxed(),
            (_, Family::Ipv6) => Just(Coverage::PseudoHeader).boxed(),
            _ => prop_oneof![Just(Coverage::Message), Just(Coverage::PseudoHeader)].boxed(),
        };
        (
            (any_address(family), any_address(family)),
            (any::<u8>(), any::<u8>(), interval, auth, coverage),
            prop::collection::vec(any::<u8>(), family.octets()..=255 * family.octets()),
        )
            .prop_map(
                move |((source, destination), (vrid, priority, interval, auth, coverage), octets)| {
                    let advert = Advert {
                        version,
                        vrid,
                        priority,
                        interval: Interval::from_centiseconds(interval).unwrap(),
                        addresses: Addresses::new(family, &[]),
                        auth,
                        coverage,
                        trailer: &[],
                    };
                    (Meta::new(source, destination, TTL), octets, advert)
                },
            )
    })
}

/// The mode that accepts `coverage` only.
fn strict(coverage: Coverage) -> ChecksumMode {
    match coverage {
        Coverage::Message => ChecksumMode::MessageOnly,
        Coverage::PseudoHeader => ChecksumMode::PseudoHeader,
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded((meta, octets, shape) in any_sent(), padding in 0..50_usize) {
        let advert = Advert { addresses: Addresses::new(Family::of(meta.source), &octets), ..shape };
        let mut buffer = [0; MAX_MESSAGE];
        let mut bytes = advert.encode(meta.source, meta.destination, &mut buffer).unwrap().to_vec();
        let mode = strict(advert.coverage);
        prop_assert_eq!(Advert::decode(&meta, &bytes, mode), Ok(advert));
        let padding = vec![0; padding];
        bytes.extend(&padding);
        prop_assert_eq!(Advert::decode(&meta, &bytes, mode), Ok(Advert { trailer: &padding, ..advert }));
    }

    #[test]
    fn a_flipped_bit_is_refused((meta, octets, shape) in any_sent(), at in any::<prop::sample::Index>()) {
        let advert = Advert { addresses: Addresses::new(Family::of(meta.source), &octets), ..shape };
        let mut buffer = [0; MAX_MESSAGE];
        let message = advert.encode(meta.source, meta.destination, &mut buffer).unwrap();
        let bit = at.index(message.len() * 8);
        message[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Advert::decode(&meta, message, strict(advert.coverage)).is_err());
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), six in any::<bool>()) {
        let meta = if six {
            Meta::new(ip("fe80::1"), MULTICAST_V6.into(), TTL)
        } else {
            Meta::new(ip("10.0.0.1"), MULTICAST_V4.into(), TTL)
        };
        // One in 65 535 has a right checksum by chance; then it is an advert, and is written as it was read.
        if let Ok(advert) = Advert::decode(&meta, &bytes, ChecksumMode::MessageOnly) {
            let mut buffer = [0; MAX_MESSAGE];
            let message = advert.encode(meta.source, meta.destination, &mut buffer).unwrap();
            prop_assert_eq!(message.len() + advert.trailer.len(), bytes.len());
        }
    }
}

#[test]
fn checks_are_made_in_the_rfcs_order() {
    let (source, destination) = (ip("10.9.0.2"), IpAddr::V4(MULTICAST_V4));
    let meta = Meta::new(source, destination, TTL);
    let good = [0x31, 51, 100, 1, 0, 100, 0x75, 0x60, 10, 9, 0, 100];
    let with = |change: &[(usize, u8)], fix: bool| {
        let mut bytes = good;
        for &(at, value) in change {
            bytes[at] = value;
        }
        if fix {
            let sum = checksum::checksum(&bytes, source, destination, Coverage::PseudoHeader);
            bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        Advert::decode(&meta, &bytes, ChecksumMode::Either).map(|advert| advert.vrid)
    };
    type Row = (&'static [(usize, u8)], bool, Result<u8, Discard>);
    let table: &[Row] = &[
        (&[], false, Ok(51)),
        (&[(4, 0xf0)], true, Ok(51)), // reserved bits
        (&[(0, 0x41)], true, Err(Discard::Version)),
        (&[(0, 0x11)], true, Err(Discard::Version)),
        (&[(0, 0x32)], true, Err(Discard::Type)),
        (&[(0, 0x30)], true, Err(Discard::Type)),
        (&[(3, 2)], true, Err(Discard::Length)),
        (&[(6, 0)], false, Err(Discard::Checksum)),
        (&[(5, 0)], true, Err(Discard::Interval)),
        (&[(0, 0x42), (6, 0)], false, Err(Discard::Version)), // before type and checksum
        (&[(0, 0x32), (6, 0)], false, Err(Discard::Type)),    // before the checksum
        (&[(5, 0), (6, 0)], false, Err(Discard::Checksum)),   // before the interval
    ];
    for (change, fix, expected) in table {
        assert_eq!(with(change, *fix), *expected, "{change:?}");
    }
    for length in 0..good.len() {
        assert_eq!(Advert::decode(&meta, &good[..length], ChecksumMode::Either), Err(Discard::Length));
    }
    let mut none = [0x31, 51, 100, 0, 0, 100, 0, 0];
    let sum = checksum::checksum(&none, source, destination, Coverage::PseudoHeader);
    none[6..8].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(Advert::decode(&meta, &none, ChecksumMode::Either), Err(Discard::NoAddresses));
    assert_eq!(Advert::decode(&meta, &good, ChecksumMode::MessageOnly), Err(Discard::ChecksumMode));
    let six = Meta::new(ip("fe80::1"), MULTICAST_V6.into(), TTL);
    assert_eq!(Advert::decode(&six, &[0x21; 40], ChecksumMode::Either), Err(Discard::Version));
}

/// One bit of these adverts is wrong, and the checksum is right all the same, because the bytes at the end that no longer
/// count make up for it.
#[test]
fn a_message_that_ends_too_early_is_refused() {
    let meta = Meta::new(ip("10.9.0.2"), MULTICAST_V4.into(), TTL);
    let advert = |version, octets, auth| Advert {
        version,
        vrid: 51,
        priority: 100,
        interval: Interval::DEFAULT,
        addresses: Addresses::new(Family::Ipv4, octets),
        auth,
        coverage: Coverage::Message,
        trailer: &[],
    };
    let last = [10, 9, 0, 1, 10, 9, 0, 2, 10, 9, 0xf5, 0xf5];
    let pass = AuthField::SimpleText([0x10, 0, 0, 0, 0, 0, 0, 0]);
    for (advert, byte, flipped) in [
        (advert(Version::V3, &last, AuthField::None), 3, 2),
        (advert(Version::V2, &last[..4], pass), 0, 0x31),
    ] {
        let mut buffer = [0; MAX_MESSAGE];
        let message = advert.encode(meta.source, meta.destination, &mut buffer).unwrap();
        assert_eq!(Advert::decode(&meta, message, ChecksumMode::MessageOnly), Ok(advert));
        message[byte] = flipped;
        assert_eq!(Advert::decode(&meta, message, ChecksumMode::MessageOnly), Err(Discard::Trailer));
    }
}

#[test]
fn intervals_are_taken_whole_or_not_at_all() {
    let table: &[(Duration, Option<u16>)] = &[
        (Duration::ZERO, None),
        (Duration::from_millis(1), None),
        (Duration::from_millis(10), Some(1)),
        (Duration::from_millis(15), None),
        (Duration::from_secs(1), Some(100)),
        (Duration::from_millis(40_950), Some(4095)),
        (Duration::from_secs(255), Some(25_500)),
        (Duration::from_millis(255_010), None),
        (Duration::MAX, None),
    ];
    for &(duration, expected) in table {
        assert_eq!(Interval::try_from(duration).ok().map(Interval::centiseconds), expected, "{duration:?}");
    }
    assert!(!Interval::from_centiseconds(150).unwrap().fits(Version::V2));
    assert!(Interval::from_centiseconds(150).unwrap().fits(Version::V3));
    assert!(!Interval::from_centiseconds(4_100).unwrap().fits(Version::V3));
}
