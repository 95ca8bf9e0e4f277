//! What each CPU can do, on machines whose cores are of several kinds.
//!
//! Sources: `Documentation/scheduler/sched-capacity.rst`, `Documentation/ABI/testing/sysfs-devices-system-cpu` (`acpi_cppc`),
//! `Documentation/admin-guide/pm/intel_pstate.rst` (`base_frequency`), perf-intel-hybrid(1).

use super::files::Files;
use super::{CPU, TopologyError};
use crate::CpuSet;
use crate::fs::FileSystem;
use crate::topology::CpuPlace;

/// The fastest CPU's.
const FULL: u64 = 1024;

/// The counters of Intel's kinds of cores, whose `cpus` list them, and the capacity that a kind has where nothing measures it:
/// each has about 5/8 of the one before. (Firmware says 39 against 64 of Alder Lake, 28 against 43 of Lakefield.)
const KINDS: [(&str, u64); 3] = [("cpu_core", FULL), ("cpu_atom", 640), ("cpu_lowpower", 400)];

/// Measures of a CPU's performance below its directory; the first that tells CPUs apart is taken. The frequencies are in kHz, and
/// only compared.
const MEASURES: [&str; 3] = ["acpi_cppc/highest_perf", "cpufreq/cpuinfo_max_freq", "cpufreq/base_frequency"];

/// Fills in the CPUs' capacities, if they differ.
///
/// Arm's kernels tell them (`cpu_capacity`). Elsewhere they come of the kinds of Intel's cores, or of frequencies that differ by
/// more than a tenth: cores of one kind differ by less, in how far they go beyond their nominal frequency. Frequencies are read
/// below one CPU of each core.
pub(super) fn read<F: FileSystem>(
    files: &Files<'_, F>,
    places: &mut [CpuPlace],
) -> Result<(), TopologyError> {
    for (at, place) in places.iter_mut().enumerate() {
        let capacity = number(files, &format!("{CPU}/cpu{}/cpu_capacity", place.id))?;
        place.capacity = capacity.and_then(|capacity| capacity.try_into().ok());
        // All CPUs have the file, or none.
        if place.capacity.is_none() {
            if at > 0 {
                return Ok(());
            }
            break;
        }
    }
    if places.first().is_none_or(|place| place.capacity.is_some()) {
        return Ok(());
    }
    let kinds = kinds(files, places)?;
    let firsts: Vec<u32> =
        places.iter().filter(|place| place.core == i64::from(place.id)).map(|place| place.id).collect();
    let levels =
        if kinds.is_empty() { by_frequency(files, &firsts)? } else { by_kind(files, kinds, &firsts)? };
    for (cpus, capacity) in levels {
        for place in places.iter_mut() {
            // CPUs of a core are alike.
            if u32::try_from(place.core).is_ok_and(|first| cpus.contains(first)) {
                place.capacity = u32::try_from(capacity).ok();
            }
        }
    }
    Ok(())
}

/// CPUs that can do the same, and what.
type Level = (CpuSet, u64);

/// The CPUs of each of Intel's kinds and their default capacity; none if there are not two kinds.
fn kinds<F: FileSystem>(files: &Files<'_, F>, places: &[CpuPlace]) -> Result<Vec<Level>, TopologyError> {
    let online: CpuSet = places.iter().map(|place| place.id).collect();
    let mut kinds: Vec<Level> = Vec::new();
    for (name, capacity) in KINDS {
        let text = files.text(&format!("/sys/devices/{name}/cpus"))?;
        let cpus: CpuSet = text.and_then(|text| text.parse().ok()).unwrap_or_default();
        let cpus = kinds.iter().fold(&cpus & &online, |cpus, (others, _)| &cpus - others);
        if !cpus.is_empty() {
            kinds.push((cpus, capacity));
        }
    }
    if kinds.len() < 2 {
        kinds.clear();
    }
    Ok(kinds)
}

/// The kinds with their fastest CPU's measure instead of the default, if there is one that tells them apart.
fn by_kind<F: FileSystem>(
    files: &Files<'_, F>,
    kinds: Vec<Level>,
    firsts: &[u32],
) -> Result<Vec<Level>, TopologyError> {
    for measure in MEASURES {
        let Some(measured) = measured(files, measure, firsts)? else { continue };
        let fastest = |cpus: &CpuSet| {
            measured.iter().filter(|(cpu, _)| cpus.contains(*cpu)).map(|&(_, value)| value).max()
        };
        let Some(values) = kinds.iter().map(|(cpus, _)| fastest(cpus)).collect::<Option<Vec<u64>>>() else {
            continue;
        };
        let most = values.iter().copied().max().unwrap_or_default();
        if values.iter().any(|&value| value < most) {
            let scaled = kinds.into_iter().zip(values);
            return Ok(scaled.map(|((cpus, _), value)| (cpus, scale(value, most))).collect());
        }
    }
    Ok(kinds)
}

/// Levels by the first measure that differs by more than a tenth, where the frequencies say that there are any.
fn by_frequency<F: FileSystem>(files: &Files<'_, F>, firsts: &[u32]) -> Result<Vec<Level>, TopologyError> {
    let [_, frequencies @ ..] = MEASURES;
    let mut differ = false;
    for frequency in frequencies {
        differ |= measured(files, frequency, firsts)?.is_some_and(|measured| levels(measured).len() > 1);
    }
    if differ {
        for measure in MEASURES {
            let levels = measured(files, measure, firsts)?.map(levels).unwrap_or_default();
            if levels.len() > 1 {
                return Ok(levels);
            }
        }
    }
    Ok(Vec::new())
}

/// A measure of each of these CPUs; `None` unless all have it.
fn measured<F: FileSystem>(
    files: &Files<'_, F>,
    measure: &str,
    cpus: &[u32],
) -> Result<Option<Vec<(u32, u64)>>, TopologyError> {
    let mut measured = Vec::with_capacity(cpus.len());
    for &cpu in cpus {
        match number(files, &format!("{CPU}/cpu{cpu}/{measure}"))? {
            Some(value) => measured.push((cpu, value)),
            None => return Ok(None),
        }
    }
    Ok(Some(measured))
}

/// CPUs within a tenth of the fastest one of them are a level.
fn levels(mut measured: Vec<(u32, u64)>) -> Vec<Level> {
    measured.sort_unstable_by_key(|&(cpu, value)| (std::cmp::Reverse(value), cpu));
    let most = measured.first().map_or(1, |&(_, value)| value);
    let mut levels = Vec::new();
    let mut rest = measured.as_slice();
    while let Some(&(_, top)) = rest.first() {
        let count = rest.iter().take_while(|&&(_, value)| value >= top - top / 10).count();
        levels.push((rest[..count].iter().map(|&(cpu, _)| cpu).collect(), scale(top, most)));
        rest = &rest[count..];
    }
    levels
}

fn scale(value: u64, most: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(FULL) / u128::from(most.max(1));
    u64::try_from(scaled).unwrap_or(FULL).clamp(1, FULL)
}

/// A number above 0, or nothing where there is something else.
fn number<F: FileSystem>(files: &Files<'_, F>, path: &str) -> Result<Option<u64>, TopologyError> {
    let number = files.text(path)?.and_then(|text| text.parse().ok());
    Ok(number.filter(|&number| number > 0))
}
