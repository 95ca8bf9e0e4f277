//! Machines that go from one libvirtd to another while they run: one copy in the end, whatever fails. Both are on this host, and
//! reach the same images; they have names and identities of their own, so that they take each other for another host.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "support/certificates.rs"]
mod certificates;
mod libvirtd;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use lb_virt::domain::{Disk, Memory};
use lb_virt::libvirt::Libvirt;
use lb_virt::migration::{
    Conclusion, Control, Migration, MigrationError, Phase, Policy, Report, Settings, Side, Tls, Via,
    Whereabouts, Why,
};
use lb_virt::{DomainSpec, Hypervisor, State, VirtError};
use libvirtd::Daemon;

struct Hosts {
    here: Libvirt,
    there: Libvirt,
    /// Dropped last: their machines end with them.
    target: Daemon,
    source: Daemon,
}

impl Hosts {
    /// Two, with a machine that runs on one of them, and writes to its memory all the time.
    fn new() -> Self {
        let (mut source, mut target) = (Daemon::start(), Daemon::start());
        let (mut here, there) = (source.open(), target.open());
        let mut spec = source.spec("web1");
        spec.disks.iter_mut().for_each(|disk| disk.shared = true);
        libvirtd::make_busy(spec.disks[0].source.as_ref().unwrap().path());
        here.define(&spec).unwrap();
        here.start("web1").unwrap();
        libvirtd::boots(&source.uri(), "web1");
        Self { here, there, target, source }
    }

    /// What the machine does here and there; `None` where there is none.
    fn states(&mut self) -> (Option<State>, Option<State>) {
        (self.here.state("web1").ok(), self.there.state("web1").ok())
    }

    fn migrate(&mut self, policy: Policy, control: Option<Control>) -> Result<Report, MigrationError> {
        let mut control = control;
        Migration::of("web1").policy(policy).patience(Duration::from_secs(5)).run(
            &mut self.here,
            &mut self.there,
            // As soon as something is on its way.
            |progress| if progress.sample.phase == Phase::PreCopy { control.take() } else { None },
        )
    }
}

/// So slow that it would never end: the guest writes faster.
fn slow(settings: Settings) -> Policy {
    Policy { settings: never(settings), ..Policy::default() }
}

fn never(settings: Settings) -> Settings {
    Settings { bandwidth: Some(1 << 20), downtime: Duration::from_millis(1), ..settings }
}

#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn machines_move() {
    let mut hosts = Hosts::new();
    let defined = hosts.here.spec("web1").unwrap();
    let report = hosts.migrate(Policy::default(), None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
    assert_eq!(hosts.there.spec("web1").unwrap(), defined, "it is defined there, and all of it is");
    let sample = report.sample.unwrap();
    assert!(sample.phase == Phase::Completed && sample.elapsed > Duration::ZERO, "{sample:?}");
    assert!(sample.downtime.is_some_and(|time| time < sample.elapsed), "{sample:?}");
    assert!(hosts.here.list().unwrap().is_empty());
    assert!(hosts.there.migration("web1", Duration::ZERO).unwrap().is_none());
    assert!(matches!(hosts.there.conclude("web1", Conclusion::Run), Err(VirtError::NotMoving { .. })));

    // And back, standing still, with a disk that it was given meanwhile.
    let more = hosts.source.images().join("more.qcow2");
    hosts.there.attach_disk("web1", &Disk::file(libvirtd::image(&more)).shared()).unwrap();
    assert!(hosts.there.running_spec("web1").unwrap().disks.iter().all(|disk| disk.shared));
    hosts.there.pause("web1").unwrap();
    let via = Via::Tcp { address: Ipv4Addr::new(127, 0, 0, 2).into(), port: 0, tls: None };
    let Hosts { here, there, .. } = &mut hosts;
    Migration::of("web1").via(via).run(there, here, |_| None).unwrap();
    assert_eq!(hosts.states(), (Some(State::Paused), None));
    assert_eq!(hosts.here.spec("web1").unwrap().disks.len(), 2);

    // At rest too.
    hosts.here.power_off("web1").unwrap();
    hosts.migrate(Policy::default(), None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::ShutOff)));
}

#[test]
#[ignore = "needs root, libvirt-daemon, QEMU and openssl"]
fn machines_move_encrypted() {
    let mut hosts = Hosts::new();
    let (ours, theirs) = (hosts.source.certificates(), hosts.target.certificates());
    let over = |hostname: Option<&str>| {
        let tls = Tls { directory: PathBuf::new(), hostname: hostname.map(Into::into) };
        Migration::of("web1").patience(Duration::from_secs(5)).via(Via::Tcp {
            address: Ipv4Addr::new(127, 0, 0, 2).into(),
            port: 0,
            tls: Some(tls),
        })
    };
    let stays = |hosts: &mut Hosts, hostname, what: &str| {
        let error = over(hostname).run(&mut hosts.here, &mut hosts.there, |_| None).unwrap_err();
        assert!(matches!(*error.why, Why::Failed(ref words) if !words.is_empty()), "{what}: {error}");
        assert_eq!(error.whereabouts, Whereabouts::On(Side::Source), "{what}: {error}");
        assert_eq!(hosts.states(), (Some(State::Running), None), "{what}");
        println!("{what}: {error}");
    };
    stays(&mut hosts, Some("localhost"), "without certificates");
    certificates::make(&ours);
    certificates::make(&theirs);
    stays(&mut hosts, Some("localhost"), "signed by another authority");
    for file in fs::read_dir(&ours).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), theirs.join(file.file_name())).unwrap();
    }
    stays(&mut hosts, None, "of another name than the address");
    over(Some("localhost")).run(&mut hosts.here, &mut hosts.there, |_| None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
    // And back in the clear.
    let Hosts { here, there, .. } = &mut hosts;
    Migration::of("web1").run(there, here, |_| None).unwrap();
    assert_eq!(hosts.states(), (Some(State::Running), None));
}

#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn what_is_cancelled_stays() {
    let mut hosts = Hosts::new();
    let error = hosts.migrate(slow(Settings::default()), Some(Control::Cancel)).unwrap_err();
    assert!(matches!(*error.why, Why::Cancelled(_)), "{error}");
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Source));
    assert_eq!(hosts.states(), (Some(State::Running), None));
    // Nothing is left of it: it can be changed, and moved.
    hosts.here.set_memory("web1", Memory::from_mib(128)).unwrap();
    hosts.here.set_memory("web1", Memory::from_mib(256)).unwrap();
    hosts.migrate(Policy::default(), None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn what_is_on_its_way_is_not_changed() {
    let mut hosts = Hosts::new();
    let Hosts { here, there, .. } = &mut hosts;
    let (running, defined) = (here.running_spec("web1").unwrap(), here.spec("web1").unwrap());
    let to = there.receive(&running, &defined, &Via::Own).unwrap();
    assert_eq!(there.migration("web1", Duration::ZERO).unwrap().unwrap().phase, Phase::Setup);
    here.send("web1", &to, &never(Settings::default())).unwrap();
    let moving = |result: Result<(), VirtError>| {
        assert!(matches!(result, Err(VirtError::Moving { .. })), "{result:?}")
    };
    moving(here.set_vcpus("web1", 1).map(drop));
    moving(here.take_snapshot("web1", "now"));
    moving(here.reboot("web1"));
    moving(here.send("web1", &to, &Settings::default()));
    assert!(here.conclude("web1", Conclusion::Run).is_err(), "it is on its way");
    while here.migration("web1", Duration::from_secs(1)).unwrap().unwrap().phase != Phase::PreCopy {}
    assert_eq!(there.state("web1").unwrap(), State::Paused);
    moving(there.resume("web1"));
    assert!(there.conclude("web1", Conclusion::Run).is_err(), "it is not whole");
    // Standing still, it is through when what there is has gone over, faster now.
    here.pause("web1").unwrap();
    here.control_migration("web1", Control::Bandwidth(1 << 30)).unwrap();
    let ended = loop {
        let sample = here.migration("web1", Duration::from_secs(1)).unwrap().unwrap();
        if sample.phase.has_ended() {
            break sample;
        }
    };
    assert_eq!((ended.phase, ended.remaining), (Phase::Completed, 0));
    moving(here.state("web1").map(drop));
    assert!(here.conclude("web1", Conclusion::Run).is_err(), "its copy here is gone");
    assert!(there.conclude("web1", Conclusion::GiveUp).is_err(), "it is the only copy");
    here.conclude("web1", Conclusion::GiveUp).unwrap();
    there.conclude("web1", Conclusion::Run).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn post_copy_runs_on_the_target_at_once() {
    let mut hosts = Hosts::new();
    let settings = Settings { post_copy: true, ..Settings::default() };
    let mut controls = vec![Control::PostCopy, Control::Bandwidth(1 << 40)];
    let report = Migration::of("web1")
        .policy(slow(settings))
        .patience(Duration::from_secs(5))
        .run(&mut hosts.here, &mut hosts.there, |progress| match progress.sample.phase {
            Phase::PreCopy if controls.len() == 2 => Some(controls.remove(0)),
            // It keeps to its bandwidth, until that is another.
            Phase::PostCopy => controls.pop(),
            _ => None,
        })
        .unwrap();
    assert_eq!(report.steered.len(), 2, "{report:?}");
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

/// The connection is broken off, on either side: both copies stay, and are connected anew, by whoever comes.
#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn a_post_copy_that_has_lost_its_connection_is_recovered() {
    for by_another in [false, true] {
        let mut hosts = Hosts::new();
        let settings = Settings { post_copy: true, ..never(Settings::default()) };
        let policy = Policy { settings, stall: Duration::from_secs(60), ..Policy::default() };
        let (mut over, source, mut target) =
            (Some(Control::PostCopy), hosts.source.uri(), hosts.target.open());
        let error = Migration::of("web1")
            .policy(policy)
            .patience(Duration::from_secs(5))
            .run(&mut hosts.here, &mut hosts.there, |progress| {
                // Before it runs there, there is nothing to keep.
                if progress.sample.phase == Phase::PostCopy
                    && target.state("web1").is_ok_and(|state| state == State::Running)
                {
                    libvirtd::virsh(&source, &["domjobabort", "--postcopy", "web1"]);
                }
                over.take_if(|_| progress.sample.phase == Phase::PreCopy)
            })
            .unwrap_err();
        assert!(matches!(*error.why, Why::Stalled), "{error}");
        assert_eq!(error.whereabouts, Whereabouts::On(Side::Target), "{error}");
        if by_another {
            (hosts.here, hosts.there) = (hosts.source.open(), hosts.target.open());
        }
        assert_eq!(hosts.states(), (Some(State::Paused), Some(State::Running)));
        assert!(matches!(hosts.here.power_off("web1"), Err(VirtError::Half { .. })));
        let Hosts { here, there, .. } = &mut hosts;
        let mut fast = Some(Control::Bandwidth(1 << 40));
        let again =
            Migration::of("web1")
                .patience(Duration::from_secs(20))
                .recover(here, there, |progress| fast.take_if(|_| progress.sample.phase == Phase::PostCopy));
        again.unwrap();
        assert_eq!(hosts.states(), (None, Some(State::Running)));
    }
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn a_target_that_can_t_leaves_it_where_it_is() {
    let mut hosts = Hosts::new();
    // It has one of that name.
    hosts.there.define(&DomainSpec::new("web1", 1, Memory::from_mib(64))).unwrap();
    let error = hosts.migrate(Policy::default(), None).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert_eq!(hosts.states(), (Some(State::Running), Some(State::ShutOff)));
    hosts.there.delete("web1").unwrap();

    // Its copy is ended on the way.
    let mut power_off = true;
    let target = hosts.target.uri();
    let error = Migration::of("web1")
        .policy(slow(Settings::default()))
        .patience(Duration::from_secs(2))
        .run(&mut hosts.here, &mut hosts.there, |progress| {
            if progress.sample.phase == Phase::PreCopy && std::mem::take(&mut power_off) {
                Libvirt::open(&target).unwrap().power_off("web1").unwrap();
            }
            None
        })
        .unwrap_err();
    assert!(matches!(*error.why, Why::Failed(_)), "{error}");
    assert_eq!(hosts.states(), (Some(State::Running), None));

    // It dies on the way, and its machines with it.
    let target = &mut hosts.target;
    let mut kill = Some(|| target.kill());
    let error = Migration::of("web1")
        .policy(slow(Settings::default()))
        .patience(Duration::from_secs(2))
        .run(&mut hosts.here, &mut hosts.there, |progress| {
            if progress.sample.phase == Phase::PreCopy
                && let Some(mut kill) = kill.take()
            {
                kill();
            }
            None
        })
        .unwrap_err();
    assert!(matches!(*error.why, Why::Failed(_)), "{error}");
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Source), "{error}");
    assert_eq!(hosts.here.state("web1").unwrap(), State::Running);

    // It is not there at all.
    let error = hosts.migrate(Policy::default(), None).unwrap_err();
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Source), "{error}");
    assert_eq!(hosts.here.state("web1").unwrap(), State::Running);

    // It is there again.
    hosts.target.run();
    hosts.there = hosts.target.open();
    hosts.migrate(Policy::default(), None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}

/// Who moved it is gone, and all that it knew: another looks, and ends it.
#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn a_lost_migration_is_found_again() {
    let mut hosts = Hosts::new();
    hosts.migrate(Policy::default(), None).unwrap();
    (hosts.here, hosts.there) = (hosts.source.open(), hosts.target.open());
    Migration::of("web1").resume(&mut hosts.here, &mut hosts.there, |_| None).unwrap();
    assert_eq!(hosts.states(), (None, Some(State::Running)));
}
