//! Packets go to the listener of the CPU that received them, on loopback, where that is the CPU of the sender.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lb_affinity::socket::{SocketError, Steering, busy_poll, incoming_cpu, set_busy_poll};
use lb_affinity::{CpuSet, thread};
use socket2::{Domain, Protocol, Socket, Type};

const EACH: usize = 300;

/// A socket that shares its port; 0 for a new one.
fn shared(kind: Type, port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, kind, None::<Protocol>).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn port(socket: &Socket) -> u16 {
    socket.local_addr().unwrap().as_socket().unwrap().port()
}

/// The first two CPUs that this thread may use: the test needs as many to tell anything.
fn two_cpus() -> [u32; 2] {
    let allowed: Vec<u32> = thread::affinity().unwrap().iter().collect();
    assert!(allowed.len() >= 2, "this test needs two CPUs, and may use {allowed:?}");
    [allowed[0], allowed[1]]
}

/// CPU n has socket n, and the other way round.
fn steerings(cpus: [u32; 2]) -> [(Steering, [u32; 2]); 3] {
    let crossed = Steering::new([(cpus[0], 1), (cpus[1], 0)]);
    let default = Steering::new([(cpus[0], 1)]).otherwise(0);
    let straight =
        if cpus == [0, 1] { Steering::same() } else { Steering::new([(cpus[0], 0), (cpus[1], 1)]) };
    [(straight, cpus), (crossed, [cpus[1], cpus[0]]), (default, [cpus[1], cpus[0]])]
}

#[test]
fn tcp_connections_go_to_the_listener_of_the_cpu_that_received_them() {
    let cpus = two_cpus();
    let first = shared(Type::STREAM, 0);
    let second = shared(Type::STREAM, port(&first));
    let address = SocketAddr::from(([127, 0, 0, 1], port(&first)));
    first.listen(1024).unwrap();
    second.listen(1024).unwrap();
    let listeners = [first, second].map(TcpListener::from);
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    for (steering, of_listener) in steerings(cpus) {
        steering.attach(&listeners[0]).unwrap();
        for cpu in cpus {
            thread::pin(&cpu.into()).unwrap();
            let clients: Vec<TcpStream> = (0..EACH).map(|_| TcpStream::connect(address).unwrap()).collect();
            let (mut right, mut all) = (0, 0);
            for (index, listener) in listeners.iter().enumerate() {
                while let Ok((stream, _)) = listener.accept() {
                    all += 1;
                    right += usize::from(incoming_cpu(&stream).unwrap() == Some(of_listener[index]));
                    assert_eq!(steering.sockets(of_listener[index]), [(index as u32, 1)]);
                }
            }
            assert_eq!(all, EACH);
            assert!(right * 100 >= EACH * 99, "{right} of {EACH} at the listener of CPU {cpu}: {steering:?}");
            // Reset, so that no ports are kept waiting.
            for mut client in clients {
                let _ = client.read(&mut [0]);
            }
        }
    }
}

#[test]
fn udp_packets_go_to_the_socket_of_the_cpu_that_received_them() {
    let cpus = two_cpus();
    let first = shared(Type::DGRAM, 0);
    let second = shared(Type::DGRAM, port(&first));
    let address = SocketAddr::from(([127, 0, 0, 1], port(&first)));
    let sockets = [first, second].map(UdpSocket::from);
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    for (steering, _) in steerings(cpus) {
        steering.attach(&sockets[1]).unwrap();
        for cpu in cpus {
            assert_eq!(thread::pin(&cpu.into()).unwrap(), CpuSet::from(cpu));
            let (mut right, mut all) = (0, 0);
            for _ in 0..EACH {
                // A port of its own each, so that a hash would spread them.
                UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", address).unwrap();
                for (index, socket) in sockets.iter().enumerate() {
                    while socket.recv(&mut [0]).is_ok() {
                        all += 1;
                        // A socket without a peer keeps no incoming CPU; on loopback it is the sender's.
                        right += usize::from(steering.sockets(cpu) == [(index as u32, 1)]);
                    }
                }
            }
            assert_eq!(all, EACH);
            assert!(right * 100 >= EACH * 99, "{right} of {EACH} at the socket of CPU {cpu}: {steering:?}");
        }
    }
}

/// Whether a socket has got its part of so many: within five standard deviations.
fn is_share(got: usize, all: usize, part: f64) -> bool {
    let wanted = all as f64 * part;
    (got as f64 - wanted).abs() <= 5.0 * (wanted * (1.0 - part)).sqrt()
}

#[test]
fn a_cpu_shares_its_packets_among_sockets_and_a_flow_stays() {
    let [cpu, _] = two_cpus();
    let first = shared(Type::DGRAM, 0);
    let second = shared(Type::DGRAM, port(&first));
    let address = SocketAddr::from(([127, 0, 0, 1], port(&first)));
    let sockets = [first, second].map(UdpSocket::from);
    Steering::new([(cpu, 0), (cpu, 1), (cpu, 1), (cpu, 1)]).attach(&sockets[0]).unwrap();
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
    }
    let count = |socket: &UdpSocket| std::iter::from_fn(|| socket.recv(&mut [0]).ok()).count();
    thread::pin(&cpu.into()).unwrap();

    // A socket without a peer takes no hash: chance chooses for each packet.
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut got = [0, 0];
    for _ in 0..20 * EACH {
        sender.send_to(b"x", address).unwrap();
        for (got, socket) in got.iter_mut().zip(&sockets) {
            *got += count(socket);
        }
    }
    assert_eq!(got[0] + got[1], 20 * EACH);
    assert!(is_share(got[0], 20 * EACH, 0.25), "{got:?}");

    // One with a peer has a hash of its own, and so its packets one socket.
    let mut flows = [0, 0];
    for _ in 0..4 * EACH {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(address).unwrap();
        for _ in 0..4 {
            sender.send(b"x").unwrap();
        }
        match sockets.each_ref().map(count) {
            [4, 0] => flows[0] += 1,
            [0, 4] => flows[1] += 1,
            other => panic!("a flow of 4 packets is at both sockets: {other:?}"),
        }
    }
    assert!(is_share(flows[0], 4 * EACH, 0.25), "{flows:?}");
}

#[test]
fn without_a_capability_a_busy_poll_is_set_or_the_capability_named() {
    std::thread::spawn(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = busy_poll(&socket).unwrap();
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        // socket(7) demands the capability; Linux 6.18 does not.
        match set_busy_poll(&socket, before + 50) {
            Ok(()) => assert_eq!(busy_poll(&socket).unwrap(), before + 50),
            Err(error) => {
                assert!(matches!(error, SocketError::BusyPoll { .. }), "{error}");
                assert_eq!(busy_poll(&socket).unwrap(), before);
            }
        }
    })
    .join()
    .unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_busy_poll_reads_back() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    set_busy_poll(&socket, 50).unwrap();
    assert_eq!(busy_poll(&socket).unwrap(), 50);
    set_busy_poll(&socket, 0).unwrap();
    assert_eq!(busy_poll(&socket).unwrap(), 0);
}
