//! `affinity apply` and `affinity restore`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use lb_affinity::apply::{Applier, ApplyError, DIRECTORY, IfChanged, OnFailure, dry_run};
use lb_affinity::fs::Real;
use lb_affinity::plan::Plan;
use lb_affinity::{Setting, Topology};

use crate::Fatal;
use crate::plan::{PlanningError, Wish, describe};
use crate::source::SourceError;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    wish: Wish,
    /// First give the interface as many queues as the plan says it should have, then plan for these: its link may restart
    #[arg(long, requires = "nic")]
    queues: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// When a value is refused, apply the others all the same
    #[arg(long)]
    keep_going: bool,
    /// Where the original values are kept
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArguments {
    /// Put values back that someone else has changed since
    #[arg(long)]
    force: bool,
    /// Where the original values are kept
    #[arg(long, value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
}

/// What keeps a plan from being applied or taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyingError {
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Plan(#[from] PlanningError),
    #[error(
        "the plan writes nothing: name the interface with --nic, or choose a strategy that moves network work"
    )]
    Nothing,
}

impl Arguments {
    fn plan(&self, topology: &Topology) -> Result<Plan, PlanningError> {
        let planner = self.wish.planner(topology, &Real, true)?;
        Ok(self.wish.staffed(&planner).plan()?)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Fatal> {
    let topology = Topology::live().map_err(SourceError::Live)?;
    let mut plan = arguments.plan(&topology)?;
    let first: Vec<Setting> = plan.queue_setting().filter(|_| arguments.queues).into_iter().collect();
    let settings = plan.settings();
    if first.is_empty() && settings.is_empty() {
        return Err(ApplyingError::Nothing.into());
    }
    let ids = topology.nr_cpu_ids();
    let mut out = io::stdout().lock();
    if arguments.dry_run {
        let shown = if first.is_empty() { &settings } else { &first };
        writeln!(out, "{}", dry_run(&Real, shown, ids).map_err(ApplyingError::from)?)?;
        if !first.is_empty() {
            writeln!(out, "The rest is planned for the queues and interrupts that there are then.")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut applier = Applier::open(Real, &arguments.directory, ids).map_err(ApplyingError::from)?;
    if arguments.keep_going {
        applier = applier.on_failure(OnFailure::Continue);
    }
    let report = applier.apply_then(&first, |_| {
        if !first.is_empty() {
            plan = arguments.plan(&topology)?;
        }
        Ok::<_, ApplyingError>(plan.settings())
    })?;
    write!(out, "{}", describe(&topology, &plan))?;
    writeln!(out, "\n{report}\nTake it back with `affinity restore`.")?;
    let failed = report.lines.iter().any(|line| line.outcome.is_failure());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn restore(arguments: &RestoreArguments) -> Result<ExitCode, Fatal> {
    let topology = Topology::live().map_err(SourceError::Live)?;
    let open = Applier::open(Real, &arguments.directory, topology.nr_cpu_ids());
    let if_changed = if arguments.force { IfChanged::Overwrite } else { IfChanged::Leave };
    let restored = open.and_then(|mut applier| applier.restore(if_changed)).map_err(ApplyingError::from)?;
    let mut out = io::stdout().lock();
    if restored.lines.is_empty() && !restored.of_another_boot {
        writeln!(out, "nothing to restore")?;
    } else {
        writeln!(out, "{restored}")?;
    }
    Ok(if restored.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
