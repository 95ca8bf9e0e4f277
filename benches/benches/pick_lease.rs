//! The whole path, `Balancer::pick`, the lease and its `finish`: `cargo bench -p lb-benches --bench pick_lease`.
//!
//! With two threads the time is that of one pick of each, so threads that do not disturb each other keep it.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use lb_benches::fleet::{self, SIZES};
use lb_benches::requests::{Keys, Make, Visitor, every_algorithm, over};
use lb_benches::threads::together;
use lb_sched::{Outcome, Request};

struct Whole<'a, 'c> {
    group: &'a mut BenchmarkGroup<'c, WallTime>,
    threads: u32,
}

impl<'k> Visitor<'k> for Whole<'_, '_> {
    fn visit<K: Sync>(
        &mut self,
        name: &'static str,
        make: Make<'_>,
        keys: &'k [K],
        request: impl Fn(&'k K) -> Request<'k> + Copy + Send + Sync + 'k,
    ) {
        for n in SIZES {
            let balancer = fleet::balancer(make(), n);
            let pick = |thread, count| {
                over(keys, thread, count, |key| {
                    let lease = balancer.pick(&request(key)).expect("every backend takes work");
                    black_box(*lease);
                    lease.finish(Outcome::Success { latency: Duration::from_millis(1) });
                });
            };
            self.group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter_custom(|count| together(self.threads, count, pick));
            });
        }
    }
}

fn whole_paths(criterion: &mut Criterion) {
    let keys = Keys::new();
    for (name, threads) in [("pick and lease", 1), ("pick and lease, two threads", 2)] {
        let mut group = criterion.benchmark_group(name);
        every_algorithm(&keys, &mut Whole { group: &mut group, threads });
        group.finish();
    }
}

criterion_group!(benches, whole_paths);
criterion_main!(benches);
