//! How fast the Linux driver takes over, and whether adverts are on time while it does. The numbers are printed, not judged:
//! a test asserts no time.
#![allow(clippy::unwrap_used)] // in what tests share, too

mod lab;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, is_active};

const ADDRESS: &str = "10.9.0.100/24";

/// See [`lab::child_process`].
#[test]
#[ignore = "needs root"]
fn child_process() {
    lab::child_process();
}

/// Prints by how much a takeover after `kill -9` is later than the formula, and how soon the first announcement follows.
#[test]
#[ignore = "needs root"]
fn a_takeover_is_as_fast_as_the_formula() {
    let rounds = std::env::var("LB_VRRP_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap());
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    let (mut overheads, mut garps) = (Vec::new(), Vec::new());
    // Priority 100 and 1 cs: 3 * 10 ms + 156/256 * 10 ms.
    let formula = Duration::from_micros(36_093);
    let vmac = std::env::var("LB_VRRP_VMAC").map_or("", |_| "vmac=yes");
    let b = lab.start("b", &format!("addresses={ADDRESS} cs=1 realtime=50 delay=0 {vmac}"));
    for round in 1..=rounds {
        let a = lab.start("a", &format!("priority=150 addresses={ADDRESS} cs=1 realtime=50 delay=0 {vmac}"));
        is_active(&a);
        b.says("-> Backup", round);
        thread::sleep(Duration::from_millis(100));
        wire.clear();
        thread::sleep(Duration::from_millis(50));
        let before = b.count("-> Active");
        a.kill();
        b.says("-> Active", before + 1);
        thread::sleep(Duration::from_millis(50));
        let frames = wire.frames();
        let is_from = |priority: u8| {
            move |frame: &lab::Frame| frame.advert().is_some_and(|advert| advert[2] == priority)
        };
        let left = frames.iter().rposition(is_from(150)).unwrap();
        let (left, after) = (&frames[left], &frames[left + 1..]);
        let came = after.iter().find(|frame| is_from(100)(frame)).unwrap();
        let garp = after.iter().find(|frame| frame.garp().is_some()).unwrap();
        assert!(garp.at > came.at, "the advert is first");
        overheads.push((came.at - left.at).as_micros() as i64 - formula.as_micros() as i64);
        garps.push((garp.at - came.at).as_micros());
    }
    overheads.sort();
    garps.sort();
    let at = |share: usize| (rounds - 1) * share / 100;
    println!(
        "{rounds} takeovers: overhead median {} p99 {} us; first GARP median {} p99 {} max {} us",
        overheads[at(50)],
        overheads[at(99)],
        garps[at(50)],
        garps[at(99)],
        garps[rounds - 1]
    );
    assert!(b.stop());
}

/// Prints what a mass takeover takes: 255 routers with 80 addresses each on one interface.
#[test]
#[ignore = "needs root, and a minute"]
fn adverts_are_on_time_while_twenty_thousand_addresses_move() {
    let routers: usize = std::env::var("LB_VRRP_ROUTERS").map_or(255, |count| count.parse().unwrap());
    let each = 80;
    let lab = Lab::new(&["a", "b"]);
    let wire = lab.wire();
    // Other programs on the machine must not be what is measured.
    let spec = format!("vrid=1 routers={routers} each={each} cs=100 realtime=50");
    let a = lab.start("a", &format!("{spec} priority=150"));
    a.says("-> Active", routers);
    let b = lab.start("b", &format!("{spec} priority=100"));
    b.says("-> Backup", routers);
    let count = |host: &str| lab.ip(host, "-o -4 address show dev eth0").lines().count() - 1;
    let begin = Instant::now();
    while count("a") < routers * each {
        assert!(begin.elapsed() < Duration::from_secs(300), "{} addresses on a", count("a"));
        thread::sleep(Duration::from_millis(200));
    }
    println!("a has all addresses {:?} after b was started", begin.elapsed());
    wire.clear();
    a.kill();
    b.says("-> Active", routers);
    let begin = Instant::now();
    while count("b") < routers * each {
        assert!(begin.elapsed() < Duration::from_secs(300), "{} addresses on b", count("b"));
        thread::sleep(Duration::from_millis(200));
    }
    let moved = begin.elapsed();
    thread::sleep(Duration::from_secs(3));
    let frames = wire.frames();
    let mut first_garp = BTreeMap::new();
    let mut adverts = BTreeMap::<u8, Vec<Duration>>::new();
    let is_new = |frame: &&lab::Frame| frame.advert().is_some_and(|advert| advert[2] == 100);
    let mac = frames.iter().find(is_new).unwrap().source();
    for frame in frames.iter().filter(|frame| frame.source() == mac) {
        if let Some(advert) = frame.advert() {
            adverts.entry(advert[1]).or_default().push(frame.at);
        }
        if let Some([_, _, vrid, _]) = frame.garp() {
            first_garp.entry(vrid).or_insert(frame.at);
        }
    }
    assert_eq!(adverts.len(), routers);
    let mut jitter: Vec<u128> = Vec::new();
    for times in adverts.values() {
        let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]).as_micros());
        jitter.extend(gaps.map(|gap| gap.abs_diff(1_000_000)));
    }
    jitter.sort();
    let at = |share: f64| jitter[((jitter.len() - 1) as f64 * share) as usize];
    let mut garp: Vec<_> =
        adverts.iter().map(|(vrid, times)| first_garp[vrid].saturating_sub(times[0])).collect();
    garp.sort();
    let starts: Vec<Duration> = adverts.values().map(|times| times[0]).collect();
    let spread = *starts.iter().max().unwrap() - *starts.iter().min().unwrap();
    println!(
        "all addresses moved after {moved:?}; first adverts within {spread:?}; first GARP median {:?} max {:?}; \
         {} intervals, jitter median {} p99 {} p99.9 {} max {} us; {} frames",
        garp[garp.len() / 2],
        garp[garp.len() - 1],
        jitter.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        frames.len()
    );
    assert_eq!(b.count("-> Backup"), routers, "none wavered");
    assert!(b.stop());
}
