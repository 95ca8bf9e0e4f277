//! Machines that move between real QEMUs: not a tick is lost. What goes wrong on the way is in `qemu_faults`.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside
#![cfg(feature = "qemu")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/guest.rs"]
mod guest;
#[path = "support/lab.rs"]
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use lb_virt::domain::{Disk, Mac, Nic};
use lb_virt::hypervisor::Effect;
use lb_virt::migration::{
    Conclusion, Control, Destination, Migration, Phase, Policy, Report, Sample, Settings, Side, Tls, Via,
    Whereabouts,
};
use lb_virt::qemu::qmp::Qmp;
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, State, VirtError};
use serde_json::{Value, json};

use guest::Work;
use lab::Lab;

/// 64 MiB to be sent, of which little changes.
const WORK: Work = Work { pages: 16_384, dirty: 4 };
const PATIENCE: Duration = Duration::from_secs(60);

/// Two hosts and a machine that runs on the first, its memory filled.
struct Pair {
    here: Qemu,
    there: Qemu,
    lab: Lab,
}

impl Pair {
    fn new(work: Work) -> Self {
        let lab = Lab::new();
        let (mut here, there) = (lab.host("node1"), lab.host("node2"));
        here.define(&lab::working_spec(&lab.images(), "web1", work)).unwrap();
        here.start("web1").unwrap();
        lab.counts_beyond("web1", 5);
        Self { here, there, lab }
    }

    fn run(&mut self, migration: &Migration) -> Report {
        migration.run(&mut self.here, &mut self.there, |_| None).unwrap()
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.here, &mut self.there);
    }

    fn states(&mut self) -> (Option<State>, Option<State>) {
        (self.here.state("web1").ok(), self.there.state("web1").ok())
    }

    fn until(&mut self, what: impl Fn(&Sample) -> bool) -> Sample {
        let end = Instant::now() + PATIENCE;
        loop {
            let sample = lab::sample(&mut self.here, "web1");
            if what(&sample) {
                return sample;
            }
            assert!(Instant::now() < end, "{sample:?}");
        }
    }

    /// That it counts on, and that it has neither left out nor said twice a number since it was started, `starts` times.
    fn counts_on(&self, starts: usize) {
        let last = *guest::numbers(&self.lab.console("web1")).last().unwrap();
        self.lab.counts_beyond("web1", last + 10);
        let numbers = guest::numbers(&self.lab.console("web1"));
        let breaks: Vec<_> = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
        assert_eq!(breaks.len() + 1, starts, "{breaks:?}");
        assert!(breaks.iter().all(|pair| pair[1] == 1), "{breaks:?}");
    }
}

fn slow() -> Settings {
    Settings { bandwidth: Some(5_000_000), downtime: Duration::from_millis(1), ..Settings::default() }
}

#[test]
#[ignore = "needs QEMU"]
fn no_tick_is_lost_in_twenty_moves() {
    let mut pair = Pair::new(WORK);
    let mut times = Vec::new();
    for _ in 0..20 {
        let report = pair.run(&Migration::of("web1"));
        let sample = report.sample.unwrap();
        assert_eq!(sample.phase, Phase::Completed);
        times.push((report.took, sample.elapsed, sample.downtime.unwrap()));
        assert_eq!(pair.states(), (None, Some(State::Running)));
        pair.swap();
        let last = *guest::numbers(&pair.lab.console("web1")).last().unwrap();
        pair.lab.counts_beyond("web1", last + 3);
    }
    pair.counts_on(1);
    pair.lab.has_at_most(1);
    let mean =
        |pick: fn(&(Duration, Duration, Duration)) -> Duration| times.iter().map(pick).sum::<Duration>() / 20;
    println!(
        "took {:?}, by QEMU's count {:?}, stood still {:?}",
        mean(|t| t.0),
        mean(|t| t.1),
        mean(|t| t.2)
    );
}

#[test]
#[ignore = "needs QEMU"]
fn what_was_changed_while_it_ran_moves_with_it() {
    let mut pair = Pair::new(WORK);
    let more = pair.lab.images().join("more.qcow2");
    guest::image(&more);
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    pair.here.attach_nic("web1", &Nic::nat().mac(mac)).unwrap();
    pair.here.attach_disk("web1", &Disk::file(&more).shared()).unwrap();
    let (running, defined) = (pair.here.running_spec("web1").unwrap(), pair.here.spec("web1").unwrap());
    pair.run(&Migration::of("web1"));
    assert_eq!(pair.there.running_spec("web1").unwrap(), running);
    assert_eq!(pair.there.spec("web1").unwrap(), defined);
    pair.counts_on(1);
    assert_eq!(pair.there.statistics("web1").unwrap().disks.len(), 2);
    // Over there it lets them go, where they are.
    assert_eq!(pair.there.detach_nic("web1", mac).unwrap(), Effect::Now);
    assert_eq!(pair.there.detach_disk("web1", "vdb").unwrap(), Effect::Now);
    pair.swap();
    pair.run(&Migration::of("web1"));
    pair.counts_on(1);
}

/// A slot of the root bus, and a function; of what is behind a port, the port's slot and 100.
type Place = (u64, u64);

/// The devices that have names, with where the guest finds each, by QEMU's own word.
fn places(lab: &Lab, host: &str) -> BTreeMap<String, Place> {
    let socket = lab.path.join(host).join("machines/web1/control.sock");
    let mut qmp = Qmp::connect(&socket, PATIENCE).unwrap();
    let buses = qmp.execute("query-pci", json!({}), PATIENCE).unwrap();
    let mut found = BTreeMap::new();
    for bus in buses.as_array().unwrap() {
        find(&bus["devices"], &mut found);
    }
    found
}

fn find(devices: &Value, found: &mut BTreeMap<String, Place>) {
    for device in devices.as_array().into_iter().flatten() {
        let name = device["qdev_id"].as_str().unwrap_or_default();
        if !name.is_empty() {
            let number = |key: &str| device[key].as_u64().unwrap();
            found.insert(name.to_owned(), (number("slot"), number("function")));
        }
        // What a port has is at the port's place.
        for behind in device["pci_bridge"]["devices"].as_array().into_iter().flatten() {
            let name = behind["qdev_id"].as_str().unwrap().to_owned();
            found.insert(name, (100 + device["slot"].as_u64().unwrap(), 0));
        }
    }
}

#[test]
#[ignore = "needs QEMU"]
fn what_is_left_stays_where_it_was_when_others_have_gone() {
    let mut pair = Pair::new(Work::default());
    pair.here.power_off("web1").unwrap();
    let [a, b, c, d] = [1, 2, 3, 4].map(|last| Mac([0x52, 0x54, 0, 0, 0, last]));
    for mac in [a, b] {
        pair.here.attach_nic("web1", &Nic::nat().mac(mac)).unwrap();
    }
    fs::remove_file(pair.lab.images().join("web1.console")).unwrap();
    pair.here.start("web1").unwrap();
    pair.lab.counts_beyond("web1", 5);
    for target in ["vdb", "vdc"] {
        let path = pair.lab.images().join(format!("{target}.qcow2"));
        guest::image(&path);
        pair.here.attach_disk("web1", &Disk::file(&path).named(target).shared()).unwrap();
    }
    pair.here.attach_nic("web1", &Nic::nat().mac(c)).unwrap();
    // The one in the middle goes, and another comes after the last.
    assert_eq!(pair.here.detach_nic("web1", b).unwrap(), Effect::Now);
    assert_eq!(pair.here.detach_disk("web1", "vdb").unwrap(), Effect::Now);
    pair.here.attach_nic("web1", &Nic::nat().mac(d)).unwrap();
    let before = places(&pair.lab, "node1");
    let nic = |last: u8| format!("nic-5254000000{last:02x}");
    assert_eq!([1, 3, 4].map(|last| before[&nic(last)]), [(8, 0), (10, 0), (11, 0)], "{before:?}");
    pair.run(&Migration::of("web1"));
    assert_eq!(places(&pair.lab, "node2"), before);
    pair.counts_on(1);
    // And once more, with another in the gap.
    pair.swap();
    assert_eq!(pair.here.detach_nic("web1", a).unwrap(), Effect::Now);
    pair.here.attach_nic("web1", &Nic::nat().mac(b)).unwrap();
    let before = places(&pair.lab, "node2");
    pair.run(&Migration::of("web1"));
    assert_eq!(places(&pair.lab, "node1"), before);
    pair.counts_on(1);
    // At its next boot they are where their numbers are.
    let spec = pair.there.spec("web1").unwrap();
    assert_eq!(
        spec.nics.iter().map(|nic| (nic.mac, nic.place)).collect::<Vec<_>>(),
        [(Some(c), None), (Some(d), None), (Some(b), None)]
    );
    pair.there.power_off("web1").unwrap();
    pair.there.start("web1").unwrap();
    let now = places(&pair.lab, "node1");
    assert_eq!([3, 4, 2].map(|last| now[&nic(last)]), [(8, 0), (9, 0), (10, 0)], "{now:?}");
}

#[test]
#[ignore = "needs QEMU"]
fn as_much_as_has_places_moves_to_the_same_places() {
    for (board, disks, nics) in [("pc", 16, 8), ("q35", 6, 6)] {
        let lab = Lab::new();
        let (mut here, mut there) = (lab.host("node1"), lab.host("node2"));
        let mut spec = lab.spec("web1");
        spec.machine = Some(board.into());
        // Only what is in the middle comes while it runs.
        for target in ('b'..).take(disks - 1).map(|letter| format!("vd{letter}")).filter(|name| name != "vdc")
        {
            let path = lab.images().join(format!("{target}.qcow2"));
            guest::image(&path);
            spec = spec.disk(Disk::file(&path).named(&target).shared());
        }
        let mac = |last: usize| Mac([0x52, 0x54, 0, 0, 0, last as u8]);
        spec.nics = (1..nics).map(|number| Nic::nat().mac(mac(number))).collect();
        here.define(&spec).unwrap();
        here.start("web1").unwrap();
        let (path, last) = (lab.images().join("c.qcow2"), Nic::nat().mac(mac(nics)));
        guest::image(&path);
        here.attach_disk("web1", &Disk::file(&path).named("vdc").shared()).unwrap();
        here.attach_nic("web1", &last).unwrap();
        // There is no place for one more, and nothing of it is left.
        let before = (here.spec("web1").unwrap(), here.running_spec("web1").unwrap());
        let one_more = here.attach_nic("web1", &Nic::nat().mac(mac(99))).unwrap_err();
        assert!(matches!(one_more, VirtError::Inexpressible { .. }), "{one_more}");
        let one_more = here.attach_disk("web1", &Disk::file(&path).shared()).unwrap_err();
        assert!(matches!(one_more, VirtError::Inexpressible { .. }), "{one_more}");
        assert_eq!((here.spec("web1").unwrap(), here.running_spec("web1").unwrap()), before);
        let found = places(&lab, "node1");
        assert!(found.len() > disks + nics, "{found:?}");
        Migration::of("web1").run(&mut here, &mut there, |_| None).unwrap();
        assert_eq!(places(&lab, "node2"), found, "{board}");
        there.power_off("web1").unwrap();
        there.start("web1").unwrap();
        there.power_off("web1").unwrap();
    }
}

#[test]
#[ignore = "needs QEMU"]
fn it_goes_over_tcp_and_over_long_paths() {
    let mut pair = Pair::new(WORK);
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse().unwrap();
        pair.run(&Migration::of("web1").via(Via::Tcp { address, port: 0, tls: None }));
        pair.swap();
        pair.counts_on(1);
    }
    let long = "a, b".repeat(40);
    pair.there = Qemu::open(pair.lab.path.join(long)).unwrap().accelerated(false);
    pair.run(&Migration::of("web1"));
    pair.counts_on(1);
}

#[test]
#[ignore = "needs QEMU"]
fn post_copy_moves_what_would_not_end() {
    let work = Work { pages: 16_384, dirty: 100 };
    let mut pair = Pair::new(work);
    let settings = Settings { bandwidth: Some(20_000_000), downtime: Duration::from_millis(1), ..slow() };
    let settings = Settings { post_copy: true, ..settings };
    let policy = Policy { settings, ..Policy::default() };
    let migration = Migration::of("web1").policy(policy);
    let mut asked = false;
    let report = migration.run(&mut pair.here, &mut pair.there, |progress| {
        let go = !asked && progress.sample.rounds >= 1;
        asked |= go;
        go.then_some(Control::PostCopy)
    });
    let sample = report.unwrap().sample.unwrap();
    assert!(sample.post_copied, "{sample:?}");
    assert_eq!(pair.states(), (None, Some(State::Running)));
    pair.counts_on(1);
}

#[test]
#[ignore = "needs QEMU"]
fn a_target_that_differs_or_does_not_listen_is_told_and_the_source_goes_on() {
    let mut pair = Pair::new(WORK);
    // Another size of memory.
    let (running, defined) = (pair.here.running_spec("web1").unwrap(), pair.here.spec("web1").unwrap());
    let smaller = DomainSpec { memory: Memory::from_mib(200), ..running.clone() };
    let to = pair.there.receive(&smaller, &defined, &Via::Own).unwrap();
    pair.here.send("web1", &to, &Settings::default()).unwrap();
    let sample = pair.until(|sample| sample.phase.has_ended());
    assert!(matches!(sample.phase, Phase::Failed(_)), "{sample:?}");
    pair.here.conclude("web1", Conclusion::Run).unwrap();
    assert_eq!(pair.states(), (Some(State::Running), None), "the copy has gone");
    pair.counts_on(1);
    // Nobody there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for uri in [format!("tcp:127.0.0.1:{port}"), "unix:/no/such/socket".into()] {
        if pair.here.send("web1", &Destination { uri, tls: None }, &Settings::default()).is_ok() {
            let sample = pair.until(|sample| sample.phase.has_ended());
            assert!(matches!(sample.phase, Phase::Failed(ref words) if !words.is_empty()), "{sample:?}");
            pair.here.conclude("web1", Conclusion::Run).unwrap();
        }
        assert!(matches!(pair.here.conclude("web1", Conclusion::Run), Err(VirtError::NotMoving { .. })));
    }
    // A port that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, port) = (taken.local_addr().unwrap().ip(), taken.local_addr().unwrap().port());
    let via = Via::Tcp { address, port, tls: None };
    let error = Migration::of("web1").via(via).run(&mut pair.here, &mut pair.there, |_| None).unwrap_err();
    assert_eq!(error.whereabouts, Whereabouts::On(Side::Source), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(pair.states(), (Some(State::Running), None));
    pair.counts_on(1);
    pair.run(&Migration::of("web1"));
    pair.counts_on(1);
}

#[test]
#[ignore = "needs QEMU and openssl"]
fn it_goes_over_encrypted() {
    let mut pair = Pair::new(WORK);
    let (good, other) = (pair.lab.path.join("pki"), pair.lab.path.join("other-pki"));
    for directory in [&good, &other] {
        certificates::make(directory);
    }
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let tls = |directory: &Path| {
        let hostname = Some("localhost".into());
        Some(Tls { directory: directory.into(), hostname })
    };
    pair.run(&Migration::of("web1").via(Via::Tcp { address, port: 0, tls: tls(&good) }));
    pair.counts_on(1);
    pair.swap();
    // One whose certificate another authority has signed is sent nothing.
    let (running, defined) = (pair.here.running_spec("web1").unwrap(), pair.here.spec("web1").unwrap());
    let to =
        pair.there.receive(&running, &defined, &Via::Tcp { address, port: 0, tls: tls(&other) }).unwrap();
    let to = Destination { tls: tls(&good), ..to };
    pair.here.send("web1", &to, &Settings::default()).unwrap();
    let sample = pair.until(|sample| sample.phase.has_ended());
    assert!(matches!(sample.phase, Phase::Failed(_)), "{sample:?}");
    let _ = pair.there.conclude("web1", Conclusion::GiveUp);
    pair.here.conclude("web1", Conclusion::Run).unwrap();
    pair.counts_on(1);
    // And in the clear, after all that.
    pair.run(&Migration::of("web1"));
    pair.counts_on(1);
}
