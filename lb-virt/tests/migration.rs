//! Migrations between simulated hosts: what they take, and that one copy runs in the end, whatever fails and whenever.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use lb_virt::domain::Disk;
use lb_virt::migration::{
    Conclusion, Control, Demand, Estimate, IfLost, Link, Migration, MigrationError, Phase, Policy, Reason,
    Report, Resort, Settings, Side, Whereabouts, Why,
};
use lb_virt::sim::{Fault, Network};
use lb_virt::{DomainSpec, Hypervisor, Memory, Sim, State, VirtError};
use proptest::prelude::*;

const GIGABIT: u64 = 125_000_000;

fn spec() -> DomainSpec {
    DomainSpec::new("web1", 2, Memory::from_mib(256)).disk(Disk::file("/srv/web1.qcow2").shared())
}

struct Hosts {
    network: Network,
    here: Sim,
    there: Sim,
}

impl Hosts {
    /// Two, with a machine that runs on one of them.
    fn new() -> Self {
        let network = Network::new();
        let host = |name| Sim::new(name, 8, Memory::from_mib(4096)).on(&network);
        let (mut here, there) = (host("node1"), host("node2"));
        here.define(&spec()).unwrap();
        here.start("web1").unwrap();
        Self { here, there, network }
    }

    fn migrate(&mut self, migration: &Migration) -> Result<Report, MigrationError> {
        migration.run(&mut self.here, &mut self.there, |_| None)
    }

    /// What the machine does here and there; `None` where there is none.
    fn states(&mut self) -> (Option<State>, Option<State>) {
        (self.here.state("web1").ok(), self.there.state("web1").ok())
    }
}

fn quick() -> Migration {
    Migration::of("web1").patience(Duration::from_millis(200)).every(Duration::from_millis(50))
}

#[test]
fn a_machine_moves_while_it_runs() {
    let mut hosts = Hosts::new();
    let defined = hosts.here.spec("web1").unwrap();
    let mut phases = Vec::new();
    let mut done = 0.0;
    let report = quick()
        .run(&mut hosts.here, &mut hosts.there, |progress| {
            assert!(progress.done >= done);
            done = progress.done;
            if phases.last() != Some(&progress.sample.phase) {
                phases.push(progress.sample.phase.clone());
            }
            None
        })
        .unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
    assert_eq!(hosts.there.spec("web1").unwrap(), defined);
    assert_eq!(phases.last(), Some(&Phase::Completed));
    let sample = report.sample.unwrap();
    // 256 MiB at 1 Gbit/s.
    assert_eq!((sample.elapsed.as_millis() / 100, sample.transferred), (21, 256 << 20));
    assert!(sample.downtime.unwrap() < Duration::from_millis(20));
    // Its memory is free here, and taken there.
    assert_eq!(hosts.here.host().unwrap().free_memory, Some(Memory::from_mib(4096)));
    assert_eq!(hosts.there.host().unwrap().free_memory, Some(Memory::from_mib(4096 - 256)));
}

#[test]
fn a_paused_machine_stays_paused_and_one_at_rest_at_rest() {
    let mut hosts = Hosts::new();
    hosts.here.pause("web1").unwrap();
    hosts.migrate(&quick()).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Paused)));
    hosts.there.power_off("web1").unwrap();
    let Hosts { here, there, .. } = &mut hosts;
    let report = quick().run(there, here, |_| None).unwrap();
    assert_eq!(report.sample, None);
    assert_eq!(hosts.states(), (Some(State::ShutOff), None));
}

#[test]
fn what_speaks_against_it_is_said_before() {
    let mut hosts = Hosts::new();
    let local = DomainSpec { name: "db1".into(), ..spec() };
    let local = DomainSpec { disks: vec![Disk::file("/srv/db1.qcow2").named("vda")], ..local };
    hosts.here.define(&local).unwrap();
    for start in [false, true] {
        if start {
            hosts.here.start("db1").unwrap();
        }
        let migration = Migration::of("db1");
        let error = migration.run(&mut hosts.here, &mut hosts.there, |_| None).unwrap_err();
        assert!(matches!(*error.why, Why::Concerns(_)), "{error}");
        assert_eq!(
            error.to_string(),
            "machine db1 was not moved: disk vda (/srv/db1.qcow2) is not shared: only machines whose disks both hosts \
             reach can be moved while they run (it is on the source)"
        );
    }
    let despite = Migration::of("db1").despite_concerns();
    despite.run(&mut hosts.here, &mut hosts.there, |_| None).unwrap();
    assert_eq!(hosts.there.state("db1").unwrap(), State::Running);
    // The target has one of that name.
    hosts.there.define(&spec()).unwrap();
    let error = hosts.migrate(&quick()).unwrap_err();
    assert!(matches!(
        *error.why,
        Why::Hypervisor { side: Side::Target, source: VirtError::MachineExists { .. } }
    ));
    assert_eq!(hosts.states(), (Some(State::Running), Some(State::ShutOff)), "nobody's machine is touched");
}

#[test]
fn what_is_nowhere_is_said_to_be_nowhere() {
    let mut hosts = Hosts::new();
    let Hosts { here, there, .. } = &mut hosts;
    for result in
        [Migration::of("db1").run(here, there, |_| None), Migration::of("db1").resume(here, there, |_| None)]
    {
        let error = result.unwrap_err();
        assert_eq!(error.whereabouts, Whereabouts::Nowhere, "{error}");
        assert!(matches!(*error.why, Why::Hypervisor { source: VirtError::NoMachine { .. }, .. }), "{error}");
    }
}

/// One that runs on the target, with half of its memory there, and whose connection breaks.
fn broken() -> Hosts {
    let mut hosts = Hosts::new();
    let settings = Settings { post_copy: true, ..Settings::default() };
    let policy = Policy { settings, ..Policy::default() };
    let network = hosts.network.clone();
    let error = quick()
        .policy(policy)
        .run(&mut hosts.here, &mut hosts.there, |progress| {
            if progress.sample.phase == Phase::PostCopy {
                network.cut();
            }
            (progress.done > 0.5).then_some(Control::PostCopy)
        })
        .unwrap_err();
    assert!(matches!(*error.why, Why::Stalled), "{error}");
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Target));
    assert_eq!(hosts.states(), (Some(State::Paused), Some(State::Running)));
    hosts
}

#[test]
fn a_post_copy_that_breaks_is_recovered() {
    let mut hosts = broken();
    let again = quick().resume(&mut hosts.here, &mut hosts.there, |_| None).unwrap_err();
    assert!(matches!(*again.why, Why::Stalled), "{again}");
    // A recovery that fails leaves all as it was, on whichever side.
    for side in [Side::Target, Side::Source] {
        let host = if side == Side::Target { &mut hosts.there } else { &mut hosts.here };
        host.fault(u32::from(side == Side::Source), Fault::Refused("no".into()));
        let error = quick().recover(&mut hosts.here, &mut hosts.there, |_| None).unwrap_err();
        assert!(matches!(*error.why, Why::Hypervisor { side: of, .. } if of == side), "{error}");
        assert_eq!(error.whereabouts, Whereabouts::On(Side::Target));
        assert_eq!(hosts.states(), (Some(State::Paused), Some(State::Running)));
    }
    let report = quick().recover(&mut hosts.here, &mut hosts.there, |_| None).unwrap();
    assert!(report.sample.is_some_and(|sample| sample.post_copied));
    assert_eq!(hosts.states(), (None, Some(State::Running)));
    // There is nothing more to recover.
    let error = quick().recover(&mut hosts.there, &mut hosts.here, |_| None).unwrap_err();
    assert!(matches!(*error.why, Why::NotMoving), "{error}");
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

#[test]
fn a_post_copy_that_a_silent_network_holds_is_told_and_recovered() {
    let mut hosts = Hosts::new();
    let settings = Settings { post_copy: true, ..Settings::default() };
    let policy = Policy { settings, stall: Duration::from_secs(5), ..Policy::default() };
    let network = hosts.network.clone();
    let migration = quick().policy(policy);
    let error = migration
        .run(&mut hosts.here, &mut hosts.there, |progress| {
            network.stall(progress.sample.phase == Phase::PostCopy);
            (progress.done > 0.5).then_some(Control::PostCopy)
        })
        .unwrap_err();
    assert!(matches!(*error.why, Why::Stalled), "{error}");
    network.stall(false);
    migration.recover(&mut hosts.here, &mut hosts.there, |_| None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

#[test]
fn half_a_machine_is_not_recovered_and_what_is_left_of_it_is_left_alone() {
    let mut hosts = broken();
    hosts.there.power_off("web1").unwrap();
    for recover in [false, true] {
        let Hosts { here, there, .. } = &mut hosts;
        let result = if recover {
            quick().recover(here, there, |_| None)
        } else {
            quick().resume(here, there, |_| None)
        };
        let error = result.unwrap_err();
        assert!(matches!(*error.why, Why::TargetLost(_)), "{error}");
        assert_eq!(error.whereabouts, Whereabouts::Nowhere);
        assert_eq!(hosts.here.state("web1").unwrap(), State::Paused);
    }
    // What is left is no machine: it does not stay to be started beside the one that was over there.
    assert!(matches!(hosts.here.power_off("web1"), Err(VirtError::Half { .. })));
    hosts.here.conclude("web1", Conclusion::GiveUp).unwrap();
    assert_eq!(hosts.states().0, None);
}

#[test]
fn without_patience_it_moves_as_well() {
    let mut hosts = Hosts::new();
    let migration = Migration::of("web1").patience(Duration::ZERO).every(Duration::ZERO);
    hosts.migrate(&migration).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

/// Two hosts may have machines of one name: one is not the other's copy.
#[test]
fn another_machine_of_the_name_is_left_alone() {
    for if_lost in [IfLost::RestartOnSource, IfLost::RestartOnTarget, IfLost::LeaveOff] {
        for crashed in [false, true] {
            for moved in [false, true] {
                let mut hosts = Hosts::new();
                let Hosts { here, there, .. } = &mut hosts;
                if moved {
                    send(here, there);
                    there.power_off("web1").unwrap();
                }
                there.define(&spec()).unwrap();
                there.start("web1").unwrap();
                let (ours, other) = (here.spec("web1").unwrap(), there.spec("web1").unwrap());
                if crashed {
                    here.kill("web1").unwrap();
                } else {
                    here.power_off("web1").unwrap();
                }
                let error = quick().if_lost(if_lost).resume(here, there, |_| None).unwrap_err();

                let case = format!("{if_lost:?}, crashed {crashed}, moved {moved}: {error}");
                let restarted = crashed && if_lost == IfLost::RestartOnSource;
                let expected =
                    if restarted { Whereabouts::RestartedOn(Side::Source) } else { Whereabouts::Nowhere };
                assert_eq!(error.whereabouts, expected, "{case}");
                assert_eq!(here.spec("web1").unwrap(), ours, "{case}");
                assert_eq!(here.state("web1").unwrap() == State::Running, restarted, "{case}");
                assert_eq!(there.spec("web1").unwrap(), other, "{case}");
                assert_eq!(there.state("web1").unwrap(), State::Running, "{case}");
            }
        }
    }
}

#[test]
fn snapshots_are_not_lost_without_a_word() {
    for running in [true, false] {
        let mut hosts = Hosts::new();
        if !running {
            hosts.here.power_off("web1").unwrap();
        }
        hosts.here.take_snapshot("web1", "before").unwrap();
        let error = hosts.migrate(&quick()).unwrap_err().to_string();
        assert!(error.contains("its snapshots (before) would be lost: delete them first"), "{error}");
        assert_eq!(hosts.here.snapshots("web1").unwrap().len(), 1);
        hosts.migrate(&quick().despite_concerns()).unwrap();
        assert!(hosts.states().0.is_none());
    }
}

/// Whatever is refused, not heard or not answered while a machine at rest is moved: one host has it once both answer.
#[test]
fn a_machine_at_rest_is_in_one_place_whatever_fails() {
    let faults = [Fault::Refused("no".into()), Fault::Unheard, Fault::Unanswered];
    let mut unknown = 0;
    for fault in &faults {
        for case in 0..48_u32 {
            let (at_target, after, count) = (case % 2 == 1, case / 2 % 8, [1, 2, 20][case as usize / 16]);
            let mut hosts = Hosts::new();
            hosts.here.power_off("web1").unwrap();
            let host = if at_target { &mut hosts.there } else { &mut hosts.here };
            host.fault(after, fault.clone());
            (1..count).for_each(|_| host.fault(0, fault.clone()));
            let case = format!("{fault:?} at target {at_target}, after {after}, {count} times");
            let result = hosts.migrate(&quick());
            // What is still to fail does so on somebody else.
            for _ in 0..40 {
                let _ = (hosts.here.state("web1"), hosts.there.state("web1"));
                let _ = (hosts.here.snapshots("web1"), hosts.there.snapshots("web1"));
                let _ = (hosts.here.delete("ghost"), hosts.there.delete("ghost"));
            }
            let whereabouts =
                result.as_ref().map_or_else(|error| error.whereabouts, |_| Whereabouts::On(Side::Target));
            match (whereabouts, hosts.states()) {
                (Whereabouts::On(Side::Source), (Some(State::ShutOff), None))
                | (Whereabouts::On(Side::Target), (None, Some(State::ShutOff))) => {}
                (Whereabouts::Unknown, _) => {
                    unknown += 1;
                    let Hosts { here, there, .. } = &mut hosts;
                    let resumed = quick().resume(here, there, |_| None);
                    let states = hosts.states();
                    assert!(states.0.is_some() != states.1.is_some(), "{case}: {states:?} {resumed:?}");
                }
                (_, states) => panic!("{case}: {states:?} {result:?}"),
            }
        }
    }
    assert!(unknown > 0, "no case was undecided");
}

/// What a guest does by itself while it is moved, it has done.
#[test]
fn a_guest_that_ends_on_its_way_has_ended() {
    for crashes in [false, true] {
        let mut hosts = Hosts::new();
        let Hosts { here, there, .. } = &mut hosts;
        send(here, there);
        here.advance(Duration::from_millis(100));
        if crashes {
            here.crash("web1").unwrap();
        } else {
            here.set_dirty_rate("web1", GIGABIT, None).unwrap();
            here.shut_down("web1").unwrap();
            here.advance(Duration::from_millis(100));
            assert_eq!(here.state("web1").unwrap(), State::ShuttingDown);
            here.advance(Duration::from_secs(3));
        }
        let error = quick().if_lost(IfLost::LeaveOff).resume(here, there, |_| None).unwrap_err();
        assert_eq!(error.whereabouts, Whereabouts::Nowhere);
        assert_eq!(hosts.states(), (Some(State::ShutOff), None), "{error}");
    }
}

/// What a guest writes at `rate` while it is moved so.
fn busy(rate: u64, policy: Policy) -> (Hosts, Result<Report, MigrationError>) {
    let mut hosts = Hosts::new();
    hosts.here.set_dirty_rate("web1", rate, None).unwrap();
    let result = hosts.migrate(&quick().policy(policy));
    (hosts, result)
}

#[test]
fn what_would_never_end_ends_as_the_policy_says() {
    let stall = Duration::from_secs(20);
    let with = |settings| Policy { settings, stall, ..Policy::default() };
    let post_copy = Settings { post_copy: true, ..Settings::default() };

    let (mut hosts, result) = busy(GIGABIT, with(Settings::default()));
    let error = result.unwrap_err();
    assert!(matches!(*error.why, Why::Cancelled(Reason::Stall)), "{error}");
    assert_eq!(
        (error.whereabouts, hosts.states()),
        (Whereabouts::On(Side::Source), (Some(State::Running), None))
    );

    let (_, result) = busy(GIGABIT, with(Settings { auto_converge: true, ..Settings::default() }));
    let sample = result.unwrap().sample.unwrap();
    assert!(sample.throttle >= 20 && sample.downtime.unwrap() <= Duration::from_millis(310), "{sample:?}");

    let ramp = Policy { most_downtime: Some(Duration::from_secs(3)), ..with(Settings::default()) };
    let report = busy(GIGABIT, ramp).1.unwrap();
    assert!(report.steered.iter().all(|(_, control, _)| matches!(control, Control::Downtime(_))));
    assert!(report.steered.len() >= 3, "{:?}", report.steered);

    let soon = Policy { post_copy_soon: true, ..with(post_copy.clone()) };
    let (mut hosts, result) = busy(GIGABIT, soon);
    let report = result.unwrap();
    assert_eq!(
        report.steered.iter().map(|(_, control, _)| *control).collect::<Vec<_>>(),
        [Control::PostCopy]
    );
    assert_eq!(hosts.states(), (None, Some(State::Running)));

    for (resort, settings) in [(Resort::Stop, Settings::default()), (Resort::PostCopy, post_copy)] {
        let deadline = Some(Duration::from_secs(5));
        let policy = Policy { deadline, at_deadline: resort, ..with(settings) };
        let report = busy(GIGABIT, policy).1.unwrap();
        let took = report.sample.unwrap().elapsed.as_secs_f64();
        assert!((5.0..8.0).contains(&took), "{resort:?}: {took}");
    }
}

#[test]
fn estimates_are_near_what_then_happens() {
    for (rate, set) in [(0, None), (GIGABIT / 4, None), (GIGABIT / 2, None), (2 * GIGABIT, Some(16))] {
        let mut hosts = Hosts::new();
        let set = set.map(Memory::from_mib);
        hosts.here.set_dirty_rate("web1", rate, set).unwrap();
        let demand = hosts.here.demand("web1", Duration::from_secs(1)).unwrap();
        assert_eq!((demand.dirty_rate, demand.working_set), (rate, set));
        let link = Link { overhead: Duration::ZERO, ..Link::of(GIGABIT) };
        let estimate = Estimate::new(&demand, &link, Duration::from_millis(300));
        assert!(estimate.converges);
        let sample = hosts.migrate(&quick()).unwrap().sample.unwrap();
        let ratio = estimate.duration.as_secs_f64() / sample.elapsed.as_secs_f64();
        assert!((0.7..1.3).contains(&ratio), "{rate}: {estimate:?} {sample:?}");
    }
    let demand = Demand {
        memory: Memory::from_mib(256),
        used: Memory::from_mib(256),
        dirty_rate: GIGABIT,
        working_set: None,
    };
    assert!(!Estimate::new(&demand, &Link::of(GIGABIT), Duration::from_millis(300)).converges);
}

#[test]
fn what_would_never_end_is_said_before_it_is_begun() {
    let mut hosts = Hosts::new();
    hosts.here.set_dirty_rate("web1", 2 * GIGABIT, None).unwrap();
    let migration = quick().link(Link::of(GIGABIT));
    let error = hosts.migrate(&migration).unwrap_err();
    assert!(matches!(*error.why, Why::WillNotConverge { dirty_rate: 250, bandwidth: 125, .. }), "{error}");
    assert!(error.to_string().contains("it writes 250 MB/s and 125 MB/s go over"), "{error}");
    assert_eq!(hosts.states(), (Some(State::Running), None));
    assert!(hosts.there.list().unwrap().is_empty());
    // A policy that has an answer is let try it, and so is who insists.
    let policy = Policy { at_stall: Resort::Stop, stall: Duration::from_secs(9), ..Policy::default() };
    let report = hosts.migrate(&migration.clone().policy(policy)).unwrap();
    assert!(!report.estimate.unwrap().converges);
    hosts.there.set_dirty_rate("web1", GIGABIT / 4, None).unwrap();
    let Hosts { here, there, .. } = &mut hosts;
    let report = migration.run(there, here, |_| None).unwrap();
    let (estimate, sample) = (report.estimate.unwrap(), report.sample.unwrap());
    let ratio = estimate.duration.as_secs_f64() / sample.elapsed.as_secs_f64();
    assert!((0.7..1.3).contains(&ratio), "{estimate:?} {sample:?}");
}

#[test]
fn a_machine_on_its_way_is_not_changed() {
    let mut hosts = Hosts::new();
    let Hosts { here, there, .. } = &mut hosts;
    let to = there.receive(&spec(), &spec(), &lb_virt::migration::Via::Own).unwrap();
    here.send("web1", &to, &Settings::default()).unwrap();
    here.advance(Duration::from_secs(1));
    for refused in [
        here.set_vcpus("web1", 1).map(drop),
        here.take_snapshot("web1", "now"),
        here.send("web1", &to, &Settings::default()),
        there.resume("web1"),
        there.set_vcpus("web1", 1).map(drop),
        there.start("web1"),
    ] {
        assert!(matches!(refused, Err(VirtError::Moving { .. } | VirtError::State { .. })), "{refused:?}");
    }
    // The guest may be paused meanwhile.
    here.pause("web1").unwrap();
    here.resume("web1").unwrap();
    assert_eq!(there.state("web1").unwrap(), State::Paused);
    // A copy that is not whole does not run.
    let early = there.conclude("web1", lb_virt::migration::Conclusion::Run);
    assert!(matches!(early, Err(VirtError::Said { .. })), "{early:?}");
    there.power_off("web1").unwrap();
    here.advance(Duration::from_millis(10));
    assert_eq!(hosts.states(), (Some(State::Running), None));
}

#[test]
fn sizes_must_agree() {
    let mut hosts = Hosts::new();
    let larger = DomainSpec { memory: Memory::from_mib(512), ..spec() };
    let to = hosts.there.receive(&larger, &larger, &lb_virt::migration::Via::Own).unwrap();
    hosts.here.send("web1", &to, &Settings::default()).unwrap();
    let error = quick().resume(&mut hosts.here, &mut hosts.there, |_| None).unwrap_err();
    assert!(error.to_string().contains("256 MiB is sent and one of 512 MiB is expected"), "{error}");
    assert_eq!(hosts.states(), (Some(State::Running), None));
}

/// What happens to a migration at a moment of its way.
#[derive(Clone, Copy, Debug)]
enum Blow {
    SourceKilled,
    TargetKilled,
    NetworkCut,
    NetworkStalls,
    SourceUnreachable,
    TargetUnreachable,
    Cancelled,
    GuestEnds,
}

#[test]
fn one_copy_runs_whatever_happens_and_whenever() {
    use Blow as B;
    let blows = [
        B::SourceKilled,
        B::TargetKilled,
        B::NetworkCut,
        B::NetworkStalls,
        B::SourceUnreachable,
        B::TargetUnreachable,
        B::Cancelled,
        B::GuestEnds,
    ];
    for blow in blows {
        // From before the first byte to after the last.
        for moment in (0..2300).step_by(100) {
            for if_lost in [IfLost::RestartOnSource, IfLost::RestartOnTarget, IfLost::LeaveOff] {
                strike(blow, Duration::from_millis(moment), if_lost);
            }
        }
    }
}

/// Begins by hand what a migration begins.
fn send(here: &mut Sim, there: &mut Sim) {
    let spec = here.spec("web1").unwrap();
    let to = there.receive(&spec, &spec, &lb_virt::migration::Via::Own).unwrap();
    here.send("web1", &to, &Settings::default()).unwrap();
}

fn strike(blow: Blow, moment: Duration, if_lost: IfLost) {
    let case = format!("{blow:?} at {moment:?}, {if_lost:?}");
    let mut hosts = Hosts::new();
    let Hosts { network, here, there } = &mut hosts;
    let policy = Policy { stall: Duration::from_secs(3), ..Policy::default() };
    let migration = Migration::of("web1").policy(policy).if_lost(if_lost);
    let migration = migration.every(Duration::from_millis(2)).patience(Duration::from_millis(20));
    send(here, there);
    here.advance(moment);
    let mut cancel = None;
    match blow {
        Blow::SourceKilled => here.kill("web1").unwrap(),
        Blow::TargetKilled => there.kill("web1").unwrap(),
        Blow::NetworkCut => network.cut(),
        Blow::NetworkStalls => network.stall(true),
        Blow::SourceUnreachable => here.set_reachable(false),
        Blow::TargetUnreachable => there.set_reachable(false),
        Blow::Cancelled => cancel = Some(Control::Cancel),
        Blow::GuestEnds => drop(here.power_off("web1")),
    }
    let result = migration.resume(here, there, |_| cancel.take());
    let whereabouts = match &result {
        Ok(_) => Whereabouts::On(Side::Target),
        Err(error) => error.whereabouts,
    };
    here.set_reachable(true);
    there.set_reachable(true);
    network.stall(false);
    let states = hosts.states();
    let alive = |state: Option<State>| state == Some(State::Running);
    match whereabouts {
        Whereabouts::On(Side::Source) | Whereabouts::RestartedOn(Side::Source) => {
            assert!(alive(states.0) && !alive(states.1), "{case}: {states:?} {result:?}");
        }
        Whereabouts::On(Side::Target) | Whereabouts::RestartedOn(Side::Target) => {
            assert!(!alive(states.0) && alive(states.1), "{case}: {states:?} {result:?}");
        }
        Whereabouts::Nowhere => {
            let meant = if_lost == IfLost::LeaveOff || matches!(blow, Blow::GuestEnds);
            assert!(meant && !alive(states.0) && !alive(states.1), "{case}: {states:?} {result:?}");
        }
        Whereabouts::Unknown => {
            assert!(matches!(blow, Blow::SourceUnreachable), "{case}: {result:?}");
            assert!(!(alive(states.0) && alive(states.1)), "{case}");
            // Now that both answer it is found out.
            let Hosts { here, there, .. } = &mut hosts;
            let _ = migration.resume(here, there, |_| None);
            let states = hosts.states();
            assert!(alive(states.0) != alive(states.1), "{case}: {states:?}");
        }
    }
    // What is left waiting somewhere goes when somebody looks after it, and the machine stays where it is.
    let before = hosts.states();
    let Hosts { here, there, .. } = &mut hosts;
    let _ = migration.resume(here, there, |_| None);
    let after = hosts.states();
    assert_eq!((alive(before.0), alive(before.1)), (alive(after.0), alive(after.1)), "{case}");
    if alive(after.0) {
        assert_eq!(after.1, None, "{case}");
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Refused("no".into())), Just(Fault::Unheard), Just(Fault::Unanswered)]
}

/// Faults in a row, each burst so many operations after the one before.
fn bursts(apart: u32) -> impl Strategy<Value = Vec<(u32, u32, Fault)>> {
    prop::collection::vec((0..apart, prop_oneof![Just(1), 1_u32..12], fault()), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Requests are refused, not heard, or done without an answer, at any time and several times over: two copies never run, and
    /// the error says where the one is; once both hosts answer, one runs.
    #[test]
    fn one_copy_runs_whatever_is_refused_or_not_answered(
        here in bursts(20),
        there in bursts(4),
        (busy, post_copy) in any::<(bool, bool)>(),
    ) {
        let mut hosts = Hosts::new();
        // So fast that it is over after a dozen looks.
        let bandwidth = 25_000_000_000;
        hosts.network.set_bandwidth(bandwidth);
        hosts.here.set_dirty_rate("web1", if busy { bandwidth } else { 0 }, None).unwrap();
        for (host, bursts) in [(&mut hosts.here, here), (&mut hosts.there, there)] {
            for (after, count, fault) in bursts {
                host.fault(after, fault.clone());
                (1..count).for_each(|_| host.fault(0, fault.clone()));
            }
        }
        let settings = Settings { post_copy, ..Settings::default() };
        let stop = if post_copy { Resort::PostCopy } else { Resort::Stop };
        let settings = Settings { downtime: Duration::from_millis(1), ..settings };
        let deadline = Some(Duration::from_millis(30));
        let policy = Policy { settings, deadline, at_deadline: stop, ..Policy::default() };
        let migration = Migration::of("web1").policy(policy);
        let migration = migration.every(Duration::from_millis(2)).patience(Duration::from_millis(8));
        let result = hosts.migrate(&migration);
        let alive = |state: Option<State>| state == Some(State::Running);
        let states = hosts.states();
        prop_assert!(!(alive(states.0) && alive(states.1)), "{:?} {:?}", states, result);
        match result.as_ref().map_or_else(|error| error.whereabouts, |_| Whereabouts::On(Side::Target)) {
            Whereabouts::On(Side::Source) => prop_assert!(alive(states.0), "{:?} {:?}", states, result),
            Whereabouts::On(Side::Target) => prop_assert!(alive(states.1), "{:?} {:?}", states, result),
            _ => {}
        }
        // Each try meets a fault at least, and there are no more than so many; then it is settled.
        for _ in 0..60 {
            let _ = migration.resume(&mut hosts.here, &mut hosts.there, |_| None);
            let states = hosts.states();
            prop_assert!(!(alive(states.0) && alive(states.1)), "{:?} {:?}", states, result);
        }
        let states = hosts.states();
        prop_assert!(alive(states.0) != alive(states.1), "{:?} {:?}", states, result);
        prop_assert!(states.0.is_none() || states.1.is_none(), "{:?} {:?}", states, result);
    }
}
