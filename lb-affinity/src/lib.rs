//! Puts every worker and every interrupt where it belongs.
//!
//! ```
//! use lb_affinity::fs::Memory;
//! use lb_affinity::{CpuSet, Topology};
//!
//! // This machine is `Topology::live()?`, a recorded one `Topology::discover(&Rooted::new("recording"))?`. Here is one of two
//! // NUMA nodes, of which a container has three CPUs.
//! let mut machine = Memory::new();
//! machine.insert("/sys/devices/system/cpu/online", "0-7\n");
//! machine.insert("/sys/devices/system/node/online", "0-1\n");
//! machine.insert("/sys/devices/system/node/node0/cpumap", "0f\n");
//! machine.insert("/sys/devices/system/node/node1/cpumap", "f0\n");
//! machine.insert("/proc/self/status", "Cpus_allowed_list:\t3-5\n");
//!
//! let topology = Topology::discover(&machine)?;
//! let node = topology.node_of(4).and_then(|node| topology.node(node)).expect("CPU 4 is in a node");
//! let beside: CpuSet = &node.cpus & topology.allowed();
//! assert_eq!(beside.to_string(), "4-5");
//! assert_eq!(beside.mask(topology.nr_cpu_ids()).to_string(), "30");
//! # Ok::<(), lb_affinity::topology::TopologyError>(())
//! ```
//!
//! | module | what is inside |
//! |---|---|
//! | [`apply`] | [`Applier`](apply::Applier): a dry run, writes that are journalled, read back and rolled back, and `restore` after a crash |
//! | [`balance`] | [`Balancer`](balance::Balancer): moves interrupts from busy CPUs to idle ones |
//! | [`cpu_set`] | [`CpuSet`] and [`NodeSet`], without a limit of 1024, in both of the kernel's formats |
//! | [`fs`] | [`FileSystem`](fs::FileSystem): what the rest of the crate reads and writes the system through |
//! | [`interrupts`] | [`Interrupts`]: which CPU takes which interrupt, and how often |
//! | [`memory`] | NUMA policies of threads and ranges, memory on a node, where a page is |
//! | [`nic`] | [`Nic`]: an interface's queues, the interrupts that serve them, its node |
//! | [`plan`] | [`Planner`](plan::Planner): where workers, interrupts, network work and virtual CPUs go, why, and what it is worth |
//! | [`Setting`] | a value for one of the kernel's files, or for a driver: an interrupt's CPUs, RPS, RFS, XPS, channels |
//! | [`socket`] | listeners that get the packets of their CPUs, and what a socket knows of its packets' way |
//! | [`thread`] | pins threads and says where they run, also beyond 1024 CPUs |
//! | [`topology`] | [`Topology`]: packages, dies, cores, caches, NUMA nodes, and what this process may use of them; from a live or recorded system, or from `lscpu -p` |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

pub mod apply;
pub mod balance;
pub mod cpu_set;
pub mod fs;
pub mod interrupts;
pub mod memory;
pub mod nic;
pub mod plan;
mod setting;
pub mod socket;
mod sys;
pub mod thread;
pub mod topology;

pub use cpu_set::{CpuSet, NodeSet};
pub use interrupts::Interrupts;
pub use nic::Nic;
pub use setting::{Setting, Target};
pub use topology::Topology;
