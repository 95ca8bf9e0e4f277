//! Connections to servers: made with a timeout, kept for the next request, watched while they are idle.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::body::RequestBody;
use crate::site::Server;
use crate::traffic::{Counted, Traffic};

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// It refused, or cannot be reached.
    #[error("cannot connect: {0}")]
    Failed(io::Error),
    /// It did not answer in time.
    #[error("did not accept a connection in time")]
    TimedOut,
}

/// Opens a socket to a server and sends what comes first on it, within `timeout`.
pub(crate) async fn connect(
    server: &Server,
    timeout: Duration,
    preface: Option<&[u8]>,
) -> Result<TcpStream, ConnectError> {
    let connecting = async {
        let mut stream = TcpStream::connect(server.address).await?;
        stream.set_nodelay(true)?;
        if let Some(preface) = preface {
            stream.write_all(preface).await?;
        }
        Ok(stream)
    };
    match tokio::time::timeout(timeout, connecting).await {
        Ok(result) => result.map_err(ConnectError::Failed),
        Err(_) => Err(ConnectError::TimedOut),
    }
}

/// What is left of a connection that does not speak HTTP any more.
#[derive(Debug)]
pub(crate) struct Socket {
    /// The socket.
    pub(crate) stream: Counted<TcpStream>,
    /// Bytes that came behind the response's header.
    pub(crate) early: Bytes,
}

/// An HTTP/1 connection to a server. Dropped, it closes.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Sends one request at a time.
    pub(crate) sender: SendRequest<RequestBody>,
    /// Bytes either way.
    pub(crate) traffic: Rc<Traffic>,
    /// Whether a request was answered on it before.
    pub(crate) reused: bool,
    driver: JoinHandle<Option<Socket>>,
    idle_since: Instant,
}

impl Upstream {
    /// Speaks HTTP/1 on a fresh socket.
    pub(crate) async fn handshake(stream: TcpStream) -> hyper::Result<Self> {
        let traffic = Rc::new(Traffic::default());
        let io = TokioIo::new(Counted::new(stream, Rc::clone(&traffic)));
        let (sender, connection) = http1::Builder::new().handshake(io).await?;
        let driver = tokio::task::spawn_local(async move {
            let mut connection = connection;
            // How it ended, whoever sent a request on it hears. What is left after a change of protocol is a socket.
            (&mut connection).await.ok()?;
            let parts = connection.into_parts();
            Some(Socket { stream: parts.io.into_inner(), early: parts.read_buf })
        });
        Ok(Self { sender, traffic, reused: false, driver, idle_since: Instant::now() })
    }

    /// The socket, once the server has changed the protocol (101).
    pub(crate) async fn into_socket(mut self) -> Option<Socket> {
        (&mut self.driver).await.ok().flatten()
    }

    fn usable(&self, now: Instant, idle: Duration) -> bool {
        !self.sender.is_closed() && now.duration_since(self.idle_since) < idle
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One worker's idle connections, by the server's slot; the last used one is the first to be used again, so that
/// the rest can grow old.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    slots: RefCell<Vec<Vec<Upstream>>>,
}

impl Idle {
    /// A connection to the server that was open a moment ago.
    pub(crate) fn take(&self, server: &Server) -> Option<Upstream> {
        let mut slots = self.slots.borrow_mut();
        let idle = slots.get_mut(server.slot)?;
        loop {
            let upstream = idle.pop()?;
            if !upstream.sender.is_closed() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection, unless `limit` are kept already.
    pub(crate) fn put(&self, server: &Server, mut upstream: Upstream, limit: usize, now: Instant) {
        if upstream.sender.is_closed() {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= server.slot {
            slots.resize_with(server.slot + 1, Vec::new);
        }
        let idle = &mut slots[server.slot];
        if idle.len() < limit {
            upstream.reused = true;
            upstream.idle_since = now;
            idle.push(upstream);
        }
    }

    /// Closes what the server closed and what was idle for too long.
    pub(crate) fn sweep(&self, now: Instant, idle: impl Fn(usize) -> Option<Duration>) {
        for (slot, connections) in self.slots.borrow_mut().iter_mut().enumerate() {
            if connections.is_empty() {
                continue;
            }
            match idle(slot) {
                Some(idle) => connections.retain(|upstream| upstream.usable(now, idle)),
                // The server is not configured any more.
                None => connections.clear(),
            }
        }
    }
}
