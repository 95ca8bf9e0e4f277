//! Passive checks of one server: errors of ordinary requests that count as, or replace, a failed probe.

use super::ConfigError;

/// How the outcome of ordinary requests counts; HAProxy's `observe`, with `error-limit` and `on-error`.
///
/// Which outcome is an error is the caller's choice: for HAProxy's `layer4` a refused or broken connection, for its
/// `layer7` also a 5xx answer or none that can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Observe {
    /// Errors in a row after which [`on_error`](Self::on_error) applies; then the count starts anew. At least 1,
    /// default 10.
    pub error_limit: u32,
    /// What happens then.
    pub on_error: OnError,
}

impl Default for Observe {
    fn default() -> Self {
        Self { error_limit: 10, on_error: OnError::FailCheck }
    }
}

impl Observe {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        match self.error_limit {
            0 => Err(ConfigError::out_of_range("observe.error_limit", 0, "at least 1")),
            _ => Ok(()),
        }
    }
}

/// What happens when [`Observe::error_limit`] errors came in a row; HAProxy's `on-error`. Each of them also brings
/// the next probe forward to one fast interval from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum OnError {
    /// Only look soon (`fastinter`).
    FastInterval,
    /// Count as one failed check (`fail-check`, the default).
    #[default]
    FailCheck,
    /// One more failed check takes the server down (`sudden-death`).
    SuddenDeath,
    /// The server goes down at once (`mark-down`).
    MarkDown,
}
