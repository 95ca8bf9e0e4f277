//! Network namespaces on a bridge.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, run};

/// What the names of our namespaces and directories begin with; the process's number follows.
pub(crate) const PREFIX: &str = "lb-vrrp-lab";

/// One bridge in a namespace of its own, and hosts on it, each in its own, with `eth0`: 192.0.2.N/24 and fe80::N/64, N from 1.
#[derive(Debug)]
pub(crate) struct Lan {
    switch: String,
    hosts: Vec<Host>,
}

impl Lan {
    /// A bridge without multicast snooping, with so many hosts. `name` is unique in this process.
    pub(crate) fn new(name: &str, hosts: usize) -> Self {
        remove_leftovers();
        let namespace = |what: &str| format!("{PREFIX}-{}-{name}-{what}", std::process::id());
        let lan = Self {
            switch: namespace("switch"),
            hosts: (0..hosts).map(|index| Host { namespace: namespace(&index.to_string()), index }).collect(),
        };
        run(&format!("ip netns add {}", lan.switch));
        // A switch has no ARP of its own.
        let bridge = "link add br0 type bridge mcast_snooping 0\nlink set br0 addrgenmode none arp off up\n";
        ip_batch(&lan.switch, bridge);
        for host in &lan.hosts {
            run(&format!("ip netns add {}", host.namespace));
            ip_batch(&host.namespace, "link set lo up\n");
            lan.plug(host, "eth0");
        }
        lan
    }

    /// A bridge with as many hosts as are asked for.
    pub(crate) fn of<const N: usize>(name: &str) -> (Self, [Host; N]) {
        let lan = Self::new(name, N);
        let hosts = std::array::from_fn(|index| lan.hosts[index].clone());
        (lan, hosts)
    }

    /// Connects a new `interface` of a host to the bridge: `eth0`, with its addresses, or another without any.
    pub(crate) fn plug(&self, host: &Host, interface: &str) {
        let port = host.port(interface);
        let ends = format!(
            "link add {port} type veth peer name {interface} netns {}\n\
             link set {port} master br0 addrgenmode none up\n",
            host.namespace
        );
        ip_batch(&self.switch, &ends);
        let mut own = format!("link set {interface} addrgenmode none\n");
        if interface == "eth0" {
            let (v4, v6) = (host.v4(), host.v6());
            own += &format!("address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\n");
        }
        ip_batch(&host.namespace, &(own + &format!("link set {interface} up\n")));
    }

    /// Removes an interface of a host.
    pub(crate) fn unplug(&self, host: &Host, interface: &str) {
        run(&format!("ip -n {} link delete {}", self.switch, host.port(interface)));
    }

    /// The bridge's namespace.
    pub(crate) fn switch(&self) -> &str {
        &self.switch
    }

    /// The hosts, in order.
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The bridge's ports, and to which host each leads.
    pub(crate) fn ports(&self) -> Vec<(usize, String)> {
        let list = run(&format!("ip -n {} -o link show master br0", self.switch));
        let names = list.lines().filter_map(|line| line.split([' ', '@']).nth(1));
        let host = |name: &str| {
            self.hosts.iter().position(|host| {
                name.strip_prefix(&host.port("eth0"))
                    .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
            })
        };
        names.filter_map(|name| Some((host(name)?, name.to_owned()))).collect()
    }

    /// Pulls or plugs the cable of a host.
    pub(crate) fn set_cable(&self, index: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        run(&format!("ip -n {} link set {} {state}", self.switch, self.hosts[index].port("eth0")));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in &self.hosts {
            remove(&host.namespace);
            let _ = std::fs::remove_dir_all(host.directory()); // at the worst, the next test program does it
        }
        remove(&self.switch);
        let _ = std::fs::remove_dir(super::directory()); // the last one finds it empty
    }
}

/// Many commands of `ip` in one process.
pub(crate) fn ip_batch(namespace: &str, commands: &str) {
    let mut child = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    child.stdin.take().expect("it is piped").write_all(commands.as_bytes()).expect("ip reads its commands");
    let output = child.wait_with_output().expect("ip ends");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip -n {namespace} -batch: {complaint}in:\n{commands}");
}

/// Runs `work` on a thread inside a namespace: what it opens stays there.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves this thread into a namespace.
pub(crate) fn enter(namespace: &str) {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
}

/// Ends whatever runs in a namespace of ours, and removes it.
fn remove(namespace: &str) {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output();
    if let Ok(output) = output {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // it may have ended by itself
            }
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status();
}

/// What tests left that were killed: the process of their name is gone.
fn remove_leftovers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in names("/run/netns".into()) {
            remove(&name);
        }
        for name in names(std::env::temp_dir()) {
            let _ = std::fs::remove_dir_all(std::env::temp_dir().join(name));
        }
    });
}

/// The names of ours in a directory whose process is gone.
fn names(directory: PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            let rest = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-'));
            let pid = rest.and_then(|rest| rest.split('-').next()).filter(|pid| pid.parse::<u32>().is_ok());
            pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
        })
        .collect()
}
