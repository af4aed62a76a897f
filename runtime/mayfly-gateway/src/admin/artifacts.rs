//! Uploaded components, by digest. Stored here, compiled by the deploy that names them.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Path, Request, State};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use mayfly_api::Artifact;
use mayfly_registry::ArtifactError;
use tokio::sync::OwnedSemaphorePermit;

use super::Answer;
use super::caller::Caller;
use crate::Gateway;
use crate::failure::Failure;

/// Stores a component, which this project may then deploy by its digest. The same bytes twice are stored once.
#[utoipa::path(put, path = "/api/v1/projects/{project}/artifacts", tag = "deployments",
    params(("project" = String, Path, description = "The project's name")),
    request_body(content = Vec<u8>, description = "The component", content_type = "application/wasm"),
    responses((status = 200, description = "Stored", body = Artifact), (status = "default", description = "A problem", body = mayfly_api::Problem)))]
pub(crate) async fn upload(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(project): Path<String>,
    request: Request,
) -> Answer<Reply<Artifact>> {
    let project = caller.project(&gateway, &project).await?;
    let _place = gateway.upload_place()?;
    let (digest, bytes) = gateway.0.parts.control.upload(project.id, pieces(request)).await?;
    caller.audit("artifact.upload", &digest);
    Ok(Reply(Artifact { digest, bytes }))
}

/// The body of an upload, as the registry takes it.
pub(crate) fn pieces(request: Request) -> BoxStream<'static, Result<Bytes, ArtifactError>> {
    request.into_body().into_data_stream().map(|piece| piece.map_err(|_| ArtifactError::Incomplete)).boxed()
}

impl Gateway {
    /// A place among the uploads that run at once.
    pub(crate) fn upload_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let limit = self.0.config.uploads_max;
        Arc::clone(&self.0.uploads)
            .try_acquire_owned()
            .map_err(|_| Failure::busy(format!("uploads_max = {limit} uploads are running")))
    }
}
