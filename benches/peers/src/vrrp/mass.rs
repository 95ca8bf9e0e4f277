//! One router is 255 virtual ones with 80 addresses each, and is killed; the other takes all over at once.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use lb_vrrp::linux::Instance;
use lb_vrrp::timer::master_down_interval;
use lb_vrrp::wire::{Interval, Version};
use lb_vrrp::{Config, VirtualAddress};

use super::floor::{Floor, TICK, stolen};
use super::lab::{Frame, Lan, Program, Router, Wire, now, wait_until};
use super::{OURS, PEER, PROGRAMS, rows};
use crate::measure::median;
use crate::row::Row;

const ADDRESSES: u8 = 80;
/// Long enough for 255 routers to become active.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long 20 400 addresses may take to come up and to be announced twice.
const CALM: Duration = Duration::from_secs(90);
/// From the kill on: the takeover itself, and the second lot of announcements 5 s later. What has not come until then counts as if
/// it came at the end.
const WATCHED: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(1);

/// What one mass takeover gave.
#[derive(Default)]
struct Takeover {
    /// Milliseconds, one a virtual router.
    overheads: Vec<f64>,
    /// Milliseconds from its first advert to its first announcement, one a virtual router.
    announcements: Vec<f64>,
    /// Milliseconds by which the time between two adverts of one is not the interval.
    jitters: Vec<f64>,
    /// The same of a timer that another thread waits for meanwhile.
    floor: Vec<f64>,
    /// Seconds of processor time, and what others on the virtual machine's host took meanwhile.
    cpu: f64,
    stolen: f64,
}

pub(super) fn run(rounds: u64, realtime: Option<u8>, peer: &str) -> Vec<Row> {
    let mut takeovers: [Vec<Takeover>; 2] = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        for (program, takeovers) in PROGRAMS.into_iter().zip(&mut takeovers) {
            takeovers.push(take_over(program, realtime));
        }
    }
    let all = |pick: fn(&Takeover) -> &Vec<f64>| {
        takeovers.each_ref().map(|takeovers| takeovers.iter().flat_map(pick).copied().collect::<Vec<f64>>())
    };
    let mut list = Vec::new();
    let size = "mass takeover 255 x 80";
    list.extend(rows(&format!("{size}: overhead"), "ms", &all(|one| &one.overheads), peer));
    list.extend(rows(&format!("{size}: first announcement"), "ms", &all(|one| &one.announcements), peer));
    list.extend(rows(&format!("{size}: advert jitter"), "ms", &all(|one| &one.jitters), peer));
    list.extend(rows(&format!("{size}: jitter of a bare timer"), "ms", &all(|one| &one.floor), peer));
    // All routers advertise at the same moment, once a second: a moment in which the machine stands still makes all late at once.
    let worst = |which: usize| {
        let of_one =
            |one: &Takeover| median((0..100).map(|phase| worst_of(&one.floor, phase, 100)).collect());
        median(takeovers[which].iter().map(of_one).collect())
    };
    let name = format!("{size}: worst jitter of a bare timer once a second");
    list.push(Row::new(&name, rounds, "ms", worst(OURS), worst(PEER), peer));
    let worst =
        |which: usize| takeovers[which].iter().map(|one| worst_of(&one.floor, 0, 1)).fold(0.0, f64::max);
    list.push(Row::new(
        &format!("{size}: worst jitter of a bare timer"),
        rounds,
        "ms",
        worst(OURS),
        worst(PEER),
        peer,
    ));
    for (what, pick) in [
        ("processor time", (|one| one.cpu) as fn(&Takeover) -> f64),
        ("processor time that the host took", |one| one.stolen),
    ] {
        let [ours, theirs] =
            [OURS, PEER].map(|which| median(takeovers[which].iter().map(pick).collect()).max(TICK));
        list.push(Row::new(&format!("{size}: {what}"), rounds, "s", ours, theirs, peer));
    }
    list
}

/// The worst of every so many from the one at `phase` on.
fn worst_of(jitters: &[f64], phase: usize, step: usize) -> f64 {
    jitters.iter().copied().skip(phase).step_by(step).fold(0.0, f64::max)
}

fn instances() -> Vec<Instance> {
    (1..=255)
        .map(|vrid| {
            let address = |host| VirtualAddress::new([10, vrid, 0, host].into(), 32);
            let mut config = Config::new(vrid, (1..=ADDRESSES).map(address));
            config.preempt = false;
            Instance::new(config, "eth0")
        })
        .collect()
}

fn take_over(program: Program, realtime: Option<u8>) -> Takeover {
    let lan = Lan::new(&format!("{}-mass", program.name()), 2);
    let wire = Wire::new(&lan);
    let mut routers = [0, 1].map(|host| Router::new(program, &lan.hosts()[host], instances()));
    routers.iter_mut().for_each(|router| router.realtime = realtime);
    routers[0].start();
    let up = wait_until(PATIENCE, || {
        thread::sleep(Duration::from_millis(500));
        by_vrid(&wire, Duration::ZERO, 0).len() == 255
    });
    assert!(up, "{} does not get all routers active: {}", program.name(), routers[0].log());
    // Until all addresses are up and announced for the second time, 5 s after the first.
    let announced = |frame: &Frame| frame.announced().filter(|_| frame.host == 0);
    thread::sleep(Duration::from_secs(8));
    wait_until(CALM, || {
        thread::sleep(Duration::from_secs(3));
        wire.wait(now() - Duration::from_secs(3), Duration::ZERO, announced).is_none()
    });
    routers[1].start();
    thread::sleep(Duration::from_secs(4));

    let (before, stolen_before) = (routers[1].cpu(), stolen());
    let begin = now() - 2 * INTERVAL;
    let floor = Floor::watch();
    routers[0].kill();
    // On a wire, the neighbours that hear announcements have processors of their own.
    lan.hosts()[0].ip("link set eth0 arp off");
    thread::sleep(WATCHED);
    // As with the adverts: how far the time between two is from what it should be.
    let floor: Vec<f64> = floor.end().windows(2).map(|two| millis(two[0].abs_diff(two[1]))).collect();
    let (cpu, stolen) = (routers[1].cpu() - before, stolen() - stolen_before);

    let mut takeover = Takeover { cpu, stolen, floor, ..Takeover::default() };
    let last = by_vrid(&wire, begin, 0);
    let new = by_vrid(&wire, begin, 1);
    if new.len() < 255 {
        eprintln!("{}: {} of 255 were taken over in {WATCHED:?}", program.name(), new.len());
    }
    let end = millis(begin + 2 * INTERVAL + WATCHED);
    let interval = Interval::from_centiseconds(100).expect("an interval");
    let formula = millis(master_down_interval(Version::V3, 100, interval));
    let mut announced = BTreeMap::new();
    for (vrid, at) in wire.collect(begin, |frame| match frame.announced()? {
        std::net::IpAddr::V4(address) if frame.host == 1 => Some((address.octets()[1], frame.at)),
        _ => None,
    }) {
        announced.entry(vrid).or_insert(at);
    }
    for (vrid, old) in &last {
        let old = old.last().copied().map_or(end, millis);
        let first = new.get(vrid).map_or(end, |adverts| millis(adverts[0]));
        takeover.overheads.push(first - old - formula);
        takeover.announcements.push(announced.get(vrid).map_or(end, |&at| millis(at)) - first);
    }
    for adverts in new.values() {
        let distances = adverts.windows(2).map(|pair| millis(pair[1]) - millis(pair[0]));
        takeover.jitters.extend(distances.map(|distance| (distance - millis(INTERVAL)).abs()));
    }
    takeover
}

/// When each virtual router of a host advertised.
fn by_vrid(wire: &Wire, since: Duration, host: usize) -> BTreeMap<u8, Vec<Duration>> {
    let mut adverts: BTreeMap<u8, Vec<Duration>> = BTreeMap::new();
    for advert in wire.adverts(since, host) {
        adverts.entry(advert.vrid).or_default().push(advert.at);
    }
    adverts
}

fn millis(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}
