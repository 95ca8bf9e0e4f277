//! Processes: their output within a time, and their processor time.

use super::{ServingError, Stop};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a program writes, if it ends within `limit`; killed otherwise. It may write as much as a pipe holds, 64 KiB.
///
/// # Errors
/// [`ServingError::Stopped`] after a signal, [`ServingError::Io`] if it does not start.
pub(crate) fn output_within(
    mut command: Command,
    limit: Duration,
    stop: &Stop,
) -> Result<Option<Output>, ServingError> {
    stop.check()?;
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(ServingError::io(format!("start {name}")))?;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(_)) => break Ok(true),
            Ok(None) => {}
            Err(error) => break Err(ServingError::io(format!("wait for {name}"))(error)),
        }
        if let Err(stopped) = stop.check() {
            break Err(stopped);
        }
        if start.elapsed() > limit {
            break Ok(false);
        }
        thread::sleep(Duration::from_millis(10));
    };
    if !matches!(ended, Ok(true)) {
        // Fails only when it has ended meanwhile.
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(ServingError::io(format!("read what {name} writes")))?;
    ended.map(|ended| ended.then_some(output))
}

/// Ticks a second of `/proc/PID/stat`; the kernel's interface has had 100 on every architecture of Debian's.
const TICKS: f64 = 100.0;

/// Seconds in user and kernel mode that `root` and its descendants have used until now (proc(5), fields 14 and
/// 15 of `/proc/PID/stat`).
pub(super) fn cpu_seconds(root: u32) -> Result<f64, ServingError> {
    let mut processes = Vec::new();
    let entries = std::fs::read_dir("/proc").map_err(ServingError::io("read /proc"))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended meanwhile is none of ours: ours are running.
        if let Some(process) = Process::read(pid, &entry.path()) {
            processes.push(process);
        }
    }
    let mut family = vec![root];
    let mut ticks = 0;
    while let Some(pid) = family.pop() {
        family.extend(processes.iter().filter(|process| process.parent == pid).map(|process| process.pid));
        ticks +=
            processes.iter().filter(|process| process.pid == pid).map(|process| process.ticks).sum::<u64>();
    }
    Ok(ticks as f64 / TICKS)
}

struct Process {
    pid: u32,
    parent: u32,
    ticks: u64,
}

impl Process {
    fn read(pid: u32, folder: &Path) -> Option<Self> {
        Self::parse(pid, &std::fs::read_to_string(folder.join("stat")).ok()?)
    }

    /// The name in parentheses may hold anything, blanks and parentheses too; the last one ends it.
    fn parse(pid: u32, stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // fields[0] is field 3, the state.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self { pid, parent: u32::try_from(number(4)?).ok()?, ticks: number(14)? + number(15)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read() {
        let line =
            "7 (a) b (c) S 5 7 7 0 -1 4194560 100 0 0 0 31 11 2 3 20 0 1 0 100 1000 10 18446744073709551615";
        let process = Process::parse(7, line).unwrap();
        assert_eq!((process.pid, process.parent, process.ticks), (7, 5, 42));
        assert!(Process::parse(7, "7 (a) S").is_none());
    }

    #[test]
    fn a_program_has_its_time() {
        let stop = Stop::on_signals().unwrap();
        let run = |script: &str, limit: u64| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            output_within(command, Duration::from_millis(limit), &stop)
        };
        assert_eq!(run("echo done", 10_000).unwrap().unwrap().stdout, b"done\n");
        let start = Instant::now();
        assert!(run("exec sleep 60", 50).unwrap().is_none());
        assert!(start.elapsed().as_secs() < 30);
        signal_hook::low_level::raise(signal_hook::consts::SIGHUP).unwrap();
        assert!(matches!(run("echo done", 10_000), Err(ServingError::Stopped)));
    }

    #[test]
    fn own_time_grows() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let start = std::time::Instant::now();
        while cpu_seconds(std::process::id()).unwrap() < before + 0.02 {
            assert!(start.elapsed().as_secs() < 10, "20 ms of processor time in 10 s of work");
        }
    }
}
