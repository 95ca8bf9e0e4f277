//! Sockets and the CPUs that their packets come by: which one it was, and listeners that each get the packets of theirs.
//!
//! When packets go to the listener of the worker beside the CPU that received them, the worker's own CPU does no network work, and
//! no packet crosses to another node. That is what receive flow steering (RFS) can't do: it takes the network work to the worker's
//! CPU.
//!
//! ```
//! use lb_affinity::socket::Steering;
//!
//! // CPUs 2, 3 and 7 receive; the workers on 0, 1, 4 and 5 listen, in this order. CPU 7 serves two of them.
//! let steering = Steering::new([(2, 0), (3, 1), (7, 2), (7, 3)]).otherwise(0);
//! assert_eq!(steering.sockets(3), [(1, 1)]);
//! assert_eq!(steering.sockets(7), [(2, 1), (3, 1)]);
//! assert_eq!(steering.sockets(12), [(0, 1)]);
//! # fn attach(steering: &Steering, listener: &std::net::TcpListener) -> Result<(), lb_affinity::socket::SocketError> {
//! // Once all listeners listen, to any one of them:
//! steering.attach(listener)
//! # }
//! ```
//!
//! [`Plan::steering`](crate::plan::Plan::steering) makes one for the workers of a plan.
//!
//! Sources: socket(7) for the options; Documentation/networking/filter.rst for the language of the program, and
//! Documentation/networking/napi.rst for NAPI ids and busy polling.

use std::io;
use std::os::fd::AsFd;

use crate::sys;

mod steering;

use steering::MOST_INSTRUCTIONS;
pub use steering::Steering;

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
        "steering takes {instructions} instructions, and the kernel takes {MOST_INSTRUCTIONS}: give neighbouring CPUs the same sockets"
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

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
