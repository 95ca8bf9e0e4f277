//! Signals as bytes in sockets, which wait in poll with everything else.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

/// What the signals ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) stop: bool,
    pub(crate) reload: bool,
    pub(crate) status: bool,
}

/// The signals that the program takes.
#[derive(Debug)]
pub(crate) struct Signals {
    stop: UnixStream,
    reload: UnixStream,
    /// keepalived writes files about itself for these. By default they would end the program and leave its addresses.
    status: UnixStream,
    /// A child ended: only a reason to wake.
    child: UnixStream,
}

impl Signals {
    /// Takes them from now on.
    pub(crate) fn new() -> io::Result<Self> {
        let take = |signals: &[i32]| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            for &signal in signals {
                signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
            }
            io::Result::Ok(read)
        };
        Ok(Self {
            stop: take(&[SIGTERM, SIGINT])?,
            reload: take(&[SIGHUP])?,
            // The third is what `keepalived --signum=JSON` says.
            status: take(&[SIGUSR1, SIGUSR2, libc::SIGRTMIN() + 2])?,
            child: take(&[SIGCHLD])?,
        })
    }

    /// What to wait for.
    pub(crate) fn sources(&self) -> [BorrowedFd<'_>; 4] {
        [self.stop.as_fd(), self.reload.as_fd(), self.status.as_fd(), self.child.as_fd()]
    }

    /// What was asked for since the last time.
    pub(crate) fn take(&mut self) -> Asked {
        let asked = Asked {
            stop: drain(&mut self.stop),
            reload: drain(&mut self.reload),
            status: drain(&mut self.status),
        };
        drain(&mut self.child);
        asked
    }
}

/// Whether there was anything.
fn drain(stream: &mut UnixStream) -> bool {
    let mut any = false;
    while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}
