//! The socket over which `vrrpd status` asks, and the lock that lets one daemon at a time have it.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::status::Status;

/// How long one who asks may take to read.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most that ask at a time.
const GUESTS: usize = 64;

/// After nobody could be let in.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the socket is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error(
        "another vrrpd, process {process}, has the socket {path}: stop it, or choose another with --socket"
    )]
    Taken { process: String, path: String },
    #[error("{path}: {source}; choose another socket with --socket")]
    Socket { path: String, source: io::Error },
    #[error("no vrrpd answers on {path}: {source}; start it, or name its socket with --socket")]
    Nobody { path: String, source: io::Error },
    #[error("{path} gave no status: {source}")]
    Answer { path: String, source: serde_json::Error },
}

impl ControlError {
    /// Whether it is a matter of rights.
    pub(crate) fn is_permission(&self) -> bool {
        matches!(self, Self::Socket { source, .. } if source.kind() == ErrorKind::PermissionDenied)
    }
}

/// The right to be the one daemon on a socket. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    /// The lock.
    _file: File,
}

impl Claim {
    /// Claims `path`.
    pub(crate) fn new(path: &Path) -> Result<Self, ControlError> {
        let shown = path.display().to_string();
        let failed = |source| ControlError::Socket { path: shown.clone(), source };
        let lock = lock_file(path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                let _ = file.read_to_string(&mut process);
                return Err(ControlError::Taken { process: process.trim().into(), path: shown });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), _file: file })
    }
}

/// The file whose lock is the claim: `SOCKET.lock`. It stays, for taking it away would let two have it.
fn lock_file(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Answers everyone who connects with the status.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    guests: Vec<Guest>,
    claim: Claim,
    /// Nobody is let in until then.
    shut: Option<Instant>,
}

#[derive(Debug)]
struct Guest {
    stream: UnixStream,
    answer: Rc<[u8]>,
    written: usize,
    since: Instant,
}

impl Control {
    /// Listens on the claimed socket.
    pub(crate) fn new(claim: Claim) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Socket { path: claim.path.display().to_string(), source };
        // What a killed one left.
        match std::fs::remove_file(&claim.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&claim.path).map_err(failed)?;
        std::fs::set_permissions(&claim.path, Permissions::from_mode(0o660)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, guests: Vec::new(), claim, shut: None })
    }

    /// The socket on which they come; none while no more are let in, lest those who wait there keep the loop awake.
    pub(crate) fn door(&self) -> Option<BorrowedFd<'_>> {
        let open = self.guests.len() < GUESTS && self.shut.is_none_or(|until| Instant::now() >= until);
        open.then(|| self.listener.as_fd())
    }

    /// Those who have not read all.
    pub(crate) fn guests(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.guests.iter().map(|guest| guest.stream.as_fd())
    }

    /// Lets in who waits and gives each as much as it takes.
    pub(crate) fn serve(&mut self, now: Instant, status: &dyn Fn() -> Status) {
        // All who wait get the same: the status of many routers takes its time.
        let mut text: Option<Rc<[u8]>> = None;
        while self.door().is_some() {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(_) => {
                    // No file descriptor is free, for instance: whoever waits goes on waiting.
                    self.shut = Some(now + PAUSE);
                    break;
                }
            };
            let answer = match &text {
                Some(text) => text.clone(),
                None => {
                    let Ok(mut answer) = serde_json::to_vec(&status()) else { break };
                    answer.push(b'\n');
                    text.insert(answer.into()).clone()
                }
            };
            if stream.set_nonblocking(true).is_ok() {
                self.guests.push(Guest { stream, answer, written: 0, since: now });
            }
        }
        self.guests.retain_mut(|guest| guest.feed() && now.duration_since(guest.since) < PATIENCE);
    }
}

impl Guest {
    /// Whether there is more to come.
    fn feed(&mut self) -> bool {
        while self.written < self.answer.len() {
            match self.stream.write(&self.answer[self.written..]) {
                Ok(0) => return false,
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.claim.path);
    }
}

/// Asks the daemon on `path`.
pub(crate) fn ask(path: &Path) -> Result<Status, ControlError> {
    let shown = path.display().to_string();
    let nobody = |source| ControlError::Nobody { path: shown.clone(), source };
    let mut stream = UnixStream::connect(path).map_err(nobody)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(nobody)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(nobody)?;
    serde_json::from_slice(&answer).map_err(|source| ControlError::Answer { path: shown, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_the_socket() {
        let path = std::env::temp_dir().join(format!("vrrpd-claim-{}.sock", std::process::id()));
        let control = Control::new(Claim::new(&path).expect("the first")).expect("it listens");
        let second = Claim::new(&path).expect_err("the second").to_string();
        assert!(second.contains(&format!("process {}, has the socket", std::process::id())), "{second}");
        drop(control);
        assert!(!path.exists());
        drop(Claim::new(&path).expect("the next"));
        let nobody = ask(&path).expect_err("nobody is there").to_string();
        assert!(nobody.contains("no vrrpd answers on"), "{nobody}");
        std::fs::remove_file(lock_file(&path)).expect("the lock stays");
    }

    #[test]
    fn who_does_not_read_shuts_the_door_for_a_while() {
        let path = std::env::temp_dir().join(format!("vrrpd-door-{}.sock", std::process::id()));
        let mut control = Control::new(Claim::new(&path).expect("the first")).expect("it listens");
        let large = || Status {
            process: 1,
            config: "x".repeat(4 << 20),
            router_id: String::new(),
            since: String::new(),
            reloads: 0,
            instances: Vec::new(),
            groups: Vec::new(),
        };
        let stalled: Vec<UnixStream> =
            (0..GUESTS + 1).map(|_| UnixStream::connect(&path).expect("the backlog has room")).collect();
        let now = Instant::now();
        control.serve(now, &large);
        assert_eq!(control.guests().count(), GUESTS);
        assert!(control.door().is_none(), "one waits outside, and keeps nobody awake");
        control.serve(now + PATIENCE, &large);
        assert!(control.door().is_some() && control.guests().count() == 0, "they had their time");
        control.serve(now + PATIENCE, &large);
        assert_eq!(control.guests().count(), 1, "the last one's turn");
        drop((stalled, control));
        std::fs::remove_file(lock_file(&path)).expect("the lock stays");
    }
}
