//! Puts every worker and every interrupt where it belongs: see how a machine is built, plan, apply the plan, take it back.
//!
//! Where threads and network work run decides how much a server does. A load balancer on 16 cores in 4 NUMA nodes answered at best
//! 13 467 requests a second with its workers beside the network card's interrupt, and 23 093 with the plan that this crate makes by
//! default ([`plan::cost`] has the whole table).
//!
//! ```no_run
//! use lb_affinity::apply::{Applier, DIRECTORY, IfChanged};
//! use lb_affinity::fs::Real;
//! use lb_affinity::plan::{Planner, Receive};
//! use lb_affinity::{Interrupts, Nic, Topology, thread};
//!
//! let topology = Topology::live()?;
//! let nic = Nic::read(&Real, "eth0", &Interrupts::read(&Real)?)?;
//! let plan = Planner::new(&topology).receive(Receive::from(&nic)).workers(4).plan()?;
//! for reason in &plan.reasons {
//!     println!("{reason}"); // node 1: workers on 4-5, network on 6-7: a node does best with …
//! }
//!
//! // Interrupts, RPS, RFS and XPS are the kernel's to change: by root, all or nothing, and with the way back on disk.
//! let mut applier = Applier::open(Real, DIRECTORY, topology.nr_cpu_ids())?;
//! println!("{}", applier.apply(&plan.settings())?);
//! // Workers are one's own, and pin themselves.
//! for worker in plan.workers {
//!     std::thread::spawn(move || thread::pin(&worker.cpus).map(|_| println!("serving on CPU {}", worker.cpus)));
//! }
//! // … and in the end, or after a crash, in another process:
//! println!("{}", applier.restore(IfChanged::Leave)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Reading and planning need no machine of the kind: [`Topology::discover`] reads a recorded `/sys` and `/proc`
//! ([`fs::Rooted`], [`fs::Memory`]), [`Topology::from_lscpu`] what `lscpu -p` has printed. The program `affinity`, in the
//! repository's `examples`, does all of it from a command line.
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
//!
//! | to do this | one needs |
//! |---|---|
//! | look, plan, [`apply::dry_run`] | nothing |
//! | pin one's threads, place one's memory, steer one's listeners | nothing; the cpuset is the limit, and some containers forbid memory policies |
//! | pin another user's threads | `CAP_SYS_NICE` |
//! | interrupts | to be root: the files are root's |
//! | RPS, RFS, XPS | to be root, with `CAP_NET_ADMIN` in the user namespace of the network namespace |
//! | the number of queues and the RSS table ([`nic::ethtool`]), longer busy polling | `CAP_NET_ADMIN` |
//!
//! What is missing is said by the error or the outcome, and nothing is half done. The crate is for Linux alone.
//!
//! | feature | what it adds |
//! |---|---|
//! | `serde` | topologies, plans, settings, strategies and what is measured can be stored and sent; sets of CPUs as lists, `"0-3,8"` |
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
