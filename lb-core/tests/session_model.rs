//! The session tables against models that are too simple to be wrong, over random histories.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use lb_core::clock::Timestamp;
use lb_core::session::{
    Census, Connection, ConnectionConfig, ConnectionTable, Cursor, Flow, Key, Merged, Packet, Protocol,
    SctpChunk, Seed, Segment, Shift, Side, State, StickConfig, StickTable, Stuck, TcpFlags, Timeouts, View,
    WhenFull,
};
use proptest::prelude::*;

const IDLE: Duration = Duration::from_secs(60);

fn client(n: u8) -> Key<'static> {
    Key::Source(Ipv4Addr::new(192, 0, 2, n).into())
}

fn stick(capacity: usize) -> StickConfig {
    StickConfig::new(capacity, IDLE)
}

#[derive(Clone, Debug)]
enum Use {
    Lookup(u8),
    Peek(u8),
    Insert(u8, u8),
    GetOrInsert(u8, u8),
    Remove(u8),
    RemoveValue(u8),
    Expire(usize),
    Pass(Duration),
}

fn uses() -> impl Strategy<Value = Vec<Use>> {
    let key = 0u8..24;
    let value = 0u8..4;
    let one = prop_oneof![
        6 => key.clone().prop_map(Use::Lookup),
        1 => key.clone().prop_map(Use::Peek),
        4 => (key.clone(), value.clone()).prop_map(|(k, v)| Use::Insert(k, v)),
        6 => (key.clone(), value.clone()).prop_map(|(k, v)| Use::GetOrInsert(k, v)),
        1 => key.prop_map(Use::Remove),
        1 => value.prop_map(Use::RemoveValue),
        2 => (1usize..5).prop_map(Use::Expire),
        2 => (1u64..40).prop_map(|secs| Use::Pass(Duration::from_secs(secs))),
    ];
    prop::collection::vec(one, 1..300)
}

/// A stick table that looks at everything every time.
struct Model {
    entries: HashMap<u8, (u8, Timestamp)>,
    capacity: usize,
    purge: bool,
}

impl Model {
    fn live(&self, key: u8, now: Timestamp) -> Option<u8> {
        self.entries.get(&key).filter(|entry| entry.1 + IDLE > now).map(|entry| entry.0)
    }

    /// Whether there was room.
    fn insert(&mut self, key: u8, value: u8, now: Timestamp) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() == self.capacity {
            let oldest =
                self.entries.iter().min_by_key(|(_, entry)| entry.1).map(|(key, entry)| (*key, entry.1));
            match oldest {
                Some((key, used)) if self.purge || used + IDLE <= now => self.entries.remove(&key),
                _ => return false,
            };
        }
        self.entries.insert(key, (value, now));
        true
    }
}

proptest! {
    #[test]
    fn a_stick_table_is_a_map_whose_entries_end(uses in uses(), capacity in 0usize..20, purge: bool) {
        let config = if purge { stick(capacity) } else { stick(capacity).nopurge() };
        let table = StickTable::with_seed(config, Seed::new(1, 2));
        let mut model = Model { entries: HashMap::new(), capacity, purge };
        let mut now = Timestamp::ZERO;
        let (mut hits, mut misses) = (0, 0);
        for step in uses {
            // No two uses happen at the same moment, so that one entry is the oldest.
            now += Duration::from_nanos(1);
            let mut looked = |model: &mut Model, key| {
                let found = model.live(key, now);
                if let Some(value) = found {
                    model.entries.insert(key, (value, now));
                }
                *(if found.is_some() { &mut hits } else { &mut misses }) += 1;
                found
            };
            match step {
                Use::Lookup(key) => prop_assert_eq!(table.lookup(client(key), now), looked(&mut model, key)),
                Use::Peek(key) => prop_assert_eq!(table.peek(client(key), now), model.live(key, now)),
                Use::Insert(key, value) => {
                    let before = model.live(key, now);
                    match table.insert(client(key), value, now) {
                        Ok(replaced) => {
                            prop_assert_eq!(replaced, before);
                            prop_assert!(model.insert(key, value, now));
                        }
                        Err(error) => prop_assert!(!model.insert(key, value, now), "{}", error),
                    }
                }
                Use::GetOrInsert(key, value) => {
                    let expected = looked(&mut model, key);
                    match table.get_or_insert_with(client(key), now, || value) {
                        Stuck::Known(known) => prop_assert_eq!(Some(known), expected),
                        Stuck::Stored(new) => {
                            prop_assert_eq!((new, expected), (value, None));
                            prop_assert!(model.insert(key, value, now));
                        }
                        Stuck::Unstored(new, _) => {
                            prop_assert_eq!((new, expected), (value, None));
                            prop_assert!(!model.insert(key, value, now));
                        }
                    }
                }
                Use::Remove(key) => {
                    prop_assert_eq!(table.remove(client(key), now), model.live(key, now));
                    model.entries.remove(&key);
                }
                Use::RemoveValue(value) => {
                    let before = model.entries.len();
                    model.entries.retain(|_, entry| entry.0 != value);
                    prop_assert_eq!(table.remove_value(&value), before - model.entries.len());
                }
                Use::Expire(budget) => {
                    let before = model.entries.len();
                    model.entries.retain(|_, entry| entry.1 + IDLE > now);
                    let mut removed = 0;
                    loop {
                        let swept = table.expire(now, budget);
                        prop_assert!(swept.removed <= budget);
                        removed += swept.removed;
                        if !swept.more {
                            break;
                        }
                    }
                    prop_assert_eq!(removed, before - model.entries.len());
                }
                Use::Pass(span) => now += span,
            }
            prop_assert_eq!(table.len(), model.entries.len());
            prop_assert!(table.len() <= capacity);
        }
        let counters = table.counters();
        prop_assert_eq!((counters.hits, counters.misses), (hits, misses));
        let mut shown: Vec<_> =
            table.entries(now).map(|entry| (format!("{:?}", entry.key), entry.value, entry.remaining)).collect();
        let mut expected: Vec<_> = (0..24).filter_map(|key| {
            let value = model.live(key, now)?;
            Some((format!("{:?}", client(key)), value, (model.entries[&key].1 + IDLE).saturating_since(now)))
        }).collect();
        shown.sort();
        expected.sort();
        prop_assert_eq!(shown, expected);
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let side = prop_oneof![3 => Just(Side::Client), 2 => Just(Side::Server)];
    let flags = prop::sample::select(vec![
        TcpFlags::SYN,
        TcpFlags::SYN | TcpFlags::ACK,
        TcpFlags::ACK,
        TcpFlags::ACK,
        TcpFlags::FIN | TcpFlags::ACK,
        TcpFlags::RST,
    ]);
    let chunk = prop::sample::select(vec![
        SctpChunk::Init,
        SctpChunk::CookieEcho,
        SctpChunk::CookieAck,
        SctpChunk::Other,
        SctpChunk::Shutdown,
        SctpChunk::Abort,
    ]);
    let segment = prop_oneof![
        8 => flags.prop_map(Segment::Tcp),
        1 => Just(Segment::Udp),
        1 => chunk.prop_map(Segment::Sctp),
    ];
    (side, segment).prop_map(|(from, segment)| Packet { from, segment })
}

fn flow(n: u8, segment: Segment) -> Flow {
    let protocol = match segment {
        Segment::Tcp(_) => Protocol::Tcp,
        Segment::Udp => Protocol::Udp,
        Segment::Sctp(_) => Protocol::Sctp,
        _ => Protocol::Icmp,
    };
    let end = |n| SocketAddr::new(Ipv4Addr::new(192, 0, 2, n).into(), 1000);
    Flow::new(protocol, end(n), end(255))
}

/// What a director counts from what the table tells it, by value: (active, inactive).
#[derive(Default)]
struct Loads([(isize, isize); 4]);

impl Loads {
    fn count(&mut self, value: u8, state: State, by: isize) {
        let load = &mut self.0[usize::from(value)];
        *(if state.is_active() { &mut load.0 } else { &mut load.1 }) += by;
    }

    fn out(&mut self, gone: &Connection<u8>) {
        self.count(gone.value, gone.state, -1);
    }

    fn shift(&mut self, value: u8, shift: Option<Shift>) {
        let load = &mut self.0[usize::from(value)];
        match shift {
            Some(Shift::Activated) => *load = (load.0 + 1, load.1 - 1),
            Some(Shift::Deactivated) => *load = (load.0 - 1, load.1 + 1),
            None => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    value: u8,
    state: State,
    expires: Timestamp,
}

fn rank(state: State) -> u8 {
    if state.is_active() { 2 } else { u8::from(!state.is_embryonic()) }
}

proptest! {
    #[test]
    fn a_connection_table_is_a_map_with_states(
        steps in prop::collection::vec((0u8..16, packet(), 0u8..4, 0u8..30, 0u64..40), 1..300),
        capacity in 1usize..12,
        when_full in prop::sample::select(vec![
            WhenFull::Refuse,
            WhenFull::EvictEmbryonic,
            WhenFull::EvictInactive,
        ]),
        view in prop::sample::select(vec![View::BothWays, View::ClientOnly]),
    ) {
        let config = ConnectionConfig::new(capacity).when_full(when_full).view(view);
        let table = ConnectionTable::with_seed(config, Seed::new(1, 2));
        let timeouts = Timeouts::default();
        let mut model: HashMap<Flow, Known> = HashMap::new();
        let mut loads = Loads::default();
        let mut now = Timestamp::ZERO;
        for (n, packet, value, what, wait) in steps {
            now += Duration::from_nanos(1 + if what < 8 { wait * 1_000_000_000 } else { 0 });
            let flow = flow(n, packet.segment);
            match what {
                0 => {
                    let gone = table.remove(&flow, now);
                    gone.iter().for_each(|gone| loads.out(gone));
                    prop_assert_eq!(gone.map(|gone| gone.state), model.remove(&flow).map(|known| known.state));
                }
                1 => {
                    let removed = table.remove_value(&value, now, |gone| loads.out(&gone));
                    let before = model.len();
                    model.retain(|_, known| known.value != value);
                    prop_assert_eq!(removed, before - model.len());
                }
                2 | 3 => {
                    let swept = table.expire(now, 1000, |gone| loads.out(&gone));
                    let before = model.len();
                    model.retain(|_, known| known.expires > now);
                    prop_assert_eq!((swept.removed, swept.more), (before - model.len(), false));
                }
                _ => {
                    let known = model.get(&flow).copied().filter(|known| known.expires > now);
                    let seen = table.packet(&flow, packet, now);
                    let found = seen.map(|seen| (seen.value, seen.before));
                    prop_assert_eq!(found, known.map(|known| (known.value, known.state)));
                    if let Some(seen) = seen {
                        prop_assert_eq!(seen.after, seen.before.next(packet, view));
                        loads.shift(seen.value, seen.shift());
                        let expires = now + timeouts.of(seen.after);
                        model.insert(flow, Known { value: seen.value, state: seen.after, expires });
                    } else {
                        insert(&table, &mut model, &mut loads, flow, value, packet, now, when_full)?;
                    }
                }
            }
            prop_assert_eq!(table.len(), model.len());
            let mut census = Census::default();
            for known in model.values() {
                *match rank(known.state) {
                    0 => &mut census.embryonic,
                    1 => &mut census.inactive,
                    _ => &mut census.active,
                } += 1;
            }
            prop_assert_eq!(table.census(), census);
        }
        for value in 0..4 {
            let of = model.values().filter(|known| known.value == value);
            let count = |active| of.clone().filter(|known| known.state.is_active() == active).count();
            prop_assert_eq!(loads.0[usize::from(value)], (count(true) as isize, count(false) as isize));
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of the test above, in a function for its length")]
fn insert(
    table: &ConnectionTable<u8>,
    model: &mut HashMap<Flow, Known>,
    loads: &mut Loads,
    flow: Flow,
    value: u8,
    packet: Packet,
    now: Timestamp,
    when_full: WhenFull,
) -> Result<(), TestCaseError> {
    let may_go = match when_full {
        WhenFull::Refuse => 0,
        WhenFull::EvictEmbryonic => 1,
        _ => 2,
    };
    let full = !model.contains_key(&flow) && model.len() == table.capacity();
    let joined = match table.insert(flow, value, packet, now) {
        Ok(joined) => joined,
        Err(error) => {
            prop_assert!(full, "{}", error);
            prop_assert!(model.values().all(|known| known.expires > now && rank(known.state) >= may_go));
            return Ok(());
        }
    };
    loads.count(value, joined.state, 1);
    if let Some(gone) = &joined.displaced {
        loads.out(gone);
        let known = model.remove(&gone.flow).expect("what is displaced was there");
        prop_assert_eq!((known.value, known.state), (gone.value, gone.state));
        if full && model.values().chain([&known]).any(|known| known.expires <= now) {
            prop_assert!(known.expires <= now, "an ended connection goes before a live one");
        } else if full {
            prop_assert!(rank(known.state) < may_go);
            let better =
                |other: &Known| (rank(other.state), other.expires) < (rank(known.state), known.expires);
            prop_assert!(!model.values().any(better), "{:?} went, of {:?}", known, model);
        }
    }
    prop_assert!(model.len() < table.capacity());
    let expires = now + Timeouts::default().of(joined.state);
    model.insert(flow, Known { value, state: joined.state, expires });
    Ok(())
}

/// Sends all that `from` has to tell to `to`, a few entries at a time.
fn tell(from: &StickTable<u8>, cursor: &mut Cursor, to: &StickTable<u8>, now: Timestamp) -> usize {
    let mut told = 0;
    loop {
        let changed = from.changes(cursor, now, 3);
        if changed.is_empty() {
            return told;
        }
        told += changed.len();
        to.import(changed, now);
    }
}

proptest! {
    /// Whatever happens at two peers: once they have told each other all, they agree, and fall silent.
    #[test]
    fn peers_agree(
        steps in prop::collection::vec((0usize..2, 0u8..12, 0u8..4, 0u8..8, 0u64..30), 1..200),
    ) {
        let tables = [1, 2].map(|seed| StickTable::with_seed(stick(64), Seed::new(seed, seed)));
        let mut cursors = [tables[0].cursor(), tables[1].cursor()];
        let mut now = Timestamp::ZERO;
        for (at, key, value, what, wait) in steps {
            now += Duration::from_nanos(1) + Duration::from_secs(if what < 2 { wait } else { 0 });
            match what {
                0..4 => drop(tables[at].lookup(client(key), now)),
                4 | 5 => drop(tables[at].insert(client(key), value, now).expect("room")),
                6 => drop(tell(&tables[at], &mut cursors[at], &tables[1 - at], now)),
                _ => drop(tables[at].expire(now, 3)),
            }
        }
        now += Duration::from_nanos(1);
        let mut rounds = 0;
        while (0..2).map(|at| tell(&tables[at], &mut cursors[at], &tables[1 - at], now)).sum::<usize>() > 0 {
            rounds += 1;
            prop_assert!(rounds <= 3, "they never fall silent");
        }
        let known = |table: &StickTable<u8>| -> HashMap<_, _> {
            table.entries(now).map(|entry| (entry.key.clone(), entry)).collect()
        };
        let known = [known(&tables[0]), known(&tables[1])];
        for at in 0..2 {
            for (key, entry) in &known[at] {
                match known[1 - at].get(key) {
                    Some(other) => {
                        prop_assert_eq!(entry.value, other.value, "{:?}", key);
                        prop_assert!(entry.remaining.abs_diff(other.remaining) <= IDLE / 8);
                    }
                    None => prop_assert!(entry.remaining <= IDLE / 8, "{:?} is not known to the other", entry),
                }
            }
        }
    }
}

#[test]
fn a_new_peer_is_taught_what_came_from_peers_as_well() {
    let now = Timestamp::ZERO;
    let [a, b, c] = [1, 2, 3].map(|seed| StickTable::with_seed(stick(64), Seed::new(seed, seed)));
    let (mut a_to_b, mut b_to_a) = (a.cursor(), b.cursor_at_end());
    a.insert(client(1), 1, now).unwrap();
    assert_eq!(tell(&a, &mut a_to_b, &b, now), 1);
    assert_eq!(tell(&b, &mut b_to_a, &a, now), 0, "what came from a peer is not told on");
    assert_eq!(tell(&b, &mut b.cursor(), &c, now), 1, "but taught to one who is new");
    assert_eq!(c.peek(client(1), now), Some(1));
    // Half an idle time later a use is news, and b tells it itself.
    let later = now + IDLE / 2;
    assert_eq!(b.lookup(client(1), later), Some(1));
    assert_eq!(tell(&b, &mut b_to_a, &a, later), 1);
    assert_eq!(a.peek(client(1), now + IDLE), Some(1));
}

#[test]
fn what_a_peer_sends_is_judged() {
    let table = StickTable::with_seed(stick(2), Seed::new(1, 2));
    let entry = |key: Key<'_>, value, idle, remaining| lb_core::session::StickEntry {
        key: key.into(),
        value,
        idle: Duration::from_secs(idle),
        remaining: Duration::from_secs(remaining),
    };
    let now = Timestamp::from_secs(100);
    table.insert(client(1), 1, Timestamp::from_secs(90)).unwrap();
    for (entry, merged) in [
        (entry(client(1), 2, 10, 50), Merged::Older),
        (entry(client(1), 3, 9, 51), Merged::Replaced),
        (entry(client(2), 4, 60, 0), Merged::Ended),
        (entry(client(2), 5, 20, 40), Merged::Added),
        // Full: it would push out what lives longer.
        (entry(client(3), 6, 30, 30), Merged::Refused),
        (entry(Key::Bytes(&[0; 257]), 7, 0, 60), Merged::Refused),
        // It lives longer than one that is there, but no longer than this table lets it.
        (entry(client(3), 8, 5, 1_000_000), Merged::Added),
    ] {
        assert_eq!(table.merge(entry.clone(), now), merged, "{entry:?}");
    }
    assert_eq!(table.peek(client(1), now), Some(3));
    assert_eq!(table.peek(client(2), now), None);
    assert_eq!(table.peek(client(3), now + IDLE), None);
    assert_eq!(table.peek(client(3), now + IDLE - Duration::from_nanos(1)), Some(8));
}

#[test]
fn a_syn_flood_pushes_out_its_own() {
    let table = ConnectionTable::with_seed(ConnectionConfig::new(1000), Seed::new(1, 2));
    let packet = |flags| Packet::from_client(Segment::Tcp(flags));
    let from = |a: u32| {
        let client = SocketAddr::new(Ipv4Addr::from(a).into(), 5000);
        Flow::new(Protocol::Tcp, client, "192.0.2.1:80".parse().unwrap())
    };
    let now = Timestamp::ZERO;
    for n in 0..500 {
        table.insert(from(n), 'a', packet(TcpFlags::ACK), now).expect("room for the established");
    }
    for n in 0..100_000 {
        table.insert(from(1_000_000 + n), 'b', packet(TcpFlags::SYN), now).expect("room for a SYN");
    }
    assert_eq!(table.census(), Census { active: 500, embryonic: 500, inactive: 0 });
    assert!((0..500).all(|n| table.peek(&from(n), now).is_some()));
    // Each that proves established takes the place of one that has not; then nothing may go.
    let full = (2_000_000..).find_map(|n| table.insert(from(n), 'c', packet(TcpFlags::ACK), now).err());
    let error = full.expect("the table is bounded");
    assert!(error.to_string().starts_with("no room for tcp 0.30."), "{error}");
    assert!(table.census().active > 900, "{:?}", table.census());
}

#[test]
fn peers_hear_of_states() {
    let [a, b] =
        [1, 2].map(|seed| ConnectionTable::with_seed(ConnectionConfig::new(10), Seed::new(seed, seed)));
    let tcp = |flags| Segment::Tcp(flags);
    let flow = flow(1, tcp(TcpFlags::SYN));
    let mut cursor = a.cursor();
    let mut now = Timestamp::from_secs(10);
    a.insert(flow, 7, Packet::from_client(tcp(TcpFlags::SYN)), now).unwrap();
    for (packet, news) in [
        (Packet::from_server(tcp(TcpFlags::SYN | TcpFlags::ACK)), 1),
        (Packet::from_client(tcp(TcpFlags::ACK)), 1),
        (Packet::from_client(tcp(TcpFlags::ACK)), 0),
        (Packet::from_client(tcp(TcpFlags::RST)), 1),
    ] {
        now += Duration::from_millis(1);
        let seen = a.packet(&flow, packet, now).unwrap();
        let changes = a.changes(&mut cursor, now, 10);
        assert_eq!(changes.len(), news);
        for change in changes {
            let state = change.state;
            let (merged, displaced) = b.merge(change, now);
            assert!(matches!(merged, Merged::Added | Merged::Replaced));
            assert_eq!(
                displaced.map(|before| before.state.is_active()),
                match merged {
                    Merged::Added => None,
                    _ => Some(seen.before.is_active()),
                }
            );
            assert_eq!(b.peek(&flow, now).map(|here| here.state), Some(state));
        }
    }
    // A value that contradicts its flow is refused.
    let mut wrong = a.peek(&flow, now).unwrap();
    wrong.state = State::Udp;
    assert_eq!(b.merge(wrong, now), (Merged::Refused, None));
    // The last state was CLOSE, whose 10 s hold at the peer too.
    assert!(b.peek(&flow, now + Duration::from_secs(10)).is_none());
}
