//! The client: requests of which it only wants to know who answered.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer that takes longer fails the test.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a request carries beside its pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    /// The client that the peer is to see; 192.0.2.1:1024 where a test does not care.
    pub(crate) source: Option<SocketAddrV4>,
    /// What follows the pool in the path: `a/b?c=d`.
    pub(crate) path: String,
    /// Header lines, without their line ends.
    pub(crate) headers: Vec<String>,
}

/// A connection to the peer.
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects as `source`, which the PROXY protocol (version 1) tells the peer.
    pub(super) fn open(socket: &Path, source: Option<SocketAddrV4>) -> Self {
        // From the block of addresses kept for documentation (RFC 5737).
        let source = source.unwrap_or(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1024));
        let mut stream = UnixStream::connect(socket).expect("connect to the peer");
        stream.set_read_timeout(Some(ANSWER_LIMIT)).expect("set a time limit");
        // In one write: HAProxy refuses a header that comes in pieces.
        let header = format!("PROXY TCP4 {} 192.0.2.2 {} 80\r\n", source.ip(), source.port());
        stream.write_all(header.as_bytes()).expect("reach the peer");
        Self { stream: BufReader::new(stream) }
    }

    /// Asks, and gives the name of the server that answered.
    pub(super) fn ask(&mut self, pool: usize, ask: &Ask) -> String {
        self.exchange(pool, &ask.path, ask)
    }

    /// Asks for an answer that does not end.
    pub(super) fn hold(mut self, pool: usize, ask: &Ask) -> Held {
        let server = self.exchange(pool, &format!("{}/hold", ask.path), ask);
        Held { server, _connection: self }
    }

    fn exchange(&mut self, pool: usize, path: &str, ask: &Ask) -> String {
        let mut request = format!("GET /pool{pool}/{path} HTTP/1.1\r\nHost: test\r\n");
        for header in &ask.headers {
            let _ = write!(request, "{header}\r\n");
        }
        request.push_str("\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).expect("send a request to the peer");
        let status = self.line();
        assert!(status.starts_with("HTTP/1.1 200"), "the peer answers {status:?} to {request:?}");
        let mut server = None;
        loop {
            let header = self.line();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("server-name")
            {
                server = Some(value.trim().to_owned());
            }
        }
        server.unwrap_or_else(|| panic!("an answer without a server's name to {request:?}"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the peer's answer within its time limit");
        assert!(line.ends_with('\n'), "the peer closed the connection in the middle of an answer");
        line.trim_end().to_owned()
    }
}

/// A request in flight; dropping it closes the client's side, which ends it at the peer.
pub(crate) struct Held {
    /// Who was chosen.
    pub(crate) server: String,
    _connection: Connection,
}
