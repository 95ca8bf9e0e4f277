//! Times and sizes as people write them.

use std::time::Duration;

/// `500ms`, `1.5s`, `2m`, `1h`, `1d`; `None` when it is not one. A unit is always asked for, because a bare number
/// means milliseconds to some programs and seconds to others.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let seconds = match &text[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// `4096`, `32KiB`, `32k`, `1MiB`; `None` when it is not one.
pub(crate) fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A time in the largest unit that divides it.
pub(crate) fn show(time: Duration) -> String {
    let millis = time.as_millis();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= length && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        for (text, millis) in [
            ("500ms", Some(500)),
            ("5s", Some(5_000)),
            ("1.5s", Some(1_500)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn shown_times_read_back() {
        for text in ["1ms", "1500ms", "5s", "90s", "2m", "1h", "2d"] {
            let time = duration(text).expect("a time");
            assert_eq!(duration(&show(time)), Some(time), "{text}");
        }
    }

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, bytes) in [
            ("4096", Some(4_096)),
            ("32KiB", Some(32_768)),
            ("1k", Some(1_024)),
            ("64kB", Some(64_000)),
            ("1MiB", Some(1 << 20)),
            ("", None),
            ("k", None),
            ("1.5k", None),
            ("18446744073709551615k", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
