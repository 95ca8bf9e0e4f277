//! Reads the words of a line as numbers, times, addresses, switches and commands.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::item::Item;
use super::problem::{At, Findings};
use super::{Command, User};

/// A line within a section, and where to say what is wrong with it.
pub(super) struct Line<'a> {
    pub(super) item: &'a Item,
    pub(super) section: &'a str,
    pub(super) findings: &'a mut Findings,
}

impl Line<'_> {
    /// The words behind the keyword are not what is accepted.
    pub(super) fn refuse(&mut self, accepted: &str, known: &[&str]) {
        let value = self.item.arguments().join(" ");
        let (place, section, keyword) = (&self.item.place, self.section, self.item.keyword());
        self.findings.refuse(&At { place, section, keyword, value: &value }, accepted, known);
    }

    /// What is left out.
    pub(super) fn warn(&mut self, message: impl std::fmt::Display) {
        self.findings.warn(&self.item.place, self.section, message);
    }

    /// One word that `read` understands.
    pub(super) fn one<T>(&mut self, accepted: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let read = match self.item.arguments() {
            [word] => read(word),
            _ => None,
        };
        if read.is_none() {
            self.refuse(accepted, &[]);
        }
        read
    }

    /// A whole number.
    pub(super) fn integer(&mut self, range: RangeInclusive<i64>) -> Option<i64> {
        let accepted = format!("a whole number, {} to {}", range.start(), range.end());
        self.one(&accepted, |word| word.parse().ok().filter(|number| range.contains(number)))
    }

    /// A time in seconds, with a fraction or without.
    pub(super) fn seconds(&mut self, range: RangeInclusive<u32>) -> Option<Duration> {
        let accepted = format!("seconds (2, 0.5), {} to {}", range.start(), range.end());
        let bounds =
            Duration::from_secs((*range.start()).into())..=Duration::from_secs((*range.end()).into());
        self.one(&accepted, |word| seconds(word).filter(|time| bounds.contains(time)))
    }

    /// A name of an interface, a label, an identity: no white space, nothing that a terminal would obey.
    pub(super) fn name(&mut self) -> Option<String> {
        self.one("a name without spaces", |word| is_name(word).then(|| word.to_owned()))
    }

    /// An interface's name.
    pub(super) fn interface(&mut self) -> Option<String> {
        self.one(INTERFACE, |word| is_interface(word).then(|| word.to_owned()))
    }

    /// An IP address.
    pub(super) fn address(&mut self) -> Option<IpAddr> {
        self.one("an IP address", |word| word.parse().ok())
    }

    /// A switch: alone it is on; `on`, `true`, `yes`, or `off`, `false`, `no` may follow.
    pub(super) fn switch(&mut self) -> Option<bool> {
        const NAMES: [&str; 6] = ["on", "true", "yes", "off", "false", "no"];
        match self.item.arguments() {
            [] => Some(true),
            [word] if NAMES[..3].contains(&word.as_str()) => Some(true),
            [word] if NAMES[3..].contains(&word.as_str()) => Some(false),
            _ => {
                self.refuse("nothing, or on or off", &NAMES);
                None
            }
        }
    }

    /// A command in one word, then perhaps a user, then perhaps a group.
    pub(super) fn command(&mut self) -> Option<Command> {
        let words = self.item.arguments();
        let command = words.first().and_then(|text| split_command(text)).filter(|words| !words.is_empty());
        let (Some(words), true) = (command, words.len() <= 3) else {
            self.refuse("a command, in quotes if it has arguments, then perhaps a user and a group", &[]);
            return None;
        };
        let program = &words[0];
        if !program.starts_with('/') {
            if program.contains('/') || !program.chars().all(is_of_program) {
                self.refuse(
                    "a command with its whole path, /like/this; vrrpd runs no shell: \"/bin/sh -c '…'\" does",
                    &[],
                );
                return None;
            }
            self.warn(format_args!("`{program}` is looked for in PATH: give its whole path"));
        }
        let place = self.item.place.clone();
        Some(Command { words, user: user(&self.item.arguments()[1..]), place })
    }
}

pub(super) const INTERFACE: &str = "an interface's name, 1 to 15 characters";

/// What the name of a program that is looked for in PATH consists of; all else would be meant for a shell.
fn is_of_program(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '-' | '_' | '.' | '+')
}

/// A user and perhaps a group.
pub(super) fn user(words: &[String]) -> Option<User> {
    let (name, rest) = words.split_first()?;
    Some(User { name: name.clone(), group: rest.first().cloned() })
}

pub(super) fn is_name(word: &str) -> bool {
    (1..=255).contains(&word.len()) && !word.contains(|c: char| c.is_whitespace() || c.is_control())
}

pub(super) fn is_interface(word: &str) -> bool {
    word.parse::<lb_vrrp::config::InterfaceName>().is_ok()
}

/// `2`, `0.5`, `2.71828`; nothing shorter than a microsecond counts.
pub(super) fn seconds(word: &str) -> Option<Duration> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Duration::from_secs(whole).checked_add(Duration::from_micros(micros))
}

/// A command's words: white space parts them, single quotes keep them together. `None` if a quote does not end.
pub(super) fn split_command(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\0' => return None,
            space if space.is_whitespace() && !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_with_a_fraction() {
        for (text, micros) in [
            ("1", Some(1_000_000)),
            ("0.92", Some(920_000)),
            (".5", Some(500_000)),
            ("2.", Some(2_000_000)),
            ("2.71828", Some(2_718_280)),
            ("0.0000001", Some(0)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1s", None),
            ("1e3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(seconds(text), micros.map(Duration::from_micros), "{text}");
        }
    }

    #[test]
    fn commands_split_at_spaces_outside_single_quotes() {
        for (text, words) in [
            ("/bin/a", Some(vec!["/bin/a"])),
            ("/bin/a  b c ", Some(vec!["/bin/a", "b", "c"])),
            ("'/bin/a b' 'c d' ''", Some(vec!["/bin/a b", "c d", ""])),
            ("/bin/a 'b", None),
        ] {
            let words = words.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(split_command(text), words, "{text}");
        }
    }
}
