//! QEMUs that misbehave: what the client says of them.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![cfg(feature = "qemu")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use lb_virt::qemu::qmp::{Qmp, QmpError};
use serde_json::{Value, json};

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 9, "major": 42}, "package": ""}, "capabilities": [], "new": 1}}"#;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server does after it was asked something.
type Answer = fn(&mut UnixStream, id: u64);

/// A server that greets, agrees, and answers everything else as it is told to.
fn against(answer: Answer) -> Qmp {
    let (client, server) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut lines = BufReader::new(server.try_clone().unwrap()).lines();
        let mut server = server;
        writeln!(server, "{GREETING}\r").unwrap();
        while let Some(Ok(line)) = lines.next() {
            let command: Value = serde_json::from_str(&line).unwrap();
            let id = command["id"].as_u64().unwrap();
            if command["execute"] == "qmp_capabilities" {
                writeln!(server, "{}", json!({"return": {}, "id": id})).unwrap();
            } else {
                answer(&mut server, id);
            }
        }
    });
    Qmp::over(client, PATIENCE).unwrap()
}

fn ask(qmp: &mut Qmp) -> Result<Value, QmpError> {
    qmp.execute("query-status", json!({}), PATIENCE)
}

fn say(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

fn event(stream: &mut UnixStream, name: &str) {
    say(
        stream,
        &format!(
            "{{\"event\": \"{name}\", \"timestamp\": {{\"seconds\": -1}}, \"data\": {{\"new\": []}}}}\r\n"
        ),
    );
}

#[test]
fn what_is_new_and_what_comes_between_does_no_harm() {
    let mut qmp = against(|stream, id| {
        event(stream, "STOP");
        say(stream, "\r\n  \n{\"greeting from\": \"the future\"}\n");
        // An answer to somebody else, and one that comes in pieces.
        say(stream, "{\"return\": 1, \"id\": 4711}\n{\"return\": {\"status\": \"never heard");
        sleep(Duration::from_millis(50));
        say(stream, &format!(" of\"}}, \"id\": {id}}}\r"));
        sleep(Duration::from_millis(50));
        say(stream, "\n");
        event(stream, "RESUME");
    });
    assert_eq!(qmp.version(), "QEMU 42.9.0");
    assert_eq!(ask(&mut qmp).unwrap()["status"], "never heard of");
    let names: Vec<String> = (0..2).map(|_| qmp.next_event(PATIENCE).unwrap().unwrap().name).collect();
    assert_eq!(names, ["STOP", "RESUME"], "in their order");
    assert!(qmp.next_event(Duration::ZERO).unwrap().is_none());
}

#[test]
fn a_refusal_has_its_words() {
    let mut qmp = against(|stream, id| {
        let error = json!({"class": "ClassOfTomorrow", "desc": "I'd rather not"});
        say(stream, &format!("{}\n", json!({"error": error, "id": id})));
    });
    for _ in 0..2 {
        let error = ask(&mut qmp).unwrap_err();
        assert!(matches!(&error, QmpError::Refused { class, .. } if class == "ClassOfTomorrow"), "{error:?}");
        assert_eq!(error.to_string(), "I'd rather not");
    }
}

#[test]
fn garbage_half_lines_and_silence_are_told_apart() {
    let error = ask(&mut against(|stream, _| say(stream, "Segmentation fault\n"))).unwrap_err();
    assert!(error.to_string().contains("\"Segmentation fault\""), "{error}");

    let error = ask(&mut against(|stream, _| {
        say(stream, "{\"return\": {\"status\"");
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }))
    .unwrap_err();
    assert!(error.to_string().contains("in the middle of a message"), "{error}");

    let error =
        ask(&mut against(|stream, _| stream.shutdown(std::net::Shutdown::Both).unwrap())).unwrap_err();
    assert!(matches!(error, QmpError::Closed { half: false }), "{error:?}");

    let error = ask(&mut against(|stream, _| {
        let filler = vec![b'x'; 1 << 20];
        // The client hangs up before it has it all.
        while stream.write_all(&filler).is_ok() {}
    }))
    .unwrap_err();
    assert!(matches!(error, QmpError::TooLong { .. }), "{error:?}");
}

#[test]
fn who_was_given_up_may_answer_later_without_harm() {
    let mut qmp = against(|stream, id| {
        if id == 2 {
            sleep(Duration::from_millis(300));
        }
        say(stream, &format!("{{\"return\": {id}, \"id\": {id}}}\n"));
    });
    let error = qmp.execute("query-status", json!({}), Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, QmpError::Timeout { after } if after == Duration::from_millis(50)), "{error:?}");
    assert_eq!(ask(&mut qmp).unwrap(), 3, "and not 2, which comes first");
}

#[test]
fn ten_megabytes_are_taken() {
    let mut qmp = against(|stream, id| {
        let long = "0123456789".repeat(1_000_000);
        say(stream, &format!("{{\"return\": \"{long}\", \"id\": {id}}}\n"));
    });
    assert_eq!(ask(&mut qmp).unwrap().as_str().unwrap().len(), 10_000_000);
}

#[test]
fn nobody_is_waited_for_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp.sock");
    let timeout = Duration::from_millis(50);
    let error = Qmp::connect(&path, timeout).unwrap_err();
    assert!(matches!(error, QmpError::Io(_)), "{error:?}");
    // It listens, and takes no one: the first waits for its greeting, others for a place in the queue.
    let _listener = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let error = Qmp::connect(&path, Duration::from_millis(2)).unwrap_err();
        assert!(matches!(error, QmpError::Timeout { .. }), "{error:?}");
        // Those that were given up still stand in the queue.
        waiting.push(error);
    }
    assert!(begun.elapsed() < PATIENCE, "each waited no longer than it was told");
}
