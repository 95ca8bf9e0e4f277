//! Sockets and the CPUs that their packets come by: which one it was, and listeners that each get the packets of theirs.
//!
//! When packets go to the listener of the worker beside the CPU that received them, the worker's own CPU does no network work, and
//! no packet crosses to another node. That is what receive flow steering (RFS) can't do: it takes the network work to the worker's
//! CPU.
//!
//! ```
//! use lb_affinity::socket::Steering;
//!
//! // CPUs 2, 3, 6 and 7 receive; the workers on 0, 1, 4 and 5 listen, in this order.
//! let steering = Steering::new([(2, 0), (3, 1), (6, 2), (7, 3)]).otherwise(0);
//! assert_eq!(steering.index(7), Some(3));
//! assert_eq!(steering.index(12), Some(0));
//! # fn attach(steering: &Steering, listener: &std::net::TcpListener) -> Result<(), lb_affinity::socket::SocketError> {
//! // Once all listeners listen, to any one of them:
//! steering.attach(listener)
//! # }
//! ```
//!
//! Sources: socket(7) for the options; Documentation/networking/filter.rst for the language of the program, and
//! Documentation/networking/napi.rst for NAPI ids and busy polling.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use crate::sys;

/// Why a socket does not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// `EPERM`: a longer busy poll than the socket has.
    #[error("SO_BUSY_POLL {microseconds} needs CAP_NET_ADMIN: without it the time can only be shortened")]
    BusyPoll {
        /// What was asked for.
        microseconds: u32,
    },
    /// A value that the option can't hold.
    #[error("{option} {value} is above {most}")]
    TooHigh {
        /// The option.
        option: &'static str,
        /// What was asked for.
        value: u32,
        /// The highest possible value.
        most: u32,
    },
    /// `ENOPROTOOPT`: the kernel, or this kind of socket, has no such option.
    #[error(
        "{option}: the kernel or this kind of socket has no such option (ENOPROTOOPT); it came with Linux {since}"
    )]
    NoOption {
        /// The option.
        option: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// The socket shares its port with none.
    #[error("SO_ATTACH_REUSEPORT_CBPF: the socket shares its port with none; set SO_REUSEPORT before bind")]
    NotShared,
    /// The map has more pieces than a program has room for.
    #[error(
        "steering takes {instructions} instructions, and the kernel takes {MOST_INSTRUCTIONS}: give neighbouring CPUs the same socket"
    )]
    TooLong {
        /// How many it would be.
        instructions: usize,
    },
    /// Another answer of the kernel's.
    #[error("{option}: {source}")]
    System {
        /// The option.
        option: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

fn error(option: &'static str, since: &'static str, source: io::Error) -> SocketError {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP) => SocketError::NoOption { option, since },
        _ => SocketError::System { option, source },
    }
}

/// The CPU on which the kernel last worked on a packet of this socket's (`SO_INCOMING_CPU`); nothing if there was none yet.
/// UDP sockets keep it only when they have a peer (connect(2)).
///
/// # Errors
/// [`SocketError::NoOption`] before Linux 3.19.
pub fn incoming_cpu(socket: &impl AsFd) -> Result<Option<u32>, SocketError> {
    let cpu = sys::socket_option(socket.as_fd(), libc::SO_INCOMING_CPU);
    let cpu = cpu.map_err(|source| error("SO_INCOMING_CPU", "3.19", source))?;
    // −1 says none.
    Ok(u32::try_from(cpu).ok())
}

/// Says that this socket is the one for packets that come by `cpu`, among those that share its port (`SO_INCOMING_CPU`). The
/// kernel prefers it, but spreads by a hash where more than one, or none, says so. [`Steering`] gives every CPU a socket.
///
/// # Errors
/// [`SocketError::NoOption`] before Linux 4.4; [`SocketError::TooHigh`].
pub fn set_incoming_cpu(socket: &impl AsFd, cpu: u32) -> Result<(), SocketError> {
    let option = "SO_INCOMING_CPU";
    let value = signed(option, cpu)?;
    sys::set_socket_option(socket.as_fd(), libc::SO_INCOMING_CPU, value)
        .map_err(|source| error(option, "4.4", source))
}

fn signed(option: &'static str, value: u32) -> Result<i32, SocketError> {
    let most = i32::MAX.cast_unsigned();
    i32::try_from(value).map_err(|_| SocketError::TooHigh { option, value, most })
}

/// The id of the NAPI instance (for most drivers: the receive queue) by which the socket's last packet came
/// (`SO_INCOMING_NAPI_ID`); nothing if there was none, or if it came by a device without, as loopback is.
///
/// # Errors
/// [`SocketError::NoOption`] before Linux 4.12, or if the kernel is built without `CONFIG_NET_RX_BUSY_POLL`.
pub fn incoming_napi_id(socket: &impl AsFd) -> Result<Option<u32>, SocketError> {
    let id = sys::socket_option(socket.as_fd(), libc::SO_INCOMING_NAPI_ID);
    let id = id.map_err(|source| error("SO_INCOMING_NAPI_ID", "4.12", source))?;
    Ok(Some(id.cast_unsigned()).filter(|id| *id != 0))
}

/// How long a blocking read polls the device's queue before it sleeps, in microseconds (`SO_BUSY_POLL`).
///
/// # Errors
/// [`SocketError::NoOption`] before Linux 3.11, or without `CONFIG_NET_RX_BUSY_POLL`.
pub fn busy_poll(socket: &impl AsFd) -> Result<u32, SocketError> {
    let time = sys::socket_option(socket.as_fd(), libc::SO_BUSY_POLL);
    time.map(i32::cast_unsigned).map_err(|source| error("SO_BUSY_POLL", "3.11", source))
}

/// Sets the time to poll, in microseconds; 0 switches it off. It spares the interrupt, and takes the CPU.
///
/// # Errors
/// [`SocketError::BusyPoll`] without `CAP_NET_ADMIN`, if it is more than the socket has, which is `net.core.busy_read` at first
/// (so socket(7); Linux 6.18 was seen to let anyone); [`SocketError::TooHigh`]; [`SocketError::NoOption`].
pub fn set_busy_poll(socket: &impl AsFd, microseconds: u32) -> Result<(), SocketError> {
    let value = signed("SO_BUSY_POLL", microseconds)?;
    sys::set_socket_option(socket.as_fd(), libc::SO_BUSY_POLL, value)
        .map_err(|source| busy_poll_error(microseconds, source))
}

fn busy_poll_error(microseconds: u32, source: io::Error) -> SocketError {
    match source.raw_os_error() {
        Some(libc::EPERM) => SocketError::BusyPoll { microseconds },
        _ => error("SO_BUSY_POLL", "3.11", source),
    }
}

/// Which of the sockets that share a port gets the packets that a CPU receives.
///
/// A socket's *index* is its place in the order in which they joined: the order of bind(2) for UDP, of listen(2) for TCP. When one
/// is closed, the last one takes its index (socket(7), `SO_ATTACH_REUSEPORT_CBPF`), so attach anew after such a change.
///
/// For TCP it is the connection that is steered, by the CPU that receives its first packet.
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
    Listed(BTreeMap<u32, u32>),
}

/// An index that no group of sockets has: the kernel then spreads by its hash, as without a program.
const NO_INDEX: u32 = u32::MAX;
/// The kernel's `BPF_MAXINSNS`.
const MOST_INSTRUCTIONS: usize = 4096;

impl Steering {
    /// CPU n has the socket with index n: a program of two instructions. CPUs beyond the last socket are spread by the kernel's
    /// hash.
    #[must_use]
    pub fn same() -> Self {
        Self::default()
    }

    /// Each CPU has the socket with the index beside it; the last one counts for a CPU that comes twice. The CPUs that are not
    /// named are spread by the kernel's hash, if [`otherwise`](Self::otherwise) says nothing else.
    #[must_use]
    pub fn new(map: impl IntoIterator<Item = (u32, u32)>) -> Self {
        Self { map: Map::Listed(map.into_iter().collect()), otherwise: None }
    }

    /// Gives the CPUs that are not named a socket. With [`same`](Self::same) all are named.
    #[must_use]
    pub fn otherwise(mut self, index: u32) -> Self {
        self.otherwise = Some(index);
        self
    }

    /// The index of the socket for a CPU; nothing if the kernel's hash chooses.
    #[must_use]
    pub fn index(&self, cpu: u32) -> Option<u32> {
        let index = match &self.map {
            Map::Same => Some(cpu),
            Map::Listed(map) => map.get(&cpu).copied().or(self.otherwise),
        };
        index.filter(|index| *index != NO_INDEX)
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
        let cpu = (libc::SKF_AD_OFF + libc::SKF_AD_CPU).cast_unsigned();
        let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, cpu)];
        match &self.map {
            Map::Same => program.push(instruction(libc::BPF_RET | libc::BPF_A, 0)),
            Map::Listed(_) => program.extend(tree(&self.runs())),
        }
        program
    }

    /// The map as runs of CPUs with the same index: the first CPU of each, from 0 on.
    fn runs(&self) -> Vec<(u32, u32)> {
        let Map::Listed(map) = &self.map else { return Vec::new() };
        let mut runs: Vec<(u32, u32)> = vec![(0, self.index(0).unwrap_or(NO_INDEX))];
        let bounds = map.keys().flat_map(|&cpu| [Some(cpu), cpu.checked_add(1)]).flatten();
        for cpu in bounds {
            let index = self.index(cpu).unwrap_or(NO_INDEX);
            if runs.last().is_some_and(|(_, last)| *last != index) {
                runs.push((cpu, index));
            }
        }
        runs
    }
}

const fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// A search by halves for the run that the CPU number in the accumulator is in.
fn tree(runs: &[(u32, u32)]) -> Vec<libc::sock_filter> {
    let [first, .., _] = runs else {
        let index = runs.first().map_or(NO_INDEX, |(_, index)| *index);
        return vec![instruction(libc::BPF_RET | libc::BPF_K, index)];
    };
    debug_assert!(first.0 < runs[1].0);
    let (low, high) = runs.split_at(runs.len() / 2);
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

    /// What the kernel would do, for the five instructions that are used.
    fn run(program: &[libc::sock_filter], cpu: u32) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let instruction = &program[at];
            at += 1;
            match u32::from(instruction.code) {
                0x20 => {
                    assert_eq!(instruction.k, 0xffff_f024);
                    accumulator = cpu;
                }
                0x35 => {
                    let jump = if accumulator >= instruction.k { instruction.jt } else { instruction.jf };
                    at += usize::from(jump);
                }
                0x05 => at += instruction.k as usize,
                0x06 => return instruction.k,
                0x16 => return accumulator,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_same_number_takes_two_instructions() {
        let program = Steering::same().program();
        assert_eq!(program.len(), 2);
        assert_eq!([0, 7, 5000].map(|cpu| run(&program, cpu)), [0, 7, 5000]);
    }

    #[test]
    fn neighbours_share_instructions_and_long_maps_are_refused() {
        // Two nodes of 64 CPUs: one comparison for each end.
        let nodes = Steering::new((0..128).map(|cpu| (cpu, cpu / 64)));
        assert_eq!(nodes.program().len(), 6);
        assert_eq!([0, 63, 64, 127, 128].map(|cpu| run(&nodes.program(), cpu)), [0, 0, 1, 1, NO_INDEX]);
        assert_eq!(run(&Steering::new([]).otherwise(3).program(), 9), 3);
        let long = Steering::new((0..3000).map(|cpu| (cpu, cpu % 2)));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(
            matches!(long.attach(&socket), Err(SocketError::TooLong { instructions }) if instructions > 6000)
        );
    }

    proptest! {
        #[test]
        fn the_program_does_what_the_map_says(
            map in proptest::collection::btree_map(0..700_u32, 0..40_u32, 0..500),
            otherwise in proptest::option::of(0..40_u32),
        ) {
            let mut steering = Steering::new(map);
            steering.otherwise = otherwise;
            let program = steering.program();
            for cpu in (0..720).chain([u32::MAX]) {
                prop_assert_eq!(run(&program, cpu), steering.index(cpu).unwrap_or(NO_INDEX), "CPU {}", cpu);
            }
        }
    }

    #[test]
    fn options_read_back_and_errors_name_the_cure() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = Steering::same().attach(&socket).unwrap_err().to_string();
        assert!(error.contains("set SO_REUSEPORT before bind"), "{error}");
        assert_eq!(incoming_cpu(&socket).unwrap(), None);
        set_incoming_cpu(&socket, 1).unwrap();
        assert_eq!(incoming_cpu(&socket).unwrap(), Some(1));
        assert_eq!(incoming_napi_id(&socket).unwrap(), None);
        let before = busy_poll(&socket).unwrap();
        set_busy_poll(&socket, before).unwrap();
        let error = set_busy_poll(&socket, u32::MAX).unwrap_err().to_string();
        assert_eq!(error, "SO_BUSY_POLL 4294967295 is above 2147483647");
        let error = busy_poll_error(50, io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(error.starts_with("SO_BUSY_POLL 50 needs CAP_NET_ADMIN"), "{error}");
        let error = busy_poll_error(50, io::Error::from_raw_os_error(libc::ENOPROTOOPT)).to_string();
        assert!(error.ends_with("it came with Linux 3.11"), "{error}");
        assert!(matches!(set_incoming_cpu(&socket, u32::MAX), Err(SocketError::TooHigh { .. })));
    }
}
