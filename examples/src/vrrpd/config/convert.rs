//! From keepalived.conf to TOML: the same lines in the other form.

use std::fmt::Write;
use std::path::Path;

use toml::Value;

use super::conf::{self, Files};
use super::item::Item;
use super::known::{Fate, LVS, fate};
use super::problem::Findings;
use super::table::{LISTS, NAMED, REPEATED};
use super::{Problems, build, is_toml, parse};

/// Why a file could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// It is not one that vrrpd could run.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// It has nothing to be converted.
    #[error("{file} is TOML already: vrrpd runs it as it is")]
    Toml {
        /// The file.
        file: String,
    },
    /// What came out is not what went in.
    #[error("{keyword}: the line can't be said in TOML; write it by hand")]
    Line {
        /// Its first word.
        keyword: String,
    },
}

/// Writes what `text`, a keepalived.conf, says as TOML that means the same. What vrrpd would leave out becomes a comment.
///
/// # Errors
/// If vrrpd would refuse the file.
pub fn convert(file: &Path, text: &str, files: &dyn Files) -> Result<String, ConvertError> {
    if is_toml(file) {
        return Err(ConvertError::Toml { file: file.display().to_string() });
    }
    let mut findings = Findings::default();
    let items = conf::parse(file, text, files, &mut findings);
    let config = build::build(file, &items, files, &mut findings);
    let (config, warnings) = findings.conclude(config)?;
    let mut out = String::new();
    for warning in &warnings {
        let _ = writeln!(out, "# {warning}");
    }
    for item in items.iter().filter(|item| !LVS.contains(&item.keyword()) && !left_out("", item)) {
        if !out.is_empty() {
            out.push('\n');
        }
        match item.words.as_slice() {
            [keyword, name] if NAMED.contains(&keyword.as_str()) => {
                let _ = writeln!(out, "[{keyword}.{}]", key(name));
            }
            _ => {
                let _ = writeln!(out, "[{}]", key(item.keyword()));
            }
        }
        lines(item, &mut out)?;
    }
    // It must say the same, or it says nothing.
    let again = parse(Path::new("converted.toml"), &out, files)?;
    let names = |config: &super::Config| -> Vec<(String, lb_vrrp::Config)> {
        config.instances.iter().map(|instance| (instance.name.clone(), instance.router.clone())).collect()
    };
    if names(&again) != names(&config) {
        return Err(ConvertError::Line { keyword: file.display().to_string() });
    }
    Ok(out)
}

fn left_out(block: &str, item: &Item) -> bool {
    matches!(fate(block, item.keyword()), Some(Fate::Met | Fate::Needless | Fate::LeftOut(_)))
}

fn lines(item: &Item, out: &mut String) -> Result<(), ConvertError> {
    let mut said: Vec<(String, Value)> = Vec::new();
    for line in item.lines().iter().filter(|line| !left_out(item.keyword(), line)) {
        let value = value(line)?;
        // Of two lines the later counts, but lists add up.
        match said.iter_mut().find(|(keyword, _)| keyword == line.keyword()) {
            Some((_, Value::Array(all))) if LISTS.contains(&line.keyword()) => {
                all.extend(value.as_array().cloned().unwrap_or_default());
            }
            Some((_, before)) => *before = value,
            None => said.push((line.keyword().to_owned(), value)),
        }
    }
    for (keyword, value) in said {
        let _ = writeln!(out, "{} = {value}", key(&keyword));
    }
    Ok(())
}

fn value(line: &Item) -> Result<Value, ConvertError> {
    let refused = || ConvertError::Line { keyword: line.words.join(" ") };
    if LISTS.contains(&line.keyword()) {
        let entry = |line: &Item| Value::String(line.words.join(" "));
        return Ok(Value::Array(line.lines().iter().map(entry).collect()));
    }
    if line.block.is_some() {
        let mut table = toml::Table::new();
        for line in line.lines() {
            let value = value(line)?;
            if REPEATED.contains(&line.keyword()) {
                let all = table.entry(line.keyword()).or_insert_with(|| Value::Array(Vec::new()));
                all.as_array_mut().into_iter().for_each(|all| all.push(value.clone()));
            } else {
                table.insert(line.keyword().to_owned(), value);
            }
        }
        return Ok(Value::Table(table));
    }
    match line.arguments() {
        [] => Ok(Value::Boolean(true)),
        [word] => Ok(number(word)),
        words if words.iter().all(|word| !word.is_empty()) => {
            Ok(Value::Array(words.iter().map(|word| number(word)).collect()))
        }
        _ => Err(refused()),
    }
}

/// A whole number as one, anything else as a string.
fn number(word: &str) -> Value {
    match word.parse::<i64>() {
        Ok(number) if number.to_string() == word => Value::Integer(number),
        _ => Value::String(word.to_owned()),
    }
}

/// A key, in quotes if it must be.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        Value::String(name.to_owned()).to_string()
    }
}
