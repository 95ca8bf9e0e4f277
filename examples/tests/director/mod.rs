//! What the director's tests share: the real program on free loopback ports, small servers that misbehave when they
//! are asked to, and clients that say exactly what they send.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

pub mod client;
pub mod origin;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use client::get;
pub use origin::Origin;

/// Nothing in these tests takes longer; a wait that does has failed.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A loopback address that nobody listens on now, and that no other test of this process is given.
///
/// Below the kernel's own range, so that no outgoing connection takes it before it is used.
pub fn free() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let number = std::process::id() as usize * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 10_000 + (number % 22_000) as u16));
        // Not by binding it: a program that another test starts at that moment would hold it until its `exec`.
        if TcpStream::connect(address).is_err() {
            return address;
        }
    }
}

/// A running director with a configuration of its own; ended when it is dropped.
pub struct Director {
    child: Child,
    folder: PathBuf,
    /// The first frontend: `@http` in the configuration.
    pub http: SocketAddr,
    /// The status page: `@status` in the configuration.
    pub status: SocketAddr,
}

impl Director {
    /// Starts it with `config`, in which `@http` and `@status` stand for free addresses, `@folder` for a folder of its
    /// own, and the status page with the token `open-sesame` is added.
    pub fn start(config: &str) -> Self {
        let (http, status) = (free(), free());
        let folder = folder();
        let mut director = Self { child: idle_child(), folder, http, status };
        director.configure(config);
        director.child = director.command().spawn().unwrap();
        director.wait_until_ready();
        director
    }

    /// Writes another configuration, for a reload.
    pub fn configure(&self, config: &str) {
        let status = "\n[status]\nlisten = \"@status\"\ntoken = \"open-sesame\"\n";
        let text = format!("{config}{status}")
            .replace("@http", &self.http.to_string())
            .replace("@status", &self.status.to_string())
            .replace("@folder", self.folder.to_str().unwrap());
        std::fs::write(self.file(), text).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_director"));
        let stderr = std::fs::File::create(self.folder.join("stderr")).unwrap();
        let stdout = std::fs::File::create(self.folder.join("stdout")).unwrap();
        command.arg("--config").arg(self.file()).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command
    }

    fn wait_until_ready(&mut self) {
        let started = Instant::now();
        // It says so when every socket is open.
        while !self.stderr().contains("the status page is on") {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the director ended with {status}: {}", self.stderr());
            }
            assert!(started.elapsed() < LIMIT, "not ready: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("director.toml")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap()
    }

    /// What it has written to standard output.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.folder.join("stdout")).unwrap()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// Reloads, and waits until it says what came of it.
    pub fn reload(&self) -> String {
        let before = self.stderr().len();
        self.signal("HUP");
        eventually("an answer to SIGHUP", || {
            let said = self.stderr()[before..].to_owned();
            (said.contains("reloaded") && said.ends_with('\n')).then_some(said)
        })
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the director's end", || self.child.try_wait().unwrap())
    }

    /// The status as JSON.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&get(self.status, "/status.json").body).unwrap()
    }

    /// A frontend or server of the status by its name.
    pub fn named(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        let servers =
            status["backends"].as_array().unwrap().iter().flat_map(|b| b["servers"].as_array().unwrap());
        let all: Vec<_> = status["frontends"].as_array().unwrap().iter().chain(servers).collect();
        all.into_iter()
            .find(|one| one["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {status}"))
            .clone()
    }

    /// One number of a frontend or server, by its JSON pointer.
    pub fn number(&self, name: &str, pointer: &str) -> u64 {
        let named = self.named(name);
        named
            .pointer(pointer)
            .and_then(serde_json::Value::as_u64)
            .unwrap_or_else(|| panic!("{pointer} in {named}"))
    }

    /// An admin action with the token; gives the status and the sentence.
    pub fn act(&self, action: &str) -> (u16, String) {
        let request = format!(
            "POST {action} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer open-sesame\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        let response = client::raw(self.status, request.as_bytes());
        let response = client::parse(&response);
        (response.status, response.body)
    }

    /// Open file descriptors of the process.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            if let Ok(Some(status)) = ended {
                eprintln!("the director has ended by itself: {status}");
            }
            let stderr = std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
            eprintln!("the director said:\n{stderr}");
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn idle_child() -> Child {
    Command::new("true").spawn().unwrap()
}

/// A new folder for one test.
pub fn folder() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("director-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Waits until `look` sees something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A configuration of one http frontend and one backend with these servers; `more` goes into the backend's table.
pub fn simple(servers: &[&Origin], more: &str) -> String {
    let mut text = format!(
        "[director]\nworkers = 2\n\n[[frontend]]\nname = \"web\"\nlisten = \"@http\"\nbackend = \"app\"\n\n\
         [[backend]]\nname = \"app\"\n{more}\n"
    );
    for server in servers {
        text.push_str(&format!(
            "[[backend.server]]\nname = \"{}\"\naddress = \"{}\"\n",
            server.name(),
            server.address()
        ));
    }
    text
}

/// That configuration, with an access log that [`log`] reads.
pub fn logged(config: &str) -> String {
    config.replace("[director]\n", "[director]\naccess-log = \"@folder/log\"\n")
}

/// The access log so far.
pub fn log(director: &Director) -> String {
    std::fs::read_to_string(director.folder().join("log")).unwrap_or_default()
}

/// Reads what is there until the other side closes or `LIMIT` is over.
pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    all
}

/// Connects, with timeouts.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes and does not mind if the other side has gone.
pub fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}
