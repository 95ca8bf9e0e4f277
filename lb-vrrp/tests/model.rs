//! Every way in which two or three routers, the very state machine that drivers run, can go on from their start while the link
//! loses packets, and machines die, are shut down, and stall: searched exhaustively.
//!
//! The abstraction: time stands still except when a router's deadline comes, and deadlines come in order. A packet arrives, or
//! is lost, at any moment until `delay` after it was sent, in any order with others. There are so many faults of each kind as
//! [`Faults`] says, at any time.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_vrrp::event::Transmit;
use lb_vrrp::sim::{Conditions, Essence, Member, handover_bound, settle_bound};
use lb_vrrp::wire::{Interval, Meta, TTL, Version};
use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualRouter};
use stateright::{Checker, Model, Property};

/// How many faults of each kind there may still be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Faults {
    losses: u8,
    crashes: u8,
    shutdowns: u8,
    pauses: u8,
}

/// A packet on the link, or in the socket of a router that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    from: usize,
    to: usize,
    transmit: Transmit,
}

#[derive(Clone, Debug)]
struct World {
    now: Timestamp,
    /// None: dead.
    routers: Vec<Option<VirtualRouter>>,
    paused: Vec<bool>,
    packets: Vec<Packet>,
    left: Faults,
    /// When the last fault was.
    fault: Timestamp,
    /// When the sole active router was shut down, nothing was on its way, and nobody has taken over since.
    vacant: Option<Timestamp>,
    /// How long the slowest handover took.
    handed_over: Duration,
    broken: Option<&'static str>,
}

/// What tells two worlds apart: times count from now, and calm that is long enough is not told from longer.
type Key = (
    Vec<Option<Essence>>,
    Vec<bool>,
    Vec<(usize, usize, u8, u64)>,
    Faults,
    u64,
    Option<u64>,
    Duration,
    Option<&'static str>,
);

impl World {
    fn key(&self) -> Key {
        let age = |at: Timestamp| self.now.since(at).as_micros() as u64;
        let mut packets: Vec<_> = self
            .packets
            .iter()
            .map(|packet| (packet.from, packet.to, packet.transmit.priority, age(packet.transmit.decided)))
            .collect();
        packets.sort_unstable();
        (
            self.routers
                .iter()
                .map(|router| router.as_ref().map(|router| router.essence(self.now)))
                .collect(),
            self.paused.clone(),
            packets,
            self.left,
            age(self.fault),
            self.vacant.map(age),
            self.handed_over,
            self.broken,
        )
    }

    fn running(&self, id: usize) -> Option<&VirtualRouter> {
        self.routers[id].as_ref().filter(|router| !self.paused[id] && router.is_started())
    }

    fn active(&self) -> usize {
        (0..self.routers.len())
            .filter_map(|id| self.running(id))
            .filter(|router| router.state() == State::Active)
            .count()
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Deliver(usize),
    Lose(usize),
    Deadline(usize),
    Crash(usize),
    Start(usize),
    Shutdown(usize),
    Pause(usize),
    Resume { router: usize, timer_first: bool },
}

struct Link {
    members: Vec<(Config, IpAddr)>,
    /// What each sends, and its farewell.
    messages: Vec<[Vec<u8>; 2]>,
    delay: Duration,
    faults: Faults,
    /// How long after the last fault one router must be active.
    bound: Duration,
    /// How long after a shutdown another must be.
    handover: Duration,
}

impl Link {
    fn new(configs: Vec<Config>, faults: Faults) -> Self {
        let delay = Duration::from_millis(10);
        let conditions = Conditions { delay, in_flight: delay, ..Conditions::default() };
        let members: Vec<_> =
            configs.iter().map(|config| Member { config, lowest_priority: config.priority }).collect();
        let (bound, handover) = (settle_bound(&members, &conditions), handover_bound(&members, &conditions));
        let address = |host: usize| IpAddr::from([10, 9, 0, 1 + host as u8]);
        let members: Vec<_> =
            configs.into_iter().enumerate().map(|(host, config)| (config, address(host))).collect();
        let messages = members.iter().map(|(config, source)| {
            [config.priority, 0].map(|priority| common::message(config, *source, priority))
        });
        Self { messages: messages.collect(), members, delay, faults, bound, handover }
    }

    fn start(&self, world: &mut World, id: usize) {
        let (config, source) = &self.members[id];
        let router = VirtualRouter::new(config.clone(), Some(*source)).unwrap();
        world.routers[id] = Some(router);
        self.at(world, id, |router, now| router.handle_event(now, Event::Startup));
    }

    /// Lets router `id` do something and carries out all it wants.
    fn at(&self, world: &mut World, id: usize, act: impl FnOnce(&mut VirtualRouter, Timestamp)) {
        let now = world.now;
        let Some(router) = &mut world.routers[id] else { return };
        act(router, now);
        while let Some(action) = router.poll_action() {
            let Action::Transmit(transmit) = action else { continue };
            if (transmit.priority == 0) == (router.state() == State::Active) {
                world.broken = Some("an advert does not fit the state");
            }
            let others = (0..self.members.len()).filter(|&to| to != id);
            world.packets.extend(others.map(|to| Packet { from: id, to, transmit }));
        }
        let active = router.state() == State::Active;
        if router.present_addresses().count() != if active { router.config().addresses.len() } else { 0 } {
            world.broken = Some("addresses do not fit the state");
        }
        if active && let Some(since) = world.vacant.take() {
            world.handed_over = world.handed_over.max(now.since(since));
        }
    }

    fn wake(&self, world: &mut World, id: usize) {
        self.at(world, id, |router, now| router.handle_timeout(now));
        let deadline = world.routers[id].as_ref().and_then(VirtualRouter::poll_timeout);
        if deadline.is_some_and(|deadline| deadline <= world.now) {
            world.broken = Some("a deadline was handled and is still due");
        }
    }

    fn deliver(&self, world: &mut World, packet: Packet) {
        let Packet { from, to, transmit } = packet;
        let message = &self.messages[from][usize::from(transmit.priority == 0)];
        let meta = Meta::new(transmit.source, transmit.destination, TTL);
        self.at(world, to, |router, now| {
            let _ = router.handle_packet(now, &meta, message);
        });
    }

    fn next_deadline(&self, world: &World) -> Option<Timestamp> {
        (0..self.members.len()).filter_map(|id| world.running(id)?.poll_timeout()).min()
    }
}

impl Model for Link {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let count = self.members.len();
        let mut world = World {
            now: Timestamp::ZERO,
            routers: vec![None; count],
            paused: vec![false; count],
            packets: Vec::new(),
            left: self.faults,
            fault: Timestamp::ZERO,
            vacant: None,
            handed_over: Duration::ZERO,
            broken: None,
        };
        (0..count).for_each(|id| self.start(&mut world, id));
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (index, packet) in world.packets.iter().enumerate() {
            if world.packets[..index].contains(packet) {
                continue;
            }
            if !world.paused[packet.to] {
                steps.push(Step::Deliver(index));
            }
            if world.left.losses > 0 {
                steps.push(Step::Lose(index));
            }
        }
        let next = self.next_deadline(world);
        let urgent = |packet: &Packet| {
            !world.paused[packet.to] && next.is_some_and(|next| packet.transmit.decided + self.delay < next)
        };
        let may_pass = !world.packets.iter().any(urgent);
        for id in 0..self.members.len() {
            let running = world.running(id);
            if may_pass && running.is_some_and(|router| next.is_some() && router.poll_timeout() == next) {
                steps.push(Step::Deadline(id));
            }
            if running.is_some() && world.left.crashes > 0 {
                steps.push(Step::Crash(id));
            }
            if running.is_some() && world.left.shutdowns > 0 {
                steps.push(Step::Shutdown(id));
            }
            if running.is_some() && world.left.pauses > 0 {
                steps.push(Step::Pause(id));
            }
            if world.routers[id].as_ref().is_none_or(|router| !router.is_started()) {
                steps.push(Step::Start(id));
            }
            if world.paused[id] {
                steps.push(Step::Resume { router: id, timer_first: true });
                steps.push(Step::Resume { router: id, timer_first: false });
            }
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut next = last.clone();
        let world = &mut next;
        if !matches!(step, Step::Deliver(_) | Step::Deadline(_)) {
            (world.fault, world.vacant) = (world.now, None);
        }
        match step {
            Step::Deliver(index) => {
                let packet = world.packets.remove(index);
                self.deliver(world, packet);
            }
            Step::Lose(index) => {
                world.packets.remove(index);
                world.left.losses -= 1;
            }
            Step::Deadline(id) => {
                world.now = self.next_deadline(world)?;
                self.wake(world, id);
            }
            Step::Crash(id) => {
                world.left.crashes -= 1;
                world.routers[id] = None;
                world.packets.retain(|packet| packet.to != id);
            }
            Step::Start(id) => self.start(world, id),
            Step::Shutdown(id) => {
                world.left.shutdowns -= 1;
                let sole = world.active() == 1 && world.running(id)?.state() == State::Active;
                let quiet = world.packets.is_empty() && !world.paused.contains(&true);
                let others =
                    (0..self.members.len()).any(|other| other != id && world.running(other).is_some());
                world.vacant = (sole && quiet && others).then_some(world.now);
                self.at(world, id, |router, now| router.handle_event(now, Event::Shutdown));
            }
            Step::Pause(id) => {
                world.left.pauses -= 1;
                world.paused[id] = true;
            }
            Step::Resume { router: id, timer_first } => {
                world.paused[id] = false;
                let due =
                    world.running(id).and_then(VirtualRouter::poll_timeout).is_some_and(|at| at <= world.now);
                if timer_first && due {
                    self.wake(world, id);
                }
                let (waiting, others) = world.packets.iter().partition(|packet| packet.to == id);
                world.packets = others;
                let waiting: Vec<Packet> = waiting;
                waiting.into_iter().for_each(|packet| self.deliver(world, packet));
                let due =
                    world.running(id).and_then(VirtualRouter::poll_timeout).is_some_and(|at| at <= world.now);
                if due {
                    self.wake(world, id);
                }
            }
        }
        // A socket keeps what is new; who waits in it says the same again.
        for id in (0..self.members.len()).filter(|&id| world.paused[id]) {
            let mut kept: Vec<Packet> = Vec::new();
            for packet in world.packets.drain(..).rev() {
                let again = packet.to == id
                    && kept.iter().any(|other| (other.from, other.to) == (packet.from, packet.to));
                if !again {
                    kept.push(packet);
                }
            }
            kept.reverse();
            world.packets = kept;
        }
        // Calm that has lasted for the bound is not told from longer.
        let calm = self.bound + Duration::from_micros(1);
        if world.now.since(world.fault) > calm {
            world.fault = world.now - calm;
        }
        for packet in &mut world.packets {
            let age = world.now.since(packet.transmit.decided);
            if world.paused[packet.to] && age > self.delay {
                packet.transmit.decided = world.now - self.delay;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the rules hold", |_, world: &World| world.broken.is_none()),
            Property::always("after the bound exactly one is active", |link: &Self, world: &World| {
                let calm = world.now.since(world.fault) > link.bound && !world.paused.contains(&true);
                let nobody = (0..link.members.len()).all(|id| world.running(id).is_none());
                !calm || nobody || world.active() == 1
            }),
            Property::always(
                "after the bound the best is active if it preempts",
                |link: &Self, world: &World| {
                    let calm = world.now.since(world.fault) > link.bound && !world.paused.contains(&true);
                    let running = || (0..link.members.len()).filter_map(|id| world.running(id));
                    let active = running().find(|router| router.state() == State::Active);
                    let better = |router: &VirtualRouter, active: &VirtualRouter| {
                        router.config().preempt && router.priority() > active.priority()
                    };
                    !calm || active.is_none_or(|active| !running().any(|router| better(router, active)))
                },
            ),
            Property::always("a shutdown hands over in the skew time", |link: &Self, world: &World| {
                let vacant = world.vacant.map_or(Duration::ZERO, |since| world.now.since(since));
                vacant.max(world.handed_over) <= link.handover
            }),
            Property::always("there is always a next step", |link: &Self, world: &World| {
                let mut steps = Vec::new();
                link.actions(world, &mut steps);
                !steps.is_empty()
            }),
            // That the search reaches what it is there for:
            Property::sometimes("a shutdown hands over", |link: &Self, world: &World| {
                world.handed_over > Duration::ZERO || link.faults.shutdowns == 0
            }),
            Property::sometimes("two are active at once", |_, world: &World| world.active() == 2),
            Property::sometimes("one is active in calm", |link: &Self, world: &World| {
                world.now.since(world.fault) > link.bound && world.active() == 1
            }),
        ]
    }
}

fn config(version: Version, priority: u8, preempt: bool, centiseconds: u16) -> Config {
    let mut config = Config::new(51, ["10.9.0.100/24".parse().unwrap()]);
    config.version = version;
    config.priority = priority;
    config.preempt = preempt;
    config.interval = Interval::from_centiseconds(centiseconds).unwrap();
    // Announcements have no part in an election, and their timers would only make more states.
    (config.garp.delay, config.garp.lower_priority_repeat) = (Duration::ZERO, 0);
    config
}

/// Searches all that can be with each of the mixes of `faults`.
fn search(name: &str, configs: &[Config], faults: &[Faults]) {
    for &faults in faults {
        let start = Instant::now();
        let checker = Link::new(configs.to_vec(), faults).checker().threads(2).spawn_bfs().join();
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        println!("{name}, {faults:?}: {states} states, {depth} steps deep, {:.1?}", start.elapsed());
        checker.assert_properties();
    }
}

use Version::{V2, V3};

const fn faults(losses: u8, crashes: u8, shutdowns: u8, pauses: u8) -> Faults {
    Faults { losses, crashes, shutdowns, pauses }
}

const TWO: [Faults; 3] = [faults(12, 0, 0, 0), faults(4, 2, 1, 0), faults(3, 1, 1, 1)];
const THREE: [Faults; 4] = [faults(4, 0, 0, 0), faults(2, 1, 0, 0), faults(0, 0, 1, 0), faults(1, 0, 0, 1)];

#[test]
fn two_routers_of_version_2() {
    search("2, 101 and 100", &[config(V2, 100, true, 100), config(V2, 101, true, 100)], &TWO);
    search("2, equal", &[config(V2, 100, true, 100), config(V2, 100, true, 100)], &TWO);
}

#[test]
fn two_routers_of_version_3() {
    search("3, no preemption", &[config(V3, 100, false, 100), config(V3, 200, false, 100)], &TWO);
    search("3, mixed intervals", &[config(V3, 100, true, 100), config(V3, 101, true, 50)], &TWO);
    search("3, owner", &[config(V3, 255, true, 100), config(V3, 254, true, 100)], &TWO);
}

#[test]
fn three_routers_of_version_2() {
    let configs = [100, 101, 102].map(|priority| config(V2, priority, true, 100));
    search("2, three", &configs, &THREE);
}

#[test]
fn three_equal_routers_of_version_3() {
    search("3, three equal", &[100; 3].map(|priority| config(V3, priority, true, 100)), &THREE);
}

#[test]
#[ignore = "long"]
fn three_routers_with_a_loss_around_a_shutdown() {
    let configs = [100, 101, 102].map(|priority| config(V2, priority, true, 100));
    search("2, three", &configs, &[faults(1, 0, 1, 0)]);
}
