//! Shows how a machine is built, plans where workers, interrupts and network work go, applies that, and takes it back.
//!
//! | part | files |
//! |---|---|
//! | command line | `main` |
//! | which machine | `source` |
//! | text and JSON of a machine | `show`, `picture` |
//! | plans, and their order | `plan` |
//! | what changes the system | `apply` |
//! | interrupts, live | `watch` |
#![forbid(unsafe_code)]

mod apply;
mod picture;
mod plan;
mod show;
mod source;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Where everything of a network server belongs on this machine: see it, plan it, apply it, take it back.
#[derive(Debug, Parser)]
#[command(version, after_help = "Begin with `affinity show`, then `affinity plan --nic eth0 --workers 4`.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw the machine: nodes, caches, cores, CPUs
    Show(show::Arguments),
    /// Say where workers, interrupts and network work should go, and why
    Plan(plan::Arguments),
    /// Carry a plan out: interrupts, RPS, RFS, XPS; with `--queues`, the number of queues first
    Apply(apply::Arguments),
    /// Put everything back as it was before `apply`
    Restore(apply::RestoreArguments),
    /// Show interrupts and soft interrupts of each CPU, live
    Watch(watch::Arguments),
}

/// Whatever ends the program early.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    Source(#[from] source::SourceError),
    #[error(transparent)]
    Plan(#[from] plan::PlanningError),
    #[error(transparent)]
    Apply(#[from] apply::ApplyingError),
    #[error(transparent)]
    Watch(#[from] watch::WatchError),
    #[error("the output can't be written: {0}")]
    Output(#[from] std::io::Error),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Show(arguments) => show::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::Restore(arguments) => apply::restore(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
    };
    match result {
        Ok(status) => status,
        // Whoever reads has seen enough.
        Err(Fatal::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("affinity: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
