//! What was counted, and how it is told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Reply;

/// The counts of one thread, or of all.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    latency: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    bytes: u64,
    connections: u64,
}

impl Default for Tally {
    fn default() -> Self {
        // Nanoseconds up to an hour, to three digits: 250 KiB.
        let latency = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("these bounds are in order");
        Self { latency, statuses: BTreeMap::new(), errors: BTreeMap::new(), bytes: 0, connections: 0 }
    }
}

impl Tally {
    /// Counts one request; says whether it failed. Only what was answered has a latency.
    pub(crate) fn record(&mut self, outcome: Result<Reply, String>, latency: Duration) -> bool {
        match outcome {
            Ok(Reply { status, bytes }) => {
                self.latency.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
                *self.statuses.entry(status).or_default() += 1;
                self.bytes += bytes;
                is_failure(status)
            }
            Err(words) => {
                *self.errors.entry(words).or_default() += 1;
                true
            }
        }
    }

    pub(crate) fn add_connections(&mut self, count: u64) {
        self.connections += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("both histograms have the same bounds");
        self.bytes += other.bytes;
        self.connections += other.connections;
        for (&status, count) in &other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (words, count) in &other.errors {
            *self.errors.entry(words.clone()).or_default() += count;
        }
    }

    /// The figures of a run that took `time`.
    pub(crate) fn summary(&self, url: String, n: Option<u64>, time: Duration) -> Summary {
        let answered: u64 = self.statuses.values().sum();
        let errors: u64 = self.errors.values().sum();
        let refused: u64 =
            self.statuses.iter().filter(|(status, _)| is_failure(**status)).map(|(_, n)| n).sum();
        let seconds = time.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let millis = |nanos: f64| nanos / 1e6;
        let quantile = |quantile| millis(self.latency.value_at_quantile(quantile) as f64);
        Summary {
            url,
            n,
            requests: answered + errors,
            failed: refused + errors,
            seconds,
            requests_per_second: per_second(answered),
            bytes_per_second: per_second(self.bytes),
            connections: self.connections,
            latency_ms: Latency {
                mean: millis(self.latency.mean()),
                p50: quantile(0.5),
                p75: quantile(0.75),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: millis(self.latency.max() as f64),
            },
            statuses: self.statuses.clone(),
            errors: self.errors.clone(),
        }
    }
}

/// An answer, but not what was asked for.
fn is_failure(status: u16) -> bool {
    !(200..400).contains(&status)
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    url: String,
    /// The sweep's n.
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
    /// Answered and failed ones.
    requests: u64,
    /// No answer, or a status outside 200 to 399.
    pub(crate) failed: u64,
    seconds: f64,
    /// Answered ones.
    requests_per_second: f64,
    /// Of bodies.
    bytes_per_second: f64,
    /// Opened in the whole run.
    connections: u64,
    latency_ms: Latency,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p75: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failed, seconds, requests_per_second, bytes_per_second, connections, .. } = self;
        let Latency { mean, p50, p75, p90, p99, p999, max } = self.latency_ms;
        let mebibytes = bytes_per_second / f64::from(1 << 20);
        writeln!(
            f,
            "requests   {requests} in {seconds:.2} s over {connections} connections, {failed} failed"
        )?;
        writeln!(f, "rate       {requests_per_second:.1} requests/s, {mebibytes:.2} MiB/s")?;
        writeln!(
            f,
            "latency    mean {mean:.3} ms, p50 {p50:.3}, p75 {p75:.3}, p90 {p90:.3}, p99 {p99:.3}, p99.9 {p999:.3}, \
             max {max:.3}"
        )?;
        let statuses = self.statuses.iter().map(|(status, count)| format!("{status}: {count}"));
        writeln!(f, "statuses   {}", or_none(statuses.collect::<Vec<_>>().join(", ")))?;
        let errors = self.errors.iter().map(|(words, count)| format!("{words}: {count}"));
        writeln!(f, "errors     {}", or_none(errors.collect::<Vec<_>>().join(", ")))
    }
}

fn or_none(list: String) -> String {
    if list.is_empty() { "none".into() } else { list }
}

impl Summary {
    /// The heads of a sweep's columns.
    pub(crate) fn heads() -> String {
        format!(
            "{:>12} {:>9} {:>7} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "n", "requests", "failed", "requests/s", "mean ms", "p50 ms", "p90 ms", "p99 ms", "max ms"
        )
    }

    /// Its line in a sweep's table.
    pub(crate) fn line(&self) -> String {
        let Self { requests, failed, requests_per_second, .. } = self;
        let Latency { mean, p50, p90, p99, max, .. } = self.latency_ms;
        let n = self.n.unwrap_or_default();
        format!(
            "{n:>12} {requests:>9} {failed:>7} {requests_per_second:>12.2} {mean:>10.3} {p50:>10.3} {p90:>10.3} \
             {p99:>10.3} {max:>10.3}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let mut tally = Tally::default();
        let mut other = Tally::default();
        for (status, millis, failed) in
            [(200, 10, false), (204, 20, false), (302, 30, false), (404, 40, true)]
        {
            let outcome = Ok(Reply { status, bytes: 100 });
            assert_eq!(tally.record(outcome, Duration::from_millis(millis)), failed, "{status}");
        }
        for words in ["reset", "reset", "refused"] {
            assert!(other.record(Err(words.into()), Duration::from_secs(1)));
        }
        other.record(Ok(Reply { status: 200, bytes: 100 }), Duration::from_millis(50));
        other.add_connections(3);
        tally.merge(&other);
        let summary = tally.summary("http://localhost/".into(), Some(7), Duration::from_secs(2));
        assert_eq!((summary.requests, summary.failed, summary.connections), (8, 4, 3));
        assert_eq!((summary.requests_per_second, summary.bytes_per_second), (2.5, 250.0));
        assert_eq!(summary.statuses, BTreeMap::from([(200, 2), (204, 1), (302, 1), (404, 1)]));
        assert_eq!(summary.errors, BTreeMap::from([("refused".into(), 1), ("reset".into(), 2)]));
        let Latency { mean, p50, max, .. } = summary.latency_ms;
        // The histogram keeps three digits.
        for (got, wanted) in [(mean, 30.0), (p50, 30.0), (max, 50.0)] {
            assert!((got / wanted - 1.0).abs() < 0.002, "{got} is not {wanted}");
        }
        let text = summary.to_string();
        assert!(text.contains("8 in 2.00 s over 3 connections, 4 failed"), "{text}");
        assert!(text.contains("errors     refused: 1, reset: 2\n"), "{text}");
        assert_eq!(summary.line().split_whitespace().take(4).collect::<Vec<_>>(), ["7", "8", "4", "2.50"]);
        assert_eq!(summary.line().len(), Summary::heads().len());
    }

    #[test]
    fn nothing_measured_is_all_zero() {
        let summary = Tally::default().summary("http://localhost/".into(), None, Duration::ZERO);
        assert_eq!((summary.requests, summary.requests_per_second, summary.latency_ms.p99), (0, 0.0, 0.0));
        assert!(summary.to_string().contains("statuses   none"), "{summary}");
    }
}
