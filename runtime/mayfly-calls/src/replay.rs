//! A kept answer, given again: a row of its own that owes nothing, then the answer.

use mayfly_host::Timings;
use mayfly_ledger::{KeptAnswer, Outcome};

use crate::bill::Bill;
use crate::deliver::{Head, refuse};
use crate::idempotency::replayed;
use crate::open::OpenCall;

/// Gives `kept` again. Like every answer, only once its row is durable.
pub(crate) async fn answer(call: &OpenCall, kept: &KeptAnswer, head: Head) {
    let timings = Timings::default();
    if let Some(ending) = call.end(kept.status, Outcome::Replayed, &timings)
        && let Err((_, error)) = call.write(ending).await
    {
        return refuse(call, error.into(), &timings, head).await;
    }
    let mut response = replayed(kept, call.bodiless);
    call.mark(response.headers_mut(), &timings);
    Bill::default().mark(response.headers_mut(), &call.currency);
    let _ = head.send(response);
}
