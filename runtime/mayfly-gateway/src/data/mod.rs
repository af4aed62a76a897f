//! The data plane: routes by hand, because a handler's path must stay as it came.
//!
//! In this order: limits of the head, the key, the deployment, the call. Authentication comes before resolution, and a
//! deployment that is not there, that is another tenant's, or that the key may not call, gets one and the same answer.

mod openai;
mod options;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mayfly_api::ErrorCode;
use mayfly_calls::{Body, Context, IdempotencyKey, TraceParent};
use mayfly_ledger::Channel;
use mayfly_registry::{Key, Resolved};
use mayfly_types::RequestId;

use crate::access::{self, Reach};
use crate::failure::Failure;
use crate::limits::{Paced, full};
use crate::{Gateway, headers, target, unread};
use options::Options;

/// Answers one request, whatever happens.
pub(crate) async fn answer(gateway: Gateway, request: Request<Incoming>) -> Response<Body> {
    let received = Instant::now();
    let id = RequestId::new();
    let client = headers::client_request_id(request.headers());
    let is_head = request.method() == Method::HEAD;
    let pace = gateway.0.config.body_idle();
    let (request, unread) = unread::watch(request.map(|body| Paced::new(body, pace)));
    let request = request.map(BodyExt::boxed_unsync);
    let visit = Visit { gateway, id, received };
    let routed = AssertUnwindSafe(visit.route(request)).catch_unwind().await;
    let mut response = match routed {
        Ok(Ok(response)) => response,
        Ok(Err(failure)) => failure.into_envelope(),
        Err(panic) => Failure::internal(&format!("panic in request {id}: {}", panic_text(&*panic))).into_envelope(),
    };
    response = unread.settle(response).await;
    if is_head {
        response = without_body(response).await;
    }
    headers::mark(response.headers_mut(), id, client);
    response
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("?")
}

/// Reads the answer to its end, so that the call ends as one that was answered, and keeps its head.
async fn without_body(response: Response<Body>) -> Response<Body> {
    let (head, mut body) = response.into_parts();
    while let Some(Ok(_)) = body.frame().await {}
    Response::from_parts(head, full(bytes::Bytes::new()))
}

/// One request on its way to a route.
struct Visit {
    gateway: Gateway,
    id: RequestId,
    received: Instant,
}

impl Visit {
    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let config = &self.gateway.0.config;
        if !headers::fits(&parts, config) {
            let message = format!(
                "the head of the request is larger than header_bytes_max = {} or headers_max = {}",
                config.header_bytes_max, config.headers_max
            );
            return Err(Failure::new(ErrorCode::HeadersTooLarge, message));
        }
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Failure::method("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        let host = target::host(&parts);
        let path = parts.uri.path().to_owned();
        if let (Some(host), Some(domain)) = (&host, &config.domain)
            && let Some((project, deployment)) = target::from_host(host, domain)
        {
            let call = Request::from_parts(parts, body);
            return self.deployment(call, project.as_str(), deployment.as_str(), &path, Origin::Own).await;
        }
        // Azure OpenAI's second form is OpenAI's own, one step down.
        let path = match path.strip_prefix("/openai") {
            Some(rest) if rest.starts_with("/v1/") => rest.to_owned(),
            _ => path,
        };
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            ["d", ..] => {
                let Some(found) = target::from_path(&path) else { return Err(no_route()) };
                let call = Request::from_parts(parts, body);
                self.deployment(call, found.project, found.deployment, found.path, Origin::Shared).await
            }
            ["healthz"] => only(&parts.method, &[Method::GET, Method::HEAD], "GET, HEAD").map(|()| healthy()),
            ["v1", "models"] => {
                only(&parts.method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                self.models(&parts.headers).await
            }
            ["v1", "models", name] => {
                only(&parts.method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                self.model(&parts.headers, name).await
            }
            // A model may be named `project/deployment`.
            ["v1", "models", project, name] => {
                only(&parts.method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                self.model(&parts.headers, &format!("{project}/{name}")).await
            }
            ["v1", "requests", id] => {
                only(&parts.method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
                self.own_request(&parts.headers, id).await
            }
            // Azure OpenAI's first form: the deployment is in the path, the version in the query (any will do).
            ["openai", "deployments", deployment, ..] => {
                let Some(rest) = path.splitn(5, '/').nth(4).and_then(openai::operation) else { return Err(no_route()) };
                only(&parts.method, &[Method::POST], "POST")?;
                self.azure(Request::from_parts(parts, body), deployment, rest).await
            }
            _ => match openai::operation_of_v1(&path) {
                Some(operation) => {
                    only(&parts.method, &[Method::POST], "POST")?;
                    self.openai(Request::from_parts(parts, body), operation).await
                }
                None => Err(no_route()),
            },
        }
    }

    /// The live key that may call.
    async fn key(&self, headers: &http::HeaderMap) -> Result<Arc<Key>, Failure> {
        let key = access::authenticate(&self.gateway.0.parts.directory, headers).await?;
        let key = key.ok_or_else(Failure::unauthorized)?;
        if access::may_call(&key) { Ok(key) } else { Err(Failure::scope("call")) }
    }

    async fn deployment(
        &self,
        request: Request<Body>,
        project: &str,
        deployment: &str,
        path: &str,
        origin: Origin,
    ) -> Result<Response<Body>, Failure> {
        let key = self.key(request.headers()).await?;
        target::check_path(path).map_err(|bad| Failure::invalid(bad.to_string()))?;
        let resolved = self.resolve(&key, project, deployment).await?;
        let mut response = self.call(key, resolved, request, path, Named::InPath).await?;
        if origin == Origin::Shared {
            headers::harden_shared_origin(response.headers_mut());
        }
        Ok(response)
    }

    /// The deployment, if it is there and the key reaches it. The two ways it can fail are not told apart.
    async fn resolve(&self, key: &Key, project: &str, deployment: &str) -> Result<Arc<Resolved>, Failure> {
        let found = self.gateway.0.parts.directory.resolve(project, deployment).await?;
        let reached =
            |resolved: &Arc<Resolved>| Reach::of(key).sees(&resolved.project) && key.names(resolved.deployment.id);
        found.filter(reached).ok_or_else(deployment_not_found)
    }

    /// Hands the request on, without anything its handler must not see.
    async fn call(
        &self,
        key: Arc<Key>,
        resolved: Arc<Resolved>,
        request: Request<Body>,
        path: &str,
        named: Named,
    ) -> Result<Response<Body>, Failure> {
        let (mut parts, body) = request.into_parts();
        let options = Options::read(&parts.headers)?;
        let host = target::host(&parts)
            .and_then(|host| HeaderValue::from_str(&host).ok())
            .ok_or_else(|| Failure::invalid("the request needs exactly one valid `host` header"))?;
        let trailers = headers::takes_trailers(&parts.headers);
        let trace = TraceParent::of(&parts.headers);
        headers::clean_request(&mut parts.headers, &host, self.id);
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let idempotency = options.idempotency_key.map(|key| {
            let target = match named {
                Named::InPath => format!("/d/{}/{}{target}", resolved.project.name, resolved.deployment.name),
                Named::InBody => target.clone(),
            };
            IdempotencyKey { key, target }
        });
        parts.uri = target.parse().map_err(|_| Failure::invalid("the path or the query is not valid in a URL"))?;
        parts.extensions = http::Extensions::new();
        if !self.gateway.0.called.contains_key(&resolved.deployment.id) {
            let names = (resolved.project.name.clone(), resolved.deployment.name.clone());
            self.gateway.0.called.insert(resolved.deployment.id, names);
        }
        let context = Context {
            request_id: self.id,
            key,
            resolved,
            channel: Channel::Api,
            received: self.received,
            cancel: self.gateway.0.cut.child_token(),
            trailers,
            end_user: options.end_user,
            idempotency,
            dry_run: options.dry_run,
            cost_max: options.cost_max,
            trace,
        };
        Ok(self.gateway.0.parts.calls.call(context, Request::from_parts(parts, body)).await)
    }
}

/// Whether other deployments answer at the same origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Own,
    Shared,
}

/// Where a request names its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// In its path or its host name.
    InPath,
    /// In its body.
    InBody,
}

fn only(method: &Method, allowed: &[Method], allow: &'static str) -> Result<(), Failure> {
    if allowed.contains(method) { Ok(()) } else { Err(Failure::method(allow)) }
}

fn no_route() -> Failure {
    Failure::new(
        ErrorCode::NotFound,
        "there is no such path; deployments answer at /d/{project}/{deployment}/, OpenAI's API at /v1/",
    )
}

fn deployment_not_found() -> Failure {
    Failure::new(ErrorCode::DeploymentNotFound, "there is no such deployment, or this key may not call it")
}

fn healthy() -> Response<Body> {
    json(&mayfly_api::Health { status: "ok".to_owned() })
}

fn json(body: &impl serde::Serialize) -> Response<Body> {
    let mut response = Response::new(full(serde_json::to_vec(body).expect("bodies always serialise").into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_to_head_keeps_its_head() {
        let response = Response::builder().header("content-length", "3").body(full("abc".into())).unwrap();
        let response = without_body(response).await;
        assert_eq!(response.headers()["content-length"], "3");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 0);
    }

    #[test]
    fn methods() {
        assert!(only(&Method::POST, &[Method::POST], "POST").is_ok());
        let failure = only(&Method::GET, &[Method::POST], "POST").unwrap_err();
        assert_eq!((failure.code, failure.allow), (ErrorCode::MethodNotAllowed, Some("POST")));
    }

    #[test]
    fn what_is_unknown_reveals_nothing() {
        let failure = deployment_not_found();
        assert_eq!(failure.code.status(), 404);
        assert!(failure.message.contains("or this key may not call it"));
    }
}
