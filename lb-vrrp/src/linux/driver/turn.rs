//! One turn: hear, decide, send, and then a piece of the rest.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};

use super::{AGAIN, Driver, DriverError, InstanceId, MONITOR, TIMER, WORKER, keep_wall_clock, now};
use crate::linux::links::Links;
use crate::linux::netlink::{Heard, NetEvent};
use crate::linux::socket::Received;
use crate::{Event, State, Timestamp};

/// Packets that are read from one socket before the others have their turn.
const BURST: usize = 4096;

/// How long a thread that waits for a deadline is awake before it. A timer wakes a thread 50 to 200 µs late, and to a cold cache. No
/// longer: where others want the processor, Linux lets a thread that has just woken run for a millisecond or more, but takes it
/// away from one that has had its time when the deadline comes.
const AWAKE: Duration = Duration::from_micros(500);
/// How long before a takeover this thread begins to wake, again and again after [`AWAKE`]: on a virtual machine whose processor is
/// given away while it sleeps, a timer may be late by milliseconds. A takeover is rare enough for that.
const TAKEOVER: Duration = Duration::from_millis(5);
/// An active router's advert is not rare, and is late alone if the thread wakes late.
const ADVERT: Duration = Duration::from_millis(1);
/// From one watch to the next at least. A thread with much to do is awake anyway; and whoever sends an advert just before each
/// takeover puts it off, but shall not keep the thread awake.
const REST: Duration = Duration::from_millis(100);
/// A thread that is no later than this has not been held up for any router: three of the shortest intervals.
pub(super) const LATE: Duration = Duration::from_millis(30);

/// The watches before takeovers and adverts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watches {
    takeover: Watch,
    advert: Watch,
}

impl Default for Watches {
    fn default() -> Self {
        Self { takeover: Watch::new(TAKEOVER), advert: Watch::new(ADVERT) }
    }
}

impl Watches {
    /// When the thread must wake next for the `deadline` of a router in `state`; over if it must be awake.
    pub(super) fn wake(&self, now: Timestamp, (deadline, state): (Timestamp, State)) -> Timestamp {
        match state {
            State::Initialize => deadline,
            State::Backup => self.takeover.wake(now, deadline),
            State::Active => self.advert.wake(now, deadline),
        }
    }

    /// Takes down that one begins, if it does.
    pub(super) fn keep(&mut self, now: Timestamp, (deadline, state): (Timestamp, State)) {
        match state {
            State::Initialize => {}
            State::Backup => self.takeover.keep(now, deadline),
            State::Active => self.advert.keep(now, deadline),
        }
    }
}

/// The watch before a deadline: at most `lead` of each [`REST`], whatever moves the deadlines.
#[derive(Clone, Copy, Debug)]
struct Watch {
    lead: Duration,
    /// When the last one began.
    begun: Option<Timestamp>,
}

impl Watch {
    const fn new(lead: Duration) -> Self {
        Self { lead, begun: None }
    }

    /// When the watch for what is due at `deadline` begins.
    fn begin(self, deadline: Timestamp) -> Timestamp {
        let since = self.begun.map(|begun| deadline.since(begun));
        if since.is_some_and(|since| since > self.lead && since <= REST) {
            deadline
        } else {
            deadline - self.lead
        }
    }

    /// When the thread must wake next.
    fn wake(self, now: Timestamp, deadline: Timestamp) -> Timestamp {
        let begin = self.begin(deadline);
        let left = deadline.since(now);
        if now < begin || left <= AWAKE {
            return begin;
        }
        let steps = left.as_nanos().div_ceil(AWAKE.as_nanos()) - 1;
        deadline - AWAKE * u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// Takes down that one begins, if this is another than the last.
    fn keep(&mut self, now: Timestamp, deadline: Timestamp) {
        if self.begin(deadline) <= now && self.begun.is_none_or(|begun| deadline.since(begun) > REST) {
            self.begun = Some(now);
        }
    }
}

/// When a packet came that the kernel stamped by the wall clock: its age counts, however late this thread gets to read it. A
/// wall clock that was set meanwhile can make it no older than `since` and no younger than now.
fn arrival(stamp: Duration, since: Timestamp) -> Timestamp {
    let now = now();
    let age = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(stamp);
    (now - age).max(since).min(now)
}

impl Driver {
    /// Waits until something is to be done, at most for `timeout` (`None`: for ever), and does it: reads every packet that is
    /// queued, then sends what is due, then a bounded piece of the rest (addresses, announcements). While more of that is
    /// left, the descriptor stays readable and the next turn does not wait.
    ///
    /// # Errors
    /// If the system refuses something that all instances need. What concerns one instance is its fault, not an error.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), DriverError> {
        self.arm()?;
        if let Some(next) = self.next_deadline() {
            self.watches.keep(now(), next);
        }
        let timeout = match timeout {
            _ if self.has_work() || self.must_be_awake() => EpollTimeout::ZERO,
            None => EpollTimeout::NONE,
            Some(timeout) => {
                // Rounded up: not before its time, and a short one does not become a busy loop.
                let millis = timeout.as_micros().div_ceil(1000);
                i32::try_from(millis)
                    .ok()
                    .and_then(|millis| millis.try_into().ok())
                    .unwrap_or(EpollTimeout::MAX)
            }
        };
        self.hear(timeout)?;
        loop {
            let now = now();
            if self.deadlines.first().is_none_or(|&(deadline, _)| deadline > now) {
                break;
            }
            // This thread may have been held up since it heard: what came meanwhile counts before what is due.
            self.hear(EpollTimeout::ZERO)?;
            self.fire(now);
            self.send_fresh();
            if self.deadlines.first().is_some_and(|&(deadline, _)| deadline <= now) {
                // Still due after it was fired: the next turn's, lest one instance hold all others up.
                break;
            }
        }
        self.do_work();
        self.arm()
    }

    /// When the thread must wake for the next deadline: a little before it, if that is a takeover or an advert. From then on turns
    /// do not wait, and the descriptor stays readable.
    fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_deadline().map(|next| self.watches.wake(now, next))
    }

    fn must_be_awake(&self) -> bool {
        let now = now();
        self.next_wake(now).is_some_and(|wake| wake <= now)
    }

    /// The next deadline, and the state of the router whose it is.
    fn next_deadline(&self) -> Option<(Timestamp, State)> {
        let &(deadline, id) = self.deadlines.first()?;
        Some((deadline, self.slots.get(&id)?.router.state()))
    }

    /// Reads what there is to read: packets, then netlink's events; and sends what they bring about.
    fn hear(&mut self, timeout: EpollTimeout) -> Result<(), DriverError> {
        let mut events = std::mem::take(&mut self.events);
        // Room for all, so that one wait tells of every socket that has something.
        events.resize(self.ports.count() + 4, EpollEvent::empty());
        let mut waited = self.epoll.wait(&mut events, timeout);
        while waited == Err(Errno::EINTR) {
            // Stopped and continued, for instance: look again before anything is decided, but do not wait.
            waited = self.epoll.wait(&mut events, EpollTimeout::ZERO);
        }
        let count = waited.map_err(|error| DriverError::system("waiting with epoll")(error.into()))?;
        self.look_at_the_clock();
        // What is read now was not there when the wait before this one ended.
        let since = std::mem::replace(&mut self.heard, now());
        let mut changes = false;
        for event in &events[..count] {
            match event.data() {
                // What is due is seen by the clock; both are readable until `arm` says otherwise.
                TIMER | AGAIN => {}
                MONITOR => changes = true,
                WORKER => self.collect(),
                port => self.receive(port, since),
            }
        }
        self.events = events;
        if changes {
            self.hear_changes()?;
        }
        self.send_fresh();
        Ok(())
    }

    /// Now. A thread that has been held up since it was to do this tells its routers, before they hear what has come since: they would
    /// take it for what they have heard at its time, and a wait that began then for one of theirs.
    fn look_at_the_clock(&mut self) -> Timestamp {
        let now = now();
        let late = now.since(self.planned);
        self.planned = now;
        if late > LATE {
            let ids: Vec<InstanceId> = self.slots.keys().copied().collect();
            ids.into_iter().for_each(|id| self.tell(id, Event::HeldUp(late)));
        }
        now
    }

    /// Reads every packet of a port and gives each to whom it is for. They have come after `since`.
    fn receive(&mut self, port: u64, since: Timestamp) {
        for _ in 0..BURST {
            let Some((socket, interface)) = self.ports.get(port) else { return };
            let Received { meta, payload, stamp } = match socket.receive(&mut self.received) {
                Ok(packet) => packet,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing left; or the interface is down or gone, of which netlink tells.
                Err(_) => return,
            };
            let Some(counters) = self.counters.get_mut(interface) else { return };
            counters.received = counters.received.wrapping_add(1);
            let Some(&vrid) = payload.get(1) else {
                counters.too_short = counters.too_short.wrapping_add(1);
                continue;
            };
            let route = (socket.index(), socket.family(), vrid);
            let Some(&id) = self.routes.get(&route) else {
                counters.unknown_vrid = counters.unknown_vrid.wrapping_add(1);
                continue;
            };
            if let Some(slot) = self.slots.get_mut(&id) {
                keep_wall_clock(&mut slot.router);
                let arrived = stamp.map_or_else(now, |stamp| arrival(stamp, since));
                // The router has counted why, if it dropped it.
                let _ = slot.router.handle_packet(arrived, &meta, payload);
                self.touched(id);
            }
        }
    }

    /// Reads netlink's events; after an overflow, lists everything anew.
    pub(super) fn hear_changes(&mut self) -> Result<(), DriverError> {
        let mut events = Vec::new();
        let heard =
            self.monitor.read(&mut events).map_err(DriverError::system("reading netlink's events"))?;
        if heard == Heard::Overflow {
            return self.resync();
        }
        // Links first: the addresses of an interface that goes are told of before it, and are not lost but gone with it.
        let of_link = |event: &&NetEvent| matches!(event, NetEvent::Link(_) | NetEvent::LinkGone { .. });
        events.iter().filter(of_link).for_each(|event| self.note(event));
        events.iter().filter(|event| !of_link(event)).for_each(|event| self.note(event));
        Ok(())
    }

    fn note(&mut self, event: &NetEvent) {
        if let NetEvent::Address(address) | NetEvent::AddressGone(address) = event
            && !self.links.has_link(address.index)
        {
            return;
        }
        self.links.note(event);
        match event {
            NetEvent::Link(link) => {
                let concerned = |slot: &super::Slot| {
                    slot.instance.interface == link.name
                        || slot.binding.as_ref().is_some_and(|binding| binding.is_on(link.index))
                        || slot.tracked.iter().any(|(name, _)| *name == link.name)
                };
                self.refresh_all(concerned);
            }
            NetEvent::LinkGone { index } => {
                // Its name is gone with it: who tracks it is found by asking all.
                let index = *index;
                self.refresh_all(|slot| {
                    slot.binding.as_ref().is_some_and(|binding| binding.is_on(index))
                        || !slot.tracked.is_empty()
                });
            }
            NetEvent::Address(address) => {
                if !self.virtuals.contains_key(&(address.index, address.address)) {
                    self.refresh_all(|slot| {
                        slot.binding.as_ref().is_some_and(|binding| binding.index == address.index)
                    });
                }
            }
            NetEvent::AddressGone(address) => {
                let key = (address.index, address.address);
                if let Some(expected) = self.expected.get_mut(&key) {
                    *expected -= 1;
                    if *expected == 0 {
                        self.expected.remove(&key);
                    }
                } else if let Some(&id) = self.virtuals.get(&key) {
                    self.tell(id, Event::AddressLost(address.address));
                } else {
                    self.refresh_all(|slot| {
                        slot.binding.as_ref().is_some_and(|binding| binding.index == address.index)
                    });
                }
            }
        }
    }

    /// Events were lost: everything is as the dump says, and what is missing there was taken away.
    fn resync(&mut self) -> Result<(), DriverError> {
        let dump = self.netlink.dump().map_err(DriverError::system("listing interfaces and addresses"))?;
        self.links = Links::from_dump(&dump);
        self.expected.clear();
        let mut lost = Vec::new();
        for (&id, slot) in &self.slots {
            let missing = slot.router.present_addresses().filter(|present| {
                let Some(index) = slot.index_of(present) else { return false };
                // Polled, but not carried out.
                let add = crate::Action::AddAddress(*present);
                let waits =
                    slot.ahead.contains(&add) || slot.moving.as_ref().is_some_and(|moving| moving.has(&add));
                !waits && self.links.address(index, present.address, present.prefix_len).is_none()
            });
            lost.extend(missing.map(|missing| (id, missing.address)));
        }
        self.refresh_all(|_| true);
        for (id, address) in lost {
            self.tell(id, Event::AddressLost(address));
        }
        Ok(())
    }

    /// Does what is due at `now` for every instance whose time has come.
    fn fire(&mut self, now: Timestamp) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.deadline = None;
            keep_wall_clock(&mut slot.router);
            slot.router.handle_timeout(now);
            let rebind = slot.rebind.is_some_and(|at| at <= now);
            self.touched(id);
            if rebind {
                self.refresh(id);
            }
        }
    }

    /// Tells a router something.
    pub(super) fn tell(&mut self, id: InstanceId, event: Event) {
        self.look_at_the_clock();
        if let Some(slot) = self.slots.get_mut(&id) {
            keep_wall_clock(&mut slot.router);
            slot.router.handle_event(now(), event);
            self.touched(id);
        }
    }

    /// A router has been told something: what does its group make of it? And there may be something to send.
    pub(super) fn touched(&mut self, id: InstanceId) {
        self.freshen(id);
        let Some((key, member)) = self.slots.get(&id).and_then(|slot| slot.group) else { return };
        let Some(group) = self.groups.get_mut(&key) else { return };
        if let Some(slot) = self.slots.get(&id) {
            group.sync.observe(member, &slot.router);
        }
        let mut asked = Vec::new();
        while let Some((member, event)) = group.sync.poll() {
            let Some(&other) = group.members.get(member) else { continue };
            if let Some(slot) = self.slots.get_mut(&other) {
                slot.router.handle_event(now(), event);
                group.sync.observe(member, &slot.router);
                asked.push(other);
            }
        }
        asked.into_iter().for_each(|other| self.freshen(other));
    }

    fn freshen(&mut self, id: InstanceId) {
        if let Some(slot) = self.slots.get_mut(&id)
            && !slot.fresh
        {
            slot.fresh = true;
            self.fresh.push_back(id);
        }
    }

    /// Puts an instance's deadline into the queue.
    pub(super) fn reschedule(&mut self, id: InstanceId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let unsent = slot.unsent.front().map(|unsent| unsent.at);
        let deadline = [slot.router.poll_timeout(), slot.rebind, unsent].into_iter().flatten().min();
        if deadline == slot.deadline {
            return;
        }
        if let Some(old) = slot.deadline {
            self.deadlines.remove(&(old, id));
        }
        slot.deadline = deadline;
        self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
    }

    /// Has the descriptor be readable when there is something to do: at once, or at the first deadline.
    pub(super) fn arm(&mut self) -> Result<(), DriverError> {
        let now = self.look_at_the_clock();
        self.send_fresh();
        let wanted = self.next_wake(now);
        // At once, if it is over; never, without one.
        self.planned = wanted.map_or(Timestamp::from_micros(u64::MAX), |wanted| wanted.max(now));
        if self.has_work() || wanted.is_some_and(|at| at <= now) {
            // Written anew each time: who waits for edges must see one. The timer would take an interrupt for that.
            self.again = true;
            let woken = self.wake.write(1).map(drop);
            return woken.map_err(|error| DriverError::system("waking the driver itself")(error.into()));
        }
        if std::mem::take(&mut self.again) {
            // It takes the number that was written with it.
            let _ = self.wake.read();
        }
        if wanted == self.armed {
            return Ok(());
        }
        let set = match wanted {
            None => self.timer.unset(),
            Some(at) => {
                // A time of zero would switch the timer off.
                let at = TimeSpec::from_duration(Duration::from_micros(at.as_micros().max(1)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
        };
        set.map_err(|error| DriverError::system("setting the timer")(error.into()))?;
        self.armed = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_with_its_deadline_however_often_that_is_put_off() {
        let at = |micros: u64| Timestamp::from_micros(1_000_000 + micros);
        let mut watch = Watch::new(TAKEOVER);
        assert_eq!(watch.begin(at(20_000)), at(15_000));
        watch.keep(at(14_999), at(20_000));
        assert_eq!(watch.begun, None, "not yet");
        watch.keep(at(15_000), at(20_000));
        // Another takeover within the watch is watched too; one that is put off is not.
        assert_eq!((watch.begin(at(20_000)), watch.begin(at(19_000))), (at(15_000), at(14_000)));
        assert_eq!((watch.begin(at(20_001)), watch.begin(at(115_000))), (at(20_001), at(115_000)));
        assert_eq!(watch.begin(at(115_001)), at(110_001));

        // Whoever puts the takeover off by 7 ms, every 3 ms, for ten seconds, has the thread wake in a twentieth of it.
        let (mut watch, mut watched) = (Watch::new(TAKEOVER), 0);
        for micros in (0..10_000_000_u64).step_by(100) {
            let deadline = at(micros - micros % 3_000 + 7_000);
            watch.keep(at(micros), deadline);
            watched += i32::from(watch.begin(deadline) <= at(micros));
        }
        assert!(watched > 0 && watched <= 100_000 / 20 + 50, "{watched} of 100000");
    }

    #[test]
    fn a_watch_wakes_now_and_then_and_is_awake_at_the_end() {
        let at = |micros: u64| Timestamp::from_micros(1_000_000 + micros);
        let deadline = at(20_000);
        for (now, wake) in [
            (0, 15_000),
            (14_999, 15_000),
            (15_000, 15_500),
            (15_999, 16_000),
            (16_300, 16_500),
            (18_000, 18_500),
            (19_000, 19_500),
            (19_499, 19_500),
        ] {
            assert_eq!(Watch::new(TAKEOVER).wake(at(now), deadline), at(wake), "{now}");
        }
        for now in [19_500, 19_999, 20_000, 25_000] {
            assert!(Watch::new(TAKEOVER).wake(at(now), deadline) <= at(now), "{now}");
            assert!(Watch::new(ADVERT).wake(at(now), deadline) <= at(now), "{now}");
        }
        assert_eq!(Watch::new(ADVERT).wake(at(18_000), deadline), at(19_000));
        assert_eq!(Watch::new(ADVERT).wake(at(19_000), deadline), at(19_500));
        // One that is put off too often is not watched, but still due.
        let rested = Watch { lead: TAKEOVER, begun: Some(at(0)) };
        assert_eq!(rested.wake(at(19_500), deadline), deadline);
        assert_eq!(rested.wake(at(15_500), deadline), deadline);
    }

    #[test]
    fn a_packet_is_as_old_as_its_stamp_says_but_for_a_clock_that_was_set() {
        let wall = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        let begin = now();
        let since = begin - Duration::from_secs(1);
        let age = |stamp, since| begin.since(arrival(stamp, since));

        let old = age(wall - Duration::from_millis(300), since);
        assert!(old > Duration::from_millis(200) && old < Duration::from_millis(301), "{old:?}");
        assert_eq!(age(wall - Duration::from_secs(3600), since), Duration::from_secs(1), "set forward");
        assert_eq!(age(wall + Duration::from_secs(3600), since), Duration::ZERO, "set back");
        assert_eq!(arrival(Duration::ZERO, begin), begin);
    }
}
