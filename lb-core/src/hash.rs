//! Stable hashes: the same key gives the same number on every platform, in every process and in every release.
//!
//! Affinity by hash works only when all directors, and the same director after its restart, agree. So none of
//! these functions is seeded by chance, none reads memory in the platform's byte order, and all are held to test
//! vectors of public sources and to HAProxy's own answers (`tests/haproxy_hashes.rs`).
//!
//! | function | bits | what it is for | defined by |
//! |---|---|---|---|
//! | [`xxh3`] | 64 | the default: fast at every length, full avalanche | xxHash specification, XXH3 |
//! | [`siphash13`] | 64 | keys that a client may choose, with a secret key: nobody can aim at one backend | Aumasson and Bernstein, *SipHash* |
//! | [`crc32`] | 32 | HAProxy's `crc32`, ketama rings of several proxies | IEEE 802.3, reflected, 0xEDB88320 |
//! | [`sdbm`] | 32 | HAProxy's default | the sdbm database library |
//! | [`djb2`] | 32 | HAProxy's `djb2`; not on numeric keys, says its manual | D. J. Bernstein, h·33 + c |
//! | [`wt6`] | 32 | HAProxy's `wt6`, for numeric keys | HAProxy's manual, *hash-type* |
//!
//! [`avalanche`] spreads a 32-bit hash over all its bits, which HAProxy does for consistent hashing.
//! [`HashFunction`] is one of them chosen by name, and [`KeyHash`] a function with or without the avalanche, in
//! HAProxy's notation:
//!
//! ```
//! use lb_core::hash::{HashFunction, KeyHash};
//!
//! let hash: KeyHash = "sdbm avalanche".parse()?;
//! assert_eq!(hash.function, HashFunction::Sdbm);
//! assert_eq!(hash.to_string(), "sdbm avalanche");
//! assert_eq!(KeyHash::default().hash(b"/images/1.png"), lb_core::hash::xxh3(b"/images/1.png"));
//! # Ok::<(), lb_core::hash::ParseHashError>(())
//! ```

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// XXH3, 64 bits, without a seed.
#[must_use]
#[inline]
pub fn xxh3(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// XXH3, 64 bits, with a seed: independent hashes of one key, as Maglev's two or rendezvous hashing's one a backend.
#[must_use]
#[inline]
pub fn xxh3_with_seed(key: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
}

/// SipHash-1-3, 64 bits, under the 128-bit key made of `secret.0` and `secret.1` (both read as little-endian).
#[must_use]
#[inline]
pub fn siphash13(key: &[u8], secret: (u64, u64)) -> u64 {
    siphasher::sip::SipHasher13::new_with_keys(secret.0, secret.1).hash(key)
}

/// CRC-32 of IEEE 802.3 (zlib, PNG, HAProxy, ketama's crc32 variants).
#[must_use]
#[inline]
pub fn crc32(key: &[u8]) -> u32 {
    crc32fast::hash(key)
}

/// The sdbm database's hash: h·65599 + c for each byte c, from 0.
#[must_use]
#[inline]
pub fn sdbm(key: &[u8]) -> u32 {
    key.iter().fold(0, |hash: u32, &byte| hash.wrapping_mul(65599).wrapping_add(u32::from(byte)))
}

/// Bernstein's hash: h·33 + c for each byte c, from 5381.
#[must_use]
#[inline]
pub fn djb2(key: &[u8]) -> u32 {
    key.iter().fold(5381, |hash: u32, &byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)))
}

/// HAProxy's wt6: two halves take in each byte, one by exclusive or and one by addition, are complemented, turned
/// left by steps that depend on what came before, and swapped; the hash is their exclusive or.
#[must_use]
#[inline]
pub fn wt6(key: &[u8]) -> u32 {
    let (mut halves, mut steps) = ((0xa53c_965a_u32, 0x5ca6_953a_u32), (6, 18));
    for &byte in key {
        let mixed = (!(halves.0 ^ u32::from(byte)), !halves.1.wrapping_add(u32::from(byte)));
        halves = (mixed.1.rotate_left(steps.0), mixed.0.rotate_left(steps.1));
        let turn = ((halves.0 >> 16) ^ halves.1) & 0xffff;
        steps = (turn & 0x1f, turn >> 11);
    }
    halves.0 ^ halves.1
}

/// Full avalanche of 32 bits: each bit in changes each bit out with probability about one half.
///
/// It is what HAProxy's `avalanche` modifier applies to a function's result: Bob Jenkins's six-shift integer hash
/// (burtleburtle.net/bob/hash/integer.html, public domain), times a prime near ¾·2³². A bijection, so that no two
/// hashes become one.
#[must_use]
#[inline]
pub const fn avalanche(hash: u32) -> u32 {
    let hash = hash.wrapping_add(0x7ed5_5d16).wrapping_add(hash << 12);
    let hash = hash ^ 0xc761_c23c ^ (hash >> 19);
    let hash = hash.wrapping_add(0x1656_67b1).wrapping_add(hash << 5);
    let hash = hash.wrapping_add(0xd3a2_646c) ^ (hash << 9);
    let hash = hash.wrapping_add(0xfd70_46c5).wrapping_add(hash << 3);
    let hash = hash ^ 0xb55a_4f09 ^ (hash >> 16);
    hash.wrapping_mul(3_221_225_473)
}

/// A hash function chosen by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum HashFunction {
    /// [`xxh3`].
    #[default]
    Xxh3,
    /// [`siphash13`] under the key zero; where clients choose the keys, call that with a secret of your own.
    SipHash13,
    /// [`crc32`].
    Crc32,
    /// [`sdbm`].
    Sdbm,
    /// [`djb2`].
    Djb2,
    /// [`wt6`].
    Wt6,
}

impl HashFunction {
    /// All of them, the default first.
    pub const ALL: [Self; 6] = [Self::Xxh3, Self::SipHash13, Self::Crc32, Self::Sdbm, Self::Djb2, Self::Wt6];

    /// Its name, as it prints and parses: HAProxy's where HAProxy has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::SipHash13 => "siphash13",
            Self::Crc32 => "crc32",
            Self::Sdbm => "sdbm",
            Self::Djb2 => "djb2",
            Self::Wt6 => "wt6",
        }
    }

    /// How many bits of the result carry the hash: 32 or 64. The others are zero.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Xxh3 | Self::SipHash13 => 64,
            Self::Crc32 | Self::Sdbm | Self::Djb2 | Self::Wt6 => 32,
        }
    }

    /// Hashes `key`; a 32-bit function gives a number below 2³².
    #[must_use]
    #[inline]
    pub fn hash(self, key: &[u8]) -> u64 {
        match self {
            Self::Xxh3 => xxh3(key),
            Self::SipHash13 => siphash13(key, (0, 0)),
            Self::Crc32 => crc32(key).into(),
            Self::Sdbm => sdbm(key).into(),
            Self::Djb2 => djb2(key).into(),
            Self::Wt6 => wt6(key).into(),
        }
    }
}

impl fmt::Display for HashFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Takes [`HashFunction::name`] in any case, and `siphash`, `siphash-1-3`, `sip13` and `xxh3_64`.
impl FromStr for HashFunction {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let aliases = [
            ("siphash", Self::SipHash13),
            ("siphash-1-3", Self::SipHash13),
            ("sip13", Self::SipHash13),
            ("xxh3_64", Self::Xxh3),
        ];
        Self::ALL
            .map(|function| (function.name(), function))
            .into_iter()
            .chain(aliases)
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, function)| function)
            .ok_or_else(|| ParseHashError::UnknownFunction { name: text.into() })
    }
}

/// A hash function and whether its result goes through the [`avalanche`]: HAProxy's `hash-type` without the method.
///
/// Parses and prints as there: `djb2`, `sdbm avalanche`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KeyHash {
    /// The function.
    pub function: HashFunction,
    /// Spread the result over all bits. Nothing to do after a 64-bit function, which does that itself.
    pub avalanche: bool,
}

impl KeyHash {
    /// Hashes `key`.
    #[must_use]
    #[inline]
    pub fn hash(self, key: &[u8]) -> u64 {
        let hash = self.function.hash(key);
        match u32::try_from(hash) {
            Ok(hash) if self.avalanche && self.function.bits() == 32 => avalanche(hash).into(),
            _ => hash,
        }
    }
}

impl From<HashFunction> for KeyHash {
    fn from(function: HashFunction) -> Self {
        Self { function, avalanche: false }
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.function, if self.avalanche { " avalanche" } else { "" })
    }
}

impl FromStr for KeyHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let (function, modifier) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        let avalanche = match modifier.trim_start() {
            "" => false,
            word if word.eq_ignore_ascii_case("avalanche") => true,
            word => return Err(ParseHashError::UnknownModifier { name: word.into() }),
        };
        Ok(Self { function: function.parse()?, avalanche })
    }
}

/// Why a text names no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseHashError {
    /// There is no such function.
    #[error("{name:?} is no hash function; write xxh3, siphash13, crc32, sdbm, djb2 or wt6")]
    UnknownFunction {
        /// What was written.
        name: String,
    },
    /// What follows the function is not its modifier.
    #[error("{name:?} is no modifier of a hash function; write \"avalanche\" or nothing")]
    UnknownModifier {
        /// What was written.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn bytes(count: u16) -> Vec<u8> {
        (0..count).map(|byte| byte.to_le_bytes()[0]).collect()
    }

    /// `(function, key, hash)`, the sources beside each group.
    fn vectors() -> Vec<(HashFunction, Vec<u8>, u64)> {
        use HashFunction::{Crc32, Djb2, Sdbm, SipHash13, Wt6, Xxh3};
        let text = |key: &str| key.as_bytes().to_vec();
        Vec::from([
            // CRC-32/ISO-HDLC: the check value of Ross Williams's catalogue, and Wikipedia's pangram.
            (Crc32, text(""), 0),
            (Crc32, text("123456789"), 0xcbf4_3926),
            (Crc32, text("The quick brown fox jumps over the lazy dog"), 0x414f_a339),
            // xxHash's own sanity check: the empty input.
            (Xxh3, text(""), 0x2d06_8005_38d3_94c2),
            // Converters of Debian's HAProxy 2.6.12 (xxh3 there prints as a signed number).
            (Xxh3, text("a"), -1_817_709_641_818_812_897_i64 as u64),
            (Xxh3, text("123456789"), 8_276_685_427_497_336_319),
            (Xxh3, bytes(255), -5_161_174_126_835_724_701_i64 as u64),
            (Crc32, bytes(255), 3_543_112_608),
            (Sdbm, text("a"), 97),
            (Sdbm, text("123456789"), 1_755_344_949),
            (Sdbm, bytes(255), 3_691_450_431),
            (Djb2, text("a"), 177_670),
            (Djb2, text("123456789"), 902_675_330),
            (Djb2, bytes(255), 2_681_486_022),
            (Wt6, text("a"), 1_900_802_597),
            (Wt6, text("123456789"), 2_225_171_485),
            (Wt6, bytes(255), 1_349_417_982),
            // SipHash-1-3 under the key zero: what Ruby's digest-sip_hash publishes.
            (SipHash13, text(""), 0xd1fb_a762_150c_532c),
            (SipHash13, text("siphash"), 0x8264_ceec_cb16_bcbe),
            (SipHash13, text("digest-sip_hash"), 0xce31_007e_3413_0c0a),
        ])
    }

    #[test]
    fn agrees_with_published_vectors() {
        for (function, key, hash) in vectors() {
            assert_eq!(function.hash(&key), hash, "{function} of {key:02x?}");
        }
    }

    #[test]
    fn avalanche_agrees_with_haproxy() {
        // HAProxy 2.6.12: the converters above with their avalanche argument.
        for (hash, spread) in [
            (HashFunction::Crc32.hash(b"a"), 1_288_200_982),
            (HashFunction::Sdbm.hash(b"a"), 1_830_748_055),
            (HashFunction::Djb2.hash(b"123456789"), 2_717_138_294),
            (HashFunction::Wt6.hash(&bytes(255)), 3_013_527_327),
        ] {
            assert_eq!(u64::from(avalanche(hash as u32)), spread, "avalanche of {hash}");
        }
    }

    #[test]
    fn siphash_agrees_with_its_reference_vectors() {
        // Key 00 01 … 0f, inputs of 0, 1, 2 … bytes 00 01 02 …: the reference implementation's `vectors_sip13`.
        let secret = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let wanted =
            [0xabac_0158_050f_c4dc, 0xc9f4_9bf3_7d57_ca93, 0x82cb_9b02_4dc7_d44d, 0x8bf8_0ab8_e7dd_f7fb];
        for (length, hash) in (0..).zip(wanted) {
            assert_eq!(siphash13(&bytes(length), secret), hash, "{length} bytes");
        }
    }

    #[test]
    fn a_seed_gives_another_hash() {
        assert_eq!(xxh3_with_seed(b"key", 0), xxh3(b"key"));
        assert_ne!(xxh3_with_seed(b"key", 1), xxh3(b"key"));
    }

    #[test]
    fn names_parse_and_print() {
        for function in HashFunction::ALL {
            assert_eq!(function.to_string().parse(), Ok(function));
            assert_eq!(function.name().to_uppercase().parse(), Ok(function));
            for avalanche in [false, true] {
                let hash = KeyHash { function, avalanche };
                assert_eq!(hash.to_string().parse(), Ok(hash));
            }
        }
        assert_eq!("siphash-1-3".parse(), Ok(HashFunction::SipHash13));
        let error = "md5".parse::<HashFunction>().expect_err("md5 is not offered").to_string();
        assert_eq!(error, "\"md5\" is no hash function; write xxh3, siphash13, crc32, sdbm, djb2 or wt6");
        let error = "sdbm avalanch".parse::<KeyHash>().expect_err("a misspelt modifier").to_string();
        assert!(error.contains("\"avalanch\" is no modifier"), "{error}");
    }

    #[test]
    fn avalanche_applies_to_32_bit_functions_only() {
        for function in HashFunction::ALL {
            let spread = KeyHash { function, avalanche: true }.hash(b"key");
            assert_eq!(spread == function.hash(b"key"), function.bits() == 64, "{function}");
            assert!(function.bits() == 64 || spread <= u64::from(u32::MAX), "{function}");
        }
    }

    proptest::proptest! {
        /// No bit is lost: the avalanche of two different hashes differs.
        #[test]
        fn avalanche_is_injective(a: u32, b: u32) {
            proptest::prop_assert_eq!(avalanche(a) == avalanche(b), a == b);
        }
    }
}
