//! A client that pings an address all the time.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Host, inside, now};

/// Sends an ICMP echo request every `period` and notes when the answers come.
#[derive(Debug)]
pub(crate) struct Probe {
    answers: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// Begins.
    pub(crate) fn new(host: &Host, target: Ipv4Addr, period: Duration) -> Self {
        let socket = inside(&host.namespace, || {
            Socket::new(Domain::IPV4, Type::RAW.cloexec(), Some(Protocol::ICMPV4)).expect("root may ping")
        });
        socket.connect(&SocketAddrV4::new(target, 0).into()).expect("a route");
        let (answers, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket has a timeout");
        let socket = Arc::new(socket);
        let sender = {
            let (socket, stop) = (Arc::clone(&socket), Arc::clone(&stop));
            thread::spawn(move || ask(&socket, period, &stop))
        };
        let receiver = {
            let (answers, stop) = (Arc::clone(&answers), Arc::clone(&stop));
            thread::spawn(move || listen(&socket, &answers, &stop))
        };
        Self { answers, stop, threads: vec![sender, receiver] }
    }

    /// When answers came, from `since` on.
    pub(crate) fn answers(&self, since: Duration) -> Vec<Duration> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().copied().filter(|&at| at >= since).collect()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // its panic was printed
        }
    }
}

fn ask(socket: &Socket, period: Duration, stop: &AtomicBool) {
    let mut next = Instant::now();
    let mut sequence = 0_u16;
    while !stop.load(Ordering::Relaxed) {
        // What no router answers is lost, as the client would see it.
        let _ = socket.send(&echo_request(sequence));
        sequence = sequence.wrapping_add(1);
        next += period;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn listen(mut socket: &Socket, answers: &Mutex<Vec<Duration>>, stop: &AtomicBool) {
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        // The first byte of the message, behind the header of IP: 0 is an answer.
        if socket.read(&mut buffer).is_ok_and(|len| len > 20) && buffer[20] == 0 {
            answers.lock().unwrap_or_else(PoisonError::into_inner).push(now());
        }
    }
}

/// Type 8, an identifier of no meaning, and the checksum (RFC 792).
fn echo_request(sequence: u16) -> [u8; 8] {
    const TYPE: u16 = 0x0800;
    const IDENTIFIER: u16 = 0x7672;
    let mut sum = u32::from(TYPE) + u32::from(IDENTIFIER) + u32::from(sequence);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let mut message = [0; 8];
    for (at, word) in [TYPE, !(sum as u16), IDENTIFIER, sequence].into_iter().enumerate() {
        message[2 * at..2 * at + 2].copy_from_slice(&word.to_be_bytes());
    }
    message
}
