//! A real NUMA machine, emulated: what is read of it is what QEMU was asked for, and a plan for it is applied and taken back.

mod emulator;

use std::path::Path;

use lb_affinity::apply::{Applier, ApplyError, DIRECTORY, IfChanged, Outcome};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::memory::{self, Buffer, Page};
use lb_affinity::nic::{NicError, Queue};
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
    the_card_has_two_queues_for_a_while(&topology);
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

/// The card's channels, and what its driver changes along with them.
fn card() -> (String, Vec<(String, String)>) {
    let nic =
        Nic::read(&Real, "eth0", &Interrupts::read(&Real).expect("it has interrupts")).expect("it is there");
    let content = |setting: &Setting| {
        let target = setting.target();
        let content = Real.read(target.path().expect("a file")).expect("it can be read");
        (target.to_string(), String::from_utf8(content).expect("the kernel writes text"))
    };
    let channels = Real.channels("eth0").expect("the driver says it");
    (channels.counts().to_string(), nic.settings().iter().map(content).collect())
}

fn the_card_has_two_queues_for_a_while(topology: &Topology) {
    let plan = || {
        let nic = Nic::read(&Real, "eth0", &Interrupts::read(&Real)?)?;
        let receive = Receive { channels: Real.channels("eth0").ok(), ..Receive::from(&nic) };
        Ok::<_, NicError>(
            Planner::new(topology).receive(receive).workers(4).plan().expect("it can be planned"),
        )
    };
    let all = plan().expect("it can be read");
    assert_eq!((all.rss_queues, all.queue_setting()), (Some(4), None), "it has as many as it can have");

    // Somebody has set something of each queue, and of its interrupts.
    let by_hand = |queue: u32, cpu: u32| {
        let queues = Path::new("/sys/class/net/eth0/queues");
        let write = |path: &Path, content: &str| Real.write(path, content.as_bytes()).expect("root may");
        write(&queues.join(format!("rx-{queue}/rps_cpus")), &CpuSet::from(cpu).mask(16).to_string());
        write(&queues.join(format!("rx-{queue}/rps_flow_cnt")), "64");
        write(&queues.join(format!("tx-{queue}/xps_cpus")), &CpuSet::from(cpu + 1).mask(16).to_string());
    };
    (0..4).for_each(|queue| by_hand(queue, 3 * queue));
    for interrupt in Nic::read(&Real, "eth0", &Interrupts::read(&Real).expect("it has interrupts"))
        .expect("it is there")
        .interrupts
    {
        let path = format!("/proc/irq/{}/smp_affinity_list", interrupt.irq);
        Real.write(path.as_ref(), b"12-13").expect("virtio's interrupts can be moved");
    }
    let before = card();
    assert_eq!(before.0, "combined 4");

    let two = Setting::Channels { interface: "eth0".into(), counts: "combined 2".parse().expect("a count") };
    let mut applier = Applier::open(Real, DIRECTORY, topology.nr_cpu_ids()).expect("root may");
    let report = applier.apply_then(&[two], |_| {
        let plan = plan().expect("it can be read");
        assert_eq!(plan.queues.len(), 2);
        assert_eq!(plan.queue_setting().map(|setting| setting.content(16)).as_deref(), Some("combined 4"));
        Ok::<_, ApplyError>(plan.settings())
    });
    let report = report.expect("the kernel takes all of it");
    println!("{report}");
    assert_eq!(report.lines[0].outcome, Outcome::Applied);
    let count = |of: fn(&Setting) -> bool| report.lines.iter().filter(|line| of(&line.setting)).count();
    assert_eq!(count(|setting| matches!(setting, Setting::IrqAffinity { .. })), 2);
    assert_eq!(count(|setting| matches!(setting, Setting::Rps { .. })), 2);
    assert_eq!(count(|setting| matches!(setting, Setting::Xps { .. })), 2);
    assert_eq!(card().0, "combined 2");
    let went_over: Vec<_> = before.1.iter().filter(|old| !card().1.contains(old)).collect();
    println!("while there are two queues, these are others or gone: {went_over:#?}");
    assert!(went_over.len() > 6, "{went_over:?}");

    let restored = applier.restore(IfChanged::Leave).expect("the journal is there");
    println!("{restored}");
    assert!(restored.is_complete(), "{restored}");
    assert_eq!(card(), before);
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
