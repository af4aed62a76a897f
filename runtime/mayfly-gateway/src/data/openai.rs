//! OpenAI's paths: `model` names a deployment of the key's project. Azure OpenAI's: the path does. A handler sees OpenAI's
//! path in every case.

use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use mayfly_api::{ErrorCode, Timestamp};
use mayfly_calls::Body;
use mayfly_registry::{Key, Project};
use mayfly_types::Name;
use serde::{Deserialize, Serialize};

use super::{Named, Visit, deployment_not_found, json};
use crate::access::Reach;
use crate::failure::Failure;
use crate::headers;
use crate::limits::{ReadError, read_held};
use crate::requests;

/// What can be asked of a deployment at OpenAI's paths, as its handler sees it.
const OPERATIONS: [&str; 4] = ["/v1/embeddings", "/v1/completions", "/v1/chat/completions", "/v1/responses"];

/// The operation at a path below `/v1`.
pub(super) fn operation_of_v1(path: &str) -> Option<&'static str> {
    OPERATIONS.into_iter().find(|operation| *operation == path)
}

/// The operation that `rest`, the path after a deployment's name, means.
pub(super) fn operation(rest: &str) -> Option<&'static str> {
    OPERATIONS.into_iter().find(|operation| operation.strip_prefix("/v1/") == Some(rest))
}

/// Entries of `/v1/models`, at most.
const MODELS_SHOWN_MAX: u32 = 1_000;
/// The project of a key that is bound to none and names none.
const PROJECT_DEFAULT: &str = "default";

#[derive(Debug, Serialize)]
struct ModelObject {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: String,
}

#[derive(Debug, Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// The one field of the body that the gateway reads.
#[derive(Debug, Deserialize)]
struct Addressed {
    model: Option<String>,
}

impl Visit {
    /// A request whose path names its deployment, in the key's project.
    pub(super) async fn azure(
        &self,
        request: Request<Body>,
        deployment: &str,
        operation: &str,
    ) -> Result<Response<Body>, Failure> {
        let key = self.key(request.headers()).await?;
        let project = self.project(&key, request.headers()).await?;
        let resolved = self.resolve(&key, project.name.as_str(), deployment).await?;
        let mut response = self.call(key, resolved, request, operation, Named::InPath).await?;
        headers::harden_shared_origin(response.headers_mut());
        Ok(response)
    }

    /// A request whose body names its deployment.
    pub(super) async fn openai(&self, request: Request<Body>, operation: &str) -> Result<Response<Body>, Failure> {
        let key = self.key(request.headers()).await?;
        let (parts, body) = request.into_parts();
        let limit = self.gateway.0.config.openai_body_bytes_max;
        let wait = self.gateway.0.config.openai_body();
        let read = read_held(body, limit, &self.gateway.0.room, key.tenant, wait).await;
        let held = read.map_err(|error| match error {
            ReadError::TooLong { limit } => {
                Failure::new(ErrorCode::TooLarge, format!("the body is longer than openai_body_bytes_max = {limit}"))
            }
            ReadError::NoRoom => Failure::busy(error.to_string()),
            ReadError::Incomplete => Failure::invalid(error.to_string()),
        })?;
        let model = addressed(&held.bytes)?;
        let (project, deployment) = self.named(&key, &parts.headers, &model).await?;
        let resolved = self
            .resolve(&key, &project, &deployment)
            .await
            .map_err(|failure| Failure { param: Some("model"), ..failure })?;
        let request = Request::from_parts(parts, held.into_body());
        let mut response = self.call(key, resolved, request, operation, Named::InBody).await?;
        headers::harden_shared_origin(response.headers_mut());
        Ok(response)
    }

    pub(super) async fn models(&self, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        let key = self.key(headers).await?;
        let project = self.project(&key, headers).await?;
        let names = self.names(&key, &project).await?;
        let data = names.iter().map(|name| object(name.as_str(), &project, project.created_at)).collect();
        Ok(json(&ModelList { object: "list", data }))
    }

    /// Names of the deployments that the key may call, sorted.
    async fn names(&self, key: &Key, project: &Project) -> Result<Vec<Name>, Failure> {
        if key.deployments.is_empty() {
            return Ok(self.gateway.0.parts.directory.names(project, MODELS_SHOWN_MAX).await?);
        }
        let mut names = Vec::new();
        for id in &key.deployments {
            let found = self.gateway.records().deployment(*id).await?;
            names.extend(found.filter(|found| found.project == project.id).map(|found| found.name));
        }
        names.sort_unstable();
        Ok(names)
    }

    pub(super) async fn model(&self, headers: &HeaderMap, model: &str) -> Result<Response<Body>, Failure> {
        let key = self.key(headers).await?;
        let (project, deployment) = self.named(&key, headers, model).await?;
        let resolved = self.resolve(&key, &project, &deployment).await?;
        Ok(json(&object(model, &resolved.project, resolved.deployment.created_at)))
    }

    /// A call that the same key made.
    pub(super) async fn own_request(&self, headers: &HeaderMap, id: &str) -> Result<Response<Body>, Failure> {
        let key = self.key(headers).await?;
        let found = requests::find(&self.gateway, Reach::of(&key), id).await?;
        let own = found.filter(|record| record.latest.call.key == key.id);
        own.map(|record| json(&requests::detail(&self.gateway, &record))).ok_or_else(|| Failure::not_found("request"))
    }

    /// Project and deployment that `model` means: `deployment`, or `project/deployment`.
    async fn named(&self, key: &Key, headers: &HeaderMap, model: &str) -> Result<(String, String), Failure> {
        match model.split_once('/') {
            Some((project, deployment)) => Ok((project.to_owned(), deployment.to_owned())),
            None => Ok((self.project(key, headers).await?.name.to_string(), model.to_owned())),
        }
    }

    /// The project a key speaks of: its own; else the one `openai-project` names; else `default`.
    async fn project(&self, key: &Key, headers: &HeaderMap) -> Result<Arc<Project>, Failure> {
        let found = match key.project {
            Some(id) => self.gateway.project(id).await?,
            None => {
                let name = headers.get("openai-project").map_or(Ok(PROJECT_DEFAULT), |value| value.to_str());
                let name = name.map_err(|_| Failure::invalid("`openai-project` is not a project's name"))?;
                self.gateway.0.parts.directory.project(name).await?
            }
        };
        found.filter(|project| Reach::of(key).sees(project)).ok_or_else(|| Failure {
            message: "this key is bound to no project; name one with the header `openai-project`, or a model as \
                      `project/deployment`"
                .to_owned(),
            ..deployment_not_found()
        })
    }
}

/// The `model` of a body.
fn addressed(body: &[u8]) -> Result<String, Failure> {
    let missing = |message: &str| Failure { param: Some("model"), ..Failure::invalid(message) };
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Failure::invalid("the body is not a JSON object"));
    }
    let body: Addressed = serde_json::from_slice(body).map_err(|error| {
        Failure::invalid(format!(
            "the body is not JSON with a text `model`: line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    match body.model {
        Some(model) if model.is_empty() => Err(missing("`model` is empty; it names a deployment")),
        Some(model) if model.len() > 81 => Err(missing("`model` is longer than any deployment's name")),
        Some(model) => Ok(model),
        None => Err(missing("`model` is missing; it names a deployment")),
    }
}

fn object(id: &str, project: &Project, created_at: i64) -> ModelObject {
    ModelObject {
        id: id.to_owned(),
        object: "model",
        created: Timestamp::from_micros(created_at).seconds(),
        owned_by: project.name.to_string(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(body: &str, param: Option<&str>, says: &str) {
        let failure = addressed(body.as_bytes()).unwrap_err();
        assert_eq!(failure.param, param, "{body}");
        assert!(failure.message.contains(says), "{}", failure.message);
    }

    #[test]
    fn the_model_of_a_body() {
        assert_eq!(addressed(br#" {"input": ["a"], "model": "emb", "dimensions": 3}"#).unwrap(), "emb");
        refused("{}", Some("model"), "missing");
        refused(r#"{"model": ""}"#, Some("model"), "empty");
        refused(r#"{"model": null}"#, Some("model"), "missing");
        refused(&format!(r#"{{"model": "{}"}}"#, "x".repeat(82)), Some("model"), "longer");
        refused(r#"{"model": 1}"#, None, "column");
        refused(r#"{"model": "a""#, None, "not JSON");
        refused("[1]", None, "not a JSON object");
        refused("\u{fffd}", None, "not a JSON object");
        refused(&"[".repeat(100_000), None, "not a JSON object");
    }

    #[test]
    fn paths_and_what_they_ask() {
        assert_eq!(operation_of_v1("/v1/chat/completions"), Some("/v1/chat/completions"));
        assert_eq!(operation_of_v1("/v1/chat/completions/"), None);
        assert_eq!(operation_of_v1("/v1/files"), None);
        assert_eq!(operation("chat/completions"), Some("/v1/chat/completions"));
        assert_eq!(operation("embeddings"), Some("/v1/embeddings"));
        assert_eq!(operation(""), None);
        assert_eq!(operation("v1/embeddings"), None);
    }

    #[test]
    fn the_shape_of_a_list() {
        let project = Project {
            id: mayfly_types::ProjectId::new(),
            tenant: mayfly_types::TenantId::new(),
            name: "p".parse().unwrap(),
            limits: Default::default(),
            created_at: 0,
        };
        let list = ModelList { object: "list", data: vec![object("emb", &project, 1_500_000)] };
        let expect = serde_json::json!({"object": "list", "data": [
            {"id": "emb", "object": "model", "created": 1, "owned_by": "p"}]});
        assert_eq!(serde_json::to_value(list).unwrap(), expect);
    }
}
