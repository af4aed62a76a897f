//! What of a request's head a handler may see, and what of an answer's head a caller may see.

use http::header::{
    ALT_SVC, CONNECTION, CONTENT_SECURITY_POLICY, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PUBLIC_KEY_PINS, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, X_CONTENT_TYPE_OPTIONS,
};
use mayfly_types::RequestId;

use crate::GatewayConfig;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// Headers that are taken out of every request, besides `x-mayfly-*`, `x-forwarded-*`, `proxy-*` and what
/// `connection` names.
const NEVER_HANDED_ON: &[&str] = &[
    "authorization",
    "api-key",
    "x-api-key",
    "forwarded",
    "x-real-ip",
    "via",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "http2-settings",
    "x-request-id",
    "idempotency-key",
];

const PREFIXES_NEVER_HANDED_ON: &[&str] = &["x-mayfly-", "x-forwarded-", "proxy-"];

const OF_THE_WHOLE_ORIGIN: [HeaderName; 7] = [
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("service-worker-allowed"),
    PUBLIC_KEY_PINS,
    ALT_SVC,
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
];

/// Whether the request's target and headers are within the limits.
pub(crate) fn fits(parts: &http::request::Parts, config: &GatewayConfig) -> bool {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    parts.headers.len() <= config.headers_max as usize && target + bytes <= config.header_bytes_max as usize
}

/// Whether the caller takes trailers (`TE: trailers`).
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value
            .split(',')
            .any(|part| part.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("trailers")))
    })
}

/// Takes out keys, internal, forwarding and hop-by-hop headers and our own cookies, and sets `host` and our request id.
pub(crate) fn clean_request(headers: &mut HeaderMap, host: &HeaderValue, id: RequestId) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Framing is the gateway's own business: `connection` cannot take it away.
        .filter(|name| *name != HOST && *name != http::header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            NEVER_HANDED_ON.contains(&name.as_str())
                || PREFIXES_NEVER_HANDED_ON.iter().any(|prefix| name.as_str().starts_with(prefix))
        })
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    headers.remove(EXPECT);
    clean_cookies(headers);
    headers.insert(HOST, host.clone());
    headers.insert(REQUEST_ID, id_value(id));
}

/// Takes cookies named `mayfly*` (in any case) out, and leaves the others as they are.
fn clean_cookies(headers: &mut HeaderMap) {
    let ours = |crumb: &[u8]| {
        let crumb = crumb.trim_ascii_start();
        crumb.len() >= 6 && crumb[..6].eq_ignore_ascii_case(b"mayfly")
    };
    let all: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    if !all.iter().any(|value| value.as_bytes().split(|b| *b == b';').any(ours)) {
        return;
    }
    headers.remove(COOKIE);
    for value in all {
        let kept: Vec<&[u8]> =
            value.as_bytes().split(|b| *b == b';').filter(|crumb| !ours(crumb)).map(<[u8]>::trim_ascii).collect();
        let joined = kept.join(&b"; "[..]);
        if !joined.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(&joined)
        {
            headers.append(COOKIE, value);
        }
    }
}

/// The caller's own id of the request, to be echoed: at most 128 printable ASCII characters.
pub(crate) fn client_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let fits = (1..=128).contains(&value.len()) && value.as_bytes().iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    fits.then(|| value.clone())
}

/// Marks an answer with our id, and the caller's if it sent one.
pub(crate) fn mark(headers: &mut HeaderMap, id: RequestId, client: Option<HeaderValue>) {
    headers.insert(REQUEST_ID, id_value(id));
    headers.remove(&CLIENT_REQUEST_ID);
    if let Some(client) = client {
        headers.insert(CLIENT_REQUEST_ID, client);
    }
}

fn id_value(id: RequestId) -> HeaderValue {
    HeaderValue::from_str(&id.to_string()).expect("an id is ASCII")
}

/// An answer that shares its origin with other tenants' answers: no sniffing, no scripts with that origin, no cookies.
pub(crate) fn harden_shared_origin(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.remove(SET_COOKIE);
    // They speak for the whole origin, which is not the handler's alone.
    for name in OF_THE_WHOLE_ORIGIN {
        headers.remove(name);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    fn cleaned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut headers = map(pairs);
        clean_request(&mut headers, &HeaderValue::from_static("h.example"), RequestId::new());
        assert!(headers.remove(REQUEST_ID).unwrap().to_str().unwrap().starts_with("req_"));
        assert_eq!(headers.remove(HOST).unwrap(), "h.example");
        let mut left: Vec<_> =
            headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        left.sort();
        left
    }

    #[test]
    fn no_key_and_no_internal_header_is_handed_on() {
        for name in [
            "authorization",
            "api-key",
            "x-api-key",
            "x-mayfly-tenant",
            "X-Mayfly-Anything",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-whatever",
            "x-real-ip",
            "via",
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "proxy-authorization",
            "proxy-connection",
            "expect",
            "http2-settings",
            "x-request-id",
            "x-mayfly-end-user",
            "x-mayfly-dry-run",
            "x-mayfly-max-cost",
            "idempotency-key",
            "host",
        ] {
            assert_eq!(cleaned(&[(name, "x"), (name, "y")]), [], "{name}");
        }
    }

    #[test]
    fn what_connection_names_goes_too() {
        let left = cleaned(&[
            ("connection", "close, x-secret ,Content-Length"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("accept", "*/*"),
        ]);
        assert_eq!(left, [("accept".into(), "*/*".into()), ("content-length".into(), "3".into())]);
    }

    #[test]
    fn our_cookies_go_and_others_stay() {
        assert_eq!(
            cleaned(&[("cookie", "a=1; mayfly_session=s; b=2"), ("cookie", "MAYFLY=x")]),
            [("cookie".into(), "a=1; b=2".into())]
        );
        assert_eq!(cleaned(&[("cookie", "a=1;b=2")]), [("cookie".into(), "a=1;b=2".into())]);
        assert_eq!(cleaned(&[("cookie", "mayflyx=1")]), []);
    }

    #[test]
    fn limits_of_a_head() {
        let config = GatewayConfig { headers_max: 2, header_bytes_max: 1024, ..GatewayConfig::default() };
        let parts = |count: usize, length: usize| {
            let mut request = http::Request::builder().uri("/x");
            for _ in 0..count {
                request = request.header("a", "v".repeat(length));
            }
            request.body(()).unwrap().into_parts().0
        };
        assert!(fits(&parts(2, 500), &config));
        assert!(!fits(&parts(3, 1), &config));
        assert!(!fits(&parts(1, 1022), &config));
    }

    #[test]
    fn trailers_and_client_ids() {
        assert!(takes_trailers(&map(&[("te", "gzip, Trailers;q=1")])));
        assert!(!takes_trailers(&map(&[("te", "gzip")])));
        assert_eq!(client_request_id(&map(&[("x-request-id", "abc 1")])).unwrap(), "abc 1");
        assert_eq!(client_request_id(&map(&[("x-request-id", &"x".repeat(129))])), None);
        let mut odd = HeaderMap::new();
        odd.insert(REQUEST_ID, HeaderValue::from_bytes(b"a\xff").unwrap());
        assert_eq!(client_request_id(&odd), None);
    }

    #[test]
    fn shared_origins_are_hardened() {
        let mut headers = map(&[
            ("set-cookie", "a=1"),
            ("content-security-policy", "default-src *"),
            ("x-own", "1"),
            ("clear-site-data", "*"),
        ]);
        harden_shared_origin(&mut headers);
        assert_eq!(headers.get("content-security-policy").unwrap(), "sandbox");
        assert_eq!(headers.get("x-content-type-options").unwrap(), "nosniff");
        assert!(
            !headers.contains_key("set-cookie")
                && !headers.contains_key("clear-site-data")
                && headers.contains_key("x-own")
        );
    }
}
