//! What is told: before a run, and after it.

use std::fmt;

use super::place::name_of;
use super::restore::Restored;
use super::value::Value;
use super::write::Outcome;
use crate::Setting;

/// What would be written, and only that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DryRun {
    /// What holds something else, in the order of the settings.
    pub changes: Vec<Change>,
    /// The settings whose value can't be read, and why.
    pub unreadable: Vec<(Setting, Outcome)>,
}

/// One line of a [`DryRun`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What would be set.
    pub setting: Setting,
    /// What is there.
    pub old: Value,
    /// What would be there.
    pub new: Value,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", name_of(&self.setting.target()), self.old, self.new)
    }
}

impl fmt::Display for DryRun {
    /// `eth0 rx-0 rps_cpus: none → 2-3,7`, one a line; `nothing to change` if it is so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = self.changes.iter().map(ToString::to_string);
        let unreadable = self
            .unreadable
            .iter()
            .map(|(setting, why)| format!("{}: {}", name_of(&setting.target()), told(setting, why)));
        let lines: Vec<String> = changes.chain(unreadable).collect();
        if lines.is_empty() { f.write_str("nothing to change") } else { f.write_str(&lines.join("\n")) }
    }
}

/// An outcome, as it is said of this setting.
fn told(setting: &Setting, outcome: &Outcome) -> String {
    match (setting, outcome) {
        (Setting::RpsSockFlowEntries { .. }, Outcome::Vanished) => {
            "not here: it is the whole machine's, and only the initial network namespace has the file; apply there"
                .to_owned()
        }
        _ => outcome.to_string(),
    }
}

/// What [`Applier::apply`](super::Applier::apply) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// One a setting, in their order.
    pub lines: Vec<Line>,
    /// What may undo it.
    pub warnings: Vec<Warning>,
    /// What was put back after a failure.
    pub rolled_back: Option<Restored>,
}

/// One line of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// What was to be set.
    pub setting: Setting,
    /// What was there before, if it could be read.
    pub old: Option<Value>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What may undo the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// irqbalance runs, and moves interrupts every 10 seconds.
    Irqbalance {
        /// Its process.
        pid: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Irqbalance { pid } => write!(
                f,
                "irqbalance (process {pid}) runs and will move interrupts; stop it, or ban the interrupts with --banirq"
            ),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, told(&self.setting, &self.outcome))?;
        match (&self.old, &self.outcome) {
            (
                Some(old),
                Outcome::Applied | Outcome::Trimmed { .. } | Outcome::Pending { .. } | Outcome::RolledBack,
            ) => write!(f, " (was {old})"),
            // It still holds what it held.
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.lines.iter().map(ToString::to_string).collect();
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        if let Some(restored) = self.rolled_back.as_ref().filter(|restored| !restored.lines.is_empty()) {
            lines.push(format!("rolled back:\n{restored}"));
        }
        f.write_str(&lines.join("\n"))
    }
}
