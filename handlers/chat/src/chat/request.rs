//! What a caller may ask of `/v1/chat/completions`.

use mayfly_sdk::Error;
use mayfly_sdk::generation::{Options, Prompt};
use serde_json::Value;

use super::grammar;
use super::tools::Tools;
use crate::constraint::constraint;
use crate::fields::{Fields, unfit};
use crate::messages;
use crate::options::{include_usage, options};

/// Likeliest tokens beside each token, as at OpenAI.
const TOP_LOGPROBS_MAX: u32 = 20;

/// What is not done, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("functions", "use `tools`"),
    ("function_call", "use `tool_choice`"),
    ("audio", "this endpoint gives text only"),
    ("web_search_options", "leave it out"),
    ("continue_final_message", "leave it out"),
    ("echo", "leave it out"),
];

/// A checked request.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Prompt,
    pub(crate) options: Options,
    pub(crate) tools: Option<Tools>,
    pub(crate) stream: bool,
    /// Whether the stream ends with a chunk of usage.
    pub(crate) include_usage: bool,
}

impl Wanted {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::parse(body)?;
        fields.refuse(REFUSED)?;
        text_only(&mut fields)?;
        let messages = messages::read("messages", fields.take("messages"))?;
        let tools = Tools::take(&mut fields)?;
        let mut options = options(&mut fields)?;
        let max_tokens = fields.count("max_tokens", 1..=u32::MAX)?;
        options.max_tokens = fields.count("max_completion_tokens", 1..=u32::MAX)?.or(max_tokens);
        options.logprobs = logprobs(&mut fields)?;
        let answer = constraint(&mut fields)?;
        options.constraint = match &tools {
            Some(tools) => grammar::constraint(tools, answer)?,
            None => answer,
        };
        Ok(Self {
            model: fields.text("model")?,
            prompt: messages::prompt(
                messages,
                tools.as_ref().map(Tools::for_template),
                template_settings(&mut fields)?,
            ),
            options,
            tools,
            stream: fields.flag("stream")?,
            include_usage: include_usage(&mut fields)?,
        })
    }
}

fn text_only(fields: &mut Fields) -> Result<(), Error> {
    match fields.take("modalities") {
        None => Ok(()),
        Some(Value::Array(kinds)) if kinds.iter().all(|kind| kind == "text") => Ok(()),
        Some(other) => Err(unfit("modalities", &other, "[\"text\"], the one kind there is here")),
    }
}

fn logprobs(fields: &mut Fields) -> Result<Option<u32>, Error> {
    let top = fields.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    match (fields.flag("logprobs")?, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(Error::invalid("`top_logprobs` needs `logprobs`: set it to `true`").with_param("top_logprobs"))
        }
    }
}

/// Variables for the model's chat template, such as `enable_thinking`.
fn template_settings(fields: &mut Fields) -> Result<Option<Value>, Error> {
    match fields.take("chat_template_kwargs") {
        None => Ok(None),
        Some(settings @ Value::Object(_)) => Ok(Some(settings)),
        Some(other) => Err(unfit("chat_template_kwargs", &other, "a map from names to values")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use mayfly_sdk::generation::Constraint;

    use super::*;

    /// A request with these fields beside a message.
    fn read(fields: &str) -> Result<Wanted, Error> {
        Wanted::parse(format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{fields}}}"#).as_bytes())
    }

    #[test]
    fn the_least() {
        let wanted = read("").unwrap();
        assert_eq!(wanted.prompt, Prompt::Chat(r#"{"messages":[{"role":"user","content":"hi"}]}"#.to_owned()));
        assert_eq!(wanted.options, Options::default());
        assert!(wanted.model.is_none() && wanted.tools.is_none() && !wanted.stream && !wanted.include_usage);
    }

    #[test]
    fn what_stock_clients_send_is_taken() {
        let wanted = read(
            r#","model":"m","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},
                "max_tokens":5,"logprobs":true,"top_logprobs":2,"user":"u","metadata":{"a":"b"},"store":true,
                "service_tier":"auto","reasoning_effort":"low","verbosity":"low","prediction":{"type":"content"},
                "modalities":["text"],"prompt_cache_key":"k","safety_identifier":"s","functions":null,
                "chat_template_kwargs":{"enable_thinking":false},"parallel_tool_calls":true,"something_new":1"#,
        )
        .unwrap();
        assert_eq!((wanted.model.as_deref(), wanted.stream, wanted.include_usage), (Some("m"), true, true));
        assert_eq!((wanted.options.max_tokens, wanted.options.logprobs), (Some(5), Some(2)));
        let Prompt::Chat(prompt) = wanted.prompt else { panic!("a chat is a chat") };
        assert!(prompt.ends_with(r#","chat_template_kwargs":{"enable_thinking":false}}"#), "{prompt}");
    }

    #[test]
    fn the_newer_name_of_max_tokens_counts() {
        let max = |fields| read(fields).unwrap().options.max_tokens;
        assert_eq!(max(r#","max_completion_tokens":7"#), Some(7));
        assert_eq!(max(r#","max_tokens":9,"max_completion_tokens":7"#), Some(7));
    }

    #[test]
    fn tools_are_shown_and_constrain() {
        let tools = r#","tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required""#;
        let wanted = read(tools).unwrap();
        let Prompt::Chat(prompt) = wanted.prompt else { panic!("a chat is a chat") };
        assert!(prompt.ends_with(r#","tools":[{"type":"function","function":{"name":"f"}}]}"#), "{prompt}");
        assert!(matches!(wanted.options.constraint, Some(Constraint::Grammar(_))));
        let format = r#","response_format":{"type":"json_object"}"#;
        assert_eq!(read(format).unwrap().options.constraint, Some(Constraint::JsonObject));
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |fields: &str, param: &str| {
            let error = read(fields).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some(param)), "{fields}: {error}");
        };
        check(r#","model":5"#, "model");
        check(r#","max_tokens":0"#, "max_tokens");
        check(r#","max_completion_tokens":-1"#, "max_completion_tokens");
        check(r#","logprobs":2"#, "logprobs");
        check(r#","logprobs":true,"top_logprobs":21"#, "top_logprobs");
        check(r#","top_logprobs":2"#, "top_logprobs");
        check(r#","stream":"yes""#, "stream");
        check(r#","stream_options":true"#, "stream_options");
        check(r#","stream_options":{"include_usage":1}"#, "stream_options.include_usage");
        check(r#","functions":[{"name":"f"}]"#, "functions");
        check(r#","modalities":["text","audio"]"#, "modalities");
        check(r#","chat_template_kwargs":[]"#, "chat_template_kwargs");
    }
}
