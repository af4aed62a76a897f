//! From a prompt to token ids. The work counts as CPU time of the guest.

use std::sync::Arc;

use mayfly_inference::{Chat, DecoderInfo, Package};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::bindings::{Error, Prompt};
use super::errors::invalid;
use crate::nn::NnState;
use crate::nn::tokenizer::INLINE_BYTES_MAX;

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
    /// The tokens of `prompt`: at least one, each in the vocabulary.
    pub(super) async fn prompt_tokens(
        &self,
        package: &Arc<Package>,
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
                let package = Arc::clone(package);
                self.cpu_work(bytes, move |_| Ok(package.text_prompt(&text))).await??
            }
            Prompt::Chat(json) => {
                check_bytes(&json)?;
                let package = Arc::clone(package);
                // A template is a program: how long it takes does not follow from how long the messages are.
                self.cpu_work(INLINE_BYTES_MAX + 1, move |_| Ok(chat_tokens(&package, &json))).await??
            }
        };
        if tokens.is_empty() {
            return Err(invalid("the prompt has no tokens; give it at least one"));
        }
        Ok(tokens)
    }
}

fn chat_tokens(package: &Package, json: &str) -> Result<Vec<u32>, Error> {
    let chat: ChatJson =
        serde_json::from_str(json).map_err(|error| invalid(format!("the chat is not as expected: {error}")))?;
    let chat = Chat {
        messages: chat.messages,
        tools: chat.tools.filter(|tools| !tools.is_null()),
        extra: chat.chat_template_kwargs,
        add_generation_prompt: chat.add_generation_prompt,
    };
    Ok(package.chat_prompt(&chat)?)
}

fn check_bytes(text: &str) -> Result<usize, Error> {
    let bytes = text.len();
    if bytes > PROMPT_BYTES_MAX {
        return Err(invalid(format!("the prompt has {bytes} bytes; at most {PROMPT_BYTES_MAX} are taken")));
    }
    Ok(bytes)
}
