//! Changes of a machine's definition, and of the machine while it runs: its size, and where it runs.

use lb_affinity::CpuSet;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use super::{Driver, Libvirt};
use crate::domain::{DomainSpec, Memory, Pins};
use crate::error::VirtError;
use crate::hypervisor::{Capabilities, Effect};
use crate::libvirt::{amend, from_xml};

/// A definition, as libvirt has it and as it was read.
pub(super) struct Definition {
    pub(super) xml: String,
    pub(super) spec: DomainSpec,
}

/// A machine that is to be changed.
pub(super) struct Subject {
    pub(super) domain: Domain,
    /// As it is defined.
    pub(super) defined: Definition,
    /// As it runs; `None` if it does not.
    pub(super) live: Option<DomainSpec>,
}

impl Libvirt {
    fn definition(&self, name: &str, domain: &Domain, flags: u32) -> Result<Definition, VirtError> {
        let asked = |error: Error| self.connection.failed(name, "ask for the definition of", &error);
        let xml = domain.get_xml_desc(flags).map_err(asked)?;
        let spec = from_xml(&xml).map_err(|error| VirtError::Said {
            hypervisor: super::LIBVIRT,
            operation: format!("read the definition of {name}"),
            words: error.to_string(),
        })?;
        Ok(Definition { xml, spec })
    }

    /// As it is at its next start. With what is secret in it, so that it can be defined anew and nothing is lost.
    pub(super) fn defined(&self, name: &str, domain: &Domain) -> Result<Definition, VirtError> {
        self.definition(name, domain, sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE)
    }

    /// As it is now.
    pub(super) fn live(&self, name: &str, domain: &Domain) -> Result<Definition, VirtError> {
        self.definition(name, domain, 0)
    }

    pub(super) fn subject(&self, name: &str) -> Result<Subject, VirtError> {
        let domain = self.connection.domain(name)?;
        self.must_stay(name, "change")?;
        let defined = self.defined(name, &domain)?;
        let runs = self.state_of(name, &domain)?.is_active();
        let live = if runs { Some(self.live(name, &domain)?.spec) } else { None };
        Ok(Subject { domain, defined, live })
    }

    /// Defines a machine anew, with all that a [`DomainSpec`] has no place for as it was.
    pub(super) fn redefine(&mut self, defined: &Definition, spec: &DomainSpec) -> Result<(), VirtError> {
        if defined.spec != *spec {
            self.define_xml(spec, &amend(&defined.xml, spec)?)?;
        }
        self.changed(&spec.name);
        Ok(())
    }

    pub(super) fn resize_vcpus(&mut self, name: &str, vcpus: u32) -> Result<Effect, VirtError> {
        let Subject { domain, defined, live } = self.subject(name)?;
        if let Some(live) = &live
            && vcpus > live.most_vcpus()
        {
            let limit =
                format!("it runs with at most {}: shut it off, and raise max-vcpus", live.most_vcpus());
            return Err(VirtError::Resize {
                name: name.into(),
                wanted: format!("{vcpus} virtual CPUs"),
                limit,
            });
        }
        let mut spec = defined.spec.clone();
        spec.resize(Some(vcpus), None);
        spec.validate().map_err(VirtError::spec(name))?;
        let mut effect = if live.is_none() { Effect::Now } else { Effect::NextBoot };
        if live.is_some() && self.can(Capabilities::HOT_VCPUS) {
            match domain.set_vcpus_flags(vcpus, sys::VIR_DOMAIN_VCPU_LIVE) {
                Ok(_) => effect = Effect::Now,
                // The guest has not let one go.
                Err(error) if error.code() == ErrorNumber::OperationTimeout => {}
                Err(error) => return Err(self.connection.failed(name, "resize", &error)),
            }
        }
        self.redefine(&defined, &spec)?;
        Ok(effect)
    }

    pub(super) fn resize_memory(&mut self, name: &str, memory: Memory) -> Result<Effect, VirtError> {
        let Subject { domain, defined, live } = self.subject(name)?;
        if let Some(live) = &live
            && memory > live.most_memory()
        {
            let limit =
                format!("it runs with at most {}: shut it off, and raise max-memory", live.most_memory());
            return Err(VirtError::Resize { name: name.into(), wanted: memory.to_string(), limit });
        }
        let mut spec = defined.spec.clone();
        spec.resize(None, Some(memory));
        spec.validate().map_err(VirtError::spec(name))?;
        let hot = match &live {
            None => false,
            // Make-believe needs no balloon.
            Some(live) => self.can(Capabilities::HOT_MEMORY) && (live.balloon || self.driver == Driver::Test),
        };
        if hot {
            let set = domain.set_memory_flags(memory.kib(), sys::VIR_DOMAIN_MEM_LIVE);
            set.map_err(|error| self.connection.failed(name, "resize", &error))?;
        }
        self.redefine(&defined, &spec)?;
        Ok(if hot || live.is_none() { Effect::Now } else { Effect::NextBoot })
    }

    pub(super) fn set_pins(&mut self, name: &str, pins: &Pins) -> Result<Effect, VirtError> {
        let Subject { domain, defined, live } = self.subject(name)?;
        let spec = DomainSpec { pins: pins.clone(), ..defined.spec.clone() };
        spec.validate().map_err(VirtError::spec(name))?;
        let effect = match &live {
            None => Effect::Now,
            // It pins no machine that runs.
            Some(_) if self.driver == Driver::Test => Effect::NextBoot,
            Some(live) => self.pin_live(name, &domain, live, pins)?,
        };
        self.redefine(&defined, &spec)?;
        Ok(effect)
    }

    fn pin_live(
        &self,
        name: &str,
        domain: &Domain,
        live: &DomainSpec,
        pins: &Pins,
    ) -> Result<Effect, VirtError> {
        let failed = |error: Error| self.connection.failed(name, "pin", &error);
        let node = self.connection.get().get_node_info().map_err(failed)?;
        // All that there could be, those that are switched off too.
        let all = CpuSet::first_n((node.nodes * node.sockets * node.cores * node.threads).max(node.cpus));
        let changed = |vcpu: &u32| pins.vcpus.get(vcpu) != live.pins.vcpus.get(vcpu);
        let changed: Vec<u32> = (0..live.vcpus).filter(changed).collect();
        let pin = |vcpu: u32, pins: &Pins| {
            let map = bytes(pins.vcpus.get(&vcpu).unwrap_or(&all));
            domain.pin_vcpu_flags(vcpu, &map, sys::VIR_DOMAIN_AFFECT_LIVE)
        };
        // Those that were pinned before one could not be go back.
        let undo = |vcpus: &[u32]| vcpus.iter().for_each(|vcpu| drop(pin(*vcpu, &live.pins)));
        for (done, vcpu) in changed.iter().enumerate() {
            match pin(*vcpu, pins) {
                Ok(_) => {}
                // One thread does the work of all of them (QEMU translates, and does not say which).
                Err(error) if error.code() == ErrorNumber::OperationInvalid => return Ok(Effect::NextBoot),
                Err(error) => {
                    undo(&changed[..done]);
                    return Err(failed(error));
                }
            }
        }
        if pins.emulator != live.pins.emulator {
            let map = bytes(if pins.emulator.is_empty() { &all } else { &pins.emulator });
            if let Err(error) = domain.pin_emulator(&map, sys::VIR_DOMAIN_AFFECT_LIVE) {
                undo(&changed);
                return Err(failed(error));
            }
        }
        Ok(Effect::Now)
    }
}

/// A set of CPUs as libvirt takes it: CPU 0 is the lowest bit of the first byte.
fn bytes(cpus: &CpuSet) -> Vec<u8> {
    let most = cpus.last().unwrap_or(0) as usize;
    let mut map = vec![0; most / 8 + 1];
    cpus.iter().for_each(|cpu| map[cpu as usize / 8] |= 1 << (cpu % 8));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_bits() {
        for (cpus, map) in [("0", &[1][..]), ("0-1", &[3]), ("7,8", &[128, 1]), ("23", &[0, 0, 128])] {
            assert_eq!(bytes(&cpus.parse().unwrap()), map, "{cpus}");
        }
    }
}
