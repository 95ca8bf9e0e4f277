//! A VRRP daemon: keeps addresses alive on whichever of several machines is able to serve them.
//!
//! `vrrpd --config FILE` runs; `check`, `convert` and `decode` look at files; `status` asks the running one.
//!
//! | part | files |
//! |---|---|
//! | command line | `main`, `tools` |
//!
//! What reads configurations and captures belongs to the library: [`lb_examples::vrrpd`].
#![forbid(unsafe_code)]

mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A VRRP daemon: keeps addresses alive on whichever of several machines is able to serve them.
///
/// Its configuration is TOML, or a keepalived.conf, of which it reads the VRRP parts.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file and say what it makes
    Check {
        /// The file: TOML if it ends in .toml, else keepalived.conf
        file: PathBuf,
    },
    /// Write a keepalived.conf as TOML to standard output
    Convert {
        /// The file
        file: PathBuf,
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

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check { file } => tools::check(&file),
        Command::Convert { file } => tools::convert(&file),
        Command::Decode { capture, json } => tools::decode(&capture, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("vrrpd: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
