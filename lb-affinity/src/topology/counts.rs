//! How many there are of each thing: the whole machine's, and what of it may be used.

use std::collections::{BTreeMap, HashMap};

use super::{CacheKind, Topology};
use crate::CpuSet;

/// How many there are of each thing. What is only assumed ([`Core::assumed`](super::Core::assumed)) does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Packages.
    pub packages: usize,
    /// Cores.
    pub cores: usize,
    /// CPUs.
    pub cpus: usize,
    /// NUMA nodes.
    pub nodes: usize,
    /// Caches by level and kind.
    pub caches: BTreeMap<(u8, CacheKind), usize>,
}

impl Topology {
    /// The whole machine, as `lstopo --disallowed` has it.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.count(|_, _| true, self.cpus.len(), self.nodes.len())
    }

    /// What is left for this process, as `lstopo` has it without options: what has an [`allowed`](Self::allowed) CPU, or the memory
    /// of an [allowed node](Self::allowed_nodes) inside. Memory is inside the largest thing that has just the node's CPUs.
    #[must_use]
    pub fn counts_allowed(&self) -> Counts {
        let nodes = || self.nodes.iter().filter(|node| self.allowed_nodes.contains(node.id));
        let stays = |cpus: &CpuSet, is_largest: bool| {
            let has =
                |node: &CpuSet| !node.is_empty() && node.is_subset(cpus) && (is_largest || node != cpus);
            !cpus.is_disjoint(&self.allowed) || nodes().any(|node| has(&node.cpus))
        };
        self.count(stays, self.allowed.len(), nodes().count())
    }

    /// Counts what `stays`, which is asked from the largest kind of thing to the smallest, and told if none before had these CPUs.
    fn count(&self, stays: impl Fn(&CpuSet, bool) -> bool, cpus: usize, nodes: usize) -> Counts {
        let mut counts = Counts { cpus, nodes, ..Counts::default() };
        // By their lowest CPU: to take the hash of so many long sets is most of the work otherwise.
        let mut seen = HashMap::<Option<u32>, Vec<&CpuSet>>::new();
        let mut is_largest = |cpus| {
            let seen = seen.entry(CpuSet::first(cpus)).or_default();
            let is_new = !seen.contains(&cpus);
            seen.extend(is_new.then_some(cpus));
            is_new
        };
        for package in self.packages.iter().filter(|package| !package.assumed) {
            counts.packages += usize::from(stays(&package.cpus, is_largest(&package.cpus)));
        }
        for die in &self.dies {
            is_largest(&die.cpus);
        }
        // By level: the largest caches are last, and data's come before instructions'.
        let mut caches: Vec<_> = self.caches.iter().collect();
        caches.sort_by_key(|cache| (std::cmp::Reverse(cache.level), cache.kind));
        for cache in caches {
            if stays(&cache.cpus, is_largest(&cache.cpus)) {
                *counts.caches.entry((cache.level, cache.kind)).or_default() += 1;
            }
        }
        for core in self.cores.iter().filter(|core| !core.assumed) {
            counts.cores += usize::from(stays(&core.cpus, is_largest(&core.cpus)));
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cache, CpuPlace, Node, Parts};
    use super::*;

    /// Two packages, each a node, of two cores that have an L2 each. CPU 4 came without a word on where it is.
    fn machine(allowed: &str, nodes: &str) -> Topology {
        let mut cpus: Vec<_> = (0..4)
            .map(|id| CpuPlace { id, core: id.into(), package: i64::from(id / 2), ..CpuPlace::default() })
            .collect();
        cpus.push(CpuPlace {
            id: 4,
            core: -1,
            package: -1,
            core_assumed: true,
            package_assumed: true,
            ..CpuPlace::default()
        });
        let set = |list: &str| -> CpuSet { list.parse().unwrap() };
        let cache = |cpu: u32| Cache { level: 2, kind: CacheKind::Unified, size: None, cpus: cpu.into() };
        let node = |id, list| Node { id, cpus: set(list), memory: None, distances: Vec::new() };
        Topology::assemble(Parts {
            cpus,
            caches: (0..4).map(cache).collect(),
            nodes: vec![node(0, "0-1"), node(1, "2-3"), node(2, "")],
            allowed: Some(set(allowed)),
            allowed_nodes: Some(nodes.parse().unwrap()),
            ..Parts::default()
        })
    }

    #[test]
    fn what_may_be_used_is_what_has_cpus_or_memory() {
        let counts = |packages, cores, cpus, nodes, caches| Counts {
            packages,
            cores,
            cpus,
            nodes,
            caches: if caches > 0 {
                BTreeMap::from([((2, CacheKind::Unified), caches)])
            } else {
                BTreeMap::new()
            },
        };
        for (allowed, nodes, expected) in [
            ("0-4", "0-2", counts(2, 4, 5, 3, 4)),
            ("0", "0,2", counts(1, 1, 1, 2, 1)),
            ("0", "1", counts(2, 1, 1, 1, 1)),
            ("4", "2", counts(0, 0, 1, 1, 0)),
            ("", "0-1", counts(2, 0, 0, 2, 0)),
        ] {
            let machine = machine(allowed, nodes);
            assert_eq!(machine.counts(), counts(2, 4, 5, 3, 4));
            assert_eq!(machine.counts_allowed(), expected, "{allowed} {nodes}");
        }
    }

    #[test]
    fn memory_is_in_the_largest_thing_with_its_cpus() {
        let places =
            (0..2).map(|id| CpuPlace { id, core: id.into(), package_assumed: true, ..CpuPlace::default() });
        let cache = |level| Cache { level, kind: CacheKind::Unified, size: None, cpus: 0.into() };
        let node = Node { id: 0, cpus: 0.into(), memory: None, distances: Vec::new() };
        let machine = Topology::assemble(Parts {
            cpus: places.collect(),
            caches: vec![cache(1), cache(3)],
            nodes: vec![node],
            allowed: Some(1.into()),
            ..Parts::default()
        });
        let counts = machine.counts_allowed();
        assert_eq!(counts.caches, BTreeMap::from([((3, CacheKind::Unified), 1)]));
        assert_eq!((counts.packages, counts.cores, counts.cpus, counts.nodes), (0, 1, 1, 1));
    }
}
