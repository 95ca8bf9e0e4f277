//! Where a director is measured: a client's network namespace and the director's, and a pair of virtual interfaces with several
//! queues between them.
//!
//! The namespaces have no name: they go with this program and what it started, however it ends.

use super::ExperimentError;
use crate::serving::{Stop, find, output_within};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The director's interface.
pub(super) const FRONT: &str = "front";
/// The client's interface.
pub(super) const CLIENT: &str = "client";
/// Where a director listens (RFC 2544, appendix C.2.2: addresses for benchmarks).
pub(super) const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)), 8080);

/// A network namespace, with a mount namespace in which `/sys` shows it.
pub(super) struct Namespace {
    network: File,
    mounts: File,
}

impl Namespace {
    /// The one that the calling thread is in.
    pub(super) fn here() -> Result<Self, ExperimentError> {
        let open = |what: &str| {
            let path = Path::new("/proc/thread-self/ns").join(what);
            File::open(&path).map_err(ExperimentError::io(format!("open {}", path.display())))
        };
        Ok(Self { network: open("net")?, mounts: open("mnt")? })
    }

    /// A new one, which the calling thread is in from now on. Its `/run` is its own too: there directors have the journals
    /// of what they set.
    fn new() -> Result<Self, ExperimentError> {
        let nothing = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(denied("make namespaces"))?;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
            .and_then(|()| mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing))
            .and_then(|()| mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing))
            .map_err(denied("mount /sys and /run in a namespace"))?;
        Self::here()
    }

    /// Takes the calling thread there; what it starts will be there too.
    pub(super) fn enter(&self) -> Result<(), ExperimentError> {
        // A thread that shares its working directory with others, such as those that it has started, can't change its mounts.
        unshare(CloneFlags::CLONE_FS)
            .and_then(|()| setns(&self.mounts, CloneFlags::CLONE_NEWNS))
            .and_then(|()| setns(&self.network, CloneFlags::CLONE_NEWNET))
            .map_err(denied("enter a namespace"))
    }
}

/// For `map_err`: names what was tried.
fn denied(what: &'static str) -> impl FnOnce(Errno) -> ExperimentError {
    move |error| match error {
        Errno::EPERM | Errno::EACCES => ExperimentError::Denied { what },
        error => ExperimentError::io(what)(error.into()),
    }
}

/// A client and a director, apart.
pub(super) struct Lab {
    pub(super) client: Namespace,
    pub(super) director: Namespace,
}

impl Lab {
    /// Both, connected by so many queues in each direction. The calling thread is somewhere in it afterwards.
    pub(super) fn new(home: &Namespace, queues: usize, stop: &Stop) -> Result<Self, ExperimentError> {
        home.enter()?;
        let client = Namespace::new()?;
        // From home again: what is mounted for one namespace is of no use in another.
        home.enter()?;
        let director = Namespace::new()?;
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        let other = format!("/proc/{}/fd/{}", std::process::id(), client.network.as_raw_fd());
        ip("link set lo up", stop)?;
        ip(&format!("link add {FRONT} {count} type veth peer name {CLIENT} {count} netns {other}"), stop)?;
        ip(&format!("address add {}/24 dev {FRONT}", LISTEN.ip()), stop)?;
        ip(&format!("link set {FRONT} up"), stop)?;
        client.enter()?;
        ip(&format!("address add 198.18.0.1/24 dev {CLIENT}"), stop)?;
        ip(&format!("link set {CLIENT} up"), stop)?;
        Ok(Self { client, director })
    }
}

fn ip(arguments: &str, stop: &Stop) -> Result<(), ExperimentError> {
    let mut command = Command::new(find("ip", "iproute2")?);
    command.args(arguments.split(' '));
    let failed = |says: String| ExperimentError::Ip { arguments: arguments.to_owned(), says };
    let output = output_within(command, Duration::from_secs(10), stop)?
        .ok_or_else(|| failed("nothing for 10 s".to_owned()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
