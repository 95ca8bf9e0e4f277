//! The virtual MAC: a private macvlan interface that has it, and the addresses.
//!
//! It is up only while the router is active. A router in Backup that sent anything from the virtual MAC (a report of a
//! multicast group is enough) would tell every switch that the MAC is with it. Adverts and announcements do not wait for
//! it: they leave through the parent, with the virtual MAC as their source.

use std::io;
use std::net::IpAddr;

use nix::net::if_::if_nametoindex;

use super::Vmac;
use super::journal::{Journal, Record};
use super::links::Links;
use super::netlink::{ALIAS, Change, Link, Netlink};
use super::sysctl::{self, Sysctls};
use crate::wire::Family;

/// An existing VMAC interface.
#[derive(Debug)]
pub(super) struct BoundVmac {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) up: bool,
}

/// Sysctls of the parent, so that only the VMAC answers for the addresses, and with its MAC.
const OF_PARENT: [&str; 2] = ["arp_ignore", "arp_filter"];

/// Sysctls of the VMAC itself: family, name, value.
const OF_VMAC: [(&str, &str, &str); 7] = [
    ("ipv4", "arp_ignore", "1"),
    // What comes for the addresses comes to the VMAC, but the way back may be the parent.
    ("ipv4", "rp_filter", "0"),
    ("ipv4", "promote_secondaries", "1"),
    // No address of its own making: its link-local one is the parent's.
    ("ipv6", "addr_gen_mode", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "accept_dad", "0"),
];

/// Whether a dead driver made it: by its alias or, if it died before it could give one, by its MAC.
pub(super) fn is_own(link: &Link) -> bool {
    let virtual_mac = link.mac.is_some_and(|mac| mac[..4] == [0, 0, 0x5e, 0] && matches!(mac[4], 1 | 2));
    virtual_mac && link.alias.as_deref().is_none_or(|alias| alias == ALIAS)
}

/// Makes the interface, down; one of that name that a dead driver left is replaced.
pub(super) fn create(
    netlink: &mut Netlink,
    sysctls: &mut Sysctls,
    journal: &mut Journal,
    links: &Links,
    parent: &Link,
    (family, vrid): (Family, u8),
    vmac: &Vmac,
) -> io::Result<BoundVmac> {
    let version = match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    };
    let name = vmac.name.clone().unwrap_or_else(|| format!("vrrp{version}.{vrid}.{}", parent.index));
    if let Some(existing) = links.by_name(&name) {
        // What a dead driver wrote down is gone already; without that, only the alias can tell.
        if existing.alias.as_deref() != Some(ALIAS) {
            let message =
                format!("interface {name} exists and is not lb-vrrp's: choose another name for the VMAC");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        netlink.apply_one(Change::RemoveLink { index: existing.index })?;
    }
    journal.add(&Record::Vmac { name: name.clone() })?;
    let mac = family.virtual_mac(vrid);
    netlink.apply_one(Change::AddMacvlan { parent: parent.index, name: name.clone(), mac }).map_err(
        |error| {
            io::Error::new(error.kind(), format!("making the macvlan {name} on {}: {error}", parent.name))
        },
    )?;
    let index = if_nametoindex(name.as_str())?;
    let bound = BoundVmac { index, name, mac, up: false };
    match set_up(netlink, sysctls, journal, parent, family, &bound) {
        Ok(()) => Ok(bound),
        Err(error) => {
            // What went wrong is told; that the clean-up went wrong too would hide it.
            let _ = delete(netlink, sysctls, journal, (parent.index, &parent.name), family, &bound);
            Err(error)
        }
    }
}

fn set_up(
    netlink: &mut Netlink,
    sysctls: &mut Sysctls,
    journal: &mut Journal,
    parent: &Link,
    family: Family,
    bound: &BoundVmac,
) -> io::Result<()> {
    netlink.apply_one(Change::Alias { index: bound.index })?;
    for (family, name, value) in OF_VMAC {
        match sysctl::write(&sysctl::path(family, &bound.name, name), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    if family == Family::Ipv4 {
        for name in OF_PARENT {
            sysctls.require(journal, sysctl::path("ipv4", &parent.name, name))?;
        }
    }
    Ok(())
}

/// Deletes the interface, with all its addresses, and gives the parent's sysctls back.
pub(super) fn delete(
    netlink: &mut Netlink,
    sysctls: &mut Sysctls,
    journal: &mut Journal,
    (index, parent): (u32, &str),
    family: Family,
    bound: &BoundVmac,
) -> io::Result<()> {
    let mut result = netlink.apply_one(Change::RemoveLink { index: bound.index });
    if result.is_ok() {
        result = journal.remove(&Record::Vmac { name: bound.name.clone() });
    }
    if family == Family::Ipv4 {
        for name in OF_PARENT {
            result = result.and(sysctls.release(journal, &sysctl::path("ipv4", parent, name), index));
        }
    }
    result
}

/// What brings it up: with the parent's link-local address, `None` for IPv4.
pub(super) fn bring_up(bound: &BoundVmac, link_local: Option<IpAddr>) -> Vec<Change> {
    let mut changes = vec![Change::SetUp { index: bound.index, up: true }];
    if let Some(address) = link_local {
        changes.push(Change::AddAddress { index: bound.index, address, prefix_len: 64, routed: false });
    }
    changes
}
