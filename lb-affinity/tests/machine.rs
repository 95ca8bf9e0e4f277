//! A real NUMA machine, emulated: what is read of it is what QEMU was asked for, and a plan for it is applied and taken back.

mod emulator;

use std::path::Path;

use lb_affinity::apply::{Applier, DIRECTORY, IfChanged, Outcome};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::memory::{self, Buffer, Page};
use lb_affinity::nic::Queue;
use lb_affinity::plan::{Planner, Receive};
use lb_affinity::{CpuSet, Interrupts, Nic, Setting, Topology, thread};

#[test]
#[ignore = "needs root, QEMU, cpio and Debian's kernel package"]
fn an_emulated_machine_is_understood() {
    if !emulator::is_inside() {
        println!("{}", emulator::run("an_emulated_machine_is_understood"));
        return;
    }
    emulator::enter();
    let topology = Topology::live().expect("the machine can be read");
    its_structure(&topology);
    let nic = its_network_card();
    a_plan_is_applied_and_taken_back(&topology, &nic);
    threads_and_pages_are_where_they_are_put(&topology);
}

fn its_structure(topology: &Topology) {
    assert_eq!(topology.online().to_string(), "0-15");
    assert_eq!((topology.packages().len(), topology.cores().len(), topology.nr_cpu_ids()), (4, 16, 16));
    let nodes: Vec<_> = topology.nodes().iter().map(|node| (node.id, node.cpus.to_string())).collect();
    let asked = [(0, "0-3"), (1, "4-7"), (2, "8-11"), (3, "12-15")];
    assert_eq!(nodes, asked.map(|(node, cpus)| (node, cpus.to_owned())));
    let rows: Vec<_> = topology.nodes().iter().map(|node| node.distances.clone()).collect();
    assert_eq!(rows, emulator::DISTANCES);
    for node in topology.nodes() {
        // Of the 512 MiB, the kernel keeps some for itself.
        let memory = node.memory.expect("the kernel says it");
        assert!((350 << 20..=512 << 20).contains(&memory), "node {}: {memory}", node.id);
    }
}

fn its_network_card() -> Nic {
    let interrupts = Interrupts::read(&Real).expect("it has interrupts");
    let nic = Nic::read(&Real, "eth0", &interrupts).expect("it has a network card");
    assert_eq!(nic.node, Some(1));
    assert_eq!(nic.driver.as_deref(), Some("virtio_net"));
    assert_eq!((nic.rx.len(), nic.tx.len()), (4, 4));
    for queue in 0..4 {
        let serving: Vec<_> = nic.serving(Queue::Rx(queue)).collect();
        assert_eq!(serving.len(), 1, "receive queue {queue}: {serving:?}");
        assert_eq!(serving[0].name.as_deref(), Some(&*format!("virtio0-input.{queue}")));
    }
    nic
}

fn a_plan_is_applied_and_taken_back(topology: &Topology, nic: &Nic) {
    let plan =
        Planner::new(topology).receive(Receive::from(nic)).workers(4).plan().expect("it can be planned");
    let settings = plan.settings();
    let interrupts = settings.iter().filter(|setting| matches!(setting, Setting::IrqAffinity { .. })).count();
    assert_eq!(interrupts, 4, "{settings:?}");
    let contents = || -> Vec<Vec<u8>> {
        settings
            .iter()
            .map(|setting| Real.read(setting.target().path().expect("a file")).expect("it can be read"))
            .collect()
    };
    let before = contents();
    let mut applier = Applier::open(Real, DIRECTORY, topology.nr_cpu_ids()).expect("root may");
    let report = applier.apply(&settings).expect("the kernel takes all of it");
    println!("{report}");
    for (line, content) in report.lines.iter().zip(contents()) {
        let done = matches!(line.outcome, Outcome::Applied | Outcome::Pending { .. } | Outcome::Unchanged);
        assert!(done, "{line}");
        let content = String::from_utf8(content).expect("the kernel writes text");
        assert_eq!(content.trim(), line.setting.content(topology.nr_cpu_ids()), "{line}");
    }
    let node = topology.node(1).expect("the card's node");
    assert!(plan.network.iter().all(|cpu| topology.cpu(cpu).is_some()));
    assert!(!(&plan.network & &node.cpus).is_empty(), "the card's own node does none of its work");

    let restored = applier.restore(IfChanged::Leave).expect("the journal is there");
    assert!(restored.is_complete(), "{restored}");
    assert_eq!(contents(), before);
    assert!(!Path::new(DIRECTORY).join("journal").exists());
}

fn threads_and_pages_are_where_they_are_put(topology: &Topology) {
    for node in topology.nodes() {
        let cpu = node.cpus.last().expect("each node has CPUs");
        assert_eq!(thread::pin(&CpuSet::from(cpu)).expect("the CPU is online"), CpuSet::from(cpu));
        let place = thread::place().expect("a thread is somewhere");
        assert_eq!((place.cpu, place.node), (cpu, node.id));

        let mut buffer = Buffer::on_node(1 << 20, node.id).expect("the node has memory");
        buffer.fill(1);
        let at = |wanted: u32, pages: Vec<Page>| {
            assert!(pages.iter().all(|page| *page == Page::Node(wanted)), "node {wanted}: {pages:?}");
        };
        at(node.id, memory::pages(&buffer).expect("they can be asked for"));
        let other = (node.id + 1) % 4;
        at(other, memory::move_to(&mut buffer, other).expect("they can be moved"));
        at(other, memory::pages(&buffer).expect("they can be asked for"));
        assert!(buffer.iter().all(|&byte| byte == 1), "what was there came along");
    }
}
