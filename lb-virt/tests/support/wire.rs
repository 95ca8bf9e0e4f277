//! A stretch of network between two QEMUs that can be slowed, stopped and cut.
#![allow(dead_code, unreachable_pub)] // no one file of tests needs it all

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Carries what comes to its own address to another, and back.
pub struct Wire {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Bytes a second to the far end; 0: as fast as it goes.
    rate: AtomicU64,
    stalled: AtomicBool,
    /// Takes what comes, and keeps it.
    holds: AtomicBool,
    /// Breaks what is there, and lets nothing more in.
    cut: AtomicBool,
}

/// How much goes over at once.
const CHUNK: usize = 1 << 16;

impl Wire {
    pub fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while !shared.cut.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => carry(near, far, &shared),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(2))
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        Self { address, state }
    }

    pub fn rate(&self, bytes: u64) {
        self.state.rate.store(bytes, Ordering::Relaxed);
    }

    /// Lets nothing over, and tells nobody; or lets it go on.
    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Takes all that is sent and lets nothing over, and tells nobody; or lets it go on.
    pub fn hold(&self, holds: bool) {
        self.state.holds.store(holds, Ordering::Relaxed);
    }

    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

fn carry(near: TcpStream, far: SocketAddr, state: &Arc<State>) {
    let Ok(far) = TcpStream::connect(far) else { return };
    for stream in [&near, &far] {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (one, other) = (Arc::clone(state), Arc::clone(state));
    thread::spawn(move || pump(near, far, &one, true));
    thread::spawn(move || pump(far_too, near_too, &other, false));
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, limited: bool) {
    let mut buffer = [0; CHUNK];
    let mut due = Instant::now();
    let mut held = Vec::new();
    while !state.cut.load(Ordering::Relaxed) {
        if state.stalled.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let holds = state.holds.load(Ordering::Relaxed);
        if !holds && !held.is_empty() && to.write_all(&std::mem::take(&mut held)).is_err() {
            break;
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        if holds {
            held.extend_from_slice(&buffer[..count]);
            continue;
        }
        let rate = state.rate.load(Ordering::Relaxed);
        if limited && rate > 0 {
            due = due.max(Instant::now() - Duration::from_millis(20))
                + Duration::from_secs_f64(count as f64 / rate as f64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
