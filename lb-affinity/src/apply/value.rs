//! What a file holds, so that values are compared by their meaning: `0-3` is `0,1,2,3`, and `0c` is `c`.

use std::fmt;
use std::path::Path;

use crate::CpuSet;
use crate::nic::{ChannelCounts, is_interface};

/// What one of the kernel's files holds, or a driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A set of CPUs, from a list or a mask.
    Cpus(CpuSet),
    /// A count.
    Number(u64),
    /// How many channels of each kind.
    Channels(ChannelCounts),
    /// Something that is neither, as it stands.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus(cpus) if cpus.is_empty() => f.write_str("none"),
            Self::Cpus(cpus) => write!(f, "{cpus}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Channels(counts) => write!(f, "{counts}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl Value {
    /// Whether a file that holds `self` has taken `wanted`: the same, or a count rounded up to a power of two, as
    /// Documentation/networking/scaling.rst says of RFS, or channels of the kinds that `wanted` names.
    pub(super) fn reaches(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Number(is), Self::Number(wanted)) => {
                is == wanted || (*wanted > 0 && wanted.checked_next_power_of_two() == Some(*is))
            }
            (Self::Channels(is), Self::Channels(wanted)) => is.have(wanted),
            _ => self == wanted,
        }
    }

    /// Whether `self` is what the kernel leaves of `wanted` when it drops CPUs that are offline or isolated.
    pub(super) fn is_trimmed_from(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Cpus(is), Self::Cpus(wanted)) => is != wanted && is.is_subset(wanted),
            _ => false,
        }
    }
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Mask,
    List,
    Number,
    Channels,
}

impl Format {
    /// The format of a file of [`Setting`](crate::Setting)'s, by the path as [`Setting::target`](crate::Setting::target) writes it; nothing
    /// for any other path, to which nothing is ever to be written.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let names: Vec<&str> = path.to_str()?.strip_prefix('/')?.split('/').collect();
        let numbered = |name: &str, prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|digits| digits.parse::<u32>().is_ok_and(|number| number.to_string() == digits))
        };
        match *names {
            ["proc", "irq", irq, "smp_affinity_list"] if numbered(irq, "") => Some(Self::List),
            ["proc", "sys", "net", "core", "rps_sock_flow_entries"] => Some(Self::Number),
            ["sys", "class", "net", interface, "queues", queue, file] if is_interface(interface) => {
                match file {
                    "rps_cpus" if numbered(queue, "rx-") => Some(Self::Mask),
                    "rps_flow_cnt" if numbered(queue, "rx-") => Some(Self::Number),
                    "xps_cpus" if numbered(queue, "tx-") => Some(Self::Mask),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    pub(super) fn value(self, content: &[u8]) -> Value {
        let text = String::from_utf8_lossy(content);
        let value = match self {
            Self::Mask if text.trim().is_empty() => Some(Value::Cpus(CpuSet::new())),
            Self::Mask => CpuSet::parse_mask(&text).ok().map(Value::Cpus),
            Self::List => text.parse().ok().map(Value::Cpus),
            Self::Number => text.trim().parse().ok().map(Value::Number),
            Self::Channels => text.parse().ok().map(Value::Channels),
        };
        value.unwrap_or_else(|| Value::Text(text.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_their_meaning() {
        let mask = |text: &str| Format::Mask.value(text.as_bytes());
        assert_eq!(mask("00000000,0000000c\n"), mask("c"));
        assert_eq!(mask("c"), Format::List.value(b"2-3\n"));
        assert!(mask("4").is_trimmed_from(&mask("c")));
        assert!(!mask("c").is_trimmed_from(&mask("c")));
        assert!(!mask("8").is_trimmed_from(&mask("4")));
        let number = |text: &str| Format::Number.value(text.as_bytes());
        assert!(number("1024\n").reaches(&number("1000")));
        assert!(!number("2048").reaches(&number("1000")));
        assert!(!number("1").reaches(&number("0")));
        assert_eq!(number("lots\n"), Value::Text("lots".into()));
        let channels = |text: &str| Format::Channels.value(text.as_bytes());
        assert!(channels("rx 4 tx 2").reaches(&channels("rx 4")));
        assert!(!channels("rx 4 tx 2").reaches(&channels("rx 2")));
        assert_eq!(channels("some"), Value::Text("some".into()));
        assert_eq!([mask("0").to_string(), mask("c").to_string()], ["none", "2-3"]);
    }

    #[test]
    fn only_the_files_of_settings_have_a_format() {
        let format = |path: &str| Format::of(Path::new(path));
        assert_eq!(format("/proc/irq/30/smp_affinity_list"), Some(Format::List));
        assert_eq!(format("/sys/class/net/eth0/queues/rx-0/rps_cpus"), Some(Format::Mask));
        for path in [
            "",
            "/etc/passwd",
            "/proc/irq/x/smp_affinity_list",
            "/proc/irq/+3/smp_affinity_list",
            "/proc/irq/03/smp_affinity_list",
            "/proc/irq/4294967296/smp_affinity_list",
            // From a directory of someone else's, it would lead to a file of his.
            "proc/irq/30/smp_affinity_list",
            "//proc/irq/30/smp_affinity_list",
            "/proc/irq/30/smp_affinity_list/",
            "/proc/irq/./30/smp_affinity_list",
            "/proc/irq/../irq/30/smp_affinity_list",
            "/tmp/../proc/irq/30/smp_affinity_list",
            "/sys/class/net/../queues/rx-0/rps_cpus",
            "/sys/class/net//queues/rx-0/rps_cpus",
            "/sys/class/net/eth 0/queues/rx-0/rps_cpus",
            "/sys/class/net/eth:0/queues/rx-0/rps_cpus",
            "/sys/class/net/eth0/queues/tx-0/rps_cpus",
            "/sys/class/net/eth0/queues/rx-0/xps_cpus",
            "/sys/class/net/eth0/queues/rx-0/rps_cpus\0",
            "/sys/class/net/a/b/queues/rx-0/rps_cpus",
            "/sys/class/net/sixteen-letters-/queues/rx-0/rps_cpus",
        ] {
            assert_eq!(format(path), None, "{path}");
        }
    }
}
