//! The servers behind the proxies.
//!
//! They must not be the bottleneck beside a client on the same processor, so they do the least that an HTTP
//! server can: one `read` and one `write` a request, no parsing but for the blank line that ends a
//! request. nginx with `return 200` takes about twice that, our own pi-server more.

use super::ServingError;
use super::cpu::Places;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A small page, as in the servers' own examples.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n";

/// Running servers; they end when dropped.
pub(crate) struct Servers {
    addresses: Vec<SocketAddr>,
    /// Dropping them ends the threads' runtimes.
    _stop: Vec<oneshot::Sender<()>>,
}

impl Servers {
    /// Starts two servers in each of `threads` threads, on free ports of loopback.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(places: &Places, threads: usize) -> Result<Self, ServingError> {
        raise_the_limit_of_files();
        let mut servers = Self { addresses: Vec::new(), _stop: Vec::new() };
        for _ in 0..threads {
            let pair = [servers.listen()?, servers.listen()?];
            let (stop, stopped) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(ServingError::io("start the servers' runtime"))?;
            let places = places.clone();
            thread::spawn(move || {
                places.enter_servers();
                runtime.block_on(async {
                    for listener in pair {
                        tokio::spawn(serve(listener));
                    }
                    // Either way it is the end.
                    let _ = stopped.await;
                });
            });
            servers._stop.push(stop);
        }
        Ok(servers)
    }

    fn listen(&mut self) -> Result<std::net::TcpListener, ServingError> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            self.addresses.push(listener.local_addr()?);
            Ok(listener)
        });
        listener.map_err(ServingError::io("listen on loopback"))
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Every connection is a file, and shells allow 1024.
fn raise_the_limit_of_files() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With too few files a request fails, and that fails the comparison.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

async fn serve(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).expect("a listener that does not block");
    loop {
        // Out of files, say: wrk reports what fails, and that fails the comparison.
        let Ok((connection, _)) = listener.accept().await else { continue };
        tokio::spawn(answer_all(connection));
    }
}

/// Answers as many requests as blank lines come. An error is the peer going away.
async fn answer_all(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    let mut matched = 0;
    let mut answers = Vec::new();
    loop {
        let length = connection.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        answers.clear();
        for &byte in &buffer[..length] {
            matched = match (matched, byte) {
                (0 | 2, b'\r') => matched + 1,
                (1 | 3, b'\n') => matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if matched == 4 {
                matched = 0;
                answers.extend_from_slice(ANSWER);
            }
        }
        connection.write_all(&answers).await?;
    }
}
