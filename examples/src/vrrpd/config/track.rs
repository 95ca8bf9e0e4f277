//! What is tracked: `vrrp_script`, `vrrp_track_process`, `track_file`, and the lines of an instance that name them.

use std::time::Duration;

use lb_vrrp::track::{Check, Weight};

use super::build::{named, unknown};
use super::global::DAY;
use super::item::Item;
use super::problem::{At, Findings};
use super::words::{INTERFACE, Line, is_interface, user};
use super::{Command, Config, NumberFile, Parameters, Process, Script, Target, Track};

/// The weights that a tracked thing can have, in words.
const WEIGHT: &str = "a whole number, -253 to 253, then perhaps reverse";

/// Reads a `vrrp_script`.
pub(super) fn script(item: &Item, findings: &mut Findings) -> Option<Script> {
    const KEYWORDS: [&str; 8] =
        ["script", "interval", "timeout", "weight", "rise", "fall", "user", "init_fail"];
    let (name, section) = named(item, findings)?;
    let mut command: Option<Command> = None;
    let mut interval = Duration::from_secs(1);
    let mut timeout = None;
    let mut runs_as = None;
    let mut check = Check::default();
    for item in item.lines() {
        let line = &mut Line { item, section: &section, findings };
        match item.keyword() {
            "script" => command = line.command().or(command),
            "interval" => interval = line.seconds(1..=DAY).unwrap_or(interval),
            "timeout" => timeout = line.seconds(1..=DAY),
            "weight" => weight(line, &mut check),
            "rise" => check.rise = line.integer(1..=255).map_or(1, |number| number as u8),
            "fall" => check.fall = line.integer(1..=255).map_or(1, |number| number as u8),
            "user" => match item.arguments() {
                words @ ([_] | [_, _]) => runs_as = user(words),
                _ => line.refuse("a user, and perhaps a group", &[]),
            },
            "init_fail" => check.initially_down = line.switch().unwrap_or_default(),
            _ => unknown("vrrp_script", &section, item, &KEYWORDS, findings),
        }
    }
    let Some(mut command) = command else {
        if !item.lines().iter().any(|line| line.keyword() == "script") {
            findings.missing(&item.place, &section, "script", "a command with its whole path");
        }
        return None;
    };
    command.user = runs_as.or(command.user);
    Some(Script { name, command, interval, timeout: timeout.unwrap_or(interval), check })
}

/// Reads a `vrrp_track_process`.
pub(super) fn process(item: &Item, findings: &mut Findings) -> Option<Process> {
    const KEYWORDS: [&str; 9] = [
        "process",
        "param_match",
        "weight",
        "quorum",
        "quorum_max",
        "fork_delay",
        "terminate_delay",
        "delay",
        "full_command",
    ];
    let (name, section) = named(item, findings)?;
    let mut process = Process {
        name,
        words: Vec::new(),
        parameters: Parameters::Any,
        full_command: false,
        quorum: 1,
        quorum_max: u32::MAX,
        fork_delay: Duration::ZERO,
        terminate_delay: Duration::ZERO,
        check: Check { weight: Weight::new(1).unwrap_or_default(), ..Check::default() },
    };
    let mut compared = None;
    let most = i64::from(u32::MAX);
    for item in item.lines() {
        let line = &mut Line { item, section: &section, findings };
        match item.keyword() {
            "process" if item.arguments().is_empty() => line.refuse("a program's name", &[]),
            "process" => process.words = item.arguments().to_vec(),
            "param_match" => {
                compared = line.one("initial or partial", |word| match word {
                    "initial" => Some(Parameters::Initial),
                    "partial" => Some(Parameters::Partial),
                    _ => None,
                });
            }
            "weight" => weight(line, &mut process.check),
            "quorum" => process.quorum = line.integer(1..=most).map_or(1, |number| number as u32),
            "quorum_max" => {
                process.quorum_max = line.integer(0..=most).map_or(u32::MAX, |number| number as u32);
            }
            "fork_delay" => process.fork_delay = line.seconds(0..=DAY).unwrap_or_default(),
            "terminate_delay" => process.terminate_delay = line.seconds(0..=DAY).unwrap_or_default(),
            "delay" => {
                process.fork_delay = line.seconds(0..=DAY).unwrap_or_default();
                process.terminate_delay = process.fork_delay;
            }
            "full_command" => process.full_command = line.switch().unwrap_or_default(),
            _ => unknown("vrrp_track_process", &section, item, &KEYWORDS, findings),
        }
    }
    if process.words.is_empty() {
        if !item.lines().iter().any(|line| line.keyword() == "process") {
            findings.missing(&item.place, &section, "process", "a program's name");
        }
        return None;
    }
    if process.quorum_max == 0 {
        process.quorum = 0;
    }
    if process.quorum > process.quorum_max {
        findings.conflict(&item.place, &section, "quorum is above quorum_max: nothing would do");
    }
    process.parameters = match (compared, process.words.len()) {
        (None, 1) => Parameters::Any,
        // To ask for a match without naming anything asks for no arguments.
        (None, _) | (Some(_), 1) => Parameters::Exact,
        (Some(compared), _) => compared,
    };
    Some(process)
}

/// Reads a `track_file`.
pub(super) fn file(item: &Item, findings: &mut Findings) -> Option<NumberFile> {
    const KEYWORDS: [&str; 3] = ["file", "weight", "init_file"];
    const INITIAL: &str = "perhaps a whole number, then perhaps overwrite";
    let (name, section) = named(item, findings)?;
    let mut path = None;
    let mut check = Check { weight: Weight::new(1).unwrap_or_default(), ..Check::default() };
    let mut initial = None;
    for item in item.lines() {
        let line = &mut Line { item, section: &section, findings };
        match item.keyword() {
            "file" => {
                path = line.one("a file with its whole path", |word| {
                    (word.starts_with('/') && !word.contains('\0')).then(|| word.into())
                });
            }
            "weight" => weight(line, &mut check),
            "init_file" => {
                let words: Vec<&str> = item.arguments().iter().map(String::as_str).collect();
                let (number, overwrite) = match words.as_slice() {
                    [] => (Ok(0), false),
                    ["overwrite"] => (Ok(0), true),
                    [number] => (number.parse(), false),
                    [number, "overwrite"] => (number.parse(), true),
                    _ => {
                        line.refuse(INITIAL, &["overwrite"]);
                        continue;
                    }
                };
                match number {
                    Ok(number) => initial = Some((number, overwrite)),
                    Err(_) => line.refuse(INITIAL, &["overwrite"]),
                }
            }
            _ => unknown("track_file", &section, item, &KEYWORDS, findings),
        }
    }
    let Some(path) = path else {
        if !item.lines().iter().any(|line| line.keyword() == "file") {
            findings.missing(&item.place, &section, "file", "a file with its whole path");
        }
        return None;
    };
    Some(NumberFile { name, path, check, initial })
}

/// `weight N [reverse]` of a definition.
fn weight(line: &mut Line<'_>, check: &mut Check) {
    match weight_of(line.item.arguments(), *check) {
        Some(weighed) => *check = weighed,
        None => line.refuse(WEIGHT, &["reverse"]),
    }
}

fn weight_of(words: &[String], check: Check) -> Option<Check> {
    let (number, reverse) = match words {
        [number] => (number, check.reverse),
        [number, reverse] => match reverse.as_str() {
            "reverse" => (number, true),
            "noreverse" | "no_reverse" => (number, false),
            _ => return None,
        },
        _ => return None,
    };
    let weight = Weight::new(number.parse().ok()?).ok()?;
    Some(Check { weight, reverse, ..check })
}

/// Reads a `track_interface`, `track_script`, `track_process` or `track_file` of an instance or a group.
pub(super) fn tracks(item: &Item, section: &str, config: &Config, findings: &mut Findings) -> Vec<Track> {
    const ENTRY: &str = "a name, then perhaps weight -253 to 253, then perhaps reverse";
    let mut tracks = Vec::new();
    if item.block.is_none() {
        Line { item, section, findings }.refuse("a block in braces", &[]);
    }
    let section = format!("{} of {section}", item.keyword());
    for entry in item.lines() {
        let name = entry.keyword();
        let line = &mut Line { item: entry, section: &section, findings };
        let target = match item.keyword() {
            "track_interface" if is_interface(name) => {
                Some((Target::Interface(name.to_owned()), Check::default()))
            }
            "track_interface" => {
                let at = At { place: &entry.place, section: &section, keyword: "name", value: name };
                line.findings.refuse(&at, INTERFACE, &[]);
                continue;
            }
            "track_script" => find(&config.scripts, name, |script| (&script.name, script.check))
                .map(|(at, check)| (Target::Script(at), check)),
            "track_process" => find(&config.processes, name, |process| (&process.name, process.check))
                .map(|(at, check)| (Target::Process(at), check)),
            _ => find(&config.files, name, |file| (&file.name, file.check))
                .map(|(at, check)| (Target::File(at), check)),
        };
        let Some((target, default)) = target else {
            if line.findings.is_broken(item.keyword(), name) {
                continue;
            }
            let known: Vec<&str> = match item.keyword() {
                "track_script" => config.scripts.iter().map(|script| script.name.as_str()).collect(),
                "track_process" => config.processes.iter().map(|process| process.name.as_str()).collect(),
                _ => config.files.iter().map(|file| file.name.as_str()).collect(),
            };
            let at = At { place: &entry.place, section: &section, keyword: "name", value: name };
            line.findings.refuse(&at, "what is defined at the top level", &known);
            continue;
        };
        let check = match entry.arguments() {
            [] => Some(default),
            [keyword, words @ ..] if keyword == "weight" => weight_of(words, default),
            _ => None,
        };
        match check {
            Some(check) => tracks.push(Track { target, check }),
            None => line.refuse(ENTRY, &["weight", "reverse"]),
        }
    }
    tracks
}

fn find<'c, T>(
    all: &'c [T],
    name: &str,
    parts: impl Fn(&'c T) -> (&'c String, Check),
) -> Option<(usize, Check)> {
    let known = all.iter().map(parts).enumerate();
    known.filter(|(_, (known, _))| *known == name).map(|(at, (_, check))| (at, check)).next()
}
