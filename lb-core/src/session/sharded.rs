//! Shards for threads: what the stick table and the connection table have in common.
//!
//! A keyed hash picks the shard; each shard has a lock and a cache line of its own. A lock is held for one
//! entry's work (some tens of nanoseconds), never while the caller's code runs, except where a method says
//! so. Two threads meet only when their keys fall into the same shard at the same moment.

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
        let mut swept = Swept { removed: 0, more: budget == 0 };
        let mut left = budget;
        let start = self.next.load(Ordering::Relaxed);
        for turn in 0..self.shards.len() {
            let at = (start + turn) & (self.shards.len() - 1);
            while left > 0 {
                let step = self.shards[at].lock().sweep(now);
                match step {
                    Step::Idle => break,
                    Step::Requeued => {}
                    Step::Removed(entry) => {
                        swept.removed += 1;
                        gone(entry);
                    }
                }
                left -= 1;
                if left == 0 {
                    // The next sweep begins with another shard, so that a busy one does not keep it to itself.
                    self.next.store(at + 1, Ordering::Relaxed);
                    swept.more = true;
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

    /// Looks at up to `max` changed entries and reads those that the cursor's owner has to hear of. Gives the
    /// number it looked at. `read` runs while the shard is locked.
    pub(super) fn changes(
        &self,
        cursor: &mut Cursor,
        max: usize,
        mut read: impl FnMut(&Entry<K, S, V>),
    ) -> usize {
        let mut left = max;
        let start = cursor.next;
        for turn in 0..self.shards.len() {
            let at = (start + turn) & (self.shards.len() - 1);
            let Some(mark) = cursor.marks.get_mut(at) else { break };
            left -= self.shards[at].lock().changes(mark, left, &mut read);
            if left == 0 {
                // The next call begins with another shard, so that a busy one does not keep it to itself.
                cursor.next = at + 1;
                break;
            }
        }
        max - left
    }
}

/// How far a peer has been told of a table's changes.
///
/// Made by a table, and of use with that table alone. Each peer has a cursor of its own; a peer that connects
/// anew gets a new one, since nobody knows what it has kept.
#[derive(Clone, Debug)]
pub struct Cursor {
    marks: Box<[Mark]>,
    /// The shard at which reading goes on.
    next: usize,
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::super::shard::{Life, Origin};
    use super::*;

    fn table(capacity: usize, shards: usize) -> Sharded<u32, (), (), 1> {
        Sharded::new(capacity, shards, Seed::new(1, 2))
    }

    #[test]
    fn shards_hold_the_capacity_between_them() {
        for (capacity, shards, expected) in [
            (0, 64, 1),
            (1, 64, 1),
            (511, 64, 1),
            (512, 64, 2),
            (1000, 1, 1),
            (100_003, 64, 64),
            (100_003, 5, 8),
            (100_003, 0, 1),
            (16_383, 64, 32),
        ] {
            let table = table(capacity, shards);
            assert_eq!(table.capacity(), capacity);
            assert_eq!(table.shards.len(), expected, "{capacity} over {shards}");
        }
    }

    #[test]
    fn each_kind_of_key_and_each_seed_has_its_own_hash() {
        let hashes = [
            table(1, 1).hash(0, b"abcd"),
            table(1, 1).hash(1, b"abcd"),
            Sharded::<u32, (), (), 1>::new(1, 1, Seed::new(2, 2)).hash(0, b"abcd"),
            Sharded::<u32, (), (), 1>::new(1, 1, Seed::new(1, 99)).hash(0, b"abcd"),
        ];
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[i + 1..].contains(hash), "{hashes:x?}");
        }
    }

    #[test]
    fn small_sweeps_come_round_to_every_shard() {
        let table = table(20_000, 16);
        let life = Life { used: Timestamp::ZERO, expires: Timestamp::from_nanos(5), class: 0 };
        for key in 0..10_000u32 {
            let hash = table.hash(0, &key.to_be_bytes());
            table.shard(hash).insert(hash, key, (), (), life, Origin::Here);
        }
        assert_eq!(table.expire(Timestamp::from_nanos(4), 7, drop), Swept { removed: 0, more: false });
        let mut left = 10_000;
        while left > 0 {
            let swept = table.expire(Timestamp::from_nanos(5), 7, drop);
            left -= swept.removed;
            assert_eq!(swept, Swept { removed: 7.min(swept.removed), more: swept.removed == 7 });
            assert_eq!(table.len(), left);
        }
    }

    /// Fills two shards with ten entries each; the entries of each shard.
    fn two_shards() -> (Sharded<u32, (), (), 1>, [Vec<u32>; 2]) {
        let table = table(1024, 2);
        let life = Life { used: Timestamp::ZERO, expires: Timestamp::from_nanos(5), class: 0 };
        let mut keys = [Vec::new(), Vec::new()];
        for key in 0u32.. {
            let hash = table.hash(0, &key.to_be_bytes());
            let keys = &mut keys[(hash >> 40) as usize & 1];
            if keys.len() < 10 {
                keys.push(key);
                table.shard(hash).insert(hash, key, (), (), life, Origin::Here);
            }
            if table.len() == 20 {
                break;
            }
        }
        (table, keys)
    }

    #[test]
    fn a_busy_shard_does_not_keep_a_sweep_to_itself() {
        let (table, _) = two_shards();
        for swept in 1..=5 {
            table.expire(Timestamp::from_nanos(5), 2, drop);
            table.expire(Timestamp::from_nanos(5), 2, drop);
            assert!(table.shards().all(|shard| shard.len() == 10 - 2 * swept));
        }
    }

    #[test]
    fn a_busy_shard_does_not_keep_a_cursor_to_itself() {
        let (table, keys) = two_shards();
        let mut cursor = table.cursor(false);
        let mut read = Vec::new();
        for _ in 0..4 {
            assert_eq!(table.changes(&mut cursor, 5, |entry| read.push(entry.key)), 5);
        }
        assert_eq!(read, [&keys[0][..5], &keys[1][..5], &keys[0][5..], &keys[1][5..]].concat());
        // What changes behind the cursor's place is not taken for the end.
        let hash = table.hash(0, &keys[0][3].to_be_bytes());
        let mut shard = table.shard(hash);
        let slot = shard.find(hash, |key| *key == keys[0][3]).unwrap();
        shard.change(slot, (), 0, Timestamp::from_nanos(1), core::time::Duration::from_nanos(9));
        drop(shard);
        assert_eq!(table.changes(&mut cursor, 5, |entry| read.push(entry.key)), 1);
        assert_eq!(read[20..], [keys[0][3]]);
        assert_eq!(table.changes(&mut cursor, 5, |_| ()), 0);
    }
}
