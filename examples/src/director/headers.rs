//! What a proxy changes in headers: hop-by-hop fields end here (RFC 9110 section 7.6.1), the client's address is told.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why a request with a well-formed header is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Improper {
    /// RFC 9112 section 3.2: exactly one `Host` in HTTP/1.1, at most one before.
    Host,
    /// This is no forward proxy.
    Connect,
}

/// Refuses what no server behind should see.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Improper> {
    if request.method() == Method::CONNECT {
        return Err(Improper::Connect);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let needed = request.version() == Version::HTTP_11;
    if second.is_some() || (first.is_none() && needed) {
        return Err(Improper::Host);
    }
    Ok(())
}

/// The protocol that the client wants to change to, if this hop is asked to.
///
/// `h2c` is left out: behind a tunnel of HTTP/2 nothing here would see its requests.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(header::UPGRADE)?;
    let asked = headers.get_all(header::CONNECTION).iter().any(|value| has_token(value, "upgrade"));
    let plain = !has_token(value, "h2c") && !has_token(value, "h2");
    (asked && plain).then(|| value.clone())
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Takes out what is meant for this hop only.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            // Framing and routing are not the sender's to take out of a message.
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

/// Asks the server for the protocol change that the client asked for.
pub(crate) fn ask_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Makes a request fit for a server: origin form, this hop's version, no hop-by-hop fields.
pub(crate) fn towards_server<B>(request: &mut Request<B>) {
    if request.uri().authority().is_some() {
        to_origin_form(request);
    }
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let trailers = headers.get(header::TE).is_some_and(|value| has_token(value, "trailers"));
    strip_hop_by_hop(headers);
    if trailers {
        // This hop passes trailers on, so it may ask for them.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // The engine sends `100 Continue` itself when the server's side wants the body.
    headers.remove(header::EXPECT);
}

/// RFC 9112 section 3.2.2: the target's authority replaces `Host`.
fn to_origin_form<B>(request: &mut Request<B>) {
    let uri = std::mem::take(request.uri_mut());
    let host = uri.authority().and_then(|authority| {
        // Whoever is named before an `@` is nobody's business behind.
        let host = authority.as_str().rsplit('@').next()?;
        HeaderValue::from_str(host).ok()
    });
    if let Some(host) = host {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = match uri.path_and_query() {
        Some(path) => Uri::from(path.clone()),
        None => Uri::default(),
    };
}

/// Appends the client's address to `X-Forwarded-For`; `own` is that address as text.
pub(crate) fn forwarded_for(headers: &mut HeaderMap, own: &HeaderValue) {
    if !headers.contains_key(&FORWARDED_FOR) {
        headers.insert(FORWARDED_FOR, own.clone());
        return;
    }
    let mut all = Vec::new();
    for value in headers.get_all(&FORWARDED_FOR) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(own.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// An address as a header value.
pub(crate) fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn fields_of_this_hop_end_here_and_framing_stays() {
        let mut got = request(
            "/",
            &[
                ("host", "a"),
                ("connection", "close, X-Own, Content-Length, Host"),
                ("x-own", "1"),
                ("keep-alive", "5"),
                ("te", "gzip"),
                ("upgrade", "foo"),
                ("expect", "100-continue"),
                ("content-length", "3"),
                ("x-other", "2"),
            ],
        );
        towards_server(&mut got);
        let mut names: Vec<_> = got.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "x-other"]);
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_a_host() {
        let mut got = request("http://user@b:81/x?y", &[("host", "a")]);
        towards_server(&mut got);
        assert_eq!(
            (got.uri().to_string().as_str(), &got.headers()["host"]),
            ("/x?y", &HeaderValue::from_static("b:81"))
        );
    }

    #[test]
    fn one_host_is_needed() {
        for (fields, expected) in [
            (&[("host", "a")][..], Ok(())),
            (&[], Err(Improper::Host)),
            (&[("host", "a"), ("host", "a")], Err(Improper::Host)),
        ] {
            assert_eq!(check(&request("/", fields)), expected, "{fields:?}");
        }
    }

    #[test]
    fn upgrades_are_passed_on_when_this_hop_is_asked_but_not_to_http2() {
        for (fields, expected) in [
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")][..], true),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (&[("connection", "upgrade")], false),
        ] {
            assert_eq!(upgrade(request("/", fields).headers()).is_some(), expected, "{fields:?}");
        }
    }

    #[test]
    fn addresses_are_appended_to_those_before() {
        let own = address_value("192.0.2.7".parse().unwrap());
        let mut got = request("/", &[("x-forwarded-for", "a"), ("x-forwarded-for", "b, c")]);
        forwarded_for(got.headers_mut(), &own);
        assert_eq!(got.headers()["x-forwarded-for"], "a, b, c, 192.0.2.7");
        let mut got = request("/", &[]);
        forwarded_for(got.headers_mut(), &own);
        assert_eq!(got.headers()["x-forwarded-for"], "192.0.2.7");
    }
}
