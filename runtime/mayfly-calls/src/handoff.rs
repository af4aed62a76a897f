//! One place between two tasks: what is given is taken before there is room for the next.
//!
//! A channel of one place would do the same; Tokio's keeps room for 32 from its first message on, in every stream that is
//! held open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The other side has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

#[derive(Debug)]
struct Place<T> {
    item: Option<T>,
    /// A side has gone.
    over: bool,
    giver: Option<Waker>,
    taker: Option<Waker>,
}

type Shared<T> = Arc<Mutex<Place<T>>>;

fn lock<T>(place: &Shared<T>) -> MutexGuard<'_, Place<T>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both sides of a free place.
pub(crate) fn handoff<T>() -> (Giver<T>, Taker<T>) {
    let place = Arc::new(Mutex::new(Place { item: None, over: false, giver: None, taker: None }));
    (Giver(Arc::clone(&place)), Taker(place))
}

/// Gives one thing at a time, and waits in one task only. Dropped, it ends what the taker sees after the last thing.
#[derive(Debug)]
pub(crate) struct Giver<T>(Shared<T>);

impl<T> Giver<T> {
    /// Waits until what was given before is taken.
    ///
    /// # Errors
    /// [`Gone`].
    pub(crate) async fn free(&self) -> Result<(), Gone> {
        self.wait(|place| match place {
            Place { over: true, .. } => Some(Err(Gone)),
            Place { item: None, .. } => Some(Ok(())),
            Place { item: Some(_), .. } => None,
        })
        .await
    }

    /// Waits until nobody can take anything any more.
    pub(crate) async fn gone(&self) {
        self.wait(|place| place.over.then_some(())).await;
    }

    async fn wait<R>(&self, until: impl Fn(&Place<T>) -> Option<R>) -> R {
        std::future::poll_fn(|cx| {
            let mut place = lock(&self.0);
            match until(&place) {
                Some(result) => Poll::Ready(result),
                None => {
                    place.giver = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Gives `item`; lost if the taker has gone.
    ///
    /// # Errors
    /// The item, if what was given before has not been taken.
    pub(crate) fn give(&self, item: T) -> Result<(), T> {
        let mut place = lock(&self.0);
        if place.over {
            return Ok(());
        }
        if place.item.is_some() {
            return Err(item);
        }
        place.item = Some(item);
        let taker = place.taker.take();
        drop(place);
        taker.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let mut place = lock(&self.0);
        place.over = true;
        let taker = place.taker.take();
        drop(place);
        taker.into_iter().for_each(Waker::wake);
    }
}

/// Takes what is given. Dropping it tells the giver.
#[derive(Debug)]
pub(crate) struct Taker<T>(Shared<T>);

impl<T> Taker<T> {
    /// What was given; none once the giver has gone and everything was taken.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut place = lock(&self.0);
        let Some(item) = place.item.take() else {
            if place.over {
                return Poll::Ready(None);
            }
            place.taker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let giver = place.giver.take();
        drop(place);
        giver.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(item))
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        let mut place = lock(&self.0);
        place.over = true;
        let (item, giver) = (place.item.take(), place.giver.take());
        drop(place);
        drop(item);
        giver.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    async fn take(taker: &mut Taker<u32>) -> Option<u32> {
        poll_fn(|cx| taker.poll_take(cx)).await
    }

    #[tokio::test]
    async fn one_at_a_time_in_order_to_the_end() {
        let (giver, mut taker) = handoff();
        let giving = tokio::spawn(async move {
            for number in 0..100 {
                giver.free().await.expect("it is taken");
                giver.give(number).expect("there is room");
            }
        });
        for number in 0..100 {
            assert_eq!(take(&mut taker).await, Some(number));
        }
        assert_eq!(take(&mut taker).await, None);
        giving.await.expect("it ends");
    }

    #[tokio::test]
    async fn there_is_room_for_one() {
        let (giver, mut taker) = handoff();
        assert_eq!((giver.give(1), giver.give(2)), (Ok(()), Err(2)));
        assert!(futures::poll!(Box::pin(giver.free())).is_pending());
        assert_eq!(take(&mut taker).await, Some(1));
        assert_eq!(giver.free().await, Ok(()));
        assert_eq!(giver.give(3), Ok(()));
        drop(giver);
        assert_eq!((take(&mut taker).await, take(&mut taker).await), (Some(3), None), "the last one arrives");
    }

    #[tokio::test]
    async fn who_waits_is_told_that_the_taker_went() {
        let (giver, taker) = handoff::<u32>();
        giver.give(1).expect("there is room");
        let told = tokio::spawn(async move {
            giver.gone().await;
            (giver.free().await, giver.give(2))
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!told.is_finished());
        drop(taker);
        assert_eq!(told.await.expect("it ends"), (Err(Gone), Ok(())));
    }
}
