//! Listening sockets: one for each worker and address, all of them open before any is used.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Why an address cannot be listened on; the message is one sentence with the cure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BindError {
    /// Another socket has it.
    #[error("{address} is in use by another program: stop that one, or choose another address with {cure}")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The option that changes it.
        cure: &'static str,
    },
    /// A port below 1024, most likely.
    #[error(
        "no permission to listen on {address}: choose a port from 1024 up with {cure}, or run with CAP_NET_BIND_SERVICE"
    )]
    Permission {
        /// The address.
        address: SocketAddr,
        /// The option that changes it.
        cure: &'static str,
    },
    /// This machine does not have it.
    #[error("{address} is not an address of this machine: choose one that it has with {cure}")]
    NotLocal {
        /// The address.
        address: SocketAddr,
        /// The option that changes it.
        cure: &'static str,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}; choose another address with {cure}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The option that changes it.
        cure: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, cure: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, cure },
            io::ErrorKind::PermissionDenied => Self::Permission { address, cure },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { address, cure },
            _ => Self::Other { address, cure, source },
        }
    }
}

/// `count` sockets on one address, between which the kernel spreads connections (SO_REUSEPORT). They listen in their order, which
/// is the order of their indices for [steering](lb_affinity::socket::Steering).
///
/// # Errors
/// [`BindError`], with `cure` as the option that changes the address.
pub(crate) fn bind(
    address: SocketAddr,
    count: usize,
    backlog: i32,
    cure: &'static str,
) -> Result<Vec<TcpListener>, BindError> {
    sockets(address, count, backlog).map_err(|source| BindError::new(address, cure, source))
}

fn sockets(mut address: SocketAddr, count: usize, backlog: i32) -> io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would quietly share the port with another director of the same user, so a socket without it asks
    // first whether anybody listens there.
    let probe = socket(address)?;
    probe.bind(&address.into())?;
    drop(probe);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        let listener = TcpListener::from(socket);
        // Port 0: the first socket's port is the others' too.
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Without it, connections of the last run in TIME_WAIT would block the port for a minute.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_share_a_port_and_others_are_told_that_it_is_taken() {
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let sockets = bind(free, 3, 16, "--listen").unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        let error = bind(address, 1, 16, "--listen").unwrap_err().to_string();
        assert!(error.starts_with(&format!("{address} is in use")) && error.contains("--listen"), "{error}");
        let error = bind("192.0.2.1:80".parse().unwrap(), 1, 16, "`listen`").unwrap_err();
        assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    }
}
