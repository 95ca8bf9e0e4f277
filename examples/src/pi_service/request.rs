//! What a client asks for, and why it may not get it.

use hyper::header::ACCEPT;
use hyper::{Method, Request, StatusCode};
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// A page of the server.
pub(super) enum Page {
    /// `/pi.php`: the sum over n rectangles.
    Sum { n: u64 },
    /// `/index.php`.
    Index,
    /// `/health`.
    Health,
}

impl Page {
    /// The page that `request` asks for.
    pub(super) fn of<B>(request: &Request<B>, max_n: u64) -> Result<Self, Refusal> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            return Err(Refusal::Method { method: request.method().clone() });
        }
        match request.uri().path() {
            "/pi.php" => rectangles(parameter(request, "n"), max_n).map(|n| Self::Sum { n }),
            "/index.php" | "/" => Ok(Self::Index),
            "/health" => Ok(Self::Health),
            path => Err(Refusal::NotFound { path: shortened(path) }),
        }
    }
}

/// Whether the client wants JSON rather than text: by `format`, else by its `Accept`.
pub(super) fn wants_json<B>(request: &Request<B>) -> Result<bool, Refusal> {
    match parameter(request, "format") {
        Some("json") => Ok(true),
        Some("text") => Ok(false),
        Some(value) => Err(Refusal::Format { value: shortened(value) }),
        None => Ok(request.headers().get_all(ACCEPT).iter().any(|accept| {
            // Naming it is asking for it: browsers, and tools that take anything, do not.
            accept.to_str().is_ok_and(|accept| accept.contains("application/json"))
        })),
    }
}

fn rectangles(value: Option<&str>, max_n: u64) -> Result<u64, Refusal> {
    let value = value.ok_or(Refusal::Missing { max_n })?;
    // `parse` alone would take a plus sign, which in a query means a space.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(n) if digits && (1..=max_n).contains(&n) => Ok(n),
        _ => Err(Refusal::Rectangles { value: shortened(value), max_n }),
    }
}

/// The value of `name` in the query; of several, the last, as PHP has it.
fn parameter<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).next_back()
}

/// At most forty characters, so that no answer grows with what was asked.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Why a client gets no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("n is missing; ask for /pi.php?n=1000, with n from 1 to {max_n}\n")]
    Missing { max_n: u64 },
    #[error("n = {value:?} is no number from 1 to {max_n}\n")]
    Rectangles { value: String, max_n: u64 },
    #[error("format = {value:?} is unknown; use text or json\n")]
    Format { value: String },
    #[error("{path} is not here; ask for /pi.php?n=1000, /index.php or /health\n")]
    NotFound { path: String },
    #[error("{method} is not for these pages; use GET or HEAD\n")]
    Method { method: Method },
    #[error("all workers ({workers}) are busy and the queue ({queue}) is full; ask again later\n")]
    Busy { workers: usize, queue: usize },
    #[error("the sum for n = {n} was not finished; the server is ending\n")]
    Failed { n: u64 },
}

impl Refusal {
    /// The status that goes with it.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Missing { .. } | Self::Rectangles { .. } | Self::Format { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Busy { .. } | Self::Failed { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// `{"error": "…"}`.
impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Refusal", 1)?;
        fields.serialize_field("error", self.to_string().trim_end())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_values_counts() {
        let request = |uri: &str| Request::get(uri).body(()).expect("a request");
        for (uri, wanted) in [
            ("/pi.php?n=1&n=2", Some("2")),
            ("/pi.php?nn=1", None),
            ("/pi.php?n", None),
            ("/pi.php?&&n=1=2", Some("1=2")),
            ("/pi.php", None),
        ] {
            assert_eq!(parameter(&request(uri), "n"), wanted, "{uri}");
        }
    }

    #[test]
    fn long_values_come_back_short() {
        let n = "9".repeat(1000);
        let error = rectangles(Some(&n), 10).expect_err("too large").to_string();
        assert!(error.len() < 100 && error.contains("999…"), "{error}");
    }
}
