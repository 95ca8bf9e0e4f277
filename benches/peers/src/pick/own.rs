//! The family's own algorithms, in the two lengths that a peer may have.

use super::fleet::{address, weight};
use super::keys::{Keys, over};
use crate::measure::Subject;
use lb_sched::{
    Algorithm, Balancer, Outcome, Request, RoundRobin, Scheduler, SmoothWeightedRoundRobin, Spec, Weight,
    WeightedRoundRobin,
};
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

/// The name of an algorithm's choice alone: `Scheduler::pick` on a set that stays.
pub(super) fn choice(name: &str) -> String {
    format!("{name}, choice alone")
}

/// The name of an algorithm's whole path: `Balancer::pick`, the lease, its `finish` with a latency.
pub(super) fn whole(name: &str) -> String {
    format!("{name}, whole path")
}

/// The rotations whose threads have cursors of their own, beside [`Algorithm::ALL`]'s, whose threads share one.
pub(super) const STRIPED: [&str; 3] = ["rr striped", "wrr striped", "swrr striped"];

/// Every algorithm by its name, as a configuration would choose it, and the striped rotations; each for one thread
/// and for two that share it.
pub(super) fn all(n: usize, keys: &Keys) -> Vec<Subject<'_>> {
    let mut subjects = Vec::new();
    for &algorithm in Algorithm::ALL {
        let make = || algorithm.scheduler(1);
        match algorithm {
            Algorithm::SourceHash => {
                own(&mut subjects, algorithm.name(), &make, n, &keys.clients, |&it| Request::from_source(it));
            }
            Algorithm::Maglev | Algorithm::Rendezvous => {
                own(&mut subjects, algorithm.name(), &make, n, &keys.bytes, |it| Request::new().key(it));
            }
            _ => own(&mut subjects, algorithm.name(), &make, n, &keys.numbers, |_| Request::new()),
        }
    }
    let striped: [fn() -> Box<dyn Scheduler>; 3] = [
        || Box::new(RoundRobin::striped()),
        || Box::new(WeightedRoundRobin::striped()),
        || Box::new(SmoothWeightedRoundRobin::striped()),
    ];
    for (name, make) in STRIPED.into_iter().zip(striped) {
        own(&mut subjects, name, &make, n, &keys.numbers, |_| Request::new());
    }
    subjects
}

fn own<'a, K: Sync>(
    subjects: &mut Vec<Subject<'a>>,
    name: &str,
    make: &dyn Fn() -> Box<dyn Scheduler>,
    n: usize,
    keys: &'a [K],
    request: impl Fn(&'a K) -> Request<'a> + Copy + Send + Sync + 'a,
) {
    let balancer = fleet(make(), n);
    let snapshot = balancer.snapshot();
    Subject::both(subjects, &choice(name), move |thread, count| {
        let (scheduler, set) = (snapshot.derived(), snapshot.set());
        over(keys, thread, count, |key| {
            black_box(scheduler.pick(set, &request(key)));
        });
    });
    Subject::both(subjects, &whole(name), move |thread, count| {
        over(keys, thread, count, |key| {
            let lease = balancer.pick(&request(key)).expect("every backend takes work");
            black_box(*lease);
            lease.finish(Outcome::Success { latency: Duration::from_millis(1) });
        });
    });
}

/// A balancer over `n` backends with their weights; one that goes by no weight does not look at them.
fn fleet(scheduler: Box<dyn Scheduler>, n: usize) -> Balancer<SocketAddr> {
    let balancer = Balancer::with_scheduler(scheduler);
    let specs = (0..n).map(|i| Spec::from((address(i), Weight::new(weight(i).into()))));
    balancer.update(specs).expect("backends with names of their own");
    balancer
}
