//! Where the workers run, and what of the network side goes with that.
//!
//! What can't be had is said and left undone: a director that is placed badly still serves.

use lb_affinity::apply::{Applier, DIRECTORY, IfChanged, OnFailure};
use lb_affinity::fs::Real;
use lb_affinity::interrupts::Interrupts;
use lb_affinity::nic::{Nic, NicError};
use lb_affinity::plan::{Planner, Receive};
use lb_affinity::{CpuSet, Setting, Target, Topology, thread};
use lb_examples::director::config::Affinity;

/// A plan that is in force until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// The CPUs of each worker.
    workers: Vec<CpuSet>,
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
        let workers = plan.workers.into_iter().map(|worker| worker.cpus).collect();
        let applier = if settings.is_empty() { None } else { apply(&settings, topology.nr_cpu_ids()) };
        Ok(Self { workers, applier })
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
fn apply(settings: &[Setting], nr_cpu_ids: u32) -> Option<Applier<Real>> {
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
            Some(applier)
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
