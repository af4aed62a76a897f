//! The tools of a chat: what the caller offers, and what the model must do with them.

use mayfly_sdk::Error;
use serde_json::{Map, Value, json};

use crate::fields::{Fields, missing, unfit};

const TOOLS_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 64;

/// Tools that are offered, and how.
#[derive(Debug, PartialEq)]
pub(crate) struct Tools {
    /// At least one.
    pub(super) functions: Vec<Function>,
    pub(super) choice: Choice,
    /// Whether one answer may hold several calls.
    pub(super) parallel: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Function {
    /// Letters, digits, `_` and `-`: nothing that means anything in JSON or in a grammar.
    pub(super) name: String,
    description: Option<Value>,
    /// A JSON Schema of objects.
    pub(super) parameters: Option<Map<String, Value>>,
    /// Whether the arguments must satisfy the parameters.
    pub(super) strict: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    Auto,
    Required,
    Named(String),
}

impl Tools {
    /// Takes `tools`, `tool_choice` and `parallel_tool_calls`; none if the model is not to see any tool.
    pub(crate) fn take(fields: &mut Fields) -> Result<Option<Self>, Error> {
        let functions = match fields.take("tools") {
            None => Vec::new(),
            Some(Value::Array(tools)) if tools.len() <= TOOLS_MAX => functions(tools)?,
            Some(other) => return Err(unfit("tools", &other, &format!("a list of at most {TOOLS_MAX} tools"))),
        };
        let choice = choice(fields.take("tool_choice"), &functions)?;
        let parallel = fields.choice("parallel_tool_calls")?.unwrap_or(true);
        let Some(choice) = choice else { return Ok(None) };
        Ok((!functions.is_empty()).then_some(Self { functions, choice, parallel }))
    }

    /// As chat templates take them.
    pub(crate) fn for_template(&self) -> Value {
        let tool = |function: &Function| {
            let mut shown = Map::new();
            shown.insert("name".to_owned(), function.name.clone().into());
            shown.extend(function.description.clone().map(|text| ("description".to_owned(), text)));
            shown.extend(function.parameters.clone().map(|schema| ("parameters".to_owned(), schema.into())));
            json!({ "type": "function", "function": shown })
        };
        self.functions.iter().map(tool).collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.functions.iter().map(|function| function.name.clone()).collect()
    }
}

fn functions(tools: Vec<Value>) -> Result<Vec<Function>, Error> {
    let mut functions: Vec<Function> = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let at = format!("tools[{index}]");
        let function = function(&at, tool)?;
        if functions.iter().any(|other| other.name == function.name) {
            let message = format!("`{at}` has the name `{}`, as a tool before it", function.name);
            return Err(Error::invalid(message).with_param(format!("{at}.function.name")));
        }
        functions.push(function);
    }
    Ok(functions)
}

fn function(at: &str, mut tool: Value) -> Result<Function, Error> {
    if tool.get("type").is_some_and(|kind| kind != "function") {
        return Err(unfit(&format!("{at}.type"), &tool["type"], "`function`, the one kind there is here"));
    }
    let Some(Value::Object(mut function)) = tool.get_mut("function").map(Value::take) else {
        return Err(missing(&format!("{at}.function"), "an object with `name` and `parameters`"));
    };
    function.retain(|_, value| !value.is_null());
    let at = format!("{at}.function");
    let name = match function.remove("name") {
        Some(Value::String(name)) if is_name(&name) => name,
        Some(other) => {
            let wanted = format!("1 to {NAME_CHARS_MAX} letters, digits, `_` and `-`");
            return Err(unfit(&format!("{at}.name"), &other, &wanted));
        }
        None => return Err(missing(&format!("{at}.name"), "a name")),
    };
    let parameters = match function.remove("parameters") {
        None => None,
        Some(Value::Object(schema)) if schema.get("type").is_none_or(|kind| kind == "object") => Some(schema),
        Some(other) => {
            return Err(unfit(&format!("{at}.parameters"), &other, "a JSON Schema with the type `object`"));
        }
    };
    let strict = function.remove("strict") == Some(Value::Bool(true));
    Ok(Function { name, description: function.remove("description"), parameters, strict })
}

/// As OpenAI has them.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(fits)
}

/// None is `none`.
fn choice(given: Option<Value>, functions: &[Function]) -> Result<Option<Choice>, Error> {
    const WANTED: &str = "`none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": \"..\"}}";
    let Some(given) = given else { return Ok(Some(Choice::Auto)) };
    let choice = match &given {
        Value::String(word) if word == "none" => return Ok(None),
        Value::String(word) if word == "auto" => return Ok(Some(Choice::Auto)),
        Value::String(word) if word == "required" => Choice::Required,
        Value::Object(_) if given["type"] == "function" => match &given["function"]["name"] {
            Value::String(name) => Choice::Named(name.clone()),
            other => return Err(unfit("tool_choice.function.name", other, "the name of a tool")),
        },
        other => return Err(unfit("tool_choice", other, WANTED)),
    };
    match &choice {
        _ if functions.is_empty() => Err(missing("tools", "the tools that `tool_choice` is about")),
        Choice::Named(name) if !functions.iter().any(|function| function.name == *name) => {
            Err(unfit("tool_choice.function.name", &name.as_str().into(), "the name of one of the `tools`"))
        }
        _ => Ok(Some(choice)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TOOLS: &str = r#""tools":[
        {"type":"function","function":{"name":"weather","description":"d","strict":null,
            "parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},
        {"type":"function","function":{"name":"time"}}]"#;

    fn take(json: &str) -> Result<Option<Tools>, Error> {
        Tools::take(&mut Fields::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn the_template_gets_them_in_the_order_models_know() {
        let tools = take(&format!("{{{TOOLS}}}")).unwrap().unwrap();
        assert_eq!(
            tools.for_template().to_string(),
            r#"[{"type":"function","function":{"name":"weather","description":"d","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},{"type":"function","function":{"name":"time"}}]"#
        );
        assert_eq!(tools.names(), ["weather", "time"]);
    }

    #[test]
    fn no_tool_is_shown_if_none_may_be_called() {
        assert_eq!(take(&format!(r#"{{{TOOLS},"tool_choice":"none"}}"#)), Ok(None));
        assert_eq!(take(r#"{"tools":[]}"#), Ok(None));
        assert_eq!(take(r#"{"tool_choice":"auto"}"#), Ok(None));
        assert_eq!(take("{}"), Ok(None));
    }

    #[test]
    fn bad_tools_are_named() {
        let check = |json: &str, param: &str| {
            let error = take(json).unwrap_err();
            assert_eq!((error.status(), error.param()), (400, Some(param)), "{json}: {error}");
        };
        let function = |function: &str| format!(r#"{{"tools":[{{"type":"function","function":{function}}}]}}"#);
        check(r#"{"tools":{}}"#, "tools");
        check(r#"{"tools":[1]}"#, "tools[0].function");
        check(r#"{"tools":[{"type":"web_search"}]}"#, "tools[0].type");
        check(&function("{}"), "tools[0].function.name");
        check(&function(r#"{"name":"a b"}"#), "tools[0].function.name");
        check(&function(r#"{"name":"a\"%json"}"#), "tools[0].function.name");
        check(&function(r#"{"name":"a","parameters":[]}"#), "tools[0].function.parameters");
        check(&function(r#"{"name":"a","parameters":{"type":"string"}}"#), "tools[0].function.parameters");
        check(r#"{"tools":[{"function":{"name":"a"}},{"function":{"name":"a"}}]}"#, "tools[1].function.name");
        check(r#"{"tool_choice":"required"}"#, "tools");
        check(&format!(r#"{{{TOOLS},"tool_choice":"some"}}"#), "tool_choice");
        check(&format!(r#"{{{TOOLS},"tool_choice":{{"type":"function"}}}}"#), "tool_choice.function.name");
        let unknown = format!(r#"{{{TOOLS},"tool_choice":{{"type":"function","function":{{"name":"x"}}}}}}"#);
        check(&unknown, "tool_choice.function.name");
        check(&format!(r#"{{{TOOLS},"parallel_tool_calls":1}}"#), "parallel_tool_calls");
    }
}
