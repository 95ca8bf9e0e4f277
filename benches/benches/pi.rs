//! π at the sizes of the thesis: `cargo bench -p lb-benches --bench pi`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lb_core::pi;

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pi");
    for n in [1000_u64, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(n));
        group.bench_with_input(BenchmarkId::new("midpoint", n), &n, |bencher, &n| {
            bencher.iter(|| pi::midpoint(black_box(n)));
        });
        group.bench_with_input(BenchmarkId::new("midpoint_fast", n), &n, |bencher, &n| {
            bencher.iter(|| pi::midpoint_fast(black_box(n)));
        });
        group.bench_with_input(BenchmarkId::new("divisions", n), &n, |bencher, &n| {
            bencher.iter(|| lb_benches::divisions(black_box(n)));
        });
    }
    group.finish();
}

criterion_group!(benches, sums);
criterion_main!(benches);
