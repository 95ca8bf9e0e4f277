//! Timers and states: section 6.

use std::time::Duration;

use crate::common::{
    INSTANT, SECOND, START, actions, active, greater, hear, interval, ip, lesser, own, started,
};
use crate::{BOTH, config, slow, words};
use lb_vrrp::config::{LosingAdvert, OWNER};
use lb_vrrp::event::Faults;
use lb_vrrp::timer::{master_down_interval, skew_time};
use lb_vrrp::wire::{Family, Version};
use lb_vrrp::{Config, Event, State, VirtualRouter};

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
