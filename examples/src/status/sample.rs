//! A made-up director whose numbers move, for tests, screenshots and work on the page.
//!
//! ```
//! use lb_examples::status::sample;
//!
//! let (then, now) = (sample::at(10.0), sample::at(11.0));
//! assert!(now.frontends[0].requests > then.frontends[0].requests);
//! ```

use super::model::{
    Admin, Backend, Check, Frontend, HISTORY, Health, HealthState, Latency, Mode, Responses, Server, Status,
    Timeouts, Transition,
};

/// When the made-up director started: 2026-01-02 03:04:05 UTC.
const START_UNIX_MS: u64 = 1_767_323_045_000;

/// What differs between the four servers.
struct Character {
    weight: u32,
    /// Requests a second.
    rate: f64,
    /// Median latency in seconds.
    latency: f64,
}

const CHARACTERS: [Character; 4] = [
    Character { weight: 8, rate: 811.3, latency: 0.0008 },
    Character { weight: 4, rate: 402.7, latency: 0.0017 },
    Character { weight: 2, rate: 198.2, latency: 0.0036 },
    Character { weight: 1, rate: 52.6, latency: 0.0391 },
];

/// The director `seconds` after its start: four servers of different speed, one of which is in slow start and
/// one of which drains. The same argument gives the same status.
pub fn at(seconds: f64) -> Status {
    let servers: Vec<_> = (0..CHARACTERS.len()).map(|index| server(index, seconds)).collect();
    let backend = Backend {
        name: "pi".into(),
        algorithm: "wlc".into(),
        queued: 2,
        queue_limit: Some(1000),
        unavailable: 17,
        servers,
        ..Backend::default()
    };
    Status {
        name: "director".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        node: "ha1".into(),
        pid: 4711,
        workers: 2,
        uptime_seconds: seconds,
        time_unix_ms: START_UNIX_MS + millis(seconds),
        frontends: vec![frontend(&backend, seconds)],
        backends: vec![backend],
    }
}

fn frontend(backend: &Backend, seconds: f64) -> Frontend {
    let totals = backend.totals();
    Frontend {
        name: "www".into(),
        mode: Mode::Http,
        bind: vec!["127.0.0.1:8080".into(), "[::1]:8080".into()],
        backend: backend.name.clone(),
        connections: 128,
        connections_limit: Some(2000),
        connections_total: 128 + count(seconds, 3.0),
        requests: totals.requests + 21,
        requests_per_second: totals.requests_per_second,
        queued: backend.queued,
        denied: 4,
        timeouts: Timeouts { connect: 1, client: 3, server: 2, queue: 17, request_header: 5 },
        responses: totals.responses,
        bytes_in: totals.bytes_in,
        bytes_out: totals.bytes_out,
    }
}

fn server(index: usize, seconds: f64) -> Server {
    let Character { weight, rate, latency } = CHARACTERS[index];
    let (starting, draining, failing) = (index == 1, index == 2, index == 3);
    let requests = count(seconds, rate);
    let failures = requests / 1250;
    Server {
        name: format!("web{}", index + 1),
        address: format!("127.0.0.1:{}", 8081 + index),
        weight,
        effective_weight: match () {
            () if starting => weight / 4,
            () if draining => 0,
            () => weight,
        },
        slow_start: starting.then_some(0.25),
        backup: failing,
        admin: if draining { Admin::Drain } else { Admin::Ready },
        health: health(index, seconds, failing),
        in_flight: 3 + (index as u64 * 7 + seconds as u64 * 5) % 23,
        limit: (index != 3).then_some(100),
        queued: 0,
        pinned_sessions: 12 + index as u64,
        requests,
        requests_per_second: rate * wave(seconds, index),
        successes: requests - failures,
        failures,
        cancelled: failures / 7,
        retries: failures / 2,
        redispatches: failures / 4,
        connect_errors: failures / 5,
        responses: Responses {
            successful: requests - failures,
            client_error: failures / 3,
            server_error: failures - failures / 3,
            ..Responses::default()
        },
        bytes_in: requests * 412,
        bytes_out: requests * 683,
        latency: Latency {
            ewma_seconds: Some(latency * wave(seconds, index)),
            p50_seconds: Some(latency * 0.9),
            p99_seconds: Some(latency * 3.1),
            history: history(index, seconds, latency),
        },
    }
}

fn health(index: usize, seconds: f64, failing: bool) -> Health {
    let change = |ago_ms: u64, to, reason: &str| Transition {
        time_unix_ms: START_UNIX_MS + millis(seconds).saturating_sub(ago_ms),
        to,
        reason: reason.into(),
    };
    let mut history = vec![change(90_000, HealthState::Up, "first check passed: 200, expected text found")];
    if index == 1 {
        history.push(change(30_000, HealthState::Down, "3 checks failed: connection refused"));
        history.push(change(6_000, HealthState::Up, "2 checks passed: 200, expected text found"));
    }
    let result = if failing { "503, expected 200" } else { "200, expected text found" };
    Health {
        state: HealthState::Up,
        since_seconds: Some(if index == 1 { 6.0 } else { seconds }),
        passed: if failing { 0 } else { 2 },
        rise: 2,
        failed: u32::from(failing),
        fall: 3,
        last_check: Some(Check {
            kind: "http GET /index.php".into(),
            ok: !failing,
            result: result.into(),
            duration_seconds: 0.0013,
            age_seconds: seconds % 2.0,
        }),
        history,
    }
}

/// The second server has a gap in its history: it was down.
fn history(index: usize, seconds: f64, latency: f64) -> Vec<Option<f64>> {
    let value = |back: usize| {
        let then = seconds - back as f64;
        let gap = index == 1 && (7..30).contains(&back);
        (then >= 0.0 && !gap).then(|| latency * wave(then, index))
    };
    (0..HISTORY).rev().map(value).collect()
}

/// Swings around 1 without a random number, so that pictures can be compared.
fn wave(seconds: f64, index: usize) -> f64 {
    let phase = seconds + index as f64 * 11.0;
    1.0 + 0.25 * (phase * 0.37).sin() + 0.12 * (phase * 1.9).cos()
}

fn count(seconds: f64, rate: f64) -> u64 {
    (seconds * rate) as u64
}

fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}
