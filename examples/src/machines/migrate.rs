//! Moves a machine to another host.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lb_virt::migration::{Migration, Policy};
use lb_virt::sim::Network;

use crate::Failure;
use crate::host::Host;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The machine
    name: String,
    /// Where it goes: a host, by its URI
    #[arg(long, value_name = "URI")]
    to: String,
    /// Cancel it if it has not gone over by then
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    deadline: Option<Duration>,
    /// Even if its disks may not be reached from there, or its processor is this host's own
    #[arg(long)]
    force: bool,
}

/// Moves it, with a bar that shows how far it is.
pub(crate) fn run(source: &mut Host, arguments: &Arguments) -> Result<String, Failure> {
    let network = Network::new();
    let mut target = Host::open_on(&arguments.to, &network)?;
    source.join(&network);
    let mut migration =
        Migration::of(&arguments.name).policy(Policy { deadline: arguments.deadline, ..Policy::default() });
    if arguments.force {
        migration = migration.despite_concerns();
    }
    let bar =
        ProgressBar::new(1000).with_style(ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg}")?);
    let moved = migration.run(source.get(), target.get(), |progress| {
        bar.set_position((1000.0 * progress.done) as u64);
        let left = progress.left.map(|left| format!(", {} s left", left.as_secs()));
        bar.set_message(format!("{:?}{}", progress.sample.phase, left.unwrap_or_default()));
        None
    });
    bar.finish_and_clear();
    target.close()?;
    let report = moved?;
    let downtime = report.sample.and_then(|sample| sample.downtime);
    let stood = downtime.map_or_else(
        || "it was shut off".into(),
        |downtime| format!("it stood still for {} ms", downtime.as_millis()),
    );
    Ok(format!(
        "{} moved to {} in {:.1} s; {stood}\n",
        arguments.name,
        arguments.to,
        report.took.as_secs_f64()
    ))
}
