//! The web workload as an HTTP service: what `pi.php` and `index.php` answer, without PHP.
//!
//! | path | answer |
//! |---|---|
//! | `/pi.php?n=100000` | π summed over n rectangles: n, value, time, server's address |
//! | `/index.php`, `/` | title, date, time, the server's name and address |
//! | `/health` | `ok`, at once, however busy the server is |
//!
//! With `Accept: application/json` or `?format=json` the same fields come as JSON. Each answer carries the server's
//! name in the header `x-server`.
//!
//! Sums run beside the threads that talk to clients, no more at a time than there are workers; a bounded number
//! waits, and the rest is told so with status 503. A [`Settings::speed`] below 1 makes every sum take longer, so
//! that one machine can play servers of different strength.
//!
//! ```no_run
//! use lb_examples::pi_service::{PiService, Settings, serve};
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
//! let service = PiService::new(Settings { name: "web1".into(), speed: 0.5, ..Settings::default() })?;
//! serve(listener, service, async { drop(tokio::signal::ctrl_c().await) }).await;
//! # Ok(())
//! # }
//! ```

mod request;
mod serve;

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, available_parallelism};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use lb_core::clock::{Clock, MonotonicClock};
use lb_core::pi::{self, Report};
use serde::Serialize;
use tokio::sync::Semaphore;

use request::{Page, Refusal};
pub use serve::serve;

/// The header that names the server which answered.
pub const SERVER_NAME: HeaderName = HeaderName::from_static("x-server");

/// Up to this n a sum takes less time (10 µs) than its way to another thread and back.
const INLINE: u64 = 10_000;

/// What distinguishes one server from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The server's name, in `/index.php` and the header `x-server`: visible ASCII.
    pub name: String,
    /// 1 is the machine's own speed, 0.25 a server that takes four times as long; from 0.001 to 1.
    pub speed: f64,
    /// Sums computed at a time; at least 1. By default one a processor.
    pub workers: usize,
    /// Sums that may wait for a worker before further ones are refused with 503.
    pub queue: usize,
    /// The greatest n that is summed; what asks for more gets 400. 10⁸ takes a tenth of a second.
    pub max_n: u64,
    /// Connections open at a time; further ones wait in the kernel's backlog.
    pub max_connections: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "pi-server".into(),
            speed: 1.0,
            workers: available_parallelism().map_or(1, usize::from),
            queue: 1024,
            max_n: 100_000_000,
            max_connections: 10_000,
        }
    }
}

/// Which setting no server can have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The name does not fit into a header.
    #[error("the server's name {name:?} has characters that a header cannot carry; use visible ASCII")]
    Name {
        /// The name.
        name: String,
    },
    /// Slower than a thousandth, faster than the machine, or no number.
    #[error("speed {speed} is out of range; use 1 for the machine's own speed, down to 0.001")]
    Speed {
        /// The speed.
        speed: f64,
    },
    /// A number of things that cannot be.
    #[error("{setting} = {value} is out of range; use {least} to {most}")]
    Count {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The least that it can be.
        least: u64,
        /// The most that it can be.
        most: u64,
    },
}

/// One server's answers; clones share its workers.
#[derive(Clone, Debug)]
pub struct PiService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    name: HeaderValue,
    clock: MonotonicClock,
    /// One permit a sum that runs or waits.
    admitted: Arc<Semaphore>,
    /// One permit a sum that runs.
    running: Semaphore,
    /// One permit a connection.
    connections: Arc<Semaphore>,
}

impl PiService {
    /// A server with these settings.
    ///
    /// # Errors
    /// [`SettingsError`] names the setting that is out of its range.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let Settings { name, speed, workers, queue, max_n, max_connections } = &settings;
        let (workers, queue, max_connections) = (*workers, *queue, *max_connections);
        let name = Some(name)
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
            .and_then(|name| HeaderValue::from_str(name).ok())
            .ok_or_else(|| SettingsError::Name { name: name.clone() })?;
        if !(0.001..=1.0).contains(speed) {
            return Err(SettingsError::Speed { speed: *speed });
        }
        // Far below what a semaphore counts, far above what a machine holds.
        let most = 1_000_000;
        for (setting, value, least, most) in [
            ("workers", workers as u64, 1, most),
            ("queue", queue as u64, 0, most),
            ("max-connections", max_connections as u64, 1, most),
            ("max-n", *max_n, 1, pi::MAX),
        ] {
            if !(least..=most).contains(&value) {
                return Err(SettingsError::Count { setting, value, least, most });
            }
        }
        let shared = Shared {
            name,
            clock: MonotonicClock::new(),
            admitted: Arc::new(Semaphore::new(workers + queue)),
            running: Semaphore::new(workers),
            connections: Arc::new(Semaphore::new(max_connections)),
            settings,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Answers one request, whose body is of no interest; `server` is the address at which it came in.
    pub async fn respond<B>(&self, request: &Request<B>, server: SocketAddr) -> Response<Full<Bytes>> {
        let mut response = match self.page(request, server).await {
            Ok(response) => response,
            Err(refusal) => {
                let mut response =
                    response(refusal.status(), request::wants_json(request).unwrap_or(false), &refusal);
                if refusal.status() == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                }
                response
            }
        };
        response.headers_mut().insert(SERVER_NAME, self.shared.name.clone());
        response
    }

    async fn page<B>(
        &self,
        request: &Request<B>,
        server: SocketAddr,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let json = request::wants_json(request)?;
        Ok(match Page::of(request, self.shared.settings.max_n)? {
            Page::Health => response(StatusCode::OK, json, &Health { status: "ok" }),
            Page::Index => response(StatusCode::OK, json, &Index::now(&self.shared.settings.name, server)),
            Page::Sum { n } => response(StatusCode::OK, json, &self.sum(n, server).await?),
        })
    }

    /// Sums where the wait hurts nobody: in a thread of its own, when a worker is free.
    async fn sum(&self, n: u64, server: SocketAddr) -> Result<Report, Refusal> {
        let Settings { workers, queue, speed, .. } = self.shared.settings;
        let admission = Arc::clone(&self.shared.admitted)
            .try_acquire_owned()
            .map_err(|_| Refusal::Busy { workers, queue })?;
        if n <= INLINE && speed == 1.0 {
            return self.shared.measure(n, server);
        }
        let shared = Arc::clone(&self.shared);
        let work = async move {
            let _running = shared.running.acquire().await.map_err(|_| Refusal::Failed { n })?;
            let worker = Arc::clone(&shared);
            tokio::task::spawn_blocking(move || worker.measure(n, server))
                .await
                .map_err(|_| Refusal::Failed { n })?
        };
        // A task of its own: when the client leaves, the permits stay with the sum until it is done.
        tokio::spawn(async move {
            let report = work.await;
            drop(admission);
            report
        })
        .await
        .map_err(|_| Refusal::Failed { n })?
    }
}

impl Shared {
    fn measure(&self, n: u64, server: SocketAddr) -> Result<Report, Refusal> {
        let rule = |n| {
            let start = self.clock.now();
            let result = pi::midpoint(n);
            if self.settings.speed < 1.0 {
                thread::sleep(pause(self.clock.now() - start, self.settings.speed));
            }
            result
        };
        Report::measure(n, server, &self.clock, rule).map_err(|_| Refusal::Failed { n })
    }
}

/// What a server of this speed still has to wait after a sum that took the machine `own`.
fn pause(own: Duration, speed: f64) -> Duration {
    own.mul_f64(1.0 / speed - 1.0)
}

/// What `/health` says.
#[derive(Serialize)]
struct Health {
    status: &'static str,
}

impl Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)
    }
}

/// What `index.php` says.
#[derive(Serialize)]
struct Index<'a> {
    title: &'static str,
    date: String,
    time: String,
    name: &'a str,
    server: SocketAddr,
}

impl<'a> Index<'a> {
    fn now(name: &'a str, server: SocketAddr) -> Self {
        // "Fri, 20 Nov 2026 18:00:00 GMT": sixteen characters of date, a space, the time.
        let now = httpdate::fmt_http_date(SystemTime::now());
        let (date, time) = now.split_at_checked(16).unwrap_or((&now, ""));
        let (date, time) = (date.into(), time.trim_start().into());
        Self { title: "A web server behind a load balancer", date, time, name, server }
    }
}

impl Display for Index<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, date, time, name, server } = self;
        writeln!(f, "{title}\ndate: {date}\ntime: {time}\nserver: {name} {server}")
    }
}

/// The same fields as lines of text or as JSON.
fn response(status: StatusCode, json: bool, fields: &(impl Display + Serialize)) -> Response<Full<Bytes>> {
    let (kind, body) = if json {
        // Strings and finite numbers: there is nothing in an answer that JSON lacks.
        ("application/json", serde_json::to_vec(fields).unwrap_or_default())
    } else {
        ("text/plain; charset=utf-8", fields.to_string().into_bytes())
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    fn service(settings: Settings) -> PiService {
        PiService::new(settings).expect("these settings are in range")
    }

    /// Status and body of `GET path`.
    async fn get(service: &PiService, path: &str, accept: &str) -> (u16, String) {
        let request = Request::get(path).header("accept", accept).body(()).expect("a request");
        let response = service.respond(&request, ([127, 0, 0, 1], 8081).into()).await;
        assert_eq!(response.headers()["x-server"], "web1");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body in memory").to_bytes();
        (status, String::from_utf8(body.into()).expect("text"))
    }

    #[tokio::test]
    async fn pages_in_both_forms() {
        let service = service(Settings { name: "web1".into(), max_n: 1000, ..Settings::default() });
        for (path, status, wanted) in [
            ("/pi.php?n=1", 200, "Pi by the midpoint rule\nn: 1\npi: 3.200000\ntime: 0."),
            ("/pi.php?x=1&n=1000", 200, "n: 1000\npi: 3.141593\n"),
            ("/index.php", 200, "\nserver: web1 127.0.0.1:8081\n"),
            ("/", 200, "\ndate: "),
            ("/health", 200, "ok\n"),
            ("/pi.php", 400, "n is missing; ask for /pi.php?n=1000, with n from 1 to 1000\n"),
            ("/pi.php?n=", 400, "n = \"\" is no number from 1 to 1000\n"),
            ("/pi.php?n=ten", 400, "n = \"ten\" is no number from 1 to 1000\n"),
            ("/pi.php?n=+7", 400, "n = \"+7\" is no number from 1 to 1000\n"),
            ("/pi.php?n=-7", 400, "n = \"-7\" is no number from 1 to 1000\n"),
            ("/pi.php?n=0", 400, "n = \"0\" is no number from 1 to 1000\n"),
            ("/pi.php?n=1001", 400, "n = \"1001\" is no number from 1 to 1000\n"),
            ("/pi.php?n=99999999999999999999999", 400, "is no number from 1 to 1000\n"),
            ("/pi.php?n=1&format=xml", 400, "format = \"xml\" is unknown; use text or json\n"),
            ("/pie.php", 404, "/pie.php is not here; ask for /pi.php?n=1000, /index.php or /health\n"),
        ] {
            let (got, body) = get(&service, path, "*/*").await;
            assert_eq!(got, status, "{path}: {body}");
            assert!(body.contains(wanted), "{path}: {body}");
            // The JSON form says the same, asked for either way.
            let separator = if path.contains('?') { '&' } else { '?' };
            let asked = format!("{path}{separator}format=json");
            for (path, accept) in [(path, "text/html, application/json;q=0.9"), (asked.as_str(), "*/*")] {
                if path.contains("xml") {
                    continue;
                }
                let (got, body) = get(&service, path, accept).await;
                let json: Value = serde_json::from_str(&body).expect(&body);
                assert_eq!((got, json["error"].is_string()), (status, status != 200), "{path}: {body}");
            }
        }
    }

    #[tokio::test]
    async fn json_has_the_fields_of_the_originals() {
        let service = service(Settings { name: "web1".into(), ..Settings::default() });
        let (_, body) = get(&service, "/pi.php?n=1000000&format=json", "*/*").await;
        let json: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(json["n"], 1_000_000);
        assert_eq!(json["result"], pi::midpoint(1_000_000).expect("in range"));
        assert_eq!(json["server"], "127.0.0.1:8081");
        assert!(json["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{body}");
        let (_, body) = get(&service, "/index.php", "application/json").await;
        let json: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((&json["name"], &json["server"]), (&"web1".into(), &"127.0.0.1:8081".into()));
        let when = format!("{} {}", json["date"].as_str().unwrap_or(""), json["time"].as_str().unwrap_or(""));
        assert!(httpdate::parse_http_date(&when).is_ok(), "{when}");
    }

    #[tokio::test]
    async fn other_methods_are_refused() {
        let service = service(Settings::default());
        let request = Request::post("/pi.php?n=1").body(()).expect("a request");
        let response = service.respond(&request, ([127, 0, 0, 1], 1).into()).await;
        assert_eq!(
            (response.status(), &response.headers()[ALLOW]),
            (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("GET, HEAD"))
        );
    }

    #[tokio::test]
    async fn a_full_queue_answers_at_once() {
        let service = service(Settings { name: "web1".into(), workers: 1, queue: 0, ..Settings::default() });
        let long = tokio::spawn({
            let service = service.clone();
            async move { get(&service, "/pi.php?n=20000000", "*/*").await }
        });
        while service.shared.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let (status, body) = get(&service, "/pi.php?n=100000", "*/*").await;
        assert_eq!(
            (status, body.as_str()),
            (503, "all workers (1) are busy and the queue (0) is full; ask again later\n")
        );
        assert_eq!(get(&service, "/health", "*/*").await.0, 200);
        assert_eq!(long.await.expect("no panic").0, 200);
        assert_eq!(get(&service, "/pi.php?n=100000", "*/*").await.0, 200);
    }

    #[tokio::test]
    async fn a_slow_server_takes_its_time() {
        for (own, speed, wait) in [(10, 1.0, 0), (10, 0.5, 10), (10, 0.25, 30), (4, 0.001, 3996)] {
            assert_eq!(
                pause(Duration::from_millis(own), speed),
                Duration::from_millis(wait),
                "{own} ms at {speed}"
            );
        }
        let service = service(Settings { name: "web1".into(), speed: 0.001, ..Settings::default() });
        let (_, body) = get(&service, "/pi.php?n=20000&format=json", "*/*").await;
        let json: Value = serde_json::from_str(&body).expect("JSON");
        // Twenty thousand divisions cannot take less than 5 µs, and a thousandfold of that is 5 ms.
        assert!(json["seconds"].as_f64().is_some_and(|seconds| seconds > 0.005), "{body}");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        for (settings, wanted) in [
            (Settings { speed: 0.0, ..Settings::default() }, "speed 0 is out of range"),
            (Settings { speed: f64::NAN, ..Settings::default() }, "speed NaN is out of range"),
            (Settings { speed: 2.0, ..Settings::default() }, "speed 2 is out of range"),
            (Settings { workers: 0, ..Settings::default() }, "workers = 0 is out of range; use 1 to"),
            (Settings { max_n: 0, ..Settings::default() }, "max-n = 0 is out of range; use 1 to"),
            (Settings { queue: usize::MAX, ..Settings::default() }, "queue = "),
            (Settings { name: "a\nb".into(), ..Settings::default() }, r#"name "a\nb""#),
            (Settings { name: "wéb".into(), ..Settings::default() }, r#"name "wéb""#),
        ] {
            let error = PiService::new(settings).expect_err(wanted).to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
