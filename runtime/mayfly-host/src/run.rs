//! One request, from a mapped component to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use mayfly_inference::Inference;
use mayfly_types::{Budget, DeploymentId, GuestLimits, KeyId, TenantId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};
use wasmtime_wasi_http::{Error as HttpFault, WasiHttpView};

use crate::body::GuestBody;
use crate::call::Call;
use crate::cpu::Metered;
use crate::fault::classify;
use crate::http::{check_request, reframe};
use crate::idle::Reuse;
use crate::instance::{Instance, Room};
use crate::lane::Lane;
use crate::state::GuestState;
use crate::ticker::Ticker;
use crate::work::Work;
use crate::{Code, Grants, GuestFault, Host, HostError, LogSink};

/// Everything one request brings.
#[derive(Debug)]
pub struct Invocation {
    /// The mapped component.
    pub code: Arc<Code>,
    /// The request as the guest will see it: path relative to the deployment, no keys, no internal headers.
    /// Needs a `host` header or an authority. A body error ends the guest's read.
    pub request: http::Request<UnsyncBoxBody<Bytes, BodyError>>,
    /// Whose call it is: its key-value store is the one the guest opens.
    pub deployment: DeploymentId,
    /// Who owns the deployment: generations of one tenant share its turn.
    pub tenant: TenantId,
    /// The key of the caller: prompts are reused within one deployment and key, unless the grants say that all share.
    pub key: KeyId,
    /// Models and configuration.
    pub grants: Arc<Grants>,
    /// Limits of the revision.
    pub limits: Arc<GuestLimits>,
    /// The account every hold is taken on.
    pub budget: Arc<dyn Budget>,
    /// When everything must have ended.
    pub deadline: Instant,
    /// Ends the call early: the caller left, or the server stops.
    pub cancel: CancellationToken,
    /// Where guest output goes.
    pub log: Arc<dyn LogSink>,
    /// Whether its instance may be one that has answered before, and may answer again. None is a fresh one.
    pub reuse: Option<Reuse>,
}

/// Why a request body could not be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The caller broke off.
    #[error("the request body ended early")]
    Incomplete,
    /// It is longer than the limit.
    #[error("the request body is longer than request_body_bytes_max = {limit}")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
}

/// Where the time went, for `Server-Timing`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Making the instance.
    pub instance: Duration,
    /// None was made: one that has answered before was taken.
    pub reused: bool,
    /// CPU time of the guest's own code.
    pub guest_cpu: Duration,
    /// Waiting for models to be loaded; none if all were.
    pub model_load: Option<Duration>,
    /// Waiting for executors.
    pub inference_queue: Duration,
    /// Inside ONNX Runtime.
    pub inference: Duration,
    /// A generation was stopped because the call's time was up. It ends a little earlier than the call, so that the
    /// handler can still say so.
    pub generation_out_of_time: bool,
    /// The process of this tenant's own models has failed. From then on runs can succeed again.
    pub models_back: Option<Instant>,
    /// When the guest was handed the first token of a generation.
    pub first_token: Option<Instant>,
    /// How choices of generations ended.
    pub finishes: Finishes,
}

/// Ways in which choices have ended, each once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Finishes(u8);

impl Finishes {
    /// Their words, as `generation` has them.
    const WORDS: [&'static str; 4] = ["stop", "length", "content_filter", "cancelled"];

    /// One has ended so.
    pub(crate) fn add(&mut self, finished: Finished) {
        self.0 |= 1 << finished as u8;
    }

    /// The words of those that there were.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS.into_iter().enumerate().filter(move |(place, _)| self.0 & (1 << place) != 0).map(|(_, word)| word)
    }
}

/// The words of [`Finishes`], in order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Finished {
    Stop,
    Length,
    ContentFilter,
    Cancelled,
}

/// The running timings of one call, shared between the instance and whoever reports them.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<std::sync::Mutex<Readings>>);

#[derive(Debug, Default)]
struct Readings {
    timings: Timings,
    refusal: Option<mayfly_types::Refusal>,
}

impl Clock {
    fn readings(&self) -> std::sync::MutexGuard<'_, Readings> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Timings so far.
    pub fn read(&self) -> Timings {
        self.readings().timings
    }

    /// The last hold that was refused, if any: a guest that passes the error on gets a 429 or 402 for it.
    pub fn refusal(&self) -> Option<mayfly_types::Refusal> {
        self.readings().refusal.clone()
    }

    /// Adds to the timings.
    pub(crate) fn add(&self, change: impl FnOnce(&mut Timings)) {
        change(&mut self.readings().timings);
    }

    /// Remembers a refused hold.
    pub(crate) fn refused(&self, refusal: mayfly_types::Refusal) {
        self.readings().refusal = Some(refusal);
    }
}

/// How a handler call ended. Sent exactly once, when the instance is gone.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// Ok, or why not.
    pub result: Result<(), HostError>,
    /// Where the time went.
    pub timings: Timings,
}

/// A handler that has set its response. The head is sanitised (no hop-by-hop, no reserved headers, lengths checked);
/// the body fails with [`HostError`] if the guest traps or breaks a limit, and is cut at the limit, never longer.
#[derive(Debug)]
pub struct Running {
    /// Head and body.
    pub response: http::Response<UnsyncBoxBody<Bytes, HostError>>,
    /// Resolves when the handler call has ended and nothing of it is left, its instance least of all, unless it is kept
    /// for the next one. After the body's end the handler has `body_end_grace_ms` left, in which calls to models fail,
    /// then it is dropped.
    pub end: oneshot::Receiver<RunEnd>,
    /// Timings so far, readable at any time.
    pub clock: Clock,
}

impl Host {
    /// Answers one request, with a fresh instance unless [`Invocation::reuse`] says otherwise. Dropping the future, or the
    /// response's body, cancels the call.
    ///
    /// # Errors
    /// [`HostError`] if there was no head: nothing was delivered. With the error come the timings.
    pub async fn run(&self, inference: &Inference, invocation: Invocation) -> Result<Running, (HostError, Timings)> {
        let clock = Clock::default();
        let fail = |error: HostError| (error, clock.read());
        check_request(&invocation.request, &invocation.limits).map_err(fail)?;
        let room = Room::find(&self.0, invocation.deployment, invocation.reuse).await.map_err(fail)?;
        let call = Arc::new(Call::new(&invocation.cancel));
        let (instance, mut end) = Instance::begin(room, &self.0, inference, &invocation, &call, &clock);
        let limits = Arc::clone(&invocation.limits);
        let method = invocation.request.method().clone();
        let (sender, mut head) = oneshot::channel();
        let guest = Guest {
            instance,
            tenant: invocation.tenant,
            pre: invocation.code.pre().clone(),
            call: Arc::clone(&call),
            clock: clock.clone(),
            limits: Arc::clone(&limits),
            deadline: invocation.deadline,
            grace: Duration::from_millis(self.0.config.body_end_grace_ms),
            instances_max: self.0.instances_max,
            ticker: Arc::clone(&self.0.ticker),
            lane: Arc::clone(&self.0.lane),
        };
        let mut guest = Box::pin(guest.answer(invocation.request, sender));

        // Most short answers are complete after one poll right here; what goes on longer gets a task of its own.
        let (head, ended) = tokio::select! {
            biased;
            // Not set by now, it never will be.
            instance = &mut guest => (head.try_recv().ok(), Some(instance)),
            head = &mut head => (head.ok(), None),
        };
        let responded = head.map(|head| head.map(|response| respond(response, &method, &call, &limits)));
        let is_good = matches!(responded, Some(Ok(Ok(_))));
        // An instance is kept only once its answer is known to be one.
        match ended {
            Some(Some(instance)) if is_good => instance.keep(),
            Some(instance) => drop(instance),
            None => {
                tokio::spawn(async move {
                    if let Some(instance) = guest.await
                        && is_good
                    {
                        instance.keep();
                    }
                });
            }
        }
        let error = match responded {
            Some(Ok(Ok(response))) => return Ok(Running { response, end, clock }),
            Some(Ok(Err(fault))) => fault,
            Some(Err(code)) => GuestFault::BadResponse(format!("error code {code:?}").chars().take(200).collect()),
            // Dropped unset, or gone with the store after a fault that is already decided.
            None => GuestFault::NoResponse,
        };
        let error = call.stop(error.into());
        // Wait until the instance is gone, so that the timings are whole.
        let timings = (&mut end).await.map_or_else(|_| clock.read(), |end| end.timings);
        Err((error, timings))
    }
}

type Outgoing = http::Response<HyperOutgoingBody>;

/// Makes a guest's response one that can be sent.
fn respond(
    response: Outgoing,
    method: &http::Method,
    call: &Arc<Call>,
    limits: &Arc<GuestLimits>,
) -> Result<http::Response<UnsyncBoxBody<Bytes, HostError>>, GuestFault> {
    let (mut parts, body) = response.into_parts();
    let framing = reframe(parts.status, &mut parts.headers, method, limits)?;
    let mut body = GuestBody::new(body, framing, Arc::clone(call), Arc::clone(limits));
    if framing.bodyless {
        // Nobody sends it, so nobody would read it: the guest must not wait for that.
        tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        return Ok(http::Response::from_parts(parts, empty));
    }
    Ok(http::Response::from_parts(parts, body.boxed_unsync()))
}

/// A guest about to answer.
struct Guest {
    instance: Instance,
    tenant: TenantId,
    pre: ProxyPre<GuestState>,
    call: Arc<Call>,
    clock: Clock,
    limits: Arc<GuestLimits>,
    deadline: Instant,
    grace: Duration,
    instances_max: u32,
    ticker: Arc<Ticker>,
    lane: Arc<Lane>,
}

impl Guest {
    /// Runs the handler to its end, whatever that is; the head goes to `sender`. Gives back the instance of one that ended
    /// well; dropping it tells the end.
    ///
    /// Not an `async fn`, nor is [`handle`]: those hold their arguments twice, and these are there for as long as a stream
    /// is held open.
    fn answer(
        self,
        request: http::Request<UnsyncBoxBody<Bytes, BodyError>>,
        sender: oneshot::Sender<Result<Outgoing, ErrorCode>>,
    ) -> impl Future<Output = Option<Instance>> {
        let Self { instance, tenant, pre, call, clock, limits, deadline, grace, instances_max, ticker, lane } = self;
        let meter = Arc::clone(instance.meter());
        let handling = handle(instance, pre, clock, request, sender);
        let mut work = Work::new(Metered::new(handling, meter, ticker), tenant, lane);
        async move {
            // The guest first: one that ends in its first turn registers no timer.
            let outcome = tokio::select! {
                biased;
                (instance, result) = &mut work => match result {
                    Ok(()) => Ok(instance),
                    Err(Stopped::Guest(error)) => Err((classify(&error, &limits, instances_max), Some(instance))),
                    Err(Stopped::Host(error)) => {
                        tracing::error!(error = format!("{error:#}"), "a request could not be handed to its handler");
                        Err((HostError::Host { detail: format!("{error:#}") }, Some(instance)))
                    }
                },
                () = call.stopped().cancelled() => Err((HostError::Cancelled, None)),
                () = tokio::time::sleep_until(deadline.into()) => {
                    Err((HostError::Deadline { limit_ms: limits.deadline_ms_max }, None))
                }
                () = grace_over(&call, grace) => {
                    let grace = grace.as_millis();
                    let text =
                        format!("the handler went on for body_end_grace_ms = {grace} ms after its response had ended");
                    Err((GuestFault::Limit(text).into(), None))
                }
            };
            // Decided before the store goes: the body's end must find it. Dropping the instance tells the end.
            match outcome {
                Ok(instance) => {
                    let held = call.decide(Ok(()));
                    held.is_ok().then_some(instance)
                }
                Err((error, instance)) => {
                    let _held = call.decide(Err(error));
                    drop(instance);
                    None
                }
            }
        }
    }
}

/// Who is at fault when the call itself failed.
enum Stopped {
    Guest(wasmtime::Error),
    Host(wasmtime::Error),
}

async fn grace_over(call: &Call, grace: Duration) {
    call.closed().cancelled().await;
    tokio::time::sleep(grace).await;
}

/// Owns the instance, so that it can go where the work is done; gives it back.
fn handle(
    mut instance: Instance,
    pre: ProxyPre<GuestState>,
    clock: Clock,
    request: http::Request<UnsyncBoxBody<Bytes, BodyError>>,
    sender: oneshot::Sender<Result<Outgoing, ErrorCode>>,
) -> impl Future<Output = (Instance, Result<(), Stopped>)> {
    let request = request.map(|body| {
        body.map_err(|error| match error {
            BodyError::Incomplete => HttpFault::ConnectionTerminated,
            BodyError::TooLarge { limit } => HttpFault::HttpRequestBodySize(Some(limit)),
        })
    });
    let start = Instant::now();
    let mut http = instance.parts().0.data_mut().http();
    let incoming = http
        .new_incoming_request(Scheme::Http, request)
        .and_then(|request| Ok((request, http.new_response_outparam(sender)?)));
    async move {
        let result = match incoming {
            Ok((request, out)) => handle_in(&mut instance, &pre, &clock, start, request, out).await,
            Err(error) => Err(Stopped::Host(error)),
        };
        (instance, result)
    }
}

async fn handle_in(
    instance: &mut Instance,
    pre: &ProxyPre<GuestState>,
    clock: &Clock,
    start: Instant,
    request: Resource<HostIncomingRequest>,
    out: Resource<HostResponseOutparam>,
) -> Result<(), Stopped> {
    let (store, made) = instance.parts();
    // Only one that ends well stands there again.
    let proxy = match made.take() {
        Some(proxy) => proxy,
        None => pre.instantiate_async(&mut *store).await.map_err(Stopped::Guest)?,
    };
    let taken = start.elapsed();
    clock.add(|timings| timings.instance = taken);
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await.map_err(Stopped::Guest)?;
    *made = Some(proxy);
    Ok(())
}
