//! Connections that come by a network interface go to the listeners of the CPU that RPS chose for them: two network namespaces, and
//! between them a pair of virtual interfaces of four queues each.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod namespace;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use lb_affinity::fs::Real;
use lb_affinity::plan::{Planner, Receive, Strategy};
use lb_affinity::socket::{Steering, incoming_cpu};
use lb_affinity::{Interrupts, Nic, Topology, thread};
use namespace::wire::{Client, on_a_wire, set_rps};
use socket2::{Domain, Protocol, Socket, Type};

const BATCHES: usize = 20;
const BATCH: usize = 150;
const ALL: usize = BATCHES * BATCH;

/// The first two CPUs that this thread may use: with fewer, nothing is told apart.
fn two_cpus() -> [u32; 2] {
    let allowed: Vec<u32> = thread::affinity().unwrap().iter().collect();
    assert!(allowed.len() >= 2, "this test needs two CPUs, and may use {allowed:?}");
    [allowed[0], allowed[1]]
}

fn listeners(count: usize) -> Vec<TcpListener> {
    let mut address = SocketAddr::from(([10, 9, 0, 1], 0));
    let listener = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        address = listener.local_addr().unwrap();
        listener
    };
    (0..count).map(listener).collect()
}

/// Connects, and counts by the CPU that received a connection and the listener that got it.
fn count(client: &Client, listeners: &[TcpListener]) -> BTreeMap<(u32, u32), usize> {
    let address = listeners[0].local_addr().unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..BATCHES {
        let _clients = client.connect(address, BATCH);
        let (mut left, until) = (BATCH, Instant::now() + Duration::from_secs(10));
        while left > 0 {
            assert!(Instant::now() < until, "{left} connections are not accepted");
            for (index, listener) in (0..).zip(listeners) {
                while let Ok((stream, _)) = listener.accept() {
                    let cpu = incoming_cpu(&stream).unwrap().expect("a connection has a CPU");
                    *counts.entry((cpu, index)).or_insert(0) += 1;
                    left -= 1;
                }
            }
        }
    }
    counts
}

/// At least 99 of 100 are where the steering has them.
fn assert_steered(steering: &Steering, counts: &BTreeMap<(u32, u32), usize>) {
    let named = |cpu: u32, index: u32| steering.sockets(cpu).iter().any(|(socket, _)| *socket == index);
    let right: usize =
        counts.iter().filter(|((cpu, index), _)| named(*cpu, *index)).map(|(_, count)| count).sum();
    println!("{right} of {ALL} as steered: {steering}; {counts:?}");
    assert!(right * 100 >= ALL * 99, "{right} of {ALL} for {steering}: {counts:?}");
}

/// Within five standard deviations.
fn assert_share(what: &str, got: usize, all: usize, part: f64) {
    let wanted = all as f64 * part;
    let deviation = (wanted * (1.0 - part)).sqrt();
    assert!((got as f64 - wanted).abs() <= 5.0 * deviation + 1.0, "{what}: {got} of {all} instead of {part}");
}

fn sum(counts: &BTreeMap<(u32, u32), usize>, wanted: impl Fn(u32, u32) -> bool) -> usize {
    counts.iter().filter(|((cpu, index), _)| wanted(*cpu, *index)).map(|(_, count)| count).sum()
}

#[test]
#[ignore = "needs root"]
fn each_socket_has_its_share_of_the_connections_of_its_cpu() {
    on_a_wire(|client| {
        let [one, other] = two_cpus();
        let listeners = listeners(4);
        let steering = Steering::new([(one, 0), (one, 0), (one, 0), (one, 1), (other, 2), (other, 3)]);
        steering.attach(&listeners[2]).unwrap();

        set_rps(&[one, other]);
        let counts = count(client, &listeners);
        assert_steered(&steering, &counts);
        let of_one = sum(&counts, |cpu, _| cpu == one);
        assert_share("a CPU's connections", of_one, ALL, 0.5);
        assert_share("three quarters", sum(&counts, |cpu, index| (cpu, index) == (one, 0)), of_one, 0.75);
        let of_other = sum(&counts, |cpu, _| cpu == other);
        assert_share("a half", sum(&counts, |cpu, index| (cpu, index) == (other, 2)), of_other, 0.5);

        // All by one CPU: the sockets of the other get nothing.
        set_rps(&[other]);
        let counts = count(client, &listeners);
        assert_steered(&steering, &counts);
        assert_eq!(sum(&counts, |cpu, _| cpu == other), ALL, "{counts:?}");
        assert_share("a half of all", sum(&counts, |_, index| index == 2), ALL, 0.5);
    });
}

#[test]
#[ignore = "needs root"]
fn a_plan_gives_every_worker_as_many_from_its_cpus() {
    on_a_wire(|client| {
        set_rps(&two_cpus());
        let topology = Topology::live().unwrap();
        let nic = Nic::read(&Real, "a0", &Interrupts::read(&Real).unwrap()).unwrap();
        // It leaves the network side as it finds it.
        let planner = Planner::new(&topology).receive(Receive::from(&nic)).strategy(Strategy::None);
        let steering = planner.workers(3).plan().unwrap().steering(&topology).unwrap();
        assert_eq!(steering.cpus().collect::<Vec<_>>(), two_cpus());
        let listeners = listeners(3);
        steering.attach(&listeners[0]).unwrap();
        let counts = count(client, &listeners);
        assert_steered(&steering, &counts);
        for worker in 0..3 {
            assert_share("a worker", sum(&counts, |_, index| index == worker), ALL, 1.0 / 3.0);
        }
    });
}
