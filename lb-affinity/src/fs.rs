//! What the crate reads and writes the system through: the real files, a recorded machine, or nothing at all. And the one thing
//! of it that is in no file: how many channels an interface has.
//!
//! | file system | reads | writes | channels |
//! |---|---|---|---|
//! | [`Real`] | this machine | to the kernel | of this machine's drivers |
//! | [`Rooted`] | a directory that stands for `/` | are refused | are not known |
//! | [`Memory`] | what was put in: a test's machine, an archive's | are refused | what was put in |
//! | [`Recording`] | another file system | are kept, and read back from then on: a rehearsal | likewise |
//!
//! ```
//! use lb_affinity::fs::{FileSystem, Memory, Recording};
//!
//! let mut machine = Memory::new();
//! machine.insert("/proc/irq/30/smp_affinity_list", "0-15\n");
//! let rehearsal = Recording::new(machine);
//! let irq = "/proc/irq/30/smp_affinity_list".as_ref();
//! rehearsal.write(irq, b"6")?;
//! assert_eq!(rehearsal.read(irq)?, b"6");
//! assert_eq!(rehearsal.into_writes().len(), 1);
//! # Ok::<(), std::io::Error>(())
//! ```

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::nic::ethtool::{Ethtool, EthtoolError, READING_CHANNELS, SETTING_CHANNELS};
use crate::nic::{ChannelCounts, Channels};

mod memory;
mod recording;
mod rooted;

pub use memory::Memory;
pub use recording::{Recording, Write};
pub use rooted::Rooted;

/// Files as `sysfs` and `procfs` have them: small, read and written whole. Paths are absolute, as on the live system:
/// `/sys/devices/system/cpu/online`.
pub trait FileSystem {
    /// The whole content of a file.
    ///
    /// # Errors
    /// As [`std::fs::read`]. A file longer than [`LONGEST`] is refused with [`io::ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes to a file that is there, by one call: the kernel takes or refuses each write as a whole.
    ///
    /// # Errors
    /// The kernel's answer, `EINVAL` or `EOVERFLOW` for instance, by its `raw_os_error`.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As [`std::fs::read_dir`].
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// The path without symbolic links and `..`.
    ///
    /// # Errors
    /// As [`std::fs::canonicalize`]: there must be something there.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;

    /// An interface's channels, which its driver tells by ethtool netlink. A machine of which there are only files can't say.
    ///
    /// # Errors
    /// [`EthtoolError::NoDriver`] if nothing else is provided; as [`Ethtool::channels`].
    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        Err(EthtoolError::NoDriver { interface: interface.to_owned(), operation: READING_CHANNELS })
    }

    /// Sets how many channels an interface has. A machine of which there are only files can't.
    ///
    /// # Errors
    /// [`EthtoolError::NoDriver`] if nothing else is provided; as [`Ethtool::set_channels`].
    fn set_channels(&self, interface: &str, _: ChannelCounts) -> Result<(), EthtoolError> {
        Err(EthtoolError::NoDriver { interface: interface.to_owned(), operation: SETTING_CHANNELS })
    }
}

/// The longest file that is read: `/proc/interrupts` of a machine with 8192 CPUs takes some tens of megabytes.
pub const LONGEST: u64 = 256 << 20;

impl<F: FileSystem + ?Sized> FileSystem for &F {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        (**self).read(path)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        (**self).write(path, content)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        (**self).list(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        (**self).canonicalize(path)
    }

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        (**self).channels(interface)
    }

    fn set_channels(&self, interface: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        (**self).set_channels(interface, counts)
    }
}

/// The live system's files, and the drivers of this thread's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Real;

impl FileSystem for Real {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_whole(path)
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
        let written = file.write(content)?;
        if written == content.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        list_real(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn channels(&self, interface: &str) -> Result<Channels, EthtoolError> {
        Ethtool::open()?.channels(interface)
    }

    fn set_channels(&self, interface: &str, counts: ChannelCounts) -> Result<(), EthtoolError> {
        Ethtool::open()?.set_channels(interface, counts)
    }
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    // Files of sysfs have at most a page, and most of them some bytes: one call reads all.
    let mut content = Vec::with_capacity(4096);
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LONGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}

fn list_real(path: &Path) -> io::Result<Vec<OsString>> {
    let names = std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name()));
    let mut names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}
