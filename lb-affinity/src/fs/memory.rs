//! A machine's files in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::io;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use super::FileSystem;
use crate::nic::Channels;
use crate::nic::ethtool::{EthtoolError, READING_CHANNELS};

/// A tree of files in memory: from a test, or from an archive. It can't be written to but by [`insert`](Self::insert), and
/// interfaces have the channels of [`insert_channels`](Self::insert_channels) only.
///
/// ```
/// use lb_affinity::fs::{FileSystem, Memory};
///
/// let mut tree = Memory::new();
/// tree.insert("/sys/devices/system/cpu/online", "0-3\n");
/// tree.link("/sys/bus/cpu", "../devices/system/cpu");
/// assert_eq!(tree.read("/sys/bus/cpu/online".as_ref())?, b"0-3\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    nodes: BTreeMap<PathBuf, Node>,
    channels: BTreeMap<String, Channels>,
}

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Directory,
    Link(PathBuf),
}

impl Memory {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a file, and the directories on the way to it. What was at that path is replaced. `.` and `..` in the path are taken by
    /// their letters.
    pub fn insert(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.put(path.as_ref(), Node::File(content.into()));
    }

    /// Puts a directory.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        let path = clean(path.as_ref());
        if !matches!(self.nodes.get(&path), Some(Node::Directory)) {
            self.put(&path, Node::Directory);
        }
    }

    /// Puts a symbolic link to `target`, which is relative to the link's directory or begins with `/`.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.put(path.as_ref(), Node::Link(target.into()));
    }

    /// Says what an interface's driver tells of its channels.
    pub fn insert_channels(&mut self, interface: impl Into<String>, channels: Channels) {
        self.channels.insert(interface.into(), channels);
    }

    /// Takes a file, a link, or a directory with all that is in it, away.
    pub fn remove(&mut self, path: impl AsRef<Path>) {
        let path = clean(path.as_ref());
        self.nodes.retain(|other, _| !other.starts_with(&path));
    }

    fn put(&mut self, path: &Path, node: Node) {
        let path = clean(path);
        for parent in path.ancestors().skip(1) {
            match self.nodes.entry(parent.to_owned()) {
                Entry::Occupied(entry) if matches!(entry.get(), Node::Directory | Node::Link(_)) => break,
                Entry::Occupied(mut entry) => *entry.get_mut() = Node::Directory,
                Entry::Vacant(entry) => {
                    entry.insert(Node::Directory);
                }
            }
        }
        self.nodes.insert(path, node);
    }

    fn get(&self, path: &Path) -> io::Result<(PathBuf, &Node)> {
        let path = self.canonicalize(path)?;
        let node = self.nodes.get(&path).ok_or(io::ErrorKind::NotFound)?;
        Ok((path, node))
    }
}

impl FileSystem for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.get(path)?.1 {
            Node::File(content) => Ok(content.clone()),
            Node::Directory | Node::Link(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let (path, node) = self.get(path)?;
        if !matches!(node, Node::Directory) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let below = self.nodes.range::<Path, _>((Bound::Excluded(&*path), Bound::Unbounded));
        let below = below.map(|(other, _)| other).take_while(|other| other.starts_with(&path));
        let children = below.filter(|other| other.parent() == Some(&*path));
        Ok(children.filter_map(|child| child.file_name()).map(OsString::from).collect())
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        resolve(path, |path| match self.nodes.get(path) {
            Some(Node::Link(target)) => Ok(Some(target.clone())),
            Some(_) => Ok(None),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        let none = || EthtoolError::NoDriver { interface: interface.to_owned(), operation: READING_CHANNELS };
        self.channels.get(interface).copied().ok_or_else(none)
    }
}

/// An absolute path without `.` and `..`, by its letters alone.
fn clean(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    result
}

/// Follows the links in a path, as the kernel does, but never above `/`. `link` says where the link at a path leads, or that it is
/// none.
pub(super) fn resolve(
    path: &Path,
    link: impl Fn(&Path) -> io::Result<Option<PathBuf>>,
) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const LINKS: usize = 40;
    let mut result = PathBuf::from("/");
    let mut links = 0;
    let reversed = |path: &Path| -> Vec<OsString> {
        let names =
            path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
        names.rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut rest = reversed(path);
    while let Some(name) = rest.pop() {
        if name == ".." {
            result.pop();
            continue;
        }
        result.push(name);
        if let Some(target) = link(&result)? {
            links += 1;
            if links > LINKS {
                return Err(io::Error::other("too many symbolic links"));
            }
            result.pop();
            if target.is_absolute() {
                result = PathBuf::from("/");
            }
            rest.extend(reversed(&target));
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> &Path {
        Path::new(path)
    }

    #[test]
    fn a_tree_is_read_as_a_real_one() {
        let mut tree = Memory::new();
        tree.insert("/sys/cpu/cpu1/online", "1");
        tree.insert("/sys/cpu/cpu0/online", "0");
        tree.insert("/sys/cpu-list", "x");
        tree.link("/sys/all", "cpu");
        tree.link("/sys/cpu/self", "/sys/cpu/cpu0/");
        tree.link("/loop", "loop");
        tree.directory("/sys/empty");

        assert_eq!(tree.list(at("/sys/all/")).unwrap(), ["cpu0", "cpu1", "self"]);
        assert_eq!(tree.list(at("/sys")).unwrap(), ["all", "cpu", "cpu-list", "empty"]);
        assert_eq!(tree.read(at("/sys/all/self/online")).unwrap(), b"0");
        assert_eq!(tree.canonicalize(at("/sys/all/self/../cpu1")).unwrap(), at("/sys/cpu/cpu1"));
        assert_eq!(tree.list(at("/sys/empty")).unwrap(), [""; 0]);

        let kind = |result: io::Result<Vec<u8>>| result.unwrap_err().kind();
        assert_eq!(kind(tree.read(at("/sys/none"))), io::ErrorKind::NotFound);
        assert_eq!(kind(tree.read(at("/sys/cpu"))), io::ErrorKind::IsADirectory);
        assert!(tree.read(at("/loop")).unwrap_err().to_string().contains("symbolic links"));
        assert_eq!(tree.list(at("/sys/cpu-list")).unwrap_err().kind(), io::ErrorKind::NotADirectory);

        tree.remove("/sys/cpu");
        assert_eq!(tree.list(at("/sys")).unwrap(), ["all", "cpu-list", "empty"]);
    }
}
