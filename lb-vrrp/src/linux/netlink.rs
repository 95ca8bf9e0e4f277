//! Addresses and links by netlink, synchronous: a request goes out, the kernel has done it when the call returns, and its
//! answer is read at once.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use libc::{RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlasIterator,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

/// The protocol that addresses are tagged with (`IFA_PROTO`, since Linux 5.18; older kernels ignore it): VRRP's number.
/// `ip address` shows it as `proto 112`.
pub(super) const ADDRESS_PROTOCOL: u8 = 112;
/// What tells one's own macvlan interfaces from others.
pub(super) const ALIAS: &str = "lb-vrrp";

/// Room for the largest datagram of a dump.
const BUFFER: usize = 64 * 1024;
/// Events of a few thousand addresses, so that a mass takeover does not overflow.
const EVENT_BUFFER: usize = 8 * 1024 * 1024;
/// Events that are read before the adverts have their turn.
const EVENTS: usize = 64;
const DONE: u16 = libc::NLMSG_DONE as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;

/// An interface, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `None` if it has no Ethernet address.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) alias: Option<String>,
    /// Up, with carrier, and fit for traffic.
    pub(super) usable: bool,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
    pub(super) global: bool,
    /// IPv6: duplicate address detection is not done, or has found one.
    pub(super) tentative: bool,
    pub(super) protocol: Option<u8>,
}

/// What changed on the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetEvent {
    Link(Link),
    LinkGone { index: u32 },
    Address(Address),
    AddressGone(Address),
}

/// A change to the system: one message of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Tagged, and for IPv6 without duplicate address detection. `routed`: with a route to its network.
    AddAddress {
        index: u32,
        address: IpAddr,
        prefix_len: u8,
        routed: bool,
    },
    RemoveAddress {
        index: u32,
        address: IpAddr,
        prefix_len: u8,
    },
    /// A private macvlan: its packets go to the wire, not to its parent or its siblings.
    AddMacvlan {
        parent: u32,
        name: String,
        mac: [u8; 6],
    },
    Alias {
        index: u32,
    },
    SetUp {
        index: u32,
        up: bool,
    },
    RemoveLink {
        index: u32,
    },
}

impl Change {
    fn message(&self) -> (RouteNetlinkMessage, u16) {
        match *self {
            Self::AddAddress { index, address, prefix_len, routed } => {
                let mut message = address_message(index, address, prefix_len);
                let mut flags = AddressFlags::empty();
                if address.is_ipv6() {
                    flags |= AddressFlags::Nodad;
                    message.header.flags |= AddressHeaderFlags::Nodad;
                }
                if !routed {
                    flags |= AddressFlags::Noprefixroute;
                }
                message.attributes.push(AddressAttribute::Flags(flags));
                message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)));
                (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Self::RemoveAddress { index, address, prefix_len } => {
                (RouteNetlinkMessage::DelAddress(address_message(index, address, prefix_len)), 0)
            }
            Self::AddMacvlan { parent, ref name, mac } => {
                let mut message = LinkMessage::default();
                message.attributes = vec![
                    LinkAttribute::IfName(name.clone()),
                    LinkAttribute::Link(parent),
                    LinkAttribute::Address(mac.to_vec()),
                    LinkAttribute::LinkInfo(vec![
                        LinkInfo::Kind(InfoKind::MacVlan),
                        LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Private)])),
                    ]),
                ];
                (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            }
            Self::Alias { index } => {
                let mut message = link_message(index);
                message.attributes.push(LinkAttribute::IfAlias(ALIAS.into()));
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            Self::SetUp { index, up } => {
                let mut message = link_message(index);
                message.header.change_mask = LinkFlags::Up;
                message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            Self::RemoveLink { index } => (RouteNetlinkMessage::DelLink(link_message(index)), 0),
        }
    }

    /// Whether `error` says that there is nothing left to do.
    pub(super) fn is_done_by(&self, error: Errno) -> bool {
        match self {
            Self::AddAddress { .. } => error == Errno::EEXIST,
            Self::RemoveAddress { .. } => {
                matches!(error, Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO)
            }
            Self::RemoveLink { .. } => error == Errno::ENODEV,
            Self::AddMacvlan { .. } | Self::Alias { .. } | Self::SetUp { .. } => false,
        }
    }
}

fn address_message(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix_len;
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// The socket for requests.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Box<[u8]>,
}

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Answers without a copy of the request in them.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0, request: Vec::new(), answer: vec![0; BUFFER].into() })
    }

    /// Makes all `changes` with one request, in order; a failure does not stop those after it. `results` gets one entry for
    /// each: whether anything had to be changed.
    pub(super) fn apply(&mut self, changes: &[Change], results: &mut Vec<Result<bool, Errno>>) {
        results.clear();
        // What the kernel does not answer for has not been done.
        results.resize(changes.len(), Err(Errno::EIO));
        if changes.is_empty() {
            return;
        }
        let first = self.sequence.wrapping_add(1);
        self.request.clear();
        for change in changes {
            let (message, flags) = change.message();
            self.push(message, flags | NLM_F_REQUEST | NLM_F_ACK);
        }
        if let Err(error) = self.socket.send(&self.request, 0) {
            results.fill(Err(errno(&error)));
            return;
        }
        let mut missing = changes.len();
        while missing > 0 {
            // The kernel has answered before the send returned: nothing to wait for.
            let length = match self.socket.recv(&mut &mut self.answer[..], libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for (header, body) in messages(&self.answer[..length]) {
                let at = header.sequence_number.wrapping_sub(first) as usize;
                if let (ERROR, Some(result)) = (header.message_type, results.get_mut(at)) {
                    *result = answer(body).map(|()| true);
                    missing -= 1;
                }
            }
        }
        for (result, change) in results.iter_mut().zip(changes) {
            if result.is_err_and(|error| change.is_done_by(error)) {
                *result = Ok(false);
            }
        }
    }

    /// Makes one change.
    pub(super) fn apply_one(&mut self, change: Change) -> io::Result<()> {
        let mut results = Vec::with_capacity(1);
        self.apply(&[change], &mut results);
        results[0].map(drop).map_err(io::Error::from)
    }

    /// Everything that there is, as if it had just come: links first, then addresses.
    pub(super) fn dump(&mut self) -> io::Result<Vec<NetEvent>> {
        let mut events = Vec::new();
        for message in [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        ] {
            self.request.clear();
            self.push(message, NLM_F_REQUEST | NLM_F_DUMP);
            self.socket.send(&self.request, 0)?;
            'dump: loop {
                let length = match self.socket.recv(&mut &mut self.answer[..], 0) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    received => received?,
                };
                for (header, body) in messages(&self.answer[..length]) {
                    if header.sequence_number != self.sequence {
                        continue;
                    }
                    match header.message_type {
                        DONE => break 'dump,
                        ERROR => {
                            answer(body)?;
                            break 'dump;
                        }
                        kind => events.extend(event(kind, &header, body)),
                    }
                }
            }
        }
        Ok(events)
    }

    fn push(&mut self, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = self.request.len();
        self.request.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut self.request[start..]);
    }
}

/// The socket that hears of changes.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: Socket,
    buffer: Box<[u8]>,
}

/// What [`Monitor::read`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// All that there was, or a good part of it.
    All,
    /// The kernel had more than it could keep: events are lost, and a dump must tell how things are.
    Overflow,
}

impl Monitor {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &EVENT_BUFFER)?;
        for group in [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR] {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, buffer: vec![0; BUFFER].into() })
    }

    /// Appends what has come to `events`; not without an end, if more comes all the time.
    pub(super) fn read(&mut self, events: &mut Vec<NetEvent>) -> io::Result<Heard> {
        let mut heard = Heard::All;
        // After an overflow the rest is old news, and read only to be rid of it.
        while heard == Heard::Overflow || events.len() < EVENTS {
            let length = match self.socket.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if errno(&error) == Errno::ENOBUFS => {
                    heard = Heard::Overflow;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if heard == Heard::All {
                let parts = messages(&self.buffer[..length]);
                events.extend(parts.filter_map(|(header, body)| event(header.message_type, &header, body)));
            }
        }
        Ok(heard)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages in a datagram: header and body. What is cut short ends them.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (NetlinkHeader, &[u8])> {
    std::iter::from_fn(move || {
        let bytes = datagram.get(..HEADER)?;
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let mut header = NetlinkHeader::default();
        header.length = word(0);
        header.message_type = half(4);
        header.flags = half(6);
        header.sequence_number = word(8);
        header.port_number = word(12);
        let length = header.length as usize;
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// What an acknowledgement says.
pub(super) fn answer(body: &[u8]) -> Result<(), Errno> {
    let code = body.first_chunk().map_or(-libc::EIO, |&bytes| i32::from_ne_bytes(bytes));
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// What a message tells of a link or an address; `None` for the rest, and for what can't be read.
fn event(kind: u16, header: &NetlinkHeader, body: &[u8]) -> Option<NetEvent> {
    match kind {
        RTM_NEWLINK => link(body).map(NetEvent::Link),
        RTM_DELLINK => {
            // A bridge tells of a port that leaves it in this way too, with its own family.
            let header = LinkHeader::parse(body).ok()?;
            let gone = header.interface_family == AddressFamily::Unspec;
            gone.then_some(NetEvent::LinkGone { index: header.index })
        }
        RTM_NEWADDR | RTM_DELADDR => {
            let message = <RouteNetlinkMessage as netlink_packet_core::NetlinkDeserializable>::deserialize(
                header, body,
            );
            match message.ok()? {
                RouteNetlinkMessage::NewAddress(message) => address(&message).map(NetEvent::Address),
                RouteNetlinkMessage::DelAddress(message) => address(&message).map(NetEvent::AddressGone),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Reads only what is needed: a link has dozens of attributes, and each new kernel brings more.
fn link(body: &[u8]) -> Option<Link> {
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const IF_ALIAS: u16 = 20;

    let header = LinkHeader::parse(body).ok()?;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let attributes = NlasIterator::new(body.get(LINK_HEADER..)?).filter_map(Result::ok);
    let values: HashMap<u16, Vec<u8>> = attributes
        .filter(|attribute| [ADDRESS, NAME, IF_ALIAS].contains(&attribute.kind()))
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
        .collect();
    let text = |kind| {
        let bytes = values.get(&kind)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    };
    Some(Link {
        index: header.index,
        name: text(NAME)?,
        mac: values.get(&ADDRESS).and_then(|mac| <[u8; 6]>::try_from(mac.as_slice()).ok()),
        alias: text(IF_ALIAS),
        usable: header.flags.contains(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp),
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut plain, mut flags, mut protocol) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            // With a point-to-point link, IFA_ADDRESS is the peer's.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => plain = Some(*address),
            AddressAttribute::Flags(bits) => flags = Some(*bits),
            AddressAttribute::Protocol(number) => protocol = Some(u8::from(*number)),
            _ => {}
        }
    }
    let flags = flags.unwrap_or(AddressFlags::from_bits_retain(u32::from(message.header.flags.bits())));
    Some(Address {
        index: message.header.index,
        address: local.or(plain)?,
        prefix_len: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe,
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_taken_apart_and_never_read_beyond() {
        let mut datagram = Vec::new();
        for (length, kind) in [(20_u32, ERROR), (17, RTM_NEWLINK), (16, DONE)] {
            datagram.extend(length.to_ne_bytes());
            datagram.extend(kind.to_ne_bytes());
            datagram.extend([0; 10]);
            datagram.resize(datagram.len() + (length as usize - HEADER).next_multiple_of(4), 0xff);
        }
        let parts: Vec<_> =
            messages(&datagram).map(|(header, body)| (header.message_type, body.len())).collect();
        assert_eq!(parts, [(ERROR, 4), (RTM_NEWLINK, 1), (DONE, 0)]);
        assert_eq!(messages(&datagram[..19]).count(), 0, "cut short");
        datagram[0] = 3; // shorter than its own header
        assert_eq!(messages(&datagram).count(), 0);
        assert_eq!(answer(&[]), Err(Errno::EIO));
        assert_eq!(answer(&(-libc::EPERM).to_ne_bytes()), Err(Errno::EPERM));
        assert_eq!(answer(&0_i32.to_ne_bytes()), Ok(()));
    }

    #[test]
    fn what_a_request_says_of_an_address_is_read_back() {
        let change = Change::AddAddress {
            index: 7,
            address: "2001:db8::1".parse().unwrap(),
            prefix_len: 64,
            routed: false,
        };
        let (RouteNetlinkMessage::NewAddress(message), flags) = change.message() else { panic!() };
        assert_eq!(flags, NLM_F_CREATE | NLM_F_EXCL);
        assert_eq!(message.header.flags, AddressHeaderFlags::Nodad);
        let expected = Address {
            index: 7,
            address: "2001:db8::1".parse().unwrap(),
            prefix_len: 64,
            global: true,
            tentative: false,
            protocol: Some(ADDRESS_PROTOCOL),
        };
        assert_eq!(address(&message), Some(expected));
    }

    #[test]
    fn a_change_that_is_already_so_is_done() {
        let (index, address, prefix_len) = (1, "10.0.0.1".parse().unwrap(), 24);
        let add = Change::AddAddress { index, address, prefix_len, routed: true };
        let remove = Change::RemoveAddress { index, address, prefix_len };
        assert!(add.is_done_by(Errno::EEXIST) && !add.is_done_by(Errno::EADDRNOTAVAIL));
        assert!(remove.is_done_by(Errno::EADDRNOTAVAIL) && !remove.is_done_by(Errno::EPERM));
    }
}
