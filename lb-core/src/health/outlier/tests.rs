use super::*;
use alloc::string::ToString;
use alloc::vec;
use core::time::Duration;
use proptest::prelude::*;

fn seconds(seconds: u64) -> Timestamp {
    Timestamp::from_secs(seconds)
}

/// A set of servers 0..n and its detector.
struct Bench {
    detector: Detector<usize>,
    counters: Vec<Counters>,
}

impl Bench {
    fn new(config: Config, servers: usize) -> Self {
        let detector = Detector::new(config, Timestamp::ZERO).unwrap();
        Self { detector, counters: (0..servers).map(|_| Counters::new()).collect() }
    }

    fn serve(&self, server: usize, responses: &[(Response, u32)]) {
        for &(response, times) in responses {
            (0..times).for_each(|_| {
                self.counters[server].record(response);
            });
        }
    }

    fn sweep(&mut self, now: Timestamp) -> Vec<Event<usize>> {
        self.detector.sweep(now, self.counters.iter().enumerate())
    }
}

fn half() -> Config {
    Config { max_ejection_percent: 50, ..Config::default() }
}

#[test]
fn consecutive_failures_eject_at_any_sweep() {
    use Response::{GatewayError, ServerError, Success};
    let gateway = Config { consecutive_failures: None, consecutive_gateway: Some(3), ..half() };
    for (config, responses, cause) in [
        (half(), vec![(ServerError, 4)], None),
        (half(), vec![(ServerError, 5)], Some(Cause::ConsecutiveFailures(5))),
        (half(), vec![(ServerError, 3), (GatewayError, 4)], Some(Cause::ConsecutiveFailures(7))),
        (half(), vec![(ServerError, 4), (Success, 1), (ServerError, 4)], None),
        // A run that ended before the sweep counts all the same.
        (half(), vec![(ServerError, 6), (Success, 9)], Some(Cause::ConsecutiveFailures(6))),
        (gateway.clone(), vec![(ServerError, 100), (GatewayError, 2)], None),
        (gateway, vec![(GatewayError, 3), (ServerError, 1)], Some(Cause::ConsecutiveGateway(3))),
    ] {
        let mut bench = Bench::new(config, 4);
        bench.serve(2, &responses);
        let events = bench.sweep(seconds(1));
        let expected: Vec<_> =
            cause.map(|cause| Event::Ejected { key: 2, until: seconds(31), cause }).into_iter().collect();
        assert_eq!(events, expected, "{responses:?}");
        assert_eq!(bench.detector.is_ejected(&2), cause.is_some());
        assert!(bench.sweep(seconds(2)).is_empty(), "said once");
    }
}

#[test]
fn a_run_goes_on_over_sweeps() {
    let mut bench = Bench::new(half(), 4);
    for second in 1..5 {
        bench.serve(0, &[(Response::ServerError, 1)]);
        assert!(bench.sweep(seconds(second)).is_empty());
    }
    bench.serve(0, &[(Response::ServerError, 1)]);
    assert_eq!(bench.sweep(seconds(5)).len(), 1);
}

/// 100 requests a server in an interval; the successes of each, and who is ejected.
#[test]
fn success_rates_are_compared() {
    for (successes, ejected) in [
        (&[100, 100, 100, 100, 50][..], &[4][..]), // mean 90, deviation 20: below 52
        (&[100, 100, 100, 100, 53], &[4]), // every lone outlier of five is two deviations off, however near
        (&[90, 80, 70, 60, 50], &[]),      // mean 70, deviation 14.1: below 43.1
        (&[50, 50, 50, 50, 50], &[]),
        (&[100, 100, 100, 0], &[]), // fewer than minimum_hosts
        (&[100, 100, 100, 100, 100, 100, 100, 100, 10, 20], &[8]), // mean 83, deviation 34.1: below 18.2
    ] {
        // No runs: failures and successes alternate as far as they go, and the rule is off.
        let config = Config { consecutive_failures: None, ..half() };
        let mut bench = Bench::new(config, successes.len());
        for (server, &good) in successes.iter().enumerate() {
            bench.serve(server, &[(Response::Success, good), (Response::ServerError, 100 - good)]);
        }
        assert!(bench.sweep(seconds(9)).is_empty(), "the interval is not over");
        bench.sweep(seconds(10));
        let away: Vec<_> = (0..successes.len()).filter(|key| bench.detector.is_ejected(key)).collect();
        assert_eq!(away, ejected, "{successes:?}");
    }
}

#[test]
fn a_small_difference_is_tolerated_on_demand() {
    for (tolerance, good, ejected) in [(0.0, 199, 1), (1.0, 199, 0), (1.0, 190, 1)] {
        let success_rate = Some(SuccessRate { tolerance, ..SuccessRate::default() });
        let mut bench = Bench::new(Config { consecutive_failures: None, success_rate, ..half() }, 5);
        (0..4).for_each(|server| bench.serve(server, &[(Response::Success, 200)]));
        bench.serve(4, &[(Response::Success, good), (Response::ServerError, 200 - good)]);
        bench.sweep(seconds(10));
        assert_eq!(bench.detector.ejected(), ejected, "{good} of 200 with a tolerance of {tolerance}");
    }
}

#[test]
fn few_requests_prove_nothing() {
    let config = Config { consecutive_failures: None, ..half() };
    let mut bench = Bench::new(config, 6);
    (0..5).for_each(|server| bench.serve(server, &[(Response::Success, 200)]));
    bench.serve(5, &[(Response::ServerError, 99)]);
    assert!(bench.sweep(seconds(10)).is_empty());
    // The next interval counts from zero again.
    (0..5).for_each(|server| bench.serve(server, &[(Response::Success, 200)]));
    bench.serve(5, &[(Response::ServerError, 99)]);
    assert!(bench.sweep(seconds(20)).is_empty());
    (0..5).for_each(|server| bench.serve(server, &[(Response::Success, 200)]));
    bench.serve(5, &[(Response::ServerError, 100)]);
    let events = bench.sweep(seconds(30));
    assert!(
        matches!(events[..], [Event::Ejected { key: 5, cause: Cause::SuccessRate { .. }, .. }]),
        "{events:?}"
    );
}

#[test]
fn failure_percentage_needs_no_comparison() {
    let config = Config {
        consecutive_failures: None,
        success_rate: None,
        failure_percentage: Some(FailurePercentage { minimum_hosts: 1, ..FailurePercentage::default() }),
        ..half()
    };
    let mut bench = Bench::new(config, 4);
    bench.serve(1, &[(Response::Success, 15), (Response::GatewayError, 85)]);
    bench.serve(2, &[(Response::Success, 16), (Response::GatewayError, 84)]);
    bench.serve(3, &[(Response::GatewayError, 49)]);
    let cause = Cause::FailurePercentage(85.0);
    assert_eq!(bench.sweep(seconds(10)), [Event::Ejected { key: 1, until: seconds(40), cause }]);
    assert_eq!(cause.to_string(), "85.0 % of its requests failed");
}

#[test]
fn each_ejection_is_longer_and_good_behaviour_forgives() {
    let mut bench = Bench::new(Config { max_ejection_time: Duration::from_secs(70), ..half() }, 3);
    let mut now = seconds(1);
    for length in [30, 60, 70, 70] {
        bench.serve(0, &[(Response::ServerError, 5)]);
        let events = bench.sweep(now);
        let until = now + Duration::from_secs(length);
        assert!(matches!(events[..], [Event::Ejected { until: end, .. }] if end == until), "{events:?}");
        // What still comes from it while it is away does not count against it when it is back.
        bench.serve(0, &[(Response::ServerError, 50)]);
        assert_eq!(bench.detector.next_return(), Some(until));
        assert_eq!(bench.sweep(until), [Event::Returned { key: 0 }]);
        assert_eq!(bench.detector.next_return(), None);
        bench.serve(0, &[(Response::ServerError, 4)]);
        now = until + Duration::from_secs(1);
        assert!(bench.sweep(now).is_empty(), "its run began anew");
        bench.serve(0, &[(Response::Success, 1)]);
    }
    // Four ejections; three good intervals leave one, so the next is the second again.
    for _ in 0..3 {
        now = bench.detector.next_interval();
        assert!(bench.sweep(now).is_empty());
    }
    bench.serve(0, &[(Response::ServerError, 5)]);
    let events = bench.sweep(now);
    let until = now + Duration::from_secs(60);
    assert!(matches!(events[..], [Event::Ejected { until: end, .. }] if end == until), "{events:?}");
}

#[test]
fn the_worst_goes_first_when_there_is_room_for_one() {
    for (servers, percent, always, ejected) in [
        (4, 10, true, &[3][..]),
        (4, 10, false, &[]),
        (4, 25, false, &[3]),
        (4, 50, false, &[2, 3]),
        (4, 100, false, &[0, 1, 2, 3]),
        (1, 10, true, &[]),
        (1, 100, false, &[0]),
    ] {
        let config = Config { max_ejection_percent: percent, always_eject_one: always, ..Config::default() };
        let mut bench = Bench::new(config, servers);
        for server in 0..servers {
            bench.serve(server, &[(Response::ServerError, 5 + server as u32)]);
        }
        bench.sweep(seconds(1));
        let away: Vec<_> = (0..servers).filter(|key| bench.detector.is_ejected(key)).collect();
        assert_eq!(away, ejected, "{percent} % of {servers}");
    }
}

#[test]
fn a_shrinking_set_takes_back_those_ejected_first() {
    let mut bench = Bench::new(half(), 6);
    for (second, server) in [(1, 4), (2, 2), (3, 0)] {
        bench.serve(server, &[(Response::ServerError, 5)]);
        bench.sweep(seconds(second));
    }
    assert_eq!(bench.detector.ejected(), 3);
    bench.counters.truncate(3);
    // Server 4 is gone; of 2 and 0 one may stay away, and 2 was away longer.
    let events = bench.sweep(seconds(4));
    assert_eq!(events, [Event::Returned { key: 2 }]);
    assert_eq!(bench.detector.ejected(), 1);
}

#[test]
fn other_settings_keep_who_is_away() {
    let mut bench = Bench::new(half(), 4);
    bench.serve(1, &[(Response::ServerError, 5)]);
    bench.sweep(seconds(1));
    assert!(bench.detector.reconfigure(Config { max_ejection_percent: 101, ..half() }).is_err());
    let longer = Duration::from_secs(60);
    bench
        .detector
        .reconfigure(Config { consecutive_failures: Some(2), base_ejection_time: longer, ..half() })
        .unwrap();
    bench.serve(2, &[(Response::ServerError, 2)]);
    let events = bench.sweep(seconds(2));
    assert!(
        matches!(events[..], [Event::Ejected { key: 2, until, .. }] if until == seconds(62)),
        "{events:?}"
    );
    assert_eq!(bench.sweep(seconds(31)), [Event::Returned { key: 1 }]);
}

#[test]
fn settings_are_checked() {
    let good = Config::default();
    let rate = SuccessRate::default();
    for (config, name) in [
        (Config { interval: Duration::ZERO, ..good.clone() }, "`outlier.interval`"),
        (Config { base_ejection_time: Duration::ZERO, ..good.clone() }, "`outlier.base_ejection_time`"),
        (Config { consecutive_failures: Some(0), ..good.clone() }, "`outlier.consecutive_failures`"),
        (Config { max_ejection_percent: 101, ..good.clone() }, "`outlier.max_ejection_percent` is 101"),
        (
            Config { success_rate: Some(SuccessRate { factor: f64::NAN, ..rate }), ..good.clone() },
            "`outlier.success_rate.factor` is NaN",
        ),
        (
            Config { success_rate: Some(SuccessRate { minimum_hosts: 1, ..rate }), ..good },
            "`outlier.success_rate.minimum_hosts`",
        ),
    ] {
        let error = Detector::<u8>::new(config, Timestamp::ZERO).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn settings_read_as_people_write_them() {
    let text = r#"{"interval":"5s","consecutive_failures":3,"success_rate":{"factor":2.5},"max_ejection_percent":30}"#;
    let config: Config = serde_json::from_str(text).unwrap();
    let expected = Config {
        interval: Duration::from_secs(5),
        consecutive_failures: Some(3),
        success_rate: Some(SuccessRate { factor: 2.5, ..SuccessRate::default() }),
        max_ejection_percent: 30,
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(serde_json::from_str::<Config>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    let error = serde_json::from_str::<Config>(r#"{"max_ejection":1}"#).unwrap_err().to_string();
    assert!(error.contains("`max_ejection_percent`"), "{error}");
}

proptest! {
    /// Over any history with any set that comes and goes: never more away than the limit, events agree with the
    /// state, nobody returns before its time unless the set shrank, and the last server never leaves unless
    /// the percentage says all may.
    #[test]
    fn any_history(
        percent in 0u8..=100,
        always in any::<bool>(),
        steps in proptest::collection::vec(
            (0u64..20, 1usize..20, proptest::collection::vec((0usize..20, 0u32..8, 0u32..300), 0..20)),
            1..40,
        ),
    ) {
        let config = Config {
            max_ejection_percent: percent,
            always_eject_one: always,
            failure_percentage: Some(FailurePercentage { minimum_hosts: 1, ..FailurePercentage::default() }),
            ..Config::default()
        };
        let mut bench = Bench::new(config, 0);
        let mut now = Timestamp::ZERO;
        let mut away: BTreeMap<usize, Timestamp> = BTreeMap::new();
        for (pause, servers, requests) in steps {
            now += Duration::from_secs(pause);
            let shrank = servers < bench.counters.len();
            bench.counters.resize_with(servers, Counters::new);
            away.retain(|key, _| *key < servers);
            for (server, bad, good) in requests.into_iter().filter(|(server, ..)| *server < servers) {
                bench.serve(server, &[(Response::ServerError, bad), (Response::Success, good)]);
            }
            for event in bench.sweep(now) {
                match event {
                    Event::Ejected { key, until, .. } => {
                        prop_assert!(until > now && away.insert(key, until).is_none());
                    }
                    Event::Returned { key } => {
                        let until = away.remove(&key);
                        prop_assert!(until.is_some_and(|until| now >= until || shrank));
                    }
                }
            }
            let most = servers * usize::from(percent) / 100;
            let most = if always && servers > 1 { most.max(1) } else { most };
            prop_assert!(away.len() <= most, "{} of {} away", away.len(), servers);
            prop_assert_eq!(bench.detector.ejected(), away.len());
            prop_assert!(away.keys().all(|key| bench.detector.is_ejected(key)));
            prop_assert_eq!(bench.detector.next_return(), away.values().min().copied());
        }
    }
}
