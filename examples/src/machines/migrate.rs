//! Moves a machine to another host.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lb_virt::migration::{Estimate, Link, Migration, Policy, Progress, Resort, Settings};
use lb_virt::sim::Network;

use crate::Failure;
use crate::host::{Host, place};

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
    /// How fast the network between the hosts is: what would never end over it is not begun
    #[arg(long, value_parser = megabytes, value_name = "MB/S", default_value = "125")]
    link: u64,
    /// The fastest that memory may go over
    #[arg(long, value_parser = megabytes, value_name = "MB/S")]
    bandwidth: Option<u64>,
    /// How long it may stand still, at first
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", default_value = "300ms")]
    downtime: Duration,
    /// How long it may stand still in the end, if it would not end else
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    max_downtime: Option<Duration>,
    /// Throttle its guest if it writes faster than its memory goes over
    #[arg(long)]
    auto_converge: bool,
    /// Let it run over there before all has gone over, if it would not end else
    #[arg(long)]
    post_copy: bool,
    /// Let it stand still until all has gone over, if it comes no nearer for two minutes
    #[arg(long, conflicts_with = "post_copy")]
    stop: bool,
    /// Go on with a migration whose program has ended
    #[arg(long)]
    resume: bool,
    /// Go on with a migration that has lost its connection when it ran over there already, and part of its memory was still here
    #[arg(long, conflicts_with = "resume")]
    recover: bool,
    /// Even if its disks may not be reached from there, its snapshots would be lost, its processor is this host's own, or it would
    /// never end
    #[arg(long)]
    force: bool,
}

/// Megabytes a second, in bytes.
fn megabytes(text: &str) -> Result<u64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..1e6).contains(&rate) {
        Ok((rate * 1e6) as u64)
    } else {
        Err("not from 0.001 to 1000000".into())
    }
}

impl Arguments {
    fn policy(&self) -> Policy {
        Policy {
            settings: Settings {
                bandwidth: self.bandwidth,
                downtime: self.downtime,
                auto_converge: self.auto_converge,
                post_copy: self.post_copy,
            },
            most_downtime: self.max_downtime,
            deadline: self.deadline,
            at_stall: if self.stop { Resort::Stop } else { Resort::Cancel },
            post_copy_soon: self.post_copy,
            ..Policy::default()
        }
    }
}

fn expected(estimate: &Estimate) -> String {
    format!(
        "expected: {:.1} s, {} ms of them standing still",
        estimate.duration.as_secs_f64(),
        estimate.downtime.as_millis()
    )
}

/// Moves it, with a bar that shows how far it is.
pub(crate) fn run(from: &str, source: &mut Host, arguments: &Arguments) -> Result<String, Failure> {
    let (name, to) = (&arguments.name, &arguments.to);
    if place(from)? == place(to)? {
        source.get().state(name)?;
        return Err(format!("{name} is on {to} already: name another host").into());
    }
    let network = Network::new();
    let mut target = Host::open_on(&arguments.to, &network)?;
    source.join(&network);
    let mut migration = Migration::of(name).policy(arguments.policy()).link(Link::of(arguments.link));
    if arguments.force {
        migration = migration.despite_concerns();
    }
    let bar =
        ProgressBar::new(1000).with_style(ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg}")?);
    let watch = |progress: &Progress| {
        bar.set_position((1000.0 * progress.done) as u64);
        let left = progress.left.map(|left| format!(", {} s left", left.as_secs()));
        bar.set_message(format!("{}{}", progress.sample.phase, left.unwrap_or_default()));
        None
    };
    let moved = if arguments.recover {
        migration.recover(source.get(), target.get(), watch)
    } else if arguments.resume {
        migration.resume(source.get(), target.get(), watch)
    } else {
        migration.run(source.get(), target.get(), watch)
    };
    bar.finish_and_clear();
    if let Err(error) = target.close() {
        // What a simulated target has not kept, the source has still.
        source.abandon();
        return Err(error);
    }
    let report = moved?;
    let downtime = report.sample.and_then(|sample| sample.downtime);
    let stood = downtime.map_or_else(
        || "it was shut off".into(),
        |downtime| format!("it stood still for {} ms", downtime.as_millis()),
    );
    let expected = report.estimate.as_ref().map(|estimate| format!(" ({})", expected(estimate)));
    let took = report.took.as_secs_f64();
    Ok(format!("{name} moved to {to} in {took:.1} s; {stood}{}\n", expected.unwrap_or_default()))
}
