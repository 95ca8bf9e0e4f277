//! Xen, driven by its program `xl`.
//!
//! `xl` knows machines only while they run, so definitions are kept here: a configuration of xl's for each machine, `NAME.cfg` in a
//! directory. Each can be read, and started, with `xl` alone; and one that was written by hand is a machine here too, also one
//! that says more than a definition can: a change leaves the rest of its file as it is. What they say is asked of `xl` itself
//! (`xl -N create`), never guessed.
//!
//! ```no_run
//! use lb_virt::domain::{Bus, Disk, Nic, NicModel};
//! use lb_virt::xen::Xen;
//! use lb_virt::{DomainSpec, Hypervisor, Memory};
//!
//! let mut host = Xen::new("/etc/xen/machines");
//! let spec = DomainSpec::new("web1", 4, Memory::from_mib(1500))
//!     .disk(Disk::block("/dev/vg/web1").on(Bus::Xen))
//!     .nic(Nic::bridge("virbr1").model(NicModel::Netfront));
//! host.define(&spec)?;
//! host.start("web1")?;
//! # Ok::<(), lb_virt::VirtError>(())
//! ```
//!
//! The formats: xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5), xl(1), of Xen 4.17.
//!
//! What `xl` can't: snapshots of disks, clones, events. What it moves to another host it moves all by itself:
//! [`migrate`](Xen::migrate).

mod amend;
mod kept;
mod read;
mod tables;
mod usage;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use lb_affinity::CpuSet;

use crate::command::{Call, Program};
use crate::domain::{Bus, Console, Disk, DomainSpec, Kind, Mac, Memory, Nic, NicModel, Pins};
use crate::error::VirtError;
use crate::hypervisor::{Capabilities, ConsoleAddress, Effect, Host, Hypervisor, Statistics, Summary};
use crate::state::{Operation, State};
use tables::Row;

pub use read::{ReadError, from_json};
pub use write::to_config;

const NAME: &str = "xen";
/// How comments begin that say what xl has no word for.
const OWN: &str = "# lb-virt: ";
/// Xen's own block of addresses.
const VENDOR: [u8; 3] = [0, 0x16, 0x3e];
/// Starting a machine waits for its devices.
const START: Duration = Duration::from_secs(120);
/// Writing a machine's memory, or sending it, takes its time.
const MOVE: Duration = Duration::from_secs(3600);

/// A host with Xen. See the [module](self).
#[derive(Debug)]
pub struct Xen {
    xl: Program,
    directory: PathBuf,
    sysfs: PathBuf,
    random: Rng,
}

/// A machine: it runs, or is defined, or both.
struct Found {
    name: String,
    row: Option<Row>,
    /// Its definition, if it is kept here.
    file: Option<PathBuf>,
}

impl Found {
    fn state(&self) -> State {
        self.row.as_ref().map_or(State::ShutOff, |row| row.state)
    }
}

impl Xen {
    /// This host, with definitions kept in `directory`, which is made when it is needed.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let xl = Program::new(NAME, "xl", "xen-utils");
        Self { xl, directory: directory.into(), sysfs: "/sys".into(), random: Rng::new() }
    }

    /// With another `xl` than the one in `PATH`.
    #[must_use]
    pub fn program(mut self, xl: impl Into<PathBuf>) -> Self {
        self.xl = Program::new(NAME, xl, "xen-utils");
        self
    }

    /// With another place for the kernel's files than `/sys`.
    #[must_use]
    pub fn sysfs(mut self, sysfs: impl Into<PathBuf>) -> Self {
        self.sysfs = sysfs.into();
        self
    }

    /// Writes a machine's memory into a file and ends it: [`restore`](Self::restore) lets it go on from there. Its disks must stay as
    /// they are until then.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run; [`VirtError::Said`].
    pub fn save(&mut self, name: &str, file: &Path) -> Result<(), VirtError> {
        let id = self.id(name, Operation::MigrateLive)?;
        let file = std::path::absolute(file).map_err(|source| VirtError::File {
            name: name.into(),
            path: file.into(),
            source,
        })?;
        self.xl(format!("save {name}"), &["save", &id]).arg(file).timeout(MOVE).run().map(drop)
    }

    /// Lets a machine go on that was saved.
    ///
    /// # Errors
    /// [`VirtError::File`] if there is no such file; [`VirtError::Said`].
    pub fn restore(&mut self, file: &Path) -> Result<(), VirtError> {
        let (operation, name) = (format!("restore {}", file.display()), String::new());
        let file =
            fs::canonicalize(file).map_err(|source| VirtError::File { name, path: file.into(), source })?;
        self.xl(operation, &["restore"]).arg(file).timeout(MOVE).run().map(drop)
    }

    /// Moves a running machine to another host that root reaches by ssh, where Xen runs too and the same disks are. Its definition
    /// stays here.
    ///
    /// # Errors
    /// [`VirtError::State`] if it does not run; [`VirtError::Said`], also for a name that is none of a host: `xl` has a shell read
    /// it.
    pub fn migrate(&mut self, name: &str, host: &str) -> Result<(), VirtError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:@".contains(&byte);
        if host.is_empty() || host.len() > 255 || host.starts_with('-') || !host.bytes().all(plain) {
            let words = format!("{host:?} is no name of a host: letters, digits and any of `.-_:@`");
            return Err(said(format!("migrate {name}"), words));
        }
        let id = self.id(name, Operation::MigrateLive)?;
        self.xl(format!("migrate {name} to {host}"), &["migrate", &id, host]).timeout(MOVE).run().map(drop)
    }

    fn xl(&self, operation: impl Into<String>, arguments: &[&str]) -> Call<'_> {
        self.xl.call(operation).args(arguments)
    }

    fn domains(&self) -> Result<Vec<Row>, VirtError> {
        let output = self.xl("list machines", &["list"]).run()?;
        let text = output.text();
        tables::domains(&text).ok_or_else(|| said("list machines", format!("an unknown answer: {text}")))
    }

    fn row(&self, name: &str) -> Result<Option<Row>, VirtError> {
        Ok(self.domains()?.into_iter().find(|row| row.name == name))
    }

    /// A machine as it runs, if it does. Its file is not looked at then, whatever is in it.
    fn seen(&self, name: &str) -> Result<Option<Row>, VirtError> {
        let row = self.row(name)?;
        if row.is_none() && self.file(name)?.is_none() {
            return Err(VirtError::NoMachine { name: name.into(), host: NAME.into() });
        }
        Ok(row)
    }

    fn find(&self, name: &str) -> Result<Found, VirtError> {
        let (row, file) = (self.row(name)?, self.file(name)?);
        if row.is_none() && file.is_none() {
            return Err(VirtError::NoMachine { name: name.into(), host: NAME.into() });
        }
        Ok(Found { name: name.into(), row, file })
    }

    /// A machine whose state lets an operation be done.
    fn may(&self, name: &str, operation: Operation) -> Result<Found, VirtError> {
        let found = self.find(name)?;
        found.state().after(operation).map_err(VirtError::state(name))?;
        Ok(found)
    }

    /// The number of a machine that runs, and whose state lets an operation be done.
    fn id(&self, name: &str, operation: Operation) -> Result<String, VirtError> {
        let row = self.seen(name)?;
        let state = row.as_ref().map_or(State::ShutOff, |row| row.state);
        state.after(operation).map_err(VirtError::state(name))?;
        Ok(row.map_or(0, |row| row.id).to_string())
    }

    /// Lets `xl` do something to a machine that runs.
    fn operate(&self, name: &str, operation: Operation, arguments: &[&str]) -> Result<(), VirtError> {
        let id = self.id(name, operation)?;
        self.xl(format!("{operation} {name}"), arguments).arg(id).run().map(drop)
    }

    /// The CPUs that a virtual one may run on: those of Xen's pools. Without the second threads of cores (`smt=0`) they have gaps.
    fn cpus(&self) -> Result<CpuSet, VirtError> {
        let text = self.xl("list the host's CPUs", &["cpupool-list", "-c"]).run()?.text();
        tables::pools(&text).ok_or_else(|| said("list the host's CPUs", format!("an unknown answer: {text}")))
    }

    /// A machine's definition as it runs.
    fn running(&self, row: &Row) -> Result<DomainSpec, VirtError> {
        let operation = format!("describe {}", row.name);
        let json = self.xl(operation.as_str(), &["list", "-l", &row.id.to_string()]).run()?.text();
        let mut spec = from_json(&json, &self.cpus()?).map_err(|error| said(operation, error))?;
        let pinned = self.affinities(row)?.into_iter();
        spec.pins.vcpus = pinned.filter_map(|(vcpu, cpus)| Some((vcpu, cpus.parse().ok()?))).collect();
        Ok(spec)
    }

    /// Where the disks of a machine that runs are.
    fn targets(&self, row: &Row) -> Result<Vec<(Bus, String)>, VirtError> {
        let operation = format!("describe {}", row.name);
        let json = self.xl(operation.as_str(), &["list", "-l", &row.id.to_string()]).run()?.text();
        Ok(read::outline(&json).map_err(|error| said(operation, error))?.targets)
    }

    /// How each virtual CPU of a running machine is pinned, in xl's words. Only `xl vcpu-list` knows: what `xl list -l` says is how
    /// it was made.
    fn affinities(&self, row: &Row) -> Result<BTreeMap<u32, String>, VirtError> {
        let operation = format!("list the virtual CPUs of {}", row.name);
        let text = self.xl(operation.as_str(), &["vcpu-list", &row.id.to_string()]).run()?.text();
        tables::affinities(&text).ok_or_else(|| said(operation, format!("an unknown answer: {text}")))
    }

    /// Pins a running machine; after a failure it is pinned as before.
    fn pin_running(&self, row: &Row, pins: &Pins) -> Result<(), VirtError> {
        let (id, before) = (row.id.to_string(), self.affinities(row)?);
        let set = |vcpu: u32, cpus: &str| {
            let operation = format!("pin virtual CPU {vcpu} of {}", row.name);
            self.xl(operation, &["vcpu-pin", &id, &vcpu.to_string(), cpus]).run().map(drop)
        };
        for &vcpu in before.keys() {
            let cpus = pins.vcpus.get(&vcpu).map_or("all".into(), ToString::to_string);
            if let Err(error) = set(vcpu, &cpus) {
                before.range(..=vcpu).for_each(|(&vcpu, cpus)| drop(set(vcpu, cpus)));
                return Err(error);
            }
        }
        Ok(())
    }
}

fn said(operation: impl Into<String>, words: impl ToString) -> VirtError {
    VirtError::Said { hypervisor: NAME, operation: operation.into(), words: words.to_string() }
}

fn no_file(name: &str, path: &Path, source: io::Error) -> VirtError {
    VirtError::File { name: name.into(), path: path.into(), source }
}

/// Whether a disk's data is there.
fn check_data(name: &str, path: &Path) -> Result<(), VirtError> {
    fs::metadata(path).map(drop).map_err(|error| no_file(name, path, error))
}

impl Hypervisor for Xen {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        use Capabilities as C;
        C::REBOOT | C::HOT_VCPUS | C::HOT_MEMORY | C::PINNING | C::HOT_DISKS | C::HOT_NICS | C::CONSOLE
    }

    fn host(&mut self) -> Result<Host, VirtError> {
        let text = self.xl("describe the host", &["info"]).run()?.text();
        tables::host(&text).ok_or_else(|| said("describe the host", format!("an unknown answer: {text}")))
    }

    fn list(&mut self) -> Result<Vec<Summary>, VirtError> {
        let rows = self.domains()?;
        let mut machines = self.kept(&rows)?;
        for Row { name, memory, vcpus, state, .. } in rows {
            if !machines.iter().any(|one| one.name == name) {
                machines.push(Summary { name, uuid: None, state, vcpus, memory });
            }
        }
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(machines)
    }

    fn state(&mut self, name: &str) -> Result<State, VirtError> {
        Ok(self.seen(name)?.map_or(State::ShutOff, |row| row.state))
    }

    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        self.defined(&self.find(name)?)
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let spec = spec.completed(VENDOR, &mut self.random);
        let name = spec.name.clone();
        spec.validate().map_err(VirtError::spec(&name))?;
        let machines = self.list()?;
        if machines.iter().any(|other| other.name == name) {
            return Err(VirtError::MachineExists { name, host: NAME.into() });
        }
        if let (Some(uuid), Some(holder)) =
            (spec.uuid, machines.into_iter().find(|other| other.uuid == spec.uuid))
        {
            return Err(VirtError::UuidTaken { name, uuid, holder: holder.name, host: NAME.into() });
        }
        let (new, path) = (self.write(&spec)?, self.path(&name));
        // Not in the place of one that somebody else has defined meanwhile, or that has another's name in it.
        let placed = fs::hard_link(&new, &path);
        let _ = fs::remove_file(&new);
        placed.map_err(|error| match (error.kind(), self.file(&name)) {
            (io::ErrorKind::AlreadyExists, Ok(Some(_))) => {
                VirtError::MachineExists { name: name.clone(), host: NAME.into() }
            }
            (io::ErrorKind::AlreadyExists, _) => {
                let words = format!(
                    "{} is that of a machine with another name in it: rename one of them",
                    path.display()
                );
                said(format!("define {name}"), words)
            }
            _ => no_file(&name, &path, error),
        })
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        let found = self.may(name, Operation::Delete)?;
        // What has crashed is kept to be looked at, until now.
        if let Some(row) = &found.row {
            self.xl(format!("delete {name}"), &["destroy", &row.id.to_string()]).run()?;
        }
        found
            .file
            .map_or(Ok(()), |path| fs::remove_file(&path).map_err(|source| no_file(name, &path, source)))
    }

    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let found = self.may(name, Operation::Start)?;
        let Some(path) = &found.file else {
            return Err(said(format!("start {name}"), "it has no definition"));
        };
        self.outline(path)?.files.iter().try_for_each(|file| check_data(name, file))?;
        if let Some(row) = &found.row {
            self.xl(format!("start {name}"), &["destroy", &row.id.to_string()]).run()?;
        }
        self.xl(format!("start {name}"), &["create", "-q"]).arg(path).timeout(START).run().map(drop)
    }

    /// Asks by Xen's own way, and by the power button where the guest does not know it.
    fn shut_down(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::ShutDown, &["shutdown", "-F"])
    }

    fn power_off(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::PowerOff, &["destroy"])
    }

    fn pause(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Pause, &["pause"])
    }

    fn resume(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Resume, &["unpause"])
    }

    fn reboot(&mut self, name: &str) -> Result<(), VirtError> {
        self.operate(name, Operation::Reboot, &["reboot", "-F"])
    }

    fn set_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        if let Some(row) = &found.row {
            let most = self.running(row)?.most_vcpus();
            if vcpus > most {
                let limit = format!("it runs with at most {most}: shut it off, and raise max-vcpus");
                return Err(VirtError::Resize {
                    name: name.into(),
                    wanted: format!("{vcpus} virtual CPUs"),
                    limit,
                });
            }
        }
        let mut spec = self.defined(&found)?;
        spec.resize(Some(vcpus), None);
        let live = |row: &Row| {
            let arguments = ["vcpu-set", &row.id.to_string(), &vcpus.to_string()];
            self.xl(format!("resize {name}"), &arguments).run().map(drop)
        };
        self.change(&found, &spec, Some(live))
    }

    fn set_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        if let Some(row) = &found.row {
            let most = self.running(row)?.most_memory();
            if memory > most {
                let limit = format!("it runs with at most {most}: shut it off, and raise max-memory");
                return Err(VirtError::Resize { name: name.into(), wanted: memory.to_string(), limit });
            }
        }
        let mut spec = self.defined(&found)?;
        spec.resize(None, Some(memory));
        let live = |row: &Row| {
            let arguments = ["mem-set", &row.id.to_string(), &format!("{}k", memory.kib())];
            self.xl(format!("resize {name}"), &arguments).run().map(drop)
        };
        self.change(&found, &spec, Some(live))
    }

    fn pin(&mut self, name: &str, pins: &Pins) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        let mut spec = self.defined(&found)?;
        spec.pins = pins.clone();
        self.change(&found, &spec, Some(|row: &Row| self.pin_running(row, pins)))
    }

    /// At once where it is Xen's own; others when the machine is started next.
    fn attach_disk(&mut self, name: &str, disk: &Disk) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        let spec = self.defined(&found)?;
        if spec.disks.iter().any(|other| other.target == disk.target) {
            return Err(VirtError::PartExists { name: name.into(), what: "disk", part: disk.target.clone() });
        }
        let spec = spec.disk(disk.clone());
        let disk = spec.disks.last().unwrap_or(disk);
        disk.validate().map_err(VirtError::spec(name))?;
        let words = write::disk_words(&spec, disk)?;
        disk.source.iter().try_for_each(|source| check_data(name, source.path()))?;
        let live = |row: &Row| {
            let call = self.xl(format!("attach a disk to {name}"), &["block-attach", &row.id.to_string()]);
            call.args(words).run().map(drop)
        };
        self.change(&found, &spec, (disk.bus == Bus::Xen).then_some(live))
    }

    fn detach_disk(&mut self, name: &str, target: &str) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        let mut spec = self.defined(&found)?;
        let Some(at) = spec.disks.iter().position(|disk| disk.target == target) else {
            return Err(VirtError::NoPart { name: name.into(), what: "disk", part: target.into() });
        };
        let disk = spec.disks.remove(at);
        let live = |row: &Row| {
            // It may be there from the next boot on.
            if !self.running(row)?.disks.iter().any(|disk| disk.target == target) {
                return Ok(());
            }
            let arguments = ["block-detach", &row.id.to_string(), target];
            self.xl(format!("detach disk {target} from {name}"), &arguments).run().map(drop)
        };
        self.change(&found, &spec, (disk.bus == Bus::Xen).then_some(live))
    }

    /// At once where it is Xen's own; others when the machine is started next.
    fn attach_nic(&mut self, name: &str, nic: &Nic) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        let spec = self.defined(&found)?;
        if let Some(mac) = nic.mac.filter(|mac| spec.nics.iter().any(|other| other.mac == Some(*mac))) {
            let part = mac.to_string();
            return Err(VirtError::PartExists { name: name.into(), what: "network interface", part });
        }
        nic.validate().map_err(VirtError::spec(name))?;
        // Nothing else of it is completed: it may be somebody else's.
        let mut nic = nic.clone();
        while nic.mac.is_none() || spec.nics.iter().any(|other| other.mac == nic.mac) {
            nic.mac = Some(Mac::random(VENDOR, &mut self.random));
        }
        let model = nic.model;
        let spec = spec.nic(nic);
        let words = spec.nics.last().map_or(Ok(Vec::new()), |nic| write::nic_words(&spec, nic))?;
        let live = |row: &Row| {
            let operation = format!("attach a network interface to {name}");
            self.xl(operation, &["network-attach", &row.id.to_string()]).args(words).run().map(drop)
        };
        self.change(&found, &spec, (model == NicModel::Netfront).then_some(live))
    }

    fn detach_nic(&mut self, name: &str, mac: Mac) -> Result<Effect, VirtError> {
        let found = self.find(name)?;
        let mut spec = self.defined(&found)?;
        let Some(at) = spec.nics.iter().position(|nic| nic.mac == Some(mac)) else {
            let part = mac.to_string();
            return Err(VirtError::NoPart { name: name.into(), what: "network interface", part });
        };
        let nic = spec.nics.remove(at);
        let live = |row: &Row| {
            if !self.running(row)?.nics.iter().any(|nic| nic.mac == Some(mac)) {
                return Ok(());
            }
            let arguments = ["network-detach", &row.id.to_string(), &mac.to_string()];
            self.xl(format!("detach interface {mac} from {name}"), &arguments).run().map(drop)
        };
        self.change(&found, &spec, (nic.model == NicModel::Netfront).then_some(live))
    }

    fn console(&mut self, name: &str) -> Result<ConsoleAddress, VirtError> {
        let spec = self.spec(name)?;
        let line = if spec.kind == Kind::Hvm { "serial" } else { "pv" };
        match spec.console {
            Console::Pty => {
                let program = self.xl.path().to_string_lossy().into_owned();
                let words = [program, "console".into(), "-t".into(), line.into(), name.into()];
                Ok(ConsoleAddress::Program(words.into()))
            }
            Console::File(path) => Ok(ConsoleAddress::File(path)),
            Console::Socket(path) => Ok(ConsoleAddress::Socket(path)),
            Console::None => {
                Err(VirtError::NoPart { name: name.into(), what: "console", part: "serial".into() })
            }
        }
    }

    /// Xen counts time; the kernel of Domain-0 counts what its drivers move. Of image files it counts nothing.
    fn statistics(&mut self, name: &str) -> Result<Statistics, VirtError> {
        let Some(row) = self.seen(name)? else { return Ok(Statistics::default()) };
        let targets = self.targets(&row)?;
        Ok(Statistics {
            cpu_time: row.cpu_time,
            vcpus: row.vcpus,
            memory: row.memory,
            resident: Some(row.memory),
            disks: usage::disks(&self.sysfs, row.id, targets.into_iter()),
            net: usage::network(&self.sysfs, row.id),
        })
    }
}
