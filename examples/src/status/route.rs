//! From a path to what is sent: status code, headers, body.

use super::{Status, csv, html, json, prometheus};

/// The paths that [`respond`] knows.
pub const PATHS: [&str; 4] = ["/", "/status.json", "/status.csv", "/metrics"];

/// What to send for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, or 404 for a path that is not one of [`PATHS`].
    pub code: u16,
    /// Media type of the body, with its character set where it has one.
    pub content_type: &'static str,
    /// The whole body, UTF-8.
    pub body: String,
}

/// Answers a request to read. `target` is the request's path, with or without a query, which is ignored;
/// `read` takes the status and is called only when the path needs it. The caller refuses methods other than
/// GET and HEAD.
pub fn respond(target: &str, read: impl FnOnce() -> Status) -> Response {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let (content_type, render): (_, fn(&Status) -> String) = match path {
        "/" => ("text/html; charset=utf-8", html::render),
        "/status.json" => ("application/json", json::render),
        "/status.csv" => ("text/csv; charset=utf-8; header=present", csv::render),
        "/metrics" => (prometheus::CONTENT_TYPE, prometheus::render),
        _ => {
            let body = format!("There is nothing at this path; try one of {}.\n", PATHS.join(", "));
            return Response { code: 404, content_type: "text/plain; charset=utf-8", body };
        }
    };
    Response { code: 200, content_type, body: render(&read()) }
}

impl Response {
    /// Every header but the length: nothing is stored, nothing is guessed, nothing is embedded, and the page
    /// runs only its own script.
    pub fn headers(&self) -> [(&'static str, &'static str); 7] {
        [
            ("content-type", self.content_type),
            ("cache-control", "no-store"),
            ("content-security-policy", html::POLICY.as_str()),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;

    #[test]
    fn every_path_has_its_form() {
        let table = [
            ("/", 200, "text/html", "<!DOCTYPE html>"),
            ("/?x=1", 200, "text/html", "<!DOCTYPE html>"),
            ("/status.json", 200, "application/json", "{"),
            ("/status.csv", 200, "text/csv", "# pxname,"),
            ("/metrics", 200, "text/plain; version=0.0.4", "# HELP lb_"),
            ("/status.xml", 404, "text/plain", "There is nothing"),
            ("", 404, "text/plain", "There is nothing"),
            ("//", 404, "text/plain", "There is nothing"),
            ("/<script>", 404, "text/plain", "There is nothing"),
        ];
        for (target, code, content_type, start) in table {
            let response = respond(target, || sample::at(60.0));
            assert_eq!(response.code, code, "{target}");
            assert!(response.content_type.starts_with(content_type), "{target}");
            assert!(response.body.starts_with(start), "{target}");
            assert!(response.headers().contains(&("cache-control", "no-store")), "{target}");
        }
    }

    #[test]
    fn the_status_is_read_only_when_it_is_shown() {
        let response = respond("/favicon.ico", || unreachable!("nothing of it is shown"));
        assert_eq!(response.code, 404);
    }
}
