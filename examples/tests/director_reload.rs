//! SIGHUP: a changed configuration is taken whole or not at all, and no connection notices.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::net::{TcpListener, TcpStream};

use director::client::{Connection, get};
use director::{Director, Origin, eventually, free, simple};

#[test]
fn connections_and_counters_go_on_under_the_next_configuration() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let director = Director::start(&simple(&[&a], ""));
    let mut connection = Connection::open(director.http);
    for _ in 0..3 {
        assert_eq!(connection.get("/").body, "a");
    }
    let slow = std::thread::spawn({
        let http = director.http;
        move || get(http, "/sleep/700").body
    });
    eventually("it is in flight", || (director.number("a", "/in_flight") == 1).then_some(()));
    let second = free();
    let config = simple(&[&b, &a], "algorithm = \"rr\"\n")
        .replace("listen = \"@http\"", &format!("listen = [\"@http\", \"{second}\"]"));
    director.configure(&config.replace("name = \"a\"\n", "name = \"a\"\nweight = 0\n"));
    let said = director.reload();
    assert!(said.contains("is reloaded"), "{said}");
    assert_eq!(connection.get("/").body, "b", "the old connection follows the new configuration");
    assert_eq!(get(second, "/").body, "b");
    assert_eq!((director.number("a", "/in_flight"), director.number("a", "/requests")), (1, 4));
    assert_eq!(slow.join().unwrap(), "a", "what was in flight goes on");
    assert_eq!(director.number("a", "/in_flight"), 0);
    assert!(director.number("web", "/requests") >= 6, "counters survive");
    // And back: the second address is closed again, the first one never was.
    director.configure(&simple(&[&a], ""));
    assert!(director.reload().contains("is reloaded"));
    assert_eq!(connection.get("/").body, "a");
    eventually("the second address is closed", || TcpStream::connect(second).err());
    assert_eq!(director.number("a", "/requests"), 5);
}

#[test]
fn what_the_operator_wants_survives_a_reload() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let config = simple(&[&a, &b], "");
    let director = Director::start(&config);
    assert!(director.reload().ends_with("director.toml is reloaded\n"));
    director.act("/backends/app/servers/a/drain");
    director.act("/backends/app/servers/b/weight?value=9");
    let kept =
        |said: &str| said.contains("is reloaded; kept as the operator wants it: app/a drain, app/b weight 9");
    // Also under another algorithm, and when the file says something new of another server.
    for next in [
        config.clone(),
        config.replace("name = \"app\"\n", "name = \"app\"\nalgorithm = \"wlc\"\n"),
        config.replace("name = \"a\"\n", "name = \"a\"\nweight = 7\n"),
    ] {
        director.configure(&next);
        let said = director.reload();
        assert!(kept(&said), "{said}");
        assert_eq!((&director.named("a")["admin"], director.number("b", "/weight")), (&"drain".into(), 9));
    }
    director.configure(&config.replace("name = \"b\"\n", "name = \"b\"\nweight = 5\n"));
    let said = director.reload();
    assert!(said.contains("kept as the operator wants it: app/a drain\n"), "{said}");
    assert_eq!(director.number("b", "/weight"), 5, "the newer word is the file's");
}

#[test]
fn an_address_stays_open_when_its_frontend_is_renamed() {
    let a = Origin::start("a");
    let director = Director::start(&simple(&[&a], ""));
    let mut connection = Connection::open(director.http);
    assert_eq!(connection.get("/").body, "a");
    director.configure(&simple(&[&a], "").replace("name = \"web\"", "name = \"front\""));
    let said = director.reload();
    assert!(said.contains("is reloaded"), "{said}");
    assert_eq!((connection.get("/").body.as_str(), get(director.http, "/").body.as_str()), ("a", "a"));
    assert_eq!(director.number("front", "/requests"), 1);
}

#[test]
fn what_cannot_be_taken_whole_is_not_taken() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let good = simple(&[&a], "");
    let director = Director::start(&good);
    let mut connection = Connection::open(director.http);
    assert_eq!(connection.get("/").body, "a");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let next = simple(&[&b], "");
    for (config, why) in [
        (
            next.replace("workers = 2", "workrs = 2"),
            "unknown key `workrs` in [director], did you mean `workers`?",
        ),
        (
            next.replace("listen = \"@http\"", &format!("listen = [\"@http\", \"{taken}\"]")),
            "is in use by another program",
        ),
        (next.replace("workers = 2", "workers = 3"), "`workers` is 2 and cannot become 3"),
        (
            next.replace("[director]\n", "[director]\naccess-log = \"/no/such/folder/log\"\n"),
            "access log /no/such/folder/log",
        ),
    ] {
        director.configure(&config);
        let said = director.reload();
        assert!(said.contains("not reloaded, going on as before") && said.contains(why), "{said}");
        assert_eq!((connection.get("/").body.as_str(), get(director.http, "/").body.as_str()), ("a", "a"));
    }
    director.configure(&next);
    assert!(director.reload().contains("is reloaded"));
    assert_eq!(connection.get("/").body, "b");
}

#[test]
fn no_request_is_lost_over_many_reloads() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let director = Director::start(&simple(&[&a, &b], ""));
    let other = free();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let (stop, http) = (&stop, director.http);
                scope.spawn(move || {
                    let mut kept = Connection::open(http);
                    let mut count = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        // Some on old connections, some on new ones.
                        let answer = if number % 2 == 0 { kept.get("/") } else { get(http, "/") };
                        assert_eq!(answer.status, 200);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for round in 0..10 {
            let servers: &[&Origin] = if round % 2 == 0 { &[&a] } else { &[&b, &a] };
            let listen = format!("listen = [\"@http\", \"{other}\"]");
            let config = simple(servers, "");
            director.configure(&if round % 3 == 0 {
                config.replace("listen = \"@http\"", &listen)
            } else {
                config
            });
            assert!(director.reload().contains("is reloaded"));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let counts: Vec<u64> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(counts.iter().all(|&count| count > 10), "{counts:?}");
    });
}

#[test]
fn a_rotated_log_is_opened_again() {
    let a = Origin::start("a");
    let config = simple(&[&a], "").replace("[director]\n", "[director]\naccess-log = \"@folder/log\"\n");
    let director = Director::start(&config);
    let (log, old) = (director.folder().join("log"), director.folder().join("log.1"));
    get(director.http, "/one");
    eventually("a line", || std::fs::read_to_string(&log).unwrap().contains("/one").then_some(()));
    std::fs::rename(&log, &old).unwrap();
    director.reload();
    get(director.http, "/two");
    eventually("a line", || std::fs::read_to_string(&log).unwrap().contains("/two").then_some(()));
    assert!(!std::fs::read_to_string(&old).unwrap().contains("/two"));
}
