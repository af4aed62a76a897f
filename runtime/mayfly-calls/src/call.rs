//! One call from the door to its settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use mayfly_host::{Code, CodeError, Host, Invocation, Timings};
use mayfly_inference::Inference;
use mayfly_ledger::{Call, CountedBy, Journal, Outcome};
use mayfly_types::{Digest, RequestId};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::body::Limited;
use crate::budget::CallBudget;
use crate::deliver::{Head, deliver, fail_host, fail_stopped, refuse};
use crate::door::{Door, Permit};
use crate::failure::Failure;
use crate::open::{OpenCall, mark_id, now};
use crate::status::Counters;
use crate::timing::Before;
use crate::{Body, Config, Context, DeploymentStatus, LogBook, NodeStatus, Tier, telemetry};

/// Everything a call needs. Clones share it.
#[derive(Debug, Clone)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    host: Host,
    inference: Inference,
    journal: Arc<dyn Journal>,
    recompile: Arc<dyn Recompile>,
    /// One compiler at a time: it takes all cores as it is.
    recompiling: Semaphore,
    door: Door,
    logs: LogBook,
    counters: Arc<Counters>,
    tasks: TaskTracker,
}

impl Calls {
    /// One for each server.
    pub fn new(
        config: Config,
        host: Host,
        inference: Inference,
        journal: Arc<dyn Journal>,
        recompile: Arc<dyn Recompile>,
    ) -> Self {
        let door = Door::new(config.calls_max, config.calls_per_deployment_max);
        let logs = LogBook::new(&config);
        Self(Arc::new(Inner {
            config: Arc::new(config),
            host,
            inference,
            journal,
            recompile,
            recompiling: Semaphore::new(1),
            door,
            logs,
            counters: Arc::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Answers one call. `request`: path relative to the deployment (begins with `/`), already free of keys,
    /// internal and forwarding headers and of our own cookies. Every failure is an answer in the data plane's error envelope.
    ///
    /// The answer carries `x-request-id`, `x-mayfly-cold`, `Server-Timing` and, if the handler has ended when the
    /// head goes out, the usage headers. Dropping the future, or the answer's body, means that the caller has left:
    /// the call is stopped and settled by a task of its own.
    pub async fn call(&self, context: Context, request: Request<Body>) -> Response<Body> {
        let id = context.request_id;
        let limit = context.resolved.limits.request_body_bytes_max;
        if request.body().size_hint().lower() > limit {
            return self.turn_away(id, context.received, &Failure::too_large(limit, None));
        }
        let permit = match self.0.door.enter(context.resolved.deployment.id) {
            Ok(permit) => permit,
            Err(away) => return self.turn_away(id, context.received, &away.into()),
        };
        let span = telemetry::span(&context);
        let (head, answer) = oneshot::channel();
        self.0.tasks.spawn(Box::pin(self.clone().live(context, request, permit, head)).instrument(span));
        answer.await.unwrap_or_else(|_panicked| {
            let mut response = Failure::internal("the task of a call panicked").response(&[]);
            mark_id(response.headers_mut(), id);
            response
        })
    }

    fn turn_away(&self, id: RequestId, received: Instant, failure: &Failure) -> Response<Body> {
        self.0.counters.turned_away();
        let mut response = failure.response(&[]);
        let timing = Before::waiting(received).server_timing(&Timings::default());
        response.headers_mut().insert("server-timing", timing);
        mark_id(response.headers_mut(), id);
        response
    }

    /// The whole life of one call; its permit goes when it has settled.
    async fn live(self, context: Context, request: Request<Body>, permit: Permit, head: Head) {
        let mut call = self.open(&context, &request);
        if let Err(panic) = AssertUnwindSafe(self.run(&mut call, &context, request, head)).catch_unwind().await {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(text, "the task of a call panicked");
            call.cancel.cancel();
            if let Some(row) = call.end(500, Outcome::HostFault, &Timings::default()) {
                call.write_in_the_end(row).await;
            }
        }
        drop(permit);
    }

    fn open(&self, context: &Context, request: &Request<Body>) -> OpenCall {
        let resolved = &context.resolved;
        let waited = i64::try_from(context.received.elapsed().as_micros()).unwrap_or(0);
        let budget = CallBudget::new(Arc::new(Call {
            id: context.request_id,
            parent: None,
            root: context.request_id,
            attempt: 1,
            tenant: resolved.project.tenant,
            payer: resolved.project.tenant,
            project: resolved.project.id,
            requested: resolved.deployment.id,
            served: resolved.deployment.id,
            revision: resolved.revision.id,
            deployment_name: resolved.deployment.name.clone(),
            key: context.key.id,
            end_user: None,
            channel: context.channel,
            counted_by: CountedBy::Host,
            opened_at: now().saturating_sub(waited),
        }));
        let inner = &self.0;
        let deadline_ms = resolved.limits.deadline_ms_max;
        OpenCall {
            id: context.request_id,
            budget: Arc::new(budget),
            journal: inner.journal.clone(),
            counters: inner.counters.clone(),
            config: inner.config.clone(),
            log: inner.logs.for_call(resolved.deployment.id, context.request_id),
            tasks: inner.tasks.clone(),
            cancel: context.cancel.child_token(),
            stop: context.cancel.clone(),
            received: context.received,
            deadline: context.received + Duration::from_millis(deadline_ms),
            deadline_ms,
            request_body_bytes_max: resolved.limits.request_body_bytes_max,
            too_large: Arc::new(AtomicBool::new(false)),
            bodiless: request.method() == Method::HEAD,
            trailers: context.trailers,
            before: Before::waiting(context.received),
        }
    }

    async fn run(&self, call: &mut OpenCall, context: &Context, request: Request<Body>, mut head: Head) {
        let deadline = tokio::time::Instant::from_std(call.deadline);
        let asked = Instant::now();
        let code = tokio::select! {
            biased;
            code = self.code(context.resolved.revision.spec.handler.digest) => code,
            () = head.closed() => return fail_stopped(call, head).await,
            () = call.stop.cancelled() => return fail_stopped(call, head).await,
            () = tokio::time::sleep_until(deadline) => {
                return refuse(call, Failure::deadline(call.deadline_ms), &Timings::default(), head).await;
            }
        };
        call.before.code = asked.elapsed();
        let code = match code {
            Ok((code, mapped)) => {
                call.before.mapped = mapped;
                code
            }
            Err(error) => return refuse(call, error.into(), &Timings::default(), head).await,
        };
        let invocation = Invocation {
            code,
            request: for_guest(call, context, request),
            grants: context.resolved.grants.clone(),
            limits: context.resolved.limits.clone(),
            budget: call.budget.clone(),
            deadline: call.deadline,
            cancel: call.cancel.clone(),
            log: call.log.clone(),
        };
        let mut running = Box::pin(self.0.host.run(&self.0.inference, invocation));
        let ran = tokio::select! {
            biased;
            ran = &mut running => ran,
            () = head.closed() => {
                // Stop it, and wait: its usage is final only once its instance is gone.
                call.cancel.cancel();
                running.await
            }
        };
        match ran {
            Ok(running) => deliver(call, running, head).await,
            Err((error, timings)) => fail_host(call, error, &timings, head).await,
        }
    }

    /// Mapped code, compiled again first if this node has lost it. True if it had to be mapped.
    async fn code(&self, digest: Digest) -> Result<(Arc<Code>, bool), CodeError> {
        let lost = match self.0.host.code(digest).await {
            Err(lost @ (CodeError::Missing | CodeError::Damaged)) => lost,
            other => return other,
        };
        tracing::warn!(%digest, %lost, "compiling a component again");
        let calls = self.clone();
        // A task of its own: the caller's leaving does not throw away what the next caller needs.
        let work = self.0.tasks.spawn(async move {
            let _turn = calls.0.recompiling.acquire().await;
            match calls.0.host.code(digest).await {
                Err(CodeError::Missing | CodeError::Damaged) => {
                    calls.0.recompile.recompile(digest).await.map_err(|detail| CodeError::Host { detail })?;
                    let (code, _) = calls.0.host.code(digest).await?;
                    Ok((code, true))
                }
                // Somebody before us in the line has brought it back.
                other => other.map(|(code, _)| (code, true)),
            }
        });
        work.await.unwrap_or_else(|error| Err(CodeError::Host { detail: error.to_string() }))
    }

    /// Calls that have not settled.
    pub fn open_calls(&self) -> usize {
        usize::try_from(self.0.door.open()).unwrap_or(usize::MAX)
    }

    /// Turns new calls away and waits until `deadline` for the open ones to settle. Says how many have not: cancel
    /// their contexts and ask again, so that they settle as cut.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.0.door.stop();
        self.0.tasks.close();
        let _ = tokio::time::timeout_at(deadline.into(), self.0.tasks.wait()).await;
        self.open_calls()
    }

    /// Guest output of all deployments.
    pub fn logs(&self) -> &LogBook {
        &self.0.logs
    }

    /// Which tiers a deployment is in. Costs nothing to a deployment at rest.
    pub fn status(&self, resolved: &mayfly_registry::Resolved) -> DeploymentStatus {
        let calls = self.0.door.open_on(resolved.deployment.id);
        let code_mapped = self.0.host.stats().mapped.contains(&resolved.revision.spec.handler.digest);
        let resident = self.0.inference.residency().models;
        let is_loaded = |grant: &mayfly_host::Grant| {
            resident.iter().any(|model| model.digest == grant.package.digest() && model.device == grant.device)
        };
        let models_loaded: Vec<(String, bool)> =
            resolved.grants.models.iter().map(|(alias, grant)| (alias.to_string(), is_loaded(grant))).collect();
        let tier = if calls > 0 {
            Tier::Active
        } else if models_loaded.iter().any(|(_, loaded)| *loaded) {
            Tier::Model
        } else if code_mapped {
            Tier::Code
        } else {
            Tier::Zero
        };
        DeploymentStatus { tier, calls, code_mapped, models_loaded }
    }

    /// Counters and gauges of this node, for `/metrics`.
    pub fn node_status(&self) -> NodeStatus {
        let size = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let code = self.0.host.stats();
        let residency = self.0.inference.residency();
        let bytes = residency.models.iter().map(|model| model.bytes).sum();
        let mut status = NodeStatus {
            calls_open: u64::from(self.0.door.open()),
            instances: (code.instances, code.instances_total),
            code: (size(code.mapped.len()), code.maps_total),
            models: (size(residency.models.len()), residency.loads_total, residency.unloads_total, bytes),
            ..NodeStatus::default()
        };
        self.0.counters.fill(&mut status);
        status
    }
}

/// The request as the guest will see it: its body limited, and with a host name, which `wasi:http` asks for.
fn for_guest(
    call: &OpenCall,
    context: &Context,
    request: Request<Body>,
) -> Request<http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, mayfly_host::BodyError>> {
    let (mut parts, body) = request.into_parts();
    if !parts.headers.contains_key(HOST) && parts.uri.authority().is_none() {
        let name = HeaderValue::try_from(context.resolved.deployment.name.as_str());
        parts.headers.insert(HOST, name.expect("a name is letters, digits and dashes"));
    }
    let body = Limited::new(body, call.request_body_bytes_max, call.too_large.clone());
    Request::from_parts(parts, body.boxed_unsync())
}

/// Brings back compiled code that is missing or damaged on this node. `mayfly-registry`'s `Control` implements the work.
#[async_trait::async_trait]
pub trait Recompile: Send + Sync + std::fmt::Debug {
    /// Compiles the stored component again.
    ///
    /// # Errors
    /// The text for the log.
    async fn recompile(&self, digest: mayfly_types::Digest) -> Result<(), String>;
}
