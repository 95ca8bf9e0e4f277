//! Moves interrupts from busy CPUs to idle ones, a little at a time.
//!
//! [`Balancer::round`] decides from two samples of `/proc/interrupts` and touches nothing: the caller writes the [`Move`]s' settings, tells the
//! balancer what the kernel refused, and comes again some seconds later.
//!
//! * A CPU's load is how often a second devices interrupt it. Timers and other CPUs' interrupts do not count.
//! * An interrupt moves only if the loads of the CPUs that it may go to, and of the one that it is on, are closer together
//!   afterwards (their deviation is smaller), and if the busier of the two is relieved by a good part ([`Config::threshold`]). With
//!   constant rates every move lowers the sum of the loads' squares, so moving comes to an end and nothing goes to and fro.
//! * It stays in the NUMA node of its device, and off isolated and `nohz_full` CPUs.
//! * A CPU's own interrupts, and those that their driver spreads itself, stay.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//! use lb_affinity::balance::{Balancer, Config};
//! use lb_affinity::interrupts::{Affinity, Interrupts, Rates};
//! use lb_affinity::Topology;
//!
//! let topology = Topology::from_lscpu("# CPU,Core,Socket,Node\n0,0,0,0\n1,1,0,0\n")?;
//! let before = Interrupts::parse(b"CPU0 CPU1\n 5: 0 0 PCI-MSI 1-edge eth0-0\n 6: 0 0 PCI-MSI 2-edge eth0-1\n")?;
//! let after = Interrupts::parse(b"CPU0 CPU1\n 5: 9000 0 PCI-MSI 1-edge eth0-0\n 6: 8000 0 PCI-MSI 2-edge eth0-1\n")?;
//! let rates = Rates::between(&before, &after, Duration::from_secs(1))?;
//!
//! let mut balancer = Balancer::new(Config::default());
//! let moves = balancer.round(&topology, &rates, &BTreeMap::new());
//! assert_eq!(moves[0].setting.to_string(), "interrupt 5 smp_affinity = 1");
//! assert_eq!(moves.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;

use crate::interrupts::{Affinity, InterruptRate, Rates};
use crate::{CpuSet, Setting, Topology};

/// How interrupts are balanced.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", default, deny_unknown_fields)
)]
pub struct Config {
    /// A move must relieve the busier of the two CPUs by this part of its load, from 0 to 1.
    pub threshold: f64,
    /// A CPU with fewer interrupts a second than this is not relieved.
    pub floor: f64,
    /// For so many rounds after its move an interrupt stays, whatever happens.
    pub quiet_rounds: u32,
    /// The most moves a round.
    pub moves: usize,
    /// CPUs that get no interrupt, beside the isolated and `nohz_full` ones.
    pub banned_cpus: CpuSet,
    /// Interrupts that stay where they are.
    pub banned_irqs: BTreeSet<u32>,
    /// What a driver's wish (`affinity_hint`) counts.
    pub hints: Hints,
    /// Also moves interrupts off CPUs where they may not be: banned ones, those of another node. This can make the deviation larger.
    pub evacuate: bool,
}

impl Default for Config {
    /// 10 %, 100 interrupts a second, 3 rounds, 8 moves; nothing banned, wishes ignored, no evacuation.
    fn default() -> Self {
        Self {
            threshold: 0.1,
            floor: 100.0,
            quiet_rounds: 3,
            moves: 8,
            banned_cpus: CpuSet::new(),
            banned_irqs: BTreeSet::new(),
            hints: Hints::Ignore,
            evacuate: false,
        }
    }
}

/// What drivers' wishes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Hints {
    /// Nothing.
    #[default]
    Ignore,
    /// An interrupt goes only where its driver wishes, as far as that is allowed.
    Subset,
}

/// An interrupt that should go elsewhere.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Move {
    /// What to write: [`Setting::IrqAffinity`].
    pub setting: Setting,
    /// The interrupt.
    pub irq: u32,
    /// Where it is.
    pub from: u32,
    /// Where it should go.
    pub to: u32,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, from, to, reason, .. } = self;
        match reason {
            Reason::Load { rate, from_load, to_load } => write!(
                f,
                "{setting}: {rate:.0} of the {from_load:.0} interrupts/s of CPU {from} go to CPU {to}, which has {to_load:.0}"
            ),
            Reason::Banned => write!(f, "{setting}: CPU {from} is banned, isolated or nohz_full"),
            Reason::OtherNode { node } => {
                write!(f, "{setting}: CPU {from} is not in its device's node {node}")
            }
        }
    }
}

/// Why an interrupt should go elsewhere.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")
)]
#[non_exhaustive]
pub enum Reason {
    /// The loads become more alike.
    Load {
        /// Its interrupts a second.
        rate: f64,
        /// Those of the CPU that it leaves, its own included.
        from_load: f64,
        /// Those of the CPU that it goes to, before.
        to_load: f64,
    },
    /// It is on a CPU that shall have none.
    Banned,
    /// It is on a CPU of another node than its device's.
    OtherNode {
        /// The device's.
        node: u32,
    },
}

/// What the kernel answered to a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Refusal {
    /// `EIO`: the driver or the kernel manages it. It is left alone from then on.
    Managed,
    /// `ENOSPC`: the CPU has no vector left. The interrupt does not go there for [`NO_VECTOR_ROUNDS`].
    NoVector {
        /// The CPU.
        cpu: u32,
    },
}

impl Refusal {
    /// What the kernel's answer to writing a move means; `None` if it is neither, and trying again may help.
    #[must_use]
    pub fn from_error(error: &io::Error, tried: &Move) -> Option<Self> {
        // The same numbers on every architecture that Linux runs on.
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        match error.raw_os_error()? {
            EIO => Some(Self::Managed),
            ENOSPC => Some(Self::NoVector { cpu: tried.to }),
            _ => None,
        }
    }
}

/// For so many rounds an interrupt does not go to a CPU that had no vector for it.
pub const NO_VECTOR_ROUNDS: u64 = 30;

/// Decides which interrupts move. It remembers what it moved and what the kernel refused.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    config: Config,
    round: u64,
    /// The round in which an interrupt may move again.
    quiet: BTreeMap<u32, u64>,
    managed: BTreeSet<u32>,
    /// Interrupt and CPU, and the round in which it may be tried again.
    no_vector: BTreeMap<(u32, u32), u64>,
}

/// An interrupt that may move.
struct Candidate {
    irq: u32,
    rate: f64,
    home: u32,
    /// Where it may go.
    cpus: CpuSet,
    node: Option<u32>,
}

impl Balancer {
    /// A balancer that has not moved anything yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// How it balances.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What the kernel refused. The interrupt is where it was.
    pub fn refused(&mut self, irq: u32, refusal: Refusal) {
        self.quiet.remove(&irq);
        match refusal {
            Refusal::Managed => {
                self.managed.insert(irq);
            }
            Refusal::NoVector { cpu } => {
                self.no_vector.insert((irq, cpu), self.round + NO_VECTOR_ROUNDS);
            }
        }
    }

    /// The moves of this round, the most useful first, and each as if those before it had been made.
    ///
    /// `affinities` are those of the interrupts after the later sample, as far as they are known: they give an interrupt's node and wish, and where it
    /// is if it has been moved between the samples.
    pub fn round(
        &mut self,
        topology: &Topology,
        rates: &Rates,
        affinities: &BTreeMap<u32, Affinity>,
    ) -> Vec<Move> {
        self.round += 1;
        let round = self.round;
        self.quiet.retain(|_, until| *until > round);
        self.no_vector.retain(|_, until| *until > round);
        // Numbers that are no more may come again for another device.
        let there: BTreeSet<u32> = rates.interrupts.iter().filter_map(|one| one.irq).collect();
        self.managed.retain(|irq| there.contains(irq));

        // A CPU that came between the samples has no load yet: next time.
        let known: CpuSet = rates.cpus.iter().map(|cpu| cpu.cpu).collect();
        let mut usable = &known & topology.online();
        for banned in [topology.isolated(), topology.nohz_full(), &self.config.banned_cpus] {
            usable -= banned;
        }
        let mut loads: BTreeMap<u32, f64> = rates.cpus.iter().map(|cpu| (cpu.cpu, cpu.devices)).collect();
        let mut candidates = Vec::new();
        for interrupt in &rates.interrupts {
            let affinity = interrupt.irq.and_then(|irq| affinities.get(&irq));
            let Some(home) = home(interrupt, affinity).filter(|home| loads.contains_key(home)) else {
                continue;
            };
            // Wherever it came before, it is there now.
            for (cpu, rate) in &interrupt.on {
                loads.entry(*cpu).and_modify(|load| *load -= rate);
                loads.entry(home).and_modify(|load| *load += rate);
            }
            candidates.extend(self.candidate(topology, &usable, interrupt, affinity, home));
        }

        let mut moves = Vec::new();
        if self.config.evacuate {
            self.evacuate(topology, &usable, &mut candidates, &mut loads, &mut moves);
        }
        while moves.len() < self.config.moves {
            // Many interrupts may go to the same CPUs.
            let mut idle = HashMap::new();
            let best = candidates.iter().enumerate().filter_map(|(at, candidate)| {
                let (to, gain) = self.best(topology, candidate, &loads, &mut idle)?;
                Some((at, to, gain))
            });
            // Of equals the first, so that equal samples give equal moves.
            let Some((at, to, _)) = best.reduce(|best, other| if other.2 > best.2 { other } else { best })
            else {
                break;
            };
            let candidate = candidates.swap_remove(at);
            let reason =
                Reason::Load { rate: candidate.rate, from_load: loads[&candidate.home], to_load: loads[&to] };
            moves.push(self.make(&candidate, to, reason, &mut loads));
            candidates.sort_by_key(|candidate| candidate.irq);
        }
        moves
    }

    fn candidate(
        &self,
        topology: &Topology,
        usable: &CpuSet,
        interrupt: &InterruptRate,
        affinity: Option<&Affinity>,
        home: u32,
    ) -> Option<Candidate> {
        let irq = interrupt.irq?;
        let stays = self.config.banned_irqs.contains(&irq)
            || self.managed.contains(&irq)
            || self.quiet.contains_key(&irq);
        if stays {
            return None;
        }
        let node = affinity.and_then(|affinity| affinity.node);
        let mut cpus = node.map_or_else(|| usable.clone(), |node| near(topology, node, usable));
        if let (Hints::Subset, Some(hint)) =
            (self.config.hints, affinity.and_then(|affinity| affinity.hint.as_ref()))
        {
            let wished = &cpus & hint;
            if !wished.is_empty() {
                cpus = wished;
            }
        }
        for &(_, cpu) in self.no_vector.keys().filter(|(other, _)| *other == irq) {
            cpus.remove(cpu);
        }
        Some(Candidate { irq, rate: interrupt.total(), home, cpus, node })
    }

    /// The CPU that an interrupt should go to, and by how much the sum of the loads' squares gets smaller, halved; `None` if it should stay.
    /// `idle` has the idlest CPU of each set that has been asked for.
    fn best<'a>(
        &self,
        topology: &Topology,
        candidate: &'a Candidate,
        loads: &BTreeMap<u32, f64>,
        idle: &mut HashMap<&'a CpuSet, Option<u32>>,
    ) -> Option<(u32, f64)> {
        let from = loads[&candidate.home];
        // Rounding must not make a gain.
        let wanted = (self.config.threshold * from).max(from * 1e-9);
        if from < self.config.floor || candidate.rate <= 0.0 || candidate.rate < wanted {
            return None;
        }
        let idlest = idle.entry(&candidate.cpus).or_insert_with(|| idlest(topology, &candidate.cpus, loads));
        let to = (*idlest)?;
        if to == candidate.home {
            return None;
        }
        let gap = from - loads[&to] - candidate.rate;
        // The busier of the two afterwards is this much below the busier before.
        let relief = candidate.rate.min(gap);
        (relief >= wanted).then_some((to, candidate.rate * gap))
    }

    fn evacuate(
        &mut self,
        topology: &Topology,
        usable: &CpuSet,
        candidates: &mut Vec<Candidate>,
        loads: &mut BTreeMap<u32, f64>,
        moves: &mut Vec<Move>,
    ) {
        let (mut outside, inside): (Vec<_>, Vec<_>) =
            candidates.drain(..).partition(|candidate| !candidate.cpus.contains(candidate.home));
        *candidates = inside;
        // The heaviest first: they find the most room.
        outside.sort_by(|one, other| other.rate.total_cmp(&one.rate).then(one.irq.cmp(&other.irq)));
        for candidate in outside {
            let reason = match candidate.node {
                _ if !usable.contains(candidate.home) => Reason::Banned,
                Some(node) if topology.node_of(candidate.home) != Some(node) => Reason::OtherNode { node },
                // It is only not where its driver wishes, or there is no vector: nothing presses.
                _ => {
                    candidates.push(candidate);
                    continue;
                }
            };
            let to = idlest(topology, &candidate.cpus, loads);
            if let Some(to) = to.filter(|_| moves.len() < self.config.moves) {
                moves.push(self.make(&candidate, to, reason, loads));
            }
        }
        candidates.sort_by_key(|candidate| candidate.irq);
    }

    fn make(
        &mut self,
        candidate: &Candidate,
        to: u32,
        reason: Reason,
        loads: &mut BTreeMap<u32, f64>,
    ) -> Move {
        let Candidate { irq, rate, home, .. } = *candidate;
        loads.entry(home).and_modify(|load| *load -= rate);
        loads.entry(to).and_modify(|load| *load += rate);
        self.quiet.insert(irq, self.round + 1 + u64::from(self.config.quiet_rounds));
        Move { setting: Setting::IrqAffinity { irq, cpus: CpuSet::from(to) }, irq, from: home, to, reason }
    }
}

/// The CPU that an interrupt is on. `None` if it can't be told, or every CPU has one of its own.
fn home(interrupt: &InterruptRate, affinity: Option<&Affinity>) -> Option<u32> {
    /// A part of the whole that is more than chance.
    const SOME: f64 = 0.05;
    interrupt.irq?;
    let total = interrupt.total();
    let mut places = interrupt.on.iter().filter(|(_, rate)| *rate > SOME * total);
    let (first, second, third) = (places.next(), places.next(), places.next());
    // One that moved between the samples was on two.
    if interrupt.per_cpu || third.is_some() {
        return None;
    }
    match (affinity.and_then(Affinity::cpu), first, second) {
        (Some(cpu), ..) => Some(cpu),
        (None, Some((cpu, _)), None) => Some(*cpu),
        _ => None,
    }
}

/// The CPUs of a node that may be used; if there is none, those of the nearest nodes that have some.
fn near(topology: &Topology, node: u32, usable: &CpuSet) -> CpuSet {
    let mut nodes: Vec<_> =
        topology.nodes().iter().map(|other| (topology.distance(node, other.id), other)).collect();
    // Its own comes first, whatever the distances say.
    nodes.sort_by_key(|(distance, other)| (other.id != node, *distance));
    let groups = nodes.chunk_by(|(one, first), (other, _)| one == other && first.id != node);
    let mut sets = groups
        .map(|group| group.iter().fold(CpuSet::new(), |cpus, (_, other)| &cpus | &(&other.cpus & usable)));
    // A node that the topology does not know says nothing.
    sets.find(|cpus| !cpus.is_empty()).unwrap_or_else(|| usable.clone())
}

/// The CPU with the least load; of equals, the one whose core has the least, then the lowest.
fn idlest(topology: &Topology, cpus: &CpuSet, loads: &BTreeMap<u32, f64>) -> Option<u32> {
    let core = |cpu| -> f64 {
        let siblings = topology.siblings(cpu).into_iter().flatten();
        siblings.filter_map(|sibling| loads.get(&sibling)).sum()
    };
    let order = |one: &u32, other: &u32| -> Ordering {
        loads[one].total_cmp(&loads[other]).then_with(|| core(*one).total_cmp(&core(*other)))
    };
    cpus.iter().filter(|cpu| loads.contains_key(cpu)).min_by(order)
}

#[cfg(test)]
mod tests;
