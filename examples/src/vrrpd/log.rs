//! One line an event on standard error, with its time.

use std::fmt::Display;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest line: a pipe that takes anything takes so much at once (pipe(7): `PIPE_BUF`).
const LONGEST: usize = 4096;

/// Lines that nobody took.
static LOST: AtomicU32 = AtomicU32::new(0);

/// Writes a line. A log that nobody takes is no reason to stop, nor to wait: then the line is lost, and counted.
pub(crate) fn say(line: impl Display) {
    put(std::io::stderr().lock(), &LOST, &line);
}

fn put(mut log: impl Write + AsFd, lost: &AtomicU32, line: &dyn Display) {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let mut write = |line: &dyn Display| {
        let ready = poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO);
        let mut text = format!("{now} {line}");
        let end =
            (0..LONGEST.min(text.len() + 1)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        text.truncate(end);
        text.push('\n');
        // What is closed counts as ready, and takes nothing.
        ready != Ok(0) && log.write_all(text.as_bytes()).is_ok()
    };
    let before = lost.load(Ordering::Relaxed);
    if before > 0 && write(&format_args!("{before} lines are lost: nobody took them")) {
        lost.fetch_sub(before, Ordering::Relaxed);
    }
    if !write(line) {
        lost.fetch_add(1, Ordering::Relaxed);
    }
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
    fn a_log_that_nobody_takes_is_not_waited_for() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let lost = AtomicU32::new(0);
        let long = "é".repeat(5000);
        let mut count = 0;
        while lost.load(Ordering::Relaxed) < 3 {
            put(&writer, &lost, &long);
            count += 1;
        }
        assert!(count > 3, "some were taken");
        let mut taken = [0; 2 * LONGEST];
        std::io::Read::read_exact(&mut reader, &mut taken).expect("they are there");
        let text = String::from_utf8_lossy(&taken);
        assert!(text.lines().next().is_some_and(|line| line.len() >= LONGEST - 3 && line.ends_with('é')));
        put(&writer, &lost, &"the next");
        assert_eq!(lost.load(Ordering::Relaxed), 0);
        drop(writer);
        let rest = std::io::read_to_string(reader).expect("text");
        assert!(rest.contains(" 3 lines are lost: nobody took them\n") && rest.ends_with(" the next\n"));

        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        put(&writer, &lost, &"nobody");
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }

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
