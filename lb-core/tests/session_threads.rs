//! Several threads on one table: no connection is lost, none is counted twice.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicIsize, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lb_core::clock::Timestamp;
use lb_core::session::{
    Connection, ConnectionConfig, ConnectionTable, Flow, Key, Packet, Protocol, Seed, Seen, Segment, Shift,
    Side, State, StickConfig, StickTable, Stuck, TcpFlags,
};

const SEED: Seed = Seed::new(3, 4);
const THREADS: u64 = 4;
const STEPS: u64 = 40_000;
const SERVERS: usize = 5;

/// Numbers that follow no pattern, the same in each run: xorshift64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// The load counters of a server as a director keeps them.
#[derive(Default)]
struct Load {
    active: AtomicIsize,
    inactive: AtomicIsize,
}

impl Load {
    fn add(&self, state: State, by: isize) {
        if state.is_active() { &self.active } else { &self.inactive }.fetch_add(by, Ordering::Relaxed);
    }

    fn shift<V>(&self, seen: &Seen<V>) {
        let by = match seen.shift() {
            Some(Shift::Activated) => 1,
            Some(Shift::Deactivated) => -1,
            None => return,
        };
        self.active.fetch_add(by, Ordering::Relaxed);
        self.inactive.fetch_sub(by, Ordering::Relaxed);
    }

    fn get(&self) -> (isize, isize) {
        (self.active.load(Ordering::Relaxed), self.inactive.load(Ordering::Relaxed))
    }
}

#[test]
fn load_counters_follow_the_table_exactly() {
    let table = ConnectionTable::with_seed(ConnectionConfig::new(2000).shards(4), SEED);
    let loads: [Load; SERVERS] = Default::default();
    let clock = AtomicU64::new(0);
    let out = |gone: Connection<usize>| loads[gone.value].add(gone.state, -1);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (table, loads, clock, out) = (&table, &loads, &clock, &out);
            scope.spawn(move || {
                let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 + seed);
                for _ in 0..STEPS {
                    // 40 000 × 4 steps of up to 20 ms: the sweep, too, has work.
                    let now =
                        Timestamp::from_nanos(clock.fetch_add(numbers.below(20_000_000), Ordering::Relaxed));
                    let client = SocketAddr::new(Ipv4Addr::from(numbers.below(4000) as u32).into(), 7);
                    let flow =
                        Flow::new(Protocol::Tcp, client, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 80));
                    let flags = [TcpFlags::SYN, TcpFlags::ACK, TcpFlags::ACK, TcpFlags::FIN, TcpFlags::RST];
                    let segment = Segment::Tcp(flags[numbers.below(5) as usize]);
                    let from = if numbers.below(3) == 0 { Side::Server } else { Side::Client };
                    let packet = Packet { from, segment };
                    match numbers.below(100) {
                        0 => drop(table.expire(now, 50, out)),
                        1 => table.remove(&flow, now).into_iter().for_each(out),
                        2 if numbers.below(200) == 0 => {
                            table.remove_value(&(numbers.below(SERVERS as u64) as usize), now, out);
                        }
                        _ => match table.packet(&flow, packet, now) {
                            Some(seen) => loads[seen.value].shift(&seen),
                            None => {
                                let server = numbers.below(SERVERS as u64) as usize;
                                if let Ok(joined) = table.insert(flow, server, packet, now) {
                                    loads[server].add(joined.state, 1);
                                    joined.displaced.into_iter().for_each(out);
                                }
                            }
                        },
                    }
                }
            });
        }
    });

    let counters = table.counters();
    assert!(
        counters.hits > 0 && counters.evicted > 0 && counters.expired > 0,
        "all paths were taken: {counters:?}"
    );
    let sum: isize = loads.iter().map(|load| load.get().0 + load.get().1).sum();
    assert_eq!(sum, table.len() as isize);
    let mut held: HashMap<usize, (isize, isize)> = HashMap::new();
    for connection in table.entries(Timestamp::ZERO) {
        let (active, inactive) = held.entry(connection.value).or_default();
        *(if connection.state.is_active() { active } else { inactive }) += 1;
    }
    for (server, load) in loads.iter().enumerate() {
        assert_eq!(load.get(), held.get(&server).copied().unwrap_or_default(), "server {server}");
    }

    assert!(!table.expire(Timestamp::MAX, usize::MAX, out).more);
    assert!(table.is_empty());
    assert!(loads.iter().all(|load| load.get() == (0, 0)), "every connection has left every count");
}

#[test]
fn all_threads_agree_on_a_clients_server() {
    const CLIENTS: u32 = 3000;
    let table = StickTable::with_seed(StickConfig::new(100_000, Duration::from_secs(60)), SEED);
    let key = |client: u32| Key::Source(Ipv4Addr::from(client).into());
    let answers: Vec<Vec<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let table = &table;
                let choose = move |client| table.get_or_insert_with(key(client), Timestamp::ZERO, || thread);
                scope.spawn(move || (0..CLIENTS).map(|client| choose(client).into_value()).collect())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for client in 0..CLIENTS {
        let first = answers[0][client as usize];
        assert!(answers.iter().all(|answer| answer[client as usize] == first), "client {client}");
    }
    assert_eq!(table.len(), CLIENTS as usize);
}

#[test]
fn entries_in_are_entries_out() {
    let table = StickTable::with_seed(StickConfig::new(1000, Duration::from_millis(50)).shards(4), SEED);
    let removed = AtomicU64::new(0);
    let clock = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (table, removed, clock) = (&table, &removed, &clock);
            scope.spawn(move || {
                let mut numbers = Numbers(0xdead_beef + seed);
                for _ in 0..STEPS {
                    let now =
                        Timestamp::from_nanos(clock.fetch_add(numbers.below(30_000), Ordering::Relaxed));
                    let key = numbers.below(3000).to_be_bytes();
                    match numbers.below(40) {
                        0 => drop(table.expire(now, 10)),
                        1 if numbers.below(100) == 0 => {
                            removed.fetch_add(table.remove_value(&seed) as u64, Ordering::Relaxed);
                        }
                        _ => match table.get_or_insert_with(Key::Bytes(&key), now, || seed) {
                            Stuck::Known(_) | Stuck::Stored(_) => {}
                            Stuck::Unstored(_, error) => panic!("{error}"),
                        },
                    }
                }
            });
        }
    });
    let counters = table.counters();
    let out = counters.evicted + counters.expired + removed.into_inner();
    assert_eq!(counters.inserted - out, table.len() as u64, "{counters:?}");
    assert!(counters.inserted <= counters.misses, "only what was missed is put in: {counters:?}");
    assert!(counters.evicted > 0 && counters.expired > 0, "all paths were taken: {counters:?}");
}
