//! The form in which sessions travel to a peer: compact, versioned, strictly decoded.
//!
//! A message holds entries of one table:
//!
//! | field | bytes | |
//! |---|---|---|
//! | magic | 4 | `LBSN` |
//! | version | 1 | 1 |
//! | kind | 1 | 1 stick table, 2 connection table |
//! | count | number | how many entries follow, and nothing after them |
//!
//! | entry of a stick table | bytes | |
//! |---|---|---|
//! | kind of key | 1 | 0 IPv4, 1 IPv6, 2 cookie, 3 other bytes |
//! | key | 4, 16, or number and as many | |
//! | value | number and as many | as its type's [`Value`] says |
//! | remaining, idle | two numbers | nanoseconds |
//!
//! | entry of a connection table | bytes | |
//! |---|---|---|
//! | state | 1 | 0–10 TCP in the order of [`TcpState::ALL`], 16 UDP, 17 ICMP, 32–35 SCTP |
//! | families | 1 | bit 0 the client's, bit 1 the service's: 0 IPv4, 1 IPv6 |
//! | client, service | 6 or 18 each | address and port, network order |
//! | value, remaining, idle | as above | |
//!
//! A *number* is unsigned, seven bits a byte, low bits first, the high bit set on all bytes but the last
//! (LEB128), in the shortest form. So each list of entries has exactly one encoding.
//!
//! Any bytes either decode or give a [`WireError`] that says where and why; nothing panics. What a decoder
//! allocates is at most a constant times the input: a count that the input cannot hold is an error before
//! anything is allocated.
//!
//! ```
//! # #[cfg(feature = "std")] {
//! use core::time::Duration;
//! use lb_core::clock::Timestamp;
//! use lb_core::session::{Key, StickConfig, StickTable, wire};
//!
//! let (now, config) = (Timestamp::ZERO, StickConfig::new(100, Duration::from_secs(60)));
//! let here = StickTable::new(config.clone());
//! here.insert(Key::Cookie(b"a1"), String::from("web1"), now)?;
//!
//! let bytes = wire::encode_stick(&here.changes(&mut here.cursor(), now, 1000));
//! assert_eq!(bytes.len(), 23);
//!
//! let there = StickTable::new(config);
//! there.import(wire::decode_stick::<String>(&bytes)?, now);
//! assert_eq!(there.lookup(Key::Cookie(b"a1"), now).as_deref(), Some("web1"));
//! # }
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;

use super::flow::{Flow, Protocol};
use super::key::{Key, KeyBuf, Kind};
use super::state::{SctpState, State};
use super::tcp::TcpState;
use super::{Connection, StickEntry};

const MAGIC: [u8; 4] = *b"LBSN";
const VERSION: u8 = 1;
const STICK: u8 = 1;
const CONNECTIONS: u8 = 2;

/// The shortest entries: an empty cookie, an IPv4 connection, each with an empty value.
const SHORTEST_STICK: usize = 5;
const SHORTEST_CONNECTION: usize = 17;

/// Why bytes are not a message, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset} of a session message: {cause}")]
#[non_exhaustive]
pub struct WireError {
    /// Where what is wrong begins, counted from 0.
    pub offset: usize,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The message ends early.
    #[error("{wanted} bytes wanted, {left} left: the message is cut short")]
    Short {
        /// How many bytes should come here.
        wanted: u64,
        /// How many there are.
        left: usize,
    },
    /// The first bytes are others.
    #[error("not `LBSN`: this is no session message")]
    Magic,
    /// A version that this decoder does not know.
    #[error("version {0}, known is 1: update the older of the two peers")]
    Version(u8),
    /// The entries of another table, or of none.
    #[error("kind {found}, expected {expected} (1 stick table, 2 connection table)")]
    Kind {
        /// The kind of the message.
        found: u8,
        /// The kind that was asked for.
        expected: u8,
    },
    /// More entries than the rest of the message can hold.
    #[error("{count} entries announced, but the rest has room for at most {most}")]
    Count {
        /// How many the message announces.
        count: u64,
        /// How many the rest can hold.
        most: usize,
    },
    /// A number that exceeds 64 bits or has needless bytes.
    #[error("a number longer than it need be, or than 64 bits")]
    Number,
    /// An unknown kind of key.
    #[error("kind of key {0}, known are 0 to 3")]
    KeyKind(u8),
    /// An unknown state.
    #[error("state {0}, known are 0 to 10, 16, 17, and 32 to 35")]
    State(u8),
    /// An unknown address family.
    #[error("address families {0}, known are 0 to 3")]
    Families(u8),
    /// An IPv4 address written as an IPv6 address.
    #[error("an IPv4 address mapped into IPv6, to be sent as IPv4")]
    Mapped,
    /// A value that its type does not accept.
    #[error("a value of {0} bytes that its type does not accept")]
    Value(usize),
    /// Bytes after the last entry.
    #[error("{0} bytes after the last entry")]
    Trailing(usize),
}

/// A table's value on the wire.
///
/// Send what means the same on both machines, such as a server's name; [`StickEntry::try_map`] turns it into
/// what the table holds.
pub trait Value: Sized {
    /// Appends the value's bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// The value with these bytes, or `None` if there is none.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Eight bytes in network order.
impl Value for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

/// UTF-8.
impl Value for String {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        core::str::from_utf8(bytes).ok().map(Self::from)
    }
}

/// The bytes themselves.
impl Value for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(bytes.to_vec())
    }
}

/// A message with these entries of a stick table. Spans of more than 584 years are cut to that.
#[must_use]
pub fn encode_stick<V: Value>(entries: &[StickEntry<V>]) -> Vec<u8> {
    let mut out = header(STICK, entries.len());
    for entry in entries {
        let key = entry.key.as_key();
        out.push(key.kind() as u8);
        if matches!(key, Key::Cookie(_) | Key::Bytes(_)) {
            put_number(&mut out, key.len() as u64);
        }
        key.with_bytes(|bytes| out.extend_from_slice(bytes));
        put_rest(&mut out, &entry.value, entry.remaining, entry.idle);
    }
    out
}

/// A message with these entries of a connection table. Spans of more than 584 years are cut to that.
#[must_use]
pub fn encode_connections<V: Value>(connections: &[Connection<V>]) -> Vec<u8> {
    let mut out = header(CONNECTIONS, connections.len());
    for connection in connections {
        let (client, service) = (connection.flow.client(), connection.flow.service());
        out.push(state_code(connection.state));
        out.push(u8::from(client.is_ipv6()) | u8::from(service.is_ipv6()) << 1);
        for end in [client, service] {
            Key::Source(end.ip()).with_bytes(|bytes| out.extend_from_slice(bytes));
            out.extend_from_slice(&end.port().to_be_bytes());
        }
        put_rest(&mut out, &connection.value, connection.remaining, connection.idle);
    }
    out
}

/// The entries of a stick table's message.
///
/// # Errors
/// [`WireError`] at the first byte that does not fit.
pub fn decode_stick<V: Value>(bytes: &[u8]) -> Result<Vec<StickEntry<V>>, WireError> {
    Reader::new(bytes).entries(STICK, SHORTEST_STICK, |reader| {
        let key = reader.key()?;
        let (value, remaining, idle) = reader.rest()?;
        Ok(StickEntry { key, value, remaining, idle })
    })
}

/// The entries of a connection table's message.
///
/// # Errors
/// [`WireError`] at the first byte that does not fit.
pub fn decode_connections<V: Value>(bytes: &[u8]) -> Result<Vec<Connection<V>>, WireError> {
    Reader::new(bytes).entries(CONNECTIONS, SHORTEST_CONNECTION, |reader| {
        let state = reader.state()?;
        let flow = reader.flow(state.protocol())?;
        let (value, remaining, idle) = reader.rest()?;
        Ok(Connection { flow, state, value, remaining, idle })
    })
}

fn header(kind: u8, count: usize) -> Vec<u8> {
    let mut out = Vec::from(MAGIC);
    out.extend([VERSION, kind]);
    put_number(&mut out, count as u64);
    out
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_rest<V: Value>(out: &mut Vec<u8>, value: &V, remaining: Duration, idle: Duration) {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    put_number(out, bytes.len() as u64);
    out.append(&mut bytes);
    for span in [remaining, idle] {
        put_number(out, u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }
}

const UDP: u8 = 16;
const ICMP: u8 = 17;
const SCTP: [(u8, SctpState); 4] = [
    (32, SctpState::Setup),
    (33, SctpState::Established),
    (34, SctpState::Shutdown),
    (35, SctpState::Closed),
];

fn state_code(state: State) -> u8 {
    match state {
        State::Tcp(state) => state as u8,
        State::Udp => UDP,
        State::Icmp => ICMP,
        State::Sctp(state) => SCTP[state as usize].0,
    }
}

/// The bytes of a message, and how far they have been read.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let left = &self.bytes[self.offset..];
        let taken = usize::try_from(len).ok().and_then(|len| left.get(..len));
        let taken = taken.ok_or(WireError {
            offset: self.offset,
            cause: Cause::Short { wanted: len, left: left.len() },
        })?;
        self.offset += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    /// Reads one item; what is wrong with the item itself is reported where the item begins.
    fn item<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Result<T, Cause>, WireError>,
    ) -> Result<T, WireError> {
        let offset = self.offset;
        read(self)?.map_err(|cause| WireError { offset, cause })
    }

    fn number(&mut self) -> Result<u64, WireError> {
        self.item(|reader| {
            let mut number = 0;
            for shift in (0..64).step_by(7) {
                let byte = reader.byte()?;
                let bits = u64::from(byte & 0x7f);
                number |= bits << shift;
                // Bits that fall off, or a last byte that adds none.
                if number >> shift != bits || (byte == 0 && shift > 0) {
                    return Ok(Err(Cause::Number));
                }
                if byte < 0x80 {
                    return Ok(Ok(number));
                }
            }
            Ok(Err(Cause::Number))
        })
    }

    fn entries<T>(
        mut self,
        expected: u8,
        shortest: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        self.item(|reader| Ok(if reader.array()? == MAGIC { Ok(()) } else { Err(Cause::Magic) }))?;
        self.item(|reader| {
            let version = reader.byte()?;
            Ok(if version == VERSION { Ok(()) } else { Err(Cause::Version(version)) })
        })?;
        self.item(|reader| {
            let found = reader.byte()?;
            Ok(if found == expected { Ok(()) } else { Err(Cause::Kind { found, expected }) })
        })?;
        let count = self.item(|reader| {
            let count = reader.number()?;
            let most = reader.left() / shortest;
            Ok(usize::try_from(count).ok().filter(|&count| count <= most).ok_or(Cause::Count { count, most }))
        })?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(read(&mut self)?);
        }
        match self.left() {
            0 => Ok(entries),
            left => Err(WireError { offset: self.offset, cause: Cause::Trailing(left) }),
        }
    }

    fn key(&mut self) -> Result<KeyBuf, WireError> {
        self.item(|reader| {
            let kind = reader.byte()?;
            Ok(Ok(match kind {
                k if k == Kind::V4 as u8 => Key::Source(Ipv4Addr::from(reader.array::<4>()?).into()).into(),
                k if k == Kind::V6 as u8 => Key::Source(Ipv6Addr::from(reader.array::<16>()?).into()).into(),
                k if k == Kind::Cookie as u8 => Key::Cookie(reader.counted()?).into(),
                k if k == Kind::Bytes as u8 => Key::Bytes(reader.counted()?).into(),
                other => return Ok(Err(Cause::KeyKind(other))),
            }))
        })
    }

    fn counted(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.number()?;
        self.take(len)
    }

    fn rest<V: Value>(&mut self) -> Result<(V, Duration, Duration), WireError> {
        let value = self.item(|reader| {
            let bytes = reader.counted()?;
            Ok(V::decode(bytes).ok_or(Cause::Value(bytes.len())))
        })?;
        let remaining = Duration::from_nanos(self.number()?);
        let idle = Duration::from_nanos(self.number()?);
        Ok((value, remaining, idle))
    }

    fn state(&mut self) -> Result<State, WireError> {
        self.item(|reader| {
            let code = reader.byte()?;
            Ok(match code {
                UDP => Ok(State::Udp),
                ICMP => Ok(State::Icmp),
                _ => {
                    let tcp = TcpState::ALL.get(usize::from(code)).copied().map(State::Tcp);
                    let sctp = || SCTP.iter().find(|known| known.0 == code).map(|known| State::Sctp(known.1));
                    tcp.or_else(sctp).ok_or(Cause::State(code))
                }
            })
        })
    }

    fn flow(&mut self, protocol: Protocol) -> Result<Flow, WireError> {
        let families = self.item(|reader| {
            let families = reader.byte()?;
            Ok(if families < 4 { Ok(families) } else { Err(Cause::Families(families)) })
        })?;
        let client = self.end(families & 1 != 0)?;
        let service = self.end(families & 2 != 0)?;
        Ok(Flow::new(protocol, client, service))
    }

    fn end(&mut self, v6: bool) -> Result<SocketAddr, WireError> {
        self.item(|reader| {
            let address: IpAddr = if v6 { reader.array::<16>()?.into() } else { reader.array::<4>()?.into() };
            let port = u16::from_be_bytes(reader.array()?);
            Ok(if address == address.to_canonical() {
                Ok(SocketAddr::new(address, port))
            } else {
                Err(Cause::Mapped)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;

    #[test]
    fn states_keep_their_numbers() {
        for (code, state) in TcpState::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state_code(State::Tcp(state))), code);
        }
        for (code, state) in SCTP {
            assert_eq!(state_code(State::Sctp(state)), code);
        }
    }

    #[test]
    fn an_error_names_the_place_and_the_cause() {
        let good = b"LBSN\x01\x01\x01\x00\x7f\x00\x00\x01\x01w\x05\x06";
        assert_eq!(decode_stick::<String>(good).unwrap().len(), 1);
        let replaced = |at: usize, bytes: &[u8]| {
            let mut message = good.to_vec();
            message.splice(at..at + bytes.len().min(1), bytes.iter().copied());
            message
        };
        let cases = [
            (vec![], 0, Cause::Short { wanted: 4, left: 0 }),
            (b"LBSN".to_vec(), 4, Cause::Short { wanted: 1, left: 0 }),
            (replaced(0, b"X"), 0, Cause::Magic),
            (replaced(4, b"\x02"), 4, Cause::Version(2)),
            (replaced(5, b"\x02"), 5, Cause::Kind { found: 2, expected: 1 }),
            (replaced(6, b"\x02"), 6, Cause::Count { count: 2, most: 1 }),
            (replaced(6, b"\x81\x00"), 6, Cause::Number),
            (replaced(6, &[0xff; 10]), 6, Cause::Number),
            (replaced(7, b"\x04"), 7, Cause::KeyKind(4)),
            (replaced(12, b"\x7f"), 13, Cause::Short { wanted: 127, left: 3 }),
            (replaced(13, b"\xff"), 12, Cause::Value(1)),
            (good[..15].to_vec(), 15, Cause::Short { wanted: 1, left: 0 }),
            ([&good[..], b"ab"].concat(), 16, Cause::Trailing(2)),
        ];
        for (message, offset, cause) in cases {
            assert_eq!(decode_stick::<String>(&message), Err(WireError { offset, cause }), "{message:x?}");
        }
        let error = decode_stick::<String>(&good[..15]).unwrap_err();
        let said = "byte 15 of a session message: 1 bytes wanted, 0 left: the message is cut short";
        assert_eq!(format!("{error}"), said);
    }

    #[test]
    fn errors_of_connections() {
        let good = b"LBSN\x01\x02\x01\x01\x00\x01\x02\x03\x04\x00\x50\x05\x06\x07\x08\x00\x50\x00\x00\x00";
        assert_eq!(decode_connections::<Vec<u8>>(good).unwrap().len(), 1);
        for (at, byte, cause) in
            [(7, 11, Cause::State(11)), (7, 36, Cause::State(36)), (8, 4, Cause::Families(4))]
        {
            let mut message = good.to_vec();
            message[at] = byte;
            assert_eq!(decode_connections::<Vec<u8>>(&message), Err(WireError { offset: at, cause }));
        }
        let mut mapped = good[..8].to_vec();
        mapped.push(1);
        mapped.extend(Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        mapped.extend(&good[13..]);
        let error = decode_connections::<Vec<u8>>(&mapped);
        assert_eq!(error, Err(WireError { offset: 9, cause: Cause::Mapped }));
    }
}
