//! Defines, starts, pins, watches and moves virtual machines on any hypervisor.
//!
//! | part | files |
//! |---|---|
//! | command line | `main` |
//! | which host; a simulated one that is kept in a file | `host` |
//! | definitions, in TOML and in libvirt's XML | `definition` |
//! | lists and machines, as text and JSON | `show` |
//! | what machines use, live | `stats` |
//! | moving, with a progress bar | `migrate` |
//! | size, disks, network interfaces, clones | `change` |
#![forbid(unsafe_code)]

mod change;
mod definition;
mod host;
mod migrate;
mod show;
mod stats;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use lb_affinity::CpuSet;
use lb_virt::domain::Pins;
use lb_virt::hypervisor::Capabilities;
use lb_virt::migration::Conclusion;
use lb_virt::{State, VirtError};

use host::Host;

const AFTER_HELP: &str = "\
Begin with `machines define --example | machines define -`, then `machines start web1` and `machines list`: nothing has to be \
installed for it, because without --host the machines are simulated.

Hosts: sim: (kept in your state directory), sim:FILE, qemu:DIRECTORY, xen:, vbox:, libvirt+URI (built with --features libvirt).

Exit status: 0 if all was done, 1 if not, 2 if the command line is wrong.";

/// Virtual machines on any hypervisor: simulated, QEMU, Xen, VirtualBox, and what libvirt reaches.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    /// The host, by its URI
    #[arg(
        short = 'H',
        long,
        global = true,
        default_value = "sim:",
        env = "MACHINES_HOST",
        value_name = "URI"
    )]
    host: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Define a machine from a file: TOML, or libvirt's XML
    Define {
        /// The file; - is the standard input
        #[arg(required_unless_present = "example")]
        file: Option<PathBuf>,
        /// Print a definition to begin with
        #[arg(long)]
        example: bool,
    },
    /// Boot machines
    Start {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Ask machines to shut down
    #[command(visible_alias = "shutdown")]
    Stop {
        #[arg(required = true)]
        names: Vec<String>,
        /// Wait until they have, at most so long
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        wait: Option<Duration>,
    },
    /// Take machines' power
    #[command(visible_alias = "off")]
    PowerOff {
        #[arg(required = true)]
        names: Vec<String>,
        /// Also of those that run on another host while part of their memory is here alone, which is lost then
        #[arg(long)]
        half: bool,
    },
    /// Ask machines to start anew
    Reboot {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Wake machines that their guests have suspended
    Wake {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Stop machines' virtual CPUs
    Pause {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let paused machines go on
    Resume {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// List the machines
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a machine: its state, and its definition as `define` takes it
    Show {
        name: String,
        /// As JSON
        #[arg(long, conflicts_with = "xml")]
        json: bool,
        /// The definition as libvirt's XML
        #[arg(long)]
        xml: bool,
    },
    /// Give a machine other virtual CPUs and memory
    Resize {
        name: String,
        #[command(flatten)]
        to: change::Size,
    },
    /// Give a machine a disk or a network interface
    Attach {
        #[command(subcommand)]
        what: change::Attach,
    },
    /// Take a disk or a network interface from a machine
    Detach {
        #[command(subcommand)]
        what: change::Detach,
    },
    /// Make a machine from another
    Clone(change::Clone),
    /// Pin virtual CPUs to CPUs of the host: 0=4 1=5-7; those that are not named run anywhere. Without pins: show them
    Pin {
        name: String,
        /// A virtual CPU and its CPUs
        #[arg(value_name = "VCPU=CPUS")]
        pins: Vec<String>,
        /// Let all of them run anywhere
        #[arg(long, conflicts_with = "pins")]
        none: bool,
    },
    /// Move a machine to another host, while it runs or at rest
    Migrate(migrate::Arguments),
    /// Keep a machine as it is now, or make it what it was
    Snapshot {
        #[command(subcommand)]
        command: Snapshot,
    },
    /// Say where a machine's serial console is
    Console { name: String },
    /// Show what machines use
    Stats(stats::Arguments),
    /// Remove machines' definitions and snapshots, not their disks
    Delete {
        #[arg(required = true)]
        names: Vec<String>,
        /// Those whose definition can't be read, listed as unknown, and of which nothing runs
        #[arg(long)]
        broken: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Snapshot {
    /// Keep its disks, and its memory if it runs
    Take { name: String, snapshot: String },
    /// List what is kept, the oldest first
    List { name: String },
    /// Make it what it was
    Restore { name: String, snapshot: String },
    /// Forget what was kept
    Delete { name: String, snapshot: String },
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(text) => host::print(&text),
        Err(error) => {
            eprintln!("machines: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked, and says what is to be printed.
fn run(arguments: &Arguments) -> Result<String, Failure> {
    if let Command::Define { example: true, .. } = arguments.command {
        return Ok(definition::EXAMPLE.into());
    }
    // Read before the host is opened: who types it keeps nobody else from the host meanwhile.
    let spec = match &arguments.command {
        Command::Define { file, .. } => Some(definition::read(file.as_deref().unwrap_or("-".as_ref()))?),
        _ => None,
    };
    let mut host = Host::open(&arguments.host)?;
    let done = match &spec {
        Some(spec) => host.get().define(spec).map(|()| String::new()).map_err(Failure::from),
        None => command(&arguments.host, &mut host, &arguments.command),
    };
    // What was done before something failed is kept too.
    host.close()?;
    done
}

fn command(uri: &str, host: &mut Host, command: &Command) -> Result<String, Failure> {
    match command {
        // `run` has read it, and done so.
        Command::Define { .. } => {}
        Command::Start { names } => each(names, |name| Ok(host.get().start(name)?))?,
        Command::Stop { names, wait } => {
            each(names, |name| Ok(host.get().shut_down(name)?))?;
            if let Some(wait) = wait {
                let end = Instant::now().checked_add(*wait);
                each(names, |name| until_off(host, name, end))?;
            }
        }
        Command::PowerOff { names, half } => {
            each(names, |name| match host.get().power_off(name) {
                Err(VirtError::Half { .. }) if *half => Ok(host.get().conclude(name, Conclusion::GiveUp)?),
                done => Ok(done?),
            })?;
        }
        Command::Reboot { names } => each(names, |name| Ok(host.get().reboot(name)?))?,
        Command::Wake { names } => each(names, |name| Ok(host.get().wake(name)?))?,
        Command::Pause { names } => each(names, |name| Ok(host.get().pause(name)?))?,
        Command::Resume { names } => each(names, |name| Ok(host.get().resume(name)?))?,
        Command::Delete { names, broken: true } => each(names, |name| Ok(host.get().discard(name)?))?,
        Command::Delete { names, .. } => each(names, |name| Ok(host.get().delete(name)?))?,
        Command::List { json } => return show::list(&host.get().list()?, *json),
        Command::Show { name, json, xml } => {
            return show::machine(host.get(), name, *json, *xml);
        }
        Command::Resize { name, to } => return change::resize(host, name, to),
        Command::Attach { what } => return change::attach(host, what),
        Command::Detach { what } => return change::detach(host, what),
        Command::Clone(arguments) => change::clone(host, arguments)?,
        Command::Pin { name, pins, none } => return pin(host, name, pins, *none),
        Command::Migrate(arguments) => return migrate::run(uri, host, arguments),
        Command::Snapshot { command } => return snapshot(host, command),
        Command::Console { name } => return Ok(format!("{}\n", host.get().console(name)?)),
        Command::Stats(arguments) => return stats::run(host, arguments),
    }
    Ok(String::new())
}

/// Does it to each; the first that fails ends it.
fn each(names: &[String], mut act: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    names.iter().try_for_each(|name| act(name))
}

/// Waits until it is off, for ever without an end. A machine without a definition is gone then.
fn until_off(host: &mut Host, name: &str, end: Option<Instant>) -> Result<(), Failure> {
    loop {
        let state = match host.get().state(name) {
            Ok(State::ShutOff | State::Crashed) | Err(VirtError::NoMachine { .. }) => return Ok(()),
            state => state?,
        };
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(format!(
                "{name} is still {state}: it may not obey; `machines power-off {name}` takes its power"
            )
            .into());
        }
        host.rest(Duration::from_millis(100))?;
    }
}

/// Shows a machine's pins, or changes those of its virtual CPUs.
fn pin(host: &mut Host, name: &str, pins: &[String], none: bool) -> Result<String, Failure> {
    let spec = host.get().spec(name)?;
    if pins.is_empty() && !none {
        let text = |vcpu| spec.pins.vcpus.get(&vcpu).map_or_else(|| "any".into(), ToString::to_string);
        return Ok((0..spec.vcpus).map(|vcpu| format!("{vcpu}={}\n", text(vcpu))).collect());
    }
    let pins = Pins { vcpus: parse_pins(pins)?, ..spec.pins };
    Ok(change::when(host.get().pin(name, &pins)?).into())
}

fn parse_pins(pins: &[String]) -> Result<BTreeMap<u32, CpuSet>, Failure> {
    let mut parsed = BTreeMap::new();
    for pin in pins {
        let (vcpu, cpus) =
            pin.split_once('=').ok_or_else(|| format!("{pin:?} is no pin: write 0=4 or 1=5-7"))?;
        let vcpu = vcpu.parse().map_err(|_| format!("{vcpu:?} is no virtual CPU: write its number"))?;
        if parsed.insert(vcpu, cpus.parse()?).is_some() {
            return Err(format!("virtual CPU {vcpu} is pinned twice: name it once, with all its CPUs").into());
        }
    }
    Ok(parsed)
}

fn snapshot(host: &mut Host, command: &Snapshot) -> Result<String, Failure> {
    let machines = host.get();
    match command {
        Snapshot::Take { name, snapshot } => machines.take_snapshot(name, snapshot)?,
        Snapshot::Restore { name, snapshot } => machines.restore_snapshot(name, snapshot)?,
        Snapshot::Delete { name, snapshot } => machines.delete_snapshot(name, snapshot)?,
        Snapshot::List { name } => {
            if !machines.capabilities().contains(Capabilities::SNAPSHOTS) {
                return Err(format!("{} takes no snapshots", machines.name()).into());
            }
            let kept = machines.snapshots(name)?;
            return Ok(kept.iter().map(|one| format!("{}  {}\n", one.name, one.state)).collect());
        }
    }
    Ok(String::new())
}
