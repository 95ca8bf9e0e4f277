//! One write: what the kernel answered, and what it made of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::place::Place;
use super::value::{Format, Value};
use crate::fs::FileSystem;
use crate::nic::ethtool::EthtoolError;
use crate::{CpuSet, Setting};

/// What became of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The file held the value already; nothing was written.
    Unchanged,
    /// The file holds what was written, or, for a count, that rounded up to a power of two.
    Applied,
    /// The kernel silently dropped CPUs that are offline or isolated.
    Trimmed {
        /// What the file holds.
        is: Value,
    },
    /// The interrupt's CPUs are set, but it still goes to another one until it next fires
    /// (Documentation/core-api/irq/irq-affinity.rst; `effective_affinity_list`).
    Pending {
        /// Where it goes now.
        effective: CpuSet,
    },
    /// `EIO`, and `EPERM` from newer kernels (seen on 6.18): the driver spreads its interrupts itself (managed affinity), or the
    /// interrupt belongs to one CPU, and the kernel lets nobody move it, whatever his rights.
    ManagedByDriver,
    /// `ENOSPC`: the CPUs asked for have no interrupt vector free.
    NoVector,
    /// This process may not write the file.
    Denied(Denial),
    /// `ENOENT` or `ENODEV`: the interface, its queue or the interrupt is gone. Interfaces with a single transmit queue answer
    /// so for `xps_cpus` too, and `net.core.rps_sock_flow_entries` is there in the initial network namespace alone.
    Vanished,
    /// The kernel or the driver refused the value, or holds another one afterwards.
    Failed {
        /// The kernel's error number.
        errno: Option<i32>,
        /// What it means for this file; or the kernel's own words, if it said any.
        meaning: String,
    },
    /// It was applied, and put back when another setting failed.
    RolledBack,
    /// An earlier setting failed.
    NotTried,
}

/// What keeps this process from writing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// `EPERM`: a capability is missing, in the user namespace that owns the network namespace.
    Capability(&'static str),
    /// `EACCES`: the file is root's. Root may write it, and who has `CAP_DAC_OVERRIDE`.
    Owner,
    /// `EROFS`: the file is on a mount that is read-only, as containers have them.
    ReadOnlyMount {
        /// Where it is mounted, if `/proc/self/mountinfo` says.
        mount: Option<PathBuf>,
    },
}

impl Outcome {
    /// Whether [`OnFailure::RollBack`](super::OnFailure) takes it for a failure: denied, vanished, no vector, refused. What the
    /// kernel took, even if it trimmed it or does it later, is none; nor are interrupts that the driver manages, because nobody can
    /// place those, and the rest of a plan is right without them.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::NoVector | Self::Denied(_) | Self::Vanished | Self::Failed { .. })
    }

    /// What the kernel's refusal to read `path`, or to write `content` to it, means.
    pub(super) fn of_error(
        files: &impl FileSystem,
        path: &Path,
        format: Format,
        content: Option<&[u8]>,
        error: &io::Error,
    ) -> Self {
        match error.raw_os_error() {
            Some(libc::EIO | libc::EPERM) if format == Format::List => Self::ManagedByDriver,
            Some(libc::ENOSPC) if format == Format::List => Self::NoVector,
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::Vanished,
            Some(libc::EACCES) => Self::Denied(Denial::Owner),
            Some(libc::EPERM) => Self::Denied(Denial::Capability("CAP_NET_ADMIN")),
            Some(libc::EROFS) => Self::Denied(Denial::ReadOnlyMount { mount: read_only_mount(files, path) }),
            None if error.kind() == io::ErrorKind::NotFound => Self::Vanished,
            None if error.kind() == io::ErrorKind::PermissionDenied => Self::Denied(Denial::Owner),
            None if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Self::Denied(Denial::ReadOnlyMount { mount: read_only_mount(files, path) })
            }
            errno => {
                let meaning =
                    content.map_or_else(|| error.to_string(), |content| meaning(format, content, error));
                Self::Failed { errno, meaning }
            }
        }
    }
}

impl From<EthtoolError> for Outcome {
    /// What a driver's refusal means.
    fn from(error: EthtoolError) -> Self {
        let errno = match &error {
            EthtoolError::NoInterface { .. } => return Self::Vanished,
            EthtoolError::Denied { .. } => return Self::Denied(Denial::Capability("CAP_NET_ADMIN")),
            EthtoolError::Unsupported { .. } => Some(libc::EOPNOTSUPP),
            EthtoolError::Refused { source, .. } | EthtoolError::Socket(source) => source.raw_os_error(),
            EthtoolError::NoFamily | EthtoolError::NoDriver { .. } | EthtoolError::Answer { .. } => None,
        };
        Self::Failed { errno, meaning: error.to_string() }
    }
}

/// What an error number means for what was written to a file.
fn meaning(format: Format, content: &[u8], error: &io::Error) -> String {
    let value = format.value(content);
    match (error.raw_os_error(), format) {
        (Some(libc::EINVAL), Format::List) if value == Value::Cpus(CpuSet::new()) => {
            format!("{error}: no CPU is named; an interrupt needs one that is online")
        }
        (Some(libc::EINVAL), Format::List) => {
            format!("{error}: of the CPUs {value} none is online; an interrupt needs one that is")
        }
        (Some(libc::EINVAL), Format::Mask) => {
            format!("{error}: all of the CPUs {value} are isolated, or the queue has no place for them")
        }
        (Some(libc::EOVERFLOW | libc::ERANGE), Format::List | Format::Mask) => {
            format!(
                "{error}: of the CPUs {value} one is above the machine's highest; see /sys/devices/system/cpu/possible"
            )
        }
        (Some(libc::EINVAL), Format::Number) => {
            format!("{error}: {value} is above what this file takes; choose less")
        }
        (Some(libc::ENOMEM), Format::Number) => {
            format!("{error}: there is no memory for {value} flows; choose less")
        }
        _ => error.to_string(),
    }
}

/// The read-only mount that a file is on (proc_pid_mountinfo(5)).
fn read_only_mount(files: &impl FileSystem, path: &Path) -> Option<PathBuf> {
    let path = files.canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let table = files.read(Path::new("/proc/self/mountinfo")).ok()?;
    let table = String::from_utf8_lossy(&table);
    let mounts = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    // Later mounts cover earlier ones at the same place.
    mounts.filter(|mount| path.starts_with(mount)).max_by_key(|mount| mount.components().count())
}

/// A path of mountinfo's, in which blanks stand as `\040`.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (escaped, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escaped, character);
    }
    text.into()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unchanged => f.write_str("unchanged"),
            Self::Applied => f.write_str("applied"),
            Self::Trimmed { is } => {
                write!(f, "trimmed to {is}: the kernel dropped CPUs that are offline or isolated")
            }
            Self::Pending { effective } => {
                write!(f, "pending: goes to CPU {effective} until the interrupt next fires")
            }
            Self::ManagedByDriver => f.write_str("left: the driver places this interrupt itself"),
            Self::NoVector => {
                f.write_str("failed: these CPUs have no interrupt vector free; choose more or other CPUs")
            }
            Self::Denied(denial) => write!(f, "denied: {denial}"),
            Self::Vanished => {
                f.write_str("vanished: it is not there any more; discover the machine and plan again")
            }
            Self::Failed { meaning, .. } => write!(f, "failed: {meaning}"),
            Self::RolledBack => f.write_str("put back, because another setting failed"),
            Self::NotTried => f.write_str("not tried"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capability(name) => {
                write!(f, "this needs {name} in the user namespace of the network namespace")
            }
            Self::Owner => f.write_str("the file is root's; run as root, or with CAP_DAC_OVERRIDE, and CAP_NET_ADMIN for the network's files"),
            Self::ReadOnlyMount { mount: Some(mount) } => write!(
                f,
                "{} is mounted read-only; remount it with rw, or run outside the container",
                mount.display()
            ),
            Self::ReadOnlyMount { mount: None } => f.write_str(
                "the file is on a read-only mount; remount it with rw, or run outside the container",
            ),
        }
    }
}

/// One write that is to be done, checked and prepared.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) setting: Setting,
    pub(super) place: Place,
    pub(super) content: Vec<u8>,
}

impl Job {
    pub(super) fn value(&self) -> Value {
        self.place.value(&self.content)
    }

    /// Writes, reads back, and says what is there then, if it could be read.
    pub(super) fn write(&self, files: &impl FileSystem) -> (Outcome, Option<Vec<u8>>) {
        let left = self.place.write(files, &self.content).and_then(|()| self.place.read(files));
        match left {
            Ok(left) => (self.judge(files, &self.place.value(&left)), Some(left)),
            Err(refusal) => (*refusal, None),
        }
    }

    fn judge(&self, files: &impl FileSystem, is: &Value) -> Outcome {
        let wanted = self.value();
        if is.is_trimmed_from(&wanted) {
            return Outcome::Trimmed { is: is.clone() };
        }
        if !is.reaches(&wanted) {
            let meaning = format!("it was written, but reads {is}: the driver or another process changed it");
            return Outcome::Failed { errno: None, meaning };
        }
        match self.effective(files) {
            Some(effective) if !matches!(&wanted, Value::Cpus(cpus) if effective.is_subset(cpus)) => {
                Outcome::Pending { effective }
            }
            _ => Outcome::Applied,
        }
    }

    /// Where an interrupt goes now, if the kernel says.
    fn effective(&self, files: &impl FileSystem) -> Option<CpuSet> {
        let path = self.place.path().filter(|_| self.place.format == Format::List)?;
        let content = files.read(&path.with_file_name("effective_affinity_list")).ok()?;
        match self.place.value(&content) {
            Value::Cpus(cpus) => Some(cpus),
            _ => None,
        }
    }
}
