//! Writes that are kept instead of carried out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::FileSystem;
use crate::nic::ethtool::EthtoolError;
use crate::nic::{ChannelCounts, Channels};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// To a file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// What would have been written.
        content: Vec<u8>,
    },
    /// To a driver.
    Channels {
        /// The interface.
        interface: String,
        /// What would have been set.
        counts: ChannelCounts,
    },
}

/// Reads another file system and keeps what is written to itself: a rehearsal. What was written is read back from then on. Other
/// numbers of channels are read back too, but the queues' files stay those that there are.
#[derive(Debug)]
pub struct Recording<F> {
    inner: F,
    writes: RefCell<Vec<Write>>,
    written: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    channels: RefCell<BTreeMap<String, Channels>>,
}

impl<F: FileSystem> Recording<F> {
    /// Over `inner`, which is only read.
    pub const fn new(inner: F) -> Self {
        Self {
            inner,
            writes: RefCell::new(Vec::new()),
            written: RefCell::new(BTreeMap::new()),
            channels: RefCell::new(BTreeMap::new()),
        }
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
        self.writes.borrow_mut().push(Write::File { path: path.to_owned(), content: content.to_owned() });
        self.written.borrow_mut().insert(real, content.to_owned());
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.inner.canonicalize(path)
    }

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        match self.channels.borrow().get(interface) {
            Some(channels) => Ok(*channels),
            None => self.inner.channels(interface),
        }
    }

    fn set_channels(&self, interface: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        let mut channels = self.channels(interface)?;
        let kinds = [
            (&mut channels.rx, counts.rx),
            (&mut channels.tx, counts.tx),
            (&mut channels.combined, counts.combined),
        ];
        for (kind, count) in kinds {
            kind.count = count.unwrap_or(kind.count);
        }
        let interface = interface.to_owned();
        self.writes.borrow_mut().push(Write::Channels { interface: interface.clone(), counts });
        self.channels.borrow_mut().insert(interface, channels);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;
    use crate::nic::Count;

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
        assert_eq!(rehearsal.into_writes(), [Write::File { path: link.into(), content: b"c".into() }]);
        assert_eq!(tree.read(path).unwrap(), b"0");
    }

    #[test]
    fn channels_are_rehearsed_where_they_are_known() {
        let mut tree = Memory::new();
        let channels = Channels {
            rx: Count { count: 4, max: 4 },
            tx: Count { count: 4, max: 4 },
            ..Channels::default()
        };
        tree.insert_channels("eth0", channels);
        let counts = "rx 2".parse().unwrap();
        let error = tree.set_channels("eth0", counts).unwrap_err();
        assert!(
            error.to_string().starts_with("eth0: setting channels: there is no driver to ask"),
            "{error}"
        );
        let rehearsal = Recording::new(&tree);
        rehearsal.set_channels("eth0", counts).unwrap();
        assert_eq!(rehearsal.channels("eth0").unwrap().counts().to_string(), "rx 2 tx 4");
        assert!(matches!(rehearsal.set_channels("eth1", counts), Err(EthtoolError::NoDriver { .. })));
        assert_eq!(rehearsal.into_writes(), [Write::Channels { interface: "eth0".into(), counts }]);
        assert_eq!(tree.channels("eth0").unwrap(), channels);
    }
}
