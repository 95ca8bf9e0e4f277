//! One connection of a client: greeted, spoken HTTP with, timed, ended.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::answer::{Failure, Farewell};
use crate::counters::{FrontendCounters, Timeout};
use crate::exchange::Exchange;
use crate::guard::Guard;
use crate::proxy;
use crate::scanner::Refused;
use crate::site::Frontend;
use crate::traffic::Traffic;
use crate::tunnel::Tunnel;
use crate::watch::{Overdue, Verdict, Wait, Watch};
use crate::worker::{Own, Worker};

/// What the parts of one client connection share.
#[derive(Debug)]
pub(crate) struct Client {
    /// Who serves it.
    pub(crate) worker: Rc<Worker>,
    /// Where it comes from: the socket's peer, or what a PROXY protocol header says.
    pub(crate) address: SocketAddr,
    /// What it connected to.
    pub(crate) local: SocketAddr,
    /// Its address as a header value.
    pub(crate) address_value: HeaderValue,
    /// What is being waited for.
    pub(crate) watch: Watch,
    /// Why its stream was refused.
    pub(crate) refused: Cell<Option<Refused>>,
    /// Whether part of a header has been read.
    pub(crate) mid_head: Cell<bool>,
    /// Whether the present request's body has not been sent on whole.
    pub(crate) uploading: Cell<bool>,
    /// Whether that body broke off on the client's side.
    pub(crate) upload_broke: Cell<bool>,
    /// Whether no request is being answered and every answer has been written: what the engine writes then is its own.
    pub(crate) at_rest: Cell<bool>,
    /// A change of protocol that the server agreed to.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
    frontend: RefCell<Own<Frontend>>,
    site_version: Cell<u64>,
    traffic: Traffic,
}

impl Client {
    /// A connection that was just accepted.
    pub(crate) fn new(
        worker: Rc<Worker>,
        frontend: Own<Frontend>,
        address: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        Self {
            address,
            local,
            address_value: crate::headers::address_value(address.ip()),
            watch: Watch::new(Instant::now(), frontend.farm.config.timeouts.server),
            refused: Cell::new(None),
            mid_head: Cell::new(false),
            uploading: Cell::new(false),
            upload_broke: Cell::new(false),
            at_rest: Cell::new(true),
            tunnel: RefCell::default(),
            frontend: RefCell::new(frontend),
            site_version: Cell::new(worker.site_version()),
            traffic: Traffic::default(),
            worker,
        }
    }

    /// The frontend as it is configured now; as it was, when a reload has taken it away.
    pub(crate) fn frontend(&self) -> Own<Frontend> {
        if self.site_version.get() != self.worker.site_version() {
            self.site_version.set(self.worker.site_version());
            let mut own = self.frontend.borrow_mut();
            if let Some(now) = self.worker.frontend(&own.config.name) {
                *own = now;
            }
        }
        Rc::clone(&self.frontend.borrow())
    }

    /// Why the present request's body broke off.
    pub(crate) fn broken_upload(&self) -> Failure {
        if self.refused.get().is_some() { Failure::BadBody } else { Failure::ClientGone }
    }

    /// Counts bytes read from the client.
    pub(crate) fn received(&self, count: usize) {
        self.traffic.received(count);
    }

    /// Counts bytes written to the client.
    pub(crate) fn sent(&self, count: usize) {
        self.traffic.sent(count);
    }

    /// A request ended: hands over the bytes counted since the last one.
    pub(crate) fn end_request(&self, counters: &FrontendCounters, now: Instant) {
        let wait = if self.mid_head.get() { Wait::Header } else { Wait::Idle };
        self.watch.wait_for(wait, now);
        self.hand_over_traffic(counters);
    }

    fn hand_over_traffic(&self, counters: &FrontendCounters) {
        let (sent, received) = self.traffic.take();
        counters.bytes_out.add(sent);
        counters.bytes_in.add(received);
    }
}

type Engine<S> = http1::Connection<TokioIo<Guard>, S>;

/// Serves one HTTP connection to its end. `early` was read from it already.
pub(crate) async fn serve_http(client: Rc<Client>, stream: TcpStream, early: Bytes) {
    let frontend = client.frontend();
    let limit = frontend.config.max_header_bytes;
    let io = TokioIo::new(Guard::new(stream, early, limit, Rc::clone(&client)));
    let service = {
        let client = Rc::clone(&client);
        // It has begun before the engine reads any further.
        service_fn(move |request| proxy::handle(Exchange::begin(&client, &request), request))
    };
    let mut engine =
        http1::Builder::new().max_buf_size(limit).max_header_size(limit).serve_connection(io, service);
    let ended = Driver::new(&client, &frontend).drive(&mut engine).await;
    let counters = frontend.state.counters.of(client.worker.id);
    client.hand_over_traffic(counters);
    match ended {
        Ended::ByItself(result) => {
            let farewell = result.err().and_then(|error| refuse(&client, &frontend, counters, &error));
            let tunnel = client.tunnel.take();
            let parts = engine.into_parts();
            let stream = parts.io.into_inner().into_inner();
            if let Some(tunnel) = tunnel {
                tunnel.run(stream, parts.read_buf).await;
            } else if let (Some(farewell), true) = (farewell, client.at_rest.get()) {
                take_leave(stream, farewell).await;
            }
        }
        Ended::Overdue(Overdue::Header) => {
            counters.timeout(Timeout::RequestHeader).one();
            counters.responses.count(408);
            client.worker.log.write_refused(&client, &frontend, 408, *b"cR");
            let farewell =
                Farewell { status: StatusCode::REQUEST_TIMEOUT, why: "its header did not arrive in time" };
            take_leave(engine.into_parts().io.into_inner().into_inner(), farewell).await;
        }
        Ended::Overdue(Overdue::ClientWrite) => counters.timeout(Timeout::Client).one(),
        Ended::Overdue(_) => {}
    }
}

/// Counts and logs what the engine refused to parse, and gives the answer to it.
fn refuse(
    client: &Client,
    frontend: &Frontend,
    counters: &FrontendCounters,
    error: &hyper::Error,
) -> Option<Farewell> {
    let refused = client.refused.get();
    if !error.is_parse() && refused.is_none() {
        return None;
    }
    counters.denied.one();
    let too_large = error.is_parse_too_large() || refused == Some(Refused::HeaderTooLarge);
    let status =
        if too_large { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    let why = match refused {
        Some(refused) => refused.reason(),
        // Its bytes have been counted by the scanner.
        None if too_large => "a header of more than 100 lines",
        None => "a malformed request line or header",
    };
    counters.responses.count(status.as_u16());
    client.worker.log.write_refused(client, frontend, status.as_u16(), *b"PR");
    client.worker.notices.refused(client.address, why);
    Some(Farewell { status, why })
}

/// Answers on a connection that the engine has left, and closes it. The client may not be reading; then it gets no
/// answer.
async fn take_leave(mut stream: TcpStream, farewell: Farewell) {
    let leaving = async {
        stream.write_all(&farewell.response()).await?;
        stream.shutdown().await?;
        // To close while something is unread would take the answer back.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), leaving).await;
}

enum Ended {
    /// The engine is done, well or not.
    ByItself(hyper::Result<()>),
    /// It was stopped.
    Overdue(Overdue),
}

/// Polls an engine, its timer, and the worker's wish to stop.
struct Driver<'c> {
    client: &'c Client,
    frontend: &'c Frontend,
    timer: Pin<Box<Sleep>>,
    /// The timer has this task's waker.
    armed: bool,
    /// The timer knows that the client ended its side.
    half_closed: Option<Instant>,
    closing: bool,
}

impl<'c> Driver<'c> {
    fn new(client: &'c Client, frontend: &'c Frontend) -> Self {
        let timer = match client.watch.check(Instant::now(), &frontend.config.timeouts) {
            Verdict::Later(when) => tokio::time::sleep_until(when.into()),
            Verdict::Now(_) => tokio::time::sleep(Duration::ZERO),
        };
        Self { client, frontend, timer: Box::pin(timer), armed: false, half_closed: None, closing: false }
    }

    async fn drive<S>(mut self, engine: &mut Engine<S>) -> Ended
    where
        S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::body::ResponseBody>,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let worker = Rc::clone(&self.client.worker);
        let mut stirred = pin!(worker.stir.notified());
        let mut seen = None;
        poll_fn(|cx| {
            // It needs this task's waker only once for each time that all are woken.
            if seen != Some(worker.stirred()) {
                seen = Some(worker.stirred());
                while stirred.as_mut().poll(cx).is_ready() {
                    stirred.set(worker.stir.notified());
                }
            }
            if worker.is_closing() && !self.closing {
                self.closing = true;
                Pin::new(&mut *engine).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut *engine).poll(cx) {
                return Poll::Ready(Ended::ByItself(result));
            }
            let half_closed = self.client.watch.half_closed();
            if half_closed != self.half_closed {
                self.half_closed = half_closed;
                self.armed = false;
                self.timer.as_mut().reset((Instant::now() + self.frontend.config.timeouts.client_fin).into());
            }
            loop {
                // Polling a timer costs more than asking it, and it needs this task's waker only once.
                if self.armed && !self.timer.is_elapsed() {
                    return Poll::Pending;
                }
                if self.timer.as_mut().poll(cx).is_pending() {
                    self.armed = true;
                    return Poll::Pending;
                }
                self.armed = false;
                let now = Instant::now();
                match self.client.watch.check(now, &self.frontend.config.timeouts) {
                    Verdict::Later(when) if self.half_closed.is_none() => {
                        self.timer.as_mut().reset(when.into())
                    }
                    Verdict::Later(when) => {
                        // The engine looks whether what was written has reached anybody.
                        if let Poll::Ready(result) = Pin::new(&mut *engine).poll(cx) {
                            return Poll::Ready(Ended::ByItself(result));
                        }
                        let soon = now + self.frontend.config.timeouts.client_fin;
                        self.timer.as_mut().reset(when.min(soon).into());
                    }
                    Verdict::Now(overdue @ (Overdue::ClientRead | Overdue::Server)) => {
                        // Whoever waits for it is inside the engine, and answers.
                        self.client.watch.set_overdue(Some(overdue));
                        self.client.watch.wait_for(Wait::Elsewhere, now);
                        self.timer.as_mut().reset((now + Duration::from_secs(1)).into());
                        if let Poll::Ready(result) = Pin::new(&mut *engine).poll(cx) {
                            return Poll::Ready(Ended::ByItself(result));
                        }
                    }
                    Verdict::Now(overdue) => {
                        self.client.watch.set_overdue(Some(overdue));
                        return Poll::Ready(Ended::Overdue(overdue));
                    }
                }
            }
        })
        .await
    }
}
