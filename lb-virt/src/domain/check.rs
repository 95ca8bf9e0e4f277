//! What must be right in a definition, whatever the hypervisor.

use std::collections::HashSet;
use std::path::Path;

use super::{BootDevice, Bus, Disk, DiskDevice, DomainSpec, Kind, Memory, Network, Source};

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The name can't be one.
    #[error(
        "{name:?} is no name for a machine: 1 to 128 letters, digits and any of `_.+:@-`, not beginning with `-` or `.`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// No virtual CPU, or more than a hypervisor has.
    #[error("{vcpus} virtual CPUs: give it 1 to {MOST_VCPUS}")]
    Vcpus {
        /// How many.
        vcpus: u32,
    },
    /// It starts with more than it may have.
    #[error("{vcpus} virtual CPUs at the start are more than the {most} that it may have: raise max-vcpus")]
    MaxVcpus {
        /// At the start.
        vcpus: u32,
        /// At most.
        most: u32,
    },
    /// The arrangement is for another number.
    #[error(
        "{sockets} sockets of {cores} cores of {threads} threads are not the {vcpus} virtual CPUs that it may have"
    )]
    Topology {
        /// Sockets.
        sockets: u32,
        /// Cores of a socket.
        cores: u32,
        /// Threads of a core.
        threads: u32,
        /// The most virtual CPUs.
        vcpus: u32,
    },
    /// Too little memory, or more than can be counted.
    #[error("{memory} of memory: give it 1 MiB to 64 TiB")]
    Memory {
        /// How much.
        memory: Memory,
    },
    /// It starts with more than it may have.
    #[error("{memory} at the start are more than the {most} that it may have: raise max-memory")]
    MaxMemory {
        /// At the start.
        memory: Memory,
        /// At most.
        most: Memory,
    },
    /// A path that a hypervisor could take for something else.
    #[error("the path {path:?} of {what}: write an absolute one, in UTF-8, without control characters")]
    Path {
        /// Whose it is.
        what: String,
        /// The path.
        path: String,
    },
    /// A text that a hypervisor could take for something else.
    #[error("{what} {text:?}: write 1 to {most} bytes without control characters{}", .also)]
    Text {
        /// What it is.
        what: &'static str,
        /// The text.
        text: String,
        /// How long it may be.
        most: usize,
        /// What else it must not have.
        also: &'static str,
    },
    /// The disk's name is none of its bus.
    #[error("disk {target:?} is on {bus}: call it {prefix}a, {prefix}b, …")]
    Target {
        /// The name.
        target: String,
        /// The bus.
        bus: Bus,
        /// How names on it begin.
        prefix: &'static str,
    },
    /// Two disks have one name.
    #[error("two disks are called {target:?}: give each a name of its own")]
    SameTarget {
        /// The name.
        target: String,
    },
    /// IDE has two channels of two.
    #[error("disk {target:?}: IDE has room for hda to hdd; put it on another bus")]
    TooManyIde {
        /// The name.
        target: String,
    },
    /// A disk without data.
    #[error("disk {target:?} has no source: only a drive (cdrom) can be without a disc")]
    NoSource {
        /// The name.
        target: String,
    },
    /// Two interfaces have one address.
    #[error("two network interfaces have the address {mac}: give each its own")]
    SameMac {
        /// The address.
        mac: super::Mac,
    },
    /// Two interfaces sit at one place.
    #[error("two network interfaces sit at place {place}: give each its own, or none of them any")]
    SamePlace {
        /// The place.
        place: usize,
    },
    /// An address of a group.
    #[error("{mac} is the address of a group: a network interface's first byte is even")]
    GroupMac {
        /// The address.
        mac: super::Mac,
    },
    /// There is no such VLAN.
    #[error("VLAN {vlan}: they are 1 to 4094")]
    Vlan {
        /// The number.
        vlan: u16,
    },
    /// No such bridge or network can be.
    #[error(
        "{name:?} is no name of a network: 1 to 63 letters, digits and any of `_.-`, not beginning with `-`"
    )]
    Network {
        /// The name.
        name: String,
    },
    /// Named twice.
    #[error("it boots from {device} twice: name each once")]
    Boot {
        /// The device.
        device: BootDevice,
    },
    /// A pin for a virtual CPU that is not there.
    #[error("virtual CPU {vcpu} is pinned, and the machine has at most {vcpus}")]
    Pin {
        /// Its number.
        vcpu: u32,
        /// How many there can be.
        vcpus: u32,
    },
    /// A virtual CPU that may run nowhere.
    #[error("virtual CPU {vcpu} is pinned to no CPU: name at least one, or do not pin it")]
    EmptyPin {
        /// Its number.
        vcpu: u32,
    },
    /// A port that no viewer looks at.
    #[error("the screen's port {port}: VNC's are 5900 to 65535")]
    Port {
        /// The port.
        port: u16,
    },
    /// A paravirtual guest needs a kernel or a boot loader of the host's.
    #[error("a {kind:?} guest has no firmware to boot by: name a kernel")]
    NoKernel {
        /// What it is built on.
        kind: Kind,
    },
}

/// KVM's limit on large machines.
const MOST_VCPUS: u32 = 4096;
/// The longest command line that x86 kernels read (`COMMAND_LINE_SIZE`, with its end).
const MOST_COMMAND_LINE: usize = 2047;
const LEAST_MEMORY: Memory = Memory::from_mib(1);
const MOST_MEMORY: Memory = Memory::from_mib(64 << 20);

impl DomainSpec {
    /// Checks what must be right for every hypervisor. Backends check it before they do anything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_name(&self.name)?;
        self.check_size()?;
        self.check_disks()?;
        self.check_networks()?;
        let mut seen = HashSet::new();
        if let Some(&device) = self.boot.iter().find(|device| !seen.insert(**device)) {
            return Err(SpecError::Boot { device });
        }
        match &self.kernel {
            Some(kernel) => {
                check_path("the kernel", &kernel.image)?;
                kernel.initrd.iter().try_for_each(|initrd| check_path("the initrd", initrd))?;
                if !kernel.command_line.is_empty() {
                    check_text("the kernel's command line", &kernel.command_line, MOST_COMMAND_LINE)?;
                }
            }
            None if self.kind != Kind::Hvm => return Err(SpecError::NoKernel { kind: self.kind }),
            None => {}
        }
        match &self.console {
            super::Console::File(path) | super::Console::Socket(path) => check_path("the console", path)?,
            super::Console::Pty | super::Console::None => {}
        }
        let words = [
            ("the board", self.machine.as_deref()),
            (
                "the processor",
                if let super::CpuModel::Named(name) = &self.cpu_model { Some(name) } else { None },
            ),
            ("the keyboard's layout", self.screen.as_ref().and_then(|screen| screen.keymap.as_deref())),
        ];
        for (what, word) in words {
            word.map_or(Ok(()), |word| check_word(what, word))?;
        }
        match self.screen.as_ref().and_then(|screen| screen.port) {
            Some(port @ ..5900) => Err(SpecError::Port { port }),
            _ => Ok(()),
        }
    }

    fn check_size(&self) -> Result<(), SpecError> {
        let (vcpus, most) = (self.vcpus, self.most_vcpus());
        if let Some(&vcpus) = [vcpus, most].iter().find(|vcpus| !(1..=MOST_VCPUS).contains(*vcpus)) {
            return Err(SpecError::Vcpus { vcpus });
        }
        if vcpus > most {
            return Err(SpecError::MaxVcpus { vcpus, most });
        }
        if let Some(super::CpuTopology { sockets, cores, threads }) = self.cpu_topology
            && sockets.checked_mul(cores).and_then(|cores| cores.checked_mul(threads)) != Some(most)
        {
            return Err(SpecError::Topology { sockets, cores, threads, vcpus: most });
        }
        let (memory, maximum) = (self.memory, self.most_memory());
        if let Some(&memory) =
            [memory, maximum].iter().find(|memory| !(LEAST_MEMORY..=MOST_MEMORY).contains(*memory))
        {
            return Err(SpecError::Memory { memory });
        }
        if memory > maximum {
            return Err(SpecError::MaxMemory { memory, most: maximum });
        }
        for (&vcpu, cpus) in &self.pins.vcpus {
            if vcpu >= most {
                return Err(SpecError::Pin { vcpu, vcpus: most });
            }
            if cpus.is_empty() {
                return Err(SpecError::EmptyPin { vcpu });
            }
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), SpecError> {
        let mut targets = HashSet::new();
        for disk in &self.disks {
            disk.validate()?;
            if !targets.insert(&disk.target) {
                return Err(SpecError::SameTarget { target: disk.target.clone() });
            }
        }
        Ok(())
    }

    fn check_networks(&self) -> Result<(), SpecError> {
        let (mut macs, mut places) = (HashSet::new(), HashSet::new());
        for (number, nic) in self.nics.iter().enumerate() {
            nic.validate()?;
            let place = nic.place_as(number);
            if !places.insert(place) {
                return Err(SpecError::SamePlace { place });
            }
            if let Some(mac) = nic.mac
                && !macs.insert(mac)
            {
                return Err(SpecError::SameMac { mac });
            }
        }
        Ok(())
    }
}

impl Disk {
    /// Checks a disk by itself.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        let target = self.target.clone();
        let Some(place) = self.bus.place(&target) else {
            return Err(SpecError::Target { target, bus: self.bus, prefix: self.bus.prefix() });
        };
        if self.bus == Bus::Ide && place > 3 {
            return Err(SpecError::TooManyIde { target });
        }
        match &self.source {
            Some(Source::File(path) | Source::Block(path)) => check_path(&format!("disk {target}"), path),
            None if self.device == DiskDevice::Cdrom => Ok(()),
            None => Err(SpecError::NoSource { target }),
        }
    }
}

impl super::Nic {
    /// Checks a network interface by itself.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        if let Network::Bridge(name) | Network::Named(name) = &self.network {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            if !(1..=63).contains(&name.len()) || name.starts_with('-') || !name.bytes().all(plain) {
                return Err(SpecError::Network { name: name.clone() });
            }
        }
        if let Some(vlan) = self.vlan
            && !(1..=4094).contains(&vlan)
        {
            return Err(SpecError::Vlan { vlan });
        }
        match self.mac {
            Some(mac) if mac.0[0] & 1 == 1 => Err(SpecError::GroupMac { mac }),
            _ => Ok(()),
        }
    }
}

/// Checks the name of a machine or of a snapshot: it becomes a file's name, an argument and a key, of many programs.
pub(crate) fn check_name(name: &str) -> Result<(), SpecError> {
    let plain = |character: char| character.is_alphanumeric() || "_.+:@-".contains(character);
    let fits = (1..=128).contains(&name.len()) && !name.starts_with(['-', '.']) && name.chars().all(plain);
    if fits { Ok(()) } else { Err(SpecError::Name { name: name.chars().take(128).collect() }) }
}

fn check_path(what: &str, path: &Path) -> Result<(), SpecError> {
    let text = path.to_str();
    if path.is_absolute() && text.is_some_and(|text| text.len() < 4096 && !text.chars().any(char::is_control))
    {
        return Ok(());
    }
    Err(SpecError::Path { what: what.into(), path: path.display().to_string() })
}

fn check_text(what: &'static str, text: &str, most: usize) -> Result<(), SpecError> {
    if (1..=most).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(SpecError::Text { what, text: text.chars().take(255).collect(), most, also: "" })
}

/// A name that a hypervisor gives a thing of its own.
fn check_word(what: &'static str, text: &str) -> Result<(), SpecError> {
    const MOST: usize = 64;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=MOST).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(plain) {
        return Ok(());
    }
    let also = ", only letters, digits and `_.-`";
    Err(SpecError::Text { what, text: text.chars().take(255).collect(), most: MOST, also })
}

#[cfg(test)]
mod tests {
    use super::super::{Console, CpuTopology, Kernel, Mac, Nic, Screen};
    use super::*;

    fn spec() -> DomainSpec {
        DomainSpec::new("web1", 4, Memory::from_mib(512)).disk(Disk::file("/a.qcow2")).nic(Nic::bridge("br0"))
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut DomainSpec);
        let table: &[(Change, &str)] = &[
            (|spec| spec.name.clear(), "\"\" is no name"),
            (|spec| spec.name = "-rf".into(), "\"-rf\" is no name"),
            (|spec| spec.name = "a/../b".into(), "is no name"),
            (|spec| spec.name = "a;reboot".into(), "is no name"),
            (|spec| spec.name = "x".repeat(129), "is no name"),
            (|spec| spec.vcpus = 0, "0 virtual CPUs: give it 1"),
            (|spec| spec.max_vcpus = Some(2), "4 virtual CPUs at the start are more than the 2"),
            (
                |spec| spec.cpu_topology = Some(CpuTopology { sockets: 2, cores: 4, threads: 1 }),
                "2 sockets of 4 cores of 1 threads are not the 4",
            ),
            (|spec| spec.memory = Memory::from_kib(1023), "1023 KiB of memory"),
            (
                |spec| spec.max_memory = Some(Memory::from_mib(256)),
                "512 MiB at the start are more than the 256 MiB",
            ),
            (|spec| spec.disks[0].target = "hda".into(), "disk \"hda\" is on virtio: call it vda"),
            (|spec| spec.disks.push(spec.disks[0].clone()), "two disks are called \"vda\""),
            (|spec| spec.disks[0].source = None, "disk \"vda\" has no source"),
            (|spec| spec.disks[0].source = Some(Source::File("a.img".into())), "write an absolute one"),
            (|spec| spec.disks[0].source = Some(Source::File("/a\n.img".into())), "control characters"),
            (|spec| spec.nics[0].network = Network::Bridge("br0,vlan=1".into()), "is no name of a network"),
            (|spec| spec.nics[0].vlan = Some(4095), "VLAN 4095"),
            (
                |spec| *spec = spec.clone().nic(Nic { place: Some(0), ..Nic::nat() }),
                "two network interfaces sit at place 0",
            ),
            (
                |spec| spec.nics[0].mac = Some(Mac([1, 0, 0x5e, 0, 0, 1])),
                "01:00:5e:00:00:01 is the address of a group",
            ),
            (|spec| spec.boot = vec![BootDevice::Cdrom, BootDevice::Cdrom], "boots from cdrom twice"),
            (|spec| drop(spec.pins.vcpus.insert(4, "0".parse().unwrap())), "virtual CPU 4 is pinned"),
            (|spec| drop(spec.pins.vcpus.insert(1, lb_affinity::CpuSet::new())), "pinned to no CPU"),
            (
                |spec| spec.screen = Some(Screen { port: Some(80), ..Screen::default() }),
                "the screen's port 80",
            ),
            (
                |spec| spec.screen = Some(Screen { keymap: Some("es,listen".into()), ..Screen::default() }),
                "the keyboard's layout \"es,listen\"",
            ),
            (|spec| spec.machine = Some("q35 -daemonize".into()), "the board"),
            (|spec| spec.kind = Kind::Paravirtual, "name a kernel"),
            (|spec| spec.console = Console::File("log".into()), "of the console"),
            (
                |spec| {
                    spec.kernel =
                        Some(Kernel { image: "/k".into(), initrd: None, command_line: "a\0b".into() });
                },
                "the kernel's command line",
            ),
        ];
        assert_eq!(spec().validate(), Ok(()));
        for (change, said) in table {
            let mut spec = spec();
            change(&mut spec);
            let error = spec.validate().unwrap_err().to_string();
            assert!(error.contains(said), "{error}: {said}");
        }
    }

    #[test]
    fn disks_get_the_first_free_name() {
        let spec = DomainSpec::new("a", 1, Memory::from_mib(64))
            .disk(Disk::file("/1").named("vdb"))
            .disk(Disk::file("/2"))
            .disk(Disk::file("/3"))
            .disk(Disk::cdrom("/4"))
            .disk(Disk::file("/5").on(Bus::Scsi))
            .disk(Disk::file("/6").on(Bus::Usb));
        let targets: Vec<&str> = spec.disks.iter().map(|disk| disk.target.as_str()).collect();
        assert_eq!(targets, ["vdb", "vda", "vdc", "hda", "sda", "sdb"]);
        assert_eq!(spec.validate(), Ok(()));
    }
}
