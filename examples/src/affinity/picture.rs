//! A machine as text.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write;

use lb_affinity::topology::Cache;
use lb_affinity::{CpuSet, Topology};

use crate::show::cache_name;

/// What is written beside a CPU: `W0` for the first worker, `N` for network work, `I` for an interrupt.
pub(crate) type Marks = BTreeMap<u32, String>;

/// The machine, node by node: its caches, and its cores with their CPUs and marks.
pub(crate) fn draw(topology: &Topology, marks: &Marks) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = summary(&mut text, topology);
    let mut left = topology.online().clone();
    for node in topology.nodes() {
        let memory = node.memory.map_or(String::new(), |memory| format!(", {}", bytes(memory)));
        let _ = writeln!(text, "node {}{memory}{}", node.id, distances(topology, node.id));
        let own = &node.cpus & &left;
        left -= &own;
        group(&mut text, topology, &own, marks);
    }
    if !left.is_empty() {
        if !topology.nodes().is_empty() {
            text.push_str("without a node\n");
        }
        group(&mut text, topology, &left, marks);
    }
    text
}

fn summary(text: &mut String, topology: &Topology) -> std::fmt::Result {
    let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    writeln!(
        text,
        "{}, {}, {}, {}",
        count(topology.packages().len(), "package"),
        count(topology.nodes().len(), "NUMA node"),
        count(topology.cores().len(), "core"),
        count(topology.cpus().len(), "CPU"),
    )?;
    let mut say = |what: &str, cpus: &CpuSet| {
        if cpus.is_empty() { Ok(()) } else { writeln!(text, "{what}: {cpus}") }
    };
    if topology.allowed() != topology.online() {
        say("allowed here", topology.allowed())?;
    }
    say("offline", &(topology.possible() - topology.online()))?;
    say("isolated", topology.isolated())?;
    say("without a tick", topology.nohz_full())?;
    let mut kinds = BTreeMap::<Reverse<u32>, CpuSet>::new();
    for cpu in topology.cpus() {
        if let Some(capacity) = cpu.capacity {
            kinds.entry(Reverse(capacity)).or_default().insert(cpu.id);
        }
    }
    // Most machines that tell have but one.
    if kinds.len() > 1 {
        for (Reverse(capacity), cpus) in &kinds {
            say(&format!("capacity {capacity}"), cpus)?;
        }
    }
    Ok(())
}

/// ` · to 1: 16, to 2: 22`, where there is more than one node and not all are equally far.
fn distances(topology: &Topology, from: u32) -> String {
    let others = topology.nodes().iter().filter(|node| node.id != from);
    let mut by_distance = BTreeMap::<u32, lb_affinity::NodeSet>::new();
    for node in others {
        by_distance.entry(topology.distance(from, node.id)).or_default().insert(node.id);
    }
    if by_distance.is_empty() {
        return String::new();
    }
    let parts = by_distance.iter().map(|(distance, nodes)| format!("{distance} to {nodes}"));
    format!(", distance {}", parts.collect::<Vec<_>>().join(", "))
}

/// CPUs, by package and last-level cache.
fn group(text: &mut String, topology: &Topology, cpus: &CpuSet, marks: &Marks) {
    let mut left = cpus.clone();
    while let Some(first) = left.first() {
        let package = topology.cpu(first).map(|cpu| &topology.packages()[cpu.package]);
        let cache = topology.last_level_cache(first);
        let mut own = left.clone();
        for part in
            [package.map(|package| &package.cpus), cache.map(|cache| &cache.cpus)].into_iter().flatten()
        {
            own &= part;
        }
        own.insert(first);
        left -= &own;
        let package = package.map_or(String::new(), |package| format!("package {}", package.id));
        let caches: Vec<String> = caches_of(topology, first, cache);
        let separator = if package.is_empty() || caches.is_empty() { "" } else { ", " };
        let _ = writeln!(text, "  {package}{separator}{}", caches.join(", "));
        cores(text, topology, &own, marks);
    }
}

/// The last-level cache, and the smaller ones as each core has them.
fn caches_of(topology: &Topology, cpu: u32, last: Option<&Cache>) -> Vec<String> {
    let mine = topology.caches().iter().rev().filter(|cache| cache.cpus.contains(cpu));
    mine.map(|cache| {
        let size = cache.size.map_or(String::new(), |size| format!(" {}", bytes(size)));
        let shared = if last == Some(cache) || cache.cpus.len() == 1 {
            String::new()
        } else {
            format!(" for {} CPUs", cache.cpus.len())
        };
        let name = cache_name(cache.level, cache.kind);
        format!("{name}{size}{shared}")
    })
    .collect()
}

/// `[0 8] [1 9]`: a pair of brackets a core.
fn cores(text: &mut String, topology: &Topology, cpus: &CpuSet, marks: &Marks) {
    const WIDTH: usize = 100;
    let mut line = String::from("   ");
    let mut left = cpus.clone();
    while let Some(first) = left.first() {
        let mut core = topology.siblings(first).map_or_else(|| first.into(), |siblings| siblings & cpus);
        core.insert(first);
        left -= &core;
        let shown: Vec<String> = core
            .iter()
            .map(|cpu| marks.get(&cpu).map_or_else(|| cpu.to_string(), |mark| format!("{cpu} {mark}")))
            .collect();
        let shown = format!(" [{}]", shown.join(", "));
        if line.len() + shown.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = String::from("   ");
        }
        line.push_str(&shown);
    }
    let _ = writeln!(text, "{line}");
}

/// `512 KiB`, `31.3 GiB`.
fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{} {unit}", (value * 10.0).round() / 10.0);
        }
        value /= 1024.0;
    }
    format!("{} TiB", (value * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use lb_affinity::topology::{CpuPlace, Parts};

    use super::*;

    #[test]
    fn the_machine_of_the_thesis() {
        let text = include_str!("../../../lb-affinity/tests/fixtures/opteron-16.lscpu");
        let topology = Topology::from_lscpu(text).unwrap();
        let marks = Marks::from([(4, "W2".into()), (6, "I".into()), (7, "N".into())]);
        let picture = draw(&topology, &marks);
        let lines: Vec<&str> = picture.lines().collect();
        assert_eq!(lines[0], "4 packages, 4 NUMA nodes, 16 cores, 16 CPUs");
        assert_eq!(lines[1], "node 0, distance 20 to 1-3");
        assert_eq!(lines[2], "  package 0, L3, L2, L1i, L1d");
        assert_eq!(lines[3], "    [0] [1] [2] [3]");
        assert_eq!(lines[6], "    [4 W2] [5] [6 I] [7 N]");
        assert_eq!(lines.len(), 13);
    }

    #[test]
    fn kinds_of_cores_are_told() {
        let place = |id: u32, capacity| CpuPlace {
            id,
            core: id.into(),
            capacity: Some(capacity),
            ..CpuPlace::default()
        };
        let picture = |slow| {
            let cpus = vec![place(0, 1024), place(1, 1024), place(2, slow)];
            draw(&Topology::assemble(Parts { cpus, ..Parts::default() }), &Marks::new())
        };
        assert!(picture(596).contains("\ncapacity 1024: 0-1\ncapacity 596: 2\n"), "{}", picture(596));
        assert!(!picture(1024).contains("capacity"));
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 512 << 10, (3 << 20) + (1 << 19), 32 << 30, 5 << 40];
        assert_eq!(sizes.map(bytes), ["0 B", "1023 B", "512 KiB", "3.5 MiB", "32 GiB", "5 TiB"]);
    }
}
