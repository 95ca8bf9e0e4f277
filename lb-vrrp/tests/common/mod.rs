//! Routers, adverts, and what becomes of them: what the tables of the RFCs' requirements have in common.

#![allow(dead_code, reason = "not every test needs all")]

use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::event::{Conflict, Notification, Transmit};
use lb_vrrp::wire::checksum::checksum;
use lb_vrrp::wire::{Coverage, Discard, Family, Interval, MAX_MESSAGE, Meta, TTL, Version};
use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualRouter};

pub(crate) const START: Timestamp = Timestamp::from_micros(1_000_000);
pub(crate) const INSTANT: Duration = Duration::from_micros(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The router's own address, and two neighbours' before and after it.
pub(crate) fn own(family: Family) -> IpAddr {
    host(family, 5)
}

pub(crate) fn lesser(family: Family) -> IpAddr {
    host(family, 4)
}

pub(crate) fn greater(family: Family) -> IpAddr {
    host(family, 200)
}

fn host(family: Family, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::from([10, 9, 0, number]),
        Family::Ipv6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

/// A virtual router with two addresses that announces each once.
pub(crate) fn config(version: Version, family: Family, priority: u8) -> Config {
    let addresses = match family {
        Family::Ipv4 => ["10.9.0.100/24", "10.9.0.101/24"],
        Family::Ipv6 => ["fe80::100/64", "2001:db8::100/64"],
    };
    let mut config = Config::new(51, addresses.map(|address| address.parse().unwrap()));
    (config.version, config.priority) = (version, priority);
    (config.garp.repeat, config.garp.delay, config.garp.lower_priority_repeat) = (1, Duration::ZERO, 0);
    config
}

pub(crate) fn interval(centiseconds: u16) -> Interval {
    Interval::from_centiseconds(centiseconds).unwrap()
}

/// A router that was started at [`START`].
pub(crate) fn started(config: &Config) -> VirtualRouter {
    let mut router = VirtualRouter::new(config.clone(), Some(own(config.family()))).unwrap();
    router.handle_event(START, Event::Startup);
    router
}

/// A router that became active at the returned time, and has done all it wants.
pub(crate) fn active(config: &Config) -> (VirtualRouter, Timestamp) {
    let mut router = started(config);
    let mut now = START;
    if router.state() == State::Backup {
        now = router.poll_timeout().unwrap();
        router.handle_timeout(now);
    }
    actions(&mut router);
    assert_eq!(router.state(), State::Active);
    (router, now)
}

/// What `router` wants done, in words and in order. Notifications are left out.
pub(crate) fn actions(router: &mut VirtualRouter) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(action) = router.poll_action() {
        words.push(match action {
            Action::Transmit(transmit) => format!("advertise {}", transmit.priority),
            Action::AddAddress(address) => format!("add {address}"),
            Action::RemoveAddress(address) => format!("remove {address}"),
            Action::GratuitousArp(address) => format!("arp {address}"),
            Action::UnsolicitedNeighborAdvertisement(address) => format!("na {address}"),
            _ => continue,
        });
    }
    words
}

/// What `router` has said since it was asked last. What else it wants is lost.
pub(crate) fn said(router: &mut VirtualRouter) -> Vec<Notification> {
    let mut said = Vec::new();
    while let Some(action) = router.poll_action() {
        if let Action::Notify(notification) = action {
            said.push(notification);
        }
    }
    said
}

/// The conflicts among what `router` has said since it was asked last.
pub(crate) fn conflicts(router: &mut VirtualRouter) -> Vec<Conflict> {
    let conflict = |said| match said {
        Notification::Conflict { kind, .. } => Some(kind),
        _ => None,
    };
    said(router).into_iter().filter_map(conflict).collect()
}

/// The adverts that `router` wants sent, and nothing else.
pub(crate) fn transmits(router: &mut VirtualRouter) -> Vec<Transmit> {
    let mut transmits = Vec::new();
    while let Some(action) = router.poll_action() {
        if let Action::Transmit(transmit) = action {
            transmits.push(transmit);
        }
    }
    transmits
}

pub(crate) fn meta(config: &Config, source: IpAddr) -> Meta {
    Meta::new(source, config.family().multicast(), TTL)
}

/// The advert that a router of `config` at `source` would send, with `priority`.
pub(crate) fn message(config: &Config, source: IpAddr, priority: u8) -> Vec<u8> {
    let mut config = config.clone();
    config.priority = if priority == 0 { 1 } else { priority };
    let mut sender = VirtualRouter::new(config, Some(source)).unwrap();
    sender.handle_event(START, Event::Startup);
    if let (State::Backup, Some(now)) = (sender.state(), sender.poll_timeout()) {
        sender.handle_timeout(now);
    }
    if priority == 0 {
        sender.handle_event(START, Event::Shutdown);
    }
    let Some(Action::Transmit(transmit)) = sender.poll_action() else { panic!("it advertises first") };
    assert_eq!(transmit.priority, priority);
    let mut buffer = [0; MAX_MESSAGE];
    sender.encode(&transmit, &mut buffer).unwrap().to_vec()
}

/// `message` with other bytes at some places and a checksum that is right again.
pub(crate) fn changed(config: &Config, source: IpAddr, message: &[u8], bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut message = message.to_vec();
    for &(at, byte) in bytes {
        message[at] = byte;
    }
    let coverage = match config.version {
        Version::V2 => Coverage::Message,
        Version::V3 => Coverage::PseudoHeader,
    };
    let sum = checksum(&message, source, config.family().multicast(), coverage);
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Lets `router` hear the advert of a router of `config` at `source` with `priority`.
pub(crate) fn hear(
    router: &mut VirtualRouter,
    now: Timestamp,
    config: &Config,
    source: IpAddr,
    priority: u8,
) {
    let message = message(config, source, priority);
    router.handle_packet(now, &meta(config, source), &message).unwrap();
}

/// `router` takes the packet, and one as the first of its state does: it waits anew, or gives way.
pub(crate) fn takes(router: &VirtualRouter, meta: &Meta, message: &[u8]) {
    let mut router = router.clone();
    let now = START + SECOND / 2;
    let received = router.counters().adverts_received;
    assert_eq!(router.handle_packet(now, meta, message), Ok(()));
    assert_eq!(router.counters().adverts_received, received + 1);
    assert_eq!(router.state(), State::Backup);
    assert_eq!(router.poll_timeout(), Some(now + router.master_down_interval()));
}

/// `router` drops the packet for `reason`: counted, and else as if it had never come.
pub(crate) fn drops(router: &VirtualRouter, meta: &Meta, message: &[u8], reason: Discard) {
    let mut router = router.clone();
    let now = START + SECOND / 2;
    let (before, dropped) = (router.essence(now), router.counters().discards.of(reason));
    assert_eq!(router.handle_packet(now, meta, message), Err(reason), "{message:02x?}");
    assert_eq!(router.counters().discards.of(reason), dropped + 1);
    assert_eq!(router.essence(now), before);
    assert_eq!(actions(&mut router), [""; 0]);
}
