//! A laboratory: routers (ours, keepalived, FRR) in network namespaces on one bridge, and a capture of what each sends.
//!
//! A [`Lan`] is a bridge and a namespace a host, a [`Router`] a program in one of them, the [`Wire`] everything that hosts put
//! on the bridge, with the kernel's time and the port. All of it needs root, and all of it goes when it is dropped, also when a
//! test panics; what a killed test left is removed by the next one.

// Each test uses the part that it needs; what fails here fails the test.
#![allow(dead_code, unused_imports)]

mod frr;
mod host;
mod keepalived;
mod lan;
mod ours;
mod probe;
mod router;
mod spec;
mod stalls;
mod tshark;
mod wire;

pub(crate) use host::Host;
pub(crate) use lan::{Lan, inside};
pub(crate) use ours::{a_router, is_router};
pub(crate) use probe::Probe;
pub(crate) use router::{Program, Router};
pub(crate) use stalls::Stalls;
pub(crate) use tshark::{Verdict, judge};
pub(crate) use wire::{Advert, Frame, Wire, now};

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that should happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a command, a line of words without blanks, to its end and gives what it printed.
///
/// # Panics
/// If it can't be run or fails: without it the laboratory does not stand.
pub(crate) fn run(line: &str) -> String {
    let (success, text) = try_run(line);
    assert!(success, "{line}: {text}");
    text
}

/// The same of a command that may fail: whether it went well, and all that it printed.
pub(crate) fn try_run(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it, and run as root"));
    let complaint = if output.status.success() { Vec::new() } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, complaint].concat()).into_owned())
}

/// Waits until `condition` holds, which says `what`.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub(crate) fn soon(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait_until(PATIENCE, condition), "not within {PATIENCE:?}: {what}");
}

/// Waits until `condition` holds. Whether it does before `timeout`.
pub(crate) fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The directory of everything that this process writes. FRR's daemons, which are not root, look into it.
pub(crate) fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("{}-{}", lan::PREFIX, std::process::id()))
}

/// Makes `directory() / name`, readable for all.
pub(crate) fn make_directory(name: &str) -> PathBuf {
    let path = directory().join(name);
    std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// A file's text; nothing while it is not there.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
