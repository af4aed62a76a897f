//! Asking for generations, and reading them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mayfly_inference::{
    Caller, Chat, ChunkToken, Device, Finish, Generation, GenerationAccount, GenerationError, GenerationOptions,
    GenerationRequest, GenerationUsage, Inference, Package, Prompt, PromptError, Sampling,
};
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

/// What was charged.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Charged>);

#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Charged {
    pub(crate) fresh: u32,
    pub(crate) cached: u32,
    pub(crate) output: u32,
    pub(crate) ran: Duration,
}

impl Account {
    pub(crate) fn charged(&self) -> Charged {
        self.0.lock().unwrap().clone()
    }
}

impl GenerationAccount for Account {
    fn input(&self, fresh: u32, cached: u32) {
        let mut charged = self.0.lock().unwrap();
        assert_eq!((charged.fresh, charged.cached, charged.output), (0, 0, 0), "told once, and first");
        (charged.fresh, charged.cached) = (fresh, cached);
    }

    fn output(&self, tokens: u32) {
        self.0.lock().unwrap().output += tokens;
    }

    fn ran(&self, time: Duration) {
        self.0.lock().unwrap().ran += time;
    }
}

/// One choice, whole.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Choice {
    pub(crate) text: String,
    pub(crate) tokens: Vec<ChunkToken>,
    pub(crate) finish: Option<Finish>,
}

/// A generation to ask for.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) package: Arc<Package>,
    pub(crate) owner: u128,
    pub(crate) prompt: Vec<u32>,
    pub(crate) options: GenerationOptions,
    pub(crate) choices: u32,
    pub(crate) reuse: Option<[u8; 32]>,
    pub(crate) time: Duration,
    pub(crate) cancel: CancellationToken,
    pub(crate) account: Arc<Account>,
}

pub(crate) fn greedy() -> GenerationOptions {
    GenerationOptions {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: 60,
        stop: Vec::new(),
        ignore_eos: false,
        logprobs: None,
        constraint: None,
    }
}

/// A question to the chat model of the examples.
pub(crate) fn question(text: &str) -> Prompt {
    let messages = json!([{ "role": "user", "content": text }]);
    Prompt::Chat(Chat { messages, tools: None, extra: Map::new(), add_generation_prompt: true })
}

impl Ask {
    pub(crate) fn of(package: &Arc<Package>, owner: u128) -> Self {
        Self {
            package: Arc::clone(package),
            owner,
            prompt: package.prompt(&question("Where does a handler run?")).unwrap(),
            options: greedy(),
            choices: 1,
            reuse: None,
            time: Duration::from_secs(60),
            cancel: CancellationToken::new(),
            account: Arc::default(),
        }
    }

    /// One that goes on for long.
    pub(crate) fn long(package: &Arc<Package>, owner: u128) -> Self {
        let options = GenerationOptions { max_tokens: 900, ignore_eos: true, ..greedy() };
        Self { options, ..Self::of(package, owner) }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self.account = Arc::default();
        self
    }

    fn request(&self) -> GenerationRequest {
        GenerationRequest {
            prompt: self.prompt.clone(),
            options: self.options.clone(),
            choices: self.choices,
            owner: self.owner,
            reuse: self.reuse,
            deadline: Instant::now() + self.time,
            cancel: self.cancel.clone(),
            account: Arc::clone(&self.account) as _,
        }
    }

    /// In its owner's process.
    pub(crate) async fn apart(&self, inference: &Inference) -> Result<Generation, GenerationError> {
        inference.generate_apart(&self.package, Device::Cpu, self.request()).await
    }

    /// In this one.
    pub(crate) async fn here(&self, inference: &Inference) -> Result<Generation, GenerationError> {
        inference.generate(&self.package, Device::Cpu, self.request()).await
    }

    /// Waits until nobody has its account but the test: what was held would be given back.
    pub(crate) async fn settled(&self) -> Charged {
        crate::scene::until("it is settled", || Arc::strong_count(&self.account) == 1).await;
        self.account.charged()
    }
}

pub(crate) async fn prompt(
    inference: &Inference,
    package: &Arc<Package>,
    owner: u128,
    prompt: &Prompt,
    time: Duration,
) -> Result<Vec<u32>, PromptError> {
    let cancel = CancellationToken::new();
    let caller = Caller { owner, deadline: Instant::now() + time, cancel: &cancel };
    inference.prompt_apart(package, Device::Cpu, prompt, caller).await.map(|(tokens, _)| tokens)
}

/// All of it.
pub(crate) async fn whole(
    mut generation: Generation,
    choices: u32,
) -> Result<(Vec<Choice>, GenerationUsage), GenerationError> {
    let mut all = vec![Choice::default(); choices as usize];
    while let Some(chunk) = generation.next().await? {
        let choice = &mut all[chunk.choice as usize];
        assert_eq!(choice.finish, None, "nothing comes after the end");
        choice.text.push_str(&chunk.text);
        choice.tokens.extend(chunk.tokens);
        choice.finish = chunk.finish;
    }
    assert!(all.iter().all(|choice| choice.finish.is_some()));
    Ok((all, generation.usage()))
}
