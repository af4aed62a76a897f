//! What the configuration files of a Hugging Face folder say about a model.

use std::collections::{BTreeMap, HashMap};
use std::io;

use serde::Deserialize;
use serde_json::Value;

use super::decoder::settings::{Files, Settings};
use super::model_toml::{Labels, ModelToml};
use super::store::Staged;
use crate::ImportError;

/// Larger "lengths" in tokenizer files mean none (`int(1e30)` is common).
const LENGTH_SANE: u64 = 10_000_000;

/// Everything known beside the graph.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) vocab_size: Option<u32>,
    pub(super) max_tokens: Option<u32>,
    pub(super) pad_id: Option<u32>,
    pub(super) token_types: Option<u32>,
    pub(super) properties: BTreeMap<String, String>,
    /// How to generate, if it is a decoder.
    pub(super) settings: Settings,
}

/// Reads the files of `staged`; `toml` wins over them.
pub(super) fn gather(
    staged: &Staged,
    toml: &ModelToml,
    label_file: impl FnOnce(&str) -> Result<Vec<u8>, ImportError>,
) -> Result<Facts, ImportError> {
    let json = |path: &str| -> Result<Option<Value>, ImportError> {
        staged.read(path)?.map(|bytes| parse(path, &bytes)).transpose()
    };
    let config = match json("config.json")? {
        Some(config) => Some(config),
        None => json("onnx/config.json")?,
    };
    let mut facts = Facts::default();
    if let Some(config) = &config {
        from_config(config, &mut facts);
    }
    let genai = json("genai_config.json")?;
    if let Some(model) = genai.as_ref().and_then(|genai| genai.get("model")) {
        from_genai(model, &mut facts);
    }
    let generation = json("generation_config.json")?;
    let files = Files { genai: genai.as_ref(), config: config.as_ref(), generation: generation.as_ref() };
    facts.settings = Settings::of(files);
    let tokenizer = json("tokenizer_config.json")?;
    if let Some(length) = tokenizer.as_ref().and_then(|t| t.get("model_max_length")).and_then(Value::as_u64) {
        limit(&mut facts.max_tokens, length);
    }
    let sentence = json("sentence_bert_config.json")?;
    if let Some(length) = sentence.as_ref().and_then(|s| s.get("max_seq_length")).and_then(Value::as_u64) {
        limit(&mut facts.max_tokens, length);
    }
    let special = json("special_tokens_map.json")?;
    let named = |key: &str| {
        let token = |from: &Option<Value>| from.as_ref().and_then(|from| token_text(from.get(key)?)).map(str::to_owned);
        token(&tokenizer).or_else(|| token(&special))
    };
    let (pad, eos) = (named("pad_token"), named("eos_token"));
    if let (true, Some(bytes)) = (pad.is_some() || eos.is_some(), staged.read("tokenizer.json")?) {
        let ids = added_ids(&bytes)?;
        let id = |token: Option<String>| ids.get(&token?).copied();
        facts.pad_id = facts.pad_id.or_else(|| id(pad));
        // The tokenizer of a chat model often names the end of a turn, where the configuration names the end of a text.
        facts.settings.eos.extend(id(eos));
    }
    from_modules(json("modules.json")?.as_ref(), &json, &mut facts)?;

    facts.vocab_size = toml.vocab_size.or(facts.vocab_size);
    facts.max_tokens = toml.max_tokens.or(facts.max_tokens);
    facts.pad_id = toml.pad_id.or(facts.pad_id);
    if let (Some(pad), Some(vocab)) = (facts.pad_id, facts.vocab_size)
        && pad >= vocab
    {
        return Err(ImportError::Refused(format!("the padding token {pad} is outside the vocabulary of {vocab}")));
    }
    if let Some(length) = facts.max_tokens {
        facts.properties.insert("max_tokens".to_owned(), length.to_string());
    }
    if let Some(pad) = facts.pad_id {
        facts.properties.insert("pad_id".to_owned(), pad.to_string());
    }
    match &toml.labels {
        None => {}
        Some(Labels::List(list)) => drop(facts.properties.insert("labels".to_owned(), text_of(list)?)),
        Some(Labels::File(place)) => {
            let mut value = parse(&place.file, &label_file(&place.file)?)?;
            if let Some(key) = &place.key {
                value = value.get_mut(key).map(Value::take).ok_or_else(|| {
                    ImportError::Refused(format!("model.toml: `{}` has no key `{key}` for labels", place.file))
                })?;
            }
            let list: Vec<String> = serde_json::from_value(value).map_err(|_| {
                ImportError::Refused(format!("model.toml: the labels in `{}` are not a list of strings", place.file))
            })?;
            facts.properties.insert("labels".to_owned(), text_of(&list)?);
        }
    }
    facts.properties.extend(toml.properties().map_err(ImportError::Refused)?);
    Ok(facts)
}

fn parse(path: &str, bytes: &[u8]) -> Result<Value, ImportError> {
    // The error's own text has a line and a column and nothing of the file.
    serde_json::from_slice(bytes).map_err(|error| ImportError::Refused(format!("`{path}` is not JSON: {error}")))
}

fn text_of(labels: &[String]) -> Result<String, ImportError> {
    serde_json::to_string(labels).map_err(|error| ImportError::Io(io::Error::from(error)))
}

fn small(value: Option<&Value>) -> Option<u32> {
    value.and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
}

fn limit(max_tokens: &mut Option<u32>, length: u64) {
    if let Some(length) = u32::try_from(length).ok().filter(|l| *l > 0 && u64::from(*l) <= LENGTH_SANE) {
        *max_tokens = Some(max_tokens.map_or(length, |known| known.min(length)));
    }
}

fn from_config(config: &Value, facts: &mut Facts) {
    // Models with several parts keep the language model's numbers one level down.
    let get =
        |key: &str| config.get(key).or_else(|| config.get("text_config")?.get(key)).filter(|value| !value.is_null());
    facts.vocab_size = small(get("vocab_size")).filter(|size| *size > 0);
    facts.pad_id = small(get("pad_token_id"));
    facts.token_types = small(get("type_vocab_size")).filter(|size| *size > 0);
    let length = ["max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx", "max_seq_len"]
        .into_iter()
        .find_map(|key| small(get(key)));
    if let Some(mut length) = length {
        // RoBERTa's kin number their positions from behind the padding token.
        let model_type = get("model_type").and_then(Value::as_str).unwrap_or_default();
        if matches!(model_type, "roberta" | "xlm-roberta" | "camembert" | "mpnet" | "longformer" | "xlm-roberta-xl") {
            length = length.saturating_sub(facts.pad_id.unwrap_or(1) + 1);
        }
        limit(&mut facts.max_tokens, u64::from(length));
    }
    if let Some(size) = small(get("hidden_size").or_else(|| get("dim"))) {
        facts.properties.insert("dimensions".to_owned(), size.to_string());
    }
    if let Some(labels) = config.get("id2label").and_then(Value::as_object) {
        let list: Option<Vec<&str>> = (0..labels.len()).map(|id| labels.get(&id.to_string())?.as_str()).collect();
        if let Some(list) = list.filter(|list| !list.is_empty()) {
            facts.properties.insert("labels".to_owned(), Value::from(list).to_string());
        }
    }
}

fn from_genai(model: &Value, facts: &mut Facts) {
    facts.vocab_size = facts.vocab_size.or(small(model.get("vocab_size")).filter(|size| *size > 0));
    facts.pad_id = facts.pad_id.or(small(model.get("pad_token_id")));
    if let Some(length) = small(model.get("context_length")) {
        limit(&mut facts.max_tokens, u64::from(length));
    }
}

fn from_modules(
    modules: Option<&Value>,
    json: &impl Fn(&str) -> Result<Option<Value>, ImportError>,
    facts: &mut Facts,
) -> Result<(), ImportError> {
    let list = modules.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let of_kind = |kind: &str| {
        list.iter().find(|module| module.get("type").and_then(Value::as_str).is_some_and(|name| name.ends_with(kind)))
    };
    let folder =
        of_kind(".Pooling").and_then(|module| module.get("path")).and_then(Value::as_str).unwrap_or("1_Pooling");
    let pooling = json(&format!("{folder}/config.json"))?;
    if let Some(pooling) = &pooling {
        let on = |key: &str| pooling.get(key).and_then(Value::as_bool) == Some(true);
        let modes: Vec<_> = [
            ("pooling_mode_mean_tokens", "mean"),
            ("pooling_mode_cls_token", "cls"),
            ("pooling_mode_lasttoken", "last"),
            ("pooling_mode_max_tokens", "max"),
            ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
            ("pooling_mode_weightedmean_tokens", "weighted_mean"),
        ]
        .into_iter()
        .filter(|(key, _)| on(key))
        .map(|(_, name)| name)
        .collect();
        let named = pooling.get("pooling_mode").and_then(Value::as_str);
        let mode = match (&modes[..], named) {
            ([one], _) => Some((*one).to_owned()),
            ([], Some(named)) => Some(if named == "lasttoken" { "last".to_owned() } else { named.to_owned() }),
            ([], None) => None,
            (several, _) => Some(several.join("+")),
        };
        if let Some(mode) = mode {
            facts.properties.insert("pooling".to_owned(), mode);
        }
        if let Some(size) = small(pooling.get("word_embedding_dimension")) {
            facts.properties.insert("dimensions".to_owned(), size.to_string());
        }
    }
    if modules.is_some() {
        facts.properties.insert("normalize".to_owned(), of_kind(".Normalize").is_some().to_string());
    }
    Ok(())
}

/// A token as tokenizer files write it: its text, or an object with it.
pub(super) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The ids of the added tokens in `tokenizer.json`, without reading its vocabulary.
fn added_ids(tokenizer: &[u8]) -> Result<HashMap<String, u32>, ImportError> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File = serde_json::from_slice(tokenizer)
        .map_err(|error| ImportError::Refused(format!("`tokenizer.json` is not a tokenizer: {error}")))?;
    Ok(file.added_tokens.into_iter().map(|added| (added.content, added.id)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: &Value) -> Facts {
        let mut facts = Facts::default();
        from_config(value, &mut facts);
        facts
    }

    #[test]
    fn numbers_of_a_config() {
        let bert = config(
            &json!({"vocab_size": 30522, "max_position_embeddings": 512, "pad_token_id": 0, "type_vocab_size": 2, "hidden_size": 384}),
        );
        assert_eq!(
            (bert.vocab_size, bert.max_tokens, bert.pad_id, bert.token_types),
            (Some(30522), Some(512), Some(0), Some(2))
        );
        assert_eq!(bert.properties["dimensions"], "384");
        let roberta = config(&json!({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}));
        assert_eq!(roberta.max_tokens, Some(512));
        let nonsense = config(
            &json!({"vocab_size": -4, "max_position_embeddings": 1e30, "pad_token_id": "x", "id2label": {"1": "b"}}),
        );
        assert_eq!(nonsense, Facts::default());
    }

    #[test]
    fn labels_come_in_the_order_of_their_numbers() {
        let labels: serde_json::Map<_, _> = (0..12).map(|i| (i.to_string(), json!(format!("l{i}")))).collect();
        let facts = config(&json!({ "id2label": labels }));
        assert!(facts.properties["labels"].contains(r#""l9","l10","l11""#));
    }

    #[test]
    fn the_smallest_sane_length_wins() {
        let mut length = Some(512);
        limit(&mut length, u64::MAX);
        limit(&mut length, 0);
        limit(&mut length, 256);
        assert_eq!(length, Some(256));
    }
}
