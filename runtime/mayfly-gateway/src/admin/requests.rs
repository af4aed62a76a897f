//! Calls, for those who deploy: any call of a deployment within the key's reach.

use axum::Json as Reply;
use axum::extract::{Path, State};
use mayfly_api::CallDetail;

use super::Answer;
use super::caller::Caller;
use crate::failure::Failure;
use crate::{Gateway, requests};

/// One call: how it ended and what it used.
#[utoipa::path(get, path = "/api/v1/requests/{id}", tag = "usage", params(("id" = String, Path, description = "The `x-request-id` of its answer")),
    responses((status = 200, description = "The call", body = CallDetail), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Reply<CallDetail>> {
    let found = requests::find(&gateway, caller.reach, &id).await?;
    found.map(|record| Reply(requests::detail(&gateway, &record))).ok_or_else(|| Failure::not_found("request"))
}
