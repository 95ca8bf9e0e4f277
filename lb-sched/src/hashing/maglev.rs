//! Maglev hashing.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

use lb_core::Set;
use lb_core::hash::xxh3_with_seed;
use thiserror::Error;

use crate::mix::{Random, STEP, mix};
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `maglev`: a key's hash picks a slot of a large table, in which every backend has the share of slots that its
/// weight says, at places that its name decides.
///
/// When a backend leaves, nearly only its own keys move: of the others about one in two hundred, with 100 backends.
/// Directors that have the same list agree without talking. A request without key and client is sent by chance. A
/// retry goes to the slots that further hashes of the key pick.
///
/// *Cost*: one look-up. A rebuild fills the table: about 2 ms for 65 537 slots.
/// *When*: affinity for many backends, or several directors. *Source*: Eisenbud et al., Maglev: a fast and reliable
/// software network load balancer (NSDI 2016), section 3.4; weights by taking turns as often as they say, as Envoy.
/// Slow start has no part in it.
#[derive(Debug)]
pub struct Maglev {
    random: Random,
    size: u32,
    table: Box<[u32]>,
}

/// A size that a Maglev table cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a Maglev table cannot have {size} slots: take a prime from 2 to 16 777 213, such as 65537 or 655373"
)]
pub struct UnsuitableSize {
    /// The size asked for.
    pub size: u32,
}

impl Maglev {
    /// The paper's smaller table.
    pub const DEFAULT_SIZE: u32 = 65_537;

    /// 65 537 slots. The seed serves requests that have no key.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), size: Self::DEFAULT_SIZE, table: Box::default() }
    }

    /// With another number of slots: at least a hundred a backend keep shares within a few per cent.
    ///
    /// # Errors
    /// [`UnsuitableSize`]: it must be prime, or a backend's places would not reach every slot.
    pub fn with_size(mut self, size: u32) -> Result<Self, UnsuitableSize> {
        // The range first: it bounds both the search for a divisor and the squares in it.
        let fits = (2..=16_777_213).contains(&size);
        let prime = || (2..).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d));
        if !(fits && prime()) {
            return Err(UnsuitableSize { size });
        }
        self.size = size;
        Ok(self)
    }

    #[inline]
    fn slot(&self, hash: u64) -> Option<usize> {
        // A multiplication takes an even hash to a slot as well as the paper's division does.
        let slot = (u128::from(hash) * self.table.len() as u128) >> 64;
        self.table.get(slot as usize).map(|&position| position as usize)
    }

    #[inline(never)]
    fn pick_with_care(&self, set: &Set, request: &Request<'_>, key: Option<u64>) -> Option<usize> {
        let key = key.unwrap_or_else(|| self.random.next(None));
        let position = self.slot(key)?;
        if request.admits(set, position) { Some(position) } else { self.next_best(key, set, request) }
    }

    #[cold]
    fn next_best(&self, key: u64, set: &Set, request: &Request<'_>) -> Option<usize> {
        let mut hash = key;
        for _ in 0..64 {
            hash = mix(hash.wrapping_add(STEP));
            let position = self.slot(hash)?;
            if request.admits(set, position) {
                return Some(position);
            }
        }
        let start = ((u128::from(hash) * set.len() as u128) >> 64) as usize;
        let open = |&i: &usize| set.get(i).is_some_and(|member| member.weight > 0);
        (start..set.len()).chain(0..start).filter(open).find(|&i| request.admits(set, i))
    }
}

/// Where a backend's next turn goes: slot `at`, then `skip` on, round the table.
struct Walk {
    position: u32,
    at: u32,
    skip: u32,
    weight: u64,
    turns: u64,
}

const FREE: u32 = u32::MAX;

/// Bits of a turn's place in the queue that say whose it is; the upper ones are its round.
const WALK_BITS: u32 = 24;

fn fill(size: u32, set: &Set) -> Box<[u32]> {
    let mut members: Vec<_> = (0..).zip(set.iter()).filter(|(_, member)| member.weight > 0).collect();
    // Turns are taken by name, so that directors agree whatever the order of their lists.
    members.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let mut walks: Vec<Walk> = members
        .into_iter()
        .map(|(position, member)| {
            let name = member.name.as_bytes();
            Walk {
                position,
                at: (xxh3_with_seed(name, 0) % u64::from(size)) as u32,
                skip: (xxh3_with_seed(name, 1) % u64::from(size - 1)) as u32 + 1,
                weight: member.weight.into(),
                turns: 0,
            }
        })
        .collect();
    let Some(greatest) = walks.iter().map(|walk| walk.weight).max() else { return Box::default() };
    // The heaviest has a turn in every round, the others when their weights have added up to the greatest.
    let turn = |walk: &Walk, index: usize| {
        Reverse(((walk.turns + 1) * greatest).div_ceil(walk.weight) << WALK_BITS | index as u64)
    };
    let mut queue: BinaryHeap<_> = walks.iter().enumerate().map(|(index, walk)| turn(walk, index)).collect();
    let mut table = vec![FREE; size as usize].into_boxed_slice();
    for _ in 0..size {
        let Some(mut next) = queue.peek_mut() else { break };
        let index = (next.0 & ((1 << WALK_BITS) - 1)) as usize;
        let Some(walk) = walks.get_mut(index) else { break };
        // The size is prime, so the walk comes by every slot, and there is a free one.
        while table[walk.at as usize] != FREE {
            walk.at = step(walk.at, walk.skip, size);
        }
        table[walk.at as usize] = walk.position;
        walk.turns += 1;
        *next = turn(walk, index);
    }
    table
}

#[inline]
fn step(at: u32, skip: u32, size: u32) -> u32 {
    let next = at + skip;
    if next >= size { next - size } else { next }
}

impl Scheduler for Maglev {
    fn rebuild(&self, set: &Set) -> Self {
        Self { random: self.random.handed_on(), size: self.size, table: fill(self.size, set) }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        match request.key_hash() {
            Some(key) if request.admits_all(set) => self.slot(key),
            key => self.pick_with_care(set, request, key),
        }
    }
}
