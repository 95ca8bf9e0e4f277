//! One line an event on standard error, with its time.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

/// Writes a line. A log that nobody takes is no reason to stop.
pub(crate) fn say(line: impl Display) {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let _ = writeln!(std::io::stderr().lock(), "{now} {line}");
}

/// Writes a line about something with a name.
pub(crate) fn of(name: &str, line: impl Display) {
    say(format_args!("{name}: {line}"));
}

/// Most lines that one instance writes in a [`SPAN`]: what strangers send shall not fill the disk.
const LINES: u32 = 50;
const SPAN: Duration = Duration::from_secs(1);

/// What one instance has said lately.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    begun: Option<Instant>,
    said: u32,
    unsaid: u32,
}

impl Talk {
    /// Writes `line` about `name`, unless there were too many. How many were not written is said with the next that is.
    pub(crate) fn say<L: Display>(&mut self, now: Instant, name: &str, line: impl FnOnce() -> L) {
        let (first, unsaid) = self.count(now);
        if unsaid > 0 {
            of(name, format_args!("{unsaid} lines were left out: more than {LINES} in a second"));
        }
        if first {
            of(name, line());
        }
    }

    /// Whether a line may be written now, and how many were not before it.
    fn count(&mut self, now: Instant) -> (bool, u32) {
        let mut unsaid = 0;
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= SPAN) {
            unsaid = self.unsaid;
            *self = Self { begun: Some(now), said: 0, unsaid: 0 };
        }
        let may = self.said < LINES;
        if may {
            self.said += 1;
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
        }
        (may, unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_short_and_counted() {
        let (mut talk, begin) = (Talk::default(), Instant::now());
        let written = (0..1000).filter(|_| talk.count(begin).0).count();
        assert_eq!(written, 50);
        assert_eq!(talk.count(begin + SPAN / 2), (false, 0));
        assert_eq!(talk.count(begin + SPAN), (true, 951));
        assert_eq!(talk.count(begin + SPAN), (true, 0));
    }
}
