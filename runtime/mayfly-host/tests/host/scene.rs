//! A host on a folder of its own, and calls to it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use mayfly_host::{BodyError, CompileError, ComponentInfo, Config, Grants, Host, HostError, Invocation};
use mayfly_host::{KeyValue, KeyValueError, KeyValueLimits, KeyValuePage};
use mayfly_host::{LogLine, LogSink, RunEnd, Running, Timings};
use mayfly_inference::Inference;
use mayfly_types::{Budget, DeploymentId, Digest, GuestLimits, HoldId, KeyId, Line, Refusal, RefusalKind, TenantId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// What guests wrote.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Vec<String>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl LogSink for Log {
    fn line(&self, line: LogLine) {
        self.0.lock().unwrap().push(line.text);
    }
}

/// No model is granted here, so nobody asks. Counts what it is told of answers.
#[derive(Debug, Default)]
pub(crate) struct NoBudget(AtomicUsize);

impl NoBudget {
    /// Bytes that guests have written.
    pub(crate) fn told(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Budget for NoBudget {
    fn hold<'a>(&'a self, _lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>> {
        let refusal = Refusal { kind: RefusalKind::Closed, message: "no budget".to_owned(), retry_after_ms: None };
        async { Err(refusal) }.boxed()
    }

    fn charge(&self, _hold: HoldId, _lines: &[Line]) {}

    fn release(&self, _hold: HoldId) {}

    fn answers(&self, body: u32, bytes: usize) {
        assert_eq!(body, 0, "no guest of these tests writes to two");
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// No guest of these tests stores anything.
#[derive(Debug)]
pub(crate) struct NoData;

impl NoData {
    fn none<T>() -> Result<T, KeyValueError> {
        Err(KeyValueError::Failed { detail: "no store".to_owned() })
    }
}

#[async_trait]
impl KeyValue for NoData {
    async fn get_many(&self, _: DeploymentId, _: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        Self::none()
    }

    async fn set_many(
        &self,
        _: DeploymentId,
        _: Vec<(String, Vec<u8>)>,
        _: KeyValueLimits,
    ) -> Result<(), KeyValueError> {
        Self::none()
    }

    async fn delete_many(&self, _: DeploymentId, _: Vec<String>) -> Result<(), KeyValueError> {
        Self::none()
    }

    async fn exists(&self, _: DeploymentId, _: String) -> Result<bool, KeyValueError> {
        Self::none()
    }

    async fn list_keys(&self, _: DeploymentId, _: Option<u64>, _: u32) -> Result<KeyValuePage, KeyValueError> {
        Self::none()
    }

    async fn increment(&self, _: DeploymentId, _: String, _: u64, _: KeyValueLimits) -> Result<u64, KeyValueError> {
        Self::none()
    }
}

pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) inference: Inference,
    pub(crate) folder: TempDir,
    pub(crate) log: Arc<Log>,
    pub(crate) limits: GuestLimits,
    pub(crate) budget: Arc<NoBudget>,
    pub(crate) cancel: CancellationToken,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What came of the body, and how it ended.
    pub(crate) body: Vec<u8>,
    pub(crate) body_end: Result<(), HostError>,
    pub(crate) end: RunEnd,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(Config { instances_max: 8, ..Config::default() })
    }

    pub(crate) fn with(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::start(config, folder.path().join("code"), std::env::current_exe().unwrap(), Arc::new(NoData))
            .unwrap();
        let inference = Inference::start(mayfly_inference::Config::default()).unwrap();
        let limits = GuestLimits::default();
        let cancel = CancellationToken::new();
        Self { host, inference, folder, log: Arc::default(), limits, budget: Arc::default(), cancel }
    }

    pub(crate) fn code_folder(&self) -> PathBuf {
        self.folder.path().join("code")
    }

    pub(crate) async fn compile(&self, wasm: &[u8]) -> Result<(ComponentInfo, Digest), CompileError> {
        let digest = Digest::of(wasm);
        let path = self.folder.path().join(digest.hex());
        std::fs::write(&path, wasm).unwrap();
        Ok((self.host.compile(&path, digest).await?, digest))
    }

    pub(crate) async fn invocation(&self, digest: Digest, request: http::Request<&'static str>) -> Invocation {
        let body = |text: &'static str| -> UnsyncBoxBody<Bytes, BodyError> {
            Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
        };
        Invocation {
            code: self.host.code(digest).await.unwrap().0,
            request: request.map(body),
            deployment: DeploymentId::new(),
            tenant: TenantId::new(),
            key: KeyId::new(),
            grants: Arc::new(Grants::default()),
            limits: Arc::new(self.limits.clone()),
            budget: Arc::clone(&self.budget) as _,
            deadline: Instant::now() + Duration::from_millis(self.limits.deadline_ms_max),
            cancel: self.cancel.child_token(),
            log: Arc::clone(&self.log) as _,
            reuse: None,
        }
    }

    /// Compiles `wasm` and sends it a request.
    pub(crate) async fn start(&self, wasm: &[u8]) -> Result<Running, (HostError, Timings)> {
        self.send(wasm, get()).await
    }

    pub(crate) async fn send(
        &self,
        wasm: &[u8],
        request: http::Request<&'static str>,
    ) -> Result<Running, (HostError, Timings)> {
        let (_, digest) = self.compile(wasm).await.unwrap();
        let invocation = self.invocation(digest, request).await;
        self.host.run(&self.inference, invocation).await
    }

    /// As [`Self::start`], read to the end.
    pub(crate) async fn answer(&self, wasm: &[u8]) -> Answer {
        read(self.start(wasm).await.unwrap()).await
    }

    /// The error of a call that has no head; the instance is gone when this returns, and the next call works.
    pub(crate) async fn error(&self, wasm: &[u8]) -> HostError {
        let (error, _) = self.start(wasm).await.unwrap_err();
        self.check_healthy().await;
        error
    }

    /// A well-behaved handler with the default limits is answered, and nothing else is alive.
    pub(crate) async fn check_healthy(&self) {
        let (_, digest) = self.compile(&crate::guest::handler(crate::guest::HELLO)).await.unwrap();
        let mut invocation = self.invocation(digest, get()).await;
        invocation.limits = Arc::new(GuestLimits::default());
        invocation.deadline = Instant::now() + Duration::from_secs(30);
        invocation.cancel = CancellationToken::new();
        let answer = read(self.host.run(&self.inference, invocation).await.unwrap()).await;
        assert_eq!(answer.body, b"hello, world");
        assert_eq!(self.host.stats().instances, 0);
    }
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A guest of `tests/fixtures/guests`.
pub(crate) fn guest_file(name: &str) -> Vec<u8> {
    let file = root().join(format!("tests/fixtures/guests/target/wasm32-wasip2/release/{name}.wasm"));
    std::fs::read(file).expect("tests/run.sh builds the guests of tests/fixtures/guests")
}

pub(crate) fn get() -> http::Request<&'static str> {
    http::Request::builder().uri("/path").header("host", "example.test").body("").unwrap()
}

pub(crate) async fn read(running: Running) -> Answer {
    let (parts, mut body) = running.response.into_parts();
    let mut bytes = Vec::new();
    let body_end = loop {
        match body.frame().await {
            None => break Ok(()),
            Some(Err(error)) => break Err(error),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
        }
    };
    drop(body);
    let end = running.end.await.unwrap();
    Answer { status: parts.status, headers: parts.headers, body: bytes, body_end, end }
}
