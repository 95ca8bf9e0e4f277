//! What a plan costs: `cargo bench -p lb-benches --bench plan`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lb_affinity::Topology;
use lb_affinity::plan::cost::Costs;
use lb_affinity::plan::vcpu::VcpuPlanner;
use lb_affinity::plan::{Planner, Queue, Receive, Strategy};

/// So many CPUs, four in each node, two in each core, and a last-level cache for each node.
fn machine(cpus: u32) -> Topology {
    let mut table = "# CPU,Core,Socket,Node,L3\n".to_owned();
    for cpu in 0..cpus {
        table += &format!("{cpu},{},{},{},{}\n", cpu / 2, cpu / 4, cpu / 4, cpu / 4);
    }
    Topology::from_lscpu(&table).expect("the table has a header and numbers")
}

fn plans(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    for cpus in [16, 256, 1024] {
        let topology = machine(cpus);
        let queues = (0..8).map(|queue| Queue { irq: Some(100 + queue), ..Queue::default() }).collect();
        let receive = Receive { queues, transmit_queues: 8, node: Some(0), ..Receive::default() };
        let planner = Planner::new(&topology).receive(receive).workers(cpus / 2);
        for strategy in [Strategy::Balanced, Strategy::SameNode, Strategy::Rfs, Strategy::GroupByCcx] {
            let planner = planner.clone().strategy(strategy);
            group.bench_function(BenchmarkId::new(strategy.name(), cpus), |b| {
                b.iter(|| black_box(&planner).plan())
            });
        }
        group.bench_function(BenchmarkId::new("all strategies, ranked", cpus), |b| {
            b.iter(|| black_box(&planner).ranked(&Costs::default()))
        });
        let vcpus = VcpuPlanner::new(&topology);
        group.bench_function(BenchmarkId::new("16 virtual machines", cpus), |b| {
            b.iter(|| black_box(&vcpus).equal_shares(16))
        });
    }
    group.finish();
}

criterion_group!(benches, plans);
criterion_main!(benches);
