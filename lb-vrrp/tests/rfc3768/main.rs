//! Each requirement of RFC 3768 (version 2) that a program can meet or break, with a test that it is met where it holds, and one
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

use std::net::IpAddr;

use common::greater;
use lb_vrrp::Config;
use lb_vrrp::wire::{Family, Version};

const V4: Family = Family::Ipv4;

fn config(priority: u8) -> Config {
    common::config(Version::V2, V4, priority)
}

fn peer() -> IpAddr {
    greater(V4)
}
