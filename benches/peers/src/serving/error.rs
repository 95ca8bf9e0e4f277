//! What can go wrong while proxies are under load.

use std::path::PathBuf;
use std::process::ExitStatus;
use thiserror::Error;

/// Why there is no figure.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum ServingError {
    /// A program is not installed.
    #[error("{program} is missing: apt-get install {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// Debian's package that has it.
        package: &'static str,
    },
    /// The file system, a socket or a process said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A proxy ended, or did not listen in time.
    #[error("{name} does not listen on {address} ({state}); it says:\n{log}")]
    NotListening {
        /// Which proxy.
        name: String,
        /// Where it should.
        address: std::net::SocketAddr,
        /// Whether it has ended.
        state: String,
        /// Its output.
        log: String,
    },
    /// The director could not be built.
    #[error("cargo build --release --bin director ends with {status}; see above, or give --director PATH")]
    Build {
        /// How cargo ended.
        status: ExitStatus,
    },
    /// A build without a binary.
    #[error("cargo says of no file that it is the director's binary; give it with --director PATH")]
    NoBinary,
    /// `--director` names nothing that can be run.
    #[error("--director {}: there is no such file; build it with cargo build --release --bin director", path.display())]
    NoSuchDirector {
        /// The path that was given.
        path: PathBuf,
    },
    /// The load generator did not end well, or its report cannot be read.
    #[error("wrk against {address} reports nothing that can be used; it says:\n{output}")]
    Wrk {
        /// What it asked.
        address: std::net::SocketAddr,
        /// All that it wrote.
        output: String,
    },
    /// The load generator does not end.
    #[error("wrk against {address} was to run for {seconds} s, and still does {limit} s later")]
    Overdue {
        /// What it asked.
        address: std::net::SocketAddr,
        /// How long it should.
        seconds: u64,
        /// How long it was waited for.
        limit: u64,
    },
    /// Ctrl-C.
    #[error("stopped by a signal; there are no figures")]
    Stopped,
    /// Requests failed, so the figures would compare errors.
    #[error("{failed} of {requests} requests to {address} failed; figures with errors compare nothing")]
    Failed {
        /// What was asked.
        address: std::net::SocketAddr,
        /// Socket errors, timeouts, and answers that are no success.
        failed: u64,
        /// All that were sent.
        requests: u64,
    },
}

impl ServingError {
    /// For `map_err`: names what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
