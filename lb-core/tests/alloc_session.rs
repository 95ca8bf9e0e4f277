//! What the session tables allocate: nothing on a lookup, and never more than documented.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use allocation_counter::measure;
use lb_core::clock::Timestamp;
use lb_core::session::{
    ConnectionConfig, ConnectionTable, Flow, Key, Packet, Protocol, Seed, Segment, StickConfig, StickTable,
    TcpFlags,
};

const SEED: Seed = Seed::new(3, 4);

/// How often `work` asks for memory.
fn calls(work: impl FnOnce()) -> u64 {
    measure(work).count_total
}

/// What `work` gives, and by how many bytes more than before are allocated after it.
fn grown<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let mut made = None;
    let counted = measure(|| made = Some(work()));
    (made.expect("it was run"), counted.bytes_current)
}

fn client(n: u32) -> Key<'static> {
    Key::Source(Ipv4Addr::from(n).into())
}

fn flow(n: u32) -> Flow {
    let service = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 80);
    Flow::new(Protocol::Tcp, SocketAddr::new(Ipv4Addr::from(n).into(), 1), service)
}

fn tcp(flags: TcpFlags) -> Packet {
    Packet::from_client(Segment::Tcp(flags))
}

#[test]
fn tables_allocate_as_they_fill_and_at_no_other_time() {
    assert!(calls(|| drop(std::hint::black_box(Box::new(1)))) > 0, "the allocator counts");

    let secs = Timestamp::from_secs;
    // An unlucky size for an index that doubles: just above what 4096 buckets like to hold.
    const N: u32 = 1800;

    let keys: Vec<String> = (0..1000).map(|n| format!("cookie-{n:014}")).collect();
    let config = StickConfig::new(N as usize, Duration::from_secs(60)).shards(1);
    let (table, making) = grown(|| StickTable::<u64>::with_seed(config, SEED));
    let fill = |from: u32, to: u32, now| {
        for n in from..to {
            table.insert(client(n), 7, now).expect("evicts");
        }
    };
    let ((), filling) = grown(|| fill(0, 5 * N, secs(0)));
    let table_bytes = making + filling;
    assert!(table_bytes <= 143 * i64::from(N) + 1024, "{} bytes an entry", table_bytes / i64::from(N));

    let looking = calls(|| {
        for round in 1..20 {
            for n in 0..5 * N {
                let _ = table.lookup(client(n), secs(round));
                let _ = table.peek(client(n), secs(round));
            }
            for key in &keys {
                assert_eq!(table.lookup(Key::Cookie(key.as_bytes()), secs(round)), None);
            }
        }
    });
    assert_eq!(looking, 0, "lookups and refreshes");
    assert!(table.counters().hits >= 19 * u64::from(N));
    assert_eq!(calls(|| fill(5 * N, 9 * N, secs(20))), 0, "evictions for short keys");
    assert_eq!(calls(|| assert_eq!(table.expire(secs(1000), usize::MAX).removed, N as usize)), 0, "sweeps");
    assert_eq!(calls(|| fill(0, N, secs(1001))), 0, "filling it anew");

    let config = ConnectionConfig::new(N as usize).shards(1);
    let (table, making) = grown(|| ConnectionTable::<u64>::with_seed(config, SEED));
    let opening = |now| {
        for n in 0..5 * N {
            table.insert(flow(n), 7, tcp(TcpFlags::SYN), now).expect("evicts");
        }
    };
    // Once filled, each entry goes through all three classes.
    let adopt = |now| (0..N).for_each(|n| assert!(table.insert(flow(n), 7, tcp(TcpFlags::ACK), now).is_ok()));
    let through = |flags, now| {
        (0..N).for_each(|n| assert!(table.packet(&flow(n), tcp(flags), now).is_some()));
    };
    let ((), filling) = grown(|| {
        opening(secs(0));
        table.expire(secs(1000), usize::MAX, drop);
        adopt(secs(2000));
        through(TcpFlags::FIN, secs(2001));
    });
    let table_bytes = making + filling;
    assert!(table_bytes <= 175 * i64::from(N) + 1024, "{} bytes an entry", table_bytes / i64::from(N));

    let looking = calls(|| {
        through(TcpFlags::ACK, secs(2002));
        through(TcpFlags::RST, secs(2003));
        through(TcpFlags::SYN, secs(2004));
        (0..5 * N).for_each(|n| assert_eq!(table.peek(&flow(n), secs(2005)).is_some(), n < N));
        (N..5 * N).for_each(|n| assert!(table.packet(&flow(n), tcp(TcpFlags::ACK), secs(2005)).is_none()));
    });
    assert_eq!(looking, 0, "packets and their changes of state");
    assert_eq!(calls(|| opening(secs(2006))), 0, "evictions");
    let sweep = || assert_eq!(table.expire(secs(9000), usize::MAX, drop).removed, N as usize);
    assert_eq!(calls(sweep), 0, "sweeps");
}
