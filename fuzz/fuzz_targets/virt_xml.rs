//! Whatever a hypervisor, or somebody in its name, says a machine is: an error, or a definition that is right and comes back.
#![no_main]

use lb_virt::domain::Kind;
use lb_virt::libvirt::{DomainType, from_xml, to_xml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(spec) = from_xml(text) else { return };
    spec.validate().expect("what is read is right");
    let domain_type = if spec.kind == Kind::Hvm { DomainType::Kvm } else { DomainType::Xen };
    let xml = to_xml(&spec, domain_type).expect("what is right can be written");
    assert_eq!(from_xml(&xml).expect("what is written can be read"), spec);
});
