//! What a machine is doing, what can be done to it, and what it is doing then: one table for all hypervisors.

use std::fmt;

/// What a machine is doing. The states are libvirt's (`virDomainState`), and [`Unknown`](Self::Unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum State {
    /// The hypervisor has no state for it.
    NoState,
    /// It runs.
    Running,
    /// It runs, and waits for something: all its virtual CPUs are idle.
    Blocked,
    /// It stands still; its memory is kept.
    Paused,
    /// It was asked to shut down, and does.
    ShuttingDown,
    /// It is defined, and does not run.
    ShutOff,
    /// It ended badly.
    Crashed,
    /// It sleeps: its guest has suspended it to memory.
    Suspended,
    /// The hypervisor says something that is not known here, or can't be asked.
    Unknown,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NoState,
        Self::Running,
        Self::Blocked,
        Self::Paused,
        Self::ShuttingDown,
        Self::ShutOff,
        Self::Crashed,
        Self::Suspended,
        Self::Unknown,
    ];

    /// Whether it has a guest: memory that is lost when it is powered off.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Running
                | Self::Blocked
                | Self::Paused
                | Self::ShuttingDown
                | Self::Suspended
                | Self::Unknown
        )
    }

    /// The state after an operation that succeeds.
    ///
    /// | operation | from | to |
    /// |---|---|---|
    /// | start | shut off, crashed | running |
    /// | shut down | running, blocked | shutting down, until it is shut off |
    /// | power off | all but shut off | shut off |
    /// | reboot | running, blocked | running |
    /// | pause | running, blocked | paused |
    /// | resume | paused | running |
    /// | wake | suspended | running |
    /// | migrate live | running, blocked, paused | as before, on another host |
    /// | migrate cold | shut off | shut off, on another host |
    /// | clone | shut off, crashed | as before, with a copy beside it |
    /// | delete | shut off, crashed | no longer there |
    ///
    /// # Errors
    /// In every other state; the error names both.
    pub const fn after(self, operation: Operation) -> Result<Self, WrongState> {
        use Operation as O;
        use State as S;
        let after = match (operation, self) {
            (O::Start, S::ShutOff | S::Crashed)
            | (O::Reboot, S::Running | S::Blocked)
            | (O::Resume, S::Paused)
            | (O::Wake, S::Suspended) => S::Running,
            (O::ShutDown, S::Running | S::Blocked) => S::ShuttingDown,
            (O::PowerOff, S::ShutOff) => return Err(WrongState { operation, state: self }),
            (O::PowerOff, _) => S::ShutOff,
            (O::Pause, S::Running | S::Blocked) => S::Paused,
            (O::MigrateLive, S::Running | S::Blocked | S::Paused)
            | (O::MigrateCold, S::ShutOff)
            | (O::Clone | O::Delete, S::ShutOff | S::Crashed) => self,
            _ => return Err(WrongState { operation, state: self }),
        };
        Ok(after)
    }
}

impl fmt::Display for State {
    /// As `virsh` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoState => "no state",
            Self::Running => "running",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
            Self::ShuttingDown => "shutting down",
            Self::ShutOff => "shut off",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended",
            Self::Unknown => "unknown",
        })
    }
}

/// What changes a machine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Operation {
    /// Boots it.
    Start,
    /// Asks its guest to shut down, as its power button does.
    ShutDown,
    /// Takes its power.
    PowerOff,
    /// Asks its guest to start anew.
    Reboot,
    /// Stops its virtual CPUs.
    Pause,
    /// Lets a paused one go on.
    Resume,
    /// Wakes a suspended one.
    Wake,
    /// Moves it to another host while it runs.
    MigrateLive,
    /// Moves its definition to another host.
    MigrateCold,
    /// Makes another of it; its disks must stand still.
    Clone,
    /// Removes its definition.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Start,
        Self::ShutDown,
        Self::PowerOff,
        Self::Reboot,
        Self::Pause,
        Self::Resume,
        Self::Wake,
        Self::MigrateLive,
        Self::MigrateCold,
        Self::Clone,
        Self::Delete,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::ShutDown => "shut down",
            Self::PowerOff => "power off",
            Self::Reboot => "reboot",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Wake => "wake",
            Self::MigrateLive => "migrate live",
            Self::MigrateCold => "migrate cold",
            Self::Clone => "clone",
            Self::Delete => "delete",
        })
    }
}

/// An operation that the table does not have for a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} what is {state}: it must be {}", Needed(.operation))]
pub struct WrongState {
    /// What was to be done.
    pub operation: Operation,
    /// What the machine is doing.
    pub state: State,
}

/// The states that the table has for an operation, in words.
struct Needed<'a>(&'a Operation);

impl fmt::Display for Needed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut states = State::ALL.into_iter().filter(|state| state.after(*self.0).is_ok()).peekable();
        let mut first = true;
        while let Some(state) = states.next() {
            match (first, states.peek()) {
                (true, _) => {}
                (false, Some(_)) => f.write_str(", ")?,
                (false, None) => f.write_str(" or ")?,
            }
            write!(f, "{state}")?;
            first = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every state and every operation: the first letters of the states after them, or a dot.
    #[test]
    fn the_table() {
        let letter = |state: State| match state {
            State::NoState => 'N',
            State::Running => 'R',
            State::Blocked => 'B',
            State::Paused => 'P',
            State::ShuttingDown => 'D',
            State::ShutOff => 'O',
            State::Crashed => 'C',
            State::Suspended => 'S',
            State::Unknown => 'U',
        };
        let row = |operation: Operation| -> String {
            State::ALL.map(|state| state.after(operation).map_or('.', letter)).iter().collect()
        };
        let expected = [
            (Operation::Start, ".....RR.."),
            (Operation::ShutDown, ".DD......"),
            (Operation::PowerOff, "OOOOO.OOO"),
            (Operation::Reboot, ".RR......"),
            (Operation::Pause, ".PP......"),
            (Operation::Resume, "...R....."),
            (Operation::Wake, ".......R."),
            (Operation::MigrateLive, ".RBP....."),
            (Operation::MigrateCold, ".....O..."),
            (Operation::Clone, ".....OC.."),
            (Operation::Delete, ".....OC.."),
        ];
        for (operation, states) in expected {
            assert_eq!(row(operation), states, "{operation}");
        }
        assert_eq!(Operation::ALL.len(), expected.len());
    }

    #[test]
    fn an_error_names_both_states() {
        for (state, operation, said) in [
            (
                State::Running,
                Operation::Start,
                "cannot start what is running: it must be shut off or crashed",
            ),
            (
                State::ShutOff,
                Operation::MigrateLive,
                "cannot migrate live what is shut off: it must be running, blocked or paused",
            ),
            (State::Running, Operation::Resume, "cannot resume what is running: it must be paused"),
        ] {
            assert_eq!(state.after(operation).unwrap_err().to_string(), said);
        }
    }
}
