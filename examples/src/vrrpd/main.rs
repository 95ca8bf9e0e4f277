//! A VRRP daemon: keeps addresses alive on whichever of several machines is able to serve them.
//!
//! `vrrpd --config FILE` runs; `check`, `convert` and `decode` look at files; `status` asks the running one.
//!
//! | part | files |
//! |---|---|
//! | command line | `main`, `tools` |
//! | the loop | `daemon`, `apply`, `signals` |
//! | what is tracked | `checks` |
//! | who is told | `hooks`, `log`, `status`, `control` |
//! | other programs | `program` |
//!
//! What reads configurations and captures belongs to the library: [`lb_examples::vrrpd`].
#![forbid(unsafe_code)]

mod apply;
mod checks;
mod control;
mod daemon;
mod hooks;
mod log;
mod program;
mod signals;
mod status;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lb_examples::vrrpd::config::Disk;

const CONFIG: &str = "/etc/vrrpd.toml";
const SOCKET: &str = "/run/vrrpd.sock";
const RUN_DIRECTORY: &str = "/run/lb-vrrp";

/// A VRRP daemon: keeps addresses alive on whichever of several machines is able to serve them.
///
/// Its configuration is TOML, or a keepalived.conf, of which it reads the VRRP parts.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Signals: SIGHUP reads the configuration again; SIGTERM and Ctrl-C stop, and hand the addresses over; \
                  SIGUSR1 writes the status into the log."
)]
struct Arguments {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The configuration: TOML if it ends in .toml, else keepalived.conf
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Where `vrrpd status` asks
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// Where it is written down what must be cleaned up if vrrpd is killed
    #[arg(long, value_name = "PATH", default_value = RUN_DIRECTORY)]
    run_directory: PathBuf,
    #[command(flatten)]
    conditions: Conditions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file and say what it makes
    Check {
        /// The file: TOML if it ends in .toml, else keepalived.conf
        file: PathBuf,
        #[command(flatten)]
        conditions: Conditions,
    },
    /// Show what a running vrrpd does
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// The running one's socket
        #[arg(long, value_name = "PATH", default_value = SOCKET)]
        socket: PathBuf,
    },
    /// Write a keepalived.conf as TOML to standard output
    Convert {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        conditions: Conditions,
    },
    /// Print each advert of a capture with its verdict and the reason
    Decode {
        /// The capture: pcap or pcapng, `-` for standard input
        capture: PathBuf,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Conditions {
    /// What `@ID` lines of a keepalived.conf are compared with [default: the first part of the host's name]
    #[arg(short = 'i', long, value_name = "ID")]
    config_id: Option<String>,
}

impl Conditions {
    fn disk(self) -> Disk {
        Disk { config_id: self.config_id }
    }
}

/// Whatever ends the program early.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    Tool(#[from] tools::ToolError),
    #[error(transparent)]
    Daemon(#[from] daemon::DaemonError),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("vrrpd: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Fatal> {
    match arguments.command {
        None => {
            let Run { config, socket, run_directory, conditions } = arguments.run;
            daemon::run(&config, conditions.disk(), &socket, &run_directory)?;
        }
        Some(Command::Check { file, conditions }) => tools::check(&file, &conditions.disk())?,
        Some(Command::Status { json, socket }) => tools::status(&socket, json)?,
        Some(Command::Convert { file, conditions }) => tools::convert(&file, &conditions.disk())?,
        Some(Command::Decode { capture, json }) => tools::decode(&capture, json)?,
    }
    Ok(())
}
