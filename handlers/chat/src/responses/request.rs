//! What a caller may ask of `/v1/responses`.

use mayfly_sdk::Error;
use mayfly_sdk::generation::{Options, Prompt};
use serde_json::{Map, Value, json};

use crate::constraint::{constraint, text_format};
use crate::fields::{Fields, missing, unfit};
use crate::messages;
use crate::options::options;

/// What is not done, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    ("previous_response_id", "nothing is stored, so send the whole conversation in `input`"),
    ("conversation", "nothing is stored, so send the whole conversation in `input`"),
    ("prompt", "nothing is stored, so send the text in `input`"),
    ("background", "nothing is stored, so wait for the answer or set `stream`"),
    ("tools", "use /v1/chat/completions"),
    ("top_logprobs", "use /v1/chat/completions"),
    ("n", "use /v1/chat/completions"),
];

/// A checked request.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Prompt,
    pub(crate) options: Options,
    pub(crate) stream: bool,
    /// Fields that the answer repeats.
    pub(crate) told: Map<String, Value>,
}

impl Wanted {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::parse(body)?;
        fields.refuse(REFUSED)?;
        let told = told(&fields);
        let input = match fields.take("input") {
            Some(Value::String(text)) => json!([{ "role": "user", "content": text }]),
            Some(items @ Value::Array(_)) => items,
            Some(other) => return Err(unfit("input", &other, "a text or a list of messages")),
            None => return Err(missing("input", "a text or a list of messages")),
        };
        only_messages(&input)?;
        let mut all = match fields.text("instructions")? {
            Some(text) => vec![json!({ "role": "system", "content": text })],
            None => Vec::new(),
        };
        all.extend(messages::read("input", Some(input))?);
        let mut options = options(&mut fields)?;
        options.max_tokens = fields.count("max_output_tokens", 1..=u32::MAX)?;
        options.constraint = match text_format(fields.take("text"))? {
            Some(constraint) => Some(constraint),
            None => constraint(&mut fields)?,
        };
        Ok(Self {
            model: fields.text("model")?,
            prompt: messages::prompt(all, None, None),
            options,
            stream: fields.flag("stream")?,
            told,
        })
    }
}

/// Items of other kinds are about tools and stored things.
fn only_messages(input: &Value) -> Result<(), Error> {
    let items = input.as_array().into_iter().flatten().enumerate();
    for (at, item) in items {
        match item.get("type") {
            None | Some(Value::Null) => {}
            Some(kind) if kind == "message" => {}
            Some(kind) => {
                let wanted = "`message`, the one kind there is here; tools go with /v1/chat/completions";
                return Err(unfit(&format!("input[{at}].type"), kind, wanted).with_code("unsupported_content"));
            }
        }
    }
    Ok(())
}

/// As sent, else what holds without them.
fn told(fields: &Fields) -> Map<String, Value> {
    let defaults = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("temperature", Value::Null),
        ("top_p", Value::Null),
        ("user", Value::Null),
        ("text", json!({ "format": { "type": "text" } })),
    ];
    let field = |(name, default): (&str, Value)| (name.to_owned(), fields.get(name).cloned().unwrap_or(default));
    defaults.into_iter().map(field).collect()
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
    fn a_text_or_messages() {
        let check = |json: &str, messages: &str| {
            let expect = Prompt::Chat(format!(r#"{{"messages":{messages}}}"#));
            assert_eq!(read(json).unwrap().prompt, expect);
        };
        check(r#"{"input":"hi"}"#, r#"[{"role":"user","content":"hi"}]"#);
        check(
            r#"{"instructions":"be brief","input":[
                {"role":"user","content":[{"type":"input_text","text":"hi"}]},
                {"id":"msg_1","type":"message","status":"completed","role":"assistant",
                 "content":[{"type":"output_text","text":"ho","annotations":[]}]}]}"#,
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]"#,
        );
    }

    #[test]
    fn options_of_its_own() {
        let wanted = read(
            r#"{"input":"hi","model":"m","max_output_tokens":9,"temperature":0.5,"top_p":0.5,"stream":true,"store":true,
                "text":{"format":{"type":"json_schema","name":"p","schema":{"type":"string"},"strict":true}},
                "metadata":{"a":"b"},"include":[],"reasoning":{"effort":"low"},"truncation":"disabled","tools":[]}"#,
        )
        .unwrap();
        assert_eq!((wanted.options.max_tokens, wanted.options.temperature), (Some(9), Some(0.5)));
        assert_eq!(wanted.options.constraint, Some(Constraint::JsonSchema(r#"{"type":"string"}"#.to_owned())));
        assert!(wanted.stream);
        assert_eq!((&wanted.told["max_output_tokens"], &wanted.told["metadata"]), (&json!(9), &json!({ "a": "b" })));
        assert_eq!(wanted.told["text"]["format"]["name"], "p");
        assert_eq!(read(r#"{"input":"hi"}"#).unwrap().told["text"]["format"]["type"], "text");
    }

    #[test]
    fn bad_requests_are_named() {
        let check = |json: &str, param: &str| {
            let error = read(json).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some(param)), "{json}: {error}");
        };
        check("{}", "input");
        check(r#"{"input":5}"#, "input");
        check(r#"{"input":[]}"#, "input");
        check(r#"{"input":[{"role":"user"}]}"#, "input[0].content");
        check(r#"{"input":[{"type":"function_call_output","output":"x"}]}"#, "input[0].type");
        check(r#"{"input":[{"role":"user","content":[{"type":"input_image"}]}]}"#, "input[0].content[0]");
        check(r#"{"input":"hi","previous_response_id":"resp_1"}"#, "previous_response_id");
        check(r#"{"input":"hi","tools":[{"type":"web_search"}]}"#, "tools");
        check(r#"{"input":"hi","background":true}"#, "background");
        check(r#"{"input":"hi","instructions":1}"#, "instructions");
        check(r#"{"input":"hi","max_output_tokens":0}"#, "max_output_tokens");
        check(r#"{"input":"hi","text":{"format":{"type":"xml"}}}"#, "text.format.type");
        check(r#"{"input":"hi","text":{"format":{"type":"json_schema"}}}"#, "text.format.schema");
        check(r#"{"input":"hi","text":1}"#, "text");
    }
}
