//! Making a session out of a package's model file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_scheduler::batching::{Settings, Team};
use mayfly_types::Digest;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider as _};
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, ValueType};
use serde_json::json;

use super::folding::{FOLDED_BYTES_MAX, folded_bytes_max};
use crate::copies::Copies;
use crate::library::{Library, SmallPages};
use crate::package::last_position_only;
use crate::residency::Weights;
use crate::{Config, Device, DimensionInfo, ElementType, LoadError, Package};

/// From this size on a copy takes some fifty milliseconds to load; a mapping of the files as they are takes ten.
const LARGE_COPY_BYTES: u64 = 128 << 20;

/// A larger graph has its weights in it, and is loaded as it is: another one would be built of it in memory.
const GRAPH_BYTES_MAX: u64 = 64 << 20;

/// The model to load.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) digest: Digest,
    /// The graph's file. Its external data lies beside it.
    pub(crate) file: PathBuf,
    pub(crate) device: Device,
    /// Whether every input has one shape only.
    pub(crate) fixed_shapes: bool,
    /// How much there is to do in a run follows from the sizes of its inputs.
    pub(crate) steady: bool,
    /// What a prepacked copy is made of; none has no copy.
    pub(crate) copy: Option<CopySource>,
    /// Sizes of its files.
    pub(crate) weights: Weights,
    /// It can run on its files as they are until there is a prepacked copy: its weights are f32 and lie beside the graph.
    pub(crate) wakes_plain: bool,
}

/// A package, as far as making a copy of it needs.
#[derive(Debug, Clone)]
pub(crate) struct CopySource {
    pub(crate) folder: Arc<Path>,
    /// Bytes of the graph and the data beside it.
    pub(crate) weight_bytes: u64,
}

impl Model {
    /// A file that belongs to no package.
    pub(super) fn of_file(file: PathBuf) -> Self {
        let (digest, weights) = (Digest::of(b"probe"), Weights::default());
        Self {
            digest,
            file,
            device: Device::Cpu,
            fixed_shapes: false,
            steady: false,
            copy: None,
            weights,
            wakes_plain: false,
        }
    }
}

impl Package {
    /// This package as a session to be made on `device`.
    pub(crate) fn model(&self, device: Device) -> Model {
        let fixed = |dimension: &DimensionInfo| matches!(dimension, DimensionInfo::Fixed(_));
        let fixed_shapes = self.info().inputs.iter().all(|input| input.dimensions.iter().all(fixed));
        // Weights are packed for the CPU provider only.
        let copy = (device == Device::Cpu).then(|| self.copy_source());
        let (digest, weights) = (self.digest(), self.weights());
        let wakes_plain = copy.is_some() && self.description().floats && weights.beside > weights.graph;
        Model {
            digest,
            file: self.graph_path(),
            device,
            fixed_shapes,
            steady: self.is_steady(),
            copy,
            weights,
            wakes_plain,
        }
    }
}

/// How sessions are made here.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) library: Library,
    /// Threads that work on one run.
    pub(crate) threads: usize,
    /// Limits of each executor's queue and of what is joined.
    pub(crate) batching: Settings,
    /// Which of an executor's sessions work at the same time.
    pub(crate) team: Team,
    /// Runs known to be no longer than this are done on the thread that asks; none never are.
    pub(crate) inline: Option<Duration>,
    /// This node's prepacked copies.
    pub(crate) copies: Option<Copies>,
    pub(crate) pool: Pool,
    /// Of a decoder that generates: its logits, of which only the last position is wanted.
    pub(crate) logits: Option<Arc<str>>,
}

/// Whose threads work on a session's runs, beside the one that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// The environment's, which all sessions share and which never spin.
    Shared,
    /// The session's own. Between two steps of a run they spin, and once it has ended they sleep: a decode step is some
    /// hundred short operations one after the other, and waking a thread for each takes a sixth of its time.
    Own,
}

impl Options {
    /// Whether `model` is to run on its files as they are until it goes over to its prepacked copy: one that will be made,
    /// or one so large that loading it takes longer than a first run may wait.
    pub(crate) fn wakes_plain(&self, model: &Model) -> bool {
        let Some(source) = model.copy.as_ref().filter(|_| model.wakes_plain) else { return false };
        let bytes = source.weight_bytes;
        self.copies.as_ref().is_some_and(|copies| {
            copies.will_make(model.digest, bytes) || (bytes >= LARGE_COPY_BYTES && copies.has(model.digest))
        })
    }

    /// For a process that only loads a file and ends.
    pub(crate) fn plain(config: &Config) -> Result<Self, String> {
        let threads = config.threads();
        let library = crate::library::open(config, threads).map_err(|error| error.to_string())?;
        let (batching, team) = (config.batching(), config.team());
        Ok(Self { library, threads, batching, team, inline: None, copies: None, pool: Pool::Shared, logits: None })
    }
}

/// Which file a session may be made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The prepacked copy, or the package where there is none.
    Best,
    /// As [`Self::Best`], but where a copy will be made soon, or is so large that it takes a while, the package's files as
    /// they are, with no weight packed: loaded in milliseconds, and somewhat slower to run until the copy is there.
    Soonest,
    /// The prepacked copy only: a session on the package is there already.
    Copy,
}

/// A session and what its load took.
pub(crate) struct Loaded {
    pub(crate) session: Session,
    pub(crate) load: Duration,
    /// Of its own: pages of mapped files are not in it.
    pub(crate) bytes: u64,
    /// Whether it runs on a prepacked copy.
    pub(crate) from_copy: bool,
    /// Whether it runs on the package's files with no weight packed.
    pub(crate) unpacked: bool,
    /// Whether it gives logits of the last position only, as [`Options::logits`] wants.
    pub(crate) last_position_only: bool,
}

/// Says why `device` cannot be used, if it cannot.
pub(crate) fn check_device(library: &Library, device: Device) -> Result<(), LoadError> {
    let providers = &library.info.providers;
    if device == Device::Cuda && !providers.iter().any(|name| name == CUDA::NAME) {
        return Err(LoadError::NoDevice {
            device: device.as_str(),
            reason: format!(
                "this host's ONNX Runtime {} has only {}; the CUDA build has {}",
                library.info.version,
                providers.join(", "),
                CUDA::NAME
            ),
        });
    }
    Ok(())
}

/// Loads `model`. Blocking, and slow for large models.
pub(crate) fn load(model: &Model, options: &Options, source: Source) -> Result<Loaded, LoadError> {
    check_device(&options.library, model.device)?;
    let _pages = SmallPages::hold();
    let plain = source == Source::Soonest && options.wakes_plain(model);
    if plain {
        return load_file(model, &model.file, options, false);
    }
    if model.copy.is_some()
        && let Some(copies) = &options.copies
        && let Some(file) = copies.find(model.digest)
    {
        match load_file(model, &file, options, true) {
            Ok(loaded) => return Ok(Loaded { from_copy: true, ..loaded }),
            Err(LoadError::Failed { detail }) => copies.discard(model.digest, &detail),
            Err(error) => return Err(error),
        }
    }
    match source {
        Source::Soonest | Source::Best => load_file(model, &model.file, options, true),
        Source::Copy => Err(LoadError::Failed { detail: "it has no prepacked copy that can be used".to_owned() }),
    }
}

/// Makes a session of `file`, which is `model`'s own or a copy of it. `pack`: weights are packed for the CPU where they are
/// not yet.
pub(super) fn load_file(model: &Model, file: &Path, options: &Options, pack: bool) -> Result<Loaded, LoadError> {
    let before = own_bytes();
    let began = Instant::now();
    let (session, last_position_only) = session(model, file, options, pack).map_err(|error| match model.device {
        Device::Cpu => LoadError::Failed { detail: error.to_string() },
        // The provider is compiled in. Where it cannot take any graph, that is about this machine. Never the CPU instead.
        Device::Cuda => match super::identity(model.device, &options.library) {
            Ok(_) => LoadError::Failed { detail: error.to_string() },
            Err(device) => {
                let reason = super::run::readable(device.message());
                LoadError::NoDevice { device: model.device.as_str(), reason }
            }
        },
    })?;
    check_outlets("input", session.inputs())?;
    check_outlets("output", session.outputs())?;
    let load = began.elapsed();
    let bytes = own_bytes().saturating_sub(before);
    Ok(Loaded { session, load, bytes, from_copy: false, unpacked: !pack, last_position_only })
}

fn session(model: &Model, file: &Path, options: &Options, pack: bool) -> ort::Result<(Session, bool)> {
    let builder = || -> ort::Result<SessionBuilder> {
        let builder = session_builder(model, options)?;
        if pack { Ok(builder) } else { Ok(builder.with_config_entry("session.disable_prepacking", "1")?) }
    };
    if let Some(graph) = options.logits.as_deref().and_then(|logits| last_position(file, logits)) {
        let folder = file.parent().unwrap_or(Path::new(".")).to_string_lossy();
        let mut builder =
            builder()?.with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
        match builder.commit_from_memory(&graph) {
            Ok(session) => return Ok((session, true)),
            // Nothing is lost but time: the graph as it is gives the same and more.
            Err(error) => {
                let error = super::run::readable(error.message());
                tracing::warn!(model = %model.digest, error, "its logits could not be cut to the last position");
            }
        }
    }
    Ok((builder()?.commit_from_file(file)?, false))
}

/// The graph in `file` cut to the last position of its logits, if it can be.
fn last_position(file: &Path, logits: &str) -> Option<Vec<u8>> {
    if std::fs::metadata(file).ok()?.len() > GRAPH_BYTES_MAX {
        return None;
    }
    last_position_only(&std::fs::read(file).ok()?, logits).ok()?
}

/// The options of every session of `model`.
pub(super) fn session_builder(model: &Model, options: &Options) -> ort::Result<SessionBuilder> {
    let mut builder = Session::builder(&options.library.environment)?
        .with_log_id(model.digest.to_string())?
        // Weights do not go through the arena, which would round them up to powers of two and keep them.
        .with_device_allocated_initializers()?
        // A pattern is remembered for every combination of shapes ever seen; where callers choose the shapes that has no end.
        .with_memory_pattern(model.fixed_shapes)?
        .with_config_entry(FOLDED_BYTES_MAX, folded_bytes_max(&model.file).to_string())?;
    let spins = options.pool == Pool::Own;
    // Another server in this process may have opened the library with another number.
    if spins || options.threads != options.library.pool_threads {
        builder = builder
            .with_independent_thread_pool()?
            .with_intra_threads(options.threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(spins)?
            .with_inter_op_spinning(false)?;
    }
    if spins {
        // Without it they go on for a while after the run, on somebody else's time.
        builder = builder.with_config_entry("session.force_spinning_stop", "1")?;
    }
    on_device(builder, model.device)
}

/// Puts a session on `device`, or fails.
pub(super) fn on_device(builder: SessionBuilder, device: Device) -> ort::Result<SessionBuilder> {
    match device {
        Device::Cpu => Ok(builder),
        Device::Cuda => {
            let provider = CUDA::default()
                .with_device_id(0)
                // By default its memory grows in powers of two, and a session may hold twice what it uses.
                .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
                // By default each shape of a convolution that has not been seen is tried with every algorithm there is.
                .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
            Ok(builder.with_execution_providers([provider.build().error_on_failure()])?)
        }
    }
}

/// Everything that goes in and out must be a tensor of a type we know.
fn check_outlets(what: &str, outlets: &[Outlet]) -> Result<(), LoadError> {
    for outlet in outlets {
        let known = outlet.dtype().tensor_type().and_then(ElementType::from_runtime);
        if known.is_none() {
            let detail = format!("{what} `{}` is {}, which is not supported", outlet.name(), outlet.dtype());
            return Err(LoadError::Failed { detail });
        }
    }
    Ok(())
}

/// Loads the model file `model` once and gives the session, and what the library says of its inputs and outputs, as JSON:
/// `{"inputs":[{"name":"x","type":"f32","dimensions":[1,"batch",null]}],"outputs":[..]}`.
///
/// For the child process of an import: a model that kills the library kills only that.
pub(crate) fn probe_load(model: &Path, config: &Config) -> Result<(Session, String), String> {
    let options = Options::plain(config)?;
    let model = Model::of_file(model.to_owned());
    let session = load_file(&model, &model.file, &options, true).map_err(|error| match error {
        LoadError::Failed { detail } => super::run::readable(&detail),
        other => other.to_string(),
    })?;
    let session = session.session;
    let describe = |outlets: &[Outlet]| outlets.iter().map(describe).collect::<Vec<_>>();
    let text = json!({"inputs": describe(session.inputs()), "outputs": describe(session.outputs())}).to_string();
    Ok((session, text))
}

pub(super) fn describe(outlet: &Outlet) -> serde_json::Value {
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return json!({"name": outlet.name()});
    };
    let dimensions: Vec<_> = shape
        .iter()
        .enumerate()
        .map(|(place, &size)| match dimension_symbols.get(place) {
            _ if size >= 0 => json!(size),
            Some(symbol) if !symbol.is_empty() => json!(symbol),
            _ => json!(null),
        })
        .collect();
    json!({"name": outlet.name(), "type": ElementType::from_runtime(*ty), "dimensions": dimensions})
}

/// Resident bytes of the process now that are no file's pages. Other work of the process is in it too: a measure, not an
/// account.
fn own_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
