//! Corners that once went wrong.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_core::lane;
use lb_sched::{
    Algorithm, Balancer, Health, LeastConnections, Maglev, Member, PickError, PowerOfTwo, Request,
    RoundRobin, Scheduler, SmoothWeightedRoundRobin, SourceHash, Spec, Weight, WeightedRoundRobin,
};

fn balancer<S: Scheduler>(scheduler: S, weights: &[u16]) -> Balancer<usize, S> {
    let balancer = Balancer::with_scheduler(scheduler);
    let spec = |(i, &weight): (usize, &u16)| Spec::new(i.to_string(), i).weight(weight);
    balancer.update(weights.iter().enumerate().map(spec)).expect("names differ");
    balancer
}

fn counts<S: Scheduler>(balancer: &Balancer<usize, S>, picks: u32, request: &Request<'_>) -> Vec<u32> {
    let mut counts = vec![0; balancer.snapshot().set().len()];
    for _ in 0..picks {
        counts[*balancer.pick(request).expect("somebody is free")] += 1;
    }
    counts
}

#[test]
fn a_change_that_changes_nothing_disturbs_no_rotation() {
    let wrr = balancer(WeightedRoundRobin::new(), &[1; 5]);
    let mut seen = [0; 5];
    for _ in 0..100 {
        for _ in 0..2 {
            seen[*wrr.pick(&Request::new()).unwrap()] += 1;
        }
        wrr.set_health("3", Health::Up).unwrap();
    }
    assert_eq!(seen, [40; 5]);
}

#[test]
fn what_a_full_heavy_one_cannot_take_is_shared_by_the_rest() {
    for algorithm in [Algorithm::WeightedRoundRobin, Algorithm::SmoothWeightedRoundRobin] {
        for weights in [[100, 1, 1], [1000, 10, 10], [30, 1, 1]] {
            let balancer = balancer(algorithm.scheduler(0), &weights);
            let heavy = [balancer.snapshot().set()[0].id];
            assert_eq!(
                counts(&balancer, 3000, &Request::new().avoid(&heavy)),
                [0, 1500, 1500],
                "{algorithm}"
            );
        }
    }
}

#[test]
fn full_unavailable_and_refused_are_told_apart() {
    let rr = balancer(RoundRobin::new(), &[1, 1]);
    rr.edit(|edit| edit.entry("1").map(|entry| entry.limit = 1)).unwrap();
    let ids: Vec<_> = rr.snapshot().set().iter().map(|member| member.id).collect();
    let _held = rr.lease(ids[1]).unwrap();
    let retry = |avoid| rr.pick(&Request::new().avoid(avoid)).err();
    assert_eq!(retry(&ids[..1]), Some(PickError::Full), "the other is full: wait for it");
    assert_eq!(retry(&ids), Some(PickError::Refused));

    let sh = balancer(SourceHash::new(), &[1, 1]);
    sh.set_health("0", Health::Down).unwrap();
    let client = |i: u8| sh.pick(&Request::from_source(([10, 0, 0, i], 1).into())).err();
    let errors: Vec<_> = (0..20).filter_map(client).collect();
    assert!(!errors.is_empty() && errors.iter().all(|&error| error == PickError::Unavailable), "{errors:?}");
}

#[test]
fn a_backup_has_no_buckets_of_sh_until_it_works() {
    let sh = Balancer::with_scheduler(SourceHash::new());
    sh.update([Spec::new("0", 0), Spec::new("1", 1), Spec::new("2", 2).priority(1)]).unwrap();
    let served = |i: u8| sh.pick(&Request::from_source(([10, 0, 0, i], 1).into())).is_ok();
    assert!((0..=255).all(served));
}

#[test]
fn a_start_under_the_old_generation_reaches_the_new_tree() {
    let lc = balancer(LeastConnections::new(), &[1, 1]);
    let once = AtomicBool::new(false);
    let accept = |_: &Member| {
        if !once.swap(true, Ordering::SeqCst) {
            lc.set_weight("0", Weight::new(2)).unwrap();
        }
        true
    };
    let first = lc.pick(&Request::new().accept(&accept)).unwrap();
    assert_eq!((*first, *lc.pick(&Request::new()).unwrap()), (0, 1), "the first has one, the second none");
}

#[test]
fn striped_p2c_sees_the_load_under_limits() {
    // From a lane that the limits do not count on, where there is one.
    while lane::count() > 1 && lane::mine() == lane::SHARED {
        lane::move_on();
    }
    let p2c = Balancer::with_scheduler(PowerOfTwo::striped(1));
    p2c.update((0..100).map(|i: usize| Spec::new(i.to_string(), i).limit(100_000))).unwrap();
    let _held: Vec<_> = (0..10_000).map(|_| p2c.pick(&Request::new()).unwrap()).collect();
    let longest = p2c.snapshot().set().iter().map(|member| member.load.active()).max();
    assert!(longest <= Some(104), "{longest:?}");
}

#[test]
fn swrr_keeps_shares_among_very_many() {
    let mut weights = vec![1; 30_000];
    weights.push(65_535);
    let swrr = balancer(SmoothWeightedRoundRobin::new(), &weights);
    let heavy = *counts(&swrr, 200_000, &Request::new()).last().unwrap();
    let share = f64::from(heavy) / 200_000.0;
    assert!((share - 65_535.0 / 95_535.0).abs() < 0.01, "{share}");
}

#[test]
fn a_maglev_table_of_very_uneven_weights_keeps_shares() {
    let mut weights = vec![10; 100];
    weights.push(1000);
    let maglev = balancer(Maglev::new(0), &weights);
    let mut heavy = 0;
    for key in 0..50_000u64 {
        heavy += u32::from(*maglev.pick(&Request::new().hash(key)).unwrap() == 100);
    }
    assert!(heavy.abs_diff(25_000) < 600, "{heavy}");
    assert!(Maglev::new(0).with_size(4_294_967_291).is_err(), "prime, but too large");
}

/// A payload that changes the balancer that drops it.
struct Noisy(u16);

impl Drop for Noisy {
    fn drop(&mut self) {
        if let Some(balancer) = HELD.get() {
            // "b" is there while any of them is dropped.
            balancer.set_weight("b", Weight::new(self.0)).expect("b is there");
        }
    }
}

static HELD: OnceLock<Balancer<Noisy>> = OnceLock::new();

#[test]
fn a_payload_may_use_the_balancer_when_it_is_dropped() {
    let balancer = HELD.get_or_init(|| Balancer::new(Algorithm::RoundRobin));
    balancer.update([Spec::new("a", Noisy(1)), Spec::new("b", Noisy(2))]).unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        balancer.update([Spec::new("b", Noisy(3))]).unwrap();
        done.send(()).unwrap();
    });
    assert!(wait.recv_timeout(Duration::from_secs(30)).is_ok(), "it waits for itself");
}
