//! An HTTP connection that became something else (101): bytes both ways from then on.

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::exchange::Exchange;
use crate::pump::{Ending, Idle, pump};
use crate::upstream::Upstream;

/// What the client's connection needs to go on as a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    upstream: Upstream,
    exchange: Box<Exchange>,
    idle: Idle,
}

impl Tunnel {
    /// Of a request whose server answered 101.
    pub(crate) fn upgraded(upstream: Upstream, exchange: Box<Exchange>, idle: Idle) -> Self {
        Self { upstream, exchange, idle }
    }

    /// Runs it to its end. `early` is what the client sent behind its request.
    pub(crate) async fn run(self, mut client: TcpStream, early: Bytes) {
        let Self { upstream, mut exchange, idle } = self;
        let Some(mut socket) = upstream.into_socket().await else {
            exchange.broke_in_body();
            return;
        };
        let stop = exchange.until_server_removed();
        let pumped = pump(&mut client, &mut socket.stream, (&early, &socket.early), idle, stop).await;
        exchange.client.received(usize::try_from(pumped.up).unwrap_or(usize::MAX));
        exchange.client.sent(usize::try_from(pumped.down).unwrap_or(usize::MAX));
        exchange.pumped(pumped);
    }
}

impl Ending {
    /// HAProxy's two characters.
    pub(crate) fn termination(self) -> [u8; 2] {
        *match self {
            Self::Closed => b"--",
            Self::ClientBroke => b"CD",
            Self::ServerBroke => b"SD",
            Self::IdleClient => b"cD",
            Self::IdleServer => b"sD",
            Self::Stopped => b"KD",
        }
    }
}
