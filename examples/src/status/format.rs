//! How values look on the page. `page.js` has the same functions under the same names; a test in a browser
//! holds the two together.
//!
//! | format | value | looks like |
//! |---|---|---|
//! | `text` | string | as it is |
//! | `plain` | whole number | `12345`, for names rather than amounts |
//! | `count` | whole number | `12 345` (groups of three, narrow no-break spaces) |
//! | `rate` | per second | `52.6`, from 100 on `1 234` |
//! | `bytes` | bytes | `512 B`, `1.5 KiB`, `23.4 GiB` |
//! | `latency` | seconds | `823 µs`, `1.24 ms`, `2.50 s` |
//! | `age` | seconds | `5 s`, `3 min 4 s`, `2 h 5 min`, `3 d 4 h` |
//! | `ratio` | 0–1 | `25 %` |
//! | `limit` | whole number or null | `of 100`, `no limit` |
//! | `length` | list | its length |
//! | `passed` | boolean | `passed`, `failed` |
//! | `clock` | milliseconds since the Unix epoch | `2026-01-02 03:04:05 UTC` |
//!
//! What is null or of another type is an en dash.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::model::HISTORY;

/// Separates groups of digits, and a number from its unit: U+202F, U+00A0.
const THIN: char = '\u{202f}';
const NBSP: char = '\u{a0}';

/// Size of the sparkline's coordinate system.
pub(super) const SPARK: (f64, f64) = (118.0, 26.0);

/// The names of the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Plain,
    Count,
    Rate,
    Bytes,
    Latency,
    Age,
    Ratio,
    Limit,
    Length,
    Passed,
    Clock,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Plain => "plain",
            Self::Count => "count",
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Latency => "latency",
            Self::Age => "age",
            Self::Ratio => "ratio",
            Self::Limit => "limit",
            Self::Length => "length",
            Self::Passed => "passed",
            Self::Clock => "clock",
        }
    }

    pub(super) fn show(self, value: &Value) -> String {
        let number = value.as_f64();
        let shown = match self {
            Self::Text => value.as_str().map(str::to_owned),
            Self::Plain => value.as_u64().map(|number| number.to_string()),
            Self::Count => number.map(count),
            Self::Rate => number.map(rate),
            Self::Bytes => number.map(bytes),
            Self::Latency => number.map(latency),
            Self::Age => number.map(age),
            Self::Ratio => number.map(|n| format!("{:.0}{NBSP}%", n * 100.0)),
            Self::Limit => Some(number.map_or("no limit".into(), |n| format!("of {}", count(n)))),
            Self::Length => value.as_array().map(|list| list.len().to_string()),
            Self::Passed => value.as_bool().map(|ok| if ok { "passed" } else { "failed" }.into()),
            Self::Clock => value.as_u64().map(clock),
        };
        shown.unwrap_or_else(|| "–".into())
    }
}

fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(THIN);
        }
        shown.push(digit);
    }
    shown
}

fn rate(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { count(number) }
}

fn bytes(number: f64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    let mut scaled = number;
    for larger in units {
        if scaled < 1024.0 {
            break;
        }
        (scaled, unit) = (scaled / 1024.0, larger);
    }
    let digits = usize::from(unit != "B" && scaled < 100.0);
    format!("{scaled:.digits$}{NBSP}{unit}")
}

fn latency(seconds: f64) -> String {
    let (scaled, unit) = match seconds {
        s if s < 0.001 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = match scaled {
        _ if unit == "µs" => 0,
        s if s < 10.0 => 2,
        s if s < 100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{NBSP}{unit}")
}

fn age(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let pair =
        |large, large_unit, small, small_unit| format!("{large}{NBSP}{large_unit} {small}{NBSP}{small_unit}");
    match whole {
        0..60 => format!("{whole}{NBSP}s"),
        60..3600 => pair(whole / 60, "min", whole % 60, "s"),
        3600..86400 => pair(whole / 3600, "h", whole / 60 % 60, "min"),
        _ => pair(whole / 86400, "d", whole / 3600 % 24, "h"),
    }
}

fn clock(unix_ms: u64) -> String {
    rfc3339(unix_ms).get(..19).map_or("–".into(), |time| format!("{} UTC", time.replace('T', " ")))
}

/// `2026-01-02T03:04:05.678Z`, as JavaScript's `toISOString`. Beyond the year 9999 there is nothing to show.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    /// 9999-12-31T23:59:59.999Z
    const LAST: u64 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST));
    humantime::format_rfc3339_millis(time).to_string()
}

/// A sparkline as SVG path data, scaled to its largest value; newest at the right, a gap where nothing was
/// measured.
pub(super) fn spark(history: &Value) -> String {
    let values: Vec<_> = history.as_array().into_iter().flatten().map(Value::as_f64).collect();
    let values = &values[values.len().saturating_sub(HISTORY)..];
    let (width, height) = SPARK;
    let largest = peak(history).filter(|&peak| peak > 0.0).unwrap_or(1.0);
    let mut path = String::new();
    let mut drawing = false;
    for (index, value) in values.iter().enumerate() {
        let Some(value) = value else {
            drawing = false;
            continue;
        };
        let x = 1.0 + (HISTORY - values.len() + index) as f64 * (width - 2.0) / (HISTORY - 1) as f64;
        let y = height - 1.5 - value / largest * (height - 3.0);
        let point = format!("{x:.1} {y:.1}");
        // A lone point is a line to itself, which round caps make visible.
        path += &if drawing { format!("L{point}") } else { format!("M{point}L{point}") };
        drawing = true;
    }
    path
}

/// The largest value of a sparkline.
pub(super) fn peak(history: &Value) -> Option<f64> {
    let values = history.as_array().into_iter().flatten().filter_map(Value::as_f64);
    values.max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_the_table_says() {
        use Format::*;
        let table = [
            (Text, json!("a<b"), "a<b"),
            (Plain, json!(12345), "12345"),
            (Count, json!(0), "0"),
            (Count, json!(999), "999"),
            (Count, json!(1000), "1 000"),
            (Count, json!(12_345_678_u64), "12 345 678"),
            (Count, json!(null), "–"),
            (Rate, json!(0.04), "0.0"),
            (Rate, json!(52.61), "52.6"),
            (Rate, json!(1234.4), "1 234"),
            (Bytes, json!(512), "512 B"),
            (Bytes, json!(1536), "1.5 KiB"),
            (Bytes, json!(409_600), "400 KiB"),
            (Bytes, json!(u64::MAX), "16777216 TiB"),
            (Latency, json!(0.000_823), "823 µs"),
            (Latency, json!(0.001_24), "1.24 ms"),
            (Latency, json!(0.0523), "52.3 ms"),
            (Latency, json!(0.523), "523 ms"),
            (Latency, json!(50), "50.0 s"),
            (Age, json!(5.9), "5 s"),
            (Age, json!(184), "3 min 4 s"),
            (Age, json!(7500), "2 h 5 min"),
            (Age, json!(273_600), "3 d 4 h"),
            (Ratio, json!(0.25), "25 %"),
            (Limit, json!(2000), "of 2 000"),
            (Limit, json!(null), "no limit"),
            (Length, json!([1, 2]), "2"),
            (Passed, json!(false), "failed"),
            (Passed, json!(null), "–"),
            (Clock, json!(1_767_323_045_678_u64), "2026-01-02 03:04:05 UTC"),
            (Clock, json!(u64::MAX), "9999-12-31 23:59:59 UTC"),
            (Clock, json!("soon"), "–"),
        ];
        for (format, value, expected) in table {
            let shown = format.show(&value).replace([THIN, NBSP], " ");
            assert_eq!(shown, expected, "{} of {value}", format.name());
        }
    }

    #[test]
    fn a_sparkline_keeps_its_gaps_and_its_right_edge() {
        assert_eq!(spark(&json!([])), "");
        assert_eq!(spark(&json!([1.0])), "M117.0 1.5L117.0 1.5");
        assert_eq!(
            spark(&json!([2.0, null, 0.0, 1.0])),
            "M111.1 1.5L111.1 1.5M115.0 24.5L115.0 24.5L117.0 13.0"
        );
        assert_eq!(spark(&json!([0.0, 0.0])), "M115.0 24.5L115.0 24.5L117.0 24.5");
        let long: Vec<_> = (0..200).map(f64::from).collect();
        assert!(spark(&json!(long)).starts_with("M1.0 "), "no more than a minute is drawn");
    }
}
