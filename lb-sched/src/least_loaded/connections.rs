//! Least connections, weighted or not.

use alloc::boxed::Box;
use alloc::sync::Arc;

use lb_core::load::Counters;
use lb_core::{Outcome, Set, lane};

use super::tree::Tournament;
use crate::request::Request;
use crate::scheduler::Scheduler;

/// How IPVS adds active and inactive connections up to one load. Where nothing is inactive, as in a proxy, all
/// orders are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Overhead {
    /// 256 · active + inactive: older kernels.
    #[default]
    Times256,
    /// 257 · active + inactive: newer kernels.
    Times257,
}

impl Overhead {
    #[inline]
    fn of(self, load: &Counters) -> u64 {
        let factor = match self {
            Self::Times256 => 256,
            Self::Times257 => 257,
        };
        factor * u64::from(load.active()) + u64::from(load.inactive())
    }
}

/// `lc` and `wlc`: the backend that has the least to do, in relation to its weight or not; of several the first in
/// list order.
///
/// *Cost*: the order is kept in a tree that follows every start and end, so a choice among 1000 looks at 16, and a
/// change touches two levels. Threads share the tree; each sees what was true a moment ago.
/// *When*: requests differ in how long they take. Under light load nearly all go to the first of the list, as it is
/// idle whenever one comes. Exact; [`PowerOfTwo`](crate::PowerOfTwo) is cheaper under many
/// threads. *Source*: IPVS `lc`, `wlc`. A retry takes the next least loaded.
#[derive(Debug)]
pub struct LeastConnections {
    weighted: bool,
    overhead: Overhead,
    tree: Tournament,
    members: Box<[Leaf]>,
    /// The leaf of each position.
    leaves: Box<[u32]>,
}

/// Who is at a leaf of the tree.
#[derive(Debug)]
struct Leaf {
    /// Where all requests count, as [`Scheduler::reads_load`] asks for.
    counters: Arc<Counters>,
    weight: u32,
    position: u32,
}

/// No leaf: the position takes no new work.
const NONE: u32 = u32::MAX;

impl LeastConnections {
    /// `lc`: weights do not count, except that 0 gets nothing.
    pub fn new() -> Self {
        Self::with(false)
    }

    /// `wlc`: load divided by weight.
    pub fn weighted() -> Self {
        Self::with(true)
    }

    fn with(weighted: bool) -> Self {
        Self {
            weighted,
            overhead: Overhead::default(),
            tree: Tournament::default(),
            members: Box::default(),
            leaves: Box::default(),
        }
    }

    /// With another sum of active and inactive connections.
    pub fn overhead(mut self, overhead: Overhead) -> Self {
        self.overhead = overhead;
        self
    }

    /// Load by weight as a fixed-point number of 32 fraction bits. Two different fractions whose denominators are
    /// below 2¹⁶ differ by more than 2⁻³², so they rank as the fractions themselves, and equal ones rank equal. (While a
    /// backend ramps up weights are larger, and fractions that differ by less rank equal.)
    #[inline]
    fn rank(&self, leaf: &Leaf) -> u64 {
        let overhead = self.overhead.of(&leaf.counters);
        if self.weighted {
            (overhead.min(u64::from(u32::MAX)) << 32) / u64::from(leaf.weight.max(1))
        } else {
            overhead
        }
    }

    #[inline]
    fn refresh(&self, position: usize) {
        let leaf = self.leaves.get(position).copied().unwrap_or(NONE) as usize;
        if let Some(member) = self.members.get(leaf) {
            self.tree.refresh(leaf, || self.rank(member));
        }
    }

    #[cold]
    fn next_best(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let position = |leaf: usize| self.members[leaf].position as usize;
        self.tree.best_where(|leaf| request.admits(set, position(leaf))).map(position)
    }
}

impl Default for LeastConnections {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler for LeastConnections {
    fn rebuild(&self, set: &Set) -> Self {
        let open = (0..).zip(set.weights()).zip(set.iter()).filter(|((_, weight), _)| **weight > 0);
        let members: Box<[Leaf]> = open
            .map(|((position, &weight), member)| Leaf {
                counters: Arc::clone(member.load.lane(lane::SHARED)),
                weight,
                position,
            })
            .collect();
        let mut leaves: Box<[u32]> = set.iter().map(|_| NONE).collect();
        for (leaf, member) in (0..).zip(&members) {
            leaves[member.position as usize] = leaf;
        }
        let tree = Tournament::new(members.iter().map(|member| self.rank(member)));
        Self { weighted: self.weighted, overhead: self.overhead, tree, members, leaves }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let position = self.members.get(self.tree.best()?)?.position as usize;
        if request.admits(set, position) { Some(position) } else { self.next_best(set, request) }
    }

    #[inline]
    fn reads_load(&self) -> bool {
        true
    }

    #[inline]
    fn wants_feedback(&self) -> bool {
        true
    }

    #[inline]
    fn started(&self, _set: &Set, position: usize) {
        self.refresh(position);
    }

    #[inline]
    fn finished(&self, _set: &Set, position: usize, _outcome: Option<Outcome>) {
        self.refresh(position);
    }

    fn published(&self, set: &Set) {
        for position in 0..set.len() {
            self.refresh(position);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::rotation::tests::{balancer, update};
    use super::*;

    /// The next choices, all of which stay active.
    fn held<S: Scheduler>(
        balancer: &crate::Balancer<char, S>,
        count: usize,
    ) -> (String, Vec<crate::Lease<char>>) {
        let leases: Vec<_> = (0..count).filter_map(|_| balancer.pick(&Request::new()).ok()).collect();
        (leases.iter().map(|lease| **lease).collect(), leases)
    }

    #[test]
    fn the_least_loaded_and_of_several_the_first() {
        let lc = balancer(LeastConnections::new(), &[1, 9, 0, 1]);
        assert_eq!(held(&lc, 7).0, "abdabda");
        let wlc = balancer(LeastConnections::weighted(), &[1, 3]);
        assert_eq!(held(&wlc, 8).0, "abbbabbb");
    }

    #[test]
    fn an_end_counts_wherever_the_set_has_gone_since() {
        let lc = balancer(LeastConnections::new(), &[1, 1, 1]);
        let (_, mut leases) = held(&lc, 6);
        update(&lc, &[0, 1, 1]);
        update(&lc, &[1, 1, 1]);
        drop(leases.remove(1));
        assert_eq!(held(&lc, 1).0, "b");
        lc.edit(|edit| edit.remove("c")).unwrap();
        drop(leases);
        assert!(lc.snapshot().set().iter().all(|member| member.load.active() == 0));
        assert_eq!(held(&lc, 2).0, "ab");
    }

    #[test]
    fn who_is_avoided_or_full_leaves_the_next_least_loaded() {
        let lc = balancer(LeastConnections::new(), &[1, 1, 1]);
        let (_, _leases) = held(&lc, 4);
        let ids: Vec<_> = lc.snapshot().set().iter().map(|member| member.id).collect();
        for (avoid, expected) in [(&ids[1..2], Some('c')), (&ids[1..], Some('a')), (&ids[..], None)] {
            let got = lc.pick(&Request::new().avoid(avoid)).ok();
            assert_eq!(got.map(|lease| *lease), expected);
        }
        lc.edit(|edit| edit.entry("b").map(|entry| entry.limit = 1)).unwrap();
        assert_eq!(held(&lc, 1).0, "c");
    }

    #[test]
    fn an_inactive_connection_weighs_a_little() {
        let lc = balancer(LeastConnections::new(), &[1, 1]);
        let lingering = lc.pick(&Request::new()).unwrap().close(None);
        assert_eq!(held(&lc, 1).0, "b");
        drop(lingering);
        assert_eq!(held(&lc, 1).0, "a");
    }
}
