//! The director's workers placed by the system, pinned, and with the network side laid out in every way that the machine allows,
//! under `wrk` over a pair of virtual interfaces with several queues, in network namespaces.
//!
//! Every layout has its own director, its own servers on loopback, and its own namespaces; all run at the same time, but only
//! one of them has load at any moment. The rounds are interleaved, and the one whose ratio is the median one counts.
//!
//! A virtual interface has no interrupt: the CPU that sends a packet receives it too, unless RPS hands it on. So RPS is what moves
//! the network side here, and the client's CPUs are the interrupt's.

mod compare;
mod flow_table;
mod lab;
mod layout;

use crate::Common;
use crate::row::Row;
use crate::serving::{Directory, Places, Proxy, Run, Servers, ServingError, Setup, Stop, Wrk, binary};
use compare::{Comparison, rows};
use flow_table::FlowTable;
use lab::{CLIENT, FRONT, LISTEN, Lab, Namespace};
use layout::{AGAIN, BY_SYSTEM, Layout, layouts};
use lb_affinity::apply::{Applier, ApplyError, DIRECTORY, dry_run};
use lb_affinity::fs::Real;
use lb_affinity::interrupts::{Interrupts, InterruptsError};
use lb_affinity::nic::{Nic, NicError};
use lb_affinity::plan::{PlanError, Receive};
use lb_affinity::thread::{self, ThreadError};
use lb_affinity::topology::TopologyError;
use lb_affinity::{Setting, Topology};
use std::path::Path;
use std::time::{Duration, Instant};

/// Why there is no experiment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExperimentError {
    /// Not root.
    #[error("{what}: not permitted")]
    Denied {
        /// What was tried.
        what: &'static str,
    },
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What it says.
        source: std::io::Error,
    },
    /// iproute2 said no.
    #[error("ip {arguments}: {says}")]
    Ip {
        /// What was tried.
        arguments: String,
        /// What it says.
        says: String,
    },
    /// The director did not do what its plan says.
    #[error("{name}: the director has not applied its plan within 10 s:\n{left}\nit says:\n{log}")]
    NotApplied {
        /// The layout.
        name: String,
        /// What is left to be done.
        left: String,
        /// Its output.
        log: String,
    },
    /// Proxy, servers, client.
    #[error(transparent)]
    Serving(#[from] ServingError),
    /// The machine.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The interrupts.
    #[error(transparent)]
    Interrupts(#[from] InterruptsError),
    /// The virtual interface.
    #[error(transparent)]
    Nic(#[from] NicError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// This thread's place.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// What is set beside the director.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl ExperimentError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// As many queues an interface has at most.
const MOST_QUEUES: usize = 8;
/// The client's connections for each worker.
const CONNECTIONS: usize = 64;
/// One run of the client: the shortest that `wrk` knows, so that rounds are many.
const LENGTH: Duration = Duration::from_secs(1);
/// How long all rounds may take together, and how long with `--quick`.
const TIME: [Duration; 2] = [Duration::from_secs(180), Duration::from_secs(30)];
/// Rounds that are enough where there is time for more.
const MOST_ROUNDS: u32 = 21;

/// Measures all layouts; none, and says so, where namespaces can't be made.
pub(super) fn run(director: Option<&Path>, common: &Common) -> Result<Vec<Row>, ExperimentError> {
    // Its namespaces are this thread's, and what it starts ends with it.
    let thread = std::thread::scope(|scope| scope.spawn(|| experiment(director, common)).join());
    match thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Err(ExperimentError::Denied { what }) => {
            eprintln!(
                "lb-peers: left out: pinned workers, RPS, RFS and steering beside workers placed by the OS. To {what} is not \
                 permitted: run it as root (sudo), in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN"
            );
            Ok(Vec::new())
        }
        result => result,
    }
}

fn experiment(director: Option<&Path>, common: &Common) -> Result<Vec<Row>, ExperimentError> {
    let home = Namespace::here()?;
    let stop = Stop::on_signals()?;
    let machine = Topology::live()?;
    let queues = machine.allowed().len().min(MOST_QUEUES);
    // First of all what needs rights: to build the director takes its time.
    let lab = Lab::new(&home, queues, &stop)?;
    home.enter()?;
    let binary = binary(director)?;
    let binary = std::path::absolute(&binary).map_err(ExperimentError::io("find the director"))?;
    let places = Places::divided(&machine);
    let topology = seen_by_the_director(&places)?;
    lab.director.enter()?;
    let receive = Receive::from(&Nic::read(&Real, FRONT, &Interrupts::read(&Real)?)?);
    drop(lab);
    home.enter()?;
    let mut layouts = layouts(&topology, &receive, places.are_apart())?;
    let mut table = match FlowTable::new(machine.nr_cpu_ids())
        .and_then(|mut table| table.during(Some(1), || Ok(())).map(|()| table))
    {
        Ok(table) => Some(table),
        Err(error) => {
            eprintln!("lb-peers: RFS is left out: {error}");
            layouts.retain(|layout| layout.table.is_none());
            None
        }
    };
    say_what_can_be_seen(&machine, &places);

    let directory = Directory::new()?;
    let bench = Bench { home, binary: &binary, directory: &directory, places: &places, queues, stop: &stop };
    let subjects = layouts.into_iter().enumerate();
    let mut subjects: Vec<Subject> = subjects
        .map(|(index, layout)| Subject::start(index, layout, &bench, &machine))
        .collect::<Result<_, _>>()?;
    let wrk = Wrk::new(&directory, &places, &stop, places.client().len().max(1))?;
    let mut measure = |subject: &Subject| {
        let load = || {
            subject.lab.client.enter()?;
            Ok(wrk.load(&subject.proxy, CONNECTIONS * subject.layout.workers, LENGTH)?)
        };
        match &mut table {
            Some(table) => table.during(subject.layout.table, load),
            None => load(),
        }
    };
    if !common.quick {
        for subject in &subjects {
            // Opens the connections to the servers, and grows the buffers.
            measure(subject)?;
        }
    }
    let (start, time) = (Instant::now(), TIME[usize::from(common.quick)]);
    for round in 0..common.rounds.unwrap_or(MOST_ROUNDS) as usize {
        // One more takes as long as those before it; whoever asks for a number of rounds has them all.
        let after_it = start.elapsed().mul_f64(1.0 + 1.0 / round.max(1) as f64);
        if common.rounds.is_none() && after_it > time {
            break;
        }
        // Whoever is first in one round is last in the next.
        for index in 0..subjects.len() {
            let index = (round + index) % subjects.len();
            let run = measure(&subjects[index])?;
            subjects[index].runs.push(run);
        }
    }
    Ok(report(&subjects, &machine, &places))
}

/// The machine with the CPUs that a director may use.
fn seen_by_the_director(places: &Places) -> Result<Topology, ExperimentError> {
    if !places.are_apart() {
        return Ok(Topology::live()?);
    }
    let before = thread::affinity()?;
    thread::pin(places.proxies())?;
    let topology = Topology::live();
    thread::pin(&before)?;
    Ok(topology?)
}

fn say_what_can_be_seen(machine: &Topology, places: &Places) {
    let count = machine.allowed().len();
    if places.are_apart() {
        let [director, client, servers] = [places.proxies(), places.client(), places.servers()];
        eprintln!(
            "lb-peers: the directors are on CPUs {director}, the client on {client}, the servers on {servers}"
        );
    } else {
        eprintln!(
            "lb-peers: {count} CPUs are too few to set some apart: client, servers and directors share them, only layouts of 1 and 2 \
             workers are possible, and what one gains another loses; 8 CPUs and more show the layouts themselves"
        );
    }
}

/// What all subjects have in common.
struct Bench<'a> {
    home: Namespace,
    binary: &'a Path,
    directory: &'a Directory,
    places: &'a Places,
    queues: usize,
    stop: &'a Stop,
}

/// A director that runs by a layout, and what was measured of it.
struct Subject {
    layout: Layout,
    runs: Vec<Run>,
    // Dropped in this order.
    proxy: Proxy,
    _servers: Servers,
    lab: Lab,
}

impl Subject {
    fn start(
        index: usize,
        layout: Layout,
        bench: &Bench<'_>,
        machine: &Topology,
    ) -> Result<Self, ExperimentError> {
        let lab = Lab::new(&bench.home, bench.queues, bench.stop)?;
        if bench.places.are_apart() {
            // The answers' protocol work would be the senders', the workers', otherwise.
            lab.client.enter()?;
            let cpus = bench.places.client();
            let steer = |queue| Setting::Rps { interface: CLIENT.into(), queue, cpus: cpus.clone() };
            set(&(0..bench.queues as u32).map(steer).collect::<Vec<_>>(), machine)?;
        }
        lab.director.enter()?;
        set(&layout.beside, machine)?;
        let servers = Servers::start(bench.places, bench.places.servers().len().max(1))?;
        let affinity = layout.affinity.clone();
        let setup = Setup { listen: LISTEN, servers: servers.addresses(), workers: layout.workers, affinity };
        let name = format!("director-{index}");
        let proxy = Proxy::director(&name, bench.binary, &setup, bench.directory, bench.places)?;
        wait_for_the_plan(&layout, &bench.directory.file(&format!("{name}.log")), machine)?;
        Ok(Self { layout, runs: Vec::new(), proxy, _servers: servers, lab })
    }
}

/// Sets it in the namespace where the calling thread is, with which it goes.
fn set(settings: &[Setting], machine: &Topology) -> Result<(), ExperimentError> {
    if !settings.is_empty() {
        Applier::open(Real, DIRECTORY, machine.nr_cpu_ids())?.apply(settings)?;
    }
    Ok(())
}

/// A director listens before it has applied its plan.
fn wait_for_the_plan(layout: &Layout, log: &Path, machine: &Topology) -> Result<(), ExperimentError> {
    let start = Instant::now();
    loop {
        let left = dry_run(&Real, &layout.plan, machine.nr_cpu_ids())?;
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let steers = log.contains("connections go from CPU to worker");
        if left.changes.is_empty() && left.unreadable.is_empty() && steers == layout.steers() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(10) {
            let left = format!("{left}; connections steered: {steers}");
            return Err(ExperimentError::NotApplied { name: layout.what.clone(), left, log });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The rows of all but the measures; says of each whether it differs by more than chance.
fn report(subjects: &[Subject], machine: &Topology, places: &Places) -> Vec<Row> {
    let all = machine.allowed().len();
    let cpus = match places.proxies().len() {
        0 => format!("{all} CPUs"),
        some => format!("{some} of {all} CPUs"),
    };
    let mut all_rows = Vec::new();
    let mut least = 0.0;
    eprintln!(
        "lb-peers: throughput beside the same workers placed by the OS; ± twice the standard error, or as far as equals differ:"
    );
    for subject in subjects {
        let Layout { what, workers, .. } = &subject.layout;
        let measure = subjects.iter().find(|other| other.layout.is_measure_of(&subject.layout));
        let Some(measure) = measure.filter(|_| what != BY_SYSTEM) else { continue };
        let plural = if *workers == 1 { "" } else { "s" };
        let name = format!("{workers} worker{plural} on {cpus}, {what}");
        let comparison = Comparison::new(&subject.runs, &measure.runs);
        let Comparison { ratio, noise } = comparison;
        let verdict = if what == AGAIN {
            least = (ratio - 1.0).abs();
            "equals"
        } else {
            comparison.verdict(least)
        };
        let noise = noise.max(least);
        let noise = if noise.is_finite() { format!("{noise:.3}") } else { "?".to_owned() };
        eprintln!("  {name}: {ratio:.3} ± {noise}: {verdict}");
        all_rows.extend(rows(&name, *workers, &subject.runs, &measure.runs, BY_SYSTEM));
    }
    all_rows
}
