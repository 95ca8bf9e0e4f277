//! What machines use: of their virtual CPUs, of memory, of disks and networks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use lb_virt::hypervisor::Statistics;

use crate::Failure;
use crate::host::Host;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these [default: all that run]
    names: Vec<String>,
    /// Again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// How long each look takes
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1s", value_name = "TIME")]
    interval: Duration,
    /// End after so many looks
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// Totals since the start, as JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
}

type Samples = BTreeMap<String, Statistics>;

/// Looks once or again and again.
pub(crate) fn run(host: &mut Host, arguments: &Arguments) -> Result<String, Failure> {
    let mut before = sample(host, arguments)?;
    if arguments.json {
        return Ok(serde_json::to_string_pretty(&before)? + "\n");
    }
    let mut left = if arguments.watch { arguments.count } else { Some(1) };
    let mut at = Instant::now();
    loop {
        host.rest(arguments.interval)?;
        let after = sample(host, arguments)?;
        let passed = at.elapsed();
        at = Instant::now();
        let text = table(&before, &after, passed)?;
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) {
            return Ok(text);
        }
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            // Nobody reads any more.
            return Ok(String::new());
        }
        before = after;
    }
}

fn sample(host: &mut Host, arguments: &Arguments) -> Result<Samples, Failure> {
    let machines = host.get();
    let names: Vec<String> = if arguments.names.is_empty() {
        let running = machines.list()?.into_iter().filter(|machine| machine.state.is_active());
        running.map(|machine| machine.name).collect()
    } else {
        arguments.names.clone()
    };
    names.into_iter().map(|name| Ok((name.clone(), machines.statistics(&name)?))).collect()
}

/// What was used between two samples, a second.
fn table(before: &Samples, after: &Samples, passed: Duration) -> Result<String, Failure> {
    if after.is_empty() {
        return Ok("no machine runs\n".into());
    }
    let width = after.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:>6}  {:>10}  {:>11}  {:>11}  {:>11}  {:>11}\n",
        "NAME", "CPU", "MEMORY", "READ/s", "WRITTEN/s", "RECEIVED/s", "SENT/s"
    );
    let seconds = passed.as_secs_f64().max(f64::EPSILON);
    for (name, now) in after {
        let nothing = Statistics::default();
        let then = before.get(name).unwrap_or(&nothing);
        let rate =
            |now: u64, then: u64| format!("{:.1} KiB", now.saturating_sub(then) as f64 / 1024.0 / seconds);
        let disks = |of: &Statistics| {
            of.disks.values().fold((0, 0), |(read, written): (u64, u64), disk| {
                (read.saturating_add(disk.read_bytes), written.saturating_add(disk.written_bytes))
            })
        };
        let ((read, written), (read_then, written_then)) = (disks(now), disks(then));
        let load = if before.contains_key(name) { now.load_since(then, passed, now.vcpus) } else { 0.0 };
        writeln!(
            text,
            "{name:<width$}  {:>4.0} %  {:>10}  {:>11}  {:>11}  {:>11}  {:>11}",
            100.0 * load,
            now.memory.to_string(),
            rate(read, read_then),
            rate(written, written_then),
            rate(now.net.received_bytes, then.net.received_bytes),
            rate(now.net.sent_bytes, then.net.sent_bytes),
        )?;
    }
    Ok(text)
}
