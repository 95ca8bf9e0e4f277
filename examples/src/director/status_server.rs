//! The status page, its other forms, and the admin actions, on an address of their own.
//!
//! | request | answer |
//! |---|---|
//! | `GET /`, `/status.json`, `/status.csv`, `/metrics` | the status in that form |
//! | `POST /backends/NAME/servers/NAME/ready`, `…/drain`, `…/maint` | the server's administrative state |
//! | `POST /backends/NAME/servers/NAME/weight?value=N` | the server's weight, 0 to 65535 |
//!
//! An action needs `Authorization: Bearer TOKEN`, and there are none without a token in the configuration. What a
//! browser can be made to send without its user's wish (cookies, forms) carries no such header.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_core::{Admin, Weight};
use lb_examples::status::respond;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::app::App;
use crate::config::nearest;

/// Connections at a time; one more ends the oldest, so that nobody who holds them keeps the operator out.
const CONNECTIONS: usize = 64;
/// A connection that asks for nothing is closed after this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// No connection lives longer, so that a reader who stopped reading holds nothing for ever.
const LIFETIME: Duration = Duration::from_secs(300);

/// Serves until the task is dropped.
///
/// # Errors
/// When the socket cannot be used.
pub(crate) async fn serve(app: Rc<App>, listener: StdListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let app = Rc::clone(&app);
        let connection = tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let response = answer(&app, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // How a reader leaves is its own affair.
            let _ = tokio::time::timeout(LIFETIME, connection).await;
        });
        open.push_back(connection.abort_handle());
        // One that has asked already is answered before others can push it out.
        tokio::task::yield_now().await;
    }
}

fn answer(app: &App, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match *request.method() {
        Method::GET | Method::HEAD => {
            let target = request.uri().path();
            let shown = respond(target, || app.status());
            let mut response = Response::new(Full::new(Bytes::from(shown.body.clone())));
            *response.status_mut() = StatusCode::from_u16(shown.code).unwrap_or(StatusCode::OK);
            for (name, value) in shown.headers() {
                if let Ok(value) = HeaderValue::from_str(value) {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        Method::POST => match act(app, request) {
            Ok(done) => text(StatusCode::OK, done),
            Err((status, why)) => text(status, why),
        },
        _ => {
            let mut response =
                text(StatusCode::METHOD_NOT_ALLOWED, "Read with GET, act with POST.\n".to_owned());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            response
        }
    }
}

fn text(status: StatusCode, sentence: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(sentence)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

type Refusal = (StatusCode, String);

const ACTIONS: [&str; 4] = ["ready", "drain", "maint", "weight"];

fn act(app: &App, request: &Request<Incoming>) -> Result<String, Refusal> {
    let site = app.site();
    let token = site.config.status.as_ref().and_then(|status| status.token.clone());
    let Some(token) = token else {
        let why = "Actions are off: set `token` under [status] in the configuration to allow them.\n";
        return Err((StatusCode::FORBIDDEN, why.to_owned()));
    };
    if !bears(request, &token) {
        let why = "This action needs the header `Authorization: Bearer TOKEN` with the configured token.\n";
        return Err((StatusCode::UNAUTHORIZED, why.to_owned()));
    }
    let not_found = |why: String| (StatusCode::NOT_FOUND, why);
    let parts: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    let ["backends", farm, "servers", server, action] = parts[..] else {
        let why =
            "Actions are at /backends/NAME/servers/NAME/ACTION; ACTION is ready, drain, maint or weight.\n";
        return Err(not_found(why.to_owned()));
    };
    let farms = || site.farms.iter().map(|farm| farm.config.name.as_str());
    let Some(found) = site.farms.iter().find(|other| other.config.name == farm) else {
        return Err(not_found(unknown("backend", farm, farms())));
    };
    let servers = || found.config.servers.iter().map(|server| server.name.as_str());
    if !servers().any(|other| other == server) {
        return Err(not_found(unknown("server", server, servers())));
    }
    let done = match action {
        "ready" => app.care.set_admin(farm, server, Admin::Ready),
        "drain" => app.care.set_admin(farm, server, Admin::Drain),
        "maint" => app.care.set_admin(farm, server, Admin::Maintenance),
        "weight" => {
            let weight = weight(request).ok_or_else(|| {
                let why = "A weight is one whole number, 0 to 65535: …/weight?value=3\n";
                (StatusCode::BAD_REQUEST, why.to_owned())
            })?;
            let done = app.care.set_weight(farm, server, Weight::new(weight));
            eprintln!("director: server {farm}/{server}: weight {weight} by the operator");
            return done
                .map(|()| format!("{farm}/{server} has weight {weight}.\n"))
                .ok_or_else(|| not_found(unknown("server", server, servers())));
        }
        other => return Err(not_found(unknown("action", other, ACTIONS))),
    };
    eprintln!("director: server {farm}/{server}: {action} by the operator");
    done.map(|()| format!("{farm}/{server} is {action}.\n"))
        .ok_or_else(|| not_found(unknown("server", server, servers())))
}

fn bears(request: &Request<Incoming>, token: &str) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    // The name of a scheme is written as one likes (RFC 9110 section 11.1).
    let given = given.and_then(|value| value.split_at_checked(b"Bearer ".len()));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    // Its length is no secret; its bytes must not be told by how long the comparison takes.
    given.is_some_and(|(_, given)| given.ct_eq(token.as_bytes()).into())
}

fn weight(request: &Request<Incoming>) -> Option<u16> {
    request.uri().query()?.strip_prefix("value=")?.parse().ok()
}

fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let hint = nearest(name, known.iter().copied()).map(|near| format!(" Did you mean {near}?"));
    format!("There is no {what} {name}.{} Known: {}.\n", hint.unwrap_or_default(), known.join(", "))
}
