//! Bytes both ways between two sockets, each direction ending by itself (half-close), until both have ended or
//! nothing has moved for too long.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes held for each direction.
const BUFFER: usize = 16 * 1024;

/// How long nothing may move, either way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// What is granted to the client.
    pub(crate) client: Duration,
    /// What is granted to the server.
    pub(crate) server: Duration,
}

impl Idle {
    fn time(self) -> Duration {
        self.client.min(self.server)
    }

    fn ending(self) -> Ending {
        if self.client <= self.server { Ending::IdleClient } else { Ending::IdleServer }
    }
}

/// How the bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sides closed.
    Closed,
    /// The client's socket broke.
    ClientBroke,
    /// The server's socket broke.
    ServerBroke,
    /// Nothing moved either way for as long as the client may take.
    IdleClient,
    /// Nothing moved either way for as long as the server may take.
    IdleServer,
    /// Somebody asked to stop.
    Stopped,
}

/// One direction.
struct Direction {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The source has ended.
    ended: bool,
    /// So the sink was told.
    shut: bool,
    moved: u64,
}

/// Which socket broke.
enum Broke {
    Source,
    Sink,
}

impl Direction {
    /// Begins with bytes that were read already.
    fn new(early: &Bytes) -> Self {
        let mut buffer = vec![0; BUFFER.max(early.len())].into_boxed_slice();
        buffer[..early.len()].copy_from_slice(early);
        Self { buffer, start: 0, end: early.len(), ended: false, shut: false, moved: 0 }
    }

    fn poll<A, B>(&mut self, cx: &mut Context<'_>, source: &mut A, sink: &mut B) -> Poll<Result<(), Broke>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                let written = Pin::new(&mut *sink).poll_write(cx, &self.buffer[self.start..self.end]);
                match ready!(written) {
                    Ok(count @ 1..) => {
                        self.start += count;
                        self.moved += count as u64;
                    }
                    _ => return Poll::Ready(Err(Broke::Sink)),
                }
            }
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                // What cannot be shut down is closed already.
                let _: io::Result<()> = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            let mut read = ReadBuf::new(&mut self.buffer);
            match ready!(Pin::new(&mut *source).poll_read(cx, &mut read)) {
                Ok(()) => {
                    (self.start, self.end) = (0, read.filled().len());
                    self.ended = self.end == 0;
                }
                Err(_) => return Poll::Ready(Err(Broke::Source)),
            }
        }
    }
}

/// What went over a pump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pumped {
    /// How it ended.
    pub(crate) ending: Ending,
    /// Bytes from the client to the server.
    pub(crate) up: u64,
    /// Bytes from the server to the client.
    pub(crate) down: u64,
}

/// Runs until both directions have ended, nothing has moved for `idle`, or `stop` is there.
pub(crate) async fn pump<C, S>(
    client: &mut C,
    server: &mut S,
    early: (&Bytes, &Bytes),
    idle: Idle,
    stop: impl Future<Output = ()>,
) -> Pumped
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::new(early.0), Direction::new(early.1));
    let mut stop = pin!(stop);
    let mut last = (Instant::now(), 0);
    let mut timer = pin!(tokio::time::sleep(idle.time()));
    let ending = poll_fn(|cx| {
        let upwards = up.poll(cx, client, server);
        match upwards {
            Poll::Ready(Err(Broke::Source)) => return Poll::Ready(Ending::ClientBroke),
            Poll::Ready(Err(Broke::Sink)) => return Poll::Ready(Ending::ServerBroke),
            _ => {}
        }
        let downwards = down.poll(cx, server, client);
        match (&upwards, &downwards) {
            (_, Poll::Ready(Err(Broke::Source))) => return Poll::Ready(Ending::ServerBroke),
            (_, Poll::Ready(Err(Broke::Sink))) => return Poll::Ready(Ending::ClientBroke),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ending::Closed),
            _ => {}
        }
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ending::Stopped);
        }
        let moved = up.moved + down.moved;
        if moved != last.1 {
            last = (Instant::now(), moved);
        }
        while timer.as_mut().poll(cx).is_ready() {
            let due = last.0 + idle.time();
            if due <= Instant::now() {
                return Poll::Ready(idle.ending());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await;
    Pumped { ending, up: up.moved, down: down.moved }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn idle(seconds: u64) -> Idle {
        Idle { client: Duration::from_secs(seconds), server: Duration::from_secs(seconds + 5) }
    }

    static NONE: Bytes = Bytes::new();

    #[tokio::test(start_paused = true)]
    async fn each_direction_ends_by_itself() {
        let (mut a, mut client) = duplex(64);
        let (mut server, mut b) = duplex(64);
        let pumping = async {
            let early = (&Bytes::from_static(b"he"), &Bytes::from_static(b"wo"));
            pump(&mut client, &mut server, early, idle(9), std::future::pending()).await
        };
        let talking = async {
            a.write_all(b"llo").await.unwrap();
            a.shutdown().await.unwrap();
            let mut got = String::new();
            b.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "hello");
            b.write_all(b"rld").await.unwrap();
            b.shutdown().await.unwrap();
            got.clear();
            a.read_to_string(&mut got).await.unwrap();
            assert_eq!(got, "world");
        };
        let (pumped, ()) = tokio::join!(pumping, talking);
        assert_eq!((pumped.ending, pumped.up, pumped.down), (Ending::Closed, 5, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn idleness_counts_from_the_last_byte() {
        let (mut a, mut client) = duplex(64);
        let (mut server, _b) = duplex(64);
        let started = Instant::now();
        let pumping = pump(&mut client, &mut server, (&NONE, &NONE), idle(10), std::future::pending());
        let talking = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            a.write_all(b"x").await.unwrap();
        };
        let (pumped, ()) = tokio::join!(pumping, talking);
        assert_eq!((pumped.ending, pumped.up), (Ending::IdleClient, 1));
        assert!(started.elapsed() >= Duration::from_secs(10));
    }

    #[tokio::test]
    async fn it_stops_when_told() {
        let (_a, mut client) = duplex(64);
        let (mut server, _b) = duplex(64);
        let stop = std::future::ready(());
        let pumped = pump(&mut client, &mut server, (&NONE, &NONE), idle(10), stop).await;
        assert_eq!(pumped.ending, Ending::Stopped);
    }
}
