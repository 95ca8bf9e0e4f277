//! The director's own answers: a status and a sentence that says what happened.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::body::ResponseBody;
use crate::counters::Timeout;
use crate::headers::Improper;

/// Why a request got no answer of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The request cannot be passed on.
    Improper(Improper),
    /// The body left the grammar.
    BadBody,
    /// Every server is down, drained or has weight 0.
    NoServer,
    /// All servers are full and so is the queue.
    QueueFull,
    /// No server became free in time.
    QueueTimeout,
    /// No server could be connected to.
    Connect,
    /// No server accepted the connection in time.
    ConnectTimeout,
    /// The server broke off before its answer.
    Broken,
    /// The server's answer cannot be read.
    NotHttp,
    /// The server's answer has a header that is too large, or too many lines in it.
    TooLarge,
    /// The server's answer can be read, but not in one way only, or was not asked for: what it did.
    BadAnswer(&'static str),
    /// The server did not answer in time.
    ServerTimeout,
    /// The client stopped sending its body.
    ClientTimeout,
    /// The client went away.
    ClientGone,
}

impl Failure {
    /// The status that says so.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Improper(Improper::Connect) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Improper(_) | Self::BadBody | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::NoServer | Self::QueueFull | Self::QueueTimeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect | Self::ConnectTimeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken | Self::NotHttp | Self::TooLarge | Self::BadAnswer(_) => StatusCode::BAD_GATEWAY,
            Self::ServerTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The same in words.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Improper(Improper::Host) => {
                "A request needs exactly one Host header, a name or an address.\n"
            }
            Self::Improper(Improper::Target) => {
                "A request's target is a path, or an http address without a user's name.\n"
            }
            Self::Improper(Improper::Connect) => "CONNECT is not served: this is not a forward proxy.\n",
            Self::BadBody => "The request's body is malformed.\n",
            Self::NoServer => "No server is available to answer this request.\n",
            Self::QueueFull => "All servers are busy and too many requests wait already.\n",
            Self::QueueTimeout => "All servers are busy and none became free in time.\n",
            Self::Connect => "No server could be reached to answer this request.\n",
            Self::ConnectTimeout => "No server accepted a connection in time.\n",
            Self::Broken => "The server broke off before it answered.\n",
            Self::NotHttp => "The server's answer was not HTTP.\n",
            Self::TooLarge => "The header of the server's answer was too large.\n",
            Self::BadAnswer(_) => "The server's answer was malformed.\n",
            Self::ServerTimeout => "The server did not answer in time.\n",
            Self::ClientTimeout => "The request did not arrive whole in time.\n",
            Self::ClientGone => "The request did not arrive whole.\n",
        }
    }

    /// HAProxy's two characters: who ended it, and when.
    pub(crate) fn termination(self) -> [u8; 2] {
        *match self {
            Self::Improper(_) => b"PR",
            Self::BadBody => b"PD",
            Self::NoServer | Self::Connect => b"SC",
            Self::QueueFull => b"SQ",
            Self::QueueTimeout => b"sQ",
            Self::ConnectTimeout => b"sC",
            Self::Broken => b"SH",
            Self::NotHttp | Self::TooLarge | Self::BadAnswer(_) => b"PH",
            Self::ServerTimeout => b"sH",
            Self::ClientTimeout => b"cD",
            Self::ClientGone => b"CD",
        }
    }

    /// The timeout that it counts as, if it is one.
    pub(crate) fn timeout(self) -> Option<Timeout> {
        match self {
            Self::QueueTimeout => Some(Timeout::Queue),
            Self::ConnectTimeout => Some(Timeout::Connect),
            Self::ServerTimeout => Some(Timeout::Server),
            Self::ClientTimeout => Some(Timeout::Client),
            _ => None,
        }
    }

    /// Whether an attempt that ended so says nothing of its server.
    pub(crate) fn is_the_clients(self) -> bool {
        matches!(self, Self::Improper(_) | Self::BadBody | Self::ClientTimeout | Self::ClientGone)
    }

    /// What the server did, for its operator; none when it did nothing, or could not even be connected to.
    pub(crate) fn blame(self) -> Option<&'static str> {
        match self {
            Self::Broken => Some("broke off before it answered"),
            Self::NotHttp => Some("answered what is not HTTP"),
            Self::TooLarge => Some("answered with a header of too many bytes or lines"),
            Self::BadAnswer(what) => Some(what),
            Self::ServerTimeout => Some("did not answer in time"),
            _ => None,
        }
    }

    /// Whether it may go better the next time, or on another server.
    ///
    /// A stall is not tried again: the client has waited long enough, and the server may still be at work.
    pub(crate) fn repeatable(self) -> bool {
        self.blame().is_some() && self != Self::ServerTimeout
            || matches!(self, Self::Connect | Self::ConnectTimeout)
    }

    /// Whether the request was refused.
    pub(crate) fn denied(self) -> bool {
        matches!(self, Self::Improper(_) | Self::BadBody)
    }

    /// Whether the rest of the request may still arrive, so that the connection cannot be used again.
    fn closes(self) -> bool {
        self.is_the_clients()
    }

    /// The answer.
    pub(crate) fn response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Own(Bytes::from_static(self.sentence().as_bytes())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The last answer on a connection that the engine has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Farewell {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Why the request is refused.
    pub(crate) why: &'static str,
}

impl Farewell {
    /// All of it.
    pub(crate) fn response(self) -> Vec<u8> {
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        let sentence = format!("The request was refused: {}.\n", self.why);
        let length = sentence.len();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
             connection: close\r\ndate: {date}\r\n\r\n{sentence}",
            self.status
        )
        .into_bytes()
    }
}
