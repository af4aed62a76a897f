//! The ledger as a whole. For the operator only.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use mayfly_api::{Problem, Verification};

use super::Answer;
use super::caller::Caller;
use crate::Gateway;
use crate::failure::Failure;

/// Walks every row of the ledger: the chains, the sums, one ending for each call, rollups equal to rows. For the
/// operator only; one walk at a time. What is wrong is in the answer, not in its status.
#[utoipa::path(post, path = "/api/v1/ledger/verify", tag = "ledger",
    responses((status = 200, description = "What was found", body = Verification), (status = "default", description = "A problem", body = Problem)))]
pub(crate) async fn verify(State(gateway): State<Gateway>, caller: Caller) -> Answer<Reply<Verification>> {
    caller.operator()?;
    let walk = Arc::clone(&gateway.0.verifying).try_acquire_owned();
    let walk =
        walk.map_err(|_taken| Failure::busy("the ledger is being verified already; try again when it is done"))?;
    let journal = Arc::clone(&gateway.0.parts.journal);
    // A task of its own: a walk cannot be stopped, so its place is free only when it has ended.
    let walking = tokio::spawn(async move {
        let found = journal.verify().await;
        drop(walk);
        found
    });
    let found = walking.await.map_err(|error| Failure::internal(&error.to_string()))??;
    for problem in &found.problems {
        tracing::error!(problem, "the ledger is damaged");
    }
    Ok(Reply(Verification {
        ok: found.problems.is_empty(),
        rows: found.rows,
        boots: found.boots,
        calls: found.calls,
        open: found.open,
        problems: found.problems.iter().map(|problem| mayfly_api::clean_line(problem)).collect(),
    }))
}
