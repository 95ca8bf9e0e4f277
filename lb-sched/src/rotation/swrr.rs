//! Weighted round robin, spread out.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use lb_core::Set;
use lb_core::lane::Alone;

use super::{Cursor, LONGEST, Sequence, divisor};
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `swrr`: at each turn every backend earns its weight, the richest is chosen (the first of several) and pays the
/// sum of all weights. Weights 5, 1, 1 give `aabacaa`: the heavy one is spread over the round.
///
/// After a change of the set it goes on at the same phase of the round.
///
/// *Cost*: constant; the round is laid out when the set changes. It is nginx's, choice for choice, while laying it
/// out takes at most 2¹⁹ steps (its length times the number of different weights: any 1000 backends of up to ten
/// different small weights, any ten of weights to 5000). Beyond that each backend gets the same share (weights
/// rounded to 1/32 768 of their sum), spread evenly by the divisor method of Webster instead. One cursor for all
/// threads; [`striped`](Self::striped) as with [`RoundRobin`](crate::RoundRobin).
/// *When*: weights differ and requests are alike. *Source*: nginx `upstream`, round robin.
#[derive(Debug)]
pub struct SmoothWeightedRoundRobin {
    sequence: Sequence,
}

/// The most steps to lay out nginx's own order: 1 ms here.
const MOST_STEPS: u64 = 1 << 19;

impl SmoothWeightedRoundRobin {
    /// One cursor for all threads: the order is exact.
    pub fn new() -> Self {
        Self { sequence: Sequence::default() }
    }

    /// Cursors that threads need not share.
    pub fn striped() -> Self {
        Self { sequence: Sequence::new(Vec::new(), Cursor::starting_at(0, 0, true)) }
    }
}

impl Default for SmoothWeightedRoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler for SmoothWeightedRoundRobin {
    fn rebuild(&self, set: &Set) -> Self {
        let sequence = lay_out(set.weights());
        let turn = Sequence::turn_at(self.sequence.phase(), sequence.len());
        let cursor = Cursor::starting_at(turn, sequence.len(), self.sequence.cursor().striped());
        Self { sequence: Sequence::new(sequence, cursor) }
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

fn lay_out(weights: &[u32]) -> Vec<u32> {
    let divisor = divisor(weights.iter().copied());
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight / divisor)).collect();
    let total: u64 = weights.iter().sum();
    let groups = groups(&weights);
    if total <= LONGEST as u64 && total * groups.len() as u64 <= MOST_STEPS {
        smooth(groups, total)
    } else {
        evenly(&weights, total)
    }
}

/// Backends of one weight. Among them the order is a plain rotation: who was chosen less often is richer, and of
/// equals the first wins. So only one of each group competes at a turn.
struct Group {
    weight: i64,
    positions: Vec<u32>,
    /// Whose turn it is in the group, and how often it has been chosen already.
    head: usize,
    rounds: i64,
}

fn groups(weights: &[u64]) -> Vec<Group> {
    let mut groups = BTreeMap::<u64, Vec<u32>>::new();
    for (position, &weight) in (0..).zip(weights).filter(|&(_, weight)| *weight > 0) {
        groups.entry(weight).or_default().push(position);
    }
    let group = |(weight, positions)| Group { weight: weight as i64, positions, head: 0, rounds: 0 };
    groups.into_iter().map(group).collect()
}

/// nginx's round. After `turn` turns in which it was chosen `rounds` times, a backend has
/// `turn · weight − rounds · total`.
fn smooth(mut groups: Vec<Group>, total: u64) -> Vec<u32> {
    (1..=total as i64)
        .filter_map(|turn| {
            let wealth = |group: &Group| turn * group.weight - group.rounds * total as i64;
            let richest = groups.iter_mut().max_by(|a, b| {
                wealth(a).cmp(&wealth(b)).then_with(|| b.positions[b.head].cmp(&a.positions[a.head]))
            })?;
            let position = richest.positions[richest.head];
            richest.head += 1;
            if richest.head == richest.positions.len() {
                richest.head = 0;
                richest.rounds += 1;
            }
            Some(position)
        })
        .collect()
}

/// A round of at most [`LONGEST`] turns in which the turns of each backend are evenly spread: its j-th of c turns
/// belongs at (j + ½)/c of the round. Turns that belong at the same place follow each other in list order.
fn evenly(weights: &[u64], total: u64) -> Vec<u32> {
    let wanted = (LONGEST as u64 / 2).max(8 * weights.iter().filter(|&&weight| weight > 0).count() as u64);
    let counts: Vec<u64> = weights
        .iter()
        .map(|&weight| match weight {
            0 => 0,
            _ if total <= LONGEST as u64 => weight,
            // Half as long as may be: those rounded up to 1 must fit too. Among very many, eight turns each on average.
            _ => ((weight * wanted + total / 2) / total).max(1),
        })
        .collect();
    let len: u64 = counts.iter().sum();
    let place = |turn: u64, count: u64| ((2 * turn + 1) * len / (2 * count)) as usize;
    // A counting sort: how many turns belong at each place, then where each place begins.
    let mut starts = vec![0usize; len as usize + 1];
    for &count in &counts {
        for turn in 0..count {
            starts[place(turn, count) + 1] += 1;
        }
    }
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    let mut round = vec![0; len as usize];
    for (position, &count) in (0..).zip(&counts) {
        for turn in 0..count {
            let start = &mut starts[place(turn, count)];
            round[*start] = position;
            *start += 1;
        }
    }
    round
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::tests::{balancer, picks, update};
    use super::*;
    use proptest::prelude::*;

    /// The rule itself, step by step.
    fn by_the_rule(weights: &[u32], count: usize) -> Vec<u32> {
        let total: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        let mut wealth = vec![0; weights.len()];
        (0..count)
            .map(|_| {
                wealth.iter_mut().zip(weights).for_each(|(have, &w)| *have += i64::from(w));
                let mut best = 0;
                for i in 0..weights.len() {
                    if weights[best] == 0 || (weights[i] > 0 && wealth[i] > wealth[best]) {
                        best = i;
                    }
                }
                wealth[best] -= total;
                best as u32
            })
            .collect()
    }

    #[test]
    fn the_heavy_one_is_spread() {
        assert_eq!(picks(&balancer(SmoothWeightedRoundRobin::new(), &[5, 1, 1]), 14), "aabacaaaabacaa");
        assert_eq!(picks(&balancer(SmoothWeightedRoundRobin::new(), &[0, 0]), 1), "-");
    }

    #[test]
    fn a_change_goes_on_at_the_same_phase() {
        let balancer = balancer(SmoothWeightedRoundRobin::new(), &[1, 1, 1, 1]);
        assert_eq!(picks(&balancer, 2), "ab");
        update(&balancer, &[2, 2, 2, 2, 0]);
        assert_eq!(picks(&balancer, 2), "cd");
    }

    proptest! {
        #[test]
        fn a_round_is_that_of_the_rule(weights in prop::collection::vec(0u32..40, 1..30)) {
            let round = lay_out(&weights);
            prop_assert_eq!(by_the_rule(&weights, round.len()), round);
        }

        #[test]
        fn an_evenly_spread_round_keeps_every_share(weights in prop::collection::vec(0u64..1_000_000, 1..50)) {
            let total: u64 = weights.iter().sum();
            let round = evenly(&weights, total);
            prop_assert!(round.len() <= LONGEST);
            for (position, &weight) in (0..).zip(&weights) {
                let turns: Vec<usize> =
                    round.iter().enumerate().filter(|&(_, &p)| p == position).map(|(turn, _)| turn).collect();
                prop_assert_eq!(turns.is_empty(), weight == 0);
                let share = weight as f64 / total as f64 * round.len() as f64;
                prop_assert!((turns.len() as f64 - share).abs() <= 1.0 + share / 500.0);
                let gap = round.len() as f64 / turns.len() as f64;
                for pair in turns.windows(2) {
                    prop_assert!(((pair[1] - pair[0]) as f64 - gap).abs() <= 2.0 * weights.len() as f64);
                }
            }
        }
    }
}
