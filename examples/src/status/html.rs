//! The page: every number in plain HTML, kept up to date by `page.js` where scripts run.
//!
//! Each value on the page is a `span` with the JSON pointer (RFC 6901) of what it shows in `/status.json` and the
//! name of its format; the server fills it in once, the script again after each reading. So there is one
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

/// The page's content security policy: its own style and script, `status.json` of its own origin, nothing else.
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
                title { (status.name) " · " (status.node) }
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

fn head(root: &At) -> Markup {
    html! {
        header {
            div {
                h1 { (root.text("name")) " " small { (root.text("version")) } }
                p {
                    "on " b { (root.text("node")) } ", up " b { (root.show("uptime_seconds", Format::Age)) }
                    ", " b { (root.count("workers")) } " workers, process " b { (root.show("pid", Format::Plain)) }
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
    let tiles = [
        ("Servers usable", sum("usable", Format::Count), sum("servers", Format::Limit)),
        (
            "Requests/s",
            sum("requests_per_second", Format::Rate),
            html! { (sum("requests", Format::Count)) " in all" },
        ),
        ("In flight", sum("in_flight", Format::Count), html! { (sum("queued", Format::Count)) " queued" }),
        (
            "Connections",
            sum("connections", Format::Count),
            html! { (sum("denied", Format::Count)) " denied" },
        ),
        (
            "Failed attempts",
            sum("failures", Format::Count),
            html! { (sum("timeouts", Format::Count)) " timeouts" },
        ),
        ("Answered 5xx", sum("server_errors", Format::Count), html! { "to clients" }),
        ("Sent", sum("bytes_out", Format::Bytes), html! { (sum("bytes_in", Format::Bytes)) " received" }),
    ];
    html! {
        dl .tiles aria-label="Summary" {
            @for (name, value, below) in tiles {
                div { dt { (name) } dd { b { (value) } small { (below) } } }
            }
        }
    }
}
