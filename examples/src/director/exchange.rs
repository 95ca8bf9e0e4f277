//! One request and its answer: who works on it, how it goes, and what has to be settled at its end, exactly once.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::{Request, Response};
use lb_core::health::OnDown;
use lb_core::{Backend, Outcome};
use lb_sched::Lease;

use crate::answer::Failure;
use crate::body::ResponseBody;
use crate::client::Client;
use crate::counters::{FrontendCounters, ServerCounters, Timeout};
use crate::log::{CookieState, Record};
use crate::pump::{Ending, Pumped};
use crate::site::{Frontend, Server};
use crate::upstream::{ConnectError, Upstream};
use crate::watch::Overdue;
use crate::worker::Own;

/// A request that is being served.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Whose it is.
    pub(crate) client: Rc<Client>,
    /// Where it came in.
    pub(crate) frontend: Own<Frontend>,
    /// When its header was whole.
    pub(crate) started: Instant,
    /// The server that works on it.
    pub(crate) lease: Option<Lease<Arc<Server>>>,
    /// The connection to that server.
    pub(crate) upstream: Option<Upstream>,
    /// Attempts after the first.
    pub(crate) retries: u32,
    /// What the log says of it, when there is one.
    pub(crate) record: Option<Box<Record>>,
    /// The server whose attempt failed last.
    tried: Option<Arc<Backend<Arc<Server>>>>,
    /// When the present attempt began.
    attempt: Instant,
    status: u16,
    /// Bytes of the answer's body.
    bytes: u64,
    settled: bool,
}

impl Exchange {
    /// A request whose header has just been read.
    pub(crate) fn begin<B>(client: &Rc<Client>, request: &Request<B>) -> Box<Self> {
        Self::begin_with(client, || Record::new(request))
    }

    /// A connection without requests.
    pub(crate) fn begin_tcp(client: &Rc<Client>) -> Box<Self> {
        Self::begin_with(client, Record::of_connection)
    }

    fn begin_with(client: &Rc<Client>, record: impl FnOnce() -> Record) -> Box<Self> {
        let now = Instant::now();
        client.uploading.set(false);
        client.upload_broke.set(false);
        client.at_rest.set(false);
        client.watch.begin(now);
        let frontend = client.frontend();
        frontend.state.counters.of(client.worker.id).requests.one();
        let record = client.worker.log.is_on().then(|| Box::new(record()));
        Box::new(Self {
            client: Rc::clone(client),
            frontend,
            started: now,
            lease: None,
            upstream: None,
            retries: 0,
            record,
            tried: None,
            attempt: now,
            status: 0,
            bytes: 0,
            settled: false,
        })
    }

    /// What this frontend counts on this worker.
    pub(crate) fn counters(&self) -> &FrontendCounters {
        self.frontend.state.counters.of(self.client.worker.id)
    }

    /// A retry begins after an attempt on the server `failed`.
    pub(crate) fn count_retry(&self, failed: &Server) {
        let counters = self.server_counters(failed);
        match self.frontend.farm.config.redispatch {
            true => counters.redispatches.one(),
            false => counters.retries.one(),
        }
    }

    /// What a server counts on this worker.
    pub(crate) fn server_counters<'s>(&self, server: &'s Server) -> &'s ServerCounters {
        server.counters.of(self.client.worker.id)
    }

    /// An attempt on the leased server begins; gives when.
    pub(crate) fn attempt_begins(&mut self) -> Instant {
        if self.retries > 0 || self.record.is_some() {
            self.attempt = Instant::now();
        }
        if let Some(lease) = &self.lease {
            self.server_counters(lease).requests.one();
        }
        self.attempt
    }

    /// The attempt got no answer: its lease ends.
    pub(crate) fn attempt_failed(&mut self, kind: Failure) -> Option<Arc<Server>> {
        self.note_traffic();
        self.upstream = None;
        let lease = self.lease.take()?;
        let server = Arc::clone(lease.backend().payload());
        self.tried = Some(Arc::clone(lease.backend()));
        let counters = self.server_counters(&lease);
        if let Some(what) = kind.blame() {
            self.blame(&server, what);
        }
        if kind.is_the_clients() {
            counters.cancelled.one();
            self.end_lease(lease, Outcome::Cancelled);
            return Some(server);
        }
        counters.failures.one();
        match kind {
            Failure::Connect => counters.connect_errors.one(),
            Failure::ConnectTimeout => {
                counters.connect_errors.one();
                self.counters().timeout(Timeout::Connect).one();
            }
            Failure::ServerTimeout => self.counters().timeout(Timeout::Server).one(),
            _ => {}
        }
        lease.report(false);
        self.end_lease(lease, Outcome::Failure);
        Some(server)
    }

    /// There is no connection to a server: says so, and what that means for the request.
    pub(crate) fn connect_failed(&self, server: &Server, error: &ConnectError) -> Failure {
        self.blame(server, error);
        match error {
            ConnectError::Failed(_) => Failure::Connect,
            ConnectError::TimedOut => Failure::ConnectTimeout,
        }
    }

    /// Says to the operator what a server did; that it was removed, its checks have said.
    fn blame(&self, server: &Server, what: impl std::fmt::Display) {
        if !server.removed() {
            let (farm, name, address) = (&self.frontend.config.backend, &server.name, server.address);
            self.client.worker.notices.say(format_args!("server {farm}/{name} ({address}): {what}"));
        }
    }

    /// A server has been chosen.
    pub(crate) fn hold(&mut self, lease: Lease<Arc<Server>>) {
        self.frontend.farm.state.in_flight.of(self.client.worker.id).one();
        self.lease = Some(lease);
    }

    fn end_lease(&self, lease: Lease<Arc<Server>>, outcome: Outcome) {
        lease.finish(outcome);
        self.frontend.farm.state.in_flight.of(self.client.worker.id).less_one();
        self.frontend.farm.state.queue.one_ended();
    }

    /// The header of the server's answer is there.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        self.client.watch.answered();
        // In time after all, if only just.
        self.client.watch.set_overdue(None);
        self.counters().responses.count(status);
        if let Some(lease) = &self.lease {
            self.server_counters(lease).responses.count(status);
        }
        if let Some(record) = &mut self.record {
            record.response = Some(self.attempt.elapsed());
        }
    }

    /// So many bytes of the answer's body went on to the client.
    pub(crate) fn passed_on(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The director's own answer to a request that failed.
    pub(crate) fn fail(&mut self, failure: Failure) -> Response<ResponseBody> {
        let counters = self.counters();
        // A timeout of an attempt was counted with the attempt.
        if let Some(kind @ (Timeout::Client | Timeout::Queue)) = failure.timeout() {
            counters.timeout(kind).one();
        }
        if failure.denied() {
            counters.denied.one();
        }
        if failure.status().as_u16() == 503 {
            self.frontend.farm.state.unavailable.one();
        }
        self.client.watch.answered();
        let status = failure.status().as_u16();
        counters.responses.count(status);
        self.status = status;
        self.bytes = failure.sentence().len() as u64;
        self.settle(Outcome::Cancelled, failure.termination(), Instant::now());
        failure.response()
    }

    /// The whole answer has been passed on.
    pub(crate) fn complete(&mut self) {
        if self.settled {
            return;
        }
        let now = Instant::now();
        let latency = now.duration_since(self.attempt);
        // 501 and 505 are about the request; the other 5xx say that the server could not do its work.
        let good = self.status < 500 || matches!(self.status, 501 | 505);
        if let Some(lease) = &self.lease {
            self.server_counters(lease).latency.record(latency);
            lease.report(good);
        }
        self.note_traffic();
        if let (Some(upstream), Some(lease), false) =
            (self.upstream.take(), &self.lease, self.client.uploading.get())
        {
            let limit = self.frontend.farm.config.idle_connections;
            self.client.worker.idle.put(lease, upstream, limit, now);
        }
        let outcome = if good { Outcome::Success { latency } } else { Outcome::Failure };
        self.settle(outcome, *b"--", now);
    }

    /// The server broke off within its answer.
    pub(crate) fn broke_in_body(&mut self) {
        if let Some(lease) = &self.lease {
            self.blame(lease, "broke off within its answer");
            lease.report(false);
        }
        self.settle(Outcome::Failure, *b"SD", Instant::now());
    }

    /// Somebody stalled within the answer.
    pub(crate) fn overdue_in_body(&mut self, overdue: Overdue) {
        match overdue {
            Overdue::Server => {
                self.counters().timeout(Timeout::Server).one();
                if let Some(lease) = &self.lease {
                    self.blame(lease, "stalled within its answer");
                    lease.report(false);
                }
                self.settle(Outcome::Failure, *b"sD", Instant::now());
            }
            _ => {
                self.counters().timeout(Timeout::Client).one();
                self.settle(Outcome::Cancelled, *b"cD", Instant::now());
            }
        }
    }

    /// Whether the server was taken out of service with its connections.
    pub(crate) fn server_removed(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.removed())
    }

    /// Returns when the server is taken out of service and its connections are to end with it.
    pub(crate) fn until_server_removed(&self) -> impl Future<Output = ()> + use<> {
        let server = (self.frontend.farm.config.on_down == OnDown::Remove)
            .then(|| self.lease.as_ref().map(|lease| Arc::clone(lease.backend().payload())))
            .flatten();
        async move {
            match server {
                Some(server) => server.until_removed().await,
                None => std::future::pending().await,
            }
        }
    }

    /// A connection without requests, or without any more of them, ended.
    pub(crate) fn pumped(&mut self, pumped: Pumped) {
        let counters = self.counters();
        match pumped.ending {
            Ending::IdleClient => counters.timeout(Timeout::Client).one(),
            Ending::IdleServer => counters.timeout(Timeout::Server).one(),
            _ => {}
        }
        let good = pumped.ending != Ending::ServerBroke;
        if let Some(lease) = &self.lease {
            let server = self.server_counters(lease);
            server.bytes_in.add(pumped.up);
            server.bytes_out.add(pumped.down);
            self.bytes += pumped.down;
            lease.report(good);
        }
        let outcome = match pumped.ending {
            Ending::Closed => Outcome::Success { latency: self.attempt.elapsed() },
            Ending::ServerBroke => Outcome::Failure,
            _ => Outcome::Cancelled,
        };
        self.settle(outcome, pumped.ending.termination(), Instant::now());
    }

    /// The cookie's part in the log line.
    pub(crate) fn note_cookie(&mut self, state: CookieState) {
        if let Some(record) = &mut self.record {
            record.cookie = state;
        }
    }

    fn note_traffic(&self) {
        if let (Some(lease), Some(upstream)) = (&self.lease, &self.upstream) {
            let (sent, received) = upstream.traffic.take();
            let counters = self.server_counters(lease);
            counters.bytes_in.add(sent);
            counters.bytes_out.add(received);
        }
    }

    /// Ends everything, once.
    fn settle(&mut self, outcome: Outcome, termination: [u8; 2], now: Instant) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.note_traffic();
        self.upstream = None;
        let logged = self.record.is_some();
        let server = self.lease.as_ref().filter(|_| logged).map(|lease| Arc::clone(lease.backend()));
        let server = server.or(self.tried.take());
        if let Some(lease) = self.lease.take() {
            let counters = self.server_counters(&lease);
            match outcome {
                Outcome::Success { .. } => counters.successes.one(),
                Outcome::Failure => counters.failures.one(),
                _ => counters.cancelled.one(),
            }
            self.end_lease(lease, outcome);
        }
        self.client.end_request(self.counters(), now);
        if let Some(record) = self.record.take() {
            let line = crate::log::Line {
                record: &record,
                client: &self.client,
                frontend: &self.frontend,
                server: server.as_ref().map(|backend| (backend.payload().as_ref(), backend.load().active())),
                total: now.duration_since(self.started),
                status: self.status,
                bytes: self.bytes,
                termination,
                retries: self.retries,
            };
            self.client.worker.log.write(&line);
        }
    }
}

impl Drop for Exchange {
    /// The client went away, or the connection was given up.
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let when = if self.status > 0 {
            b'D'
        } else if self.lease.is_some() {
            b'H'
        } else {
            b'Q'
        };
        let who = if self.client.watch.overdue() == Some(Overdue::ClientWrite) { b'c' } else { b'C' };
        self.settle(Outcome::Cancelled, [who, when], Instant::now());
    }
}
