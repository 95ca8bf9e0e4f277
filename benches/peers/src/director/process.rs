//! Processor time of a process and its children.

use super::DirectorError;
use std::path::Path;

/// Ticks a second of `/proc/PID/stat`; the kernel's interface has had 100 on every architecture of Debian's.
const TICKS: f64 = 100.0;

/// Seconds in user and kernel mode that `root` and its descendants have used until now (proc(5), fields 14 and
/// 15 of `/proc/PID/stat`).
pub(super) fn cpu_seconds(root: u32) -> Result<f64, DirectorError> {
    let mut processes = Vec::new();
    let entries = std::fs::read_dir("/proc").map_err(DirectorError::io("read /proc"))?;
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
    fn own_time_grows() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let start = std::time::Instant::now();
        while cpu_seconds(std::process::id()).unwrap() < before + 0.02 {
            assert!(start.elapsed().as_secs() < 10, "20 ms of processor time in 10 s of work");
        }
    }
}
