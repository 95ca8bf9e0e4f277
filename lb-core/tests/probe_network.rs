//! Probes of little servers that behave, and of such that do not.
#![cfg(feature = "std")]
#![allow(clippy::unwrap_used, reason = "a test whose own server fails is to fail")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lb_core::health::probe::{HttpProbe, Probe, ProbeError, Stage, TcpProbe};

/// A server on loopback that does `serve` with its one connection.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    address
}

/// Reads a request, then writes these pieces, and waits until the client has gone.
fn answering(pieces: Vec<Vec<u8>>) -> SocketAddr {
    server(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        read_request(&mut stream);
        for piece in pieces {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
        // The connection ends properly, not with a reset.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

fn answer(text: &[u8]) -> SocketAddr {
    answering(vec![text.to_vec()])
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

fn get() -> HttpProbe {
    HttpProbe::get("/").within(Duration::from_secs(20))
}

fn run(probe: HttpProbe, address: SocketAddr) -> Result<Duration, ProbeError> {
    Probe::from(probe).run(address)
}

/// A port of loopback where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn tcp_passes_where_somebody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let probe = Probe::from(TcpProbe::within(Duration::from_secs(10)));
    probe.run(listener.local_addr().unwrap()).unwrap();

    let address = nobody();
    let error = probe.run(address).unwrap_err();
    assert!(matches!(error, ProbeError::Connect { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.starts_with(&format!("cannot connect to {address}: ")), "{message}");
    assert!(message.ends_with("see that the server runs and listens there"), "{message}");
}

#[test]
fn a_full_queue_of_connections_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let probe = Probe::from(TcpProbe::within(Duration::from_millis(500)));
    // Nobody accepts, so in the end the kernel drops what comes. What has left still waits to be accepted.
    let error = (0..10_000).find_map(|_| probe.run(address).err()).expect("the queue has an end");
    assert!(matches!(error, ProbeError::Timeout { stage: Stage::Connect, .. }), "{error:?}");
}

#[test]
fn http_passes() {
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nIt \r\n6\r\nworks.\r\n0\r\n\r\n";
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\nIt works.";
    let head = HttpProbe { method: "HEAD".into(), ..get() };
    let four = HttpProbe { max_body: 4, ..get() };
    let cases: [(&str, HttpProbe, &[u8]); 12] = [
        ("status alone", get(), b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("a redirection is an answer", get(), b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"),
        ("HTTP/1.0", get(), b"HTTP/1.0 200 OK\r\n\r\n"),
        ("no reason", get(), b"HTTP/1.1 200\r\n\r\n"),
        ("another status", get().expect_status("503".parse().unwrap()), b"HTTP/1.1 503 No\r\n\r\n"),
        ("length", get().expect_text("It works."), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nIt works."),
        ("until close", get().expect_text("works"), b"HTTP/1.1 200 OK\r\n\r\nIt works.\n"),
        ("text over chunks", get().expect_text("It works"), chunked),
        ("after an interim answer", get().expect_text("works"), interim),
        ("text up to the limit", four.expect_text("bcd"), b"HTTP/1.1 200 OK\r\n\r\nabcdef"),
        ("empty text", get().expect_text(""), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD has no body", head, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
    ];
    for (name, probe, wire) in cases {
        run(probe.clone(), answer(wire)).unwrap_or_else(|error| panic!("{name}: {error}"));
        // However it is cut.
        let bytes = wire.iter().map(|byte| vec![*byte]).collect();
        run(probe, answering(bytes)).unwrap_or_else(|error| panic!("{name}, by bytes: {error}"));
    }
}

#[test]
fn http_fails() {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let ok = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}").into_bytes();
    let fields = |count: usize, size: usize| -> String {
        (0..count).map(|n| format!("X-{n}: {}\r\n", "x".repeat(size))).collect()
    };
    let text = || get().expect_text("It works");
    let ten = HttpProbe { max_body: 10, ..text() };
    let cases: Vec<(&str, HttpProbe, Vec<u8>, &str)> = vec![
        (
            "wrong status",
            get(),
            b"HTTP/1.1 500 Oh\r\n\r\n".into(),
            "answered / with status 500 instead of 200-399",
        ),
        (
            "wrong text",
            text(),
            ok("Content-Length: 11\r\n", "It does not"),
            "to / lacks \"It works\" in its first 11 bytes; it begins \"It does not\"",
        ),
        ("text after the body's end", text(), ok("Content-Length: 3\r\n", "It works"), "first 3 bytes"),
        ("text after the limit", ten, ok("", "xxxxxIt works"), "first 10 bytes"),
        ("text in the head", text(), ok("X: It works\r\n", ""), "first 0 bytes"),
        ("body of 204", text(), b"HTTP/1.1 204 OK\r\n\r\nIt works".into(), "first 0 bytes"),
        (
            "nothing",
            get(),
            vec![],
            "closed the connection while sending the head of its answer, after 0 bytes",
        ),
        ("half a head", get(), b"HTTP/1.1 200 OK\r\nServer".into(), "after 23 bytes"),
        ("half a body", text(), ok("Content-Length: 9\r\n", "It"), "the body of its answer, after 2 bytes"),
        ("half a chunk", text(), ok(CHUNKED, "ff\r\nIt"), "the body of its answer, after 2 bytes"),
        ("bad chunk", text(), ok(CHUNKED, "xyz\r\n"), "a chunk without a proper size"),
        ("bad length", get(), ok("Content-Length: +9\r\n", ""), "its Content-Length is \"+9\""),
        ("another protocol", get(), b"SSH-2.0-OpenSSH_9.2\r\n".into(), "does not answer in HTTP/1"),
        ("TLS", get(), b"\x15\x03\x01\x00\x02\x02\x16".into(), "without TLS"),
        ("zeros", get(), vec![0; 5000], "does not answer in HTTP/1"),
        ("one huge field", get(), ok(&fields(1, 100_000), ""), "longer than 65536 bytes or 128 fields"),
        ("many fields", get(), ok(&fields(129, 1), ""), "longer than 65536 bytes or 128 fields"),
        ("endless head", get(), ok(&fields(2000, 1000), ""), "longer than 65536 bytes or 128 fields"),
    ];
    for (name, probe, wire, message) in cases {
        let address = answer(&wire);
        let error = run(probe, address).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains(&address.to_string()), "{name}: {error}");
    }
}

#[test]
fn what_follows_an_early_verdict_is_not_awaited() {
    // The status and the text are there, the rest never comes.
    for (probe, sent) in [
        (get(), &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"[..]),
        (get().expect_text("ab"), b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxab"),
    ] {
        let address = server(move |mut stream| {
            read_request(&mut stream);
            stream.write_all(sent).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        run(probe, address).unwrap();
    }
}

/// Servers that never end, each in its own way; the timeout ends every one.
#[test]
fn the_timeout_bounds_the_whole_probe() {
    fn drip(mut stream: TcpStream, begin: &[u8], again: &[u8]) {
        read_request(&mut stream);
        let mut sent = stream.write_all(begin);
        while sent.is_ok() {
            sent = stream.write_all(again);
            thread::sleep(Duration::from_millis(5));
        }
    }
    type Serve = fn(TcpStream);
    let text = get().expect_text("never");
    let cases: [(&str, HttpProbe, Stage, Serve); 6] = [
        ("silent", get(), Stage::Head, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        }),
        ("drips a field", get(), Stage::Head, |stream| drip(stream, b"HTTP/1.1 200 OK\r\nX: ", b"x")),
        ("drips heads", get(), Stage::Head, |stream| drip(stream, b"", b"HTTP/1.1 100 Go on\r\n\r\n")),
        ("drips its body", text.clone(), Stage::Body, |stream| {
            drip(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x");
        }),
        ("drips until close", text.clone(), Stage::Body, |stream| {
            drip(stream, b"HTTP/1.1 200 OK\r\n\r\n", b"x")
        }),
        ("drips chunks", text, Stage::Body, |stream| {
            drip(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n");
        }),
    ];
    let timeout = Duration::from_secs(1);
    thread::scope(|scope| {
        for (name, probe, expected, serve) in cases {
            scope.spawn(move || {
                let started = Instant::now();
                let error = run(probe.within(timeout), server(serve)).unwrap_err();
                let took = started.elapsed();
                assert!(
                    matches!(error, ProbeError::Timeout { stage, .. } if stage == expected),
                    "{name}: {error}"
                );
                assert!(took >= timeout && took < 20 * timeout, "{name}: {took:?}");
            });
        }
    });
}

#[test]
fn a_reset_is_told_as_one() {
    // Closing a socket with unread bytes resets the connection.
    let address = server(|stream| {
        stream.peek(&mut [0]).unwrap();
    });
    let error = run(get(), address).unwrap_err();
    assert!(matches!(error, ProbeError::Broken { stage: Stage::Head, .. }), "{error:?}");
    assert!(error.to_string().contains("broke the connection while sending the head"), "{error}");
}

#[test]
fn the_request_is_what_was_configured() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let address = server(move |mut stream| {
        sender.send(read_request(&mut stream)).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    });
    let mut probe = HttpProbe::get("/check?x=1").host("www.example.com");
    probe.method = "OPTIONS".into();
    probe.headers.push(("X-Check".into(), "yes".into()));
    run(probe, address).unwrap();
    let request = receiver.recv().unwrap();
    for line in ["OPTIONS /check?x=1 HTTP/1.1\r\n", "\r\nHost: www.example.com\r\n", "\r\nX-Check: yes\r\n"] {
        assert!(request.contains(line), "{request}");
    }
}

#[test]
fn a_setting_that_can_never_work_is_named() {
    let error = run(HttpProbe::get("no slash"), nobody()).unwrap_err();
    assert!(matches!(error, ProbeError::Config(_)), "{error:?}");
    let error = Probe::from(TcpProbe::within(Duration::ZERO)).validate().unwrap_err();
    assert_eq!(error.to_string(), "`timeout` is 0s: it has to be longer than 0");
}

#[cfg(feature = "serde")]
#[test]
fn probes_read_as_people_write_them() {
    let text =
        r#"{"type":"http","path":"/check.html","host":"www","text":"OK","status":"2xx","timeout":"5s"}"#;
    let probe: Probe = serde_json::from_str(text).unwrap();
    let expected =
        HttpProbe::get("/check.html").host("www").expect_text("OK").expect_status("2xx".parse().unwrap());
    assert_eq!(probe, Probe::Http(expected.within(Duration::from_secs(5))));
    assert_eq!(serde_json::from_str::<Probe>(&serde_json::to_string(&probe).unwrap()).unwrap(), probe);
    assert_eq!(serde_json::from_str::<Probe>(r#"{"type":"tcp"}"#).unwrap(), Probe::Tcp(TcpProbe::default()));
    for (text, names) in [
        (r#"{"type":"htp"}"#, "`http`"),
        (r#"{"type":"http","txt":"x"}"#, "`text`"),
        (r#"{"type":"http","status":"20"}"#, "301-304"),
    ] {
        let error = serde_json::from_str::<Probe>(text).unwrap_err().to_string();
        assert!(error.contains(names), "{text}: {error}");
    }
}
