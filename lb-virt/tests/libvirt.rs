//! libvirt itself, with QEMU behind it: its words, its events, broken connections, and definitions that go through it.
#![cfg(all(feature = "libvirt", feature = "qemu"))]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod libvirtd;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_virt::domain::{Action, Arch, BootDevice, Bus, CpuModel, Disk, DiskDevice, Memory, Nic, NicModel};
use lb_virt::hypervisor::{CloneRequest, ConsoleAddress, Event, EventKind};
use lb_virt::libvirt::{DomainType, Libvirt, to_xml};
use lb_virt::qemu::arguments::{Launch, arguments};
use lb_virt::{DomainSpec, Hypervisor, State, VirtError};
use libvirtd::Daemon;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;

#[test]
fn what_can_t_be_opened_is_said() {
    for (uri, words) in [
        ("test:///no/such/node.xml", "node.xml"),
        ("qemu:///system?socket=/no/such/socket", "/no/such/socket"),
        ("test:///default\0", "libvirt.org/uri.html"),
    ] {
        match Libvirt::open(uri) {
            Err(VirtError::Said { hypervisor: "libvirt", operation, words: said }) => {
                assert_eq!(operation, format!("open {uri}"));
                assert!(said.contains(words), "{uri}: {said}");
            }
            other => panic!("{uri}: {other:?}"),
        }
    }
}

/// All who open it in one process share one host, in which a machine runs already.
#[test]
fn the_default_host_of_test_is_one() {
    let mut host = Libvirt::open("test:///default").unwrap();
    assert_eq!(host.domain_type(), DomainType::Test);
    assert_eq!(host.state("test").unwrap(), State::Running);
    let mut other = Libvirt::open("test:///default").unwrap();
    other.define(&DomainSpec::new("web1", 1, Memory::from_mib(64))).unwrap();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    let seen = host.next_event(Duration::ZERO).unwrap();
    assert_eq!(
        seen,
        Some(Event { machine: "web1".into(), kind: EventKind::Defined }),
        "that another has done"
    );
    other.delete("web1").unwrap();
    assert_eq!(host.spec("test").unwrap().memory, Memory::from_mib(2048));
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn libvirts_words_are_kept() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();

    host.define(&DomainSpec::new("bridged", 1, Memory::from_mib(64)).nic(Nic::bridge("nobr7"))).unwrap();
    match host.start("bridged") {
        Err(VirtError::Said { words, .. }) => assert!(words.contains("nobr7"), "{words}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(host.state("bridged").unwrap(), State::ShutOff);

    let missing = daemon.images().join("missing.qcow2");
    host.define(&DomainSpec::new("missing", 1, Memory::from_mib(64)).disk(Disk::file(&missing))).unwrap();
    match host.start("missing") {
        Err(VirtError::File { path, source, .. }) => {
            assert_eq!((path, source.kind()), (missing, io::ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }

    let (one, two) = (daemon.spec("one"), daemon.spec("two"));
    let two = DomainSpec { disks: one.disks.clone(), ..two };
    host.define(&one).unwrap();
    host.define(&two).unwrap();
    host.start("one").unwrap();
    match host.start("two") {
        Err(VirtError::File { name, path, source }) => {
            assert_eq!((&*name, &path), ("two", one.disks[0].source.as_ref().unwrap().path()));
            assert!(source.to_string().contains("lock"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((host.state("one").unwrap(), host.state("two").unwrap()), (State::Running, State::ShutOff));

    // Of what no rule of this crate forbids: libvirt does not know how such a board is wired.
    let odd = DomainSpec {
        machine: Some("no-such-board".into()),
        ..DomainSpec::new("odd", 1, Memory::from_mib(64))
    };
    match host.define(&odd) {
        Err(VirtError::Said { words, .. }) => assert!(words.contains("PCI"), "{words}"),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn what_others_do_is_told() {
    let mut daemon = Daemon::start();
    let (mut host, mut other) = (daemon.open(), daemon.open());
    let mut told = |kind: EventKind| {
        let end = Instant::now() + Duration::from_secs(10);
        let event = host.next_event(end - Instant::now()).unwrap();
        assert_eq!(event, Some(Event { machine: "web1".into(), kind }));
    };
    let state = |state| EventKind::State { state };
    other.define(&daemon.spec("web1")).unwrap();
    told(EventKind::Defined);
    other.start("web1").unwrap();
    told(state(State::Running));
    other.pause("web1").unwrap();
    told(state(State::Paused));
    other.power_off("web1").unwrap();
    other.start("web1").unwrap();
    told(state(State::ShutOff));
    told(state(State::Running));
    other.power_off("web1").unwrap();
    told(state(State::ShutOff));
    other.delete("web1").unwrap();
    told(EventKind::Deleted);
    assert_eq!(host.next_event(Duration::from_millis(500)).unwrap(), None);
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn a_broken_connection_is_an_error_and_another_works() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();
    host.define(&daemon.spec("web1")).unwrap();
    assert_eq!(host.next_event(Duration::ZERO).unwrap().unwrap().kind, EventKind::Defined);
    daemon.kill();
    for _ in 0..2 {
        let asked = Instant::now();
        match host.state("web1") {
            Err(VirtError::Said { words, .. }) => assert!(words.contains("open it again"), "{words}"),
            other => panic!("{other:?}"),
        }
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    assert!(host.next_event(Duration::from_secs(60)).is_err(), "nothing is waited for in vain");
    assert!(Libvirt::open(&daemon.uri()).is_err());
    daemon.run();
    let mut host = daemon.open();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    host.start("web1").unwrap();
}

/// As if the host's power had failed: nothing is closed, nothing answers.
#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn a_host_that_says_nothing_is_given_up() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();
    daemon.signal("STOP");
    let asked = Instant::now();
    let given_up = host.list();
    daemon.signal("CONT");
    assert!(matches!(given_up, Err(VirtError::Said { .. })), "{given_up:?}");
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(daemon.open().list().is_ok());
}

/// What a hypervisor may choose is taken over from what it says; all else must be as it was.
fn with_choices(wanted: &DomainSpec, said: &DomainSpec) -> DomainSpec {
    let mut spec = wanted.clone();
    spec.uuid = spec.uuid.or(said.uuid);
    spec.machine.clone_from(&said.machine);
    if spec.cpu_model == CpuModel::Default {
        spec.cpu_model.clone_from(&said.cpu_model);
    }
    for (nic, said) in spec.nics.iter_mut().zip(&said.nics) {
        nic.mac = nic.mac.or(said.mac);
    }
    if spec.boot.is_empty() {
        spec.boot = vec![BootDevice::Disk];
    }
    if let (Some(screen), Some(said)) = (&mut spec.screen, &said.screen) {
        screen.listen = screen.listen.or(said.listen);
    }
    // It sorts them by bus and name.
    spec.disks.sort_by_key(|disk| said.disks.iter().position(|other| other.target == disk.target));
    spec
}

/// What QEMU on this host can do, of all that can be defined.
fn for_qemu(spec: DomainSpec) -> DomainSpec {
    let mut spec = DomainSpec { arch: Arch::X86_64, machine: None, ..spec };
    if spec.cpu_model != CpuModel::Default {
        // The host's own needs KVM.
        spec.cpu_model = CpuModel::Named("qemu64".into());
    }
    // Neither can machines without interrupt controllers for many virtual CPUs be defined, nor without ACPI for some boards.
    (spec.features.apic, spec.features.acpi) = (true, true);
    spec.on_poweroff = Action::Destroy;
    if matches!(spec.on_reboot, Action::RenameRestart | Action::Preserve) {
        spec.on_reboot = Action::Restart;
    }
    if spec.on_crash == Action::RenameRestart {
        spec.on_crash = Action::Preserve;
    }
    spec.disks
        .retain(|disk| disk.bus != Bus::Xen && !(disk.bus == Bus::Usb && disk.device == DiskDevice::Cdrom));
    for disk in &mut spec.disks {
        // A disc that can be changed is read alone, and only some buses have drives.
        if disk.device == DiskDevice::Cdrom {
            disk.read_only = true;
            if disk.bus == Bus::Virtio {
                disk.device = DiskDevice::Disk;
                disk.source.get_or_insert_with(|| lb_virt::domain::Source::File("/a.img".into()));
            }
        }
        if matches!(disk.bus, Bus::Ide | Bus::Sata) && disk.device == DiskDevice::Disk {
            disk.read_only = false;
        }
    }
    spec.nics
        .iter_mut()
        .filter(|nic| nic.model == NicModel::Netfront)
        .for_each(|nic| nic.model = NicModel::E1000);
    spec
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn definitions_go_through_libvirt() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();
    let mut runner = TestRunner::deterministic();
    let mut specs: Vec<DomainSpec> =
        (0..80).map(|_| for_qemu(support::specs().new_tree(&mut runner).unwrap().current())).collect();
    specs.push(support::kvm_guest());
    specs.extend(support::pinned_pair());
    for spec in specs {
        host.define(&spec).unwrap_or_else(|error| panic!("{error}: {spec:#?}"));
        let said = host.spec(&spec.name).unwrap();
        assert_eq!(said, with_choices(&spec, &said));
        host.delete(&spec.name).unwrap();
    }
}

/// What other programs have written into a definition stays when it is changed.
#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn what_others_have_defined_stays() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();
    let file = daemon.root.join("theirs.xml");
    let xml = "<domain type='qemu'><name>theirs</name><title>Shop</title><memory unit='MiB'>256</memory><vcpu>1</vcpu>
        <cputune><shares>512</shares></cputune><os><type>hvm</type></os>
        <devices><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
        <graphics type='vnc' passwd='secret'/><serial type='pty'/></devices></domain>";
    fs::write(&file, xml).unwrap();
    let virsh = |arguments: &[&str]| {
        let done = Command::new("virsh").args(["-c", &daemon.uri()]).args(arguments).output();
        let done = done.expect("virsh (package libvirt-clients)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    virsh(&["define", file.to_str().unwrap()]);
    host.set_vcpus("theirs", 3).unwrap();
    host.set_memory("theirs", Memory::from_mib(128)).unwrap();
    let image = daemon.images().join("theirs.qcow2");
    host.attach_disk("theirs", &Disk::file(libvirtd::image(&image)).shared()).unwrap();
    host.attach_nic("theirs", &Nic::nat()).unwrap();
    assert!(host.spec("theirs").unwrap().disks[0].shared);
    let now = virsh(&["dumpxml", "theirs", "--security-info"]);
    for kept in ["<title>Shop</title>", "<shares>512</shares>", "<rng model='virtio'>", "passwd='secret'"] {
        assert!(now.contains(kept), "{kept}: {now}");
    }
    host.start("theirs").unwrap();
    let used = host.statistics("theirs").unwrap();
    assert_eq!((used.vcpus, used.disks.len()), (3, 1));
    assert!(used.cpu_time > Duration::ZERO && used.resident.is_some(), "{used:?}");
    match host.console("theirs").unwrap() {
        ConsoleAddress::Pty(path) => assert!(fs::metadata(&path).unwrap().file_type().is_char_device()),
        other => panic!("{other}"),
    }
    host.power_off("theirs").unwrap();
    let program = format!("virsh -c {} console theirs", daemon.uri());
    assert_eq!(host.console("theirs").unwrap().to_string(), program, "it waits for its start");
    host.delete("theirs").unwrap();
}

#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn a_machine_goes_with_its_firmwares_variables() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();
    let [file, firmware, variables] =
        ["uefi.xml", "code.fd", "variables.fd"].map(|name| daemon.root.join(name));
    fs::write(&firmware, [0; 512]).unwrap();
    fs::write(&variables, [0; 512]).unwrap();
    let xml = format!(
        "<domain type='qemu'><name>uefi</name><memory unit='MiB'>64</memory><os><type machine='q35'>hvm</type>
        <loader readonly='yes' type='pflash'>{}</loader><nvram>{}</nvram></os><features><acpi/></features></domain>",
        firmware.display(),
        variables.display()
    );
    fs::write(&file, xml).unwrap();
    let defined = Command::new("virsh").args(["-c", &daemon.uri(), "define"]).arg(&file).output();
    let defined = defined.expect("virsh (package libvirt-clients)");
    assert!(defined.status.success(), "{}", String::from_utf8_lossy(&defined.stderr));
    host.delete("uefi").unwrap();
    assert!(host.list().unwrap().is_empty());
    assert_eq!((variables.exists(), firmware.exists()), (false, true));
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn clones_have_their_data() {
    let mut daemon = Daemon::start();
    let mut host = daemon.open();
    host.define(&daemon.spec("template")).unwrap();
    let directory = daemon.root.join("clones");
    fs::create_dir(&directory).unwrap();
    let image = daemon.images().join("template.qcow2");
    let written = Command::new("qemu-io").args(["-c", "write -P 77 1M 64k"]).arg(&image).output();
    assert!(written.expect("qemu-io (package qemu-utils)").status.success());
    for linked in [false, true] {
        let name = if linked { "linked" } else { "full" };
        let request = CloneRequest { name: name.into(), directory: directory.clone(), linked };
        host.clone_machine("template", &request).unwrap();
        let copy = directory.join(format!("{name}-vda.qcow2"));
        let read =
            Command::new("qemu-io").args(["-r", "-c", "read -P 77 1M 64k"]).arg(&copy).output().unwrap();
        assert!(
            read.status.success() && !String::from_utf8_lossy(&read.stdout).contains("failed"),
            "{read:?}"
        );
        let told = Command::new("qemu-img").arg("info").arg(&copy).output().unwrap();
        let told = String::from_utf8_lossy(&told.stdout);
        assert_eq!(told.contains(image.to_str().unwrap()), linked, "{told}");
        host.start(name).unwrap();
    }
    // The second of two images is there already: nothing is left of the first.
    let two = daemon.spec("two").disk(Disk::file(libvirtd::image(&daemon.images().join("two-b.qcow2"))));
    host.define(&two).unwrap();
    fs::write(directory.join("third-vdb.qcow2"), "mine").unwrap();
    let request = CloneRequest { name: "third".into(), directory: directory.clone(), linked: false };
    match host.clone_machine("two", &request) {
        Err(VirtError::File { path, source, .. }) => {
            assert_eq!(
                (path, source.kind()),
                (directory.join("third-vdb.qcow2"), io::ErrorKind::AlreadyExists)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(!directory.join("third-vda.qcow2").exists());
    assert_eq!(fs::read(directory.join("third-vdb.qcow2")).unwrap(), b"mine");
    assert!(matches!(host.state("third"), Err(VirtError::NoMachine { .. })));
    // Its template's image is not there.
    fs::remove_file(daemon.images().join("two.qcow2")).unwrap();
    let request = CloneRequest { name: "fourth".into(), directory, linked: false };
    match host.clone_machine("two", &request) {
        Err(VirtError::File { path, source, .. }) => {
            assert_eq!((path, source.kind()), (daemon.images().join("two.qcow2"), io::ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }
}

/// How it is opened, its format, whether it is only read, what the guest sees, and where on IDE.
type Drive = (String, String, bool, String, Option<(String, u64)>);

/// What two command lines of QEMU must agree on.
#[derive(Debug, Default, PartialEq)]
struct Machine {
    /// Now, at most, sockets, cores, threads.
    vcpus: [u64; 5],
    memory: u64,
    /// By file.
    disks: BTreeMap<String, Drive>,
    /// What the guest sees, with its address.
    nics: Vec<(String, String)>,
}

impl Machine {
    fn of(arguments: &[String]) -> Self {
        let mut machine = Self::default();
        let (mut nodes, mut devices) = (BTreeMap::new(), Vec::new());
        for pair in arguments.windows(2) {
            let [option, value] = pair else { continue };
            let json = || serde_json::from_str::<Value>(value).unwrap_or_default();
            match option.as_str() {
                "-smp" => machine.vcpus = processors(value),
                // In MiB, if it has no unit.
                "-m" => {
                    let size = value.trim_start_matches("size=").split(',').next().unwrap_or_default();
                    let digits = size.trim_end_matches(['k', 'K']);
                    let unit = if digits == size { 1 << 20 } else { 1 << 10 };
                    machine.memory = digits.parse::<u64>().unwrap() * unit;
                }
                "-blockdev" => drop(nodes.insert(text(&json()["node-name"]), json())),
                "-device" => devices.push(json()),
                _ => {}
            }
        }
        for device in devices {
            let driver = text(&device["driver"]);
            if let Some(format) = nodes.get(&text(&device["drive"])) {
                let inner = &format["file"];
                let storage = inner.as_str().map_or(inner, |name| &nodes[name]);
                let ide = driver.starts_with("ide-") && text(&device["bus"]).starts_with("ide.");
                let place = ide.then(|| (text(&device["bus"]), device["unit"].as_u64().unwrap_or(0)));
                let read_only = format["read-only"].as_bool().unwrap_or(false);
                let disk = (text(&storage["driver"]), text(&format["driver"]), read_only, driver, place);
                machine.disks.insert(text(&storage["filename"]), disk);
            } else if device.get("netdev").is_some() {
                machine.nics.push((driver, text(&device["mac"])));
            }
        }
        machine
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

fn processors(value: &str) -> [u64; 5] {
    let mut words = value.split(',');
    let now: u64 = words.next().unwrap().parse().unwrap();
    let mut counts = [now, now, 0, 0, 0];
    for (key, count) in words.filter_map(|word| word.split_once('=')) {
        let at = ["cpus", "maxcpus", "sockets", "cores", "threads"].iter().position(|name| *name == key);
        // Dies and clusters are one.
        if let Some(at) = at {
            counts[at] = count.parse().unwrap();
        }
    }
    counts
}

/// The words of a line for a shell: blanks part them, single quotes keep all as it is, a backslash the next character.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for character in line.chars() {
        match character {
            _ if escaped => {
                word.push(character);
                escaped = false;
            }
            '\'' => quoted = !quoted,
            '\\' if !quoted => escaped = true,
            ' ' | '\n' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words
}

/// libvirt and this crate's own backend for QEMU start the same machine from one definition.
#[test]
#[ignore = "needs root, libvirt-daemon, libvirt-clients and QEMU"]
fn both_ways_to_qemu_agree() {
    let mut daemon = Daemon::start();
    daemon.open();
    let mut runner = TestRunner::deterministic();
    let mut specs: Vec<DomainSpec> =
        (0..60).map(|_| for_qemu(support::specs().new_tree(&mut runner).unwrap().current())).collect();
    let every_bus = [Bus::Virtio, Bus::Ide, Bus::Scsi, Bus::Sata, Bus::Usb].into_iter().fold(
        DomainSpec::new("buses", 2, Memory::from_mib(512)).disk(Disk::cdrom("/x.iso")).nic(Nic::nat()),
        |spec, bus| spec.disk(Disk::file(format!("/{bus}, with a comma's.qcow2")).on(bus)),
    );
    specs.extend([support::kvm_guest(), every_bus]);
    specs.extend(support::pinned_pair());
    let (file, mut compared) = (daemon.root.join("native.xml"), 0);
    for mut spec in specs {
        for (number, nic) in (1..).zip(&mut spec.nics) {
            nic.mac = Some(lb_virt::domain::Mac([0x52, 0x54, 0, 0, 0, number]));
            // Only some bridges have them, which are not there to be asked.
            nic.vlan = None;
        }
        // Without a balloon nothing takes what it must not have at the start: libvirt gives it all the same.
        spec.balloon |= spec.max_memory.is_some();
        let Ok(ours) = arguments(&spec, &Launch::default()) else { continue };
        let ours: Vec<String> = ours.iter().map(|word| word.to_string_lossy().into()).collect();
        fs::write(&file, to_xml(&spec, DomainType::Qemu).unwrap()).unwrap();
        let command = ["-c", &daemon.uri(), "domxml-to-native", "qemu-argv", "--xml"].map(String::from);
        let theirs = Command::new("virsh").args(command).arg(&file).output();
        let theirs = theirs.expect("virsh (package libvirt-clients)");
        let said = String::from_utf8_lossy(&theirs.stderr);
        assert!(theirs.status.success(), "{said}: {spec:#?}");
        let theirs = Machine::of(&words(&String::from_utf8_lossy(&theirs.stdout)));
        assert_eq!(Machine::of(&ours), theirs, "{spec:#?}");
        compared += 1;
    }
    assert!(compared >= 20, "too few of them can be compared: {compared}");
}
