//! The caches (`cpuN/cache/indexM`; `Documentation/ABI/testing/sysfs-devices-system-cpu`).

use std::collections::HashMap;

use super::files::{Files, Names};
use super::{CPU, TopologyError};
use crate::CpuSet;
use crate::fs::FileSystem;
use crate::topology::{Cache, CacheKind, CpuPlace};

/// What a CPU has one of at most.
type Slot = (u8, CacheKind);

/// The caches of the CPUs that are online.
///
/// These files are the many: a cache is described below each CPU that shares it. So it is read below the first of them, and a CPU
/// whose caches are all known from others costs no more than a look at how many it has.
///
/// A cache is where its lowest CPU tells it to be, if none of its CPUs has such a cache already.
pub(super) fn read<F: FileSystem>(
    files: &Files<'_, F>,
    online: &CpuSet,
    places: &[CpuPlace],
) -> Result<Vec<Cache>, TopologyError> {
    let names = Names::new(&["shared_cpu_map", "shared_cpu_list"]);
    let mut caches = Vec::new();
    let mut known: HashMap<u32, Vec<Slot>> = HashMap::with_capacity(online.len());
    for cpu in online {
        let directory = format!("{CPU}/cpu{cpu}/cache");
        let indexes: CpuSet = files.numbered(&directory, "index")?;
        let mut unknown = indexes.len().saturating_sub(known.get(&cpu).map_or(0, Vec::len));
        // The shared caches, which are likelier known, come last.
        for index in &indexes {
            if unknown == 0 {
                break;
            }
            let directory = format!("{directory}/index{index}");
            let Some(slot) = slot(files, &directory)? else { continue };
            if known.get(&cpu).is_some_and(|slots| slots.contains(&slot)) {
                continue;
            }
            unknown -= 1;
            let Some(mut cpus) = files.set(&directory, &names)? else { continue };
            if cpus.is_empty() {
                cpus = core(places, cpu);
            }
            cpus &= online;
            let taken = |other| known.get(&other).is_some_and(|slots| slots.contains(&slot));
            if cpus.first() != Some(cpu) || cpus.iter().any(taken) {
                continue;
            }
            for other in &cpus {
                known.entry(other).or_default().push(slot);
            }
            let size = files.text(&format!("{directory}/size"))?.and_then(|text| bytes(&text));
            caches.push(Cache { level: slot.0, kind: slot.1, size, cpus });
        }
    }
    Ok(caches)
}

/// The CPUs of a CPU's core. Itanium's kernels listed none for the caches that all threads of a core share.
fn core(places: &[CpuPlace], cpu: u32) -> CpuSet {
    let core = places.iter().find(|place| place.id == cpu).map(|place| (place.package, place.core));
    places.iter().filter(|place| Some((place.package, place.core)) == core).map(|place| place.id).collect()
}

fn slot<F: FileSystem>(files: &Files<'_, F>, directory: &str) -> Result<Option<Slot>, TopologyError> {
    let Some(level) = files.number(&format!("{directory}/level"))? else { return Ok(None) };
    let kind = match files.text(&format!("{directory}/type"))?.as_deref() {
        Some("Data") => CacheKind::Data,
        Some("Instruction") => CacheKind::Instruction,
        _ => CacheKind::Unified,
    };
    Ok(Some((level, kind)))
}

/// `32K`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    // What is not known is 0 on some machines.
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        for (text, size) in [
            ("32K", Some(32 << 10)),
            ("8M", Some(8 << 20)),
            ("1G", Some(1 << 30)),
            ("512", Some(512)),
            ("0K", None),
            ("K", None),
            ("", None),
            ("-1K", None),
            ("99999999999999999K", None),
        ] {
            assert_eq!(super::bytes(text), size, "{text:?}");
        }
    }
}
