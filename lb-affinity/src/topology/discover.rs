//! A topology from a system's files: what is online, and what the parts below make of it.
//!
//! Sources: `Documentation/admin-guide/cputopology.rst`, `Documentation/ABI/stable/sysfs-devices-system-cpu`,
//! `Documentation/ABI/stable/sysfs-devices-node`, `Documentation/ABI/testing/sysfs-devices-system-cpu`.

use std::io;
use std::path::PathBuf;

use super::{Parts, Topology};
use crate::CpuSet;
use crate::fs::{FileSystem, Real};

mod allowed;
mod caches;
mod capacities;
mod cpuinfo;
mod files;
mod nodes;
mod places;

use cpuinfo::CpuInfo;
use files::Files;

const CPU: &str = "/sys/devices/system/cpu";

/// A system whose structure can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// A file is there, but can't be read.
    #[error("can't read {}: {source}; {}", path.display(), cure(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file holds what the kernel does not write there.
    #[error(
        "{} holds {value:?}, which is not {expected}; correct or remove the file of a recorded machine, and report that of a live one to those who made the kernel",
        path.display()
    )]
    Value {
        /// The file.
        path: PathBuf,
        /// What it holds, its beginning if that is long.
        value: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// No CPU is online, for all that can be read.
    #[error(
        "no CPU is listed in {CPU}, nor in /proc/cpuinfo; mount sysfs, or name the directory that holds a recorded /sys"
    )]
    NoCpu,
}

/// What helps against a file that can't be read.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "allow this process to read it",
        _ => "correct or remove the file of a recorded machine",
    }
}

impl Topology {
    /// This machine, and what the calling thread may use of it: [`discover`](Self::discover) with the live system's files.
    ///
    /// ```no_run
    /// let topology = lb_affinity::Topology::live()?;
    /// println!("{} cores, {} of {} CPUs allowed", topology.cores().len(), topology.allowed().len(), topology.cpus().len());
    /// # Ok::<(), lb_affinity::topology::TopologyError>(())
    /// ```
    ///
    /// # Errors
    /// As [`discover`](Self::discover).
    pub fn live() -> Result<Self, TopologyError> {
        Self::discover(&Real)
    }

    /// Reads a system's structure from its `/sys` and `/proc`, live or recorded.
    ///
    /// What the kernel does not tell has a default. A file that is missing, empty or `(null)` does not tell, nor one that can't be
    /// read because it has no value (`EINVAL`) or its device goes (`ENODEV`).
    ///
    /// | not told | taken |
    /// |---|---|
    /// | `cpu/online` | the `cpuN` directories with a `topology`, if any has one, whose `online` is not 0; without any, the processors of `/proc/cpuinfo` |
    /// | `cpu/possible` | `cpu/present`; without it, the `cpuN` directories and what is online |
    /// | who shares a core (`core_cpus`, `thread_siblings`) | CPUs with the same package and `core_id`; without it, each CPU is a core |
    /// | who shares a package (`package_cpus`, `core_siblings`) | CPUs with the same `physical_package_id`; without it, all are in one |
    /// | `die_cpus` | a die is a package |
    /// | `cluster_cpus` | not known |
    /// | `cpu_capacity` | the kinds of Intel's cores (`/sys/devices/cpu_core/cpus`, `cpu_atom`, `cpu_lowpower`); without them, frequencies (`cpufreq`) that differ by more than a tenth; without them, all are alike |
    /// | a cache's `level` or `shared_cpu_map` | there is no such cache |
    /// | a cache's `type`, `Data` or `Instruction` | it holds both |
    /// | `node/online` | the `nodeN` directories; without any, node 0 has all CPUs and the memory of `/proc/meminfo` |
    /// | a node's directory | there is no such node |
    /// | a node's `cpumap` | it has no CPU |
    /// | `isolated`, `nohz_full` | no CPU |
    /// | cpuset and affinity | all may be used |
    ///
    /// Sizes, memory, capacity, frequencies and distances that are no numbers, and distances that are not as many as nodes are
    /// online, count as not told. Of each set there is a list too (`core_cpus_list`, `cpulist`); it is read where there is no mask.
    /// `core_id` and `die_id` are not asked where the kernel lists the CPUs, because some firmware repeats numbers. But where the
    /// first CPU's `die_id` or `cluster_id` is below 0, its kernel knows of none and lists each CPU alone: that is not told.
    ///
    /// A list that firmware got wrong, and what the kernel tells otherwise than it is:
    ///
    /// | told | taken |
    /// |---|---|
    /// | a list without the lowest CPU's word, or with CPUs of another one | not told; a cache is none |
    /// | a cache's list is of no CPU | it is its core's |
    /// | siblings of AMD's family 21, with numbers of their own | its modules: each sibling is a core |
    /// | `cpu/online` names CPUs without a directory, while others have one | they are not in the recording |
    /// | a node without CPUs is an NVIDIA GPU's memory (`/proc/driver/nvidia/gpus/*/numa_status`) | there is no such node |
    ///
    /// In all this it agrees with hwloc's `lstopo`. That may also know of the memory-side cache of Knights Landing, from a file of its
    /// own project; it is no CPU's.
    ///
    /// [`allowed`](Self::allowed) is what the cpuset (cgroup v1 or v2) and the affinity of the thread (`/proc/thread-self/status`)
    /// have in common.
    ///
    /// # Errors
    /// If a file that says what belongs together is garbled or can't be read, or no CPU is online.
    pub fn discover(system: &impl FileSystem) -> Result<Self, TopologyError> {
        let files = Files::new(system);
        let listed = files.numbered(CPU, "cpu")?;
        let mut info = None;
        let online = online(&files, &listed, &mut info)?;
        let possible = match files.list(&format!("{CPU}/possible"))? {
            Some(possible) => possible,
            None => files.list(&format!("{CPU}/present"))?.unwrap_or(listed),
        };
        let allowed = allowed::read(&files)?;
        let mut cpus = places::read(&files, &online, &mut info)?;
        capacities::read(&files, &mut cpus)?;
        Ok(Self::assemble(Parts {
            caches: caches::read(&files, &online, &cpus)?,
            cpus,
            nodes: nodes::read(&files, &online)?,
            possible,
            allowed: allowed.cpus,
            allowed_nodes: allowed.nodes,
            isolated: files.list(&format!("{CPU}/isolated"))?.unwrap_or_default(),
            nohz_full: files.list(&format!("{CPU}/nohz_full"))?.unwrap_or_default(),
        }))
    }
}

fn online<F: FileSystem>(
    files: &Files<'_, F>,
    listed: &CpuSet,
    info: &mut Option<CpuInfo>,
) -> Result<CpuSet, TopologyError> {
    let mut online = match files.list(&format!("{CPU}/online"))? {
        // Some recordings leave out most of a large machine.
        Some(online) if !online.is_disjoint(listed) => &online & listed,
        Some(online) => online,
        None => {
            let (mut online, mut placed) = (CpuSet::new(), CpuSet::new());
            for cpu in listed {
                // CPUs that can't be switched off have no such file.
                if files.text(&format!("{CPU}/cpu{cpu}/online"))?.as_deref() != Some("0") {
                    online.insert(cpu);
                    if !files.names(&format!("{CPU}/cpu{cpu}/topology"))?.is_empty() {
                        placed.insert(cpu);
                    }
                }
            }
            // A CPU that goes offline loses this directory, on kernels that have it.
            if placed.is_empty() { online } else { placed }
        }
    };
    if online.is_empty() {
        let info = CpuInfo::get(info, files)?;
        online = info.cpus().collect();
    }
    if online.is_empty() { Err(TopologyError::NoCpu) } else { Ok(online) }
}
