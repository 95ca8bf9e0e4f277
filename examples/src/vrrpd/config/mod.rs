//! What vrrpd runs: read from TOML or from the VRRP parts of a keepalived.conf, checked whole, then immutable.
//!
//! Both forms have keepalived's keywords and go through the same reading: a TOML file is turned into the lines that
//! keepalived.conf would have (`table`), then one builder makes a [`Config`] of either. What keepalived knows and vrrpd does
//! not is named with its line: as a warning, or as an error if another router would have the address without it.

mod build;
mod conf;
mod convert;
mod global;
mod hmac;
mod instance;
mod item;
mod known;
mod problem;
mod table;
mod track;
mod words;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_vrrp::VirtualAddress;
use lb_vrrp::track::Check;

use crate::director::config::{ConfigError, Place, quoted};

pub use conf::{Disk, Files};
pub use convert::{ConvertError, convert};
pub use hmac::mode as hmac_mode;
pub use problem::{Problem, Problems};

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What holds for the whole program.
    pub global: Global,
    /// The virtual routers.
    pub instances: Vec<Instance>,
    /// Which of them go together.
    pub groups: Vec<Group>,
    /// Scripts that are run again and again.
    pub scripts: Vec<Script>,
    /// Processes that are looked for.
    pub processes: Vec<Process>,
    /// Files with a number.
    pub files: Vec<NumberFile>,
    /// What was left out, a sentence each with its place.
    pub warnings: Vec<String>,
}

/// What holds for the whole program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Global {
    /// What the machine is called; the host's name if nothing is said.
    pub router_id: Option<String>,
    /// Who runs scripts that name nobody.
    pub script_user: Option<User>,
    /// Whether scripts that root runs must not be writable by others (keepalived's `enable_script_security`).
    pub script_security: bool,
    /// The real-time priority of the program (`vrrp_rt_priority`).
    pub rt_priority: Option<u8>,
    /// Whether its memory is locked (`vrrp_no_swap`).
    pub no_swap: bool,
}

/// A user and a group by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub name: String,
    /// The group, if not the user's own.
    pub group: Option<String>,
}

/// A program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments. Never empty.
    pub words: Vec<String>,
    /// Who runs it, if not [`Global::script_user`].
    pub user: Option<User>,
    /// Where it was named.
    pub place: Place,
}

/// Programs that are told of transitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// To Active.
    pub master: Option<Command>,
    /// To Backup.
    pub backup: Option<Command>,
    /// To a fault.
    pub fault: Option<Command>,
    /// When the program ends.
    pub stop: Option<Command>,
    /// Any of these, with four arguments more: `INSTANCE` or `GROUP`, the name, the state, the priority.
    pub any: Option<Command>,
}

/// One virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Unique name.
    pub name: String,
    /// Where it was defined.
    pub place: Place,
    /// The interface that adverts go through.
    pub interface: String,
    /// The router itself.
    pub router: lb_vrrp::Config,
    /// Where adverts come from, if not from the interface's first address.
    pub source: Option<IpAddr>,
    /// The interface of the virtual MAC address, if one is wanted.
    pub vmac: Option<Vmac>,
    /// What else it tracks.
    pub tracks: Vec<Track>,
    /// Who is told.
    pub hooks: Hooks,
}

impl Instance {
    /// The interface that an address floats on.
    #[must_use]
    pub fn interface_of<'a>(&'a self, address: &'a VirtualAddress) -> &'a str {
        address.interface.as_ref().map_or(&self.interface, |interface| interface.as_str())
    }
}

/// An interface with the virtual MAC address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vmac {
    /// Its name, if it is to have a certain one.
    pub name: Option<String>,
    /// Adverts go through the parent interface all the same.
    pub transmit_base: bool,
}

/// Something that moves an instance's priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// What it is.
    pub target: Target,
    /// How it weighs. Of a file only the weight counts.
    pub check: Check,
}

/// What is tracked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An interface.
    Interface(String),
    /// [`Config::scripts`] at this index.
    Script(usize),
    /// [`Config::processes`] at this index.
    Process(usize),
    /// [`Config::files`] at this index.
    File(usize),
}

/// A script that is run again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Unique name.
    pub name: String,
    /// What is run.
    pub command: Command,
    /// From start to start.
    pub interval: Duration,
    /// After which it has failed; the interval if nothing was said.
    pub timeout: Duration,
    /// How it weighs where nothing else is said.
    pub check: Check,
}

/// A process that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Unique name.
    pub name: String,
    /// The program's name and, if `parameters` says so, its arguments.
    pub words: Vec<String>,
    /// How the arguments are compared.
    pub parameters: Parameters,
    /// Compare the name with the command line's first word rather than with the process's name.
    pub full_command: bool,
    /// At least so many.
    pub quorum: u32,
    /// At most so many.
    pub quorum_max: u32,
    /// How long it must be there before it counts.
    pub fork_delay: Duration,
    /// How long it must be gone before that counts.
    pub terminate_delay: Duration,
    /// How it weighs where nothing else is said.
    pub check: Check,
}

/// How a process's arguments are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parameters {
    /// Not at all.
    #[default]
    Any,
    /// They are the same.
    Exact,
    /// The first ones are the same.
    Partial,
    /// The first ones are the same, and the last may be longer.
    Initial,
}

/// A file with a number in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberFile {
    /// Unique name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// How its number weighs where nothing else is said.
    pub check: Check,
    /// What is written into it at the start, and whether it is if it is there already.
    pub initial: Option<(i32, bool)>,
}

/// Instances that are active together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Unique name.
    pub name: String,
    /// [`Config::instances`] at these indexes.
    pub members: Vec<usize>,
    /// Who is told.
    pub hooks: Hooks,
}

/// Reads and checks a file: TOML if it ends in `.toml`, keepalived.conf else. What it includes comes from `files`.
///
/// # Errors
/// All that is wrong, each with its place.
pub fn load(path: &Path, files: &dyn Files) -> Result<Config, Problems> {
    let text =
        read(path, files).map_err(|source| Problems::from(Problem::from(ConfigError::read(path, source))))?;
    parse(path, &text, files)
}

/// The text of a configuration file. TOML is UTF-8; of a keepalived.conf that need not hold for the comments.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path, files: &dyn Files) -> std::io::Result<String> {
    if is_toml(path) { std::fs::read_to_string(path) } else { files.read(path) }
}

/// Checks a text; `file` is what messages call it, and its ending says the form. keepalived.conf may include `files`.
///
/// # Errors
/// All that is wrong, each with its place.
pub fn parse(file: &Path, text: &str, files: &dyn Files) -> Result<Config, Problems> {
    let mut findings = problem::Findings::default();
    let items = items(file, text, files, &mut findings);
    let config = build::build(file, &items, files, &mut findings);
    let (mut config, warnings) = findings.conclude(config)?;
    config.warnings = warnings;
    Ok(config)
}

/// Whether `file` is TOML by its name.
fn is_toml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

fn items(file: &Path, text: &str, files: &dyn Files, findings: &mut problem::Findings) -> Vec<item::Item> {
    if is_toml(file) { table::parse(file, text, findings) } else { conf::parse(file, text, files, findings) }
}

#[cfg(test)]
mod tests;
