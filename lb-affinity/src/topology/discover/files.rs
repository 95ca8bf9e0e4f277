//! Reads the kernel's small files: what is missing, and what is garbled.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::TopologyError;
use crate::cpu_set::{IdSet, Kind, MAX_ID};
use crate::fs::FileSystem;

/// A file system, as the parts below ask it.
pub(super) struct Files<'a, F> {
    system: &'a F,
}

/// The names that one thing had over the kernel's history, and its two formats. The one that was there last is tried first. Masks
/// come before lists: every kernel has them.
pub(super) struct Names {
    names: &'static [&'static str],
    last: Cell<usize>,
}

impl Names {
    pub(super) const fn new(names: &'static [&'static str]) -> Self {
        Self { names, last: Cell::new(0) }
    }
}

impl<'a, F: FileSystem> Files<'a, F> {
    pub(super) const fn new(system: &'a F) -> Self {
        Self { system }
    }

    /// A file's text without the blanks around it; `None` if there is none, or `(null)`, which some kernels print for no set.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, TopologyError> {
        let content = match self.system.read(Path::new(path)) {
            Ok(content) => content,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(source) => return Err(TopologyError::Read { path: path.into(), source }),
        };
        let text = String::from_utf8_lossy(&content);
        let text = text.trim_matches(|character: char| character.is_whitespace() || character == '\0');
        Ok(if text.is_empty() || text == "(null)" { None } else { Some(text.to_owned()) })
    }

    /// A number.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Result<Option<T>, TopologyError> {
        let Some(text) = self.text(path)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| garbled(path, &text, "a number"))
    }

    /// A set in the kernel's list format.
    pub(super) fn list<K: Kind>(&self, path: &str) -> Result<Option<IdSet<K>>, TopologyError> {
        let text = self.text(path)?;
        text.map(|text| parse_list(path, &text)).transpose()
    }

    /// A set, from the first of several files in a directory: those that end in `list` are lists, the others are masks.
    pub(super) fn set<K: Kind>(
        &self,
        directory: &str,
        names: &Names,
    ) -> Result<Option<IdSet<K>>, TopologyError> {
        let count = names.names.len();
        let first = names.last.get();
        for at in (0..count).map(|step| (first + step) % count) {
            let path = format!("{directory}/{}", names.names[at]);
            if let Some(text) = self.text(&path)? {
                names.last.set(at);
                let parsed =
                    if path.ends_with("list") { parse_list(&path, &text) } else { parse_mask(&path, &text) };
                return parsed.map(Some);
            }
        }
        Ok(None)
    }

    /// The names in a directory; none if there is no such directory.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, TopologyError> {
        match self.system.list(Path::new(path)) {
            Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(source) => Err(TopologyError::Read { path: path.into(), source }),
        }
    }

    /// The numbers of a directory's entries `prefix0`, `prefix1`, …
    pub(super) fn numbered<K: Kind>(&self, path: &str, prefix: &str) -> Result<IdSet<K>, TopologyError> {
        let names = self.names(path)?;
        let numbers = names.iter().filter_map(|name| {
            let digits = name.strip_prefix(prefix)?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|&number| plain && number <= MAX_ID)
        });
        Ok(numbers.collect())
    }
}

/// Whether the kernel, or the recording, just does not have the file, or has nothing to say in it.
fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, Unsupported};
    // A device that goes while it is asked.
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    // EINVAL and EOPNOTSUPP are the answers of attributes that have no value: the type of an unknown cache.
    // A name that is too long comes of a garbled file that names another one.
    matches!(
        error.kind(),
        NotFound | NotADirectory | IsADirectory | InvalidInput | InvalidFilename | Unsupported
    ) || matches!(error.raw_os_error(), Some(ENXIO | ENODEV))
}

pub(super) fn parse_list<K: Kind>(path: &str, text: &str) -> Result<IdSet<K>, TopologyError> {
    text.parse().map_err(|_| garbled(path, text, "a list of numbers up to 65535, like 0-3,8"))
}

pub(super) fn parse_mask<K: Kind>(path: &str, text: &str) -> Result<IdSet<K>, TopologyError> {
    IdSet::parse_mask(text)
        .map_err(|_| garbled(path, text, "a mask of at most 65536 bits, like 00000000,0000000f"))
}

pub(super) fn garbled(path: &str, value: &str, expected: &'static str) -> TopologyError {
    const SHOWN: usize = 60;
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    TopologyError::Value { path: PathBuf::from(path), value: shown, expected }
}
