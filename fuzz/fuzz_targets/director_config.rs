//! Whatever a configuration file holds: it is one that the director can serve, or is refused in one sentence that
//! names the line.
#![no_main]

use lb_examples::director::config::{self, Config, ConfigError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match config::parse("director.toml", text) {
        Ok(config) => served(&config),
        Err(error) => explained(&error, text),
    }
});

/// What the director takes for granted of a configuration that was accepted.
fn served(config: &Config) {
    assert!(config.workers > 0 && !config.frontends.is_empty() && !config.backends.is_empty());
    for (at, frontend) in config.frontends.iter().enumerate() {
        let target = config.backends.iter().find(|backend| backend.name == frontend.backend);
        assert!(target.is_some_and(|backend| backend.mode == frontend.mode));
        for other in &config.frontends[..at] {
            assert_ne!(frontend.name, other.name);
            assert!(!frontend.listen.iter().any(|address| other.listen.contains(address)));
        }
    }
    for (at, backend) in config.backends.iter().enumerate() {
        assert!(!config.backends[..at].iter().any(|other| other.name == backend.name));
        for (at, server) in backend.servers.iter().enumerate() {
            assert!(!backend.servers[..at].iter().any(|other| other.name == server.name));
        }
        if let Some(check) = &backend.check {
            check.rules.validate().expect("the configuration's ranges are the checker's");
        }
        if let Some(outlier) = &backend.outlier {
            outlier.validate().expect("the configuration's ranges are the detector's");
        }
    }
}

fn explained(error: &ConfigError, text: &str) {
    let said = error.to_string();
    let place = said.strip_prefix("director.toml:").and_then(|rest| rest.split_once(": "));
    let line = place.and_then(|(line, _)| line.parse::<usize>().ok());
    let lines = text.split('\n').count();
    assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{lines} lines: {said}");
    assert!(!said.contains(char::is_control), "{said:?}");
}
