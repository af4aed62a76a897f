//! What of a request's body nobody has read when its answer is there.
//!
//! A connection with unread bytes can only be closed, and closing it throws away what its client has not received yet: a
//! client that is still sending often sees a broken connection in place of its refusal, and one that sends its next
//! request on it fails too. So a short rest is read and thrown away before the answer goes out, and where that does
//! not do, the answer says that the connection ends with it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// The longest rest that is read.
const REST_BYTES_MAX: u64 = 256 << 10;
/// How long it may take to come.
const REST_WAIT: Duration = Duration::from_millis(250);

/// A body that leaves what is left of it behind when it is dropped.
pub(crate) struct Kept<B> {
    body: Option<B>,
    /// None where nobody will look.
    shared: Option<Arc<Shared<B>>>,
}

struct Shared<B> {
    left: Mutex<Option<B>>,
    /// It was read to its end.
    ended: AtomicBool,
}

/// What was left.
pub(crate) struct Unread<B>(Option<Arc<Shared<B>>>);

/// `request` with a body whose rest can be read after it was dropped. Not that of HTTP/2, where leaving one request
/// leaves the connection as it is, and not one that its client sends only when it is asked to.
pub(crate) fn watch<B: Body>(request: Request<B>) -> (Request<Kept<B>>, Unread<B>) {
    let watched = request.version() <= Version::HTTP_11
        && !request.body().is_end_stream()
        && !request.headers().contains_key(header::EXPECT);
    let shared = watched.then(|| Arc::new(Shared { left: Mutex::new(None), ended: AtomicBool::new(false) }));
    let unread = Unread(shared.clone());
    (request.map(|body| Kept { body: Some(body), shared }), unread)
}

impl<B: Body<Data = Bytes> + Unpin> Unread<B> {
    /// Before `response` goes out: reads a short rest, or has the connection end.
    pub(crate) async fn settle<A: Body>(self, mut response: Response<A>) -> Response<A> {
        // Who streams its answer may still be reading.
        let whole = response.body().size_hint().exact().is_some();
        let Some(shared) = self.0.filter(|shared| whole && !shared.ended.load(Ordering::Acquire)) else {
            return response;
        };
        let left = shared.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let short = left.filter(|body| body.size_hint().lower() <= REST_BYTES_MAX);
        let ended = match short {
            Some(body) => tokio::time::timeout(REST_WAIT, read(body)).await.unwrap_or(false),
            // Too long, or somebody still has it.
            None => false,
        };
        if !ended {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether it came to its end.
async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B) -> bool {
    let mut bytes = 0_u64;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        bytes = bytes.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
        if bytes > REST_BYTES_MAX {
            return false;
        }
    }
    true
}

impl<B: Body + Unpin> Body for Kept<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || (polled.is_ready() && body.is_end_stream());
        if let Some(shared) = this.shared.as_ref().filter(|_| ended) {
            shared.ended.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B> Drop for Kept<B> {
    fn drop(&mut self) {
        // Once nobody else has it, nobody will look.
        let looked_at =
            |shared: &&Arc<Shared<B>>| Arc::strong_count(shared) > 1 && !shared.ended.load(Ordering::Acquire);
        if let Some(shared) = self.shared.as_ref().filter(looked_at) {
            *shared.left.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use tokio::sync::mpsc;

    use super::*;

    struct Sent(mpsc::Receiver<Bytes>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    fn answer(status: u16) -> Response<Full<Bytes>> {
        Response::builder().status(status).body(Full::new(Bytes::from_static(b"no"))).unwrap()
    }

    fn request() -> (mpsc::Sender<Bytes>, Request<Sent>) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Request::post("/").body(Sent(receiver)).unwrap())
    }

    async fn closes(unread: Unread<Sent>, status: u16) -> bool {
        unread.settle(answer(status)).await.headers().contains_key(header::CONNECTION)
    }

    #[tokio::test]
    async fn the_rest_of_a_refused_body_is_read() {
        let (sender, request) = request();
        let (request, unread) = watch(request);
        drop(request);
        let sending = tokio::spawn(async move {
            for _ in 0..16 {
                sender.send(Bytes::from(vec![0; 8192])).await?;
            }
            Ok::<_, mpsc::error::SendError<Bytes>>(())
        });
        assert!(!closes(unread, 413).await);
        sending.await.unwrap().expect("all of it is taken");
    }

    #[tokio::test]
    async fn what_is_without_end_or_slow_or_still_held_ends_the_connection() {
        let (sender, endless) = request();
        let (endless, unread) = watch(endless);
        drop(endless);
        let sending = tokio::spawn(async move {
            let mut taken = 0;
            while sender.send(Bytes::from(vec![0; 8192])).await.is_ok() {
                taken += 8192;
            }
            taken
        });
        assert!(closes(unread, 429).await);
        assert!(sending.await.unwrap() <= REST_BYTES_MAX + 4 * 8192);

        let (_silent, waiting) = request();
        let (waiting, unread) = watch(waiting);
        drop(waiting);
        let began = tokio::time::Instant::now();
        assert!(closes(unread, 401).await);
        assert!(began.elapsed() >= REST_WAIT && began.elapsed() < REST_WAIT * 8);

        let (_sender, held) = request();
        let (_held, unread) = watch(held);
        assert!(closes(unread, 200).await, "a guest may read on for a moment");
    }

    #[tokio::test]
    async fn what_was_read_or_never_sent_changes_nothing() {
        let (sender, read) = request();
        let (mut read, unread) = watch(read);
        sender.send(Bytes::from_static(b"all")).await.unwrap();
        drop(sender);
        while read.body_mut().frame().await.is_some() {}
        assert!(!closes(unread, 200).await);

        let (_sender, mut asks) = request();
        asks.headers_mut().insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        let (_asks, unread) = watch(asks);
        assert!(!closes(unread, 413).await);
    }
}
