//! What a driver is about to change on the system, written down before it does, for the next start after a `kill -9`.
//!
//! The run directory has one file for each driver that runs, locked while it does. A file that can be locked is a dead
//! driver's: what it says is undone, and it is deleted. So the next start need not have the same configuration, drivers of
//! several programs do not undo each other's work, and a reboot (which empties `/run`) leaves nothing to undo.
//!
//! A virtual address is written down when its instance is added, not when it takes over: a takeover writes to no disk. So
//! the file says what *may* be there; an address is removed only if it is there and, where the kernel knows tags
//! (`IFA_PROTO`, since Linux 5.18), has the driver's.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::DriverError;
use crate::config::VirtualAddress;

/// One thing that may have to be undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address { interface: String, address: VirtualAddress },
    Vmac { name: String },
    Sysctl { path: String, original: String },
}

impl Record {
    pub(super) fn address(interface: &str, address: VirtualAddress) -> Self {
        Self::Address { interface: interface.into(), address }
    }

    fn line(&self) -> String {
        match self {
            Self::Address { interface, address } => format!("address {interface} {address}"),
            Self::Vmac { name } => format!("vmac {name}"),
            Self::Sysctl { path, original } => format!("sysctl {path} {original}"),
        }
    }

    /// `None` for a line that is cut short or of a later version.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next().filter(|word| !word.is_empty()).map(str::to_owned);
        let record = match word()?.as_str() {
            "address" => Self::Address { interface: word()?, address: word()?.parse().ok()? },
            "vmac" => Self::Vmac { name: word()? },
            "sysctl" => Self::Sysctl { path: word()?, original: word()? },
            _ => return None,
        };
        words.next().is_none().then_some(record)
    }
}

/// The driver's own file. Without a run directory it writes nowhere.
#[derive(Debug, Default)]
pub(super) struct Journal(Option<(PathBuf, File)>);

/// Tells files of one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Journal {
    /// Opens a file of its own, and gives what dead drivers of this network namespace have left, each with its file.
    pub(super) fn open(directory: Option<&Path>) -> Result<(Self, Vec<Leftover>), DriverError> {
        let Some(directory) = directory else { return Ok((Self::default(), Vec::new())) };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DriverError::RunDirectory { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed(directory))?;
        let namespace = Path::new("/proc/thread-self/ns/net");
        let namespace = fs::metadata(namespace).map_err(failed(namespace))?.ino();
        let prefix = format!("{namespace}-");

        let mut leftovers = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let entry = entry.map_err(failed(directory))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                leftovers.extend(Leftover::take(&entry.path()).map_err(failed(&entry.path()))?);
            }
        }
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{prefix}{}-{number}", std::process::id()));
            let opened = OpenOptions::new().append(true).create_new(true).open(&path);
            match opened {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => {
                    let file = opened.map_err(failed(&path))?;
                    file.lock().map_err(failed(&path))?;
                    return Ok((Self(Some((path, file))), leftovers));
                }
            }
        }
    }

    pub(super) fn add(&mut self, record: &Record) -> io::Result<()> {
        self.write(&format!("+{}\n", record.line()))
    }

    /// Writes many at once.
    pub(super) fn add_all(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        self.write(&records.map(|record| format!("+{}\n", record.line())).collect::<String>())
    }

    /// `record` is undone, or no longer wanted.
    pub(super) fn remove(&mut self, record: &Record) -> io::Result<()> {
        self.write(&format!("-{}\n", record.line()))
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match &mut self.0 {
            Some((_, file)) => file.write_all(text.as_bytes()),
            None => Ok(()),
        }
    }

    /// Nothing is left to undo.
    pub(super) fn close(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some((path, _)) => fs::remove_file(path),
            None => Ok(()),
        }
    }
}

/// A dead driver's file.
#[derive(Debug)]
pub(super) struct Leftover {
    path: PathBuf,
    /// Locked, so that no other start undoes it at the same time.
    _file: File,
    pub(super) records: Vec<Record>,
}

impl Leftover {
    /// `None` if the driver lives, or another start has taken the file.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let text = io::read_to_string(&file)?;
        Ok(Some(Self { path: path.to_owned(), _file: file, records: replay(&text) }))
    }

    /// All is undone.
    pub(super) fn finish(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// What was added and not removed.
fn replay(text: &str) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    // A line without an end was cut short by the kill; what it announces was not done yet.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let (sign, rest) = line.split_at_checked(1).unwrap_or_default();
        match (sign, Record::parse(rest)) {
            ("+", Some(record)) => records.push(record),
            ("-", Some(record)) => {
                if let Some(at) = records.iter().rposition(|known| *known == record) {
                    records.remove(at);
                }
            }
            _ => {}
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Record {
        Record::Address { interface: "eth0".into(), address: text.parse().unwrap() }
    }

    #[test]
    fn records_are_read_as_they_are_written() {
        let records = [
            address("192.0.2.1/24"),
            address("2001:db8::1/64"),
            Record::Vmac { name: "vrrp4.51.2".into() },
            Record::Sysctl { path: "net/ipv4/conf/eth0.7/arp_ignore".into(), original: "0".into() },
        ];
        for record in records {
            assert_eq!(Record::parse(&record.line()), Some(record));
        }
        for line in ["", "address eth0", "address eth0 x", "vmac a b", "vmac ", "route x"] {
            assert_eq!(Record::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn what_was_removed_or_cut_short_is_not_left() {
        let text = "+vmac a\n+address eth0 192.0.2.1/24\n-vmac a\n\nnonsense\n+vmac b\n+vmac c";
        assert_eq!(replay(text), [address("192.0.2.1/24"), Record::Vmac { name: "b".into() }]);
    }

    #[test]
    fn a_file_is_a_leftover_only_when_nobody_holds_it() {
        let directory = std::env::temp_dir().join(format!("lb-vrrp-journal-{}", std::process::id()));
        let (mut first, none) = Journal::open(Some(&directory)).unwrap();
        assert!(none.is_empty());
        first.add(&address("192.0.2.1/24")).unwrap();
        first.add_all(["192.0.2.2/24", "192.0.2.3/24"].map(address).into_iter()).unwrap();
        first.remove(&address("192.0.2.2/24")).unwrap();
        let (mut second, none) = Journal::open(Some(&directory)).unwrap();
        assert!(none.is_empty(), "its driver lives");
        drop(first); // as a killed process does, without close()
        let (mut third, mut left) = Journal::open(Some(&directory)).unwrap();
        let left = left.pop().unwrap();
        assert_eq!(left.records, [address("192.0.2.1/24"), address("192.0.2.3/24")]);
        assert!(Journal::open(Some(&directory)).unwrap().1.is_empty(), "another start has it");
        left.finish().unwrap();
        second.close().unwrap();
        third.close().unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
