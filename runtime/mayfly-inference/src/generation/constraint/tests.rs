//! Constraints under a model of random logits, refusals by name, and bombs.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::*;
use crate::generation::sampling::{Sampler, Sampling};
use crate::generation::text::samples::byte_level;

/// Pieces of JSON as real vocabularies have them, across the borders of its syntax.
const PIECES: [&str; 24] = [
    "{\"", "\":", "\": ", "\",", "\"}", "},", "}}", "[]", "[{", "]}", "true", "false", "null", "  ", "\n\n", " \"",
    "name", "12", ".5", "e-", "\\\"", "é", "abc", "\\u00",
];

struct Model {
    table: TokenTable,
    grammar: Grammar,
    eos: u32,
}

fn model() -> Model {
    let tokenizer = byte_level(&PIECES.map(str::as_bytes));
    let vocab = u32::try_from(tokenizer.get_vocab_size(true)).unwrap();
    let eos = tokenizer.token_to_id("<|im_end|>").unwrap();
    // As in real models, the logits are wider than the vocabulary.
    let table = TokenTable::new(&tokenizer, vocab + 7).unwrap();
    let grammar = Grammar::new(&table, &[eos]).unwrap();
    Model { table, grammar, eos }
}

impl Model {
    fn matcher(&self, constraint: &Constraint) -> Matcher {
        self.grammar.matcher(constraint).unwrap_or_else(|error| panic!("{constraint:?}: {error}"))
    }

    fn refusal(&self, constraint: &Constraint) -> OptionError {
        self.grammar.matcher(constraint).expect_err(&format!("{constraint:?}"))
    }

    /// What a model of random logits writes under `constraint`: it knows nothing, but gets tired of long texts.
    fn write(&self, constraint: &Constraint, seed: u64) -> String {
        let mut matcher = self.matcher(constraint);
        let plain = Sampling { temperature: 2.0, seed: Some(seed), ..Sampling::default() };
        let (mut noise, mut sampler) = (Sampler::new(&plain, 1, None, &[]), Sampler::new(&plain, 0, None, &[]));
        let mut text = Vec::new();
        for step in 0..3000_u16 {
            let tired = f32::from(step) / 20.0;
            let mut logits: Vec<f32> = (0..self.table.len())
                .map(|_| f32::from(u16::try_from(noise.sample(&mut [0.0; 8], None).token).unwrap()))
                .collect();
            for token in [b'"', b'}', b']', b'0', b')'].map(usize::from).into_iter().chain([self.eos as usize]) {
                logits[token] += tired;
            }
            let sampled = sampler.sample(&mut logits, Some(matcher.mask()));
            assert!(sampled.usable, "a mask with nothing in it after {:?}", String::from_utf8_lossy(&text));
            matcher.accept(sampled.token).unwrap_or_else(|error| panic!("{constraint:?}: {error}"));
            text.extend_from_slice(self.table.text(sampled.token));
            if matcher.is_over() {
                return String::from_utf8(text).expect("constraints only let text through");
            }
        }
        panic!("{constraint:?} never ended: {}", String::from_utf8_lossy(&text));
    }

    /// Writes texts under `constraint` with several seeds and holds each against `valid`.
    fn check(&self, constraint: &Constraint, valid: impl Fn(&str) -> bool) {
        for seed in 0..12 {
            let text = self.write(constraint, seed);
            assert!(valid(&text), "{constraint:?} let through: {text}");
        }
    }

    fn check_schema(&self, schema: &Value, valid: impl Fn(&Value) -> bool) {
        self.check(&Constraint::JsonSchema(schema.to_string()), |text| {
            valid(&serde_json::from_str(text).unwrap_or_else(|error| panic!("{schema}: {error}: {text}")))
        });
    }
}

#[test]
fn only_values_of_the_schema_come_out() {
    let model = model();
    // Read without values: JSON's numbers can be larger than any number type.
    let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    model.check(&Constraint::JsonObject, |text| is_json(text) && text.starts_with('{'));
    model.check(&Constraint::JsonSchema("{}".to_owned()), is_json);
    model.check(&Constraint::JsonSchema("true".to_owned()), is_json);
    model.check_schema(&json!({"type": "boolean"}), Value::is_boolean);
    model.check_schema(&json!({"type": "integer", "minimum": -5, "exclusiveMaximum": 130}), |value| {
        value.as_i64().is_some_and(|number| (-5..130).contains(&number))
    });
    model.check_schema(&json!({"type": "number", "minimum": 0.25, "maximum": 1.75}), |value| {
        value.as_f64().is_some_and(|number| (0.25..=1.75).contains(&number))
    });
    model.check_schema(&json!({"type": "string", "minLength": 2, "maxLength": 5}), |value| {
        (2..=5).contains(&value.as_str().unwrap().chars().count())
    });
    model.check_schema(&json!({"type": "string", "pattern": "^[a-c]{2,4}-[0-9]$"}), |value| {
        let text = value.as_str().unwrap();
        let (letters, digit) = text.split_once('-').unwrap();
        (2..=4).contains(&letters.len()) && letters.bytes().all(|byte| b"abc".contains(&byte)) && digit.len() == 1
    });
    model.check_schema(&json!({"type": "string", "format": "date"}), |value| value.as_str().unwrap().len() == 10);
    model.check_schema(&json!({"enum": ["red", 3, null, {"a": [1]}]}), |value| {
        [json!("red"), json!(3), json!(null), json!({"a": [1]})].contains(value)
    });
    model.check_schema(&json!({"const": {"é": "\""}}), |value| *value == json!({"é": "\""}));
    model.check_schema(&json!({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 4}), |value| {
        (2..=4).contains(&value.as_array().unwrap().len())
    });
    model.check_schema(
        &json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": false, "minItems": 2}),
        |value| value[0].is_i64() && value[1].is_boolean() && value.as_array().unwrap().len() == 2,
    );
    model.check_schema(&json!({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]}), |value| {
        (3..=9).contains(&value.as_i64().unwrap())
    });
}

#[test]
fn objects_have_their_properties_in_the_schemas_order() {
    let model = model();
    let schema = json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "title": "Person", "description": "someone", "type": "object", "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 6, "default": "x"},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "aliases": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        },
        "required": ["name", "age"],
    });
    model.check_schema(&schema, |value| {
        let object = value.as_object().unwrap();
        let names: Vec<&str> = object.keys().map(String::as_str).collect();
        names.starts_with(&["name", "age"]) && names.len() <= 3 && object["age"].as_u64().unwrap() <= 150
    });
}

#[test]
fn references_recursion_and_tagged_unions_work() {
    let model = model();
    let tree = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "additionalProperties": false, "required": ["v"], "properties": {
            "v": {"enum": [1, 2]}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}},
    });
    model.check_schema(&tree, |value| value["v"].is_i64());
    // What Pydantic writes for a discriminated union.
    let union = json!({
        "$defs": {
            "Cat": {"type": "object", "additionalProperties": false, "required": ["kind", "lives"],
                    "properties": {"kind": {"const": "cat", "type": "string"}, "lives": {"enum": [7, 9]}}},
            "Dog": {"type": "object", "additionalProperties": false, "required": ["kind"],
                    "properties": {"kind": {"const": "dog", "type": "string"}}},
        },
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}},
    });
    model.check_schema(&union, |value| value["kind"] == "dog" || value["lives"].as_i64().is_some());
    model.check_schema(
        &json!({"oneOf": [{"type": "integer", "maximum": 9, "minimum": 0}, {"type": "null"}]}),
        |value| value.is_i64() || value.is_null(),
    );
}

#[test]
fn expressions_choices_and_grammars_hold() {
    let model = model();
    model.check(&Constraint::Regex("(ab|é)+[0-9]{2}".to_owned()), |text| {
        let (head, digits) = text.split_at(text.len() - 2);
        digits.bytes().all(|byte| byte.is_ascii_digit()) && head.replace("ab", "").replace('é', "").is_empty()
    });
    let choices = ["yes", "yes and no", "no \"quotes\"\n", "é/\\"].map(str::to_owned);
    model.check(&Constraint::Choice(choices.to_vec()), |text| choices.iter().any(|choice| choice == text));
    let sum = "start: term (\"+\" term)*\nterm: NUMBER | \"(\" start \")\"\nNUMBER: /[0-9]{1,3}/\n";
    model.check(&Constraint::Grammar(sum.to_owned()), |text| {
        text.matches('(').count() == text.matches(')').count()
            && text.bytes().all(|byte| byte.is_ascii_digit() || b"+()".contains(&byte))
    });
}

#[test]
fn a_finished_text_lets_only_its_end_through() {
    let model = model();
    let mut matcher = model.matcher(&Constraint::Choice(vec!["ab".to_owned(), "abc".to_owned()]));
    let allowed = |matcher: &Matcher| -> Vec<u32> {
        let words = matcher.mask().words().to_vec();
        (0..u32::try_from(model.table.len()).unwrap())
            .filter(|token| words[*token as usize / 32] >> (token % 32) & 1 == 1)
            .collect()
    };
    assert_eq!(allowed(&matcher), [u32::from(b'a'), 256 + 22], "`a` and `abc`");
    let mut other = matcher.clone();
    matcher.accept(u32::from(b'a')).unwrap();
    matcher.accept(u32::from(b'b')).unwrap();
    assert_eq!(allowed(&matcher), [u32::from(b'c'), model.eos]);
    assert!(!matcher.is_over());
    matcher.accept(model.eos).unwrap();
    assert!(matcher.is_over());
    other.accept(256 + 22).unwrap();
    assert!(other.is_over(), "nothing can follow, and the clone is its own");
    assert_eq!(allowed(&other), [model.eos]);

    let mut wrong = model.matcher(&Constraint::Choice(vec!["ab".to_owned()]));
    assert!(matches!(wrong.accept(u32::from(b'z')), Err(OptionError::Unusable { .. })));
}

#[test]
fn what_cannot_be_enforced_is_refused_by_its_name() {
    let model = model();
    let check =
        |schema: Value, keyword: &str, at: &str| match model.refusal(&Constraint::JsonSchema(schema.to_string())) {
            OptionError::Keyword { keyword: named, at: place, .. } => {
                assert_eq!((named.as_str(), place.as_str()), (keyword, at), "{schema}");
            }
            other => panic!("{schema}: {other:?}"),
        };
    for keyword in ["not", "if", "contains", "propertyNames", "unevaluatedProperties", "dependentSchemas", "minLenght"]
    {
        check(json!({"type": "object", keyword: {}}), keyword, &format!("#/{keyword}"));
        let inner = json!({"properties": {"a": {"items": {keyword: {}}}}});
        check(inner, keyword, &format!("#/properties/a/items/{keyword}"));
        check(
            json!({"$schema": "http://json-schema.org/draft-04/schema#", keyword: {}}),
            keyword,
            &format!("#/{keyword}"),
        );
    }
    check(json!({"type": "array", "uniqueItems": true}), "uniqueItems", "#/uniqueItems");
    check(json!({"x-guidance": {"lenient": true}}), "x-guidance", "#/x-guidance");
    check(json!({"$ref": "https://example.com/schema"}), "$ref", "#/$ref");
    check(json!({"$ref": "#anchor"}), "$ref", "#/$ref");
    check(json!({"type": "string", "format": "no-such-format"}), "format", "#");
    check(json!({"oneOf": [{"type": "object"}, {"type": "object"}]}), "oneOf", "#");
    let text = model.refusal(&Constraint::JsonSchema(r#"{"not": {}}"#.to_owned())).to_string();
    assert!(text.starts_with("the JSON schema keyword `not` is not supported (at `#/not`)"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = model();
    let schema = |text: &str| Constraint::JsonSchema(text.to_owned());
    for constraint in [
        schema(""),
        schema("{"),
        schema("[]"),
        schema("3"),
        schema("false"),
        schema(r#"{"anyOf": []}"#),
        schema(r#"{"type": "strin"}"#),
        schema(r#"{"type": 3}"#),
        schema(r#"{"properties": []}"#),
        schema(r##"{"$ref": "#/$defs/none"}"##),
        schema(r##"{"$ref": "#"}"##),
        schema(r#"{"minLength": -1}"#),
        schema(r#"{"type": "integer", "minimum": 3, "maximum": 2}"#),
        schema(r#"{"type": "string", "pattern": "("}"#),
        Constraint::Regex(String::new()),
        Constraint::Regex("(a".to_owned()),
        Constraint::Regex("(?=a)b".to_owned()),
        Constraint::Choice(Vec::new()),
        Constraint::Choice(vec!["a".to_owned(), String::new()]),
        Constraint::Grammar("nonsense".to_owned()),
        Constraint::Grammar("start: missing".to_owned()),
        Constraint::Grammar("start: start".to_owned()),
    ] {
        let error = model.refusal(&constraint);
        let text = error.to_string();
        assert!(matches!(error, OptionError::Unusable { .. }), "{constraint:?}: {error:?}");
        assert!(text.len() < 500 && !text.contains("/src/"), "{text}");
    }
}

/// Schemas, expressions and grammars that were made to take long.
fn bombs() -> Vec<(&'static str, Constraint)> {
    let schema = |value: Value| Constraint::JsonSchema(value.to_string());
    let nested = |levels: usize| format!("{}{}", "{\"items\":".repeat(levels) + "{}", "}".repeat(levels));
    let chain = |link: &dyn Fn(usize) -> String, count: usize| (0..count).map(link).collect::<String>();
    let references = format!(
        r##"{{"$ref":"#/$defs/a0","$defs":{{{}"a2000":{{}}}}}}"##,
        chain(&|index| format!(r##""a{index}":{{"$ref":"#/$defs/a{}"}},"##, index + 1), 2000)
    );
    let doubling = format!(
        r##"{{"$ref":"#/$defs/a0","$defs":{{{}"a40":{{"type":"null"}}}}}}"##,
        chain(
            &|index| {
                let next = format!(r##"{{"$ref":"#/$defs/a{}"}}"##, index + 1);
                format!(r##""a{index}":{{"allOf":[{next},{next}]}},"##)
            },
            40
        )
    );
    let many = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|index| json!({"type": "object", "required": ["k"], "properties": {"k": {"minLength": index}}}))
            .collect()
    };
    let wide = json!({"anyOf": (0..300).map(|index| json!({"type": "string", "pattern": format!("a{{{index}}}b*c")})).collect::<Vec<_>>()});
    let mut names = json!({"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}});
    for index in 0..2500 {
        names["properties"][format!("p{index}")] = json!(true);
    }
    let mut product = String::from("{\"allOf\":[");
    for _ in 0..8 {
        product.push_str("{\"anyOf\":[");
        for index in 0..80 {
            let _ = write!(product, "{{\"minLength\":{index}}},");
        }
        product.push_str("{}]},");
    }
    product.push_str("{}]}");
    vec![
        ("nested schemas", Constraint::JsonSchema(nested(5000))),
        ("nested schemas below the reader's limit", Constraint::JsonSchema(nested(120))),
        ("a chain of references", Constraint::JsonSchema(references)),
        ("references that double", Constraint::JsonSchema(doubling)),
        ("a product of unions", Constraint::JsonSchema(product)),
        ("many alternatives, each with each", schema(json!({"oneOf": many(800)}))),
        ("many alternatives in a loop", schema(json!({"anyOf": many(800)}))),
        ("many patterns at once", schema(wide)),
        ("many properties", schema(names)),
        ("a huge count", schema(json!({"type": "array", "minItems": 4_000_000_000_u64}))),
        ("a large count", schema(json!({"type": "string", "minLength": 10_000, "maxLength": 10_000}))),
        (
            "counts in counts",
            schema(
                json!({"items": {"items": {"items": {"minItems": 10_000}, "minItems": 10_000}, "minItems": 10_000}, "type": "array", "minItems": 10_000}),
            ),
        ),
        ("a huge multiple", schema(json!({"type": "integer", "multipleOf": 1_234_567_891_011_u64}))),
        (
            "a common multiple",
            schema(
                json!({"allOf": [{"multipleOf": 99_991}, {"multipleOf": 99_989}, {"multipleOf": 99_971}, {"type": "integer"}]}),
            ),
        ),
        ("a huge number", schema(json!({"type": "number", "minimum": 1e300, "maximum": 1.5e300}))),
        (
            "patterns that meet",
            schema(json!({"type": "object", "patternProperties": {"(a|b)*a(a|b){18}": {}, "(a|b)*b(a|b){18}": {}}})),
        ),
        ("a pattern of repetitions", schema(json!({"type": "string", "pattern": "((((a{1,90}){1,90}){1,90}){1,90})"}))),
        ("a large schema", Constraint::JsonSchema(format!("{{\"title\":\"{}\"}}", "x".repeat(70_000)))),
        ("an expression of repetitions", Constraint::Regex("(((((a{100}){100}){100}){100}){100})".to_owned())),
        ("a large automaton", Constraint::Regex("(a|b)*a(a|b){30}".to_owned())),
        ("a deep expression", Constraint::Regex("(".repeat(20_000) + &")".repeat(20_000))),
        ("an expression of unions", Constraint::Regex("(a|b|c)?".repeat(6_000))),
        ("a class of everything", Constraint::Regex(r"(\p{L}|\p{N}|\w){1,500}\W{1,500}".to_owned())),
        ("nested groups", Constraint::Grammar(format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000)))),
        (
            "a chain of rules",
            Constraint::Grammar(
                chain(
                    &|index| {
                        format!(
                            "{}: a{}\n",
                            if index == 0 { "start".to_owned() } else { format!("a{index}") },
                            index + 1
                        )
                    },
                    4_000,
                ) + "a4000: \"x\"\n",
            ),
        ),
        (
            "a chain of terminals",
            Constraint::Grammar(format!(
                "start: A0\n{}A4000: \"x\"\n",
                chain(&|index| format!("A{index}: A{}\n", index + 1), 4_000)
            )),
        ),
        ("an ambiguous grammar", Constraint::Grammar("start: s\ns: s s s | s s | \"a\" | \n".to_owned())),
        ("a huge repetition", Constraint::Grammar("start: (\"a\" \"b\"){1,2000000000}\n".to_owned())),
        ("a schema in a grammar", Constraint::Grammar(format!("start: %json {}\n", nested(100)))),
        (
            "many choices",
            Constraint::Choice((0..1024).map(|index| format!("choice {index} {}", "x".repeat(40))).collect()),
        ),
    ]
}

#[test]
fn bombs_are_refused_or_harmless_and_always_fast() {
    let model = model();
    for (name, constraint) in bombs() {
        let start = Instant::now();
        let outcome = model.grammar.matcher(&constraint);
        let compiled = start.elapsed();
        let mut slowest = Duration::ZERO;
        let told = match outcome {
            Err(error) => error.to_string(),
            Ok(mut matcher) => {
                // What is taken must stay cheap while it runs.
                for _ in 0..40 {
                    let words = matcher.mask().words().to_vec();
                    let allowed = (0..model.eos).find(|token| words[*token as usize / 32] >> (token % 32) & 1 == 1);
                    let Some(token) = allowed else { break };
                    let start = Instant::now();
                    let outcome = matcher.accept(token);
                    slowest = slowest.max(start.elapsed());
                    if outcome.is_err() || matcher.is_over() {
                        break;
                    }
                }
                "taken".to_owned()
            }
        };
        assert!(told.len() < 500, "{name}: {told}");
        // Debug builds and busy machines are some ten times slower than what users run.
        assert!(
            compiled < Duration::from_secs(10) && slowest < Duration::from_secs(2),
            "{name}: {compiled:?}, {slowest:?}"
        );
    }
}
