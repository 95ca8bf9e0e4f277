//! Where the workers run, and what of the network side goes with that.
//!
//! What can't be had is said and left undone: a director that is placed badly still serves.

use lb_affinity::apply::{Applier, DIRECTORY, IfChanged, OnFailure, Outcome, Report};
use lb_affinity::fs::Real;
use lb_affinity::interrupts::Interrupts;
use lb_affinity::nic::{Nic, NicError};
use lb_affinity::plan::{Planner, Receive};
use lb_affinity::socket::Steering;
use lb_affinity::{CpuSet, Setting, Target, Topology, thread};
use lb_examples::director::config::Affinity;

use crate::worker::Opened;

/// A plan that is in force until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// The CPUs of each worker.
    workers: Vec<CpuSet>,
    steering: Option<Steering>,
    applier: Option<Applier<Real>>,
}

impl Placement {
    /// Plans for `workers` workers, and applies what is not the workers' own to do.
    pub(crate) fn new(affinity: Option<&Affinity>, workers: usize) -> Self {
        let Some(affinity) = affinity else { return Self::default() };
        Self::plan(affinity, workers).unwrap_or_else(|reason| {
            eprintln!("director: affinity: {reason}; the system places the workers");
            Self::default()
        })
    }

    fn plan(affinity: &Affinity, workers: usize) -> Result<Self, String> {
        let topology = Topology::live().map_err(|error| error.to_string())?;
        let receive = match &affinity.interface {
            None => Receive::default(),
            Some(name) => receive(name).map_err(|error| error.to_string())?,
        };
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let planner = Planner::new(&topology).receive(receive).workers(workers).strategy(affinity.strategy);
        let plan = planner.plan().map_err(|error| error.to_string())?;
        for reason in &plan.reasons {
            eprintln!("director: affinity: {reason}");
        }
        let settings = plan.settings();
        let (applier, received) = if settings.is_empty() {
            (None, true)
        } else {
            apply(&settings, topology.nr_cpu_ids())
                .map_or((None, false), |(applier, report)| (Some(applier), is_received_as_planned(&report)))
        };
        let steering = if affinity.steering { steering(plan.steering(&topology), received) } else { None };
        let workers = plan.workers.into_iter().map(|worker| worker.cpus).collect();
        Ok(Self { workers, steering, applier })
    }

    /// Which worker's listener gets the connections of which CPU; `None` if the kernel spreads them.
    pub(crate) const fn steering(&self) -> Option<&Steering> {
        self.steering.as_ref()
    }

    /// The CPUs of a worker; `None` if the system places it.
    pub(crate) fn of(&self, worker: usize) -> Option<CpuSet> {
        self.workers.get(worker).cloned()
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        let Some(applier) = &mut self.applier else { return };
        match applier.restore(IfChanged::Leave) {
            Ok(restored) if restored.is_complete() => {}
            Ok(restored) => eprintln!("director: affinity: not all is as it was:\n{restored}"),
            Err(error) => eprintln!("director: affinity: {error}"),
        }
    }
}

/// Says what is steered, or why nothing is.
fn steering(planned: Option<Steering>, received: bool) -> Option<Steering> {
    let reason = match &planned {
        Some(steering) if received => {
            eprintln!("director: affinity: connections go from CPU to worker: {steering}");
            return planned;
        }
        Some(_) => "not every interrupt and RPS mask is as planned",
        None => {
            "it takes several workers, an `interface` with several CPUs that are known to receive, and a strategy \
             without RFS"
        }
    };
    eprintln!("director: affinity: no steering: {reason}; the kernel spreads connections");
    None
}

/// Steers the connections of new listeners, when all workers' listen: a socket's index is its worker's number, as they began to
/// in that order, and as an address's sockets are closed only all together.
pub(crate) fn steer(steering: Option<&Steering>, opened: &[Vec<Opened>]) {
    let (Some(steering), Some(first)) = (steering, opened.first()) else { return };
    for Opened { address, listener } in first {
        if let Err(error) = steering.attach(listener) {
            eprintln!("director: affinity: {address}: {error}; the kernel spreads its connections");
        }
    }
}

/// Puts the calling thread, a worker, in its place.
pub(crate) fn pin(worker: usize, cpus: &CpuSet) {
    if let Err(error) = thread::pin(cpus) {
        eprintln!("director: affinity: worker {worker}: {error}; the system places it");
    }
}

fn receive(interface: &str) -> Result<Receive, NicError> {
    let interrupts = Interrupts::read(&Real)?;
    Ok(Receive::from(&Nic::read(&Real, interface, &interrupts)?))
}

/// Applies what may be applied, and says what was left undone.
fn apply(settings: &[Setting], nr_cpu_ids: u32) -> Option<(Applier<Real>, Report)> {
    let applied = Applier::open(Real, DIRECTORY, nr_cpu_ids).and_then(|applier| {
        let mut applier = applier.on_failure(OnFailure::Continue);
        // To take that back would change it, which is for nobody but who asked for it: the link may restart.
        let queues = applier.changed()?.into_iter().find(|target| matches!(target, Target::Channels(_)));
        if let Some(Target::Channels(interface)) = queues {
            return Ok(Err(interface));
        }
        // A director that was killed has left what it applied.
        applier.restore(IfChanged::Leave)?;
        let report = applier.apply(settings)?;
        Ok(Ok((applier, report)))
    });
    match applied {
        Ok(Ok((applier, report))) => {
            for line in report.lines.iter().filter(|line| line.outcome.is_failure()) {
                eprintln!("director: affinity: left undone: {line}");
            }
            for warning in &report.warnings {
                eprintln!("director: affinity: {warning}");
            }
            Some((applier, report))
        }
        Ok(Err(interface)) => {
            eprintln!(
                "director: affinity: left undone: `affinity apply --queues` has changed the number of queues of {interface}; \
                 run `affinity restore` first to have the director place the network's work"
            );
            None
        }
        Err(error) => {
            eprintln!("director: affinity: left undone: {error}");
            None
        }
    }
}

/// Whether the CPUs that the plan wants to receive packets do so.
fn is_received_as_planned(report: &Report) -> bool {
    report.lines.iter().all(|line| {
        // A pending interrupt moves when it next comes.
        let is_set = matches!(line.outcome, Outcome::Applied | Outcome::Unchanged | Outcome::Pending { .. });
        is_set || matches!(line.setting, Setting::Xps { .. })
    })
}
