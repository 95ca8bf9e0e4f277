//! What a proxy changes in headers: hop-by-hop fields end here (RFC 9110 section 7.6.1), the client's address is told.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why a request with a well-formed header is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Improper {
    /// RFC 9112 section 3.2: exactly one valid `Host` in HTTP/1.1, at most one before.
    Host,
    /// RFC 9112 section 3.2: a target in a form that its method does not take, or with a user's name in it.
    Target,
    /// This is no forward proxy.
    Connect,
}

/// Refuses what no server behind should see.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Improper> {
    if request.method() == Method::CONNECT {
        return Err(Improper::Connect);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => {}
        (None, None) if request.version() == Version::HTTP_10 => {}
        _ => return Err(Improper::Host),
    }
    if is_target(request.method(), request.uri()) { Ok(()) } else { Err(Improper::Target) }
}

/// Origin form; absolute form of HTTP; the asterisk for OPTIONS.
fn is_target(method: &Method, target: &Uri) -> bool {
    match (target.scheme_str(), target.authority()) {
        (None, None) => target.path() != "*" || method == Method::OPTIONS,
        (Some("http" | "https"), Some(authority)) => {
            !authority.host().is_empty() && is_host(authority.as_str().as_bytes())
        }
        _ => false,
    }
}

/// The bytes of a registered name (RFC 3986 section 3.2.2) but for the comma.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~%!$&'()*+;=";
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
};

/// `uri-host [ ":" port ]` or nothing (RFC 9110 section 7.2); a comma would make two programs see two hosts.
fn is_host(value: &[u8]) -> bool {
    let (valid, rest) = match value.strip_prefix(b"[") {
        Some(literal) => {
            let end = literal.iter().position(|&byte| byte == b']').unwrap_or(0);
            let address = std::str::from_utf8(&literal[..end]).ok().map(str::parse::<Ipv6Addr>);
            (matches!(address, Some(Ok(_))), literal.get(end + 1..).unwrap_or_default())
        }
        None => {
            let end = memchr::memchr(b':', value).unwrap_or(value.len());
            (value[..end].iter().all(|&byte| IN_NAME[usize::from(byte)]), &value[end..])
        }
    };
    valid && (rest.is_empty() || (rest[0] == b':' && rest[1..].iter().all(u8::is_ascii_digit)))
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

/// What is wrong with a server's answer, if anything: two programs could read its framing differently, or it changes to
/// a protocol that was not `asked` for.
pub(crate) fn improper<B>(response: &Response<B>, asked: Option<&HeaderValue>) -> Option<&'static str> {
    let headers = response.headers();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let agreed = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
        let asked = asked.zip(agreed).is_some_and(|(asked, agreed)| has_token(asked, agreed.trim()));
        return (!asked).then_some("changed to a protocol that was not asked for");
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some() {
            return Some("answered with a Transfer-Encoding other than chunked");
        }
        return length.map(|_| "answered with both Content-Length and Transfer-Encoding");
    }
    let number = length.is_none_or(|length| length.as_bytes().iter().all(u8::is_ascii_digit));
    (!number || lengths.next().is_some()).then_some("answered with a Content-Length that is no number")
}

/// Makes a request fit for a server: origin form, this hop's version, no hop-by-hop fields. Where HTTP/1.0 names no
/// host, it is what the client connected to, `local` (RFC 9112 section 3.3).
pub(crate) fn towards_server<B>(request: &mut Request<B>, local: SocketAddr) {
    if request.uri().authority().is_some() {
        to_origin_form(request);
    }
    if request.version() != Version::HTTP_11 {
        *request.version_mut() = Version::HTTP_11;
        if !request.headers().contains_key(header::HOST) {
            let host = SocketAddr::new(local.ip(), local.port()).to_string();
            request.headers_mut().extend(HeaderValue::from_str(&host).ok().map(|host| (header::HOST, host)));
        }
    }
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
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
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

    fn local() -> SocketAddr {
        "192.0.2.1:8080".parse().unwrap()
    }

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
        towards_server(&mut got, local());
        let mut names: Vec<_> = got.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "x-other"]);
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_a_host() {
        let mut got = request("http://b:81/x?y", &[("host", "a")]);
        towards_server(&mut got, local());
        assert_eq!(
            (got.uri().to_string().as_str(), &got.headers()["host"]),
            ("/x?y", &HeaderValue::from_static("b:81"))
        );
    }

    #[test]
    fn a_request_of_http_1_0_gets_a_host() {
        for (fields, expected) in [(&[][..], "192.0.2.1:8080"), (&[("host", "a")], "a")] {
            let mut got = request("/", fields);
            *got.version_mut() = Version::HTTP_10;
            assert_eq!(check(&got), Ok(()));
            towards_server(&mut got, local());
            assert_eq!(
                (got.version(), got.headers()["host"].to_str().unwrap()),
                (Version::HTTP_11, expected)
            );
        }
    }

    #[test]
    fn one_valid_host_is_needed() {
        for (fields, expected) in [
            (&[("host", "a")][..], Ok(())),
            (&[], Err(Improper::Host)),
            (&[("host", "a"), ("host", "a")], Err(Improper::Host)),
        ] {
            assert_eq!(check(&request("/", fields)), expected, "{fields:?}");
        }
        for valid in ["", "a", "a:", "a.example:80", "192.0.2.1", "[::1]", "[2001:db8::1]:80", "%41_~"] {
            assert_eq!(check(&request("/", &[("host", valid)])), Ok(()), "{valid}");
        }
        for invalid in [
            "a b", "a, b", "a,b", "u@a", "a/b", "a?b", "a#b", "a\\b", "<a>", "a:b", "a:80:80", "[::1", "[a]",
            "[::1]x",
        ] {
            assert_eq!(check(&request("/", &[("host", invalid)])), Err(Improper::Host), "{invalid}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_an_address_in_http() {
        for (method, target, expected) in [
            ("GET", "/a?b", Ok(())),
            ("GET", "http://b:81/x", Ok(())),
            ("GET", "https://[::1]/x", Ok(())),
            ("OPTIONS", "*", Ok(())),
            ("GET", "*", Err(Improper::Target)),
            ("GET", "a:80", Err(Improper::Target)),
            ("GET", "u@a", Err(Improper::Target)),
            ("GET", "http://u:p@a/x", Err(Improper::Target)),
            ("GET", "http://:80/x", Err(Improper::Target)),
            ("GET", "ftp://a/x", Err(Improper::Target)),
            ("CONNECT", "a:80", Err(Improper::Connect)),
        ] {
            let mut request = request(target, &[("host", "a")]);
            *request.method_mut() = method.parse().unwrap();
            assert_eq!(check(&request), expected, "{method} {target}");
        }
    }

    #[test]
    fn an_answer_has_one_length_at_most_and_the_protocol_that_was_asked_for() {
        let asked = HeaderValue::from_static("echo, foo/1");
        for (status, fields, good) in [
            (200, &[][..], true),
            (200, &[("content-length", "2")], true),
            (200, &[("transfer-encoding", "Chunked")], true),
            (200, &[("content-length", "2"), ("transfer-encoding", "chunked")], false),
            (200, &[("content-length", "2"), ("content-length", "2")], false),
            (200, &[("content-length", "2, 2")], false),
            (200, &[("content-length", "+2")], false),
            (200, &[("transfer-encoding", "gzip, chunked")], false),
            (200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false),
            (101, &[("upgrade", "Foo/1")], true),
            (101, &[("upgrade", "foo/2")], false),
            (101, &[], false),
        ] {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            let response = response.body(()).unwrap();
            assert_eq!(improper(&response, Some(&asked)).is_none(), good, "{status} {fields:?}");
            assert_eq!(improper(&response, None).is_none(), good && status == 200, "{status} {fields:?}");
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
