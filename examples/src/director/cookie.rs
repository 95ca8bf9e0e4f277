//! Persistence by a cookie that the director inserts: HAProxy's `cookie NAME insert indirect nocache`.

use hyper::header::{self, HeaderMap, HeaderValue};

use crate::config::Cookie;

/// The value of the cookie that a client sent, if it did.
pub(crate) fn find<'h>(headers: &'h HeaderMap, cookie: &Cookie) -> Option<&'h str> {
    pairs(headers).find(|(name, _)| *name == cookie.name).map(|(_, value)| value)
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}

/// Takes the cookie out of a request, so that the server never sees it.
pub(crate) fn hide(headers: &mut HeaderMap, cookie: &Cookie) {
    let is_ours = |pair: &str| pair.trim().split_once('=').is_some_and(|(name, _)| name == cookie.name);
    let mut kept = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        match value.to_str() {
            Ok(text) if text.split(';').any(is_ours) => {
                let rest: Vec<&str> = text.split(';').map(str::trim).filter(|pair| !is_ours(pair)).collect();
                if !rest.is_empty() {
                    kept.extend(HeaderValue::from_str(&rest.join("; ")));
                }
            }
            _ => kept.push(value.clone()),
        }
    }
    headers.remove(header::COOKIE);
    for value in kept {
        headers.append(header::COOKIE, value);
    }
}

/// Tells the client which server it belongs to from now on.
pub(crate) fn insert(headers: &mut HeaderMap, cookie: &Cookie, server: &str) {
    let mut text = format!("{}={server}; path=/", cookie.name);
    if cookie.http_only {
        text.push_str("; HttpOnly");
    }
    if cookie.secure {
        text.push_str("; Secure");
    }
    // Server names are letters, digits and `-_.:`, so this cannot fail.
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.append(header::SET_COOKIE, value);
    }
    if cookie.nocache {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie() -> Cookie {
        Cookie { name: "SRV".into(), http_only: true, secure: false, nocache: true, indirect: true }
    }

    #[test]
    fn it_is_found_and_hidden_among_others() {
        for (sent, found, left) in [
            (&["SRV=s1"][..], Some("s1"), vec![]),
            (&["a=b; SRV=s1;c=d"], Some("s1"), vec!["a=b; c=d"]),
            (&["a=b", "SRV=s2; SRV=s3"], Some("s2"), vec!["a=b"]),
            (&["XSRV=s1; SRVX=s2"], None, vec!["XSRV=s1; SRVX=s2"]),
            (&[], None, vec![]),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(header::COOKIE, HeaderValue::from_static(value));
            }
            assert_eq!(find(&headers, &cookie()), found, "{sent:?}");
            hide(&mut headers, &cookie());
            let rest: Vec<_> = headers.get_all(header::COOKIE).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(rest, left, "{sent:?}");
        }
    }

    #[test]
    fn it_is_inserted_beside_the_servers_own() {
        let mut headers = HeaderMap::new();
        headers.append(header::SET_COOKIE, HeaderValue::from_static("own=1"));
        insert(&mut headers, &cookie(), "s1");
        let set: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(set, ["own=1", "SRV=s1; path=/; HttpOnly"]);
        assert_eq!(headers[header::CACHE_CONTROL], "private");
    }
}
