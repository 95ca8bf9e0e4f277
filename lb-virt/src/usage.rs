//! What a process has used, by what its kernel says.
//!
//! Source: proc(5), clock_getcpuclockid(3).

use std::fs;
use std::time::Duration;

/// What time it had on CPUs.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    let time = nix::time::clock_getcpuclockid(pid).ok()?.now().ok()?;
    Some(Duration::new(u64::try_from(time.tv_sec()).ok()?, u32::try_from(time.tv_nsec()).ok()?))
}

/// The memory of the host that it takes, in KiB.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_what_it_uses() {
        let block = vec![1_u8; 64 << 20];
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(&block);
        }
        let own = std::process::id();
        assert!(cpu_time(own).unwrap() > Duration::from_millis(1));
        assert!(resident(own).unwrap() >= 64 << 10);
        assert_eq!((cpu_time(u32::MAX), resident(u32::MAX)), (None, None));
        drop(block);
    }
}
