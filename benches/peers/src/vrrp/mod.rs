//! `vrrp`: failover on the wire, ours beside Debian's keepalived, in network namespaces and interleaved.
//!
//! The capture sits on the bridge between the routers and has the kernel's times. *Overhead* is the time from the last advert of
//! the killed router to the first of the other, less the master-down interval that the protocol asks for.

mod failover;
mod floor;
/// The laboratory of the tests.
#[path = "../../../../lb-vrrp/tests/lab/mod.rs"]
mod lab;
mod mass;

use clap::Args;
use lab::Program;
use lb_vrrp::wire::Version;

pub(crate) use lab::{a_router as be_router, is_router};

use crate::row::Row;
use failover::Timing;

const OURS: usize = 0;
const PEER: usize = 1;
const PROGRAMS: [Program; 2] = [Program::Ours, Program::Keepalived];

/// What of it to measure.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Only what has this in its name: "v3 1 cs", "v3 10 cs", "v2 1 s", "mass".
    #[arg(long)]
    only: Option<String>,
    /// Rounds of the mass takeover: 255 routers with 80 addresses each.
    #[arg(long, default_value_t = 3)]
    mass_rounds: u64,
    /// Both programs under SCHED_RR with this priority (keepalived's `vrrp_rt_priority`); they are not without it.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=99))]
    realtime: Option<u8>,
}

/// Measures all, with `rounds` failovers a program and timing.
pub(crate) fn run(settings: &Settings, rounds: usize) -> Vec<Row> {
    let peer = keepalived_version();
    let wanted = |name: &str| settings.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    // The long one waits most of its time: several pairs do it side by side.
    for (name, version, centiseconds, pairs) in
        [("v3 1 cs", Version::V3, 1, 1), ("v3 10 cs", Version::V3, 10, 1), ("v2 1 s", Version::V2, 100, 5)]
    {
        if wanted(name) {
            let timing = Timing { version, centiseconds, pairs };
            rows.extend(failover::run(name, timing, settings.realtime, rounds, &peer));
        }
    }
    if wanted("mass") {
        rows.extend(mass::run(settings.mass_rounds, settings.realtime, &peer));
    }
    rows
}

/// "Keepalived v2.2.7".
fn keepalived_version() -> String {
    let output = std::process::Command::new("keepalived").arg("--version").output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let words = String::from_utf8_lossy(&text).split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    words.to_lowercase()
}

/// The value below which a share of the samples lies; not a number for none.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Median and p99 of ours and of the peer's.
fn rows(name: &str, unit: &'static str, samples: &[Vec<f64>; 2], peer: &str) -> [Row; 2] {
    [("median", 0.5), ("p99", 0.99)].map(|(what, share)| {
        let [ours, theirs] = samples.each_ref().map(|samples| quantile(samples, share));
        Row::new(&format!("{name}, {what}"), samples[OURS].len() as u64, unit, ours, theirs, peer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&samples, share)), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
