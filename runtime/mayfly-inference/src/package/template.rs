//! The chat template of a package: where it stands among the files, and what is kept of it in `package.json`.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::facts::token_text;
use super::store::Staged;

/// Bytes of one template (`chat_template_bytes_max`). The largest in use are about 20 KB.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Variables of a template that are tokens.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];

/// Templates as the files have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TemplateSource {
    pub(crate) default: String,
    /// The one for chats with tools, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tool_use: Option<String>,
    /// `bos_token` and its like, as text.
    pub(crate) tokens: BTreeMap<String, String>,
}

/// The templates of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatTemplate {
    pub(crate) source: TemplateSource,
    pub(crate) has_tools: bool,
}

impl From<TemplateSource> for ChatTemplate {
    fn from(source: TemplateSource) -> Self {
        let word = |c: char| !(c.is_alphanumeric() || c == '_');
        let has_tools = source.tool_use.is_some() || source.default.split(word).any(|word| word == "tools");
        Self { source, has_tools }
    }
}

impl TemplateSource {
    /// Looks in `chat_template.jinja`, `tokenizer_config.json` and `chat_template.json`, in this order.
    ///
    /// # Errors
    /// The inner text says why the templates cannot be used; the model can still be.
    pub(super) fn find(staged: &Staged) -> io::Result<Result<Option<Self>, String>> {
        // Files that are no JSON have been refused before, where they matter.
        let json = |path: &str| -> io::Result<Value> {
            Ok(staged.read(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
        };
        let config = json("tokenizer_config.json")?;
        let special = json("special_tokens_map.json")?;
        let mut named = BTreeMap::new();
        if let Some(bytes) = staged.read("chat_template.jinja")? {
            let Ok(text) = String::from_utf8(bytes) else {
                return Ok(Err("`chat_template.jinja` is not UTF-8".to_owned()));
            };
            named.insert("default".to_owned(), text);
        }
        for from in [&config, &json("chat_template.json")?] {
            if named.is_empty() {
                named = templates(from.get("chat_template"));
            }
        }
        let tool_use = named.remove("tool_use");
        let only = if named.len() == 1 { named.pop_first().map(|(_, text)| text) } else { None };
        let Some(default) = named.remove("default").or(only).or_else(|| tool_use.clone()) else {
            return Ok(Ok(None));
        };
        let longest = default.len().max(tool_use.as_ref().map_or(0, String::len));
        if longest > TEMPLATE_BYTES_MAX {
            return Ok(Err(format!("the template has {longest} bytes; at most {TEMPLATE_BYTES_MAX} are accepted")));
        }
        let text = |key: &str| [&config, &special].into_iter().find_map(|from| token_text(from.get(key)?));
        let tokens = TOKENS.iter().filter_map(|key| Some(((*key).to_owned(), text(key)?.to_owned()))).collect();
        Ok(Ok(Some(Self { default, tool_use, tokens })))
    }
}

/// A string, or a list of templates with names.
fn templates(value: Option<&Value>) -> BTreeMap<String, String> {
    let entry =
        |entry: &Value| Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()));
    match value {
        Some(Value::String(text)) => BTreeMap::from([("default".to_owned(), text.clone())]),
        Some(Value::Array(list)) => list.iter().filter_map(entry).collect(),
        _ => BTreeMap::new(),
    }
}
