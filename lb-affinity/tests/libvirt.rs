//! What is written for libvirt is what libvirt reads: Debian's `virt-xml-validate` takes it, and `virsh` gives back the same pins.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;

use lb_affinity::plan::vcpu::{Machine, VcpuPlanner};
use lb_affinity::{CpuSet, Topology};

/// A machine of libvirt's own driver for tests, which starts nothing.
fn domain(machine: &Machine) -> String {
    format!(
        "<domain type='test'>\n  <name>placed</name>\n  <memory unit='MiB'>64</memory>\n  <vcpu>{}</vcpu>\n{}  \
         <os><type>hvm</type></os>\n</domain>\n",
        machine.cpus.len(),
        machine.cputune()
    )
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program}: {error}; install Debian's libvirt-clients and libxml2-utils")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Defines a machine and gives what libvirt then says of it. What its driver for tests knows ends with its connection.
fn defined(file: &Path) -> Result<String, String> {
    let commands = format!("define {}; dumpxml placed", file.display());
    output("virsh", &["--quiet", "--connect", "test:///default", &commands])
}

/// An attribute's value in an element on a line.
fn attribute<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line.split_once(&format!(" {name}='")).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split_once('\'').unwrap().0
}

fn pins(xml: &str) -> (Vec<u32>, CpuSet) {
    let elements = |name: &'static str| xml.lines().map(str::trim).filter(move |line| line.starts_with(name));
    let mut pins: Vec<(usize, u32)> = elements("<vcpupin ")
        .map(|line| (attribute(line, "vcpu").parse().unwrap(), attribute(line, "cpuset").parse().unwrap()))
        .collect();
    pins.sort_unstable();
    assert!(pins.iter().map(|(vcpu, _)| *vcpu).eq(0..pins.len()), "{xml}");
    let emulator = elements("<emulatorpin ").map(|line| attribute(line, "cpuset").parse().unwrap()).next();
    (pins.into_iter().map(|(_, cpu)| cpu).collect(), emulator.unwrap_or_default())
}

/// A file that is gone when the test is.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // there is nobody to tell
    }
}

#[test]
#[ignore = "needs virsh and virt-xml-validate"]
fn libvirt_takes_the_pins_and_gives_them_back() {
    let opteron = Topology::from_lscpu(include_str!("fixtures/opteron-16.lscpu")).unwrap();
    // 8 nodes, 2 siblings a core.
    let mut large = "# CPU,Core,Socket,Node\n".to_owned();
    for cpu in 0..1024 {
        large += &format!("{cpu},{core},{node},{node}\n", core = cpu % 512, node = cpu % 512 / 64);
    }
    let large = Topology::from_lscpu(&large).unwrap();
    let path = std::env::temp_dir().join(format!("lb-affinity-libvirt-{}.xml", std::process::id()));
    let file = File(path);
    let path = file.0.to_str().unwrap();
    let mut with_emulator = 0;
    for (topology, sizes) in [
        (&opteron, vec![8, 8]),
        (&opteron, vec![16]),
        (&opteron, vec![3, 2, 1]),
        (&opteron, vec![12, 12]),
        (&large, vec![1024]),
        (&large, vec![100, 7]),
    ] {
        let plan = VcpuPlanner::new(topology).over_commit(true).machines(&sizes).unwrap();
        for machine in &plan.machines {
            let xml = domain(machine);
            std::fs::write(path, &xml).unwrap();
            output("virt-xml-validate", &[path, "domain"]).unwrap_or_else(|error| panic!("{error}\n{xml}"));
            let said = defined(&file.0).unwrap_or_else(|error| panic!("{error}\n{xml}"));
            assert_eq!(pins(&said), (machine.cpus.clone(), machine.emulator.clone()), "{xml}\n{said}");
            with_emulator += usize::from(!machine.emulator.is_empty());
        }
    }
    assert!(with_emulator >= 2, "{with_emulator}");

    // Both are judges: what is no set of CPUs, they refuse.
    let plan = VcpuPlanner::new(&opteron).equal_shares(8).unwrap();
    let broken = domain(&plan.machines[1]).replacen("cpuset='2'", "cpuset='two'", 1);
    assert!(broken.contains("two"), "{broken}");
    std::fs::write(path, broken).unwrap();
    output("virt-xml-validate", &[path, "domain"]).unwrap_err();
    defined(&file.0).unwrap_err();
}
