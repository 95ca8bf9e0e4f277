//! The journal: what every file held before, on disk before the first write.
//!
//! One line a record, each behind the checksum of the rest of the line:
//!
//! ```text
//! 8c5d… journal 1 BOOT-ID NAMESPACE ENTRIES
//! 1f02… entry PATH ORIGINAL HELD INTENDED FOLLOWS
//! a441… channels INTERFACE ORIGINAL HELD INTENDED
//! 77aa… left ENTRY VALUE
//! 03be… complete
//! ```
//!
//! `FOLLOWS` is the interface whose driver changes the file too, when it is given another number of channels.
//! The header and the entries are written to a file of another name, synchronized, and renamed: they are there as a whole or not at
//! all. `left` (what was read back after a write) and `complete` are appended, so only the last line can be torn; a line that
//! lacks its end or has a wrong checksum there is as good as none. Bytes that are not printable stand as `%XX`, an empty
//! value as `%`, a missing one as `-`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::directory;
use super::place::Place;
use super::value::{Format, Value};
use crate::Target;
use crate::nic::is_interface;

/// What was or will be written to, or is changed by a driver along with its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// What [`restore`](super::Applier::restore) puts back.
    pub(super) original: Vec<u8>,
    /// What an earlier `apply` left there.
    pub(super) held: Option<Vec<u8>>,
    /// What the last `apply` meant to write.
    pub(super) intended: Option<Vec<u8>>,
    /// What was read back after that write, or after the driver's change.
    pub(super) left: Option<Vec<u8>>,
    /// The interface whose channels are put back first, because its driver changes this too when they are.
    pub(super) follows: Option<String>,
}

impl Entry {
    /// Whether it is a network namespace's own, and not the whole machine's as an interrupt is. One that follows channels waits for
    /// theirs.
    pub(super) fn is_of_namespace(&self) -> bool {
        self.place.format != Format::List || self.follows.is_some()
    }

    /// Whether a value is this crate's doing, and not someone else's: what was read back after the last write, or what an earlier
    /// `apply` left. Without a record of what was read back (the process died in between), what was meant, or what the kernel
    /// may have made of it.
    pub(super) fn is_ours(&self, value: &Value) -> bool {
        let is = |content: &Option<Vec<u8>>| {
            content.as_ref().is_some_and(|content| *value == self.place.value(content))
        };
        if is(&self.left) || is(&self.held) {
            return true;
        }
        let intended = self.intended.as_ref().filter(|_| self.left.is_none());
        intended
            .map(|content| self.place.value(content))
            .is_some_and(|intended| value.reaches(&intended) || value.is_trimmed_from(&intended))
    }
}

/// What the journal's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Journal {
    /// The boot it belongs to: what was set is gone after the next.
    pub(super) boot: Option<String>,
    /// The network namespace that its interfaces are in.
    pub(super) namespace: Option<String>,
    pub(super) entries: Vec<Entry>,
    /// Whether all that was begun was finished.
    pub(super) complete: bool,
}

/// Why a journal can't be used.
#[derive(Debug)]
pub(super) enum LoadError {
    Io(io::Error),
    Damaged { line: usize },
}

/// The longest journal: 10 000 queues of a machine with 8192 CPUs take some tens of megabytes.
const LONGEST: u64 = 256 << 20;

impl Journal {
    /// The journal at `path`; nothing if there is none.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, LoadError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = directory::open(path, OpenOptions::new().read(true))?;
            if file.metadata()?.len() > LONGEST {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            Ok(content)
        };
        match read() {
            Ok(content) => Self::parse(&content).map(Some).map_err(|line| LoadError::Damaged { line }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LoadError::Io(error)),
        }
    }

    /// Reads a journal; the error is the number of the first bad line.
    fn parse(content: &[u8]) -> Result<Self, usize> {
        let mut lines = content.split_inclusive(|&byte| byte == b'\n').zip(1..).peekable();
        let mut journal = Self::default();
        let (mut expected, mut end) = (None, 1);
        let mut targets = HashSet::new();
        while let Some((line, number)) = lines.next() {
            let last = lines.peek().is_none();
            end = number + 1;
            let record = body(line).and_then(|body| Record::parse(body, expected.is_none()));
            match (record, expected) {
                (Some(Record::Header { boot, namespace, entries }), None) => {
                    (journal.boot, journal.namespace) = (boot, namespace);
                    expected = Some(entries);
                }
                (Some(Record::Entry(entry)), Some(count)) if journal.entries.len() < count => {
                    if !targets.insert(entry.place.target.clone()) {
                        return Err(number);
                    }
                    journal.entries.push(entry);
                }
                (Some(Record::Left { entry, value }), Some(count)) if journal.entries.len() == count => {
                    journal.entries.get_mut(entry).ok_or(number)?.left = Some(value);
                }
                (Some(Record::Complete), Some(count)) if journal.entries.len() == count => {
                    journal.complete = true;
                }
                // The line that was being appended when the process died.
                (None, Some(count)) if last && journal.entries.len() == count => {}
                _ => return Err(number),
            }
        }
        match expected {
            Some(count) if journal.entries.len() == count => Ok(journal),
            _ => Err(end),
        }
    }

    /// Puts this journal in the place of the one at `path`, at once and durably. What is returned appends to it.
    pub(super) fn store(&self, path: &Path) -> io::Result<Appender> {
        let mut content = Vec::new();
        let [boot, namespace] =
            [&self.boot, &self.namespace].map(|text| field(text.as_deref().map(str::as_bytes)));
        let entries = self.entries.len().to_string();
        line(&mut content, &[b"journal", b"1", &boot, &namespace, entries.as_bytes()]);
        for entry in &self.entries {
            let (kind, name): (&[u8], &[u8]) = match &entry.place.target {
                Target::File(path) => (b"entry", path.as_os_str().as_bytes()),
                Target::Channels(interface) => (b"channels", interface.as_bytes()),
            };
            let values = [Some(&*entry.original), entry.held.as_deref(), entry.intended.as_deref()];
            let mut fields = vec![kind.to_vec(), field(Some(name))];
            fields.extend(values.map(field));
            if entry.place.path().is_some() {
                fields.push(field(entry.follows.as_deref().map(str::as_bytes)));
            }
            line(&mut content, &fields.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        for (index, entry) in self.entries.iter().enumerate() {
            if let Some(left) = &entry.left {
                line(&mut content, &[b"left", index.to_string().as_bytes(), &field(Some(left))]);
            }
        }
        if self.complete {
            line(&mut content, &[b"complete"]);
        }
        let new = path.with_extension("new");
        let written = || -> io::Result<File> {
            let mut file = directory::open(&new, OpenOptions::new().write(true).create(true).truncate(true))?;
            file.write_all(&content)?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            Ok(file)
        };
        // Half a journal is of no use, and takes room where there may be none.
        let file = written().inspect_err(|_| drop(std::fs::remove_file(&new)))?;
        synchronize_directory(path)?;
        Ok(Appender { file })
    }

    /// The namespace that it is of, if that is not this thread's.
    pub(super) fn elsewhere(&self) -> Option<String> {
        let here = namespace()?;
        self.namespace.clone().filter(|then| *then != here)
    }

    /// As [`store`](Self::store), but an empty one is taken away.
    pub(super) fn keep(&self, path: &Path) -> io::Result<()> {
        if self.entries.is_empty() { Self::remove(path) } else { self.store(path).map(drop) }
    }

    /// Takes the journal at `path` away.
    pub(super) fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => synchronize_directory(path),
        }
    }
}

/// The calling thread's network namespace (network_namespaces(7)), if `/proc` says.
pub(super) fn namespace() -> Option<String> {
    std::fs::read_link("/proc/thread-self/ns/net").ok()?.into_os_string().into_string().ok()
}

fn synchronize_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Appends to a journal that is in its place.
#[derive(Debug)]
pub(super) struct Appender {
    file: File,
}

impl Appender {
    /// Notes what an entry's file holds after the write.
    pub(super) fn left(&mut self, entry: usize, value: &[u8]) -> io::Result<()> {
        self.append(&[b"left", entry.to_string().as_bytes(), &field(Some(value))])
    }

    /// Notes that all is done.
    pub(super) fn complete(&mut self) -> io::Result<()> {
        self.append(&[b"complete"])
    }

    fn append(&mut self, fields: &[&[u8]]) -> io::Result<()> {
        let mut content = Vec::new();
        line(&mut content, fields);
        self.file.write_all(&content)?;
        self.file.sync_data()
    }
}

enum Record {
    Header { boot: Option<String>, namespace: Option<String>, entries: usize },
    Entry(Entry),
    Left { entry: usize, value: Vec<u8> },
    Complete,
}

impl Record {
    fn parse(body: &[u8], first: bool) -> Option<Self> {
        let fields: Vec<&[u8]> = body.split(|&byte| byte == b' ').collect();
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
        match (first, &*fields) {
            (true, [b"journal", b"1", boot, namespace, entries]) => {
                let text = |field: &[u8]| unfield(field)?.map(String::from_utf8).transpose().ok();
                let (boot, namespace) = (text(boot)?, text(namespace)?);
                Some(Self::Header { boot, namespace, entries: number(entries)? })
            }
            (false, [b"entry", path, values @ .., follows]) => {
                let path = PathBuf::from(OsString::from_vec(unfield(path)??));
                let follows = match unfield(follows)? {
                    Some(name) => Some(String::from_utf8(name).ok().filter(|name| is_interface(name))?),
                    None => None,
                };
                Self::entry(Target::File(path), values, follows)
            }
            (false, [b"channels", interface, values @ ..]) => {
                let interface = String::from_utf8(unfield(interface)??).ok()?;
                Self::entry(Target::Channels(interface), values, None)
            }
            (false, [b"left", entry, value]) => {
                Some(Self::Left { entry: number(entry)?, value: unfield(value)?? })
            }
            (false, [b"complete"]) => Some(Self::Complete),
            _ => None,
        }
    }

    fn entry(target: Target, values: &[&[u8]], follows: Option<String>) -> Option<Self> {
        let [original, held, intended] = *values else { return None };
        let place = Place::of(target)?;
        let (original, held, intended) = (unfield(original)??, unfield(held)?, unfield(intended)?);
        Some(Self::Entry(Entry { place, original, held, intended, left: None, follows }))
    }
}

/// A line's content, if its checksum is right and its end is there.
fn body(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, body) = (line.get(..16)?, line.get(17..)?);
    let right = line[16] == b' ' && sum == format!("{:016x}", checksum(body)).as_bytes();
    right.then_some(body)
}

fn line(content: &mut Vec<u8>, fields: &[&[u8]]) {
    let body = fields.join(&b' ');
    content.extend_from_slice(format!("{:016x} ", checksum(&body)).as_bytes());
    content.extend_from_slice(&body);
    content.push(b'\n');
}

/// FNV-1a of 64 bits: it has to tell a torn line from a whole one, and nothing more.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn field(value: Option<&[u8]>) -> Vec<u8> {
    match value {
        None => b"-".to_vec(),
        Some([]) => b"%".to_vec(),
        Some(value) => {
            let mut text = Vec::new();
            // A lone dash is a missing value.
            for &byte in value {
                if byte.is_ascii_graphic() && byte != b'%' && value != b"-" {
                    text.push(byte);
                } else {
                    text.extend_from_slice(format!("%{byte:02X}").as_bytes());
                }
            }
            text
        }
    }
}

fn unfield(text: &[u8]) -> Option<Option<Vec<u8>>> {
    match text {
        b"-" => return Some(None),
        b"%" => return Some(Some(Vec::new())),
        [] => return None,
        _ => {}
    }
    let mut value = Vec::new();
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            value.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            value.push(*byte);
        }
    }
    Some(Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(queue: u32, intended: Option<&str>) -> Entry {
        let path = format!("/sys/class/net/eth0/queues/rx-{queue}/rps_cpus").into();
        Entry {
            place: Place::of(Target::File(path)).unwrap(),
            original: b"0".into(),
            held: None,
            intended: intended.map(Into::into),
            left: None,
            follows: (queue == 1).then(|| "eth0".into()),
        }
    }

    fn channels() -> Entry {
        let place = Place::of(Target::Channels("eth0".into())).unwrap();
        Entry { place, original: b"rx 4 tx 4".into(), follows: None, ..entry(0, Some("rx 2")) }
    }

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("lb-affinity-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_journal_survives_a_crash_at_every_byte_of_what_is_appended() {
        let directory = directory("torn");
        let path = directory.join("journal");
        let journal = Journal {
            boot: Some("1-2".into()),
            namespace: Some("net:[1]".into()),
            entries: vec![entry(0, Some("3")), entry(1, Some("5")), channels()],
            complete: false,
        };
        let mut appender = journal.store(&path).unwrap();
        let whole = std::fs::metadata(&path).unwrap().len();
        appender.left(0, b"3\n").unwrap();
        let first = std::fs::metadata(&path).unwrap().len();
        appender.left(1, b"1\n").unwrap();
        appender.complete().unwrap();
        let content = std::fs::read(&path).unwrap();
        let finished = Journal::parse(&content).unwrap();
        assert!(finished.complete);
        assert_eq!(finished.entries[2], channels());
        assert_eq!(finished.entries[1].follows.as_deref(), Some("eth0"));
        assert_eq!(finished.entries[1].left.as_deref(), Some(&b"1\n"[..]));

        for length in 0..content.len() {
            let torn = Journal::parse(&content[..length]);
            if (length as u64) < whole {
                // It never comes to that: these lines are renamed into place.
                assert!(torn.is_err(), "{length}");
                continue;
            }
            let torn = torn.unwrap();
            assert!(!torn.complete);
            assert_eq!(torn.entries.len(), 3);
            assert_eq!(torn.entries[0].left.is_some(), length as u64 >= first, "{length}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let directory = directory("flipped");
        let path = directory.join("journal");
        let journal =
            Journal { entries: vec![entry(1, Some("3")), channels()], complete: true, ..Journal::default() };
        journal.store(&path).unwrap();
        assert_eq!(Journal::load(&path).unwrap(), Some(journal.clone()));
        let content = std::fs::read(&path).unwrap();
        for bit in 0..content.len() * 8 {
            let mut changed = content.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // A torn last line only says that the work was not finished.
            let unfinished = Journal { complete: false, ..journal.clone() };
            assert!(
                Journal::parse(&changed).is_err() || Journal::parse(&changed) == Ok(unfinished),
                "bit {bit}"
            );
        }
        Journal::remove(&path).unwrap();
        assert_eq!(Journal::load(&path).unwrap(), None);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_journal_names_nothing_else_and_nothing_twice() {
        type Line<'a> = &'a [&'a [u8]];
        const RPS: &[u8] = b"/sys/class/net/eth0/queues/rx-0/rps_cpus";
        let file: Line = &[b"entry", RPS, b"0", b"-", b"-", b"-"];
        let channels: Line = &[b"channels", b"eth0", b"combined%204", b"-", b"-"];
        let cases: [(&[Line], Option<usize>); 15] = [
            (&[file, channels], None),
            (&[&[b"entry", RPS, b"0", b"-", b"-", b"eth0"], channels], None),
            (&[&[b"entry", b"/etc/passwd", b"root", b"-", b"-", b"-"]], Some(2)),
            (&[file, &[b"entry", &RPS[1..], b"0", b"-", b"-", b"-"]], Some(3)),
            (&[file, file], Some(3)),
            (&[channels, file, channels], Some(4)),
            (&[&[b"entry", RPS, b"0", b"-", b"-"]], Some(2)),
            (&[&[b"entry", RPS, b"0", b"-", b"-", b"../eth0"]], Some(2)),
            (&[&[b"entry", RPS, b"0", b"-", b"-", b"%"]], Some(2)),
            (&[&[b"channels", b"../eth0", b"combined%204", b"-", b"-"]], Some(2)),
            (&[&[b"channels", b"eth%200", b"combined%204", b"-", b"-"]], Some(2)),
            (&[&[b"channels", b"sixteen-letters-", b"combined%204", b"-", b"-"]], Some(2)),
            (&[&[b"channels", b"eth0", b"combined%204", b"-"]], Some(2)),
            (&[&[b"channels", b"eth0", b"combined%204", b"-", b"-", b"eth0"]], Some(2)),
            (&[&[b"rings", b"eth0", b"rx%204", b"-", b"-"]], Some(2)),
        ];
        for (lines, bad) in cases {
            let mut content = Vec::new();
            line(&mut content, &[b"journal", b"1", b"-", b"-", lines.len().to_string().as_bytes()]);
            lines.iter().for_each(|fields| line(&mut content, fields));
            assert_eq!(Journal::parse(&content).err(), bad, "{}", String::from_utf8_lossy(&content));
        }
    }

    #[test]
    fn what_is_a_namespaces_is_not_the_machines() {
        let irq = Place::of(Target::File("/proc/irq/30/smp_affinity_list".into())).unwrap();
        let irq = Entry { place: irq, ..entry(0, None) };
        let following = Entry { follows: Some("eth0".into()), ..irq.clone() };
        for (entry, expected) in [(entry(0, None), true), (channels(), true), (irq, false), (following, true)]
        {
            assert_eq!(entry.is_of_namespace(), expected, "{entry:?}");
        }
    }

    #[test]
    fn enormous_numbers_are_only_wrong() {
        let most = usize::MAX.to_string();
        let beyond = format!("{most}0");
        for (entries, left, bad) in [(&*most, "0", 2), (&beyond, "0", 1), ("0", &*most, 2), ("0", &beyond, 2)]
        {
            let mut content = Vec::new();
            line(&mut content, &[b"journal", b"1", b"-", b"-", entries.as_bytes()]);
            line(&mut content, &[b"left", left.as_bytes(), b"1"]);
            line(&mut content, &[b"complete"]);
            assert_eq!(Journal::parse(&content), Err(bad), "{entries} {left}");
        }
        assert_eq!(Journal::parse(b""), Err(1));
        assert_eq!(Journal::parse(&vec![b'\n'; 1 << 20]), Err(1));
    }

    #[test]
    fn what_is_no_file_is_no_journal() {
        let directory = directory("odd");
        let path = directory.join("journal");
        std::fs::write(directory.join("precious"), "precious").unwrap();
        std::os::unix::fs::symlink("precious", &path).unwrap();
        assert!(matches!(Journal::load(&path), Err(LoadError::Io(_))));
        std::os::unix::fs::symlink("precious", path.with_extension("new")).unwrap();
        Journal::default().store(&path).unwrap_err();
        assert_eq!(std::fs::read(directory.join("precious")).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(Journal::load(&path), Err(LoadError::Io(_))));
        std::fs::remove_dir(&path).unwrap();
        // It takes no room on the disk.
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(
            matches!(Journal::load(&path), Err(LoadError::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge)
        );
        std::fs::remove_dir_all(directory).unwrap();
    }

    proptest! {
        #[test]
        fn any_value_comes_back(value in any::<Option<Vec<u8>>>()) {
            let text = field(value.as_deref());
            prop_assert!(text.iter().all(u8::is_ascii_graphic));
            prop_assert_eq!(unfield(&text), Some(value));
        }

        #[test]
        fn no_content_panics(content in any::<Vec<u8>>(), fields in "[ -~\n]{0,80}") {
            let _ = Journal::parse(&content);
            let mut lines = Vec::new();
            line(&mut lines, &[b"journal 1 - - 1"]);
            line(&mut lines, &[fields.as_bytes()]);
            let _ = Journal::parse(&lines);
        }
    }
}
