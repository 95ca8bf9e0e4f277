//! Hosts on a switch, each a network namespace; what they run, and what is on the wire between them. All of it goes with the
//! [`Lab`], also when a test panics.

#![allow(dead_code)] // no one file of tests needs it all
#![allow(clippy::unwrap_used)] // what fails here fails the test
#![allow(unreachable_pub)] // a module of tests has no readers outside

mod child;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

pub use child::child_process;

/// How long anything may take that should happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Runs a command line of words without blanks and gives its output; it must succeed.
pub fn run(line: &str) -> String {
    let (success, output) = try_run(line);
    assert!(success, "{line}: {output}");
    output
}

pub fn try_run(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Waits until a daemon with one router is active.
pub fn is_active(daemon: &Daemon) {
    daemon.says("-> Active", 1);
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A switch and the hosts on it, each with `eth0` and the address 10.9.0.N/24, N from 1 on.
pub struct Lab {
    prefix: String,
    pub run_directory: PathBuf,
}

impl Lab {
    pub fn new(hosts: &[&str]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("lbv{}-{number}", std::process::id());
        let run_directory = std::env::temp_dir().join(&prefix);
        let lab = Self { prefix, run_directory };
        let switch = lab.host("switch");
        run(&format!("ip netns add {switch}"));
        run(&format!("ip -n {switch} link add br0 type bridge mcast_snooping 0 forward_delay 0"));
        run(&format!("ip -n {switch} link set br0 up"));
        for (index, host) in hosts.iter().enumerate() {
            run(&format!("ip netns add {}", lab.host(host)));
            run(&format!("ip -n {} link set lo up", lab.host(host)));
            lab.plug(host, index + 1);
        }
        lab
    }

    /// The namespace's name.
    pub fn host(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Connects a host's new `eth0` to the switch, where it is called as the host.
    pub fn plug(&self, host: &str, number: usize) {
        let (space, switch) = (self.host(host), self.host("switch"));
        run(&format!("ip -n {switch} link add name {host} type veth peer name eth0 netns {space}"));
        run(&format!("ip -n {switch} link set dev {host} master br0 up"));
        // Tests of minutes do not wait for duplicate address detection.
        self.set(host, "net/ipv6/conf/eth0/accept_dad", "0");
        run(&format!("ip -n {space} address add 10.9.0.{number}/24 dev eth0"));
        run(&format!("ip -n {space} link set eth0 up"));
    }

    /// `ip` in a host.
    pub fn ip(&self, host: &str, line: &str) -> String {
        run(&format!("ip -n {} {line}", self.host(host)))
    }

    /// Any program in a host.
    pub fn exec(&self, host: &str, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.host(host)))
    }

    pub fn has(&self, host: &str, interface: &str, address: &str) -> bool {
        let (found, text) = try_run(&format!("ip -n {} -o address show dev {interface}", self.host(host)));
        found && text.split_whitespace().any(|word| word == address)
    }

    /// Reads a sysctl in a host.
    pub fn get(&self, host: &str, path: &str) -> String {
        run(&format!("ip netns exec {} cat /proc/sys/{path}", self.host(host))).trim().to_owned()
    }

    /// Writes a sysctl in a host.
    pub fn set(&self, host: &str, path: &str, value: &str) {
        let host = self.host(host);
        let path = format!("/proc/sys/{path}");
        let value = value.to_owned();
        thread::spawn(move || {
            enter(&host);
            fs::write(path, value).unwrap();
        })
        .join()
        .unwrap();
    }

    /// Where a host's virtual IPv4 addresses are: on the VMAC of `vrid`, if there is one.
    pub fn address_interface(&self, host: &str, vrid: u8, vmac: &str) -> String {
        if vmac.is_empty() { "eth0".into() } else { format!("vrrp4.{vrid}.{}", self.index(host)) }
    }

    /// The same for IPv6.
    pub fn address_interface6(&self, host: &str, vrid: u8, vmac: &str) -> String {
        self.address_interface(host, vrid, vmac).replace("vrrp4", "vrrp6")
    }

    /// The index of a host's `eth0`.
    fn index(&self, host: &str) -> u32 {
        let text = self.ip(host, "-o link show dev eth0");
        text.split(':').next().unwrap().parse().unwrap()
    }

    /// Sends a datagram to nobody in particular at `address` (IPv6 in brackets), so that the host asks for its MAC.
    pub fn probe(&self, host: &str, address: &str) {
        let host = self.host(host);
        let address = format!("{address}:9");
        thread::spawn(move || {
            enter(&host);
            let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = std::net::UdpSocket::bind(any).unwrap();
            socket.send_to(b"?", address).unwrap();
        })
        .join()
        .unwrap();
        thread::sleep(Duration::from_millis(50));
    }

    /// Starts a driver in a process of its own (see `child_process`).
    pub fn start(&self, host: &str, spec: &str) -> Daemon {
        self.start_with(host, "", spec)
    }

    /// The same, by a command of one's own.
    pub fn start_with(&self, host: &str, wrapper: &str, spec: &str) -> Daemon {
        let spec = format!("run={} {spec}", self.run_directory.display());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(host)]).args(wrapper.split_whitespace());
        command.arg(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "child_process", "--nocapture"]);
        let mut child =
            command.env("LB_VRRP_CHILD", spec).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sink, output) = (lines.clone(), child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Daemon { child, lines }
    }

    /// Listens to everything that enters the switch.
    pub fn wire(&self) -> Wire {
        let switch = self.host("switch");
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, stopped) = (frames.clone(), stop.clone());
        let ready = Arc::new(AtomicBool::new(false));
        let is_ready = ready.clone();
        let thread = thread::spawn(move || {
            enter(&switch);
            let socket = packet_socket();
            let bridge = if_nametoindex("br0").unwrap() as usize;
            is_ready.store(true, Ordering::Release);
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                if let Some(frame) = receive(&socket, bridge, &mut buffer) {
                    sink.lock().unwrap().push(frame);
                }
            }
        });
        wait_until("the wire is listened to", || ready.load(Ordering::Acquire));
        Wire { frames, stop, thread: Some(thread) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let (_, list) = try_run("ip netns list");
        for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
            if name.starts_with(&format!("{}-", self.prefix)) {
                let (_, pids) = try_run(&format!("ip netns pids {name}"));
                for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                    if pid != std::process::id() as i32 {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                }
                try_run(&format!("ip netns delete {name}"));
            }
        }
        let _ = fs::remove_dir_all(&self.run_directory);
    }
}

/// Moves this thread into a namespace.
pub fn enter(namespace: &str) {
    let file = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// A driver in a process.
pub struct Daemon {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// How often it has said a line with `text`.
    pub fn count(&self, text: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until it has said `text` `times` times.
    pub fn says(&self, text: &str, times: usize) {
        let end = Instant::now() + PATIENCE;
        while self.count(text) < times {
            assert!(Instant::now() < end, "{text:?} not {times} times in {:#?}", self.lines());
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Asks it to shut its driver down, by the end of its input; whether all went well.
    pub fn stop(mut self) -> bool {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().success()
    }

    /// `kill -9`.
    pub fn kill(self) {}

    /// Waits for it to end by itself; whether it ended well.
    pub fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frame that entered the switch.
#[derive(Clone, Debug)]
pub struct Frame {
    /// By the kernel's clock.
    pub at: Duration,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn source(&self) -> [u8; 6] {
        self.bytes[6..12].try_into().unwrap()
    }

    fn kind(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    /// The message, if it is an advert: version, VRID, priority, and so on; of both families.
    pub fn advert(&self) -> Option<&[u8]> {
        match (self.kind(), self.bytes.get(23), self.bytes.get(20)) {
            (0x0800, Some(112), _) => self.bytes.get(34..),
            (0x86dd, _, Some(112)) => self.bytes.get(54..),
            _ => None,
        }
    }

    /// The address that a gratuitous ARP is for.
    pub fn garp(&self) -> Option<[u8; 4]> {
        let arp = self.bytes.get(14..42).filter(|_| self.kind() == 0x0806)?;
        (arp[14..18] == arp[24..28]).then(|| arp[14..18].try_into().unwrap())
    }

    /// The address that an unsolicited neighbour advertisement is for.
    pub fn unsolicited(&self) -> Option<[u8; 16]> {
        let message = self.bytes.get(54..86).filter(|_| self.kind() == 0x86dd && self.bytes[20] == 58)?;
        (message[0] == 136 && message[4] & 0x40 == 0).then(|| message[8..24].try_into().unwrap())
    }
}

/// What entered the switch since [`Lab::wire`].
pub struct Wire {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Wire {
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap().clone()
    }

    pub fn clear(&self) {
        self.frames.lock().unwrap().clear();
    }

    /// Waits for the first frame that `fits`.
    pub fn first(&self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        let mut found = None;
        wait_until(what, || {
            found = self.frames.lock().unwrap().iter().find(|frame| fits(frame)).cloned();
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn packet_socket() -> OwnedFd {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    let timeout = nix::sys::time::TimeVal::new(0, 50_000);
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).unwrap();
    socket
}

/// A frame that came in by a port. The bridge shows those that are for all once more as its own.
fn receive(socket: &OwnedFd, bridge: usize, buffer: &mut [u8]) -> Option<Frame> {
    const OUTGOING: u8 = 4;
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let message =
        recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()).ok()?;
    let at = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    })?;
    let incoming = message.address.is_some_and(|from| from.pkttype() != OUTGOING && from.ifindex() != bridge);
    let length = message.bytes;
    (incoming && length >= 34).then(|| Frame { at, bytes: buffer[..length].to_vec() })
}
