//! What callers ask of a tenant's process: a run, the tokens of a prompt, a generation.

use std::sync::Arc;
use std::time::Instant;

use super::flight::{Answer, Started, Unanswered, run_of};
use super::message::{OPTIONS, PROMPT, TOKENS, Task};
use super::workers::Workers;
use crate::chat::PROMPT_BYTES_MAX;
use crate::session::{OutputPlan, Request};
use crate::{
    Caller, ChatError, DecoderInfo, Device, ElementType, Generation, GenerationError, GenerationRequest, LoadError,
    Output, Package, Prompt, PromptError, RunError, RunStats, Tensor,
};

/// Tokens of a plain prompt beside those of its bytes: the model's own first ones, and what normalizing may add.
const TEXT_TOKENS_BESIDE: u64 = 1024;
/// Bytes of one token on its way.
const TOKEN_BYTES: u64 = 4;

impl Workers {
    /// Runs `request` in the process of the caller's owner, which is started if it is not there.
    ///
    /// As [`crate::Inference::run`]: `started` is called once, when the run begins, or never.
    pub(crate) async fn run(
        &self,
        package: &Arc<Package>,
        device: Device,
        request: Request,
        caller: Caller<'_>,
        started: Started,
    ) -> Result<(Vec<Output>, RunStats), RunError> {
        let task = run_of(&request);
        self.ask(package, device, &request, &task, caller, Some(started)).await.map_err(|error| match error {
            Unanswered::Run(error) => error,
            Unanswered::Prompt(error) => RunError::Failed(error.to_string()),
        })
    }

    /// Makes tokens of `prompt` there; where the time went is told, too. There are at most as many tokens as the text has
    /// bytes (of a chat: as a rendered one may have) and some more: how many there are is the package's own count.
    pub(crate) async fn prompt(
        &self,
        package: &Arc<Package>,
        device: Device,
        prompt: &Prompt,
        caller: Caller<'_>,
    ) -> Result<(Vec<u32>, RunStats), PromptError> {
        let (text, tokens_max, chat) = match prompt {
            Prompt::Text(text) => (text.clone().into_bytes(), text.len() as u64 + TEXT_TOKENS_BESIDE, false),
            Prompt::Chat(chat) => {
                let json = serde_json::to_vec(chat).map_err(|error| ChatError::Invalid(error.to_string()))?;
                (json, PROMPT_BYTES_MAX as u64, true)
            }
        };
        let output_bytes_max = tokens_max * TOKEN_BYTES;
        let plan = OutputPlan { name: TOKENS.to_owned(), opaque: None, keep: None, on_read: Vec::new() };
        let request = Request {
            inputs: vec![(PROMPT.to_owned(), bytes_tensor(&text)?)],
            outputs: vec![plan],
            output_bytes_max,
            joint: None,
        };
        let task = Task::Prompt { chat, output_bytes_max };
        let answer = self.ask(package, device, &request, &task, caller, None).await;
        let (outputs, stats) = answer.map_err(|error| match error {
            Unanswered::Prompt(error) => PromptError::Chat(error),
            Unanswered::Run(RunError::TooLarge(_)) => {
                ChatError::TooLong { limit: usize::try_from(tokens_max).unwrap_or(usize::MAX) }.into()
            }
            Unanswered::Run(error) => error.into(),
        })?;
        Ok((outputs.first().map(tokens_of).transpose()?.unwrap_or_default(), stats))
    }

    /// Starts a generation there. `request` was checked against `decoder`.
    pub(crate) async fn generate(
        &self,
        package: &Arc<Package>,
        decoder: &DecoderInfo,
        device: Device,
        request: &GenerationRequest,
    ) -> Result<Generation, GenerationError> {
        let failed = |error: &dyn std::fmt::Display| GenerationError::Failed(error.to_string());
        let options = serde_json::to_vec(&request.options).map_err(|error| failed(&error))?;
        let prompt: Vec<u8> = request.prompt.iter().flat_map(|token| token.to_le_bytes()).collect();
        let length = u32::try_from(request.prompt.len()).map_err(|error| failed(&error))?;
        let tokens = Tensor::from_bytes(ElementType::I32, &[length], &prompt).map_err(|error| failed(&error))?;
        let options = bytes_tensor(&options).map_err(|error| failed(&error))?;
        let given = Request {
            inputs: vec![(OPTIONS.to_owned(), options), (TOKENS.to_owned(), tokens)],
            outputs: Vec::new(),
            output_bytes_max: 0,
            joint: None,
        };
        let caller = Caller { owner: request.owner, deadline: request.deadline, cancel: &request.cancel };
        loop {
            let process = self.process(device, caller, &mut None).await.map_err(|error| match error {
                RunError::Worker(error) => error.into(),
                _ => GenerationError::Stopped,
            })?;
            // None: as for a run.
            if let Some(started) = process.generate(package, decoder, request, &given).await {
                return started;
            }
            if is_over(caller) {
                return Err(GenerationError::Stopped);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn ask(
        &self,
        package: &Arc<Package>,
        device: Device,
        request: &Request,
        task: &Task,
        caller: Caller<'_>,
        mut started: Option<Started>,
    ) -> Answer {
        let mut waited = None;
        loop {
            let process = self.process(device, caller, &mut waited).await?;
            // None: it was closed between our claim and now, for being idle. There is another one.
            if let Some(answer) = process.run(package, request, task.clone(), caller, &mut started).await {
                return answer.map(|(outputs, mut stats)| {
                    stats.load = match (stats.load, waited) {
                        (None, None) => None,
                        (load, waited) => Some(load.unwrap_or_default() + waited.unwrap_or_default()),
                    };
                    (outputs, stats)
                });
            }
            if is_over(caller) {
                return Err(RunError::Stopped { started: false }.into());
            }
            tokio::task::yield_now().await;
        }
    }
}

fn is_over(caller: Caller<'_>) -> bool {
    caller.cancel.is_cancelled() || Instant::now() >= caller.deadline
}

fn bytes_tensor(bytes: &[u8]) -> Result<Tensor, RunError> {
    let failed = |detail: String| RunError::Load(LoadError::Failed { detail });
    let length = u32::try_from(bytes.len()).map_err(|error| failed(error.to_string()))?;
    Tensor::from_bytes(ElementType::U8, &[length], bytes).map_err(|error| failed(error.to_string()))
}

/// The tokens that a process gave.
fn tokens_of(output: &Output) -> Result<Vec<u32>, RunError> {
    if (output.tensor.element_type(), output.tensor.dimensions().len()) != (ElementType::I32, 1) {
        return Err(RunError::Failed("its process made a prompt of no tokens".to_owned()));
    }
    let (tokens, _) = output.tensor.as_slice().as_chunks::<4>();
    Ok(tokens.iter().map(|token| u32::from_le_bytes(*token)).collect())
}
