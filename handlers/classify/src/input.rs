//! What a caller may send: bytes as they are, or JSON that holds texts or base64.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mayfly_sdk::Error;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Inputs in one request.
const INPUTS_MAX: usize = 256;

/// Between one and [`INPUTS_MAX`] inputs, each some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inputs(pub(crate) Vec<Vec<u8>>);

#[derive(Deserialize)]
struct Body {
    input: Option<Strings>,
    input_base64: Option<Strings>,
}

/// A string or a list of them, never more than one over [`INPUTS_MAX`].
struct Strings(Vec<String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StringsVisitor)
    }
}

struct StringsVisitor;

impl<'de> Visitor<'de> for StringsVisitor {
    type Value = Strings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<Strings, E> {
        Ok(Strings(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strings, A::Error> {
        let mut strings = Vec::new();
        while let Some(text) = items.next_element()? {
            strings.push(text);
            if strings.len() > INPUTS_MAX {
                while items.next_element::<IgnoredAny>()?.is_some() {}
            }
        }
        Ok(Strings(strings))
    }
}

impl Strings {
    fn checked(self, param: &str) -> Result<Vec<String>, Error> {
        if (1..=INPUTS_MAX).contains(&self.0.len()) {
            return Ok(self.0);
        }
        let problem = if self.0.is_empty() { "is an empty list" } else { "has too many elements" };
        Err(Error::invalid(format!("`{param}` {problem}; send 1 to {INPUTS_MAX}")).with_param(param))
    }
}

/// Whether a content type says JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

impl Inputs {
    /// Reads a body. With `is_json`, an object with `input` or `input_base64` is a list of inputs; everything else is
    /// one input, so that a JSON file can be classified too.
    pub(crate) fn parse(body: Vec<u8>, is_json: bool) -> Result<Self, Error> {
        // Only an object: serde would read a list as one, too.
        if !is_json || !body.trim_ascii_start().starts_with(b"{") {
            return Ok(Self(vec![body]));
        }
        let read = match serde_json::from_slice::<Body>(&body) {
            Ok(read) => read,
            // It has our fields, so it was meant for us.
            Err(error) if error.is_data() => {
                let message = "`input` and `input_base64` take a string or a list of strings";
                return Err(Error::invalid(message).with_param("input"));
            }
            Err(_) => return Ok(Self(vec![body])),
        };
        match (read.input, read.input_base64) {
            (Some(texts), None) => Ok(Self(texts.checked("input")?.into_iter().map(String::into_bytes).collect())),
            (None, Some(encoded)) => encoded
                .checked("input_base64")?
                .iter()
                .enumerate()
                .map(|(at, text)| {
                    STANDARD.decode(text).map_err(|error| {
                        Error::invalid(format!("input_base64[{at}] is not base64: {error}")).with_param("input_base64")
                    })
                })
                .collect::<Result<_, _>>()
                .map(Self),
            (Some(_), Some(_)) => Err(Error::invalid("send `input` or `input_base64`, not both").with_param("input")),
            (None, None) => Ok(Self(vec![body])),
        }
    }

    /// The inputs as texts, for models of text.
    pub(crate) fn into_texts(self) -> Result<Vec<String>, Error> {
        self.0
            .into_iter()
            .enumerate()
            .map(|(at, bytes)| match String::from_utf8(bytes) {
                Ok(text) if text.is_empty() => Err(Error::invalid(format!("input[{at}] is empty")).with_param("input")),
                Ok(text) => Ok(text),
                Err(_) => {
                    let message = format!("input[{at}] is not UTF-8 text, and this model takes text");
                    Err(Error::invalid(message).with_param("input"))
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(body: &str, json: bool, expect: &[&str]) {
        let inputs = Inputs::parse(body.as_bytes().to_vec(), json).unwrap();
        assert_eq!(inputs, Inputs(expect.iter().map(|text| text.as_bytes().to_vec()).collect()), "{body}");
    }

    fn refused(body: &str, param: &str) {
        let error = Inputs::parse(body.as_bytes().to_vec(), true).unwrap_err();
        assert_eq!((error.status(), error.param()), (400, Some(param)), "{body}: {error}");
    }

    #[test]
    fn bytes_stay_as_they_are() {
        check(r#"{"input":"a"}"#, false, &[r#"{"input":"a"}"#]);
        check("", false, &[""]);
    }

    #[test]
    fn json_holds_inputs() {
        check(r#"{"input":"a"}"#, true, &["a"]);
        check(r#"{"input":["a","b"]}"#, true, &["a", "b"]);
        check(r#"{"input_base64":"aGk="}"#, true, &["hi"]);
        check(r#"{"input_base64":["aGk=",""]}"#, true, &["hi", ""]);
    }

    #[test]
    fn a_json_file_is_an_input() {
        check(r#"{"name":"x"}"#, true, &[r#"{"name":"x"}"#]);
        check("[1,2]", true, &["[1,2]"]);
        check(r#"["a","aGk="]"#, true, &[r#"["a","aGk="]"#]);
        check("{broken", true, &["{broken"]);
    }

    #[test]
    fn bad_requests() {
        refused(r#"{"input":5}"#, "input");
        refused(r#"{"input":[]}"#, "input");
        refused(r#"{"input":"a","input_base64":"aGk="}"#, "input");
        refused(r#"{"input_base64":"not base64!"}"#, "input_base64");
        let many = format!(r#"{{"input":[{}]}}"#, vec![r#""a""#; INPUTS_MAX + 1].join(","));
        refused(&many, "input");
        let texts = Inputs(vec![vec![0xff]]).into_texts().unwrap_err();
        assert_eq!(texts.status(), 400);
    }

    #[test]
    fn content_types() {
        assert!(is_json("application/json"));
        assert!(is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("application/x-www-form-urlencoded"));
    }
}
