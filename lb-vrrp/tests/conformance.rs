//! The table of the `conformance` page is what the tests' names say: `tests/rfc3768.rs` and `tests/rfc9568.rs`.
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

/// RFC, section, requirement, and who meets it. Requirements on what no state machine does.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    (
        "3768",
        "5.2.2",
        "adverts are not forwarded",
        "the kernel: the groups are link-local (RFC 9568 §5.1.1.2 and §5.1.2.2 too)",
    ),
    (
        "3768",
        "5.2.3",
        "adverts are sent with TTL 255",
        "the driver sets `wire::TTL` on its sockets (RFC 9568 §5.1.1.3 and §5.1.2.3 too)",
    ),
    (
        "3768",
        "5.2.4",
        "adverts are sent as protocol 112",
        "the driver's sockets are of `wire::PROTOCOL` (RFC 9568 §5.1.1.4 and §5.1.2.4 too)",
    ),
    (
        "3768",
        "6.4.1, 6.4.2",
        "gratuitous ARP carries the virtual MAC address",
        "the driver with a VMAC; without one it carries the interface's own, and neighbours learn that at each takeover",
    ),
    (
        "3768",
        "6.4.2",
        "a backup drops packets to the virtual MAC address",
        "the driver with a VMAC: the kernel has no address there; without one there is no such MAC address",
    ),
    (
        "3768",
        "6.4.3, 8.2",
        "ARP is answered with the virtual MAC address, never with the physical one",
        "the driver with a VMAC: the kernel answers from it alone; not met without one, as the address is on the interface itself",
    ),
    (
        "3768",
        "6.4.3",
        "packets to the virtual MAC address are forwarded",
        "the kernel, when the operator lets it forward",
    ),
    (
        "3768",
        "6.4.3",
        "a master that is not the owner takes no packets for the addresses",
        "not met, on purpose: programs serve on the addresses; version 3 calls it accept mode",
    ),
    (
        "3768",
        "7.1",
        "a failed check should be logged",
        "`Counters` has a counter for each; the driver's user logs",
    ),
    (
        "3768",
        "7.2",
        "adverts are sent from the virtual MAC address",
        "the driver with a VMAC (RFC 9568 §7.2 too)",
    ),
    ("3768", "8.1", "ICMP redirects", "not applicable: the operator's settings of the kernel"),
    (
        "3768",
        "8.3",
        "proxy ARP says the virtual MAC address",
        "not applicable: no proxy ARP is offered (RFC 9568 §8.1.3 too)",
    ),
    ("3768", "9", "FDDI, Token Ring, ATM LANE", "not applicable: Ethernet only"),
    (
        "9568",
        "6.4.2",
        "a backup sends no router advertisements for the virtual router",
        "not applicable: none are ever sent",
    ),
    (
        "9568",
        "6.4.3",
        "an active router is in the solicited-node groups of the addresses",
        "the kernel, when the driver adds the address",
    ),
    (
        "9568",
        "6.4.3",
        "neighbour solicitations are answered with the virtual MAC address",
        "the driver with a VMAC: the kernel answers from it alone",
    ),
    (
        "9568",
        "6.4.3",
        "an active router sends router advertisements",
        "not applicable: run a daemon for them, started by the change of state",
    ),
    (
        "9568",
        "6.4.3",
        "without accept mode, packets for the addresses are not taken, but neighbour discovery is",
        "not applicable: accept mode is always on",
    ),
    (
        "9568",
        "7.4",
        "interface identifiers are not made of the virtual MAC address",
        "the driver: a VMAC gets the link-local address of its parent",
    ),
    (
        "9568",
        "8.1.2, 8.2.2",
        "ARP and neighbour discovery say the virtual MAC address, never the physical one",
        "the driver with a VMAC; not met without one",
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

/// The tests of a file in order, each with the comment above it.
fn tests(file: &str) -> Vec<(String, String)> {
    let (mut comment, mut is_test, mut tests) = (Vec::new(), false, Vec::new());
    let text = read(file);
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

/// The requirements of a file by their names, in the order of the file.
fn requirements(file: &str) -> Vec<(String, Requirement)> {
    let mut order = Vec::new();
    let mut all: BTreeMap<String, Requirement> = BTreeMap::new();
    for (name, comment) in tests(file) {
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
         dropped is dropped for that very reason, counted, and changes nothing. This table is made of the tests' names.\n",
    );
    for rfc in ["3768", "9568"] {
        let file = format!("tests/rfc{rfc}.rs");
        write!(page, "\n# RFC {rfc}: `{file}`\n\n| § | requirement | tests |\n|---|---|---|\n").unwrap();
        for (name, Requirement { text, tests }) in requirements(&file) {
            let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
            writeln!(page, "| {} | {text} | {} |", section(&name), tests.join(", ")).unwrap();
        }
    }
    page.push_str("\n# What is met elsewhere, or not at all\n\n| RFC | § | requirement | who meets it |\n|---|---|---|---|\n");
    for (rfc, section, requirement, who) in ELSEWHERE {
        writeln!(page, "| {rfc} | {section} | {requirement} | {who} |").unwrap();
    }
    page
}

#[test]
fn each_requirement_is_tested_from_both_sides() {
    for file in ["tests/rfc3768.rs", "tests/rfc9568.rs"] {
        let requirements = requirements(file);
        assert!(requirements.len() > 30, "{file} was not read");
        for (name, Requirement { text, tests }) in requirements {
            let has = |sides: [&str; 2]| {
                tests.iter().any(|test| sides.iter().any(|side| test.ends_with(&format!("__{side}"))))
            };
            assert!(text.ends_with('.'), "{file}: {name} does not say what is required");
            assert!(has(POSITIVE) && has(NEGATIVE), "{file}: {name} lacks a side: {tests:?}");
            assert!(!section(&name).is_empty(), "{file}: {name} names no section");
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
