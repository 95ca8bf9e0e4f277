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

use lb_affinity::plan::Strategy;
use lb_core::health::probe::Probe;
use lb_core::health::{self, OnDown, outlier};
use lb_sched::Algorithm;

pub use error::{ConfigError, Place};
pub(crate) use error::{Problem, hint, quoted};
pub use load::{load, parse};
pub use nearest::nearest;
pub(crate) use reader::Document;

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it came from; SIGHUP reads it again.
    pub file: Option<PathBuf>,
    /// What the status page calls this machine.
    pub node: String,
    /// Threads that serve traffic.
    pub workers: usize,
    /// How long requests in flight may go on after SIGTERM.
    pub grace: Duration,
    /// Where workers and network work are placed; by the system, without it.
    pub affinity: Option<Affinity>,
    /// The status page, if wanted.
    pub status: Option<Status>,
    /// Where a line for every request goes, if anywhere.
    pub access_log: AccessLog,
    /// What clients connect to.
    pub frontends: Vec<Frontend>,
    /// Where their requests go.
    pub backends: Vec<Backend>,
}

/// Whether no two sockets can listen on both: the same address, or all addresses of its family.
#[must_use]
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip(), other.ip());
    let every =
        one_ip.is_ipv4() == other_ip.is_ipv4() && (one_ip.is_unspecified() || other_ip.is_unspecified());
    one == other || (one.port() == other.port() && one.port() != 0 && (one_ip == other_ip || every))
}

/// How the machine is divided between workers and network work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The way to divide it.
    pub strategy: Strategy,
    /// The interface whose interrupts and queues are placed too.
    pub interface: Option<String>,
    /// Whether a connection goes to a worker near the CPU that received it, not to the one of the kernel's hash.
    pub steering: bool,
}

/// The status page and its actions.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The bearer token of the admin actions; without one there are none.
    pub token: Option<Arc<str>>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, opened again at every reload so that it can be rotated.
    File(PathBuf),
}

/// What is understood of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests and responses.
    Http,
    /// Bytes of a connection.
    Tcp,
}

/// Addresses that clients connect to.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// Unique name.
    pub name: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// What it understands.
    pub mode: Mode,
    /// The backend that serves it.
    pub backend: String,
    /// Most client connections at a time; more wait in the kernel's accept queue.
    pub maxconn: usize,
    /// Connections that the kernel keeps ready beyond `maxconn`.
    pub backlog: i32,
    /// Every connection starts with a PROXY protocol header that names the real client.
    pub accept_proxy: bool,
    /// Append the client's address to `X-Forwarded-For`.
    pub forwarded_for: bool,
    /// Longest request header in bytes; more is answered 431.
    pub max_header_bytes: usize,
    /// What a client may take its time for.
    pub timeouts: ClientTimeouts,
}

/// How long clients may stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// From the first byte of a request (or the connection) to the end of its header; then 408.
    pub request_header: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// No byte read from or written to the client.
    pub client: Duration,
    /// From the client's end of sending to the start of its answer: it may have gone altogether.
    pub client_fin: Duration,
}

/// A set of servers that share an algorithm and a queue.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Unique name.
    pub name: String,
    /// What it understands; the same as its frontends'.
    pub mode: Mode,
    /// How a server is chosen.
    pub algorithm: Algorithm,
    /// Attempts after the first.
    pub retries: u32,
    /// Retry on another server rather than on the same one.
    pub redispatch: bool,
    /// How a client stays with its server.
    pub persistence: Option<Persistence>,
    /// Most requests that wait for a server.
    pub queue_length: usize,
    /// How servers may stall.
    pub timeouts: ServerTimeouts,
    /// Unused connections kept open for each server and worker.
    pub idle_connections: usize,
    /// How servers are checked.
    pub check: Option<Check>,
    /// What happens to the connections of a server that its checks find down.
    pub on_down: OnDown,
    /// A server that comes back reaches its weight in this time; zero turns it off.
    pub slow_start: Duration,
    /// Takes a server out whose answers are bad.
    pub outlier: Option<outlier::Config>,
    /// The PROXY protocol header that every connection to a server starts with.
    pub send_proxy: Option<ProxyVersion>,
    /// Its servers.
    pub servers: Vec<Server>,
}

/// How long servers may stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerTimeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// No byte read from or written to the server; then 504.
    pub server: Duration,
    /// To become free for a queued request; then 503.
    pub queue: Duration,
    /// No byte either way in an upgraded connection.
    pub tunnel: Duration,
    /// An unused connection is closed after this.
    pub idle: Duration,
}

/// How a client stays with its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persistence {
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
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Hide it from scripts.
    pub http_only: bool,
    /// Send it over TLS only.
    pub secure: bool,
    /// Forbid shared caches to keep a response that sets it.
    pub nocache: bool,
    /// Do not show the client's cookie to the server.
    pub indirect: bool,
}

/// How servers are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What is asked.
    pub probe: Probe,
    /// When, and how many verdicts in a row change the state.
    pub rules: health::Config,
}

/// A version of HAProxy's PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// When a server is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Always.
    Main,
    /// When no main server is usable.
    Backup,
    /// When no other server is usable; never checked.
    Fallback,
}

/// One server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Unique in its backend.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Share of the traffic; 0 takes no new work.
    pub weight: u32,
    /// Most requests at a time; 0 is unlimited.
    pub maxconn: u32,
    /// When it is used.
    pub tier: Tier,
    /// Whether the backend's check applies to it.
    pub check: bool,
    /// Where its checks go, when not to its address.
    pub check_address: Option<SocketAddr>,
}
