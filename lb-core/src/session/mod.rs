//! Sessions: which server a client, or a connection, belongs to.
//!
//! | table | from | to | ends |
//! |---|---|---|---|
//! | [`StickTable`] | a client's address, a cookie, any key ([`Key`]) | a value of yours | when not used for the idle time |
//! | [`ConnectionTable`] | a connection ([`Flow`]) | a value and a [`State`] | by IPVS's [`Timeouts`] of that state |
//!
//! The value is yours: a backend's id, its name, a reference-counted node. It is cloned at every lookup, so
//! keep it small.
//!
//! ```
//! # #[cfg(feature = "std")] {
//! use core::net::{IpAddr, SocketAddr};
//! use core::time::Duration;
//! use lb_core::clock::Timestamp;
//! use lb_core::session::*;
//!
//! let now = Timestamp::ZERO;
//! let clients = StickTable::new(StickConfig::new(10_000, Duration::from_secs(1800)));
//! let flows = ConnectionTable::new(ConnectionConfig::new(100_000));
//!
//! let (client, service) = ("192.0.2.7:40000".parse()?, "198.51.100.1:80".parse()?);
//! let flow = Flow::new(Protocol::Tcp, client, service);
//! let syn = Packet::from_client(Segment::Tcp(TcpFlags::SYN));
//!
//! let server = match flows.packet(&flow, syn, now) {
//!     Some(seen) => seen.value,
//!     None => {
//!         let server = clients.get_or_insert_with(Key::from(client), now, || "web1").into_value();
//!         flows.insert(flow, server, syn, now).expect("the table has room");
//!         server
//!     }
//! };
//! assert_eq!(server, "web1");
//! # }
//! # Ok::<(), core::net::AddrParseError>(())
//! ```
//!
//! # Time
//! No table reads a clock: every call takes `now`. Entries that have ended are never given out. They leave
//! the table when `expire` comes to them, a bounded number of steps at a time, so that a thread can sweep
//! between packets. When the moments of two threads cross, an entry keeps the later one.
//!
//! # Threads
//! Tables are shared by reference. Keys are spread over shards by a keyed hash (SipHash-1-3: who chooses keys
//! cannot aim at one shard or bucket); each shard is a mutex on cache lines of its own, held for one entry's
//! work. It is a `parking_lot` mutex with the feature `std`, a spinning one without. No code of the caller's
//! runs under a lock except the value's `Clone`, `Drop` and `PartialEq`, which must not use the same table.
//!
//! # Memory
//! A table allocates as it fills, by doubling, and never beyond its capacity. With a value of eight bytes an
//! entry takes at most 143 bytes in a stick table (and its key's own length, if above 21) and 175 in a
//! connection table: 64 for the entry, one cache line; 32 for its place among the changes; 16 for each class
//! it can queue in (1 and 3) and 8 to find it there; up to 23 in the index. Lookups, refreshes and sweeps
//! allocate nothing; an insertion does when a shard grows, or for a key of more than 21 bytes.
//!
//! # Peers
//! `changes` reads what a peer has to hear of, incrementally, from a [`Cursor`]; `merge` takes in what a peer
//! has sent; [`wire`] is the form between them. Entries travel with the time they have left, not with a
//! moment, and the more recently used of two wins. Two tables that tell each other everything agree, and do
//! not keep an entry alive by telling it to and fro: what came from a peer is not passed on until it is used
//! here, and a peer that sends something older than what is here is told so once.

mod connection;
mod flow;
mod key;
mod queue;
mod shard;
mod sharded;
mod state;
mod stick;
mod tcp;
pub mod wire;

use core::iter::Sum;
use core::ops::Add;
use core::time::Duration;

pub use connection::{
    Census, Connection, ConnectionConfig, ConnectionError, ConnectionTable, Joined, Seen, Shift, WhenFull,
};
pub use flow::{Flow, Protocol};
pub use key::{Key, KeyBuf};
pub use sharded::Cursor;
pub use state::{Packet, SctpChunk, SctpState, Segment, Side, State, Timeouts, View};
pub use stick::{StickConfig, StickEntry, StickError, StickTable, Stuck};
pub use tcp::{TcpFlags, TcpState};

/// Longer lives are cut to this: 146 years, so that a moment and a life always add up to a moment of their own.
const LONGEST: Duration = Duration::from_nanos(u64::MAX / 4);

/// The secret of a table's hash.
///
/// Who knows it can choose keys that all fall into one bucket. Draw it at random (`Seed::random`, with the
/// feature `std`), except where runs have to repeat.
#[derive(Clone, Copy)]
pub struct Seed([u64; 2]);

impl Seed {
    /// A seed of your own.
    #[must_use]
    pub const fn new(a: u64, b: u64) -> Self {
        Self([a, b])
    }

    /// A seed from the operating system's randomness.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // The standard library draws the keys of its own hash maps from there; a keyed hash of a constant
        // shows none.
        let state = RandomState::new();
        Self([state.hash_one(0u8), state.hash_one(1u8)])
    }
}

/// Keeps its secret.
impl core::fmt::Debug for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// What has happened in a table since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Counters {
    /// Lookups that found an entry.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// New keys stored, those from peers included.
    pub inserted: u64,
    /// Entries taken out before their end, to make room.
    pub evicted: u64,
    /// Entries taken out after their end.
    pub expired: u64,
    /// New keys not stored because the table was full.
    pub refused: u64,
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            inserted: self.inserted + other.inserted,
            evicted: self.evicted + other.evicted,
            expired: self.expired + other.expired,
            refused: self.refused + other.refused,
        }
    }
}

impl Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// How many entries it took out.
    pub removed: usize,
    /// Whether its budget ended before its work: sweep again soon.
    pub more: bool,
}

/// What became of one entry from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merged {
    /// It is new here.
    Added,
    /// It was used more recently than what was here, and took its place.
    Replaced,
    /// What is here was used as recently or more recently, and stays.
    Older,
    /// It had already ended.
    Ended,
    /// There was no room, or its key is too long.
    Refused,
}

/// What became of the entries from a peer, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// How many were new here.
    pub added: usize,
    /// How many took the place of an entry that was used less recently.
    pub replaced: usize,
    /// How many gave way to an entry that was used as recently or more recently.
    pub older: usize,
    /// How many had already ended.
    pub ended: usize,
    /// For how many there was no room.
    pub refused: usize,
}

impl FromIterator<Merged> for Imported {
    fn from_iter<I: IntoIterator<Item = Merged>>(all: I) -> Self {
        let mut imported = Self::default();
        for merged in all {
            *match merged {
                Merged::Added => &mut imported.added,
                Merged::Replaced => &mut imported.replaced,
                Merged::Older => &mut imported.older,
                Merged::Ended => &mut imported.ended,
                Merged::Refused => &mut imported.refused,
            } += 1;
        }
        imported
    }
}
