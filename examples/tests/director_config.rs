//! The command line and the configuration: what is wrong is said in one sentence with its place and its cure.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::process::{Command, Output, Stdio};

use director::{Director, Origin, folder, free, simple};

fn director(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_director")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Checks a configuration; gives whether it is valid and what was said, without the file's name.
fn check(text: &str) -> (bool, String) {
    let folder = folder();
    let file = folder.join("test.toml");
    std::fs::write(&file, text).unwrap();
    let output = director(&["check", file.to_str().unwrap()]);
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said.replace(file.to_str().unwrap(), "FILE"))
}

const GOOD: &str = r#"[[frontend]]
name = "web"
listen = "127.0.0.1:8080"
backend = "app"

[[backend]]
name = "app"
algorithm = "wlc"
[[backend.server]]
name = "a"
address = "127.0.0.1:8081"
"#;

#[test]
fn the_sample_is_valid_and_complete() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/director.toml");
    for arguments in [&["check", sample][..], &["--config", sample, "--check"]] {
        let output = director(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.ends_with("is valid: 2 frontends, 2 backends, 6 servers\n"), "{said}");
    }
    // Every key that a table accepts is in the sample: an unknown one lists them all.
    let text = std::fs::read_to_string(sample).unwrap();
    for (table, place) in [
        ("the top level", "zzz = 1\n"),
        ("[director]", "[director]\nzzz = 1\n"),
        ("[affinity]", "[affinity]\nzzz = 1\n"),
        ("[timeouts]", "[timeouts]\nzzz = 1\n"),
        ("[status]", "[status]\nlisten = \"127.0.0.1:1\"\nzzz = 1\n"),
        ("frontend web", "zzz = 1"),
        ("backend app", "zzz = 1"),
    ] {
        let config = match table {
            "frontend web" => GOOD.replace("backend = \"app\"", "backend = \"app\"\nzzz = 1"),
            "backend app" => GOOD.replace("algorithm = \"wlc\"", "zzz = 1"),
            _ => format!("{place}{GOOD}"),
        };
        let (valid, said) = check(&config);
        assert!(!valid && said.contains("unknown key `zzz`") && said.contains(table), "{said}");
        let accepted = said.trim().rsplit("accepted: ").next().unwrap();
        for key in accepted.split(", ") {
            assert!(text.contains(key), "the sample lacks {key} of {table}");
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place_its_value_and_what_would_do() {
    assert_eq!(check(GOOD), (true, "FILE is valid: 1 frontend, 1 backend, 1 server\n".to_owned()));
    // Two families, and two ports, are no conflict.
    for other in ["[::]:8080", "0.0.0.0:8081"] {
        let (valid, said) = check(&format!("{GOOD}[status]\nlisten = \"{other}\"\n"));
        assert!(valid, "{said}");
    }
    for (was, is, expected) in [
        (
            "algorithm",
            "algoritm",
            "FILE:8: unknown key `algoritm` in backend app, did you mean `algorithm`?; accepted: ",
        ),
        (
            "\"wlc\"",
            "\"wcl\"",
            "FILE:8: algorithm = \"wcl\" in backend app is not accepted, did you mean `wlc`?; accepted: rr, ",
        ),
        (
            "[[frontend]]",
            "[affinity]\nstrategy = \"balanced-out\"\n[[frontend]]",
            "FILE:2: strategy = \"balanced-out\" in [affinity] is not accepted",
        ),
        ("\"wlc\"", "7", "FILE:8: algorithm = 7 in backend app is not accepted; accepted: a string"),
        (
            "backend = \"app\"",
            "backend = \"ap\"",
            "FILE:4: backend = \"ap\" in frontend web is not accepted, did you mean `app`?; accepted: a backend: app",
        ),
        ("backend = \"app\"\n", "", "FILE:1: frontend web needs the key `backend`"),
        (
            "\"127.0.0.1:8081\"",
            "\"localhost\"",
            "FILE:11: address = \"localhost\" in server a is not accepted; accepted: an address and a port",
        ),
        (
            "name = \"a\"",
            "name = \"a b\"",
            "FILE:10: name = \"a b\" in [[backend.server]] is not accepted; accepted: a name of 1 to 64",
        ),
        (
            "name = \"a\"",
            "name = \"a\"\nweight = 70000",
            "FILE:11: weight = 70000 in server a is not accepted; accepted: a whole number, 0 to 65535",
        ),
        (
            "name = \"a\"",
            "name = \"a\"\nrole = \"bakcup\"",
            "FILE:11: role = \"bakcup\" in server a is not accepted, did you mean `backup`?; accepted: main, backup, fallback",
        ),
        (
            "algorithm = \"wlc\"",
            "timeouts = { connect = \"5\" }",
            "FILE:8: connect = \"5\" in timeouts of backend app is not accepted; accepted: a time with a unit",
        ),
        (
            "algorithm = \"wlc\"",
            "timeouts = { conect = \"5s\" }",
            "unknown key `conect` in timeouts of backend app, did you mean `connect`?",
        ),
        (
            "algorithm = \"wlc\"",
            "check = { type = \"htp\" }",
            "type = \"htp\" in check of backend app is not accepted, did you mean `http`?; accepted: tcp, http, command",
        ),
        (
            "algorithm = \"wlc\"",
            "check = { type = \"command\" }",
            "check of backend app needs the key `command`",
        ),
        ("algorithm = \"wlc\"", "check = { rise = 0 }", "rise = 0 in check of backend app"),
        ("algorithm = \"wlc\"", "check = { type = \"http\", status = \"2-3\" }", "status = \"2-3\""),
        (
            "algorithm = \"wlc\"",
            "persistence = { type = \"cookie\", name = \"a b\" }",
            "name = \"a b\" in persistence of backend app",
        ),
        (
            "algorithm = \"wlc\"",
            "mode = \"tcp\"",
            "FILE:4: backend = \"app\" in frontend web is not accepted; accepted: a backend of the same mode, http\n",
        ),
        (
            "algorithm = \"wlc\"",
            "check = true",
            "FILE:8: check = true in backend app is not accepted; accepted: a table, [backend.check]\n",
        ),
        (
            "\"127.0.0.1:8081\"",
            "\"127.0.0.1:0\"",
            "FILE:11: address = \"127.0.0.1:0\" in server a is not accepted; accepted: an address and a port from 1 to",
        ),
        (
            "\"127.0.0.1:8081\"",
            "\"127.0.0.1:80\"\ncheck-address = \"127.0.0.1:0\"",
            "FILE:12: check-address = \"127.0.0.1:0\" in server a is not accepted",
        ),
        (
            "\"127.0.0.1:8080\"",
            "[\"127.0.0.1:8080\", \"127.0.0.1:8080\"]",
            "nothing else listens on: frontend web, line 3, has 127.0.0.1:8080 already",
        ),
        (
            "[[backend]]",
            "[status]\nlisten = \"0.0.0.0:8080\"\n[[backend]]",
            "FILE:3: listen = \"127.0.0.1:8080\" in frontend web is not accepted; accepted: addresses that nothing \
             else listens on: [status], line 7, has 0.0.0.0:8080 already",
        ),
        (
            "[[backend]]",
            "[[frontend]]\nname = \"b\"\nlisten = \"127.0.0.1:8080\"\nbackend = \"app\"\n[[backend]]",
            "FILE:8: listen = \"127.0.0.1:8080\" in frontend b is not accepted; accepted: addresses that nothing \
             else listens on: frontend web, line 3, has 127.0.0.1:8080 already",
        ),
        ("algorithm = \"wlc\"", "retries = -1", "retries = -1"),
        (
            "algorithm = \"wlc\"",
            "redispatch = \"yes\"",
            "redispatch = \"yes\" in backend app is not accepted; accepted: true or false",
        ),
        ("listen = \"127.0.0.1:8080\"", "listen = []", "frontend web needs the key `listen`"),
        ("listen = \"127.0.0.1:8080\"", "listen = \"8080\"", "FILE:3: listen = \"8080\""),
        (
            "[[backend.server]]",
            "[[backend.server]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n[[backend.server]]",
            "a name that no other server of the backend has",
        ),
        ("\"wlc\"", "\"\"\"w\nlc\"\"\"", r#"FILE:8: algorithm = """w\nlc""" in backend app is not accepted"#),
        ("algorithm =", r#""a\nb\u001b" ="#, r"FILE:8: unknown key `a\nb\u{1b}` in backend app"),
        ("[[backend]]", "[[backend]", "FILE:6: not TOML: "),
        ("[[frontend]]", "[frontend]", "frontend = "),
    ] {
        let (valid, said) = check(&GOOD.replace(was, is));
        assert!(!valid, "{is} is taken: {said}");
        assert!(said.contains(expected), "{is}: {said}");
        assert_eq!(said.lines().count(), 1, "one sentence: {said}");
    }
    let (valid, said) = check("");
    assert!(!valid && said.contains("needs the key `backend`"), "{said}");
    let output = director(&["check", "/no/such/file.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("director: /no/such/file.toml: cannot be read: "), "{said}");
}

#[test]
fn each_program_says_its_own_name() {
    for (program, name) in [
        (env!("CARGO_BIN_EXE_director"), "director"),
        (env!("CARGO_BIN_EXE_load"), "load"),
        (env!("CARGO_BIN_EXE_pi-server"), "pi-server"),
    ] {
        let output = Command::new(program).arg("--version").output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn every_algorithm_serves_by_its_name() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    for name in ["rr", "wrr", "swrr", "lc", "wlc", "random", "p2c", "sh", "maglev", "rendezvous"] {
        let director = Director::start(&simple(&[&a, &b], &format!("algorithm = \"{name}\"\n")));
        for _ in 0..3 {
            assert_eq!(director::client::get(director.http, "/").status, 200, "{name}");
        }
        assert_eq!(director.status()["backends"][0]["algorithm"], name);
    }
}

#[test]
fn a_port_in_use_is_said_in_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (taken.local_addr().unwrap().to_string(), free().to_string());
    for (arguments, cure) in [
        (["--listen", &taken, "--status", &free], "--listen"),
        (["--listen", &free, "--status", &taken], "--status"),
    ] {
        let output = director(&arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("director: {taken} is in use by another program: ");
        assert!(said.starts_with(&expected) && said.contains(cure) && said.lines().count() == 1, "{said}");
    }
    let output = director(&["--listen", &free, "--status", &free]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!("cannot both listen on {free}: choose another address with --status");
    assert!(output.status.code() == Some(1) && said.contains(&expected), "{said}");
    // Another director counts too, although both would share the port.
    let origin = Origin::start("a");
    let running = Director::start(&simple(&[&origin], ""));
    let output = director(&["--listen", &running.http.to_string(), "--status", &free]);
    assert_eq!(output.status.code(), Some(1));
}
