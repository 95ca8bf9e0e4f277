//! HTTP through the director: what arrives at a server, what comes back, what stays open.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::io::{Read, Write};

use director::client::{Connection, get, parse, raw};
use director::origin::saying;
use director::{Director, Origin, simple};

#[test]
fn requests_and_answers_pass_and_fields_of_one_hop_end() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    let answer = connection.request(
        "GET",
        "/echo?a=b",
        "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-End: 2\r\nX-Forwarded-For: 9.9.9.9\r\n",
    );
    assert_eq!(answer.status, 200);
    let seen = answer.body.to_ascii_lowercase();
    assert!(seen.starts_with("get /echo?a=b http/1.1\r\n"), "{seen}");
    for present in
        ["host: test\r\n", "x-end: 2\r\n", "x-forwarded-for: 9.9.9.9, 127.0.0.1\r\n", "te: trailers\r\n"]
    {
        assert!(seen.contains(present), "{present} in {seen}");
    }
    for absent in ["x-hop", "keep-alive"] {
        assert!(!seen.contains(absent), "{absent} in {seen}");
    }
    assert_eq!(answer.header("x-own"), Some("1"));
    assert_eq!(answer.header("connection"), None);
    assert!(answer.header("date").is_some());
}

#[test]
fn connections_stay_open_on_both_sides() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    for _ in 0..20 {
        assert_eq!(connection.get("/").body, "s1");
    }
    assert_eq!((origin.accepted(), origin.requests()), (1, 20));
    // Two requests at once are answered in order.
    connection.send("GET /status/201 HTTP/1.1\r\nHost: a\r\n\r\nGET /status/202 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((connection.response("GET").status, connection.response("GET").status), (201, 202));
}

#[test]
fn a_server_connection_that_was_closed_while_idle_costs_nobody_anything() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], "retries = 0"));
    let mut connection = Connection::open(director.http);
    for _ in 0..20 {
        assert_eq!(connection.get("/").status, 200);
        origin.close_connections();
    }
}

#[test]
fn head_has_the_length_and_no_body() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    let answer = connection.request("HEAD", "/big/1000", "");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1000")));
    assert_eq!(connection.get("/").body, "s1");
    assert_eq!(connection.get("/status/204").status, 204);
    assert_eq!(connection.get("/status/304").status, 304);
    assert_eq!(connection.get("/").body, "s1");
}

#[test]
fn bodies_stream_both_ways() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    let body = "0123456789".repeat(100_000);
    connection.send(&format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    // Sent while the answer is read: neither side may wait for the other.
    let mut sender = connection.reader.get_ref().try_clone().unwrap();
    let sending = std::thread::spawn({
        let body = body.clone();
        move || sender.write_all(body.as_bytes()).unwrap()
    });
    let answer = connection.response("POST");
    sending.join().unwrap();
    assert!(answer.body.ends_with(&body));
    assert_eq!(connection.get("/big/3000000").body.len(), 3_000_000);
}

#[test]
fn chunks_and_trailers_pass() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    let answer = connection.request("GET", "/chunked", "TE: trailers\r\nConnection: TE\r\n");
    assert_eq!((answer.body.as_str(), answer.header("transfer-encoding")), ("hello world", Some("chunked")));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "11".to_owned())]);
    assert_eq!(connection.get("/chunked").body, "hello world", "to a client that takes no trailers");
    assert_eq!((director.number("s1", "/successes"), director.number("s1", "/cancelled")), (2, 0));
    connection.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n\
         5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nX-End: 6\r\n\r\n",
    );
    let answer = connection.response("POST");
    assert!(
        answer.body.contains("hello!") && answer.body.to_ascii_lowercase().contains("x-end: 6"),
        "{}",
        answer.body
    );
    assert_eq!(connection.get("/").body, "s1");
}

#[test]
fn expectations_are_met() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(connection.response("POST").status, 100);
    connection.send("hello");
    assert!(connection.response("POST").body.ends_with("hello"));
}

#[test]
fn an_interim_answer_is_not_taken_for_the_answer() {
    let answer =
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let server = format!("[[backend.server]]\nname = \"hints\"\naddress = \"{}\"\n", saying(answer));
    let director = Director::start(&simple(&[], &server));
    let answer = get(director.http, "/");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
}

#[test]
fn old_clients_and_old_servers_are_served() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let answer = raw(director.http, b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(parse(&answer).body, "s1");
    // An old server's version is its own affair: the client's connection goes on.
    let mut connection = Connection::open(director.http);
    for _ in 0..2 {
        connection.send("GET /old HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(connection.line().as_deref(), Some("HTTP/1.1 200 OK"));
        while connection.line().unwrap() != "0" {}
        assert_eq!(connection.line().as_deref(), Some(""));
    }
    let mut connection = Connection::open(director.http);
    connection.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(connection.response("GET").body, "s1");
    connection.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(connection.response("GET").body, "s1");
    let seen = parse(&raw(director.http, b"GET /echo HTTP/1.0\r\n\r\n")).body;
    assert!(seen.contains(&format!("host: {}\r\n", director.http)), "{seen}");
    let absolute =
        raw(director.http, b"GET http://other/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let seen = parse(&absolute).body;
    assert!(seen.starts_with("GET /echo HTTP/1.1\r\n") && seen.contains("host: other\r\n"), "{seen}");
}

#[test]
fn upgraded_connections_become_tunnels() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut connection = Connection::open(director.http);
    let answer = connection.request("GET", "/upgrade", "Connection: Upgrade\r\nUpgrade: echo\r\n");
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("echo")));
    connection.send("over the tunnel");
    connection.half_close();
    let mut echoed = String::new();
    connection.reader.read_to_string(&mut echoed).unwrap();
    assert_eq!(echoed, "hi over the tunnel");
    // h2c would hide requests from the director: the server is not asked for it.
    let answer =
        Connection::open(director.http).request("GET", "/echo", "Connection: Upgrade\r\nUpgrade: h2c\r\n");
    assert!(answer.status == 200 && !answer.body.contains("h2c"), "{}", answer.body);
}

#[test]
fn work_is_spread_by_weight() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let config =
        simple(&[&a, &b], "algorithm = \"wrr\"").replace("name = \"a\"\n", "name = \"a\"\nweight = 3\n");
    let director = Director::start(&config);
    let mut connection = Connection::open(director.http);
    for _ in 0..40 {
        assert_eq!(connection.get("/").status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (30, 10));
    assert_eq!((director.number("a", "/requests"), director.number("a", "/responses/2xx")), (30, 30));
    assert_eq!(director.number("web", "/requests"), 40);
    assert!(director.number("web", "/bytes_out") > 40 * 50);
}
