//! What every algorithm promises, tried on all of them by name.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lb_sched::{
    Admin, Algorithm, Balancer, Health, Lease, LeastConnections, Load, Outcome, PickError, PowerOfTwo,
    Request, RoundRobin, Scheduler, SmoothWeightedRoundRobin, Spec, Weight, WeightedRoundRobin,
};
use proptest::prelude::*;

fn client(number: u32) -> SocketAddr {
    SocketAddr::from((number.wrapping_mul(0x9E37_79B9).to_be_bytes(), 4000))
}

fn balancer(algorithm: Algorithm, weights: &[u16]) -> Balancer<usize> {
    let balancer = Balancer::seeded(algorithm, 7);
    let spec = |(i, &weight): (usize, &u16)| Spec::new(i.to_string(), i).weight(Weight::new(weight));
    balancer.update(weights.iter().enumerate().map(spec)).expect("names differ");
    balancer
}

/// Whom `count` clients get.
fn picks(balancer: &Balancer<usize>, count: u32) -> Vec<Option<usize>> {
    (0..count).map(|i| balancer.pick(&Request::from_source(client(i))).ok().map(|lease| *lease)).collect()
}

#[test]
fn an_empty_or_idle_pool_is_an_ordinary_result() {
    for &algorithm in Algorithm::ALL {
        let pick =
            |balancer: &Balancer<usize>| balancer.pick(&Request::from_source(client(1))).map(|lease| *lease);
        let balancer = balancer(algorithm, &[]);
        assert_eq!(pick(&balancer), Err(PickError::Empty), "{algorithm}");
        balancer.update([Spec::new("0", 0).weight(0)]).unwrap();
        assert_eq!(pick(&balancer), Err(PickError::Unavailable), "{algorithm}: weight 0");
        balancer.set_weight("0", Weight::new(5)).unwrap();
        assert_eq!(pick(&balancer), Ok(0), "{algorithm}: back again");
        balancer.set_admin("0", Admin::Drain).unwrap();
        assert_eq!(pick(&balancer), Err(PickError::Unavailable), "{algorithm}: drained");
        let id = balancer.snapshot().set()[0].id;
        assert!(balancer.lease(id).is_ok(), "{algorithm}: sessions go on where it drains");
        balancer.set_admin("0", Admin::Maintenance).unwrap();
        assert_eq!(balancer.lease(id).err(), Some(PickError::Unavailable), "{algorithm}");
        balancer.set_admin("0", Admin::Ready).unwrap();
        balancer.set_health("0", Health::Down).unwrap();
        assert_eq!(pick(&balancer), Err(PickError::Unavailable), "{algorithm}: down");
        balancer.edit(|edit| edit.remove("0")).unwrap();
        assert_eq!(balancer.lease(id).err(), Some(PickError::Gone), "{algorithm}");
        assert_eq!(pick(&balancer), Err(PickError::Empty), "{algorithm}");
    }
}

#[test]
fn backups_work_only_while_all_before_them_are_out() {
    for &algorithm in Algorithm::ALL {
        let balancer = Balancer::new(algorithm);
        balancer.update([Spec::new("0", 0), Spec::new("1", 1), Spec::new("2", 2).priority(1)]).unwrap();
        assert!(!picks(&balancer, 300).contains(&Some(2)), "{algorithm}");
        balancer.set_health("0", Health::Down).unwrap();
        assert!(picks(&balancer, 30).iter().all(|&pick| pick == Some(1)), "{algorithm}");
        balancer.set_admin("1", Admin::Drain).unwrap();
        assert!(picks(&balancer, 30).iter().all(|&pick| pick == Some(2)), "{algorithm}");
    }
}

#[test]
fn a_limit_holds_and_says_full() {
    for &algorithm in Algorithm::ALL {
        let balancer = balancer(algorithm, &[1, 1, 1]);
        balancer
            .edit(|edit| -> Result<(), lb_sched::UpdateError> {
                edit.entries().iter_mut().for_each(|entry| entry.limit = 2);
                Ok(())
            })
            .unwrap();
        let mut held = Vec::new();
        for i in 0..6 {
            held.push(
                balancer
                    .pick(&Request::from_source(client(i)))
                    .unwrap_or_else(|e| panic!("{algorithm}: {e}")),
            );
        }
        assert_eq!(balancer.pick(&Request::new()).err(), Some(PickError::Full), "{algorithm}");
        held.pop();
        assert!(balancer.pick(&Request::new()).is_ok(), "{algorithm}: a place is free again");
    }
}

#[test]
fn retries_that_avoid_what_was_tried_reach_everyone_once() {
    for &algorithm in Algorithm::ALL {
        let balancer = balancer(algorithm, &[1, 2, 3, 0, 5]);
        for i in 0..50 {
            let mut tried = Vec::new();
            let mut seen = HashSet::new();
            while let Ok(lease) = balancer.pick(&Request::from_source(client(i)).avoid(&tried)) {
                assert!(seen.insert(*lease), "{algorithm}: {} again", *lease);
                tried.push(lease.backend().id());
            }
            assert_eq!(seen, HashSet::from([0, 1, 2, 4]), "{algorithm}");
            let refused = balancer.pick(&Request::from_source(client(i)).avoid(&tried)).err();
            assert_eq!(refused, Some(PickError::Refused), "{algorithm}");
        }
    }
}

#[test]
fn a_callers_condition_holds() {
    for &algorithm in Algorithm::ALL {
        let balancer = balancer(algorithm, &[1; 20]);
        let only = |member: &lb_sched::Member| &*member.name == "13";
        for i in 0..50 {
            let lease = balancer.pick(&Request::from_source(client(i)).accept(&only)).unwrap();
            assert_eq!(*lease, 13, "{algorithm}");
        }
    }
}

/// Every algorithm, and the forms whose threads have counters, cursors and trees of their own.
fn everything() -> impl Iterator<Item = (String, Box<dyn Scheduler>)> {
    let striped: [(&str, Box<dyn Scheduler>); 5] = [
        ("rr", Box::new(RoundRobin::striped())),
        ("wrr", Box::new(WeightedRoundRobin::striped())),
        ("swrr", Box::new(SmoothWeightedRoundRobin::striped())),
        ("wlc", Box::new(LeastConnections::weighted().striped())),
        ("p2c", Box::new(PowerOfTwo::striped(7))),
    ];
    let all = Algorithm::ALL.iter().map(|algorithm| (algorithm.name().to_owned(), algorithm.scheduler(7)));
    all.chain(striped.into_iter().map(|(name, scheduler)| (format!("{name} striped"), scheduler)))
}

/// Requests end on whatever thread, while more threads than processors pick and the set changes.
#[test]
fn a_change_under_load_loses_no_count() {
    const OUTCOMES: [Option<Outcome>; 4] = [
        Some(Outcome::Success { latency: Duration::from_micros(7) }),
        Some(Outcome::Failure),
        Some(Outcome::Cancelled),
        None,
    ];
    for (name, scheduler) in everything() {
        let balancer = Balancer::with_scheduler(scheduler);
        let update = |round: u16| {
            let spec = |i: u16| Spec::new(i.to_string(), i).weight(Weight::new((round + i) % 4));
            balancer.update((0..4).map(spec)).unwrap();
        };
        update(1);
        let held = Mutex::new(Vec::new());
        // How many were picked, and how many of them ended in each way.
        let counts: [AtomicU64; 5] = Default::default();
        let end = |lease: Lease<u16>, way: usize| {
            counts[1 + way].fetch_add(1, Ordering::Relaxed);
            match OUTCOMES[way] {
                Some(outcome) if way == 1 => drop(lease.close(Some(outcome))),
                Some(outcome) => lease.finish(outcome),
                None => drop(lease),
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (balancer, held, counts, end) = (&balancer, &held, &counts, &end);
                scope.spawn(move || {
                    for i in 0..2_000u32 {
                        let pick = balancer.pick(&Request::from_source(client(i * 4 + thread)));
                        let Ok(lease) = pick else { continue };
                        counts[0].fetch_add(1, Ordering::Relaxed);
                        let way = i as usize % OUTCOMES.len();
                        let mut held = if i % 3 == 0 {
                            held.lock().unwrap()
                        } else {
                            end(lease, way);
                            continue;
                        };
                        held.push(lease);
                        let other = (held.len() > 10).then(|| held.swap_remove(i as usize % 10));
                        drop(held);
                        if let Some(other) = other {
                            end(other, way);
                        }
                    }
                });
            }
            (0..60).for_each(update);
        });
        held.into_inner().unwrap().into_iter().for_each(|lease| end(lease, 3));
        let snapshot = balancer.snapshot();
        let sum = |count: fn(&Load) -> u64| snapshot.set().iter().map(|member| count(&member.load)).sum();
        let [succeeded, failed, cancelled, finished]: [u64; 4] =
            [sum(Load::succeeded), sum(Load::failed), sum(Load::cancelled), sum(Load::finished)];
        let unreported = finished - succeeded - failed - cancelled;
        let expected = counts.map(AtomicU64::into_inner);
        assert_eq!([finished, succeeded, failed, cancelled, unreported], expected, "{name}");
        assert_eq!(sum(|load| (load.active() + load.inactive()).into()), 0, "{name}");
    }
}

/// Algorithms that give shares by weight, whatever the requests.
const BY_WEIGHT: &[Algorithm] = &[
    Algorithm::WeightedRoundRobin,
    Algorithm::SmoothWeightedRoundRobin,
    Algorithm::Random,
    Algorithm::Maglev,
    Algorithm::Rendezvous,
];

#[test]
fn shares_follow_the_weights() {
    for &algorithm in BY_WEIGHT {
        let weights = [5, 1, 0, 3, 1];
        let mut counts = [0u32; 5];
        for pick in picks(&balancer(algorithm, &weights), 100_000).into_iter().flatten() {
            counts[pick] += 1;
        }
        for (&count, &weight) in counts.iter().zip(&weights) {
            let expected = 10_000 * u32::from(weight);
            assert!(count.abs_diff(expected) <= expected / 20, "{algorithm}: {counts:?}");
        }
    }
}

#[test]
fn slow_start_lowers_the_share_of_those_that_know_it() {
    for &algorithm in &BY_WEIGHT[..3] {
        let balancer = balancer(algorithm, &[1, 1]);
        balancer.set_share("1", 0.25).unwrap();
        let count = picks(&balancer, 10_000).into_iter().filter(|&pick| pick == Some(1)).count();
        assert!(count.abs_diff(2_000) < 200, "{algorithm}: {count}");
    }
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_picks_and_none_without_weight(
        weights in prop::collection::vec(0u16..9, 0..20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0u16..9), 0..5),
    ) {
        for &algorithm in Algorithm::ALL {
            let [one, other] = [&weights, &weights].map(|weights| balancer(algorithm, weights));
            let mut weights = weights.clone();
            for change in std::iter::once(None).chain(changes.iter().map(Some)) {
                if let (Some((index, weight)), false) = (change, weights.is_empty()) {
                    let i = index.index(weights.len());
                    weights[i] = *weight;
                    for balancer in [&one, &other] {
                        balancer.set_weight(&i.to_string(), Weight::new(*weight)).unwrap();
                    }
                }
                let got = picks(&one, 50);
                prop_assert_eq!(&got, &picks(&other, 50), "{}", algorithm);
                let open = weights.iter().any(|&weight| weight > 0);
                for pick in got {
                    prop_assert_eq!(pick.is_some(), open, "{}", algorithm);
                    prop_assert!(pick.is_none_or(|i| weights[i] > 0), "{}", algorithm);
                }
            }
        }
    }
}
