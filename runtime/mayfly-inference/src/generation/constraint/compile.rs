//! From a constraint to a matcher, within limits.

use std::thread;

use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use serde_json::json;

use super::{CHOICES_MAX, CONSTRAINT_BYTES_MAX, Constraint, Matcher, schema};
use crate::generation::OptionError;

/// The compilers descend into what they read, a few KiB of stack for each level, and [`CONSTRAINT_BYTES_MAX`] admits
/// thousands of levels (rules that name rules). Reserved, not used, by ordinary constraints.
const COMPILE_STACK: usize = 512 << 20;
/// Characters of the library's text in an error.
const DETAIL_CHARS_MAX: usize = 300;

pub(super) fn matcher(factory: &ParserFactory, constraint: &Constraint) -> Result<Matcher, OptionError> {
    let kind = constraint.kind();
    let grammar = grammar(constraint)?;
    let compiled = thread::scope(|scope| {
        let work = || {
            // The library asserts what it expects; a panic of it is a constraint it cannot take.
            let matcher = catch_unwind(std::panic::AssertUnwindSafe(|| {
                Ok(llguidance::Matcher::new(factory.create_parser(grammar)))
            }));
            matcher.map_err(|error| error.to_string()).and_then(|matcher| Matcher::new(matcher, kind))
        };
        let thread = thread::Builder::new().name("constraint".to_owned()).stack_size(COMPILE_STACK);
        match thread.spawn_scoped(scope, work) {
            Ok(handle) => handle.join().unwrap_or_else(|_| Err("panic".to_owned())),
            Err(error) => Err(format!("this host could not start a thread for it ({})", error.kind())),
        }
    });
    compiled.map_err(|detail| refused(kind, &detail))
}

fn grammar(constraint: &Constraint) -> Result<TopLevelGrammar, OptionError> {
    let kind = constraint.kind();
    let bounded = |bytes: usize| match bytes {
        0 => Err(OptionError::Unusable { kind, detail: "it is empty".to_owned() }),
        1..=CONSTRAINT_BYTES_MAX => Ok(()),
        _ => Err(OptionError::TooLarge { kind, detail: format!("{bytes} bytes; at most {CONSTRAINT_BYTES_MAX}") }),
    };
    Ok(match constraint {
        Constraint::JsonObject => TopLevelGrammar::from_json_schema(schema::finish(json!({"type": "object"}))),
        Constraint::JsonSchema(text) => {
            bounded(text.len())?;
            TopLevelGrammar::from_json_schema(schema::read(text)?)
        }
        Constraint::Regex(expression) => {
            bounded(expression.len())?;
            TopLevelGrammar::from_regex(expression)
        }
        Constraint::Choice(choices) => {
            if choices.len() > CHOICES_MAX {
                let detail = format!("{} choices; at most {CHOICES_MAX}", choices.len());
                return Err(OptionError::TooLarge { kind, detail });
            }
            if choices.iter().any(String::is_empty) {
                return Err(OptionError::Unusable { kind, detail: "one of them is empty".to_owned() });
            }
            bounded(choices.iter().map(String::len).sum())?;
            // JSON's way to quote is Lark's. One terminal, so that a choice may begin like another.
            let quoted: Vec<String> = choices.iter().map(|choice| json!(choice).to_string()).collect();
            TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}\n", quoted.join(" | ")))
        }
        Constraint::Grammar(lark) => {
            bounded(lark.len())?;
            TopLevelGrammar::from_lark(lark.clone())
        }
    })
}

/// What the library said, as an error that a caller may read.
fn refused(kind: &'static str, detail: &str) -> OptionError {
    tracing::debug!(kind, detail, "a constraint was refused");
    // A panic's text has a backtrace with this host's paths.
    if detail.contains("panic") {
        return OptionError::Unusable { kind, detail: "the grammar compiler cannot take it".to_owned() };
    }
    let first = detail.trim().lines().next().unwrap_or_default();
    let text: String = first.chars().take(DETAIL_CHARS_MAX).collect();
    if let Some((_, format)) = text.split_once("Unknown format: ") {
        return schema::unsupported("format", "#", &format!("the format `{}` is not known", format.trim()));
    }
    if text.contains("oneOf constraints are not supported") {
        return schema::unsupported("oneOf", "#", schema::ONE_OF);
    }
    let limits = ["too large", "too big", "too complex", "limit", "fuel", "too deeply", "stack level", "too many"];
    match limits.iter().any(|word| text.to_ascii_lowercase().contains(word)) {
        true => OptionError::TooLarge { kind, detail: text },
        false => OptionError::Unusable { kind, detail: text },
    }
}
