//! An HTTP and TCP reverse proxy over any of lb-sched's algorithms.
//!
//! Without arguments it starts four small servers of its own and balances between them; with `--config` it serves a
//! configuration file. `director check FILE` checks such a file and does nothing else.
//!
//! | part | files |
//! |---|---|
//! | what to serve | `config`, `demo`, `site` |
//! | a client's connection | `listener`, `worker`, `client`, `guard`, `scanner`, `watch`, `proxy_protocol` |
//! | a request | `proxy`, `replay`, `headers`, `choose`, `queue`, `persistence`, `cookie`, `exchange`, `body`, `answer` |
//! | a connection to a server | `upstream`, `traffic`, `tunnel`, `tcp`, `pump` |
//! | who may get work | `care` |
//! | what is to be seen | `counters`, `histogram`, `log`, `notices`, `report`, `status_server` |
//! | the whole | `app`, `limits` |
//!
//! `config`, `proxy_protocol` and `scanner` belong to the library: [`lb_examples::director`].
#![forbid(unsafe_code)]

mod affinity;
mod answer;
mod app;
mod body;
mod care;
mod choose;
mod client;
mod cookie;
mod counters;
mod demo;
mod exchange;
mod guard;
mod headers;
mod histogram;
mod limits;
mod listener;
mod log;
mod notices;
mod persistence;
mod proxy;
mod pump;
mod queue;
mod replay;
mod report;
mod site;
mod status_server;
mod tcp;
mod traffic;
mod tunnel;
mod upstream;
mod watch;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lb_examples::director::{config, proxy_protocol, scanner};

use crate::app::{AppError, Cures, Options};
use crate::demo::DemoError;

const LISTEN: &str = "127.0.0.1:8080";
const STATUS: &str = "127.0.0.1:9000";

/// An HTTP and TCP reverse proxy with health checks, persistence, retries and a live status page.
///
/// Without arguments: four built-in servers of different speed behind it, to see how it works.
#[derive(Debug, Parser)]
#[command(
    name = "director",
    version,
    after_help = "Signals: SIGHUP reads the configuration again; SIGTERM and Ctrl-C stop."
)]
struct Arguments {
    /// Serve this configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and stop
    #[arg(long, requires = "config")]
    check: bool,
    /// Where the built-in servers are balanced [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    listen: Option<SocketAddr>,
    /// Where the status page is [default: 127.0.0.1:9000, or as the configuration says]
    #[arg(long, value_name = "ADDRESS:PORT")]
    status: Option<SocketAddr>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file and stop
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Whatever ends the program early.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Demo(#[from] DemoError),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("director: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Fatal> {
    let checked = match (&arguments.command, &arguments.config) {
        (Some(Command::Check { file }), _) => Some(file),
        (None, Some(file)) if arguments.check => Some(file),
        _ => None,
    };
    if let Some(file) = checked {
        let config = config::load(file).map_err(AppError::from)?;
        let servers: usize = config.backends.iter().map(|backend| backend.servers.len()).sum();
        println!(
            "{} is valid: {}, {}, {}",
            file.display(),
            count(config.frontends.len(), "frontend"),
            count(config.backends.len(), "backend"),
            count(servers, "server")
        );
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .map_err(AppError::from)?;
    let served = match &arguments.config {
        Some(file) => serve_file(&runtime, file, arguments.status),
        None => serve_demo(&runtime, &arguments),
    };
    // Probes that still block are nobody's concern any more.
    runtime.shutdown_background();
    served
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn serve_file(
    runtime: &tokio::runtime::LocalRuntime,
    file: &std::path::Path,
    status: Option<SocketAddr>,
) -> Result<(), Fatal> {
    let config = config::load(file).map_err(AppError::from)?;
    let cures = Cures { listen: "`listen` in the configuration", status: "--status" };
    let options = Options { status, cures };
    let ready = |site: &site::Site| {
        for frontend in &site.config.frontends {
            let listen: Vec<String> = frontend.listen.iter().map(ToString::to_string).collect();
            eprintln!("director: {} serves {} on {}", frontend.name, frontend.backend, listen.join(", "));
        }
        if let Some(status) = &site.config.status {
            eprintln!("director: the status page is on http://{}/", status.listen);
        }
    };
    Ok(runtime.block_on(app::run(config, options, ready))?)
}

fn serve_demo(runtime: &tokio::runtime::LocalRuntime, arguments: &Arguments) -> Result<(), Fatal> {
    let address = |given: Option<SocketAddr>, default: &str| {
        given.or_else(|| default.parse().ok()).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    };
    let (listen, status) = (address(arguments.listen, LISTEN), address(arguments.status, STATUS));
    let config = demo::start(listen)?;
    let options = Options { status: Some(status), cures: Cures { listen: "--listen", status: "--status" } };
    let ready = |_: &site::Site| {
        println!("Open http://{status}/ to watch four servers of different speed share the work.");
        println!(
            "Try  curl 'http://{listen}/pi.php?n=100000'  or, to see the numbers move,  \
             cargo run --release --bin load -- 'http://{listen}/pi.php?n=100000' --duration 1m"
        );
        println!("Stop with Ctrl-C.");
    };
    Ok(runtime.block_on(app::run(config, options, ready))?)
}
