//! What can be wrong with a configuration, each with its place and its cure; and all that was found.

use crate::director::config::{ConfigError, Place, Problem as Shared, hint, quoted};

/// One thing that is wrong. A configuration with any is refused whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// What all programs say alike: an unreadable file, a missing key, a value that does not do.
    #[error(transparent)]
    Shared(#[from] ConfigError),
    /// The text is not of the form.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A keyword that means nothing here.
    #[error("{place}: unknown keyword `{keyword}` in {section}{hint}")]
    Keyword {
        /// Where.
        place: Place,
        /// The keyword as written.
        keyword: String,
        /// What it stands in.
        section: String,
        /// `, did you mean ...` or the accepted ones.
        hint: String,
    },
    /// keepalived knows it, vrrpd does not, and without it another router would have the address.
    #[error(
        "{place}: `{keyword}` in {section} is not supported, and without it the address could go to another router: {cure}"
    )]
    Unsupported {
        /// Where.
        place: Place,
        /// The keyword.
        keyword: String,
        /// What it stands in.
        section: String,
        /// What to do.
        cure: &'static str,
    },
    /// Two things that can't be together, or a name for nothing.
    #[error("{place}: {section}: {message}")]
    Conflict {
        /// Where.
        place: Place,
        /// What it is about.
        section: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// No virtual router can be like that.
    #[error("{place}: {section}: {source}")]
    Router {
        /// Where.
        place: Place,
        /// The instance.
        section: String,
        /// Why.
        source: lb_vrrp::ConfigError,
    },
}

/// All that is wrong with a configuration, a line each.
#[derive(Debug)]
pub struct Problems {
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Problems {
    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// What would be left out once nothing is wrong any more, a sentence each with its place.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for problem in &self.problems {
            write!(f, "{separator}{problem}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], warnings: Vec::new() }
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<(Place, String)>,
    /// What is defined, but wrongly: those who refer to it are not to blame.
    broken: Vec<(String, String)>,
}

impl Findings {
    /// `built` with its warnings, if nothing was wrong. Warnings come in the order of the files and their lines.
    pub(super) fn conclude<T>(mut self, built: T) -> Result<(T, Vec<String>), Problems> {
        let mut files: Vec<String> = Vec::new();
        for (place, _) in &self.warnings {
            if !files.contains(&place.file) {
                files.push(place.file.clone());
            }
        }
        self.warnings
            .sort_by_key(|(place, _)| (files.iter().position(|file| *file == place.file), place.line));
        let warnings =
            self.warnings.into_iter().map(|(place, message)| format!("{place}: {message}")).collect();
        if self.problems.is_empty() {
            Ok((built, warnings))
        } else {
            Err(Problems { problems: self.problems, warnings })
        }
    }

    /// Takes down that `name`, a `kind` of definition, is there but wrong.
    pub(super) fn broken(&mut self, kind: &str, name: &str) {
        self.broken.push((kind.to_owned(), name.to_owned()));
    }

    /// Whether `name`, a `kind` of definition, is there but wrong.
    pub(super) fn is_broken(&self, kind: &str, name: &str) -> bool {
        self.broken.iter().any(|(known, other)| known == kind && other == name)
    }

    /// Takes a problem down.
    pub(super) fn add(&mut self, problem: impl Into<Problem>) {
        self.problems.push(problem.into());
    }

    /// What is left out, but can be.
    pub(super) fn warn(&mut self, place: &Place, section: &str, message: impl std::fmt::Display) {
        self.warnings.push((place.clone(), format!("{section}: {message}")));
    }

    /// A word that does not do; `known` are words that may have been meant.
    pub(super) fn refuse(&mut self, at: &At<'_>, accepted: &str, known: &[&str]) {
        let meant = at.value.split(' ').next().unwrap_or_default();
        self.add(ConfigError::from(Shared::Value {
            place: at.place.clone(),
            key: quoted(at.keyword),
            value: quoted(at.value),
            section: at.section.to_owned(),
            hint: hint(meant, known.iter().copied()),
            accepted: accepted.to_owned(),
        }));
    }

    /// A keyword that is missing.
    pub(super) fn missing(&mut self, place: &Place, section: &str, key: &str, accepted: &str) {
        self.add(ConfigError::from(Shared::Missing {
            place: place.clone(),
            key: key.to_owned(),
            section: section.to_owned(),
            accepted: accepted.to_owned(),
        }));
    }

    /// Two things that can't be together.
    pub(super) fn conflict(&mut self, place: &Place, section: &str, message: impl Into<String>) {
        let (place, section, message) = (place.clone(), section.to_owned(), message.into());
        self.add(Problem::Conflict { place, section, message });
    }
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) place: &'a Place,
    pub(super) section: &'a str,
    pub(super) keyword: &'a str,
    pub(super) value: &'a str,
}
