//! The signature of the HMAC extension (draft-cassen-vrrp-auth-hmac), which keepalived 2.4 calls `auth_hmac`.
//!
//! It is appended to an advert of either version and family:
//!
//! | bytes | |
//! |---|---|
//! | 0 | type: 1, HMAC-SHA256 cut to 128 bits |
//! | 1 | key id, 1–255 |
//! | 2–3 | zero |
//! | 4–11 | sequence: seconds since 1970 (32 bits), and their fraction (32 bits) |
//! | 12–27 | tag |
//!
//! The tag is made over these, one after the other:
//!
//! | bytes | |
//! |---|---|
//! | 1 | IP version, 4 or 6 |
//! | 1 | VRRP version |
//! | 1 | VRID |
//! | 1 | zero |
//! | 16 | source address; after an IPv4 address, 12 zeros |
//! | n | the message, its checksum as zero |
//! | 28 | the signature, its tag as zero |
//!
//! The destination and the rest of the IP header are left out. The checksum of an IPv4 advert is that of the message alone,
//! as if it were not signed; that of an IPv6 advert covers the signature too, because the system's sockets sum what they
//! send. The draft's text was not at hand: this was found by observing keepalived 2.4.3 (August 2026), whose adverts are
//! among the tests, and it verifies ours.

use core::net::IpAddr;
use core::time::Duration;

use hmac::{KeyInit, Mac};

use super::Version;
use super::advert::{SIGNATURE, SIGNATURE_TYPE, is_signature};

/// Where the tag begins.
const TAG: usize = 12;

/// What tells a sender's adverts apart and says when they were made: the wall clock, in units of 2⁻³² s since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// The year 1970.
    pub const ZERO: Self = Self(0);

    /// The sequence of an advert that is made `since_1970`. The seconds count modulo 2³².
    #[must_use]
    pub const fn at(since_1970: Duration) -> Self {
        let fraction = ((since_1970.subsec_nanos() as u64) << 32) / 1_000_000_000;
        Self(since_1970.as_secs() << 32 | fraction)
    }

    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The time that it stands for, since 1970.
    #[must_use]
    pub const fn time(self) -> Duration {
        let nanos = ((self.0 & 0xffff_ffff) * 1_000_000_000) >> 32;
        Duration::new(self.0 >> 32, nanos as u32)
    }

    /// As it is on the wire.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// What a signature says of itself, unverified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// Which of the receiver's keys it was made with.
    pub key_id: u8,
    /// When it was made.
    pub sequence: Sequence,
}

impl Signature {
    /// The signature in what follows a message ([`Advert::trailer`](super::Advert::trailer)), if that is one.
    #[must_use]
    pub fn of(trailer: &[u8]) -> Option<Self> {
        match *trailer {
            [_, key_id, _, _, a, b, c, d, e, f, g, h, ..] if is_signature(trailer) => {
                Some(Self { key_id, sequence: Sequence(u64::from_be_bytes([a, b, c, d, e, f, g, h])) })
            }
            _ => None,
        }
    }
}

/// A key in the state that every tag begins with.
#[derive(Clone)]
pub(crate) struct SigningKey(hmac::Hmac<sha2::Sha256>);

impl SigningKey {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    /// The tag, not yet finished, of `signed`: a message and, in its last 28 bytes, its signature.
    fn tag(&self, version: Version, source: IpAddr, signed: &[u8]) -> Option<hmac::Hmac<sha2::Sha256>> {
        let (message, signature) = signed.split_last_chunk::<SIGNATURE>()?;
        let &[first, vrid, priority, count, fourth, fifth, _, _, ref rest @ ..] = message else {
            return None;
        };
        let mut header = [0; 20];
        header[1] = version.number();
        header[2] = vrid;
        match source {
            IpAddr::V4(source) => {
                header[0] = 4;
                header[4..8].copy_from_slice(&source.octets());
            }
            IpAddr::V6(source) => {
                header[0] = 6;
                header[4..].copy_from_slice(&source.octets());
            }
        }
        let mut mac = self.0.clone();
        mac.update(&header);
        mac.update(&[first, vrid, priority, count, fourth, fifth, 0, 0]);
        mac.update(rest);
        mac.update(&signature[..TAG]);
        mac.update(&[0; SIGNATURE - TAG]);
        Some(mac)
    }

    /// Writes the signature into the last 28 bytes of `signed`, whose other bytes are the message.
    pub(crate) fn sign(
        &self,
        version: Version,
        source: IpAddr,
        key_id: u8,
        sequence: Sequence,
        signed: &mut [u8],
    ) {
        let Some(signature) = signed.last_chunk_mut::<SIGNATURE>() else { return };
        signature[..4].copy_from_slice(&[SIGNATURE_TYPE, key_id, 0, 0]);
        signature[4..TAG].copy_from_slice(&sequence.0.to_be_bytes());
        let Some(mac) = self.tag(version, source, signed) else { return };
        let tag = mac.finalize().into_bytes();
        if let Some(place) = signed.last_chunk_mut::<{ SIGNATURE - TAG }>() {
            place.copy_from_slice(&tag[..SIGNATURE - TAG]);
        }
    }

    /// Whether the tag in the last bytes of `signed` is right. Wrong ones all take the same time.
    pub(crate) fn verify(&self, version: Version, source: IpAddr, signed: &[u8]) -> bool {
        match (self.tag(version, source, signed), signed.last_chunk::<{ SIGNATURE - TAG }>()) {
            (Some(mac), Some(tag)) => mac.verify_truncated_left(tag).is_ok(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Advert, ChecksumMode, Family, Meta, TTL};

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Adverts of keepalived 2.4.3 with two keys, as they were on the wire: source, destination, key id, message, signature.
    const CAPTURED: &[(&str, &str, u8, &str, &str)] = &[
        (
            "10.9.0.2",
            "224.0.0.18",
            1,
            "2133960100013e5d0a0900640000000000000000",
            "010100006b0186fd08f90000eb40426124aa2f45857c32e80a471d5c",
        ),
        (
            "fe80::2",
            "ff02::12",
            1,
            "313596020064e8c0fe80000000000000000000000000000720010db8000000000000000000000007",
            "010100006b0186fd0991000023f2d172093d8476f02da4b9c2a04ddd",
        ),
        (
            "10.9.0.2",
            "10.9.0.3",
            1,
            "313796010064195f0a090068",
            "010100006b0186fd099f000018bd0de3c66c2e524991ab3b8bf90d41",
        ),
        (
            "10.9.0.2",
            "224.0.0.18",
            1,
            "31349602006438ea0a0900650a090066",
            "010100006b0186fd09ab0000dad22cf8f3e6607f564c92c52925ca69",
        ),
        (
            "10.9.0.2",
            "224.0.0.18",
            7,
            "313696010064435a0a090067",
            "010700006b0186fd09af000028256048b5eef05f470b852c412d3bd2",
        ),
        (
            "10.9.0.2",
            "224.0.0.18",
            1,
            "213300010001d45d0a0900640000000000000000",
            "010100006b018701935a0000dbafa755aa4077617b50ae380a3b39d9",
        ),
        (
            "10.9.0.2",
            "224.0.0.18",
            1,
            "313400020064ceea0a0900650a090066",
            "010100006b01870193610000439e6a3889fe349f1ad2321997825c39",
        ),
        (
            "fe80::2",
            "ff02::12",
            1,
            "3135000200645e01fe80000000000000000000000000000720010db8000000000000000000000007",
            "010100006b01870193620000fbeee391f4359454556a015a49fdb69b",
        ),
    ];

    fn key(id: u8) -> SigningKey {
        match id {
            1 => SigningKey::new(&(0..32).collect::<Vec<u8>>()),
            _ => SigningKey::new(&[0xaa; 40]),
        }
    }

    #[test]
    fn keepaliveds_signatures_are_right_and_ours_are_the_same() {
        for &(source, destination, key_id, message, signature) in CAPTURED {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let mut signed = bytes(message);
            signed.extend(bytes(signature));
            let meta = Meta::new(source, destination, TTL);
            let advert = Advert::decode(&meta, &signed, ChecksumMode::PseudoHeader).unwrap();
            assert_eq!(advert.message_len(), message.len() / 2);
            let said = Signature::of(advert.trailer).unwrap();
            assert_eq!(said.key_id, key_id);
            // November 2026.
            assert_eq!(said.sequence.time().as_secs() / 1000, 1_795_262);
            assert!(key(key_id).verify(advert.version, source, &signed));
            assert!(!key(8 - key_id).verify(advert.version, source, &signed));

            let mut ours = vec![0; signed.len()];
            ours[..message.len() / 2].copy_from_slice(&bytes(message));
            key(key_id).sign(advert.version, source, key_id, said.sequence, &mut ours);
            assert_eq!(ours, signed);
        }
    }

    /// Everything but the checksum, which changes on the way when addresses are translated.
    #[test]
    fn a_changed_bit_or_another_place_is_noticed() {
        for &(source, _, key_id, message, signature) in CAPTURED {
            let source: IpAddr = source.parse().unwrap();
            let mut signed = bytes(message);
            signed.extend(bytes(signature));
            let version = Version::try_from(signed[0] >> 4).unwrap();
            let key = key(key_id);
            for bit in (0..signed.len() * 8).filter(|bit| !(48..64).contains(bit)) {
                signed[bit / 8] ^= 1 << (bit % 8);
                assert!(!key.verify(version, source, &signed), "bit {bit}");
                signed[bit / 8] ^= 1 << (bit % 8);
            }
            let other_version = if version == Version::V2 { Version::V3 } else { Version::V2 };
            assert!(!key.verify(other_version, source, &signed));
            let other_source: IpAddr =
                if source.is_ipv4() { [10, 9, 0, 3].into() } else { [0xfe80, 0, 0, 0, 0, 0, 0, 3].into() };
            assert!(!key.verify(version, other_source, &signed));
            if let IpAddr::V4(four) = source {
                let mut six = [0; 16];
                six[..4].copy_from_slice(&four.octets());
                assert!(!key.verify(version, six.into(), &signed), "the family is bound");
            }
            assert_eq!(Family::of(source), Family::of(other_source));
        }
    }

    #[test]
    fn sequences_are_times() {
        for (nanos, bits) in [(0, 7 << 32), (500_000_000, 7 << 32 | 1 << 31), (999_999_999, (8 << 32) - 5)] {
            let sequence = Sequence::at(Duration::new(7, nanos));
            assert_eq!(sequence.bits(), bits);
            let back = sequence.time();
            assert!(
                back <= Duration::new(7, nanos) && back + Duration::from_nanos(1) >= Duration::new(7, nanos)
            );
        }
        assert!(Sequence::at(Duration::from_micros(5)).next() < Sequence::at(Duration::from_micros(6)));
    }
}
