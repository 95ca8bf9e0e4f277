//! One server: what the operator wants of it, what its checks say, what it did.

use serde::{Deserialize, Serialize};

use super::Responses;

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
    /// Requests that failed: no connection, broken off, timed out, or a status the configuration calls a
    /// failure.
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

    /// Whether it may get a request that no session pins: by its condition, and by a weight above 0.
    pub fn takes_new_work(&self) -> bool {
        self.condition().takes_work() && self.effective_weight > 0
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
    /// Mean latency of each of the last seconds, oldest first, at most [`HISTORY`](super::HISTORY); `None`
    /// where nothing ended.
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

    /// Whether a server in this condition takes new work.
    pub fn takes_work(self) -> bool {
        matches!(self, Self::Up | Self::Starting | Self::Unchecked)
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
}
