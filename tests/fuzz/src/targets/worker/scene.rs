//! A node whose workers play scripts, a tenant's models, and what is asked of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mayfly_inference::{
    Chat, DimensionInfo, ElementType, FalseWorker, ImportPolicy, Inference, Package, Prompt, Role, SandboxPolicy,
    Tensor, WorkerChild, WorkerConfig, WorkerSettings, import,
};
use serde_json::{Map, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::call::{Asked, Call, Went};
use super::script::Script;
use super::speaker::{Part, Stage};

/// What may lie between the two sides. Outputs may be larger, so that some do not fit.
const SHARED_BYTES_MAX: u64 = 1 << 20;
pub(crate) const OUTPUT_BYTES_MAX: u64 = 2 << 20;
/// How long anything that is over may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Until the worker has heard of one call, before the next is made.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

pub(crate) struct Scene {
    pub(crate) inference: Inference,
    pub(crate) models: Models,
    stage: Arc<Stage>,
    folder: TempDir,
    /// Each script has a tenant of its own, who does not wait for another's crash.
    owners: AtomicU64,
}

/// What the tenant brought.
#[derive(Clone)]
pub(crate) struct Models {
    add: Arc<Package>,
    types: Arc<Package>,
    pub(crate) decoder: Arc<Package>,
}

impl Scene {
    pub(crate) fn new(root: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let stage = Arc::new(Stage::default());
        let speaker = Arc::clone(&stage);
        let settings = WorkerSettings {
            config: WorkerConfig {
                idle_ms: 50,
                shared_bytes_max: SHARED_BYTES_MAX,
                intra_op_threads: 1,
                start_ms_max: 2_000,
                stop_ms_max: 10,
                pause_ms_min: 1,
                pause_ms_max: 1,
                sandbox: SandboxPolicy::BestEffort,
                ..WorkerConfig::default()
            },
            child: WorkerChild::False(FalseWorker::new(move |socket| speaker.play(socket))),
            folder: folder.path().join("workers"),
        };
        let config = mayfly_inference::Config { prepack: false, ..mayfly_inference::Config::default() };
        let inference = Inference::start_with(config, None, Some(settings))?;
        let fixtures = root.join("tests/fixtures/models");
        let of = |name: &str| package(&fixtures.join(name), folder.path());
        let models =
            Models { add: of("runtime/add.onnx")?, types: of("runtime/types.onnx")?, decoder: of("decoder_optimum")? };
        Ok(Self { inference, models, stage, folder, owners: AtomicU64::new(1) })
    }

    /// Plays a script: asks what it says, lets its worker speak, and looks at what came of it. `patient` waits for long.
    ///
    /// # Errors
    /// A rule that was broken.
    pub(crate) async fn play(&self, script: Script, patient: bool) -> Result<Vec<Went>, String> {
        let (orders, mut heard) = watch::channel(0);
        let leave = CancellationToken::new();
        let asked = Asked::of(script.asked);
        let manner = script.manner;
        self.stage.set(Part { script, orders, leave: leave.clone() });
        let owner = u128::from(self.owners.fetch_add(1, Ordering::Relaxed));
        let mut calls = Vec::new();
        for (what, number) in asked.iter().zip(0_u32..) {
            // In this order, so that the same script means the same each time.
            let before = heard.wait_for(|orders| *orders >= number);
            let _ = tokio::time::timeout(HEARD_WITHIN, before).await;
            let call = Call {
                what: *what,
                manner,
                patient,
                owner,
                leave: leave.clone(),
                inference: self.inference.clone(),
                models: self.models.clone(),
            };
            calls.push(tokio::spawn(call.make()));
        }
        let mut went = Vec::new();
        for call in calls {
            went.push(call.await.map_err(|error| format!("a call that panicked: {error}"))??);
        }
        self.gone().await?;
        went.iter().try_for_each(Went::check_settled)?;
        Ok(went)
    }

    /// Waits until nothing of a process is left.
    async fn gone(&self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let workers = self.inference.workers().workers.len();
            let rooms = fs::read_dir(self.folder.path().join("workers")).map_or(0, Iterator::count);
            if workers + rooms == 0 {
                return Ok(());
            }
            if begin.elapsed() > GONE_WITHIN {
                return Err(format!("a worker that is not gone: {workers} in the list, {rooms} folders"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The model at `path`, imported into `folder`.
fn package(path: &Path, folder: &Path) -> anyhow::Result<Arc<Package>> {
    let dest = folder.join("packages");
    fs::create_dir_all(&dest)?;
    let imported = import(path, &dest, &ImportPolicy::default(), &std::env::current_exe()?)
        .with_context(|| format!("importing {}", path.display()))?;
    Ok(Arc::new(Package::open(&dest.join(imported.digest.hex()))?))
}

pub(crate) type Inputs = Vec<(String, Tensor)>;

impl Models {
    /// Two small vectors; `large` ones do not fit into a packet.
    pub(crate) fn sum(&self, large: bool) -> anyhow::Result<(Arc<Package>, Inputs)> {
        let length = if large { 3_000 } else { 1 };
        let vector = || Tensor::from_bytes(ElementType::F32, &[length], &vec![0; length as usize * 4]);
        Ok((Arc::clone(&self.add), vec![("x".to_owned(), vector()?), ("y".to_owned(), vector()?)]))
    }

    /// One of each element type.
    pub(crate) fn all_types(&self) -> anyhow::Result<(Arc<Package>, Inputs)> {
        let tensor = |input: &mayfly_inference::TensorInfo| {
            let bytes = vec![0; input.element_type.size() * 2];
            Ok((input.name.clone(), Tensor::from_bytes(input.element_type, &[2], &bytes)?))
        };
        Ok((Arc::clone(&self.types), self.types.info().inputs.iter().map(tensor).collect::<anyhow::Result<_>>()?))
    }

    /// Three positions of one row, from an empty state: all outputs are wanted, the logits cut.
    pub(crate) fn first_step(&self) -> anyhow::Result<(Arc<Package>, Inputs)> {
        Ok((Arc::clone(&self.decoder), self.step(0, &[1, 2, 3], &[])?))
    }

    /// Inputs for `ids` after `past` positions, of which `states` is what the graph's outputs were.
    pub(crate) fn step(&self, past: i64, ids: &[i64], states: &[Tensor]) -> anyhow::Result<Inputs> {
        let mut states = states.iter();
        let mut inputs = Vec::new();
        for input in &self.decoder.info().inputs {
            let row = |numbers: Vec<i64>| {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Tensor::from_bytes(ElementType::I64, &[1, u32::try_from(numbers.len()).unwrap_or_default()], &bytes)
            };
            let to = past + i64::try_from(ids.len())?;
            let tensor = match input.role {
                Role::Ids => row(ids.to_vec())?,
                Role::Mask => row((0..to).map(|_| 1).collect())?,
                Role::Positions => row((past..to).collect())?,
                _ if past > 0 => states.next().context("a state for each input")?.clone(),
                _ => {
                    let size = |dimension: &DimensionInfo| match dimension {
                        DimensionInfo::Fixed(size) => *size,
                        DimensionInfo::Named(name) if name.contains("batch") => 1,
                        _ => 0,
                    };
                    let dimensions: Vec<u32> = input.dimensions.iter().map(size).collect();
                    Tensor::from_bytes(input.element_type, &dimensions, &[])?
                }
            };
            inputs.push((input.name.clone(), tensor));
        }
        Ok(inputs)
    }
}

pub(crate) fn chat() -> Prompt {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    Prompt::Chat(Chat { messages, tools: None, extra: Map::new(), add_generation_prompt: true })
}
