//! Probes: one question to one server, answered or not within a timeout.
//!
//! | probe | passes when | known as |
//! |---|---|---|
//! | [`TcpProbe`] | the server accepts a connection | HAProxy `check`, keepalived `TCP_CHECK`, ldirectord `checktype=connect` |
//! | [`HttpProbe`] | it answers a request with an expected status and, if asked for, an expected text | `option httpchk`, `HTTP_GET`, `negotiate` |
//! | [`CommandProbe`] (Unix) | a program exits with 0 | `external-check`, `MISC_CHECK`, `external` |
//!
//! They block, for at most their timeout: it bounds the whole probe, from the first packet to the last, so a server
//! that drips one byte a second fails like one that says nothing. They need no runtime; within one, they go where
//! blocking work goes (tokio's `spawn_blocking`).
//!
//! ```
//! use lb_core::health::probe::{HttpProbe, Probe};
//! # use std::io::{Read, Write};
//! # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let address = listener.local_addr()?;
//! # std::thread::spawn(move || {
//! #     let (mut stream, _) = listener.accept().unwrap();
//! #     stream.read(&mut [0; 1000]).unwrap();
//! #     stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nIt works. \n").unwrap();
//! # });
//!
//! let probe: Probe = HttpProbe::get("/index.html").host("www.example.com").expect_text("It works").into();
//! match probe.run(address) {
//!     Ok(took) => println!("{address} answered in {took:?}"),
//!     Err(error) => panic!("{error}"),
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use core::time::Duration;
use std::net::SocketAddr;
use std::time::Instant;

use super::ConfigError;

mod body;
#[cfg(unix)]
mod command;
mod error;
mod http;
mod status;
mod stream;
mod tcp;

#[cfg(unix)]
pub use command::CommandProbe;
pub use error::{ProbeError, Stage};
pub use http::HttpProbe;
pub use status::StatusSet;
pub use tcp::TcpProbe;

/// Any of the probes. See the [module](self).
///
/// In a configuration file the key `type` says which: `tcp`, `http` or `command`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "type", rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum Probe {
    /// Connects.
    Tcp(TcpProbe),
    /// Asks and listens.
    Http(HttpProbe),
    /// Runs a program.
    #[cfg(unix)]
    Command(CommandProbe),
}

impl Probe {
    /// Asks the server at `address` once, and blocks until it has answered or the timeout is over. Gives the time
    /// that it took.
    ///
    /// # Errors
    /// [`ProbeError`] when the server did not answer as it should: its message is what an operator needs to know.
    pub fn run(&self, address: SocketAddr) -> Result<Duration, ProbeError> {
        let started = Instant::now();
        match self {
            Self::Tcp(probe) => probe.run(address),
            Self::Http(probe) => probe.run(address),
            #[cfg(unix)]
            Self::Command(probe) => probe.run(address),
        }?;
        Ok(started.elapsed())
    }

    /// Checks the settings, as [`run`](Self::run) does each time: for whoever reads a configuration and wants to
    /// know at once.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that can never work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Tcp(probe) => probe.validate(),
            Self::Http(probe) => probe.validate(),
            #[cfg(unix)]
            Self::Command(probe) => probe.validate(),
        }
    }

    /// The longest that [`run`](Self::run) blocks.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Tcp(probe) => probe.timeout,
            Self::Http(probe) => probe.timeout,
            #[cfg(unix)]
            Self::Command(probe) => probe.timeout,
        }
    }
}

impl From<TcpProbe> for Probe {
    fn from(probe: TcpProbe) -> Self {
        Self::Tcp(probe)
    }
}

impl From<HttpProbe> for Probe {
    fn from(probe: HttpProbe) -> Self {
        Self::Http(probe)
    }
}

#[cfg(unix)]
impl From<CommandProbe> for Probe {
    fn from(probe: CommandProbe) -> Self {
        Self::Command(probe)
    }
}

/// A timeout that can ever be met.
fn validate_timeout(timeout: Duration) -> Result<(), ConfigError> {
    if timeout.is_zero() { Err(ConfigError::out_of_range("timeout", "0s", "longer than 0")) } else { Ok(()) }
}
