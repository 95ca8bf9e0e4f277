//! libvirt's domain XML: what is written is read, and libvirt's own schema accepts it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Command;

use lb_virt::domain::{Disk, Kernel, Kind, Memory, Nic};
use lb_virt::libvirt::{DomainType, amend, from_xml, to_xml};
use lb_virt::{DomainSpec, VirtError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

proptest! {
    #[test]
    fn what_is_written_is_read(spec in support::specs()) {
        let xml = to_xml(&spec, DomainType::Kvm).unwrap();
        prop_assert_eq!(from_xml(&xml).unwrap(), spec, "{}", xml);
    }

    /// What one machine is made into another by: all that operations change.
    #[test]
    fn what_is_amended_is_read(from in support::specs(), to in support::specs()) {
        let wanted = DomainSpec {
            name: to.name,
            uuid: to.uuid,
            vcpus: to.vcpus,
            max_vcpus: to.max_vcpus,
            cpu_topology: to.cpu_topology,
            memory: to.memory,
            max_memory: to.max_memory,
            disks: to.disks,
            nics: to.nics,
            pins: to.pins,
            io_heavy: to.io_heavy,
            ..from.clone()
        };
        let xml = to_xml(&from, DomainType::Kvm).unwrap();
        let amended = amend(&xml, &wanted).unwrap();
        let mut read = from_xml(&amended).unwrap();
        // Those that were there stay in their places.
        let mut wanted = wanted;
        for spec in [&mut read, &mut wanted] {
            spec.disks.sort_by(|one, other| one.target.cmp(&other.target));
            spec.nics.sort_by_key(|nic| (nic.mac, format!("{nic:?}")));
        }
        prop_assert_eq!(read, wanted, "{}", amended);
        prop_assert_eq!(amend(&xml, &from).unwrap(), xml, "nothing differs");
    }

    /// Beside XML, as every configuration type: by serde.
    #[test]
    fn what_is_stored_comes_back(spec in support::specs()) {
        let text = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(serde_json::from_str::<DomainSpec>(&text).unwrap(), spec, "{}", text);
    }

    #[test]
    fn no_text_panics(text in any::<String>(), spec in support::specs(), cut in any::<prop::sample::Index>()) {
        let _ = from_xml(&text);
        let xml = to_xml(&spec, DomainType::Qemu).unwrap();
        let mut cut = cut.index(xml.len());
        while !xml.is_char_boundary(cut) {
            cut -= 1;
        }
        prop_assert!(from_xml(&xml[..cut]).is_err());
    }
}

#[test]
fn the_guests_of_the_theses_come_back() {
    let [first, second] = support::pinned_pair();
    for (spec, domain_type) in [
        (support::kvm_guest(), DomainType::Kvm),
        (support::xen_guest(), DomainType::Xen),
        (first, DomainType::Kvm),
        (second, DomainType::Kvm),
    ] {
        let xml = to_xml(&spec, domain_type).unwrap();
        assert_eq!(from_xml(&xml).unwrap(), spec, "{xml}");
    }
    let xml = to_xml(&support::kvm_guest(), DomainType::Kvm).unwrap();
    for line in [
        "<domain type=\"kvm\">",
        "<currentMemory unit=\"KiB\">20971520</currentMemory>",
        "<vcpu placement=\"static\">4</vcpu>",
        "<type arch=\"x86_64\">hvm</type>",
        "<on_crash>restart</on_crash>",
        "<driver name=\"qemu\" type=\"raw\" cache=\"none\"/>",
        "<source dev=\"/dev/cciss/c0d2\"/>",
        "<target dev=\"hdc\" bus=\"ide\"/>",
        "<source bridge=\"br3\"/>",
        "<graphics type=\"vnc\" port=\"-1\" autoport=\"yes\"/>",
    ] {
        assert!(xml.contains(line), "{line}: {xml}");
    }
    assert!(
        to_xml(&support::pinned_pair()[1], DomainType::Kvm)
            .unwrap()
            .contains("<vcpupin vcpu=\"7\" cpuset=\"15\"/>")
    );
}

/// As other programs write it: other units, defaults left out, much that has no place here.
#[test]
fn definitions_of_other_programs_are_read() {
    let xml = r"<domain type='kvm' id='3'>
  <name>web1</name>
  <memory unit='GiB'>4</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><bootmenu enable='yes'/></os>
  <cpu mode='host-model' check='partial'><topology sockets='1' dies='1' cores='2' threads='1'/></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <source file='/a.img'/><target dev='sda'/><address type='drive' controller='0'/>
    </disk>
    <disk type='file' device='floppy'><target dev='fda'/></disk>
    <controller type='usb' index='0'/>
    <interface type='network'><source network='default'/></interface>
    <serial type='tcp'><source mode='bind' host='127.0.0.1' service='2445'/></serial>
    <graphics type='spice'/>
    <graphics type='vnc' port='5901'><listen type='address' address='0.0.0.0'/></graphics>
  </devices>
</domain>";
    let spec = from_xml(xml).unwrap();
    assert_eq!((spec.memory, spec.max_memory, spec.vcpus), (Memory::from_mib(4096), None, 2));
    assert_eq!(spec.disks.len(), 1);
    let screen = spec.screen.as_ref().unwrap();
    assert_eq!((screen.port, screen.listen), (Some(5901), Some([0, 0, 0, 0].into())));
    assert!(!spec.features.acpi && !spec.balloon);
    for (from, to, said) in [
        ("<name>web1</name>", "", "line 1: <domain> has no name"),
        ("'GiB'", "'stone'", "line 3: a unit of memory is \"stone\""),
        (
            "type='file' device='disk'",
            "type='nvme' device='disk'",
            "line 9: the type of disk sda is \"nvme\"",
        ),
        ("<vcpu>2", "<vcpu>two", "line 4: vcpu is \"two\""),
        ("file='/a.img'", "file='a.img'", "write an absolute one"),
        ("<domain ", "<network ", "not XML"),
    ] {
        let error = from_xml(&xml.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}: {said}");
    }
}

/// What has no place in a definition stays as it is, comments too.
#[test]
fn what_is_not_amended_stays() {
    let xml = r#"<domain type="kvm">
  <name>web1</name><!-- of the shop -->
  <metadata><shop:stock xmlns:shop="urn:shop">7</shop:stock></metadata>
  <memory>1048576</memory>
  <vcpu cpuset="0-3">2</vcpu>
  <cputune><shares>512</shares><vcpupin vcpu="0" cpuset="1"/></cputune>
  <os><type>hvm</type></os>
  <devices>
    <controller type="scsi" model="virtio-scsi"/>
    <disk type="file" device="floppy"><target dev="fda"/></disk>
    <disk type="file" device="disk"><source file="/a.img"/><target dev="vda"/><serial>WD-1</serial></disk>
  </devices>
</domain>"#;
    let mut spec = from_xml(xml).unwrap().disk(Disk::file("/b.img").shared()).nic(Nic::nat());
    spec.pins.vcpus.clear();
    let amended = amend(xml, &spec).unwrap();
    assert_eq!(from_xml(&amended).unwrap(), spec, "{amended}");
    for kept in [
        "<!-- of the shop -->",
        "<shop:stock xmlns:shop=\"urn:shop\">7</shop:stock>",
        "<vcpu cpuset=\"0-3\">2</vcpu>",
        "<shares>512</shares>",
        "<controller type=\"scsi\" model=\"virtio-scsi\"/>",
        "<disk type=\"file\" device=\"floppy\"><target dev=\"fda\"/></disk>",
        "<target dev=\"vda\"/><serial>WD-1</serial>",
    ] {
        assert!(amended.contains(kept), "{kept}: {amended}");
    }
    assert!(matches!(amend("<domain/>", &spec), Err(VirtError::Said { .. })));
    spec.vcpus = 0;
    assert!(matches!(amend(xml, &spec), Err(VirtError::Spec { .. })));
}

#[test]
fn what_can_t_be_written_is_said() {
    let kernel = Kernel { image: "/vmlinuz".into(), initrd: None, command_line: String::new() };
    let spec = DomainSpec { kind: Kind::Pvh, ..DomainSpec::new("a", 1, Memory::from_mib(64)).kernel(kernel) };
    assert!(to_xml(&spec, DomainType::Xen).unwrap().contains(">xenpvh</type>"));
    assert!(matches!(to_xml(&spec, DomainType::Kvm), Err(VirtError::Inexpressible { .. })));
    let spec = DomainSpec { vcpus: 0, ..spec };
    assert!(matches!(to_xml(&spec, DomainType::Xen), Err(VirtError::Spec { .. })));
}

/// libvirt's own schema. Its programs take a file, so many definitions are judged one after the other.
#[test]
#[ignore = "needs libvirt-clients"]
fn the_schema_accepts_everything_that_is_written() {
    let mut runner = TestRunner::deterministic();
    let mut specs: Vec<(DomainSpec, DomainType)> = (0..150)
        .map(|number| {
            let spec = support::specs().new_tree(&mut runner).unwrap().current();
            (spec, DomainType::ALL[number % DomainType::ALL.len()])
        })
        .collect();
    specs.push((support::kvm_guest(), DomainType::Kvm));
    specs.push((support::xen_guest(), DomainType::Xen));
    specs.extend(support::pinned_pair().map(|spec| (spec, DomainType::Kvm)));
    let file = std::env::temp_dir().join(format!("lb-virt-{}.xml", std::process::id()));
    for (spec, domain_type) in specs {
        let xml = to_xml(&spec, domain_type).unwrap();
        std::fs::write(&file, &xml).unwrap();
        let judged = Command::new("virt-xml-validate").arg(&file).arg("domain").output().unwrap();
        let said = String::from_utf8_lossy(&judged.stderr);
        assert!(judged.status.success(), "{said}\n{xml}");
    }
    std::fs::remove_file(file).unwrap();
}
