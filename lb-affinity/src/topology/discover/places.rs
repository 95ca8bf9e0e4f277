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
    let mut cores = groups(files, online, &names, Kernels::All)?;
    if has_modules(files, &cores, info)? {
        cores = online.iter().map(|cpu| (cpu, cpu)).collect();
    }
    let names = Names::new(&["die_cpus", "die_cpus_list"]);
    let dies = groups(files, online, &names, Kernels::Some { number: "die_id" })?;
    let names = Names::new(&["cluster_cpus", "cluster_cpus_list"]);
    let clusters = groups(files, online, &names, Kernels::Some { number: "cluster_id" })?;

    let packages = packages(files, online, info)?;
    let mut numbered = HashMap::new();
    let mut places = Vec::with_capacity(online.len());
    for cpu in online {
        let package = packages.number.get(&cpu).copied().unwrap_or(-1);
        let die = dies.get(&cpu).map_or(0, |&first| i64::from(first));
        let listed = cores.get(&cpu).copied();
        let core = match listed {
            Some(core) => core,
            // A core's number is unique in its die alone.
            None => match core_id(files, cpu, info)? {
                Some(id) => *numbered.entry((package, die, id)).or_insert(cpu),
                None => cpu,
            },
        };
        places.push(CpuPlace {
            id: cpu,
            core: core.into(),
            cluster: clusters.get(&cpu).map(|&first| first.into()),
            die,
            package,
            capacity: None,
            core_assumed: listed.is_none(),
            package_assumed: !packages.listed.contains_key(&cpu),
        });
    }
    Ok(places)
}

/// Which kernels have a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernels {
    /// So that one CPU without it says nothing of the others.
    All,
    /// So that the first CPU without it speaks for all, or one whose `number` is below 0: the kernel lists each CPU alone then,
    /// because the firmware told it of no such groups.
    Some { number: &'static str },
}

/// Groups CPUs by a file of `cpuN/topology` that lists a CPU's group. It is read once a group, below its lowest CPU. A list
/// without that CPU, or with one that is in another group already, is none: firmware errs. CPUs that are in no list are missing.
fn groups<F: FileSystem>(
    files: &Files<'_, F>,
    online: &CpuSet,
    names: &Names,
    kernels: Kernels,
) -> Result<Groups, TopologyError> {
    let mut groups = Groups::with_capacity(online.len());
    for (at, cpu) in online.iter().enumerate() {
        if groups.contains_key(&cpu) {
            continue;
        }
        let directory = format!("{CPU}/cpu{cpu}/topology");
        let cpus = files.set(&directory, names)?;
        if let (0, Kernels::Some { number }) = (at, kernels) {
            let number =
                files.text(&format!("{directory}/{number}"))?.and_then(|text| text.parse::<i64>().ok());
            if cpus.is_none() || number.is_some_and(|number| number < 0) {
                break;
            }
        }
        let Some(cpus) = cpus else { continue };
        let cpus = &cpus & online;
        if cpus.first() == Some(cpu) && !cpus.iter().any(|other| groups.contains_key(&other)) {
            groups.extend(cpus.iter().map(|other| (other, cpu)));
        }
    }
    Ok(groups)
}

/// Whether what the kernel calls siblings are AMD's modules of the years 2011 to 2016 (family 21): pairs of cores with one L2 and one
/// floating-point unit. Such siblings have core numbers of their own. The first with several CPUs speaks for all.
fn has_modules<F: FileSystem>(
    files: &Files<'_, F>,
    cores: &Groups,
    info: &mut Option<CpuInfo>,
) -> Result<bool, TopologyError> {
    let Some(first) = cores.iter().filter(|(cpu, first)| cpu != first).map(|(_, &first)| first).min() else {
        return Ok(false);
    };
    let mut numbers = HashSet::new();
    for (&cpu, _) in cores.iter().filter(|&(_, &core)| core == first) {
        let number = files.text(&format!("{CPU}/cpu{cpu}/topology/core_id"))?;
        if !number.is_some_and(|number| numbers.insert(number)) {
            return Ok(false);
        }
    }
    Ok(CpuInfo::get(info, files)?.is_amd_family_21())
}

struct Packages {
    /// The number of each CPU's package: the firmware's, or one below 0 where it gives none, or gives the same to two.
    number: HashMap<u32, i64>,
    /// Those that a list puts there.
    listed: Groups,
}

fn packages<F: FileSystem>(
    files: &Files<'_, F>,
    online: &CpuSet,
    info: &mut Option<CpuInfo>,
) -> Result<Packages, TopologyError> {
    let names = Names::new(&["package_cpus", "core_siblings", "package_cpus_list", "core_siblings_list"]);
    let listed = groups(files, online, &names, Kernels::All)?;
    let mut packages = HashMap::with_capacity(online.len());
    let mut used = HashSet::new();
    for cpu in online {
        let first = listed.get(&cpu).copied();
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
    Ok(Packages { number: packages, listed })
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
