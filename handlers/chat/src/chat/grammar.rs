//! The grammar of a text that holds the calls that are asked for.
//!
//! Calls have the form that Qwen and Hermes models were trained on, white space included:
//! `<tool_call>\n{"name": "f", "arguments": {"a": 1, "b": 2}}\n</tool_call>`.

use mayfly_sdk::Error;
use mayfly_sdk::generation::Constraint;
use serde_json::{Map, Value, json};

use super::tools::{Choice, Function, Tools};

/// What the text must be if `tools` are offered; `answer` is what a text without calls must be.
///
/// # Errors
/// A 400 for a constraint that cannot stand beside tools.
pub(super) fn constraint(tools: &Tools, answer: Option<Constraint>) -> Result<Option<Constraint>, Error> {
    let more = if tools.parallel { r#" ("\n<tool_call>" call)*"# } else { "" };
    let start = match (&tools.choice, answer) {
        (_, Some(Constraint::Regex(_) | Constraint::Choice(_) | Constraint::Grammar(_))) => {
            let message = "`tools` go with JSON answers only; leave them out, or set `tool_choice` to `none`";
            return Err(Error::invalid(message).with_param("tools"));
        }
        (Choice::Required, _) => format!(r#""<tool_call>" call{more}"#),
        (Choice::Named(_), _) => r#""<tool_call>" call"#.to_owned(),
        // The model's own calls are right most of the time, and a text without a mask is quicker.
        (Choice::Auto, None) if tools.parallel && !tools.functions.iter().any(|function| function.strict) => {
            return Ok(None);
        }
        // The lazy rule ends where a call begins, so that no text can hold a call that is not one.
        (Choice::Auto, None) => {
            format!("text | before call{more}\ntext: /(?s:.*)/\nbefore[lazy]: /(?s:.*)/ \"<tool_call>\"")
        }
        (Choice::Auto, Some(Constraint::JsonObject)) => {
            format!(r#"%json {} | "<tool_call>" call{more}"#, json(object()))
        }
        (Choice::Auto, Some(Constraint::JsonSchema(schema))) => {
            format!(r#"%json {} | "<tool_call>" call{more}"#, json(serde_json::from_str(&schema)?))
        }
    };
    let chosen = tools.functions.iter().filter(|function| match &tools.choice {
        Choice::Named(name) => function.name == *name,
        _ => true,
    });
    let calls: Vec<String> = chosen.map(call).collect();
    Ok(Some(Constraint::Grammar(format!("start: {start}\ncall: {}\n", calls.join("\n    | ")))))
}

/// What stands between the tags. Names need no escaping.
fn call(function: &Function) -> String {
    let Function { name, .. } = function;
    let mut schema = match &function.parameters {
        Some(schema) => schema.clone(),
        None => {
            Map::from_iter([("properties".to_owned(), json!({})), ("additionalProperties".to_owned(), false.into())])
        }
    };
    if !["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|keyword| schema.contains_key(*keyword)) {
        schema.extend(object());
    }
    let schema = json(schema);
    format!(r#""\n{{\"name\": \"{name}\", \"arguments\": " %json {schema} "}}\n</tool_call>""#)
}

/// The schema of any object.
fn object() -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), "object".into())])
}

/// A schema as `%json` takes it, with white space as models write it most and no more: under a constraint some write
/// it for ever.
fn json(mut schema: Map<String, Value>) -> Value {
    let spaces = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
    schema.insert("x-guidance".to_owned(), spaces);
    Value::Object(schema)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::fields::Fields;

    const SCHEMA: &str = r#""type":"object","properties":{"city":{"type":"string"},"at":{"type":"integer"}}"#;

    const SPACES: &str = r#""x-guidance":{"whitespace_flexible":false,"item_separator":", ","key_separator":": "}"#;

    /// The constraint of two tools, the first with `SCHEMA`, with these fields beside them.
    fn grammar(first: &str, more: &str, answer: Option<Constraint>) -> Result<Option<Constraint>, Error> {
        let tools = format!(
            r#"{{"tools":[{{"function":{{"name":"weather","parameters":{{{SCHEMA}}}{first}}}}},
                {{"function":{{"name":"time"}}}}]{more}}}"#
        );
        let tools = Tools::take(&mut Fields::parse(tools.as_bytes()).unwrap()).unwrap().unwrap();
        constraint(&tools, answer)
    }

    fn text(constraint: Result<Option<Constraint>, Error>) -> String {
        match constraint {
            Ok(Some(Constraint::Grammar(grammar))) => grammar,
            other => panic!("{other:?} is no grammar"),
        }
    }

    #[test]
    fn a_text_may_be_anything_if_the_model_decides() {
        assert_eq!(grammar("", "", None), Ok(None));
        assert_eq!(grammar("", r#","tool_choice":"auto""#, None), Ok(None));
    }

    #[test]
    fn calls_that_must_come() {
        let spaces = SPACES;
        let expect = [
            r#"start: "<tool_call>" call ("\n<tool_call>" call)*"#.to_owned(),
            format!(
                r#"call: "\n{{\"name\": \"weather\", \"arguments\": " %json {{{SCHEMA},{spaces}}} "}}\n</tool_call>""#
            ),
            format!(
                r#"    | "\n{{\"name\": \"time\", \"arguments\": " %json {{"properties":{{}},"additionalProperties":false,"type":"object",{spaces}}} "}}\n</tool_call>""#
            ),
        ];
        let required = text(grammar("", r#","tool_choice":"required""#, None));
        assert_eq!(required.lines().collect::<Vec<_>>(), expect);
        let one = text(grammar("", r#","tool_choice":"required","parallel_tool_calls":false"#, None));
        assert!(one.starts_with("start: \"<tool_call>\" call\n"), "{one}");
        let named = r#","tool_choice":{"type":"function","function":{"name":"time"}}"#;
        let named = text(grammar("", named, None));
        assert!(named.starts_with("start: \"<tool_call>\" call\ncall: ") && !named.contains("weather"), "{named}");
    }

    #[test]
    fn calls_are_constrained_and_text_stays_free() {
        let strict = text(grammar(r#","strict":true"#, "", None));
        assert!(strict.starts_with("start: text | before call (\"\\n<tool_call>\" call)*\ntext: "), "{strict}");
        let one = text(grammar("", r#","parallel_tool_calls":false"#, None));
        assert!(one.starts_with("start: text | before call\ntext: "), "{one}");
    }

    #[test]
    fn a_json_answer_or_calls() {
        let schema = || Some(Constraint::JsonSchema(r#"{"type":"string"}"#.to_owned()));
        let either = text(grammar("", "", schema()));
        let begin = format!(r#"start: %json {{"type":"string",{SPACES}}} | "<tool_call>" call"#);
        assert!(either.starts_with(&begin), "{either}");
        let object = text(grammar("", "", Some(Constraint::JsonObject)));
        assert_eq!(object, either.replacen(r#""type":"string""#, r#""type":"object""#, 1));
        let must = text(grammar("", r#","tool_choice":"required""#, schema()));
        assert!(must.starts_with("start: \"<tool_call>\" call"), "{must}");
        for choice in ["", r#","tool_choice":"required""#] {
            let error = grammar("", choice, Some(Constraint::Regex("a".to_owned()))).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some("tools")));
        }
    }
}
