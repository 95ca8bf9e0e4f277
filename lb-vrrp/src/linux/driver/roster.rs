//! Who takes part: instances and groups come, change, and go.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

#[cfg(feature = "auth-hmac")]
use super::tell_wall_clock;
use super::{Driver, Group, InstanceId, Slot, SlotSettings, keep_wall_clock, now};
use crate::config::{InterfaceName, OWNER, VirtualAddress};
use crate::group::SyncGroup;
use crate::linux::filter::Refused;
use crate::linux::journal::Record;
use crate::linux::{DriverError, Instance};
use crate::track::Tracker;
use crate::{Config, Event, VirtualRouter};

impl Driver {
    /// Adds an instance and starts it. An interface that does not exist, or has no address yet, is a fault of the instance
    /// until it is there. An address that is on the interface already is taken for a leftover and removed, unless the instance
    /// is the addresses' owner (priority 255).
    ///
    /// # Errors
    /// If the configuration is wrong or does not go together with another instance's. Nothing changes then.
    pub fn add(&mut self, name: &str, instance: Instance) -> Result<InstanceId, DriverError> {
        if self.closed {
            return Err(DriverError::Closed);
        }
        self.check(name, &instance)?;
        let Instance { config, interface, source, vmac, track_interfaces } = instance;
        let mut router = VirtualRouter::new(config, None)
            .map_err(|source| DriverError::Config { name: name.into(), source })?;
        keep_wall_clock(&mut router);
        let refused = Refused::by(router.config(), &[]);
        self.filter
            .change(&[], &refused)
            .map_err(|source| DriverError::Filter { name: name.into(), source })?;
        if let Err(error) = self.write_down(&interface, router.config()) {
            let _ = self.filter.change(&refused, &[]); // the first error is the one to tell
            return Err(error);
        }
        let mut tracker = Tracker::new();
        let tracked =
            track_interfaces.into_iter().map(|track| (track.name, tracker.add(track.check))).collect();
        let id = InstanceId(self.next);
        self.next += 1;
        self.counters.entry(interface.clone()).or_default();
        let mut slot = Slot {
            name: name.into(),
            instance: SlotSettings { interface, source, vmac },
            router,
            tracker,
            tracked,
            binding: None,
            devices: Vec::new(),
            trouble: None,
            rebind: None,
            renew: false,
            group: None,
            deadline: None,
            fresh: false,
            working: false,
            unsent: VecDeque::new(),
            ahead: VecDeque::new(),
            moving: None,
            refused,
            foreign: HashSet::new(),
        };
        slot.name_devices();
        self.slots.insert(id, slot);
        self.refresh(id);
        self.tell(id, Event::Startup);
        self.send_fresh();
        self.arm()?;
        Ok(id)
    }

    /// What must be right before an instance is added.
    fn check(&self, name: &str, instance: &Instance) -> Result<(), DriverError> {
        let config = &instance.config;
        config.validate().map_err(|source| DriverError::Config { name: name.into(), source })?;
        let names = [Some(&instance.interface), instance.vmac.as_ref().and_then(|vmac| vmac.name.as_ref())];
        for interface in names.into_iter().flatten() {
            if interface.parse::<InterfaceName>().is_err() {
                return Err(DriverError::InterfaceName { name: name.into(), interface: interface.clone() });
            }
        }
        if let Some(address) = instance.source
            && config.priority != OWNER
            && config.addresses.iter().any(|floating| floating.address == address)
        {
            return Err(DriverError::VirtualSource { name: name.into(), address });
        }
        if let Some(address) = instance.source
            && !config.sends_from(address)
        {
            return Err(DriverError::Source { name: name.into(), address });
        }
        for other in self.slots.values() {
            if other.name == name {
                return Err(DriverError::DuplicateName { name: name.into() });
            }
            let same_interface = other.instance.interface == instance.interface;
            let identity = |config: &Config| (config.vrid, config.family());
            if same_interface && identity(other.router.config()) == identity(config) {
                return Err(DriverError::DuplicateRouter {
                    name: name.into(),
                    other: other.name.clone(),
                    vrid: config.vrid,
                    interface: instance.interface.clone(),
                });
            }
        }
        self.check_addresses(name, &instance.interface, config)
    }

    /// An address belongs to one instance.
    fn check_addresses(&self, name: &str, interface: &str, config: &Config) -> Result<(), DriverError> {
        let wanted: HashSet<(&str, IpAddr)> = config
            .addresses
            .iter()
            .map(|address| (interface_of(address, interface), address.address))
            .collect();
        for other in self.slots.values() {
            if other.name == name {
                continue;
            }
            let mut theirs = other.router.config().addresses.iter();
            let place = |address| interface_of(address, &other.instance.interface);
            if let Some(clash) = theirs.find(|&address| wanted.contains(&(place(address), address.address))) {
                return Err(DriverError::DuplicateAddress {
                    name: name.into(),
                    other: other.name.clone(),
                    address: clash.address,
                });
            }
        }
        Ok(())
    }

    /// Writes down which addresses may come to be on the interface.
    fn write_down(&mut self, interface: &str, config: &Config) -> Result<(), DriverError> {
        let records = config
            .addresses
            .iter()
            .map(|address| Record::address(interface_of(address, interface), *address));
        let written = self.journal.add_all(records);
        written.map_err(|source| DriverError::RunDirectory { path: self.journal.path().to_owned(), source })
    }

    /// Stops an instance: it says farewell if it is active, and its addresses and its VMAC are gone when this returns. What it
    /// notified of is still to be had.
    ///
    /// # Errors
    /// If there is no such instance, or something could not be removed.
    pub fn remove(&mut self, id: InstanceId) -> Result<(), DriverError> {
        if !self.slots.contains_key(&id) {
            return Err(DriverError::UnknownInstance(id));
        }
        self.tell(id, Event::Shutdown);
        self.send_fresh();
        let leftovers = self.discard(id);
        self.arm()?;
        if leftovers.is_empty() { Ok(()) } else { Err(DriverError::Leftovers { leftovers }) }
    }

    /// Gives a running instance another configuration; it keeps its state. Version, VRID and family must stay.
    ///
    /// # Errors
    /// If there is no such instance, or it can't take the configuration over. Nothing changes then.
    pub fn reconfigure(&mut self, id: InstanceId, config: Config) -> Result<(), DriverError> {
        let slot = self.slots.get(&id).ok_or(DriverError::UnknownInstance(id))?;
        let name = slot.name.clone();
        config.validate().map_err(|source| DriverError::Config { name: name.clone(), source })?;
        let before = slot.router.config().clone();
        let interface = slot.instance.interface.clone();
        self.check_addresses(&name, &interface, &config)?;
        let (base, new) = (config.priority, config.addresses.clone());
        // Written down first: an address that the router then refuses to have is looked for in vain, no more.
        self.write_down(&interface, &config)?;
        self.refuse(id, &config).map_err(|source| DriverError::Filter { name: name.clone(), source })?;
        let Some(slot) = self.slots.get_mut(&id) else { return Err(DriverError::UnknownInstance(id)) };
        // Before it has keys, lest they find it without a clock.
        #[cfg(feature = "auth-hmac")]
        tell_wall_clock(&mut slot.router);
        if let Err(source) = slot.router.reconfigure(now(), config) {
            let _ = self.refuse(id, &before); // the first error is the one to tell
            return Err(DriverError::Reconfigure { name, source });
        }
        for event in slot.tracker.events(base) {
            slot.router.handle_event(now(), event);
        }
        slot.name_devices();
        // The old ones stay known until they are gone, so that none is taken for a source address.
        let known = new.iter().filter_map(|address| Some(((slot.index_of(address)?, address.address), id)));
        self.virtuals.extend(known);
        self.touched(id);
        self.refresh(id);
        self.send_fresh();
        self.arm()
    }

    /// Keeps instances together: they are active together or not at all ([`SyncGroup`]).
    ///
    /// # Errors
    /// If there is no such instance, or one is in a group already. Nothing changes then.
    pub fn add_group(&mut self, name: &str, members: &[InstanceId]) -> Result<(), DriverError> {
        for (at, id) in members.iter().enumerate() {
            let slot = self.slots.get(id).ok_or(DriverError::UnknownInstance(*id))?;
            let group = slot.group.and_then(|(group, _)| self.groups.get(&group));
            if let Some(group) =
                group.map(|group| group.name.as_str()).or(members[..at].contains(id).then_some(name))
            {
                return Err(DriverError::Grouped { name: slot.name.clone(), group: group.into() });
            }
        }
        let key = self.groups.keys().next_back().map_or(0, |last| last + 1);
        let sync = SyncGroup::new(members.len());
        self.groups.insert(key, Group { name: name.into(), sync, members: members.to_vec() });
        for (at, id) in members.iter().enumerate() {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.group = Some((key, at));
            }
        }
        members.iter().for_each(|&id| self.touched(id));
        self.send_fresh();
        self.arm()
    }

    /// Ends a group: its members go their own ways from now on. Whether there was one.
    pub fn remove_group(&mut self, name: &str) -> bool {
        let Some(key) = self.groups.iter().find(|(_, group)| group.name == name).map(|(&key, _)| key) else {
            return false;
        };
        let group = self.groups.remove(&key);
        for id in group.into_iter().flat_map(|group| group.members) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.group = None;
            }
            self.tell(id, Event::Cleared(crate::event::Faults::GROUP));
        }
        self.send_fresh();
        true
    }

    /// Has the filter refuse what an instance with `config` refuses, on the interfaces that it is on.
    pub(super) fn refuse(&mut self, id: InstanceId, config: &Config) -> std::io::Result<()> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let refused = Refused::by(config, &slot.indices());
        self.filter.change(&slot.refused, &refused)?;
        slot.refused = refused;
        Ok(())
    }

    /// Removes what a stopped instance has on the system, then the instance. What could not be removed.
    pub(super) fn discard(&mut self, id: InstanceId) -> Vec<String> {
        self.finish(id);
        let mut leftovers = Vec::new();
        if let Some(slot) = self.slots.get(&id) {
            let left = slot.router.present_addresses().filter(|left| !slot.foreign.contains(&left.address));
            leftovers.extend(left.map(|left| {
                let interface = interface_of(&left, &slot.instance.interface);
                format!("{}/{} on {interface}", left.address, left.prefix_len)
            }));
        }
        if let Err(error) = self.unbind(id) {
            leftovers.push(error.to_string());
        }
        let Some(slot) = self.slots.remove(&id) else { return leftovers };
        if let Err(error) = self.filter.change(&slot.refused, &[]) {
            leftovers.push(format!("the filter for {}: {error}", slot.name));
        }
        if let Some(deadline) = slot.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if leftovers.is_empty() {
            for &address in &slot.router.config().addresses {
                // A record too many is looked for in vain at the next start.
                let place = interface_of(&address, &slot.instance.interface);
                let _ = self.journal.remove(&Record::address(place, address));
            }
        }
        if let Some(group) = slot.group.and_then(|(key, _)| self.groups.get_mut(&key)) {
            group.members.retain(|&member| member != id);
            group.sync = SyncGroup::new(group.members.len());
            for (at, id) in group.members.clone().into_iter().enumerate() {
                if let Some(other) = self.slots.get_mut(&id) {
                    other.group = slot.group.map(|(key, _)| (key, at));
                }
                self.touched(id);
            }
            self.send_fresh();
        }
        leftovers
    }
}

/// The name of the interface that an address of an instance on `own` floats on.
fn interface_of<'a>(address: &'a VirtualAddress, own: &'a str) -> &'a str {
    address.interface.as_ref().map_or(own, InterfaceName::as_str)
}
