//! Network namespaces on a bridge.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run;

/// What the names of our namespaces and directories begin with; the process's number follows.
pub(crate) const PREFIX: &str = "lb-vrrp-lab";

/// One bridge in a namespace of its own, and hosts on it, each in its own, with `eth0`.
#[derive(Debug)]
pub(crate) struct Lan {
    switch: String,
    hosts: Vec<Host>,
}

/// A host: 192.0.2.N and fe80::N on `eth0`, N from 1.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its place, from 0; the bridge's port is `pN`.
    pub(crate) index: usize,
}

impl Host {
    /// Its own IPv4 address, in a network of 24 bits.
    pub(crate) fn v4(&self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, self.index as u8 + 1).into()
    }

    /// Its own link-local address.
    pub(crate) fn v6(&self) -> IpAddr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, self.index as u16 + 1).into()
    }

    /// The addresses on its interfaces, as `ip` prints them.
    pub(crate) fn addresses(&self) -> String {
        run(&["ip", "-n", &self.namespace, "-brief", "address"])
    }
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
        run(&["ip", "netns", "add", &lan.switch]);
        let mut batch =
            // A switch has no ARP of its own.
            String::from("link add br0 type bridge mcast_snooping 0\nlink set br0 addrgenmode none arp off up\n");
        for Host { namespace, index } in &lan.hosts {
            run(&["ip", "netns", "add", namespace]);
            batch.push_str(&format!(
                "link add p{index} type veth peer name eth0 netns {namespace}\n\
                 link set p{index} master br0 addrgenmode none up\n"
            ));
        }
        ip_batch(&lan.switch, &batch);
        for host in &lan.hosts {
            let batch = format!(
                "link set lo up\nlink set eth0 addrgenmode none\naddress add {}/24 dev eth0\n\
                 address add {}/64 dev eth0 nodad\nlink set eth0 up\n",
                host.v4(),
                host.v6(),
            );
            ip_batch(&host.namespace, &batch);
        }
        lan
    }

    /// The bridge's namespace.
    pub(crate) fn switch(&self) -> &str {
        &self.switch
    }

    /// The hosts, in order.
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Pulls or plugs the cable of a host.
    pub(crate) fn set_cable(&self, index: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        run(&["ip", "-n", &self.switch, "link", "set", &format!("p{index}"), state]);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.hosts.iter().for_each(|host| remove(&host.namespace));
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
