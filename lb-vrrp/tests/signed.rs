//! Signed adverts between routers: who takes what, in which mode, and when.
#![cfg(feature = "auth-hmac")]

use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::event::{Conflict, Faults, Notification};
use lb_vrrp::hmac::{AntiReplay, Hmac, Key, Mode};
use lb_vrrp::wire::{Discard, MAX_MESSAGE, Meta, TTL, Version};
use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualRouter};

const SECOND: Duration = Duration::from_secs(1);
/// November 2026.
const WALL: Duration = Duration::from_micros(1_795_262_205_035_049);

fn key(id: u8) -> Key {
    Key::new(id, &[id; 32]).expect("good")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    V2,
    V3,
    V3Six,
}

const KINDS: [Kind; 3] = [Kind::V2, Kind::V3, Kind::V3Six];

fn host(kind: Kind, number: u8) -> IpAddr {
    match kind {
        Kind::V3Six => [0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
        _ => [10, 9, 0, number].into(),
    }
}

fn config(kind: Kind, hmac: Option<Hmac>) -> Config {
    let mut config = Config::new(51, [host(kind, 100).into()]);
    config.version = if kind == Kind::V2 { Version::V2 } else { Version::V3 };
    config.hmac = hmac;
    config
}

/// A router that started now, at the wall clock's time `wall`.
fn started(config: Config, source: IpAddr, wall: Duration) -> VirtualRouter {
    let mut router = VirtualRouter::new(config, Some(source)).expect("good");
    router.handle_event(Timestamp::ZERO, Event::WallClock(wall));
    router.handle_event(Timestamp::ZERO, Event::Startup);
    router
}

/// The advert that a router sends next, with when and how.
fn next_advert(router: &mut VirtualRouter) -> (Timestamp, Meta, Vec<u8>) {
    loop {
        while let Some(action) = router.poll_action() {
            if let Action::Transmit(transmit) = action {
                let mut buffer = [0; MAX_MESSAGE];
                let message = router.encode(&transmit, &mut buffer).expect("it fits").to_vec();
                return (transmit.decided, Meta::new(transmit.source, transmit.destination, TTL), message);
            }
        }
        let now = router.poll_timeout().expect("it runs");
        router.handle_timeout(now);
    }
}

/// An active router's adverts, 200 its host.
fn sender(kind: Kind, hmac: Option<Hmac>) -> VirtualRouter {
    started(Config { priority: 200, ..config(kind, hmac) }, host(kind, 200), WALL)
}

fn receiver(kind: Kind, hmac: Option<Hmac>) -> VirtualRouter {
    started(config(kind, hmac), host(kind, 1), WALL)
}

fn conflicts(router: &mut VirtualRouter) -> Vec<Conflict> {
    std::iter::from_fn(|| router.poll_action())
        .filter_map(|action| match action {
            Action::Notify(Notification::Conflict { kind, .. }) => Some(kind),
            _ => None,
        })
        .collect()
}

fn hmac(mode: Mode) -> Option<Hmac> {
    Some(Hmac { mode, ..Hmac::new(key(1)) })
}

#[test]
fn each_mode_signs_and_takes_what_it_says() {
    use Mode::{Enforce, Permissive, ReceiveOnly};
    let modes = [None, hmac(ReceiveOnly), hmac(Permissive), hmac(Enforce)];
    for kind in KINDS {
        for from in &modes {
            let (now, meta, message) = next_advert(&mut sender(kind, from.clone()));
            let signs = from.as_ref().is_some_and(|hmac| hmac.mode != ReceiveOnly);
            let plain = next_advert(&mut sender(kind, None)).2.len();
            assert_eq!(message.len(), plain + if signs { 28 } else { 0 });
            for to in &modes {
                let mut receiver = receiver(kind, to.clone());
                let demands = to.as_ref().is_some_and(|hmac| hmac.mode == Enforce);
                let expected = if demands && !signs { Err(Discard::Unsigned) } else { Ok(()) };
                assert_eq!(
                    receiver.handle_packet(now, &meta, &message),
                    expected,
                    "{kind:?} {from:?} {to:?}"
                );
                let said = conflicts(&mut receiver);
                assert_eq!(said, if expected.is_err() { vec![Conflict::Authentication] } else { vec![] });
                let tolerated = to.is_some() && !signs && expected.is_ok();
                assert_eq!(receiver.counters().unsigned_received, u32::from(tolerated));
            }
        }
    }
}

#[test]
fn a_changed_bit_is_refused_in_every_mode() {
    for kind in KINDS {
        for mode in [Mode::Enforce, Mode::Permissive, Mode::ReceiveOnly] {
            let (now, meta, mut message) = next_advert(&mut sender(kind, hmac(Mode::Enforce)));
            let mut receiver = receiver(kind, hmac(mode));
            for bit in 0..message.len() * 8 {
                message[bit / 8] ^= 1 << (bit % 8);
                assert!(receiver.handle_packet(now, &meta, &message).is_err(), "{kind:?} {mode:?} bit {bit}");
                message[bit / 8] ^= 1 << (bit % 8);
            }
            // Also if the checksum is made right again, so that the signature alone must tell.
            let signature = message.len() - 28;
            for bit in 0..message.len() * 8 {
                let mut forged = message.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let summed = if kind == Kind::V3Six { &forged[..] } else { &forged[..signature] };
                let coverage = match kind {
                    Kind::V2 => lb_vrrp::wire::Coverage::Message,
                    _ => lb_vrrp::wire::Coverage::PseudoHeader,
                };
                let sum = lb_vrrp::wire::checksum::checksum(summed, meta.source, meta.destination, coverage);
                forged[6..8].copy_from_slice(&sum.to_be_bytes());
                let checksum = (48..64).contains(&bit);
                assert_eq!(forged == message, checksum, "only a change of the checksum is undone");
                if !checksum {
                    assert!(
                        receiver.handle_packet(now, &meta, &forged).is_err(),
                        "{kind:?} {mode:?} bit {bit}"
                    );
                }
            }
            assert_eq!(receiver.handle_packet(now, &meta, &message), Ok(()));
        }
    }
}

#[test]
fn an_advert_is_good_once_and_for_its_place_only() {
    for kind in KINDS {
        let mut active = sender(kind, hmac(Mode::Enforce));
        let (now, meta, first) = next_advert(&mut active);
        let (later, _, second) = next_advert(&mut active);
        let mut receiver = receiver(kind, hmac(Mode::Enforce));
        assert_eq!(receiver.handle_packet(now, &meta, &first), Ok(()));
        assert_eq!(receiver.handle_packet(now, &meta, &first), Err(Discard::Replay));
        assert_eq!(receiver.handle_packet(later, &meta, &second), Ok(()));
        assert_eq!(receiver.handle_packet(later, &meta, &first), Err(Discard::Replay));
        assert_eq!(receiver.counters().discards.of(Discard::Replay), 2);

        // From another host: IPv4's pseudo-header, and the signature.
        let elsewhere = Meta::new(host(kind, 77), meta.destination, TTL);
        let refused = receiver.handle_packet(later, &elsewhere, &second).unwrap_err();
        let expected = if kind == Kind::V2 { Discard::AuthFailure } else { Discard::Checksum };
        assert_eq!(refused, expected);

        // On another virtual router with the same key: its signature behind that one's own message.
        let other = Config { vrid: 52, priority: 200, ..config(kind, hmac(Mode::Enforce)) };
        let (_, _, theirs) = next_advert(&mut started(other, host(kind, 200), WALL));
        let mut spliced = first.clone();
        let at = spliced.len() - 28;
        spliced[at..].copy_from_slice(&theirs[at..]);
        let refused = receiver.handle_packet(later, &meta, &spliced).unwrap_err();
        let expected = if kind == Kind::V3Six { Discard::Checksum } else { Discard::AuthFailure };
        assert_eq!(refused, expected);
    }
}

#[test]
fn an_advert_is_fresh_for_the_window_by_either_clock() {
    // Milliseconds that the receiver's clock is ahead, the anti-replay mode, the outcome, and whether the skew is told.
    let table = [
        (0, AntiReplay::Time, Ok(()), false),
        (2_400, AntiReplay::Time, Ok(()), false),
        (-2_400, AntiReplay::Time, Ok(()), false),
        (2_600, AntiReplay::Time, Ok(()), true),
        (-2_600, AntiReplay::Time, Ok(()), true),
        (4_900, AntiReplay::Time, Ok(()), true),
        (-4_900, AntiReplay::Time, Ok(()), true),
        (5_100, AntiReplay::Time, Err(Discard::Replay), true),
        (-5_100, AntiReplay::Time, Err(Discard::Replay), true),
        (1_000_000_000, AntiReplay::Time, Err(Discard::Replay), true),
        (5_100, AntiReplay::Monotonic, Ok(()), false),
        (-1_000_000_000, AntiReplay::Monotonic, Ok(()), false),
    ];
    for (ahead, anti_replay, expected, told) in table {
        let (now, meta, message) = next_advert(&mut sender(Kind::V3, hmac(Mode::Enforce)));
        let wall = WALL.saturating_add(Duration::from_millis(u64::try_from(ahead).unwrap_or(0)));
        let wall = wall - Duration::from_millis(u64::try_from(-ahead).unwrap_or(0));
        let hmac = Hmac { anti_replay, ..Hmac::new(key(1)) };
        let mut receiver = started(config(Kind::V3, Some(hmac)), host(Kind::V3, 1), wall);
        assert_eq!(
            receiver.handle_packet(now, &meta, &message),
            expected,
            "{ahead} ms ahead, {anti_replay:?}"
        );
        assert_eq!(conflicts(&mut receiver).contains(&Conflict::ClockSkew), told, "{ahead} ms ahead");
        // Either way it is no good a second time.
        assert_eq!(receiver.handle_packet(now, &meta, &message), Err(Discard::Replay));
    }
}

#[test]
fn a_sender_whose_clock_is_set_back_is_heard_on() {
    let mut active = sender(Kind::V3, hmac(Mode::Enforce));
    let mut receiver = receiver(Kind::V3, hmac(Mode::Enforce));
    let (now, meta, message) = next_advert(&mut active);
    receiver.handle_packet(now, &meta, &message).unwrap();
    active.handle_event(now, Event::WallClock(WALL + now.since(Timestamp::ZERO) - 3 * SECOND));
    for _ in 0..10 {
        let (now, meta, message) = next_advert(&mut active);
        assert_eq!(receiver.handle_packet(now, &meta, &message), Ok(()));
    }
}

#[test]
fn adverts_of_one_moment_are_told_apart() {
    let mut active = sender(Kind::V3, hmac(Mode::Enforce));
    let mut receiver = receiver(Kind::V3, hmac(Mode::Enforce));
    let (now, meta, message) = next_advert(&mut active);
    active.handle_event(now, Event::Shutdown);
    let (same, _, farewell) = next_advert(&mut active);
    assert_eq!((same, farewell[2]), (now, 0));
    assert_eq!(receiver.handle_packet(now, &meta, &message), Ok(()));
    assert_eq!(receiver.handle_packet(now, &meta, &farewell), Ok(()));
}

#[test]
fn keys_change_without_a_gap() {
    let one = Hmac::new(key(1));
    let both = Hmac { keys: vec![key(1), key(2)], active_key: 1, ..one.clone() };
    let both_new = Hmac { active_key: 2, ..both.clone() };
    let two = Hmac::new(key(2));
    let mut active = sender(Kind::V3, Some(one.clone()));
    let mut receiver = receiver(Kind::V3, Some(one.clone()));
    let steps: [(bool, &Hmac); 6] =
        [(true, &both), (false, &both), (false, &both_new), (true, &both_new), (true, &two), (false, &two)];
    for (first, next) in steps {
        let (now, meta, message) = next_advert(&mut active);
        assert_eq!(receiver.handle_packet(now, &meta, &message), Ok(()));
        let router = if first { &mut active } else { &mut receiver };
        let next = Config { hmac: Some(next.clone()), ..router.config().clone() };
        let state = router.state();
        router.reconfigure(now, next).unwrap();
        assert_eq!(router.state(), state);
    }
    let (now, meta, message) = next_advert(&mut active);
    assert_eq!(receiver.handle_packet(now, &meta, &message), Ok(()));

    // A key that the receiver has not, and one that is another behind the same id.
    for stranger in [Hmac::new(key(3)), Hmac::new(Key::new(2, &[7; 32]).unwrap())] {
        let (now, meta, message) = next_advert(&mut sender(Kind::V3, Some(stranger)));
        assert_eq!(receiver.handle_packet(now, &meta, &message), Err(Discard::AuthFailure));
        assert!(conflicts(&mut receiver).iter().all(|&kind| kind == Conflict::Authentication));
    }
}

#[test]
fn senders_are_remembered_up_to_a_bound_and_old_ones_make_room() {
    let adverts = |count: u8| {
        (0..count).map(|number| {
            let config = Config { priority: 200, ..config(Kind::V3, hmac(Mode::Enforce)) };
            next_advert(&mut started(config, host(Kind::V3, 150 + number), WALL))
        })
    };
    let mut receiver = receiver(Kind::V3, hmac(Mode::Enforce));
    let mut end = Timestamp::ZERO;
    for (at, (now, meta, message)) in adverts(40).enumerate() {
        let expected = if at < 32 { Ok(()) } else { Err(Discard::Replay) };
        assert_eq!(receiver.handle_packet(now, &meta, &message), expected, "sender {at}");
        end = now;
    }
    // All of these are too old to be played back by now.
    let later = end + 6 * SECOND;
    let config = Config { priority: 200, ..config(Kind::V3, hmac(Mode::Enforce)) };
    let mut fresh = started(config, host(Kind::V3, 240), WALL + 6 * SECOND);
    let (_, meta, message) = next_advert(&mut fresh);
    assert_eq!(receiver.handle_packet(later, &meta, &message), Ok(()));
}

#[test]
fn without_the_wall_clock_it_does_not_start() {
    let source = host(Kind::V3, 1);
    let mut router = VirtualRouter::new(config(Kind::V3, hmac(Mode::Enforce)), Some(source)).unwrap();
    router.handle_event(Timestamp::ZERO, Event::Startup);
    assert_eq!((router.state(), router.faults()), (State::Initialize, Faults::CLOCK));
    router.handle_event(Timestamp::ZERO, Event::WallClock(WALL));
    assert_eq!((router.state(), router.faults()), (State::Backup, Faults::empty()));

    // Keys that come later need it too; a router without keys does not.
    let mut router = VirtualRouter::new(config(Kind::V3, None), Some(source)).unwrap();
    router.handle_event(Timestamp::ZERO, Event::Startup);
    assert_eq!(router.state(), State::Backup);
    router.reconfigure(Timestamp::ZERO, config(Kind::V3, hmac(Mode::ReceiveOnly))).unwrap();
    assert_eq!(router.faults(), Faults::CLOCK);
    router.reconfigure(Timestamp::ZERO, config(Kind::V3, None)).unwrap();
    assert_eq!((router.state(), router.faults()), (State::Backup, Faults::empty()));
}
