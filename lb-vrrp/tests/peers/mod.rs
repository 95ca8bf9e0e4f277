//! A laboratory: routers (ours, keepalived, FRR) in network namespaces on one bridge, and a capture of what each sends.
//!
//! A [`Lan`] is a bridge and a namespace a host, a [`Router`] a program in one of them, the [`Wire`] everything that hosts put
//! on the bridge, with the kernel's time and the port. All of it needs root, and all of it goes when it is dropped, also when a
//! test panics; what a killed test left is removed by the next one.

// Each test uses the part that it needs.
#![allow(dead_code, unused_imports)]

mod frr;
mod keepalived;
mod lan;
mod ours;
mod probe;
mod router;
mod stalls;
mod tshark;
mod wire;

pub(crate) use lan::{Host, Lan, inside};
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

/// Runs a command to its end and gives what it printed.
///
/// # Panics
/// If it can't be run or fails: without it the laboratory does not stand.
pub(crate) fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; install it, and run as root", command[0]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {}{text}{complaint}", command.join(" "), output.status);
    text
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
