//! Starts a machine's QEMU, or leaves nothing of it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::arguments::{Launch, QEMU, arguments, inexpressible};
use super::machine::{CONTROL, EVENTS, Machine, Run};
use super::process;
use super::qmp::QmpError;
use crate::domain::{Console, Disk, DiskDevice, DomainSpec};
use crate::error::VirtError;

/// How long QEMU may take until it can be talked to: a second where it is at home, and more on a host that is busy.
const READY: Duration = Duration::from_secs(60);
/// What of QEMU's complaints stands in an error.
const SHOWN: usize = 2000;

/// How a machine is started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    /// QEMU.
    pub(super) program: &'a Path,
    pub(super) accelerated: bool,
    /// Whether it waits for what another one sends.
    pub(super) incoming: bool,
}

/// Whether a definition can be run, as far as can be said before.
pub(super) fn check(spec: &DomainSpec) -> Result<(), VirtError> {
    arguments(spec, &Launch::default())?;
    if let Console::Socket(path) = &spec.console
        && path.as_os_str().len() > 107
    {
        return Err(inexpressible(
            spec,
            "console socket with a path of more than 107 bytes",
            "use a shorter one",
        ));
    }
    Ok(())
}

/// Whether the files that it needs are there.
pub(super) fn check_files(spec: &DomainSpec) -> Result<(), VirtError> {
    let read_only = |disk: &Disk| disk.read_only || disk.device == DiskDevice::Cdrom;
    let disks = spec.disks.iter().filter_map(|disk| Some((disk.source.as_ref()?.path(), read_only(disk))));
    let kernel = spec.kernel.iter().flat_map(|kernel| [Some(&kernel.image), kernel.initrd.as_ref()]);
    for (path, read_only) in disks.chain(kernel.flatten().map(|path| (path, true))) {
        let opened = fs::OpenOptions::new().read(true).write(!read_only).open(path);
        opened.map_err(super::store::failed(&spec.name, path))?;
    }
    Ok(())
}

impl Machine {
    /// Starts its QEMU with its virtual CPUs standing still. If that fails, nothing of it is left.
    pub(super) fn launch(&mut self, spec: DomainSpec, start: &Start<'_>) -> Result<(), VirtError> {
        check_files(&spec)?;
        let result = self.try_launch(spec, start);
        if result.is_err() {
            self.clear_away(false)?;
        }
        result
    }

    fn try_launch(&mut self, spec: DomainSpec, start: &Start<'_>) -> Result<(), VirtError> {
        let pid_file = self.place.file("pid");
        let launch = Launch {
            accelerated: start.accelerated,
            // QEMU runs in the machine's directory, however long its name is.
            monitors: &[Path::new(CONTROL), Path::new(EVENTS)],
            pid_file: Some(&pid_file),
            paused: true,
            incoming: start.incoming,
        };
        let words = arguments(&spec, &launch)?;
        for file in ["pid", CONTROL, EVENTS] {
            self.place.remove(file)?;
        }
        let log = self.place.file("log");
        let _ = fs::rename(&log, self.place.file("log.old"));
        let log = File::create(&log).map_err(super::store::failed(self.name(), &log))?;
        let moving = self.moving().cloned();
        self.run = Some(Run { process: None, spec, started: false, moving, set: None });
        self.save_run()?;
        let process = process::launch(start.program.as_os_str(), &words, &self.place.path, log);
        let process = process.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                VirtError::NoProgram { program: start.program.into(), package: "qemu-system" }
            }
            _ => super::store::failed(self.name(), start.program)(error),
        })?;
        if let Some(run) = &mut self.run {
            run.process = Some(process.clone());
        }
        self.save_run()?;
        let end = Instant::now() + READY;
        loop {
            match self.with_qmp(READY, |_| Ok(())) {
                Ok(_) => return Ok(()),
                // Nobody listens yet, or any more: it is about to end, and will have said why.
                Err(QmpError::Io(_) | QmpError::Closed { .. })
                    if process.lives().map_err(self.unseen(&process))? =>
                {
                    if Instant::now() < end {
                        sleep(Duration::from_micros(500));
                        continue;
                    }
                    let operation = format!("start {}", self.name());
                    return Err(VirtError::Timeout { hypervisor: QEMU, operation, after: READY });
                }
                Err(QmpError::Io(_) | QmpError::Closed { .. }) => return Err(self.complaint()),
                Err(error) => return Err(error.while_it(format!("start {}", self.name()))),
            }
        }
    }

    /// Lets a machine that was launched run as its definition says.
    pub(super) fn set_going(&mut self) -> Result<(), VirtError> {
        let result = self.try_set_going();
        if result.is_err() {
            self.clear_away(false)?;
        }
        result
    }

    fn try_set_going(&mut self) -> Result<(), VirtError> {
        self.make_ready(false)?;
        self.settle()?;
        if let Some(run) = &mut self.run {
            run.started = true;
        }
        self.save_run()?;
        self.forget_crash()?;
        self.tell("start", "cont", json!({}))?;
        Ok(())
    }

    /// Gives it the places and the memory that its definition says, which QEMU's command line can't.
    pub(super) fn settle(&mut self) -> Result<(), VirtError> {
        self.apply_pins()?;
        let spec = self.live();
        if spec.balloon && spec.memory < spec.most_memory() {
            let bytes = spec.memory.bytes();
            self.tell("start", "balloon", json!({"value": bytes}))?;
        }
        if self.live().balloon {
            // Every two seconds the guest says what it does with its memory, if it can.
            let poll = json!({
                "path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval", "value": 2,
            });
            self.tell("start", "qom-set", poll)?;
        }
        Ok(())
    }

    /// Why QEMU has ended, in its own words.
    fn complaint(&self) -> VirtError {
        let log = fs::read(self.place.file("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let words: String = log.trim().chars().take(SHOWN).collect();
        let words = if words.is_empty() { "it ended without a word".to_owned() } else { words };
        complaint(self.live(), words, &format!("start {}", self.name()))
    }
}

/// What QEMU's words are about: a file of the machine's, or something else.
pub(super) fn complaint(spec: &DomainSpec, words: String, operation: &str) -> VirtError {
    let disks = spec.disks.iter().filter_map(|disk| disk.source.as_ref()).map(|source| source.path());
    let kernel = spec.kernel.iter().flat_map(|kernel| [Some(&kernel.image), kernel.initrd.as_ref()]);
    let files: Vec<&PathBuf> = disks.chain(kernel.flatten()).collect();
    let named = |path: &&&PathBuf| {
        // As it is, or as JSON writes it.
        let path = path.to_string_lossy();
        words.contains(&*path) || words.contains(json!(path).to_string().trim_matches('"'))
    };
    // The longest: one path may begin like another.
    let path = files.iter().filter(named).max_by_key(|path| path.as_os_str().len()).copied();
    // What of it says of what kind it is, and whether only an image is spoken of so: it is then not always named.
    let kind = [
        ("Failed to get \"", true, io::ErrorKind::ResourceBusy),
        ("Failed to get shared \"", true, io::ErrorKind::ResourceBusy),
        ("No space left", false, io::ErrorKind::StorageFull),
        ("No such file", false, io::ErrorKind::NotFound),
        ("Permission denied", false, io::ErrorKind::PermissionDenied),
    ];
    let kind = kind.into_iter().find(|(said, ..)| words.contains(said));
    let path = path.or(match (files.as_slice(), kind) {
        ([path], Some((_, true, _))) => Some(*path),
        _ => None,
    });
    match (path, kind) {
        (Some(path), Some((_, _, kind))) => {
            let source = io::Error::new(kind, words.clone());
            VirtError::File { name: spec.name.clone(), path: path.clone(), source }
        }
        _ => VirtError::Said { hypervisor: QEMU, operation: operation.into(), words },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Memory;

    #[test]
    fn only_what_is_named_is_complained_of() {
        use io::ErrorKind as K;

        let one = DomainSpec::new("web1", 1, Memory::from_mib(64)).disk(Disk::file("/srv/a.qcow2"));
        for (words, expected) in [
            ("Could not access KVM kernel module: Permission denied", None),
            ("-chardev socket,path=/run/no/such: No such file or directory", None),
            ("Could not open '/srv/a.qcow2': Permission denied", Some(K::PermissionDenied)),
            ("Could not open '/srv/a.qcow2': No such file or directory", Some(K::NotFound)),
            // It is not always named by who speaks of locks.
            ("Failed to get \"write\" lock", Some(K::ResourceBusy)),
            ("Failed to get shared \"write\" lock", Some(K::ResourceBusy)),
            ("Image is not in qcow2 format", None),
        ] {
            let kind = match complaint(&one, words.into(), "start web1") {
                VirtError::File { path, source, .. } => {
                    assert_eq!(path, Path::new("/srv/a.qcow2"));
                    Some(source.kind())
                }
                _ => None,
            };
            assert_eq!(kind, expected, "{words}");
        }
        let two = one.disk(Disk::file("/srv/a.qcow2.b"));
        let said = complaint(&two, "Could not open '/srv/a.qcow2.b': No such file".into(), "start web1");
        assert!(matches!(said, VirtError::File { path, .. } if path == Path::new("/srv/a.qcow2.b")));
        let said = complaint(&two, "Failed to get \"write\" lock".into(), "start web1");
        assert!(matches!(said, VirtError::Said { .. }), "one of two");
    }
}
