//! The state of a director at one moment, as plain data.
//!
//! The engine fills in a [`Status`] once for each reading; every form of the status page is a function of it.
//! Counters are `u64`, count from the start of the process and never go back. Gauges say what is true now.
//! Every duration is in seconds and its field says so; a point in time is in milliseconds since the Unix epoch.
//! What is not known is `None` or an empty list, never a zero that looks measured.
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

/// One server of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the configuration, unique in its backend.
    pub name: String,
    /// `address:port`.
    pub address: String,
    /// The configured weight, 0–65535; 0 takes no new work.
    pub weight: u32,
    /// The weight that the algorithm works with now: less than `weight` during slow start, 0 out of service.
    pub effective_weight: u32,
    /// The share of its weight that slow start gives it, 0–1; `None` when it is not starting.
    pub slow_start: Option<f64>,
    /// Used only when no other server is usable.
    pub backup: bool,
    /// What the operator wants.
    pub admin: Admin,
    /// What the checks say.
    pub health: Health,
    /// Requests that it works on now.
    pub in_flight: u64,
    /// Most requests at a time, HAProxy's `maxconn`; `None` when unlimited.
    pub limit: Option<u64>,
    /// Requests that wait for this server now.
    pub queued: u64,
    /// Persistent sessions that point to it now.
    pub pinned_sessions: u64,
    /// Requests sent to it, each attempt counted.
    pub requests: u64,
    /// Requests per second over the last moments.
    pub requests_per_second: f64,
    /// Requests that ended well.
    pub successes: u64,
    /// Requests that failed: no connection, broken off, timed out, or a status the configuration calls a failure.
    pub failures: u64,
    /// Requests that the client gave up.
    pub cancelled: u64,
    /// Attempts that were repeated on this same server.
    pub retries: u64,
    /// Requests that left this server for another after a failure.
    pub redispatches: u64,
    /// Connections that it refused or did not accept in time.
    pub connect_errors: u64,
    /// Its responses by class.
    pub responses: Responses,
    /// Bytes sent to it.
    pub bytes_in: u64,
    /// Bytes received from it.
    pub bytes_out: u64,
    /// How fast it answers.
    pub latency: Latency,
}

impl Server {
    /// What an operator wants to see first: the administrative state where there is one, else the health.
    pub fn condition(&self) -> Condition {
        match (self.admin, self.health.state) {
            (Admin::Maintenance, _) => Condition::Maintenance,
            (_, HealthState::Down) => Condition::Down,
            (_, HealthState::Ejected) => Condition::Ejected,
            (Admin::Drain, _) => Condition::Draining,
            (Admin::Ready, HealthState::Up) if self.slow_start.is_some_and(|share| share < 1.0) => {
                Condition::Starting
            }
            (Admin::Ready, HealthState::Up) => Condition::Up,
            (Admin::Ready, HealthState::Unchecked) => Condition::Unchecked,
        }
    }
}

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// It takes work.
    #[default]
    Ready,
    /// No new work; persistent sessions go on.
    Drain,
    /// Nothing.
    #[serde(rename = "maint")]
    Maintenance,
}

impl Admin {
    /// HAProxy's word for it: `ready`, `drain`, `maint`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maint",
        }
    }
}

/// What the checks, or the traffic itself, say of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Nothing checks it; it is taken to be up.
    #[default]
    Unchecked,
    /// `rise` checks in a row passed.
    Up,
    /// `fall` checks in a row failed.
    Down,
    /// Its checks pass, but its answers were so bad that outlier detection took it out for a while.
    Ejected,
}

impl HealthState {
    /// `unchecked`, `up`, `down`, `ejected`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
        }
    }
}

/// The health of a server, with how close it is to changing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Its state now.
    pub state: HealthState,
    /// Seconds since it entered that state; `None` when it was never in another.
    pub since_seconds: Option<f64>,
    /// Checks in a row that passed, at most `rise`.
    pub passed: u32,
    /// Passed checks in a row that bring it up.
    pub rise: u32,
    /// Checks in a row that failed, at most `fall`.
    pub failed: u32,
    /// Failed checks in a row that take it down.
    pub fall: u32,
    /// The check that ended last; `None` before the first.
    pub last_check: Option<Check>,
    /// The last changes of state, oldest first; the engine keeps as many as it likes, ten are shown.
    pub history: Vec<Transition>,
}

impl Health {
    /// How close it is to changing: `failing 1/3` while up, `passing 1/2` while down, else empty.
    pub fn progress(&self) -> String {
        match self.state {
            HealthState::Up if self.failed > 0 => format!("failing {}/{}", self.failed, self.fall),
            HealthState::Down if self.passed > 0 => format!("passing {}/{}", self.passed, self.rise),
            _ => String::new(),
        }
    }
}

/// One finished health check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was asked: `tcp`, `http GET /index.php`, `command /usr/local/bin/probe`.
    pub kind: String,
    /// Whether it passed.
    pub ok: bool,
    /// What came back, in words: `200, expected text found`, `connection refused`.
    pub result: String,
    /// How long it took.
    pub duration_seconds: f64,
    /// How long ago it ended.
    pub age_seconds: f64,
}

/// One change of health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When, in milliseconds since the Unix epoch.
    pub time_unix_ms: u64,
    /// The state it entered.
    pub to: HealthState,
    /// Why: `3 checks failed: connection refused`.
    pub reason: String,
}

/// How fast a server answers, from the request sent to the response complete.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Moving average.
    pub ewma_seconds: Option<f64>,
    /// Half of the answers were faster.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 answers were faster.
    pub p99_seconds: Option<f64>,
    /// Mean latency of each of the last seconds, oldest first, at most [`HISTORY`]; `None` where nothing ended.
    pub history: Vec<Option<f64>>,
}

/// The one word that describes a server on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Takes work.
    Up,
    /// Up, with part of its weight until slow start ends.
    Starting,
    /// Takes work, and nothing checks it.
    Unchecked,
    /// No new work by the operator's wish.
    Draining,
    /// Out by the operator's wish.
    Maintenance,
    /// Its checks fail.
    Down,
    /// Taken out by outlier detection.
    Ejected,
}

impl Condition {
    /// The word in lower case, which is also its class in the page's style sheet.
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Unchecked => "unchecked",
            Self::Draining => "draining",
            Self::Maintenance => "maint",
            Self::Down => "down",
            Self::Ejected => "ejected",
        }
    }

    /// Whether it may get a request that no session pins.
    pub fn takes_work(self) -> bool {
        matches!(self, Self::Up | Self::Starting | Self::Unchecked)
    }
}

/// What several servers did, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
        self.usable += u64::from(server.condition().takes_work() && server.effective_weight > 0);
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
    fn condition_puts_the_operator_first_and_a_fault_before_draining() {
        use Admin::*;
        use HealthState::*;
        let table = [
            (Ready, Up, None, "up", true),
            (Ready, Up, Some(0.25), "starting", true),
            (Ready, Up, Some(1.0), "up", true),
            (Ready, Unchecked, None, "unchecked", true),
            (Ready, Down, None, "down", false),
            (Ready, Ejected, None, "ejected", false),
            (Drain, Up, None, "draining", false),
            (Drain, Down, None, "down", false),
            (Maintenance, Up, None, "maint", false),
            (Maintenance, Down, None, "maint", false),
        ];
        for (admin, state, slow_start, label, takes_work) in table {
            let health = Health { state, ..Health::default() };
            let server = Server { admin, health, slow_start, ..Server::default() };
            assert_eq!(server.condition().label(), label, "{admin:?} {state:?} {slow_start:?}");
            assert_eq!(server.condition().takes_work(), takes_work, "{admin:?} {state:?}");
        }
    }

    #[test]
    fn progress_is_shown_only_towards_the_other_state() {
        let health =
            |state, passed, failed| Health { state, passed, rise: 2, failed, fall: 3, ..Health::default() };
        assert_eq!(health(HealthState::Up, 2, 0).progress(), "");
        assert_eq!(health(HealthState::Up, 0, 1).progress(), "failing 1/3");
        assert_eq!(health(HealthState::Down, 1, 0).progress(), "passing 1/2");
        assert_eq!(health(HealthState::Down, 0, 3).progress(), "");
    }

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
