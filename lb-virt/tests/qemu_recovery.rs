//! Post-copies between two real QEMUs that lose their connection: the machine has its memory on both hosts then, and goes on where it
//! was when they are connected anew.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside
#![cfg(feature = "qemu")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/guest.rs"]
mod guest;
#[path = "support/lab.rs"]
mod lab;
#[path = "support/wire.rs"]
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest::Work;
use lab::{Lab, signal};
use lb_virt::hypervisor::EventKind;
use lb_virt::migration::{
    Conclusion, Control, Destination, Migration, MigrationError, Phase, Policy, Sample, Settings, Side, Tls,
    Via, Whereabouts, Why,
};
use lb_virt::{Hypervisor, Qemu, State, VirtError};
use wire::Wire;

const NAME: &str = "web1";
const PATIENCE: Duration = Duration::from_secs(60);
/// 64 MiB to be sent, of which so much is written to that the guest soon needs what has not come.
const WORK: Work = Work { pages: 16_384, dirty: 4 };
/// So slow that most of it has still to be sent whenever the connection breaks, on a host that has little time too.
const SLOWLY: u64 = 4 << 20;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A machine that runs on the target, with most of its memory still on the source.
struct Halves {
    lab: Lab,
    here: Qemu,
    there: Qemu,
    wire: Wire,
}

/// A wire to where a copy waits, and its other end.
fn wired(to: Destination) -> (Wire, Destination) {
    let far: SocketAddr = to.uri.strip_prefix("tcp:").unwrap().parse().unwrap();
    let wire = Wire::to(far);
    let uri = format!("tcp:{}", wire.address);
    (wire, Destination { uri, ..to })
}

fn tcp() -> Via {
    Via::Tcp { address: HERE, port: 0, tls: None }
}

fn migration() -> Migration {
    let policy = Policy { stall: Duration::from_secs(3), ..Policy::default() };
    Migration::of(NAME).policy(policy).patience(Duration::from_secs(3)).every(Duration::from_millis(20))
}

impl Halves {
    fn new() -> Self {
        Self::over(Lab::new(), &tcp())
    }

    fn over(lab: Lab, via: &Via) -> Self {
        let host = |name| lab.host(name).answer_within(Duration::from_secs(5));
        let (mut here, mut there) = (host("a"), host("b"));
        here.define(&lab::working_spec(&lab.images(), NAME, WORK)).unwrap();
        here.start(NAME).unwrap();
        lab.counts_beyond(NAME, 10);
        let spec = here.running_spec(NAME).unwrap();
        let (wire, to) = wired(there.receive(&spec, &spec, via).unwrap());
        let settings = Settings {
            bandwidth: Some(SLOWLY),
            downtime: Duration::from_millis(1),
            post_copy: true,
            ..Settings::default()
        };
        here.send(NAME, &to, &settings).unwrap();
        let mut halves = Self { lab, here, there, wire };
        halves.source_is(|sample| sample.phase == Phase::PreCopy && sample.transferred > 1 << 20);
        halves.here.control_migration(NAME, Control::PostCopy).unwrap();
        halves.source_is(|sample| sample.phase == Phase::PostCopy);
        let end = Instant::now() + PATIENCE;
        while lab::sample(&mut halves.there, NAME).phase != Phase::PostCopy {
            assert!(Instant::now() < end, "{}", halves.lab.findings());
        }
        halves
    }

    fn source_is(&mut self, what: impl Fn(&Sample) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let sample = lab::sample(&mut self.here, NAME);
            if what(&sample) {
                return;
            }
            assert!(Instant::now() < end && !sample.phase.has_ended(), "{sample:?}{}", self.lab.findings());
        }
    }

    /// Both programs are gone, and there are new ones.
    fn restart(&mut self) {
        let host = |name| self.lab.host(name).answer_within(Duration::from_secs(5));
        (self.here, self.there) = (host("a"), host("b"));
    }

    fn resume(&mut self) -> MigrationError {
        let resumed = migration().resume(&mut self.here, &mut self.there, |_| None);
        resumed.map_or_else(|error| error, |report| panic!("{report:?}{}", self.lab.findings()))
    }

    fn states(&mut self) -> (Option<State>, Option<State>) {
        (self.here.state(NAME).ok(), self.there.state(NAME).ok())
    }

    /// Waits until the guest needs what is not there.
    fn stands_still(&self) -> usize {
        let end = Instant::now() + PATIENCE;
        let counted = || guest::numbers(&self.lab.console(NAME)).len();
        let mut last = counted();
        loop {
            sleep(Duration::from_millis(500));
            let now = counted();
            if now == last {
                return now;
            }
            last = now;
            assert!(Instant::now() < end, "it goes on{}", self.lab.findings());
        }
    }

    /// Stalled it is, and nothing that is done to the source's copy makes it run or go.
    fn keeps_both(&mut self) {
        let error = self.resume();
        assert!(matches!(*error.why, Why::Stalled), "{error}");
        assert_eq!(error.whereabouts, Whereabouts::On(Side::Target), "{error}");
        assert!(error.to_string().contains("recover"), "{error}");
        assert_eq!(self.states().0, Some(State::Paused));
        assert!(self.states().1.is_some_and(State::is_active), "{:?}", self.states());
        for (what, done) in [
            ("resume", self.here.resume(NAME)),
            ("start", self.here.start(NAME)),
            ("delete", self.here.delete(NAME)),
            ("power off", self.here.power_off(NAME)),
            ("run", self.here.conclude(NAME, Conclusion::Run)),
            ("pause", self.there.conclude(NAME, Conclusion::Pause)),
        ] {
            let refused = matches!(
                done,
                Err(VirtError::State { .. }
                    | VirtError::Moving { .. }
                    | VirtError::Half { .. }
                    | VirtError::Said { .. })
            );
            assert!(refused, "{what}: {done:?}{}", self.lab.findings());
        }
        // Too late for that.
        self.here.control_migration(NAME, Control::Cancel).unwrap();
        self.here.control_migration(NAME, Control::Stop).unwrap();
        self.source_is(|sample| matches!(sample.phase, Phase::Stalled | Phase::PostCopy));
        assert_eq!(self.lab.all_processes().len(), 2);
    }

    fn recovers(&mut self, over: Via) {
        // As fast as it goes from here on.
        let mut fast = Some(Control::Bandwidth(1 << 40));
        let recovered = migration().via(over).recover(&mut self.here, &mut self.there, |progress| {
            fast.take_if(|_| progress.sample.phase == Phase::PostCopy)
        });
        let report = recovered.unwrap_or_else(|error| panic!("{error}{}", self.lab.findings()));
        assert!(report.sample.is_some_and(|sample| sample.post_copied && sample.phase == Phase::Completed));
        self.goes_on();
    }

    /// It runs on the target alone, and not a number is left out or there twice.
    fn goes_on(&mut self) {
        assert_eq!(self.states(), (None, Some(State::Running)));
        let last = *guest::numbers(&self.lab.console(NAME)).last().unwrap();
        self.lab.counts_beyond(NAME, last + 20);
        let numbers = guest::numbers(&self.lab.console(NAME));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        self.lab.has_at_most(1);
    }
}

#[test]
#[ignore = "needs QEMU"]
fn a_connection_that_was_cut_is_made_anew() {
    for (restarted, over) in [(false, Via::Own), (true, tcp())] {
        let mut halves = Halves::new();
        halves.wire.cut();
        if restarted {
            halves.restart();
        }
        halves.keeps_both();
        halves.stands_still();
        if restarted {
            halves.restart();
        } else {
            let stalled = |host: &mut Qemu| {
                std::iter::from_fn(|| host.next_event(Duration::ZERO).unwrap())
                    .any(|event| event.kind == EventKind::MigrationStalled)
            };
            assert!(stalled(&mut halves.here) && stalled(&mut halves.there), "both say so");
        }
        halves.recovers(over);
    }
}

#[test]
#[ignore = "needs QEMU"]
fn a_connection_that_says_nothing_is_broken_off_and_made_anew() {
    let mut halves = Halves::new();
    halves.wire.stall(true);
    halves.stands_still();
    halves.keeps_both();
    halves.recovers(Via::Own);
}

/// What is on its way when a network falls silent nobody else has any more: it is left to the network.
#[test]
#[ignore = "needs QEMU"]
fn what_has_all_been_sent_is_not_broken_off() {
    let mut halves = Halves::new();
    halves.wire.hold(true);
    halves.here.control_migration(NAME, Control::Bandwidth(1 << 40)).unwrap();
    halves.source_is(|sample| sample.remaining == 0);
    halves.stands_still();
    halves.keeps_both();
    let error = migration().recover(&mut halves.here, &mut halves.there, |_| None).unwrap_err();
    assert!(matches!(*error.why, Why::AllSent), "{error}");
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Target), "{error}");
    let nowhere = Destination { uri: "unix:/no/such/socket".into(), tls: None };
    let error = halves.here.send_rest(NAME, &nowhere).unwrap_err();
    assert!(error.to_string().contains("has been sent"), "{error}");
    halves.keeps_both();
    halves.wire.hold(false);
    halves.recovers(Via::Own);
}

#[test]
#[ignore = "needs QEMU"]
fn what_breaks_twice_is_recovered_twice() {
    let mut halves = Halves::new();
    halves.wire.cut();
    halves.keeps_both();
    let (wire, to) = wired(halves.there.receive_rest(NAME, &tcp()).unwrap());
    // Nobody is there: it stays as it is.
    let nobody = Destination { uri: "unix:/no/such/socket".into(), tls: None };
    let _ = halves.here.send_rest(NAME, &nobody);
    halves.source_is(|sample| sample.phase == Phase::Stalled);
    wire.rate(4 << 20);
    halves.here.send_rest(NAME, &to).unwrap();
    halves.source_is(|sample| sample.phase == Phase::PostCopy);
    wire.cut();
    halves.source_is(|sample| sample.phase == Phase::Stalled);
    halves.keeps_both();
    halves.recovers(Via::Own);
}

#[test]
#[ignore = "needs QEMU and openssl"]
fn what_was_encrypted_stays_so() {
    let lab = Lab::new();
    let directory = lab.path.join("pki");
    certificates::make(&directory);
    let tls = Some(Tls { directory, hostname: Some("localhost".into()) });
    let encrypted = Via::Tcp { address: HERE, port: 0, tls };
    let mut halves = Halves::over(lab, &encrypted);
    halves.wire.cut();
    halves.keeps_both();
    // In the clear it is refused, and stays as it is.
    for over in [Via::Own, tcp()] {
        let plain = migration().via(over).recover(&mut halves.here, &mut halves.there, |_| None);
        let error = plain.unwrap_err();
        assert!(error.to_string().contains("it was encrypted before"), "{error}");
        assert_eq!(error.whereabouts, Whereabouts::On(Side::Target), "{error}");
    }
    halves.restart();
    halves.recovers(encrypted);
}

#[test]
#[ignore = "needs QEMU"]
fn without_one_half_there_is_nothing_to_recover_and_the_other_is_left_as_it_is() {
    // The target's: what it did last is lost.
    let mut halves = Halves::new();
    signal(halves.lab.processes("b")[0], "-9");
    for recover in [false, true] {
        let error = if recover {
            migration().recover(&mut halves.here, &mut halves.there, |_| None).unwrap_err()
        } else {
            halves.resume()
        };
        assert!(matches!(*error.why, Why::TargetLost(State::Crashed)), "{error}");
        assert_eq!(error.whereabouts, Whereabouts::Nowhere, "{error}");
        assert_eq!(halves.states(), (Some(State::Paused), Some(State::Crashed)));
    }
    // Which of the two is kept the caller says: here the target's definition.
    halves.here.conclude(NAME, Conclusion::GiveUp).unwrap();
    assert_eq!(halves.states(), (None, Some(State::Crashed)));
    halves.there.start(NAME).unwrap();
    halves.there.power_off(NAME).unwrap();
    halves.lab.has_at_most(0);

    // The source's: what the target lacks is lost, and it goes on as far as it can.
    let mut halves = Halves::new();
    signal(halves.lab.processes("a")[0], "-9");
    let error = migration().recover(&mut halves.here, &mut halves.there, |_| None).unwrap_err();
    assert!(matches!(*error.why, Why::SourceLost), "{error}");
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Target), "{error}");
    let (here, there) = halves.states();
    assert!(here.is_none() && there.is_some_and(State::is_active), "{here:?} {there:?}");
    halves.there.power_off(NAME).unwrap();
    halves.there.start(NAME).unwrap();
    halves.there.power_off(NAME).unwrap();
    halves.lab.has_at_most(0);
}
