//! What an advert costs: `cargo bench -p lb-benches --bench adverts`.
//!
//! `decode` includes every check that needs no configuration; `handle_packet` is all that a backup does with the advert of
//! its active router.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lb_benches::adverts::{COUNTS, KINDS, Pair};
use lb_vrrp::wire::{Advert, ChecksumMode, MAX_MESSAGE};

fn adverts(c: &mut Criterion) {
    let mut group = c.benchmark_group("adverts");
    for kind in KINDS {
        for count in COUNTS {
            let Pair { active, transmit, mut backup, meta, message, now } = Pair::new(kind, count);
            let mut buffer = [0; MAX_MESSAGE];
            let id = |what: &str| BenchmarkId::new(format!("{what} {}", kind.name), count);
            group.bench_function(id("decode"), |b| {
                b.iter(|| Advert::decode(black_box(&meta), black_box(&message), ChecksumMode::Either))
            });
            group.bench_function(id("handle_packet"), |b| {
                b.iter(|| backup.handle_packet(black_box(now), black_box(&meta), black_box(&message)))
            });
            group.bench_function(id("encode"), |b| {
                b.iter(|| active.encode(black_box(&transmit), black_box(&mut buffer)).map(<[u8]>::len))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, adverts);
criterion_main!(benches);
