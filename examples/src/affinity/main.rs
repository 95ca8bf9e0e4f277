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

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const AFTER_HELP: &str = "\
Begin with `affinity show`, then `affinity plan --nic eth0 --workers 4`. Root may then `affinity apply` the same, and \
`affinity restore` what was before.

Exit status: 0 if all was done, 1 if something failed or was left undone, 2 if the command line is wrong.";

/// Where everything of a network server belongs on this machine: see it, plan it, apply it, take it back.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
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
    ///
    /// Needs root. What was there before is kept, and each value is read back; if one is refused, all are put back. Workers are
    /// not moved: each has to be pinned where the plan says, by the server's own configuration or by `taskset --cpu-list`.
    Apply(apply::Arguments),
    /// Put everything back as it was before `apply`
    Restore(apply::RestoreArguments),
    /// Show interrupts and soft interrupts of each CPU, live
    ///
    /// One table after the other, all in events a second: the interrupts that a CPU takes; those of them that come from devices, and not from
    /// its own timer or other CPUs; and its soft interrupts for received (NET_RX) and sent packets (NET_TX), which is where the
    /// network work is done. Below, the busiest interrupts of devices.
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
                // If nobody reads this either, there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "affinity: {}", printable(line));
            }
            ExitCode::FAILURE
        }
    }
}

/// A line as a terminal may have it: what is quoted from a file may hold commands to the terminal.
fn printable(line: &str) -> String {
    let mut text = String::new();
    for character in line.chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_terminal_gets_no_commands() {
        assert_eq!(printable("a \u{1b}[2J \u{9b}m é"), r"a \u{1b}[2J \u{9b}m é");
    }
}
