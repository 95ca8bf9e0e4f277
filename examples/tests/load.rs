//! The program `load`: what it counts, against servers that behave and servers that do not.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::{PiServer, Program, read_request, run, stub};

const LOAD: &str = env!("CARGO_BIN_EXE_load");
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Exit code and figures of `load URL ARGUMENTS --json`.
fn load(url: &str, arguments: &[&str]) -> (i32, Value) {
    let output = run(LOAD, &[&[url, "--json"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, "", "{url} {arguments:?}");
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn counts_every_request() {
    let server = PiServer::start(&[]);
    let (code, figures) = load(&server.url("/index.php"), &["-n", "1001", "-c", "7", "-t", "2"]);
    assert_eq!((code, &figures["requests"], &figures["failed"]), (0, &1001.into(), &0.into()), "{figures}");
    assert_eq!(
        (&figures["statuses"]["200"], &figures["connections"]),
        (&1001.into(), &7.into()),
        "{figures}"
    );
    let latency = &figures["latency_ms"];
    let order = ["p50", "p75", "p90", "p99", "p999", "max"].map(|name| latency[name].as_f64().unwrap());
    assert!(order[0] > 0.0 && order.is_sorted(), "{figures}");
    // More connections and threads than requests.
    let (code, figures) = load(&server.url("/index.php"), &["-n", "3", "-c", "100", "-t", "8"]);
    assert_eq!((code, &figures["requests"]), (0, &3.into()), "{figures}");
    assert!(
        figures["connections"].as_u64().is_some_and(|connections| (1..=3).contains(&connections)),
        "{figures}"
    );
}

#[test]
fn a_refusing_status_is_a_failure() {
    let server = PiServer::start(&[]);
    let (code, figures) = load(&server.url("/pi.php?n=0"), &["-n", "20"]);
    assert_eq!(
        (code, &figures["failed"], &figures["statuses"]["400"]),
        (1, &20.into(), &20.into()),
        "{figures}"
    );
}

#[test]
fn headers_are_sent() {
    let server = PiServer::start(&[]);
    let url = server.url("/index.php");
    let (_, text) = load(&url, &["-n", "1"]);
    let (code, json) = load(&url, &["-n", "1", "-H", "accept: application/json"]);
    assert_eq!(code, 0);
    let size = |figures: &Value| {
        (figures["bytes_per_second"].as_f64().unwrap() * figures["seconds"].as_f64().unwrap()).round()
    };
    assert!(size(&json) > size(&text), "{json} {text}");
}

#[test]
fn a_sweep_is_a_table() {
    let server = PiServer::start(&[]);
    let (code, rows) = load(&server.url("/pi.php?n=5"), &["--sweep", "1,100,20000", "-n", "30", "-c", "3"]);
    assert_eq!(code, 0, "{rows}");
    for (row, n) in rows.as_array().unwrap().iter().zip([1, 100, 20_000]) {
        assert_eq!(
            (&row["n"], &row["requests"], &row["failed"]),
            (&n.into(), &30.into(), &0.into()),
            "{row}"
        );
        assert_eq!(row["url"], server.url(&format!("/pi.php?n={n}")));
    }
    let output = run(LOAD, &[&server.url("/pi.php"), "--sweep", "10,0", "-n", "4"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let column = |number| -> Vec<_> {
        table.lines().map(|line| line.split_whitespace().nth(number).unwrap()).collect()
    };
    assert_eq!((column(0), column(2)), (vec!["n", "10", "0"], vec!["failed", "0", "4"]), "{table}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_time_ends_a_run_without_failures() {
    // A server that answers the first request and then falls silent.
    let address = stub(|stream| {
        let mut stream = BufReader::new(stream);
        if read_request(&mut stream) {
            stream.get_mut().write_all(OK).unwrap();
            thread::spawn(move || while read_request(&mut stream) {});
        }
    });
    let (code, figures) = load(&format!("http://{address}/"), &["--duration", "300ms", "-c", "3"]);
    assert_eq!((code, &figures["requests"], &figures["failed"]), (0, &3.into(), &0.into()), "{figures}");
    assert!(figures["seconds"].as_f64().unwrap() >= 0.3, "{figures}");
}

#[test]
fn a_connection_closed_within_an_answer_is_a_failure() {
    let address = stub(|stream| {
        let mut stream = BufReader::new(stream);
        if read_request(&mut stream) {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
        }
    });
    let (code, figures) = load(&format!("http://{address}/"), &["-n", "5", "-c", "1"]);
    assert_eq!(
        (code, &figures["failed"], &figures["statuses"]),
        (1, &5.into(), &Value::Object(Default::default()))
    );
    assert_eq!(
        figures["errors"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(),
        5,
        "{figures}"
    );
}

#[test]
fn a_silent_server_runs_into_the_timeout() {
    let address = stub(|stream| {
        thread::spawn(move || while read_request(&mut BufReader::new(stream.try_clone().unwrap())) {});
    });
    let (code, figures) = load(&format!("http://{address}/"), &["-n", "2", "-c", "2", "--timeout", "100ms"]);
    assert_eq!((code, &figures["errors"]["no answer within 100ms"]), (1, &2.into()), "{figures}");
}

#[test]
fn requests_that_a_stall_held_up_count_as_late() {
    // The first answer takes 400 ms, the others no time. At 100 requests a second, some forty were due meanwhile.
    let mut first = true;
    let address = stub(move |stream: TcpStream| {
        let mut stream = BufReader::new(stream);
        while read_request(&mut stream) {
            if std::mem::take(&mut first) {
                thread::sleep(Duration::from_millis(400));
            }
            stream.get_mut().write_all(OK).unwrap();
        }
    });
    let (code, figures) = load(&format!("http://{address}/"), &["-n", "40", "-c", "1", "--rate", "100"]);
    let p50 = figures["latency_ms"]["p50"].as_f64().unwrap();
    assert_eq!((code, &figures["requests"]), (0, &40.into()), "{figures}");
    // Half of the forty were due in the first 200 ms of the stall, and so were late by 200 ms or more.
    assert!(p50 >= 190.0, "{figures}");
}

#[test]
fn ctrl_c_tells_what_was_measured() {
    let server = PiServer::start(&[]);
    let program =
        Program::start(LOAD, &[&server.url("/index.php"), "-d", "10m", "--json", "-c", "2", "-r", "200"]);
    thread::sleep(Duration::from_millis(700));
    program.interrupt();
    let (status, output, errors) = program.end();
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
    let figures: Value = serde_json::from_str(&output).unwrap();
    assert!(figures["requests"].as_u64().unwrap() > 0, "{figures}");
    assert!(figures["seconds"].as_f64().unwrap() < 60.0, "{figures}");
}

#[test]
fn what_cannot_be_is_one_sentence_and_code_1() {
    // A port that was free a moment ago, and that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}/");
    for (arguments, sentence) in [
        (vec![nobody.as_str()], format!("load: cannot connect to {free} (Connection refused")),
        (
            vec!["https://127.0.0.1/"],
            "load: \"https://127.0.0.1/\" is not plain HTTP; write http://HOST:PORT/PATH".into(),
        ),
        (vec!["127.0.0.1"], "load: \"127.0.0.1\" is not plain HTTP".into()),
        (vec!["http://[/"], "load: \"http://[/\" is no URL".into()),
        (vec![&nobody, "--rate", "0"], "load: --rate 0 is no number of requests a second".into()),
        (vec![&nobody, "-H", "nonsense"], "load: \"nonsense\" is no header".into()),
    ] {
        let output = run(LOAD, &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), errors.lines().count(), output.stdout.len()),
            (Some(1), 1, 0),
            "{errors}"
        );
        assert!(errors.starts_with(&sentence), "{errors}");
    }
}
