//! Virtual machines on a machine: each virtual CPU on a CPU of its own, those of a machine side by side.
//!
//! ```
//! use lb_affinity::Topology;
//! use lb_affinity::plan::vcpu::VcpuPlanner;
//!
//! let topology = Topology::from_lscpu(include_str!("../../tests/fixtures/opteron-16.lscpu"))?;
//! let plan = VcpuPlanner::new(&topology).equal_shares(2)?;
//! assert_eq!(plan.machines[1].cpus, [8, 9, 10, 11, 12, 13, 14, 15]);
//! assert!(plan.machines[1].cputune().contains("<vcpupin vcpu='7' cpuset='15'/>"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::Write as _;

use super::sites::Sites;
use crate::{CpuSet, NodeSet, Topology};

/// Where virtual machines run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct VcpuPlan {
    /// The machines, in the order in which they were asked for.
    pub machines: Vec<Machine>,
}

/// Where a virtual machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Machine {
    /// The CPU of each virtual CPU, by number.
    pub cpus: Vec<u32>,
    /// CPUs of its nodes that no virtual CPU has, for the emulator's own threads; none if there is none.
    pub emulator: CpuSet,
    /// Its NUMA nodes.
    pub nodes: NodeSet,
    /// Why it is where it is, in one sentence.
    pub why: String,
}

impl Machine {
    /// The pins as libvirt reads them: a `<cputune>` element (libvirt, "Domain XML format", CPU Tuning).
    #[must_use]
    pub fn cputune(&self) -> String {
        let mut xml = "<cputune>\n".to_owned();
        for (vcpu, cpu) in self.cpus.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = writeln!(xml, "  <vcpupin vcpu='{vcpu}' cpuset='{cpu}'/>");
        }
        if !self.emulator.is_empty() {
            let _ = writeln!(xml, "  <emulatorpin cpuset='{}'/>", self.emulator);
        }
        xml + "</cputune>\n"
    }
}

/// Why virtual machines cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// There is nothing to place.
    #[error("no virtual machine is named; give at least one number of virtual CPUs")]
    NoMachines,
    /// A machine without a CPU.
    #[error("virtual machine {machine} has 0 virtual CPUs; give it at least 1")]
    NoVcpus {
        /// Its number, from 0.
        machine: usize,
    },
    /// There are more virtual CPUs than CPUs.
    #[error(
        "{vcpus} virtual CPUs do not fit on {cpus} CPUs; ask for fewer, let more CPUs be used, or allow over-commitment"
    )]
    TooMany {
        /// How many were asked for.
        vcpus: u64,
        /// How many CPUs there are.
        cpus: usize,
    },
    /// More than a plan is made for.
    #[error("{vcpus} virtual CPUs are more than {MOST}, the most that a plan is made for; ask for fewer")]
    Excessive {
        /// How many were asked for.
        vcpus: u64,
    },
    /// This process may use no CPU, or only isolated ones.
    #[error(
        "no CPU is left for virtual machines: allowed are {allowed:?}, isolated or without a tick are {isolated:?}; \
         widen the cpuset or the affinity of this process, or let machines use isolated CPUs"
    )]
    NoCpu {
        /// [`Topology::allowed`].
        allowed: Box<CpuSet>,
        /// [`Topology::isolated`] and [`Topology::nohz_full`].
        isolated: Box<CpuSet>,
    },
}

/// The most virtual CPUs of a plan.
pub const MOST: u32 = 1 << 20;

/// Makes a [`VcpuPlan`].
///
/// Virtual CPUs go to cores; to their siblings only when all machines together have more virtual CPUs than there are cores. A
/// machine that fits into a node is in one, if the others let it; one that does not fits into as few as can be.
#[derive(Clone, Debug)]
pub struct VcpuPlanner<'a> {
    topology: &'a Topology,
    isolated: bool,
    over_commit: bool,
}

/// The CPUs of a node, in order, and how many of them are taken.
#[derive(Clone)]
struct Room {
    cpus: Vec<u32>,
    taken: usize,
}

impl Room {
    fn free(&self) -> usize {
        self.cpus.len() - self.taken
    }

    fn take(&mut self, count: usize) -> impl Iterator<Item = u32> + '_ {
        let from = self.taken;
        self.taken += count;
        self.cpus[from..self.taken].iter().copied()
    }
}

impl<'a> VcpuPlanner<'a> {
    /// For a host.
    #[must_use]
    pub const fn new(topology: &'a Topology) -> Self {
        Self { topology, isolated: false, over_commit: false }
    }

    /// Lets machines use CPUs that are isolated (`isolcpus=`) or have no tick (`nohz_full=`).
    #[must_use]
    pub const fn use_isolated(mut self, isolated: bool) -> Self {
        self.isolated = isolated;
        self
    }

    /// Lets several virtual CPUs share a CPU, when they do not fit otherwise.
    #[must_use]
    pub const fn over_commit(mut self, over_commit: bool) -> Self {
        self.over_commit = over_commit;
        self
    }

    /// So many machines with as many virtual CPUs as cores each; with one each on siblings, when there are more machines than cores.
    ///
    /// # Errors
    /// As [`machines`](Self::machines).
    pub fn equal_shares(&self, machines: u32) -> Result<VcpuPlan, VcpuError> {
        if machines == 0 {
            return Err(VcpuError::NoMachines);
        }
        if machines > MOST {
            return Err(VcpuError::Excessive { vcpus: machines.into() });
        }
        let cores = u32::try_from(self.cores(&self.usable()?).len()).unwrap_or(u32::MAX);
        self.machines(&vec![(cores / machines).max(1); machines as usize])
    }

    /// Machines with these numbers of virtual CPUs.
    ///
    /// # Errors
    /// If there is no machine, one has no virtual CPU, or all do not fit and over-commitment is not allowed.
    pub fn machines(&self, vcpus: &[u32]) -> Result<VcpuPlan, VcpuError> {
        if vcpus.is_empty() {
            return Err(VcpuError::NoMachines);
        }
        if let Some(machine) = vcpus.iter().position(|&count| count == 0) {
            return Err(VcpuError::NoVcpus { machine });
        }
        let usable = self.usable()?;
        let wanted: u64 = vcpus.iter().map(|&count| u64::from(count)).sum();
        if wanted > u64::from(MOST) {
            return Err(VcpuError::Excessive { vcpus: wanted });
        }
        let fits = wanted <= usable.len() as u64;
        if !fits && !self.over_commit {
            return Err(VcpuError::TooMany { vcpus: wanted, cpus: usable.len() });
        }
        let sites = Sites::new(self.topology);
        let cores = self.cores(&usable);
        let units = if wanted <= cores.len() as u64 { &cores } else { &usable };
        let sizes: Vec<usize> = vcpus.iter().map(|&count| count as usize).collect();
        let rooms = rooms(&sites, units);
        let seats = if fits { place(&sites, rooms, &sizes) } else { over_committed(&rooms, &sizes) };

        let taken: CpuSet = seats.iter().flatten().copied().collect();
        let spare = &usable - &taken;
        // Whole cores that are free come before the siblings of busy ones.
        let busy_core = |cpu: u32| self.topology.siblings(cpu).is_some_and(|core| !core.is_disjoint(&taken));
        let spare_cores: CpuSet = spare.iter().filter(|&cpu| !busy_core(cpu)).collect();
        let mut spares = Spares::new(&sites, &spare, &spare_cores);
        let machines = seats.into_iter().map(|cpus| {
            let emulator = spares.of(&sites, &cpus);
            machine(&sites, cpus, emulator, fits)
        });
        Ok(VcpuPlan { machines: machines.collect() })
    }

    fn usable(&self) -> Result<CpuSet, VcpuError> {
        let set_apart = self.topology.isolated() | self.topology.nohz_full();
        let allowed = self.topology.allowed();
        let usable = if self.isolated { allowed.clone() } else { allowed - &set_apart };
        if usable.is_empty() {
            return Err(VcpuError::NoCpu {
                allowed: Box::new(allowed.clone()),
                isolated: Box::new(set_apart),
            });
        }
        Ok(usable)
    }

    /// The first CPU of each core.
    fn cores(&self, usable: &CpuSet) -> CpuSet {
        let cores = self.topology.cores().iter().filter_map(|core| (&core.cpus & usable).first());
        cores.collect()
    }
}

/// The nodes, by number, each with its CPUs core by core.
fn rooms(sites: &Sites<'_>, cpus: &CpuSet) -> Vec<Room> {
    let mut rooms = vec![Vec::new(); sites.nodes.len()];
    for site in sites.of(cpus) {
        rooms[site.node].push(*site);
    }
    let room = |mut cpus: Vec<super::sites::Site>| {
        cpus.sort_by_key(|site| (site.core, site.cpu));
        Room { cpus: cpus.iter().map(|site| site.cpu).collect(), taken: 0 }
    };
    rooms.into_iter().map(room).collect()
}

/// The CPUs of each machine. All fit.
fn place(sites: &Sites<'_>, rooms: Vec<Room>, sizes: &[usize]) -> Vec<Vec<u32>> {
    let largest = rooms.iter().map(|room| room.cpus.len()).max().unwrap_or(0);
    let in_order: Vec<usize> = (0..sizes.len()).collect();
    let mut by_size = in_order.clone();
    by_size.sort_by_key(|&machine| std::cmp::Reverse(sizes[machine]));
    // As they come; if that tears one apart, the large ones first; then whatever division there is.
    for order in [&in_order, &by_size] {
        if let Some(placed) = try_order(sites, rooms.clone(), sizes, order, largest) {
            return placed;
        }
    }
    search(sites, &rooms, sizes, &by_size, largest).unwrap_or_else(|| {
        // It cannot be avoided: those that fit stay whole, the rest take what is left.
        let mut rooms = rooms;
        let mut placed = vec![Vec::new(); sizes.len()];
        for &machine in &by_size {
            let size = sizes[machine];
            let fit = rooms.iter().position(|room| room.free() >= size);
            placed[machine] = match fit {
                Some(room) => rooms[room].take(size).collect(),
                None => across(sites, &mut rooms, size),
            };
        }
        placed
    })
}

/// Places machines in this order, each in the first node that holds it, those that no node can hold across the fewest. `None` if a
/// machine would be torn apart that a node could hold.
fn try_order(
    sites: &Sites<'_>,
    mut rooms: Vec<Room>,
    sizes: &[usize],
    order: &[usize],
    largest: usize,
) -> Option<Vec<Vec<u32>>> {
    let mut placed = vec![Vec::new(); sizes.len()];
    for &machine in order {
        let size = sizes[machine];
        placed[machine] = if size <= largest {
            let room = rooms.iter_mut().find(|room| room.free() >= size)?;
            room.take(size).collect()
        } else {
            across(sites, &mut rooms, size)
        };
    }
    Some(placed)
}

/// Takes CPUs of several nodes: a run of neighbours over the fewest nodes, else the nodes with the most room, nearest first.
fn across(sites: &Sites<'_>, rooms: &mut [Room], size: usize) -> Vec<u32> {
    let run = |first: usize| {
        let mut left = size;
        for (number, room) in rooms.iter().enumerate().skip(first) {
            // Only the first may be begun: its free CPUs are at its end.
            if number > first && room.taken > 0 && !room.cpus.is_empty()
                || number == first && room.free() == 0
            {
                return None;
            }
            left = left.saturating_sub(room.free());
            if left == 0 {
                return Some(number);
            }
        }
        None
    };
    let runs = (0..rooms.len()).filter_map(|first| run(first).map(|last| (last - first, first, last)));
    let nodes: Vec<usize> = match runs.min() {
        Some((_, first, last)) => (first..=last).collect(),
        None => {
            let roomiest = (0..rooms.len()).max_by_key(|&room| (rooms[room].free(), std::cmp::Reverse(room)));
            let start = roomiest.unwrap_or(0);
            let mut nodes = sites.nearest(start);
            nodes[1..].sort_by_key(|&room| {
                (sites.distance(start, room), std::cmp::Reverse(rooms[room].free()), room)
            });
            nodes
        }
    };
    let mut cpus = Vec::with_capacity(size);
    for node in nodes {
        let count = rooms[node].free().min(size - cpus.len());
        cpus.extend(rooms[node].take(count));
    }
    cpus
}

/// Looks for a division that tears no machine apart, large machines first, for a bounded number of steps.
fn search(
    sites: &Sites<'_>,
    rooms: &[Room],
    sizes: &[usize],
    by_size: &[usize],
    largest: usize,
) -> Option<Vec<Vec<u32>>> {
    const STEPS: usize = 100_000;
    let mut rooms = rooms.to_vec();
    let mut placed = vec![Vec::new(); sizes.len()];
    let large = by_size.iter().take_while(|&&machine| sizes[machine] > largest).count();
    for &machine in &by_size[..large] {
        placed[machine] = across(sites, &mut rooms, sizes[machine]);
    }
    let small = &by_size[large..];
    let mut free: Vec<usize> = rooms.iter().map(Room::free).collect();
    let mut choice = vec![0; small.len()];
    let (mut at, mut steps) = (0, 0);
    while at < small.len() {
        steps += 1;
        if steps > STEPS {
            return None;
        }
        let size = sizes[small[at]];
        // Of nodes with the same room one is tried.
        let next =
            (choice[at]..free.len()).find(|&node| free[node] >= size && !free[..node].contains(&free[node]));
        if let Some(node) = next {
            free[node] -= size;
            choice[at] = node + 1;
            at += 1;
        } else {
            choice[at] = 0;
            at = at.checked_sub(1)?;
            free[choice[at] - 1] += sizes[small[at]];
        }
    }
    for (&machine, node) in small.iter().zip(choice) {
        placed[machine] = rooms[node - 1].take(sizes[machine]).collect();
    }
    Some(placed)
}

/// All CPUs in turn, again and again.
fn over_committed(rooms: &[Room], sizes: &[usize]) -> Vec<Vec<u32>> {
    let mut cpus = rooms.iter().flat_map(|room| room.cpus.iter().copied()).cycle();
    sizes.iter().map(|&size| cpus.by_ref().take(size).collect()).collect()
}

/// The CPUs of each node that are left for emulators.
struct Spares {
    cores: Vec<CpuSet>,
    siblings: Vec<CpuSet>,
}

impl Spares {
    fn new(sites: &Sites<'_>, spare: &CpuSet, cores: &CpuSet) -> Self {
        let by_node = |cpus: &CpuSet| {
            let mut nodes = vec![CpuSet::new(); sites.nodes.len()];
            for site in sites.of(cpus) {
                nodes[site.node].insert(site.cpu);
            }
            nodes
        };
        Self { cores: by_node(cores), siblings: by_node(spare) }
    }

    fn of(&mut self, sites: &Sites<'_>, cpus: &[u32]) -> CpuSet {
        let mut nodes: Vec<usize> =
            cpus.iter().filter_map(|&cpu| sites.get(cpu)).map(|site| site.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let join = |of: &[CpuSet]| {
            let mut all = CpuSet::new();
            nodes.iter().for_each(|&node| all |= &of[node]);
            all
        };
        let cores = join(&self.cores);
        if cores.is_empty() { join(&self.siblings) } else { cores }
    }
}

fn machine(sites: &Sites<'_>, cpus: Vec<u32>, emulator: CpuSet, fits: bool) -> Machine {
    let nodes: NodeSet =
        cpus.iter().filter_map(|&cpu| sites.get(cpu)).filter_map(|site| sites.nodes[site.node]).collect();
    let why = match (fits, nodes.len()) {
        (false, _) => "There are fewer CPUs than virtual CPUs, so they share them in turn.".to_owned(),
        (true, 0) => "The machine has one memory, so neighbouring cores are as good as any.".to_owned(),
        (true, 1) => format!("All its virtual CPUs and its memory are in node {nodes}."),
        (true, _) => format!("No node has room for it, so it is spread over the nodes {nodes}."),
    };
    Machine { cpus, emulator, nodes, why }
}

#[cfg(test)]
mod tests;
