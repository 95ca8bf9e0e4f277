//! VirtualBox, driven by its program `VBoxManage`.
//!
//! ```no_run
//! use lb_virt::domain::{Bus, Console, Disk, Nic};
//! use lb_virt::virtualbox::VirtualBox;
//! use lb_virt::{DomainSpec, Hypervisor, Memory};
//!
//! let mut host = VirtualBox::new();
//! let mut spec = DomainSpec::new("web1", 2, Memory::from_mib(1024))
//!     .disk(Disk::file("/srv/images/web1.vdi").on(Bus::Sata))
//!     .nic(Nic::nat());
//! spec.console = Console::Socket("/run/web1.sock".into());
//! host.define(&spec)?;
//! host.start("web1")?;
//! # Ok::<(), lb_virt::VirtError>(())
//! ```
//!
//! The program: VirtualBox 7.0's user manual, chapter "VBoxManage". It changes a machine only while that is shut off
//! ([`VirtError::NotAtRest`]), and asks no guest to reboot: [`reset`](VirtualBox::reset) is what its button does. A definition that
//! can't be made whole is taken back.

mod clone;
mod read;
mod usage;
mod write;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use uuid::Uuid;

use crate::command::{Output, Program};
use crate::domain::{Bus, Console, Disk, DomainSpec, Mac, Memory, Nic, NicModel, check_name};
use crate::error::VirtError;
use crate::hypervisor::{
    Capabilities, CloneRequest, ConsoleAddress, Effect, Host, Hypervisor, Snapshot, Statistics, Summary,
};
use crate::state::{Operation, State};

pub use read::{Info, ReadError};
pub use write::{Call, to_calls};

const NAME: &str = "virtualbox";
/// How names begin of what only this crate knows.
const OWN: &str = "lb-virt/";
/// VirtualBox' own block of addresses.
const VENDOR: [u8; 3] = [8, 0, 0x27];
/// The interfaces of a machine.
const NICS: u32 = 8;
/// Starting, and what copies disks or memory, takes its time.
const LONG: Duration = Duration::from_secs(3600);

/// What a bus is made of.
struct Controller {
    bus: Bus,
    /// As this crate calls it.
    name: &'static str,
    /// As `storagectl --add` calls it.
    add: &'static str,
    /// As `storagectl --controller` and `showvminfo` call it; the first is written.
    kinds: &'static [&'static str],
    ports: u32,
}

const CONTROLLERS: [Controller; 4] = [
    Controller { bus: Bus::Ide, name: "ide", add: "ide", kinds: &["PIIX4", "PIIX3", "ICH6"], ports: 2 },
    Controller { bus: Bus::Sata, name: "sata", add: "sata", kinds: &["IntelAhci", "IntelAHCI"], ports: 30 },
    Controller { bus: Bus::Scsi, name: "scsi", add: "scsi", kinds: &["LsiLogic", "BusLogic"], ports: 16 },
    Controller {
        bus: Bus::Virtio,
        name: "virtio",
        add: "virtio",
        kinds: &["VirtioSCSI", "VirtIO"],
        ports: 64,
    },
];

/// As `--nictype` and `showvminfo` call them; the first of a model is written.
const NIC_TYPES: [(&str, NicModel); 6] = [
    ("82540EM", NicModel::E1000),
    ("virtio", NicModel::Virtio),
    ("Am79C973", NicModel::Pcnet),
    ("82543GC", NicModel::E1000),
    ("82545EM", NicModel::E1000),
    ("Am79C970A", NicModel::Pcnet),
];

/// A host with VirtualBox. See the [module](self).
#[derive(Debug)]
pub struct VirtualBox {
    program: Program,
    random: Rng,
}

impl Default for VirtualBox {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtualBox {
    /// This host: the machines of the user that runs this.
    #[must_use]
    pub fn new() -> Self {
        Self { program: Program::new(NAME, "VBoxManage", "virtualbox"), random: Rng::new() }
    }

    /// With another `VBoxManage` than the one in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Program::new(NAME, path, "virtualbox");
        self
    }

    /// Starts a running machine anew without asking its guest.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run.
    pub fn reset(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Reboot, "reset")
    }

    /// Writes a machine's memory into a file of VirtualBox' and ends it; it goes on from there when it is started.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run.
    pub fn save_state(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Pause, "savestate")
    }

    /// Gives up the memory that [`save_state`](Self::save_state) has written: the machine is as if its power had been taken then.
    ///
    /// # Errors
    /// [`VirtError::Said`] if there is none.
    pub fn discard_state(&mut self, name: &str) -> Result<(), VirtError> {
        let uuid = self.find(name)?;
        self.run(&format!("discard the saved state of {name}"), &["discardstate", &uuid]).map(drop)
    }

    fn run(&self, operation: &str, words: &[&str]) -> Result<Output, VirtError> {
        self.program.call(operation).args(words).timeout(LONG).run()
    }

    fn make(&self, operation: &str, call: &Call) -> Result<Output, VirtError> {
        self.program.call(operation).args(call).timeout(LONG).run()
    }

    fn machines(&self) -> Result<Vec<(String, Uuid)>, VirtError> {
        let text = self.program.call("list machines").args(["list", "vms"]).run()?.text();
        Ok(read::list(&text))
    }

    /// A machine's identity, by which it is named from here on: a name could be that of another thing.
    fn find(&self, name: &str) -> Result<String, VirtError> {
        let found = self.machines()?.into_iter().find(|(known, _)| known == name);
        let missing = || VirtError::NoMachine { name: name.into(), host: NAME.into() };
        found.map(|(_, uuid)| uuid.to_string()).ok_or_else(missing)
    }

    fn info(&self, name: &str, uuid: &str) -> Result<Info, VirtError> {
        let operation = format!("describe {name}");
        let text = self
            .program
            .call(operation.as_str())
            .args(["showvminfo", uuid, "--machinereadable"])
            .run()?
            .text();
        Info::read(&text).map_err(|error| said(operation, error))
    }

    fn described(&self, name: &str, uuid: &str) -> Result<(Info, DomainSpec), VirtError> {
        let info = self.info(name, uuid)?;
        let operation = format!("describe {name}");
        let own =
            self.program.call(operation.as_str()).args(["getextradata", uuid, "enumerate"]).run()?.text();
        let spec = info.spec(&own).map_err(|error| said(operation, error))?;
        Ok((info, spec))
    }

    /// A machine whose state lets an operation be done, and what it is.
    fn may(&self, name: &str, operation: Operation) -> Result<(String, Info), VirtError> {
        let uuid = self.find(name)?;
        let info = self.info(name, &uuid)?;
        info.state().after(operation).map_err(VirtError::state(name))?;
        Ok((uuid, info))
    }

    /// Ends the process of a machine that has crashed and is kept to be looked at: it holds the machine's lock.
    fn free(&self, operation: &str, uuid: &str, info: &Info) -> Result<(), VirtError> {
        if info.is_stuck() { self.run(operation, &["controlvm", uuid, "poweroff"]).map(drop) } else { Ok(()) }
    }

    fn operate(&self, name: &str, operation: Operation, word: &str) -> Result<(), VirtError> {
        let (uuid, _) = self.may(name, operation)?;
        self.run(&format!("{operation} {name}"), &["controlvm", &uuid, word]).map(drop)
    }

    /// A machine that can be changed, and what it is.
    fn at_rest(&self, name: &str, change: &'static str) -> Result<(String, Info, DomainSpec), VirtError> {
        let uuid = self.find(name)?;
        let (info, spec) = self.described(name, &uuid)?;
        if info.state().is_active() || info.is_stuck() {
            return Err(VirtError::NotAtRest { name: name.into(), hypervisor: NAME, change });
        }
        not_saved(&format!("change {name}"), &info)?;
        Ok((uuid, info, spec))
    }

    /// Changes a machine that is at rest, and what is kept beside it.
    fn change(&self, name: &str, uuid: &str, spec: &DomainSpec, words: &[&str]) -> Result<Effect, VirtError> {
        let operation = format!("change {name}");
        // What VirtualBox can't be is refused before anything is changed.
        to_calls(spec)?;
        self.run(&operation, words)?;
        write::own(spec, uuid).iter().try_for_each(|call| self.make(&operation, call).map(drop))?;
        Ok(Effect::Now)
    }

    /// Removes a machine without its disks, which `unregistervm --delete` would take with it: on whatever controllers they are, also
    /// those that no definition has.
    fn remove(&self, name: &str, uuid: &str) -> Result<(), VirtError> {
        let operation = format!("delete {name}");
        for (medium, (controller, port, device)) in self.info(name, uuid)?.media() {
            let place = (controller.into(), port, device);
            self.make(&operation, &write::attach(uuid, place, &read::disk_of(medium), "none".into()))?;
        }
        if let Some((medium, (controller, port, device))) = self.info(name, uuid)?.media().next() {
            let words = format!(
                "{medium} is still at port {port}, device {device} of {controller}, and would be deleted with it: detach it by hand"
            );
            return Err(said(operation, words));
        }
        self.run(&operation, &["unregistervm", uuid, "--delete"]).map(drop)
    }

    fn kept(&self, name: &str, uuid: &str) -> Result<Vec<(Uuid, Snapshot)>, VirtError> {
        let operation = format!("list snapshots of {name}");
        let output = self
            .program
            .call(operation.as_str())
            .args(["snapshot", uuid, "list", "--machinereadable"])
            .output()?;
        // It is a failure to some versions.
        if output.text().contains("does not have any snapshots")
            || output.words().contains("does not have any snapshots")
        {
            return Ok(Vec::new());
        }
        if !output.succeeded() {
            return Err(said(operation, output.words()));
        }
        Ok(Info::read(&output.text()).map_err(|error| said(operation, error))?.snapshots())
    }

    fn snapshot(&self, name: &str, uuid: &str, snapshot: &str) -> Result<(Uuid, Snapshot), VirtError> {
        let found = self.kept(name, uuid)?.into_iter().find(|(_, kept)| kept.name == snapshot);
        found.ok_or_else(|| VirtError::NoPart { name: name.into(), what: "snapshot", part: snapshot.into() })
    }
}

fn said(operation: impl Into<String>, words: impl ToString) -> VirtError {
    VirtError::Said { hypervisor: NAME, operation: operation.into(), words: words.to_string() }
}

/// Refuses what has its memory in a file: it can't be changed, and its disks are not those of a guest that has ended.
fn not_saved(operation: &str, info: &Info) -> Result<(), VirtError> {
    if !info.is_saved() {
        return Ok(());
    }
    let words =
        "its state is saved: start it and shut it down, or give that state up (VBoxManage discardstate)";
    Err(said(operation, words))
}

fn check_data(name: &str, disk: &Disk) -> Result<(), VirtError> {
    disk.source.iter().try_for_each(|source| {
        let missing =
            |error| VirtError::File { name: name.into(), path: source.path().clone(), source: error };
        fs::metadata(source.path()).map(drop).map_err(missing)
    })
}

impl Hypervisor for VirtualBox {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::SNAPSHOTS | Capabilities::CLONE | Capabilities::CONSOLE
    }

    fn host(&mut self) -> Result<Host, VirtError> {
        let text = self.run("describe the host", &["list", "hostinfo"])?.text();
        let version = self.run("say its version", &["--version"])?.text();
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let unknown = || said("describe the host", format!("an unknown answer: {text}"));
        read::host(&text, version.trim(), name.trim()).ok_or_else(unknown)
    }

    fn list(&mut self) -> Result<Vec<Summary>, VirtError> {
        let mut machines = Vec::new();
        for (name, uuid) in self.machines()? {
            let info = self.info(&name, &uuid.to_string())?;
            // Its folder can't be read, so nothing more is known of it.
            let size = if info.is_accessible() { info.size() } else { Ok((0, Memory::default())) };
            let (vcpus, memory) = size.map_err(|error| said(format!("describe {name}"), error))?;
            machines.push(Summary { name, uuid: Some(uuid), state: info.state(), vcpus, memory });
        }
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(machines)
    }

    fn state(&mut self, name: &str) -> Result<State, VirtError> {
        Ok(self.info(name, &self.find(name)?)?.state())
    }

    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        Ok(self.described(name, &self.find(name)?)?.1)
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let spec = spec.completed(VENDOR, &mut self.random);
        let calls = to_calls(&spec)?;
        let (name, uuid) = (spec.name.clone(), spec.uuid.unwrap_or_default());
        let machines = self.machines()?;
        if machines.iter().any(|(known, _)| *known == name) {
            return Err(VirtError::MachineExists { name, host: NAME.into() });
        }
        if let Some((holder, _)) = machines.into_iter().find(|(_, other)| *other == uuid) {
            return Err(VirtError::UuidTaken { name, uuid, holder, host: NAME.into() });
        }
        spec.disks.iter().try_for_each(|disk| check_data(&name, disk))?;
        let operation = format!("define {name}");
        for (number, call) in calls.iter().enumerate() {
            let Err(error) = self.make(&operation, call) else { continue };
            if number > 0 {
                // Nothing half defined stays.
                self.remove(&name, &uuid.to_string()).map_err(|second| {
                    said(
                        &operation,
                        format!("{error}; and what was made of it could not be taken back: {second}"),
                    )
                })?;
            }
            return Err(error);
        }
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        let (uuid, info) = self.may(name, Operation::Delete)?;
        let operation = format!("delete {name}");
        not_saved(&operation, &info)?;
        self.free(&operation, &uuid, &info)?;
        let mut snapshots = self.kept(name, &uuid)?;
        // The youngest first: what it is becomes a part of the one before.
        while let Some((snapshot, _)) = snapshots.pop() {
            self.run(&operation, &["snapshot", &uuid, "delete", &snapshot.to_string()])?;
        }
        self.remove(name, &uuid)
    }

    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let (uuid, info) = self.may(name, Operation::Start)?;
        // What is no path of a file is on a network.
        let mut files = info.media().map(|(medium, _)| read::disk_of(medium));
        files.try_for_each(|disk| match &disk.source {
            Some(source) if source.path().is_absolute() => check_data(name, &disk),
            _ => Ok(()),
        })?;
        let operation = format!("start {name}");
        self.free(&operation, &uuid, &info)?;
        self.run(&operation, &["startvm", &uuid, "--type", "headless"]).map(drop)
    }

    fn shut_down(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::ShutDown, "acpipowerbutton")
    }

    /// One whose process has ended ([`State::Crashed`], to VirtualBox "aborted") has no power to be taken, so there is nothing to do;
    /// VirtualBox calls it so until it is started.
    fn power_off(&mut self, name: &str) -> Result<(), VirtError> {
        let (uuid, info) = self.may(name, Operation::PowerOff)?;
        if info.state() == State::Crashed && !info.is_stuck() {
            return Ok(());
        }
        self.run(&format!("{} {name}", Operation::PowerOff), &["controlvm", &uuid, "poweroff"]).map(drop)
    }

    fn pause(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Pause, "pause")
    }

    fn resume(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Resume, "resume")
    }

    fn set_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError> {
        let (uuid, _, mut spec) = self.at_rest(name, "virtual CPUs")?;
        spec.resize(Some(vcpus), None);
        self.change(name, &uuid, &spec, &["modifyvm", &uuid, "--cpus", &vcpus.to_string()])
    }

    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        let (uuid, _, mut spec) = self.at_rest(name, "memory")?;
        spec.resize(None, Some(memory));
        self.change(name, &uuid, &spec, &["modifyvm", &uuid, "--memory", &memory.mib().to_string()])
    }

    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        let (uuid, info, spec) = self.at_rest(name, "disks")?;
        if spec.disks.iter().any(|other| other.target == disk.target) {
            return Err(VirtError::PartExists { name: name.into(), what: "disk", part: disk.target.clone() });
        }
        let spec = spec.disk(disk.clone());
        let disk = spec.disks.last().unwrap_or(disk);
        disk.validate().map_err(VirtError::spec(name))?;
        let medium = write::medium(&spec, disk)?;
        let wanted = write::place(&spec, disk)?;
        check_data(name, disk)?;
        let operation = format!("attach a disk to {name}");
        let place = match info.place(disk) {
            Some(place) => place,
            None => {
                let calls = to_calls(&spec)?;
                let controller = calls.iter().find(|call| {
                    call.first().is_some_and(|word| word == "storagectl")
                        && call.iter().any(|word| *word == *wanted.0)
                });
                controller.map_or(Ok(()), |call| self.make(&operation, call).map(drop))?;
                wanted
            }
        };
        self.make(&operation, &write::attach(&uuid, place, disk, medium))?;
        write::own(&spec, &uuid).iter().try_for_each(|call| self.make(&operation, call).map(drop))?;
        Ok(Effect::Now)
    }

    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        let (uuid, info, mut spec) = self.at_rest(name, "disks")?;
        let missing = || VirtError::NoPart { name: name.into(), what: "disk", part: target.into() };
        let disk = spec.disks.iter().find(|disk| disk.target == target).ok_or_else(missing)?;
        let place = info.place(disk).ok_or_else(missing)?;
        let operation = format!("detach disk {target} from {name}");
        self.make(&operation, &write::attach(&uuid, place, disk, "none".into()))?;
        spec.disks.retain(|disk| disk.target != target);
        write::own(&spec, &uuid).iter().try_for_each(|call| self.make(&operation, call).map(drop))?;
        Ok(Effect::Now)
    }

    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        let (uuid, info, spec) = self.at_rest(name, "network interfaces")?;
        let what = "network interface";
        if let Some(mac) = nic.mac.filter(|mac| spec.nics.iter().any(|other| other.mac == Some(*mac))) {
            return Err(VirtError::PartExists { name: name.into(), what, part: mac.to_string() });
        }
        nic.validate().map_err(VirtError::spec(name))?;
        let spec = spec.nic(nic.clone()).completed(VENDOR, &mut self.random);
        let nic = spec.nics.last().unwrap_or(nic);
        let mut call = write::call(&["modifyvm", &uuid]);
        call.extend(write::nic_words(&spec, nic, info.slot(None).unwrap_or(NICS + 1))?);
        self.make(&format!("attach a network interface to {name}"), &call)?;
        Ok(Effect::Now)
    }

    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        let (uuid, info, _) = self.at_rest(name, "network interfaces")?;
        let missing =
            || VirtError::NoPart { name: name.into(), what: "network interface", part: mac.to_string() };
        let slot = info.slot(Some(mac)).ok_or_else(missing)?;
        let operation = format!("detach interface {mac} from {name}");
        self.run(&operation, &["modifyvm", &uuid, &format!("--nic{slot}"), "none"])?;
        Ok(Effect::Now)
    }

    fn take_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        check_name(snapshot).map_err(VirtError::spec(name))?;
        let uuid = self.find(name)?;
        if self.kept(name, &uuid)?.iter().any(|(_, kept)| kept.name == snapshot) {
            return Err(VirtError::PartExists { name: name.into(), what: "snapshot", part: snapshot.into() });
        }
        // VirtualBox does not list what it was doing, and when.
        let state = match self.info(name, &uuid)?.state() {
            State::Running => "running",
            State::Paused => "paused",
            _ => "shut-off",
        };
        let taken = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let description = format!("{OWN}{state} {}", taken.as_millis());
        let words = ["snapshot", &uuid, "take", snapshot, "--description", &description];
        self.run(&format!("take snapshot {snapshot} of {name}"), &words).map(drop)
    }

    fn snapshots(&mut self, name: &str) -> Result<Vec<Snapshot>, VirtError> {
        Ok(self.kept(name, &self.find(name)?)?.into_iter().map(|(_, snapshot)| snapshot).collect())
    }

    fn restore_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let uuid = self.find(name)?;
        let (id, kept) = self.snapshot(name, &uuid, snapshot)?;
        let operation = format!("restore {snapshot} of {name}");
        let info = self.info(name, &uuid)?;
        if info.state().is_active() || info.is_stuck() {
            self.run(&operation, &["controlvm", &uuid, "poweroff"])?;
        }
        self.run(&operation, &["snapshot", &uuid, "restore", &id.to_string()])?;
        if matches!(kept.state, State::Running | State::Paused) {
            self.run(&operation, &["startvm", &uuid, "--type", "headless"])?;
        }
        if kept.state == State::Paused {
            self.run(&operation, &["controlvm", &uuid, "pause"])?;
        }
        Ok(())
    }

    fn delete_snapshot(&mut self, name: &str, snapshot: &str) -> Result<(), VirtError> {
        let uuid = self.find(name)?;
        let (id, _) = self.snapshot(name, &uuid, snapshot)?;
        let operation = format!("delete snapshot {snapshot} of {name}");
        self.run(&operation, &["snapshot", &uuid, "delete", &id.to_string()]).map(drop)
    }

    fn clone_machine(&mut self, template: &str, request: &CloneRequest) -> Result<(), VirtError> {
        self.clone_of(template, request)
    }

    fn console(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        match self.spec(name)?.console {
            Console::Socket(path) => Ok(ConsoleAddress::Socket(path)),
            Console::File(path) => Ok(ConsoleAddress::File(path)),
            Console::Pty | Console::None => {
                Err(VirtError::NoPart { name: name.into(), what: "console", part: "serial".into() })
            }
        }
    }

    /// By the kernel's count of the process that runs it; what goes to disks and networks VirtualBox does not count.
    fn statistics(&mut self, name: &str) -> Result<Statistics, VirtError> {
        let uuid = self.find(name)?;
        let info = self.info(name, &uuid)?;
        if !info.state().is_active() {
            return Ok(Statistics::default());
        }
        let (vcpus, memory) = info.size().map_err(|error| said(format!("describe {name}"), error))?;
        let (cpu_time, resident) = usage::of(&uuid).unwrap_or_default();
        Ok(Statistics { cpu_time, vcpus, memory, resident, ..Statistics::default() })
    }
}
