//! A real NUMA machine, emulated: what is read of it is what QEMU was asked for, a plan for it is applied and taken back, and what its
//! kernel refuses, which this one may have no cause to refuse, is told by its name.

mod emulator;

use std::path::Path;

use lb_affinity::apply::{Applier, ApplyError, DIRECTORY, IfChanged, OnFailure, Outcome, Value};
use lb_affinity::fs::{FileSystem, Real};
use lb_affinity::interrupts::Interrupt;
use lb_affinity::memory::{self, Buffer, Page};
use lb_affinity::nic::{NicError, Queue};
use lb_affinity::plan::{Planner, Receive};
use lb_affinity::{CpuSet, Interrupts, Nic, Setting, Topology, thread};

#[test]
#[ignore = "needs root, QEMU, cpio and Debian's kernel package"]
fn an_emulated_machine_is_understood() {
    if !emulator::is_inside() {
        println!("{}", emulator::run("an_emulated_machine_is_understood", &[], ""));
        return;
    }
    emulator::enter();
    let topology = Topology::live().expect("the machine can be read");
    its_structure(&topology);
    let nic = its_network_card();
    a_plan_is_applied_and_taken_back(&topology, &nic);
    an_interrupt_moves_when_it_next_fires(&nic);
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
        let name = serving[0].name.as_deref().expect("it has a handler");
        assert!(name.starts_with("virtio") && name.ends_with(&format!("-input.{queue}")), "{name}");
    }
    nic
}

fn a_plan_is_applied_and_taken_back(topology: &Topology, nic: &Nic) {
    let plan =
        Planner::new(topology).receive(Receive::from(nic)).workers(4).plan().expect("it can be planned");
    let settings = plan.settings();
    let interrupts = settings.iter().filter(|setting| matches!(setting, Setting::IrqAffinity { .. })).count();
    assert_eq!(interrupts, 4, "{settings:?}");
    let contents = || -> Vec<String> { settings.iter().map(content).collect() };
    let before = contents();
    let mut applier = Applier::open(Real, DIRECTORY, topology.nr_cpu_ids()).expect("root may");
    let report = applier.apply(&settings).expect("the kernel takes all of it");
    println!("{report}");
    for (line, content) in report.lines.iter().zip(contents()) {
        let done = matches!(line.outcome, Outcome::Applied | Outcome::Pending { .. } | Outcome::Unchanged);
        assert!(done, "{line}");
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

/// Without interrupt remapping, the kernel moves an interrupt while it handles it. The card is down, so it never does.
fn an_interrupt_moves_when_it_next_fires(nic: &Nic) {
    let irq = irq(nic, 0);
    let file = |name: &str| {
        let content = std::fs::read_to_string(format!("/proc/irq/{irq}/{name}")).expect("it is there");
        content.parse::<CpuSet>().expect("the kernel writes lists")
    };
    let (before, effective) = (file("smp_affinity_list"), file("effective_affinity_list"));
    let other = (0..16).find(|&cpu| !effective.contains(cpu)).expect("it goes to one CPU");
    let mut applier = Applier::open(Real, DIRECTORY, 16).expect("root may");
    let report =
        applier.apply(&[Setting::IrqAffinity { irq, cpus: other.into() }]).expect("it is no failure");
    assert_eq!(report.lines[0].outcome, Outcome::Pending { effective: effective.clone() }, "{report}");
    assert_eq!((file("smp_affinity_list"), file("effective_affinity_list")), (other.into(), effective));
    assert!(applier.restore(IfChanged::Leave).expect("the journal is there").is_complete());
    assert_eq!(file("smp_affinity_list"), before);
}

/// The interrupt of a receive queue.
fn irq(nic: &Nic, queue: u32) -> u32 {
    nic.serving(Queue::Rx(queue)).next().expect("each queue has one").irq
}

/// What the file of a setting holds.
fn content(setting: &Setting) -> String {
    let content = Real.read(setting.target().path().expect("a file")).expect("it can be read");
    String::from_utf8(content).expect("the kernel writes text")
}

/// The card's channels, and what its driver changes along with them.
fn card() -> (String, Vec<(String, String)>) {
    let nic =
        Nic::read(&Real, "eth0", &Interrupts::read(&Real).expect("it has interrupts")).expect("it is there");
    let shown = |setting: &Setting| (setting.target().to_string(), content(setting));
    let channels = Real.channels("eth0").expect("the driver says it");
    (channels.counts().to_string(), nic.settings().iter().map(shown).collect())
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

/// The isolated CPU, and the one that is taken offline.
const ISOLATED: u32 = 15;
const OFFLINE: u32 = 14;

#[test]
#[ignore = "needs root, QEMU, cpio and Debian's kernel package"]
fn what_the_kernel_refuses_is_told_by_its_name() {
    if !emulator::is_inside() {
        let devices = [
            // Interrupts are moved at once by it, so that the kernel has to say at once whether there is room.
            ["-device", "intel-iommu,intremap=on"],
            // Its driver keeps its four interrupts where it wants them.
            ["-blockdev", "driver=null-co,node-name=disk,size=1048576,read-zeroes=on"],
            ["-device", "virtio-blk-pci,bus=pcie.0,drive=disk,num-queues=4"],
            // Two interrupts a port: together, more than a CPU has vectors (at most 224: the first 32 are the processor's own).
            ["-device", "virtio-serial-pci,bus=pcie.0,max_ports=100,vectors=210"],
            ["-device", "virtio-serial-pci,bus=pcie.0,max_ports=100,vectors=210"],
        ];
        let parameters = format!("isolcpus=domain,{ISOLATED}");
        let said =
            emulator::run("what_the_kernel_refuses_is_told_by_its_name", devices.as_flattened(), &parameters);
        println!("{said}");
        return;
    }
    emulator::enter();
    std::fs::write(format!("/sys/devices/system/cpu/cpu{OFFLINE}/online"), "0").expect("it can go");
    let topology = Topology::live().expect("the machine can be read");
    assert_eq!(topology.online().to_string(), "0-13,15");
    assert_eq!(topology.isolated(), &CpuSet::from(ISOLATED));
    let nic = its_network_card();
    offline_and_isolated_cpus_are_dropped_or_refused(&nic);
    managed_interrupts_stay();
    a_cpu_has_only_so_many_vectors();
}

/// What becomes of one setting, which is taken back.
fn outcome(setting: Setting) -> Outcome {
    let before = content(&setting);
    let applier = Applier::open(Real, DIRECTORY, 16).expect("root may");
    let mut applier = applier.on_failure(OnFailure::Continue);
    let report = applier.apply(std::slice::from_ref(&setting)).expect("failures are lines of the report");
    println!("{report}");
    let restored = applier.restore(IfChanged::Leave).expect("the journal can be read");
    assert!(restored.is_complete(), "{restored}");
    assert_eq!(content(&setting), before);
    report.lines[0].outcome.clone()
}

fn offline_and_isolated_cpus_are_dropped_or_refused(nic: &Nic) {
    let sets = |cpus: &str| cpus.parse::<CpuSet>().expect("it is a list");
    let irq = |cpus: &str| outcome(Setting::IrqAffinity { irq: irq(nic, 0), cpus: sets(cpus) });
    let rps = |cpus: &str| outcome(Setting::Rps { interface: "eth0".into(), queue: 0, cpus: sets(cpus) });
    let xps = |cpus: &str| outcome(Setting::Xps { interface: "eth0".into(), queue: 0, cpus: sets(cpus) });
    let trimmed = |cpus: &str| Outcome::Trimmed { is: Value::Cpus(sets(cpus)) };
    let refused = |outcome: Outcome, why: &str| match outcome {
        Outcome::Failed { errno: Some(nix::libc::EINVAL), meaning } => {
            assert!(meaning.contains(why), "{meaning}")
        }
        other => panic!("{other}"),
    };
    refused(irq("14"), "of the CPUs 14 none is online");
    refused(irq(""), "no CPU is named");
    assert_eq!(rps("12,14"), trimmed("12"));
    assert_eq!(rps("12-15"), trimmed("12-13"));
    refused(rps("15"), "all of the CPUs 15 are isolated");
    assert_eq!(xps("12,14"), trimmed("12"));
}

fn managed_interrupts_stay() {
    let interrupts = Interrupts::read(&Real).expect("it has interrupts");
    let of_disk = |line: &Interrupt| line.actions.iter().any(|name| name.contains("-req."));
    let of_disk: Vec<u32> =
        interrupts.iter().filter(|(line, _)| of_disk(line)).filter_map(|(line, _)| line.irq).collect();
    assert_eq!(of_disk.len(), 4, "{of_disk:?}");
    for irq in of_disk {
        let path = format!("/proc/irq/{irq}/smp_affinity_list");
        let answer = Real.write(Path::new(&path), b"1").expect_err("it is not ours to move");
        assert_eq!(answer.raw_os_error(), Some(nix::libc::EIO), "{answer}");
        let is = Real.read(Path::new(&path)).expect("it can be read");
        let other = if is.trim_ascii() == b"1" { 2 } else { 1 };
        assert_eq!(outcome(Setting::IrqAffinity { irq, cpus: other.into() }), Outcome::ManagedByDriver);
    }
}

fn a_cpu_has_only_so_many_vectors() {
    let interrupts = Interrupts::read(&Real).expect("it has interrupts");
    let of_ports = |line: &Interrupt| {
        line.actions.iter().any(|name| name.ends_with("-input") || name.ends_with("-output"))
    };
    let irqs = interrupts.iter().filter(|(line, _)| of_ports(line)).filter_map(|(line, _)| line.irq);
    let settings: Vec<Setting> = irqs.map(|irq| Setting::IrqAffinity { irq, cpus: 13.into() }).collect();
    assert!(settings.len() > 300, "{}", settings.len());
    let contents = || -> Vec<String> { settings.iter().map(content).collect() };
    let before = contents();
    let mut applier = Applier::open(Real, DIRECTORY, 16).expect("root may");
    let report = match applier.apply(&settings) {
        Err(ApplyError::RolledBack(report)) => report,
        other => panic!("{other:?}"),
    };
    let full = report.lines.iter().position(|line| line.outcome == Outcome::NoVector);
    let full = full.unwrap_or_else(|| panic!("{report}"));
    println!("after {full} interrupts: {}", report.lines[full]);
    assert!((100..224).contains(&full), "{full}");
    assert!(report.lines[..full].iter().all(|line| line.outcome == Outcome::RolledBack), "{report}");
    assert!(report.lines[full + 1..].iter().all(|line| line.outcome == Outcome::NotTried), "{report}");
    assert_eq!(contents(), before);
}
