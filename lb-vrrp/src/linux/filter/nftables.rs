//! The filter's tables in the kernel. Names and numbers are those of `linux/netfilter/nf_tables.h`; what the rules do is in nft(8):
//!
//! ```text
//! table ip6 lb-vrrp-PORT {
//!     flags owner
//!     set floating { type ipv6_addr }
//!     set local { type ipv6_addr . iface_index }
//!     chain input {
//!         type filter hook input priority -1
//!         iif lo accept
//!         icmpv6 type 135-136 accept     # neighbour solicitations and advertisements are for the router itself
//!         ip6 daddr @floating drop
//!         ip6 daddr . iif @local drop
//!     }
//! }
//! ```

use std::io;
use std::net::IpAddr;

use libc::{NF_ACCEPT, NF_DROP, NF_INET_LOCAL_IN, NFPROTO_IPV4, NFPROTO_IPV6, c_int};
use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};

use super::Refused;
use crate::linux::netlink::{answer, messages};

const CHAIN: &str = "input";
/// Addresses wherever their packets come in.
const FLOATING: &str = "floating";
/// Link-local addresses, with the interface.
const LOCAL: &str = "local";

/// Before the host's own rules, most of which are at 0: what is not accepted here is none of theirs.
const PRIORITY: i32 = -1;
/// The loopback's number is the same everywhere.
const LOOPBACK: u32 = 1;
/// What one message may hold: the length of its elements is a number of 16 bits.
const ELEMENTS: usize = 1000;
/// A batch goes out whole, so the send buffer must have room for it; the kernel's smallest default is larger than this.
const BUFFER: usize = 64 * 1024;

/// `NFT_MSG_*`.
mod message {
    pub(super) const NEW_TABLE: c_int = libc::NFT_MSG_NEWTABLE;
    pub(super) const NEW_CHAIN: c_int = libc::NFT_MSG_NEWCHAIN;
    pub(super) const NEW_RULE: c_int = libc::NFT_MSG_NEWRULE;
    pub(super) const NEW_SET: c_int = libc::NFT_MSG_NEWSET;
    pub(super) const NEW_ELEMENTS: c_int = libc::NFT_MSG_NEWSETELEM;
    pub(super) const DELETE_ELEMENTS: c_int = libc::NFT_MSG_DELSETELEM;

    use super::c_int;
}

/// A change to the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Refuse(Refused),
    Accept(Refused),
}

/// The two tables, which live as long as this.
#[derive(Debug)]
pub(super) struct Nftables {
    socket: Socket,
    sequence: u32,
    /// The socket's number is its own in the network namespace, and so is the name.
    table: String,
    /// Whether the tables are there.
    made: bool,
}

impl Nftables {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let address = socket.bind_auto()?;
        socket.set_cap_ack(true)?;
        let table = format!("lb-vrrp-{}", address.port_number());
        Ok(Self { socket, sequence: 0, table, made: false })
    }

    /// Makes all changes or none.
    pub(super) fn apply(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut batch = Batch::new(&self.table, self.sequence);
        if !self.made {
            for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
                batch.make(family);
            }
        }
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            for set in [FLOATING, LOCAL] {
                let here = |change: &&Change| {
                    let (Change::Refuse(refused) | Change::Accept(refused)) = change;
                    (family == NFPROTO_IPV4) == refused.address.is_ipv4()
                        && (set == LOCAL) == (refused.index != 0)
                };
                let (new, old): (Vec<_>, Vec<_>) =
                    changes.iter().filter(here).partition(|change| matches!(change, Change::Refuse(_)));
                for (kind, flags, some) in
                    [(message::NEW_ELEMENTS, NLM_F_CREATE, new), (message::DELETE_ELEMENTS, 0, old)]
                {
                    for some in some.chunks(ELEMENTS) {
                        batch.elements(kind, flags, family, set, some);
                    }
                }
            }
        }
        self.sequence = batch.end();
        if batch.bytes.len() > BUFFER {
            setsockopt(&self.socket, sockopt::SndBufForce, &batch.bytes.len().saturating_mul(2))?;
        }
        self.socket.send(&batch.bytes, 0)?;
        self.answers()?;
        self.made = true;
        Ok(())
    }

    /// The kernel has answered before the send returned: the first error is why nothing was done.
    fn answers(&self) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let mut result = None;
        loop {
            let length = match self.socket.recv(&mut &mut buffer[..], libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for (header, body) in messages(&buffer[..length]) {
                if c_int::from(header.message_type) == libc::NLMSG_ERROR
                    && result.is_none_or(|told: Result<_, _>| told.is_ok())
                {
                    result = Some(answer(body));
                }
            }
        }
        // Not even the acknowledgement of the last message: it was not done.
        Ok(result.unwrap_or(Err(nix::errno::Errno::EIO))?)
    }
}

/// Messages that the kernel carries out all together or not at all.
struct Batch<'a> {
    table: &'a str,
    sequence: u32,
    bytes: Vec<u8>,
}

impl<'a> Batch<'a> {
    fn new(table: &'a str, sequence: u32) -> Self {
        let mut batch = Self { table, sequence, bytes: Vec::new() };
        batch.push(
            libc::NFNL_MSG_BATCH_BEGIN,
            0,
            libc::NFPROTO_UNSPEC,
            libc::NFNL_SUBSYS_NFTABLES as u16,
            &[],
        );
        batch
    }

    /// The last sequence number.
    fn end(&mut self) -> u32 {
        self.push(libc::NFNL_MSG_BATCH_END, 0, libc::NFPROTO_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16, &[]);
        self.sequence
    }

    /// A message to nf_tables.
    fn tell(&mut self, kind: c_int, flags: u16, family: c_int, attributes: &[DefaultNla]) {
        self.push((libc::NFNL_SUBSYS_NFTABLES << 8) | kind, flags | NLM_F_ACK, family, 0, attributes);
    }

    /// The header, `struct nfgenmsg`, and the attributes.
    fn push(&mut self, kind: c_int, flags: u16, family: c_int, resource: u16, attributes: &[DefaultNla]) {
        self.sequence = self.sequence.wrapping_add(1);
        let start = self.bytes.len();
        let length = 16 + 4 + attributes.buffer_len();
        self.bytes.extend((length as u32).to_ne_bytes());
        self.bytes.extend((kind as u16).to_ne_bytes());
        self.bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family as u8, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.resize(start + length, 0);
        attributes.emit(&mut self.bytes[start + 20..]);
    }

    /// Table, sets, chain and rules of a family.
    fn make(&mut self, family: c_int) {
        let table = self.table;
        // The socket's own: gone with it.
        const OWNER: u32 = 2;
        self.tell(message::NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL, family, &[text(1, table), number(2, OWNER)]);
        let bytes = if family == NFPROTO_IPV4 { 4 } else { 16 };
        for (set, id, length) in [(FLOATING, 1, bytes), (LOCAL, 2, bytes + 4)] {
            // What tools take the key for: `ipv4_addr`, `ipv6_addr`, and behind it, six bits further, `iface_index`.
            let address = if family == NFPROTO_IPV4 { 7 } else { 8 };
            let kind = if set == FLOATING { address } else { address << 6 | 20 };
            let attributes = [
                text(1, table),
                text(2, set),
                number(3, 0),
                number(4, kind),
                number(5, length),
                number(10, id),
            ];
            self.tell(message::NEW_SET, NLM_F_CREATE | NLM_F_EXCL, family, &attributes);
        }
        let hook = nested(4, &[number(1, NF_INET_LOCAL_IN as u32), number(2, PRIORITY.cast_unsigned())]);
        let chain = [text(1, table), text(3, CHAIN), hook, number(5, NF_ACCEPT as u32), text(7, "filter")];
        self.tell(message::NEW_CHAIN, NLM_F_CREATE | NLM_F_EXCL, family, &chain);

        let lo = [interface(REGISTER), equal(&LOOPBACK.to_ne_bytes()), verdict(NF_ACCEPT)];
        self.rule(family, &lo);
        if family == NFPROTO_IPV6 {
            // Router solicitations and what else there is are not among them.
            let icmpv6 = [upper_protocol(), equal(&[libc::IPPROTO_ICMPV6 as u8])];
            let neighbours = [icmp_type(), compare(5, &[135]), compare(3, &[136]), verdict(NF_ACCEPT)];
            self.rule(family, &[&icmpv6[..], &neighbours[..]].concat());
        }
        let drop = verdict(NF_DROP);
        self.rule(family, &[destination(family), lookup(FLOATING), drop.clone()]);
        let behind = REGISTER + bytes / 4;
        self.rule(family, &[destination(family), interface(behind), lookup(LOCAL), drop]);
    }

    fn rule(&mut self, family: c_int, expressions: &[DefaultNla]) {
        let rule = [text(1, self.table), text(2, CHAIN), nested(4, expressions)];
        self.tell(message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, family, &rule);
    }

    fn elements(&mut self, kind: c_int, flags: u16, family: c_int, set: &str, changes: &[&Change]) {
        let element = |change: &&Change| {
            let (Change::Refuse(refused) | Change::Accept(refused)) = change;
            let mut key = match refused.address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            if refused.index != 0 {
                key.extend(refused.index.to_ne_bytes());
            }
            nested(1, &[nested(1, &[DefaultNla::new(1, key)])])
        };
        let elements: Vec<DefaultNla> = changes.iter().map(element).collect();
        self.tell(kind, flags, family, &[text(1, self.table), text(2, set), nested(3, &elements)]);
    }
}

/// The first of the registers of 32 bits, in which a key of several words lies.
const REGISTER: u32 = libc::NFT_REG32_00 as u32;

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

/// Numbers are big-endian here.
fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn expression(name: &str, data: &[DefaultNla]) -> DefaultNla {
    nested(1, &[text(1, name), nested(2, data)])
}

/// The number of the interface that a packet comes in by.
fn interface(register: u32) -> DefaultNla {
    expression("meta", &[number(2, libc::NFT_META_IIF as u32), number(1, register)])
}

fn upper_protocol() -> DefaultNla {
    expression("meta", &[number(2, libc::NFT_META_L4PROTO as u32), number(1, REGISTER)])
}

fn payload(base: c_int, offset: u32, length: u32) -> DefaultNla {
    expression(
        "payload",
        &[number(1, REGISTER), number(2, base as u32), number(3, offset), number(4, length)],
    )
}

fn icmp_type() -> DefaultNla {
    payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)
}

fn destination(family: c_int) -> DefaultNla {
    let (offset, length) = if family == NFPROTO_IPV4 { (16, 4) } else { (24, 16) };
    payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, length)
}

/// `operation`: 0 equal, 3 at most, 5 at least.
fn compare(operation: u32, value: &[u8]) -> DefaultNla {
    let value = nested(3, &[DefaultNla::new(1, value.to_vec())]);
    expression("cmp", &[number(1, REGISTER), number(2, operation), value])
}

fn equal(value: &[u8]) -> DefaultNla {
    compare(0, value)
}

fn lookup(set: &str) -> DefaultNla {
    expression("lookup", &[text(1, set), number(2, REGISTER)])
}

fn verdict(code: c_int) -> DefaultNla {
    let verdict = nested(2, &[nested(2, &[number(1, code as u32)])]);
    expression("immediate", &[number(1, libc::NFT_REG_VERDICT as u32), verdict])
}
