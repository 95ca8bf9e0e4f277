//! What a director serves: read from a TOML file, checked whole, then immutable.
//!
//! The names are the field's own (HAProxy's `maxconn`, `retries`, `redispatch`, `rise`, `fall`; ldirectord's
//! `quiesce`), and the defaults those of the configuration that ran in production: connect 5 s, client and server
//! 50 s.

mod error;
mod load;
mod nearest;
mod reader;
mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lb_core::health::probe::Probe;
use lb_core::health::{self, OnDown, outlier};
use lb_sched::Algorithm;

pub(crate) use error::ConfigError;
pub(crate) use load::{load, parse};
pub(crate) use nearest::nearest;

/// A whole configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The file that it came from; SIGHUP reads it again.
    pub(crate) file: Option<PathBuf>,
    /// What the status page calls this machine.
    pub(crate) node: String,
    /// Threads that serve traffic.
    pub(crate) workers: usize,
    /// How long requests in flight may go on after SIGTERM.
    pub(crate) grace: Duration,
    /// The status page, if wanted.
    pub(crate) status: Option<Status>,
    /// Where a line for every request goes, if anywhere.
    pub(crate) access_log: AccessLog,
    /// What clients connect to.
    pub(crate) frontends: Vec<Frontend>,
    /// Where their requests go.
    pub(crate) backends: Vec<Backend>,
}

/// The status page and its actions.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// The bearer token of the admin actions; without one there are none.
    pub(crate) token: Option<Arc<str>>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, opened again at every reload so that it can be rotated.
    File(PathBuf),
}

/// What is understood of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Requests and responses.
    Http,
    /// Bytes of a connection.
    Tcp,
}

/// Addresses that clients connect to.
#[derive(Clone, Debug)]
pub(crate) struct Frontend {
    /// Unique name.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) listen: Vec<SocketAddr>,
    /// What it understands.
    pub(crate) mode: Mode,
    /// The backend that serves it.
    pub(crate) backend: String,
    /// Most client connections at a time; more wait in the kernel's accept queue.
    pub(crate) maxconn: usize,
    /// Connections that the kernel keeps ready beyond `maxconn`.
    pub(crate) backlog: i32,
    /// Every connection starts with a PROXY protocol header that names the real client.
    pub(crate) accept_proxy: bool,
    /// Append the client's address to `X-Forwarded-For`.
    pub(crate) forwarded_for: bool,
    /// Longest request header in bytes; more is answered 431.
    pub(crate) max_header_bytes: usize,
    /// What a client may take its time for.
    pub(crate) timeouts: ClientTimeouts,
}

/// How long clients may stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientTimeouts {
    /// From the first byte of a request (or the connection) to the end of its header; then 408.
    pub(crate) request_header: Duration,
    /// Between two requests.
    pub(crate) keep_alive: Duration,
    /// No byte read from or written to the client.
    pub(crate) client: Duration,
}

/// A set of servers that share an algorithm and a queue.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// Unique name.
    pub(crate) name: String,
    /// What it understands; the same as its frontends'.
    pub(crate) mode: Mode,
    /// How a server is chosen.
    pub(crate) algorithm: Algorithm,
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// Retry on another server rather than on the same one.
    pub(crate) redispatch: bool,
    /// How a client stays with its server.
    pub(crate) persistence: Option<Persistence>,
    /// Most requests that wait for a server.
    pub(crate) queue_length: usize,
    /// How servers may stall.
    pub(crate) timeouts: ServerTimeouts,
    /// Unused connections kept open for each server and worker.
    pub(crate) idle_connections: usize,
    /// How servers are checked.
    pub(crate) check: Option<Check>,
    /// What happens to the connections of a server that its checks find down.
    pub(crate) on_down: OnDown,
    /// A server that comes back reaches its weight in this time; zero turns it off.
    pub(crate) slow_start: Duration,
    /// Takes a server out whose answers are bad.
    pub(crate) outlier: Option<outlier::Config>,
    /// The PROXY protocol header that every connection to a server starts with.
    pub(crate) send_proxy: Option<ProxyVersion>,
    /// Its servers.
    pub(crate) servers: Vec<Server>,
}

/// How long servers may stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerTimeouts {
    /// To accept a connection.
    pub(crate) connect: Duration,
    /// No byte read from or written to the server; then 504.
    pub(crate) server: Duration,
    /// To become free for a queued request; then 503.
    pub(crate) queue: Duration,
    /// No byte either way in an upgraded connection.
    pub(crate) tunnel: Duration,
    /// An unused connection is closed after this.
    pub(crate) idle: Duration,
}

/// How a client stays with its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// By its address, in a table.
    Source {
        /// Forgotten after this without a request.
        expire: Duration,
        /// Most clients remembered.
        capacity: usize,
    },
    /// By a cookie that the director inserts and takes out again.
    Cookie(Cookie),
}

/// HAProxy's `cookie NAME insert indirect nocache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    /// Its name.
    pub(crate) name: String,
    /// Hide it from scripts.
    pub(crate) http_only: bool,
    /// Send it over TLS only.
    pub(crate) secure: bool,
    /// Forbid shared caches to keep a response that sets it.
    pub(crate) nocache: bool,
    /// Do not show the client's cookie to the server.
    pub(crate) indirect: bool,
}

/// How servers are checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    /// What is asked.
    pub(crate) probe: Probe,
    /// When, and how many verdicts in a row change the state.
    pub(crate) rules: health::Config,
}

/// A version of HAProxy's PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// When a server is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Always.
    Main,
    /// When no main server is usable.
    Backup,
    /// When no other server is usable; never checked.
    Fallback,
}

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Unique in its backend.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Share of the traffic; 0 takes no new work.
    pub(crate) weight: u32,
    /// Most requests at a time; 0 is unlimited.
    pub(crate) maxconn: u32,
    /// When it is used.
    pub(crate) tier: Tier,
    /// Whether the backend's check applies to it.
    pub(crate) check: bool,
    /// Where its checks go, when not to its address.
    pub(crate) check_address: Option<SocketAddr>,
}
