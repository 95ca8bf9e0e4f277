//! Servers that die, stall or fill up: retried elsewhere, timed out, queued, taken out and back in.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::time::{Duration, Instant};

use director::client::{Connection, get};
use director::origin::saying;
use director::{Director, Origin, connect, eventually, free, log, logged, send, simple};

/// A fast check, so that a test sees its work.
const CHECK: &str = "check = { type = \"http\", path = \"/health\", interval = \"100ms\", fastinter = \"50ms\", fall = 2, rise = 2 }\n";

#[test]
fn a_dead_server_costs_no_idempotent_request() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let director = Director::start(&simple(&[&a, &b], ""));
    let mut connection = Connection::open(director.http);
    for _ in 0..4 {
        assert_eq!(connection.get("/").status, 200);
    }
    a.kill();
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "GET", "GET"] {
        let answer = connection.request(method, "/", "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "b"), "{method}");
    }
    assert!(director.number("a", "/redispatches") >= 1);
    assert!(director.number("a", "/connect_errors") >= 1);
    // It was not sent anything, so a POST may go elsewhere too.
    for _ in 0..4 {
        connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        assert!(connection.response("POST").body.ends_with("hello"));
    }
}

#[test]
fn a_server_that_breaks_off_is_replaced_where_that_is_safe() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let director = Director::start(&simple(&[&a, &b], "retries = 1\n"));
    // Both close without an answer: after one retry the client hears of it.
    let answer = get(director.http, "/close");
    assert_eq!((answer.status, a.requests() + b.requests()), (502, 2));
    // So may a small PUT, but not a large one.
    for (length, attempts) in [(5, 2), (100_000, 1)] {
        let before = a.requests() + b.requests();
        let mut connection = Connection::open(director.http);
        let head = format!("PUT /close HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        connection.send(&(head + &"x".repeat(length)));
        let answer = connection.response("PUT");
        assert_eq!((answer.status, a.requests() + b.requests() - before), (502, attempts), "{length}");
    }
    let before = a.requests() + b.requests();
    // A POST that a server may have acted on is not sent twice.
    let mut connection = Connection::open(director.http);
    connection.send("POST /close HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((connection.response("POST").status, a.requests() + b.requests() - before), (502, 1));
    // An answer that breaks off cannot be taken back: the client sees that it is not whole.
    let mut connection = Connection::open(director.http);
    connection.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.try_response("GET").is_none());
}

#[test]
fn a_reset_connection_is_retried_elsewhere() {
    // Accepts and closes at once, as a crashing server does.
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = trap.local_addr().unwrap();
    std::thread::spawn(move || trap.incoming().for_each(drop));
    let b = Origin::start("b");
    let config =
        simple(&[&b], "") + &format!("[[backend.server]]\nname = \"trap\"\naddress = \"{address}\"\n");
    let director = Director::start(&config);
    let mut connection = Connection::open(director.http);
    for _ in 0..10 {
        assert_eq!(connection.get("/").body, "b");
    }
    assert!(director.number("trap", "/failures") >= 4);
}

#[test]
fn without_redispatch_the_same_server_is_tried_again() {
    let mut a = Origin::start("a");
    let config = simple(&[&a], "redispatch = false\nretries = 5\n[backend.timeouts]\nconnect = \"100ms\"\n");
    let director = Director::start(&config);
    a.kill();
    let client = std::thread::spawn({
        let http = director.http;
        move || get(http, "/")
    });
    eventually("a retry", || (director.number("a", "/retries") >= 1).then_some(()));
    a.restart();
    assert_eq!(client.join().unwrap().body, "a");
}

#[test]
fn nobody_there_is_said_at_once() {
    let mut a = Origin::start("a");
    let director = Director::start(&simple(&[&a], CHECK));
    assert_eq!(get(director.http, "/").status, 200);
    a.kill();
    eventually("down", || (director.named("a")["health"]["state"] == "down").then_some(()));
    let started = Instant::now();
    let answer = get(director.http, "/");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, "No server is available to answer this request.\n")
    );
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(director.status()["backends"][0]["unavailable"], 1);
}

#[test]
fn stalls_end_in_504_and_in_a_counter_of_their_own() {
    let a = Origin::start("a");
    let config = simple(&[&a], "[backend.timeouts]\nserver = \"700ms\"\nconnect = \"200ms\"\n");
    let director = Director::start(&config);
    let started = Instant::now();
    assert_eq!(get(director.http, "/stall").status, 504);
    assert!(started.elapsed() >= Duration::from_millis(650));
    assert_eq!(director.number("web", "/timeouts/server"), 1);
    // Within the answer there is no other way to say it than to break off.
    let mut connection = Connection::open(director.http);
    connection.send("GET /drip HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.try_response("GET").is_none());
    assert_eq!(director.number("web", "/timeouts/server"), 2);
    // A slow answer that keeps coming, and a slow client between requests, are nobody's stall.
    assert_eq!(get(director.http, "/sleep/100").status, 200);
    assert_eq!(director.number("a", "/in_flight"), 0);
}

#[test]
fn a_server_that_does_not_accept_is_given_up() {
    // A backlog of one that is full: the kernel drops further connections, as a dead host does.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _fillers: Vec<_> = (0..3)
        .map(|_| {
            let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address.into());
            filler
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    let more = format!(
        "retries = 0\n[backend.timeouts]\nconnect = \"200ms\"\n[[backend.server]]\nname = \"deaf\"\naddress = \"{address}\"\n"
    );
    let director = Director::start(&simple(&[], &more));
    let answer = get(director.http, "/");
    assert_eq!((answer.status, answer.body.as_str()), (503, "No server accepted a connection in time.\n"));
    assert_eq!(director.number("web", "/timeouts/connect"), 1);
    assert_eq!(director.number("deaf", "/connect_errors"), 1);
}

#[test]
fn an_answer_that_cannot_be_passed_on_is_a_502_that_names_its_server() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: ";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: ";
    let switch = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: ";
    for (answer, upgrade, sentence, notice) in [
        ("\0garbage\r\n\r\n".to_owned(), "", "was not HTTP", "what is not HTTP"),
        ("hello".to_owned() + "\r\n\r\n", "", "was not HTTP", "what is not HTTP"),
        (format!("{head}abc\r\n\r\nok"), "", "was not HTTP", "what is not HTTP"),
        (format!("{head}2\r\n{}\r\nok", "X: a\r\n".repeat(150)), "", "too large", "bytes or lines"),
        (format!("{head}2\r\nX: {}\r\n\r\nok", "a".repeat(1_000_000)), "", "too large", "bytes or lines"),
        (
            format!("{head}1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            "",
            "malformed",
            "both Content-Length and Transfer-Encoding",
        ),
        (format!("{head}2, 2\r\n\r\nok"), "", "malformed", "a Content-Length that is no number"),
        (
            format!("{chunked}gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            "",
            "malformed",
            "a Transfer-Encoding other than chunked",
        ),
        (format!("{switch}foo\r\n\r\n"), "", "malformed", "a protocol that was not asked for"),
        (format!("{switch}foo\r\n\r\n"), "bar", "malformed", "a protocol that was not asked for"),
    ] {
        let config = "retries = 0\n[[backend.server]]\nname = \"evil\"\naddress = \"@evil\"\n"
            .replace("@evil", &saying(answer.as_str()).to_string());
        let director = Director::start(&logged(&simple(&[], &config)));
        let fields = match upgrade {
            "" => String::new(),
            protocol => format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n"),
        };
        let got = Connection::open(director.http).request("GET", "/", &fields);
        assert!((got.status, got.body.contains(sentence)) == (502, true), "{answer:.99?}: {}", got.body);
        assert_eq!(director.number("evil", "/failures"), 1, "{answer:.99?}");
        let said = director.stderr();
        assert!(said.contains("server app/evil (") && said.contains(notice), "{answer:.99?}: {said}");
        let line = eventually("its line", || Some(log(&director)).filter(|log| !log.is_empty()));
        assert!(line.contains(" web app/evil 0/0/") && line.contains(" 502 "), "{line}");
        assert!(line.contains(" PH-- "), "{line}");
    }
}

#[test]
fn a_failure_is_logged_with_the_server_that_was_tried() {
    let a = Origin::start("a");
    let timeouts = "[timeouts]\nclient = \"200ms\"\nserver = \"400ms\"\n";
    let config = logged(&simple(&[&a], "retries = 0\n"));
    let director = Director::start(&format!("{timeouts}{config}"));
    assert_eq!(get(director.http, "/close").status, 502);
    assert_eq!(get(director.http, "/stall").status, 504);
    let mut connection = Connection::open(director.http);
    connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
    assert_eq!(connection.response("POST").status, 408);
    let log = eventually("the log", || Some(log(&director)).filter(|log| log.lines().count() == 3));
    for (line, status) in log.lines().zip([" 502 ", " 504 ", " 408 "]) {
        assert!(line.contains(" web app/a 0/0/") && line.contains(status), "{log}");
    }
    // One line a second at most.
    assert!(director.stderr().contains("server app/a ("), "{}", director.stderr());
}

#[test]
fn full_servers_queue_and_a_full_queue_refuses() {
    let a = Origin::start("a");
    let config = simple(&[&a], "queue = 2\n[backend.timeouts]\nqueue = \"5s\"\n") + "maxconn = 1\n";
    let director = Director::start(&config);
    let ask = |target: &'static str| {
        let http = director.http;
        std::thread::spawn(move || get(http, target).status)
    };
    let first = ask("/sleep/600");
    eventually("it is busy", || (director.number("a", "/in_flight") == 1).then_some(()));
    let waiting = [ask("/"), ask("/")];
    eventually("two wait", || (director.status()["backends"][0]["queued"] == 2).then_some(()));
    assert_eq!(director.number("web", "/queued"), 2);
    let answer = get(director.http, "/");
    assert_eq!(
        (answer.status, answer.body.contains("too many requests wait")),
        (503, true),
        "{}",
        answer.body
    );
    assert_eq!(first.join().unwrap(), 200);
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), 200);
    }
    assert_eq!(director.status()["backends"][0]["queued"], 0);
}

#[test]
fn waiting_in_the_queue_ends() {
    let a = Origin::start("a");
    let config = simple(&[&a], "[backend.timeouts]\nqueue = \"200ms\"\n") + "maxconn = 1\n";
    let director = Director::start(&config);
    let busy = std::thread::spawn({
        let http = director.http;
        move || get(http, "/sleep/800").status
    });
    eventually("it is busy", || (director.number("a", "/in_flight") == 1).then_some(()));
    let answer = get(director.http, "/");
    assert_eq!((answer.status, answer.body.contains("none became free")), (503, true), "{}", answer.body);
    assert_eq!(director.number("web", "/timeouts/queue"), 1);
    // One that goes away leaves its place.
    let mut gone = connect(director.http);
    send(&mut gone, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(gone);
    eventually("nobody waits", || (director.status()["backends"][0]["queued"] == 0).then_some(()));
    assert_eq!(busy.join().unwrap(), 200);
}

#[test]
fn a_server_goes_down_and_comes_back_through_slow_start() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let config = simple(&[&a, &b], &format!("slow-start = \"2s\"\n{CHECK}"))
        .replace("name = \"a\"\n", "name = \"a\"\nweight = 100\n")
        .replace("name = \"b\"\n", "name = \"b\"\nweight = 100\n");
    let director = Director::start(&config);
    a.kill();
    let started = Instant::now();
    let down = eventually("down", || Some(director.named("a")).filter(|a| a["health"]["state"] == "down"));
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!((&down["effective_weight"], &down["health"]["last_check"]["ok"]), (&0.into(), &false.into()));
    a.restart();
    let starting =
        eventually("starting", || Some(director.named("a")).filter(|a| a["slow_start"].is_number()));
    let weight = starting["effective_weight"].as_u64().unwrap();
    assert!((1..100).contains(&weight), "{starting}");
    eventually("its full weight", || (director.number("a", "/effective_weight") == 100).then_some(()));
    let history = director.named("a")["health"]["history"].clone();
    let states: Vec<_> = history.as_array().unwrap().iter().map(|change| change["to"].clone()).collect();
    assert_eq!(states, ["down", "up"]);
    assert!(director.stderr().contains("server app/a is down"), "{}", director.stderr());
}

#[test]
fn a_failed_request_brings_the_next_check_forward() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let check = "check = { interval = \"60s\", fastinter = \"50ms\" }\n";
    let director = Director::start(&simple(&[&a, &b], check));
    eventually("its first check", || director.named("a")["health"]["last_check"].is_object().then_some(()));
    a.kill();
    for _ in 0..4 {
        assert_eq!(get(director.http, "/").body, "b");
    }
    eventually("down", || (director.named("a")["health"]["state"] == "down").then_some(()));
}

#[test]
fn what_clients_do_wrong_is_not_held_against_servers() {
    let a = Origin::start("a");
    let outlier = "outlier = { consecutive = 2 }\n";
    let config = format!("[timeouts]\nclient = \"200ms\"\n{}", simple(&[&a], outlier));
    let director = Director::start(&config);
    for _ in 0..3 {
        let mut connection = Connection::open(director.http);
        connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n");
        assert_eq!(connection.response("POST").status, 400);
        let mut connection = Connection::open(director.http);
        connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
        assert_eq!(connection.response("POST").status, 408);
    }
    assert_eq!((director.number("a", "/failures"), director.number("a", "/cancelled")), (0, 6));
    assert_eq!(get(director.http, "/").status, 200);
}

#[test]
fn bad_answers_take_a_server_out_for_a_while() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let outlier = "outlier = { consecutive = 3, interval = \"200ms\", ejection = \"700ms\" }\n";
    let director = Director::start(&simple(&[&a, &b], outlier));
    a.set_broken(true);
    let mut connection = Connection::open(director.http);
    for _ in 0..6 {
        connection.get("/");
    }
    eventually("its ejection", || (director.named("a")["health"]["state"] == "ejected").then_some(()));
    for _ in 0..6 {
        assert_eq!(connection.get("/").body, "b");
    }
    a.set_broken(false);
    eventually("its return", || (director.named("a")["health"]["state"] != "ejected").then_some(()));
    let answers: Vec<_> = (0..4).map(|_| connection.get("/").body).collect();
    assert!(answers.contains(&"a".to_owned()), "{answers:?}");
}

#[test]
fn backups_serve_when_no_other_does_and_the_fallback_last_of_all() {
    let (mut main, mut backup, fallback) =
        (Origin::start("main"), Origin::start("backup"), Origin::start("fallback"));
    let config = simple(&[&main, &backup, &fallback], CHECK)
        .replace("name = \"backup\"\n", "name = \"backup\"\nrole = \"backup\"\n")
        .replace("name = \"fallback\"\n", "name = \"fallback\"\nrole = \"fallback\"\n");
    let director = Director::start(&config);
    let serves = |name: &str| {
        eventually(name, || {
            let answer = get(director.http, "/");
            (answer.body == name).then_some(())
        });
    };
    for _ in 0..3 {
        assert_eq!(get(director.http, "/").body, "main");
    }
    main.kill();
    serves("backup");
    backup.kill();
    serves("fallback");
    main.restart();
    serves("main");
    assert_eq!(director.named("fallback")["health"]["state"], "unchecked");
}

#[test]
fn checks_come_in_three_kinds() {
    let (a, mut b) = (Origin::start("a"), Origin::start("b"));
    for (check, reason) in [
        ("{ type = \"tcp\", interval = \"100ms\" }", "cannot connect"),
        ("{ type = \"http\", path = \"/\", text = \"a\", interval = \"100ms\" }", ""),
        ("{ type = \"command\", command = [\"sh\", \"-c\", \"exit 3\"], interval = \"100ms\" }", "3"),
    ] {
        if check.contains("tcp") {
            b.kill();
        } else if b.requests() == 0 {
            b.restart();
        }
        let director = Director::start(&simple(&[&a, &b], &format!("check = {check}\n")));
        let down =
            eventually("down", || Some(director.named("b")).filter(|b| b["health"]["state"] == "down"));
        let said = down["health"]["last_check"]["result"].as_str().unwrap().to_owned();
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn connections_to_a_server_that_goes_down_are_cut_or_not_as_configured() {
    for (on_down, expected) in [("quiesce", 200), ("remove", 502)] {
        let a = Origin::start("a");
        let marker = std::env::temp_dir().join(format!("director-alive-{}-{on_down}", std::process::id()));
        std::fs::write(&marker, "").unwrap();
        let check = format!(
            "on-down = \"{on_down}\"\nretries = 0\ncheck = {{ type = \"command\", command = [\"test\", \"-e\", \"{}\"], interval = \"100ms\" }}\n",
            marker.display()
        );
        let director = Director::start(&simple(&[&a], &check));
        let slow = std::thread::spawn({
            let http = director.http;
            move || get(http, "/sleep/1500").status
        });
        eventually("it is in flight", || (director.number("a", "/in_flight") == 1).then_some(()));
        std::fs::remove_file(&marker).unwrap();
        eventually("down", || (director.named("a")["health"]["state"] == "down").then_some(()));
        assert_eq!(slow.join().unwrap(), expected, "{on_down}");
    }
}

#[test]
fn an_address_where_nobody_listens_is_no_reason_to_wait() {
    let b = Origin::start("b");
    let config =
        simple(&[&b], "") + &format!("[[backend.server]]\nname = \"nobody\"\naddress = \"{}\"\n", free());
    let director = Director::start(&config);
    for _ in 0..6 {
        assert_eq!(get(director.http, "/").body, "b");
    }
}
