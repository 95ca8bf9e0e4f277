//! What the process that runs a machine has used.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::domain::Memory;

/// The kernel's clock ticks in this file, on every architecture that VirtualBox runs on (proc(5), `_SC_CLK_TCK`).
const TICKS: u64 = 100;
/// A page of memory, there.
const PAGE: u64 = 4096;

/// Time on CPUs and memory of the process that was started for a machine: `VBoxHeadless … --startvm UUID …`.
pub(super) fn of(uuid: &str) -> Option<(Duration, Option<Memory>)> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut processes = processes.map(|process| process.path()).filter(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.by_ref().any(|word| word == b"--startvm") && words.next() == Some(uuid.as_bytes())
    });
    let process = processes.next()?;
    let read = |file: &str| fs::read_to_string(Path::new(&process).join(file)).ok();
    Some((cpu_time(&read("stat")?)?, read("statm").and_then(|text| resident(&text))))
}

/// From `stat`: user's and system's ticks are the 14th and 15th. The second is a name in parentheses, with anything in it.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut ticks = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = ticks.next()?.ok()?.checked_add(ticks.next()?.ok()?)?;
    Some(Duration::from_millis(ticks.checked_mul(1000 / TICKS)?))
}

/// From `statm`: the second number, in pages.
fn resident(statm: &str) -> Option<Memory> {
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(Memory::from_bytes(pages.checked_mul(PAGE)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read() {
        let stat = "42 (VBox) 3 (x)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 30 0 9 1 2";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(resident("1000 256 3 4 0 5 0"), Some(Memory::from_mib(1)));
        for wrong in ["", "42 (a) S", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(cpu_time(wrong), None, "{wrong}");
        }
        assert_eq!(of("no such machine"), None);
    }
}
