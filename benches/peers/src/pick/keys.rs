//! The requests of `pick`: the same keys for every subject, each in the form that it takes.

use std::net::{Ipv4Addr, SocketAddr};

/// How many keys; a power of two, so that taking the next is a mask. 4096 clients of 32 bytes and less stay
/// in the second-level cache, as the clients of a busy director would.
const COUNT: usize = 4096;

/// Seeded, so that two runs ask the same.
pub(crate) struct Keys {
    /// For those that hash bytes: 8 random bytes each.
    pub(crate) bytes: Vec<[u8; 8]>,
    /// For those that hash a number.
    pub(crate) numbers: Vec<u64>,
    /// For those that hash a client's address.
    pub(crate) clients: Vec<SocketAddr>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let mut state = 0x1b0b;
        let numbers: Vec<u64> = (0..COUNT).map(|_| splitmix(&mut state)).collect();
        Self {
            bytes: numbers.iter().map(|number| number.to_le_bytes()).collect(),
            clients: numbers
                .iter()
                .map(|&number| {
                    SocketAddr::from((Ipv4Addr::from_bits(number as u32), (number >> 32) as u16 | 1024))
                })
                .collect(),
            numbers,
        }
    }
}

/// Calls `pick` with `count` keys of `keys`, round and round; each thread begins elsewhere.
#[inline(always)]
pub(crate) fn over<'a, K>(keys: &'a [K], thread: usize, count: u64, mut pick: impl FnMut(&'a K)) {
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
