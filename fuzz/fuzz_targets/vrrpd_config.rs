//! Whatever a configuration file holds, in either form: it is one that the daemon can run, or every mistake is one
//! sentence that names its line.
#![no_main]

use std::io;
use std::path::{Path, PathBuf};

use lb_examples::vrrpd::config::{self, Config, Files, Problems, Target};
use libfuzzer_sys::fuzz_target;

/// A disk without files.
struct Empty;

impl Files for Empty {
    fn find(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fuzz_target!(|text: &str| {
    for file in ["v.toml", "v.conf"] {
        match config::parse(Path::new(file), text, &Empty) {
            Ok(config) => runnable(&config),
            Err(problems) => explained(file, &problems, text),
        }
    }
    // What is converted is checked to mean the same by the conversion itself.
    let _ = config::convert(Path::new("v.conf"), text, &Empty);
});

/// What the daemon takes for granted.
fn runnable(config: &Config) {
    assert!(!config.instances.is_empty());
    for (at, instance) in config.instances.iter().enumerate() {
        assert_eq!(instance.router.validate(), Ok(()));
        assert!((1..=15).contains(&instance.interface.len()));
        for other in &config.instances[..at] {
            assert_ne!(instance.name, other.name);
            if instance.interface == other.interface {
                let addresses = &other.router.addresses;
                assert!(
                    !instance
                        .router
                        .addresses
                        .iter()
                        .any(|own| addresses.iter().any(|their| own.address == their.address))
                );
            }
        }
        for track in &instance.tracks {
            match track.target {
                Target::Interface(_) => {}
                Target::Script(at) => assert!(at < config.scripts.len()),
                Target::Process(at) => {
                    assert!(at < config.processes.len() && !config.processes[at].words.is_empty())
                }
                Target::File(at) => assert!(at < config.files.len()),
            }
        }
    }
    for group in &config.groups {
        assert!(!group.members.is_empty() && group.members.iter().all(|&at| at < config.instances.len()));
    }
    for script in &config.scripts {
        assert!(script.command.words[0].starts_with('/') && !script.interval.is_zero());
    }
}

fn explained(file: &str, problems: &Problems, text: &str) {
    let lines = text.split('\n').count();
    assert!(problems.iter().next().is_some());
    for problem in problems.iter() {
        let said = problem.to_string();
        let place = said.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')?.split_once(": "));
        let line = place.and_then(|(line, _)| line.parse::<usize>().ok());
        assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{lines} lines: {said}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }
}
