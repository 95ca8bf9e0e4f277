//! What goes wrong on a simulated host: by a seed, as planned, or because it does not answer.

use std::time::Duration;

use super::Sim;
use crate::error::VirtError;

/// What goes wrong with an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The host says no, in these words, and does nothing.
    Refused(String),
    /// The host does not hear it: nothing is done, and nothing answered.
    Unheard,
    /// The host does it, and the answer is lost. (Beside defining, deleting and migrations it is as [`Unheard`](Self::Unheard).)
    Unanswered,
}

/// What becomes of an operation that is done.
#[must_use]
pub(super) enum Fate {
    Answered,
    Lost(VirtError),
}

impl Fate {
    pub(super) fn answer<T>(self, result: T) -> Result<T, VirtError> {
        match self {
            Self::Answered => Ok(result),
            Self::Lost(error) => Err(error),
        }
    }
}

impl Sim {
    /// Lets a share of all operations that change something fail, from 0 to 1.
    #[must_use]
    pub fn faults(mut self, share: f64) -> Self {
        self.faults = (share.clamp(0.0, 1.0) * 1e6) as u32;
        self
    }

    /// Lets the next operation that changes something fail, with these words.
    pub fn fail_next(&mut self, words: &str) {
        self.fault(0, Fault::Refused(words.into()));
    }

    /// Lets an operation fail, after so many others that change something or ask for a migration; it counts from the fault planned
    /// before.
    pub fn fault(&mut self, after: u32, fault: Fault) {
        self.planned.push_back((after, fault));
    }

    /// Lets the host answer nothing, or again. Its machines go on.
    pub fn set_reachable(&mut self, reachable: bool) {
        self.reachable = reachable;
    }

    /// Whether it answers.
    pub(super) fn answers(&self, what: &str) -> Result<(), VirtError> {
        if self.reachable { Ok(()) } else { Err(timeout(format!("say something of {what}"))) }
    }

    /// Fails if it is this operation's lot.
    pub(super) fn luck(&mut self, operation: &str, name: &str) -> Result<(), VirtError> {
        match self.fate(operation, name)? {
            Fate::Answered => Ok(()),
            Fate::Lost(error) => Err(error),
        }
    }

    /// Fails if it is this operation's lot; else what becomes of its answer.
    pub(super) fn fate(&mut self, operation: &str, name: &str) -> Result<Fate, VirtError> {
        let operation = format!("{operation} {name}");
        let fault = match self.planned.front_mut() {
            Some((0, _)) => self.planned.pop_front().map(|(_, fault)| fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None if self.faults > 0 && self.random.u32(0..1_000_000) < self.faults => {
                Some(Fault::Refused("the fault that its seed has for it".into()))
            }
            None => None,
        };
        match fault {
            None => Ok(Fate::Answered),
            Some(Fault::Refused(words)) => Err(VirtError::Said { hypervisor: "sim", operation, words }),
            Some(Fault::Unheard) => Err(timeout(operation)),
            Some(Fault::Unanswered) => Ok(Fate::Lost(timeout(operation))),
        }
    }
}

fn timeout(operation: String) -> VirtError {
    VirtError::Timeout { hypervisor: "sim", operation, after: Duration::from_secs(1) }
}
