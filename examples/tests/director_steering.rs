//! The director steers the connections of an interface: each worker gets those of its CPUs. Two network namespaces, and between
//! them a pair of virtual interfaces.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

mod director;
#[path = "../../lb-affinity/tests/namespace/mod.rs"]
mod namespace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use director::{Director, Origin, client, eventually, simple};
use lb_affinity::thread;
use namespace::wire::{on_a_wire, set_rps};

const EACH: usize = 200;
const PORTS: [u16; 2] = [8080, 8081];

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 1], port))
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
                let clients = client.connect(address(port), EACH);
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
        let _clients = client.connect(address(8080), EACH);
        let counts = eventually("all connections", || {
            Some(by_worker(&director, 8080)).filter(|counts| counts.iter().sum::<usize>() == EACH)
        });
        // Six standard deviations of a fair coin are 43.
        assert!(counts.iter().all(|count| count.abs_diff(EACH / 2) < 43), "{counts:?}");
    });
}
