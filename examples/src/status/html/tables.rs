//! The tables: frontends, and the servers of each backend.

use maud::{Markup, html};

use super::at::At;
use crate::status::format::Format;

/// A column: its heading, and the pointer that it sorts by, from the row on.
pub(super) type Column = (&'static str, &'static str);

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

/// The cells of a row; the first is its heading. Each carries its column's name for screens too narrow for a
/// table.
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

/// A value with its limit beside it.
fn of(value: Markup, limit: Markup) -> Markup {
    html! { b { (value) } " " small { (limit) } }
}

/// Named values, in columns.
fn pairs(values: &[(&str, Markup)]) -> Markup {
    html! {
        dl .pairs .wide[values.len() > 4] {
            @for (name, value) in values { div { dt { (name) } dd { (value) } } }
        }
    }
}

fn responses(at: &At, below: &str) -> Markup {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];
    pairs(&classes.map(|class| (class, at.count(&format!("{below}/{class}")))))
}

fn traffic(at: &At, below: &str) -> Markup {
    let bytes = |field: &str| at.show(&format!("{below}{field}"), Format::Bytes);
    pairs(&[("in", bytes("bytes_in")), ("out", bytes("bytes_out"))])
}

pub(super) const FRONTEND: [Column; 9] = [
    ("Frontend", "/name"),
    ("Listens on", "/bind/0"),
    ("Connections", "/connections"),
    ("Requests/s", "/requests_per_second"),
    ("Queued", "/queued"),
    ("Denied", "/denied"),
    ("Timeouts", "/timeouts_total"),
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
                        (at.show("connections_limit", Format::Limit)) br;
                        (at.count("connections_total")) " in all"
                    }),
                    two(at.show("requests_per_second", Format::Rate), html! {
                        (at.count("requests")) " in all"
                    }),
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

pub(super) const SERVER: [Column; 10] = [
    ("Server", "/name"),
    ("State", "/condition"),
    ("Weight", "/effective_weight"),
    ("In flight", "/in_flight"),
    ("Requests/s", "/requests_per_second"),
    ("Requests", "/requests"),
    ("Failed", "/failures"),
    ("Responses", "/responses/5xx"),
    ("Bytes", "/bytes_out"),
    ("Latency", "/latency/ewma_seconds"),
];

/// A backend and its servers.
pub(super) fn backend(at: &At) -> Markup {
    let rows = html! { @for server in at.each("servers") { (server_row(&server)) } };
    let foot = html! { tfoot role="rowgroup" { tr role="row" { (cells(&SERVER, &totals(at))) } } };
    let heading = at.path.replace('/', "-");
    let label = html! { "Servers of backend " (at.value("name").as_str().unwrap_or_default()) };
    html! {
        section aria-labelledby=(heading) {
            h2 id=(heading) {
                "Backend " (at.text("name"))
                small { (at.text("algorithm")) ", " (at.text("mode")) }
            }
            (table(label, &SERVER, rows, foot))
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
                state(at),
                of(at.count("effective_weight"), html! { "of " (at.count("weight")) }),
                html! {
                    (of(at.count("in_flight"), at.show("limit", Format::Limit)))
                    (pairs(&[("queued", at.count("queued")), ("pinned", at.count("pinned_sessions"))]))
                },
                two(at.show("requests_per_second", Format::Rate), html! {
                    (at.bar("share")) (at.show("share", Format::Ratio))
                }),
                attempts(at, ""),
                failures(at, ""),
                responses(at, "responses"),
                traffic(at, ""),
                latency(at),
            ]))
        }
    }
}

fn state(at: &At) -> Markup {
    let health = |field: &str| format!("health/{field}");
    let since = html! { " for " (at.show("condition_seconds", Format::Age)) };
    let passed = health("last_check/ok");
    let check = html! {
        div {
            span .check data-state-p=(at.path(&passed)) data-state=(at.is(&passed)) {
                (at.show(&passed, Format::Passed))
            }
            ": " (at.text(&health("last_check/result")))
        }
        div .sub {
            (at.text(&health("last_check/kind"))) ", "
            (at.show(&health("last_check/duration_seconds"), Format::Latency)) ", "
            (at.show(&health("last_check/age_seconds"), Format::Age)) " ago"
        }
    };
    html! {
        div .line {
            span .state { (at.text("condition")) }
            span .sub { (at.given("condition_seconds", since)) }
            " " span .note { (at.text("note")) }
        }
        (at.given(&health("last_check"), check))
        (at.missing(&health("last_check"), html! { span .sub { "not checked yet" } }))
        (at.changes(&health("history")))
    }
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
    let kinds = [("connect", "connect_errors"), ("retried", "retries"), ("moved on", "redispatches")];
    html! {
        b { (count("failures")) }
        (pairs(&kinds.map(|(name, field)| (name, count(field)))))
    }
}

fn latency(at: &At) -> Markup {
    let value = |field: &str| at.show(&format!("latency/{field}_seconds"), Format::Latency);
    html! {
        b { (value("ewma")) }
        (at.sparkline("latency/history"))
        (pairs(&[("p50", value("p50")), ("p99", value("p99"))]))
    }
}

fn totals(at: &At) -> [Markup; SERVER.len()] {
    [
        html! { b { "All servers" } },
        two(
            html! { (at.count("totals/usable")) " " (at.show("totals/servers", Format::Limit)) " usable" },
            html! { (at.count("unavailable")) " answered 503 for want of a server" },
        ),
        two(at.count("totals/weight"), html! {}),
        two(
            at.count("totals/in_flight"),
            pairs(&[
                ("queued", html! { (at.count("queued")) " " (at.show("queue_limit", Format::Limit)) }),
                ("at servers", at.count("totals/queued")),
                ("pinned", at.count("totals/pinned_sessions")),
            ]),
        ),
        two(at.show("totals/requests_per_second", Format::Rate), html! {}),
        attempts(at, "totals/"),
        failures(at, "totals/"),
        responses(at, "totals/responses"),
        traffic(at, "totals/"),
        html! {},
    ]
}
