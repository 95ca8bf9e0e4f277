//! What a machine keeps its data on.

use std::fmt;
use std::path::PathBuf;

/// A disk, or a drive for discs.
///
/// ```
/// use lb_virt::domain::{Bus, Cache, Disk};
///
/// let system = Disk::block("/dev/rdlabvg/xen-debian1").on(Bus::Ide);
/// let image = Disk::file("/srv/images/web1.qcow2").cached(Cache::None);
/// let installer = Disk::cdrom("/srv/iso/debian.iso");
/// assert!(installer.read_only);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Disk {
    /// Where the data is; `None` for a drive without a disc.
    #[cfg_attr(feature = "serde", serde(default))]
    pub source: Option<Source>,
    /// A disk or a drive. Default: a disk.
    #[cfg_attr(feature = "serde", serde(default))]
    pub device: DiskDevice,
    /// How the guest sees it connected. Default: virtio.
    #[cfg_attr(feature = "serde", serde(default))]
    pub bus: Bus,
    /// Its name on the bus: `vda`, `hdc`, `sdb`, `xvda`. Empty: the first that is free, which
    /// [`DomainSpec::with_targets`](crate::DomainSpec::with_targets) gives.
    #[cfg_attr(feature = "serde", serde(default))]
    pub target: String,
    /// How the data is laid out. Default: raw.
    #[cfg_attr(feature = "serde", serde(default))]
    pub format: Format,
    /// How the host caches it. Default: the hypervisor's own way.
    #[cfg_attr(feature = "serde", serde(default))]
    pub cache: Option<Cache>,
    /// Whether the guest only reads it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub read_only: bool,
    /// Whether other hosts reach the same data by the same name: live migration needs it of every disk that is written.
    #[cfg_attr(feature = "serde", serde(default))]
    pub shared: bool,
}

impl Disk {
    fn new(source: Source) -> Self {
        Self {
            source: Some(source),
            device: DiskDevice::Disk,
            bus: Bus::Virtio,
            target: String::new(),
            format: Format::Raw,
            cache: None,
            read_only: false,
            shared: false,
        }
    }

    /// An image file, on virtio; its format by its ending, raw if that says nothing.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let format = ending.and_then(|ending| Format::ALL.into_iter().find(|format| format.name() == ending));
        Self { format: format.unwrap_or_default(), ..Self::new(Source::File(path)) }
    }

    /// A block device of the host, on virtio.
    #[must_use]
    pub fn block(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::Block(path.into()))
    }

    /// A drive with a disc in it, on IDE.
    #[must_use]
    pub fn cdrom(path: impl Into<PathBuf>) -> Self {
        let disc = Self::new(Source::File(path.into()));
        Self { device: DiskDevice::Cdrom, bus: Bus::Ide, read_only: true, ..disc }
    }

    /// On another bus.
    #[must_use]
    pub const fn on(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// Under a name on the bus.
    #[must_use]
    pub fn named(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// Cached so.
    #[must_use]
    pub const fn cached(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Other hosts reach it too.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }
}

/// Where a disk's data is, by an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Source {
    /// An image.
    File(PathBuf),
    /// A block device: a partition, a logical volume, a LUN.
    Block(PathBuf),
}

impl Source {
    /// The path.
    #[must_use]
    pub const fn path(&self) -> &PathBuf {
        match self {
            Self::File(path) | Self::Block(path) => path,
        }
    }
}

/// Declares an enum whose variants have names that hypervisors write.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* #[cfg_attr(feature = "serde", serde(rename = $text))] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];

            /// The name, as libvirt writes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// What has that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use named;

named! {
    /// What the guest sees.
    #[derive(Default)]
    DiskDevice {
        /// A disk.
        #[default]
        Disk = "disk",
        /// A drive whose disc can be changed.
        Cdrom = "cdrom",
    }
}

named! {
    /// How the guest sees a disk connected.
    #[derive(Default)]
    Bus {
        /// Paravirtual: `vda`, `vdb`, …
        #[default]
        Virtio = "virtio",
        /// `hda` to `hdd`.
        Ide = "ide",
        /// `sda`, …
        Sata = "sata",
        /// `sda`, …
        Scsi = "scsi",
        /// `sda`, …
        Usb = "usb",
        /// Xen's paravirtual one: `xvda`, …
        Xen = "xen",
    }
}

impl Bus {
    /// How the names of its disks begin.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Virtio => "vd",
            Self::Ide => "hd",
            Self::Sata | Self::Scsi | Self::Usb => "sd",
            Self::Xen => "xvd",
        }
    }

    /// The place of a name on it, from 0: of `hdc` 2, of `vdaa` 26. `None` for a name that it has not.
    #[must_use]
    pub fn place(self, target: &str) -> Option<u32> {
        let letters = target.strip_prefix(self.prefix())?;
        if letters.is_empty() || letters.len() > 3 || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return None;
        }
        Some(letters.bytes().fold(0, |place, byte| place * 26 + u32::from(byte - b'a') + 1) - 1)
    }

    /// The name of a place.
    #[must_use]
    pub fn target(self, place: u32) -> String {
        let mut letters = Vec::new();
        let mut rest = place;
        loop {
            letters.push(b'a' + (rest % 26) as u8);
            rest /= 26;
            if rest == 0 {
                break;
            }
            rest -= 1;
        }
        let letters = letters.into_iter().rev().map(char::from);
        self.prefix().chars().chain(letters).collect()
    }
}

named! {
    /// How a disk's data is laid out.
    #[derive(Default)]
    Format {
        /// As it is.
        #[default]
        Raw = "raw",
        /// QEMU's, with snapshots inside.
        Qcow2 = "qcow2",
        /// VirtualBox's.
        Vdi = "vdi",
        /// VMware's.
        Vmdk = "vmdk",
        /// Hyper-V's and Xen's older one.
        Vhd = "vpc",
    }
}

named! {
    /// How the host caches a disk.
    Cache {
        /// Not: the host's page cache is passed by.
        None = "none",
        /// Writes are done when they are in the host's page cache.
        Writeback = "writeback",
        /// Writes are done when they are on the disk; reads are cached.
        Writethrough = "writethrough",
        /// Neither cached nor buffered.
        DirectSync = "directsync",
        /// Never flushed: a crash of the host loses data.
        Unsafe = "unsafe",
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_on_a_bus() {
        for (bus, target, place) in [
            (Bus::Virtio, "vda", Some(0)),
            (Bus::Ide, "hdc", Some(2)),
            (Bus::Scsi, "sdz", Some(25)),
            (Bus::Scsi, "sdaa", Some(26)),
            (Bus::Xen, "xvdzz", Some(701)),
            (Bus::Xen, "xvdaaa", Some(702)),
            (Bus::Virtio, "hda", None),
            (Bus::Virtio, "vd", None),
            (Bus::Virtio, "vdA", None),
            (Bus::Virtio, "vd1", None),
            (Bus::Virtio, "vdaaaa", None),
        ] {
            assert_eq!(bus.place(target), place, "{target}");
        }
        for bus in Bus::ALL {
            for place in 0..2000 {
                assert_eq!(bus.place(&bus.target(place)), Some(place));
            }
        }
    }

    #[test]
    fn an_image_says_its_format_by_its_ending() {
        for (path, format) in [
            ("/a.qcow2", Format::Qcow2),
            ("/a.img", Format::Raw),
            ("/a", Format::Raw),
            ("/a.vdi", Format::Vdi),
        ] {
            assert_eq!(Disk::file(path).format, format, "{path}");
        }
    }
}
