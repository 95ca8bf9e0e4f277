//! Which CPUs share a core, a cluster, a die and a package (`Documentation/admin-guide/cputopology.rst`).

use std::collections::{HashMap, HashSet};

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

    let packages = packages(files, online, info)?;
    let mut capacities = true;
    let mut numbered = HashMap::new();
    let mut places = Vec::with_capacity(online.len());
    for cpu in online {
        let package = packages.get(&cpu).copied().unwrap_or(-1);
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

/// The number of each CPU's package: the firmware's, or one below 0 where it gives none, or gives the same to two.
fn packages<F: FileSystem>(
    files: &Files<'_, F>,
    online: &CpuSet,
    info: &mut Option<CpuInfo>,
) -> Result<HashMap<u32, i64>, TopologyError> {
    let names = Names::new(&["package_cpus", "core_siblings", "package_cpus_list", "core_siblings_list"]);
    let groups = groups(files, online, &names, Kernels::All)?;
    let mut packages = HashMap::with_capacity(online.len());
    let mut used = HashSet::new();
    for cpu in online {
        let first = groups.get(&cpu).copied();
        let known = first.and_then(|first| packages.get(&first).copied());
        let package = if let Some(known) = known {
            known
        } else {
            let told = files.number(&format!("{CPU}/cpu{cpu}/topology/physical_package_id"))?;
            let told = told.filter(|&told: &i64| told >= 0);
            match (first, told) {
                (Some(first), told) => {
                    told.filter(|&told| used.insert(told)).unwrap_or(-1 - i64::from(first))
                }
                (None, Some(told)) => told,
                (None, None) => {
                    let processor = CpuInfo::get(info, files)?.processor(cpu);
                    processor.and_then(|processor| processor.package).unwrap_or(-1)
                }
            }
        };
        packages.insert(cpu, package);
    }
    Ok(packages)
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
