//! The requests that everything is measured with, and every algorithm with those that it asks for.

use std::net::{Ipv4Addr, SocketAddr};

use lb_sched::{
    Algorithm, LeastConnections, PowerOfTwo, Request, RoundRobin, Scheduler, SmoothWeightedRoundRobin,
    WeightedRoundRobin,
};

/// How many keys; a power of two, so that taking the next is a mask. 4096 clients of 32 bytes and less stay in the
/// second-level cache, as the clients of a busy director would.
const COUNT: usize = 4096;

/// Keys of requests, the same in every run.
#[derive(Debug)]
pub struct Keys {
    /// For those that hash bytes: 8 random bytes each.
    pub bytes: Vec<[u8; 8]>,
    /// For those that hash a number.
    pub numbers: Vec<u64>,
    /// For those that hash a client's address.
    pub clients: Vec<SocketAddr>,
}

impl Keys {
    /// Random ones from a fixed seed.
    #[must_use]
    pub fn new() -> Self {
        let mut state = 0x1b0b;
        let numbers: Vec<u64> = (0..COUNT).map(|_| splitmix(&mut state)).collect();
        let client = |number: u64| (Ipv4Addr::from_bits(number as u32), (number >> 32) as u16 | 1024);
        Self {
            bytes: numbers.iter().map(|number| number.to_le_bytes()).collect(),
            clients: numbers.iter().map(|&number| client(number).into()).collect(),
            numbers,
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `pick` with `count` keys of `keys`, round and round; each thread begins elsewhere.
#[inline(always)]
pub fn over<'a, K>(keys: &'a [K], thread: usize, count: u64, mut pick: impl FnMut(&'a K)) {
    let start = thread * (COUNT / 2);
    for i in 0..count as usize {
        pick(&keys[(start + i) & (COUNT - 1)]);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Makes a scheduler.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Scheduler>;

/// What is done with every algorithm. It sees the type of the keys and how a request is made of one, so that its
/// loops are compiled for each.
pub trait Visitor<'k> {
    /// `name` is the algorithm's; `request` makes what it goes by.
    fn visit<K: Sync>(
        &mut self,
        name: &'static str,
        make: Make<'_>,
        keys: &'k [K],
        request: impl Fn(&'k K) -> Request<'k> + Copy + Send + Sync + 'k,
    );
}

/// Those whose threads have cursors, trees and counters of their own, beside [`Algorithm::ALL`]'s, whose threads share
/// them.
pub const STRIPED: [&str; 6] =
    ["rr striped", "wrr striped", "swrr striped", "lc striped", "wlc striped", "p2c striped"];

/// Every algorithm by its name, as a configuration would choose it, then the [`STRIPED`] forms.
pub fn every_algorithm<'k>(keys: &'k Keys, visitor: &mut impl Visitor<'k>) {
    for &algorithm in Algorithm::ALL {
        let make = || algorithm.scheduler(1);
        match algorithm {
            Algorithm::SourceHash => {
                visitor.visit(algorithm.name(), &make, &keys.clients, |&client| Request::from_source(client));
            }
            Algorithm::Maglev | Algorithm::Rendezvous => {
                visitor.visit(algorithm.name(), &make, &keys.bytes, |key| Request::new().key(key));
            }
            _ => visitor.visit(algorithm.name(), &make, &keys.numbers, |_| Request::new()),
        }
    }
    let striped: [fn() -> Box<dyn Scheduler>; 6] = [
        || Box::new(RoundRobin::striped()),
        || Box::new(WeightedRoundRobin::striped()),
        || Box::new(SmoothWeightedRoundRobin::striped()),
        || Box::new(LeastConnections::new().striped()),
        || Box::new(LeastConnections::weighted().striped()),
        || Box::new(PowerOfTwo::striped(1)),
    ];
    for (name, make) in STRIPED.into_iter().zip(striped) {
        visitor.visit(name, &make, &keys.numbers, |_| Request::new());
    }
}
