//! The program `pi-server`, as a client and an operator see it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::{PiServer, run};

const PI_SERVER: &str = env!("CARGO_BIN_EXE_pi-server");

#[test]
fn serves_the_pages_of_the_originals() {
    let server = PiServer::start(&["--threads", "1", "--max-n", "2000000"]);
    for (path, status, in_head, in_body) in [
        ("/pi.php?n=1000000", "200 ok", "content-type: text/plain", "n: 1000000\npi: 3.141593\ntime: 0."),
        (
            "/pi.php?n=1&format=json",
            "200 ok",
            "content-type: application/json",
            r#"{"n":1,"result":3.2,"seconds":"#,
        ),
        ("/index.php", "200 ok", "x-server: web1", "\nserver: web1 127.0.0.1:"),
        ("/health", "200 ok", "content-length: 3", "ok\n"),
        (
            "/pi.php?n=2000001",
            "400 bad request",
            "x-server: web1",
            "n = \"2000001\" is no number from 1 to 2000000\n",
        ),
        ("/pi.php", "400 bad request", "text/plain", "n is missing"),
        ("/favicon.ico", "404 not found", "text/plain", "/favicon.ico is not here"),
    ] {
        let (head, body) = server.get(path);
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{path}: {head}");
        assert!(head.contains(in_head), "{path}: {head}");
        assert!(body.contains(in_body), "{path}: {body}");
    }
    assert!(server.get("/pi.php?n=7").1.contains(&format!("\nserver: {}\n", server.address)));
}

#[test]
fn a_connection_serves_several_requests() {
    let server = PiServer::start(&[]);
    let answers = server.send(
        "GET /health HTTP/1.1\r\nhost: a\r\n\r\nHEAD /index.php HTTP/1.1\r\nhost: a\r\n\r\n\
         POST /pi.php?n=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody\
         GET /pi.php?n=1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    let statuses: Vec<_> = answers.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    assert_eq!(
        statuses,
        ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 405 Method Not Allowed", "HTTP/1.1 200 OK"]
    );
    assert_eq!(answers.matches("A web server behind").count(), 0, "HEAD has no body: {answers}");
    assert!(answers.ends_with(&format!("server: {}\n", server.address)), "{answers}");
}

#[test]
fn nonsense_ends_its_own_connection_only() {
    let server = PiServer::start(&["--threads", "1"]);
    for nonsense in [
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        &format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(1 << 20)),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        // The server may refuse before it has read everything: then writing, or reading, meets a reset.
        let mut answer = Vec::new();
        let _ = stream.write_all(nonsense.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200 OK"), "{answer}");
        assert_eq!(server.get("/health").1, "ok\n");
    }
}

#[test]
fn ctrl_c_waits_for_the_request_in_flight() {
    let server = PiServer::start(&["--threads", "1", "--queue", "0", "--max-n", "10000000000"]);
    // An n that takes this build on this machine about a second.
    let (_, report) = server.get("/pi.php?n=1000000&format=json");
    let report: Value = serde_json::from_str(&report).unwrap();
    let n = 1_000_000.0 / report["seconds"].as_f64().unwrap();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(format!("GET /pi.php?n={n:.0} HTTP/1.1\r\nhost: web1\r\n\r\n").as_bytes()).unwrap();
    // It is in flight, however busy the machine is, when there is no place for another.
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(50));
        if server.get("/pi.php?n=1").0.starts_with("http/1.1 503") {
            break;
        }
    }
    server.program.interrupt();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("pi: 3.141593"), "{answer:?}");
    let (status, _, errors) = server.program.end();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn ctrl_c_does_not_wait_forever() {
    let server = PiServer::start(&["--speed", "0.001"]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    // A tenth of a second at least, a thousandfold.
    stream.write_all(b"GET /pi.php?n=100000000 HTTP/1.1\r\nhost: web1\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(100));
    server.program.interrupt();
    let (status, _, errors) = server.program.end();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn what_cannot_be_is_one_sentence_and_code_1() {
    let server = PiServer::start(&[]);
    let taken = server.address.to_string();
    for (arguments, sentence) in [
        (["--listen", &taken], format!("pi-server: cannot listen on {taken} (Address already in use")),
        (["--speed", "7"], "pi-server: speed 7 is out of range; use 1 ".into()),
        (["--max-n", "0"], "pi-server: max-n = 0 is out of range; use 1 to ".into()),
        (["--threads", "0"], "pi-server: workers = 0 is out of range; use 1 to ".into()),
        (["--name", "wéb"], "pi-server: the server's name \"wéb\" has characters that".into()),
    ] {
        let output = run(PI_SERVER, &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), errors.lines().count()), (Some(1), 1), "{errors}");
        assert!(errors.starts_with(&sentence), "{errors}");
    }
}
