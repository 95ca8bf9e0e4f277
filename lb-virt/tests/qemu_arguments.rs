//! Does QEMU make of its arguments what the definition says?

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![cfg(feature = "qemu")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_virt::domain::{
    Action, Arch, Bus, Console, CpuModel, Disk, DiskDevice, Format, Network, Nic, NicModel, Source,
};
use lb_virt::qemu::arguments::{Launch, arguments, program};
use lb_virt::qemu::qmp::Qmp;
use lb_virt::{DomainSpec, Memory, VirtError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A QEMU that goes with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The definition, made one that can be run here: its files are there, with names as evil as before.
fn runnable(mut spec: DomainSpec, directory: &Path) -> DomainSpec {
    spec.arch = Arch::X86_64;
    spec.machine = [Some("q35".into()), Some("pc".into()), None][spec.name.len() % 3].clone();
    if matches!(spec.cpu_model, CpuModel::Named(_)) {
        spec.cpu_model = CpuModel::Named("qemu64".into());
    }
    spec.memory = Memory::from_mib(spec.memory.mib().clamp(2, 512));
    spec.max_memory = spec.max_memory.map(|most| Memory::from_mib(most.mib().clamp(512, 1024)));
    // A processor without APIC is alone.
    spec.features.apic |= spec.most_vcpus() > 1;
    for action in [&mut spec.on_poweroff, &mut spec.on_reboot, &mut spec.on_crash] {
        *action = if *action == Action::RenameRestart { Action::Destroy } else { *action };
    }
    if spec.on_reboot != spec.on_poweroff {
        spec.on_reboot = Action::Restart;
    }
    spec.kernel = None;
    spec.screen = None;
    spec.console = Console::None;
    let q35 = spec.machine.as_deref() == Some("q35");
    spec.disks.retain(|disk| {
        let cdrom = disk.device == DiskDevice::Cdrom;
        let there = match disk.bus {
            Bus::Xen => false,
            Bus::Ide => !q35,
            Bus::Virtio | Bus::Usb => !cdrom,
            // A controller has six; more are tried by name.
            Bus::Sata | Bus::Scsi => true,
            _ => false,
        };
        // Hard disks of every kind but these need an image that is one.
        there && matches!(disk.format, Format::Raw | Format::Qcow2)
    });
    for (number, disk) in spec.disks.iter_mut().enumerate() {
        let Some(source) = &disk.source else { continue };
        let name = source.path().to_string_lossy().replace('/', "_");
        let path = directory.join(format!("{number}{name}"));
        if disk.format == Format::Raw {
            fs::write(&path, [0; 65_536]).unwrap();
        } else {
            let mut image = Command::new("qemu-img");
            let made = image.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").status();
            assert!(made.expect("qemu-img (package qemu-utils)").success());
        }
        disk.source = Some(Source::File(path));
        // No file system here is sure to have it.
        disk.cache = disk.cache.filter(|cache| !cache.name().starts_with(['n', 'd']));
    }
    for nic in &mut spec.nics {
        (nic.network, nic.vlan) = (Network::Nat, None);
        if nic.model == NicModel::Netfront || nic.model == NicModel::Pcnet {
            nic.model = NicModel::Virtio;
        }
    }
    spec
}

/// Every `-device`'s name that QEMU knows now, with its type.
fn devices(qmp: &mut Qmp) -> BTreeSet<(String, String)> {
    let listed = qmp.execute("qom-list", json!({"path": "/machine/peripheral"}), PATIENCE).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let children = listed.as_array().unwrap().iter().filter(|one| text(&one["type"]).starts_with("child<"));
    children
        .map(|one| (text(&one["name"]), text(&one["type"]).trim_start_matches("child<").replace('>', "")))
        .collect()
}

fn compare(spec: &DomainSpec, directory: &Path) {
    let socket = directory.join("qmp.sock");
    let _ = fs::remove_file(&socket);
    let launch = Launch { monitors: &[socket.as_path()], ..Launch::default() };
    let words = match arguments(spec, &launch) {
        // Said before, with a cure; which are is a table of its own.
        Err(VirtError::Inexpressible { .. }) => return,
        other => other.unwrap(),
    };
    let log = fs::File::create(directory.join("log")).unwrap();
    let child = Command::new(program(spec.arch)).args(&words).stderr(log).stdin(Stdio::null()).spawn();
    let mut running = Running(child.expect("qemu-system-x86_64 (package qemu-system-x86)"));
    let begun = Instant::now();
    let mut qmp = loop {
        if let Ok(qmp) = Qmp::connect(&socket, PATIENCE) {
            break qmp;
        }
        let ended = running.0.try_wait().unwrap();
        let log = || fs::read_to_string(directory.join("log")).unwrap();
        assert!(ended.is_none(), "{}\n{spec:?}\n{words:?}", log());
        assert!(begun.elapsed() < PATIENCE, "{}", log());
        sleep(Duration::from_millis(2));
    };
    let mut ask = |command: &str| qmp.execute(command, json!({}), PATIENCE).unwrap();
    assert_eq!(ask("query-status")["status"], "prelaunch");
    assert_eq!(ask("query-name")["name"], *spec.name);
    if let Some(uuid) = spec.uuid {
        assert_eq!(ask("query-uuid")["UUID"], uuid.to_string());
    }
    assert_eq!(ask("query-cpus-fast").as_array().unwrap().len(), spec.vcpus as usize);
    assert_eq!(ask("query-hotpluggable-cpus").as_array().unwrap().len(), spec.most_vcpus() as usize);
    let memory = ask("query-memory-size-summary")["base-memory"].as_u64().unwrap();
    let expected = if spec.balloon { spec.most_memory() } else { spec.memory };
    assert_eq!(memory, expected.bytes());

    let nodes = ask("query-named-block-nodes");
    for disk in &spec.disks {
        let node = format!("node-{}", disk.target);
        let node = nodes.as_array().unwrap().iter().find(|one| one["node-name"] == *node);
        let Some(source) = &disk.source else {
            assert!(node.is_none());
            continue;
        };
        let node = node.unwrap_or_else(|| panic!("no {} among {nodes}", disk.target));
        assert_eq!(node["drv"], disk.format.name());
        assert_eq!(node["ro"], disk.read_only || disk.device == DiskDevice::Cdrom);
        // The path as it is: evil names come as JSON's own quoting of them.
        assert!(node.to_string().contains(json!(source.path()).to_string().trim_matches('"')), "{node}");
        let kept = disk.cache.is_none_or(|cache| cache.name() != "unsafe");
        assert_eq!(node["cache"]["no-flush"], !kept);
    }
    let devices = devices(&mut qmp);
    let kind = |id: &str| devices.iter().find(|(name, _)| name == id).map(|(_, kind)| kind.as_str());
    for disk in &spec.disks {
        let cdrom = disk.device == DiskDevice::Cdrom;
        let expected = match (disk.bus, cdrom) {
            (Bus::Virtio, _) => "virtio-blk-pci",
            (Bus::Scsi, false) => "scsi-hd",
            (Bus::Scsi, true) => "scsi-cd",
            (Bus::Usb, _) => "usb-storage",
            (_, false) => "ide-hd",
            (_, true) => "ide-cd",
        };
        assert_eq!(kind(&disk.target), Some(expected), "{}", disk.target);
    }
    for (number, nic) in spec.nics.iter().enumerate() {
        let id = match nic.mac {
            Some(mac) => format!("nic-{}", mac.to_string().replace(':', "")),
            None => format!("nic-{number}"),
        };
        let expected = match nic.model {
            NicModel::Virtio => "virtio-net-pci",
            other => other.name(),
        };
        assert_eq!(kind(&id), Some(expected), "{id}");
        if let Some(mac) = nic.mac {
            let path = format!("/machine/peripheral/{id}");
            let said = qmp.execute("qom-get", json!({"path": path, "property": "mac"}), PATIENCE).unwrap();
            assert_eq!(said, mac.to_string());
        }
    }
    assert_eq!(kind("balloon0").is_some(), spec.balloon);
    assert_eq!(kind("tablet0").is_some(), spec.tablet);
}

#[test]
#[ignore = "needs QEMU"]
fn qemu_makes_of_its_arguments_what_the_definition_says() {
    let directory = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        let spec = support::specs().new_tree(&mut runner).unwrap().current();
        compare(&runnable(spec, directory.path()), directory.path());
    }
    // The theses' machine, and one with everything.
    compare(&runnable(support::kvm_guest(), directory.path()), directory.path());
    let path = |name: &str| PathBuf::from(format!("/{name}"));
    let mut whole = DomainSpec::new("whole", 2, Memory::from_mib(64))
        .disk(Disk::file(path("a,b;'\"")))
        .disk(Disk::file(path("c")).on(Bus::Ide))
        .disk(Disk::cdrom(path("d")))
        .disk(Disk::file(path("e")).on(Bus::Scsi))
        .disk(Disk::cdrom(path("f")).on(Bus::Scsi))
        .disk(Disk::file(path("g")).on(Bus::Usb))
        .disk(Disk::file(path("h")).on(Bus::Sata).named("sdk"))
        .nic(Nic::nat())
        .nic(Nic::nat().model(NicModel::E1000e))
        .nic(Nic::nat().model(NicModel::Rtl8139));
    whole.tablet = true;
    // Its name asks for the board pc.
    compare(&runnable(whole, directory.path()), directory.path());
}

proptest! {
    /// No definition makes it panic; what is written is QEMU's words and not more: no argument is empty, no option comes from a name.
    #[test]
    fn arguments_are_written_or_refused_with_a_cure(spec in support::specs()) {
        match arguments(&spec, &Launch::default()) {
            Err(VirtError::Inexpressible { cure, .. }) => prop_assert!(!cure.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
            Ok(words) => {
                let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
                prop_assert!(words.iter().all(|word| !word.is_empty()));
                let options = words.iter().filter(|word| **word == "-blockdev").count();
                prop_assert_eq!(options, spec.disks.iter().filter(|disk| disk.source.is_some()).count());
                prop_assert_eq!(words.iter().filter(|word| **word == "-netdev").count(), spec.nics.len());
                for (flag, value) in words.iter().zip(words.iter().skip(1)) {
                    if matches!(*flag, "-blockdev" | "-device") {
                        prop_assert!(serde_json::from_str::<Value>(value).unwrap().is_object());
                    }
                    if *flag == "-chardev" {
                        // A comma of a path is doubled: what is left when pairs are gone separates options.
                        let plain = value.replace(",,", "");
                        prop_assert!(plain.split(',').skip(1).all(|option| option.contains('=')), "{}", value);
                    }
                }
            }
        }
    }
}
