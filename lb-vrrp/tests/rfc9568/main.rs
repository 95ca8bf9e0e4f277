//! Each requirement of RFC 9568 (version 3) that a program can meet or break, with a test that it is met where it holds, and one
//! that nothing else passes for it. The names and first comments make the table of the `conformance` page.

#![allow(
    non_snake_case,
    reason = "two underscores part the requirement from the side of it that a test shows"
)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../common/mod.rs"]
mod common;
mod format;
mod receipt;
mod states;

use common::{drops, greater, interval, message, meta, started, takes};
use lb_vrrp::Config;
use lb_vrrp::wire::{Discard, Family, Version};

const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn config(family: Family, priority: u8) -> Config {
    common::config(Version::V3, family, priority)
}

fn slow(family: Family, priority: u8) -> Config {
    Config { interval: interval(300), ..config(family, priority) }
}

/// A good advert of a better router, to be spoilt.
fn good(family: Family) -> Vec<u8> {
    message(&config(family, 200), greater(family), 200)
}

fn takes_advert(family: Family, message: &[u8]) {
    takes(&started(&config(family, 100)), &meta(&config(family, 200), greater(family)), message);
}

fn drops_advert(family: Family, message: &[u8], reason: Discard) {
    drops(&started(&config(family, 100)), &meta(&config(family, 200), greater(family)), message, reason);
}

fn words(family: Family, priority: u8) -> [String; 5] {
    let (first, second, prefix, announce) = match family {
        Family::Ipv4 => ("10.9.0.100", "10.9.0.101", 24, "arp"),
        Family::Ipv6 => ("fe80::100", "2001:db8::100", 64, "na"),
    };
    [
        format!("advertise {priority}"),
        format!("add {first}/{prefix}"),
        format!("add {second}/{prefix}"),
        format!("{announce} {first}"),
        format!("{announce} {second}"),
    ]
}
