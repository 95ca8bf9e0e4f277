//! What speaks against starting a machine on a host, or against moving it there while it runs; before it is tried.
//!
//! ```
//! use lb_virt::checks::{Concern, Limits, before_start};
//! use lb_virt::{DomainSpec, Hypervisor, Memory, Sim};
//!
//! let mut host = Sim::new("node1", 8, Memory::from_mib(16_384));
//! let others = [DomainSpec::new("web1", 4, Memory::from_mib(8192))];
//! let concerns = before_start(
//!     &DomainSpec::new("web2", 4, Memory::from_mib(4096)),
//!     &host.host()?,
//!     &others,
//!     &Limits::default(),
//! );
//! // Guests may have 80 % of the host.
//! assert_eq!(concerns, [Concern::Cpus { wanted: 4, taken: 4, most: 6 }]);
//! # Ok::<(), lb_virt::VirtError>(())
//! ```

use std::collections::BTreeMap;

use lb_affinity::Topology;

use crate::domain::{CpuModel, DomainSpec, Memory, Pins};
use crate::hypervisor::Host;

/// How much of a host machines may have.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, rename_all = "kebab-case", deny_unknown_fields)
)]
pub struct Limits {
    /// Virtual CPUs for a CPU of the host. Default: 0.8; above 1 is over-commitment.
    pub cpus: f64,
    /// The share of the host's memory. Default: 0.8; above 1 is over-commitment.
    pub memory: f64,
}

impl Default for Limits {
    /// A fifth of the host is left to itself: to the hypervisor's own threads, the network and the disks.
    fn default() -> Self {
        Self { cpus: 0.8, memory: 0.8 }
    }
}

/// Something that speaks against it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Concern {
    /// There would be more virtual CPUs than are allowed.
    #[error(
        "{wanted} virtual CPUs beside the {taken} of other machines are more than {most}: use another host, or raise the limit"
    )]
    Cpus {
        /// The machine's.
        wanted: u32,
        /// The others'.
        taken: u64,
        /// All that there may be.
        most: u64,
    },
    /// There would be more memory in use than is allowed.
    #[error(
        "{wanted} of memory beside the {taken} of other machines are more than {most}: use another host, or raise the limit"
    )]
    Memory {
        /// The machine's.
        wanted: Memory,
        /// The others'.
        taken: Memory,
        /// All that there may be.
        most: Memory,
    },
    /// More memory than is free now, whoever has the rest.
    #[error("{wanted} of memory are wanted and {free} are free")]
    FreeMemory {
        /// The machine's.
        wanted: Memory,
        /// What is free.
        free: Memory,
    },
    /// Every instruction would be translated.
    #[error(
        "the host runs machines without hardware virtualization: many times slower; load its kvm module, or use another"
    )]
    NotAccelerated,
    /// Two machines that work their disks hard.
    #[error("{other} works its disks hard too: put them on different hosts")]
    IoHeavy {
        /// The other one.
        other: String,
    },
    /// A disk that another host does not have.
    #[error(
        "disk {target} ({path}) is not shared: only machines whose disks both hosts reach can be moved while they run"
    )]
    NotShared {
        /// The disk.
        target: String,
        /// Where its data is.
        path: String,
    },
    /// What is kept of it would be lost: snapshots stay behind.
    #[error("its snapshots ({}) would be lost: delete them first, or move it without", .names.join(", "))]
    Snapshots {
        /// Theirs.
        names: Vec<String>,
    },
    /// A processor that the other host may not have.
    #[error(
        "it sees the host's own processor: it can be moved while it runs only to a host with an equal one; name a model"
    )]
    HostProcessor,
    /// Two virtual CPUs on one core, be it on SMT siblings or on one CPU.
    #[error("virtual CPUs {one} and {other} are pinned to one core: together they do little more than one")]
    Siblings {
        /// The number of one.
        one: u32,
        /// The number of the other.
        other: u32,
    },
    /// A CPU that the host does not have, or has switched off.
    #[error("virtual CPU {vcpu} is pinned to CPUs {cpus}, none of which is online")]
    Offline {
        /// Its number.
        vcpu: u32,
        /// Where it is pinned.
        cpus: String,
    },
}

/// What speaks against starting a machine beside the `others` that run on a host.
#[must_use]
pub fn before_start(spec: &DomainSpec, host: &Host, others: &[DomainSpec], limits: &Limits) -> Vec<Concern> {
    let mut concerns = Vec::new();
    let taken: u64 = others.iter().map(|other| u64::from(other.vcpus)).sum();
    // A bound below zero or beyond all numbers is none or all: `as` saturates.
    let most = (f64::from(host.cpus) * limits.cpus) as u64;
    if taken + u64::from(spec.vcpus) > most {
        concerns.push(Concern::Cpus { wanted: spec.vcpus, taken, most });
    }
    let taken = others.iter().fold(Memory::default(), |sum, other| sum.saturating_add(other.memory));
    let most = Memory::from_kib((host.memory.kib() as f64 * limits.memory) as u64);
    if taken.saturating_add(spec.memory) > most {
        concerns.push(Concern::Memory { wanted: spec.memory, taken, most });
    } else if let Some(free) = host.free_memory
        && spec.memory > free
    {
        concerns.push(Concern::FreeMemory { wanted: spec.memory, free });
    }
    if !host.accelerated {
        concerns.push(Concern::NotAccelerated);
    }
    if spec.io_heavy {
        let heavy = others.iter().filter(|other| other.io_heavy);
        concerns.extend(heavy.map(|other| Concern::IoHeavy { other: other.name.clone() }));
    }
    concerns
}

/// What speaks against moving a machine to another host while it runs.
#[must_use]
pub fn before_live_migration(spec: &DomainSpec) -> Vec<Concern> {
    let mut concerns = Vec::new();
    for disk in &spec.disks {
        // A disc that is only read is needed over there as well.
        if let (Some(source), false) = (&disk.source, disk.shared) {
            concerns.push(Concern::NotShared { target: disk.target.clone(), path: source.to_string() });
        }
    }
    if spec.cpu_model == CpuModel::Host {
        concerns.push(Concern::HostProcessor);
    }
    concerns
}

/// What speaks against pins on a machine with this topology.
#[must_use]
pub fn pins(pins: &Pins, topology: &Topology) -> Vec<Concern> {
    let mut concerns = Vec::new();
    let mut cores: BTreeMap<usize, u32> = BTreeMap::new();
    for (&vcpu, cpus) in &pins.vcpus {
        if cpus.is_disjoint(topology.online()) {
            concerns.push(Concern::Offline { vcpu, cpus: cpus.to_string() });
            continue;
        }
        // One that may run on several cores finds a free one.
        let mut used = cpus.iter().filter_map(|cpu| topology.cpu(cpu)).map(|cpu| cpu.core);
        let Some(core) = used.next() else { continue };
        if used.all(|other| other == core)
            && let Some(one) = cores.insert(core, vcpu)
        {
            concerns.push(Concern::Siblings { one, other: vcpu });
        }
    }
    concerns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Disk;
    use crate::{Hypervisor, Sim};

    fn machine(name: &str, vcpus: u32, mib: u64) -> DomainSpec {
        DomainSpec::new(name, vcpus, Memory::from_mib(mib))
    }

    #[test]
    fn a_host_is_not_promised_twice() {
        let mut host = Sim::new("node1", 10, Memory::from_mib(1000)).host().unwrap();
        let others = [machine("a", 3, 300), DomainSpec { io_heavy: true, ..machine("b", 2, 300) }];
        let of = |spec: &DomainSpec, host: &Host, limits: Limits| {
            let concerns = before_start(spec, host, &others, &limits);
            concerns.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let guarded = Limits::default();
        let generous = Limits { cpus: 2.0, memory: 1.0 };
        assert_eq!(of(&machine("c", 3, 200), &host, guarded), "");
        assert!(of(&machine("c", 4, 200), &host, guarded).starts_with("4 virtual CPUs beside the 5"));
        assert_eq!(of(&machine("c", 4, 200), &host, generous), "");
        assert!(
            of(&machine("c", 1, 201), &host, guarded).starts_with("201 MiB of memory beside the 600 MiB")
        );
        assert!(
            of(&DomainSpec { io_heavy: true, ..machine("c", 1, 1) }, &host, guarded).starts_with("b works")
        );
        host.free_memory = Some(Memory::from_mib(100));
        assert_eq!(
            of(&machine("c", 1, 150), &host, guarded),
            "150 MiB of memory are wanted and 100 MiB are free"
        );
        host.accelerated = false;
        assert!(of(&machine("c", 1, 50), &host, guarded).contains("without hardware virtualization"));
        let absurd = Limits { cpus: f64::NAN, memory: -1.0 };
        assert_eq!(before_start(&machine("c", 1, 50), &host, &[], &absurd).len(), 3, "none is allowed then");
    }

    #[test]
    fn what_another_host_does_not_have_is_named() {
        let mut spec =
            machine("a", 1, 64).disk(Disk::file("/a.qcow2")).disk(Disk::block("/dev/shared").shared());
        assert_eq!(
            before_live_migration(&spec),
            [Concern::NotShared { target: "vda".into(), path: "/a.qcow2".into() }]
        );
        spec.disks[0].shared = true;
        assert_eq!(before_live_migration(&spec), []);
        spec.cpu_model = CpuModel::Host;
        assert_eq!(before_live_migration(&spec), [Concern::HostProcessor]);
    }

    #[test]
    fn siblings_are_known() {
        let table = "# CPU,Core,Socket,Node\n0,0,0,0\n1,1,0,0\n2,0,0,0\n3,1,0,0\n";
        let topology = Topology::from_lscpu(table).unwrap();
        let on = |cpus: &[&str]| Pins {
            vcpus: (0..).zip(cpus).map(|(vcpu, cpus)| (vcpu, cpus.parse().unwrap())).collect(),
            ..Pins::default()
        };
        for (cpus, concerns) in [
            (&["0", "1"][..], vec![]),
            (&["0", "2"], vec![Concern::Siblings { one: 0, other: 1 }]),
            (&["1", "1"], vec![Concern::Siblings { one: 0, other: 1 }]),
            (&["0-1", "2"], vec![]),
            (&["0,2", "0"], vec![Concern::Siblings { one: 0, other: 1 }]),
            (&["9", "0"], vec![Concern::Offline { vcpu: 0, cpus: "9".into() }]),
        ] {
            assert_eq!(pins(&on(cpus), &topology), concerns, "{cpus:?}");
        }
    }
}
