//! JSON as Python's `json.dumps` writes it, which is what templates were written against.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// `value` as text: on one line, `, ` and `: ` between things unless other separators are given; or indented.
pub(super) fn dumps(
    value: &impl Serialize,
    indent: Option<usize>,
    separators: Option<(&str, &str)>,
) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    if let Some(indent) = indent {
        let spaces = vec![b' '; indent];
        let formatter = PrettyFormatter::with_indent(&spaces);
        value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    } else {
        let (item, key) = separators.unwrap_or((", ", ": "));
        value.serialize(&mut Serializer::with_formatter(&mut bytes, OneLine { item, key }))?;
    }
    String::from_utf8(bytes).map_err(|error| serde_json::Error::io(io::Error::other(error)))
}

struct OneLine<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for OneLine<'_> {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_python_writes_it() {
        let value = json!({"b": [1, 2.0, "é<\n"], "a": {}, "c": null});
        assert_eq!(dumps(&value, None, None).unwrap(), r#"{"b": [1, 2.0, "é<\n"], "a": {}, "c": null}"#);
        assert_eq!(dumps(&value, None, Some((",", ":"))).unwrap(), r#"{"b":[1,2.0,"é<\n"],"a":{},"c":null}"#);
        assert_eq!(dumps(&json!({"a": [1]}), Some(2), None).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }
}
