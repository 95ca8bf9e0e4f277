//! What a migration will take, before it is started.

use std::time::Duration;

use crate::domain::Memory;

/// What a machine has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Demand {
    /// Its memory.
    pub memory: Memory,
    /// What of it is not zeros: pages of zeros are told in a few bytes.
    pub used: Memory,
    /// How fast its guest writes, in bytes a second: pages that are changed, whole.
    pub dirty_rate: u64,
    /// All that it writes to again and again; `None`: all of its memory.
    pub working_set: Option<Memory>,
}

/// What it is sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Link {
    /// Bytes a second while the machine runs.
    pub bandwidth: u64,
    /// Bytes a second when it stands still: hypervisors do not hold to the limit of [`Settings`](super::Settings) then.
    pub unlimited: u64,
    /// How fast the hypervisor finds that memory is zeros, in bytes a second. QEMU 7.2: 5–10 · 10⁹ with a
    /// processor of 2020.
    pub scan: u64,
    /// What it takes to connect, and again to send the devices' state while the machine stands still.
    pub overhead: Duration,
    /// What waits in the hosts' sockets, in bytes, where the network is slower than the hypervisor: it counts as sent, and goes over
    /// while the machine stands still. Linux lets it grow to 4 MiB (`net.ipv4.tcp_wmem`).
    pub buffered: u64,
}

impl Link {
    /// A network of so many bytes a second, with QEMU at both ends.
    #[must_use]
    pub const fn of(bandwidth: u64) -> Self {
        let overhead = Duration::from_millis(2);
        Self { bandwidth, unlimited: bandwidth, scan: 8_000_000_000, overhead, buffered: 4 << 20 }
    }
}

/// What a migration is expected to take.
///
/// The model is that of pre-copy: in each round goes over what was written in the one before, so that round i has to send
/// V_i = V_0 · λ^i with λ = dirty rate / bandwidth (Clark et al., Live Migration of Virtual Machines, NSDI 2005), never more than
/// the working set; the machine stops as soon as the rest can go over within the downtime that is allowed. So far QEMU 7.2 was seen to
/// do the same, to the byte counts that it reports for the time that a machine stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Estimate {
    /// Whether it ends by itself.
    pub converges: bool,
    /// Rounds while it runs; if it does not converge, those until it no longer comes nearer.
    pub rounds: u32,
    /// What goes over the wire, in bytes.
    pub bytes: u64,
    /// From its start to its end on the target.
    pub duration: Duration,
    /// How long it stands still; if it does not converge, how long it would, were it stopped.
    pub downtime: Duration,
    /// How much of its time, in percent, its guest would have to be kept from running for that to converge.
    pub throttle: u8,
    /// What it was reckoned from: what the guest writes, in bytes a second,
    pub dirty_rate: u64,
    /// and what goes over.
    pub bandwidth: u64,
}

/// What is sent of a page of zeros of 4 KiB: its address and a mark.
const ZERO_PAGE: u64 = 9;

/// Rounds after which one that comes nearer too slowly is taken for one that never ends: with λ = 0.9 a megabyte is left of a
/// terabyte after 130.
const ROUNDS: u32 = 130;

impl Estimate {
    /// Of a machine that may stand still for `downtime`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use lb_virt::Memory;
    /// use lb_virt::migration::{Demand, Estimate, Link};
    ///
    /// let gigabit = Link::of(125_000_000);
    /// let machine = Demand {
    ///     memory: Memory::from_mib(1024),
    ///     used: Memory::from_mib(1024),
    ///     dirty_rate: 50_000_000,
    ///     working_set: None,
    /// };
    /// let estimate = Estimate::new(&machine, &gigabit, Duration::from_millis(300));
    /// assert!(estimate.converges);
    /// assert_eq!(estimate.duration.as_secs(), 14); // 8.6 s / (1 − 0.4)
    ///
    /// let busy = Demand { dirty_rate: 200_000_000, ..machine };
    /// let estimate = Estimate::new(&busy, &gigabit, Duration::from_millis(300));
    /// assert!(!estimate.converges);
    /// assert_eq!(estimate.throttle, 44);
    /// ```
    #[must_use]
    pub fn new(demand: &Demand, link: &Link, downtime: Duration) -> Self {
        let bytes = |memory: Memory| memory.bytes() as f64;
        let bandwidth = link.bandwidth.max(1) as f64;
        let (memory, rate) = (bytes(demand.memory), demand.dirty_rate as f64);
        let used = bytes(demand.used).min(memory);
        let most_dirty = demand.working_set.map_or(memory, bytes).min(memory);
        let lambda = rate / bandwidth;
        // What may still be there when the machine stops.
        let enough = bandwidth * downtime.as_secs_f64();
        let zeros = memory - used;

        let mut rounds = 1;
        let mut seconds = zeros / link.scan.max(1) as f64;
        let mut sent = zeros / 4096.0 * ZERO_PAGE as f64;
        // The first round sends all, and each other what was written in the one before.
        let mut volume = used;
        let converges = loop {
            let during = volume / bandwidth + if rounds == 1 { seconds } else { 0.0 };
            let written = (rate * during).min(most_dirty);
            if written <= enough {
                // It stops within the round, as soon as what is left of it and what was written are little enough together. In the
                // first one zeros come last, as a rule, and are gone at once.
                let left = if rounds == 1 && zeros > enough {
                    0.0
                } else if written < most_dirty {
                    (enough - written) / (1.0 - lambda).max(0.01)
                } else {
                    enough - written
                };
                let left = left.clamp(0.0, volume);
                seconds += (volume - left) / bandwidth;
                sent += volume - left;
                volume = (left + written).min(enough);
                break true;
            }
            seconds += volume / bandwidth;
            sent += volume;
            // Written faster than sent, or as fast: it comes no nearer.
            let nearer = rounds == 1 || written < volume * 0.999;
            volume = written;
            if !nearer || rounds == ROUNDS {
                break false;
            }
            rounds += 1;
        };
        let overhead = link.overhead.as_secs_f64();
        let rest = volume / link.unlimited.max(1) as f64 + overhead;
        // What was sent before and has not gone over: the whole takes no longer for it.
        let buffered = (link.buffered as f64 / bandwidth).min(seconds);
        let still = rest + buffered;
        // As much less as lets a tenth of the bandwidth be gained on it.
        let throttle = if converges { 0.0 } else { (1.0 - 0.9 * bandwidth / rate.max(1.0)).clamp(0.0, 0.99) };
        Self {
            converges,
            rounds,
            bytes: (sent + volume) as u64,
            duration: Duration::try_from_secs_f64(seconds + rest + overhead).unwrap_or(Duration::MAX),
            downtime: Duration::try_from_secs_f64(still).unwrap_or(Duration::MAX),
            throttle: (throttle * 100.0).round() as u8,
            dirty_rate: demand.dirty_rate,
            bandwidth: link.bandwidth,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIGABIT: u64 = 125_000_000;
    const SHORT: Duration = Duration::from_millis(300);

    fn machine(mib: u64, dirty_rate: u64) -> Demand {
        let memory = Memory::from_mib(mib);
        Demand { memory, used: memory, dirty_rate, working_set: None }
    }

    #[test]
    fn what_is_idle_goes_over_once() {
        let estimate = Estimate::new(&machine(1024, 0), &Link::of(GIGABIT), SHORT);
        assert!(estimate.converges && estimate.rounds == 1);
        // 2^30 B / 125 MB/s, and twice the overhead; the last 300 ms of it stopped.
        assert_eq!(estimate.duration.as_millis(), 8589 + 4);
        // And what waits in sockets: 4 MiB, 33.6 ms.
        assert_eq!(estimate.downtime.as_millis(), 300 + 33 + 2);
        // Half of it zeros: they come last, and take 67.1 ms.
        let half = Demand { used: Memory::from_mib(512), ..machine(1024, 0) };
        let estimate = Estimate::new(&half, &Link::of(GIGABIT), SHORT);
        assert_eq!((estimate.duration.as_millis(), estimate.downtime.as_millis()), (4294 + 68 + 4, 33 + 2));
    }

    /// 256 MiB under QEMU 7.2, over a unix socket: what it reported.
    #[test]
    fn qemu_reports_the_same() {
        // MiB that are used, and written again and again, at so many bytes a second; the limit in MiB/s: ms in all, and MB while it
        // stood still.
        for (used, rate, limit, total, last) in
            [(128, 40_960_000, 200, 643, 25.4), (64, 122_880_000, 200, 338, 39.4), (128, 0, 100, 1247, 0.0)]
        {
            // QEMU held itself to the limit: nothing waited in sockets.
            let link = Link { buffered: 0, ..Link::of(limit << 20) };
            let (memory, used) = (Memory::from_mib(256), Memory::from_mib(used));
            let demand = Demand { memory, used, dirty_rate: rate, working_set: Some(used) };
            let estimate = Estimate::new(&demand, &link, SHORT);
            let duration = estimate.duration.as_secs_f64() * 1e3 - estimate.downtime.as_secs_f64() * 1e3;
            assert!(estimate.converges, "{estimate:?}");
            assert!((0.9..1.1).contains(&(duration / f64::from(total))), "{total}: {estimate:?}");
            let still = (estimate.downtime - link.overhead).as_secs_f64() * link.unlimited as f64 / 1e6;
            assert!((still - last).abs() <= 0.15 * last + 0.1, "{last}: {still}");
        }
    }

    #[test]
    fn rounds_shrink_by_lambda() {
        // λ = 1/2: 8.6 s, 4.3, 2.1, 1.1, and so much of the 0.5 that 0.3 are left.
        let estimate = Estimate::new(&machine(1024, GIGABIT / 2), &Link::of(GIGABIT), SHORT);
        assert!(estimate.converges && estimate.rounds == 5, "{estimate:?}");
        assert!((16.0..17.5).contains(&estimate.duration.as_secs_f64()), "{estimate:?}");
    }

    #[test]
    fn a_small_working_set_goes_over_at_the_end_however_fast_it_is_written() {
        let busy = Demand { working_set: Some(Memory::from_mib(16)), ..machine(1024, 10 * GIGABIT) };
        let estimate = Estimate::new(&busy, &Link::of(GIGABIT), SHORT);
        assert!(estimate.converges && estimate.rounds <= 2, "{estimate:?}");
        let large = Demand { working_set: Some(Memory::from_mib(64)), ..busy };
        let estimate = Estimate::new(&large, &Link::of(GIGABIT), SHORT);
        assert!(!estimate.converges, "{estimate:?}");
        // 64 MiB at 125 MB/s, were it stopped, and the 4 before.
        assert_eq!(estimate.downtime.as_millis(), 536 + 2 + 34);
        assert_eq!(estimate.throttle, 91);
    }

    proptest! {
        #[test]
        fn more_to_do_never_takes_less(
            mib in 1_u64..1_000_000, used in 0_u64..=100, rate in 0_u64..10_000_000_000,
            bandwidth in 1_000_000_u64..100_000_000_000, downtime in 1_u64..10_000,
        ) {
            let memory = Memory::from_mib(mib);
            let demand = Demand { memory, used: Memory::from_kib(memory.kib() * used / 100), dirty_rate: rate, working_set: None };
            let (link, downtime) = (Link::of(bandwidth), Duration::from_millis(downtime));
            let estimate = Estimate::new(&demand, &link, downtime);
            prop_assert!(estimate.duration >= estimate.downtime);
            prop_assert!(estimate.throttle <= 99);
            let idle = Estimate::new(&Demand { dirty_rate: 0, ..demand }, &link, downtime);
            prop_assert!(idle.converges && idle.rounds == 1);
            prop_assert!(idle.duration <= estimate.duration && idle.bytes <= estimate.bytes);
            // What is written at less than 0.8 of the bandwidth always gets over.
            if (rate as f64) < 0.8 * bandwidth as f64 {
                prop_assert!(estimate.converges);
                let buffered = Duration::from_secs_f64(link.buffered as f64 / bandwidth as f64);
                prop_assert!(estimate.downtime <= downtime + link.overhead + buffered + Duration::from_micros(1));
            }
        }
    }
}
