//! Where each CPU is, looked up once: a plan asks for it often, and a topology answers by searching.

use crate::topology::CacheKind;
use crate::{CpuSet, Topology};

/// Where a CPU is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub(super) cpu: u32,
    pub(super) core: usize,
    /// An index into [`Sites::nodes`].
    pub(super) node: usize,
    /// The last-level cache. Only good to compare: CPUs of a node without caches share one.
    pub(super) cache: usize,
    /// `cpu_capacity`, or 1024.
    pub(super) capacity: u32,
}

/// All CPUs that are online, by number.
#[derive(Debug)]
pub(super) struct Sites<'a> {
    pub(super) topology: &'a Topology,
    sites: Vec<Site>,
    /// The kernel's numbers of the nodes that have CPUs. `None` stands for the CPUs that are in no node.
    pub(super) nodes: Vec<Option<u32>>,
}

/// `cpu_capacity` of the fastest CPU (Documentation/scheduler/sched-capacity.rst).
pub(super) const FULL_CAPACITY: u32 = 1024;

impl<'a> Sites<'a> {
    pub(super) fn new(topology: &'a Topology) -> Self {
        let cpus = topology.cpus();
        let mut nodes: Vec<Option<u32>> = cpus.iter().map(|cpu| cpu.node).collect();
        nodes.sort_unstable_by_key(|node| (node.is_none(), *node));
        nodes.dedup();
        let sites = cpus.iter().map(|cpu| {
            let node = nodes.partition_point(|node| (node.is_none(), *node) < (cpu.node.is_none(), cpu.node));
            Site {
                cpu: cpu.id,
                core: cpu.core,
                node,
                cache: topology.caches().len() + node,
                capacity: cpu.capacity.map_or(FULL_CAPACITY, |capacity| capacity.max(1)),
            }
        });
        let mut sites = Self { topology, sites: sites.collect(), nodes };
        // They are sorted by level, so that the last one that holds a CPU is its last level.
        for (number, cache) in topology.caches().iter().enumerate() {
            if cache.kind != CacheKind::Instruction {
                for cpu in &cache.cpus {
                    if let Some(index) = sites.index(cpu) {
                        sites.sites[index].cache = number;
                    }
                }
            }
        }
        sites
    }

    fn index(&self, cpu: u32) -> Option<usize> {
        // Most machines number their CPUs without a hole.
        match self.sites.get(cpu as usize) {
            Some(site) if site.cpu == cpu => Some(cpu as usize),
            _ => self.sites.binary_search_by_key(&cpu, |site| site.cpu).ok(),
        }
    }

    pub(super) fn get(&self, cpu: u32) -> Option<&Site> {
        self.index(cpu).map(|index| &self.sites[index])
    }

    pub(super) fn of<'s>(&'s self, cpus: &'s CpuSet) -> impl Iterator<Item = &'s Site> + 's {
        cpus.iter().filter_map(|cpu| self.get(cpu))
    }

    /// How far two nodes are, as [`Topology::distance`].
    pub(super) fn distance(&self, from: usize, to: usize) -> u32 {
        match (self.nodes[from], self.nodes[to]) {
            (Some(from), Some(to)) => self.topology.distance(from, to),
            _ if from == to => 10,
            _ => 20,
        }
    }

    /// The nodes with CPUs, nearest first, then by number.
    pub(super) fn nearest(&self, from: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_cached_key(|&node| (node != from, self.distance(from, node), node));
        order
    }

    /// The node that memory comes from for a CPU of `node`: its own, or the nearest that has memory and is allowed. `None`
    /// where there is none to choose.
    pub(super) fn memory(&self, node: usize) -> Option<u32> {
        let own = self.nodes[node]?;
        let usable = |id: u32| {
            self.topology.allowed_nodes().contains(id)
                && self.topology.node(id).is_some_and(|node| node.memory != Some(0))
        };
        if usable(own) {
            return Some(own);
        }
        let others = self.topology.nodes().iter().map(|node| node.id).filter(|&id| usable(id));
        others.min_by_key(|&id| (self.topology.distance(own, id), id))
    }
}
