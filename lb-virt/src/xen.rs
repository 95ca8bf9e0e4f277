//! Xen, driven by its program `xl`.
//!
//! `xl` knows machines only while they run, so definitions are kept here: a configuration of xl's for each machine, `NAME.cfg` in a
//! directory. Each can be read, and started, with `xl` alone; and one that was written by hand is a machine here too. What they
//! say is asked of `xl` itself (`xl -N create`), never guessed.
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

mod read;
mod tables;
mod usage;
mod write;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use lb_affinity::CpuSet;

use crate::command::{Call, Program};
use crate::domain::{Bus, Console, Disk, DomainSpec, Kind, Mac, Memory, Nic, NicModel, Pins, check_name};
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
        let id = self.moved(name)?;
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
        let id = self.moved(name)?;
        self.xl(format!("migrate {name} to {host}"), &["migrate", &id, host]).timeout(MOVE).run().map(drop)
    }

    /// The number of a machine that can be moved.
    fn moved(&self, name: &str) -> Result<String, VirtError> {
        let (found, _) = self.may(name, Operation::MigrateLive)?;
        Ok(found.row.map_or(0, |row| row.id).to_string())
    }

    fn xl(&self, operation: impl Into<String>, arguments: &[&str]) -> Call<'_> {
        self.xl.call(operation).args(arguments)
    }

    fn domains(&self) -> Result<Vec<Row>, VirtError> {
        let output = self.xl("list machines", &["list"]).run()?;
        let text = output.text();
        tables::domains(&text).ok_or_else(|| said("list machines", format!("an unknown answer: {text}")))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.cfg"))
    }

    fn find(&self, name: &str) -> Result<Found, VirtError> {
        let row = self.domains()?.into_iter().find(|row| row.name == name);
        // No other text becomes a path.
        let file = check_name(name).is_ok().then(|| self.path(name)).filter(|path| path.is_file());
        if row.is_none() && file.is_none() {
            return Err(VirtError::NoMachine { name: name.into(), host: NAME.into() });
        }
        Ok(Found { name: name.into(), row, file })
    }

    /// A machine whose state lets an operation be done, and its state then.
    fn may(&self, name: &str, operation: Operation) -> Result<(Found, State), VirtError> {
        let found = self.find(name)?;
        let after = found.state().after(operation).map_err(VirtError::state(name))?;
        Ok((found, after))
    }

    /// Lets `xl` do something to a machine that runs.
    fn operate(&self, name: &str, operation: Operation, arguments: &[&str]) -> Result<(), VirtError> {
        let (found, _) = self.may(name, operation)?;
        let Some(row) = found.row else { return Ok(()) };
        self.xl(format!("{operation} {name}"), arguments).arg(row.id.to_string()).run().map(drop)
    }

    /// The CPUs that a virtual one may run on.
    fn cpus(&self) -> Result<CpuSet, VirtError> {
        let text = self.xl("describe the host", &["info"]).run()?.text();
        let host = tables::host(&text).ok_or_else(|| said("describe the host", text))?;
        Ok(CpuSet::first_n(host.cpus.min(1 << 16)))
    }

    /// What `xl` reads in a definition.
    fn read(&self, name: &str, path: &Path, cpus: &CpuSet) -> Result<DomainSpec, VirtError> {
        let operation = format!("read {}", path.display());
        let json = self.xl(operation.as_str(), &["-N", "create"]).arg(path).run()?.text();
        let mut spec = from_json(&json, cpus).map_err(|error| said(operation, error))?;
        let config = fs::read_to_string(path).map_err(|source| no_file(name, path, source))?;
        read::own(&config, &mut spec);
        Ok(spec)
    }

    /// A machine's definition as it runs.
    fn running(&self, row: &Row) -> Result<DomainSpec, VirtError> {
        let operation = format!("describe {}", row.name);
        let json = self.xl(operation.as_str(), &["list", "-l", &row.id.to_string()]).run()?.text();
        from_json(&json, &self.cpus()?).map_err(|error| said(operation, error))
    }

    fn defined(&self, found: &Found) -> Result<DomainSpec, VirtError> {
        match (&found.file, &found.row) {
            (Some(path), _) => self.read(&found.name, path, &self.cpus()?),
            (None, Some(row)) => self.running(row),
            (None, None) => Err(VirtError::NoMachine { name: found.name.clone(), host: NAME.into() }),
        }
    }

    /// Checks a definition, and lets `xl` read what is written of it; the file is not a machine's yet.
    fn write(&self, spec: &DomainSpec) -> Result<PathBuf, VirtError> {
        let config = to_config(spec)?;
        let cpus = self.cpus()?;
        // xl passes over those that are not there.
        if let Some((vcpu, _)) = spec.pins.vcpus.iter().find(|(_, pinned)| !pinned.is_subset(&cpus)) {
            let what = format!("CPU for virtual CPU {vcpu} beyond the host's {cpus}");
            return Err(write::inexpressible(spec, what, "pin it to those that there are"));
        }
        let path = self.directory.join(format!(".{}.new", spec.name));
        let written = fs::create_dir_all(&self.directory).and_then(|()| fs::write(&path, config));
        written.map_err(|source| no_file(&spec.name, &path, source))?;
        let judged = self.read(&spec.name, &path, &cpus);
        if let Err(error) = judged {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(path)
    }

    /// Changes a machine: `live` does to the one that runs what can be done at once, and then its definition is changed too.
    fn change(
        &self,
        found: &Found,
        spec: &DomainSpec,
        live: Option<impl FnOnce(&Row) -> Result<(), VirtError>>,
    ) -> Result<Effect, VirtError> {
        let name = &found.name;
        spec.validate().map_err(VirtError::spec(name))?;
        let new = match &found.file {
            Some(_) => Some(self.write(spec)?),
            None if live.is_some() => None,
            None => {
                let words = format!(
                    "it has no definition in {}, and can't be changed while it runs",
                    self.directory.display()
                );
                return Err(said(format!("change {name}"), words));
            }
        };
        let effect = match (&found.row, live) {
            (None, _) => Effect::Now,
            (Some(_), None) => Effect::NextBoot,
            (Some(row), Some(live)) => {
                if let Err(error) = live(row) {
                    new.iter().for_each(|new| drop(fs::remove_file(new)));
                    return Err(error);
                }
                Effect::Now
            }
        };
        if let (Some(new), Some(path)) = (new, &found.file) {
            fs::rename(new, path).map_err(|source| no_file(name, path, source))?;
        }
        Ok(effect)
    }

    /// Pins a running machine; after a failure it is pinned as before.
    fn pin_running(&self, row: &Row, before: &DomainSpec, pins: &Pins) -> Result<(), VirtError> {
        let set = |vcpu: u32, pins: &Pins| {
            let cpus = pins.vcpus.get(&vcpu).map_or("all".into(), ToString::to_string);
            let operation = format!("pin virtual CPU {vcpu} of {}", row.name);
            self.xl(operation, &["vcpu-pin", &row.id.to_string(), &vcpu.to_string(), &cpus]).run().map(drop)
        };
        for vcpu in 0..before.most_vcpus() {
            if pins.vcpus.get(&vcpu) == before.pins.vcpus.get(&vcpu) {
                continue;
            }
            if let Err(error) = set(vcpu, pins) {
                (0..=vcpu).for_each(|vcpu| drop(set(vcpu, &before.pins)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Files of definitions, with the names of their machines.
    fn files(&self) -> Result<Vec<(String, PathBuf)>, VirtError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(no_file("", &self.directory, source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| no_file("", &self.directory, source))?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".cfg"));
            if let Some(name) = name.filter(|name| check_name(name).is_ok()) {
                files.push((name.to_owned(), path.clone()));
            }
        }
        files.sort();
        Ok(files)
    }
}

fn said(operation: impl Into<String>, words: impl ToString) -> VirtError {
    VirtError::Said { hypervisor: NAME, operation: operation.into(), words: words.to_string() }
}

fn no_file(name: &str, path: &Path, source: io::Error) -> VirtError {
    VirtError::File { name: name.into(), path: path.into(), source }
}

/// Whether a disk's data is there.
fn check_data(name: &str, disk: &Disk) -> Result<(), VirtError> {
    disk.source.iter().try_for_each(|source| {
        fs::metadata(source.path()).map(drop).map_err(|error| no_file(name, source.path(), error))
    })
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
        let (rows, files) = (self.domains()?, self.files()?);
        let cpus = if files.is_empty() { CpuSet::new() } else { self.cpus()? };
        let mut machines = Vec::new();
        for (name, path) in &files {
            let spec = self.read(name, path, &cpus)?;
            let row = rows.iter().find(|row| row.name == *name);
            machines.push(Summary {
                name: name.clone(),
                uuid: spec.uuid,
                state: row.map_or(State::ShutOff, |row| row.state),
                vcpus: row.map_or(spec.vcpus, |row| row.vcpus),
                memory: row.map_or(spec.memory, |row| row.memory),
            });
        }
        for row in rows.into_iter().filter(|row| !files.iter().any(|(name, _)| *name == row.name)) {
            let Row { name, memory, vcpus, state, .. } = row;
            machines.push(Summary { name, uuid: None, state, vcpus, memory });
        }
        machines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(machines)
    }

    fn state(&mut self, name: &str) -> Result<State, VirtError> {
        Ok(self.find(name)?.state())
    }

    fn spec(&mut self, name: &str) -> Result<DomainSpec, VirtError> {
        self.defined(&self.find(name)?)
    }

    fn define(&mut self, spec: &DomainSpec) -> Result<(), VirtError> {
        let spec = spec.completed(VENDOR, &mut self.random);
        let name = spec.name.clone();
        spec.validate().map_err(VirtError::spec(&name))?;
        let taken = || VirtError::MachineExists { name: name.clone(), host: NAME.into() };
        if self.list()?.iter().any(|other| other.name == name || other.uuid == spec.uuid) {
            return Err(taken());
        }
        let (new, path) = (self.write(&spec)?, self.path(&name));
        // Not in the place of one that somebody else has defined meanwhile.
        let placed = fs::hard_link(&new, &path);
        let _ = fs::remove_file(&new);
        placed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(),
            _ => no_file(&name, &path, error),
        })
    }

    fn delete(&mut self, name: &str) -> Result<(), VirtError> {
        let (found, _) = self.may(name, Operation::Delete)?;
        // What has crashed is kept to be looked at, until now.
        if let Some(row) = &found.row {
            self.xl(format!("delete {name}"), &["destroy", &row.id.to_string()]).run()?;
        }
        found
            .file
            .map_or(Ok(()), |path| fs::remove_file(&path).map_err(|source| no_file(name, &path, source)))
    }

    fn start(&mut self, name: &str) -> Result<(), VirtError> {
        let (found, _) = self.may(name, Operation::Start)?;
        let Some(path) = &found.file else {
            return Err(said(format!("start {name}"), "it has no definition"));
        };
        let spec = self.defined(&found)?;
        spec.disks.iter().try_for_each(|disk| check_data(name, disk))?;
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
        let running = found.row.as_ref().map(|row| self.running(row)).transpose()?;
        let before = running.as_ref().unwrap_or(&spec);
        self.change(&found, &spec, Some(|row: &Row| self.pin_running(row, before, pins)))
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
        check_data(name, disk)?;
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
        let spec = spec.nic(nic.clone()).completed(VENDOR, &mut self.random);
        let words = spec.nics.last().map_or(Ok(Vec::new()), |nic| write::nic_words(&spec, nic))?;
        let live = |row: &Row| {
            let operation = format!("attach a network interface to {name}");
            self.xl(operation, &["network-attach", &row.id.to_string()]).args(words).run().map(drop)
        };
        self.change(&found, &spec, (nic.model == NicModel::Netfront).then_some(live))
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
        let found = self.find(name)?;
        let Some(row) = found.row else { return Ok(Statistics::default()) };
        let targets = self.running(&row)?.disks.into_iter().map(|disk| (disk.bus, disk.target));
        Ok(Statistics {
            cpu_time: row.cpu_time,
            vcpus: row.vcpus,
            memory: row.memory,
            resident: Some(row.memory),
            disks: usage::disks(&self.sysfs, row.id, targets),
            net: usage::network(&self.sysfs, row.id),
        })
    }
}
