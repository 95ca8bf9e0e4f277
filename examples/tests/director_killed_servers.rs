//! A minute of load through the director while its servers are killed and started again: no request may fail.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use director::{Director, connect, eventually, free};

/// A pi server as a process of its own, which can be killed.
struct PiServer {
    name: &'static str,
    address: SocketAddr,
    child: Option<Child>,
}

impl PiServer {
    fn start(name: &'static str) -> Self {
        let mut server = Self { name, address: free(), child: None };
        server.restart();
        server
    }

    fn restart(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_pi-server"))
            .args(["--listen", &self.address.to_string(), "--name", self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the server", || std::net::TcpStream::connect(self.address).ok());
    }

    /// `kill -9`.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for PiServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn survive(time: Duration) {
    let mut servers = ["pi1", "pi2", "pi3"].map(PiServer::start);
    let mut config =
        "[director]\nworkers = 2\n[[frontend]]\nname = \"web\"\nlisten = \"@http\"\nbackend = \"pi\"\n\
        [[backend]]\nname = \"pi\"\nalgorithm = \"wlc\"\nslow-start = \"1s\"\n\
        check = { type = \"http\", path = \"/health\", interval = \"500ms\", fastinter = \"100ms\" }\n"
            .to_owned();
    for PiServer { name, address, .. } in &servers {
        config.push_str(&format!("[[backend.server]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    }
    let director = Director::start(&config);
    let seconds = time.as_secs().to_string();
    let load = Command::new(env!("CARGO_BIN_EXE_load"))
        .args([&format!("http://{}/pi.php?n=1000", director.http), "--duration", &format!("{seconds}s")])
        .args(["--concurrency", "16", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let mut kills = 0;
    while started.elapsed() + Duration::from_secs(2) < time {
        // One at a time is dead; now and then so briefly that no check sees it.
        let server = &mut servers[kills % 3];
        server.kill();
        kills += 1;
        std::thread::sleep(Duration::from_millis(if kills % 2 == 0 { 50 } else { 1_200 }));
        server.restart();
        std::thread::sleep(Duration::from_millis(400));
    }
    let output = load.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!(result["failed"], 0, "after {kills} kills: {result}");
    assert!(kills >= 2 && director.number("web", "/requests") > 1_000, "{result}");
    assert_eq!(director.number("web", "/responses/5xx"), 0);
    drop(connect(director.http));
}

#[test]
fn no_request_fails_for_a_few_seconds() {
    survive(Duration::from_secs(6));
}

#[test]
#[ignore = "slow: 60 s"]
fn no_request_fails_for_a_minute() {
    survive(Duration::from_secs(60));
}
