//! Writes configurations of xl.

use std::fmt::Write;
use std::net::IpAddr;

use super::{NAME, OWN};
use crate::domain::{
    Action, Arch, BootDevice, Bus, Clock, Console, CpuModel, Disk, DiskDevice, DomainSpec, Features, Format,
    Kind, Memory, Network, Nic, NicModel, Source,
};
use crate::error::VirtError;

/// The configuration of a definition, as `xl create` reads it.
///
/// # Errors
/// [`VirtError::Spec`] if the definition is wrong; [`VirtError::Inexpressible`] for what xl has no word for.
pub fn to_config(spec: &DomainSpec) -> Result<String, VirtError> {
    spec.validate().map_err(VirtError::spec(&spec.name))?;
    let mut config = Config::default();
    own(&mut config, spec);
    head(&mut config, spec)?;
    boot(&mut config, spec)?;
    config.number("localtime", u64::from(spec.clock == Clock::Localtime));
    for (key, action) in
        [("on_poweroff", spec.on_poweroff), ("on_reboot", spec.on_reboot), ("on_crash", spec.on_crash)]
    {
        config.text(key, action.name());
    }
    let disks = spec.disks.iter().map(|disk| disk_words(spec, disk).map(|words| words.join(",")));
    config.list("disk", &disks.collect::<Result<Vec<_>, _>>()?);
    let nics = spec.nics.iter().map(|nic| nic_words(spec, nic).map(|words| words.join(",")));
    config.list("vif", &nics.collect::<Result<Vec<_>, _>>()?);
    match spec.kind {
        Kind::Hvm => hardware(&mut config, spec)?,
        Kind::Paravirtual | Kind::Pvh => no_hardware(spec)?,
    }
    Ok(config.0)
}

pub(super) fn inexpressible(spec: &DomainSpec, what: impl Into<String>, cure: &'static str) -> VirtError {
    VirtError::Inexpressible { name: spec.name.clone(), hypervisor: NAME, what: what.into(), cure }
}

/// Lines of a configuration.
#[derive(Default)]
struct Config(String);

impl Config {
    fn line(&mut self, key: &str, value: &str) {
        // Writing into memory does not fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn number(&mut self, key: &str, value: u64) {
        self.line(key, &value.to_string());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.line(key, &quoted(value));
    }

    /// A list; none if it is empty.
    fn list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            self.line(key, &format!("[ {} ]", values.join(", ")));
        }
    }
}

/// A string of xl's. Of its escapes these two are all that is needed, and all that works: those by number lose what they stand
/// for (xl 4.17). A definition that is right has no line breaks.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What xl has no word for stands in comments.
fn own(config: &mut Config, spec: &DomainSpec) {
    if spec.io_heavy {
        config.0.push_str(&format!("{OWN}io-heavy\n"));
    }
    for disk in spec.disks.iter().filter(|disk| disk.shared) {
        config.0.push_str(&format!("{OWN}shared {}\n", disk.target));
    }
}

/// Name, size and pins.
fn head(config: &mut Config, spec: &DomainSpec) -> Result<(), VirtError> {
    if spec.name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(inexpressible(
            spec,
            "name of digits alone",
            "xl takes it for a domain's number: add a letter",
        ));
    }
    config.text("name", &spec.name);
    if let Some(uuid) = spec.uuid {
        config.text("uuid", &uuid.to_string());
    }
    config.text(
        "type",
        match spec.kind {
            Kind::Hvm => "hvm",
            Kind::Paravirtual => "pv",
            Kind::Pvh => "pvh",
        },
    );
    if spec.arch != Arch::X86_64 {
        return Err(inexpressible(
            spec,
            format!("choice of {}", spec.arch),
            "it runs the host's instructions: x86_64",
        ));
    }
    for (key, memory) in [("memory", spec.memory), ("maxmem", spec.most_memory())] {
        if Memory::from_mib(memory.mib()) != memory {
            return Err(inexpressible(spec, format!("{memory} of memory"), "give it whole MiB"));
        }
        config.number(key, memory.mib());
    }
    config.number("vcpus", spec.vcpus.into());
    config.number("maxvcpus", spec.most_vcpus().into());
    if spec.cpu_topology.is_some() {
        return Err(inexpressible(spec, "arrangement of virtual CPUs", "leave the topology out"));
    }
    if spec.cpu_model != CpuModel::Default {
        return Err(inexpressible(spec, "models of processors", "leave it out: guests see the host's own"));
    }
    if spec.machine.is_some() {
        return Err(inexpressible(spec, "choice of boards", "leave the machine out"));
    }
    if !spec.balloon {
        return Err(inexpressible(spec, "guests without a balloon", "leave it in: a guest need not use it"));
    }
    if !spec.pins.emulator.is_empty() {
        return Err(inexpressible(
            spec,
            "pins for its own threads",
            "pin virtual CPUs alone; Domain-0's are the rest",
        ));
    }
    let cpus = |vcpu| spec.pins.vcpus.get(&vcpu).map_or("all".into(), ToString::to_string);
    let last = spec.pins.vcpus.keys().next_back().map_or(0, |last| last + 1);
    config.list("cpus", &(0..last).map(cpus).collect::<Vec<String>>());
    Ok(())
}

fn boot(config: &mut Config, spec: &DomainSpec) -> Result<(), VirtError> {
    if let Some(kernel) = &spec.kernel {
        config.text("kernel", &kernel.image.to_string_lossy());
        if let Some(initrd) = &kernel.initrd {
            config.text("ramdisk", &initrd.to_string_lossy());
        }
        if !kernel.command_line.is_empty() {
            config.text("cmdline", &kernel.command_line);
        }
    }
    let letters = spec.boot.iter().map(|device| match device {
        BootDevice::Disk => Ok('c'),
        BootDevice::Cdrom => Ok('d'),
        BootDevice::Network => Ok('n'),
    });
    match letters.collect::<Result<String, VirtError>>()? {
        order if order.is_empty() => {}
        order if spec.kind == Kind::Hvm => config.text("boot", &order),
        _ => return Err(inexpressible(spec, "boot order for what has no firmware", "leave it out")),
    }
    Ok(())
}

/// The words of a disk, as `disk = [ … ]` and `xl block-attach` take them. The path comes last: all that follows belongs to it.
pub(super) fn disk_words(spec: &DomainSpec, disk: &Disk) -> Result<Vec<String>, VirtError> {
    if !matches!(disk.bus, Bus::Ide | Bus::Scsi | Bus::Xen)
        || (spec.kind != Kind::Hvm && disk.bus != Bus::Xen)
    {
        return Err(inexpressible(
            spec,
            format!("disks on {} in such a machine", disk.bus),
            "put it on bus xen (xvda); or on ide or scsi, if it is hvm",
        ));
    }
    if disk.cache.is_some() {
        return Err(inexpressible(
            spec,
            format!("choice of a cache for disk {}", disk.target),
            "leave it out",
        ));
    }
    let format = match (&disk.source, disk.format) {
        (None, Format::Raw) => "empty",
        (Some(_), Format::Raw) => "raw",
        (Some(_), Format::Qcow2) => "qcow2",
        (Some(_), Format::Vhd) => "vhd",
        (_, format) => {
            return Err(inexpressible(
                spec,
                format!("disks of format {format}"),
                "convert it to raw or qcow2; a drive without a disc is raw",
            ));
        }
    };
    let mut words = vec![format!("format={format}"), format!("vdev={}", disk.target)];
    if disk.device == DiskDevice::Cdrom {
        if !disk.read_only {
            return Err(inexpressible(spec, "drives that write", "say that it is read-only"));
        }
        words.push("devtype=cdrom".into());
    }
    words.push(format!("access={}", if disk.read_only { "ro" } else { "rw" }));
    match &disk.source {
        Some(Source::File(_)) => words.push("backendtype=qdisk".into()),
        Some(Source::Block(_)) => words.push("backendtype=phy".into()),
        None => return Ok(words),
    }
    let path = disk.source.iter().map(|source| source.path().to_string_lossy()).collect::<String>();
    if path.ends_with(',') {
        // xl takes the last comma for the end of the word.
        return Err(inexpressible(
            spec,
            format!("disk at {path}"),
            "choose a path that does not end in a comma",
        ));
    }
    words.push(format!("target={path}"));
    Ok(words)
}

/// The words of a network interface, as `vif = [ … ]` and `xl network-attach` take them.
pub(super) fn nic_words(spec: &DomainSpec, nic: &Nic) -> Result<Vec<String>, VirtError> {
    let mut words = Vec::new();
    words.extend(nic.mac.map(|mac| format!("mac={mac}")));
    match (&nic.network, nic.vlan) {
        (Network::Bridge(bridge), None) => words.push(format!("bridge={bridge}")),
        // Open vSwitch's way; a bridge of Linux' is in a VLAN itself.
        (Network::Bridge(bridge), Some(vlan)) => {
            words.extend(["script=vif-openvswitch".into(), format!("bridge={bridge}.{vlan}")]);
        }
        (Network::Nat, None) => words.push("script=vif-nat".into()),
        (Network::Nat, Some(_)) => return Err(inexpressible(spec, "VLANs behind NAT", "use a bridge")),
        (Network::Named(name), _) => {
            return Err(inexpressible(spec, format!("network called {name}"), "name its bridge"));
        }
    }
    match (nic.model, spec.kind) {
        (NicModel::Netfront, Kind::Hvm) => words.push("type=vif".into()),
        (NicModel::Netfront, _) => {}
        (model, Kind::Hvm) => {
            // As QEMU calls them, which is who plays them.
            let model = if model == NicModel::Virtio { "virtio-net" } else { model.name() };
            words.extend(["type=ioemu".into(), format!("model={model}")]);
        }
        (model, _) => {
            return Err(inexpressible(
                spec,
                format!("{model} in such a machine"),
                "its interfaces are netfront",
            ));
        }
    }
    Ok(words)
}

/// What only whole hardware has.
fn hardware(config: &mut Config, spec: &DomainSpec) -> Result<(), VirtError> {
    for (key, has) in [
        ("acpi", spec.features.acpi),
        ("apic", spec.features.apic),
        ("pae", spec.features.pae),
        ("vnc", spec.screen.is_some()),
    ] {
        config.number(key, has.into());
    }
    if let Some(screen) = &spec.screen {
        match screen.listen {
            Some(IpAddr::V4(address)) => config.text("vnclisten", &address.to_string()),
            Some(IpAddr::V6(_)) => {
                return Err(inexpressible(spec, "screens at IPv6 addresses", "name one of IPv4"));
            }
            None => {}
        }
        config.number("vncunused", u64::from(screen.port.is_none()));
        if let Some(port) = screen.port {
            config.number("vncdisplay", u64::from(port) - 5900);
        }
        if let Some(keymap) = &screen.keymap {
            config.text("keymap", keymap);
        }
    }
    if spec.tablet {
        config.number("usb", 1);
        config.text("usbdevice", "tablet");
    }
    match &spec.console {
        Console::Pty => config.text("serial", "pty"),
        Console::File(path) => config.text("serial", &format!("file:{}", path.to_string_lossy())),
        // QEMU reads a comma as the end of the path.
        Console::Socket(path) if path.to_string_lossy().contains(',') => {
            return Err(inexpressible(spec, "console at a path with a comma", "choose another path"));
        }
        Console::Socket(path) => {
            config.text("serial", &format!("unix:{},server,nowait", path.to_string_lossy()));
        }
        Console::None => {}
    }
    Ok(())
}

/// A guest that knows what it is on has a console, and no other hardware.
fn no_hardware(spec: &DomainSpec) -> Result<(), VirtError> {
    if spec.features != Features::default() {
        return Err(inexpressible(spec, "firmware in such a machine", "leave the features out"));
    }
    if spec.console != Console::Pty {
        return Err(inexpressible(
            spec,
            "choice of a console in such a machine",
            "it is at a pseudo-terminal",
        ));
    }
    if spec.screen.is_some() || spec.tablet {
        return Err(inexpressible(spec, "screen in such a machine", "use its console"));
    }
    Ok(())
}

/// As `xl` names actions in JSON.
pub(super) const ACTIONS: [(&str, Action); 4] = [
    ("destroy", Action::Destroy),
    ("restart", Action::Restart),
    ("preserve", Action::Preserve),
    ("restart_rename", Action::RenameRestart),
];
