//! The page: every number in plain HTML, kept up to date by `page.js` where scripts run.
//!
//! Each value on the page is a `span` with the JSON pointer (RFC 6901) of what it shows in `/status.json` and
//! the name of its format; the server fills it in once, the script again after each reading. So there is one
//! description of the page, and both ways show the same. Attributes that the script knows:
//!
//! | attribute | meaning |
//! |---|---|
//! | `data-p`, `data-f` | pointer and format of the text inside |
//! | `data-if`, `data-unless` | hidden unless, or if, the pointer's value is there: not null, false or empty |
//! | `data-state-p` | the attribute `data-state`, which colours the element, is the pointer's value |
//! | `data-spark`, `data-bar`, `data-list` | a sparkline, the width of a bar, a list of health changes |
//! | `data-sort` | a column that sorts by this pointer, from its row's `data-row` on |
//! | `data-shape` | the names behind the rows; when they differ, the page is fetched anew |
//!
//! Nothing is loaded from elsewhere: style, script and icon are in the page, and its
//! [content security policy](POLICY) allows only these, by their hash.

use std::sync::LazyLock;

use base64::Engine;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use self::at::At;
use super::format::Format;
use super::json;
use super::model::Status;

mod at;
mod tables;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Seconds between two readings of the live page.
pub const LIVE_SECONDS: u32 = 1;
/// Seconds between two reloads where scripts do not run; the thesis's HAProxy page reloads as often.
pub const RELOAD_SECONDS: u32 = 5;
/// Three bars of different length, as a picture inside its own address.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cg \
    fill='%232f6fed'%3E%3Crect y='2' width='16' height='3' rx='1.5'/%3E%3Crect y='6.5' width='11' height='3' \
    rx='1.5'/%3E%3Crect y='11' width='6' height='3' rx='1.5'/%3E%3C/g%3E%3C/svg%3E";

/// The page's content security policy: its own style and script, `status.json` of its own origin, nothing
/// else.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

fn hash(text: &str) -> String {
    format!("sha256-{}", base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text)))
}

/// The status as a page.
///
/// ```
/// use lb_examples::status::{html, sample};
///
/// assert!(html::render(&sample::at(60.0)).starts_with("<!DOCTYPE html>"));
/// ```
pub fn render(status: &Status) -> String {
    let value = json::value(status);
    let root = At { root: &value, path: String::new() };
    html! {
        (DOCTYPE)
        html lang="en" data-live-ms=(LIVE_SECONDS * 1000) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                noscript { meta http-equiv="refresh" content=(RELOAD_SECONDS); }
                title { (title(&root)) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(&root))
                p #lost role="alert" hidden {}
                main data-shape=(json::shape(status)) {
                    (tiles(&root))
                    section aria-labelledby="frontends" {
                        h2 #frontends { "Frontends" }
                        (tables::frontends(&root))
                    }
                    @for backend in root.each("backends") { (tables::backend(&backend)) }
                }
                footer {
                    "The same numbers as " a href="status.json" { "JSON" } ", "
                    a href="status.csv" { "CSV" } " and " a href="metrics" { "Prometheus metrics" } "."
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// What a tab among many has to say: `4 of 4 usable · director · ha1`.
fn title(root: &At) -> String {
    let show = |field, format: Format| format.show(root.value(field));
    let (usable, servers) = (show("summary/usable", Format::Count), show("summary/servers", Format::Limit));
    format!("{usable} {servers} usable · {} · {}", show("name", Format::Text), show("node", Format::Text))
}

fn head(root: &At) -> Markup {
    html! {
        header {
            div {
                h1 { (root.text("name")) " " small { (root.text("version")) } }
                p {
                    "on " b { (root.text("node")) } ", up " b { (root.show("uptime_seconds", Format::Age)) }
                    ", " b { (root.count("workers")) } " workers, process "
                    b { (root.show("pid", Format::Plain)) }
                }
            }
            div .live {
                p {
                    span #mode role="status" { "Reloads every " (RELOAD_SECONDS) " s" }
                    br;
                    span .sub { "Read " (root.show("time_unix_ms", Format::Clock)) }
                }
                button #pause type="button" hidden { "Pause" }
            }
        }
    }
}

fn tiles(root: &At) -> Markup {
    let sum = |field: &str, format| root.show(&format!("summary/{field}"), format);
    let with = |field, format, words: &str| html! { (sum(field, format)) " " (words) };
    let tiles = [
        ("Servers usable", sum("usable", Format::Count), sum("servers", Format::Limit)),
        ("Requests/s", sum("requests_per_second", Format::Rate), with("requests", Format::Count, "in all")),
        ("In flight", sum("in_flight", Format::Count), with("queued", Format::Count, "queued")),
        (
            "Connections",
            sum("connections", Format::Count),
            with("connections_total", Format::Count, "in all"),
        ),
        ("Failed attempts", sum("failures", Format::Count), with("redispatches", Format::Count, "moved on")),
        (
            "Answered 5xx",
            sum("server_errors", Format::Count),
            with("unavailable", Format::Count, "without a server"),
        ),
        ("Timeouts", sum("timeouts", Format::Count), with("denied", Format::Count, "denied")),
        ("Sent", sum("bytes_out", Format::Bytes), with("bytes_in", Format::Bytes, "received")),
    ];
    html! {
        dl .tiles aria-label="Summary" {
            @for (name, value, below) in tiles {
                div { dt { (name) } dd { b { (value) } small { (below) } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::{Backend, Check, Frontend, HISTORY, Health, Server, Transition};
    use crate::status::sample;

    /// The values of an attribute, in their order.
    fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!(" {name}=\"");
        page.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn every_string_is_escaped() {
        let evil = || "\"'><script>alert(1)</script>&amp;".to_owned();
        let check = Check { kind: evil(), result: evil(), ..Check::default() };
        let change = Transition { reason: evil(), ..Transition::default() };
        let health = Health { last_check: Some(check), history: vec![change], ..Health::default() };
        let server = Server { name: evil(), address: evil(), health, ..Server::default() };
        let page = render(&Status {
            name: evil(),
            version: evil(),
            node: evil(),
            frontends: vec![Frontend {
                name: evil(),
                bind: vec![evil()],
                backend: evil(),
                ..Frontend::default()
            }],
            backends: vec![Backend {
                name: evil(),
                algorithm: evil(),
                servers: vec![server],
                ..Backend::default()
            }],
            ..Status::default()
        });
        let body = page.replacen(&format!("<script>{SCRIPT}</script>"), "", 1);
        assert!(!body.contains("<script"), "a string became an element");
        assert!(!body.contains("\"'>"), "a string left its attribute");
        // Title (2), header (3), shape (3), frontend (3), backend (2 and a label), server (2), health (3).
        assert_eq!(body.matches("script&gt;alert(1)").count(), 2 + 3 + 3 + 3 + 3 + 2 + 3);
    }

    #[test]
    fn every_pointer_of_the_page_leads_somewhere() {
        let status = sample::at(100.0);
        let (page, value) = (render(&status), json::value(&status));
        let mut seen = 0;
        for name in [
            "data-p",
            "data-if",
            "data-unless",
            "data-state-p",
            "data-spark",
            "data-bar",
            "data-list",
            "data-row",
        ] {
            for pointer in attributes(&page, name) {
                assert!(value.pointer(pointer).is_some(), "{name}={pointer}");
                seen += 1;
            }
        }
        assert!(seen > 200, "only {seen} pointers found");
        for row in attributes(&page, "data-row") {
            let columns =
                if row.starts_with("/frontends") { &tables::FRONTEND[..] } else { &tables::SERVER[..] };
            for (_, sort) in columns {
                assert!(value.pointer(&format!("{row}{sort}")).is_some(), "{row}{sort}");
            }
        }
    }

    #[test]
    fn the_script_knows_the_same_formats_and_sizes() {
        let page = render(&sample::at(100.0));
        for format in attributes(&page, "data-f") {
            let known = SCRIPT.contains(&format!("    {format}: (v) =>"))
                || SCRIPT.contains(&format!("    {format}(v) {{"));
            assert!(known, "page.js has no format {format}");
        }
        let (width, height) = super::super::format::SPARK;
        for constant in [
            format!("historyLength = {HISTORY},"),
            format!("sparkWidth = {width},"),
            format!("sparkHeight = {height},"),
            format!("changesShown = {};", at::CHANGES),
        ] {
            assert!(SCRIPT.contains(&constant), "page.js has another {constant}");
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let page = render(&sample::at(100.0)).replace(ICON, "");
        for sign in ["http://", "https://", " src=", "@import", "url(", " style=", " onclick="] {
            assert!(!page.contains(sign), "{sign}");
        }
    }

    #[test]
    fn the_policy_names_what_is_in_the_page() {
        // printf 'abc' | openssl dgst -sha256 -binary | base64
        assert_eq!(hash("abc"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        let page = render(&Status::default());
        for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
            let inside = page
                .split(&format!("<{tag}>"))
                .nth(1)
                .and_then(|rest| rest.split(&format!("</{tag}>")).next());
            let allowed = format!("{directive} '{}';", hash(inside.expect("the page has one")));
            assert!(POLICY.contains(&allowed), "{allowed} is not in {}", POLICY.as_str());
        }
    }
}
