//! A system whose files hold anything, or are not there: it is understood or refused, and what is understood is one machine.
#![no_main]

use lb_affinity::fs::Memory;
use lb_affinity::nic::Nic;
use lb_affinity::{CpuSet, Interrupts, Topology};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Where a file may be. `N` stands for a small number.
const PATHS: [&str; 43] = [
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/isolated",
    "/sys/devices/system/cpu/nohz_full",
    "/sys/devices/system/cpu/cpuN/online",
    "/sys/devices/system/cpu/cpuN/cpu_capacity",
    "/sys/devices/system/cpu/cpuN/cpufreq/cpuinfo_max_freq",
    "/sys/devices/system/cpu/cpuN/cpufreq/base_frequency",
    "/sys/devices/system/cpu/cpuN/acpi_cppc/highest_perf",
    "/sys/devices/cpu_core/cpus",
    "/sys/devices/cpu_atom/cpus",
    "/sys/devices/system/cpu/cpuN/topology/die_id",
    "/sys/devices/system/cpu/cpuN/topology/core_cpus",
    "/sys/devices/system/cpu/cpuN/topology/thread_siblings_list",
    "/sys/devices/system/cpu/cpuN/topology/package_cpus",
    "/sys/devices/system/cpu/cpuN/topology/die_cpus",
    "/sys/devices/system/cpu/cpuN/topology/cluster_cpus",
    "/sys/devices/system/cpu/cpuN/topology/physical_package_id",
    "/sys/devices/system/cpu/cpuN/topology/core_id",
    "/sys/devices/system/cpu/cpuN/cache/index0/level",
    "/sys/devices/system/cpu/cpuN/cache/index0/type",
    "/sys/devices/system/cpu/cpuN/cache/index0/size",
    "/sys/devices/system/cpu/cpuN/cache/index0/shared_cpu_map",
    "/sys/devices/system/node/online",
    "/sys/devices/system/node/nodeN/cpumap",
    "/sys/devices/system/node/nodeN/distance",
    "/sys/devices/system/node/nodeN/meminfo",
    "/proc/driver/nvidia/gpus/N/numa_status",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self/status",
    "/proc/self/cgroup",
    "/proc/self/cpuset",
    "/sys/fs/cgroup/cpuset.cpus.effective",
    "/proc/self/mountinfo",
    "/proc/interrupts",
    "/proc/irq/N/smp_affinity_list",
    "/proc/irq/N/effective_affinity_list",
    "/sys/class/net/eth0/device/msi_irqs/N",
    "/sys/class/net/eth0/device/numa_node",
    "/sys/class/net/eth0/queues/rx-N/rps_cpus",
    "/sys/class/net/eth0/queues/tx-N/xps_cpus",
];

#[derive(Debug, Arbitrary)]
struct File<'a> {
    path: u8,
    number: u8,
    content: &'a str,
}

fuzz_target!(|files: Vec<File<'_>>| {
    let mut tree = Memory::new();
    for File { path, number, content } in &files {
        let path = PATHS[usize::from(*path) % PATHS.len()].replace('N', &(number % 8).to_string());
        tree.insert(path, *content);
    }
    if let Ok(topology) = Topology::discover(&tree) {
        one_machine(&topology);
    }
    if let Ok(interrupts) = Interrupts::read(&tree) {
        let _ = Nic::all(&tree, &interrupts);
    }
});

/// Each CPU is in one core and one package, and nothing has CPUs that are not online.
fn one_machine(topology: &Topology) {
    let online = topology.online();
    assert!(!online.is_empty() && online.is_subset(topology.possible()));
    assert!(topology.allowed().is_subset(online));
    let cores: Vec<&CpuSet> = topology.cores().iter().map(|core| &core.cpus).collect();
    let packages: Vec<&CpuSet> = topology.packages().iter().map(|package| &package.cpus).collect();
    for parts in [cores, packages] {
        assert_eq!(parts.iter().map(|cpus| cpus.len()).sum::<usize>(), online.len());
        assert!(parts.iter().all(|cpus| cpus.is_subset(online)));
    }
    for cpu in topology.cpus() {
        assert!(topology.cores()[cpu.core].cpus.contains(cpu.id));
        assert!(topology.packages()[cpu.package].cpus.contains(cpu.id));
        assert!(
            cpu.node.is_none_or(|node| topology.node(node).is_some_and(|node| node.cpus.contains(cpu.id)))
        );
    }
    let (whole, left) = (topology.counts(), topology.counts_allowed());
    assert!(left.packages <= whole.packages && left.cores <= whole.cores && left.cpus <= whole.cpus);
    assert!(topology.caches().iter().all(|cache| !cache.cpus.is_empty() && cache.cpus.is_subset(online)));
}
