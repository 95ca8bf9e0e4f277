//! Which of a device's interrupts serves which queue: by the names that drivers give them, else by their order.

use std::collections::BTreeSet;

use super::{Basis, Nic, NicInterrupt, Queue};
use crate::interrupts::{Interrupt, Interrupts};

/// What an interrupt's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It serves no queue: configuration, link state, commands.
    Device,
    /// The queue of this number and direction.
    Queue(u32, Direction),
    /// Every queue of the direction.
    All(Direction),
    /// It says nothing.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Rx,
    Tx,
    Both,
}

impl Direction {
    const fn has_rx(self) -> bool {
        matches!(self, Self::Rx | Self::Both)
    }

    const fn has_tx(self) -> bool {
        matches!(self, Self::Tx | Self::Both)
    }
}

/// What does not serve queues, in drivers' words.
const DEVICE: &[&str] = &[
    "admin", "aeq", "async", "cmd", "config", "control", "ctrl", "event", "fdir", "hwc", "link", "lsc",
    "mbx", "mgmnt", "mgmt", "mgnt", "misc", "oicr", "other", "pages", "sp",
];
const RX: &[&str] = &["rx", "input"];
const TX: &[&str] = &["tx", "output"];
const BOTH: &[&str] =
    &["txrx", "rxtx", "trx", "comp", "fp", "queue", "queues", "virtqueues", "q", "ntfy", "blk", "ring", "ch"];

/// Puts a device's interrupts and an interface's queues together.
pub(super) fn serve(nic: &Nic, irqs: &BTreeSet<u32>, interrupts: &Interrupts) -> Vec<NicInterrupt> {
    let named: Vec<(u32, Option<&str>)> = irqs
        .iter()
        .map(|&irq| {
            let actions = interrupts.get(irq).map(|(line, _)| &*line.actions).unwrap_or_default();
            let own = actions.iter().find(|action| mentions(action, nic)).or(actions.first());
            (irq, own.map(|action| &**action))
        })
        .collect();
    let mut roles: Vec<Role> =
        named.iter().map(|(_, name)| name.map_or(Role::Unknown, |name| role(name, nic))).collect();
    count_from_zero(&mut roles, nic);

    let told = roles.iter().any(|role| matches!(role, Role::Queue(..) | Role::All(_)));
    let unknown = roles.iter().filter(|role| **role == Role::Unknown).count();
    let mut unknown_before = 0;
    let results = named.iter().zip(&roles).map(|(&(irq, name), role)| {
        let (serves, basis) = match *role {
            Role::Device => (Vec::new(), Basis::Name),
            Role::Queue(number, direction) => {
                (numbered(nic, direction, |index| index == number), Basis::Name)
            }
            Role::All(direction) => (numbered(nic, direction, |_| true), Basis::Name),
            // Its name says nothing where others' do.
            Role::Unknown if told => (Vec::new(), Basis::Name),
            Role::Unknown => {
                unknown_before += 1;
                (in_order(nic, unknown_before - 1, unknown), Basis::Order)
            }
        };
        NicInterrupt { irq, name: name.map(str::to_owned), serves, basis, affinity: None }
    });
    results.collect()
}

/// Whether a line is of the interface or its device, by a handler's name.
pub(super) fn is_named_after(line: &Interrupt, nic: &Nic) -> bool {
    line.actions.iter().any(|action| mentions(action, nic))
}

/// The interface's or its device's name is the handler's, or a part of it between `-`, `:`, `@` and blanks.
fn mentions(action: &str, nic: &Nic) -> bool {
    let device = device_name(nic);
    let is_it = |word: &str| word == nic.name || Some(word) == device;
    is_it(action) || action.split(['-', ':', '@', ' ']).any(is_it)
}

fn device_name(nic: &Nic) -> Option<&str> {
    nic.device.as_ref()?.file_name()?.to_str()
}

fn numbered(nic: &Nic, direction: Direction, wanted: impl Fn(u32) -> bool) -> Vec<Queue> {
    let rx = nic
        .rx
        .iter()
        .filter(|queue| direction.has_rx() && wanted(queue.index))
        .map(|queue| Queue::Rx(queue.index));
    let tx = nic
        .tx
        .iter()
        .filter(|queue| direction.has_tx() && wanted(queue.index))
        .map(|queue| Queue::Tx(queue.index));
    rx.chain(tx).collect()
}

/// The queues of the interrupt at `place` of `count`.
fn in_order(nic: &Nic, place: usize, count: usize) -> Vec<Queue> {
    // The device's own comes first, then those of its queues, which begin rx 0, tx 0, rx 1, tx 1 (VIRTIO 1.2, section 5.1.2).
    if count > 2 && device_name(nic).is_some_and(|device| device.starts_with("virtio")) {
        let Some(virtqueue) = place.checked_sub(1) else { return Vec::new() };
        let direction = if virtqueue % 2 == 0 { Direction::Rx } else { Direction::Tx };
        return numbered(nic, direction, |index| index as usize == virtqueue / 2);
    }
    let queues = nic.rx.len().max(nic.tx.len());
    // Drivers mostly take the first vectors for the device itself.
    let own = count.saturating_sub(queues);
    let Some(place) = place.checked_sub(own) else { return Vec::new() };
    let vectors = count - own;
    let mine = |at: usize| at % vectors == place;
    let rx = nic.rx.iter().enumerate().filter(|(at, _)| mine(*at)).map(|(_, queue)| Queue::Rx(queue.index));
    let tx = nic.tx.iter().enumerate().filter(|(at, _)| mine(*at)).map(|(_, queue)| Queue::Tx(queue.index));
    rx.chain(tx).collect()
}

/// Some drivers count from 1.
fn count_from_zero(roles: &mut [Role], nic: &Nic) {
    for direction in [Direction::Rx, Direction::Tx, Direction::Both] {
        let numbers: BTreeSet<u32> = roles
            .iter()
            .filter_map(|role| match role {
                Role::Queue(number, other) if *other == direction => Some(*number),
                _ => None,
            })
            .collect();
        let queues = if direction.has_rx() { nic.rx.len() } else { nic.tx.len() };
        if numbers.len() == queues && numbers.iter().copied().eq(1..=queues as u32) {
            for role in &mut *roles {
                if let Role::Queue(number, other) = role
                    && *other == direction
                {
                    *number -= 1;
                }
            }
        }
    }
}

/// What a name tells: `virtio0-input.0`, `mlx5_comp3@pci:0000:3b:00.0`, `i40e-eth0-TxRx-3`, `eth0-q0-rx`, `eth0-3`, `eth0`.
fn role(name: &str, nic: &Nic) -> Role {
    // What follows `@` is the device's address.
    let name = name.split('@').next().unwrap_or_default();
    let driver = nic.driver.as_deref().unwrap_or_default();
    let known = [&*nic.name, device_name(nic).unwrap_or_default(), driver];
    let mut rest = name.to_owned();
    for known in known.into_iter().filter(|known| !known.is_empty()) {
        rest = without(&rest, known);
    }
    // `mlx5` of mlx5_core, `virtio` of virtio_net.
    let family = driver.split('_').next().unwrap_or_default();
    let rest = match rest.strip_prefix(family) {
        Some(rest) if !rest.starts_with(|next: char| next.is_ascii_alphanumeric()) => rest,
        _ => &rest,
    };
    if rest.trim_matches(|letter: char| !letter.is_ascii_alphanumeric()).is_empty() {
        // The bare name: the device's only interrupt, or that of its link among others.
        return Role::Unknown;
    }

    let words = words(rest);
    let has =
        |list: &[&str]| words.iter().any(|word| matches!(word, Word::Name(name) if list.contains(&&**name)));
    if has(DEVICE) {
        return Role::Device;
    }
    let direction = match (has(RX), has(TX)) {
        (true, false) => Some(Direction::Rx),
        (false, true) => Some(Direction::Tx),
        (true, true) => Some(Direction::Both),
        (false, false) => has(BOTH).then_some(Direction::Both),
    };
    let is_direction = |word: &Word| matches!(word, Word::Name(name) if [RX, TX, BOTH].iter().any(|list| list.contains(&&**name)));
    // The number behind the first word that tells; else the last one before it.
    let first = words.iter().position(is_direction);
    let numbers = |words: &[Word]| -> Vec<u32> {
        words
            .iter()
            .filter_map(|word| if let Word::Number(number) = word { Some(*number) } else { None })
            .collect()
    };
    let number = match first {
        Some(first) => {
            let (before, after) = words.split_at(first);
            numbers(after).first().copied().or_else(|| numbers(before).last().copied())
        }
        None => numbers(&words).last().copied(),
    };
    match (direction, number) {
        (Some(direction), Some(number)) => Role::Queue(number, direction),
        (Some(direction), None) => Role::All(direction),
        // `eth0-3`; but not `eth0` alone, of an interface that has another name now.
        (None, Some(number)) if words.len() > 2 || matches!(words[..], [Word::Number(_)]) => {
            Role::Queue(number, Direction::Both)
        }
        (None, _) => Role::Unknown,
    }
}

/// `text` without `known` where that stands between other signs than letters and digits.
fn without(text: &str, known: &str) -> String {
    let edge = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_ascii_alphanumeric());
    let found = text.match_indices(known).find(|(at, _)| {
        edge(text[..*at].chars().next_back()) && edge(text[at + known.len()..].chars().next())
    });
    found.map_or_else(|| text.to_owned(), |(at, _)| format!("{}-{}", &text[..at], &text[at + known.len()..]))
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    Number(u32),
}

/// The runs of letters, in lower case, and of digits.
fn words(text: &str) -> Vec<Word> {
    let kind = |letter: char| (letter.is_ascii_alphabetic(), letter.is_ascii_digit());
    let letters: Vec<char> = text.chars().collect();
    let runs = letters.chunk_by(|one, next| kind(*one) == kind(*next));
    let word = |run: &[char]| {
        let text: String = run.iter().collect();
        match kind(run[0]) {
            (true, _) => Some(Word::Name(text.to_ascii_lowercase())),
            (_, true) => text.parse().ok().map(Word::Number),
            _ => None,
        }
    };
    runs.filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::{RxQueue, TxQueue};

    fn nic(name: &str, device: &str, driver: &str, queues: u32) -> Nic {
        Nic {
            name: name.into(),
            device: Some(format!("/sys/devices/{device}").into()),
            driver: Some(driver.into()),
            rx: (0..queues).map(|index| RxQueue { index, ..RxQueue::default() }).collect(),
            tx: (0..queues).map(|index| TxQueue { index, ..TxQueue::default() }).collect(),
            ..Nic::default()
        }
    }

    #[test]
    fn names_that_drivers_give() {
        use Direction::{Both, Rx, Tx};
        let both = |number| Role::Queue(number, Both);
        let table = [
            ("virtio0-config", "eth0", "virtio0", "virtio_net", Role::Device),
            ("virtio0-input.3", "eth0", "virtio0", "virtio_net", Role::Queue(3, Rx)),
            ("virtio10-output.0", "eth0", "virtio10", "virtio_net", Role::Queue(0, Tx)),
            ("virtio0-virtqueues", "eth0", "virtio0", "virtio_net", Role::All(Both)),
            ("mlx5_comp3@pci:0000:3b:00.0", "ens1f0np0", "0000:3b:00.0", "mlx5_core", both(3)),
            ("mlx5_async0@pci:0000:3b:00.0", "ens1f0np0", "0000:3b:00.0", "mlx5_core", Role::Device),
            ("mlx4-2@0000:05:00.0", "eth2", "0000:05:00.0", "mlx4_core", both(2)),
            ("eth0-TxRx-3", "eth0", "0000:05:00.0", "ixgbe", both(3)),
            ("eth0-TxRx-3", "ens1f0", "0000:05:00.0", "ixgbe", both(3)),
            ("i40e-eth0-TxRx-12", "eth0", "0000:3b:00.0", "i40e", both(12)),
            ("i40e-0000:3b:00.0:misc", "eth0", "0000:3b:00.0", "i40e", Role::Device),
            ("i40e-0000:3b:00.0:fdir-TxRx-0", "eth0", "0000:3b:00.0", "i40e", Role::Device),
            ("ens5-Tx-Rx-7", "ens5", "0000:00:05.0", "ena", both(7)),
            ("ena-mgmnt@pci:0000:00:05.0", "ens5", "0000:00:05.0", "ena", Role::Device),
            ("eth0-q2-rx", "eth0", "vif-0", "vif", Role::Queue(2, Rx)),
            ("eth0-rx-1", "eth0", "0000:02:00.0", "e1000e", Role::Queue(1, Rx)),
            ("eth0-tx-0", "eth0", "0000:02:00.0", "e1000e", Role::Queue(0, Tx)),
            ("eth0:rx-4", "eth0", "0000:02:00.0", "stmmac", Role::Queue(4, Rx)),
            ("hns3-0000:7d:00.0-TxRx-5", "eth0", "0000:7d:00.0", "hns3", both(5)),
            ("eth0-3", "eth0", "0000:02:00.0", "sfc", both(3)),
            ("eth0-3", "lan", "0000:02:00.0", "sfc", both(3)),
            ("eth0-fp-1", "eth0", "0000:02:00.0", "bnx2x", both(1)),
            ("eth0-sp", "eth0", "0000:02:00.0", "bnx2x", Role::Device),
            ("mana_q5@pci:7870:00:00.0", "enP1", "7870:00:00.0", "mana", both(5)),
            ("gve-ntfy-blk6@pci:0000:00:04.0", "ens4", "0000:00:04.0", "gve", both(6)),
            ("eth0", "eth0", "0000:02:00.0", "r8169", Role::Unknown),
            ("eth0", "lan", "0000:02:00.0", "r8169", Role::Unknown),
            ("é-Ü99999999999", "lan", "0000:02:00.0", "", Role::Unknown),
            ("", "lan", "0000:02:00.0", "", Role::Unknown),
        ];
        for (name, interface, device, driver, expected) in table {
            assert_eq!(role(name, &nic(interface, device, driver, 16)), expected, "{name} of {interface}");
        }
    }

    fn served(nic: &Nic, lines: &[(u32, &str)]) -> Vec<(u32, Vec<Queue>, Basis)> {
        let text: String =
            lines.iter().map(|(irq, name)| format!("\n{irq}: 0 PCI-MSI {irq}-edge  {name}")).collect();
        let interrupts = Interrupts::parse(format!("CPU0{text}").as_bytes()).unwrap();
        let irqs = lines.iter().map(|(irq, _)| *irq).collect();
        serve(nic, &irqs, &interrupts).into_iter().map(|one| (one.irq, one.serves, one.basis)).collect()
    }

    #[test]
    fn from_names_or_from_order() {
        use Queue::{Rx, Tx};
        let two = nic("eth0", "0000:02:00.0", "some", 2);
        // By name, counted from 1, and not in order.
        let expected = [(7, vec![Rx(1), Tx(1)], Basis::Name), (9, vec![Rx(0), Tx(0)], Basis::Name)];
        assert_eq!(served(&two, &[(7, "eth0-2"), (9, "eth0-1")]), expected);
        // The link's interrupt has the bare name.
        let expected = [
            (3, vec![], Basis::Name),
            (4, vec![Rx(0), Tx(0)], Basis::Name),
            (5, vec![Rx(1), Tx(1)], Basis::Name),
        ];
        assert_eq!(served(&two, &[(3, "eth0"), (4, "eth0-TxRx-0"), (5, "eth0-TxRx-1")]), expected);
        // No name tells: the last two.
        let expected = [
            (3, vec![], Basis::Order),
            (4, vec![Rx(0), Tx(0)], Basis::Order),
            (5, vec![Rx(1), Tx(1)], Basis::Order),
        ];
        assert_eq!(served(&two, &[(3, "a"), (4, "b"), (5, "c")]), expected);
        // One for all.
        let expected = [(3, vec![Rx(0), Rx(1), Tx(0), Tx(1)], Basis::Order)];
        assert_eq!(served(&two, &[(3, "eth0")]), expected);
        // Another device's handler on a shared line comes first.
        assert_eq!(served(&two, &[(3, "usb1-rx-7, eth0")]), expected);
        // More vectors than queues: a queue that is not there is not served.
        assert_eq!(served(&two, &[(3, "eth0-TxRx-2")]), [(3, vec![], Basis::Name)]);
        assert_eq!(served(&nic("lo", "x", "", 0), &[(3, "x")]), [(3, vec![], Basis::Order)]);
    }
}
