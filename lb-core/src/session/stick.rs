//! The stick table: a client comes back to the server that it had.

use alloc::vec::Vec;
use core::time::Duration;

use super::key::{Key, KeyBuf};
use super::shard::{Entry, Life, Origin};
use super::sharded::{Cursor, Sharded};
use super::{Counters, Imported, LONGEST, Merged, Seed, Swept};
use crate::clock::Timestamp;

/// How a [`StickTable`] is made.
///
/// ```
/// use core::time::Duration;
/// use lb_core::session::StickConfig;
///
/// // HAProxy's `stick-table type ip size 100k expire 30m nopurge`.
/// let config = StickConfig::new(100_000, Duration::from_secs(30 * 60)).nopurge();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StickConfig {
    capacity: usize,
    idle: Duration,
    purge: bool,
    longest_key: usize,
    shards: usize,
}

impl StickConfig {
    /// A table of at most `capacity` entries (HAProxy's `size`), each of which ends when it has not been used
    /// for `idle` (HAProxy's `expire`). [`Duration::MAX`] means that entries end only by eviction.
    #[must_use]
    pub const fn new(capacity: usize, idle: Duration) -> Self {
        Self { capacity, idle, purge: true, longest_key: 256, shards: 64 }
    }

    /// A full table refuses new entries rather than evict old ones (HAProxy's `nopurge`).
    #[must_use]
    pub const fn nopurge(mut self) -> Self {
        self.purge = false;
        self
    }

    /// Keys of more than `bytes` bytes are refused; default 256. It bounds the table's memory.
    #[must_use]
    pub const fn longest_key(mut self, bytes: usize) -> Self {
        self.longest_key = bytes;
        self
    }

    /// How many shards to spread the entries over, rounded up to a power of two; default 64. A small table
    /// takes fewer by itself, so that each has room for at least 256 entries.
    #[must_use]
    pub const fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }
}

/// An entry was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StickError {
    /// The table is full and may not evict.
    #[error(
        "the stick table is full ({capacity} entries) and set to nopurge: raise its size, or let it evict"
    )]
    Full {
        /// How many entries the table can hold.
        capacity: usize,
    },
    /// The key is longer than the table keeps.
    #[error(
        "a key of {len} bytes exceeds the stick table's longest key of {max}: raise longest_key, or hash the key"
    )]
    KeyTooLong {
        /// The key's length in bytes.
        len: usize,
        /// The longest key that the table keeps.
        max: usize,
    },
}

/// The answer of [`StickTable::get_or_insert_with`]: the value to use, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck<V> {
    /// The table knew the key.
    Known(V),
    /// The table did not know the key, and now does.
    Stored(V),
    /// The table did not know the key and could not store it. The value serves this once.
    Unstored(V, StickError),
}

impl<V> Stuck<V> {
    /// The value, wherever it comes from.
    pub fn into_value(self) -> V {
        match self {
            Stuck::Known(value) | Stuck::Stored(value) | Stuck::Unstored(value, _) => value,
        }
    }
}

/// One entry as a plain value, to show or to send to a peer.
///
/// It carries spans rather than moments: clocks of two machines have nothing to do with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StickEntry<V> {
    /// What the session is known by.
    pub key: KeyBuf,
    /// What the session sticks to.
    pub value: V,
    /// Time until it ends, unless it is used again.
    pub remaining: Duration,
    /// Time since it was last used.
    pub idle: Duration,
}

impl<V> StickEntry<V> {
    /// The same entry with another value, or `None` if `f` knows none: a peer sends a server's name, this
    /// process keeps its identifier.
    pub fn try_map<W>(self, f: impl FnOnce(V) -> Option<W>) -> Option<StickEntry<W>> {
        let Self { key, value, remaining, idle } = self;
        Some(StickEntry { key, value: f(value)?, remaining, idle })
    }
}

/// Key → value, for as long as the key keeps coming.
///
/// Every use of an entry prolongs it by the idle time. A full table evicts the entry that ends first, which
/// is the one least recently used, or refuses the new one ([`StickConfig::nopurge`]). Both, as counters and
/// the idle time, are those of [HAProxy's stick
/// tables](https://docs.haproxy.org/2.6/configuration.html#4-stick-table).
///
/// Shared by reference between threads; see the [module](super) for locks, memory and order.
///
/// ```
/// # #[cfg(feature = "std")] {
/// use core::net::IpAddr;
/// use core::time::Duration;
/// use lb_core::clock::Timestamp;
/// use lb_core::session::{Key, StickConfig, StickTable};
///
/// let table = StickTable::new(StickConfig::new(1000, Duration::from_secs(60)));
/// let client = Key::source("192.0.2.7".parse::<IpAddr>()?);
///
/// let server = table.get_or_insert_with(client, Timestamp::from_secs(0), || "web1").into_value();
/// assert_eq!(server, "web1");
/// // 50 s later it still is, and that use prolongs it; 61 s after that it has ended.
/// assert_eq!(table.lookup(client, Timestamp::from_secs(50)), Some("web1"));
/// assert_eq!(table.lookup(client, Timestamp::from_secs(111)), None);
/// # }
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
#[derive(Debug)]
pub struct StickTable<V> {
    config: StickConfig,
    shards: Sharded<KeyBuf, (), V, 1>,
}

impl<V: Clone> StickTable<V> {
    /// An empty table whose hash is seeded by the operating system's randomness.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn new(config: StickConfig) -> Self {
        Self::with_seed(config, Seed::random())
    }

    /// An empty table with a given seed: the same calls then give the same results.
    #[must_use]
    pub fn with_seed(config: StickConfig, seed: Seed) -> Self {
        let idle = config.idle.min(LONGEST);
        Self {
            shards: Sharded::new(config.capacity, config.shards, seed),
            config: StickConfig { idle, ..config },
        }
    }

    /// The value of a key, which lives for another idle time from `now`. Allocates nothing.
    pub fn lookup(&self, key: Key<'_>, now: Timestamp) -> Option<V> {
        key.with_bytes(|bytes| {
            let kind = key.kind();
            let hash = self.shards.hash(kind as u8, bytes);
            let mut shard = self.shards.shard(hash);
            let slot = shard
                .find(hash, |known| known.is(kind, bytes))
                .filter(|&slot| shard.entry(slot).is_live(now));
            let Some(slot) = slot else {
                shard.counters.misses += 1;
                return None;
            };
            shard.counters.hits += 1;
            shard.refresh(slot, now, self.config.idle);
            Some(shard.entry(slot).value.clone())
        })
    }

    /// The value of a key; neither prolongs its life nor counts.
    pub fn peek(&self, key: Key<'_>, now: Timestamp) -> Option<V> {
        key.with_bytes(|bytes| {
            let kind = key.kind();
            let hash = self.shards.hash(kind as u8, bytes);
            let shard = self.shards.shard(hash);
            let entry = shard.entry(shard.find(hash, |known| known.is(kind, bytes))?);
            entry.is_live(now).then(|| entry.value.clone())
        })
    }

    /// The value of a key, or else the one that `choose` gives, which the key has from now on.
    ///
    /// `choose` runs without a lock. When two threads bring the same new key at once both may choose; both
    /// get the value of the first.
    pub fn get_or_insert_with(&self, key: Key<'_>, now: Timestamp, choose: impl FnOnce() -> V) -> Stuck<V> {
        let chosen = self.get_or_try_insert_with(key, now, || Ok::<V, core::convert::Infallible>(choose()));
        match chosen {
            Ok(stuck) => stuck,
            Err(never) => match never {},
        }
    }

    /// As [`StickTable::get_or_insert_with`] with a choice that can fail.
    ///
    /// # Errors
    /// That of `choose`; the table stays as it was.
    pub fn get_or_try_insert_with<E>(
        &self,
        key: Key<'_>,
        now: Timestamp,
        choose: impl FnOnce() -> Result<V, E>,
    ) -> Result<Stuck<V>, E> {
        if let Some(value) = self.lookup(key, now) {
            return Ok(Stuck::Known(value));
        }
        let value = choose()?;
        Ok(match self.store(key, value.clone(), self.fresh(now), Origin::Here, now, false) {
            Ok(Stored::Added | Stored::Replaced(_)) => Stuck::Stored(value),
            Ok(Stored::Kept(first)) => Stuck::Known(first),
            Err(error) => Stuck::Unstored(value, error),
        })
    }

    /// Gives a key a value, whatever it had; gives back what it had.
    ///
    /// # Errors
    /// [`StickError`] when it cannot be stored.
    pub fn insert(&self, key: Key<'_>, value: V, now: Timestamp) -> Result<Option<V>, StickError> {
        Ok(match self.store(key, value, self.fresh(now), Origin::Here, now, true)? {
            Stored::Replaced(before) => Some(before),
            Stored::Added | Stored::Kept(_) => None,
        })
    }

    /// Takes out a key; gives back its value, if it had not ended by `now`.
    ///
    /// Peers do not hear of it: theirs ends by itself.
    pub fn remove(&self, key: Key<'_>, now: Timestamp) -> Option<V> {
        key.with_bytes(|bytes| {
            let kind = key.kind();
            let hash = self.shards.hash(kind as u8, bytes);
            let mut shard = self.shards.shard(hash);
            let slot = shard.find(hash, |known| known.is(kind, bytes))?;
            let entry = shard.remove(slot);
            entry.is_live(now).then_some(entry.value)
        })
    }

    /// Takes out every entry of one value: its server is gone. Gives their number.
    ///
    /// Looks at every entry; one shard is locked at a time.
    pub fn remove_value(&self, value: &V) -> usize
    where
        V: PartialEq,
    {
        self.shards.remove_where(|entry| entry.value == *value, drop)
    }

    /// Takes out everything. Gives the number of entries.
    pub fn clear(&self) -> usize {
        self.shards.shards().map(|mut shard| shard.clear()).sum()
    }

    /// Takes out entries that have ended by `now`, with at most `budget` steps of work; the next call goes on.
    ///
    /// A step is an entry that is taken out, or one that has been used since it was queued and is queued
    /// anew. An entry that has ended is never given out, swept or not: sweeping frees its room.
    pub fn expire(&self, now: Timestamp, budget: usize) -> Swept {
        self.shards.expire(now, budget, drop)
    }

    /// Every entry that has not ended by `now`, in no particular order.
    ///
    /// Each shard is copied when the iterator comes to it: entries that change meanwhile may show either way.
    pub fn entries(&self, now: Timestamp) -> impl Iterator<Item = StickEntry<V>> + '_ {
        self.shards.entries(move |entry| plain(entry, now))
    }

    /// How many entries there are, those that have ended but are not yet swept included.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries the table can hold.
    ///
    /// Each shard has its even part of them. The hash spreads keys as chance does, so a table of many shards
    /// begins to evict when it is nearly full, a few percent before.
    pub fn capacity(&self) -> usize {
        self.shards.capacity()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shards.counters()
    }

    /// A cursor before all entries: a peer that knows nothing is first taught everything.
    pub fn cursor(&self) -> Cursor {
        self.shards.cursor(false)
    }

    /// A cursor after all entries: only what changes from now on.
    pub fn cursor_at_end(&self) -> Cursor {
        self.shards.cursor(true)
    }

    /// The next entries that a peer has to hear of, at most `max`; none when it has heard of all.
    ///
    /// Entries come in the order of their last change, shard by shard, each as it is now. New entries and new
    /// values are changes; a use is one when the last was long ago, so that what a peer knows is never more
    /// than an eighth of the idle time behind. What was learned from a peer is told to those alone whose
    /// cursor is older, and what was removed is not told.
    pub fn changes(&self, cursor: &mut Cursor, now: Timestamp, max: usize) -> Vec<StickEntry<V>> {
        let mut changed = Vec::new();
        // What has ended, or came from a peer, is passed over; an empty answer has to mean the end all the
        // same.
        while self.shards.changes(cursor, max, |entry| changed.extend(plain(entry, now))) > 0
            && changed.is_empty()
        {}
        changed
    }

    /// Takes over what a peer knows of one key. The more recently used of the two wins.
    ///
    /// The entry ends when the peer's does, but no later than a fresh one of this table.
    pub fn merge(&self, entry: StickEntry<V>, now: Timestamp) -> Merged {
        let life =
            Life { used: now - entry.idle, expires: now + entry.remaining.min(self.config.idle), class: 0 };
        if life.expires <= now {
            return Merged::Ended;
        }
        match self.store(entry.key.as_key(), entry.value, life, Origin::Peer, now, true) {
            Ok(Stored::Added) => Merged::Added,
            Ok(Stored::Replaced(_)) => Merged::Replaced,
            Ok(Stored::Kept(_)) => Merged::Older,
            Err(_) => Merged::Refused,
        }
    }

    /// Merges all that a peer has sent; counts what became of it.
    pub fn import(&self, entries: impl IntoIterator<Item = StickEntry<V>>, now: Timestamp) -> Imported {
        entries.into_iter().map(|entry| self.merge(entry, now)).collect()
    }

    fn fresh(&self, now: Timestamp) -> Life {
        Life { used: now, expires: now + self.config.idle, class: 0 }
    }

    /// Stores an entry, unless the key has one that has not ended: that one is kept if it is not to be
    /// replaced, or if it is as recent as a peer's.
    fn store(
        &self,
        key: Key<'_>,
        value: V,
        life: Life,
        origin: Origin,
        now: Timestamp,
        replace: bool,
    ) -> Result<Stored<V>, StickError> {
        if key.len() > self.config.longest_key {
            return Err(StickError::KeyTooLong { len: key.len(), max: self.config.longest_key });
        }
        key.with_bytes(|bytes| {
            let kind = key.kind();
            let hash = self.shards.hash(kind as u8, bytes);
            let mut shard = self.shards.shard(hash);
            if let Some(slot) = shard.find(hash, |known| known.is(kind, bytes)) {
                let live = shard.entry(slot).is_live(now);
                if live && (!replace || origin == Origin::Peer && shard.outdates(slot, life.used)) {
                    return Ok(Stored::Kept(shard.entry(slot).value.clone()));
                }
                let ((), before) = shard.replace(slot, (), value, life, origin);
                return Ok(if live { Stored::Replaced(before) } else { Stored::Added });
            }
            let may_go = if self.config.purge { 1 } else { 0 };
            // What a peer knows does not push out what lives longer.
            let before = if origin == Origin::Here { Timestamp::MAX } else { life.expires };
            if shard.make_room(now, may_go, before).is_err() {
                drop(shard);
                return Err(StickError::Full { capacity: self.config.capacity });
            }
            shard.insert(hash, key.into(), (), value, life, origin);
            Ok(Stored::Added)
        })
    }
}

/// What became of an entry to store.
enum Stored<V> {
    Added,
    Replaced(V),
    Kept(V),
}

/// The entry as a plain value, unless it has ended.
fn plain<V: Clone>(entry: &Entry<KeyBuf, (), V>, now: Timestamp) -> Option<StickEntry<V>> {
    entry.is_live(now).then(|| StickEntry {
        key: entry.key.clone(),
        value: entry.value.clone(),
        remaining: entry.expires.saturating_since(now),
        idle: now.saturating_since(entry.used),
    })
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const SEED: Seed = Seed::new(1, 2);

    #[test]
    fn what_cannot_be_stored_says_what_to_do_and_serves_once() {
        let table =
            StickTable::with_seed(StickConfig::new(1, Duration::from_secs(9)).nopurge().longest_key(3), SEED);
        let now = Timestamp::ZERO;
        assert_eq!(table.insert(Key::Bytes(b"abc"), 1, now), Ok(None));
        let full = StickError::Full { capacity: 1 };
        let long = StickError::KeyTooLong { len: 4, max: 3 };
        assert_eq!(table.insert(Key::Bytes(b"x"), 2, now), Err(full));
        assert_eq!(table.get_or_insert_with(Key::Bytes(b"x"), now, || 3), Stuck::Unstored(3, full));
        assert_eq!(table.get_or_insert_with(Key::Bytes(b"abcd"), now, || 4), Stuck::Unstored(4, long));
        assert_eq!(table.lookup(Key::Bytes(b"abc"), now), Some(1));
        assert!(full.to_string().contains("1 entries") && full.to_string().contains("raise its size"));
        assert!(long.to_string().contains("4 bytes") && long.to_string().contains("raise longest_key"));
        let counters = table.counters();
        assert_eq!((counters.inserted, counters.refused, counters.evicted), (1, 2, 0));
        // What has ended makes room even so.
        assert_eq!(table.insert(Key::Bytes(b"x"), 5, Timestamp::from_secs(9)), Ok(None));
        assert_eq!(table.counters().expired, 1);
    }

    #[test]
    fn a_choice_that_fails_leaves_nothing() {
        let table = StickTable::<u8>::with_seed(StickConfig::new(9, Duration::from_secs(9)), SEED);
        let key = Key::Cookie(b"a");
        assert_eq!(table.get_or_try_insert_with(key, Timestamp::ZERO, || Err("no server")), Err("no server"));
        assert!(table.is_empty());
    }

    #[test]
    fn without_an_end_the_least_recently_used_goes() {
        let table = StickTable::with_seed(StickConfig::new(2, Duration::MAX), SEED);
        let at = Timestamp::from_secs;
        table.insert(Key::Bytes(b"a"), 1, at(1)).unwrap();
        table.insert(Key::Bytes(b"b"), 2, at(2)).unwrap();
        assert_eq!(table.lookup(Key::Bytes(b"a"), at(3)), Some(1));
        table.insert(Key::Bytes(b"c"), 3, at(1_000_000_000)).unwrap();
        let left = [b"a", b"b", b"c"].map(|key| table.peek(Key::Bytes(key), at(1_000_000_000)));
        assert_eq!(left, [Some(1), None, Some(3)]);
    }

    #[test]
    fn moments_that_cross_keep_the_later() {
        let table = StickTable::with_seed(StickConfig::new(9, Duration::from_secs(10)), SEED);
        let (key, at) = (Key::Bytes(b"a"), Timestamp::from_secs);
        table.insert(key, 1, at(20)).unwrap();
        assert_eq!(table.lookup(key, at(12)), Some(1));
        assert_eq!(table.peek(key, at(29)), Some(1));
    }

    #[test]
    fn clearing_empties_and_the_table_goes_on() {
        let table = StickTable::with_seed(StickConfig::new(1000, Duration::from_secs(10)), SEED);
        let mut cursor = table.cursor();
        for round in 0..3 {
            for key in 0..100u8 {
                table.insert(Key::Bytes(&[key]), round, Timestamp::ZERO).unwrap();
            }
            assert_eq!(table.changes(&mut cursor, Timestamp::ZERO, 1000).len(), 100);
            assert_eq!((table.clear(), table.len()), (100, 0));
            assert!(table.changes(&mut cursor, Timestamp::ZERO, 1000).is_empty());
        }
    }
}
