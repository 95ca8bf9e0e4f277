//! Network interfaces: their queues, and the interrupts that serve them.
//!
//! ```no_run
//! use lb_affinity::{Interrupts, Nic, fs::Real};
//!
//! let nic = Nic::read(&Real, "eth0", &Interrupts::read(&Real)?)?;
//! for interrupt in &nic.interrupts {
//!     println!("interrupt {} serves {:?} ({:?})", interrupt.irq, interrupt.serves, interrupt.basis);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::cpu_set::ParseSetError;
use crate::fs::FileSystem;
use crate::interrupts::{Affinity, Interrupts, InterruptsError};
use crate::{CpuSet, Setting};

mod channels;
pub mod ethtool;
mod queues;

pub use channels::{ChannelCounts, Channels, Count, ParseCountsError};

/// Where the kernel lists network interfaces.
pub const CLASS: &str = "/sys/class/net";

/// Why an interface could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NicError {
    /// There is no such interface in this network namespace.
    #[error("there is no network interface {name:?}; /sys/class/net lists those of this network namespace")]
    NotFound {
        /// Its name.
        name: String,
    },
    /// A name that no interface can have.
    #[error("{name:?} is no name of a network interface: 1 to 15 bytes without '/', ':' and white space")]
    Name {
        /// The name.
        name: String,
    },
    /// A file or directory can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A set of CPUs can't be read.
    #[error("{}: {source}", path.display())]
    Cpus {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParseSetError,
    },
    /// What the kernel says of an interrupt of it can't be read.
    #[error(transparent)]
    Interrupt(#[from] InterruptsError),
}

/// A network interface (Documentation/ABI/testing/sysfs-class-net, sysfs-class-net-queues).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Nic {
    /// Its name: `eth0`.
    pub name: String,
    /// Its device's directory below `/sys/devices`. `None` if it has none: a bridge, a bond, a veth, a VLAN.
    pub device: Option<PathBuf>,
    /// Its device's driver: `virtio_net`, `mlx5_core`.
    pub driver: Option<String>,
    /// The NUMA node of its device. `None` if it is not known.
    pub node: Option<u32>,
    /// In Mbit/s. `None` if it has none now.
    pub speed: Option<u32>,
    /// Whether the link is there. `None` while the interface is down.
    pub carrier: Option<bool>,
    /// The interfaces that it sends by: a bond's members, a VLAN's parent.
    pub lower: Vec<String>,
    /// Its receive queues, by number.
    pub rx: Vec<RxQueue>,
    /// Its transmit queues, by number.
    pub tx: Vec<TxQueue>,
    /// Its device's interrupts, by number.
    pub interrupts: Vec<NicInterrupt>,
}

/// A receive queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct RxQueue {
    /// From 0.
    pub index: u32,
    /// `rps_cpus`: the CPUs that its packets are handed to. `None` if the kernel has no RPS.
    pub rps_cpus: Option<CpuSet>,
    /// `rps_flow_cnt`: how many of its flows RFS remembers. `None` if the kernel has no RPS.
    pub rps_flow_count: Option<u32>,
}

/// A transmit queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct TxQueue {
    /// From 0.
    pub index: u32,
    /// `xps_cpus`: the CPUs that send by it. `None` if there is no choice: the kernel has no XPS, or the interface one queue only.
    pub xps_cpus: Option<CpuSet>,
}

/// An interrupt of an interface's device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct NicInterrupt {
    /// Its number.
    pub irq: u32,
    /// The name in `/proc/interrupts`. `None` if it is not there: nothing handles it now.
    pub name: Option<String>,
    /// The queues that it serves; none for what serves the device itself, its configuration for instance.
    pub serves: Vec<Queue>,
    /// How that is known.
    pub basis: Basis,
    /// Where it goes. `None` if `/proc/irq` does not have it.
    pub affinity: Option<Affinity>,
}

/// A queue of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Queue {
    /// The receive queue of this number.
    Rx(u32),
    /// The transmit queue of this number.
    Tx(u32),
}

/// How an interrupt's queues are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Basis {
    /// The name has the queue's number, or says that it serves none, or all.
    Name,
    /// A guess, since no name tells: in the order of their numbers; where there are more interrupts than queues, the first are
    /// the device's own. Those of a virtio device serve rx 0, tx 0, rx 1, tx 1 and so on.
    Order,
}

impl Nic {
    /// The names of the interfaces in this network namespace, sorted.
    ///
    /// # Errors
    /// If `/sys/class/net` can't be read.
    pub fn names(fs: &(impl FileSystem + ?Sized)) -> Result<Vec<String>, NicError> {
        let names =
            fs.list(CLASS.as_ref()).map_err(|source| NicError::Read { path: CLASS.into(), source })?;
        // `bonding_masters` is a file among them.
        let interface = |name: &String| fs.list(&Path::new(CLASS).join(name)).is_ok();
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).filter(interface).collect())
    }

    /// All interfaces in this network namespace, by name. One that goes away meanwhile is left out.
    ///
    /// # Errors
    /// As [`names`](Self::names) and [`read`](Self::read).
    pub fn all(fs: &(impl FileSystem + ?Sized), interrupts: &Interrupts) -> Result<Vec<Self>, NicError> {
        let mut nics = Vec::new();
        for name in Self::names(fs)? {
            match Self::read(fs, &name, interrupts) {
                Err(NicError::NotFound { .. }) => {}
                nic => nics.push(nic?),
            }
        }
        Ok(nics)
    }

    /// Reads an interface. `interrupts` give the names that tell which queue an interrupt serves.
    ///
    /// # Errors
    /// If there is no such interface, or a file of its queues or interrupts is damaged.
    pub fn read(
        fs: &(impl FileSystem + ?Sized),
        name: &str,
        interrupts: &Interrupts,
    ) -> Result<Self, NicError> {
        if !is_interface(name) {
            return Err(NicError::Name { name: name.to_owned() });
        }
        let directory = Path::new(CLASS).join(name);
        if fs.list(&directory).is_err() {
            return Err(NicError::NotFound { name: name.to_owned() });
        }
        let device = fs.canonicalize(&directory.join("device")).ok();
        let mut nic = Self {
            name: name.to_owned(),
            driver: device.as_ref().and_then(|device| {
                let driver = fs.canonicalize(&device.join("driver")).ok()?;
                Some(driver.file_name()?.to_str()?.to_owned())
            }),
            node: device.as_ref().and_then(|device| node_of(fs, device)),
            // −1 and 4294967295 are an unknown speed; a link that is down has none.
            speed: number(fs, &directory.join("speed")).filter(|&speed| speed > 0 && speed < u32::MAX),
            carrier: number(fs, &directory.join("carrier")).map(|carrier: u32| carrier == 1),
            lower: lower(fs, &directory),
            device,
            ..Self::default()
        };
        nic.read_queues(fs, &directory.join("queues"))?;
        let irqs = nic.irqs(fs, interrupts);
        nic.interrupts = queues::serve(&nic, &irqs, interrupts);
        for interrupt in &mut nic.interrupts {
            interrupt.affinity = match Affinity::read(fs, interrupt.irq) {
                Err(InterruptsError::Read { .. }) => None,
                affinity => Some(affinity?),
            };
        }
        Ok(nic)
    }

    /// The interrupts that serve a queue.
    pub fn serving(&self, queue: Queue) -> impl Iterator<Item = &NicInterrupt> {
        self.interrupts.iter().filter(move |interrupt| interrupt.serves.contains(&queue))
    }

    /// What its queues and its device's interrupts are set to: what another number of channels may change or take away. Not the number of
    /// channels itself, which only its driver knows.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let interface = || self.name.clone();
        let mut settings = Vec::new();
        for interrupt in &self.interrupts {
            if let Some(affinity) = &interrupt.affinity {
                settings.push(Setting::IrqAffinity { irq: interrupt.irq, cpus: affinity.allowed.clone() });
            }
        }
        for RxQueue { index, rps_cpus, rps_flow_count } in &self.rx {
            let queue = *index;
            if let Some(cpus) = rps_cpus.clone() {
                settings.push(Setting::Rps { interface: interface(), queue, cpus });
            }
            if let Some(count) = *rps_flow_count {
                settings.push(Setting::RpsFlowCount { interface: interface(), queue, count });
            }
        }
        for TxQueue { index, xps_cpus } in &self.tx {
            if let Some(cpus) = xps_cpus.clone() {
                settings.push(Setting::Xps { interface: interface(), queue: *index, cpus });
            }
        }
        settings
    }

    /// The interfaces with a device that this one's packets go through in the end: a bond's members, a VLAN's parent's; itself if it has a
    /// device. By name.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn physical(
        &self,
        fs: &(impl FileSystem + ?Sized),
        interrupts: &Interrupts,
    ) -> Result<Vec<Self>, NicError> {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![self.clone()];
        let mut physical = Vec::new();
        while let Some(nic) = waiting.pop() {
            if !seen.insert(nic.name.clone()) {
                continue;
            }
            for lower in nic.lower.iter().filter(|lower| !seen.contains(*lower)) {
                match Self::read(fs, lower, interrupts) {
                    // It is in another network namespace, or has just gone.
                    Err(NicError::NotFound { .. }) => {}
                    lower => waiting.push(lower?),
                }
            }
            if nic.device.is_some() {
                physical.push(nic);
            }
        }
        physical.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(physical)
    }

    fn read_queues(&mut self, fs: &(impl FileSystem + ?Sized), queues: &Path) -> Result<(), NicError> {
        for name in fs.list(queues).unwrap_or_default() {
            let Some(name) = name.to_str() else { continue };
            let directory = queues.join(name);
            let index = |kind| name.strip_prefix(kind)?.parse::<u32>().ok();
            if let Some(index) = index("rx-") {
                let rps_cpus = cpus(fs, &directory.join("rps_cpus"))?;
                let rps_flow_count = number(fs, &directory.join("rps_flow_cnt"));
                self.rx.push(RxQueue { index, rps_cpus, rps_flow_count });
            } else if let Some(index) = index("tx-") {
                let xps_cpus = cpus(fs, &directory.join("xps_cpus"))?;
                self.tx.push(TxQueue { index, xps_cpus });
            }
        }
        self.rx.sort_by_key(|queue| queue.index);
        self.tx.sort_by_key(|queue| queue.index);
        Ok(())
    }

    /// The interrupts of the device: `msi_irqs`, else `irq`, of it or of what it hangs below (a virtio device below its PCI function). A platform
    /// device has neither, and is found by name.
    fn irqs(&self, fs: &(impl FileSystem + ?Sized), interrupts: &Interrupts) -> BTreeSet<u32> {
        let Some(device) = &self.device else { return BTreeSet::new() };
        for directory in device.ancestors().take_while(|path| path.starts_with("/sys/devices/")) {
            let names = fs.list(&directory.join("msi_irqs")).unwrap_or_default();
            let msi: BTreeSet<u32> = names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
            if !msi.is_empty() {
                return msi;
            }
            // Never beyond a PCI function: the bridge above it has interrupts of its own.
            if let Some(irq) = number(fs, &directory.join("irq")) {
                return BTreeSet::from_iter(Some(irq).filter(|&irq| irq > 0));
            }
        }
        interrupts
            .iter()
            .filter_map(|(line, _)| queues::is_named_after(line, self).then_some(line.irq?))
            .collect()
    }
}

/// What the kernel takes for an interface's name (`dev_valid_name`; ip-link(8)).
pub(crate) fn is_interface(name: &str) -> bool {
    let plain =
        |byte: u8| byte != b'/' && byte != b':' && byte != 0 && !byte.is_ascii_whitespace() && byte != 0x0b;
    (1..=15).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(plain)
}

/// A device's node, or that of what it hangs below.
fn node_of(fs: &(impl FileSystem + ?Sized), device: &Path) -> Option<u32> {
    let within = device.ancestors().take_while(|path| path.starts_with("/sys/devices/"));
    let node: i64 = within.filter_map(|path| number(fs, &path.join("numa_node"))).next()?;
    u32::try_from(node).ok()
}

fn lower(fs: &(impl FileSystem + ?Sized), directory: &Path) -> Vec<String> {
    let names = fs.list(directory).unwrap_or_default();
    names.iter().filter_map(|name| Some(name.to_str()?.strip_prefix("lower_")?.to_owned())).collect()
}

/// `None` if the file is missing, can't be read now (`speed` of an interface that is down), or holds no such number.
fn number<N: std::str::FromStr>(fs: &(impl FileSystem + ?Sized), path: &Path) -> Option<N> {
    String::from_utf8_lossy(&fs.read(path).ok()?).trim().parse().ok()
}

fn cpus(fs: &(impl FileSystem + ?Sized), path: &Path) -> Result<Option<CpuSet>, NicError> {
    let Ok(content) = fs.read(path) else { return Ok(None) };
    let set = CpuSet::parse_mask(&String::from_utf8_lossy(&content));
    set.map(Some).map_err(|source| NicError::Cpus { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
