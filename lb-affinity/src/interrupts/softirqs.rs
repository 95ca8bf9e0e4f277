//! `/proc/softirqs`: the work that interrupts leave behind, per CPU.

use std::path::Path;
use std::time::Duration;

use super::rates::{counted, per_second};
use super::{InterruptsError, parse_table, read};
use crate::fs::FileSystem;

/// A sample of `/proc/softirqs` (Documentation/filesystems/proc.rst): how often each CPU that is possible has done each kind of work since
/// the start. `NET_RX` is what RPS moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Softirqs {
    cpus: Vec<u32>,
    rows: Vec<(String, Vec<u64>)>,
}

impl Softirqs {
    /// Reads `/proc/softirqs`.
    ///
    /// # Errors
    /// If it can't be read, or is not what [`parse`](Self::parse) expects.
    pub fn read(fs: &(impl FileSystem + ?Sized)) -> Result<Self, InterruptsError> {
        Self::parse(&read(fs, Path::new("/proc/softirqs"))?)
    }

    /// Reads the content of `/proc/softirqs`.
    ///
    /// # Errors
    /// If the first line does not name CPUs, a line has no label, or a count is too large.
    pub fn parse(content: &[u8]) -> Result<Self, InterruptsError> {
        let mut rows = Vec::new();
        let (cpus, counts) = parse_table(content, |name, counts, _| rows.push((name.into_owned(), counts)))?;
        let rows = rows.into_iter().map(|(name, range)| (name, counts[range].to_vec())).collect();
        Ok(Self { cpus, rows })
    }

    /// The CPUs that the counts are of.
    #[must_use]
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// The kinds of work with their counts, in the order of [`cpus`](Self::cpus).
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.rows.iter().map(|(name, counts)| (&**name, &**counts))
    }

    /// The counts of a kind of work: `NET_RX`, `TIMER`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u64]> {
        self.iter().find(|(other, _)| *other == name).map(|(_, counts)| counts)
    }

    /// How often a second each CPU did a kind of work since `before`. Empty if a sample does not have it.
    ///
    /// # Errors
    /// If no time passed.
    pub fn rates(
        &self,
        before: &Self,
        name: &str,
        elapsed: Duration,
    ) -> Result<Vec<(u32, f64)>, InterruptsError> {
        let scale = per_second(elapsed)?;
        let (Some(old), Some(new)) = (before.get(name), self.get(name)) else { return Ok(Vec::new()) };
        let rate = |(cpu, &new): (&u32, &u64)| {
            let old = *old.get(before.cpus.binary_search(cpu).ok()?)?;
            Some((*cpu, counted(old, new) as f64 * scale))
        };
        Ok(self.cpus.iter().zip(new).filter_map(rate).collect())
    }
}
