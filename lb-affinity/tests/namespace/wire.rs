//! A client at the other end of the interface: two network namespaces, and between them a pair of virtual interfaces of four queues
//! each.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use lb_affinity::CpuSet;
use nix::sched::{CloneFlags, unshare};

use super::{enter, ip, nr_cpu_ids};

const LIMIT: Duration = Duration::from_secs(30);

/// The thread at the other end: it connects as often as it is told to.
pub(crate) struct Client {
    asked: Sender<(SocketAddr, usize)>,
    connected: Receiver<Vec<TcpStream>>,
}

impl Client {
    pub(crate) fn connect(&self, to: SocketAddr, count: usize) -> Vec<TcpStream> {
        self.asked.send((to, count)).unwrap();
        self.connected.recv_timeout(LIMIT).expect("the client has connected")
    }
}

/// Runs a test in a thread whose namespace has the interface `a0` with the address 10.9.0.1, and a client at the other end. All of
/// it goes with the threads and the programs that they started.
pub(crate) fn on_a_wire(test: impl FnOnce(&Client) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        enter();
        ip("link set lo up");
        ip("link add a0 numrxqueues 4 numtxqueues 4 type veth peer name a1 numrxqueues 4 numtxqueues 4");
        ip("address add 10.9.0.1/24 dev a0");

        let (asked, asks) = channel::<(SocketAddr, usize)>();
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
            for (address, count) in asks {
                let connect = |_| TcpStream::connect_timeout(&address, LIMIT).unwrap();
                answer.send((0..count).map(connect).collect()).unwrap();
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

/// Hands the packets of all queues to these CPUs.
pub(crate) fn set_rps(cpus: &[u32]) {
    let cpus: CpuSet = cpus.iter().copied().collect();
    let mask = cpus.mask(nr_cpu_ids()).to_string();
    for queue in 0..4 {
        std::fs::write(format!("/sys/class/net/a0/queues/rx-{queue}/rps_cpus"), &mask).unwrap();
    }
}
