//! The floating addresses of one router: which are on the interface, and whom their neighbours must still be told of.
//!
//! Work is handed out one piece at a time and in an order that lets the first neighbour hear soon: a few addresses, then
//! their first announcements, and so on; then the further rounds. No step looks at all addresses twice.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::config::VirtualAddress;
use crate::event::Action;

/// Addresses that are added before the first of them is announced. One request to the kernel carries them.
const BATCH: usize = 8;
/// The same at a takeover's beginning: where hundreds of routers take over at once, the neighbours of each hear of it soon.
const FIRST: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    address: VirtualAddress,
    /// On the interface, as far as is known.
    present: bool,
    /// Adding or removing failed: not tried again until [`Addresses::unblock`].
    blocked: bool,
    /// Still part of the configuration.
    configured: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Addresses {
    items: Vec<Item>,
    /// The advertised addresses as adverts carry them.
    octets: Box<[u8]>,
    /// Whether they belong on the interface.
    wanted: bool,
    /// Up to where the items agree with `wanted`.
    settled: usize,
    /// Up to where they may, before announcements have their turn.
    batch_end: usize,
    /// Up to where this round has announced.
    announced: usize,
    /// Rounds after this one.
    rounds: u8,
}

impl Addresses {
    pub(crate) fn new(addresses: &[VirtualAddress]) -> Self {
        let items: Vec<_> = addresses
            .iter()
            .map(|&address| Item { address, present: false, blocked: false, configured: true })
            .collect();
        let (settled, announced) = (items.len(), items.len());
        Self { items, octets: octets(addresses), wanted: false, settled, batch_end: 0, announced, rounds: 0 }
    }

    /// Another list: what stays, stays on the interface; what goes is removed.
    pub(crate) fn replace(&mut self, addresses: &[VirtualAddress], rounds: u8) {
        for item in &mut self.items {
            item.configured = addresses.contains(&item.address);
        }
        let mut items: Vec<Item> = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let known = self.items.iter().position(|item| item.address == address);
            items.push(match known {
                Some(at) => self.items.swap_remove(at),
                None => Item { address, present: false, blocked: false, configured: true },
            });
        }
        self.items.retain(|item| item.present);
        items.append(&mut self.items);
        self.items = items;
        self.octets = octets(addresses);
        self.settled = 0;
        if self.wanted {
            self.announce(rounds);
        }
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// They belong on the interface from now on, or no longer.
    pub(crate) fn want(&mut self, wanted: bool, rounds: u8) {
        self.wanted = wanted;
        self.settled = 0;
        if wanted {
            self.announce(rounds);
        } else {
            (self.announced, self.rounds) = (self.items.len(), 0);
        }
    }

    /// Announce all, `rounds` times, from the first on.
    pub(crate) fn announce(&mut self, rounds: u8) {
        if rounds == 0 {
            self.announced = self.items.len();
            self.rounds = 0;
        } else {
            self.announced = 0;
            self.rounds = rounds - 1;
        }
    }

    /// Whether announcements are still to come.
    pub(crate) fn is_announcing(&self) -> bool {
        self.wanted && (self.announced < self.items.len() || self.rounds > 0)
    }

    /// Try again what failed.
    pub(crate) fn unblock(&mut self) {
        for item in &mut self.items {
            item.blocked = false;
        }
        self.settled = 0;
    }

    /// The change that was asked for failed: it is undone in the books and not tried again until [`Self::unblock`].
    pub(crate) fn failed(&mut self, address: VirtualAddress, adding: bool) {
        if let Some(item) = self.items.iter_mut().find(|item| item.address == address) {
            item.present = !adding;
            item.blocked = true;
        } else if !adding {
            // A removed address that has left the configuration: known again, until it is gone.
            self.items.push(Item { address, present: true, blocked: true, configured: false });
        }
    }

    /// The address is no longer on the interface, though nobody here removed it. Whether it belongs there.
    pub(crate) fn lost(&mut self, address: IpAddr) -> bool {
        let found = self.items.iter().position(|item| item.address.address == address && item.present);
        let Some(at) = found else { return false };
        self.items[at].present = false;
        let belongs = self.wanted && self.items[at].configured;
        if belongs {
            self.settled = self.settled.min(at);
            self.announced = self.announced.min(at);
        }
        belongs
    }

    /// The addresses that are on the interface, as far as is known.
    pub(crate) fn present(&self) -> impl Iterator<Item = VirtualAddress> + '_ {
        self.items.iter().filter(|item| item.present).map(|item| item.address)
    }

    /// The next piece of work.
    pub(crate) fn poll(&mut self) -> Option<Action> {
        loop {
            if self.announced >= self.settled {
                let takeover = self.settled == 0 && self.items.first().is_some_and(|item| !item.present);
                self.batch_end = self.settled + if takeover { FIRST } else { BATCH };
            }
            if self.settled < self.items.len() && (self.settled < self.batch_end || !self.wanted) {
                let at = self.settled;
                let item = &mut self.items[at];
                self.settled += 1;
                let belongs = self.wanted && item.configured;
                if item.blocked || item.present == belongs {
                    continue;
                }
                item.present = belongs;
                let address = item.address;
                if belongs {
                    return Some(Action::AddAddress(address));
                }
                if !item.configured {
                    self.items.remove(at);
                    self.settled = at;
                    self.announced = self.announced.min(self.items.len());
                }
                return Some(Action::RemoveAddress(address));
            }
            if !self.wanted {
                return None;
            }
            let Some(item) = self.items.get(self.announced) else {
                if self.rounds == 0 {
                    return None;
                }
                self.rounds -= 1;
                self.announced = 0;
                continue;
            };
            self.announced += 1;
            if item.present {
                return Some(match item.address.address {
                    IpAddr::V4(address) => Action::GratuitousArp(address),
                    IpAddr::V6(address) => Action::UnsolicitedNeighborAdvertisement(address),
                });
            }
        }
    }
}

fn octets(addresses: &[VirtualAddress]) -> Box<[u8]> {
    let mut octets = Vec::new();
    for address in addresses.iter().filter(|address| address.advertised) {
        match address.address {
            IpAddr::V4(address) => octets.extend(address.octets()),
            IpAddr::V6(address) => octets.extend(address.octets()),
        }
    }
    octets.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: core::ops::Range<u8>) -> Vec<VirtualAddress> {
        range.map(|host| VirtualAddress::new([10, 0, 0, host].into(), 24)).collect()
    }

    /// The work as letters: + add, - remove, ! announce, each with the last byte of the address.
    fn drain(addresses: &mut Addresses) -> String {
        let mut out = Vec::new();
        while let Some(action) = addresses.poll() {
            let (sign, address) = match action {
                Action::AddAddress(address) => ('+', address.address),
                Action::RemoveAddress(address) => ('-', address.address),
                Action::GratuitousArp(address) => ('!', address.into()),
                other => panic!("{other:?}"),
            };
            let IpAddr::V4(address) = address else { panic!() };
            out.push(format!("{sign}{}", address.octets()[3]));
        }
        out.join(" ")
    }

    #[test]
    fn a_takeover_adds_in_batches_and_announces_behind_them() {
        let mut all = Addresses::new(&addresses(1..12));
        assert_eq!(drain(&mut all), "");
        all.want(true, 2);
        assert_eq!(
            drain(&mut all),
            "+1 +2 !1 !2 +3 +4 +5 +6 +7 +8 +9 +10 !3 !4 !5 !6 !7 !8 !9 !10 +11 !11 \
             !1 !2 !3 !4 !5 !6 !7 !8 !9 !10 !11"
        );
        assert_eq!(all.present().count(), 11);
        all.want(false, 0);
        assert_eq!(drain(&mut all), "-1 -2 -3 -4 -5 -6 -7 -8 -9 -10 -11");
    }

    #[test]
    fn what_was_begun_is_undone_and_no_more() {
        let mut all = Addresses::new(&addresses(1..4));
        all.want(true, 1);
        assert!(matches!(all.poll(), Some(Action::AddAddress(_))));
        all.want(false, 0);
        assert_eq!(drain(&mut all), "-1");
    }

    #[test]
    fn a_failure_waits_for_its_time() {
        let list = addresses(1..3);
        let mut all = Addresses::new(&list);
        all.want(true, 1);
        assert_eq!(all.poll(), Some(Action::AddAddress(list[0])));
        all.failed(list[0], true);
        assert_eq!(drain(&mut all), "+2 !2");
        all.want(false, 0);
        assert_eq!(all.poll(), Some(Action::RemoveAddress(list[1])));
        all.failed(list[1], false);
        assert_eq!(drain(&mut all), "");
        all.unblock();
        assert_eq!(drain(&mut all), "-2");
    }

    #[test]
    fn another_list_moves_only_what_differs() {
        let mut all = Addresses::new(&addresses(1..4));
        all.want(true, 1);
        drain(&mut all);
        all.replace(&addresses(2..6), 1);
        assert_eq!(drain(&mut all), "+4 +5 -1 !2 !3 !4 !5");
        assert_eq!(all.octets().len(), 4 * 4);
        all.want(false, 0);
        assert_eq!(drain(&mut all), "-2 -3 -4 -5");
    }

    #[test]
    fn a_lost_address_is_put_back_and_announced() {
        let list = addresses(1..4);
        let mut all = Addresses::new(&list);
        all.want(true, 1);
        drain(&mut all);
        assert!(all.lost(list[1].address));
        assert!(!all.lost("10.9.9.9".parse().unwrap()));
        assert_eq!(drain(&mut all), "+2 !2 !3");
    }
}
