//! Algorithms that look at neither load nor request.

use lb_core::Set;
use lb_core::lane::Alone;

use crate::alias::Alias;
use crate::mix::Random;
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `random`: by chance, each backend as often as its weight says.
///
/// *Cost*: constant; one table look-up. *When*: many balancers without a common state before few backends, where
/// round robin would march in step. [`PowerOfTwo`](crate::PowerOfTwo) costs little more and keeps queues much
/// shorter. *Source*: Walker's alias method (1977). A retry draws again, then takes the next in list order.
#[derive(Debug)]
pub struct Draw {
    random: Random,
    alias: Alias,
}

impl Draw {
    /// With a seed: one thread alone gets the same choices each time.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), alias: Alias::default() }
    }
}

/// Draws that are refused before the list is gone through.
const REDRAWS: u32 = 8;

impl Scheduler for Draw {
    fn rebuild(&self, set: &Set) -> Self {
        Self { random: self.random.handed_on(), alias: Alias::new(set.weights()) }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        self.pick_on(set, request, None)
    }

    #[inline]
    fn pick_on(&self, set: &Set, request: &Request<'_>, alone: Option<Alone<'_>>) -> Option<usize> {
        if request.admits_all(set)
            && let Some(random) = self.random.next_here(alone)
        {
            return self.alias.position(self.alias.draw(random as u32)?);
        }
        draw_admitted(&self.alias, &self.random, set, request, alone)
    }
}

/// A draw that the request admits.
#[inline(never)]
pub(crate) fn draw_admitted(
    alias: &Alias,
    random: &Random,
    set: &Set,
    request: &Request<'_>,
    alone: Option<Alone<'_>>,
) -> Option<usize> {
    for _ in 0..REDRAWS {
        let position = alias.position(alias.draw(random.next(alone) as u32)?)?;
        if request.admits(set, position) {
            return Some(position);
        }
    }
    let start = crate::mix::below(random.next(alone) as u32, alias.len() as u32);
    alias.round_from(start as usize).find(|&position| request.admits(set, position))
}
