//! Listeners that each get the packets of their CPUs: the map, and the program that the kernel runs for it.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;

use super::{SocketError, error};
use crate::sys;

/// Which of the sockets that share a port gets the packets that a CPU receives.
///
/// A socket's *index* is its place in the order in which they joined: the order of bind(2) for UDP, of listen(2) for TCP. When one
/// is closed, the last one takes its index (socket(7), `SO_ATTACH_REUSEPORT_CBPF`), so attach anew after such a change. An index
/// that no socket has leaves the choice to the kernel's hash.
///
/// For TCP it is the connection that is steered, by its first packet (SYN). One that is sent again finds the request that the
/// first one left, and its listener, before any program is asked. With SYN cookies there is no request, and it is the last packet
/// of the handshake that chooses: of these listeners any can check the cookie.
///
/// # CPUs with several sockets
/// A CPU may share its packets among sockets in any proportion. The packet's flow hash (RXHASH, filter.rst) chooses, so that a
/// flow stays with its socket. The NIC has chosen the queue by that hash's low bits, and RPS the CPU by its high ones (scaling.rst);
/// a multiplication mixes them, so that the share does not depend on the way that the packet came. Where there is no hash,
/// because neither NIC nor RPS nor sender took one, chance chooses for each packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Steering {
    map: Map,
    otherwise: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
enum Map {
    /// CPU n has socket n.
    #[default]
    Same,
    /// The shares of each CPU's sockets.
    Listed(BTreeMap<u32, BTreeMap<u32, u64>>),
}

/// An index that no group of sockets has: the kernel then spreads by its hash, as without a program.
const NO_INDEX: u32 = u32::MAX;
/// The kernel's `BPF_MAXINSNS`.
pub(super) const MOST_INSTRUCTIONS: usize = 4096;
/// 2³² divided by the golden ratio: what it multiplies is spread evenly over 32 bits, also every 128th number, and also those of
/// a narrow range (Knuth, The Art of Computer Programming, volume 3, section 6.4).
const GOLDEN: u32 = 0x9e37_79b1;

impl Steering {
    /// CPU n has the socket with index n: a program of two instructions. CPUs beyond the last socket are spread by the kernel's
    /// hash.
    #[must_use]
    pub fn same() -> Self {
        Self::default()
    }

    /// Each CPU has the socket with the index beside it. One that comes several times shares its packets among its entries; an
    /// entry that comes twice has twice the share. The CPUs that are not named are spread by the kernel's hash, if
    /// [`otherwise`](Self::otherwise) says nothing else.
    #[must_use]
    pub fn new(map: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self::with_shares(map.into_iter().map(|(cpu, index)| (cpu, index, 1)))
    }

    /// As [`new`](Self::new), of a CPU, an index, and its share of the CPU's packets. Shares are relative to the others of the CPU:
    /// 3 and 1 are the same as 30 and 10. Those that come several times are added, and 0 is as if it were not there.
    #[must_use]
    pub fn with_shares(map: impl IntoIterator<Item = (u32, u32, u64)>) -> Self {
        let mut listed: BTreeMap<u32, BTreeMap<u32, u64>> = BTreeMap::new();
        for (cpu, index, share) in map.into_iter().filter(|(.., share)| *share > 0) {
            let sum = listed.entry(cpu).or_default().entry(index).or_default();
            *sum = sum.saturating_add(share);
        }
        for shares in listed.values_mut() {
            let common = shares.values().copied().fold(0, gcd);
            shares.values_mut().for_each(|share| *share /= common);
        }
        Self { map: Map::Listed(listed), otherwise: None }
    }

    /// Gives the CPUs that are not named a socket. With [`same`](Self::same) all are named.
    #[must_use]
    pub fn otherwise(mut self, index: u32) -> Self {
        self.otherwise = Some(index);
        self
    }

    /// The CPUs that are named. With [`same`](Self::same), where all are, there is no list of them.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + '_ {
        let listed = match &self.map {
            Map::Same => None,
            Map::Listed(map) => Some(map.keys().copied()),
        };
        listed.into_iter().flatten()
    }

    /// The indices of a CPU's sockets, in their order, each with its share of the CPU's packets; none if the kernel's hash chooses
    /// among all.
    #[must_use]
    pub fn sockets(&self, cpu: u32) -> Vec<(u32, u64)> {
        let Map::Listed(map) = &self.map else { return vec![(cpu, 1)] };
        let named = map.get(&cpu).into_iter().flatten();
        let sockets: Vec<(u32, u64)> =
            named.map(|(&index, &share)| (index, share)).filter(|(_, share)| *share > 0).collect();
        if sockets.is_empty() {
            self.otherwise.map(|index| (index, 1)).into_iter().collect()
        } else {
            sockets
        }
    }

    /// Attaches it to the sockets that share `socket`'s port, now and later: to any one of them, which must have `SO_REUSEPORT`
    /// (and be bound, so that the others are of its group). A new one takes the place of the old.
    ///
    /// # Errors
    /// [`SocketError::NotShared`], [`SocketError::TooLong`], [`SocketError::NoOption`] before Linux 4.5.
    pub fn attach(&self, socket: &impl AsFd) -> Result<(), SocketError> {
        let program = self.program();
        if program.len() > MOST_INSTRUCTIONS {
            return Err(SocketError::TooLong { instructions: program.len() });
        }
        sys::attach_reuseport(socket.as_fd(), &program).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => SocketError::NotShared,
            _ => error("SO_ATTACH_REUSEPORT_CBPF", "4.5", source),
        })
    }

    /// Classic BPF: loads the number of the CPU that runs it, which is the one that received the packet, and returns an index.
    fn program(&self) -> Vec<libc::sock_filter> {
        if self.map == Map::Same {
            return vec![load(libc::SKF_AD_CPU), instruction(libc::BPF_RET | libc::BPF_A, 0)];
        }
        let runs = self.runs();
        let shared = runs.iter().any(|(_, sockets)| sockets.len() > 1);
        let mut program = if shared { mixed_hash() } else { Vec::new() };
        program.push(load(libc::SKF_AD_CPU));
        let runs: Vec<_> = runs.iter().map(|(first, sockets)| (*first, choice(sockets))).collect();
        program.extend(tree(&runs));
        program
    }

    /// The map as runs of CPUs with the same sockets: the first CPU of each, from 0 on.
    fn runs(&self) -> Vec<(u32, Vec<(u32, u64)>)> {
        let mut runs = vec![(0, self.sockets(0))];
        let bounds = self.cpus().flat_map(|cpu| [Some(cpu), cpu.checked_add(1)]).flatten();
        for cpu in bounds {
            let sockets = self.sockets(cpu);
            if runs.last().is_some_and(|(_, last)| *last != sockets) {
                runs.push((cpu, sockets));
            }
        }
        runs
    }
}

impl fmt::Display for Steering {
    /// `2 → 0 (75 %) 1 (25 %), 3 → 1, others → 0`: CPUs and the indices of their sockets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = match &self.map {
            Map::Same => vec!["each CPU → the socket of its number".to_owned()],
            Map::Listed(_) => self.cpus().map(|cpu| self.line(cpu)).collect(),
        };
        if let (Map::Listed(_), Some(index)) = (&self.map, self.otherwise) {
            parts.push(format!("others → {index}"));
        }
        f.write_str(&parts.join(", "))
    }
}

impl Steering {
    fn line(&self, cpu: u32) -> String {
        let sockets = self.sockets(cpu);
        let total: f64 = sockets.iter().map(|(_, share)| *share as f64).sum();
        let part = |(index, share): &(u32, u64)| match sockets.len() {
            1 => index.to_string(),
            _ => format!("{index} ({:.0} %)", *share as f64 * 100.0 / total),
        };
        format!("{cpu} → {}", sockets.iter().map(part).collect::<Vec<_>>().join(" "))
    }
}

/// The greatest common divisor; of 0 and a number, the number.
const fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

const fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Loads what the kernel knows of a packet beside its bytes.
const fn load(what: libc::c_int) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (libc::SKF_AD_OFF + what).cast_unsigned())
}

const fn answer(index: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, index)
}

/// Puts the packet's hash into the index register, mixed; a number by chance, where it has none.
fn mixed_hash() -> Vec<libc::sock_filter> {
    let is_none = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0);
    vec![
        load(libc::SKF_AD_RXHASH),
        libc::sock_filter { jf: 1, ..is_none },
        load(libc::SKF_AD_RANDOM),
        instruction(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, GOLDEN),
        instruction(libc::BPF_MISC | libc::BPF_TAX, 0),
    ]
}

/// Returns the index of one of these sockets, by the mixed hash if there are several.
fn choice(sockets: &[(u32, u64)]) -> Vec<libc::sock_filter> {
    let [_, _, ..] = sockets else {
        return vec![answer(sockets.first().map_or(NO_INDEX, |(index, _)| *index))];
    };
    // What the hash, of 32 bits, must be at least.
    let total: u128 = sockets.iter().map(|(_, share)| u128::from(*share)).sum();
    let mut before = 0;
    let bounds = sockets.iter().map(|(index, share)| {
        let from = ((before << 32) / total) as u32;
        before += u128::from(*share);
        (from, vec![answer(*index)])
    });
    let bounds: Vec<_> = bounds.collect();
    let mut program = vec![instruction(libc::BPF_MISC | libc::BPF_TXA, 0)];
    program.extend(tree(&bounds));
    program
}

/// A search by halves for the range that the number in the accumulator is in: the first number of each, and what follows.
fn tree(ranges: &[(u32, Vec<libc::sock_filter>)]) -> Vec<libc::sock_filter> {
    let [_, _, ..] = ranges else {
        return ranges.first().map_or_else(Vec::new, |(_, program)| program.clone());
    };
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (from, low) = (high[0].0, tree(low));
    let mut program = Vec::new();
    let compare = instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, from);
    // A comparison jumps over at most 255 instructions, a plain jump over any number.
    match u8::try_from(low.len()) {
        Ok(jt) => program.push(libc::sock_filter { jt, ..compare }),
        Err(_) => {
            program.push(libc::sock_filter { jf: 1, ..compare });
            program.push(instruction(libc::BPF_JMP | libc::BPF_JA, low.len() as u32));
        }
    }
    program.extend(low);
    program.extend(tree(high));
    program
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::*;

    /// A packet as the program sees it.
    #[derive(Clone, Copy, Debug, Default)]
    struct Packet {
        cpu: u32,
        hash: u32,
        random: u32,
    }

    /// What the kernel would do, for the instructions that are used.
    fn run(program: &[libc::sock_filter], packet: Packet) -> u32 {
        let (mut accumulator, mut index): (u32, u32) = (0, 0);
        let mut at = 0;
        loop {
            let instruction = &program[at];
            at += 1;
            let mut jump_if = |it_is: bool| {
                at += usize::from(if it_is { instruction.jt } else { instruction.jf });
            };
            match u32::from(instruction.code) {
                0x20 => {
                    accumulator = match instruction.k {
                        0xffff_f020 => packet.hash,
                        0xffff_f024 => packet.cpu,
                        0xffff_f038 => packet.random,
                        other => panic!("{other:#x}"),
                    }
                }
                0x15 => jump_if(accumulator == instruction.k),
                0x35 => jump_if(accumulator >= instruction.k),
                0x07 => index = accumulator,
                0x87 => accumulator = index,
                0x24 => accumulator = accumulator.wrapping_mul(instruction.k),
                0x05 => at += instruction.k as usize,
                0x06 => return instruction.k,
                0x16 => return accumulator,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn by_cpu(steering: &Steering, cpus: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let program = steering.program();
        cpus.into_iter().map(|cpu| run(&program, Packet { cpu, ..Packet::default() })).collect()
    }

    #[test]
    fn the_same_number_takes_two_instructions() {
        assert_eq!(Steering::same().program().len(), 2);
        assert_eq!(by_cpu(&Steering::same(), [0, 7, 5000]), [0, 7, 5000]);
        assert_eq!(Steering::same().sockets(7), [(7, 1)]);
    }

    #[test]
    fn neighbours_share_instructions_and_long_maps_are_refused() {
        // Two nodes of 64 CPUs: one comparison for each end.
        let nodes = Steering::new((0..128).map(|cpu| (cpu, cpu / 64)));
        assert_eq!(nodes.program().len(), 6);
        assert_eq!(by_cpu(&nodes, [0, 63, 64, 127, 128]), [0, 0, 1, 1, NO_INDEX]);
        assert_eq!(by_cpu(&Steering::new([]).otherwise(3), [9]), [3]);
        let shared = Steering::new((0..64).flat_map(|cpu| [(cpu, 0), (cpu, 1)]));
        assert_eq!(shared.program().len(), 12, "{shared:?}");
        let long = Steering::new((0..3000).map(|cpu| (cpu, cpu % 2)));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(
            matches!(long.attach(&socket), Err(SocketError::TooLong { instructions }) if instructions > 6000)
        );
    }

    #[test]
    fn shares_are_relative_and_add_up() {
        let steering = Steering::new([(2, 0), (2, 1), (2, 0), (2, 0), (3, 5), (3, 5)]);
        assert_eq!(steering.sockets(2), [(0, 3), (1, 1)]);
        assert_eq!(steering.sockets(3), [(5, 1)]);
        assert_eq!(steering.sockets(4), []);
        assert_eq!(steering.cpus().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(steering.clone().otherwise(9).to_string(), "2 → 0 (75 %) 1 (25 %), 3 → 5, others → 9");
        assert_eq!(Steering::same().to_string(), "each CPU → the socket of its number");
        let same = [(2, 1, 10), (2, 0, 30), (3, 5, u64::MAX), (3, 5, u64::MAX), (4, 1, 0)];
        assert_eq!(Steering::with_shares(same), steering);
    }

    #[test]
    fn the_way_that_a_packet_came_does_not_change_the_shares() {
        let steering = Steering::new([(7, 0), (7, 1), (7, 1), (7, 2)]);
        let program = steering.program();
        // The NIC's table of 128 entries has chosen a queue by the low bits, RPS one of so many CPUs by the high ones.
        for (low, cpus, place) in [(0, 1, 0), (0, 3, 0), (5, 3, 2), (127, 64, 17), (64, 2, 1)] {
            let width = u32::MAX / cpus;
            let mut counts = [0_u32; 3];
            for number in 1..=10_000 {
                let hash = (place * width + number * (width / 10_001)) & !127 | low;
                counts[run(&program, Packet { cpu: 7, hash, random: 0 }) as usize] += 1;
            }
            let near = |count: u32, share: u32| count.abs_diff(share) < 150;
            assert!(
                near(counts[0], 2500) && near(counts[1], 5000) && near(counts[2], 2500),
                "{counts:?} of those with {low} in bucket {place} of {cpus}"
            );
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn it_is_stored_and_comes_back() {
        let steering = Steering::new([(2, 0), (2, 1), (2, 1), (7, 3)]).otherwise(0);
        let text = serde_json::to_string(&steering).unwrap();
        assert_eq!(text, r#"{"map":{"listed":{"2":{"0":1,"1":2},"7":{"3":1}}},"otherwise":0}"#);
        assert_eq!(serde_json::from_str::<Steering>(&text).unwrap(), steering);
        // What nobody would write does no harm.
        let odd = r#"{"map":{"listed":{"2":{"0":0},"3":{},"4":{"1":18446744073709551615,"2":18446744073709551615}}},"otherwise":7}"#;
        let odd: Steering = serde_json::from_str(odd).unwrap();
        assert_eq!(by_cpu(&odd, [2, 3]), [7, 7]);
        assert!(by_cpu(&odd, [4])[0] < 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_program_does_what_the_map_says(
            map in proptest::collection::vec((0..700_u32, 0..40_u32, 0..9_u64), 0..500),
            otherwise in proptest::option::of(0..40_u32),
        ) {
            let mut steering = Steering::with_shares(map);
            steering.otherwise = otherwise;
            let program = steering.program();
            // So that the mixed hash goes evenly through all numbers: GOLDEN times this is 1.
            let back = (0..5).fold(GOLDEN, |inverse, _| {
                inverse.wrapping_mul(2_u32.wrapping_sub(GOLDEN.wrapping_mul(inverse)))
            });
            for cpu in (0..720).chain([u32::MAX]) {
                let sockets = steering.sockets(cpu);
                let steps = if sockets.len() > 1 { 128 } else { 2 };
                let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
                for step in 0..steps {
                    let hash = (step * (u32::MAX / steps) + 1).wrapping_mul(back);
                    let index = run(&program, Packet { cpu, hash, random: 1 });
                    prop_assert_eq!(run(&program, Packet { cpu, hash: 0, random: hash }), index);
                    *counts.entry(index).or_default() += 1;
                }
                if sockets.is_empty() {
                    prop_assert_eq!(counts, BTreeMap::from([(NO_INDEX, steps)]), "CPU {}", cpu);
                    continue;
                }
                let total: u64 = sockets.iter().map(|(_, share)| share).sum();
                prop_assert!(counts.keys().all(|index| sockets.iter().any(|(socket, _)| socket == index)));
                for (index, share) in sockets {
                    let count = counts.get(&index).copied().unwrap_or_default();
                    let wanted = share as f64 * f64::from(steps) / total as f64;
                    prop_assert!((f64::from(count) - wanted).abs() < 2.0, "CPU {}: {}", cpu, count);
                }
            }
        }
    }
}
