//! Prompts of a package: its chat template rendered and encoded, and plain text with the model's own first tokens.
//!
//! Text that a caller gives never becomes a special token of a chat: see `chat/shield.rs`. Templates are found by
//! `package/template.rs`. Compiling one can take more memory than it has bytes (constants are computed), so that happens
//! for the first time in the import's child process, which refuses what it cannot take.

mod encode;
mod engine;
mod error;
mod functions;
mod json;
mod messages;
mod shield;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::encode::Encoder;
use self::engine::Engine;
pub(crate) use self::engine::PROMPT_BYTES_MAX;
use self::messages::invalid;
use self::shield::{Marks, Shield, TooMany};
use crate::package::ChatTemplate;
use crate::tokenizer::{check_texts, guarded};
use crate::{Package, TokenizerError};

pub use error::ChatError;

/// Variables that are not a caller's to set.
const RESERVED: [&str; 4] = ["messages", "tools", "add_generation_prompt", "documents"];

/// What is made tokens of.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A chat, by the package's template.
    Chat(Chat),
    /// Plain text.
    Text(String),
}

/// What a chat template is rendered with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// OpenAI's list of messages.
    pub messages: Value,
    /// OpenAI's list of tools.
    pub tools: Option<Value>,
    /// More variables of the template (`chat_template_kwargs`).
    pub extra: Map<String, Value>,
    /// End with the beginning of the assistant's answer.
    pub add_generation_prompt: bool,
}

/// A package's templates and what encoding their prompts takes, made on first use.
#[derive(Debug)]
pub(crate) struct Prompter {
    engine: Engine,
    content: ContentForm,
    encoder: Encoder,
    shield: Shield,
}

impl Package {
    /// Whether [`Self::chat_prompt`] can work: the package has a tokenizer and a template. Also the property `chat`.
    pub fn has_chat_template(&self) -> bool {
        self.description().chat.is_some()
    }

    /// The tokens of `prompt`. Blocking and CPU-bound.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, ChatError> {
        match prompt {
            Prompt::Chat(chat) => self.chat_prompt(chat),
            Prompt::Text(text) => Ok(self.text_prompt(text)?),
        }
    }

    /// Whether the chat template has a place for tools. Also the property `tools`.
    pub fn template_has_tools(&self) -> bool {
        self.description().chat.as_ref().is_some_and(|chat| chat.has_tools)
    }

    /// The tokens of a chat: renders the package's template and encodes the text. Nothing in `chat` becomes a special
    /// token. Blocking and CPU-bound: milliseconds.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn chat_prompt(&self, chat: &Chat) -> Result<Vec<u32>, ChatError> {
        let template = self.description().chat.as_ref().ok_or(ChatError::NoTemplate)?;
        let tokenizer = self.tokenizer()?;
        let Prompter { engine, content, encoder, shield } = self.prompter(template)?;
        let messages = messages::shaped(&chat.messages, *content)?;
        let tools = messages::tools(chat.tools.as_ref())?;
        if tools.is_some() && !template.has_tools {
            return Err(invalid("`tools` cannot be given: this model's chat template has no place for them"));
        }
        let mut marks = Marks::default();
        let variables = Variables { chat, messages, tools }.hidden(shield, &mut marks)?;
        let prompt = engine.render(variables, tools.is_some())?;
        let private = || ChatError::Failed { detail: "the template makes private characters".to_owned() };
        if marks.restored_bytes(&prompt).ok_or_else(private)? > PROMPT_BYTES_MAX {
            return Err(ChatError::TooLong { limit: PROMPT_BYTES_MAX });
        }
        guarded(|| encoder.encode(tokenizer, &prompt, &marks))?.ok_or_else(private)
    }

    /// Says why the package's chat template cannot be used, if it cannot: compiles it and renders a small chat. A package
    /// without one is fine.
    pub(crate) fn check_chat_template(&self) -> Result<(), String> {
        let Some(template) = &self.description().chat else { return Ok(()) };
        match self.prompter(template) {
            Ok(_) => Ok(()),
            Err(ChatError::Failed { detail }) => Err(detail),
            Err(other) => Err(other.to_string()),
        }
    }

    /// The tokens of a plain prompt, behind the model's own first tokens. Special tokens in `text` count as such: all of
    /// the prompt is the caller's. Blocking and CPU-bound: milliseconds per 100 KB.
    ///
    /// # Errors
    /// [`TokenizerError`].
    pub fn text_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = self.tokenizer()?;
        check_texts(&[text])?;
        let plain = guarded(|| tokenizer.encode_fast(text, false))?;
        let length = plain.len();
        let framed = guarded(|| tokenizer.post_process(plain, None, true))?;
        // What a tokenizer sets behind the text ends a sequence that is to go on.
        let first = framed.get_special_tokens_mask().iter().take_while(|added| **added == 1).count();
        Ok(framed.get_ids().iter().take(first + length).copied().collect())
    }

    fn prompter(&self, template: &ChatTemplate) -> Result<&Prompter, ChatError> {
        let made = self.prompter.get_or_init(|| {
            let tokenizer = self.tokenizer().map_err(|error| error.to_string())?;
            let source = &template.source;
            let sources = [Some(source.default.as_str()), source.tool_use.as_deref()].into_iter().flatten();
            let encoder = Encoder::new(tokenizer, sources, source.tokens.values().map(String::as_str));
            let shield = Shield::new(encoder.reserved())?;
            let engine = Engine::new(source)?;
            Ok(Prompter { content: content_form(&engine), engine, encoder, shield })
        });
        made.as_ref().map_err(|detail| ChatError::Failed { detail: detail.clone() })
    }
}

/// What a template is given, checked.
struct Variables<'a> {
    chat: &'a Chat,
    messages: Vec<Map<String, Value>>,
    tools: Option<&'a Value>,
}

impl Variables<'_> {
    /// With marks in all that is the caller's text. Roles stay: they are from a fixed list, and templates make tokens of
    /// them.
    fn hidden(self, shield: &Shield, marks: &mut Marks) -> Result<BTreeMap<String, minijinja::Value>, ChatError> {
        let many = |_: TooMany| invalid("the messages have too many different special tokens or private characters");
        let mut variables = BTreeMap::new();
        let mut set = |name: &str, value: &Value| drop(variables.insert(name.to_owned(), engine::value(value)));
        for (name, value) in &self.chat.extra {
            if RESERVED.contains(&name.as_str()) || name.ends_with("_token") {
                let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
                return Err(invalid(&format!("`chat_template_kwargs` cannot set `{name}`")));
            }
            set(name, &shield.hide_all(value, marks).map_err(many)?);
        }
        let mut messages = Vec::with_capacity(self.messages.len());
        for message in self.messages {
            let mut hidden = Map::with_capacity(message.len());
            for (key, value) in &message {
                let value = if key == "role" { value.clone() } else { shield.hide_all(value, marks).map_err(many)? };
                hidden.insert(shield.hide(key, marks).map_err(many)?, value);
            }
            messages.push(Value::Object(hidden));
        }
        set("messages", &Value::Array(messages));
        let tools = self.tools.map(|tools| shield.hide_all(tools, marks)).transpose().map_err(many)?;
        set("tools", &tools.unwrap_or_default());
        set("add_generation_prompt", &Value::Bool(self.chat.add_generation_prompt));
        Ok(variables)
    }
}

/// In which form a template takes the content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContentForm {
    /// A string.
    Text,
    /// A list of parts.
    Parts,
    /// Either.
    Any,
}

/// How the template takes content: a word is sent through in either form.
fn content_form(engine: &Engine) -> ContentForm {
    const WORD: &str = "mayflyword";
    const FIELD: &str = "mayflyfield";
    let shows = |content: Value| {
        let variables = BTreeMap::from([
            ("messages".to_owned(), engine::value(&json!([{"role": "user", "content": content}]))),
            ("tools".to_owned(), engine::value(&Value::Null)),
            ("add_generation_prompt".to_owned(), engine::value(&Value::Bool(true))),
        ]);
        // A list that is printed as such shows the names of its fields.
        engine.render(variables, false).is_ok_and(|text| text.contains(WORD) && !text.contains(FIELD))
    };
    let parts = shows(json!([{"type": "text", "text": WORD, FIELD: 1}]));
    match (shows(json!(WORD)), parts) {
        (true, true) => ContentForm::Any,
        (false, true) => ContentForm::Parts,
        (_, false) => ContentForm::Text,
    }
}
