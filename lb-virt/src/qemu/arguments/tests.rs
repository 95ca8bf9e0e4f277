use super::*;
use crate::domain::{BootDevice, Cache, CpuTopology, Disk, Features, Kernel, Mac, Nic, NicModel, Screen};

fn spec() -> DomainSpec {
    DomainSpec::new("web1", 2, Memory::from_mib(256))
}

fn line(spec: &DomainSpec) -> String {
    let words = arguments(spec, &Launch::default()).unwrap();
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_part_has_its_words() {
    type Change = fn(&mut DomainSpec);
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    let nic = Nic::nat().mac(mac);
    let table: &[(Change, &[&str])] = &[
        (
            |_| {},
            &[
                "-name guest=web1,debug-threads=on",
                "-machine pc,usb=off -accel tcg",
                "-smp 2,maxcpus=2,sockets=2,cores=1,threads=1",
                "-m 262144K",
                "-nodefaults",
                "-S",
                "-display none",
                "-action shutdown=poweroff,reboot=reset,panic=shutdown",
                "-chardev pty,id=console0 -serial chardev:console0",
                "virtio-balloon-pci",
            ],
        ),
        (|spec| spec.max_vcpus = Some(4), &["-smp 2,maxcpus=4,sockets=4"]),
        (
            |spec| spec.cpu_topology = Some(CpuTopology { sockets: 1, cores: 1, threads: 2 }),
            &["sockets=1,cores=1,threads=2"],
        ),
        (|spec| spec.max_memory = Some(Memory::from_mib(512)), &["-m 524288K"]),
        (|spec| (spec.max_memory, spec.balloon) = (Some(Memory::from_mib(512)), false), &["-m 262144K"]),
        (|spec| spec.cpu_model = CpuModel::Host, &["-cpu max"]),
        (|spec| spec.cpu_model = CpuModel::Named("Opteron_G2".into()), &["-cpu Opteron_G2"]),
        (
            |spec| spec.features = Features { acpi: false, apic: false, pae: true },
            &["-machine pc,usb=off,acpi=off", "-cpu qemu64,apic=off"],
        ),
        (|spec| spec.clock = Clock::Localtime, &["-rtc base=localtime"]),
        (|spec| spec.on_reboot = Action::Destroy, &["shutdown=poweroff,reboot=shutdown"]),
        (|spec| spec.on_poweroff = Action::Restart, &["shutdown=pause,reboot=reset,panic=exit-failure"]),
        (|spec| spec.on_crash = Action::Preserve, &["panic=pause"]),
        (
            |spec| spec.console = Console::File("/a,b".into()),
            &["-chardev file,id=console0,append=on,path=/a,,b"],
        ),
        (
            |spec| spec.console = Console::Socket("/s".into()),
            &["socket,id=console0,path=/s,server=on,wait=off"],
        ),
        (
            |spec| {
                let initrd = Some("/i,j".into());
                spec.kernel = Some(Kernel { image: "/k,k".into(), initrd, command_line: "a=b,c d".into() });
            },
            &["-kernel /k,k -initrd /i,j -append a=b,c d"],
        ),
        (
            |spec| spec.screen = Some(Screen { port: Some(5903), listen: None, keymap: Some("es".into()) }),
            &["-vnc 127.0.0.1:3 -k es", "\"driver\":\"VGA\""],
        ),
        (
            |spec| {
                spec.screen = Some(Screen { port: None, listen: Some("::1".parse().unwrap()), keymap: None })
            },
            &["-vnc [::1]:0,to=999"],
        ),
        (|spec| spec.tablet = true, &["qemu-xhci", "\"bus\":\"usb.0\",\"driver\":\"usb-tablet\""]),
        (
            |spec| *spec = spec.clone().disk(Disk::block("/dev/a").on(Bus::Ide).named("hdc")),
            &[
                "\"file\":{\"cache\":{\"direct\":false,\"no-flush\":false},\"driver\":\"host_device\",\"filename\":\"/dev/a\"}",
                "\"bus\":\"ide.1\",\"drive\":\"node-hdc\",\"driver\":\"ide-hd\",\"id\":\"hdc\",\"unit\":0",
            ],
        ),
        (
            |spec| *spec = spec.clone().disk(Disk::file("/a \",\\'.qcow2").cached(Cache::DirectSync)),
            &[
                r#""filename":"/a \",\\'.qcow2""#,
                "\"driver\":\"qcow2\"",
                "\"direct\":true",
                "\"write-cache\":\"off\"",
            ],
        ),
        (
            |spec| *spec = spec.clone().disk(Disk::cdrom("/a.iso").on(Bus::Sata).named("sdh")),
            &["\"id\":\"sata1\"", "\"bus\":\"sata1.1\"", "\"driver\":\"ide-cd\"", "\"read-only\":true"],
        ),
        (
            |spec| {
                *spec = spec.clone().disk(Disk::file("/a")).disk(Disk::cdrom("/b")).nic(Nic::bridge("br0"));
                spec.boot = vec![BootDevice::Network, BootDevice::Cdrom, BootDevice::Disk];
            },
            &[
                "-netdev bridge,br=br0,id=net-nic-0",
                "\"bootindex\":0,\"driver\":\"virtio-net-pci\"",
                "\"bootindex\":1,\"bus\":\"ide.0\"",
                "\"bootindex\":2,\"drive\":\"node-vda\"",
            ],
        ),
    ];
    for (change, expected) in table {
        let mut spec = spec();
        change(&mut spec);
        let line = line(&spec);
        for part in *expected {
            assert!(line.contains(part), "{part}\nis not in\n{line}");
        }
    }
    let line = line(&spec().nic(nic.model(NicModel::E1000)));
    assert!(line.contains("-netdev user,id=net-nic-525400010203"), "{line}");
    assert!(line.contains("\"mac\":\"52:54:00:01:02:03\""), "{line}");
    assert!(line.contains("\"romfile\":\"\""), "{line}");
}

fn on_q35(spec: &DomainSpec) -> DomainSpec {
    DomainSpec { machine: Some("q35".into()), ..spec.clone() }
}

fn with_nics(spec: &DomainSpec, count: usize) -> DomainSpec {
    DomainSpec { nics: vec![Nic::nat(); count], ..spec.clone() }
}

/// No two devices at one place, however many there may be.
#[test]
fn each_device_has_a_place_of_its_own() {
    for (machine, disks, nics) in [("pc", 16, 8), ("q35", 6, 6)] {
        let mut spec =
            DomainSpec { machine: Some(machine.into()), ..DomainSpec::new("web1", 1, Memory::from_mib(64)) };
        spec.screen = Some(Screen::default());
        spec.tablet = true;
        spec.disks = (0..disks)
            .map(|place| Disk::file("/a").named(&Bus::Virtio.target(place)))
            .chain([Disk::file("/b").on(Bus::Sata).named("sda"), Disk::file("/c").on(Bus::Sata).named("sdl")])
            .collect();
        let words = arguments(&with_nics(&spec, nics), &Launch::default()).unwrap();
        let devices = words.iter().filter_map(|word| serde_json::from_str::<Value>(word.to_str()?).ok());
        let devices = devices.filter(|device| {
            device["driver"].as_str().is_some_and(|driver| {
                driver.starts_with("virtio-blk")
                    || driver.starts_with("virtio-net")
                    || machine == "pc" && device.get("addr").is_some()
            })
        });
        let places: Vec<_> =
            devices.map(|device| (device["bus"].to_string(), device["addr"].to_string())).collect();
        let different: std::collections::BTreeSet<_> = places.iter().collect();
        assert!(places.len() >= disks as usize + nics && different.len() == places.len(), "{places:?}");
        assert!(places.iter().all(|(bus, slot)| bus != "null" || slot != "null"), "{places:?}");
    }
}

#[test]
fn what_qemu_has_nothing_for_is_said_with_a_cure() {
    type Change = fn(&mut DomainSpec);
    let table: &[(Change, &str)] = &[
        (|spec| spec.machine = Some("microvm".into()), "use pc or q35"),
        (|spec| spec.machine = Some("pcx".into()), "use pc or q35"),
        (|spec| spec.arch = Arch::Aarch64, "name a kernel"),
        (|spec| (spec.machine, spec.features.apic) = (Some("q35".into()), false), "use the board pc"),
        (|spec| spec.on_crash = Action::RenameRestart, "use restart or preserve"),
        (|spec| spec.on_reboot = Action::Preserve, "let both be the same"),
        (|spec| *spec = spec.clone().disk(Disk::file("/a").on(Bus::Xen)), "use virtio"),
        (
            |spec| {
                spec.machine = Some("q35".into());
                *spec = spec.clone().disk(Disk::file("/a").on(Bus::Ide));
            },
            "use sata",
        ),
        (|spec| *spec = spec.clone().disk(Disk::cdrom("/a").on(Bus::Virtio)), "use scsi or ide"),
        (|spec| *spec = spec.clone().disk(Disk::file("/a").on(Bus::Sata).named("sdm")), "a name before sdm"),
        (
            |spec| *spec = spec.clone().disk(Disk { read_only: true, ..Disk::file("/a").on(Bus::Ide) }),
            "use virtio or scsi",
        ),
        (|spec| *spec = spec.clone().disk(Disk::file("/a").named("vdq")), "use scsi, which takes 256"),
        (|spec| *spec = with_nics(spec, 9), "more than 8 network interfaces"),
        (|spec| *spec = on_q35(spec).disk(Disk::file("/a").named("vdg")), "or the board pc"),
        (|spec| *spec = with_nics(&on_q35(spec), 7), "the board pc, which has 8"),
        (|spec| *spec = spec.clone().nic(Nic { place: Some(8), ..Nic::nat() }), "places 0 to 7"),
        (|spec| *spec = spec.clone().nic(Nic::bridge("br0").vlan(129)), "a bridge of that VLAN"),
        (|spec| *spec = spec.clone().nic(Nic::nat().model(NicModel::Netfront)), "use virtio"),
        (
            |spec| {
                spec.kind = Kind::Pvh;
                spec.kernel = Some(Kernel { image: "/k".into(), initrd: None, command_line: String::new() });
            },
            "run it on Xen",
        ),
    ];
    for (change, cure) in table {
        let mut spec = spec();
        change(&mut spec);
        let error = arguments(&spec, &Launch::default()).unwrap_err();
        assert!(matches!(error, VirtError::Inexpressible { .. }), "{error:?}");
        assert!(error.to_string().contains(cure), "{error}");
    }
    let wrong = DomainSpec { name: "a,b".into(), ..spec() };
    assert!(matches!(arguments(&wrong, &Launch::default()), Err(VirtError::Spec { .. })));
}

/// On another host, a device is where it was although it came while the machine ran.
#[test]
fn a_devices_place_does_not_depend_on_what_came_before() {
    let place = |spec: &DomainSpec, id: &str| {
        let words = arguments(spec, &Launch::default()).unwrap();
        let devices = words.iter().filter_map(|word| serde_json::from_str::<Value>(word.to_str()?).ok());
        let device = devices.into_iter().find(|device| device["id"] == id).unwrap();
        (device["bus"].clone(), device["addr"].clone())
    };
    for board in ["pc", "q35"] {
        let base = DomainSpec { machine: Some(board.into()), ..spec() };
        let many = base.clone().disk(Disk::file("/a")).disk(Disk::file("/b")).disk(Disk::file("/c"));
        let few = base.disk(Disk::file("/c").named("vdc"));
        assert_eq!(place(&many, "vdc"), place(&few, "vdc"), "{board}");
        assert_ne!(place(&many, "vdc"), place(&many, "vdb"), "{board}");
    }
}
