use super::*;
use crate::health::{Flapping, Observe};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn fail() -> Verdict {
    Verdict::Fail("refused".into())
}

fn checker(config: Config) -> Checker {
    Checker::new(config, Timestamp::ZERO, 0).unwrap()
}

/// Feeds `P` and `F`, one a second; gives the state after each, `U` or `D`.
fn states(config: Config, verdicts: &str) -> String {
    let mut checker = checker(config);
    let feed = |(second, verdict): (usize, char)| {
        let now = Timestamp::from_secs(second as u64 + 1);
        let before = checker.is_up();
        let transition = checker.record(now, if verdict == 'P' { Verdict::Pass } else { fail() });
        match &transition {
            Some(transition) => {
                assert_ne!(before, transition.is_up(), "a transition to the same state");
                assert_eq!((transition.at(), checker.since()), (now, now));
            }
            None => assert_eq!(before, checker.is_up(), "a change without a transition"),
        }
        assert_eq!(checker.is_up(), transition.map_or(before, |transition| transition.is_up()));
        if checker.is_up() { 'U' } else { 'D' }
    };
    verdicts.chars().enumerate().map(feed).collect()
}

#[test]
fn transition_table() {
    use Initial::{Down, FullyDown, FullyUp, Up};
    for (initial, rise, fall, verdicts, expected) in [
        (FullyUp, 2, 3, "FFFPPFFPFFF", "UUDDUUUUUUD"),
        (FullyUp, 1, 1, "FPFPP", "DUDUU"),
        (Up, 2, 3, "FFPPFPFF", "DDDUUUUU"),
        (Up, 2, 3, "PFFPFFF", "UUUUUUD"),
        (Down, 3, 2, "PFFPPP", "UUDDDU"),
        (Down, 3, 2, "FPPP", "DDDU"),
        (FullyDown, 3, 2, "PPFPPPF", "DDDDDUU"),
    ] {
        let config = Config { rise, fall, initial, ..Config::default() };
        assert_eq!(states(config, verdicts), expected, "{initial:?} rise {rise} fall {fall}: {verdicts}");
    }
}

#[test]
fn pauses_follow_the_phase() {
    let config = Config {
        interval: Duration::from_secs(10),
        fast_interval: Some(Duration::from_secs(1)),
        down_interval: Some(Duration::from_secs(30)),
        ..Config::default()
    };
    let mut checker = checker(config);
    assert!(checker.next_probe() <= Timestamp::from_secs(1), "the first within a fast interval");
    let now = Timestamp::from_secs(100);
    for (verdict, pause, phase) in [
        (Verdict::Pass, 10, "UP"),
        (fail(), 1, "UP 1/3"),
        (fail(), 1, "UP 2/3"),
        (Verdict::Pass, 10, "UP"),
        (fail(), 1, "UP 1/3"),
        (fail(), 1, "UP 2/3"),
        (fail(), 30, "DOWN"),
        (fail(), 30, "DOWN"),
        (Verdict::Pass, 1, "DOWN 1/2"),
        (fail(), 30, "DOWN"),
        (Verdict::Pass, 1, "DOWN 1/2"),
        (Verdict::Pass, 10, "UP"),
    ] {
        checker.record(now, verdict);
        assert_eq!(checker.phase(now).to_string(), phase);
        assert_eq!(checker.next_probe().saturating_since(now), Duration::from_secs(pause), "{phase}");
    }
}

#[test]
fn traffic_counts_in_a_row() {
    use OnError::{FailCheck, FastInterval, MarkDown, SuddenDeath};
    // After three errors in a row: is it up, does one more failed check take it down?
    for (on_error, up, then_down) in [
        (FastInterval, true, false),
        (FailCheck, true, false),
        (SuddenDeath, true, true),
        (MarkDown, false, true),
    ] {
        let config = Config {
            initial: Initial::FullyUp,
            interval: Duration::from_secs(60),
            fast_interval: Some(Duration::from_secs(1)),
            observe: Some(Observe { error_limit: 3, on_error }),
            ..Config::default()
        };
        let mut checker = checker(config);
        let now = Timestamp::from_secs(100);
        checker.record(now, Verdict::Pass);
        for success in [false, false, true, false, false] {
            assert_eq!(checker.observe(now, success), None);
        }
        assert_eq!(checker.next_probe(), Timestamp::from_secs(160), "{on_error:?}");
        let transition = checker.observe(now, false);
        assert_eq!(checker.next_probe(), Timestamp::from_secs(101), "{on_error:?} looks soon");
        assert_eq!(transition.is_none(), up, "{on_error:?}");
        assert_eq!(checker.is_up(), up, "{on_error:?}");
        checker.record(now, fail());
        assert_eq!(!checker.is_up(), then_down, "{on_error:?}");
        let phase = if then_down {
            "DOWN"
        } else if on_error == FailCheck {
            "UP 2/3"
        } else {
            "UP 1/3"
        };
        assert_eq!(checker.phase(now).to_string(), phase);
    }
}

#[test]
fn traffic_is_ignored_unless_asked_for_and_up() {
    let mut unasked = checker(Config::default());
    let observe = Some(Observe { error_limit: 1, on_error: OnError::MarkDown });
    let mut down = checker(Config { initial: Initial::FullyDown, observe, ..Config::default() });
    for _ in 0..100 {
        assert_eq!(unasked.observe(Timestamp::ZERO, false), None);
        assert_eq!(down.observe(Timestamp::ZERO, false), None);
    }
    assert!(unasked.is_up());
}

#[test]
fn transitions_say_why() {
    let flapping = Some(Flapping { falls: 1, ..Flapping::default() });
    let observe = Some(Observe { error_limit: 2, on_error: OnError::MarkDown });
    let mut checker = checker(Config { flapping, observe, ..Config::default() });
    let first = checker.record(Timestamp::ZERO, Err::<(), _>("no route")).unwrap();
    assert_eq!(first.to_string(), "down: a check failed: no route; it flaps, so it is held down for 30s");
    assert_eq!(checker.last_failure(), Some("no route"));
    checker.record(Timestamp::from_secs(30), Verdict::Pass);
    let up = checker.record(Timestamp::from_secs(30), Ok::<_, String>(())).unwrap();
    assert_eq!(up.to_string(), "up");
    checker.observe(Timestamp::from_secs(500), false);
    let second = checker.observe(Timestamp::from_secs(500), false).unwrap();
    assert_eq!(second.to_string(), "down: 2 requests in a row failed; it flaps, so it is held down for 30s");
}

#[test]
fn a_held_server_comes_up_at_the_end_of_the_hold() {
    let flapping = Some(Flapping { falls: 1, hold: Duration::from_secs(7), ..Flapping::default() });
    let config = Config { flapping, rise: 2, interval: Duration::from_secs(3), ..Config::default() };
    let mut checker = checker(config);
    let mut probed = vec![];
    let mut now = Timestamp::from_secs(10);
    checker.record(now, fail());
    assert_eq!(checker.phase(now).to_string(), "HELD");
    while !checker.is_up() {
        now = checker.next_probe();
        probed.push(now.as_nanos() / 1_000_000_000);
        checker.record(now, Verdict::Pass);
    }
    assert_eq!(probed, [13, 16, 17], "the last probe falls on the end of the hold");
}

#[test]
fn settings_are_checked() {
    let zero = Duration::ZERO;
    let good = Config::default();
    for (config, message) in [
        (Config { rise: 0, ..good.clone() }, "`rise` is 0: it has to be at least 1"),
        (Config { fall: 0, ..good.clone() }, "`fall` is 0: it has to be at least 1"),
        (Config { interval: zero, ..good.clone() }, "`interval` is 0s: it has to be longer than 0"),
        (
            Config { down_interval: Some(zero), ..good.clone() },
            "`down_interval` is 0s: it has to be longer than 0",
        ),
        (Config { spread: 51, ..good.clone() }, "`spread` is 51: it has to be from 0 to 50 percent"),
        (
            Config { observe: Some(Observe { error_limit: 0, ..Observe::default() }), ..good.clone() },
            "`observe.error_limit` is 0: it has to be at least 1",
        ),
        (
            Config { flapping: Some(Flapping { max_hold: zero, ..Flapping::default() }), ..good },
            "`flapping.max_hold` is 0ns: it has to be at least as long as `hold`",
        ),
    ] {
        assert_eq!(Checker::new(config, Timestamp::ZERO, 0).unwrap_err().to_string(), message);
    }
}

#[test]
fn other_settings_keep_the_state() {
    let now = Timestamp::from_secs(1);
    let long = Config { rise: 5, fall: 5, ..Config::default() };
    let short = Config { rise: 1, fall: 2, ..Config::default() };
    let mut checker = checker(Config { initial: Initial::FullyUp, ..long.clone() });
    for failures in 1..=4 {
        checker.record(now, fail());
        assert_eq!(checker.phase(now), Phase::Falling { failures, of: 5 });
    }
    let due = checker.next_probe();
    assert!(checker.reconfigure(Config { rise: 0, ..Config::default() }).is_err());
    assert_eq!(checker.config().rise, 5);
    checker.reconfigure(short).unwrap();
    assert_eq!((checker.phase(now), checker.next_probe()), (Phase::Falling { failures: 1, of: 2 }, due));
    assert!(checker.record(now, fail()).is_some());
    // A hold ends with the rule that gave it.
    checker
        .reconfigure(Config {
            flapping: Some(Flapping { falls: 1, ..Flapping::default() }),
            rise: 1,
            ..long.clone()
        })
        .unwrap();
    checker.record(now, Verdict::Pass);
    assert!(checker.is_up());
    for _ in 0..5 {
        checker.record(now, fail());
    }
    assert!(matches!(checker.phase(now), Phase::Held { .. }));
    checker.reconfigure(long).unwrap();
    assert_eq!(checker.phase(now), Phase::Down);
}

#[test]
fn checks_of_many_servers_spread() {
    let second = |seed| {
        let config = Config { interval: Duration::from_secs(10), ..Config::default() };
        Checker::new(config, Timestamp::ZERO, seed).unwrap().next_probe().as_nanos() / 1_000_000_000
    };
    let mut a_second = [0; 10];
    (0..1000).for_each(|seed| a_second[second(seed) as usize] += 1);
    assert!(a_second.iter().all(|n| (60..140).contains(n)), "{a_second:?}");
}

#[cfg(feature = "serde")]
#[test]
fn settings_read_as_people_write_them() {
    let text = r#"{"rise":1,"interval":"500ms","initial":"fully_down","observe":{"on_error":"mark_down"},"flapping":{}}"#;
    let config: Config = serde_json::from_str(text).unwrap();
    let expected = Config {
        rise: 1,
        interval: Duration::from_millis(500),
        initial: Initial::FullyDown,
        observe: Some(Observe { error_limit: 10, on_error: OnError::MarkDown }),
        flapping: Some(Flapping::default()),
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(serde_json::from_str::<Config>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    for (text, names) in
        [(r#"{"interval":2}"#, "\"2s\""), (r#"{"rize":2}"#, "`rise`"), (r#"{"interval":"2"}"#, "unit")]
    {
        let error = serde_json::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(names), "{text}: {error}");
    }
}

#[derive(Clone, Debug)]
enum Event {
    Probe(bool),
    Traffic(bool),
}

fn configs() -> impl Strategy<Value = Config> {
    let initial =
        prop_oneof![Just(Initial::FullyUp), Just(Initial::Up), Just(Initial::Down), Just(Initial::FullyDown)];
    let on_error = prop_oneof![
        Just(OnError::FastInterval),
        Just(OnError::FailCheck),
        Just(OnError::SuddenDeath),
        Just(OnError::MarkDown)
    ];
    let observe = (1u32..5, on_error).prop_map(|(error_limit, on_error)| Observe { error_limit, on_error });
    let flapping =
        (1u32..5, 1u64..60, 1u64..60, 0u64..600).prop_map(|(falls, window, hold, more)| Flapping {
            falls,
            window: Duration::from_secs(window),
            hold: Duration::from_secs(hold),
            max_hold: Duration::from_secs(hold + more),
        });
    (1u32..6, 1u32..6, 0u8..=50, initial, proptest::option::of(observe), proptest::option::of(flapping))
        .prop_map(|(rise, fall, spread, initial, observe, flapping)| Config {
            rise,
            fall,
            spread,
            initial,
            observe,
            flapping,
            ..Config::default()
        })
}

proptest! {
    /// Over any history: a server that was seen down comes up only after `rise` passes in a row and after its hold;
    /// one goes down by checks only after `fall` failures in a row, when traffic does not count; the next probe
    /// stays within its spread of a configured pause; and what is told agrees with what is.
    #[test]
    fn any_history(
        config in configs(),
        seed: u64,
        events in proptest::collection::vec(
            (prop_oneof![3 => any::<bool>().prop_map(Event::Probe), 1 => any::<bool>().prop_map(Event::Traffic)],
             0u64..20_000),
            0..200,
        ),
    ) {
        let mut checker = Checker::new(config.clone(), Timestamp::ZERO, seed).unwrap();
        let mut now = Timestamp::ZERO;
        let (mut passes, mut failures, mut fell, mut proven) = (0, 0, None, false);
        for (event, pause) in events {
            now += Duration::from_millis(pause);
            let was_up = checker.is_up();
            let transition = match event {
                Event::Probe(passed) => {
                    (passes, failures) = if passed { (passes + 1, 0) } else { (0, failures + 1) };
                    let transition = checker.record(now, if passed { Verdict::Pass } else { fail() });
                    let pause = checker.next_probe().saturating_since(now);
                    prop_assert!(pause <= config.interval + config.interval / 2 && !pause.is_zero());
                    transition
                }
                Event::Traffic(success) => checker.observe(now, success),
            };
            prop_assert_eq!(checker.is_up(), transition.as_ref().map_or(was_up, Transition::is_up));
            match transition {
                Some(Transition::Up { .. }) => {
                    let needed = if fell.is_some() || proven || config.initial == Initial::FullyDown { config.rise } else { 1 };
                    prop_assert!(!was_up && passes >= needed, "up after {} passes", passes);
                    prop_assert!(fell.flatten().is_none_or(|end| now >= end), "up while held");
                }
                Some(Transition::Down { held_until, .. }) => {
                    let needed = if proven || config.initial == Initial::FullyUp { config.fall } else { 1 };
                    prop_assert!(was_up && (config.observe.is_some() || failures >= needed));
                    fell = Some(held_until);
                }
                None => {}
            }
            if transition.is_some() {
                passes = 0;
                failures = 0;
            }
            proven |= matches!(event, Event::Probe(_));
        }
    }

    /// The same seed and history give the same moments.
    #[test]
    fn reproducible(seed: u64, verdicts in proptest::collection::vec(any::<bool>(), 0..50)) {
        let run = || {
            let config = Config { spread: 50, ..Config::default() };
            let mut checker = Checker::new(config, Timestamp::ZERO, seed).unwrap();
            verdicts
                .iter()
                .map(|&passed| {
                    checker.record(checker.next_probe(), if passed { Verdict::Pass } else { fail() });
                    checker.next_probe()
                })
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
