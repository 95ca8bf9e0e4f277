//! What a machine is given and loses: size, disks, network interfaces; and a machine made from another.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use lb_virt::domain::{Bus, Cache, Disk, DiskDevice, Format, Mac, Memory, Network, Nic, NicModel, Source};
use lb_virt::hypervisor::{CloneRequest, Effect};

use crate::Failure;
use crate::host::Host;

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Size {
    /// Virtual CPUs; one that runs up to its definition's max-vcpus
    #[arg(long, value_name = "NUMBER")]
    vcpus: Option<u32>,
    /// Memory, as "1 GiB"; one that runs up to its definition's max-memory, as far as its guest gives memory back (the balloon)
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,
}

#[derive(Debug, Args)]
pub(crate) struct Clone {
    /// The machine that it is made from; it must be shut off
    template: String,
    /// Its name
    name: String,
    /// Where the images of its disks go
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Its images hold only what differs from the template's, which must then stay as they are
    #[arg(long)]
    linked: bool,
}

/// What a machine is given.
#[derive(Debug, Subcommand)]
pub(crate) enum Attach {
    /// A disk; says its name on the bus
    Disk(DiskArguments),
    /// A network interface; says its address
    Nic(NicArguments),
}

/// What a machine loses.
#[derive(Debug, Subcommand)]
pub(crate) enum Detach {
    /// A disk, by its name on the bus
    Disk { name: String, target: String },
    /// A network interface, by its address
    Nic { name: String, mac: Mac },
}

/// One of the names that an enum has.
macro_rules! named {
    ($kind:ident) => {
        PossibleValuesParser::new($kind::ALL.map($kind::name))
            .map(|name| $kind::from_name(&name).unwrap_or_else(|| unreachable!("it is one of the names")))
    };
}

#[derive(Debug, Args)]
pub(crate) struct DiskArguments {
    /// The machine
    name: String,
    /// The image, or with --block the device
    path: PathBuf,
    /// It is a block device of the host's
    #[arg(long)]
    block: bool,
    /// A drive for discs
    #[arg(long)]
    cdrom: bool,
    /// Its name on the bus; the first that is free if none is said
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Its bus
    #[arg(long, value_parser = named!(Bus), value_name = "BUS", default_value = "virtio")]
    bus: Bus,
    /// The image's format; by its ending if none is said
    #[arg(long, value_parser = named!(Format), value_name = "FORMAT")]
    format: Option<Format>,
    /// How the host caches it
    #[arg(long, value_parser = named!(Cache), value_name = "MODE")]
    cache: Option<Cache>,
    /// The guest only reads it
    #[arg(long)]
    read_only: bool,
    /// Other hosts reach it too
    #[arg(long)]
    shared: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NicArguments {
    /// The machine
    name: String,
    #[command(flatten)]
    on: On,
    /// What the guest sees
    #[arg(long, value_parser = named!(NicModel), value_name = "MODEL", default_value = "virtio")]
    model: NicModel,
    /// Its address; chosen if none is said
    #[arg(long)]
    mac: Option<Mac>,
    /// The VLAN that its packets are in
    #[arg(long)]
    vlan: Option<u16>,
}

/// What a network interface is connected to.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct On {
    /// On a bridge of the host's
    #[arg(long)]
    bridge: Option<String>,
    /// On a network that the hypervisor knows by name
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Behind the host's address
    #[arg(long)]
    nat: bool,
}

impl DiskArguments {
    fn disk(&self) -> Disk {
        let mut disk = Disk::file(&self.path).on(self.bus).named(self.target.as_deref().unwrap_or_default());
        if self.block {
            disk.source = Some(Source::Block(self.path.clone()));
        }
        if self.cdrom {
            (disk.device, disk.read_only) = (DiskDevice::Cdrom, true);
        }
        disk.format = self.format.unwrap_or(disk.format);
        (disk.cache, disk.read_only) = (self.cache, disk.read_only || self.read_only);
        disk.shared = self.shared;
        disk
    }
}

impl NicArguments {
    fn nic(&self) -> Nic {
        let mut nic = Nic::nat().model(self.model);
        if let Some(name) = &self.on.bridge {
            nic.network = Network::Bridge(name.clone());
        }
        if let Some(name) = &self.on.network {
            nic.network = Network::Named(name.clone());
        }
        (nic.mac, nic.vlan) = (self.mac, self.vlan);
        nic
    }
}

/// When it is so, if that is not now.
pub(crate) fn when(effect: Effect) -> &'static str {
    if effect == Effect::Now { "" } else { "when it is started next\n" }
}

pub(crate) fn resize(host: &mut Host, name: &str, to: &Size) -> Result<String, Failure> {
    let mut text = String::new();
    let mut note = |what: &str, effect| {
        if effect != Effect::Now {
            text += &format!("{what}: {}", when(effect));
        }
    };
    if let Some(vcpus) = to.vcpus {
        note("virtual CPUs", host.get().set_vcpus(name, vcpus)?);
    }
    if let Some(memory) = to.memory {
        note("memory", host.get().set_memory(name, memory)?);
    }
    Ok(text)
}

pub(crate) fn clone(host: &mut Host, clone: &Clone) -> Result<(), Failure> {
    let directory = std::path::absolute(&clone.directory)?;
    let request = CloneRequest { name: clone.name.clone(), directory, linked: clone.linked };
    Ok(host.get().clone_machine(&clone.template, &request)?)
}

pub(crate) fn attach(host: &mut Host, what: &Attach) -> Result<String, Failure> {
    let machines = host.get();
    let (effect, part) = match what {
        Attach::Disk(arguments) => {
            let effect = machines.attach_disk(&arguments.name, &arguments.disk())?;
            (effect, machines.spec(&arguments.name)?.disks.pop().map(|disk| disk.target))
        }
        Attach::Nic(arguments) => {
            let effect = machines.attach_nic(&arguments.name, &arguments.nic())?;
            let mac = machines.spec(&arguments.name)?.nics.pop().and_then(|nic| nic.mac);
            (effect, mac.map(|mac| mac.to_string()))
        }
    };
    Ok(format!("{}\n{}", part.unwrap_or_default(), when(effect)))
}

pub(crate) fn detach(host: &mut Host, what: &Detach) -> Result<String, Failure> {
    let effect = match what {
        Detach::Disk { name, target } => host.get().detach_disk(name, target)?,
        Detach::Nic { name, mac } => host.get().detach_nic(name, *mac)?,
    };
    Ok(when(effect).into())
}
