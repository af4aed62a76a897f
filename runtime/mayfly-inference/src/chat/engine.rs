//! Templates, compiled and rendered within bounds.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::ChatError;
use super::functions::{self, Raised};
use crate::package::TemplateSource;

/// Steps of one rendering (`chat_fuel_max`). A message takes about a hundred.
const FUEL_MAX: u64 = 2_000_000;
/// Bytes of one rendered prompt (`chat_prompt_bytes_max`); what the tokenizer takes in one call.
pub(crate) const PROMPT_BYTES_MAX: usize = 4 << 20;
/// Macros in macros; each level takes some kilobytes of the thread's stack.
const RECURSION_MAX: usize = 64;
/// What a template says in `raise_exception`, as shown.
const RAISED_CHARS_MAX: usize = 400;
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// The templates of one package.
pub(super) struct Engine {
    env: Environment<'static>,
    tokens: BTreeMap<String, String>,
    has_tool_use: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("has_tool_use", &self.has_tool_use).finish_non_exhaustive()
    }
}

impl Engine {
    /// Compiles the templates.
    ///
    /// # Errors
    /// What the template engine does not understand.
    pub(super) fn new(source: &TemplateSource) -> Result<Self, String> {
        let compiled = catch_unwind(|| {
            let mut env = Environment::new();
            let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
            env.set_syntax(syntax);
            env.set_fuel(Some(FUEL_MAX));
            env.set_recursion_limit(RECURSION_MAX);
            functions::add(&mut env);
            env.add_template_owned(DEFAULT, without_generation(&source.default))?;
            if let Some(tool_use) = &source.tool_use {
                env.add_template_owned(TOOL_USE, without_generation(tool_use))?;
            }
            Ok(env)
        });
        let env = compiled
            .map_err(|_| "the chat template makes the template engine panic".to_owned())?
            .map_err(|error: Error| format!("the chat template does not compile: {error}"))?;
        Ok(Self { env, tokens: source.tokens.clone(), has_tool_use: source.tool_use.is_some() })
    }

    /// Renders the template for chats with or without `tools`; the package's tokens are added to `variables`.
    pub(super) fn render(&self, mut variables: BTreeMap<String, Value>, tools: bool) -> Result<String, ChatError> {
        for (name, text) in &self.tokens {
            variables.insert(name.clone(), Value::from(text.as_str()));
        }
        let name = if tools && self.has_tool_use { TOOL_USE } else { DEFAULT };
        let mut out = Bounded::default();
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            self.env.get_template(name)?.render_captured_to(Value::from(variables), &mut out).map(drop)
        }));
        let failed = |detail: String| ChatError::Failed { detail };
        match rendered {
            Err(_) => Err(failed("the template engine panicked".to_owned())),
            Ok(Err(_)) if out.overflowed => Err(ChatError::TooLong { limit: PROMPT_BYTES_MAX }),
            Ok(Err(error)) => Err(fault(&error)),
            Ok(Ok(())) => String::from_utf8(out.bytes).map_err(|_| failed("the prompt is not UTF-8".to_owned())),
        }
    }
}

/// JSON as a template sees it.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(list) => list.iter().map(value).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, json)| (key.as_str(), value(json)))),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
    }
}

fn fault(error: &Error) -> ChatError {
    if error.kind() == ErrorKind::OutOfFuel {
        return ChatError::OutOfFuel { limit: FUEL_MAX };
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(Raised(message)) = inner.downcast_ref() {
            let shown = message.chars().filter(|c| !c.is_control()).take(RAISED_CHARS_MAX).collect();
            return ChatError::Raised(shown);
        }
        if inner.downcast_ref::<Error>().is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel) {
            return ChatError::OutOfFuel { limit: FUEL_MAX };
        }
        source = inner.source();
    }
    ChatError::Failed { detail: error.to_string() }
}

/// Takes what a prompt may have and no more.
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if text.len() > PROMPT_BYTES_MAX - self.bytes.len() {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks what a model is trained on and prints nothing; here it is a block that is always shown.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        let Some((inside, after)) = tag.split_once("%}") else {
            out.push_str(tag);
            return out;
        };
        let word = inside.trim_matches(['-', '+']).trim();
        let instead = match word {
            "generation" => inside.replace("generation", " if true "),
            "endgeneration" => inside.replace("endgeneration", " endif "),
            _ => inside.to_owned(),
        };
        out.push_str(&instead);
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    out
}
