//! What a caller may ask of a generation: the ranges that are no part of sampling itself, and the error for all of them.

/// Log probabilities of the likeliest tokens at each place.
pub(crate) const LOGPROBS_MAX: u32 = 20;
/// Stop strings of one request.
pub(crate) const STOPS_MAX: usize = 16;
/// Bytes of one stop string.
pub(crate) const STOP_BYTES_MAX: usize = 256;

/// An option of a generation is not possible. The caller's fault; the text names the option and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A value outside its range, or no number.
    #[error("`{parameter}` is {given}; it must be {allowed}")]
    Range {
        /// The option, as the field's clients call it.
        parameter: &'static str,
        /// What was given.
        given: String,
        /// The range.
        allowed: String,
    },
    /// A JSON schema uses something that cannot be enforced token by token.
    #[error("the JSON schema keyword `{keyword}` is not supported (at `{at}`): {reason}")]
    Keyword {
        /// The keyword, or the unknown value of one.
        keyword: String,
        /// Where, as a JSON pointer.
        at: String,
        /// Why, and what to write instead.
        reason: String,
    },
    /// A constraint is larger than a limit, or would cost too much to enforce.
    #[error("the {kind} is too large: {detail}")]
    TooLarge {
        /// Which constraint.
        kind: &'static str,
        /// What is too large, and the limit.
        detail: String,
    },
    /// A constraint that cannot be read or that nothing satisfies.
    #[error("the {kind} cannot be used: {detail}")]
    Unusable {
        /// Which constraint.
        kind: &'static str,
        /// Why.
        detail: String,
    },
    /// This model's vocabulary cannot be constrained.
    #[error("this model cannot generate under a constraint: {0}")]
    Vocabulary(String),
}

impl OptionError {
    pub(crate) fn range(parameter: &'static str, given: impl ToString, allowed: impl Into<String>) -> Self {
        Self::Range { parameter, given: given.to_string(), allowed: allowed.into() }
    }
}

/// Checks how many log probabilities were asked for.
pub(crate) fn check_logprobs(asked: Option<u32>) -> Result<(), OptionError> {
    match asked {
        Some(count) if count > LOGPROBS_MAX => {
            Err(OptionError::range("top_logprobs", count, format!("from 0 to {LOGPROBS_MAX}")))
        }
        _ => Ok(()),
    }
}

/// Checks stop strings: not empty, not too many, not too long.
pub(crate) fn check_stops(stops: &[String]) -> Result<(), OptionError> {
    if stops.len() > STOPS_MAX {
        let given = format!("a list of {} strings", stops.len());
        return Err(OptionError::range("stop", given, format!("at most {STOPS_MAX} strings")));
    }
    for stop in stops {
        if stop.is_empty() || stop.len() > STOP_BYTES_MAX {
            let given = format!("a string of {} bytes", stop.len());
            return Err(OptionError::range("stop", given, format!("strings of 1 to {STOP_BYTES_MAX} bytes")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_of_nothing_is_refused() {
        let refused = check_stops(&[String::new()]).expect_err("empty");
        assert_eq!(refused.to_string(), "`stop` is a string of 0 bytes; it must be strings of 1 to 256 bytes");
        assert!(check_stops(&["x".repeat(257)]).is_err());
        assert!(check_stops(&vec!["x".to_owned(); 17]).is_err());
        assert!(check_stops(&vec!["x".to_owned(); 16]).is_ok());
        assert!(check_stops(&[]).is_ok());
    }

    #[test]
    fn log_probabilities_are_bounded() {
        assert!(check_logprobs(Some(LOGPROBS_MAX)).is_ok());
        assert!(check_logprobs(Some(LOGPROBS_MAX + 1)).expect_err("many").to_string().contains("top_logprobs"));
    }
}
