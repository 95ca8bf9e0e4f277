//! The director steers the connections of an interface: each worker gets those of its CPUs. Two network namespaces, and between
//! them a pair of virtual interfaces.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use director::{Director, LIMIT, Origin, client, eventually, simple};
use lb_affinity::{CpuSet, Topology, thread};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const EACH: usize = 200;
const PORTS: [u16; 2] = [8080, 8081];

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip of iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The thread at the other end: it connects [`EACH`] times when it is told to.
struct Client {
    asked: Sender<SocketAddr>,
    connected: Receiver<Vec<TcpStream>>,
}

impl Client {
    fn connect(&self, port: u16) -> Vec<TcpStream> {
        self.asked.send(SocketAddr::from(([10, 9, 0, 1], port))).unwrap();
        self.connected.recv_timeout(LIMIT).expect("the client has connected")
    }
}

/// Runs a test in a thread whose namespace has the interface `a0` with the address 10.9.0.1, and a client at the other end. All of
/// it goes with the threads and the programs that they started.
fn on_a_wire(test: impl FnOnce(&Client) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // The thread has its own root and working directory then, as a mount namespace of its own requires.
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing).unwrap();
        ip("link set lo up");
        ip("link add a0 type veth peer name a1");
        ip("address add 10.9.0.1/24 dev a0");

        let (asked, asks) = channel::<SocketAddr>();
        let (answer, connected) = channel();
        let (entered, has_entered) = channel();
        let (moved, has_moved) = channel::<()>();
        let client = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            entered.send(nix::unistd::gettid()).unwrap();
            has_moved.recv().unwrap();
            ip("address add 10.9.0.2/24 dev a1");
            ip("link set a1 up");
            answer.send(Vec::new()).unwrap();
            for address in asks {
                let connect = |_| TcpStream::connect_timeout(&address, LIMIT).unwrap();
                answer.send((0..EACH).map(connect).collect()).unwrap();
            }
        });
        let inside = has_entered.recv_timeout(LIMIT).expect("the client has a namespace");
        ip(&format!("link set a1 netns {inside}"));
        ip("link set a0 up");
        moved.send(()).unwrap();
        connected.recv_timeout(LIMIT).expect("the client has an address");
        test(&Client { asked, connected });
        client.join().unwrap();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Hands the interface's packets to these CPUs.
fn set_rps(cpus: &[u32]) {
    let cpus: CpuSet = cpus.iter().copied().collect();
    let mask = cpus.mask(Topology::live().unwrap().nr_cpu_ids()).to_string();
    std::fs::write("/sys/class/net/a0/queues/rx-0/rps_cpus", mask).unwrap();
}

/// How many connections to the port each worker has accepted: a worker is the listener of its number, and waits for its sockets
/// with an epoll of its own.
fn by_worker(director: &Director, port: u16) -> Vec<usize> {
    let proc = format!("/proc/{}", director.pid());
    // The state and the inode of each TCP socket of that port.
    let table = std::fs::read_to_string(format!("{proc}/net/tcp")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.ends_with(&format!(":{port:04X}"));
        local.then(|| (format!("socket:[{}]", fields[9]), fields[3] == "0A"))
    });
    let sockets: BTreeMap<String, bool> = rows.collect();
    let (mut listeners, mut connections, mut epolls) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for entry in std::fs::read_dir(format!("{proc}/fd")).unwrap() {
        let entry = entry.unwrap();
        let fd: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let Ok(what) = std::fs::read_link(entry.path()) else { continue };
        match sockets.get(what.to_str().unwrap()) {
            Some(true) => drop(listeners.insert(fd)),
            Some(false) => drop(connections.insert(fd)),
            None if what.as_os_str() == "anon_inode:[eventpoll]" => epolls.push(fd),
            None => {}
        }
    }
    let watched: Vec<BTreeSet<u32>> = epolls
        .iter()
        .map(|fd| {
            let info = std::fs::read_to_string(format!("{proc}/fdinfo/{fd}")).unwrap();
            let fds = info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
            fds.map(|fd| fd.parse().unwrap()).collect()
        })
        .collect();
    // They were opened in the order of the workers.
    let of = |listener: &u32| {
        let own = watched.iter().find(|watched| watched.contains(listener));
        own.map_or(0, |watched| watched.intersection(&connections).count())
    };
    listeners.iter().map(of).collect()
}

#[test]
#[ignore = "needs root"]
fn each_worker_gets_the_connections_of_its_cpus() {
    let allowed: Vec<u32> = thread::affinity().unwrap().iter().collect();
    assert!(allowed.len() >= 2, "this test needs two CPUs, and may use {allowed:?}");
    let cpus = [allowed[0], allowed[1]];
    on_a_wire(move |client| {
        set_rps(&cpus);
        let origin = Origin::start("a");
        // The policy leaves the network side as it is.
        let config = |listen: &str| {
            let affinity = "[affinity]\nstrategy = \"none\"\ninterface = \"a0\"\nsteering = true\n";
            format!("{affinity}{}", simple(&[&origin], "").replace("\"@http\"", listen))
        };
        let director = Director::start(&config("[\"@http\", \"10.9.0.1:8080\"]"));
        let said = director.stderr();
        assert!(said.contains(&format!("from CPU to worker: {} → 0, {} → 1\n", cpus[0], cpus[1])), "{said}");

        // Also of an address that a reload adds.
        director.configure(&config("[\"@http\", \"10.9.0.1:8080\", \"10.9.0.1:8081\"]"));
        let said = director.reload();
        assert!(said.contains("is reloaded"), "{said}");
        for port in PORTS {
            for (worker, cpu) in cpus.into_iter().enumerate() {
                set_rps(&[cpu]);
                // Those of the last round are closed.
                eventually("no connection", || (by_worker(&director, port) == [0, 0]).then_some(()));
                let clients = client.connect(port);
                let counts = eventually("all connections", || {
                    Some(by_worker(&director, port)).filter(|counts| counts.iter().sum::<usize>() == EACH)
                });
                println!("port {port}, CPU {cpu}: {counts:?}");
                assert!(counts[worker] * 100 >= EACH * 99, "{counts:?} at the workers, all by CPU {cpu}");
                drop(clients);
            }
        }
        assert_eq!(client::get(director.http, "/").status, 200);
    });
}

#[test]
#[ignore = "needs root"]
fn where_one_cpu_receives_all_the_kernel_spreads() {
    on_a_wire(|client| {
        set_rps(&[thread::affinity().unwrap().first().unwrap()]);
        let origin = Origin::start("a");
        let affinity = "[affinity]\nstrategy = \"none\"\ninterface = \"a0\"\nsteering = true\n";
        let config = simple(&[&origin], "").replace("\"@http\"", "\"10.9.0.1:8080\"");
        let director = Director::start(&format!("{affinity}{config}"));
        let said = director.stderr();
        assert!(said.contains("; the kernel spreads connections"), "{said}");
        let _clients = client.connect(8080);
        let counts = eventually("all connections", || {
            Some(by_worker(&director, 8080)).filter(|counts| counts.iter().sum::<usize>() == EACH)
        });
        // Six standard deviations of a fair coin are 43.
        assert!(counts.iter().all(|count| count.abs_diff(EACH / 2) < 43), "{counts:?}");
    });
}
