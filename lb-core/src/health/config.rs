//! The settings of one server's active checks.

use core::time::Duration;

use super::{ConfigError, Flapping, Observe};

/// How often to look at a server, and how many verdicts in a row change its state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Config {
    /// Passes in a row that bring a server up. At least 1, default 2.
    pub rise: u32,
    /// Failures in a row that take a server down. At least 1, default 3.
    pub fall: u32,
    /// The pause from the end of a probe to the next, while nothing changes. Above 0, default 2 s. Counted from
    /// the end, so that probes of one server never overlap however long they take.
    #[cfg_attr(feature = "serde", serde(with = "super::duration"))]
    pub interval: Duration,
    /// The pause while the state is in question: after the first contrary verdict, and before the first verdict of all.
    /// Default: `interval`.
    #[cfg_attr(
        feature = "serde",
        serde(with = "super::duration::option", skip_serializing_if = "Option::is_none")
    )]
    pub fast_interval: Option<Duration>,
    /// The pause while the server is down. Default: `interval`.
    #[cfg_attr(
        feature = "serde",
        serde(with = "super::duration::option", skip_serializing_if = "Option::is_none")
    )]
    pub down_interval: Option<Duration>,
    /// By how much a pause may differ from the one configured, in percent of it, from 0 to 50. Default 0.
    pub spread: u8,
    /// What to believe before the first verdict.
    pub initial: Initial,
    /// Whether the outcome of ordinary requests counts. Default: no.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub observe: Option<Observe>,
    /// Whether a server that falls again and again is held down. Default: no.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub flapping: Option<Flapping>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rise: 2,
            fall: 3,
            interval: Duration::from_secs(2),
            fast_interval: None,
            down_interval: None,
            spread: 0,
            initial: Initial::Up,
            observe: None,
            flapping: None,
        }
    }
}

impl Config {
    /// Checks the settings, as [`Checker::new`](super::Checker::new) does: for whoever reads a configuration and wants
    /// to know at once.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for the first number outside its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (name, count) in [("rise", self.rise), ("fall", self.fall)] {
            if count == 0 {
                return Err(ConfigError::out_of_range(name, count, "at least 1"));
            }
        }
        let intervals = [
            ("interval", Some(self.interval)),
            ("fast_interval", self.fast_interval),
            ("down_interval", self.down_interval),
        ];
        for (name, interval) in intervals {
            if interval.is_some_and(|interval| interval.is_zero()) {
                return Err(ConfigError::out_of_range(name, "0s", "longer than 0"));
            }
        }
        if self.spread > 50 {
            return Err(ConfigError::out_of_range("spread", self.spread, "from 0 to 50 percent"));
        }
        if let Some(observe) = &self.observe {
            observe.validate()?;
        }
        self.flapping.as_ref().map_or(Ok(()), Flapping::validate)
    }
}

/// What to believe of a server before its first verdict; HAProxy's `init-state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Initial {
    /// Up; goes down after `fall` failures.
    FullyUp,
    /// Up until proven otherwise: the first verdict, if it is a failure, takes it down. HAProxy's default.
    #[default]
    Up,
    /// Down until the first pass.
    Down,
    /// Down until `rise` passes.
    FullyDown,
}
