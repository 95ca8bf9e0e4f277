//! What a machine has used.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::Memory;

/// Totals since a machine was started, by the hypervisor's own count, not the guest's.
///
/// The load of a machine is what two samples differ by:
///
/// ```
/// use std::time::Duration;
/// use lb_virt::hypervisor::Statistics;
///
/// let sample = |milliseconds| Statistics { cpu_time: Duration::from_millis(milliseconds), ..Statistics::default() };
/// let (before, after) = (sample(1500), sample(3500));
/// assert_eq!(after.load_since(&before, Duration::from_secs(1), 4), 0.5);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Statistics {
    /// Time on CPUs, of all its virtual CPUs and of the hypervisor's work for it.
    pub cpu_time: Duration,
    /// Virtual CPUs that it has now.
    pub vcpus: u32,
    /// Memory that it has now.
    pub memory: Memory,
    /// Memory of the host that it takes.
    pub resident: Option<Memory>,
    /// By the disk's name on its bus.
    pub disks: BTreeMap<String, BlockStatistics>,
    /// All its network interfaces together.
    pub net: NetStatistics,
}

impl Statistics {
    /// The share of `cpus` CPUs that was used since an earlier sample, `interval` before: 0 to 1. After a restart, which begins
    /// the totals anew, it is 0.
    #[must_use]
    pub fn load_since(&self, before: &Self, interval: Duration, cpus: u32) -> f64 {
        let used = self.cpu_time.saturating_sub(before.cpu_time).as_secs_f64();
        let whole = interval.as_secs_f64() * f64::from(cpus);
        if whole > 0.0 { (used / whole).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// What went to and from a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct BlockStatistics {
    /// Bytes read.
    pub read_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests to write.
    pub writes: u64,
}

/// What went through network interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct NetStatistics {
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that it received.
    pub received: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Packets that it sent.
    pub sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_shares() {
        let sample = |milliseconds| Statistics {
            cpu_time: Duration::from_millis(milliseconds),
            ..Statistics::default()
        };
        for (before, after, interval, cpus, load) in [
            (0, 100, 100, 1, 1.0),
            (0, 100, 100, 4, 0.25),
            (0, 500, 100, 1, 1.0),
            (900, 100, 100, 1, 0.0),
            (0, 100, 0, 1, 0.0),
            (0, 100, 100, 0, 0.0),
        ] {
            let measured = sample(after).load_since(&sample(before), Duration::from_millis(interval), cpus);
            assert!((measured - load).abs() < 1e-12, "{measured}: {load}");
        }
    }
}
