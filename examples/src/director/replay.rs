//! What is needed to send a request a second time.
//!
//! Only a request of a method that means the same when it arrives twice (RFC 9110 section 9.2.2), and only without a
//! body or with a small one, which is then read whole before it is sent at all.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Uri};

use crate::answer::Failure;
use crate::body::{RequestBody, Upload};
use crate::client::Client;

/// The largest body that is kept for a second attempt.
const LARGEST: u64 = 16 * 1024;

/// A request that can be sent again.
#[derive(Debug)]
pub(crate) struct Replay {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Replay {
    /// The request once more.
    pub(crate) fn again(&self) -> Request<RequestBody> {
        let mut request = Request::new(whole(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// The request as it is sent, and what may be kept of it.
///
/// # Errors
/// When its body is read here and does not arrive.
pub(crate) async fn prepare(
    request: Request<Incoming>,
    client: &Rc<Client>,
    retries: u32,
) -> Result<(Request<RequestBody>, Option<Replay>), Failure> {
    let (head, body) = request.into_parts();
    let empty = body.is_end_stream();
    let small = empty || body.size_hint().exact().is_some_and(|length| length <= LARGEST);
    if retries == 0 || !head.method.is_idempotent() || !small {
        let body = if empty { RequestBody::Empty } else { RequestBody::Stream(Upload::new(body, client)) };
        return Ok((Request::from_parts(head, body), None));
    }
    let body = if empty { Bytes::new() } else { read(Upload::new(body, client), client).await? };
    let replay = Replay {
        method: head.method.clone(),
        target: head.uri.clone(),
        headers: head.headers.clone(),
        body: body.clone(),
    };
    Ok((Request::from_parts(head, whole(body)), Some(replay)))
}

fn whole(body: Bytes) -> RequestBody {
    if body.is_empty() { RequestBody::Empty } else { RequestBody::Whole(body) }
}

async fn read(body: Upload, client: &Client) -> Result<Bytes, Failure> {
    let mut body = RequestBody::Stream(body);
    let mut all = BytesMut::new();
    poll_fn(|cx| {
        loop {
            if client.watch.overdue().is_some() {
                return Poll::Ready(Err(Failure::ClientTimeout));
            }
            match ready!(Pin::new(&mut body).poll_frame(cx)) {
                Some(Ok(frame)) => all.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
                Some(Err(_)) => return Poll::Ready(Err(client.broken_upload())),
                None => return Poll::Ready(Ok(())),
            }
        }
    })
    .await?;
    Ok(all.freeze())
}
