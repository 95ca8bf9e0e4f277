//! A machine's files recorded under a directory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::resolve;
use super::{FileSystem, list_real, read_whole};

/// Files below a directory that stands for `/`: a recorded machine, or one in a container. Links in it, absolute ones too, never
/// lead out of it. Pipes, sockets and devices in it are not opened. It can't be written to. Where the links of directories lead is looked up once.
#[derive(Clone, Debug)]
pub struct Rooted {
    root: PathBuf,
    /// Directories without links on the way, by the path they were asked by.
    directories: Arc<Mutex<HashMap<PathBuf, PathBuf>>>,
}

impl Rooted {
    /// The files below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), directories: Arc::default() }
    }

    fn inside(&self, path: &Path) -> io::Result<PathBuf> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(below(&self.root, &self.canonicalize(path)?));
        };
        let direct = self.directory(directory)?.join(name);
        let is_link = below(&self.root, &direct).symlink_metadata()?.is_symlink();
        let resolved = if is_link { self.canonicalize(path)? } else { direct };
        Ok(below(&self.root, &resolved))
    }

    /// A directory without links. It is found from its parent's, so that a tree's deep paths cost one look a directory.
    fn directory(&self, path: &Path) -> io::Result<PathBuf> {
        let known = self.directories.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let resolved = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let direct = self.directory(parent)?.join(name);
                let is_link = below(&self.root, &direct).symlink_metadata()?.is_symlink();
                if is_link { self.canonicalize(path)? } else { direct }
            }
            _ => self.canonicalize(path)?,
        };
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        directories.insert(path.to_owned(), resolved.clone());
        Ok(resolved)
    }
}

impl FileSystem for Rooted {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = self.inside(path)?;
        // Whoever opens a pipe waits for its other end, and a device may do anything.
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_file() || kind.is_dir() {
            read_whole(&path)
        } else {
            Err(io::Error::other("it is no regular file"))
        }
    }

    fn write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        list_real(&self.inside(path)?)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        resolve(path, |path| {
            let real = below(&self.root, path);
            let kind = real.symlink_metadata()?.file_type();
            if kind.is_symlink() { real.read_link().map(Some) } else { Ok(None) }
        })
    }
}

/// The path that `path` has when `root` stands for `/`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_no_file_is_not_opened() {
        let root = std::env::temp_dir().join(format!("lb-affinity-odd-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("pipe", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let tree = Rooted::new(&root);
        for name in ["/pipe", "/link", "/socket"] {
            let error = tree.read(Path::new(name)).unwrap_err();
            assert_eq!(error.to_string(), "it is no regular file", "{name}");
        }
        assert_eq!(tree.read(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn links_stay_below_the_root() {
        let root = std::env::temp_dir().join(format!("lb-affinity-rooted-{}", std::process::id()));
        let tree = Rooted::new(&root);
        std::fs::create_dir_all(root.join("sys/devices/cpu0")).unwrap();
        std::fs::write(root.join("sys/devices/cpu0/online"), "1\n").unwrap();
        symlink("../sys/devices", root.join("sys/bus")).unwrap();
        symlink("/sys/devices/cpu0", root.join("sys/absolute")).unwrap();
        symlink("../../../../../../etc", root.join("sys/out")).unwrap();

        assert_eq!(tree.read(Path::new("/sys/bus/cpu0/online")).unwrap(), b"1\n");
        assert_eq!(
            tree.canonicalize(Path::new("/sys/absolute/../cpu0")).unwrap(),
            Path::new("/sys/devices/cpu0")
        );
        assert_eq!(tree.list(Path::new("/sys/absolute")).unwrap(), ["online"]);
        assert_eq!(tree.read(Path::new("/sys/absolute/../cpu0/online")).unwrap(), b"1\n");
        assert_eq!(tree.read(Path::new("/sys/bus/../../sys/bus/cpu0/./online")).unwrap(), b"1\n");
        symlink("cpu0/online", root.join("sys/devices/file")).unwrap();
        assert_eq!(tree.read(Path::new("/sys/bus/file")).unwrap(), b"1\n");
        assert_eq!(tree.list(Path::new("/")).unwrap(), ["sys"]);
        assert_eq!(tree.read(Path::new("/sys/out/passwd")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let error = tree.write(Path::new("/sys/bus/cpu0/online"), b"0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        std::fs::remove_dir_all(root).unwrap();
    }
}
