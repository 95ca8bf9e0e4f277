//! Writes libvirt's domain XML.

use std::io;

use quick_xml::Writer;
use quick_xml::events::BytesText;

use super::{DomainType, NAMESPACE};
use crate::domain::{Console, CpuModel, CpuTopology, Disk, DomainSpec, Kind, Network, Nic, Pins, Source};
use crate::error::VirtError;

pub(super) type Xml = Writer<Vec<u8>>;

/// A piece of a domain XML, as `write` writes it.
pub(super) fn piece(write: impl FnOnce(&mut Xml) -> io::Result<()>) -> io::Result<String> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    write(&mut xml)?;
    String::from_utf8(xml.into_inner()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The domain XML of a definition.
///
/// # Errors
/// [`VirtError::Spec`] if the definition is wrong; [`VirtError::Inexpressible`] for what a hypervisor behind libvirt does not
/// have (a paravirtual machine is Xen's).
pub fn to_xml(spec: &DomainSpec, domain_type: DomainType) -> Result<String, VirtError> {
    spec.validate().map_err(VirtError::spec(&spec.name))?;
    if spec.kind != Kind::Hvm && domain_type != DomainType::Xen {
        return Err(VirtError::Inexpressible {
            name: spec.name.clone(),
            hypervisor: "libvirt",
            what: format!("{:?} machines of type {domain_type}", spec.kind),
            cure: "run it with Xen, or as hvm",
        });
    }
    let domain = |xml: &mut Xml| {
        within(xml, "domain", &[("type", domain_type.name())], |xml| {
            head(xml, spec)?;
            boot(xml, spec)?;
            processor(xml, spec)?;
            text(xml, "on_poweroff", spec.on_poweroff.name())?;
            text(xml, "on_reboot", spec.on_reboot.name())?;
            text(xml, "on_crash", spec.on_crash.name())?;
            within(xml, "devices", &[], |xml| devices_of(xml, spec))
        })
    };
    piece(domain).map_err(|error| unwritable(spec, &error))
}

/// Writing into memory does not fail; the signature of the writer has an error all the same.
pub(super) fn unwritable(spec: &DomainSpec, error: &io::Error) -> VirtError {
    VirtError::Said {
        hypervisor: "libvirt",
        operation: format!("write {}", spec.name),
        words: error.to_string(),
    }
}

pub(super) fn text(xml: &mut Xml, name: &str, text: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(text)).map(drop)
}

fn empty(xml: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element(name).with_attributes(attributes.iter().copied()).write_empty().map(drop)
}

pub(super) fn within(
    xml: &mut Xml,
    name: &str,
    attributes: &[(&str, &str)],
    inner: impl FnOnce(&mut Xml) -> io::Result<()>,
) -> io::Result<()> {
    xml.create_element(name).with_attributes(attributes.iter().copied()).write_inner_content(inner).map(drop)
}

/// Name, size and pins.
fn head(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    text(xml, "name", &spec.name)?;
    if let Some(uuid) = spec.uuid {
        text(xml, "uuid", &uuid.to_string())?;
    }
    if has_own(spec) {
        within(xml, "metadata", &[], |xml| own_of(xml, spec))?;
    }
    memory_of(xml, spec)?;
    vcpus_of(xml, spec)?;
    if spec.pins.is_empty() { Ok(()) } else { within(xml, "cputune", &[], |xml| pins_of(xml, &spec.pins)) }
}

pub(super) fn memory_of(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    for (name, memory) in [("memory", spec.most_memory()), ("currentMemory", spec.memory)] {
        let element = xml.create_element(name).with_attribute(("unit", "KiB"));
        element.write_text_content(BytesText::new(&memory.kib().to_string()))?;
    }
    Ok(())
}

pub(super) fn vcpus_of(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    let current = spec.vcpus.to_string();
    let mut vcpus = xml.create_element("vcpu").with_attribute(("placement", "static"));
    if spec.most_vcpus() != spec.vcpus {
        vcpus = vcpus.with_attribute(("current", current.as_str()));
    }
    vcpus.write_text_content(BytesText::new(&spec.most_vcpus().to_string())).map(drop)
}

pub(super) fn pins_of(xml: &mut Xml, pins: &Pins) -> io::Result<()> {
    for (vcpu, cpus) in &pins.vcpus {
        empty(xml, "vcpupin", &[("vcpu", &vcpu.to_string()), ("cpuset", &cpus.to_string())])?;
    }
    if pins.emulator.is_empty() {
        return Ok(());
    }
    empty(xml, "emulatorpin", &[("cpuset", &pins.emulator.to_string())])
}

/// Whether it says something for which libvirt has no word.
pub(super) fn has_own(spec: &DomainSpec) -> bool {
    spec.io_heavy || spec.disks.iter().any(|disk| disk.shared)
}

pub(super) fn own_of(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    within(xml, "lb:machine", &[("xmlns:lb", NAMESPACE)], |xml| own_within(xml, spec, "lb:"))
}

pub(super) fn own_within(xml: &mut Xml, spec: &DomainSpec, prefix: &str) -> io::Result<()> {
    if spec.io_heavy {
        empty(xml, &format!("{prefix}io-heavy"), &[])?;
    }
    let shared = spec.disks.iter().filter(|disk| disk.shared);
    let name = format!("{prefix}shared");
    shared.into_iter().try_for_each(|disk| empty(xml, &name, &[("disk", &disk.target)]))
}

fn boot(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    within(xml, "os", &[], |xml| {
        let mut kind = xml.create_element("type").with_attribute(("arch", spec.arch.name()));
        if let Some(machine) = &spec.machine {
            kind = kind.with_attribute(("machine", machine.as_str()));
        }
        kind.write_text_content(BytesText::new(match spec.kind {
            Kind::Hvm => "hvm",
            Kind::Paravirtual => "xen",
            Kind::Pvh => "xenpvh",
        }))?;
        if let Some(kernel) = &spec.kernel {
            text(xml, "kernel", &kernel.image.to_string_lossy())?;
            if let Some(initrd) = &kernel.initrd {
                text(xml, "initrd", &initrd.to_string_lossy())?;
            }
            if !kernel.command_line.is_empty() {
                text(xml, "cmdline", &kernel.command_line)?;
            }
        }
        spec.boot.iter().try_for_each(|device| empty(xml, "boot", &[("dev", device.name())]))
    })
}

fn processor(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    let features = [("acpi", spec.features.acpi), ("apic", spec.features.apic), ("pae", spec.features.pae)];
    if features.iter().any(|(_, has)| *has) {
        within(xml, "features", &[], |xml| {
            features.iter().filter(|(_, has)| *has).try_for_each(|(name, _)| empty(xml, name, &[]))
        })?;
    }
    let mode: &[(&str, &str)] = match spec.cpu_model {
        CpuModel::Default => &[],
        CpuModel::Host => &[("mode", "host-passthrough")],
        CpuModel::Named(_) => &[("mode", "custom"), ("match", "exact")],
    };
    if !mode.is_empty() || spec.cpu_topology.is_some() {
        within(xml, "cpu", mode, |xml| {
            if let CpuModel::Named(model) = &spec.cpu_model {
                text(xml, "model", model)?;
            }
            spec.cpu_topology.map_or(Ok(()), |shape| topology_of(xml, shape))
        })?;
    }
    empty(xml, "clock", &[("offset", spec.clock.name())])
}

pub(super) fn topology_of(xml: &mut Xml, shape: CpuTopology) -> io::Result<()> {
    let [sockets, cores, threads] =
        [shape.sockets, shape.cores, shape.threads].map(|count| count.to_string());
    empty(xml, "topology", &[("sockets", &sockets), ("cores", &cores), ("threads", &threads)])
}

fn devices_of(xml: &mut Xml, spec: &DomainSpec) -> io::Result<()> {
    spec.disks.iter().try_for_each(|disk| disk_of(xml, disk))?;
    spec.nics.iter().try_for_each(|nic| nic_of(xml, nic))?;
    let (kind, source) = match &spec.console {
        Console::Pty => (Some("pty"), None),
        Console::File(path) => (Some("file"), Some(path)),
        Console::Socket(path) => (Some("unix"), Some(path)),
        Console::None => (None, None),
    };
    if let Some(kind) = kind {
        for (element, target) in
            [("serial", &[("port", "0")][..]), ("console", &[("type", "serial"), ("port", "0")])]
        {
            within(xml, element, &[("type", kind)], |xml| {
                if let Some(path) = source {
                    let path = path.to_string_lossy();
                    let listens: &[(&str, &str)] = if kind == "unix" { &[("mode", "bind")] } else { &[] };
                    empty(xml, "source", &[listens, &[("path", &*path)]].concat())?;
                }
                empty(xml, "target", target)
            })?;
        }
    }
    if spec.tablet {
        empty(xml, "input", &[("type", "tablet"), ("bus", "usb")])?;
    }
    if let Some(screen) = &spec.screen {
        let port = screen.port.map_or("-1".into(), |port| port.to_string());
        let listen = screen.listen.map(|address| address.to_string());
        let auto = if screen.port.is_none() { "yes" } else { "no" };
        let mut attributes = vec![("type", "vnc"), ("port", port.as_str()), ("autoport", auto)];
        attributes.extend(listen.as_deref().map(|address| ("listen", address)));
        attributes.extend(screen.keymap.as_deref().map(|keymap| ("keymap", keymap)));
        empty(xml, "graphics", &attributes)?;
    }
    let balloon = match (spec.balloon, spec.kind) {
        (false, _) => "none",
        (true, Kind::Hvm) => "virtio",
        (true, _) => "xen",
    };
    empty(xml, "memballoon", &[("model", balloon)])
}

pub(super) fn disk_of(xml: &mut Xml, disk: &Disk) -> io::Result<()> {
    let (kind, attribute) = match &disk.source {
        Some(Source::Block(_)) => ("block", "dev"),
        Some(Source::File(_)) | None => ("file", "file"),
    };
    within(xml, "disk", &[("type", kind), ("device", disk.device.name())], |xml| {
        let mut driver = vec![("name", "qemu"), ("type", disk.format.name())];
        driver.extend(disk.cache.map(|cache| ("cache", cache.name())));
        empty(xml, "driver", &driver)?;
        if let Some(source) = &disk.source {
            empty(xml, "source", &[(attribute, &*source.path().to_string_lossy())])?;
        }
        empty(xml, "target", &[("dev", &disk.target), ("bus", disk.bus.name())])?;
        if disk.read_only { empty(xml, "readonly", &[]) } else { Ok(()) }
    })
}

pub(super) fn nic_of(xml: &mut Xml, nic: &Nic) -> io::Result<()> {
    let (kind, source) = match &nic.network {
        Network::Bridge(name) => ("bridge", Some(("bridge", name.as_str()))),
        Network::Named(name) => ("network", Some(("network", name.as_str()))),
        Network::Nat => ("user", None),
    };
    within(xml, "interface", &[("type", kind)], |xml| {
        if let Some(mac) = nic.mac {
            empty(xml, "mac", &[("address", &mac.to_string())])?;
        }
        if let Some(source) = source {
            empty(xml, "source", &[source])?;
        }
        if let Some(vlan) = nic.vlan {
            within(xml, "vlan", &[], |xml| empty(xml, "tag", &[("id", &vlan.to_string())]))?;
        }
        empty(xml, "model", &[("type", nic.model.name())])
    })
}
