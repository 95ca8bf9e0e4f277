//! The two formats of a set: the list and the mask.

use std::fmt;
use std::str::FromStr;

use super::{IdSet, Kind, MAX_ID};

impl<K: Kind> IdSet<K> {
    /// The set as the kernel prints masks on a machine with `ids` ids (`nr_cpu_ids`: the highest possible CPU + 1):
    /// exactly ⌈ids/32⌉ groups, the first only as wide as it must be. Ids from `ids` on are left out.
    #[must_use]
    pub fn mask(&self, ids: u32) -> Mask<'_> {
        Mask { words: self.words.get(), ids: ids.clamp(1, MAX_ID + 1) }
    }

    /// Reads a mask: `f`, `00ff`, `1,00000000`. White space around it and one `0x` before it do not count.
    ///
    /// # Errors
    /// If something is no group of at most 8 hexadecimal digits, or an id is above [`MAX_ID`].
    pub fn parse_mask(text: &str) -> Result<Self, ParseSetError> {
        let error = |reason| ParseSetError { what: K::NAME, format: "mask", text: shorten(text), reason };
        let trimmed = text.trim_matches(is_blank);
        let mut set = Self::new();
        let digits = trimmed.strip_prefix("0x").unwrap_or(trimmed);
        let groups = digits.split(',');
        for (group, digits) in groups.rev().enumerate() {
            let hexadecimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !hexadecimal || digits.len() > 8 {
                return Err(error(Reason::Group(shorten(digits))));
            }
            let bits = u32::from_str_radix(digits, 16).map_err(|_| error(Reason::Group(shorten(digits))))?;
            if bits == 0 {
                continue;
            }
            let highest = u64::from(bits.ilog2()) + 32 * group as u64;
            if highest > u64::from(MAX_ID) {
                return Err(error(Reason::TooHigh(highest)));
            }
            let word = group / 2;
            set.reach(word)[word] |= u64::from(bits) << (32 * (group % 2));
        }
        Ok(set)
    }
}

/// What the kernel takes for blank around a set; a file may end with a zero byte too.
const fn is_blank(character: char) -> bool {
    character.is_ascii_whitespace() || character == '\0'
}

impl<K: Kind> fmt::Display for IdSet<K> {
    /// The list, as the kernel prints it: `0-3,8`, and nothing for no id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while ids.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            f.write_str(separator)?;
            match last - first {
                0 => write!(f, "{first}")?,
                _ => write!(f, "{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl<K: Kind> fmt::Debug for IdSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl<K: Kind> FromStr for IdSet<K> {
    type Err = ParseSetError;

    /// Reads a list: `0-3,8`, `0-31:2/8`, and the empty set from no text. As the kernel does, it skips commas and white space
    /// between ranges.
    fn from_str(text: &str) -> Result<Self, ParseSetError> {
        let mut set = Self::new();
        for range in text.split(|character| character == ',' || is_blank(character)) {
            if range.is_empty() {
                continue;
            }
            let parsed = Range::parse(range).map_err(|reason| ParseSetError {
                what: K::NAME,
                format: "list",
                text: shorten(text),
                reason,
            })?;
            parsed.runs().for_each(|(first, last)| set.insert_range(first, last));
        }
        Ok(set)
    }
}

/// `first-last:used/group`.
struct Range {
    first: u32,
    last: u32,
    used: u32,
    group: u32,
}

impl Range {
    fn parse(text: &str) -> Result<Self, Reason> {
        let bad = || Reason::Range(shorten(text));
        let number = |digits: &str| {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(bad());
            }
            digits.parse::<u64>().map_err(|_| bad())
        };
        let (ids, stride) = text.split_once(':').map_or((text, None), |(ids, stride)| (ids, Some(stride)));
        let (first, last) = ids.split_once('-').unwrap_or((ids, ids));
        let (first, last) = (number(first)?, number(last)?);
        if last > u64::from(MAX_ID) {
            return Err(Reason::TooHigh(last));
        }
        let (used, group) = match stride {
            None => (1, 1),
            Some(stride) => {
                let (used, group) = stride.split_once('/').ok_or_else(bad)?;
                (number(used)?, number(group)?)
            }
        };
        if first > last || used == 0 || used > group {
            return Err(bad());
        }
        // A group that is longer than all ids is as good as all ids.
        let all = u64::from(MAX_ID) + 1;
        Ok(Self {
            first: first as u32,
            last: last as u32,
            used: used.min(all) as u32,
            group: group.min(all) as u32,
        })
    }

    fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let used = if self.used == self.group { self.last - self.first + 1 } else { self.used };
        let step = if self.used == self.group { used } else { self.group };
        (self.first..=self.last)
            .step_by(step as usize)
            .map(move |first| (first, (first + (used - 1)).min(self.last)))
    }
}

/// A set in the kernel's mask format, made by [`IdSet::mask`].
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    words: &'a [u64],
    ids: u32,
}

impl fmt::Display for Mask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.ids.div_ceil(32);
        for group in (0..groups).rev() {
            let word = self.words.get(group as usize / 2).copied().unwrap_or(0);
            let mut bits = (word >> (32 * (group % 2))) as u32;
            if group + 1 == groups {
                let width = self.ids - 32 * group;
                bits &= u32::MAX >> (32 - width);
                write!(f, "{bits:0digits$x}", digits = width.div_ceil(4) as usize)?;
            } else {
                write!(f, ",{bits:08x}")?;
            }
        }
        Ok(())
    }
}

/// A text that is no set of ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {format} of {what}s: {reason}")]
pub struct ParseSetError {
    what: &'static str,
    format: &'static str,
    text: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error(
        "{0:?} is neither an id, nor a range `first-last`, nor one with a stride `first-last:used/group`"
    )]
    Range(String),
    #[error("{0:?} is not one to eight hexadecimal digits")]
    Group(String),
    #[error("{0} is above {MAX_ID}, the highest id")]
    TooHigh(u64),
}

/// As much of a text as a message bears.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    let text = text.trim_matches(is_blank);
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(feature = "serde")]
impl<K: Kind> serde::Serialize for IdSet<K> {
    /// As a list.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de, K: Kind> serde::Deserialize<'de> for IdSet<K> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{ids, list, set};
    use super::*;
    use crate::{CpuSet, NodeSet};

    #[test]
    fn lists_are_read_as_the_kernel_reads_them() {
        for (text, printed) in [
            ("", ""),
            ("\n", ""),
            ("0\n", "0"),
            ("0-3,8\n", "0-3,8"),
            ("8,0-3", "0-3,8"),
            ("0,1,2", "0-2"),
            (" 1 ,, 3 ", "1,3"),
            ("0-15:2/8", "0-1,8-9"),
            ("0-9:1/4", "0,4,8"),
            ("0-10:3/4", "0-2,4-6,8-10"),
            ("5:1/2", "5"),
            ("0-7:4294967296/4294967296", "0-7"),
            ("63-64", "63-64"),
            ("0-65535", "0-65535"),
            ("3-3", "3"),
            ("2-5\0", "2-5"),
        ] {
            assert_eq!(list(text).to_string(), printed, "{text:?}");
        }
        for text in [
            "(null)", "a", "1-", "-1", "3-1", "0-7:0/2", "0-7:3/2", "0-7:1", "0-7:/2", "65536", "0x3", "+1",
            "1-2-3",
        ] {
            let error = text.parse::<CpuSet>().unwrap_err().to_string();
            assert!(error.contains("list of CPUs"), "{text}: {error}");
        }
        let error = "0-99999999999".parse::<NodeSet>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"0-99999999999\" is not a list of NUMA nodes: 99999999999 is above 65535, the highest id"
        );
    }

    #[test]
    fn masks_have_as_many_groups_as_the_machine() {
        for (ids, cpus, mask) in [
            (16, "2-3,7", "008c"),
            (1, "0", "1"),
            (2, "1", "2"),
            (4, "", "0"),
            (32, "0-31", "ffffffff"),
            (33, "32", "1,00000000"),
            (40, "4-7", "00,000000f0"),
            (64, "63", "80000000,00000000"),
            (256, "255", "80000000,00000000,00000000,00000000,00000000,00000000,00000000,00000000"),
            (4, "0-99", "f"),
        ] {
            assert_eq!(list(cpus).mask(ids).to_string(), mask, "{cpus} of {ids}");
        }
    }

    #[test]
    fn masks_are_read_in_any_width() {
        for (mask, cpus) in [
            ("0", ""),
            ("f\n", "0-3"),
            ("0xff", "0-7"),
            ("00000000,00000003", "0-1"),
            ("1,0", "32"),
            ("1,,0", "!"),
            ("", "!"),
            ("123456789", "!"),
            ("-1", "!"),
            ("+1", "!"),
            ("g", "!"),
        ] {
            let parsed = CpuSet::parse_mask(mask).map_or("!".to_owned(), |set| set.to_string());
            assert_eq!(parsed, cpus, "{mask:?}");
        }
        let far = format!("1{}", ",0".repeat(2048));
        assert!(CpuSet::parse_mask(&far).unwrap_err().to_string().contains("65536 is above 65535"));
        assert_eq!(CpuSet::parse_mask(&far[..far.len() - 2]).unwrap().last(), Some(65_504));
    }

    proptest! {
        #[test]
        fn both_formats_come_back(ids in ids()) {
            let set = set(&ids);
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            let mask = set.mask(MAX_ID + 1).to_string();
            prop_assert_eq!(&CpuSet::parse_mask(&mask).unwrap(), &set);
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f,:/x \\-\n]{0,40}", any in any::<String>()) {
            for text in [text, any] {
                let _ = text.parse::<CpuSet>();
                let _ = CpuSet::parse_mask(&text);
            }
        }
    }
}
