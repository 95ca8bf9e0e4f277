//! The commands that only look: `check`, `status`, `convert`, `decode`.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use lb_examples::vrrpd::config::{self, Config, ConvertError, Disk, Problems, Target};
use lb_examples::vrrpd::decode::{self, CaptureError, Shown};

use crate::checks;
use crate::control::{self, ControlError};
use crate::program::{self, ProgramError};

/// Why one of them did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error(transparent)]
    Problems(#[from] Problems),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{file}: can't be read: {source}")]
    Read { file: String, source: io::Error },
    #[error("{file}: {source}")]
    Capture { file: String, source: CaptureError },
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// `vrrpd check FILE`.
pub(crate) fn check(file: &Path, disk: &Disk) -> Result<(), ToolError> {
    let warn = |warning: &String| eprintln!("vrrpd: warning: {warning}");
    let config =
        config::load(file, disk).inspect_err(|problems| problems.warnings().iter().for_each(warn))?;
    config.warnings.iter().for_each(warn);
    program::check_all(&config)?.iter().chain(&checks::missing_interfaces(&config)).for_each(warn);
    let mut out = io::stdout().lock();
    quiet(summarize(&config, file, &mut out))
}

/// Says what a configuration makes, a line for each instance.
fn summarize(config: &Config, file: &Path, out: &mut dyn Write) -> io::Result<()> {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    write!(out, "{} is valid: {}", file.display(), count(config.instances.len(), "instance"))?;
    for (number, what) in [
        (config.groups.len(), "group"),
        (config.scripts.len(), "script"),
        (config.processes.len(), "tracked process"),
        (config.files.len(), "tracked file"),
    ] {
        if number > 0 {
            write!(out, ", {}", count(number, what).replace("processs", "processes"))?;
        }
    }
    writeln!(out)?;
    for (at, instance) in config.instances.iter().enumerate() {
        let router = &instance.router;
        write!(
            out,
            "{}: version {} vrid {} priority {} every {} on {}",
            instance.name, router.version, router.vrid, router.priority, router.interval, instance.interface
        )?;
        if let Some(vmac) = &instance.vmac {
            write!(out, " with the virtual MAC")?;
            if let Some(name) = &vmac.name {
                write!(out, " on {name}")?;
            }
        }
        if !router.unicast_peers.is_empty() {
            let peers: Vec<String> = router.unicast_peers.iter().map(ToString::to_string).collect();
            write!(out, " to {}", peers.join(" "))?;
        }
        let addresses: Vec<String> = router.addresses.iter().map(ToString::to_string).collect();
        write!(out, ", addresses {}", addresses.join(" "))?;
        if let Some(hmac) = &router.hmac {
            write!(out, ", signed with key {} ({})", hmac.active_key, config::hmac_mode(hmac.mode))?;
        }
        if !router.preempt {
            write!(out, ", nopreempt")?;
        }
        if !router.accept {
            write!(out, ", no_accept")?;
        }
        for (at, track) in instance.tracks.iter().enumerate() {
            let name = match &track.target {
                Target::Interface(name) => name,
                Target::Script(at) => &config.scripts[*at].name,
                Target::Process(at) => &config.processes[*at].name,
                Target::File(at) => &config.files[*at].name,
            };
            write!(out, "{} {name}", if at == 0 { ", tracks" } else { "" })?;
        }
        if let Some(group) = config.groups.iter().find(|group| group.members.contains(&at)) {
            write!(out, ", in group {}", group.name)?;
        }
        writeln!(out)?;
    }
    out.flush()
}

/// `vrrpd status`.
pub(crate) fn status(socket: &Path, json: bool) -> Result<(), ToolError> {
    let status = control::ask(socket)?;
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(&status).map_err(io::Error::other)?;
        quiet(writeln!(out, "{text}"))
    } else {
        quiet(write!(out, "{status}"))
    }
}

/// `vrrpd convert FILE`.
pub(crate) fn convert(file: &Path, disk: &Disk) -> Result<(), ToolError> {
    let text = config::read(file, disk)
        .map_err(|source| ToolError::Read { file: file.display().to_string(), source })?;
    let toml = config::convert(file, &text, disk)?;
    quiet(io::stdout().lock().write_all(toml.as_bytes()))
}

/// `vrrpd decode CAPTURE`.
pub(crate) fn decode(capture: &Path, json: bool) -> Result<(), ToolError> {
    let name = capture.display().to_string();
    let source: Box<dyn Read + Send> = if name == "-" {
        Box::new(io::stdin())
    } else {
        let opened = File::open(capture).map_err(|source| ToolError::Read { file: name.clone(), source })?;
        Box::new(opened)
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut valid, mut written) = (0_u64, Ok(()));
    let read = decode::read(source, |packet| {
        valid += u64::from(packet.verdict().is_ok());
        if written.is_ok() {
            let shown = Shown(&packet);
            written = if json { writeln!(out, "{}", shown.json()) } else { writeln!(out, "{shown}") };
        }
    });
    quiet(written.and_then(|()| out.flush()))?;
    let summary = read.map_err(|source| ToolError::Capture { file: name.clone(), source })?;
    if summary.cut {
        eprintln!("vrrpd: {name} ends within a packet");
    }
    if let Some((count, link)) = summary.unknown {
        eprintln!(
            "vrrpd: {count} packets of link type {link} were passed over: Ethernet, cooked and bare IP are understood"
        );
    }
    if !json {
        eprintln!(
            "vrrpd: {} adverts, {valid} of them valid; {} other packets",
            summary.adverts, summary.others
        );
    }
    Ok(())
}

/// A reader that has seen enough (`| head`) is no error.
fn quiet(written: io::Result<()>) -> Result<(), ToolError> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
