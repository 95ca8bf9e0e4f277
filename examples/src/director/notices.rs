//! What an operator should see on standard error, at most one line a second and worker, so that nobody can fill a
//! disk with it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One worker's notices.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    last: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl Notices {
    /// A client's bytes were refused.
    pub(crate) fn refused(&self, client: SocketAddr, why: &str) {
        self.say(format_args!("refused {client}: {why}"));
    }

    /// One sentence.
    pub(crate) fn say(&self, sentence: std::fmt::Arguments<'_>) {
        let now = Instant::now();
        if self.last.get().is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            self.suppressed.set(self.suppressed.get() + 1);
            return;
        }
        self.last.set(Some(now));
        match self.suppressed.take() {
            0 => eprintln!("director: {sentence}"),
            1 => eprintln!("director: {sentence} (and 1 notice before it)"),
            more => eprintln!("director: {sentence} (and {more} notices before it)"),
        }
    }
}
