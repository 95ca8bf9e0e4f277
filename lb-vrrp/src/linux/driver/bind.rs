//! Instances and the interfaces that they are on: sockets, VMAC, source address; gone, back, and changed.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::{Driver, InstanceId, Slot, now};
use crate::Event;
use crate::event::Faults;
use crate::linux::netlink::Link;
use crate::linux::socket::{PacketSocket, RawSocket};
use crate::linux::sysctl;
use crate::linux::vmac::{self, BoundVmac};
use crate::wire::Family;

/// How long after an interface could not be used it is tried again.
const REBIND: Duration = Duration::from_secs(1);

/// What an instance has on its interface.
#[derive(Debug)]
pub(super) struct Binding {
    /// The interface.
    pub(super) index: u32,
    mac: Option<[u8; 6]>,
    /// The raw socket, shared with the other instances of the interface.
    pub(super) port: u64,
    /// The VMAC, with the raw socket that hears on it while it is up: the kernel hands it every multicast packet that comes
    /// from its own MAC, which is what another active router's adverts come from.
    vmac: Option<(BoundVmac, u64)>,
    /// Whether multicast adverts leave with the virtual MAC.
    virtual_source: bool,
    /// The interface's sysctl that was asked for.
    sysctl: Option<String>,
}

impl Binding {
    /// The interface that the addresses are on.
    pub(super) fn address_index(&self) -> u32 {
        self.vmac.as_ref().map_or(self.index, |(vmac, _)| vmac.index)
    }

    pub(super) fn is_on(&self, index: u32) -> bool {
        self.index == index || self.address_index() == index
    }

    pub(super) fn vmac(&self) -> Option<&BoundVmac> {
        self.vmac.as_ref().map(|(vmac, _)| vmac)
    }

    pub(super) fn vmac_mut(&mut self) -> Option<&mut BoundVmac> {
        self.vmac.as_mut().map(|(vmac, _)| vmac)
    }

    /// The MAC that the neighbours are told of.
    pub(super) fn announced_mac(&self) -> Option<[u8; 6]> {
        self.vmac().map(|vmac| vmac.mac).or(self.mac)
    }

    /// The MAC that adverts get in a frame of their own; `None`: the interface's own, by the raw socket.
    pub(super) fn frame_mac(&self) -> Option<[u8; 6]> {
        self.vmac().filter(|_| self.virtual_source).map(|vmac| vmac.mac)
    }
}

/// The sockets, each shared by all instances that need the same.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// By number, which is the epoll's data: the socket, whose counters count, and how many instances use it.
    raw: BTreeMap<u64, (RawSocket, String, u32)>,
    numbers: HashMap<(u32, Family), u64>,
    packet: HashMap<u32, (PacketSocket, u32)>,
    next: u64,
}

impl Ports {
    pub(super) fn count(&self) -> usize {
        self.raw.len()
    }

    pub(super) fn get(&self, port: u64) -> Option<(&RawSocket, &str)> {
        self.raw.get(&port).map(|(socket, interface, _)| (socket, interface.as_str()))
    }

    pub(super) fn send(&self, port: u64, source: IpAddr, to: IpAddr, message: &[u8]) -> io::Result<()> {
        let (socket, ..) = self.raw.get(&port).ok_or(io::ErrorKind::NotConnected)?;
        socket.send(source, to, message)
    }

    pub(super) fn send_frame(&self, index: u32, frame: &[u8]) -> io::Result<()> {
        let (socket, _) = self.packet.get(&index).ok_or(io::ErrorKind::NotConnected)?;
        socket.send(frame)
    }

    pub(super) fn send_frames(&self, index: u32, frames: &[&[u8]]) -> io::Result<usize> {
        let (socket, _) = self.packet.get(&index).ok_or(io::ErrorKind::NotConnected)?;
        socket.send_many(frames)
    }

    /// A raw socket on the interface `index` called `name`; what it hears counts for `interface`.
    fn open_raw(
        &mut self,
        epoll: &Epoll,
        family: Family,
        (index, name): (u32, &str),
        interface: &str,
    ) -> io::Result<u64> {
        if let Some(&number) = self.numbers.get(&(index, family))
            && let Some((.., users)) = self.raw.get_mut(&number)
        {
            *users += 1;
            return Ok(number);
        }
        let socket = RawSocket::open(family, index, name)?;
        let number = self.next;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        self.next += 1;
        self.numbers.insert((index, family), number);
        self.raw.insert(number, (socket, interface.to_owned(), 1));
        Ok(number)
    }

    /// Closing a socket takes it out of the epoll.
    fn close_raw(&mut self, number: u64) {
        if let Some((socket, _, users)) = self.raw.get_mut(&number) {
            *users -= 1;
            if *users == 0 {
                self.numbers.remove(&(socket.index(), socket.family()));
                self.raw.remove(&number);
            }
        }
    }

    pub(super) fn open_packet(&mut self, index: u32) -> io::Result<()> {
        match self.packet.get_mut(&index) {
            Some((_, users)) => *users += 1,
            None => drop(self.packet.insert(index, (PacketSocket::open(index)?, 1))),
        }
        Ok(())
    }

    pub(super) fn close_packet(&mut self, index: u32) {
        if let Some((_, users)) = self.packet.get_mut(&index) {
            *users -= 1;
            if *users == 0 {
                self.packet.remove(&index);
            }
        }
    }
}

impl Driver {
    /// Brings every instance that `concerned` picks into line with what is known of the interfaces.
    pub(super) fn refresh_all(&mut self, concerned: impl Fn(&Slot) -> bool) {
        let ids: Vec<InstanceId> =
            self.slots.iter().filter(|(_, slot)| concerned(slot)).map(|(&id, _)| id).collect();
        ids.into_iter().for_each(|id| self.refresh(id));
    }

    /// Brings an instance into line: bound if its interface is there, and told of link, source and tracked interfaces.
    pub(super) fn refresh(&mut self, id: InstanceId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let link = self.links.by_name(&slot.instance.interface).cloned();
        let is_current = |binding: &Binding| {
            link.as_ref().is_some_and(|link| link.index == binding.index)
                && self.links.has_link(binding.address_index())
        };
        let renew = slot.renew;
        if slot.binding.as_ref().is_some_and(|binding| renew || !is_current(binding)) {
            self.tell(id, Event::Fault(Faults::LINK));
            // It is gone, so nothing is left to remove.
            let _ = self.unbind(id);
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let (None, Some(link)) = (&slot.binding, &link)
            && slot.rebind.is_none_or(|at| at <= now())
        {
            let bound = self.bind(id, link);
            let Some(slot) = self.slots.get_mut(&id) else { return };
            slot.rebind = bound.is_err().then(|| now() + REBIND);
            slot.trouble = bound.err().map(|error| error.to_string());
        }
        if let Err(error) = self.follow_devices(id) {
            self.tell(id, Event::Fault(Faults::LINK));
            self.finish(id);
            let _ = self.unbind(id); // the first error is the one to tell
            let Some(slot) = self.slots.get_mut(&id) else { return };
            (slot.rebind, slot.trouble) = (Some(now() + REBIND), Some(error.to_string()));
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let usable = match (&mut slot.binding, &link) {
            (Some(binding), Some(link)) => {
                binding.mac = link.mac;
                link.usable
            }
            _ => false,
        };
        if link.is_none() {
            (slot.rebind, slot.trouble) = (None, None);
        }
        let family = slot.router.config().family();
        let picked = link.as_ref().and_then(|link| {
            let floats = |address| self.virtuals.contains_key(&(link.index, address));
            let own = self.links.source(link.index, family, floats);
            // The owner's addresses float and are the interface's own all the same.
            own.or_else(|| {
                let foreign = |address| !slot.foreign.contains(&address);
                self.links.source(link.index, family, foreign)
            })
        });
        let source = slot.instance.source.or(picked).filter(|_| slot.binding.is_some());
        let mut events = vec![if usable { Event::Cleared(Faults::LINK) } else { Event::Fault(Faults::LINK) }];
        if source != slot.router.source() {
            events.push(Event::Source(source));
        }
        let mut moved = false;
        for (name, tracked) in &slot.tracked {
            moved |= slot.tracker.report(*tracked, self.links.is_usable(name));
        }
        if moved || !slot.router.is_started() {
            events.extend(slot.tracker.events(slot.router.config().priority));
        }
        let now = now();
        events.into_iter().for_each(|event| slot.router.handle_event(now, event));
        self.touched(id);
    }

    /// Gives an instance its sockets and its VMAC on `link`, and clears its addresses away if they are there already.
    fn bind(&mut self, id: InstanceId, link: &Link) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let (family, vrid) = (slot.router.config().family(), slot.router.config().vrid);
        let interface = slot.instance.interface.as_str();
        let opening = |error: io::Error| {
            io::Error::new(error.kind(), format!("opening the {family} socket on {}: {error}", link.name))
        };
        let port =
            self.ports.open_raw(&self.epoll, family, (link.index, &link.name), interface).map_err(opening)?;
        let mut binding = Binding {
            index: link.index,
            mac: link.mac,
            port,
            vmac: None,
            virtual_source: slot.instance.vmac.as_ref().is_some_and(|vmac| !vmac.transmit_from_interface),
            sysctl: None,
        };
        if let Err(error) = self.ports.open_packet(link.index) {
            self.ports.close_raw(port);
            return Err(error);
        }
        let mut rest = || {
            if let Some(wanted) = &slot.instance.vmac {
                let made = vmac::create(
                    &mut self.netlink,
                    &mut self.sysctls,
                    &mut self.journal,
                    &self.links,
                    link,
                    (family, vrid),
                    wanted,
                )?;
                let place = (made.index, made.name.as_str());
                match self.ports.open_raw(&self.epoll, family, place, interface) {
                    Ok(port) => binding.vmac = Some((made, port)),
                    Err(error) => {
                        let (sysctls, journal) = (&mut self.sysctls, &mut self.journal);
                        let _ = vmac::delete(
                            &mut self.netlink,
                            sysctls,
                            journal,
                            (link.index, &link.name),
                            family,
                            &made,
                        );
                        return Err(error);
                    }
                }
            } else if family == Family::Ipv4 {
                // Else the kernel removes, with the first address of a network, all others of it, and they have to be put
                // back. Where /proc/sys can't be written (a container), that is how it will be.
                let path = sysctl::path("ipv4", &link.name, "promote_secondaries");
                let asked = self.sysctls.require(&mut self.journal, path.clone());
                binding.sysctl = asked.is_ok().then_some(path);
            }
            Ok(())
        };
        if let Err(error) = rest() {
            self.ports.close_raw(port);
            self.ports.close_packet(link.index);
            return Err(error);
        }
        let index = binding.address_index();
        if let Some(vmac) = binding.vmac() {
            self.links.expect(vmac.index, &vmac.name);
        }
        for listening in [link.index, index] {
            self.routes.insert((listening, family, vrid), id);
        }
        slot.foreign.clear();
        slot.binding = Some(binding);
        self.claim(id, index);
        let refused = self.refuse_as_configured(id);
        if refused.is_err() {
            let _ = self.unbind(id); // the first error is the one to tell
        }
        refused
    }

    /// Has the filter refuse what a running instance refuses, on the interfaces that it is on by now.
    pub(super) fn refuse_as_configured(&mut self, id: InstanceId) -> io::Result<()> {
        let Some(config) = self.slots.get(&id).map(|slot| slot.router.config().clone()) else {
            return Ok(());
        };
        self.refuse(id, &config)
            .map_err(|error| io::Error::new(error.kind(), format!("the packet filter: {error}")))
    }

    /// Takes an instance's sockets and VMAC away.
    pub(super) fn unbind(&mut self, id: InstanceId) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let Some(binding) = slot.binding.take() else { return Ok(()) };
        slot.renew = false;
        let index = binding.address_index();
        self.routes.retain(|_, routed| *routed != id);
        self.virtuals.retain(|_, owner| *owner != id);
        self.expected.retain(|(on, _), _| *on != index || *on == binding.index);
        self.ports.close_raw(binding.port);
        self.ports.close_packet(binding.index);
        let mut result = Ok(());
        if let Some((vmac, port)) = &binding.vmac {
            self.ports.close_raw(*port);
            let family = slot.router.config().family();
            result = vmac::delete(
                &mut self.netlink,
                &mut self.sysctls,
                &mut self.journal,
                (binding.index, &slot.instance.interface),
                family,
                vmac,
            );
        }
        if let Some(path) = &binding.sysctl {
            result = result.and(self.sysctls.release(&mut self.journal, path, binding.index));
        }
        result.and(self.leave_devices(id)).and(self.refuse_as_configured(id))
    }
}
