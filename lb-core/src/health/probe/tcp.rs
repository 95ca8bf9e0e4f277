//! Connects, and no more.

use core::time::Duration;
use std::net::SocketAddr;

use super::stream::{Deadline, Stream};
use super::{ConfigError, ProbeError, validate_timeout};

/// Passes when the server accepts a connection, which is then closed.
///
/// That the kernel accepts says little of the program behind it: one that hangs passes until its queue of
/// connections is full. [`HttpProbe`](super::HttpProbe) asks the program.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct TcpProbe {
    /// The longest it takes. Above 0, default 2 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::health::duration"))]
    pub timeout: Duration,
}

impl Default for TcpProbe {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(2) }
    }
}

impl TcpProbe {
    /// One that takes at most `timeout`.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        Self { timeout }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        validate_timeout(self.timeout)
    }

    pub(super) fn run(&self, address: SocketAddr) -> Result<(), ProbeError> {
        self.validate()?;
        Stream::connect(address, Deadline::after(self.timeout)).map(drop)
    }
}
