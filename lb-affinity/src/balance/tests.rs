use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::interrupts::{CpuRate, Interrupts};
use crate::topology::{CpuPlace, Node, Parts};

/// `nodes` nodes of `size` CPUs each, two CPUs a core. Of those set apart the even ones are isolated, the odd ones `nohz_full`.
fn topology(nodes: u32, size: u32, apart: &CpuSet) -> Topology {
    let place =
        |id| CpuPlace { id, core: i64::from(id / 2), package: i64::from(id / size), ..CpuPlace::default() };
    let node = |id| Node {
        id,
        cpus: (id * size..(id + 1) * size).collect(),
        memory: None,
        distances: (0..nodes).map(|other| 10 + 5 * id.abs_diff(other)).collect(),
    };
    Topology::assemble(Parts {
        cpus: (0..nodes * size).map(place).collect(),
        nodes: (0..nodes).map(node).collect(),
        isolated: apart.iter().filter(|cpu| cpu % 2 == 0).collect(),
        nohz_full: apart.iter().filter(|cpu| cpu % 2 == 1).collect(),
        ..Parts::default()
    })
}

/// Interrupts with rates that stay, and where they are.
#[derive(Clone, Debug)]
struct Machine {
    cpus: u32,
    /// Rate, CPU, node.
    irqs: Vec<(f64, u32, Option<u32>)>,
}

impl Machine {
    fn rates(&self) -> Rates {
        self.rates_with(|_| 1.0)
    }

    fn rates_with(&self, mut factor: impl FnMut(usize) -> f64) -> Rates {
        let mut cpus: Vec<CpuRate> =
            (0..self.cpus).map(|cpu| CpuRate { cpu, ..CpuRate::default() }).collect();
        let mut interrupts = Vec::new();
        for (irq, &(rate, cpu, _)) in self.irqs.iter().enumerate() {
            let rate = rate * factor(irq);
            cpus[cpu as usize].devices += rate;
            interrupts.push(InterruptRate {
                label: irq.to_string(),
                irq: Some(irq as u32),
                per_cpu: false,
                on: vec![(cpu, rate)],
            });
        }
        Rates { cpus, interrupts, ..Rates::default() }
    }

    fn affinities(&self) -> BTreeMap<u32, Affinity> {
        let affinity = |&(_, cpu, node): &(f64, u32, Option<u32>)| Affinity {
            effective: Some(CpuSet::from(cpu)),
            node,
            ..Affinity::default()
        };
        (0..).zip(self.irqs.iter().map(affinity)).collect()
    }

    fn make(&mut self, moves: &[Move]) {
        for one in moves {
            let irq = &mut self.irqs[one.irq as usize];
            assert_eq!(irq.1, one.from);
            irq.1 = one.to;
        }
    }

    /// The sum of the squares of the loads: with the sum of the loads as it is, it is the smaller the smaller the deviation.
    fn squares(&self, cpus: &CpuSet) -> f64 {
        let load = |cpu| self.irqs.iter().filter(|irq| irq.1 == cpu).map(|irq| irq.0).sum::<f64>();
        cpus.iter().map(|cpu| load(cpu).powi(2)).sum()
    }

    fn places(&self) -> Vec<u32> {
        self.irqs.iter().map(|irq| irq.1).collect()
    }
}

#[test]
fn four_queues_on_one_cpu_come_to_four_cpus() {
    let topology = topology(2, 4, &CpuSet::new());
    let mut machine = Machine { cpus: 8, irqs: vec![(1000.0, 6, Some(1)); 4] };
    let mut balancer = Balancer::new(Config::default());
    let moves = balancer.round(&topology, &machine.rates(), &machine.affinities());
    machine.make(&moves);
    // The idler core first.
    assert_eq!(machine.places(), [4, 5, 7, 6]);
    assert_eq!(
        moves[0].to_string(),
        "interrupt 0 smp_affinity = 4: 1000 of the 4000 interrupts/s of CPU 6 go to CPU 4, which has 0"
    );
    assert!(balancer.round(&topology, &machine.rates(), &machine.affinities()).is_empty());
}

#[test]
fn what_would_only_change_places_stays() {
    let topology = topology(1, 2, &CpuSet::new());
    let quiet: &[&[(f64, u32)]] = &[
        &[(50_000.0, 0)],
        &[(1000.0, 0), (1000.0, 0), (1000.0, 1)],
        // Below the threshold, and below the floor.
        &[(10_000.0, 0), (900.0, 0), (100.0, 1)],
        &[(40.0, 0), (40.0, 0)],
    ];
    for irqs in quiet {
        let machine = Machine { cpus: 2, irqs: irqs.iter().map(|&(rate, cpu)| (rate, cpu, None)).collect() };
        let moves =
            Balancer::new(Config::default()).round(&topology, &machine.rates(), &machine.affinities());
        assert!(moves.is_empty(), "{moves:?}");
    }
}

#[test]
fn refusals_are_remembered() {
    let topology = topology(1, 4, &CpuSet::new());
    let machine = Machine { cpus: 4, irqs: vec![(2000.0, 0, None), (1000.0, 0, None)] };
    let mut balancer = Balancer::new(Config { moves: 1, ..Config::default() });
    let round = |balancer: &mut Balancer| {
        let moves = balancer.round(&topology, &machine.rates(), &machine.affinities());
        moves.first().map(|one| (one.irq, one.to))
    };
    // CPU 1 shares its core with 0, so it is only the third choice.
    assert_eq!(round(&mut balancer), Some((0, 2)));
    balancer.refused(0, Refusal::NoVector { cpu: 2 });
    assert_eq!(round(&mut balancer), Some((0, 3)));
    balancer.refused(0, Refusal::Managed);
    assert_eq!(round(&mut balancer), Some((1, 2)));
    // It was not moved after all, but has its quiet rounds.
    for _ in 0..3 {
        assert_eq!(round(&mut balancer), None);
    }
    assert_eq!(round(&mut balancer), Some((1, 2)));
    // Number 0 is gone; later another device has it.
    let gone = Machine { cpus: 4, irqs: vec![] };
    balancer.round(&topology, &gone.rates(), &gone.affinities());
    let moves = balancer.round(&topology, &machine.rates(), &machine.affinities());
    assert_eq!((moves[0].irq, moves[0].to), (0, 3));

    let refusal = |number| Refusal::from_error(&std::io::Error::from_raw_os_error(number), &moves[0]);
    let expected = [Some(Refusal::Managed), Some(Refusal::NoVector { cpu: 3 }), None];
    assert_eq!([5, 28, 22].map(refusal), expected);
}

#[test]
fn per_cpu_and_spread_interrupts_stay() {
    let topology = topology(1, 4, &CpuSet::new());
    let text = |scale: u64| {
        let line = |counts: [u64; 4], tail: &str| {
            let counts: String = counts.iter().map(|count| format!(" {}", count * scale)).collect();
            format!("{counts}  {tail}\n")
        };
        let text = " CPU0 CPU1 CPU2 CPU3\n".to_owned()
            + "11:"
            + &line([9000, 0, 0, 0], "GICv3  30 Level  arch_timer")
            + "12:"
            + &line([5000, 900, 900, 0], "GICv3  60 Level  everywhere")
            + "13:"
            + &line([5000, 900, 0, 0], "GICv3  61 Level  nowhere known")
            + "LOC:"
            + &line([90_000, 0, 0, 0], "Local timer interrupts");
        Interrupts::parse(text.as_bytes()).unwrap()
    };
    let rates = Rates::between(&text(1), &text(2), Duration::from_secs(1)).unwrap();
    let mut balancer = Balancer::new(Config::default());
    assert!(balancer.round(&topology, &rates, &BTreeMap::new()).is_empty());
    // The kernel says where number 13 is: it has just come there from CPU 1.
    let affinity = Affinity { effective: Some(CpuSet::from(0)), ..Affinity::default() };
    let moves = balancer.round(&topology, &rates, &BTreeMap::from([(11, affinity.clone()), (13, affinity)]));
    assert_eq!(moves.iter().map(|one| (one.irq, one.from, one.to)).collect::<Vec<_>>(), [(13, 0, 3)]);
}

#[test]
fn hints_and_bans() {
    let topology = topology(1, 4, &"3".parse().unwrap());
    let machine = Machine { cpus: 4, irqs: vec![(1000.0, 0, None), (1000.0, 0, None)] };
    let mut affinities = machine.affinities();
    affinities.values_mut().for_each(|affinity| affinity.hint = Some("1,3".parse().unwrap()));
    let to = |config| {
        Balancer::new(config).round(&topology, &machine.rates(), &affinities).first().map(|one| one.to)
    };
    assert_eq!(to(Config::default()), Some(2));
    assert_eq!(to(Config { hints: Hints::Subset, ..Config::default() }), Some(1));
    let banned = Config { banned_cpus: "1-2".parse().unwrap(), ..Config::default() };
    assert_eq!(to(banned), None);
    assert_eq!(to(Config { banned_irqs: [0, 1].into(), ..Config::default() }), None);
}

#[test]
fn evacuation() {
    let topology = topology(2, 4, &"4-7".parse().unwrap());
    // On an isolated CPU; in the wrong node, whose right one has no CPU left; where it should be.
    let mut machine =
        Machine { cpus: 8, irqs: vec![(500.0, 5, None), (300.0, 1, Some(1)), (900.0, 2, Some(0))] };
    let mut balancer = Balancer::new(Config { evacuate: true, ..Config::default() });
    let moves = balancer.round(&topology, &machine.rates(), &machine.affinities());
    assert_eq!(moves.iter().map(|one| (one.irq, &one.reason)).collect::<Vec<_>>(), [(0, &Reason::Banned)]);
    machine.make(&moves);
    assert_eq!(machine.places(), [0, 1, 2]);

    let open = self::topology(2, 4, &CpuSet::new());
    let moves = Balancer::new(Config { evacuate: true, ..Config::default() }).round(
        &open,
        &machine.rates(),
        &machine.affinities(),
    );
    assert_eq!(moves[0].to_string(), "interrupt 1 smp_affinity = 4: CPU 1 is not in its device's node 1");
    assert_eq!(moves.len(), 1);
}

#[test]
fn a_large_machine_is_balanced_in_time() {
    let topology = topology(8, 64, &CpuSet::new());
    let irqs =
        (0..2048).map(|irq| (f64::from(500 + irq * 7 % 3000), irq % 64 * 8, Some(irq % 64 / 8))).collect();
    let machine = Machine { cpus: 512, irqs };
    let (rates, affinities) = (machine.rates(), machine.affinities());
    let before = std::time::Instant::now();
    let moves = Balancer::new(Config { moves: 8, threshold: 0.0, ..Config::default() }).round(
        &topology,
        &rates,
        &affinities,
    );
    assert_eq!(moves.len(), 8);
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

fn machines() -> impl Strategy<Value = (Machine, Config, CpuSet)> {
    let irq = (0.0..20_000.0_f64, 0_u32..16, proptest::option::of(0_u32..4));
    let irqs = proptest::collection::vec(irq, 0..40);
    let set =
        || proptest::collection::vec(0_u32..16, 0..6).prop_map(|cpus| cpus.into_iter().collect::<CpuSet>());
    let config = (0.0..0.5_f64, 0_u32..4, 1_usize..10, set());
    (irqs, config, set()).prop_map(|(irqs, (threshold, quiet_rounds, moves, banned_cpus), isolated)| {
        let config = Config { threshold, quiet_rounds, moves, banned_cpus, ..Config::default() };
        (Machine { cpus: 16, irqs }, config, isolated)
    })
}

proptest! {
    /// With constant rates: no move makes the deviation larger, no state comes twice, bans and nodes hold, no interrupt moves
    /// in its quiet rounds, and it comes to an end.
    #[test]
    fn it_settles((mut machine, config, isolated) in machines()) {
        let topology = topology(4, 4, &isolated);
        let mut balancer = Balancer::new(config.clone());
        let banned = &isolated | &config.banned_cpus;
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        let mut seen = BTreeSet::from([machine.places()]);
        let mut still = 0;
        for round in 0..400 {
            let moves = balancer.round(&topology, &machine.rates(), &machine.affinities());
            prop_assert!(moves.len() <= config.moves);
            for one in &moves {
                prop_assert!(!banned.contains(one.to), "{one}");
                prop_assert_eq!(&one.setting, &Setting::IrqAffinity { irq: one.irq, cpus: CpuSet::from(one.to) });
                let own = machine.irqs[one.irq as usize].2.and_then(|node| topology.node(node)).map(|node| &node.cpus - &banned);
                if let Some(own) = own.filter(|own| !own.is_empty()) {
                    prop_assert!(own.contains(one.to), "{one}");
                }
                let again = last.insert(one.irq, round).is_none_or(|before| round - before > config.quiet_rounds);
                prop_assert!(again, "{one}");
                let cpus = [one.from, one.to].into_iter().collect();
                let everything = CpuSet::first_n(16);
                let before = (machine.squares(&cpus), machine.squares(&everything));
                machine.make(std::slice::from_ref(one));
                prop_assert!(machine.squares(&cpus) < before.0, "{one}");
                prop_assert!(machine.squares(&everything) < before.1, "{one}");
                prop_assert!(seen.insert(machine.places()), "{one}");
            }
            still = if moves.is_empty() { still + 1 } else { 0 };
            if still > config.quiet_rounds {
                break;
            }
        }
        prop_assert!(still > config.quiet_rounds, "it still moves after 400 rounds");
    }

    /// Whatever the samples and the machine say of each other.
    #[test]
    fn nothing_panics(
        (machine, config, isolated) in machines(),
        online in 1_u32..20,
        evacuate: bool,
        node in proptest::option::of(0_u32..9),
        hints: bool,
    ) {
        let topology = topology(1, online, &isolated);
        let hints = if hints { Hints::Subset } else { Hints::Ignore };
        let mut balancer = Balancer::new(Config { evacuate, hints, threshold: f64::NAN, ..config });
        let mut affinities = machine.affinities();
        for affinity in affinities.values_mut() {
            affinity.node = node;
            affinity.hint = Some("3,77".parse().unwrap());
        }
        let moves = balancer.round(&topology, &machine.rates(), &affinities);
        prop_assert!(moves.iter().all(|one| one.to < online && one.to != one.from));
        let mut rates = machine.rates();
        rates.cpus.retain(|cpu| cpu.cpu % 3 == 0);
        let moves = balancer.round(&topology, &rates, &BTreeMap::new());
        prop_assert!(moves.iter().all(|one| one.to % 3 == 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Rates that change by up to 2 % from round to round do not keep interrupts moving.
    #[test]
    fn noise_moves_nothing_for_long((mut machine, _, _) in machines(), mut seed: u64) {
        let topology = topology(4, 4, &CpuSet::new());
        let mut balancer = Balancer::new(Config::default());
        let mut noise = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            0.98 + 0.04 * ((seed >> 33) as f64 / f64::from(1_u32 << 31))
        };
        let mut late = 0;
        for round in 0..120 {
            let moves = balancer.round(&topology, &machine.rates_with(&mut noise), &machine.affinities());
            machine.make(&moves);
            if round >= 60 {
                late += moves.len();
            }
        }
        prop_assert!(late <= 2, "{late} moves in the last 60 rounds");
    }
}
