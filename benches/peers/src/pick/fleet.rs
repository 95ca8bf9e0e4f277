//! The backends that every subject gets.

use std::net::{Ipv4Addr, SocketAddr};

/// Address of backend `i`: 10.0.0.1:80 and on.
pub(crate) fn address(i: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + i as u32), 80))
}

/// Weight of backend `i` where weights are used: 1, 2, 3, 4, 1, ….
pub(crate) fn weight(i: usize) -> u8 {
    1 + (i % 4) as u8
}
