//! An applier that is killed (SIGKILL) before and after each thing it does to a file leaves a journal from which every original
//! value comes back.
//!
//! Each test starts its own binary again, with `CRASH` saying where the process is to kill itself.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_affinity::Setting;
use lb_affinity::apply::{Applier, ApplyError, IfChanged};
use lb_affinity::fs::FileSystem;
use lb_affinity::nic::ethtool::EthtoolError;
use lb_affinity::nic::{ChannelCounts, Channels, Count};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

/// Files below a directory, which can be written to. Kills the process at the n-th step: each call has one before and one after. A
/// driver ends what it has begun: its work is the kernel's, in one call.
struct Tree {
    root: PathBuf,
    steps: Cell<Option<u32>>,
    /// A file that takes no write.
    refusing: Cell<Option<&'static str>>,
}

impl Tree {
    fn new(root: &Path) -> Self {
        Self { root: root.join("tree"), steps: Cell::new(None), refusing: Cell::new(None) }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap())
    }

    fn step(&self) {
        match self.steps.get() {
            Some(0) => {
                kill(getpid(), Signal::SIGKILL).unwrap();
                unreachable!("SIGKILL is not survived");
            }
            steps => self.steps.set(steps.map(|steps| steps - 1)),
        }
    }

    fn with_steps<T>(&self, call: impl FnOnce() -> T) -> T {
        self.step();
        let result = call();
        self.step();
        result
    }
}

impl FileSystem for Tree {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with_steps(|| std::fs::read(self.at(path)))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        if self.refusing.get().is_some_and(|refusing| path == Path::new(refusing)) {
            return Err(io::Error::from_raw_os_error(nix::libc::EINVAL));
        }
        // The kernel trims this one, whoever writes it.
        let content = if content == b"f" { b"7" } else { content };
        self.with_steps(|| std::fs::write(self.at(path), content))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.with_steps(|| std::fs::read_dir(self.at(path))?.map(|entry| Ok(entry?.file_name())).collect())
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    fn channels(&self, _: &str) -> Result<Channels, EthtoolError> {
        let count = self.with_steps(|| std::fs::read_to_string(self.root.join("channels")))?;
        let rx = Count { count: count.parse().unwrap(), max: 3 };
        Ok(Channels { rx, ..Channels::default() })
    }

    /// Queues come and go, and the interrupt goes elsewhere.
    fn set_channels(&self, _: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        let wanted = counts.rx.unwrap();
        self.step();
        for queue in 0..3 {
            let directory = self.root.join(format!("sys/class/net/eth0/queues/rx-{queue}"));
            if queue < wanted && !directory.exists() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(directory.join("rps_cpus"), "0").unwrap();
                std::fs::write(directory.join("rps_flow_cnt"), "0").unwrap();
            } else if queue >= wanted && directory.exists() {
                std::fs::remove_dir_all(directory).unwrap();
            }
        }
        std::fs::write(self.root.join("proc/irq/30/smp_affinity_list"), "3").unwrap();
        std::fs::write(self.root.join("channels"), wanted.to_string()).unwrap();
        self.step();
        Ok(())
    }
}

const ORIGINALS: [(&str, &str); 4] = [
    ("/sys/class/net/eth0/queues/rx-0/rps_cpus", "1"),
    ("/sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "0"),
    ("/proc/irq/30/smp_affinity_list", "0-3"),
    ("/proc/sys/net/core/rps_sock_flow_entries", "16384"),
];

fn settings(cpus: &str, count: u32) -> [Setting; 4] {
    [
        Setting::Rps { interface: "eth0".into(), queue: 0, cpus: cpus.parse().unwrap() },
        Setting::RpsFlowCount { interface: "eth0".into(), queue: 0, count },
        Setting::IrqAffinity { irq: 30, cpus: 2.into() },
        Setting::RpsSockFlowEntries { count },
    ]
}

fn set_up(root: &Path) {
    for (path, content) in ORIGINALS {
        let path = Tree::new(root).at(Path::new(path));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    std::fs::create_dir_all(root.join("tree/proc/sys/kernel/random")).unwrap();
    std::fs::write(root.join("tree/proc/sys/kernel/random/boot_id"), "b007\n").unwrap();
}

fn values(root: &Path) -> Vec<String> {
    ORIGINALS
        .iter()
        .map(|(path, _)| std::fs::read_to_string(Tree::new(root).at(Path::new(path))).unwrap())
        .collect()
}

fn originals() -> Vec<&'static str> {
    ORIGINALS.iter().map(|(_, content)| *content).collect()
}

fn open(tree: &Tree, root: &Path) -> Applier<impl FileSystem> {
    Applier::open(tree, root.join("journal"), 4).unwrap()
}

/// Runs `work` in a process of its own for every step at which it can be killed; `check` sees what each one left.
fn at_every_step(
    test: &str,
    prepare: impl Fn(&Path),
    work: impl Fn(&Tree, &Path),
    check: impl Fn(u32, &Path),
) {
    if let Ok(crash) = std::env::var("CRASH") {
        let (step, root) = crash.split_once(' ').unwrap();
        let tree = Tree::new(Path::new(root));
        tree.steps.set(Some(step.parse().unwrap()));
        work(&tree, Path::new(root));
        return;
    }
    for step in 0.. {
        // In memory, where there is such a place: to wait for a disk takes most of the time.
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let root = base.join(format!("lb-affinity-{test}-{}-{step}", std::process::id()));
        set_up(&root);
        prepare(&root);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("CRASH", format!("{step} {}", root.display()))
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        check(step, &root);
        std::fs::remove_dir_all(&root).unwrap();
        if status.success() {
            assert!(step >= 20, "only {step} steps: it did not do its work");
            return;
        }
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "step {step}");
    }
}

/// Every original comes back, and then nothing is in the way of the next plan.
fn comes_back(step: u32, root: &Path) {
    let tree = Tree::new(root);
    let mut applier = open(&tree, root);
    let restored = applier.restore(IfChanged::Leave).unwrap();
    assert!(restored.is_complete(), "step {step}: {restored}");
    assert_eq!(values(root), originals(), "step {step}: {restored}");
    applier.apply(&settings("0-2", 1024)).unwrap();
}

#[test]
fn killed_while_it_applies() {
    at_every_step(
        "killed_while_it_applies",
        |_| {},
        |tree, root| {
            // Trimmed to 0-2, so that what is there is neither what was nor what was meant.
            open(tree, root).apply(&settings("0-3", 4096)).unwrap();
        },
        |step, root| {
            let tree = Tree::new(root);
            let changed = values(root) != originals();
            if changed && values(root)[3] != "4096" {
                let error = open(&tree, root).apply(&settings("0", 1)).unwrap_err();
                assert!(matches!(error, ApplyError::Unfinished { .. }), "step {step}: {error}");
            }
            comes_back(step, root);
        },
    );
}

#[test]
fn killed_while_it_applies_a_second_plan() {
    at_every_step(
        "killed_while_it_applies_a_second_plan",
        |root| {
            open(&Tree::new(root), root).apply(&settings("1", 512)).unwrap();
        },
        |tree, root| {
            open(tree, root).apply(&settings("0-3", 4096)).unwrap();
        },
        comes_back,
    );
}

#[test]
fn killed_while_it_restores() {
    at_every_step(
        "killed_while_it_restores",
        |root| {
            open(&Tree::new(root), root).apply(&settings("0-3", 4096)).unwrap();
        },
        |tree, root| {
            open(tree, root).restore(IfChanged::Leave).unwrap();
        },
        comes_back,
    );
}

#[test]
fn killed_while_it_rolls_back() {
    at_every_step(
        "killed_while_it_rolls_back",
        |root| {
            open(&Tree::new(root), root).apply(&settings("1", 512)).unwrap();
        },
        |tree, root| {
            tree.refusing.set(Some(ORIGINALS[3].0));
            let mut applier = Applier::open(tree, root.join("journal"), 4).unwrap();
            let error = applier.apply(&settings("0-3", 4096)).unwrap_err();
            assert!(matches!(error, ApplyError::RolledBack(_)), "{error}");
        },
        comes_back,
    );
}

/// The card with so many queues, of each of which somebody has set something.
fn with_card(root: &Path, queues: u32) {
    let tree = root.join("tree");
    for queue in 0..queues {
        let directory = tree.join(format!("sys/class/net/eth0/queues/rx-{queue}"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("rps_cpus"), (queue + 1).to_string()).unwrap();
        std::fs::write(directory.join("rps_flow_cnt"), (64 << queue).to_string()).unwrap();
    }
    std::fs::write(tree.join("channels"), queues.to_string()).unwrap();
    std::fs::write(tree.join("proc/interrupts"), "CPU0\n 30:  0  PCI-MSI 30-edge  eth0-TxRx-0\n").unwrap();
}

/// Every file, and what it holds.
fn state(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut state = BTreeMap::new();
    let mut waiting = vec![root.join("tree")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let content = std::fs::read_to_string(&path).unwrap();
            state.insert(path.strip_prefix(root).unwrap().to_owned(), content);
        }
    }
    state
}

fn change_channels(files: impl FileSystem, root: &Path, queues: u32) -> Result<(), ApplyError> {
    let counts = ChannelCounts { rx: Some(queues), ..ChannelCounts::default() };
    let channels = Setting::Channels { interface: "eth0".into(), counts };
    let mut applier = Applier::open(files, root.join("journal"), 4)?;
    applier.apply_then(&[channels], |_| Ok::<_, ApplyError>(settings("0-3", 4096).to_vec())).map(drop)
}

/// From `before` queues to `after`; killed in `work`.
fn channels_come_back(test: &str, before: u32, after: u32, restoring: bool) {
    at_every_step(
        test,
        |root| {
            with_card(root, before);
            if restoring {
                change_channels(Tree::new(root), root, after).unwrap();
            }
        },
        |tree, root| {
            if restoring {
                open(tree, root).restore(IfChanged::Leave).unwrap();
            } else {
                change_channels(tree, root, after).unwrap();
            }
        },
        |step, root| {
            let tree = Tree::new(root);
            let restored = open(&tree, root).restore(IfChanged::Leave).unwrap();
            assert!(restored.is_complete(), "step {step}: {restored}");
            let now = state(root);
            std::fs::remove_dir_all(root).unwrap();
            set_up(root);
            with_card(root, before);
            assert_eq!(now, state(root), "step {step}: {restored}");
        },
    );
}

#[test]
fn killed_while_it_takes_channels_away() {
    channels_come_back("killed_while_it_takes_channels_away", 3, 1, false);
}

#[test]
fn killed_while_it_adds_channels() {
    channels_come_back("killed_while_it_adds_channels", 1, 3, false);
}

#[test]
fn killed_while_it_puts_channels_back() {
    channels_come_back("killed_while_it_puts_channels_back", 3, 1, true);
}

#[test]
fn killed_while_it_takes_added_channels_away() {
    channels_come_back("killed_while_it_takes_added_channels_away", 1, 3, true);
}

#[test]
fn killed_while_it_rolls_channels_back() {
    at_every_step(
        "killed_while_it_rolls_channels_back",
        |root| with_card(root, 3),
        |tree, root| {
            tree.refusing.set(Some(ORIGINALS[3].0));
            let error = change_channels(tree, root, 1).unwrap_err();
            assert!(matches!(error, ApplyError::RolledBack(_)), "{error}");
        },
        |step, root| {
            let restored = open(&Tree::new(root), root).restore(IfChanged::Leave).unwrap();
            assert!(restored.is_complete(), "step {step}: {restored}");
            let now = state(root);
            with_card(root, 3);
            assert_eq!(now, state(root), "step {step}: {restored}");
        },
    );
}

#[test]
fn the_lock_names_its_process_and_ends_with_it() {
    if let Ok(root) = std::env::var("HOLD") {
        let root = Path::new(&root);
        let tree = Tree::new(root);
        let _applier = open(&tree, root);
        println!("open");
        // Until it is killed, but never for good.
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let root = std::env::temp_dir().join(format!("lb-affinity-hold-{}", std::process::id()));
    set_up(&root);
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_lock_names_its_process_and_ends_with_it", "--nocapture"])
        .env("HOLD", &root)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("open")), "the other process has it");
    let tree = Tree::new(&root);
    match Applier::open(&tree, root.join("journal"), 4) {
        Err(ApplyError::Locked { pid, .. }) => assert_eq!(pid, Some(holder.id())),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two at once"),
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    open(&tree, &root).apply(&settings("0-1", 1)).unwrap();
    std::fs::remove_dir_all(root).unwrap();
}
