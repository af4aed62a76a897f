//! What configuration files say about generating: ORT-GenAI's `genai_config.json`, Hugging Face's `config.json` and
//! `generation_config.json`. Session options, providers and libraries that they name are the business of other hosts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::GenerationDefaults;
use crate::package::Role;

/// Tokens that end a sequence; more than a handful is a mistake.
const EOS_MAX: usize = 64;

/// Everything known beside the graph.
#[derive(Debug, Default, PartialEq)]
pub(in crate::package) struct Settings {
    pub(in crate::package) eos: Vec<u32>,
    pub(in crate::package) bos: Option<u32>,
    pub(in crate::package) kv_heads: Option<u32>,
    pub(in crate::package) head_size: Option<u32>,
    pub(in crate::package) defaults: GenerationDefaults,
    /// Tensors that `genai_config.json` names.
    pub(in crate::package) roles: BTreeMap<String, Role>,
}

/// The files, as far as they are there.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::package) struct Files<'a> {
    pub(in crate::package) genai: Option<&'a Value>,
    pub(in crate::package) config: Option<&'a Value>,
    pub(in crate::package) generation: Option<&'a Value>,
}

impl Settings {
    pub(in crate::package) fn of(files: Files<'_>) -> Self {
        let mut settings = Self::default();
        let genai = files.genai.and_then(|genai| genai.get("model"));
        // Best first: each fills only what is still missing.
        for source in [genai, files.generation, files.config, files.config.and_then(|c| c.get("text_config"))] {
            let Some(source) = source else { continue };
            if settings.eos.is_empty() {
                settings.eos = ids(source.get("eos_token_id"));
            }
            settings.bos = settings.bos.or_else(|| ids(source.get("bos_token_id")).first().copied());
        }
        let search = files.genai.and_then(|genai| genai.get("search"));
        settings.defaults = search.or(files.generation).map(defaults).unwrap_or_default();
        if let Some(decoder) = genai.and_then(|model| model.get("decoder")) {
            settings.roles = roles(decoder);
            settings.heads(decoder, "head_size");
        }
        for config in files.config.into_iter().flat_map(|c| [c.get("text_config"), Some(c)]).flatten() {
            settings.heads(config, "head_dim");
        }
        settings
    }

    fn heads(&mut self, from: &Value, head_size: &str) {
        let get = |key: &str| positive(from.get(key));
        let heads = get("num_attention_heads");
        self.kv_heads = self.kv_heads.or_else(|| get("num_key_value_heads")).or(heads);
        let width = || Some(get("hidden_size")? / heads?);
        self.head_size = self.head_size.or_else(|| get(head_size)).or_else(width).filter(|size| *size > 0);
    }
}

fn positive(value: Option<&Value>) -> Option<u32> {
    value.and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
}

/// One id or a list of them; what is no id (`-1`, null) is left out.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().take(EOS_MAX).filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Values outside their range count as not given. With `do_sample: false` the numbers of sampling mean nothing there, so
/// they do not count here either.
fn defaults(from: &Value) -> GenerationDefaults {
    #[expect(clippy::cast_possible_truncation, reason = "f32 is what sampling works in")]
    let number = |key: &str| from.get(key).and_then(Value::as_f64).map(|number| number as f32);
    let sampled = from.get("do_sample").and_then(Value::as_bool) != Some(false);
    let repetition_penalty = number("repetition_penalty").filter(|penalty| *penalty > 0.0 && *penalty <= 10.0);
    if !sampled {
        return GenerationDefaults { repetition_penalty, ..GenerationDefaults::default() };
    }
    GenerationDefaults {
        temperature: number("temperature").filter(|temperature| (0.0..=2.0).contains(temperature)),
        top_p: number("top_p").filter(|p| *p > 0.0 && *p <= 1.0),
        top_k: positive(from.get("top_k")),
        repetition_penalty,
    }
}

/// What ORT-GenAI calls the tensors; names of the past have `%d` for the layer and are told by their own look.
fn roles(decoder: &Value) -> BTreeMap<String, Role> {
    let named = [
        ("inputs", "input_ids", Role::Ids),
        ("inputs", "attention_mask", Role::Mask),
        ("inputs", "position_ids", Role::Positions),
        ("outputs", "logits", Role::Logits),
    ];
    named
        .into_iter()
        .filter_map(|(side, key, role)| Some((decoder.get(side)?.get(key)?.as_str()?.to_owned(), role)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn genai() {
        let genai = json!({
            "model": {
                "bos_token_id": 1, "eos_token_id": [7, 2], "decoder": {
                    "session_options": {"custom_ops_library": "evil.so"}, "head_size": 64, "num_key_value_heads": 2,
                    "num_attention_heads": 14, "inputs": {"input_ids": "tokens"}, "outputs": {"logits": "scores"},
                },
            },
            "search": {"do_sample": true, "temperature": 0.5, "top_k": 20, "top_p": 2.0, "repetition_penalty": 1.5},
        });
        let settings = Settings::of(Files { genai: Some(&genai), ..Files::default() });
        assert_eq!((&settings.eos[..], settings.bos), (&[7, 2][..], Some(1)));
        assert_eq!((settings.kv_heads, settings.head_size), (Some(2), Some(64)));
        assert_eq!(settings.roles["tokens"], Role::Ids);
        assert_eq!(settings.roles["scores"], Role::Logits);
        let expect =
            GenerationDefaults { temperature: Some(0.5), top_p: None, top_k: Some(20), repetition_penalty: Some(1.5) };
        assert_eq!(settings.defaults, expect);
    }

    #[test]
    fn hugging_face_and_what_is_no_number() {
        let config = json!({"eos_token_id": 3, "bos_token_id": -1, "hidden_size": 896, "num_attention_heads": 14});
        let generation = json!({"eos_token_id": [4, null, -2, 5], "do_sample": false, "temperature": 0.7});
        let both = Files { config: Some(&config), generation: Some(&generation), ..Files::default() };
        let settings = Settings::of(both);
        assert_eq!((&settings.eos[..], settings.bos), (&[4, 5][..], None));
        assert_eq!((settings.kv_heads, settings.head_size), (Some(14), Some(64)));
        assert_eq!(settings.defaults, GenerationDefaults::default());
        let nonsense = json!({"eos_token_id": "x", "temperature": "hot", "hidden_size": 1, "num_attention_heads": 0});
        assert_eq!(Settings::of(Files { config: Some(&nonsense), ..Files::default() }), Settings::default());
    }
}
