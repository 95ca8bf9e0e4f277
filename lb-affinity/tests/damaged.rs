//! Recorded machines, each of whose files is damaged in each way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use lb_affinity::fs::{FileSystem, Rooted};
use lb_affinity::topology::TopologyError;
use lb_affinity::{Interrupts, Nic, Topology};

mod damage;
mod recordings;

/// Reads a machine's files once each, and one of them as something else.
struct Damaged {
    tree: Rooted,
    read: RefCell<BTreeMap<PathBuf, Result<Vec<u8>, io::ErrorKind>>>,
    listed: RefCell<BTreeMap<PathBuf, Result<Vec<OsString>, io::ErrorKind>>>,
    /// The file, and what is in it.
    damage: Option<(PathBuf, Option<Vec<u8>>)>,
}

impl Damaged {
    fn none(root: &Path) -> Self {
        Self { tree: Rooted::new(root), read: RefCell::default(), listed: RefCell::default(), damage: None }
    }

    fn discover(&self) -> Result<Topology, TopologyError> {
        Topology::discover(self)
    }
}

/// What was found before, or is found now.
fn once<T: Clone>(
    known: &RefCell<BTreeMap<PathBuf, Result<T, io::ErrorKind>>>,
    path: &Path,
    find: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let mut known = known.borrow_mut();
    let found = known.entry(path.to_owned()).or_insert_with(|| find(path).map_err(|error| error.kind()));
    found.clone().map_err(Into::into)
}

impl FileSystem for Damaged {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.damage {
            Some((damaged, content)) if damaged == path => {
                content.clone().ok_or(io::ErrorKind::NotFound.into())
            }
            _ => once(&self.read, path, |path| self.tree.read(path)),
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.tree.write(path, content)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        once(&self.listed, path, |path| self.tree.list(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.tree.canonicalize(path)
    }
}

#[test]
#[ignore = "needs recorded machines"]
fn no_damage_to_a_recorded_machine_panics() {
    /// As many files of a machine: of a larger one every second, or third. All of all would take an hour.
    const FILES: usize = 64;
    let ways = damage::ways();
    let (mut machines, mut outcomes, mut refusals) = (0, 0, 0);
    for (name, root) in recordings::unpacked().roots() {
        let mut machine = Damaged::none(root);
        let whole = machine.discover();
        damage::check(&whole).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        // What was read, and was there.
        let files: Vec<PathBuf> = machine
            .read
            .borrow()
            .iter()
            .filter(|(_, content)| content.is_ok())
            .map(|(path, _)| path.clone())
            .collect();
        let step = files.len().div_ceil(FILES).max(1);
        machines += 1;
        for path in files.into_iter().step_by(step) {
            for way in &ways {
                machine.damage = Some((path.clone(), way.clone()));
                let outcome = machine.discover();
                damage::check(&outcome).unwrap_or_else(|wrong| {
                    let way = damage::shown(way.as_deref());
                    panic!("{name}: {}: {way}: {wrong}", path.display())
                });
                if let Err(error) = &outcome {
                    // It is this file that is named, or no CPU is left.
                    let named = error.to_string().contains(&path.display().to_string());
                    assert!(
                        named || matches!(error, TopologyError::NoCpu),
                        "{name}: {}: {error}",
                        path.display()
                    );
                    refusals += 1;
                }
                outcomes += 1;
            }
        }
        machine.damage = None;
        assert_eq!(machine.discover().ok(), whole.ok(), "{name}");
        if let Ok(interrupts) = Interrupts::read(&machine) {
            let _ = Nic::all(&machine, &interrupts);
        }
    }
    println!("{machines} machines, {outcomes} damages, {refusals} of which were refused");
    assert!(machines > 0 && refusals > 0 && refusals < outcomes);
}
