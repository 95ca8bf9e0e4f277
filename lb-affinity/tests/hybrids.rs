//! Machines with several kinds of cores, as each maker's kernels tell of them, and plans for them.

use std::collections::BTreeMap;

use lb_affinity::fs::Memory;
use lb_affinity::plan::{Planner, Receive, Strategy};
use lb_affinity::{CpuSet, Topology};

/// A file, the CPUs that have it, and what is in it. Files below `cpuN` are named from there.
type Told<'a> = (&'a str, &'a str, &'a str);

/// Eight CPUs: two cores of two threads each, and a cluster of four cores.
fn machine(files: &[Told<'_>]) -> Topology {
    const CPU: &str = "/sys/devices/system/cpu";
    let mut tree = Memory::new();
    tree.insert(format!("{CPU}/online"), "0-7");
    for cpu in 0..8_u32 {
        let core = if cpu < 4 { CpuSet::from_iter([cpu & !1, cpu | 1]) } else { CpuSet::from(cpu) };
        tree.insert(format!("{CPU}/cpu{cpu}/topology/core_cpus"), core.mask(8).to_string());
        tree.insert(format!("{CPU}/cpu{cpu}/topology/package_cpus"), "ff");
        tree.insert(format!("{CPU}/cpu{cpu}/cache/index3/level"), "3");
        tree.insert(format!("{CPU}/cpu{cpu}/cache/index3/shared_cpu_map"), "ff");
    }
    for (path, cpus, content) in files {
        if path.starts_with('/') {
            tree.insert(path, *content);
        } else {
            for cpu in &cpus.parse::<CpuSet>().expect("a list") {
                tree.insert(format!("{CPU}/cpu{cpu}/{path}"), *content);
            }
        }
    }
    Topology::discover(&tree).unwrap_or_else(|error| panic!("{error}"))
}

/// `0-3: 1024, 4-7: 596`; nothing where all are alike.
fn capacities(machine: &Topology) -> String {
    let mut levels = BTreeMap::<_, CpuSet>::new();
    for cpu in machine.cpus() {
        if let Some(capacity) = cpu.capacity {
            levels.entry(std::cmp::Reverse(capacity)).or_default().insert(cpu.id);
        }
    }
    let levels: Vec<_> = levels.iter().map(|(capacity, cpus)| format!("{cpus}: {}", capacity.0)).collect();
    levels.join(", ")
}

const PERF: &str = "acpi_cppc/highest_perf";
const MOST: &str = "cpufreq/cpuinfo_max_freq";
const BASE: &str = "cpufreq/base_frequency";
const FAST: Told<'_> = ("/sys/devices/cpu_core/cpus", "", "0-3\n");
const SLOW: Told<'_> = ("/sys/devices/cpu_atom/cpus", "", "4-7\n");

/// Alder Lake: core 1 goes a little faster than core 0.
const ALDER_LAKE: [Told<'_>; 8] = [
    (PERF, "0-1", "64"),
    (PERF, "2-3", "67"),
    (PERF, "4-7", "39"),
    (MOST, "0-1", "5000000"),
    (MOST, "2-3", "5200000"),
    (MOST, "4-7", "3900000"),
    (BASE, "0-3", "1900000"),
    (BASE, "4-7", "1400000"),
];

#[test]
fn every_makers_way_to_tell() {
    let with = |more: &[Told<'static>]| [&ALDER_LAKE, more].concat();
    for (what, files, expected) in [
        ("nothing", vec![], ""),
        ("Arm", vec![("cpu_capacity", "0-3", "718"), ("cpu_capacity", "4-7", "1024")], "4-7: 1024, 0-3: 718"),
        ("Arm, all alike", vec![("cpu_capacity", "0-7", "1024")], "0-7: 1024"),
        ("what Arm tells goes first", with(&[("cpu_capacity", "0-7", "1024")]), "0-7: 1024"),
        ("Intel", with(&[FAST, SLOW]), "0-3: 1024, 4-7: 596"),
        ("Intel, without counters", with(&[]), "0-3: 1024, 4-7: 596"),
        ("Intel, without firmware's numbers", with(&[FAST, SLOW])[3..].to_vec(), "0-3: 1024, 4-7: 768"),
        ("Intel, kinds alone", vec![FAST, SLOW], "0-3: 1024, 4-7: 640"),
        (
            "Intel, three kinds, of which one is offline but for a CPU",
            vec![
                FAST,
                ("/sys/devices/cpu_atom/cpus", "", "4-6,8"),
                ("/sys/devices/cpu_lowpower/cpus", "", "7,9"),
            ],
            "0-3: 1024, 4-6: 640, 7: 400",
        ),
        ("Intel, kinds that run alike", vec![FAST, SLOW, (MOST, "0-7", "3000000")], "0-3: 1024, 4-7: 640"),
        (
            "Intel, one kind is on",
            vec![("/sys/devices/cpu_core/cpus", "", "0-7"), ("/sys/devices/cpu_atom/cpus", "", "")],
            "",
        ),
        ("kinds that overlap", vec![("/sys/devices/cpu_core/cpus", "", "0-5"), SLOW], "0-5: 1024, 6-7: 640"),
        ("garbled kinds", vec![("/sys/devices/cpu_core/cpus", "", "all"), SLOW], ""),
        ("garbled numbers", vec![FAST, SLOW, (PERF, "0-6", "64"), (PERF, "7", "?")], "0-3: 1024, 4-7: 640"),
        ("numbers of 0", vec![(MOST, "0-3", "3000000"), (MOST, "4-7", "0")], ""),
        (
            "huge numbers",
            vec![(MOST, "0-3", "18446744073709551615"), (MOST, "4-7", "1")],
            "0-3: 1024, 4-7: 1",
        ),
        // Base frequencies can be dealt out to cores that go equally far beyond them (Speed Select).
        (
            "Intel's servers",
            vec![
                (PERF, "0-7", "39"),
                (MOST, "0-7", "3900000"),
                (BASE, "0-3", "2100000"),
                (BASE, "4-7", "2700000"),
            ],
            "4-7: 1024, 0-3: 796",
        ),
        (
            "cores that go a little faster",
            vec![(MOST, "0-3", "5000000"), (MOST, "4-7", "5500000"), (BASE, "0-7", "3400000")],
            "",
        ),
        // AMD's firmware ranks equal cores with its numbers.
        ("ranks", vec![(PERF, "0-3", "236"), (PERF, "4-7", "166"), (MOST, "0-7", "5700000")], ""),
        (
            "AMD's dense cores",
            vec![(MOST, "0-3", "5100000"), (MOST, "4-7", "3300000")],
            "0-3: 1024, 4-7: 662",
        ),
        ("one core without", vec![(MOST, "0-3", "5100000"), (MOST, "4-6", "3300000")], ""),
    ] {
        assert_eq!(capacities(&machine(&files)), expected, "{what}");
    }
}

#[test]
fn plans_know_the_kinds() {
    let alder_lake = machine(&[&ALDER_LAKE[..], &[FAST, SLOW]].concat());
    let alike = machine(&[]);
    for (strategy, hybrid, plain) in [
        (Strategy::Performance, "0-3", "0-7"),
        (Strategy::Efficiency, "4-7", "0-7"),
        (Strategy::GroupByCcx, "0-7", "0-7"),
    ] {
        for (machine, expected) in [(&alder_lake, hybrid), (&alike, plain)] {
            let plan = Planner::new(machine).strategy(strategy).plan().unwrap();
            let at = plan.workers.iter().fold(CpuSet::new(), |all, worker| &all | &worker.cpus);
            assert_eq!(at.to_string(), expected, "{strategy}");
        }
    }
    // Workers go where they are fastest, beside an interrupt on a slow core.
    let plan = Planner::new(&alder_lake).receive(Receive::interrupt_on(7)).workers(2).plan().unwrap();
    let at: CpuSet = plan.workers.iter().flat_map(|worker| worker.cpus.iter()).collect();
    assert_eq!(at.to_string(), "0,2");
}
