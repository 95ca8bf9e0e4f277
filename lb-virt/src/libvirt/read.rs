//! Reads libvirt's domain XML.

use roxmltree::{Document, Node};

use super::NAMESPACE;
use crate::domain::{
    Action, Arch, BootDevice, Bus, Cache, Clock, Console, CpuModel, CpuTopology, Disk, DiskDevice,
    DomainSpec, Features, Format, Kernel, Kind, Memory, Network, Nic, NicModel, Pins, Screen, Source,
    SpecError,
};

/// Why a text is no definition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is no XML.
    #[error("not XML: {0}")]
    Xml(#[from] roxmltree::Error),
    /// Something is not there.
    #[error("line {line}: <{element}> has no {missing}")]
    Missing {
        /// Where.
        line: u32,
        /// In what.
        element: String,
        /// What.
        missing: &'static str,
    },
    /// Something has a value that is not known here.
    #[error("line {line}: {what} is {value:?}, which is not known here")]
    Unknown {
        /// Where.
        line: u32,
        /// What.
        what: String,
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

/// The definition that a domain XML holds. What a [`DomainSpec`] has no place for is passed over.
///
/// # Errors
/// If it is no XML, no domain, or has a disk or a network that can't be expressed.
pub fn from_xml(xml: &str) -> Result<DomainSpec, ReadError> {
    read(&parse(xml)?)
}

/// An XML as a tree, unless it is out of all proportion.
pub(super) fn parse(xml: &str) -> Result<Document<'_>, ReadError> {
    let options = roxmltree::ParsingOptions { nodes_limit: 100_000, ..Default::default() };
    Ok(Document::parse_with_options(xml, options)?)
}

/// The definition in a tree.
pub(super) fn read(document: &Document<'_>) -> Result<DomainSpec, ReadError> {
    let domain = document.root_element();
    if domain.tag_name().name() != "domain" {
        return Err(unknown(domain, "the root element", domain.tag_name().name()));
    }
    let mut spec = DomainSpec::new(required(domain, "name")?, 1, Memory::default());
    if let Some(uuid) = child(domain, "uuid") {
        let text = content(uuid);
        spec.uuid = Some(text.parse().map_err(|_| unknown(uuid, "the uuid", text))?);
    }
    size(domain, &mut spec)?;
    boot(domain, &mut spec)?;
    processor(domain, &mut spec)?;
    for (name, action) in [
        ("on_poweroff", &mut spec.on_poweroff),
        ("on_reboot", &mut spec.on_reboot),
        ("on_crash", &mut spec.on_crash),
    ] {
        if let Some(element) = child(domain, name) {
            *action = Action::from_name(content(element))
                .ok_or_else(|| unknown(element, name, content(element)))?;
        }
    }
    let devices = child(domain, "devices");
    spec.console = Console::None;
    spec.balloon = false;
    for device in devices.iter().flat_map(|devices| devices.children().filter(Node::is_element)) {
        match device.tag_name().name() {
            "disk" => spec.disks.extend(disk(device)?),
            "interface" => spec.nics.push(nic(device)?),
            // A console of type serial is the first serial line once more.
            "serial" | "console" if spec.console == Console::None => spec.console = console(device)?,
            "input" => spec.tablet |= device.attribute("type") == Some("tablet"),
            "graphics" if device.attribute("type") == Some("vnc") => spec.screen = Some(screen(device)?),
            "memballoon" => spec.balloon = device.attribute("model") != Some("none"),
            _ => {}
        }
    }
    own(domain, &mut spec);
    spec.validate().map_err(|source| ReadError::Spec { name: spec.name.clone(), source })?;
    Ok(spec)
}

fn line(node: Node<'_, '_>) -> u32 {
    node.document().text_pos_at(node.range().start).row
}

fn unknown(node: Node<'_, '_>, what: &str, value: &str) -> ReadError {
    ReadError::Unknown { line: line(node), what: what.into(), value: value.chars().take(100).collect() }
}

pub(super) fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.is_element() && child.tag_name().name() == name)
}

/// A keyword or a number: blanks around it do not count.
fn content<'a>(node: Node<'a, '_>) -> &'a str {
    verbatim(node).trim()
}

/// A path or a text: blanks are a part of it.
fn verbatim<'a>(node: Node<'a, '_>) -> &'a str {
    node.text().unwrap_or_default()
}

fn required<'a>(node: Node<'a, '_>, name: &'static str) -> Result<&'a str, ReadError> {
    child(node, name).map(content).ok_or_else(|| missing(node, name))
}

fn missing(node: Node<'_, '_>, missing: &'static str) -> ReadError {
    ReadError::Missing { line: line(node), element: node.tag_name().name().into(), missing }
}

fn attribute<'a>(node: Node<'a, '_>, name: &'static str) -> Result<&'a str, ReadError> {
    node.attribute(name).ok_or_else(|| missing(node, name))
}

/// A number in an attribute or an element.
fn number(node: Node<'_, '_>, what: &str, text: &str) -> Result<u32, ReadError> {
    text.trim().parse().map_err(|_| unknown(node, what, text))
}

/// Virtual CPUs, memory, pins.
fn size(domain: Node<'_, '_>, spec: &mut DomainSpec) -> Result<(), ReadError> {
    let element = child(domain, "memory").ok_or_else(|| missing(domain, "memory"))?;
    let most = memory(element)?;
    spec.memory = child(domain, "currentMemory").map_or(Ok(most), memory)?;
    spec.max_memory = (most != spec.memory).then_some(most);
    if let Some(element) = child(domain, "vcpu") {
        let most = number(element, "vcpu", content(element))?;
        let current = element.attribute("current");
        spec.vcpus = current.map_or(Ok(most), |current| number(element, "vcpu's current", current))?;
        spec.max_vcpus = (most != spec.vcpus).then_some(most);
    }
    let tune = child(domain, "cputune");
    for pin in tune.iter().flat_map(|tune| tune.children().filter(Node::is_element)) {
        let name = pin.tag_name().name();
        if !matches!(name, "vcpupin" | "emulatorpin") {
            continue;
        }
        let cpus = attribute(pin, "cpuset")?;
        let cpus = cpus.parse().map_err(|_| unknown(pin, "cpuset", cpus))?;
        match name {
            "vcpupin" => drop(spec.pins.vcpus.insert(number(pin, "vcpu", attribute(pin, "vcpu")?)?, cpus)),
            _ => spec.pins = Pins { emulator: cpus, vcpus: std::mem::take(&mut spec.pins.vcpus) },
        }
    }
    Ok(())
}

/// An amount with its unit; KiB if it says none.
fn memory(element: Node<'_, '_>) -> Result<Memory, ReadError> {
    let unit = element.attribute("unit").unwrap_or("KiB");
    let bytes: u64 = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return Err(unknown(element, "a unit of memory", unit)),
    };
    let amount = content(element).parse::<u64>().ok().and_then(|amount| amount.checked_mul(bytes));
    amount.map(Memory::from_bytes).ok_or_else(|| unknown(element, "an amount of memory", content(element)))
}

fn boot(domain: Node<'_, '_>, spec: &mut DomainSpec) -> Result<(), ReadError> {
    let os = child(domain, "os").ok_or_else(|| missing(domain, "os"))?;
    let kind = child(os, "type").ok_or_else(|| missing(os, "type"))?;
    spec.kind = match content(kind) {
        "hvm" => Kind::Hvm,
        "xen" | "linux" => Kind::Paravirtual,
        "xenpvh" => Kind::Pvh,
        other => return Err(unknown(kind, "the type of os", other)),
    };
    if let Some(arch) = kind.attribute("arch") {
        spec.arch = Arch::from_name(arch).ok_or_else(|| unknown(kind, "arch", arch))?;
    }
    spec.machine = kind.attribute("machine").map(Into::into);
    if let Some(image) = child(os, "kernel") {
        spec.kernel = Some(Kernel {
            image: verbatim(image).into(),
            initrd: child(os, "initrd").map(|initrd| verbatim(initrd).into()),
            command_line: child(os, "cmdline").map(verbatim).unwrap_or_default().into(),
        });
    }
    for device in os.children().filter(|node| node.is_element() && node.tag_name().name() == "boot") {
        let name = attribute(device, "dev")?;
        spec.boot.push(BootDevice::from_name(name).ok_or_else(|| unknown(device, "a boot device", name))?);
    }
    Ok(())
}

fn processor(domain: Node<'_, '_>, spec: &mut DomainSpec) -> Result<(), ReadError> {
    let has = |name: &str| child(domain, "features").is_some_and(|features| child(features, name).is_some());
    spec.features = Features { acpi: has("acpi"), apic: has("apic"), pae: has("pae") };
    if let Some(cpu) = child(domain, "cpu") {
        spec.cpu_model = match (cpu.attribute("mode"), child(cpu, "model")) {
            (Some("host-passthrough" | "host-model" | "maximum"), _) => CpuModel::Host,
            (_, Some(model)) => CpuModel::Named(content(model).into()),
            _ => CpuModel::Default,
        };
        if let Some(shape) = child(cpu, "topology") {
            let count = |name| attribute(shape, name).and_then(|text| number(shape, name, text));
            let dies = shape.attribute("dies").map_or(Ok(1), |text| number(shape, "dies", text))?;
            // A guest's dies are sockets here.
            let sockets = count("sockets")?.saturating_mul(dies);
            spec.cpu_topology =
                Some(CpuTopology { sockets, cores: count("cores")?, threads: count("threads")? });
        }
    }
    if let Some(clock) = child(domain, "clock") {
        let offset = attribute(clock, "offset")?;
        spec.clock = Clock::from_name(offset).ok_or_else(|| unknown(clock, "the clock's offset", offset))?;
    }
    Ok(())
}

/// A disk or a drive; nothing for a floppy's.
fn disk(element: Node<'_, '_>) -> Result<Option<Disk>, ReadError> {
    let device = element.attribute("device").unwrap_or("disk");
    if device == "floppy" {
        return Ok(None);
    }
    let device =
        DiskDevice::from_name(device).ok_or_else(|| unknown(element, "the device of a disk", device))?;
    let target = child(element, "target").ok_or_else(|| missing(element, "target"))?;
    let name = attribute(target, "dev")?;
    let bus = match target.attribute("bus") {
        Some(bus) => Bus::from_name(bus).ok_or_else(|| unknown(target, "the bus of a disk", bus))?,
        // As libvirt has it: by the name.
        None => Bus::ALL.into_iter().find(|bus| bus.place(name).is_some()).unwrap_or_default(),
    };
    let source = child(element, "source");
    let path = |attribute: &str| source.and_then(|source| source.attribute(attribute));
    let source = match element.attribute("type").unwrap_or("file") {
        "file" => path("file").map(|path| Source::File(path.into())),
        "block" => path("dev").map(|path| Source::Block(path.into())),
        other => return Err(unknown(element, &format!("the type of disk {name}"), other)),
    };
    let driver = child(element, "driver");
    let of_driver = |name: &str| driver.and_then(|driver| driver.attribute(name));
    let known = |what: &str, value: &str| unknown(driver.unwrap_or(element), what, value);
    Ok(Some(Disk {
        source,
        device,
        bus,
        target: name.into(),
        format: of_driver("type").map_or(Ok(Format::Raw), |format| {
            Format::from_name(format).ok_or_else(|| known("the format of a disk", format))
        })?,
        cache: match of_driver("cache") {
            None | Some("default") => None,
            Some(cache) => Some(Cache::from_name(cache).ok_or_else(|| known("the cache of a disk", cache))?),
        },
        read_only: child(element, "readonly").is_some(),
        shared: false,
    }))
}

fn nic(element: Node<'_, '_>) -> Result<Nic, ReadError> {
    let source = child(element, "source");
    let named = |name: &'static str| {
        source.ok_or_else(|| missing(element, "source")).and_then(|source| attribute(source, name))
    };
    let network = match attribute(element, "type")? {
        "bridge" => Network::Bridge(named("bridge")?.into()),
        "network" => Network::Named(named("network")?.into()),
        "user" => Network::Nat,
        other => return Err(unknown(element, "the type of an interface", other)),
    };
    let model = child(element, "model").map(|model| attribute(model, "type").map(|name| (model, name)));
    let mac = child(element, "mac").map(|mac| attribute(mac, "address").map(|address| (mac, address)));
    let tag = child(element, "vlan").and_then(|vlan| child(vlan, "tag"));
    Ok(Nic {
        network,
        model: match model.transpose()? {
            // What libvirt takes by itself depends on its version and on the board: rtl8139 where it can.
            None => NicModel::Rtl8139,
            Some((model, name)) => {
                NicModel::from_name(name).ok_or_else(|| unknown(model, "the model of an interface", name))?
            }
        },
        mac: match mac.transpose()? {
            None => None,
            Some((mac, address)) => Some(address.parse().map_err(|_| unknown(mac, "an address", address))?),
        },
        vlan: match tag {
            None => None,
            Some(tag) => {
                let id = attribute(tag, "id")?;
                Some(id.parse().map_err(|_| unknown(tag, "a VLAN", id))?)
            }
        },
        place: None,
    })
}

fn console(element: Node<'_, '_>) -> Result<Console, ReadError> {
    let path = || child(element, "source").and_then(|source| source.attribute("path"));
    match (attribute(element, "type")?, path()) {
        ("file", Some(path)) => Ok(Console::File(path.into())),
        ("unix", Some(path)) => Ok(Console::Socket(path.into())),
        ("pty", _) => Ok(Console::Pty),
        // It goes somewhere else: to nobody here.
        _ => Ok(Console::None),
    }
}

fn screen(element: Node<'_, '_>) -> Result<Screen, ReadError> {
    let auto = element.attribute("autoport") == Some("yes");
    let port = element.attribute("port").filter(|port| !auto && *port != "-1");
    let listen = element.attribute("listen").or_else(|| {
        let listen = child(element, "listen").filter(|listen| listen.attribute("type") == Some("address"));
        listen.and_then(|listen| listen.attribute("address"))
    });
    Ok(Screen {
        port: match port {
            None => None,
            Some(port) => Some(port.parse().map_err(|_| unknown(element, "a screen's port", port))?),
        },
        listen: match listen {
            None => None,
            Some(address) => {
                Some(address.parse().map_err(|_| unknown(element, "a screen's address", address))?)
            }
        },
        keymap: element.attribute("keymap").map(Into::into),
    })
}

/// The element of this crate's own in the metadata.
pub(super) fn own_element<'a, 'i>(domain: Node<'a, 'i>) -> Option<Node<'a, 'i>> {
    child(domain, "metadata")?.children().find(|node| node.has_tag_name((NAMESPACE, "machine")))
}

/// What stands in the metadata.
fn own(domain: Node<'_, '_>, spec: &mut DomainSpec) {
    for own in own_element(domain).iter().flat_map(|machine| machine.children().filter(Node::is_element)) {
        match own.tag_name().name() {
            "io-heavy" => spec.io_heavy = true,
            "shared" => {
                let shared = spec.disks.iter_mut().filter(|disk| own.attribute("disk") == Some(&disk.target));
                shared.for_each(|disk| disk.shared = true);
            }
            _ => {}
        }
    }
}
