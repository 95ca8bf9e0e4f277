//! Own figures beside those of others, measured interleaved in one run on one machine.

mod affinity;
mod director;
mod measure;
mod pick;
mod publish;
mod row;
mod serving;
mod virt;
mod vrrp;

use clap::{Args, Parser, Subcommand};
use measure::Plan;
use std::process::ExitCode;
use std::time::Duration;

/// Own figures beside those of other load balancers and other crates, measured interleaved in one run.
///
/// Prints rows of {name, n, unit, ours, peer, peer_name, ratio}; ratio = ours/peer, and smaller is better unless
/// the unit ends in /s.
#[derive(Debug, Parser)]
#[command(name = "lb-peers", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One choice of a backend: every own algorithm beside other crates', at 10, 100 and 1000 backends.
    Pick,
    /// The director beside Debian's HAProxy and nginx: HTTP with keep-alive and small responses.
    Director(director::Settings),
    /// A failover beside Debian's keepalived, in network namespaces, as root: how late, how soon announced, how steady.
    Vrrp(vrrp::Settings),
    /// A machine's structure beside Debian's lstopo, plans, sets of CPUs; and, as root, workers pinned and steered beside workers
    /// placed by the OS.
    Affinity(affinity::Settings),
    /// Machines started and moved beside what QEMU itself takes, and estimates beside what it reports.
    Virt(virt::Settings),
    /// Reading the published snapshot: a pool beside arc-swap, crossbeam-epoch and a lock.
    Publish,
}

#[derive(Debug, Args)]
struct Common {
    /// Print a JSON array instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Rounds; each measures every subject once, and the median counts.
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Short rounds: figures to see that it works, not to quote.
    #[arg(long, global = true)]
    quick: bool,
}

impl Common {
    fn rounds(&self, usual: u32) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { usual }) as usize
    }

    /// For what takes nanoseconds.
    fn plan(&self) -> Plan {
        Plan { rounds: self.rounds(21), batch: Duration::from_micros(if self.quick { 200 } else { 2000 }) }
    }
}

fn main() -> ExitCode {
    if vrrp::is_router() {
        vrrp::be_router();
        return ExitCode::SUCCESS;
    }
    let Cli { what, common } = Cli::parse();
    match run(what, &common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What, common: &Common) -> Result<(), Box<dyn std::error::Error>> {
    let rows = match what {
        What::Pick => pick::run(common.plan()),
        What::Vrrp(settings) => vrrp::run(&settings, common.rounds(100)),
        What::Affinity(settings) => affinity::run(&settings, common)?,
        What::Virt(settings) => virt::run(&settings, common)?,
        What::Publish => publish::run(common.plan()),
        What::Director(settings) => director::run(&settings, common.rounds(5), common.quick)?,
    };
    row::print(&rows, common.json)?;
    Ok(())
}
