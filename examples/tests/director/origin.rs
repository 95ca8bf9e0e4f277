//! A small server that answers with its own name, and misbehaves when its path says so.
//!
//! | path | what it does |
//! |---|---|
//! | `/` | its name |
//! | `/echo` | the request as it arrived: head, then body |
//! | `/status/N` | status N |
//! | `/sleep/MS` | its name, MS milliseconds later |
//! | `/big/N` | N bytes |
//! | `/chunked` | two chunks and a trailer |
//! | `/close` | closes without an answer |
//! | `/stall` | no answer at all |
//! | `/half` | half of an answer, then it closes |
//! | `/drip/MS` | half of an answer, MS milliseconds later, then nothing |
//! | `/upgrade` | 101, then it echoes bytes |
//! | `/old` | an answer of HTTP/1.0 that ends with the connection |

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The server; it stops when it is dropped.
pub struct Origin {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    address: SocketAddr,
    stopped: AtomicBool,
    /// Answers every request with 500.
    broken: AtomicBool,
    connections: Mutex<HashMap<usize, TcpStream>>,
    accepted: AtomicUsize,
    requests: AtomicUsize,
    /// What every connection began with, when it was a PROXY protocol header.
    proxied: Mutex<Vec<Vec<u8>>>,
    raw: bool,
}

impl Origin {
    /// Serves HTTP.
    pub fn start(name: &str) -> Self {
        Self::listen(name, "127.0.0.1:0".parse().unwrap(), false)
    }

    /// Sends its name and a newline on every connection, then echoes bytes.
    pub fn tcp(name: &str) -> Self {
        Self::listen(name, "127.0.0.1:0".parse().unwrap(), true)
    }

    fn listen(name: &str, address: SocketAddr, raw: bool) -> Self {
        // Not std's bind: another one must be able to take the port again at once.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            stopped: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            proxied: Mutex::default(),
            raw,
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.accept(&listener))
        };
        Self { shared, accepting: Some(accepting) }
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The PROXY protocol headers seen so far.
    pub fn proxied(&self) -> Vec<Vec<u8>> {
        self.shared.proxied.lock().unwrap().clone()
    }

    /// From now on every answer is a 500, or not.
    pub fn set_broken(&self, broken: bool) {
        self.shared.broken.store(broken, Ordering::SeqCst);
    }

    /// Closes every connection that is open, but goes on.
    pub fn close_connections(&self) {
        for (_, stream) in self.shared.connections.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Dies as a killed process does: nobody listens, every connection is reset or closed.
    pub fn kill(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.shared.address);
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
        self.close_connections();
    }

    /// Lives again, at the same address.
    pub fn restart(&mut self) {
        let next = Self::listen(&self.shared.name, self.shared.address, self.shared.raw);
        *self = next;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if self.accepting.is_some() {
            self.kill();
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let number = self.accepted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.set_nodelay(true);
            self.connections.lock().unwrap().insert(number, stream.try_clone().unwrap());
            let shared = Arc::clone(&self);
            std::thread::spawn(move || {
                // A client that goes away ends its connection.
                let _ = if shared.raw { shared.echo(stream) } else { shared.serve(stream) };
                if let Some(stream) = shared.connections.lock().unwrap().remove(&number) {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            });
        }
    }

    fn echo(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        writeln!(stream, "{}", self.name)?;
        let start = reader.fill_buf()?.to_vec();
        if start.starts_with(b"PROXY ") || start.starts_with(b"\r\n\r\n\0") {
            self.proxied.lock().unwrap().push(start);
        }
        std::io::copy(&mut reader, &mut stream)?;
        stream.shutdown(Shutdown::Write)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        self.proxy_header(&mut reader)?;
        while let Some(request) = Request::read(&mut reader, &mut stream)? {
            self.requests.fetch_add(1, Ordering::SeqCst);
            if !self.answer(&request, &mut reader, &mut stream)? {
                break;
            }
        }
        Ok(())
    }

    fn proxy_header(&self, reader: &mut BufReader<TcpStream>) -> std::io::Result<()> {
        let start = reader.fill_buf()?;
        let mut header = Vec::new();
        if start.starts_with(b"PROXY ") {
            reader.read_until(b'\n', &mut header)?;
        } else if start.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
            header.resize(16, 0);
            reader.read_exact(&mut header)?;
            let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
            header.resize(16 + length, 0);
            reader.read_exact(&mut header[16..])?;
        } else {
            return Ok(());
        }
        self.proxied.lock().unwrap().push(header);
        Ok(())
    }

    /// Answers; whether the connection goes on.
    fn answer(
        &self,
        request: &Request,
        reader: &mut BufReader<TcpStream>,
        stream: &mut TcpStream,
    ) -> std::io::Result<bool> {
        let mut parts = request.target.trim_start_matches('/').splitn(2, ['/', '?']);
        let (page, argument) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let number: usize = argument.parse().unwrap_or(0);
        let head = request.method == "HEAD";
        if self.broken.load(Ordering::SeqCst) && page != "health" {
            reply(stream, 500, "broken", head)?;
            return Ok(true);
        }
        match page {
            "echo" => reply(stream, 200, &format!("{}{}", request.head, request.body), head)?,
            "status" => reply(stream, number as u16, &self.name, head)?,
            "sleep" => {
                std::thread::sleep(Duration::from_millis(number as u64));
                reply(stream, 200, &self.name, head)?;
            }
            "big" => reply(stream, 200, &"x".repeat(number), head)?,
            "chunked" => stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                  5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n",
            )?,
            "close" => return Ok(false),
            "stall" => {
                // Until the other side gives up.
                let _ = reader.fill_buf()?;
                return Ok(false);
            }
            "half" | "drip" => {
                std::thread::sleep(Duration::from_millis(number as u64));
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")?;
                if page == "drip" {
                    let _ = reader.fill_buf()?;
                }
                return Ok(false);
            }
            "upgrade" => {
                let (connection, upgrade) = ("Connection: Upgrade", "Upgrade: echo");
                stream.write_all(
                    format!("HTTP/1.1 101 Switching Protocols\r\n{connection}\r\n{upgrade}\r\n\r\nhi ")
                        .as_bytes(),
                )?;
                std::io::copy(reader, stream)?;
                return Ok(false);
            }
            "old" => {
                stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{}", self.name).as_bytes())?;
                return Ok(false);
            }
            _ => reply(stream, 200, &self.name, head)?,
        }
        Ok(!request.closes)
    }
}

/// Answers the first request of every connection with these bytes, and then waits for the other side to close.
pub fn saying(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), answer.into());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone()?);
                let mut line = String::new();
                while reader.read_line(&mut line)? > 2 {
                    line.clear();
                }
                stream.write_all(&answer)?;
                reader.read_to_end(&mut Vec::new())
            });
        }
    });
    address
}

fn reply(stream: &mut TcpStream, status: u16, body: &str, head: bool) -> std::io::Result<()> {
    let shown = if head { "" } else { body };
    let response = format!(
        "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\nConnection: keep-alive\r\nX-Own: 1\r\n\r\n{shown}",
        body.len()
    );
    stream.write_all(response.as_bytes())
}

struct Request {
    method: String,
    target: String,
    head: String,
    body: String,
    closes: bool,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>, stream: &mut TcpStream) -> std::io::Result<Option<Self>> {
        let mut head = String::new();
        loop {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(None);
            }
            if &head[start..] == "\r\n" {
                break;
            }
        }
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| {
            lower
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        if field("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        if field("transfer-encoding").is_some() {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
                let mut chunk = vec![0; size];
                reader.read_exact(&mut chunk)?;
                body.extend_from_slice(&chunk);
                if size > 0 {
                    reader.read_line(&mut line)?;
                    continue;
                }
                loop {
                    line.clear();
                    if reader.read_line(&mut line)? == 0 || line == "\r\n" {
                        break;
                    }
                    body.extend_from_slice(line.as_bytes());
                }
                break;
            }
        } else if let Some(length) = field("content-length") {
            body.resize(length.parse().unwrap_or(0), 0);
            reader.read_exact(&mut body)?;
        }
        let mut words = head.split(' ');
        Ok(Some(Self {
            method: words.next().unwrap_or("").to_owned(),
            target: words.next().unwrap_or("").to_owned(),
            closes: field("connection").is_some_and(|value| value == "close"),
            body: String::from_utf8_lossy(&body).into_owned(),
            head,
        }))
    }
}
