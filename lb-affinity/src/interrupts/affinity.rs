//! What the kernel says of one interrupt: `/proc/irq/IRQ`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::{Interrupts, InterruptsError, read};
use crate::CpuSet;
use crate::fs::FileSystem;

/// Where an interrupt may go and where it goes (Documentation/core-api/irq/irq-affinity.rst, Documentation/filesystems/proc.rst).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Affinity {
    /// The CPUs that it may go to (`smp_affinity_list`).
    pub allowed: CpuSet,
    /// Those that it goes to (`effective_affinity_list`): on x86 one. `None` if the kernel does not say, or has not set it up.
    pub effective: Option<CpuSet>,
    /// What its driver would like (`affinity_hint`). `None` if it has no wish.
    pub hint: Option<CpuSet>,
    /// The NUMA node of its device (`node`). `None` if it has none.
    pub node: Option<u32>,
}

impl Affinity {
    /// Reads `/proc/irq/IRQ`.
    ///
    /// # Errors
    /// If `smp_affinity_list` can't be read — the interrupt has gone, say — or a file is no set of CPUs. The other files may be missing.
    pub fn read(fs: &(impl FileSystem + ?Sized), irq: u32) -> Result<Self, InterruptsError> {
        let path = |name: &str| PathBuf::from(format!("/proc/irq/{irq}/{name}"));
        let set = |name: &str, parse: fn(&str) -> Result<CpuSet, _>| {
            let path = path(name);
            let content = read(fs, &path)?;
            parse(&String::from_utf8_lossy(&content)).map_err(|source| InterruptsError::Cpus { path, source })
        };
        let optional = |set| match set {
            Err(InterruptsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            set => set.map(|set: CpuSet| Some(set).filter(|set| !set.is_empty())),
        };
        Ok(Self {
            allowed: set("smp_affinity_list", str::parse)?,
            effective: optional(set("effective_affinity_list", str::parse))?,
            hint: optional(set("affinity_hint", CpuSet::parse_mask))?,
            // −1, and a node that is no number, are none.
            node: fs
                .read(&path("node"))
                .ok()
                .and_then(|node| String::from_utf8_lossy(&node).trim().parse().ok()),
        })
    }

    /// Those of all numbered interrupts of a sample, by number. What has no files of its own — one that has gone since, or one of the
    /// processors' — is left out.
    ///
    /// # Errors
    /// If a file is no set of CPUs.
    pub fn all(
        fs: &(impl FileSystem + ?Sized),
        interrupts: &Interrupts,
    ) -> Result<BTreeMap<u32, Self>, InterruptsError> {
        let irqs = interrupts.iter().filter_map(|(line, _)| line.irq);
        let known = irqs.filter_map(|irq| match Self::read(fs, irq) {
            Err(InterruptsError::Read { .. }) => None,
            affinity => Some(affinity.map(|affinity| (irq, affinity))),
        });
        known.collect()
    }

    /// The one CPU that it goes to, as far as the kernel says.
    #[must_use]
    pub fn cpu(&self) -> Option<u32> {
        let only = |set: &CpuSet| set.first().filter(|_| set.len() == 1);
        self.effective.as_ref().and_then(only).or_else(|| only(&self.allowed))
    }
}
