//! Journals that somebody else has made: they are refused or restored from, and nothing is written but to the files of settings.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use lb_affinity::Setting;
use lb_affinity::apply::{Applier, ApplyError, IfChanged};
use lb_affinity::fs::FileSystem;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// A line of a journal. The fuzzer can't guess checksums; those of `Line` are right.
#[derive(Debug, Arbitrary)]
enum Part<'a> {
    Header { boot: u8, namespace: u8, entries: u8 },
    Entry(Entry<'a>),
    Left { entry: u8, value: Content<'a> },
    Complete,
    Line(&'a str),
    Raw(&'a [u8]),
}

#[derive(Debug, Arbitrary)]
struct Entry<'a> {
    path: Name<'a>,
    original: Content<'a>,
    held: Option<Content<'a>>,
    intended: Option<Content<'a>>,
}

/// What a file holds, or what somebody says that it held.
#[derive(Debug, Arbitrary)]
enum Content<'a> {
    Likely(u8),
    Any(&'a str),
}

impl Content<'_> {
    fn text(&self) -> &str {
        const LIKELY: [&str; 6] = ["0", "3", "00000000,0000ffff", "0-3", "1024", ""];
        match self {
            Self::Likely(index) => LIKELY[usize::from(*index) % LIKELY.len()],
            Self::Any(text) => text,
        }
    }
}

/// A whole journal, and one of any lines.
#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Whole { boot: u8, namespace: u8, entries: Vec<Entry<'a>>, left: Vec<(u8, Content<'a>)>, complete: bool },
    Parts(Vec<Part<'a>>),
}

impl<'a> Input<'a> {
    fn parts(self) -> Vec<Part<'a>> {
        match self {
            Self::Whole { boot, namespace, mut entries, left, complete } => {
                entries.truncate(u8::MAX.into());
                let mut parts = vec![Part::Header { boot, namespace, entries: entries.len() as u8 }];
                parts.extend(entries.into_iter().map(Part::Entry));
                parts.extend(left.into_iter().map(|(entry, value)| Part::Left { entry, value }));
                parts.extend(complete.then_some(Part::Complete));
                parts
            }
            Self::Parts(parts) => parts,
        }
    }
}

/// Where an entry says that its file is.
#[derive(Debug, Arbitrary)]
enum Name<'a> {
    Irq(u16),
    Queue { transmit: bool, number: u8, file: u8 },
    AnyIrq(&'a str),
    AnyQueue { interface: &'a str, queue: &'a str, file: u8 },
    Table,
    Any(&'a str),
}

impl Name<'_> {
    fn path(&self) -> String {
        const FILES: [&str; 4] = ["rps_cpus", "rps_flow_cnt", "xps_cpus", "../../address"];
        match self {
            Self::Irq(irq) => format!("/proc/irq/{irq}/smp_affinity_list"),
            Self::Queue { transmit, number, file } => {
                let direction = if *transmit { "tx" } else { "rx" };
                format!("/sys/class/net/eth0/queues/{direction}-{number}/{}", FILES[usize::from(*file) % 3])
            }
            Self::AnyIrq(irq) => format!("/proc/irq/{irq}/smp_affinity_list"),
            Self::AnyQueue { interface, queue, file } => {
                let file = FILES[usize::from(*file) % FILES.len()];
                format!("/sys/class/net/{interface}/queues/{queue}/{file}")
            }
            Self::Table => "/proc/sys/net/core/rps_sock_flow_entries".to_owned(),
            Self::Any(path) => (*path).to_owned(),
        }
    }
}

/// Bytes that are not printable, and `%`, as `%XX`.
fn field(value: &str) -> String {
    if value.is_empty() {
        return "%".to_owned();
    }
    let byte = |byte: u8| match byte {
        b'!'..=b'~' if byte != b'%' && value != "-" => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}

fn journal(parts: &[Part<'_>]) -> Vec<u8> {
    let or_none =
        |value: &Option<Content<'_>>| value.as_ref().map_or("-".to_owned(), |value| field(value.text()));
    let mut content = Vec::new();
    for part in parts {
        let body = match part {
            Part::Header { boot, namespace, entries } => {
                let boot = ["-", "b007", "other"][usize::from(boot % 3)];
                let namespace = ["-", "net:[1]"][usize::from(namespace % 2)];
                format!("journal 1 {boot} {namespace} {entries}")
            }
            Part::Entry(Entry { path, original, held, intended }) => {
                let (path, original) = (field(&path.path()), field(original.text()));
                format!("entry {path} {original} {} {}", or_none(held), or_none(intended))
            }
            Part::Left { entry, value } => format!("left {entry} {}", field(value.text())),
            Part::Complete => "complete".to_owned(),
            Part::Line(line) => (*line).to_owned(),
            Part::Raw(bytes) => {
                content.extend_from_slice(bytes);
                continue;
            }
        };
        // FNV-1a.
        let sum = body.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        content.extend_from_slice(format!("{sum:016x} {body}\n").as_bytes());
    }
    content
}

/// A system in which there is every file, and each takes what is written.
#[derive(Default)]
struct Anything {
    written: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
}

impl FileSystem for Anything {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new("/proc/sys/kernel/random/boot_id") {
            return Ok(b"b007\n".to_vec());
        }
        Ok(self.written.borrow().get(path).cloned().unwrap_or_else(|| b"0\n".to_vec()))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        assert!(is_a_settings(path), "{path:?}");
        self.written.borrow_mut().insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

/// Whether there is a setting with this very path: one of every kind is made from the path's parts.
fn is_a_settings(path: &Path) -> bool {
    let parts: Vec<&str> = path.to_str().expect("settings have text for paths").split('/').collect();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let interface = part(4).to_owned();
    assert!(!interface.contains(|c: char| c.is_ascii_whitespace() || c == ':' || c == '\0'), "{path:?}");
    if matches!(&*interface, "." | "..") {
        return false;
    }
    let queue = part(6).get(3..).and_then(|number| number.parse().ok()).unwrap_or_default();
    let irq = part(3).parse().unwrap_or_default();
    let settings = [
        Setting::IrqAffinity { irq, cpus: 0.into() },
        Setting::Rps { interface: interface.clone(), queue, cpus: 0.into() },
        Setting::RpsFlowCount { interface: interface.clone(), queue, count: 0 },
        Setting::Xps { interface, queue, cpus: 0.into() },
        Setting::RpsSockFlowEntries { count: 0 },
    ];
    settings.iter().any(|setting| setting.path().as_os_str() == path.as_os_str())
}

/// The journal's directory, for one input.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        // In memory, where there is such a place: each journal is synchronized with its disk.
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let directory = base.join(format!("lb-fuzz-journal-{}", std::process::id()));
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).expect("it can be made");
        Self(directory)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it is ours");
    }
}

fuzz_target!(|input: (Input<'_>, bool)| {
    let (input, force) = input;
    let parts = input.parts();
    let directory = Directory::new();
    let path = directory.0.join("journal");
    let content = journal(&parts);
    std::fs::write(&path, &content).expect("it can be written");
    let files = Anything::default();
    let mut applier = Applier::open(&files, &directory.0, 16).expect("nobody else has it");
    let if_changed = if force { IfChanged::Overwrite } else { IfChanged::Leave };
    match applier.restore(if_changed) {
        Ok(restored) => {
            // What is left is a journal, too, and restoring again does no more than before.
            let written = files.written.borrow().clone();
            let again = applier.restore(if_changed).expect("it was written by this crate");
            assert!(again.lines.len() <= restored.lines.len());
            assert_eq!(written, *files.written.borrow());
            assert_eq!(restored.is_complete(), !path.exists());
            let plan = [Setting::Rps { interface: "eth0".into(), queue: 0, cpus: 3.into() }];
            match applier.apply(&plan) {
                Ok(_) | Err(ApplyError::Namespace { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        Err(ApplyError::Damaged { line, .. }) => {
            assert!(line <= content.split(|&byte| byte == b'\n').count() + 1);
            assert!(files.written.borrow().is_empty());
            assert_eq!(std::fs::read(&path).expect("it is left as it was"), content);
        }
        Err(other) => panic!("{other}"),
    }
});
