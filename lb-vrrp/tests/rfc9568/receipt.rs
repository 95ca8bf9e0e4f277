//! What is looked at on receipt, and what operation asks for: sections 7 and 8.

use crate::common::{
    self, START, actions, active, changed, conflicts, drops, greater, hear, interval, lesser, message, meta,
    own, said, started, takes, transmits,
};
use crate::{BOTH, config, drops_advert, good, slow, takes_advert, words};
use lb_vrrp::config::{AddressCheck, OWNER, Owners};
use lb_vrrp::event::{Conflict, Notification};
use lb_vrrp::wire::{Discard, Family, MAX_MESSAGE, Version};
use lb_vrrp::{Action, Config, Event, State, VirtualRouter};

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
