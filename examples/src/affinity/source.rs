//! Which machine is meant: this one, a recorded one, or the one that `lscpu -p` has described.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use lb_affinity::Topology;
use lb_affinity::fs::{FileSystem, LONGEST, Memory, Real, Rooted};
use lb_affinity::topology::{LscpuError, TopologyError};

/// The machine to look at; without any of these, this one.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(crate) struct Source {
    /// A recorded machine: a directory, or a tar (also .gz, .bz2), with its /sys and /proc, as hwloc-gather-topology makes it
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
    #[error(
        "{path}: nothing that is called `sys` or `proc` is in it, nor up to {LEVELS} directories below; give the directory that stands for /, or a tar of it"
    )]
    NoRoot { path: String },
    #[error(
        "{path}: more than one directory in it has a `sys` or `proc`, as {first} and {second}; give the one that stands for / (of a tar, after unpacking it)"
    )]
    Several { path: String, first: String, second: String },
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
            let files = Rooted::new(root_below(path)?);
            return Ok((Topology::discover(&files).map_err(recorded)?, Box::new(files)));
        }
        let archive = |error| SourceError::Archive { path: name.clone(), error };
        let entries = unpack(File::open(path).map_err(read)?).map_err(archive)?;
        let files = tree(&only(path, roots_in(&entries))?, entries);
        Ok((Topology::discover(&files).map_err(recorded)?, Box::new(files)))
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let from: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = Vec::new();
    let length = from.take(LONGEST + 1).read_to_end(&mut text)?;
    // Whatever is no text is no output of lscpu, and the reader of that says so.
    let text = || String::from_utf8_lossy(&text).into_owned();
    if length as u64 > LONGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text()) }
}

const IN_A_ROOT: [&str; 2] = ["sys", "proc"];

/// So many directories may be above the one that stands for `/`: `machine/fsroot`, and one to spare.
const LEVELS: usize = 3;

/// So many directories are looked into for it.
const LOOKS: usize = 10_000;

/// The directory that stands for `/`: this one, or the only one below it that holds `/sys` or `/proc`. Some recordings hold more than the
/// machine's files, such as what its CPUs say of themselves.
fn root_below(path: &Path) -> Result<PathBuf, SourceError> {
    // A link may lead anywhere.
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let mut level = vec![path.to_owned()];
    let mut looks = 0;
    for depth in 0..=LEVELS {
        let is_root = |path: &&PathBuf| IN_A_ROOT.iter().any(|name| is_directory(&path.join(name)));
        let roots: Vec<PathBuf> = level.iter().filter(is_root).cloned().collect();
        if !roots.is_empty() || depth == LEVELS {
            return only(path, roots);
        }
        looks += level.len();
        let below = level.iter().filter_map(|path| path.read_dir().ok()).flatten();
        let below = below.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_directory(path));
        level = below.take(LOOKS.saturating_sub(looks)).collect();
    }
    only(path, Vec::new())
}

/// One of several machines is not guessed.
fn only(path: &Path, mut roots: Vec<PathBuf>) -> Result<PathBuf, SourceError> {
    roots.sort();
    let path = path.display().to_string();
    match <[PathBuf; 1]>::try_from(roots) {
        Ok([root]) => Ok(root),
        Err(roots) => match &*roots {
            [first, second, ..] => {
                let [first, second] = [first, second].map(|root| root.display().to_string());
                Err(SourceError::Several { path, first, second })
            }
            _ => Err(SourceError::NoRoot { path }),
        },
    }
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

/// A path without what leads out of the archive.
fn inside(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// What is in an archive.
fn unpack(mut file: File) -> io::Result<Vec<(PathBuf, Content)>> {
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
        let path = inside(&path);
        if path.as_os_str().is_empty() {
            continue;
        }
        let content = match entry.header().entry_type() {
            tar::EntryType::Directory => Content::Directory,
            tar::EntryType::Symlink => match target {
                Some(target) => Content::Link(target.into_owned()),
                None => continue,
            },
            tar::EntryType::Link => match target {
                Some(target) => Content::Same(inside(&target)),
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
    Ok(entries)
}

/// The shallowest directories of an archive that hold a `/sys` or `/proc`.
fn roots_in(entries: &[(PathBuf, Content)]) -> Vec<PathBuf> {
    let mut roots = BTreeSet::new();
    for (path, content) in entries {
        let names: Vec<_> = path.iter().collect();
        // Whatever is in it makes it a directory.
        let length = if matches!(content, Content::Directory) { names.len() } else { names.len() - 1 };
        let names = &names[..length.min(LEVELS + 1)];
        if let Some(depth) = names.iter().position(|name| IN_A_ROOT.iter().any(|one| *name == *one)) {
            roots.insert((depth, names[..depth].iter().collect::<PathBuf>()));
        }
    }
    let least = roots.first().map(|(depth, _)| *depth);
    roots.into_iter().filter(|(depth, _)| Some(*depth) == least).map(|(_, root)| root).collect()
}

/// The files below `root`, which stands for `/`.
fn tree(root: &Path, entries: Vec<(PathBuf, Content)>) -> Memory {
    let mut tree = Memory::new();
    for (path, content) in entries {
        let Ok(path) = path.strip_prefix(root) else { continue };
        match content {
            Content::File(bytes) => tree.insert(path, bytes),
            Content::Link(target) => tree.link(path, target),
            Content::Same(target) => {
                if let Ok(target) = target.strip_prefix(root) {
                    tree.link(path, Path::new("/").join(target));
                }
            }
            Content::Directory => tree.directory(path),
        }
    }
    tree
}

enum Content {
    File(Vec<u8>),
    Link(PathBuf),
    /// The same file as another one of the archive, which came before it.
    Same(PathBuf),
    Directory,
}
