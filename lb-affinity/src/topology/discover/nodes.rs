//! The NUMA nodes (`Documentation/ABI/stable/sysfs-devices-node`).

use super::TopologyError;
use super::files::{Files, Names};
use crate::cpu_set::MAX_ID;
use crate::fs::FileSystem;
use crate::topology::Node;
use crate::{CpuSet, NodeSet};

const NODE: &str = "/sys/devices/system/node";

/// The nodes that are online. A kernel without NUMA has all in its node 0, and no files that say so.
pub(super) fn read<F: FileSystem>(files: &Files<'_, F>, online: &CpuSet) -> Result<Vec<Node>, TopologyError> {
    let nodes: NodeSet = match files.list(&format!("{NODE}/online"))? {
        Some(nodes) => nodes,
        None => files.numbered(NODE, "node")?,
    };
    if nodes.is_empty() {
        let memory = files.text("/proc/meminfo")?.as_deref().and_then(memory);
        return Ok(vec![Node { id: 0, cpus: online.clone(), memory, distances: vec![10] }]);
    }
    let of_gpus = of_gpus(files)?;
    let names = Names::new(&["cpumap", "cpulist"]);
    let mut found = Vec::with_capacity(nodes.len());
    // Which of the columns of the distances belong to nodes that were found.
    let mut columns = Vec::with_capacity(nodes.len());
    for (column, id) in nodes.iter().enumerate() {
        let directory = format!("{NODE}/node{id}");
        let cpus = match files.set(&directory, &names)? {
            Some(cpus) => cpus,
            // The list of no CPU is an empty file.
            None if !files.names(&directory)?.is_empty() => CpuSet::new(),
            None => continue,
        };
        if cpus.is_empty() && of_gpus.contains(id) {
            continue;
        }
        let memory = files.text(&format!("{directory}/meminfo"))?.as_deref().and_then(memory);
        let distances = files.text(&format!("{directory}/distance"))?;
        let distances = distances.and_then(|text| distances_of(&text)).filter(|all| all.len() == nodes.len());
        found.push(Node { id, cpus, memory, distances: distances.unwrap_or_default() });
        columns.push(column);
    }
    if found.len() < nodes.len() {
        for node in &mut found {
            let all = std::mem::take(&mut node.distances);
            node.distances = columns.iter().filter_map(|&column| all.get(column).copied()).collect();
        }
    }
    Ok(found)
}

/// The nodes that are the memory of NVIDIA's GPUs, which its driver can put online on POWER9 and Grace. They are for those who
/// know the GPU: a program that spreads its memory over all nodes does not want them.
fn of_gpus<F: FileSystem>(files: &Files<'_, F>) -> Result<NodeSet, TopologyError> {
    const GPUS: &str = "/proc/driver/nvidia/gpus";
    let mut nodes = NodeSet::new();
    for gpu in files.names(GPUS)? {
        let status = files.text(&format!("{GPUS}/{gpu}/numa_status"))?.unwrap_or_default();
        // `Node: 255`; the rest is about its memory.
        let number = status.lines().find_map(|line| line.strip_prefix("Node:")?.trim().parse().ok());
        if let Some(number) = number.filter(|&number| number <= MAX_ID) {
            nodes.insert(number);
        }
    }
    Ok(nodes)
}

/// `MemTotal` in bytes: of `Node 0 MemTotal: 8 kB`, or of /proc/meminfo's `MemTotal: 8 kB`.
fn memory(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("MemTotal:")?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn distances_of(text: &str) -> Option<Vec<u32>> {
    text.split_whitespace().map(|distance| distance.parse().ok()).collect()
}
