//! Timers and states: section 6.

use std::time::Duration;

use crate::common::{
    INSTANT, SECOND, START, actions, active, drops, greater, hear, interval, ip, lesser, message, meta, own,
    started,
};
use crate::{V4, config, peer};
use lb_vrrp::config::{LosingAdvert, OWNER};
use lb_vrrp::event::Faults;
use lb_vrrp::timer::{master_down_interval, skew_time};
use lb_vrrp::wire::{Discard, Version};
use lb_vrrp::{Config, Event, State, VirtualRouter};

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
