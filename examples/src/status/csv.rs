//! The CSV form: one line for each frontend, server and backend, in the spirit of HAProxy's.
//!
//! The first line starts with `# ` and names the columns; later versions may add columns at the end, so read
//! them by name. A value that does not apply to a line, or is not known, is empty. Fields are quoted as RFC
//! 4180 says, lines end in a line feed. A backend's servers come before the backend itself, whose `svname` is
//! `BACKEND`; that of a frontend is `FRONTEND`.
//!
//! | column | meaning | HAProxy |
//! |---|---|---|
//! | `pxname`, `svname` | frontend or backend, and server | the same |
//! | `type` | 0 frontend, 1 backend, 2 server | the same |
//! | `mode` | `http` or `tcp` | the same |
//! | `addr` | a server's address; a frontend's addresses, joined by a space | the same |
//! | `algo` | a backend's algorithm | the same |
//! | `status` | `OPEN` (frontend), `UP`, `DOWN` (backend without a usable server), or a server's condition | close |
//! | `admin` | `ready`, `drain`, `maint` | part of `status` |
//! | `health` | `up`, `down`, `ejected`, `unchecked` | part of `status` |
//! | `weight`, `uweight` | effective weight (a backend: of its usable servers), configured weight | the same |
//! | `throttle` | share of its weight in slow start, percent | the same |
//! | `act`, `bck` | usable servers that are not, that are backups (a server: 0 or 1) | counts configured |
//! | `scur`, `slim`, `stot` | in flight or open connections now, their limit, total | the same |
//! | `qcur`, `qlimit` | waiting now, most that may wait | the same |
//! | `rate` | requests per second (a frontend's too) | sessions per second |
//! | `req_tot` | requests | the same |
//! | `succ`, `eresp`, `cli_abrt` | ended well, failed, given up by the client | `eresp`, `cli_abrt` |
//! | `econ`, `wretr`, `wredis` | connect errors, retries, redispatches | the same |
//! | `dreq` | requests refused | the same |
//! | `unavail` | answered 503 for want of a server | – |
//! | `bin`, `bout` | bytes from clients, bytes to clients | the same |
//! | `hrsp_1xx` … `hrsp_other` | responses by class | the same |
//! | `to_connect`, `to_client`, `to_server`, `to_queue`, `to_header` | timeouts by kind | – |
//! | `lat_ewma_ms`, `lat_p50_ms`, `lat_p99_ms` | latency in milliseconds | `ttime` |
//! | `check_kind`, `check_ok`, `check_desc`, `check_ms`, `check_age_s` | the last check | `check_*` |
//! | `check_pass`, `rise`, `check_fail`, `fall` | checks in a row, and how many change the state | `check_rise`… |
//! | `lastchg` | seconds since the last change of health | the same |
//! | `pinned` | persistent sessions | – |

use serde::Serialize;

use super::model::{Backend, Check, Frontend, HealthState, Latency, Mode, Responses, Server, Status};

/// One line; its fields are the columns, in their order.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    pxname: &'a str,
    svname: &'a str,
    r#type: u8,
    mode: Mode,
    addr: String,
    algo: &'a str,
    status: &'a str,
    admin: &'a str,
    health: &'a str,
    weight: Option<u64>,
    uweight: Option<u32>,
    throttle: Option<f64>,
    act: Option<u64>,
    bck: Option<u64>,
    scur: u64,
    slim: Option<u64>,
    stot: Option<u64>,
    qcur: u64,
    qlimit: Option<u64>,
    rate: f64,
    req_tot: u64,
    succ: Option<u64>,
    eresp: Option<u64>,
    cli_abrt: Option<u64>,
    econ: Option<u64>,
    wretr: Option<u64>,
    wredis: Option<u64>,
    dreq: Option<u64>,
    unavail: Option<u64>,
    bin: u64,
    bout: u64,
    hrsp_1xx: u64,
    hrsp_2xx: u64,
    hrsp_3xx: u64,
    hrsp_4xx: u64,
    hrsp_5xx: u64,
    hrsp_other: u64,
    to_connect: Option<u64>,
    to_client: Option<u64>,
    to_server: Option<u64>,
    to_queue: Option<u64>,
    to_header: Option<u64>,
    lat_ewma_ms: Option<f64>,
    lat_p50_ms: Option<f64>,
    lat_p99_ms: Option<f64>,
    check_kind: &'a str,
    check_ok: Option<u8>,
    check_desc: &'a str,
    check_ms: Option<f64>,
    check_age_s: Option<f64>,
    check_pass: Option<u32>,
    rise: Option<u32>,
    check_fail: Option<u32>,
    fall: Option<u32>,
    lastchg: Option<f64>,
    pinned: Option<u64>,
}

/// The status as CSV text.
///
/// ```
/// use lb_examples::status::{csv, sample};
///
/// let text = csv::render(&sample::at(60.0));
/// assert!(text.starts_with("# pxname,svname,type,"));
/// assert_eq!(text.lines().count(), 1 + 1 + 4 + 1); // columns, frontend, servers, backend
/// ```
pub fn render(status: &Status) -> String {
    let frontends = status.frontends.iter().map(frontend_line);
    let backends = status.backends.iter().flat_map(|backend| {
        let servers = backend.servers.iter().map(|server| server_line(backend, server));
        servers.chain([backend_line(backend)])
    });
    let mut writer = csv::Writer::from_writer(b"# ".to_vec());
    let mut lines = frontends.chain(backends).peekable();
    if lines.peek().is_none() {
        // The library writes the header with the first record; a director without frontends has none.
        return header();
    }
    for line in lines {
        writer.serialize(line).expect("every line has the same plain fields");
    }
    let bytes = writer.into_inner().expect("memory takes every write");
    String::from_utf8(bytes).expect("fields are text and the separators are ASCII")
}

/// The first line alone.
fn header() -> String {
    let text = render(&Status { frontends: vec![Frontend::default()], ..Status::default() });
    text.split_inclusive('\n').take(1).collect()
}

fn frontend_line(frontend: &Frontend) -> Line<'_> {
    Line {
        pxname: &frontend.name,
        svname: "FRONTEND",
        r#type: 0,
        mode: frontend.mode,
        addr: frontend.bind.join(" "),
        status: "OPEN",
        scur: frontend.connections,
        slim: frontend.connections_limit,
        stot: Some(frontend.connections_total),
        qcur: frontend.queued,
        rate: thousandths(frontend.requests_per_second),
        req_tot: frontend.requests,
        dreq: Some(frontend.denied),
        bin: frontend.bytes_in,
        bout: frontend.bytes_out,
        to_connect: Some(frontend.timeouts.connect),
        to_client: Some(frontend.timeouts.client),
        to_server: Some(frontend.timeouts.server),
        to_queue: Some(frontend.timeouts.queue),
        to_header: Some(frontend.timeouts.request_header),
        ..Line::default()
    }
    .responses(frontend.responses)
}

fn server_line<'a>(backend: &'a Backend, server: &'a Server) -> Line<'a> {
    let health = &server.health;
    let usable = u64::from(server.takes_new_work());
    let checked = health.state != HealthState::Unchecked;
    Line {
        pxname: &backend.name,
        svname: &server.name,
        r#type: 2,
        mode: backend.mode,
        addr: server.address.clone(),
        status: server.condition().label(),
        admin: server.admin.label(),
        health: health.state.label(),
        weight: Some(server.effective_weight.into()),
        uweight: Some(server.weight),
        throttle: server.slow_start.map(|share| share * 100.0),
        act: Some(if server.backup { 0 } else { usable }),
        bck: Some(if server.backup { usable } else { 0 }),
        scur: server.in_flight,
        slim: server.limit,
        qcur: server.queued,
        rate: thousandths(server.requests_per_second),
        req_tot: server.requests,
        succ: Some(server.successes),
        eresp: Some(server.failures),
        cli_abrt: Some(server.cancelled),
        econ: Some(server.connect_errors),
        wretr: Some(server.retries),
        wredis: Some(server.redispatches),
        bin: server.bytes_in,
        bout: server.bytes_out,
        check_pass: checked.then_some(health.passed),
        rise: checked.then_some(health.rise),
        check_fail: checked.then_some(health.failed),
        fall: checked.then_some(health.fall),
        lastchg: health.since_seconds.map(thousandths),
        pinned: Some(server.pinned_sessions),
        ..Line::default()
    }
    .responses(server.responses)
    .latency(&server.latency)
    .check(health.last_check.as_ref())
}

fn backend_line(backend: &Backend) -> Line<'_> {
    let totals = backend.totals();
    let usable = |backup| {
        let servers = backend.servers.iter().filter(|server| server.backup == backup);
        servers.filter(|server| server.takes_new_work()).count() as u64
    };
    Line {
        pxname: &backend.name,
        svname: "BACKEND",
        r#type: 1,
        mode: backend.mode,
        algo: &backend.algorithm,
        status: if totals.usable > 0 { "UP" } else { "DOWN" },
        weight: Some(totals.weight),
        act: Some(usable(false)),
        bck: Some(usable(true)),
        scur: totals.in_flight,
        qcur: backend.queued + totals.queued,
        qlimit: backend.queue_limit,
        rate: thousandths(totals.requests_per_second),
        req_tot: totals.requests,
        succ: Some(totals.successes),
        eresp: Some(totals.failures),
        cli_abrt: Some(totals.cancelled),
        econ: Some(totals.connect_errors),
        wretr: Some(totals.retries),
        wredis: Some(totals.redispatches),
        unavail: Some(backend.unavailable),
        bin: totals.bytes_in,
        bout: totals.bytes_out,
        pinned: Some(totals.pinned_sessions),
        ..Line::default()
    }
    .responses(totals.responses)
}

impl<'a> Line<'a> {
    fn responses(self, responses: Responses) -> Self {
        Self {
            hrsp_1xx: responses.informational,
            hrsp_2xx: responses.successful,
            hrsp_3xx: responses.redirection,
            hrsp_4xx: responses.client_error,
            hrsp_5xx: responses.server_error,
            hrsp_other: responses.other,
            ..self
        }
    }

    fn latency(self, latency: &Latency) -> Self {
        let ms = |seconds: Option<f64>| seconds.map(milliseconds);
        Self {
            lat_ewma_ms: ms(latency.ewma_seconds),
            lat_p50_ms: ms(latency.p50_seconds),
            lat_p99_ms: ms(latency.p99_seconds),
            ..self
        }
    }

    fn check(self, check: Option<&'a Check>) -> Self {
        let Some(check) = check else { return self };
        Self {
            check_kind: &check.kind,
            check_ok: Some(check.ok.into()),
            check_desc: &check.result,
            check_ms: Some(milliseconds(check.duration_seconds)),
            check_age_s: Some(thousandths(check.age_seconds)),
            ..self
        }
    }
}

/// Digits beyond the third say nothing and make the lines long.
fn thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn milliseconds(seconds: f64) -> f64 {
    thousandths(seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::status::model::Health;
    use crate::status::sample;

    /// Any text, rich in what a separated format may stumble over.
    const ANY: &str = "([,\"\\\\\n\r{}=# ]|\\PC)*";

    fn read(text: &str) -> Vec<HashMap<String, String>> {
        let body = text.strip_prefix("# ").expect("the header starts with a sharp and a space");
        csv::Reader::from_reader(body.as_bytes()).deserialize().map(Result::unwrap).collect()
    }

    #[test]
    fn lines_say_what_the_status_says() {
        let status = sample::at(100.0);
        let lines = read(&render(&status));
        let names: Vec<_> =
            lines.iter().map(|line| (line["pxname"].as_str(), line["svname"].as_str())).collect();
        let expected = [
            ("www", "FRONTEND"),
            ("pi", "web1"),
            ("pi", "web2"),
            ("pi", "web3"),
            ("pi", "web4"),
            ("pi", "BACKEND"),
        ];
        assert_eq!(names, expected);
        let table = [
            (0, "mode", "http"),
            (0, "addr", "127.0.0.1:8080 [::1]:8080"),
            (0, "to_header", "5"),
            (0, "econ", ""),
            (1, "status", "up"),
            (1, "scur", "20"),
            (2, "throttle", "25.0"),
            (2, "weight", "1"),
            (2, "uweight", "4"),
            (3, "admin", "drain"),
            (3, "health", "up"),
            (4, "check_desc", "503, expected 200"),
            (4, "slim", ""),
            (4, "bck", "1"),
            (5, "algo", "wlc"),
            (5, "act", "2"),
            (5, "unavail", "17"),
        ];
        for (line, column, value) in table {
            assert_eq!(lines[line][column], value, "line {line}, column {column}");
        }
        let total: u64 = lines[1..5].iter().map(|line| line["req_tot"].parse::<u64>().unwrap()).sum();
        assert_eq!(lines[5]["req_tot"], total.to_string());
    }

    #[test]
    fn fields_are_quoted_as_rfc_4180_says() {
        let names = ["plain", "a,b", "say \"hi\"", "two\nlines", "cr\rlf\n", "", " spaces ", "ünï"];
        let servers = names.map(|name| Server { name: name.into(), ..Server::default() }).to_vec();
        let backend = Backend { name: "x,\"y\"".into(), servers, ..Backend::default() };
        let text = render(&Status { backends: vec![backend], ..Status::default() });
        assert!(text.contains("\n\"x,\"\"y\"\"\",\"say \"\"hi\"\"\",2,http,"), "{text}");
        let back: Vec<_> = read(&text).into_iter().map(|line| line["svname"].clone()).collect();
        assert_eq!(back[..names.len()], names);
    }

    proptest! {
        #[test]
        fn any_text_survives(name in ANY, result in ANY) {
            let check = Check { result: result.clone(), ..Check::default() };
            let health = Health { last_check: Some(check), ..Health::default() };
            let server = Server { name: name.clone(), health, ..Server::default() };
            let backend = Backend { servers: vec![server], ..Backend::default() };
            let lines = read(&render(&Status { backends: vec![backend], ..Status::default() }));
            prop_assert_eq!(lines.len(), 2);
            prop_assert_eq!((&lines[0]["svname"], &lines[0]["check_desc"]), (&name, &result));
        }
    }

    #[test]
    fn every_column_is_documented() {
        let source = include_str!("csv.rs");
        let docs: Vec<_> = source.lines().filter(|line| line.starts_with("//! |")).collect();
        let header = render(&Status::default());
        for column in header.trim_start_matches("# ").trim().split(',') {
            let documented =
                column.starts_with("hrsp_") || docs.iter().any(|d| d.contains(&format!("`{column}`")));
            assert!(documented, "{column}");
        }
        assert_eq!(header.lines().count(), 1);
    }
}
