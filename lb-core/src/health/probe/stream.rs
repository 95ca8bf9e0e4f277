//! A connection whose every step counts against one deadline.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{ProbeError, Stage};

/// The end of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    started: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        Self { started: Instant::now(), timeout }
    }

    /// What is left; `None` when nothing is.
    pub(super) fn left(&self) -> Option<Duration> {
        self.timeout.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero())
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A connection to `address` until `deadline`.
pub(super) struct Stream {
    stream: TcpStream,
    address: SocketAddr,
    deadline: Deadline,
}

impl Stream {
    pub(super) fn connect(address: SocketAddr, deadline: Deadline) -> Result<Self, ProbeError> {
        let late = ProbeError::Timeout { address, stage: Stage::Connect, timeout: deadline.timeout() };
        let Some(left) = deadline.left() else { return Err(late) };
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => Ok(Self { stream, address, deadline }),
            Err(source) if source.kind() == io::ErrorKind::TimedOut => Err(late),
            Err(source) => Err(ProbeError::Connect { address, source }),
        }
    }

    pub(super) fn write_all(&mut self, stage: Stage, mut bytes: &[u8]) -> Result<(), ProbeError> {
        while !bytes.is_empty() {
            let written = self.step(stage, |stream, left| {
                stream.set_write_timeout(Some(left))?;
                stream.write(bytes)
            })?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Reads what there is, at least a byte; 0 is the end.
    pub(super) fn read(&mut self, stage: Stage, buffer: &mut [u8]) -> Result<usize, ProbeError> {
        self.step(stage, |stream, left| {
            stream.set_read_timeout(Some(left))?;
            stream.read(buffer)
        })
    }

    /// One call to the system, which may take what is left; again if a signal interrupts it.
    fn step(
        &mut self,
        stage: Stage,
        mut call: impl FnMut(&mut TcpStream, Duration) -> io::Result<usize>,
    ) -> Result<usize, ProbeError> {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        let address = self.address;
        while let Some(left) = self.deadline.left() {
            match call(&mut self.stream, left) {
                Ok(count) => return Ok(count),
                // A time limit on a socket shows as WouldBlock on Unix and as TimedOut on Windows.
                Err(error) if matches!(error.kind(), Interrupted | WouldBlock | TimedOut) => {}
                Err(source) => return Err(ProbeError::Broken { address, stage, source }),
            }
        }
        Err(ProbeError::Timeout { address, stage, timeout: self.deadline.timeout() })
    }
}
