//! One router is killed, the other takes over.

use std::thread;
use std::time::Duration;

use lb_vrrp::Config;
use lb_vrrp::linux::Instance;
use lb_vrrp::timer::master_down_interval;
use lb_vrrp::wire::{Interval, Version};

use super::floor::{Floor, TICK, stolen};
use super::lab::{Advert, Frame, Lan, Program, Router, Wire, now};
use super::{OURS, PROGRAMS, rows};
use crate::row::Row;

const PATIENCE: Duration = Duration::from_secs(20);
const PRIORITY: u8 = 100;

/// How the routers are timed, and how many pairs of each program fail over side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) version: Version,
    pub(super) centiseconds: u16,
    pub(super) pairs: usize,
}

/// What one failover gave, in microseconds.
struct Sample {
    overhead: f64,
    announcement: f64,
    /// How late a bare timer was meanwhile, again and again.
    floor: Vec<f64>,
}

/// `count` failovers of each program, in turns.
pub(super) fn run(name: &str, timing: Timing, realtime: Option<u8>, count: usize, peer: &str) -> Vec<Row> {
    let mut overheads = [const { Vec::new() }; 2];
    let mut announcements = [const { Vec::new() }; 2];
    let mut floors = [const { Vec::new() }; 2];
    let mut taken = [0.0; 2];
    let mut pairs: Vec<[Pair; 2]> = (0..timing.pairs)
        .map(|index| PROGRAMS.map(|program| Pair::new(program, index, timing, realtime)))
        .collect();
    for round in 0..count.div_ceil(timing.pairs) {
        // Whoever is second in one round is first in the next: what the one's start costs falls on both alike.
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let before = stolen();
            let samples: Vec<Sample> = thread::scope(|scope| {
                let rounds: Vec<_> =
                    pairs.iter_mut().map(|pair| scope.spawn(move || pair[which].fail_over(round))).collect();
                rounds.into_iter().map(|round| round.join().expect("a failover")).collect()
            });
            taken[which] += stolen() - before;
            for sample in samples {
                overheads[which].push(sample.overhead);
                announcements[which].push(sample.announcement);
                floors[which].extend(sample.floor);
            }
        }
    }
    let mut all = Vec::from(rows(&format!("failover overhead, {name}"), "us", &overheads, peer));
    all.extend(rows(&format!("first announcement after the advert, {name}"), "us", &announcements, peer));
    all.extend(rows(&format!("lateness of a bare timer, {name}"), "us", &floors, peer));
    let taken_name = format!("processor time that the host took, {name}");
    let [ours, theirs] = taken.map(|taken| f64::max(taken, TICK));
    all.push(Row::new(&taken_name, overheads[OURS].len() as u64, "s", ours, theirs, peer));
    all
}

/// Two routers of one program and of the same priority, that do not preempt: whoever is active stays so.
struct Pair {
    routers: [Router; 2],
    wire: Wire,
    // Dropped last.
    _lan: Lan,
    timing: Timing,
}

impl Pair {
    fn new(program: Program, index: usize, timing: Timing, realtime: Option<u8>) -> Self {
        let lan = Lan::new(&format!("{}{index}", program.name()), 2);
        let wire = Wire::new(&lan);
        let mut config = Config::new(51, ["192.0.2.100/24".parse().expect("an address")]);
        config.version = timing.version;
        config.priority = PRIORITY;
        config.preempt = false;
        config.interval = Interval::from_centiseconds(timing.centiseconds).expect("an interval");
        let mut routers = [0, 1].map(|host| {
            Router::new(program, &lan.hosts()[host], vec![Instance::new(config.clone(), "eth0")])
        });
        routers.iter_mut().for_each(|router| router.realtime = realtime);
        routers[0].start();
        wire.wait(Duration::ZERO, PATIENCE, Frame::advert).expect("the first becomes active");
        routers[1].start();
        let pair = Self { routers, wire, _lan: lan, timing };
        pair.settle();
        pair
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(10 * u64::from(self.timing.centiseconds))
    }

    /// Until the one that was started last has heard the other, and what its start cost the machine is over.
    fn settle(&self) {
        thread::sleep(2 * self.interval() + Duration::from_millis(300));
    }

    fn fail_over(&mut self, round: usize) -> Sample {
        loop {
            // Anywhere in the interval.
            thread::sleep(self.interval() * (round * 37 % 100) as u32 / 100);
            let active = self.wire.wait(now(), PATIENCE, Frame::advert).expect("one is active").host;
            let other = 1 - active;
            let recently = now() - 3 * self.interval();
            if !self.wire.adverts(recently, other).is_empty() {
                // Both, for a moment: the machine has held the active one up. They settle it.
                self.settle();
                continue;
            }
            self.routers[active].kill();
            let floor = Floor::watch();
            let begin = recently;
            let first = self.wire.wait(begin, PATIENCE, from(other)).expect("the other one takes over");
            let floor = floor.end().into_iter().map(micros).collect();
            let last = self.wire.adverts(begin, active).last().expect("it was active").at;
            let announced = |frame: &Frame| {
                let counts = frame.host == other && frame.announced().is_some();
                counts.then_some(frame.at)
            };
            let announced = self.wire.wait(begin, PATIENCE, announced).expect("it announces the address");
            let interval = Interval::from_centiseconds(self.timing.centiseconds).expect("an interval");
            let formula = master_down_interval(self.timing.version, PRIORITY, interval);
            let sample = Sample {
                overhead: micros(first.at) - micros(last) - micros(formula),
                announcement: micros(announced) - micros(first.at),
                floor,
            };
            self.routers[active].start();
            self.wire.clear();
            self.settle();
            return sample;
        }
    }
}

fn from(host: usize) -> impl Fn(&Frame) -> Option<Advert> {
    move |frame| frame.advert().filter(|advert| advert.host == host)
}

fn micros(time: Duration) -> f64 {
    // Since 1970 in microseconds: less than 2^53, so nothing is lost but nanoseconds.
    time.as_nanos() as f64 / 1000.0
}
