//! Adverts as they are on the wire: section 5.

use crate::common::{
    SECOND, START, actions, active, changed, drops, greater, hear, interval, ip, lesser, message, meta, own,
    started, takes, transmits,
};
use crate::{BOTH, config, drops_advert, good, takes_advert};
use lb_vrrp::config::OWNER;
use lb_vrrp::event::Faults;
use lb_vrrp::wire::{ChecksumMode, Discard, Family, Interval};
use lb_vrrp::{Config, ConfigError, Event, State, VirtualRouter};

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
