//! What every backend does to definitions alike.

use fastrand::Rng;

use super::{DomainSpec, Mac, Memory, Nic};

impl DomainSpec {
    /// As large as is asked for; a machine that is shut off may grow beyond what it could have, when it runs.
    pub(crate) fn resize(&mut self, vcpus: Option<u32>, memory: Option<Memory>) {
        if let Some(vcpus) = vcpus {
            let most = self.most_vcpus().max(vcpus);
            self.max_vcpus = (self.max_vcpus.is_some() || vcpus < most).then_some(most);
            self.vcpus = vcpus;
            if most != self.cpu_topology.map_or(most, |shape| shape.sockets * shape.cores * shape.threads) {
                self.cpu_topology = None;
            }
            self.pins.vcpus.retain(|&vcpu, _| vcpu < most);
        }
        if let Some(memory) = memory {
            let most = self.most_memory().max(memory);
            self.max_memory = (self.max_memory.is_some() || memory < most).then_some(most);
            self.memory = memory;
        }
    }

    /// Gives it a network interface, at a free place if the one of its number is taken.
    pub(crate) fn push_nic(&mut self, mut nic: Nic) {
        let number = self.nics.len();
        let taken = |place: usize| {
            self.nics.iter().enumerate().any(|(number, other)| other.place_as(number) == place)
        };
        if nic.place.is_none() && taken(number) {
            nic.place = (0..=u8::MAX).find(|place| !taken(usize::from(*place)));
        }
        self.nics.push(nic);
    }

    /// With what a hypervisor chooses: names of disks, an identity, addresses that begin with its `vendor`.
    pub(crate) fn completed(&self, vendor: [u8; 3], random: &mut Rng) -> Self {
        let mut spec = self.clone().with_targets();
        if spec.uuid.is_none() {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            spec.uuid = Some(uuid::Builder::from_random_bytes(bytes).into_uuid());
        }
        for at in 0..spec.nics.len() {
            while spec.nics[at].mac.is_none() {
                let mac = Mac::random(vendor, random);
                if spec.nics.iter().all(|nic| nic.mac != Some(mac)) {
                    spec.nics[at].mac = Some(mac);
                }
            }
        }
        spec
    }
}

impl Mac {
    /// Any address of a vendor's.
    pub(crate) fn random([a, b, c]: [u8; 3], random: &mut Rng) -> Self {
        let mut mac = [a, b, c, 0, 0, 0];
        random.fill(&mut mac[3..]);
        Self(mac)
    }
}
