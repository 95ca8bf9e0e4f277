//! What QEMU is told on its command line.
//!
//! A definition becomes a list of arguments that no shell ever sees. Disks and devices are JSON, in which a path is a string and
//! nothing else; where QEMU knows only its own lists of options, commas are doubled, as it wants them.
//!
//! | part | as |
//! |---|---|
//! | board | `pc` (i440FX), whose root bus takes devices while it runs; `q35` and `virt` get root ports for that |
//! | place | a device's place on its bus depends on the definition alone, so that another host's guest finds it where it was |
//! | disk | `-blockdev` named `node-TARGET`, and a device named as the target: `vda` |
//! | places | 16 for disks on virtio and 8 for network interfaces on `pc`, 6 and 6 on `q35` and `virt`: more are refused |
//! | network interface | `-netdev` and a device, `nic-` and the address's digits |
//! | memory | with a balloon the most that it may have, of which the balloon takes what it must not; else what it has |
//! | guest's end | `-action`: what needs somebody to act (restart after a power-off) stops there, and is done when it is next seen |
//!
//! Sources: qemu(1), QEMU's documents on block devices, hot plugging and QAPI's `BlockdevOptions`.

mod devices;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;

use serde_json::{Value, json};

use crate::domain::{Action, Arch, Bus, Clock, Console, CpuModel, DomainSpec, Kind, Memory};
use crate::error::VirtError;
use devices::boot_indices;
pub(crate) use devices::{
    block_node, disk_device, hot_pluggable, most_nics, netdev, nic_device, nic_id, node_name,
};

/// The name of QEMU in its own errors.
pub(crate) const QEMU: &str = "qemu";

/// What the command line says beside the definition.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Whether the hardware runs the guest (KVM); else every instruction is translated (TCG).
    pub accelerated: bool,
    /// Where QEMU listens for QMP, each for one client at a time: paths of unix sockets, of at most 107 bytes.
    pub monitors: &'a [&'a Path],
    /// Where QEMU writes its process id, and removes it when it ends by itself.
    pub pid_file: Option<&'a Path>,
    /// Whether virtual CPUs stand still until QEMU is told otherwise.
    pub paused: bool,
    /// Whether it waits for what another QEMU sends.
    pub incoming: bool,
}

impl Default for Launch<'_> {
    /// Translated, paused, and nobody to talk to.
    fn default() -> Self {
        Self { accelerated: false, monitors: &[], pid_file: None, paused: true, incoming: false }
    }
}

/// The program that runs machines of an instruction set.
#[must_use]
pub const fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu-system-x86_64",
        Arch::I686 => "qemu-system-i386",
        Arch::Aarch64 => "qemu-system-aarch64",
    }
}

/// A board's way of taking devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Board {
    /// PCI, IDE; hot plugging on the root bus.
    Pc,
    /// PCI Express with x86's old devices.
    Q35,
    /// PCI Express and nothing old.
    Virt,
}

impl Board {
    pub(crate) fn of(spec: &DomainSpec) -> Result<Self, VirtError> {
        let name = board_name(spec);
        let of = |family: &str| name == family || name.starts_with(&format!("{family}-"));
        match spec.arch {
            Arch::X86_64 | Arch::I686 if of("q35") || of("pc-q35") => Ok(Self::Q35),
            Arch::X86_64 | Arch::I686 if name == "pc" || of("pc-i440fx") => Ok(Self::Pc),
            Arch::Aarch64 if of("virt") => Ok(Self::Virt),
            _ => {
                let what = format!("board {name:?} with devices that this could be written for");
                Err(inexpressible(spec, what, "use pc or q35, or virt for aarch64"))
            }
        }
    }

    /// Whether each device needs a port of its own to come and go.
    pub(crate) const fn has_ports(self) -> bool {
        !matches!(self, Self::Pc)
    }
}

fn board_name(spec: &DomainSpec) -> &str {
    spec.machine.as_deref().unwrap_or(if spec.arch == Arch::Aarch64 { "virt" } else { "pc" })
}

/// What the machine is started with: a balloon takes what is above its memory.
pub(crate) fn started_memory(spec: &DomainSpec) -> Memory {
    if spec.balloon { spec.most_memory() } else { spec.memory }
}

pub(crate) fn inexpressible(spec: &DomainSpec, what: impl Into<String>, cure: &'static str) -> VirtError {
    VirtError::Inexpressible { name: spec.name.clone(), hypervisor: QEMU, what: what.into(), cure }
}

/// Writes a value into one of QEMU's lists of options, where a comma ends it and two are one.
pub(crate) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// The arguments that a machine is started with, without the program's name.
///
/// ```
/// use lb_virt::domain::Disk;
/// use lb_virt::qemu::arguments::{Launch, arguments};
/// use lb_virt::{DomainSpec, Memory};
///
/// let spec = DomainSpec::new("web1", 2, Memory::from_mib(256)).disk(Disk::file("/srv/a,b.qcow2"));
/// let words = arguments(&spec, &Launch::default())?;
/// let node = words.iter().find(|word| word.to_string_lossy().contains("node-vda")).expect("its disk");
/// assert!(node.to_string_lossy().contains(r#""filename":"/srv/a,b.qcow2""#));
/// # Ok::<(), lb_virt::VirtError>(())
/// ```
///
/// # Errors
/// [`VirtError::Inexpressible`] for what QEMU has nothing for, [`VirtError::Spec`].
pub fn arguments(spec: &DomainSpec, launch: &Launch<'_>) -> Result<Vec<OsString>, VirtError> {
    spec.validate().map_err(VirtError::spec(&spec.name))?;
    let board = Board::of(spec)?;
    if spec.kind != Kind::Hvm {
        return Err(inexpressible(spec, "paravirtual guests", "make it an hvm guest, or run it on Xen"));
    }
    if spec.arch == Arch::Aarch64 && spec.kernel.is_none() {
        return Err(inexpressible(spec, "firmware for aarch64 of its own", "name a kernel"));
    }
    if board.has_ports() && !spec.features.apic {
        return Err(inexpressible(spec, "PCI Express without APIC", "use the board pc, or let it have one"));
    }
    let mut words = Words::default();
    words.identity(spec, board, launch);
    words.size(spec, launch);
    words.ends(spec)?;
    words.plumbing(spec, launch);
    words.devices(spec, board)?;
    Ok(words.0)
}

/// The command line as it grows.
#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn option(&mut self, flag: &str, value: impl Into<OsString>) {
        self.flag(flag);
        self.0.push(value.into());
    }

    fn device(&mut self, device: &Value) {
        self.option("-device", device.to_string());
    }

    /// A device that is there once, at its place on a `pc`; elsewhere the order gives it one.
    fn fixed(&mut self, board: Board, slot: u32, mut device: Value) {
        if board == Board::Pc {
            device["addr"] = json!(format!("{slot:#x}"));
        }
        self.device(&device);
    }

    fn identity(&mut self, spec: &DomainSpec, board: Board, launch: &Launch<'_>) {
        self.option("-name", format!("guest={},debug-threads=on", escaped(&spec.name)));
        if let Some(uuid) = spec.uuid {
            self.option("-uuid", uuid.to_string());
        }
        self.flag("-no-user-config");
        self.flag("-nodefaults");
        let mut machine = board_name(spec).to_owned();
        if board != Board::Virt {
            machine += ",usb=off";
        }
        if !spec.features.acpi {
            machine += ",acpi=off";
        }
        self.option("-machine", machine);
        self.option("-accel", if launch.accelerated { "kvm" } else { "tcg" });
        self.processor(spec, board, launch);
    }

    fn processor(&mut self, spec: &DomainSpec, board: Board, launch: &Launch<'_>) {
        let mut flags = String::new();
        if board != Board::Virt {
            for (has, flag) in [(spec.features.apic, ",apic=off"), (spec.features.pae, ",pae=off")] {
                if !has {
                    flags += flag;
                }
            }
        }
        let model = match &spec.cpu_model {
            CpuModel::Named(name) => name,
            // There is no processor of the host's to be had by translation: everything that can be translated is nearest.
            CpuModel::Host => ["max", "host"][usize::from(launch.accelerated)],
            CpuModel::Default if spec.arch == Arch::Aarch64 => {
                ["max", "host"][usize::from(launch.accelerated)]
            }
            CpuModel::Default if flags.is_empty() => return,
            CpuModel::Default if spec.arch == Arch::I686 => "qemu32",
            CpuModel::Default => "qemu64",
        };
        self.option("-cpu", format!("{model}{flags}"));
    }

    fn size(&mut self, spec: &DomainSpec, launch: &Launch<'_>) {
        let most = spec.most_vcpus();
        let (sockets, cores, threads) =
            spec.cpu_topology.map_or((most, 1, 1), |shape| (shape.sockets, shape.cores, shape.threads));
        self.option(
            "-smp",
            format!("{},maxcpus={most},sockets={sockets},cores={cores},threads={threads}", spec.vcpus),
        );
        self.option("-m", format!("{}K", started_memory(spec).kib()));
        let clock = match spec.clock {
            Clock::Utc => "utc",
            Clock::Localtime => "localtime",
        };
        self.option("-rtc", format!("base={clock}"));
        if launch.paused {
            self.flag("-S");
        }
        if launch.incoming {
            self.option("-incoming", "defer");
        }
    }

    /// What follows when the guest ends. What QEMU can't do by itself it stops for.
    fn ends(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let ends = [spec.on_poweroff, spec.on_reboot, spec.on_crash];
        if ends.contains(&Action::RenameRestart) {
            return Err(inexpressible(spec, Action::RenameRestart.name(), "use restart or preserve"));
        }
        let shutdown = if spec.on_poweroff == Action::Destroy { "poweroff" } else { "pause" };
        let reboot = if spec.on_reboot == Action::Restart { "reset" } else { "shutdown" };
        // A reboot that is no reset is a power-off to QEMU.
        if spec.on_reboot != Action::Restart && spec.on_reboot != spec.on_poweroff {
            let what = format!("on-reboot {} beside on-poweroff {}", spec.on_reboot, spec.on_poweroff);
            return Err(inexpressible(spec, what, "let both be the same, or on-reboot restart"));
        }
        let panic = match (spec.on_crash, spec.on_poweroff) {
            (Action::Destroy, Action::Destroy) => "shutdown",
            // QEMU 7.1; a power-off would stop and wait.
            (Action::Destroy, _) => "exit-failure",
            _ => "pause",
        };
        self.option("-action", format!("shutdown={shutdown},reboot={reboot},panic={panic}"));
        Ok(())
    }

    /// What connects QEMU with its host.
    fn plumbing(&mut self, spec: &DomainSpec, launch: &Launch<'_>) {
        for (number, path) in launch.monitors.iter().enumerate() {
            let path = escaped(&path.to_string_lossy());
            self.option("-chardev", format!("socket,id=monitor{number},path={path},server=on,wait=off"));
            self.option("-mon", format!("chardev=monitor{number},mode=control"));
        }
        if let Some(path) = launch.pid_file {
            self.option("-pidfile", path);
        }
        self.option("-msg", "timestamp=on");
        let console = match &spec.console {
            Console::Pty => Some("pty,id=console0".to_owned()),
            Console::File(path) => {
                Some(format!("file,id=console0,append=on,path={}", escaped(&path.to_string_lossy())))
            }
            Console::Socket(path) => {
                let path = escaped(&path.to_string_lossy());
                Some(format!("socket,id=console0,path={path},server=on,wait=off"))
            }
            Console::None => None,
        };
        if let Some(console) = console {
            self.option("-chardev", console);
            self.option("-serial", "chardev:console0");
        }
        if let Some(kernel) = &spec.kernel {
            self.option("-kernel", kernel.image.as_os_str());
            if let Some(initrd) = &kernel.initrd {
                self.option("-initrd", initrd.as_os_str());
            }
            if !kernel.command_line.is_empty() {
                self.option("-append", &kernel.command_line);
            }
        }
    }

    fn screen(&mut self, spec: &DomainSpec, board: Board) {
        let Some(screen) = &spec.screen else { return self.option("-display", "none") };
        let listen = match screen.listen {
            None => "127.0.0.1".into(),
            Some(std::net::IpAddr::V6(address)) => format!("[{address}]"),
            Some(address) => address.to_string(),
        };
        // VNC counts screens from port 5900 on.
        let display = match screen.port {
            Some(port) => format!("{listen}:{}", port.saturating_sub(5900)),
            None => format!("{listen}:0,to=999"),
        };
        self.option("-vnc", display);
        if let Some(keymap) = &screen.keymap {
            self.option("-k", keymap);
        }
        let driver = if board == Board::Virt { "virtio-gpu-pci" } else { "VGA" };
        self.fixed(board, 2, json!({"driver": driver, "id": "screen0"}));
    }

    fn devices(&mut self, spec: &DomainSpec, board: Board) -> Result<(), VirtError> {
        self.screen(spec, board);
        for port in 0..if board.has_ports() { devices::PORTS } else { 0 } {
            self.device(&json!({
                "driver": "pcie-root-port", "bus": "pcie.0", "id": format!("port{port}"), "chassis": port + 1,
            }));
        }
        self.controllers(spec, board);
        if spec.balloon {
            self.fixed(board, 4, json!({"driver": "virtio-balloon-pci", "id": "balloon0"}));
        }
        if spec.tablet {
            self.device(&json!({"driver": "usb-tablet", "id": "tablet0", "bus": "usb.0"}));
        }
        let boot = boot_indices(spec);
        let mut devices = Vec::new();
        for (disk, boot) in spec.disks.iter().zip(&boot.disks) {
            if let Some(node) = block_node(disk) {
                self.option("-blockdev", node.to_string());
            }
            devices.push(disk_device(spec, board, disk, *boot)?);
        }
        for (number, (nic, boot)) in spec.nics.iter().zip(&boot.nics).enumerate() {
            let backend = netdev(spec, nic, &nic_id(nic, number))?;
            self.option("-netdev", option_list(&backend));
            devices.push(nic_device(spec, board, nic, number, *boot)?);
        }
        devices.iter().for_each(|device| self.device(device));
        let panic = if board == Board::Virt { "pvpanic-pci" } else { "pvpanic" };
        self.device(&json!({"driver": panic, "id": "panic0"}));
        Ok(())
    }

    /// The buses that disks and the tablet are on, beside those that the board has.
    fn controllers(&mut self, spec: &DomainSpec, board: Board) {
        let has = |bus: Bus| spec.disks.iter().any(|disk| disk.bus == bus);
        let places = spec.disks.iter().filter(|disk| disk.bus == Bus::Sata);
        let most = places.filter_map(|disk| disk.bus.place(&disk.target)).max();
        for controller in most.map_or(0..0, |most| 0..most / devices::SATA_PORTS + 1) {
            self.fixed(board, 6 + controller, json!({"driver": "ahci", "id": format!("sata{controller}")}));
        }
        // Disks come to this bus while the machine runs, so it is there for the first one too.
        self.fixed(board, 3, json!({"driver": "virtio-scsi-pci", "id": "scsi0"}));
        if has(Bus::Usb) || spec.tablet {
            self.fixed(board, 5, json!({"driver": "qemu-xhci", "id": "usb", "p2": 15, "p3": 15}));
        }
    }
}

/// An object of strings, numbers and switches as one of QEMU's lists of options; `type` comes first and without its name.
fn option_list(object: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => escaped(text),
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        other => other.to_string(),
    };
    let first = text(&object["type"]);
    let rest = object.as_object().into_iter().flatten().filter(|(key, _)| *key != "type");
    rest.fold(first, |list, (key, value)| format!("{list},{key}={}", text(value)))
}
