//! Rendezvous hashing.

use alloc::boxed::Box;
use alloc::vec::Vec;

use lb_core::Set;
use lb_core::hash::xxh3;

use crate::mix::{Random, mix};
use crate::request::Request;
use crate::scheduler::Scheduler;

/// `rendezvous`: each backend gets a score for the key, and the highest wins. A backend that leaves gives up only its
/// own keys, one that comes takes only what it wins: no key moves needlessly, and a retry has the second highest.
///
/// A request without key and client is sent by chance.
///
/// *Cost*: linear: about a nanosecond a backend, and a logarithm for each weight where they differ.
/// *When*: few backends, or no needless move at all is wanted; [`Maglev`](crate::Maglev) is constant.
/// *Source*: Thaler, Ravishankar: Using name-based mappings to increase hit rates (1998); weights by −w / ln h
/// (Schindelhauer, Schomaker 2005). Scores go by the backends' names, so that directors agree without talking. Slow
/// start has no part in it.
#[derive(Debug)]
pub struct Rendezvous {
    random: Random,
    groups: Box<[Group]>,
}

/// Backends of one weight: among them the highest hash has the highest score.
#[derive(Debug)]
struct Group {
    weight: f64,
    seeds: Box<[u64]>,
    positions: Box<[u32]>,
}

impl Rendezvous {
    /// The seed serves requests that have no key.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), groups: Box::default() }
    }

    #[inline]
    fn best(&self, key: u64, admits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(f64, usize)> = None;
        for group in &self.groups {
            let mut highest: Option<(u64, usize)> = None;
            for (&seed, &position) in group.seeds.iter().zip(&group.positions) {
                let hash = mix(seed ^ key);
                // The first of equals stays: the order of a set is the same in every director.
                if highest.is_none_or(|(top, _)| hash > top) && admits(position as usize) {
                    highest = Some((hash, position as usize));
                }
            }
            if let Some((hash, position)) = highest {
                if self.groups.len() == 1 {
                    return Some(position);
                }
                let score = group.weight * inverse_exponential(hash);
                if best.is_none_or(|(top, _)| score > top) {
                    best = Some((score, position));
                }
            }
        }
        best.map(|(_, position)| position)
    }
}

/// −1 / ln h for h evenly spread over (0, 1), from its 64 bits; grows with the hash.
fn inverse_exponential(hash: u64) -> f64 {
    // 53 bits are exact in an f64; half a step keeps h off 0 and 1.
    let h = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -1.0 / libm::log(h)
}

impl Scheduler for Rendezvous {
    fn rebuild(&self, set: &Set) -> Self {
        let mut members: Vec<(u32, u64, u32)> = (0..)
            .zip(set.iter())
            .filter(|(_, member)| member.weight > 0)
            .map(|(position, member)| (member.weight, xxh3(member.name.as_bytes()), position))
            .collect();
        members.sort_unstable_by_key(|&(weight, _, position)| (weight, position));
        let groups = members.chunk_by(|a, b| a.0 == b.0).map(|members| Group {
            weight: members[0].0.into(),
            seeds: members.iter().map(|&(_, seed, _)| seed).collect(),
            positions: members.iter().map(|&(_, _, position)| position).collect(),
        });
        Self { random: self.random.handed_on(), groups: groups.collect() }
    }

    #[inline]
    fn pick(&self, set: &Set, request: &Request<'_>) -> Option<usize> {
        let key = request.key_hash().unwrap_or_else(|| self.random.next(None));
        self.best(key, |position| request.admits(set, position))
    }
}
