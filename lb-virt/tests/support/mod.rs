//! Definitions by the thousand, for the properties of what writes and reads them; and those of the theses.
#![allow(dead_code, unreachable_pub)] // no one file of tests needs it all

use std::path::PathBuf;

use lb_virt::domain::{
    Action, Arch, BootDevice, Bus, Cache, Clock, Console, CpuModel, CpuTopology, Disk, DiskDevice, Features,
    Format, Kernel, Kind, Mac, Network, Nic, NicModel, Pins, Screen, Source,
};
use lb_virt::{DomainSpec, Memory};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

fn path() -> impl Strategy<Value = PathBuf> {
    // What shells, XML, QEMU's commas and xl's quotes are afraid of.
    "/[a-zA-Z0-9 ,;:=&<>'\"$`|*?#%\\\\\\[\\](){}~^!é_+-]{1,24}(/[a-z0-9.]{1,8})?".prop_map(PathBuf::from)
}

fn disks() -> impl Strategy<Value = Vec<Disk>> {
    let disk = (
        (
            option::weighted(0.9, (path(), any::<bool>())),
            select(&DiskDevice::ALL[..]),
            select(&Bus::ALL[..]),
            0..40_u32,
        ),
        (select(&Format::ALL[..]), option::of(select(&Cache::ALL[..])), any::<bool>(), any::<bool>()),
    );
    let disk = disk.prop_map(|((source, device, bus, place), (format, cache, read_only, shared))| {
        let source = source.map(|(path, block)| if block { Source::Block(path) } else { Source::File(path) });
        let device = if source.is_none() { DiskDevice::Cdrom } else { device };
        let place = if bus == Bus::Ide { place % 4 } else { place };
        Disk { source, device, bus, target: bus.target(place), format, cache, read_only, shared }
    });
    vec(disk, 0..5).prop_map(|mut disks| {
        let mut seen = std::collections::HashSet::new();
        disks.retain(|disk| seen.insert(disk.target.clone()));
        disks
    })
}

fn nics() -> impl Strategy<Value = Vec<Nic>> {
    let name = "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,12}";
    let network =
        prop_oneof![name.prop_map(Network::Bridge), name.prop_map(Network::Named), Just(Network::Nat),];
    let nic = (network, select(&NicModel::ALL[..]), any::<bool>(), option::weighted(0.2, 1..=4094_u16));
    let macs = btree_set(any::<[u8; 5]>(), 4);
    (vec(nic, 0..4), macs).prop_map(|(nics, macs)| {
        let nics = nics.into_iter().zip(macs).map(|((network, model, addressed, vlan), [b, c, d, e, f])| {
            Nic { network, model, mac: addressed.then_some(Mac([0x52, b, c, d, e, f])), vlan, place: None }
        });
        nics.collect()
    })
}

fn sizes() -> impl Strategy<Value = (u32, Option<u32>, Option<CpuTopology>, Memory, Option<Memory>, Pins)> {
    let shape = (1..4_u32, 1..5_u32, 1..3_u32);
    let pins = btree_map(0..40_u32, btree_set(0..64_u32, 1..6), 0..6);
    (
        shape,
        any::<bool>(),
        0..40_u32,
        1..16_384_u64,
        option::of(1..4096_u64),
        pins,
        btree_set(0..64_u32, 0..3),
    )
        .prop_map(|((sockets, cores, threads), shaped, fewer, memory, more, pins, emulator)| {
            let most = sockets * cores * threads;
            let vcpus = most.saturating_sub(fewer).max(1);
            let memory = Memory::from_mib(memory);
            let vcpus_of_pins = pins.into_iter().filter(|(vcpu, _)| *vcpu < most);
            (
                vcpus,
                (most != vcpus).then_some(most),
                shaped.then_some(CpuTopology { sockets, cores, threads }),
                memory,
                more.map(|more| memory.saturating_add(Memory::from_mib(more))),
                Pins {
                    vcpus: vcpus_of_pins.map(|(vcpu, cpus)| (vcpu, cpus.into_iter().collect())).collect(),
                    emulator: emulator.into_iter().collect(),
                },
            )
        })
}

/// Definitions that are right. Only those that hold of every hypervisor: whole hardware.
pub fn specs() -> impl Strategy<Value = DomainSpec> {
    let identity =
        ("[a-zA-Z0-9_][a-zA-Z0-9_.+:@-]{0,20}", option::of(any::<[u8; 16]>()), select(&Arch::ALL[..]));
    let board = (
        option::of("[a-z0-9]{1,8}([.-][0-9]{1,2})?"),
        prop_oneof![
            Just(CpuModel::Default),
            Just(CpuModel::Host),
            "[a-zA-Z][a-zA-Z0-9-]{0,12}".prop_map(CpuModel::Named)
        ],
        any::<[bool; 5]>(),
        select(&Clock::ALL[..]),
    );
    let kernel = (path(), option::of(path()), "[ -~]{0,60}").prop_map(|(image, initrd, command_line)| {
        Kernel { image, initrd, command_line: command_line.trim().into() }
    });
    let boot = (subsequence(&BootDevice::ALL[..], 0..=3).prop_shuffle(), option::weighted(0.3, kernel));
    let actions = [(); 3].map(|()| select(&Action::ALL[..]));
    let console = prop_oneof![
        Just(Console::Pty),
        Just(Console::None),
        path().prop_map(Console::File),
        path().prop_map(Console::Socket)
    ];
    let screen = (
        option::of(5900..6000_u16),
        option::of(any::<std::net::IpAddr>()),
        option::of("[a-z]{2}(-[a-z]{2})?"),
    )
        .prop_map(|(port, listen, keymap)| Screen { port, listen, keymap });
    (identity, sizes(), board, disks(), nics(), boot, actions, (console, option::of(screen))).prop_map(
        |(
            (name, uuid, arch),
            (vcpus, max_vcpus, cpu_topology, memory, max_memory, pins),
            (machine, cpu_model, [acpi, apic, pae, tablet, balloon], clock),
            disks,
            nics,
            (boot, kernel),
            [on_poweroff, on_reboot, on_crash],
            (console, screen),
        )| {
            let io_heavy = disks.len() > 2;
            DomainSpec {
                uuid: uuid.map(uuid::Uuid::from_bytes),
                max_vcpus,
                cpu_topology,
                cpu_model,
                max_memory,
                kind: Kind::Hvm,
                arch,
                machine,
                features: Features { acpi, apic, pae },
                clock,
                disks,
                nics,
                boot,
                kernel,
                on_poweroff,
                on_reboot,
                on_crash,
                console,
                screen,
                tablet,
                balloon,
                pins,
                io_heavy,
                ..DomainSpec::new(&name, vcpus, memory)
            }
        },
    )
}

/// The KVM guest of the theses.
pub fn kvm_guest() -> DomainSpec {
    let bridged = |bridge| Nic::bridge(bridge).model(NicModel::E1000);
    let mut spec = DomainSpec::new("debian1", 4, Memory::from_kib(20_971_520))
        .disk(Disk::file("/srv/kvm/debian1.img").on(Bus::Ide).cached(Cache::None))
        .disk(Disk::file("/srv/kvm/data.img").on(Bus::Ide))
        .disk(Disk::block("/dev/cciss/c0d2").on(Bus::Ide))
        .nic(bridged("br3"))
        .nic(bridged("br1"));
    spec.on_crash = Action::Restart;
    spec.screen = Some(Screen::default());
    spec.boot = vec![BootDevice::Disk];
    spec
}

/// The Xen guest of the theses.
pub fn xen_guest() -> DomainSpec {
    let mut spec = DomainSpec::new("debian1", 4, Memory::from_mib(1500))
        .disk(Disk::block("/dev/rdlabvg/xen-debian1").on(Bus::Ide).named("hda"))
        .disk(Disk::cdrom("/srv/iso/debian.iso").named("hdc"))
        .nic(Nic::bridge("virbr1").model(NicModel::E1000));
    spec.boot = vec![BootDevice::Disk, BootDevice::Cdrom];
    spec.screen = Some(Screen { keymap: Some("es".into()), ..Screen::default() });
    spec.tablet = true;
    spec
}

/// Two machines of eight virtual CPUs on sixteen cores: virtual CPU i of machine m on core 8m + i.
pub fn pinned_pair() -> [DomainSpec; 2] {
    [0, 1].map(|machine: u32| {
        let mut spec = DomainSpec::new(&format!("mv{machine}"), 8, Memory::from_mib(8192));
        spec.pins.vcpus = (0..8).map(|vcpu| (vcpu, lb_affinity::CpuSet::from(8 * machine + vcpu))).collect();
        spec
    })
}
