//! Two machines as network namespaces with a cable between them, and routers on them. All is gone when the test is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The address that floats.
pub(crate) const FLOATING: &str = "192.168.250.250";
/// Longest that anything here may take; most of it is 3.6 s of silence.
pub(crate) const LONG: Duration = Duration::from_secs(15);

/// The thesis's configuration.
pub(crate) fn thesis(state: &str, priority: u8) -> String {
    format!(
        "! Configuration File for keepalived\n\
         global_defs {{\n    router_id director\n}}\n\n\
         vrrp_instance HA1 {{\n    state {state}\n    interface eth0\n    virtual_router_id 11\n    priority {priority}\n    advert_int 1\n    \
         authentication {{\n        auth_type PASS\n        auth_pass abcd\n    }}\n    \
         virtual_ipaddress {{\n        {FLOATING}\n    }}\n    track_interface {{\n        eth0\n    }}\n}}\n"
    )
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it"))
}

fn must(program: &str, arguments: &[&str]) {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}(these tests need root)", arguments.join(" "));
}

/// Two machines.
pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    spaces: [String; 2],
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("vrrpd-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let lab = Self { folder, spaces: [format!("{name}a"), format!("{name}b")] };
        for space in &lab.spaces {
            must("ip", &["netns", "add", space]);
        }
        let [a, b] = &lab.spaces;
        must("ip", &["-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b]);
        for (space, address) in [(a, "192.168.250.121/24"), (b, "192.168.250.111/24")] {
            must("ip", &["-n", space, "address", "add", address, "dev", "eth0"]);
            must("ip", &["-n", space, "link", "set", "lo", "up"]);
            must("ip", &["-n", space, "link", "set", "eth0", "up"]);
        }
        lab
    }

    /// A command on machine `at`.
    pub(crate) fn command(&self, at: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.spaces[at], program]).stdin(Stdio::null());
        command
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Whether machine `at` has the floating address.
    pub(crate) fn has(&self, at: usize) -> bool {
        let output = run("ip", &["-n", &self.spaces[at], "-o", "-4", "address", "show", "dev", "eth0"]);
        String::from_utf8_lossy(&output.stdout).contains(&format!("inet {FLOATING}/"))
    }

    /// Waits until machine `at` has the floating address, and gives the time that took.
    pub(crate) fn wait_for(&self, at: usize) -> Duration {
        let begun = Instant::now();
        until(&format!("machine {at} has {FLOATING}"), || self.has(at));
        begun.elapsed()
    }

    /// Starts vrrpd on machine `at`.
    pub(crate) fn vrrpd(&self, at: usize, config: &Path) -> Router {
        let log = self.folder.join(format!("vrrpd-{at}.log"));
        let socket = self.folder.join(format!("vrrpd-{at}.sock"));
        let child = self
            .command(at, env!("CARGO_BIN_EXE_vrrpd"))
            .arg("--config")
            .arg(config)
            .arg("--socket")
            .arg(&socket)
            .arg("--run-directory")
            .arg(self.folder.join(format!("run-{at}")))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let router = Router { child, log, socket };
        until("vrrpd answers", || router.ask().is_some());
        router
    }

    /// Starts keepalived on machine `at`.
    pub(crate) fn keepalived(&self, at: usize, config: &Path) -> Router {
        let log = self.folder.join(format!("keepalived-{at}.log"));
        let pid = |name: &str| self.folder.join(format!("{name}-{at}.pid"));
        let out = File::create(&log).unwrap();
        let child = self
            .command(at, "keepalived")
            .args(["--dont-fork", "--vrrp", "--log-console", "--no-syslog", "--use-file"])
            .arg(config)
            .arg("--pid")
            .arg(pid("keepalived"))
            .arg("--vrrp_pid")
            .arg(pid("vrrp"))
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Router { child, log, socket: PathBuf::new() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in &self.spaces {
            let inside = run("ip", &["netns", "pids", space]);
            for process in String::from_utf8_lossy(&inside.stdout).split_whitespace() {
                if let Ok(process) = process.parse() {
                    let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
                }
            }
            run("ip", &["netns", "del", space]);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A router that runs.
pub(crate) struct Router {
    child: Child,
    log: PathBuf,
    pub(crate) socket: PathBuf,
}

impl Router {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Asks it to end, and waits until it has. Its success.
    pub(crate) fn stop(self) -> bool {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it has ended. Its success.
    pub(crate) fn ended(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// Ends it, and what it started, without a word.
    pub(crate) fn kill(mut self) {
        self.slay();
    }

    fn slay(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        // The parent is stopped first and killed last: keepalived's would start another child, and its child says farewell when
        // the parent dies.
        let parent = Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = kill(parent, Signal::SIGSTOP);
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its status; of keepalived none.
    pub(crate) fn ask(&self) -> Option<serde_json::Value> {
        let output = run(
            env!("CARGO_BIN_EXE_vrrpd"),
            &["status", "--json", "--socket", self.socket.to_str().unwrap()],
        );
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// What its status says of its first instance.
    pub(crate) fn instance(&self) -> serde_json::Value {
        self.ask().expect("it answers")["instances"][0].clone()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.slay();
    }
}
