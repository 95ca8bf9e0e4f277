//! Drives virtual machines: one way for every hypervisor.
//!
//! ```
//! use lb_virt::domain::{Disk, Nic};
//! use lb_virt::{DomainSpec, Hypervisor, Memory, Sim, State};
//!
//! fn put_to_work(host: &mut dyn Hypervisor) -> Result<(), lb_virt::VirtError> {
//!     let spec = DomainSpec::new("web1", 2, Memory::from_mib(2048))
//!         .disk(Disk::file("/srv/images/web1.qcow2").shared())
//!         .nic(Nic::bridge("br0"));
//!     host.define(&spec)?;
//!     host.start("web1")
//! }
//!
//! let mut host = Sim::new("node1", 8, Memory::from_mib(32_768));
//! put_to_work(&mut host)?;
//! assert_eq!(host.state("web1")?, State::Running);
//! # Ok::<(), lb_virt::VirtError>(())
//! ```
//!
//! | module | what is inside |
//! |---|---|
//! | [`checks`] | what speaks against starting a machine on a host, or moving it there |
//! | [`command`] | runs the programs of hypervisors that are driven by programs |
//! | [`domain`] | [`DomainSpec`]: what a machine is, for every hypervisor |
//! | [`hypervisor`] | [`Hypervisor`]: the trait, what it can do, statistics and events |
//! | [`libvirt`] | libvirt's domain XML, written, read and amended; with the feature `libvirt`, the hypervisors that it reaches |
//! | [`migration`] | moving a machine to another host |
//! | [`qemu`] | [`Qemu`]: machines that QEMU runs on this host, without anything in between |
//! | [`sim`] | [`Sim`]: a host that is only thought of, with a clock turned by hand and faults from a seed |
//! | [`state`] | [`State`]: what a machine is doing, and the one table of what can be done to it then |
//! | [`virtualbox`] | [`VirtualBox`](virtualbox::VirtualBox): a host with VirtualBox, by its program `VBoxManage` |
//! | [`xen`] | [`Xen`](xen::Xen): a host with Xen, by its program `xl`; its configurations, written and read |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod checks;
#[cfg(any(feature = "libvirt", feature = "qemu", feature = "virtualbox", feature = "xen"))]
pub mod command;
pub mod domain;
mod error;
pub mod hypervisor;
pub mod libvirt;
pub mod migration;
mod open;
#[cfg(feature = "qemu")]
pub mod qemu;
pub mod sim;
pub mod state;
#[cfg(any(feature = "qemu", feature = "virtualbox"))]
mod usage;
#[cfg(feature = "virtualbox")]
pub mod virtualbox;
#[cfg(any(feature = "libvirt", feature = "qemu"))]
mod wait;
#[cfg(feature = "xen")]
pub mod xen;

pub use domain::{DomainSpec, Memory};
pub use error::VirtError;
pub use hypervisor::Hypervisor;
pub use open::open;
#[cfg(feature = "qemu")]
pub use qemu::Qemu;
pub use sim::Sim;
pub use state::{Operation, State};
