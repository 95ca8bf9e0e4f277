//! Machines as text and as JSON.

use std::fmt::Write as _;

use lb_virt::Hypervisor;
use lb_virt::domain::Kind;
use lb_virt::hypervisor::Summary;
use lb_virt::libvirt::{DomainType, to_xml};
use serde_json::json;

use crate::Failure;

/// All machines: a table, or an array.
pub(crate) fn list(machines: &[Summary], json: bool) -> Result<String, Failure> {
    if json {
        return Ok(serde_json::to_string_pretty(machines)? + "\n");
    }
    if machines.is_empty() {
        return Ok("no machines: `machines define --example` prints a definition to begin with\n".into());
    }
    let width = machines.iter().map(|machine| machine.name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  {:<13}  {:>5}  {:>10}\n", "NAME", "STATE", "VCPUS", "MEMORY");
    for machine in machines {
        let (state, memory) = (machine.state.to_string(), machine.memory.to_string());
        writeln!(text, "{:<width$}  {state:<13}  {:>5}  {memory:>10}", machine.name, machine.vcpus)?;
    }
    Ok(text)
}

/// One machine.
pub(crate) fn machine(
    host: &mut dyn Hypervisor,
    name: &str,
    json: bool,
    xml: bool,
) -> Result<String, Failure> {
    let (state, spec) = (host.state(name)?, host.spec(name)?);
    if json {
        return Ok(serde_json::to_string_pretty(&json!({ "state": state, "definition": spec }))? + "\n");
    }
    if xml {
        let accelerated = host.host().is_ok_and(|host| host.accelerated);
        let domain_type = match host.name() {
            "xen" => DomainType::Xen,
            _ if spec.kind != Kind::Hvm => DomainType::Xen,
            "virtualbox" => DomainType::Vbox,
            "qemu" if !accelerated => DomainType::Qemu,
            _ => DomainType::Kvm,
        };
        return Ok(to_xml(&spec, domain_type)?);
    }
    Ok(format!("# {state}\n{}", toml::to_string_pretty(&spec)?))
}
