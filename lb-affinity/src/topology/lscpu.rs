//! `lscpu -p`: a machine's structure as a table (util-linux, `lscpu(1)`).

use std::collections::BTreeMap;

use super::{Cache, CacheKind, CpuPlace, Node, Parts, Topology};
use crate::CpuSet;
use crate::cpu_set::MAX_ID;

/// A text that is not the output of `lscpu -p`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LscpuError {
    /// No line begins with `#` and names the columns.
    #[error(
        "no header line (`# CPU,Core,Socket,Node,,L1d,…`) before the first CPU; use the output of `lscpu -p`"
    )]
    NoHeader,
    /// There is no column `CPU`.
    #[error("line {line}: the header has no column CPU; use `lscpu -p`, or name it among the columns")]
    NoCpuColumn {
        /// From 1.
        line: usize,
    },
    /// A value is no number.
    #[error("line {line}: {column} is {value:?}, which is not a number from 0 to {MAX_ID}")]
    Value {
        /// From 1.
        line: usize,
        /// As the header names it.
        column: String,
        /// What is there.
        value: String,
    },
    /// A CPU is named twice.
    #[error("line {line}: CPU {cpu} is there twice")]
    Twice {
        /// From 1.
        line: usize,
        /// The CPU.
        cpu: u32,
    },
    /// There is no CPU at all.
    #[error("no CPU is listed; use the output of `lscpu -p`")]
    NoCpu,
}

/// What a column tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Cpu,
    Core,
    Cluster,
    Socket,
    Node,
    Cache(u8, CacheKind),
    Online,
    Other,
}

impl Column {
    fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "cpu" => Self::Cpu,
            "core" => Self::Core,
            "cluster" => Self::Cluster,
            "socket" => Self::Socket,
            "node" => Self::Node,
            "online" => Self::Online,
            cache => Self::cache(cache).unwrap_or(Self::Other),
        }
    }

    /// `l1d`, `l2`.
    fn cache(name: &str) -> Option<Self> {
        let rest = name.strip_prefix('l')?;
        let kind = match rest.trim_start_matches(|digit: char| digit.is_ascii_digit()) {
            "d" => CacheKind::Data,
            "i" => CacheKind::Instruction,
            "" => CacheKind::Unified,
            _ => return None,
        };
        let level = rest.trim_end_matches(['d', 'i']).parse().ok()?;
        Some(Self::Cache(level, kind))
    }
}

/// The columns between two commas: one, or all caches (`L1d:L1i:L2`).
type Cell<'a> = Vec<(&'a str, Column)>;

/// What was read so far.
#[derive(Default)]
struct Table {
    seen: CpuSet,
    cpus: Vec<CpuPlace>,
    nodes: BTreeMap<u32, CpuSet>,
    /// By level, kind, and number.
    caches: BTreeMap<(u8, CacheKind, u32), CpuSet>,
}

impl Topology {
    /// Reads the output of `lscpu -p`, with whatever columns. Caches have no size there, nodes no memory and no distance; all
    /// CPUs are allowed. Without a column for it, a CPU is a core of its own, and all are in one package. There is no column for
    /// dies: each package is one.
    ///
    /// # Errors
    /// If the text has no header, or a value is no number.
    pub fn from_lscpu(text: &str) -> Result<Self, LscpuError> {
        let mut columns: Option<Vec<Cell<'_>>> = None;
        let mut table = Table::default();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if let Some(comment) = text.strip_prefix('#') {
                // The columns come in the last of the comments; before them are words.
                let cells = comment.trim().split(',').map(|cell| -> Cell<'_> {
                    cell.split(':').map(|name| (name, Column::named(name))).collect()
                });
                let cells: Vec<_> = cells.collect();
                let has =
                    |wanted: fn(Column) -> bool| cells.iter().flatten().any(|&(_, column)| wanted(column));
                if has(|column| column == Column::Cpu) {
                    columns = Some(cells);
                } else if columns.is_none() && has(|column| column != Column::Other) {
                    return Err(LscpuError::NoCpuColumn { line });
                }
            } else if !text.is_empty() {
                table.read(columns.as_ref().ok_or(LscpuError::NoHeader)?, line, text)?;
            }
        }
        if table.cpus.is_empty() {
            return Err(if columns.is_some() { LscpuError::NoCpu } else { LscpuError::NoHeader });
        }
        Ok(Self::assemble(table.into_parts()))
    }
}

impl Table {
    /// Takes one line: a CPU.
    fn read(&mut self, columns: &[Cell<'_>], line: usize, text: &str) -> Result<(), LscpuError> {
        let (mut cpu, mut core, mut package, mut node) = (None, None, None, None);
        let (mut caches, mut cluster, mut online) = (Vec::new(), None, true);
        let mut cells = text.split(',');
        let values = columns.iter().flat_map(|columns| {
            let mut values = cells.next().unwrap_or_default().split(':');
            columns.iter().map(move |&column| (column, values.next().unwrap_or_default().trim()))
        });
        for ((name, column), value) in values {
            if column == Column::Online {
                online = !matches!(value, "N" | "no" | "n");
                continue;
            }
            // What a machine does not have stays empty, but a line without its CPU says nothing.
            if column == Column::Other || matches!(value, "" | "-") && column != Column::Cpu {
                continue;
            }
            let number = value.parse::<u32>().ok().filter(|&number| number <= MAX_ID);
            let wrong = || LscpuError::Value { line, column: name.into(), value: value.into() };
            let number = number.ok_or_else(wrong)?;
            match column {
                Column::Cpu => cpu = Some(number),
                Column::Core => core = Some(i64::from(number)),
                Column::Cluster => cluster = Some(i64::from(number)),
                Column::Socket => package = Some(i64::from(number)),
                Column::Node => node = Some(number),
                Column::Cache(level, kind) => caches.push((level, kind, number)),
                Column::Online | Column::Other => {}
            }
        }
        let id = cpu.ok_or(LscpuError::NoCpuColumn { line })?;
        if !self.seen.insert(id) {
            return Err(LscpuError::Twice { line, cpu: id });
        }
        if online {
            self.cpus.push(CpuPlace {
                id,
                core: core.unwrap_or(-1 - i64::from(id)),
                cluster,
                package: package.unwrap_or(0),
                core_assumed: core.is_none(),
                package_assumed: package.is_none(),
                ..CpuPlace::default()
            });
            if let Some(node) = node {
                self.nodes.entry(node).or_default().insert(id);
            }
            for cache in caches {
                self.caches.entry(cache).or_default().insert(id);
            }
        }
        Ok(())
    }

    fn into_parts(self) -> Parts {
        let node = |(id, cpus)| Node { id, cpus, memory: None, distances: Vec::new() };
        let cache = |((level, kind, _), cpus)| Cache { level, kind, size: None, cpus };
        Parts {
            cpus: self.cpus,
            nodes: self.nodes.into_iter().map(node).collect(),
            caches: self.caches.into_iter().map(cache).collect(),
            possible: self.seen,
            ..Parts::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_machine_of_the_thesis() {
        let topology = Topology::from_lscpu(include_str!("../../tests/fixtures/opteron-16.lscpu")).unwrap();
        assert_eq!(topology.online().to_string(), "0-15");
        assert_eq!((topology.packages().len(), topology.cores().len(), topology.nodes().len()), (4, 16, 4));
        let caches = |level, kind| {
            let all = topology.caches().iter();
            all.filter(|cache| (cache.level, cache.kind) == (level, kind)).count()
        };
        assert_eq!(caches(1, CacheKind::Data), 16);
        assert_eq!(caches(1, CacheKind::Instruction), 16);
        assert_eq!((caches(2, CacheKind::Unified), caches(3, CacheKind::Unified)), (16, 4));
        assert_eq!(topology.node(1).map(|node| node.cpus.to_string()).as_deref(), Some("4-7"));
    }

    #[test]
    fn columns_come_in_any_order_and_may_be_missing() {
        let shared =
            Topology::from_lscpu("# Socket,CPU,L1d:L2,Online\n1,3,0:0,Y\n1,2,0:0,Y\n0,1,,N\n").unwrap();
        assert_eq!(shared.online().to_string(), "2-3");
        assert_eq!(shared.nr_cpu_ids(), 4, "the one that is offline counts");
        assert_eq!((shared.cores().len(), shared.nodes().len(), shared.caches().len()), (2, 0, 2));
        assert!(shared.cores().iter().all(|core| core.assumed) && !shared.packages()[0].assumed);
        assert_eq!(shared.last_level_cache(2).map(|cache| cache.cpus.to_string()).as_deref(), Some("2-3"));
    }

    #[test]
    fn clusters_are_told_on_demand() {
        let topology =
            Topology::from_lscpu("# CPU,Core,Socket,Cluster\n0,0,0,0\n1,1,0,0\n2,2,0,-\n").unwrap();
        let clusters: Vec<_> = topology.clusters().iter().map(|cluster| cluster.cpus.to_string()).collect();
        assert_eq!((clusters, topology.dies().len()), (vec!["0-1".to_owned()], 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, message) in [
            (
                "",
                "no header line (`# CPU,Core,Socket,Node,,L1d,…`) before the first CPU; use the output of `lscpu -p`",
            ),
            (
                "0,0\n",
                "no header line (`# CPU,Core,Socket,Node,,L1d,…`) before the first CPU; use the output of `lscpu -p`",
            ),
            (
                "# Core,Socket\n0,0",
                "line 1: the header has no column CPU; use `lscpu -p`, or name it among the columns",
            ),
            ("# CPU,Core\n0,x", "line 2: Core is \"x\", which is not a number from 0 to 65535"),
            ("# CPU,Core\n0,0\n-1,0", "line 3: CPU is \"-1\", which is not a number from 0 to 65535"),
            ("# CPU,Core\n,0", "line 2: CPU is \"\", which is not a number from 0 to 65535"),
            ("# CPU,Core\n70000,0", "line 2: CPU is \"70000\", which is not a number from 0 to 65535"),
            ("# CPU,Core\n0,0\n\n0,1", "line 4: CPU 0 is there twice"),
            ("# CPU,Core\n", "no CPU is listed; use the output of `lscpu -p`"),
        ] {
            assert_eq!(Topology::from_lscpu(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(lines in "(# ?[a-zA-Z0-9,: ]{0,20}|[0-9,:-]{0,20}|# CPU,Core,Socket,Node,,L1d,L9|\n){0,30}") {
            let _ = Topology::from_lscpu(&lines);
        }
    }
}
