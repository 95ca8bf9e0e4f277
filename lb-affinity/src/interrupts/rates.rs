//! Two samples, and what happened between them.

use std::time::Duration;

use super::{Interrupts, InterruptsError};
use crate::CpuSet;

/// How often a second interrupts came, between two samples of `/proc/interrupts`.
///
/// What is in one sample only has no rate: a CPU that came or went, an interrupt that was set up or given to another device.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct Rates {
    /// The CPUs that are in both samples, by number.
    pub cpus: Vec<CpuRate>,
    /// The interrupts that are in both, in the order of the later sample; `ERR` and `MIS`, which belong to no CPU, are left out.
    pub interrupts: Vec<InterruptRate>,
    /// CPUs that are in the later sample only.
    pub came: CpuSet,
    /// CPUs that are in the earlier sample only.
    pub gone: CpuSet,
}

/// How often a second a CPU was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct CpuRate {
    /// The CPU.
    pub cpu: u32,
    /// By devices: the lines with numbers, without those that every CPU has of its own.
    pub devices: f64,
    /// By anything: timers and other CPUs too.
    pub all: f64,
}

/// How often a second an interrupt came.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub struct InterruptRate {
    /// What stands before the colon.
    pub label: String,
    /// Its number, if it has one.
    pub irq: Option<u32>,
    /// Whether every CPU has one of its own ([`Interrupt::is_per_cpu`](super::Interrupt::is_per_cpu)).
    pub per_cpu: bool,
    /// The CPUs that took it, and how often; those with none are left out.
    pub on: Vec<(u32, f64)>,
}

impl InterruptRate {
    /// On all CPUs together.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.on.iter().map(|(_, rate)| rate).sum()
    }
}

impl Rates {
    /// The rates between two samples that are `elapsed` apart.
    ///
    /// The kernel's counters have 32 bits, some 64, and wrap. One that looks as if it had gone more than half way round has begun anew.
    ///
    /// # Errors
    /// If no time passed.
    pub fn between(
        before: &Interrupts,
        after: &Interrupts,
        elapsed: Duration,
    ) -> Result<Self, InterruptsError> {
        let scale = per_second(elapsed)?;
        // Each later column with its earlier one.
        let columns: Vec<Option<usize>> =
            after.cpus.iter().map(|cpu| before.cpus.binary_search(cpu).ok()).collect();
        let mut cpus: Vec<CpuRate> =
            after.cpus.iter().map(|&cpu| CpuRate { cpu, ..CpuRate::default() }).collect();

        let mut interrupts = Vec::with_capacity(after.lines.len());
        let mut earlier = before.iter().peekable();
        for (line, new) in after.iter().filter(|(line, _)| !line.is_global()) {
            // Lines rarely come or go: mostly it is the next one.
            let next = earlier.next_if(|(other, _)| other.label == line.label);
            let old = next.or_else(|| match line.irq {
                Some(irq) => before.get(irq),
                None => before.iter().find(|(other, _)| other.label == line.label),
            });
            let same_device = |other: &super::Interrupt| {
                other.chip == line.chip && other.hwirq == line.hwirq && other.actions == line.actions
            };
            let Some((_, old)) = old.filter(|(other, _)| same_device(other)) else {
                continue;
            };
            let mut on = Vec::new();
            for ((column, &new), cpu) in columns.iter().zip(new).zip(&mut cpus) {
                let Some(&old) = column.and_then(|column| old.get(column)) else { continue };
                let count = counted(old, new);
                if count == 0 {
                    continue;
                }
                let rate = count as f64 * scale;
                cpu.all += rate;
                if !line.is_per_cpu() {
                    cpu.devices += rate;
                }
                on.push((cpu.cpu, rate));
            }
            interrupts.push(InterruptRate {
                label: line.label.clone(),
                irq: line.irq,
                per_cpu: line.is_per_cpu(),
                on,
            });
        }

        let set = |cpus: &[u32]| cpus.iter().copied().collect::<CpuSet>();
        let (old, new) = (set(&before.cpus), set(&after.cpus));
        cpus.retain(|cpu| old.contains(cpu.cpu));
        Ok(Self { cpus, interrupts, came: &new - &old, gone: &old - &new })
    }
}

pub(super) fn per_second(elapsed: Duration) -> Result<f64, InterruptsError> {
    if elapsed.is_zero() { Err(InterruptsError::NoTime) } else { Ok(elapsed.as_secs_f64().recip()) }
}

/// How far a counter went. If it had to go more than half way round, it has begun anew instead.
pub(super) const fn counted(old: u64, new: u64) -> u64 {
    const HALF: u32 = u32::MAX / 2;
    if new >= old {
        return new - old;
    }
    let (way, half) = if old <= u32::MAX as u64 {
        ((new as u32).wrapping_sub(old as u32) as u64, HALF as u64)
    } else {
        (new.wrapping_sub(old), u64::MAX / 2)
    };
    if way > half { new } else { way }
}
