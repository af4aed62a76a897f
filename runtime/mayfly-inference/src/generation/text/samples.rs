//! Small vocabularies for tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::table::byte_of;

/// Byte-level BPE as in GPT-2 and Qwen: every byte, the given pieces of text (parts of characters too), one added token
/// that is text, and two special ones, the last of which ends a text. Byte `b` is token `b`.
pub(crate) fn byte_level(pieces: &[&[u8]]) -> Tokenizer {
    let character = |byte: u8| ('!'..='\u{143}').find(|character| byte_of(*character) == Some(byte)).unwrap();
    let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
    let names: Vec<String> = bytes
        .iter()
        .map(<[u8; 1]>::as_slice)
        .chain(pieces.iter().copied())
        .map(|piece| piece.iter().map(|byte| character(*byte)).collect())
        .collect();
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    tokenizer(&names, &["<tool call>"], &["<|im_start|>", "<|im_end|>"], &decoder)
}

/// Metaspace with byte tokens, as Llama 2 has it.
pub(crate) fn metaspace(pieces: &[&str]) -> Tokenizer {
    let mut names: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    names.extend(pieces.iter().map(|piece| (*piece).to_owned()));
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    tokenizer(&names, &[], &["<s>", "</s>"], &decoder)
}

/// A tokenizer of these names in this order, then the added and the special tokens.
pub(crate) fn tokenizer(names: &[String], added: &[&str], special: &[&str], decoder: &Value) -> Tokenizer {
    let vocab: Map<String, Value> = names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    assert_eq!(vocab.len(), names.len(), "every name once");
    let more = added.iter().map(|name| (name, false)).chain(special.iter().map(|name| (name, true)));
    let added: Vec<Value> = more
        .enumerate()
        .map(|(index, (name, special))| {
            json!({"id": names.len() + index, "content": name, "special": special, "single_word": false,
                   "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let file = json!({"version": "1.0", "added_tokens": added, "decoder": decoder,
                      "model": {"type": "BPE", "vocab": vocab, "merges": []}});
    Tokenizer::from_bytes(file.to_string()).unwrap()
}
