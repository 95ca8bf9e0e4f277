//! Latencies in buckets whose width grows with them: 1/8 of a power of two, so a percentile is within 12.5 %.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const STEPS: usize = 8;
/// Powers of two of microseconds: up to 2^31 µs, about 36 minutes.
const POWERS: usize = 32;
const BUCKETS: usize = STEPS * POWERS;

/// Counts of latencies, written by one worker and read by another thread.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64]>,
    total_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), total_micros: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one latency.
    pub(crate) fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
        self.total_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Adds what was counted to `counts`.
    pub(crate) fn add_to(&self, counts: &mut Counts) {
        for (sum, bucket) in counts.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        counts.total_micros += self.total_micros.load(Ordering::Relaxed);
    }
}

fn bucket(micros: u64) -> usize {
    // Below 8 µs each microsecond has a bucket of its own.
    let power = (u64::BITS - 1).saturating_sub(micros.leading_zeros()) as usize;
    if power < 3 {
        return micros as usize;
    }
    let step = (micros >> (power - 3)) as usize & (STEPS - 1);
    ((power - 2) * STEPS + step).min(BUCKETS - 1)
}

/// The least latency that falls into a bucket, in microseconds.
fn floor(bucket: usize) -> u64 {
    let (power, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    if power == 0 { step } else { (STEPS as u64 + step) << (power - 1) }
}

/// Counts at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    buckets: Box<[u64]>,
    total_micros: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), total_micros: 0 }
    }
}

impl Counts {
    /// What came between `earlier` and this.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self {
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
            total_micros: self.total_micros.saturating_sub(earlier.total_micros),
        }
    }

    /// The latency that `share` of all were below, in seconds; `None` when there were none.
    pub(crate) fn percentile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.buckets.iter().sum();
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some((floor(bucket) + floor(bucket + 1)) as f64 / 2e6)
    }

    /// The mean in seconds; `None` when there were none.
    pub(crate) fn mean(&self) -> Option<f64> {
        let total: u64 = self.buckets.iter().sum();
        (total > 0).then(|| self.total_micros as f64 / total as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_a_latency_is_within_an_eighth_of_its_bucket() {
        for micros in (0..5_000).chain([1 << 20, (1 << 31) - 1]) {
            let bucket = bucket(micros);
            assert!(floor(bucket) <= micros && micros < floor(bucket + 1), "{micros} in {bucket}");
            assert!(floor(bucket + 1) - floor(bucket) <= 1 + micros / 8, "{micros}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_what_came_since() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_secs(100));
        let mut before = Counts::default();
        histogram.add_to(&mut before);
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let mut after = Counts::default();
        histogram.add_to(&mut after);
        let recent = after.since(&before);
        for (share, expected) in [(0.5, 0.050), (0.99, 0.099)] {
            let got = recent.percentile(share).unwrap();
            assert!((got - expected).abs() < expected / 8.0, "{share}: {got}");
        }
        assert!((recent.mean().unwrap() - 0.0505).abs() < 1e-4);
        assert_eq!(Counts::default().percentile(0.5), None);
    }
}
