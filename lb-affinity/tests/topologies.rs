//! Recorded machines, read by this crate and by Debian's `lstopo` (package hwloc): both must find the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lb_affinity::fs::Rooted;
use lb_affinity::topology::CacheKind;
use lb_affinity::{CpuSet, NodeSet, Topology};

/// CPUs, and how many bytes they share.
type Sized = (String, Option<u64>);

/// What both know of a machine. Lists of sets are sorted; they print as the kernel's lists.
#[derive(Default)]
struct Machine {
    cpus: String,
    cores: Vec<String>,
    dies: Vec<String>,
    packages: Vec<String>,
    /// By level and kind.
    caches: BTreeMap<(u8, CacheKind), Vec<Sized>>,
    /// By number.
    nodes: BTreeMap<u32, Sized>,
    allowed: String,
    allowed_nodes: String,
}

impl Machine {
    fn discovered(topology: &Topology) -> Self {
        let sorted = |sets: &mut dyn Iterator<Item = &CpuSet>| {
            let mut sets: Vec<_> = sets.map(ToString::to_string).collect();
            sets.sort();
            sets
        };
        let mut machine = Self {
            cpus: topology.online().to_string(),
            cores: sorted(&mut topology.cores().iter().map(|core| &core.cpus)),
            dies: sorted(&mut topology.dies().iter().map(|die| &die.cpus)),
            packages: sorted(&mut topology.packages().iter().map(|package| &package.cpus)),
            allowed: topology.allowed().to_string(),
            allowed_nodes: topology.allowed_nodes().to_string(),
            ..Self::default()
        };
        for cache in topology.caches() {
            let same = machine.caches.entry((cache.level, cache.kind)).or_default();
            same.push((cache.cpus.to_string(), cache.size));
        }
        machine.caches.values_mut().for_each(|same| same.sort());
        for node in topology.nodes() {
            machine.nodes.insert(node.id, (node.cpus.to_string(), node.memory));
        }
        machine
    }

    /// Reads `lstopo --of xml`, which has a line for each object.
    fn judged(xml: &str) -> Self {
        let mut machine = Self::default();
        let mut cpus = CpuSet::new();
        for line in xml.lines().map(str::trim).filter(|line| line.starts_with("<object ")) {
            let set = || mask(attribute(line, "cpuset").unwrap_or_default());
            let number = |name| attribute(line, name).and_then(|value| value.parse::<u64>().ok());
            let small = |name| number(name).and_then(|number| u32::try_from(number).ok()).expect(name);
            match attribute(line, "type").expect("each object has a type") {
                "Machine" => {
                    machine.allowed = mask(attribute(line, "allowed_cpuset").expect("the set is told"));
                    let nodes = groups(attribute(line, "allowed_nodeset").expect("the set is told"));
                    machine.allowed_nodes = NodeSet::parse_mask(&nodes).expect("a mask").to_string();
                }
                "Package" => machine.packages.push(set()),
                "Die" => machine.dies.push(set()),
                "Core" => machine.cores.push(set()),
                "PU" => assert!(cpus.insert(small("os_index")), "{line}"),
                "NUMANode" => {
                    machine.nodes.insert(small("os_index"), (set(), number("local_memory")));
                }
                // Memory-side caches are another type, `MemCache`: no CPU's.
                cache if cache.starts_with('L') && cache.ends_with("Cache") => {
                    let kind = match number("cache_type") {
                        Some(0) => CacheKind::Unified,
                        Some(1) => CacheKind::Data,
                        Some(2) => CacheKind::Instruction,
                        _ => panic!("{line}"),
                    };
                    let level = small("depth").try_into().expect("a level");
                    let size = number("cache_size").filter(|&size| size > 0);
                    machine.caches.entry((level, kind)).or_default().push((set(), size));
                }
                "Group" | "MemCache" | "Misc" => {}
                _ => panic!("{line}"),
            }
        }
        machine.cpus = cpus.to_string();
        machine.caches.values_mut().for_each(|same| same.sort());
        for sets in [&mut machine.packages, &mut machine.dies, &mut machine.cores] {
            sets.sort();
        }
        machine
    }

    /// What `lstopo` sees otherwise.
    fn differences(&self, judge: &Self) -> impl Iterator<Item = String> {
        let shown = |machine: &Self| {
            let Self { cpus, cores, dies, packages, caches, nodes, allowed, allowed_nodes } = machine;
            let mut all = BTreeMap::new();
            let sets = [("CPUs", cpus), ("allowed CPUs", allowed), ("allowed nodes", allowed_nodes)];
            all.extend(sets.map(|(what, set)| (what.to_owned(), set.clone())));
            let lists = [("cores", cores), ("dies", dies), ("packages", packages)];
            all.extend(lists.map(|(what, list)| (what.to_owned(), format!("{list:?}"))));
            all.extend(
                caches
                    .iter()
                    .map(|((level, kind), list)| (format!("L{level} {kind:?}"), format!("{list:?}"))),
            );
            all.extend(nodes.iter().map(|(id, node)| (format!("node {id}"), format!("{node:?}"))));
            all
        };
        let (found, judged) = (shown(self), shown(judge));
        let names: BTreeSet<_> = found.keys().chain(judged.keys()).cloned().collect();
        names.into_iter().filter(move |name| found.get(name) != judged.get(name)).map(move |name| {
            let told =
                |all: &BTreeMap<String, String>| all.get(&name).map_or("none", String::as_str).to_owned();
            format!("{name}\n   found {}\n  lstopo {}", told(&shown(self)), told(&shown(judge)))
        })
    }

    /// Says of this crate's machine what `lstopo` says where the two do so differently by intent.
    fn in_lstopos_words(mut self, judge: &Self) -> Self {
        // Where the kernel tells nothing of cores, lstopo has none, and we one for each CPU; and so with packages.
        if judge.cores.is_empty() && self.cores.iter().all(|core| !core.contains(['-', ','])) {
            self.cores.clear();
        }
        if judge.packages.is_empty() && self.packages == [self.cpus.clone()] {
            self.packages.clear();
        }
        // A die that is the whole package is none to lstopo.
        if judge.dies.is_empty() && (self.packages.is_empty() || self.dies == self.packages) {
            self.dies.clear();
        }
        for (id, (cpus, memory)) in &mut self.nodes {
            let Some((near, judged)) = judge.nodes.get(id) else { continue };
            // The kernel lists no CPU with a node of memory only; lstopo lists those it is nearest to.
            if cpus.is_empty() {
                cpus.clone_from(near);
            }
            // lstopo does not tell unknown from none.
            if judged.is_none() && *memory == Some(0) || memory.is_none() && *judged == Some(0) {
                *memory = *judged;
            }
        }
        self
    }
}

/// The value of an XML attribute; those read here need no unescaping.
fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// hwloc's masks have a `0x` in each group, and nothing for a group of zeros.
fn groups(mask: &str) -> String {
    let groups: Vec<_> = mask
        .split(',')
        .map(|group| if group.is_empty() { "0" } else { group.trim_start_matches("0x") })
        .collect();
    groups.join(",")
}

fn mask(text: &str) -> String {
    CpuSet::parse_mask(&groups(text)).unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

/// A directory that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lb-affinity-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test can be made");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The directory in or below `directory` that stands for `/`.
fn root(directory: &Path) -> Option<PathBuf> {
    if directory.join("sys").is_dir() || directory.join("proc").is_dir() {
        return Some(directory.to_owned());
    }
    let below = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).find_map(|path| root(&path))
}

fn lstopo(arguments: &[&str]) -> (String, Duration) {
    let start = Instant::now();
    let output = Command::new("lstopo-no-graphics")
        .args(["--of", "xml", "--no-io", "--disallowed"])
        // The kernel makes nodes of these GPUs' memory; lstopo hides them unless told.
        .env("HWLOC_KEEP_NVIDIA_GPU_NUMA_NODES", "1")
        .args(arguments)
        .output()
        .expect("lstopo-no-graphics runs; install Debian's package hwloc");
    let time = start.elapsed();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lstopo {arguments:?}: {errors}");
    (String::from_utf8(output.stdout).expect("XML in UTF-8"), time)
}

/// The first run reads the files into the cache, for both.
fn timed(root: &Path) -> (Topology, Duration) {
    let tree = Rooted::new(root);
    let start = Instant::now();
    let topology = Topology::discover(&tree).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    (topology, start.elapsed())
}

#[test]
#[ignore = "needs lstopo and recorded machines"]
fn lstopo_finds_the_same() {
    let folder = std::env::var_os("LB_TOPOLOGIES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/topologies"), PathBuf::from);
    let entries = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}; name the folder in LB_TOPOLOGIES", folder.display()));
    let mut entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let scratch = Scratch::new("topologies");
    let (mut seen, mut wrong) = (0, Vec::new());
    for entry in entries {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        let directory = if entry.is_dir() {
            entry.clone()
        } else if name.contains(".tar") {
            let directory = scratch.0.join(&name);
            std::fs::create_dir(&directory).unwrap();
            let status =
                Command::new("tar").arg("-xf").arg(&entry).arg("-C").arg(&directory).status().unwrap();
            assert!(status.success(), "tar -xf {name}");
            directory
        } else {
            continue;
        };
        let root = root(&directory).unwrap_or_else(|| panic!("{name} has no /sys and no /proc"));
        let (xml, _) = lstopo(&["--input", root.to_str().unwrap(), "--if", "fsroot"]);
        let judge = Machine::judged(&xml);
        timed(&root);
        let (topology, ours) = timed(&root);
        let (_, theirs) = lstopo(&["--input", root.to_str().unwrap(), "--if", "fsroot"]);
        println!("{name}: {} CPUs, {ours:.1?}; lstopo {theirs:.1?}", topology.online().len());
        let found = Machine::discovered(&topology).in_lstopos_words(&judge);
        wrong.extend(found.differences(&judge).map(|difference| format!("{name}: {difference}")));
        seen += 1;
    }
    assert!(seen > 0, "no recorded machine in {}", folder.display());
    assert!(wrong.is_empty(), "{} differences in {seen} machines\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
#[ignore = "needs lstopo"]
fn lstopo_finds_the_same_in_this_machine() {
    let (xml, _) = lstopo(&[]);
    Topology::live().unwrap();
    let start = Instant::now();
    let topology = Topology::live().unwrap();
    let ours = start.elapsed();
    let (_, theirs) = lstopo(&[]);
    println!("this machine: {} CPUs, {ours:.1?}; lstopo {theirs:.1?}", topology.online().len());
    let judge = Machine::judged(&xml);
    let found = Machine::discovered(&topology).in_lstopos_words(&judge);
    let wrong: Vec<_> = found.differences(&judge).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
