//! Adverts as they are on the wire: section 5.

use crate::common::{
    SECOND, START, actions, active, changed, drops, interval, ip, lesser, message, meta, own, started, takes,
    transmits,
};
use crate::{V4, config, peer};
use lb_vrrp::config::OWNER;
use lb_vrrp::wire::{Discard, Interval};
use lb_vrrp::{Config, ConfigError, Event, State, VirtualRouter};

/// Adverts come from the interface's own address.
#[test]
fn s5_2_1_the_source_is_the_primary_address__done() {
    let mut router = started(&config(OWNER));
    assert!(transmits(&mut router).iter().all(|transmit| transmit.source == own(V4)));
}

#[test]
fn s5_2_1_the_source_is_the_primary_address__not_otherwise() {
    let mut router = VirtualRouter::new(config(OWNER), None).unwrap();
    router.handle_event(START, Event::Startup);
    assert_eq!((router.state(), actions(&mut router)), (State::Initialize, vec![]));
}

/// Adverts go to 224.0.0.18.
#[test]
fn s5_2_2_the_destination_is_the_group__done() {
    let mut router = started(&config(OWNER));
    let transmits = transmits(&mut router);
    assert_eq!(transmits.len(), 1);
    assert_eq!(transmits[0].destination, ip("224.0.0.18"));
}

#[test]
fn s5_2_2_the_destination_is_the_group__not_otherwise() {
    let (mut router, now) = active(&config(100));
    router.handle_timeout(now + SECOND);
    router.handle_event(now + SECOND, Event::Shutdown);
    assert!(transmits(&mut router).iter().all(|transmit| transmit.destination == V4.multicast()));
}

/// A packet whose TTL is not 255 is dropped.
#[test]
fn s5_2_3_the_ttl_is_255__accepted() {
    takes(&started(&config(100)), &meta(&config(200), peer()), &message(&config(200), peer(), 200));
}

#[test]
fn s5_2_3_the_ttl_is_255__refused() {
    for ttl in 0..255 {
        let mut meta = meta(&config(200), peer());
        meta.ttl = ttl;
        drops(&started(&config(100)), &meta, &message(&config(200), peer(), 200), Discard::Ttl);
    }
}

/// A packet of an unknown type is dropped.
#[test]
fn s5_3_2_the_type_is_advertisement__accepted() {
    let message = message(&config(200), peer(), 200);
    assert_eq!(message[0] & 0x0f, 1);
    takes(&started(&config(100)), &meta(&config(200), peer()), &message);
}

#[test]
fn s5_3_2_the_type_is_advertisement__refused() {
    let good = message(&config(200), peer(), 200);
    for kind in (0..16).filter(|&kind| kind != 1) {
        let bad = changed(&config(200), peer(), &good, &[(0, 0x20 | kind)]);
        drops(&started(&config(100)), &meta(&config(200), peer()), &bad, Discard::Type);
    }
}

/// A VRID is 1 to 255.
#[test]
fn s5_3_3_a_vrid_is_1_to_255__accepted() {
    for vrid in 1..=255 {
        assert_eq!(Config { vrid, ..config(100) }.validate(), Ok(()));
    }
}

#[test]
fn s5_3_3_a_vrid_is_1_to_255__refused() {
    assert_eq!(Config { vrid: 0, ..config(100) }.validate(), Err(ConfigError::Vrid));
}

/// The owner of the addresses has priority 255, and only it.
#[test]
fn s5_3_4_the_owner_has_priority_255__done() {
    let mut router = started(&config(OWNER));
    assert_eq!(actions(&mut router)[0], "advertise 255");
    router.handle_event(START, Event::Priority(3));
    router.handle_timeout(START + SECOND);
    assert_eq!(actions(&mut router), ["advertise 255"]);
}

#[test]
fn s5_3_4_the_owner_has_priority_255__not_otherwise() {
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::Priority(255));
    router.handle_timeout(now + SECOND);
    assert_eq!(actions(&mut router), ["advertise 254"]);
}

/// Other routers have a priority of 1 to 254; 0 only says that a master leaves.
#[test]
fn s5_3_4_a_backup_has_priority_1_to_254__accepted() {
    for priority in [1, 100, 254] {
        assert_eq!(config(priority).validate(), Ok(()));
    }
}

#[test]
fn s5_3_4_a_backup_has_priority_1_to_254__refused() {
    assert_eq!(config(0).validate(), Err(ConfigError::Priority));
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::Priority(0));
    router.handle_timeout(now + SECOND);
    assert_eq!(actions(&mut router), ["advertise 1"]);
}

/// A packet whose authentication type is unknown, or not the configured one, is dropped.
#[test]
fn s5_3_6_the_authentication_type_is_known__accepted() {
    takes(&started(&config(100)), &meta(&config(200), peer()), &message(&config(200), peer(), 200));
}

#[test]
fn s5_3_6_the_authentication_type_is_known__refused() {
    let good = message(&config(200), peer(), 200);
    for kind in 3..=255 {
        let bad = changed(&config(200), peer(), &good, &[(4, kind)]);
        drops(&started(&config(100)), &meta(&config(200), peer()), &bad, Discard::AuthType);
    }
    // What RFC 2338 had, and RFC 3768 keeps for it alone.
    for kind in [1, 2] {
        let bad = changed(&config(200), peer(), &good, &[(4, kind)]);
        drops(&started(&config(100)), &meta(&config(200), peer()), &bad, Discard::AuthMismatch);
    }
}

/// An interval is 1 to 255 whole seconds, 1 if nothing is said.
#[test]
fn s5_3_7_an_interval_is_whole_seconds__accepted() {
    assert_eq!(config(100).interval, interval(100));
    for seconds in 1..=255 {
        let interval = Interval::from_seconds(seconds).unwrap();
        assert_eq!(Config { interval, ..config(100) }.validate(), Ok(()));
        assert_eq!(message(&Config { interval, ..config(100) }, peer(), 100)[5], seconds);
    }
}

#[test]
fn s5_3_7_an_interval_is_whole_seconds__refused() {
    for centiseconds in [1, 99, 150, 25_499] {
        let config = Config { interval: interval(centiseconds), ..config(100) };
        assert!(matches!(config.validate(), Err(ConfigError::Interval { .. })));
    }
    assert!(Interval::from_seconds(0).is_err());
}

/// The checksum is the Internet checksum of the message, without a pseudo-header.
#[test]
fn s5_3_8_the_checksum_is_over_the_message__done() {
    let message = message(&config(100), peer(), 100);
    let words = message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
}

#[test]
fn s5_3_8_the_checksum_is_over_the_message__not_otherwise() {
    let here = message(&config(100), peer(), 100);
    assert_eq!(here, message(&config(100), lesser(V4), 100), "addresses of the IP header do not count");
}

/// An advert lists the addresses, and how many they are.
#[test]
fn s5_3_9_the_addresses_are_listed__done() {
    let message = message(&config(100), peer(), 100);
    assert_eq!((message[3], &message[8..16]), (2, &[10, 9, 0, 100, 10, 9, 0, 101][..]));
}

#[test]
fn s5_3_9_the_addresses_are_listed__not_otherwise() {
    let mut config = config(100);
    config.addresses[1].advertised = false;
    let message = message(&config, peer(), 100);
    assert_eq!((message[3], message.len()), (1, 8 + 4 + 8));
}

/// Without authentication its data is sent as zeros and not looked at.
#[test]
fn s5_3_10_the_authentication_data_is_void__done() {
    let message = message(&config(100), peer(), 100);
    assert_eq!(message[16..], [0; 8]);
}

#[test]
fn s5_3_10_the_authentication_data_is_void__not_otherwise() {
    let good = message(&config(200), peer(), 200);
    let filled: Vec<_> = (16..24).map(|at| (at, 0xa5)).collect();
    let message = changed(&config(200), peer(), &good, &filled);
    takes(&started(&config(100)), &meta(&config(200), peer()), &message);
}
