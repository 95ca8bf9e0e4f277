//! What a driver is about to change on the system, written down before it does, for the next start after a `kill -9`.
//!
//! The run directory has one file for each driver that runs, locked while it does. A file that can be locked is a dead
//! driver's: what it says is undone, and it is deleted. So the next start need not have the same configuration, drivers of
//! several programs do not undo each other's work, and a reboot (which empties `/run`) leaves nothing to undo.
//!
//! A virtual address is written down when its instance is added, not when it takes over: a takeover writes to no disk. So
//! the file says what *may* be there; an address is removed only if it is there and, where the kernel knows tags
//! (`IFA_PROTO`, since Linux 5.18), has the driver's.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
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
        Self::Address { interface: interface.into(), address: VirtualAddress { interface: None, ..address } }
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

/// A file that has grown by so much is written anew, with what counts alone. Also the most that is read of a dead driver's.
const LONG: u64 = 1 << 20;
const LARGEST: u64 = 64 << 20;

/// The driver's own file. Without a run directory it writes nowhere.
#[derive(Debug, Default)]
pub(super) struct Journal(Option<Open>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    /// How long it is, and at what length it is written anew.
    size: u64,
    limit: u64,
}

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
        guard(directory).map_err(failed(directory))?;
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
                    return Ok((Self(Some(Open { path, file, size: 0, limit: LONG })), leftovers));
                }
            }
        }
    }

    /// Its file; empty if there is none.
    pub(super) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |open| &open.path)
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
        let Some(open) = &mut self.0 else { return Ok(()) };
        if let Err(error) = open.file.write_all(text.as_bytes()) {
            // On a full disk a part may be there: the next line must not continue it.
            let _ = open.file.set_len(open.size);
            return Err(error);
        }
        open.size += text.len() as u64;
        if open.size > open.limit {
            // Too long does no harm; it is tried again when it is longer still.
            let _ = open.shorten();
            open.limit = open.size + LONG;
        }
        Ok(())
    }

    /// Nothing is left to undo.
    pub(super) fn close(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some(open) => fs::remove_file(open.path),
            None => Ok(()),
        }
    }
}

impl Open {
    /// Writes what counts into a new file, which takes the old one's place.
    fn shorten(&mut self) -> io::Result<()> {
        let text: String = replay(&fs::read_to_string(&self.path)?)
            .iter()
            .map(|record| format!("+{}\n", record.line()))
            .collect();
        // No driver takes a file of this name for a dead one's.
        let mut name = std::ffi::OsString::from("new-");
        name.push(self.path.file_name().unwrap_or_default());
        let path = self.path.with_file_name(name);
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        let replaced = file
            .set_len(0)
            .and_then(|()| file.lock())
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&path, &self.path));
        if let Err(error) = replaced {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        (self.file, self.size) = (file, text.len() as u64);
        Ok(())
    }
}

/// What a file here says is undone with all rights. So nobody else may write one.
fn guard(directory: &Path) -> io::Result<()> {
    let about = fs::metadata(directory)?;
    let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let message = if !about.is_dir() {
        "it is no directory"
    } else if about.uid() != 0 && about.uid() != user {
        "it belongs to another user, who could have this program undo what it did not do: chown it"
    } else if about.mode() & 0o002 != 0
        || about.mode() & 0o020 != 0 && about.gid() != 0 && about.gid() != group
    {
        "other users can write to it, and could have this program undo what it did not do: chmod 755 it"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
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
        // A pipe would be waited for, and a link leads elsewhere.
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(about) if about.is_file() => {}
            Ok(_) => return Err(io::Error::other("no regular file: remove it")),
            Err(error) => return Err(error),
        }
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = Vec::new();
        (&file).take(LARGEST).read_to_end(&mut text)?;
        // What is no text is no record.
        let records = replay(&String::from_utf8_lossy(&text));
        Ok(Some(Self { path: path.to_owned(), _file: file, records }))
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
    let mut records: BTreeMap<usize, Record> = BTreeMap::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    // A line without an end was cut short by the kill; what it announces was not done yet.
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let Some(line) = line.strip_suffix('\n') else { break };
        let (sign, rest) = line.split_at_checked(1).unwrap_or_default();
        match (sign, Record::parse(rest)) {
            ("+", Some(record)) => {
                // Whatever was said before of the same thing is said again.
                if let Some(before) = places.insert(rest, at) {
                    records.remove(&before);
                }
                records.insert(at, record);
            }
            ("-", Some(_)) => {
                if let Some(before) = places.remove(rest) {
                    records.remove(&before);
                }
            }
            _ => {}
        }
    }
    records.into_values().collect()
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
    fn the_file_grows_with_what_counts_alone() {
        let directory = std::env::temp_dir().join(format!("lb-vrrp-long-{}", std::process::id()));
        let (mut journal, _) = Journal::open(Some(&directory)).unwrap();
        journal.add(&address("192.0.2.1/24")).unwrap();
        let (kept, flaps) = (address("2001:db8::1/64"), Record::Vmac { name: "vrrp4.51.2".into() });
        for _ in 0..100_000 {
            journal.add(&kept).unwrap();
            journal.add(&flaps).unwrap();
            journal.remove(&flaps).unwrap();
        }
        let path = journal.0.as_ref().unwrap().path.clone();
        let size = fs::metadata(&path).unwrap().len();
        assert!(size < LONG + 1000 && size == journal.0.as_ref().unwrap().size, "{size}");
        assert!(Journal::open(Some(&directory)).unwrap().1.is_empty(), "it is still locked");
        drop(journal);
        let (mut next, left) = Journal::open(Some(&directory)).unwrap();
        let left = left.iter().find(|left| left.path == path).expect("a dead driver's");
        assert_eq!(left.records, [address("192.0.2.1/24"), kept]);
        next.close().unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_line_that_could_not_be_written_does_not_count() {
        // A file that takes no byte, as one on a full disk.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut journal = Journal(Some(Open { path: "/dev/full".into(), file: full, size: 0, limit: LONG }));
        assert!(journal.add(&address("192.0.2.1/24")).is_err());
        assert_eq!(journal.0.as_ref().unwrap().size, 0, "what failed does not count");
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        let directory = std::env::temp_dir().join(format!("lb-vrrp-others-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let set = |mode| {
            fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            Journal::open(Some(&directory)).map(|_| ()).map_err(|error| error.to_string())
        };
        for mode in [0o777, 0o1777, 0o757] {
            let said = set(mode).unwrap_err();
            assert!(said.contains("other users can write to it") && said.contains("chmod 755"), "{said}");
        }
        set(0o755).unwrap();

        let namespace = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let strange = directory.join(format!("{namespace}-strange"));
        fs::write(&strange, b"\xff\xfe\n+vmac a\n+sysctl ../../etc/passwd 0\n+\xc3\n\0\0").unwrap();
        let (_, left) = Journal::open(Some(&directory)).unwrap();
        let left = left.iter().find(|left| left.path == strange).unwrap();
        assert_eq!(left.records[0], Record::Vmac { name: "a".into() });
        fs::remove_file(&strange).unwrap();
        for make in [&|path: &Path| fs::create_dir(path) as io::Result<()>, &|path: &Path| {
            std::os::unix::fs::symlink("/etc/hostname", path)
        }] as [&dyn Fn(&Path) -> io::Result<()>; 2]
        {
            make(&strange).unwrap();
            let said = Journal::open(Some(&directory)).unwrap_err().to_string();
            assert!(said.contains("-strange: no regular file: remove it"), "{said}");
            fs::remove_file(&strange).or_else(|_| fs::remove_dir(&strange)).unwrap();
        }
        fs::remove_dir_all(&directory).unwrap();
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
