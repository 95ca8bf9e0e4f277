//! A thread that is stopped anywhere in its turns and goes on, in a world of its own: the turns of [`Driver`](super::Driver) in
//! their order, with the watches that they wake by, a clock, and another router.
//!
//! The thread wakes in short steps before a deadline, and reads the clock more than once a turn. None of that may hide from a
//! router how long it was stopped: each moment between two things that a turn does is tried, with stops short and long.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::turn::{LATE, Watches};
use crate::event::{Action, State, Transmit};
use crate::wire::{Interval, MAX_MESSAGE, Meta, TTL};
use crate::{Config, Event, Timestamp, VirtualRouter};

/// What anything takes that a turn does.
const COST: Duration = Duration::from_micros(25);
const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(30);
/// How long a router of priority 200, or 100, waits before it takes over.
const DOWN: [Duration; 2] = [Duration::from_micros(32_187), Duration::from_micros(36_093)];
const BEGIN: Timestamp = Timestamp::from_micros(1_000_000);
const MILLI: Duration = Duration::from_millis(1);

/// What the other router does while this one is stopped, and after.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// Nothing.
    Dead,
    /// It takes over, or is active, and stays so.
    Active,
    /// The same, but nothing is heard of it from so long before the stop's end on.
    FallsSilent(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    /// 200 against 100, or the reverse.
    better: bool,
    preempt: bool,
    other: Other,
    /// Before which thing the thread is stopped, and for how long.
    stop: usize,
    length: Duration,
}

struct Thread {
    case: Case,
    clock: Timestamp,
    /// Things that were done.
    done: usize,
    /// From when to when it was stopped.
    stopped: Option<(Timestamp, Timestamp)>,
    router: VirtualRouter,
    watches: Watches,
    planned: Timestamp,
    /// The other's adverts that are still to come.
    coming: VecDeque<Timestamp>,
    advert: (Meta, Vec<u8>),
    /// When the router's wait began: when it was started, or heard an advert that it follows.
    followed: Option<Timestamp>,
    sent: Vec<Timestamp>,
}

fn config(better: bool, preempt: bool) -> Config {
    let mut config = Config::new(1, ["10.9.0.100/24".parse().unwrap()]);
    config.priority = if better { 200 } else { 100 };
    config.preempt = preempt;
    config.interval = Interval::from_centiseconds(1).unwrap();
    config
}

impl Thread {
    /// A router that is active since [`BEGIN`], or a backup of one that is.
    fn new(case: Case, active: bool) -> Self {
        let [own, theirs]: [IpAddr; 2] = [[10, 9, 0, 5].into(), [10, 9, 0, 6].into()];
        let config = config(case.better, case.preempt);
        let peer = VirtualRouter::new(self::config(!case.better, false), Some(theirs)).unwrap();
        let group = config.family().multicast();
        let transmit = Transmit::new(theirs, group, peer.priority(), Timestamp::ZERO);
        let mut buffer = [0; MAX_MESSAGE];
        let message = peer.encode(&transmit, &mut buffer).unwrap().to_vec();
        let advert = (Meta::new(theirs, group, TTL), message);

        let mut router = VirtualRouter::new(config, Some(own)).unwrap();
        let start = if active { BEGIN - DOWN[usize::from(!case.better)] } else { BEGIN };
        router.handle_event(start, Event::Startup);
        let coming = if active {
            VecDeque::new()
        } else {
            (0..2_000).map(|nth| BEGIN + MILLI * 3 + INTERVAL * nth).collect()
        };
        Self {
            case,
            clock: BEGIN,
            done: 0,
            stopped: None,
            router,
            watches: Watches::default(),
            planned: BEGIN,
            coming,
            advert,
            followed: Some(start),
            sent: Vec::new(),
        }
    }

    /// Whatever is done next, time passes before it: very much, if this is where it is stopped.
    fn pass(&mut self) {
        self.clock = self.clock + COST;
        if self.done == self.case.stop {
            let (begin, end) = (self.clock, self.clock + self.case.length);
            self.stopped = Some((begin, end));
            self.clock = end;
            if let Some(&last) = self.sent.last() {
                // It was active: the other takes over if that is long enough.
                let first = last + DOWN[usize::from(self.case.better)];
                self.coming = (0..2_000).map(|nth| first + INTERVAL * nth).collect();
            }
            let silent = match self.case.other {
                Other::Dead => Some(begin),
                Other::Active => None,
                Other::FallsSilent(before) => Some(end - before),
            };
            self.coming.retain(|&at| silent.is_none_or(|silent| at < silent));
        }
        self.done += 1;
    }

    fn now(&mut self) -> Timestamp {
        self.pass();
        self.clock
    }

    /// As [`Driver::look_at_the_clock`](super::Driver::look_at_the_clock).
    fn look_at_the_clock(&mut self) -> Timestamp {
        let now = self.now();
        let late = now.since(self.planned);
        self.planned = now;
        if late > LATE {
            self.router.handle_event(now, Event::HeldUp(late));
        }
        now
    }

    fn hear(&mut self) {
        self.look_at_the_clock();
        while let Some(&at) = self.coming.front().filter(|&&at| at <= self.clock) {
            self.coming.pop_front();
            let before = self.router.poll_timeout();
            let (meta, message) = &self.advert;
            self.router.handle_packet(at, meta, message).unwrap();
            if self.router.state() == State::Backup && self.router.poll_timeout() != before {
                self.followed = Some(at);
            }
        }
        self.send();
    }

    fn send(&mut self) {
        while let Some(action) = self.router.poll_action() {
            let Action::Transmit(transmit) = action else { continue };
            // Between this look at the clock and the system call lies a microsecond that no program can guard.
            let now = self.now();
            if !self.router.withdraw_if_stale(now, transmit.decided) {
                self.sent.push(now);
            }
        }
    }

    /// As [`Driver::turn`](super::Driver::turn).
    fn turn(&mut self) {
        let next = |router: &VirtualRouter| Some((router.poll_timeout()?, router.state()));
        let now = self.look_at_the_clock();
        self.send();
        if let Some(next) = next(&self.router) {
            self.watches.keep(now, next);
            let wake = self.watches.wake(now, next);
            self.planned = wake.max(now);
            let coming = self.coming.front().copied().unwrap_or(wake);
            self.clock = self.clock.max(wake.min(coming));
        }
        self.hear();
        loop {
            let now = self.now();
            let due = |router: &VirtualRouter| router.poll_timeout().is_some_and(|at| at <= now);
            if !due(&self.router) {
                break;
            }
            self.hear();
            self.pass();
            if due(&self.router) {
                self.router.handle_timeout(now);
            }
            self.send();
            if due(&self.router) {
                break;
            }
        }
    }

    /// Goes on until it has said something after it was stopped, or has not for long. Whether it was stopped at all.
    fn run(&mut self) -> bool {
        let end = BEGIN + 6 * INTERVAL;
        while self.stopped.map_or(self.clock < end, |(_, goes_on)| {
            self.sent.last().is_none_or(|&at| at < goes_on)
                && self.clock < goes_on + Duration::from_millis(200)
        }) {
            self.turn();
        }
        self.stopped.is_some()
    }

    /// Checks the first advert after the stop. Its time after the stop's end, if there is one.
    fn judge(&self) -> Option<Duration> {
        let (begin, end) = self.stopped?;
        let first = self.sent.iter().position(|&at| at >= end)?;
        let at = self.sent[first];
        let before = first.checked_sub(1).map(|before| self.sent[before]);
        if before.is_some_and(|before| at.since(before) <= PATIENCE + 2 * COST) {
            return Some(at.since(end)); // the other has not taken over
        }
        let down = DOWN[usize::from(!self.case.better)];
        // Only where the stop was short, what the kernel kept meanwhile may tell it when its wait was over.
        let short = self.case.length <= down + PATIENCE;
        let over =
            self.followed.map(|followed| followed + down).filter(|&over| short && over + PATIENCE >= end);
        let earliest = over.unwrap_or(end + down);
        assert!(
            at >= earliest,
            "{:?}: stopped at {begin}, goes on at {end}, speaks {:?} later, after one that it followed at {:?}",
            self.case,
            at.since(end),
            self.followed,
        );
        Some(at.since(end))
    }
}

#[test]
fn wherever_a_thread_is_stopped_its_router_listens_before_it_speaks() {
    let others = [1, 31, 40, 70, 500]
        .map(|before| Other::FallsSilent(Duration::from_millis(before)))
        .into_iter()
        .chain([Other::Dead, Other::Active]);
    let (mut stops, mut spoke, mut listened) = (0, 0, 0);
    for other in others {
        for length in [9, 25, 31, 45, 70, 100, 1_000, 3_000].map(Duration::from_millis) {
            for [active, better, preempt] in (0..8).map(|bits: u8| [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0])
            {
                // A better one that preempts is no backup for long.
                if !active && better && preempt {
                    continue;
                }
                for stop in 0.. {
                    let case = Case { better, preempt, other, stop, length };
                    let mut thread = Thread::new(case, active);
                    if !thread.run() {
                        break;
                    }
                    stops += 1;
                    let after = thread.judge();
                    spoke += usize::from(after.is_some());
                    listened += usize::from(after.is_some_and(|after| after >= 3 * INTERVAL));
                }
            }
        }
    }
    assert!(stops > 15_000 && spoke > stops / 2 && listened > spoke / 2, "{stops}, {spoke}, {listened}");
}
