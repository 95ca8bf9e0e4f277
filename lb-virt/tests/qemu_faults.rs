//! What happens to machines on their way between two real QEMUs: one copy runs in the end, and migrations that would not end do.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside
#![cfg(feature = "qemu")]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/lab.rs"]
mod lab;
#[path = "support/wire.rs"]
mod wire;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest::Work;
use lab::{Lab, signal};
use lb_virt::migration::{
    Conclusion, Control, Destination, Estimate, IfLost, Link, Migration, MigrationError, Phase, Policy,
    Reason, Report, Resort, Sample, Settings, Side, Via, Whereabouts, Why,
};
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, State};
use wire::Wire;

const NAME: &str = "web1";

/// A machine that has so many MiB to send, and writes to so many pages of them each hundredth second.
fn busy(lab: &Lab, mib: u32, dirty: u32) -> DomainSpec {
    lab::working_spec(&lab.images(), NAME, Work { pages: mib * 256, dirty })
}

/// A host whose machines need not be waited for for long.
fn host(lab: &Lab, name: &str) -> Qemu {
    lab.host(name).answer_within(Duration::from_secs(2))
}

/// What a machine has counted: one after the other, and from one again for each time that it was booted. Panics if a number is
/// missing or there twice.
fn boots(console: &str) -> usize {
    let mut boots = 0;
    let mut last = 0;
    for number in guest::numbers(console) {
        if number == 1 {
            boots += 1;
        } else {
            assert_eq!(number, last + 1, "after {last}, in boot {boots}");
        }
        last = number;
    }
    boots
}

/// What happens to a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    PortRefused,
    MemoryDiffers,
    TargetKilled,
    TargetFrozen,
    SourceKilled,
    SourceFrozen,
    NetworkStalls,
    NetworkCut,
    MonitorKilled,
    Cancelled,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// The target waits, and nothing has been sent.
    Waiting,
    /// It was sent a moment ago.
    Sent,
    /// Some of it has gone over.
    Early,
    /// Most of it has.
    Late,
    /// All of it has, and both copies stand still.
    Whole,
    /// The source's copy was given up, and the target's still stands.
    GivenUp,
}

const FAULTS: [Fault; 10] = [
    Fault::PortRefused,
    Fault::MemoryDiffers,
    Fault::TargetKilled,
    Fault::TargetFrozen,
    Fault::SourceKilled,
    Fault::SourceFrozen,
    Fault::NetworkStalls,
    Fault::NetworkCut,
    Fault::MonitorKilled,
    Fault::Cancelled,
];

const MOMENTS: [Moment; 6] =
    [Moment::Waiting, Moment::Sent, Moment::Early, Moment::Late, Moment::Whole, Moment::GivenUp];

/// A migration on its way, and whatever it goes over.
struct Flight {
    lab: Lab,
    here: Qemu,
    there: Qemu,
    wire: Wire,
    to: Destination,
}

impl Flight {
    fn new(fault: Fault) -> Self {
        let lab = Lab::new();
        let (mut here, mut there) = (host(&lab, "a"), host(&lab, "b"));
        here.define(&busy(&lab, 48, 20)).unwrap();
        here.start(NAME).unwrap();
        lab.counts_beyond(NAME, 10);
        let mut spec = here.running_spec(NAME).unwrap();
        if fault == Fault::MemoryDiffers {
            spec.memory = Memory::from_mib(320);
        }
        let at = there
            .receive(&spec, &spec, &Via::Tcp { address: Ipv4Addr::LOCALHOST.into(), port: 0, tls: None })
            .unwrap();
        let port: SocketAddr = at.uri.strip_prefix("tcp:").unwrap().parse().unwrap();
        let wire = Wire::to(port);
        let to = Destination { uri: format!("tcp:{}", wire.address), ..at };
        Self { lab, here, there, wire, to }
    }

    /// Sends until it is so far.
    fn reach(&mut self, moment: Moment) {
        if moment == Moment::Waiting {
            return;
        }
        let settings = Settings {
            bandwidth: Some(40 << 20),
            downtime: Duration::from_millis(50),
            ..Settings::default()
        };
        self.here.send(NAME, &self.to, &settings).unwrap();
        let far = |sample: &Sample| match moment {
            Moment::Waiting | Moment::Sent => true,
            Moment::Early => sample.transferred > 8 << 20,
            Moment::Late => sample.transferred > 40 << 20,
            Moment::Whole | Moment::GivenUp => sample.phase == Phase::Completed,
        };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let sample = lab::sample(&mut self.here, NAME);
            if far(&sample) || sample.phase.has_ended() {
                break;
            }
            assert!(Instant::now() < end, "{moment:?}: {sample:?}");
        }
        if moment == Moment::GivenUp {
            while lab::sample(&mut self.there, NAME).phase != Phase::Completed {
                assert!(Instant::now() < end, "the target's copy is not whole");
            }
            self.here.conclude(NAME, Conclusion::GiveUp).unwrap();
        }
    }

    fn process(&self, host: &str) -> u32 {
        self.lab.processes(host)[0]
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::PortRefused | Fault::NetworkCut => self.wire.cut(),
            Fault::TargetKilled => signal(self.process("b"), "-9"),
            Fault::TargetFrozen => signal(self.process("b"), "-STOP"),
            Fault::SourceKilled => signal(self.process("a"), "-9"),
            Fault::SourceFrozen => signal(self.process("a"), "-STOP"),
            Fault::NetworkStalls => self.wire.stall(true),
            // Both programs are gone, and there are new ones.
            Fault::MonitorKilled => (self.here, self.there) = (host(&self.lab, "a"), host(&self.lab, "b")),
            Fault::MemoryDiffers | Fault::Cancelled => {}
        }
    }

    fn settle(&mut self, fault: Fault) -> Result<Report, MigrationError> {
        let policy = Policy { stall: Duration::from_secs(2), ..Policy::default() };
        let migration = Migration::of(NAME).policy(policy).if_lost(IfLost::RestartOnSource);
        let migration = migration.every(Duration::from_millis(20)).patience(Duration::from_secs(1));
        let cancel = (fault == Fault::Cancelled).then_some(Control::Cancel);
        let result = migration.resume(&mut self.here, &mut self.there, |_| cancel);
        // What was frozen answers again, and is found out. A source that was given up may be gone by now.
        for host in ["a", "b"] {
            for pid in self.lab.processes(host) {
                let _ = Command::new("kill").args(["-CONT", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        match &result {
            Err(MigrationError { whereabouts: Whereabouts::Unknown, .. }) => {
                migration.resume(&mut self.here, &mut self.there, |_| None)
            }
            _ => result,
        }
    }
}

#[test]
#[ignore = "needs QEMU"]
fn one_copy_runs_whatever_happens_and_whenever() {
    let mut table = format!("{:16}", "");
    MOMENTS.iter().for_each(|moment| write!(table, "{:22}", format!("{moment:?}")).unwrap());
    for fault in FAULTS {
        write!(table, "\n{:16}", format!("{fault:?}")).unwrap();
        for moment in MOMENTS {
            let once = matches!(fault, Fault::PortRefused | Fault::MemoryDiffers) && moment != Moment::Sent;
            let source = matches!(fault, Fault::SourceKilled | Fault::SourceFrozen);
            if once || (source && moment == Moment::GivenUp) {
                write!(table, "{:22}", "-").unwrap();
                continue;
            }
            let outcome = strike(fault, moment);
            write!(table, "{outcome:22}").unwrap();
        }
    }
    println!("{table}");
}

/// Lets it happen, and says where the machine is then; panics if that is not so.
fn strike(fault: Fault, moment: Moment) -> String {
    let case = format!("{fault:?} at {moment:?}");
    let mut flight = Flight::new(fault);
    if fault == Fault::PortRefused {
        flight.strike(fault);
        std::thread::sleep(Duration::from_millis(50));
    }
    flight.reach(moment);
    if fault != Fault::PortRefused {
        flight.strike(fault);
    }
    let result = flight.settle(fault);
    let whereabouts = match &result {
        Ok(_) => Whereabouts::On(Side::Target),
        Err(error) => error.whereabouts,
    };
    let states = (flight.here.state(NAME).ok(), flight.there.state(NAME).ok());
    let (side, restarts) = match whereabouts {
        Whereabouts::On(side) => (side, 0),
        Whereabouts::RestartedOn(side) => (side, 1),
        other => panic!("{case}: {other:?} {states:?} {result:?}"),
    };
    let runs = |side| if side == Side::Source { states.0 } else { states.1 };
    let other = if side == Side::Source { Side::Target } else { Side::Source };
    assert_eq!(runs(side), Some(State::Running), "{case}: {states:?} {result:?}");
    assert_eq!(runs(other), None, "{case}: {states:?} {result:?}");
    // It goes on to count, alone: a second copy would write the same numbers to the same file.
    let console = flight.lab.console(NAME);
    let before = guest::numbers(&console).len();
    let end = Instant::now() + Duration::from_secs(60);
    while guest::numbers(&flight.lab.console(NAME)).len() < before + 20 {
        assert!(
            Instant::now() < end,
            "{case}: it stands still: {states:?} {result:?}{}",
            flight.lab.findings()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(boots(&flight.lab.console(NAME)), 1 + restarts, "{case}: {result:?}");
    let expected = match fault {
        Fault::SourceKilled => moment == Moment::Whole || restarts == 1,
        // The only copy there was.
        Fault::TargetKilled if moment == Moment::GivenUp => restarts == 1,
        Fault::MonitorKilled if moment != Moment::Waiting => side == Side::Target,
        _ => restarts == 0,
    };
    assert!(expected, "{case}: {whereabouts:?} {result:?}");
    flight.here.power_off(NAME).ok();
    flight.there.power_off(NAME).ok();
    assert!(flight.lab.all_processes().is_empty(), "{case}: {:?}", flight.lab.all_processes());
    format!("{whereabouts:?}").replace("RestartedOn", "anew").replace("On(", "(")
}

/// A machine that writes 80 MB/s to 64 MiB, on a wire of 20 MB/s: too fast for it also where the host gives it half of its time.
fn never_ending(lab: &Lab, policy: Policy) -> (Qemu, Qemu, Result<Report, MigrationError>) {
    let (mut here, mut there) = (lab.host("a"), lab.host("b"));
    here.define(&busy(lab, 64, 200)).unwrap();
    here.start(NAME).unwrap();
    lab.counts_beyond(NAME, 20);
    let settings = Settings { bandwidth: Some(20_000_000), ..policy.settings.clone() };
    let policy = Policy { settings, ..policy };
    let result = Migration::of(NAME).policy(policy).run(&mut here, &mut there, |_| None);
    (here, there, result)
}

#[test]
#[ignore = "needs QEMU"]
fn what_would_never_end_ends_as_the_policy_says() {
    let stall = Duration::from_secs(10);
    let lab = Lab::new();
    let (mut here, _, result) = never_ending(&lab, Policy { stall, ..Policy::default() });
    let error = result.unwrap_err();
    assert!(matches!(*error.why, Why::Cancelled(Reason::Stall)), "{error}");
    assert_eq!(here.state(NAME).unwrap(), State::Running);
    // It would have been said before.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let demand = here.demand(NAME, Duration::from_secs(1)).unwrap();
        let estimate = Estimate::new(&demand, &Link::of(20_000_000), Duration::from_millis(300));
        if !estimate.converges {
            break;
        }
        // Only of a second in which the host had no time for it, and it wrote less.
        let wrote_less = estimate.dirty_rate < estimate.bandwidth;
        assert!(wrote_less && Instant::now() < end, "{demand:?} {estimate:?}");
    }
    here.power_off(NAME).unwrap();

    let auto_converge = Settings { auto_converge: true, ..Settings::default() };
    let post_copy = Settings { post_copy: true, ..Settings::default() };
    let stop = Policy { at_stall: Resort::Stop, stall, ..Policy::default() };
    let ramp = Policy { most_downtime: Some(Duration::from_secs(10)), stall: 6 * stall, ..Policy::default() };
    let throttle = Policy { settings: auto_converge, stall: 12 * stall, ..Policy::default() };
    let over = Policy { settings: post_copy, post_copy_soon: true, stall: 6 * stall, ..Policy::default() };
    for (what, policy) in [("stop", stop), ("ramp", ramp), ("throttle", throttle), ("post-copy", over)] {
        let lab = Lab::new();
        let (_, mut there, result) = never_ending(&lab, policy);
        let report = result.unwrap_or_else(|error| panic!("{what}: {error}"));
        let sample = report.sample.unwrap();
        match what {
            "stop" => assert!(report.steered.iter().any(|(_, control, _)| *control == Control::Stop)),
            "ramp" => {
                assert!(report.steered.iter().all(|(_, control, _)| matches!(control, Control::Downtime(_))))
            }
            "post-copy" => assert!(sample.post_copied),
            _ => {}
        }
        let last = *guest::numbers(&lab.console(NAME)).last().unwrap();
        lab.counts_beyond(NAME, last + 20);
        assert_eq!(there.state(NAME).unwrap(), State::Running);
        assert_eq!(boots(&lab.console(NAME)), 1, "{what}");
        println!("{what}: {:?} in {:?}, stopped for {:?}", report.steered, sample.elapsed, sample.downtime);
    }
}
