//! What a machine is made of: packages, dies, cores, hardware threads, caches, NUMA nodes.
//!
//! A [`Topology`] is a value. It is read from a live or recorded system ([`Topology::discover`]), from `lscpu -p`, or assembled
//! from [`Parts`], and the planner works on nothing else.
//!
//! ```
//! use lb_affinity::fs::Memory;
//! use lb_affinity::{CpuSet, Topology};
//!
//! // This machine is `Topology::live()?`, a recorded one `Topology::discover(&Rooted::new("recording"))?`. Here is one of two
//! // NUMA nodes, of which a container has three CPUs.
//! let mut machine = Memory::new();
//! machine.insert("/sys/devices/system/cpu/online", "0-7\n");
//! machine.insert("/sys/devices/system/node/online", "0-1\n");
//! machine.insert("/sys/devices/system/node/node0/cpumap", "0f\n");
//! machine.insert("/sys/devices/system/node/node1/cpumap", "f0\n");
//! machine.insert("/proc/self/status", "Cpus_allowed_list:\t3-5\n");
//!
//! let topology = Topology::discover(&machine)?;
//! let node = topology.node_of(4).and_then(|node| topology.node(node)).expect("CPU 4 is in a node");
//! let beside: CpuSet = &node.cpus & topology.allowed();
//! assert_eq!(beside.to_string(), "4-5");
//! assert_eq!(beside.mask(topology.nr_cpu_ids()).to_string(), "30");
//! # Ok::<(), lb_affinity::topology::TopologyError>(())
//! ```

use std::collections::{HashMap, HashSet};

use crate::{CpuSet, NodeSet};

mod counts;
mod discover;
mod lscpu;

pub use counts::Counts;
pub use discover::TopologyError;
pub use lscpu::LscpuError;

/// A logical CPU: a hardware thread that the kernel runs tasks on (hwloc: PU).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Cpu {
    /// The kernel's number.
    pub id: u32,
    /// Its core: an index into [`Topology::cores`].
    pub core: usize,
    /// Its cluster: an index into [`Topology::clusters`]. `None` if the kernel does not tell.
    pub cluster: Option<usize>,
    /// Its die: an index into [`Topology::dies`].
    pub die: usize,
    /// Its package: an index into [`Topology::packages`].
    pub package: usize,
    /// Its NUMA node's number; `None` if the kernel gives it none.
    pub node: Option<u32>,
    /// What it can do, of 1024 for the machine's fastest. `None` where all are alike, for all that is known.
    pub capacity: Option<u32>,
}

/// A core: CPUs that share their execution units (SMT siblings).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Core {
    /// Its CPUs that are online.
    pub cpus: CpuSet,
    /// Whether it is assumed, because no list of the kernel's says who is in it.
    pub assumed: bool,
}

/// A cluster: cores of a die that share more than the others, an L2 cache or a bus (`cluster_cpus`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Cluster {
    /// Its CPUs that are online.
    pub cpus: CpuSet,
}

/// A die: a package's piece of silicon (`die_cpus`). A package whose dies the kernel does not tell counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Die {
    /// Its CPUs that are online.
    pub cpus: CpuSet,
}

/// A package (socket).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Package {
    /// The number that the firmware gives it, which may be any; below 0 if it gives none, or gives it twice.
    pub id: i64,
    /// Its CPUs that are online.
    pub cpus: CpuSet,
    /// Whether it is assumed, because no list of the kernel's says who is in it.
    pub assumed: bool,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Node {
    /// The kernel's number.
    pub id: u32,
    /// Its CPUs that are online; none for a node of memory only.
    pub cpus: CpuSet,
    /// Its memory in bytes; 0 for a node of CPUs only, `None` if it is not known.
    pub memory: Option<u64>,
    /// How far each node is, in [`Topology::nodes`]' order: 10 is local (ACPI SLIT). Empty if it is not known.
    pub distances: Vec<u32>,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum CacheKind {
    /// Data.
    Data,
    /// Instructions.
    Instruction,
    /// Both.
    Unified,
}

/// A cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Cache {
    /// 1 for the one next to the core.
    pub level: u8,
    /// What it holds.
    pub kind: CacheKind,
    /// Its size in bytes; `None` if it is not known.
    pub size: Option<u64>,
    /// The CPUs that share it and are online.
    pub cpus: CpuSet,
}

/// What a topology is assembled from: lists in any order.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Each CPU that is online, and where it is. The numbers may be any: CPUs with the same package and core share the core, and so
    /// with dies and clusters.
    pub cpus: Vec<CpuPlace>,
    /// The caches. Those with the same level, kind and CPUs are one.
    pub caches: Vec<Cache>,
    /// The nodes. A CPU is in one node alone, so a node that names CPUs of a node with a lower number is left out: its firmware
    /// errs.
    pub nodes: Vec<Node>,
    /// CPUs that could be made online, those that are included. Empty: those that are.
    pub possible: CpuSet,
    /// What this process may run on, of those that are online. `None`: all.
    pub allowed: Option<CpuSet>,
    /// The nodes that this process may have memory from. `None`: all.
    pub allowed_nodes: Option<NodeSet>,
    /// CPUs that the scheduler leaves alone (`isolcpus=`).
    pub isolated: CpuSet,
    /// CPUs whose tick stops (`nohz_full=`).
    pub nohz_full: CpuSet,
}

/// Where a CPU is.
#[derive(Clone, Debug, Default)]
pub struct CpuPlace {
    /// The kernel's number of the CPU.
    pub id: u32,
    /// Its core's number, unique within the package.
    pub core: i64,
    /// Its cluster's number, unique within the package; `None` if it is not known.
    pub cluster: Option<i64>,
    /// Its die's number, unique within the package; 0 if it is not known.
    pub die: i64,
    /// Its package's number.
    pub package: i64,
    /// [`Cpu::capacity`].
    pub capacity: Option<u32>,
    /// [`Core::assumed`]. A core is if all its CPUs say so.
    pub core_assumed: bool,
    /// [`Package::assumed`]. A package is if all its CPUs say so.
    pub package_assumed: bool,
}

/// A machine's structure, and what this process may use of it.
///
/// Everything is in the order of the lowest CPU in it, so that equal machines are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub struct Topology {
    cpus: Vec<Cpu>,
    cores: Vec<Core>,
    clusters: Vec<Cluster>,
    dies: Vec<Die>,
    packages: Vec<Package>,
    nodes: Vec<Node>,
    caches: Vec<Cache>,
    online: CpuSet,
    possible: CpuSet,
    allowed: CpuSet,
    allowed_nodes: NodeSet,
    isolated: CpuSet,
    nohz_full: CpuSet,
}

impl Topology {
    /// Puts parts together. CPUs that are named twice count once, and what names CPUs that are not online loses them.
    #[must_use]
    pub fn assemble(parts: Parts) -> Self {
        let Parts { cpus: mut places, caches, nodes, possible, allowed, allowed_nodes, isolated, nohz_full } =
            parts;
        places.sort_by_key(|place| place.id);
        places.dedup_by_key(|place| place.id);
        let online: CpuSet = places.iter().map(|place| place.id).collect();
        let nodes = assemble_nodes(nodes, &online);

        let mut topology = Self {
            cpus: Vec::with_capacity(places.len()),
            cores: Vec::new(),
            clusters: Vec::new(),
            dies: Vec::new(),
            packages: Vec::new(),
            caches: assemble_caches(caches, &online),
            possible: &possible | &online,
            allowed: allowed.map_or_else(|| online.clone(), |allowed| &allowed & &online),
            allowed_nodes: NodeSet::new(),
            nodes,
            online,
            isolated,
            nohz_full,
        };
        let all_nodes: NodeSet = topology.nodes.iter().map(|node| node.id).collect();
        topology.allowed_nodes = allowed_nodes.map_or(all_nodes.clone(), |allowed| &allowed & &all_nodes);

        let mut node_of = HashMap::new();
        for node in &topology.nodes {
            node_of.extend(node.cpus.iter().map(|cpu| (cpu, node.id)));
        }
        let (mut packages, mut dies) = (Groups::default(), Groups::default());
        let (mut clusters, mut cores) = (Groups::default(), Groups::default());
        let mut package_ids = Vec::new();
        let (mut cores_listed, mut packages_listed) = (HashSet::new(), HashSet::new());
        for CpuPlace { id, core, cluster, die, package, capacity, core_assumed, package_assumed } in places {
            let place = Cpu {
                id,
                core: cores.add(id, (package, core)),
                cluster: cluster.map(|cluster| clusters.add(id, (package, cluster))),
                die: dies.add(id, (package, die)),
                package: packages.add(id, (package, 0)),
                node: node_of.get(&id).copied(),
                capacity,
            };
            if place.package == package_ids.len() {
                package_ids.push(package);
            }
            if !core_assumed {
                cores_listed.insert(place.core);
            }
            if !package_assumed {
                packages_listed.insert(place.package);
            }
            topology.cpus.push(place);
        }
        let cores = cores.sets.into_iter().enumerate();
        let core = |(index, cpus)| Core { cpus, assumed: !cores_listed.contains(&index) };
        topology.cores = cores.map(core).collect();
        topology.clusters = clusters.sets.into_iter().map(|cpus| Cluster { cpus }).collect();
        topology.dies = dies.sets.into_iter().map(|cpus| Die { cpus }).collect();
        let packages = package_ids.into_iter().zip(packages.sets).enumerate();
        let package = |(index, (id, cpus))| Package { id, cpus, assumed: !packages_listed.contains(&index) };
        topology.packages = packages.map(package).collect();
        topology
    }

    /// The CPUs that are online, by number.
    #[must_use]
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// The cores.
    #[must_use]
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// The clusters. None where the kernel does not tell.
    #[must_use]
    pub fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// The dies.
    #[must_use]
    pub fn dies(&self) -> &[Die] {
        &self.dies
    }

    /// The packages.
    #[must_use]
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The NUMA nodes that are online, by number. What knows of no nodes has one, number 0, with everything in it, if it was read
    /// from a system, and none if it comes from `lscpu -p`.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The caches, by level, kind, and lowest CPU.
    #[must_use]
    pub fn caches(&self) -> &[Cache] {
        &self.caches
    }

    /// The CPUs that are online.
    #[must_use]
    pub const fn online(&self) -> &CpuSet {
        &self.online
    }

    /// The CPUs that could be made online, those that are included.
    #[must_use]
    pub const fn possible(&self) -> &CpuSet {
        &self.possible
    }

    /// What this process may run on: its affinity, its cpuset, and online.
    #[must_use]
    pub const fn allowed(&self) -> &CpuSet {
        &self.allowed
    }

    /// The nodes that this process may have memory from.
    #[must_use]
    pub const fn allowed_nodes(&self) -> &NodeSet {
        &self.allowed_nodes
    }

    /// CPUs that the scheduler leaves alone (`isolcpus=`).
    #[must_use]
    pub const fn isolated(&self) -> &CpuSet {
        &self.isolated
    }

    /// CPUs whose tick stops (`nohz_full=`).
    #[must_use]
    pub const fn nohz_full(&self) -> &CpuSet {
        &self.nohz_full
    }

    /// The kernel's `nr_cpu_ids`: the highest possible CPU's number + 1. Masks have as many bits.
    #[must_use]
    pub fn nr_cpu_ids(&self) -> u32 {
        self.possible.last().map_or(1, |last| last + 1)
    }

    /// A CPU by its number, if it is online.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.binary_search_by_key(&id, |cpu| cpu.id).ok().map(|index| &self.cpus[index])
    }

    /// A node by its number.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|index| &self.nodes[index])
    }

    /// The number of the node that a CPU is in.
    #[must_use]
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.cpu(cpu)?.node
    }

    /// The CPUs of a CPU's core, itself included; none if it is not online.
    #[must_use]
    pub fn siblings(&self, cpu: u32) -> Option<&CpuSet> {
        Some(&self.cores[self.cpu(cpu)?.core].cpus)
    }

    /// The cache of the highest level that a CPU has.
    #[must_use]
    pub fn last_level_cache(&self, cpu: u32) -> Option<&Cache> {
        self.caches
            .iter()
            .rev()
            .find(|cache| cache.kind != CacheKind::Instruction && cache.cpus.contains(cpu))
    }

    /// How far the memory of node `to` is from node `from`: 10 for its own (ACPI SLIT). Where the kernel does not say, 10 and 20.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        let known = || {
            let column = self.nodes.binary_search_by_key(&to, |node| node.id).ok()?;
            self.node(from)?.distances.get(column).copied()
        };
        known().unwrap_or(if from == to { 10 } else { 20 })
    }
}

/// CPUs that share a key, in the order of the lowest.
#[derive(Default)]
struct Groups {
    index: HashMap<(i64, i64), usize>,
    sets: Vec<CpuSet>,
}

impl Groups {
    /// Puts a CPU to the others with its key; gives their index.
    fn add(&mut self, cpu: u32, key: (i64, i64)) -> usize {
        let index = *self.index.entry(key).or_insert_with(|| {
            self.sets.push(CpuSet::new());
            self.sets.len() - 1
        });
        self.sets[index].insert(cpu);
        index
    }
}

fn assemble_nodes(mut nodes: Vec<Node>, online: &CpuSet) -> Vec<Node> {
    // The distances' columns are the nodes as they came; they follow their nodes into the order by number.
    let count = nodes.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&index| nodes[index].id);
    order.dedup_by_key(|index| nodes[*index].id);
    nodes.iter_mut().for_each(|node| node.cpus &= online);
    let mut taken = CpuSet::new();
    order.retain(|&index| {
        let cpus = &nodes[index].cpus;
        let free = cpus.is_disjoint(&taken);
        if free {
            taken |= cpus;
        }
        free
    });
    for node in &mut nodes {
        node.distances = if node.distances.len() == count {
            order.iter().map(|&column| node.distances[column]).collect()
        } else {
            Vec::new()
        };
    }
    order.iter().map(|&index| nodes[index].clone()).collect()
}

fn assemble_caches(mut caches: Vec<Cache>, online: &CpuSet) -> Vec<Cache> {
    caches.iter_mut().for_each(|cache| cache.cpus &= online);
    caches.retain(|cache| !cache.cpus.is_empty());
    caches.sort_by_cached_key(|cache| (cache.level, cache.kind, cache.cpus.first()));
    // Caches of a kind do not overlap, so equal ones are neighbours; the first that knows its size stays.
    caches.dedup_by(|other, first| {
        let same = (other.level, other.kind, &other.cpus) == (first.level, first.kind, &first.cpus);
        if same {
            first.size = first.size.or(other.size);
        }
        same
    });
    caches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, cpus: &str, distances: &[u32]) -> Node {
        Node { id, cpus: cpus.parse().unwrap(), memory: None, distances: distances.into() }
    }

    #[test]
    fn parts_come_in_any_order() {
        let place = |id, core, package| CpuPlace { id, core, package, ..CpuPlace::default() };
        let cache = |level, cpus: &str, size| Cache {
            level,
            kind: CacheKind::Unified,
            size,
            cpus: cpus.parse().unwrap(),
        };
        let topology = Topology::assemble(Parts {
            cpus: vec![place(5, 0, 7), place(0, 0, 3), place(1, 0, 3), place(4, 0, 7), place(0, 9, 9)],
            caches: vec![
                cache(3, "4-5", None),
                cache(2, "0-1", Some(1 << 20)),
                cache(3, "0-3", None),
                cache(3, "0-1", Some(7)),
            ],
            nodes: vec![node(4, "4-7", &[10, 21]), node(1, "0-3", &[22, 11])],
            possible: "0-7".parse().unwrap(),
            allowed: Some("1-4,60".parse().unwrap()),
            ..Parts::default()
        });
        assert_eq!(topology.online().to_string(), "0-1,4-5");
        assert_eq!(topology.allowed().to_string(), "1,4");
        assert_eq!(topology.nr_cpu_ids(), 8);
        let packages: Vec<_> = topology.packages().iter().map(|one| (one.id, one.cpus.to_string())).collect();
        assert_eq!(packages, [(3, "0-1".to_owned()), (7, "4-5".to_owned())]);
        assert_eq!((topology.cores().len(), topology.dies().len(), topology.clusters().len()), (2, 2, 0));
        assert_eq!(topology.siblings(4).unwrap().to_string(), "4-5");
        let caches: Vec<_> =
            topology.caches().iter().map(|one| (one.level, one.cpus.to_string(), one.size)).collect();
        let expected = [(2, "0-1", Some(1 << 20)), (3, "0-1", Some(7)), (3, "4-5", None)];
        assert_eq!(caches, expected.map(|(level, cpus, size)| (level, cpus.to_owned(), size)));
        assert_eq!(topology.last_level_cache(1).map(|cache| cache.level), Some(3));
        assert_eq!((topology.node_of(5), topology.node_of(2)), (Some(4), None));
        assert_eq!([(1, 1), (1, 4), (4, 1), (4, 4)].map(|(a, b)| topology.distance(a, b)), [11, 22, 21, 10]);
        assert_eq!(topology.allowed_nodes().to_string(), "1,4");
    }

    #[test]
    fn dies_and_clusters_are_numbered_within_their_package() {
        let place = |id, cluster, die, package| CpuPlace {
            id,
            core: id.into(),
            cluster,
            die,
            package,
            ..CpuPlace::default()
        };
        let topology = Topology::assemble(Parts {
            cpus: vec![
                place(0, Some(0), 0, 0),
                place(1, Some(0), 0, 0),
                place(2, Some(8), 1, 0),
                place(3, None, 0, 1),
                place(4, Some(0), 0, 1),
            ],
            ..Parts::default()
        });
        let dies: Vec<_> = topology.dies().iter().map(|die| die.cpus.to_string()).collect();
        assert_eq!(dies, ["0-1", "2", "3-4"]);
        let clusters: Vec<_> = topology.clusters().iter().map(|cluster| cluster.cpus.to_string()).collect();
        assert_eq!(clusters, ["0-1", "2", "4"]);
        let cpu = |id| topology.cpu(id).map(|cpu| (cpu.die, cpu.cluster));
        assert_eq!([cpu(2), cpu(3)], [Some((1, Some(1))), Some((2, None))]);
    }

    #[test]
    fn a_node_with_anothers_cpus_is_left_out() {
        let places = (0..4).map(|id| CpuPlace { id, core: id.into(), ..CpuPlace::default() });
        let topology = Topology::assemble(Parts {
            cpus: places.collect(),
            nodes: vec![
                node(2, "1-3", &[10, 30, 50]),
                node(0, "0-1", &[31, 10, 40]),
                node(5, "", &[51, 41, 10]),
            ],
            ..Parts::default()
        });
        let nodes: Vec<_> = topology.nodes().iter().map(|node| (node.id, &*node.distances)).collect();
        assert_eq!(nodes, [(0, &[10, 40][..]), (5, &[41, 10])]);
        assert_eq!((topology.node_of(1), topology.node_of(3)), (Some(0), None));
    }

    #[test]
    fn nothing_is_a_machine_too() {
        let topology = Topology::assemble(Parts::default());
        assert_eq!((topology.nr_cpu_ids(), topology.cpus().len(), topology.nodes().len()), (1, 0, 0));
        assert_eq!([topology.distance(0, 0), topology.distance(0, 1)], [10, 20]);
        assert!(
            topology.cpu(0).is_none()
                && topology.siblings(0).is_none()
                && topology.last_level_cache(0).is_none()
        );
    }
}
