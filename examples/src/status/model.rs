//! The state of a director at one moment, as plain data.
//!
//! The engine fills in a [`Status`] once for each reading; every form of the status page is a function of it.
//! Counters are `u64`, count from the start of the process and never go back. Gauges say what is true now.
//! Every duration is in seconds and its field says so; a point in time is in milliseconds since the Unix
//! epoch. What is not known is `None` or an empty list, never a zero that looks measured.
//!
//! Every struct has a `Default`, so that an engine writes what it knows and leaves the rest:
//!
//! ```
//! use lb_examples::status::model::{Health, HealthState, Server};
//!
//! let server = Server {
//!     name: "web1".into(),
//!     address: "127.0.0.1:8081".into(),
//!     weight: 3,
//!     effective_weight: 3,
//!     health: Health { state: HealthState::Up, passed: 2, rise: 2, fall: 3, ..Health::default() },
//!     ..Server::default()
//! };
//! assert_eq!(server.condition().label(), "up");
//! ```

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

mod server;

pub use server::{Admin, Check, Condition, Health, HealthState, Latency, Server, Transition};

/// The longest useful [`Latency::history`]: one minute of one value a second.
pub const HISTORY: usize = 60;

/// Everything that the status page knows about one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program, `director`.
    pub name: String,
    /// Its version, as in `CARGO_PKG_VERSION`.
    pub version: String,
    /// The machine it runs on, or what the operator calls this node.
    pub node: String,
    /// The process.
    pub pid: u32,
    /// Worker threads that serve traffic.
    pub workers: u32,
    /// Seconds since the process started to serve.
    pub uptime_seconds: f64,
    /// When this was read, in milliseconds since the Unix epoch.
    pub time_unix_ms: u64,
    /// What clients connect to, in the order of the configuration.
    pub frontends: Vec<Frontend>,
    /// Where requests go, in the order of the configuration.
    pub backends: Vec<Backend>,
}

/// What a frontend or backend understands of its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Requests and responses, RFC 9110.
    #[default]
    Http,
    /// Bytes of a connection; one connection counts as one request.
    Tcp,
}

/// A set of addresses that clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frontend {
    /// Its name in the configuration.
    pub name: String,
    /// What it understands.
    pub mode: Mode,
    /// Addresses it listens on, `address:port`.
    pub bind: Vec<String>,
    /// The backend that its requests go to by default.
    pub backend: String,
    /// Client connections open now.
    pub connections: u64,
    /// Most client connections at a time; `None` when unlimited.
    pub connections_limit: Option<u64>,
    /// Client connections accepted.
    pub connections_total: u64,
    /// Requests received whole (in [`Mode::Tcp`], connections).
    pub requests: u64,
    /// Requests received in the last second, averaged as the engine sees fit.
    pub requests_per_second: f64,
    /// Requests that wait for a server now.
    pub queued: u64,
    /// Requests or connections refused: malformed, smuggling, over a limit.
    pub denied: u64,
    /// What was given up because it took too long.
    pub timeouts: Timeouts,
    /// Responses sent to clients by class of their status.
    pub responses: Responses,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
}

/// Timeouts that ended a request or connection, one counter for each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// A server did not accept the connection in time.
    pub connect: u64,
    /// A client stopped sending or reading.
    pub client: u64,
    /// A server stopped answering.
    pub server: u64,
    /// No server became free in time.
    pub queue: u64,
    /// A client did not finish its request header in time.
    pub request_header: u64,
}

impl Timeouts {
    /// Each kind with its name, in one order for every form of the page.
    pub fn kinds(&self) -> [(&'static str, u64); 5] {
        [
            ("connect", self.connect),
            ("client", self.client),
            ("server", self.server),
            ("queue", self.queue),
            ("request_header", self.request_header),
        ]
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|&(_, count)| count).sum()
    }
}

/// Responses by the class of their status code, RFC 9110 section 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Responses {
    /// 100–199.
    #[serde(rename = "1xx")]
    pub informational: u64,
    /// 200–299.
    #[serde(rename = "2xx")]
    pub successful: u64,
    /// 300–399.
    #[serde(rename = "3xx")]
    pub redirection: u64,
    /// 400–499.
    #[serde(rename = "4xx")]
    pub client_error: u64,
    /// 500–599.
    #[serde(rename = "5xx")]
    pub server_error: u64,
    /// Anything else.
    pub other: u64,
}

impl Responses {
    /// Counts one response.
    pub fn count(&mut self, status: u16) {
        *match status / 100 {
            1 => &mut self.informational,
            2 => &mut self.successful,
            3 => &mut self.redirection,
            4 => &mut self.client_error,
            5 => &mut self.server_error,
            _ => &mut self.other,
        } += 1;
    }

    /// Each class with its name, in one order for every form of the page.
    pub fn classes(&self) -> [(&'static str, u64); 6] {
        [
            ("1xx", self.informational),
            ("2xx", self.successful),
            ("3xx", self.redirection),
            ("4xx", self.client_error),
            ("5xx", self.server_error),
            ("other", self.other),
        ]
    }
}

impl AddAssign for Responses {
    fn add_assign(&mut self, other: Self) {
        self.informational += other.informational;
        self.successful += other.successful;
        self.redirection += other.redirection;
        self.client_error += other.client_error;
        self.server_error += other.server_error;
        self.other += other.other;
    }
}

/// A set of servers that share an algorithm and a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name in the configuration.
    pub name: String,
    /// What it understands.
    pub mode: Mode,
    /// The algorithm's short name, `wlc`.
    pub algorithm: String,
    /// Requests that wait for any of its servers now.
    pub queued: u64,
    /// Most requests that may wait; `None` when the configuration sets no limit.
    pub queue_limit: Option<u64>,
    /// Requests answered 503 because no server could take them.
    pub unavailable: u64,
    /// Its servers, in the order of the configuration.
    pub servers: Vec<Server>,
}

impl Backend {
    /// What its servers did, added up.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for server in &self.servers {
            totals.add(server);
        }
        totals
    }
}

/// What several servers did, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Servers.
    pub servers: u64,
    /// Servers that take new work.
    pub usable: u64,
    /// Sum of the effective weights.
    pub weight: u64,
    /// Requests being worked on.
    pub in_flight: u64,
    /// Requests that wait for a certain server.
    pub queued: u64,
    /// Persistent sessions.
    pub pinned_sessions: u64,
    /// Requests sent.
    pub requests: u64,
    /// Requests per second.
    pub requests_per_second: f64,
    /// Requests that ended well.
    pub successes: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Requests that clients gave up.
    pub cancelled: u64,
    /// Attempts repeated on the same server.
    pub retries: u64,
    /// Requests moved to another server.
    pub redispatches: u64,
    /// Connections that failed.
    pub connect_errors: u64,
    /// Responses by class.
    pub responses: Responses,
    /// Bytes sent to servers.
    pub bytes_in: u64,
    /// Bytes received from servers.
    pub bytes_out: u64,
}

impl Totals {
    /// Adds one server.
    pub fn add(&mut self, server: &Server) {
        self.servers += 1;
        self.usable += u64::from(server.takes_new_work());
        self.weight += u64::from(server.effective_weight);
        self.in_flight += server.in_flight;
        self.queued += server.queued;
        self.pinned_sessions += server.pinned_sessions;
        self.requests += server.requests;
        self.requests_per_second += server.requests_per_second;
        self.successes += server.successes;
        self.failures += server.failures;
        self.cancelled += server.cancelled;
        self.retries += server.retries;
        self.redispatches += server.redispatches;
        self.connect_errors += server.connect_errors;
        self.responses += server.responses;
        self.bytes_in += server.bytes_in;
        self.bytes_out += server.bytes_out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_code_is_counted_once() {
        let mut responses = Responses::default();
        for status in [100, 200, 204, 302, 404, 503, 0, 700] {
            responses.count(status);
        }
        let counts = responses.classes().map(|(_, count)| count);
        assert_eq!(counts, [1, 2, 1, 1, 1, 2]);
    }
}
