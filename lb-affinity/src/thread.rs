//! Where threads run: on which CPUs they may, and on which they do.
//!
//! ```
//! use lb_affinity::thread;
//!
//! let before = thread::affinity()?;
//! let cpu = before.last().expect("a thread may run somewhere");
//! thread::pin(&cpu.into())?;
//! assert_eq!(thread::place()?.cpu, cpu);
//! thread::pin(&before)?;
//! # Ok::<(), lb_affinity::thread::ThreadError>(())
//! ```
//!
//! Sources: sched_setaffinity(2), getcpu(2), gettid(2), cpuset(7). A set may have CPUs beyond glibc's 1024. A new thread
//! inherits the set of the one that starts it.

use std::fs;
use std::io;

use crate::{CpuSet, sys};

/// Why a thread is not pinned, or can't be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadError {
    /// `EINVAL`: no CPU of the set can be used.
    #[error(
        "{thread} can't be pinned to {}: none is online and in its cpuset; choose from the online {online}, \
         and of these from cpuset.cpus.effective of its control group",
        named(cpus)
    )]
    NoCpu {
        /// The thread, as it was named.
        thread: Which,
        /// What was asked for.
        cpus: Box<CpuSet>,
        /// The CPUs that are online; empty if that can't be read.
        online: Box<CpuSet>,
    },
    /// `EPERM`: the thread is another user's.
    #[error("{thread} is another user's: to pin it needs CAP_SYS_NICE, or to be that user")]
    Denied {
        /// The thread.
        thread: Which,
    },
    /// `ESRCH`: there is no such thread.
    #[error("{thread} does not exist any more; thread ids are those of /proc/PROCESS/task")]
    NoThread {
        /// The thread.
        thread: Which,
    },
    /// Another answer of the kernel's.
    #[error("{call} for {thread}: {source}")]
    System {
        /// The system call.
        call: &'static str,
        /// The thread.
        thread: Which,
        /// Its answer.
        source: io::Error,
    },
}

fn named(cpus: &CpuSet) -> String {
    if cpus.is_empty() { "no CPU".into() } else { format!("CPU {cpus}") }
}

/// The thread that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that called.
    Calling,
    /// The one with this id.
    Id(u32),
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Calling => f.write_str("the calling thread"),
            Self::Id(id) => write!(f, "thread {id}"),
        }
    }
}

impl Which {
    /// As system calls name it. An id that is none becomes one that no thread has.
    fn raw(self) -> libc::pid_t {
        match self {
            Self::Calling => 0,
            Self::Id(0) => libc::pid_t::MAX,
            Self::Id(id) => libc::pid_t::try_from(id).unwrap_or(libc::pid_t::MAX),
        }
    }

    fn error(self, call: &'static str, source: io::Error) -> ThreadError {
        match source.raw_os_error() {
            Some(libc::ESRCH) => ThreadError::NoThread { thread: self },
            Some(libc::EPERM) if self != Self::Calling => ThreadError::Denied { thread: self },
            _ => ThreadError::System { call, thread: self, source },
        }
    }

    fn pin(self, cpus: &CpuSet) -> Result<CpuSet, ThreadError> {
        sys::set_affinity(self.raw(), &sys::bitmap(cpus, 1024)).map_err(|source| {
            if source.raw_os_error() == Some(libc::EINVAL) {
                let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
                let online = online.and_then(|online| online.parse().ok()).unwrap_or_default();
                return ThreadError::NoCpu {
                    thread: self,
                    cpus: Box::new(cpus.clone()),
                    online: Box::new(online),
                };
            }
            self.error("sched_setaffinity", source)
        })?;
        self.affinity()
    }

    fn affinity(self) -> Result<CpuSet, ThreadError> {
        let mut words = sys::bitmap([], 1024);
        loop {
            match sys::affinity(self.raw(), &mut words) {
                Ok(()) => return Ok(sys::ids(&words).collect()),
                // The kernel's sets are longer: as long as its configuration's NR_CPUS.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && words.len() < 1 << 16 => {
                    words.resize(words.len() * 2, 0);
                }
                Err(source) => return Err(self.error("sched_getaffinity", source)),
            }
        }
    }
}

/// Lets the calling thread run on these CPUs only. The result is where it may run from now on: the kernel silently leaves out
/// CPUs that are offline, do not exist, or are outside the thread's cpuset.
///
/// # Errors
/// [`ThreadError::NoCpu`] if none is left; then nothing is changed.
pub fn pin(cpus: &CpuSet) -> Result<CpuSet, ThreadError> {
    Which::Calling.pin(cpus)
}

/// As [`pin`], for any thread by its id ([`id`], `/proc/PROCESS/task`).
///
/// # Errors
/// As [`pin`]; [`ThreadError::Denied`] if the thread is another user's; [`ThreadError::NoThread`].
pub fn pin_thread(id: u32, cpus: &CpuSet) -> Result<CpuSet, ThreadError> {
    Which::Id(id).pin(cpus)
}

/// The CPUs that the calling thread may run on.
///
/// # Errors
/// [`ThreadError::System`] if the system call is forbidden to this process.
pub fn affinity() -> Result<CpuSet, ThreadError> {
    Which::Calling.affinity()
}

/// The CPUs that a thread may run on.
///
/// # Errors
/// [`ThreadError::NoThread`].
pub fn affinity_of(id: u32) -> Result<CpuSet, ThreadError> {
    Which::Id(id).affinity()
}

/// The calling thread's id, as [`pin_thread`] takes it (gettid(2)).
#[must_use]
pub fn id() -> u32 {
    sys::thread_id().unsigned_abs()
}

/// A CPU and its NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The CPU's kernel number.
    pub cpu: u32,
    /// The node's kernel number.
    pub node: u32,
}

/// Where the calling thread runs at this moment. Unless it is pinned, that may be over before the function returns.
///
/// # Errors
/// [`ThreadError::System`] if the system call is forbidden to this process.
pub fn place() -> Result<Place, ThreadError> {
    let place = sys::getcpu().map_err(|source| Which::Calling.error("getcpu", source));
    place.map(|(cpu, node)| Place { cpu, node })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_thread_runs_where_it_is_pinned() {
        std::thread::spawn(|| {
            let before = affinity().unwrap();
            for cpu in &before {
                assert_eq!(pin(&cpu.into()).unwrap(), cpu.into());
                for _ in 0..1000 {
                    assert_eq!(place().unwrap().cpu, cpu);
                }
                let node = format!("/sys/devices/system/cpu/cpu{cpu}/node{}", place().unwrap().node);
                assert!(std::path::Path::new(&node).exists(), "{node}");
                assert_eq!(affinity_of(id()).unwrap(), cpu.into());
            }
            // CPUs that are not there, beyond 1024 too, are left out.
            let more = &before | &"900-1100,5000,65535".parse().unwrap();
            assert_eq!(pin(&more).unwrap(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn another_thread_is_pinned_by_its_id() {
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(id()).unwrap();
            ended.recv().unwrap();
            affinity().unwrap()
        });
        let other = receive.recv().unwrap();
        let last = CpuSet::from(affinity_of(other).unwrap().last().unwrap());
        let mine = affinity().unwrap();
        assert_eq!(pin_thread(other, &last).unwrap(), last);
        end.send(()).unwrap();
        assert_eq!(thread.join().unwrap(), last);
        assert_eq!(affinity().unwrap(), mine);
        // Its memory is given back, which `join` waits for, before the kernel forgets its id.
        let end = Instant::now() + Duration::from_secs(10);
        while affinity_of(other).is_ok() && Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(
            matches!(affinity_of(other), Err(ThreadError::NoThread { thread: Which::Id(id) }) if id == other)
        );
    }

    #[test]
    fn errors_name_the_cpus_and_the_cure() {
        let before = affinity().unwrap();
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        let error = pin(&"4000-4001".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("pinned to CPU 4000-4001: none is online"), "{error}");
        assert!(error.contains(&format!("choose from the online {}", online.trim())), "{error}");
        let error = pin(&CpuSet::new()).unwrap_err();
        assert!(matches!(error, ThreadError::NoCpu { .. }), "{error}");
        assert_eq!(affinity().unwrap(), before);
        for id in [0, u32::MAX] {
            let error = pin_thread(id, &before).unwrap_err();
            assert!(matches!(error, ThreadError::NoThread { .. }), "{error}");
        }
    }
}
