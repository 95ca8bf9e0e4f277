//! The Prometheus form: text exposition format 0.0.4.
//!
//! Every family starts with `lb_`; those of a server carry the labels `backend` and `server`, those of a
//! frontend `frontend`. Counters end in `_total`, units are base units: seconds, bytes. What is not known has
//! no sample.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use super::model::{Admin, Backend, Frontend, HealthState, Server, Status};

/// What [`render`] gives, as a content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The status in Prometheus's text format.
///
/// ```
/// use lb_examples::status::{prometheus, sample};
///
/// let text = prometheus::render(&sample::at(60.0));
/// assert!(text.contains("\nlb_server_requests_total{backend=\"pi\",server=\"web1\"} "));
/// ```
pub fn render(status: &Status) -> String {
    let mut page = Page::default();
    process(&mut page, status);
    frontends(&mut page, &status.frontends);
    backends(&mut page, &status.backends);
    servers(&mut page, &status.backends);
    page.text
}

fn process(page: &mut Page, status: &Status) {
    let labels = [("name", status.name.as_str()), ("version", &status.version), ("node", &status.node)];
    page.family("lb_process_info", Kind::Gauge, "The program, its version and its node; always 1.");
    page.sample(&labels, 1.0);
    page.family("lb_process_uptime_seconds", Kind::Gauge, "Seconds since the process started to serve.");
    page.sample(&[], status.uptime_seconds);
    page.family("lb_process_workers", Kind::Gauge, "Threads that serve traffic.");
    page.sample(&[], status.workers.into());
}

/// A family of which each frontend, backend or server has at most one sample.
struct Family<T> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&T) -> Option<f64>,
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> Option<f64>) -> Family<T> {
    Family { name, kind: Kind::Gauge, help, value }
}

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> Option<f64>) -> Family<T> {
    Family { name, kind: Kind::Counter, help, value }
}

const FRONTEND: [Family<Frontend>; 9] = [
    gauge("lb_frontend_open_connections", "Client connections open now.", |f| float(f.connections)),
    gauge("lb_frontend_connections_limit", "Most client connections at a time.", |f| {
        f.connections_limit.and_then(float)
    }),
    counter("lb_frontend_connections_total", "Client connections accepted.", |f| float(f.connections_total)),
    counter("lb_frontend_requests_total", "Requests received.", |f| float(f.requests)),
    gauge("lb_frontend_requests_per_second", "Requests received per second.", |f| {
        Some(f.requests_per_second)
    }),
    gauge("lb_frontend_queued_requests", "Requests that wait for a server now.", |f| float(f.queued)),
    counter("lb_frontend_denied_total", "Requests or connections refused.", |f| float(f.denied)),
    counter("lb_frontend_received_bytes_total", "Bytes received from clients.", |f| float(f.bytes_in)),
    counter("lb_frontend_sent_bytes_total", "Bytes sent to clients.", |f| float(f.bytes_out)),
];

const BACKEND: [Family<Backend>; 5] = [
    gauge("lb_backend_queued_requests", "Requests that wait for any server now.", |b| float(b.queued)),
    gauge("lb_backend_queue_limit", "Most requests that may wait.", |b| b.queue_limit.and_then(float)),
    counter("lb_backend_unavailable_total", "Requests answered 503 for want of a server.", |b| {
        float(b.unavailable)
    }),
    gauge("lb_backend_servers", "Configured servers.", |b| float(b.totals().servers)),
    gauge("lb_backend_usable_servers", "Servers that take new work.", |b| float(b.totals().usable)),
];

const SERVER: [Family<Server>; 25] = [
    gauge("lb_server_usable", "1 while it takes new work, else 0.", |s| float(s.takes_new_work().into())),
    gauge("lb_server_backup", "1 if it is used only when no other is usable.", |s| float(s.backup.into())),
    gauge("lb_server_weight", "Configured weight.", |s| float(s.weight.into())),
    gauge("lb_server_effective_weight", "Weight in use now.", |s| float(s.effective_weight.into())),
    gauge("lb_server_slow_start_ratio", "Share of its weight while it starts slowly, 0 to 1.", |s| {
        s.slow_start
    }),
    gauge("lb_server_in_flight_requests", "Requests it works on now.", |s| float(s.in_flight)),
    gauge("lb_server_requests_limit", "Most requests at a time.", |s| s.limit.and_then(float)),
    gauge("lb_server_queued_requests", "Requests that wait for it now.", |s| float(s.queued)),
    gauge("lb_server_pinned_sessions", "Persistent sessions that point to it.", |s| float(s.pinned_sessions)),
    counter("lb_server_requests_total", "Requests sent to it, each attempt counted.", |s| float(s.requests)),
    gauge("lb_server_requests_per_second", "Requests sent to it per second.", |s| {
        Some(s.requests_per_second)
    }),
    counter("lb_server_successes_total", "Requests that ended well.", |s| float(s.successes)),
    counter("lb_server_failures_total", "Requests that failed.", |s| float(s.failures)),
    counter("lb_server_cancelled_total", "Requests given up by the client.", |s| float(s.cancelled)),
    counter("lb_server_retries_total", "Attempts repeated on this server.", |s| float(s.retries)),
    counter("lb_server_redispatches_total", "Requests moved to another server.", |s| float(s.redispatches)),
    counter("lb_server_connect_errors_total", "Connections that failed.", |s| float(s.connect_errors)),
    counter("lb_server_sent_bytes_total", "Bytes sent to it.", |s| float(s.bytes_in)),
    counter("lb_server_received_bytes_total", "Bytes received from it.", |s| float(s.bytes_out)),
    gauge("lb_server_latency_average_seconds", "Moving average of its latency.", |s| s.latency.ewma_seconds),
    gauge("lb_server_latency_p50_seconds", "Median latency.", |s| s.latency.p50_seconds),
    gauge("lb_server_latency_p99_seconds", "99th percentile of its latency.", |s| s.latency.p99_seconds),
    gauge("lb_server_last_check_passed", "1 if the last check passed, else 0.", |s| {
        s.health.last_check.as_ref().and_then(|check| float(check.ok.into()))
    }),
    gauge("lb_server_last_check_duration_seconds", "How long the last check took.", |s| {
        s.health.last_check.as_ref().map(|check| check.duration_seconds)
    }),
    gauge("lb_server_health_age_seconds", "Time since its health changed.", |s| s.health.since_seconds),
];

fn frontends(page: &mut Page, frontends: &[Frontend]) {
    page.families(&FRONTEND, frontends.iter().map(|f| ([("frontend", f.name.as_str())], f)));
    page.family("lb_frontend_timeouts_total", Kind::Counter, "What took too long, by kind of timeout.");
    for frontend in frontends {
        for (kind, count) in frontend.timeouts.kinds() {
            page.sample(&[("frontend", &frontend.name), ("kind", kind)], count as f64);
        }
    }
    page.family(
        "lb_frontend_responses_total",
        Kind::Counter,
        "Responses to clients, by class of their status.",
    );
    for frontend in frontends {
        for (class, count) in frontend.responses.classes() {
            page.sample(&[("frontend", &frontend.name), ("class", class)], count as f64);
        }
    }
}

fn backends(page: &mut Page, backends: &[Backend]) {
    page.family("lb_backend_info", Kind::Gauge, "The algorithm of a backend; always 1.");
    for backend in backends {
        page.sample(&[("backend", &backend.name), ("algorithm", &backend.algorithm)], 1.0);
    }
    page.families(&BACKEND, backends.iter().map(|b| ([("backend", b.name.as_str())], b)));
}

fn servers(page: &mut Page, backends: &[Backend]) {
    let servers = || backends.iter().flat_map(|b| b.servers.iter().map(move |s| (b, s)));
    page.family("lb_server_info", Kind::Gauge, "The address of a server; always 1.");
    for (backend, server) in servers() {
        page.sample(
            &[("backend", &backend.name), ("server", &server.name), ("address", &server.address)],
            1.0,
        );
    }
    page.families(
        &SERVER,
        servers().map(|(b, s)| ([("backend", b.name.as_str()), ("server", s.name.as_str())], s)),
    );
    page.family("lb_server_admin", Kind::Gauge, "1 for the state that the operator wants, 0 for the others.");
    for (backend, server) in servers() {
        for state in [Admin::Ready, Admin::Drain, Admin::Maintenance] {
            let labels =
                [("backend", backend.name.as_str()), ("server", &server.name), ("state", state.label())];
            page.sample(&labels, f64::from(u8::from(server.admin == state)));
        }
    }
    page.family("lb_server_health", Kind::Gauge, "1 for the state that its checks give, 0 for the others.");
    for (backend, server) in servers() {
        for state in [HealthState::Up, HealthState::Down, HealthState::Ejected, HealthState::Unchecked] {
            let labels =
                [("backend", backend.name.as_str()), ("server", &server.name), ("state", state.label())];
            page.sample(&labels, f64::from(u8::from(server.health.state == state)));
        }
    }
    page.family(
        "lb_server_responses_total",
        Kind::Counter,
        "Responses of a server, by class of their status.",
    );
    for (backend, server) in servers() {
        for (class, count) in server.responses.classes() {
            page.sample(
                &[("backend", &backend.name), ("server", &server.name), ("class", class)],
                count as f64,
            );
        }
    }
}

/// Prometheus keeps every value as a double; counts above 2^53 are rounded.
fn float(count: u64) -> Option<f64> {
    Some(count as f64)
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// The text as it grows: family after family, all samples of one together.
#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
    /// Written with the first sample, so that there is no header without samples.
    header: String,
}

impl Page {
    /// Starts a family: the samples that follow are its own.
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        self.name = name;
        self.header = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.label());
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text += &std::mem::take(&mut self.header);
        self.text += self.name;
        let labels: Vec<_> =
            labels.iter().map(|(name, text)| format!("{name}=\"{}\"", escape(text))).collect();
        if !labels.is_empty() {
            self.text += &format!("{{{}}}", labels.join(","));
        }
        self.text += &format!(" {}\n", number(value));
    }

    /// Families of which each item has one sample, under its own labels.
    fn families<'a, T: 'a, const N: usize>(
        &mut self,
        families: &[Family<T>],
        items: impl Iterator<Item = ([(&'a str, &'a str); N], &'a T)> + Clone,
    ) {
        for Family { name, kind, help, value } in families {
            self.family(name, *kind, help);
            for (labels, item) in items.clone() {
                if let Some(value) = value(item) {
                    self.sample(&labels, value);
                }
            }
        }
    }
}

/// A label's value: backslash, quote and line feed are escaped, everything else is UTF-8 as it is.
fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::status::sample;

    /// Any text, rich in what a label may stumble over.
    const ANY: &str = "([,\"\\\\\n\r{}=# ]|\\PC)*";

    /// One line of samples: name, labels in order, value.
    type Sample = (String, Vec<(String, String)>, f64);

    /// Reads the format as its page describes it and refuses what that page does not allow: a sample before
    /// its TYPE, a family that is named twice or split, a bad name, a label twice, an unknown escape, a
    /// sample twice.
    fn parse(text: &str) -> Result<Vec<Sample>, String> {
        let mut types = HashMap::new();
        let mut seen = HashSet::new();
        let mut current = String::new();
        let mut samples = Vec::new();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".into());
        }
        for line in text.lines() {
            let fault = |what: &str| format!("{what}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| fault("no help"))?;
                if types.contains_key(name) || help.is_empty() {
                    return Err(fault("help too late or empty"));
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| fault("no type"))?;
                if !["counter", "gauge"].contains(&kind) || !is_name(name) {
                    return Err(fault("bad type"));
                }
                if types.insert(name.to_owned(), kind.to_owned()).is_some() {
                    return Err(fault("family twice"));
                }
                current = name.to_owned();
            } else {
                let sample = parse_sample(line).ok_or_else(|| fault("bad sample"))?;
                if sample.0 != current {
                    return Err(fault("sample outside its family"));
                }
                if types[&current] == "counter" && (sample.2.is_nan() || sample.2 < 0.0) {
                    return Err(fault("negative counter"));
                }
                if !seen.insert((sample.0.clone(), sample.1.clone())) {
                    return Err(fault("sample twice"));
                }
                samples.push(sample);
            }
        }
        Ok(samples)
    }

    fn is_name(name: &str) -> bool {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn parse_sample(line: &str) -> Option<Sample> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels: Vec<(String, String)> = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"")?;
                let mut value = String::new();
                let mut chars = after.char_indices();
                let close = loop {
                    match chars.next()? {
                        (at, '"') => break at,
                        (_, '\\') => value.push(match chars.next()?.1 {
                            'n' => '\n',
                            c @ ('\\' | '"') => c,
                            _ => return None,
                        }),
                        (_, c) => value.push(c),
                    }
                };
                if !is_name(label) || labels.iter().any(|(other, _)| other == label) {
                    return None;
                }
                labels.push((label.into(), value));
                rest = &after[close + 1..];
                match rest.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        let value = rest.strip_prefix(' ')?;
        let value = value.replace("+Inf", "inf").replace("-Inf", "-inf").parse().ok()?;
        is_name(name).then(|| (name.into(), labels, value))
    }

    #[test]
    fn the_test_parser_is_strict() {
        let good = "# HELP a h\n# TYPE a gauge\na{x=\"1\",y=\"\\\\\\n\\\"\"} 2.5\na +Inf\n";
        assert_eq!(parse(good).unwrap()[0].1[1].1, "\\\n\"");
        let bad = [
            "a 1\n",
            "# TYPE a gauge\na 1",
            "# TYPE a gauge\nb 1\n",
            "# TYPE a gauge\na 1\na 1\n",
            "# TYPE a counter\na -1\n",
            "# TYPE a widget\na 1\n",
            "# TYPE a gauge\na{x=\"1\",x=\"2\"} 1\n",
            "# TYPE a gauge\na{x=\"\\q\"} 1\n",
            "# TYPE a gauge\na{x=\"1} 1\n",
            "# TYPE a gauge\na{x=\"1\"}1\n",
            "# TYPE a gauge\na{1x=\"1\"} 1\n",
            "# TYPE a gauge\na one\n",
            "# TYPE a gauge\na 1\n# TYPE a gauge\n",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_format_is_valid_and_says_what_the_status_says() {
        let status = sample::at(100.0);
        let text = render(&status);
        let samples = parse(&text).unwrap();
        let value = |name: &str, labels: &[(&str, &str)]| {
            let wanted: Vec<_> = labels.iter().map(|(l, v)| (l.to_string(), v.to_string())).collect();
            samples.iter().find(|(n, l, _)| n == name && *l == wanted).map(|(_, _, value)| *value)
        };
        let web = |server| [("backend", "pi"), ("server", server)];
        let requests = status.backends[0].servers[0].requests;
        assert_eq!(value("lb_server_requests_total", &web("web1")), Some(requests as f64));
        assert_eq!(value("lb_server_slow_start_ratio", &web("web2")), Some(0.25));
        assert_eq!(value("lb_server_slow_start_ratio", &web("web1")), None);
        assert_eq!(value("lb_server_usable", &web("web3")), Some(0.0));
        let timeout = [("frontend", "www"), ("kind", "request_header")];
        assert_eq!(value("lb_frontend_timeouts_total", &timeout), Some(5.0));
        let draining = [("backend", "pi"), ("server", "web3"), ("state", "drain")];
        assert_eq!(value("lb_server_admin", &draining), Some(1.0));
        assert_eq!(value("lb_backend_usable_servers", &[("backend", "pi")]), Some(3.0));
        for (name, ..) in &samples {
            let counter = text.contains(&format!("# TYPE {name} counter"));
            assert_eq!(name.ends_with("_total"), counter, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_and_number_survives(name in ANY, rate in any::<f64>()) {
            let server = Server { name: name.clone(), requests_per_second: rate, ..Server::default() };
            let backend = Backend { name: name.clone(), servers: vec![server], ..Backend::default() };
            let samples = parse(&render(&Status { backends: vec![backend], ..Status::default() })).unwrap();
            let shown = samples.iter().find(|(n, ..)| n == "lb_server_requests_per_second").unwrap();
            prop_assert_eq!(&shown.1, &[("backend".into(), name.clone()), ("server".into(), name)]);
            prop_assert!(shown.2 == rate || (shown.2.is_nan() && rate.is_nan()));
        }
    }

    #[test]
    fn nothing_at_all_is_valid_too() {
        let samples = parse(&render(&Status::default())).unwrap();
        assert_eq!(samples.len(), 3, "{samples:?}");
    }
}
