//! The intervals of both versions (RFC 3768 §6.1, RFC 9568 §6.1), to the microsecond.

use core::time::Duration;

use crate::wire::{Interval, Version};

/// By how much a router of `priority` waits longer than the best possible one, so that the better is first.
///
/// Version 2: (256 − priority) / 256 s; version 3: (256 − priority) · interval / 256, of the learned interval.
///
/// ```
/// use lb_vrrp::timer::skew_time;
/// use lb_vrrp::wire::{Interval, Version};
///
/// let second = Interval::from_seconds(1)?;
/// assert_eq!(skew_time(Version::V3, 100, second).as_micros(), 609_375);
/// # Ok::<(), lb_vrrp::wire::IntervalError>(())
/// ```
#[must_use]
pub const fn skew_time(version: Version, priority: u8, interval: Interval) -> Duration {
    let interval_micros = match version {
        Version::V2 => 1_000_000,
        Version::V3 => interval.centiseconds() as u64 * 10_000,
    };
    Duration::from_micros((256 - priority as u64) * interval_micros / 256)
}

/// How long a router of `priority` in Backup hears nothing before it takes over: three intervals and the skew time.
#[must_use]
pub const fn master_down_interval(version: Version, priority: u8, interval: Interval) -> Duration {
    let skew = skew_time(version, priority, interval).as_micros() as u64;
    Duration::from_micros(3 * interval.centiseconds() as u64 * 10_000 + skew)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intervals_are_those_of_the_rfcs() {
        // Version, priority, centiseconds, skew and master-down in microseconds.
        let table = [
            (Version::V2, 100, 100, 609_375, 3_609_375),
            (Version::V2, 100, 500, 609_375, 15_609_375),
            (Version::V2, 255, 100, 3_906, 3_003_906),
            (Version::V2, 1, 100, 996_093, 3_996_093),
            (Version::V3, 100, 100, 609_375, 3_609_375),
            (Version::V3, 100, 10, 60_937, 360_937),
            (Version::V3, 100, 1, 6_093, 36_093),
            (Version::V3, 254, 4_095, 319_921, 123_169_921),
        ];
        for (version, priority, centiseconds, skew, down) in table {
            let interval = Interval::from_centiseconds(centiseconds).unwrap();
            assert_eq!(skew_time(version, priority, interval).as_micros(), skew);
            assert_eq!(master_down_interval(version, priority, interval).as_micros(), down);
        }
    }
}
