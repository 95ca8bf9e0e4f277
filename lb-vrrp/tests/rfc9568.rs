//! Each requirement of RFC 9568 (version 3) that a program can meet or break, with a test that it is met where it holds, and one
//! that nothing else passes for it. The names and first comments make the table of the `conformance` page.

#![allow(
    non_snake_case,
    reason = "two underscores part the requirement from the side of it that a test shows"
)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{
    INSTANT, SECOND, START, actions, active, changed, conflicts, drops, greater, hear, interval, ip, lesser,
    message, meta, own, said, started, takes, transmits,
};
use lb_vrrp::config::{AddressCheck, LosingAdvert, OWNER, Owners};
use lb_vrrp::event::{Conflict, Faults, Notification};
use lb_vrrp::timer::{master_down_interval, skew_time};
use lb_vrrp::wire::{ChecksumMode, Discard, Family, Interval, MAX_MESSAGE, Version};
use lb_vrrp::{Action, Config, ConfigError, Event, State, VirtualRouter};

const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn config(family: Family, priority: u8) -> Config {
    common::config(Version::V3, family, priority)
}

fn slow(family: Family, priority: u8) -> Config {
    Config { interval: interval(300), ..config(family, priority) }
}

/// A good advert of a better router, to be spoilt.
fn good(family: Family) -> Vec<u8> {
    message(&config(family, 200), greater(family), 200)
}

fn takes_advert(family: Family, message: &[u8]) {
    takes(&started(&config(family, 100)), &meta(&config(family, 200), greater(family)), message);
}

fn drops_advert(family: Family, message: &[u8], reason: Discard) {
    drops(&started(&config(family, 100)), &meta(&config(family, 200), greater(family)), message, reason);
}

fn words(family: Family, priority: u8) -> [String; 5] {
    let (first, second, prefix, announce) = match family {
        Family::Ipv4 => ("10.9.0.100", "10.9.0.101", 24, "arp"),
        Family::Ipv6 => ("fe80::100", "2001:db8::100", 64, "na"),
    };
    [
        format!("advertise {priority}"),
        format!("add {first}/{prefix}"),
        format!("add {second}/{prefix}"),
        format!("{announce} {first}"),
        format!("{announce} {second}"),
    ]
}

/// Adverts come from the interface's primary IPv4, or link-local IPv6 (§5.1.2.1), address.
#[test]
fn s5_1_1_1_the_source_is_the_own_address__done() {
    for family in BOTH {
        let mut router = started(&config(family, OWNER));
        assert!(transmits(&mut router).iter().all(|transmit| transmit.source == own(family)));
    }
}

#[test]
fn s5_1_1_1_the_source_is_the_own_address__not_otherwise() {
    for (family, other) in [
        (Family::Ipv4, None),
        (Family::Ipv4, Some("fe80::1")),
        (Family::Ipv6, Some("10.9.0.5")),
        (Family::Ipv6, Some("2001:db8::5")),
    ] {
        let mut router = VirtualRouter::new(config(family, OWNER), other.map(ip)).unwrap();
        router.handle_event(START, Event::Startup);
        assert_eq!((router.state(), actions(&mut router)), (State::Initialize, vec![]));
    }
    // Only adverts to single peers, which no RFC has, may come from a global address.
    let group = config(Family::Ipv6, OWNER);
    let peers = Config { unicast_peers: vec![ip("2001:db8::6")], ..group.clone() };
    let mut router = VirtualRouter::new(peers, Some(ip("2001:db8::5"))).unwrap();
    router.handle_event(START, Event::Startup);
    assert_eq!(transmits(&mut router)[0].source, ip("2001:db8::5"));
    router.reconfigure(START, group).unwrap();
    assert_eq!((router.state(), router.faults()), (State::Initialize, Faults::SOURCE));
    assert_eq!(transmits(&mut router), []);
    router.handle_event(START, Event::Source(Some(own(Family::Ipv6))));
    assert_eq!(transmits(&mut router)[0].source, own(Family::Ipv6));
}

/// Adverts go to 224.0.0.18 or ff02::12 (§5.1.2.2).
#[test]
fn s5_1_1_2_the_destination_is_the_group__done() {
    for (family, group) in [(Family::Ipv4, "224.0.0.18"), (Family::Ipv6, "ff02::12")] {
        let mut router = started(&config(family, OWNER));
        assert_eq!(transmits(&mut router)[0].destination, ip(group));
    }
}

#[test]
fn s5_1_1_2_the_destination_is_the_group__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_timeout(now + SECOND);
        router.handle_event(now + SECOND, Event::Shutdown);
        assert!(transmits(&mut router).iter().all(|transmit| transmit.destination == family.multicast()));
    }
}

/// A packet whose TTL or hop limit (§5.1.2.3) is not 255 is dropped.
#[test]
fn s5_1_1_3_the_ttl_is_255__accepted() {
    BOTH.into_iter().for_each(|family| takes_advert(family, &good(family)));
}

#[test]
fn s5_1_1_3_the_ttl_is_255__refused() {
    for family in BOTH {
        for ttl in 0..255 {
            let mut meta = meta(&config(family, 200), greater(family));
            meta.ttl = ttl;
            drops(&started(&config(family, 100)), &meta, &good(family), Discard::Ttl);
        }
    }
}

/// A packet of an unknown type is dropped.
#[test]
fn s5_2_2_the_type_is_advertisement__accepted() {
    for family in BOTH {
        assert_eq!(good(family)[0], 0x31);
        takes_advert(family, &good(family));
    }
}

#[test]
fn s5_2_2_the_type_is_advertisement__refused() {
    for family in BOTH {
        for kind in (0..16).filter(|&kind| kind != 1) {
            let bad = changed(&config(family, 200), greater(family), &good(family), &[(0, 0x30 | kind)]);
            drops_advert(family, &bad, Discard::Type);
        }
    }
}

/// A VRID is 1 to 255.
#[test]
fn s5_2_3_a_vrid_is_1_to_255__accepted() {
    for family in BOTH {
        for vrid in 1..=255 {
            assert_eq!(Config { vrid, ..config(family, 100) }.validate(), Ok(()));
        }
    }
}

#[test]
fn s5_2_3_a_vrid_is_1_to_255__refused() {
    for family in BOTH {
        assert_eq!(Config { vrid: 0, ..config(family, 100) }.validate(), Err(ConfigError::Vrid));
    }
}

/// The owner of the addresses has priority 255, and only it.
#[test]
fn s5_2_4_the_owner_has_priority_255__done() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, OWNER));
        router.handle_event(now, Event::Priority(3));
        router.handle_timeout(now + SECOND);
        assert_eq!(actions(&mut router), ["advertise 255"]);
    }
}

#[test]
fn s5_2_4_the_owner_has_priority_255__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::Priority(255));
        router.handle_timeout(now + SECOND);
        assert_eq!(actions(&mut router), ["advertise 254"]);
    }
}

/// Other routers have a priority of 1 to 254; 0 only says that the active router leaves.
#[test]
fn s5_2_4_a_backup_has_priority_1_to_254__accepted() {
    for family in BOTH {
        for priority in [1, 100, 254] {
            assert_eq!(config(family, priority).validate(), Ok(()));
        }
    }
}

#[test]
fn s5_2_4_a_backup_has_priority_1_to_254__refused() {
    for family in BOTH {
        assert_eq!(config(family, 0).validate(), Err(ConfigError::Priority));
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::Priority(0));
        router.handle_timeout(now + SECOND);
        assert_eq!(actions(&mut router), ["advertise 1"]);
    }
}

/// An advert without addresses is ignored (§7.1 too, by erratum 8299).
#[test]
fn s5_2_5_an_advert_has_addresses__accepted() {
    for family in BOTH {
        let mut other = config(family, 200);
        other.addresses.truncate(1);
        takes_advert(family, &message(&other, greater(family), 200));
    }
}

#[test]
fn s5_2_5_an_advert_has_addresses__refused() {
    for family in BOTH {
        let empty = changed(&config(family, 200), greater(family), &good(family)[..8], &[(3, 0)]);
        drops_advert(family, &empty, Discard::NoAddresses);
        let mut nothing = config(family, 100);
        nothing.addresses.clear();
        assert_eq!(nothing.validate(), Err(ConfigError::NoAddresses));
    }
}

/// The reserved bits are sent as zeros and not looked at.
#[test]
fn s5_2_6_reserved_bits_are_void__done() {
    for family in BOTH {
        let longest = Config { interval: Interval::MAX_V3, ..config(family, 200) };
        assert_eq!(message(&longest, greater(family), 200)[4..6], [0x0f, 0xff]);
    }
}

#[test]
fn s5_2_6_reserved_bits_are_void__not_otherwise() {
    for family in BOTH {
        for reserved in 0..16 {
            let message =
                changed(&config(family, 200), greater(family), &good(family), &[(4, reserved << 4)]);
            takes_advert(family, &message);
        }
    }
}

/// An interval is 1 to 4095 centiseconds, 100 if nothing is said (§6.1 and, for zero, §7.1 too, by erratum 8301).
#[test]
fn s5_2_7_an_interval_is_1_to_4095_cs__accepted() {
    for family in BOTH {
        assert_eq!(config(family, 100).interval, interval(100));
        for centiseconds in [1, 2, 99, 100, 255, 256, 4095] {
            let other = Config { interval: interval(centiseconds), ..config(family, 200) };
            assert_eq!(other.validate(), Ok(()));
            let mut router = started(&config(family, 100));
            hear(&mut router, START, &other, greater(family), 200);
            assert_eq!(router.interval(), interval(centiseconds));
        }
    }
}

#[test]
fn s5_2_7_an_interval_is_1_to_4095_cs__refused() {
    for family in BOTH {
        let zero = changed(&config(family, 200), greater(family), &good(family), &[(4, 0), (5, 0)]);
        drops_advert(family, &zero, Discard::Interval);
        let long = Config { interval: interval(4096), ..config(family, 100) };
        assert!(matches!(long.validate(), Err(ConfigError::Interval { .. })));
        assert!(Interval::from_centiseconds(0).is_err());
    }
}

/// The checksum is over the message for IPv4 (`ChecksumMode::MessageOnly`; older implementations want a pseudo-header, hence
/// the default `Either`), over pseudo-header and message for IPv6.
#[test]
fn s5_2_8_the_checksum__done() {
    let mut letter = config(Family::Ipv4, 200);
    letter.checksum = ChecksumMode::MessageOnly;
    let source = greater(Family::Ipv4);
    let message = message(&letter, source, 200);
    let sum: u32 =
        message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    let router = started(&Config { checksum: ChecksumMode::MessageOnly, ..config(Family::Ipv4, 100) });
    takes(&router, &meta(&letter, source), &message);
    takes_advert(Family::Ipv4, &message);
    takes_advert(Family::Ipv6, &good(Family::Ipv6));
}

#[test]
fn s5_2_8_the_checksum__not_otherwise() {
    let router = started(&Config { checksum: ChecksumMode::MessageOnly, ..config(Family::Ipv4, 100) });
    let source = greater(Family::Ipv4);
    drops(&router, &meta(&config(Family::Ipv4, 200), source), &good(Family::Ipv4), Discard::ChecksumMode);
    // The pseudo-header of IPv6 holds the addresses: from elsewhere, or to elsewhere, the sum is wrong.
    let six = Family::Ipv6;
    let router = started(&config(six, 100));
    drops(&router, &meta(&config(six, 200), lesser(six)), &good(six), Discard::Checksum);
    let mut elsewhere = meta(&config(six, 200), greater(six));
    elsewhere.destination = ip("ff02::1");
    drops(&router, &elsewhere, &good(six), Discard::Checksum);
}

/// The first IPv6 address is the virtual router's link-local one (§6.1, and §7.1 by erratum 8300, too).
#[test]
fn s5_2_9_the_first_ipv6_address_is_link_local__accepted() {
    let good = good(Family::Ipv6);
    assert_eq!(good[8..10], [0xfe, 0x80]);
    takes_advert(Family::Ipv6, &good);
}

#[test]
fn s5_2_9_the_first_ipv6_address_is_link_local__refused() {
    let mut global = config(Family::Ipv6, 200);
    global.addresses.reverse();
    assert!(matches!(global.validate(), Err(ConfigError::LinkLocal { .. })));
    global.require_link_local = false;
    drops_advert(Family::Ipv6, &message(&global, greater(Family::Ipv6), 200), Discard::LinkLocal);
}

/// The addresses have one family, that of the packet which lists them; the virtual routers of the families are independent.
#[test]
fn s5_2_9_the_addresses_are_of_the_packets_family__accepted() {
    for family in BOTH {
        assert_eq!(good(family).len(), 8 + 2 * family.octets());
        takes_advert(family, &good(family));
    }
}

#[test]
fn s5_2_9_the_addresses_are_of_the_packets_family__refused() {
    for (ours, theirs) in [(Family::Ipv4, Family::Ipv6), (Family::Ipv6, Family::Ipv4)] {
        let mut mixed = config(ours, 100);
        mixed.addresses.push(config(theirs, 100).addresses[0]);
        assert!(matches!(mixed.validate(), Err(ConfigError::MixedFamilies { .. })));
        // The same VRID in the other family is another virtual router.
        let other = meta(&config(theirs, 200), greater(theirs));
        drops(&started(&config(ours, 100)), &other, &good(theirs), Discard::Vrid);
    }
    // IPv4 addresses in IPv6 are too short.
    drops_advert(Family::Ipv6, &good(Family::Ipv4), Discard::Length);
}

/// The skew time is (256 − priority) / 256 of the active router's interval.
#[test]
fn s6_1_the_skew_time__done() {
    for priority in 1..=255_u64 {
        for centiseconds in [1, 100, 4095] {
            let skew = skew_time(Version::V3, priority as u8, interval(centiseconds)).as_micros() as u64;
            assert_eq!(skew, (256 - priority) * u64::from(centiseconds) * 10_000 / 256);
        }
    }
}

#[test]
fn s6_1_the_skew_time__not_otherwise() {
    let fast = skew_time(Version::V3, 100, interval(1));
    assert_eq!(fast.as_micros(), 6_093, "of the interval, not of a second");
}

/// The active-down interval is three of the active router's intervals and the skew time; until one is heard, of one's own.
#[test]
fn s6_1_the_active_down_interval__done() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        assert_eq!(router.poll_timeout(), Some(START + Duration::from_micros(3_609_375)));
        hear(&mut router, START, &slow(family, 200), greater(family), 200);
        assert_eq!(router.poll_timeout(), Some(START + 3 * Duration::from_micros(3_609_375)));
    }
}

#[test]
fn s6_1_the_active_down_interval__not_otherwise() {
    for priority in 2..=255 {
        let better = master_down_interval(Version::V3, priority, interval(1));
        assert!(
            better < master_down_interval(Version::V3, priority - 1, interval(1)),
            "a better one is quicker"
        );
    }
}

/// A backup takes over from an active router of lower priority, unless told not to; the owner always does.
#[test]
fn s6_1_the_preempt_mode__done() {
    for family in BOTH {
        assert!(config(family, 100).preempt, "by default");
        let mut router = started(&config(family, 100));
        hear(&mut router, START + 3 * SECOND, &config(family, 90), greater(family), 90);
        router.handle_timeout(START + Duration::from_micros(3_609_375));
        assert_eq!(router.state(), State::Active);
        assert_eq!(started(&Config { preempt: false, ..config(family, OWNER) }).state(), State::Active);
    }
}

#[test]
fn s6_1_the_preempt_mode__not_otherwise() {
    for family in BOTH {
        let mut router = started(&Config { preempt: false, ..config(family, 100) });
        for seconds in 1..60 {
            hear(&mut router, START + seconds * SECOND, &config(family, 90), greater(family), 90);
            router.handle_timeout(START + seconds * SECOND);
            assert_eq!(router.state(), State::Backup);
        }
    }
}

/// The owner starts as active: it advertises, announces each address by ARP or neighbour advertisement, and times the next
/// advert.
#[test]
fn s6_4_1_the_owner_starts_as_active__done() {
    for family in BOTH {
        let mut router = started(&config(family, OWNER));
        assert_eq!(actions(&mut router), words(family, OWNER));
        assert_eq!((router.state(), router.poll_timeout()), (State::Active, Some(START + SECOND)));
    }
}

#[test]
fn s6_4_1_the_owner_starts_as_active__not_otherwise() {
    for family in BOTH {
        let mut router = VirtualRouter::new(config(family, OWNER), Some(own(family))).unwrap();
        router.handle_event(START, Event::Fault(Faults::LINK));
        router.handle_event(START, Event::Startup);
        assert_eq!((router.state(), actions(&mut router)), (State::Initialize, vec![]));
    }
}

/// Others start as backups, with their own interval for the active router's.
#[test]
fn s6_4_1_others_start_as_backups__done() {
    for family in BOTH {
        let router = started(&slow(family, 100));
        assert_eq!((router.state(), router.interval()), (State::Backup, interval(300)));
        assert_eq!(router.poll_timeout(), Some(START + router.master_down_interval()));
    }
}

#[test]
fn s6_4_1_others_start_as_backups__not_otherwise() {
    for family in BOTH {
        assert_eq!(actions(&mut started(&config(family, 254))), [""; 0], "and say nothing");
    }
}

/// A backup answers neither ARP nor neighbour solicitations for the addresses, nor takes packets for them: they are not on its
/// interface.
#[test]
fn s6_4_2_a_backup_does_not_have_the_addresses__done() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        hear(&mut router, now, &config(family, 200), greater(family), 200);
        assert!(actions(&mut router).iter().all(|word| word.starts_with("remove ")));
        assert_eq!(router.present_addresses().count(), 0);
    }
}

#[test]
fn s6_4_2_a_backup_does_not_have_the_addresses__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        router.handle_event(START, Event::AddressLost(router.config().addresses[0].address));
        assert_eq!(actions(&mut router), [""; 0], "and does not put them back");
    }
}

/// A backup that is shut down stops its timer and goes to Initialize.
#[test]
fn s6_4_2_a_backup_shuts_down__done() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        router.handle_event(START + SECOND, Event::Shutdown);
        assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
    }
}

#[test]
fn s6_4_2_a_backup_shuts_down__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        router.handle_event(START + SECOND, Event::Shutdown);
        router.handle_timeout(START + 60 * SECOND);
        assert_eq!((router.state(), actions(&mut router)), (State::Initialize, vec![]), "without a word");
    }
}

/// When the active-down timer fires, a backup advertises, announces each address, and is active with its own interval.
#[test]
fn s6_4_2_a_backup_takes_over_when_its_timer_fires__done() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        hear(&mut router, START, &slow(family, 200), greater(family), 200);
        let now = router.poll_timeout().unwrap();
        router.handle_timeout(now);
        assert_eq!(actions(&mut router), words(family, 100));
        assert_eq!((router.state(), router.interval()), (State::Active, interval(100)));
        assert_eq!(router.poll_timeout(), Some(now + SECOND));
    }
}

#[test]
fn s6_4_2_a_backup_takes_over_when_its_timer_fires__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        router.handle_timeout(router.poll_timeout().unwrap() - INSTANT);
        assert_eq!((router.state(), actions(&mut router)), (State::Backup, vec![]));
    }
}

/// When the active router leaves by priority 0, a backup waits only for its skew time.
#[test]
fn s6_4_2_priority_0_shortens_the_wait__done() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        hear(&mut router, START, &slow(family, 200), greater(family), 200);
        hear(&mut router, START + SECOND, &slow(family, 200), greater(family), 0);
        assert_eq!(router.poll_timeout(), Some(START + SECOND + 3 * Duration::from_micros(609_375)));
    }
}

#[test]
fn s6_4_2_priority_0_shortens_the_wait__not_otherwise() {
    for priority in 1..=255 {
        let mut router = started(&config(Family::Ipv4, 100));
        let before = router.poll_timeout();
        hear(&mut router, START + SECOND, &config(Family::Ipv4, 200), greater(Family::Ipv4), priority);
        assert!(router.poll_timeout() >= before);
    }
}

/// From an advert of the same or a higher priority, or any without preemption, a backup learns the interval, and waits anew.
#[test]
fn s6_4_2_a_respected_advert_teaches_its_interval__done() {
    for family in BOTH {
        for (preempt, priority) in [(true, 100), (true, 101), (true, 255), (false, 1), (false, 255)] {
            let mut router = started(&Config { preempt, ..config(family, 100) });
            hear(&mut router, START + SECOND, &slow(family, 200), lesser(family), priority);
            assert_eq!(router.interval(), interval(300));
            let down = master_down_interval(Version::V3, 100, interval(300));
            assert_eq!(router.poll_timeout(), Some(START + SECOND + down));
        }
    }
}

#[test]
fn s6_4_2_a_respected_advert_teaches_its_interval__not_otherwise() {
    for family in BOTH {
        for priority in [1, 50, 99] {
            let mut router = started(&config(family, 100));
            let before = router.essence(START);
            hear(&mut router, START, &slow(family, 200), greater(family), priority);
            assert_eq!(router.essence(START), before, "an advert of lower priority changes nothing");
        }
    }
}

/// A backup that preempts drops adverts of lower priority: its wait goes on.
#[test]
fn s6_4_2_a_lower_priority_is_not_heard__done() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        let deadline = router.poll_timeout().unwrap();
        for seconds in 1..=3 {
            hear(&mut router, START + seconds * SECOND, &slow(family, 99), greater(family), 99);
            assert_eq!(router.poll_timeout(), Some(deadline));
        }
        router.handle_timeout(deadline);
        assert_eq!(router.state(), State::Active);
    }
}

#[test]
fn s6_4_2_a_lower_priority_is_not_heard__not_otherwise() {
    for family in BOTH {
        for (preempt, priority) in [(true, 100), (false, 99)] {
            let mut router = started(&Config { preempt, ..config(family, 100) });
            let deadline = router.poll_timeout().unwrap();
            hear(&mut router, START + 3 * SECOND, &config(family, 99), greater(family), priority);
            router.handle_timeout(deadline);
            assert_eq!((router.state(), actions(&mut router)), (State::Backup, vec![]));
        }
    }
}

/// An active router answers for the addresses and takes packets for them, as the owner must and others may (accept mode): they
/// are on its interface.
#[test]
fn s6_4_3_an_active_router_has_the_addresses__done() {
    for family in BOTH {
        assert_eq!(active(&config(family, 100)).0.present_addresses().count(), 2);
    }
}

#[test]
fn s6_4_3_an_active_router_has_the_addresses__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::Shutdown);
        actions(&mut router);
        assert_eq!(router.present_addresses().count(), 0);
    }
}

/// An active router that is shut down says so by priority 0 and goes to Initialize.
#[test]
fn s6_4_3_an_active_router_leaves_with_priority_0__done() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::Shutdown);
        assert_eq!(actions(&mut router)[0], "advertise 0");
        assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
    }
}

#[test]
fn s6_4_3_an_active_router_leaves_with_priority_0__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::Shutdown);
        actions(&mut router);
        router.handle_event(now, Event::Shutdown);
        router.handle_timeout(now + 60 * SECOND);
        assert_eq!(actions(&mut router), [""; 0], "once");
    }
}

/// An active router advertises each interval.
#[test]
fn s6_4_3_an_active_router_advertises_each_interval__done() {
    for centiseconds in [1, 100, 4095] {
        let interval = interval(centiseconds);
        let (mut router, mut now) = active(&Config { interval, ..config(Family::Ipv4, 100) });
        for _ in 0..100 {
            assert_eq!(router.poll_timeout(), Some(now + interval.duration()));
            now = now + interval.duration();
            router.handle_timeout(now);
            assert_eq!(actions(&mut router), ["advertise 100"]);
        }
    }
}

#[test]
fn s6_4_3_an_active_router_advertises_each_interval__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_timeout(now + SECOND - INSTANT);
        assert_eq!(actions(&mut router), [""; 0]);
    }
}

/// An active router that hears priority 0 advertises at once.
#[test]
fn s6_4_3_an_active_router_answers_priority_0__done() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        hear(&mut router, now + SECOND / 2, &config(family, 200), greater(family), 0);
        assert_eq!(actions(&mut router), ["advertise 100"]);
        assert_eq!(router.poll_timeout(), Some(now + SECOND / 2 + SECOND));
    }
}

#[test]
fn s6_4_3_an_active_router_answers_priority_0__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        hear(&mut router, now + SECOND / 2, &config(family, 200), greater(family), 200);
        assert!(!actions(&mut router).iter().any(|word| word.starts_with("advertise")));
    }
}

/// An active router gives way to a higher priority, and to the same from a greater address, and learns the interval.
#[test]
fn s6_4_3_an_active_router_gives_way_to_the_better__done() {
    for family in BOTH {
        for (source, priority) in [(lesser(family), 101), (greater(family), 101), (greater(family), 100)] {
            let (mut router, now) = active(&config(family, 100));
            hear(&mut router, now + SECOND / 2, &slow(family, 200), source, priority);
            assert_eq!((router.state(), router.interval()), (State::Backup, interval(300)));
            assert_eq!(router.poll_timeout(), Some(now + SECOND / 2 + router.master_down_interval()));
        }
    }
}

#[test]
fn s6_4_3_an_active_router_gives_way_to_the_better__not_otherwise() {
    for family in BOTH {
        for (source, priority) in [(greater(family), 99), (greater(family), 1), (lesser(family), 100)] {
            let (mut router, now) = active(&config(family, 100));
            hear(&mut router, now + SECOND / 2, &slow(family, 200), source, priority);
            assert_eq!((router.state(), router.interval()), (State::Active, interval(100)));
        }
    }
}

/// Addresses compare as unsigned numbers in network byte order.
#[test]
fn s6_4_3_addresses_compare_as_unsigned_numbers__done() {
    let mut router = VirtualRouter::new(config(Family::Ipv4, 100), Some(ip("10.9.0.5"))).unwrap();
    router.handle_event(START, Event::Startup);
    let now = router.poll_timeout().unwrap();
    router.handle_timeout(now);
    hear(&mut router, now, &config(Family::Ipv4, 100), ip("200.0.0.1"), 100);
    assert_eq!(router.state(), State::Backup, "200 is not negative");
}

#[test]
fn s6_4_3_addresses_compare_as_unsigned_numbers__not_otherwise() {
    let (mut router, now) = active(&config(Family::Ipv4, 100));
    hear(&mut router, now, &config(Family::Ipv4, 100), ip("9.255.255.255"), 100);
    assert_eq!(router.state(), State::Active, "the first byte decides");
}

/// An active router that hears an advert that loses against it drops it and advertises at once, unless it has advertised in
/// the last 10 ms (of intervals below 20 ms: in the last half of one).
#[test]
fn s6_4_3_an_active_router_asserts_itself__done() {
    for family in BOTH {
        for (source, priority) in [(greater(family), 99), (lesser(family), 100)] {
            let (mut router, now) = active(&config(family, 100));
            hear(&mut router, now + SECOND / 2, &config(family, 200), source, priority);
            assert_eq!(actions(&mut router), ["advertise 100"]);
        }
    }
}

#[test]
fn s6_4_3_an_active_router_asserts_itself__not_otherwise() {
    let family = Family::Ipv4;
    // A flood of such adverts is not answered by a flood.
    let (mut router, now) = active(&config(family, 100));
    let mut answers = 0;
    for millis in 0..100 {
        hear(&mut router, now + Duration::from_millis(millis), &config(family, 90), greater(family), 90);
        answers += actions(&mut router).len();
    }
    assert!(answers <= 10, "{answers} answers to 100 adverts in 100 ms");
    let (mut silent, now) = active(&Config { losing_advert: LosingAdvert::Discard, ..config(family, 100) });
    hear(&mut silent, now + SECOND / 2, &config(family, 90), greater(family), 90);
    assert_eq!(actions(&mut silent), [""; 0], "told to be silent");
}

/// A packet of another version than 3 is dropped.
#[test]
fn s7_1_the_version_is_3__accepted() {
    BOTH.into_iter().for_each(|family| takes_advert(family, &good(family)));
}

#[test]
fn s7_1_the_version_is_3__refused() {
    for family in BOTH {
        for version in (0..16).filter(|&version| version != 3) {
            let bad = changed(&config(family, 200), greater(family), &good(family), &[(0, version << 4 | 1)]);
            drops_advert(family, &bad, Discard::Version);
        }
    }
    let two = common::config(Version::V2, Family::Ipv4, 200);
    drops_advert(Family::Ipv4, &message(&two, greater(Family::Ipv4), 200), Discard::Version);
}

/// A packet that is not complete is dropped.
#[test]
fn s7_1_the_packet_is_complete__accepted() {
    for family in BOTH {
        let mut padded = good(family);
        padded.resize(60, 0);
        takes_advert(family, &padded);
    }
}

#[test]
fn s7_1_the_packet_is_complete__refused() {
    for family in BOTH {
        for length in 0..good(family).len() {
            drops_advert(family, &good(family)[..length], Discard::Length);
        }
    }
}

/// A packet whose checksum is wrong is dropped.
#[test]
fn s7_1_the_checksum_is_right__accepted() {
    BOTH.into_iter().for_each(|family| takes_advert(family, &good(family)));
}

#[test]
fn s7_1_the_checksum_is_right__refused() {
    for family in BOTH {
        // Version, type and count come before; everything else the checksum guards.
        for bit in (8..good(family).len() * 8).filter(|bit| bit / 8 != 3) {
            let mut bad = good(family);
            bad[bit / 8] ^= 1 << (bit % 8);
            drops_advert(family, &bad, Discard::Checksum);
        }
    }
}

/// A packet for another VRID is dropped.
#[test]
fn s7_1_the_vrid_is_configured__accepted() {
    BOTH.into_iter().for_each(|family| takes_advert(family, &good(family)));
}

#[test]
fn s7_1_the_vrid_is_configured__refused() {
    for family in BOTH {
        for vrid in (1..=255).filter(|&vrid| vrid != 51) {
            let other = Config { vrid, ..config(family, 200) };
            drops_advert(family, &message(&other, greater(family), 200), Discard::Vrid);
        }
    }
}

/// The owner hears other routers and says so, by erratum 8298; as published, it drops all adverts (`Owners::Ignore`).
#[test]
fn s7_1_the_owner_hears_others__accepted() {
    for family in BOTH {
        takes_advert(family, &message(&config(family, OWNER), greater(family), OWNER));
        let (mut owner, now) = active(&config(family, OWNER));
        hear(&mut owner, now, &config(family, 200), greater(family), 200);
        assert_eq!((owner.state(), conflicts(&mut owner)), (State::Active, vec![Conflict::SplitBrain]));
    }
}

#[test]
fn s7_1_the_owner_hears_others__refused() {
    for family in BOTH {
        let (owner, _) = active(&Config { owners: Owners::Ignore, ..config(family, OWNER) });
        for priority in [0, 1, 254, 255] {
            let (other, source) = (config(family, 200), greater(family));
            drops(&owner, &meta(&other, source), &message(&other, source, priority), Discard::Owner);
        }
    }
}

/// An interval other than one's own should be said, and the packet is not dropped.
#[test]
fn s7_1_another_interval_is_said__done() {
    for family in BOTH {
        let slow = slow(family, 200);
        takes_advert(family, &message(&slow, greater(family), 200));
        let mut router = started(&config(family, 100));
        hear(&mut router, START, &slow, greater(family), 200);
        assert!(said(&mut router).contains(&Notification::IntervalLearned(interval(300))));
    }
}

#[test]
fn s7_1_another_interval_is_said__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        hear(&mut router, START, &config(family, 200), greater(family), 200);
        let said = said(&mut router);
        assert!(!said.iter().any(|said| matches!(said, Notification::IntervalLearned(_))));
    }
}

/// Other addresses than one's own may be looked for; they should be said, and the packet is not dropped, unless the router is
/// told to (`AddressCheck::Drop`).
#[test]
fn s7_1_other_addresses_are_said__done() {
    for family in BOTH {
        let mut other = config(family, 200);
        other.addresses.truncate(1);
        takes_advert(family, &message(&other, greater(family), 200));
        let mut router = started(&config(family, 100));
        hear(&mut router, START, &other, greater(family), 200);
        assert_eq!(conflicts(&mut router), [Conflict::AddressList]);
    }
}

#[test]
fn s7_1_other_addresses_are_said__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        hear(&mut router, START, &config(family, 200), greater(family), 200);
        assert_eq!(conflicts(&mut router), []);
        let router = started(&Config { address_check: AddressCheck::Drop, ..config(family, 100) });
        let mut other = config(family, 200);
        other.addresses.truncate(1);
        let message = message(&other, greater(family), 200);
        drops(&router, &meta(&other, greater(family)), &message, Discard::AddressList);
    }
}

/// An advert is sent with every field filled in and its checksum made last.
#[test]
fn s7_2_an_advert_is_complete__done() {
    for family in BOTH {
        let mut router = started(&Config { interval: interval(0x123), ..config(family, OWNER) });
        let transmit = transmits(&mut router)[0];
        let mut buffer = [0xff; MAX_MESSAGE];
        let message = router.encode(&transmit, &mut buffer).unwrap();
        assert_eq!(message[..6], [0x31, 51, 255, 2, 0x01, 0x23]);
        assert_eq!(message.len(), 8 + 2 * family.octets());
        let from = meta(&config(family, OWNER), own(family));
        let mut neighbour = VirtualRouter::new(config(family, 100), Some(greater(family))).unwrap();
        neighbour.handle_event(START, Event::Startup);
        assert_eq!(neighbour.handle_packet(START, &from, message), Ok(()));
    }
}

#[test]
fn s7_2_an_advert_is_complete__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, OWNER));
        let transmit = transmits(&mut router)[0];
        let needed = 8 + 2 * family.octets();
        assert!(router.encode(&transmit, &mut vec![0; needed - 1]).is_err(), "nothing is cut off");
    }
}

/// The virtual router's MAC address is 00-00-5E-00-01 (IPv4) or 00-00-5E-00-02 (IPv6), and the VRID.
#[test]
fn s7_3_the_virtual_mac__done() {
    for vrid in 1..=255 {
        assert_eq!(Family::Ipv4.virtual_mac(vrid), [0x00, 0x00, 0x5e, 0x00, 0x01, vrid]);
        assert_eq!(Family::Ipv6.virtual_mac(vrid), [0x00, 0x00, 0x5e, 0x00, 0x02, vrid]);
    }
}

#[test]
fn s7_3_the_virtual_mac__not_otherwise() {
    for vrid in 1..=255 {
        assert_ne!(Family::Ipv4.virtual_mac(vrid), Family::Ipv6.virtual_mac(vrid));
        assert_eq!(Family::Ipv6.virtual_mac(vrid)[0] & 1, 0, "it is no group's");
    }
}

/// No gratuitous ARP and no neighbour advertisement (§8.2.2) is sent before the address is there (and, with a VMAC, its
/// interface: instances wait for that).
#[test]
fn s8_1_2_an_address_comes_before_its_announcement__done() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        router.handle_event(START, Event::TakeOver);
        let (actions, [_, first, second, announce_first, announce_second]) =
            (actions(&mut router), words(family, 100));
        for (add, announce) in [(first, announce_first), (second, announce_second)] {
            let add = actions.iter().position(|action| *action == add);
            let announce = actions.iter().position(|action| *action == announce);
            assert!(add.is_some() && add < announce, "{actions:?}");
        }
    }
}

#[test]
fn s8_1_2_an_address_comes_before_its_announcement__not_otherwise() {
    for family in BOTH {
        let mut router = started(&config(family, 100));
        router.handle_event(START, Event::TakeOver);
        while let Some(action) = router.poll_action() {
            let announces =
                matches!(action, Action::GratuitousArp(_) | Action::UnsolicitedNeighborAdvertisement(_));
            assert!(!announces, "{action:?}");
            if matches!(action, Action::AddAddress(_)) {
                router.handle_failure(START, &action);
            }
        }
    }
}

/// An active router that puts an address on its interface should announce it (§8.2.2 too).
#[test]
fn s8_1_2_an_address_that_is_put_back_is_announced__done() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::AddressLost(router.config().addresses[1].address));
        let [_, _, add, _, announce] = words(family, 100);
        assert_eq!(actions(&mut router), [add, announce]);
    }
}

#[test]
fn s8_1_2_an_address_that_is_put_back_is_announced__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        router.handle_event(now, Event::AddressLost(own(family)));
        assert_eq!(actions(&mut router), [""; 0], "it is not virtual");
    }
}

/// A second router of priority 255 should be logged, and one of one's own priority may be: both are said.
#[test]
fn s8_3_2_a_second_owner_is_said__done() {
    for family in BOTH {
        for (priority, conflict) in [(OWNER, Conflict::TwoOwners), (100, Conflict::EqualPriority)] {
            for source in [lesser(family), greater(family)] {
                let (mut router, now) = active(&config(family, priority));
                hear(&mut router, now, &config(family, priority), source, priority);
                assert_eq!(conflicts(&mut router), [conflict]);
            }
        }
    }
}

#[test]
fn s8_3_2_a_second_owner_is_said__not_otherwise() {
    for family in BOTH {
        let (mut router, now) = active(&config(family, 100));
        hear(&mut router, now, &config(family, OWNER), greater(family), OWNER);
        assert_eq!(conflicts(&mut router), [], "one owner is as it should be");
        // Said once, not with each advert.
        let (mut owner, now) = active(&config(family, OWNER));
        for _ in 0..10 {
            hear(&mut owner, now, &config(family, OWNER), lesser(family), OWNER);
        }
        assert_eq!(conflicts(&mut owner), [Conflict::TwoOwners]);
    }
}

/// Without the mode that speaks both versions, which an implementation may have and this one has not, a router of version 3
/// hears no version 2, and one of version 2 no version 3.
#[test]
fn s8_4_versions_do_not_mix__accepted() {
    for version in [Version::V2, Version::V3] {
        let (config, source) = (common::config(version, Family::Ipv4, 200), greater(Family::Ipv4));
        let router = started(&common::config(version, Family::Ipv4, 100));
        takes(&router, &meta(&config, source), &message(&config, source, 200));
    }
}

#[test]
fn s8_4_versions_do_not_mix__refused() {
    for (ours, theirs) in [(Version::V2, Version::V3), (Version::V3, Version::V2)] {
        let (config, source) = (common::config(theirs, Family::Ipv4, 200), greater(Family::Ipv4));
        let router = started(&common::config(ours, Family::Ipv4, 100));
        drops(&router, &meta(&config, source), &message(&config, source, 200), Discard::Version);
    }
}
