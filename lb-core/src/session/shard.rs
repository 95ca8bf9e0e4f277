//! One shard: a bounded map whose entries end, in the order in which they end, with a list of what changed.
//!
//! Three structures over one numbering of slots: an index from hash to slot, a queue of what ends first ([`Queues`]),
//! and a list of entries from the longest unchanged to the last changed, which a peer's cursor follows. A lookup that
//! refreshes its entry writes to the entry alone; the other two learn of it when it matters.

use core::time::Duration;

use hashbrown::HashTable;
use slab::Slab;

use super::Counters;
use super::queue::Queues;
use crate::clock::Timestamp;

/// How many refreshed entries an eviction puts back in their places before it takes the best that it has seen.
///
/// Bounds the work of one insertion. The choice is exact as long as no more than this many of the oldest entries
/// were used since they were last queued.
const LOOK_AT: usize = 64;

/// A refresh is news to a peer once this part of the timeout has gone by since the peer was last told.
///
/// So a peer's copy ends at most an eighth of a timeout too early, and a busy entry is sent eight times a timeout.
const PARTS: u32 = 8;

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

/// A key, its value, and how long they live.
#[derive(Debug)]
pub(super) struct Entry<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    hash: u64,
    /// When it was last used.
    pub(super) used: Timestamp,
    /// When it ends: the first moment at which it is not there. Never before the moment it is queued for.
    pub(super) expires: Timestamp,
    /// What `expires` was when it was last announced as a change.
    told: Timestamp,
    version: u64,
    older: u32,
    newer: u32,
    class: u8,
    pub(super) origin: Origin,
}

impl<K, V> Entry<K, V> {
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
pub(super) enum Step<K, V> {
    /// An entry had ended.
    Removed(Entry<K, V>),
    /// An entry had been used since, and was queued anew.
    Requeued,
    /// Nothing is due.
    Idle,
}

#[derive(Debug)]
pub(super) struct Shard<K, V, const C: usize> {
    capacity: usize,
    index: HashTable<u32>,
    slots: Slab<Entry<K, V>>,
    queues: Queues<C>,
    oldest: u32,
    newest: u32,
    version: u64,
    pub(super) counters: Counters,
}

impl<K, V, const C: usize> Shard<K, V, C> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.min(MOST),
            index: HashTable::new(),
            slots: Slab::new(),
            queues: Queues::new(),
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
        self.index
            .find(hash, |&slot| {
                let entry = &self.slots[slot as usize];
                entry.hash == hash && is(&entry.key)
            })
            .copied()
    }

    pub(super) fn entry(&self, slot: u32) -> &Entry<K, V> {
        &self.slots[slot as usize]
    }

    pub(super) fn value_mut(&mut self, slot: u32) -> &mut V {
        &mut self.slots[slot as usize].value
    }

    /// Every entry, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<K, V>> {
        self.slots.iter().map(|(_, entry)| entry)
    }

    /// Notes that an entry was used at `now`, and now lives for `timeout` in `class`; `news` if peers must know at once.
    pub(super) fn touch(&mut self, slot: u32, class: u8, now: Timestamp, timeout: Duration, news: bool) {
        let entry = &mut self.slots[slot as usize];
        entry.used = entry.used.max(now);
        let expires = entry.used + timeout;
        let moves = expires < entry.expires || class != entry.class;
        entry.expires = expires;
        entry.class = class;
        let tell = news || expires.saturating_since(entry.told) >= timeout / PARTS;
        if moves {
            self.queues.set(slot, class, expires);
        }
        if tell {
            self.tell(slot, Origin::Here);
        }
    }

    /// Overwrites what a peer knows better.
    pub(super) fn replace(&mut self, slot: u32, value: V, life: Life, origin: Origin) -> V {
        let entry = &mut self.slots[slot as usize];
        entry.used = life.used;
        entry.expires = life.expires;
        entry.class = life.class;
        let before = core::mem::replace(&mut entry.value, value);
        self.queues.set(slot, life.class, life.expires);
        self.tell(slot, origin);
        before
    }

    /// Puts in a key that is not there. The caller has seen to it that there is room.
    pub(super) fn insert(&mut self, hash: u64, key: K, value: V, life: Life, origin: Origin) -> u32 {
        if self.slots.len() == self.slots.capacity() {
            // Doubles, as a vector does, but never beyond what the capacity can fill.
            let more = self.slots.len().max(16).min(self.capacity.saturating_sub(self.slots.len()));
            self.slots.reserve_exact(more);
        }
        let slot = self.slots.insert(Entry {
            key,
            value,
            hash,
            used: life.used,
            expires: life.expires,
            told: life.expires,
            version: 0,
            older: NONE,
            newer: NONE,
            class: life.class,
            origin,
        }) as u32;
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |&other| slots[other as usize].hash);
        self.queues.push(slot, life.class, life.expires);
        self.append(slot);
        self.counters.inserted += 1;
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Entry<K, V> {
        let hash = self.slots[slot as usize].hash;
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
        self.queues.clear();
        (self.oldest, self.newest) = (NONE, NONE);
        gone
    }

    /// Makes room for one entry. Gives what it had to take out for it, or `Err` if nothing may go.
    ///
    /// What has ended goes first, whatever its class; then, if it ends by `before`, the entry that ends first of the
    /// lowest class under `limit`.
    pub(super) fn make_room(
        &mut self,
        now: Timestamp,
        limit: u8,
        before: Timestamp,
    ) -> Result<Option<Entry<K, V>>, Full> {
        if self.slots.len() < self.capacity {
            return Ok(None);
        }
        let mut victim = None;
        for class in 0..C as u8 {
            let Some(slot) = self.first(class) else { continue };
            if !self.entry(slot).is_live(now) {
                self.counters.expired += 1;
                return Ok(Some(self.remove(slot)));
            }
            if victim.is_none() && class < limit {
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

    /// The entry of `class` that ends first: exactly, unless more than [`LOOK_AT`] were refreshed since they queued.
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
            self.queues.set(slot, class, expires);
        }
        best.map(|(_, slot)| slot)
    }

    /// Looks at the one entry that is due first.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Step<K, V> {
        let due = (0..C as u8)
            .filter_map(|class| self.queues.first(class).map(|(slot, due)| (due, slot, class)))
            .min_by_key(|&(due, ..)| due);
        match due {
            Some((due, slot, class)) if due <= now => {
                let entry = self.entry(slot);
                if entry.is_live(now) {
                    let expires = entry.expires;
                    self.queues.set(slot, class, expires);
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
    pub(super) fn position(&self, from: u32, meant: impl Fn(&Entry<K, V>) -> bool) -> Option<u32> {
        (from as usize..self.slots.capacity())
            .find(|&slot| self.slots.get(slot).is_some_and(&meant))
            .map(|slot| slot as u32)
    }

    /// A mark before the first change, or after the last.
    pub(super) fn mark(&self, at_end: bool) -> Mark {
        Mark { version: if at_end { self.version } else { 0 }, slot: NONE, teach: self.version }
    }

    /// Reads up to `max` changes after the mark, and moves the mark. Gives the number of entries it looked at.
    pub(super) fn changes(&self, mark: &mut Mark, max: usize, mut read: impl FnMut(&Entry<K, V>)) -> usize {
        let mut next = self.after(mark);
        let mut looked = 0;
        while next != NONE && looked < max {
            let entry = self.entry(next);
            if entry.origin == Origin::Here || entry.version <= mark.teach {
                read(entry);
            }
            (mark.version, mark.slot) = (entry.version, next);
            next = entry.newer;
            looked += 1;
        }
        looked
    }

    /// The first slot whose version is later than the mark's.
    fn after(&self, mark: &Mark) -> u32 {
        if let Some(entry) = self.slots.get(mark.slot as usize)
            && entry.version == mark.version
        {
            return entry.newer;
        }
        let (mut at, mut first) = (self.newest, NONE);
        while at != NONE && self.entry(at).version > mark.version {
            first = at;
            at = self.entry(at).older;
        }
        first
    }

    /// Puts an entry at the end of the list of changes.
    fn tell(&mut self, slot: u32, origin: Origin) {
        let entry = &mut self.slots[slot as usize];
        entry.origin = origin;
        entry.told = entry.expires;
        self.unlink(slot);
        self.append(slot);
    }

    fn append(&mut self, slot: u32) {
        self.version += 1;
        let entry = &mut self.slots[slot as usize];
        entry.version = self.version;
        entry.older = self.newest;
        entry.newer = NONE;
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.slots[newest as usize].newer = slot,
        }
        self.newest = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { older, newer, .. } = self.slots[slot as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }
}

/// A shard is full, and nothing in it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;
