//! Writes that are kept instead of carried out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::FileSystem;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The file, as it was named.
    pub path: PathBuf,
    /// What would have been written.
    pub content: Vec<u8>,
}

/// Reads another file system and keeps what is written to itself: a rehearsal. What was written is read back from then on.
#[derive(Debug)]
pub struct Recording<F> {
    inner: F,
    writes: RefCell<Vec<Write>>,
    written: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
}

impl<F: FileSystem> Recording<F> {
    /// Over `inner`, which is only read.
    pub const fn new(inner: F) -> Self {
        Self { inner, writes: RefCell::new(Vec::new()), written: RefCell::new(BTreeMap::new()) }
    }

    /// What was written, in order.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        self.writes.into_inner()
    }
}

impl<F: FileSystem> FileSystem for Recording<F> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let real = self.inner.canonicalize(path)?;
        match self.written.borrow().get(&real) {
            Some(content) => Ok(content.clone()),
            None => self.inner.read(&real),
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let real = self.inner.canonicalize(path)?;
        self.writes.borrow_mut().push(Write { path: path.to_owned(), content: content.to_owned() });
        self.written.borrow_mut().insert(real, content.to_owned());
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.canonicalize(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    #[test]
    fn a_rehearsal_reads_back_what_it_wrote_and_changes_nothing() {
        let mut tree = Memory::new();
        tree.insert("/sys/queue/rps_cpus", "0");
        tree.link("/sys/q", "queue");
        let rehearsal = Recording::new(&tree);
        let (path, link) = (Path::new("/sys/queue/rps_cpus"), Path::new("/sys/q/rps_cpus"));
        rehearsal.write(link, b"c").unwrap();
        assert_eq!(rehearsal.read(path).unwrap(), b"c");
        assert_eq!(
            rehearsal.write(Path::new("/sys/gone"), b"1").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(rehearsal.into_writes(), [Write { path: link.into(), content: b"c".into() }]);
        assert_eq!(tree.read(path).unwrap(), b"0");
    }
}
