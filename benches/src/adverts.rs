//! The adverts and the routers that `lb-vrrp` is measured with.

use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::event::Transmit;
use lb_vrrp::hmac::{Hmac, Key};
use lb_vrrp::wire::{MAX_MESSAGE, Meta, TTL, Version};
use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualAddress, VirtualRouter};

/// Addresses of an advert: one, two, and as many as fill a packet of 1500 bytes with IPv6.
pub const COUNTS: [u8; 3] = [1, 2, 80];

/// A kind of advert.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in tables.
    pub name: &'static str,
    version: Version,
    six: bool,
    /// Whether it is signed. A signed advert is good once: the same again is verified, and then dropped.
    pub signed: bool,
}

/// Every kind.
pub const KINDS: [Kind; 4] = [
    Kind { name: "v2", version: Version::V2, six: false, signed: false },
    Kind { name: "v3 IPv4", version: Version::V3, six: false, signed: false },
    Kind { name: "v3 IPv6", version: Version::V3, six: true, signed: false },
    Kind { name: "v3 signed", version: Version::V3, six: false, signed: true },
];

/// An active router, a backup that hears it, and the advert between them.
#[derive(Debug)]
pub struct Pair {
    /// Sends `transmit`.
    pub active: VirtualRouter,
    /// What the active router sends.
    pub transmit: Transmit,
    /// Hears it.
    pub backup: VirtualRouter,
    /// The advert's IP header.
    pub meta: Meta,
    /// The advert.
    pub message: Vec<u8>,
    /// When it comes.
    pub now: Timestamp,
}

impl Pair {
    /// A pair with so many addresses.
    ///
    /// # Panics
    /// Never, as long as the state machine does what its tests say.
    #[must_use]
    pub fn new(kind: Kind, count: u8) -> Self {
        let Kind { version, six, signed, .. } = kind;
        let host = |host: u8| -> IpAddr {
            if six { [0xfe80, 0, 0, 0, 0, 0, 0, u16::from(host)].into() } else { [10, 9, 0, host].into() }
        };
        let mut config = Config::new(51, (1..=count).map(|number| VirtualAddress::from(host(number))));
        config.version = version;
        if signed {
            config.hmac = Some(Hmac::new(Key::new(1, &[7; 32]).expect("good")));
        }
        let started = |priority, source| {
            let config = Config { priority, ..config.clone() };
            let mut router = VirtualRouter::new(config, Some(host(source))).expect("good");
            router.handle_event(Timestamp::ZERO, Event::WallClock(Duration::from_secs(1_795_262_205)));
            router.handle_event(Timestamp::ZERO, Event::Startup);
            router
        };
        let mut backup = started(100, 201);
        let mut active = started(200, 202);
        let now = active.poll_timeout().expect("it waits");
        active.handle_timeout(now);
        assert_eq!(active.state(), State::Active);
        let Some(Action::Transmit(transmit)) = active.poll_action() else { panic!("an advert is first") };
        let mut buffer = [0; MAX_MESSAGE];
        let message = active.encode(&transmit, &mut buffer).expect("it fits").to_vec();
        let meta = Meta::new(transmit.source, transmit.destination, TTL);
        backup.handle_packet(now, &meta, &message).expect("good");
        while backup.poll_action().is_some() {}
        Self { active, transmit, backup, meta, message, now }
    }
}
