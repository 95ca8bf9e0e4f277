//! Once a router runs, adverts come and go without an allocation: counted.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::config::Auth;
use lb_vrrp::wire::{Advert, ChecksumMode, Family, MAX_MESSAGE, Meta, TTL, Version};
use lb_vrrp::{Action, Config, Event, Timestamp, VirtualAddress, VirtualRouter};

/// How often `body` allocates, and frees what it did not allocate or keeps what it did.
fn calls(body: impl FnOnce()) -> u64 {
    let counted = allocation_counter::measure(body);
    counted.count_total + counted.count_current.unsigned_abs()
}

/// Every kind of router: versions, families, one address and many, a password.
fn configs() -> Vec<(&'static str, Config)> {
    let addresses = |six: bool, count: u16| {
        (1..=count).map(move |host| {
            let address: IpAddr = if six {
                [0xfe80, 0, 0, 0, 0, 0, 1, host].into()
            } else {
                [10, 9, (host >> 8) as u8 + 1, host as u8].into()
            };
            VirtualAddress::from(address)
        })
    };
    let router = |six, count, version| {
        let mut config = Config::new(51, addresses(six, count));
        config.version = version;
        // The announcements of a takeover are not what is looked at here.
        config.garp.delay = Duration::ZERO;
        config
    };
    let mut password = router(false, 3, Version::V2);
    password.auth = Auth::simple_text("password");
    #[cfg(feature = "auth-hmac")]
    let signed = |six, version| {
        use lb_vrrp::hmac::{Hmac, Key};
        let hmac = Some(Hmac::new(Key::new(1, &[7; 32]).expect("good")));
        Config { hmac, ..router(six, 3, version) }
    };
    vec![
        #[cfg(feature = "auth-hmac")]
        ("v2, signed", signed(false, Version::V2)),
        #[cfg(feature = "auth-hmac")]
        ("v3, IPv4, signed", signed(false, Version::V3)),
        #[cfg(feature = "auth-hmac")]
        ("v3, IPv6, signed", signed(true, Version::V3)),
        ("v3, one IPv4 address", router(false, 1, Version::V3)),
        ("v3, 255 IPv4 addresses", router(false, 255, Version::V3)),
        ("v3, 255 IPv6 addresses", router(true, 255, Version::V3)),
        ("v2, 80 addresses", router(false, 80, Version::V2)),
        ("v2, a password", password),
    ]
}

fn host(family: Family, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => [10, 9, 0, number].into(),
        Family::Ipv6 => [0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
    }
}

fn started(config: &Config, number: u8) -> VirtualRouter {
    let source = host(config.family(), number);
    let mut router = VirtualRouter::new(config.clone(), Some(source)).expect("good");
    #[cfg(feature = "auth-hmac")]
    router.handle_event(Timestamp::ZERO, Event::WallClock(Duration::from_secs(1_795_262_205)));
    router.handle_event(Timestamp::ZERO, Event::Startup);
    router
}

/// To the next deadline; what the router wants is done, and its advert, if there is one, is written to `buffer`.
fn wake(router: &mut VirtualRouter, buffer: &mut [u8]) -> (Timestamp, Option<(Meta, usize)>) {
    let now = router.poll_timeout().expect("it runs");
    router.handle_timeout(now);
    let mut sent = None;
    while let Some(action) = router.poll_action() {
        if let Action::Transmit(transmit) = action {
            let meta = Meta::new(transmit.source, transmit.destination, TTL);
            sent = Some((meta, router.encode(&transmit, buffer).expect("it fits").len()));
        }
    }
    (now, sent)
}

#[test]
fn the_counter_counts() {
    assert_eq!(calls(|| drop(black_box(Box::new(1)))), 1, "the allocator counts");
}

#[test]
fn adverts_are_sent_read_and_heard_without_an_allocation() {
    for (name, config) in configs() {
        let mut active = started(&Config { priority: 200, ..config.clone() }, 200);
        let mut backup = started(&config, 100);
        let mut buffer = [0; MAX_MESSAGE];
        let mut beat = |rounds: u32| {
            for _ in 0..rounds {
                let (now, sent) = wake(&mut active, &mut buffer);
                let (meta, length) = sent.unwrap();
                black_box(Advert::decode(&meta, &buffer[..length], ChecksumMode::Either).unwrap());
                backup.handle_packet(now, &meta, &buffer[..length]).unwrap();
                while backup.poll_action().is_some() {}
            }
        };
        // The takeover, and the notifications of the first advert.
        beat(1);
        let steady = calls(|| beat(1_000));
        assert_eq!(steady, 0, "{name}");
        assert_eq!(backup.counters().adverts_received, 1_001, "{name}");
    }
}

#[test]
fn what_is_dropped_or_loses_makes_no_allocation() {
    for (name, config) in configs() {
        let mut weak = started(&Config { priority: 50, ..config.clone() }, 50);
        let mut active = started(&Config { priority: 200, ..config.clone() }, 200);
        let mut buffer = [0; MAX_MESSAGE];
        wake(&mut active, &mut buffer);
        let (_, sent) = wake(&mut weak, &mut buffer);
        let (meta, length) = sent.unwrap();
        let good = buffer[..length].to_vec();
        let now = active.poll_timeout().unwrap();
        // Its first losing advert is a conflict to tell of.
        active.handle_packet(now, &meta, &good).unwrap();
        while active.poll_action().is_some() {}

        let mut bad = good.clone();
        let steady = calls(|| {
            for _ in 0..2 {
                // A signed one is good only once.
                let _ = black_box(active.handle_packet(now, &meta, &good));
                for length in 0..good.len() {
                    active.handle_packet(now, &meta, &good[..length]).unwrap_err();
                    bad[length] ^= 0x40;
                    active.handle_packet(now, &meta, &bad).unwrap_err();
                    bad[length] ^= 0x40;
                }
                active.handle_packet(now, &Meta::new(meta.source, meta.destination, 1), &good).unwrap_err();
                while active.poll_action().is_some() {}
            }
        });
        assert_eq!(steady, 0, "{name}");
    }
}
