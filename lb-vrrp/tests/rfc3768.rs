//! Each requirement of RFC 3768 (version 2) that a program can meet or break, with a test that it is met where it holds, and one
//! that nothing else passes for it. The names and first comments make the table of the `conformance` page.

#![allow(
    non_snake_case,
    reason = "two underscores part the requirement from the side of it that a test shows"
)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{
    INSTANT, SECOND, START, actions, active, changed, conflicts, drops, greater, hear, interval, ip, lesser,
    message, meta, own, started, takes, transmits,
};
use lb_vrrp::config::{AddressCheck, Auth, LosingAdvert, OWNER, Owners};
use lb_vrrp::event::{Conflict, Faults};
use lb_vrrp::timer::{master_down_interval, skew_time};
use lb_vrrp::wire::{Discard, Family, Interval, MAX_MESSAGE, Version};
use lb_vrrp::{Action, Config, ConfigError, Event, State, VirtualRouter};

const V4: Family = Family::Ipv4;

fn config(priority: u8) -> Config {
    common::config(Version::V2, V4, priority)
}

fn peer() -> IpAddr {
    greater(V4)
}

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

/// The skew time is (256 − priority) / 256 seconds.
#[test]
fn s6_1_the_skew_time__done() {
    for priority in 1..=255_u64 {
        let skew = skew_time(Version::V2, priority as u8, interval(100));
        assert_eq!(skew.as_micros() as u64, (256 - priority) * 1_000_000 / 256);
    }
}

#[test]
fn s6_1_the_skew_time__not_otherwise() {
    let long = skew_time(Version::V2, 100, interval(25_500));
    assert_eq!(skew_time(Version::V2, 100, interval(100)), long, "the interval does not count");
}

/// The master-down interval is three intervals and the skew time.
#[test]
fn s6_1_the_master_down_interval__done() {
    assert_eq!(master_down_interval(Version::V2, 100, interval(100)).as_micros(), 3_609_375);
    assert_eq!(started(&config(100)).poll_timeout(), Some(START + Duration::from_micros(3_609_375)));
}

#[test]
fn s6_1_the_master_down_interval__not_otherwise() {
    // A better router is quicker than a worse one.
    for priority in 2..=255 {
        let better = master_down_interval(Version::V2, priority, interval(100));
        assert!(better < master_down_interval(Version::V2, priority - 1, interval(100)));
    }
}

/// A backup takes over from a master of lower priority, unless told not to; the owner always does.
#[test]
fn s6_1_the_preempt_mode__done() {
    assert!(Config::new(1, []).preempt, "by default");
    let mut owner = started(&Config { preempt: false, ..config(OWNER) });
    assert_eq!(owner.state(), State::Active);
    assert_eq!(actions(&mut owner)[0], "advertise 255");
}

#[test]
fn s6_1_the_preempt_mode__not_otherwise() {
    let mut router = started(&Config { preempt: false, ..config(100) });
    for seconds in 1..60 {
        hear(&mut router, START + seconds * SECOND, &config(90), peer(), 90);
        router.handle_timeout(START + seconds * SECOND);
        assert_eq!(router.state(), State::Backup);
    }
}

/// The owner starts as master: it advertises, announces each address, and times the next advert.
#[test]
fn s6_4_1_the_owner_starts_as_master__done() {
    let mut router = started(&config(OWNER));
    let expected =
        ["advertise 255", "add 10.9.0.100/24", "add 10.9.0.101/24", "arp 10.9.0.100", "arp 10.9.0.101"];
    assert_eq!(actions(&mut router), expected);
    assert_eq!((router.state(), router.poll_timeout()), (State::Active, Some(START + SECOND)));
}

#[test]
fn s6_4_1_the_owner_starts_as_master__not_otherwise() {
    let mut router = VirtualRouter::new(config(OWNER), Some(own(V4))).unwrap();
    router.handle_event(START, Event::Fault(Faults::LINK));
    router.handle_event(START, Event::Startup);
    assert_eq!((router.state(), actions(&mut router)), (State::Initialize, vec![]));
}

/// Others start as backups and wait for the master-down interval.
#[test]
fn s6_4_1_others_start_as_backups__done() {
    for priority in [1, 100, 254] {
        let router = started(&config(priority));
        let down = master_down_interval(Version::V2, priority, interval(100));
        assert_eq!((router.state(), router.poll_timeout()), (State::Backup, Some(START + down)));
    }
}

#[test]
fn s6_4_1_others_start_as_backups__not_otherwise() {
    assert_eq!(actions(&mut started(&config(254))), [""; 0], "and say nothing");
}

/// Before its startup event a router does nothing.
#[test]
fn s6_4_1_nothing_before_the_startup__done() {
    let router = VirtualRouter::new(config(OWNER), Some(own(V4))).unwrap();
    assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
}

#[test]
fn s6_4_1_nothing_before_the_startup__not_otherwise() {
    let router = VirtualRouter::new(config(100), Some(own(V4))).unwrap();
    drops(&router, &meta(&config(90), peer()), &message(&config(90), peer(), 90), Discard::Initialize);
}

/// A backup does not answer for the addresses, nor take packets for them: they are not on its interface.
#[test]
fn s6_4_2_a_backup_does_not_have_the_addresses__done() {
    let (mut router, now) = active(&config(100));
    hear(&mut router, now, &config(200), peer(), 200);
    assert_eq!(actions(&mut router), ["remove 10.9.0.100/24", "remove 10.9.0.101/24"]);
    assert_eq!(router.present_addresses().count(), 0);
}

#[test]
fn s6_4_2_a_backup_does_not_have_the_addresses__not_otherwise() {
    let mut router = started(&config(100));
    router.handle_event(START, Event::AddressLost(ip("10.9.0.100")));
    assert_eq!(actions(&mut router), [""; 0], "and does not put them back");
}

/// A backup that is shut down stops its timer and goes to Initialize.
#[test]
fn s6_4_2_a_backup_shuts_down__done() {
    let mut router = started(&config(100));
    router.handle_event(START + SECOND, Event::Shutdown);
    assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
}

#[test]
fn s6_4_2_a_backup_shuts_down__not_otherwise() {
    let mut router = started(&config(100));
    router.handle_event(START + SECOND, Event::Shutdown);
    router.handle_timeout(START + 60 * SECOND);
    assert_eq!((router.state(), actions(&mut router)), (State::Initialize, vec![]), "without a word");
}

/// When the master-down timer fires, a backup advertises, announces each address, and is master.
#[test]
fn s6_4_2_a_backup_takes_over_when_its_timer_fires__done() {
    let mut router = started(&config(100));
    let now = router.poll_timeout().unwrap();
    router.handle_timeout(now);
    let expected =
        ["advertise 100", "add 10.9.0.100/24", "add 10.9.0.101/24", "arp 10.9.0.100", "arp 10.9.0.101"];
    assert_eq!(actions(&mut router), expected);
    assert_eq!((router.state(), router.poll_timeout()), (State::Active, Some(now + SECOND)));
}

#[test]
fn s6_4_2_a_backup_takes_over_when_its_timer_fires__not_otherwise() {
    let mut router = started(&config(100));
    router.handle_timeout(router.poll_timeout().unwrap() - INSTANT);
    assert_eq!((router.state(), actions(&mut router)), (State::Backup, vec![]));
}

/// When the master leaves by priority 0, a backup waits only for its skew time.
#[test]
fn s6_4_2_priority_0_shortens_the_wait__done() {
    let mut router = started(&config(100));
    hear(&mut router, START + SECOND, &config(200), peer(), 0);
    assert_eq!(router.poll_timeout(), Some(START + SECOND + Duration::from_micros(609_375)));
}

#[test]
fn s6_4_2_priority_0_shortens_the_wait__not_otherwise() {
    for priority in 1..=255 {
        let mut router = started(&config(100));
        let before = router.poll_timeout();
        hear(&mut router, START + SECOND, &config(200), peer(), priority);
        assert!(router.poll_timeout() >= before);
    }
}

/// An advert of the same or a higher priority starts the wait anew; so does any without preemption.
#[test]
fn s6_4_2_a_respected_advert_starts_the_wait_anew__done() {
    for (preempt, priority) in [(true, 100), (true, 101), (true, 255), (false, 1), (false, 255)] {
        let mut router = started(&Config { preempt, ..config(100) });
        hear(&mut router, START + SECOND, &config(200), lesser(V4), priority);
        assert_eq!(router.poll_timeout(), Some(START + SECOND + router.master_down_interval()));
    }
}

#[test]
fn s6_4_2_a_respected_advert_starts_the_wait_anew__not_otherwise() {
    for priority in 1..100 {
        let mut router = started(&config(100));
        hear(&mut router, START + SECOND, &config(200), peer(), priority);
        assert_eq!(router.poll_timeout(), Some(START + router.master_down_interval()));
    }
}

/// A backup that preempts drops adverts of lower priority: its wait goes on.
#[test]
fn s6_4_2_a_lower_priority_is_not_heard__done() {
    let mut router = started(&config(100));
    let deadline = router.poll_timeout().unwrap();
    for seconds in 1..=3 {
        hear(&mut router, START + seconds * SECOND, &config(99), peer(), 99);
        assert_eq!(router.poll_timeout(), Some(deadline));
    }
    router.handle_timeout(deadline);
    assert_eq!(router.state(), State::Active);
}

#[test]
fn s6_4_2_a_lower_priority_is_not_heard__not_otherwise() {
    for (preempt, priority) in [(true, 100), (false, 99)] {
        let mut router = started(&Config { preempt, ..config(100) });
        let deadline = router.poll_timeout().unwrap();
        hear(&mut router, START + 3 * SECOND, &config(99), peer(), priority);
        router.handle_timeout(deadline);
        assert_eq!((router.state(), actions(&mut router)), (State::Backup, vec![]));
    }
}

/// A master answers for the addresses and takes packets for them, as the owner must and others may (accept mode): they are on
/// its interface.
#[test]
fn s6_4_3_a_master_has_the_addresses__done() {
    let (router, _) = active(&config(100));
    assert_eq!(router.present_addresses().count(), 2);
}

#[test]
fn s6_4_3_a_master_has_the_addresses__not_otherwise() {
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::Shutdown);
    actions(&mut router);
    assert_eq!(router.present_addresses().count(), 0);
}

/// A master that is shut down says so by priority 0 and goes to Initialize.
#[test]
fn s6_4_3_a_master_leaves_with_priority_0__done() {
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::Shutdown);
    assert_eq!(actions(&mut router)[0], "advertise 0");
    assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
}

#[test]
fn s6_4_3_a_master_leaves_with_priority_0__not_otherwise() {
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::Shutdown);
    actions(&mut router);
    router.handle_event(now, Event::Shutdown);
    router.handle_timeout(now + 60 * SECOND);
    assert_eq!(actions(&mut router), [""; 0], "once");
}

/// A master advertises each interval.
#[test]
fn s6_4_3_a_master_advertises_each_interval__done() {
    let (mut router, mut now) = active(&config(100));
    for _ in 0..100 {
        assert_eq!(router.poll_timeout(), Some(now + SECOND));
        now = now + SECOND;
        router.handle_timeout(now);
        assert_eq!(actions(&mut router), ["advertise 100"]);
    }
}

#[test]
fn s6_4_3_a_master_advertises_each_interval__not_otherwise() {
    let (mut router, now) = active(&config(100));
    router.handle_timeout(now + SECOND - INSTANT);
    assert_eq!(actions(&mut router), [""; 0]);
}

/// A master that hears priority 0 advertises at once.
#[test]
fn s6_4_3_a_master_answers_priority_0__done() {
    let (mut router, now) = active(&config(100));
    let later = now + SECOND / 2;
    hear(&mut router, later, &config(200), peer(), 0);
    assert_eq!(actions(&mut router), ["advertise 100"]);
    assert_eq!(router.poll_timeout(), Some(later + SECOND));
}

#[test]
fn s6_4_3_a_master_answers_priority_0__not_otherwise() {
    let (mut router, now) = active(&config(100));
    hear(&mut router, now + SECOND / 2, &config(90), peer(), 90);
    assert_eq!(actions(&mut router), [""; 0]);
    assert_eq!(router.poll_timeout(), Some(now + SECOND));
}

/// A master gives way to a higher priority, and to the same from a greater address.
#[test]
fn s6_4_3_a_master_gives_way_to_the_better__done() {
    for (source, priority) in [(lesser(V4), 101), (greater(V4), 101), (greater(V4), 100), (lesser(V4), 255)] {
        let (mut router, now) = active(&config(100));
        hear(&mut router, now + SECOND / 2, &config(200), source, priority);
        assert_eq!(router.state(), State::Backup);
        assert_eq!(router.poll_timeout(), Some(now + SECOND / 2 + router.master_down_interval()));
    }
}

#[test]
fn s6_4_3_a_master_gives_way_to_the_better__not_otherwise() {
    for (source, priority) in [(greater(V4), 99), (greater(V4), 1), (lesser(V4), 100), (lesser(V4), 99)] {
        let (mut router, now) = active(&config(100));
        hear(&mut router, now + SECOND / 2, &config(200), source, priority);
        assert_eq!((router.state(), router.poll_timeout()), (State::Active, Some(now + SECOND)));
    }
}

/// A master drops adverts that lose against it, and says nothing.
#[test]
fn s6_4_3_a_master_drops_what_loses__done() {
    for (source, priority) in [(greater(V4), 99), (greater(V4), 1), (lesser(V4), 100)] {
        let (mut router, now) = active(&config(100));
        let before = router.essence(now);
        hear(&mut router, now, &config(200), source, priority);
        assert_eq!(router.essence(now), before);
        assert_eq!(actions(&mut router), [""; 0]);
    }
}

#[test]
fn s6_4_3_a_master_drops_what_loses__not_otherwise() {
    let (mut router, now) = active(&config(100));
    hear(&mut router, now, &config(200), greater(V4), 100);
    assert_eq!(router.state(), State::Backup, "this one wins");
    let (mut router, now) = active(&Config { losing_advert: LosingAdvert::Answer, ..config(100) });
    hear(&mut router, now + SECOND / 2, &config(200), greater(V4), 99);
    assert_eq!(actions(&mut router), ["advertise 100"], "told to answer, as version 3 does");
}

/// A packet of another version than 2 is dropped.
#[test]
fn s7_1_the_version_is_2__accepted() {
    takes(&started(&config(100)), &meta(&config(200), peer()), &message(&config(200), peer(), 200));
}

#[test]
fn s7_1_the_version_is_2__refused() {
    let good = message(&config(200), peer(), 200);
    for version in (0..16).filter(|&version| version != 2) {
        let bad = changed(&config(200), peer(), &good, &[(0, version << 4 | 1)]);
        drops(&started(&config(100)), &meta(&config(200), peer()), &bad, Discard::Version);
    }
}

/// A packet that is not complete, up to its authentication data, is dropped.
#[test]
fn s7_1_the_packet_is_complete__accepted() {
    let mut padded = message(&config(200), peer(), 200);
    takes(&started(&config(100)), &meta(&config(200), peer()), &padded);
    padded.resize(46, 0);
    takes(&started(&config(100)), &meta(&config(200), peer()), &padded);
}

#[test]
fn s7_1_the_packet_is_complete__refused() {
    let good = message(&config(200), peer(), 200);
    for length in 0..good.len() {
        drops(&started(&config(100)), &meta(&config(200), peer()), &good[..length], Discard::Length);
    }
}

/// A packet whose checksum is wrong is dropped.
#[test]
fn s7_1_the_checksum_is_right__accepted() {
    takes(&started(&config(100)), &meta(&config(200), peer()), &message(&config(200), peer(), 200));
}

#[test]
fn s7_1_the_checksum_is_right__refused() {
    let good = message(&config(200), peer(), 200);
    // Version, type and count come before; everything else the checksum guards.
    for bit in (8..good.len() * 8).filter(|bit| bit / 8 != 3) {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        drops(&started(&config(100)), &meta(&config(200), peer()), &bad, Discard::Checksum);
    }
}

/// A packet for another VRID is dropped.
#[test]
fn s7_1_the_vrid_is_configured__accepted() {
    takes(&started(&config(100)), &meta(&config(200), peer()), &message(&config(200), peer(), 200));
}

#[test]
fn s7_1_the_vrid_is_configured__refused() {
    for vrid in (1..=255).filter(|&vrid| vrid != 51) {
        let other = Config { vrid, ..config(200) };
        drops(&started(&config(100)), &meta(&other, peer()), &message(&other, peer(), 200), Discard::Vrid);
    }
}

/// The owner drops all adverts, if it is told to (`Owners::Ignore`); by default it hears them, as RFC 9568 has it since erratum
/// 8298, so that two owners do not both stay.
#[test]
fn s7_1_the_owner_hears_nobody__accepted() {
    takes(&started(&config(100)), &meta(&config(OWNER), peer()), &message(&config(OWNER), peer(), OWNER));
}

#[test]
fn s7_1_the_owner_hears_nobody__refused() {
    let (owner, _) = active(&Config { owners: Owners::Ignore, ..config(OWNER) });
    for priority in [0, 1, 254, 255] {
        let message = message(&config(200), peer(), priority);
        drops(&owner, &meta(&config(200), peer()), &message, Discard::Owner);
    }
}

/// The authentication must be the configured one, of type and content.
#[test]
fn s7_1_the_authentication_matches__accepted() {
    let auth = Auth::simple_text("secret");
    let other = Config { auth, ..config(200) };
    takes(&started(&Config { auth, ..config(100) }), &meta(&other, peer()), &message(&other, peer(), 200));
}

#[test]
fn s7_1_the_authentication_matches__refused() {
    let text = |text| Auth::simple_text(text);
    for (own, others, reason) in [
        (Auth::None, text("secret"), Discard::AuthMismatch),
        (text("secret"), Auth::None, Discard::AuthMismatch),
        (text("secret"), text("Secret"), Discard::AuthFailure),
        (text("secret"), text("secret2"), Discard::AuthFailure),
    ] {
        let other = Config { auth: others, ..config(200) };
        let router = started(&Config { auth: own, ..config(100) });
        // The conflict is said; nothing else happens.
        drops(&router, &meta(&other, peer()), &message(&other, peer(), 200), reason);
    }
}

/// A packet of another interval is dropped.
#[test]
fn s7_1_the_interval_is_the_own__accepted() {
    for seconds in [1, 7, 255] {
        let interval = Interval::from_seconds(seconds).unwrap();
        let other = Config { interval, ..config(200) };
        takes(
            &started(&Config { interval, ..config(100) }),
            &meta(&other, peer()),
            &message(&other, peer(), 200),
        );
    }
}

#[test]
fn s7_1_the_interval_is_the_own__refused() {
    let good = message(&config(200), peer(), 200);
    for seconds in (0..=255).filter(|&seconds| seconds != 1) {
        let bad = changed(&config(200), peer(), &good, &[(5, seconds)]);
        drops(&started(&config(100)), &meta(&config(200), peer()), &bad, Discard::Interval);
    }
}

/// If the address lists are compared (`AddressCheck::Drop`), a packet of another list is dropped, unless it is the owner's.
#[test]
fn s7_1_the_addresses_match__accepted() {
    let router = started(&Config { address_check: AddressCheck::Drop, ..config(100) });
    let mut other = config(200);
    other.addresses.reverse();
    takes(&router, &meta(&other, peer()), &message(&other, peer(), 200));
    other.addresses.truncate(1);
    takes(&router, &meta(&other, peer()), &message(&other, peer(), OWNER));
}

#[test]
fn s7_1_the_addresses_match__refused() {
    let router = started(&Config { address_check: AddressCheck::Drop, ..config(100) });
    let mut other = config(200);
    other.addresses.truncate(1);
    drops(&router, &meta(&other, peer()), &message(&other, peer(), 254), Discard::AddressList);
}

/// Another interval, and other addresses, should be logged: they are said, as conflicts.
#[test]
fn s7_1_a_mismatch_is_said__done() {
    let mut others = config(200);
    others.addresses.truncate(1);
    let slow = Config { interval: interval(200), ..config(200) };
    for address_check in [AddressCheck::Report, AddressCheck::Drop] {
        let mut router = started(&Config { address_check, ..config(100) });
        for (other, conflict) in [(&others, Conflict::AddressList), (&slow, Conflict::Interval)] {
            let _ = router.handle_packet(START, &meta(other, peer()), &message(other, peer(), 200));
            assert_eq!(conflicts(&mut router), [conflict]);
        }
    }
}

#[test]
fn s7_1_a_mismatch_is_said__not_otherwise() {
    let mut router = started(&config(100));
    hear(&mut router, START, &config(200), peer(), 200);
    assert_eq!(conflicts(&mut router), []);
}

/// An advert is sent with every field filled in and its checksum made last.
#[test]
fn s7_2_an_advert_is_complete__done() {
    let mut router = started(&Config { interval: interval(700), ..config(OWNER) });
    let transmit = transmits(&mut router)[0];
    let mut buffer = [0xff; MAX_MESSAGE];
    let message = router.encode(&transmit, &mut buffer).unwrap();
    let expected = [0x21, 51, 255, 2, 0, 7, 0xbc, 0xdf, 10, 9, 0, 100, 10, 9, 0, 101, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(message[..6], expected[..6]);
    assert_eq!(message[8..], expected[8..]);
    takes(
        &started(&Config { interval: interval(700), ..config(100) }),
        &meta(&config(OWNER), peer()),
        message,
    );
}

#[test]
fn s7_2_an_advert_is_complete__not_otherwise() {
    let mut router = started(&config(OWNER));
    let transmit = transmits(&mut router)[0];
    assert!(router.encode(&transmit, &mut [0; 23]).is_err(), "nothing is cut off");
}

/// The virtual router's MAC address is 00-00-5E-00-01 and the VRID.
#[test]
fn s7_3_the_virtual_mac__done() {
    for vrid in 1..=255 {
        assert_eq!(V4.virtual_mac(vrid), [0x00, 0x00, 0x5e, 0x00, 0x01, vrid]);
    }
}

#[test]
fn s7_3_the_virtual_mac__not_otherwise() {
    assert_ne!(V4.virtual_mac(1), Family::Ipv6.virtual_mac(1));
    assert_eq!(V4.virtual_mac(1)[0] & 1, 0, "it is no group's");
}

/// No gratuitous ARP is sent before the address is there (and, with a VMAC, its interface: instances wait for that).
#[test]
fn s8_2_an_address_comes_before_its_announcement__done() {
    let (mut router, now) = (started(&config(100)), START + 60 * SECOND);
    router.handle_event(now, Event::TakeOver);
    let actions = actions(&mut router);
    for address in ["10.9.0.100", "10.9.0.101"] {
        let add = actions.iter().position(|action| *action == format!("add {address}/24"));
        let announce = actions.iter().position(|action| *action == format!("arp {address}"));
        assert!(add.is_some() && add < announce, "{actions:?}");
    }
}

#[test]
fn s8_2_an_address_comes_before_its_announcement__not_otherwise() {
    let (mut router, now) = (started(&config(100)), START + 60 * SECOND);
    router.handle_event(now, Event::TakeOver);
    while let Some(action) = router.poll_action() {
        assert!(!matches!(action, Action::GratuitousArp(_)), "{action:?}");
        if matches!(action, Action::AddAddress(_)) {
            router.handle_failure(now, &action);
        }
    }
}

/// A master that puts an address on its interface should announce it.
#[test]
fn s8_2_an_address_that_is_put_back_is_announced__done() {
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::AddressLost(ip("10.9.0.101")));
    assert_eq!(actions(&mut router), ["add 10.9.0.101/24", "arp 10.9.0.101"]);
}

#[test]
fn s8_2_an_address_that_is_put_back_is_announced__not_otherwise() {
    let (mut router, now) = active(&config(100));
    router.handle_event(now, Event::AddressLost(ip("10.9.0.5")));
    assert_eq!(actions(&mut router), [""; 0], "it is not virtual");
}
