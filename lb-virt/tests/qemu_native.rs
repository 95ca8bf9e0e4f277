//! libvirt writes QEMU's arguments too: does it give a machine the same processors, memory, disks and network interfaces?

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub)] // a module of tests has no readers outside
#![cfg(all(feature = "qemu", feature = "libvirt"))]

mod libvirtd;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use lb_virt::domain::{Bus, Cache, CpuTopology, Disk, Mac, Nic, NicModel};
use lb_virt::libvirt::{DomainType, to_xml};
use lb_virt::qemu::arguments::{Launch, arguments};
use lb_virt::{DomainSpec, Memory};
use serde_json::Value;

/// What a command line gives a machine, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Machine {
    /// Now, at the most, sockets, cores, threads.
    cpus: Vec<u64>,
    /// In KiB.
    memory: u64,
    disks: BTreeSet<String>,
    nics: BTreeSet<String>,
}

/// The words of a line as a shell would take them, which libvirt writes them for.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => (quoted, any) = (!quoted, true),
            '\\' if !quoted => match characters.next() {
                Some('\n') | None => {}
                Some(other) => word.push(other),
            },
            space if !quoted && space.is_whitespace() => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => word.push(other),
        }
    }
    words
}

/// The options of QEMU's own kind of list; the first may have no name.
fn options(list: &str) -> BTreeMap<String, String> {
    let options = list.split(',').map(|option| option.split_once('=').unwrap_or(("", option)));
    options.map(|(key, value)| (key.into(), value.into())).collect()
}

fn machine(words: &[String]) -> Machine {
    let mut machine = Machine::default();
    let (mut nodes, mut devices) = (BTreeMap::new(), Vec::new());
    for (flag, value) in words.iter().zip(&words[1..]) {
        let json = || serde_json::from_str::<Value>(value).unwrap();
        match flag.as_str() {
            "-smp" => {
                let smp = options(value);
                // What is not said of the most is what there is.
                let number = |key: &str| smp.get(key).unwrap_or(&smp[""]).parse::<u64>().unwrap();
                machine.cpus = ["", "maxcpus", "sockets", "cores", "threads"].map(number).to_vec();
            }
            "-m" => {
                let size = options(value).into_values().next().unwrap().to_lowercase();
                machine.memory = match size.strip_suffix('k') {
                    Some(kib) => kib.parse().unwrap(),
                    None => size.trim_end_matches('m').parse::<u64>().unwrap() * 1024,
                };
            }
            "-blockdev" => {
                let node = json();
                nodes.insert(node["node-name"].as_str().unwrap().to_owned(), node);
            }
            "-device" if value.starts_with('{') => devices.push(json()),
            _ => {}
        }
    }
    for device in devices {
        let driver = device["driver"].as_str().unwrap();
        if !device["netdev"].is_null() {
            machine.nics.insert(format!("{driver} {}", device["mac"].as_str().unwrap()));
        }
        if ["virtio-blk-pci", "ide-hd", "ide-cd", "scsi-hd", "scsi-cd", "usb-storage"].contains(&driver) {
            let place = match driver {
                "ide-hd" | "ide-cd" => format!("{} {}", device["bus"], device["unit"]),
                "scsi-hd" | "scsi-cd" => format!("{}", device["scsi-id"]),
                _ => String::new(),
            };
            let data = device["drive"].as_str().map(|drive| {
                let node = &nodes[drive];
                // A node of its own, or written where it is used.
                let file = node["file"].as_str().map_or(&node["file"], |file| &nodes[file]);
                let is = |key: &str| node["cache"][key].as_bool().unwrap_or_default();
                format!(
                    "{} {} {} {} read-only: {} direct: {} no-flush: {}",
                    node["driver"],
                    file["driver"],
                    file["filename"],
                    place,
                    node["read-only"],
                    is("direct"),
                    is("no-flush")
                )
            });
            let write_cache = device["write-cache"].as_str().unwrap_or("-");
            machine.disks.insert(format!("{driver} {} write-cache: {write_cache}", data.unwrap_or_default()));
        }
    }
    machine
}

fn definitions() -> Vec<DomainSpec> {
    let plain = |name: &str| DomainSpec::new(name, 2, Memory::from_mib(256));
    let mac = |last| Mac([0x52, 0x54, 0, 1, 2, last]);
    let sized = DomainSpec {
        vcpus: 3,
        max_vcpus: Some(8),
        cpu_topology: Some(CpuTopology { sockets: 2, cores: 2, threads: 2 }),
        max_memory: Some(Memory::from_mib(512)),
        ..plain("sized")
    };
    let cached = Cache::ALL.into_iter().fold(plain("cached"), |spec, cache| {
        let name = format!("/srv/a,b {cache}.qcow2");
        spec.disk(Disk::file(name).cached(cache))
    });
    vec![
        plain("plain"),
        sized,
        cached,
        plain("disks")
            .disk(Disk::file("/srv/it's.img"))
            .disk(Disk::block("/dev/vg/data").on(Bus::Ide).named("hdb"))
            .disk(Disk::cdrom("/srv/a.iso"))
            .disk(Disk { read_only: true, ..Disk::file("/srv/fixed.qcow2") })
            .disk(Disk::file("/srv/s.qcow2").on(Bus::Scsi).named("sdc"))
            .disk(Disk::file("/srv/u.img").on(Bus::Usb)),
        plain("nics")
            .nic(Nic::bridge("br0").mac(mac(1)))
            .nic(Nic::nat().mac(mac(2)).model(NicModel::E1000))
            .nic(Nic::bridge("br1").mac(mac(3)).model(NicModel::Rtl8139)),
    ]
}

#[test]
#[ignore = "needs root, libvirt-daemon and QEMU"]
fn libvirt_gives_machines_the_same() {
    let mut daemon = libvirtd::Daemon::start();
    drop(daemon.open());
    let file = daemon.root.join("machine.xml");
    for spec in definitions() {
        fs::write(&file, to_xml(&spec, DomainType::Qemu).unwrap()).unwrap();
        let done = Command::new("virsh")
            .args(["-c", &daemon.uri(), "domxml-to-native", "qemu-argv", "--xml"])
            .arg(&file)
            .output()
            .expect("virsh (package libvirt-clients)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let theirs = words(&String::from_utf8_lossy(&done.stdout));
        let own = arguments(&spec, &Launch::default()).unwrap();
        let own: Vec<String> = own.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
        assert_eq!(machine(&own), machine(&theirs), "ours, theirs; {}: {theirs:?}", spec.name);
        assert_eq!(machine(&own).disks.len(), spec.disks.len());
        assert_eq!(machine(&own).nics.len(), spec.nics.len());
    }
}
