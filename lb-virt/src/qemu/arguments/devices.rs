//! Disks and network interfaces, as QEMU's objects: the same on its command line and while a machine runs.

use serde_json::{Map, Value, json};

use super::{Board, inexpressible};
use crate::domain::{
    BootDevice, Bus, Cache, Disk, DiskDevice, DomainSpec, Format, Network, Nic, NicModel, Source,
};
use crate::error::VirtError;

/// What an AHCI controller connects.
pub(super) const SATA_PORTS: u32 = 6;

/// Root ports: for six disks on virtio, and for six network interfaces.
pub(super) const PORTS: u32 = 12;

/// The places of a board whose root bus takes devices: 8 to 15 for network interfaces, 16 to 31 for disks on virtio.
const SLOTS: (u32, u32) = (8, 16);

/// A place on the bus that devices come to and go from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Disk(u32),
    Nic(u32),
}

/// Gives a device the place that is its own. What has none is refused: QEMU's choice would be another on the host that it moves to, or
/// when something else has gone.
fn put(
    spec: &DomainSpec,
    device: &mut Map<String, Value>,
    board: Board,
    place: Place,
) -> Result<(), VirtError> {
    let refuse = |what: &str, cure| Err(inexpressible(spec, what, cure));
    let (key, value) = match (board.has_ports(), place) {
        (true, Place::Disk(place)) if 2 * place < PORTS => ("bus", format!("port{}", 2 * place)),
        (true, Place::Nic(number)) if 2 * number < PORTS => ("bus", format!("port{}", 2 * number + 1)),
        (false, Place::Nic(number)) if number < SLOTS.0 => ("addr", format!("{:#x}", 8 + number)),
        (false, Place::Disk(place)) if place < SLOTS.1 => ("addr", format!("{:#x}", 16 + place)),
        (true, Place::Disk(_)) => {
            let what = "place for more than 6 disks on virtio on PCI Express (vda to vdf)";
            return refuse(what, "use scsi, which takes 256, or the board pc");
        }
        (true, Place::Nic(_)) => {
            let what = "place for more than 6 network interfaces on PCI Express (places 0 to 5)";
            return refuse(what, "use VLANs within the guest, or the board pc, which has 8");
        }
        (false, Place::Disk(_)) => {
            return refuse(
                "place for more than 16 disks on virtio (vda to vdp)",
                "use scsi, which takes 256",
            );
        }
        (false, Place::Nic(_)) => {
            let what = "place for more than 8 network interfaces (places 0 to 7)";
            return refuse(what, "use VLANs within the guest");
        }
    };
    device.insert(key.into(), json!(value));
    Ok(())
}

/// How many network interfaces a board has places for.
pub(crate) const fn most_nics(board: Board) -> usize {
    (if board.has_ports() { PORTS / 2 } else { SLOTS.0 }) as usize
}

/// Where in the order a machine boots from its disks and network interfaces.
pub(super) struct BootIndices {
    pub(super) disks: Vec<Option<u32>>,
    pub(super) nics: Vec<Option<u32>>,
}

pub(super) fn boot_indices(spec: &DomainSpec) -> BootIndices {
    let mut indices = BootIndices { disks: vec![None; spec.disks.len()], nics: vec![None; spec.nics.len()] };
    let mut next = 0..;
    for from in spec.boot_order() {
        match from {
            BootDevice::Network => indices.nics.iter_mut().for_each(|index| *index = next.next()),
            BootDevice::Disk | BootDevice::Cdrom => {
                let device = if *from == BootDevice::Disk { DiskDevice::Disk } else { DiskDevice::Cdrom };
                let these = indices.disks.iter_mut().zip(&spec.disks);
                these.filter(|(_, disk)| disk.device == device).for_each(|(index, _)| *index = next.next());
            }
        }
    }
    indices
}

/// The name of a disk's data, for who asks about it.
pub(crate) fn node_name(target: &str) -> String {
    format!("node-{target}")
}

/// A disk's data (`BlockdevOptions`); none for a drive without a disc.
pub(crate) fn block_node(disk: &Disk) -> Option<Value> {
    let (driver, path) = match disk.source.as_ref()? {
        Source::File(path) => ("file", path),
        Source::Block(path) => ("host_device", path),
    };
    let format = match disk.format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
        Format::Vdi => "vdi",
        Format::Vmdk => "vmdk",
        Format::Vhd => "vpc",
    };
    let cache = json!({
        "direct": matches!(disk.cache, Some(Cache::None | Cache::DirectSync)),
        "no-flush": disk.cache == Some(Cache::Unsafe),
    });
    Some(json!({
        "node-name": node_name(&disk.target),
        "driver": format,
        // Nobody writes to a disc.
        "read-only": disk.read_only || disk.device == DiskDevice::Cdrom,
        // What the guest frees is free in the image too.
        "discard": "unmap",
        "cache": cache.clone(),
        "file": {"driver": driver, "filename": path.to_string_lossy(), "cache": cache},
    }))
}

/// Whether a disk can come and go while a machine runs: the others' are soldered, or their bus may not be there.
pub(crate) const fn hot_pluggable(disk: &Disk) -> bool {
    matches!(disk.bus, Bus::Virtio | Bus::Scsi)
}

/// What the guest sees of a disk.
pub(crate) fn disk_device(
    spec: &DomainSpec,
    board: Board,
    disk: &Disk,
    boot: Option<u32>,
) -> Result<Value, VirtError> {
    let place = disk.bus.place(&disk.target).unwrap_or_default();
    let is_disc = disk.device == DiskDevice::Cdrom;
    let refuse = |what: &str, cure| Err(inexpressible(spec, format!("{what} ({})", disk.target), cure));
    let mut device = Map::new();
    if disk.bus == Bus::Virtio {
        put(spec, &mut device, board, Place::Disk(place))?;
    }
    let mut set = |key: &str, value: Value| drop(device.insert(key.into(), value));
    match disk.bus {
        Bus::Ide | Bus::Sata if disk.read_only && !is_disc => {
            return refuse("disks on ide or sata that are only read", "use virtio or scsi");
        }
        Bus::Xen => return refuse("disks on Xen's bus", "use virtio"),
        Bus::Virtio if is_disc => return refuse("drives on virtio", "use scsi or ide"),
        Bus::Virtio => set("driver", json!("virtio-blk-pci")),
        Bus::Ide if board != Board::Pc => return refuse("IDE on this board", "use sata, or the board pc"),
        Bus::Ide => {
            set("driver", json!(if is_disc { "ide-cd" } else { "ide-hd" }));
            set("bus", json!(format!("ide.{}", place / 2)));
            set("unit", json!(place % 2));
        }
        Bus::Sata if place >= 2 * SATA_PORTS => {
            return refuse("more than 12 disks on sata", "use a name before sdm, or scsi");
        }
        Bus::Sata => {
            set("driver", json!(if is_disc { "ide-cd" } else { "ide-hd" }));
            set("bus", json!(format!("sata{}.{}", place / SATA_PORTS, place % SATA_PORTS)));
        }
        Bus::Scsi if place > 255 => return refuse("more than 256 disks on scsi", "use a name before sdiw"),
        Bus::Scsi => {
            set("driver", json!(if is_disc { "scsi-cd" } else { "scsi-hd" }));
            set("bus", json!("scsi0.0"));
            set("scsi-id", json!(place));
            set("lun", json!(0));
        }
        Bus::Usb if is_disc => return refuse("drives on usb", "use sata or ide"),
        Bus::Usb => {
            set("driver", json!("usb-storage"));
            set("bus", json!("usb.0"));
        }
    }
    set("id", json!(disk.target));
    if disk.source.is_some() {
        set("drive", json!(node_name(&disk.target)));
    }
    // Whether the guest must flush: writes are else done when the host has them.
    if disk.source.is_some()
        && !is_disc
        && let Some(cache) = disk.cache
    {
        let through = matches!(cache, Cache::Writethrough | Cache::DirectSync);
        set("write-cache", json!(if through { "off" } else { "on" }));
    }
    if let Some(boot) = boot {
        set("bootindex", json!(boot));
    }
    Ok(Value::Object(device))
}

/// The name of a network interface, by its address; by its number if it has none.
pub(crate) fn nic_id(nic: &Nic, number: usize) -> String {
    nic.mac.map_or_else(|| format!("nic-{number}"), |mac| format!("nic-{}", mac.to_string().replace(':', "")))
}

/// What a network interface is connected to (`NetClientOptions`).
pub(crate) fn netdev(spec: &DomainSpec, nic: &Nic, id: &str) -> Result<Value, VirtError> {
    if nic.vlan.is_some() {
        let cure = "connect it to a bridge of that VLAN, as br0.129";
        return Err(inexpressible(spec, "network interfaces in a VLAN", cure));
    }
    match &nic.network {
        // The helper makes the tap device; it allows the bridges that /etc/qemu/bridge.conf names.
        Network::Bridge(bridge) => Ok(json!({"type": "bridge", "id": format!("net-{id}"), "br": bridge})),
        Network::Nat => Ok(json!({"type": "user", "id": format!("net-{id}")})),
        Network::Named(name) => {
            Err(inexpressible(spec, format!("networks by name ({name})"), "name a bridge, or use nat"))
        }
    }
}

/// What the guest sees of a network interface, the `number`th.
pub(crate) fn nic_device(
    spec: &DomainSpec,
    board: Board,
    nic: &Nic,
    number: usize,
    boot: Option<u32>,
) -> Result<Value, VirtError> {
    let place = u32::try_from(nic.place_as(number)).unwrap_or(u32::MAX / 4);
    let driver = match nic.model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000 => "e1000",
        NicModel::E1000e => "e1000e",
        NicModel::Rtl8139 => "rtl8139",
        NicModel::Pcnet => "pcnet",
        NicModel::Netfront => {
            return Err(inexpressible(spec, "network interfaces of Xen's", "use virtio"));
        }
    };
    let id = nic_id(nic, number);
    let mut device = Map::new();
    device.insert("driver".into(), json!(driver));
    device.insert("netdev".into(), json!(format!("net-{id}")));
    device.insert("id".into(), json!(id));
    if let Some(mac) = nic.mac {
        device.insert("mac".into(), json!(mac.to_string()));
    }
    put(spec, &mut device, board, Place::Nic(place))?;
    if let Some(boot) = boot {
        device.insert("bootindex".into(), json!(boot));
    }
    if !spec.boot_order().contains(&BootDevice::Network) {
        // Without its boot ROM, which is a package of its own.
        device.insert("romfile".into(), json!(""));
    }
    Ok(Value::Object(device))
}
