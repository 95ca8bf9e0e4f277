//! How long a plan takes on large machines.

use std::time::{Duration, Instant};

use lb_affinity::Topology;
use lb_affinity::plan::vcpu::VcpuPlanner;
use lb_affinity::plan::{Planner, Queue, Receive, Strategy};

/// 1024 CPUs: so many nodes, caches in all, and threads of a core.
fn machine(nodes: u32, caches: u32, threads: u32) -> Topology {
    let mut table = "# CPU,Core,Socket,Node,L3\n".to_owned();
    for cpu in 0..1024 {
        table += &format!("{cpu},{},0,{},{}\n", cpu / threads, cpu * nodes / 1024, cpu * caches / 1024);
    }
    Topology::from_lscpu(&table).expect("the table has a header and numbers")
}

/// The best of several runs: what the machine does beside it does not count.
fn fastest(run: impl Fn()) -> Duration {
    let once = || {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..50).map(|_| once()).min().expect("it ran")
}

#[test]
#[ignore = "needs a release build: cargo test --release -p lb-affinity --test plan_speed -- --ignored"]
fn plans_for_1024_cpus_take_less_than_a_millisecond() {
    if cfg!(debug_assertions) {
        panic!("without optimization it measures nothing; use --release");
    }
    let limit = Duration::from_millis(1);
    for (nodes, caches, threads) in [(64, 64, 1), (8, 64, 2), (1, 1, 1), (512, 512, 1)] {
        let topology = machine(nodes, caches, threads);
        for count in [1, 128] {
            let queues = (0..count).map(|queue| Queue { irq: Some(100 + queue), cpu: None }).collect();
            let receive = Receive { queues, transmit_queues: count, node: Some(0), ..Receive::default() };
            for strategy in Strategy::ALL {
                for workers in [4, 512, 1024] {
                    let planner = Planner::new(&topology).receive(receive.clone()).strategy(strategy);
                    let planner = planner.workers(workers);
                    let time = fastest(|| drop(planner.plan().expect("it can be planned")));
                    println!("{nodes} nodes, {count} queues, {strategy}, {workers} workers: {time:?}");
                    assert!(time < limit, "{nodes} nodes, {count} queues, {strategy}, {workers}: {time:?}");
                }
            }
        }
        let time = fastest(|| drop(VcpuPlanner::new(&topology).equal_shares(64).expect("64 fit")));
        println!("{nodes} nodes, 64 virtual machines: {time:?}");
        assert!(time < limit, "{nodes} nodes, 64 virtual machines: {time:?}");
    }
}
