use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::CpuSet;
use crate::fs::Memory;

const X86: &[u8] = include_bytes!("../../tests/fixtures/interrupts/x86");
const ARM64: &[u8] = include_bytes!("../../tests/fixtures/interrupts/arm64");

type Seen<'a> = (Option<&'a str>, Option<u64>, Option<&'a str>, Vec<&'a str>);

fn seen(interrupts: &Interrupts, irq: u32) -> Seen<'_> {
    let line = interrupts.get(irq).unwrap().0;
    let actions = line.actions.iter().map(|name| &**name).collect();
    (line.chip.as_deref(), line.hwirq, line.trigger.as_deref(), actions)
}

#[test]
fn lines_of_x86() {
    let sample = Interrupts::parse(X86).unwrap();
    assert_eq!(sample.cpus(), [0, 1, 2, 5]);
    let msix = Some("IR-PCI-MSIX-0000:3b:00.0");
    let expected: [(u32, Seen<'_>); 9] = [
        (0, (Some("IO-APIC"), Some(2), Some("edge"), vec!["timer"])),
        (
            16,
            (
                Some("IO-APIC"),
                Some(16),
                Some("fasteoi"),
                vec!["ehci_hcd:usb1", "mei wdt", "snd_hda_intel:card0"],
            ),
        ),
        (120, (msix, Some(0), Some("edge"), vec!["i40e-0000:3b:00.0:misc"])),
        (124, (msix, Some(4), Some("edge"), vec!["i40e-eth0-TxRx-3"])),
        (125, (Some("PCI-MSI"), Some(524_288), Some("edge"), vec![])),
        (126, (Some("PCI-MSI-edge"), None, None, vec!["old0"])),
        (127, (Some("xen-dyn"), None, Some("event"), vec!["eth9-q0-rx"])),
        (128, (Some("XT-PIC"), None, None, vec!["cascade"])),
        (129, (None, None, None, vec![])),
    ];
    for (irq, line) in expected {
        assert_eq!(seen(&sample, irq), line, "{irq}");
        assert!(!sample.get(irq).unwrap().0.is_per_cpu(), "{irq}");
    }
    assert_eq!(sample.get(16).unwrap().1, [29, 0, 4_294_967_290, 0]);
    assert!(sample.get(2).is_none());

    let names: Vec<_> = sample.iter().filter(|(line, _)| line.irq.is_none()).collect();
    assert_eq!(names[1].0.description, "Local timer interrupts");
    assert!(names.iter().all(|(line, _)| line.is_per_cpu()));
    let counts: Vec<_> = names.iter().map(|(line, counts)| (&*line.label, counts.len())).collect();
    assert_eq!(counts, [("NMI", 4), ("LOC", 4), ("RES", 4), ("ERR", 1), ("MIS", 1), ("PIN", 4)]);
}

#[test]
fn lines_of_arm64_and_others() {
    let sample = Interrupts::parse(ARM64).unwrap();
    assert_eq!(seen(&sample, 11), (Some("GICv3"), Some(30), Some("Level"), vec!["arch_timer"]));
    assert_eq!(seen(&sample, 33), (Some("ARMH0061:00"), Some(3), Some("Edge"), vec!["ACPI:Event"]));
    let chip = Some("ITS-PCI-MSIX-0001:01:00.0");
    assert_eq!(seen(&sample, 53), (chip, Some(1), Some("Edge"), vec!["mlx5_comp0@pci:0001:01:00.0"]));
    assert_eq!(seen(&sample, 60), (Some("RISC-V INTC"), Some(5), Some("Edge"), vec!["riscv-timer"]));
    assert_eq!(seen(&sample, 61), (Some("MIPS"), Some(7), None, vec!["timer"]));
    let per_cpu: Vec<u32> =
        sample.iter().filter(|(line, _)| line.is_per_cpu()).filter_map(|(line, _)| line.irq).collect();
    assert_eq!(per_cpu, [9, 11, 60]);
}

#[test]
fn errors_name_the_line() {
    let message = |content: &[u8]| Interrupts::parse(content).unwrap_err().to_string();
    for header in [&b""[..], b"\n", b"CPU0 CPU0\n", b"CPU1 CPU0", b"CPU65536", b"CPU0 total", b"\xff"] {
        assert!(message(header).starts_with("line 1 is "), "{header:?}");
    }
    assert_eq!(
        message(b" CPU0\n 1: 2 x\nno label\n"),
        "line 3 has no `NUMBER:` or `NAME:` before the counts: \"no label\""
    );
    assert!(message(b" CPU0\n: 1").starts_with("line 2 has no"));
    assert_eq!(
        message(b" CPU0\n 1: 18446744073709551616"),
        "line 2: a count is above 18446744073709551615: the file is damaged"
    );
    let gone = Interrupts::read(&Memory::new()).unwrap_err();
    assert_eq!(gone.to_string(), "/proc/interrupts: entity not found");
    assert!(Interrupts::parse(b"CPU0").unwrap().iter().next().is_none());
}

fn sample(cpus: &[u32], lines: &[(&str, &[u64], &str)]) -> Interrupts {
    let mut text: String = cpus.iter().map(|cpu| format!(" CPU{cpu}")).collect();
    for (label, counts, tail) in lines {
        let counts: String = counts.iter().map(|count| format!(" {count}")).collect();
        text += &format!("\n{label}:{counts}  {tail}");
    }
    Interrupts::parse(text.as_bytes()).unwrap()
}

#[test]
fn rates_are_of_what_is_in_both_samples() {
    const WRAP: u64 = 1 << 32;
    let before = sample(
        &[0, 1, 4],
        &[
            ("5", &[10, WRAP - 4, 7], "PCI-MSI 1-edge  eth0-0"),
            ("6", &[1, 1, 1], "PCI-MSI 2-edge  gone"),
            ("7", &[900, 0, 0], "PCI-MSI 3-edge  begun anew"),
            ("8", &[1, 1, 1], "PCI-MSI 4-edge  one device"),
            ("11", &[5, 5, 5], "GICv3  30 Level  arch_timer"),
            ("LOC", &[0, u64::MAX - 5, 0], "Local timer interrupts"),
            ("ERR", &[5], ""),
        ],
    );
    let after = sample(
        &[0, 1, 2],
        &[
            ("4", &[3, 3, 3], "PCI-MSI 9-edge  new"),
            ("5", &[10, 6, 70], "PCI-MSI 1-edge  eth0-0"),
            ("7", &[30, 0, 0], "PCI-MSI 3-edge  begun anew"),
            ("8", &[100, 1, 1], "PCI-MSI 4-edge  another"),
            ("11", &[25, 5, 5], "GICv3  30 Level  arch_timer"),
            ("LOC", &[40, 4, 1000], "Local timer interrupts"),
            ("ERR", &[9], ""),
        ],
    );
    let rates = Rates::between(&before, &after, Duration::from_millis(500)).unwrap();
    let lines: Vec<_> = rates.interrupts.iter().map(|line| (&*line.label, line.on.clone())).collect();
    let expected = [
        ("5", vec![(1, 20.0)]),
        ("7", vec![(0, 60.0)]),
        ("11", vec![(0, 40.0)]),
        ("LOC", vec![(0, 80.0), (1, 20.0)]),
    ];
    assert_eq!(lines, expected);
    let cpu = |cpu, devices, all| CpuRate { cpu, devices, all };
    assert_eq!(rates.cpus, [cpu(0, 60.0, 180.0), cpu(1, 20.0, 40.0)]);
    assert_eq!((rates.came.to_string(), rates.gone.to_string()), ("2".to_owned(), "4".to_owned()));
    assert!(matches!(Rates::between(&before, &after, Duration::ZERO), Err(InterruptsError::NoTime)));
}

#[test]
fn softirqs_have_rates_too() {
    let parse = |counts: &str| {
        let text = format!(
            "                    CPU0       CPU1\n          HI:          0          0\n      NET_RX: {counts}\n"
        );
        Softirqs::parse(text.as_bytes()).unwrap()
    };
    let (before, after) = (parse("10 4294967295"), parse("30 9"));
    assert_eq!(after.get("NET_RX"), Some(&[30, 9][..]));
    assert_eq!(after.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["HI", "NET_RX"]);
    let second = Duration::from_secs(1);
    assert_eq!(after.rates(&before, "NET_RX", second).unwrap(), [(0, 20.0), (1, 10.0)]);
    assert_eq!(after.rates(&before, "NET_TX", second).unwrap(), []);
}

#[test]
fn an_interrupts_own_files() {
    let mut tree = Memory::new();
    assert!(Affinity::read(&tree, 38).unwrap_err().to_string().contains("/proc/irq/38/smp_affinity_list"));
    tree.insert("/proc/irq/38/smp_affinity_list", "0-3,8\n");
    tree.insert("/proc/irq/38/node", "-1\n");
    let plain = Affinity::read(&tree, 38).unwrap();
    assert_eq!((plain.allowed.to_string(), plain.cpu(), plain.node), ("0-3,8".to_owned(), None, None));
    assert_eq!((plain.effective, plain.hint), (None, None));

    tree.insert("/proc/irq/38/effective_affinity_list", "8\n");
    tree.insert("/proc/irq/38/affinity_hint", "00000000,00000100\n");
    tree.insert("/proc/irq/38/node", "2\n");
    let full = Affinity::read(&tree, 38).unwrap();
    assert_eq!((full.cpu(), full.hint, full.node), (Some(8), Some(CpuSet::from(8)), Some(2)));

    let sample = sample(
        &[0],
        &[("38", &[1], "PCI-MSI 1-edge  a"), ("39", &[1], "PCI-MSI 2-edge  gone"), ("LOC", &[1], "")],
    );
    assert_eq!(Affinity::all(&tree, &sample).unwrap().into_keys().collect::<Vec<_>>(), [38]);

    // Not started yet: the kernel prints an empty set, and no wish is an empty set too.
    tree.insert("/proc/irq/38/effective_affinity_list", "\n");
    tree.insert("/proc/irq/38/affinity_hint", "00\n");
    assert_eq!(Affinity::read(&tree, 38).unwrap().effective, None);
    tree.insert("/proc/irq/38/affinity_hint", "junk");
    let error = Affinity::read(&tree, 38).unwrap_err().to_string();
    assert!(error.starts_with("/proc/irq/38/affinity_hint: "), "{error}");
    assert!(Affinity::all(&tree, &sample).is_err());
}

/// The machine that runs the tests: what the kernel prints of itself is understood.
#[test]
fn this_machine() {
    let sample = Interrupts::read(&crate::fs::Real).unwrap();
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(sample.cpus().iter().copied().collect::<CpuSet>(), online.parse().unwrap());
    for (line, counts) in sample.iter().filter(|(line, _)| line.irq.is_some()) {
        assert_eq!(counts.len(), sample.cpus().len(), "{line:?}");
        assert!(line.chip.is_some(), "{line:?}");
    }
    assert!(Softirqs::read(&crate::fs::Real).unwrap().get("NET_RX").is_some());
}

#[test]
fn a_large_machine_is_read_in_milliseconds() {
    use std::fmt::Write as _;
    let mut text: String = (0..512).map(|cpu| format!("     CPU{cpu:<4}")).collect();
    for irq in 0..600_u32 {
        write!(text, "\n{irq:>4}:").unwrap();
        (0..512).for_each(|cpu| {
            write!(text, " {:>10}", if cpu == irq % 512 { 4_000_000_000 } else { cpu }).unwrap();
        });
        write!(text, "  IR-PCI-MSIX-0000:3b:00.0 {irq}-edge      mlx5_comp{irq}@pci:0000:3b:00.0").unwrap();
    }
    // The thread's own time, in nanoseconds: others may keep the processors busy.
    let worked = || {
        let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(statistics.split(' ').next().unwrap().parse().unwrap())
    };
    let before = worked();
    let sample = Interrupts::parse(text.as_bytes()).unwrap();
    let elapsed = worked() - before;
    assert_eq!(sample.get(599).unwrap().1[87], 4_000_000_000);
    // Some milliseconds when optimized; the bounds leave room for a slow machine, and for a build for tests.
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 2000 } else { 25 });
    assert!(elapsed < bound, "{elapsed:?}");
    println!("{} bytes in {elapsed:?}", text.len());
}

proptest! {
    #[test]
    fn nothing_panics(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Interrupts::parse(&content);
        let _ = Interrupts::parse(&[b"CPU0 CPU3\n", &content[..]].concat());
        let _ = Softirqs::parse(&[b"CPU0 CPU3\n", &content[..]].concat());
    }

    /// A byte of a real file is another one, or the file ends there.
    #[test]
    fn damage_never_panics(at in 0..X86.len(), byte: u8, cut: bool) {
        for file in [X86, ARM64] {
            let mut file = file.to_vec();
            if cut {
                file.truncate(at);
            } else if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
            if let Ok(sample) = Interrupts::parse(&file) {
                let rates = Rates::between(&Interrupts::parse(X86).unwrap(), &sample, Duration::from_secs(1));
                prop_assert!(rates.unwrap().cpus.iter().all(|cpu| cpu.all >= cpu.devices));
            }
        }
    }

    /// What a line says is read back.
    #[test]
    fn lines_round_trip(
        irq in 0_u32..5000,
        counts in proptest::collection::vec(any::<u64>(), 1..5),
        chip in "[A-Z][A-Za-z-]{1,9}( [A-Z]{2,5})?",
        hwirq: u32,
        actions in proptest::collection::vec("[a-z][a-z0-9:._@-]{0,9}( [a-z]{1,4})?", 0..4),
    ) {
        let cpus: String = (0..counts.len()).map(|cpu| format!(" CPU{cpu}")).collect();
        let numbers: String = counts.iter().map(|count| format!(" {count:>10}")).collect();
        let text = format!("{cpus}\n{irq}:{numbers}  {chip:>8} {hwirq:>3}-edge      {}", actions.join(", "));
        let sample = Interrupts::parse(text.as_bytes()).unwrap();
        let (line, read) = sample.get(irq).unwrap();
        prop_assert_eq!(read, counts);
        prop_assert_eq!(line.chip.as_deref(), Some(&*chip));
        prop_assert_eq!(line.hwirq, Some(hwirq.into()));
        prop_assert_eq!(&line.actions, &actions);
    }

    /// As long as less than half a round has passed, a counter of 32 bits that wraps is counted on.
    #[test]
    fn wrapping(old: u32, way in 0..u32::MAX / 2) {
        prop_assert_eq!(rates::counted(old.into(), old.wrapping_add(way).into()), u64::from(way));
    }
}
