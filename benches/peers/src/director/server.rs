//! The two servers behind the proxies.
//!
//! They must not be the bottleneck beside a client on the same processor, so they do the least that an HTTP
//! server can: one thread, one `read` and one `write` a request, no parsing but for the blank line that ends a
//! request. nginx with `return 200` takes about twice that, our own pi-server more.

use super::DirectorError;
use super::cpu::Places;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A small page, as in the servers' own examples.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n";

/// Two running servers; they end when dropped.
pub(super) struct Servers {
    addresses: [SocketAddr; 2],
    /// Dropping it ends the thread's runtime.
    _stop: oneshot::Sender<()>,
}

impl Servers {
    /// Starts both on free ports of loopback.
    pub(super) fn start(places: &Places) -> Result<Self, DirectorError> {
        let listen = || -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (first, first_address) = listen().map_err(DirectorError::io("listen on loopback"))?;
        let (second, second_address) = listen().map_err(DirectorError::io("listen on loopback"))?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(DirectorError::io("start the servers' runtime"))?;
        let places = places.clone();
        thread::spawn(move || {
            places.enter_other();
            runtime.block_on(async {
                tokio::spawn(serve(first));
                tokio::spawn(serve(second));
                // Either way it is the end.
                let _ = stopped.await;
            });
        });
        Ok(Self { addresses: [first_address, second_address], _stop: stop })
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> &[SocketAddr; 2] {
        &self.addresses
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
