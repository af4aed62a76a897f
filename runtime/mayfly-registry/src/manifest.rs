//! `mayfly.toml`, beside a handler. Unknown keys are errors.

use std::collections::BTreeMap;
use std::fmt;

use mayfly_types::{FilterSpec, GuestLimits, Name, ScaleSpec};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Bytes of a manifest.
const MANIFEST_BYTES_MAX: usize = 256 * 1024;

/// The manifest is not one of ours.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(pub String);

/// A granted model: `alias = "name"`, or a table with more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ModelEntry {
    /// The registered name; runs on the CPU.
    Name(Name),
    /// The registered name and where it runs.
    Table(ModelTable),
}

// By hand, because an untagged enum answers every mistake with "did not match any variant".
impl<'de> Deserialize<'de> for ModelEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = ModelEntry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a model's name or a table such as { model = \"name\", device = \"cpu\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ModelEntry, E> {
                text.parse().map(ModelEntry::Name).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelEntry, A::Error> {
                ModelTable::deserialize(MapAccessDeserializer::new(map)).map(ModelEntry::Table)
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

impl ModelEntry {
    /// The long form; the short one takes the defaults.
    pub fn table(&self) -> ModelTable {
        match self {
            Self::Name(model) => {
                ModelTable { model: model.clone(), device: mayfly_inference::Device::default(), all_positions: false }
            }
            Self::Table(table) => table.clone(),
        }
    }
}

/// The long form of a granted model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// The registered name.
    pub model: Name,
    /// `cpu` or `cuda`.
    #[serde(default)]
    pub device: mayfly_inference::Device,
    /// Hand out every position of a decoder's outputs.
    #[serde(default)]
    pub all_positions: bool,
}

/// How `mayfly deploy` builds the handler first. Never run by the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Run by the shell in the manifest's folder.
    pub command: String,
}

/// A deployment, as its developer writes it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The deployment's name.
    pub name: Name,
    /// A path beside the manifest, or `builtin:NAME`.
    pub handler: String,
    /// By alias.
    #[serde(default)]
    pub models: BTreeMap<Name, ModelEntry>,
    /// For `wasi:config`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What a call may use.
    #[serde(default)]
    pub limits: GuestLimits,
    /// What generated text may not say.
    #[serde(default, skip_serializing_if = "FilterSpec::is_empty")]
    pub filter: FilterSpec,
    /// Whether all callers of the deployment go on from each other's prompts. How fast a first token comes then tells a
    /// caller whether another one has sent the same prompt.
    #[serde(default)]
    pub share_prefixes: bool,
    /// How many calls run at once, how many wait, and what is kept warm.
    #[serde(default, skip_serializing_if = "ScaleSpec::is_empty")]
    pub scale: ScaleSpec,
    /// How to build it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
}

impl Manifest {
    /// Reads a manifest and checks what can be checked without a host.
    ///
    /// # Errors
    /// [`ManifestError`] with the line, or with all values that are out of range.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError(format!("mayfly.toml is longer than {MANIFEST_BYTES_MAX} bytes")));
        }
        let manifest: Self = toml::from_str(text)
            .map_err(|error| ManifestError(format!("mayfly.toml: {}", error.to_string().trim_end())))?;
        let mut problems = Vec::new();
        if let Err(limits) = manifest.limits.validate() {
            problems.extend(limits.iter().map(ToString::to_string));
        }
        if let Err(filter) = manifest.filter.validate() {
            problems.extend(filter.iter().map(ToString::to_string));
        }
        if let Err(scale) = manifest.scale.validate() {
            problems.extend(scale.iter().map(ToString::to_string));
        }
        match manifest.handler.strip_prefix("builtin:") {
            Some(name) if name.parse::<Name>().is_err() => {
                problems.push(format!("handler `builtin:{}` names no built-in handler", name.escape_debug()));
            }
            None if manifest.handler.is_empty() => {
                problems.push("handler is empty (expected a path or `builtin:NAME`)".to_owned());
            }
            _ => {}
        }
        if problems.is_empty() {
            Ok(manifest)
        } else {
            Err(ManifestError(format!("mayfly.toml: {}", problems.join("; "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use mayfly_inference::Device;

    use super::*;

    fn refused(text: &str, parts: &[&str]) {
        let error = Manifest::parse(text).expect_err(text).to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn a_whole_manifest() {
        let text = r#"
            name = "embedder"
            handler = "target/handler.wasm"
            share_prefixes = true
            [models]
            encoder = "minilm"
            ranker = { model = "ranker-v2", device = "cuda", all_positions = true }
            [config]
            pooling = "mean"
            [limits]
            guest_cpu_ms_max = 250
            [filter]
            block = ["hunter2", "Grüße"]
            [scale]
            reuse = 100
            min_warm = 1
            concurrency_max = 4
            queue_max = 8
            [build]
            command = "cargo build"
        "#;
        let manifest = Manifest::parse(text).expect("it is whole");
        assert_eq!(manifest.limits.guest_cpu_ms_max, 250);
        assert_eq!((manifest.filter.block.len(), manifest.share_prefixes), (2, true));
        assert_eq!(
            manifest.scale,
            ScaleSpec {
                concurrency_max: Some(4),
                queue_max: Some(8),
                reuse: Some(100),
                instance_idle_ms: None,
                min_warm: Some(1),
            }
        );
        assert_eq!(manifest.models["encoder"].table().device, Device::Cpu);
        let ranker = manifest.models["ranker"].table();
        assert_eq!((ranker.model.as_str(), ranker.device, ranker.all_positions), ("ranker-v2", Device::Cuda, true));
        let again = toml::to_string(&manifest).expect("it can be written");
        assert_eq!(Manifest::parse(&again).expect("and read"), manifest);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        refused("name = \"a\"\nhandler = \"h\"\nmemory = 1\n", &["line 3", "memory"]);
        refused("name = \"A B\"\nhandler = \"h\"\n", &["line 1", "A B"]);
        refused("name = \"a\"\nhandler = \"h\"\n[models]\nm = 3\n", &["line 4", "a model's name or a table"]);
        refused("name = \"a\"\nhandler = \"h\"\n[models]\nm = { model = \"x\", gpu = 1 }\n", &["line 4", "gpu"]);
        refused("name = \"a\"\nhandler = \"h\"\n[filter]\nblocked = []\n", &["line 4", "blocked"]);
        refused("name = \"a\"\n", &["handler"]);
        refused("name = ", &["line 1"]);
    }

    #[test]
    fn values_out_of_range_come_together() {
        let text = "name = \"a\"\nhandler = \"\"\n[limits]\nmemory_bytes_max = 1\ndeadline_ms_max = 0\n[filter]\nblock = [\"\"]\n";
        refused(text, &["memory_bytes_max", "deadline_ms_max", "handler is empty", "text 0 of filter.block is empty"]);
        refused(&"#".repeat(MANIFEST_BYTES_MAX + 1), &["longer than"]);
    }
}
