//! Reads what xl says of machines in JSON.

use lb_affinity::CpuSet;
use serde_json::{Map, Value};

use super::OWN;
use super::write::ACTIONS;
use crate::domain::{
    Action, BootDevice, Bus, Clock, Console, Disk, DiskDevice, DomainSpec, Features, Format, Kernel, Kind,
    Memory, Network, Nic, NicModel, Screen, Source, SpecError,
};

/// Why a text is no definition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is no JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Something is not there.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// Something has a value that is not known here.
    #[error("{what} is {value}, which is not known here")]
    Unknown {
        /// What.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The definition that was read is wrong.
    #[error("machine {name}: {source}")]
    Spec {
        /// The machine.
        name: String,
        /// What is wrong.
        source: SpecError,
    },
}

/// The definition that `xl -N create` prints, or `xl list -l` for one machine.
///
/// `host` are the CPUs of the host: xl writes a virtual CPU that may run anywhere as one that may run on all of these.
///
/// # Errors
/// If it is no JSON, or no machine, or has a disk or a network that can't be expressed.
pub fn from_json(json: &str, host: &CpuSet) -> Result<DomainSpec, ReadError> {
    // `xl list -l` says a list, with each machine's number.
    let whole = match serde_json::from_str(json)? {
        Value::Array(mut machines) if machines.len() == 1 => machines.remove(0),
        whole => whole,
    };
    let config = whole.get("config").unwrap_or(&whole);
    let (creation, build) = (map(config, "c_info")?, map(config, "b_info")?);
    let name = string(creation, "name").ok_or(ReadError::Missing("name"))?;
    let mut spec = DomainSpec::new(name, 1, Memory::default());
    if let Some(uuid) = string(creation, "uuid") {
        spec.uuid = Some(uuid.parse().map_err(|_| unknown("uuid", uuid))?);
    }
    let kind = string(creation, "type").ok_or(ReadError::Missing("type"))?;
    spec.kind = match kind {
        "hvm" => Kind::Hvm,
        "pv" => Kind::Paravirtual,
        "pvh" => Kind::Pvh,
        other => return Err(unknown("type", other)),
    };
    size(build, host, &mut spec)?;
    if truth(build, "localtime", false)? {
        spec.clock = Clock::Localtime;
    }
    if let Some(image) = string(build, "kernel") {
        spec.kernel = Some(Kernel {
            image: image.into(),
            initrd: string(build, "ramdisk").map(Into::into),
            command_line: string(build, "cmdline").unwrap_or_default().into(),
        });
    }
    for (key, action) in [
        ("on_poweroff", &mut spec.on_poweroff),
        ("on_reboot", &mut spec.on_reboot),
        ("on_crash", &mut spec.on_crash),
    ] {
        *action = action_of(config, key)?;
    }
    if spec.kind == Kind::Hvm {
        let hvm = build.get("type.hvm").and_then(Value::as_object);
        hardware(build, hvm.unwrap_or(build), &mut spec)?;
    }
    for disk in list(config, "disks") {
        spec.disks.push(disk_of(disk.as_object().ok_or(ReadError::Missing("disk"))?)?);
    }
    for nic in list(config, "nics") {
        spec.nics.push(nic_of(nic.as_object().ok_or(ReadError::Missing("nic"))?, spec.kind)?);
    }
    spec.validate().map_err(|source| ReadError::Spec { name: spec.name.clone(), source })?;
    Ok(spec)
}

/// What stands in the comments of a configuration that this crate has written.
pub(super) fn own(config: &str, spec: &mut DomainSpec) {
    for line in config.lines().filter_map(|line| line.strip_prefix(OWN)) {
        match line.split_once(' ') {
            None if line == "io-heavy" => spec.io_heavy = true,
            Some(("shared", target)) => {
                spec.disks
                    .iter_mut()
                    .filter(|disk| disk.target == target)
                    .for_each(|disk| disk.shared = true);
            }
            _ => {}
        }
    }
}

fn unknown(what: &'static str, value: &str) -> ReadError {
    ReadError::Unknown { what, value: format!("{:?}", value.chars().take(100).collect::<String>()) }
}

fn strange(what: &'static str, value: &Value) -> ReadError {
    ReadError::Unknown { what, value: value.to_string().chars().take(100).collect() }
}

fn map<'a>(value: &'a Value, key: &'static str) -> Result<&'a Map<String, Value>, ReadError> {
    value.get(key).and_then(Value::as_object).ok_or(ReadError::Missing(key))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn string<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

fn number(map: &Map<String, Value>, key: &'static str) -> Result<Option<u64>, ReadError> {
    map.get(key).map(|value| value.as_u64().ok_or_else(|| strange(key, value))).transpose()
}

/// xl's truth: `"True"`, `"False"`, or not said; of some 1 and not said.
fn truth(map: &Map<String, Value>, key: &'static str, default: bool) -> Result<bool, ReadError> {
    match map.get(key) {
        None => Ok(default),
        Some(Value::String(text)) if text == "True" => Ok(true),
        Some(Value::String(text)) if text == "False" => Ok(false),
        Some(Value::String(text)) if text == "<default>" => Ok(default),
        Some(Value::Bool(truth)) => Ok(*truth),
        Some(Value::Number(number)) => Ok(number.as_u64() != Some(0)),
        Some(other) => Err(strange(key, other)),
    }
}

fn size(build: &Map<String, Value>, host: &CpuSet, spec: &mut DomainSpec) -> Result<(), ReadError> {
    let narrow = |what, number: u64| u32::try_from(number).map_err(|_| unknown(what, &number.to_string()));
    let most = narrow("max_vcpus", number(build, "max_vcpus")?.unwrap_or(1))?;
    let available = build.get("avail_vcpus").and_then(Value::as_array);
    spec.vcpus = available.map_or(Ok(most), |vcpus| narrow("avail_vcpus", vcpus.len() as u64))?;
    spec.max_vcpus = (most != spec.vcpus).then_some(most);
    let maximum = Memory::from_kib(number(build, "max_memkb")?.ok_or(ReadError::Missing("max_memkb"))?);
    spec.memory = number(build, "target_memkb")?.map_or(maximum, Memory::from_kib);
    spec.max_memory = (maximum != spec.memory).then_some(maximum);
    let pins = build.get("vcpu_hard_affinity").and_then(Value::as_array);
    for (vcpu, cpus) in (0..).zip(pins.into_iter().flatten()) {
        let numbers = cpus.as_array().ok_or_else(|| strange("vcpu_hard_affinity", cpus))?;
        // The same bound as of CPU sets in text.
        let cpus = numbers.iter().map(|cpu| cpu.as_u64().filter(|&cpu| cpu < 1 << 16));
        let cpus: Option<CpuSet> = cpus.map(|cpu| cpu.and_then(|cpu| u32::try_from(cpu).ok())).collect();
        let cpus = cpus.ok_or_else(|| strange("vcpu_hard_affinity", &Value::Array(numbers.clone())))?;
        if !cpus.is_empty() && (host.is_empty() || !host.is_subset(&cpus)) {
            spec.pins.vcpus.insert(vcpu, cpus);
        }
    }
    Ok(())
}

fn action_of(config: &Value, key: &'static str) -> Result<Action, ReadError> {
    // What xl does not say is its first: destroy.
    let Some(value) = config.get(key) else { return Ok(Action::Destroy) };
    let action = ACTIONS.iter().find(|(name, _)| value == name);
    action.map(|(_, action)| *action).ok_or_else(|| strange(key, value))
}

fn hardware(
    build: &Map<String, Value>,
    hvm: &Map<String, Value>,
    spec: &mut DomainSpec,
) -> Result<(), ReadError> {
    spec.features = Features {
        // Older ones say them beside the rest of the hardware.
        acpi: truth(hvm, "acpi", true)? && truth(build, "acpi", true)?,
        apic: truth(hvm, "apic", true)? && truth(build, "apic", true)?,
        pae: truth(hvm, "pae", true)?,
    };
    for letter in string(hvm, "boot").unwrap_or_default().chars() {
        spec.boot.push(match letter {
            'c' => BootDevice::Disk,
            'd' => BootDevice::Cdrom,
            'n' => BootDevice::Network,
            // A floppy.
            'a' => continue,
            other => return Err(unknown("boot", &other.to_string())),
        });
    }
    let nothing = Map::new();
    let vnc = hvm.get("vnc").and_then(Value::as_object).unwrap_or(&nothing);
    if truth(vnc, "enable", true)? {
        let display = if truth(vnc, "findunused", true)? { None } else { number(vnc, "display")? };
        let port = |display: u64| u16::try_from(display.saturating_add(5900));
        spec.screen = Some(Screen {
            port: display.map(port).transpose().map_err(|_| unknown("display", "no port"))?,
            listen: match string(vnc, "listen") {
                None => None,
                Some(listen) => Some(listen.parse().map_err(|_| unknown("listen", listen))?),
            },
            keymap: string(hvm, "keymap").map(Into::into),
        });
    }
    let devices = hvm.get("usbdevice_list").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    spec.tablet = devices.iter().chain(hvm.get("usbdevice")).any(|device| device == "tablet");
    let lines = hvm.get("serial_list").and_then(Value::as_array).and_then(|lines| lines.first());
    let serial = lines.and_then(Value::as_str).or_else(|| string(hvm, "serial"));
    spec.console = match serial {
        None => Console::None,
        Some("pty") => Console::Pty,
        Some(serial) => {
            let socket = || serial.strip_prefix("unix:").and_then(|path| path.split(',').next());
            match (serial.strip_prefix("file:"), socket()) {
                (Some(path), _) => Console::File(path.into()),
                (None, Some(path)) => Console::Socket(path.into()),
                // It goes somewhere else: to nobody here.
                (None, None) => Console::None,
            }
        }
    };
    Ok(())
}

fn disk_of(disk: &Map<String, Value>) -> Result<Disk, ReadError> {
    let target = string(disk, "vdev").ok_or(ReadError::Missing("vdev"))?;
    let bus = [Bus::Ide, Bus::Scsi, Bus::Xen].into_iter().find(|bus| bus.place(target).is_some());
    let source = string(disk, "pdev_path").filter(|path| !path.is_empty()).map(|path| {
        let block = match string(disk, "backend") {
            Some("phy") => true,
            Some("qdisk" | "tap") => false,
            _ => path.starts_with("/dev/"),
        };
        if block { Source::Block(path.into()) } else { Source::File(path.into()) }
    });
    let cdrom = truth(disk, "is_cdrom", false)?;
    Ok(Disk {
        source,
        device: if cdrom { DiskDevice::Cdrom } else { DiskDevice::Disk },
        bus: bus.ok_or_else(|| unknown("vdev", target))?,
        target: target.into(),
        format: match string(disk, "format") {
            None | Some("raw" | "empty" | "unknown") => Format::Raw,
            Some("qcow2") => Format::Qcow2,
            Some("vhd") => Format::Vhd,
            Some(other) => return Err(unknown("format", other)),
        },
        cache: None,
        read_only: cdrom || !truth(disk, "readwrite", false)?,
        shared: false,
    })
}

fn nic_of(nic: &Map<String, Value>, kind: Kind) -> Result<Nic, ReadError> {
    let script = string(nic, "script").and_then(|script| script.rsplit('/').next());
    // xl's own default.
    let bridge = string(nic, "bridge").unwrap_or("xenbr0");
    let (network, vlan) = match (script, bridge.rsplit_once('.')) {
        (Some("vif-nat"), _) => (Network::Nat, None),
        (Some("vif-openvswitch"), Some((bridge, vlan))) => {
            let vlan = vlan.parse().map_err(|_| unknown("bridge", bridge))?;
            (Network::Bridge(bridge.into()), Some(vlan))
        }
        _ => (Network::Bridge(bridge.into()), None),
    };
    let model = match (kind, string(nic, "nictype"), string(nic, "model")) {
        (Kind::Paravirtual | Kind::Pvh, ..) | (_, Some("vif"), _) => NicModel::Netfront,
        (.., None) => NicModel::Rtl8139,
        (.., Some("virtio-net" | "virtio-net-pci")) => NicModel::Virtio,
        (.., Some(model)) => NicModel::from_name(model).ok_or_else(|| unknown("model", model))?,
    };
    let mac = string(nic, "mac");
    let mac = mac.map(|mac| mac.parse().map_err(|_| unknown("mac", mac))).transpose()?;
    Ok(Nic { network, model, mac, vlan, place: None })
}
