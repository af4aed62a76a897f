//! One instance: made for a request, gone after it, its end told exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::oneshot;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;

use crate::call::Call;
use crate::cpu::CpuMeter;
use crate::engine::Inner;
use crate::http::Hooks;
use crate::keyvalue::KeyValueState;
use crate::limiter::Limiter;
use crate::nn::{Asker, NnState};
use crate::output::{Allowance, GuestOutput};
use crate::state::GuestState;
use crate::{Clock, HostError, Invocation, LogStream, RunEnd};

/// Dropping a store with more linear memory than this is done off the async threads: 254 MiB took 17 ms.
const LARGE_STORE_BYTES: u64 = 16 << 20;
/// In-memory overhead of the header maps a guest builds, beside names and values.
const FIELDS_OVERHEAD_BYTES: usize = 16 << 10;
/// Random bytes a guest may ask for at once.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// Instances alive, and since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    alive: AtomicU32,
    total: AtomicU64,
}

impl Counts {
    /// Instances alive now.
    pub(crate) fn alive(&self) -> u32 {
        self.alive.load(Ordering::Relaxed)
    }

    /// Instances since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// One more, if that is within `limit`.
    fn enter(&self, limit: u32) -> bool {
        let more = |alive: u32| (alive < limit).then(|| alive + 1);
        let entered = self.alive.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok();
        if entered {
            self.total.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }
}

/// A place in the pool.
#[derive(Debug)]
struct Place(Arc<Inner>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.counts.alive.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Sends the [`RunEnd`] when dropped: after the store, before nothing else.
#[derive(Debug)]
struct Ending {
    call: Arc<Call>,
    clock: Clock,
    meter: Arc<CpuMeter>,
    sender: Option<oneshot::Sender<RunEnd>>,
    place: Option<Place>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let guest_cpu = self.meter.settled();
        self.clock.add(|timings| timings.guest_cpu = guest_cpu);
        // The place is free before the end is told: who waits for the end can start the next one.
        self.place = None;
        if let Some(sender) = self.sender.take() {
            let end = RunEnd { result: self.call.decide(Err(HostError::Cancelled)), timings: self.clock.read() };
            // Nobody listens any more: fine, the end is for those who do.
            let _unheard = sender.send(end);
        }
    }
}

/// The store goes first, then its end is told.
struct Alive {
    store: Store<GuestState>,
    /// Held to be dropped second.
    _ending: Ending,
}

/// An instance's store, from before instantiation to its end. Dropping it at any point ends the call.
pub(crate) struct Instance {
    alive: Option<Alive>,
    call: Arc<Call>,
    meter: Arc<CpuMeter>,
}

impl Instance {
    /// A store with the limits of `invocation`, if the pool has room.
    ///
    /// # Errors
    /// [`HostError::Busy`].
    pub(crate) fn new(
        inner: &Arc<Inner>,
        inference: &mayfly_inference::Inference,
        invocation: &Invocation,
        call: &Arc<Call>,
        clock: &Clock,
    ) -> Result<(Self, oneshot::Receiver<RunEnd>), HostError> {
        let limit = inner.instances_max;
        if !inner.counts.enter(limit) {
            return Err(HostError::Busy { limit });
        }
        let place = Place(Arc::clone(inner));
        let meter = Arc::new(CpuMeter::default());
        let mut store = Store::new(&inner.engine, state(inner, inference, invocation, call, clock, &meter));
        store.limiter(|state| &mut state.limiter);
        let handles = usize::try_from(invocation.limits.handles_max).unwrap_or(usize::MAX);
        store.set_max_component_handles(handles);
        store.set_epoch_deadline(1);
        let (cpu, limit_ms) = (Arc::clone(&meter), invocation.limits.guest_cpu_ms_max);
        store.epoch_deadline_callback(move |_| {
            cpu.check(limit_ms)?;
            // Tokio's own yield lets timers and sockets be served before this guest runs on.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        let (sender, end) = oneshot::channel();
        let ending = Ending {
            call: Arc::clone(call),
            clock: clock.clone(),
            meter: Arc::clone(&meter),
            sender: Some(sender),
            place: Some(place),
        };
        let alive = Some(Alive { store, _ending: ending });
        Ok((Self { alive, call: Arc::clone(call), meter }, end))
    }

    /// The store.
    pub(crate) fn store(&mut self) -> &mut Store<GuestState> {
        &mut self.alive.as_mut().expect("taken only when dropped").store
    }

    /// Where its CPU time is counted.
    pub(crate) fn meter(&self) -> &Arc<CpuMeter> {
        &self.meter
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Before the store goes: its body ends with it and must know why.
        let _held = self.call.decide(Err(HostError::Cancelled));
        let Some(alive) = self.alive.take() else { return };
        let large = alive.store.data().limiter.memory_bytes() > LARGE_STORE_BYTES;
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if large => {
                // Not awaited: the end is told when the closure has run, or is dropped.
                let _detached = runtime.spawn_blocking(move || drop(alive));
            }
            _ => drop(alive),
        }
    }
}

/// Tenants take turns; whose prompts are gone on from is in `nn/generation`.
fn asker(invocation: &Invocation) -> Asker {
    let Invocation { tenant, deployment, key, grants, .. } = invocation;
    Asker::new(*tenant, *deployment, *key, grants.share_prefixes)
}

fn state(
    inner: &Inner,
    inference: &mayfly_inference::Inference,
    invocation: &Invocation,
    call: &Arc<Call>,
    clock: &Clock,
    meter: &Arc<CpuMeter>,
) -> GuestState {
    let limits = &invocation.limits;
    let mut table = wasmtime::component::ResourceTable::new();
    table.set_max_capacity(usize::try_from(limits.handles_max).unwrap_or(usize::MAX));
    let allowance = Allowance::new(limits.log_bytes_max);
    let output = |stream| GuestOutput::new(stream, Arc::clone(&invocation.log), Arc::clone(&allowance));
    // Nothing inherited: no environment, no arguments, no folders; sockets and name lookup are denied.
    let wasi = WasiCtx::builder()
        .stdout(output(LogStream::Stdout))
        .stderr(output(LogStream::Stderr))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .build();
    let mut http = WasiHttpCtx::new();
    let header_bytes = usize::try_from(limits.header_bytes_max).unwrap_or(usize::MAX);
    http.set_field_size_limit(header_bytes.saturating_add(FIELDS_OVERHEAD_BYTES));
    GuestState {
        table,
        wasi,
        http,
        hooks: Hooks { budget: Arc::clone(&invocation.budget), bodies: 0 },
        limiter: Limiter::new(limits.memory_bytes_max, limits.table_elements_max),
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
    }
}
