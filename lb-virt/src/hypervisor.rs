//! One way to drive machines, whatever runs them.

mod statistics;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::domain::{Disk, DomainSpec, Mac, Memory, Nic, Pins};
use crate::error::VirtError;
use crate::migration::{Conclusion, Control, Demand, Destination, Sample, Settings, Via};
use crate::state::State;

pub use statistics::{BlockStatistics, NetStatistics, Statistics};

bitflags::bitflags! {
    /// What a hypervisor can do beyond define, list, start, shut down, power off, pause, resume and delete.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Capabilities: u32 {
        /// Reboots a machine by asking its guest.
        const REBOOT = 1;
        /// Wakes a machine that its guest has suspended.
        const WAKE = 1 << 1;
        /// Gives a running machine more or fewer virtual CPUs.
        const HOT_VCPUS = 1 << 2;
        /// Gives a running machine more or less memory.
        const HOT_MEMORY = 1 << 3;
        /// Pins virtual CPUs to CPUs of the host.
        const PINNING = 1 << 4;
        /// Attaches and detaches disks while a machine runs.
        const HOT_DISKS = 1 << 5;
        /// Attaches and detaches network interfaces while a machine runs.
        const HOT_NICS = 1 << 6;
        /// Keeps states of a machine and goes back to them.
        const SNAPSHOTS = 1 << 7;
        /// Makes a machine from another.
        const CLONE = 1 << 8;
        /// Has a serial console to connect to.
        const CONSOLE = 1 << 9;
        /// Tells what happens to machines.
        const EVENTS = 1 << 10;
        /// Moves a machine to another host while it runs.
        const LIVE_MIGRATION = 1 << 11;
        /// Throttles a guest that writes faster than its memory goes over.
        const AUTO_CONVERGE = 1 << 12;
        /// Lets a machine run on the target before all of its memory has gone over.
        const POST_COPY = 1 << 13;
        /// Measures how fast a guest writes to its memory.
        const DIRTY_RATE = 1 << 14;
        /// Goes on with a post-copy that has lost its connection.
        const POST_COPY_RECOVERY = 1 << 15;
    }
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// It has, or the machine does not run.
    Now,
    /// When the machine is started next.
    NextBoot,
}

/// A machine on a host, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Its identity, where the hypervisor gives one.
    pub uuid: Option<Uuid>,
    /// What it is doing.
    pub state: State,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Its memory.
    pub memory: Memory,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The hypervisor's own name and version.
    pub version: String,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory.
    pub memory: Memory,
    /// What of it is free, where the hypervisor says so.
    pub free_memory: Option<Memory>,
    /// Whether machines run on the hardware; else every instruction is translated.
    pub accelerated: bool,
}

/// Something that happened to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Event {
    /// The machine.
    pub machine: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum EventKind {
    /// It was defined.
    Defined,
    /// It was deleted.
    Deleted,
    /// It is doing something else now.
    State {
        /// What it is doing.
        state: State,
    },
    /// Its guest has started anew.
    Rebooted,
    /// It was resized, pinned, or has other devices.
    Changed,
    /// Its post-copy has lost the connection: it stands still on the target as soon as it needs what is still on the source.
    MigrationStalled,
    /// Something that has no name here, in the hypervisor's own words.
    Other {
        /// Its words.
        words: String,
    },
}

/// A state of a machine that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What the machine was doing: running, its memory was kept too.
    pub state: State,
    /// When it was taken, since 1970.
    pub taken: Duration,
}

/// How to make a machine from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneRequest {
    /// The new machine's name. It has an identity and Ethernet addresses of its own.
    pub name: String,
    /// Where the images of its disks go: `NAME-TARGET.FORMAT`.
    pub directory: PathBuf,
    /// Whether its images hold only what differs from the template's, which must then stay as they are.
    pub linked: bool,
}

/// Where a machine's serial console is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsoleAddress {
    /// A pseudo-terminal of the host.
    Pty(PathBuf),
    /// A unix socket.
    Socket(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
    /// A file that it is written to.
    File(PathBuf),
    /// A program that connects to it, with its arguments.
    Program(Vec<String>),
}

impl fmt::Display for ConsoleAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pty(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Program(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// A hypervisor of one host. A backend implements it; everything else drives machines through it.
///
/// All operations name a machine. What the [table of states](State::after) does not have is [`VirtError::State`] on every
/// backend. What is not in [`capabilities`](Self::capabilities) is [`VirtError::Unsupported`]: the methods that say so have
/// that for a default.
pub trait Hypervisor: fmt::Debug + Send {
    /// Its name, as in messages: `sim`, `qemu`.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The host.
    ///
    /// # Errors
    /// [`VirtError::Said`], [`VirtError::Timeout`]; so of all methods.
    fn host(&mut self) -> Result<Host, VirtError>;

    /// All machines, by name.
    ///
    /// # Errors
    /// If the hypervisor can't be asked.
    fn list(&mut self) -> Result<Vec<Summary>, VirtError>;

    /// What a machine is doing.
    ///
    /// # Errors
    /// [`VirtError::NoMachine`]; so of all that follow.
    fn state(&mut self, name: &str) -> Result<State, VirtError>;

    /// A machine's definition, with what the hypervisor has chosen; changes that take effect at the next boot are in it.
    ///
    /// # Errors
    /// As above.
    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError>;

    /// Defines a machine: it is shut off then.
    ///
    /// # Errors
    /// [`VirtError::MachineExists`], [`VirtError::UuidTaken`], [`VirtError::Spec`], [`VirtError::Inexpressible`].
    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError>;

    /// Removes a machine's definition and its snapshots, not its disks.
    ///
    /// # Errors
    /// [`VirtError::State`] if it runs.
    fn delete(&mut self, name: &str) -> Result<(), VirtError>;

    /// Removes what is left of a machine whose definition can't be read, which is listed as [`State::Unknown`] and
    /// can't be deleted. Its disks are not touched: nobody knows which they are.
    ///
    /// # Errors
    /// [`VirtError::Said`], with nothing removed, if its definition can be read, or a process of it runs.
    fn discard(&mut self, name: &str) -> Result<(), VirtError> {
        let _ = name;
        Err(self.unsupported("discard what can't be read"))
    }

    /// Boots a machine.
    ///
    /// # Errors
    /// [`VirtError::State`]; [`VirtError::File`] if a disk is missing or in use.
    fn start(&mut self, name: &str) -> Result<(), VirtError>;

    /// Asks the guest to shut down. It may take its time, or not obey.
    ///
    /// # Errors
    /// [`VirtError::State`].
    fn shut_down(&mut self, name: &str) -> Result<(), VirtError>;

    /// Takes a machine's power: it is shut off then. A copy that is no machine, as it has still to come or runs elsewhere already, is gone.
    ///
    /// # Errors
    /// [`VirtError::State`] if it is shut off; [`VirtError::Half`] if it runs elsewhere, and what is here of its memory is here alone.
    fn power_off(&mut self, name: &str) -> Result<(), VirtError>;

    /// Stops a machine's virtual CPUs.
    ///
    /// # Errors
    /// [`VirtError::State`].
    fn pause(&mut self, name: &str) -> Result<(), VirtError>;

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// [`VirtError::State`].
    fn resume(&mut self, name: &str) -> Result<(), VirtError>;

    /// Asks the guest to start anew.
    ///
    /// # Errors
    /// [`VirtError::State`].
    fn reboot(&mut self, name: &str) -> Result<(), VirtError> {
        let _ = name;
        Err(self.unsupported("reboot machines"))
    }

    /// Wakes a suspended machine.
    ///
    /// # Errors
    /// [`VirtError::State`].
    fn wake(&mut self, name: &str) -> Result<(), VirtError> {
        let _ = name;
        Err(self.unsupported("wake machines"))
    }

    /// Gives a machine so many virtual CPUs; one that runs up to [`DomainSpec::most_vcpus`].
    ///
    /// # Errors
    /// [`VirtError::Resize`] for more than that; [`VirtError::Spec`].
    fn set_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError>;

    /// Gives a machine so much memory; one that runs up to [`DomainSpec::most_memory`]. What a running guest gives back it gives
    /// when it likes: [`statistics`](Self::statistics) says what it has.
    ///
    /// # Errors
    /// [`VirtError::Resize`] for more than that; [`VirtError::Spec`].
    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError>;

    /// Pins a machine's virtual CPUs; those that `pins` does not name run anywhere.
    ///
    /// # Errors
    /// [`VirtError::Spec`] if there is no such virtual CPU.
    fn pin(&mut self, name: &str, pins: &Pins) -> Result<Effect, VirtError> {
        let _ = (name, pins);
        Err(self.unsupported("pin virtual CPUs"))
    }

    /// Gives a machine another disk; one without a name on its bus gets the first that is free.
    ///
    /// # Errors
    /// [`VirtError::PartExists`], [`VirtError::Spec`], [`VirtError::File`].
    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError>;

    /// Takes a disk from a machine, by its name on the bus. A guest that runs lets it go when it likes: [`Effect::NextBoot`] says that
    /// it has not yet.
    ///
    /// # Errors
    /// [`VirtError::NoPart`].
    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError>;

    /// Gives a machine another network interface; it must have an address, by which it is detached.
    ///
    /// # Errors
    /// [`VirtError::PartExists`], [`VirtError::Spec`].
    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError>;

    /// Takes a network interface from a machine, by its address, as [`detach_disk`](Self::detach_disk) takes disks.
    ///
    /// # Errors
    /// [`VirtError::NoPart`].
    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError>;

    /// Keeps a machine's disks as they are, and its memory if it runs, under a name.
    ///
    /// # Errors
    /// [`VirtError::PartExists`].
    fn take_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let _ = (name, snapshot);
        Err(self.unsupported("take snapshots"))
    }

    /// A machine's snapshots, the oldest first.
    ///
    /// # Errors
    /// As above.
    fn snapshots(&mut self, name: &str) -> Result<Vec<Snapshot>, VirtError> {
        let _ = name;
        Err(self.unsupported("take snapshots"))
    }

    /// Makes a machine what it was. It is then doing what it was doing.
    ///
    /// # Errors
    /// [`VirtError::NoPart`].
    fn restore_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let _ = (name, snapshot);
        Err(self.unsupported("take snapshots"))
    }

    /// Forgets a snapshot.
    ///
    /// # Errors
    /// [`VirtError::NoPart`].
    fn delete_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let _ = (name, snapshot);
        Err(self.unsupported("take snapshots"))
    }

    /// Makes a machine from another, which must be shut off.
    ///
    /// # Errors
    /// [`VirtError::MachineExists`], [`VirtError::File`].
    fn clone_machine(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        let _ = (template, request);
        Err(self.unsupported("clone machines"))
    }

    /// Where a machine's serial console is.
    ///
    /// # Errors
    /// [`VirtError::NoPart`] if it has none.
    fn console(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        let _ = name;
        Err(self.unsupported("have a console to connect to"))
    }

    /// What a machine has used since it was started; of one that does not run, nothing.
    ///
    /// # Errors
    /// As above.
    fn statistics(&mut self, name: &str) -> Result<Statistics, VirtError>;

    /// The next event, waiting at most `timeout`; `None` if none came.
    ///
    /// # Errors
    /// If the hypervisor can't be heard.
    fn next_event(&mut self, timeout: Duration) -> Result<Option<Event>, VirtError> {
        let _ = timeout;
        Err(self.unsupported("tell events"))
    }

    /// What a machine would have to send, were it moved; measured while it runs, for so long.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run.
    fn demand(&mut self, name: &str, over: Duration) -> Result<Demand, VirtError> {
        let _ = (name, over);
        Err(self.unsupported("measure how fast guests write"))
    }

    /// A machine's definition as it runs: without what takes effect at the next boot. At rest it is [`spec`](Self::spec).
    ///
    /// # Errors
    /// As there.
    fn running_spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        self.spec(name)
    }

    /// Makes ready to receive a machine that runs elsewhere as `running` says, and has `defined` for its definition: a copy that waits, listed as [`State::Paused`], to which nothing can be
    /// done but [`conclude`](Self::conclude) and [`power_off`](Self::power_off), which ends it as [`Conclusion::GiveUp`] does; all
    /// else is [`VirtError::Moving`]. It goes, with its definition, if the sender goes away before it is whole.
    ///
    /// # Errors
    /// [`VirtError::MachineExists`], [`VirtError::UuidTaken`], [`VirtError::Spec`], [`VirtError::File`]; nothing is left behind.
    fn receive(
        &mut self,
        running: &DomainSpec,
        defined: &DomainSpec,
        via: &Via,
    ) -> Result<Destination, VirtError> {
        let _ = (running, defined, via);
        Err(self.unsupported("move machines while they run"))
    }

    /// Begins to send a machine, and returns. It runs on; it can be paused, resumed and powered off, but neither changed nor
    /// started anew until that ends: [`VirtError::Moving`]. The definition that the target was given must be this machine's.
    ///
    /// # Errors
    /// [`VirtError::State`], [`VirtError::Moving`] if it is being moved already; [`VirtError::Said`] if the target can't be reached,
    /// if that is known at once.
    fn send(&mut self, name: &str, to: &Destination, settings: &Settings) -> Result<(), VirtError> {
        let _ = (name, to, settings);
        Err(self.unsupported("move machines while they run"))
    }

    /// Makes ready, on the target, to receive the rest of a machine whose post-copy has [stalled](crate::migration::Phase::Stalled);
    /// one whose connection is dead without anybody's having said so is broken off first. It is encrypted if it was before.
    ///
    /// # Errors
    /// [`VirtError::NotMoving`], [`VirtError::Said`] if it is at another phase; it stays as it is then.
    fn receive_rest(&mut self, name: &str, via: &Via) -> Result<Destination, VirtError> {
        let _ = (name, via);
        Err(self.unsupported("recover a post-copy that has lost its connection"))
    }

    /// Begins, on the source, to send the rest of it, and returns.
    ///
    /// # Errors
    /// As [`receive_rest`](Self::receive_rest).
    fn send_rest(&mut self, name: &str, to: &Destination) -> Result<(), VirtError> {
        let _ = (name, to);
        Err(self.unsupported("recover a post-copy that has lost its connection"))
    }

    /// How far a machine's migration is, from either side, after waiting at most `wait` for its phase to change; `None` if it is not
    /// being moved. On the target it is [`Phase::Completed`](crate::migration::Phase::Completed) when the copy is whole and can run.
    /// What has ended is told until it is concluded, or sent anew.
    ///
    /// # Errors
    /// [`VirtError::NoMachine`], if it is gone: its process was killed, or its host.
    fn migration(&mut self, name: &str, wait: Duration) -> Result<Option<Sample>, VirtError> {
        let _ = (name, wait);
        Err(self.unsupported("move machines while they run"))
    }

    /// Changes a migration that is on its way, on the source. What came too late is not an error: the next sample shows it.
    ///
    /// # Errors
    /// [`VirtError::NotMoving`]; [`VirtError::Said`] if it was not made ready for that.
    fn control_migration(&mut self, name: &str, control: Control) -> Result<(), VirtError> {
        let _ = (name, control);
        Err(self.unsupported("move machines while they run"))
    }

    /// Ends a migration on this side. That holds: a copy that was given up is not run again, not even after the host's end. Give up
    /// one side before the other runs.
    ///
    /// # Errors
    /// [`VirtError::NotMoving`], also when it is told twice; [`VirtError::Said`] for a copy that is not whole and can't run.
    fn conclude(&mut self, name: &str, conclusion: Conclusion) -> Result<(), VirtError> {
        let _ = (name, conclusion);
        Err(self.unsupported("move machines while they run"))
    }

    /// For backends: the error of what it can't do, in words that follow `does not`.
    #[doc(hidden)]
    fn unsupported(&self, operation: &'static str) -> VirtError {
        VirtError::Unsupported { hypervisor: self.name(), operation }
    }
}
