//! `affinity show`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use lb_affinity::Topology;
use lb_affinity::topology::{CacheKind, Counts};
use serde_json::json;

use crate::Fatal;
use crate::picture::{Marks, draw};
use crate::source::Source;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Counts of what is allowed here and of the whole machine, and everything that is known, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Fatal> {
    let (topology, _) = arguments.source.open()?;
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", as_json(&topology))?;
    } else {
        write!(out, "{}", draw(&topology, &Marks::new()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `L1d`, `L3`.
pub(crate) fn cache_name(level: u8, kind: CacheKind) -> String {
    let kind = match kind {
        CacheKind::Data => "d",
        CacheKind::Instruction => "i",
        CacheKind::Unified => "",
    };
    format!("L{level}{kind}")
}

/// The counts of what of the machine is allowed, as `lstopo` counts; and of the whole machine, as `lstopo --disallowed` does. What the
/// kernel lists nobody for, a core for each CPU for instance, does not count.
fn as_json(topology: &Topology) -> serde_json::Value {
    let mut all = counts(&topology.counts_allowed());
    all["whole"] = counts(&topology.counts());
    all["nr_cpu_ids"] = json!(topology.nr_cpu_ids());
    all["topology"] = json!(topology);
    all
}

fn counts(counts: &Counts) -> serde_json::Value {
    let caches: BTreeMap<_, _> =
        counts.caches.iter().map(|(&(level, kind), count)| (cache_name(level, kind), count)).collect();
    json!({
        "packages": counts.packages,
        "cores": counts.cores,
        "pus": counts.cpus,
        "numa_nodes": counts.nodes,
        "caches": caches,
    })
}
