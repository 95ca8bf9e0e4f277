//! VirtualBox: what is written as calls is read again from what VBoxManage says, and nothing stays half made.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[allow(unreachable_pub)]
mod stand_ins;
mod support;

use std::fs;
use std::path::Path;

use lb_virt::domain::{
    Action, Arch, BootDevice, Bus, Cache, Console, CpuModel, Disk, DiskDevice, Format, Network, Nic,
    NicModel, Pins, Source,
};
use lb_virt::hypervisor::CloneRequest;
use lb_virt::virtualbox::{Info, VirtualBox, to_calls};
use lb_virt::{DomainSpec, Hypervisor, Memory, State, VirtError};
use proptest::prelude::*;
use stand_ins::{Directory, vbox};

fn directory(test: &str) -> Directory {
    Directory::new(&format!("vbox-{test}"))
}

fn host(directory: &Directory) -> VirtualBox {
    VirtualBox::new().program(stand_ins::install(&directory.0, "VBoxManage", "stand_ins_answer"))
}

/// A machine as it is registered, without the backend.
fn described(directory: &Directory, name: &str) -> DomainSpec {
    let say = |words: &[&str]| vbox::answer(&directory.0, words).stdout;
    let own = say(&["getextradata", name, "enumerate"]);
    Info::read(&say(&["showvminfo", name, "--machinereadable"])).unwrap().spec(&own).unwrap()
}

/// What the backend runs is a script that starts this very program; see [`stand_ins`].
#[test]
fn stand_ins_answer() {
    stand_ins::serve();
    let missing = vbox::answer(Path::new("/nowhere"), &["startvm", "a", "--type", "headless"]);
    assert!(missing.stderr.starts_with("VBoxManage: error: Could not find a registered machine named 'a'\n"));
}

/// The same, with nothing that VirtualBox has not, and images that are there.
fn expressible(mut spec: DomainSpec, directory: &Directory) -> DomainSpec {
    spec.uuid.get_or_insert(uuid::Uuid::from_u128(7));
    if spec.arch == Arch::Aarch64 {
        spec.arch = Arch::X86_64;
    }
    spec.memory = spec.memory.max(Memory::from_mib(4));
    spec.max_memory = spec.max_memory.filter(|most| *most >= spec.memory);
    spec.features.apic |= spec.vcpus > 1;
    spec.machine = spec.machine.filter(|_| spec.tablet).map(|_| "ich9".into());
    (spec.cpu_topology, spec.cpu_model, spec.balloon) = (None, CpuModel::Default, true);
    (spec.pins, spec.kernel, spec.screen) = (Pins::default(), None, None);
    (spec.on_poweroff, spec.on_reboot, spec.on_crash) = (Action::Destroy, Action::Restart, Action::Destroy);
    if spec.boot.is_empty() {
        spec.boot.push(BootDevice::Disk);
    }
    if spec.console == Console::Pty {
        spec.console = Console::None;
    }
    for (number, disk) in (0..).zip(&mut spec.disks) {
        if matches!(disk.bus, Bus::Usb | Bus::Xen | Bus::Scsi) {
            disk.bus = Bus::Sata;
        }
        disk.target = disk.bus.target(if disk.bus == Bus::Ide { number % 4 } else { number });
        disk.cache = None;
        disk.read_only = disk.device == DiskDevice::Cdrom;
        disk.format = match (disk.device, disk.format) {
            (DiskDevice::Cdrom, _) => Format::Raw,
            (_, Format::Raw | Format::Qcow2) => Format::Vdi,
            (_, format) => format,
        };
        let ending = match disk.format {
            Format::Raw => "iso",
            Format::Vhd => "vhd",
            other => other.name(),
        };
        if disk.source.is_some() {
            disk.source = Some(Source::File(directory.image(&format!("{number} \"x\\y', =.{ending}"))));
        }
    }
    // As they are found: controller after controller.
    let order = [Bus::Ide, Bus::Sata, Bus::Scsi, Bus::Virtio];
    spec.disks
        .sort_by_key(|disk| (order.iter().position(|bus| *bus == disk.bus), disk.bus.place(&disk.target)));
    for (number, nic) in (0..).zip(&mut spec.nics) {
        nic.vlan = None;
        if !matches!(nic.model, NicModel::Virtio | NicModel::E1000 | NicModel::Pcnet) {
            nic.model = NicModel::Virtio;
        }
        nic.mac.get_or_insert(lb_virt::domain::Mac([8, 0, 0x27, 0, 0, number]));
    }
    if spec.nics.is_empty() {
        // Every machine of VirtualBox' is born with one.
        spec.nics.push(Nic::nat().model(NicModel::E1000).mac(lb_virt::domain::Mac([8, 0, 0x27, 0, 0, 9])));
    }
    spec
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(spec in support::specs()) {
        let directory = directory("properties");
        let spec = expressible(spec, &directory);
        for call in to_calls(&spec).unwrap() {
            let words: Vec<&str> = call.iter().map(|word| word.to_str().unwrap()).collect();
            let answer = vbox::answer(&directory.0, &words);
            prop_assert_eq!(answer.code, 0, "{:?}: {}", words, answer.stderr);
        }
        prop_assert_eq!(described(&directory, &spec.name), spec);
    }

    #[test]
    fn no_text_and_no_definition_panics(text in any::<String>(), spec in support::specs()) {
        if let Ok(info) = Info::read(&text) {
            prop_assert!(info.spec(&text).is_err());
        }
        if let Err(error) = to_calls(&spec) {
            prop_assert!(matches!(error, VirtError::Inexpressible { .. }), "{}", error);
        }
    }
}

fn spec(directory: &Directory) -> DomainSpec {
    let mut spec = DomainSpec::new("web1", 2, Memory::from_mib(512))
        .disk(Disk::file(directory.image("first.vdi")).on(Bus::Sata))
        .disk(Disk::file(directory.image("second.vmdk")).on(Bus::Ide))
        .disk(Disk::cdrom(directory.image("installer.iso")))
        .nic(Nic::bridge("eth0.129").model(NicModel::E1000));
    spec.console = Console::Socket("/run/web1.sock".into());
    spec.disks[0].shared = true;
    spec
}

#[test]
fn the_calls_are_those_of_the_manual() {
    let directory = directory("calls");
    let calls = to_calls(&DomainSpec { uuid: Some(uuid::Uuid::from_u128(7)), ..spec(&directory) }).unwrap();
    let line = |call: &Vec<std::ffi::OsString>| {
        call.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    let lines: Vec<String> = calls.iter().map(line).collect();
    let all = lines.join("\n").replace(directory.0.to_str().unwrap(), "");
    for part in [
        "createvm --name web1 --uuid 00000000-0000-0000-0000-000000000007 --ostype Other_64 --register\nmodifyvm ",
        "--memory 512 --cpus 2 --chipset piix3 --acpi on --ioapic on --pae on --rtcuseutc on --boot1 disk --boot2 none",
        "--uart1 0x3F8 4 --uartmode1 server /run/web1.sock",
        "--nic1 bridged --bridgeadapter1 eth0.129 --nictype1 82540EM --cableconnected1 on\n",
        "--name sata --add sata --controller IntelAhci --portcount 30 --bootable on\n",
        "--storagectl sata --port 0 --device 0 --type hdd --medium /first.vdi\n",
        "--storagectl ide --port 0 --device 0 --type hdd --medium /second.vmdk\n",
        "--storagectl ide --port 0 --device 1 --type dvddrive --medium /installer.iso\n",
        "setextradata 00000000-0000-0000-0000-000000000007 lb-virt/shared sda",
    ] {
        assert!(all.contains(part), "{part}\n{all}");
    }
}

#[test]
fn what_can_t_be_written_is_said() {
    type Change = fn(&mut DomainSpec);
    let table: &[(Change, &str)] = &[
        (|spec| spec.console = Console::Pty, "socket or a file"),
        (|spec| spec.disks[0].source = Some(Source::Block("/dev/sda".into())), "use an image file"),
        (|spec| spec.disks[0].format = Format::Qcow2, "images of format qcow2"),
        (|spec| spec.disks[0].format = Format::Vmdk, "let it end in"),
        (|spec| spec.disks[0].cache = Some(Cache::None), "leave it out"),
        (|spec| spec.disks[0].target = "sdz".into(), ""),
        (|spec| spec.disks[0].target = "sdaz".into(), "has 30 ports"),
        (|spec| spec.nics[0].vlan = Some(5), "VLAN"),
        (|spec| spec.nics[0].model = NicModel::Rtl8139, "use e1000"),
        (|spec| spec.nics = vec![Nic::nat().model(NicModel::E1000); 9], "interface number 9"),
        (|spec| spec.features.apic = false, "APIC"),
        (|spec| spec.vcpus = 65, "more than 64"),
        (|spec| spec.on_crash = Action::Restart, "what follows when a guest ends"),
    ];
    let directory = directory("refused");
    for (change, said) in table {
        let mut spec = spec(&directory);
        change(&mut spec);
        match to_calls(&spec) {
            Ok(_) => assert_eq!(*said, ""),
            Err(error) => assert!(
                matches!(error, VirtError::Inexpressible { .. }) && error.to_string().contains(said),
                "{error}: {said}"
            ),
        }
    }
}

/// Whatever call of a definition fails: nothing of it is left, the images are, and it can be made when the fault is gone.
#[test]
fn nothing_half_defined_stays() {
    let directory = directory("faults");
    let (mut host, spec) = (host(&directory), spec(&directory));
    let fault = directory.0.join("state/fail");
    for words in [
        "createvm",
        "modifyvm",
        "storagectl sata",
        "storagectl ide",
        "storageattach sata hdd",
        "storageattach dvddrive",
        "setextradata",
    ] {
        // What takes the first disk away again must work.
        fs::write(&fault, words).unwrap();
        let failed = host.define(&spec).unwrap_err();
        assert!(
            failed.to_string().starts_with("virtualbox could not define web1: VBoxManage: error: The object"),
            "{words}: {failed}"
        );
        fs::remove_file(&fault).unwrap();
        assert!(host.list().unwrap().is_empty(), "{words}");
        for disk in &spec.disks {
            assert!(disk.source.as_ref().unwrap().path().exists(), "{words}: {disk:?}");
        }
        host.define(&spec).unwrap();
        host.delete("web1").unwrap();
    }
    let mut missing = spec;
    missing.disks[0].source = Some(Source::File(directory.0.join("nowhere.vdi")));
    assert!(matches!(host.define(&missing), Err(VirtError::File { .. })));
    assert!(host.list().unwrap().is_empty());
}

#[test]
fn a_machine_is_deleted_without_its_disks() {
    let directory = directory("deleted");
    let (mut host, spec) = (host(&directory), spec(&directory));
    host.define(&spec).unwrap();
    for snapshot in ["a", "b", "c"] {
        host.take_snapshot("web1", snapshot).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    host.restore_snapshot("web1", "a").unwrap();
    host.take_snapshot("web1", "d").unwrap();
    let names: Vec<String> = host.snapshots("web1").unwrap().into_iter().map(|kept| kept.name).collect();
    assert_eq!(names, ["a", "b", "c", "d"], "the oldest first, whatever the tree");
    host.delete("web1").unwrap();
    assert!(host.list().unwrap().is_empty());
    assert!(spec.disks.iter().all(|disk| disk.source.as_ref().unwrap().path().exists()));
}

#[test]
fn a_clone_that_fails_leaves_no_image() {
    let directory = directory("clone");
    let mut host = host(&directory);
    host.define(&spec(&directory)).unwrap();
    let request = CloneRequest { name: "web2".into(), directory: directory.0.join("clones"), linked: false };
    fs::create_dir(&request.directory).unwrap();
    let fault = directory.0.join("state/fail");
    for words in ["clonemedium", "createvm", "storageattach ide hdd"] {
        fs::write(&fault, words).unwrap();
        host.clone_machine("web1", &request).unwrap_err();
        fs::remove_file(&fault).unwrap();
        assert_eq!(fs::read_dir(&request.directory).unwrap().count(), 0, "{words}");
        assert_eq!(host.list().unwrap().len(), 1, "{words}");
    }
    host.clone_machine("web1", &request).unwrap();
    let disks = host.spec("web2").unwrap().disks;
    let disk = disks.iter().find(|disk| disk.target == "sda").unwrap();
    assert_eq!(disk.source.as_ref().unwrap().path(), &request.directory.join("web2-sda.vdi"));
    assert!(disks.iter().any(|disk| disk.device == DiskDevice::Cdrom), "discs are shared");
}

#[test]
fn states_are_saved_and_machines_reset() {
    let directory = directory("saved");
    let (mut host, spec) = (host(&directory), spec(&directory));
    host.define(&spec).unwrap();
    assert!(matches!(host.reset("web1"), Err(VirtError::State { .. })));
    host.start("web1").unwrap();
    host.reset("web1").unwrap();
    host.save_state("web1").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    host.start("web1").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Running);
    // A name is a name: another machine's identity is none.
    let uuid = host.spec("web1").unwrap().uuid.unwrap().to_string();
    assert!(matches!(host.power_off(&uuid), Err(VirtError::NoMachine { .. })));
    let named = Network::Named("lab".into());
    let changed =
        host.attach_nic("web1", &Nic { network: named, ..Nic::nat().model(NicModel::E1000) }).unwrap_err();
    assert_eq!(
        changed.to_string(),
        "virtualbox changes network interfaces only at rest: shut web1 off, and try again"
    );
}
