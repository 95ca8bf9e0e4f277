//! `affinity` as a user runs it: on a machine that `lscpu` has described, on recorded ones, and on this one.
#![allow(clippy::unwrap_used, reason = "a test's helpers panic as its tests do")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const OPTERON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-affinity/tests/fixtures/opteron-16.lscpu");

fn affinity(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_affinity")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What it printed; it succeeded.
fn out(arguments: &[&str]) -> String {
    let output = affinity(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn as_json(arguments: &[&str]) -> Value {
    serde_json::from_str(&out(arguments)).unwrap()
}

/// What it complained of; it failed.
fn complaint(arguments: &[&str]) -> String {
    let output = affinity(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

const ASKED: [&str; 6] = ["--lscpu", OPTERON, "--irq-cpu", "6", "--workers", "4"];

#[test]
fn the_machine_of_lscpu_is_shown() {
    let shown = as_json(&["show", "--lscpu", OPTERON, "--json"]);
    for (key, count) in [("packages", 4), ("cores", 16), ("pus", 16), ("numa_nodes", 4)] {
        assert_eq!(shown[key], count, "{key}");
    }
    assert_eq!(shown["caches"], json!({ "L1d": 16, "L1i": 16, "L2": 16, "L3": 4 }));
    assert_eq!(shown["whole"]["pus"], 16);
    let text = out(&["show", "--lscpu", OPTERON]);
    assert!(text.starts_with("4 packages, 4 NUMA nodes, 16 cores, 16 CPUs\nnode 0"), "{text}");
}

#[test]
fn the_layout_that_won_is_planned() {
    let plan = as_json(&[&["plan", "--json"], &ASKED[..]].concat());
    assert_eq!(plan["strategy"], "balanced");
    assert_eq!(plan["workers"], json!([0, 1, 4, 5]));
    assert_eq!(plan["network"], json!([2, 3, 6, 7]));
    assert_eq!(plan["rps_mask"], "008c");
    let steering = json!({ "2": { "0": 3, "1": 1 }, "3": { "1": 1, "3": 1 }, "7": { "2": 3, "3": 1 } });
    assert_eq!(plan["steering"], steering);
    let text = out(&[&["plan"], &ASKED[..]].concat());
    assert!(text.contains("[4 W2] [5 W3] [6 I] [7 N]"), "{text}");
    let steering = "CPU → worker: 2 → 0 (75 %) 1 (25 %), 3 → 1 (50 %) 3 (50 %), 7 → 2 (75 %) 3 (25 %)\n";
    assert!(text.ends_with(steering), "{text}");
}

#[test]
fn layouts_are_ranked_as_they_were_measured() {
    let ranked = as_json(&[&["plan", "--rank", "--json"], &ASKED[..]].concat());
    let rows = ranked.as_array().unwrap();
    let throughput = |name: &str| {
        let row =
            rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}: {ranked:#}"));
        row["throughput"].as_f64().unwrap()
    };
    assert!(rows.windows(2).all(|pair| pair[0]["throughput"].as_f64() >= pair[1]["throughput"].as_f64()));
    assert_eq!(rows[0]["rps_mask"], "008c");
    assert_eq!(rows[1]["rps_mask"], "00b0");
    let measured = ["balanced", "network-on-one-node", "same-node, 3 workers", "rfs", "same-node, 1 worker"];
    let predicted = measured.map(throughput);
    assert!(predicted.windows(2).all(|pair| pair[0] > pair[1]), "{predicted:?}");
    assert!((throughput("same-node") / throughput("same-node, 1 worker") - 1.0).abs() < 0.02);
    assert!(throughput("same-node") > throughput("none, 1 worker placed by the system"));
    let table = out(&[&["plan", "--rank"], &ASKED[..]].concat());
    assert_eq!(table.lines().count(), rows.len() + 2, "{table}");
}

#[test]
fn virtual_machines_get_cores_of_their_own() {
    let text = out(&["plan", "--lscpu", OPTERON, "--machines", "8,8"]);
    assert_eq!(text, out(&["plan", "--lscpu", OPTERON, "--machines", "2x"]));
    assert_eq!(text.matches("<cputune>").count(), 2);
    assert!(text.contains("<vcpupin vcpu='7' cpuset='15'/>"), "{text}");
    assert!(text.starts_with("<!-- machine 0: "), "{text}");
    let crowded = out(&["plan", "--lscpu", OPTERON, "--machines", "12,12", "--over-commit"]);
    assert_eq!(crowded.matches("<vcpupin").count(), 24);
}

#[test]
fn this_machine_is_shown_and_planned_for() {
    let shown = as_json(&["show", "--json"]);
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(shown["pus"], online.parse::<lb_affinity::CpuSet>().unwrap().len());
    assert_eq!(as_json(&["plan", "--workers", "1", "--json"])["workers"].as_array().unwrap().len(), 1);
    let watched = out(&["watch", "--count", "1", "--interval", "0.05"]);
    assert!(watched.lines().count() > shown["pus"].as_u64().unwrap() as usize, "{watched}");
    let watched = out(&["watch", "--count", "3", "--interval", "0.05", "--json", "--top", "2"]);
    let looks: Vec<Value> = watched.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 3);
    for look in looks {
        assert!(look["seconds"].as_f64().unwrap() >= 0.05);
        assert_eq!(look["cpus"].as_array().unwrap().len(), shown["pus"].as_u64().unwrap() as usize);
        assert!(look["interrupts"].as_array().unwrap().len() <= 2);
    }
}

#[test]
fn every_option_is_explained() {
    for words in [&["--help"][..], &["help", "plan"], &["apply", "--help"], &["watch", "--help"]] {
        let help = out(words);
        assert!(help.contains("Usage: affinity"), "{help}");
    }
    let help = out(&["plan", "--help"]);
    for strategy in lb_affinity::plan::Strategy::ALL {
        assert!(help.contains(strategy.name()), "{strategy}: {help}");
    }
    assert!(out(&["show", "--help"]).contains("as hwloc-gather-topology makes it"));
    assert!(out(&["--help"]).contains("Exit status: 0 if all was done, 1 if"));
}

#[test]
fn an_end_is_an_end_also_when_nobody_reads() {
    for (arguments, code) in [
        (vec!["show"], 0),
        (vec!["plan", "--rank", "--lscpu", OPTERON], 0),
        (vec!["watch", "--interval", "0.01"], 0),
        (vec!["--help"], 0),
        (vec!["show", "--root", "/nowhere"], 1),
        (vec!["shows"], 2),
        (vec!["watch", "--count", "0"], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_affinity"));
        let command = command.args(&arguments).stdin(Stdio::null());
        let status = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_affinity")).arg("show").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the output can't be written: No space left"));
}

/// An archive of a machine with 4 CPUs, and of what `more` puts in.
fn archive(path: &Path, more: impl FnOnce(&mut tar::Builder<std::fs::File>)) {
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    put(&mut archive, tar::EntryType::Regular, "sys/devices/system/cpu/online", b"0-3\n");
    more(&mut archive);
    archive.finish().unwrap();
}

/// A file with a content, or a link to it, by any name.
fn put(archive: &mut tar::Builder<std::fs::File>, kind: tar::EntryType, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_old();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    // The crate's own way refuses some of these names.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    let content = if kind == tar::EntryType::Regular {
        content
    } else {
        header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
        &[]
    };
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

#[test]
fn an_archive_neither_reads_nor_writes_outside() {
    use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
    let directory = Scratch::new("evil");
    let tar = directory.0.join("evil.tar");
    let shown = || as_json(&["show", "--json", "--root", tar.to_str().unwrap()]);
    let plain = {
        archive(&tar, |_| ());
        shown()
    };
    let escape = directory.0.join("escaped");
    let isolated = "sys/devices/system/cpu/isolated";
    let two = directory.0.join("two");
    std::fs::write(&two, "2\n").unwrap();
    let two = two.as_os_str().as_encoded_bytes();
    let cases: [(tar::EntryType, &str, &[u8]); 9] = [
        (Regular, escape.to_str().unwrap(), b"x"),
        (Regular, "../../../../../../../../tmp/escaped", b"x"),
        (Regular, "sys/../../../escaped", b"x"),
        (Symlink, isolated, two),
        (Symlink, isolated, b"../../../../../../../../../../../../../dev/zero"),
        (Link, isolated, two),
        (Char, isolated, b""),
        (Block, isolated, b""),
        (Fifo, isolated, b""),
    ];
    for (kind, name, content) in cases {
        archive(&tar, |archive| put(archive, kind, name, content));
        assert_eq!(shown(), plain, "{kind:?} {name}");
        assert!(!escape.exists() && !Path::new("/tmp/escaped").exists(), "{name}");
    }
    // The same link to a file that is inside is followed.
    archive(&tar, |archive| {
        put(archive, Regular, "two", b"2\n");
        put(archive, Symlink, isolated, b"/two");
    });
    let linked = shown();
    assert_ne!(linked, plain);
    // So is a second name of a file.
    archive(&tar, |archive| {
        put(archive, Regular, "two", b"2\n");
        put(archive, Link, isolated, b"two");
    });
    assert_eq!(shown(), linked);
    let said = complaint(&["plan", "--nic", "eth0", "--root", tar.to_str().unwrap()]);
    assert!(said.contains("/proc/interrupts") && said.contains("say --irq-cpu instead of --nic"), "{said}");

    // What would take all memory or time.
    let path = tar.to_str().unwrap();
    let said = |message: &str| {
        let said = complaint(&["show", "--root", path]);
        assert!(said.contains(message), "{said}");
    };
    archive(&tar, |archive| {
        let deep = format!("sys/{}x", "a/".repeat(100_000));
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, deep, &b""[..]).unwrap();
    });
    said("a path in it has more than 4096 bytes");
    // It takes no room on the disk, as a packed one would not.
    let mut header = tar::Header::new_gnu();
    header.set_path("sys/devices/system/cpu/online").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    std::fs::write(&tar, header.as_bytes()).unwrap();
    std::fs::File::options().write(true).open(&tar).unwrap().set_len(2 << 30).unwrap();
    said("it unpacks to more than 268435456 bytes");
    // Its header is what the message quotes.
    std::fs::write(&tar, [b"\x1b[2Jevil".repeat(100), vec![0; 1024]].concat()).unwrap();
    said("is neither a directory nor a tar");
    assert!(!complaint(&["show", "--root", path]).contains('\u{1b}'));
}

#[test]
fn a_directory_is_not_read_beyond_its_links() {
    let directory = Scratch::new("links");
    let root = directory.0.join("root");
    std::fs::create_dir(&root).unwrap();
    let root_is = root.to_str().unwrap();
    for (link, target) in [("only", "/"), ("sys", "/sys")] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        let said = complaint(&["show", "--root", root_is]);
        assert!(said.contains("nothing that is called `sys` or `proc` is in it"), "{said}");
        std::fs::remove_file(root.join(link)).unwrap();
    }
    let cpu = root.join("sys/devices/system/cpu");
    std::fs::create_dir_all(&cpu).unwrap();
    // Nobody will ever write to it.
    assert!(Command::new("mkfifo").arg(cpu.join("online")).status().unwrap().success());
    let said = complaint(&["show", "--root", root_is]);
    assert!(said.contains("it is no regular file"), "{said}");
}

#[test]
fn a_recorded_machine_may_be_a_directory_or_an_archive() {
    let directory = Scratch::new("recorded");
    let file = |path: &str, content: &str| {
        let path = directory.0.join("machine").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    file("sys/devices/system/cpu/online", "0-3\n");
    file("sys/devices/system/node/online", "0-1\n");
    file("sys/devices/system/node/node0/cpumap", "3\n");
    file("sys/devices/system/node/node1/cpumap", "c\n");
    file("proc/self/status", "Cpus_allowed_list:\t1-3\nMems_allowed_list:\t1\n");

    let tar = directory.0.join("machine.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    archive.append_dir_all("machine", directory.0.join("machine")).unwrap();
    archive.finish().unwrap();
    drop(archive);
    let deep = directory.0.join("deep.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&deep).unwrap());
    archive.append_dir_all("machine/fsroot", directory.0.join("machine")).unwrap();
    archive.finish().unwrap();
    drop(archive);
    let packed = std::fs::read(&tar).unwrap();
    let zipped = directory.0.join("machine.tar.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(&zipped).unwrap(), flate2::Compression::fast());
    encoder.write_all(&packed).unwrap();
    encoder.finish().unwrap();
    let squeezed = directory.0.join("machine.tar.bz2");
    let mut encoder =
        bzip2::write::BzEncoder::new(std::fs::File::create(&squeezed).unwrap(), bzip2::Compression::fast());
    encoder.write_all(&packed).unwrap();
    encoder.finish().unwrap();

    // Other directories beside it are no matter.
    let below = directory.0.join("below");
    std::fs::create_dir_all(below.join("one/two")).unwrap();
    std::fs::create_dir_all(below.join("other/cpuid")).unwrap();
    for name in ["sys", "proc"] {
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(directory.0.join("machine").join(name)).arg(below.join("one/two"));
        assert!(copy.status().unwrap().success());
    }
    let below_tar = directory.0.join("below.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&below_tar).unwrap());
    archive.append_dir_all("below", &below).unwrap();
    archive.finish().unwrap();
    drop(archive);

    for root in
        [&directory.0, &directory.0.join("machine"), &below, &tar, &deep, &below_tar, &zipped, &squeezed]
    {
        let arguments = ["show", "--json", "--root", root.to_str().unwrap()];
        let shown = as_json(&arguments);
        assert_eq!(
            (&shown["whole"]["pus"], &shown["whole"]["numa_nodes"]),
            (&json!(4), &json!(2)),
            "{}",
            root.display()
        );
        // Nothing says who shares a core, or a package.
        assert_eq!((&shown["cores"], &shown["packages"]), (&json!(0), &json!(0)));
        // A group that has three CPUs and a node's memory.
        let here = ["packages", "cores", "pus", "numa_nodes", "caches"].map(|key| &shown[key]);
        assert_eq!(here, [&json!(0), &json!(0), &json!(3), &json!(1), &json!({})]);
    }

    // Of two machines, none is the one that is meant; nor is one that is too far down.
    let several = directory.0.join("several.tar");
    for (names, message) in [
        (["a/sys/x", "b/proc/x"], "has a `sys` or `proc`, as a and b; give the one that stands for /"),
        (["a/b/c/d/sys/x", "sys"], "nothing that is called `sys` or `proc` is in it"),
    ] {
        let tree = directory.0.join("several");
        let mut archive = tar::Builder::new(std::fs::File::create(&several).unwrap());
        for name in names {
            put(&mut archive, tar::EntryType::Regular, name, b"");
            std::fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
            std::fs::write(tree.join(name), "").unwrap();
        }
        archive.finish().unwrap();
        for root in [&several, &tree] {
            let said = complaint(&["show", "--root", root.to_str().unwrap()]);
            let said = said.replace(&format!("{}/", tree.display()), "");
            assert!(said.contains(message), "{said}");
        }
        std::fs::remove_dir_all(tree).unwrap();
    }
}

#[test]
fn what_is_wrong_is_said_with_its_cure() {
    let nowhere = Path::new("/nowhere/at/all").to_str().unwrap();
    for (arguments, message) in [
        (vec!["show", "--root", nowhere], "affinity: /nowhere/at/all: No such file or directory"),
        (vec!["show", "--lscpu", "/proc/version"], "no header line"),
        (vec!["show", "--root", OPTERON], "is neither a directory nor a tar"),
        (vec!["plan", "--lscpu", OPTERON, "--nic", "eth0"], "say --irq-cpu instead"),
        (vec!["plan", "--lscpu", OPTERON, "--irq-cpu", "16"], "name one of the CPUs 0-15"),
        (vec!["plan", "--lscpu", OPTERON, "--workers", "0"], "0 workers cannot be placed"),
        (vec!["plan", "--lscpu", OPTERON, "--strategy", "best"], "is no strategy; use one of balanced"),
        (vec!["plan", "--lscpu", OPTERON, "--machines", "8,x"], "is neither a list of numbers"),
        (vec!["plan", "--nic", "no-such-nic"], "no-such-nic"),
        (vec!["plan", "--lscpu", OPTERON, "--machines", "17"], "or allow over-commitment"),
        (
            vec!["apply", "--workers", "1"],
            "without an interface there is nothing to write; name one with --nic (",
        ),
        (vec!["apply", "--nic", "lo", "--strategy", "none"], "leaves the network side as it is"),
        (vec!["show", "--lscpu", "/dev/zero"], "affinity: /dev/zero: file too large"),
        (vec!["show", "--lscpu", env!("CARGO_BIN_EXE_affinity")], "use the output of `lscpu -p`"),
    ] {
        let said = complaint(&arguments);
        assert!(said.contains(message), "{arguments:?}: {said}");
    }
}

#[test]
#[ignore = "needs ../shared"]
fn recorded_archives_are_shown() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/topologies");
    for (name, expected) in
        [("16amd64-8n2c.tar.bz2", (8, 16, 16, 8)), ("256ia64-64n2s2c.tar.bz2", (128, 256, 256, 64))]
    {
        let file = folder.join(name);
        let shown = as_json(&["show", "--json", "--root", file.to_str().unwrap()]);
        let count = |key: &str| shown[key].as_u64().unwrap();
        assert_eq!(
            (count("packages"), count("cores"), count("pus"), count("numa_nodes")),
            expected,
            "{name}"
        );
    }
}

/// A directory that is gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("affinity-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
