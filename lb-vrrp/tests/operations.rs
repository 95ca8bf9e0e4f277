//! What the `operations` page says of wrong set-ups and broken networks, each row a test.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::config::{Auth, OWNER, Owners};
use lb_vrrp::event::{Conflict, Notification, Reason};
use lb_vrrp::sim::{Clock, RouterId, Simulation, What};
use lb_vrrp::wire::{ChecksumMode, Discard, Interval, Meta, TTL, Version};
use lb_vrrp::{Config, State};

/// Three times as long as a master-down interval of the default settings, and more.
const LONG: Duration = Duration::from_secs(12);
const A: RouterId = RouterId(0);
const B: RouterId = RouterId(1);

fn config(priority: u8) -> Config {
    Config { priority, ..Config::new(51, ["192.168.250.250/24".parse().unwrap()]) }
}

fn version_2(priority: u8) -> Config {
    Config { version: Version::V2, ..config(priority) }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 168, 250, last])
}

/// Two routers, A at .111 and B at .121, after they have run for long.
fn two(a: Config, b: Config) -> Simulation {
    at(a, 111, b, 121)
}

fn at(a: Config, host_a: u8, b: Config, host_b: u8) -> Simulation {
    let mut sim = Simulation::new(1);
    sim.record();
    sim.add(a, address(host_a), Clock::default()).unwrap();
    sim.add(b, address(host_b), Clock::default()).unwrap();
    sim.start(A);
    sim.start(B);
    sim.run_for(LONG);
    sim
}

/// All that a router has said.
fn said(sim: &Simulation, id: RouterId) -> impl Iterator<Item = Notification> + '_ {
    sim.trace().entries().iter().filter(move |entry| entry.router == Some(id)).filter_map(|entry| match entry
        .what
    {
        What::Said(notification) => Some(notification),
        _ => None,
    })
}

/// The conflicts that a router has said, in order.
fn conflicts(sim: &Simulation, id: RouterId) -> Vec<Conflict> {
    said(sim, id)
        .filter_map(|notification| match notification {
            Notification::Conflict { kind, .. } => Some(kind),
            _ => None,
        })
        .collect()
}

fn discards(sim: &Simulation, id: RouterId, reason: Discard) -> u32 {
    sim.router(id).unwrap().counters().discards.of(reason)
}

#[track_caller]
fn ends(sim: &Simulation, active: &[RouterId], said_by_a: &[Conflict], said_by_b: &[Conflict]) {
    assert_eq!(sim.active(), active, "\n{}", sim.trace());
    assert_eq!(conflicts(sim, A), said_by_a, "\n{}", sim.trace());
    assert_eq!(conflicts(sim, B), said_by_b, "\n{}", sim.trace());
    assert!(sim.violations().is_empty());
}

#[test]
fn two_owners() {
    let mut sim = two(config(OWNER), config(OWNER));
    ends(&sim, &[B], &[Conflict::TwoOwners], &[Conflict::TwoOwners]);
    sim.run_for(100 * LONG);
    assert_eq!(sim.router(A).unwrap().counters().became_active, 1, "for good");
}

#[test]
fn two_owners_by_the_letter() {
    let owner = Config { owners: Owners::Ignore, ..config(OWNER) };
    let sim = two(owner.clone(), owner);
    ends(&sim, &[A, B], &[], &[]);
    assert!(discards(&sim, A, Discard::Owner) > 10 && discards(&sim, B, Discard::Owner) > 10);
}

#[test]
fn equal_priorities() {
    // At the same moment both take over.
    ends(&two(config(100), config(100)), &[B], &[Conflict::EqualPriority], &[Conflict::EqualPriority]);
    // One after the other: the first stays, though the second's address is greater.
    let mut sim = Simulation::new(1);
    sim.record();
    sim.add(config(100), address(111), Clock::default()).unwrap();
    sim.add(config(100), address(121), Clock::default()).unwrap();
    sim.start(A);
    sim.run_for(LONG);
    sim.start(B);
    sim.run_for(LONG);
    ends(&sim, &[A], &[], &[]);
}

#[test]
fn equal_addresses() {
    let sim = at(config(150), 111, config(100), 111);
    ends(&sim, &[A, B], &[Conflict::SameAddress], &[Conflict::SameAddress]);
    assert!(discards(&sim, A, Discard::OwnPacket) > 5 && discards(&sim, B, Discard::OwnPacket) > 5);
}

#[test]
fn looped_packets() {
    let mut sim = two(config(150), config(100));
    // What A has sent comes back to it by way of B's end of the link.
    let advert = [0x31, 51, 150, 1, 0, 100, 0xe1, 0x1b, 192, 168, 250, 250];
    sim.carry(B, Meta::new(address(111), "224.0.0.18".parse().unwrap(), TTL), &advert);
    sim.run_for(LONG);
    ends(&sim, &[A], &[Conflict::SameAddress], &[]);
    assert_eq!(discards(&sim, A, Discard::OwnPacket), 1);
}

fn summed(priority: u8, checksum: ChecksumMode) -> Config {
    Config { checksum, ..config(priority) }
}

#[test]
fn opposite_checksum_modes() {
    let sim = two(summed(150, ChecksumMode::PseudoHeader), summed(100, ChecksumMode::MessageOnly));
    ends(&sim, &[A, B], &[Conflict::ChecksumMode], &[Conflict::ChecksumMode]);
}

#[test]
fn checksum_mode_either_behind_message_only() {
    ends(&two(summed(150, ChecksumMode::MessageOnly), summed(100, ChecksumMode::Either)), &[A], &[], &[]);
}

#[test]
fn checksum_mode_either_before_message_only() {
    let sim = two(summed(150, ChecksumMode::Either), summed(100, ChecksumMode::MessageOnly));
    ends(&sim, &[A, B], &[Conflict::SplitBrain], &[Conflict::ChecksumMode]);
    assert!(sim.router(A).unwrap().counters().split_brain > 5);
}

#[test]
fn mixed_intervals_of_version_2() {
    let slow = Config { interval: Interval::from_seconds(2).unwrap(), ..version_2(100) };
    ends(&two(version_2(150), slow), &[A, B], &[Conflict::Interval], &[Conflict::Interval]);
}

#[test]
fn mixed_intervals_of_version_3() {
    let slow = Config { interval: Interval::from_seconds(2).unwrap(), ..config(150) };
    let sim = two(slow.clone(), config(100));
    ends(&sim, &[A], &[], &[]);
    assert!(said(&sim, B).any(|said| said == Notification::IntervalLearned(slow.interval)));
}

#[test]
fn one_way_cut_to_the_backup() {
    let mut sim = two(config(150), config(100));
    sim.link_mut().cut(A, B);
    sim.run_for(LONG);
    ends(&sim, &[A, B], &[Conflict::SplitBrain], &[]);
    sim.link_mut().mend_all();
    sim.run_for(sim.settle_bound());
    assert_eq!(sim.active(), [A]);
}

#[test]
fn one_way_cut_to_the_active() {
    let mut sim = two(config(150), config(100));
    sim.link_mut().cut(B, A);
    sim.run_for(LONG);
    ends(&sim, &[A], &[], &[]);
}

#[test]
fn full_cut() {
    let mut sim = two(config(150), config(100));
    sim.link_mut().cut(A, B);
    sim.link_mut().cut(B, A);
    sim.run_for(LONG);
    ends(&sim, &[A, B], &[], &[]);
    sim.link_mut().mend_all();
    sim.run_for(sim.settle_bound());
    ends(&sim, &[A], &[Conflict::SplitBrain], &[]);
    let stepped_down = Notification::State {
        from: State::Active,
        to: State::Backup,
        reason: Reason::HigherPriority(address(111)),
    };
    assert!(said(&sim, B).any(|said| said == stepped_down));
}

#[test]
fn other_addresses() {
    let mut other = config(100);
    other.addresses = vec!["192.168.250.251/24".parse().unwrap()];
    let sim = two(config(150), other);
    ends(&sim, &[A], &[], &[Conflict::AddressList]);
    assert_eq!((sim.addresses(A), sim.addresses(B)), (&[address(250)][..], &[][..]));
}

#[test]
fn other_authentication() {
    let pass = Config { auth: Auth::simple_text("secret"), ..version_2(150) };
    ends(&two(pass, version_2(100)), &[A, B], &[Conflict::Authentication], &[Conflict::Authentication]);
}

#[test]
fn mixed_versions() {
    let sim = two(config(150), version_2(100));
    ends(&sim, &[A, B], &[], &[]);
    assert!(discards(&sim, A, Discard::Version) > 5 && discards(&sim, B, Discard::Version) > 5);
}

#[test]
fn stopped_and_continued() {
    for queues in [true, false] {
        let mut sim = two(config(150), config(100));
        sim.pause(A, queues, None);
        sim.run_for(LONG);
        assert_eq!(sim.active(), [B]);
        let sent = sim.router(A).unwrap().counters().adverts_sent;
        sim.resume(A);
        sim.run_for(Duration::ZERO);
        assert_eq!((sim.active(), sim.router(A).unwrap().state()), (vec![B], State::Backup));
        assert_eq!(sim.router(A).unwrap().counters().adverts_sent, sent, "not a word");
        assert!(
            said(&sim, A).any(|said| matches!(said, Notification::State { reason: Reason::LateWake, .. }))
        );
        sim.run_for(LONG);
        assert_eq!(sim.active(), [A], "it preempts");
        assert!(sim.violations().is_empty());
    }
}

#[test]
fn the_page_has_a_row_for_each_test() {
    let (page, source) = (include_str!("../docs/operations.md"), include_str!("operations.rs"));
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let named: BTreeSet<_> = rows.filter_map(|row| row.trim_end_matches(" |").rsplit('`').nth(1)).collect();
    let mut lines = source.lines();
    let mut tests = BTreeSet::new();
    while lines.any(|line| line == "#[test]") {
        let name = lines.next().unwrap().strip_prefix("fn ").unwrap().split('(').next().unwrap();
        tests.insert(name);
    }
    assert!(tests.remove("the_page_has_a_row_for_each_test"));
    assert_eq!(named, tests);
}
