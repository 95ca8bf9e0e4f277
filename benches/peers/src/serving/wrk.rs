//! The client: Debian's `wrk`, all connections kept alive.

use super::cpu::Places;
use super::package::{Directory, find};
use super::process::output_within;
use super::{Proxy, ServingError, Stop};
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

/// How long wrk may take beyond its time: it gives up on an answer after 10 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client that can be sent against an address.
pub(crate) struct Wrk<'a> {
    program: PathBuf,
    script: PathBuf,
    places: &'a Places,
    stop: &'a Stop,
    threads: usize,
}

/// What one run of the client against one address showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Half of the answers took at most this long, in µs.
    pub(crate) p50: f64,
    /// 99 of 100 answers took at most this long, in µs.
    pub(crate) p99: f64,
    /// Seconds of the proxy's processor time for a million requests; not a number where there is no proxy.
    pub(crate) cpu: f64,
}

/// One of a run's figures.
pub(crate) type Figure = fn(&Run) -> f64;

/// What wrk reports.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Report {
    requests: f64,
    seconds: f64,
    failed: u64,
    p50: f64,
    p99: f64,
}

impl<'a> Wrk<'a> {
    /// A client of so many threads, which a signal stops.
    ///
    /// # Errors
    /// [`ServingError::Missing`], or the file system's.
    pub(crate) fn new(
        directory: &Directory,
        places: &'a Places,
        stop: &'a Stop,
        threads: usize,
    ) -> Result<Self, ServingError> {
        let program = find("wrk", "wrk")?;
        let script = directory.write("report.lua", SCRIPT)?;
        Ok(Self { program, script, places, stop, threads })
    }

    /// Loads a proxy for `length`, in whole seconds.
    ///
    /// # Errors
    /// [`ServingError`]: no report in time, failed requests, or a signal.
    pub(crate) fn load(
        &self,
        proxy: &Proxy,
        connections: usize,
        length: Duration,
    ) -> Result<Run, ServingError> {
        let before = proxy.cpu_seconds()?;
        let report = self.report(proxy.address(), connections, length)?;
        let cpu = (proxy.cpu_seconds()? - before) * 1e6 / report.requests;
        Ok(Run { cpu, ..Run::from(report) })
    }

    /// Loads whoever listens on `address`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn run(
        &self,
        address: SocketAddr,
        connections: usize,
        length: Duration,
    ) -> Result<Run, ServingError> {
        self.report(address, connections, length).map(Run::from)
    }

    fn report(
        &self,
        address: SocketAddr,
        connections: usize,
        length: Duration,
    ) -> Result<Report, ServingError> {
        let seconds = length.as_secs();
        let mut command = self.places.client_command(&self.program);
        command
            .args(["--threads", &self.threads.to_string(), "--timeout", "10s"])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{seconds}s")])
            .arg("--script")
            .arg(&self.script)
            .arg(format!("http://{address}/index.html"));
        let overdue = || ServingError::Overdue { address, seconds, limit: PATIENCE.as_secs() };
        let output = output_within(command, length + PATIENCE, self.stop)?.ok_or_else(overdue)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(report) = text.lines().find_map(Report::parse).filter(|report| report.requests > 0.0) else {
            // What Ctrl-C at a terminal ends is wrk too.
            self.stop.check()?;
            let output = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
            return Err(ServingError::Wrk { address, output });
        };
        match report.failed {
            0 => Ok(report),
            failed => Err(ServingError::Failed { address, failed, requests: report.requests as u64 }),
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
