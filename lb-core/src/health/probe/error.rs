//! Why a probe failed.

use core::fmt;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::string::String;

use super::StatusSet;
use crate::health::ConfigError;

/// Why a probe failed, for the operator who reads the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// A setting of the probe can never work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No connection came about.
    #[error("cannot connect to {address}: {source}; see that the server runs and listens there")]
    Connect {
        /// The server's.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The timeout came first.
    #[error(
        "{address} was still {stage} after {timeout:?}; it hangs or is overloaded, or needs a longer timeout"
    )]
    Timeout {
        /// The server's.
        address: SocketAddr,
        /// How far it had come.
        stage: Stage,
        /// The bound of the whole probe.
        timeout: Duration,
    },
    /// The connection broke after it was there.
    #[error("{address} broke the connection while {stage}: {source}; its own log may say why")]
    Broken {
        /// The server's.
        address: SocketAddr,
        /// How far it had come.
        stage: Stage,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended the connection properly, but too early.
    #[error("{address} closed the connection while {stage}, after {received} bytes; its own log may say why")]
    Closed {
        /// The server's.
        address: SocketAddr,
        /// How far it had come.
        stage: Stage,
        /// Bytes of its answer until then.
        received: usize,
    },
    /// What came is not HTTP/1.
    #[error(
        "{address} does not answer in HTTP/1: {problem}; see that the port is that of the web server, without TLS"
    )]
    NotHttp {
        /// The server's.
        address: SocketAddr,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The head of the answer does not end.
    #[error(
        "the head of the answer of {address} is longer than {limit} bytes or 128 fields; the page is no good for a check"
    )]
    HeadTooLong {
        /// The server's.
        address: SocketAddr,
        /// In bytes.
        limit: usize,
    },
    /// Another status than expected.
    #[error("{address} answered {path} with status {status} instead of {expected}")]
    Status {
        /// The server's.
        address: SocketAddr,
        /// What was asked for.
        path: String,
        /// What it answered.
        status: u16,
        /// What it should have.
        expected: StatusSet,
    },
    /// The expected text was not in the body.
    #[error(
        "the answer of {address} to {path} lacks {expected:?} in its first {searched} bytes; it begins {start:?}"
    )]
    Text {
        /// The server's.
        address: SocketAddr,
        /// What was asked for.
        path: String,
        /// The text.
        expected: String,
        /// Bytes of the body looked at: all there were, or the limit.
        searched: usize,
        /// The first of them.
        start: String,
    },
    /// The program could not be started.
    #[error("cannot run {program}: {source}; give the full path of a file that is executable")]
    Spawn {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program exited with a code other than 0.
    #[error("{program} says that {address} fails: exit code {code}{}", Tail(.stderr))]
    Exit {
        /// The server's.
        address: SocketAddr,
        /// Its name.
        program: String,
        /// Its exit code.
        code: i32,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// A signal that was not ours ended the program.
    #[error("{program} was killed by signal {signal} when it checked {address}{}", Tail(.stderr))]
    Signal {
        /// The server's.
        address: SocketAddr,
        /// Its name.
        program: String,
        /// The signal's number.
        signal: i32,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// The program was still running when the timeout came, and was killed with its process group.
    #[error("{program} had no verdict on {address} after {timeout:?}, and was killed{}", Tail(.stderr))]
    Overrun {
        /// The server's.
        address: SocketAddr,
        /// Its name.
        program: String,
        /// The bound of the whole probe.
        timeout: Duration,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// The system refused something that a running program needs.
    #[error("cannot watch {program}: {source}")]
    Watch {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

/// How far a probe had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// No connection yet.
    Connect,
    /// It did not take the whole request.
    Request,
    /// The head of the answer was not complete.
    Head,
    /// The body of the answer was not complete, nor the text found in it.
    Body,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "accepting the connection",
            Self::Request => "taking the request",
            Self::Head => "sending the head of its answer",
            Self::Body => "sending the body of its answer",
        })
    }
}

/// What a program wrote, if it wrote anything.
struct Tail<'a>(&'a str);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "; it wrote: {}", self.0) }
    }
}
