//! Recorded machines, read by this crate and by Debian's `lstopo` (package hwloc): both must find the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_affinity::fs::Rooted;
use lb_affinity::topology::{CacheKind, Counts, TopologyError};
use lb_affinity::{CpuSet, NodeSet, Topology};

mod recordings;

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
            cores: sorted(&mut topology.cores().iter().filter(|core| !core.assumed).map(|core| &core.cpus)),
            dies: sorted(&mut topology.dies().iter().map(|die| &die.cpus)),
            packages: sorted(
                &mut topology
                    .packages()
                    .iter()
                    .filter(|package| !package.assumed)
                    .map(|package| &package.cpus),
            ),
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
    fn in_lstopos_words(mut self, topology: &Topology, judge: &Self) -> Self {
        // A die that is the whole package is none to lstopo.
        let whole = |cpus| topology.packages().iter().any(|package| &package.cpus == cpus);
        if judge.dies.is_empty() && topology.dies().iter().all(|die| whole(&die.cpus)) {
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

/// The numbers of things in `lstopo --of xml`.
fn counted(xml: &str) -> Counts {
    let machine = Machine::judged(xml);
    let mut counts = Counts::default();
    counts.packages = machine.packages.len();
    counts.cores = machine.cores.len();
    counts.cpus = machine.cpus.parse::<CpuSet>().expect("it was printed as such").len();
    counts.nodes = machine.nodes.len();
    counts.caches = machine.caches.into_iter().map(|(slot, caches)| (slot, caches.len())).collect();
    counts
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

/// What lstopo says, as an error, of a recording whose kernel tells of its CPUs in `/proc/cpuinfo` alone: it read that up to 2.0.
const NO_SYSFS: &str = "failed to find sysfs cpu topology directory";

/// Its XML and how long it took, or what it complained of.
fn lstopo(arguments: &[&str]) -> Result<(String, Duration), String> {
    let start = Instant::now();
    let output = Command::new("lstopo-no-graphics")
        .args(["--of", "xml", "--no-io"])
        // Knights Landing's memory can be a cache of other memory, which a program of hwloc's finds out and keeps in a file.
        // Those are memory-side caches, as later machines have them, and no CPU's.
        .env("HWLOC_KNL_MSCACHE_L3", "0")
        .args(arguments)
        .output()
        .expect("lstopo-no-graphics runs; install Debian's package hwloc");
    let time = start.elapsed();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok((String::from_utf8(output.stdout).expect("XML in UTF-8"), time))
    } else {
        Err(format!("lstopo {arguments:?}: {errors}"))
    }
}

fn timed(root: &Path) -> Result<(Topology, Duration), TopologyError> {
    let tree = Rooted::new(root);
    let start = Instant::now();
    let topology = Topology::discover(&tree)?;
    Ok((topology, start.elapsed()))
}

#[test]
#[ignore = "needs lstopo and recorded machines"]
fn lstopo_finds_the_same() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (name, root) in recordings::unpacked().roots() {
        let recorded = ["--input", root.to_str().unwrap(), "--if", "fsroot"];
        let whole = [&recorded[..], &["--disallowed"]].concat();
        let found = match (lstopo(&whole), timed(root)) {
            (Ok((xml, _)), Ok((topology, _))) => (xml, topology),
            (Ok(_), Err(error)) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
            (Err(said), found) if said.contains(NO_SYSFS) => {
                let found = found.map(|(topology, _)| topology.online().to_string());
                println!("{name}: {found:?}; not seen by lstopo");
                continue;
            }
            (Err(said), _) => panic!("{name}: {said}"),
        };
        let (xml, topology) = found;
        // Now neither waits for the disk.
        let (_, ours) = timed(root).unwrap();
        let (left, theirs) = lstopo(&recorded).unwrap();
        println!("{name}: {} CPUs, {ours:.1?}; lstopo {theirs:.1?}", topology.online().len());
        for (what, found, judged) in [
            ("whole", topology.counts(), counted(&xml)),
            ("allowed", topology.counts_allowed(), counted(&left)),
        ] {
            if found != judged {
                wrong.push(format!("{name}: {what}\n   found {found:?}\n  lstopo {judged:?}"));
            }
        }
        let judge = Machine::judged(&xml);
        let found = Machine::discovered(&topology).in_lstopos_words(&topology, &judge);
        wrong.extend(found.differences(&judge).map(|difference| format!("{name}: {difference}")));
        seen += 1;
    }
    assert!(seen > 0, "lstopo saw none of the recorded machines");
    assert!(wrong.is_empty(), "{} differences in {seen} machines\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
#[ignore = "needs lstopo"]
fn lstopo_finds_the_same_in_this_machine() {
    let (xml, _) = lstopo(&["--disallowed"]).unwrap();
    Topology::live().unwrap();
    let start = Instant::now();
    let topology = Topology::live().unwrap();
    let ours = start.elapsed();
    let (_, theirs) = lstopo(&["--disallowed"]).unwrap();
    println!("this machine: {} CPUs, {ours:.1?}; lstopo {theirs:.1?}", topology.online().len());
    let judge = Machine::judged(&xml);
    let found = Machine::discovered(&topology).in_lstopos_words(&topology, &judge);
    let wrong: Vec<_> = found.differences(&judge).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
