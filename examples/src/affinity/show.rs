//! `affinity show`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use lb_affinity::Topology;
use lb_affinity::topology::CacheKind;
use serde_json::json;

use crate::Fatal;
use crate::picture::{Marks, draw};
use crate::source::Source;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Counts, and everything that is known, as JSON
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

fn as_json(topology: &Topology) -> serde_json::Value {
    let mut caches = BTreeMap::new();
    for cache in topology.caches() {
        *caches.entry(cache_name(cache.level, cache.kind)).or_insert(0) += 1;
    }
    json!({
        "packages": topology.packages().len(),
        "cores": topology.cores().len(),
        "pus": topology.cpus().len(),
        "numa_nodes": topology.nodes().len(),
        "caches": caches,
        "nr_cpu_ids": topology.nr_cpu_ids(),
        "topology": topology,
    })
}
