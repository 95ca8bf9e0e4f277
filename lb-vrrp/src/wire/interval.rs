//! How often the active router advertises, as the wire can say it.

use core::fmt;
use core::time::Duration;

use super::Version;

/// The advertisement interval, in whole centiseconds: 1 to 25500 (version 2 has 1 to 255 whole seconds, version 3
/// 1 to 4095 centiseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u16", into = "u16")
)]
pub struct Interval(u16);

impl Interval {
    /// One second, the default of both RFCs.
    pub const DEFAULT: Self = Self(100);
    /// The longest that version 3 can say: 40.95 s.
    pub const MAX_V3: Self = Self(4095);
    /// The longest that version 2 can say: 255 s.
    pub const MAX_V2: Self = Self(25_500);

    /// `centiseconds` hundredths of a second.
    ///
    /// # Errors
    /// If it is 0 or above 25500.
    pub const fn from_centiseconds(centiseconds: u16) -> Result<Self, IntervalError> {
        if centiseconds == 0 || centiseconds > Self::MAX_V2.0 {
            return Err(IntervalError { centiseconds: centiseconds as u64 });
        }
        Ok(Self(centiseconds))
    }

    /// `seconds` whole seconds.
    ///
    /// # Errors
    /// If it is 0.
    pub const fn from_seconds(seconds: u8) -> Result<Self, IntervalError> {
        Self::from_centiseconds(seconds as u16 * 100)
    }

    /// In hundredths of a second.
    #[must_use]
    pub const fn centiseconds(self) -> u16 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }

    /// Whether `version` can say it: 1 to 255 whole seconds, or 1 to 4095 centiseconds.
    #[must_use]
    pub const fn fits(self, version: Version) -> bool {
        match version {
            Version::V2 => self.0.is_multiple_of(100),
            Version::V3 => self.0 <= Self::MAX_V3.0,
        }
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u16> for Interval {
    type Error = IntervalError;

    fn try_from(centiseconds: u16) -> Result<Self, IntervalError> {
        Self::from_centiseconds(centiseconds)
    }
}

impl From<Interval> for u16 {
    fn from(interval: Interval) -> Self {
        interval.0
    }
}

impl TryFrom<Duration> for Interval {
    type Error = IntervalError;

    /// Takes whole centiseconds only: nothing is rounded.
    fn try_from(duration: Duration) -> Result<Self, IntervalError> {
        let centiseconds = u64::try_from(duration.as_millis() / 10).unwrap_or(u64::MAX);
        match u16::try_from(centiseconds).map(Self::from_centiseconds) {
            Ok(Ok(interval)) if interval.duration() == duration => Ok(interval),
            _ => Err(IntervalError { centiseconds }),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(100) { write!(f, "{} s", self.0 / 100) } else { write!(f, "{} cs", self.0) }
    }
}

/// An advertisement interval that neither version can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an advertisement interval of {centiseconds} cs can't be sent: choose whole centiseconds from 0.01 s to 40.95 s \
     (version 3), or whole seconds from 1 to 255 (version 2)"
)]
pub struct IntervalError {
    /// What was asked for, in whole centiseconds.
    pub centiseconds: u64,
}
