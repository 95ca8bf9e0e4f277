//! One shard: a bounded map whose entries end, in the order in which they end, with a list of what changed.
//!
//! Three structures over one numbering of slots: an index from hash to slot, a queue of what ends first
//! ([`Queues`]), and a list of entries from the longest unchanged to the last changed, which a peer's cursor
//! follows. A lookup that refreshes its entry writes to the entry alone; the other two learn of it when it
//! matters. What a lookup needs is one cache line ([`Entry`]); the rest is kept elsewhere ([`Link`]).

use alloc::vec::Vec;
use core::time::Duration;

use hashbrown::HashTable;
use slab::Slab;

use super::Counters;
use super::queue::{Queues, push_within};
use crate::clock::Timestamp;

/// How many refreshed entries an eviction puts back in their places before it takes the best that it has seen.
///
/// Bounds the work of one insertion. The choice is exact as long as no more than this many of the oldest
/// entries were used since they were last queued.
const LOOK_AT: usize = 64;

/// A refresh is news to a peer when it happens in a later span of time than the last use: spans are a part of
/// the timeout this many binary digits shorter.
///
/// So a peer's copy ends at most an eighth of a timeout too early, and a busy entry is told at most sixteen
/// times a timeout.
const PART_BITS: u32 = 3;

/// No slot: the end of the list.
const NONE: u32 = u32::MAX;

/// The most slots that a shard can number.
const MOST: usize = NONE as usize - 1;

/// Where an entry was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// By this process; peers have to hear of it.
    Here,
    /// By a peer, which tells the others itself.
    Peer,
}

/// A key, what it has, and how long they live: a cache line where key and value allow it.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Entry<K, S, V> {
    pub(super) key: K,
    pub(super) state: S,
    pub(super) value: V,
    /// When it was last used.
    pub(super) used: Timestamp,
    /// When it ends: the first moment at which it is not there. Never before the moment it is queued for.
    pub(super) expires: Timestamp,
}

/// What the index and the list of changes keep of an entry.
#[derive(Clone, Copy, Debug)]
struct Link {
    hash: u64,
    /// When it was last changed; counts the changes of its shard.
    version: u64,
    older: u32,
    newer: u32,
    origin: Origin,
}

impl<K, S, V> Entry<K, S, V> {
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        self.expires > now
    }
}

/// When an entry was used, when it ends, and in which class it queues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) used: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) class: u8,
}

/// How far a cursor has read the list of changes of one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// The last version that was read.
    version: u64,
    /// Where it was then; a hint that saves the search.
    slot: u32,
    /// Up to this version what came from peers is read as well.
    teach: u64,
}

/// One step of a sweep.
#[derive(Debug)]
pub(super) enum Step<K, S, V> {
    /// An entry had ended.
    Removed(Entry<K, S, V>),
    /// An entry had been used since, and was queued anew.
    Requeued,
    /// Nothing is due.
    Idle,
}

#[derive(Debug)]
pub(super) struct Shard<K, S, V, const C: usize> {
    capacity: usize,
    index: HashTable<u32>,
    slots: Slab<Entry<K, S, V>>,
    /// By slot; stale for slots that are empty.
    links: Vec<Link>,
    queues: Queues<C>,
    oldest: u32,
    newest: u32,
    version: u64,
    pub(super) counters: Counters,
}

impl<K, S, V, const C: usize> Shard<K, S, V, C> {
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(MOST);
        Self {
            capacity,
            index: HashTable::new(),
            slots: Slab::new(),
            links: Vec::new(),
            queues: Queues::new(capacity),
            oldest: NONE,
            newest: NONE,
            version: 0,
            counters: Counters::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn len_of(&self, class: u8) -> usize {
        self.queues.len(class)
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The slot of a key, ended or not.
    pub(super) fn find(&self, hash: u64, is: impl Fn(&K) -> bool) -> Option<u32> {
        self.index.find(hash, |&slot| is(&self.slots[slot as usize].key)).copied()
    }

    pub(super) fn entry(&self, slot: u32) -> &Entry<K, S, V> {
        &self.slots[slot as usize]
    }

    /// Every entry, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<K, S, V>> {
        self.slots.iter().map(|(_, entry)| entry)
    }

    /// Notes that an entry was used at `now`, and lives for `timeout` from then on. Its class stays.
    pub(super) fn refresh(&mut self, slot: u32, now: Timestamp, timeout: Duration) {
        let entry = &mut self.slots[slot as usize];
        let before = entry.used;
        entry.used = before.max(now);
        let expires = entry.used + timeout;
        if expires < entry.expires {
            // Only what a peer knew of a longer life ends sooner than it was queued for.
            self.queues.reset(slot, expires);
        }
        entry.expires = expires;
        let part = (timeout.as_nanos() as u64 >> PART_BITS).max(1).ilog2();
        if (before.as_nanos() ^ entry.used.as_nanos()) >> part != 0 {
            self.tell(slot, Origin::Here);
        }
    }

    /// Notes that an entry is in another state since `now`, in which it lives for `timeout` and queues in
    /// `class`.
    pub(super) fn change(&mut self, slot: u32, state: S, class: u8, now: Timestamp, timeout: Duration) {
        let entry = &mut self.slots[slot as usize];
        entry.state = state;
        entry.used = entry.used.max(now);
        entry.expires = entry.used + timeout;
        self.queues.set(slot, class, entry.expires);
        self.tell(slot, Origin::Here);
    }

    /// Whether an entry is used as recently as what a peer sent. If more recently, the peer has to hear of it.
    pub(super) fn outdates(&mut self, slot: u32, used: Timestamp) -> bool {
        let known = self.entry(slot).used;
        if known > used {
            self.tell(slot, Origin::Here);
        }
        known >= used
    }

    /// Gives an entry another state, value and life; gives back what it had.
    pub(super) fn replace(&mut self, slot: u32, state: S, value: V, life: Life, origin: Origin) -> (S, V) {
        let entry = &mut self.slots[slot as usize];
        entry.used = life.used;
        entry.expires = life.expires;
        let state = core::mem::replace(&mut entry.state, state);
        let value = core::mem::replace(&mut entry.value, value);
        self.queues.set(slot, life.class, life.expires);
        self.tell(slot, origin);
        (state, value)
    }

    /// Puts in a key that is not there. The caller has seen to it that there is room.
    pub(super) fn insert(&mut self, hash: u64, key: K, state: S, value: V, life: Life, origin: Origin) {
        if self.slots.len() == self.slots.capacity() {
            // Doubles, as a vector does, but never beyond what the capacity can fill.
            let more = self.slots.len().max(16).min(self.capacity.saturating_sub(self.slots.len()));
            self.slots.reserve_exact(more);
        }
        let Life { used, expires, class } = life;
        let slot = self.slots.insert(Entry { key, state, value, used, expires }) as u32;
        let link = Link { hash, version: 0, older: NONE, newer: NONE, origin };
        match self.links.get_mut(slot as usize) {
            Some(stale) => *stale = link,
            None => push_within(&mut self.links, link, self.capacity),
        }
        let links = &self.links;
        self.index.insert_unique(hash, slot, |&other| links[other as usize].hash);
        self.queues.push(slot, class, expires);
        self.append(slot);
        self.counters.inserted += 1;
    }

    pub(super) fn remove(&mut self, slot: u32) -> Entry<K, S, V> {
        let hash = self.links[slot as usize].hash;
        if let Ok(found) = self.index.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        self.queues.remove(slot);
        self.unlink(slot);
        self.slots.remove(slot as usize)
    }

    pub(super) fn clear(&mut self) -> usize {
        let gone = self.slots.len();
        self.index.clear();
        self.slots.clear();
        self.links.clear();
        self.queues.clear();
        (self.oldest, self.newest) = (NONE, NONE);
        gone
    }

    /// Makes room for one entry. Gives what it had to take out for it, or `Err` if nothing may go.
    ///
    /// What has ended goes first, whatever its class; then, if it ends by `before`, the entry that ends first
    /// of the lowest class under `limit`.
    pub(super) fn make_room(
        &mut self,
        now: Timestamp,
        limit: u8,
        before: Timestamp,
    ) -> Result<Option<Entry<K, S, V>>, Full> {
        if self.slots.len() < self.capacity {
            return Ok(None);
        }
        let mut victim = None;
        for class in 0..C as u8 {
            let wanted = victim.is_none() && class < limit;
            // Nothing ends before it is due: what is not due has not ended.
            let due = self.queues.first(class).is_some_and(|(_, due)| due <= now);
            let Some(slot) = (wanted || due).then(|| self.first(class)).flatten() else { continue };
            if !self.entry(slot).is_live(now) {
                self.counters.expired += 1;
                return Ok(Some(self.remove(slot)));
            }
            if wanted {
                victim = Some(slot);
            }
        }
        match victim {
            Some(slot) if self.entry(slot).expires <= before => {
                self.counters.evicted += 1;
                Ok(Some(self.remove(slot)))
            }
            _ => {
                self.counters.refused += 1;
                Err(Full)
            }
        }
    }

    /// The entry of `class` that ends first: exactly, unless more than [`LOOK_AT`] were refreshed since they
    /// queued.
    fn first(&mut self, class: u8) -> Option<u32> {
        let mut best: Option<(Timestamp, u32)> = None;
        for _ in 0..LOOK_AT {
            let (slot, due) = self.queues.first(class)?;
            let expires = self.entry(slot).expires;
            if best.is_none_or(|(least, _)| expires < least) {
                best = Some((expires, slot));
            }
            if due == expires {
                return Some(slot);
            }
            self.queues.reset(slot, expires);
        }
        best.map(|(_, slot)| slot)
    }

    /// Looks at the one entry that is due first.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Step<K, S, V> {
        let due = (0..C as u8)
            .filter_map(|class| self.queues.first(class).map(|(slot, due)| (due, slot)))
            .min_by_key(|&(due, _)| due);
        match due {
            Some((due, slot)) if due <= now => {
                let entry = self.entry(slot);
                if entry.is_live(now) {
                    let expires = entry.expires;
                    self.queues.reset(slot, expires);
                    Step::Requeued
                } else {
                    self.counters.expired += 1;
                    Step::Removed(self.remove(slot))
                }
            }
            _ => Step::Idle,
        }
    }

    /// The first slot from `from` on whose entry is meant.
    pub(super) fn position(&self, from: u32, meant: impl Fn(&Entry<K, S, V>) -> bool) -> Option<u32> {
        (from as usize..self.slots.capacity())
            .find(|&slot| self.slots.get(slot).is_some_and(&meant))
            .map(|slot| slot as u32)
    }

    /// A mark before the first change, or after the last.
    pub(super) fn mark(&self, at_end: bool) -> Mark {
        Mark { version: if at_end { self.version } else { 0 }, slot: NONE, teach: self.version }
    }

    /// Reads up to `max` changes after the mark, and moves the mark. Gives the number of entries it looked at.
    pub(super) fn changes(
        &self,
        mark: &mut Mark,
        max: usize,
        mut read: impl FnMut(&Entry<K, S, V>),
    ) -> usize {
        let mut next = self.after(mark);
        let mut looked = 0;
        while next != NONE && looked < max {
            let link = self.links[next as usize];
            if link.origin == Origin::Here || link.version <= mark.teach {
                read(self.entry(next));
            }
            (mark.version, mark.slot) = (link.version, next);
            next = link.newer;
            looked += 1;
        }
        looked
    }

    /// The first slot whose version is later than the mark's.
    fn after(&self, mark: &Mark) -> u32 {
        let at_mark = self.links.get(mark.slot as usize).filter(|link| link.version == mark.version);
        if let Some(link) = at_mark.filter(|_| self.slots.contains(mark.slot as usize)) {
            return link.newer;
        }
        let (mut at, mut first) = (self.newest, NONE);
        while at != NONE && self.links[at as usize].version > mark.version {
            first = at;
            at = self.links[at as usize].older;
        }
        first
    }

    /// Puts an entry at the end of the list of changes.
    fn tell(&mut self, slot: u32, origin: Origin) {
        self.links[slot as usize].origin = origin;
        self.unlink(slot);
        self.append(slot);
    }

    fn append(&mut self, slot: u32) {
        self.version += 1;
        let link = &mut self.links[slot as usize];
        link.version = self.version;
        link.older = self.newest;
        link.newer = NONE;
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.links[newest as usize].newer = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Link { older, newer, .. } = self.links[slot as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }
}

/// A shard is full, and nothing in it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[cfg(test)]
mod tests {
    use super::super::{Flow, KeyBuf, State};
    use super::*;

    #[test]
    fn what_a_lookup_needs_is_one_cache_line() {
        assert_eq!(size_of::<Entry<KeyBuf, (), u64>>(), 64);
        assert_eq!(size_of::<Entry<Flow, State, u64>>(), 64);
        assert_eq!(size_of::<Option<Entry<Flow, State, u64>>>(), 64);
        assert_eq!(size_of::<Link>(), 32);
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// `n` entries, all of one class, each a nanosecond younger than the one before.
    fn full(n: u32) -> Shard<u32, (), (), 1> {
        let mut shard = Shard::new(n as usize);
        for key in 0..n {
            let used = Timestamp::from_nanos(key.into());
            let life = Life { used, expires: used + MINUTE, class: 0 };
            shard.insert(key.into(), key, (), (), life, Origin::Here);
        }
        shard
    }

    fn refresh(shard: &mut Shard<u32, (), (), 1>, keys: core::ops::Range<u32>, now: Timestamp) {
        for key in keys {
            let slot = shard.find(key.into(), |known| *known == key).unwrap();
            shard.refresh(slot, now, MINUTE);
        }
    }

    #[test]
    fn eviction_is_exact_up_to_a_bound_and_then_takes_an_old_one() {
        let later = Timestamp::from_secs(30);
        let evicted = |refreshed: u32| {
            let mut shard = full(1000);
            refresh(&mut shard, 0..refreshed, later);
            shard.make_room(later, 1, Timestamp::MAX).unwrap().unwrap().key
        };
        for refreshed in [0, 1, 10, LOOK_AT as u32 - 1] {
            assert_eq!(evicted(refreshed), refreshed);
        }
        // Beyond the bound it is one of those it has looked at; the next evictions go on where it stopped.
        assert!(evicted(500) < LOOK_AT as u32);
        let mut shard = full(1000);
        refresh(&mut shard, 0..500, later);
        let keys: Vec<u32> = core::iter::from_fn(|| {
            let gone = shard.make_room(later, 1, Timestamp::MAX).unwrap()?.key;
            let life = Life { used: later, expires: later + MINUTE, class: 0 };
            shard.insert((2000 + gone).into(), 2000 + gone, (), (), life, Origin::Here);
            Some(gone)
        })
        .take(50)
        .collect();
        assert_eq!(keys.iter().filter(|key| **key < 500).count(), 500 / LOOK_AT, "{keys:?}");
        assert!(keys[500 / LOOK_AT..].iter().copied().eq(500..550 - (500 / LOOK_AT) as u32), "{keys:?}");
    }

    #[test]
    fn what_ends_sooner_than_it_was_queued_for_is_swept_in_time() {
        let mut shard = Shard::<u32, (), (), 1>::new(1);
        let life = Life { used: Timestamp::ZERO, expires: Timestamp::from_secs(100), class: 0 };
        shard.insert(1, 1, (), (), life, Origin::Peer);
        refresh(&mut shard, 1..2, Timestamp::from_secs(10));
        assert!(matches!(shard.sweep(Timestamp::from_nanos(69_999_999_999)), Step::Idle));
        assert!(matches!(shard.sweep(Timestamp::from_secs(70)), Step::Removed(_)));
    }

    #[test]
    fn a_busy_entry_is_news_eight_to_sixteen_times_a_timeout() {
        let mut shard = full(1);
        let mut mark = shard.mark(true);
        let mut told = 0;
        for second in 1..=600 {
            refresh(&mut shard, 0..1, Timestamp::from_secs(second));
            told += shard.changes(&mut mark, 10, |_| {});
        }
        assert!((80..=160).contains(&told), "{told} times in ten timeouts");
    }

    #[test]
    fn a_mark_survives_what_happens_to_its_entry() {
        let mut shard = full(10);
        let mut mark = shard.mark(false);
        let mut read = Vec::new();
        shard.changes(&mut mark, 4, |entry| read.push(entry.key));
        // The entry at the mark goes, another takes its slot, and one that was read changes again.
        shard.remove(shard.find(3, |key| *key == 3).unwrap());
        let life = Life { used: Timestamp::ZERO, expires: Timestamp::MAX, class: 0 };
        shard.insert(77, 77, (), (), life, Origin::Here);
        refresh(&mut shard, 1..2, Timestamp::from_secs(59));
        while shard.changes(&mut mark, 3, |entry| read.push(entry.key)) > 0 {}
        assert_eq!(read, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 77, 1]);
    }
}
