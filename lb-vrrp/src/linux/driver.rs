//! Many virtual routers in one thread.
//!
//! A turn of the driver does four things, in this order: it reads every packet that is queued (so that a router that was
//! held up hears before it decides), takes note of what netlink says, fires the timers that are due and sends the adverts that
//! they bring, and then does a bounded piece of the rest: a few addresses by one netlink request, their announcements by one
//! `sendmmsg`. So an advert waits for at most one such piece, however many addresses are to come; a piece that would take
//! too long goes to a thread of its own.

mod act;
mod bind;
mod devices;
mod roster;
#[cfg(test)]
mod stopped;
mod turn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId as TimerClock, TimerFd, TimerFlags};
use nix::time::{ClockId, clock_gettime};

use super::filter::{Filter, Refused};
use super::journal::Journal;
use super::links::Links;
use super::netlink::{Monitor, Netlink};
use super::pace::Pace;
use super::sysctl::Sysctls;
use super::worker::Worker;
use super::{DriverError, Settings, TrackInterface, cleanup, preflight};
use crate::event::{Action, Notification};
use crate::group::SyncGroup;
use crate::track::{Check, TrackId, Tracker, Weight};
use crate::wire::{Family, MAX_MESSAGE};
use crate::{Event, Timestamp, VirtualRouter};
use act::{Moving, Unsent};
use bind::{Binding, Ports};
use devices::Device;
use turn::Watches;

/// An instance of a [`Driver`]. A number is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u32);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance number {}", self.0)
    }
}

/// What was counted on an interface before it was known whose it is. The counters wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterfaceCounters {
    /// Packets of protocol 112.
    pub received: u64,
    /// Those whose VRID no instance on the interface has (`vrrpv3RouterVrIdErrors`).
    pub unknown_vrid: u64,
    /// Those too short to have a VRID.
    pub too_short: u64,
}

/// An instance and what the driver keeps beside it.
#[derive(Debug)]
struct Slot {
    name: String,
    instance: SlotSettings,
    router: VirtualRouter,
    tracker: Tracker,
    /// The tracked interfaces, by name.
    tracked: Vec<(String, TrackId)>,
    binding: Option<Binding>,
    /// Interfaces beside its own that have some of its addresses.
    devices: Vec<Device>,
    /// Why it could not be bound, and when to try again.
    trouble: Option<String>,
    rebind: Option<Timestamp>,
    /// Its VMAC took no address: it is made anew at `rebind`.
    renew: bool,
    /// The group it is in, and its number there.
    group: Option<(u32, usize)>,
    /// As in the driver's `deadlines`.
    deadline: Option<Timestamp>,
    /// Whether it is in the driver's `fresh`, and in `work`.
    fresh: bool,
    working: bool,
    /// Adverts that the kernel had no room for.
    unsent: VecDeque<Unsent>,
    /// Actions that were polled before their time.
    ahead: VecDeque<Action>,
    /// Changes that the worker has not done yet, and what follows them.
    moving: Option<Moving>,
    /// What it refuses, as the filter has it.
    refused: Vec<Refused>,
    /// An owner's addresses that were on the interface before: they are not the driver's to remove.
    foreign: HashSet<IpAddr>,
}

#[derive(Debug)]
struct SlotSettings {
    interface: String,
    source: Option<IpAddr>,
    vmac: Option<super::Vmac>,
}

#[derive(Debug)]
struct Group {
    name: String,
    sync: SyncGroup,
    members: Vec<InstanceId>,
}

/// Drives virtual routers. It lives in the network namespace of the thread that makes it, and must stay on a thread of it.
///
/// The thread that calls it does all the work and waits nowhere but in [`Self::turn`]; only where an interface has so many
/// addresses that the kernel takes long to add one, a second thread carries them there. To put it into an event loop of one's own, wait until its
/// descriptor ([`AsFd`]) is readable, then call `turn(Some(Duration::ZERO))`. A loop that is told of edges alone will do.
#[derive(Debug)]
pub struct Driver {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    timer: TimerFd,
    /// What the timer is set to; from then on it is readable, until it is set anew.
    armed: Option<Timestamp>,
    /// Readable while there is something to do at once, and whether that is so.
    wake: EventFd,
    again: bool,
    netlink: Netlink,
    monitor: Monitor,
    links: Links,
    journal: Journal,
    sysctls: Sysctls,
    filter: Filter,
    ports: Ports,
    slots: BTreeMap<InstanceId, Slot>,
    next: u32,
    groups: BTreeMap<u32, Group>,
    /// Who hears what comes in: by the interface it comes in on, family, and VRID.
    routes: HashMap<(u32, Family, u8), InstanceId>,
    /// Whose virtual address it is: by interface and address.
    virtuals: HashMap<(u32, IpAddr), InstanceId>,
    /// Removals of the driver's own that netlink has still to tell of.
    expected: HashMap<(u32, IpAddr), u32>,
    counters: HashMap<String, InterfaceCounters>,
    deadlines: BTreeSet<(Timestamp, InstanceId)>,
    /// When the last wait ended: whatever had come until then is read.
    heard: Timestamp,
    /// When this thread was to look about next, unless something came before.
    planned: Timestamp,
    watches: Watches,
    /// Instances whose routers may have an advert to send.
    fresh: VecDeque<InstanceId>,
    /// Instances with addresses to move or to announce.
    work: VecDeque<InstanceId>,
    /// What an address takes, and what a frame takes.
    pace: Pace,
    frame_pace: Pace,
    worker: Option<Worker>,
    notifications: VecDeque<(InstanceId, Notification)>,
    received: Box<[u8]>,
    message: Box<[u8]>,
    frame: Vec<u8>,
    closed: bool,
}

/// The epoll's data of what is no port.
const TIMER: u64 = u64::MAX;
const MONITOR: u64 = u64::MAX - 1;
const WORKER: u64 = u64::MAX - 2;
const AGAIN: u64 = u64::MAX - 3;
/// The longest packet that is read whole.
const PACKET: usize = 65_536;

/// Now, by the clock that never steps. Its reading takes no system call.
fn now() -> Timestamp {
    // Every Linux has this clock; without one, time would stand still and nothing would ever be due.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(Timestamp::ZERO, |time| Timestamp::ZERO + Duration::from(time))
}

/// Tells a router what the wall clock says, which may have been set since it was told last.
#[cfg(feature = "auth-hmac")]
fn tell_wall_clock(router: &mut VirtualRouter) {
    if let Ok(since_1970) = std::time::UNIX_EPOCH.elapsed() {
        router.handle_event(now(), Event::WallClock(since_1970));
    }
}

/// Keeps the wall clock of a router that signs adverts or judges signatures.
fn keep_wall_clock(router: &mut VirtualRouter) {
    #[cfg(feature = "auth-hmac")]
    if router.config().hmac.is_some() {
        tell_wall_clock(router);
    }
    #[cfg(not(feature = "auth-hmac"))]
    let _ = router;
}

impl Driver {
    /// Checks that the thread may do what is needed, cleans up what a killed driver left, and opens the sockets that all
    /// instances share.
    ///
    /// # Errors
    /// If a capability is missing ([`DriverError::Capability`] names it), or the system refuses a socket, the run directory,
    /// or a privilege of `settings`.
    pub fn new(settings: Settings) -> Result<Self, DriverError> {
        preflight::check_capabilities()?;
        preflight::apply_privileges(&settings)?;
        let mut netlink = Netlink::new().map_err(DriverError::system("opening a netlink socket"))?;
        let (journal, leftovers) = Journal::open(settings.run_directory.as_deref())?;
        let cleaning = DriverError::system("cleaning up after a driver that was killed");
        for leftover in leftovers {
            let events = netlink.dump().map_err(&cleaning)?;
            cleanup::undo(&mut netlink, &events, &leftover.records).map_err(&cleaning)?;
            leftover.finish().map_err(&cleaning)?;
        }
        // Subscribed before the first dump, so that no change falls between.
        let monitor = Monitor::new().map_err(DriverError::system("subscribing to netlink's events"))?;
        let dump = netlink.dump().map_err(DriverError::system("listing interfaces and addresses"))?;

        let polling = DriverError::system("setting up epoll");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| polling(error.into()))?;
        let timer =
            TimerFd::new(TimerClock::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .map_err(|error| polling(error.into()))?;
        let readable = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
        epoll.add(&timer, readable(TIMER)).map_err(|error| polling(error.into()))?;
        epoll.add(&monitor, readable(MONITOR)).map_err(|error| polling(error.into()))?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| polling(error.into()))?;
        epoll.add(&wake, readable(AGAIN)).map_err(|error| polling(error.into()))?;
        Ok(Self {
            epoll,
            events: Vec::new(),
            timer,
            armed: None,
            wake,
            again: false,
            netlink,
            monitor,
            links: Links::from_dump(&dump),
            journal,
            sysctls: Sysctls::default(),
            filter: Filter::default(),
            ports: Ports::default(),
            slots: BTreeMap::new(),
            next: 0,
            groups: BTreeMap::new(),
            routes: HashMap::new(),
            virtuals: HashMap::new(),
            expected: HashMap::new(),
            counters: HashMap::new(),
            deadlines: BTreeSet::new(),
            heard: now(),
            planned: now(),
            watches: Watches::default(),
            fresh: VecDeque::new(),
            work: VecDeque::new(),
            pace: Pace::new(Duration::from_micros(20)),
            frame_pace: Pace::new(Duration::from_micros(4)),
            worker: None,
            notifications: VecDeque::new(),
            received: vec![0; PACKET].into(),
            message: vec![0; MAX_MESSAGE + 64].into(),
            frame: Vec::new(),
            closed: false,
        })
    }

    /// The state machine of an instance: state, faults, counters, configuration.
    #[must_use]
    pub fn router(&self, id: InstanceId) -> Option<&VirtualRouter> {
        self.slots.get(&id).map(|slot| &slot.router)
    }

    /// The name of an instance.
    #[must_use]
    pub fn name(&self, id: InstanceId) -> Option<&str> {
        self.slots.get(&id).map(|slot| slot.name.as_str())
    }

    /// Why an instance has no sockets or no VMAC although its interface is there; the driver tries again every second.
    #[must_use]
    pub fn trouble(&self, id: InstanceId) -> Option<&str> {
        self.slots.get(&id)?.trouble.as_deref()
    }

    /// The instance of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<InstanceId> {
        self.slots.iter().find(|(_, slot)| slot.name == name).map(|(&id, _)| id)
    }

    /// All instances, in the order in which they were added.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceId, &str, &VirtualRouter)> {
        self.slots.iter().map(|(&id, slot)| (id, slot.name.as_str(), &slot.router))
    }

    /// What was counted on an interface that has, or had, instances.
    #[must_use]
    pub fn interface_counters(&self, interface: &str) -> Option<InterfaceCounters> {
        self.counters.get(interface).copied()
    }

    /// Tells an instance what the program around it knows: a fault, a cure, `StandDown`.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn event(&mut self, id: InstanceId, event: Event) -> Result<(), DriverError> {
        if !self.slots.contains_key(&id) {
            return Err(DriverError::UnknownInstance(id));
        }
        self.tell(id, event);
        self.send_fresh();
        self.arm()
    }

    /// Tracks something for an instance (a script, a process) beside its interfaces; [`Self::report`] says how it is.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn track(&mut self, id: InstanceId, check: Check) -> Result<TrackId, DriverError> {
        self.with_tracker(id, |tracker| tracker.add(check))
    }

    /// Tracks a file's number for an instance; [`Self::set_value`] says what it is.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn track_file(&mut self, id: InstanceId, weight: Weight) -> Result<TrackId, DriverError> {
        self.with_tracker(id, |tracker| tracker.add_file(weight))
    }

    /// Tracks an interface's link for an instance, beside those that it was added with.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn track_interface(&mut self, id: InstanceId, track: TrackInterface) -> Result<TrackId, DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        let tracked = slot.tracker.add(track.check);
        slot.tracked.push((track.name, tracked));
        self.refresh(id);
        self.with_tracker(id, |_| tracked)
    }

    /// Tracks something no longer: an interface, a check, or a file.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn untrack(&mut self, id: InstanceId, tracked: TrackId) -> Result<(), DriverError> {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.tracked.retain(|(_, other)| *other != tracked);
        }
        self.with_tracker(id, |tracker| tracker.remove(tracked)).map(|_| ())
    }

    /// Says whether a check that is tracked went well.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn report(&mut self, id: InstanceId, tracked: TrackId, success: bool) -> Result<(), DriverError> {
        self.with_tracker(id, |tracker| tracker.report(tracked, success)).map(|_| ())
    }

    /// Whether something that is tracked is up; `None` if that is not known yet, or if it is a file.
    #[must_use]
    pub fn is_up(&self, id: InstanceId, tracked: TrackId) -> Option<bool> {
        self.slots.get(&id)?.tracker.is_up(tracked)
    }

    /// Says what number a tracked file holds.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn set_value(&mut self, id: InstanceId, tracked: TrackId, number: i32) -> Result<(), DriverError> {
        self.with_tracker(id, |tracker| tracker.set_value(tracked, number)).map(|_| ())
    }

    fn with_tracker<T>(
        &mut self,
        id: InstanceId,
        change: impl FnOnce(&mut Tracker) -> T,
    ) -> Result<T, DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        let result = change(&mut slot.tracker);
        for event in slot.tracker.events(slot.router.config().priority) {
            slot.router.handle_event(now(), event);
        }
        self.touched(id);
        self.send_fresh();
        self.arm()?;
        Ok(result)
    }

    /// What happened, oldest first; `None` when all is told. Who does not ask loses the oldest beyond 65536.
    pub fn next_notification(&mut self) -> Option<(InstanceId, Notification)> {
        self.notifications.pop_front()
    }

    /// Stops every instance, as [`Self::remove`] does but with all farewells first, and puts every sysctl back. The driver is
    /// at its end then. Dropping it does the same, without saying what went wrong.
    ///
    /// # Errors
    /// If something could not be removed or put back: [`DriverError::Leftovers`]. The next start tries again.
    pub fn shutdown(&mut self) -> Result<(), DriverError> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        let ids: Vec<InstanceId> = self.slots.keys().copied().collect();
        self.groups.clear();
        for &id in &ids {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.group = None;
            }
            self.tell(id, Event::Shutdown);
        }
        self.send_fresh();
        // All addresses before the first VMAC, whose deletion takes the kernel a while: others have them already.
        ids.iter().for_each(|&id| self.finish(id));
        let mut leftovers: Vec<String> = ids.into_iter().flat_map(|id| self.discard(id)).collect();
        if leftovers.is_empty()
            && let Err(error) = self.journal.close()
        {
            leftovers.push(format!("the driver's file in the run directory ({error})"));
        }
        if leftovers.is_empty() { Ok(()) } else { Err(DriverError::Leftovers { leftovers }) }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.shutdown();
    }
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
