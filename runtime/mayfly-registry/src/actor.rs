//! Who makes a change: an explicit value carried beside the work, which the store writes down with what it changes.
//!
//! [`scope`] sets it for one future, [`keep`] hands it on to a task of its own. Without one the system acts itself.

use mayfly_types::{KeyId, RequestId};

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// The key that asked.
    pub key: KeyId,
    /// The request it asked in.
    pub request: Option<RequestId>,
}

tokio::task_local! {
    static ACTOR: Actor;
}

/// Runs `work` as `actor`.
pub async fn scope<F: Future>(actor: Actor, work: F) -> F::Output {
    ACTOR.scope(actor, work).await
}

/// Who acts here; none is the system itself.
pub fn current() -> Option<Actor> {
    ACTOR.try_with(|actor| *actor).ok()
}

/// `work` as whoever acts now, wherever it will run: a task does not inherit its actor from the one that spawned it.
pub fn keep<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let actor = current();
    async move {
        match actor {
            Some(actor) => scope(actor, work).await,
            None => work.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_of_its_own_acts_as_nobody_unless_it_is_kept() {
        let actor = Actor { key: KeyId::new(), request: Some(RequestId::new()) };
        assert_eq!(current(), None);
        let seen = scope(actor, async {
            let lost = tokio::spawn(async { current() }).await.ok();
            let kept = tokio::spawn(keep(async { current() })).await.ok();
            (current(), lost, kept)
        });
        assert_eq!(seen.await, (Some(actor), Some(None), Some(Some(actor))));
        assert_eq!(current(), None);
    }
}
