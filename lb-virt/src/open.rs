//! Hosts by their address.

use crate::domain::Memory;
use crate::error::VirtError;
use crate::hypervisor::Hypervisor;
use crate::sim::Sim;

/// Where definitions of Xen's machines are kept, if nothing else is said.
#[cfg(feature = "xen")]
const XEN: &str = "/etc/xen/machines";

/// The host at a URI:
///
/// | URI | host | feature |
/// |---|---|---|
/// | `sim:` | [simulated](crate::sim), with 16 CPUs and 64 GiB; it ends with the program | |
/// | `qemu:DIRECTORY` | [QEMU](crate::qemu), its machines kept in that directory | `qemu` |
/// | `xen:`, `xen:DIRECTORY` | [Xen](crate::xen), definitions kept in `/etc/xen/machines`, or there | `xen` |
/// | `vbox:` | [VirtualBox](crate::virtualbox), of this user | `virtualbox` |
/// | `libvirt+URI` | what [libvirt](crate::libvirt) reaches by that: `libvirt+qemu:///system` | `libvirt` |
///
/// ```
/// let mut host = lb_virt::open("sim:")?;
/// assert!(host.list()?.is_empty());
/// assert!(lb_virt::open("kvm:").is_err());
/// # Ok::<(), lb_virt::VirtError>(())
/// ```
///
/// # Errors
/// [`VirtError::Uri`] if it is none of these, or of a feature that was not built; otherwise what the host says.
pub fn open(uri: &str) -> Result<Box<dyn Hypervisor>, VirtError> {
    let wrong = |cure| VirtError::Uri { uri: uri.chars().take(200).collect(), cure };
    let Some((scheme, rest)) = uri.split_once(':') else { return Err(wrong(FORMS)) };
    match (scheme, rest) {
        ("qemu" | "xen" | "vbox", rest) if rest.starts_with("//") => {
            Err(wrong("that is libvirt's: write libvirt+ before it; a directory begins with one slash"))
        }
        ("sim", "") => Ok(Box::new(Sim::new("sim", 16, Memory::from_mib(65_536)))),
        ("sim", _) => Err(wrong(
            "write sim: alone; a program that keeps a simulated host stores it itself (Sim::store)",
        )),
        #[cfg(feature = "qemu")]
        ("qemu", "") => {
            Err(wrong("name the directory that its machines are kept in: qemu:/var/lib/machines"))
        }
        #[cfg(feature = "qemu")]
        ("qemu", directory) => Ok(Box::new(crate::qemu::Qemu::open(directory)?)),
        #[cfg(feature = "xen")]
        ("xen", directory) => {
            Ok(Box::new(crate::xen::Xen::new(if directory.is_empty() { XEN } else { directory })))
        }
        #[cfg(feature = "virtualbox")]
        ("vbox", "") => Ok(Box::new(crate::virtualbox::VirtualBox::new())),
        #[cfg(feature = "virtualbox")]
        ("vbox", _) => Err(wrong("write vbox: alone: VirtualBox knows where its machines are")),
        #[cfg(feature = "libvirt")]
        (scheme, _) if scheme.starts_with("libvirt+") => {
            let uri = uri.strip_prefix("libvirt+").unwrap_or_default();
            Ok(Box::new(crate::libvirt::Libvirt::open(uri)?))
        }
        (scheme, _) if ["qemu", "xen", "vbox"].contains(&scheme) => {
            Err(wrong("it was built without that: add the feature of that name"))
        }
        (scheme, _) if scheme.starts_with("libvirt+") => {
            Err(wrong("it was built without libvirt: add the feature `libvirt`, which needs libvirt-dev"))
        }
        _ => Err(wrong(FORMS)),
    }
}

const FORMS: &str = "write sim:, qemu:DIRECTORY, xen:, vbox: or libvirt+URI";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_host_is_said() {
        for (uri, said) in [
            ("", "write sim:, qemu:DIRECTORY"),
            ("qemu", "write sim:, qemu:DIRECTORY"),
            ("kvm:/x", "write sim:, qemu:DIRECTORY"),
            ("sim:/x", "write sim: alone"),
            ("qemu:///system", "that is libvirt's: write libvirt+"),
            ("xen:///", "that is libvirt's: write libvirt+"),
            #[cfg(feature = "qemu")]
            ("qemu:", "name the directory"),
            #[cfg(feature = "virtualbox")]
            ("vbox:x", "write vbox: alone"),
            #[cfg(not(feature = "libvirt"))]
            ("libvirt+qemu:///system", "without libvirt"),
        ] {
            match open(uri) {
                Err(VirtError::Uri { cure, .. }) => assert!(cure.contains(said), "{uri}: {cure}"),
                other => panic!("{uri}: {other:?}"),
            }
        }
        for (uri, name) in [
            ("sim:", "sim"),
            #[cfg(feature = "xen")]
            ("xen:/srv/machines", "xen"),
            #[cfg(feature = "virtualbox")]
            ("vbox:", "virtualbox"),
        ] {
            assert_eq!(open(uri).map(|host| host.name()).ok(), Some(name));
        }
    }
}
