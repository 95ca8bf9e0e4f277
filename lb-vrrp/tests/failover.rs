//! What a failover is for those around: a client, and the other router when this one was stopped and goes on.

mod lab;

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lab::{Advert, Frame, Lan, Probe, Program, Router, Stalls, Wire, now};
use lb_vrrp::linux::{Instance, Vmac};
use lb_vrrp::timer::master_down_interval;
use lb_vrrp::wire::{Interval, Version};
use lb_vrrp::{Config, VirtualAddress};

const ADDRESS: VirtualAddress = VirtualAddress::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100)), 24);
/// The priorities of hosts 0 and 1.
const PRIORITIES: [u8; 2] = [200, 100];
const PATIENCE: Duration = Duration::from_secs(10);
/// The tests run one after the other: making and removing namespaces holds up all others on the machine.
static TURN: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "needs root"]
fn a_router() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    lab::a_router();
}

fn config(host: usize, centiseconds: u16) -> Config {
    let mut config = Config::new(1, [ADDRESS]);
    config.priority = PRIORITIES[host];
    config.interval = Interval::from_centiseconds(centiseconds).expect("an interval");
    config
}

fn from(host: usize) -> impl Fn(&Frame) -> Option<Advert> {
    move |frame| frame.advert().filter(|advert| advert.host == host && advert.priority > 0)
}

/// The active router's machine dies right after an advert. From that advert to the first of the other router is what the wire
/// sees; from the last answer before it to the first after it is what a client sees that asks every 10 ms. A round in which the
/// machine itself stood still for as long as the two are too far apart shows nothing and is played again.
#[test]
#[ignore = "needs root"]
fn a_client_sees_the_gap_that_the_wire_sees() {
    const PROBES: Duration = Duration::from_millis(10);
    const WITHIN: Duration = Duration::from_millis(20);
    const ROUNDS: usize = 10;
    const TRIES: usize = 60;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let stalls = Stalls::watch();
    for vmac in [false, true] {
        let mut counted = 0;
        let lan = Lan::new("gap", 3);
        let wire = Wire::new(&lan);
        let mut routers = [0, 1].map(|host| {
            let mut instance = Instance::new(config(host, 10), "eth0");
            instance.vmac = vmac.then(Vmac::default);
            Router::new(Program::Ours, &lan.hosts()[host], vec![instance])
        });
        let IpAddr::V4(target) = ADDRESS.address else { unreachable!("it is IPv4") };
        let probe = Probe::new(&lan.hosts()[2], target, PROBES);
        routers[1].start();
        for round in 0..TRIES {
            let begin = now();
            routers[0].start();
            let active = wire.wait(begin, PATIENCE, from(0)).expect("the higher one takes over");
            // Long enough for the client to talk to it.
            thread::sleep(Duration::from_millis(500));
            assert!(probe.answers(active.at).len() > 10, "the client has no answers");

            let last = wire.wait(now(), PATIENCE, from(0)).expect("it advertises").at;
            lan.set_cable(0, false);
            routers[0].kill();
            let first = wire.wait(last, PATIENCE, from(1)).expect("the lower one takes over").at;
            thread::sleep(Duration::from_millis(200));
            // On a busy machine, the capture may lag: it may have gone on until its cable was pulled.
            wire.catch_up();
            let last = wire.adverts(last, 0).last().map_or(last, |advert| advert.at);

            let answers = probe.answers(last - 10 * PROBES);
            let (before, after) = answers
                .array_windows()
                .map(|&[before, after]| (before, after))
                .max_by_key(|(before, after)| *after - *before)
                .expect("the client has answers before and after");
            let (wire_gap, client_gap) = (first - last, after - before);
            println!("vmac {vmac}, round {round}: wire {wire_gap:.1?}, client {client_gap:.1?}");
            let difference = client_gap.abs_diff(wire_gap);
            let stalled = stalls.total(last - PROBES);
            if difference <= WITHIN {
                counted += 1;
            } else {
                assert!(
                    stalled >= difference - WITHIN,
                    "vmac {vmac}, round {round}: {difference:?} apart, and the machine stood still for {stalled:?} in all"
                );
                println!(
                    "vmac {vmac}, round {round} does not count: the machine stood still for {stalled:?}"
                );
            }
            lan.set_cable(0, true);
            if counted == ROUNDS {
                break;
            }
        }
        assert_eq!(counted, ROUNDS, "vmac {vmac}: so many of {TRIES} rounds were within {WITHIN:?}");
    }
}

/// A hundred times an active router is stopped for 1 to 10 s and goes on: until it has listened for a whole master-down
/// interval, it says nothing. Ten pairs of routers at the same time: fast and slow ones, preempting and not.
#[test]
#[ignore = "needs root"]
fn a_router_that_was_stopped_says_nothing_stale() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let tries: usize = thread::scope(|scope| {
        let pairs: Vec<_> = (0..10_u64)
            .map(|pair| {
                scope.spawn(move || {
                    let centiseconds = [1, 10][(pair % 2) as usize];
                    stop_and_go(pair, centiseconds, pair / 2 % 2 == 0)
                })
            })
            .collect();
        pairs.into_iter().map(|pair| pair.join().expect("a pair says nothing stale")).sum()
    });
    assert_eq!(tries, 100);
}

/// One pair: stops of 1 s, 2 s … 10 s. How many there were.
fn stop_and_go(pair: u64, centiseconds: u16, preempt: bool) -> usize {
    let lan = Lan::new(&format!("stop{pair}"), 2);
    let wire = Wire::new(&lan);
    let mut routers = [0, 1].map(|host| {
        let mut config = config(host, centiseconds);
        config.preempt = preempt;
        Router::new(Program::Ours, &lan.hosts()[host], vec![Instance::new(config, "eth0")])
    });
    routers.iter_mut().for_each(Router::start);
    thread::sleep(Duration::from_secs(1));
    let mut spoke = 0;
    for seconds in 1..=10 {
        let active = |frame: &Frame| frame.advert().filter(|advert| advert.priority > 0);
        let stopped = wire.wait(now(), PATIENCE, active).expect("one is active").host;
        routers[stopped].freeze(true);
        thread::sleep(Duration::from_secs(seconds));
        let recently = now() - Duration::from_millis(500);
        wire.catch_up();
        assert!(
            !wire.adverts(recently, 1 - stopped).is_empty(),
            "{centiseconds} cs: the other took over\n{}",
            routers[1 - stopped].log()
        );

        let begin = now();
        routers[stopped].freeze(false);
        let interval = Interval::from_centiseconds(centiseconds).expect("an interval");
        let listens = master_down_interval(Version::V3, PRIORITIES[stopped], interval);
        thread::sleep(listens + Duration::from_millis(500));
        wire.catch_up();
        if let Some(advert) = wire.adverts(begin, stopped).first() {
            let after = advert.at - begin;
            assert!(
                after >= listens,
                "{centiseconds} cs, stopped for {seconds} s: an advert of priority {} after {after:?}, not {listens:?}\n{}",
                advert.priority,
                routers[stopped].log(),
            );
            spoke += 1;
        }
        wire.clear();
    }
    // Else nothing was judged.
    assert!(spoke > 0 || !preempt, "{centiseconds} cs: the one that was stopped has never taken over again");
    10
}
