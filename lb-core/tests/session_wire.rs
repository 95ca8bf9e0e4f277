//! The wire form of sessions: there and back, and whatever else may arrive.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_core::session::wire::{self, Cause, WireError};
use lb_core::session::{Connection, Flow, Key, Protocol, SctpState, State, StickEntry, TcpState};
use proptest::collection::vec;
use proptest::prelude::*;

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![any::<u64>(), 0u64..2_000_000_000_000, Just(0), Just(u64::MAX)].prop_map(Duration::from_nanos)
}

fn stick() -> impl Strategy<Value = StickEntry<Vec<u8>>> {
    let key = prop_oneof![
        any::<IpAddr>().prop_map(|address| Key::Source(address).into()),
        vec(any::<u8>(), 0..200).prop_map(|bytes| Key::Cookie(&bytes).into()),
        vec(any::<u8>(), 0..200).prop_map(|bytes| Key::Bytes(&bytes).into()),
    ];
    (key, vec(any::<u8>(), 0..150), span(), span()).prop_map(|(key, value, remaining, idle)| StickEntry {
        key,
        value,
        remaining,
        idle,
    })
}

fn connection() -> impl Strategy<Value = Connection<Vec<u8>>> {
    let state = prop_oneof![
        prop::sample::select(TcpState::ALL.to_vec()).prop_map(State::Tcp),
        Just(State::Udp),
        Just(State::Icmp),
        prop::sample::select(vec![
            SctpState::Setup,
            SctpState::Established,
            SctpState::Shutdown,
            SctpState::Closed
        ])
        .prop_map(State::Sctp),
    ];
    (state, any::<SocketAddr>(), any::<SocketAddr>(), vec(any::<u8>(), 0..150), span(), span()).prop_map(
        |(state, client, service, value, remaining, idle)| Connection {
            flow: Flow::new(state.protocol(), client, service),
            state,
            value,
            remaining,
            idle,
        },
    )
}

/// Bytes that begin as a message does, so that decoding gets somewhere.
fn nearly(kind: u8) -> impl Strategy<Value = Vec<u8>> {
    (0u8..4, vec(prop_oneof![0u8..4, any::<u8>()], 0..120))
        .prop_map(move |(count, rest)| [b"LBSN\x01", &[kind, count][..], &rest].concat())
}

/// What decodes has that one encoding; what does not has its cause inside the message.
fn check<T>(
    bytes: &[u8],
    decoded: Result<Vec<T>, WireError>,
    encode: fn(&[T]) -> Vec<u8>,
) -> Result<(), TestCaseError> {
    match decoded {
        Ok(entries) => prop_assert_eq!(encode(&entries), bytes),
        Err(error) => prop_assert!(error.offset <= bytes.len(), "{}", error),
    }
    Ok(())
}

proptest! {
    #[test]
    fn entries_of_a_stick_table_come_back(entries in vec(stick(), 0..20)) {
        prop_assert_eq!(wire::decode_stick(&wire::encode_stick(&entries)), Ok(entries));
    }

    #[test]
    fn connections_come_back(connections in vec(connection(), 0..20)) {
        prop_assert_eq!(wire::decode_connections(&wire::encode_connections(&connections)), Ok(connections));
    }

    #[test]
    fn any_bytes_decode_or_say_why(
        any in vec(any::<u8>(), 0..200),
        stick in nearly(1),
        connections in nearly(2),
    ) {
        for bytes in [any, stick, connections] {
            check(&bytes, wire::decode_stick::<Vec<u8>>(&bytes), wire::encode_stick)?;
            check(&bytes, wire::decode_connections::<Vec<u8>>(&bytes), wire::encode_connections)?;
            check(&bytes, wire::decode_stick::<String>(&bytes), wire::encode_stick)?;
            check(&bytes, wire::decode_stick::<u64>(&bytes), wire::encode_stick)?;
        }
    }

    #[test]
    fn a_damaged_message_decodes_to_itself_or_says_why(
        sticks in vec(stick(), 1..5),
        connections in vec(connection(), 1..5),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = wire::encode_stick(&sticks);
        *at.get_mut(&mut bytes) = byte;
        check(&bytes, wire::decode_stick::<Vec<u8>>(&bytes), wire::encode_stick)?;
        let mut bytes = wire::encode_connections(&connections);
        *at.get_mut(&mut bytes) = byte;
        check(&bytes, wire::decode_connections::<Vec<u8>>(&bytes), wire::encode_connections)?;
    }

    #[test]
    fn a_message_cut_short_is_an_error(sticks in vec(stick(), 1..5), at: prop::sample::Index) {
        let bytes = wire::encode_stick(&sticks);
        let cut = at.index(bytes.len());
        let error = wire::decode_stick::<Vec<u8>>(&bytes[..cut]).unwrap_err();
        prop_assert!(matches!(error.cause, Cause::Short { .. } | Cause::Count { .. }), "{}", error);
    }
}

#[test]
fn a_count_allocates_nothing_that_does_not_follow() {
    // 2^63 entries in ten bytes: were they believed, this would abort.
    let bytes = b"LBSN\x01\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01abc";
    let error = wire::decode_stick::<u64>(bytes).unwrap_err();
    assert_eq!((error.offset, error.cause), (6, Cause::Count { count: 1 << 63, most: 0 }));
}

#[test]
fn the_form_is_the_documented_one() {
    let flow = Flow::new(Protocol::Tcp, "1.2.3.4:80".parse().unwrap(), "[::1]:443".parse().unwrap());
    let connection = Connection {
        flow,
        state: State::Tcp(TcpState::FinWait),
        value: "w".to_owned(),
        remaining: Duration::from_nanos(300),
        idle: Duration::ZERO,
    };
    let mut expected = b"LBSN\x01\x02\x01\x04\x02\x01\x02\x03\x04\x00\x50".to_vec();
    expected.extend([0; 15]);
    expected.extend(b"\x01\x01\xbb\x01w\xac\x02\x00");
    assert_eq!(wire::encode_connections(&[connection]), expected);
}

#[cfg(feature = "serde")]
proptest! {
    #[test]
    fn serde_takes_them_too(stick in stick(), connection in connection()) {
        let text = serde_json::to_string(&(&stick, &connection)).unwrap();
        let back: (StickEntry<Vec<u8>>, Connection<Vec<u8>>) = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back.0, stick);
        prop_assert_eq!(back.1, connection);
    }
}
