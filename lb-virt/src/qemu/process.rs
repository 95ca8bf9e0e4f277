//! QEMU's processes: which one is a machine's, whether it lives, and its end.
//!
//! A process outlives the program that starts it, and is another program's then. So it is known by its id, by when it started, and
//! by the boot of the host: an id that was given again is never taken for the machine.
//!
//! Sources: proc(5), pidfd_open(2), pidfd_send_signal(2).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::usage;

/// Processes that this program has started: when they end, it must take note of that, or they stay in the kernel's table.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A process, whatever else has its number later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it was started, in the kernel's ticks since the boot.
    started: u64,
    /// The boot of the host.
    boot: String,
}

impl Process {
    /// The process that has an id now; `None` if none has, or it has ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = started(&stat)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(Self { pid, started, boot: boot.trim().into() })
    }

    /// Whether it lives. One of this program's that has ended is taken note of.
    pub(crate) fn lives(&self) -> bool {
        reap();
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Something that stays this process, if it lives.
    fn handle(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The number may have been given again before: whatever it is now, it stays.
        self.lives().then_some(handle)
    }

    /// Ends it at once, and waits until it has ended. True if it has.
    pub(crate) fn kill(&self, timeout: Duration) -> bool {
        self.strike().is_none_or(|handle| self.wait_on(&handle, timeout))
    }

    /// Ends it, and does not wait until the kernel has cleared it away: it runs no more.
    pub(crate) fn strike(&self) -> Option<OwnedFd> {
        let handle = self.handle()?;
        // An error means that it has ended, or is another user's, which a wait shows.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
        Some(handle)
    }

    /// Waits until it has ended. True if it has.
    pub(crate) fn wait(&self, timeout: Duration) -> bool {
        self.handle().is_none_or(|handle| self.wait_on(&handle, timeout))
    }

    fn wait_on(&self, handle: &OwnedFd, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        while self.lives() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout);
            if self.lives() {
                // It has ended, and its parent, another program, has not yet taken note: /proc says so a moment later.
                sleep(Duration::from_millis(1));
            }
        }
        true
    }

    /// What time it had on CPUs.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        usage::cpu_time(self.pid)
    }

    /// The memory of the host that it takes, in KiB.
    pub(crate) fn resident(&self) -> Option<u64> {
        usage::resident(self.pid)
    }

    /// What of its smallest area of memory of at least so many KiB takes memory of the host, in KiB: a guest's memory is one area, and
    /// others that are as large (translated code) are larger.
    pub(crate) fn resident_of_guest(&self, least: u64) -> Option<u64> {
        guest_of(&fs::read_to_string(format!("/proc/{}/smaps", self.pid)).ok()?, least)
    }

    /// The ids of its threads.
    pub(crate) fn threads(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
        tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
    }

    /// The network interfaces of the host that it has made (tap), by what the kernel says of its files.
    pub(crate) fn taps(&self) -> Vec<String> {
        let files = fs::read_dir(format!("/proc/{}/fdinfo", self.pid)).into_iter().flatten().flatten();
        let text = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        text.filter_map(|text| {
            Some(text.lines().find_map(|line| line.strip_prefix("iff:"))?.trim().to_owned())
        })
        .collect()
    }
}

/// The same, of what proc(5) calls `smaps`.
fn guest_of(smaps: &str, least: u64) -> Option<u64> {
    let kib = |line: &str, key: &str| -> Option<u64> {
        line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let (mut size, mut guest) = (0, None);
    for line in smaps.lines() {
        if let Some(kib) = kib(line, "Size:") {
            size = kib;
        } else if let Some(resident) = kib(line, "Rss:").filter(|_| size >= least)
            && guest.is_none_or(|(smallest, _)| size < smallest)
        {
            guest = Some((size, resident));
        }
    }
    guest.map(|(_, resident)| resident)
}

/// When a process was started, of what proc(5) calls its `stat`; `None` if it has ended and is only not yet taken note of.
fn started(stat: &str) -> Option<u64> {
    // Its name, in brackets, may hold anything; the last bracket ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // Field 22; the state is the third.
    fields.nth(18)?.parse().ok()
}

/// Takes note of the end of processes that this program has started.
pub(crate) fn reap() {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

/// Starts a program that outlives this one, in a directory of its own.
pub(crate) fn launch(
    program: &OsStr,
    arguments: &[impl AsRef<OsStr>],
    directory: &Path,
    log: File,
) -> io::Result<Process> {
    let child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // What a terminal sends to the program that starts it is not for it.
        .process_group(0)
        .spawn()?;
    let process = Process::of(child.id());
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    // One that has ended already has said why.
    Ok(process.unwrap_or_else(|| Process { pid: 0, started: 0, boot: String::new() }))
}

/// The processes that were given an argument: those that nobody has written down.
pub(crate) fn with_argument(argument: &OsStr) -> Vec<Process> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == argument.as_bytes())
    };
    pids.filter(has).filter_map(Process::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_started() {
        for (stat, expected) in [
            ("7 (a) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", Some(4711)),
            ("7 (a) b) (c) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", Some(4711)),
            ("7 (a) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", None),
            ("7 (a) S 1", None),
            ("", None),
        ] {
            assert_eq!(started(stat), expected, "{stat}");
        }
        let me = Process::of(std::process::id()).unwrap();
        assert!(me.lives());
        let other = Process { started: me.started + 1, ..me.clone() };
        assert!(!other.lives(), "the number was given again");
        assert!(other.kill(Duration::ZERO), "which is not this one's end");
        assert!(!Process { boot: "before".into(), ..me }.lives());
    }

    #[test]
    fn the_guest_is_the_area_of_its_size() {
        let smaps = "7f00-7f10 rw-p 0 0:0 0\nSize: 262144 kB\nKernelPageSize: 4 kB\nRss: 98304 kB\nPss: 1 kB\n\
                     7f20-7f30 rw-p 0 0:0 0\nSize: 1048576 kB\nRss: 200000 kB\n7f40-7f50 r--p 0 0:0 0\nSize: 64 kB\nRss: 64 kB\n";
        assert_eq!(guest_of(smaps, 262_144), Some(98_304));
        assert_eq!(guest_of(smaps, 2_000_000), None);
        assert_eq!(guest_of("Size: x\nRss: 5", 0), None);
    }

    #[test]
    fn what_was_started_ends_when_it_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let process = launch(OsStr::new("sleep"), &["1017"], directory.path(), log).unwrap();
        assert!(process.lives());
        assert!(!process.wait(Duration::from_millis(10)));
        assert!(process.cpu_time().is_some());
        assert!(process.threads().contains(&process.pid));
        assert!(process.kill(Duration::from_secs(10)));
        assert!(!process.lives());
        assert!(process.kill(Duration::ZERO), "twice is once");
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "nothing is left of it");
    }
}
