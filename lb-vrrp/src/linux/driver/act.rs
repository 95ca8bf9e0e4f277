//! What routers want done: adverts at once, the rest piece by piece.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;

use super::{Driver, InstanceId, now};
use crate::event::{Action, State, Transmit};
use crate::linux::netlink::Change;
use crate::linux::{arp, frame, ndp, vmac};
use crate::wire::Family;
use crate::{Timestamp, VirtualAddress};

/// An advert that the kernel had no room for, and when to try again.
#[derive(Debug)]
pub(super) struct Unsent {
    transmit: Transmit,
    tries: u8,
    pub(super) at: Timestamp,
}

/// An advert that finds no room is tried so often, so far apart, before it is a failure.
const TRIES: u8 = 5;
const PAUSE: Duration = Duration::from_millis(1);
/// A netlink request or a frame that finds no room is tried so often at once.
const TRIES_AT_ONCE: usize = 3;
/// How long one request for addresses may take: what an advert that falls due meanwhile has to wait.
const REQUEST: Duration = Duration::from_micros(300);
/// How long a turn works before it looks at the sockets again.
const STINT: Duration = Duration::from_micros(500);
/// How long work steps back for adverts that are about to fall due. Where they come without a pause, work must go on too.
const PATIENCE: Duration = Duration::from_millis(2);
/// The most changes of one request, and frames of one call.
const CHANGES: usize = 64;
const FRAMES: usize = 64;

/// How much work may be done at a time. The kernel looks through all addresses of an interface to add one, so that the
/// thousandth takes longer than the first: the size of a request follows what the last ones took.
#[derive(Debug)]
pub(super) struct Pace {
    /// What one change takes, smoothed.
    cost: Duration,
    /// Since when work has stepped back.
    since: Option<Timestamp>,
    /// Whether it does now.
    held: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { cost: Duration::from_micros(20), since: None, held: false }
    }
}

impl Pace {
    /// How many changes one request may make.
    fn limit(&self) -> usize {
        let fit = REQUEST.as_nanos() / self.cost.as_nanos().max(1);
        usize::try_from(fit).unwrap_or(CHANGES).clamp(1, CHANGES)
    }

    fn learn(&mut self, changes: usize, took: Duration) {
        let each = took / u32::try_from(changes.max(1)).unwrap_or(u32::MAX);
        self.cost = (self.cost * 3 + each) / 4;
    }

    /// How many changes may be made now, if the next advert is due at `deadline`; 0: it goes first.
    fn allowance(&mut self, now: Timestamp, deadline: Option<Timestamp>) -> usize {
        let limit = self.limit();
        let room = deadline.map_or(Duration::MAX, |deadline| deadline.since(now));
        let estimate = self.cost * u32::try_from(limit).unwrap_or(u32::MAX);
        self.held = false;
        if room > estimate {
            self.since = None;
            return limit;
        }
        let fit = usize::try_from(room.as_nanos() / self.cost.as_nanos().max(1)).unwrap_or(limit);
        if fit > 0 {
            return fit.min(limit);
        }
        if now.since(*self.since.get_or_insert(now)) < PATIENCE {
            self.held = true;
            return 0;
        }
        self.since = None;
        1
    }
}

impl Driver {
    /// Whether there is work, and it may be done.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty() && !self.pace.held
    }

    /// Sends the adverts of every router that was told something; what else they want is put off.
    pub(super) fn send_fresh(&mut self) {
        while let Some(id) = self.fresh.pop_front() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.fresh = false;
            }
            let due = now();
            while let Some(slot) = self.slots.get_mut(&id)
                && slot.unsent.front().is_some_and(|unsent| unsent.at <= due)
                && let Some(unsent) = slot.unsent.pop_front()
            {
                self.transmit(id, unsent.transmit, unsent.tries);
            }
            while let Some(action) = self.slots.get_mut(&id).and_then(|slot| slot.router.poll_action()) {
                match action {
                    Action::Transmit(transmit) => self.transmit(id, transmit, 0),
                    Action::Notify(notification) => self.notifications.push_back((id, notification)),
                    other => {
                        if let Some(slot) = self.slots.get_mut(&id) {
                            slot.ahead.push_back(other);
                        }
                        break;
                    }
                }
            }
            if let Some(slot) = self.slots.get(&id) {
                let idle_vmac = slot.router.state() != State::Active
                    && slot.binding.as_ref().and_then(|binding| binding.vmac()).is_some_and(|vmac| vmac.up);
                if !slot.ahead.is_empty() || idle_vmac {
                    self.put_to_work(id);
                }
            }
            self.reschedule(id);
        }
    }

    fn put_to_work(&mut self, id: InstanceId) {
        if let Some(slot) = self.slots.get_mut(&id)
            && !slot.working
        {
            slot.working = true;
            self.work.push_back(id);
        }
    }

    /// Sends one advert, unless this thread was held up so long since it was decided that it would be a lie.
    fn transmit(&mut self, id: InstanceId, transmit: Transmit, tries: u8) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let now = now();
        if slot.router.is_stale(now, &transmit) {
            slot.router.handle_timeout(now);
            self.touched(id);
            return;
        }
        let sent = match &slot.binding {
            None => Err(io::Error::from(Errno::ENODEV)),
            Some(binding) => match slot.router.encode(&transmit, &mut self.message) {
                Err(error) => Err(io::Error::other(error)),
                Ok(message) => match binding.frame_mac() {
                    Some(mac) if transmit.destination.is_multicast() => {
                        frame::advert(mac, transmit.source, transmit.destination, message, &mut self.frame);
                        self.ports.send_frame(binding.index, &self.frame)
                    }
                    _ => self.ports.send(binding.port, transmit.source, transmit.destination, message),
                },
            },
        };
        let Err(error) = sent else { return };
        if is_transient(&error) && tries < TRIES {
            let at = now + PAUSE;
            slot.unsent.push_back(Unsent { transmit, tries: tries + 1, at });
        } else {
            slot.unsent.clear();
            slot.router.handle_failure(now, &Action::Transmit(transmit));
            self.touched(id);
        }
    }

    /// Does a bounded piece of the work, as far as no advert waits for it.
    pub(super) fn do_work(&mut self) {
        let begin = now();
        loop {
            let now = now();
            let Some(&id) = self.work.front() else {
                self.pace.held = false;
                return;
            };
            if now.since(begin) > STINT {
                return;
            }
            let deadline = self.deadlines.first().map(|&(deadline, _)| deadline);
            let allowance = self.pace.allowance(now, deadline);
            if allowance == 0 {
                return;
            }
            self.work.pop_front();
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.working = false;
            match self.work_on(id, allowance) {
                Progress::Done => {}
                // The first announcement shall follow its address soon; then the others have their turn.
                Progress::Changed => {
                    if let Some(slot) = self.slots.get_mut(&id) {
                        slot.working = true;
                        self.work.push_front(id);
                    }
                }
                Progress::Announced => self.put_to_work(id),
            }
            self.send_fresh();
        }
    }

    /// Does everything that an instance still has to do, whatever waits.
    pub(super) fn finish(&mut self, id: InstanceId) {
        while self.work_on(id, CHANGES) != Progress::Done {
            self.send_fresh();
        }
    }

    /// One piece of an instance's work: up to `allowance` changes of addresses, then announcements.
    fn work_on(&mut self, id: InstanceId, allowance: usize) -> Progress {
        let begin = now();
        let (mut changes, mut announcements) = (Vec::new(), Vec::new());
        let mut done = false;
        while changes.len() < allowance && announcements.len() < FRAMES {
            let Some(slot) = self.slots.get_mut(&id) else { return Progress::Done };
            if !slot.unsent.is_empty() {
                // An advert goes before all this; when it is gone, the instance is put to work again.
                done = true;
                break;
            }
            match slot.ahead.pop_front().or_else(|| slot.router.poll_action()) {
                None => {
                    done = true;
                    break;
                }
                Some(Action::Transmit(transmit)) => self.transmit(id, transmit, 0),
                Some(Action::Notify(notification)) => self.notifications.push_back((id, notification)),
                Some(action @ (Action::AddAddress(_) | Action::RemoveAddress(_))) => {
                    if announcements.is_empty() {
                        changes.push(action);
                    } else {
                        slot.ahead.push_front(action);
                        break;
                    }
                }
                Some(action @ (Action::GratuitousArp(_) | Action::UnsolicitedNeighborAdvertisement(_))) => {
                    announcements.push(action);
                }
            }
        }
        self.change(id, &changes, &mut announcements);
        self.announce(id, begin, &announcements);
        self.touched(id);
        match done {
            true => {
                self.rest_vmac(id);
                Progress::Done
            }
            false if announcements.is_empty() => Progress::Changed,
            false => Progress::Announced,
        }
    }

    /// Adds and removes addresses by one request. An address that could not be added is not announced.
    fn change(&mut self, id: InstanceId, actions: &[Action], announcements: &mut Vec<Action>) {
        if actions.is_empty() {
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(binding) = &mut slot.binding else {
            // The interface is gone, and its addresses with it.
            let now = now();
            let adds = actions.iter().filter(|action| matches!(action, Action::AddAddress(_)));
            adds.for_each(|add| slot.router.handle_failure(now, add));
            announcements.clear();
            return;
        };
        let (index, parent, virtuals) = (binding.address_index(), binding.index, &self.virtuals);
        let floats = |address| virtuals.contains_key(&(parent, address));
        let mut changes = Vec::with_capacity(actions.len() + 2);
        // Which action each change is for; those that bring the VMAC up are for none.
        let mut causes: Vec<Option<usize>> = Vec::with_capacity(actions.len() + 2);
        for (at, action) in actions.iter().enumerate() {
            match *action {
                Action::AddAddress(VirtualAddress { address, prefix_len, .. }) => {
                    if let Some(vmac) =
                        binding.vmac().filter(|vmac| !vmac.up && causes.iter().all(Option::is_some))
                    {
                        let link_local = self.links.source(parent, Family::Ipv6, floats);
                        let link_local = link_local.filter(|_| slot.router.config().family() == Family::Ipv6);
                        changes.extend(vmac::bring_up(vmac, link_local));
                        causes.resize(changes.len(), None);
                    }
                    // A second way to a network that the parent reaches would compete with the first.
                    let routed = binding.vmac().is_none() || !self.links.reaches(parent, address, floats);
                    changes.push(Change::AddAddress { index, address, prefix_len, routed });
                    causes.push(Some(at));
                }
                Action::RemoveAddress(VirtualAddress { address, prefix_len, .. })
                    if !slot.foreign.contains(&address) =>
                {
                    changes.push(Change::RemoveAddress { index, address, prefix_len });
                    causes.push(Some(at));
                }
                _ => {}
            }
        }
        let begin = now();
        let mut results = Vec::new();
        self.netlink.apply(&changes, &mut results);
        for (change, result) in changes.iter().zip(&mut results) {
            let mut again = Vec::new();
            for _ in 0..TRIES_AT_ONCE {
                if !matches!(result, Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)) {
                    break;
                }
                self.netlink.apply(std::slice::from_ref(change), &mut again);
                *result = again[0];
            }
        }
        let end = now();
        self.pace.learn(changes.len(), end.since(begin));
        for ((change, cause), result) in changes.iter().zip(causes).zip(results) {
            match (change, cause.map(|at| &actions[at]), result) {
                (Change::SetUp { up, .. }, None, Ok(_)) => {
                    if let Some(vmac) = binding.vmac_mut() {
                        vmac.up = *up;
                    }
                }
                (Change::RemoveAddress { address, .. }, _, Ok(true)) => {
                    *self.expected.entry((index, *address)).or_default() += 1;
                }
                (_, Some(action), Err(_)) => {
                    slot.router.handle_failure(end, action);
                    if let Action::AddAddress(failed) = action {
                        announcements.retain(|announcement| announced(announcement) != Some(failed.address));
                    }
                }
                _ => {}
            }
        }
    }

    /// Tells the neighbours, with as few calls as may be. Nothing is told if this thread was held up since `decided` so long
    /// that another router must have the addresses.
    fn announce(&mut self, id: InstanceId, decided: Timestamp, actions: &[Action]) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if actions.is_empty() {
            return;
        }
        let nowhere = IpAddr::from([0; 4]);
        let probe = Transmit { source: nowhere, destination: nowhere, priority: 0, decided };
        if slot.router.is_stale(now(), &probe) {
            slot.router.handle_timeout(now());
            return;
        }
        let Some(binding) = &slot.binding else { return };
        // What has no Ethernet address has no neighbours to tell.
        let Some(mac) = binding.announced_mac() else { return };
        let mut bytes = Vec::with_capacity(actions.len() * ndp::LENGTH);
        let mut ends = Vec::with_capacity(actions.len());
        for action in actions {
            match *action {
                Action::GratuitousArp(address) => bytes.extend(arp::gratuitous(mac, address)),
                Action::UnsolicitedNeighborAdvertisement(address) => {
                    bytes.extend(ndp::unsolicited(mac, address));
                }
                _ => {}
            }
            ends.push(bytes.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let frames: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &bytes[start..end]).collect();
        let (mut sent, mut tries) = (0, 0);
        while sent < frames.len() && tries <= TRIES_AT_ONCE {
            match self.ports.send_frames(binding.index, &frames[sent..]) {
                Ok(count) if count > 0 => sent += count,
                Err(error) if !is_transient(&error) => break,
                _ => tries += 1,
            }
        }
        let now = now();
        actions[sent..].iter().for_each(|action| slot.router.handle_failure(now, action));
    }

    /// A VMAC whose router is not active and has no addresses left goes down, so that it says nothing.
    fn rest_vmac(&mut self, id: InstanceId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.router.state() == State::Active {
            return;
        }
        let Some(vmac) = slot.binding.as_mut().and_then(|binding| binding.vmac_mut()) else { return };
        if vmac.up {
            // Left up, it is not wrong, only talkative; the next end of an active time tries again.
            let _ = self.netlink.apply_one(Change::SetUp { index: vmac.index, up: false });
            vmac.up = false;
        }
    }
}

/// What [`Driver::work_on`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is left for now.
    Done,
    /// Addresses were moved, and more is to come.
    Changed,
    /// Announcements were sent, and more is to come.
    Announced,
}

fn announced(action: &Action) -> Option<IpAddr> {
    match *action {
        Action::GratuitousArp(address) => Some(address.into()),
        Action::UnsolicitedNeighborAdvertisement(address) => Some(address.into()),
        _ => None,
    }
}

/// Whether the kernel only had no room at this moment.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_shrink_as_addresses_grow_dear() {
        let mut pace = Pace::default();
        assert_eq!(pace.limit(), 15);
        for _ in 0..32 {
            pace.learn(8, Duration::from_micros(8 * 100));
        }
        assert_eq!(pace.limit(), 3);
        for _ in 0..64 {
            pace.learn(64, Duration::from_micros(64));
        }
        assert_eq!(pace.limit(), CHANGES);
        for _ in 0..32 {
            pace.learn(1, Duration::from_millis(5));
        }
        assert_eq!(pace.limit(), 1, "work goes on, however dear");
    }

    #[test]
    fn work_steps_back_for_a_deadline_but_not_for_ever() {
        let mut pace = Pace::default();
        let start = Timestamp::from_micros(1_000_000);
        let soon = |micros| Some(start + Duration::from_micros(micros));
        assert_eq!(pace.allowance(start, None), 15);
        assert_eq!(pace.allowance(start, soon(10_000)), 15);
        assert_eq!(pace.allowance(start, soon(100)), 5, "what fits before it");
        assert_eq!(pace.allowance(start, soon(10)), 0);
        assert!(pace.held);
        assert_eq!(pace.allowance(start + PATIENCE, soon(2_000)), 1);
        assert!(!pace.held);
    }
}
