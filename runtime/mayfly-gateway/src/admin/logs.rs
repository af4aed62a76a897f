//! What a deployment's handler wrote, one JSON object a line, and on request what it goes on to write.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use mayfly_api::{LogLine, Timestamp};
use mayfly_calls::LogEntry;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Answer;
use super::caller::Caller;
use super::params::Params;
use crate::Gateway;
use crate::failure::Failure;

/// Lines before now, unless the query says otherwise.
const TAIL_DEFAULT: usize = 100;
/// Lines before now, at most.
const TAIL_MAX: usize = 10_000;

/// Which lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    tail: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// The log as NDJSON: the last lines, then, with `follow=true`, those to come.
#[utoipa::path(get, path = "/api/v1/projects/{project}/deployments/{deployment}/logs", tag = "deployments",
    params(("project" = String, Path, description = "The project's name"), ("deployment" = String, Path, description = "The deployment's name"),
        ("tail" = Option<u32>, Query, description = "Lines before now, 100 unless given"), ("follow" = Option<bool>, Query, description = "Stay and send what comes")),
    responses((status = 200, description = "One LogLine a line", body = LogLine, content_type = "application/x-ndjson"), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn read(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((project, name)): Path<(String, String)>,
    Params(query): Params<LogQuery>,
) -> Answer<Response> {
    let (_, deployment) = caller.deployment(&gateway, &project, &name).await?;
    let count = query.tail.unwrap_or(TAIL_DEFAULT);
    if count > TAIL_MAX {
        return Err(Failure::invalid(format!("`tail` is {count}; it must be at most {TAIL_MAX}")));
    }
    let book = gateway.0.parts.calls.logs();
    let content_type = [(CONTENT_TYPE, "application/x-ndjson")];
    if !query.follow {
        let text: Vec<u8> = book.tail(deployment.id, count).iter().flat_map(|entry| line(&shown(entry))).collect();
        return Ok((content_type, text).into_response());
    }
    let permit = Arc::clone(&gateway.0.followers).try_acquire_owned().map_err(|_| {
        Failure::busy(format!("log_followers_max = {} readers follow logs already", gateway.0.config.log_followers_max))
    })?;
    // First listen, then look back: what comes in between is in both, and left out once.
    let receiver = book.follow(deployment.id);
    let past = book.tail(deployment.id, count);
    let following = Following { receiver, past, stop: gateway.0.stop.clone(), _permit: permit };
    let first: Bytes = following.past.iter().flat_map(|entry| line(&shown(entry))).collect::<Vec<u8>>().into();
    let lines = stream::unfold((Some(first), following), |(first, mut following)| async move {
        let bytes = match first {
            Some(bytes) => bytes,
            None => following.next().await?,
        };
        Some((Ok::<_, std::convert::Infallible>(bytes), (None, following)))
    });
    Ok((content_type, Body::from_stream(lines)).into_response())
}

/// A reader that stays.
struct Following {
    receiver: Receiver<LogEntry>,
    /// What was sent first: the newest lines may come again.
    past: Vec<LogEntry>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let received = tokio::select! {
                () = self.stop.cancelled() => return None,
                received = self.receiver.recv() => received,
            };
            return match received {
                Ok(entry) if self.past.iter().any(|past| Arc::ptr_eq(&past.text, &entry.text)) => continue,
                Ok(entry) => {
                    self.past = Vec::new();
                    Some(line(&shown(&entry)).into())
                }
                Err(RecvError::Lagged(lost)) => Some(line(&lost_lines(lost)).into()),
                Err(RecvError::Closed) => None,
            };
        }
    }
}

fn lost_lines(lost: u64) -> LogLine {
    LogLine {
        at: Timestamp::from_micros(crate::time::now_micros()),
        request_id: None,
        stream: "host".to_owned(),
        text: format!("{lost} lines are missing here: they came faster than this reader took them"),
    }
}

/// Guest text loses its control characters here.
fn shown(entry: &LogEntry) -> LogLine {
    LogLine {
        at: Timestamp::from_micros(entry.at),
        request_id: Some(entry.request),
        stream: entry.stream.to_owned(),
        text: mayfly_api::clean_line(&entry.text),
    }
}

fn line(entry: &LogLine) -> Vec<u8> {
    let mut line = serde_json::to_vec(entry).expect("strings always serialise");
    line.push(b'\n');
    line
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use mayfly_types::RequestId;
    use tokio::sync::{Semaphore, broadcast};

    fn entry(text: &str) -> LogEntry {
        LogEntry { at: 0, request: RequestId::new(), stream: "stdout", text: text.into() }
    }

    fn text(bytes: &[u8]) -> String {
        serde_json::from_slice::<LogLine>(bytes).unwrap().text
    }

    #[tokio::test]
    async fn a_follower_gets_each_line_once_and_hears_of_losses() {
        let (send, receiver) = broadcast::channel(2);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let old = entry("old");
        let stop = CancellationToken::new();
        let mut following = Following { receiver, past: vec![old.clone()], stop: stop.clone(), _permit: permit };
        send.send(old).unwrap();
        send.send(entry("new\x1b[2J")).unwrap();
        assert_eq!(text(&following.next().await.unwrap()), "new[2J");
        for n in 0..3 {
            send.send(entry(&n.to_string())).unwrap();
        }
        assert!(text(&following.next().await.unwrap()).starts_with("1 lines are missing"));
        assert_eq!(text(&following.next().await.unwrap()), "1");
        assert_eq!(text(&following.next().await.unwrap()), "2");
        stop.cancel();
        assert_eq!(following.next().await, None);
    }
}
