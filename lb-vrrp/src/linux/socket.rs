//! Sockets of one interface: raw ones of protocol 112, and a packet socket for frames with a MAC of one's own.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::frame::TRAFFIC_CLASS;
use super::sys;
use crate::wire::{Family, MULTICAST_V4, MULTICAST_V6, Meta, PROTOCOL, TTL};

/// Adverts of 255 routers for some seconds, for the time in which the thread does not get to read them.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Room for what comes beside a packet: a time, and of IPv6 destination and hop limit.
const CONTROL: usize = 128;

#[repr(align(8))]
struct Control([u8; CONTROL]);

/// A packet.
#[derive(Debug)]
pub(super) struct Received<'b> {
    /// What its header says.
    pub(super) meta: Meta,
    pub(super) payload: &'b [u8],
    /// When the kernel got it, by the wall clock, since 1970.
    pub(super) stamp: Option<Duration>,
}

/// A raw socket of protocol 112 for one family on one interface: hears the group, and what is sent to the host itself.
#[derive(Debug)]
pub(super) struct RawSocket {
    socket: Socket,
    family: Family,
    index: u32,
}

impl RawSocket {
    /// On the interface `index` that is now called `name`.
    pub(super) fn open(family: Family, index: u32, name: &str) -> io::Result<Self> {
        let domain = match family {
            Family::Ipv4 => Domain::IPV4,
            Family::Ipv6 => Domain::IPV6,
        };
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.bind_device(Some(name.as_bytes()))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        match family {
            Family::Ipv4 => {
                socket.set_ttl_v4(TTL.into())?;
                socket.set_multicast_ttl_v4(TTL.into())?;
                socket.set_multicast_loop_v4(false)?;
                // Only the groups that this socket has joined, not those of every socket on the host.
                socket.set_multicast_all_v4(false)?;
                // The source is checked here, by netlink's events; the kernel would seek it among all addresses at each send.
                socket.set_ip_transparent_v4(true)?;
                socket.set_tos_v4(TRAFFIC_CLASS.into())?;
                socket.join_multicast_v4_n(&MULTICAST_V4, &InterfaceIndexOrAddress::Index(index))?;
            }
            Family::Ipv6 => {
                socket.set_unicast_hops_v6(TTL.into())?;
                socket.set_multicast_hops_v6(TTL.into())?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_all_v6(false)?;
                socket.set_tclass_v6(TRAFFIC_CLASS.into())?;
                socket.set_recv_hoplimit_v6(true)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                socket.join_multicast_v6(&MULTICAST_V6, index)?;
            }
        }
        Ok(Self { socket, family, index })
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Reads one packet, its payload into `buffer`. A packet whose header can't be read is an empty one from nowhere.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Received<'b>> {
        let mut control = Control([0; CONTROL]);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control.0),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let length = message.bytes;
        let mut meta = NOWHERE_V6;
        if let Some(address) = message.address.as_ref().and_then(SockaddrStorage::as_sockaddr_in6) {
            meta.source = address.ip().into();
        }
        let mut stamp = None;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmTimestampns(at) => stamp = Some(at.into()),
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    meta.destination = IpAddr::from(info.ipi6_addr.s6_addr);
                }
                ControlMessageOwned::Ipv6HopLimit(limit) => meta.ttl = u8::try_from(limit).unwrap_or(0),
                _ => {}
            }
        }
        let packet = &buffer[..length];
        Ok(match self.family {
            Family::Ipv4 => {
                let (meta, payload) = split_ipv4(packet);
                Received { meta, payload, stamp }
            }
            Family::Ipv6 => Received { meta, payload: packet, stamp },
        })
    }

    /// Sends `message` from `source`, whether or not the interface has that address first of all.
    pub(super) fn send(&self, source: IpAddr, destination: IpAddr, message: &[u8]) -> io::Result<()> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: self.index as i32,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                self.send_with(ControlMessage::Ipv4PacketInfo(&info), &to, message)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: self.index,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, self.index));
                self.send_with(ControlMessage::Ipv6PacketInfo(&info), &to, message)
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn send_with(
        &self,
        control: ControlMessage<'_>,
        to: &impl SockaddrLike,
        message: &[u8],
    ) -> io::Result<()> {
        let parts = [IoSlice::new(message)];
        sendmsg(self.socket.as_raw_fd(), &parts, &[control], MsgFlags::MSG_DONTWAIT, Some(to))?;
        Ok(())
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const NOWHERE_V4: Meta = Meta::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const NOWHERE_V6: Meta =
    Meta::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0);

/// An IPv4 packet as a raw socket gives it: its header told, its options skipped.
fn split_ipv4(packet: &[u8]) -> (Meta, &[u8]) {
    let address = |at: usize| {
        let octets: Option<[u8; 4]> = packet.get(at..at + 4).and_then(|octets| octets.try_into().ok());
        octets.map(IpAddr::from)
    };
    let (Some(&first), Some(&ttl), Some(source), Some(destination)) =
        (packet.first(), packet.get(8), address(12), address(16))
    else {
        return (NOWHERE_V4, &[]);
    };
    let header = 4 * usize::from(first & 0x0f);
    (Meta::new(source, destination, ttl), packet.get(header.max(20)..).unwrap_or_default())
}

/// Sends whole frames on one interface.
#[derive(Debug)]
pub(super) struct PacketSocket(Socket);

impl PacketSocket {
    pub(super) fn open(index: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        sys::bind_packet(socket.as_fd(), index)?;
        Ok(Self(socket))
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }

    /// Sends as many of `frames` as the kernel takes at once, in order.
    pub(super) fn send_many(&self, frames: &[&[u8]]) -> io::Result<usize> {
        sys::send_many(&self.0, frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_header_is_split_off_with_its_options() {
        let mut packet = [0_u8; 28];
        packet[0] = 0x46;
        packet[8] = 254;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 224, 0, 0, 18]);
        packet[24..].copy_from_slice(&[0x31, 51, 100, 1]);
        let (meta, payload) = split_ipv4(&packet);
        assert_eq!(meta, Meta::new([10, 0, 0, 1].into(), [224, 0, 0, 18].into(), 254));
        assert_eq!(payload, [0x31, 51, 100, 1]);
        assert_eq!(split_ipv4(&packet[..19]), (NOWHERE_V4, &[][..]));
        packet[0] = 0x4f;
        assert_eq!(split_ipv4(&packet).1, [0; 0], "a header longer than the packet");
    }
}
