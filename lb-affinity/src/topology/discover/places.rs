//! Which CPUs share a core, a cluster, a die and a package (`Documentation/admin-guide/cputopology.rst`).

use std::collections::HashMap;

use super::cpuinfo::CpuInfo;
use super::files::{Files, Names};
use super::{CPU, TopologyError};
use crate::CpuSet;
use crate::fs::FileSystem;
use crate::topology::CpuPlace;

/// The lowest CPU of the group that each CPU is in, by CPU.
type Groups = HashMap<u32, u32>;

pub(super) fn read<F: FileSystem>(
    files: &Files<'_, F>,
    online: &CpuSet,
    info: &mut Option<CpuInfo>,
) -> Result<Vec<CpuPlace>, TopologyError> {
    let names = Names::new(&["core_cpus", "thread_siblings", "core_cpus_list", "thread_siblings_list"]);
    let cores = groups(files, online, &names, Kernels::All)?;
    let dies = groups(files, online, &Names::new(&["die_cpus", "die_cpus_list"]), Kernels::Some)?;
    let names = Names::new(&["cluster_cpus", "cluster_cpus_list"]);
    let clusters = groups(files, online, &names, Kernels::Some)?;

    let mut packages = Packages { files, online, groups: None, of: HashMap::new() };
    let mut capacities = true;
    let mut numbered = HashMap::new();
    let mut places = Vec::with_capacity(online.len());
    for cpu in online {
        let package = packages.package(cpu, cores.get(&cpu).copied(), info)?;
        let die = dies.get(&cpu).map_or(0, |&first| i64::from(first));
        let core = match cores.get(&cpu) {
            Some(&core) => core,
            // A core's number is unique in its die alone.
            None => match core_id(files, cpu, info)? {
                Some(id) => *numbered.entry((package, die, id)).or_insert(cpu),
                None => cpu,
            },
        };
        let capacity = if capacities { capacity(files, cpu)? } else { None };
        // All CPUs have the file, or none.
        capacities = capacity.is_some();
        let cluster = clusters.get(&cpu).map(|&first| first.into());
        places.push(CpuPlace { id: cpu, core: core.into(), cluster, die, package, capacity });
    }
    Ok(places)
}

/// Which kernels have a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernels {
    /// So that one CPU without it says nothing of the others.
    All,
    /// So that the first CPU without it speaks for all.
    Some,
}

/// Groups CPUs by a file of `cpuN/topology` that lists a CPU's group. It is read once a group. CPUs that no file names are missing.
fn groups<F: FileSystem>(
    files: &Files<'_, F>,
    online: &CpuSet,
    names: &Names,
    kernels: Kernels,
) -> Result<Groups, TopologyError> {
    let mut groups = Groups::with_capacity(online.len());
    for cpu in online {
        if groups.contains_key(&cpu) {
            continue;
        }
        let Some(cpus) = files.set(&format!("{CPU}/cpu{cpu}/topology"), names)? else {
            if groups.is_empty() && kernels == Kernels::Some {
                break;
            }
            continue;
        };
        groups.insert(cpu, cpu);
        for other in &(&cpus & online) {
            groups.entry(other).or_insert(cpu);
        }
    }
    Ok(groups)
}

struct Packages<'a, F> {
    files: &'a Files<'a, F>,
    online: &'a CpuSet,
    /// Read when a CPU has no number for its package.
    groups: Option<Groups>,
    /// What was found, by CPU.
    of: HashMap<u32, i64>,
}

impl<F: FileSystem> Packages<'_, F> {
    /// A CPU's package. `core` is the lowest CPU of its core, which was asked before.
    fn package(
        &mut self,
        cpu: u32,
        core: Option<u32>,
        info: &mut Option<CpuInfo>,
    ) -> Result<i64, TopologyError> {
        let package = match core.and_then(|core| self.of.get(&core)) {
            Some(&package) => package,
            None => self.read(cpu, info)?,
        };
        self.of.insert(cpu, package);
        Ok(package)
    }

    fn read(&mut self, cpu: u32, info: &mut Option<CpuInfo>) -> Result<i64, TopologyError> {
        let told = self.files.number(&format!("{CPU}/cpu{cpu}/topology/physical_package_id"))?;
        if let Some(told) = told.filter(|&told: &i64| told >= 0) {
            return Ok(told);
        }
        let groups = match &self.groups {
            Some(groups) => groups,
            None => {
                let names =
                    Names::new(&["package_cpus", "core_siblings", "package_cpus_list", "core_siblings_list"]);
                let groups = groups(self.files, self.online, &names, Kernels::All)?;
                self.groups.insert(groups)
            }
        };
        if let Some(&first) = groups.get(&cpu) {
            return Ok(-1 - i64::from(first));
        }
        let processor = CpuInfo::get(info, self.files)?.processor(cpu);
        Ok(processor.and_then(|processor| processor.package).unwrap_or(-1))
    }
}

fn core_id<F: FileSystem>(
    files: &Files<'_, F>,
    cpu: u32,
    info: &mut Option<CpuInfo>,
) -> Result<Option<i64>, TopologyError> {
    let told = files.number(&format!("{CPU}/cpu{cpu}/topology/core_id"))?;
    if let Some(told) = told {
        return Ok(Some(told).filter(|&id| id >= 0));
    }
    Ok(CpuInfo::get(info, files)?.processor(cpu).and_then(|processor| processor.core))
}

fn capacity<F: FileSystem>(files: &Files<'_, F>, cpu: u32) -> Result<Option<u32>, TopologyError> {
    let text = files.text(&format!("{CPU}/cpu{cpu}/cpu_capacity"))?;
    Ok(text.and_then(|text| text.parse().ok()))
}
