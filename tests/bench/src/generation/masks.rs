//! What holding an answer to a JSON Schema costs.

use anyhow::ensure;
use serde_json::json;

use super::median;
use super::scene::Scene;
use super::stream::Stream;
use crate::Bench;
use crate::row::Row;

pub(crate) const NAME: &str = "generation_json_schema";

const PROMPT: u32 = 64;
const NEW: u32 = 128;

pub(super) fn measure(bench: &Bench, scene: &Scene) -> anyhow::Result<Vec<Row>> {
    let rounds = if bench.quick { 3 } else { 9 };
    // Longer than the answer gets: random weights do not end it by themselves.
    let schema = json!({
        "type": "object",
        "properties": { "items": {
            "type": "array",
            "minItems": 100,
            "items": {
                "type": "object",
                "properties": { "name": { "type": "string", "maxLength": 12 }, "kind": { "enum": ["small", "large"] }, "new": { "type": "boolean" } },
                "required": ["name", "kind", "new"],
                "additionalProperties": false,
            },
        } },
        "required": ["items"],
        "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "items", "strict": true, "schema": schema } });
    let (mut free, mut held) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let plain = scene.ask(PROMPT, NEW)?.decode_rate();
        let mut request = scene.request(PROMPT, NEW);
        request["response_format"] = format.clone();
        let seen = Stream::ask(&scene.server, &request)?.read()?;
        ensure!(seen.completion_tokens == NEW, "the answer ended after {} tokens", seen.completion_tokens);
        if round > 0 {
            free.push(plain);
            held.push(seen.decode_rate());
        }
    }
    let (free, held) = (median(&free), median(&held));
    Ok(vec![Row {
        name: NAME,
        ours: Some(held),
        peer: Some(free),
        unit: "/s",
        ratio: Some(held / free),
        target: "ratio at least 0.9",
        pass: held / free >= 0.9,
        note: format!(
            "one stream of {NEW} tokens held to a schema, from its first token on; peer: the same without; medians of {rounds}"
        ),
    }])
}
