//! `affinity watch`: who is interrupted, and by what.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lb_affinity::fs::Real;
use lb_affinity::interrupts::{Interrupts, InterruptsError, Rates, Softirqs};

use crate::Fatal;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// How many looks; without end if it is not given
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The busiest interrupts that are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("it must be from 0.01 to 3600".into()) }
}

/// Counters that can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(transparent)]
    Interrupts(#[from] InterruptsError),
}

/// The kinds of soft interrupts that network work makes.
const KINDS: [&str; 2] = ["NET_RX", "NET_TX"];

struct Sample {
    at: Instant,
    interrupts: Interrupts,
    softirqs: Softirqs,
}

impl Sample {
    fn take() -> Result<Self, WatchError> {
        let (interrupts, softirqs) = (Interrupts::read(&Real)?, Softirqs::read(&Real)?);
        Ok(Self { at: Instant::now(), interrupts, softirqs })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Fatal> {
    let mut before = Sample::take()?;
    let mut looks = 0;
    while arguments.count.is_none_or(|count| looks < count) {
        thread::sleep(Duration::from_secs_f64(arguments.interval));
        let after = Sample::take()?;
        let text = show(&before, &after, arguments.top)?;
        let mut out = io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()?;
        before = after;
        looks += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// A table of the CPUs, and one of the busiest interrupts. All figures are per second.
fn show(before: &Sample, after: &Sample, top: usize) -> Result<String, WatchError> {
    let elapsed = after.at - before.at;
    let rates = Rates::between(&before.interrupts, &after.interrupts, elapsed)?;
    let mut soft = Vec::new();
    for kind in KINDS {
        soft.push(after.softirqs.rates(&before.softirqs, kind, elapsed)?);
    }
    let mut text =
        format!("{:>6} {:>12} {:>12} {:>12} {:>12}\n", "CPU", "interrupts", "devices", KINDS[0], KINDS[1]);
    for cpu in &rates.cpus {
        let of = |rates: &[(u32, f64)]| {
            rates.iter().find(|(other, _)| *other == cpu.cpu).map_or(0.0, |&(_, rate)| rate)
        };
        text += &format!(
            "{:>6} {:>12.0} {:>12.0} {:>12.0} {:>12.0}\n",
            cpu.cpu,
            cpu.all,
            cpu.devices,
            of(&soft[0]),
            of(&soft[1])
        );
    }
    let mut busiest: Vec<_> = rates.interrupts.iter().filter(|rate| !rate.per_cpu).collect();
    busiest.sort_by(|one, other| other.total().total_cmp(&one.total()));
    for rate in busiest.into_iter().take(top).filter(|rate| rate.total() > 0.0) {
        let name = rate
            .irq
            .and_then(|irq| after.interrupts.get(irq))
            .map_or(String::new(), |(line, _)| line.actions.join(", "));
        let on: Vec<String> = rate.on.iter().map(|(cpu, _)| cpu.to_string()).collect();
        text += &format!("{:>6} {:>12.0}  on CPU {}  {name}\n", rate.label, rate.total(), on.join(", "));
    }
    text.push('\n');
    Ok(text)
}
