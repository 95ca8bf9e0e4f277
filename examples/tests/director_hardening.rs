//! Clients that attack, stall or leave: refused or timed out, counted and logged, and the process goes on.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use director::client::{Connection, get, parse, raw};
use director::{Director, Origin, connect, eventually, log, logged, read_to_end, send, simple};

/// Short timeouts, and a log to look into.
fn strict(origin: &Origin) -> String {
    let timeouts = "[timeouts]\nrequest-header = \"300ms\"\nkeep-alive = \"500ms\"\nclient = \"700ms\"\nclient-fin = \"300ms\"\n";
    format!("{timeouts}{}", logged(&simple(&[origin], "")))
}

#[test]
fn what_two_programs_could_read_differently_is_refused() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    let get = "GET /one HTTP/1.1\r\nHost: a\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let table = [
        (
            "both lengths",
            format!("{get}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        (
            "both, the other way",
            format!("{get}Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n{smuggled}"),
            400,
        ),
        ("two lengths", format!("{get}Content-Length: 0\r\nContent-Length: 38\r\n\r\n{smuggled}"), 400),
        ("a list of lengths", format!("{get}Content-Length: 0, 38\r\n\r\n{smuggled}"), 400),
        ("a signed length", format!("{get}Content-Length: +0\r\n\r\n{smuggled}"), 400),
        ("a hexadecimal length", format!("{get}Content-Length: 0x10\r\n\r\n{smuggled}"), 400),
        ("a negative length", format!("{get}Content-Length: -1\r\n\r\n{smuggled}"), 400),
        ("an enormous length", format!("{get}Content-Length: 99999999999999999999\r\n\r\n"), 400),
        ("an unknown coding", format!("{get}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400),
        ("chunked not last", format!("{get}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400),
        (
            "chunked twice",
            format!("{get}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            400,
        ),
        (
            "chunked in HTTP/1.0",
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        ("space before the colon", format!("{get}Content-Length : 0\r\n\r\n{smuggled}"), 400),
        ("a tab before the colon", format!("{get}Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"), 400),
        ("a folded line", format!("{get}X: a\r\n b\r\n\r\n"), 400),
        ("a folded length", format!("{get}Content-Length:\r\n 5\r\n\r\n"), 400),
        ("a bare CR in a value", format!("{get}X: a\rContent-Length: 5\r\n\r\n"), 400),
        ("a bare CR in a name", format!("{get}X\r: a\r\n\r\n"), 400),
        ("a bare LF after a header", format!("{get}X: a\nY: b\r\n\r\n"), 400),
        ("a bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), 400),
        ("bare LFs only", "GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        ("a NUL in a value", format!("{get}X: a\0b\r\n\r\n"), 400),
        ("a NUL in a name", format!("{get}X\0: a\r\n\r\n"), 400),
        ("a NUL in the target", "GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("a header without a colon", format!("{get}nonsense\r\n\r\n"), 400),
        ("an empty name", format!("{get}: a\r\n\r\n"), 400),
        ("a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("no version", "GET /\r\n\r\n".to_owned(), 400),
        ("an unknown version", "GET / HTTP/3.7\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("no request at all", "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(), 400),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("two hosts", format!("{get}Host: b\r\n\r\n"), 400),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("a large header", format!("{get}X: {}\r\n\r\n", "a".repeat(40_000)), 431),
        ("a large header without end", format!("{get}X: {}", "a".repeat(70_000)), 431),
        ("many headers", format!("{get}{}\r\n", "X: a\r\n".repeat(200)), 431),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(66_000)), 431),
    ];
    let count = table.len() as u64;
    for (what, request, status) in table {
        let answer = raw(director.http, request.as_bytes());
        assert_eq!(parse(&answer).status, status, "{what}: {:?}", String::from_utf8_lossy(&answer));
        assert!(parse(&answer).body.ends_with(".\n"), "{what} is answered with a sentence");
        let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.").count();
        assert_eq!(answers, 1, "{what}: nothing behind it is served");
    }
    assert_eq!(origin.requests(), 0, "no server has seen any of it");
    eventually("all are counted", || (director.number("web", "/denied") == count).then_some(()));
    assert_eq!(get_ok(&director), 200);
    // Each worker hands over its part by itself. CONNECT and the two about Host are requests as far as that goes.
    let log = eventually("the log", || {
        let log = log(&director);
        let whole = log.matches("<BADREQ>").count() as u64 == count - 3 && log.contains("\"GET / HTTP/1.1\"");
        whole.then_some(log)
    });
    assert!(log.contains(" 400 0 - - PR-- ") && log.contains(" 431 0 - - PR-- "), "{log}");
    assert!(director.stderr().contains("director: refused 127.0.0.1:"), "{}", director.stderr());
}

#[test]
fn targets_and_hosts_are_of_their_form_and_no_password_is_logged() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    for (target, host) in [
        ("a:80", "a"),
        ("u:secret@a:80", "a"),
        ("http://u:secret@a/x", "a"),
        ("ftp://a/x", "a"),
        ("*", "a"),
        ("/", "a b/@c"),
        ("/", "a, b"),
        ("/", "u:p@a"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = raw(director.http, request.as_bytes());
        assert_eq!(parse(&answer).status, 400, "{target} {host}: {:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(origin.requests(), 0, "no server has seen any of it");
    let all = raw(director.http, b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(parse(&all).status, 200);
    let log = eventually("the log", || Some(log(&director)).filter(|log| log.lines().count() == 9));
    assert!(log.contains("\"GET http://a/x HTTP/1.1\"") && !log.contains("secret"), "{log}");
}

fn get_ok(director: &Director) -> u16 {
    get(director.http, "/").status
}

#[test]
fn bad_chunks_end_the_request_and_reach_no_second_one() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for bad in [
        "x\r\n",
        "-1\r\n",
        "\r\n",
        "0x3\r\nabc\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "3 x\r\nabc\r\n",
        "0\r\n folded\r\n\r\n",
    ] {
        let request = format!("{head}{bad}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = raw(director.http, request.as_bytes());
        assert_eq!(parse(&answer).status, 400, "{bad:?}: {:?}", String::from_utf8_lossy(&answer));
        assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1").count(), 1, "{bad:?}");
    }
    assert_eq!(get_ok(&director), 200);
}

#[test]
fn a_refusal_does_not_wait_for_more() {
    let origin = Origin::start("s1");
    // Long enough for a busy machine, and not to be waited for.
    let director = Director::start(&strict(&origin).replace("300ms", "10s").replace("700ms", "10s"));
    let header = "POST /echo HTTP/1.1\r\nHost: a\r\n";
    let chunked = format!("{header}Transfer-Encoding: chunked\r\n\r\n");
    let large = "a".repeat(40_000);
    for (first, second, status) in [
        (header, "X: a\0b\r\n\r\n", 400),
        (header, "X: a\0b\r\n", 400),
        (header, "X: a\n\r\n", 400),
        (header, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "\r\n", 400),
        (header, &large, 431),
        (&chunked, "3;a\0b\r\n", 400),
        (&chunked, "3;a\n", 400),
        (&chunked, "3\n", 400),
        (&chunked, "0\r\nX: a\n", 400),
    ] {
        let mut stream = connect(director.http);
        send(&mut stream, first.as_bytes());
        // So that they are read one by one.
        std::thread::sleep(Duration::from_millis(20));
        send(&mut stream, second.as_bytes());
        let answer = read_to_end(&mut stream);
        assert_eq!(parse(&answer).status, status, "{second:?}: {:?}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn a_header_that_does_not_end_is_answered_408() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    // Nothing at all, the start of one, and one that drips.
    for start in ["", "GET / HTT", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut stream = connect(director.http);
        let started = Instant::now();
        send(&mut stream, start.as_bytes());
        let answer = read_to_end(&mut stream);
        assert_eq!(parse(&answer).status, 408, "{start:?}");
        assert!(started.elapsed() >= Duration::from_millis(250), "{start:?}");
    }
    let mut dripping = connect(director.http);
    let mut reader = dripping.try_clone().unwrap();
    send(&mut dripping, b"GET / HTTP/1.1\r\n");
    let drip = std::thread::spawn(move || {
        for _ in 0..100 {
            if dripping.write_all(b"X: y\r\n").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut answer = Vec::new();
    let _ = reader.read_to_end(&mut answer);
    assert_eq!(parse(&answer).status, 408);
    let _ = reader.shutdown(Shutdown::Both);
    drip.join().unwrap();
    assert_eq!(director.number("web", "/timeouts/request_header"), 4);
    eventually("the log", || Some(log(&director)).filter(|log| log.matches(" 408 0 - - cR-- ").count() == 4));
}

#[test]
fn idle_and_half_closed_connections_end() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    let mut idle = Connection::open(director.http);
    let started = Instant::now();
    assert_eq!(idle.get("/").status, 200);
    assert!(idle.is_closed());
    let lasted = started.elapsed();
    assert!(lasted >= Duration::from_millis(500), "keep-alive is 500 ms, it lasted {lasted:?}");
    // Half-closed before, within and after a request.
    for sent in ["", "GET / HT", "GET /stall HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = connect(director.http);
        send(&mut stream, sent.as_bytes());
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream);
    }
    eventually("their end", || (director.number("web", "/connections") == 0).then_some(()));
}

#[test]
fn who_ends_its_side_after_a_whole_request_is_answered() {
    let origin = Origin::start("s1");
    let config = strict(&origin).replace("300ms", "5s");
    let director = Director::start(&config);
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /sleep/500 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /big/3000000 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /big/3000000 HTTP/1.0\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut connection = Connection::open(director.http);
        connection.send(request);
        connection.half_close();
        let answer = connection.response("GET");
        assert!(matches!(answer.status, 200 | 405), "{request:?}: {answer:?}");
        assert!(connection.is_closed(), "{request:?}");
    }
    let mut connection = Connection::open(director.http);
    connection.send(&"GET /sleep/100 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    connection.half_close();
    for _ in 0..3 {
        assert_eq!(connection.response("GET").body, "s1");
    }
    assert!(connection.is_closed());
    assert_eq!(director.number("s1", "/cancelled"), 0);
}

#[test]
fn who_goes_away_frees_its_server() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    // Before its answer, at its beginning, and when part of it has been written to nobody.
    for path in ["/stall", "/drip", "/drip/100"] {
        let mut stream = connect(director.http);
        send(&mut stream, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        eventually("it is in flight", || (director.number("s1", "/in_flight") == 1).then_some(()));
        let started = Instant::now();
        drop(stream);
        eventually("it is not", || (director.number("s1", "/in_flight") == 0).then_some(()));
        assert!(started.elapsed() < Duration::from_secs(3), "long before the server's timeout");
    }
    assert_eq!((director.number("s1", "/cancelled"), director.number("s1", "/failures")), (3, 0));
}

#[test]
fn a_body_that_stalls_is_answered_408_and_a_client_that_does_not_read_is_left() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    let mut connection = Connection::open(director.http);
    connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf.");
    assert_eq!(connection.response("POST").status, 408);
    assert_eq!(director.number("web", "/timeouts/client"), 1);
    let mut deaf = connect(director.http);
    send(&mut deaf, b"GET /big/30000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("its end", || (director.number("web", "/timeouts/client") == 2).then_some(()));
    eventually("its end", || (director.number("web", "/connections") == 0).then_some(()));
    assert_eq!(director.number("s1", "/in_flight"), 0);
}

#[test]
fn nothing_is_left_behind() {
    let origin = Origin::start("s1");
    let director = Director::start(&strict(&origin));
    assert_eq!(get_ok(&director), 200);
    let rest = || eventually("rest", || (director.number("web", "/connections") == 0).then_some(()));
    rest();
    let before = director.descriptors();
    for round in 0..40 {
        let mut streams: Vec<_> = (0..8).map(|_| connect(director.http)).collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            let request = match (round + number) % 6 {
                0 => &b"GET /stall HTTP/1.1\r\nHost: a\r\n\r\n"[..],
                1 => b"GET /big/1000000 HTTP/1.1\r\nHost: a\r\n\r\n",
                2 => b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
                3 => b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
                4 => b"GET /close HTTP/1.1\r\nHost: a\r\n\r\n",
                _ => b"GE",
            };
            send(stream, request);
        }
        drop(streams);
    }
    rest();
    eventually("as few descriptors as before", || {
        // Idle connections to the server may stay.
        (director.descriptors() <= before + 16).then_some(())
    });
    eventually("no request in flight", || (director.number("s1", "/in_flight") == 0).then_some(()));
    assert_eq!(get_ok(&director), 200);
}

#[test]
fn connections_are_bounded() {
    let origin = Origin::start("s1");
    let config = simple(&[&origin], "").replace("backend = \"app\"\n", "backend = \"app\"\nmaxconn = 4\n");
    let director = Director::start(&config);
    let mut held: Vec<Connection> = (0..4).map(|_| Connection::open(director.http)).collect();
    for connection in &mut held {
        assert_eq!(connection.get("/").status, 200);
    }
    // One more waits, is served when a place is free, and does not disturb the others.
    let mut waiting = connect(director.http);
    send(&mut waiting, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(waiting.read(&mut [0; 1]).is_err(), "no place yet");
    assert_eq!(held[1].get("/").status, 200);
    held.remove(0);
    assert_eq!(parse(&read_to_end(&mut waiting)).status, 200);
}
