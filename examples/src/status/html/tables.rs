//! The tables: frontends, and the servers of each backend.

use maud::{Markup, html};

use super::at::At;
use crate::status::format::Format;

/// A column: its heading, and the pointer that it sorts by, from the row on.
type Column = (&'static str, &'static str);

/// A table with sortable columns, in a frame that scrolls sideways and can be focused for it.
fn table(label: Markup, columns: &[Column], body: Markup, foot: Markup) -> Markup {
    html! {
        div .frame role="region" tabindex="0" aria-label=(label) {
            table role="table" {
                thead role="rowgroup" {
                    tr role="row" {
                        @for (name, sort) in columns {
                            th role="columnheader" scope="col" data-sort=(sort) { (name) }
                        }
                    }
                }
                tbody role="rowgroup" { (body) }
                (foot)
            }
        }
    }
}

/// The cells of a row; the first is its heading. Each carries its column's name for screens too narrow for a table.
fn cells(columns: &[Column], cells: &[Markup]) -> Markup {
    debug_assert_eq!(columns.len(), cells.len());
    html! {
        @for (index, ((name, _), cell)) in columns.iter().zip(cells).enumerate() {
            @if index == 0 { th role="rowheader" scope="row" { (cell) } }
            @else { td role="cell" data-label=(name) { (cell) } }
        }
    }
}

/// A value with a smaller line below.
fn two(value: Markup, below: Markup) -> Markup {
    html! { b { (value) } div .sub { (below) } }
}

/// Named values, in columns.
fn pairs(values: &[(&str, Markup)]) -> Markup {
    html! { dl .pairs { @for (name, value) in values { div { dt { (name) } dd { (value) } } } } }
}

fn responses(at: &At, below: &str) -> Markup {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];
    pairs(&classes.map(|class| (class, at.count(&format!("{below}/{class}")))))
}

fn traffic(at: &At, below: &str) -> Markup {
    let bytes = |field: &str| at.show(&format!("{below}{field}"), Format::Bytes);
    pairs(&[("in", bytes("bytes_in")), ("out", bytes("bytes_out"))])
}

const FRONTEND: [Column; 9] = [
    ("Frontend", "/name"),
    ("Listens on", "/bind/0"),
    ("Connections", "/connections"),
    ("Requests/s", "/requests_per_second"),
    ("Queued", "/queued"),
    ("Denied", "/denied"),
    ("Timeouts", "/timeouts/server"),
    ("Responses", "/responses/5xx"),
    ("Bytes", "/bytes_out"),
];

pub(super) fn frontends(root: &At) -> Markup {
    let timeouts = [
        ("connect", "connect"),
        ("client", "client"),
        ("server", "server"),
        ("queue", "queue"),
        ("header", "request_header"),
    ];
    let rows = html! {
        @for at in root.each("frontends") {
            tr role="row" data-row=(at.path) {
                (cells(&FRONTEND, &[
                    two(at.text("name"), html! { (at.text("mode")) " to " (at.text("backend")) }),
                    html! {
                        @for index in 0..at.value("bind").as_array().map_or(0, Vec::len) {
                            div { (at.text(&format!("bind/{index}"))) }
                        }
                    },
                    two(at.count("connections"), html! {
                        (at.show("connections_limit", Format::Limit)) br; (at.count("connections_total")) " in all"
                    }),
                    two(at.show("requests_per_second", Format::Rate), html! { (at.count("requests")) " in all" }),
                    two(at.count("queued"), html! {}),
                    two(at.count("denied"), html! {}),
                    pairs(&timeouts.map(|(name, field)| (name, at.count(&format!("timeouts/{field}"))))),
                    responses(&at, "responses"),
                    traffic(&at, ""),
                ]))
            }
        }
    };
    table(html! { "Frontends" }, &FRONTEND, rows, html! {})
}

const SERVER: [Column; 13] = [
    ("Server", "/name"),
    ("State", "/condition"),
    ("Weight", "/effective_weight"),
    ("In flight", "/in_flight"),
    ("Waiting", "/queued"),
    ("Requests/s", "/requests_per_second"),
    ("Requests", "/requests"),
    ("Failed", "/failures"),
    ("Responses", "/responses/5xx"),
    ("Bytes", "/bytes_out"),
    ("Latency", "/latency/ewma_seconds"),
    ("Last minute", "/latency/p99_seconds"),
    ("Health", "/health/last_check/ok"),
];

/// A backend and its servers.
pub(super) fn backend(at: &At) -> Markup {
    let rows = html! { @for server in at.each("servers") { (server_row(&server)) } };
    let foot = html! { tfoot role="rowgroup" { tr role="row" { (cells(&SERVER, &totals(at))) } } };
    let heading = at.path.replace('/', "-");
    html! {
        section aria-labelledby=(heading) {
            h2 id=(heading) {
                "Backend " (at.text("name"))
                small { (at.text("algorithm")) ", " (at.text("mode")) }
            }
            (table(html! { "Servers of backend " (at.value("name").as_str().unwrap_or_default()) }, &SERVER, rows, foot))
        }
    }
}

fn server_row(at: &At) -> Markup {
    html! {
        tr role="row" data-row=(at.path) data-state=(at.value("condition").as_str().unwrap_or_default())
            data-state-p=(at.path("condition")) {
            (cells(&SERVER, &[
                two(at.text("name"), html! {
                    (at.text("address")) (at.given("backup", html! { " " span .tag { "backup" } }))
                }),
                html! { span .state { (at.text("condition")) } div .sub { (at.text("note")) (since(at)) } },
                two(at.count("effective_weight"), html! { "of " (at.count("weight")) }),
                two(at.count("in_flight"), at.show("limit", Format::Limit)),
                two(at.count("queued"), html! { (at.count("pinned_sessions")) " pinned" }),
                two(at.show("requests_per_second", Format::Rate), html! {
                    (at.bar("share")) (at.show("share", Format::Ratio))
                }),
                attempts(at, ""),
                failures(at, ""),
                responses(at, "responses"),
                traffic(at, ""),
                two(at.show("latency/ewma_seconds", Format::Latency), pairs(&[
                    ("p50", at.show("latency/p50_seconds", Format::Latency)),
                    ("p99", at.show("latency/p99_seconds", Format::Latency)),
                ])),
                at.sparkline("latency/history"),
                health(at),
            ]))
        }
    }
}

fn since(at: &At) -> Markup {
    at.given("health/since_seconds", html! { "since " (at.show("health/since_seconds", Format::Age)) })
}

fn attempts(at: &At, below: &str) -> Markup {
    let count = |field: &str| at.count(&format!("{below}{field}"));
    html! {
        b { (count("requests")) }
        (pairs(&[("ok", count("successes")), ("cancelled", count("cancelled"))]))
    }
}

fn failures(at: &At, below: &str) -> Markup {
    let count = |field: &str| at.count(&format!("{below}{field}"));
    html! {
        b { (count("failures")) }
        (pairs(&[
            ("connect", count("connect_errors")),
            ("retried", count("retries")),
            ("moved on", count("redispatches")),
        ]))
    }
}

fn health(at: &At) -> Markup {
    let check = at.given("health/last_check", html! {
        div {
            span .check data-state-p=(at.path("health/last_check/ok")) data-state=(at.is("health/last_check/ok")) {
                (at.show("health/last_check/ok", Format::Passed))
            }
            ": " (at.text("health/last_check/result"))
        }
        div .sub {
            (at.text("health/last_check/kind")) ", "
            (at.show("health/last_check/duration_seconds", Format::Latency)) ", "
            (at.show("health/last_check/age_seconds", Format::Age)) " ago"
        }
    });
    html! {
        (check)
        (at.missing("health/last_check", html! { "not checked yet" }))
        (at.changes("health/history"))
    }
}

fn totals(at: &At) -> [Markup; SERVER.len()] {
    [
        html! { "All servers" },
        html! { (at.count("totals/usable")) " " (at.show("totals/servers", Format::Limit)) " usable" },
        two(at.count("totals/weight"), html! {}),
        two(at.count("totals/in_flight"), html! {}),
        two(
            at.count("queued"),
            html! {
                (at.show("queue_limit", Format::Limit)) br;
                (at.count("totals/queued")) " at servers" br;
                (at.count("totals/pinned_sessions")) " pinned"
            },
        ),
        two(at.show("totals/requests_per_second", Format::Rate), html! {}),
        attempts(at, "totals/"),
        failures(at, "totals/"),
        responses(at, "totals/responses"),
        traffic(at, "totals/"),
        html! {},
        html! {},
        html! { (at.count("unavailable")) " answered 503 for want of a server" },
    ]
}
