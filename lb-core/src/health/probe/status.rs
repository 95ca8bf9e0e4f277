//! Sets of HTTP status codes.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::health::ConfigError;

/// HTTP status codes that pass: single ones, ranges and classes, as in `200`, `200,204`, `200-399` or `2xx,304`.
///
/// ```
/// use lb_core::health::probe::StatusSet;
///
/// let set: StatusSet = "2xx, 301-303, 404".parse()?;
/// assert!(set.contains(204) && set.contains(302) && set.contains(404));
/// assert!(!set.contains(304) && !set.contains(500));
/// assert_eq!(set.to_string(), "200-299,301-303,404");
/// # Ok::<(), lb_core::health::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(
    /// First and last of each range, as written.
    Vec<(u16, u16)>,
);

/// `200-399`, as for HAProxy's `option httpchk`.
impl Default for StatusSet {
    fn default() -> Self {
        Self(alloc::vec![(200, 399)])
    }
}

impl StatusSet {
    /// Whether it has this code.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    /// One item of the list.
    fn range(item: &str) -> Option<(u16, u16)> {
        let code = |text: &str| -> Option<u16> {
            let three_digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|code| three_digits && *code >= 100)
        };
        if let Some(class) = item.strip_suffix("xx") {
            let class: u16 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
            return Some((class * 100, class * 100 + 99));
        }
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (code(first.trim())?, code(last.trim())?);
        (first <= last).then_some((first, last))
    }
}

impl FromStr for StatusSet {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        text.split(',').map(|item| Self::range(item.trim())).collect::<Option<_>>().map(Self).ok_or_else(
            || {
                ConfigError::out_of_range(
                    "status",
                    text,
                    "a list of codes, ranges and classes, as in \"200,301-304,4xx\"",
                )
            },
        )
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for StatusSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From text, or from a number that is one code.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for StatusSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = StatusSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a status code, or a list of codes, ranges and classes, as in \"200,301-304,4xx\"",
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StatusSet, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, code: u64) -> Result<StatusSet, E> {
                self.visit_str(&alloc::format!("{code}"))
            }

            fn visit_i64<E: serde::de::Error>(self, code: i64) -> Result<StatusSet, E> {
                self.visit_str(&alloc::format!("{code}"))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn reads_lists() {
        for (text, inside, outside) in [
            ("200", &[200][..], &[199, 201][..]),
            ("200-299", &[200, 250, 299], &[199, 300]),
            ("2xx,5xx", &[200, 299, 500, 599], &[300, 499]),
            (" 200 - 204 , 404 ", &[202, 404], &[205, 403]),
        ] {
            let set: StatusSet = text.parse().unwrap();
            assert!(inside.iter().all(|code| set.contains(*code)), "{text}");
            assert!(!outside.iter().any(|code| set.contains(*code)), "{text}");
        }
        for text in
            ["", ",", "200,", "20", "2000", "099", "0xx", "xx", "299-200", "+20", "2x", "ok", "-", "200-"]
        {
            let error = text.parse::<StatusSet>().unwrap_err().to_string();
            assert!(error.starts_with("`status` is"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(ranges in proptest::collection::vec((100u16..=999, 100u16..=999), 1..5)) {
            let set = StatusSet(ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect());
            prop_assert_eq!(set.to_string().parse::<StatusSet>().unwrap(), set);
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn reads_a_number_from_a_file() {
        assert_eq!(serde_json::from_str::<StatusSet>("200").unwrap().to_string(), "200");
        assert_eq!(serde_json::from_str::<StatusSet>("\"2xx\"").unwrap().to_string(), "200-299");
        for text in ["7", "-200", "true"] {
            let error = serde_json::from_str::<StatusSet>(text).unwrap_err().to_string();
            assert!(error.contains("301-304"), "{error}");
        }
    }
}
