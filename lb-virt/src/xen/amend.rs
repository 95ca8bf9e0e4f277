//! Changes a configuration where it must be another, and leaves the rest as its author has written it: comments, and what no
//! definition says.
//!
//! The syntax: xl.cfg(5), "SYNTAX".

use std::ops::Range;

use super::OWN;

/// What is one setting in two: the first's default is the second.
const PAIRS: [[&str; 2]; 2] = [["memory", "maxmem"], ["vcpus", "maxvcpus"]];
/// Lists of parts, each of which stays as it is written.
const PARTS: [&str; 2] = ["disk", "vif"];

#[derive(Clone, Copy, PartialEq)]
enum Token {
    /// A name, a number, a text in quotes.
    Atom,
    Equals,
    Adds,
    Open,
    Close,
    Comma,
    End,
}

/// `KEY = VALUE`, and where it is.
struct Assignment<'a> {
    key: &'a str,
    /// It is `+=`.
    adds: bool,
    whole: Range<usize>,
    value: Range<usize>,
    /// If it is a list.
    items: Option<Vec<Range<usize>>>,
}

/// `text` with what `after` has other than `before`: the same machine, as it is and as it is to be, in this crate's writing.
///
/// # Errors
/// What can't be changed so.
pub(super) fn amend(text: &str, before: &str, after: &str) -> Result<String, String> {
    let (Some(there), Some(old), Some(new)) = (assignments(text), assignments(before), assignments(after))
    else {
        return Err("its syntax".into());
    };
    let mut keys: Vec<&str> = old.iter().chain(&new).map(|one| one.key).collect();
    keys.retain(|key| value(before, &old, key) != value(after, &new, key));
    for pair in PAIRS {
        if pair.iter().any(|key| keys.contains(key)) {
            keys.extend(pair);
        }
    }
    // What is no list is for all virtual CPUs, also for those that come.
    let for_all = there.iter().any(|one| one.key == "cpus" && one.items.is_none());
    if for_all && keys.contains(&"vcpus") && value(after, &new, "cpus").is_some() {
        keys.push("cpus");
    }
    keys.sort_unstable();
    keys.dedup();
    let (mut edits, mut added) = (Vec::new(), String::new());
    for key in keys {
        let mut found = there.iter().filter(|one| one.key == key);
        let (first, wanted) = (found.next(), value(after, &new, key));
        if found.next().is_some() || first.is_some_and(|one| one.adds) {
            return Err(format!("{key}, which is put together,"));
        }
        match (first, wanted) {
            (None, None) => {}
            (None, Some(wanted)) => added.push_str(&format!("{key} = {wanted}\n")),
            (Some(one), None) => edits.push((line(text, one.whole.clone()), String::new())),
            (Some(one), Some(_)) if PARTS.contains(&key) => {
                let changes = parts(one, &items(before, &old, key), &items(after, &new, key));
                edits.extend(changes.ok_or_else(|| key.to_owned())?);
            }
            (Some(one), Some(wanted)) => edits.push((one.value.clone(), wanted.to_owned())),
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut amended = text.to_owned();
    for (range, new) in edits.into_iter().rev() {
        amended.replace_range(range, &new);
    }
    if !amended.is_empty() && !amended.ends_with('\n') {
        amended.push('\n');
    }
    Ok(own(&(amended + &added), before, after))
}

/// The comments of this crate's own: those that are no more go, those that are new come first.
fn own(text: &str, before: &str, after: &str) -> String {
    let is_own = |line: &&str| line.starts_with(OWN);
    let is_in = |config: &str, line: &str| config.lines().any(|other| other == line.trim_end());
    let new = after.lines().filter(is_own).filter(|line| !is_in(before, line) && !is_in(text, line));
    let mut whole: String = new.map(|line| format!("{line}\n")).collect();
    whole.extend(
        text.split_inclusive('\n').filter(|line| !is_own(line) || !is_in(before, line) || is_in(after, line)),
    );
    whole
}

fn value<'a>(text: &'a str, all: &[Assignment<'_>], key: &str) -> Option<&'a str> {
    all.iter().find(|one| one.key == key).map(|one| &text[one.value.clone()])
}

fn items<'a>(text: &'a str, all: &[Assignment<'_>], key: &str) -> Vec<&'a str> {
    let found = all.iter().find(|one| one.key == key).and_then(|one| one.items.as_ref());
    found.into_iter().flatten().map(|item| &text[item.clone()]).collect()
}

/// Takes parts of a list away and appends others; `None` if it has others than are known.
fn parts(there: &Assignment<'_>, old: &[&str], new: &[&str]) -> Option<Vec<(Range<usize>, String)>> {
    let items = there.items.as_ref().filter(|items| items.len() == old.len())?;
    let mut edits = Vec::new();
    let mut wanted = new.iter().peekable();
    for (at, (item, part)) in items.iter().zip(old).enumerate() {
        if wanted.next_if_eq(&part).is_some() {
            continue;
        }
        // With the comma on one of its sides.
        let range = match (items.get(at + 1), at.checked_sub(1).and_then(|at| items.get(at))) {
            (Some(next), _) => item.start..next.start,
            (None, Some(last)) => last.end..item.end,
            (None, None) => item.clone(),
        };
        edits.push((range, String::new()));
    }
    let (place, before) = match items.last() {
        Some(last) => (last.end, ", "),
        None => (there.value.start + 1, " "),
    };
    edits.extend(wanted.map(|part| (place..place, format!("{before}{part}"))));
    Some(edits)
}

/// An assignment with its line, if nothing else is in that; else with what divides it from the next.
fn line(text: &str, whole: Range<usize>) -> Range<usize> {
    let start = text[..whole.start].rfind('\n').map_or(0, |at| at + 1);
    let rest = &text[whole.end..];
    let end = rest.find('\n').map_or(text.len(), |at| whole.end + at + 1);
    let blank = |range: Range<usize>| text[range].trim().is_empty();
    if blank(start..whole.start) && blank(whole.end..end) {
        return start..end;
    }
    let divided = rest.trim_start_matches([' ', '\t']).strip_prefix(';');
    whole.start..divided.map_or(whole.end, |left| text.len() - left.len())
}

/// All that a configuration sets; `None` if it is none.
fn assignments(text: &str) -> Option<Vec<Assignment<'_>>> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let mut found = Vec::new();
    loop {
        while tokens.next_if(|(token, _)| *token == Token::End).is_some() {}
        let Some((token, key)) = tokens.next() else { return Some(found) };
        let adds = match (token, tokens.next()?.0) {
            (Token::Atom, Token::Equals) => false,
            (Token::Atom, Token::Adds) => true,
            _ => return None,
        };
        let (token, mut value) = tokens.next()?;
        let items = match token {
            Token::Atom => None,
            Token::Open => {
                let mut items = Vec::new();
                loop {
                    match tokens.next()? {
                        (Token::Atom, item) => items.push(item),
                        (Token::Comma | Token::End, _) => {}
                        (Token::Close, end) => break value.end = end.end,
                        _ => return None,
                    }
                }
                Some(items)
            }
            _ => return None,
        };
        if tokens.peek().is_some_and(|(token, _)| *token != Token::End) {
            return None;
        }
        found.push(Assignment { key: &text[key.clone()], adds, whole: key.start..value.end, value, items });
    }
}

fn tokens(text: &str) -> Option<Vec<(Token, Range<usize>)>> {
    let bytes = text.as_bytes();
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        let token = match byte {
            b' ' | b'\t' | b'\r' => continue,
            b'#' => {
                at = text[start..].find('\n').map_or(text.len(), |end| start + end);
                continue;
            }
            b'\n' | b';' => Token::End,
            b'=' => Token::Equals,
            b'+' if bytes.get(at) == Some(&b'=') => {
                at += 1;
                Token::Adds
            }
            b'[' => Token::Open,
            b']' => Token::Close,
            b',' => Token::Comma,
            quote @ (b'"' | b'\'') => loop {
                let &byte = bytes.get(at).filter(|byte| **byte != b'\n')?;
                at += if byte == b'\\' { 2 } else { 1 };
                if byte == quote {
                    break Token::Atom;
                }
            },
            _ if is_word(Some(&byte)) => {
                while is_word(bytes.get(at)) {
                    at += 1;
                }
                Token::Atom
            }
            _ => return None,
        };
        tokens.push((token, start..at));
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# by hand\nname='w' # the \"name\"\nbios = \"ovmf\"; memory=64\npci = [ '01:00.0' ]\n\
                        disk = [ # two\n  'a,script=b',\n  \"c\", ]\n  cpus = '0-3'\ncpu_weight = 512";

    #[test]
    fn only_what_must_be_is_changed() {
        let before = "memory = 64\nmaxmem = 64\ndisk = [ \"A\", \"C\" ]\ncpus = [ \"0-3\" ]\n";
        for (from, to, changed, into) in [
            ("", "", "", ""),
            ("memory = 64", "memory = 32", "memory=64", "memory=32"),
            ("cpus = [ \"0-3\" ]", "cpus = [ \"4\", \"5\" ]", "'0-3'", "[ \"4\", \"5\" ]"),
            ("cpus = [ \"0-3\" ]\n", "", "  cpus = '0-3'\n", ""),
            ("\"A\", ", "", "'a,script=b',\n  ", ""),
            (", \"C\"", "", ",\n  \"c\"", ""),
            ("\"C\" ]", "\"C\", \"D\" ]", "\"c\",", "\"c\", \"D\","),
            ("memory = 64", "vif = [ \"x\" ]\nmemory = 64", "512", "512\nvif = [ \"x\" ]"),
        ] {
            let after = before.replacen(from, to, 1);
            let mut expected = format!("{}\n", TEXT.replacen(changed, into, 1));
            if from == "memory = 64" && to == "memory = 32" {
                expected.push_str("maxmem = 64\n");
            }
            assert_eq!(amend(TEXT, before, &after).unwrap(), expected, "{from} {to}");
        }
        let (with, without) = (format!("{OWN}shared sda\nmemory = 1\n"), "memory = 1\n");
        assert_eq!(amend(without, without, &with).unwrap(), with);
        assert_eq!(amend(&with, &with, without).unwrap(), without);
        assert_eq!(amend("a=1;vcpus=2;b=3", "vcpus = 2", "").unwrap(), "a=1;b=3\n");
        let (one, two) = ("vcpus = 1\ncpus = [ \"3\" ]\n", "vcpus = 2\ncpus = [ \"3\" ]\n");
        assert_eq!(amend("vcpus=1\ncpus='3'", one, two).unwrap(), "vcpus=2\ncpus=[ \"3\" ]\n");
        assert_eq!(amend("vcpus=1\ncpus=['3']", one, two).unwrap(), "vcpus=2\ncpus=['3']\n");
        assert_eq!(amend("disk=[]", "", "disk = [ \"a\" ]").unwrap(), "disk=[ \"a\"]\n");
        assert_eq!(amend("disk=['a']", "disk = [ \"A\" ]", "").unwrap(), "");
    }

    #[test]
    fn what_can_t_be_told_is_refused() {
        let (before, after) = ("disk = [ \"A\" ]\ncpus = \"1\"\n", "disk = [ \"A\", \"B\" ]\ncpus = \"2\"\n");
        for (text, said) in [
            ("cpus = '1'\ncpus = '1'", "cpus"),
            ("cpus += '1'", "cpus"),
            ("disk = ['a', 'b']", "disk"),
            ("disk = 'a'", "disk"),
            ("disk = [['a']]", "its syntax"),
            ("cpus = '1", "its syntax"),
            ("cpus = '1\\", "its syntax"),
            ("cpus '1'", "its syntax"),
            ("cpus = -1", "its syntax"),
            ("cpus = 1 2", "its syntax"),
        ] {
            let error = amend(text, before, after).unwrap_err();
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }
}
