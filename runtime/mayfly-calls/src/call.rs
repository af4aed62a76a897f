//! One call from the door to its settlement.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use mayfly_host::{Code, CodeError, Host, HostError, Invocation, Place, Running, Timings};
use mayfly_inference::{Device, Inference, WorkerLoad, WorkerState};
use mayfly_ledger::{Journal, Leases, Outcome, PriceBook};
use mayfly_types::{Digest, LevelId};
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument as _;

use crate::attended::Attended;
use crate::bill::Bill;
use crate::body::{Limited, full};
use crate::deliver::{Head, deliver, fail_host, fail_stopped, refuse};
use crate::entrance::{Away, Entrance, Entry};
use crate::failure::Failure;
use crate::housekeeping::{self, House};
use crate::open::{OpenCall, mark_id, now};
use crate::opener::Opener;
use crate::standing::mark_standing;
use crate::timing::Before;
use crate::{
    Activity, Body, Config, Context, DeploymentStatus, LogBook, ModelStatus, NodeStatus, Observer, Tier, dry_run,
    replay, telemetry,
};

/// What calls stand on.
#[derive(Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub struct CallParts {
    pub config: Config,
    pub host: Host,
    pub inference: Inference,
    pub journal: Arc<dyn Journal>,
    pub leases: Arc<dyn Leases>,
    /// As of now; [`Calls::set_price_book`] brings a newer one.
    pub prices: PriceBook,
    /// Three capital letters.
    pub currency: String,
    pub recompile: Arc<dyn Recompile>,
    /// Told of each call that ends; none: nobody is.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Everything a call needs. Clones share it.
#[derive(Debug, Clone)]
pub struct Calls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    inference: Inference,
    recompile: Arc<dyn Recompile>,
    /// One compiler at a time: it takes all cores as it is.
    recompiling: Semaphore,
    entrance: Entrance,
    opener: Opener,
    /// Kept in order for as long as it is held.
    _house: Arc<House>,
}

impl Calls {
    /// One for each server, made within a Tokio runtime: what has to be done every minute runs on it.
    ///
    /// # Panics
    /// If the currency is not ASCII text.
    pub fn new(parts: CallParts) -> Self {
        let CallParts { config, host, inference, journal, leases, prices, currency, recompile, observer } = parts;
        let config = Arc::new(config);
        let entrance = Entrance::new(config.clone(), journal.clone(), leases);
        let admission = entrance.admission.clone();
        let house = Arc::new(House { config: config.clone(), journal: journal.clone(), admission });
        tokio::spawn(housekeeping::keep(Arc::downgrade(&house)));
        Self(Arc::new(Inner {
            host,
            inference,
            recompile,
            recompiling: Semaphore::new(1),
            entrance,
            opener: Opener::new(config, journal, prices, &currency, observer),
            _house: house,
        }))
    }

    /// The prices of calls that begin now.
    pub fn price_book(&self) -> Arc<PriceBook> {
        self.0.opener.price_book()
    }

    /// Calls that begin from now on have these prices; those that run keep theirs.
    pub fn set_price_book(&self, book: PriceBook) {
        self.0.opener.set_price_book(book);
    }

    /// The host's currency.
    pub fn currency(&self) -> &str {
        self.0.opener.currency()
    }

    /// Credit was granted or rows were corrected in the ledger: what levels have spent is read again before the next
    /// call enters.
    pub fn money_changed(&self) {
        self.0.entrance.admission.forget_money();
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
            let failure = Box::new(Failure::too_large(limit, None));
            return self.turn_away(&context, &Away { failure, standing: None, at_once: false });
        }
        let wakes = || self.wakes(&context);
        let (entry, request) = match self.0.entrance.enter(&context, request, wakes).await {
            Ok(entered) => entered,
            Err(away) => return self.turn_away(&context, &away),
        };
        let span = telemetry::span(&context);
        let (head, mut answer) = oneshot::channel();
        let live = self.clone().live(context, request, entry, head).instrument(span);
        let mut attended = Attended::new(Box::pin(live), &self.0.opener.tasks);
        let answer = tokio::select! {
            biased;
            () = &mut attended => answer.await,
            // What is still to be done (a stream, a settlement) goes on without its caller's task.
            answer = &mut answer => answer,
        };
        answer.unwrap_or_else(|_panicked| {
            let mut response = Failure::internal("the task of a call panicked").response(&Bill::default()).map(full);
            mark_id(response.headers_mut(), id);
            response
        })
    }

    fn turn_away(&self, context: &Context, away: &Away) -> Response<Body> {
        let counters = &self.0.opener.counters;
        counters.turned_away();
        counters.failed(away.failure.code());
        if away.at_once {
            counters.refused(context.received.elapsed());
        }
        counters.activities.turned_away(&context.resolved, now());
        away.failure.log();
        let mut response = away.failure.response(&Bill::default()).map(full);
        if let Some(standing) = &away.standing {
            mark_standing(response.headers_mut(), standing);
        }
        let timing = Before::waiting(context.received).server_timing(&Timings::default());
        response.headers_mut().insert("server-timing", timing);
        mark_id(response.headers_mut(), context.request_id);
        response
    }

    /// Whether the call has to wake code or a model: whatever it was granted and is not there.
    fn wakes(&self, context: &Context) -> bool {
        let Inner { host, inference, .. } = &*self.0;
        let tenant = context.resolved.tenant.id;
        let sleeps = |grant: &mayfly_host::Grant| !grant.is_loaded(inference, tenant);
        !host.is_mapped(context.resolved.revision.spec.handler.digest)
            || !context.dry_run && context.resolved.grants.models.values().any(sleeps)
    }

    /// The whole life of one call; its permit goes when it has settled.
    ///
    /// Its future is there for as long as the call is open, a stream that is held open for hours, too: what only some
    /// calls come to, and what is over once the handler has answered, is in boxes of its own.
    fn live(self, context: Context, request: Request<Body>, entry: Entry, head: Head) -> impl Future<Output = ()> {
        let Entry { permit, ticket, once, kept } = entry;
        let mut call = self.0.opener.open(&context, request.method(), request.uri().path(), ticket, once);
        let (kept, request) = (kept.map(Box::new), Box::new(request));
        // An `async fn` would hold its arguments twice.
        async move {
            if let Some(kept) = kept {
                call.before.replayed = true;
                Box::pin(replay::answer(&call, &kept, head)).await;
            } else {
                let run = AssertUnwindSafe(self.run(&mut call, &context, request, head));
                if let Err(panic) = run.catch_unwind().await {
                    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                    tracing::error!(text, "the task of a call panicked");
                    call.cancel.cancel();
                    if let Some(ending) = call.end(500, Outcome::HostFault, &Timings::default()) {
                        Box::pin(call.write_in_the_end(ending)).await;
                    }
                }
            }
            drop(call);
            drop(permit);
        }
    }

    async fn run(&self, call: &mut OpenCall, context: &Context, request: Box<Request<Body>>, mut head: Head) {
        let ran = match Box::pin(self.begin(call, context, request, &mut head)).await {
            Ok(ran) => ran,
            Err(NotBegun::Stopped) => return fail_stopped(call, head).await,
            Err(NotBegun::Refused(failure)) => return refuse(call, *failure, &Timings::default(), head).await,
        };
        if call.dry_run {
            return Box::pin(dry_run::answer(call, ran, &context.resolved.price_names, head)).await;
        }
        match ran {
            Ok(running) => deliver(call, running, head).await,
            Err((error, timings)) => fail_host(call, error, &timings, head).await,
        }
    }

    /// From the code to a handler that has set its response, or has failed.
    async fn begin(
        &self,
        call: &mut OpenCall,
        context: &Context,
        request: Box<Request<Body>>,
        head: &mut Head,
    ) -> Result<Result<Running, (HostError, Timings)>, NotBegun> {
        let deadline = tokio::time::Instant::from_std(call.deadline);
        let asked = Instant::now();
        let code = tokio::select! {
            biased;
            code = self.code(context.resolved.revision.spec.handler.digest) => code,
            () = head.closed() => return Err(NotBegun::Stopped),
            () = call.stop.cancelled() => return Err(NotBegun::Stopped),
            () = tokio::time::sleep_until(deadline) => {
                return Err(NotBegun::Refused(Box::new(Failure::deadline(call.deadline_ms))));
            }
        };
        call.before.code = asked.elapsed();
        let code = match code {
            Ok((code, mapped)) => {
                call.before.mapped = mapped;
                code
            }
            Err(error) => return Err(NotBegun::Refused(Box::new(error.into()))),
        };
        let invocation = Invocation {
            code,
            request: for_guest(call, context, *request),
            deployment: context.resolved.deployment.id,
            tenant: context.resolved.project.tenant,
            key: context.key.id,
            grants: context.resolved.grants.clone(),
            limits: context.resolved.limits.clone(),
            budget: call.budget.clone(),
            deadline: call.deadline,
            cancel: call.cancel.clone(),
            log: call.log.clone(),
            reuse: context.resolved.revision.spec.scale.reuse().map(|(requests_max, idle)| mayfly_host::Reuse {
                revision: context.resolved.revision.id,
                requests_max,
                idle,
            }),
        };
        let mut running = std::pin::pin!(self.0.host.run(&self.0.inference, invocation));
        Ok(tokio::select! {
            biased;
            ran = &mut running => ran,
            () = head.closed() => {
                // Stop it, and wait: its usage is final only once its instance is gone.
                call.cancel.cancel();
                running.await
            }
        })
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
        let work = self.0.opener.tasks.spawn(async move {
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
        usize::try_from(self.0.entrance.door.open()).unwrap_or(usize::MAX)
    }

    /// Calls of a tenant, project, deployment or key that have not settled.
    pub fn open_at(&self, level: LevelId) -> u32 {
        self.0.entrance.admission.open_at(level)
    }

    /// Turns new calls away and waits until `deadline` for the open ones to settle. Says how many have not: cancel
    /// their contexts and ask again, so that they settle as cut.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.0.entrance.door.stop();
        self.0.opener.tasks.close();
        let _ = tokio::time::timeout_at(deadline.into(), self.0.opener.tasks.wait()).await;
        self.open_calls()
    }

    /// Guest output of all deployments.
    pub fn logs(&self) -> &LogBook {
        &self.0.opener.logs
    }

    /// Which tiers a deployment is in. Costs nothing to a deployment at rest.
    pub fn status(&self, resolved: &mayfly_registry::Resolved) -> DeploymentStatus {
        let calls = self.open_at(LevelId::Deployment(resolved.deployment.id));
        let code_mapped = self.0.host.stats().mapped.contains(&resolved.revision.spec.handler.digest);
        let resident = self.0.inference.residency().models;
        let granted: Vec<_> = resolved.grants.models.iter().collect();
        let of = |grant: &mayfly_host::Grant| {
            resident.iter().find(|model| model.digest == grant.package.digest() && model.device == grant.device)
        };
        let is_loaded = |grant: &mayfly_host::Grant| match grant.place {
            Place::Server => of(grant).is_some(),
            Place::Apart => grant.is_loaded(&self.0.inference, resolved.tenant.id),
            Place::Nowhere => false,
        };
        let inference = &self.0.inference;
        let models: Vec<ModelStatus> = granted
            .iter()
            .map(|(alias, grant)| ModelStatus {
                alias: alias.to_string(),
                loaded: is_loaded(grant),
                kept: grant.place == Place::Server && inference.is_kept(grant.package.digest(), grant.device),
            })
            .collect();
        // Two aliases of one model have one session.
        let is_granted = |model: &&mayfly_inference::Resident| {
            granted.iter().any(|(_, grant)| model.digest == grant.package.digest() && model.device == grant.device)
        };
        let in_server: u64 = resident.iter().filter(is_granted).map(|model| model.bytes).sum();
        let apart: BTreeMap<_, _> = granted
            .iter()
            .map(|(_, grant)| {
                ((grant.package.digest(), grant.device), grant.bytes_apart(inference, resolved.tenant.id))
            })
            .collect();
        let model_bytes = apart.values().fold(in_server, |sum, bytes| sum.saturating_add(*bytes));
        let tier = if calls > 0 {
            Tier::Active
        } else if models.iter().any(|model| model.loaded) {
            Tier::Model
        } else if code_mapped {
            Tier::Code
        } else {
            Tier::Zero
        };
        DeploymentStatus { tier, calls, code_mapped, models, model_bytes }
    }

    /// What the deployments that were called lately have done on this node, in no order; at most 1,000.
    pub fn activity(&self) -> Vec<Activity> {
        self.0.opener.counters.activities.all(now())
    }

    /// Counters and gauges of this node, for `/metrics`.
    pub fn node_status(&self) -> NodeStatus {
        let size = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let code = self.0.host.stats();
        let residency = self.0.inference.residency();
        let bytes = residency.models.iter().map(|model| model.bytes).sum();
        let workers = self.0.inference.workers();
        let mut status = NodeStatus {
            calls_open: u64::from(self.0.entrance.door.open()),
            calls_waiting: u64::from(self.0.entrance.door.waiting()),
            line_seconds: self.0.entrance.door.waited().read(),
            instances: (code.instances, code.instances_total),
            instances_kept: (code.instances_idle, code.instances_reused_total),
            code: (size(code.mapped.len()), code.maps_total),
            engines: self.0.inference.generation_load(),
            models: (size(residency.models.len()), residency.loads_total, residency.unloads_total, bytes),
            devices: residency.devices,
            workers: (size(workers.workers.len()), workers.starts_total, workers.crashes_total),
            worker_loads: loads(&workers.workers),
            ..NodeStatus::default()
        };
        self.0.opener.counters.fill(&mut status);
        status.spans = self.0.opener.observer.as_ref().map(|observer| observer.spans()).unwrap_or_default();
        status
    }
}

/// Why no handler was asked.
enum NotBegun {
    /// The caller left, or the server cuts its connections.
    Stopped,
    Refused(Box<Failure>),
}

/// Of all processes together, by device.
fn loads(workers: &[WorkerState]) -> Vec<(Device, WorkerLoad)> {
    let mut loads = BTreeMap::new();
    for worker in workers {
        let load = loads.entry(worker.device).or_insert_with(WorkerLoad::default);
        *load = load.and(worker.load);
    }
    loads.into_iter().collect()
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
