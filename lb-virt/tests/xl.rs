//! Xen's configurations: what is written is read by xl as it was meant, and comes back.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[allow(clippy::duplicate_mod, unreachable_pub)]
mod stand_ins;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_affinity::CpuSet;
use lb_virt::domain::{
    Arch, Bus, Console, CpuModel, Disk, DiskDevice, Features, Format, Kernel, Kind, Network, Nic, NicModel,
    Pins, Screen, Source,
};
use lb_virt::xen::{Xen, from_json, to_config};
use lb_virt::{DomainSpec, Hypervisor, Memory, State, VirtError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use stand_ins::xl_config;

/// Definitions with nothing that xl has no word for.
fn specs() -> impl Strategy<Value = DomainSpec> {
    let kinds = prop_oneof![3 => Just(Kind::Hvm), 1 => Just(Kind::Paravirtual), 1 => Just(Kind::Pvh)];
    (support::specs(), kinds).prop_map(|(spec, kind)| expressible(spec, kind))
}

fn expressible(mut spec: DomainSpec, kind: Kind) -> DomainSpec {
    let hvm = kind == Kind::Hvm;
    spec.kind = kind;
    if spec.name.bytes().all(|byte| byte.is_ascii_digit()) {
        spec.name.push('x');
    }
    spec.uuid.get_or_insert(uuid::Uuid::from_u128(7));
    spec.arch = Arch::X86_64;
    (spec.cpu_topology, spec.cpu_model, spec.machine, spec.balloon) = (None, CpuModel::Default, None, true);
    spec.pins.emulator = CpuSet::new();
    let below = |cpus: &CpuSet| cpus.iter().filter(|cpu| *cpu < 15).collect::<CpuSet>();
    spec.pins.vcpus.values_mut().for_each(|cpus| *cpus = below(cpus));
    spec.pins.vcpus.retain(|_, cpus| !cpus.is_empty());
    for (place, disk) in (0..).zip(&mut spec.disks) {
        if !hvm || matches!(disk.bus, Bus::Virtio | Bus::Sata | Bus::Usb) {
            (disk.bus, disk.target) = (Bus::Xen, Bus::Xen.target(place + 50));
        }
        if matches!(disk.format, Format::Vdi | Format::Vmdk) || disk.source.is_none() {
            disk.format = Format::Raw;
        }
        (disk.cache, disk.shared) = (None, false);
        if let Some(Source::File(path) | Source::Block(path)) = &mut disk.source {
            *path = path.to_string_lossy().trim_end_matches(',').into();
        }
        disk.read_only |= disk.device == DiskDevice::Cdrom;
    }
    let mut targets = std::collections::HashSet::new();
    spec.disks.retain(|disk| targets.insert(disk.target.clone()));
    spec.io_heavy = false;
    for nic in &mut spec.nics {
        match &nic.network {
            Network::Named(name) => nic.network = Network::Bridge(name.clone()),
            Network::Nat => nic.vlan = None,
            _ => {}
        }
        if !hvm {
            nic.model = NicModel::Netfront;
        }
    }
    if let Some(screen) = &mut spec.screen {
        screen.listen = screen.listen.filter(|address| address.is_ipv4());
    }
    if let Console::Socket(path) = &spec.console {
        spec.console = Console::Socket(path.to_string_lossy().replace(',', "").into());
    }
    if !hvm {
        let kernel = Kernel { image: "/boot/vmlinuz".into(), initrd: None, command_line: String::new() };
        spec.kernel.get_or_insert(kernel);
        (spec.features, spec.console, spec.screen, spec.tablet) =
            (Features::default(), Console::Pty, None, false);
        spec.boot.clear();
    }
    spec
}

fn host() -> CpuSet {
    CpuSet::first_n(xl_config::CPUS)
}

proptest! {
    #[test]
    fn what_is_written_is_read(spec in specs()) {
        let config = to_config(&spec).unwrap();
        let json = xl_config::to_json(&config).unwrap();
        prop_assert_eq!(from_json(&json.to_string(), &host()).unwrap(), spec, "{}", config);
    }

    #[test]
    fn no_definition_and_no_text_panics(spec in support::specs(), text in any::<String>(), cut in any::<prop::sample::Index>()) {
        match to_config(&spec) {
            Ok(config) => prop_assert!(xl_config::to_json(&config).is_ok(), "{}", config),
            Err(error) => prop_assert!(matches!(error, VirtError::Inexpressible { .. }), "{}", error),
        }
        prop_assert!(from_json(&text, &host()).is_err());
        let json = xl_config::to_json(&to_config(&support::xen_guest()).unwrap()).unwrap().to_string();
        prop_assert!(from_json(json.get(..cut.index(json.len())).unwrap_or_default(), &host()).is_err());
    }
}

#[test]
fn the_guests_of_the_theses_come_back() {
    let mut kvm = support::kvm_guest();
    kvm.disks.iter_mut().for_each(|disk| disk.cache = None);
    for mut spec in [vec![support::xen_guest(), kvm], support::pinned_pair().into()].concat() {
        spec.uuid = Some(uuid::Uuid::from_u128(7));
        let config = to_config(&spec).unwrap();
        let json = xl_config::to_json(&config).unwrap().to_string();
        assert_eq!(from_json(&json, &host()).unwrap(), spec, "{config}");
    }
    let config = to_config(&support::xen_guest()).unwrap();
    for line in [
        "type = \"hvm\"",
        "memory = 1500",
        "vcpus = 4",
        "boot = \"cd\"",
        "disk = [ \"format=raw,vdev=hda,access=rw,backendtype=phy,target=/dev/rdlabvg/xen-debian1\", ",
        "vif = [ \"bridge=virbr1,type=ioemu,model=e1000\" ]",
        "on_poweroff = \"destroy\"",
        "on_reboot = \"restart\"",
        "vnc = 1",
        "keymap = \"es\"",
        "usbdevice = \"tablet\"",
        "pae = 1",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }
    let config = to_config(&support::pinned_pair()[1]).unwrap();
    assert!(
        config.contains("cpus = [ \"8\", \"9\", \"10\", \"11\", \"12\", \"13\", \"14\", \"15\" ]"),
        "{config}"
    );
}

#[test]
fn what_can_t_be_written_is_said() {
    type Change = fn(&mut DomainSpec);
    let table: &[(Change, &str)] = &[
        (|spec| spec.name = "12".into(), "name of digits alone"),
        (|spec| spec.memory = Memory::from_kib(300_001), "whole MiB"),
        (|spec| spec.cpu_model = CpuModel::Host, "guests see the host's own"),
        (|spec| spec.disks[0] = Disk::file("/a.img").named("vda"), "disks on virtio"),
        (|spec| spec.disks[0].format = Format::Vmdk, "disks of format vmdk"),
        (|spec| spec.disks[0].source = Some(Source::File("/a,".into())), "does not end in a comma"),
        (|spec| spec.nics[0].network = Network::Named("default".into()), "name its bridge"),
        (
            |spec| spec.screen = Some(Screen { listen: Some("::1".parse().unwrap()), ..Screen::default() }),
            "IPv6",
        ),
        (|spec| spec.console = Console::Socket("/a,b".into()), "comma"),
        (|spec| spec.pins = Pins { emulator: host(), ..Pins::default() }, "pin virtual CPUs alone"),
        (
            |spec| {
                let kernel = Kernel { image: "/k".into(), initrd: None, command_line: String::new() };
                (spec.kind, spec.kernel) = (Kind::Pvh, Some(kernel));
                (spec.screen, spec.tablet) = (None, false);
                spec.disks.clear();
                spec.boot.clear();
            },
            "its interfaces are netfront",
        ),
    ];
    for (change, said) in table {
        let mut spec = support::xen_guest();
        change(&mut spec);
        let error = to_config(&spec).unwrap_err();
        assert!(
            matches!(error, VirtError::Inexpressible { .. }) && error.to_string().contains(said),
            "{error}: {said}"
        );
    }
}

/// As `xl list -l` has it: a list with the machine's number. Defaults are left out, and much more is in it.
#[test]
fn what_runs_is_read() {
    let json = r#"[{"domid": 3, "config": {
        "c_info": {"type": "hvm", "name": "win", "uuid": "44fecb08-3b5b-4ab3-8b67-6c958d8cf5ce", "cpupool": "Pool-0"},
        "b_info": {"max_vcpus": 2, "avail_vcpus": [0], "max_memkb": 1048576, "target_memkb": 1040384, "shadow_memkb": 9216,
            "device_model_version": "qemu_xen", "type.hvm": {"bios": "seabios", "vnc": {"enable": "True"}}},
        "disks": [{"pdev_path": "/dev/vg/win", "vdev": "xvda", "readwrite": 1}, {"pdev_path": "/a.img", "vdev": "hdb"}],
        "nics": [{"devid": 0, "mac": "00:16:3e:00:00:01", "script": "/etc/xen/scripts/vif-bridge"}],
        "on_reboot": "restart", "on_crash": "preserve"}}]"#;
    let spec = from_json(json, &host()).unwrap();
    assert_eq!((spec.vcpus, spec.max_vcpus, spec.memory), (1, Some(2), Memory::from_mib(1016)));
    assert_eq!(spec.disks[0], Disk::block("/dev/vg/win").on(Bus::Xen).named("xvda"));
    assert!(spec.disks[1].read_only && spec.screen.is_some() && spec.features == Features::default());
    assert_eq!(
        (&spec.nics[0].network, spec.nics[0].model),
        (&Network::Bridge("xenbr0".into()), NicModel::Rtl8139)
    );
    for (from, to, said) in [
        ("\"name\": \"win\"", "\"nam\": \"win\"", "there is no name"),
        ("\"hvm\"", "\"vm\"", "type is \"vm\""),
        ("\"vdev\": \"xvda\"", "\"vdev\": \"51712\"", "vdev is \"51712\""),
        ("1048576", "\"much\"", "max_memkb is \"much\""),
        ("\"preserve\"", "\"coredump_destroy\"", "on_crash is \"coredump_destroy\""),
        ("00:16:3e:00:00:01", "00:16:3e", "mac is \"00:16:3e\""),
        ("\"win\"", "\"a/b\"", "is no name"),
        ("[{\"domid\"", "[{}, {\"domid\"", "there is no c_info"),
    ] {
        let error = from_json(&json.replace(from, to), &host()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}: {said}");
    }
}

/// What the backend runs is a script that starts this very program; see [`stand_ins`].
#[test]
fn stand_ins_answer() {
    stand_ins::serve();
    assert_eq!(
        stand_ins::xl::answer(Path::new("/nowhere"), &["pause", "7"]).stderr,
        "7 is an invalid domain identifier (rc=-6)\n"
    );
}

fn a_host(test: &str) -> (Xen, PathBuf) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xl-{test}"));
    if directory.exists() {
        fs::remove_dir_all(&directory).unwrap();
    }
    fs::create_dir_all(&directory).unwrap();
    let xl = stand_ins::install(&directory, "xl", "stand_ins_answer");
    (Xen::new(directory.join("machines")).program(xl), directory)
}

#[test]
fn definitions_are_files_of_xl() {
    let (mut host, directory) = a_host("files");
    let mut spec = support::xen_guest();
    (spec.io_heavy, spec.disks[0].shared) = (true, true);
    spec.pins.vcpus = [(1, "3".parse().unwrap()), (2, "4-7".parse().unwrap())].into();
    host.define(&spec).unwrap();
    let kept = host.spec("debian1").unwrap();
    assert!(kept.uuid.is_some() && kept.nics[0].mac.is_some());
    spec.uuid = kept.uuid;
    spec.nics[0].mac = kept.nics[0].mac;
    assert_eq!(kept, spec);

    // By hand, as an operator writes it, beside ours.
    let machines = directory.join("machines");
    fs::write(machines.join("by-hand.cfg"), "name = 'by-hand'\ntype=\"pvh\"\nkernel = \"/k\"\nmemory = 64\n")
        .unwrap();
    fs::write(machines.join("notes.txt"), "none of it").unwrap();
    let names: Vec<String> = host.list().unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["by-hand", "debian1"]);
    host.start("by-hand").unwrap();
    assert_eq!(host.state("by-hand").unwrap(), State::Running);

    // What xl can't read is said in its words, and the rest is as it was.
    let missing = host.start("debian1").unwrap_err();
    assert!(
        matches!(missing, VirtError::File { ref path, .. } if path == Path::new("/dev/rdlabvg/xen-debian1")),
        "{missing}"
    );
    assert_eq!(host.state("debian1").unwrap(), State::ShutOff);
    let beyond = host.pin("debian1", &Pins { vcpus: [(0, "99".parse().unwrap())].into(), ..Pins::default() });
    assert!(beyond.unwrap_err().to_string().contains("beyond the host's 0-15"));
    assert_eq!(host.spec("debian1").unwrap(), spec);
    fs::write(machines.join("by-hand.cfg"), "memory = [\n").unwrap();
    let broken = host.spec("by-hand").unwrap_err().to_string();
    assert!(broken.contains("config parsing error") && broken.contains("by-hand.cfg"), "{broken}");
}

#[test]
fn names_that_are_paths_or_numbers_reach_nothing() {
    let (mut host, directory) = a_host("names");
    fs::create_dir_all(directory.join("machines")).unwrap();
    fs::write(directory.join("secret.cfg"), "name = \"secret\"\nmemory = 64\n").unwrap();
    for name in ["../secret", "0", "Domain-0", "", ".", "a/b", "x\0y", "--help"] {
        assert!(matches!(host.power_off(name), Err(VirtError::NoMachine { .. })), "{name:?}");
        assert!(matches!(host.delete(name), Err(VirtError::NoMachine { .. })), "{name:?}");
    }
    assert!(directory.join("secret.cfg").exists());
}

#[test]
fn machines_are_saved_restored_and_moved() {
    let (mut host, directory) = a_host("moved");
    let spec = DomainSpec::new("web1", 1, Memory::from_mib(128));
    host.define(&spec).unwrap();
    let image = directory.join("web1.save");
    assert!(matches!(host.save("web1", &image), Err(VirtError::State { .. })), "it does not run");
    host.start("web1").unwrap();
    host.save("web1", &image).unwrap();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff);
    host.restore(&image).unwrap();
    assert_eq!(host.state("web1").unwrap(), State::Running);
    for hostile in ["", "node2; reboot", "$(reboot)", "-oProxyCommand=x", "node 2", "node2\n"] {
        let error = host.migrate("web1", hostile).unwrap_err().to_string();
        assert!(error.contains("is no name of a host"), "{error}");
    }
    let refused = host.migrate("web1", "nowhere").unwrap_err().to_string();
    assert!(refused.contains("Could not resolve hostname nowhere"), "{refused}");
    assert_eq!(host.state("web1").unwrap(), State::Running);
    host.migrate("web1", "node2").unwrap();
    assert_eq!(host.state("web1").unwrap(), State::ShutOff, "its definition stays");
}

/// The host as the stand-in has it; changed, as somebody else does.
fn elsewhere(directory: &Path, change: impl FnOnce(&mut Value)) {
    let file = directory.join("state/xl.json");
    let mut state = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut state);
    fs::write(file, serde_json::to_vec(&state).unwrap()).unwrap();
}

/// How each virtual CPU of the first machine is pinned, to Xen.
fn pinned(directory: &Path) -> Vec<String> {
    let table = stand_ins::xl::answer(&directory.join("state"), &["vcpu-list", "1"]).stdout;
    let hard = |line: &str| line.split(" / ").next().unwrap().rsplit(' ').next().unwrap().to_owned();
    table.lines().skip(1).map(hard).collect()
}

fn pins(vcpus: &[(u32, &str)]) -> Pins {
    let vcpus = vcpus.iter().map(|(vcpu, cpus)| (*vcpu, cpus.parse().unwrap())).collect();
    Pins { vcpus, ..Pins::default() }
}

/// `xl list -l` says how a machine was made, whatever it has been pinned to since.
#[test]
fn a_running_machine_is_pinned_as_it_is_said() {
    let (mut host, directory) = a_host("pins");
    host.define(&DomainSpec::new("web1", 3, Memory::from_mib(128))).unwrap();
    host.start("web1").unwrap();
    host.pin("web1", &pins(&[(0, "4"), (1, "5-6")])).unwrap();
    assert_eq!(pinned(&directory), ["4", "5-6", "all"]);
    elsewhere(&directory, |host| host["unpinnable"] = 1.into());
    host.pin("web1", &pins(&[(0, "7"), (1, "7"), (2, "7")])).unwrap_err();
    assert_eq!(pinned(&directory), ["4", "5-6", "all"], "as before");
    assert_eq!(host.spec("web1").unwrap().pins, pins(&[(0, "4"), (1, "5-6")]));
    elsewhere(&directory, |host| host["unpinnable"] = Value::Null);
    host.pin("web1", &Pins::default()).unwrap();
    assert_eq!(pinned(&directory), ["all", "all", "all"]);
    assert!(host.spec("web1").unwrap().pins.is_empty());
    // Without a file it is what it runs as.
    fs::remove_file(directory.join("machines/web1.cfg")).unwrap();
    host.pin("web1", &pins(&[(2, "8-9")])).unwrap();
    assert_eq!(host.spec("web1").unwrap().pins, pins(&[(2, "8-9")]));
}

/// Without the second threads of cores there are gaps.
#[test]
fn cpus_need_not_follow_each_other() {
    let (mut host, directory) = a_host("gaps");
    host.define(&DomainSpec::new("web1", 1, Memory::from_mib(128))).unwrap();
    elsewhere(&directory, |host| host["cpus"] = "0,2,4,6".into());
    host.pin("web1", &pins(&[(0, "6")])).unwrap();
    assert_eq!(host.spec("web1").unwrap().pins, pins(&[(0, "6")]));
    host.pin("web1", &pins(&[(0, "0,2")])).unwrap();
    assert_eq!(host.spec("web1").unwrap().pins, pins(&[(0, "0,2")]));
    let gone = host.pin("web1", &pins(&[(0, "5")])).unwrap_err().to_string();
    assert!(gone.contains("beyond the host's 0,2,4,6"), "{gone}");
}

const BY_HAND: &str = "# the router\nname = 'router'\ntype = \"hvm\"\nuuid = '44FECB08-3b5b-4ab3-8b67-6c958d8cf5ce'\nmemory = 64\n\
    bios = \"ovmf\"\nviridian = 1\npci = [ '01:00.0' ]\ncpu_weight = 512\n\
    disk = [ 'format=raw,vdev=xvda,access=rw,script=block-iscsi,target=/nowhere/iscsi-disk' ]\n\
    vif = [ 'mac=00:16:3e:00:00:01,bridge=br0,ip=10.0.0.1,script=vif-route' ]\n";

/// What an operator has written stays, but for what is changed.
#[test]
fn a_file_by_hand_keeps_what_no_definition_says() {
    let (mut host, directory) = a_host("by-hand");
    let file = directory.join("machines/router.cfg");
    fs::create_dir_all(directory.join("machines")).unwrap();
    fs::write(&file, BY_HAND).unwrap();
    let says = |text: &str| assert_eq!(fs::read_to_string(&file).unwrap(), text);
    host.set_memory("router", Memory::from_mib(128)).unwrap();
    let mut text = BY_HAND.replace("memory = 64\n", "memory = 128\n") + "maxmem = 128\n";
    says(&text);
    host.set_vcpus("router", 2).unwrap();
    text.push_str("maxvcpus = 2\nvcpus = 2\n");
    says(&text);
    host.pin("router", &pins(&[(0, "3")])).unwrap();
    says(&format!("{text}cpus = [ \"3\" ]\n"));
    host.pin("router", &Pins::default()).unwrap();
    says(&text);
    let image = directory.join("more.img");
    fs::write(&image, "").unwrap();
    host.attach_disk("router", &Disk::file(&image).on(Bus::Xen).named("xvdb").shared()).unwrap();
    let changed = fs::read_to_string(&file).unwrap();
    assert!(changed.starts_with("# lb-virt: shared xvdb\n# the router\n"), "{changed}");
    assert!(
        changed.contains("script=block-iscsi,target=/nowhere/iscsi-disk', \"format=raw,vdev=xvdb,"),
        "{changed}"
    );
    host.detach_disk("router", "xvdb").unwrap();
    says(&text);
    let nic = Nic::bridge("br1").model(NicModel::Netfront);
    host.attach_nic("router", &nic).unwrap();
    let mac = host.spec("router").unwrap().nics[1].mac.unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains("script=vif-route', \"mac="));
    host.detach_nic("router", mac).unwrap();
    says(&text);
    host.start("router").unwrap();

    // What can't be told is refused, and stays.
    let twice = format!("{text}memory = 128\n");
    fs::write(&file, &twice).unwrap();
    let refused = host.set_memory("router", Memory::from_mib(64)).unwrap_err().to_string();
    assert!(
        refused.contains("memory, which is put together, in ") && refused.contains("edit it by hand"),
        "{refused}"
    );
    says(&twice);
    assert_eq!(fs::read_dir(directory.join("machines")).unwrap().count(), 1);
}

/// One that no definition can express is listed, started, watched, stopped and deleted, and is in nobody's way.
#[test]
fn what_is_no_definition_is_a_machine() {
    let (mut host, directory) = a_host("foreign");
    let machines = directory.join("machines");
    fs::create_dir_all(&machines).unwrap();
    let files = [
        ("boots", "bootloader = \"pygrub\"\n"),
        ("part", "type = \"hvm\"\ndisk = [ \"format=raw,vdev=xvda1,target=/dev/null\" ]\n"),
        ("dumps", "type = \"hvm\"\non_crash = \"coredump-destroy\"\n"),
    ];
    for (name, rest) in files {
        fs::write(
            machines.join(format!("{name}.cfg")),
            format!("name = \"{name}\"\nmemory = 64\nvcpus = 2\n{rest}"),
        )
        .unwrap();
    }
    fs::write(machines.join("broken.cfg"), "memory = [\n").unwrap();
    host.define(&DomainSpec::new("web1", 1, Memory::from_mib(128))).unwrap();
    let listed = host.list().unwrap();
    let names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["boots", "broken", "dumps", "part", "web1"]);
    assert_eq!((listed[0].vcpus, listed[0].memory), (2, Memory::from_mib(64)));
    assert_eq!((listed[1].vcpus, listed[1].memory, listed[1].state), (0, Memory::default(), State::ShutOff));
    for (name, _) in files {
        host.spec(name).unwrap_err();
        host.start(name).unwrap();
        assert_eq!(host.statistics(name).unwrap().vcpus, 2);
        host.power_off(name).unwrap();
        host.delete(name).unwrap();
    }
    host.delete("broken").unwrap();
    assert_eq!(host.list().unwrap().len(), 1);
}

/// A machine is called what xl calls it, and has no identity but the one in its file.
#[test]
fn names_are_those_in_the_files() {
    let (mut host, directory) = a_host("renamed");
    let machines = directory.join("machines");
    fs::create_dir_all(&machines).unwrap();
    let text = "name = \"web1\"\ntype = \"hvm\"\nmemory = 64\n";
    fs::write(machines.join("web.cfg"), text).unwrap();
    let listed = host.list().unwrap();
    let [one] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((one.name.as_str(), one.uuid), ("web1", None));
    assert!(matches!(host.start("web"), Err(VirtError::NoMachine { .. })));
    host.start("web1").unwrap();
    let listed = host.list().unwrap();
    assert_eq!((listed.len(), listed[0].state), (1, State::Running));
    host.set_memory("web1", Memory::from_mib(32)).unwrap();
    let changed = fs::read_to_string(machines.join("web.cfg")).unwrap();
    assert!(changed.contains("memory = 32\n") && !changed.contains("uuid"), "{changed}");
    host.power_off("web1").unwrap();
    assert_eq!(host.spec("web1").unwrap().uuid, None);

    // The file of a new one is another's; of two with one name, the one that is called so is it.
    let other = DomainSpec::new("web", 1, Memory::from_mib(64));
    let taken = host.define(&other).unwrap_err().to_string();
    assert!(taken.contains("web.cfg is that of a machine with another name in it"), "{taken}");
    fs::write(machines.join("web1.cfg"), text.replace("64", "96")).unwrap();
    let listed = host.list().unwrap();
    assert_eq!((listed.len(), listed[0].memory), (1, Memory::from_mib(96)));
    host.delete("web1").unwrap();
    assert!(machines.join("web.cfg").exists() && !machines.join("web1.cfg").exists());

    // One that runs is stopped whatever has become of its file.
    host.start("web1").unwrap();
    fs::write(machines.join("web.cfg"), "name = [\n").unwrap();
    host.power_off("web1").unwrap();
}

#[test]
fn a_taken_identity_is_named() {
    let (mut host, _) = a_host("identity");
    host.define(&DomainSpec::new("web1", 1, Memory::from_mib(64))).unwrap();
    let uuid = host.spec("web1").unwrap().uuid;
    assert_eq!(host.list().unwrap()[0].uuid, uuid);
    let twin = DomainSpec { uuid, ..DomainSpec::new("web2", 1, Memory::from_mib(64)) };
    let taken = host.define(&twin).unwrap_err();
    assert!(
        matches!(taken, VirtError::UuidTaken { ref name, ref holder, .. } if name == "web2" && holder == "web1"),
        "{taken}"
    );
}

/// What no definition says: how Xen balances itself, what runs below it.
fn without_the_rest(value: &mut Value) {
    if let Value::Object(map) = value {
        for key in [
            "claim_mode",
            "sched_params",
            "arch_arm",
            "arch_x86",
            "vga",
            "sdl",
            "spice",
            "rdm",
            "on_soft_reset",
        ] {
            map.remove(key);
        }
        map.values_mut().for_each(without_the_rest);
    }
}

/// The true `xl`, what goes before its libraries, and a directory.
fn judge(test: &str) -> (&'static str, PathBuf, PathBuf) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&directory).unwrap();
    // Where the package puts it, or where it is unpacked alone: to install it makes a machine boot with Xen.
    let places = ["/usr/lib/xen-4.17/bin/xl", "/opt/xen-utils/usr/lib/xen-4.17/bin/xl"];
    let xl = places.into_iter().find(|path| Path::new(path).exists()).expect("xl of Xen 4.17 is installed");
    let (source, before) = ("tests/support/no_xen.c", directory.join("no_xen.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&before).arg(source);
    assert!(compiler.status().unwrap().success());
    (xl, before, directory)
}

/// Files with what xl allows, which it reads before and after a change, on a host where nothing runs.
#[test]
#[ignore = "needs xl of xen-utils-4.17, its libraries (libxenmisc4.17), and a C compiler"]
fn xl_itself_reads_what_is_changed() {
    let (xl, before, directory) = judge("xl-changed");
    let (program, machines) = (directory.join("xl"), directory.join("machines"));
    let script = format!(
        "#!/bin/sh\ncase $1 in list) echo Name ;; cpupool-list) echo Name; echo Pool-0 0-15 ;;\n\
         *) LD_PRELOAD='{}' exec {xl} \"$@\" ;; esac\n",
        before.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::create_dir_all(&machines).unwrap();
    let file = machines.join("router.cfg");
    let read = || {
        let said = Command::new(&program).args(["-N", "create"]).arg(&file).output().unwrap();
        serde_json::from_slice::<Value>(&said.stdout).unwrap()
    };
    let text = BY_HAND
        .replace(
            "disk = [ ",
            "disk = [ # two\n  'format=raw,vdev=hda,access=rw,target=/dev/null' , # the first\n  ",
        )
        .replace("iscsi-disk' ]", "iscsi-disk',\n]")
        .replace("viridian = 1\n", "viridian=1 ; vcpus=1;cpus = \"all,^0\"\n")
        .replace("vif = ", "serial = [ \"pty\",\n \"file:/a\" ] # two, too\nvif = ");
    fs::write(&file, &text).unwrap();
    let mut host = Xen::new(&machines).program(&program);
    let (was, spec) = (read(), host.spec("router").unwrap());
    assert_eq!(spec.pins.vcpus[&0].to_string(), "1-15");
    assert_eq!(spec.uuid, "44fecb08-3b5b-4ab3-8b67-6c958d8cf5ce".parse().ok());
    host.set_memory("router", Memory::from_mib(128)).unwrap();
    host.set_vcpus("router", 2).unwrap();
    host.pin("router", &pins(&[(1, "3")])).unwrap();
    host.attach_disk("router", &Disk::file("/dev/zero").on(Bus::Xen).named("xvdb").shared()).unwrap();
    host.detach_disk("router", "hda").unwrap();
    host.attach_nic("router", &Nic::bridge("br1")).unwrap();
    let changed = host.spec("router").unwrap();
    assert_eq!(
        (changed.vcpus, changed.memory, &changed.pins),
        (2, Memory::from_mib(128), &pins(&[(1, "3")]))
    );
    assert_eq!((changed.disks.len(), changed.nics.len()), (2, 2));
    let is = read();
    for path in ["/c_info", "/b_info/type.hvm", "/b_info/sched_params", "/pcidevs", "/nics/0", "/on_reboot"] {
        assert!(was.pointer(path).is_some(), "{path}");
        assert_eq!(is.pointer(path), was.pointer(path), "{path}");
    }
    assert_eq!(is["disks"][0], was["disks"][1], "that with a script");
    let changed = fs::read_to_string(&file).unwrap();
    for comment in ["# the router", "# two", "# two, too"] {
        assert!(changed.contains(comment), "{changed}");
    }
}

/// The true `xl`, told by a small library before its own that there is a host of 16 CPUs. It is the judge of what is written, of
/// what is read, and of the stand-in.
#[test]
#[ignore = "needs xl of xen-utils-4.17, its libraries (libxenmisc4.17), and a C compiler"]
fn xl_itself_reads_what_is_written() {
    let (xl, before, directory) = judge("xl-judge");
    let mut runner = TestRunner::deterministic();
    let mut written: Vec<DomainSpec> =
        (0..200).map(|_| specs().new_tree(&mut runner).unwrap().current()).collect();
    written.push(DomainSpec { uuid: Some(uuid::Uuid::from_u128(7)), ..support::xen_guest() });
    written.extend(
        support::pinned_pair().map(|spec| DomainSpec { uuid: Some(uuid::Uuid::from_u128(7)), ..spec }),
    );
    for spec in written {
        let config = to_config(&spec).unwrap();
        let file = directory.join("judged.cfg");
        fs::write(&file, &config).unwrap();
        let judged =
            Command::new(xl).args(["-N", "create"]).arg(&file).env("LD_PRELOAD", &before).output().unwrap();
        let words = String::from_utf8_lossy(&judged.stderr);
        assert!(judged.status.success(), "{words}\n{config}");
        assert!(!words.contains("warning"), "{words}\n{config}");
        let json = String::from_utf8(judged.stdout).unwrap();
        assert_eq!(from_json(&json, &host()).unwrap(), spec, "{config}\n{json}");
        let (mut theirs, mut ours) =
            (serde_json::from_str(&json).unwrap(), xl_config::to_json(&config).unwrap());
        without_the_rest(&mut theirs);
        without_the_rest(&mut ours);
        assert_eq!(ours, theirs, "{config}");
    }
}
