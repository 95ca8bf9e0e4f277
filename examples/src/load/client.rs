//! One keep-alive connection: a request, its whole response, and again.

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where requests go and what they say.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Path and query.
    pub(crate) path: Uri,
    /// `host`, and what the user added.
    pub(crate) headers: HeaderMap,
    /// The longest that one request may take, its connection included.
    pub(crate) timeout: Duration,
}

/// A response, read to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Bytes of its body.
    pub(crate) bytes: u64,
}

/// A connection that is opened when it is needed.
pub(crate) struct Client<'a> {
    target: &'a Target,
    open: Option<SendRequest<Empty<Bytes>>>,
    /// Connections opened so far.
    pub(crate) connections: u64,
}

impl<'a> Client<'a> {
    pub(crate) fn new(target: &'a Target) -> Self {
        Self { target, open: None, connections: 0 }
    }

    /// Sends one request and reads its response.
    ///
    /// A server may close a connection that is idle, and the request may be on its way before the client notices. A GET on a
    /// connection that was used before, and that ends without an answer, goes once more over a new one, as clients do
    /// (RFC 9110 §9.2.2); nothing has failed then, and [`Self::connections`] tells.
    ///
    /// # Errors
    /// What went wrong, as words to count by.
    pub(crate) async fn exchange(&mut self) -> Result<Reply, String> {
        let limit = self.target.timeout;
        match tokio::time::timeout(limit, self.try_exchange()).await {
            Ok(outcome) => outcome,
            // The connection went with the request that it was waiting for.
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(limit))),
        }
    }

    async fn try_exchange(&mut self) -> Result<Reply, String> {
        if let Some(mut connection) = self.open.take()
            && connection.ready().await.is_ok()
        {
            match connection.send_request(self.request()).await {
                Ok(response) => return self.read(connection, response).await,
                Err(error) if !ended_unanswered(&error) => return Err(words(&error)),
                Err(_) => {}
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.send_request(self.request()).await.map_err(|error| words(&error))?;
        self.read(connection, response).await
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.target.path.clone();
        *request.headers_mut() = self.target.headers.clone();
        request
    }

    async fn connect(&mut self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(self.target.address)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        self.connections += 1;
        // Each request leaves at once; should that not be possible, it leaves a little later.
        let _ = stream.set_nodelay(true);
        let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
        // It ends with the connection; what it meets, the request in flight hears too.
        tokio::task::spawn_local(async { drop(driver.await) });
        Ok(connection)
    }

    async fn read(
        &mut self,
        connection: SendRequest<Empty<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Reply, String> {
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| words(&error))?;
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        self.open = Some(connection);
        Ok(Reply { status, bytes })
    }
}

/// The headers of every request: `host`, and the user's own, which may replace it.
///
/// # Errors
/// Names the header that is none.
pub(crate) fn headers(host: &str, own: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(host).map_err(|_| format!("the host {host:?} fits into no header"))?;
    headers.insert(HOST, host);
    for line in own {
        let wrong = || format!("{line:?} is no header; write --header 'name: value'");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: hyper::header::HeaderName = name.trim().parse().map_err(|_| wrong())?;
        headers.insert(name, value.trim().parse().map_err(|_| wrong())?);
    }
    Ok(headers)
}

/// Whether a connection ended where an answer should have begun.
fn ended_unanswered(error: &hyper::Error) -> bool {
    let cut =
        |cause: &std::io::Error| matches!(cause.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    error.is_canceled() || error.is_incomplete_message() || cause.is_some_and(cut)
}

/// The whole story of an error: hyper's own words, then the cause's.
fn words(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use tokio::task::LocalSet;

    use super::*;

    /// A server that answers one request a connection and closes it without a word, as a keep-alive timeout does;
    /// the receiver hears when it has closed one.
    fn closing_server() -> (SocketAddr, mpsc::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (closed, wait) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                // One read takes the whole request: it is small, and leaves in one piece.
                assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .expect("the client reads");
                drop(stream);
                if closed.send(()).is_err() {
                    break;
                }
            }
        });
        (address, wait)
    }

    #[tokio::test]
    async fn a_connection_closed_while_idle_is_opened_again() {
        let (address, closed) = closing_server();
        let target = Target {
            address,
            path: Uri::from_static("/"),
            headers: headers("host", &[]).expect("a good host"),
            timeout: Duration::from_secs(30),
        };
        let requests = async {
            let mut client = Client::new(&target);
            for request in 1..=6 {
                let reply = client.exchange().await.expect("an idle connection that is closed is no failure");
                assert_eq!((reply.status, reply.bytes, client.connections), (200, 2, request));
                // Half of the time the client has no chance to notice before its next request.
                closed.recv_timeout(Duration::from_secs(30)).expect("the server closes");
                if request % 2 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        LocalSet::new().run_until(requests).await;
    }

    #[test]
    fn headers_are_checked() {
        let own = ["Accept: application/json".into(), "host:other".into()];
        let headers = headers("127.0.0.1:80", &own).expect("two good headers");
        assert_eq!(
            (&headers["accept"], &headers["host"]),
            (&"application/json".parse().expect("a value"), &"other".parse().expect("a value"))
        );
        for bad in ["accept", "ac cept: x", "x: a\u{7f}b"] {
            let error = super::headers("host", &[bad.into()]).expect_err(bad);
            assert!(error.contains("is no header; write --header 'name: value'"), "{error}");
        }
    }
}
