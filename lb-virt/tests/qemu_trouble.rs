//! What goes wrong with machines that QEMU runs: it is said, and nothing else is lost by it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside
#![cfg(feature = "qemu")]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/lab.rs"]
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest::Work;
use lab::{Lab, becomes, signal};
use lb_affinity::CpuSet;
use lb_virt::domain::{Disk, Format, Pins, Source};
use lb_virt::hypervisor::{CloneRequest, Effect, EventKind};
use lb_virt::migration::{Destination, Settings};
use lb_virt::qemu::qmp::Qmp;
use lb_virt::{DomainSpec, Hypervisor, Memory, Qemu, State, VirtError};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// Tells a machine's QEMU something past the program.
fn tell(lab: &Lab, command: &str, arguments: Value) -> Value {
    let socket = lab.path.join("node1/machines/web1/control.sock");
    Qmp::connect(&socket, PATIENCE).unwrap().execute(command, arguments, PATIENCE).unwrap()
}

#[test]
#[ignore = "needs QEMU"]
fn a_snapshot_that_nobody_waited_for_is_in_no_ones_way() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("web1")).unwrap();
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 5);
    // The program that began these has been killed.
    for id in ["snapshot", "snapshot-1"] {
        tell(&lab, "snapshot-delete", json!({"job-id": id, "tag": "none", "devices": ["none"]}));
    }
    host.take_snapshot("web1", "a").unwrap();
    host.restore_snapshot("web1", "a").unwrap();
    host.delete_snapshot("web1", "a").unwrap();
    assert_eq!(host.snapshots("web1").unwrap(), []);
}

/// QEMU answers nothing while it writes a guest's memory.
#[test]
#[ignore = "needs QEMU"]
fn a_snapshot_may_take_longer_than_an_answer() {
    let lab = Lab::new();
    let mut host = lab.host("node1").answer_within(Duration::from_secs(2));
    let work = Work { pages: 49_152, dirty: 4 };
    host.define(&lab::working_spec(&lab.images(), "web1", work)).unwrap();
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 5);
    let image = lab.images().join("web1.qcow2");
    let pid = lab.processes("node1")[0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let before = fs::metadata(&image).unwrap().len();
            let end = Instant::now() + PATIENCE;
            while fs::metadata(&image).unwrap().len() < before + (4 << 20) && Instant::now() < end {
                sleep(Duration::from_micros(200));
            }
            signal(pid, "-STOP");
            sleep(Duration::from_secs(4));
            signal(pid, "-CONT");
        });
        host.take_snapshot("web1", "a").unwrap();
    });
    assert_eq!(host.snapshots("web1").unwrap().len(), 1);
    assert_eq!(host.state("web1").unwrap(), State::Running);
}

#[test]
#[ignore = "needs QEMU"]
fn a_snapshot_goes_whatever_disks_have_come_and_gone() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let [second, third, raw] = ["second.qcow2", "third.qcow2", "raw.img"].map(|name| lab.images().join(name));
    guest::image(&second);
    guest::image(&third);
    fs::write(&raw, vec![0; 1 << 20]).unwrap();
    host.define(&lab.spec("web1").disk(Disk::file(&second))).unwrap();
    for running in [false, true] {
        if running {
            host.start("web1").unwrap();
            lab.counts_beyond("web1", 5);
        }
        host.take_snapshot("web1", "a").unwrap();
        host.attach_disk("web1", &Disk::file(&third)).unwrap();
        host.delete_snapshot("web1", "a").unwrap();
        assert_eq!(host.snapshots("web1").unwrap(), []);
        host.detach_disk("web1", "vdc").unwrap();
    }
    host.power_off("web1").unwrap();
    // An image that keeps none; one that is no more.
    host.take_snapshot("web1", "a").unwrap();
    host.take_snapshot("web1", "b").unwrap();
    host.attach_disk("web1", &Disk { format: Format::Raw, ..Disk::file(&raw) }).unwrap();
    host.delete_snapshot("web1", "a").unwrap();
    host.detach_disk("web1", "vdb").unwrap();
    fs::remove_file(&second).unwrap();
    host.delete_snapshot("web1", "b").unwrap();
    assert_eq!(host.snapshots("web1").unwrap(), []);
    let told =
        Command::new("qemu-img").args(["snapshot", "-l"]).arg(lab.images().join("web1.qcow2")).output();
    assert_eq!(String::from_utf8_lossy(&told.unwrap().stdout), "", "nothing is left in the image");
}

#[test]
#[ignore = "needs QEMU"]
fn what_can_t_be_restored_whole_is_not_begun() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let second = lab.images().join("second.qcow2");
    guest::image(&second);
    host.define(&lab.spec("web1").disk(Disk::file(&second))).unwrap();
    host.take_snapshot("web1", "a").unwrap();
    host.set_memory("web1", Memory::from_mib(300)).unwrap();
    host.start("web1").unwrap();
    lab.counts_beyond("web1", 5);
    // Its file stays open, and its name goes.
    fs::rename(&second, lab.images().join("elsewhere")).unwrap();
    let error = host.restore_snapshot("web1", "a").unwrap_err();
    assert!(matches!(&error, VirtError::File { path, .. } if *path == second), "{error:?}");
    assert_eq!(host.state("web1").unwrap(), State::Running);
    assert_eq!(host.spec("web1").unwrap().memory, Memory::from_mib(300));
    fs::rename(lab.images().join("elsewhere"), &second).unwrap();
    host.restore_snapshot("web1", "a").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    assert_eq!(host.spec("web1").unwrap().memory, Memory::from_mib(256));
}

#[test]
#[ignore = "needs QEMU"]
fn of_two_clones_of_one_name_one_is_there_with_its_image() {
    let lab = Lab::new();
    for name in ["one", "two"] {
        lab.host("node1").define(&lab.spec(name)).unwrap();
    }
    for round in 0..10 {
        let name = format!("web{round}");
        let request = CloneRequest { name: name.clone(), directory: lab.images(), linked: true };
        let results: Vec<_> = std::thread::scope(|scope| {
            let clone = |template| lab.host("node1").clone_machine(template, &request);
            let threads = ["one", "two"].map(|template| scope.spawn(move || clone(template)));
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        let spec = lab.host("node1").spec(&name).unwrap();
        let Some(Source::File(image)) = &spec.disks[0].source else { panic!("{spec:?}") };
        assert!(image.exists(), "the other has removed it: {results:?}");
    }
}

/// Which CPUs each of a process's threads may run on.
fn allowed(pid: u32) -> BTreeMap<String, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let tasks = tasks.filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some((name.trim().to_owned(), line.trim().to_owned()))
    });
    tasks.filter(|(name, _)| name.starts_with("CPU ")).collect()
}

#[test]
#[ignore = "needs QEMU"]
fn pins_and_sizes_that_can_t_be_had_are_not_half_there() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    let spec = DomainSpec { max_vcpus: Some(4), ..lab.spec("web1") };
    host.define(&spec).unwrap();
    host.start("web1").unwrap();
    let pid = lab.processes("node1")[0];
    let before = allowed(pid);
    let vcpus = [(0, CpuSet::from(0)), (1, CpuSet::from(1000))].into();
    let error = host.pin("web1", &Pins { vcpus, ..Pins::default() }).unwrap_err();
    assert!(error.to_string().contains("pin"), "{error}");
    assert_eq!(allowed(pid), before);
    assert_eq!(host.spec("web1").unwrap().pins, Pins::default());
    // The fourth can't come: something else has its name.
    tell(&lab, "device_add", json!({"driver": "virtio-rng-pci", "id": "vcpu-3-0-0-0"}));
    let error = host.set_vcpus("web1", 4).unwrap_err();
    assert!(error.to_string().contains("vcpu-3-0-0-0"), "{error}");
    assert_eq!(allowed(pid).len(), 3);
    assert_eq!((host.spec("web1").unwrap().vcpus, host.list().unwrap()[0].vcpus), (2, 3));
    // This guest lets none go.
    assert_eq!(host.set_vcpus("web1", 2).unwrap(), Effect::NextBoot);
    assert_eq!(host.list().unwrap()[0].vcpus, 3);
}

#[test]
#[ignore = "needs QEMU"]
fn who_asks_for_events_often_hears_of_a_qemu_that_does_not_answer() {
    let lab = Lab::new();
    let mut first = lab.host("node1");
    for name in ["web1", "web2"] {
        first.define(&lab.spec(name)).unwrap();
        first.start(name).unwrap();
        lab.counts_beyond(name, 5);
    }
    // The first hears them, so another looks at them.
    while first.next_event(Duration::ZERO).unwrap().is_some() {}
    let mut host = lab.host("node1").answer_within(Duration::from_secs(1));
    assert_eq!(host.next_event(Duration::ZERO).unwrap(), None);
    let note = fs::read_to_string(lab.path.join("node1/machines/web1/pid")).unwrap();
    let pid: u32 = note.trim().parse().unwrap();
    signal(pid, "-STOP");
    let end = Instant::now() + PATIENCE;
    let event = loop {
        match host.next_event(Duration::from_millis(50)).unwrap() {
            Some(event) => break event,
            None => assert!(Instant::now() < end, "nothing was told"),
        }
    };
    assert_eq!(event.kind, EventKind::State { state: State::Unknown });
    assert_eq!(event.machine, "web1");
    signal(pid, "-CONT");
    becomes(&mut host, "web1", State::Running);
}

#[test]
#[ignore = "needs QEMU"]
fn what_could_not_be_sent_is_not_being_moved() {
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("web1")).unwrap();
    host.start("web1").unwrap();
    let way = lab.path.join("node1/machines/web1/way");
    // The link to where it goes can't be made.
    fs::create_dir(&way).unwrap();
    let path = lab.images().join("a,b.sock");
    let to = Destination { uri: format!("unix:{}", path.display()), tls: None };
    let error = host.send("web1", &to, &Settings::default()).unwrap_err();
    assert!(matches!(&error, VirtError::File { path, .. } if *path == way), "{error:?}");
    assert_eq!(host.migration("web1", Duration::ZERO).unwrap(), None);
    host.set_memory("web1", Memory::from_mib(200)).unwrap();
    fs::remove_dir(&way).unwrap();
    // Any name of a socket is one.
    let socket = UnixListener::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    host.send("web1", &to, &Settings::default()).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        match socket.accept() {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(Instant::now() < end, "{:?}", host.migration("web1", Duration::ZERO));
        sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs QEMU"]
fn who_may_open_few_files_ends_no_machine() {
    // Again, in a process of its own: the limit is the whole process's.
    const LAB: &str = "LB_VIRT_TEST_FEW_FILES";
    if let Some(directory) = std::env::var_os(LAB) {
        let mut host = Qemu::open(directory).unwrap().accelerated(false);
        let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
        for few in 0..6 {
            let limit = rlimit(open + few);
            let _ = host.list();
            let _ = host.state("web1");
            let _ = host.next_event(Duration::ZERO);
            rlimit(limit);
        }
        assert_eq!(host.state("web1").unwrap(), State::Running);
        return;
    }
    let lab = Lab::new();
    let mut host = lab.host("node1");
    host.define(&lab.spec("web1")).unwrap();
    host.start("web1").unwrap();
    drop(host);
    let pids = lab.processes("node1");
    // The watch goes by QEMU's own notes, which are gone if this fails.
    let _end = Ended(pids[0]);
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "who_may_open_few_files_ends_no_machine", "--include-ignored", "--nocapture"])
        .env(LAB, lab.path.join("node1"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!((lab.processes("node1"), lab.host("node1").state("web1").unwrap()), (pids, State::Running));
}

/// A process that is ended with the test.
struct Ended(u32);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.0.to_string()]).status();
    }
}

/// Lets this process have so many files open; how many it might have before.
fn rlimit(files: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..before }).unwrap();
    before.current.unwrap()
}
