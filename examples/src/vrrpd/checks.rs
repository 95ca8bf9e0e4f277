//! What is tracked beside interfaces: scripts that are run, processes that are looked for, files that are read.

use std::path::Path;
use std::time::{Duration, Instant};

use lb_examples::vrrpd::config::{self, Config, NumberFile, Parameters, Process, Target};
use nix::net::if_::if_nametoindex;

use crate::log;
use crate::program::{Program, Running};

/// How often processes and files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Longest name that the kernel keeps of a process.
const COMM: usize = 15;

/// A result: of a script or a process that it is well, or a file's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Success(bool),
    Number(i32),
}

/// Interfaces that a configuration names and the machine has not, a sentence each: they may come yet.
pub(crate) fn missing_interfaces(config: &Config) -> Vec<String> {
    let mut missing = Vec::new();
    for config::Instance { name, place, interface, tracks, .. } in &config.instances {
        let tracked = tracks.iter().filter_map(|track| match &track.target {
            Target::Interface(interface) => Some((interface, "it counts as down")),
            _ => None,
        });
        for (interface, meanwhile) in std::iter::once((interface, "the instance is at fault")).chain(tracked)
        {
            if if_nametoindex(interface.as_str()).is_err() {
                missing.push(format!(
                    "{place}: vrrp_instance {name}: there is no interface {interface}: until there is, {meanwhile}"
                ));
            }
        }
    }
    missing
}

/// A script that is run every so often.
#[derive(Debug)]
pub(crate) struct ScriptCheck {
    program: Program,
    interval: Duration,
    timeout: Duration,
    next: Instant,
    running: Option<(Running, Instant, bool)>,
    /// The last result, and whether the log has it.
    pub(crate) last: Option<bool>,
}

impl ScriptCheck {
    pub(crate) fn new(script: &config::Script, program: Program, now: Instant) -> Self {
        let (interval, timeout) = (script.interval, script.timeout);
        Self { program, interval, timeout, next: now, running: None, last: None }
    }

    /// Looks after it. A result, if there is one, and when to look again.
    pub(crate) fn step(&mut self, name: &str, now: Instant) -> (Option<Finding>, Instant) {
        let mut result = None;
        if let Some((running, began, late)) = &mut self.running {
            match running.ended() {
                Some(status) => {
                    result = Some(!*late && status.is_ok_and(|status| status.success()));
                    self.running = None;
                }
                None if now >= *began + self.timeout => {
                    *late = true;
                    running.end(now);
                    return (None, now + Duration::from_millis(100));
                }
                None => return (None, *began + self.timeout),
            }
        }
        if now >= self.next {
            // What was missed is not made up for.
            self.next = (self.next + self.interval).max(now);
            match self.program.start(&[]) {
                Ok(running) => self.running = Some((running, now, false)),
                Err(error) => {
                    if self.last != Some(false) {
                        log::of(name, format_args!("{} can't be started: {error}", self.program.name()));
                    }
                    result = Some(false);
                }
            }
        }
        if let Some(success) = result {
            self.last = Some(success);
        }
        let again = self.running.as_ref().map_or(self.next, |(_, began, _)| *began + self.timeout);
        (result.map(Finding::Success), again)
    }
}

/// A process or a file that is looked at every so often.
#[derive(Debug)]
pub(crate) struct Look<T> {
    what: T,
    next: Instant,
    /// What was reported last.
    pub(crate) last: Option<Finding>,
    /// What was seen since when, if it is not what was reported.
    pending: Option<(bool, Instant)>,
}

impl<T> Look<T> {
    pub(crate) fn new(what: T, now: Instant) -> Self {
        Self { what, next: now, last: None, pending: None }
    }

    fn report(&mut self, finding: Finding) -> Option<Finding> {
        (self.last.replace(finding) != Some(finding)).then_some(finding)
    }
}

impl Look<Process> {
    /// Looks for it. A result if it is another, and when to look again.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        running: &dyn Fn(&Process) -> u32,
    ) -> (Option<Finding>, Instant) {
        if now < self.next {
            return (None, self.next);
        }
        self.next = now + LOOK;
        let count = running(&self.what);
        let up = (self.what.quorum..=self.what.quorum_max).contains(&count);
        let finding = match self.last {
            // The first look decides at once.
            None => self.report(Finding::Success(up)),
            Some(Finding::Success(before)) if before == up => {
                self.pending = None;
                None
            }
            Some(_) => {
                let delay = if up { self.what.fork_delay } else { self.what.terminate_delay };
                let since = match self.pending {
                    Some((seen, since)) if seen == up => since,
                    _ => now,
                };
                self.pending = Some((up, since));
                if now.duration_since(since) >= delay { self.report(Finding::Success(up)) } else { None }
            }
        };
        (finding, self.next)
    }
}

impl Look<NumberFile> {
    /// Reads it. Its number if it is another, and when to look again. A file that is not there, or without a number, has 0.
    pub(crate) fn step(&mut self, now: Instant) -> (Option<Finding>, Instant) {
        if now < self.next {
            return (None, self.next);
        }
        self.next = now + LOOK;
        let number = number(&self.what.path);
        (self.report(Finding::Number(number)), self.next)
    }

    /// Writes what the configuration says into it.
    pub(crate) fn initialize(&self) {
        let Some((number, overwrite)) = self.what.initial else { return };
        let path = &self.what.path;
        if (overwrite || !path.exists())
            && let Err(error) = std::fs::write(path, format!("{number}\n"))
        {
            log::of(&self.what.name, format_args!("{}: {error}", path.display()));
        }
    }
}

fn number(path: &Path) -> i32 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// How many processes are `wanted`, of those in /proc now.
pub(crate) fn count(wanted: &Process) -> u32 {
    let Ok(folder) = std::fs::read_dir("/proc") else { return 0 };
    let processes = folder.flatten().filter(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let running = processes.filter(|entry| {
        // "PID (NAME) STATE …", where the name may hold anything.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            return false;
        };
        if rest.starts_with(['Z', 'X']) {
            return false;
        }
        if wanted.parameters == Parameters::Any && !wanted.full_command {
            return is_named(&wanted.words[0], name);
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        is_run_as(wanted, name, &words)
    });
    u32::try_from(running.count()).unwrap_or(u32::MAX)
}

/// The kernel's name of a process is its file's, cut.
fn is_named(wanted: &str, name: &str) -> bool {
    let file = wanted.rsplit('/').next().unwrap_or(wanted);
    file.as_bytes().get(..COMM).unwrap_or(file.as_bytes()) == name.as_bytes()
}

fn is_run_as(wanted: &Process, name: &str, words: &[&[u8]]) -> bool {
    let Some((first, arguments)) = words.split_first() else { return false };
    let own = wanted.words[0].as_bytes();
    if *first != own && (wanted.full_command || !is_named(&wanted.words[0], name)) {
        return false;
    }
    let expected: Vec<&[u8]> = wanted.words[1..].iter().map(|word| word.as_bytes()).collect();
    match wanted.parameters {
        Parameters::Any => true,
        Parameters::Exact => arguments == expected,
        Parameters::Partial => arguments.starts_with(&expected),
        Parameters::Initial => match (expected.split_last(), arguments.get(..expected.len())) {
            (Some((last, before)), Some(shown)) => {
                let (begins, rest) = shown.split_at(before.len());
                begins == before && rest.iter().all(|word| word.starts_with(last))
            }
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use lb_vrrp::track::Check;

    use super::*;

    fn process(words: &[&str], parameters: Parameters) -> Process {
        Process {
            name: "p".into(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            parameters,
            full_command: false,
            quorum: 1,
            quorum_max: u32::MAX,
            fork_delay: Duration::from_secs(1),
            terminate_delay: Duration::from_secs(2),
            check: Check::default(),
        }
    }

    #[test]
    fn processes_match_by_name_and_arguments() {
        use Parameters::{Any, Exact, Initial, Partial};
        let table: &[(&[&str], Parameters, bool)] = &[
            (&["nginx"], Any, true),
            (&["/usr/sbin/nginx"], Any, true),
            (&["ngin"], Any, false),
            (&["nginx", "-c", "/etc/n.conf"], Exact, true),
            (&["nginx", "-c"], Exact, false),
            (&["nginx", "-c"], Partial, true),
            (&["nginx", "-c", "/etc"], Initial, true),
            (&["nginx", "-d", "/etc"], Initial, false),
            (&["nginx", "-c", "/etc/n.conf", "more"], Initial, false),
            (&["nginx"], Exact, false),
        ];
        let words: [&[u8]; 3] = [b"/usr/sbin/nginx", b"-c", b"/etc/n.conf"];
        for (wanted, parameters, expected) in table {
            let wanted = process(wanted, *parameters);
            let named = is_named(&wanted.words[0], "nginx");
            let matches = if *parameters == Any { named } else { is_run_as(&wanted, "nginx", &words) };
            assert_eq!(matches, *expected, "{wanted:?}");
        }
        assert!(is_named("a-name-of-twenty-one", "a-name-of-twent"));
    }

    #[test]
    fn a_process_of_this_test_is_found() {
        let name = std::fs::read_to_string("/proc/self/comm").expect("/proc");
        assert!(count(&process(&[name.trim()], Parameters::Any)) >= 1);
        assert_eq!(count(&process(&["no-such-program"], Parameters::Any)), 0);
    }

    #[test]
    fn delays_ride_out_a_restart() {
        let begin = Instant::now();
        let mut look = Look::new(process(&["p"], Parameters::Any), begin);
        // Seconds, processes, what is reported.
        for (seconds, running, expected) in [
            (0, 1, Some(true)),
            (1, 0, None),
            (2, 1, None),
            (3, 0, None),
            (5, 0, Some(false)),
            (6, 1, None),
            (7, 1, Some(true)),
        ] {
            let now = begin + Duration::from_secs(seconds);
            let (finding, _) = look.step(now, &|_| running);
            assert_eq!(finding, expected.map(Finding::Success), "second {seconds}");
        }
    }

    #[test]
    fn a_file_without_a_number_is_zero() {
        let path = std::env::temp_dir().join(format!("vrrpd-number-{}", std::process::id()));
        for (text, expected) in [("-20\n", -20), ("5 apples", 5), ("", 0), ("x", 0), ("99999999999", 0)] {
            std::fs::write(&path, text).expect("a scratch file");
            assert_eq!(number(&path), expected, "{text}");
        }
        std::fs::remove_file(&path).expect("it was there");
        assert_eq!(number(&path), 0);
    }
}
