//! A stand-in for `VBoxManage` of VirtualBox 7.0.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Answer, ask};

#[derive(Default, Deserialize, Serialize)]
struct Host {
    machines: Vec<Machine>,
}

/// What a snapshot keeps.
#[derive(Clone, Default, Deserialize, Serialize)]
struct Hardware {
    settings: BTreeMap<String, String>,
    /// Name, kind, ports.
    controllers: Vec<(String, String, u32)>,
    /// By `CONTROLLER-PORT-DEVICE`.
    media: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
struct Machine {
    name: String,
    uuid: Uuid,
    state: String,
    hardware: Hardware,
    extra: BTreeMap<String, String>,
    snapshots: Vec<Kept>,
    current: Option<Uuid>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Kept {
    name: String,
    uuid: Uuid,
    description: String,
    parent: Option<Uuid>,
    ran: bool,
    hardware: Hardware,
}

type Done = Result<String, String>;

/// A call that has all the words of the file `fail` fails, whatever it is.
pub fn answer(directory: &Path, arguments: &[&str]) -> Answer {
    if let Ok(words) = fs::read_to_string(directory.join("fail"))
        && words.split(' ').all(|word| arguments.contains(&word))
    {
        return Answer::fails("VBoxManage: error: The object functionality is limited\n");
    }
    match ask(&directory.join("vbox.json"), |host: &mut Host| host.obey(arguments)) {
        Ok(said) => Answer::says(said),
        Err(words) => Answer::fails(format!("VBoxManage: error: {words}\n")),
    }
}

const PROGRESS: &str = "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n";

impl Host {
    fn obey(&mut self, arguments: &[&str]) -> Done {
        match arguments {
            ["--version"] => Ok("7.0.14r161095\n".into()),
            ["list", "vms"] => {
                let line = |machine: &Machine| format!("\"{}\" {{{}}}\n", machine.name, machine.uuid);
                Ok(self.machines.iter().map(line).collect())
            }
            ["list", "hostinfo"] => Ok("Host Information:\n\nHost time: 2024-02-03T10:11:12.000000000Z\n\
                Processor online count: 8\nProcessor count: 8\nProcessor online core count: 4\nProcessor core count: 4\n\
                Processor supports HW virtualization: yes\nProcessor supports PAE: yes\nMemory size: 15899 MByte\n\
                Memory available: 8123 MByte\nOperating system: Linux\n"
                .into()),
            ["createvm", "--name", name, "--uuid", uuid, "--ostype", system, "--register"] => self.create(name, uuid, system),
            ["modifyvm", id, options @ ..] => {
                let machine = self.mutable(id)?;
                // All of them or none.
                let mut settings = machine.hardware.settings.clone();
                modify(&mut settings, options)?;
                machine.hardware.settings = settings;
                Ok(String::new())
            }
            ["storagectl", id, "--name", name, "--add", add, "--controller", kind, "--portcount", ports, "--bootable", "on"] => {
                let kinds = [("ide", "PIIX4", 2), ("sata", "IntelAhci", 30), ("scsi", "LsiLogic", 16), ("virtio", "VirtioSCSI", 256)];
                let ports: u32 = ports.parse().map_err(|_| "Invalid port count".to_owned())?;
                if !kinds.iter().any(|(known, of, most)| known == add && of == kind && ports <= *most) {
                    return Err(format!("Invalid --controller argument '{kind}' for --add {add} with {ports} ports"));
                }
                let machine = self.mutable(id)?;
                if machine.hardware.controllers.iter().any(|(known, ..)| known == name) {
                    return Err(format!("Storage controller named '{name}' already exists"));
                }
                machine.hardware.controllers.push(((*name).into(), (*kind).into(), ports));
                Ok(String::new())
            }
            ["storageattach", id, "--storagectl", controller, "--port", port, "--device", device, "--type", kind, "--medium", medium] => {
                self.attach(id, controller, (port, device), kind, medium)
            }
            ["setextradata", id, key] => {
                self.find(id)?.extra.remove(*key);
                Ok(String::new())
            }
            ["setextradata", id, key, value] => {
                self.find(id)?.extra.insert((*key).into(), (*value).into());
                Ok(String::new())
            }
            ["getextradata", id, "enumerate"] => {
                let line = |(key, value): (&String, &String)| format!("Key: {key}, Value: {value}\n");
                Ok(self.find(id)?.extra.iter().map(line).collect())
            }
            ["showvminfo", id, "--machinereadable"] => Ok(self.find(id)?.info()),
            ["unregistervm", id, "--delete"] => {
                let uuid = self.mutable(id)?.uuid;
                let at = self.machines.iter().position(|machine| machine.uuid == uuid).unwrap();
                let machine = self.machines.remove(at);
                for medium in machine.hardware.media.values().filter(|medium| !medium.ends_with(".iso") && *medium != "emptydrive") {
                    fs::remove_file(medium).map_err(|error| error.to_string())?;
                }
                Ok(PROGRESS.into())
            }
            ["startvm", id, "--type", "headless"] => {
                let machine = self.mutable(id)?;
                if let Some(missing) = machine.hardware.media.values().find(|medium| *medium != "emptydrive" && !fs::exists(medium).unwrap()) {
                    return Err(format!("Could not open the medium '{missing}'.\nVBoxManage: error: VD: error VERR_FILE_NOT_FOUND opening image file '{missing}' (VERR_FILE_NOT_FOUND)"));
                }
                machine.state = "running".into();
                Ok(format!("Waiting for VM \"{id}\" to power on...\nVM \"{id}\" has been successfully started.\n"))
            }
            ["controlvm", id, word] => self.find(id)?.control(word),
            ["snapshot", id, "take", name, "--description", description] => {
                let machine = self.find(id)?;
                let kept = Kept {
                    name: (*name).into(),
                    uuid: Uuid::from_u128(fastrand::u128(..)),
                    description: (*description).into(),
                    parent: machine.current,
                    ran: machine.runs(),
                    hardware: machine.hardware.clone(),
                };
                machine.current = Some(kept.uuid);
                let said = format!("{PROGRESS}Snapshot taken. UUID: {}\n", kept.uuid);
                machine.snapshots.push(kept);
                Ok(said)
            }
            ["snapshot", id, "list", "--machinereadable"] => self.find(id)?.list(),
            ["snapshot", id, "restore", snapshot] => {
                let machine = self.mutable(id)?;
                let kept = machine.snapshot(snapshot)?;
                machine.hardware = kept.hardware;
                machine.current = Some(kept.uuid);
                machine.state = if kept.ran { "saved" } else { "poweroff" }.into();
                Ok(format!("Restoring snapshot '{}' ({})\n{PROGRESS}", kept.name, kept.uuid))
            }
            ["snapshot", id, "delete", snapshot] => {
                let machine = self.find(id)?;
                let gone = machine.snapshot(snapshot)?;
                let children = machine.snapshots.iter().filter(|kept| kept.parent == Some(gone.uuid)).count();
                if children > 1 {
                    return Err(format!("Hard disk has more than one child hard disk ({children})"));
                }
                machine.snapshots.retain(|kept| kept.uuid != gone.uuid);
                machine.snapshots.iter_mut().filter(|kept| kept.parent == Some(gone.uuid)).for_each(|kept| kept.parent = gone.parent);
                if machine.current == Some(gone.uuid) {
                    machine.current = gone.parent;
                }
                Ok(PROGRESS.into())
            }
            ["clonemedium", "disk", from, to] => {
                if fs::exists(to).unwrap() {
                    return Err(format!("Failed to clone medium\nVBoxManage: error: Could not create the clone medium '{to}' (VERR_ALREADY_EXISTS)"));
                }
                fs::copy(from, to).map_err(|_| format!("Could not find file for the medium '{from}' (VERR_FILE_NOT_FOUND)"))?;
                Ok(format!("{PROGRESS}Clone medium created in format 'VDI'. UUID: {}\n", Uuid::from_u128(fastrand::u128(..))))
            }
            ["closemedium", "disk", path, "--delete"] => {
                fs::remove_file(path).map_err(|error| error.to_string())?;
                Ok(PROGRESS.into())
            }
            _ => Err(format!("the stand-in does not know {arguments:?}")),
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Machine, String> {
        let found =
            self.machines.iter_mut().find(|machine| machine.name == id || machine.uuid.to_string() == id);
        found.ok_or_else(|| {
            format!(
                "Could not find a registered machine named '{id}'\n\
                 VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface \
                 IVirtualBox, callee nsISupports"
            )
        })
    }

    fn mutable(&mut self, id: &str) -> Result<&mut Machine, String> {
        let machine = self.find(id)?;
        if machine.runs() {
            return Err(format!(
                "The machine '{}' is already locked for a session (or being unlocked)\n\
                 VBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MachineWrap, interface IMachine",
                machine.name
            ));
        }
        Ok(machine)
    }

    fn create(&mut self, name: &str, uuid: &str, system: &str) -> Done {
        let systems = [("Other", "Other/Unknown"), ("Other_64", "Other/Unknown (64-bit)")];
        let (_, system) = systems
            .into_iter()
            .find(|(id, _)| *id == system)
            .ok_or_else(|| format!("Guest OS type '{system}' is invalid"))?;
        if self.machines.iter().any(|machine| machine.name == name) {
            return Err(format!(
                "Machine settings file '/home/user/VirtualBox VMs/{name}/{name}.vbox' already exists"
            ));
        }
        let uuid: Uuid = uuid.parse().map_err(|_| format!("Cannot parse UUID {uuid}"))?;
        let defaults = [
            ("ostype", system),
            ("memory", "128"),
            ("cpus", "1"),
            ("chipset", "piix3"),
            ("acpi", "on"),
            ("ioapic", "off"),
            ("pae", "on"),
            ("rtcuseutc", "off"),
            ("boot1", "floppy"),
            ("boot2", "dvd"),
            ("boot3", "disk"),
            ("boot4", "none"),
            ("nic1", "nat"),
            ("nictype1", "Am79C973"),
            ("macaddress1", "080027000001"),
            ("hidpointing", "ps2mouse"),
            ("uart1", "off"),
        ];
        let settings = defaults.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let hardware = Hardware { settings, ..Hardware::default() };
        let machine = Machine {
            name: name.into(),
            uuid,
            state: "poweroff".into(),
            hardware,
            extra: BTreeMap::new(),
            snapshots: Vec::new(),
            current: None,
        };
        self.machines.push(machine);
        Ok(format!("Virtual machine '{name}' is created and registered.\nUUID: {uuid}\n"))
    }

    fn attach(
        &mut self,
        id: &str,
        controller: &str,
        (port, device): (&str, &str),
        kind: &str,
        medium: &str,
    ) -> Done {
        let elsewhere = self.machines.iter().any(|machine| {
            machine.name != id
                && machine.uuid.to_string() != id
                && machine.hardware.media.values().any(|other| other == medium)
        });
        let machine = self.mutable(id)?;
        let known = machine.hardware.controllers.iter().find(|(name, ..)| name == controller);
        let (_, bus, ports) =
            known.ok_or_else(|| format!("Could not find a storage controller named '{controller}'"))?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("Invalid number {text}"));
        let (port, device) = (number(port)?, number(device)?);
        if port >= *ports || device > u32::from(bus == "PIIX4") {
            return Err(format!(
                "The port and/or device parameter are out of range: port={port} (must be in range [0, {}])",
                ports - 1
            ));
        }
        let place = format!("{controller}-{port}-{device}");
        if medium == "none" {
            let missing = || {
                format!(
                    "No storage device attached to device slot {device} on port {port} of controller '{controller}'"
                )
            };
            return machine.hardware.media.remove(&place).map(|_| String::new()).ok_or_else(missing);
        }
        let image = match kind {
            "hdd" => [".vdi", ".vmdk", ".vhd"].iter().any(|ending| medium.ends_with(ending)),
            "dvddrive" => medium == "emptydrive" || medium.ends_with(".iso"),
            _ => false,
        };
        if !image || medium != "emptydrive" && !fs::exists(medium).unwrap() {
            return Err(format!("Could not find file for the medium '{medium}' (VERR_FILE_NOT_FOUND)"));
        }
        if kind == "hdd" && (elsewhere || machine.hardware.media.values().any(|other| other == medium)) {
            return Err(format!(
                "Medium '{medium}' is already associated with the state of a virtual machine"
            ));
        }
        machine.hardware.media.insert(place, medium.into());
        Ok(String::new())
    }
}

fn modify(settings: &mut BTreeMap<String, String>, mut options: &[&str]) -> Result<(), String> {
    while let [option, value, rest @ ..] = options {
        options = rest;
        let wrong = || format!("Invalid argument '{value}' of '{option}'");
        let key = option.strip_prefix("--").ok_or_else(wrong)?;
        let (what, number) =
            key.split_at(key.find(|letter: char| letter.is_ascii_digit()).unwrap_or(key.len()));
        let slot: u32 = number.parse().unwrap_or(0);
        let fits = match what {
            "memory" => (4..=2_097_152).contains(&value.parse::<u64>().unwrap_or(0)),
            "cpus" => (1..=64).contains(&value.parse::<u32>().unwrap_or(0)),
            "chipset" => ["piix3", "ich9"].contains(value),
            "acpi" | "ioapic" | "pae" | "rtcuseutc" | "usbohci" => ["on", "off"].contains(value),
            "boot" => slot <= 4 && ["none", "floppy", "dvd", "disk", "net"].contains(value),
            "mouse" => ["ps2", "usbtablet"].contains(value),
            "nic" => (1..=8).contains(&slot) && ["none", "nat", "bridged", "intnet"].contains(value),
            "nictype" => (1..=8).contains(&slot) && ["Am79C973", "82540EM", "virtio"].contains(value),
            "bridgeadapter" | "intnet" => (1..=8).contains(&slot),
            "cableconnected" => ["on", "off"].contains(value),
            "macaddress" => {
                value.len() == 12 && u64::from_str_radix(value, 16).is_ok_and(|mac| mac >> 40 & 1 == 0)
            }
            "uart" => *value == "off" || value.starts_with("0x"),
            "uartmode" => ["server", "file"].contains(value),
            _ => return Err(format!("Unknown option: {option}")),
        };
        if !fits {
            return Err(wrong());
        }
        // Two of them take two.
        let second = |options: &mut &[&str]| {
            let (second, rest) = options.split_first().ok_or_else(wrong)?;
            let second = (*second).to_owned();
            *options = rest;
            Ok::<String, String>(second)
        };
        let (key, value) = match what {
            "mouse" => {
                ("hidpointing".to_owned(), if *value == "ps2" { "ps2mouse" } else { "usbtablet" }.to_owned())
            }
            "uart" if *value != "off" => (
                key.into(),
                format!("{},{}", value.to_lowercase().replace("0x3f8", "0x03f8"), second(&mut options)?),
            ),
            "uartmode" => (key.into(), format!("{value},{}", second(&mut options)?)),
            _ => (key.to_owned(), (*value).to_owned()),
        };
        settings.insert(key, value);
    }
    if !options.is_empty() {
        return Err(format!("Missing argument of {options:?}"));
    }
    if settings["cpus"] != "1" && settings["ioapic"] == "off" {
        return Err("I/O APIC must be enabled for more than one virtual CPU".into());
    }
    Ok(())
}

impl Machine {
    fn runs(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused")
    }

    fn control(&mut self, word: &str) -> Done {
        if !self.runs() {
            return Err(format!("Machine '{}' is not currently running.", self.name));
        }
        self.state = match (word, self.state.as_str()) {
            ("poweroff", _) => "poweroff",
            ("savestate", _) => "saved",
            ("pause", "running") => "paused",
            ("resume", "paused") | ("reset", "running") => "running",
            // A guest without ACPI hears nothing.
            ("acpipowerbutton", "running") if self.hardware.settings["acpi"] == "on" => "poweroff",
            ("acpipowerbutton", "running") => "running",
            (_, state) => return Err(format!("Invalid machine state: {state}\nVBoxManage: error: Details: code VBOX_E_INVALID_VM_STATE (0x80bb0002), component ConsoleWrap, interface IConsole")),
        }
        .into();
        Ok(String::new())
    }

    fn snapshot(&self, id: &str) -> Result<Kept, String> {
        let found = self.snapshots.iter().find(|kept| kept.uuid.to_string() == id || kept.name == id);
        found.cloned().ok_or_else(|| format!("Could not find a snapshot named '{id}'"))
    }

    fn list(&self) -> Done {
        if self.snapshots.is_empty() {
            return Err("This machine does not have any snapshots".into());
        }
        let mut lines = String::new();
        self.list_below(None, "", &mut lines);
        let current =
            self.current.map_or(String::new(), |current| format!("CurrentSnapshotUUID=\"{current}\"\n"));
        Ok(lines + &current)
    }

    fn list_below(&self, parent: Option<Uuid>, node: &str, lines: &mut String) {
        for (number, kept) in (1..).zip(self.snapshots.iter().filter(|kept| kept.parent == parent)) {
            let below = if parent.is_none() { node.to_owned() } else { format!("{node}-{number}") };
            lines.push_str(&format!(
                "SnapshotName{below}={}\nSnapshotUUID{below}=\"{}\"\n",
                quoted(&kept.name),
                kept.uuid
            ));
            lines.push_str(&format!("SnapshotDescription{below}={}\n", quoted(&kept.description)));
            self.list_below(Some(kept.uuid), &below, lines);
        }
    }

    fn info(&self) -> String {
        let mut lines = String::new();
        let mut line = |key: &str, value: &str| lines.push_str(&format!("{key}={value}\n"));
        line("name", &quoted(&self.name));
        line("groups", "\"/\"");
        line("UUID", &quoted(&self.uuid.to_string()));
        line("CfgFile", &quoted(&format!("/home/user/VirtualBox VMs/{0}/{0}.vbox", self.name)));
        for (key, value) in &self.hardware.settings {
            let number = matches!(key.as_str(), "memory" | "cpus");
            let hidden =
                ["bridgeadapter", "intnet", "nictype", "macaddress", "cableconnected"].iter().any(|what| {
                    let slot = key.strip_prefix(what);
                    slot.is_some_and(|slot| {
                        self.hardware.settings.get(&format!("nic{slot}")).is_none_or(|nic| nic == "none")
                    })
                });
            if !hidden {
                line(key, &if number { value.clone() } else { quoted(value) });
            }
        }
        line("VMState", &quoted(&self.state));
        line("VMStateChangeTime", "\"2024-02-03T10:11:12.000000000\"");
        for (number, (name, kind, ports)) in self.hardware.controllers.iter().enumerate() {
            line(&format!("storagecontrollername{number}"), &quoted(name));
            line(&format!("storagecontrollertype{number}"), &quoted(kind));
            line(&format!("storagecontrollerportcount{number}"), &quoted(&ports.to_string()));
        }
        for (name, kind, ports) in &self.hardware.controllers {
            for port in 0..*ports {
                for device in 0..=u32::from(kind == "PIIX4") {
                    let medium = self.hardware.media.get(&format!("{name}-{port}-{device}"));
                    line(
                        &format!("\"{name}-{port}-{device}\""),
                        &quoted(medium.map_or("none", String::as_str)),
                    );
                }
            }
        }
        if self.runs() {
            line("VideoMode", "\"720,400,0\"@0,0 1");
        }
        line("GuestMemoryBalloon", "0");
        lines
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
