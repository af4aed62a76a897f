//! A guest's response body on its way out: counted, held to its length, cut when the guest fails, cancelling when dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use mayfly_types::GuestLimits;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::call::Call;
use crate::http::{Framing, body_text, strip_reserved};
use crate::{GuestFault, HostError};

/// Where the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// Everything was handed out, or the failure was.
    Over,
}

/// The body of one response.
pub(crate) struct GuestBody {
    inner: HyperOutgoingBody,
    call: Arc<Call>,
    limits: Arc<GuestLimits>,
    /// What the head promised.
    length: Option<u64>,
    seen: u64,
    /// The frame that completes the promised length, kept until nothing follows it.
    last: Option<Bytes>,
    stage: Stage,
}

impl GuestBody {
    /// Wraps what the guest writes.
    pub(crate) fn new(inner: HyperOutgoingBody, framing: Framing, call: Arc<Call>, limits: Arc<GuestLimits>) -> Self {
        let mut body = Self { inner, call, limits, length: framing.length, seen: 0, last: None, stage: Stage::Open };
        // A response without a body: nobody will read it to its end.
        if body.inner.is_end_stream() && body.length.unwrap_or(0) == 0 {
            body.over();
        }
        body
    }

    fn over(&mut self) {
        self.stage = Stage::Over;
        self.call.body_ended();
    }

    fn fail(&mut self, error: HostError) -> HostError {
        self.stage = Stage::Over;
        self.last = None;
        // The first fault is the one that is told: a trap, say, rather than the short body it leads to.
        self.call.stop(error)
    }

    fn short(&self) -> Option<GuestFault> {
        let length = self.length.filter(|length| *length != self.seen)?;
        Some(GuestFault::BadResponse(format!("the body has {} bytes, content-length said {length}", self.seen)))
    }

    /// Counts `data`.
    fn take(&mut self, data: &Bytes) -> Result<(), GuestFault> {
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.seen = self.seen.saturating_add(bytes);
        if let Some(length) = self.length.filter(|length| self.seen > *length) {
            return Err(GuestFault::BadResponse(format!("the body is longer than content-length = {length}")));
        }
        if self.seen > self.limits.response_body_bytes_max {
            return Err(GuestFault::Limit(body_text(&self.limits)));
        }
        Ok(())
    }

    fn trailers(&mut self, mut trailers: http::HeaderMap) -> Frame<Bytes> {
        strip_reserved(&mut trailers);
        self.over();
        Frame::trailers(trailers)
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = HostError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HostError>>> {
        let this = &mut *self;
        loop {
            if this.stage == Stage::Over {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => {
                    let fault = GuestFault::BadResponse("the body was broken off before its end".to_owned());
                    return Poll::Ready(Some(Err(this.fail(fault.into()))));
                }
                None => {
                    // The guest's end of the body also goes when its instance does: ask how that ended.
                    let failed = this.call.failed().or_else(|| this.short().map(HostError::from));
                    if let Some(error) = failed {
                        return Poll::Ready(Some(Err(this.fail(error))));
                    }
                    this.over();
                    return Poll::Ready(this.last.take().map(|data| Ok(Frame::data(data))));
                }
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    if let Some(fault) = this.short() {
                        return Poll::Ready(Some(Err(this.fail(fault.into()))));
                    }
                    // Sent with a length, a message has no place for trailers.
                    if let Some(data) = this.last.take() {
                        this.over();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    return match frame.into_trailers() {
                        Ok(trailers) => Poll::Ready(Some(Ok(this.trailers(trailers)))),
                        Err(_) => continue,
                    };
                }
            };
            if data.is_empty() {
                continue;
            }
            if let Err(fault) = this.take(&data) {
                return Poll::Ready(Some(Err(this.fail(fault.into()))));
            }
            if this.length == Some(this.seen) {
                this.last = Some(data);
                continue;
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Over
    }

    fn size_hint(&self) -> SizeHint {
        match (self.stage, self.length) {
            (Stage::Over, _) => SizeHint::with_exact(0),
            (Stage::Open, Some(length)) => {
                let waiting = self.last.as_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                SizeHint::with_exact(length.saturating_sub(self.seen).saturating_add(waiting))
            }
            (Stage::Open, None) => SizeHint::default(),
        }
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if self.stage == Stage::Over {
            return;
        }
        if self.length == Some(0) {
            // A length of nothing is complete without being read.
            self.call.body_ended();
        } else {
            self.call.stop(HostError::Cancelled);
        }
    }
}

impl std::fmt::Debug for GuestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestBody").field("seen", &self.seen).field("stage", &self.stage).finish_non_exhaustive()
    }
}
