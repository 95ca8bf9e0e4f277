//! What routers want done: adverts at once, the rest piece by piece.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::bind::Binding;
use super::devices::announced;
use super::{Driver, InstanceId, WORKER, now};
use crate::event::{Action, Notification, State, Transmit};
use crate::linux::netlink::Change;
use crate::linux::pace::LOT;
use crate::linux::worker::{self, Done, Worker};
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
/// A frame that finds no room is tried so often at once.
const TRIES_AT_ONCE: usize = 3;
/// How long a turn works before it looks at the sockets again.
const STINT: Duration = Duration::from_micros(200);
/// Notifications that wait to be asked for; beyond, the oldest are lost.
const NOTIFICATIONS: usize = 65_536;
/// The most changes of one request, and frames of one call.
const CHANGES: usize = 64;
const FRAMES: usize = 64;
/// Requests that the worker has at a time: one in hand, and the next.
const REQUESTS: usize = 2;

/// Changes of an instance that the worker has, and the announcements that wait for them.
#[derive(Debug)]
pub(super) struct Moving {
    plan: Plan,
    announcements: Vec<Action>,
    decided: Timestamp,
}

impl Moving {
    pub(super) fn has(&self, action: &Action) -> bool {
        self.plan.actions.contains(action)
    }
}

/// Changes, and what they are for.
#[derive(Debug)]
struct Plan {
    changes: Vec<Change>,
    /// The action that each change is for; those that bring a VMAC up are for none.
    causes: Vec<Option<usize>>,
    actions: Vec<Action>,
}

impl Driver {
    fn notify(&mut self, id: InstanceId, notification: Notification) {
        if self.notifications.len() >= NOTIFICATIONS {
            self.notifications.pop_front();
        }
        self.notifications.push_back((id, notification));
    }

    /// Whether there is work, and it may be done.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty() && !self.is_worker_busy()
    }

    /// Whether the worker has all that it should have.
    fn is_worker_busy(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.pending >= REQUESTS)
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
                    Action::Notify(notification) => self.notify(id, notification),
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
        if slot.router.withdraw_if_stale(now, transmit.decided) {
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

    /// Does a bounded piece of the work.
    pub(super) fn do_work(&mut self) {
        let begin = now();
        let mut pieces = 0;
        while self.has_work() {
            let now = now();
            let due = self.deadlines.first().is_some_and(|&(deadline, _)| deadline <= now);
            // What is due comes first, but where something always is, work must go on too.
            if pieces > 0 && (due || now.since(begin) > STINT) {
                return;
            }
            pieces += 1;
            let Some(id) = self.work.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.working = false;
            match self.work_on(id, false) {
                Progress::Done | Progress::Waiting => {}
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
        loop {
            match self.work_on(id, true) {
                Progress::Done => return,
                Progress::Waiting => match self.worker.as_mut().and_then(Worker::wait) {
                    Some(done) => self.done(done),
                    None => return,
                },
                Progress::Changed | Progress::Announced => {}
            }
            self.send_fresh();
        }
    }

    /// One piece of an instance's work: changes of addresses, then announcements. `here`: none of it by the worker.
    fn work_on(&mut self, id: InstanceId, here: bool) -> Progress {
        let decided = now();
        let (mut actions, mut announcements) = (Vec::new(), Vec::new());
        let frames = self.frame_pace.fit(LOT).min(FRAMES);
        let mut done = false;
        while actions.len() < CHANGES && announcements.len() < frames {
            let Some(slot) = self.slots.get_mut(&id) else { return Progress::Done };
            if slot.moving.is_some() {
                return Progress::Waiting;
            }
            if !slot.unsent.is_empty() && !here {
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
                Some(Action::Notify(notification)) => self.notify(id, notification),
                Some(action @ (Action::AddAddress(_) | Action::RemoveAddress(_))) => {
                    if announcements.is_empty() {
                        actions.push(action);
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
        if let Some(plan) = self.plan(id, actions, &mut announcements) {
            let room = self.deadlines.first().map_or(LOT, |&(deadline, _)| deadline.since(now()).min(LOT));
            let estimate = self.pace.estimate(plan.changes.len());
            // The kernel makes one change at a time: what the worker has in hand would be waited for.
            let alone = self.worker.as_ref().is_none_or(|worker| worker.pending == 0);
            let plan = if here || alone && estimate <= room {
                Some(plan)
            } else {
                self.hand_over(id, plan, &mut announcements)
            };
            let Some(plan) = plan else { return Progress::Waiting };
            let begin = now();
            let mut results = Vec::new();
            worker::apply(&mut self.netlink, &plan.changes, &mut results);
            self.pace.learn(results.len(), now().since(begin));
            self.conclude(id, &plan, results, &mut announcements);
        }
        self.announce(id, decided, &announcements);
        self.touched(id);
        match done {
            true => self.rest_vmac(id, here),
            false if announcements.is_empty() => Progress::Changed,
            false => Progress::Announced,
        }
    }

    /// What the kernel is to be asked for `actions`; `None` for nothing.
    fn plan(
        &mut self,
        id: InstanceId,
        actions: Vec<Action>,
        announcements: &mut Vec<Action>,
    ) -> Option<Plan> {
        if actions.is_empty() {
            return None;
        }
        let slot = self.slots.get_mut(&id)?;
        let Some(binding) = &slot.binding else {
            // The interface is gone, and its addresses with it.
            let now = now();
            let adds = actions.iter().filter(|action| matches!(action, Action::AddAddress(_)));
            adds.for_each(|add| slot.router.handle_failure(now, add));
            announcements.clear();
            return None;
        };
        let (parent, virtuals) = (binding.index, &self.virtuals);
        let floats = |address| virtuals.contains_key(&(parent, address));
        let mut changes = Vec::with_capacity(actions.len() + 2);
        let mut causes = Vec::with_capacity(actions.len() + 2);
        for (at, action) in actions.iter().enumerate() {
            match *action {
                Action::AddAddress(floating @ VirtualAddress { address, prefix_len, .. }) => {
                    // No interface has the number 0: the kernel says that it is not there.
                    let index = slot.index_of(&floating).unwrap_or(0);
                    let vmac = binding.vmac().filter(|vmac| vmac.index == index);
                    if let Some(vmac) = vmac.filter(|vmac| !vmac.up && !causes.contains(&None)) {
                        let link_local = self.links.source(parent, Family::Ipv6, floats);
                        let link_local = link_local.filter(|_| slot.router.config().family() == Family::Ipv6);
                        let before = changes.len();
                        changes.extend(vmac::bring_up(vmac, link_local));
                        causes.resize(causes.len() + changes.len() - before, None);
                    }
                    // A second way to a network that the parent reaches would compete with the first.
                    // Link-local ones are reached by their own interface alone.
                    let local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
                    let routed = local || vmac.is_none() || !self.links.reaches(parent, address, floats);
                    changes.push(Change::AddAddress { index, address, prefix_len, routed });
                    causes.push(Some(at));
                }
                Action::RemoveAddress(floating @ VirtualAddress { address, prefix_len, .. })
                    if !slot.foreign.contains(&address) =>
                {
                    // It is gone with its interface.
                    let Some(index) = slot.index_of(&floating) else { continue };
                    changes.push(Change::RemoveAddress { index, address, prefix_len });
                    causes.push(Some(at));
                }
                _ => {}
            }
        }
        (!changes.is_empty()).then_some(Plan { changes, causes, actions })
    }

    /// Gives a plan to the worker, and `announcements` to be made when it is done. It comes back if there is no worker.
    fn hand_over(&mut self, id: InstanceId, mut plan: Plan, announcements: &mut Vec<Action>) -> Option<Plan> {
        if self.worker.is_none() {
            let worker = Worker::start().ok().filter(|worker| {
                self.epoll.add(worker, EpollEvent::new(EpollFlags::EPOLLIN, WORKER)).is_ok()
            });
            self.worker = worker;
        }
        let (Some(worker), Some(slot)) = (&mut self.worker, self.slots.get_mut(&id)) else {
            return Some(plan);
        };
        if let Err(changes) = worker.hand_over(id, plan.changes.clone()) {
            plan.changes = changes;
            return Some(plan);
        }
        let announcements = std::mem::take(announcements);
        slot.moving = Some(Moving { plan, announcements, decided: now() });
        None
    }

    /// Takes what the worker has done.
    pub(super) fn collect(&mut self) {
        while let Some(done) = self.worker.as_mut().and_then(Worker::poll) {
            self.done(done);
        }
    }

    fn done(&mut self, Done { id, results, took }: Done) {
        self.pace.learn(results.len(), took);
        let Some(moving) = self.slots.get_mut(&id).and_then(|slot| slot.moving.take()) else { return };
        let Moving { plan, mut announcements, decided } = moving;
        self.conclude(id, &plan, results, &mut announcements);
        self.announce(id, decided, &announcements);
        self.touched(id);
        self.put_to_work(id);
    }

    /// Tells the router what failed. An address that could not be added is not announced.
    fn conclude(
        &mut self,
        id: InstanceId,
        plan: &Plan,
        results: Vec<Result<bool, Errno>>,
        announcements: &mut Vec<Action>,
    ) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let end = now();
        for ((change, cause), result) in plan.changes.iter().zip(&plan.causes).zip(results) {
            match (change, cause.map(|at| &plan.actions[at]), result) {
                // One that does not go down is not wrong, only talkative; the next end of an active time tries again.
                (Change::SetUp { index, up }, None, result) if result.is_ok() || !up => {
                    let vmac = slot.binding.as_mut().and_then(Binding::vmac_mut);
                    if let Some(vmac) = vmac.filter(|vmac| vmac.index == *index) {
                        vmac.up = *up;
                    }
                }
                (Change::RemoveAddress { index, address, .. }, _, Ok(true)) => {
                    *self.expected.entry((*index, *address)).or_default() += 1;
                }
                (_, Some(action), Err(_)) => {
                    slot.router.handle_failure(end, action);
                    if let Action::AddAddress(failed) = action {
                        // It may have lost its IPv6 when the parent's MTU was too small for that, and keeps that MTU.
                        if slot.binding.as_ref().is_some_and(|binding| binding.vmac().is_some()) {
                            (slot.renew, slot.rebind) = (true, Some(end));
                        }
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
        if slot.router.withdraw_if_stale(now(), decided) {
            self.touched(id);
            return;
        }
        let Some(binding) = &slot.binding else { return };
        let mut bytes = Vec::with_capacity(actions.len() * ndp::LENGTH);
        let mut ends = Vec::with_capacity(actions.len());
        // Where, and what for.
        let mut told = Vec::with_capacity(actions.len());
        for action in actions {
            let device = slot.device_to_tell(action);
            let mac = match device {
                None => binding.announced_mac(),
                Some(index) => self.links.mac(index),
            };
            // What has no Ethernet address has no neighbours to tell.
            let Some(mac) = mac else { continue };
            match *action {
                Action::GratuitousArp(address) => bytes.extend(arp::gratuitous(mac, address)),
                Action::UnsolicitedNeighborAdvertisement(address) => {
                    bytes.extend(ndp::unsolicited(mac, address));
                }
                _ => {}
            }
            ends.push(bytes.len());
            told.push((device.unwrap_or(binding.index), action));
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let frames: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &bytes[start..end]).collect();
        let begin = now();
        let (mut at, mut tries) = (0, 0);
        while at < frames.len() {
            // Those in a row that go to one interface go together.
            let place = told[at].0;
            let end = at + told[at..].iter().take_while(|(other, _)| *other == place).count();
            match self.ports.send_frames(place, &frames[at..end]) {
                Ok(count) if count > 0 => at += count,
                Err(error) if tries < TRIES_AT_ONCE && is_transient(&error) => tries += 1,
                _ => {
                    let now = now();
                    told[at..end].iter().for_each(|(_, action)| slot.router.handle_failure(now, action));
                    at = end;
                }
            }
        }
        self.frame_pace.learn(frames.len(), now().since(begin));
    }

    /// A VMAC whose router is not active and has no addresses left goes down, so that it says nothing. The kernel takes
    /// milliseconds for that.
    fn rest_vmac(&mut self, id: InstanceId, here: bool) -> Progress {
        let Some(slot) = self.slots.get_mut(&id) else { return Progress::Done };
        let vmac = slot.binding.as_ref().and_then(Binding::vmac).filter(|vmac| vmac.up);
        let (Some(vmac), false) = (vmac, self.closed || slot.router.state() == State::Active) else {
            return Progress::Done;
        };
        let changes = vec![Change::SetUp { index: vmac.index, up: false }];
        let plan = Plan { changes, causes: vec![None], actions: Vec::new() };
        let plan = if here { Some(plan) } else { self.hand_over(id, plan, &mut Vec::new()) };
        let Some(plan) = plan else { return Progress::Waiting };
        let mut results = Vec::new();
        worker::apply(&mut self.netlink, &plan.changes, &mut results);
        self.conclude(id, &plan, results, &mut Vec::new());
        Progress::Done
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
    /// The worker has to do its part before anything else.
    Waiting,
}

/// Whether the kernel only had no room at this moment.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)
    )
}
