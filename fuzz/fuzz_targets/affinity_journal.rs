//! Journals that somebody else has made: they are refused or restored from, and nothing is set but what settings can.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use lb_affinity::apply::{Applier, ApplyError, IfChanged};
use lb_affinity::fs::FileSystem;
use lb_affinity::nic::ethtool::EthtoolError;
use lb_affinity::nic::{ChannelCounts, Channels, Count};
use lb_affinity::{Setting, Target};
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
    target: Name<'a>,
    original: Content<'a>,
    held: Option<Content<'a>>,
    intended: Option<Content<'a>>,
    follows: Option<Interface<'a>>,
}

/// The name of an interface, or of what somebody says is one.
#[derive(Debug, Arbitrary)]
enum Interface<'a> {
    Likely(bool),
    Any(&'a str),
}

impl Interface<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Likely(true) => "eth0",
            Self::Likely(false) => "eth1",
            Self::Any(name) => name,
        }
    }
}

/// What a file holds, or what somebody says that it held.
#[derive(Debug, Arbitrary)]
enum Content<'a> {
    Likely(u8),
    Any(&'a str),
}

impl Content<'_> {
    fn text(&self) -> &str {
        const LIKELY: [&str; 9] = [
            "0",
            "3",
            "00000000,0000ffff",
            "0-3",
            "1024",
            "",
            "rx 0 tx 0 combined 4",
            "rx 0 tx 0 combined 2",
            "combined 2",
        ];
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

/// What an entry says that it is of.
#[derive(Debug, Arbitrary)]
enum Name<'a> {
    Irq(u16),
    Queue { transmit: bool, number: u8, file: u8 },
    AnyIrq(&'a str),
    AnyQueue { interface: &'a str, queue: &'a str, file: u8 },
    Table,
    Any(&'a str),
    Channels(Interface<'a>),
}

impl Name<'_> {
    /// The name of its channels, or the path of its file.
    fn of(&self) -> Result<&str, String> {
        const FILES: [&str; 4] = ["rps_cpus", "rps_flow_cnt", "xps_cpus", "../../address"];
        Err(match self {
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
            Self::Channels(interface) => return Ok(interface.name()),
        })
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
            Part::Entry(Entry { target, original, held, intended, follows }) => {
                let values = format!("{} {} {}", field(original.text()), or_none(held), or_none(intended));
                let follows = follows.as_ref().map_or("-".to_owned(), |interface| field(interface.name()));
                match target.of() {
                    Ok(interface) => format!("channels {} {values}", field(interface)),
                    Err(path) => format!("entry {} {values} {follows}", field(&path)),
                }
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

/// A system in which there is every file and every interface, and each takes what is set.
#[derive(Default)]
struct Anything {
    written: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    channels: RefCell<BTreeMap<String, Channels>>,
}

impl Anything {
    /// All that was set.
    fn state(&self) -> (BTreeMap<PathBuf, Vec<u8>>, BTreeMap<String, Channels>) {
        (self.written.borrow().clone(), self.channels.borrow().clone())
    }
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

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        let kind = Count { count: 0, max: u32::MAX };
        let all = Channels { rx: kind, tx: kind, combined: Count { count: 2, ..kind }, other: kind };
        Ok(self.channels.borrow().get(interface).copied().unwrap_or(all))
    }

    fn set_channels(&self, interface: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        assert!(is_interface(interface), "{interface:?}");
        let mut channels = self.channels(interface)?;
        channels.rx.count = counts.rx.unwrap_or(channels.rx.count);
        channels.tx.count = counts.tx.unwrap_or(channels.tx.count);
        channels.combined.count = counts.combined.unwrap_or(channels.combined.count);
        self.channels.borrow_mut().insert(interface.to_owned(), channels);
        Ok(())
    }
}

/// Whether a name may be an interface's (ip-link(8)).
fn is_interface(name: &str) -> bool {
    let odd = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | ':' | '\0' | '\x0b');
    (1..=15).contains(&name.len()) && !matches!(name, "." | "..") && !name.contains(odd)
}

/// Whether there is a setting with this very path: one of every kind is made from the path's parts.
fn is_a_settings(path: &Path) -> bool {
    let parts: Vec<&str> = path.to_str().expect("settings have text for paths").split('/').collect();
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let interface = part(4).to_owned();
    if parts.len() > 5 && !is_interface(&interface) {
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
    let is_this = |setting: &Setting| match setting.target() {
        Target::File(file) => file.as_os_str() == path.as_os_str(),
        _ => false,
    };
    settings.iter().any(is_this)
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
            let state = files.state();
            let again = applier.restore(if_changed).expect("it was written by this crate");
            assert!(again.lines.len() <= restored.lines.len());
            assert_eq!(state, files.state());
            assert_eq!(restored.is_complete(), !path.exists());
            let plan = [Setting::Rps { interface: "eth0".into(), queue: 0, cpus: 3.into() }];
            match applier.apply(&plan) {
                Ok(_) | Err(ApplyError::Namespace { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        Err(ApplyError::Damaged { line, .. }) => {
            assert!(line <= content.split(|&byte| byte == b'\n').count() + 1);
            assert_eq!(files.state(), Default::default());
            assert_eq!(std::fs::read(&path).expect("it is left as it was"), content);
        }
        Err(other) => panic!("{other}"),
    }
});
