//! Putting values back: after a failure, after a crash, or because they are no longer wanted.

use std::collections::BTreeSet;
use std::fmt;

use super::journal::Journal;
use super::place::{Place, name_of};
use super::value::Value;
use super::write::Outcome;
use crate::Target;
use crate::fs::FileSystem;

/// What to do with a value that someone else has changed since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfChanged {
    /// Leave it and report it: who changed it last has the better knowledge. It stays in the journal, so that
    /// [`Overwrite`](Self::Overwrite) can follow.
    #[default]
    Leave,
    /// Put the original back all the same.
    Overwrite,
}

/// What became of one value that was to be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Return {
    /// The original is back, and was read back.
    PutBack,
    /// The original was there.
    WasThere,
    /// The file or the interface is gone, and with it what was set. It is dropped from the journal.
    Vanished,
    /// Someone else has changed it since; it was left.
    Changed {
        /// What is there now.
        is: Value,
    },
    /// It is of another network namespace, or follows channels that are, and was left for a restore there.
    Elsewhere {
        /// The namespace, `net:[4026531840]`.
        namespace: String,
    },
    /// The driver changed it along with the channels, which could not be put back: it is for when they can.
    Waits,
    /// It could not be put back.
    Failed(Outcome),
}

impl Return {
    /// Whether the value is still not the original, and stays in the journal.
    #[must_use]
    pub const fn is_left(&self) -> bool {
        matches!(self, Self::Changed { .. } | Self::Elsewhere { .. } | Self::Waits | Self::Failed(_))
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutBack => f.write_str("put back"),
            Self::WasThere => f.write_str("was there"),
            Self::Vanished => f.write_str("it is gone, and the setting with it"),
            Self::Changed { is } => write!(f, "left: someone else has set {is} since"),
            Self::Elsewhere { namespace } => {
                write!(
                    f,
                    "left: it is in network namespace {namespace}; restore there (`lsns --type net` lists them); if it is gone, remove the journal"
                )
            }
            Self::Waits => f.write_str("left: it follows the interface's channels, which are not back yet"),
            Self::Failed(outcome) => write!(f, "not put back: {outcome}"),
        }
    }
}

/// One line of [`Restored`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoredLine {
    /// The kernel's file, or the interface.
    pub target: Target,
    /// What it held before.
    pub original: Value,
    /// What became of it.
    pub outcome: Return,
}

impl fmt::Display for RestoredLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", name_of(&self.target), self.original, self.outcome)
    }
}

/// What was put back, in the order in which it was done: the last write first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// One a file or interface.
    pub lines: Vec<RestoredLine>,
    /// The journal was of an earlier boot. What it tells of is gone with that boot; the journal was taken away, nothing was written.
    pub of_another_boot: bool,
}

impl Restored {
    /// Whether nothing is left that is not as it was: no value that someone else changed, none of another namespace, none that could
    /// not be put back.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.lines.iter().any(|line| line.outcome.is_left())
    }
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.of_another_boot {
            return f.write_str("the journal was of an earlier boot: nothing to put back");
        }
        for (index, line) in self.lines.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Puts one value back, if what is there is `ours`, and reads it back.
pub(super) fn put_back(
    files: &impl FileSystem,
    place: &Place,
    original: &[u8],
    if_changed: IfChanged,
    ours: impl Fn(&Value) -> bool,
) -> Return {
    let failed = |refusal: Box<Outcome>| match *refusal {
        Outcome::Vanished => Return::Vanished,
        outcome => Return::Failed(outcome),
    };
    let wanted = place.value(original);
    let is = match place.read(files) {
        Ok(content) => place.value(&content),
        Err(refusal) => return failed(refusal),
    };
    if is == wanted {
        return Return::WasThere;
    }
    if if_changed == IfChanged::Leave && !ours(&is) {
        return Return::Changed { is };
    }
    match place.write(files, original).and_then(|()| place.read(files)) {
        Ok(content) if place.value(&content) == wanted => Return::PutBack,
        Ok(content) => {
            let is = place.value(&content);
            let meaning = format!("{wanted} was written, but it reads {is}");
            Return::Failed(Outcome::Failed { errno: None, meaning })
        }
        Err(refusal) => failed(refusal),
    }
}

/// Leaves one value for when the channels that it follows are back: their driver will go over it once more.
pub(super) fn wait(files: &impl FileSystem, place: &Place, original: &[u8]) -> Return {
    match place.read(files) {
        Ok(content) if place.value(&content) == place.value(original) => Return::WasThere,
        Ok(_) => Return::Waits,
        Err(refusal) if *refusal == Outcome::Vanished => Return::Vanished,
        Err(refusal) => Return::Failed(*refusal),
    }
}

/// Tells apart, before channels are put back, what of their followers is a stranger's: once a driver has gone over them, nobody can.
/// Those follow no more, and are left as others are. Says whether there are channels to put back.
pub(super) fn tell_strangers(files: &impl FileSystem, journal: &mut Journal, if_changed: IfChanged) -> bool {
    let differs = |place: &Place, original: &[u8]| {
        let is = place.value(&place.read(files).ok()?);
        Some(is).filter(|is| *is != place.value(original))
    };
    let mut away = BTreeSet::new();
    for entry in &journal.entries {
        if let Target::Channels(interface) = &entry.place.target
            && differs(&entry.place, &entry.original).is_some()
        {
            away.insert(interface.clone());
        }
    }
    for entry in &mut journal.entries {
        let Some(interface) = &entry.follows else { continue };
        let is_strange = || differs(&entry.place, &entry.original).is_some_and(|is| !entry.is_ours(&is));
        if !away.contains(interface) || (if_changed == IfChanged::Leave && is_strange()) {
            entry.follows = None;
        }
    }
    !away.is_empty()
}
