//! Our router beside keepalived and FRR on one wire: every combination of version, family, cast, VMAC, peer and direction.
//!
//! `cargo test -p lb-vrrp --test interop -- --ignored --nocapture` prints the table. A cell plays one history:
//!
//! 1. the lower router alone becomes active; the higher one starts and takes over: *election*, whoever starts first;
//! 2. the higher is killed: the lower takes over after the master-down interval, in version 3 that of the higher one's
//!    interval, not its own: *kill*, *learned interval*;
//! 3. the higher starts again and takes over: *preempt*;
//! 4. it is told to end: it says farewell, and the lower takes over after the skew time: *handover*;
//! 5. the lower starts anew while the higher is active, and keeps quiet: *election*, the other way around;
//! 6. the lower is told to be the higher, and takes over: *priority change*;
//! 7. the other, made the highest but not preempting, starts and keeps quiet: *nopreempt*.

mod lab;

use std::any::Any;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Advert, Frame, Host, Lan, Program, Router, Wire, now, wait_until};
use lb_vrrp::linux::{Instance, Vmac};
use lb_vrrp::timer::{master_down_interval, skew_time};
use lb_vrrp::wire::{Family, Interval, Version};
use lb_vrrp::{Config, ConfigError, VirtualAddress};

/// Cells that are played at the same time. They mostly wait.
const AT_ONCE: usize = 9;
/// How much later than by the formula a router may be, on a machine that does so much else.
const LATE: Duration = Duration::from_millis(250);
/// How much earlier: FRR cuts the skew time to whole centiseconds, and the kernel stamps frames after they are sent.
const EARLY: Duration = Duration::from_millis(15);
/// How long a program may take to start or to read its configuration again, and addresses to come and go: all namespaces share
/// the kernel's one lock for interfaces, and other cells make and remove theirs meanwhile.
const START: Duration = Duration::from_secs(5);

const LOWER: usize = 0;
const HIGHER: usize = 1;

#[derive(Clone, Copy, Debug)]
struct Cell {
    version: Version,
    family: Family,
    unicast: bool,
    /// Ours; keepalived's too. FRR knows nothing else.
    vmac: bool,
    peer: Program,
    /// Whether ours has the higher priority.
    ours_is_higher: bool,
    vrid: u8,
}

enum Outcome {
    Passed(Vec<Frame>),
    Failed(String),
    Unsupported(&'static str),
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for version in [Version::V2, Version::V3] {
        for family in [Family::Ipv4, Family::Ipv6] {
            for unicast in [false, true] {
                for vmac in [false, true] {
                    for peer in [Program::Keepalived, Program::Frr] {
                        for ours_is_higher in [true, false] {
                            let vrid = cells.len() as u8 + 1;
                            cells.push(Cell { version, family, unicast, vmac, peer, ours_is_higher, vrid });
                        }
                    }
                }
            }
        }
    }
    cells
}

#[test]
#[ignore = "needs root, keepalived, FRR and tshark"]
fn every_cell_that_the_peer_supports_passes() {
    let start = Instant::now();
    let cells = cells();
    let queue = Mutex::new(cells.iter().enumerate().collect::<VecDeque<_>>());
    let outcomes = Mutex::new(cells.iter().map(|_| None).collect::<Vec<_>>());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                while let Some((index, cell)) = next() {
                    let outcome = cell.try_outcome();
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(outcome);
                }
            });
        }
    });
    let mut outcomes: Vec<_> = outcomes.into_inner().unwrap().into_iter().map(Option::unwrap).collect();
    // Beside eight others a cell may have been held up. Alone it has no excuse.
    for (cell, outcome) in cells.iter().zip(&mut outcomes) {
        if let Outcome::Failed(reason) = outcome {
            println!("{cell:?} is played again, alone: {reason}");
            *outcome = cell.try_outcome();
        }
    }
    judge(&cells, &mut outcomes);
    print(&cells, &outcomes);
    println!("{:.0} s", start.elapsed().as_secs_f64());
    let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count();
    assert_eq!(failed, 0, "cells failed");
}

#[test]
#[ignore = "needs root"]
fn a_router() {
    lab::a_router();
}

impl Cell {
    fn try_outcome(&self) -> Outcome {
        catch_unwind(AssertUnwindSafe(|| self.outcome()))
            .unwrap_or_else(|panic| Outcome::Failed(message(&*panic)))
    }

    fn outcome(&self) -> Outcome {
        if (self.version, self.family) == (Version::V2, Family::Ipv6) {
            assert_eq!(self.config(100).validate(), Err(ConfigError::V2OverIpv6));
            return Outcome::Unsupported("version 2 has no IPv6 (RFC 3768 §1); ours and FRR refuse it");
        }
        if self.unicast && self.peer == Program::Frr {
            self.frr_knows_no_peers();
            return Outcome::Unsupported("FRR 8.4 has no unicast: no command names a peer");
        }
        match self.play() {
            Ok(frames) => Outcome::Passed(frames),
            Err(reason) => Outcome::Failed(reason),
        }
    }

    fn frr_knows_no_peers(&self) {
        let lan = Lan::new(&self.vrid.to_string(), 2);
        let mut router = self.router(&lan, 1 - self.ours());
        router.start();
        let peer = self.own_address(&lan.hosts()[self.ours()]);
        let answer =
            router.vtysh(&format!("configure terminal\ninterface eth0\nvrrp {} peer {peer}", self.vrid));
        assert!(answer.contains("Unknown command"), "{answer}");
    }

    fn address(&self) -> VirtualAddress {
        let text = match self.family {
            Family::Ipv4 => "192.0.2.100/24",
            Family::Ipv6 => "fe80::100/64",
        };
        text.parse().expect("an address")
    }

    fn own_address(&self, host: &Host) -> IpAddr {
        match self.family {
            Family::Ipv4 => host.v4(),
            Family::Ipv6 => host.v6(),
        }
    }

    fn config(&self, priority: u8) -> Config {
        let mut config = Config::new(self.vrid, [self.address()]);
        config.version = self.version;
        config.priority = priority;
        config
    }

    fn interval(&self, which: usize) -> Interval {
        let centiseconds = match (self.version, which) {
            (Version::V2, _) => 100,
            // So that a lower one that did not learn would be much too late.
            (Version::V3, LOWER) => 30,
            (Version::V3, _) => 10,
        };
        Interval::from_centiseconds(centiseconds).expect("an interval")
    }

    /// FRR 8.4 often loses the first advert and the announcement of a takeover over IPv6 ("Failed to find address to bind"): its
    /// macvlan has just got its carrier back.
    fn is_frr_ipv6(&self, who: usize) -> bool {
        who != self.ours() && self.peer == Program::Frr && self.family == Family::Ipv6
    }

    /// The host of ours: it is also the index of the router.
    fn ours(&self) -> usize {
        if self.ours_is_higher { HIGHER } else { LOWER }
    }

    fn router(&self, lan: &Lan, which: usize) -> Router {
        let mut config = self.config(if which == HIGHER { 200 } else { 100 });
        config.interval = self.interval(which);
        if self.unicast {
            config.unicast_peers = vec![self.own_address(&lan.hosts()[1 - which])];
            // keepalived's unicast over IPv6 has a hop limit of 64, unless it is told otherwise.
            config.accepted_ttl = 64..=255;
        }
        let mut instance = Instance::new(config, "eth0");
        instance.vmac = self.vmac.then(Vmac::default);
        let program = if which == self.ours() { Program::Ours } else { self.peer };
        Router::new(program, &lan.hosts()[which], vec![instance])
    }

    fn play(&self) -> Result<Vec<Frame>, String> {
        let lan = Lan::new(&self.vrid.to_string(), 2);
        let wire = Wire::new(&lan);
        let routers = [LOWER, HIGHER].map(|which| self.router(&lan, which));
        let mut play = Play { cell: self, lan: &lan, wire: &wire, routers };
        let result = play.history();
        let logs = play
            .routers
            .each_ref()
            .map(|router| format!("--- {}\n{}", router.program().name(), router.log()));
        drop(play);
        result.map_err(|reason| format!("{reason}\n{}", logs.join("\n"))).map(|()| wire.finish())
    }
}

struct Play<'a> {
    cell: &'a Cell,
    lan: &'a Lan,
    wire: &'a Wire,
    routers: [Router; 2],
}

impl Play<'_> {
    fn history(&mut self) -> Result<(), String> {
        let begin = now();
        self.routers[LOWER].start();
        self.becomes_active(LOWER, begin, "election of the only one")?;
        self.start_higher("election of the higher one that starts later")?;

        self.routers[HIGHER].kill();
        self.takes_over(self.master_down(LOWER, HIGHER), "takeover after kill -9")?;
        self.start_higher("preemption")?;

        let farewell = now();
        self.routers[HIGHER].terminate();
        self.takes_over(
            skew_time(self.cell.version, 100, self.cell.interval(HIGHER)),
            "handover on SIGTERM",
        )?;
        let last = self.wire.adverts(farewell, HIGHER).last().map(|advert| advert.priority);
        ensure(last == Some(0), || {
            format!("handover on SIGTERM: the last advert has priority {last:?}, not 0")
        })?;
        self.start_higher("second preemption")?;

        let begin = now();
        self.routers[LOWER].terminate();
        self.routers[LOWER].start();
        self.keeps_quiet(LOWER, begin, "election of the higher one that started first")?;

        let begin = now();
        self.routers[LOWER].reconfigure(|instance| instance.config.priority = 220);
        let advert = self.becomes_active(LOWER, begin, "priority change")?;
        ensure(advert.priority == 220, || format!("priority change: it advertises {}", advert.priority))?;
        self.yields(HIGHER, advert.at, "priority change")?;

        self.routers[HIGHER].terminate();
        self.routers[HIGHER].reconfigure(|instance| {
            instance.config.priority = 250;
            instance.config.preempt = false;
        });
        let begin = now();
        self.routers[HIGHER].start();
        self.keeps_quiet(HIGHER, begin, "nopreempt")?;

        self.frames_of_ours()
    }

    fn master_down(&self, who: usize, heard: usize) -> Duration {
        let priority = if who == HIGHER { 200 } else { 100 };
        master_down_interval(self.cell.version, priority, self.cell.interval(heard))
    }

    fn start_higher(&mut self, what: &str) -> Result<(), String> {
        let begin = now();
        self.routers[HIGHER].start();
        let advert = self.becomes_active(HIGHER, begin, what)?;
        self.yields(LOWER, advert.at, what)
    }

    /// It advertises, announces the address, and has it.
    fn becomes_active(&self, who: usize, since: Duration, what: &str) -> Result<Advert, String> {
        let advert =
            |frame: &Frame| frame.advert().filter(|advert| advert.host == who && advert.priority > 0);
        let patience = self.master_down(who, LOWER) + START;
        let advert = self
            .wire
            .wait(since, patience, advert)
            .ok_or_else(|| format!("{what}: {} does not become active", self.name(who)))?;
        if !self.cell.is_frr_ipv6(who) {
            let address = self.cell.address().address;
            let announced =
                |frame: &Frame| (frame.host == who && frame.announced() == Some(address)).then_some(());
            ensure(self.wire.wait(advert.at, START, announced).is_some(), || {
                format!("{what}: {} does not announce the address", self.name(who))
            })?;
        }
        self.has_address(who, true, what)?;
        Ok(advert)
    }

    /// It advertises no more, and no longer has the address.
    fn yields(&self, who: usize, since: Duration, what: &str) -> Result<(), String> {
        let begin = since + LATE / 2;
        thread::sleep(self.cell.interval(LOWER).duration() + LATE);
        let adverts = self.wire.adverts(begin, who).len();
        ensure(adverts == 0, || {
            let other = self.wire.adverts(begin, 1 - who);
            format!("{what}: {} still advertises, {adverts} times; heard {:?}", self.name(who), other.first())
        })?;
        self.has_address(who, false, what)
    }

    /// Where that can be seen: FRR leaves the address on an interface that it takes the carrier from.
    fn has_address(&self, who: usize, has: bool, what: &str) -> Result<(), String> {
        if self.routers[who].program() == Program::Frr {
            return Ok(());
        }
        let text = self.cell.address().to_string();
        let host = &self.lan.hosts()[who];
        let settled =
            wait_until(START, || host.addresses().split_whitespace().any(|word| word == text) == has);
        ensure(settled, || {
            let verb = if has { "lacks" } else { "keeps" };
            format!("{what}: {} {verb} {text}:\n{}", self.name(who), host.addresses())
        })
    }

    /// The lower one takes over, so long after the last advert of the higher one.
    fn takes_over(&self, formula: Duration, what: &str) -> Result<(), String> {
        let before = now() - Duration::from_secs(30);
        let last = self.wire.adverts(before, HIGHER).last().ok_or("the higher one never advertised")?.at;
        let took = self.becomes_active(LOWER, last, what)?.at - last;
        let lost =
            if self.cell.is_frr_ipv6(LOWER) { self.cell.interval(LOWER).duration() } else { Duration::ZERO };
        ensure((formula.saturating_sub(EARLY)..=formula + lost + LATE).contains(&took), || {
            format!("{what}: {} took {took:.1?}, by the formula it is {formula:.1?}", self.name(LOWER))
        })
    }

    /// It does not become active, in a time in which it could, and the other one is.
    fn keeps_quiet(&self, who: usize, since: Duration, what: &str) -> Result<(), String> {
        thread::sleep(self.master_down(who, LOWER) + LATE);
        let adverts = self.wire.adverts(since, who);
        ensure(adverts.is_empty(), || {
            format!("{what}: {} advertises, {} times: {:?}", self.name(who), adverts.len(), adverts.first())
        })?;
        let recently = now() - 2 * self.cell.interval(LOWER).duration() - LATE;
        let others = self.wire.adverts(recently, 1 - who).len();
        ensure(others > 0, || format!("{what}: {} is not active", self.name(1 - who)))
    }

    /// Our adverts come from the right address and MAC.
    fn frames_of_ours(&self) -> Result<(), String> {
        let ours = self.cell.ours();
        let virtual_mac = self.cell.family.virtual_mac(self.cell.vrid);
        let wants_virtual = self.cell.vmac && !self.cell.unicast;
        for advert in self.wire.adverts(Duration::ZERO, ours) {
            let right = advert.source == self.cell.own_address(&self.lan.hosts()[ours])
                && (advert.mac == virtual_mac) == wants_virtual
                && advert.vrid == self.cell.vrid
                && advert.version == self.cell.version.number();
            ensure(right, || format!("not what ours should send: {advert:x?}"))?;
        }
        Ok(())
    }

    fn name(&self, who: usize) -> &'static str {
        self.routers[who].program().name()
    }
}

fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(reason()) }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into())).unwrap_or_default()
}

/// Has tshark look at every advert of every cell: ours are well-formed, and their checksums good.
fn judge(cells: &[Cell], outcomes: &mut [Outcome]) {
    let frames = |outcome: &Outcome| match outcome {
        Outcome::Passed(frames) => frames.clone(),
        _ => Vec::new(),
    };
    let captured: Vec<Vec<Frame>> = outcomes.iter().map(frames).collect();
    let verdicts = lab::judge("interop", captured.iter().flatten());
    for ((cell, outcome), frames) in cells.iter().zip(outcomes).zip(&captured) {
        if frames.is_empty() {
            continue;
        }
        let host = Host { namespace: String::new(), index: cell.ours() };
        let own = cell.own_address(&host).to_string();
        let ours: Vec<_> =
            verdicts.iter().filter(|verdict| (verdict.vrid, &verdict.source) == (cell.vrid, &own)).collect();
        let sent =
            frames.iter().filter_map(Frame::advert).filter(|advert| advert.host == cell.ours()).count();
        let bad = ours.iter().find(|verdict| !verdict.checksum_good || !verdict.complaint.is_empty());
        if let Some(bad) = bad {
            *outcome = Outcome::Failed(format!("tshark finds fault: {bad:?}"));
        } else if ours.len() != sent || sent == 0 {
            *outcome = Outcome::Failed(format!("tshark finds {} adverts of ours, of {sent}", ours.len()));
        }
    }
}

fn print(cells: &[Cell], outcomes: &[Outcome]) {
    let row = |columns: [&str; 8]| {
        let [version, family, cast, vmac, peer, active, result, reason] = columns;
        println!("{version:<7} {family:<6} {cast:<9} {vmac:<4} {peer:<10} {active:<10} {result:<6} {reason}");
    };
    row(["version", "family", "cast", "vmac", "peer", "higher", "result", "reason"]);
    for (cell, outcome) in cells.iter().zip(outcomes) {
        let (result, reason) = match outcome {
            Outcome::Passed(frames) => {
                ("pass", format!("{} adverts", frames.iter().filter_map(Frame::advert).count()))
            }
            Outcome::Failed(reason) => ("FAIL", reason.clone()),
            Outcome::Unsupported(reason) => ("none", (*reason).to_owned()),
        };
        row([
            &cell.version.number().to_string(),
            &cell.family.to_string(),
            if cell.unicast { "unicast" } else { "multicast" },
            if cell.vmac { "yes" } else { "no" },
            cell.peer.name(),
            if cell.ours_is_higher { Program::Ours.name() } else { cell.peer.name() },
            result,
            &reason,
        ]);
    }
}
