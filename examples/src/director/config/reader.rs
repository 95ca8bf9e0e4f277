//! Reads TOML tables key by key and remembers which keys were asked for, so that what is left over is an error
//! that names the nearest key.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place, Problem, hint, quoted};
use super::units;

type Value<'d> = Spanned<DeValue<'d>>;

/// A parsed file.
pub(crate) struct Document<'d> {
    file: &'d str,
    text: &'d str,
    root: Spanned<DeTable<'d>>,
}

impl<'d> Document<'d> {
    /// Parses `text`; `file` is what messages call it.
    pub(crate) fn parse(file: &'d str, text: &'d str) -> Result<Self, ConfigError> {
        let root = DeTable::parse(text).map_err(|error| Problem::Syntax {
            place: Place { file: file.to_owned(), line: line_of(text, error.span().map_or(0, |s| s.start)) },
            message: quoted(error.message()),
        })?;
        Ok(Self { file, text, root })
    }

    /// The top-level table.
    pub(crate) fn root(&self) -> Section<'_> {
        Section::new(self, self.root.get_ref(), 0, "the top level".to_owned(), String::new())
    }

    /// The top-level table as it was parsed, for readers that take any key.
    pub(crate) fn table(&self) -> &DeTable<'d> {
        self.root.get_ref()
    }

    /// The place of a byte of the text.
    pub(crate) fn place(&self, offset: usize) -> Place {
        Place { file: self.file.to_owned(), line: line_of(self.text, offset) }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

/// One table of a document.
pub(crate) struct Section<'s> {
    document: &'s Document<'s>,
    table: &'s DeTable<'s>,
    offset: usize,
    title: String,
    /// The keys that lead here, with dots between them; empty at the top level.
    path: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'s> Section<'s> {
    fn new(
        document: &'s Document<'s>,
        table: &'s DeTable<'s>,
        offset: usize,
        title: String,
        path: String,
    ) -> Self {
        Self { document, table, offset, title, path, known: RefCell::default() }
    }

    fn path_to(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The line that a key's value stands on.
    pub(crate) fn line(&self, key: &str) -> usize {
        let offset = self.table.get(key).map_or(self.offset, |value| value.span().start);
        self.document.place(offset).line
    }

    /// Changes what messages call this table, once its name is known.
    pub(crate) fn titled(mut self, title: String) -> Self {
        self.title = title;
        self
    }

    /// The end of a table: every key that nobody asked for is an error.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let known = self.known.borrow();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                return Err(Problem::UnknownKey {
                    place: self.document.place(key.span().start),
                    key: quoted(name),
                    section: self.title.clone(),
                    hint: hint(name, known.iter().copied()),
                    accepted: known.join(", "),
                }
                .into());
            }
        }
        Ok(())
    }

    /// The error of a missing key.
    pub(crate) fn missing(&self, key: &str, accepted: &str) -> ConfigError {
        Problem::Missing {
            place: self.document.place(self.offset),
            key: key.to_owned(),
            section: self.title.clone(),
            accepted: accepted.to_owned(),
        }
        .into()
    }

    /// The error of a key whose value does not do; `known` are names that may have been meant.
    pub(crate) fn refused(&self, key: &str, accepted: &str, known: &[&str]) -> ConfigError {
        match self.table.get(key) {
            None => self.missing(key, accepted),
            Some(value) => self.refused_value(key, value, accepted, known),
        }
    }

    fn refused_value(&self, key: &str, value: &Value<'_>, accepted: &str, known: &[&str]) -> ConfigError {
        let written = quoted(self.document.text.get(value.span()).unwrap_or(""));
        let hint = value.get_ref().as_str().map(|name| hint(name, known.iter().copied())).unwrap_or_default();
        Problem::Value {
            place: self.document.place(value.span().start),
            key: key.to_owned(),
            value: written,
            section: self.title.clone(),
            hint,
            accepted: accepted.to_owned(),
        }
        .into()
    }

    fn value(&self, key: &'static str) -> Option<&'s Value<'s>> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }

    /// A value that `read` understands.
    fn read<T>(
        &self,
        key: &'static str,
        accepted: &str,
        read: impl FnOnce(&'s DeValue<'s>) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value.get_ref()).map(Some).ok_or_else(|| self.refused_value(key, value, accepted, &[]))
    }

    /// A string.
    pub(crate) fn string(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        self.read(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A name: letters, digits and `-_.:`, so that it fits in a log line, a cookie and a metric.
    pub(crate) fn name(&self, key: &'static str) -> Result<String, ConfigError> {
        const ACCEPTED: &str = "a name of 1 to 64 letters, digits, `-`, `_`, `.` or `:`";
        let fits = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
        };
        self.read(key, ACCEPTED, |value| value.as_str().filter(|name| fits(name)).map(str::to_owned))?
            .ok_or_else(|| self.missing(key, ACCEPTED))
    }

    /// `true` or `false`.
    pub(crate) fn bool(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    /// A whole number within `range`.
    pub(crate) fn integer(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let accepted = format!("a whole number, {} to {}", range.start(), range.end());
        self.read(key, &accepted, |value| whole(value).filter(|number| range.contains(number)))
    }

    /// A decimal number within `range`.
    pub(crate) fn number(
        &self,
        key: &'static str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        let accepted = format!("a number, {} to {}", range.start(), range.end());
        self.read(key, &accepted, |value| {
            let number = match value {
                DeValue::Float(float) => float.as_str().parse().ok()?,
                other => whole(other)? as f64,
            };
            range.contains(&number).then_some(number)
        })
    }

    /// A length of time with its unit.
    pub(crate) fn duration(
        &self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        let accepted = format!(
            "a time with a unit (\"500ms\", \"5s\", \"2m\", \"1h\"), {} to {}",
            units::show(*range.start()),
            units::show(*range.end())
        );
        self.read(key, &accepted, |value| {
            value.as_str().and_then(units::duration).filter(|time| range.contains(time))
        })
    }

    /// A number of bytes, with or without a unit.
    pub(crate) fn size(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let accepted =
            format!("bytes or a string with a unit (\"32KiB\"), {} to {}", range.start(), range.end());
        self.read(key, &accepted, |value| {
            value.as_str().map_or_else(|| whole(value), units::size).filter(|size| range.contains(size))
        })
    }

    /// An `address:port`.
    pub(crate) fn address(&self, key: &'static str) -> Result<Option<SocketAddr>, ConfigError> {
        self.read(key, ADDRESS, |value| value.as_str().and_then(|text| text.parse().ok()))
    }

    /// One `address:port`, or a list of them.
    pub(crate) fn addresses(&self, key: &'static str) -> Result<Option<Vec<SocketAddr>>, ConfigError> {
        let accepted = format!("{ADDRESS}, or a list of such");
        self.read(key, &accepted, |value| match value {
            DeValue::Array(items) => items.iter().map(|item| item.get_ref().as_str()?.parse().ok()).collect(),
            one => Some(vec![one.as_str()?.parse().ok()?]),
        })
    }

    /// A list of strings.
    pub(crate) fn strings(&self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        self.read(key, "a list of strings", |value| {
            let items = value.as_array()?;
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    /// One of a few names.
    pub(crate) fn one_of<T: Copy>(
        &self,
        key: &'static str,
        names: &[(&'static str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let found = value.get_ref().as_str().and_then(|text| names.iter().find(|(name, _)| *name == text));
        let known: Vec<&str> = names.iter().map(|&(name, _)| name).collect();
        let refused = || self.refused_value(key, value, &known.join(", "), &known);
        found.map(|&(_, meaning)| Some(meaning)).ok_or_else(refused)
    }

    /// A table under a key.
    pub(crate) fn section(&self, key: &'static str) -> Result<Option<Section<'s>>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let path = self.path_to(key);
        let accepted = format!("a table, [{path}]");
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.refused_value(key, value, &accepted, &[]));
        };
        let title = match self.title.as_str() {
            "the top level" => format!("[{key}]"),
            outer => format!("{key} of {outer}"),
        };
        Ok(Some(Section::new(self.document, table, value.span().start, title, path)))
    }

    /// A list of tables under a key.
    pub(crate) fn sections(&self, key: &'static str) -> Result<Vec<Section<'s>>, ConfigError> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let path = self.path_to(key);
        let accepted = format!("a list of tables, [[{path}]]");
        let refused = || self.refused_value(key, value, &accepted, &[]);
        let items = value.get_ref().as_array().ok_or_else(refused)?;
        items
            .iter()
            .map(|item| {
                let table = item.get_ref().as_table().ok_or_else(refused)?;
                Ok(Section::new(self.document, table, item.span().start, format!("[[{path}]]"), path.clone()))
            })
            .collect()
    }
}

const ADDRESS: &str = "an address and a port (\"127.0.0.1:8080\", \"[::1]:8080\")";

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
