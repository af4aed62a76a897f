//! One loaded decoder that generates: its thread, what waits for it, and what others may know of it.
//!
//! An engine has a session of its own, so that generation and `wasi:nn` runs of one model never wait for each other;
//! weights are files that both map. Which engines exist, and for how long, is decided in [`crate::residency`].

mod inbox;
mod job;
mod sequence;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mayfly_scheduler::generation::{Load, Settings};
use rustix::process::{Resource, getrlimit};

use self::inbox::Inbox;
pub(crate) use self::inbox::NotTaken;
pub(in crate::generation) use self::job::Choice;
pub(crate) use self::job::{Job, Rejected};
use self::work::Worker;
use super::kv::Placement;
use super::runner::{Runner, RunnerLimits, runner};
use super::{EngineLoad, Generation};
use crate::session::{self, Loaded, Model, Options, Pool, Source};
use crate::{Batching, Config, DecoderInfo, DecoderLayout, Device, ElementType, LoadError, Resident};

/// Tokens that a sequence may be ahead of its reader.
pub(crate) const AHEAD_MAX: u32 = 16;
/// How long a prompt chunk may always take while others decode.
const STEP_TARGET: Duration = Duration::from_millis(25);

/// The node's limits for each engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineLimits {
    slots: u32,
    /// Whether this process may have no more addresses than memory, as one for a tenant's own models.
    addresses_count: bool,
    /// In host memory, and in a GPU's.
    kv_bytes_max: u64,
    cuda_kv_bytes_max: u64,
    waiting_max: u32,
    prefill_chunk_max: u32,
    stall: Duration,
}

impl EngineLimits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            slots: config.generation_slots,
            addresses_count: getrlimit(Resource::Data).current.is_some(),
            kv_bytes_max: config.generation_kv_bytes(Device::Cpu),
            cuda_kv_bytes_max: config.generation_kv_bytes(Device::Cuda),
            waiting_max: config.generation_waiting_max,
            prefill_chunk_max: config.generation_prefill_chunk_max,
            stall: Duration::from_millis(config.generation_stall_ms),
        }
    }

    fn kv_bytes_max(&self, device: Device) -> u64 {
        match device {
            Device::Cpu => self.kv_bytes_max,
            Device::Cuda => self.cuda_kv_bytes_max,
        }
    }

    /// The most bytes of attention state that an engine of `decoder` will have: as many as its slots hold, or as it may.
    pub(crate) fn kv_bytes(&self, decoder: &DecoderInfo, device: Device) -> u64 {
        let settings = self.settings(decoder, device);
        let tokens = u64::from(settings.kv_slots()).saturating_mul(settings.context_max.into());
        tokens.saturating_mul(token_bytes(decoder)).min(self.kv_bytes_max(device))
    }

    fn settings(&self, decoder: &DecoderInfo, device: Device) -> Settings {
        let kv_tokens_max = self.kv_bytes_max(device) / token_bytes(decoder).max(1);
        let mut settings = Settings {
            slots: self.slots,
            // No sequence can be longer than all of them together.
            context_max: u32::try_from(kv_tokens_max).unwrap_or(u32::MAX).min(decoder.context),
            kv_tokens_max,
            waiting_max: self.waiting_max,
            ahead_max: AHEAD_MAX,
            stall_after_ns: u64::try_from(self.stall.as_nanos()).unwrap_or(u64::MAX),
            prefill_chunk_max: self.prefill_chunk_max,
            step_target_ns: u64::try_from(STEP_TARGET.as_nanos()).unwrap_or(u64::MAX),
            batched: decoder.layout == DecoderLayout::GroupQuery
                && match decoder.batching {
                    Batching::Continuous => true,
                    Batching::ContinuousOnGpu => device == Device::Cuda,
                    Batching::OneAtATime => false,
                },
        };
        let whole = self.addresses_count || Placement::of(device) != Placement::Host;
        if whole && decoder.layout == DecoderLayout::GroupQuery {
            whole_slots(&mut settings);
        }
        settings
    }
}

/// Where memory, or what counts as such, is taken for whole slots, whatever is in them: fewer slots, so that each can hold
/// the context; where not even one and the slot to move through can, shorter ones.
fn whole_slots(settings: &mut Settings) {
    let whole = settings.kv_tokens_max / u64::from(settings.context_max.max(1));
    let whole = u32::try_from(whole).unwrap_or(u32::MAX).saturating_sub(u32::from(settings.batched));
    settings.slots = settings.slots.min(whole).max(1);
    let each = settings.kv_tokens_max / u64::from(settings.kv_slots());
    settings.context_max = settings.context_max.min(u32::try_from(each).unwrap_or(u32::MAX)).max(1);
}

/// Bytes of attention state for one position.
fn token_bytes(decoder: &DecoderInfo) -> u64 {
    let head_bytes = u64::from(decoder.head_size) * decoder.kv_type.size() as u64;
    head_bytes * u64::from(decoder.kv_heads) * decoder.past.len() as u64 * 2
}

/// Says why there is no generation with `decoder` on `device`, if there is none.
pub(crate) fn check_device(device: Device, decoder: &DecoderInfo) -> Result<(), LoadError> {
    let other = decoder.layout == DecoderLayout::GroupQuery && decoder.kv_type != ElementType::F16;
    if device == Device::Cuda && other {
        // The provider has no such kernel: ONNX Runtime would do this one operation on the CPU, and move all attention
        // state there and back at every step.
        return Err(LoadError::NoDevice {
            device: device.as_str(),
            reason: format!(
                "its attention state is {:?}, and GroupQueryAttention on `cuda` takes F16 (export it with `-p fp16` or \
                 `-p int4` and `-e cuda`)",
                decoder.kv_type
            ),
        });
    }
    Ok(())
}

/// One loaded decoder. Shared by everybody who generates with it.
#[derive(Debug)]
pub(crate) struct Engine {
    model: Model,
    inbox: Arc<Inbox>,
    gauges: Mutex<Gauges>,
    slots: u32,
    loaded: Instant,
    load: Duration,
    /// Resident bytes that the load added.
    bytes: u64,
    from_copy: bool,
}

/// What the thread tells of itself after each step.
#[derive(Debug, Clone, Copy, Default)]
struct Gauges {
    load: Load,
    /// Bytes of attention state and logits.
    bytes: u64,
    steps: u64,
    /// Of them, those that made a token for each of their rows, and these rows.
    decode_steps: u64,
    decode_rows: u64,
    /// Inside ONNX Runtime.
    run: Duration,
    /// Awake.
    busy: Duration,
}

/// Starts the thread that loads `model`, tells `ready`, and then generates until it is closed; at last it calls `gone`.
pub(crate) fn start(
    model: Model,
    decoder: DecoderInfo,
    options: Options,
    limits: EngineLimits,
    ready: impl FnOnce(Result<Arc<Engine>, LoadError>) + Send + 'static,
    gone: impl FnOnce(&Arc<Engine>) + Send + 'static,
) -> Result<(), LoadError> {
    let logits = (!decoder.last_position_only).then(|| decoder.logits.as_str().into());
    let pool = match Placement::of(model.device) {
        Placement::Host => Pool::Own,
        // The work is the device's; threads that spin meanwhile take time from others.
        Placement::Device(_) => Pool::Shared,
    };
    let options = Options { pool, logits, ..options };
    let name = format!("mayfly-gen-{}", &model.digest.hex()[..4]);
    let work = move || {
        // The binding, too, can panic on a model that it did not foresee.
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&model, &decoder, &options, limits)))
            .unwrap_or_else(|_| Err(LoadError::Failed { detail: "the load panicked".to_owned() }));
        match loaded {
            Ok((engine, runner, settings)) => {
                let engine = Arc::new(engine);
                ready(Ok(Arc::clone(&engine)));
                Worker::new(Arc::clone(&engine), runner, settings, decoder.eos).work();
                session::give_memory_back();
                tracing::info!(model = %engine.model.digest, "engine unloaded");
                gone(&engine);
            }
            Err(error) => {
                tracing::warn!(model = %model.digest, ?error, "a decoder could not be loaded");
                session::give_memory_back();
                ready(Err(error));
            }
        }
    };
    let started = thread::Builder::new().name(name).spawn(work);
    started.map(drop).map_err(|error| LoadError::Failed { detail: format!("no thread for it: {error}") })
}

/// An engine on a runner of a test.
#[cfg(test)]
pub(super) fn start_with(
    model: Model,
    decoder: &DecoderInfo,
    config: &Config,
    runner: impl FnOnce() -> Box<dyn Runner> + Send + 'static,
) -> Arc<Engine> {
    let settings = EngineLimits::new(config).settings(decoder, model.device);
    let engine = Arc::new(Engine::new(model, &settings, Duration::ZERO, 0, false));
    let (worker, eos) = (Arc::clone(&engine), decoder.eos.clone());
    thread::spawn(move || Worker::new(worker, runner(), settings, eos).work());
    engine
}

type Made = (Engine, Box<dyn Runner>, Settings);

fn load(model: &Model, decoder: &DecoderInfo, options: &Options, limits: EngineLimits) -> Result<Made, LoadError> {
    let Loaded { session, load, bytes, from_copy, last_position_only, .. } =
        session::load(model, options, Source::Best)?;
    let decoder =
        &DecoderInfo { last_position_only: decoder.last_position_only || last_position_only, ..decoder.clone() };
    tracing::info!(model = %model.digest, device = %model.device, ?load, bytes, copy = from_copy, "engine loaded");
    let settings = limits.settings(decoder, model.device);
    let limits = RunnerLimits {
        slots: settings.kv_slots(),
        context: settings.context_max,
        chunk_max: settings.prefill_chunk_max,
    };
    let placement = Placement::of(model.device);
    let runner =
        runner(session, decoder, placement, &options.library, limits).map_err(|detail| LoadError::Failed { detail })?;
    Ok((Engine::new(model.clone(), &settings, load, bytes, from_copy), runner, settings))
}

impl Engine {
    fn new(model: Model, settings: &Settings, load: Duration, bytes: u64, from_copy: bool) -> Self {
        Self {
            model,
            inbox: Arc::new(Inbox::new(settings.waiting_max)),
            gauges: Mutex::default(),
            slots: settings.slots,
            loaded: Instant::now(),
            load,
            bytes,
            from_copy,
        }
    }

    fn gauges(&self) -> MutexGuard<'_, Gauges> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a job to the thread; given back if it is not taken.
    pub(crate) fn submit(&self, job: Box<Job>) -> Result<(), (Box<Job>, NotTaken)> {
        self.inbox.submit(job)
    }

    /// The reader's end of `job`, once it is submitted here.
    pub(crate) fn generation(&self, job: &Job) -> Generation {
        Generation::new(Arc::clone(&job.shared), Arc::clone(&self.inbox) as _)
    }

    /// Takes no more work, and ends what it has.
    pub(crate) fn close(&self) {
        self.inbox.close();
    }

    /// Closes it if it was loaded at least `stay` ago and has been without work for `idle`.
    pub(crate) fn close_if_idle(&self, stay: Duration, idle: Duration) -> bool {
        self.loaded.elapsed() >= stay && self.inbox.close_if_idle(idle)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Since its last sequence ended; none while there are any.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.inbox.idle()
    }

    /// Whether it runs on the package though a prepacked copy could be had.
    pub(crate) fn wants_copy(&self) -> bool {
        self.model.copy.is_some() && !self.from_copy
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Bytes of its own that its load took, without attention state.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How busy it is.
    pub(crate) fn engine_load(&self) -> EngineLoad {
        let Gauges { load, bytes, steps, decode_steps, decode_rows, run, busy } = *self.gauges();
        EngineLoad {
            digest: self.model.digest,
            device: self.model.device,
            active: load.active,
            slots: self.slots,
            waiting: load.waiting,
            kv_tokens: load.kv_tokens,
            kv_tokens_max: load.kv_tokens_max,
            state_bytes: bytes,
            steps,
            decode_steps,
            decode_rows,
            run,
            busy,
        }
    }

    /// What operators see of it.
    pub(crate) fn resident(&self) -> Resident {
        let gauges = *self.gauges();
        Resident {
            digest: self.model.digest,
            device: self.model.device,
            idle: self.idle(),
            load: self.load,
            runs: gauges.steps,
            batches: gauges.steps,
            bytes: self.bytes.saturating_add(gauges.bytes),
            sessions: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_whole_slots_is_never_more_than_allowed() {
        let check = |slots, context_max, kv_tokens_max, batched, expect| {
            let mut settings = Settings {
                slots,
                context_max,
                kv_tokens_max,
                waiting_max: 1,
                ahead_max: AHEAD_MAX,
                stall_after_ns: 1,
                prefill_chunk_max: 1,
                step_target_ns: 1,
                batched,
            };
            whole_slots(&mut settings);
            let taken = u64::from(settings.kv_slots()) * u64::from(settings.context_max);
            assert!(taken <= kv_tokens_max, "{settings:?}");
            assert_eq!((settings.slots, settings.context_max), expect);
        };
        check(16, 1024, 1 << 20, true, (16, 1024));
        check(16, 32768, 349_525, true, (9, 32768));
        check(16, 131_072, 131_072, true, (1, 65_536));
        check(16, 131_072, 131_072, false, (1, 131_072));
        check(4, 128, 256, true, (1, 128));
        check(4, 128, 1, false, (1, 1));
    }
}
