//! What a simulated machine's life costs: `cargo bench -p lb-benches --bench machines`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lb_virt::domain::{Disk, Nic};
use lb_virt::libvirt::{DomainType, from_xml, to_xml};
use lb_virt::{DomainSpec, Hypervisor, Memory, Sim};

fn spec(name: &str) -> DomainSpec {
    DomainSpec::new(name, 4, Memory::from_mib(1024))
        .disk(Disk::file("/srv/web.qcow2"))
        .nic(Nic::bridge("br0"))
}

/// Start, pause, resume, shut down, and the time that takes: five operations.
fn life(host: &mut Sim, name: &str) {
    host.start(name).expect("it is shut off");
    host.pause(name).expect("it runs");
    host.resume(name).expect("it is paused");
    host.shut_down(name).expect("it runs");
    host.advance(Duration::from_secs(3));
}

fn lives(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulated host");
    for machines in [1, 1000] {
        let mut host = Sim::new("node1", 64, Memory::from_mib(1 << 30));
        let names: Vec<String> = (0..machines).map(|number| format!("web{number}")).collect();
        for name in &names {
            host.define(&spec(name)).expect("names differ");
        }
        let mut turn = names.iter().cycle();
        group.throughput(Throughput::Elements(5));
        group.bench_function(BenchmarkId::new("a machine's life", machines), |b| {
            b.iter(|| turn.next().into_iter().for_each(|name| life(black_box(&mut host), name)));
        });
    }
    group.finish();

    let mut group = c.benchmark_group("libvirt's XML");
    let spec = spec("web1");
    let xml = to_xml(&spec, DomainType::Kvm).expect("the definition is right");
    group.bench_function("write", |b| b.iter(|| to_xml(black_box(&spec), DomainType::Kvm)));
    group.bench_function("read", |b| b.iter(|| from_xml(black_box(&xml))));
    group.finish();
}

criterion_group!(benches, lives);
criterion_main!(benches);
