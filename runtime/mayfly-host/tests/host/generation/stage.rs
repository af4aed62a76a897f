//! A host with decoder models, the guest `generate`, and an account that adds everything up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use mayfly_host::{Grant, Grants, HostError, Invocation, Place, Running, Timings};
use mayfly_inference::{Device, ImportPolicy, Package};
use mayfly_types::{Budget, DeploymentId, Digest, HoldId, KeyId, Line, Meter, ModelId, Refusal, RefusalKind, TenantId};
use serde_json::{Value, json};

use crate::scene::{Answer, Scene, guest_file, read, root};

/// Sums of what was held and charged, by meter, times left out.
#[derive(Debug, Default)]
pub(crate) struct Account {
    sums: Mutex<Sums>,
    refuses: Option<RefusalKind>,
}

#[derive(Debug, Default)]
struct Sums {
    held: BTreeMap<Meter, u64>,
    charged: BTreeMap<Meter, u64>,
    open: u64,
    ran: bool,
}

impl Account {
    pub(crate) fn refusing(kind: RefusalKind) -> Arc<Self> {
        Arc::new(Self { refuses: Some(kind), ..Self::default() })
    }

    pub(crate) fn held(&self) -> Vec<(Meter, u64)> {
        self.sums.lock().unwrap().held.clone().into_iter().collect()
    }

    /// What is on the bill.
    pub(crate) fn charged(&self) -> Vec<(Meter, u64)> {
        self.sums.lock().unwrap().charged.clone().into_iter().collect()
    }

    pub(crate) fn output(&self) -> u64 {
        self.sums.lock().unwrap().charged.get(&Meter::OutputTokens).copied().unwrap_or(0)
    }

    /// Whether time of the model was told.
    pub(crate) fn ran(&self) -> bool {
        self.sums.lock().unwrap().ran
    }

    /// Holds that nobody has given back.
    pub(crate) fn open(&self) -> u64 {
        self.sums.lock().unwrap().open
    }

    /// Waits until every hold was given back.
    pub(crate) async fn settled(&self) {
        let since = Instant::now();
        while self.open() > 0 {
            assert!(since.elapsed() < Duration::from_secs(20), "{} holds are still out", self.open());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Budget for Account {
    fn hold<'a>(&'a self, lines: &'a [Line]) -> BoxFuture<'a, Result<HoldId, Refusal>> {
        async move {
            if let Some(kind) = self.refuses {
                let message = "key k: 5 of 5 output_tokens are used".to_owned();
                return Err(Refusal { kind, message, retry_after_ms: Some(1500) });
            }
            let mut sums = self.sums.lock().unwrap();
            for line in lines {
                *sums.held.entry(line.meter).or_default() += line.quantity;
            }
            sums.open += 1;
            Ok(HoldId(1))
        }
        .boxed()
    }

    fn charge(&self, _hold: HoldId, lines: &[Line]) {
        let mut sums = self.sums.lock().unwrap();
        for line in lines {
            assert!(line.model.is_some() && line.quantity > 0, "{line:?}");
            if line.meter == Meter::InferenceMicros {
                sums.ran = true;
                continue;
            }
            *sums.charged.entry(line.meter).or_default() += line.quantity;
        }
    }

    fn release(&self, _hold: HoldId) {
        self.sums.lock().unwrap().open -= 1;
    }
}

/// Who calls what; the same one twice may go on from its own prompts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub(crate) deployment: DeploymentId,
    pub(crate) tenant: TenantId,
    pub(crate) key: KeyId,
}

impl Who {
    pub(crate) fn new() -> Self {
        Self { deployment: DeploymentId::new(), tenant: TenantId::new(), key: KeyId::new() }
    }
}

pub(crate) struct Stage {
    pub(crate) scene: Scene,
    digest: Digest,
    grants: Arc<Grants>,
}

impl Stage {
    /// Granted the decoder fixture `model` as `model`, and a model without tokens as `rows`.
    pub(crate) async fn with(model: &str) -> Self {
        let scene = Scene::new();
        let (_, digest) =
            scene.compile(&guest_file("generate")).await.expect("the host offers mayfly:inference/generation");
        let grant = |file: &str, name: &str| {
            let source = root().join("tests/fixtures/models").join(file);
            let dest = scene.folder.path().join("models");
            std::fs::create_dir_all(&dest).unwrap();
            let child = std::env::current_exe().unwrap();
            let imported = mayfly_inference::import(&source, &dest, &ImportPolicy::default(), &child).unwrap();
            let package = Arc::new(Package::open(&dest.join(imported.digest.hex())).unwrap());
            let (model, name) = (ModelId::new(), name.parse().unwrap());
            Grant { model, name, package, device: Device::Cpu, place: Place::Server, all_positions: false }
        };
        let models = BTreeMap::from([
            ("model".parse().unwrap(), grant(model, "tiny")),
            ("rows".parse().unwrap(), grant("rows.onnx", "rows")),
        ]);
        let grants = Arc::new(Grants { models, ..Grants::default() });
        Self { scene, digest, grants }
    }

    pub(crate) async fn genai() -> Self {
        Self::with("decoder_genai").await
    }

    /// The same with what its owner decided.
    pub(crate) fn ruled(mut self, rules: impl FnOnce(&mut Grants)) -> Self {
        rules(Arc::make_mut(&mut self.grants));
        self
    }

    pub(crate) async fn invocation(&self, path: &str, plan: &Value, who: Who, account: &Arc<Account>) -> Invocation {
        let request = http::Request::post("/").header("host", "example.test").body("").unwrap();
        let mut invocation = self.scene.invocation(self.digest, request).await;
        let body = Full::new(Bytes::from(plan.to_string())).map_err(|never| match never {}).boxed_unsync();
        *invocation.request.uri_mut() = path.parse().unwrap();
        *invocation.request.body_mut() = body;
        let Who { deployment, tenant, key } = who;
        Invocation {
            deployment,
            tenant,
            key,
            grants: Arc::clone(&self.grants),
            budget: Arc::clone(account) as _,
            ..invocation
        }
    }

    pub(crate) async fn start(
        &self,
        path: &str,
        plan: &Value,
        account: &Arc<Account>,
    ) -> Result<Running, (HostError, Timings)> {
        let invocation = self.invocation(path, plan, Who::new(), account).await;
        self.scene.host.run(&self.scene.inference, invocation).await
    }

    pub(crate) async fn answer(&self, path: &str, plan: &Value, who: Who, account: &Arc<Account>) -> Answer {
        let invocation = self.invocation(path, plan, who, account).await;
        read(self.scene.host.run(&self.scene.inference, invocation).await.unwrap()).await
    }

    /// The guest's answer, and the account once everything has been given back.
    pub(crate) async fn ask(&self, path: &str, plan: Value) -> (Value, Arc<Account>) {
        let account = Arc::<Account>::default();
        let answer = self.ask_as(path, plan, Who::new(), &account).await;
        (answer, account)
    }

    pub(crate) async fn ask_as(&self, path: &str, plan: Value, who: Who, account: &Arc<Account>) -> Value {
        let answer = self.answer(path, &plan, who, account).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{plan}: {text}");
        answer.end.result.unwrap();
        account.settled().await;
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }

    /// The kind and text of the error that a plan meets; nothing was held for it.
    pub(crate) async fn error(&self, plan: Value) -> String {
        let (answer, account) = self.ask("/", plan.clone()).await;
        let error = &answer["error"];
        assert!(error.is_object(), "{plan}: {answer}");
        assert_eq!((account.held(), account.charged()), (vec![], vec![]), "{plan}");
        format!("{}: {}", error["kind"].as_str().unwrap(), error["text"].as_str().unwrap())
    }
}

/// Greedy without the penalties that the model's own configuration asks for, all of `max_tokens`.
pub(crate) fn greedy(tokens: &[u32], max_tokens: u32) -> Value {
    json!({ "tokens": tokens, "options": {
        "max_tokens": max_tokens, "temperature": 0, "repetition_penalty": 1, "ignore_eos": true } })
}
