//! Systems of every shape and state, as trees in memory: what is found, what is refused, and that nothing panics.

use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use lb_affinity::fs::{FileSystem, Memory};
use lb_affinity::topology::{CacheKind, TopologyError};
use lb_affinity::{CpuSet, Topology};
use proptest::prelude::*;

mod damage;

const CPU: &str = "/sys/devices/system/cpu";
const NODE: &str = "/sys/devices/system/node";

fn tree(files: &[(String, String)]) -> Memory {
    let mut tree = Memory::new();
    for (path, content) in files {
        tree.insert(path, content.as_bytes());
    }
    tree
}

fn found(files: &[(&str, &str)]) -> Topology {
    let mut tree = Memory::new();
    for (path, content) in files {
        tree.insert(path, *content);
    }
    Topology::discover(&tree).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(files: &[(&str, &str)]) -> String {
    let mut tree = Memory::new();
    for (path, content) in files {
        tree.insert(path, *content);
    }
    Topology::discover(&tree).map_or_else(|error| error.to_string(), |topology| panic!("{topology:?}"))
}

fn sets<'a>(sets: impl IntoIterator<Item = &'a CpuSet>) -> Vec<String> {
    sets.into_iter().map(ToString::to_string).collect()
}

/// Two packages of two dies of two cores of two CPUs, as a kernel of 2024 has them: CPU n and n + 8 share a core. Node 0 and 1 are
/// the packages, node 4 is memory only. CPU 15 is offline. A cpuset of version 2 leaves out CPU 0.
fn recording() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut file = |path: String, content: String| files.push((path, content + "\n"));
    let both = |cpus: std::ops::Range<u32>| -> CpuSet {
        cpus.flat_map(|cpu| [cpu, cpu + 8]).filter(|&cpu| cpu != 15).collect()
    };
    for (name, list) in [
        ("online", "0-14"),
        ("possible", "0-31"),
        ("present", "0-15"),
        ("isolated", "3"),
        ("nohz_full", "(null)"),
    ] {
        file(format!("{CPU}/{name}"), list.into());
    }
    for cpu in 0..15 {
        let core = cpu % 8;
        let group = |size: u32| both(core / size * size..core / size * size + size);
        let (directory, topology) = (format!("{CPU}/cpu{cpu}"), format!("{CPU}/cpu{cpu}/topology"));
        for (name, size) in [
            ("core_cpus", 1),
            ("thread_siblings", 1),
            ("cluster_cpus", 2),
            ("die_cpus", 2),
            ("package_cpus", 4),
        ] {
            let set = group(size);
            file(format!("{topology}/{name}"), set.mask(32).to_string());
            file(format!("{topology}/{name}_list"), set.to_string());
        }
        file(format!("{topology}/physical_package_id"), (core / 4).to_string());
        file(format!("{topology}/die_id"), (core / 2 % 2).to_string());
        file(format!("{topology}/core_id"), (core % 2).to_string());
        file(format!("{directory}/cpu_capacity"), if core < 4 { "1024" } else { "512" }.into());
        file(format!("{directory}/online"), "1".into());
        let caches = [
            (1, "Data", "48K", 1),
            (1, "Instruction", "32K", 1),
            (2, "Unified", "2048K", 1),
            (3, "Unified", "32768K", 4),
        ];
        for (index, (level, kind, size, cores)) in caches.into_iter().enumerate() {
            let cache = format!("{directory}/cache/index{index}");
            file(format!("{cache}/level"), level.to_string());
            file(format!("{cache}/type"), kind.into());
            file(format!("{cache}/size"), size.into());
            file(format!("{cache}/shared_cpu_map"), group(cores).mask(32).to_string());
            file(format!("{cache}/shared_cpu_list"), group(cores).to_string());
        }
    }
    file(format!("{NODE}/online"), "0-1,4".into());
    for (node, cpus, memory, distance) in [
        (0, both(0..4), 64, "10 21 14"),
        (1, both(4..8), 32, "21 10 24"),
        (4, CpuSet::new(), 128, "14 24 10"),
    ] {
        let directory = format!("{NODE}/node{node}");
        file(format!("{directory}/cpumap"), cpus.mask(32).to_string());
        file(format!("{directory}/cpulist"), cpus.to_string());
        file(format!("{directory}/distance"), distance.into());
        file(
            format!("{directory}/meminfo"),
            format!("Node {node} MemTotal: {memory} kB\nNode {node} MemFree: 1 kB"),
        );
    }
    file("/proc/self/mountinfo".into(), "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw".into());
    file("/proc/self/cgroup".into(), "0::/service".into());
    file("/sys/fs/cgroup/service/cpuset.cpus.effective".into(), "1-14".into());
    file("/sys/fs/cgroup/service/cpuset.mems.effective".into(), "0,4".into());
    file(
        "/proc/thread-self/status".into(),
        "Cpus_allowed:\t7fff\nCpus_allowed_list:\t0-12\nMems_allowed_list:\t0-4".into(),
    );
    let mut cpuinfo = String::new();
    for cpu in 0..15 {
        writeln!(cpuinfo, "processor\t: {cpu}\nphysical id\t: {}\ncore id\t: {}\n", cpu % 8 / 4, cpu % 4)
            .expect("a String takes all");
    }
    file("/proc/cpuinfo".into(), cpuinfo);
    file("/proc/meminfo".into(), "MemTotal:       224 kB".into());
    files
}

#[test]
fn a_whole_machine() {
    let topology = Topology::discover(&tree(&recording())).unwrap();
    assert_eq!(topology.online().to_string(), "0-14");
    assert_eq!(topology.nr_cpu_ids(), 32);
    assert_eq!(topology.allowed().to_string(), "1-12");
    assert_eq!(topology.allowed_nodes().to_string(), "0,4");
    assert_eq!(
        (topology.isolated().to_string(), topology.nohz_full().to_string()),
        ("3".into(), String::new())
    );
    let cores = sets(topology.cores().iter().map(|core| &core.cpus));
    assert_eq!(cores, ["0,8", "1,9", "2,10", "3,11", "4,12", "5,13", "6,14", "7"]);
    let dies = ["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14"];
    assert_eq!(sets(topology.dies().iter().map(|die| &die.cpus)), dies);
    assert_eq!(sets(topology.clusters().iter().map(|cluster| &cluster.cpus)), dies);
    let packages = ["0-3,8-11", "4-7,12-14"];
    assert_eq!(sets(topology.packages().iter().map(|package| &package.cpus)), packages);
    assert_eq!(topology.packages().iter().map(|package| package.id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!([topology.cpu(3), topology.cpu(4)].map(|cpu| cpu.unwrap().capacity), [Some(1024), Some(512)]);

    let caches = |level, kind| {
        let caches = topology.caches().iter().filter(move |cache| (cache.level, cache.kind) == (level, kind));
        let sizes: Vec<_> = caches.clone().map(|cache| cache.size.unwrap() >> 10).collect();
        (sets(caches.map(|cache| &cache.cpus)), sizes)
    };
    assert_eq!(caches(1, CacheKind::Data), (cores.clone(), vec![48; 8]));
    assert_eq!(caches(1, CacheKind::Instruction), (cores.clone(), vec![32; 8]));
    assert_eq!(caches(2, CacheKind::Unified), (cores, vec![2048; 8]));
    assert_eq!(caches(3, CacheKind::Unified), (packages.map(str::to_owned).into(), vec![32768; 2]));

    let nodes: Vec<_> =
        topology.nodes().iter().map(|node| (node.id, node.cpus.to_string(), node.memory.unwrap())).collect();
    assert_eq!(
        nodes,
        [(0, packages[0].into(), 64 << 10), (1, packages[1].into(), 32 << 10), (4, String::new(), 128 << 10)]
    );
    assert_eq!([topology.distance(0, 4), topology.distance(4, 1), topology.distance(1, 1)], [14, 24, 10]);
}

#[test]
fn this_machine() {
    let topology = Topology::live().unwrap();
    assert!(topology.allowed().is_subset(topology.online()));
    // What std counts may be fewer: it heeds a limit of CPU time too.
    let parallelism = std::thread::available_parallelism().unwrap().get();
    assert!(topology.allowed().len() >= parallelism, "{} < {parallelism}", topology.allowed());
    assert!(!topology.nodes().is_empty() && !topology.allowed_nodes().is_empty());
}

#[test]
fn lists_serve_where_there_is_no_mask() {
    let whole = Topology::discover(&tree(&recording())).unwrap();
    let masks = [
        "core_cpus",
        "thread_siblings",
        "die_cpus",
        "cluster_cpus",
        "package_cpus",
        "shared_cpu_map",
        "cpumap",
    ];
    let files: Vec<_> =
        recording().into_iter().filter(|(path, _)| !masks.iter().any(|mask| path.ends_with(mask))).collect();
    assert!(files.len() < recording().len());
    assert_eq!(Topology::discover(&tree(&files)).unwrap(), whole);
}

#[test]
fn what_is_not_told_has_its_default() {
    // An old kernel: no lists of what is online, none of what is possible.
    let old = found(&[
        ("/sys/devices/system/cpu/cpu0/topology/core_siblings", "00000001"),
        ("/sys/devices/system/cpu/cpu2/topology/core_siblings", "0000000c"),
        ("/sys/devices/system/cpu/cpu3/topology/physical_package_id", "-1"),
        ("/sys/devices/system/cpu/cpu3/topology/core_siblings", "0000000c"),
        ("/sys/devices/system/cpu/cpu5/online", "0"),
        ("/sys/devices/system/cpu/cpuidle/current_driver", "none"),
        ("/sys/devices/system/cpu/cpu2/cache/index0/level", "1"),
        ("/sys/devices/system/cpu/cpu2/cache/index0/type", "Data"),
        ("/sys/devices/system/cpu/cpu2/cache/index7/level", "2"),
        ("/sys/devices/system/cpu/cpu2/cache/index7/shared_cpu_map", "0000000c"),
        ("/sys/devices/system/cpu/cpu4/cache/index0/level", "1"),
        ("/proc/meminfo", "MemTotal: 1 kB\n"),
    ]);
    assert_eq!((old.online().to_string(), old.nr_cpu_ids()), ("0,2-3".into(), 6));
    assert_eq!(sets(old.packages().iter().map(|package| &package.cpus)), ["0", "2-3"]);
    assert_eq!(sets(old.cores().iter().map(|core| &core.cpus)), ["0", "2", "3"]);
    let caches: Vec<_> =
        old.caches().iter().map(|cache| (cache.level, cache.kind, cache.cpus.to_string())).collect();
    assert_eq!(caches, [(2, CacheKind::Unified, "2-3".into())]);
    let node = &old.nodes()[0];
    assert_eq!(
        (old.nodes().len(), node.id, node.cpus.to_string(), node.memory),
        (1, 0, "0,2-3".into(), Some(1024))
    );

    // Numbers that firmware repeats, and a node whose directory is not there.
    let odd = found(&[
        ("/sys/devices/system/cpu/online", "0-3"),
        ("/sys/devices/system/cpu/cpu1/online", "1"),
        ("/sys/devices/system/cpu/cpu3/online", "1"),
        ("/sys/devices/system/cpu/cpu0/topology/package_cpus", "3"),
        ("/sys/devices/system/cpu/cpu0/topology/physical_package_id", "7"),
        ("/sys/devices/system/cpu/cpu2/topology/package_cpus", "c"),
        ("/sys/devices/system/cpu/cpu2/topology/physical_package_id", "7"),
        ("/sys/devices/system/node/online", "0-2"),
        ("/sys/devices/system/node/node0/cpumap", "3"),
        ("/sys/devices/system/node/node0/distance", "10 20 30"),
        ("/sys/devices/system/node/node2/cpumap", "c"),
        ("/sys/devices/system/node/node2/distance", "31 21 10"),
    ]);
    let packages: Vec<_> =
        odd.packages().iter().map(|package| (package.id, package.cpus.to_string())).collect();
    assert_eq!(packages, [(7, "0-1".into()), (-3, "2-3".into())]);
    assert_eq!([odd.distance(0, 2), odd.distance(2, 0)], [30, 31]);
    assert_eq!(odd.nodes().len(), 2);

    // Only /proc.
    let cpuinfo = "processor : 0\nphysical id : 4\ncore id : 1\n\nprocessor : 1\nphysical id : 4\ncore id : 1\n\n\
                   processor : 2\nphysical id : 5\ncore id : 1\n";
    let bare = found(&[("/proc/cpuinfo", cpuinfo)]);
    assert_eq!(sets(bare.cores().iter().map(|core| &core.cpus)), ["0-1", "2"]);
    assert_eq!(bare.packages().iter().map(|package| package.id).collect::<Vec<_>>(), [4, 5]);

    // A core's number is unique in its die alone.
    let numbered = found(&[
        ("/sys/devices/system/cpu/cpu3/online", "1"),
        ("/sys/devices/system/cpu/online", "0-3"),
        ("/sys/devices/system/cpu/cpu0/topology/core_id", "0"),
        ("/sys/devices/system/cpu/cpu0/topology/die_cpus", "3"),
        ("/sys/devices/system/cpu/cpu1/topology/core_id", "0"),
        ("/sys/devices/system/cpu/cpu2/topology/core_id", "0"),
        ("/sys/devices/system/cpu/cpu2/topology/die_cpus", "c"),
    ]);
    assert_eq!(sets(numbered.cores().iter().map(|core| &core.cpus)), ["0-1", "2", "3"]);
    assert_eq!((numbered.dies().len(), numbered.packages().len()), (2, 1));
}

/// Files of `/sys/devices/system/cpu`.
fn cpus_of(files: &[(&str, &str)]) -> Topology {
    let files: Vec<_> =
        files.iter().map(|(path, content)| (format!("{CPU}/{path}"), (*content).into())).collect();
    Topology::discover(&tree(&files)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_list_holds_if_its_lowest_cpu_tells_it() {
    // CPU 1 tells of CPUs that are spoken for, and CPU 3 of others, not of itself.
    let machine = cpus_of(&[
        ("online", "0-4"),
        ("cpu0/topology/package_cpus", "05"),
        ("cpu0/topology/physical_package_id", "0"),
        ("cpu1/topology/package_cpus", "07"),
        ("cpu1/topology/physical_package_id", "1"),
        ("cpu2/topology/package_cpus", "05"),
        ("cpu3/topology/package_cpus", "10"),
        ("cpu3/topology/physical_package_id", "1"),
        ("cpu4/topology/package_cpus", "10"),
        ("cpu4/topology/physical_package_id", "4"),
        ("cpu0/cache/index0/level", "2"),
        ("cpu0/cache/index0/shared_cpu_map", "03"),
        ("cpu2/cache/index0/level", "2"),
        ("cpu2/cache/index0/shared_cpu_map", "06"),
        ("cpu3/cache/index0/level", "2"),
        ("cpu3/cache/index0/shared_cpu_map", "18"),
    ]);
    let packages: Vec<_> =
        machine.packages().iter().map(|one| (one.id, one.cpus.to_string(), one.assumed)).collect();
    let expected = [(0, "0,2", false), (1, "1,3", true), (4, "4", false)];
    assert_eq!(packages, expected.map(|(id, cpus, assumed)| (id, cpus.to_owned(), assumed)));
    assert_eq!(sets(machine.caches().iter().map(|cache| &cache.cpus)), ["0-1", "3-4"]);
    assert!(machine.cores().iter().all(|core| core.assumed));
    assert_eq!((machine.counts().packages, machine.counts().cores, machine.counts().cpus), (2, 0, 5));
}

#[test]
fn a_cache_of_no_cpu_is_its_cores() {
    let machine = cpus_of(&[
        ("online", "0-2"),
        ("cpu0/topology/core_cpus", "3"),
        ("cpu1/topology/core_cpus", "3"),
        ("cpu2/topology/core_cpus", "4"),
        ("cpu0/cache/index3/level", "3"),
        ("cpu0/cache/index3/shared_cpu_map", "00000000,00000000"),
        ("cpu1/cache/index3/level", "3"),
        ("cpu1/cache/index3/shared_cpu_map", "00000000,00000000"),
        ("cpu2/cache/index3/level", "3"),
        ("cpu2/cache/index3/shared_cpu_map", "00000000,00000000"),
    ]);
    assert_eq!(sets(machine.caches().iter().map(|cache| &cache.cpus)), ["0-1", "2"]);
}

#[test]
fn dies_and_clusters_without_a_number_are_none() {
    let lists = |number: &str| {
        let mut files = vec![("online".to_owned(), "0-3".to_owned())];
        for cpu in 0..4 {
            let alone = CpuSet::from(cpu).mask(4).to_string();
            for (name, content) in
                [("die_id", number), ("cluster_id", number), ("die_cpus", &*alone), ("cluster_cpus", &*alone)]
            {
                files.push((format!("cpu{cpu}/topology/{name}"), content.to_owned()));
            }
        }
        let files: Vec<_> = files.iter().map(|(path, content)| (&**path, &**content)).collect();
        let machine = cpus_of(&files);
        (machine.dies().len(), machine.clusters().len())
    };
    assert_eq!(lists("-1"), (1, 0));
    for number in ["0", "", "die"] {
        assert_eq!(lists(number), (4, 4), "{number:?}");
    }
}

#[test]
fn amds_modules_are_two_cores() {
    let cores = |vendor: &str, family: u32, second: &str| {
        let machine = found(&[
            ("/sys/devices/system/cpu/online", "0-3"),
            ("/sys/devices/system/cpu/cpu0/topology/thread_siblings", "3"),
            ("/sys/devices/system/cpu/cpu0/topology/core_id", "0"),
            ("/sys/devices/system/cpu/cpu1/topology/core_id", second),
            ("/sys/devices/system/cpu/cpu2/topology/thread_siblings", "c"),
            ("/sys/devices/system/cpu/cpu3/online", "1"),
            ("/proc/cpuinfo", &format!("processor : 0\nvendor_id : {vendor}\ncpu family : {family}\n")),
        ]);
        assert!(machine.cores().iter().all(|core| !core.assumed));
        machine.cores().len()
    };
    assert_eq!(cores("AuthenticAMD", 21, "1"), 4);
    assert_eq!(cores("AuthenticAMD", 21, "0"), 2);
    assert_eq!(cores("AuthenticAMD", 21, ""), 2);
    assert_eq!(cores("AuthenticAMD", 23, "1"), 2);
    assert_eq!(cores("GenuineIntel", 21, "1"), 2);
}

#[test]
fn what_a_recording_left_out_is_not_there() {
    let machine = cpus_of(&[
        ("online", "0-7"),
        ("cpu2/online", "1"),
        ("cpu5/topology/core_id", "0"),
        ("cpu9/online", "1"),
    ]);
    assert_eq!(machine.online().to_string(), "2,5");
    assert_eq!(cpus_of(&[("online", "0-7")]).online().to_string(), "0-7");
}

#[test]
fn the_memory_of_gpus_is_no_node() {
    let machine = found(&[
        ("/sys/devices/system/cpu/online", "0-1"),
        ("/sys/devices/system/node/online", "0,8,254-255"),
        ("/sys/devices/system/node/node0/cpumap", "1"),
        ("/sys/devices/system/node/node8/cpumap", "2"),
        ("/sys/devices/system/node/node254/cpumap", "0"),
        ("/sys/devices/system/node/node255/cpumap", "0"),
        ("/sys/devices/system/node/node0/distance", "10 20 30 40"),
        ("/sys/devices/system/node/node8/distance", "20 10 50 60"),
        ("/sys/devices/system/node/node254/distance", "80 80 10 80"),
        (
            "/proc/driver/nvidia/gpus/0004:04:00.0/numa_status",
            "Node:      255\nStatus:    online\nSize: 3f0000000\n",
        ),
        // One whose memory is that of CPUs, one that was not asked to make a node, and one that says nothing.
        ("/proc/driver/nvidia/gpus/0004:05:00.0/numa_status", "Node: 8\n"),
        ("/proc/driver/nvidia/gpus/0004:06:00.0/numa_status", "Node: -1\nStatus: disabled\n"),
        ("/proc/driver/nvidia/gpus/0004:07:00.0/information", "Model: Tesla\n"),
    ]);
    let nodes: Vec<_> = machine.nodes().iter().map(|node| (node.id, &*node.distances)).collect();
    assert_eq!(nodes, [(0, &[10, 20, 30][..]), (8, &[20, 10, 50]), (254, &[80, 80, 10])]);
    assert_eq!(machine.allowed_nodes().to_string(), "0,8,254");
}

#[test]
fn what_is_wrong_is_named() {
    let cure = "; correct or remove the file of a recorded machine, and report that of a live one to those who made the kernel";
    let list = "a list of numbers up to 65535, like 0-3,8";
    let mask = "a mask of at most 65536 bits, like 00000000,0000000f";
    let online = ("/sys/devices/system/cpu/online", "0-1\n");
    for (path, value, expected) in [
        ("/sys/devices/system/cpu/online", "0-x", list),
        ("/sys/devices/system/cpu/possible", "0-70000", list),
        ("/sys/devices/system/cpu/isolated", "all", list),
        ("/sys/devices/system/cpu/cpu0/topology/core_cpus", "0x", mask),
        ("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0;1", list),
        ("/sys/devices/system/cpu/cpu1/topology/physical_package_id", "one", "a number"),
        ("/sys/devices/system/cpu/cpu0/cache/index0/level", "999", "a number"),
        ("/sys/devices/system/node/online", "-1", list),
        ("/proc/self/status", "Cpus_allowed_list: none", list),
    ] {
        let message = refused(&[online, (path, value)]);
        let shown = value.trim_start_matches("Cpus_allowed_list: ");
        assert_eq!(message, format!("{path} holds {shown:?}, which is not {expected}{cure}"));
    }
    assert_eq!(
        refused(&[("/sys/devices/system/cpu/online", " \n"), ("/proc/cpuinfo", "")]),
        "no CPU is listed in /sys/devices/system/cpu, nor in /proc/cpuinfo; mount sysfs, or name the directory that holds a recorded /sys"
    );
    let mut looped = Memory::new();
    looped.link(format!("{CPU}/online"), "online");
    let error = Topology::discover(&looped).unwrap_err();
    assert!(matches!(error, TopologyError::Read { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "can't read /sys/devices/system/cpu/online: too many symbolic links; correct or remove the file of a recorded machine"
    );
}

/// A tree one of whose files the kernel refuses to read.
struct Refusing {
    tree: Memory,
    path: &'static str,
    errno: i32,
}

impl FileSystem for Refusing {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new(self.path) {
            Err(io::Error::from_raw_os_error(self.errno))
        } else {
            self.tree.read(path)
        }
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.tree.write(path, content)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.tree.list(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.tree.canonicalize(path)
    }
}

#[test]
fn a_refusal_is_no_value_or_an_error() {
    let path = "/sys/devices/system/cpu/cpu0/cache/index0/type";
    let discover = |errno| Topology::discover(&Refusing { tree: tree(&recording()), path, errno });
    let (einval, enodev, eacces) = (22, 19, 13);
    for errno in [einval, enodev] {
        let topology = discover(errno).unwrap();
        let first: Vec<_> =
            topology.caches().iter().filter(|cache| cache.level == 1 && cache.cpus.contains(0)).collect();
        assert_eq!(
            first.iter().map(|cache| cache.kind).collect::<Vec<_>>(),
            [CacheKind::Instruction, CacheKind::Unified]
        );
    }
    let message = discover(eacces).unwrap_err().to_string();
    assert_eq!(
        message,
        format!("can't read {path}: Permission denied (os error 13); allow this process to read it")
    );
}

/// One of the ways, or any text, or any bytes.
fn damage() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        prop::sample::select(damage::ways()),
        "[0-9a-fx, :/\\\\-]{0,40}".prop_map(|text| Some(text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(Some),
    ]
}

#[test]
fn no_damage_to_one_file_panics() {
    let files = recording();
    let whole = tree(&files);
    // One CPU stands for all.
    let chosen = |path: &str| path.contains("cpu/cpu0/") || !path.contains("cpu/cpu");
    for (path, _) in files.iter().filter(|(path, _)| chosen(path)) {
        for way in damage::ways() {
            let mut tree = whole.clone();
            tree.remove(path);
            if let Some(content) = &way {
                tree.insert(path, content.clone());
            }
            let outcome = Topology::discover(&tree);
            damage::check(&outcome)
                .unwrap_or_else(|wrong| panic!("{path}: {}: {wrong}", damage::shown(way.as_deref())));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_damage_panics(damages in proptest::collection::vec((any::<prop::sample::Index>(), damage()), 1..12)) {
        let files = recording();
        let mut tree = tree(&files);
        for (index, damage) in damages {
            let path = &index.get(&files).0;
            tree.remove(path);
            if let Some(content) = damage {
                tree.insert(path, content);
            }
        }
        damage::check(&Topology::discover(&tree)).map_err(TestCaseError::fail)?;
    }
}
