//! What the text must be: OpenAI's `response_format`, and vLLM's `guided_*`.

use mayfly_sdk::Error;
use mayfly_sdk::generation::Constraint;
use serde_json::{Map, Value};

use crate::fields::{Fields, missing, unfit};

/// vLLM's names.
const GUIDES: [&str; 4] = ["guided_json", "guided_regex", "guided_choice", "guided_grammar"];
const CHOICES_MAX: usize = 1024;

/// Takes the constraint, of which a request has one at most.
pub(crate) fn constraint(fields: &mut Fields) -> Result<Option<Constraint>, Error> {
    let mut found = match fields.take("response_format") {
        None => None,
        Some(Value::Object(format)) => response_format(format)?.map(|constraint| ("response_format", constraint)),
        Some(other) => return Err(unfit("response_format", &other, "an object with a `type`")),
    };
    for name in GUIDES {
        let Some(value) = fields.take(name) else { continue };
        if let Some((other, _)) = found {
            return Err(Error::invalid(format!("`{name}` and `{other}` cannot both hold; give one")).with_param(name));
        }
        found = Some((name, guide(name, value)?));
    }
    Ok(found.map(|(_, constraint)| constraint))
}

fn response_format(mut format: Map<String, Value>) -> Result<Option<Constraint>, Error> {
    let schema = match format.remove("json_schema") {
        Some(Value::Object(mut named)) => named.remove("schema"),
        _ => None,
    };
    of_type("response_format", format.remove("type"), "json_schema.schema", schema)
}

/// The `text` of `/v1/responses`, whose `format` has the schema's fields beside its type.
pub(crate) fn text_format(text: Option<Value>) -> Result<Option<Constraint>, Error> {
    let mut text = match text {
        None => return Ok(None),
        Some(Value::Object(text)) => text,
        Some(other) => return Err(unfit("text", &other, "an object with `format`")),
    };
    match text.remove("format") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(mut format)) => {
            of_type("text.format", format.remove("type"), "schema", format.remove("schema"))
        }
        Some(other) => Err(unfit("text.format", &other, "an object with a `type`")),
    }
}

/// The constraint of a format that stands in the field `at`.
fn of_type(at: &str, kind: Option<Value>, schema_at: &str, schema: Option<Value>) -> Result<Option<Constraint>, Error> {
    let type_at = format!("{at}.type");
    let kind = kind.ok_or_else(|| missing(&type_at, TYPES))?;
    match kind.as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Constraint::JsonObject)),
        Some("json_schema") => json_schema(&format!("{at}.{schema_at}"), schema).map(Some),
        _ => Err(unfit(&type_at, &kind, TYPES)),
    }
}

const TYPES: &str = "`text`, `json_object` or `json_schema`";

/// A schema from the field `param`.
fn json_schema(param: &str, schema: Option<Value>) -> Result<Constraint, Error> {
    match schema {
        Some(schema @ Value::Object(_)) => Ok(Constraint::JsonSchema(schema.to_string())),
        None | Some(Value::Null) => Err(missing(param, "a JSON Schema")),
        Some(other) => Err(unfit(param, &other, "a JSON Schema, which is an object")),
    }
}

fn guide(name: &'static str, value: Value) -> Result<Constraint, Error> {
    match (name, value) {
        ("guided_json", Value::String(schema)) => {
            let schema = serde_json::from_str(&schema)
                .map_err(|error| Error::invalid(format!("`{name}` is no JSON: {error}")).with_param(name))?;
            json_schema(name, Some(schema))
        }
        ("guided_json", schema) => json_schema(name, Some(schema)),
        ("guided_regex", Value::String(pattern)) => Ok(Constraint::Regex(pattern)),
        ("guided_grammar", Value::String(grammar)) => Ok(Constraint::Grammar(grammar)),
        ("guided_choice", Value::Array(texts)) if (1..=CHOICES_MAX).contains(&texts.len()) => {
            let text = |text| match text {
                Value::String(text) if !text.is_empty() => Ok(text),
                other => Err(unfit(name, &other, "texts, none empty")),
            };
            texts.into_iter().map(text).collect::<Result<_, _>>().map(Constraint::Choice)
        }
        ("guided_choice", other) => Err(unfit(name, &other, &format!("a list of 1 to {CHOICES_MAX} texts"))),
        (_, other) => Err(unfit(name, &other, "a string")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(json: &str) -> Result<Option<Constraint>, Error> {
        constraint(&mut Fields::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn each_kind() {
        let check = |json: &str, expect: Option<Constraint>| assert_eq!(read(json), Ok(expect), "{json}");
        let schema = |text: &str| Some(Constraint::JsonSchema(text.to_owned()));
        check("{}", None);
        check(r#"{"response_format":{"type":"text"}}"#, None);
        check(r#"{"response_format":{"type":"json_object"}}"#, Some(Constraint::JsonObject));
        check(
            r#"{"response_format":{"type":"json_schema","json_schema":{"name":"p","strict":true,
                "schema":{"type":"object","properties":{"z":{},"a":{}}}}}}"#,
            schema(r#"{"type":"object","properties":{"z":{},"a":{}}}"#),
        );
        check(r#"{"guided_json":{"type":"string"}}"#, schema(r#"{"type":"string"}"#));
        check(r#"{"guided_json":"{\"type\": \"string\"}"}"#, schema(r#"{"type":"string"}"#));
        check(r#"{"guided_regex":"a+"}"#, Some(Constraint::Regex("a+".to_owned())));
        check(r#"{"guided_choice":["a","b"]}"#, Some(Constraint::Choice(vec!["a".to_owned(), "b".to_owned()])));
        check(r#"{"guided_grammar":"start: \"a\""}"#, Some(Constraint::Grammar("start: \"a\"".to_owned())));
    }

    #[test]
    fn bad_ones_are_named() {
        let check = |json: &str, param: &str| {
            let error = read(json).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some(param)), "{json}: {error}");
        };
        check(r#"{"response_format":"json"}"#, "response_format");
        check(r#"{"response_format":{}}"#, "response_format.type");
        check(r#"{"response_format":{"type":"xml"}}"#, "response_format.type");
        check(r#"{"response_format":{"type":"json_schema"}}"#, "response_format.json_schema.schema");
        check(
            r#"{"response_format":{"type":"json_schema","json_schema":{"schema":1}}}"#,
            "response_format.json_schema.schema",
        );
        check(r#"{"guided_json":"{"}"#, "guided_json");
        check(r#"{"guided_regex":1}"#, "guided_regex");
        check(r#"{"guided_choice":[]}"#, "guided_choice");
        check(r#"{"guided_choice":[""]}"#, "guided_choice");
        check(r#"{"guided_regex":"a","guided_choice":["a"]}"#, "guided_choice");
        check(r#"{"guided_regex":"a","response_format":{"type":"json_object"}}"#, "guided_regex");
    }
}
