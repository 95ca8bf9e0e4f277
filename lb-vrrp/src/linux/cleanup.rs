//! Undoing what a killed driver left.

use std::io;

use super::journal::Record;
use super::links::Links;
use super::netlink::{ADDRESS_PROTOCOL, Change, NetEvent, Netlink};
use super::{sysctl, vmac};
use crate::config::VirtualAddress;

/// Undoes what a dead driver's file says, last things first.
pub(super) fn undo(netlink: &mut Netlink, dump: &[NetEvent], records: &[Record]) -> io::Result<()> {
    let links = Links::from_dump(dump);
    // A kernel that knows tags tags its own addresses.
    let tags = dump.iter().any(|event| matches!(event, NetEvent::Address(known) if known.protocol.is_some()));
    for record in records.iter().rev() {
        match record {
            Record::Vmac { name } => {
                if let Some(link) = links.by_name(name).filter(|link| vmac::is_own(link)) {
                    netlink.apply_one(Change::RemoveLink { index: link.index })?;
                }
            }
            Record::Address { interface, address: VirtualAddress { address, prefix_len, .. } } => {
                let (address, prefix_len) = (*address, *prefix_len);
                let Some(link) = links.by_name(interface) else { continue };
                let Some(known) = links.address(link.index, address, prefix_len) else { continue };
                if !tags || known.protocol == Some(ADDRESS_PROTOCOL) {
                    netlink.apply_one(Change::RemoveAddress { index: link.index, address, prefix_len })?;
                }
            }
            Record::Sysctl { path, original } if sysctl::is_own(path, original) => {
                sysctl::restore(path, original)?;
            }
            Record::Sysctl { .. } => {}
        }
    }
    Ok(())
}
