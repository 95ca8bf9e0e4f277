//! What can be set: one value of one file of the kernel's, or of a driver.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::CpuSet;
use crate::nic::ChannelCounts;

/// A value for one of the kernel's files that say where network work is done, or for a network driver.
///
/// ```
/// use lb_affinity::Setting;
///
/// let setting = Setting::Rps { interface: "eth0".into(), queue: 0, cpus: "2-3,7".parse()? };
/// assert_eq!(setting.target().to_string(), "/sys/class/net/eth0/queues/rx-0/rps_cpus");
/// assert_eq!(setting.content(16), "008c");
/// assert_eq!(setting.to_string(), "eth0 rx-0 rps_cpus = 2-3,7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum Setting {
    /// The CPUs that may take an interrupt (`/proc/irq/IRQ/smp_affinity_list`; Documentation/core-api/irq/irq-affinity.rst).
    IrqAffinity {
        /// The interrupt's number.
        irq: u32,
        /// Where it may go. The kernel chooses one of them.
        cpus: CpuSet,
    },
    /// The CPUs that a receive queue's packets are handed to (`rps_cpus`; Documentation/networking/scaling.rst, RPS).
    Rps {
        /// The network interface.
        interface: String,
        /// The receive queue's number.
        queue: u32,
        /// The CPUs; none switches RPS off.
        cpus: CpuSet,
    },
    /// How many flows of a receive queue are remembered (`rps_flow_cnt`; scaling.rst, RFS).
    RpsFlowCount {
        /// The network interface.
        interface: String,
        /// The receive queue's number.
        queue: u32,
        /// How many; the kernel rounds up to a power of two. 0 switches RFS off.
        count: u32,
    },
    /// How many flows the system remembers (`net.core.rps_sock_flow_entries`; scaling.rst, RFS).
    RpsSockFlowEntries {
        /// How many; the kernel rounds up to a power of two. 0 switches RFS off.
        count: u32,
    },
    /// The CPUs that send by a transmit queue (`xps_cpus`; scaling.rst, XPS).
    Xps {
        /// The network interface.
        interface: String,
        /// The transmit queue's number.
        queue: u32,
        /// The CPUs; none switches XPS off for the queue.
        cpus: CpuSet,
    },
    /// How many channels, and so queues, an interface has (ethtool(8), `-L`; scaling.rst, RSS).
    ///
    /// Most drivers restart the link for it. Queues come and go, and interrupts get other numbers and CPUs, so a plan is for the
    /// number that there was when it was made. The RSS table is spread evenly over the new queues, unless somebody has set
    /// it: then a driver leaves it, and refuses to take queues away that it names.
    Channels {
        /// The network interface.
        interface: String,
        /// How many of each kind; what is not said stays.
        counts: ChannelCounts,
    },
}

/// Where a [`Setting`] goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Target {
    /// A file of the kernel's.
    File(PathBuf),
    /// The driver of the interface of this name, for its channels.
    Channels(String),
}

impl Target {
    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Channels(_) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Channels(interface) => write!(f, "{interface} channels"),
        }
    }
}

impl Setting {
    /// What it sets.
    #[must_use]
    pub fn target(&self) -> Target {
        let path = match self {
            Self::IrqAffinity { irq, .. } => format!("/proc/irq/{irq}/smp_affinity_list"),
            Self::Rps { interface, queue, .. } => {
                format!("/sys/class/net/{interface}/queues/rx-{queue}/rps_cpus")
            }
            Self::RpsFlowCount { interface, queue, .. } => {
                format!("/sys/class/net/{interface}/queues/rx-{queue}/rps_flow_cnt")
            }
            Self::RpsSockFlowEntries { .. } => "/proc/sys/net/core/rps_sock_flow_entries".into(),
            Self::Xps { interface, queue, .. } => {
                format!("/sys/class/net/{interface}/queues/tx-{queue}/xps_cpus")
            }
            Self::Channels { interface, .. } => return Target::Channels(interface.clone()),
        };
        Target::File(path.into())
    }

    /// The network interface that it is for; none for an interrupt, and for what is the whole machine's.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Rps { interface, .. }
            | Self::RpsFlowCount { interface, .. }
            | Self::Xps { interface, .. }
            | Self::Channels { interface, .. } => Some(interface),
            Self::IrqAffinity { .. } | Self::RpsSockFlowEntries { .. } => None,
        }
    }

    /// What is written there, on a machine with `nr_cpu_ids` CPU numbers ([`Topology::nr_cpu_ids`](crate::Topology::nr_cpu_ids)).
    #[must_use]
    pub fn content(&self, nr_cpu_ids: u32) -> String {
        match self {
            Self::IrqAffinity { cpus, .. } => cpus.to_string(),
            Self::Rps { cpus, .. } | Self::Xps { cpus, .. } => cpus.mask(nr_cpu_ids).to_string(),
            Self::RpsFlowCount { count, .. } | Self::RpsSockFlowEntries { count } => count.to_string(),
            Self::Channels { counts, .. } => counts.to_string(),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |cpus: &CpuSet| if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() };
        match self {
            Self::IrqAffinity { irq, cpus } => write!(f, "interrupt {irq} smp_affinity = {}", shown(cpus)),
            Self::Rps { interface, queue, cpus } => {
                write!(f, "{interface} rx-{queue} rps_cpus = {}", shown(cpus))
            }
            Self::RpsFlowCount { interface, queue, count } => {
                write!(f, "{interface} rx-{queue} rps_flow_cnt = {count}")
            }
            Self::RpsSockFlowEntries { count } => write!(f, "net.core.rps_sock_flow_entries = {count}"),
            Self::Xps { interface, queue, cpus } => {
                write!(f, "{interface} tx-{queue} xps_cpus = {}", shown(cpus))
            }
            Self::Channels { interface, counts } => write!(f, "{interface} channels = {counts}"),
        }
    }
}
