//! One worker: a thread with a runtime, listening sockets and idle server connections of its own. Workers share
//! only the site.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use crate::client::{self, Client};
use crate::config::{AccessLog, Mode};
use crate::log::{Log, Sink};
use crate::notices::Notices;
use crate::proxy_protocol;
use crate::site::{Frontend, Site};
use crate::tcp;
use crate::upstream::Idle;

/// What the parts of one worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// From 0.
    pub(crate) id: usize,
    /// Connections to servers that wait for a request.
    pub(crate) idle: Idle,
    /// This worker's part of the access log.
    pub(crate) log: Log,
    /// What an operator should see.
    pub(crate) notices: Notices,
    /// Wakes every connection: the worker is to close, or a server was removed.
    pub(crate) stir: Notify,
    stirred: Cell<u64>,
    closes: Cell<bool>,
    site: RefCell<Arc<Site>>,
    frontends: RefCell<Vec<Own<Frontend>>>,
    site_version: Cell<u64>,
    connections: Cell<usize>,
}

/// A handle of one worker's own on what all share: cloning it does not touch the counter that the others count on too.
pub(crate) type Own<T> = Rc<Arc<T>>;

/// A listening socket and what it belongs to.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The address as it is configured, by which the socket is known across reloads, whatever its frontend is called.
    pub(crate) address: SocketAddr,
    /// This worker's own socket.
    pub(crate) listener: StdListener,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Control {
    /// Serve this from now on; these sockets are new, and those that it does not name are closed.
    Serve(Arc<Site>, Vec<Opened>),
    /// Accept nothing more, finish what is in flight.
    Close,
}

impl Worker {
    /// Its version, without touching it.
    pub(crate) fn site_version(&self) -> u64 {
        self.site_version.get()
    }

    /// Whether it is to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.closes.get()
    }

    /// How often every connection was woken.
    pub(crate) fn stirred(&self) -> u64 {
        self.stirred.get()
    }

    fn stir_all(&self) {
        self.stirred.set(self.stirred.get() + 1);
        self.stir.notify_waiters();
    }

    /// Its open client connections.
    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// A frontend as it is configured now.
    pub(crate) fn frontend(&self, name: &str) -> Option<Own<Frontend>> {
        self.frontends.borrow().iter().find(|frontend| frontend.config.name == name).cloned()
    }

    /// The frontend that listens there now.
    fn frontend_at(&self, address: SocketAddr) -> Option<Own<Frontend>> {
        self.frontends.borrow().iter().find(|frontend| frontend.config.listen.contains(&address)).cloned()
    }

    fn set_site(&self, site: Arc<Site>) {
        self.log.set_on(site.config.access_log != AccessLog::Off);
        self.site_version.set(site.version);
        *self.frontends.borrow_mut() =
            site.frontends.iter().map(|shared| Rc::new(Arc::clone(shared))).collect();
        *self.site.borrow_mut() = site;
    }

    /// How long an idle connection to the server in each slot may live, `None` where there is no such server; and the
    /// slots of servers that were removed with their connections.
    fn idle_limits(&self) -> (Vec<Option<Duration>>, Vec<usize>) {
        let (mut limits, mut removed) = (Vec::new(), Vec::new());
        for farm in &self.site.borrow().farms {
            for backend in farm.balancer.snapshot().backends() {
                if limits.len() <= backend.slot {
                    limits.resize(backend.slot + 1, None);
                }
                limits[backend.slot] = (!backend.removed()).then_some(farm.config.timeouts.idle);
                if backend.removed() {
                    removed.push(backend.slot);
                }
            }
        }
        (limits, removed)
    }
}

/// Runs a worker until it is closed and its connections have ended.
///
/// # Errors
/// When the system gives no runtime.
pub(crate) fn run(
    id: usize,
    site: Arc<Site>,
    sink: Sink,
    mut control: mpsc::UnboundedReceiver<Control>,
) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let worker = Rc::new(Worker {
        id,
        idle: Idle::default(),
        log: Log::new(sink, site.config.access_log != AccessLog::Off),
        notices: Notices::default(),
        stir: Notify::new(),
        stirred: Cell::new(0),
        closes: Cell::new(false),
        site_version: Cell::new(site.version),
        site: RefCell::new(site),
        frontends: RefCell::default(),
        connections: Cell::new(0),
    });
    runtime.block_on(async move {
        tokio::task::spawn_local(housekeeping(Rc::clone(&worker)));
        let mut acceptors: Vec<(SocketAddr, Rc<Notify>)> = Vec::new();
        while let Some(message) = control.recv().await {
            match message {
                Control::Serve(site, opened) => {
                    worker.set_site(site);
                    acceptors.retain(|(address, stop)| {
                        let kept = worker.frontend_at(*address).is_some();
                        if !kept {
                            stop.notify_one();
                        }
                        kept
                    });
                    for Opened { address, listener } in opened {
                        let stop = Rc::new(Notify::new());
                        acceptors.push((address, Rc::clone(&stop)));
                        tokio::task::spawn_local(accept(Rc::clone(&worker), address, listener, stop));
                    }
                }
                Control::Close => break,
            }
        }
        for (_, stop) in &acceptors {
            stop.notify_one();
        }
        worker.closes.set(true);
        worker.stir_all();
        // Whoever closes the worker bounds the time.
        while worker.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        worker.log.flush();
    });
    Ok(())
}

async fn housekeeping(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = Vec::new();
    loop {
        tick.tick().await;
        worker.log.flush();
        let (limits, removed) = worker.idle_limits();
        if removed.iter().any(|slot| !known.contains(slot)) {
            worker.stir_all();
        }
        known = removed;
        worker.idle.sweep(Instant::now(), |slot| limits.get(slot).copied().flatten());
    }
}

async fn accept(worker: Rc<Worker>, address: SocketAddr, listener: StdListener, stop: Rc<Notify>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("director: {address}: {error}");
            return;
        }
    };
    let mut stopped = std::pin::pin!(stop.notified());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                worker.notices.say(format_args!("{address}: accept: {error}"));
                // A lack of descriptors or memory does not end by asking again at once.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let Some(frontend) = worker.frontend_at(address) else { break };
        // One that was accepted waits here when the frontend is full; the rest wait in the kernel.
        let places = Arc::clone(&frontend.state.places);
        let serve_it = |place: Result<OwnedSemaphorePermit, _>| {
            // Nobody closes the semaphore.
            if let Ok(place) = place {
                tokio::task::spawn_local(serve(Rc::clone(&worker), frontend, stream, peer, place));
            }
        };
        let mut place = std::pin::pin!(places.acquire_owned());
        tokio::select! {
            place = &mut place => serve_it(place),
            () = &mut stopped => {
                // A listener that a reload takes away leaves nobody behind.
                if !worker.is_closing() {
                    serve_it(place.await);
                }
                break;
            }
        }
    }
    // What the kernel has accepted for this socket already must not be reset.
    while let Some(Ok((stream, peer))) = ready_now(&listener).await {
        let Some(frontend) = worker.frontend_at(address).filter(|_| !worker.is_closing()) else { break };
        if let Ok(place) = Arc::clone(&frontend.state.places).try_acquire_owned() {
            tokio::task::spawn_local(serve(Rc::clone(&worker), frontend, stream, peer, place));
        }
    }
}

/// A connection that waits already, if there is one.
async fn ready_now(listener: &TcpListener) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    std::future::poll_fn(|cx| match listener.poll_accept(cx) {
        std::task::Poll::Ready(accepted) => std::task::Poll::Ready(Some(accepted)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

/// Counts a connection for as long as it lives.
struct Open {
    worker: Rc<Worker>,
    frontend: Own<Frontend>,
}

impl Open {
    fn count(worker: &Rc<Worker>, frontend: &Own<Frontend>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        let counters = frontend.state.counters.of(worker.id);
        counters.connections.one();
        counters.open.one();
        Self { worker: Rc::clone(worker), frontend: Rc::clone(frontend) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.connections.set(self.worker.connections.get() - 1);
        self.frontend.state.counters.of(self.worker.id).open.less_one();
    }
}

async fn serve(
    worker: Rc<Worker>,
    frontend: Own<Frontend>,
    mut stream: TcpStream,
    mut peer: SocketAddr,
    place: OwnedSemaphorePermit,
) {
    let _open = Open::count(&worker, &frontend);
    let _place = place;
    // A socket that is gone already says so at the first read.
    let _ = stream.set_nodelay(true);
    let Ok(mut local) = stream.local_addr() else { return };
    let mut early = Bytes::new();
    if frontend.config.accept_proxy {
        let counters = frontend.state.counters.of(worker.id);
        let header = proxy_protocol::read(&mut stream);
        match tokio::time::timeout(frontend.config.timeouts.request_header, header).await {
            Ok(Ok((named, rest))) => {
                early = rest;
                if let Some((client, to)) = named.addresses {
                    (peer, local) = (client, to);
                }
            }
            Ok(Err(error)) => {
                counters.denied.one();
                worker.notices.refused(peer, &error.to_string());
                return;
            }
            Err(_) => {
                counters.timeout(crate::counters::Timeout::RequestHeader).one();
                return;
            }
        }
    }
    let mode = frontend.config.mode;
    let client = Rc::new(Client::new(worker, frontend, peer, local));
    match mode {
        Mode::Http => client::serve_http(client, stream, early).await,
        Mode::Tcp => tcp::serve(client, stream, early).await,
    }
}
