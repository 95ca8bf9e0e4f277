//! Every combination of state, event, preemption, priorities and version: what the router does, beside a table that was reviewed
//! and beside an oracle that was written from the RFCs' state tables (RFC 3768 §6.4, RFC 9568 §6.4) and shares nothing with the
//! state machine.
//!
//! A change that is meant changes the table: `INSTA_UPDATE=always cargo test -p lb-vrrp --test matrix`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::event::Faults;
use lb_vrrp::wire::{Interval, Meta, TTL, Version};
use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualRouter};

const OWN: &str = "10.9.0.5";
const LESSER: &str = "10.9.0.4";
const GREATER: &str = "10.9.0.6";
/// The router's own interval, and that of version 3's adverts, in centiseconds.
const OWN_INTERVAL: u16 = 100;
const OTHER_INTERVAL: u16 = 300;
/// How long after it came into its state the event comes.
const LATER: u64 = 500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Startup,
    Shutdown,
    Fault,
    Timer,
    /// An advert of this priority from this address.
    Advert(Relation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Zero,
    Lower,
    EqualFromLesser,
    EqualFromGreater,
    Higher,
}

const EVENTS: [(Happens, &str); 9] = [
    (Happens::Startup, "startup"),
    (Happens::Shutdown, "shutdown"),
    (Happens::Fault, "fault"),
    (Happens::Timer, "timer"),
    (Happens::Advert(Relation::Zero), "advert 0"),
    (Happens::Advert(Relation::Lower), "advert lower"),
    (Happens::Advert(Relation::EqualFromLesser), "advert equal, lesser address"),
    (Happens::Advert(Relation::EqualFromGreater), "advert equal, greater address"),
    (Happens::Advert(Relation::Higher), "advert higher"),
];

#[derive(Clone, Copy, Debug)]
struct Case {
    version: Version,
    priority: u8,
    preempt: bool,
    state: State,
    event: Happens,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    state: State,
    does: String,
    /// Microseconds from the event on.
    deadline: Option<u64>,
    /// The interval of the active router that it reckons with, in centiseconds.
    interval: u16,
}

/// Every combination that there is: nothing is higher than an owner.
fn cases() -> impl Iterator<Item = (Case, &'static str)> {
    let states = [State::Initialize, State::Backup, State::Active];
    let mut cases = Vec::new();
    for version in [Version::V2, Version::V3] {
        for priority in [100, 255] {
            for state in states {
                for (event, name) in EVENTS {
                    for preempt in [true, false] {
                        if priority == 255 && event == Happens::Advert(Relation::Higher) {
                            continue;
                        }
                        cases.push((Case { version, priority, preempt, state, event }, name));
                    }
                }
            }
        }
    }
    cases.into_iter()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

// What the router does.

fn config(case: &Case, interval: u16) -> Config {
    let mut config = Config::new(51, ["10.9.0.100/24".parse().unwrap()]);
    config.version = case.version;
    config.priority = case.priority;
    config.preempt = case.preempt;
    config.interval = Interval::from_centiseconds(interval).unwrap();
    // Only what the RFCs say: one round of announcements, and none for another's adverts.
    (config.garp.repeat, config.garp.delay, config.garp.lower_priority_repeat) = (1, Duration::ZERO, 0);
    config
}

fn hear(router: &mut VirtualRouter, now: Timestamp, case: &Case, source: &str, priority: u8, interval: u16) {
    let (source, destination) = (ip(source), ip("224.0.0.18"));
    let message = common::message(&config(case, interval), source, priority);
    let _ = router.handle_packet(now, &Meta::new(source, destination, TTL), &message);
}

fn actions(router: &mut VirtualRouter) -> String {
    let mut words = Vec::new();
    while let Some(action) = router.poll_action() {
        words.push(match action {
            Action::Transmit(transmit) => format!("advertise {}", transmit.priority),
            Action::AddAddress(_) => "add".into(),
            Action::RemoveAddress(_) => "remove".into(),
            Action::GratuitousArp(_) => "announce".into(),
            _ => continue,
        });
    }
    words.join(", ")
}

/// A router that came into `case.state` at the returned time.
fn router_in_state(case: &Case) -> (VirtualRouter, Timestamp) {
    let mut router = VirtualRouter::new(config(case, OWN_INTERVAL), Some(ip(OWN))).unwrap();
    let mut now = Timestamp::from_micros(1_000_000);
    if case.state != State::Initialize {
        router.handle_event(now, Event::Startup);
    }
    if case.state == State::Active && router.state() == State::Backup {
        now = router.poll_timeout().unwrap();
        router.handle_timeout(now);
    }
    if case.state == State::Backup && router.state() == State::Active {
        // Only another owner brings an owner to Backup.
        hear(&mut router, now, case, GREATER, 255, OWN_INTERVAL);
    }
    actions(&mut router);
    assert_eq!(router.state(), case.state);
    (router, now)
}

fn observed(case: &Case) -> Outcome {
    let (mut router, since) = router_in_state(case);
    let mut now = since + Duration::from_micros(LATER);
    match case.event {
        Happens::Startup => router.handle_event(now, Event::Startup),
        Happens::Shutdown => router.handle_event(now, Event::Shutdown),
        Happens::Fault => router.handle_event(now, Event::Fault(Faults::TRACK)),
        Happens::Timer => {
            now = router.poll_timeout().unwrap_or(now);
            router.handle_timeout(now);
        }
        Happens::Advert(relation) => {
            let interval = if case.version == Version::V3 { OTHER_INTERVAL } else { OWN_INTERVAL };
            let (source, priority) = match relation {
                Relation::Zero => (GREATER, 0),
                Relation::Lower => (GREATER, case.priority - 1),
                Relation::EqualFromLesser => (LESSER, case.priority),
                Relation::EqualFromGreater => (GREATER, case.priority),
                Relation::Higher => (LESSER, case.priority + 1),
            };
            hear(&mut router, now, case, source, priority, interval);
        }
    }
    let deadline = router.poll_timeout().map(|deadline| deadline.as_micros() - now.as_micros());
    let interval = router.interval().centiseconds();
    Outcome { does: actions(&mut router), state: router.state(), deadline, interval }
}

// What the RFCs say.

/// RFC 3768 §6.1, RFC 9568 §6.1, in microseconds, cut to whole ones.
fn skew(case: &Case, interval: u16) -> u64 {
    let unit = match case.version {
        Version::V2 => 1_000_000,
        Version::V3 => u64::from(interval) * 10_000,
    };
    (256 - u64::from(case.priority)) * unit / 256
}

fn master_down(case: &Case, interval: u16) -> u64 {
    3 * u64::from(interval) * 10_000 + skew(case, interval)
}

/// The state tables, word for word in code.
fn prescribed(case: &Case) -> Outcome {
    let advertisement_interval = u64::from(OWN_INTERVAL) * 10_000;
    let outcome =
        |state, does: &str, deadline, interval| Outcome { state, does: does.into(), deadline, interval };
    let advertise = format!("advertise {}", case.priority);
    let learned = if case.version == Version::V3 { OTHER_INTERVAL } else { OWN_INTERVAL };
    let takes_over = || {
        outcome(
            State::Active,
            &format!("{advertise}, add, announce"),
            Some(advertisement_interval),
            OWN_INTERVAL,
        )
    };
    let to_initialize = |does| outcome(State::Initialize, does, None, OWN_INTERVAL);
    match case.state {
        State::Initialize => match case.event {
            Happens::Startup if case.priority == 255 => takes_over(),
            Happens::Startup => {
                outcome(State::Backup, "", Some(master_down(case, OWN_INTERVAL)), OWN_INTERVAL)
            }
            _ => to_initialize(""),
        },
        State::Backup => {
            let unmoved =
                outcome(State::Backup, "", Some(master_down(case, OWN_INTERVAL) - LATER), OWN_INTERVAL);
            let waits = outcome(State::Backup, "", Some(master_down(case, learned)), learned);
            match case.event {
                Happens::Startup => unmoved,
                Happens::Shutdown | Happens::Fault => to_initialize(""),
                Happens::Timer => takes_over(),
                Happens::Advert(Relation::Zero) => {
                    outcome(State::Backup, "", Some(skew(case, OWN_INTERVAL)), OWN_INTERVAL)
                }
                Happens::Advert(Relation::Lower) if case.preempt => unmoved,
                Happens::Advert(_) => waits,
            }
        }
        State::Active => {
            let unmoved =
                |does| outcome(State::Active, does, Some(advertisement_interval - LATER), OWN_INTERVAL);
            match case.event {
                Happens::Startup => unmoved(""),
                Happens::Shutdown | Happens::Fault => to_initialize("advertise 0, remove"),
                Happens::Timer | Happens::Advert(Relation::Zero) => {
                    outcome(State::Active, &advertise, Some(advertisement_interval), OWN_INTERVAL)
                }
                Happens::Advert(Relation::Higher | Relation::EqualFromGreater) => {
                    outcome(State::Backup, "remove", Some(master_down(case, learned)), learned)
                }
                // Version 2 discards it, version 3 says at once who is the active one.
                Happens::Advert(_) => unmoved(if case.version == Version::V3 { &advertise } else { "" }),
            }
        }
    }
}

#[test]
fn every_combination_does_what_the_rfcs_say() {
    let mut count = 0;
    for (case, _) in cases() {
        assert_eq!(observed(&case), prescribed(&case), "{case:?}");
        count += 1;
    }
    assert_eq!(count, 2 * (3 * 9 * 2 + 3 * 8 * 2));
}

#[test]
fn every_combination_does_what_was_reviewed() {
    let mut table = String::from(
        "v prio preempt state      event                         | state      deadline s  interval  does\n",
    );
    for (case, name) in cases() {
        let outcome = observed(&case);
        let deadline = outcome.deadline.map_or("-".into(), |micros| format!("{:.6}", micros as f64 / 1e6));
        let row = format!(
            "{} {:>4} {:<7} {:<10} {name:<29} | {:<10} {deadline:>10} {:>6} cs  {}",
            case.version,
            case.priority,
            if case.preempt { "yes" } else { "no" },
            case.state,
            outcome.state,
            outcome.interval,
            outcome.does,
        );
        writeln!(table, "{}", row.trim_end()).unwrap();
    }
    insta::assert_snapshot!(table);
}
