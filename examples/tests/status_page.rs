//! The status page in a real browser: live, without scripts, in light and dark, wide and narrow, cut off from
//! its director. The screenshots stay in cargo's `target/tmp` to be looked at.
//!
//! `apt-get install --no-install-recommends chromium chromium-driver`, then
//! `cargo test -p lb-examples --test status_page -- --include-ignored`.

mod browser;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use browser::Browser;
use lb_examples::status::model::{HealthState, Server, Status};
use lb_examples::status::{respond, sample};
use serde_json::Value;

/// Requests of each server as the page shows them, by name; text without the gaps between groups of digits.
const REQUESTS: &str = r#"
    const rows = [...document.querySelectorAll('tr[data-row^="/backends/"]')];
    return Object.fromEntries(rows.map((row) => [
        row.querySelector('th b').textContent,
        Number(row.querySelector('[data-p$="/requests"]').textContent.replace(/\u202f/g, "")),
    ]));
"#;

/// Serves the real renderers on loopback, as a director would.
struct Site {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// `read` gives the status of the moment, or nothing to answer 500.
    fn start(read: impl Fn() -> Option<Status> + Send + Sync + 'static) -> Self {
        let read = Arc::new(read);
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let read = read.clone();
                // A browser opens connections ahead and may give them up at any time: no fault of the page.
                thread::spawn(move || answer(stream, &*read));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    /// Numbers that move.
    fn moving() -> Self {
        let start = Instant::now();
        Self::start(move || Some(sample::at(100.0 + start.elapsed().as_secs_f64())))
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, read: &impl Fn() -> Option<Status>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let Some(status) = read() else {
        return stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let response = respond(first.split(' ').nth(1).unwrap_or("/"), || status);
    let headers: String =
        response.headers().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (code, length, body) = (response.code, response.body.len(), response.body);
    write!(
        stream,
        "HTTP/1.1 {code} -\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
}

/// Takes a picture of what the browser shows, keeps it, and checks that something is on it.
fn picture(browser: &Browser, name: &str, (width, height): (u32, u32), scheme: &str) {
    browser.resize(width, height);
    browser.prefer(scheme);
    let bytes = browser.screenshot();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("status-{name}.png"));
    std::fs::write(file, &bytes).expect("cargo's own directory takes a file");
    let mut decoder = png::Decoder::new(std::io::Cursor::new(&bytes));
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().expect("a screenshot is PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a screenshot fits into memory")];
    let info = reader.next_frame(&mut pixels).expect("a screenshot is PNG");
    assert_eq!((info.width, info.height), (width, height), "{name}");
    let mut colours = HashMap::new();
    for pixel in pixels[..info.buffer_size()].chunks_exact(info.color_type.samples()) {
        *colours.entry(&pixel[..3]).or_insert(0_u32) += 1;
    }
    let (ground, most) = colours.iter().max_by_key(|(_, count)| **count).expect("it has pixels");
    assert!(colours.len() > 50, "{name} has {} colours", colours.len());
    assert!(*most < width * height / 100 * 95, "{name} is blank");
    assert_eq!(ground[0] < 128, scheme == "dark", "{name} has the ground {ground:?}");
}

/// What must hold of the page of any director with these servers and some load, under any address.
fn check_live_page(browser: &Browser, url: &str, servers: &[&str], pictures: &str) {
    browser.open(url);
    browser.wait("live", "return document.getElementById('mode').textContent === 'Live, every 1 s'");
    let before = browser.run(REQUESTS);
    let mut names: Vec<_> = before.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, servers);
    let sparks =
        "return [...document.querySelectorAll('.spark path')].map((path) => path.getAttribute('d')).join()";
    let spark = browser.run(sparks);
    let start = Instant::now();
    let moved = |after: &Value| servers.iter().all(|name| after[name].as_f64() > before[name].as_f64());
    while !moved(&browser.run(REQUESTS)) {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{before} did not move: {}",
            browser.run(REQUESTS)
        );
        thread::sleep(Duration::from_millis(100));
    }
    assert_ne!(browser.run(sparks), spark, "the sparklines stand still");
    picture(browser, &format!("{pictures}-light"), (1440, 1000), "light");
    picture(browser, &format!("{pictures}-dark"), (1440, 1000), "dark");
    browser.run("document.querySelectorAll('details').forEach((changes) => { changes.open = true; })");
    picture(browser, &format!("{pictures}-changes"), (1440, 1200), "dark");
    picture(browser, &format!("{pictures}-phone"), (390, 1600), "light");
    let wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.run(wide), false, "a phone has to scroll sideways");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
#[ignore = "needs chromium"]
fn the_live_page_moves_in_every_size_and_light() {
    let site = Site::moving();
    check_live_page(&Browser::start(), &site.url(), &["web1", "web2", "web3", "web4"], "live");
}

/// The director as the README starts it, on free ports, under some load; killed at the end.
struct Demo {
    child: Child,
    stop: Arc<AtomicBool>,
    load: Option<JoinHandle<()>>,
    page: String,
}

impl Demo {
    fn start() -> Self {
        let free =
            || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let (listen, status) = (free(), free());
        let mut child = Command::new(env!("CARGO_BIN_EXE_director"))
            .args(["--listen", &listen.to_string(), "--status", &status.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo has built the director");
        let said = BufReader::new(child.stdout.take().expect("it is piped")).lines().take(3);
        assert_eq!(said.map_while(Result::ok).count(), 3, "it says where it serves");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let load = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let request = b"GET /pi.php?n=1000 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n";
                let ask = || -> std::io::Result<u64> {
                    let mut stream = TcpStream::connect(listen)?;
                    stream.write_all(request)?;
                    std::io::copy(&mut stream, &mut std::io::sink())
                };
                assert!(ask().expect("the director answers") > 0);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { child, stop, load: Some(load), page: format!("http://{status}/") }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let load = self.load.take().map(JoinHandle::join);
        let _ = self.child.kill();
        let _ = self.child.wait();
        assert!(thread::panicking() || load.is_some_and(|load| load.is_ok()), "a request failed");
    }
}

#[test]
#[ignore = "needs chromium"]
fn the_director_shows_four_servers_whose_numbers_move() {
    let demo = Demo::start();
    check_live_page(&Browser::start(), &demo.page, &["pi1", "pi2", "pi3", "pi4"], "director");
}

#[test]
#[ignore = "needs chromium"]
fn without_scripts_every_number_is_there_and_the_page_reloads_itself() {
    let site = Site::moving();
    let browser = Browser::start();
    browser.allow_scripts(false);
    browser.open(&site.url());
    let before = browser.run(REQUESTS);
    assert_eq!(before.as_object().unwrap().len(), 4);
    assert!(before["web1"].as_f64() > Some(0.0), "{before}");
    assert_eq!(browser.run("return document.getElementById('mode').textContent"), "Reloads every 5 s");
    assert_eq!(browser.run("return document.getElementById('pause').hidden"), true);
    picture(&browser, "without-scripts", (1440, 1000), "light");
    let start = Instant::now();
    while browser.run(REQUESTS)["web1"].as_f64() <= before["web1"].as_f64() {
        assert!(start.elapsed() < Duration::from_secs(30), "the page did not reload by itself");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs chromium"]
fn both_ways_show_the_same() {
    let site = Site::start(|| Some(sample::at(98_765.25)));
    let browser = Browser::start();
    let shown = r#"
        const all = (selector, get) => [...document.querySelectorAll(selector)].map(get);
        return [
            document.title,
            document.querySelector("header > div").textContent,
            document.querySelector("main").textContent,
            all(".spark", (node) => node.getAttribute("aria-label")),
            all(".spark path", (node) => node.getAttribute("d")),
            all("[data-bar]", (node) => node.getAttribute("width")),
            all("[data-state]", (node) => node.dataset.state),
            all("[data-if], [data-unless]", (node) => node.hidden),
            all("time", (node) => node.dateTime),
        ];
    "#;
    browser.allow_scripts(false);
    browser.open(&site.url());
    let still = browser.run(shown);
    browser.allow_scripts(true);
    browser.open(&site.url());
    // Empty every value first, so that what is compared was written by the script.
    browser.run("document.querySelectorAll('main [data-p]').forEach((node) => { node.textContent = '?'; })");
    let filled = "!document.querySelector('main').textContent.includes('?')";
    browser.wait("filled again", &format!("return document.body.dataset.live === 'live' && {filled}"));
    assert_eq!(browser.run(shown), still);
}

#[test]
#[ignore = "needs chromium"]
fn a_lost_director_is_shown_until_it_is_back() {
    let lost = Arc::new(AtomicBool::new(false));
    let switch = lost.clone();
    let site = Site::start(move || (!switch.load(Ordering::Relaxed)).then(|| sample::at(100.0)));
    let browser = Browser::start();
    browser.open(&site.url());
    browser.wait("live", "return document.body.dataset.live === 'live'");
    lost.store(true, Ordering::Relaxed);
    let sentence =
        browser.wait("lost", "const p = document.getElementById('lost'); return !p.hidden && p.innerText");
    let expected = "Cannot read status.json: the director answered 500. \
        The numbers are those of 2026-01-02 03:05:45 UTC. Trying again every 1 s.";
    assert_eq!(sentence, expected);
    picture(&browser, "lost", (1440, 1000), "light");
    lost.store(false, Ordering::Relaxed);
    browser.wait(
        "live again",
        "return document.body.dataset.live === 'live' && document.getElementById('lost').hidden",
    );
}

#[test]
#[ignore = "needs chromium"]
fn rows_come_go_and_change_state_without_a_reload() {
    let changed = Arc::new(AtomicBool::new(false));
    let switch = changed.clone();
    let site = Site::start(move || {
        let mut status = sample::at(100.0);
        if switch.load(Ordering::Relaxed) {
            let servers = &mut status.backends[0].servers;
            servers.remove(1);
            servers[0].health.state = HealthState::Down;
            servers.push(Server { name: "<i>new</i>".into(), ..Server::default() });
        }
        Some(status)
    });
    let browser = Browser::start();
    browser.open(&site.url());
    browser.wait("live", "return document.body.dataset.live === 'live'");
    browser.run("window.sameDocument = true");
    changed.store(true, Ordering::Relaxed);
    let rows = "return [...document.querySelectorAll('tr[data-row^=\"/backends/\"]')].map((row) => \
        row.querySelector('th b').textContent + ' ' + row.dataset.state)";
    browser.wait("a new row", "return document.querySelector('main').textContent.includes('new')");
    let expected = serde_json::json!(["web1 down", "web3 draining", "web4 up", "<i>new</i> unchecked"]);
    assert_eq!(browser.run(rows), expected);
    assert_eq!(browser.run("return window.sameDocument"), true);
}

#[test]
#[ignore = "needs chromium"]
fn columns_sort_from_the_keyboard() {
    const ENTER: &str = "\u{e007}";
    let site = Site::moving();
    let browser = Browser::start();
    browser.open(&site.url());
    browser.wait("live", "return document.body.dataset.live === 'live'");
    let order = r#"
        const names = document.querySelectorAll('tr[data-row^="/backends/"] th b');
        return [...names].map((name) => name.textContent).join(" ");
    "#;
    let latency = "th[data-sort='/latency/ewma_seconds']";
    let table = [
        (latency, "ascending", "web1 web2 web3 web4"),
        (latency, "descending", "web4 web3 web2 web1"),
        (latency, "none", "web1 web2 web3 web4"),
        ("th[data-sort='/condition']", "ascending", "web3 web2 web1 web4"),
    ];
    for (heading, direction, expected) in table {
        browser.type_into(&format!("{heading} button"), ENTER);
        let sorted =
            browser.run(&format!("return document.querySelector(\"{heading}\").getAttribute('aria-sort')"));
        assert_eq!(sorted, direction, "{heading}");
        assert_eq!(browser.run(order), expected, "{heading} {direction}");
    }
}
