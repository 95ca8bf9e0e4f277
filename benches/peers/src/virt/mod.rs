//! `virt`: machines that are started and moved, beside what QEMU itself takes for it; estimates beside what QEMU then reports.

#[path = "../../../../lb-virt/tests/support/guest.rs"]
mod guest;
#[path = "../../../../lb-virt/tests/support/lab.rs"]
mod lab;
#[path = "../../../../lb-virt/tests/support/wire.rs"]
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use lab::Lab;
use lb_virt::migration::{
    Destination, Estimate, Link, Migration, MigrationError, Policy, Settings as Sending, Via,
};
use lb_virt::qemu::arguments::{Launch, arguments};
use lb_virt::qemu::qmp::Qmp;
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, Sim, VirtError};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::Common;
use crate::measure::median;
use crate::row::Row;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Only what has this in its name: "start", "move", "watch", "estimate", "sim".
    #[arg(long)]
    only: Option<String>,
}

/// What can't be measured with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VirtBenchError {
    #[error(transparent)]
    Virt(#[from] VirtError),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error("QEMU's address {0:?} is no TCP address")]
    Address(String),
    #[error("qemu-system-x86_64: {0}; install Debian's qemu-system-x86")]
    Qemu(std::io::Error),
    #[error("QEMU has not answered within {READY:?}")]
    Silent,
}

const NAME: &str = "m";
const MEMORY: Memory = Memory::from_mib(256);
const READY: Duration = Duration::from_secs(60);

/// Measures all.
pub(crate) fn run(settings: &Settings, common: &Common) -> Result<Vec<Row>, VirtBenchError> {
    let wanted = |name: &str| settings.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    if wanted("start") {
        rows.push(start(common.rounds(21))?);
    }
    if wanted("move") {
        rows.extend(idle(common.rounds(21))?);
    }
    if wanted("watch") {
        rows.push(watch()?);
    }
    if wanted("estimate") {
        rows.extend(estimates(common.rounds(3))?);
    }
    if wanted("sim") {
        rows.push(sim()?);
    }
    Ok(rows)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// From `start` to a machine that runs, beside the same QEMU until it can be talked to.
fn start(rounds: usize) -> Result<Row, VirtBenchError> {
    let lab = Lab::new();
    let mut host = lab.host("a");
    host.define(&lab.spec(NAME))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        host.start(NAME)?;
        ours.push(milliseconds(begun.elapsed()));
        host.power_off(NAME)?;
        theirs.push(milliseconds(alone(&lab, &host.spec(NAME)?)?));
    }
    Ok(Row::new(
        "start a machine",
        1,
        "ms",
        median(ours),
        median(theirs),
        "QEMU alone, until it can be talked to",
    ))
}

/// How long QEMU takes until its greeting, started by hand.
fn alone(lab: &Lab, spec: &DomainSpec) -> Result<Duration, VirtBenchError> {
    let socket = lab.path.join("alone.sock");
    let _ = std::fs::remove_file(&socket);
    let monitors: [&Path; 1] = [&socket];
    let launch = Launch { monitors: &monitors, paused: true, ..Launch::default() };
    let words = arguments(spec, &launch)?;
    let begun = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(VirtBenchError::Qemu)?;
    let took = loop {
        if Qmp::connect(&socket, READY).is_ok() {
            break Some(begun.elapsed());
        }
        if begun.elapsed() > READY {
            break None;
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    let _ = child.kill();
    let _ = child.wait();
    took.ok_or(VirtBenchError::Silent)
}

/// An idle machine there and back again: from `send` to the copy that runs, and with the target's start; beside what QEMU reports.
fn idle(rounds: usize) -> Result<Vec<Row>, VirtBenchError> {
    let lab = Lab::new();
    let (mut here, mut there) = (lab.host("a"), lab.host("b"));
    here.define(&lab.spec(NAME))?;
    here.start(NAME)?;
    lab.counts_beyond(NAME, 20);
    let (mut sent, mut whole, mut reported) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (running, defined) = (here.running_spec(NAME)?, here.spec(NAME)?);
        let begun = Instant::now();
        let to = there.receive(&running, &defined, &Via::Own)?;
        let ready = Instant::now();
        here.send(NAME, &to, &Sending::default())?;
        let report = Migration::of(NAME).resume(&mut here, &mut there, |_| None)?;
        sent.push(milliseconds(ready.elapsed()));
        whole.push(milliseconds(begun.elapsed()));
        reported.push(report.sample.map_or(f64::NAN, |sample| milliseconds(sample.elapsed)));
        std::mem::swap(&mut here, &mut there);
    }
    here.power_off(NAME)?;
    let [sent, whole, reported] = [sent, whole, reported].map(median);
    let row = |name: &str, ours| Row::new(name, MEMORY.mib(), "ms", ours, reported, "QEMU's own total");
    Ok(vec![row("move an idle machine, from send on", sent), row("the same, with the target's start", whole)])
}

/// A machine that uses so many MiB and writes so many pages of it a second, on a wire so fast, in bytes a second.
struct Busy {
    lab: Lab,
    here: Qemu,
    there: Qemu,
    wire: Option<wire::Wire>,
}

impl Busy {
    fn new(mib: u32, pages_a_second: u32) -> Result<Self, VirtBenchError> {
        let lab = Lab::new();
        let (mut here, there) = (lab.host("a"), lab.host("b"));
        let work = guest::Work { pages: mib * 256, dirty: pages_a_second / 100 };
        here.define(&lab::working_spec(&lab.images(), NAME, work))?;
        here.start(NAME)?;
        lab.counts_beyond(NAME, 100);
        Ok(Self { lab, here, there, wire: None })
    }

    /// Begins to send it.
    fn send(&mut self, rate: u64) -> Result<(), VirtBenchError> {
        let (running, defined) = (self.here.running_spec(NAME)?, self.here.spec(NAME)?);
        let via = Via::Tcp { address: Ipv4Addr::LOCALHOST.into(), port: 0, tls: None };
        let at = self.there.receive(&running, &defined, &via)?;
        let address = at.uri.strip_prefix("tcp:").and_then(|address| address.parse::<SocketAddr>().ok());
        let address = address.ok_or_else(|| VirtBenchError::Address(at.uri.clone()))?;
        let wire = wire::Wire::to(address);
        wire.rate(rate);
        let to = Destination { uri: format!("tcp:{}", wire.address), ..at };
        self.wire = Some(wire);
        self.here.send(NAME, &to, &Sending::default())?;
        Ok(())
    }
}

/// The processor time of this program while it watches a migration of some seconds.
fn watch() -> Result<Row, VirtBenchError> {
    let Busy { lab: _lab, mut here, mut there, .. } = Busy::new(200, 0)?;
    let settings = Sending { bandwidth: Some(25_000_000), ..Sending::default() };
    let policy = Policy { settings, ..Policy::default() };
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        usage.map_or(0, |usage| (usage.user_time() + usage.system_time()).num_microseconds())
    };
    let (begun, before) = (Instant::now(), used());
    Migration::of(NAME).policy(policy).run(&mut here, &mut there, |_| None)?;
    let share = (used() - before) as f64 / 1e6 / begun.elapsed().as_secs_f64();
    Ok(Row::new("processor time of watching a migration", MEMORY.mib(), "%", 100.0 * share, 1.0, "the bound"))
}

/// What was estimated, and what QEMU then reports, on a wire of 50 MB/s.
fn estimates(rounds: usize) -> Result<Vec<Row>, VirtBenchError> {
    const RATE: u64 = 50_000_000;
    let mut rows = Vec::new();
    for (what, mib, pages) in
        [("idle", 96, 0), ("10 MB/s", 96, 2500), ("20 MB/s", 96, 5000), ("35 MB/s", 96, 8500)]
    {
        let (mut durations, mut downtimes) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut busy = Busy::new(mib, pages)?;
            let demand = busy.here.demand(NAME, Duration::from_secs(1))?;
            let downtime = Sending::default().downtime;
            let estimate = Estimate::new(&demand, &Link::of(RATE), downtime);
            busy.send(RATE)?;
            let report = Migration::of(NAME).resume(&mut busy.here, &mut busy.there, |_| None)?;
            let Some(sample) = report.sample else { continue };
            durations.push((milliseconds(estimate.duration), milliseconds(sample.elapsed)));
            downtimes
                .push((milliseconds(estimate.downtime), milliseconds(sample.downtime.unwrap_or_default())));
            busy.there.power_off(NAME)?;
            drop(busy.lab);
        }
        for (name, pairs) in [("duration", durations), ("downtime", downtimes)] {
            let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let name = format!("estimate, {what}: {name}");
            rows.push(Row::new(&name, MEMORY.mib(), "ms", median(ours), median(theirs), "QEMU's report"));
        }
    }
    Ok(rows)
}

/// Machines that are defined, started, paused, resumed, powered off and deleted, a second.
fn sim() -> Result<Row, VirtBenchError> {
    let mut host = Sim::new("node1", 64, Memory::from_mib(1 << 20));
    let spec = DomainSpec::new(NAME, 2, MEMORY);
    let (begun, mut operations) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(1) {
        for _ in 0..1000 {
            host.define(&spec)?;
            host.start(NAME)?;
            host.pause(NAME)?;
            host.resume(NAME)?;
            host.power_off(NAME)?;
            host.delete(NAME)?;
            operations += 6;
        }
    }
    let rate = f64::from(operations) / begun.elapsed().as_secs_f64();
    Ok(Row::new("lifecycle of a simulated machine", 1, "operations/s", rate, 1e6, "the bound"))
}
