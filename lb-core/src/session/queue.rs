//! Which entry of a shard ends first.
//!
//! One heap a class of entries, ordered by the moment at which an entry was due *when it was queued*. An
//! entry that is used again lives longer, and the heap need not know: it learns when the entry comes to the
//! top. So a refresh writes to the entry alone, and only what ends sooner than queued (a connection that
//! closes) moves at once.
//!
//! Four children a node: the tree is half as deep as a binary one, and siblings share a cache line.

use alloc::vec::Vec;

use crate::clock::Timestamp;

const CHILDREN: usize = 4;

/// `C` heaps over one numbering of slots; a slot is in at most one of them.
#[derive(Debug)]
pub(super) struct Queues<const C: usize> {
    capacity: usize,
    heaps: [Vec<Node>; C],
    /// By slot: where its node is. Stale for slots that are in no heap.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    due: Timestamp,
    slot: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    at: u32,
    class: u8,
}

impl<const C: usize> Queues<C> {
    /// For slots below `capacity`.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, heaps: [const { Vec::new() }; C], places: Vec::new() }
    }

    /// How many slots queue in `class`.
    pub(super) fn len(&self, class: u8) -> usize {
        self.heaps[usize::from(class)].len()
    }

    /// The slot of `class` that is due first, and when.
    pub(super) fn first(&self, class: u8) -> Option<(u32, Timestamp)> {
        self.heaps[usize::from(class)].first().map(|node| (node.slot, node.due))
    }

    /// Queues a slot that is in no heap.
    pub(super) fn push(&mut self, slot: u32, class: u8, due: Timestamp) {
        let heap = &mut self.heaps[usize::from(class)];
        let at = heap.len();
        let place = Place { at: at as u32, class };
        push_within(heap, Node { due, slot }, self.capacity);
        match self.places.get_mut(slot as usize) {
            Some(stale) => *stale = place,
            // A slab numbers its slots without a gap.
            None => push_within(&mut self.places, place, self.capacity),
        }
        self.rise(class, at);
    }

    /// Takes out a slot that is queued.
    pub(super) fn remove(&mut self, slot: u32) {
        let Place { at, class } = self.places[slot as usize];
        let at = at as usize;
        let heap = &mut self.heaps[usize::from(class)];
        heap.swap_remove(at);
        if at < heap.len() {
            self.settle(class, at);
        }
    }

    /// Gives a queued slot another class or moment.
    pub(super) fn set(&mut self, slot: u32, class: u8, due: Timestamp) {
        if self.places[slot as usize].class == class {
            self.reset(slot, due);
        } else {
            self.remove(slot);
            self.push(slot, class, due);
        }
    }

    /// Gives a queued slot another moment.
    pub(super) fn reset(&mut self, slot: u32, due: Timestamp) {
        let Place { at, class } = self.places[slot as usize];
        self.heaps[usize::from(class)][at as usize].due = due;
        self.settle(class, at as usize);
    }

    pub(super) fn clear(&mut self) {
        self.heaps.iter_mut().for_each(Vec::clear);
        self.places.clear();
    }

    /// Moves the node at `at` up or down to where it belongs.
    fn settle(&mut self, class: u8, at: usize) {
        let at = self.rise(class, at);
        self.sink(class, at);
    }

    fn rise(&mut self, class: u8, mut at: usize) -> usize {
        let heap = &mut self.heaps[usize::from(class)];
        let node = heap[at];
        while at > 0 {
            let parent = (at - 1) / CHILDREN;
            if heap[parent].due <= node.due {
                break;
            }
            heap[at] = heap[parent];
            self.places[heap[at].slot as usize].at = at as u32;
            at = parent;
        }
        heap[at] = node;
        self.places[node.slot as usize].at = at as u32;
        at
    }

    fn sink(&mut self, class: u8, mut at: usize) {
        let heap = &mut self.heaps[usize::from(class)];
        let node = heap[at];
        loop {
            let from = at * CHILDREN + 1;
            let to = (from + CHILDREN).min(heap.len());
            let Some(least) = (from..to).min_by_key(|&child| heap[child].due) else { break };
            if heap[least].due >= node.due {
                break;
            }
            heap[at] = heap[least];
            self.places[heap[at].slot as usize].at = at as u32;
            at = least;
        }
        heap[at] = node;
        self.places[node.slot as usize].at = at as u32;
    }
}

/// Pushes onto a vector that never holds more than `capacity`: doubles as vectors do, but not beyond that.
pub(super) fn push_within<T>(vec: &mut Vec<T>, item: T, capacity: usize) {
    if vec.len() == vec.capacity() {
        vec.reserve_exact(vec.len().max(16).min(capacity.saturating_sub(vec.len())).max(1));
    }
    vec.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is pushed, set and removed, the first is a slot with the least moment of its class.
        #[test]
        fn the_first_is_the_earliest(
            steps in prop::collection::vec((0u32..40, 0u8..2, 0u64..1000, 0u8..3), 1..400),
        ) {
            let mut queues = Queues::<2>::new(40);
            (0..40).for_each(|slot| queues.push(slot, 0, Timestamp::ZERO));
            (0..40).for_each(|slot| queues.remove(slot));
            let mut model = BTreeMap::new();
            for (slot, class, due, what) in steps {
                let due = Timestamp::from_nanos(due);
                match (model.contains_key(&slot), what) {
                    (false, _) => {
                        queues.push(slot, class, due);
                        model.insert(slot, (class, due));
                    }
                    (true, 0) => {
                        queues.remove(slot);
                        model.remove(&slot);
                    }
                    (true, _) => {
                        queues.set(slot, class, due);
                        model.insert(slot, (class, due));
                    }
                }
                for class in 0..2 {
                    let of_class = || model.iter().filter(move |(_, entry)| entry.0 == class);
                    prop_assert_eq!(queues.len(class), of_class().count());
                    let least = of_class().map(|(_, entry)| entry.1).min();
                    prop_assert_eq!(queues.first(class).map(|(_, due)| due), least);
                    if let Some((slot, due)) = queues.first(class) {
                        prop_assert_eq!(model[&slot], (class, due));
                    }
                }
            }
        }
    }
}
