//! What can be wrong with a configuration file: each message names the file, the line, the key, the value and
//! what would be accepted.

use std::path::Path;

use super::nearest::nearest;

/// A place in a file, as editors open it: `director.toml:12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named on the command line.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a configuration was refused. Nothing of a refused configuration takes effect.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(Box<Problem>);

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {source}; name a readable file")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{place}: not TOML: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser expected.
        message: String,
    },
    /// A key that means nothing here.
    #[error("{place}: unknown key `{key}` in {section}{hint}; accepted: {accepted}")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key as written.
        key: String,
        /// The table that it stands in.
        section: String,
        /// `, did you mean ...` or nothing.
        hint: String,
        /// Every key of that table.
        accepted: String,
    },
    /// A value that its key does not take.
    #[error("{place}: {key} = {value} in {section} is not accepted{hint}; accepted: {accepted}")]
    Value {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// The value as written.
        value: String,
        /// The table that it stands in.
        section: String,
        /// `, did you mean ...` or nothing.
        hint: String,
        /// What the key takes.
        accepted: String,
    },
    /// A key without which the table makes no sense.
    #[error("{place}: {section} needs the key `{key}`; accepted: {accepted}")]
    Missing {
        /// Where the table begins.
        place: Place,
        /// The key.
        key: String,
        /// The table.
        section: String,
        /// What the key takes.
        accepted: String,
    },
}

impl ConfigError {
    /// The file could not be read.
    pub(crate) fn read(file: &Path, source: std::io::Error) -> Self {
        Problem::Read { file: file.display().to_string(), source }.into()
    }
}

/// `, did you mean `x`?` when one of `known` is near to `name`.
pub(crate) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default()
}

/// What the file holds, as one line of a message: without control characters, and no longer than is needed to find it.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        match character {
            _ if count == LONGEST => return line + "…",
            control if control.is_control() => line.extend(control.escape_default()),
            other => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_is_quoted_fits_into_a_line() {
        let (most, more) = ("é".repeat(80), "é".repeat(81));
        for (text, expected) in [
            ("\"wcl\"", "\"wcl\""),
            ("\"\"\"a\r\n\tb\"\"\"", "\"\"\"a\\r\\n\\tb\"\"\""),
            ("\u{1b}[31m\u{9b}", "\\u{1b}[31m\\u{9b}"),
            (&most, &most),
            (&more, &format!("{most}…")),
        ] {
            assert_eq!(quoted(text), expected, "{text:?}");
        }
    }
}
