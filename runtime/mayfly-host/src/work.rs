//! A guest's work, wherever it is done: on its caller's task, or on the lane's threads while it computes for long.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mayfly_types::TenantId;
use tokio::sync::oneshot;

use crate::cpu::Metered;
use crate::lane::{Back, HERE_NANOS_MAX, Lane};

enum At<F: Future> {
    Here(Metered<F>),
    Away(oneshot::Receiver<Back<F>>),
    Over,
}

/// Resolves when the guest has ended. Dropped before, the guest is dropped: at once, or at its next turn in the lane.
pub(crate) struct Work<F: Future> {
    at: At<F>,
    tenant: TenantId,
    lane: Arc<Lane>,
}

impl<F: Future> Work<F> {
    /// Begins here.
    pub(crate) fn new(guest: Metered<F>, tenant: TenantId, lane: Arc<Lane>) -> Self {
        Self { at: At::Here(guest), tenant, lane }
    }
}

impl<F: Future> Unpin for Work<F> {}

impl<F> Future for Work<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        loop {
            // Over while it is looked at: one that panics is gone.
            this.at = match std::mem::replace(&mut this.at, At::Over) {
                At::Here(mut guest) => match Pin::new(&mut guest).poll(cx) {
                    Poll::Ready(output) => return Poll::Ready(output),
                    Poll::Pending if guest.has_yielded() && guest.burst_nanos() >= HERE_NANOS_MAX => {
                        At::Away(this.lane.take(this.tenant, guest))
                    }
                    Poll::Pending => {
                        this.at = At::Here(guest);
                        return Poll::Pending;
                    }
                },
                At::Away(mut back) => {
                    let polled = Pin::new(&mut back).poll(cx);
                    if polled.is_pending() {
                        this.at = At::Away(back);
                    }
                    match ready!(polled).expect("the lane's threads send each guest back, and end only after it") {
                        Back::Done(output) => return Poll::Ready(output),
                        Back::Waits(guest) => At::Here(guest),
                        Back::Panicked(panic) => resume_unwind(panic),
                    }
                }
                At::Over => unreachable!("polled after its end"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cpu::{CpuMeter, thread_nanos};
    use crate::ticker::Ticker;

    fn spin(time: Duration) {
        let start = thread_nanos();
        while Duration::from_nanos(thread_nanos() - start) < time {
            std::hint::spin_loop();
        }
    }

    struct Scene {
        lane: Arc<Lane>,
        ticker: Arc<Ticker>,
    }

    impl Scene {
        fn new() -> Self {
            let engine = crate::settings::compiling_engine().expect("the settings are valid");
            let ticker = Ticker::start(&engine, Duration::from_millis(1)).expect("a thread starts");
            Self { lane: Arc::new(Lane::start(1).expect("a thread starts")), ticker: Arc::new(ticker) }
        }

        fn work<F: Future>(&self, meter: &Arc<CpuMeter>, guest: F) -> Work<F> {
            Work::new(
                Metered::new(guest, Arc::clone(meter), Arc::clone(&self.ticker)),
                TenantId::new(),
                Arc::clone(&self.lane),
            )
        }
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    /// As a guest does at a tick.
    async fn yields(meter: &CpuMeter) {
        meter.note_yield();
        tokio::task::yield_now().await;
    }

    #[tokio::test]
    async fn computes_away_and_waits_here() {
        let scene = Scene::new();
        let meter = Arc::new(CpuMeter::default());
        let inside = Arc::clone(&meter);
        let here = thread();
        let seen = scene
            .work(&meter, async move {
                let mut seen = vec![thread()];
                spin(Duration::from_millis(2));
                yields(&inside).await;
                seen.push(thread());
                spin(Duration::from_millis(2));
                yields(&inside).await;
                seen.push(thread());
                // Long enough not to be over before it is looked at.
                tokio::time::sleep(Duration::from_millis(50)).await;
                seen.push(thread());
                seen
            })
            .await;
        let lane = "mayfly-guest-0".to_owned();
        assert_eq!(seen, [here.clone(), lane.clone(), lane, here]);
        assert!(meter.settled() >= Duration::from_millis(4), "counted in both places: {:?}", meter.settled());
    }

    #[tokio::test]
    async fn short_ones_stay() {
        let scene = Scene::new();
        let meter = Arc::new(CpuMeter::default());
        let inside = Arc::clone(&meter);
        let here = thread();
        let seen = scene
            .work(&meter, async move {
                yields(&inside).await;
                thread()
            })
            .await;
        assert_eq!(seen, here);
    }

    #[tokio::test]
    async fn what_is_left_is_dropped_there() {
        struct Told(Option<oneshot::Sender<String>>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.take().expect("once").send(thread());
            }
        }
        let scene = Scene::new();
        let meter = Arc::new(CpuMeter::default());
        let (told, dropped) = oneshot::channel();
        let inside = Arc::clone(&meter);
        let mut work = scene.work(&meter, async move {
            let _told = Told(Some(told));
            loop {
                spin(Duration::from_millis(1));
                yields(&inside).await;
            }
        });
        assert!(futures::poll!(&mut work).is_pending());
        assert!(matches!(work.at, At::Away(_)) || futures::poll!(&mut work).is_pending());
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(work);
        assert_eq!(dropped.await.expect("it tells"), "mayfly-guest-0");
    }

    #[tokio::test]
    async fn a_panic_there_is_a_panic_here() {
        let scene = Scene::new();
        let meter = Arc::new(CpuMeter::default());
        let inside = Arc::clone(&meter);
        let work = scene.work(&meter, async move {
            spin(Duration::from_millis(2));
            yields(&inside).await;
            panic!("in the lane");
        });
        let panicked = tokio::spawn(work).await.expect_err("it panics");
        assert!(panicked.is_panic());
        // The thread lives on.
        let inside = Arc::clone(&meter);
        let next = scene.work(&meter, async move {
            spin(Duration::from_millis(2));
            yields(&inside).await;
            thread()
        });
        assert_eq!(next.await, "mayfly-guest-0");
    }
}
