//! From a prompt to token ids. The work counts as CPU time of the guest, in whichever process it is done.

use std::sync::Arc;

use mayfly_inference::{Caller, Chat, DecoderInfo, Prompt as HostPrompt, PromptError};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::bindings::{Error, Prompt};
use super::errors::invalid;
use crate::nn::NnState;
use crate::nn::tokenizer::INLINE_BYTES_MAX;
use crate::{Grant, Place};

/// Bytes of one prompt: the work on it cannot be stopped half way.
const PROMPT_BYTES_MAX: usize = 1 << 20;

/// What a chat prompt may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatJson {
    messages: Value,
    #[serde(default)]
    tools: Option<Value>,
    #[serde(default)]
    chat_template_kwargs: Map<String, Value>,
    /// False for a chat whose last message is to be gone on with.
    #[serde(default = "yes")]
    add_generation_prompt: bool,
}

const fn yes() -> bool {
    true
}

impl NnState {
    /// The tokens of `prompt`: at least one, each in the vocabulary. For a model that runs apart they are made there.
    pub(super) async fn prompt_tokens(
        &self,
        grant: &Grant,
        decoder: &DecoderInfo,
        prompt: Prompt,
    ) -> Result<Vec<u32>, Error> {
        let tokens = match prompt {
            Prompt::Tokens(ids) => {
                if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id >= decoder.vocab) {
                    return Err(invalid(format!(
                        "token {at} of the prompt is {id}; the model's vocabulary has {} tokens",
                        decoder.vocab
                    )));
                }
                ids
            }
            Prompt::Text(text) => {
                let bytes = check_bytes(&text)?;
                self.made(grant, bytes, move || Ok(HostPrompt::Text(text))).await?
            }
            Prompt::Chat(json) => {
                check_bytes(&json)?;
                // A template is a program: how long it takes does not follow from how long the messages are.
                self.made(grant, INLINE_BYTES_MAX + 1, move || chat(&json)).await?
            }
        };
        if tokens.is_empty() {
            return Err(invalid("the prompt has no tokens; give it at least one"));
        }
        Ok(tokens)
    }

    async fn made(
        &self,
        grant: &Grant,
        bytes: usize,
        prompt: impl FnOnce() -> Result<HostPrompt, Error> + Send + 'static,
    ) -> Result<Vec<u32>, Error> {
        let package = Arc::clone(&grant.package);
        if grant.place != Place::Apart {
            let make = move || Ok::<_, Error>(package.prompt(&prompt()?)?);
            return self.cpu_work(bytes, move |_| Ok(make())).await?;
        }
        let prompt = self.cpu_work(bytes, move |_| Ok(prompt())).await??;
        let caller = Caller { owner: self.asker.owner, deadline: self.deadline, cancel: &self.cancel };
        let made = async {
            let made = self.inference.prompt_apart(&package, grant.device, &prompt, caller).await;
            let (tokens, stats) = made.map_err(|error| self.prompt_error(error))?;
            self.worker_works();
            if let Some(load) = stats.load {
                self.clock.add(|timings| *timings.model_load.get_or_insert_default() += load);
            }
            Ok::<_, Error>((tokens, stats.share))
        };
        self.cpu_work_apart(made).await
    }

    fn prompt_error(&self, error: PromptError) -> Error {
        match error {
            PromptError::Run(error) => self.run_error(error).into(),
            PromptError::Chat(error) => error.into(),
        }
    }
}

fn chat(json: &str) -> Result<HostPrompt, Error> {
    let chat: ChatJson =
        serde_json::from_str(json).map_err(|error| invalid(format!("the chat is not as expected: {error}")))?;
    Ok(HostPrompt::Chat(Chat {
        messages: chat.messages,
        tools: chat.tools.filter(|tools| !tools.is_null()),
        extra: chat.chat_template_kwargs,
        add_generation_prompt: chat.add_generation_prompt,
    }))
}

fn check_bytes(text: &str) -> Result<usize, Error> {
    let bytes = text.len();
    if bytes > PROMPT_BYTES_MAX {
        return Err(invalid(format!("the prompt has {bytes} bytes; at most {PROMPT_BYTES_MAX} are taken")));
    }
    Ok(bytes)
}
