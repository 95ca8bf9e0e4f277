//! Interfaces beside an instance's own that have some of its addresses (keepalived's `dev`): found, claimed, gone, back.
//!
//! The router needs each as it needs its own: the link of each is tracked, and while one is down the router is at fault, so
//! that another router has all of the addresses. Adverts go through the instance's own interface alone.

use std::io;
use std::net::IpAddr;

use super::{Driver, InstanceId, Slot};
use crate::config::{InterfaceName, OWNER, VirtualAddress};
use crate::event::Action;
use crate::linux::netlink::{ADDRESS_PROTOCOL, Change};
use crate::linux::sysctl;
use crate::track::{Check, TrackId};
use crate::wire::Family;

/// Such an interface.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: InterfaceName,
    /// Its link, while any address of the configuration is there.
    track: Option<TrackId>,
    /// Its number, while it is there and the instance is bound.
    pub(super) index: Option<u32>,
    /// The sysctl that was asked for.
    sysctl: Option<String>,
}

impl Slot {
    /// The name of the interface that an address floats on, if it is not the instance's own.
    fn device_of(&self, address: &VirtualAddress) -> Option<InterfaceName> {
        address.interface.filter(|name| name.as_str() != self.instance.interface)
    }

    /// The number of the interface that an address floats on; `None` while that is not there.
    pub(super) fn index_of(&self, address: &VirtualAddress) -> Option<u32> {
        let binding = self.binding.as_ref()?;
        match self.device_of(address) {
            None => Some(binding.address_index()),
            Some(name) => self.devices.iter().find(|device| device.name == name)?.index,
        }
    }

    /// Where the neighbours are told of an address: the number of the interface, if that is none of the instance's own.
    pub(super) fn device_to_tell(&self, announcement: &Action) -> Option<u32> {
        if self.devices.is_empty() {
            return None;
        }
        let address = announced(announcement)?;
        let floating = self.router.config().addresses.iter().find(|floating| floating.address == address)?;
        self.device_of(floating)?;
        self.index_of(floating)
    }

    /// Every number of an interface that it has addresses or a socket on.
    pub(super) fn indices(&self) -> Vec<u32> {
        let own = self.binding.iter().flat_map(|binding| [binding.index, binding.address_index()]);
        own.chain(self.devices.iter().filter_map(|device| device.index)).collect()
    }

    /// Tracks the interfaces that the configuration names, and no others. What an address is still on stays known.
    pub(super) fn name_devices(&mut self) {
        let named: Vec<InterfaceName> =
            self.router.config().addresses.iter().filter_map(|address| self.device_of(address)).collect();
        for device in &mut self.devices {
            if !named.contains(&device.name)
                && let Some(track) = device.track.take()
            {
                self.tracked.retain(|(_, other)| *other != track);
                self.tracker.remove(track);
            }
        }
        for name in named {
            let at = self.devices.iter().position(|device| device.name == name).unwrap_or_else(|| {
                self.devices.push(Device { name, track: None, index: None, sysctl: None });
                self.devices.len() - 1
            });
            let device = &mut self.devices[at];
            if device.track.is_none() {
                let track = self.tracker.add(Check::default());
                self.tracked.push((name.into(), track));
                device.track = Some(track);
            }
        }
    }
}

impl Driver {
    /// Brings what an instance has on other interfaces than its own into line with what is known of them.
    pub(super) fn follow_devices(&mut self, id: InstanceId) -> io::Result<()> {
        let mut result = Ok(());
        let count = self.slots.get(&id).map_or(0, |slot| slot.devices.len());
        for at in 0..count {
            let Some(slot) = self.slots.get(&id) else { break };
            let device = &slot.devices[at];
            let link = self.links.by_name(device.name.as_str()).filter(|_| slot.binding.is_some());
            let wanted = link.map(|link| link.index);
            if device.index != wanted {
                result = result.and(self.leave_device(id, at));
                if let Some(index) = wanted {
                    result = result.and(self.enter_device(id, at, index));
                }
            }
        }
        result
    }

    fn enter_device(&mut self, id: InstanceId, at: usize, index: u32) -> io::Result<()> {
        self.ports.open_packet(index)?;
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let device = &mut slot.devices[at];
        device.index = Some(index);
        if slot.router.config().family() == Family::Ipv4 {
            // As on the instance's own interface.
            let path = sysctl::path("ipv4", device.name.as_str(), "promote_secondaries");
            let asked = self.sysctls.require(&mut self.journal, path.clone());
            device.sysctl = asked.is_ok().then_some(path);
        }
        self.claim(id, index);
        self.refuse_as_configured(id)
    }

    fn leave_device(&mut self, id: InstanceId, at: usize) -> io::Result<()> {
        let Some(device) = self.slots.get_mut(&id).map(|slot| &mut slot.devices[at]) else { return Ok(()) };
        let Some(index) = device.index.take() else { return Ok(()) };
        let sysctl = device.sysctl.take();
        self.virtuals.retain(|(on, _), owner| *on != index || *owner != id);
        self.ports.close_packet(index);
        sysctl.map_or(Ok(()), |path| self.sysctls.release(&mut self.journal, &path, index))
    }

    /// Takes leave of all of them.
    pub(super) fn leave_devices(&mut self, id: InstanceId) -> io::Result<()> {
        let count = self.slots.get(&id).map_or(0, |slot| slot.devices.len());
        (0..count).map(|at| self.leave_device(id, at)).fold(Ok(()), io::Result::and)
    }

    /// Makes an instance's addresses on the interface `index` known as such, and removes those that are there already: a
    /// backup must not have them.
    pub(super) fn claim(&mut self, id: InstanceId, index: u32) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let mut leftovers = Vec::new();
        let addresses: Vec<VirtualAddress> = slot.router.config().addresses.clone();
        for floating in addresses {
            if slot.index_of(&floating) != Some(index) {
                continue;
            }
            self.virtuals.insert((index, floating.address), id);
            let known = self.links.address(index, floating.address, floating.prefix_len);
            match known {
                Some(known)
                    if slot.router.config().priority == OWNER && known.protocol != Some(ADDRESS_PROTOCOL) =>
                {
                    slot.foreign.insert(floating.address);
                }
                Some(known) => leftovers.push(Change::RemoveAddress {
                    index,
                    address: known.address,
                    prefix_len: known.prefix_len,
                }),
                None => {}
            }
        }
        let mut results = Vec::new();
        self.netlink.apply(&leftovers, &mut results);
        for (leftover, result) in leftovers.iter().zip(results) {
            if let (Change::RemoveAddress { address, .. }, Ok(true)) = (leftover, result) {
                *self.expected.entry((index, *address)).or_default() += 1;
            }
        }
    }
}

/// The address that an action announces.
pub(super) fn announced(action: &Action) -> Option<IpAddr> {
    match *action {
        Action::GratuitousArp(address) => Some(address.into()),
        Action::UnsolicitedNeighborAdvertisement(address) => Some(address.into()),
        _ => None,
    }
}
