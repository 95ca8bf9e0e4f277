//! An amount of memory.

use std::fmt;
use std::str::FromStr;

/// Memory in KiB, as libvirt counts it.
///
/// ```
/// use lb_virt::Memory;
///
/// let memory: Memory = "20 GiB".parse()?;
/// assert_eq!(memory.kib(), 20_971_520);
/// assert_eq!("1500M".parse::<Memory>()?, Memory::from_mib(1500));
/// assert_eq!(Memory::from_mib(1536).to_string(), "1536 MiB");
/// # Ok::<(), lb_virt::domain::ParseMemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(u64);

impl Memory {
    /// So many KiB.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib)
    }

    /// So many MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1024))
    }

    /// Bytes, rounded up.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes.div_ceil(1024))
    }

    /// In KiB.
    #[must_use]
    pub const fn kib(self) -> u64 {
        self.0
    }

    /// In MiB, rounded up.
    #[must_use]
    pub const fn mib(self) -> u64 {
        self.0.div_ceil(1024)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1024)
    }

    /// Both together.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Memory {
    /// In the largest unit that it is whole in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut number, mut units) = (self.0, ["KiB", "MiB", "GiB"].into_iter());
        let mut unit = units.next().unwrap_or_default();
        // Up to four digits are read at a glance.
        while number >= 10_000 && number.is_multiple_of(1024) {
            let Some(larger) = units.next() else { break };
            (number, unit) = (number / 1024, larger);
        }
        write!(f, "{number} {unit}")
    }
}

/// A text that is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no amount of memory: write it like 512 MiB, 512M, 20 GiB or 1048576 KiB")]
pub struct ParseMemoryError {
    text: String,
}

impl FromStr for Memory {
    type Err = ParseMemoryError;

    /// A whole number and a unit: `KiB` or `K`, `MiB` or `M`, `GiB` or `G`, `TiB` or `T`.
    fn from_str(text: &str) -> Result<Self, ParseMemoryError> {
        let error = || ParseMemoryError { text: text.chars().take(64).collect() };
        let trimmed = text.trim();
        let digits = trimmed.find(|character: char| !character.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let factor: u64 = match unit.trim_start() {
            "KiB" | "K" => 1,
            "MiB" | "M" => 1 << 10,
            "GiB" | "G" => 1 << 20,
            "TiB" | "T" => 1 << 30,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

text_by_serde!(Memory);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_with_their_units() {
        for (text, kib) in [
            ("0K", Some(0)),
            ("512 MiB", Some(524_288)),
            (" 20G ", Some(20_971_520)),
            ("20971520 KiB", Some(20_971_520)),
            ("1 TiB", Some(1 << 30)),
            ("512", None),
            ("", None),
            ("-1M", None),
            ("1.5G", None),
            ("1 MB", None),
            ("99999999999999999T", None),
        ] {
            assert_eq!(text.parse::<Memory>().ok().map(Memory::kib), kib, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(kib in any::<u64>()) {
            let memory = Memory::from_kib(kib);
            prop_assert_eq!(memory.to_string().parse::<Memory>().unwrap(), memory);
        }
    }
}
