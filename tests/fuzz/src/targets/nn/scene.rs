//! A host in this process, models, and calls to what was compiled.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use mayfly_host::{CompileError, ComponentInfo, Config, Grant, Grants, Host, HostError, Invocation, LogLine, LogSink};
use mayfly_host::{KeyValue, KeyValueError, KeyValueLimits, KeyValuePage, Place, Running};
use mayfly_inference::{Device, ImportPolicy, Inference, Package, import};
use mayfly_types::{DeploymentId, Digest, GuestLimits, KeyId, ModelId, TenantId};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::account::Account;

/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a call's instance may outlive its answer.
const GONE_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Scene {
    host: Host,
    inference: Inference,
    folder: TempDir,
    child: PathBuf,
    grants: Arc<Grants>,
    limits: Arc<GuestLimits>,
}

/// How a call ended, if it was no fault of ours.
#[derive(Debug)]
pub(crate) enum Went {
    /// With this text.
    Answered(String, Arc<Account>),
    /// Without an answer, or with half of one.
    Failed(#[expect(dead_code, reason = "shown where it should have been an answer")] HostError),
}

impl Scene {
    pub(crate) fn new(limits: GuestLimits) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let child = std::env::current_exe()?;
        // Few mapped components: each has a descriptor, also one whose code was removed, until it makes room.
        let config = Config { instances_max: 16, compile_seconds_max: 10, code_entries_max: 32, ..Config::default() };
        let host = Host::start(config, folder.path().join("code"), child.clone(), Arc::new(NoData))?;
        let inference = Inference::start(mayfly_inference::Config::default())?;
        std::fs::create_dir(folder.path().join("models"))?;
        Ok(Self { host, inference, folder, child, grants: Arc::default(), limits: Arc::new(limits) })
    }

    /// Imports a model and grants it.
    pub(crate) fn grant(&mut self, alias: &str, source: &Path) -> anyhow::Result<()> {
        let dest = self.folder.path().join("models");
        let imported = import(source, &dest, &ImportPolicy::default(), &self.child)
            .with_context(|| format!("importing {}", source.display()))?;
        let package = Arc::new(Package::open(&dest.join(imported.digest.hex()))?);
        let (name, model) = (alias.parse()?, ModelId::new());
        let grant = Grant {
            model,
            name,
            package,
            device: Device::default(),
            place: Place::Server,
            all_positions: alias == "encoder",
        };
        Arc::make_mut(&mut self.grants).models.insert(alias.parse()?, grant);
        Ok(())
    }

    pub(crate) async fn compile(&self, wasm: &[u8], digest: Digest) -> Result<ComponentInfo, CompileError> {
        let path = self.folder.path().join(digest.hex());
        let trouble = |error: std::io::Error| CompileError::Host { detail: format!("the fuzzer's own file: {error}") };
        std::fs::write(&path, wasm).map_err(trouble)?;
        let compiled = self.host.compile(&path, digest).await;
        std::fs::remove_file(&path).map_err(trouble)?;
        compiled
    }

    /// Removes compiled code.
    pub(crate) async fn forget(&self, digest: Digest) -> Result<(), String> {
        self.host.remove_code(digest).await.map_err(|error| format!("code that cannot be removed: {error}"))
    }

    /// Sends `body` to compiled code, reads the answer, and checks what must hold after any call.
    ///
    /// # Errors
    /// A rule that was broken.
    pub(crate) async fn call(&self, digest: Digest, body: Vec<u8>, refuses: bool) -> Result<Went, String> {
        let (code, _) =
            self.host.code(digest).await.map_err(|error| format!("code that cannot be mapped: {error:?}"))?;
        let account = Arc::new(Account::new(refuses));
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let request = http::Request::post("/").header("host", "fuzz.test").body(body).map_err(|e| e.to_string())?;
        let invocation = Invocation {
            code,
            request,
            deployment: DeploymentId::new(),
            tenant: TenantId::new(),
            key: KeyId::new(),
            grants: Arc::clone(&self.grants),
            limits: Arc::clone(&self.limits),
            budget: Arc::clone(&account) as _,
            deadline: Instant::now() + Duration::from_millis(self.limits.deadline_ms_max),
            cancel: CancellationToken::new(),
            log: Arc::new(NoLog),
            reuse: None,
        };
        let answer = match self.host.run(&self.inference, invocation).await {
            Ok(running) => read(running).await?,
            Err((error, _)) => Err(error),
        };
        if let Err(HostError::Host { detail }) = &answer {
            return Err(format!("a fault of ours: {detail}"));
        }
        let begin = Instant::now();
        // The instance goes, and with it all that it holds, a moment after its end was told.
        while let Err(broken) = self.check_gone(&account) {
            if begin.elapsed() > GONE_WITHIN {
                return Err(broken);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(match answer {
            Ok(text) => Went::Answered(text, account),
            Err(error) => Went::Failed(error),
        })
    }

    fn check_gone(&self, account: &Account) -> Result<(), String> {
        match self.host.stats().instances {
            0 => account.check_closed(),
            _ => Err("an instance that outlives its call".to_owned()),
        }
    }
}

async fn read(running: Running) -> Result<Result<String, HostError>, String> {
    let mut body = running.response.into_body();
    let mut bytes = Vec::new();
    let mut cut = None;
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data().unwrap_or_default()) {
            Ok(data) if bytes.len() < ANSWER_BYTES_MAX => bytes.extend(data),
            Ok(_) => {}
            Err(error) => {
                cut = Some(error);
                break;
            }
        }
    }
    drop(body);
    let end = running.end.await.map_err(|_| "a call whose end nobody tells".to_owned())?;
    Ok(match (cut, end.result) {
        (Some(error), _) | (None, Err(error)) => Err(error),
        (None, Ok(())) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    })
}

#[derive(Debug)]
struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _line: LogLine) {}
}

/// Nothing is stored here.
#[derive(Debug)]
struct NoData;

fn none<T>() -> Result<T, KeyValueError> {
    Err(KeyValueError::Failed { detail: "no store".to_owned() })
}

#[async_trait]
impl KeyValue for NoData {
    async fn get_many(&self, _: DeploymentId, _: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        none()
    }

    async fn set_many(
        &self,
        _: DeploymentId,
        _: Vec<(String, Vec<u8>)>,
        _: KeyValueLimits,
    ) -> Result<(), KeyValueError> {
        none()
    }

    async fn delete_many(&self, _: DeploymentId, _: Vec<String>) -> Result<(), KeyValueError> {
        none()
    }

    async fn exists(&self, _: DeploymentId, _: String) -> Result<bool, KeyValueError> {
        none()
    }

    async fn list_keys(&self, _: DeploymentId, _: Option<u64>, _: u32) -> Result<KeyValuePage, KeyValueError> {
        none()
    }

    async fn increment(&self, _: DeploymentId, _: String, _: u64, _: KeyValueLimits) -> Result<u64, KeyValueError> {
        none()
    }
}
