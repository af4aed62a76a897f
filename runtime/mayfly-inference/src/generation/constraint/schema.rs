//! Which JSON schemas are taken, before the compiler sees them.
//!
//! The compiler ignores keywords it does not know, and some that its draft does not have. Here each keyword is enforced,
//! or an annotation, or refused by its name; what reaches the compiler is what is enforced.

use serde_json::{Map, Value, json};

use crate::generation::OptionError;

const KIND: &str = "JSON schema";
/// Schemas inside schemas.
const DEPTH_MAX: usize = 64;
/// The largest number of characters, items or properties that a keyword may ask for.
const COUNT_MAX: u64 = 10_000;
/// Alternatives of one `oneOf`: each is compared with each.
const ONE_OF_MAX: usize = 128;
/// `$ref`s from one to the next.
const HOPS_MAX: usize = 16;
/// Characters of a name or place in an error.
const NAME_CHARS_MAX: usize = 200;

pub(super) const ONE_OF: &str = "its alternatives can only be told apart while they are written if each requires a \
                                 property with a `const` or `enum` of its own, or has a type of its own; use `anyOf`";

/// Reads and checks a schema; gives it as the compiler takes it.
pub(super) fn read(text: &str) -> Result<Value, OptionError> {
    let schema: Value = serde_json::from_str(text)
        .map_err(|error| OptionError::Unusable { kind: KIND, detail: format!("it is no JSON: {error}") })?;
    let reader = Reader { root: &schema };
    let checked = reader.schema(&schema, "#", 0)?;
    Ok(finish(checked))
}

/// Bounds the white space between tokens: models under a constraint are known to write it for ever.
pub(super) fn finish(schema: Value) -> Value {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({"anyOf": [false]}),
        other => other,
    };
    schema["x-guidance"] = json!({"whitespace_flexible": true, "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"});
    schema
}

pub(super) fn unsupported(keyword: &str, at: &str, reason: &str) -> OptionError {
    OptionError::Keyword { keyword: short(keyword), at: short(at), reason: reason.to_owned() }
}

/// Names are a caller's and can be as long as the schema.
fn short(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.to_owned(),
    }
}

struct Reader<'a> {
    root: &'a Value,
}

impl Reader<'_> {
    fn schema(&self, schema: &Value, at: &str, depth: usize) -> Result<Value, OptionError> {
        if depth > DEPTH_MAX {
            let detail = format!("schemas are nested more than {DEPTH_MAX} deep");
            return Err(OptionError::TooLarge { kind: KIND, detail });
        }
        let keywords = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(keywords) => keywords,
            _ => return Err(unusable(at, "a schema is an object, `true` or `false`")),
        };
        let mut checked = Map::new();
        for (keyword, value) in keywords {
            let at = format!("{at}/{keyword}");
            let below = |value: &Value| self.schema(value, &at, depth + 1);
            let value = match keyword.as_str() {
                "properties" | "patternProperties" | "$defs" | "definitions" => {
                    Value::Object(self.map(value, &at, depth)?)
                }
                "additionalProperties" | "additionalItems" => below(value)?,
                "items" if !value.is_array() => below(value)?,
                "items" | "prefixItems" | "anyOf" | "allOf" => self.list(value, &at, depth)?,
                "oneOf" => {
                    let alternatives = self.list(value, &at, depth)?;
                    if self.are_apart(value, &at)? && !keywords.contains_key("anyOf") {
                        checked.insert("anyOf".to_owned(), alternatives);
                        continue;
                    }
                    alternatives
                }
                "$ref" => {
                    self.target(value, &at)?;
                    value.clone()
                }
                "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
                    count(value, keyword, &at)?;
                    value.clone()
                }
                "type" | "const" | "enum" | "required" | "pattern" | "format" | "minimum" | "maximum"
                | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => value.clone(),
                "title" | "description" | "default" | "example" | "examples" | "deprecated" | "readOnly"
                | "writeOnly" | "discriminator" | "contentMediaType" | "contentEncoding" | "$comment" | "$schema"
                | "$id" | "id" => continue,
                "not"
                | "if"
                | "then"
                | "else"
                | "contains"
                | "minContains"
                | "maxContains"
                | "uniqueItems"
                | "propertyNames"
                | "dependencies"
                | "dependentRequired"
                | "dependentSchemas"
                | "unevaluatedItems"
                | "unevaluatedProperties"
                | "contentSchema"
                | "$anchor"
                | "$dynamicAnchor"
                | "$dynamicRef"
                | "$recursiveAnchor"
                | "$recursiveRef"
                | "$vocabulary" => {
                    return Err(unsupported(keyword, &at, "it cannot be enforced while the text is written"));
                }
                _ => return Err(unsupported(keyword, &at, "it is no keyword of JSON Schema")),
            };
            checked.insert(keyword.clone(), value);
        }
        Ok(Value::Object(checked))
    }

    fn map(&self, value: &Value, at: &str, depth: usize) -> Result<Map<String, Value>, OptionError> {
        let Value::Object(schemas) = value else { return Err(unusable(at, "it must be an object")) };
        let each = |(name, schema): (&String, &Value)| {
            Ok((name.clone(), self.schema(schema, &format!("{at}/{name}"), depth + 1)?))
        };
        schemas.iter().map(each).collect()
    }

    fn list(&self, value: &Value, at: &str, depth: usize) -> Result<Value, OptionError> {
        let Value::Array(schemas) = value else { return Err(unusable(at, "it must be an array")) };
        let each = |(index, schema)| self.schema(schema, &format!("{at}/{index}"), depth + 1);
        schemas.iter().enumerate().map(each).collect()
    }

    /// What a `$ref` points to. Only places of this schema are known here; nothing is ever fetched.
    fn target(&self, reference: &Value, at: &str) -> Result<&Value, OptionError> {
        let Some(reference) = reference.as_str() else { return Err(unusable(at, "it must be a string")) };
        let plain = !reference.contains(['~', '%']);
        let Some(pointer) =
            reference.strip_prefix('#').filter(|rest| plain && (rest.is_empty() || rest.starts_with('/')))
        else {
            return Err(unsupported("$ref", at, "only `#` and `#/...` without escapes are"));
        };
        let found = if pointer == "/" { Some(self.root) } else { self.root.pointer(pointer) };
        found.ok_or_else(|| unusable(at, &format!("`{}` is not in the schema", short(reference))))
    }

    /// Whether no value satisfies two of the alternatives, as far as that can be seen: then `oneOf` is `anyOf`.
    fn are_apart(&self, alternatives: &Value, at: &str) -> Result<bool, OptionError> {
        let alternatives = alternatives.as_array().map_or(&[][..], Vec::as_slice);
        if alternatives.len() > ONE_OF_MAX {
            let detail = format!("{} has {} alternatives; at most {ONE_OF_MAX}", short(at), alternatives.len());
            return Err(OptionError::TooLarge { kind: KIND, detail });
        }
        let resolved: Vec<&Value> =
            alternatives.iter().map(|schema| self.resolved(schema, at)).collect::<Result<_, _>>()?;
        let apart = |left: &Value, right: &Value| {
            let tags = |schema: &Value| -> Option<Vec<(String, Vec<Value>)>> { Some(self.tags(schema)) };
            let by_tag = tags(left).zip(tags(right)).is_some_and(|(left, right)| {
                left.iter().any(|(name, values)| {
                    right.iter().any(|(other, others)| name == other && values.iter().all(|one| !others.contains(one)))
                })
            });
            by_tag || self.apart_by_type(left, right)
        };
        let pairs = |index: usize| resolved[index + 1..].iter().all(|other| apart(resolved[index], other));
        Ok((0..resolved.len()).all(pairs))
    }

    fn resolved<'b>(&'b self, schema: &'b Value, at: &str) -> Result<&'b Value, OptionError> {
        let mut schema = schema;
        for _ in 0..HOPS_MAX {
            match schema.get("$ref") {
                Some(reference) => schema = self.target(reference, at)?,
                None => break,
            }
        }
        Ok(schema)
    }

    /// Required properties that have only certain values.
    fn tags(&self, schema: &Value) -> Vec<(String, Vec<Value>)> {
        let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        // A value that is no object has no properties.
        if schema.get("type") != Some(&json!("object")) {
            return Vec::new();
        }
        let tag = |name: &Value| {
            let name = name.as_str()?;
            let property = schema.get("properties")?.get(name)?;
            let values = match (property.get("const"), property.get("enum")) {
                (Some(value), _) => vec![value.clone()],
                (None, Some(Value::Array(values))) => values.clone(),
                _ => return None,
            };
            Some((name.to_owned(), values))
        };
        required.iter().filter_map(tag).collect()
    }

    fn apart_by_type(&self, left: &Value, right: &Value) -> bool {
        let types = |schema: &Value| -> Option<Vec<String>> {
            match schema.get("type")? {
                Value::String(one) => Some(vec![one.clone()]),
                Value::Array(many) => many.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
                _ => None,
            }
        };
        let Some((left, right)) = types(left).zip(types(right)) else { return false };
        let numeric = |one: &str| matches!(one, "number" | "integer");
        !left.iter().any(|one| right.iter().any(|other| one == other || (numeric(one) && numeric(other))))
    }
}

fn count(value: &Value, keyword: &str, at: &str) -> Result<(), OptionError> {
    match value.as_u64() {
        Some(0..=COUNT_MAX) => Ok(()),
        Some(more) => Err(OptionError::TooLarge {
            kind: KIND,
            detail: format!("{}: `{keyword}` is {more}; at most {COUNT_MAX}", short(at)),
        }),
        None => Err(unusable(at, "it must be a whole number from 0 on")),
    }
}

fn unusable(at: &str, what: &str) -> OptionError {
    OptionError::Unusable { kind: KIND, detail: format!("{}: {what}", short(at)) }
}
