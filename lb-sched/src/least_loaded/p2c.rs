//! The power of two choices.

use lb_core::Set;

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
}

impl PowerOfTwo {
    /// With a seed: one thread alone gets the same choices each time.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), alias: Alias::default() }
    }

    /// Two different backends of an even set, or one and the same where there is only one.
    #[inline]
    fn even_pair(&self) -> Option<(usize, usize)> {
        let count = self.alias.len() as u32;
        let random = self.random.next();
        let first = below(random as u32, count);
        let step = 1 + below((random >> 32) as u32, count.saturating_sub(1));
        let second = if first + step >= count { (first + step).saturating_sub(count) } else { first + step };
        Some((self.alias.column(first)?, self.alias.column(second.min(count - 1))?))
    }

    #[inline]
    fn weighted_pair(&self) -> Option<(usize, usize)> {
        Some((self.alias.draw(self.random.next())?, self.alias.draw(self.random.next())?))
    }
}

impl Scheduler for PowerOfTwo {
    fn rebuild(&self, set: &Set) -> Self {
        Self { random: self.random.handed_on(), alias: Alias::new(set.weights()) }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let (first, second) = if self.alias.even() { self.even_pair() } else { self.weighted_pair() }?;
        let load = |position: usize| {
            let active = set.get(position).map_or(u32::MAX, |member| member.load.active());
            (u64::from(active), u64::from(set.weights().get(position).copied().unwrap_or(0)))
        };
        let ((a, a_weight), (b, b_weight)) = (load(first), load(second));
        let (better, worse) = if b * a_weight < a * b_weight { (second, first) } else { (first, second) };
        if request.admits(set, better) {
            Some(better)
        } else if request.admits(set, worse) {
            Some(worse)
        } else {
            draw_admitted(&self.alias, &self.random, set, request)
        }
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
