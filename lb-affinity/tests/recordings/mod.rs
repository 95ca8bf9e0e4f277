//! Recorded machines, from the folder that `LB_TOPOLOGIES` names: directories, or archives that `tar` reads.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The machines by name, each with the directory that stands for its `/`. What was unpacked goes with this value.
pub(crate) struct Recordings {
    roots: Vec<(String, PathBuf)>,
    scratch: PathBuf,
}

impl Recordings {
    pub(crate) fn roots(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.roots.iter().map(|(name, root)| (&**name, &**root))
    }
}

impl Drop for Recordings {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

pub(crate) fn unpacked() -> Recordings {
    let folder = std::env::var_os("LB_TOPOLOGIES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/topologies"), PathBuf::from);
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}; name the folder in LB_TOPOLOGIES", folder.display()));
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    entries.sort();
    let scratch = std::env::temp_dir().join(format!("lb-affinity-topologies-{}", std::process::id()));
    let mut recordings = Recordings { roots: Vec::new(), scratch };
    for entry in entries {
        let name = entry.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        let directory = if entry.is_dir() {
            entry
        } else if name.contains(".tar") {
            let directory = recordings.scratch.join(&name);
            std::fs::create_dir_all(&directory).expect("a directory for the test can be made");
            let status = Command::new("tar")
                .arg("-xf")
                .arg(&entry)
                .arg("-C")
                .arg(&directory)
                .status()
                .expect("tar runs");
            assert!(status.success(), "tar -xf {name}");
            directory
        } else {
            continue;
        };
        let root = root(&directory).unwrap_or_else(|| panic!("{name} has no /sys and no /proc"));
        recordings.roots.push((name, root));
    }
    assert!(!recordings.roots.is_empty(), "no recorded machine in {}", folder.display());
    recordings
}

/// The directory in or below `directory` that stands for `/`.
fn root(directory: &Path) -> Option<PathBuf> {
    if directory.join("sys").is_dir() || directory.join("proc").is_dir() {
        return Some(directory.to_owned());
    }
    let below = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).find_map(|path| root(&path))
}
