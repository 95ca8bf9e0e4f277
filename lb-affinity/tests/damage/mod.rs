//! What may befall a file, and what is asked of the outcome.

use lb_affinity::Topology;
use lb_affinity::topology::TopologyError;

/// What can be in a file instead. `None`: it is gone.
pub(crate) fn ways() -> Vec<Option<Vec<u8>>> {
    let texts: [&[u8]; 17] = [
        b"",
        b"\n",
        b"(null)\n",
        b"0",
        b"-1",
        b"1\n",
        b"0-65535",
        b"65535",
        b"65536",
        b"3-1",
        b"ffffffff,ffffffff,ffffffff",
        b"0,,1",
        b"99999999999999999999",
        b"\0\0\0\0",
        b"\xff\xfe\x00",
        "n\u{f6}, \u{1f980}: \u{2028}".as_bytes(),
        b"0::/..\n : \\ - cgroup2",
    ];
    let huge = [vec![b'f'; 1 << 16], b"1,".repeat(1 << 16), b"0::/..\n : \\ - cgroup2".repeat(1 << 10)];
    let contents = texts.into_iter().map(Vec::from).chain(huge);
    std::iter::once(None).chain(contents.map(Some)).collect()
}

/// A way in few words.
pub(crate) fn shown(way: Option<&[u8]>) -> String {
    way.map_or("gone".into(), |content| {
        let start = content.get(..40).unwrap_or(content);
        format!("{:?} of {} bytes", String::from_utf8_lossy(start), content.len())
    })
}

/// Whether it is one machine, or an error that names its cure.
pub(crate) fn check(outcome: &Result<Topology, TopologyError>) -> Result<(), String> {
    let sound = |sound: bool, what: &str| if sound { Ok(()) } else { Err(what.to_owned()) };
    let topology = match outcome {
        Ok(topology) => topology,
        Err(error) => {
            let message = error.to_string();
            sound(message.len() < 1000, "the message is short")?;
            return sound(message.contains("; "), &format!("the message has a cure: {message}"));
        }
    };
    let online = topology.online();
    sound(!online.is_empty(), "there is a CPU")?;
    sound(topology.allowed().is_subset(online), "what is allowed is online")?;
    sound(online.is_subset(topology.possible()), "what is online is possible")?;
    let cores = topology.cores().iter().map(|core| core.cpus.len()).sum::<usize>();
    sound(cores == topology.cpus().len(), "each CPU is in one core")?;
    for cpu in topology.cpus() {
        let core = &topology.cores()[cpu.core].cpus;
        let package = &topology.packages()[cpu.package].cpus;
        sound(core.contains(cpu.id), "a CPU is in its core")?;
        sound(topology.dies()[cpu.die].cpus.contains(cpu.id), "a CPU is in its die")?;
        sound(package.contains(cpu.id), "a CPU is in its package")?;
        sound(core.is_subset(package), "a core is in one package")?;
        sound(cpu.capacity.is_none_or(|capacity| capacity > 0), "a CPU can do something")?;
    }
    for (at, cache) in topology.caches().iter().enumerate() {
        sound(!cache.cpus.is_empty() && cache.cpus.is_subset(online), "a cache's CPUs are online")?;
        for other in &topology.caches()[..at] {
            let same = (cache.level, cache.kind) == (other.level, other.kind);
            sound(!same || cache.cpus.is_disjoint(&other.cpus), "a CPU has one cache of a kind")?;
        }
    }
    let (whole, left) = (topology.counts(), topology.counts_allowed());
    sound(left.packages <= whole.packages && left.cores <= whole.cores, "no more is left than there is")?;
    sound(left.cpus <= whole.cpus && left.nodes <= whole.nodes, "no more is left than there is")
}
