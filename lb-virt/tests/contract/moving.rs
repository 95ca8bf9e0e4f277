//! The promises of a hypervisor that moves machines, for any that has
//! [`LIVE_MIGRATION`](lb_virt::hypervisor::Capabilities::LIVE_MIGRATION), between two hosts.

use std::any::Any;
use std::time::{Duration, Instant};

use lb_virt::hypervisor::Capabilities;
use lb_virt::migration::{
    Conclusion, Control, Destination, Migration, Phase, Policy, Sample, Settings, Side, Via, Whereabouts, Why,
};
use lb_virt::{DomainSpec, Hypervisor, State, VirtError};

/// Two hosts that reach the same disks.
pub struct Pair {
    pub here: Box<dyn Hypervisor>,
    pub there: Box<dyn Hypervisor>,
    /// A machine with shared disks that takes more than a second to be sent at [`SLOW`].
    pub spec: Box<dyn Fn(&str) -> DomainSpec>,
    /// Whether a copy is there as soon as the target [receives](Hypervisor::receive); else once it is sent something.
    pub waits: bool,
    /// Waits until a machine that was started has something to send.
    pub at_work: Box<dyn Fn(&str)>,
    /// What the hosts need as long as they are used.
    #[allow(dead_code, reason = "it is kept, and goes last")]
    pub keeper: Box<dyn Any>,
}

/// So slow that there is time to look, in bytes a second.
const SLOW: u64 = 10_000_000;

/// How long a hypervisor may take for what is done at once.
const PATIENCE: Duration = Duration::from_secs(20);

impl Pair {
    fn run(&mut self, name: &str) {
        self.here.define(&(self.spec)(name)).unwrap();
        self.here.start(name).unwrap();
        (self.at_work)(name);
    }

    fn receive(&mut self, name: &str) -> Destination {
        let (running, defined) = (self.here.running_spec(name).unwrap(), self.here.spec(name).unwrap());
        self.there.receive(&running, &defined, &Via::Own).unwrap()
    }

    fn states(&mut self, name: &str) -> (Option<State>, Option<State>) {
        (self.here.state(name).ok(), self.there.state(name).ok())
    }

    /// Waits until its migration is as it should be on the source.
    fn until(&mut self, name: &str, what: impl Fn(&Sample) -> bool) -> Sample {
        let end = Instant::now() + PATIENCE;
        loop {
            let sample = match self.here.migration(name, Duration::from_millis(50)) {
                // It had no time to say so.
                Err(VirtError::Timeout { .. }) if Instant::now() < end => continue,
                sample => sample.unwrap().unwrap(),
            };
            if what(&sample) {
                return sample;
            }
            assert!(Instant::now() < end, "{sample:?}");
        }
    }
}

fn slow() -> Settings {
    Settings { bandwidth: Some(SLOW), downtime: Duration::from_millis(1), ..Settings::default() }
}

pub fn a_machine_moves_there_and_back(pair: &mut Pair) {
    pair.run("web1");
    let defined = pair.here.spec("web1").unwrap();
    let report = Migration::of("web1").run(&mut *pair.here, &mut *pair.there, |_| None).unwrap();
    assert_eq!(pair.states("web1"), (None, Some(State::Running)));
    let sample = report.sample.clone().unwrap();
    assert_eq!((&sample.phase, sample.post_copied), (&Phase::Completed, false));
    assert!(sample.transferred > 0 && sample.downtime.is_some(), "{sample:?}");
    assert!(report.took >= sample.elapsed || pair.here.name() == "sim", "{report:?}");
    assert_eq!(pair.there.spec("web1").unwrap(), defined);
    assert!(pair.here.list().unwrap().is_empty());
    Migration::of("web1").run(&mut *pair.there, &mut *pair.here, |_| None).unwrap();
    assert_eq!(pair.states("web1"), (Some(State::Running), None));
    pair.here.power_off("web1").unwrap();
    Migration::of("web1").run(&mut *pair.here, &mut *pair.there, |_| None).unwrap();
    assert_eq!(pair.states("web1"), (None, Some(State::ShutOff)));
    pair.there.delete("web1").unwrap();
}

pub fn a_paused_machine_stays_so(pair: &mut Pair) {
    pair.run("web1");
    pair.here.pause("web1").unwrap();
    Migration::of("web1").run(&mut *pair.here, &mut *pair.there, |_| None).unwrap();
    assert_eq!(pair.states("web1"), (None, Some(State::Paused)));
    pair.there.resume("web1").unwrap();
    assert_eq!(pair.there.state("web1").unwrap(), State::Running);
    pair.there.power_off("web1").unwrap();
}

pub fn what_is_on_its_way_is_not_changed(pair: &mut Pair) {
    pair.run("web1");
    let to = pair.receive("web1");
    if pair.waits {
        assert_eq!(pair.states("web1"), (Some(State::Running), Some(State::Paused)));
    }
    pair.here.send("web1", &to, &slow()).unwrap();
    let sample = pair.until("web1", |sample| sample.phase == Phase::PreCopy && sample.transferred > 0);
    let twice = pair.there.receive(&(pair.spec)("web1"), &(pair.spec)("web1"), &Via::Own);
    assert!(matches!(twice, Err(VirtError::MachineExists { .. })), "{twice:?}");
    assert!(sample.total > 0 && sample.remaining > 0, "{sample:?}");
    let moving = |result: Result<(), VirtError>| {
        assert!(matches!(result, Err(VirtError::Moving { .. } | VirtError::State { .. })), "{result:?}");
    };
    moving(pair.here.set_vcpus("web1", 1).map(drop));
    moving(pair.here.send("web1", &to, &slow()));
    moving(pair.here.delete("web1"));
    moving(pair.there.resume("web1"));
    moving(pair.there.start("web1"));
    moving(pair.there.delete("web1"));
    let early = pair.there.conclude("web1", Conclusion::Run);
    assert!(matches!(early, Err(VirtError::Said { .. })), "{early:?}");
    assert_eq!(pair.states("web1"), (Some(State::Running), Some(State::Paused)));

    pair.here.control_migration("web1", Control::Cancel).unwrap();
    pair.until("web1", |sample| sample.phase == Phase::Cancelled);
    let _ = pair.there.conclude("web1", Conclusion::GiveUp);
    pair.here.conclude("web1", Conclusion::Run).unwrap();
    assert_eq!(pair.states("web1"), (Some(State::Running), None));
    for again in [Conclusion::Run, Conclusion::GiveUp] {
        let concluded = pair.here.conclude("web1", again);
        assert!(matches!(concluded, Err(VirtError::NotMoving { .. })), "{concluded:?}");
    }
    assert!(matches!(pair.here.migration("web1", Duration::ZERO), Ok(None)));
    let late = pair.here.control_migration("web1", Control::Cancel);
    assert!(matches!(late, Err(VirtError::NotMoving { .. })), "{late:?}");
    // Nothing of it is in the way of the next try.
    Migration::of("web1").run(&mut *pair.here, &mut *pair.there, |_| None).unwrap();
    assert_eq!(pair.states("web1"), (None, Some(State::Running)));
    pair.there.power_off("web1").unwrap();
}

pub fn its_end_on_either_side_is_noticed(pair: &mut Pair) {
    // The target's copy is ended.
    pair.run("web1");
    let to = pair.receive("web1");
    pair.here.send("web1", &to, &slow()).unwrap();
    pair.until("web1", |sample| sample.phase == Phase::PreCopy);
    pair.there.power_off("web1").unwrap();
    let sample = pair.until("web1", |sample| sample.phase.has_ended());
    assert!(matches!(sample.phase, Phase::Failed(ref words) if !words.is_empty()), "{sample:?}");
    pair.here.conclude("web1", Conclusion::Run).unwrap();
    assert_eq!(pair.states("web1"), (Some(State::Running), None));

    // The source's machine is.
    let to = pair.receive("web1");
    pair.here.send("web1", &to, &slow()).unwrap();
    pair.until("web1", |sample| sample.phase == Phase::PreCopy);
    pair.here.power_off("web1").unwrap();
    let end = Instant::now() + PATIENCE;
    while pair.there.state("web1").is_ok() {
        assert!(Instant::now() < end, "the copy does not go");
        pair.there.migration("web1", Duration::from_millis(50)).ok();
    }
    assert_eq!(pair.states("web1"), (Some(State::ShutOff), None));

    // Nobody listens. Where no copy waits, there is nobody who could not.
    if !pair.waits {
        return;
    }
    pair.here.start("web1").unwrap();
    let to = pair.receive("web1");
    pair.there.conclude("web1", Conclusion::GiveUp).unwrap();
    if pair.here.send("web1", &to, &slow()).is_ok() {
        let sample = pair.until("web1", |sample| sample.phase.has_ended());
        assert!(matches!(sample.phase, Phase::Failed(_)), "{sample:?}");
        pair.here.conclude("web1", Conclusion::Run).unwrap();
    }
    assert_eq!(pair.states("web1"), (Some(State::Running), None));
    pair.here.power_off("web1").unwrap();
}

pub fn a_policy_is_followed(pair: &mut Pair) {
    pair.run("web1");
    let deadline = Some(Duration::from_millis(300));
    let policy = Policy { settings: slow(), deadline, ..Policy::default() };
    let migration = Migration::of("web1").policy(policy);
    let error = migration.run(&mut *pair.here, &mut *pair.there, |_| None).unwrap_err();
    assert!(matches!(*error.why, Why::Cancelled(_)), "{error}");
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Source));
    assert_eq!(pair.states("web1"), (Some(State::Running), None));
    if pair.here.capabilities().contains(Capabilities::DIRTY_RATE) {
        let demand = pair.here.demand("web1", Duration::from_secs(1)).unwrap();
        let spec = (pair.spec)("web1");
        assert!(demand.memory >= spec.memory && demand.used <= demand.memory, "{demand:?}");
    }
    pair.here.power_off("web1").unwrap();
}
