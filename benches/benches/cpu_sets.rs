//! What operations on sets of CPUs cost: `cargo bench -p lb-benches --bench cpu_sets`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lb_affinity::CpuSet;

fn cpu_sets(c: &mut Criterion) {
    let mut group = c.benchmark_group("cpu_sets");
    for cpus in [16, 256, 1024] {
        let all = CpuSet::first_n(cpus);
        let even: CpuSet = (0..cpus).step_by(2).collect();
        let high: CpuSet = (cpus / 2..cpus).collect();
        let id = |what: &str| BenchmarkId::new(what, cpus);
        group.bench_function(id("and"), |b| b.iter(|| black_box(&even) & black_box(&high)));
        group.bench_function(id("or"), |b| b.iter(|| black_box(&even) | black_box(&high)));
        group.bench_function(id("minus"), |b| b.iter(|| black_box(&all) - black_box(&even)));
        let mut set = all.clone();
        group.bench_function(id("and in place"), |b| b.iter(|| set &= black_box(&all)));
        let last = cpus - 1;
        group.bench_function(id("contains"), |b| b.iter(|| black_box(&even).contains(black_box(last))));
        group.bench_function(id("insert and remove"), |b| {
            b.iter(|| (set.remove(black_box(last)), set.insert(black_box(last))))
        });
        group.bench_function(id("is_subset"), |b| b.iter(|| black_box(&high).is_subset(black_box(&all))));
        group.bench_function(id("len"), |b| b.iter(|| black_box(&even).len()));
        group.bench_function(id("equal"), |b| b.iter(|| black_box(&all) == black_box(&set)));
        group.bench_function(id("all ids"), |b| b.iter(|| black_box(&all).iter().sum::<u32>()));
        let (list, mask) = (even.to_string(), even.mask(cpus).to_string());
        group.bench_function(id("parse a list"), |b| b.iter(|| black_box(&list).parse::<CpuSet>()));
        group.bench_function(id("parse a mask"), |b| b.iter(|| CpuSet::parse_mask(black_box(&mask))));
    }
    group.finish();
}

criterion_group!(benches, cpu_sets);
criterion_main!(benches);
