//! An HTTP load generator: `load http://127.0.0.1:8080/index.php --requests 100000 --concurrency 128 --threads 2`.

mod client;
mod pace;
mod run;
mod tally;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hyper::Uri;
use hyper::http::uri::{PathAndQuery, Scheme};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::net::{TcpStream, lookup_host};
use tokio::signal::unix::{Signal, SignalKind, signal};

use client::Target;
use run::{Ended, Volume, run};
use tally::Summary;

/// An HTTP load generator.
///
/// Sends GET requests over keep-alive connections and tells requests a second, latencies, statuses and errors. Ends
/// with code 1 when a request failed: no answer, or a status outside 200 to 399. Ctrl-C ends it early, and it tells
/// what it measured so far.
#[derive(Parser)]
#[command(name = "load", version)]
struct Options {
    /// What to ask for, as http://127.0.0.1:8080/index.php.
    url: String,
    /// Requests in all, or for each n of a sweep [default: 10000, without limit when --duration is given].
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Connections, each with one request at a time.
    #[arg(short, long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=65535))]
    concurrency: u32,
    /// Threads that share the connections.
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Requests a second in all, evenly spaced; latencies then count from when a request was due.
    #[arg(short, long)]
    rate: Option<f64>,
    /// How long to run, or for each n of a sweep: 30s, 2m.
    #[arg(short, long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Runs once for each of these n, as n=... in the query, and prints a table.
    #[arg(short, long, value_delimiter = ',', value_name = "N,N,...")]
    sweep: Vec<u64>,
    /// A header to send, as 'name: value'; may be repeated.
    #[arg(short = 'H', long, value_name = "HEADER")]
    header: Vec<String>,
    /// The longest that a request may take before it has failed.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Prints JSON: an object, or with --sweep an array of them.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(load(Options::parse())),
        Err(error) => Err(format!("there is no event loop ({error}); raise the limit of open files")),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_failed) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("load: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Does all runs and prints their figures; gives the number of failed requests.
async fn load(options: Options) -> Result<u64, String> {
    if let Some(rate) = options.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
        return Err(format!("--rate {rate} is no number of requests a second; use one above 0"));
    }
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| format!("cannot listen for Ctrl-C ({error})"))?;
    let runs =
        if options.sweep.is_empty() { vec![None] } else { options.sweep.iter().copied().map(Some).collect() };
    let table = !options.sweep.is_empty() && !options.json;
    if table {
        println!("{}", Summary::heads());
    }
    let mut summaries = Vec::new();
    for n in runs {
        let (summary, interrupted) = one_run(&options, n, &mut interrupt).await?;
        if table {
            println!("{}", summary.line());
        }
        summaries.push(summary);
        if interrupted {
            break;
        }
    }
    match &summaries[..] {
        _ if table => {}
        [summary] if options.sweep.is_empty() && options.json => println!("{}", json(summary)?),
        [summary] if options.sweep.is_empty() => print!("{summary}"),
        summaries => println!("{}", json(summaries)?),
    }
    Ok(summaries.iter().map(|summary| summary.failed).sum())
}

fn json<T: serde::Serialize + ?Sized>(figures: &T) -> Result<String, String> {
    serde_json::to_string_pretty(figures)
        .map_err(|error| format!("the figures do not fit into JSON ({error})"))
}

/// One run, with `n` in the query when it is part of a sweep; says too whether Ctrl-C ended it.
async fn one_run(
    options: &Options,
    n: Option<u64>,
    interrupt: &mut Signal,
) -> Result<(Summary, bool), String> {
    let url = n.map_or_else(|| options.url.clone(), |n| with_n(&options.url, n));
    let target = target(&url, options).await?;
    let volume = Volume {
        requests: options.requests.or(options.duration.is_none().then_some(10_000)),
        duration: options.duration,
        rate: options.rate,
        concurrency: options.concurrency,
        threads: options.threads,
    };
    let bar = progress(&volume, n);
    let ended = run(target, volume, &bar, interrupt).await;
    bar.finish_and_clear();
    let Ended { tally, time, interrupted } = ended?;
    Ok((tally.summary(url, n, time), interrupted))
}

/// A bar on the terminal, if there is one: requests where their number is given, else tenths of seconds.
fn progress(volume: &Volume, n: Option<u64>) -> ProgressBar {
    let tenths = volume.duration.map(|duration| duration.as_millis() as u64 / 100);
    let bar = ProgressBar::new(volume.requests.or(tenths).unwrap_or_default());
    let style = ProgressStyle::with_template("{prefix}{bar:40} {percent:>3} % {msg}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(n.map_or_else(String::new, |n| format!("n = {n} ")));
    bar
}

/// Takes the URL apart, and finds the address of its host that answers.
async fn target(url: &str, options: &Options) -> Result<Target, String> {
    let wrong = |why: &str| format!("{url:?} {why}; write http://HOST:PORT/PATH");
    let url: Uri = url.parse().map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if url.scheme() != Some(&Scheme::HTTP) {
        return Err(wrong("is not plain HTTP"));
    }
    let (Some(authority), Some(host)) = (url.authority(), url.host()) else {
        return Err(wrong("has no host"));
    };
    let path = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let port = url.port_u16().unwrap_or(80);
    let headers = client::headers(authority.as_str(), &options.header)?;
    // A literal IPv6 address stands in brackets, which the resolver does not want.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses =
        lookup_host((name, port)).await.map_err(|error| format!("{host} has no address ({error})"))?;
    let mut last = format!("{host} has no address");
    for address in addresses {
        match tokio::time::timeout(options.timeout, TcpStream::connect(address)).await {
            Ok(Ok(_answers)) => {
                return Ok(Target { address, path: path.into(), headers, timeout: options.timeout });
            }
            Ok(Err(error)) => last = format!("cannot connect to {address} ({error}); is the server running?"),
            Err(_) => last = format!("{address} does not answer; is there a firewall?"),
        }
    }
    Err(last)
}

/// The URL with `n` in its query, in place of the one that is there.
fn with_n(url: &str, n: u64) -> String {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let others = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("n="));
    let pairs: Vec<_> = others.map(String::from).chain([format!("n={n}")]).collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_replaces_n() {
        for (url, wanted) in [
            ("http://host/pi.php", "http://host/pi.php?n=7"),
            ("http://host/pi.php?n=1", "http://host/pi.php?n=7"),
            ("http://host/pi.php?format=json&n=1&nn=2", "http://host/pi.php?format=json&nn=2&n=7"),
        ] {
            assert_eq!(with_n(url, 7), wanted);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
