//! Durations in configuration files: a number with its unit, as in `"2s"` or `"500ms"`.
//!
//! HAProxy reads a bare number as milliseconds, keepalived and ldirectord as seconds; so a bare number is an error
//! here.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::ser::Serializer;

/// Unit and nanoseconds in it, the largest first.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*nanos).map(Duration::from_nanos)
}

fn print(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, size) =
        UNITS.iter().find(|(_, size)| nanos.is_multiple_of(u128::from(*size))).unwrap_or(&UNITS[6]);
    if nanos == 0 { String::from("0s") } else { format!("{}{unit}", nanos / u128::from(*size)) }
}

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&print(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Text)
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration: a whole number and its unit (ns, us, ms, s, m, h, d), as in \"2s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The same for a field that may be absent.
pub(crate) mod option {
    use super::{Deserializer, Duration, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, s),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        #[derive(serde::Deserialize)]
        struct Wrapped(#[serde(with = "super")] Duration);
        let wrapped: Option<Wrapped> = serde::Deserialize::deserialize(deserializer)?;
        Ok(wrapped.map(|Wrapped(duration)| duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prints_what_it_parses(nanos: u64, scale in 0usize..7) {
            let duration = Duration::from_nanos(nanos / UNITS[scale].1 * UNITS[scale].1);
            prop_assert_eq!(parse(&print(duration)), Some(duration));
        }
    }

    #[test]
    fn reads_units_only() {
        for (text, millis) in
            [("2s", 2000), ("500ms", 500), ("1m", 60_000), ("2 s", 2000), ("0s", 0), ("1d", 86_400_000)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "2", "s", "2 parsecs", "-1s", "1.5s", "99999999999999999999s", "99999999999d", "٣s"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
