//! Whatever happens to a virtual router, in whatever order: it does not panic, its work ends, it never asks to be woken
//! for the past, its addresses are on the interface while it is active and leave it afterwards, and it speaks while it
//! is active only.
#![no_main]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use lb_vrrp::config::{AddressCheck, Auth, LateWake, LosingAdvert, Owners};
use lb_vrrp::event::{Faults, Transmit};
use lb_vrrp::hmac::{AntiReplay, Hmac, Key, Mode};
use lb_vrrp::wire::auth::Sequence;
use lb_vrrp::wire::{
    Addresses, Advert, AuthField, ChecksumMode, Coverage, Family, Interval, MAX_MESSAGE, Meta, TTL, Version,
};
use lb_vrrp::{Action, Config, Event, State, Timestamp, VirtualAddress, VirtualRouter};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// What the wall clock says at the beginning.
const WALL_CLOCK: Duration = Duration::from_secs(1_795_262_205);

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    settings: Settings,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Clone, Debug)]
struct Settings {
    version_2: bool,
    six: bool,
    vrid: u8,
    priority: u8,
    interval: u16,
    addresses: Vec<(u8, bool)>,
    preempt: bool,
    preempt_delay: u16,
    startup_delay: u16,
    garp: (u8, u16, u16, u8, u8, u16),
    peers: Vec<u8>,
    mode: u8,
    auth: bool,
    /// Keys, the active one, whether by time, the window, the mode.
    hmac: Option<(Vec<u8>, u8, bool, Option<u16>, u8)>,
    advertise_when_late: bool,
    ignore_owners: bool,
    losing_advert: u8,
    address_check: u8,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// To the next deadline, and so many microseconds beyond.
    Wake(u32),
    /// So many milliseconds pass, and nobody wakes the router.
    Sleep(u16),
    /// Bytes from this host, to the group or not, with this TTL.
    Bytes(u8, bool, u8, &'a [u8]),
    /// An advert of the same virtual router: host, priority, centiseconds, whether it lists the same addresses.
    Advert(u8, u8, u16, bool),
    /// One as its peer signs it: host, priority, by how many milliseconds its clock is behind.
    Signed(u8, u8, i16),
    Event(Told),
    /// So many actions are polled, and of these the ones whose bit is set fail.
    Work(u8, u16),
    Reconfigure(Settings),
}

#[derive(Arbitrary, Debug)]
enum Told {
    Startup,
    Shutdown,
    Fault(u8),
    Cleared(u8),
    Priority(u8),
    Source(Option<u8>),
    AddressLost(u8),
    TakeOver,
    StandDown,
    WallClock(u64),
    HeldUp(u16),
}

fn host(six: bool, number: u8) -> IpAddr {
    if six { [0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)].into() } else { [10, 9, 0, number].into() }
}

impl Settings {
    fn config(&self) -> Config {
        let address = |&(number, advertised): &(u8, bool)| VirtualAddress {
            advertised,
            ..VirtualAddress::new(host(self.six, number), 24)
        };
        let millis = |millis: u16| Duration::from_millis(millis.into());
        let mut config = Config::new(self.vrid, self.addresses.iter().map(address));
        config.version = if self.version_2 { Version::V2 } else { Version::V3 };
        config.priority = self.priority;
        config.interval = Interval::from_centiseconds(self.interval % 4095 + 1).expect("in bounds");
        if self.version_2 {
            config.interval = Interval::from_seconds((self.interval as u8).max(1)).expect("in bounds");
        }
        config.preempt = self.preempt;
        config.preempt_delay = millis(self.preempt_delay);
        config.startup_delay = millis(self.startup_delay);
        let (repeat, delay, refresh, refresh_repeat, lower_priority_repeat, lower_priority_delay) = self.garp;
        config.garp.repeat = repeat;
        config.garp.delay = millis(delay);
        config.garp.refresh = millis(refresh);
        config.garp.refresh_repeat = refresh_repeat;
        config.garp.lower_priority_repeat = lower_priority_repeat;
        config.garp.lower_priority_delay = millis(lower_priority_delay);
        config.unicast_peers = self.peers.iter().map(|&number| host(self.six, number)).collect();
        config.checksum = [ChecksumMode::Either, ChecksumMode::PseudoHeader, ChecksumMode::MessageOnly]
            [usize::from(self.mode % 3)];
        if self.auth {
            config.auth = Auth::simple_text("password");
        }
        config.hmac = self.hmac.as_ref().map(|(keys, active_key, by_time, window, mode)| Hmac {
            keys: keys.iter().filter_map(|&id| Key::new(id, &[id; 32]).ok()).collect(),
            active_key: *active_key,
            anti_replay: if *by_time { AntiReplay::Time } else { AntiReplay::Monotonic },
            time_window: window.map(millis),
            mode: [Mode::Enforce, Mode::Permissive, Mode::ReceiveOnly][usize::from(mode % 3)],
        });
        if self.advertise_when_late {
            config.late_wake = LateWake::Advertise;
        }
        if self.ignore_owners {
            config.owners = Owners::Ignore;
        }
        config.losing_advert = [LosingAdvert::ByVersion, LosingAdvert::Answer, LosingAdvert::Discard]
            [usize::from(self.losing_advert % 3)];
        config.address_check = [AddressCheck::Ignore, AddressCheck::Report, AddressCheck::Drop]
            [usize::from(self.address_check % 3)];
        config
    }
}

/// The router, the time, and what an observer of its interface would see.
struct World {
    router: VirtualRouter,
    now: Timestamp,
    present: BTreeSet<VirtualAddress>,
    packets: u64,
}

impl World {
    fn step(&mut self, step: &Step<'_>) {
        match *step {
            Step::Wake(late) => {
                if let Some(at) = self.router.poll_timeout() {
                    self.now = self.now.max(at + Duration::from_micros(late.into()));
                    self.router.handle_timeout(self.now);
                    let next = self.router.poll_timeout();
                    assert!(
                        next.is_none_or(|next| next > self.now),
                        "woken at {}, again at {next:?}",
                        self.now
                    );
                }
            }
            Step::Sleep(millis) => self.now = self.now + Duration::from_millis(millis.into()),
            Step::Bytes(source, group, ttl, bytes) => {
                let source = host(self.router.config().family() == Family::Ipv6, source);
                let destination = if group { Family::of(source).multicast() } else { source };
                self.hear(&Meta::new(source, destination, ttl), bytes);
            }
            Step::Advert(source, priority, interval, same) => self.advert(source, priority, interval, same),
            Step::Signed(source, priority, behind) => self.signed(source, priority, behind),
            Step::Event(ref told) => self.tell(told),
            Step::Work(count, failing) => {
                for at in 0..count {
                    if !self.work(failing >> (at % 16) & 1 == 1) {
                        break;
                    }
                }
            }
            Step::Reconfigure(ref settings) => {
                let before = self.router.state();
                let _ = self.router.reconfigure(self.now, settings.config());
                assert_eq!(self.router.state(), before);
            }
        }
        self.check();
    }

    fn hear(&mut self, meta: &Meta, bytes: &[u8]) {
        let _ = self.router.handle_packet(self.now, meta, bytes);
        self.packets += 1;
        let counters = self.router.counters();
        assert_eq!(counters.adverts_received + counters.discards.total(), self.packets);
    }

    fn advert(&mut self, source: u8, priority: u8, interval: u16, same: bool) {
        let config = self.router.config();
        let family = config.family();
        let source = host(family == Family::Ipv6, source);
        let mut octets: Vec<u8> = Vec::new();
        for address in config.advertised() {
            match address {
                IpAddr::V4(address) => octets.extend(address.octets()),
                IpAddr::V6(address) => octets.extend(address.octets()),
            }
        }
        if !same {
            *octets.last_mut().expect("there is an address") ^= 1;
        }
        let advert = Advert {
            version: config.version,
            vrid: config.vrid,
            priority,
            interval: match config.version {
                Version::V2 => config.interval,
                Version::V3 => Interval::from_centiseconds(interval % 4095 + 1).expect("in bounds"),
            },
            addresses: Addresses::new(family, &octets),
            auth: match config.auth {
                Auth::None => AuthField::None,
                Auth::SimpleText(text) => AuthField::SimpleText(text),
            },
            coverage: match (config.version, family, config.checksum) {
                (Version::V2, ..) | (_, Family::Ipv4, ChecksumMode::MessageOnly) => Coverage::Message,
                _ => Coverage::PseudoHeader,
            },
            trailer: &[],
        };
        let mut buffer = [0; MAX_MESSAGE];
        let message = advert.encode(source, family.multicast(), &mut buffer).expect("it fits");
        self.hear(&Meta::new(source, family.multicast(), TTL), message);
    }

    fn signed(&mut self, source: u8, priority: u8, behind: i16) {
        let config = self.router.config().clone();
        let family = config.family();
        let source = host(family == Family::Ipv6, source);
        let peer = VirtualRouter::new(config, Some(source)).expect("as good as the router's own");
        let mut transmit = Transmit::new(source, family.multicast(), priority, self.now);
        let wall_clock = WALL_CLOCK + self.now.since(Timestamp::ZERO);
        let behind_by = Duration::from_millis(behind.unsigned_abs().into());
        transmit.sequence =
            Sequence::at(if behind < 0 { wall_clock + behind_by } else { wall_clock - behind_by });
        let mut buffer = [0; MAX_MESSAGE];
        let message = peer.encode(&transmit, &mut buffer).expect("it fits");
        let meta = Meta::new(source, family.multicast(), TTL);
        self.hear(&meta, message);
        // It is good once at most, if signatures are asked for.
        if self.router.config().hmac.as_ref().is_some_and(|hmac| hmac.mode == Mode::Enforce) {
            let before = self.router.counters().adverts_received;
            self.hear(&meta, message);
            assert_eq!(self.router.counters().adverts_received, before);
        }
    }

    fn tell(&mut self, told: &Told) {
        let six = self.router.config().family() == Family::Ipv6;
        let event = match *told {
            Told::Startup => Event::Startup,
            Told::Shutdown => Event::Shutdown,
            Told::Fault(bits) => Event::Fault(Faults::from_bits_truncate(bits.into())),
            Told::Cleared(bits) => Event::Cleared(Faults::from_bits_truncate(bits.into())),
            Told::Priority(priority) => Event::Priority(priority),
            Told::Source(number) => Event::Source(number.map(|number| host(six, number))),
            Told::AddressLost(number) => {
                let address = host(six, number);
                self.present.retain(|present| present.address != address);
                Event::AddressLost(address)
            }
            Told::WallClock(seconds) => Event::WallClock(Duration::from_secs(seconds)),
            Told::HeldUp(millis) => Event::HeldUp(Duration::from_millis(millis.into())),
            Told::TakeOver => Event::TakeOver,
            Told::StandDown => Event::StandDown,
        };
        self.router.handle_event(self.now, event);
    }

    /// Does one thing that the router wants, or fails to. Whether there was one.
    fn work(&mut self, fails: bool) -> bool {
        let active = self.router.state() == State::Active;
        let Some(action) = self.router.poll_action() else { return false };
        match action {
            Action::Transmit(transmit) => {
                assert!(active || transmit.priority == 0, "{transmit:?} of a router that is not active");
                assert_eq!(Some(transmit.source), self.router.source());
                let mut buffer = [0; MAX_MESSAGE];
                let message = self.router.encode(&transmit, &mut buffer).expect("it fits");
                let meta = Meta::new(transmit.source, transmit.destination, TTL);
                let advert = Advert::decode(&meta, message, self.router.config().checksum).expect("good");
                assert_eq!(advert.priority, transmit.priority);
            }
            Action::AddAddress(address) => {
                assert!(active, "{address} is added to a router that is not active");
                assert!(fails || self.present.insert(address), "{address} is added twice");
            }
            Action::RemoveAddress(address) => {
                assert!(fails || self.present.remove(&address), "{address} is removed and is not there");
            }
            Action::GratuitousArp(address) => assert!(active && self.has(address.into())),
            Action::UnsolicitedNeighborAdvertisement(address) => assert!(active && self.has(address.into())),
            _ => {}
        }
        if fails {
            self.router.handle_failure(self.now, &action);
        }
        true
    }

    /// Whether its addresses are there, and no others.
    fn has_all(&self) -> bool {
        let wanted: BTreeSet<_> = self.router.config().addresses.iter().copied().collect();
        self.present == wanted
    }

    fn has(&self, address: IpAddr) -> bool {
        self.present.iter().any(|present| present.address == address)
    }

    /// What holds at every moment.
    fn check(&self) {
        let router = &self.router;
        assert_eq!(router.present_addresses().collect::<BTreeSet<_>>(), self.present);
        if router.state() != State::Initialize {
            assert!(router.is_started() && router.faults().is_empty() && router.source().is_some());
            // A backup waits as long as its priority and interval said when it began to: at most for three times 255 s and
            // the skew time of priority 1.
            let longest = match router.state() {
                State::Active => router.config().interval.duration(),
                _ => Duration::from_secs(3 * 255 + 1),
            };
            let next = router.poll_timeout();
            assert!(next.is_some_and(|at| at <= self.now + longest), "at {}, wakes at {next:?}", self.now);
        }
    }

    /// Does all that is wanted, as long as nothing fails.
    fn finish(&mut self) {
        let addresses = self.router.config().addresses.len() + self.present.len();
        let most = 1000 + 300 * addresses + self.router.config().unicast_peers.len();
        let mut steps = 0;
        while self.work(false) {
            steps += 1;
            assert!(steps <= most, "no end of work after {steps} actions");
        }
        self.check();
    }
}

fuzz_target!(|input: Input<'_>| {
    let source = host(input.settings.six, 5);
    let Ok(router) = VirtualRouter::new(input.settings.config(), Some(source)) else { return };
    let mut world = World { router, now: Timestamp::ZERO, present: BTreeSet::new(), packets: 0 };
    world.router.handle_event(world.now, Event::WallClock(WALL_CLOCK));
    world.router.handle_event(world.now, Event::Startup);
    for step in &input.steps {
        world.step(step);
    }
    world.finish();

    // Everything is well again, and nobody else is there: it becomes active and has its addresses.
    world.tell(&Told::Startup);
    world.tell(&Told::Source(Some(5)));
    world.router.handle_event(world.now, Event::Cleared(Faults::all()));
    for _ in 0..1000 {
        world.finish();
        // What could not be removed before counts as well, until it can.
        if world.router.state() == State::Active && world.has_all() {
            break;
        }
        world.step(&Step::Wake(0));
    }
    world.finish();
    assert_eq!(world.router.state(), State::Active);
    assert!(world.has_all(), "{:?}, not {:?}", world.present, world.router.config().addresses);

    // And it leaves nothing behind.
    world.tell(&Told::Shutdown);
    for _ in 0..10 {
        world.finish();
        world.step(&Step::Wake(0));
    }
    world.finish();
    assert_eq!(world.present, BTreeSet::new());
    assert_eq!(world.router.poll_timeout(), None);
});
