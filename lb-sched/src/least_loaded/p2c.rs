//! The power of two choices.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::hint::select_unpredictable;

use lb_core::Set;
use lb_core::lane::{self, Alone};
use lb_core::load::Counters;

use crate::alias::Alias;
use crate::mix::{Random, below};
use crate::order::draw_admitted;
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `p2c`: two backends are drawn by chance, by weight where weights differ, and the one with less to do in relation
/// to its weight is chosen.
///
/// *Cost*: constant, and nothing is shared by all threads but the counters of the two. The longest queue grows with
/// log log n instead of log n / log log n as under `random`.
/// *When*: the default for many threads or many balancers: nearly as good as least connections, and it cannot herd.
/// *Source*: Mitzenmacher, The power of two choices in randomized load balancing (2001); with weights as HAProxy's
/// `random(2)`. A retry draws again.
#[derive(Debug)]
pub struct PowerOfTwo {
    random: Random,
    alias: Alias,
    /// Each thread goes by the requests of its own lane.
    striped: bool,
    /// For each lane that is read, what is compared, by column of the alias table: close together, as two of them are
    /// read at random.
    candidates: Box<[Box<[Candidate]>]>,
}

#[derive(Debug)]
struct Candidate {
    counters: Arc<Counters>,
    weight: u32,
    position: u32,
}

impl PowerOfTwo {
    /// With a seed: one thread alone gets the same choices each time.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, false)
    }

    /// The same where threads that meet go by the requests that each of them sends itself, as if each were a balancer
    /// of its own: then they share nothing.
    pub fn striped(seed: u64) -> Self {
        Self::with(seed, true)
    }

    fn with(seed: u64, striped: bool) -> Self {
        Self { random: Random::new(seed), alias: Alias::default(), striped, candidates: Box::default() }
    }

    /// Two columns: different ones of an even set (unless it has only one), else drawn by weight.
    #[inline]
    fn pair(&self, random: u64) -> Option<(usize, usize)> {
        let (high, low) = ((random >> 32) as u32, random as u32);
        if !self.alias.even() {
            return Some((self.alias.draw(high)?, self.alias.draw(low)?));
        }
        let others = self.alias.len().checked_sub(1)? as u32;
        let first = below(high, others + 1);
        let second = below(low, others);
        // The second is one of the others: those from the first on are counted one further.
        Some((first as usize, if second >= first { (second + 1).min(others) } else { second } as usize))
    }

    /// Two positions, the better one first.
    #[inline]
    fn choose(&self, random: u64, alone: Option<Alone<'_>>) -> Option<[usize; 2]> {
        let (first, second) = self.pair(random)?;
        let candidates = match &*self.candidates {
            [shared] => shared,
            of_lanes => of_lanes.get(alone.map_or_else(lane::mine, Alone::lane))?,
        };
        let (first, second) = (candidates.get(first)?, candidates.get(second)?);
        let load = |one: &Candidate, other: &Candidate| {
            u64::from(one.counters.about_active()) * u64::from(other.weight)
        };
        let second_is_better = load(second, first) < load(first, second);
        let [first, second] = [first, second].map(|candidate| candidate.position as usize);
        // By chance, so no processor predicts it.
        let better = select_unpredictable(second_is_better, second, first);
        Some([better, select_unpredictable(second_is_better, first, second)])
    }

    #[inline(never)]
    fn pick_with_care(
        &self,
        set: &Set,
        request: &Request<'_>,
        alone: Option<Alone<'_>>,
        random: Option<u64>,
    ) -> Option<usize> {
        let two = self.choose(random.unwrap_or_else(|| self.random.next_elsewhere()), alone)?;
        let admitted = two.into_iter().find(|&position| request.admits(set, position));
        admitted.or_else(|| draw_admitted(&self.alias, &self.random, set, request, alone))
    }
}

impl Scheduler for PowerOfTwo {
    fn rebuild(&self, set: &Set) -> Self {
        let alias = Alias::new(set.weights());
        // Under limits all lanes count on the shared one.
        let lanes = if self.striped && !set.limited() { lane::count() } else { 1 };
        let candidates_of = |lane| {
            let candidate = |position: usize| Candidate {
                counters: Arc::clone(set[position].load.lane(lane)),
                weight: set.weights()[position],
                position: position as u32,
            };
            alias.positions().map(candidate).collect()
        };
        let candidates = (0..lanes).map(candidates_of).collect();
        Self { random: self.random.handed_on(), alias, striped: self.striped, candidates }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        self.pick_on(set, request, None)
    }

    #[inline]
    fn pick_on(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        match self.random.next_here(alone) {
            Some(random) if request.admits_all(set) => self.choose(random, alone).map(|[better, _]| better),
            random => self.pick_with_care(set, request, alone, random),
        }
    }

    #[inline]
    fn reads_load(&self) -> bool {
        !self.striped
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::rotation::tests::{balancer, picks};
    use super::*;

    #[test]
    fn of_two_the_idle_one() {
        let p2c = balancer(PowerOfTwo::new(1), &[1, 1]);
        let busy = p2c.pick(&Request::new()).unwrap();
        let other = if *busy == 'a' { "bbbbbbbbbb" } else { "aaaaaaaaaa" };
        assert_eq!(picks(&p2c, 10), other, "both are drawn each time");
        assert_eq!(picks(&balancer(PowerOfTwo::new(1), &[0, 7]), 3), "bbb");
        assert_eq!(picks(&balancer(PowerOfTwo::new(1), &[0, 0]), 1), "-");
        assert_eq!(picks(&balancer(PowerOfTwo::new(1), &[]), 1), "-");
    }

    #[test]
    fn the_longest_queue_is_short_and_follows_the_weights() {
        // 100 backends, 10 000 requests that stay: by chance alone the longest would be about 134.
        let p2c = balancer(PowerOfTwo::new(1), &[1; 100]);
        let _held: Vec<_> = (0..10_000).map(|_| p2c.pick(&Request::new()).unwrap()).collect();
        let longest = p2c.snapshot().set().iter().map(|member| member.load.active()).max();
        assert!(longest <= Some(104), "{longest:?}");

        let p2c = balancer(PowerOfTwo::new(1), &[3, 1]);
        let _held: Vec<_> = (0..4_000).map(|_| p2c.pick(&Request::new()).unwrap()).collect();
        assert!(p2c.snapshot().set()[0].load.active().abs_diff(3_000) < 20);
    }
}
