//! The model against what was measured.

use super::*;

fn opteron() -> Topology {
    Topology::from_lscpu(include_str!("../../../tests/fixtures/opteron-16.lscpu")).unwrap()
}

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

/// The layouts that were measured, with requests per second.
fn measured() -> Vec<(&'static str, Layout, f64)> {
    let all = cpus("0-15");
    vec![
        ("008c", Layout::pinned([0, 1, 4, 5]).interrupt_on(6).network(cpus("2-3,7")), 23_093.0),
        ("00b0", Layout::pinned(8..12).interrupt_on(6).network(cpus("4-5,7")), 18_446.0),
        ("3 workers", Layout::pinned([4, 5, 7]).interrupt_on(6), 13_467.0),
        ("RFS", Layout::pinned(8..12).interrupt_on(6).flow_steering(), 12_480.0),
        ("1 worker", Layout::pinned([5]).interrupt_on(6), 10_056.0),
        ("4 workers", Layout::pinned([4, 5, 7, 8]).interrupt_on(6), 10_000.0),
        ("unpinned", Layout::unpinned(1, &all).interrupt_on(6), 8_659.0),
    ]
}

#[test]
fn every_pair_that_was_measured_is_in_order() {
    let topology = opteron();
    let predicted: Vec<(&str, f64, f64)> = measured()
        .into_iter()
        .map(|(name, layout, measured)| {
            (name, predict(&topology, &Costs::default(), &layout).unwrap().throughput, measured)
        })
        .collect();
    for (name, throughput, measured) in &predicted {
        let ratio = throughput * 10_000.0 / measured;
        assert!((0.95..1.05).contains(&ratio), "{name}: {throughput} for {measured}");
    }
    for (one, first, faster) in &predicted {
        for (other, second, slower) in &predicted {
            if faster / slower > 1.01 {
                assert!(*first > second * 1.02, "{one} {first} > {other} {second}");
            } else if slower <= faster {
                assert!((first - second).abs() <= 0.01 * second, "{one} {first} ≈ {other} {second}");
            }
        }
    }
    let ranked =
        rank(&topology, &Costs::default(), measured().into_iter().rev().map(|(_, layout, _)| layout));
    let order: Vec<Layout> = ranked.unwrap().into_iter().map(|(layout, _)| layout).collect();
    let names = measured().into_iter().map(|(_, layout, _)| order.iter().position(|one| *one == layout));
    let places: Vec<usize> = names.map(Option::unwrap).collect();
    assert_eq!((places[0], places[1], places[2], places[3], places[6]), (0, 1, 2, 3, 6));
}

#[test]
fn other_layouts_have_a_place_too() {
    let topology = opteron();
    let worth = |layout: Layout| predict(&topology, &Costs::default(), &layout).unwrap();
    let one_cpu = worth(Layout::pinned([3, 4, 5, 7]).interrupt_on(6).network(cpus("2")));
    assert_eq!(one_cpu.bottleneck, 2, "it does all protocol work");
    let each_node = worth(Layout::pinned([3, 7, 11, 15]).interrupt_on(6).network(cpus("2,10,14")));
    let best = worth(measured().remove(0).1);
    assert!(one_cpu.throughput < each_node.throughput && each_node.throughput < best.throughput);
}

#[test]
fn each_cost_is_felt() {
    // Two nodes of two caches of two cores of two CPUs.
    let mut table = "# CPU,Core,Socket,Node,L1d:L3\n".to_owned();
    for cpu in 0..16 {
        let core = cpu / 2;
        table += &format!("{cpu},{core},0,{},{core}:{}\n", cpu / 8, cpu / 4);
    }
    let topology = Topology::from_lscpu(&table).unwrap();
    let worth = |layout: Layout| predict(&topology, &Costs::default(), &layout).unwrap().throughput;
    let beside = |workers: &[u32]| Layout::pinned(workers.iter().copied()).interrupt_on(0);
    let all = cpus("0-15");
    for (what, better, worse) in [
        ("the interrupt's own CPU", beside(&[2]), beside(&[0])),
        ("its sibling", beside(&[2]), beside(&[1])),
        ("its sibling is better than itself", beside(&[1]), beside(&[0])),
        ("another cache", beside(&[2, 3]), beside(&[4, 6])),
        ("another node", beside(&[4, 6]), beside(&[8, 10])),
        ("siblings of each other", Layout::pinned([2, 4]), Layout::pinned([2, 3])),
        ("workers that move", beside(&[2]), Layout::unpinned(1, &all).interrupt_on(0)),
        (
            "moving within a cache costs less",
            Layout::unpinned(1, &cpus("2-3,1")).interrupt_on(0),
            Layout::unpinned(1, &all).interrupt_on(0),
        ),
        (
            "a second queue",
            Layout::pinned([2, 6]).interrupt_on(0).interrupt_on(4),
            Layout::pinned([2, 6]).interrupt_on(0),
        ),
    ] {
        assert!(worth(better.clone()) > worth(worse.clone()), "{what}: {better:?} {worse:?}");
    }
}

#[test]
fn slow_cores_do_less() {
    let place = |id: u32| crate::topology::CpuPlace {
        id,
        core: id.into(),
        capacity: Some(if id < 2 { 1024 } else { 512 }),
        ..Default::default()
    };
    let parts = crate::topology::Parts { cpus: (0..4).map(place).collect(), ..Default::default() };
    let topology = Topology::assemble(parts);
    let worth = |cpu| predict(&topology, &Costs::default(), &Layout::pinned([cpu])).unwrap().throughput;
    assert!((worth(0) - 1.0).abs() < 1e-9 && (worth(3) - 0.5).abs() < 1e-9);
    let both = predict(&topology, &Costs::default(), &Layout::pinned([0, 3])).unwrap();
    assert!((both.throughput - 1.5).abs() < 1e-9, "{both:?}");
}

#[test]
fn impossible_layouts_are_named() {
    let topology = opteron();
    let error = |layout: Layout| predict(&topology, &Costs::default(), &layout).unwrap_err().to_string();
    assert_eq!(error(Layout::default()), "the layout has no worker; give it at least one");
    assert_eq!(
        error(Layout::pinned([1, 16])),
        "worker 1 is on CPUs {16}, none of which is online; name some of the CPUs 0-15"
    );
    assert_eq!(
        error(Layout::pinned([1]).interrupt_on(99)),
        "the interrupt of queue 0 is on CPU 99, which is not online; name one of the CPUs 0-15"
    );
}
