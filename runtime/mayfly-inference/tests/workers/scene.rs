//! A node with processes for tenants' own models, and short ways to use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mayfly_inference::{
    Caller, Config, CopySettings, Device, ElementType, ImportPolicy, Inference, Output, Package, RunError, RunLimits,
    RunStats, Tensor, WorkerConfig, WorkerError, WorkerSettings, import,
};
use mayfly_types::ModelId;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::weights;

/// Two tenants.
pub(crate) const ONE: u128 = 1;
pub(crate) const TWO: u128 = 2;

pub(crate) type Ran = Result<(Vec<Output>, RunStats), RunError>;

pub(crate) struct Scene {
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub(crate) fn rooms(&self) -> PathBuf {
        self.folder.path().join("workers")
    }

    pub(crate) fn start(&self, config: WorkerConfig) -> Inference {
        self.start_with_child(config, std::env::current_exe().unwrap())
    }

    pub(crate) fn start_with_child(&self, config: WorkerConfig, child: PathBuf) -> Inference {
        self.start_with(Config::default(), config, child)
    }

    pub(crate) fn start_with(&self, node: Config, config: WorkerConfig, child: PathBuf) -> Inference {
        let settings = WorkerSettings { config, child: child.into(), folder: self.rooms() };
        Inference::start_with(Config { prepack: false, ..node }, None, Some(settings)).unwrap()
    }

    /// With prepacked copies of models beside the rooms.
    pub(crate) fn start_with_copies(&self, config: WorkerConfig) -> Inference {
        let child = std::env::current_exe().unwrap();
        let folder = self.folder.path().join("copies");
        let copies =
            CopySettings { folder, child: child.clone(), timeout: Duration::from_secs(60), bytes_max: 8 << 30 };
        let workers = WorkerSettings { config, child: child.into(), folder: self.rooms() };
        Inference::start_with(Config::default(), Some(copies), Some(workers)).unwrap()
    }

    /// A model with 64 MiB of weights, imported, with a prepacked copy if `inference` has such.
    pub(crate) fn heavy(&self, inference: &Inference) -> Arc<Package> {
        let (source, dest) = (self.folder.path().join("source-heavy"), self.folder.path().join("packages"));
        weights::write(&source);
        let policy = ImportPolicy { copies: inference.copies().cloned(), ..ImportPolicy::default() };
        let imported = import(&source, &dest, &policy, &std::env::current_exe().unwrap()).unwrap();
        Arc::new(Package::open(&dest.join(imported.digest.hex())).unwrap())
    }

    /// A model of the runtime's fixtures, imported.
    pub(crate) fn package(&self, name: &str) -> Arc<Package> {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
        let (source, dest) = (self.folder.path().join(format!("source-{name}")), self.folder.path().join("packages"));
        fs::create_dir_all(&source).unwrap();
        let file = [format!("runtime/{name}.onnx"), format!("{name}.onnx")].map(|file| models.join(file));
        let file = file.iter().find(|file| file.exists()).unwrap_or_else(|| panic!("no model {name}"));
        fs::copy(file, source.join("model.onnx")).unwrap();
        let imported = import(&source, &dest, &ImportPolicy::default(), &std::env::current_exe().unwrap()).unwrap();
        Arc::new(Package::open(&dest.join(imported.digest.hex())).unwrap())
    }

    /// A folder with a model, imported; `change` may alter a copy of it before.
    pub(crate) fn package_of(&self, folder: &str, change: impl FnOnce(&Path)) -> Arc<Package> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
        let (source, dest) = (self.folder.path().join("source-folder"), self.folder.path().join("packages"));
        fs::create_dir_all(&source).unwrap();
        for entry in fs::read_dir(&from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), source.join(entry.file_name())).unwrap();
        }
        change(&source);
        let imported = import(&source, &dest, &ImportPolicy::default(), &std::env::current_exe().unwrap()).unwrap();
        fs::remove_dir_all(&source).unwrap();
        Arc::new(Package::open(&dest.join(imported.digest.hex())).unwrap())
    }

    /// The chat model of the examples.
    pub(crate) fn chat_model(&self) -> Arc<Package> {
        self.package_of("examples/models/tiny-chat-genai", |_| {})
    }

    /// A program that is started instead of a worker.
    pub(crate) fn program(&self, script: &str) -> PathBuf {
        let path = self.folder.path().join("child.sh");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }
}

/// Settings with short times.
pub(crate) fn quick() -> WorkerConfig {
    WorkerConfig { intra_op_threads: 1, stop_ms_max: 500, pause_ms_min: 200, ..WorkerConfig::default() }
}

pub(crate) fn f32s(dimensions: &[u32], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::from_bytes(ElementType::F32, dimensions, &bytes).unwrap()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub(crate) type Inputs = Vec<(String, Tensor)>;

pub(crate) fn inputs(inputs: &[(&str, Tensor)]) -> Inputs {
    inputs.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
}

pub(crate) fn add(left: f32, right: f32) -> Inputs {
    inputs(&[("x", f32s(&[1], &[left])), ("y", f32s(&[1], &[right]))])
}

/// A run of `slow` that goes on for about as long as anybody lets it.
pub(crate) fn endless() -> Inputs {
    turns(i64::MAX / 2)
}

/// So many turns of `slow`.
pub(crate) fn turns(times: i64) -> Inputs {
    let times = Tensor::from_bytes(ElementType::I64, &[], &times.to_le_bytes()).unwrap();
    inputs(&[("times", times), ("start", f32s(&[64, 64], &[0.01; 64 * 64]))])
}

pub(crate) fn limits() -> RunLimits {
    RunLimits { output_bytes_max: 8 << 30, all_positions: false }
}

/// One run of a tenant, counted.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) inference: Inference,
    pub(crate) owner: u128,
    pub(crate) package: Arc<Package>,
    pub(crate) deadline: Duration,
    pub(crate) cancel: CancellationToken,
    begun: Arc<AtomicUsize>,
}

impl Run {
    pub(crate) fn of(inference: &Inference, owner: u128, package: &Arc<Package>) -> Self {
        Self {
            inference: inference.clone(),
            owner,
            package: Arc::clone(package),
            deadline: Duration::from_secs(60),
            cancel: CancellationToken::new(),
            begun: Arc::default(),
        }
    }

    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// How often it began.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(crate) async fn go(&self, inputs: Inputs) -> Ran {
        let prepared = self.package.prepare(ModelId::new(), inputs, limits()).unwrap();
        let begun = Arc::clone(&self.begun);
        let started = move || {
            begun.fetch_add(1, Ordering::SeqCst);
        };
        let deadline = Instant::now() + self.deadline;
        let caller = Caller { owner: self.owner, deadline, cancel: &self.cancel };
        self.inference.run_apart(&self.package, Device::Cpu, prepared, caller, started).await
    }

    /// As [`Self::go`], beside what the caller does.
    pub(crate) fn spawn(&self, inputs: Inputs) -> tokio::task::JoinHandle<Ran> {
        let run = self.clone();
        tokio::spawn(async move { run.go(inputs).await })
    }
}

/// The tenant's process, if it has one.
pub(crate) fn pid(inference: &Inference, owner: u128) -> Option<u32> {
    inference.workers().workers.iter().find(|worker| worker.owner == owner).map(|worker| worker.pid)
}

pub(crate) fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// Whether there is such a process, be it a zombie.
pub(crate) fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// When a crashed process may be tried again.
#[track_caller]
pub(crate) fn retry_ms(ran: &Ran) -> u64 {
    match ran {
        Err(RunError::Worker(error @ (WorkerError::Crashed { .. } | WorkerError::Resting { .. }))) => {
            error.retry_after_ms().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// Waits as long as the error says.
pub(crate) async fn rest(ran: &Ran) {
    tokio::time::sleep(Duration::from_millis(retry_ms(ran))).await;
}
