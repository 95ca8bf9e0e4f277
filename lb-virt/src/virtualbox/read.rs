//! Reads what VBoxManage says of machines.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;
use std::time::Duration;

use uuid::Uuid;

use super::{CONTROLLERS, NIC_TYPES, NICS, OWN};
use crate::domain::{
    Arch, BootDevice, Bus, Clock, Console, Disk, DiskDevice, DomainSpec, Features, Format, Memory, Network,
    Nic, Source, SpecError,
};
use crate::hypervisor::{Host, Snapshot};
use crate::state::State;

/// Why a text is no definition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A text in quotes has no end.
    #[error("the value of {key} has no end")]
    Quote {
        /// Whose value.
        key: String,
    },
    /// Something is not there.
    #[error("there is no {0}")]
    Missing(String),
    /// Something has a value that is not known here.
    #[error("{key} is {value:?}, which is not known here")]
    Unknown {
        /// What.
        key: String,
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

/// Keys and values, as `VBoxManage … --machinereadable` prints them: `key=value`, either of which may be in quotes. Within these a
/// backslash stands before a quote or a backslash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info(BTreeMap<String, String>);

impl Info {
    /// Reads a text; lines that have no key and value are passed over.
    ///
    /// # Errors
    /// [`ReadError::Quote`].
    pub fn read(text: &str) -> Result<Self, ReadError> {
        let mut values = BTreeMap::new();
        let mut characters = text.chars().peekable();
        while characters.peek().is_some() {
            let key = match characters.next_if_eq(&'"') {
                Some(_) => quoted(&mut characters).ok_or_else(|| ReadError::Quote { key: "a key".into() })?,
                None => until(&mut characters, |character| matches!(character, '=' | '\n')),
            };
            if characters.next_if_eq(&'=').is_some() {
                let value = match characters.next_if_eq(&'"') {
                    Some(_) => {
                        quoted(&mut characters).ok_or_else(|| ReadError::Quote { key: key.clone() })?
                    }
                    None => until(&mut characters, |character| character == '\n').trim_end().into(),
                };
                values.insert(key, value);
            }
            // What follows the quotes says nothing here: `VideoMode="720,400,0"@0,0 1`.
            until(&mut characters, |character| character == '\n');
            characters.next();
        }
        Ok(Self(values))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn required(&self, key: &str) -> Result<&str, ReadError> {
        self.get(key).ok_or_else(|| ReadError::Missing(key.into()))
    }

    fn number<N: std::str::FromStr>(&self, key: &str) -> Result<N, ReadError> {
        self.required(key)?.parse().map_err(|_| self.unknown(key))
    }

    fn on(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, |value| value == "on")
    }

    fn unknown(&self, key: &str) -> ReadError {
        let value = self.get(key).unwrap_or_default().chars().take(100).collect();
        ReadError::Unknown { key: key.into(), value }
    }

    /// What the machine is doing.
    #[must_use]
    pub fn state(&self) -> State {
        match self.get("VMState") {
            // What is saved goes on when it is started.
            Some("poweroff" | "saved") => State::ShutOff,
            Some(
                "running" | "starting" | "restoring" | "livesnapshotting" | "onlinesnapshotting"
                | "teleporting",
            ) => State::Running,
            Some("paused" | "teleportingpausedvm") => State::Paused,
            Some("stopping" | "saving") => State::ShuttingDown,
            Some("aborted" | "aborted-saved" | "gurumeditation") => State::Crashed,
            _ => State::Unknown,
        }
    }

    /// Its virtual CPUs and its memory.
    pub(super) fn size(&self) -> Result<(u32, Memory), ReadError> {
        Ok((self.number("cpus")?, Memory::from_mib(self.number("memory")?)))
    }

    /// The definition of the machine. What this crate has put beside it is in `own`: `Key: …, Value: …`, as `VBoxManage
    /// getextradata … enumerate` prints it.
    ///
    /// # Errors
    /// If it is no machine, or has a disk or a network that can't be expressed.
    pub fn spec(&self, own: &str) -> Result<DomainSpec, ReadError> {
        let (vcpus, memory) = self.size()?;
        let mut spec = DomainSpec::new(self.required("name")?, vcpus, memory);
        spec.uuid = Some(self.required("UUID")?.parse().map_err(|_| self.unknown("UUID"))?);
        if self.get("ostype").is_some_and(|system| !system.contains("64")) {
            spec.arch = Arch::I686;
        }
        spec.machine = self.get("chipset").filter(|chipset| *chipset != "piix3").map(Into::into);
        spec.features = Features {
            acpi: self.on("acpi", true),
            apic: self.on("ioapic", true),
            pae: self.on("pae", true),
        };
        spec.clock = if self.on("rtcuseutc", false) { Clock::Utc } else { Clock::Localtime };
        for number in 1..=4 {
            match self.get(&format!("boot{number}")) {
                Some("disk") => spec.boot.push(BootDevice::Disk),
                Some("dvd") => spec.boot.push(BootDevice::Cdrom),
                Some("net") => spec.boot.push(BootDevice::Network),
                _ => {}
            }
        }
        spec.tablet = self.get("hidpointing") == Some("usbtablet");
        spec.console = self.console();
        spec.disks = self.disks();
        for number in 1..=NICS {
            spec.nics.extend(self.nic(number)?);
        }
        for (key, value) in own.lines().filter_map(own_value) {
            match key {
                "max-vcpus" => spec.max_vcpus = value.parse().ok().filter(|most| *most >= vcpus),
                "max-memory" => spec.max_memory = value.parse().ok().filter(|most| *most >= memory),
                "io-heavy" => spec.io_heavy = true,
                "shared" => {
                    let shared = |disk: &&mut Disk| value.split(' ').any(|target| disk.target == target);
                    spec.disks.iter_mut().filter(shared).for_each(|disk| disk.shared = true);
                }
                _ => {}
            }
        }
        spec.validate().map_err(|source| ReadError::Spec { name: spec.name.clone(), source })?;
        Ok(spec)
    }

    fn console(&self) -> Console {
        if self.get("uart1").is_none_or(|line| line == "off") {
            return Console::None;
        }
        match self.get("uartmode1").and_then(|mode| mode.split_once(',')) {
            Some(("server", path)) => Console::Socket(path.into()),
            Some(("file", path)) => Console::File(path.into()),
            // It goes somewhere else: to nobody here.
            _ => Console::None,
        }
    }

    /// The controllers' names and numbers, by kind.
    pub(super) fn controllers(&self) -> impl Iterator<Item = (Bus, &str)> {
        (0..64)
            .map_while(|number| {
                let name = self.get(&format!("storagecontrollername{number}"))?;
                let kind = self.get(&format!("storagecontrollertype{number}"))?;
                Some((kind, name))
            })
            .filter_map(|(kind, name)| {
                let known = CONTROLLERS.iter().find(|controller| controller.kinds.contains(&kind));
                known.map(|controller| (controller.bus, name))
            })
    }

    fn disks(&self) -> Vec<Disk> {
        let mut disks = Vec::new();
        for (bus, controller) in self.controllers() {
            for place in 0..256 {
                let (port, device) = if bus == Bus::Ide { (place / 2, place % 2) } else { (place, 0) };
                let medium = self.get(&format!("{controller}-{port}-{device}"));
                let Some(medium) = medium.filter(|medium| *medium != "none") else { continue };
                let disk = Disk { bus, target: bus.target(place), ..disk_of(medium) };
                disks.push(disk);
            }
        }
        disks
    }

    fn nic(&self, number: u32) -> Result<Option<Nic>, ReadError> {
        let key = |what: &str| format!("{what}{number}");
        let network = match self.get(&key("nic")) {
            None | Some("none" | "null") => return Ok(None),
            Some("nat") => Network::Nat,
            Some("bridged") => Network::Bridge(self.required(&key("bridgeadapter"))?.into()),
            Some("intnet") => Network::Named(self.required(&key("intnet"))?.into()),
            Some(_) => return Err(self.unknown(&key("nic"))),
        };
        let kind = self.required(&key("nictype"))?;
        let model =
            NIC_TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)).map(|(_, model)| *model);
        let address = self.get(&key("macaddress"));
        Ok(Some(Nic {
            network,
            model: model.ok_or_else(|| self.unknown(&key("nictype")))?,
            mac: address.map(|mac| mac.parse().map_err(|_| self.unknown(&key("macaddress")))).transpose()?,
            vlan: None,
            place: None,
        }))
    }

    /// The places of a disk and of an interface, as this machine has them: controller, port, device.
    pub(super) fn place(&self, disk: &Disk) -> Option<(String, u32, u32)> {
        let place = disk.bus.place(&disk.target)?;
        let (_, controller) = self.controllers().find(|(bus, _)| *bus == disk.bus)?;
        let (port, device) = if disk.bus == Bus::Ide { (place / 2, place % 2) } else { (place, 0) };
        Some((controller.into(), port, device))
    }

    /// The number of the interface with an address, or of the first that is free.
    pub(super) fn slot(&self, mac: Option<crate::domain::Mac>) -> Option<u32> {
        (1..=NICS).find(|number| match (self.nic(*number), mac) {
            (Ok(None), None) => true,
            (Ok(Some(nic)), Some(_)) => nic.mac == mac,
            _ => false,
        })
    }

    /// Snapshots, from `snapshot … list --machinereadable`: with their identities, the oldest first.
    pub(super) fn snapshots(&self) -> Vec<(Uuid, Snapshot)> {
        let named = self.0.iter().filter_map(|(key, name)| Some((key.strip_prefix("SnapshotName")?, name)));
        let mut snapshots: Vec<(Uuid, Snapshot)> = named
            .filter_map(|(node, name)| {
                let uuid = self.get(&format!("SnapshotUUID{node}"))?.parse().ok()?;
                let words = self.get(&format!("SnapshotDescription{node}")).unwrap_or_default();
                let mut words = words.strip_prefix(OWN).unwrap_or_default().split(' ');
                let state = match words.next() {
                    Some("running") => State::Running,
                    Some("paused") => State::Paused,
                    Some("shut-off") => State::ShutOff,
                    // It was taken by somebody else.
                    _ => State::Unknown,
                };
                let taken = words.next().and_then(|time| time.parse().ok()).unwrap_or_default();
                let snapshot = Snapshot { name: name.clone(), state, taken: Duration::from_millis(taken) };
                Some((uuid, snapshot))
            })
            .collect();
        snapshots.sort_by_key(|(_, snapshot)| snapshot.taken);
        snapshots
    }
}

/// `Key: lb-virt/KEY, Value: VALUE`.
fn own_value(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("Key: ")?.strip_prefix(OWN)?.split_once(", Value: ")
}

/// A disc by its name's ending, as the writer demands it; else a disk.
fn disk_of(medium: &str) -> Disk {
    if medium == "emptydrive" {
        return Disk { source: None, ..Disk::cdrom("") };
    }
    let ending = Path::new(medium).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let disk = Disk { source: Some(Source::File(medium.into())), ..Disk::file("") };
    match ending.to_ascii_lowercase().as_str() {
        "iso" => Disk { device: DiskDevice::Cdrom, read_only: true, ..disk },
        "vdi" => Disk { format: Format::Vdi, ..disk },
        "vmdk" => Disk { format: Format::Vmdk, ..disk },
        "vhd" => Disk { format: Format::Vhd, ..disk },
        _ => disk,
    }
}

fn until(characters: &mut Peekable<Chars<'_>>, end: impl Fn(char) -> bool) -> String {
    std::iter::from_fn(|| characters.next_if(|character| !end(*character))).collect()
}

/// What is left of a text in quotes, without the last of these.
fn quoted(characters: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut text = String::new();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            // Older versions write a backslash as it is.
            '\\' => text.push(characters.next_if(|next| matches!(next, '"' | '\\')).unwrap_or('\\')),
            other => text.push(other),
        }
    }
}

/// Machines and their identities: `"NAME" {UUID}` a line, as `VBoxManage list vms` prints them.
pub(super) fn list(text: &str) -> Vec<(String, Uuid)> {
    let machines = text.lines().filter_map(|line| {
        let (name, uuid) = line.trim_end().strip_suffix('}')?.rsplit_once(" {")?;
        Some((name.strip_prefix('"')?.strip_suffix('"')?.to_owned(), uuid.parse().ok()?))
    });
    machines.collect()
}

/// The host, from `VBoxManage list hostinfo`.
pub(super) fn host(text: &str, version: &str, name: &str) -> Option<Host> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.trim())
    };
    let memory = |key| value(key)?.strip_suffix(" MByte")?.parse().ok().map(Memory::from_mib);
    Some(Host {
        name: name.into(),
        version: format!("VirtualBox {version}"),
        cpus: value("Processor count")?.parse().ok()?,
        memory: memory("Memory size")?,
        free_memory: memory("Memory available"),
        accelerated: value("Processor supports HW virtualization") != Some("no"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_read_with_their_quotes() {
        let info = Info::read(concat!(
            "name=\"a \\\"b\\\" \\\\ c\"\nmemory=2048\n\"SATA x-0-0\"=\"/srv/a=b.vdi\"\r\n",
            "VideoMode=\"720,400,0\"@0,0 1\ndescription=\"two\nlines\"\nCfgFile=\"C:\\Users\\x\"\n\n",
            "GuestAdditionsFacility_VirtualBox Base Driver=50,1458910695598\nno value here\nempty=\nlast=\"\"",
        ))
        .unwrap();
        for (key, value) in [
            ("name", "a \"b\" \\ c"),
            ("memory", "2048"),
            ("SATA x-0-0", "/srv/a=b.vdi"),
            ("VideoMode", "720,400,0"),
            ("description", "two\nlines"),
            ("CfgFile", "C:\\Users\\x"),
            ("GuestAdditionsFacility_VirtualBox Base Driver", "50,1458910695598"),
            ("empty", ""),
            ("last", ""),
        ] {
            assert_eq!(info.get(key), Some(value), "{key}");
        }
        assert_eq!(info.0.len(), 9);
        assert!(matches!(Info::read("a=\"b"), Err(ReadError::Quote { key }) if key == "a"));
        assert!(matches!(Info::read("\"a"), Err(ReadError::Quote { .. })));
    }

    #[test]
    fn lists_are_read_from_the_right() {
        let text = "\"web1\" {295e77c3-d922-4849-93de-4422b8c08880}\n\"a \"b\" {c}\" {295e77c3-d922-4849-93de-4422b8c08881}\n\
                    \"<inaccessible>\" {295e77c3}\nnothing\n";
        let names: Vec<String> = list(text).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["web1", "a \"b\" {c}"]);
    }

    #[test]
    fn a_host_says_what_it_has() {
        let text = "Host Information:\n\nHost time: 2024-02-03T10:11:12.000000000Z\nProcessor online count: 8\nProcessor count: 8\n\
                    Processor supports HW virtualization: yes\nMemory size: 15899 MByte\nMemory available: 8123 MByte\n";
        let read = host(text, "7.0.14r161095", "node1").unwrap();
        assert_eq!(
            (read.cpus, read.memory, read.free_memory),
            (8, Memory::from_mib(15899), Some(Memory::from_mib(8123)))
        );
        assert!(read.accelerated && read.version == "VirtualBox 7.0.14r161095");
        assert!(host("Processor count: x", "", "").is_none());
    }
}
