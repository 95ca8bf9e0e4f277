//! Runs a program that asks the server, whatever way it likes.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::stream::Deadline;
use super::{ConfigError, ProbeError, validate_timeout};

/// So much of the end of a program's standard error is kept, in bytes.
const KEPT: usize = 1024;

/// The first and the longest pause before looking whether a program that writes nothing has ended; they double.
const PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(10));

/// Passes when a program exits with 0 within the timeout: HAProxy's `external-check`, keepalived's `MISC_CHECK`,
/// ldirectord's `checktype=external`.
///
/// The program is started as it is, without a shell. It gets the server's address
/// * in its arguments, where `{address}` and `{port}` stand for it, and
/// * in its environment, beside the caller's own: `LB_ADDRESS` and `LB_PORT`, and the same as
///   `HAPROXY_SERVER_ADDR` and `HAPROXY_SERVER_PORT`, so that scripts written for HAProxy find them.
///
/// Its standard input and output are `/dev/null`; the end of its standard error becomes part of the
/// [error](ProbeError::Exit). It leads a process group of its own: when it has ended, or when its time is over, the
/// group is killed, with all that it has left running there. (A child that leaves the group on purpose, with
/// `setsid`, is not found.)
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct CommandProbe {
    /// The program, by its path or looked up in `PATH`, and its arguments.
    pub command: Vec<String>,
    /// The longest it may run. Above 0, default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::health::duration", default = "ten_seconds"))]
    pub timeout: Duration,
}

#[cfg(feature = "serde")]
fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

impl CommandProbe {
    /// The program and its arguments, with ten seconds of time.
    ///
    /// ```
    /// use lb_core::health::probe::{CommandProbe, Probe};
    ///
    /// let probe: Probe = CommandProbe::new(["test", "{port}", "-eq", "8080"]).into();
    /// assert!(probe.run("127.0.0.1:8080".parse()?).is_ok());
    /// assert!(probe.run("127.0.0.1:8081".parse()?).is_err());
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self { command: command.into_iter().map(Into::into).collect(), timeout: Duration::from_secs(10) }
    }

    /// The same with another timeout.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        validate_timeout(self.timeout)?;
        match self.command.first() {
            Some(program) if !program.is_empty() => Ok(()),
            _ => Err(ConfigError::out_of_range("command", "empty", "a program and its arguments")),
        }
    }

    pub(super) fn run(&self, address: SocketAddr) -> Result<(), ProbeError> {
        self.validate()?;
        let deadline = Deadline::after(self.timeout);
        let program = self.command[0].clone();
        let mut group = match self.spawn(address) {
            Ok(child) => Group(child),
            Err(source) => return Err(ProbeError::Spawn { program, source }),
        };
        let mut tail = Tail { stderr: group.0.stderr.take(), kept: Vec::new() };
        let ended = group.watch(&mut tail, &deadline);
        // Not yet reaped, so the number of the group is still its own: it can be killed without hitting another.
        let status = group.end();
        tail.rest();
        let stderr = tail.text();
        match (ended, status) {
            (Err(source), _) | (Ok(true), Err(source)) => Err(ProbeError::Watch { program, source }),
            (Ok(false), _) => Err(ProbeError::Overrun { address, program, timeout: self.timeout, stderr }),
            (Ok(true), Ok(status)) => match (status.code(), status.signal()) {
                (Some(0), _) => Ok(()),
                (Some(code), _) => Err(ProbeError::Exit { address, program, code, stderr }),
                (None, signal) => {
                    let signal = signal.unwrap_or_default();
                    Err(ProbeError::Signal { address, program, signal, stderr })
                }
            },
        }
    }

    fn spawn(&self, address: SocketAddr) -> io::Result<Child> {
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        Command::new(&self.command[0])
            .args(
                self.command[1..].iter().map(|arg| arg.replace("{address}", &host).replace("{port}", &port)),
            )
            .envs([("LB_ADDRESS", &host), ("HAPROXY_SERVER_ADDR", &host)])
            .envs([("LB_PORT", &port), ("HAPROXY_SERVER_PORT", &port)])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// A running program, the leader of its process group. Dropped, it is killed and reaped.
struct Group(Child);

impl Group {
    /// Reads what the program writes until it has ended (true) or its time is over (false). Does not reap it.
    fn watch(&mut self, tail: &mut Tail, deadline: &Deadline) -> io::Result<bool> {
        let (mut pause, longest) = PAUSES;
        loop {
            if self.has_ended()? {
                return Ok(true);
            }
            let Some(left) = deadline.left() else { return Ok(false) };
            // A program's end closes its standard error, which ends the pause.
            tail.read(left.min(pause));
            pause = (pause * 2).min(longest);
        }
    }

    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(Pid::from_child(&self.0)), options)?.is_some())
    }

    /// Kills whatever is left of the group, and reaps the program.
    fn end(&mut self) -> io::Result<std::process::ExitStatus> {
        // That nothing is left to kill is no error.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        self.0.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // After `end`, `try_wait` has the status and the number may be another's.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}

/// The end of what a program writes to its standard error; the rest is read too, so that it never waits for us.
struct Tail {
    /// Until it is closed.
    stderr: Option<ChildStderr>,
    kept: Vec<u8>,
}

impl Tail {
    /// Waits up to `pause` for something to read, and reads it; says whether there was anything.
    fn read(&mut self, pause: Duration) -> bool {
        let Some(stderr) = &mut self.stderr else {
            std::thread::sleep(pause);
            return false;
        };
        let timeout = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        let mut watched = [PollFd::new(stderr, PollFlags::IN)];
        if !matches!(poll(&mut watched, Some(&timeout)), Ok(1..)) {
            return false;
        }
        let mut buffer = vec![0; 4096];
        match stderr.read(&mut buffer) {
            Ok(0) | Err(_) => {
                self.stderr = None;
                false
            }
            Ok(count) => {
                self.kept.extend_from_slice(&buffer[..count]);
                self.kept.drain(..self.kept.len().saturating_sub(KEPT));
                true
            }
        }
    }

    /// Reads what is left of a program that has ended. A pipe holds 64 KiB; who left the group may fill it for ever.
    fn rest(&mut self) {
        for _ in 0..32 {
            if self.stderr.is_none() || !self.read(Duration::ZERO) {
                break;
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).trim().to_string()
    }
}
