//! Puts every worker and every interrupt where it belongs.
//!
//! ```
//! use lb_affinity::{CpuSet, Topology};
//!
//! // The machine of `lscpu -p`: two packages of two cores, each package a NUMA node.
//! let topology = Topology::from_lscpu("# CPU,Core,Socket,Node\n0,0,0,0\n1,1,0,0\n2,2,1,1\n3,3,1,1\n")?;
//! let node = topology.node_of(3).and_then(|node| topology.node(node)).expect("CPU 3 is in a node");
//! assert_eq!(node.cpus, "2-3".parse::<CpuSet>()?);
//! assert_eq!(node.cpus.mask(topology.nr_cpu_ids()).to_string(), "c");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | what is inside |
//! |---|---|
//! | [`cpu_set`] | [`CpuSet`] and [`NodeSet`], without a limit of 1024, in both of the kernel's formats |
//! | [`fs`] | [`FileSystem`](fs::FileSystem): what the rest of the crate reads and writes the system through |
//! | [`plan`] | [`Planner`](plan::Planner): where workers, interrupts, network work and virtual CPUs go, why, and what it is worth |
//! | [`Setting`] | a value for one of the kernel's files: an interrupt's CPUs, RPS, RFS, XPS |
//! | [`topology`] | [`Topology`]: packages, cores, caches, NUMA nodes, and what this process may use of them |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

pub mod cpu_set;
pub mod fs;
pub mod plan;
mod setting;
pub mod topology;

pub use cpu_set::{CpuSet, NodeSet};
pub use setting::Setting;
pub use topology::Topology;
