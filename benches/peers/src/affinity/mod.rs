//! `affinity`: discovery beside Debian's `lstopo`, plans against their bound, sets beside a crate's, and what placement is worth to a
//! director under load.

mod experiment;

use std::collections::HashMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use fixedbitset::FixedBitSet;
use lb_affinity::fs::{Real, Rooted};
use lb_affinity::plan::{Planner, Queue, Receive};
use lb_affinity::{CpuSet, Topology};

use crate::Common;
use crate::measure::{Plan, Subject, interleaved, median};
use crate::row::Row;

/// What to measure with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// A recorded machine to discover: a tar of hwloc's collection.
    #[arg(
        long,
        value_name = "TAR",
        default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/topologies/256ia64-64n2s2c.tar.bz2")
    )]
    recording: PathBuf,
    /// The director's binary; without it, `cargo build --release --bin director` of this repository makes one.
    #[arg(long, value_name = "PATH")]
    director: Option<PathBuf>,
    /// Only what has this in its name: "discover", "plans", "sets", "experiment".
    #[arg(long)]
    only: Option<String>,
}

/// What can't be measured with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AffinityError {
    #[error("{command}: {error}; install Debian's hwloc-nox, tar and bzip2")]
    Program { command: String, error: String },
    #[error("the recording {path}: {error}; name another one with --recording")]
    Recording { path: String, error: String },
    #[error(transparent)]
    Experiment(#[from] experiment::ExperimentError),
}

/// A plan's bound.
const BOUND: f64 = 1000.0;
const SIZES: [u32; 3] = [16, 256, 1024];

/// Measures all.
pub(crate) fn run(settings: &Settings, common: &Common) -> Result<Vec<Row>, AffinityError> {
    let wanted = |name: &str| settings.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    if wanted("discover") {
        rows.extend(discovery(settings, common.rounds(21))?);
    }
    if wanted("plans") {
        rows.extend(plans(common.plan()));
    }
    if wanted("sets") {
        rows.extend(sets(common.plan()));
    }
    if wanted("experiment") {
        rows.extend(experiment::run(settings.director.as_deref(), common)?);
    }
    Ok(rows)
}

/// Milliseconds. `lstopo` is a program: what it takes to start and to print a machine of one CPU is measured beside it, and the
/// second row leaves it out.
fn discovery(settings: &Settings, rounds: usize) -> Result<Vec<Row>, AffinityError> {
    let unpacked = Unpacked::new(&settings.recording)?;
    let recorded = Rooted::new(&unpacked.root);
    let root = unpacked.root.to_string_lossy().into_owned();
    let mut rows = Vec::new();
    let machines: [(&str, Vec<&str>, Option<&Rooted>); 2] =
        [("this machine", vec![], None), ("the recorded machine", vec!["--input", &root], Some(&recorded))];
    for (name, input, files) in machines {
        let (mut ours, mut theirs, mut start) = (Vec::new(), Vec::new(), Vec::new());
        let mut cpus = 0;
        for _ in 0..rounds {
            ours.push(milliseconds(|| {
                let topology = match files {
                    Some(files) => Topology::discover(files),
                    None => Topology::discover(&Real),
                };
                cpus = topology.map(|topology| topology.cpus().len()).map_err(|error| {
                    AffinityError::Recording { path: name.into(), error: error.to_string() }
                })?;
                Ok(())
            })?);
            theirs.push(milliseconds(|| lstopo(&input))?);
            start.push(milliseconds(|| lstopo(&["--input", "pu:1"]))?);
        }
        let [ours, theirs, start] = [ours, theirs, start].map(median);
        let row = |peer: f64, name_of_peer: &str| {
            Row::new(&format!("discover {name}"), cpus as u64, "ms", ours, peer, name_of_peer)
        };
        rows.push(row(theirs, "lstopo"));
        rows.push(row((theirs - start).max(f64::MIN_POSITIVE), "lstopo without its start"));
    }
    Ok(rows)
}

fn milliseconds(work: impl FnOnce() -> Result<(), AffinityError>) -> Result<f64, AffinityError> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

fn lstopo(input: &[&str]) -> Result<(), AffinityError> {
    // The same as is read here: no devices.
    run_program(
        Command::new("lstopo-no-graphics").args(["--of", "xml", "--no-io", "--disallowed"]).args(input),
    )
}

fn run_program(command: &mut Command) -> Result<(), AffinityError> {
    let name = format!("{command:?}");
    let failed = |error: String| AffinityError::Program { command: name.clone(), error };
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// A recording in a directory that is gone when this is dropped.
struct Unpacked {
    directory: PathBuf,
    /// What stands for `/`.
    root: PathBuf,
}

impl Unpacked {
    fn new(recording: &Path) -> Result<Self, AffinityError> {
        let failed =
            |error: String| AffinityError::Recording { path: recording.display().to_string(), error };
        let directory = std::env::temp_dir().join(format!("lb-peers-affinity-{}", std::process::id()));
        std::fs::create_dir_all(&directory).map_err(|error| failed(error.to_string()))?;
        let mut unpacked = Self { root: directory.clone(), directory };
        run_program(Command::new("tar").arg("-xf").arg(recording).arg("-C").arg(&unpacked.directory))?;
        let inside = unpacked.directory.read_dir().map_err(|error| failed(error.to_string()))?;
        let mut inside = inside.filter_map(|entry| Some(entry.ok()?.path()));
        unpacked.root = inside.next().ok_or_else(|| failed("nothing is in it".into()))?;
        Ok(unpacked)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory); // there is nobody to tell
    }
}

/// Microseconds for a plan: so many CPUs, four a node, and eight queues. There is no peer; the bound stands for one.
fn plans(plan: Plan) -> Vec<Row> {
    let machine = |cpus: u32| {
        let lines = (0..cpus).map(|cpu| format!("{cpu},{},{},{},{}\n", cpu / 2, cpu / 4, cpu / 4, cpu / 4));
        let table = format!("# CPU,Core,Socket,Node,L3\n{}", lines.collect::<String>());
        Topology::from_lscpu(&table).expect("the table has a header and numbers")
    };
    let machines = SIZES.map(machine);
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for (topology, cpus) in machines.iter().zip(SIZES) {
        let queues = (0..8).map(|queue| Queue { irq: Some(100 + queue), ..Queue::default() }).collect();
        let receive = Receive { queues, transmit_queues: 8, node: Some(0), ..Receive::default() };
        let planner = Planner::new(topology).receive(receive).workers(cpus / 2);
        subjects.push(Subject::new(cpus.to_string(), move |count| {
            for _ in 0..count {
                black_box(black_box(&planner).plan().expect("it can be planned"));
            }
        }));
    }
    let figures = interleaved(&mut subjects, plan);
    let row = |(cpus, nanoseconds): (u32, f64)| {
        Row::new(
            "a plan for so many CPUs",
            cpus.into(),
            "us",
            nanoseconds / 1000.0,
            BOUND,
            "the bound of 1 ms",
        )
    };
    SIZES.into_iter().zip(figures).map(row).collect()
}

/// Nanoseconds for operations on sets, beside a crate's of a size chosen at run time.
fn sets(plan: Plan) -> Vec<Row> {
    const PEER: &str = "fixedbitset";
    let mut rows = Vec::new();
    for cpus in SIZES {
        let ours = [(0..cpus).step_by(2).collect::<CpuSet>(), (cpus / 2..cpus).collect()];
        let theirs = [0, 1].map(|which| {
            let mut set = FixedBitSet::with_capacity(cpus as usize);
            ours[which].iter().for_each(|cpu| set.insert(cpu as usize));
            set
        });
        let last = cpus - 1;
        let ([a, b], [x, y]) = (&ours, &theirs);
        let mut subjects = vec![
            Subject::new("and", repeat(|| black_box(a) & black_box(b))),
            Subject::new("and, peer", repeat(|| black_box(x) & black_box(y))),
            Subject::new("subset", repeat(|| black_box(a).is_subset(black_box(b)))),
            Subject::new("subset, peer", repeat(|| black_box(x).is_subset(black_box(y)))),
            Subject::new("contains", repeat(|| black_box(a).contains(black_box(last)))),
            Subject::new("contains, peer", repeat(|| black_box(x).contains(black_box(last as usize)))),
            Subject::new("count", repeat(|| black_box(a).len())),
            Subject::new("count, peer", repeat(|| black_box(x).count_ones(..))),
        ];
        let figures = interleaved(&mut subjects, plan);
        let figures: HashMap<&str, f64> =
            subjects.iter().map(|subject| subject.name()).zip(figures).collect();
        for name in ["and", "subset", "contains", "count"] {
            let peer = figures[&*format!("{name}, peer")];
            rows.push(Row::new(&format!("CPU sets: {name}"), cpus.into(), "ns", figures[name], peer, PEER));
        }
    }
    rows
}

fn repeat<T>(work: impl Fn() -> T) -> impl Fn(u64) {
    move |count| (0..count).for_each(|_| drop(black_box(work())))
}
