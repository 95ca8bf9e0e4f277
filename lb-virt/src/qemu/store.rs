//! What is kept of a host's machines: a directory, and in it one for each.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | nothing: who holds its lock makes and removes machines |
//! | `kvm.json` | whether the hardware runs guests, and for which QEMU that was found out |
//! | `machines/NAME/definition.json` | its definition, as it will be when it starts next |
//! | `machines/NAME/run.json` | of one that was started: its process, its definition as it runs, and whether it is being moved |
//! | `machines/NAME/snapshots.json` | its snapshots, with the definitions that they go back to |
//! | `machines/NAME/waits` | nothing: it is a copy that was not told to run |
//! | `machines/NAME/crashed` | that it ended without having been asked, until it is started again |
//! | `machines/.gone` | what is left of a machine that is gone: its files, and its process if there is a note of one |
//! | `machines/NAME/lock` | nothing: who holds its lock does something to it |
//! | `machines/NAME/pid` | QEMU's own note of its process, which it removes when it ends by itself |
//! | `machines/NAME/{control,events}.sock` | QEMU's monitors: for one command at a time, and for who hears events |
//! | `machines/NAME/incoming.sock`, `way` | where a copy waits for what is sent; from where it is sent, the way there |
//! | `machines/NAME/log`, `log.old` | what QEMU complained of, this time and the time before |
//!
//! A file is written beside its place and then put there, so that it is whole or was never there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::QEMU;
use super::machine::Run;
use crate::domain::DomainSpec;
use crate::error::VirtError;
use crate::wait::until;

/// How long another program may hold a lock: snapshots of large machines take their time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long a move takes from the source's end to the target's begin, and more.
const SOON: Duration = Duration::from_millis(20);
/// That a machine is a copy that waits.
pub(crate) const WAITS: &str = "waits";
/// What is left of a machine that is gone.
const GONE: &str = "machines/.gone";

/// The directory of a host's machines.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) root: PathBuf,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// A lock that is held, and released when it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// An error of a file, with its path.
pub(crate) fn failed(machine: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> VirtError {
    let (name, path) = (machine.to_owned(), path.into());
    |source| VirtError::File { name, path, source }
}

fn make_directory(path: &Path) -> io::Result<()> {
    // Who can talk to a monitor is master of the machine.
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Store {
    /// The directory at `root`, made if it is not there.
    pub(crate) fn open(root: &Path) -> Result<Self, VirtError> {
        let root = std::path::absolute(root).map_err(failed("(all)", root))?;
        make_directory(&root.join("machines")).map_err(failed("(all)", &root))?;
        let root = root.canonicalize().map_err(failed("(all)", &root))?;
        if root.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
            let words = "a directory of machines must have a name in UTF-8 without control characters";
            return Err(failed("(all)", &root)(io::Error::new(io::ErrorKind::InvalidInput, words)));
        }
        let store = Self { root };
        // What a program that died has left.
        store.sweep();
        Ok(store)
    }

    /// The names of all machines, in their order.
    pub(crate) fn names(&self) -> Result<Vec<String>, VirtError> {
        let path = self.root.join("machines");
        let entries = fs::read_dir(&path).map_err(failed("(all)", &path))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        // No machine's name begins with a point: what does is being made, or removed.
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The machine of that name; `None` if there is none. Nothing keeps it from going.
    pub(crate) fn find(&self, name: &str) -> Option<Place> {
        crate::domain::check_name(name).ok()?;
        let path = self.root.join("machines").join(name);
        path.is_dir().then(|| Place { name: name.into(), path })
    }

    /// Holds the lock of the whole directory.
    pub(crate) fn lock(&self) -> Result<Lock, VirtError> {
        lock(&self.root.join("lock"), "(all)", "make or remove a machine", PATIENCE)
    }

    /// Makes a machine, whole or not at all, on the disk when this returns; it is held from before anybody can find it. `copy`: what is
    /// noted of the run of a copy that waits.
    pub(crate) fn make(
        &self,
        spec: &DomainSpec,
        copy: Option<&impl Serialize>,
    ) -> Result<(Place, Lock), VirtError> {
        let machines = self.root.join("machines");
        let unfinished = machines.join(".new");
        // What a program that died has left.
        let _ = fs::remove_dir_all(&unfinished);
        let place = Place { name: spec.name.clone(), path: unfinished.clone() };
        let made = (|| {
            make_directory(&unfinished).map_err(failed(&spec.name, &unfinished))?;
            let lock = lock(&place.file("lock"), &spec.name, "make", PATIENCE)?;
            if let Some(run) = copy {
                let waits = place.file(WAITS);
                File::create(&waits).map_err(failed(&spec.name, waits))?;
                place.write("run.json", run)?;
            }
            place.write("definition.json", spec)?;
            let path = machines.join(&spec.name);
            rename(&unfinished, &path, true).map_err(failed(&spec.name, &path))?;
            Ok((Place { name: spec.name.clone(), path }, lock))
        })();
        if made.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
        made
    }

    /// Removes a machine: it is gone at once, also after the host's end, and what is left of it when that is [swept](Self::sweep).
    pub(crate) fn remove(&self, place: &Place) -> Result<(), VirtError> {
        let _lock = self.lock()?;
        bury(&self.root);
        rename(&place.path, &self.root.join(GONE), true).map_err(failed(&place.name, &place.path))
    }

    /// Removes what is left of a machine that is gone, its process too.
    pub(crate) fn sweep(&self) {
        sweep(&self.root);
    }

    /// The same in a moment, if nobody does so before: meanwhile something is done that has no time.
    pub(crate) fn sweep_soon(&self) {
        let root = self.root.clone();
        let later = move || {
            sleep(SOON);
            sweep(&root);
        };
        if thread::Builder::new().name("sweep".into()).spawn(later).is_err() {
            self.sweep();
        }
    }
}

fn sweep(root: &Path) {
    if root.join(GONE).exists()
        && let Ok(_lock) = lock(&root.join("lock"), "(all)", "remove what is left of a machine", PATIENCE)
    {
        bury(root);
    }
}

/// Ends a process whose machine is gone, and removes its files. What can't be removed is tried again when the next one goes. The lock of
/// the whole directory is held.
fn bury(root: &Path) {
    let gone = Place { name: "(gone)".into(), path: root.join(GONE) };
    if let Ok(Some(run)) = gone.read::<Run>("run.json")
        && let Some(process) = run.process
        && process.strike().is_err()
    {
        // It may live, and this is the only note of it.
        return;
    }
    let _ = fs::remove_dir_all(&gone.path);
}

/// The directory of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Place {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Holds its lock, waiting so long at most; `None` if it has gone meanwhile.
    pub(crate) fn lock(&self, operation: &str, patience: Duration) -> Result<Option<Lock>, VirtError> {
        let held = self.lock_broken(operation, patience)?;
        // It may have been removed, and another made of that name, while the lock was waited for.
        Ok(held.filter(|_| self.file("definition.json").exists()))
    }

    /// Holds its lock, whatever else is there of it; `None` if it has gone meanwhile.
    pub(crate) fn lock_broken(&self, operation: &str, patience: Duration) -> Result<Option<Lock>, VirtError> {
        match lock(&self.file("lock"), &self.name, operation, patience) {
            Err(VirtError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// What is written in a file of its; `None` if there is none.
    pub(crate) fn read<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>, VirtError> {
        let path = self.file(file);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&self.name, path)(error)),
        };
        let value = serde_json::from_slice(&bytes).map_err(io::Error::from);
        value.map(Some).map_err(failed(&self.name, path))
    }

    /// Writes a file of its, whole or not at all, on the disk when this returns.
    pub(crate) fn write(&self, file: &str, value: &impl Serialize) -> Result<(), VirtError> {
        self.put(file, value, true)
    }

    /// Writes a file of its that the host's end makes void: whole or not at all, on the disk when the kernel likes; a host that loses its
    /// power may have something that can't be read.
    pub(crate) fn write_soon(&self, file: &str, value: &impl Serialize) -> Result<(), VirtError> {
        self.put(file, value, false)
    }

    fn put(&self, file: &str, value: &impl Serialize, at_once: bool) -> Result<(), VirtError> {
        let (path, unfinished) = (self.file(file), self.file(&format!(".{file}")));
        let written = (|| {
            let bytes = serde_json::to_vec_pretty(value)?;
            let mut file = File::create(&unfinished)?;
            file.write_all(&bytes)?;
            if at_once {
                // A host that loses its power has the old one or the new one.
                file.sync_data()?;
            }
            rename(&unfinished, &path, at_once)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written.map_err(failed(&self.name, path))
    }

    /// Removes a file of its, if it is there.
    pub(crate) fn remove(&self, file: &str) -> Result<(), VirtError> {
        let path = self.file(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.name, path)(error)),
            _ => Ok(()),
        }
    }

    /// Does something with the path of a socket of its that is short enough for one (107 bytes), however long the directory's is.
    pub(crate) fn with_socket<T>(
        &self,
        name: &str,
        act: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let directory = File::open(&self.path)?;
        act(Path::new(&format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())))
    }
}

/// Gives a file or directory another name in its directory; `at_once`: on the disk when this returns.
fn rename(from: &Path, to: &Path, at_once: bool) -> io::Result<()> {
    // Opened before, so that nothing has changed if it can't be.
    let directory = to.parent().filter(|_| at_once).map(File::open).transpose()?;
    fs::rename(from, to)?;
    directory.map_or(Ok(()), |directory| directory.sync_all())
}

fn lock(path: &Path, machine: &str, operation: &str, patience: Duration) -> Result<Lock, VirtError> {
    let end = until(patience);
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(failed(machine, path))?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(machine, path)(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                    let operation =
                        format!("{operation} {machine} (another program holds {})", path.display());
                    return Err(VirtError::Timeout { hypervisor: QEMU, operation, after: patience });
                }
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(1)),
            }
        }
        // It may have been removed, and another made of that name, since it was opened: who holds this one holds nothing then.
        if is_at(&file, path).map_err(failed(machine, path))? {
            return Ok(Lock { _file: file });
        }
    }
}

/// Whether a file that is open is the one that is there now.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let there = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let file = file.metadata()?;
    Ok((file.dev(), file.ino()) == (there.dev(), there.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Memory;

    fn made(store: &Store) -> (Place, Lock) {
        store.make(&DomainSpec::new("web1", 1, Memory::from_mib(64)), None::<&()>).unwrap()
    }

    #[test]
    fn the_lock_of_a_machine_that_is_gone_holds_no_other_of_that_name() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (place, first) = made(&store);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| place.lock("look at", Duration::from_millis(300)));
            // It has opened the first one's by then.
            sleep(Duration::from_millis(100));
            store.remove(&place).unwrap();
            let second = made(&store);
            drop(first);
            let waited = waits.join().unwrap();
            assert!(matches!(waited, Err(VirtError::Timeout { .. })), "two hold it: {waited:?}");
            drop(second);
        });
        assert!(place.lock("look at", Duration::ZERO).unwrap().is_some());
        store.remove(&place).unwrap();
        assert!(place.lock("look at", Duration::ZERO).unwrap().is_none());
    }

    #[test]
    fn what_is_made_is_held_before_it_can_be_found() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (place, lock) = made(&store);
        assert!(store.find("web1").is_some());
        assert!(matches!(place.lock("look at", Duration::ZERO), Err(VirtError::Timeout { .. })));
        drop(lock);
        assert!(place.lock("look at", Duration::ZERO).unwrap().is_some());
    }
}
