//! `model.toml`: what its owner knows better than the files say. Every key is optional; an unknown one is an error.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::info::Role;
use super::operators::shown;

const PROPERTIES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 1 << 20;

/// The content of `model.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelToml {
    pub(super) vocab_size: Option<u32>,
    pub(super) max_tokens: Option<u32>,
    pub(super) pad_id: Option<u32>,
    pub(super) labels: Option<Labels>,
    /// Tensor name to role.
    #[serde(default)]
    pub(super) roles: BTreeMap<String, Role>,
    #[serde(default)]
    properties: BTreeMap<String, toml::Value>,
}

/// Names of a classifier's outputs: the list itself, or where it stands in a JSON file beside the model.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Labels {
    List(Vec<String>),
    File(LabelsFile),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelsFile {
    pub(super) file: String,
    /// The key whose value is the list; without one the file is the list.
    pub(super) key: Option<String>,
}

impl ModelToml {
    /// Reads `text`.
    ///
    /// # Errors
    /// A text that names the key.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "model.toml is not UTF-8")?;
        let parsed: Self = toml::from_str(text).map_err(|error| format!("model.toml: {}", error.message()))?;
        for (key, value) in [("vocab_size", parsed.vocab_size), ("max_tokens", parsed.max_tokens)] {
            if value == Some(0) {
                return Err(format!("model.toml: `{key}` must be at least 1"));
            }
        }
        Ok(parsed)
    }

    /// `[properties]` as text: strings as they are, everything else as JSON.
    ///
    /// # Errors
    /// A text that names the key.
    pub(super) fn properties(&self) -> Result<BTreeMap<String, String>, String> {
        if self.properties.len() > PROPERTIES_MAX {
            return Err(format!("model.toml: at most {PROPERTIES_MAX} properties are accepted"));
        }
        let mut texts = BTreeMap::new();
        for (key, value) in &self.properties {
            let named = (1..=64).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b));
            if !named {
                return Err(format!(
                    "model.toml: `{}` is not a property's name (1 to 64 of a-z, 0-9, `_`, `.`, `-`)",
                    shown(key)
                ));
            }
            let text = match value {
                toml::Value::String(text) => text.clone(),
                other => serde_json::to_string(other)
                    .map_err(|_| format!("model.toml: property `{key}` has no JSON form"))?,
            };
            if text.len() > VALUE_BYTES_MAX {
                return Err(format!("model.toml: property `{key}` is longer than {VALUE_BYTES_MAX} bytes"));
            }
            texts.insert(key.clone(), text);
        }
        Ok(texts)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn all_keys() {
        let toml = ModelToml::parse(
            br#"
            max_tokens = 128
            labels = { file = "config.min.json", key = "target_labels_space" }
            [roles]
            tokens = "ids"
            segments = "token-types"
            [properties]
            pooling = "mean"
            normalize = true
            offsets = [1024, 0]
            "#,
        )
        .unwrap();
        assert_eq!(toml.max_tokens, Some(128));
        assert_eq!(toml.roles["segments"], Role::TokenTypes);
        assert!(matches!(toml.labels, Some(Labels::File(LabelsFile { key: Some(_), .. }))));
        let properties = toml.properties().unwrap();
        assert_eq!(properties["pooling"], "mean");
        assert_eq!(properties["normalize"], "true");
        assert_eq!(properties["offsets"], "[1024,0]");
    }

    #[test]
    fn wrong_files_are_refused() {
        for bad in [
            "vocab = 1",
            "vocab_size = -1",
            "max_tokens = 0",
            "[roles]\na = \"idz\"",
            "labels = 3",
            "labels = { fil = \"x\" }",
            "=",
        ] {
            assert!(ModelToml::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(ModelToml::parse(b"[properties]\n\"A b\" = 1").unwrap().properties().is_err());
    }
}
