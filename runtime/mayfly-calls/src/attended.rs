//! A call that its caller's own task works on, for as long as the caller is there.
//!
//! Most calls end before their caller has anything else to do than to wait: a task of their own would only move them to
//! another core and back. Left before its end, a call goes on in one: it is settled whatever its caller does.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

type Live = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Resolves when the call has ended. Dropped before that, the call gets a task of its own.
pub(crate) struct Attended {
    live: Option<Live>,
    tasks: TaskTracker,
    /// Open like a task: who waits for all of them waits for this.
    _open: TaskTrackerToken,
}

impl Attended {
    /// `tasks`: where it is counted now, and goes on later.
    pub(crate) fn new(live: Live, tasks: &TaskTracker) -> Self {
        Self { live: Some(live), tasks: tasks.clone(), _open: tasks.token() }
    }
}

impl Future for Attended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Out while it is polled: one that panics is gone.
        let Some(mut live) = self.live.take() else { return Poll::Ready(()) };
        let polled = live.as_mut().poll(cx);
        if polled.is_pending() {
            self.live = Some(live);
        }
        polled
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        // Without a runtime the process is ending: what is open is settled at the next start.
        if let (Some(live), Ok(runtime)) = (self.live.take(), tokio::runtime::Handle::try_current()) {
            self.tasks.spawn_on(live, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_left_goes_on_and_is_waited_for() {
        let tasks = TaskTracker::new();
        let (go, gone) = oneshot::channel::<()>();
        let (done, over) = oneshot::channel();
        let live = async move {
            let _ = gone.await;
            let _ = done.send(());
        };
        let mut attended = Attended::new(Box::pin(live), &tasks);
        assert!(futures::poll!(&mut attended).is_pending());
        tasks.close();
        assert_eq!(tasks.len(), 1, "it counts as open");
        drop(attended);
        assert_eq!(tasks.len(), 1, "and still does");
        go.send(()).expect("it waits");
        over.await.expect("it went on");
        tasks.wait().await;
    }

    #[tokio::test]
    async fn what_has_ended_leaves_nothing() {
        let tasks = TaskTracker::new();
        Attended::new(Box::pin(async {}), &tasks).await;
        assert!(tasks.is_empty());
    }
}
