//! Who is being waited for on one client connection, and since when.
//!
//! A connection owns a single timer. The parts that wait (the socket, the request's body, the response's body) only
//! note what they wait for; when the timer fires, [`Watch::check`] says whether anything is overdue or when to look
//! again. So a request costs no timer of its own.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::config::ClientTimeouts;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The next request.
    Idle,
    /// The rest of a request's header.
    Header,
    /// More of a request's body.
    Client,
    /// The server.
    Server,
    /// Something that has a timer of its own: a queue, a connection being made, a tunnel.
    Elsewhere,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// No next request came.
    KeepAlive,
    /// A request's header did not end.
    Header,
    /// The client stopped sending a body.
    ClientRead,
    /// The client stopped reading.
    ClientWrite,
    /// The client ended its side, and no answer has begun since.
    HalfClosed,
    /// The server stopped answering.
    Server,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again then.
    Later(Instant),
    /// This is overdue.
    Now(Overdue),
}

/// The state of one connection's waiting.
#[derive(Debug)]
pub(crate) struct Watch {
    wait: Cell<Wait>,
    since: Cell<Instant>,
    blocked: Cell<Option<Instant>>,
    half_closed: Cell<Option<Instant>>,
    answered: Cell<bool>,
    server_timeout: Cell<Duration>,
    overdue: Cell<Option<Overdue>>,
}

impl Watch {
    /// A new connection: its first header is awaited. Its server, once there is one, may be silent for
    /// `server_timeout`.
    pub(crate) fn new(now: Instant, server_timeout: Duration) -> Self {
        Self {
            wait: Cell::new(Wait::Header),
            since: Cell::new(now),
            blocked: Cell::new(None),
            half_closed: Cell::new(None),
            answered: Cell::new(false),
            server_timeout: Cell::new(server_timeout),
            overdue: Cell::new(None),
        }
    }

    /// From now on, this is waited for.
    pub(crate) fn wait_for(&self, wait: Wait, now: Instant) {
        self.wait.set(wait);
        self.since.set(now);
    }

    /// As [`wait_for`](Self::wait_for), unless it is waited for already.
    pub(crate) fn still_waits_for(&self, wait: Wait) {
        if self.wait.get() != wait {
            self.wait_for(wait, Instant::now());
        }
    }

    /// What was waited for came, and more of it will.
    pub(crate) fn progress(&self) {
        self.since.set(Instant::now());
    }

    /// What is waited for.
    pub(crate) fn waits_for(&self) -> Wait {
        self.wait.get()
    }

    /// How long the present request's server may be silent. Less than before, as after a reload, is noticed when the
    /// timer next fires.
    pub(crate) fn set_server_timeout(&self, timeout: Duration) {
        self.server_timeout.set(timeout);
    }

    /// The client's socket takes no more bytes, or does again.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        if blocked != self.blocked.get().is_some() {
            self.blocked.set(blocked.then(Instant::now));
        }
    }

    /// A request has begun.
    pub(crate) fn begin(&self, now: Instant) {
        self.wait_for(Wait::Elsewhere, now);
        self.answered.set(false);
        self.half_closed.set(self.half_closed.get().map(|_| now));
    }

    /// Its answer has begun.
    pub(crate) fn answered(&self) {
        self.answered.set(true);
    }

    /// The client will send nothing more. It may be waiting for its answer, or gone: only writing to it would tell.
    pub(crate) fn set_half_closed(&self) {
        if self.half_closed.get().is_none() {
            self.half_closed.set(Some(Instant::now()));
        }
    }

    /// Since when the client sends nothing more.
    pub(crate) fn half_closed(&self) -> Option<Instant> {
        self.half_closed.get()
    }

    /// What was found overdue and is to be answered by whoever waits for it.
    pub(crate) fn overdue(&self) -> Option<Overdue> {
        self.overdue.get()
    }

    /// Tells whoever waits.
    pub(crate) fn set_overdue(&self, overdue: Option<Overdue>) {
        self.overdue.set(overdue);
    }

    /// Whether anything is overdue.
    pub(crate) fn check(&self, now: Instant, timeouts: &ClientTimeouts) -> Verdict {
        // The driver looks when this is due.
        if self.half_closed.get().is_some_and(|since| since + timeouts.client_fin <= now)
            && !self.answered.get()
        {
            return Verdict::Now(Overdue::HalfClosed);
        }
        let (since, timeout, overdue) = match (self.blocked.get(), self.wait.get()) {
            (Some(since), _) => (since, timeouts.client, Overdue::ClientWrite),
            (None, Wait::Idle) => (self.since.get(), timeouts.keep_alive, Overdue::KeepAlive),
            (None, Wait::Header) => (self.since.get(), timeouts.request_header, Overdue::Header),
            (None, Wait::Client) => (self.since.get(), timeouts.client, Overdue::ClientRead),
            (None, Wait::Server) => (self.since.get(), self.server_timeout.get(), Overdue::Server),
            (None, Wait::Elsewhere) => return Verdict::Later(now + self.shortest(timeouts)),
        };
        // A year stands for never; Instant cannot add more.
        let due = since + timeout.min(Duration::from_secs(31_536_000));
        if due <= now {
            return Verdict::Now(overdue);
        }
        // What is waited for may change before then, to something with a shorter timeout that began just now.
        Verdict::Later(due.min(now + self.shortest(timeouts)))
    }

    /// The shortest time in which anything that begins now could become overdue.
    fn shortest(&self, timeouts: &ClientTimeouts) -> Duration {
        timeouts.keep_alive.min(timeouts.request_header).min(timeouts.client).min(self.server_timeout.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_has_its_timeout() {
        let seconds = Duration::from_secs;
        let timeouts = ClientTimeouts {
            request_header: seconds(10),
            keep_alive: seconds(20),
            client: seconds(50),
            client_fin: seconds(5),
        };
        let start = Instant::now();
        for (wait, timeout, overdue) in [
            (Wait::Idle, 20, Overdue::KeepAlive),
            (Wait::Header, 10, Overdue::Header),
            (Wait::Client, 50, Overdue::ClientRead),
            (Wait::Server, 40, Overdue::Server),
        ] {
            let watch = Watch::new(start, Duration::from_secs(40));
            watch.wait_for(wait, start);
            let before = start + seconds(timeout) - Duration::from_millis(1);
            assert_eq!(watch.check(before, &timeouts), Verdict::Later(start + seconds(timeout)), "{wait:?}");
            assert_eq!(watch.check(start + seconds(timeout), &timeouts), Verdict::Now(overdue));
        }
    }

    #[test]
    fn a_client_that_ended_its_side_is_waited_for_until_its_answer_begins() {
        let timeouts = ClientTimeouts {
            request_header: Duration::from_secs(10),
            keep_alive: Duration::from_secs(10),
            client: Duration::from_secs(50),
            client_fin: Duration::ZERO,
        };
        let start = Instant::now();
        let watch = Watch::new(start, Duration::from_secs(40));
        watch.begin(start);
        watch.set_half_closed();
        let now = watch.half_closed().unwrap();
        assert_eq!(watch.check(now, &timeouts), Verdict::Now(Overdue::HalfClosed));
        watch.answered();
        assert!(matches!(watch.check(now, &timeouts), Verdict::Later(_)));
        // The next request, which came before that end, has a time of its own.
        let next = now + Duration::from_secs(1);
        watch.begin(next);
        assert_eq!(watch.half_closed(), Some(next));
    }

    #[test]
    fn it_looks_again_before_any_new_wait_can_be_overdue() {
        let timeouts = ClientTimeouts {
            request_header: Duration::from_secs(1),
            keep_alive: Duration::from_secs(20),
            client: Duration::from_secs(50),
            client_fin: Duration::from_secs(5),
        };
        let start = Instant::now();
        let watch = Watch::new(start, Duration::from_secs(40));
        watch.wait_for(Wait::Client, start);
        assert_eq!(watch.check(start, &timeouts), Verdict::Later(start + Duration::from_secs(1)));
        watch.wait_for(Wait::Elsewhere, start);
        assert_eq!(watch.check(start, &timeouts), Verdict::Later(start + Duration::from_secs(1)));
    }
}
