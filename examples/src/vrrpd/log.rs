//! One line an event on standard error, with its time.

use std::fmt::Display;
use std::io::Write;
use std::time::SystemTime;

/// Writes a line. A log that nobody takes is no reason to stop.
pub(crate) fn say(line: impl Display) {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let _ = writeln!(std::io::stderr().lock(), "{now} {line}");
}

/// Writes a line about something with a name.
pub(crate) fn of(name: &str, line: impl Display) {
    say(format_args!("{name}: {line}"));
}
