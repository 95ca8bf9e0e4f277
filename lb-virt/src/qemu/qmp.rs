//! Talks with a QEMU: its machine protocol over a unix socket.
//!
//! Commands are numbered, so that an answer that comes after nobody waits for it any more is known for what it is. Events that come
//! in between are kept in their order.

mod frames;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde_json::{Value, json};

pub use frames::{Frames, LONGEST, Message, QmpEvent};

use super::arguments::QEMU;
use crate::error::VirtError;
use crate::wait::until;

/// Events that are kept for who asks later; the oldest go first.
const EVENTS: usize = 4096;

/// Why QEMU did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// It said something that is no message.
    #[error("it said what is no QMP ({reason}): {line:?}")]
    Garbage {
        /// How it begins.
        line: String,
        /// Why it is none.
        reason: String,
    },
    /// It said something that does not end.
    #[error("it said more than {most} bytes without an end of line: that is no QMP")]
    TooLong {
        /// The most that is taken.
        most: usize,
    },
    /// It refused a command.
    #[error("{words}")]
    Refused {
        /// The class of the error.
        class: String,
        /// Its words.
        words: String,
    },
    /// It hung up.
    #[error("it hung up{}", if *.half { " in the middle of a message" } else { "" })]
    Closed {
        /// Whether half a message had come.
        half: bool,
    },
    /// It did not answer.
    #[error("it has not answered within {after:?}")]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// The socket failed.
    #[error("its socket: {0}")]
    Io(#[from] io::Error),
}

impl QmpError {
    /// As what a hypervisor could not do.
    pub(crate) fn while_it(self, operation: impl Into<String>) -> VirtError {
        let operation = operation.into();
        match self {
            Self::Timeout { after } => VirtError::Timeout { hypervisor: QEMU, operation, after },
            other => VirtError::Said { hypervisor: QEMU, operation, words: other.to_string() },
        }
    }
}

/// A connection to a QEMU, which serves one at a time.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    frames: Frames,
    events: VecDeque<QmpEvent>,
    next: u64,
    version: String,
    /// It takes a command that does not wait for those before it.
    out_of_band: bool,
    /// Part of a command was written and not the rest: what follows would be taken for it.
    broken: bool,
}

impl Qmp {
    /// Connects, and agrees on QMP's plain form.
    ///
    /// # Errors
    /// [`QmpError::Io`] if nobody listens there; [`QmpError::Timeout`] also if another client is being served all the time.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, QmpError> {
        let end = until(timeout);
        let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
        let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None).map_err(io::Error::from)?;
        // A QEMU that is stopped takes no connection; a plain connect would wait for it for ever.
        while let Err(error) = rustix::net::connect(&socket, &address) {
            match error {
                Errno::AGAIN | Errno::INTR if Instant::now() < end => sleep(Duration::from_millis(1)),
                Errno::AGAIN | Errno::INTR => return Err(QmpError::Timeout { after: timeout }),
                _ => return Err(io::Error::from(error).into()),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Self::over(stream, timeout)
    }

    /// Agrees on QMP's plain form over a connection.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn over(stream: UnixStream, timeout: Duration) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream,
            frames: Frames::default(),
            events: VecDeque::new(),
            next: 1,
            version: String::new(),
            out_of_band: false,
            broken: false,
        };
        let end = until(timeout);
        loop {
            match qmp.message(end, timeout)? {
                Message::Greeting { version: [major, minor, micro], package, out_of_band } => {
                    qmp.out_of_band = out_of_band;
                    let package = if package.is_empty() { package } else { format!(" ({package})") };
                    qmp.version = format!("QEMU {major}.{minor}.{micro}{package}");
                    break;
                }
                Message::Event(event) => qmp.keep(event),
                _ => {}
            }
        }
        let agreed = if qmp.out_of_band { json!({"enable": ["oob"]}) } else { json!({}) };
        qmp.execute("qmp_capabilities", agreed, end.saturating_duration_since(Instant::now()))?;
        Ok(qmp)
    }

    /// Its name and version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Tells it something, and waits for the answer.
    ///
    /// # Errors
    /// [`QmpError::Refused`], with its words; [`QmpError::Timeout`]: whether it was done is not known, and the connection can be used
    /// on; [`QmpError::Garbage`] and [`QmpError::Closed`], which leave that unknown too.
    pub fn execute(&mut self, command: &str, arguments: Value, timeout: Duration) -> Result<Value, QmpError> {
        let mut answers = self.execute_all([(command, arguments)], timeout)?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// As [`execute`](Self::execute), of a command that QEMU does at once even where its main loop stands still, as while that waits
    /// for memory that has not come: those that its schema calls `allow-oob`.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn execute_at_once(
        &mut self,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        let id = self.next;
        self.next += 1;
        let verb = if self.out_of_band { "exec-oob" } else { "execute" };
        let line = json!({verb: command, "arguments": arguments, "id": id});
        self.say(&format!("{line}\n"), timeout)?;
        self.answer(id, until(timeout), timeout)
    }

    /// Tells it several things at once, which it does one after the other, and waits for all answers: the way there and back is made
    /// once.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), for the first that is not done; those that follow are done all the same.
    pub fn execute_all<'a>(
        &mut self,
        commands: impl IntoIterator<Item = (&'a str, Value)>,
        timeout: Duration,
    ) -> Result<Vec<Value>, QmpError> {
        let first = self.next;
        let mut lines = String::new();
        for (command, arguments) in commands {
            let mut line = json!({"execute": command, "id": self.next});
            // QEMU takes what it is told a byte at a time, 2 µs each: what need not be said is not.
            if arguments.as_object().is_none_or(|arguments| !arguments.is_empty()) {
                line["arguments"] = arguments;
            }
            lines += &line.to_string();
            lines.push('\n');
            self.next += 1;
        }
        self.say(&lines, timeout)?;
        let end = until(timeout);
        let answers = (first..self.next).map(|id| self.answer(id, end, timeout)).collect();
        // Who waits for events polls the socket, where those that came with the answers are no more.
        while let Ok(Some(message)) = self.frames.take() {
            if let Message::Event(event) = message {
                self.keep(event);
            }
        }
        answers
    }

    fn say(&mut self, lines: &str, timeout: Duration) -> Result<(), QmpError> {
        if self.broken {
            return Err(QmpError::Closed { half: true });
        }
        // No timeout is no wait, which a socket can't be told.
        self.stream.set_write_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        self.stream.write_all(lines.as_bytes()).map_err(|error| {
            self.broken = true;
            match error.kind() {
                io::ErrorKind::WouldBlock => QmpError::Timeout { after: timeout },
                io::ErrorKind::BrokenPipe => QmpError::Closed { half: false },
                _ => QmpError::Io(error),
            }
        })
    }

    fn answer(&mut self, id: u64, end: Instant, timeout: Duration) -> Result<Value, QmpError> {
        loop {
            match self.message(end, timeout)? {
                Message::Event(event) => self.keep(event),
                Message::Return { id: Some(of), value } if of == id => return Ok(value),
                Message::Refusal { id: of, class, words } if of.is_none_or(|of| of == id) => {
                    return Err(QmpError::Refused { class, words });
                }
                // An answer that somebody has given up, or something new.
                _ => {}
            }
        }
    }

    /// Whether an event has come that nobody has taken.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Forgets events that have come and that nobody will take.
    pub(crate) fn forget(&mut self, is_it: impl Fn(&QmpEvent) -> bool) {
        let now = Instant::now();
        while let Ok(message) = self.message(now, Duration::ZERO) {
            if let Message::Event(event) = message {
                self.keep(event);
            }
        }
        self.events.retain(|event| !is_it(event));
    }

    /// The next event, in the order in which they came, waiting at most `timeout`.
    ///
    /// # Errors
    /// If it hung up or talks nonsense; after the events that came before.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<QmpEvent>, QmpError> {
        let end = until(timeout);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.broken {
                return Err(QmpError::Closed { half: true });
            }
            match self.message(end, timeout) {
                Ok(Message::Event(event)) => self.keep(event),
                Ok(_) => {}
                Err(QmpError::Timeout { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for an event; others are kept.
    ///
    /// # Errors
    /// [`QmpError::Timeout`] if it does not come.
    pub fn wait_for(
        &mut self,
        timeout: Duration,
        is_it: impl Fn(&QmpEvent) -> bool,
    ) -> Result<QmpEvent, QmpError> {
        let end = until(timeout);
        loop {
            if let Some(at) = self.events.iter().position(&is_it)
                && let Some(event) = self.events.remove(at)
            {
                return Ok(event);
            }
            if let Message::Event(event) = self.message(end, timeout)? {
                self.keep(event);
            }
        }
    }

    fn keep(&mut self, event: QmpEvent) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next message of any kind. `whole` is what the caller had been given, for the error.
    fn message(&mut self, end: Instant, whole: Duration) -> Result<Message, QmpError> {
        let mut bytes = [0; 65_536];
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(message);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The shortest wait that a socket can be told is a tick of the kernel's.
                let mut sockets = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
                if poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|ready| ready == 0) {
                    return Err(QmpError::Timeout { after: whole });
                }
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(QmpError::Closed { half: self.frames.is_partial() }),
                Ok(count) => self.frames.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(QmpError::Closed { half: self.frames.is_partial() });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= end {
                        return Err(QmpError::Timeout { after: whole });
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Qmp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
