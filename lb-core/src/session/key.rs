//! What a session is known by: a source address, a cookie, or any bytes.

use alloc::boxed::Box;
#[cfg(feature = "serde")]
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a session is known by; borrowed, so that a lookup allocates nothing.
///
/// Keys of different kinds never equal each other, whatever their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Key<'a> {
    /// The client's address, without its port: all of a client's connections go together. [`Key::source`]
    /// makes one that does not tell an IPv4 client from the same client on a dual-stack listener.
    Source(IpAddr),
    /// The value of a cookie.
    Cookie(&'a [u8]),
    /// Anything else: a header, a TLS session id, a user's name.
    Bytes(&'a [u8]),
}

impl Key<'_> {
    /// The key of a client's address; an IPv4 address mapped into IPv6 (`::ffff:192.0.2.1`) is the IPv4
    /// address.
    #[must_use]
    pub const fn source(address: IpAddr) -> Self {
        Key::Source(address.to_canonical())
    }

    /// The key's bytes, its length included in neither.
    pub(super) const fn len(&self) -> usize {
        match self {
            Key::Source(IpAddr::V4(_)) => 4,
            Key::Source(IpAddr::V6(_)) => 16,
            Key::Cookie(bytes) | Key::Bytes(bytes) => bytes.len(),
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Key::Source(IpAddr::V4(_)) => Kind::V4,
            Key::Source(IpAddr::V6(_)) => Kind::V6,
            Key::Cookie(_) => Kind::Cookie,
            Key::Bytes(_) => Kind::Bytes,
        }
    }

    /// Calls `f` with the key's bytes.
    pub(super) fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Key::Source(IpAddr::V4(address)) => f(&address.octets()),
            Key::Source(IpAddr::V6(address)) => f(&address.octets()),
            Key::Cookie(bytes) | Key::Bytes(bytes) => f(bytes),
        }
    }
}

/// The same as [`Key::source`].
impl From<IpAddr> for Key<'_> {
    fn from(address: IpAddr) -> Self {
        Self::source(address)
    }
}

/// The [`Key::source`] of the address; the port is left out.
impl From<SocketAddr> for Key<'_> {
    fn from(address: SocketAddr) -> Self {
        Self::source(address.ip())
    }
}

/// `source 192.0.2.1`, `cookie "s3cr3t"`, `bytes "\x00\x01"`.
impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Source(address) => write!(f, "source {address}"),
            Key::Cookie(bytes) => write!(f, "cookie \"{}\"", bytes.escape_ascii()),
            Key::Bytes(bytes) => write!(f, "bytes \"{}\"", bytes.escape_ascii()),
        }
    }
}

/// The kinds of key, by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    V4 = 0,
    V6 = 1,
    Cookie = 2,
    Bytes = 3,
}

/// The longest key that is kept without an allocation of its own: an IPv6 address, a common cookie.
const INLINE: usize = 21;

/// A [`Key`] that owns its bytes: 24 bytes, and the key's own where it has more than 21.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "Plain", into = "Plain")
)]
pub struct KeyBuf(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    /// The rest of the bytes is zero, so that equal keys have equal bytes.
    Short(Kind, u8, [u8; INLINE]),
    Long(Kind, Box<[u8]>),
}

impl KeyBuf {
    /// The key, borrowed.
    #[must_use]
    pub fn as_key(&self) -> Key<'_> {
        let (kind, bytes) = self.parts();
        match kind {
            Kind::V4 => Key::Source(Ipv4Addr::from(array(bytes)).into()),
            Kind::V6 => Key::Source(Ipv6Addr::from(array(bytes)).into()),
            Kind::Cookie => Key::Cookie(bytes),
            Kind::Bytes => Key::Bytes(bytes),
        }
    }

    fn parts(&self) -> (Kind, &[u8]) {
        match &self.0 {
            Repr::Short(kind, len, bytes) => (*kind, &bytes[..usize::from(*len)]),
            Repr::Long(kind, bytes) => (*kind, bytes),
        }
    }

    /// Whether this is the key of that kind with those bytes.
    pub(super) fn is(&self, kind: Kind, bytes: &[u8]) -> bool {
        self.parts() == (kind, bytes)
    }
}

/// The first `N` of the bytes of an address, which has as many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

impl From<Key<'_>> for KeyBuf {
    fn from(key: Key<'_>) -> Self {
        let kind = key.kind();
        key.with_bytes(|bytes| {
            Self(if bytes.len() <= INLINE {
                let mut short = [0; INLINE];
                short[..bytes.len()].copy_from_slice(bytes);
                Repr::Short(kind, bytes.len() as u8, short)
            } else {
                Repr::Long(kind, bytes.into())
            })
        })
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_key().fmt(f)
    }
}

/// How a key is written by serde.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Plain {
    Source(IpAddr),
    Cookie(Vec<u8>),
    Bytes(Vec<u8>),
}

#[cfg(feature = "serde")]
impl From<Plain> for KeyBuf {
    fn from(plain: Plain) -> Self {
        match &plain {
            Plain::Source(address) => Key::Source(*address),
            Plain::Cookie(bytes) => Key::Cookie(bytes),
            Plain::Bytes(bytes) => Key::Bytes(bytes),
        }
        .into()
    }
}

#[cfg(feature = "serde")]
impl From<KeyBuf> for Plain {
    fn from(key: KeyBuf) -> Self {
        match key.as_key() {
            Key::Source(address) => Plain::Source(address),
            Key::Cookie(bytes) => Plain::Cookie(bytes.to_vec()),
            Key::Bytes(bytes) => Plain::Bytes(bytes.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn a_key_keeps_its_size() {
        assert_eq!(size_of::<KeyBuf>(), 24);
    }

    #[test]
    fn a_mapped_address_is_the_same_client() {
        let plain: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Key::from(plain), Key::from(mapped));
        assert_ne!(Key::Source(plain), Key::Source(mapped));
    }

    #[test]
    fn kinds_differ_though_bytes_agree() {
        let keys = [
            Key::Source(Ipv4Addr::new(1, 2, 3, 4).into()),
            Key::Cookie(&[1, 2, 3, 4]),
            Key::Bytes(&[1, 2, 3, 4]),
        ];
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert_eq!(KeyBuf::from(*a) == KeyBuf::from(*b), i == j, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn keys_print_what_they_are() {
        assert_eq!(format!("{:?}", Key::source(Ipv4Addr::LOCALHOST.into())), "source 127.0.0.1");
        assert_eq!(format!("{:?}", KeyBuf::from(Key::Cookie(b"a\"b\0"))), r#"cookie "a\"b\x00""#);
    }

    proptest! {
        #[test]
        fn owning_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60), address: IpAddr) {
            for key in [Key::Cookie(&bytes), Key::Bytes(&bytes), Key::Source(address)] {
                let owned = KeyBuf::from(key);
                prop_assert_eq!(owned.as_key(), key);
                prop_assert!(key.with_bytes(|bytes| owned.is(key.kind(), bytes)));
            }
        }
    }
}
