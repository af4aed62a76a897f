//! HTTP at the edge of a guest: no outbound requests, and nothing reserved or broken in a response's head.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};
use mayfly_types::{Budget, GuestLimits};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::fault::headers_text;
use crate::{GuestFault, HostError};

/// Bytes of one write to a response body; two such chunks may wait for the caller.
const BODY_CHUNK_BYTES: usize = 256 << 10;

/// What the host decides about HTTP.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// Told of what is answered.
    pub(crate) budget: Arc<dyn Budget>,
    /// Bodies the guest has begun to write.
    pub(crate) bodies: u32,
}

type Sending = Result<(http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sending> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }
}

/// Bytes of all names and values.
fn header_bytes(headers: &HeaderMap) -> u64 {
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Refuses a request that is larger than the revision's limits before anything is started for it.
///
/// # Errors
/// [`HostError::RequestTooLarge`].
pub(crate) fn check_request<B>(request: &http::Request<B>, limits: &GuestLimits) -> Result<(), HostError> {
    let limit = limits.header_bytes_max;
    if header_bytes(request.headers()) > limit {
        return Err(HostError::RequestTooLarge { part: "head", limit_name: "header_bytes_max", limit });
    }
    let limit = limits.request_body_bytes_max;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: u64| bytes > limit) {
        return Err(HostError::RequestTooLarge { part: "body", limit_name: "request_body_bytes_max", limit });
    }
    Ok(())
}

/// Headers that are the host's to write, or that belong to one connection.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    const HOP_BY_HOP: [HeaderName; 6] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let text = name.as_str();
    HOP_BY_HOP.contains(name)
        || matches!(text, "keep-alive" | "proxy-connection" | "x-request-id" | "server-timing")
        || ["x-mayfly-", "x-ratelimit-", "ratelimit"].iter().any(|prefix| text.starts_with(prefix))
}

/// Drops what is reserved, also the headers that `connection` names.
pub(crate) fn strip_reserved(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let reserved: Vec<HeaderName> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
    for name in named.iter().chain(&reserved) {
        headers.remove(name);
    }
}

/// How a response's body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// What the head promised, and will be held to.
    pub(crate) length: Option<u64>,
    /// The protocol sends no body for this request or status.
    pub(crate) bodyless: bool,
}

/// Makes a guest's head fit to be sent: checks status and size, strips reserved headers, takes `content-length` out
/// unless it describes a body that is not sent (a `HEAD` answer).
///
/// # Errors
/// The guest's fault.
pub(crate) fn reframe(
    status: StatusCode,
    headers: &mut HeaderMap,
    method: &Method,
    limits: &GuestLimits,
) -> Result<Framing, GuestFault> {
    if status.is_informational() {
        return Err(GuestFault::BadResponse(format!("status {} is not a final status", status.as_u16())));
    }
    if header_bytes(headers) > limits.header_bytes_max {
        return Err(GuestFault::Limit(headers_text(limits)));
    }
    strip_reserved(headers);
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(value), None) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
            .map(Some)
            .ok_or_else(|| GuestFault::BadResponse("content-length is not a number".to_owned()))?,
        (Some(_), Some(_)) => return Err(GuestFault::BadResponse("content-length is given twice".to_owned())),
    };
    let unsent = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let bodyless = method == Method::HEAD || unsent;
    if bodyless {
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
            headers.remove(header::CONTENT_LENGTH);
        }
        return Ok(Framing { length: None, bodyless });
    }
    if let Some(bytes) = length
        && bytes > limits.response_body_bytes_max
    {
        return Err(GuestFault::Limit(body_text(limits)));
    }
    Ok(Framing { length, bodyless })
}

/// A body beyond `response_body_bytes_max`.
pub(crate) fn body_text(limits: &GuestLimits) -> String {
    format!(
        "the handler's response body is longer than response_body_bytes_max = {} bytes",
        limits.response_body_bytes_max
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect()
    }

    fn check(pairs: &[(&'static str, &'static str)], expect: &[&str]) {
        let mut map = headers(pairs);
        reframe(StatusCode::OK, &mut map, &Method::GET, &GuestLimits::default()).expect("the head is fine");
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, expect);
    }

    #[test]
    fn reserved_headers_go_and_others_stay() {
        check(
            &[
                ("content-type", "text/plain"),
                ("connection", "x-private, close"),
                ("x-private", "1"),
                ("keep-alive", "1"),
                ("transfer-encoding", "chunked"),
                ("x-mayfly-cold", "none"),
                ("x-request-id", "forged"),
                ("server-timing", "a;dur=1"),
                ("ratelimit-limit", "1"),
                ("ratelimit", "1"),
                ("x-ratelimit-remaining-tokens", "9"),
                ("retry-after", "1"),
                ("x-own", "1"),
            ],
            &["content-type", "retry-after", "x-own"],
        );
    }

    #[test]
    fn lengths() {
        let limits = GuestLimits::default();
        let frame = |pairs: &[(&'static str, &'static str)], method, status| {
            reframe(status, &mut headers(pairs), &method, &limits)
        };
        let five = [("content-length", "5")];
        let framing = frame(&five, Method::GET, StatusCode::OK).expect("a number");
        assert_eq!(framing, Framing { length: Some(5), bodyless: false });
        let framing = frame(&five, Method::HEAD, StatusCode::OK).expect("a number");
        assert_eq!(framing, Framing { length: None, bodyless: true });
        let huge = [("content-length", "99999999999")];
        assert!(matches!(frame(&huge, Method::GET, StatusCode::OK), Err(GuestFault::Limit(_))));
        for wrong in [vec![("content-length", "5"), ("content-length", "6")], vec![("content-length", "-1")]] {
            assert!(matches!(frame(&wrong, Method::GET, StatusCode::OK), Err(GuestFault::BadResponse(_))), "{wrong:?}");
        }
        assert!(matches!(frame(&[], Method::GET, StatusCode::CONTINUE), Err(GuestFault::BadResponse(_))));
    }

    #[test]
    fn large_heads_are_refused() {
        let limits = GuestLimits { header_bytes_max: 8, request_body_bytes_max: 4, ..GuestLimits::default() };
        let mut map = headers(&[("x-own", "1234")]);
        assert!(matches!(reframe(StatusCode::OK, &mut map, &Method::GET, &limits), Err(GuestFault::Limit(_))));
        let request = http::Request::builder().header("x-own", "1234").body(()).expect("a plain request");
        assert!(matches!(check_request(&request, &limits), Err(HostError::RequestTooLarge { part: "head", .. })));
        let limits = GuestLimits { header_bytes_max: 1024, ..limits };
        let request = http::Request::builder().header("content-length", "5").body(()).expect("a plain request");
        assert!(matches!(check_request(&request, &limits), Err(HostError::RequestTooLarge { part: "body", .. })));
        let request = http::Request::builder().header("content-length", "4").body(()).expect("a plain request");
        assert!(check_request(&request, &limits).is_ok());
    }
}
