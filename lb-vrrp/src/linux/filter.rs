//! Refuses packets for the addresses of routers that do not accept them ([`Config::accept`]; RFC 9568 §6.1, `Accept_Mode`).
//!
//! The addresses must be on their interface, so that the kernel answers ARP and neighbour solicitations, and then it takes
//! packets for them too. So a packet filter of the driver's own drops those: for each family a table with the addresses in a
//! set. They are in it before the first of them is on an interface, and a takeover has nothing to do with it. The tables
//! belong to the driver's socket: nobody else changes them, and they go with the process, however it ends.

mod nftables;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use crate::Config;
use crate::config::OWNER;
use nftables::{Change, Nftables};

/// An address that packets are refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Refused {
    address: IpAddr,
    /// The interface that they come in by, for a link-local address, which is another on each; else 0, for all.
    index: u32,
}

impl Refused {
    /// What a router with this configuration refuses, on interfaces of these numbers.
    pub(super) fn by(config: &Config, indices: &[u32]) -> Vec<Self> {
        if config.accept || config.priority == OWNER {
            return Vec::new();
        }
        let refused = config.addresses.iter().flat_map(|floating| {
            let address = floating.address;
            let local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            let indices = if local { indices } else { &[0] };
            indices.iter().map(move |&index| Self { address, index })
        });
        refused.collect()
    }
}

/// The filter. It has nothing on the system until an address is refused.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// How many routers refuse each: one address may float on two interfaces.
    refused: BTreeMap<Refused, u32>,
    tables: Option<Nftables>,
}

impl Filter {
    /// Refuses `new` instead of `old`. If that fails, all is as before.
    pub(super) fn change(&mut self, old: &[Refused], new: &[Refused]) -> io::Result<()> {
        // How many routers refuse what is named: before, and after.
        let mut counts: BTreeMap<Refused, (u32, u32)> = BTreeMap::new();
        for refused in old.iter().chain(new) {
            let before = self.refused.get(refused).copied().unwrap_or(0);
            counts.insert(*refused, (before, before));
        }
        let mut count = |refused: &Refused, step: fn(u32, u32) -> u32| {
            if let Some((_, after)) = counts.get_mut(refused) {
                *after = step(*after, 1);
            }
        };
        new.iter().for_each(|refused| count(refused, u32::saturating_add));
        old.iter().for_each(|refused| count(refused, u32::saturating_sub));
        let changes = counts.iter().filter_map(|(refused, count)| match count {
            (0, 1..) => Some(Change::Refuse(*refused)),
            (1.., 0) => Some(Change::Accept(*refused)),
            _ => None,
        });
        let changes: Vec<Change> = changes.collect();
        if !changes.is_empty() {
            let tables = match &mut self.tables {
                Some(tables) => tables,
                none => none.insert(Nftables::open()?),
            };
            tables.apply(&changes)?;
        }
        for (refused, (_, after)) in counts {
            match after {
                0 => drop(self.refused.remove(&refused)),
                after => drop(self.refused.insert(refused, after)),
            }
        }
        if self.refused.is_empty() {
            // The kernel removes the tables with their socket.
            self.tables = None;
        }
        Ok(())
    }
}
