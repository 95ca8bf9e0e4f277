//! A machine as text.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::hash::Hash;

use lb_affinity::topology::{Cache, CacheKind};
use lb_affinity::{CpuSet, Topology};

use crate::show::cache_name;

/// What is written beside a CPU: `W0` for the first worker, `N` for network work, `I` for an interrupt.
pub(crate) type Marks = BTreeMap<u32, String>;

/// The machine, node by node: its caches, and its cores with their CPUs and marks.
pub(crate) fn draw(topology: &Topology, marks: &Marks) -> String {
    let picture = Picture { topology, marks, caches: caches(topology) };
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = summary(&mut text, topology);
    let mut left = topology.online().clone();
    for node in topology.nodes() {
        let memory = node.memory.map_or(String::new(), |memory| format!(", {}", bytes(memory)));
        let _ = writeln!(text, "node {}{memory}{}", node.id, distances(topology, node.id));
        let own = &node.cpus & &left;
        left -= &own;
        picture.groups(&mut text, &own);
    }
    if !left.is_empty() {
        if !topology.nodes().is_empty() {
            text.push_str("without a node\n");
        }
        picture.groups(&mut text, &left);
    }
    text
}

/// The caches of each CPU, the largest first. Looked up once: to search all caches for each of many CPUs takes its time.
fn caches(topology: &Topology) -> HashMap<u32, Vec<&Cache>> {
    let mut caches = HashMap::<u32, Vec<&Cache>>::new();
    for cache in topology.caches().iter().rev() {
        for cpu in &cache.cpus {
            caches.entry(cpu).or_default().push(cache);
        }
    }
    caches
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

/// What is drawn.
struct Picture<'a> {
    topology: &'a Topology,
    marks: &'a Marks,
    caches: HashMap<u32, Vec<&'a Cache>>,
}

impl Picture<'_> {
    fn caches_of(&self, cpu: u32) -> &[&Cache] {
        self.caches.get(&cpu).map_or(&[], Vec::as_slice)
    }

    /// The cache of the highest level.
    fn last_level(&self, cpu: u32) -> Option<&Cache> {
        self.caches_of(cpu).iter().copied().find(|cache| cache.kind != CacheKind::Instruction)
    }

    /// CPUs, by package and last-level cache.
    fn groups(&self, text: &mut String, cpus: &CpuSet) {
        let key = |cpu| {
            let cache = self.last_level(cpu).map(|cache| (cache.level, cache.kind, cache.cpus.first()));
            (self.topology.cpu(cpu).map(|cpu| cpu.package), cache)
        };
        for ((package, _), cpus) in gathered(cpus, key) {
            let package = package.map(|index| match self.topology.packages()[index].id {
                // It has no number: this one stands for none.
                ..0 => "package".to_owned(),
                id => format!("package {id}"),
            });
            let parts: Vec<String> = package.into_iter().chain(self.captions(cpus[0])).collect();
            let _ = writeln!(text, "  {}", parts.join(", "));
            self.cores(text, &cpus);
        }
    }

    /// The last-level cache, and the smaller ones as each core has them.
    fn captions(&self, cpu: u32) -> impl Iterator<Item = String> {
        let last = self.last_level(cpu);
        self.caches_of(cpu).iter().map(move |&cache| {
            let size = cache.size.map_or(String::new(), |size| format!(" {}", bytes(size)));
            let sharers = cache.cpus.len();
            let shared = if last == Some(cache) || sharers == 1 {
                String::new()
            } else {
                format!(" for {sharers} CPUs")
            };
            format!("{}{size}{shared}", cache_name(cache.level, cache.kind))
        })
    }

    /// `[0 8] [1 9]`: a pair of brackets a core.
    fn cores(&self, text: &mut String, cpus: &[u32]) {
        const WIDTH: usize = 100;
        const MARGIN: &str = "   ";
        let mut line = MARGIN.to_owned();
        let core = |cpu| self.topology.cpu(cpu).map(|cpu| cpu.core);
        for (_, cpus) in gathered(cpus.iter().copied(), core) {
            let marked = |cpu: &u32| match self.marks.get(cpu) {
                Some(mark) => format!("{cpu} {mark}"),
                None => cpu.to_string(),
            };
            let shown = format!(" [{}]", cpus.iter().map(marked).collect::<Vec<_>>().join(", "));
            if line.len() > MARGIN.len() && line.len() + shown.len() > WIDTH {
                let _ = writeln!(text, "{line}");
                line = MARGIN.to_owned();
            }
            line.push_str(&shown);
        }
        let _ = writeln!(text, "{line}");
    }
}

/// CPUs that have a key in common, in the order of the first.
fn gathered<K: Clone + Eq + Hash>(
    cpus: impl IntoIterator<Item = u32>,
    key: impl Fn(u32) -> K,
) -> Vec<(K, Vec<u32>)> {
    let (mut places, mut groups) = (HashMap::new(), Vec::<(K, Vec<u32>)>::new());
    for cpu in cpus {
        let key = key(cpu);
        let place = *places.entry(key.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, cpus)) => cpus.push(cpu),
            None => groups.push((key, vec![cpu])),
        }
    }
    groups
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
    fn what_has_no_number_is_shown_without_and_no_line_is_empty() {
        let place = |id: u32| CpuPlace { id, core: id.into(), package: -1, ..CpuPlace::default() };
        let topology = Topology::assemble(Parts { cpus: vec![place(0), place(1)], ..Parts::default() });
        let many = "W10 ".repeat(40);
        let picture = draw(&topology, &Marks::from([(0, many.clone()), (1, many)]));
        let lines: Vec<&str> = picture.lines().skip(1).collect();
        assert_eq!((lines.len(), lines[0]), (3, "  package"), "{picture}");
        assert!(lines[1].starts_with("    [0 W10") && lines[2].starts_with("    [1 W10"), "{picture}");
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
