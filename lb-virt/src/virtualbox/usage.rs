//! What the process that runs a machine has used.

use std::fs;
use std::time::Duration;

use crate::domain::Memory;
use crate::usage::{cpu_time, resident};

/// Time on CPUs and memory of the process that was started for a machine: `VBoxHeadless … --startvm UUID …`.
pub(super) fn of(uuid: &str) -> Option<(Duration, Option<Memory>)> {
    let started = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.by_ref().any(|word| word == b"--startvm") && words.next() == Some(uuid.as_bytes())
    };
    let entries = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let pid = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(started)?;
    Some((cpu_time(pid)?, resident(pid).map(Memory::from_kib)))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_process_of_a_machine_is_found() {
        let uuid = "5f7c3b1e-8d0a-4a6b-9c55-0d1f7e3a2b90";
        // A shell that says that it is there and waits for the end of its input, with the words of VirtualBox' own.
        let arguments = ["-c", "echo; read line", "VBoxHeadless", "--comment", "web1", "--startvm", uuid];
        let mut shell = Command::new("sh");
        let mut process = shell.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let (_, memory) = of(uuid).unwrap();
        assert!(memory.unwrap() > Memory::from_kib(100));
        drop(process.stdin.take());
        process.wait().unwrap();
        assert_eq!(of(uuid), None);
    }
}
