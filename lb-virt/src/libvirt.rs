//! libvirt's domain XML: written from a [`DomainSpec`](crate::DomainSpec), and read into one.
//!
//! ```
//! use lb_virt::domain::Disk;
//! use lb_virt::libvirt::{self, DomainType};
//! use lb_virt::{DomainSpec, Memory};
//!
//! let spec = DomainSpec::new("web1", 2, Memory::from_mib(512)).disk(Disk::file("/srv/web1.qcow2"));
//! let xml = libvirt::to_xml(&spec, DomainType::Kvm)?;
//! assert!(xml.contains("<source file=\"/srv/web1.qcow2\"/>"));
//! assert_eq!(libvirt::from_xml(&xml)?, spec);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The format: <https://libvirt.org/formatdomain.html>. What it has no word for ([`Disk::shared`](crate::domain::Disk::shared),
//! [`DomainSpec::io_heavy`](crate::DomainSpec::io_heavy)) stands in its `metadata`, in the namespace `urn:lb-virt`. What a
//! definition of another program's has beyond a `DomainSpec` (controllers, addresses, …) is passed over in reading, and stays when
//! [`amend`] changes it.
//!
//! The feature `libvirt` adds `Libvirt`, which drives machines by it. It needs libvirt's headers to be built (`libvirt-dev` on
//! Debian), and libvirt is under the LGPL, so it is not there by default.

mod amend;
#[cfg(feature = "libvirt")]
mod host;
mod read;
mod write;

pub use amend::amend;
#[cfg(feature = "libvirt")]
#[cfg_attr(docsrs, doc(cfg(feature = "libvirt")))]
pub use host::Libvirt;
pub use read::{ReadError, from_xml};
pub use write::to_xml;

use crate::domain::named;
use write::Xml;

/// The namespace of what only this crate knows.
const NAMESPACE: &str = "urn:lb-virt";

named! {
    /// What libvirt runs a machine with.
    DomainType {
        /// Linux's own hypervisor.
        Kvm = "kvm",
        /// QEMU's translation.
        Qemu = "qemu",
        /// Xen.
        Xen = "xen",
        /// VirtualBox.
        Vbox = "vbox",
        /// libvirt's own make-believe (`test:///default`).
        Test = "test",
    }
}
