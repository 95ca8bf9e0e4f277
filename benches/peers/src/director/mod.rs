//! `director`: our director beside Debian's HAProxy and nginx, as reverse proxies for HTTP with keep-alive and
//! small responses.
//!
//! All three run at the same time over the same two servers and with the same number of workers, but only one
//! of them has load at any moment; the rounds are interleaved. Where the machine has a processor to spare, the
//! proxies' workers have processors of their own, and the client and the servers share the others: then a proxy
//! is limited by nothing but itself. The row `the servers alone` says how far away the next limit is.

mod peers;

use crate::measure::median;
use crate::row::Row;
use crate::serving::{
    Directory, Figure, Places, Proxy, Run, Servers, ServingError, Setup, Stop, Wrk, binary, free_address,
};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of `director`.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The director's binary; without it, `cargo build --release --bin director` of this repository makes one.
    #[arg(long, value_name = "PATH")]
    director: Option<PathBuf>,
    /// Worker threads (nginx: processes) of each proxy.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Connections of the client, all kept alive.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Seconds of load on each proxy in a round.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
}

/// Measures all three, `rounds` times.
///
/// # Errors
/// [`ServingError`]: a program is missing, a proxy does not start, or a request fails.
pub(crate) fn run(settings: &Settings, rounds: usize, quick: bool) -> Result<Vec<Row>, ServingError> {
    let workers = settings.workers.into();
    let binary = binary(settings.director.as_deref())?;
    let stop = Stop::on_signals()?;
    let places = Places::for_workers(workers);
    let directory = Directory::new()?;
    let servers = Servers::start(&places, 1)?;
    let wrk = Wrk::new(&directory, &places, &stop, 1)?;
    let setup = Setup { listen: free_address()?, servers: servers.addresses(), workers, affinity: None };
    let proxies = [
        Proxy::director("director", &binary, &setup, &directory, &places)?,
        Proxy::haproxy(&directory, servers.addresses(), workers, &places)?,
        Proxy::nginx(&directory, servers.addresses(), workers, &places)?,
    ];
    let connections = settings.connections.into();
    let length = Duration::from_secs(if quick { 1 } else { settings.seconds.into() });

    for proxy in &proxies {
        // Opens the connections to the servers, and grows the buffers.
        wrk.load(proxy, connections, Duration::from_secs(1))?;
    }
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); proxies.len() + 1];
    for _ in 0..rounds {
        for (proxy, runs) in proxies.iter().zip(&mut runs) {
            runs.push(wrk.load(proxy, connections, length)?);
        }
        let alone = wrk.run(servers.addresses()[0], connections, length)?;
        runs.last_mut().expect("one more than there are proxies").push(alone);
    }
    Ok(rows(&runs, settings.connections.into()))
}

/// The figures of ours (the first) beside those of each peer.
fn rows(runs: &[Vec<Run>], n: u64) -> Vec<Row> {
    let figure = |proxy: usize, of: Figure| median(runs[proxy].iter().map(of).collect());
    let mut rows = Vec::new();
    for (peer, name) in [(1, "HAProxy"), (2, "nginx")] {
        let figures: [(&str, &'static str, Figure); 4] = [
            ("throughput", "requests/s", |run| run.rate),
            ("latency, p50", "us", |run| run.p50),
            ("latency, p99", "us", |run| run.p99),
            ("CPU time of a million requests", "s", |run| run.cpu),
        ];
        for (what, unit, of) in figures {
            rows.push(Row::new(what, n, unit, figure(0, of), figure(peer, of), name));
        }
    }
    let rate: Figure = |run| run.rate;
    rows.push(Row::new("throughput", n, "requests/s", figure(0, rate), figure(3, rate), "the servers alone"));
    rows
}
