//! The client: Debian's `wrk`, one thread, all connections kept alive.

use super::cpu::Places;
use super::package::{Directory, find};
use super::{DirectorError, Run};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Makes wrk report in one line: requests, µs, failed requests, p50 and p99 in µs.
const SCRIPT: &str = r#"
function done(summary, latency, requests)
    local e = summary.errors
    print(string.format("LB %d %d %d %d %d", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99)))
end
"#;

/// A client that can be sent against an address.
pub(super) struct Wrk<'a> {
    program: PathBuf,
    script: PathBuf,
    places: &'a Places,
}

/// What it reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Report {
    pub(super) requests: f64,
    seconds: f64,
    failed: u64,
    p50: f64,
    p99: f64,
}

impl<'a> Wrk<'a> {
    pub(super) fn new(directory: &Directory, places: &'a Places) -> Result<Self, DirectorError> {
        let program = find("wrk", "wrk")?;
        let script = directory.write("report.lua", SCRIPT)?;
        Ok(Self { program, script, places })
    }

    /// Loads `address` for `length`.
    pub(super) fn run(
        &self,
        address: SocketAddr,
        connections: u16,
        length: Duration,
    ) -> Result<Report, DirectorError> {
        let output = self
            .places
            .other(&self.program)
            .args(["--threads", "1", "--timeout", "10s"])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{}s", length.as_secs())])
            .arg("--script")
            .arg(&self.script)
            .arg(format!("http://{address}/index.html"))
            .output()
            .map_err(DirectorError::io("start wrk"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(report) = text.lines().find_map(Report::parse).filter(|report| report.requests > 0.0) else {
            let output = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
            return Err(DirectorError::Wrk { address, output });
        };
        match report.failed {
            0 => Ok(report),
            failed => Err(DirectorError::Failed { address, failed, requests: report.requests as u64 }),
        }
    }
}

impl Report {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<u64> =
            line.strip_prefix("LB ")?.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [requests, micros, failed, p50, p99] = numbers[..] else { return None };
        Some(Self {
            requests: requests as f64,
            seconds: micros as f64 / 1e6,
            failed,
            p50: p50 as f64,
            p99: p99 as f64,
        })
    }
}

impl From<Report> for Run {
    /// Without processor time, which the client does not see.
    fn from(report: Report) -> Self {
        Self { rate: report.requests / report.seconds, p50: report.p50, p99: report.p99, cpu: f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = Report::parse("LB 30000 2000000 0 900 2100").unwrap();
        assert_eq!(Run::from(report).rate, 15000.0);
        assert_eq!((report.p50, report.p99, report.failed), (900.0, 2100.0, 0));
        assert_eq!(Report::parse("LB 1 2 3"), None);
        assert_eq!(Report::parse("Requests/sec: 5"), None);
    }
}
