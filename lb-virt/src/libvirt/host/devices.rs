//! Disks and network interfaces that come and go, and the console.

use fastrand::Rng;
use virt::domain::Domain;
use virt::sys;

use super::Libvirt;
use super::definition::Subject;
use crate::domain::{Bus, Console, Disk, DomainSpec, Mac, Nic};
use crate::error::VirtError;
use crate::hypervisor::{Capabilities, ConsoleAddress, Effect};
use crate::libvirt::read::{child, parse};
use crate::libvirt::write::{disk_of, nic_of, own_within, piece, unwritable, within};
use crate::libvirt::{NAMESPACE, Xml};

const DISK: &str = "disk";
const NIC: &str = "network interface";

/// A device, as it is to be given or taken.
#[derive(Clone, Copy)]
enum Device<'a> {
    Disk(&'a Disk),
    Nic(&'a Nic),
}

impl Device<'_> {
    fn is_in(self, spec: &DomainSpec) -> bool {
        match self {
            Self::Disk(disk) => spec.disks.iter().any(|other| other.target == disk.target),
            Self::Nic(nic) => spec.nics.iter().any(|other| other.mac == nic.mac),
        }
    }

    fn xml(self, spec: &DomainSpec) -> Result<String, VirtError> {
        let written = match self {
            Self::Disk(disk) => piece(|xml| disk_of(xml, disk)),
            Self::Nic(nic) => piece(|xml| nic_of(xml, nic)),
        };
        written.map_err(|error| unwritable(spec, &error))
    }

    /// Whether there is a way to give it to a machine that runs.
    fn is_hot(self, capabilities: Capabilities) -> bool {
        match self {
            Self::Disk(disk) => {
                let bus = matches!(disk.bus, Bus::Virtio | Bus::Scsi | Bus::Usb | Bus::Xen);
                bus && capabilities.contains(Capabilities::HOT_DISKS)
            }
            Self::Nic(_) => capabilities.contains(Capabilities::HOT_NICS),
        }
    }
}

impl Libvirt {
    pub(super) fn give_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        let subject = self.subject(name)?;
        let taken = |spec: &DomainSpec| spec.disks.iter().any(|other| other.target == disk.target);
        if taken(&subject.defined.spec) || subject.live.as_ref().is_some_and(taken) {
            return Err(VirtError::PartExists { name: name.into(), what: DISK, part: disk.target.clone() });
        }
        let spec = subject.defined.spec.clone().disk(disk.clone());
        let named = spec.disks.last().cloned().unwrap_or_else(|| disk.clone());
        self.give(subject, &spec, Device::Disk(&named))
    }

    pub(super) fn give_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        let subject = self.subject(name)?;
        let mac = nic.mac.unwrap_or_else(|| Mac::random(self.driver.vendor(), &mut Rng::new()));
        let nic = Nic { mac: Some(mac), ..nic.clone() };
        let device = Device::Nic(&nic);
        if device.is_in(&subject.defined.spec) || subject.live.as_ref().is_some_and(|live| device.is_in(live))
        {
            return Err(VirtError::PartExists { name: name.into(), what: NIC, part: mac.to_string() });
        }
        let spec = subject.defined.spec.clone().nic(nic.clone());
        self.give(subject, &spec, device)
    }

    pub(super) fn take_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        let subject = self.subject(name)?;
        let mut spec = subject.defined.spec.clone();
        let Some(at) = spec.disks.iter().position(|disk| disk.target == target) else {
            return Err(VirtError::NoPart { name: name.into(), what: DISK, part: target.into() });
        };
        let disk = spec.disks.remove(at);
        self.take(subject, &spec, Device::Disk(&disk))
    }

    pub(super) fn take_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        let subject = self.subject(name)?;
        let mut spec = subject.defined.spec.clone();
        let Some(at) = spec.nics.iter().position(|nic| nic.mac == Some(mac)) else {
            return Err(VirtError::NoPart { name: name.into(), what: NIC, part: mac.to_string() });
        };
        let nic = spec.nics.remove(at);
        self.take(subject, &spec, Device::Nic(&nic))
    }

    /// Gives a machine a device: now, if it runs and can take it so, and in its definition.
    fn give(&mut self, subject: Subject, spec: &DomainSpec, device: Device<'_>) -> Result<Effect, VirtError> {
        let Subject { domain, defined, live } = subject;
        spec.validate().map_err(VirtError::spec(&spec.name))?;
        if let Some(live) = live.as_ref().filter(|_| device.is_hot(self.driver.capabilities())) {
            let attached = domain.attach_device_flags(&device.xml(spec)?, sys::VIR_DOMAIN_AFFECT_LIVE);
            attached.map_err(|error| self.connection.failed_by_file(spec, "attach a device to", &error))?;
            if matches!(device, Device::Disk(disk) if disk.shared) {
                self.note_own(&domain, live, spec)?;
            }
            self.redefine(&defined, spec)?;
            return Ok(Effect::Now);
        }
        self.redefine(&defined, spec)?;
        Ok(if live.is_none() { Effect::Now } else { Effect::NextBoot })
    }

    /// Takes a device from a machine. A guest that runs lets it go when it likes, or never; from its definition it is gone.
    fn take(&mut self, subject: Subject, spec: &DomainSpec, device: Device<'_>) -> Result<Effect, VirtError> {
        let Subject { domain, defined, live } = subject;
        let name = &spec.name;
        let hot = device.is_hot(self.driver.capabilities());
        let mut effect = if live.is_none() || hot { Effect::Now } else { Effect::NextBoot };
        if hot && live.is_some_and(|live| device.is_in(&live)) {
            let detached = domain.detach_device_flags(&device.xml(spec)?, sys::VIR_DOMAIN_AFFECT_LIVE);
            detached.map_err(|error| self.connection.failed(name, "detach a device from", &error))?;
            if device.is_in(&self.live(name, &domain)?.spec) {
                effect = Effect::NextBoot;
            }
        }
        self.redefine(&defined, spec)?;
        Ok(effect)
    }

    /// Notes in a machine that runs what libvirt has no word for: which of its disks are shared.
    fn note_own(&self, domain: &Domain, live: &DomainSpec, spec: &DomainSpec) -> Result<(), VirtError> {
        let mut now = live.clone();
        now.disks.extend(spec.disks.last().cloned());
        // It sets the namespace itself, and will have none before.
        let own = |xml: &mut Xml| within(xml, "machine", &[], |xml| own_within(xml, &now, ""));
        let xml = piece(own).map_err(|error| unwritable(spec, &error))?;
        let kind = sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
        let noted =
            domain.set_metadata(kind, Some(&xml), Some("lb"), Some(NAMESPACE), sys::VIR_DOMAIN_AFFECT_LIVE);
        noted.map(drop).map_err(|error| self.connection.failed(&spec.name, "attach a device to", &error))
    }

    /// A pseudo-terminal is of use on this host alone, and only while the machine runs; else `virsh` connects to it.
    pub(super) fn console_of(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        let domain = self.connection.domain(name)?;
        let live = self.live(name, &domain)?;
        match live.spec.console {
            Console::None => {
                Err(VirtError::NoPart { name: name.into(), what: "console", part: "serial".into() })
            }
            Console::File(path) if self.connection.is_local() => Ok(ConsoleAddress::File(path)),
            Console::Socket(path) if self.connection.is_local() => Ok(ConsoleAddress::Socket(path)),
            _ => {
                let pty = terminal(&live.xml).filter(|_| self.connection.is_local());
                let words = ["virsh", "-c", &self.connection.uri, "console", name];
                let program = || ConsoleAddress::Program(words.map(String::from).to_vec());
                Ok(pty.map_or_else(program, |path| ConsoleAddress::Pty(path.into())))
            }
        }
    }
}

/// The pseudo-terminal of a machine's first serial line, while it runs.
fn terminal(xml: &str) -> Option<String> {
    let document = parse(xml).ok()?;
    let devices = child(document.root_element(), "devices")?;
    let line = child(devices, "serial").or_else(|| child(devices, "console"))?;
    child(line, "source")?.attribute("path").map(Into::into)
}
