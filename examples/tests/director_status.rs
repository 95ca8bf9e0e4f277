//! What is to be seen: the three lines, the status in its forms, the access log, and a quiet end.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use director::client::{Connection, get, raw};
use director::{Director, Origin, eventually, free, simple};

#[test]
fn without_arguments_three_lines_four_servers_and_a_quiet_end() {
    let (listen, status) = (free(), free());
    let mut child = Command::new(env!("CARGO_BIN_EXE_director"))
        .args(["--listen", &listen.to_string(), "--status", &status.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
    assert!(said[0].contains(&format!("http://{status}/")), "{said:?}");
    assert!(said[1].contains(&format!("curl 'http://{listen}/pi.php?n=100000'")), "{said:?}");
    assert!(said[2].contains("Ctrl-C"), "{said:?}");
    let mut servers = std::collections::HashSet::new();
    for _ in 0..15 {
        let answer = get(listen, "/pi.php?n=100000");
        assert!(answer.status == 200 && answer.body.contains("3.14159"), "{}", answer.body);
        servers.insert(answer.header("x-server").unwrap().to_owned());
    }
    assert_eq!(servers.len(), 4, "{servers:?}");
    let shown: serde_json::Value = serde_json::from_str(&get(status, "/status.json").body).unwrap();
    let servers = shown["backends"][0]["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 4);
    assert_eq!(servers.iter().map(|server| server["requests"].as_u64().unwrap()).sum::<u64>(), 15);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        (lines.count(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (0, ""),
        "it says nothing more"
    );
}

#[test]
fn the_status_has_four_forms_and_nothing_else() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    assert_eq!(get(director.http, "/").status, 200);
    for (path, kind, text) in [
        ("/", "text/html; charset=utf-8", "s1"),
        ("/status.json", "application/json", "\"s1\""),
        ("/status.csv", "text/csv; charset=utf-8; header=present", "app,s1,"),
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            "lb_server_requests_total{backend=\"app\",server=\"s1\"} 1",
        ),
    ] {
        let answer = get(director.status, path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert!(answer.body.contains(text), "{path}: {}", answer.body);
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    }
    assert_eq!(get(director.status, "/nothing").status, 404);
    assert_eq!(Connection::open(director.status).request("DELETE", "/", "").status, 405);
}

#[test]
fn each_request_has_its_line_in_the_log() {
    let (origin, nobody) = (Origin::start("s1"), free());
    let config = simple(
        &[&origin],
        "persistence = { type = \"cookie\", name = \"SRV\" }\n[backend.timeouts]\nserver = \"200ms\"\n",
    )
    .replace("[director]\n", "[director]\naccess-log = \"@folder/log\"\n")
        + &format!("[[backend.server]]\nname = \"nobody\"\naddress = \"{nobody}\"\nweight = 0\n");
    let director = Director::start(&config);
    let mut connection = Connection::open(director.http);
    connection.get("/echo?q=%22");
    connection.request("GET", "/status/404", "Cookie: SRV=s1\r\n");
    connection.request("GET", "/", "Cookie: SRV=other\r\n");
    connection.request("GET", "/", "Cookie: SRV=nobody\r\n");
    connection.request("GET", "/stall", "Cookie: SRV=s1\r\n");
    connection.request("GET", "/big/100000", "Cookie: SRV=s1\r\n");
    drop(connection);
    let log = eventually("six lines", || {
        let log = std::fs::read_to_string(director.folder().join("log")).unwrap();
        (log.lines().count() == 6).then_some(log)
    });
    let expected = [
        (" web app/s1 0/0/", " 200 ", " --NI ", "\"GET /echo?q=%22 HTTP/1.1\""),
        (" web app/s1 0/0/", " 404 2 ", " --VN ", "\"GET /status/404 HTTP/1.1\""),
        (" web app/s1 0/0/", " 200 2 ", " --II ", "\"GET / HTTP/1.1\""),
        (" web app/s1 0/0/", " 200 2 ", " --DI ", "\"GET / HTTP/1.1\""),
        (" web app/", " 504 ", " sH-- ", "\"GET /stall HTTP/1.1\""),
        (" web app/s1 0/0/", " 200 100000 ", " --VN ", "\"GET /big/100000 HTTP/1.1\""),
    ];
    for (line, (place, status, termination, request)) in log.lines().zip(expected) {
        assert!(line.starts_with("127.0.0.1:"), "{line}");
        for part in [place, status, termination, request] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

#[test]
fn a_log_can_go_to_standard_output() {
    let origin = Origin::start("s1");
    let config = simple(&[&origin], "").replace("[director]\n", "[director]\naccess-log = \"stdout\"\n");
    let mut director = Director::start(&config);
    get(director.http, "/");
    eventually("the line", || director.stdout().contains("\"GET / HTTP/1.1\"").then_some(()));
    get(director.http, "/last");
    director.signal("TERM");
    assert!(director.wait().success());
    assert!(director.stdout().contains("\"GET /last HTTP/1.1\""), "{}", director.stdout());
}

#[test]
fn requests_in_flight_are_finished_at_the_end() {
    let origin = Origin::start("s1");
    let mut director = Director::start(&simple(&[&origin], ""));
    let mut idle = Connection::open(director.http);
    idle.get("/");
    let slow = std::thread::spawn({
        let http = director.http;
        move || get(http, "/sleep/700")
    });
    eventually("it is in flight", || (director.number("s1", "/in_flight") == 1).then_some(()));
    director.signal("TERM");
    assert!(idle.is_closed());
    // One that the kernel had taken already may be reset instead.
    eventually("nobody listens", || {
        let error = std::net::TcpStream::connect(director.http).err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
    let answer = slow.join().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "s1"));
    assert_eq!(director.wait().code(), Some(0));
}

#[test]
fn the_end_is_bounded() {
    let origin = Origin::start("s1");
    let config = simple(&[&origin], "").replace("[director]\n", "[director]\ngrace = \"300ms\"\n");
    let mut director = Director::start(&config);
    let mut stalled = Connection::open(director.http);
    stalled.send("GET /stall HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is in flight", || (director.number("s1", "/in_flight") == 1).then_some(()));
    let started = Instant::now();
    director.signal("INT");
    assert_eq!(director.wait().code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(250) && started.elapsed() < Duration::from_secs(5));
}

#[test]
fn who_holds_connections_does_not_keep_others_from_the_status() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    let mut kept = Connection::open(director.status);
    assert_eq!(kept.get("/status.json").status, 200);
    let mut held: Vec<Connection> = (0..100).map(|_| Connection::open(director.status)).collect();
    for connection in &mut held {
        connection.send("GET / HTTP/1.1\r\n");
    }
    let started = Instant::now();
    assert_eq!(get(director.status, "/status.json").status, 200);
    assert!(started.elapsed() < Duration::from_secs(3), "it took {:?}", started.elapsed());
    assert!(kept.is_closed() && held[0].is_closed(), "the oldest are gone");
}

#[test]
fn what_is_not_http_does_not_disturb_the_status_page() {
    let origin = Origin::start("s1");
    let director = Director::start(&simple(&[&origin], ""));
    raw(director.status, b"\0\0\0\r\n\r\n");
    assert_eq!(get(director.status, "/status.json").status, 200);
}
