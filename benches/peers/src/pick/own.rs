//! The family's own algorithms, in the two lengths that a peer may have.

use crate::measure::Subject;
use lb_benches::fleet;
use lb_benches::requests::{Keys, Make, Visitor, every_algorithm, over};
use lb_sched::{Outcome, Request, Scheduler};
use std::hint::black_box;
use std::time::Duration;

/// The name of an algorithm's choice alone: `Scheduler::pick` on a set that stays.
pub(super) fn choice(name: &str) -> String {
    format!("{name}, choice alone")
}

/// The name of an algorithm's whole path: `Balancer::pick`, the lease, its `finish` with a latency.
pub(super) fn whole(name: &str) -> String {
    format!("{name}, whole path")
}

/// Every algorithm over `n` backends, each for one thread and for two that share it.
pub(super) fn all(n: usize, keys: &Keys) -> Vec<Subject<'_>> {
    let mut own = Own { n, subjects: Vec::new() };
    every_algorithm(keys, &mut own);
    own.subjects
}

struct Own<'k> {
    n: usize,
    subjects: Vec<Subject<'k>>,
}

impl<'k> Visitor<'k> for Own<'k> {
    fn visit<K: Sync>(
        &mut self,
        name: &'static str,
        make: Make<'_>,
        keys: &'k [K],
        request: impl Fn(&'k K) -> Request<'k> + Copy + Send + Sync + 'k,
    ) {
        let balancer = fleet::balancer(make(), self.n);
        let snapshot = balancer.snapshot();
        Subject::both(&mut self.subjects, &choice(name), move |thread, count| {
            let (scheduler, set) = (snapshot.derived(), snapshot.set());
            over(keys, thread, count, |key| {
                black_box(scheduler.pick(set, &request(key)));
            });
        });
        Subject::both(&mut self.subjects, &whole(name), move |thread, count| {
            over(keys, thread, count, |key| {
                let lease = balancer.pick(&request(key)).expect("every backend takes work");
                black_box(*lease);
                lease.finish(Outcome::Success { latency: Duration::from_millis(1) });
            });
        });
    }
}
