//! Clients that send what they are told and read what comes, byte for byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::connect;

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// In lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What came behind a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// A connection that stays open between requests.
pub struct Connection {
    pub reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self { reader: BufReader::new(connect(address)) }
    }

    pub fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// A request without a body.
    pub fn request(&mut self, method: &str, target: &str, headers: &str) -> Response {
        self.send(&format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"));
        self.response(method)
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, "")
    }

    /// The next line, without its end; `None` at the end of the stream.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next response to a request with that method, if there is one.
    pub fn try_response(&mut self, method: &str) -> Option<Response> {
        let first = self.line()?;
        let status: u16 = first.split(' ').nth(1)?.parse().ok()?;
        let headers = self.fields()?;
        let find =
            |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        if method == "HEAD" || status == 204 || status == 304 || status < 200 {
        } else if find("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(self.line()?.split(';').next()?, 16).ok()?;
                if size == 0 {
                    break;
                }
                let start = body.len();
                body.resize(start + size, 0);
                self.reader.read_exact(&mut body[start..]).ok()?;
                self.line()?;
            }
            trailers = self.fields()?;
        } else if let Some(length) = find("content-length") {
            body.resize(length.parse().ok()?, 0);
            self.reader.read_exact(&mut body).ok()?;
        } else {
            self.reader.read_to_end(&mut body).ok()?;
        }
        Some(Response { status, headers, body: String::from_utf8_lossy(&body).into_owned(), trailers })
    }

    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).expect("a response")
    }

    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(fields);
            }
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Whether the other side has closed.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.reader.fill_buf() {
                // A read with a timeout is interrupted where others go on (signal(7)).
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                seen => return matches!(seen, Ok([]) | Err(_)),
            }
        }
    }

    pub fn half_close(&self) {
        self.reader.get_ref().shutdown(Shutdown::Write).unwrap();
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, target: &str) -> Response {
    Connection::open(address).get(target)
}

/// Sends bytes, and gives all that comes until the other side closes.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address);
    super::send(&mut stream, bytes);
    super::read_to_end(&mut stream)
}

/// The response at the start of what came.
pub fn parse(bytes: &[u8]) -> Response {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response in {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Response { status, headers, body: body.to_owned(), trailers: Vec::new() }
}
