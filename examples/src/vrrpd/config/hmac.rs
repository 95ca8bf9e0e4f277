//! `auth_hmac`: signed adverts, and the keys they are signed with.

use std::path::Path;
use std::time::Duration;

use lb_vrrp::hmac::{AntiReplay, Hmac, KEY_BYTES, Key, MAX_TIME_WINDOW, Mode};

use super::build::unknown;
use super::conf::Files;
use super::item::Item;
use super::problem::Findings;
use super::words::Line;

const KEYWORDS: [&str; 5] = ["active_key", "anti_replay", "key", "mode", "time_window"];
const ID: &str = "a whole number, 1 to 255";
const KEY: &str = "`key` takes an id, 1 to 255, and hex: with 64 to 128 digits, or file: with a whole path, or 32 to 64 \
                   characters; the secret is not repeated here";

/// Reads `auth_hmac { … }`. No message repeats a secret.
pub(super) fn hmac(item: &Item, section: &str, files: &dyn Files, findings: &mut Findings) -> Option<Hmac> {
    let section = &format!("auth_hmac of {section}");
    let (mut keys, mut active_key, mut time_window) = (Vec::new(), None, None);
    let (mut anti_replay, mut mode) = (AntiReplay::default(), Mode::default());
    let mut understood = true;
    for item in item.lines() {
        let line = &mut Line { item, section, findings };
        match item.keyword() {
            "key" => match key(item, section, files, line.findings) {
                Some(key) => keys.push(key),
                None => understood = false,
            },
            "active_key" => {
                active_key = line.integer(1..=255).map(|id| id as u8);
                understood &= active_key.is_some();
            }
            "time_window" => {
                time_window = line.seconds(1..=MAX_TIME_WINDOW.as_secs() as u32);
            }
            "anti_replay" => {
                let read = |word: &str| match word {
                    "time" => Some(AntiReplay::Time),
                    "monotonic" => Some(AntiReplay::Monotonic),
                    _ => None,
                };
                anti_replay = line.one("time or monotonic", read).unwrap_or_default();
            }
            "mode" => {
                let read = |word: &str| match word {
                    "enforce" => Some(Mode::Enforce),
                    "permissive" => Some(Mode::Permissive),
                    "receive-only" | "receive_only" => Some(Mode::ReceiveOnly),
                    _ => None,
                };
                mode = line.one("enforce, permissive, or receive-only", read).unwrap_or_default();
            }
            _ => unknown("auth_hmac", section, item, &KEYWORDS, findings),
        }
    }
    let said = |keyword: &str| item.lines().iter().any(|line| line.keyword() == keyword);
    for (keyword, accepted) in [("key", "an id and a secret"), ("active_key", ID)] {
        if !said(keyword) {
            findings.missing(&item.place, section, keyword, accepted);
            understood = false;
        }
    }
    if anti_replay == AntiReplay::Monotonic && time_window.is_some() {
        let message = "`time_window` is left out: `anti_replay monotonic` has none";
        findings.warn(&item.place, section, message);
        time_window = None;
    }
    let active_key = active_key.filter(|_| understood)?;
    Some(Hmac {
        keys,
        active_key,
        anti_replay,
        time_window: time_window.filter(|&time| time > Duration::ZERO),
        mode,
    })
}

/// `key 1 hex:…`, `key 1 file:/…`, `key 1 "text"`.
fn key(item: &Item, section: &str, files: &dyn Files, findings: &mut Findings) -> Option<Key> {
    let [id, secret] = item.arguments() else {
        findings.conflict(&item.place, section, KEY);
        return None;
    };
    let Some(id) = id.parse::<u8>().ok().filter(|&id| id != 0) else {
        findings.conflict(&item.place, section, KEY);
        return None;
    };
    let (text, source) = match secret.strip_prefix("file:") {
        None => (secret.clone(), String::new()),
        Some(path) => {
            let shown = super::quoted(path);
            if !path.starts_with('/') {
                let message =
                    format!("the file {shown} of key {id} is not a whole path: write file:/like/this");
                findings.conflict(&item.place, section, message);
                return None;
            }
            match files.read(Path::new(path)) {
                Ok(text) => {
                    if files.is_open(Path::new(path)) {
                        let message =
                            format!("{shown} can be read by others than its owner: chmod 600 {shown}");
                        findings.warn(&item.place, section, message);
                    }
                    // An editor ends the last line.
                    (text.trim_end_matches(['\r', '\n']).to_owned(), format!(" in {shown}"))
                }
                Err(error) => {
                    let message = format!("the file {shown} of key {id} can't be read: {error}");
                    findings.conflict(&item.place, section, message);
                    return None;
                }
            }
        }
    };
    match Key::parse(id, &text) {
        Ok(key) => Some(key),
        Err(error) => {
            findings.conflict(&item.place, section, format!("{error}{source}"));
            None
        }
    }
}

/// How `mode` is written.
#[must_use]
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Permissive => "permissive",
        Mode::ReceiveOnly => "receive-only",
    }
}

const _: () = assert!(*KEY_BYTES.start() == 32 && *KEY_BYTES.end() == 64, "as KEY says");
