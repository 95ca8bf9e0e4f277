//! tcp mode, and the PROXY protocol on both sides of both modes.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use director::client::{get, parse, raw};
use director::{Director, Origin, connect, eventually, read_to_end, simple};

fn tcp(servers: &[&Origin], more: &str) -> String {
    simple(servers, &format!("mode = \"tcp\"\n{more}")).replace("[[backend]]", "mode = \"tcp\"\n[[backend]]")
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let a = Origin::tcp("a");
    let director = Director::start(&tcp(&[&a], ""));
    let mut stream = connect(director.http);
    let data = b"0123456789".repeat(100_000);
    let mut sender = stream.try_clone().unwrap();
    let sending = std::thread::spawn({
        let data = data.clone();
        move || {
            sender.write_all(&data).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        }
    });
    let got = read_to_end(&mut stream);
    sending.join().unwrap();
    assert_eq!((&got[..2], got.len()), (&b"a\n"[..], data.len() + 2));
    assert!(got.ends_with(&data));
    eventually("its end", || (director.number("web", "/connections") == 0).then_some(()));
    assert_eq!(
        (director.number("a", "/successes"), director.number("a", "/bytes_in")),
        (1, data.len() as u64)
    );
}

#[test]
fn a_dead_server_costs_no_connection_and_no_server_ends_it_at_once() {
    let (mut a, mut b) = (Origin::tcp("a"), Origin::tcp("b"));
    let director = Director::start(&tcp(&[&a, &b], "check = { interval = \"100ms\", fall = 1 }\n"));
    let greeting = || {
        let mut stream = connect(director.http);
        let mut line = [0; 2];
        stream.read_exact(&mut line).map(|()| line[0])
    };
    a.kill();
    for _ in 0..4 {
        assert_eq!(greeting().unwrap(), b'b');
    }
    b.kill();
    eventually("down", || (director.named("b")["health"]["state"] == "down").then_some(()));
    let started = Instant::now();
    assert!(greeting().is_err());
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn idle_connections_end_and_are_counted() {
    let a = Origin::tcp("a");
    let config = format!("[timeouts]\nclient = \"300ms\"\n{}", tcp(&[&a], ""));
    let director = Director::start(&config);
    let mut stream = connect(director.http);
    let started = Instant::now();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(150));
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(read_to_end(&mut stream), b"a\nxxxx");
    assert!(started.elapsed() >= Duration::from_millis(850), "each byte prolongs it");
    assert_eq!(director.number("web", "/timeouts/client"), 1);
}

#[test]
fn clients_stay_with_their_server_by_address() {
    let (a, b) = (Origin::tcp("a"), Origin::tcp("b"));
    let director = Director::start(&tcp(&[&a, &b], "persistence = { type = \"source\" }\n"));
    let greeting = || {
        let mut line = [0; 1];
        connect(director.http).read_exact(&mut line).unwrap();
        line
    };
    let first = greeting();
    for _ in 0..4 {
        assert_eq!(greeting(), first);
    }
}

#[test]
fn servers_are_told_the_client_by_the_proxy_protocol() {
    for (version, start) in [
        ("v1", &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]),
        ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01"),
    ] {
        let (http, plain) = (Origin::start("h"), Origin::tcp("t"));
        let more = format!("send-proxy = \"{version}\"\n");
        let director = Director::start(&simple(&[&http], &more));
        assert_eq!(get(director.http, "/").body, "h");
        assert_eq!(get(director.http, "/").body, "h");
        let seen = http.proxied();
        assert_eq!(seen.len(), 2, "each client has a server connection of its own");
        assert!(seen[0].starts_with(start), "{seen:?}");
        assert_ne!(seen[0], seen[1], "two clients have two ports");
        let director = Director::start(&tcp(&[&plain], &more));
        let mut stream = connect(director.http);
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream);
        assert!(plain.proxied()[0].starts_with(start), "{:?}", plain.proxied());
    }
}

#[test]
fn clients_are_known_by_the_proxy_protocol() {
    let origin = Origin::start("h");
    let config =
        simple(&[&origin], "").replace("backend = \"app\"\n", "backend = \"app\"\naccept-proxy = true\n");
    let director = Director::start(&config);
    let request = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (header, client) in [
        (&b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n"[..], "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4000 80\r\n", "2001:db8::7"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\xc0\0\x02\x01\x0f\xa0\0\x50", "192.0.2.8"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ] {
        let seen = parse(&raw(director.http, &[header, request].concat())).body;
        assert!(seen.contains(&format!("x-forwarded-for: {client}\r\n")), "{client} in {seen}");
    }
    for bad in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PROXY TCP4 1.2.3.4\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
    ] {
        assert!(raw(director.http, bad).is_empty(), "{bad:?}");
    }
    eventually("all are counted", || (director.number("web", "/denied") == 3).then_some(()));
}
