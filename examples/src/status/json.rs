//! The JSON form: the [`Status`] as it is, with what every reader would otherwise compute again.
//!
//! Added to the fields of the model, and ignored when the text is read back as a [`Status`]:
//!
//! | where | field | meaning |
//! |---|---|---|
//! | root | `summary` | the whole process added up: [`Summary`] |
//! | each frontend | `timeouts_total` | timeouts of every kind |
//! | each backend | `totals` | its servers added up: [`Totals`] |
//! | each server | `condition` | one word, [`Condition::label`](super::model::Condition::label) |
//! | each server | `condition_seconds` | for how long, where its health decides; `null` where the operator does |
//! | each server | `note` | what else to know about it: `failing 1/3`, `at 33 % of its weight`, `checks say up` |
//! | each server | `share` | its part of the backend's requests per second, 0–1; `null` without requests |

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::{Backend, Condition, HealthState, Server, Status, Totals};

/// The whole process added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Client connections open now.
    pub connections: u64,
    /// Client connections accepted.
    pub connections_total: u64,
    /// Requests received.
    pub requests: u64,
    /// Requests received per second.
    pub requests_per_second: f64,
    /// Requests being worked on by servers.
    pub in_flight: u64,
    /// Requests that wait, for any server of a backend or for a certain one.
    pub queued: u64,
    /// Configured servers, over all backends.
    pub servers: u64,
    /// Servers that take new work.
    pub usable: u64,
    /// Attempts that failed at a server.
    pub failures: u64,
    /// Attempts that went on to another server.
    pub redispatches: u64,
    /// Requests answered 503 because no server could take them.
    pub unavailable: u64,
    /// Responses of 500–599 sent to clients.
    pub server_errors: u64,
    /// Requests or connections refused.
    pub denied: u64,
    /// Timeouts of every kind.
    pub timeouts: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
}

impl Summary {
    /// Adds up a status.
    pub fn of(status: &Status) -> Self {
        let mut sum = Self::default();
        for frontend in &status.frontends {
            sum.connections += frontend.connections;
            sum.connections_total += frontend.connections_total;
            sum.requests += frontend.requests;
            sum.requests_per_second += frontend.requests_per_second;
            sum.server_errors += frontend.responses.server_error;
            sum.denied += frontend.denied;
            sum.timeouts += frontend.timeouts.total();
            sum.bytes_in += frontend.bytes_in;
            sum.bytes_out += frontend.bytes_out;
        }
        for backend in &status.backends {
            let totals = backend.totals();
            sum.in_flight += totals.in_flight;
            sum.queued += backend.queued + totals.queued;
            sum.servers += totals.servers;
            sum.usable += totals.usable;
            sum.failures += totals.failures;
            sum.redispatches += totals.redispatches;
            sum.unavailable += backend.unavailable;
        }
        sum
    }
}

/// The status as a JSON value, derived fields included.
pub fn value(status: &Status) -> Value {
    let mut root = json!(status);
    root["summary"] = json!(Summary::of(status));
    for (value, frontend) in items(&mut root["frontends"]).zip(&status.frontends) {
        value["timeouts_total"] = json!(frontend.timeouts.total());
    }
    for (value, backend) in items(&mut root["backends"]).zip(&status.backends) {
        let totals = backend.totals();
        value["totals"] = json!(totals);
        for (value, server) in items(&mut value["servers"]).zip(&backend.servers) {
            value["condition"] = json!(server.condition().label());
            value["condition_seconds"] = json!(condition_seconds(server));
            value["note"] = json!(note(server));
            value["share"] = json!(share(server, &totals));
        }
    }
    root
}

/// The status as JSON text.
///
/// ```
/// use lb_examples::status::{Status, json};
///
/// let status = Status { name: "director".into(), ..Status::default() };
/// let text = json::render(&status);
/// assert_eq!(serde_json::from_str::<Status>(&text)?, status);
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn render(status: &Status) -> String {
    value(status).to_string()
}

/// The names that decide the page's rows: as long as they stay, only numbers have changed.
pub(super) fn shape(status: &Status) -> String {
    let names = |backend: &Backend| backend.servers.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    let frontends: Vec<_> = status.frontends.iter().map(|f| (&f.name, f.bind.len())).collect();
    let backends: Vec<_> = status.backends.iter().map(|b| (&b.name, names(b))).collect();
    json!([frontends, backends]).to_string()
}

fn items(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}

fn condition_seconds(server: &Server) -> Option<f64> {
    server.health.since_seconds.filter(|_| !by_operator(server.condition()))
}

fn note(server: &Server) -> String {
    let condition = server.condition();
    match server.slow_start {
        Some(share) if condition == Condition::Starting => format!("at {:.0} % of its weight", share * 100.0),
        _ if by_operator(condition) && server.health.state != HealthState::Unchecked => {
            format!("checks say {}", server.health.state.label())
        }
        _ => server.health.progress(),
    }
}

fn by_operator(condition: Condition) -> bool {
    matches!(condition, Condition::Draining | Condition::Maintenance)
}

fn share(server: &Server, totals: &Totals) -> Option<f64> {
    (totals.requests_per_second > 0.0).then(|| server.requests_per_second / totals.requests_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn a_status_survives_the_round_trip() {
        for seconds in [0.0, 1.0, 37.0, 4000.0] {
            let status = sample::at(seconds);
            let back: Status = serde_json::from_str(&render(&status)).unwrap();
            assert_eq!(back, status, "at {seconds} s");
        }
    }

    #[test]
    fn the_derived_fields_add_up() {
        let status = sample::at(100.0);
        let value = value(&status);
        let backend = &value["backends"][0];
        let servers = backend["servers"].as_array().unwrap();
        let sum = |field: &str| servers.iter().map(|s| s[field].as_u64().unwrap()).sum::<u64>();
        for field in ["requests", "failures", "in_flight", "queued", "pinned_sessions", "bytes_out"] {
            assert_eq!(backend["totals"][field], sum(field), "{field}");
            assert!(field == "queued" || sum(field) > 0, "the sample says nothing about {field}");
        }
        let shares: f64 = servers.iter().map(|s| s["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
        assert_eq!(value["summary"]["servers"], 4);
        assert_eq!(value["frontends"][0]["timeouts_total"], 1 + 3 + 2 + 17 + 5);
    }

    #[test]
    fn notes_say_what_the_condition_does_not() {
        let value = value(&sample::at(100.0));
        let servers = value["backends"][0]["servers"].as_array().unwrap();
        let notes: Vec<_> =
            servers.iter().map(|s| (&s["condition"], &s["note"], &s["condition_seconds"])).collect();
        let expected = [
            ("up", "", json!(100.0)),
            ("starting", "at 25 % of its weight", json!(6.0)),
            ("draining", "checks say up", json!(null)),
            ("up", "failing 1/3", json!(100.0)),
        ];
        for (shown, (condition, note, seconds)) in notes.into_iter().zip(expected) {
            assert_eq!(shown, (&json!(condition), &json!(note), &seconds));
        }
    }

    #[test]
    fn nothing_at_all_is_shown_as_nothing() {
        let value = value(&Status::default());
        assert_eq!(value["summary"]["requests"], 0);
        assert_eq!(value["backends"], json!([]));
    }
}
