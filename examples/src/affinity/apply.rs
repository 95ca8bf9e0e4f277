//! `affinity apply` and `affinity restore`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lb_affinity::apply::{Applier, ApplyError, DIRECTORY, IfChanged, OnFailure, Return, dry_run};
use lb_affinity::fs::Real;
use lb_affinity::nic::Nic;
use lb_affinity::plan::Plan;
use lb_affinity::{Setting, Topology};

use crate::Fatal;
use crate::plan::{PlanningError, Wish, explain};
use crate::source::SourceError;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    wish: Wish,
    /// First give the interface as many queues as the plan says it should have, then plan for these: its link may restart
    #[arg(long)]
    queues: bool,
    /// Only say what would change; needs no rights
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
    #[error("{error} with `{undo}`")]
    Unfinished { error: ApplyError, undo: String },
    #[error("without an interface there is nothing to write; name one with --nic ({there} are here)")]
    NoInterface { there: String },
    #[error(
        "the plan for {0} with strategy {1} leaves the network side as it is; choose one that does not, as balanced"
    )]
    Nothing(String, &'static str),
}

impl Arguments {
    fn plan(&self, topology: &Topology) -> Result<Plan, PlanningError> {
        let planner = self.wish.planner(topology, &Real, true, true)?;
        Ok(self.wish.staffed(&planner).plan()?)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Fatal> {
    let topology = Topology::live().map_err(SourceError::Live)?;
    let Some(interface) = &arguments.wish.nic else {
        let there = Nic::names(&Real).map_err(PlanningError::from)?.join(", ");
        return Err(ApplyingError::NoInterface { there }.into());
    };
    let mut plan = arguments.plan(&topology)?;
    let first: Vec<Setting> = plan.queue_setting().filter(|_| arguments.queues).into_iter().collect();
    let settings = plan.settings();
    if first.is_empty() && settings.is_empty() {
        return Err(ApplyingError::Nothing(interface.clone(), plan.strategy.name()).into());
    }
    let ids = topology.nr_cpu_ids();
    let mut out = io::stdout().lock();
    if arguments.dry_run {
        let shown = if first.is_empty() { &settings } else { &first };
        let changes = dry_run(&Real, shown, ids).map_err(ApplyingError::from)?;
        writeln!(out, "{changes}")?;
        if !first.is_empty() {
            writeln!(out, "The rest is planned for the queues and interrupts that there are then.")?;
        }
        return Ok(status(changes.unreadable.is_empty()));
    }
    let mut applier = Applier::open(Real, &arguments.directory, ids).map_err(ApplyingError::from)?;
    if arguments.keep_going {
        applier = applier.on_failure(OnFailure::Continue);
    }
    let undo = undo(&arguments.directory);
    let applied = applier.apply_then(&first, |_| {
        if !first.is_empty() {
            plan = arguments.plan(&topology)?;
        }
        Ok(plan.settings())
    });
    let report = applied.map_err(|error| match error {
        ApplyingError::Apply(error @ ApplyError::Unfinished { .. }) => {
            ApplyingError::Unfinished { error, undo: undo.clone() }
        }
        other => other,
    })?;
    let all = !report.lines.iter().any(|line| line.outcome.is_failure());
    shown(all, write!(out, "{}\n{report}\nTake it back with `{undo}`.\n", explain(&topology, &plan)))
}

pub(crate) fn restore(arguments: &RestoreArguments) -> Result<ExitCode, Fatal> {
    let mut out = io::stdout().lock();
    if !arguments.directory.exists() {
        writeln!(out, "nothing to restore: there is no {}", arguments.directory.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let topology = Topology::live().map_err(SourceError::Live)?;
    let open = Applier::open(Real, &arguments.directory, topology.nr_cpu_ids());
    let if_changed = if arguments.force { IfChanged::Overwrite } else { IfChanged::Leave };
    let restored = open.and_then(|mut applier| applier.restore(if_changed)).map_err(ApplyingError::from)?;
    if restored.lines.is_empty() && !restored.of_another_boot {
        writeln!(out, "nothing to restore")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{restored}\n");
    if restored.lines.iter().any(|line| matches!(line.outcome, Return::Changed { .. })) {
        text +=
            &format!("`{} --force` puts back what someone else has set, too.\n", undo(&arguments.directory));
    }
    shown(restored.is_complete(), out.write_all(text.as_bytes()))
}

/// The command that takes back what is kept in a directory.
fn undo(directory: &Path) -> String {
    if directory == Path::new(DIRECTORY) {
        "affinity restore".to_owned()
    } else {
        format!("affinity restore --directory {}", directory.display())
    }
}

/// How it ended, also if nobody reads what is said of it.
fn shown(all: bool, written: io::Result<()>) -> Result<ExitCode, Fatal> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(status(all)),
    }
}

fn status(all: bool) -> ExitCode {
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
