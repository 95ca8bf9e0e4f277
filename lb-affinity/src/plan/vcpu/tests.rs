use proptest::prelude::*;

use super::*;
use crate::topology::Parts;

fn opteron() -> Topology {
    Topology::from_lscpu(include_str!("../../../tests/fixtures/opteron-16.lscpu")).unwrap()
}

/// Nodes of cores of threads; siblings are neighbours.
fn regular(nodes: u32, cores: u32, threads: u32) -> Topology {
    let mut table = "# CPU,Core,Socket,Node\n".to_owned();
    for cpu in 0..nodes * cores * threads {
        let core = cpu / threads;
        table += &format!("{cpu},{core},0,{}\n", core / cores);
    }
    Topology::from_lscpu(&table).unwrap()
}

fn shown(plan: &VcpuPlan) -> String {
    let machines = plan.machines.iter().map(|machine| {
        let cpus: CpuSet = machine.cpus.iter().copied().collect();
        assert!(machine.cpus.is_sorted());
        cpus.to_string()
    });
    machines.collect::<Vec<_>>().join(" ")
}

#[test]
fn equal_shares_are_neighbours() {
    let topology = opteron();
    for machines in [1, 2, 4, 8, 16] {
        let plan = VcpuPlanner::new(&topology).equal_shares(machines).unwrap();
        let share = 16 / machines;
        for (number, machine) in (0..).zip(&plan.machines) {
            let expected: Vec<u32> = (0..share).map(|vcpu| share * number + vcpu).collect();
            assert_eq!(machine.cpus, expected, "machine {number} of {machines}");
            assert_eq!(machine.nodes.len() as u32, share.div_ceil(4), "machine {number} of {machines}");
            assert!(machine.emulator.is_empty(), "all CPUs are taken");
        }
    }
    assert_eq!(shown(&VcpuPlanner::new(&topology).equal_shares(3).unwrap()), "0-4 5-9 10-14");
    assert_eq!(shown(&VcpuPlanner::new(&topology).equal_shares(5).unwrap()), "0-2 4-6 8-10 12-14 3,7,11");
}

#[test]
fn machines_stay_whole_if_they_can() {
    let topology = opteron();
    let siblings = regular(2, 4, 2);
    for (topology, sizes, at) in [
        (&topology, vec![3, 3, 1, 1], "0-2 4-6 3 7"),
        (&topology, vec![2, 8, 2], "0-1 4-11 2-3"),
        (&topology, vec![1, 3, 3, 4, 4, 1], "0 1-3 4-6 8-11 12-15 7"),
        // As they come, the last would not find a node.
        (&topology, vec![1, 1, 1, 2, 4, 4, 3], "11 14 15 12-13 0-3 4-7 8-10"),
        (&topology, vec![16], "0-15"),
        (&topology, vec![5, 5, 5], "0-4 5-9 10-14"),
        // Cores first, then core by core.
        (&siblings, vec![4, 4], "0,2,4,6 8,10,12,14"),
        (&siblings, vec![8], "0,2,4,6,8,10,12,14"),
        (&siblings, vec![8, 8], "0-7 8-15"),
        (&siblings, vec![2, 3, 4], "0-1 2-4 8-11"),
    ] {
        let sizes: Vec<u32> = sizes;
        assert_eq!(shown(&VcpuPlanner::new(topology).machines(&sizes).unwrap()), at, "{sizes:?}");
    }
}

#[test]
fn only_a_search_finds_some_divisions() {
    // 3 + 2 + 2 twice fill two nodes of seven; the large ones first leave a core in each, and a machine of two.
    let topology = regular(2, 7, 1);
    let sizes: [u32; 6] = [3, 3, 2, 2, 2, 2];
    let plan = VcpuPlanner::new(&topology).machines(&sizes).unwrap();
    assert!(plan.machines.iter().all(|machine| machine.nodes.len() == 1), "{plan:?}");
    let sites = Sites::new(&topology);
    let order: Vec<usize> = (0..sizes.len()).collect();
    let first_fit =
        try_order(&sites, rooms(&sites, topology.online()), &sizes.map(|size| size as usize), &order, 7);
    assert_eq!(first_fit, None, "it takes a search");
}

#[test]
fn what_is_left_is_the_emulators() {
    let plan = VcpuPlanner::new(&opteron()).machines(&[3, 2, 5]).unwrap();
    let emulators: Vec<String> = plan.machines.iter().map(|machine| machine.emulator.to_string()).collect();
    assert_eq!(shown(&plan), "0-2 4-5 6-10");
    assert_eq!(emulators, ["3", "", "11"]);
    // No core is free, but siblings are.
    let plan = VcpuPlanner::new(&regular(1, 2, 2)).machines(&[2]).unwrap();
    assert_eq!((shown(&plan), plan.machines[0].emulator.to_string()), ("0,2".into(), "1,3".into()));
}

#[test]
fn libvirt_reads_the_pins() {
    let plan = VcpuPlanner::new(&opteron()).machines(&[2]).unwrap();
    assert_eq!(
        plan.machines[0].cputune(),
        "<cputune>\n  <vcpupin vcpu='0' cpuset='0'/>\n  <vcpupin vcpu='1' cpuset='1'/>\n  \
         <emulatorpin cpuset='2-3'/>\n</cputune>\n"
    );
    assert_eq!(plan.machines[0].why, "All its virtual CPUs and its memory are in node 0.");
}

#[test]
fn more_than_there_is_needs_leave() {
    let topology = opteron();
    let planner = VcpuPlanner::new(&topology);
    let error = |machines: &[u32]| planner.machines(machines).unwrap_err().to_string();
    assert_eq!(error(&[]), "no virtual machine is named; give at least one number of virtual CPUs");
    assert_eq!(error(&[1, 0]), "virtual machine 1 has 0 virtual CPUs; give it at least 1");
    assert_eq!(
        error(&[8, 9]),
        "17 virtual CPUs do not fit on 16 CPUs; ask for fewer, let more CPUs be used, or allow over-commitment"
    );
    assert!(error(&[u32::MAX; 3]).starts_with("12884901885 virtual CPUs are more than 1048576"));
    assert_eq!(planner.equal_shares(0), Err(VcpuError::NoMachines));
    let generous = planner.clone().over_commit(true);
    assert_eq!(generous.machines(&[8, 9]).unwrap().machines[1].cpus, [8, 9, 10, 11, 12, 13, 14, 15, 0]);
    assert_eq!(generous.equal_shares(17).unwrap().machines[16].cpus, [0]);

    let apart = |isolated: &str| {
        let parts = Parts { isolated: isolated.parse().unwrap(), ..parts_of_four() };
        Topology::assemble(parts)
    };
    let (some, all) = (apart("0-1"), apart("0-3"));
    assert_eq!(shown(&VcpuPlanner::new(&some).machines(&[2]).unwrap()), "2-3");
    assert_eq!(shown(&VcpuPlanner::new(&some).use_isolated(true).machines(&[2]).unwrap()), "0-1");
    assert!(matches!(VcpuPlanner::new(&all).machines(&[1]), Err(VcpuError::NoCpu { .. })));
}

fn parts_of_four() -> Parts {
    let place = |id: u32| crate::topology::CpuPlace { id, core: id.into(), ..Default::default() };
    Parts { cpus: (0..4).map(place).collect(), ..Parts::default() }
}

proptest! {
    #[test]
    fn machines_have_their_own_cpus(
        (nodes, cores, threads) in (1..5_u32, 1..7_u32, 1..3_u32),
        sizes in proptest::collection::vec(1..9_u32, 1..8),
    ) {
        let topology = regular(nodes, cores, threads);
        let all = (nodes * cores * threads) as usize;
        let wanted: u32 = sizes.iter().sum();
        let plan = match VcpuPlanner::new(&topology).machines(&sizes) {
            Ok(plan) => plan,
            Err(error) => {
                prop_assert!(wanted as usize > all, "{}", error);
                return Ok(());
            }
        };
        let mut seen = CpuSet::new();
        for (machine, size) in plan.machines.iter().zip(&sizes) {
            prop_assert_eq!(machine.cpus.len(), *size as usize);
            prop_assert!(machine.cpus.iter().all(|&cpu| seen.insert(cpu)));
        }
        prop_assert!(seen.is_subset(topology.online()));
        prop_assert!(plan.machines.iter().all(|machine| machine.emulator.is_disjoint(&seen)));
        if wanted <= nodes * cores {
            let busy: std::collections::HashSet<_> = seen.iter().map(|cpu| topology.cpu(cpu).unwrap().core).collect();
            prop_assert_eq!(busy.len(), seen.len(), "no sibling while there are cores");
        }
    }
}
