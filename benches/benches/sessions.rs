//! What a session costs: `cargo bench -p lb-benches --bench sessions`.
//!
//! Keys are drawn at random from the whole population, so that caches help no more than they would in
//! service; time goes on by a microsecond a call, so that refreshes are real. Sizes: 1 thousand, 100
//! thousand, 1 million entries.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lb_core::clock::Timestamp;
use lb_core::session::{
    ConnectionConfig, ConnectionTable, Flow, Key, Packet, Protocol, Segment, StickConfig, StickTable,
    TcpFlags,
};

const SIZES: [u32; 3] = [1_000, 100_000, 1_000_000];
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
const ACK: Packet = Packet::from_client(Segment::Tcp(TcpFlags::ACK));

/// Numbers that follow no pattern: xorshift64*.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(n)) >> 32) as u32
    }
}

/// A clock that goes on by a microsecond at each reading.
struct Ticks(u64);

impl Ticks {
    fn now(&mut self) -> Timestamp {
        self.0 += 1000;
        Timestamp::from_nanos(self.0)
    }
}

fn client(n: u32) -> Key<'static> {
    Key::Source(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)))
}

fn flow(n: u32) -> Flow {
    let client = SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + (n >> 8)).into(), 1024 + (n & 0xff) as u16);
    Flow::new(Protocol::Tcp, client, SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 80))
}

/// A stick table with that many entries and room for an eighth more.
fn sticks(n: u32) -> StickTable<u64> {
    let table = StickTable::new(StickConfig::new(n as usize + n as usize / 8, HALF_AN_HOUR));
    for i in 0..n {
        table.insert(client(i), u64::from(i), Timestamp::ZERO).expect("evicts");
    }
    table
}

fn connections(n: u32) -> ConnectionTable<u64> {
    let table = ConnectionTable::new(ConnectionConfig::new(n as usize + n as usize / 8));
    for i in 0..n {
        let _ = table.insert(flow(i), u64::from(i), ACK, Timestamp::ZERO);
    }
    table
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("sessions/lookup");
    for n in SIZES {
        let table = sticks(n);
        let (mut numbers, mut ticks) = (Numbers(1), Ticks(0));
        group.bench_function(BenchmarkId::new("stick hit", n), |b| {
            b.iter(|| table.lookup(client(numbers.below(n)), ticks.now()))
        });
        group.bench_function(BenchmarkId::new("stick miss", n), |b| {
            b.iter(|| table.lookup(client(n + numbers.below(n)), ticks.now()))
        });
        drop(table);
        let table = connections(n);
        let mut ticks = Ticks(0);
        group.bench_function(BenchmarkId::new("packet hit", n), |b| {
            b.iter(|| table.packet(&flow(numbers.below(n)), ACK, ticks.now()))
        });
        group.bench_function(BenchmarkId::new("packet miss", n), |b| {
            b.iter(|| table.packet(&flow(n + numbers.below(n)), ACK, ticks.now()))
        });
    }
    group.finish();
}

/// New keys into a table that is full: each evicts another.
fn inserts(c: &mut Criterion) {
    let mut group = c.benchmark_group("sessions/insert");
    for n in SIZES {
        let table = StickTable::new(StickConfig::new(n as usize, HALF_AN_HOUR));
        let mut ticks = Ticks(0);
        for i in 0..n {
            table.insert(client(i), 0, ticks.now()).expect("evicts");
        }
        let mut next = n;
        group.bench_function(BenchmarkId::new("stick evicting", n), |b| {
            b.iter(|| {
                next = next.wrapping_add(1);
                table.insert(client(next), u64::from(next), ticks.now())
            })
        });
    }
    group.finish();
}

/// Sweeping a table whose entries have all ended; the figure is for the whole table.
fn sweeps(c: &mut Criterion) {
    let mut group = c.benchmark_group("sessions/expire");
    group.sample_size(10);
    for n in SIZES {
        group.throughput(Throughput::Elements(u64::from(n)));
        group.bench_function(BenchmarkId::new("stick all", n), |b| {
            b.iter_batched(
                || sticks(n),
                |table| {
                    let swept = table.expire(Timestamp::ZERO + HALF_AN_HOUR, usize::MAX);
                    assert_eq!(swept.removed, table.counters().expired as usize);
                    table
                },
                BatchSize::PerIteration,
            )
        });
    }
    // What a sweep costs that finds nothing to do.
    let table = sticks(100_000);
    group.throughput(Throughput::Elements(1));
    group.bench_function("stick idle/100000", |b| b.iter(|| table.expire(Timestamp::ZERO, 1000)));
    group.finish();
}

/// Lookups of one thread while another does the same, against those of one alone.
fn threads(c: &mut Criterion) {
    const N: u32 = 100_000;
    let table = sticks(N);
    let mut group = c.benchmark_group("sessions/threads");
    for others in [0, 1] {
        group.bench_function(BenchmarkId::new("stick hit", others + 1), |b| {
            b.iter_custom(|rounds| {
                let stop = AtomicBool::new(false);
                thread::scope(|scope| {
                    for seed in 0..others {
                        let (table, stop) = (&table, &stop);
                        scope.spawn(move || {
                            let (mut numbers, mut ticks) = (Numbers(77 + seed), Ticks(0));
                            while !stop.load(Ordering::Relaxed) {
                                black_box(table.lookup(client(numbers.below(N)), ticks.now()));
                            }
                        });
                    }
                    let (mut numbers, mut ticks) = (Numbers(1), Ticks(0));
                    let start = Instant::now();
                    for _ in 0..rounds {
                        black_box(table.lookup(client(numbers.below(N)), ticks.now()));
                    }
                    let took = start.elapsed();
                    stop.store(true, Ordering::Relaxed);
                    took
                })
            })
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, inserts, sweeps, threads);
criterion_main!(benches);
