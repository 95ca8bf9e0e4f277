//! What a checker hears and says: verdicts, transitions with their causes, and the phases between.

use alloc::string::{String, ToString};
use core::fmt;

use crate::clock::Timestamp;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server answered as it should.
    Pass,
    /// It did not, for this reason.
    Fail(String),
}

impl<T, E: fmt::Display> From<Result<T, E>> for Verdict {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Pass,
            Err(error) => Self::Fail(error.to_string()),
        }
    }
}

/// Why a server went down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Checks failed.
    Checks {
        /// How many in a row.
        failures: u32,
        /// What the last one found.
        last: String,
    },
    /// Ordinary requests failed, and [`OnError`](super::OnError) let that be enough.
    Traffic {
        /// How many in a row.
        errors: u32,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checks { failures: 1, last } => write!(f, "a check failed: {last}"),
            Self::Checks { failures, last } => {
                write!(f, "{failures} checks in a row failed, the last: {last}")
            }
            Self::Traffic { errors } => write!(f, "{errors} requests in a row failed"),
        }
    }
}

/// A server came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transition {
    /// It takes work again.
    Up {
        /// When.
        at: Timestamp,
    },
    /// It takes no more work.
    Down {
        /// When.
        at: Timestamp,
        /// Why.
        cause: Cause,
        /// It flaps, and does not come up before this moment.
        held_until: Option<Timestamp>,
    },
}

impl Transition {
    /// Whether the server is up after it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// When it happened.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Up { at } | Self::Down { at, .. } => *at,
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { .. } => f.write_str("up"),
            Self::Down { cause, held_until: None, .. } => write!(f, "down: {cause}"),
            Self::Down { at, cause, held_until: Some(end) } => {
                write!(f, "down: {cause}; it flaps, so it is held down for {:?}", end.saturating_since(*at))
            }
        }
    }
}

/// Where a server stands between up and down, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Up, and the last verdict was a pass.
    Up,
    /// Up, with failures in a row.
    Falling {
        /// How many so far.
        failures: u32,
        /// How many take it down.
        of: u32,
    },
    /// Down, and the last verdict was a failure.
    Down,
    /// Down, with passes in a row.
    Rising {
        /// How many so far.
        passes: u32,
        /// How many bring it up.
        of: u32,
    },
    /// Down, and held there because it flaps.
    Held {
        /// The end of the hold.
        until: Timestamp,
    },
}

/// `UP`, `UP 1/3`, `DOWN`, `DOWN 1/2`, `HELD`: HAProxy's way, where the fraction counts contrary verdicts.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up => f.write_str("UP"),
            Self::Falling { failures, of } => write!(f, "UP {failures}/{of}"),
            Self::Down => f.write_str("DOWN"),
            Self::Rising { passes, of } => write!(f, "DOWN {passes}/{of}"),
            Self::Held { .. } => f.write_str("HELD"),
        }
    }
}
