//! The choice alone, `Scheduler::pick_on` as a balancer calls it, on a set that stays: `cargo bench -p lb-benches --bench
//! pick`.
//!
//! A thread is alone on its lane all the time, as it is for each pick of a balancer's; what getting there costs is part of
//! the whole path. With two threads, of two lanes, the time is that of one pick of each, so threads that do not disturb
//! each other keep it.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use lb_benches::fleet::{self, SIZES};
use lb_benches::requests::{Keys, Make, Visitor, every_algorithm, over};
use lb_benches::threads::together;
use lb_sched::{Request, Scheduler};

struct Choice<'a, 'c> {
    group: &'a mut BenchmarkGroup<'c, WallTime>,
    threads: u32,
}

impl<'k> Visitor<'k> for Choice<'_, '_> {
    fn visit<K: Sync>(
        &mut self,
        name: &'static str,
        make: Make<'_>,
        keys: &'k [K],
        request: impl Fn(&'k K) -> Request<'k> + Copy + Send + Sync + 'k,
    ) {
        for n in SIZES {
            let pool = fleet::pool(make(), n);
            let pick = |thread, count| {
                let view = pool.read();
                over(keys, thread, count, |key| {
                    black_box(view.derived().pick_on(view.set(), &request(key), view.alone()));
                });
            };
            self.group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter_custom(|count| together(self.threads, count, pick));
            });
        }
    }
}

fn choices(criterion: &mut Criterion) {
    let keys = Keys::new();
    for (name, threads) in [("pick", 1), ("pick, two threads", 2)] {
        let mut group = criterion.benchmark_group(name);
        every_algorithm(&keys, &mut Choice { group: &mut group, threads });
        group.finish();
    }
}

criterion_group!(benches, choices);
criterion_main!(benches);
