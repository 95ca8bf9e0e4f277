//! The state of a director, shown.
//!
//! The engine fills in a [`Status`], plain data, whenever somebody asks; everything else here is a pure
//! function of it: no clock, no socket, no lock. An HTTP server of any make hands over the path and sends
//! what [`respond`] gives:
//!
//! ```
//! use lb_examples::status::{respond, sample};
//!
//! let response = respond("/status.json", || sample::at(60.0));
//! assert_eq!((response.code, response.content_type), (200, "application/json"));
//! ```
//!
//! | path | module | what it is |
//! |---|---|---|
//! | `/` | [`html`] | the page: readable without scripts, live with them |
//! | `/status.json` | [`json`] | the [`Status`] with derived fields |
//! | `/status.csv` | [`csv`] | a line for each frontend, server and backend, in the spirit of HAProxy |
//! | `/metrics` | [`prometheus`] | text exposition format 0.0.4 |

pub mod csv;
mod format;
pub mod html;
pub mod json;
pub mod model;
pub mod prometheus;
mod route;
pub mod sample;

pub use model::Status;
pub use route::{PATHS, Response, respond};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The model's own names, as JSON has them, against the columns and metrics that were named by hand.
    #[test]
    fn the_three_forms_agree() {
        let status = sample::at(100.0);
        let (value, metrics) = (json::value(&status), prometheus::render(&status));
        let lines = csv::render(&status);
        let mut lines = ::csv::Reader::from_reader(lines.trim_start_matches("# ").as_bytes());
        let columns = lines.headers().unwrap().clone();
        let lines: Vec<_> = lines.records().map(Result::unwrap).collect();
        let (www, web1) = ("/frontends/0", "/backends/0/servers/0");
        let table = [
            (www, "connections", "scur", "lb_frontend_open_connections"),
            (www, "connections_limit", "slim", "lb_frontend_connections_limit"),
            (www, "connections_total", "stot", "lb_frontend_connections_total"),
            (www, "requests", "req_tot", "lb_frontend_requests_total"),
            (www, "queued", "qcur", "lb_frontend_queued_requests"),
            (www, "denied", "dreq", "lb_frontend_denied_total"),
            (www, "bytes_in", "bin", "lb_frontend_received_bytes_total"),
            (www, "bytes_out", "bout", "lb_frontend_sent_bytes_total"),
            (www, "timeouts/connect", "to_connect", "lb_frontend_timeouts_total:connect"),
            (www, "timeouts/client", "to_client", "lb_frontend_timeouts_total:client"),
            (www, "timeouts/server", "to_server", "lb_frontend_timeouts_total:server"),
            (www, "timeouts/queue", "to_queue", "lb_frontend_timeouts_total:queue"),
            (www, "timeouts/request_header", "to_header", "lb_frontend_timeouts_total:request_header"),
            (www, "responses/2xx", "hrsp_2xx", "lb_frontend_responses_total:2xx"),
            (www, "responses/4xx", "hrsp_4xx", "lb_frontend_responses_total:4xx"),
            (www, "responses/5xx", "hrsp_5xx", "lb_frontend_responses_total:5xx"),
            (web1, "weight", "uweight", "lb_server_weight"),
            (web1, "effective_weight", "weight", "lb_server_effective_weight"),
            (web1, "in_flight", "scur", "lb_server_in_flight_requests"),
            (web1, "limit", "slim", "lb_server_requests_limit"),
            (web1, "queued", "qcur", "lb_server_queued_requests"),
            (web1, "pinned_sessions", "pinned", "lb_server_pinned_sessions"),
            (web1, "requests", "req_tot", "lb_server_requests_total"),
            (web1, "successes", "succ", "lb_server_successes_total"),
            (web1, "failures", "eresp", "lb_server_failures_total"),
            (web1, "cancelled", "cli_abrt", "lb_server_cancelled_total"),
            (web1, "retries", "wretr", "lb_server_retries_total"),
            (web1, "redispatches", "wredis", "lb_server_redispatches_total"),
            (web1, "connect_errors", "econ", "lb_server_connect_errors_total"),
            (web1, "bytes_in", "bin", "lb_server_sent_bytes_total"),
            (web1, "bytes_out", "bout", "lb_server_received_bytes_total"),
            (web1, "responses/2xx", "hrsp_2xx", "lb_server_responses_total:2xx"),
            (web1, "responses/4xx", "hrsp_4xx", "lb_server_responses_total:4xx"),
            (web1, "responses/5xx", "hrsp_5xx", "lb_server_responses_total:5xx"),
        ];
        for (place, field, column, metric) in table {
            let expected = value.pointer(&format!("{place}/{field}")).unwrap().to_string();
            let line = &lines[usize::from(place == web1)];
            let index = columns.iter().position(|name| name == column).unwrap();
            assert_eq!(line[index], expected, "{column} of {place}");
            let (metric, kind) = metric.split_once(':').unwrap_or((metric, ""));
            let labels = if place == web1 { "backend=\"pi\",server=\"web1\"" } else { "frontend=\"www\"" };
            let start = format!("{metric}{{{labels}");
            let mut samples =
                metrics.lines().filter(|l| l.starts_with(&start) && l.contains(&format!("\"{kind}")));
            let shown = samples.next().and_then(|sample| sample.rsplit(' ').next());
            assert_eq!(shown, Some(expected.as_str()), "{metric} {kind} of {place}");
        }
        // The comparison says something only where the sample gives each counter of a server its own value.
        let counters =
            ["requests", "successes", "failures", "cancelled", "retries", "redispatches", "connect_errors"];
        let values: HashSet<_> =
            counters.map(|field| value["backends"][0]["servers"][0][field].as_u64()).into();
        assert_eq!(values.len(), counters.len(), "{values:?}");
    }
}
