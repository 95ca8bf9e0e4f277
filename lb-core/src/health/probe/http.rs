//! Asks a web server for a page and looks at the answer.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use std::net::SocketAddr;

use super::body::{Decoder, Framing, Search};
use super::stream::{Deadline, Stream};
use super::{ConfigError, ProbeError, Stage, StatusSet, validate_timeout};

/// The most bytes of an answer's head, and fields in it, that are read.
const LONGEST_HEAD: usize = 64 * 1024;
const MOST_FIELDS: usize = 128;

/// Passes when the server answers a request with an expected status and, if one is given, an expected text:
/// ldirectord's *negotiate* (`request`, `receive`, `virtualhost`), HAProxy's `option httpchk` and
/// `http-check expect`.
///
/// The request is HTTP/1.1 with `Connection: close`; redirections are answers like any other and are not followed.
/// The text is plain, compared byte for byte with the body without its chunks, not a regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct HttpProbe {
    /// The method. Default `GET`.
    pub method: String,
    /// The path, with its query. Begins with `/` (or is `*`, for `OPTIONS`). Default `/`.
    pub path: String,
    /// The `Host` field. Default: the address.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub host: Option<String>,
    /// More fields of the request, name and value.
    pub headers: Vec<(String, String)>,
    /// The codes that pass. Default `200-399`.
    pub status: StatusSet,
    /// The text that has to be in the body.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub text: Option<String>,
    /// The text has to be in so many first bytes of the body; no more are read. Default 64 KiB.
    pub max_body: usize,
    /// The longest that the whole probe takes. Above 0, default 2 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::health::duration"))]
    pub timeout: Duration,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self {
            method: String::from("GET"),
            path: String::from("/"),
            host: None,
            headers: Vec::new(),
            status: StatusSet::default(),
            text: None,
            max_body: 64 * 1024,
            timeout: Duration::from_secs(2),
        }
    }
}

impl HttpProbe {
    /// One that gets `path`.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// The same with a `Host` field.
    #[must_use]
    pub fn host(self, host: impl Into<String>) -> Self {
        Self { host: Some(host.into()), ..self }
    }

    /// The same with other codes that pass.
    #[must_use]
    pub fn expect_status(self, status: StatusSet) -> Self {
        Self { status, ..self }
    }

    /// The same with a text that has to be in the body.
    #[must_use]
    pub fn expect_text(self, text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), ..self }
    }

    /// The same with another timeout.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// What goes onto the wire must stay one request: nothing from a configuration may end a line.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, name: &'static str, value: &str, accepted| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::out_of_range(name, format_args!("{value:?}"), accepted))
            }
        };
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        validate_timeout(self.timeout)?;
        check(is_token(&self.method), "method", &self.method, "a method, as in \"GET\"")?;
        let rooted = self.path.starts_with('/') || self.path == "*";
        let accepted = "a path from \"/\" on, everything but visible ASCII percent-encoded";
        check(rooted && visible(&self.path), "path", &self.path, accepted)?;
        if let Some(host) = &self.host {
            check(
                !host.is_empty() && visible(host),
                "host",
                host,
                "a host name, with its port if it is not 80",
            )?;
        }
        for (name, value) in &self.headers {
            check(is_token(name), "headers", name, "a field name, as in \"Accept-Language\"")?;
            let own = ["host", "connection", "content-length", "transfer-encoding"];
            let accepted = "another field: this one is set by the probe (for Host there is `host`)";
            check(!own.iter().any(|own| name.eq_ignore_ascii_case(own)), "headers", name, accepted)?;
            let printable = value.bytes().all(|byte| byte >= b' ' && byte != 0x7f || byte == b'\t');
            check(printable, "headers", value, "a value without control characters")?;
        }
        if self.text.is_some() {
            let bodiless = self.method == "HEAD";
            check(!bodiless, "text", &self.method, "left out: an answer to HEAD has no body to find it in")?;
        }
        Ok(())
    }

    fn request(&self, address: SocketAddr) -> String {
        let host = self.host.clone().unwrap_or_else(|| address.to_string());
        let mut request =
            format!("{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", self.method, self.path);
        let given = |name: &str| self.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        for (name, value) in [("User-Agent", "lb-core health probe"), ("Accept", "*/*")] {
            if !given(name) {
                request += &format!("{name}: {value}\r\n");
            }
        }
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        // Servers may insist on a length where a body would make sense (RFC 9110, section 8.6).
        if matches!(&*self.method, "POST" | "PUT" | "PATCH") {
            request += "Content-Length: 0\r\n";
        }
        request + "\r\n"
    }

    pub(super) fn run(&self, address: SocketAddr) -> Result<(), ProbeError> {
        self.validate()?;
        let mut stream = Stream::connect(address, Deadline::after(self.timeout))?;
        stream.write_all(Stage::Request, self.request(address).as_bytes())?;

        let mut buffer = vec![0; 16 * 1024];
        let mut received = Vec::new();
        let (status, framing) = loop {
            let count = stream.read(Stage::Head, &mut buffer)?;
            if count == 0 {
                return Err(ProbeError::Closed { address, stage: Stage::Head, received: received.len() });
            }
            received.extend_from_slice(&buffer[..count]);
            if let Some(head) = self.head(address, &mut received, count)? {
                break head;
            }
        };
        if !self.status.contains(status) {
            let (path, expected) = (self.path.clone(), self.status.clone());
            return Err(ProbeError::Status { address, path, status, expected });
        }
        match &self.text {
            Some(text) => self.find(text, address, Decoder::new(framing), received, &mut stream, &mut buffer),
            None => Ok(()),
        }
    }

    /// Status and framing, once the head is complete; then only what follows it is left in `received`, whose last
    /// `new` bytes just came. Interim answers (1xx) are passed over.
    fn head(
        &self,
        address: SocketAddr,
        received: &mut Vec<u8>,
        new: usize,
    ) -> Result<Option<(u16, Framing)>, ProbeError> {
        let not_http = |problem: String| ProbeError::NotHttp { address, problem };
        // A long head is parsed when it is complete, not at every byte of it: that would be quadratic. A short one
        // always is, so that what is no HTTP shows at once.
        let mut complete = new;
        while received.len() - complete <= 1024 || ends_head(received, complete) {
            let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            let length = match response.parse(received) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => break,
                Err(httparse::Error::TooManyHeaders) => {
                    return Err(ProbeError::HeadTooLong { address, limit: LONGEST_HEAD });
                }
                Err(error) => return Err(not_http(error.to_string())),
            };
            let status = response.code.unwrap_or_default();
            let framing = framing(status, response.headers).map_err(not_http)?;
            received.drain(..length);
            // 101 is final: no request of ours asks for another protocol.
            if !(100..200).contains(&status) || status == 101 {
                return Ok(Some((status, framing)));
            }
            complete = received.len();
        }
        if received.len() > LONGEST_HEAD {
            return Err(ProbeError::HeadTooLong { address, limit: LONGEST_HEAD });
        }
        Ok(None)
    }

    fn find(
        &self,
        text: &str,
        address: SocketAddr,
        mut decoder: Decoder,
        mut received: Vec<u8>,
        stream: &mut Stream,
        buffer: &mut [u8],
    ) -> Result<(), ProbeError> {
        let mut search = Search::new(text, self.max_body);
        loop {
            let found = search.found(|body| decoder.decode(&received, body));
            if found.map_err(|problem| ProbeError::NotHttp { address, problem: problem.to_string() })? {
                return Ok(());
            }
            if decoder.is_done() || search.is_full() {
                break;
            }
            let count = stream.read(Stage::Body, buffer)?;
            if count == 0 {
                match decoder.ends_with_connection() {
                    true => break,
                    false => {
                        let received = search.searched();
                        return Err(ProbeError::Closed { address, stage: Stage::Body, received });
                    }
                }
            }
            received.clear();
            received.extend_from_slice(&buffer[..count]);
        }
        Err(ProbeError::Text {
            address,
            path: self.path.clone(),
            expected: text.to_string(),
            searched: search.searched(),
            start: search.start(),
        })
    }
}

/// Where the body ends (RFC 9112, section 6.3); of an answer to HEAD it is not asked.
fn framing(status: u16, fields: &[httparse::Header<'_>]) -> Result<Framing, String> {
    if status < 200 || status == 204 || status == 304 {
        return Ok(Framing::Length(0));
    }
    let named = |name: &str| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    if let Some(coding) = named("transfer-encoding") {
        let chunked = coding.value.trim_ascii().to_ascii_lowercase().ends_with(b"chunked");
        return Ok(if chunked { Framing::Chunked } else { Framing::Close });
    }
    let Some(length) = named("content-length") else { return Ok(Framing::Close) };
    let text = String::from_utf8_lossy(length.value);
    let digits = text.trim();
    match digits.parse() {
        Ok(length) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Framing::Length(length)),
        _ => Err(format!("its Content-Length is {text:?}")),
    }
}

/// Whether an empty line ends within the last `new` bytes.
fn ends_head(received: &[u8], new: usize) -> bool {
    let tail = &received[received.len().saturating_sub(new + 3)..];
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(4).any(|four| four == b"\r\n\r\n")
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(of_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_on_the_wire() {
        let address = "192.0.2.7:8080".parse().unwrap();
        assert_eq!(
            HttpProbe::default().request(address),
            "GET / HTTP/1.1\r\nHost: 192.0.2.7:8080\r\nConnection: close\r\n\
             User-Agent: lb-core health probe\r\nAccept: */*\r\n\r\n"
        );
        let probe = HttpProbe {
            method: "POST".into(),
            headers: vec![("user-agent".into(), "mine".into())],
            ..HttpProbe::get("/a?b").host("www")
        };
        assert_eq!(
            probe.request(address),
            "POST /a?b HTTP/1.1\r\nHost: www\r\nConnection: close\r\nAccept: */*\r\nuser-agent: mine\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let v6 = HttpProbe::default().request("[::1]:80".parse().unwrap());
        assert!(v6.contains("Host: [::1]:80\r\n"));
    }

    #[test]
    fn nothing_from_a_configuration_ends_a_line() {
        let header = |name: &str, value: &str| HttpProbe {
            headers: vec![(name.into(), value.into())],
            ..HttpProbe::default()
        };
        for (probe, name) in [
            (HttpProbe::get("/ HTTP/1.1\r\nEvil: 1"), "`path`"),
            (HttpProbe::get("/a b"), "`path`"),
            (HttpProbe::get("index.html"), "`path`"),
            (HttpProbe::get(""), "`path`"),
            (HttpProbe::get("/ä"), "`path`"),
            (HttpProbe::default().host("a\r\nb"), "`host`"),
            (HttpProbe::default().host(""), "`host`"),
            (HttpProbe { method: "G T".into(), ..HttpProbe::default() }, "`method`"),
            (HttpProbe { method: String::new(), ..HttpProbe::default() }, "`method`"),
            (header("Bad Name", "x"), "`headers`"),
            (header("X", "a\r\nb"), "`headers`"),
            (header("X", "a\0"), "`headers`"),
            (header("HOST", "x"), "`headers`"),
            (header("Transfer-Encoding", "chunked"), "`headers`"),
            (HttpProbe { method: "HEAD".into(), ..HttpProbe::default() }.expect_text("x"), "`text`"),
            (HttpProbe::default().within(Duration::ZERO), "`timeout`"),
        ] {
            let error = probe.validate().unwrap_err().to_string();
            assert!(error.starts_with(name), "{probe:?}: {error}");
        }
        let good = HttpProbe { method: "OPTIONS".into(), ..HttpProbe::get("*") };
        assert_eq!(good.validate(), Ok(()));
    }
}
