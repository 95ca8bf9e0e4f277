//! What is known of the system's interfaces and addresses, kept from netlink's events.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::netlink::{Address, Link, NetEvent};
use crate::wire::Family;

/// An interface's addresses by address and prefix length, each with its number in the order of arrival: the first is the
/// interface's primary one.
type Addresses = BTreeMap<(IpAddr, u8), (u64, Address)>;

/// Interfaces and addresses, by interface index.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: HashMap<u32, Link>,
    addresses: HashMap<u32, Addresses>,
    arrivals: u64,
}

impl Links {
    /// What a dump says.
    pub(super) fn from_dump(events: &[NetEvent]) -> Self {
        let mut links = Self::default();
        events.iter().for_each(|event| links.note(event));
        links
    }

    /// Takes note of a change.
    pub(super) fn note(&mut self, event: &NetEvent) {
        match event {
            NetEvent::Link(link) => drop(self.links.insert(link.index, link.clone())),
            NetEvent::LinkGone { index } => {
                self.links.remove(index);
                self.addresses.remove(index);
            }
            NetEvent::Address(address) => {
                self.arrivals += 1;
                let arrival = self.arrivals;
                self.addresses
                    .entry(address.index)
                    .or_default()
                    .entry((address.address, address.prefix_len))
                    .and_modify(|(_, known)| *known = *address)
                    .or_insert((arrival, *address));
            }
            NetEvent::AddressGone(address) => {
                if let Some(addresses) = self.addresses.get_mut(&address.index) {
                    addresses.remove(&(address.address, address.prefix_len));
                }
            }
        }
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The Ethernet address of an interface.
    pub(super) fn mac(&self, index: u32) -> Option<[u8; 6]> {
        self.links.get(&index)?.mac
    }

    pub(super) fn has_link(&self, index: u32) -> bool {
        self.links.contains_key(&index)
    }

    /// An interface was just made: it is there, though netlink has still to tell of it.
    pub(super) fn expect(&mut self, index: u32, name: &str) {
        let link = Link { index, name: name.into(), mac: None, alias: None, usable: false };
        self.links.entry(index).or_insert(link);
    }

    pub(super) fn is_usable(&self, name: &str) -> bool {
        self.by_name(name).is_some_and(|link| link.usable)
    }

    /// The address, if the interface has it.
    pub(super) fn address(&self, index: u32, address: IpAddr, prefix_len: u8) -> Option<&Address> {
        self.addresses.get(&index)?.get(&(address, prefix_len)).map(|(_, address)| address)
    }

    /// Where adverts may come from: the interface's first global IPv4 address, or its first link-local IPv6 address that is
    /// no longer tentative (RFC 9568 §5.1.2.1), leaving out those that float.
    pub(super) fn source(
        &self,
        index: u32,
        family: Family,
        floats: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let fits = |known: &Address| match (family, known.address) {
            (Family::Ipv4, IpAddr::V4(_)) => known.global,
            (Family::Ipv6, IpAddr::V6(address)) => address.is_unicast_link_local() && !known.tentative,
            _ => false,
        };
        let candidates = self.addresses.get(&index)?.values();
        candidates
            .filter(|(_, known)| fits(known) && !floats(known.address))
            .min_by_key(|(arrival, _)| *arrival)
            .map(|(_, known)| known.address)
    }

    /// Whether the interface reaches `address` by a network of one of its own addresses.
    pub(super) fn reaches(&self, index: u32, address: IpAddr, floats: impl Fn(IpAddr) -> bool) -> bool {
        let own = self.addresses.get(&index).into_iter().flat_map(BTreeMap::values);
        own.filter(|(_, known)| !floats(known.address))
            .any(|(_, known)| in_network(address, known.address, known.prefix_len))
    }
}

fn in_network(address: IpAddr, network: IpAddr, prefix_len: u8) -> bool {
    let differs = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            u128::from(address.to_bits() ^ network.to_bits()) >> (32 - prefix_len.min(32))
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let rest = 128 - u32::from(prefix_len.min(128));
            (address.to_bits() ^ network.to_bits()).checked_shr(rest).unwrap_or(0)
        }
        _ => return false,
    };
    differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, prefix_len: u8, global: bool) -> Address {
        Address {
            index: 2,
            address: text.parse().unwrap(),
            prefix_len,
            global,
            tentative: false,
            protocol: None,
        }
    }

    #[test]
    fn the_source_is_the_first_that_fits_and_does_not_float() {
        let floating: IpAddr = "10.0.0.1".parse().unwrap();
        let floats = |address| address == floating;
        let mut links = Links::default();
        assert_eq!(links.source(2, Family::Ipv4, floats), None);
        let mut tentative = address("fe80::1", 64, false);
        tentative.tentative = true;
        for known in [
            address("10.0.0.1", 24, true),
            address("169.254.0.9", 16, false),
            address("10.0.0.9", 24, true),
            address("10.0.0.5", 24, true),
            address("2001:db8::5", 64, true),
            tentative,
        ] {
            links.note(&NetEvent::Address(known));
        }
        // The first that came, not the least; and it stays the first when it is told again.
        let ninth = address("10.0.0.9", 24, true);
        links.note(&NetEvent::Address(ninth));
        assert_eq!(links.source(2, Family::Ipv4, floats), Some(ninth.address));
        assert_eq!(links.source(2, Family::Ipv6, floats), None, "tentative");
        tentative.tentative = false;
        links.note(&NetEvent::Address(tentative));
        assert_eq!(links.source(2, Family::Ipv6, floats), Some(tentative.address));
        links.note(&NetEvent::AddressGone(ninth));
        assert_eq!(links.source(2, Family::Ipv4, floats), Some("10.0.0.5".parse().unwrap()));
        links.note(&NetEvent::LinkGone { index: 2 });
        assert_eq!(links.source(2, Family::Ipv4, floats), None);
    }

    #[test]
    fn networks_contain_what_shares_their_prefix() {
        let table = [
            ("10.0.0.200", "10.0.0.1", 24, true),
            ("10.0.1.200", "10.0.0.1", 24, false),
            ("10.0.1.200", "10.0.0.1", 0, true),
            ("10.0.0.1", "10.0.0.1", 32, true),
            ("10.0.0.2", "10.0.0.1", 32, false),
            ("fe80::2", "fe80::1", 64, true),
            ("fe80:0:0:1::2", "fe80::1", 64, false),
            ("2001:db8::1", "::", 0, true),
            ("2001:db8::1", "10.0.0.1", 0, false),
        ];
        for (address, network, prefix_len, expected) in table {
            let (address, network) = (address.parse().unwrap(), network.parse().unwrap());
            assert_eq!(
                in_network(address, network, prefix_len),
                expected,
                "{address} in {network}/{prefix_len}"
            );
        }
    }
}
