//! `/proc/cpuinfo`, for kernels and recordings without `cpuN/topology`, and for what `/sys` does not tell.

use super::TopologyError;
use super::files::Files;
use crate::cpu_set::MAX_ID;
use crate::fs::FileSystem;

/// What is told of each processor. Every architecture has a format of its own; these names are x86's and ia64's, and `processor`
/// is almost everybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Processor {
    pub(super) id: u32,
    /// `physical id`.
    pub(super) package: Option<i64>,
    /// `core id`.
    pub(super) core: Option<i64>,
}

#[derive(Default)]
pub(super) struct CpuInfo {
    /// By number.
    processors: Vec<Processor>,
    /// `vendor_id` and `cpu family`, of the processor that comes first.
    vendor: Option<String>,
    family: Option<u32>,
}

impl CpuInfo {
    /// Reads it, unless `held` has it.
    pub(super) fn get<'a, F: FileSystem>(
        held: &'a mut Option<Self>,
        files: &Files<'_, F>,
    ) -> Result<&'a Self, TopologyError> {
        Ok(match held {
            Some(info) => info,
            None => held.insert(Self::parse(&files.text("/proc/cpuinfo")?.unwrap_or_default())),
        })
    }

    /// What is no `name : value` is passed over: the formats hold much else.
    fn parse(text: &str) -> Self {
        let mut processors: Vec<Processor> = Vec::new();
        let (mut vendor, mut family) = (None, None);
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let (name, value) = (name.trim(), value.trim());
            match name {
                "vendor_id" if vendor.is_none() => vendor = Some(value.to_owned()),
                "cpu family" if family.is_none() => family = value.parse().ok(),
                _ => {}
            }
            // s390: `processor 0: version = FF, …`.
            let id = if name == "processor" { Some(value) } else { name.strip_prefix("processor ") };
            if let Some(id) = id.and_then(|id| id.trim().parse().ok()).filter(|&id| id <= MAX_ID) {
                processors.push(Processor { id, package: None, core: None });
            } else if let Some(last) = processors.last_mut() {
                match name {
                    "physical id" => last.package = value.parse().ok(),
                    "core id" => last.core = value.parse().ok(),
                    _ => {}
                }
            }
        }
        processors.sort_by_key(|processor| processor.id);
        processors.dedup_by_key(|processor| processor.id);
        Self { processors, vendor, family }
    }

    /// Bulldozer and its three successors.
    pub(super) fn is_amd_family_21(&self) -> bool {
        self.vendor.as_deref() == Some("AuthenticAMD") && self.family == Some(21)
    }

    pub(super) fn cpus(&self) -> impl Iterator<Item = u32> {
        self.processors.iter().map(|processor| processor.id)
    }

    pub(super) fn processor(&self, cpu: u32) -> Option<&Processor> {
        let at = self.processors.binary_search_by_key(&cpu, |processor| processor.id).ok()?;
        Some(&self.processors[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_several_architectures() {
        let told = |text| -> Vec<_> {
            let info = CpuInfo::parse(text);
            info.processors.iter().map(|one| (one.id, one.package, one.core)).collect()
        };
        let x86 = "processor\t: 1\nphysical id\t: 3\ncore id\t\t: 7\n\nprocessor\t: 0\nflags\t\t: a:b\n";
        assert_eq!(told(x86), [(0, None, None), (1, Some(3), Some(7))]);
        let s390 = "vendor_id : IBM/S390\nprocessor 0: version = FF\nprocessor 1: version = FF\n";
        assert_eq!(told(s390), [(0, None, None), (1, None, None)]);
        let arm = "Processor\t: ARMv7 rev 1\nprocessor\t: 0\nprocessor\t: 0\nprocessor : 70000\n";
        assert_eq!(told(arm), [(0, None, None)]);
        assert_eq!(told("core id : 1\n:\n\0"), []);
    }

    #[test]
    fn the_family_of_the_first_counts() {
        for (text, is_it) in [
            (
                "processor : 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 21\nprocessor : 1\ncpu family : 6\n",
                true,
            ),
            ("vendor_id : AuthenticAMD\ncpu family : 23\n", false),
            ("vendor_id : GenuineIntel\ncpu family : 21\n", false),
            ("cpu family : 21\n", false),
            ("", false),
        ] {
            assert_eq!(CpuInfo::parse(text).is_amd_family_21(), is_it, "{text:?}");
        }
    }
}
