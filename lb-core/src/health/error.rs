//! What can be wrong with the settings of health checking.

use alloc::string::{String, ToString};
use core::fmt::Display;

/// A setting that makes no sense. The value that was to take it stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number outside its range.
    #[error("`{name}` is {value}: it has to be {accepted}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be.
        accepted: &'static str,
    },
}

impl ConfigError {
    pub(crate) fn out_of_range(name: &'static str, value: impl Display, accepted: &'static str) -> Self {
        Self::OutOfRange { name, value: value.to_string(), accepted }
    }
}
