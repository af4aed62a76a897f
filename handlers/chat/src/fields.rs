//! A request's fields, taken out one by one. A field that is `null` is not there, as at OpenAI; each error names its
//! field, what was given, and what to give.

use std::ops::RangeInclusive;

use mayfly_sdk::Error;
use serde_json::{Map, Value};

/// What is left of a request's body.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        match serde_json::from_slice(body)? {
            Value::Object(fields) => Ok(Self(fields)),
            other => Err(Error::invalid(format!("the body is {}, not a JSON object", shown(&other)))),
        }
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unfit(name, &other, "a string")),
        }
    }

    /// False if it is not there.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.choice(name)?.unwrap_or(false))
    }

    pub(crate) fn choice(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(unfit(name, &other, "`true` or `false`")),
        }
    }

    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64().filter(|number| range.contains(number)) {
            #[expect(clippy::cast_possible_truncation, reason = "its range is small")]
            Some(number) => Ok(Some(number as f32)),
            None => Err(unfit(name, &value, &format!("a number from {} to {}", range.start(), range.end()))),
        }
    }

    pub(crate) fn count(&mut self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|count| range.contains(count));
        let wanted = || match *range.end() {
            u32::MAX => format!("a whole number from {} on", range.start()),
            most => format!("a whole number from {} to {most}", range.start()),
        };
        count.map(Some).ok_or_else(|| unfit(name, &value, &wanted()))
    }

    /// Refuses fields that would change the answer and that nothing is done with; `features` are names and ways out.
    ///
    /// # Errors
    /// A 400 for the first that asks for anything: `null`, `false`, `0` and what is empty ask for nothing.
    pub(crate) fn refuse(&self, features: &[(&str, &str)]) -> Result<(), Error> {
        for &(name, way_out) in features {
            if self.get(name).is_some_and(|value| !asks_for_nothing(value)) {
                let message = format!("`{name}` is not supported here; {way_out}");
                return Err(Error::invalid(message).with_param(name).with_code("unsupported_parameter"));
            }
        }
        Ok(())
    }
}

/// A field that is missing.
pub(crate) fn missing(param: &str, wanted: &str) -> Error {
    Error::invalid(format!("`{param}` is missing; give {wanted}")).with_param(param)
}

/// A field that is `given` and should be `wanted`.
pub(crate) fn unfit(param: &str, given: &Value, wanted: &str) -> Error {
    Error::invalid(format!("`{param}` is {}; give {wanted}", shown(given))).with_param(param)
}

/// A value as an error shows it: short, whatever was sent.
fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 40;
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => {
            let text = other.to_string();
            match text.char_indices().nth(CHARS_MAX) {
                Some((cut, _)) => format!("{}...", &text[..cut]),
                None => text,
            }
        }
    }
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn null_is_not_there() {
        let mut fields = fields(r#"{"a":null,"b":null,"c":null}"#);
        assert_eq!(fields.text("a"), Ok(None));
        assert_eq!(fields.flag("b"), Ok(false));
        assert_eq!(fields.number("c", 0.0..=1.0), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let check = |json: &str, part: &str| {
            let mut fields = fields(json);
            let error = fields
                .text("text")
                .map(drop)
                .and_then(|()| fields.flag("flag").map(drop))
                .and_then(|()| fields.number("number", -2.0..=2.0).map(drop))
                .and_then(|()| fields.count("count", 1..=128).map(drop))
                .unwrap_err();
            assert_eq!(error.status(), 400);
            assert!(error.message().contains(part), "{error}");
            assert!(error.message().contains(error.param().unwrap()), "{error}");
        };
        check(r#"{"text":5}"#, "5; give a string");
        check(r#"{"text":[1,2]}"#, "a list");
        check(r#"{"flag":"true"}"#, "`true` or `false`");
        check(r#"{"number":2.5}"#, "from -2 to 2");
        check(r#"{"number":"1"}"#, "from -2 to 2");
        check(r#"{"count":0}"#, "from 1 to 128");
        check(r#"{"count":-1}"#, "from 1 to 128");
        check(r#"{"count":1.5}"#, "from 1 to 128");
        check(r#"{"count":99999999999}"#, "from 1 to 128");
        check(&format!(r#"{{"number":"{}"}}"#, "ü".repeat(1000)), "...;");
    }

    #[test]
    fn a_body_is_an_object() {
        for body in ["", "[]", "1", "{", "nul", "{\"a\":1e999}"] {
            let error = Fields::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.status(), 400, "{body}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Fields::parse(deep.as_bytes()).unwrap_err().status(), 400);
    }

    #[test]
    fn features_are_refused_once_they_are_asked_for() {
        let table = [("audio", "ask for text")];
        for neutral in ["null", "false", "0", "\"\"", "[]", "{}"] {
            assert_eq!(fields(&format!(r#"{{"audio":{neutral}}}"#)).refuse(&table), Ok(()), "{neutral}");
        }
        let error = fields(r#"{"audio":{"voice":"x"}}"#).refuse(&table).unwrap_err();
        assert_eq!((error.status(), error.param(), error.code()), (400, Some("audio"), "unsupported_parameter"));
    }
}
