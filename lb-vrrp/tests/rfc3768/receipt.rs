//! What is looked at on receipt, and what operation asks for: sections 7 and 8.

use crate::common::{
    SECOND, START, actions, active, changed, conflicts, drops, hear, interval, ip, message, meta, started,
    takes, transmits,
};
use crate::{V4, config, peer};
use lb_vrrp::config::{AddressCheck, Auth, OWNER, Owners};
use lb_vrrp::event::Conflict;
use lb_vrrp::wire::{Discard, Family, Interval, MAX_MESSAGE};
use lb_vrrp::{Action, Config, Event};

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
