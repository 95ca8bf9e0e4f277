//! Many virtual routers in one thread.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};

use super::{DriverError, Instance, Settings};
use crate::event::Notification;
use crate::track::{Check, TrackId, Tracker, Weight};
use crate::{Config, Event, Timestamp, VirtualRouter};

/// An instance of a [`Driver`]. A number is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u32);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance number {}", self.0)
    }
}

/// What was counted on an interface before it was known whose it is.
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

#[derive(Debug)]
struct Slot {
    name: String,
    router: VirtualRouter,
    tracker: Tracker,
}

/// Drives virtual routers. It lives in the network namespace of the thread that makes it, and must stay on a thread of it.
///
/// It is not `Sync`, starts no thread and blocks nowhere but in [`Self::turn`]. To put it into an event loop of one's own, wait
/// until its descriptor ([`AsFd`]) is readable, then call `turn(Some(Duration::ZERO))`.
#[derive(Debug)]
pub struct Driver {
    epoll: Epoll,
    slots: BTreeMap<InstanceId, Slot>,
    next: u32,
    notifications: VecDeque<(InstanceId, Notification)>,
}

impl Driver {
    /// Checks that the thread may do what is needed, cleans up what a killed driver left, and opens the sockets that all
    /// instances share.
    ///
    /// # Errors
    /// If a capability is missing ([`DriverError::Capability`] names it), or the system refuses a socket, the run directory,
    /// or a privilege of `settings`.
    pub fn new(settings: Settings) -> Result<Self, DriverError> {
        let _ = settings;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|error| DriverError::system("epoll_create1")(error.into()))?;
        Ok(Self { epoll, slots: BTreeMap::new(), next: 0, notifications: VecDeque::new() })
    }

    /// Adds an instance and starts it. An interface that does not exist, or has no address yet, is a fault of the instance
    /// until it is there.
    ///
    /// # Errors
    /// If the configuration is wrong or does not go together with another instance's. Nothing changes then.
    pub fn add(&mut self, name: &str, instance: Instance) -> Result<InstanceId, DriverError> {
        let router = VirtualRouter::new(instance.config, instance.source)
            .map_err(|source| DriverError::Config { name: name.into(), source })?;
        let id = InstanceId(self.next);
        self.next += 1;
        self.slots.insert(id, Slot { name: name.into(), router, tracker: Tracker::new() });
        Ok(id)
    }

    /// Stops an instance: it says farewell if it is active, and its addresses and its VMAC are gone when this returns.
    ///
    /// # Errors
    /// If there is no such instance, or something could not be removed.
    pub fn remove(&mut self, id: InstanceId) -> Result<(), DriverError> {
        self.slots.remove(&id).map(drop).ok_or(DriverError::UnknownInstance(id))
    }

    /// Gives a running instance another configuration; it keeps its state. Version, VRID and family must stay.
    ///
    /// # Errors
    /// If there is no such instance, or it can't take the configuration over. Nothing changes then.
    pub fn reconfigure(&mut self, id: InstanceId, config: Config) -> Result<(), DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        slot.router
            .reconfigure(Timestamp::ZERO, config)
            .map_err(|source| DriverError::Reconfigure { name: slot.name.clone(), source })
    }

    /// Keeps instances together: they are active together or not at all ([`SyncGroup`](crate::group::SyncGroup)).
    ///
    /// # Errors
    /// If there is no such instance, or one is in a group already. Nothing changes then.
    pub fn add_group(&mut self, name: &str, members: &[InstanceId]) -> Result<(), DriverError> {
        let _ = name;
        match members.iter().find(|id| !self.slots.contains_key(id)) {
            Some(&id) => Err(DriverError::UnknownInstance(id)),
            None => Ok(()),
        }
    }

    /// Ends a group: its members stay as they are, and go their own ways from now on. Whether there was one.
    pub fn remove_group(&mut self, name: &str) -> bool {
        let _ = name;
        false
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

    /// The instance of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<InstanceId> {
        self.slots.iter().find(|(_, slot)| slot.name == name).map(|(&id, _)| id)
    }

    /// All instances, in the order in which they were added.
    pub fn instances(&self) -> impl Iterator<Item = (InstanceId, &str, &VirtualRouter)> {
        self.slots.iter().map(|(&id, slot)| (id, slot.name.as_str(), &slot.router))
    }

    /// What was counted on an interface that has instances.
    #[must_use]
    pub fn interface_counters(&self, interface: &str) -> Option<InterfaceCounters> {
        let _ = interface;
        None
    }

    /// Tells an instance what the program around it knows: a fault, a cure, `StandDown`.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn event(&mut self, id: InstanceId, event: Event) -> Result<(), DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        slot.router.handle_event(Timestamp::ZERO, event);
        Ok(())
    }

    /// Tracks something for an instance (a script, a process) beside its interfaces; [`Self::report`] says how it is.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn track(&mut self, id: InstanceId, check: Check) -> Result<TrackId, DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        Ok(slot.tracker.add(check))
    }

    /// Tracks a file's number for an instance; [`Self::set_value`] says what it is.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn track_file(&mut self, id: InstanceId, weight: Weight) -> Result<TrackId, DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        Ok(slot.tracker.add_file(weight))
    }

    /// Says whether a check that is tracked went well.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn report(&mut self, id: InstanceId, tracked: TrackId, success: bool) -> Result<(), DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        slot.tracker.report(tracked, success);
        Ok(())
    }

    /// Says what number a tracked file holds.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn set_value(&mut self, id: InstanceId, tracked: TrackId, number: i32) -> Result<(), DriverError> {
        let slot = self.slots.get_mut(&id).ok_or(DriverError::UnknownInstance(id))?;
        slot.tracker.set_value(tracked, number);
        Ok(())
    }

    /// Waits until something is to be done, at most for `timeout` (`None`: for ever), and does it: reads every packet that is
    /// queued, then sends what is due, then a bounded piece of the rest (addresses, announcements). While more of that is
    /// left, the descriptor stays readable and the next turn does not wait.
    ///
    /// # Errors
    /// If the system refuses something that all instances need. What concerns one instance is its fault, not an error.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<(), DriverError> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(timeout) => EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::MAX),
        };
        let mut events = [EpollEvent::empty(); 64];
        match self.epoll.wait(&mut events, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(DriverError::system("epoll_wait")(error.into())),
        }
    }

    /// What happened, oldest first; `None` when all is told.
    pub fn next_notification(&mut self) -> Option<(InstanceId, Notification)> {
        self.notifications.pop_front()
    }

    /// Stops every instance, as [`Self::remove`] does, and puts every sysctl back. Dropping the driver does the same, without
    /// saying what went wrong.
    ///
    /// # Errors
    /// If something could not be removed or put back: [`DriverError::Leftovers`].
    pub fn shutdown(&mut self) -> Result<(), DriverError> {
        self.slots.clear();
        Ok(())
    }
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
