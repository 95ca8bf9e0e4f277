//! Whatever the kernel, or somebody in its name, has written: sets come back as they were, and nothing panics.
#![no_main]

use std::time::Duration;

use lb_affinity::interrupts::{Interrupts, Rates, Softirqs};
use lb_affinity::plan::{Planner, Receive};
use lb_affinity::{CpuSet, NodeSet, Topology};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(set) = text.parse::<CpuSet>() {
        assert_eq!(set.to_string().parse(), Ok(set));
    }
    if let Ok(set) = NodeSet::parse_mask(text) {
        let ids = set.last().map_or(1, |last| last + 1);
        assert_eq!(NodeSet::parse_mask(&set.mask(ids).to_string()), Ok(set));
    }
    if let Ok(topology) = Topology::from_lscpu(text)
        && topology.cpus().len() <= 256
    {
        let first = topology.online().first().expect("an empty machine is refused");
        let planner = Planner::new(&topology).receive(Receive::interrupt_on(first)).workers(4);
        let plan = planner.plan().expect("a machine with a CPU can be planned for");
        assert_eq!(plan.workers.len(), 4);
        assert!(plan.workers.iter().all(|worker| worker.cpus.is_subset(topology.online())));
        if let Some(steering) = plan.steering(&topology) {
            assert!(steering.cpus().all(|cpu| topology.online().contains(cpu)));
        }
    }
    // Two samples: the first half and the whole.
    let half = (0..=text.len() / 2).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let samples = [&text[..half], text].map(|text| Interrupts::parse(text.as_bytes()));
    if let [Ok(before), Ok(after)] = &samples {
        let rates = Rates::between(before, after, Duration::from_secs(1)).expect("a second passed");
        assert!(rates.cpus.iter().all(|cpu| cpu.all >= cpu.devices && cpu.devices >= 0.0));
    }
    let _ = Softirqs::parse(text.as_bytes());
});
