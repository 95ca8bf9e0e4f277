//! `affinity watch`: who is interrupted, and by what.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lb_affinity::fs::Real;
use lb_affinity::interrupts::{Interrupts, InterruptsError, Rates, Softirqs};
use serde_json::{Value, json};

use crate::Fatal;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// How many tables; without end if it is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How many of the busiest interrupts are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// As JSON, an object a line
    #[arg(long)]
    json: bool,
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
        let look = Look::between(&before, &after, arguments.top)?;
        let text = if arguments.json { format!("{}\n", look.as_json()) } else { look.table() };
        let mut out = io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()?;
        before = after;
        looks += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// What happened between two samples. All figures are per second.
struct Look {
    /// How long it took, in seconds.
    seconds: f64,
    cpus: Vec<Cpu>,
    interrupts: Vec<Interrupt>,
}

struct Cpu {
    cpu: u32,
    interrupts: f64,
    devices: f64,
    /// Of each of [`KINDS`].
    soft: [f64; KINDS.len()],
}

/// One of the busiest.
struct Interrupt {
    label: String,
    names: Vec<String>,
    rate: f64,
    on: Vec<u32>,
}

impl Look {
    fn between(before: &Sample, after: &Sample, top: usize) -> Result<Self, WatchError> {
        let elapsed = after.at - before.at;
        let rates = Rates::between(&before.interrupts, &after.interrupts, elapsed)?;
        let mut soft = Vec::new();
        for kind in KINDS {
            soft.push(after.softirqs.rates(&before.softirqs, kind, elapsed)?);
        }
        let of = |kind: usize, cpu: u32| {
            soft[kind].iter().find(|(other, _)| *other == cpu).map_or(0.0, |&(_, rate)| rate)
        };
        let cpus = rates.cpus.iter().map(|cpu| Cpu {
            cpu: cpu.cpu,
            interrupts: cpu.all,
            devices: cpu.devices,
            soft: std::array::from_fn(|kind| of(kind, cpu.cpu)),
        });
        let mut busiest: Vec<_> =
            rates.interrupts.iter().filter(|rate| !rate.per_cpu && rate.total() > 0.0).collect();
        busiest.sort_by(|one, other| other.total().total_cmp(&one.total()));
        let interrupts = busiest.into_iter().take(top).map(|rate| Interrupt {
            label: rate.label.clone(),
            names: rate
                .irq
                .and_then(|irq| after.interrupts.get(irq))
                .map_or(Vec::new(), |(line, _)| line.actions.clone()),
            rate: rate.total(),
            on: rate.on.iter().map(|(cpu, _)| *cpu).collect(),
        });
        Ok(Self { seconds: elapsed.as_secs_f64(), cpus: cpus.collect(), interrupts: interrupts.collect() })
    }

    /// A table of the CPUs, and one of the busiest interrupts.
    fn table(&self) -> String {
        let mut text = format!(
            "{:>6} {:>12} {:>12} {:>12} {:>12}\n",
            "CPU", "interrupts", "devices", KINDS[0], KINDS[1]
        );
        for Cpu { cpu, interrupts, devices, soft: [rx, tx] } in &self.cpus {
            text += &format!("{cpu:>6} {interrupts:>12.0} {devices:>12.0} {rx:>12.0} {tx:>12.0}\n");
        }
        for Interrupt { label, names, rate, on } in &self.interrupts {
            let on: Vec<String> = on.iter().map(ToString::to_string).collect();
            text += &format!("{label:>6} {rate:>12.0}  on CPU {}  {}\n", on.join(", "), names.join(", "));
        }
        text + "\n"
    }

    fn as_json(&self) -> Value {
        let cpus = self.cpus.iter().map(|Cpu { cpu, interrupts, devices, soft: [rx, tx] }| {
            json!({ "cpu": cpu, "interrupts": interrupts, "devices": devices, "net_rx": rx, "net_tx": tx })
        });
        let interrupts = self.interrupts.iter().map(|Interrupt { label, names, rate, on }| {
            json!({ "label": label, "names": names, "rate": rate, "cpus": on })
        });
        json!({
            "seconds": self.seconds,
            "cpus": Value::from_iter(cpus),
            "interrupts": Value::from_iter(interrupts),
        })
    }
}
