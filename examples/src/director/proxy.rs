//! One HTTP request: checked, sent to a server, tried again where that is safe, answered.
//!
//! A server's interim answers (1xx) end here: the engine has no way to send any to a client but `100 Continue`, which it
//! sends itself.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};

use crate::answer::Failure;
use crate::body::{Relay, RequestBody, ResponseBody};
use crate::choose::choose;
use crate::exchange::Exchange;
use crate::headers;
use crate::persistence::Session;
use crate::pump::Idle;
use crate::replay::{self, Replay};
use crate::tunnel::Tunnel;
use crate::upstream::{self, Upstream};
use crate::watch::{Overdue, Wait};

/// HAProxy's pause before the same server is tried again.
const SAME_SERVER_PAUSE: Duration = Duration::from_secs(1);

/// Answers one request, of which `exchange` has begun; whatever goes wrong is an answer too.
pub(crate) async fn handle(
    mut exchange: Box<Exchange>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let client = Rc::clone(&exchange.client);
    Ok(match forward(&mut exchange, request).await {
        Ok(Answer { response, upgraded: None }) => {
            response.map(|body| ResponseBody::Relay(Relay::new(body, exchange)))
        }
        Ok(Answer { response, upgraded: Some(upstream) }) => {
            let tunnel = exchange.frontend.farm.config.timeouts.tunnel;
            let idle = Idle { client: tunnel, server: tunnel };
            *client.tunnel.borrow_mut() = Some(Tunnel::upgraded(upstream, exchange, idle));
            response.map(|_| ResponseBody::Own(bytes::Bytes::new()))
        }
        Err(failure) => {
            client.watch.set_overdue(None);
            exchange.fail(failure)
        }
    })
}

/// A server's answer.
struct Answer {
    response: Response<Incoming>,
    /// The connection, when the server changed the protocol.
    upgraded: Option<Upstream>,
}

async fn forward(exchange: &mut Exchange, mut request: Request<Incoming>) -> Result<Answer, Failure> {
    headers::check(&request).map_err(Failure::Improper)?;
    let client = Rc::clone(&exchange.client);
    let frontend = Rc::clone(&exchange.frontend);
    let farm = &frontend.farm;
    client.watch.set_server_timeout(farm.config.timeouts.server);
    let upgrade = headers::upgrade(request.headers());
    let mut session = Session::find(farm, &client, request.headers_mut());
    headers::towards_server(&mut request, client.local);
    if frontend.config.forwarded_for {
        headers::forwarded_for(request.headers_mut(), &client.address_value);
    }
    if let Some(protocol) = &upgrade {
        headers::ask_upgrade(request.headers_mut(), protocol.clone());
    }
    let (request, replay) = replay::prepare(request, &client, farm.config.retries).await?;
    let mut next = Some(request);
    let mut avoid = Vec::new();
    let mut same: Option<lb_core::BackendId> = None;
    loop {
        let pinned = same.or(session.server());
        let lease = choose(exchange, pinned, &mut avoid).await?;
        let id = lease.backend().id();
        exchange.hold(lease);
        let Some(request) = next.take().or_else(|| replay.as_ref().map(Replay::again)) else {
            return Err(Failure::Broken);
        };
        let Failed { why, unsent } =
            match attempt(exchange, request, replay.as_ref(), upgrade.is_some()).await {
                Ok(mut response) => match headers::improper(&response, upgrade.as_ref()) {
                    Some(what) => Failed::new(Failure::BadAnswer(what)),
                    None => {
                        exchange.answered(response.status().as_u16());
                        let upgraded = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
                            .then(|| exchange.upstream.take())
                            .flatten();
                        towards_client(&mut response, upgraded.is_some());
                        session.settle(farm, exchange, response.headers_mut());
                        return Ok(Answer { response, upgraded });
                    }
                },
                Err(failed) => failed,
            };
        let server = exchange.attempt_failed(why);
        next = unsent;
        let can_repeat = why.repeatable() && (next.is_some() || replay.is_some());
        if !can_repeat || exchange.retries >= farm.config.retries {
            return Err(why);
        }
        exchange.retries += 1;
        if farm.config.redispatch {
            session.forget();
            avoid.push(id);
        } else {
            same = Some(id);
            tokio::time::sleep(SAME_SERVER_PAUSE.min(farm.config.timeouts.connect)).await;
        }
        if let Some(server) = server {
            exchange.count_retry(&server);
        }
    }
}

/// An attempt that got no answer.
struct Failed {
    why: Failure,
    /// The request, if the server saw nothing of it.
    unsent: Option<Request<RequestBody>>,
}

impl Failed {
    fn new(why: Failure) -> Self {
        Self { why, unsent: None }
    }
}

/// Sends a request to the leased server and waits for the header of its answer.
async fn attempt(
    exchange: &mut Exchange,
    mut request: Request<RequestBody>,
    replay: Option<&Replay>,
    fresh_only: bool,
) -> Result<Response<Incoming>, Failed> {
    let began = exchange.attempt_begins();
    let frontend = Rc::clone(&exchange.frontend);
    let shared = frontend.farm.config.send_proxy.is_none() && !fresh_only;
    let idle = &exchange.client.worker.idle;
    let kept =
        exchange.lease.as_ref().filter(|_| shared).and_then(|lease| idle.take(lease, replay.is_some()));
    if let Some(upstream) = kept {
        match send(exchange, upstream, request, began).await {
            Ok(response) => return Ok(response),
            // The server closed the connection while the request was on its way: it says nothing of the server.
            Err(Failed { why: Failure::Broken, unsent }) if !exchange.server_removed() => {
                exchange.upstream = None;
                match unsent.or_else(|| replay.map(Replay::again)) {
                    Some(again) => request = again,
                    None => return Err(Failed::new(Failure::Broken)),
                }
            }
            Err(failed) => return Err(failed),
        }
    }
    match open(exchange).await {
        Ok(upstream) => send(exchange, upstream, request, Instant::now()).await,
        Err(why) => Err(Failed { why, unsent: Some(request) }),
    }
}

async fn open(exchange: &mut Exchange) -> Result<Upstream, Failure> {
    let Some(server) = exchange.lease.as_ref().map(|lease| Arc::clone(lease.backend().payload())) else {
        return Err(Failure::NoServer);
    };
    let started = Instant::now();
    exchange.client.watch.wait_for(Wait::Elsewhere, started);
    let farm = &exchange.frontend.farm;
    let preface = farm.config.send_proxy.map(|version| {
        crate::proxy_protocol::header(version, exchange.client.address, exchange.client.local)
    });
    let connected = upstream::connect(&server, farm.config.timeouts.connect, preface.as_deref()).await;
    let stream = connected.map_err(|error| exchange.connect_failed(&server, &error))?;
    if let Some(record) = &mut exchange.record {
        record.connect = Some(started.elapsed());
    }
    Upstream::handshake(stream).await.map_err(|_| Failure::Connect)
}

async fn send(
    exchange: &mut Exchange,
    mut upstream: Upstream,
    request: Request<RequestBody>,
    now: Instant,
) -> Result<Response<Incoming>, Failed> {
    // An idle connection may take a turn of its task until it is ready; a closed one says so.
    if !upstream.sender.is_ready() {
        let patience = exchange.frontend.farm.config.timeouts.connect;
        if !matches!(tokio::time::timeout(patience, upstream.sender.ready()).await, Ok(Ok(()))) {
            return Err(Failed { why: Failure::Broken, unsent: Some(request) });
        }
    }
    let client = Rc::clone(&exchange.client);
    client.watch.wait_for(Wait::Server, now);
    let answer = upstream.sender.try_send_request(request);
    exchange.upstream = Some(upstream);
    let mut answer = pin!(answer);
    let sent = poll_fn(|cx| {
        if let Poll::Ready(result) = answer.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        if let Some(overdue) = client.watch.overdue() {
            return Poll::Ready(Err(match overdue {
                Overdue::Server => Failure::ServerTimeout,
                _ => Failure::ClientTimeout,
            }));
        }
        // The worker wakes every connection when a server is removed.
        if exchange.server_removed() {
            return Poll::Ready(Err(Failure::Broken));
        }
        Poll::Pending
    })
    .await;
    match sent {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => {
            let why = match error.error() {
                _ if client.upload_broke.get() => client.broken_upload(),
                error if error.is_parse_too_large() => Failure::TooLarge,
                error if error.is_parse() => Failure::NotHttp,
                _ => Failure::Broken,
            };
            Err(Failed { why, unsent: error.take_message() })
        }
        Err(why) => Err(Failed::new(why)),
    }
}

/// Makes a response fit for a client: this hop's version, no fields of the hop before.
fn towards_client(response: &mut Response<Incoming>, upgraded: bool) {
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    let protocol = if upgraded { headers.remove(header::UPGRADE) } else { None };
    headers::strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}
