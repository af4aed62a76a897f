//! One listener: accept, bound, serve HTTP/1.1 or HTTP/2 on one connection, drain, cut. Knows nothing of routes.

mod activity;
mod stall;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use mayfly_api::{ErrorCode, ErrorEnvelope};
use mayfly_calls::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use activity::{Activity, Counted};
use stall::Stalling;

/// What one listener allows.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    pub(crate) connections_max: u32,
    pub(crate) streams_per_connection_max: u32,
    pub(crate) header_bytes_max: u32,
    pub(crate) headers_max: u32,
    /// For a head to arrive, and for an unused connection to stay.
    pub(crate) head_wait: Duration,
    /// For a written byte to be taken by the peer.
    pub(crate) write_wait: Duration,
}

/// What a refused connection is told, in the words of the protocol nearly every client begins with.
fn refusal() -> Vec<u8> {
    let envelope = ErrorEnvelope::new(ErrorCode::Overloaded, "the host has as many connections open as it allows");
    let body = serde_json::to_string(&envelope).expect("strings always serialise");
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A running listener.
#[derive(Debug)]
pub(crate) struct Listening {
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Listening {
    /// Serves `listener` with `answer` until [`Listening::drain`]. `cut` ends connections where they are.
    pub(crate) fn start<A, F>(listener: TcpListener, allowed: Allowed, cut: CancellationToken, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting = accept(listener, allowed, stop.clone(), cut.clone(), tasks.clone(), answer);
        tasks.spawn(accepting);
        Self { stop, cut, tasks }
    }

    /// Stops accepting, tells every connection to close after its running requests, waits for them up to `limit`,
    /// then cuts what is left. True if nothing had to be cut.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let in_time = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        self.cut.cancel();
        self.tasks.wait().await;
        in_time
    }
}

async fn accept<A, F>(
    listener: TcpListener,
    allowed: Allowed,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let protocol = Arc::new(protocol(&allowed));
    let refusal = refusal();
    let places = Arc::new(Semaphore::new(allowed.connections_max as usize));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: the ones in use have to end first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(limit = allowed.connections_max, "a connection was refused: connections_max");
            // The socket's buffer is empty, so this does not wait; if it cannot be written, closing says enough.
            let _ = stream.try_write(&refusal);
            continue;
        };
        let _ = stream.set_nodelay(true);
        let connection =
            serve(stream, Arc::clone(&protocol), allowed.clone(), stop.clone(), cut.clone(), answer.clone());
        tasks.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

fn protocol(allowed: &Allowed) -> auto::Builder<TokioExecutor> {
    // The protocol's own limits are wider than ours, so that ours can answer with a body that says what to do.
    let buffer = (allowed.header_bytes_max as usize).saturating_mul(2).max(16 * 1024);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(allowed.head_wait)
        .max_headers((allowed.headers_max as usize).saturating_mul(2))
        .max_buf_size(buffer);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(Some(allowed.streams_per_connection_max))
        .max_header_list_size(u32::try_from(buffer).unwrap_or(u32::MAX));
    builder
}

async fn serve<A, F>(
    stream: TcpStream,
    protocol: Arc<auto::Builder<TokioExecutor>>,
    allowed: Allowed,
    stop: CancellationToken,
    cut: CancellationToken,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let activity = Activity::new();
    let service = {
        let activity = activity.clone();
        service_fn(move |request| {
            let running = activity.begin();
            let response = answer(request);
            async move { Ok::<_, Infallible>(response.await.map(|body| Counted::new(body, running))) }
        })
    };
    let io = TokioIo::new(Stalling::new(stream, allowed.write_wait));
    let mut connection = std::pin::pin!(protocol.serve_connection(io, service));
    let mut closing = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = cut.cancelled() => return,
            () = stop.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = activity.unused_for(allowed.head_wait) => {
                // Nothing runs on it. The second time, the peer had all the time there is to go.
                if closing || !activity.was_used() {
                    return;
                }
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
