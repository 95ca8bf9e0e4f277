//! Which machine is meant: this one, a recorded one, or the one that `lscpu -p` has described.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lb_affinity::Topology;
use lb_affinity::fs::{FileSystem, LONGEST, Memory, Real, Rooted};
use lb_affinity::topology::{LscpuError, TopologyError};

/// The machine to look at; without any of these, this one.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct Source {
    /// A recorded machine: a directory, or a tar (also .gz, .bz2), with its /sys and /proc
    #[arg(long, value_name = "DIR-OR-TAR")]
    pub(crate) root: Option<PathBuf>,
    /// The output of `lscpu -p`, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) lscpu: Option<PathBuf>,
}

/// A machine that can't be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{path}: {error}")]
    Read { path: String, error: io::Error },
    #[error("{path} is neither a directory nor a tar, a tar.gz or a tar.bz2 with /sys in it: {error}")]
    Archive { path: String, error: io::Error },
    #[error("{path}: nothing that is called `sys` or `proc` is in it; give the directory that stands for /")]
    NoRoot { path: String },
    #[error("{path}: {error}")]
    Lscpu { path: String, error: LscpuError },
    #[error("{path}: {error}")]
    Recorded { path: String, error: TopologyError },
    #[error("{0}")]
    Live(TopologyError),
}

impl Source {
    /// Whether it is this machine.
    pub(crate) fn is_live(&self) -> bool {
        self.root.is_none() && self.lscpu.is_none()
    }

    /// The machine's structure, and its files, of which `lscpu` has none.
    pub(crate) fn open(&self) -> Result<(Topology, Box<dyn FileSystem>), SourceError> {
        if let Some(path) = &self.lscpu {
            let name = path.display().to_string();
            let text = read_text(path).map_err(|error| SourceError::Read { path: name.clone(), error })?;
            let topology =
                Topology::from_lscpu(&text).map_err(|error| SourceError::Lscpu { path: name, error })?;
            return Ok((topology, Box::new(Memory::new())));
        }
        let Some(path) = &self.root else {
            return Ok((Topology::live().map_err(SourceError::Live)?, Box::new(Real)));
        };
        let name = path.display().to_string();
        let read = |error| SourceError::Read { path: name.clone(), error };
        let recorded = |error| SourceError::Recorded { path: name.clone(), error };
        if path.metadata().map_err(read)?.is_dir() {
            let root = root_below(path).ok_or_else(|| SourceError::NoRoot { path: name.clone() })?;
            let files = Rooted::new(root);
            return Ok((Topology::discover(&files).map_err(recorded)?, Box::new(files)));
        }
        let archive = |error| SourceError::Archive { path: name.clone(), error };
        let files = unpack(File::open(path).map_err(read)?).map_err(archive)?;
        let files = files.ok_or_else(|| SourceError::NoRoot { path: name.clone() })?;
        Ok((Topology::discover(&files).map_err(recorded)?, Box::new(files)))
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let from: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = String::new();
    let length = from.take(LONGEST + 1).read_to_string(&mut text)?;
    if length as u64 > LONGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

const IN_A_ROOT: [&str; 2] = ["sys", "proc"];

/// The directory itself, or its only one.
fn root_below(path: &Path) -> Option<PathBuf> {
    // A link may lead anywhere.
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let is_root = |path: &Path| IN_A_ROOT.iter().any(|name| is_directory(&path.join(name)));
    if is_root(path) {
        return Some(path.to_owned());
    }
    let mut entries = path.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let only = entries.next()?;
    (entries.next().is_none() && is_directory(&only) && is_root(&only)).then_some(only)
}

/// As long as Linux takes them (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;

/// Reads so many bytes, and then fails: an archive that was packed well may unpack to more than there is memory for.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("it unpacks to more than {LONGEST} bytes"))
        })?;
        Ok(length)
    }
}

/// An archive's files, without the directories that all of them may be in. `None` if there is no `/sys` nor `/proc`.
fn unpack(mut file: File) -> io::Result<Option<Memory>> {
    let mut start = [0; 3];
    let length = file.read(&mut start)?;
    let whole = io::Cursor::new(start[..length].to_vec()).chain(file);
    let content: Box<dyn Read> = match &start {
        b"BZh" => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        [0x1f, 0x8b, _] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        _ => Box::new(whole),
    };
    let mut archive = tar::Archive::new(Bounded { inner: content, left: LONGEST });
    let mut entries = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?;
        let target = entry.link_name()?;
        let longest = target.iter().chain([&path]).map(|path| path.as_os_str().len()).max();
        if longest.is_some_and(|length| length > LONGEST_PATH) {
            return Err(io::Error::other(format!("a path in it has more than {LONGEST_PATH} bytes")));
        }
        let path: PathBuf =
            path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
        if path.as_os_str().is_empty() {
            continue;
        }
        let content = match entry.header().entry_type() {
            tar::EntryType::Directory => Content::Directory,
            tar::EntryType::Symlink => match target {
                Some(target) => Content::Link(target.into_owned()),
                None => continue,
            },
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                Content::File(bytes)
            }
            _ => continue,
        };
        entries.push((path, content));
    }
    let is_root = |skip: usize| {
        let nth =
            |path: &Path| path.iter().nth(skip).is_some_and(|name| IN_A_ROOT.iter().any(|one| name == *one));
        entries.iter().any(|(path, _)| nth(path))
    };
    // Some archives hold more than one machine's files, such as what its CPUs say of themselves, and a directory for each.
    let Some(skip) = (0..4).find(|&skip| is_root(skip)) else { return Ok(None) };
    let mut tree = Memory::new();
    for (path, content) in entries {
        let path: PathBuf = path.iter().skip(skip).collect();
        match content {
            Content::File(bytes) => tree.insert(path, bytes),
            Content::Link(target) => tree.link(path, target),
            Content::Directory => tree.directory(path),
        }
    }
    Ok(Some(tree))
}

enum Content {
    File(Vec<u8>),
    Link(PathBuf),
    Directory,
}
