//! Little HTTP servers that answer each request with their own name.

use super::server_name;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// No request of a test waits longer than this for its next byte.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Servers on loopback, each on a port of its own that it holds from the beginning.
pub(super) struct NamedServers {
    addresses: Vec<SocketAddr>,
    stopped: Arc<AtomicBool>,
}

impl NamedServers {
    pub(super) fn start(count: usize) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let addresses = (0..count)
            .map(|i| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback");
                let address = listener.local_addr().expect("the address of a listener");
                let stopped = Arc::clone(&stopped);
                thread::spawn(move || serve(&listener, &server_name(i), &stopped));
                address
            })
            .collect();
        Self { addresses, stopped }
    }

    pub(super) fn address(&self, i: usize) -> SocketAddr {
        self.addresses[i]
    }
}

impl Drop for NamedServers {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        for address in &self.addresses {
            // Wakes the thread that waits in `accept`; one that has ended needs no waking.
            let _ = TcpStream::connect(address);
        }
    }
}

fn serve(listener: &TcpListener, name: &str, stopped: &AtomicBool) {
    for connection in listener.incoming() {
        if stopped.load(Ordering::Acquire) {
            return;
        }
        let Ok(connection) = connection else { continue };
        let name = name.to_owned();
        // An error here is the peer closing; the test sees it where it asks.
        thread::spawn(move || answer_all(connection, &name));
    }
}

fn answer_all(connection: TcpStream, name: &str) -> std::io::Result<()> {
    connection.set_read_timeout(Some(IDLE_LIMIT))?;
    connection.set_nodelay(true)?;
    let mut answers = connection.try_clone()?;
    let mut lines = BufReader::new(connection).lines();
    while let Some(request_line) = lines.next().transpose()? {
        let mut close = request_line.ends_with("HTTP/1.0");
        for header in lines.by_ref() {
            let header = header?;
            if header.is_empty() {
                break;
            }
            close |= header.eq_ignore_ascii_case("connection: close");
        }
        if request_line.split_ascii_whitespace().nth(1).is_some_and(|path| path.ends_with("/hold")) {
            // The name in a header at once, the body never: the request is in flight until the client goes.
            answers.write_all(answer(name, 1).as_bytes())?;
            continue;
        }
        answers.write_all(answer(name, 0).as_bytes())?;
        if close {
            return Ok(());
        }
    }
    Ok(())
}

/// An answer's head, sent in one write.
fn answer(name: &str, length: u32) -> String {
    format!("HTTP/1.1 200 OK\r\nServer-Name: {name}\r\nContent-Length: {length}\r\n\r\n")
}
