//! What a machine is: one definition for every hypervisor.

/// Serde writes a type as it prints, and reads it as it parses.
macro_rules! text_by_serde {
    ($name:ident) => {
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

mod change;
mod check;
mod disk;
mod memory;
mod nic;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use lb_affinity::CpuSet;
use lb_affinity::plan::vcpu::Machine;
use uuid::Uuid;

pub use check::SpecError;
pub use disk::{Bus, Cache, Disk, DiskDevice, Format, Source};
pub use memory::{Memory, ParseMemoryError};
pub use nic::{Mac, Network, Nic, NicModel, ParseMacError};

use crate::hypervisor::CloneRequest;
pub(crate) use check::check_name;
pub(crate) use disk::named;

/// The definition of a machine. Every hypervisor's backend writes its own configuration from it, and says what it can't
/// express.
///
/// ```
/// use lb_virt::domain::{Disk, Nic};
/// use lb_virt::{DomainSpec, Memory};
///
/// let spec = DomainSpec::new("web1", 4, Memory::from_mib(1500))
///     .disk(Disk::file("/srv/images/web1.qcow2").shared())
///     .nic(Nic::bridge("br0"));
/// assert_eq!(spec.disks[0].target, "vda");
/// spec.validate()?;
/// # Ok::<(), lb_virt::domain::SpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct DomainSpec {
    /// Its name, unique on its host.
    pub name: String,
    /// Its identity, the same on every host; `None` lets the hypervisor choose one.
    #[cfg_attr(feature = "serde", serde(default))]
    pub uuid: Option<Uuid>,
    /// Virtual CPUs at the start.
    pub vcpus: u32,
    /// The most virtual CPUs that it can be resized to while it runs. Default: as at the start.
    #[cfg_attr(feature = "serde", serde(default))]
    pub max_vcpus: Option<u32>,
    /// How the guest sees them arranged. Default: a socket each.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cpu_topology: Option<CpuTopology>,
    /// What processor the guest sees. Default: the hypervisor's choice.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cpu_model: CpuModel,
    /// Memory at the start.
    pub memory: Memory,
    /// The most memory that it can be resized to while it runs. Default: as at the start.
    #[cfg_attr(feature = "serde", serde(default))]
    pub max_memory: Option<Memory>,
    /// What it is built on. Default: the whole hardware.
    #[cfg_attr(feature = "serde", serde(default))]
    pub kind: Kind,
    /// Its instruction set. Default: `x86_64`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub arch: Arch,
    /// The hypervisor's name of its board (`pc`, `q35`). Default: the hypervisor's choice.
    #[cfg_attr(feature = "serde", serde(default))]
    pub machine: Option<String>,
    /// What its firmware offers.
    #[cfg_attr(feature = "serde", serde(default))]
    pub features: Features,
    /// What its clock shows.
    #[cfg_attr(feature = "serde", serde(default))]
    pub clock: Clock,
    /// Its disks, in the order in which it boots from them.
    #[cfg_attr(feature = "serde", serde(default))]
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    #[cfg_attr(feature = "serde", serde(default))]
    pub nics: Vec<Nic>,
    /// What it boots from, in order. Empty: disk.
    #[cfg_attr(feature = "serde", serde(default))]
    pub boot: Vec<BootDevice>,
    /// A kernel that the hypervisor loads instead.
    #[cfg_attr(feature = "serde", serde(default))]
    pub kernel: Option<Kernel>,
    /// What follows when the guest powers off. Default: it is shut off.
    #[cfg_attr(feature = "serde", serde(default = "destroy"))]
    pub on_poweroff: Action,
    /// What follows when the guest reboots. Default: it starts again.
    #[cfg_attr(feature = "serde", serde(default = "restart"))]
    pub on_reboot: Action,
    /// What follows when the guest crashes. Default: it is shut off.
    #[cfg_attr(feature = "serde", serde(default = "destroy"))]
    pub on_crash: Action,
    /// Its serial console.
    #[cfg_attr(feature = "serde", serde(default))]
    pub console: Console,
    /// Its screen; `None` for none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub screen: Option<Screen>,
    /// A pointer that is where the viewer's is (a USB tablet).
    #[cfg_attr(feature = "serde", serde(default))]
    pub tablet: bool,
    /// A device by which the host takes memory back. Default: yes.
    #[cfg_attr(feature = "serde", serde(default = "yes"))]
    pub balloon: bool,
    /// Where its virtual CPUs run.
    #[cfg_attr(feature = "serde", serde(default))]
    pub pins: Pins,
    /// Whether it works its disks hard: such machines should be on different hosts.
    #[cfg_attr(feature = "serde", serde(default))]
    pub io_heavy: bool,
}

#[cfg(feature = "serde")]
const fn destroy() -> Action {
    Action::Destroy
}

#[cfg(feature = "serde")]
const fn restart() -> Action {
    Action::Restart
}

#[cfg(feature = "serde")]
const fn yes() -> bool {
    true
}

impl DomainSpec {
    /// A machine without disks and networks, with every default.
    #[must_use]
    pub fn new(name: &str, vcpus: u32, memory: Memory) -> Self {
        Self {
            name: name.into(),
            uuid: None,
            vcpus,
            max_vcpus: None,
            cpu_topology: None,
            cpu_model: CpuModel::Default,
            memory,
            max_memory: None,
            kind: Kind::Hvm,
            arch: Arch::X86_64,
            machine: None,
            features: Features::default(),
            clock: Clock::Utc,
            disks: Vec::new(),
            nics: Vec::new(),
            boot: Vec::new(),
            kernel: None,
            on_poweroff: Action::Destroy,
            on_reboot: Action::Restart,
            on_crash: Action::Destroy,
            console: Console::Pty,
            screen: None,
            tablet: false,
            balloon: true,
            pins: Pins::default(),
            io_heavy: false,
        }
    }

    /// With another disk; one without a name gets the first that is free on its bus.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self.with_targets()
    }

    /// With another network interface.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Booted by a kernel of the host's.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Gives every disk without a name the first that is free on its bus. Disks of other buses that share the names count too.
    #[must_use]
    pub fn with_targets(mut self) -> Self {
        for at in 0..self.disks.len() {
            if self.disks[at].target.is_empty() {
                let bus = self.disks[at].bus;
                let taken = |target: &String| self.disks.iter().any(|disk| disk.target == *target);
                let free = (0..).map(|place| bus.target(place)).find(|target| !taken(target));
                self.disks[at].target = free.unwrap_or_default();
            }
        }
        self
    }

    /// The definition of its clone: other images, identity and addresses, and no place of its own to run.
    pub(crate) fn for_clone(&self, request: &CloneRequest) -> Self {
        let mut clone =
            Self { name: request.name.clone(), uuid: None, pins: Pins::default(), ..self.clone() };
        clone.nics.iter_mut().for_each(|nic| nic.mac = None);
        // A drive's disc is everybody's, and an empty one's is none.
        let own =
            |disk: &&mut Disk| !disk.read_only && disk.source.is_some() && disk.device != DiskDevice::Cdrom;
        for disk in clone.disks.iter_mut().filter(own) {
            // What only differs from the template's can be written in one format alone.
            let format = if request.linked { Format::Qcow2 } else { disk.format };
            let image = format!("{}-{}.{format}", request.name, disk.target);
            (disk.source, disk.format) = (Some(Source::File(request.directory.join(image))), format);
        }
        clone
    }

    /// The most virtual CPUs that it can have while it runs.
    #[must_use]
    pub fn most_vcpus(&self) -> u32 {
        self.max_vcpus.unwrap_or(self.vcpus)
    }

    /// The most memory that it can have while it runs.
    #[must_use]
    pub fn most_memory(&self) -> Memory {
        self.max_memory.unwrap_or(self.memory)
    }

    /// The devices that it boots from, in order.
    #[must_use]
    pub fn boot_order(&self) -> &[BootDevice] {
        if self.boot.is_empty() { &[BootDevice::Disk] } else { &self.boot }
    }
}

/// How the guest sees its virtual CPUs arranged; their product is [`DomainSpec::most_vcpus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct CpuTopology {
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// What processor the guest sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum CpuModel {
    /// The hypervisor's choice.
    #[default]
    Default,
    /// The host's own. A machine with it migrates only between equal hosts.
    Host,
    /// A model that the hypervisor knows by name.
    Named(String),
}

/// What a machine is built on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Kind {
    /// Hardware virtualization of a whole machine.
    #[default]
    Hvm,
    /// Xen: the guest knows that it is one.
    Paravirtual,
    /// Xen: a paravirtual guest in a hardware container.
    Pvh,
}

named! {
    /// An instruction set.
    #[derive(Default)]
    Arch {
        /// Of 64 bits, AMD's and Intel's.
        #[default]
        X86_64 = "x86_64",
        /// Of 32 bits, Intel's.
        I686 = "i686",
        /// Of 64 bits, Arm's.
        Aarch64 = "aarch64",
    }
}

/// What a machine's firmware and processor offer. Default: ACPI, APIC and PAE, as every guest of today expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Features {
    /// Power management; without it, shutting down asks nobody.
    pub acpi: bool,
    /// Interrupts for several virtual CPUs.
    pub apic: bool,
    /// More than 4 GiB for guests of 32 bits.
    pub pae: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { acpi: true, apic: true, pae: true }
    }
}

named! {
    /// What a machine's clock shows.
    #[derive(Default)]
    Clock {
        /// Universal time.
        #[default]
        Utc = "utc",
        /// The host's local time.
        Localtime = "localtime",
    }
}

named! {
    /// What a machine boots from.
    BootDevice {
        /// Its disks, in their order.
        Disk = "hd",
        /// Its drives.
        Cdrom = "cdrom",
        /// Its network interfaces.
        Network = "network",
    }
}

/// A kernel that the hypervisor loads, without firmware and boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Kernel {
    /// The kernel.
    pub image: PathBuf,
    /// Its first file system.
    #[cfg_attr(feature = "serde", serde(default))]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[cfg_attr(feature = "serde", serde(default))]
    pub command_line: String,
}

named! {
    /// What follows when a guest ends.
    Action {
        /// The machine is shut off.
        Destroy = "destroy",
        /// It starts again.
        Restart = "restart",
        /// It stays as it is, to be looked at.
        Preserve = "preserve",
        /// It starts again under another name, and the old one stays.
        RenameRestart = "rename-restart",
    }
}

/// Where a machine's serial line ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Console {
    /// At a pseudo-terminal of the host.
    #[default]
    Pty,
    /// In a file.
    File(PathBuf),
    /// At a unix socket that the hypervisor listens on.
    Socket(PathBuf),
    /// It has none.
    None,
}

/// A screen that is seen by VNC (RFC 6143).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Screen {
    /// The TCP port, from 5900 on; `None`: the first that is free.
    pub port: Option<u16>,
    /// The host's address that it is seen at; `None`: 127.0.0.1.
    pub listen: Option<IpAddr>,
    /// The keyboard's layout: `es`, `de-ch`; `None`: the viewer's.
    pub keymap: Option<String>,
}

/// Which CPUs of the host virtual CPUs run on. Default: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Pins {
    /// By the number of the virtual CPU; those that are not named run anywhere.
    pub vcpus: BTreeMap<u32, CpuSet>,
    /// The hypervisor's own threads of the machine; none: anywhere.
    pub emulator: CpuSet,
}

impl Pins {
    /// Whether nothing is pinned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vcpus.is_empty() && self.emulator.is_empty()
    }
}

impl From<&Machine> for Pins {
    /// Each virtual CPU on a CPU of its own, as it was planned.
    fn from(plan: &Machine) -> Self {
        let vcpus = (0..).zip(&plan.cpus).map(|(vcpu, &cpu)| (vcpu, CpuSet::from(cpu))).collect();
        Self { vcpus, emulator: plan.emulator.clone() }
    }
}
