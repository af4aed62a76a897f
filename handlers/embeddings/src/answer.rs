//! OpenAI's answer.

use std::io::{BufWriter, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mayfly_sdk::{Error, Response};
use serde::Serialize;
use serde::ser::{SerializeSeq, SerializeStruct, Serializer};

use crate::input::Format;

/// Answers with more numbers are written piece by piece instead of being built in memory.
const BUFFERED_NUMBERS_MAX: usize = 1 << 18;
const PIECE_BYTES: usize = 64 << 10;

/// The vectors of one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) model: String,
    pub(crate) tokens: usize,
    pub(crate) format: Format,
}

impl Answer {
    pub(crate) fn into_response(self) -> Result<Response, Error> {
        let numbers: usize = self.vectors.iter().map(Vec::len).sum();
        if numbers <= BUFFERED_NUMBERS_MAX {
            return Response::json(&self);
        }
        let response = Response::stream(move |body| {
            let mut pieces = BufWriter::with_capacity(PIECE_BYTES, body);
            serde_json::to_writer(&mut pieces, &self).map_err(std::io::Error::from)?;
            Ok(pieces.flush()?)
        });
        Ok(response.header("content-type", "application/json"))
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Usage {
            prompt_tokens: usize,
            total_tokens: usize,
        }
        let mut answer = serializer.serialize_struct("Answer", 4)?;
        answer.serialize_field("object", "list")?;
        answer.serialize_field("data", &Data(self))?;
        answer.serialize_field("model", &self.model)?;
        answer.serialize_field("usage", &Usage { prompt_tokens: self.tokens, total_tokens: self.tokens })?;
        answer.end()
    }
}

struct Data<'answer>(&'answer Answer);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Item<T> {
            object: &'static str,
            index: usize,
            embedding: T,
        }
        let mut items = serializer.serialize_seq(Some(self.0.vectors.len()))?;
        for (index, vector) in self.0.vectors.iter().enumerate() {
            let object = "embedding";
            match self.0.format {
                Format::Float => items.serialize_element(&Item { object, index, embedding: vector })?,
                Format::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                    items.serialize_element(&Item { object, index, embedding: STANDARD.encode(bytes) })?;
                }
            }
        }
        items.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: Format) -> String {
        let answer = Answer { vectors: vec![vec![1.0, -0.5], vec![0.25, 0.0]], model: "m".into(), tokens: 7, format };
        serde_json::to_string(&answer).expect("vectors are JSON")
    }

    #[test]
    fn floats() {
        assert_eq!(
            text(Format::Float),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0,-0.5]},{"object":"embedding","index":1,"embedding":[0.25,0.0]}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#
        );
    }

    #[test]
    fn base64_is_little_endian_f32() {
        assert!(text(Format::Base64).contains(r#""index":0,"embedding":"AACAPwAAAL8=""#));
    }
}
