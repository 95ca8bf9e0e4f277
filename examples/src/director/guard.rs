//! A client's socket as the HTTP engine reads it: scanned for smuggling, counted, its stalls noted.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::scanner::Scanner;
use crate::watch::Wait;

/// The socket and what watches over it.
#[derive(Debug)]
pub(crate) struct Guard {
    stream: TcpStream,
    /// Bytes that were read together with a PROXY protocol header.
    early: Bytes,
    scanner: Scanner,
    client: Rc<Client>,
}

impl Guard {
    /// Watches over `stream`, of which `early` was read already.
    pub(crate) fn new(stream: TcpStream, early: Bytes, limit: usize, client: Rc<Client>) -> Self {
        Self { stream, early, scanner: Scanner::new(limit), client }
    }

    /// The bare socket, for what is not HTTP any more.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn took(&mut self, data: &mut [u8]) {
        self.client.received(data.len());
        self.scanner.scan(data);
        if let Some(why) = self.scanner.refused() {
            self.client.refused.set(Some(why));
        }
        let in_head = self.scanner.in_head();
        self.client.mid_head.set(in_head);
        if in_head && self.client.watch.waits_for() == Wait::Idle {
            self.client.watch.wait_for(Wait::Header, Instant::now());
        }
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(count)) => {
                self.client.sent(*count);
                self.client.watch.set_blocked(false);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.client.watch.set_blocked(true),
        }
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.scanner.refused().is_some() {
            // The engine may wait for more before it answers. The client need not send it.
            let spoilt = buf.initialize_unfilled();
            self.scanner.scan(spoilt);
            let count = spoilt.len();
            buf.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if self.early.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let count = self.early.len().min(buf.remaining());
            let early = self.early.split_to(count);
            buf.put_slice(&early);
        }
        self.took(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
