//! One change of a pool, from the call until it is published: `cargo bench -p lb-benches --bench rebuild`.
//!
//! `update` replaces the whole list by an equal one, `set_weight` changes one backend of it. Both rebuild the
//! algorithm's tables.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lb_benches::fleet::{self, SIZES, address, specs};
use lb_sched::{Algorithm, Weight};

fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("update");
    for &algorithm in Algorithm::ALL {
        for n in SIZES {
            let balancer = fleet::balancer(algorithm.scheduler(1), n);
            group.bench_function(BenchmarkId::new(algorithm.name(), n), |bencher| {
                bencher.iter(|| balancer.update(specs(n)));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("set_weight");
    for &algorithm in Algorithm::ALL {
        for n in SIZES {
            let balancer = fleet::balancer(algorithm.scheduler(1), n);
            let name = address(n / 2).to_string();
            let mut weight = 1;
            group.bench_function(BenchmarkId::new(algorithm.name(), n), |bencher| {
                bencher.iter(|| {
                    weight = 3 - weight;
                    balancer.set_weight(&name, Weight::new(weight))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, changes);
criterion_main!(benches);
