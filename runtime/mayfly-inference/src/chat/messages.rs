//! OpenAI's messages and tools, checked and brought into the form that templates take.

use serde_json::{Map, Value, json};

use super::{ChatError, ContentForm};

/// Messages of one chat (`chat_messages_max`).
const MESSAGES_MAX: usize = 4096;
/// Templates write a role into their own special tokens, so only these are taken.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The messages, each an object with a known role and a content of the wanted form; arguments of tool calls are objects.
pub(super) fn shaped(messages: &Value, form: ContentForm) -> Result<Vec<Map<String, Value>>, ChatError> {
    let Some(list) = messages.as_array() else { return Err(invalid("`messages` must be a list")) };
    if list.is_empty() {
        return Err(invalid("`messages` must have at least one message"));
    }
    if list.len() > MESSAGES_MAX {
        return Err(invalid(&format!("`messages` has {} messages; at most {MESSAGES_MAX} are taken", list.len())));
    }
    list.iter().enumerate().map(|(at, message)| shape(message, at, form)).collect()
}

fn shape(message: &Value, at: usize, form: ContentForm) -> Result<Map<String, Value>, ChatError> {
    let fault = |what: &str| invalid(&format!("`messages[{at}]{what}"));
    let Some(message) = message.as_object() else { return Err(fault("` must be an object")) };
    let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
    if !ROLES.contains(&role) {
        return Err(fault(&format!(".role` must be one of {}", ROLES.join(", "))));
    }
    let mut message = message.clone();
    let content = content(message.get("content").unwrap_or(&Value::Null), form).map_err(|what| fault(&what))?;
    message.insert("content".to_owned(), content);
    match message.get_mut("tool_calls") {
        None => {}
        Some(Value::Null) => drop(message.shift_remove("tool_calls")),
        Some(Value::Array(calls)) => {
            for (call_at, call) in calls.iter_mut().enumerate() {
                arguments(call).map_err(|what| fault(&format!(".tool_calls[{call_at}]{what}")))?;
            }
        }
        Some(_) => return Err(fault(".tool_calls` must be a list")),
    }
    Ok(message)
}

/// Text parts are joined by line ends where a template wants a string; nothing counts as no text.
fn content(content: &Value, form: ContentForm) -> Result<Value, String> {
    match (content, form) {
        (Value::Null, ContentForm::Parts) => Ok(json!([])),
        (Value::Null, _) => Ok(json!("")),
        (Value::String(text), ContentForm::Parts) => Ok(json!([{"type": "text", "text": text}])),
        (Value::String(_), _) => Ok(content.clone()),
        (Value::Array(parts), form) => {
            let texts = parts.iter().enumerate().map(|(at, part)| text_of(part, at)).collect::<Result<Vec<_>, _>>()?;
            Ok(match form {
                ContentForm::Text => json!(texts.join("\n")),
                _ => texts.into_iter().map(|text| json!({"type": "text", "text": text})).collect(),
            })
        }
        _ => Err(".content` must be a string or a list of parts".to_owned()),
    }
}

fn text_of(part: &Value, at: usize) -> Result<&str, String> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("text");
    let text = match kind {
        "text" | "refusal" => part.get(kind).and_then(Value::as_str),
        // Its name is not repeated: it is the caller's, of any length.
        _ => return Err(format!(".content[{at}]` is no text, and this model takes only text")),
    };
    text.ok_or_else(|| format!(".content[{at}]` has no `{kind}`"))
}

/// OpenAI writes arguments as a string of JSON, templates print the object.
fn arguments(call: &mut Value) -> Result<(), String> {
    let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
        return Err("` has no function".to_owned());
    };
    if !function.get("name").is_some_and(Value::is_string) {
        return Err(".function` has no name".to_owned());
    }
    let arguments = function.entry("arguments").or_insert_with(|| json!({}));
    let parsed = match &*arguments {
        Value::String(text) if text.trim().is_empty() => json!({}),
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => {
            return if arguments.is_object() {
                Ok(())
            } else {
                Err(".function.arguments` must be a string".to_owned())
            };
        }
    };
    if !parsed.is_object() {
        return Err(".function.arguments` is not a JSON object".to_owned());
    }
    *arguments = parsed;
    Ok(())
}

/// The tools, none if the list is empty.
pub(super) fn tools(tools: Option<&Value>) -> Result<Option<&Value>, ChatError> {
    match tools {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(all @ Value::Array(list)) if list.iter().all(Value::is_object) => Ok(Some(all)),
        Some(_) => Err(invalid("`tools` must be a list of objects")),
    }
}

pub(super) fn invalid(what: &str) -> ChatError {
    ChatError::Invalid(what.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn content_takes_the_form_of_the_template() {
        let both = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        for (given, form, expect) in [
            (json!("x"), ContentForm::Text, json!("x")),
            (json!("x"), ContentForm::Parts, json!([{"type": "text", "text": "x"}])),
            (json!("x"), ContentForm::Any, json!("x")),
            (both.clone(), ContentForm::Text, json!("a\nb")),
            (both.clone(), ContentForm::Any, both.clone()),
            (json!(null), ContentForm::Text, json!("")),
            (json!(null), ContentForm::Parts, json!([])),
        ] {
            assert_eq!(content(&given, form), Ok(expect), "{given} {form:?}");
        }
    }

    #[test]
    fn arguments_become_objects() {
        let message = json!([{"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}]}]);
        let shaped = shaped(&message, ContentForm::Text).unwrap();
        assert_eq!(shaped[0]["tool_calls"][0]["function"]["arguments"].to_string(), r#"{"b":1,"a":2}"#);
    }

    #[test]
    fn bad_messages_say_where() {
        for (messages, why) in [
            (json!("hello"), "must be a list"),
            (json!([]), "at least one"),
            (json!([1]), "`messages[0]` must be an object"),
            (json!([{"content": "x"}]), "`messages[0].role` must be one of"),
            (json!([{"role": "user", "content": "x"}, {"role": "im_end", "content": "x"}]), "`messages[1].role`"),
            (json!([{"role": "user", "content": 4}]), "`messages[0].content` must be"),
            (json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), "takes only text"),
            (json!([{"role": "user", "content": [{"type": "text"}]}]), "has no `text`"),
            (json!([{"role": "assistant", "tool_calls": {}}]), "`messages[0].tool_calls` must be a list"),
            (json!([{"role": "assistant", "tool_calls": [{}]}]), "`messages[0].tool_calls[0]` has no function"),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
                "arguments` is not a JSON object",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]),
                "arguments` must be a string",
            ),
        ] {
            let said = shaped(&messages, ContentForm::Text).unwrap_err().to_string();
            assert!(said.contains(why), "{why}: {said}");
        }
        assert!(tools(Some(&json!({"a": 1}))).is_err() && tools(Some(&json!(["a"]))).is_err());
        assert!(tools(Some(&json!([]))).unwrap().is_none() && tools(Some(&json!(null))).unwrap().is_none());
    }
}
