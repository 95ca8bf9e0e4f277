//! Signed adverts (feature `auth-hmac`): the keys, and how strict to be. Names and defaults are those of keepalived's
//! `auth_hmac`; what is on the wire is in [`wire::auth`](crate::wire::auth).
//!
//! A signature proves that the holder of a key sent the advert from that address, for that virtual router, just now. It
//! hides nothing. Where adverts are routed (unicast) it replaces the proof that a TTL of 255 gives on a link.
//!
//! ```
//! use core::time::Duration;
//! use lb_vrrp::hmac::{Hmac, Key};
//! use lb_vrrp::{Config, Event, Timestamp, VirtualRouter};
//!
//! let mut config = Config::new(51, ["192.168.250.250/24".parse()?]);
//! let key = "hex:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
//! config.hmac = Some(Hmac::new(Key::parse(1, key)?));
//! let mut router = VirtualRouter::new(config, Some("192.168.250.121".parse()?))?;
//! // Signatures say when they were made, so the router must be told the wall clock, and again when it was set.
//! let since_1970 = Duration::from_secs(1_795_262_205);
//! router.handle_event(Timestamp::ZERO, Event::WallClock(since_1970));
//! router.handle_event(Timestamp::ZERO, Event::Startup);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The Linux driver tells its routers the wall clock by itself.
//!
//! # Rolling it out, and changing keys
//! 1. [`Mode::ReceiveOnly`] on every router: each has the key, and accepts adverts with and without a signature.
//! 2. [`Mode::Permissive`] on every router: each signs.
//! 3. When no router's [`unsigned_received`](crate::Counters::unsigned_received) grows any more, [`Mode::Enforce`] on every
//!    one.
//!
//! A router without keys accepts signed adverts as if they were not signed; keepalived refuses them, and needs step 1 first.
//! To change a key, give every router the new one under another id, then make it the active one everywhere, then take the
//! old one away. [`VirtualRouter::reconfigure`](crate::VirtualRouter::reconfigure) does each of these without a transition.
//!
//! # What it does not protect from
//! The last adverts of an active router are good for [`Hmac::time_window`] after it has died, to a router that was restarted
//! since: which sequences it has seen is not stored. With [`AntiReplay::Monotonic`] any recorded advert is good to a router
//! that was restarted.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::wire::Interval;

/// How many bytes a key may have.
pub const KEY_BYTES: core::ops::RangeInclusive<usize> = 32..=64;

/// The longest window in which a signed advert is fresh.
pub const MAX_TIME_WINDOW: Duration = Duration::from_secs(300);

/// Keys, and what to do with adverts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Hmac {
    /// The keys that adverts are accepted with. Several while keys are changed.
    pub keys: Vec<Key>,
    /// The id of the key to sign with.
    pub active_key: u8,
    /// How old adverts are told from new ones. Default: by the time.
    #[cfg_attr(feature = "serde", serde(default))]
    pub anti_replay: AntiReplay,
    /// With [`AntiReplay::Time`], by how much a sender's clock and this router's may differ: 1 s to 300 s. Default: three
    /// advertisement intervals, and 5 s at least.
    #[cfg_attr(feature = "serde", serde(default))]
    pub time_window: Option<Duration>,
    /// Whether to sign, and whether to take adverts without a signature. Default: sign, and take none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub mode: Mode,
}

impl Hmac {
    /// One key, and every default.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self {
            active_key: key.id,
            keys: Vec::from([key]),
            anti_replay: AntiReplay::default(),
            time_window: None,
            mode: Mode::default(),
        }
    }

    /// The window that holds with adverts every `interval`.
    #[must_use]
    pub fn window(&self, interval: Interval) -> Duration {
        self.time_window
            .unwrap_or_else(|| (3 * interval.duration()).clamp(Duration::from_secs(5), MAX_TIME_WINDOW))
    }

    /// Whether adverts can be signed and judged so.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), HmacError> {
        for (index, key) in self.keys.iter().enumerate() {
            if self.keys[..index].iter().any(|earlier| earlier.id == key.id) {
                return Err(HmacError::DuplicateKey { id: key.id });
            }
        }
        if !self.keys.iter().any(|key| key.id == self.active_key) {
            return Err(HmacError::NoActiveKey { id: self.active_key });
        }
        match self.time_window {
            Some(window) if window < Duration::from_secs(1) || window > MAX_TIME_WINDOW => {
                Err(HmacError::TimeWindow { window })
            }
            _ => Ok(()),
        }
    }
}

/// A shared secret and its id. Never printed.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "Text", into = "Text")
)]
pub struct Key {
    id: u8,
    secret: Vec<u8>,
}

impl Key {
    /// The key `id` of 32 to 64 random bytes. More than 32 make nothing safer.
    ///
    /// # Errors
    /// If the id is 0 or the secret too short or too long.
    pub fn new(id: u8, secret: &[u8]) -> Result<Self, HmacError> {
        if id == 0 {
            return Err(HmacError::KeyId);
        }
        if !KEY_BYTES.contains(&secret.len()) {
            return Err(HmacError::KeyLength { id, bytes: secret.len() });
        }
        Ok(Self { id, secret: secret.to_vec() })
    }

    /// The key `id` as keepalived writes it: `hex:` and two digits a byte, or the bytes of the text itself.
    ///
    /// # Errors
    /// As [`Self::new`], and if what follows `hex:` is no hexadecimal number of whole bytes.
    pub fn parse(id: u8, text: &str) -> Result<Self, HmacError> {
        let Some(digits) = text.strip_prefix("hex:") else {
            return Self::new(id, text.as_bytes());
        };
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
        let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
            return Err(HmacError::KeyDigits { id });
        };
        let secret: Option<Vec<u8>> =
            pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
        Self::new(id, &secret.ok_or(HmacError::KeyDigits { id })?)
    }

    /// Its id, 1 to 255.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key in a file: its id and its text.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    id: u8,
    secret: alloc::string::String,
}

#[cfg(feature = "serde")]
impl TryFrom<Text> for Key {
    type Error = HmacError;

    fn try_from(text: Text) -> Result<Self, HmacError> {
        Self::parse(text.id, &text.secret)
    }
}

#[cfg(feature = "serde")]
impl From<Key> for Text {
    fn from(key: Key) -> Self {
        let mut secret = alloc::string::String::from("hex:");
        for byte in key.secret {
            for digit in [byte >> 4, byte & 15] {
                secret.extend(char::from_digit(digit.into(), 16));
            }
        }
        Self { id: key.id, secret }
    }
}

/// How a recorded advert is told from a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum AntiReplay {
    /// It must have been made within the time window, and after all others of its sender. The routers' clocks must agree.
    #[default]
    Time,
    /// It must have been made after all others of its sender, by the sender's own clock.
    Monotonic,
}

/// Which adverts are signed, and which must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Mode {
    /// Sign, and accept what is signed only.
    #[default]
    Enforce,
    /// Sign, and accept what is not signed too. A wrong signature is refused.
    Permissive,
    /// Don't sign, and accept what is not signed too. A wrong signature is refused.
    ReceiveOnly,
}

/// Signing that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HmacError {
    /// Key id 0.
    #[error("key id 0 is not allowed: choose 1 to 255")]
    KeyId,
    /// A key that is too short or too long.
    #[error("key {id} has {bytes} bytes: give it 32 to 64, best 32 random ones (openssl rand -hex 32)")]
    KeyLength {
        /// Its id.
        id: u8,
        /// How many it has.
        bytes: usize,
    },
    /// No hexadecimal number.
    #[error("key {id} is not hexadecimal: write two digits 0-9, a-f for each byte after `hex:`")]
    KeyDigits {
        /// Its id.
        id: u8,
    },
    /// The same id twice.
    #[error("key {id} is given twice: give each key an id of its own")]
    DuplicateKey {
        /// The id.
        id: u8,
    },
    /// The key to sign with is missing.
    #[error("the active key {id} is not among the keys: add it, or name another")]
    NoActiveKey {
        /// The id.
        id: u8,
    },
    /// A window that is too short or too long.
    #[error("a time window of {window:?} is not allowed: choose 1 s to 300 s")]
    TimeWindow {
        /// What was asked for.
        window: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_keepalived_writes_them() {
        let digits = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1c1d1e1f";
        let key = Key::parse(1, &format!("hex:{digits}")).unwrap();
        assert_eq!(key.secret(), (0..32).collect::<Vec<u8>>());
        assert_eq!(Key::parse(2, digits).unwrap().secret(), digits.as_bytes());
        for (id, text, error) in [
            (0, digits, HmacError::KeyId),
            (1, "short", HmacError::KeyLength { id: 1, bytes: 5 }),
            (1, &digits.repeat(2), HmacError::KeyLength { id: 1, bytes: 128 }),
            (1, "hex:0", HmacError::KeyDigits { id: 1 }),
            (1, "hex:0g", HmacError::KeyDigits { id: 1 }),
            (1, "hex:+1", HmacError::KeyDigits { id: 1 }),
            (1, "hex:", HmacError::KeyLength { id: 1, bytes: 0 }),
        ] {
            assert_eq!(Key::parse(id, text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = Key::parse(9, "correct horse battery staple, and more").unwrap();
        let printed = format!("{:?}", Hmac::new(key));
        assert!(
            printed.contains("id: 9") && !printed.contains("horse") && !printed.contains("99"),
            "{printed}"
        );
    }

    #[test]
    fn what_can_not_be_is_named() {
        let key = |id| Key::new(id, &[7; 32]).unwrap();
        let good = Hmac::new(key(1));
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(good.window(Interval::from_centiseconds(10).unwrap()), Duration::from_secs(5));
        assert_eq!(good.window(Interval::from_seconds(10).unwrap()), Duration::from_secs(30));
        assert_eq!(good.window(Interval::MAX_V2), Duration::from_secs(300));
        let cases: [(Hmac, HmacError); 4] = [
            (Hmac { active_key: 2, ..good.clone() }, HmacError::NoActiveKey { id: 2 }),
            (Hmac { keys: vec![], ..good.clone() }, HmacError::NoActiveKey { id: 1 }),
            (Hmac { keys: vec![key(1), key(1)], ..good.clone() }, HmacError::DuplicateKey { id: 1 }),
            (
                Hmac { time_window: Some(Duration::ZERO), ..good.clone() },
                HmacError::TimeWindow { window: Duration::ZERO },
            ),
        ];
        for (hmac, error) in cases {
            assert_eq!(hmac.validate(), Err(error));
        }
    }
}
