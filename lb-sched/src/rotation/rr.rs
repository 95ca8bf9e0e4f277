//! Round robin.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lb_core::lane::Alone;
use lb_core::{BackendId, Set};

use super::{Cursor, Sequence, ids};
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `rr`: every backend in turn, in list order; weights do not count, except that 0 gets nothing.
///
/// After a change of the set it goes on behind the backend that was chosen last.
///
/// *Cost*: constant. All threads share one cursor, so that the order is exact; sharing it costs each thread the
/// transfer of a cache line a pick. [`striped`](Self::striped) gives threads that meet cursors of their own: each of
/// them goes round exactly, all together nearly.
/// *When*: requests and backends alike. *Source*: IPVS `rr`.
#[derive(Debug)]
pub struct RoundRobin {
    sequence: Sequence,
    members: Box<[BackendId]>,
    /// Behind whom this generation began; one of `members`.
    behind: Option<BackendId>,
}

impl RoundRobin {
    /// One cursor for all threads: the order is exact.
    pub fn new() -> Self {
        Self::with(Cursor::starting_at(0, 0, false))
    }

    /// Cursors that threads need not share.
    pub fn striped() -> Self {
        Self::with(Cursor::starting_at(0, 0, true))
    }

    fn with(cursor: Cursor) -> Self {
        Self { sequence: Sequence::new(Vec::new(), cursor), members: Box::default(), behind: None }
    }

    /// The place in a new set behind which to go on: that of the last choice or, where that backend is gone, of the
    /// nearest before it that is still there.
    fn place_in(&self, set: &Set) -> Option<usize> {
        let behind = self.behind.and_then(|id| self.members.iter().position(|&member| member == id));
        let last = self.sequence.last().or(behind)?;
        self.members.iter().take(last + 1).rev().find_map(|&id| set.position(id))
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler for RoundRobin {
    fn rebuild(&self, set: &Set) -> Self {
        let place = self.place_in(set);
        let open = || (0..).zip(set.weights()).filter(|&(_, weight)| *weight > 0).map(|(i, _)| i);
        let sequence: Vec<u32> = open().collect();
        let turn = open().filter(|&i| place.is_some_and(|place| i as usize <= place)).count();
        let cursor = Cursor::starting_at(turn, sequence.len(), self.sequence.cursor().striped());
        Self {
            sequence: Sequence::new(sequence, cursor),
            members: ids(set),
            behind: place.and_then(|place| set.get(place)).map(|member| member.id),
        }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        self.pick_on(set, request, None)
    }

    #[inline]
    fn pick_on(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        self.sequence.pick(set, request, alone)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::tests::{balancer, picks, update};
    use super::*;
    use crate::{Admin, Weight};

    #[test]
    fn all_in_turn_but_those_with_nothing() {
        assert_eq!(picks(&balancer(RoundRobin::new(), &[1, 5, 0, 2]), 7), "abdabda");
        assert_eq!(picks(&balancer(RoundRobin::new(), &[0, 0]), 2), "--");
        assert_eq!(picks(&balancer(RoundRobin::new(), &[]), 2), "--");
        assert_eq!(picks(&balancer(RoundRobin::striped(), &[1, 1]), 4), "abab");
    }

    #[test]
    fn a_change_goes_on_behind_the_last_choice() {
        let balancer = balancer(RoundRobin::new(), &[1, 1, 1, 1]);
        assert_eq!(picks(&balancer, 2), "ab");
        balancer.set_weight("c", Weight::ZERO).unwrap();
        assert_eq!(picks(&balancer, 1), "d");
        balancer.set_weight("d", Weight::ZERO).unwrap();
        balancer.set_weight("d", Weight::ONE).unwrap();
        assert_eq!(picks(&balancer, 1), "a", "d was the last, though it has been out since");
        balancer.set_admin("b", Admin::Drain).unwrap();
        update(&balancer, &[1, 1]);
        assert_eq!(picks(&balancer, 2), "aa", "b is drained still: a spec that does not say keeps it");
        update(&balancer, &[1]);
        update(&balancer, &[1, 1, 1, 1]);
        assert_eq!(picks(&balancer, 4), "bcda", "behind a; b was gone and is a new one");
    }

    #[test]
    fn what_is_gone_leaves_its_place() {
        let balancer = balancer(RoundRobin::new(), &[1, 1, 1]);
        assert_eq!(picks(&balancer, 2), "ab");
        balancer.edit(|edit| edit.remove("b")).unwrap();
        assert_eq!(picks(&balancer, 3), "cac");
    }
}
