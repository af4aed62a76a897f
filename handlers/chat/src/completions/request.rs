//! What a caller may ask of `/v1/completions`.

use mayfly_sdk::Error;
use mayfly_sdk::generation::{Options, Prompt};
use serde_json::Value;

use crate::constraint::constraint;
use crate::fields::{Fields, missing, unfit};
use crate::options::{CHOICES_MAX, include_usage, options};

/// As at OpenAI.
const MAX_TOKENS: u32 = 16;
/// Likeliest tokens beside each token. OpenAI gives 5.
const LOGPROBS_MAX: u32 = 20;

/// What is not done, and what to do instead.
const REFUSED: &[(&str, &str)] = &[("suffix", "put all text into `prompt`")];

/// A checked request: at least one prompt, none empty.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) model: Option<String>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) options: Options,
    /// Whether the answer begins with the prompt.
    pub(crate) echo: bool,
    pub(crate) stream: bool,
    /// Whether the stream ends with a chunk of usage.
    pub(crate) include_usage: bool,
}

impl Wanted {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::parse(body)?;
        fields.refuse(REFUSED)?;
        let prompts = match fields.take("prompt") {
            Some(prompt) => prompts(prompt)?,
            None => return Err(missing("prompt", SHAPES)),
        };
        let mut options = options(&mut fields)?;
        options.max_tokens = Some(fields.count("max_tokens", 1..=u32::MAX)?.unwrap_or(MAX_TOKENS));
        options.logprobs = fields.count("logprobs", 0..=LOGPROBS_MAX)?;
        options.constraint = constraint(&mut fields)?;
        let best_of = fields.count("best_of", 1..=CHOICES_MAX)?;
        if best_of.is_some_and(|best_of| best_of != options.choices) {
            let message = "`best_of` is not supported here; ask for several choices with `n`";
            return Err(Error::invalid(message).with_param("best_of").with_code("unsupported_parameter"));
        }
        let choices = prompts.len().saturating_mul(options.choices as usize);
        if choices > CHOICES_MAX as usize {
            let message =
                format!("{} prompts of {} choices are more than {CHOICES_MAX}", prompts.len(), options.choices);
            return Err(Error::invalid(message).with_param("prompt"));
        }
        let echo = fields.flag("echo")?;
        if echo && options.logprobs.is_some() {
            let message = "`echo` with `logprobs` is not supported here: prompts have no log probabilities";
            return Err(Error::invalid(message).with_param("logprobs").with_code("unsupported_parameter"));
        }
        Ok(Self {
            model: fields.text("model")?,
            prompts,
            options,
            echo,
            stream: fields.flag("stream")?,
            include_usage: include_usage(&mut fields)?,
        })
    }
}

const SHAPES: &str = "a text, a list of texts, a list of token ids or a list of such lists";

fn prompts(prompt: Value) -> Result<Vec<Prompt>, Error> {
    let items = match prompt {
        Value::Array(items) if items.first().is_some_and(Value::is_number) => vec![Value::Array(items)],
        Value::Array(items) => items,
        text => vec![text],
    };
    if items.is_empty() {
        return Err(Error::invalid("`prompt` is an empty list; give at least one prompt").with_param("prompt"));
    }
    items.into_iter().enumerate().map(one).collect()
}

fn one((index, item): (usize, Value)) -> Result<Prompt, Error> {
    let at = format!("prompt[{index}]");
    let empty = || Error::invalid(format!("`{at}` is empty")).with_param(&at);
    match item {
        Value::String(text) if text.is_empty() => Err(empty()),
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) if ids.is_empty() => Err(empty()),
        Value::Array(ids) => {
            let id = |id: Value| {
                let known = id.as_u64().and_then(|id| u32::try_from(id).ok());
                known.ok_or_else(|| unfit(&at, &id, "token ids"))
            };
            ids.into_iter().map(id).collect::<Result<_, _>>().map(Prompt::Tokens)
        }
        other => Err(unfit(&at, &other, SHAPES)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use mayfly_sdk::generation::Constraint;

    use super::*;

    fn read(json: &str) -> Result<Wanted, Error> {
        Wanted::parse(json.as_bytes())
    }

    #[test]
    fn all_four_shapes() {
        let check = |prompt: &str, expect: &[Prompt]| {
            assert_eq!(read(&format!(r#"{{"prompt":{prompt}}}"#)).unwrap().prompts, expect, "{prompt}");
        };
        let text = |text: &str| Prompt::Text(text.to_owned());
        check(r#""a""#, &[text("a")]);
        check(r#"["a","b"]"#, &[text("a"), text("b")]);
        check("[1,2]", &[Prompt::Tokens(vec![1, 2])]);
        check("[[1],[2,3]]", &[Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    }

    #[test]
    fn options_of_its_own() {
        let wanted = read(r#"{"prompt":"a"}"#).unwrap();
        assert_eq!((wanted.options.max_tokens, wanted.options.logprobs), (Some(16), None));
        let wanted = read(
            r#"{"prompt":"a","model":"m","max_tokens":3,"logprobs":0,"best_of":2,"n":2,"stream":true,"suffix":null,
                "stream_options":{"include_usage":true},"guided_choice":["x"],"user":"u","unknown":1}"#,
        )
        .unwrap();
        assert_eq!((wanted.options.max_tokens, wanted.options.logprobs), (Some(3), Some(0)));
        assert_eq!(wanted.options.constraint, Some(Constraint::Choice(vec!["x".to_owned()])));
        assert!(wanted.stream && wanted.include_usage && !wanted.echo && wanted.model.as_deref() == Some("m"));
        assert!(read(r#"{"prompt":"a","echo":true}"#).unwrap().echo);
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |json: &str, param: &str| {
            let error = read(json).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some(param)), "{json}: {error}");
        };
        check("{}", "prompt");
        check(r#"{"prompt":[]}"#, "prompt");
        check(r#"{"prompt":""}"#, "prompt[0]");
        check(r#"{"prompt":["a",""]}"#, "prompt[1]");
        check(r#"{"prompt":[[1],[]]}"#, "prompt[1]");
        check(r#"{"prompt":["a",1]}"#, "prompt[1]");
        check(r#"{"prompt":[1,"a"]}"#, "prompt[0]");
        check(r#"{"prompt":[-1]}"#, "prompt[0]");
        check(r#"{"prompt":[4294967296]}"#, "prompt[0]");
        check(r#"{"prompt":{"a":1}}"#, "prompt[0]");
        check(r#"{"prompt":"a","suffix":"b"}"#, "suffix");
        check(r#"{"prompt":"a","best_of":2}"#, "best_of");
        check(r#"{"prompt":"a","logprobs":true}"#, "logprobs");
        check(r#"{"prompt":"a","logprobs":1,"echo":true}"#, "logprobs");
        check(r#"{"prompt":"a","max_tokens":0}"#, "max_tokens");
        check(&format!(r#"{{"prompt":{:?},"n":2}}"#, vec!["a"; 65]), "prompt");
    }
}
