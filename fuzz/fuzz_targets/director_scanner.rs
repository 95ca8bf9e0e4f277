//! Whatever a client sends: the scanner finds the same in it however it is cut, and lets nothing through of which two
//! readers could think differently. The readers are httparse, with the rules of RFC 9112 section 6.3 beside it, and
//! the HTTP engine that stands behind the scanner in the director; after a refusal the engine ends by itself.
//!
//! The input is how to cut (two bytes), then what the client sends.
#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use lb_examples::director::scanner::{Refused, Scanner};
use libfuzzer_sys::fuzz_target;

/// The least buffer that the engine takes.
const BUFFER: usize = 8_192;

fuzz_target!(|input: &[u8]| {
    let Some((&[how, seed], stream)) = input.split_first_chunk() else { return };
    // One in four times a limit that the fuzzer reaches.
    let limit = if how & 3 == 0 { 200 } else { BUFFER };
    let cuts = Cuts { most: 1 + usize::from(how >> 2), state: seed };

    let (frames, refused) = follow(stream, limit);
    for mut cuts in [cuts, Cuts { most: usize::MAX, ..cuts }] {
        let mut scanner = Scanner::new(limit);
        let mut passed = stream.to_vec();
        let mut rest = &mut passed[..];
        while !rest.is_empty() {
            let piece = rest.split_off_mut(..cuts.next(rest.len())).expect("no more than there is");
            scanner.scan(piece);
        }
        assert_eq!(scanner.refused(), refused);
        assert!(refused.is_some() || passed == stream, "{} is spoilt", stream.escape_ascii());
    }

    let requests: Vec<_> = frames.iter().map(|frame| frame.read(stream)).collect();
    let seen = engine(stream, limit, cuts);
    assert!(seen.len() <= requests.len(), "{} requests are {seen:?}", requests.len());
    for (seen, request) in seen.iter().zip(requests) {
        let (head, body) = request.expect("the engine takes what httparse refuses");
        assert_eq!(seen.head, head);
        assert!(seen.body.is_none() || seen.body == body, "{:?} is not {body:?}", seen.body);
    }
});

/// Where a stream is cut: into pieces of up to `most` bytes.
#[derive(Clone, Copy)]
struct Cuts {
    most: usize,
    state: u8,
}

impl Cuts {
    /// The length of the next piece of what is `left`.
    fn next(&mut self, left: usize) -> usize {
        // A full cycle through the 256 states.
        self.state = self.state.wrapping_mul(5).wrapping_add(113);
        let length = if self.most == usize::MAX { left } else { 1 + usize::from(self.state) % self.most };
        length.min(left)
    }
}

/// A request as the scanner sees it.
struct Frame {
    head: Range<usize>,
    /// Where its body ends, if it does.
    end: Option<usize>,
}

/// What the scanner makes of a stream, read off byte by byte.
fn follow(stream: &[u8], limit: usize) -> (Vec<Frame>, Option<Refused>) {
    let mut frames: Vec<Frame> = Vec::new();
    let mut scanner = Scanner::new(limit);
    let ends = |end| {
        let mut scanner = Scanner::new(limit);
        scanner.scan(&mut stream[..end].to_vec());
        let in_body = !scanner.in_head();
        // Only behind a body does this begin a request.
        scanner.scan(&mut [b'G']);
        (in_body && scanner.in_head()).then_some(end)
    };
    let mut start = 0;
    for (at, &byte) in stream.iter().enumerate() {
        let before = scanner.in_head();
        scanner.scan(&mut [byte]);
        if let Some(refused) = scanner.refused() {
            if let Some(last) = frames.last_mut().filter(|_| !before) {
                last.end = ends(at);
            }
            return (frames, Some(refused));
        }
        match (before, scanner.in_head()) {
            (false, true) => {
                start = at;
                if let Some(last) = frames.last_mut() {
                    last.end = Some(at);
                }
            }
            (true, false) => frames.push(Frame { head: start..at + 1, end: None }),
            _ => {}
        }
    }
    if let Some(last) = frames.last_mut().filter(|last| last.end.is_none()) {
        last.end = ends(stream.len());
    }
    (frames, None)
}

#[derive(Debug, PartialEq)]
struct Head {
    method: Method,
    target: Uri,
}

/// What says how long a body is.
enum Length {
    Fixed(u64),
    Chunked,
}

impl Frame {
    /// The same by another reader, who agrees on where the header and the body end: the header and, if all of it is
    /// there, the body. `None` when that reader refuses it.
    fn read(&self, stream: &[u8]) -> Option<(Head, Option<Vec<u8>>)> {
        let mut fields = [httparse::EMPTY_HEADER; 200];
        let mut request = httparse::Request::new(&mut fields);
        let head = &stream[self.head.clone()];
        strict(head);
        let status = request.parse(head).ok()?;
        assert_eq!(status, httparse::Status::Complete(head.len()), "where the header ends");
        let length = length(request.headers, request.version?);
        let body = self.end.map(|end| &stream[self.head.end..end]);
        let body = match length {
            Length::Fixed(length) => {
                let there = (stream.len() - self.head.end) as u64;
                assert_eq!(body.map(|body| body.len() as u64), (there >= length).then_some(length));
                body.map(<[u8]>::to_vec)
            }
            Length::Chunked => body.and_then(chunks),
        };
        let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
        Some((Head { method, target: request.path?.parse().ok()? }, body))
    }
}

/// Lines end in CRLF, and there is no other CR, LF or NUL: readers treat those differently, although none of those here.
fn strict(lines: &[u8]) {
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").expect("a line that ends in CRLF");
        assert!(!line.iter().any(|byte| b"\r\0".contains(byte)), "{}", line.escape_ascii());
    }
}

/// RFC 9112 section 6.3, without any of what it leaves to the recipient.
fn length(fields: &[httparse::Header<'_>], version: u8) -> Length {
    let values = |name: &str| -> Vec<_> {
        let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| std::str::from_utf8(field.value).expect("ASCII")).collect()
    };
    let (codings, lengths) = (values("transfer-encoding"), values("content-length"));
    let Some(coding) = codings.first() else {
        assert!(lengths.iter().all(|length| length.bytes().all(|byte| byte.is_ascii_digit())), "{lengths:?}");
        let mut numbers = lengths.iter().map(|length| length.parse().expect("a number"));
        let number = numbers.next().unwrap_or(0);
        assert!(numbers.all(|other| other == number), "{lengths:?}");
        return Length::Fixed(number);
    };
    assert!(coding.eq_ignore_ascii_case("chunked") && codings.len() == 1, "{codings:?}");
    assert!(lengths.is_empty() && version == 1, "{lengths:?} in HTTP/1.{version}");
    Length::Chunked
}

/// What is in the chunks of a body that has as many bytes as this; `None` when httparse refuses one.
fn chunks(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(body).ok()? {
            httparse::Status::Complete(chunk) => chunk,
            httparse::Status::Partial => panic!("the body ends within a chunk's size"),
        };
        strict(&body[..start]);
        body = &body[start..];
        if size == 0 {
            break;
        }
        let (chunk, rest) = body.split_at(usize::try_from(size).expect("no more than there is"));
        data.extend_from_slice(chunk);
        body = rest.strip_prefix(b"\r\n").expect("a chunk's end");
    }
    strict(body);
    let mut trailers = [httparse::EMPTY_HEADER; 2_000];
    match httparse::parse_headers(body, &mut trailers).ok()? {
        httparse::Status::Complete((end, _)) => assert_eq!(end, body.len(), "where the trailers end"),
        httparse::Status::Partial => panic!("the body ends within its trailers"),
    }
    Some(data)
}

/// A request as the engine sees it.
#[derive(Debug)]
struct Seen {
    head: Head,
    /// If all of it came.
    body: Option<Vec<u8>>,
}

/// What the engine makes of a stream that is scanned in front of it, cut like this.
fn engine(stream: &[u8], limit: usize, cuts: Cuts) -> Vec<Seen> {
    let seen: Rc<RefCell<Vec<Seen>>> = Rc::default();
    let service = {
        let seen = Rc::clone(&seen);
        service_fn(move |request| answer(request, Rc::clone(&seen)))
    };
    let client = Client { left: stream.to_vec(), scanner: Scanner::new(limit), cuts, spoilt: 0 };
    let connection =
        http1::Builder::new().max_buf_size(BUFFER).max_header_size(limit).serve_connection(client, service);
    {
        let mut connection = pin!(connection);
        let mut polls = 0;
        // It yields now and then, but there is nothing to wait for.
        while connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            polls += 1;
            assert!(polls <= BUFFER, "the engine does not end");
        }
    }
    seen.take()
}

async fn answer(
    request: Request<Incoming>,
    seen: Rc<RefCell<Vec<Seen>>>,
) -> Result<Response<String>, Infallible> {
    let (head, mut body) = request.into_parts();
    let at = seen.borrow().len();
    seen.borrow_mut().push(Seen { head: Head { method: head.method, target: head.uri }, body: None });
    let mut data = Vec::new();
    let whole = poll_fn(|cx| {
        loop {
            match ready!(Pin::new(&mut body).poll_frame(cx)) {
                None => return Poll::Ready(true),
                Some(Err(_)) => return Poll::Ready(false),
                Some(Ok(frame)) => data.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
            }
        }
    });
    if whole.await {
        seen.borrow_mut()[at].body = Some(data);
    }
    Ok(Response::new(String::new()))
}

/// A client that sends a stream in pieces, each of which is scanned as it is read. Then it leaves, or, if it was
/// refused, the engine reads spoilt bytes; both as in the director.
struct Client {
    left: Vec<u8>,
    scanner: Scanner,
    cuts: Cuts,
    spoilt: usize,
}

impl Read for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut piece = if self.scanner.refused().is_some() {
            let piece = vec![0; self.cuts.next(BUFFER).min(buffer.remaining())];
            self.spoilt += piece.len();
            assert!(self.spoilt <= 2 * BUFFER, "the engine goes on");
            piece
        } else {
            let left = self.left.len();
            let length = self.cuts.next(left).min(buffer.remaining());
            self.left.drain(..length).collect()
        };
        self.scanner.scan(&mut piece);
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl Write for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
