//! Bodies that pass through without being copied, and tell who is being waited for.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::client::Client;
use crate::exchange::Exchange;
use crate::watch::{Overdue, Wait};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The other side of it broke.
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    /// It stalled.
    #[error("{0:?} took too long")]
    Overdue(Overdue),
    /// Its server was taken out of service, and its connections with it.
    #[error("the server was removed")]
    Removed,
}

/// A request's body on its way to a server.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// Small and whole, so that it can be sent again.
    Whole(Bytes),
    /// As the client sends it.
    Stream(Upload),
}

/// A client's body while it is being sent on.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Incoming,
    client: Rc<Client>,
}

impl Upload {
    /// Passes on the body of `client`'s present request.
    pub(crate) fn new(body: Incoming, client: &Rc<Client>) -> Self {
        client.uploading.set(true);
        Self { body, client: Rc::clone(client) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(upload) => upload.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(upload) => upload.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(upload) => upload.body.size_hint(),
        }
    }
}

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let watch = &self.client.watch;
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => watch.still_waits_for(Wait::Client),
            Poll::Ready(Some(Ok(_))) => {
                watch.still_waits_for(Wait::Server);
                watch.progress();
                if self.body.is_end_stream() {
                    self.client.uploading.set(false);
                }
            }
            Poll::Ready(None) => {
                watch.still_waits_for(Wait::Server);
                self.client.uploading.set(false);
            }
            Poll::Ready(Some(Err(_))) => self.client.upload_broke.set(true),
        }
        polled.map_err(BodyError::from)
    }
}

/// A response's body on its way to a client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// The director's own words, or none.
    Own(Bytes),
    /// As the server sends it.
    Relay(Relay),
}

/// A server's body while it is being sent on, with all that has to be settled when it ends.
#[derive(Debug)]
pub(crate) struct Relay {
    body: Incoming,
    exchange: Box<Exchange>,
}

impl Relay {
    /// Passes on the body of a response and ends `exchange` with it.
    pub(crate) fn new(body: Incoming, exchange: Box<Exchange>) -> Self {
        Self { body, exchange }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let client = Rc::clone(&self.exchange.client);
        let watch = &client.watch;
        if let Some(overdue) = watch.overdue() {
            self.exchange.overdue_in_body(overdue);
            return Poll::Ready(Some(Err(BodyError::Overdue(overdue))));
        }
        if self.exchange.server_removed() {
            self.exchange.broke_in_body();
            return Poll::Ready(Some(Err(BodyError::Removed)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => watch.still_waits_for(Wait::Server),
            Poll::Ready(Some(Ok(frame))) => {
                watch.still_waits_for(Wait::Elsewhere);
                match frame.data_ref() {
                    Some(data) => self.exchange.passed_on(data.len()),
                    // Trailers are the end, and the engine knows it.
                    None => self.exchange.complete(),
                }
            }
            Poll::Ready(None) => self.exchange.complete(),
            Poll::Ready(Some(Err(_))) => self.exchange.broke_in_body(),
        }
        polled.map_err(BodyError::from)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The engine does not ask for what it knows to be the end.
        if self.body.is_end_stream() {
            self.exchange.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Relay(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::Relay(relay) => relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Relay(relay) => relay.body.size_hint(),
        }
    }
}
