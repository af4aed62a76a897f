//! The last lines each deployment wrote, in bounded memory. Lines are kept as written: whoever shows them strips
//! control characters.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use mayfly_host::{LogLine, LogSink, LogStream};
use mayfly_types::{DeploymentId, RequestId};
use tokio::sync::broadcast;

use crate::Config;
use crate::open::now;

/// Lines a follower may lag behind before it loses some.
const FOLLOW_LINES_MAX: usize = 256;

/// One kept line.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LogEntry {
    /// Microseconds since the Unix epoch.
    pub at: i64,
    pub request: RequestId,
    /// `stdout`, `stderr`, or `host` for what the host has to say about the handler.
    pub stream: &'static str,
    pub text: Arc<str>,
}

/// Lines of all deployments. Clones share them.
#[derive(Debug, Clone)]
pub struct LogBook(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lines_max: usize,
    bytes_max: usize,
    rings: Mutex<Rings>,
}

/// The rings of the deployments that wrote last. A line is written on the stack of the guest that wrote it, and what is
/// touched of that stays with its instance: a general cache, which tidies up while it is read, goes a page deeper.
#[derive(Debug)]
struct Rings {
    deployments_max: usize,
    all: LruCache<DeploymentId, Arc<Ring>>,
}

impl Rings {
    /// The deployment's own, made if it has none; the one that has been silent for the longest makes room.
    fn of(&mut self, deployment: DeploymentId) -> Arc<Ring> {
        if self.all.len() >= self.deployments_max && !self.all.contains(&deployment) {
            self.all.pop_lru();
        }
        Arc::clone(self.all.get_or_insert(deployment, Arc::default))
    }
}

#[derive(Debug, Default)]
struct Ring(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<LogEntry>,
    bytes: usize,
    /// Made with the first follower.
    followers: Option<broadcast::Sender<LogEntry>>,
}

impl LogBook {
    pub(crate) fn new(config: &Config) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self(Arc::new(Inner {
            lines_max: size(config.log_lines_per_deployment_max),
            bytes_max: size(config.log_bytes_per_deployment_max),
            rings: Mutex::new(Rings {
                deployments_max: size(config.log_deployments_max).max(1),
                // With a bound it would take all of its room at once.
                all: LruCache::unbounded(),
            }),
        }))
    }

    /// The last `limit` lines, oldest first.
    pub fn tail(&self, deployment: DeploymentId, limit: usize) -> Vec<LogEntry> {
        let ring = self.0.lock().all.peek(&deployment).map(Arc::clone);
        let Some(ring) = ring else { return Vec::new() };
        let lines = ring.lock();
        let skipped = lines.kept.len().saturating_sub(limit);
        lines.kept.iter().skip(skipped).cloned().collect()
    }

    /// Lines from now on. A reader too slow to follow loses lines and is told how many; one whose deployment had to
    /// make room for others sees the end.
    pub fn follow(&self, deployment: DeploymentId) -> broadcast::Receiver<LogEntry> {
        let ring = self.ring(deployment);
        let mut lines = ring.lock();
        lines.followers.get_or_insert_with(|| broadcast::channel(FOLLOW_LINES_MAX).0).subscribe()
    }

    /// Where one call's output goes.
    pub(crate) fn for_call(&self, deployment: DeploymentId, request: RequestId) -> Arc<CallLog> {
        Arc::new(CallLog { book: self.clone(), deployment, request })
    }

    fn ring(&self, deployment: DeploymentId) -> Arc<Ring> {
        self.0.lock().of(deployment)
    }

    fn add(&self, deployment: DeploymentId, entry: LogEntry) {
        let ring = self.ring(deployment);
        let mut lines = ring.lock();
        if let Some(followers) = &lines.followers {
            // Nobody follows any more: make the channel again when somebody does.
            if followers.send(entry.clone()).is_err() {
                lines.followers = None;
            }
        }
        lines.bytes += entry.text.len();
        lines.kept.push_back(entry);
        while lines.kept.len() > self.0.lines_max || lines.bytes > self.0.bytes_max {
            let Some(oldest) = lines.kept.pop_front() else { break };
            lines.bytes -= oldest.text.len();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's way into the book. How much a call may write is limited by the host.
#[derive(Debug)]
pub(crate) struct CallLog {
    book: LogBook,
    deployment: DeploymentId,
    request: RequestId,
}

impl CallLog {
    /// What the host has to say to the handler's developer.
    pub(crate) fn host(&self, text: &str) {
        self.add("host", text.into());
    }

    fn add(&self, stream: &'static str, text: Arc<str>) {
        self.book.add(self.deployment, LogEntry { at: now(), request: self.request, stream, text });
    }
}

impl LogSink for CallLog {
    fn line(&self, line: LogLine) {
        let stream = match line.stream {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        };
        self.add(stream, line.text.into());
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn book(lines: u32, bytes: u32, deployments: u32) -> LogBook {
        LogBook::new(&Config {
            log_lines_per_deployment_max: lines,
            log_bytes_per_deployment_max: bytes,
            log_deployments_max: deployments,
            ..Config::default()
        })
    }

    fn write(book: &LogBook, deployment: DeploymentId, text: &str) {
        let sink = book.for_call(deployment, RequestId::new());
        sink.line(LogLine { stream: LogStream::Stdout, text: text.to_owned() });
    }

    fn texts(book: &LogBook, deployment: DeploymentId, limit: usize) -> Vec<String> {
        book.tail(deployment, limit).iter().map(|entry| entry.text.to_string()).collect()
    }

    #[test]
    fn only_the_last_lines_stay() {
        let book = book(3, 1_000, 10);
        let (one, other) = (DeploymentId::new(), DeploymentId::new());
        for text in ["a", "b", "c", "d"] {
            write(&book, one, text);
        }
        assert_eq!(texts(&book, one, 10), ["b", "c", "d"]);
        assert_eq!(texts(&book, one, 2), ["c", "d"]);
        assert!(texts(&book, other, 10).is_empty());
    }

    #[test]
    fn long_lines_count_by_their_bytes() {
        let book = book(100, 10, 10);
        let one = DeploymentId::new();
        for text in ["aaaa", "bbbb", "cccc"] {
            write(&book, one, text);
        }
        assert_eq!(texts(&book, one, 10), ["bbbb", "cccc"]);
        write(&book, one, &"x".repeat(50));
        assert!(texts(&book, one, 10).is_empty());
        write(&book, one, "y");
        assert_eq!(texts(&book, one, 10), ["y"]);
    }

    #[test]
    fn silent_deployments_make_room() {
        let book = book(10, 1_000, 4);
        let all: Vec<_> = (0..40).map(|_| DeploymentId::new()).collect();
        for deployment in &all {
            write(&book, *deployment, "x");
            write(&book, all[0], "y");
        }
        let kept: Vec<_> = all.iter().filter(|one| !texts(&book, **one, 1).is_empty()).collect();
        assert_eq!(kept, [&all[0], &all[37], &all[38], &all[39]], "who writes stays");
    }

    #[tokio::test]
    async fn followers_see_what_comes_and_learn_what_they_missed() {
        let book = book(10, 1_000, 4);
        let one = DeploymentId::new();
        write(&book, one, "before");
        let mut reader = book.follow(one);
        book.for_call(one, RequestId::new()).host("after");
        let entry = reader.recv().await.unwrap();
        assert_eq!((entry.stream, entry.text.as_ref()), ("host", "after"));
        for _ in 0..FOLLOW_LINES_MAX + 5 {
            write(&book, one, "x");
        }
        assert!(matches!(reader.recv().await, Err(broadcast::error::RecvError::Lagged(5))));
        drop(reader);
        write(&book, one, "y");
        assert!(book.follow(one).try_recv().is_err());
    }
}
