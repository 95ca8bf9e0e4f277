//! `director`: our director beside Debian's HAProxy and nginx, as reverse proxies for HTTP with keep-alive and
//! small responses.
//!
//! All three run at the same time over the same two servers and with the same number of workers, but only one
//! of them has load at any moment; the rounds are interleaved. Where the machine has a processor to spare, the
//! proxies' workers have processors of their own, and the client and the servers share the others: then a proxy
//! is limited by nothing but itself. The row `the servers alone` says how far away the next limit is.

mod cpu;
mod error;
mod package;
mod process;
mod proxy;
mod server;
mod wrk;

use crate::measure::median;
use crate::row::Row;
use clap::Args;
use cpu::Places;
pub(crate) use error::DirectorError;
use package::Directory;
use proxy::Proxy;
use server::Servers;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use wrk::Wrk;

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

/// What one run of the client against one proxy showed.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Answers a second.
    rate: f64,
    /// Half of the answers took at most this long, in µs.
    p50: f64,
    /// 99 of 100 answers took at most this long, in µs.
    p99: f64,
    /// Seconds of processor time for a million requests; of no meaning for the servers alone.
    cpu: f64,
}

/// One of a run's figures.
type Figure = fn(&Run) -> f64;

/// Measures all three, `rounds` times.
///
/// # Errors
/// [`DirectorError`]: a program is missing, a proxy does not start, or a request fails.
pub(crate) fn run(settings: &Settings, rounds: usize, quick: bool) -> Result<Vec<Row>, DirectorError> {
    let places = Places::of_this_machine(settings.workers.into());
    let directory = Directory::new()?;
    let servers = Servers::start(&places)?;
    let wrk = Wrk::new(&directory, &places)?;
    let mut proxies = vec![
        Proxy::director(settings.director.as_deref(), &directory, servers.addresses(), &places)?,
        Proxy::haproxy(&directory, servers.addresses(), &places)?,
        Proxy::nginx(&directory, servers.addresses(), &places)?,
    ];
    let length = Duration::from_secs(if quick { 1 } else { settings.seconds.into() });
    let measure = |address: SocketAddr, length| wrk.run(address, settings.connections, length);

    for proxy in &proxies {
        // Opens the connections to the servers, and grows the buffers.
        measure(proxy.address(), Duration::from_secs(1))?;
    }
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); proxies.len() + 1];
    for _ in 0..rounds {
        for (proxy, runs) in proxies.iter_mut().zip(&mut runs) {
            let before = proxy.cpu_seconds()?;
            let result = measure(proxy.address(), length)?;
            runs.push(Run {
                cpu: (proxy.cpu_seconds()? - before) * 1e6 / result.requests,
                ..Run::from(result)
            });
        }
        let alone = measure(servers.addresses()[0], length)?;
        runs.last_mut().expect("one more than there are proxies").push(alone.into());
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
