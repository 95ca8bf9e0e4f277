//! Clients that stay with their server, and operators that move them.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use director::client::{Connection, get, raw};
use director::{Director, Origin, eventually, simple};

#[test]
fn a_cookie_keeps_a_client_on_its_server() {
    let (mut a, b) = (Origin::start("a"), Origin::start("b"));
    let director =
        Director::start(&simple(&[&a, &b], "persistence = { type = \"cookie\", name = \"SRV\" }\n"));
    let mut connection = Connection::open(director.http);
    let first = connection.get("/");
    let set = first.header("set-cookie").unwrap().to_owned();
    assert_eq!(set, format!("SRV={}; path=/; HttpOnly", first.body));
    assert_eq!(first.header("cache-control"), Some("private"));
    for _ in 0..6 {
        let answer = connection.request("GET", "/echo", "Cookie: x=1; SRV=b; y=2\r\n");
        assert!(answer.header("set-cookie").is_none());
        assert!(answer.body.contains("cookie: x=1; y=2\r\n"), "hidden from the server: {}", answer.body);
    }
    assert!(b.requests() >= 6);
    // Its server dies: the client gets another one, and is told.
    a.kill();
    let answer = connection.request("GET", "/", "Cookie: SRV=a\r\n");
    assert_eq!((answer.body.as_str(), answer.header("set-cookie").is_some()), ("b", true));
}

#[test]
fn an_address_keeps_a_client_on_its_server() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let persistence = "persistence = { type = \"source\", expire = \"1s\" }\n";
    let director = Director::start(&simple(&[&a, &b], persistence));
    let first = get(director.http, "/").body;
    for _ in 0..6 {
        assert_eq!(get(director.http, "/").body, first);
    }
    assert_eq!(director.number(&first, "/pinned_sessions"), 1);
    eventually("its end", || (director.number(&first, "/pinned_sessions") == 0).then_some(()));
}

#[test]
fn a_server_that_drains_keeps_its_clients_and_gets_no_new_ones() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let director =
        Director::start(&simple(&[&a, &b], "persistence = { type = \"cookie\", name = \"SRV\" }\n"));
    let server = "/backends/app/servers/a";
    assert_eq!(director.act(&format!("{server}/drain")), (200, "app/a is drain.\n".to_owned()));
    let mut connection = Connection::open(director.http);
    for _ in 0..4 {
        assert_eq!(connection.get("/").body, "b");
        assert_eq!(connection.request("GET", "/", "Cookie: SRV=a\r\n").body, "a");
    }
    assert_eq!(director.named("a")["admin"], "drain");
    director.act(&format!("{server}/maint"));
    assert_eq!(connection.request("GET", "/", "Cookie: SRV=a\r\n").body, "b");
    assert_eq!(director.named("a")["admin"], "maint");
    director.act(&format!("{server}/ready"));
    assert_eq!(connection.request("GET", "/", "Cookie: SRV=a\r\n").body, "a");
    // Weight 0 keeps them too.
    assert_eq!(director.act(&format!("{server}/weight?value=0")).0, 200);
    for _ in 0..4 {
        assert_eq!(connection.get("/").body, "b");
    }
    assert_eq!(connection.request("GET", "/", "Cookie: SRV=a\r\n").body, "a");
    assert_eq!(director.act(&format!("{server}/weight?value=300")).0, 200);
    assert_eq!(director.number("a", "/weight"), 300);
}

#[test]
fn actions_need_the_token_and_name_what_is_not_there() {
    let a = Origin::start("web1");
    let director = Director::start(&simple(&[&a], ""));
    for authorization in
        ["", "Authorization: Bearer open-sesam\r\n", "Authorization: Basic b3Blbi1zZXNhbWU=\r\n"]
    {
        let mut connection = Connection::open(director.status);
        let answer = connection.request("POST", "/backends/app/servers/web1/drain", authorization);
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Bearer")),
            "{authorization}"
        );
    }
    assert_eq!(director.named("web1")["admin"], "ready");
    for scheme in ["bearer", "BEARER"] {
        let authorization = format!("Authorization: {scheme} open-sesame\r\n");
        let mut connection = Connection::open(director.status);
        let answer = connection.request("POST", "/backends/app/servers/web1/ready", &authorization);
        assert_eq!(answer.status, 200, "{scheme}");
    }
    for (action, status, sentence) in [
        ("/backends/app/servers/web2/drain", 404, "There is no server web2. Did you mean web1? Known: web1."),
        ("/backends/ap/servers/web1/drain", 404, "There is no backend ap. Did you mean app?"),
        ("/backends/app/servers/web1/drian", 404, "Did you mean drain?"),
        ("/backends/app/servers/web1/weight?value=70000", 400, "0 to 65535"),
        ("/backends/app/servers/web1/weight", 400, "0 to 65535"),
        ("/backends/app/servers/web1/weight?value=3&value=4", 400, "one whole number, 0 to 65535"),
        ("/backends/app/servers/web1/weight?other=3", 400, "one whole number, 0 to 65535"),
        ("/elsewhere", 404, "Actions are at /backends/"),
    ] {
        let (got, said) = director.act(action);
        assert!(got == status && said.contains(sentence), "{action}: {got} {said}");
    }
    let answer = raw(
        director.status,
        b"GET /backends/app/servers/web1/drain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with(b"HTTP/1.1 404"), "a GET changes nothing");
}
