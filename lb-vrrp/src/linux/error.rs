//! What can go wrong in the driver, each with its cure.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::InstanceId;
use crate::config::ConfigError;
use crate::router::ReconfigureError;

/// Why the driver could not do what it was asked.
///
/// What fails later, while it runs (a send, an address), is no error of the driver but a fault of the instance, and comes as
/// a [`Notification`](crate::event::Notification).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The thread may not do what every instance needs.
    #[error(
        "missing {}: run as root, or grant it (setcap cap_net_raw,cap_net_admin+ep PROGRAM; systemd: \
         AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN)", .capabilities.join(" and ")
    )]
    Capability {
        /// `CAP_NET_RAW`, `CAP_NET_ADMIN`, or both.
        capabilities: Vec<&'static str>,
    },
    /// A system call of the driver itself failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The run directory can't be written.
    #[error(
        "{}: {source}; make it writable, or choose another run directory", path.display()
    )]
    RunDirectory {
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Realtime scheduling or locked memory was asked for and refused.
    #[error("{what}: {source}; grant {capability}, or leave the setting out")]
    Privilege {
        /// What was tried.
        what: &'static str,
        /// What it needs.
        capability: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// An instance's configuration is wrong.
    #[error("instance {name}: {source}")]
    Config {
        /// The instance.
        name: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A running instance can't take a configuration over.
    #[error("instance {name}: {source}")]
    Reconfigure {
        /// The instance.
        name: String,
        /// Why.
        source: ReconfigureError,
    },
    /// Two instances have one name.
    #[error("instance {name} exists already: choose another name")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Two instances are the same virtual router.
    #[error(
        "instance {name}: {other} is VRID {vrid} of that family on {interface} already: choose another VRID"
    )]
    DuplicateRouter {
        /// The instance that was to be added.
        name: String,
        /// The one that is there.
        other: String,
        /// Their VRID.
        vrid: u8,
        /// Their interface.
        interface: String,
    },
    /// Two instances on one interface have the same virtual address.
    #[error("instance {name}: {other} has the address {address} already: an address belongs to one instance")]
    DuplicateAddress {
        /// The instance that was to be added.
        name: String,
        /// The one that is there.
        other: String,
        /// The address.
        address: IpAddr,
    },
    /// No interface can have that name.
    #[error(
        "instance {name}: {interface:?} is no name for an interface: 1 to 15 bytes without blanks and slashes"
    )]
    InterfaceName {
        /// The instance.
        name: String,
        /// The name.
        interface: String,
    },
    /// The source address is one of the floating ones.
    #[error("instance {name}: the source {address} is a virtual address: choose one that does not move")]
    VirtualSource {
        /// The instance.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// The source address is none that adverts can come from.
    #[error(
        "instance {name}: adverts can't come from {address}: choose an address of the same family as the virtual ones; \
         to the group of IPv6, a link-local one (fe80::/10)"
    )]
    Source {
        /// The instance.
        name: String,
        /// The address.
        address: IpAddr,
    },
    /// The packet filter that refuses packets for an instance's addresses can't be had.
    #[error(
        "instance {name}: refusing packets for its addresses needs nf_tables, with tables that have owners (Linux 5.12): {source}; \
         or let it accept them"
    )]
    Filter {
        /// The instance.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no such instance, or no longer.
    #[error("there is no {0}")]
    UnknownInstance(InstanceId),
    /// An instance is in two groups.
    #[error("instance {name} is in group {group} already: an instance belongs to one group")]
    Grouped {
        /// The instance.
        name: String,
        /// The group that it is in.
        group: String,
    },
    /// The driver has been shut down.
    #[error("the driver has been shut down: make another one")]
    Closed,
    /// Something of the system was not put back at the end.
    #[error("left behind: {}", .leftovers.join("; "))]
    Leftovers {
        /// What, and why.
        leftovers: Vec<String>,
    },
}

impl DriverError {
    /// For `map_err`: a system call of the driver itself.
    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
