//! One instance and the request it answers: made for it or kept from an earlier one, gone or kept after it, the end of
//! the request told exactly once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_types::DeploymentId;
use tokio::sync::oneshot;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;
use wasmtime_wasi_http::p2::bindings::Proxy;

use crate::call::Call;
use crate::cpu::CpuMeter;
use crate::engine::Inner;
use crate::http::Hooks;
use crate::idle::{Idle, Kept, Live, Reuse, Stay};
use crate::keyvalue::KeyValueState;
use crate::leftovers::{NotKept, end_all};
use crate::limiter::Limiter;
use crate::nn::{Asker, NnState};
use crate::output::{Allowance, GuestOutput};
use crate::places::Place;
use crate::state::{GuestState, RequestState};
use crate::{Clock, HostError, Invocation, LogStream, RunEnd};

/// In-memory overhead of the header maps a guest builds, beside names and values.
const FIELDS_OVERHEAD_BYTES: usize = 16 << 10;
/// Random bytes a guest may ask for at once.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Sends the [`RunEnd`] when dropped: after all that belongs to the request has gone.
#[derive(Debug)]
struct Ending {
    call: Arc<Call>,
    clock: Clock,
    meter: Arc<CpuMeter>,
    sender: Option<oneshot::Sender<RunEnd>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let guest_cpu = self.meter.settled();
        self.clock.add(|timings| timings.guest_cpu = guest_cpu);
        if let Some(sender) = self.sender.take() {
            let end = RunEnd { result: self.call.decide(Err(HostError::Cancelled)), timings: self.clock.read() };
            // Nobody listens any more: fine, the end is for those who do.
            let _unheard = sender.send(end);
        }
    }
}

/// An instance's store and its request, from before instantiation to the request's end. Dropping it at any point ends the
/// call and the instance.
pub(crate) struct Instance {
    live: Option<Live>,
    ending: Option<Ending>,
    /// Where the instance goes afterwards, if its deployment's are kept.
    stay: Option<Stay>,
    kept: Arc<Kept>,
    call: Arc<Call>,
    meter: Arc<CpuMeter>,
    handles_max: usize,
}

/// Where a request goes: into an instance that has waited for it, or into a new one.
pub(crate) struct Room {
    found: Found,
    stay: Option<Stay>,
}

enum Found {
    Waiting(Live),
    Free(Place),
}

impl Room {
    /// For one request: what `reuse` finds waiting, or a place in the pool. Instances that only wait give theirs up.
    ///
    /// # Errors
    /// [`HostError::Busy`].
    pub(crate) async fn find(inner: &Inner, deployment: DeploymentId, reuse: Option<Reuse>) -> Result<Self, HostError> {
        let mut stay = None;
        if let Some(reuse) = reuse.and_then(|reuse| allowed(inner, reuse)) {
            let (new, waiting) = inner.kept.begin(deployment, reuse);
            stay = Some(new);
            if let Some(live) = waiting {
                return Ok(Self { found: Found::Waiting(live), stay });
            }
        }
        let limit = inner.instances_max;
        loop {
            if let Some(place) = Place::take(&inner.counts, limit) {
                return Ok(Self { found: Found::Free(place), stay });
            }
            if !inner.kept.make_room().await {
                return Err(HostError::Busy { limit });
            }
        }
    }
}

impl Instance {
    /// For `invocation`, in `room`.
    pub(crate) fn begin(
        room: Room,
        inner: &Arc<Inner>,
        inference: &mayfly_inference::Inference,
        invocation: &Invocation,
        call: &Arc<Call>,
        clock: &Clock,
    ) -> (Self, oneshot::Receiver<RunEnd>) {
        let Room { found, stay } = room;
        let mut live = match found {
            Found::Waiting(live) => {
                inner.counts.reuse();
                clock.add(|timings| timings.reused = true);
                live
            }
            Found::Free(place) => Live { store: store(inner, invocation), proxy: None, answered: 0, _place: place },
        };
        let meter = Arc::new(CpuMeter::default());
        begin_request(live.store.data_mut(), request(inner, inference, invocation, call, clock, &meter), invocation);
        live.store.set_epoch_deadline(1);
        let (sender, end) = oneshot::channel();
        let ending =
            Ending { call: Arc::clone(call), clock: clock.clone(), meter: Arc::clone(&meter), sender: Some(sender) };
        let instance = Self {
            live: Some(live),
            ending: Some(ending),
            stay,
            kept: Arc::clone(&inner.kept),
            call: Arc::clone(call),
            meter,
            handles_max: handles_max(invocation),
        };
        (instance, end)
    }

    /// The store, and the component in it if it has been made.
    pub(crate) fn parts(&mut self) -> (&mut Store<GuestState>, &mut Option<Proxy>) {
        let live = self.live.as_mut().expect("taken only when it goes");
        (&mut live.store, &mut live.proxy)
    }

    /// Where its CPU time is counted.
    pub(crate) fn meter(&self) -> &Arc<CpuMeter> {
        &self.meter
    }

    /// The request has ended well: keeps the instance for the next one if its deployment wants that and it holds
    /// nothing of this one. Tells the end either way.
    pub(crate) fn keep(mut self) {
        let Some(stay) = self.stay.take() else { return };
        let Some(live) = &mut self.live else { return };
        live.answered = live.answered.saturating_add(1);
        if !stay.goes_on_after(live.answered) || live.proxy.is_none() {
            return;
        }
        match end_request(live.store.data_mut(), self.handles_max) {
            Ok(()) => {
                if let Some(live) = self.live.take() {
                    self.kept.keep(stay, Idle { live, spoiled: Arc::clone(self.call.spoiled()) });
                }
            }
            Err(NotKept(why)) => tracing::debug!(why, "an instance is not kept"),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Before the store goes: its body ends with it and must know why.
        let _held = self.call.decide(Err(HostError::Cancelled));
        let ending = self.ending.take();
        match self.live.take() {
            Some(live) => self.kept.put_away(live, ending),
            None => drop(ending),
        }
    }
}

/// What the deployment asked for, within what the operator allows; none for a fresh instance each time.
fn allowed(inner: &Inner, asked: Reuse) -> Option<Reuse> {
    let requests_max = asked.requests_max.min(inner.config.reuse_max);
    let idle = asked.idle.min(Duration::from_millis(inner.config.instance_idle_ms_max));
    (requests_max > 1).then_some(Reuse { requests_max, idle, ..asked })
}

fn handles_max(invocation: &Invocation) -> usize {
    usize::try_from(invocation.limits.handles_max).unwrap_or(usize::MAX)
}

/// A store with the limits of `invocation`, without a request.
fn store(inner: &Inner, invocation: &Invocation) -> Store<GuestState> {
    let limits = &invocation.limits;
    let mut table = wasmtime::component::ResourceTable::new();
    table.set_max_capacity(handles_max(invocation));
    let mut http = WasiHttpCtx::new();
    let header_bytes = usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX);
    http.set_field_size_limit(header_bytes.saturating_add(FIELDS_OVERHEAD_BYTES));
    let outputs = [LogStream::Stdout, LogStream::Stderr].map(GuestOutput::unconnected);
    let state = GuestState {
        table,
        lasting: BTreeSet::new(),
        wasi: wasi(&outputs),
        outputs,
        http,
        limiter: Limiter::new(limits.memory_bytes_max, limits.table_elements_max),
        request: None,
    };
    let mut store = Store::new(&inner.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_max_component_handles(handles_max(invocation));
    store.epoch_deadline_callback(|store| {
        if !store.data().tick()? {
            return Ok(UpdateDeadline::Continue(1));
        }
        // Tokio's own yield lets timers and sockets be served before this guest runs on.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// Nothing inherited: no environment, no arguments, no folders; sockets and name lookup are denied.
fn wasi([stdout, stderr]: &[GuestOutput; 2]) -> WasiCtx {
    WasiCtx::builder()
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .build()
}

fn begin_request(state: &mut GuestState, request: RequestState, invocation: &Invocation) {
    let allowance = Allowance::new(invocation.limits.log_bytes_max);
    for output in &state.outputs {
        output.lead_to(Arc::clone(&invocation.log), Arc::clone(&allowance));
    }
    state.request = Some(request);
}

/// Everything of the request goes; what the guest still holds of it means nothing from now on.
fn end_request(state: &mut GuestState, handles_max: usize) -> Result<(), NotKept> {
    let markers = end_all(&mut state.table, &state.lasting)?;
    state.table.set_max_capacity(handles_max.saturating_add(markers));
    state.outputs.iter().for_each(GuestOutput::disconnect);
    state.wasi = wasi(&state.outputs);
    state.request = None;
    Ok(())
}

/// Tenants take turns; whose prompts are gone on from is in `nn/generation`.
fn asker(invocation: &Invocation) -> Asker {
    let Invocation { tenant, deployment, key, grants, .. } = invocation;
    Asker::new(*tenant, *deployment, *key, grants.share_prefixes)
}

fn request(
    inner: &Inner,
    inference: &mayfly_inference::Inference,
    invocation: &Invocation,
    call: &Arc<Call>,
    clock: &Clock,
    meter: &Arc<CpuMeter>,
) -> RequestState {
    let limits = &invocation.limits;
    RequestState {
        hooks: Hooks { budget: Arc::clone(&invocation.budget), bodies: 0 },
        nn: NnState::new(
            inference.clone(),
            Arc::clone(&invocation.grants),
            Arc::clone(&invocation.budget),
            Arc::clone(limits),
            invocation.deadline,
            call.closed().clone(),
            clock.clone(),
        )
        .with_meter(Arc::clone(meter))
        .with_asker(asker(invocation)),
        keyvalue: KeyValueState {
            store: Arc::clone(&inner.key_values),
            deployment: invocation.deployment,
            limits: inner.config.keyvalue,
            deadline: invocation.deadline,
            cancel: call.closed().clone(),
        },
        meter: Arc::clone(meter),
        guest_cpu_ms_max: limits.guest_cpu_ms_max,
    }
}
