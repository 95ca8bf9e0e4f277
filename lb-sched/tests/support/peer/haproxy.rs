//! HAProxy's configuration for a test.

use super::server::NamedServers;
use super::{Pool, server_name, socket};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// One thread, no health checks, a request whose client goes is over (`abortonclose`); the path's first part names the pool. A client's address comes in the PROXY
/// protocol, so that a test can be any client.
pub(super) fn configuration(pools: &[Pool], servers: &NamedServers, directory: &Path) -> String {
    let mut text = format!(
        "global
    nbthread 1
    maxconn 2000
    stats socket {}
defaults
    mode http
    option abortonclose
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend test
    bind unix@{} accept-proxy
    use_backend %[path,field(2,/)]
",
        statistics_socket(directory).display(),
        socket(directory).display(),
    );
    for (number, pool) in pools.iter().enumerate() {
        let _ = writeln!(text, "backend pool{number}");
        for line in pool.algorithm.lines() {
            let _ = writeln!(text, "    {line}");
        }
        for (i, weight) in pool.weights.iter().enumerate() {
            let state = weight.map_or_else(|| "disabled".to_owned(), |weight| format!("weight {weight}"));
            let _ = writeln!(text, "    server {} {} {state}", server_name(i), servers.address(i));
        }
    }
    text
}

fn statistics_socket(directory: &Path) -> PathBuf {
    directory.join("statistics")
}

/// The requests that HAProxy counts as in flight in a pool (`scur` of its `BACKEND` line): the figure that
/// `leastconn` goes by, summed up.
pub(super) fn in_flight(directory: &Path, pool: usize) -> u32 {
    let mut statistics =
        UnixStream::connect(statistics_socket(directory)).expect("HAProxy's statistics socket");
    statistics.write_all(b"show stat\n").expect("ask HAProxy for its statistics");
    let mut table = String::new();
    statistics.read_to_string(&mut table).expect("read HAProxy's statistics");
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().trim_start_matches("# ").split(',').collect();
    let scur = header.iter().position(|&name| name == "scur").expect("HAProxy's column scur");
    let backend = lines
        .find(|line| line.starts_with(&format!("pool{pool},BACKEND,")))
        .unwrap_or_else(|| panic!("HAProxy knows no pool{pool}:\n{table}"));
    backend.split(',').nth(scur).and_then(|value| value.parse().ok()).expect("a number of sessions")
}
