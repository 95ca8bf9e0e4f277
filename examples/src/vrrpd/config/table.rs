//! The TOML form: the same keywords as in keepalived.conf, line by line.
//!
//! | TOML | keepalived.conf |
//! |---|---|
//! | `[vrrp_instance.HA1]` | `vrrp_instance HA1 { … }` |
//! | `priority = 150` | `priority 150` |
//! | `nopreempt = true` | `nopreempt` |
//! | `use_vmac = "vrrp.11"`, `weight = [10, "reverse"]` | `use_vmac vrrp.11`, `weight 10 reverse` |
//! | `authentication = { auth_type = "PASS", auth_pass = "1234" }` | `authentication { auth_type PASS … }` |
//! | `auth_hmac = { key = [[1, "hex:…"], [2, "file:/…"]], active_key = 1 }` | `auth_hmac { key 1 hex:… …` |
//! | `track_script = ["haproxy weight 10", "uplink"]` | `track_script { haproxy weight 10 … }` |

use std::path::Path;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::build::TOP;
use super::item::Item;
use super::problem::{At, Findings};
use crate::director::config::{Document, Place, quoted};

/// Blocks with a name: tables of tables. All of the top level but `global_defs`, which comes first there.
pub(super) const NAMED: &[&str] = TOP.split_at(1).1;

/// Blocks of lines: lists of strings.
pub(super) const LISTS: [&str; 10] = [
    "group",
    "track_bfd",
    "track_file",
    "track_interface",
    "track_process",
    "track_script",
    "unicast_peer",
    "virtual_ipaddress",
    "virtual_ipaddress_excluded",
    "virtual_routes",
];

/// Keywords that stand several times in a block, a line each: a list of lists.
pub(super) const REPEATED: [&str; 1] = ["key"];

/// Keywords whose values no message repeats.
const SECRET: [&str; 2] = ["auth_pass", "key"];

/// Reads `text` of `file` into items.
pub(super) fn parse(file: &Path, text: &str, findings: &mut Findings) -> Vec<Item> {
    let name = quoted(&file.display().to_string());
    let document = match Document::parse(&name, text) {
        Ok(document) => document,
        Err(error) => {
            findings.add(error);
            return Vec::new();
        }
    };
    let mut reader = Reader { document: &document, text, findings };
    reader.top(document.table())
}

struct Reader<'r, 'd> {
    document: &'r Document<'d>,
    text: &'r str,
    findings: &'r mut Findings,
}

type Entry<'t, 'd> = (&'t Spanned<std::borrow::Cow<'d, str>>, &'t Spanned<DeValue<'d>>);

/// The entries of a table in the file's order.
fn ordered<'t, 'd>(table: &'t DeTable<'d>) -> Vec<Entry<'t, 'd>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

impl Reader<'_, '_> {
    fn top(&mut self, table: &DeTable<'_>) -> Vec<Item> {
        let mut items = Vec::new();
        for (key, value) in ordered(table) {
            let keyword: &str = key.get_ref();
            match value.get_ref() {
                DeValue::Table(named) if NAMED.contains(&keyword) => {
                    for (name, value) in ordered(named) {
                        let place = self.document.place(name.span().start);
                        let section = format!("[{keyword}]");
                        let name: &str = name.get_ref();
                        let Some(table) = value.get_ref().as_table() else {
                            self.refuse(&place, &section, name, value, &format!("a table, [{keyword}.NAME]"));
                            continue;
                        };
                        let block = Some(self.block(table, name));
                        items.push(Item { words: vec![keyword.to_owned(), name.to_owned()], block, place });
                    }
                }
                _ if NAMED.contains(&keyword) => {
                    let place = self.document.place(value.span().start);
                    let accepted = format!("a table with a name, [{keyword}.NAME]");
                    self.refuse(&place, "the top level", keyword, value, &accepted);
                }
                _ => items.extend(self.entry(key, value, "the top level")),
            }
        }
        items
    }

    fn block(&mut self, table: &DeTable<'_>, section: &str) -> Vec<Item> {
        let mut items = Vec::new();
        for (key, value) in ordered(table) {
            match value.get_ref() {
                DeValue::Array(lines)
                    if REPEATED.contains(&key.get_ref().as_ref())
                        && lines.iter().all(|line| line.get_ref().is_array()) =>
                {
                    for line in lines.iter() {
                        let place = self.document.place(line.span().start);
                        let item = self.entry(key, line, section);
                        items.extend(item.map(|item| Item { place, ..item }));
                    }
                }
                _ => items.extend(self.entry(key, value, section)),
            }
        }
        items
    }

    fn entry(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        section: &str,
    ) -> Option<Item> {
        const WORDS: &str = "a string, a number, true, false, a list, or a table";
        let place = self.document.place(key.span().start);
        let keyword = key.get_ref().to_string();
        let item = |words, block, place| Some(Item { words, block, place });
        match value.get_ref() {
            DeValue::Table(table) => {
                let block = self.block(table, &keyword);
                item(vec![keyword], Some(block), place)
            }
            DeValue::Boolean(true) => item(vec![keyword], None, place),
            DeValue::Boolean(false) => item(vec![keyword, "off".to_owned()], None, place),
            DeValue::Array(lines) if LISTS.contains(&keyword.as_str()) => {
                let mut block = Vec::new();
                for line in lines.iter() {
                    let place = self.document.place(line.span().start);
                    let words: Vec<String> = match line.get_ref().as_str() {
                        Some(text) => text.split_whitespace().map(str::to_owned).collect(),
                        None => Vec::new(),
                    };
                    if words.is_empty() {
                        self.refuse(&place, section, &keyword, line, "a list of strings");
                    } else {
                        block.push(Item { words, block: None, place });
                    }
                }
                item(vec![keyword], Some(block), place)
            }
            DeValue::Array(values) => {
                let mut words = vec![keyword];
                for value in values.iter() {
                    let Some(text) = word(value.get_ref()) else {
                        self.refuse(&place, section, &words[0], value, "a list of strings and numbers");
                        return None;
                    };
                    words.push(text);
                }
                item(words, None, place)
            }
            _ if LISTS.contains(&keyword.as_str()) => {
                self.refuse(&place, section, &keyword, value, "a list of strings");
                None
            }
            other => match word(other) {
                Some(text) => item(vec![keyword, text], None, place),
                None => {
                    self.refuse(&place, section, &keyword, value, WORDS);
                    None
                }
            },
        }
    }

    fn refuse(
        &mut self,
        place: &Place,
        section: &str,
        keyword: &str,
        value: &Spanned<DeValue<'_>>,
        accepted: &str,
    ) {
        let shown = match SECRET.contains(&keyword) {
            true => "(a secret)",
            false => self.text.get(value.span()).unwrap_or_default(),
        };
        let section = quoted(section);
        self.findings.refuse(&At { place, section: &section, keyword, value: shown }, accepted, &[]);
    }
}

/// A string or a number as a word.
fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        _ => None,
    }
}
