//! Whatever a peer sends: it decodes to what has that one encoding, or says where it is wrong; and a table
//! takes it in within its capacity.
#![no_main]

use std::time::Duration;

use lb_core::clock::Timestamp;
use lb_core::session::wire::{self, WireError};
use lb_core::session::{ConnectionConfig, ConnectionTable, Seed, StickConfig, StickTable};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_secs(1000);
const CAPACITY: usize = 8;

fn check<T>(bytes: &[u8], decoded: Result<Vec<T>, WireError>, encode: fn(&[T]) -> Vec<u8>) -> Vec<T> {
    match decoded {
        Ok(entries) => {
            assert_eq!(encode(&entries), bytes);
            entries
        }
        Err(error) => {
            assert!(error.offset <= bytes.len(), "{error}");
            Vec::new()
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let seed = Seed::new(1, 2);

    let sticks = check(bytes, wire::decode_stick::<Vec<u8>>(bytes), wire::encode_stick);
    let table = StickTable::with_seed(StickConfig::new(CAPACITY, Duration::from_secs(60)), seed);
    let count = sticks.len();
    let imported = table.import(sticks, NOW);
    assert_eq!(
        imported.added + imported.replaced + imported.older + imported.ended + imported.refused,
        count
    );
    assert!(table.len() <= CAPACITY);
    assert!(table.entries(NOW).all(|entry| entry.remaining <= Duration::from_secs(60)));

    let connections = check(bytes, wire::decode_connections::<Vec<u8>>(bytes), wire::encode_connections);
    let table = ConnectionTable::with_seed(ConnectionConfig::new(CAPACITY), seed);
    let mut held = 0;
    for connection in connections {
        let (merged, displaced) = table.merge(connection, NOW);
        held += usize::from(matches!(
            merged,
            lb_core::session::Merged::Added | lb_core::session::Merged::Replaced
        ));
        held -= usize::from(displaced.is_some());
        assert_eq!(table.len(), held);
    }
    assert!(held <= CAPACITY);
});
