//! Which CPU takes which interrupt, and how often.
//!
//! [`Interrupts`] is a sample of `/proc/interrupts`, [`Softirqs`] one of `/proc/softirqs`, [`Affinity`] what `/proc/irq/IRQ` says of
//! one interrupt (Documentation/core-api/irq/irq-affinity.rst). Two samples make [`Rates`].
//!
//! ```
//! use std::time::Duration;
//! use lb_affinity::interrupts::{Interrupts, Rates};
//!
//! let before = Interrupts::parse(b"     CPU0  CPU2\n 38:    10   500  PCI-MSIX-0000:00:03.0  1-edge  virtio2-input.0\n")?;
//! let after = Interrupts::parse(b"     CPU0  CPU2\n 38:    10  2500  PCI-MSIX-0000:00:03.0  1-edge  virtio2-input.0\n")?;
//! let rates = Rates::between(&before, &after, Duration::from_secs(2))?;
//! assert_eq!(rates.interrupts[0].on, [(2, 1000.0)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::cpu_set::{MAX_ID, ParseSetError};
use crate::fs::FileSystem;

mod affinity;
mod rates;
mod softirqs;

pub use affinity::Affinity;
pub use rates::{CpuRate, InterruptRate, Rates};
pub use softirqs::Softirqs;

/// Where the kernel keeps its counters of interrupts.
pub const PATH: &str = "/proc/interrupts";

/// Why interrupts could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterruptsError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The first line names no CPUs.
    #[error(
        "line 1 is {text:?}, not the CPUs from low to high (`CPU0 CPU1 …`); use the whole of /proc/interrupts or \
         /proc/softirqs"
    )]
    Header {
        /// The line, shortened.
        text: String,
    },
    /// A line does not begin with a number or name and a colon.
    #[error("line {line} has no `NUMBER:` or `NAME:` before the counts: {text:?}")]
    Label {
        /// From 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A count has more than 64 bits.
    #[error("line {line}: a count is above {}: the file is damaged", u64::MAX)]
    Count {
        /// From 1.
        line: usize,
    },
    /// A set of CPUs can't be read.
    #[error("{}: {source}", path.display())]
    Cpus {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParseSetError,
    },
    /// Two samples were taken at the same time.
    #[error("there are 0 s between the samples: take the second one later")]
    NoTime,
}

/// One line of `/proc/interrupts`, without its counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interrupt {
    /// What stands before the colon: a number, or a name such as `NMI`, `LOC`, `IPI0`.
    pub label: String,
    /// The number, if the label is one. Others belong to the processors and can't be moved.
    pub irq: Option<u32>,
    /// The interrupt controller: `IO-APIC`, `PCI-MSIX-0000:00:03.0`, `GICv3`. Only of numbered lines.
    pub chip: Option<String>,
    /// The number that the controller has for it.
    pub hwirq: Option<u64>,
    /// How it is handled, as the kernel writes it: `edge`, `fasteoi`, `Level`.
    pub trigger: Option<String>,
    /// The names of its handlers; a line shared by devices has several. None if nothing handles it now.
    pub actions: Vec<String>,
    /// The text of a line with a name: `Local timer interrupts`.
    pub description: String,
    counts: Range<usize>,
}

impl Interrupt {
    /// Whether every CPU has one of its own, so that it can't be moved: lines with names, those of an Arm GIC from 16 to 31 and from 1056 to
    /// 1119 (private peripheral interrupts, Arm IHI 0069 section 2.2.1), and those of a RISC-V hart's own controller.
    #[must_use]
    pub fn is_per_cpu(&self) -> bool {
        let chip = self.chip.as_deref().unwrap_or_default();
        let private = |hwirq| matches!(hwirq, 16..=31 | 1056..=1119);
        self.irq.is_none()
            || chip.starts_with("RISC-V INTC")
            || (chip.starts_with("GIC") && self.hwirq.is_some_and(private))
    }

    /// Whether it counts for the whole machine: errors that no CPU has taken.
    fn is_global(&self) -> bool {
        matches!(&*self.label, "ERR" | "Err" | "MIS")
    }

    fn new(label: Cow<'_, str>, tail: &str, counts: Range<usize>) -> Self {
        let irq = label.parse().ok();
        let mut interrupt = Self { label: label.into_owned(), irq, counts, ..Self::default() };
        if irq.is_some() {
            interrupt.read_tail(tail);
        } else {
            interrupt.description = tail.to_owned();
        }
        interrupt
    }

    /// `IO-APIC   2-edge      timer`, `GICv3  30 Level     arch_timer`, `RISC-V INTC   5 Edge  riscv-timer`, `xen-dyn    -event  eth0`,
    /// `XT-PIC      timer, eth0`.
    fn read_tail(&mut self, tail: &str) {
        // A chip's name may have spaces, one at a time; more of them, or a number, end it.
        let mut end = tail.find(' ').unwrap_or(tail.len());
        loop {
            let rest = &tail[end..];
            if self.read_hwirq(rest.trim_start()) {
                break;
            }
            let word = rest.strip_prefix(' ').filter(|word| !word.starts_with(' ') && !word.is_empty());
            let Some(word) = word else {
                self.read_actions(rest);
                break;
            };
            end += 1 + word.find(' ').unwrap_or(word.len());
        }
        self.chip = Some(tail[..end].to_owned()).filter(|chip| !chip.is_empty());
    }

    /// `2-edge  timer`, `30 Level  timer`, `-event  eth0`; says whether that was it.
    fn read_hwirq(&mut self, text: &str) -> bool {
        let digits = text.len() - text.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
        let (number, after) = text.split_at(digits);
        let (word, rest) = after.split_once(' ').unwrap_or((after, ""));
        let (trigger, actions) = match word.strip_prefix('-') {
            Some(trigger) if !trigger.is_empty() => (trigger, rest),
            None if word.is_empty() && digits > 0 => {
                let rest = rest.trim_start();
                let (word, actions) = rest.split_once(' ').unwrap_or((rest, ""));
                if matches!(word, "Level" | "Edge") { (word, actions) } else { ("", rest) }
            }
            _ => return false,
        };
        self.hwirq = number.parse().ok();
        self.trigger = Some(trigger.to_owned()).filter(|trigger| !trigger.is_empty());
        self.read_actions(actions);
        true
    }

    fn read_actions(&mut self, text: &str) {
        let names = text.split(", ").map(str::trim).filter(|name| !name.is_empty());
        self.actions = names.map(str::to_owned).collect();
    }
}

/// A sample of `/proc/interrupts`: how often each CPU that is online has taken each interrupt since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    cpus: Vec<u32>,
    lines: Vec<Interrupt>,
    counts: Vec<u64>,
    /// Number and place among the lines, by number.
    by_irq: Vec<(u32, usize)>,
}

impl Interrupts {
    /// Reads `/proc/interrupts`.
    ///
    /// # Errors
    /// If it can't be read, or is not what [`parse`](Self::parse) expects.
    pub fn read(fs: &(impl FileSystem + ?Sized)) -> Result<Self, InterruptsError> {
        Self::parse(&read(fs, Path::new(PATH))?)
    }

    /// Reads the content of `/proc/interrupts`.
    ///
    /// # Errors
    /// If the first line does not name CPUs, a line has no label, or a count is too large.
    pub fn parse(content: &[u8]) -> Result<Self, InterruptsError> {
        let mut lines = Vec::new();
        let (cpus, counts) = parse_table(content, |label, counts, tail| {
            lines.push(Interrupt::new(label, &tail, counts));
        })?;
        let numbered = lines.iter().enumerate();
        let mut by_irq: Vec<_> = numbered.filter_map(|(at, line)| Some((line.irq?, at))).collect();
        by_irq.sort_unstable();
        by_irq.dedup_by_key(|(irq, _)| *irq);
        Ok(Self { cpus, lines, counts, by_irq })
    }

    /// The CPUs that the counts are of: those that were online.
    #[must_use]
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// Every interrupt with its counts, in the file's order. The counts are in the order of [`cpus`](Self::cpus); `ERR` and `MIS` have
    /// one only, for the whole machine.
    pub fn iter(&self) -> impl Iterator<Item = (&Interrupt, &[u64])> {
        self.lines.iter().map(|line| (line, &self.counts[line.counts.clone()]))
    }

    /// An interrupt by its number, with its counts.
    #[must_use]
    pub fn get(&self, irq: u32) -> Option<(&Interrupt, &[u64])> {
        let at = self.by_irq.binary_search_by_key(&irq, |(irq, _)| *irq).ok()?;
        let line = &self.lines[self.by_irq[at].1];
        Some((line, &self.counts[line.counts.clone()]))
    }
}

fn read(fs: &(impl FileSystem + ?Sized), path: &Path) -> Result<Vec<u8>, InterruptsError> {
    fs.read(path).map_err(|source| InterruptsError::Read { path: path.to_owned(), source })
}

/// Reads a header of CPUs and lines of a label, up to as many counts, and a text. Gives `row` each line's label, the place of its counts
/// among all, and its text; returns the CPUs and all counts.
fn parse_table(
    content: &[u8],
    mut row: impl FnMut(Cow<'_, str>, Range<usize>, Cow<'_, str>),
) -> Result<(Vec<u32>, Vec<u64>), InterruptsError> {
    let mut lines = content.split(|&byte| byte == b'\n').enumerate();
    let header = lines.next().map(|(_, line)| line).unwrap_or_default();
    let cpus = parse_header(header).ok_or_else(|| InterruptsError::Header { text: shorten(header) })?;
    // A column of the kernel's is eleven bytes wide.
    let mut counts = Vec::with_capacity(content.len() / 11);
    for (number, line) in lines {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':').filter(|&colon| colon > 0);
        let colon = colon.ok_or_else(|| InterruptsError::Label { line: number + 1, text: shorten(line) })?;
        let first = counts.len();
        let rest = parse_counts(&line[colon + 1..], cpus.len(), &mut counts)
            .ok_or(InterruptsError::Count { line: number + 1 })?;
        row(
            String::from_utf8_lossy(&line[..colon]),
            first..counts.len(),
            String::from_utf8_lossy(rest.trim_ascii()),
        );
    }
    Ok((cpus, counts))
}

fn parse_header(line: &[u8]) -> Option<Vec<u32>> {
    let names = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let cpu = |name: &str| name.strip_prefix("CPU")?.parse().ok().filter(|&cpu| cpu <= MAX_ID);
    let cpus: Vec<u32> = names.map(cpu).collect::<Option<_>>()?;
    (!cpus.is_empty() && cpus.is_sorted_by(|one, next| one < next)).then_some(cpus)
}

/// Appends at most `most` numbers to `counts` and returns what follows them; `None` if one has more than 64 bits. A word that is a number
/// only at its beginning (`2-edge`) is none.
fn parse_counts<'a>(line: &'a [u8], most: usize, counts: &mut Vec<u64>) -> Option<&'a [u8]> {
    let mut at = 0;
    for _ in 0..most {
        while line.get(at) == Some(&b' ') || line.get(at) == Some(&b'\t') {
            at += 1;
        }
        let start = at;
        let mut value = 0_u64;
        while let Some(digit) = line.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
            value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
            at += 1;
        }
        let ends = line.get(at).is_none_or(u8::is_ascii_whitespace);
        if at == start || !ends {
            return Some(&line[start..]);
        }
        counts.push(value);
    }
    Some(&line[at..])
}

/// The beginning of a line, for a message.
fn shorten(line: &[u8]) -> String {
    const LONGEST: usize = 60;
    let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]).trim().to_owned();
    if line.len() > LONGEST { text + "…" } else { text }
}

#[cfg(test)]
mod tests;
