//! The table of the `conformance` page is what the tests' names say: `tests/rfc3768` and `tests/rfc9568`.
//!
//! To write it anew: `UPDATE_CONFORMANCE=1 cargo test -p lb-vrrp --test conformance`.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// How the name of a test ends that shows what is taken or done, and one that shows what is not.
const POSITIVE: [&str; 2] = ["accepted", "done"];
const NEGATIVE: [&str; 2] = ["refused", "not_otherwise"];

/// Tests that show what the driver does: file and name.
type Shown = (&'static str, &'static str);

const ARP: Shown = ("src/linux/arp.rs", "a_gratuitous_request_is_this_byte_for_byte");
const NDP: Shown = ("src/linux/ndp.rs", "an_advertisement_is_this_byte_for_byte");
const SIX: Shown = ("tests/linux_driver.rs", "ipv6_floats_without_duplicate_address_detection");
const NEIGHBOURS: Shown = ("tests/linux_accept.rs", "neighbours_are_answered_at_the_address_itself");
const ACCEPT: Shown = ("tests/linux_accept.rs", "packets_for_the_addresses_are_refused");
const VMAC: Shown = ("tests/linux_driver.rs", "a_vmac_answers_with_the_virtual_mac");

/// RFCs and sections, requirement, who meets it, and what shows it: requirements on what no state machine does.
const ELSEWHERE: &[(&str, &str, &str, &[Shown])] = &[
    (
        "3768 §5.2.2; 9568 §5.1.1.2, §5.1.2.2",
        "adverts are not forwarded",
        "the kernel: the groups are link-local",
        &[],
    ),
    (
        "3768 §5.2.3; 9568 §5.1.1.3, §5.1.2.3",
        "adverts are sent with TTL or hop limit 255",
        "the driver sets `wire::TTL` on its sockets",
        &[VMAC, SIX],
    ),
    (
        "3768 §5.2.4, §7.2; 9568 §5.1.1.4, §5.1.2.4, §7.2",
        "adverts are sent as protocol 112",
        "the driver's sockets are of `wire::PROTOCOL`",
        &[VMAC, SIX],
    ),
    (
        "3768 §7.2; 9568 §7.2",
        "adverts are sent from the virtual MAC address",
        "the driver with a VMAC",
        &[VMAC, SIX],
    ),
    (
        "3768 §6.4.1, §6.4.2; 9568 §6.4.1, §6.4.2 (errata 7947, 7949)",
        "gratuitous ARP carries the address and the virtual MAC address",
        "the driver with a VMAC",
        &[ARP, VMAC],
    ),
    (
        "9568 §6.4.1, §6.4.2",
        "neighbour advertisements have the router and override flags set, the solicited flag clear, and carry the virtual MAC address",
        "the driver with a VMAC",
        &[NDP, SIX],
    ),
    (
        "3768 §6.4.2; 9568 §6.4.2",
        "a backup drops packets to the virtual MAC address",
        "the driver with a VMAC: the interface of that address is down",
        &[VMAC],
    ),
    (
        "3768 §6.4.3, §8.2; 9568 §6.4.3, §8.1.2, §8.2.2",
        "ARP and neighbour solicitations are answered with the virtual MAC address, never with the physical one",
        "the driver with a VMAC: the kernel answers from it alone",
        &[VMAC, SIX],
    ),
    (
        "9568 §6.4.3",
        "answers to neighbour solicitations have the router flag set",
        "the kernel, when the operator lets it forward",
        &[SIX],
    ),
    (
        "9568 §6.4.2, §6.4.3",
        "an active router is in the solicited-node groups of the addresses",
        "the kernel, when the driver adds the address",
        &[SIX],
    ),
    (
        "9568 §6.4.2",
        "a backup sends no router advertisements for the virtual router",
        "none are ever sent",
        &[],
    ),
    (
        "9568 §6.1, §6.4.3",
        "neighbour discovery is not dropped where other packets for the addresses are",
        "the driver's packet filter lets it pass",
        &[NEIGHBOURS],
    ),
    (
        "3768 §6.4.3; 9568 §6.4.3",
        "an active router that is not the owner takes no packets for the addresses in accept mode off; in accept mode on, it does",
        "the driver's packet filter: `Config::accept`",
        &[ACCEPT],
    ),
    (
        "3768 §6.4.3; 9568 §6.4.3",
        "packets to the virtual MAC address are forwarded",
        "the kernel, when the operator lets it forward",
        &[],
    ),
    (
        "3768 §8.4; 9568 §8.3.1",
        "who does not own the addresses should not forward packets for them",
        "the kernel: they are its own while the router is active, and what is for them ends there",
        &[],
    ),
    (
        "9568 §7.4",
        "interface identifiers are not made of the virtual MAC address",
        "the driver: a VMAC makes no address by itself; it gets the link-local address of its parent",
        &[SIX],
    ),
    (
        "9568 §8.2.2",
        "an owner that starts may skip duplicate address detection, as a backup may answer it",
        "the driver adds addresses without it",
        &[SIX],
    ),
    (
        "9568 §8.2.4",
        "unsolicited neighbour advertisements should be heard in any state",
        "the kernel, unless its `drop_unsolicited_na` is set",
        &[],
    ),
    (
        "3768 §7.1; 9568 §7.1",
        "a failed check should be logged",
        "`Counters` has a counter for each; the driver's user logs",
        &[],
    ),
    (
        "9568 §2.5",
        "an active router that flaps, as adverts queue for too long, should log it",
        "each change of state is said with its reason; the driver's user logs",
        &[],
    ),
];

/// RFCs and sections, requirement, and what is done instead.
const NOT_MET: &[(&str, &str, &str)] = &[
    (
        "3768 §6.4.1–§6.4.3, §7.2, §8.2; 9568 §6.4.1–§6.4.3, §7.2, §8.1.2, §8.2.2",
        "the virtual MAC address is the addresses' only one",
        "met only with a VMAC, which is not the default: without one the addresses are on the interface itself, with its MAC address, and neighbours learn that at each takeover",
    ),
    (
        "3768 §6.4.3; 9568 §6.4.3",
        "accept mode is off by default",
        "it is on by default, as programs serve on the addresses: `Config::accept`",
    ),
    (
        "3768 §7.1",
        "an owner drops all adverts",
        "by default it hears them, as RFC 9568 has it since erratum 8298: two owners do not both stay; `Owners::Ignore` follows the letter",
    ),
    (
        "3768 §6.4.2, §6.4.3; 9568 §6.4.2, §6.4.3",
        "when a timer fires, however late, the router advertises",
        "by default one that wakes more than three intervals late listens first: another has taken over since; `LateWake::Advertise` follows the letter",
    ),
    (
        "9568 §5.2.8, §7.2",
        "the checksum of version 3 over IPv4 has no pseudo-header",
        "by default adverts are sent with it and taken with or without: keepalived and FRR want it; `ChecksumMode::MessageOnly` follows the letter",
    ),
    (
        "9568 §6.4.3",
        "an advert that loses is answered at once",
        "not within 10 ms of the last advert (of intervals below 20 ms: half of one), so that two routers do not answer each other without end",
    ),
    (
        "9568 §6.4.3",
        "an active router sends router advertisements",
        "none are sent: run a daemon for them, started and stopped by the changes of state",
    ),
    (
        "3768 §8.1; 9568 §8.1.1, §8.2.1",
        "ICMP redirects come from the address that the host sent to",
        "the kernel chooses their source: turn them off (`send_redirects`), or, with a VMAC and IPv4, set `icmp_errors_use_inbound_ifaddr`",
    ),
    (
        "3768 §8.2; 9568 §8.1.2, §8.2.2",
        "an owner that boots should say nothing with its physical MAC address for the addresses",
        "the kernel does for addresses that it is given at boot: leave them to the driver",
    ),
    (
        "9568 §8.2.2",
        "neighbour solicitations of an active router carry the virtual MAC address",
        "the kernel sends them from the interface that its routes name, with the MAC address of that",
    ),
];

/// RFCs and sections, requirement, and why it asks nothing here.
const NOT_APPLICABLE: &[(&str, &str, &str)] = &[
    ("3768 §8.3; 9568 §8.1.3", "proxy ARP says the virtual MAC address", "no proxy ARP is offered"),
    ("3768 §9", "FDDI, Token Ring, ATM LANE", "Ethernet only; RFC 9568 has dropped them"),
    (
        "9568 §8.4.2",
        "a router that speaks versions 2 and 3 sends both, and takes the interval of either",
        "the mode is optional, and not offered",
    ),
    (
        "9568 §8.2.3",
        "backups send the router advertisement options of the owner, and no special services alone",
        "no router advertisements are sent: see to it in the daemon that sends them",
    ),
    (
        "9568 §8.1.2, §8.3.2, §8.4.2.1.1, §9",
        "which address to manage a router by, one owner a link, priorities well apart, the link's own security",
        "the operator's choices",
    ),
];

/// One requirement: what it asks, and its tests.
#[derive(Default)]
struct Requirement {
    text: String,
    tests: Vec<String>,
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The files of a folder of tests, in the order of the RFCs' sections.
const FILES: [&str; 3] = ["format.rs", "states.rs", "receipt.rs"];

/// The tests of a folder in order, each with the comment above it.
fn tests(folder: &str) -> Vec<(String, String)> {
    let (mut comment, mut is_test, mut tests) = (Vec::new(), false, Vec::new());
    let text: String = FILES.iter().map(|file| read(&format!("{folder}/{file}"))).collect();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("/// ") {
            comment.push(words);
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) {
            let name = name.split('(').next().unwrap();
            tests.push((name.to_owned(), comment.join(" ")));
            (is_test, comment) = (false, Vec::new());
        } else {
            comment.clear();
        }
    }
    tests
}

/// The requirements of a folder by their names, in its order.
fn requirements(folder: &str) -> Vec<(String, Requirement)> {
    let mut order = Vec::new();
    let mut all: BTreeMap<String, Requirement> = BTreeMap::new();
    for (name, comment) in tests(folder) {
        let (requirement, _) =
            name.split_once("__").expect("a test is named after its requirement and its side");
        if !all.contains_key(requirement) {
            order.push(requirement.to_owned());
        }
        let entry = all.entry(requirement.to_owned()).or_default();
        if !comment.is_empty() {
            assert!(entry.text.is_empty(), "{name}: the requirement has its text at its first test");
            entry.text = comment;
        }
        entry.tests.push(name);
    }
    order.into_iter().map(|name| (name.clone(), all.remove(&name).unwrap())).collect()
}

/// `s7_1_the_ttl…` is of section 7.1.
fn section(name: &str) -> String {
    let numbers: Vec<_> = name[1..].split('_').take_while(|part| part.parse::<u8>().is_ok()).collect();
    numbers.join(".")
}

fn page() -> String {
    let mut page = String::from(
        "What RFC 3768 (version 2) and RFC 9568 (version 3) require, and the tests that show it.\n\n\
         Each requirement, in our words, has a test that it is met, and one that nothing else passes for it: what must be \
         dropped is dropped for that very reason, counted, and changes nothing. What a requirement only recommends, or allows, \
         is told by its words (should, may). The errata of RFC 9568 are followed. This table is made of the tests' names.\n",
    );
    for rfc in ["3768", "9568"] {
        let folder = format!("tests/rfc{rfc}");
        write!(page, "\n# RFC {rfc}: `{folder}`\n\n| § | requirement | tests |\n|---|---|---|\n").unwrap();
        for (name, Requirement { text, tests }) in requirements(&folder) {
            let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
            writeln!(page, "| {} | {text} | {} |", section(&name), tests.join(", ")).unwrap();
        }
    }
    page.push_str("\n# What the driver and the kernel meet\n\n| RFC, § | requirement | who meets it | shown by |\n|---|---|---|---|\n");
    for (place, requirement, who, shown) in ELSEWHERE {
        let shown: Vec<_> = shown.iter().map(|(_, test)| format!("`{test}`")).collect();
        writeln!(page, "| {place} | {requirement} | {who} | {} |", shown.join(", ")).unwrap();
    }
    for (title, column, rows) in [
        ("What is not met, and why", "what is done instead", NOT_MET),
        ("What asks nothing here", "why", NOT_APPLICABLE),
    ] {
        write!(page, "\n# {title}\n\n| RFC, § | requirement | {column} |\n|---|---|---|\n").unwrap();
        for (place, requirement, what) in rows {
            writeln!(page, "| {place} | {requirement} | {what} |").unwrap();
        }
    }
    page
}

#[test]
fn each_requirement_is_tested_from_both_sides() {
    for folder in ["tests/rfc3768", "tests/rfc9568"] {
        let requirements = requirements(folder);
        assert!(requirements.len() > 30, "{folder} was not read");
        for (name, Requirement { text, tests }) in requirements {
            let has = |sides: [&str; 2]| {
                tests.iter().any(|test| sides.iter().any(|side| test.ends_with(&format!("__{side}"))))
            };
            assert!(text.ends_with('.'), "{folder}: {name} does not say what is required");
            assert!(has(POSITIVE) && has(NEGATIVE), "{folder}: {name} lacks a side: {tests:?}");
            assert!(!section(&name).is_empty(), "{folder}: {name} names no section");
        }
    }
}

#[test]
fn what_is_shown_elsewhere_is_a_test() {
    for (_, requirement, _, shown) in ELSEWHERE {
        for (file, test) in *shown {
            let text = read(file);
            let (before, _) =
                text.split_once(&format!("fn {test}()")).unwrap_or_else(|| panic!("{file}: no {test}"));
            let attributes = before.rsplit("\n\n").next().unwrap();
            assert!(attributes.contains("#[test]"), "{requirement}: {test} is no test");
        }
    }
}

#[test]
fn the_page_is_what_the_tests_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        fs::write(&path, page()).unwrap();
    }
    assert!(
        read("docs/conformance.md") == page(),
        "docs/conformance.md is out of date: UPDATE_CONFORMANCE=1 cargo test -p lb-vrrp --test conformance"
    );
}
