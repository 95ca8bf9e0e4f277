//! What a connection is known by: its 5-tuple.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A transport protocol that a connection table knows states for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
    /// SCTP, IP protocol 132.
    Sctp,
    /// ICMP and ICMPv6, IP protocols 1 and 58; put the identifier of an echo in place of the client's port.
    Icmp,
}

/// The 5-tuple of a connection: protocol, the client's address and port, the virtual service's address and
/// port.
///
/// Addresses are kept as IPv6, all in 37 bytes. An IPv4 address mapped into IPv6 (`::ffff:192.0.2.1`) is the
/// IPv4 address; flow labels and scope ids are left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "Plain", into = "Plain")
)]
pub struct Flow {
    /// The client's address, the service's, the client's port, the service's; ports in network order. In one
    /// piece, so that hashing and comparing are each one pass.
    ends: [u8; 36],
    protocol: Protocol,
}

impl Flow {
    /// The connection of `client` with the virtual service at `service`.
    #[must_use]
    pub fn new(protocol: Protocol, client: SocketAddr, service: SocketAddr) -> Self {
        // Whole words rather than single bytes: a word that is read soon after its bytes were written has to
        // wait for them.
        let ports = u32::from(client.port()) << 16 | u32::from(service.port());
        let mut ends = [0; 36];
        ends[..16].copy_from_slice(&bits(client.ip()).to_be_bytes());
        ends[16..32].copy_from_slice(&bits(service.ip()).to_be_bytes());
        ends[32..].copy_from_slice(&ports.to_be_bytes());
        Self { ends, protocol }
    }

    /// The transport protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The client's address and port.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.end(0, 32)
    }

    /// The virtual address and port that the client connects to.
    #[must_use]
    pub fn service(&self) -> SocketAddr {
        self.end(16, 34)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.ends
    }

    fn end(&self, address: usize, port: usize) -> SocketAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.ends[address..address + 16]);
        let port = u16::from_be_bytes([self.ends[port], self.ends[port + 1]]);
        SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), port)
    }
}

/// An address as IPv6.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => 0xffff_0000_0000 | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// `tcp 192.0.2.1:40000 -> 198.51.100.1:80`.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
            Protocol::Icmp => "icmp",
        };
        write!(f, "{protocol} {} -> {}", self.client(), self.service())
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How a flow is written by serde.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Plain {
    protocol: Protocol,
    client: SocketAddr,
    service: SocketAddr,
}

#[cfg(feature = "serde")]
impl From<Plain> for Flow {
    fn from(Plain { protocol, client, service }: Plain) -> Self {
        Self::new(protocol, client, service)
    }
}

#[cfg(feature = "serde")]
impl From<Flow> for Plain {
    fn from(flow: Flow) -> Self {
        Self { protocol: flow.protocol, client: flow.client(), service: flow.service() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_flow_is_37_bytes() {
        assert_eq!(size_of::<Flow>(), 37);
    }

    #[test]
    fn addresses_come_back_as_they_went_in() {
        for (client, service) in [
            ("192.0.2.1:40000", "198.51.100.1:80"),
            ("[2001:db8::7]:1", "[2001:db8::1]:65535"),
            ("[::]:0", "0.0.0.0:0"),
        ] {
            let (client, service) = (client.parse().unwrap(), service.parse().unwrap());
            let flow = Flow::new(Protocol::Udp, client, service);
            assert_eq!((flow.client(), flow.service()), (client, service));
            assert_eq!(format!("{flow}"), format!("udp {client} -> {service}"));
        }
    }

    #[test]
    fn a_mapped_address_is_the_same_client() {
        let service = "198.51.100.1:80".parse().unwrap();
        let plain = Flow::new(Protocol::Tcp, "192.0.2.1:5".parse().unwrap(), service);
        let mapped = Flow::new(Protocol::Tcp, "[::ffff:192.0.2.1]:5".parse().unwrap(), service);
        assert_eq!(plain, mapped);
        assert_eq!(mapped.client(), "192.0.2.1:5".parse().unwrap());
    }
}
