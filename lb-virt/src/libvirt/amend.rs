//! Changes libvirt's domain XML in part.
//!
//! A definition of libvirt's has more in it than a [`DomainSpec`]: controllers, addresses of devices, and what other programs have
//! written. When a machine is resized, pinned or given a disk, all of that has to stay. So only the elements that say something
//! else than they did are written anew, in their places.

use std::io;
use std::ops::Range;

use roxmltree::{Document, Node};

use super::read::{child, own_element, parse, read};
use super::write::{
    disk_of, has_own, memory_of, nic_of, own_of, piece, pins_of, text, topology_of, unwritable, vcpus_of,
    within,
};
use super::{ReadError, Xml};
use crate::domain::{DomainSpec, Nic};
use crate::error::VirtError;

/// A domain XML with the name, identity, size, pins, disks and network interfaces of a definition, and all else as it was.
///
/// ```
/// use lb_virt::libvirt;
///
/// let xml = "<domain type='kvm'><name>a</name><memory>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os>
///     <devices><controller type='usb'/></devices></domain>";
/// let mut spec = libvirt::from_xml(xml)?;
/// spec.vcpus = 2;
/// let amended = libvirt::amend(xml, &spec)?;
/// assert_eq!(libvirt::from_xml(&amended)?, spec);
/// assert!(amended.contains("<controller type='usb'/>"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`VirtError::Spec`] if the definition is wrong; [`VirtError::Said`] if the XML is no domain, or has parts that can't be expressed
/// as one.
pub fn amend(xml: &str, spec: &DomainSpec) -> Result<String, VirtError> {
    spec.validate().map_err(VirtError::spec(&spec.name))?;
    let unread = |error: ReadError| VirtError::Said {
        hypervisor: "libvirt",
        operation: format!("read the definition of {}", spec.name),
        words: error.to_string(),
    };
    let document = parse(xml).map_err(unread)?;
    let before = read(&document).map_err(unread)?;
    let mut edits = Edits::default();
    edits.of_all(&document, &before, spec).map_err(|error| unwritable(spec, &error))?;
    Ok(edits.applied_to(xml))
}

/// What stands where instead, in bytes of the text.
#[derive(Default)]
struct Edits(Vec<(Range<usize>, String)>);

impl Edits {
    fn applied_to(mut self, xml: &str) -> String {
        // Of two at one place, the one that was noted first comes first.
        self.0.sort_by_key(|(place, _)| place.start);
        let mut text = String::with_capacity(xml.len() + 1024);
        let mut done = 0;
        for (place, instead) in self.0 {
            text.push_str(&xml[done..place.start]);
            text.push_str(&instead);
            done = place.end;
        }
        text.push_str(&xml[done..]);
        text
    }

    fn remove(&mut self, node: Node<'_, '_>) {
        self.0.push((node.range(), String::new()));
    }

    fn replace(&mut self, node: Node<'_, '_>, instead: String) {
        self.0.push((node.range(), instead));
    }

    fn after(&mut self, node: Node<'_, '_>, more: String) {
        let end = node.range().end;
        self.0.push((end..end, more));
    }

    /// Writes a child of `domain`'s anew; one that was not there comes before `os`, which every definition has. The schema wants the
    /// name and the identity beside each other, and does not care for the order of the rest.
    fn set(&mut self, domain: Node<'_, '_>, name: &str, written: String) {
        match (child(domain, name), child(domain, "os")) {
            (Some(old), _) => self.replace(old, written),
            (None, Some(os)) => self.0.push((os.range().start..os.range().start, written)),
            (None, None) => {}
        }
    }

    /// Adds what `write` writes at the end of a child of `domain`'s, which is made if it is not there.
    fn append(
        &mut self,
        domain: Node<'_, '_>,
        name: &str,
        write: impl FnOnce(&mut Xml) -> io::Result<()>,
    ) -> io::Result<()> {
        match child(domain, name) {
            Some(parent) => {
                let last = parent.children().next_back();
                match last {
                    Some(last) => self.after(last, piece(write)?),
                    // Without content it may be written as one tag. What it says itself goes in again.
                    None => {
                        let attributes: Vec<(&str, &str)> =
                            parent.attributes().map(|one| (one.name(), one.value())).collect();
                        self.replace(parent, piece(|xml| within(xml, name, &attributes, write))?);
                    }
                }
            }
            None => self.set(domain, name, piece(|xml| within(xml, name, &[], write))?),
        }
        Ok(())
    }

    fn of_all(&mut self, document: &Document<'_>, before: &DomainSpec, spec: &DomainSpec) -> io::Result<()> {
        let domain = document.root_element();
        let Some(name) = child(domain, "name") else { return Ok(()) };
        if before.uuid != spec.uuid {
            child(domain, "uuid").into_iter().for_each(|old| self.remove(old));
            if let Some(uuid) = spec.uuid {
                self.after(name, piece(|xml| text(xml, "uuid", &uuid.to_string()))?);
            }
        }
        if (before.memory, before.most_memory()) != (spec.memory, spec.most_memory()) {
            child(domain, "currentMemory").into_iter().for_each(|old| self.remove(old));
            self.set(domain, "memory", piece(|xml| memory_of(xml, spec))?);
        }
        if (before.vcpus, before.most_vcpus()) != (spec.vcpus, spec.most_vcpus()) {
            // `vcpus` says of each whether it is there: of others than there are now.
            child(domain, "vcpus").into_iter().for_each(|old| self.remove(old));
            self.set(domain, "vcpu", piece(|xml| vcpus_of(xml, spec))?);
        }
        self.of_own(domain, before, spec)?;
        self.of_pins(domain, before, spec)?;
        self.of_topology(domain, before, spec)?;
        self.of_devices(domain, before, spec)?;
        if before.name != spec.name {
            self.replace(name, piece(|xml| text(xml, "name", &spec.name))?);
        }
        Ok(())
    }

    fn of_own(&mut self, domain: Node<'_, '_>, before: &DomainSpec, spec: &DomainSpec) -> io::Result<()> {
        let said = |spec: &DomainSpec| piece(|xml| own_of(xml, spec));
        if said(before)? == said(spec)? {
            return Ok(());
        }
        match (own_element(domain), has_own(spec)) {
            (Some(old), true) => self.replace(old, said(spec)?),
            (Some(old), false) => self.remove(old),
            (None, true) => self.append(domain, "metadata", |xml| own_of(xml, spec))?,
            (None, false) => {}
        }
        Ok(())
    }

    fn of_pins(&mut self, domain: Node<'_, '_>, before: &DomainSpec, spec: &DomainSpec) -> io::Result<()> {
        if before.pins == spec.pins {
            return Ok(());
        }
        let tune = child(domain, "cputune");
        let is_pin = |node: &Node<'_, '_>| matches!(node.tag_name().name(), "vcpupin" | "emulatorpin");
        let pins = tune.iter().flat_map(|tune| tune.children().filter(|node| node.is_element()));
        for old in pins.filter(is_pin) {
            self.remove(old);
        }
        if spec.pins.is_empty() {
            Ok(())
        } else {
            self.append(domain, "cputune", |xml| pins_of(xml, &spec.pins))
        }
    }

    fn of_topology(
        &mut self,
        domain: Node<'_, '_>,
        before: &DomainSpec,
        spec: &DomainSpec,
    ) -> io::Result<()> {
        if before.cpu_topology == spec.cpu_topology {
            return Ok(());
        }
        let old = child(domain, "cpu").and_then(|cpu| child(cpu, "topology"));
        match (old, spec.cpu_topology) {
            (Some(old), Some(shape)) => self.replace(old, piece(|xml| topology_of(xml, shape))?),
            (Some(old), None) => self.remove(old),
            (None, Some(shape)) => self.append(domain, "cpu", |xml| topology_of(xml, shape))?,
            (None, None) => {}
        }
        Ok(())
    }

    /// Disks are known by their names on the bus, network interfaces by their addresses.
    fn of_devices(&mut self, domain: Node<'_, '_>, before: &DomainSpec, spec: &DomainSpec) -> io::Result<()> {
        let devices = child(domain, "devices");
        let named = |name: &'static str| {
            let children = devices.iter().flat_map(|devices| devices.children());
            children.filter(move |node| node.is_element() && node.tag_name().name() == name)
        };
        for old in named("disk") {
            let target = child(old, "target").and_then(|target| target.attribute("dev"));
            let of =
                |spec: &'_ DomainSpec| spec.disks.iter().find(|disk| Some(&*disk.target) == target).cloned();
            match (of(before), of(spec)) {
                (Some(_), None) => self.remove(old),
                (Some(was), Some(is)) if (crate::domain::Disk { shared: is.shared, ..was.clone() }) != is => {
                    self.replace(old, piece(|xml| disk_of(xml, &is))?);
                }
                _ => {}
            }
        }
        let mut more: Vec<&Nic> = spec.nics.iter().collect();
        for (old, was) in named("interface").zip(&before.nics) {
            match more.iter().position(|is| *is == was) {
                Some(at) => drop(more.remove(at)),
                None => self.remove(old),
            }
        }
        let is_new = |target: &String| before.disks.iter().all(|was| was.target != *target);
        let disks: Vec<_> = spec.disks.iter().filter(|disk| is_new(&disk.target)).collect();
        if disks.is_empty() && more.is_empty() {
            return Ok(());
        }
        self.append(domain, "devices", |xml| {
            disks.iter().try_for_each(|disk| disk_of(xml, disk))?;
            more.iter().try_for_each(|nic| nic_of(xml, nic))
        })
    }
}
