//! The syntax of keepalived.conf: words, quotes, comments, braces, parameters, conditions and includes, as
//! keepalived.conf(5) says.
//!
//! It is a little more generous than keepalived: a brace may stand anywhere between words. Sequence and list blocks
//! (`~SEQ`, `~LST`) are refused.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::item::Item;
use super::problem::{Findings, Problem};
use crate::director::config::{ConfigError, Place, quoted};

/// Braces within braces.
const DEPTH: usize = 16;
/// Files that include each other.
const INCLUDES: usize = 16;
/// A line after its parameters were replaced, and all lines of a configuration.
const LONGEST_LINE: usize = 64 << 10;
const LARGEST: usize = 4 << 20;
/// How often a line is gone over while there are parameters in it.
const REPLACEMENTS: usize = 32;

/// What a configuration takes from the machine that it is read on.
pub trait Files {
    /// What `@` lines are compared with: the first part of the machine's name, as with keepalived.
    fn config_id(&self) -> String {
        host_name()
    }
    /// The files that `pattern` names, in order.
    ///
    /// # Errors
    /// If the pattern makes no sense, or a folder cannot be read.
    fn find(&self, pattern: &Path) -> std::io::Result<Vec<PathBuf>>;
    /// The text of one.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, file: &Path) -> std::io::Result<String>;
    /// Whether others than its owner may read one.
    fn is_open(&self, _file: &Path) -> bool {
        false
    }
}

/// The files of the machine.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// What `@` lines are compared with, if not with the machine's name.
    pub config_id: Option<String>,
}

impl Files for Disk {
    fn config_id(&self) -> String {
        self.config_id.clone().unwrap_or_else(host_name)
    }

    fn find(&self, pattern: &Path) -> std::io::Result<Vec<PathBuf>> {
        let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error);
        let pattern = pattern.to_str().ok_or_else(|| invalid("not UTF-8".to_owned()))?;
        let found = glob::glob(pattern).map_err(|error| invalid(error.to_string()))?;
        found.map(|file| file.map_err(Into::into)).collect()
    }

    fn read(&self, file: &Path) -> std::io::Result<String> {
        // A pipe may have nobody at its other end, a device no end.
        let about = std::fs::metadata(file)?;
        if !about.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        if about.len() > LARGEST as u64 {
            return Err(std::io::Error::other("larger than 4 MiB"));
        }
        let bytes = std::fs::read(file)?;
        // keepalived looks at bytes, so comments are in any encoding; what does not read is refused outside of them.
        String::from_utf8(bytes).or_else(|error| Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn is_open(&self, file: &Path) -> bool {
        std::fs::metadata(file).is_ok_and(|about| about.mode() & 0o077 != 0)
    }
}

/// Reads `text` of `file` into items.
pub(super) fn parse(file: &Path, text: &str, files: &dyn Files, findings: &mut Findings) -> Vec<Item> {
    let mut parser = Parser {
        files,
        findings,
        parameters: BTreeMap::new(),
        instance: files.config_id(),
        stack: vec![Block { items: Vec::new(), opened: None }],
        words: Vec::new(),
        begun: None,
        size: 0,
    };
    parser.file(file, text, 0);
    parser.end()
}

/// The first part of the node's name: what `@` lines are compared with.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

struct Block {
    items: Vec<Item>,
    /// Where its brace stands; none for the file itself.
    opened: Option<Place>,
}

struct Parser<'p> {
    files: &'p dyn Files,
    findings: &'p mut Findings,
    parameters: BTreeMap<String, String>,
    instance: String,
    stack: Vec<Block>,
    /// The words of the line so far, and where they began.
    words: Vec<String>,
    begun: Option<Place>,
    /// Bytes that were read.
    size: usize,
}

impl Parser<'_> {
    fn syntax(&mut self, place: &Place, message: impl Into<String>) {
        self.findings.add(Problem::Syntax { place: place.clone(), message: message.into() });
    }

    /// Reads one file.
    fn file(&mut self, file: &Path, text: &str, depth: usize) {
        let name = quoted(&file.display().to_string());
        let folder = file.parent().unwrap_or(Path::new("")).display().to_string();
        let mut lines: VecDeque<(usize, String)> = VecDeque::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut source = (1..).zip(text.lines());
        loop {
            let (number, line) = match lines.pop_front() {
                Some(line) => line,
                None => match source.next() {
                    Some((number, line)) => (number, without_comment(line).to_owned()),
                    None => break,
                },
            };
            let place = Place { file: name.clone(), line: number };
            self.size += line.len() + 1;
            if self.size > LARGEST {
                self.syntax(
                    &place,
                    "the configuration is too large: keep it below 4 MiB, parameters replaced",
                );
                break;
            }
            let trimmed = line.trim();
            if trimmed.contains(char::REPLACEMENT_CHARACTER) {
                self.syntax(
                    &place,
                    "this is not UTF-8: write the file in UTF-8; comments alone may be in another encoding",
                );
                continue;
            }
            if trimmed.contains("${_RANDOM") {
                self.syntax(&place, "random numbers (${_RANDOM}) are not supported: write the number");
                continue;
            }
            if let Some((parameter, value)) = definition(trimmed) {
                let mut value = value.trim().to_owned();
                // A definition of several lines: each but the last ends in a backslash.
                while value.ends_with('\\') {
                    value.pop();
                    let next = lines.pop_front().or_else(|| {
                        source.next().map(|(number, line)| (number, without_comment(line).to_owned()))
                    });
                    let Some((_, next)) = next else { break };
                    value.push('\n');
                    value.push_str(next.trim());
                }
                if value.len() > LONGEST_LINE {
                    self.syntax(&place, "a parameter is too long: keep it below 64 KiB");
                    continue;
                }
                self.parameters.insert(parameter.to_owned(), value.trim_start_matches('\n').to_owned());
                continue;
            }
            let line = match self.replace(trimmed, &folder) {
                Ok(line) => line,
                Err(message) => {
                    self.syntax(&place, message);
                    continue;
                }
            };
            if line.contains('\n') {
                // The lines of a parameter; definitions among them count.
                for line in line.split('\n').rev() {
                    lines.push_front((number, line.to_owned()));
                }
                continue;
            }
            let Some(line) = self.condition(line.trim()) else { continue };
            if definition(line).is_some() {
                lines.push_front((number, line.to_owned()));
                continue;
            }
            if line.starts_with('~') {
                self.syntax(
                    &place,
                    "sequences and lists (~SEQ, ~LST) are not supported: write the lines out",
                );
                continue;
            }
            self.line(&place, line, file, depth);
        }
    }

    /// `@id rest`: the rest, if `id` is this configuration's; `@^id rest`: if it is not.
    fn condition<'l>(&self, line: &'l str) -> Option<&'l str> {
        let Some(condition) = line.strip_prefix('@') else { return Some(line) };
        let (id, rest) = condition.split_once(char::is_whitespace).unwrap_or((condition, ""));
        let applies = match id.strip_prefix('^') {
            Some(id) => id != self.instance,
            None => id == self.instance,
        };
        applies.then(|| rest.trim()).and_then(|rest| self.condition(rest))
    }

    /// Puts values in the place of `$NAME` and `${NAME}`.
    fn replace(&self, line: &str, folder: &str) -> Result<String, String> {
        let mut line = line.to_owned();
        for _ in 0..REPLACEMENTS {
            let Some(replaced) = self.replace_once(&line, folder) else { return Ok(marks(line)) };
            line = replaced;
            if line.contains('\n') {
                return Ok(line);
            }
            if line.len() > LONGEST_LINE {
                return Err(
                    "the line is too long once its parameters are replaced: keep it below 64 KiB".to_owned()
                );
            }
        }
        Err("a parameter stands for itself: break the circle".to_owned())
    }

    /// All parameters of the line; `None` if it has none that is defined.
    fn replace_once(&self, line: &str, folder: &str) -> Option<String> {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        let mut found = false;
        while let Some(at) = rest.find('$') {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let (name, after) = match from.strip_prefix("${").and_then(|inner| inner.split_once('}')) {
                Some((name, after)) => (name, after),
                None => {
                    let end = from[1..].find(|c: char| !is_of_name(c)).map_or(from.len(), |end| end + 1);
                    let (name, after) = (&from[1..end], &from[end..]);
                    // Without braces white space must follow.
                    let bare = after.is_empty() || after.starts_with(char::is_whitespace);
                    (if bare { name } else { "" }, after)
                }
            };
            let environment = name.strip_prefix("_ENV ").and_then(|name| std::env::var(name.trim()).ok());
            let value = match name {
                "_PWD" => Some(folder),
                "_INSTANCE" => Some(self.instance.as_str()),
                "_HASH" => Some("\u{1}"),
                "_BANG" => Some("\u{2}"),
                _ => environment.as_deref().or_else(|| self.parameters.get(name).map(String::as_str)),
            };
            match value {
                Some(value) => {
                    out.push_str(value);
                    rest = after;
                    found = true;
                }
                None => {
                    out.push('$');
                    rest = &from[1..];
                }
            }
        }
        out.push_str(rest);
        found.then_some(out)
    }

    /// Splits a line into words and braces.
    fn line(&mut self, place: &Place, line: &str, file: &Path, depth: usize) {
        let mut characters = line.chars().peekable();
        let mut word: Option<String> = None;
        let mut quote = None;
        while let Some(character) = characters.next() {
            match (character, quote) {
                ('\\', Some(_)) => {
                    let word = word.get_or_insert_default();
                    word.extend(escape(&mut characters));
                }
                (end, Some(begin)) if end == begin => quote = None,
                (inner, Some(_)) => word.get_or_insert_default().push(inner),
                ('"' | '\'', None) => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                ('{' | '}', None) => {
                    self.word(place, word.take());
                    if character == '{' { self.open(place) } else { self.close(place) }
                }
                (space, None) if space.is_whitespace() => self.word(place, word.take()),
                (other, None) => word.get_or_insert_default().push(other),
            }
        }
        if quote.is_some() {
            self.syntax(place, "a quoted string does not end: close it on its line");
        }
        self.word(place, word);
        if let [keyword, ..] = self.words.as_slice()
            && matches!(
                keyword.as_str(),
                "include" | "includer" | "includem" | "includew" | "includeb" | "includea"
            )
        {
            let words = std::mem::take(&mut self.words);
            self.begun = None;
            self.include(place, &words, file, depth);
        }
        self.flush();
    }

    fn word(&mut self, place: &Place, word: Option<String>) {
        if let Some(word) = word {
            self.begun.get_or_insert_with(|| place.clone());
            self.words.push(word);
        }
    }

    /// The words so far are an item.
    fn flush(&mut self) {
        let words = std::mem::take(&mut self.words);
        if let (Some(place), Some(block)) = (self.begun.take(), self.stack.last_mut()) {
            block.items.push(Item { words, block: None, place });
        }
    }

    fn open(&mut self, place: &Place) {
        self.flush();
        let named = self.stack.last().and_then(|block| block.items.last());
        if named.is_none_or(|item| item.block.is_some()) {
            self.syntax(place, "`{` has no keyword before it: write one, or remove the brace");
        }
        if self.stack.len() == DEPTH {
            self.syntax(place, "braces are nested too deep");
        }
        self.stack.push(Block { items: Vec::new(), opened: Some(place.clone()) });
    }

    fn close(&mut self, place: &Place) {
        self.flush();
        if self.stack.len() == 1 {
            self.syntax(place, "`}` closes nothing: remove it");
            return;
        }
        let Some(block) = self.stack.pop() else { return };
        if self.stack.len() < DEPTH
            && let Some(item) = self.stack.last_mut().and_then(|outer| outer.items.last_mut())
            && item.block.is_none()
        {
            item.block = Some(block.items);
        }
    }

    fn end(mut self) -> Vec<Item> {
        self.flush();
        while self.stack.len() > 1 {
            if let Some(Block { opened: Some(place), .. }) = self.stack.pop() {
                self.syntax(&place, "`{` is not closed: add a `}`");
            }
        }
        self.stack.pop().map(|block| block.items).unwrap_or_default()
    }

    fn include(&mut self, place: &Place, words: &[String], file: &Path, depth: usize) {
        let [keyword, pattern] = words else {
            self.syntax(place, "include takes one file or pattern");
            return;
        };
        let demand = Demand::of(keyword);
        let wildcard = pattern.contains(['*', '?', '[']);
        if depth == INCLUDES {
            self.syntax(place, "files include each other too deep: break the circle");
            return;
        }
        let pattern = file.parent().unwrap_or(Path::new("")).join(pattern);
        let shown = quoted(&pattern.display().to_string());
        let found = match self.files.find(&pattern) {
            Ok(found) => found,
            Err(error) => {
                self.syntax(place, format!("{shown} can't be included: {error}"));
                return;
            }
        };
        if found.is_empty() {
            let message = format!("{shown} can't be included: there is no such file");
            let demanded = if wildcard { demand.wildcard } else { demand.named };
            if demanded {
                self.syntax(place, message);
            } else {
                self.findings.warn(place, keyword, message);
            }
        }
        for file in found {
            match self.files.read(&file) {
                Ok(text) => self.file(&file, &text, depth + 1),
                Err(error) if demand.readable => self.findings.add(ConfigError::read(&file, error)),
                Err(error) => self.findings.warn(place, keyword, ConfigError::read(&file, error)),
            }
        }
    }
}

/// What an `include` demands: with keepalived the plain one demands nothing, its variants what their last letter says.
struct Demand {
    /// Every file that is found can be read.
    readable: bool,
    /// A name without wildcards finds a file.
    named: bool,
    /// One with wildcards does.
    wildcard: bool,
}

impl Demand {
    fn of(keyword: &str) -> Self {
        let (readable, named, wildcard) = match keyword {
            "includer" => (true, false, false),
            "includem" | "includeb" => (true, true, false),
            "includew" | "includea" => (true, true, true),
            _ => (false, false, false),
        };
        Self { readable, named, wildcard }
    }
}

/// `$NAME=value`.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('$')?.split_once('=')?;
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (begins && name.chars().all(is_of_name)).then_some((name, value))
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// `${_HASH}` and `${_BANG}` hold their place by characters that no file has until comments are gone.
fn marks(line: String) -> String {
    if line.contains(['\u{1}', '\u{2}']) { line.replace('\u{1}', "#").replace('\u{2}', "!") } else { line }
}

/// The line up to a `!` or `#` that is not in quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in line.char_indices() {
        match (character, quote) {
            _ if escaped => escaped = false,
            ('\\', Some(_)) => escaped = true,
            ('"' | '\'', None) => quote = Some(character),
            (end, Some(begin)) if end == begin => quote = None,
            ('!' | '#', None) => return &line[..at],
            _ => {}
        }
    }
    line
}

/// What stands behind a backslash in quotes; none for a number that is no character.
fn escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    if characters.peek()?.is_digit(8) {
        return number(characters, 8, 3);
    }
    Some(match characters.next()? {
        'a' => '\x07',
        'b' => '\x08',
        'E' => '\x1b',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'c' => char::from(u8::try_from(characters.next()?).ok()? & 0x1f),
        'x' => return number(characters, 16, usize::MAX),
        other => other,
    })
}

/// The character with the number that up to `most` digits make.
fn number(
    characters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    radix: u32,
    most: usize,
) -> Option<char> {
    let mut number = 0_u32;
    for _ in 0..most {
        let Some(digit) = characters.peek().and_then(|character| character.to_digit(radix)) else { break };
        characters.next();
        number = number.saturating_mul(radix).saturating_add(digit);
    }
    char::from_u32(number)
}

#[cfg(test)]
mod tests;
