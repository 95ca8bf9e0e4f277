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
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::usage;
use crate::wait::until;

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
    ///
    /// # Errors
    /// If that can't be found out: by a program that has as many files open as it may, for one. It says nothing of the process.
    pub(crate) fn of(pid: u32) -> io::Result<Option<Self>> {
        // First: where there is no /proc at all nothing has ended.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(error) if is_gone(&error) => return Ok(None),
            stat => stat?,
        };
        Ok(started(&stat)?.map(|started| Self { pid, started, boot: boot.trim().into() }))
    }

    /// One that has ended.
    pub(crate) const fn ended() -> Self {
        Self { pid: 0, started: 0, boot: String::new() }
    }

    /// Whether it lives. One of this program's that has ended is taken note of.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn lives(&self) -> io::Result<bool> {
        reap();
        Ok(Self::of(self.pid)?.as_ref() == Some(self))
    }

    /// Something that stays this process, if it lives.
    fn handle(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from) {
            Err(error) if is_gone(&error) => return Ok(None),
            handle => handle?,
        };
        // The number may have been given again before: whatever it is now, it stays.
        Ok(self.lives()?.then_some(handle))
    }

    /// Ends it at once, and waits until it has ended. True if it has.
    ///
    /// # Errors
    /// If it can't be reached, as [`of`](Self::of).
    pub(crate) fn kill(&self, timeout: Duration) -> io::Result<bool> {
        self.strike()?.map_or(Ok(true), |handle| self.wait_on(&handle, timeout))
    }

    /// Ends it, and does not wait until the kernel has cleared it away: it runs no more.
    ///
    /// # Errors
    /// If it can't be reached, as [`of`](Self::of).
    pub(crate) fn strike(&self) -> io::Result<Option<OwnedFd>> {
        let Some(handle) = self.handle()? else { return Ok(None) };
        // An error means that it has ended, or is another user's, which a wait shows.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
        Ok(Some(handle))
    }

    /// Waits until it has ended. True if it has.
    ///
    /// # Errors
    /// If it can't be reached, as [`of`](Self::of).
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        self.handle()?.map_or(Ok(true), |handle| self.wait_on(&handle, timeout))
    }

    fn wait_on(&self, handle: &OwnedFd, timeout: Duration) -> io::Result<bool> {
        let end = until(timeout);
        while self.lives()? {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout);
            if self.lives()? {
                // It has ended, and its parent, another program, has not yet taken note: /proc says so a moment later.
                sleep(Duration::from_millis(1));
            }
        }
        Ok(true)
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

    /// Whether all of its threads sleep whose names are of that kind.
    pub(crate) fn sleeps(&self, is_it: impl Fn(&str) -> bool) -> bool {
        let read = |thread: u32, file: &str| {
            fs::read_to_string(format!("/proc/{}/task/{thread}/{file}", self.pid)).unwrap_or_default()
        };
        let threads = self.threads().into_iter().filter(|thread| is_it(read(*thread, "comm").trim_end()));
        threads.into_iter().all(|thread| {
            let stat = read(thread, "stat");
            // One that has just ended is none.
            stat.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with('S'))
        })
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

/// Whether an error says that there is no such process, and not only that it can't be asked.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

/// When a process was started, of what proc(5) calls its `stat`; `None` if it has ended and is only not yet taken note of. The first of
/// its threads may have ended before the others, which hold its files, and the locks of its images, until they have.
fn started(stat: &str) -> io::Result<Option<u64>> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "no stat of a process, as proc(5) has it");
    // Its name, in brackets, may hold anything; the last bracket ends it.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
    // From the third on: the state, the number of threads, which is the 20th, and the 22nd.
    let fields: Vec<&str> = fields.split_ascii_whitespace().take(20).collect();
    let number = |field: usize| fields.get(field - 3).and_then(|field| field.parse::<u64>().ok());
    let others = number(20).is_some_and(|threads| threads > 1);
    if matches!(fields.first(), Some(&("Z" | "X" | "x"))) && !others {
        return Ok(None);
    }
    number(22).map(Some).ok_or_else(unreadable)
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
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // What a terminal sends to the program that starts it is not for it.
        .process_group(0)
        .spawn()?;
    let process = Process::of(child.id());
    if process.is_err() {
        // Nobody would know it again.
        let _ = child.kill();
    }
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    // One that has ended already has said why.
    Ok(process?.unwrap_or_else(Process::ended))
}

/// The processes that were given an argument: those that nobody has written down.
///
/// # Errors
/// If they can't be looked through.
pub(crate) fn with_argument(argument: &OsStr) -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let line = match fs::read(format!("/proc/{pid}/cmdline")) {
            // Another user's may be hidden.
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => continue,
            line => line?,
        };
        if line.split(|&byte| byte == 0).any(|word| word == argument.as_bytes()) {
            processes.extend(Process::of(pid)?);
        }
    }
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_started() {
        for (stat, expected) in [
            ("7 (a) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", Some(Some(4711))),
            ("7 (a) b) (c) R 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", Some(Some(4711))),
            ("7 (a) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0", Some(None)),
            // Its first thread has ended, and another has not yet.
            ("7 (a) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 4711 0", Some(Some(4711))),
            // What can't be read has not ended.
            ("7 (a) S 1", None),
            ("", None),
        ] {
            assert_eq!(started(stat).ok(), expected, "{stat}");
        }
        let me = Process::of(std::process::id()).unwrap().unwrap();
        assert!(me.lives().unwrap());
        let other = Process { started: me.started + 1, ..me.clone() };
        assert!(!other.lives().unwrap(), "the number was given again");
        assert!(other.kill(Duration::ZERO).unwrap(), "which is not this one's end");
        assert!(!Process { boot: "before".into(), ..me }.lives().unwrap());
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
        assert!(process.lives().unwrap());
        assert!(!process.wait(Duration::from_millis(10)).unwrap());
        assert!(process.cpu_time().is_some());
        assert!(process.threads().contains(&process.pid));
        let end = Instant::now() + Duration::from_secs(60);
        while !process.sleeps(|name| name == "sleep") {
            assert!(Instant::now() < end, "it only sleeps");
        }
        let me = Process::of(std::process::id()).unwrap().unwrap();
        assert!(!me.sleeps(|_| true), "who asks is awake");
        assert!(me.sleeps(|name| name == "nobody"));
        assert!(process.kill(Duration::from_secs(10)).unwrap());
        assert!(!process.lives().unwrap());
        assert!(process.kill(Duration::ZERO).unwrap(), "twice is once");
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "nothing is left of it");
    }
    /// In a process of its own, which this test is again: the limit is the whole process's.
    #[test]
    fn who_may_open_no_more_files_does_not_take_what_lives_for_ended() {
        const CHILD: &str = "LB_VIRT_TEST_OPENS_NO_FILES";
        const NAME: &str =
            "qemu::process::tests::who_may_open_no_more_files_does_not_take_what_lives_for_ended";
        if std::env::var_os(CHILD).is_none() {
            let again = std::env::current_exe().unwrap();
            let output = Command::new(again).args(["--exact", NAME, "--nocapture"]).env(CHILD, "1").output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let me = Process::of(std::process::id()).unwrap().unwrap();
        let none = Process { pid: 0, ..me.clone() };
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let few = rustix::process::Rlimit { current: Some(0), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        assert!(Process::of(me.pid).is_err());
        assert!(me.lives().is_err());
        // With SIGKILL it would be the end of this test.
        assert!(me.wait(Duration::ZERO).is_err());
        assert!(me.handle().is_err());
        assert!(with_argument(OsStr::new("--exact")).is_err());
        assert!(none.wait(Duration::ZERO).unwrap(), "what never was has ended");
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        assert!(me.lives().unwrap());
    }
}
