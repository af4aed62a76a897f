//! The messages of a chat, checked and brought into the form that chat templates take: text instead of parts, arguments
//! of calls as objects instead of text, and no fields that are `null`.

use mayfly_sdk::Error;
use mayfly_sdk::generation::Prompt;
use serde_json::{Map, Value};

use crate::fields::{missing, unfit};

const ROLES: &str = "`system`, `developer`, `user`, `assistant` or `tool`";

/// Reads the messages in the field `name`.
pub(crate) fn read(name: &str, messages: Option<Value>) -> Result<Vec<Value>, Error> {
    match messages {
        Some(Value::Array(messages)) if !messages.is_empty() => {
            messages.into_iter().enumerate().map(|(at, message)| one(&format!("{name}[{at}]"), message)).collect()
        }
        Some(Value::Array(_)) => {
            Err(Error::invalid(format!("`{name}` is an empty list; give at least one message")).with_param(name))
        }
        Some(other) => Err(unfit(name, &other, "a list of messages")),
        None => Err(missing(name, "a list of messages")),
    }
}

/// What the host makes the prompt from: messages, tools and variables for the model's chat template.
pub(crate) fn prompt(messages: Vec<Value>, tools: Option<Value>, settings: Option<Value>) -> Prompt {
    let mut chat = Map::new();
    chat.insert("messages".to_owned(), messages.into());
    chat.extend(tools.map(|tools| ("tools".to_owned(), tools)));
    chat.extend(settings.map(|settings| ("chat_template_kwargs".to_owned(), settings)));
    Prompt::Chat(Value::Object(chat).to_string())
}

fn one(at: &str, message: Value) -> Result<Value, Error> {
    let Value::Object(mut message) = message else {
        return Err(unfit(at, &message, "an object with `role` and `content`"));
    };
    message.retain(|_, value| !value.is_null());
    let role_at = format!("{at}.role");
    let role = match message.remove("role") {
        None => return Err(missing(&role_at, ROLES)),
        Some(role) => match role.as_str() {
            Some(role @ ("system" | "user" | "assistant" | "tool")) => role.to_owned(),
            // No template knows it; it is what `system` is called for newer models.
            Some("developer") => "system".to_owned(),
            Some("function") => return Err(unfit(&role_at, &role, "`tool`, which has taken its place")),
            _ => return Err(unfit(&role_at, &role, ROLES)),
        },
    };
    for field in ["function_call", "audio"] {
        if message.contains_key(field) {
            return Err(Error::invalid(format!("`{at}.{field}` is not supported here"))
                .with_param(format!("{at}.{field}"))
                .with_code("unsupported_parameter"));
        }
    }
    let calls = match message.remove("tool_calls") {
        Some(Value::Array(calls)) if role == "assistant" && !calls.is_empty() => Some(tool_calls(at, calls)?),
        None | Some(Value::Array(_)) => None,
        Some(other) => return Err(unfit(&format!("{at}.tool_calls"), &other, "a list of calls")),
    };
    let content_at = format!("{at}.content");
    let content = match message.remove("content") {
        Some(content) => text(&content_at, content)?,
        None if role == "assistant" => String::new(),
        None => return Err(missing(&content_at, "a text")),
    };
    let mut clean = Map::new();
    clean.insert("role".to_owned(), role.into());
    clean.insert("content".to_owned(), content.into());
    // `reasoning_content` is what templates of models that think take for earlier thoughts.
    for field in ["name", "tool_call_id", "reasoning_content"] {
        match message.remove(field) {
            None => {}
            Some(value @ Value::String(_)) => drop(clean.insert(field.to_owned(), value)),
            Some(other) => return Err(unfit(&format!("{at}.{field}"), &other, "a string")),
        }
    }
    if let Some(calls) = calls {
        clean.insert("tool_calls".to_owned(), calls);
    }
    Ok(Value::Object(clean))
}

/// Content as one text; the texts of several parts stand on lines of their own.
fn text(at: &str, content: Value) -> Result<String, Error> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(unfit(at, &other, "a text or a list of text parts")),
    };
    let part = |(index, mut part): (usize, Value)| {
        let at = format!("{at}[{index}]");
        let field = match part.get("type").and_then(Value::as_str) {
            Some("text" | "input_text" | "output_text") => "text",
            Some("refusal") => "refusal",
            Some(_) => {
                let message = format!("`{at}` is not text; this endpoint takes text only");
                return Err(Error::invalid(message).with_param(at).with_code("unsupported_content"));
            }
            None => return Err(unfit(&at, &part, "an object such as {\"type\": \"text\", \"text\": \"..\"}")),
        };
        match part.get_mut(field).map(Value::take) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(unfit(&format!("{at}.{field}"), &other, "a string")),
            None => Err(missing(&format!("{at}.{field}"), "a text")),
        }
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

/// Calls that an assistant made before. Templates write their arguments as JSON, so these must not be text any more.
fn tool_calls(at: &str, calls: Vec<Value>) -> Result<Value, Error> {
    let call = |(index, mut call): (usize, Value)| {
        let at = format!("{at}.tool_calls[{index}]");
        let name_at = format!("{at}.function.name");
        let function = call.get_mut("function").and_then(Value::as_object_mut);
        let Some(function) = function else { return Err(missing(&name_at, "the called function's name")) };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(missing(&name_at, "the called function's name"));
        }
        let arguments_at = format!("{at}.function.arguments");
        let arguments = match function.remove("arguments") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(object @ Value::Object(_)) => object,
            Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
            Some(Value::String(text)) => match serde_json::from_str(&text) {
                Ok(object @ Value::Object(_)) => object,
                _ => return Err(unfit(&arguments_at, &text.into(), "a JSON object, written as text")),
            },
            Some(other) => return Err(unfit(&arguments_at, &other, "a JSON object, written as text")),
        };
        function.insert("arguments".to_owned(), arguments);
        Ok(call)
    };
    calls.into_iter().enumerate().map(call).collect::<Result<_, _>>().map(Value::Array)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn json(text: &str) -> Option<Value> {
        Some(serde_json::from_str(text).unwrap())
    }

    fn check(given: &str, expect: &str) {
        assert_eq!(Value::Array(read("messages", json(given)).unwrap()).to_string(), expect);
    }

    fn refused(given: &str, param: &str) {
        let error = read("messages", json(given)).unwrap_err();
        assert_eq!((error.status(), error.param()), (400, Some(param)), "{given}: {error}");
    }

    #[test]
    fn texts_and_parts() {
        check(
            r#"[{"role":"developer","content":"be brief"},{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"role":"user","name":"Ann"}]"#,
            r#"[{"role":"system","content":"be brief"},{"role":"user","content":"a\nb","name":"Ann"}]"#,
        );
    }

    #[test]
    fn an_answer_of_ours_can_be_sent_back() {
        check(
            r#"[{"content":null,"refusal":null,"role":"assistant","annotations":[],"audio":null,"function_call":null,
                 "tool_calls":[{"id":"call_1","function":{"arguments":"{\"b\": 1, \"a\": 2}","name":"f"},"type":"function"}]},
                {"role":"tool","tool_call_id":"call_1","content":"3"},{"role":"assistant","content":"3","tool_calls":[]}]"#,
            r#"[{"role":"assistant","content":"","tool_calls":[{"id":"call_1","function":{"name":"f","arguments":{"b":1,"a":2}},"type":"function"}]},{"role":"tool","content":"3","tool_call_id":"call_1"},{"role":"assistant","content":"3"}]"#,
        );
    }

    #[test]
    fn bad_messages_are_named() {
        assert_eq!(read("messages", None).unwrap_err().param(), Some("messages"));
        refused("[]", "messages");
        refused(r#""hello""#, "messages");
        refused(r#"["hello"]"#, "messages[0]");
        refused(r#"[{"content":"a"}]"#, "messages[0].role");
        refused(r#"[{"role":"king","content":"a"}]"#, "messages[0].role");
        refused(r#"[{"role":"function","content":"a"}]"#, "messages[0].role");
        refused(r#"[{"role":"user"}]"#, "messages[0].content");
        refused(r#"[{"role":"user","content":5}]"#, "messages[0].content");
        refused(r#"[{"role":"user","content":["a"]}]"#, "messages[0].content[0]");
        refused(r#"[{"role":"user","content":[{"type":"text"}]}]"#, "messages[0].content[0].text");
        refused(
            r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#,
            "messages[0].content[0]",
        );
        refused(r#"[{"role":"user","content":"a","name":1}]"#, "messages[0].name");
        refused(r#"[{"role":"assistant","function_call":{}}]"#, "messages[0].function_call");
        let calls = |calls: &str| format!(r#"[{{"role":"assistant","tool_calls":{calls}}}]"#);
        refused(&calls("5"), "messages[0].tool_calls");
        refused(&calls("[5]"), "messages[0].tool_calls[0].function.name");
        refused(&calls(r#"[{"function":{}}]"#), "messages[0].tool_calls[0].function.name");
        for arguments in [r#""{""#, r#""[1]""#, "5"] {
            let call = format!(r#"[{{"function":{{"name":"f","arguments":{arguments}}}}}]"#);
            refused(&calls(&call), "messages[0].tool_calls[0].function.arguments");
        }
    }
}
