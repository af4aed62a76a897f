//! A store in a temporary folder, and compile and import tools that keep count.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use mayfly_host::{CodeError, CompileError, ComponentInfo};
use mayfly_inference::{ImportError, Imported, KeepError, ModelInfo, Needs, Reservation};
use mayfly_registry::*;
use mayfly_store::Store;
use mayfly_types::*;

/// Takes every component that does not begin with `bad` and every model folder with a file `model.onnx`.
#[derive(Debug, Default)]
pub(crate) struct CountingTools {
    code: Mutex<HashSet<Digest>>,
    pub(crate) copies: Mutex<HashSet<Digest>>,
    pub(crate) compiles: AtomicU32,
    /// What is kept, for whom.
    pub(crate) kept: Mutex<HashMap<Keeper, Granted>>,
    /// What is loaded, as far as anybody asks.
    pub(crate) loaded: Mutex<HashSet<(Digest, Device)>>,
    /// The most models of one keeper that are kept.
    pub(crate) kept_models_max: AtomicUsize,
    pub(crate) touches: AtomicU32,
}

impl CountingTools {
    pub(crate) fn compiled(&self, digest: Digest) {
        self.code.lock().unwrap().insert(digest);
    }

    fn of(&self, derived: Derived) -> &Mutex<HashSet<Digest>> {
        match derived {
            Derived::Code => &self.code,
            Derived::Copy => &self.copies,
        }
    }

    pub(crate) fn lose_code(&self) {
        self.code.lock().unwrap().clear();
    }
}

#[async_trait]
impl Tools for CountingTools {
    fn changed(&self, _deployment: mayfly_types::DeploymentId) {}

    fn has_code(&self, digest: Digest) -> bool {
        self.code.lock().unwrap().contains(&digest)
    }

    async fn compile(&self, wasm: &Path, digest: Digest) -> Result<ComponentInfo, CompileError> {
        let bytes = std::fs::read(wasm).unwrap();
        assert_eq!(Digest::of(&bytes), digest);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if bytes.starts_with(b"bad") {
            return Err(CompileError::Refused("not a component".to_owned()));
        }
        self.compiles.fetch_add(1, Ordering::SeqCst);
        self.code.lock().unwrap().insert(digest);
        Ok(ComponentInfo { imports: Vec::new(), exports: Vec::new(), bytes: bytes.len() as u64, code_bytes: 1 })
    }

    async fn stored(&self, derived: Derived) -> std::io::Result<Vec<Digest>> {
        Ok(self.of(derived).lock().unwrap().iter().copied().collect())
    }

    async fn remove(&self, derived: Derived, digest: Digest) -> std::io::Result<()> {
        self.of(derived).lock().unwrap().remove(&digest);
        Ok(())
    }

    async fn fit(&self, _granted: &Granted) -> Result<(), ToolError> {
        Ok(())
    }

    async fn needs(&self, _model: &Model, _folder: &Path) -> Result<Vec<Needs>, ToolError> {
        Ok(Vec::new())
    }

    async fn reserve(&self, _keeper: &Keeper, granted: &Granted) -> Result<Option<Reservation>, ToolError> {
        if granted.models.len() > self.kept_models_max.load(Ordering::SeqCst) {
            Err(KeepError::Never.into())
        } else {
            Ok(None)
        }
    }

    async fn keep(&self, keeper: &Keeper, granted: &Granted) -> Result<(), ToolError> {
        let done = self.reserve(keeper, granted).await.map(drop);
        let mut kept = self.kept.lock().unwrap();
        match done {
            Ok(()) => drop(kept.insert(keeper.clone(), granted.clone())),
            Err(_) => drop(kept.remove(keeper)),
        }
        done
    }

    fn let_go(&self, keeper: &Keeper) {
        self.kept.lock().unwrap().remove(keeper);
    }

    fn is_loaded(&self, package: Digest, device: Device) -> bool {
        self.loaded.lock().unwrap().contains(&(package, device))
    }

    async fn touch(&self, _handler: Digest) -> Result<(), CodeError> {
        self.touches.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn import(&self, source: &Path, dest: &Path) -> Result<Imported, ImportError> {
        let Ok(bytes) = std::fs::read(source.join("model.onnx")) else {
            return Err(ImportError::Refused("there is no `.onnx` file".to_owned()));
        };
        let digest = Digest::of(&bytes);
        let folder = dest.join(digest.hex());
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("model.onnx"), bytes)?;
        self.copies.lock().unwrap().insert(digest);
        Ok(Imported { digest, info: info() })
    }
}

pub(crate) fn info() -> ModelInfo {
    ModelInfo {
        inputs: Vec::new(),
        outputs: Vec::new(),
        has_tokenizer: false,
        vocab_size: Some(30_522),
        max_tokens: None,
        pad_id: Some(0),
        properties: vec![("pooling".to_owned(), "mean".to_owned())],
        bytes: 5,
        decoder: None,
    }
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) tools: Arc<CountingTools>,
    pub(crate) control: Control,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn stream(bytes: &[u8]) -> BoxStream<'static, Result<Bytes, ArtifactError>> {
    let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(pieces).boxed()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tools = Arc::new(CountingTools::default());
        let builtins = BTreeMap::from([("echo".to_owned(), Bytes::from_static(b"the echo component"))]);
        let control =
            Control::with_tools(store.records(), store.artifacts(), tools.clone(), builtins).configure(config);
        Self { folder, store, tools, control }
    }

    pub(crate) async fn project(&self, text: &str) -> Project {
        let tenant = self.control.create_tenant(name(text)).await.unwrap();
        self.control.create_project(tenant.id, name(text)).await.unwrap()
    }

    pub(crate) async fn deploy(&self, project: &Project, text: &str, bytes: &[u8]) -> Result<Deployed, ControlError> {
        let (digest, _) = self.control.upload(project.id, stream(bytes)).await?;
        self.control.deploy(request(project, text, HandlerSource::Stored(digest))).await
    }

    /// As if the last upload were long ago.
    pub(crate) async fn forget_uploads(&self) {
        self.store.records().forget_uploads(i64::MAX).await.unwrap();
    }

    /// A staged folder with one model file.
    pub(crate) fn staged_model(&self, bytes: &[u8]) -> std::path::PathBuf {
        let folder = self.store.artifacts().staging().join(format!("up-{}", RequestId::new()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), bytes).unwrap();
        folder
    }
}

pub(crate) fn request(project: &Project, text: &str, handler: HandlerSource) -> DeployRequest {
    DeployRequest {
        project: project.id,
        name: name(text),
        handler,
        models: BTreeMap::new(),
        config: BTreeMap::new(),
        limits: GuestLimits::default(),
        filter: Default::default(),
        share_prefixes: false,
        scale: Default::default(),
    }
}

/// A key for calls of `project`.
pub(crate) fn call_key(project: &Project) -> KeyRequest {
    KeyRequest {
        tenant: Some(project.tenant),
        project: Some(project.id),
        label: "k".to_owned(),
        scopes: vec![KeyScope::Call],
        ..KeyRequest::default()
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 10 s");
}
