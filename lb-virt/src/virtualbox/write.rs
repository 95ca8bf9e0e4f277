//! Writes definitions as calls of VBoxManage.

use std::ffi::OsString;

use uuid::Uuid;

use super::{CONTROLLERS, Controller, NAME, NIC_TYPES, NICS, OWN};
use crate::domain::{
    Action, Arch, BootDevice, Bus, Clock, Console, CpuModel, Disk, DiskDevice, DomainSpec, Format, Kind,
    Memory, Network, Nic, Source,
};
use crate::error::VirtError;

/// A call of VBoxManage: its arguments.
pub type Call = Vec<OsString>;

/// VirtualBox' own limit.
const MOST_VCPUS: u32 = 64;

/// The calls that make a machine, in their order: the first registers it, under the definition's identity.
///
/// # Errors
/// [`VirtError::Spec`] if the definition is wrong; [`VirtError::Inexpressible`] for what VirtualBox has not.
pub fn to_calls(spec: &DomainSpec) -> Result<Vec<Call>, VirtError> {
    spec.validate().map_err(VirtError::spec(&spec.name))?;
    check(spec)?;
    let uuid = spec.uuid.unwrap_or_else(Uuid::nil).to_string();
    let system = if spec.arch == Arch::X86_64 { "Other_64" } else { "Other" };
    let mut calls =
        vec![call(&["createvm", "--name", &spec.name, "--uuid", &uuid, "--ostype", system, "--register"])];
    let mut modify = call(&["modifyvm", &uuid]);
    let mut set = |key: &str, value: &str| modify.extend([key.into(), value.into()]);
    let on = |is: bool| if is { "on" } else { "off" };
    set("--memory", &spec.memory.mib().to_string());
    set("--cpus", &spec.vcpus.to_string());
    set("--chipset", spec.machine.as_deref().unwrap_or("piix3"));
    set("--acpi", on(spec.features.acpi));
    set("--ioapic", on(spec.features.apic));
    set("--pae", on(spec.features.pae));
    set("--rtcuseutc", on(spec.clock == Clock::Utc));
    for place in 0..4 {
        set(
            &format!("--boot{}", place + 1),
            match spec.boot_order().get(place) {
                Some(BootDevice::Disk) => "disk",
                Some(BootDevice::Cdrom) => "dvd",
                Some(BootDevice::Network) => "net",
                None => "none",
            },
        );
    }
    if spec.tablet {
        set("--usbohci", "on");
        set("--mouse", "usbtablet");
    }
    modify.extend(console(spec)?);
    for (number, nic) in (1..).zip(&spec.nics) {
        modify.extend(nic_words(spec, nic, number)?);
    }
    calls.push(modify);
    for Controller { bus, name, add, kinds, ports } in &CONTROLLERS {
        if spec.disks.iter().any(|disk| disk.bus == *bus) {
            let ports = ports.to_string();
            let kind = kinds.first().copied().unwrap_or_default();
            let words = [
                "storagectl",
                &uuid,
                "--name",
                name,
                "--add",
                add,
                "--controller",
                kind,
                "--portcount",
                &ports,
                "--bootable",
                "on",
            ];
            calls.push(call(&words));
        }
    }
    for disk in &spec.disks {
        let place = place(spec, disk)?;
        calls.push(attach(&uuid, place, disk, medium(spec, disk)?));
    }
    // There is nothing yet.
    calls.extend(own(spec, &uuid).into_iter().filter(|call| call.len() > 3));
    Ok(calls)
}

pub(super) fn inexpressible(spec: &DomainSpec, what: impl Into<String>, cure: &'static str) -> VirtError {
    VirtError::Inexpressible { name: spec.name.clone(), hypervisor: NAME, what: what.into(), cure }
}

pub(super) fn call(words: &[&str]) -> Call {
    words.iter().map(OsString::from).collect()
}

/// What VirtualBox has no place for stands in the machine's extra data.
pub(super) fn own(spec: &DomainSpec, uuid: &str) -> Vec<Call> {
    let shared = spec.disks.iter().filter(|disk| disk.shared).map(|disk| disk.target.as_str());
    let values = [
        ("max-vcpus", spec.max_vcpus.map(|most| most.to_string())),
        ("max-memory", spec.max_memory.map(|most| most.to_string())),
        ("io-heavy", spec.io_heavy.then(|| "yes".into())),
        ("shared", Some(shared.collect::<Vec<&str>>().join(" ")).filter(|shared| !shared.is_empty())),
    ];
    // Without a value, what was there is removed.
    let set = values.into_iter().map(|(key, value)| {
        let mut words = call(&["setextradata", uuid, &format!("{OWN}{key}")]);
        words.extend(value.map(OsString::from));
        words
    });
    set.collect()
}

fn check(spec: &DomainSpec) -> Result<(), VirtError> {
    let refused: [(bool, &str, &'static str); 14] = [
        (spec.kind != Kind::Hvm, "paravirtual machine", "make it hvm"),
        (spec.arch == Arch::Aarch64, "machine of aarch64", "it runs x86: x86_64 or i686"),
        (spec.vcpus > MOST_VCPUS, "more than 64 virtual CPUs", "give it fewer"),
        (
            spec.vcpus > 1 && !spec.features.apic,
            "several virtual CPUs without an APIC",
            "give it one: features.apic",
        ),
        (Memory::from_mib(spec.memory.mib()) != spec.memory, "parts of a MiB", "give it whole MiB of memory"),
        (spec.memory < Memory::from_mib(4), "less than 4 MiB", "give it more"),
        (spec.cpu_topology.is_some(), "arrangement of virtual CPUs", "leave the topology out"),
        (
            spec.cpu_model != CpuModel::Default,
            "models of processors",
            "leave it out: guests see the host's own",
        ),
        (
            spec.machine.as_deref().is_some_and(|board| board != "ich9"),
            "such a board",
            "leave the machine out, or say ich9",
        ),
        (!spec.balloon, "guest without a balloon", "leave it in: a guest need not use it"),
        (!spec.pins.is_empty(), "pins", "leave them out"),
        (spec.kernel.is_some(), "kernels of the host's", "boot from a disk"),
        (spec.screen.is_some(), "screen by VNC", "leave it out"),
        (
            (spec.on_poweroff, spec.on_reboot, spec.on_crash)
                != (Action::Destroy, Action::Restart, Action::Destroy),
            "choice of what follows when a guest ends",
            "leave the actions out: destroy, restart, destroy",
        ),
    ];
    match refused.into_iter().find(|(wrong, ..)| *wrong) {
        Some((_, what, cure)) => Err(inexpressible(spec, what, cure)),
        None => Ok(()),
    }
}

fn console(spec: &DomainSpec) -> Result<Call, VirtError> {
    // The first serial line of a PC.
    let line = |mode: &str, path: &std::path::Path| {
        let mut words = call(&["--uart1", "0x3F8", "4", "--uartmode1", mode]);
        words.push(path.into());
        words
    };
    match &spec.console {
        Console::None => Ok(call(&["--uart1", "off"])),
        Console::Socket(path) => Ok(line("server", path)),
        Console::File(path) => Ok(line("file", path)),
        Console::Pty => Err(inexpressible(
            spec,
            "pseudo-terminals",
            "let the console be a socket or a file, by its path, or none",
        )),
    }
}

/// The words of interface `number`, from 1, as `modifyvm` takes them.
pub(super) fn nic_words(spec: &DomainSpec, nic: &Nic, number: u32) -> Result<Call, VirtError> {
    if number > NICS {
        return Err(inexpressible(spec, format!("interface number {number}"), "it has 8"));
    }
    if nic.vlan.is_some() {
        return Err(inexpressible(spec, "VLAN", "use an interface of the host that is in it (eth0.129)"));
    }
    let kind = NIC_TYPES.iter().find(|(_, model)| *model == nic.model).map(|(kind, _)| *kind);
    let kind = kind.ok_or_else(|| {
        inexpressible(spec, format!("interfaces of model {}", nic.model), "use e1000, virtio or pcnet")
    })?;
    let key = |what: &str| format!("--{what}{number}");
    let mut words = match &nic.network {
        Network::Nat => vec![key("nic"), "nat".into()],
        Network::Bridge(name) => vec![key("nic"), "bridged".into(), key("bridgeadapter"), name.clone()],
        Network::Named(name) => vec![key("nic"), "intnet".into(), key("intnet"), name.clone()],
    };
    words.extend([key("nictype"), kind.into(), key("cableconnected"), "on".into()]);
    if let Some(mac) = nic.mac {
        words.extend([key("macaddress"), mac.to_string().replace(':', "").to_uppercase()]);
    }
    Ok(words.into_iter().map(OsString::from).collect())
}

/// Where a disk is: controller, port, device.
pub(super) fn place(spec: &DomainSpec, disk: &Disk) -> Result<(String, u32, u32), VirtError> {
    let controller = CONTROLLERS.iter().find(|controller| controller.bus == disk.bus);
    let place = disk.bus.place(&disk.target).unwrap_or_default();
    match controller {
        Some(controller) if disk.bus == Bus::Ide => Ok((controller.name.into(), place / 2, place % 2)),
        Some(controller) if place < controller.ports => Ok((controller.name.into(), place, 0)),
        Some(controller) => {
            let what =
                format!("disk {}: its {} controller has {} ports", disk.target, disk.bus, controller.ports);
            Err(inexpressible(spec, what, "choose an earlier name"))
        }
        None => {
            Err(inexpressible(spec, format!("disks on {}", disk.bus), "put it on sata, ide, scsi or virtio"))
        }
    }
}

/// What is in a disk's place. VirtualBox sees by the file what it is, and says nothing but its name afterwards.
pub(super) fn medium(spec: &DomainSpec, disk: &Disk) -> Result<OsString, VirtError> {
    if disk.cache.is_some() {
        return Err(inexpressible(
            spec,
            format!("choice of a cache for disk {}", disk.target),
            "leave it out",
        ));
    }
    let path = match &disk.source {
        Some(Source::File(path)) => path,
        Some(Source::Block(_)) => return Err(inexpressible(spec, "block devices", "use an image file")),
        None => return Ok("emptydrive".into()),
    };
    let ending = match (disk.device, disk.format) {
        (DiskDevice::Cdrom, _) if !disk.read_only => {
            return Err(inexpressible(spec, "drives that write", "say that it is read-only"));
        }
        (DiskDevice::Disk, _) if disk.read_only => {
            return Err(inexpressible(spec, "disks that are only read", "let it be written, or be a disc"));
        }
        (DiskDevice::Cdrom, Format::Raw) => "iso",
        (DiskDevice::Disk, Format::Vdi) => "vdi",
        (DiskDevice::Disk, Format::Vmdk) => "vmdk",
        (DiskDevice::Disk, Format::Vhd) => "vhd",
        (_, format) => {
            return Err(inexpressible(
                spec,
                format!("images of format {format}"),
                "convert it to vdi, vmdk or vhd (discs are raw)",
            ));
        }
    };
    if path.extension().is_none_or(|found| found != ending) {
        return Err(inexpressible(
            spec,
            format!("other name for {}", path.display()),
            "let it end in .vdi, .vmdk, .vhd or .iso, as it is",
        ));
    }
    Ok(path.into())
}

pub(super) fn attach(
    machine: &str,
    (controller, port, device): (String, u32, u32),
    disk: &Disk,
    medium: OsString,
) -> Call {
    let kind = if disk.device == DiskDevice::Cdrom { "dvddrive" } else { "hdd" };
    let mut words = call(&[
        "storageattach",
        machine,
        "--storagectl",
        &controller,
        "--port",
        &port.to_string(),
        "--device",
        &device.to_string(),
        "--type",
        kind,
        "--medium",
    ]);
    words.push(medium);
    words
}
