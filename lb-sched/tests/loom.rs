//! Every interleaving of leases, ends and updates that loom finds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p lb-sched --test loom`
#![cfg(loom)]

use lb_sched::{Balancer, LeastConnections, Outcome, Request, RoundRobin, Spec};
use loom::thread;

fn balancer<S: lb_sched::Scheduler>(scheduler: S, count: usize) -> Balancer<usize, S> {
    let balancer = Balancer::with_scheduler(scheduler);
    update(&balancer, count);
    balancer
}

fn update<S: lb_sched::Scheduler>(balancer: &Balancer<usize, S>, count: usize) {
    balancer.update((0..count).map(|i| Spec::new(format!("{i}"), i))).unwrap();
}

fn active<S: lb_sched::Scheduler>(balancer: &Balancer<usize, S>) -> Vec<u32> {
    balancer.snapshot().set().iter().map(|member| member.load.active()).collect()
}

/// Exhaustive up to this many forced switches between threads; more find no more in such small models, and take
/// hours.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn leases_are_counted_once_while_the_set_changes() {
    model(|| {
        let balancer = balancer(RoundRobin::new(), 2);
        let picker = {
            let balancer = balancer.clone();
            thread::spawn(move || balancer.pick(&Request::new()).unwrap().finish(Outcome::Failure))
        };
        let kept = balancer.pick(&Request::new()).unwrap();
        update(&balancer, 2);
        picker.join().unwrap();
        let mut expected = vec![0, 0];
        expected[*kept] = 1;
        assert_eq!(active(&balancer), expected);
        drop(kept);
        assert_eq!(active(&balancer), [0, 0]);
        let finished: u64 = balancer.snapshot().set().iter().map(|member| member.load.finished()).sum();
        assert_eq!(finished, 2);
    });
}

#[test]
fn a_limit_is_never_passed() {
    model(|| {
        let balancer = Balancer::with_scheduler(RoundRobin::new());
        balancer.update([Spec::new("a", 0usize).limit(1)]).unwrap();
        let other = {
            let balancer = balancer.clone();
            thread::spawn(move || balancer.pick(&Request::new()).ok())
        };
        let mine = balancer.pick(&Request::new()).ok();
        let theirs = other.join().unwrap();
        assert_eq!(u32::from(mine.is_some()) + u32::from(theirs.is_some()), 1);
        drop((mine, theirs));
        assert_eq!(active(&balancer), [0]);
    });
}

#[test]
fn the_tree_of_the_least_loaded_is_right_when_all_is_quiet() {
    model(|| {
        // Under loom three backends have two levels of games.
        let balancer = balancer(LeastConnections::new(), 3);
        let other = {
            let balancer = balancer.clone();
            thread::spawn(move || balancer.pick(&Request::new()).unwrap())
        };
        let mine = balancer.pick(&Request::new()).unwrap();
        let theirs = other.join().unwrap();
        let loads = active(&balancer);
        let least = (0..3).min_by_key(|&i| (loads[i], i)).unwrap();
        assert_eq!(*balancer.pick(&Request::new()).unwrap(), least, "{loads:?}");
        drop((mine, theirs));
        assert_eq!(*balancer.pick(&Request::new()).unwrap(), 0);
    });
}

#[test]
fn an_end_during_a_rebuild_reaches_the_new_tree() {
    model(|| {
        let balancer = balancer(LeastConnections::new(), 2);
        let lease = balancer.pick(&Request::new()).unwrap();
        assert_eq!(*lease, 0);
        let ender = thread::spawn(move || lease.finish(Outcome::Cancelled));
        update(&balancer, 2);
        ender.join().unwrap();
        assert_eq!(*balancer.pick(&Request::new()).unwrap(), 0, "nobody is busy: the first wins");
    });
}
