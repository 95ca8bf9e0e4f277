//! Whatever comes as an advert: it decodes without a panic, and what decodes is written as it was read. What is written
//! is read back, and is refused with any one bit of it flipped.
#![no_main]

use std::net::IpAddr;

use lb_vrrp::wire::auth::Signature;
use lb_vrrp::wire::{
    Addresses, Advert, AuthField, ChecksumMode, Coverage, Family, Interval, MAX_MESSAGE, Meta, TTL, Version,
    checksum,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Beyond so many bytes only one bit is flipped, not each.
const FLIP_ALL: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    source: IpAddr,
    destination: IpAddr,
    mode: u8,
    sent: Option<Sent>,
    bytes: &'a [u8],
}

/// What an advert is made of; `bytes` are its addresses then.
#[derive(Arbitrary, Debug)]
struct Sent {
    version_2: bool,
    vrid: u8,
    priority: u8,
    interval: u16,
    auth: Option<(u8, [u8; 8])>,
    with_pseudo_header: bool,
    flip: u16,
}

fuzz_target!(|input: Input<'_>| {
    let family = Family::of(input.source);
    let destination =
        if Family::of(input.destination) == family { input.destination } else { family.multicast() };
    let meta = Meta::new(input.source, destination, TTL);
    match input.sent {
        None => {
            read(&meta, input.bytes, input.mode);
            // The same with a right checksum, which is hard to come by.
            let mut bytes = input.bytes.to_vec();
            for coverage in [Coverage::Message, Coverage::PseudoHeader] {
                let sum = checksum::checksum(&bytes, meta.source, meta.destination, coverage);
                if let Some(field) = bytes.get_mut(6..8) {
                    field.copy_from_slice(&sum.to_be_bytes());
                }
                read(&meta, &bytes, input.mode);
            }
        }
        Some(sent) => write(&meta, input.bytes, &sent),
    }
});

fn read(meta: &Meta, bytes: &[u8], mode: u8) {
    let mode =
        [ChecksumMode::Either, ChecksumMode::PseudoHeader, ChecksumMode::MessageOnly][usize::from(mode % 3)];
    let Ok(advert) = Advert::decode(meta, bytes, mode) else { return };
    let length = advert.message_len();
    assert_eq!(advert.trailer, &bytes[length..]);
    // The checksum of a signed IPv6 advert covers its signature.
    if Signature::of(advert.trailer).is_some() && Family::of(meta.source) == Family::Ipv6 {
        return;
    }
    let mut buffer = [0; MAX_MESSAGE];
    let message = advert.encode(meta.source, meta.destination, &mut buffer).expect("it fits");
    assert_eq!(Advert::decode(meta, message, strict(advert.coverage)), Ok(Advert { trailer: &[], ..advert }));
    // What receivers ignore is sent as zero: the four reserved bits, and the data of authentication type 0.
    let mut canonical = bytes[..length].to_vec();
    match (advert.version, advert.auth) {
        (Version::V3, _) => canonical[4] &= 0x0f,
        (Version::V2, AuthField::None) => canonical[length - 8..].fill(0),
        (Version::V2, _) => {}
    }
    // One's complement has two zeros; encoders write the positive one, and decoders take both.
    if canonical == bytes[..length] && canonical[6..8] != [0xff, 0xff] {
        assert_eq!(message, canonical);
    } else {
        assert_eq!((&message[..6], &message[8..]), (&canonical[..6], &canonical[8..]));
    }
}

fn write(meta: &Meta, bytes: &[u8], sent: &Sent) {
    let family = Family::of(meta.source);
    let version = if sent.version_2 && family == Family::Ipv4 { Version::V2 } else { Version::V3 };
    let addresses = Addresses::new(family, bytes);
    if addresses.is_empty() {
        return;
    }
    let advert = Advert {
        version,
        vrid: sent.vrid,
        priority: sent.priority,
        interval: match version {
            Version::V2 => Interval::from_seconds((sent.interval as u8).max(1)),
            Version::V3 => Interval::from_centiseconds(sent.interval % 4095 + 1),
        }
        .expect("in bounds"),
        addresses,
        auth: match (version, sent.auth) {
            (Version::V3, _) | (_, None | Some((0, _))) => AuthField::None,
            (Version::V2, Some((1, data))) => AuthField::SimpleText(data),
            (Version::V2, Some((kind, data))) => AuthField::Other(kind, data),
        },
        coverage: match (version, family) {
            (Version::V2, _) => Coverage::Message,
            (Version::V3, Family::Ipv4) if !sent.with_pseudo_header => Coverage::Message,
            (Version::V3, _) => Coverage::PseudoHeader,
        },
        trailer: &[],
    };
    let mut buffer = [0; MAX_MESSAGE];
    let message = advert.encode(meta.source, meta.destination, &mut buffer).expect("it fits");
    let mode = strict(advert.coverage);
    assert_eq!(Advert::decode(meta, message, mode), Ok(advert));
    let bits = message.len() * 8;
    let flips = if message.len() <= FLIP_ALL {
        0..bits
    } else {
        usize::from(sent.flip) % bits..usize::from(sent.flip) % bits + 1
    };
    for bit in flips {
        message[bit / 8] ^= 1 << (bit % 8);
        let flipped = Advert::decode(meta, message, mode);
        assert!(flipped.is_err(), "bit {bit} of {advert:?} makes {flipped:?}");
        message[bit / 8] ^= 1 << (bit % 8);
    }
}

fn strict(coverage: Coverage) -> ChecksumMode {
    match coverage {
        Coverage::Message => ChecksumMode::MessageOnly,
        Coverage::PseudoHeader => ChecksumMode::PseudoHeader,
    }
}
