//! What Hugging Face gives to templates beside Jinja itself.

use std::fmt;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};

use super::json::dumps;

const INDENT_MAX: usize = 16;

/// A template's own refusal, on the way through the engine.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Adds functions, filters and Python's string methods to `env`.
pub(super) fn add(env: &mut Environment<'static>) {
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    env.add_function("strftime_now", |format: String| -> Result<String, Error> {
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        jiff::fmt::strtime::format(&format, &now)
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
    });
    env.add_filter("tojson", tojson);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_formatter(as_python);
}

/// Characters beyond ASCII stay as they are, as Hugging Face has it.
fn tojson(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let fault = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let sorted = kwargs.get::<Option<bool>>("sort_keys")? == Some(true);
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(fault("tojson: the value is undefined".to_owned()));
    }
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        return Err(fault(format!("tojson: indent is at most {INDENT_MAX}")));
    }
    let separators = match separators.as_deref() {
        None => None,
        Some([item, key]) => Some((item.as_str(), key.as_str())),
        Some(_) => return Err(fault("tojson: separators are two strings".to_owned())),
    };
    let text = if sorted {
        let mut sorted = serde_json::to_value(&value).map_err(|error| fault(format!("tojson: {error}")))?;
        sorted.sort_all_objects();
        dumps(&sorted, indent, separators)
    } else {
        dumps(&value, indent, separators)
    };
    text.map_err(|error| fault(format!("tojson: {error}")))
}

/// Python's names of the values that Jinja prints by name.
fn as_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(text).map_err(Error::from)
}
