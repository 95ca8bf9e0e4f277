use super::*;
use crate::config::{AddressCheck, Owners};
use crate::wire::{Discard, MAX_MESSAGE, Meta, TTL};

const SECOND: Duration = Duration::from_secs(1);
const INSTANT: Duration = Duration::from_micros(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(priority: u8) -> Config {
    Config { priority, ..Config::new(51, ["10.9.0.100/24".parse().unwrap()]) }
}

fn started(config: Config) -> VirtualRouter {
    let mut router = VirtualRouter::new(config, Some(ip("10.9.0.5"))).unwrap();
    router.handle_event(Timestamp::ZERO, Event::Startup);
    router
}

/// An advert of the router that `config` describes at `source`, but with `priority`.
fn advert(config: &Config, source: &str, priority: u8) -> (Meta, Vec<u8>) {
    let source = ip(source);
    let peer = VirtualRouter::new(config.clone(), Some(source)).unwrap();
    let destination = config.family().multicast();
    let transmit = Transmit::new(source, destination, priority, Timestamp::ZERO);
    let mut buffer = [0; MAX_MESSAGE];
    let message = peer.encode(&transmit, &mut buffer).unwrap().to_vec();
    (Meta::new(source, destination, TTL), message)
}

fn hear(router: &mut VirtualRouter, now: Timestamp, source: &str, priority: u8) -> Result<(), Discard> {
    let (meta, message) = advert(&router.config().clone(), source, priority);
    router.handle_packet(now, &meta, &message)
}

/// The actions as words; notifications are left out.
fn actions(router: &mut VirtualRouter) -> String {
    let mut out = Vec::new();
    while let Some(action) = router.poll_action() {
        match action {
            Action::Transmit(transmit) => out.push(format!("advert {}", transmit.priority)),
            Action::AddAddress(address) => out.push(format!("add {address}")),
            Action::RemoveAddress(address) => out.push(format!("remove {address}")),
            Action::GratuitousArp(address) => out.push(format!("arp {address}")),
            Action::UnsolicitedNeighborAdvertisement(address) => out.push(format!("na {address}")),
            Action::Notify(_) => {}
        }
    }
    out.dedup();
    out.join(", ")
}

fn notifications(router: &mut VirtualRouter) -> Vec<Notification> {
    let mut out = Vec::new();
    while let Some(action) = router.poll_action() {
        if let Action::Notify(notification) = action {
            out.push(notification);
        }
    }
    out
}

fn expire(router: &mut VirtualRouter) -> Timestamp {
    let now = router.poll_timeout().unwrap();
    router.handle_timeout(now);
    now
}

#[test]
fn silence_makes_it_active_after_the_master_down_interval() {
    let mut router = started(config(100));
    assert_eq!((router.state(), actions(&mut router)), (State::Backup, String::new()));
    assert_eq!(expire(&mut router).as_micros(), 3_609_375);
    assert_eq!(router.state(), State::Active);
    assert_eq!(actions(&mut router), "advert 100, add 10.9.0.100/24, arp 10.9.0.100");
    assert_eq!(expire(&mut router).as_micros(), 4_609_375);
    assert_eq!(actions(&mut router), "advert 100");
}

#[test]
fn adverts_keep_their_grid_when_a_wake_is_a_little_late() {
    let mut router = started(config(100));
    let mut now = expire(&mut router);
    for _ in 0..10 {
        let deadline = now + SECOND;
        assert_eq!(router.poll_timeout(), Some(deadline));
        router.handle_timeout(deadline + Duration::from_micros(700));
        now = deadline;
    }
}

#[test]
fn it_leaves_with_a_word_and_without_its_addresses() {
    let mut router = started(config(100));
    let now = expire(&mut router);
    actions(&mut router);
    router.handle_event(now, Event::Shutdown);
    assert_eq!(actions(&mut router), "advert 0, remove 10.9.0.100/24");
    assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
}

#[test]
fn a_late_wake_says_nothing() {
    type Way = fn(&mut VirtualRouter, Timestamp);
    let ways: [Way; 3] = [
        |router, now| router.handle_timeout(now),
        |router, now| assert_eq!(hear(router, now, "10.9.0.6", 90), Ok(())),
        |router, now| router.handle_event(now, Event::Shutdown),
    ];
    for way in ways {
        let mut router = started(config(100));
        let now = expire(&mut router);
        assert!(actions(&mut router).starts_with("advert 100"));
        way(&mut router, now + 3 * SECOND + Duration::from_micros(1));
        assert_eq!(actions(&mut router), "remove 10.9.0.100/24");
        assert_eq!(router.counters().late_wakes, 1);
    }
    let mut router = started(Config { late_wake: LateWake::Advertise, ..config(100) });
    let now = expire(&mut router);
    actions(&mut router);
    router.handle_timeout(now + 10 * SECOND);
    assert_eq!(actions(&mut router), "advert 100, arp 10.9.0.100");
}

#[test]
fn an_advert_is_stale_when_it_or_the_one_before_it_is_too_old() {
    let mut router = started(config(100));
    let first = expire(&mut router);
    let Some(Action::Transmit(transmit)) = router.poll_action() else { panic!() };
    assert!(!router.clone().withdraw_if_stale(first + 3 * SECOND, transmit.decided));
    let mut late = router.clone();
    assert!(late.withdraw_if_stale(first + 3 * SECOND + INSTANT, transmit.decided));
    assert_eq!((late.state(), actions(&mut late)), (State::Backup, String::new()), "it had no address yet");
    actions(&mut router);
    // Two short stops, one before the decision and one after it, are as bad as a long one.
    let second = first + 2 * SECOND;
    router.handle_timeout(second);
    let Some(Action::Transmit(transmit)) = router.poll_action() else { panic!() };
    assert_eq!(transmit.decided, second);
    assert!(!router.withdraw_if_stale(first + 3 * SECOND, transmit.decided));
    // What is no advert (an announcement, say) has only its own age.
    assert!(!router.withdraw_if_stale(second + 3 * SECOND, second + INSTANT));
    assert!(router.withdraw_if_stale(first + 3 * SECOND + INSTANT, transmit.decided));
    assert_eq!((router.state(), actions(&mut router)), (State::Backup, "remove 10.9.0.100/24".into()));
}

/// A better router listens after it was held up, whatever it then hears that came before; what comes after counts as ever.
#[test]
fn what_came_while_it_was_held_up_does_not_shorten_the_wait() {
    const WAIT: Duration = Duration::from_micros(3_218_750);
    let adverts = |priority: u8, at: Timestamp| {
        move |router: &mut VirtualRouter| hear(router, at, "10.9.0.6", priority).unwrap()
    };
    for (active, preempt, late_wake) in [
        (true, true, LateWake::Listen),
        (true, false, LateWake::Listen),
        (false, false, LateWake::Listen),
        (false, true, LateWake::Listen),
        (false, false, LateWake::Advertise),
    ] {
        let mut router = started(Config { preempt, late_wake, ..config(200) });
        let begin = if active { expire(&mut router) } else { Timestamp::ZERO + SECOND };
        if !active {
            adverts(if preempt { 201 } else { 100 }, begin)(&mut router);
        }
        actions(&mut router);
        let woken = begin + 6 * SECOND;
        let mut other = router.clone();
        other.handle_event(begin + SECOND, Event::HeldUp(3 * SECOND));
        assert_eq!(other.counters().late_wakes, 0, "others wait as long");
        router.handle_event(woken, Event::HeldUp(5 * SECOND));
        // It took over at its time, and has left, or has said no more since.
        adverts(100, begin + 4 * SECOND)(&mut router);
        adverts(0, woken - INSTANT)(&mut router);
        let wait = match late_wake {
            LateWake::Listen => woken + WAIT,
            LateWake::Advertise => woken - INSTANT + Duration::from_micros(218_750),
        };
        assert_eq!(
            (router.state(), router.poll_timeout()),
            (State::Backup, Some(wait)),
            "{active}, {preempt}"
        );
        assert_eq!(router.counters().late_wakes, u32::from(late_wake == LateWake::Listen));

        adverts(0, woken + SECOND)(&mut router);
        assert_eq!(router.poll_timeout(), Some(woken + SECOND + Duration::from_micros(218_750)));
    }
}

#[test]
fn a_backup_that_slept_through_its_deadline_listens_before_it_takes_over() {
    for (late_wake, lateness, state) in [
        (LateWake::Listen, 3 * SECOND, State::Active),
        (LateWake::Listen, 3 * SECOND + Duration::from_micros(1), State::Backup),
        (LateWake::Advertise, 60 * SECOND, State::Active),
    ] {
        let mut router = started(Config { late_wake, ..config(100) });
        let late = router.poll_timeout().unwrap() + lateness;
        router.handle_timeout(late);
        assert_eq!(router.state(), state, "{late_wake:?}, {lateness:?}");
        if state == State::Backup {
            assert_eq!((actions(&mut router), router.counters().late_wakes), (String::new(), 1));
            assert_eq!(expire(&mut router), late + router.master_down_interval());
            assert_eq!(router.state(), State::Active);
        }
    }
}

#[test]
fn a_storm_of_priority_0_is_answered_once_in_10_ms() {
    for (interval, pause) in [(100, 10_000), (1, 5_000)] {
        let interval = Interval::from_centiseconds(interval).unwrap();
        let mut router = started(Config { interval, ..config(100) });
        let begin = expire(&mut router);
        actions(&mut router);
        let (mut last, mut answers) = (begin, 0);
        for micros in (0..100_000_u64).step_by(100) {
            let now = begin + Duration::from_micros(micros);
            router.handle_timeout(now);
            hear(&mut router, now, "10.0.0.9", 0).unwrap();
            if actions(&mut router).contains("advert 100") {
                assert!(now.since(last) >= Duration::from_micros(pause), "{:?}", now.since(last));
                (last, answers) = (now, answers + 1);
            }
        }
        assert_eq!(answers, 99_900 / pause, "each is answered in the end");
        // The last one's answer comes without another packet.
        let next = router.poll_timeout().unwrap();
        assert!(next.since(last) <= Duration::from_micros(pause));
    }
}

#[test]
fn the_greater_address_wins_among_equals() {
    for (source, state) in
        [("10.9.0.4", State::Active), ("10.9.0.6", State::Backup), ("10.9.0.200", State::Backup)]
    {
        let mut router = started(config(100));
        let now = expire(&mut router);
        notifications(&mut router);
        hear(&mut router, now + SECOND / 2, source, 100).unwrap();
        assert_eq!(router.state(), state, "{source}");
        let conflict = Notification::Conflict { kind: Conflict::EqualPriority, address: ip(source) };
        assert!(notifications(&mut router).contains(&conflict));
    }
}

#[test]
fn two_owners_are_reported_and_one_stays() {
    let mut router = started(config(255));
    assert_eq!(router.state(), State::Active);
    actions(&mut router);
    hear(&mut router, Timestamp::ZERO + SECOND, "10.9.0.6", 255).unwrap();
    let conflict = Notification::Conflict { kind: Conflict::TwoOwners, address: ip("10.9.0.6") };
    assert!(notifications(&mut router).contains(&conflict));
    assert_eq!(router.state(), State::Backup);

    let mut letter = started(Config { owners: Owners::Ignore, ..config(255) });
    assert_eq!(hear(&mut letter, Timestamp::ZERO, "10.9.0.6", 255), Err(Discard::Owner));
    assert_eq!(letter.state(), State::Active);
}

#[test]
fn what_fails_is_a_fault_and_is_tried_again() {
    let mut router = started(config(100));
    let now = expire(&mut router);
    let Some(advert @ Action::Transmit(_)) = router.poll_action() else { panic!() };
    router.handle_failure(now, &advert);
    assert_eq!((router.state(), router.faults()), (State::Initialize, Faults::TRANSMIT));
    assert_eq!(actions(&mut router), "");
    assert_eq!(expire(&mut router), now + SECOND);
    assert_eq!(router.state(), State::Backup);
    let now = expire(&mut router);
    while let Some(action) = router.poll_action() {
        if matches!(action, Action::AddAddress(_)) {
            router.handle_failure(now, &action);
            break;
        }
    }
    assert_eq!((router.state(), router.faults()), (State::Initialize, Faults::ADDRESS));
    assert_eq!(actions(&mut router), "advert 0");
    assert_eq!(expire(&mut router), now + 2 * SECOND);
    assert_eq!(router.state(), State::Backup);
}

#[test]
fn faults_hold_it_and_each_must_go() {
    let mut router = started(config(100));
    let now = expire(&mut router);
    actions(&mut router);
    router.handle_event(now, Event::Fault(Faults::TRACK));
    assert_eq!(actions(&mut router), "advert 0, remove 10.9.0.100/24");
    router.handle_event(now, Event::Fault(Faults::LINK));
    router.handle_event(now, Event::Source(None));
    assert_eq!(hear(&mut router, now, "10.9.0.6", 90), Err(Discard::Initialize));
    router.handle_event(now, Event::Cleared(Faults::TRACK | Faults::LINK));
    assert_eq!(
        (router.state(), router.faults(), router.poll_timeout()),
        (State::Initialize, Faults::SOURCE, None)
    );
    router.handle_event(now, Event::Source(Some(ip("fe80::1"))));
    assert_eq!(router.state(), State::Initialize, "an address of the other family is none");
    router.handle_event(now, Event::Source(Some(ip("10.9.0.7"))));
    assert_eq!(router.state(), State::Backup);
}

#[test]
fn version_3_learns_the_active_interval_and_version_2_refuses_another() {
    let slow = Config { interval: Interval::from_seconds(2).unwrap(), ..config(200) };
    let mut router = started(config(100));
    let (meta, message) = advert(&slow, "10.9.0.6", 200);
    router.handle_packet(Timestamp::ZERO, &meta, &message).unwrap();
    assert_eq!(router.interval(), slow.interval);
    assert_eq!(router.poll_timeout().unwrap().as_micros(), 6_000_000 + 2 * 609_375);
    assert_eq!(hear(&mut router, Timestamp::ZERO, "10.9.0.6", 0), Ok(()));
    assert_eq!(router.poll_timeout().unwrap().as_micros(), 2 * 609_375, "the skew time of what was learned");

    let mut router = started(Config { version: Version::V2, ..config(100) });
    let (meta, message) = advert(&Config { version: Version::V2, ..slow }, "10.9.0.6", 200);
    assert_eq!(router.handle_packet(Timestamp::ZERO, &meta, &message), Err(Discard::Interval));
    assert_eq!(router.counters().discards.of(Discard::Interval), 1);
}

#[test]
fn a_preempt_delay_is_waited_for() {
    let mut router = started(Config { preempt_delay: 10 * SECOND, ..config(100) });
    let mut now = Timestamp::ZERO;
    while router.state() == State::Backup {
        now = now + SECOND / 10;
        if now.as_micros().is_multiple_of(1_000_000) {
            hear(&mut router, now, "10.9.0.6", 90).unwrap();
        }
        router.handle_timeout(now);
    }
    // Ten seconds, then the wait that the last respected advert began.
    assert_eq!(now.as_micros(), 12_700_000);
}

#[test]
fn a_preempt_delay_holds_also_for_an_active_router_of_longer_interval() {
    let slow = Config { interval: Interval::from_seconds(4).unwrap(), ..config(90) };
    let (meta, message) = advert(&slow, "10.9.0.6", 90);
    let mut router = started(Config { preempt_delay: 10 * SECOND, ..config(100) });
    for seconds in [1, 5, 9] {
        let now = Timestamp::ZERO + seconds * SECOND;
        router.handle_timeout(now);
        router.handle_packet(now, &meta, &message).unwrap();
        assert_eq!((router.state(), router.interval()), (State::Backup, slow.interval));
    }
    // The last advert that was let go on began a wait of three of its intervals and the skew time.
    let now = Timestamp::ZERO + 13 * SECOND;
    router.handle_packet(now, &meta, &message).unwrap();
    assert_eq!(expire(&mut router).as_micros(), 9_000_000 + 12_000_000 + 4 * 609_375);
    assert_eq!(router.state(), State::Active);
}

#[test]
fn another_list_of_addresses_is_dropped_only_when_asked() {
    let other = Config::new(51, ["10.9.0.101/24".parse().unwrap()]);
    let (meta, message) = advert(&other, "10.9.0.6", 200);
    for (check, expected) in [
        (AddressCheck::Ignore, Ok(())),
        (AddressCheck::Report, Ok(())),
        (AddressCheck::Drop, Err(Discard::AddressList)),
    ] {
        let mut router = started(Config { address_check: check, ..config(100) });
        assert_eq!(router.handle_packet(Timestamp::ZERO, &meta, &message), expected);
        let said = notifications(&mut router).iter().any(|notification| {
            matches!(notification, Notification::Conflict { kind: Conflict::AddressList, .. })
        });
        assert_eq!(said, check != AddressCheck::Ignore);
    }
}

#[test]
fn unicast_adverts_go_to_each_peer_with_a_checksum_of_its_own() {
    let peers = vec![ip("10.9.0.6"), ip("10.8.0.7")];
    let mut router = started(Config { unicast_peers: peers.clone(), accepted_ttl: 200..=255, ..config(100) });
    expire(&mut router);
    for peer in &peers {
        let Some(Action::Transmit(transmit)) = router.poll_action() else { panic!() };
        assert_eq!(transmit.destination, *peer);
        let mut buffer = [0; MAX_MESSAGE];
        let message = router.encode(&transmit, &mut buffer).unwrap();
        Advert::decode(&Meta::new(transmit.source, *peer, 200), message, ChecksumMode::PseudoHeader).unwrap();
    }
    let (meta, message) = advert(&config(200), "10.9.0.99", 200);
    assert_eq!(router.handle_packet(Timestamp::ZERO, &meta, &message), Err(Discard::UnknownPeer));
}

#[test]
fn a_new_configuration_changes_no_state() {
    let mut router = started(config(100));
    let now = expire(&mut router);
    actions(&mut router);
    let mut next = config(120);
    next.addresses.push("10.9.0.101/24".parse().unwrap());
    router.reconfigure(now, next.clone()).unwrap();
    assert_eq!(router.state(), State::Active);
    assert_eq!(
        actions(&mut router),
        "add 10.9.0.101/24, arp 10.9.0.100, arp 10.9.0.101, arp 10.9.0.100, arp 10.9.0.101, arp 10.9.0.100, arp 10.9.0.101, arp 10.9.0.100, arp 10.9.0.101, arp 10.9.0.100, arp 10.9.0.101"
    );
    next.vrid = 52;
    assert_eq!(router.reconfigure(now, next), Err(ReconfigureError::OtherRouter));
    expire(&mut router);
    assert_eq!(actions(&mut router), "advert 120");
}

#[test]
fn a_startup_delay_is_waited_for_and_ends() {
    let mut router = started(Config { startup_delay: 5 * SECOND, ..config(100) });
    assert_eq!(router.state(), State::Initialize);
    router.handle_event(Timestamp::ZERO, Event::Fault(Faults::LINK));
    router.handle_event(Timestamp::ZERO, Event::Cleared(Faults::LINK));
    assert_eq!(router.state(), State::Initialize, "a fault that goes away does not shorten the delay");
    router.handle_event(Timestamp::ZERO, Event::Fault(Faults::LINK));
    assert_eq!(expire(&mut router).as_micros(), 5_000_000);
    assert_eq!((router.state(), router.poll_timeout()), (State::Initialize, None));
    router.handle_event(Timestamp::ZERO + 6 * SECOND, Event::Cleared(Faults::LINK));
    assert_eq!(router.state(), State::Backup);
}

#[test]
fn an_owners_priority_is_not_moved_and_others_are_clamped() {
    for (configured, tracked, effective) in [(255, 3, 255), (100, 0, 1), (100, 255, 254), (100, 42, 42)] {
        let mut router = started(config(configured));
        router.handle_event(Timestamp::ZERO, Event::Priority(tracked));
        assert_eq!(router.priority(), effective);
    }
}

#[test]
fn a_router_fits_in_a_kibibyte() {
    assert!(size_of::<VirtualRouter>() <= 1024, "{} bytes", size_of::<VirtualRouter>());
}
