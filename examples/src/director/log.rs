//! The access log: one line a request in HAProxy's HTTP format, buffered by each worker, written by a thread of its
//! own, so that a slow disk or terminal never holds a request up.
//!
//! ```text
//! 127.0.0.1:40422 [20/Nov/2026:18:40:01.123] web app/s1 0/0/1/12/13 200 512 - - ---- 0/1/2/3/0 0/0 "GET / HTTP/1.1"
//! ```
//!
//! After the status and the bytes of the answer's body come HAProxy's four characters of the termination state: who
//! ended it (`C`lient, `S`erver, `P`roxy; small for a timeout; `-` for nobody), when (`R`equest, `Q`ueue, `C`onnect,
//! `H`eader, `D`ata), what the persistence cookie was (`N`one, `V`alid, `I`nvalid, `D`own), and what was done with
//! it (`N`othing, `I`nserted). The times are milliseconds: reading the header (always 0), in the queue, connecting,
//! until the answer's header, in all; then open connections of the worker and the frontend, requests of the backend
//! and the server, retries (`+`: on another server), and the queues.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::{Method, Request, Uri, Version};

use crate::client::Client;
use crate::config::AccessLog;
use crate::counters::Counter;
use crate::site::{Frontend, Server};

/// A worker's buffer is sent to the writer when it has this many bytes.
const BUFFER: usize = 32 * 1024;
/// Buffers that wait for the writer; more are dropped and counted.
const WAITING: usize = 64;

/// What became of the persistence cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CookieState {
    /// There is no such thing here.
    #[default]
    Unused,
    /// The client had none, and got one.
    Inserted,
    /// The client had one, and its server was used.
    Valid,
    /// The client's named no server, and it got another.
    Invalid,
    /// The client's server could not be used, and it got another.
    Down,
}

impl CookieState {
    fn characters(self) -> &'static str {
        match self {
            Self::Unused => "--",
            Self::Inserted => "NI",
            Self::Valid => "VN",
            Self::Invalid => "II",
            Self::Down => "DI",
        }
    }
}

/// What a client asked for.
#[derive(Debug)]
enum Asked {
    Request(Method, Uri, Version),
    /// A connection in tcp mode.
    Connection,
    /// What cannot be read as a request.
    Malformed,
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection => f.write_str("<TCP>"),
            Self::Malformed => f.write_str("<BADREQ>"),
            Self::Request(method, target, version) => {
                write!(f, "{method} ")?;
                escape(&without_user(target), f)?;
                write!(f, " {version:?}")
            }
        }
    }
}

/// A target as it came, but for a user's name and password in it: those are nobody's to read.
fn without_user(target: &Uri) -> String {
    let text = target.to_string();
    match target.authority().and_then(|authority| authority.as_str().rsplit_once('@')) {
        Some((user, _)) => text.replacen(&format!("{user}@"), "", 1),
        None => text,
    }
}

/// A quote would end the field, and what is not ASCII may do things to a terminal: `#` and two hexadecimal digits, as
/// HAProxy has it.
fn escape(text: &str, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'"' | b'#' | 0..=b' ' | 127.. => write!(f, "#{byte:02X}")?,
            _ => f.write_char(char::from(byte))?,
        }
    }
    Ok(())
}

/// What a log line says of a request beyond what is known anyway.
#[derive(Debug)]
pub(crate) struct Record {
    asked: Asked,
    /// Time in a queue.
    pub(crate) queued: Option<Duration>,
    /// Time to connect; none on a connection that was there.
    pub(crate) connect: Option<Duration>,
    /// Time from the attempt to the server's header.
    pub(crate) response: Option<Duration>,
    /// The cookie's part.
    pub(crate) cookie: CookieState,
}

impl Record {
    /// Of a request as it came.
    pub(crate) fn new<B>(request: &Request<B>) -> Self {
        Self::of(Asked::Request(request.method().clone(), request.uri().clone(), request.version()))
    }

    /// Of a connection without requests.
    pub(crate) fn of_connection() -> Self {
        Self::of(Asked::Connection)
    }

    fn of(asked: Asked) -> Self {
        Self { asked, queued: None, connect: None, response: None, cookie: CookieState::Unused }
    }
}

/// All of a log line.
pub(crate) struct Line<'l> {
    /// The request.
    pub(crate) record: &'l Record,
    /// Whose.
    pub(crate) client: &'l Client,
    /// Where it came in.
    pub(crate) frontend: &'l Frontend,
    /// Who answered, or was the last that did not, and the requests that it works on now.
    pub(crate) server: Option<(&'l Server, u32)>,
    /// From the request's header to the end.
    pub(crate) total: Duration,
    /// What the client got.
    pub(crate) status: u16,
    /// Bytes of the answer's body.
    pub(crate) bytes: u64,
    /// Who ended it and when.
    pub(crate) termination: [u8; 2],
    /// Attempts after the first.
    pub(crate) retries: u32,
}

/// The place that all workers' buffers go to.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Lines(Vec<u8>),
    Target(Target),
    /// Everything sent before is written when this is dropped.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
enum Target {
    Off,
    Stdout,
    File(File),
}

impl Target {
    fn open(log: &AccessLog) -> std::io::Result<Self> {
        Ok(match log {
            AccessLog::Off => Self::Off,
            AccessLog::Stdout => Self::Stdout,
            AccessLog::File(path) => Self::File(open(path)?),
        })
    }

    fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Off => Ok(()),
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File(file) => file.write_all(lines),
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// A target that was opened and waits to be used: what a reload checks before it commits.
#[derive(Debug)]
pub(crate) struct Opened(Target);

/// Opens a log.
pub(crate) fn open_target(log: &AccessLog) -> std::io::Result<Opened> {
    Target::open(log).map(Opened)
}

impl Sink {
    /// Starts the writer's thread.
    pub(crate) fn start(target: Opened) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&receiver, target.0, &counted))?;
        Ok(Self { sender, lost })
    }

    /// Lines from now on go there.
    pub(crate) fn change(&self, target: Opened) {
        let _ = self.sender.send(Message::Target(target.0));
    }

    /// Waits until what was sent is written, at most for a second.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(0);
        if self.sender.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }

    fn send(&self, lines: Vec<u8>) {
        if self.sender.try_send(Message::Lines(lines)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(receiver: &Receiver<Message>, mut target: Target, lost: &AtomicU64) {
    for message in receiver {
        match message {
            Message::Lines(lines) => {
                if let Err(error) = target.write(&lines) {
                    eprintln!("director: access log: {error}; lines are lost until a reload opens it again");
                    target = Target::Off;
                }
            }
            Message::Target(next) => target = next,
            Message::Flush(done) => drop(done),
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            eprintln!("director: access log: too slow, {lost} buffers of lines were lost");
        }
    }
}

/// One worker's part of the log.
#[derive(Debug)]
pub(crate) struct Log {
    on: Cell<bool>,
    buffer: RefCell<Vec<u8>>,
    clock: RefCell<Stamp>,
    sink: Sink,
}

impl Log {
    /// A buffer in front of `sink`.
    pub(crate) fn new(sink: Sink, on: bool) -> Self {
        Self { on: Cell::new(on), buffer: RefCell::default(), clock: RefCell::default(), sink }
    }

    /// Whether anybody reads the lines.
    pub(crate) fn is_on(&self) -> bool {
        self.on.get()
    }

    /// Turns it on or off.
    pub(crate) fn set_on(&self, on: bool) {
        self.flush();
        self.on.set(on);
    }

    /// Hands the lines over to the writer.
    pub(crate) fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            self.sink.send(std::mem::take(&mut *buffer));
        }
    }

    /// A connection ended without a request that makes sense: `<BADREQ>`, as HAProxy has it.
    pub(crate) fn write_refused(
        &self,
        client: &Client,
        frontend: &Frontend,
        status: u16,
        termination: [u8; 2],
    ) {
        if self.is_on() {
            self.write(&Line {
                record: &Record::of(Asked::Malformed),
                client,
                frontend,
                server: None,
                total: Duration::ZERO,
                status,
                bytes: 0,
                termination,
                retries: 0,
            });
        }
    }

    /// A request ended.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let Line { record, client, frontend, .. } = line;
        let farm = &frontend.farm;
        let (server, active) = line.server.map_or(("<NOSRV>", 0), |(server, active)| (&server.name, active));
        // What did not happen took -1 ms.
        let time = |time: Option<Duration>, none: i64| time.map_or(none, millis);
        let [who, when] = line.termination.map(char::from);
        let none = if line.server.is_some() { 0 } else { -1 };
        // None where there was a connection already, or where none could be made.
        let no_connect = if when == 'C' { -1 } else { none };
        let mut clock = self.clock.borrow_mut();
        let mut buffer = self.buffer.borrow_mut();
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            buffer,
            "{} [{}] {} {}/{server} 0/{}/{}/{}/{} {} {} - - {who}{when}{} {}/{}/{}/{active}/{}{} 0/{} \"{}\"",
            client.address,
            clock.now(),
            frontend.config.name,
            farm.config.name,
            time(record.queued, none),
            time(record.connect, no_connect),
            time(record.response, -1),
            millis(line.total),
            line.status,
            line.bytes,
            record.cookie.characters(),
            client.worker.connections(),
            frontend.state.counters.sum(|counters| counters.open.get()),
            farm.state.in_flight.sum(Counter::get),
            if line.retries > 0 && farm.config.redispatch { "+" } else { "" },
            line.retries,
            farm.state.queue.len(),
            record.asked,
        );
        if buffer.len() >= BUFFER {
            drop(buffer);
            self.flush();
        }
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The date of log lines; its slow part is made once a second.
#[derive(Debug, Default)]
struct Stamp {
    second: u64,
    text: String,
}

impl Stamp {
    fn now(&mut self) -> &str {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != now.as_secs() || self.text.is_empty() {
            self.second = now.as_secs();
            self.text = format!("{}.000", date(self.second));
        }
        let start = self.text.len() - 3;
        let millis = now.subsec_millis();
        self.text.truncate(start);
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            self.text.push(char::from(b'0' + digit as u8));
        }
        &self.text
    }
}

/// `20/Nov/2026:18:40:01`, UTC.
fn date(unix: u64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Days since 1 March 0000 in 400-year eras of 146 097 days: leap days come last in their year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400 + u64::from(month >= 10);
    let month = MONTHS[((month + 2) % 12) as usize];
    format!("{of_month:02}/{month}/{year}:{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_target_ends_its_field() {
        let asked = Asked::Request(Method::GET, "/a{}~é?b".parse().unwrap(), Version::HTTP_10);
        assert_eq!(asked.to_string(), "GET /a{}~#C3#A9?b HTTP/1.0");
        struct Escaped(&'static str);
        impl std::fmt::Display for Escaped {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                escape(self.0, f)
            }
        }
        assert_eq!(Escaped("a\"b\n#c d").to_string(), "a#22b#0A#23c#20d");
    }

    #[test]
    fn nobodys_password_is_logged() {
        for (target, expected) in [
            ("http://u:p@a:80/x@y?z", "GET http://a:80/x@y?z HTTP/1.1"),
            ("u:p@a:80", "GET a:80 HTTP/1.1"),
            ("http://a/u:p@b", "GET http://a/u:p@b HTTP/1.1"),
        ] {
            let asked = Asked::Request(Method::GET, target.parse().unwrap(), Version::HTTP_11);
            assert_eq!(asked.to_string(), expected);
        }
    }

    #[test]
    fn dates() {
        for (unix, expected) in [
            (0, "01/Jan/1970:00:00:00"),
            (951_782_399, "28/Feb/2000:23:59:59"),
            (951_782_400, "29/Feb/2000:00:00:00"),
            (1_795_199_999, "20/Nov/2026:18:39:59"),
            (4_102_444_799, "31/Dec/2099:23:59:59"),
        ] {
            assert_eq!(date(unix), expected, "{unix}");
        }
    }
}
