use proptest::prelude::*;

use super::*;
use crate::fs::Memory;

const X86: &[u8] = include_bytes!("../../tests/fixtures/interrupts/x86");
const ARM64: &[u8] = include_bytes!("../../tests/fixtures/interrupts/arm64");
const VIRTIO: &[u8] = include_bytes!("../../tests/fixtures/interrupts/virtio");

/// An interface with a device at `device` and so many queues.
fn insert(tree: &mut Memory, name: &str, device: &str, driver: &str, queues: u32) {
    let home = format!("/sys/devices/{device}/net/{name}");
    tree.link(format!("/sys/class/net/{name}"), home.clone());
    tree.link(format!("{home}/device"), format!("/sys/devices/{device}"));
    tree.directory(format!("/sys/bus/drivers/{driver}"));
    tree.link(format!("/sys/devices/{device}/driver"), format!("/sys/bus/drivers/{driver}"));
    insert_queues(tree, &home, queues);
}

fn insert_queues(tree: &mut Memory, home: &str, queues: u32) {
    for queue in 0..queues {
        tree.insert(format!("{home}/queues/rx-{queue}/rps_cpus"), "00,000000f0\n");
        tree.insert(format!("{home}/queues/rx-{queue}/rps_flow_cnt"), "4096\n");
        tree.insert(format!("{home}/queues/tx-{queue}/xps_cpus"), "00,00000001\n");
    }
}

/// A machine with a bond of two ports of an i40e, a VLAN on it, a virtio device, a veth.
fn machine() -> Memory {
    let mut tree = Memory::new();
    for port in 0..2 {
        let device = format!("pci0000:3a/0000:3a:00.0/0000:3b:00.{port}");
        insert(&mut tree, &format!("eth{port}"), &device, "i40e", 4);
        tree.insert(format!("/sys/devices/{device}/numa_node"), "1\n");
        tree.insert(format!("/sys/devices/{device}/irq"), "77\n");
        tree.link(format!("/sys/class/net/bond0/lower_eth{port}"), format!("/sys/class/net/eth{port}"));
    }
    for irq in 120..=124 {
        tree.insert(format!("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/msi_irqs/{irq}"), "msix\n");
        tree.insert(format!("/proc/irq/{irq}/smp_affinity_list"), format!("{}\n", irq - 120));
        tree.insert(format!("/proc/irq/{irq}/node"), "1\n");
    }
    tree.insert("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/net/eth0/speed", "25000\n");
    tree.insert("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/net/eth0/carrier", "1\n");
    tree.insert("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.1/net/eth1/speed", "-1\n");
    tree.insert("/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.1/net/eth1/carrier", "0\n");
    tree.insert("/sys/class/net/bond0/speed", "4294967295\n");
    insert_queues(&mut tree, "/sys/class/net/bond0", 16);
    tree.link("/sys/class/net/bond0.7/lower_bond0", "/sys/class/net/bond0");
    // A loop, as bad luck would have it.
    tree.link("/sys/class/net/bond0/lower_bond0.7", "/sys/class/net/bond0.7");
    tree.link("/sys/class/net/bond0.7/lower_elsewhere", "/sys/class/net/elsewhere");
    tree.insert("/sys/class/net/bonding_masters", "bond0\n");

    insert(&mut tree, "ens3", "pci0000:00/0000:00:03.0/virtio2", "virtio_net", 2);
    tree.insert("/sys/devices/pci0000:00/0000:00:03.0/numa_node", "-1\n");
    tree.insert("/sys/devices/pci0000:00/0000:00:03.0/irq", "11\n");
    for irq in 37..=41 {
        tree.insert(format!("/sys/devices/pci0000:00/0000:00:03.0/msi_irqs/{irq}"), "msix\n");
    }
    insert_queues(&mut tree, "/sys/devices/virtual/net/veth0", 1);
    tree.link("/sys/class/net/veth0", "/sys/devices/virtual/net/veth0");
    tree.remove("/sys/devices/virtual/net/veth0/queues/tx-0/xps_cpus");
    tree
}

fn serves(nic: &Nic) -> Vec<(u32, Vec<Queue>)> {
    nic.interrupts.iter().map(|one| (one.irq, one.serves.clone())).collect()
}

#[test]
fn an_i40e_and_what_is_on_it() {
    use Queue::{Rx, Tx};
    let (tree, interrupts) = (machine(), Interrupts::parse(X86).unwrap());
    assert_eq!(Nic::names(&tree).unwrap(), ["bond0", "bond0.7", "ens3", "eth0", "eth1", "veth0"]);
    let nics = Nic::all(&tree, &interrupts).unwrap();
    let [bond, vlan, _, eth0, eth1, veth] = &nics[..] else { panic!("{nics:#?}") };

    let all = |nic: &Nic| (nic.driver.clone(), nic.node, nic.speed, nic.carrier);
    assert_eq!(all(eth0), (Some("i40e".into()), Some(1), Some(25_000), Some(true)));
    assert_eq!(all(eth1), (Some("i40e".into()), Some(1), None, Some(false)));
    let pairs = (0..4).map(|queue| (121 + queue, vec![Rx(queue), Tx(queue)]));
    assert_eq!(serves(eth0), [(120, vec![])].into_iter().chain(pairs).collect::<Vec<_>>());
    assert!(eth0.interrupts.iter().all(|one| one.basis == Basis::Name));
    assert_eq!(eth0.serving(Tx(2)).map(|one| one.irq).collect::<Vec<_>>(), [123]);
    let affinity = eth0.interrupts[3].affinity.as_ref().unwrap();
    assert_eq!((affinity.cpu(), affinity.node), (Some(3), Some(1)));
    // No `msi_irqs`: the line.
    assert_eq!(serves(eth1).iter().map(|(irq, _)| *irq).collect::<Vec<_>>(), [77]);

    assert_eq!(eth0.rx[3].rps_cpus, Some("4-7".parse().unwrap()));
    assert_eq!((eth0.rx[3].rps_flow_count, &eth0.tx[3].xps_cpus), (Some(4096), &Some(CpuSet::from(0))));
    assert_eq!((veth.device.clone(), &veth.tx[0].xps_cpus, veth.interrupts.len()), (None, &None, 0));
    // By number, not by letters.
    assert!(bond.rx.iter().map(|queue| queue.index).eq(0..16));
    assert_eq!((&*bond.lower, bond.speed), (&["bond0.7", "eth0", "eth1"].map(String::from)[..], None));
    let physical = vlan.physical(&tree, &interrupts).unwrap();
    assert_eq!(physical.iter().map(|nic| &*nic.name).collect::<Vec<_>>(), ["eth0", "eth1"]);
    assert!(veth.physical(&tree, &interrupts).unwrap().is_empty());
}

#[test]
fn virtio_hangs_below_its_pci_function() {
    use Queue::{Rx, Tx};
    let nic = Nic::read(&machine(), "ens3", &Interrupts::parse(VIRTIO).unwrap()).unwrap();
    assert_eq!((nic.driver.as_deref(), nic.node), (Some("virtio_net"), None));
    let expected = [(37, vec![]), (38, vec![Rx(0)]), (39, vec![Tx(0)]), (40, vec![Rx(1)]), (41, vec![Tx(1)])];
    assert_eq!(serves(&nic), expected);

    // Without the names of /proc/interrupts it is a guess, and says so.
    let nic = Nic::read(&machine(), "ens3", &Interrupts::default()).unwrap();
    assert!(nic.interrupts.iter().all(|one| one.basis == Basis::Order && one.name.is_none()));
    assert_eq!(serves(&nic), expected);
}

#[test]
fn mlx5_and_a_platform_device() {
    let mut tree = Memory::new();
    insert(&mut tree, "enP1p1s0np0", "pci0001:00/0001:00:00.0/0001:01:00.0", "mlx5_core", 2);
    for irq in [52, 53, 54] {
        tree.insert(format!("/sys/devices/pci0001:00/0001:00:00.0/0001:01:00.0/msi_irqs/{irq}"), "msix\n");
    }
    let interrupts = Interrupts::parse(ARM64).unwrap();
    let nic = Nic::read(&tree, "enP1p1s0np0", &interrupts).unwrap();
    use Queue::{Rx, Tx};
    assert_eq!(serves(&nic), [(52, vec![]), (53, vec![Rx(0), Tx(0)]), (54, vec![Rx(1), Tx(1)])]);

    // On an Arm board there is neither `msi_irqs` nor `irq`.
    insert(&mut tree, "end0", "platform/soc/fd580000.ethernet", "bcmgenet", 1);
    let text =
        b"CPU0\n 29: 5 GICv2 189 Level  end0\n 30: 5 GICv2 190 Level  end0\n 31: 5 GICv2 191 Level  mmc0\n";
    let nic = Nic::read(&tree, "end0", &Interrupts::parse(text).unwrap()).unwrap();
    assert_eq!(nic.interrupts.iter().map(|one| one.irq).collect::<Vec<_>>(), [29, 30]);
}

#[test]
fn errors_name_the_interface() {
    let mut tree = machine();
    let none = Interrupts::default();
    let message = |tree: &Memory, name: &str| Nic::read(tree, name, &none).unwrap_err().to_string();
    assert!(message(&tree, "eth9").starts_with("there is no network interface \"eth9\"; "));
    for name in ["", "..", ".", "a/b", "a b", "sixteen-letters-"] {
        assert!(message(&tree, name).contains("is no name of a network interface"), "{name}");
    }
    tree.insert("/sys/devices/virtual/net/veth0/queues/rx-0/rps_cpus", "zz");
    assert!(message(&tree, "veth0").starts_with("/sys/class/net/veth0/queues/rx-0/rps_cpus: "));
    assert!(Nic::names(&Memory::new()).unwrap_err().to_string().starts_with("/sys/class/net: "));
}

/// The machine that runs the tests: there is always `lo`.
#[test]
fn this_machine() {
    let nics = Nic::all(&crate::fs::Real, &Interrupts::read(&crate::fs::Real).unwrap()).unwrap();
    let lo = nics.iter().find(|nic| nic.name == "lo").unwrap();
    assert_eq!((&lo.device, lo.rx.len(), lo.interrupts.len()), (&None, 1, 0));
    for nic in nics.iter().filter(|nic| nic.device.is_some()) {
        let served: BTreeSet<Queue> = nic.interrupts.iter().flat_map(|one| one.serves.clone()).collect();
        let queues = nic.rx.iter().map(|queue| Queue::Rx(queue.index));
        let missing: Vec<_> = queues.filter(|queue| !served.contains(queue)).collect();
        assert!(nic.interrupts.is_empty() || missing.is_empty(), "{nic:#?}");
    }
}

const FILES: &[&str] = &[
    "/sys/class/net/eth0/speed",
    "/sys/class/net/eth0/carrier",
    "/sys/class/net/eth0/queues/rx-1/rps_cpus",
    "/sys/class/net/eth0/queues/rx-99999999999/rps_cpus",
    "/sys/class/net/eth0/queues/tx-1/xps_cpus",
    "/sys/class/net/eth0/queues/rx-1/rps_flow_cnt",
    "/sys/class/net/eth0/device/numa_node",
    "/sys/class/net/eth0/device/msi_irqs/x",
    "/sys/class/net/eth1/device/irq",
    "/proc/irq/121/node",
    "/proc/irq/121/affinity_hint",
    "/proc/irq/121/smp_affinity_list",
];

proptest! {
    #[test]
    fn nothing_panics(file in proptest::sample::select(FILES), content in proptest::collection::vec(any::<u8>(), 0..40), gone: bool) {
        let mut tree = machine();
        let path = tree.canonicalize(Path::new(file).parent().unwrap()).ok();
        if let Some(path) = path {
            let path = path.join(Path::new(file).file_name().unwrap());
            if gone {
                tree.remove(&path);
            } else {
                tree.insert(&path, content);
            }
        }
        let interrupts = Interrupts::parse(X86).unwrap();
        let _ = Nic::all(&tree, &interrupts);
    }

    /// Whatever drivers call their interrupts, each is there once, in order.
    #[test]
    fn any_name(names in proptest::collection::vec("\\PC{0,20}", 1..6), queues in 0_u32..4) {
        let mut tree = Memory::new();
        insert(&mut tree, "eth0", "pci0000:00/0000:00:01.0", "e1000e", queues);
        let mut text = "CPU0".to_owned();
        for (irq, name) in names.iter().enumerate() {
            tree.insert(format!("/sys/devices/pci0000:00/0000:00:01.0/msi_irqs/{irq}"), "msi");
            text += &format!("\n{irq}: 0 PCI-MSI {irq}-edge  {name}");
        }
        let nic = Nic::read(&tree, "eth0", &Interrupts::parse(text.as_bytes()).unwrap()).unwrap();
        prop_assert!(nic.interrupts.iter().map(|one| one.irq).eq(0..names.len() as u32));
    }
}
