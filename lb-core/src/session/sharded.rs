//! Shards for threads: what the stick table and the connection table have in common.
//!
//! A keyed hash picks the shard; each shard has a lock and a cache line of its own. A lock is held for one entry's
//! work (some tens of nanoseconds), never while the caller's code runs, except where a method says so. Two threads
//! meet only when their keys fall into the same shard at the same moment.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use siphasher::sip::SipHasher13;

use super::shard::{Entry, Mark, Shard, Step};
use super::{Counters, Seed, Swept};
use crate::clock::Timestamp;
use crate::sync::{Mutex, MutexGuard};

/// The least that a shard should hold, so that chance does not fill one long before the others.
const LEAST_PER_SHARD: usize = 256;

type Padded<K, S, V, const C: usize> = CachePadded<Mutex<Shard<K, S, V, C>>>;

#[derive(Debug)]
pub(super) struct Sharded<K, S, V, const C: usize> {
    shards: Box<[Padded<K, S, V, C>]>,
    seed: Seed,
    /// The shard at which the next sweep starts.
    next: AtomicUsize,
}

impl<K, S, V, const C: usize> Sharded<K, S, V, C> {
    /// `capacity` entries, spread evenly over up to `shards` shards.
    pub(super) fn new(capacity: usize, shards: usize, seed: Seed) -> Self {
        let wanted = shards.clamp(1, 1 << 16).next_power_of_two();
        let sensible = (capacity / LEAST_PER_SHARD).max(1);
        // The largest power of two that is neither more than wanted nor more than sensible.
        let count = wanted.min(1 << sensible.ilog2());
        let shards = (0..count)
            .map(|i| {
                CachePadded::new(Mutex::new(Shard::new(capacity / count + usize::from(i < capacity % count))))
            })
            .collect();
        Self { shards, seed, next: AtomicUsize::new(0) }
    }

    /// The hash of a key; each `kind` of key has a hash function of its own.
    pub(super) fn hash(&self, kind: u8, bytes: &[u8]) -> u64 {
        let Seed([a, b]) = self.seed;
        SipHasher13::new_with_keys(a, b ^ u64::from(kind)).hash(bytes)
    }

    /// The shard of a hash, locked.
    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<K, S, V, C>> {
        // Bits that the index inside the shard looks at least.
        self.shards[(hash >> 40) as usize & (self.shards.len() - 1)].lock()
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<K, S, V, C>>> {
        self.shards.iter().map(|shard| shard.lock())
    }

    pub(super) fn len(&self) -> usize {
        self.shards().map(|shard| shard.len()).sum()
    }

    pub(super) fn len_of(&self, class: u8) -> usize {
        self.shards().map(|shard| shard.len_of(class)).sum()
    }

    pub(super) fn capacity(&self) -> usize {
        self.shards().map(|shard| shard.capacity()).sum()
    }

    pub(super) fn counters(&self) -> Counters {
        self.shards().fold(Counters::default(), |sum, shard| sum + shard.counters)
    }

    /// Takes out what has ended, at most `budget` steps of work, and gives each to `gone` with no lock held.
    pub(super) fn expire(
        &self,
        now: Timestamp,
        budget: usize,
        mut gone: impl FnMut(Entry<K, S, V>),
    ) -> Swept {
        let mut swept = Swept { removed: 0, more: false };
        let mut left = budget;
        let start = self.next.load(Ordering::Relaxed);
        for turn in 0..self.shards.len() {
            let at = (start + turn) & (self.shards.len() - 1);
            loop {
                if left == 0 {
                    self.next.store(at, Ordering::Relaxed);
                    swept.more = true;
                    return swept;
                }
                let step = self.shards[at].lock().sweep(now);
                match step {
                    Step::Idle => break,
                    Step::Requeued => left -= 1,
                    Step::Removed(entry) => {
                        left -= 1;
                        swept.removed += 1;
                        gone(entry);
                    }
                }
            }
        }
        swept
    }

    /// Takes out every entry that is meant, and gives each to `gone` with no lock held.
    pub(super) fn remove_where(
        &self,
        meant: impl Fn(&Entry<K, S, V>) -> bool,
        mut gone: impl FnMut(Entry<K, S, V>),
    ) -> usize {
        let mut removed = 0;
        for shard in &self.shards {
            let mut from = 0;
            loop {
                let mut shard = shard.lock();
                let Some(slot) = shard.position(from, &meant) else { break };
                let entry = shard.remove(slot);
                drop(shard);
                from = slot + 1;
                removed += 1;
                gone(entry);
            }
        }
        removed
    }

    /// What `read` makes of every entry, shard by shard; a shard is copied as a whole, then its lock is free.
    pub(super) fn entries<'a, T: 'a>(
        &'a self,
        read: impl Fn(&Entry<K, S, V>) -> Option<T> + 'a,
    ) -> impl Iterator<Item = T> + 'a {
        self.shards.iter().flat_map(move |shard| shard.lock().iter().filter_map(&read).collect::<Vec<T>>())
    }

    pub(super) fn cursor(&self, at_end: bool) -> Cursor {
        Cursor { marks: self.shards().map(|shard| shard.mark(at_end)).collect(), next: 0 }
    }

    /// Looks at up to `max` changed entries and reads those that the cursor's owner has to hear of. Gives the number it
    /// looked at. `read` runs while the shard is locked.
    pub(super) fn changes(
        &self,
        cursor: &mut Cursor,
        max: usize,
        mut read: impl FnMut(&Entry<K, S, V>),
    ) -> usize {
        let mut left = max;
        for (at, mark) in cursor.marks.iter_mut().enumerate().skip(cursor.next) {
            let Some(shard) = self.shards.get(at) else { break };
            left -= shard.lock().changes(mark, left, &mut read);
            if left == 0 {
                // This shard may have more: the next call begins with it.
                cursor.next = at;
                return max;
            }
        }
        cursor.next = 0;
        max - left
    }
}

/// How far a peer has been told of a table's changes.
///
/// Made by a table, and of use with that table alone. Each peer has a cursor of its own; a peer that connects anew
/// gets a new one, since nobody knows what it has kept.
#[derive(Clone, Debug)]
pub struct Cursor {
    marks: Box<[Mark]>,
    /// The shard at which reading goes on.
    next: usize,
}
