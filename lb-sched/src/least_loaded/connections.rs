//! Least connections, weighted or not.

use alloc::boxed::Box;
use alloc::sync::Arc;

use lb_core::load::Counters;
use lb_core::{Member, Outcome, Set, lane};

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
/// change touches two levels. Threads share the tree, and each sees what was true a moment ago; sharing it costs them
/// the transfer of its cache lines. [`striped`](Self::striped) gives threads that meet trees of their own.
/// *When*: requests differ in how long they take. Under light load nearly all go to the first of the list, as it is
/// idle whenever one comes. Exact; [`PowerOfTwo`](crate::PowerOfTwo) is cheaper under many
/// threads. *Source*: IPVS `lc`, `wlc`. A retry takes the next least loaded.
#[derive(Debug)]
pub struct LeastConnections {
    weighted: bool,
    overhead: Overhead,
    striped: bool,
    /// By lane, if it is striped.
    trees: Box<[Tree]>,
    /// The leaf of each position.
    leaves: Box<[u32]>,
}

/// The order by the load of one lane.
#[derive(Debug)]
struct Tree {
    tree: Tournament,
    members: Box<[Leaf]>,
}

/// Who is at a leaf of the tree.
#[derive(Debug)]
struct Leaf {
    /// Where all requests count, as [`Scheduler::reads_load`] asks for, or those of its lane.
    counters: Arc<Counters>,
    /// What the load is multiplied with to divide it by the weight.
    inverse: u128,
    position: u32,
}

/// Fraction bits of an inverse beyond those of a rank. With these, the product of any load below 2³² and the inverse,
/// rounded up, of any weight below 2²⁰ is exact in the bits of the rank (Granlund, Montgomery: Division by invariant
/// integers using multiplication, 1994).
const SPARE: u32 = 52;

/// One over the weight.
fn inverse(weight: u32) -> u128 {
    (1u128 << (32 + SPARE)).div_ceil(u128::from(weight.max(1)))
}

/// Load over weight, rounded down to 32 fraction bits.
#[inline]
fn divided(load: u64, inverse: u128) -> u64 {
    ((u128::from(load.min(u64::from(u32::MAX))) * inverse) >> SPARE) as u64
}

/// No leaf: the position takes no new work.
const NONE: u32 = u32::MAX;

impl LeastConnections {
    /// `lc`: weights do not count, except that 0 gets nothing.
    pub fn new() -> Self {
        Self {
            weighted: false,
            overhead: Overhead::default(),
            striped: false,
            trees: Box::default(),
            leaves: Box::default(),
        }
    }

    /// `wlc`: load divided by weight.
    pub fn weighted() -> Self {
        Self { weighted: true, ..Self::new() }
    }

    /// The same where threads that meet go by the requests that each of them starts itself, as if each were a balancer
    /// of its own: then they share nothing. Under limits they share again.
    pub fn striped(mut self) -> Self {
        self.striped = true;
        self
    }

    /// With another sum of active and inactive connections.
    pub fn overhead(mut self, overhead: Overhead) -> Self {
        self.overhead = overhead;
        self
    }

    /// The tree that goes by what `lane` counts.
    #[inline]
    fn tree(&self, lane: usize) -> Option<&Tree> {
        match &*self.trees {
            [shared] => Some(shared),
            trees => trees.get(lane),
        }
    }

    /// Load by weight as a fixed-point number of 32 fraction bits. Two different fractions whose denominators are
    /// below 2¹⁶ differ by more than 2⁻³², so they rank as the fractions themselves, and equal ones rank equal. (While a
    /// backend ramps up weights are larger, and fractions that differ by less rank equal.)
    #[inline]
    fn rank(&self, leaf: &Leaf) -> u64 {
        let overhead = self.overhead.of(&leaf.counters);
        if self.weighted { divided(overhead, leaf.inverse) } else { overhead }
    }

    #[inline]
    fn refresh(&self, position: usize, lane: usize) {
        let leaf = self.leaves.get(position).copied().unwrap_or(NONE) as usize;
        if let Some(Tree { tree, members }) = self.tree(lane)
            && let Some(member) = members.get(leaf)
        {
            tree.refresh(leaf, || self.rank(member));
        }
    }
}

#[inline(never)]
fn next_best(Tree { tree, members }: &Tree, set: &Set, request: &Request<'_>, best: usize) -> Option<usize> {
    if request.admits(set, best) {
        return Some(best);
    }
    let position = |leaf: usize| members[leaf].position as usize;
    tree.best_where(|leaf| request.admits(set, position(leaf))).map(position)
}

impl Default for LeastConnections {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler for LeastConnections {
    fn rebuild(&self, set: &Set) -> Self {
        let open = || (0..).zip(set.weights()).zip(set.iter()).filter(|((_, weight), _)| **weight > 0);
        let mut leaves: Box<[u32]> = set.iter().map(|_| NONE).collect();
        for (leaf, ((position, _), _)) in (0u32..).zip(open()) {
            leaves[position] = leaf;
        }
        // Under limits all lanes count on the shared one.
        let lanes = if self.striped && !set.limited() { lane::count() } else { 1 };
        let tree_of = |lane| {
            let leaf = |((position, &weight), member): ((usize, _), &Member)| Leaf {
                counters: Arc::clone(member.load.lane(lane)),
                inverse: inverse(weight),
                position: position as u32,
            };
            let members: Box<[Leaf]> = open().map(leaf).collect();
            Tree { tree: Tournament::new(members.iter().map(|member| self.rank(member))), members }
        };
        Self {
            weighted: self.weighted,
            overhead: self.overhead,
            striped: self.striped,
            trees: (0..lanes).map(tree_of).collect(),
            leaves,
        }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let tree = self.tree(lane::mine())?;
        let position = tree.members.get(tree.tree.best()?)?.position as usize;
        if request.admits_all(set) { Some(position) } else { next_best(tree, set, request, position) }
    }

    #[inline]
    fn reads_load(&self) -> bool {
        !self.striped
    }

    #[inline]
    fn wants_feedback(&self) -> bool {
        true
    }

    #[inline]
    fn started(&self, _set: &Set, position: usize, lane: usize) {
        self.refresh(position, lane);
    }

    #[inline]
    fn finished(&self, _set: &Set, position: usize, lane: usize, _outcome: Option<Outcome>) {
        self.refresh(position, lane);
    }

    fn published(&self, set: &Set) {
        for lane in 0..self.trees.len() {
            for position in 0..set.len() {
                self.refresh(position, lane);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::rotation::tests::{balancer, update};
    use super::*;

    #[test]
    fn striped_goes_by_its_own_lane() {
        let lc = balancer(LeastConnections::new().striped(), &[1, 1]);
        let mine = lc.pick(&Request::new()).unwrap();
        let other = std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                while lane::count() > 1 && lane::mine() == mine.lane() {
                    lane::move_on();
                }
                let theirs = lc.pick(&Request::new()).unwrap();
                (*theirs, theirs)
            });
            elsewhere.join().unwrap()
        });
        let expected = if lane::count() > 1 { 'a' } else { 'b' };
        assert_eq!((*mine, other.0), ('a', expected), "the other thread has none there itself");
        drop((mine, other));
        assert!(lc.snapshot().set().iter().all(|member| member.load.active() == 0));
        let trees = lc.snapshot();
        let ranks = |tree: &Tree| (0..2).map(|leaf| tree.tree.rank(leaf)).sum::<u64>();
        assert!(trees.derived().trees.iter().all(|tree| ranks(tree) == 0), "ends reach their lane's tree");
        assert_eq!(*lc.pick(&Request::new()).unwrap(), 'a');
    }

    #[test]
    fn striped_shares_under_limits() {
        let lc = balancer(LeastConnections::weighted().striped(), &[1, 1]);
        lc.edit(|edit| edit.entry("a").map(|entry| entry.limit = 9)).unwrap();
        let first = lc.pick(&Request::new()).unwrap();
        let second = std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                lane::move_on();
                *lc.pick(&Request::new()).unwrap()
            });
            elsewhere.join().unwrap()
        });
        assert_eq!((*first, second), ('a', 'b'));
    }

    #[test]
    fn multiplying_divides() {
        for weight in (1..1000).chain([4095, 65_535, 65_536, 65_535 * 16 - 1, 65_535 * 16]) {
            for load in (0..2000).chain([u64::from(u32::MAX) - 1, u64::from(u32::MAX)]) {
                assert_eq!(
                    divided(load, inverse(weight)),
                    (load << 32) / u64::from(weight),
                    "{load}/{weight}"
                );
                let multiple = load * u64::from(weight);
                if multiple <= u64::from(u32::MAX) {
                    assert_eq!(divided(multiple, inverse(weight)), load << 32, "{multiple}/{weight}");
                }
            }
        }
        assert_eq!(divided(u64::MAX, inverse(0)), u64::from(u32::MAX) << 32);
    }

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
