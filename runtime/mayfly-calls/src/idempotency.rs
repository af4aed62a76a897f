//! `Idempotency-Key`: the same request with the same key runs once; who asks again gets the answer that was kept.
//!
//! A request that runs is in [`Repeats`]; its answer is kept in the transaction that ends its call, and only then is the
//! request taken out. So at every instant a second one is either told that the first runs, or finds its answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRAILER};
use http::{Response, StatusCode};
use mayfly_ledger::{AnswerScope, KeptAnswer};
use mayfly_types::{Digest, Digester, RequestId};

use crate::open::now;
use crate::{Body, Context, IdempotencyKey};

/// Requests with an `Idempotency-Key` that run on this node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Repeats(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running_max: usize,
    /// The digest of each one's body.
    running: Mutex<HashMap<AnswerScope, [u8; 32]>>,
}

/// The right to run a request once. Dropping it lets the next one try.
#[derive(Debug)]
pub(crate) struct Once {
    repeats: Repeats,
    pub(crate) scope: AnswerScope,
    /// SHA-256 of the request body.
    request: [u8; 32],
}

/// Why a request does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Repeated {
    /// The first one runs.
    #[error("a call with this `idempotency-key` is running; its answer will be kept for you: retry in a moment")]
    InProgress,
    /// The key was used for something else.
    #[error("this `idempotency-key` was used with another request body; use a new key for another request")]
    Mismatch,
    /// The first one was billed and its answer was too long.
    #[error(
        "the call with this `idempotency-key` has ended and its answer was not kept (cut off, or longer than \
         idempotent_answer_bytes_max); what it used is at /v1/requests/{0}; use a new key to run it again"
    )]
    NotKept(RequestId),
    /// Too many of them run.
    #[error("this host runs idempotent_calls_max = {0} calls with an `idempotency-key`; retry in a moment")]
    Full(usize),
}

/// Whose the answer to this request is: the same for the same key, end user, method, target and `Idempotency-Key`.
pub(crate) fn scope(context: &Context, method: &http::Method, wanted: &IdempotencyKey) -> AnswerScope {
    let mut digester = Digester::new();
    // Each part with its length, so that no two lists of parts read alike.
    let mut part = |bytes: &[u8]| {
        digester.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        digester.update(bytes);
    };
    part(context.key.id.to_string().as_bytes());
    part(&[u8::from(context.end_user.is_some())]);
    part(context.end_user.as_deref().unwrap_or_default().as_bytes());
    part(method.as_str().as_bytes());
    part(wanted.target.as_bytes());
    part(wanted.key.as_bytes());
    AnswerScope(*digester.finish().as_bytes())
}

impl Repeats {
    pub(crate) fn new(running_max: u32) -> Self {
        let running_max = usize::try_from(running_max).unwrap_or(usize::MAX);
        Self(Arc::new(Inner { running_max, running: Mutex::default() }))
    }

    /// Begins a request, if it does not run already.
    pub(crate) fn begin(&self, scope: AnswerScope, body: &Bytes) -> Result<Once, Repeated> {
        let request = *Digest::of(body).as_bytes();
        let mut running = self.lock();
        let count = running.len();
        match running.entry(scope) {
            Entry::Occupied(first) if *first.get() != request => Err(Repeated::Mismatch),
            Entry::Occupied(_) => Err(Repeated::InProgress),
            Entry::Vacant(_) if count >= self.0.running_max => Err(Repeated::Full(self.0.running_max)),
            Entry::Vacant(free) => {
                free.insert(request);
                Ok(Once { repeats: self.clone(), scope, request })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AnswerScope, [u8; 32]>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.repeats.lock().remove(&self.scope);
    }
}

impl Once {
    /// Whether what was kept answers this request.
    pub(crate) fn check(&self, kept: &KeptAnswer) -> Result<(), Repeated> {
        if kept.request != self.request {
            return Err(Repeated::Mismatch);
        }
        if kept.body.is_none() { Err(Repeated::NotKept(kept.call)) } else { Ok(()) }
    }

    /// The answer of `call`, to be kept. `body`: none if it is too long or was cut off.
    pub(crate) fn keep(&self, call: RequestId, status: u16, head: &HeaderMap, body: Option<&Bytes>) -> KeptAnswer {
        let told = |name: &HeaderName| *name != CONTENT_LENGTH && *name != TRAILER;
        let header = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.as_bytes().to_vec());
        KeptAnswer {
            scope: self.scope,
            request: self.request,
            call,
            at: now(),
            status,
            headers: head.iter().filter(|(name, _)| told(name)).map(header).collect(),
            body: body.map(|body| Arc::from(body.as_ref())),
        }
    }
}

/// What was kept, as an answer. What the store gives back is checked again: nothing in it can panic.
pub(crate) fn replayed(kept: &KeptAnswer, bodiless: bool) -> Response<Body> {
    let bytes = kept.body.as_deref().map(Bytes::copy_from_slice).unwrap_or_default();
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let lengthless = bodiless || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = bytes.len();
    let mut response = Response::new(crate::body::full(if bodiless { Bytes::new() } else { bytes }));
    *response.status_mut() = status;
    let head = response.headers_mut();
    for (name, value) in &kept.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(value)) {
            head.append(name, value);
        }
    }
    if !lengthless {
        head.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    head.insert(HeaderName::from_static(mayfly_api::headers::REPLAYED), HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn once(repeats: &Repeats, scope: u8, body: &'static str) -> Result<Once, Repeated> {
        repeats.begin(AnswerScope([scope; 32]), &Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn one_at_a_time_and_the_next_when_it_has_gone() {
        let repeats = Repeats::new(2);
        let first = once(&repeats, 1, "a").unwrap();
        assert_eq!(once(&repeats, 1, "a").unwrap_err(), Repeated::InProgress);
        assert_eq!(once(&repeats, 1, "b").unwrap_err(), Repeated::Mismatch);
        let _second = once(&repeats, 2, "a").unwrap();
        assert_eq!(once(&repeats, 3, "a").unwrap_err(), Repeated::Full(2));
        drop(first);
        assert!(once(&repeats, 1, "b").is_ok());
    }

    #[test]
    fn what_was_kept_answers_only_the_same_body() {
        let repeats = Repeats::new(2);
        let first = once(&repeats, 1, "a").unwrap();
        let call = RequestId::new();
        let kept = first.keep(call, 200, &HeaderMap::new(), Some(&Bytes::from_static(b"x")));
        assert_eq!(first.check(&kept), Ok(()));
        let cut = first.keep(call, 200, &HeaderMap::new(), None);
        assert_eq!(first.check(&cut), Err(Repeated::NotKept(call)));
        drop(first);
        assert_eq!(once(&repeats, 1, "b").unwrap().check(&cut), Err(Repeated::Mismatch));
    }

    #[test]
    fn a_kept_answer_keeps_its_headers_but_not_its_framing() {
        let once = once(&Repeats::new(1), 1, "a").unwrap();
        let mut head = HeaderMap::new();
        head.append("set-cookie", HeaderValue::from_static("a=1"));
        head.append("set-cookie", HeaderValue::from_static("b=2"));
        head.insert("content-length", HeaderValue::from_static("99"));
        head.insert("x-odd", HeaderValue::from_bytes(b"\xff").unwrap());
        let mut kept = once.keep(RequestId::new(), 404, &head, Some(&Bytes::from_static(b"gone")));
        kept.headers.push(("not a name".to_owned(), b"\n".to_vec()));
        let response = replayed(&kept, false);
        assert_eq!((response.status().as_u16(), response.headers().len()), (404, 5));
        assert_eq!(response.headers()["content-length"], "4");
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(response.headers()[mayfly_api::headers::REPLAYED], "true");
        assert!(!replayed(&kept, true).headers().contains_key("content-length"));
    }
}
